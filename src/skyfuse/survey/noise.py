"""Noise of real spectra: what pipelines' own inverse variances leave out, as numbers derived from data.

A pipeline states σ of each pixel as if pixels were independent and the sky subtracted exactly. On fibres of
empty sky, whose true flux is 0, neither holds: exposures were rebinned onto one grid, so that neighbours are
correlated; and the model of the sky that was subtracted has an error of its own, which is the same in many
pixels and so does not average out in means of 2^z of them.

Numbers come from `scripts/noise_model.py` of the repository, which fits them to fibres on empty sky and to
repeated spectra of one object. They lie in ``instruments/noise/*.yaml`` of the package, one file for each
instrument, and nothing in them runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray
from pydantic import Field

from skyfuse.sections import Fault, Section, validated
from skyfuse.strictyaml import parse_yaml
from skyfuse.survey.records import Spectrum

MODEL, FORMAL = "model", "formal"
"""Where σ of a cube's spectra comes from: a noise model where there is one, or what files say alone."""

SKY_ORDER = 3
"""Order of the polynomial along the slit by which the SDSS pipeline fits the sky (PSFSKY of its headers)."""

# ZWARNING says that the fibre was on empty sky.
_SKY_BIT = 1
# However large its share in the fit, what remains of a sky fibre's noise; also at the ends of the slit.
_LEAST_SHARE = 0.1
# At which `leverage` the `sky_residual` is stated: about its mean along the slit.
_TYPICAL_LEVERAGE = 4.0
# Positions of no spectral density below 0: a period of 2 to infinity bins.
_FREQUENCIES = np.linspace(0, np.pi, 65)


class Evidence(Section):
    """What the numbers were fitted to."""

    sky_fibres: int = Field(ge=0, description="Number of fibres on empty sky.")
    sky_plates: list[int] = Field(description="The plates that they are from.")
    pairs: int = Field(ge=0, description="Number of pairs of spectra of one object.")
    objects: int = Field(ge=0, description="Number of objects that the pairs are of.")
    pair_plates: list[int] = Field(description="The plates that the pairs are from.")


class Spectrograph(Section):
    """The noise of spectra of one pair of spectrographs, told by their plates."""

    name: str
    plates: list[int] = Field(min_length=2, max_length=2, description="First and last plate.")
    fibres: int = Field(gt=1, le=10_000, description="Fibres on each slit.")
    wavelength: list[float] = Field(
        min_length=2, max_length=12, description="Å, where the following are told; linear between."
    )
    scale: list[float] = Field(description="Of the pipeline's σ, without the sky's error.")
    next: list[float] = Field(description="Correlation of neighbouring bins.")
    second: list[float] = Field(description="Correlation of bins two apart.")
    sky_fit: float = Field(
        ge=0,
        le=0.2,
        description="Variance of the fitted sky for each unit of `leverage`, as a share of a pixel's: it "
        "adds to that of objects, and is taken off that of the fibres that the sky was fitted to.",
    )
    sky_residual: list[float] = Field(
        description="σ of what remains of the sky in all pixels alike, as a share of the sky's level.",
    )
    sky_residual_slit: float = Field(
        ge=0, le=2, description="Power of the relative `leverage` by which that grows along the slit."
    )
    calibration: list[float] = Field(
        description="σ of the flux calibration from one wavelength to another, relative."
    )
    offset: float = Field(
        ge=0,
        le=2,
        description="Too little sky was subtracted by this times σ² / (sky + flux), which is what fits with "
        "weights by the data's own variance do; it is taken off the fluxes.",
    )
    evidence: Evidence

    def _faults(self) -> Iterator[Fault]:
        columns = ("scale", "next", "second", "calibration", "sky_residual")
        if any(len(getattr(self, name)) != len(self.wavelength) for name in columns):
            yield Fault(f"wavelength, {', '.join(columns)} differ in length", "give one number a wavelength")
            return
        if not (np.diff(self.wavelength) > 0).all() or self.wavelength[0] <= 0:
            yield Fault("wavelength does not rise from above 0", "order it", ("wavelength",))
        if not all(0.3 <= one <= 3 for one in self.scale):
            yield Fault("scale is not from 0.3 to 3", "fit it again", ("scale",))
        for name in ("calibration", "sky_residual"):
            if not all(0 <= one <= 0.3 for one in getattr(self, name)):
                yield Fault(f"{name} is not from 0 to 0.3", "fit it again", (name,))
        waves = np.cos(np.outer([1, 2], _FREQUENCIES))
        density = 1 + 2 * np.array([self.next, self.second]).T @ waves
        if density.min() < 0:
            yield Fault(
                "next and second are correlations of no noise: its spectral density falls below 0",
                "fit them again",
                ("next", "second"),
            )
        if not 0 < self.plates[0] <= self.plates[1]:
            yield Fault("plates do not rise from above 0", "give the first and the last", ("plates",))


class NoiseModel(Section):
    """What is known of the noise of one instrument's spectra."""

    name: str = Field(min_length=1, max_length=40)
    version: int = Field(ge=1)
    spectrographs: list[Spectrograph] = Field(min_length=1)

    def _faults(self) -> Iterator[Fault]:
        spans = sorted(self.spectrographs, key=lambda one: one.plates)
        for one, other in pairwise(spans):
            if other.plates[0] <= one.plates[1]:
                yield Fault(f"{one.name} and {other.name} have plates in common", "give each its own")

    def spectrograph(self, spectrum: Spectrum) -> Spectrograph | None:
        """Return what holds for a spectrum.

        Parameters
        ----------
        spectrum : Spectrum

        Returns
        -------
        Spectrograph or None
            None where nothing is known of it: it has no plate, or one of no spectrograph here, or its file
            tells no sky; or no telescope took it, as of the mock sky, whose bins are independent.
        """
        info = spectrum.info
        if info.survey == "mock" or info.plate is None or info.fiberid is None or spectrum.sky is None:
            return None
        return next((one for one in self.spectrographs if one.plates[0] <= info.plate <= one.plates[1]), None)

    def noise(self, spectrum: Spectrum) -> NativeNoise | None:
        """Return the noise of a spectrum's native bins; None where nothing is known of it."""
        told = self.spectrograph(spectrum)
        if told is None or spectrum.sky is None or spectrum.info.fiberid is None:
            return None
        reach = leverage(spectrum.info.fiberid, told.fibres)
        own = -1 if is_sky(spectrum) else 1
        columns = (told.scale, told.next, told.second, told.sky_residual, told.calibration)
        arrays = _native(
            spectrum.wavelength,
            (spectrum.flux, spectrum.sigma, spectrum.sky),
            np.array(told.wavelength),
            np.array(columns),
            np.sqrt(max(1 + own * told.sky_fit * reach, _LEAST_SHARE)),
            (reach / _TYPICAL_LEVERAGE) ** told.sky_residual_slit,
            told.offset,
        )
        return NativeNoise(*arrays)


@njit(cache=True, nogil=True)
def _native(
    wavelength: NDArray[np.float64],
    spectrum: tuple[NDArray[np.float32], ...],
    knots: NDArray[np.float64],
    columns: NDArray[np.float64],
    scale: float,
    share: float,
    offset: float,
) -> NDArray[np.float64]:
    """Return the fields of `NativeNoise`, shape (6, n), from flux, σ and sky and the columns of a model.

    Linear between the knots, as `numpy.interp`, of which five calls take as long as all else.
    """
    flux, sigma, sky = spectrum
    out = np.empty((6, wavelength.size))
    last, k = knots.size - 1, 0
    for i in range(wavelength.size):
        while k < last - 1 and wavelength[i] > knots[k + 1]:
            k += 1
        t = min(max((wavelength[i] - knots[k]) / (knots[k + 1] - knots[k]), 0.0), 1.0)
        level = np.float64(sky[i])
        if not 0 < level < np.inf:
            level = np.float64(0)
        s, f = np.float64(sigma[i]), np.float64(flux[i])
        out[0, i] = s * scale * ((1 - t) * columns[0, k] + t * columns[0, k + 1])
        out[1, i] = (1 - t) * columns[1, k] + t * columns[1, k + 1]
        out[2, i] = (1 - t) * columns[2, k] + t * columns[2, k + 1]
        out[3, i] = level * share * ((1 - t) * columns[3, k] + t * columns[3, k + 1])
        out[4, i] = offset * s * s / (level + max(f, 0.0)) if level > 0 else 0.0
        out[5, i] = (1 - t) * columns[4, k] + t * columns[4, k + 1]
    return out


@dataclass(frozen=True, slots=True)
class NativeNoise:
    """The noise of the native bins of one spectrum.

    Attributes
    ----------
    sigma : ndarray of float64, shape (n,)
        Of what differs from bin to bin; NaN where invalid.
    next, second : ndarray of float64, shape (n,)
        Correlation of each bin's with that of the next one, and of the one after it.
    common : ndarray of float64, shape (n,)
        σ of what neighbouring bins have in common.
    offset : ndarray of float64, shape (n,)
        What is taken off the fluxes.
    calibration : ndarray of float64, shape (n,)
        σ of what is proportional to the flux, relative.
    """

    sigma: NDArray[np.float64]
    next: NDArray[np.float64]
    second: NDArray[np.float64]
    common: NDArray[np.float64]
    offset: NDArray[np.float64]
    calibration: NDArray[np.float64]


def is_sky(spectrum: Spectrum) -> bool:
    """Tell whether the fibre was one of those on empty sky, which the pipeline fits the sky to."""
    told = spectrum.catalogue
    return bool((told.get("zwarning") or 0) & _SKY_BIT) or told.get("objtype") == "SKY"


def leverage(fibre: int, fibres: int) -> float:
    """Return how far a polynomial fit along the slit strains at a fibre, its mean over the slit being 4.

    For evenly spread fibres the variance of a fitted polynomial is that of one fibre over their number, times
    the sum over its orders k of (2k + 1) P_k(t)², with Legendre's polynomials, t being −1 and 1 at the ends.

    Parameters
    ----------
    fibre : int
        From 1 on, through all slits.
    fibres : int
        On each slit.
    """
    place = 2 * ((fibre - 1) % fibres) / (fibres - 1) - 1
    orders = np.eye(SKY_ORDER + 1)
    return float(sum((2 * k + 1) * legval(place, order) ** 2 for k, order in enumerate(orders)))


@lru_cache
def _shipped() -> dict[str, tuple[NoiseModel, str]]:
    folder = resources.files("skyfuse") / "instruments" / "noise"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            found[entry.name[:-5]] = read_model(text, entry.name), digest
    return found


def read_model(text: str, where: str) -> NoiseModel:
    """Return a noise model from its YAML; `where` is for messages.

    Raises
    ------
    UsageError
        Something in it is unknown, missing or impossible.
    """
    return validated(NoiseModel, parse_yaml(text, "noise model", where=where), "noise model", where=where)


def noise_model(instrument: str) -> NoiseModel | None:
    """Return the noise model of an instrument's spectra that comes with Skyfuse; None where there is none."""
    return _shipped().get(instrument, (None, ""))[0]


def noise_name(instrument: str) -> str:
    """Return what names an instrument's noise model and its content; empty where there is none."""
    if instrument not in _shipped():
        return ""
    model, digest = _shipped()[instrument]
    return f"{model.name} {model.version} {digest[:16]}"
