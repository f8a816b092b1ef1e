"""Redshift as a density with several peaks: what fits of templates leave open.

Near a minimum χ² is a parabola, which gives a candidate its redshift and its width; its depth against the
others is its weight. What noise alone does not explain (templates that are not the object, labels of another
pipeline) follows from the training part by maximum likelihood: by how much differences of χ² count less, and
errors of redshift beside those of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from skyfuse.models.mixture import Mixture

Array = NDArray[np.float64]

KINDS = ("GALAXY", "QSO", "STAR")
PEAKS = 3
"""Candidates of galaxies and of quasars at most; of stars there is one."""

KEPT = 3
"""Candidates of all kinds that a density holds; what more would add does not show."""

CLOSE = 0.01
"""Error of ln(1 + z) within which a candidate counts as the true one, and two candidates as one."""

_MISSED, _SPAN = 1e-3, 7.0
"""Share of objects, in the training part alone, that no candidate explains, and the range of redshift over
which it is spread; without it one missed object would decide everything."""

_ERRORS = np.geomspace(1e-5, CLOSE, 31)
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_HEATS = np.geomspace(1, 100, 41)
"""What is tried for errors of ln(1 + z), for the share of wide ones, and for `Posterior.heat`."""

_FEW = 10
"""Objects of a kind below which its errors are those of all kinds together."""


class Peaks(NamedTuple):
    """Candidates for the redshifts of n objects, up to k each.

    Attributes
    ----------
    redshift : ndarray, shape (n, k)
    width : ndarray, shape (n, k)
        Error of ln(1 + z) that the noise alone gives: χ² is 1 higher there.
    chi2 : ndarray, shape (n, k)
        Penalised, see `skyfuse.models.template.Evidence`; infinite where there is no candidate.
    kind : ndarray of int64, shape (k,)
        Index into `KINDS`.
    per_bin : ndarray, shape (n,)
        Lowest χ² a valid bin.
    """

    redshift: Array
    width: Array
    chi2: Array
    kind: NDArray[np.int64]
    per_bin: Array

    @classmethod
    def joined(cls, parts: Sequence[Peaks]) -> Peaks:
        """Return the candidates of several lots of objects as one."""
        redshift, width, chi2, _, per_bin = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(redshift, width, chi2, parts[0].kind, per_bin)


class Posterior(NamedTuple):
    """What turns candidates into a density.

    Attributes
    ----------
    heat : float
        Differences of χ² count by one over so much, 1 or more, and by one over the χ² a bin where that is
        above 1.
    share : tuple of float
        Of each of `KINDS` among known objects.
    narrow, wide : tuple of float
        Errors of ln(1 + z) beside those of the noise, for each of `KINDS`; most objects have the narrow ones.
    far : tuple of float
        Share of objects with the wide ones.
    """

    heat: float
    share: tuple[float, ...]
    narrow: tuple[float, ...]
    wide: tuple[float, ...]
    far: tuple[float, ...]

    @classmethod
    def fit(cls, peaks: Peaks, truth: Array) -> Self:
        """Learn from objects with known redshifts.

        Parameters
        ----------
        peaks : Peaks
        truth : ndarray, shape (n,)
        """
        logarithm = np.log1p(np.maximum(truth, -0.9))[:, None]
        error = np.where(np.isfinite(peaks.chi2), np.log1p(peaks.redshift) - logarithm, np.inf)
        right = np.abs(error) < CLOSE
        best = np.where(right, peaks.chi2, np.inf).argmin(axis=1)
        rows = np.flatnonzero(right.any(axis=1))
        error, width = error[rows, best[rows]], _scaled(peaks)[rows, best[rows]]
        kind = peaks.kind[best[rows]]
        counts = np.bincount(kind, minlength=len(KINDS)) + 1
        errors = []
        for i in range(len(KINDS)):
            like = kind == i if np.count_nonzero(kind == i) >= _FEW else np.ones(len(kind), np.bool_)
            errors.append(_errors(error[like], width[like]))
        narrow, wide, far = zip(*errors, strict=True)
        cold = cls(1.0, tuple((counts / counts.sum()).tolist()), narrow, wide, far)
        likelihood = [cold._replace(heat=float(heat))._likelihood(peaks, truth) for heat in _HEATS]
        return cold._replace(heat=float(_HEATS[int(np.argmax(likelihood))]))

    def weights(self, peaks: Peaks) -> Array:
        """Return the probability of each candidate, (n, k)."""
        scale = self.heat * np.maximum(peaks.per_bin, 1.0)[:, None]
        depth = peaks.chi2 - peaks.chi2.min(axis=1, keepdims=True)
        odds = np.log(self.share)[peaks.kind] - 0.5 * depth / scale
        return np.asarray(np.exp(odds - logsumexp(odds, axis=1, keepdims=True)))

    def mixture(self, peaks: Peaks) -> Mixture:
        """Return two normal distributions of redshift for each of the `KEPT` likeliest candidates."""
        weight = self.weights(peaks)
        order = np.argsort(-weight, axis=1, kind="stable")[:, :KEPT]
        redshift, noise, weight = (
            np.take_along_axis(a, order, axis=1) for a in (peaks.redshift, _scaled(peaks), weight)
        )
        weight /= weight.sum(axis=1, keepdims=True)
        narrow, wide, far = (np.array(a)[peaks.kind[order]] for a in (self.narrow, self.wide, self.far))
        weight = np.concatenate([weight * (1 - far), weight * far], axis=1)
        sigma = (1 + redshift) * np.stack([np.hypot(noise, narrow), np.hypot(noise, wide)])
        # A distribution without weight is not used.
        centre = np.where(weight > 0, np.concatenate([redshift, redshift], axis=1), np.nan)
        return Mixture(centre, np.concatenate(list(sigma), axis=1), weight)

    def values(self, peaks: Peaks) -> Array:
        """Return the most probable redshift of each object, (n,)."""
        best = self.weights(peaks).argmax(axis=1)[:, None]
        return np.asarray(np.take_along_axis(peaks.redshift, best, axis=1)[:, 0])

    def _likelihood(self, peaks: Peaks, truth: Array) -> float:
        """Return the mean log density of the true redshifts."""
        centre, sigma, weight = self.mixture(peaks)
        density = weight * np.exp(-0.5 * ((truth[:, None] - np.nan_to_num(centre)) / sigma) ** 2) / sigma
        inside = density.sum(axis=1) / math.sqrt(2 * math.pi)
        return float(np.mean(np.log((1 - _MISSED) * inside + _MISSED / _SPAN)))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `_asdict` gives.

        Raises
        ------
        TypeError, ValueError
            If the state describes no density.
        """
        entries: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list | tuple) else v for k, v in state.items()
        }
        known = cls(**entries)
        parts = (known.share, known.narrow, known.wide, known.far)
        numbers = (known.heat, *(v for part in parts for v in part))
        sound = (
            all(len(part) == len(KINDS) for part in parts)
            and all(isinstance(v, float) and math.isfinite(v) for v in numbers)
            and 1 <= known.heat <= _HEATS[-1]
            and all(v > 0 for v in known.share)
            and abs(sum(known.share) - 1) < 1e-6
            and all(0 < a <= b <= 1 for a, b in zip(known.narrow, known.wide, strict=True))
            and all(0 <= v <= 1 for v in known.far)
        )
        if not sound:
            raise ValueError("the density of redshifts is damaged")
        return known


def dips(curve: Array, count: int, reach: int) -> NDArray[np.int64]:
    """Return where a curve has its lowest minima, lowest first, each farther than `reach` from those before.

    Parameters
    ----------
    curve : ndarray, shape (s,)
    count, reach : int

    Returns
    -------
    ndarray of int64
        At least one and at most `count` indices.
    """
    padded = np.concatenate([[np.inf], curve, [np.inf]])
    minima = np.flatnonzero((curve <= padded[:-2]) & (curve <= padded[2:]) & np.isfinite(curve))
    found: list[int] = []
    for i in minima[np.argsort(curve[minima], kind="stable")]:
        if all(abs(i - j) > reach for j in found):
            found.append(int(i))
            if len(found) == count:
                break
    return np.array(found or [int(curve.argmin())])


def _scaled(peaks: Peaks) -> Array:
    """Return widths for σ that leave a χ² of one a bin."""
    return np.asarray(peaks.width * np.sqrt(np.maximum(peaks.per_bin, 1.0))[:, None])


def _errors(error: Array, width: Array) -> tuple[float, float, float]:
    """Return narrow and wide errors beside the noise and the share of the wide ones, the likeliest."""
    if not len(error):
        return float(_ERRORS[-1]), float(_ERRORS[-1]), 0.0
    variance = width[:, None] ** 2 + _ERRORS**2
    density = np.exp(-0.5 * error[:, None] ** 2 / variance) / np.sqrt(variance)
    found = (-math.inf, 0, 0, 0.0)
    for i in range(len(_ERRORS)):
        for share in _SHARES:
            mixed = (1 - share) * density[:, i, None] + share * density[:, i:]
            likelihood = np.log(np.maximum(mixed, 1e-300)).sum(axis=0)
            best = int(likelihood.argmax())
            # A wide part that gains nothing is none.
            if likelihood[best] > found[0] + 1e-9:
                found = (float(likelihood[best]), i, i + best, share)
    return float(_ERRORS[found[1]]), float(_ERRORS[found[2]]), found[3]
