"""Redshift and class from a network that proposes and a template fit that decides.

The network learns from spectra drawn from the eigentemplates in the image of the training part: amplitudes,
noise and gaps are those of training spectra, redshifts go beyond theirs. Its few proposals are fitted, where
the full fit (`skyfuse.models.template.Template`) tries thousands of redshifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax

from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import History, Lesson, Model, Output
from skyfuse.models.inputs import Arrays
from skyfuse.models.peaks import CLOSE, PEAKS, Peaks, Posterior
from skyfuse.models.stars import SYSTEMS, Floats, Stars, bends, flattened, one_peaked
from skyfuse.models.template import (
    LN10,
    Array,
    Candidates,
    Evidence,
    Shifted,
    TemplateSet,
    check_parameters,
    classes_of,
    evidence,
    explained,
    least_evidence,
    lowest_of_class,
    normal_equations,
    peaks,
    polynomials,
    probabilities,
    require_spectra,
    require_templates,
    restore_templates,
    template_layout,
    vertex,
    weighted,
    write_templates,
    zoom_of,
)
from skyfuse.models.uncertainty import Conformal
from skyfuse.words import Kind, Progress

ZOOM = 2
"""Zoom at which spectra are drawn and fitted, 276 km/s a bin: a full fit loses neither class nor redshift
by it, and costs a quarter."""

CELL = 4
"""Bins of a cell, even, the step in which the network tells redshifts: 0.0037 in ln(1 + z)."""

PROPOSALS = {"GALAXY": 3, "QSO": 4}
"""Cells of each kind that are fitted."""

_SHARE = {"GALAXY": 0.35, "QSO": 0.45, "STAR": 0.2}
"""Share of each kind among drawn spectra; quasars have the most redshifts."""

_SOURCES = 1000
"""Training spectra at most after which spectra are drawn."""

_CONTINUUM_TERMS = 4
"""Polynomial terms of the continuum that is taken off before the network looks for lines."""

_HELD = 200
"""Stars drawn for each member from the templates that it does not see."""

_LAYERS = 3
_MOST_MEMBERS = 99


class Source(NamedTuple):
    """A training spectrum as a pattern: template set, shift, and amplitudes in units of its median flux."""

    template: int
    shift: int
    amplitudes: Array


class Held(NamedTuple):
    """Stars drawn from templates that a network did not see: its probabilities (n, classes), and classes."""

    probability: Array
    label: NDArray[np.int64]

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], folder: Path) -> Held:
        """Take it out of a model's arrays, refusing numbers that are no probabilities or classes."""
        found = cls(arrays["held.probability"], arrays["held.label"])
        n, classes = found.probability.shape
        sums = found.probability.sum(axis=1)
        if (
            not n
            or not (found.probability >= 0).all()
            or np.abs(sums - 1).max() > 1e-6
            or not ((found.label >= 0) & (found.label < classes)).all()
        ):
            raise StoreError("holds no probabilities of stars", remedy="train the model again", path=folder)
        return found


class _Coarse:
    """What the sorting out of proposals needs of `Shifted`."""

    def __init__(self, shifted: Shifted) -> None:
        self.shifts = shifted.shifts
        self.floats = tuple(
            a.astype(np.float32) for a in (shifted.vectors, shifted.products, shifted.polynomials)
        )


class _Found(NamedTuple):
    """What network and fits say of some spectra: evidence, candidates of a regression, log odds of cells."""

    evidence: Evidence
    peaks: Peaks | None
    odds: Floats


class Hybrid(Model):
    """Network that proposes redshifts and least squares of eigentemplates that choose among them.

    A network with two hidden layers sees each spectrum with 8 native bins joined: the asinh of the deviation
    from a smooth continuum in units of σ, the flux in units of its own scale, and the signal-to-noise ratio.
    It gives a probability to each cell of redshift of galaxies and quasars, and to each type of star. The
    best cells of each kind are fitted as `Template` fits all; stars are fitted at rest. A redshift comes with
    a density that has as many peaks as the fits leave open (`skyfuse.models.peaks`).

    Where all classes are types of stars there is no redshift to propose: networks alone decide, from the
    spectrum over its running mean, which does not depend on the flux calibration and so serves other surveys
    too. They learn probabilities of the classes (`skyfuse.models.stars`), which are ordered by temperature:
    sets of classes have no holes. Each of several members learns without a part of the templates; stars
    drawn from that part show it what new stars are. `calibrate` then takes its objects or these, whatever is
    harder to tell.

    Parameters
    ----------
    templates : str
        Folder of the SDSS pipeline's eigentemplates; needed by `fit` alone.
    draws : int, default 40000
        Spectra drawn to train on.
    epochs : int, default 10
        Passes over the drawn spectra.
    width : int, default 384
        Units of each hidden layer.
    learning_rate : float, default 2e-3
        Highest of a one-cycle course (Smith & Topin 2019) with AdamW.
    dropout : float, default 0.1
        Share of the hidden units left out at each step.
    members : int, default 1
        Networks, each trained on draws of its own; their mean probability counts.
    system : str, default 'mk'
        Who gives stars their types, see `skyfuse.startypes.shares`.
    rejection : float, default 0.02
        Share of known objects that may be called unknown, see `Template`.
    threads : int, default 1
        CPU threads of the training.
    """

    name: ClassVar[str] = "hybrid"
    title: ClassVar[str] = "Hybrid of network and templates"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})
    reads_sigma: ClassVar[bool] = True
    reads_templates: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numba", "safetensors")
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "templates": "",
            "draws": 40_000,
            "epochs": 10,
            "width": 384,
            "learning_rate": 2e-3,
            "dropout": 0.1,
            "members": 1,
            "system": "mk",
            "rejection": 0.02,
            "threads": 1,
        }
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**self.completed(params))
        params = self.params
        check_parameters(params["templates"], params["rejection"])
        if params["system"] not in SYSTEMS:
            raise UsageError(f"system is {params['system']!r}", remedy=f"give one of {', '.join(SYSTEMS)}")
        whole = ("epochs", "width", "members", "threads")
        if (
            min(params[name] for name in whole) < 1
            or params["members"] > _MOST_MEMBERS
            or params["draws"] < 256
            or not (0 < params["learning_rate"] < 1 and 0 <= params["dropout"] < 1)
        ):
            told = ", ".join(
                f"{name} {params[name]}" for name in ("draws", "learning_rate", "dropout", *whole)
            )
            raise UsageError(
                f"of {told} one is out of range",
                remedy="give 256 draws or more, rates between 0 and 1, and 1 or more for the others, "
                f"{_MOST_MEMBERS} members at most",
            )

    def _take_up(self, sets: list[TemplateSet]) -> None:
        """Keep the sets that the classes need, and lay out the cells of the network's answer."""
        self._class = np.zeros(len(sets), dtype=np.int64)
        if self.kind == "classification":
            index = classes_of(sets, self.classes)
            sets = [s for s, i in zip(sets, index, strict=True) if i >= 0]
            self._class = index[index >= 0]
        self._sets = sets
        self._zoom = max(zoom_of(self.shapes["spectrum"][0]), ZOOM)
        self._shifted = [Shifted(s, self._zoom) for s in sets]
        # Proposals are sorted out with two bins joined and in single precision, eight times faster.
        self._coarse = {
            i: _Coarse(Shifted(s, self._zoom + 1)) for i, s in enumerate(sets) if s.kind != "STAR"
        }
        self._wide = list(self._coarse)
        self._basis = polynomials(self._shifted[0].bins // 2, _CONTINUUM_TERMS)
        self._single = np.array([i for i, s in enumerate(sets) if len(s.vectors) == 1])
        stars = [self._shifted[i].at(0)[0] for i in self._single]
        self._starlight = np.array(stars) if stars else np.zeros((0, self._shifted[0].bins))
        self._types = sorted({s.type for s in sets if s.kind == "STAR"})
        # Cells: each wide set's redshifts one after the other, then the types of stars.
        self._first: dict[int, int] = {}
        self._cells = 0
        for i in self._wide:
            self._first[i] = self._cells
            self._cells += self._count(i)
        self._star = {name: self._cells + i for i, name in enumerate(self._types)}
        self._cells += len(self._types)
        self._stars = None
        if not self._wide:
            system = self.params["system"]
            self._stars = Stars(sets, self._shifted, self._class, self.classes, system)
            self._cells = len(self.classes)

    def _count(self, i: int) -> int:
        """Return the number of cells of a set."""
        return -(-len(self._shifted[i].shifts) // CELL)

    def _fit(self, lesson: Lesson) -> History:
        require_spectra(lesson.shapes)
        self._take_up(require_templates(self.params["templates"]))
        random = np.random.default_rng(lesson.seed)
        rows = np.sort(random.permutation(len(lesson.y))[:_SOURCES])
        flux, weight = weighted({name: a[rows] for name, a in lesson.train.items()}, self._zoom)
        sources, noise = self._patterns(flux, weight, lesson.y[rows])
        self._members: list[list[tuple[Floats, Floats]]] = []
        self._held = None
        if self._stars is None:
            for member in range(self.params["members"]):
                drawn, label = self._draw(sources, noise, random)
                self._learn(self._inputs(*_coarser(*drawn)), label, lesson.seed + member, lesson.progress)
        else:
            self._held = self._learn_stars(self._stars, noise, random, lesson)
        found = [self._evidence(x) for x in (lesson.train, lesson.valid)]
        significance = np.concatenate([f.evidence.significance for f in found])
        self._threshold = least_evidence(significance, self.params["rejection"])
        if several := [f.peaks for f in found if f.peaks is not None]:
            self._posterior = Posterior.fit(Peaks.joined(several), np.concatenate([lesson.y, lesson.y_valid]))
        train, valid = (self._answer(f) for f in found)
        return lesson.history(train, valid)

    def _learn(self, inputs: Floats, label: NDArray[Any], seed: int, progress: Progress | None) -> None:
        """Train one more member on drawn spectra."""
        if not self._members:
            self._mean, self._std = inputs.mean(axis=0), inputs.std(axis=0) + np.float32(1e-3)
        inputs -= self._mean
        inputs /= self._std
        self._members.append(_train(inputs, label, self._cells, self.params, seed, progress))

    def _learn_stars(
        self, stars: Stars, noise: Array, random: np.random.Generator, lesson: Lesson
    ) -> Held | None:
        """Train the members; return what each makes of stars like the templates that it did not see."""
        count = self.params["members"]
        every = np.arange(len(self._sets))
        parts = stars.parts(count, random) if count > 1 else [every[:0]]
        probability, label = [], []
        for member, part in enumerate(parts):
            drawn = stars.draw(self.params["draws"], np.setdiff1d(every, part), noise, random)
            inputs = self._inputs(*_coarser(drawn.flux, drawn.weight))
            self._learn(inputs, drawn.target, lesson.seed + member, lesson.progress)
            if len(part):
                new = stars.draw(_HELD, part, noise, random)
                odds = self._odds(self._members[-1:], *_coarser(new.flux, new.weight))
                probability.append(one_peaked(softmax(odds.astype(np.float64), axis=1), stars.ordered))
                label.append([random.choice(len(p), p=p / p.sum()) for p in new.target.astype(np.float64)])
        return Held(np.concatenate(probability), np.concatenate(label)) if probability else None

    def calibrate(self, x: Arrays, y: ArrayLike, *, level: float = 0.9) -> None:
        """Calibrate on objects that took no part in the fit, see `Model.calibrate`.

        Spectra drawn from templates do not show what stars unlike these are. So types of stars are calibrated
        on stars like templates that a member did not see as well, and the larger sets count.
        """
        super().calibrate(x, y, level=level)
        if self._held is not None and self.interval is not None:
            ties = {"held": self._held.probability.astype(np.float32)}
            own = Conformal.fit(Output(self._held.probability), self._held.label, ties, level=level)
            if own.thresholds > self.interval.thresholds:
                self.interval = own

    def _patterns(self, flux: Array, weight: Array, y: NDArray[Any]) -> tuple[list[Source], Array]:
        """Describe training spectra by templates; return these and their σ in units of their median flux."""
        sources, noise = [], []
        for f, w, label in zip(flux, weight, y, strict=True):
            good = w > 0
            scale = abs(float(np.median(f[good]))) if good.any() else 0.0
            if scale == 0:
                continue
            sigma = np.full(len(f), np.nan)
            sigma[good] = 1 / (np.sqrt(w[good]) * scale)
            noise.append(sigma)
            best: tuple[float, Source] | None = None
            for i in self._wide:
                if self.kind == "classification" and self._class[i] != label:
                    continue
                templates = self._shifted[i]
                chi2, amplitudes = templates.fit(f, w)
                if self.kind == "regression":
                    # Two bins of room for a label that another pipeline measured.
                    shift = np.log10(1 + max(float(label), -0.9)) / templates.step
                    chi2 = np.where(np.abs(templates.shifts - shift) <= 2, chi2, np.inf)
                at = int(chi2.argmin())
                if np.isfinite(chi2[at]) and (best is None or chi2[at] < best[0]):
                    best = chi2[at], Source(i, int(templates.shifts[at]), amplitudes[at] / scale)
            if best is not None:
                sources.append(best[1])
        if not noise:
            raise DataError("no training spectrum has a valid bin", remedy="check the dataset's funnel")
        return sources, np.array(noise)

    def _draw(
        self, sources: list[Source], noise: Array, random: np.random.Generator
    ) -> tuple[tuple[Array, Array], NDArray[np.int64]]:
        """Draw spectra as (flux, weight), and the cell that each belongs to.

        The amplitudes of galaxies and quasars lie between those of two training spectra. Half of the
        redshifts scatter about those of training spectra, half are even in ln(1 + z). Stars are templates
        bent as flux calibration bends them.
        """
        n, bins = self.params["draws"], self._shifted[0].bins
        by_set = {i: [s for s in sources if s.template == i] for i in self._wide}
        choices = [i for i in self._wide if by_set[i]] + ([-1] if self._types else [])
        share = np.array([_SHARE["STAR"] if i < 0 else _SHARE[self._sets[i].kind] for i in choices])
        which = random.choice(choices, size=n, p=share / share.sum())
        flux, weight = np.empty((n, bins)), np.empty((n, bins))
        label = np.empty(n, dtype=np.int64)
        for row, i in enumerate(which):
            if i < 0:
                flux[row], label[row] = self._draw_star(random)
            else:
                flux[row], label[row] = self._draw_wide(i, by_set[i], random)
        flux /= np.maximum(np.abs(np.median(flux, axis=1, keepdims=True)), 0.1)
        sigma = noise[random.integers(len(noise), size=n)]
        sigma *= 10 ** random.uniform(-0.3, 0.4, size=(n, 1))
        good = np.isfinite(sigma)
        weight = np.where(good, 1 / np.where(good, sigma, 1.0) ** 2, 0.0)
        flux += np.where(good, sigma, 0.0) * random.standard_normal(flux.shape)
        return (np.where(good, flux, 0.0), weight), label

    def _draw_wide(self, i: int, sources: list[Source], random: np.random.Generator) -> tuple[Array, int]:
        templates = self._shifted[i]
        one, other = (sources[k] for k in random.integers(len(sources), size=2))
        share = random.random()
        low, high = int(templates.shifts[0]), int(templates.shifts[-1])
        if random.random() < 0.5:
            spread = 0.02 / templates.step
            shift = int(np.clip(np.rint(random.normal(one.shift, spread)), low, high))
        else:
            shift = int(random.integers(low, high + 1))
        amplitudes = share * one.amplitudes + (1 - share) * other.amplitudes
        return amplitudes @ templates.at(shift), self._first[i] + (shift - low) // CELL

    def _draw_star(self, random: np.random.Generator) -> tuple[Array, int]:
        name = self._types[random.integers(len(self._types))]
        like = [k for k, s in enumerate(self._sets) if s.kind == "STAR" and s.type == name]
        templates = self._shifted[like[random.integers(len(like))]]
        m = len(templates.vectors)
        shift = int(random.integers(templates.shifts[0], templates.shifts[-1] + 1))
        flux = np.concatenate([[1.0], random.normal(0, 0.3, m - 1)]) @ templates.at(shift)[:m]
        return flux * bends(1, len(flux), random)[0], self._star[name]

    def _inputs(self, value: Floats, joined: Floats) -> Floats:
        """Return what the network sees of spectra as `_coarser` gives them."""
        if self._stars is not None:
            return flattened(value, joined)
        lit = joined * value
        basis = self._basis
        _, amplitudes = explained(*normal_equations(basis, lit, joined))
        continuum = (amplitudes @ basis).astype(np.float32)
        power = np.maximum(joined.sum(axis=1), np.float32(1e-30))
        scale = np.sqrt((lit * value).sum(axis=1) / power) + np.float32(1e-30)
        level = scale * np.sqrt(np.median(joined, axis=1))
        return np.concatenate(
            [
                np.arcsinh((value - continuum) * np.sqrt(joined)) / 2,
                np.clip(value / scale[:, None], -2, 4),
                np.log(np.maximum(level, np.float32(1e-3)))[:, None] / 3,
            ],
            axis=1,
        )

    def _odds(self, members: Sequence[list[tuple[Floats, Floats]]], value: Floats, joined: Floats) -> Floats:
        """Return the log odds that some networks give to each cell, (n, cells)."""
        x = self._inputs(value, joined)
        x -= self._mean
        x /= self._std
        found = []
        for layers in members:
            y = x
            for i, (matrix, offset) in enumerate(layers):
                y = y @ matrix + offset
                if i < _LAYERS - 1:
                    np.maximum(y, 0, out=y)
            found.append(y)
        if len(found) == 1:
            return np.asarray(found[0])
        return np.asarray(logsumexp([log_softmax(y, axis=1) for y in found], axis=0))

    def _evidence(self, x: Arrays) -> _Found:
        flux, weight = weighted(x, self._zoom)
        coarse = _coarser(flux, weight)
        odds = self._odds(self._members, *coarse)
        n = len(flux)
        chi2, redshift = np.full((n, len(self._sets)), np.inf), np.zeros((n, len(self._sets)))
        tried = {i: self._proposals(i, odds) for i in self._wide}
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
            at = tried[i][np.arange(n), curves[i].argmin(axis=1)]
            chi2[:, i], redshift[:, i], width = self._settled(i, flux, weight, 2 * at)
            if self.kind == "regression":
                candidates[i] = self._candidates(i, *coarse, tried[i], curves[i])
                candidates[i].redshift[:, 0], candidates[i].width[:, 0] = redshift[:, i], width
        for i, s in enumerate(self._sets):
            if s.kind == "STAR" and i not in self._single:
                chi2[:, i], redshift[:, i], _ = self._settled(i, flux, weight, np.zeros(n, dtype=np.int64))
        if len(self._single):
            chi2[:, self._single] = _at_rest(self._starlight, self._shifted[0].polynomials, flux, weight)
        parameters = [templates.parameters for templates in self._shifted]
        found = evidence(chi2, redshift, parameters, flux, weight)
        return _Found(found, peaks(self._sets, found, candidates) if candidates else None, odds)

    def _proposals(self, i: int, odds: Floats) -> NDArray[np.int64]:
        """Return coarse shifts of a set in the cells that the network finds most probable, (n, k)."""
        cells = odds[:, self._first[i] : self._first[i] + self._count(i)]
        count = min(PROPOSALS[self._sets[i].kind], cells.shape[1])
        best = np.argpartition(-cells, count - 1, axis=1)[:, :count]
        first = (self._shifted[i].shifts[0] + best * CELL + 1) // 2
        return self._within(i, np.concatenate([first, first + 1], axis=1))

    def _within(self, i: int, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return coarse shifts, those out of a set's range at its ends."""
        own = self._coarse[i].shifts
        return np.clip(shifts, own[0], own[-1])

    def _fits(self, i: int, flux: Floats, weight: Floats, shifts: NDArray[np.int64]) -> Array:
        """Fit a set at some coarse shifts of each spectrum: χ², (n, k)."""
        templates = self._coarse[i]
        return np.asarray(_local(*templates.floats, flux, weight, templates.shifts[-1] - shifts))

    def _candidates(
        self, i: int, flux: Floats, weight: Floats, shifts: NDArray[np.int64], curve: Array
    ) -> Candidates:
        """Return the best of the coarse shifts that were tried, those but the first with their parabolas."""
        found = Candidates.none(len(flux))
        reach = int(CLOSE / (LN10 * 2 * self._shifted[i].step))
        curve, lowest = curve.copy(), curve.min(axis=1)
        found.above[:, 0] = 0
        own = self._coarse[i].shifts
        for k in range(1, PEAKS):
            last = np.take_along_axis(shifts, curve.argmin(axis=1)[:, None], axis=1)
            curve[np.abs(shifts - last) <= reach] = np.inf
            at = np.take_along_axis(shifts, curve.argmin(axis=1)[:, None], axis=1)
            at = np.clip(at, own[0] + 1, own[-1] - 1)
            three = self._fits(i, flux, weight, at + np.arange(-1, 2))
            found.above[:, k] = np.where(
                np.isfinite(curve).any(axis=1), np.maximum(three.min(axis=1) - lowest, 0), np.inf
            )
            found.redshift[:, k], found.width[:, k] = vertex(three, at[:, 0], 2 * self._shifted[i].step, 1)
        return found

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
        evidence, odds = found.evidence, found.odds
        if self._stars is None:
            return probabilities(
                lowest_of_class(evidence.penalised, self._class, len(self.classes)), evidence.per_bin
            )
        return one_peaked(softmax(odds.astype(np.float64), axis=1), self._stars.ordered)

    def _predict(self, x: Arrays) -> Output:
        found = self._evidence(x)
        mixture = None if found.peaks is None else self._posterior.mixture(found.peaks)
        unknown = np.asarray(found.evidence.significance < self._threshold)
        return Output(self._answer(found), unknown, mixture=mixture)

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays, notes = write_templates(self._sets)
        for m, layers in enumerate(self._members):
            for i, (matrix, offset) in enumerate(layers):
                arrays |= {f"layer.{m}.{i}.matrix": matrix, f"layer.{m}.{i}.offset": offset}
        arrays |= {"mean": self._mean, "std": self._std}
        if self._held is not None:
            arrays |= {"held.probability": self._held.probability, "held.label": self._held.label}
        files.write_arrays(arrays, folder)
        posterior = {"posterior": self._posterior._asdict()} if self.kind == "regression" else {}
        return {
            "sets": notes,
            "threshold": self._threshold,
            "held": self._held is not None,
            **posterior,
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        notes = state["sets"]
        units = ["inputs", *(f"hidden.{i}" for i in range(1, _LAYERS)), "cells"]
        layout = template_layout(notes) | dict.fromkeys(("mean", "std"), ("f4", ("inputs",)))
        members = range(self.params["members"])
        for m in members:
            for i in range(_LAYERS):
                layout[f"layer.{m}.{i}.matrix"] = ("f4", (units[i], units[i + 1]))
                layout[f"layer.{m}.{i}.offset"] = ("f4", (units[i + 1],))
        if state["held"]:
            layout |= {"held.probability": ("f8", ("held", "cells")), "held.label": ("i8", ("held",))}
        arrays = files.read_arrays(folder, layout)
        require_spectra(self.shapes)
        self._take_up(restore_templates(arrays, notes, folder))
        if arrays[f"layer.0.{_LAYERS - 1}.offset"].shape != (self._cells,):
            raise StoreError("has a network for other templates", remedy="train the model again", path=folder)
        self._mean, self._std = arrays["mean"], arrays["std"]
        self._members = [
            [(arrays[f"layer.{m}.{i}.matrix"], arrays[f"layer.{m}.{i}.offset"]) for i in range(_LAYERS)]
            for m in members
        ]
        self._threshold = float(state["threshold"])
        self._held = Held.read(arrays, folder) if state["held"] else None
        if self.kind == "regression":
            self._posterior = Posterior.from_dict(state["posterior"])


def _coarser(flux: Array, weight: Array) -> tuple[Floats, Floats]:
    """Join two bins by their weights; return flux and weight in single precision."""
    pairs = (len(flux), -1, 2)
    lit, joined = (weight * flux).reshape(pairs).sum(axis=2), weight.reshape(pairs).sum(axis=2)
    return (lit / np.maximum(joined, 1e-30)).astype(np.float32), joined.astype(np.float32)


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


def _train(
    inputs: Floats,
    label: NDArray[np.int64],
    cells: int,
    params: dict[str, Any],
    seed: int,
    progress: Progress | None,
) -> list[tuple[Floats, Floats]]:
    """Train the network and return its layers as (matrix, offset)."""
    import torch
    from torch import nn

    from skyfuse.models.pytorch import torch_state

    width, epochs = params["width"], params["epochs"]
    with torch_state(params["threads"], seed=seed):
        layers = [nn.Linear(inputs.shape[1], width), nn.Linear(width, width), nn.Linear(width, cells)]
        network = nn.Sequential(
            layers[0],
            nn.ReLU(),
            nn.Dropout(params["dropout"]),
            layers[1],
            nn.ReLU(),
            nn.Dropout(params["dropout"]),
            layers[2],
        )
        x, y = torch.from_numpy(inputs), torch.from_numpy(label)
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4, fused=True)
        batches = max(len(x) // 256, 1)
        course = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, params["learning_rate"], total_steps=epochs * batches
        )
        for epoch in range(epochs):
            total = 0.0
            for rows in torch.tensor_split(torch.randperm(len(x)), batches):
                entropy = nn.functional.cross_entropy(network(x[rows]), y[rows])
                optimiser.zero_grad()
                entropy.backward()  # type: ignore[no-untyped-call]  # as PyTorch leaves it
                optimiser.step()
                course.step()
                total += entropy.item()
            if progress is not None:
                progress(epoch + 1, epochs, f"log loss of drawn spectra {total / batches:.3f}")
        return [
            (np.ascontiguousarray(layer.weight.detach().numpy().T), layer.bias.detach().numpy().copy())
            for layer in layers
        ]
