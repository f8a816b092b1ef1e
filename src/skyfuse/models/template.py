"""Redshift and class by fitting eigentemplates at every redshift, as the SDSS pipeline does.

SDSS spectra and templates share bins of 1e-4 in log10 λ, so a redshift is a shift by whole bins and the sums
of the weighted least squares at all shifts are correlations (Tonry & Davis 1979, AJ 84, 1511; Bolton et al.
2012, AJ 144, 144): one set of Fourier transforms gives the normal equations of every redshift at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft

from skyfuse.cube.grid import SDSS
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import METRIC, History, Lesson, Model, Output, loss
from skyfuse.models.inputs import Arrays
from skyfuse.models.peaks import CLOSE, KINDS, PEAKS, Peaks, Posterior, dips
from skyfuse.startypes import has_m_bands
from skyfuse.words import Kind

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

STEP = 1e-4
"""Width of a bin in log10 λ."""

LN10 = float(np.log(10.0))

_FIRST_BIN = 35835  # of `SDSS`, log10 λ in units of STEP

TERMS = 3
"""Polynomial terms beside the templates (Bolton et al. 2012 give galaxies a quadratic). Quasars get them too:
reddening and flux calibration bend a spectrum in ways that four eigenspectra do not span."""

SMOOTH_TERMS = 6
"""Polynomial terms of the smooth spectrum against which evidence for an object is measured: as many as the
galaxies' and quasars' fit has but one, so that what counts is lines and breaks."""

_FILES = {
    "GALAXY": ("spEigenGal-56436.fits", -0.01, 1.0),
    "QSO": ("spEigenQSO-55732.fits", 0.0033, 5.5),
    "CV": ("spEigenCVstar-55734.fits", -0.004, 0.004),
    "STAR": ("spEigenStar-55734.fits", -0.004, 0.004),
}
"""Template file (SDSS idlspec2d) and range of redshifts of each kind. Quasars begin where the pipeline's do
and end before Lyman α leaves the grid; a star's speed is below 1,200 km/s. Galaxies end at 1, as the
pipeline's do: beyond, little of the spectrum is left to contradict a wrong redshift."""

EMPTY = 40.0
"""`Evidence.significance` that empty sky hardly reaches. Of 47 sky fibres on the SDSS plates 1942, 1944 and
1947 95 % lie below 37, of spectra of white noise 99 % below 19: what is left of the sky looks like lines."""

_STAR_WIDTH = 1e-4
"""Error of a star's ln(1 + z), about 30 km/s, on which nothing hangs."""

_CHECKED = 200
"""Objects at most, of the training and of the validation part, on which the threshold of evidence is set."""


class TemplateSet(NamedTuple):
    """Eigenspectra that are fitted together.

    Attributes
    ----------
    kind : str
        ``GALAXY``, ``QSO`` or ``STAR``.
    type : str
        Spectral class of stars as a letter or word (``A``, ``WD``, ``CV``); of others the kind.
    name : str
        Of stars in the file, ``F6IV (28527)``; of others the kind.
    first : int
        log10 λ of the first bin in units of 1e-4.
    vectors : ndarray of float64, shape (m, bins)
    low, high : float
        Range of redshifts.
    """

    kind: str
    type: str
    name: str
    first: int
    vectors: Array
    low: float
    high: float


def star_type(name: str) -> str:
    """Return the spectral class in a template's name.

    ``F`` of ``F3/F5V (30743)`` and of ``sd:F0``, ``L`` of ``Ldwarf``, ``WD`` of ``WDhotter``; else the name.
    """
    if word := re.match(r"(?:sd:?)?([OBAFGKM])[\dm]", name):
        return word[1]
    return {"Ldwarf": "L", "WDcooler": "WD", "WDhotter": "WD", "CalciumWD": "WD"}.get(name, name)


def read_templates(folder: str | Path) -> list[TemplateSet]:
    """Read the SDSS pipeline's eigentemplates.

    Parameters
    ----------
    folder : path
        Holds ``spEigenGal-56436.fits``, ``spEigenQSO-55732.fits``, ``spEigenStar-55734.fits`` and
        ``spEigenCVstar-55734.fits`` of idlspec2d.

    Returns
    -------
    list of TemplateSet
        Galaxies, quasars, cataclysmic variables, and each star by itself: its type is that of its name, but M
        where a K star has the bands of one (`skyfuse.startypes.has_m_bands`).

    Raises
    ------
    UsageError
        If a file is missing or holds no eigenspectra.
    """
    from astropy.io import fits

    sets = []
    for kind, (name, low, high) in _FILES.items():
        path = Path(folder) / name
        try:
            with fits.open(path) as hdus:
                header = hdus[0].header
                first = round(float(header["COEFF0"]) / STEP)
                vectors = np.atleast_2d(np.asarray(hdus[0].data, dtype=np.float64))
                names = [str(header[f"NAME{i}"]) for i in range(len(vectors))] if kind == "STAR" else []
        except (OSError, KeyError, TypeError, ValueError) as fault:
            raise UsageError(
                f"holds no eigentemplates ({type(fault).__name__})",
                remedy="give the folder that holds " + ", ".join(file for file, _, _ in _FILES.values()),
                path=path,
            ) from fault
        if not np.isfinite(vectors).all():
            raise UsageError("holds invalid numbers", remedy="get the templates again", path=path)
        if names:
            wavelength = 10 ** (STEP * (first + np.arange(vectors.shape[1])))
            for own, row in zip(names, vectors, strict=True):
                called = star_type(own)
                letter = "M" if called == "K" and has_m_bands(wavelength, row) else called
                sets.append(TemplateSet(kind, letter, own, first, row[None], low, high))
        else:
            star = kind == "CV"
            sets.append(TemplateSet("STAR" if star else kind, kind, kind, first, vectors, low, high))
    return sets


def classes_of(sets: Sequence[TemplateSet], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return for each set the index of its class, by kind or by a star's type; −1 where none is meant.

    Raises
    ------
    UsageError
        If fewer than two of the classes have templates.
    """
    index = {name.upper(): i for i, name in enumerate(classes)}
    found = np.array([index.get(s.type.upper(), index.get(s.kind, -1)) for s in sets], dtype=np.int64)
    if len(set(found) - {-1}) < 2:
        raise UsageError(
            f"the templates know fewer than two of the classes {', '.join(classes)}",
            remedy=f"name classes among {', '.join(sorted({s.kind for s in sets} | {s.type for s in sets}))}",
        )
    return found


@lru_cache(maxsize=32)
def polynomials(bins: int, terms: int) -> Array:
    """Return Legendre polynomials over the grid, shape (terms, bins)."""
    return np.ascontiguousarray(np.polynomial.legendre.legvander(np.linspace(-1, 1, bins), terms - 1).T)


def zoom_of(bins: int) -> int:
    """Return the zoom of the grid ``sdss`` that has so many bins.

    Raises
    ------
    DataError
        If none has.
    """
    if bins not in SDSS.sizes:
        raise DataError(
            f"spectra have {bins} bins, which the grid sdss has at no zoom",
            remedy="build the cube on the grid sdss",
        )
    return SDSS.sizes.index(bins)


def weighted(x: Arrays, zoom: int) -> tuple[Array, Array]:
    """Return flux (n, bins) and inverse variance, 0 where invalid, at a zoom not finer than the input's.

    Without σ each spectrum gets one of its own, from the scatter between neighbouring bins.
    """
    flux = x["spectrum"]
    if "spectrum_sigma" in x:
        sigma = x["spectrum_sigma"]
    else:
        steps = np.abs(np.diff(flux, axis=1))
        steps = np.where(np.isfinite(steps).any(axis=1, keepdims=True), steps, np.float32(0))
        # Median of |difference| of two normal deviates: 0.6745 √2 σ.
        typical = np.nanmedian(steps, axis=1, keepdims=True) / np.float32(0.6745 * np.sqrt(2))
        sigma = np.ascontiguousarray(np.broadcast_to(np.maximum(typical, np.float32(1e-6)), flux.shape))
    value, weight = _joined(flux, sigma, flux.shape[1] // SDSS.sizes[zoom])
    return value, weight


@njit(cache=True, nogil=True)
def _joined(flux: NDArray[np.float32], sigma: NDArray[np.float32], block: int) -> tuple[Array, Array]:
    """Average the valid bins of blocks; return means and their inverse variance, 0 where none is valid."""
    n, bins = flux.shape[0], flux.shape[1] // block
    value, weight = np.zeros((n, bins)), np.zeros((n, bins))
    for i in range(n):
        for j in range(bins):
            total, variance, count = 0.0, 0.0, 0
            for k in range(j * block, (j + 1) * block):
                f, s = np.float64(flux[i, k]), np.float64(sigma[i, k])
                # False where anything is NaN or infinite.
                if s > 0 and s < 1e30 and np.abs(f) < 1e30:
                    total += f
                    variance += s * s
                    count += 1
            if count > 0:
                value[i, j] = total / count
                weight[i, j] = count * count / variance
    return value, weight


@njit(cache=True, nogil=True)
def coarser(flux: Array, weight: Array) -> tuple[Floats, Floats]:
    """Join two bins by their weights; return flux and weight in single precision."""
    n, bins = flux.shape[0], flux.shape[1] // 2
    value, joined = np.zeros((n, bins), np.float32), np.zeros((n, bins), np.float32)
    for i in range(n):
        for j in range(bins):
            one, other = weight[i, 2 * j], weight[i, 2 * j + 1]
            if one + other > 0:
                value[i, j] = (one * flux[i, 2 * j] + other * flux[i, 2 * j + 1]) / (one + other)
                joined[i, j] = one + other
    return value, joined


@njit(cache=True, nogil=True)
def explained(normal: Array, right: Array) -> tuple[Array, Array]:
    """Solve s systems of m normal equations by Cholesky: how much χ² falls, (s,), and solutions (s, m)."""
    count, m = right.shape
    fall, solution = np.zeros(count), np.zeros((count, m))
    lower, half = np.zeros((m, m)), np.zeros(m)
    for s in range(count):
        # Gaps can leave a template unseen: the floor keeps its amplitude finite.
        floor = 1e-30
        for i in range(m):
            floor += 1e-12 * max(normal[s, i, i], 0.0)
        for i in range(m):
            for j in range(i + 1):
                a = normal[s, i, j]
                for k in range(j):
                    a -= lower[i, k] * lower[j, k]
                if i == j:
                    lower[i, i] = np.sqrt(max(a, floor))
                else:
                    lower[i, j] = a / lower[j, j]
            a = right[s, i]
            for k in range(i):
                a -= lower[i, k] * half[k]
            half[i] = a / lower[i, i]
            fall[s] += half[i] ** 2
        for i in range(m - 1, -1, -1):
            a = half[i]
            for k in range(i + 1, m):
                a -= lower[k, i] * solution[s, k]
            solution[s, i] = a / lower[i, i]
    return fall, solution


class Shifted:
    """One set of templates at one zoom, ready to be fitted at all its shifts.

    Parameters
    ----------
    templates : TemplateSet
    zoom : int

    Attributes
    ----------
    shifts : ndarray of int64, shape (s,)
        Redshifts in bins of the zoom: log10(1 + z) = shift · 1e-4 · 2**zoom.
    vectors : ndarray, shape (m, bins + s − 1)
        Root mean square 1; the grid's bins at ``shifts[i]`` are ``vectors[:, s − 1 − i :]``.
    products : ndarray, shape (m (m + 1) / 2, bins + s − 1)
        Products of two of them, (0, 0), (1, 0), (1, 1), (2, 0) and so on.
    polynomials : ndarray, shape (terms, bins)
    parameters : int
        Number of amplitudes in a fit.
    step : float
        Width of a shift in log10(1 + z).
    """

    def __init__(self, templates: TemplateSet, zoom: int) -> None:
        block, self.bins = 1 << zoom, SDSS.sizes[zoom]
        self.step = STEP * block
        skip = (_FIRST_BIN - templates.first) % block
        start = (templates.first + skip - _FIRST_BIN) // block
        size = (templates.vectors.shape[1] - skip) // block
        vectors = templates.vectors[:, skip : skip + size * block].reshape(-1, size, block).mean(axis=2)
        vectors /= np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
        low, high = (np.log10(1 + z) / self.step for z in (templates.low, templates.high))
        self.shifts = np.arange(int(np.ceil(low)), int(np.floor(high)) + 1)
        # What templates do not reach is 0, left to the polynomial; within the ranges above there is none.
        wanted = np.arange(-self.shifts[-1], self.bins - self.shifts[0]) - start
        inside = (wanted >= 0) & (wanted < size)
        self.vectors = np.where(inside, vectors[:, np.clip(wanted, 0, size - 1)], 0.0)
        self.polynomials = polynomials(self.bins, TERMS)
        self.parameters = len(vectors) + TERMS
        self._pairs = np.tril_indices(len(vectors))
        self._length = fft.next_fast_len(self.vectors.shape[1], real=True)
        self.products = self.vectors[self._pairs[0]] * self.vectors[self._pairs[1]]
        self._forward = fft.rfft(self.vectors, self._length)
        self._squares = fft.rfft(self.products, self._length)

    def at(self, shift: int) -> Array:
        """Return templates and polynomials over the grid at one shift, shape (m + terms, bins)."""
        start = int(self.shifts[-1]) - shift
        return np.concatenate([self.vectors[:, start : start + self.bins], self.polynomials])

    def fit(self, flux: Array, weight: Array) -> tuple[Array, Array]:
        """Fit one spectrum at all shifts.

        Parameters
        ----------
        flux, weight : ndarray, shape (bins,)
            Flux, and inverse variance, 0 where invalid.

        Returns
        -------
        chi2 : ndarray, shape (s,)
            Infinite where a single template, which is a star's own light, would have to be negative.
        amplitudes : ndarray, shape (s, m + terms)
        """
        m, count = len(self.vectors), len(self.shifts)
        rows = np.concatenate([[weight, weight * flux], weight * self.polynomials])
        seen = np.conj(fft.rfft(rows, self._length))
        squares = fft.irfft(self._squares * seen[0], self._length)[:, count - 1 :: -1]
        mixed = fft.irfft(self._forward[:, None] * seen[None, 1:], self._length)[..., count - 1 :: -1]
        normal = np.empty((count, self.parameters, self.parameters))
        right = np.empty((count, self.parameters))
        normal[:, self._pairs[0], self._pairs[1]] = squares.T
        normal[:, m:, :m] = mixed[:, 1:].T
        normal[:, m:, m:] = (self.polynomials * weight) @ self.polynomials.T
        right[:, :m] = mixed[:, 0].T
        right[:, m:] = self.polynomials @ (weight * flux)
        fall, amplitudes = explained(normal, right)
        chi2 = weight @ flux**2 - fall
        return (np.where(amplitudes[:, 0] > 0, chi2, np.inf) if m == 1 else chi2), amplitudes

    def redshift(self, chi2: Array) -> float:
        """Return the redshift of the lowest χ², by a parabola through it and its neighbours."""
        return float(self.parabola(chi2, np.array([chi2.argmin()]))[0][0])

    def parabola(self, chi2: Array, at: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return redshifts and their widths at minima of χ², see `vertex`; at the edge that of the bin."""
        middle = np.clip(at, 1, len(chi2) - 2)
        three = chi2[middle[:, None] + np.arange(-1, 2)]
        three[(middle != at) | ~np.isfinite(three).all(axis=1)] = 0
        return vertex(three, self.shifts[at], self.step, 0.5)


def vertex(chi2: Array, shift: NDArray[Any], step: float, farthest: float) -> tuple[Array, Array]:
    """Return the redshift of the parabola through three values of χ², and where χ² is one higher.

    Parameters
    ----------
    chi2 : ndarray, shape (…, 3)
        At the shift and one step to either side.
    shift : ndarray, shape (…)
        In units of the step.
    step : float
        In log10(1 + z).
    farthest : float
        Steps by which the vertex may lie from the shift.

    Returns
    -------
    redshift : ndarray, shape (…)
    width : ndarray, shape (…)
        In ln(1 + z), at most `CLOSE`.
    """
    left, middle, right = np.moveaxis(chi2, -1, 0)
    curvature = np.maximum(left - 2 * middle + right, 1e-30)
    offset = np.clip(0.5 * (left - right) / curvature, -farthest, farthest)
    width = np.minimum(LN10 * step * np.sqrt(2 / curvature), CLOSE)
    return np.asarray(10 ** ((shift + offset) * step) - 1), np.asarray(width)


def smooth_chi2(flux: Array, weight: Array) -> Array:
    """Return χ² of the best smooth spectrum, a polynomial, for each object, shape (n,)."""
    lit = weight * flux
    fall, _ = explained(*normal_equations(polynomials(flux.shape[1], SMOOTH_TERMS), lit, weight))
    return np.asarray((lit * flux).sum(axis=1) - fall)


def normal_equations(basis: Array, lit: NDArray[Any], weight: NDArray[Any]) -> tuple[Array, Array]:
    """Return the lower half of the normal matrix and the right side of each spectrum's fit by one basis.

    Parameters
    ----------
    basis : ndarray, shape (m, bins)
    lit, weight : ndarray, shape (n, bins)
        Weight times flux, and weight.

    Returns
    -------
    ndarray, shape (n, m, m); ndarray, shape (n, m)
    """
    rows, columns = np.tril_indices(len(basis))
    normal = np.zeros((len(lit), len(basis), len(basis)))
    normal[:, rows, columns] = weight @ (basis[rows] * basis[columns]).T
    return normal, lit @ basis.T


def probabilities(penalised: Array, per_bin: Array) -> Array:
    """Return class probabilities from each class's lowest penalised χ², shape (n, classes).

    They go as exp(−χ²/2). Where even the best fit has χ² above one a bin, templates and errors are known
    worse than σ says, and differences count by so much less.
    """
    scaled = penalised / np.maximum(per_bin, 1.0)[:, None]
    odds = np.exp(-0.5 * (scaled - scaled.min(axis=1, keepdims=True)))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


class Evidence(NamedTuple):
    """What fits say of n objects.

    Attributes
    ----------
    penalised : ndarray, shape (n, sets)
        χ² + parameters · ln(valid bins), the information criterion of Schwarz (1978, Ann. Statist. 6, 461):
        sets differ in their number of parameters.
    redshift : ndarray, shape (n, sets)
    significance : ndarray, shape (n,)
        By how much the best set's χ² is below a smooth spectrum's, in units of the χ² that it leaves a bin: σ
        that are wrong by one factor do not change it.
    per_bin : ndarray, shape (n,)
        Lowest χ² a valid bin.
    """

    penalised: Array
    redshift: Array
    significance: Array
    per_bin: Array


def fit_all(
    sets: Sequence[TemplateSet], shifted: Sequence[Shifted], flux: Array, weight: Array
) -> tuple[Evidence, Peaks]:
    """Fit every set of templates at every redshift to each of n spectra, given as `weighted` returns them."""
    n = len(flux)
    chi2, redshift = np.empty((n, len(shifted))), np.empty((n, len(shifted)))
    candidates = {j: Candidates.none(n) for j, s in enumerate(sets) if s.kind != "STAR"}
    for i in range(n):
        for j, templates in enumerate(shifted):
            curve, _ = templates.fit(flux[i], weight[i])
            chi2[i, j], redshift[i, j] = curve.min(), templates.redshift(curve)
            if j in candidates:
                at = dips(curve, PEAKS, int(CLOSE / (LN10 * templates.step)))
                candidates[j].above[i, : len(at)] = curve[at] - chi2[i, j]
                there = candidates[j].redshift[i], candidates[j].width[i]
                there[0][: len(at)], there[1][: len(at)] = templates.parabola(curve, at)
    found = evidence(chi2, redshift, [templates.parameters for templates in shifted], flux, weight)
    return found, peaks(sets, found, candidates)


class Candidates(NamedTuple):
    """Redshifts of n objects at which a set of templates fits well, each array of shape (n, `PEAKS`).

    Attributes
    ----------
    above : ndarray
        χ² above the set's lowest; infinite where there is no candidate.
    redshift, width : ndarray
        See `vertex`.
    """

    above: Array
    redshift: Array
    width: Array

    @classmethod
    def none(cls, n: int) -> Candidates:
        """Return room for candidates of n objects."""
        return cls(np.full((n, PEAKS), np.inf), np.zeros((n, PEAKS)), np.full((n, PEAKS), CLOSE))


def peaks(sets: Sequence[TemplateSet], found: Evidence, candidates: Mapping[int, Candidates]) -> Peaks:
    """Return the candidates of all sets; of all stars, fitted near rest, the best."""
    chi2, redshift, width, kind = [], [], [], []
    for j, own in candidates.items():
        chi2.append(found.penalised[:, j, None] + own.above)
        redshift.append(own.redshift)
        width.append(own.width)
        kind += [KINDS.index(sets[j].kind)] * PEAKS
    stars = np.array([j for j in range(len(sets)) if j not in candidates], dtype=np.int64)
    if len(stars):
        best = stars[found.penalised[:, stars].argmin(axis=1)][:, None]
        chi2.append(np.take_along_axis(found.penalised, best, axis=1))
        redshift.append(np.take_along_axis(found.redshift, best, axis=1))
        width.append(np.full((len(best), 1), _STAR_WIDTH))
        kind.append(KINDS.index("STAR"))
    redshifts, widths, depths = (np.concatenate(arrays, axis=1) for arrays in (redshift, width, chi2))
    return Peaks(redshifts, widths, depths, np.array(kind), found.per_bin)


def evidence(chi2: Array, redshift: Array, parameters: Sequence[int], flux: Array, weight: Array) -> Evidence:
    """Weigh what the best fit of each set of templates leaves, χ² of shape (n, sets)."""
    valid = np.maximum((weight > 0).sum(axis=1), 1)
    penalised = np.minimum(chi2, 1e30) + np.asarray(parameters) * np.log(valid)[:, None]
    best = np.take_along_axis(chi2, penalised.argmin(axis=1)[:, None], axis=1)[:, 0]
    per_bin = best / valid
    significance = (smooth_chi2(flux, weight) - best) / np.maximum(per_bin, 1e-9)
    return Evidence(penalised, redshift, significance, per_bin)


def least_evidence(significance: Array, rejection: float) -> float:
    """Return below which significance an object counts as unknown.

    It is `EMPTY`, or what all but few known objects reach, whatever is less.

    Parameters
    ----------
    significance : ndarray, shape (n,)
        Of known objects.
    rejection : float
        Share of them that may lie below.
    """
    return min(float(np.quantile(significance, rejection)), EMPTY)


def require_evidence(level: Any, folder: Path) -> float:
    """Return what `least_evidence` gave, refusing what it cannot give.

    Raises
    ------
    StoreError
    """
    if not isinstance(level, float) or not -1e30 < level <= EMPTY:
        raise StoreError("has a threshold that is none", remedy="train the model again", path=folder)
    return level


def write_templates(sets: Sequence[TemplateSet]) -> tuple[dict[str, NDArray[Any]], list[list[Any]]]:
    """Return templates as arrays for `skyfuse.models.files.write_arrays` and the rest as JSON."""
    arrays = {f"templates.{i}": s.vectors.astype(np.float32) for i, s in enumerate(sets)}
    return arrays, [[s.kind, s.type, s.name, s.first, s.low, s.high] for s in sets]


def template_layout(notes: Sequence[Sequence[Any]]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the layout of the arrays of `write_templates`."""
    return {f"templates.{i}": ("f4", (f"vectors.{i}", f"bins.{i}")) for i in range(len(notes))}


def restore_templates(
    arrays: dict[str, NDArray[Any]], notes: Sequence[Sequence[Any]], folder: Path
) -> list[TemplateSet]:
    """Return the templates that `write_templates` took apart.

    Raises
    ------
    StoreError
        If the notes are no description of templates.
    """
    sets = []
    for i, note in enumerate(notes):
        kind, star, name, first, low, high = note
        if kind not in ("GALAXY", "QSO", "STAR") or not -0.02 <= low < high < 10 or abs(first) > 10**5:
            raise StoreError("describes no templates", remedy="train the model again", path=folder)
        vectors = arrays[f"templates.{i}"].astype(np.float64)
        sets.append(TemplateSet(kind, str(star), str(name), int(first), vectors, low, high))
    return sets


def check_parameters(templates: str, rejection: float) -> None:
    """Refuse parameters that no template model can have.

    Raises
    ------
    UsageError
    """
    if not isinstance(templates, str):
        raise UsageError(f"templates is {templates!r}", remedy="give a folder's path as text")
    if isinstance(rejection, bool) or not isinstance(rejection, int | float) or not 0 <= rejection < 0.5:
        raise UsageError(f"rejection is {rejection!r}", remedy="give 0 or more and less than 0.5")


def require_templates(folder: str) -> list[TemplateSet]:
    """Read the templates that a fit needs.

    Raises
    ------
    UsageError
        If none are named, or they cannot be read.
    """
    if not folder:
        raise UsageError(
            "template models need eigentemplates",
            remedy="give their folder: --templates DIR, or templates=DIR in Python",
        )
    return read_templates(folder)


class TemplateModel(Model):
    """What models that fit eigentemplates share: sets, the level of `unknown`, and a redshift's density.

    Parameters
    ----------
    templates : str
        Folder of the SDSS pipeline's eigentemplates, see `read_templates`; needed by `fit` alone.
    rejection : float, default 0.02
        Share of known objects that may be called unknown.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})
    reads_sigma: ClassVar[bool] = True
    reads_templates: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)

    _sets: list[TemplateSet]
    _threshold: float
    _posterior: Posterior

    def __init__(self, *, templates: str = "", rejection: float = 0.02) -> None:
        check_parameters(templates, rejection)
        super().__init__(templates=templates, rejection=rejection)

    def _state(self, notes: list[list[Any]]) -> dict[str, Any]:
        """Return what is kept beside the arrays of the sets, which `notes` describe."""
        posterior = {"posterior": self._posterior._asdict()} if self.kind == "regression" else {}
        return {"sets": notes, "threshold": self._threshold, **posterior}


class Template(TemplateModel):
    """Least-squares fit of eigentemplates and a quadratic at every redshift (Bolton et al. 2012).

    Each kind of template has its range of redshifts; the class is that of
    the lowest penalised χ² (see `Evidence`), the redshift the most probable of all kinds'
    candidates (see `skyfuse.models.peaks.Posterior`, which alone learns from labels). An object is called
    unknown where the best fit is hardly better than a smooth polynomial: as little as on empty sky (`EMPTY`),
    or less than it is for all but a share `rejection` of the objects given to `fit`.

    Reads spectra at any zoom of the grid ``sdss``, with their σ where it is given.

    Parameters
    ----------
    templates : str
        Folder of the SDSS pipeline's eigentemplates, see `read_templates`; needed by `fit` alone.
    rejection : float, default 0.02
        Share of known objects that may be called unknown.
    """

    name: ClassVar[str] = "template"
    title: ClassVar[str] = "Template fit"
    libraries: ClassVar[tuple[str, ...]] = ("scipy", "numba", "safetensors")

    def _fit(self, lesson: Lesson) -> History:
        require_spectra(lesson.shapes)
        self._take_up(require_templates(self.params["templates"]))
        random = np.random.default_rng(lesson.seed)
        found, labels = [], []
        for x, y in ((lesson.train, lesson.y), (lesson.valid, lesson.y_valid)):
            rows = np.sort(random.permutation(len(y))[:_CHECKED])
            found.append(self._evidence({name: array[rows] for name, array in x.items()}))
            labels.append(y[rows])
        significance = np.concatenate([one.significance for one, _ in found])
        self._threshold = least_evidence(significance, self.params["rejection"])
        if self.kind == "regression":
            several = Peaks.joined([peaks for _, peaks in found])
            self._posterior = Posterior.fit(several, np.concatenate(labels))
        train, valid = (loss(self._answer(*f), y, lesson.kind) for f, y in zip(found, labels, strict=True))
        return History(train=[train], valid=[valid], best=0, metric=METRIC[lesson.kind])

    def _take_up(self, sets: list[TemplateSet]) -> None:
        """Keep the sets that the classes need, ready for the zoom of the inputs."""
        if self.kind == "classification":
            index = classes_of(sets, self.classes)
            sets = [s for s, i in zip(sets, index, strict=True) if i >= 0]
            self._class = index[index >= 0]
        self._sets = sets
        self._zoom = zoom_of(self.shapes["spectrum"][0])
        self._shifted = [Shifted(s, self._zoom) for s in sets]

    def _evidence(self, x: Arrays) -> tuple[Evidence, Peaks]:
        return fit_all(self._sets, self._shifted, *weighted(x, self._zoom))

    def _answer(self, found: Evidence, several: Peaks) -> Array:
        if self.kind == "regression":
            return self._posterior.values(several)
        lowest = lowest_of_class(found.penalised, self._class, len(self.classes))
        return probabilities(lowest, found.per_bin)

    def _predict(self, x: Arrays) -> Output:
        found, several = self._evidence(x)
        mixture = self._posterior.mixture(several) if self.kind == "regression" else None
        unknown = np.asarray(found.significance < self._threshold)
        return Output(self._answer(found, several), unknown, mixture=mixture)

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays, notes = write_templates(self._sets)
        files.write_arrays(arrays, folder)
        return self._state(notes)

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        notes = state["sets"]
        arrays = files.read_arrays(folder, template_layout(notes))
        require_spectra(self.shapes)
        self._take_up(restore_templates(arrays, notes, folder))
        self._threshold = require_evidence(state["threshold"], folder)
        if self.kind == "regression":
            self._posterior = Posterior.from_dict(state["posterior"])


def require_spectra(shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse inputs other than spectra.

    Raises
    ------
    UsageError
    """
    if not set(shapes) <= {"spectrum", "spectrum_sigma"} or "spectrum" not in shapes:
        raise UsageError(
            f"template models read spectra alone, not {' and '.join(shapes)}",
            remedy="give them the spectrum, and join others by late fusion",
        )


def lowest_of_class(penalised: Array, index: NDArray[np.int64], classes: int) -> Array:
    """Return each class's lowest penalised χ², (n, classes); out of reach for classes without templates."""
    lowest = np.full((len(penalised), classes), 1e30)
    for i in set(index.tolist()):
        lowest[:, i] = penalised[:, index == i].min(axis=1)
    return lowest
