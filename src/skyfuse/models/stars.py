"""Spectra of stars drawn from templates, in the image of another survey than theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from skyfuse.cube.grid import SDSS
from skyfuse.models.template import Array, Floats, Shifted, TemplateSet
from skyfuse.startypes import SEQUENCE, Star, shares, star_of

SYSTEMS = ("mk", "lamost")
"""Who gives types, see `skyfuse.startypes.shares`."""

_MIXED, _NEAR = 0.6, 3.0
"""Share of stars that lie between two templates, and subtypes by which these may differ."""


_STRENGTH = 0.8, 1.2
"""Range of factors on the depth of lines: stars differ in metals, and stray light fills lines."""


class Drawn(NamedTuple):
    """Some drawn spectra.

    Attributes
    ----------
    flux, weight : ndarray, shape (n, bins)
        As `skyfuse.models.template.weighted` gives them.
    target : ndarray of float32, shape (n, classes)
        Probability of each class.
    """

    flux: Array
    weight: Array
    target: Floats


class Stars:
    """Templates of stars whose types are the classes.

    Stars lie at templates or between two that are alike; the templates' own errors of type, and what the
    system makes of types, are in the probabilities of classes. Supergiants and peculiar stars are rare.

    Parameters
    ----------
    sets : sequence of TemplateSet
    shifted : sequence of Shifted
    index : ndarray of int64, shape (sets,)
        Class of each.
    classes : sequence of str
    system : str
        One of `SYSTEMS`.

    Attributes
    ----------
    ordered : list of int
        Classes in the order of temperature, as far as they are MK types.
    """

    def __init__(
        self,
        sets: Sequence[TemplateSet],
        shifted: Sequence[Shifted],
        index: NDArray[np.int64],
        classes: Sequence[str],
        system: str,
    ) -> None:
        self._shifted = shifted
        self._index = index
        self._stars: list[Star | None] = [star_of(s.name, s.type) for s in sets]
        letters = {name.upper(): i for i, name in enumerate(classes) if name.upper() in SEQUENCE}
        self._targets = np.eye(len(classes), dtype=np.float32)[index]
        for row, star in zip(self._targets, self._stars, strict=True):
            if star is not None:
                row[:] = 0
                row[list(letters.values())] = shares(star, list(letters), system)
        self._weight = np.array([1.0 if star is None else star.weight for star in self._stars])
        self.ordered = [letters[one] for one in SEQUENCE if one in letters]

    def parts(self, count: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """Part the templates, each class and its subtypes evenly, into some parts."""
        order = sorted(
            range(len(self._stars)),
            key=lambda i: (self._index[i], -1.0 if (s := self._stars[i]) is None else s.subtype),
        )
        deal = [random.permutation(count) for _ in range(-(-len(order) // count))]
        of = np.concatenate(deal)[: len(order)]
        return [np.sort(np.array(order)[of == part]) for part in range(count)]

    def draw(self, n: int, templates: NDArray[np.int64], noise: Array, random: np.random.Generator) -> Drawn:
        """Draw stars, as many of each class.

        Parameters
        ----------
        n : int
        templates : ndarray of int64
            Which are drawn from.
        noise : ndarray, shape (m, bins)
            σ of spectra in units of their median flux; NaN where invalid.
        random : Generator
        """
        bins = self._shifted[0].bins
        present = np.unique(self._index[templates])
        flux, target = np.empty((n, bins)), np.empty((n, self._targets.shape[1]), np.float32)
        for row in range(n):
            like = templates[self._index[templates] == present[random.integers(len(present))]]
            one = int(random.choice(like, p=self._weight[like] / self._weight[like].sum()))
            flux[row], target[row] = self._star(one, templates, random)
        flux *= bends(n, bins, random)
        flux /= np.maximum(np.abs(np.median(flux, axis=1, keepdims=True)), 0.1)
        return Drawn(*_observed(flux, noise, random), target)

    def _star(
        self, one: int, templates: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[Array, Floats]:
        shifts = self._shifted[one].shifts
        shift = int(random.integers(shifts[0], shifts[-1] + 1))
        flux, target = self._light(one, shift), self._targets[one]
        own = self._stars[one]
        if own is None or random.random() > _MIXED:
            return flux, target
        near = [
            i
            for i in templates
            if (s := self._stars[i]) is not None
            and abs(s.subtype - own.subtype) <= _NEAR
            and s.giant == own.giant
        ]
        other, share = int(near[random.integers(len(near))]), random.random()
        mixed = share * flux + (1 - share) * self._light(other, shift)
        return mixed, np.float32(share) * target + np.float32(1 - share) * self._targets[other]

    def _light(self, i: int, shift: int) -> Array:
        light = self._shifted[i].at(shift)[0]
        return np.asarray(light / max(abs(float(np.median(light))), 0.1))


def bends(n: int, bins: int, random: np.random.Generator) -> Array:
    """Return smooth factors along the spectrum as flux calibration and dust bring them, (n, bins)."""
    x = np.linspace(0, 1, bins)
    bend = np.zeros((n, bins))
    for order in range(1, 6):
        phase, height = random.uniform(0, 2 * np.pi, (n, 1)), random.normal(0, 0.25 / (order + 1), (n, 1))
        bend += height * np.cos(np.pi * order * x + phase)
    return np.asarray(np.exp(bend))


def _observed(flux: Array, noise: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Return flux and weight of spectra as another survey would see them; flux has a median of 1."""
    n, bins = flux.shape
    mean = running(flux)
    flux = mean + random.uniform(*_STRENGTH, size=(n, 1)) * (flux - mean)
    # Another survey has other resolution and noise, in all and along the spectrum.
    flux = np.array([gaussian_filter1d(one, random.uniform(0.05, 0.8)) for one in flux])
    sigma = noise[random.integers(len(noise), size=n)] * 10 ** random.uniform(-1.3, 0.4, size=(n, 1))
    sigma *= np.exp(random.uniform(-1, 1, size=(n, 1)) * np.linspace(-1, 1, bins))
    # Its pipeline may reject the cores of strong lines with the outliers, as LAMOST's does.
    depth = 1 - flux / np.maximum(running(flux), 1e-3)
    sigma[(depth > random.uniform(0.1, 0.6, size=(n, 1))) & (random.random((n, 1)) < 0.5)] = np.nan
    good = np.isfinite(sigma)
    weight = np.where(good, 1 / np.where(good, sigma, 1.0) ** 2, 0.0)
    flux = flux + np.where(good, sigma, 0.0) * random.standard_normal(flux.shape)
    return np.where(good, flux, 0.0), weight


def running(values: Array) -> Array:
    """Return the running mean along the spectrum: Gaussian, σ 40 native bins, wider than lines."""
    bins = values.shape[1]
    return np.asarray(gaussian_filter1d(values, 40 * bins / SDSS.sizes[0], axis=1, mode="nearest"))


def flattened(value: Floats, weight: Floats) -> Floats:
    """Return spectra over their running mean, less 1: lines and bands, whatever the flux calibration is.

    A gap is no continuum: it may be the core of a line, which its wings betray; it is bridged.

    Parameters
    ----------
    value, weight : ndarray, shape (n, bins)
        Flux, and inverse variance, 0 where invalid.
    """
    good = (weight > 0).astype(np.float64)
    mean = running(value * good) / np.maximum(running(good), 1e-12)
    floor = 0.05 * np.median(np.abs(value), axis=1, keepdims=True) + 1e-30
    ratio = np.clip(value / np.maximum(mean, floor), -1, 3) - 1
    at = np.arange(good.shape[1])
    for row in np.flatnonzero((good == 0).any(axis=1)):
        there = good[row] > 0
        ratio[row] = np.interp(at, at[there], ratio[row, there], 0, 0) if there.any() else 0
    return np.asarray(ratio, dtype=np.float32)


def one_peaked(probability: Array, ordered: Sequence[int]) -> Array:
    """Return probabilities that fall from the highest class to either side, so that sets have no holes.

    Parameters
    ----------
    probability : ndarray, shape (n, classes)
    ordered : sequence of int
        Classes in their order; others stay as they are.
    """
    found = np.array(probability)
    along = found[:, list(ordered)]
    top = along.argmax(axis=1)
    for i in range(len(along)):
        along[i, top[i] :] = np.minimum.accumulate(along[i, top[i] :])
        along[i, : top[i] + 1] = np.minimum.accumulate(along[i, top[i] :: -1])[::-1]
    found[:, list(ordered)] = along
    return np.asarray(found / found.sum(axis=1, keepdims=True))
