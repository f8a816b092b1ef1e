"""What a survey's catalogue says of the objects: magnitudes and sizes with their errors, and redshifts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv

from skyfuse.mock import images
from skyfuse.mock.sky import PIXEL, SPAWN_CATALOGUE, Source, generator
from skyfuse.mock.spectra import BANDS

Array = NDArray[np.float64]

SOFTENING = (1.4e-10, 0.9e-10, 1.2e-10, 1.8e-10, 7.4e-10)
"""b of the asinh magnitudes of u g r i z (Lupton, Gunn & Szalay 1999, AJ 118, 1406)."""
CALIBRATION = (0.02, 0.01, 0.01, 0.01, 0.015)
"""Relative error of the photometric calibration (Padmanabhan et al. 2008, ApJ 674, 1217)."""
EXTINCTION = (4.239, 3.303, 2.285, 1.698, 1.263)
"""A/E(B−V) of the SDSS bands (Schlafly & Finkbeiner 2011, ApJ 737, 103, table 6, R_V = 3.1)."""
DUST_RESIDUAL = 0.02
"""Scatter of E(B−V) that the dereddening leaves, mag."""
# Half-light radius of the point spread function of r, arcsec: the Moffat profile's integral, inverted.
_CORE = images.SEEING[2] / (2 * np.sqrt(2 ** (1 / images.MOFFAT_BETA) - 1))
PSF_RADIUS = float(_CORE * np.sqrt(0.5 ** (1 / (1 - images.MOFFAT_BETA)) - 1))
# Steps of log10 r, four of which make the factor 1.25 between a Petrosian annulus' mean and its edges.
_RADII: Array = 10 ** np.arange(-1.2, 2.1, np.log10(1.25) / 4)


def growth(flux: Array, size: Array) -> Array:
    """Return the light within `_RADII` of galaxies seen through the atmosphere; shape (n, m).

    Sérsic growth curves (Graham & Driver 2005, eq. 2), each radius widened in quadrature by that of the point
    spread function.

    Parameters
    ----------
    flux : ndarray, shape (n, 3)
        Of bulge, disc and young component.
    size : ndarray, shape (n, 3)
        Half-light radii, arcsec.
    """
    total = np.zeros((len(flux), len(_RADII)))
    for component, n in enumerate((4.0, 1.0, 1.0)):
        seen = np.hypot(size[:, component], PSF_RADIUS)
        scaled = gammaincinv(2 * n, 0.5) * (_RADII / seen[:, None]) ** (1 / n)
        total += flux[:, component, None] * gammainc(2 * n, scaled)
    return total


def point_growth() -> Array:
    """Return the share of a point source's light within `_RADII`; shape (1, m)."""
    return np.asarray(1 - (1 + (_RADII / _CORE) ** 2) ** (1 - images.MOFFAT_BETA))[None]


def petrosian(curve: Array) -> tuple[Array, Array]:
    """Return the radii with half and nine tenths of the Petrosian flux (Strauss et al. 2002, eq. 1 to 4).

    Parameters
    ----------
    curve : ndarray, shape (n, m)
        Light within `_RADII`.

    Returns
    -------
    r50, r90 : ndarray, shape (n,)
        arcsec. The Petrosian radius is where the surface brightness has fallen to a fifth of its mean
        within; the flux is that within two such radii.
    """
    annulus = (curve[:, 8:] - curve[:, :-8]) / (1.25**2 - 0.8**2)
    ratio = annulus / curve[:, 4:-4]
    inner = _RADII[4:-4]
    r50, r90 = np.empty(len(curve)), np.empty(len(curve))
    for i, (light, fall) in enumerate(zip(curve, ratio, strict=True)):
        at = int(np.argmax(fall < 0.2))
        step = (fall[at - 1] - 0.2) / (fall[at - 1] - fall[at])
        radius = inner[at - 1] * (inner[at] / inner[at - 1]) ** step
        flux = np.interp(2 * radius, _RADII, light)
        r50[i], r90[i] = np.interp(np.array([0.5, 0.9]) * flux, light, _RADII)
    return r50, r90


def asinh_magnitude(flux: Array) -> Array:
    """Return SDSS magnitudes, which hold for any flux; flux in nanomaggies, shape (…, 5)."""
    b = np.array(SOFTENING)
    return np.asarray(-2.5 / np.log(10) * (np.arcsinh(1e-9 * flux / (2 * b)) + np.log(b)))


def magnitude_error(flux: Array, error: Array) -> Array:
    """Return the errors of asinh magnitudes; nanomaggies, shape (…, 5)."""
    b = 2e9 * np.array(SOFTENING)
    return np.asarray(2.5 / np.log(10) * error / np.hypot(flux, b))


def measure(seed: int, sources: list[Source], flux: Array, r50: Array, r90: Array) -> pd.DataFrame:
    """Return the catalogue of the sources as measured, but for what the spectra say of their class.

    Parameters
    ----------
    seed : int
    sources : list of Source
    flux : ndarray, shape (n, 5)
        True fluxes, nanomaggies.
    r50, r90 : ndarray, shape (n,)
        True Petrosian radii, arcsec.

    Returns
    -------
    DataFrame
        u … z, err_u … err_z, petroR50_r, petroR90_r, redshift, redshift_err.
    """
    # Pixels that weigh in a fit of the right profile to a noisy image: 4π of its variance in area.
    area = 4 * np.pi * (r50 / 1.1774 / PIXEL) ** 2
    gain = np.array(images.CALIBRATION) / np.array(images.GAIN[2])
    photons = flux * gain + area[:, None] * images.empty_sky_variance()
    error = np.sqrt(photons + (np.array(CALIBRATION) * flux) ** 2)
    draws = np.array([generator(seed, SPAWN_CATALOGUE, s.index).standard_normal(9) for s in sources])
    dust = 10 ** (-0.4 * DUST_RESIDUAL * draws[:, :1] * np.array(EXTINCTION))
    seen = flux * dust + error * draws[:, 1:6]
    table = pd.DataFrame(asinh_magnitude(seen), columns=list(BANDS))
    errors = magnitude_error(seen, error)
    for number, band in enumerate(BANDS):
        table[f"err_{band}"] = errors[:, number]
    blur = np.clip(errors[:, 2], 0.01, 0.3)
    table["petroR50_r"] = r50 * np.exp(blur * draws[:, 6])
    table["petroR90_r"] = r90 * np.exp(blur * draws[:, 7])
    wide = np.array([10.0 if s.kind == "QSO" else 1.0 for s in sources])
    table["redshift_err"] = np.clip(1e-4 * errors[:, 2] / 0.02, 2e-5, 1e-3) * wide
    table["redshift"] = np.array([s.z for s in sources]) + table["redshift_err"] * draws[:, 8]
    return table
