"""Light of many galaxies at once, on a grid ten times coarser: for detectors of low resolution.

The same forward model as `spectra.galaxy_light`, with lines as narrow as the bins. Full spectra of 20,000
galaxies, with the derivatives that a bound needs, would take minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.mock import spectra
from skyfuse.mock.sky import Source, luminosity_distance
from skyfuse.mock.spectra import GALAXY_PARAMETERS, Populations

Array = NDArray[np.float64]

COARSE = 10
"""Bins of the fine grids that make one here."""


def _coarse(rows: NDArray[np.floating[Any]]) -> Array:
    """Return means over `COARSE` bins; the last ones repeat to fill the grid."""
    more = -rows.shape[-1] % COARSE
    padded = np.concatenate([rows, np.repeat(rows[..., -1:], more, axis=-1)], axis=-1)
    return np.asarray(padded.reshape(*rows.shape[:-1], -1, COARSE).mean(axis=-1))


_OBSERVED_LOG = _coarse(spectra.BIN * 1e-4)
_REST_LOG = _coarse(spectra.REST_LOG)
_K_REST = _coarse(spectra.K_REST)
_STEP = COARSE * 1e-4
_WIDTH = 10**_OBSERVED_LOG * np.log(10.0) * _STEP
_BLOCK = 250


def detector(fine: Array) -> Array:
    """Return a detector's response on the coarse grid; shape (m, n_coarse).

    Parameters
    ----------
    fine : ndarray, shape (m, n)
        What one unit of flux in a bin of the observed grid gives in each of m channels.
    """
    more = -fine.shape[1] % COARSE
    padded = np.concatenate([fine, np.zeros((len(fine), more))], axis=1)
    return np.asarray(padded.reshape(len(fine), -1, COARSE).sum(axis=2))


@dataclass(frozen=True, slots=True)
class Galaxies:
    """What the light of n galaxies depends on.

    Attributes
    ----------
    parameters : ndarray, shape (n, 8)
        In the order of `spectra.GALAXY_PARAMETERS`.
    log_broad : ndarray, shape (n,)
        log10 of broad Hα, erg/s; -inf for none.
    bulge : ndarray, shape (n,)
        Share of the old light in the bulge.
    """

    parameters: Array
    log_broad: Array
    bulge: Array

    @classmethod
    def of(cls, sources: list[Source]) -> Galaxies:
        """Take them from sources, all of them galaxies."""
        return cls(
            np.array([spectra.galaxy_parameters(s) for s in sources]),
            np.array([s.gas.log_broad for s in sources]),
            np.array([s.shape.bulge for s in sources if s.shape is not None]),
        )


def counts(galaxies: Galaxies, response: Array, bank: Populations | None = None) -> Array:
    """Return what a detector gets from each component of each galaxy.

    Parameters
    ----------
    galaxies : Galaxies
    response : ndarray, shape (m, n_coarse)
        From `detector`.
    bank : Populations, optional
        Stellar templates; the schematic ones by default.

    Returns
    -------
    ndarray, shape (n, 3, m)
        From bulge, disc and young component.
    """
    bank = bank or spectra.populations()
    out = np.empty((len(galaxies.bulge), 3, len(response)))
    for start in range(0, len(out), _BLOCK):
        block = slice(start, start + _BLOCK)
        out[block] = _light(galaxies, block, bank) @ response.T
    return out


def _light(galaxies: Galaxies, block: slice, bank: Populations) -> Array:
    """Return the components' light on the coarse grid, 1e-17 erg/s/cm²/Å; shape (n, 3, n_coarse)."""
    values = dict(zip(GALAXY_PARAMETERS, galaxies.parameters[block].T, strict=True))
    bulge = galaxies.bulge[block, None]
    templates = _coarse(bank.old), _coarse(bank.middle), _coarse(bank.young)
    sfr, z, av = 10 ** values["log_sfr"], values["z"], 10 ** values["log_av"]
    place = (values["log_age"] - bank.log_ages[0]) / (bank.log_ages[1] - bank.log_ages[0])
    place = np.clip(place, 0, len(bank.log_ages) - 1.001)
    i = place.astype(int)
    part = (place - i)[:, None]
    distance = np.array([luminosity_distance(float(v)) for v in z])
    area = 4 * np.pi * (distance * 3.0856776e24) ** 2 * 1e-17
    # The scales of `spectra.rest_light`.
    per_mass = spectra.SOLAR_R / (2.0 * 10 ** (0.7 * (values["log_age"] - 0.7)))
    old = 10 ** values["log_mass"] * per_mass
    middle = spectra.SOLAR_R * sfr * 10 ** values["history"] * 1e9 / 0.75
    young = sfr * 10**43.35 / 1500.0 * (6200.0 / 1500.0) ** -2.1
    old, middle, young = (np.asarray(v / ((1 + z) * area))[:, None] for v in (old, middle, young))
    behind = np.exp((-0.5 * 0.4 * 0.44 * np.log(10.0) / 4.05) * av[:, None] * _K_REST)
    light = ((1 - part) * templates[0][i] + part * templates[0][i + 1]) * old * behind
    rest = np.stack(
        [
            bulge * light,
            (1 - bulge) * light + middle * templates[1] * behind,
            young * templates[2] * behind**2,
        ],
        axis=1,
    )
    # Both grids are even in log λ, so a redshift is one shift for all bins of a galaxy.
    shift = (_OBSERVED_LOG[0] - np.log10(1 + z) - _REST_LOG[0]) / _STEP
    whole = np.floor(shift).astype(int)
    part = (shift - whole)[:, None, None]
    at = (whole[:, None] + np.arange(len(_OBSERVED_LOG)))[:, None]
    last = len(_REST_LOG) - 1
    seen = (1 - part) * np.take_along_axis(rest, np.clip(at, 0, last), axis=2)
    seen += part * np.take_along_axis(rest, np.clip(at + 1, 0, last), axis=2)
    nucleus = 10 ** values["log_agn"][:, None] * spectra.AGN_RATIOS
    nucleus = nucleus + 10 ** galaxies.log_broad[block, None] * spectra.BROAD_RATIOS
    regions = (sfr * 10**spectra.LOG_HALPHA)[:, None] * spectra.line_ratios(values["log_oh"])
    dust = 10 ** (-0.4 * av[:, None] / 4.05 * spectra.NEBULAR_K) / area[:, None]
    centre = (np.log10(spectra.NEBULAR_WAVE * (1 + z[:, None])) - _OBSERVED_LOG[0]) / _STEP
    inside = (centre > 0) & (centre < len(_OBSERVED_LOG) - 1)
    row, _ = np.nonzero(inside)
    bins = np.floor(centre[inside]).astype(int)
    part = centre[inside] - bins
    for component, lines in ((0, nucleus), (2, regions)):
        flux = (lines * dust)[inside]
        np.add.at(seen[:, component], (row, bins), flux * (1 - part) / _WIDTH[bins])
        np.add.at(seen[:, component], (row, bins + 1), flux * part / _WIDTH[bins + 1])
    return np.asarray(seen)
