"""Which objects may not be parted: those that share sky, and those whose inputs are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching
from scipy.spatial import cKDTree

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LARGEST_GROUP = 0.1
"""A group that holds a greater share of the objects than this is cut: it could not be placed without bias."""

PIXEL_ARCSEC = 0.396
"""SDSS native pixel scale, arcsec."""
FIBRE_ARCSEC = 3.0
"""Diameter of an SDSS fibre: spectra closer than this saw the same sky."""
# A cutout starts on a whole pixel, so two cutouts lie up to one pixel closer to each other than their objects
# do; a second pixel covers distortion and the bands' own scales (0.3959 to 0.3963 arcsec).
_MARGIN_PIXELS = 2

_CUT_DIRECTIONS = 6
_CUT_POSITIONS = 5


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> FloatArray:
    """Return directions as unit vectors, shape (n, 3), from degrees."""
    a, d = np.radians(np.asarray(ra, dtype=np.float64)), np.radians(np.asarray(dec, dtype=np.float64))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def chord(arcsec: float) -> float:
    """Return the straight-line distance on the unit sphere of an angle in arcsec."""
    return float(2 * np.sin(np.radians(arcsec / 3600) / 2))


def overlapping_pairs(
    ra: ArrayLike, dec: ArrayLike, size: int, angle: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the pairs of objects whose square cutouts may share a pixel.

    Parameters
    ----------
    ra, dec : array, shape (n,)
        Degrees.
    size : int
        Side of the cutouts in native pixels; 0 for spectra alone (pairs within one fibre).
    angle : array, shape (n,), optional
        Orientation of each object's frame: degrees from its pixel axis to east. Two squares of known
        orientation overlap if no edge direction of either separates them (separating-axis theorem); without
        it the squares' circumscribed circles decide, which holds for any rotation.

    Returns
    -------
    ndarray of int64, shape (m, 2)
    """
    v = unit_vectors(ra, dec)
    side = (size + _MARGIN_PIXELS) * PIXEL_ARCSEC
    reach = side * np.sqrt(2) if size else FIBRE_ARCSEC
    pairs: IntArray = cKDTree(v).query_pairs(chord(reach), output_type="ndarray").astype(np.int64)
    if angle is None or not size or not len(pairs):
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


def sky_groups(
    object_ids: ArrayLike, ra: ArrayLike, dec: ArrayLike, *, size: int = 64, angle: ArrayLike | None = None
) -> IntArray:
    """Return the number of the group of objects that share sky, for each object; −1 for those given up.

    Objects whose cutouts may share a pixel form one group. One that holds more than a tenth of all objects
    could not be placed without bias: it is cut along straight lines, and the fewest objects with pixels on
    both sides are given up. The result does not depend on the order of the rows.

    Parameters
    ----------
    object_ids : array of str, shape (n,)
        Unique.
    ra, dec : array, shape (n,)
        Degrees.
    size : int
        Side of the cutouts in native pixels; 0 if the dataset holds no images.
    angle : array, shape (n,), optional
        Orientation of each object's frame, see `overlapping_pairs`.
    """
    order = np.argsort(np.asarray(object_ids, dtype=str), kind="stable")
    ra, dec = np.asarray(ra, dtype=np.float64)[order], np.asarray(dec, dtype=np.float64)[order]
    turned = None if angle is None else np.asarray(angle, dtype=np.float64)[order]
    largest = max(1, int(LARGEST_GROUP * len(order)))
    group, dropped = _groups(ra, dec, overlapping_pairs(ra, dec, size, turned), largest)
    out = np.full(len(order), -1, dtype=np.int64)
    out[order[~dropped]] = np.unique(group[~dropped], return_inverse=True)[1]
    return out


def equal_groups(
    n: int, ra: ArrayLike | None = None, dec: ArrayLike | None = None, keys: ArrayLike | None = None
) -> IntArray:
    """Return the number of the group of rows that are the same object, for each row.

    Two rows are one object where they lie within one fibre of each other, or where their inputs are equal.

    Parameters
    ----------
    n : int
        Number of rows.
    ra, dec : array, shape (n,), optional
        Degrees; rows without a finite position are alone in this respect.
    keys : array, shape (n,), optional
        Equal where all inputs of two rows are equal.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    if ra is not None and dec is not None:
        a, d = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        placed = np.flatnonzero(np.isfinite(a) & np.isfinite(d))
        pairs.append(placed[overlapping_pairs(a[placed], d[placed], 0)])
    if keys is not None:
        code = np.unique(np.asarray(keys), return_inverse=True)[1]
        order = np.argsort(code, kind="stable")
        same = np.flatnonzero(np.diff(code[order]) == 0)
        pairs.append(np.stack([order[same], order[same + 1]], axis=1))
    return _components(n, np.concatenate(pairs))
