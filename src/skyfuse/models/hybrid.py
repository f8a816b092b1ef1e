"""Redshift and class from a coarse scan that proposes and a template fit that decides.

How much of a spectrum a few templates explain at one redshift is, with the same weights for all spectra, the
length of its projection on them. Projections on orthonormal templates at all redshifts of coarse bins are one
matrix product. Its few proposals are fitted, where the full fit (`skyfuse.models.template.Template`) tries
thousands of redshifts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.cube.grid import SDSS
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import History, Lesson, Output
from skyfuse.models.inputs import Arrays
from skyfuse.models.peaks import CLOSE, PEAKS, Peaks, Posterior
from skyfuse.models.template import (
    LN10,
    STEP,
    TERMS,
    Array,
    Candidates,
    Evidence,
    Floats,
    Shifted,
    TemplateModel,
    TemplateSet,
    classes_of,
    coarser,
    evidence,
    explained,
    least_evidence,
    lowest_of_class,
    peaks,
    polynomials,
    probabilities,
    require_evidence,
    require_spectra,
    require_templates,
    restore_templates,
    template_layout,
    vertex,
    weighted,
    write_templates,
    zoom_of,
)

ZOOM = 2
"""Zoom at which spectra are fitted, 276 km/s a bin: a full fit loses neither class nor redshift by it, and
costs a quarter."""

SCANNED = 117
"""Bins in which redshifts are proposed, 2,200 km/s each: finer ones propose no better."""

PROPOSED = 3
"""Redshifts of each kind that are fitted, each with its neighbours. Of 62 real galaxies and 100 quasars all
were among the first two."""

_REACH = 2
"""Coarse bins within which two proposals would be one."""

_UNSURE = 0.05
"""Share of the lowest χ² within which coarse fits do not tell which redshift is better."""

_UNEVEN = 20.0
"""Ratio by which a bin of the scan may weigh more or less than others."""


class _Coarse:
    """What the sorting out of proposals needs of `Shifted`."""

    def __init__(self, shifted: Shifted) -> None:
        self.shifts = shifted.shifts
        self.floats = tuple(
            a.astype(np.float32) for a in (shifted.vectors, shifted.products, shifted.polynomials)
        )


class _Scan:
    """One set of templates at coarse redshifts.

    Parameters
    ----------
    shifted : Shifted
        With a number of bins that is a multiple of `SCANNED`.
    root : ndarray, shape (SCANNED,)
        Square roots of the weights of bins.
    """

    def __init__(self, shifted: Shifted, root: Array) -> None:
        self.block = shifted.bins // SCANNED
        self.shifts = np.arange(shifted.shifts[0], shifted.shifts[-1] + 1, self.block)
        m, smooth = len(shifted.vectors), polynomials(SCANNED, TERMS)
        rows = []
        for shift in self.shifts:
            light = shifted.at(int(shift))[:m].reshape(m, SCANNED, self.block).mean(axis=2)
            rows.append(np.linalg.qr((np.concatenate([light, smooth]) * root).T)[0])
        self._basis = np.concatenate(rows, axis=1).astype(np.float32)

    def proposals(self, flux: Floats) -> NDArray[np.int64]:
        """Return shifts to be fitted, (n, k), of spectra (n, SCANNED) times the roots of their weights."""
        n, count = len(flux), len(self.shifts)
        power = np.square(flux @ self._basis).reshape(n, count, -1).sum(axis=2)
        padded = np.pad(power, ((0, 0), (1, 1)), constant_values=-1)
        # Where nothing is left, the best again.
        best = power.argmax(axis=1)
        power[(power < padded[:, :-2]) | (power < padded[:, 2:])] = -1
        at, found = np.arange(count), []
        for _ in range(PROPOSED):
            top = power.argmax(axis=1)
            top = np.where(power[np.arange(n), top] > 0, top, best)
            found.append(self.shifts[top])
            power[np.abs(at - top[:, None]) <= _REACH] = -1
        half = self.block // 2
        near = np.stack(found, axis=1)[:, :, None] + np.arange(-half, half + 1)
        return np.asarray(near.reshape(n, -1))


class _Found(NamedTuple):
    """What fits say of some spectra: evidence, and the candidates of a regression."""

    evidence: Evidence
    peaks: Peaks | None


class Hybrid(TemplateModel):
    """Coarse scan that proposes redshifts and least squares of eigentemplates that choose among them.

    The scan sees each spectrum with 32 native bins joined, gaps bridged, every bin with the weight that it
    has in the median training spectrum. The best redshifts of galaxies and of quasars are fitted as
    `Template` fits all; stars are fitted at rest. A redshift comes with a density that has as many peaks as
    the fits leave open (`skyfuse.models.peaks`).

    Parameters
    ----------
    templates : str
        Folder of the SDSS pipeline's eigentemplates; needed by `fit` alone.
    rejection : float, default 0.02
        Share of known objects that may be called unknown, see `Template`.
    """

    name: ClassVar[str] = "hybrid"
    title: ClassVar[str] = "Hybrid of scan and templates"
    libraries: ClassVar[tuple[str, ...]] = ("numba", "safetensors")

    def _fit(self, lesson: Lesson) -> History:
        require_spectra(lesson.shapes)
        sets = require_templates(self.params["templates"])
        self._zoom = _zoom_of(self.shapes["spectrum"][0])
        _, weight = coarser(*weighted(lesson.train, self._zoom))
        self._take_up(sets, _typical(weight))
        found = [self._evidence(x) for x in (lesson.train, lesson.valid)]
        significance = np.concatenate([f.evidence.significance for f in found])
        self._threshold = least_evidence(significance, self.params["rejection"])
        if several := [f.peaks for f in found if f.peaks is not None]:
            self._posterior = Posterior.fit(Peaks.joined(several), np.concatenate([lesson.y, lesson.y_valid]))
        train, valid = (self._answer(f) for f in found)
        return lesson.history(train, valid)

    def _take_up(self, sets: list[TemplateSet], root: Array) -> None:
        """Keep the sets that the classes need, ready for the zoom of the inputs."""
        if self.kind == "classification":
            index = classes_of(sets, self.classes)
            sets = [s for s, i in zip(sets, index, strict=True) if i >= 0]
            self._class = index[index >= 0]
        self._sets, self._root = sets, root
        self._shifted = [Shifted(s, self._zoom) for s in sets]
        # Proposals are sorted out with two bins joined and in single precision, eight times faster.
        coarse = {i: Shifted(s, self._zoom + 1) for i, s in enumerate(sets) if s.kind != "STAR"}
        self._coarse = {i: _Coarse(shifted) for i, shifted in coarse.items()}
        self._scan = {i: _Scan(shifted, root) for i, shifted in coarse.items()}
        self._wide = list(coarse)
        # Of a regression, templates moved by 0, 1, 2 … native bins, for redshifts between those of the zoom.
        moves = range(1 << self._zoom) if self.kind == "regression" else ()
        self._phases = {
            i: [Shifted(sets[i]._replace(first=sets[i].first + move), self._zoom) for move in moves]
            for i in self._wide
        }
        self._single = np.array([i for i, s in enumerate(sets) if len(s.vectors) == 1], dtype=np.int64)
        stars = [self._shifted[i].at(0)[0] for i in self._single]
        self._stars = np.array(stars) if stars else np.zeros((0, self._shifted[0].bins))

    def _evidence(self, x: Arrays) -> _Found:
        flux, weight = weighted(x, self._zoom)
        coarse: tuple[Floats, Floats] = coarser(flux, weight)
        n = len(flux)
        chi2, redshift = np.full((n, len(self._sets)), np.inf), np.zeros((n, len(self._sets)))
        scanned = _bridged(*coarse) * self._root.astype(np.float32)
        tried = {i: self._within(i, self._scan[i].proposals(scanned)) for i in self._wide}
        curves = {i: self._fits(i, *coarse, shifts) for i, shifts in tried.items()}
        at_best = {i: tried[i][np.arange(n), curves[i].argmin(axis=1)] for i in self._wide}
        candidates = {}
        for i in self._wide:
            for j in self._wide:
                # What one kind takes for its line another may too: each is tried where others are best.
                if j != i:
                    there = self._within(i, at_best[j][:, None] + np.arange(-1, 2))
                    tried[i] = np.concatenate([tried[i], there], axis=1)
                    curves[i] = np.concatenate([curves[i], self._fits(i, *coarse, there)], axis=1)
            several = self._several(i, flux, weight, tried[i], curves[i])
            best = several[0].argmin(axis=1)[:, None]
            chi2[:, i], redshift[:, i] = (np.take_along_axis(a, best, axis=1)[:, 0] for a in several[:2])
            candidates[i] = Candidates(several[0] - chi2[:, i, None], *several[1:])
        for i, s in enumerate(self._sets):
            if s.kind == "STAR" and i not in self._single:
                chi2[:, i], redshift[:, i], _ = self._settled(i, flux, weight, np.zeros(n, dtype=np.int64))
        if len(self._single):
            chi2[:, self._single] = _at_rest(self._stars, self._shifted[0].polynomials, flux, weight)
        parameters = [templates.parameters for templates in self._shifted]
        found = evidence(chi2, redshift, parameters, flux, weight)
        if self.kind != "regression":
            return _Found(found, None)
        for i, own in candidates.items():
            won = np.flatnonzero(found.penalised.argmin(axis=1) == i)
            best = won, own.above[won].argmin(axis=1)
            own.redshift[best], own.width[best] = self._sharper(i, flux[won], weight[won], own.redshift[best])
        return _Found(found, peaks(self._sets, found, candidates))

    def _within(self, i: int, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return coarse shifts, those out of a set's range at its ends."""
        own = self._coarse[i].shifts
        return np.clip(shifts, own[0], own[-1])

    def _fits(self, i: int, flux: Floats, weight: Floats, shifts: NDArray[np.int64]) -> Array:
        """Fit a set at some coarse shifts of each spectrum: χ², (n, k)."""
        templates = self._coarse[i]
        return np.asarray(_local(*templates.floats, flux, weight, templates.shifts[-1] - shifts))

    def _several(
        self, i: int, flux: Array, weight: Array, shifts: NDArray[np.int64], curve: Array
    ) -> tuple[Array, Array, Array]:
        """Return χ², redshift and width of the best coarse shifts that were tried, each (n, `PEAKS`).

        The best, and what is nearly as good to a coarse fit, are fitted again; of others the coarse shift and
        how much worse it is must do.
        """
        step = self._shifted[i].step
        reach = int(CLOSE / (LN10 * 2 * step))
        rows, curve = np.arange(len(flux)), curve.copy()
        lowest = curve.min(axis=1)
        chi2, redshift, width = Candidates.none(len(flux))
        for k in range(PEAKS):
            best = curve.argmin(axis=1)
            at, above = shifts[rows, best], curve[rows, best] - lowest
            again = np.flatnonzero(above <= _UNSURE * lowest)
            if k:
                chi2[:, k] = chi2[:, 0] + above
                redshift[:, k], width[:, k] = 10 ** (2 * step * at) - 1, LN10 * 2 * step
            else:
                again = rows
            if len(again):
                settled = self._settled(i, flux[again], weight[again], 2 * at[again])
                chi2[again, k], redshift[again, k], width[again, k] = settled
            curve[np.abs(shifts - at[:, None]) <= reach] = np.inf
        return chi2, redshift, width

    def _sharper(self, i: int, flux: Array, weight: Array, redshift: Array) -> tuple[Array, Array]:
        """Return redshift and width by steps of half a bin; lines may be narrower than a bin."""
        block = 1 << self._zoom
        middle = np.rint(np.log10(1 + redshift) / STEP).astype(np.int64)
        low, high = (block * int(s) for s in self._shifted[i].shifts[[0, -1]])
        middle = np.clip(middle, low + block, high - block)
        chi2 = np.empty((len(flux), 3))
        for column, offset in enumerate((-block // 2, 0, block // 2)):
            shift, phase = np.divmod(middle + offset, block)
            for p in range(block):
                rows = np.flatnonzero(phase == p)
                if len(rows):
                    moved = self._phases[i][p]
                    start = (moved.shifts[-1] - shift[rows])[:, None]
                    arrays = moved.vectors, moved.products, moved.polynomials
                    chi2[rows, column] = _local(*arrays, flux[rows], weight[rows], start)[:, 0]
        return vertex(chi2, middle / (block // 2), STEP * (block // 2), 1)

    def _settled(self, i: int, flux: Array, weight: Array, at: NDArray[np.int64]) -> tuple[Array, ...]:
        """Return the lowest χ² near a shift, and redshift and width of the parabola through three values."""
        templates = self._shifted[i]
        middle = np.clip(at, templates.shifts[0] + 1, templates.shifts[-1] - 1)
        shifts = middle[:, None] + np.arange(-1, 2)
        arrays = (templates.vectors, templates.products, templates.polynomials)
        curve = _local(*arrays, flux, weight, templates.shifts[-1] - shifts)
        return curve.min(axis=1), *vertex(curve, middle, templates.step, 1)

    def _answer(self, found: _Found) -> Array:
        if found.peaks is not None:
            return self._posterior.values(found.peaks)
        lowest = lowest_of_class(found.evidence.penalised, self._class, len(self.classes))
        return probabilities(lowest, found.evidence.per_bin)

    def _predict(self, x: Arrays) -> Output:
        found = self._evidence(x)
        mixture = None if found.peaks is None else self._posterior.mixture(found.peaks)
        unknown = np.asarray(found.evidence.significance < self._threshold)
        return Output(self._answer(found), unknown, mixture=mixture)

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays, notes = write_templates(self._sets)
        files.write_arrays(arrays | {"root": self._root}, folder)
        return self._state(notes)

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        notes = state["sets"]
        layout = template_layout(notes) | {"root": ("f8", ("scanned",))}
        arrays = files.read_arrays(folder, layout, scanned=SCANNED)
        require_spectra(self.shapes)
        if not (arrays["root"] > 0).all():
            raise StoreError("holds weights that are none", remedy="train the model again", path=folder)
        self._zoom = _zoom_of(self.shapes["spectrum"][0])
        self._take_up(restore_templates(arrays, notes, folder), arrays["root"])
        self._threshold = require_evidence(state["threshold"], folder)
        if self.kind == "regression":
            self._posterior = Posterior.from_dict(state["posterior"])


def _zoom_of(bins: int) -> int:
    """Return the zoom at which spectra of so many bins are fitted."""
    zoom = max(zoom_of(bins), ZOOM)
    if zoom + 1 >= len(SDSS.sizes):
        raise UsageError(
            f"spectra of {bins} bins are too coarse for the hybrid",
            remedy=f"give it spectra at zoom {len(SDSS.sizes) - 2} or finer",
        )
    return zoom


def _typical(weight: Floats) -> Array:
    """Return square roots of the weights that bins of the scan have in most spectra, relative to others."""
    joined = weight.reshape(len(weight), SCANNED, -1).sum(axis=2, dtype=np.float64)
    ratio = np.full(joined.shape, np.nan)
    lit = (joined > 0).any(axis=1)
    ratio[lit] = joined[lit] / np.nanmedian(
        np.where(joined[lit] > 0, joined[lit], np.nan), axis=1, keepdims=True
    )
    ratio[joined <= 0] = np.nan
    seen = np.isfinite(ratio).any(axis=0)
    typical = np.ones(SCANNED)
    if seen.any():
        typical[seen] = np.nanmedian(ratio[:, seen], axis=0)
    return np.asarray(np.sqrt(np.clip(typical, 1 / _UNEVEN, _UNEVEN)))


def _bridged(flux: Floats, weight: Floats) -> Floats:
    """Return spectra in the bins of the scan, those without a valid bin from their neighbours."""
    shape = (len(flux), SCANNED, -1)
    joined = weight.reshape(shape).sum(axis=2)
    found = (weight * flux).reshape(shape).sum(axis=2) / np.maximum(joined, np.float32(1e-30))
    at = np.arange(SCANNED)
    for row in np.flatnonzero((joined <= 0).any(axis=1)):
        there = joined[row] > 0
        found[row] = np.interp(at, at[there], found[row, there]) if there.any() else 0
    return np.asarray(found)


@njit(cache=True, nogil=True, fastmath=True)
def _dots(
    one: Array | Floats, start: int, zero: Array | Floats, bent: Array | Floats
) -> tuple[float, float, float, float]:
    """Return the scalar products of a stretch of one array with another and with three more, in one pass."""
    # Begun as products, the sums have the arrays' own precision.
    a, b = one[start] * zero[0], one[start] * bent[0, 0]
    c, d = one[start] * bent[1, 0], one[start] * bent[2, 0]
    for k in range(1, len(zero)):
        v = one[start + k]
        a += v * zero[k]
        b += v * bent[0, k]
        c += v * bent[1, k]
        d += v * bent[2, k]
    return a, b, c, d


@njit(cache=True, nogil=True, fastmath=True)
def _dot(one: Array | Floats, start: int, other: Array | Floats) -> float:
    out = one[start] * other[0]
    for k in range(1, len(other)):
        out += one[start + k] * other[k]
    return float(out)


@njit(cache=True, nogil=True)
def _local(
    vectors: Array | Floats,
    products: Array | Floats,
    basis: Array | Floats,
    flux: Array | Floats,
    weight: Array | Floats,
    start: NDArray[np.int64],
) -> Array:
    """Return χ² (n, k) of n spectra at k shifts of a set of templates, given by first bins of `vectors`."""
    n, m = len(flux), len(vectors)
    out = np.empty(start.shape)
    normal, right = np.zeros((start.shape[1], m + 3, m + 3)), np.zeros((start.shape[1], m + 3))
    bent = np.empty_like(basis)
    for row in range(n):
        w, lit = weight[row], weight[row] * flux[row]
        for p in range(3):
            bent[p] = w * basis[p]
        for p in range(3):
            whole = _dots(basis[p], 0, lit, bent)
            right[:, m + p] = whole[0]
            for q in range(3):
                normal[:, m + p, m + q] = whole[1 + q]
        for column in range(start.shape[1]):
            a = start[row, column]
            pair = 0
            for i in range(m):
                sums = _dots(vectors[i], a, lit, bent)
                right[column, i] = sums[0]
                for p in range(3):
                    normal[column, m + p, i] = sums[1 + p]
                for j in range(i + 1):
                    normal[column, i, j] = _dot(products[pair], a, w)
                    pair += 1
        fall, _ = explained(normal, right)
        out[row] = _dot(lit, 0, flux[row]) - fall
    return out


def _at_rest(stars: Array, basis: Array, flux: Array, weight: Array) -> Array:
    """Return χ² of each star's template with a polynomial, (n, stars): infinite where its light is negative.

    The polynomial is eliminated first, so that all stars are a few matrix products.
    """
    terms = len(basis)
    rows, columns = np.divmod(np.arange(terms * terms), terms)
    normal = (weight @ (basis[rows] * basis[columns]).T).reshape(-1, terms, terms)
    normal += 1e-10 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(terms) + 1e-30 * np.eye(
        terms
    )
    inverse = np.linalg.inv(normal)
    lit = weight * flux
    right = lit @ basis.T
    # These two only weigh: single precision does.
    light, heavy = stars.T.astype(np.float32), weight.astype(np.float32)
    mixed = np.stack([(heavy * term) @ light for term in basis.astype(np.float32)], axis=1)
    solved = np.einsum("npq,nq->np", inverse, right)
    rest = lit @ stars.T - np.einsum("nps,np->ns", mixed, solved)
    norm = heavy @ light**2 - np.einsum("nps,nps->ns", mixed, inverse.astype(np.float32) @ mixed)
    smooth = (lit * flux).sum(axis=1) - (right * solved).sum(axis=1)
    return np.where(rest > 0, smooth[:, None] - rest**2 / np.maximum(norm, 1e-30), np.inf)
