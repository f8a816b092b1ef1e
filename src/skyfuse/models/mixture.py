"""Densities with several peaks: how much of one lies above a label's, and where it is highest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Numbers = NDArray[np.float64]

_BLOCK = 128  # objects whose densities are in memory at a time

# Nodes about each centre, in σ. Between two of them the logarithm of the density is taken for a straight
# line, which is off by 0.1²/8 at most in the body. At 37 σ a normal distribution still has a mass above 0.
_RIGHT = np.concatenate([np.arange(0, 4, 0.1), np.geomspace(4, 37, 30)])
_NODES = np.concatenate([-_RIGHT[:0:-1], _RIGHT])

_LEAST = np.log(np.finfo(np.float64).tiny)
"""Logarithm of the smallest mass that is told apart from none."""

_HALVINGS = 50
"""Halvings of the range of densities in the search for one: what is left is a 10⁻¹⁵th."""


class Mixture(NamedTuple):
    """Normal distributions whose weighted sum is what a model believes of each of n labels.

    Attributes
    ----------
    centre, sigma, weight : ndarray of float64, shape (n, k)
        Weights of an object sum to 1. A centre that is NaN is not used, nor are its σ and weight.
    """

    centre: Numbers
    sigma: Numbers
    weight: Numbers


def surprise(mixture: Mixture, y: Numbers) -> Numbers:
    """Return how surprising each label is: −ln of the mass of all places less dense than it.

    It is the score of HPD-split (Izbicki, Shimizu & Stern 2022, JMLR 23, 87, eq. 5): that mass is uniform
    between 0 and 1 where the density is right, whatever its shape.

    Parameters
    ----------
    mixture : Mixture
        Of n objects.
    y : ndarray of float64, shape (n,)

    Returns
    -------
    ndarray of float64, shape (n,)
        0 at the highest peak; at most about 700.
    """
    found = np.empty(len(y))
    for rows, cells in _cells(mixture):
        own = _log_density(Mixture(*(array[rows] for array in mixture)), y[rows, None])[:, 0]
        mass = cells.below(own)
        found[rows] = -np.maximum(np.log(np.maximum(mass, np.finfo(np.float64).tiny)), _LEAST)
    return found


def highest(mixture: Mixture, limit: Numbers) -> Numbers:
    """Return the places whose surprise is at most a limit: the highest density region of mass 1 − e^−limit.

    Parameters
    ----------
    mixture : Mixture
        Of n objects, k distributions each.
    limit : ndarray of float64, shape (n,)
        What is infinite holds everything.

    Returns
    -------
    ndarray of float64, shape (n, k, 2)
        Intervals, apart and in order; NaN where an object has fewer than k.
    """
    n, k = mixture.centre.shape
    found = np.full((n, k, 2), np.nan)
    for rows, cells in _cells(mixture):
        level = cells.level(np.exp(-limit[rows]))
        for row, place, density, cut in zip(
            range(rows.start, rows.stop), cells.place, cells.log, level, strict=True
        ):
            pieces = _runs(place, density, min(cut, density.max()))
            while len(pieces) > k:
                # A superset, should rounding ever part what belongs together.
                gap = int(np.argmin(pieces[1:, 0] - pieces[:-1, 1]))
                pieces[gap, 1] = pieces[gap + 1, 1]
                pieces = np.delete(pieces, gap + 1, axis=0)
            found[row, : len(pieces)] = pieces
    found[np.isinf(limit)] = np.nan
    found[np.isinf(limit), 0] = -np.inf, np.inf
    return found


class _Cells:
    """The densities of some objects, as cells between nodes."""

    def __init__(self, mixture: Mixture) -> None:
        used = np.isfinite(mixture.centre)
        # What is not used takes the place of the object's first one, with weight 0.
        first = used.argmax(axis=1)[:, None]
        centre, sigma = (
            np.where(used, array, np.take_along_axis(array, first, axis=1)) for array in mixture[:2]
        )
        weight = np.where(used, mixture.weight, 0)
        nodes = centre[:, :, None] + sigma[:, :, None] * _NODES
        self.place = np.sort(nodes.reshape(len(centre), -1), axis=1)
        self.log = _log_density(Mixture(centre, sigma, weight), self.place)
        below, above = (np.zeros(self.place.shape) for _ in range(2))
        for i in range(centre.shape[1]):
            z = (self.place - centre[:, i : i + 1]) / sigma[:, i : i + 1]
            below += weight[:, i : i + 1] * ndtr(z)
            above += weight[:, i : i + 1] * ndtr(-z)
        # Each difference is taken on the side on which it loses no digits.
        left, right = np.diff(below, axis=1), -np.diff(above, axis=1)
        self._mass = np.maximum(np.where(below[:, 1:] < 0.5, left, right), 0)
        self._outer = below[:, 0] + above[:, -1]
        ends = np.stack([self.log[:, :-1], self.log[:, 1:]])
        self._low, self._high = ends.min(axis=0), ends.max(axis=0)

    def below(self, log: Numbers) -> Numbers:
        """Return the mass of all places less dense than each object's own (logarithm of a) density."""
        # Along a straight line of logarithms the mass grows as the density does.
        rise = np.maximum(self._high - self._low, 1e-12)
        part = np.clip(log[:, None] - self._low, 0, rise)
        # (e^part − 1)/(e^rise − 1), written so that no rise is too large.
        share = np.exp(part - rise) * np.expm1(-part) / np.expm1(-rise)
        mass: Numbers = (share * self._mass).sum(axis=1) + self._outer * (log > self._low.min(axis=1))
        return mass

    def level(self, mass: Numbers) -> Numbers:
        """Return the logarithm of the density below which so much mass of each object lies, by bisection."""
        low, high = self.log.min(axis=1), self.log.max(axis=1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            less = self.below(middle) < mass
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        return np.asarray(low)


def _cells(mixture: Mixture) -> Iterator[tuple[slice, _Cells]]:
    n = len(mixture.centre)
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n))
        yield rows, _Cells(Mixture(*(array[rows] for array in mixture)))


def _log_density(mixture: Mixture, y: Numbers) -> Numbers:
    """Return the logarithm of the density, up to a constant, at places (n, m) of each object."""
    terms = []
    for centre, sigma, weight in zip(*(array.T[:, :, None] for array in mixture), strict=True):
        with np.errstate(divide="ignore"):
            height = np.log(np.where(np.isfinite(centre), weight, 0)) - np.log(sigma)
        terms.append(np.nan_to_num(height - 0.5 * ((y - centre) / sigma) ** 2, nan=-np.inf, neginf=-np.inf))
    return np.asarray(np.logaddexp.reduce(terms, axis=0))


def _runs(place: Numbers, log: Numbers, cut: float) -> Numbers:
    """Return where a density is at least so high, as intervals (m, 2)."""
    high = np.concatenate([[False], log >= cut, [False]])
    begins, ends = np.flatnonzero(~high[:-1] & high[1:]), np.flatnonzero(high[:-1] & ~high[1:]) - 1
    pieces = np.empty((len(begins), 2))
    for side, inner, step in ((0, begins, -1), (1, ends, 1)):
        outer = np.clip(inner + step, 0, len(place) - 1)
        fall = log[inner] - log[outer]
        share = np.where(fall > 0, (log[inner] - cut) / np.where(fall > 0, fall, 1), 0)
        pieces[:, side] = place[inner] + share * (place[outer] - place[inner])
    return pieces
