"""Where a model may be believed: what its training looked like, and which objects lie outside of that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.models.summaries import Summary

CHANCE = 0.01
"""Share of objects like those of the training that its ranges leave outside, and the distance likewise."""

NEIGHBOURS = 3
"""An object is as far from the training as the third nearest of its objects: one stray object of the training
makes no other one usual."""

DRIFT = 0.2
"""Difference of two cumulative distributions beyond which one sample is not like the other."""

SAMPLE = 2048
"""Objects of the training at most that are kept for distances."""

_AXES = 12  # directions of the summary space in which distances are taken, at most
_THINNEST = 1e-4  # of the widest direction's variance: what is thinner is rounding
_FARTHEST = 8.0  # standard deviations at which a value is cut off, since the ranges see such anyway
_FOLDS = 5
_NORMAL_QUARTILES = 1.349  # interquartile range of the standard normal distribution

_MAGNITUDE = re.compile(
    r"(?i)[a-z0-9]{0,9}_?mag_?[a-z0-9]{0,9}|[ugrizyjhk]|w[1-4]|(psf|petro|c?model|fiber|dered)_[ugrizy]"
)


@dataclass(frozen=True)
class Applicability:
    """What the training part of a model looks like, as far as a few numbers an object tell it.

    An object lies outside where one of its named numbers lies below or above the range of the training,
    where it has no value and every object of the training had one, or where it is farther from the objects
    of the training than these are from each other (the distance to the `NEIGHBOURS`-th nearest, in the
    principal axes of the standardised numbers). A range leaves out so many at each end that `CHANCE` of
    objects like those of the training lie outside of all ranges together; where the training is too small
    for that, the least and greatest value, widened until cross-validation finds no more than that. The limit
    of the distance is such that 1 − `CHANCE` of the training's objects lie within (leaving out each in turn:
    conformal anomaly detection, Laxhammar & Falkman 2015, Ann. Math. Artif. Intell. 74, 67).

    Attributes
    ----------
    names : tuple of str
        Of the numbers that have one, see `Summary`.
    low, high : ndarray of float64, shape (names,)
        The greater first where no object of the training has a value.
    gaps : ndarray of uint8, shape (names,)
        1 where some object of the training has no value.
    deciles, shares : ndarray of float64, shape (names, 9)
        Deciles of the values, and the shares of the training's values up to them.
    centre, scale : ndarray of float64, shape (names + forms,)
        Median and interquartile range over 1.349.
    mean : ndarray of float64, shape (names + forms,)
    axes : ndarray of float64, shape (names + forms, axes)
    points : ndarray of float32, shape (m, axes)
        Objects of the training, at most `SAMPLE`, in these axes.
    limit : ndarray of float64, shape (1,)
        Of the distance.
    """

    names: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    gaps: NDArray[np.uint8]
    deciles: NDArray[np.float64]
    shares: NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    points: NDArray[np.float32]
    limit: NDArray[np.float64]

    LAYOUT: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "low": ("f8", ("names",)),
        "high": ("f8", ("names",)),
        "gaps": ("u1", ("names",)),
        "deciles": ("f8", ("names", "deciles")),
        "shares": ("f8", ("names", "deciles")),
        "centre": ("f8", ("numbers",)),
        "scale": ("f8", ("numbers",)),
        "mean": ("f8", ("numbers",)),
        "axes": ("f8", ("numbers", "axes")),
        "points": ("f4", ("points", "axes")),
        "limit": ("f8", ("one",)),
    }

    @classmethod
    def fit(cls, training: Summary) -> Self:
        """Learn what the training part looks like.

        Parameters
        ----------
        training : Summary
            Of its objects.
        """
        values = training.values.astype(np.float64)
        low, high = _ranges(values)
        every = np.concatenate([values, training.form], axis=1, dtype=np.float64)
        centre, scale = _body(every)
        standard = _standard(every, centre, scale)
        mean = standard.mean(axis=0) if len(standard) else np.zeros(standard.shape[1])
        axes = _principal(standard - mean)
        places = ((standard - mean) @ axes).astype(np.float32)
        # In a random order, so that a search from the front soon meets some that are near.
        chosen = np.random.default_rng(0).permutation(len(places))[:SAMPLE]
        points = np.ascontiguousarray(places[chosen])
        own = np.sort(_distances(points, NEIGHBOURS)) if len(points) else np.zeros(1)
        rank = min(int(np.ceil((len(own) + 1) * (1 - CHANCE))), len(own))
        gaps = np.array(~np.isfinite(values).all(axis=0), dtype=np.uint8)
        limit = own[rank - 1 : rank]
        deciles, shares = _deciles(values)
        return cls(training.names, low, high, gaps, deciles, shares, centre, scale, mean, axes, points, limit)

    def places(self, summary: Summary) -> NDArray[np.float32]:
        """Return where objects stand in the axes of the training, (n, axes)."""
        every = np.concatenate([summary.values, summary.form], axis=1, dtype=np.float64)
        standard = _standard(every, self.centre, self.scale)
        return ((standard - self.mean) @ self.axes).astype(np.float32)

    def outside(self, summary: Summary) -> NDArray[np.object_]:
        """Return in which ways each object is none that the training could have taught.

        Parameters
        ----------
        summary : Summary
            Of the same inputs.

        Returns
        -------
        ndarray of str, shape (n,)
            Ways, joined by ``;``, empty where there is none: the name and what is odd about it (``r
            fainter``, ``u-g bluer``, ``petroR50_r above``, ``spectrum S/N below``, ``z missing``), or
            ``combination`` where each number lies within and none of the training's objects is near.
        """
        values = summary.values
        # Compared as float32, in which they came.
        known = np.isfinite(values)
        below = known & ~(values >= self.low.astype(np.float32))
        above = known & ~(values <= self.high.astype(np.float32))
        missing = ~known & (self.gaps == 0)
        far = np.zeros((len(values), 1), dtype=bool)
        rest = np.flatnonzero(~(below | above | missing).any(axis=1))
        if len(rest) and len(self.points):
            inner = Summary(summary.names, values[rest], summary.form[rest])
            fewest = min(NEIGHBOURS, len(self.points))
            far[rest, 0] = _far(self.points, self.places(inner), fewest, float(self.limit[0]))
        words = [words_of(name) for name in self.names]
        ways = [f"{name} {one}" for name, (one, _) in zip(self.names, words, strict=True)]
        ways += [f"{name} {one}" for name, (_, one) in zip(self.names, words, strict=True)]
        ways += [*(f"{name} missing" for name in self.names), "combination"]
        return _joined(np.concatenate([below, above, missing, far], axis=1), ways)

    def counts(self, summary: Summary) -> NDArray[np.int64]:
        """Return how many values of each name lie between which deciles of the training, (names, 10)."""
        values, bins = summary.values, self.deciles.shape[1] + 1
        found = np.zeros((len(self.names), bins), dtype=np.int64)
        for k, cuts in enumerate(self.deciles.astype(np.float32)):
            own = values[np.isfinite(values[:, k]), k]
            found[k] = np.bincount(np.searchsorted(cuts, own, side="left"), minlength=bins)
        return found

    def drift(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """Return by which names a sample differs from the training as a whole, and how much.

        Intervals and sets promise their level on the average over objects that come as those of the training
        came. Where a sample leans to one side, that average is another one, though each of its objects may
        have the like in the training.

        Parameters
        ----------
        counts : ndarray of int64, shape (names, 10)
            From `counts`, summed over the sample.

        Returns
        -------
        dict of str to float
            By what is odd about it, e.g. ``r fainter``: the greatest difference of the two cumulative
            distributions at a decile, where it exceeds `DRIFT` and twice what chance brings; greatest first.
        """
        found: dict[str, float] = {}
        n = counts.sum(axis=1)
        for k in np.flatnonzero(n):
            apart = np.cumsum(counts[k])[:-1] / n[k] - self.shares[k]
            most = float(apart[np.abs(apart).argmax()])
            if abs(most) > max(DRIFT, 2 / np.sqrt(n[k])):
                found[f"{self.names[k]} {words_of(self.names[k])[int(most < 0)]}"] = abs(most)
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of it, by name, besides the names."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "names"}

    @classmethod
    def of_arrays(cls, names: tuple[str, ...], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild what `arrays` gave.

        Raises
        ------
        ValueError
            If the numbers make no sense together.
        """
        known = cls(names, **arrays)
        sound = (known.scale > 0).all() and float(known.limit[0]) >= 0 and len(set(names)) == len(names)
        sound = (
            sound
            and (np.diff(known.deciles) >= 0).all()
            and ((known.shares >= 0) & (known.shares <= 1)).all()
        )
        if not sound or known.axes.shape[1] > _AXES or not 0 < len(known.points) <= SAMPLE:
            raise ValueError("what it tells of the training is damaged")
        return known


def words_of(name: str) -> tuple[str, str]:
    """Return how a number below the range and one above it are called: magnitudes, colours, anything else."""
    ends = name.split("-")
    if all(_MAGNITUDE.fullmatch(end) for end in ends) and len(ends) <= 2:
        return ("brighter", "fainter") if len(ends) == 1 else ("bluer", "redder")
    if name.endswith((" median", " valid")):
        return ("fainter", "brighter") if name.endswith("median") else ("less complete", "more complete")
    return "below", "above"


def _joined(flags: NDArray[np.bool_], ways: list[str]) -> NDArray[np.object_]:
    """Return the ways that are flagged of each object, joined; each set of ways is written once."""
    found = np.full(len(flags), "", dtype=object)
    rows = np.flatnonzero(flags.any(axis=1))
    if len(rows):
        packed = np.packbits(flags[rows], axis=1)
        _, first, which = np.unique(
            packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True
        )
        texts = np.array([";".join(np.array(ways)[flags[rows[i]]]) for i in first], dtype=object)
        found[rows] = texts[which.ravel()]
    return found


def _ranges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the range of each column, the greater end first where it has no value."""
    n, k = values.shape
    # Of n values, 1/(n + 1) of new ones lie beyond each end, and so many more for each that is left out.
    out = int(CHANCE * (n + 1) / max(2 * k, 1)) - 1
    low, high = _ends(values, max(out, 0))
    if out < 0:
        margin = _margin(values)
        spread = np.where(high > low, high - low, 1.0)
        wider = np.where(high >= low, margin * spread, 0.0)
        low, high = low - wider, high + wider
    return low, high


def _ends(values: NDArray[np.float64], out: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return least and greatest value of each column, once so many are left out at each end."""
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = np.zeros(len(count)), np.full(len(count), -1.0)
    for k in np.flatnonzero(count):
        # A column of which few objects have a value loses no more of them than its share.
        own = out * int(count[k]) // len(values)
        low[k], high[k] = ordered[own, k], ordered[count[k] - 1 - own, k]
    return low, high


def _margin(values: NDArray[np.float64]) -> float:
    """Return by what share of itself each range must grow, so that `CHANCE` of objects lie outside."""
    n = len(values)
    turn = np.random.default_rng(0).permutation(n) % _FOLDS
    beyond = np.zeros(n)
    for fold in range(min(_FOLDS, n) if n > 1 else 0):
        held = turn == fold
        low, high = _ends(values[~held], 0)
        spread = np.where(high > low, high - low, 1.0)
        apart = np.where(high >= low, np.maximum(low - values[held], values[held] - high) / spread, 0.0)
        beyond[held] = np.fmax.reduce(np.where(np.isfinite(apart), apart, 0.0), axis=1, initial=0.0)
    return float(np.sort(beyond)[max(n - 1 - int(CHANCE * n), 0)]) if n else 0.0


def _deciles(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the deciles of each column, and the shares of its values up to them."""
    levels = np.arange(1, 10) / 10
    cuts, shares = np.zeros((values.shape[1], 9)), np.zeros((values.shape[1], 9))
    for k in range(values.shape[1]):
        own = np.sort(values[np.isfinite(values[:, k]), k])
        if own.size:
            cuts[k] = np.quantile(own, levels, method="inverted_cdf")
            shares[k] = np.searchsorted(own, cuts[k], side="right") / own.size
    return cuts, shares


def _body(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return median and width of the body of each column."""
    centre, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    for k in range(values.shape[1]):
        own = values[np.isfinite(values[:, k]), k]
        if own.size:
            first, centre[k], third = np.quantile(own, [0.25, 0.5, 0.75])
            width = (third - first) / _NORMAL_QUARTILES or float(own.std())
            scale[k] = width if 0 < width < np.inf else 1.0
    return centre, scale


def _standard(
    values: NDArray[np.float64], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return standardised numbers, the median where there is none."""
    found = (np.where(np.isfinite(values), values, centre) - centre) / scale
    return np.clip(found, -_FARTHEST, _FARTHEST)


def _principal(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the axes in which the training has variance 1 and no correlation."""
    covariance = standard.T @ standard / max(len(standard) - 1, 1)
    variance, axes = np.linalg.eigh(covariance)
    kept = np.flatnonzero(variance > _THINNEST * max(variance.max(initial=0.0), 1e-30))[::-1][:_AXES]
    whitened: NDArray[np.float64] = axes[:, kept] / np.sqrt(variance[kept])
    return whitened


@njit(cache=True, nogil=True)
def _distances(points: NDArray[np.float32], rank: int) -> NDArray[np.float64]:
    """Return the distance of each point to its `rank`-th nearest other one, to the farthest of fewer."""
    m, axes = points.shape
    across = points.T.copy()
    found = np.zeros(m, np.float64)
    squares = np.empty(m, np.float32)
    for i in range(m):
        squares[:] = 0
        for k in range(axes):
            place = points[i, k]
            for j in range(m):
                apart = across[k, j] - place
                squares[j] += apart * apart
        squares[i] = np.float32(np.inf)
        if m > 1:
            last = min(rank, m - 1)
            found[i] = np.sqrt(np.float64(np.partition(squares, last - 1)[last - 1]))
    return found


@njit(cache=True, nogil=True)
def _far(
    points: NDArray[np.float32], new: NDArray[np.float32], fewest: int, limit: float
) -> NDArray[np.bool_]:
    """Return which new objects have fewer than `fewest` points within a distance."""
    found = np.ones(len(new), np.bool_)
    bound = limit * limit
    for i in range(len(new)):
        near = 0
        for j in range(len(points)):
            square = np.float32(0)
            for k in range(points.shape[1]):
                apart = points[j, k] - new[i, k]
                square += apart * apart
            if square <= bound:
                near += 1
                if near == fewest:
                    found[i] = False
                    break
    return found
