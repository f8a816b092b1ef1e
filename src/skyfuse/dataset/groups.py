"""Which objects may not be parted: those that share sky, and those whose inputs are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching
from scipy.spatial import cKDTree

from skyfuse.sphere import chord, unit_vectors

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LARGEST_GROUP = 0.1
"""A group that holds a greater share of the objects than this is cut: it could not be placed without bias."""

PIXEL_ARCSEC = 0.396
"""SDSS native pixel scale, arcsec."""
FIBRE_ARCSEC = 3.0
"""Diameter of an SDSS fibre: what is closer than this is taken for one object."""
NEIGHBOUR_ARCSEC = 30.0
"""Objects closer than this may share light: the halo of a bright one and the arms of a nearby galaxy fill the
fibre, and the aperture, of the other, and catalogues cut blends of this size apart."""
CROWDED_ARCSEC = 2 * FIBRE_ARCSEC
"""The same where the sky is crowded, see `sky_groups`: fibres that touch in the wings of the seeing."""
WINDOW_ARCSEC = 5.0
"""Gaia's BP/RP windows, 3.5″ × 2.1″ and turned with each scan, have no sample in common beyond this."""
IMAGE_ARCSEC = 120.0
"""Diagonal of a colour image whose size on the sky is not told."""
IMAGE_RADII = 8.48 * np.sqrt(2)
"""Diagonal of a Galaxy Zoo 2 image over petroR90_r (Willett et al. 2013, section 2.3)."""
# A cutout starts on a whole pixel, so two cutouts lie up to one pixel closer to each other than their objects
# do; a second pixel covers distortion and the bands' own scales (0.3959 to 0.3963 arcsec).
_MARGIN_PIXELS = 2

# Pairs of which more an object, and more in all, are not listed.
_MOST_NEIGHBOURS, _FEW = 10, 1_000_000
# Share of all objects in groups to be cut above which the sky is crowded.
_CROWDED = 0.5

_CUT_DIRECTIONS = 6
_CUT_POSITIONS = 5


def overlapping_pairs(
    ra: ArrayLike,
    dec: ArrayLike,
    size: int,
    angle: ArrayLike | None = None,
    *,
    pixel_arcsec: float = PIXEL_ARCSEC,
) -> NDArray[np.int64]:
    """Return the pairs of objects whose square cutouts may share a pixel.

    Parameters
    ----------
    ra, dec : array, shape (n,)
        Degrees.
    size : int
        Side of the cutouts in native pixels.
    angle : array, shape (n,), optional
        Orientation of each object's frame: degrees from its pixel axis to east. Two squares of known
        orientation overlap if no edge direction of either separates them (separating-axis theorem); without
        it the squares' circumscribed circles decide, which holds for any rotation.
    pixel_arcsec : float
        Width of a native pixel.

    Returns
    -------
    ndarray of int64, shape (m, 2)
    """
    v = unit_vectors(ra, dec)
    side = (size + _MARGIN_PIXELS) * pixel_arcsec
    reach = float(chord(side * np.sqrt(2) / 3600))
    pairs: IntArray = cKDTree(v).query_pairs(reach, output_type="ndarray").astype(np.int64)
    if angle is None or not len(pairs):
        return pairs
    theta = np.radians(np.asarray(angle, dtype=np.float64))
    i, j = pairs.T
    middle = v[i] + v[j]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    east = np.stack([-middle[:, 1], middle[:, 0], np.zeros(len(middle))], axis=1)
    east /= np.maximum(np.linalg.norm(east, axis=1, keepdims=True), 1e-300)
    north = np.cross(middle, east)
    delta = np.degrees(v[j] - v[i]) * 3600
    dx, dy = (delta * east).sum(axis=1), (delta * north).sum(axis=1)
    turn = theta[j] - theta[i]
    limit = side / 2 * (1 + np.abs(np.cos(turn)) + np.abs(np.sin(turn)))
    separated = np.zeros(len(pairs), dtype=bool)
    for direction in (theta[i], theta[j]):
        c, s = np.cos(direction), np.sin(direction)
        separated |= (np.abs(c * dx + s * dy) >= limit) | (np.abs(c * dy - s * dx) >= limit)
    # NaN compares false: an object of unknown orientation keeps the circle's verdict.
    return pairs[~separated]


def _distinct(pairs: IntArray, n: int) -> IntArray:
    """Return pairs of n objects in order, each once."""
    code = np.unique(pairs.min(axis=1) * n + pairs.max(axis=1))
    return np.stack([code // n, code % n], axis=1)


def _components(n: int, pairs: IntArray) -> IntArray:
    graph = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _vertex_cover(left: IntArray, right: IntArray, n: int) -> IntArray:
    """Return fewest vertices touching all edges left[k]-right[k] of a bipartite graph (König's theorem)."""
    graph = csr_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n))
    partner_of_left = maximum_bipartite_matching(graph, perm_type="column")
    partner_of_right = np.full(n, -1)
    matched = np.flatnonzero(partner_of_left >= 0)
    partner_of_right[partner_of_left[matched]] = matched
    has_edges = np.unique(left)
    seen_left, seen_right = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    front = has_edges[partner_of_left[has_edges] < 0]
    while len(front):
        seen_left[front] = True
        reached = np.unique(graph[front].indices)
        reached = reached[~seen_right[reached]]
        seen_right[reached] = True
        # A reached right vertex is matched, or the matching would not be of maximum size.
        front = partner_of_right[reached]
        front = front[~seen_left[front]]
    return np.concatenate([has_edges[~seen_left[has_edges]], np.flatnonzero(seen_right)]).astype(np.int64)


def _best_cut(v: FloatArray, pairs: IntArray, limit: int) -> IntArray:
    """Return the members to drop so that a straight line divides one component, losing as few as possible."""
    n = len(v)
    pieces = int(np.ceil(n / limit))
    axes = np.linalg.svd(v - v.mean(axis=0), full_matrices=False)[2][:2]
    left_sizes = np.unique(
        np.concatenate(
            [
                np.linspace(max(1, n - (pieces - k) * limit), min(k * limit, n - 1), _CUT_POSITIONS)
                for k in range(1, pieces)
            ]
        ).astype(np.int64)
    )
    covers: list[IntArray] = []
    for phi in np.arange(_CUT_DIRECTIONS) * np.pi / _CUT_DIRECTIONS:
        along = np.argsort(v @ (np.cos(phi) * axes[0] + np.sin(phi) * axes[1]), kind="stable")
        rank = np.empty(n, dtype=np.int64)
        rank[along] = np.arange(n)
        ranked = np.sort(rank[pairs], axis=1)
        for size in left_sizes:
            crossing = ranked[(ranked[:, 0] < size) & (ranked[:, 1] >= size)]
            members, edges = np.unique(crossing, return_inverse=True)
            edges = edges.reshape(-1, 2)
            covers.append(along[members[_vertex_cover(edges[:, 0], edges[:, 1], len(members))]])
    return min(covers, key=len)


def _groups(
    ra: ArrayLike, dec: ArrayLike, pairs: IntArray, largest: int
) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return groups of objects that share sky, none greater than `largest`.

    A larger one is cut along straight lines; the fewest objects that hold pixels of both sides are given up.

    Parameters
    ----------
    ra, dec : array, shape (n,)
        Degrees.
    pairs : ndarray of int64, shape (m, 2)
        Objects that share sky, from `overlapping_pairs`.
    largest : int
        Most objects of one group.

    Returns
    -------
    group : ndarray of int64, shape (n,)
        Number of each object's group.
    dropped : ndarray of bool, shape (n,)
        True for the objects given up.
    """
    v = unit_vectors(ra, dec)
    dropped = np.zeros(len(v), dtype=bool)
    while True:
        pairs = pairs[~dropped[pairs].any(axis=1)]
        group = _components(len(v), pairs)
        too_large = np.flatnonzero(np.bincount(group, minlength=1) > largest)
        if not len(too_large):
            return group, dropped
        group_of_pair = group[pairs[:, 0]]
        for number in too_large:
            members = np.flatnonzero(group == number)
            local = np.searchsorted(members, pairs[group_of_pair == number])
            dropped[members[_best_cut(v[members], local, largest)]] = True


def near_pairs(ra: ArrayLike, dec: ArrayLike, reach: ArrayLike, *, limited: bool = False) -> IntArray | None:
    """Return the pairs of objects no farther apart than the mean of their reaches.

    With `limited`, None if they are too many, more than ten an object: beyond 4.5 neighbours each, objects
    scattered at random hang together without end (Quintanilla, Torquato & Ziff 2000, J. Phys. A 33, L399).

    Parameters
    ----------
    ra, dec : array, shape (n,)
        Degrees.
    reach : float or array, shape (n,)
        Arcsec.
    limited : bool

    Returns
    -------
    ndarray of int64, shape (m, 2), or None
    """
    v = unit_vectors(ra, dec)
    each = np.broadcast_to(np.asarray(reach, dtype=np.float64), len(v))
    tree, widest = cKDTree(v), float(each.max(initial=0.0))
    furthest = float(chord(widest / 3600))
    most = max(_FEW, _MOST_NEIGHBOURS * len(v))
    if (each == widest).all():
        if limited and tree.count_neighbors(tree, furthest) - len(v) > 2 * most:
            return None
        return np.asarray(tree.query_pairs(furthest, output_type="ndarray"), dtype=np.int64)
    # Of each pair the one of the wider reach finds the other.
    radius = chord(each / 3600)
    if limited and int(tree.query_ball_point(v, radius, return_length=True).sum()) - len(v) > 2 * most:
        return None
    found = tree.query_ball_point(v, radius)
    i = np.repeat(np.arange(len(v)), [len(near) for near in found])
    j = np.fromiter((k for near in found for k in near), np.int64, len(i))
    apart = np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(v[i] - v[j], axis=1) / 2, 1))) * 3600
    near = (i != j) & (apart <= (each[i] + each[j]) / 2)
    return _distinct(np.stack([i[near], j[near]], axis=1), len(v))


def sky_groups(
    object_ids: ArrayLike,
    ra: ArrayLike,
    dec: ArrayLike,
    *,
    size: int = 64,
    pixel_arcsec: float = PIXEL_ARCSEC,
    angle: ArrayLike | None = None,
    apart: ArrayLike = 0.0,
) -> tuple[IntArray, bool]:
    """Return the number of the group of objects that share sky, for each object; −1 for those given up.

    Objects whose cutouts may share a pixel, or that are close enough to share light, form one group. One that
    holds more than a tenth of all objects could not be placed without bias: it is cut along straight lines,
    and the fewest objects with neighbours on both sides are given up. Where by closeness more than half of
    all objects would stand in groups to be cut, the sky is crowded, a few pieces would be all that is left to
    share out, and `CROWDED_ARCSEC` counts, or, where that is too much, `FIBRE_ARCSEC`; pixels are never
    shared. The result does not depend on the order of the rows.

    Parameters
    ----------
    object_ids : array of str, shape (n,)
        Unique.
    ra, dec : array, shape (n,)
        Degrees.
    size : int
        Side of the cutouts in native pixels; 0 if the dataset holds no cutouts.
    pixel_arcsec : float
        Width of a native pixel.
    angle : array, shape (n,), optional
        Orientation of each object's frame, see `overlapping_pairs`.
    apart : float or array, shape (n,)
        Distance up to which objects share light, arcsec, see `near_pairs`; 0 if they do not.

    Returns
    -------
    group : ndarray of int64, shape (n,)
    crowded : bool
        Whether `apart` was lowered.
    """
    order = np.argsort(np.asarray(object_ids, dtype=str), kind="stable")
    ra, dec = np.asarray(ra, dtype=np.float64)[order], np.asarray(dec, dtype=np.float64)[order]
    turned = None if angle is None else np.asarray(angle, dtype=np.float64)[order]
    reach = np.broadcast_to(np.asarray(apart, dtype=np.float64), len(order))[order]
    largest = max(2, int(LARGEST_GROUP * len(order)))
    pairs = np.empty((0, 2), dtype=np.int64)
    if size:
        pairs = overlapping_pairs(ra, dec, size, turned, pixel_arcsec=pixel_arcsec)
    crowded = False
    if reach.any():
        pairs, crowded = _with_neighbours(ra, dec, reach, pairs, largest)
    group, dropped = _groups(ra, dec, pairs, largest)
    out = np.full(len(order), -1, dtype=np.int64)
    out[order[~dropped]] = np.unique(group[~dropped], return_inverse=True)[1]
    return out, crowded


def _with_neighbours(
    ra: FloatArray, dec: FloatArray, reach: FloatArray, pairs: IntArray, largest: int
) -> tuple[IntArray, bool]:
    """Return pairs and, of the neighbours that share light, those that the crowding of the sky allows."""
    for limit in (np.inf, CROWDED_ARCSEC, FIBRE_ARCSEC):
        near = near_pairs(ra, dec, np.minimum(reach, limit), limited=limit > FIBRE_ARCSEC)
        if near is None:
            continue
        both = _distinct(np.concatenate([pairs, near]), len(ra))
        sizes = np.bincount(_components(len(ra), both), minlength=1)
        if sizes[sizes > largest].sum() <= _CROWDED * len(ra):
            break
    return both, limit < np.inf


def equal_groups(n: int, *keys: ArrayLike) -> IntArray:
    """Return the number of the group of rows that are the same object, for each row.

    Two rows are one object where any of their keys are equal.

    Parameters
    ----------
    n : int
        Number of rows.
    *keys : array of int, shape (n,)
        Negative where nothing is known of a row.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for key in keys:
        code = np.asarray(key)
        order = np.argsort(code, kind="stable")
        order = order[code[order] >= 0]
        same = np.flatnonzero(np.diff(code[order]) == 0)
        pairs.append(np.stack([order[same], order[same + 1]], axis=1))
    return _components(n, np.concatenate(pairs))
