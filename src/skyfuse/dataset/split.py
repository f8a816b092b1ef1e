"""Splits that no object and no sky pixel straddles: stratified on the label, grouped on the sky, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching
from scipy.spatial import cKDTree

from skyfuse.errors import DataError, StoreError, UsageError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

PARTS = ("train", "valid", "test")
FRACTIONS = (0.6, 0.2, 0.2)
FOLDS = 5
STRATA = 10
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


@dataclass(frozen=True)
class Split:
    """Which row stands in which part.

    Attributes
    ----------
    train, valid, test : ndarray of int64
        Rows of the dataset's table, ascending.
    folds : tuple of ndarray of int64
        A partition of `train`, for cross-validation.
    dropped : ndarray of int64
        Rows in no part, because their pixels stand on two sides of a cut.
    recipe : dict
        Everything the split was made with: seed, fractions, label, separation.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    folds: tuple[IntArray, ...]
    dropped: IntArray
    recipe: dict[str, Any]

    def digest(self, object_ids: ArrayLike) -> str:
        """Return the sha256 over (object, part, fold), whatever the order of the table's rows.

        Parameters
        ----------
        object_ids : array of str, shape (n,)
            Identifiers of the table's rows.
        """
        ids = np.asarray(object_ids, dtype=str)
        place = np.full(len(ids), "-", dtype="U16")
        for part in PARTS:
            place[getattr(self, part)] = part
        for number, rows in enumerate(self.folds):
            place[rows] = f"train/{number}"
        lines = sorted(f"{name}\t{where}" for name, where in zip(ids, place, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self, object_ids: ArrayLike) -> dict[str, Any]:
        """Return what ``splits.json`` holds for this split."""
        return {
            "recipe": self.recipe,
            **{part: getattr(self, part).tolist() for part in PARTS},
            "folds": [rows.tolist() for rows in self.folds],
            "dropped": self.dropped.tolist(),
            "sha256": self.digest(object_ids),
        }

    @classmethod
    def from_json(cls, name: str, data: Any, object_ids: ArrayLike) -> Split:
        """Rebuild a split and check it against its hash.

        Raises
        ------
        StoreError
            If an entry is missing or malformed, a row stands twice or off the table, or the hash differs.
        """
        remedy = "restore splits.json, or make the dataset anew"
        n = len(np.asarray(object_ids))
        try:
            rows = {key: np.asarray(data[key], dtype=np.int64).reshape(-1) for key in (*PARTS, "dropped")}
            folds = tuple(np.asarray(fold, dtype=np.int64).reshape(-1) for fold in data["folds"])
            recipe, expected = dict(data["recipe"]), str(data["sha256"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"split {name!r} is malformed ({error!r})", remedy=remedy) from error
        every = np.concatenate(list(rows.values()))
        if len(every) != n or not np.array_equal(np.sort(every), np.arange(n)):
            raise StoreError(f"split {name!r} does not hold each of the {n} rows once", remedy=remedy)
        if not np.array_equal(np.sort(np.concatenate([*folds, rows["train"][:0]])), np.sort(rows["train"])):
            raise StoreError(
                f"the folds of split {name!r} are no partition of its training part", remedy=remedy
            )
        split = cls(folds=folds, recipe=recipe, **rows)
        if split.digest(object_ids) != expected:
            raise StoreError(
                f"split {name!r} was changed since it was frozen (its hash differs)", remedy=remedy
            )
        return split


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
    best: tuple[int, IntArray, IntArray] | None = None
    for phi in np.arange(_CUT_DIRECTIONS) * np.pi / _CUT_DIRECTIONS:
        along = np.argsort(v @ (np.cos(phi) * axes[0] + np.sin(phi) * axes[1]), kind="stable")
        rank = np.empty(n, dtype=np.int64)
        rank[along] = np.arange(n)
        ranked = np.sort(rank[pairs], axis=1)
        for size in left_sizes:
            crossing = ranked[(ranked[:, 0] < size) & (ranked[:, 1] >= size)]
            members, edges = np.unique(crossing, return_inverse=True)
            edges = edges.reshape(-1, 2)
            cover = members[_vertex_cover(edges[:, 0], edges[:, 1], len(members))]
            if best is None or len(cover) < best[0]:
                best = (len(cover), cover, along)
    assert best is not None  # noqa: S101 - there is at least one direction and one position
    return best[2][best[1]]


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


def strata(label: ArrayLike, n: int = STRATA) -> IntArray:
    """Return the stratum of each label: class or quantile bin of `n`; undefined labels form their own."""
    values = np.asarray(label)
    if values.dtype.kind not in "fiub":
        return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64)
    values = values.astype(np.float64)
    defined = np.isfinite(values)
    out = np.zeros(len(values), dtype=np.int64)
    if not defined.any():
        return out
    distinct = np.unique(values[defined])
    if len(distinct) <= n:
        inner = distinct[1:]
    else:
        inner = np.unique(np.quantile(values[defined], np.linspace(0, 1, n + 1)[1:-1]))
    out[defined] = 1 + np.searchsorted(inner, values[defined], side="right")
    return np.unique(out, return_inverse=True)[1].astype(np.int64)


def _assign(
    group: IntArray, stratum: IntArray, fractions: NDArray[np.float64], rng: np.random.Generator
) -> IntArray:
    """Return the part of each object: whole groups, every stratum shared out in the given fractions."""
    n, n_strata = len(group), int(stratum.max(initial=0)) + 1
    number, group = np.unique(group, return_inverse=True)
    sizes = np.bincount(group, minlength=len(number))
    part_of_group = np.full(len(number), -1, dtype=np.int64)
    # One more column, for all strata together, keeps the parts' sizes near their target.
    counts = coo_matrix((np.ones(n, dtype=np.int64), (group, stratum)), shape=(len(number), n_strata)).tocsr()
    total = np.append(np.bincount(stratum, minlength=n_strata), n).astype(np.float64)
    target = fractions[:, None] * np.maximum(total, 1e-9)
    filled = np.zeros_like(target)
    order = rng.permutation(len(number))
    order = order[np.argsort(-sizes[order], kind="stable")]
    several = order[sizes[order] > 1]
    held_rows = counts[several]
    for k, g in enumerate(several):
        columns = held_rows.indices[held_rows.indptr[k] : held_rows.indptr[k + 1]]
        held = held_rows.data[held_rows.indptr[k] : held_rows.indptr[k + 1]].astype(np.float64)
        columns, held = np.append(columns, n_strata), np.append(held, sizes[g])
        # Increase of chi² between what the parts hold and what they should.
        lacking = target[:, columns] - filled[:, columns]
        cost = ((held * held - 2 * lacking * held) / target[:, columns]).sum(axis=1)
        chosen = int(np.argmin(cost))
        part_of_group[g] = chosen
        filled[chosen, columns] += held
    single = order[sizes[order] == 1]
    stratum_of_single = np.asarray(counts[single].argmax(axis=1)).reshape(-1)
    for s in range(n_strata):
        members = single[stratum_of_single == s]
        if not len(members):
            continue
        lacking = np.maximum(target[:, s] - filled[:, s], 0)
        share = (lacking if lacking.sum() > 0 else fractions) / max(
            lacking.sum(), 1e-9 if lacking.sum() else 1
        )
        exact = share * len(members)
        given = np.floor(exact).astype(np.int64)
        # What rounding leaves goes first to the parts that are shortest over all strata.
        behind = target[:, -1] - filled[:, -1] - given
        spare = len(members) - int(given.sum())
        given[np.argsort(-(behind + 1e-3 * (exact - given)), kind="stable")[:spare]] += 1
        part_of_group[members] = np.repeat(np.arange(len(fractions)), given)
        filled[:, s] += given
        filled[:, -1] += given
    return part_of_group[group]


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


def make_split(
    object_ids: ArrayLike,
    group: ArrayLike,
    label: ArrayLike,
    *,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    folds: int = FOLDS,
    label_name: str = "",
) -> Split:
    """Share objects out into training, validation and test parts, and the training part into folds.

    Each part holds each stratum of the label in the same proportion; no two parts, and no two folds, share a
    group. The result depends on the objects and the seed, not on the order of the rows.

    Parameters
    ----------
    object_ids : array of str, shape (n,)
        Unique.
    group : array of int, shape (n,)
        From `sky_groups`; objects of a negative group stand in no part.
    label : array, shape (n,)
        Numbers (cut into quantile bins) or classes.
    seed : int
        Of the random draws.
    fractions : sequence of float
        Of training, validation and test part; they add up to 1.
    folds : int
        Number of folds of the training part.
    label_name : str
        For the recipe.

    Returns
    -------
    Split

    Raises
    ------
    UsageError
        If `object_ids` has duplicates or the fractions are impossible.
    DataError
        If a part or a fold would be empty.
    """
    ids = np.asarray(object_ids, dtype=str)
    if len(np.unique(ids)) != len(ids):
        raise UsageError("object ids occur more than once", remedy="give each object one row")
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (len(PARTS),) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9 or folds < 2:
        raise UsageError(
            f"a split into {list(fractions)} with {folds} folds is impossible",
            remedy="give three positive fractions that add up to 1, and two folds or more",
        )
    order = np.argsort(ids, kind="stable")
    groups = np.asarray(group, dtype=np.int64)[order]
    kept = np.flatnonzero(groups >= 0)
    # Numbers of groups depend on the order of the rows; the place of a group's first object does not.
    _, first, inverse = np.unique(groups[kept], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    groups = rank[inverse]
    stratum = strata(np.asarray(label)[order])[kept]
    rng = np.random.default_rng(seed)
    part = _assign(groups, stratum, shares, rng)
    in_train = np.flatnonzero(part == 0)
    fold = _assign(groups[in_train], stratum[in_train], np.full(folds, 1 / folds), rng)
    counts = [*np.bincount(part, minlength=len(PARTS)), *np.bincount(fold, minlength=folds)]
    if min(counts) == 0:
        raise DataError(
            f"{len(ids)} objects in {groups.max(initial=-1) + 1} groups cannot be split into "
            f"{len(PARTS)} parts and {folds} folds that share no sky",
            remedy="take more objects, fewer folds, or make no split",
        )
    train, valid, test = (np.sort(order[kept[part == p]]) for p in range(len(PARTS)))
    return Split(
        train=train,
        valid=valid,
        test=test,
        folds=tuple(np.sort(order[kept[in_train[fold == k]]]) for k in range(folds)),
        dropped=np.flatnonzero(np.asarray(group) < 0),
        recipe={
            "seed": seed,
            "fractions": dict(zip(PARTS, shares.tolist(), strict=True)),
            "folds": folds,
            "stratified_on": label_name,
            "strata": STRATA,
        },
    )
