"""Spectra of the mock's stars as LAMOST's first data release lays them out, with noise of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from skyfuse.mock import spectra
from skyfuse.mock.files import fits_bytes, header_of
from skyfuse.mock.sky import SPAWN_LAMOST, Source, generator

FIBRES, SPECTROGRAPHS = 250, 16
FIRST_LMJD, FIRST_PLAN = 55862, 6212
BINS = 3904
COUNTS = 120.0
"""Counts of the files, which are not flux-calibrated, for 1e-17 erg/s/cm²/Å."""
LOSS = 2.5
"""Times the noise variance of an SDSS spectrum: shorter exposures, wider fibres on more sky."""
CALIBRATION = 0.08
"""Scatter of the relative flux calibration from end to end."""


def place(index: int) -> tuple[int, str, int, int]:
    """Return local MJD, plan, spectrograph and fibre of a target."""
    plate, within = divmod(index, FIBRES * SPECTROGRAPHS)
    spectrograph, fibre = divmod(within, FIBRES)
    return FIRST_LMJD + plate, f"B{FIRST_PLAN + plate}", spectrograph + 1, fibre + 1


def spectrum_path(index: int) -> Path:
    """Return a spectrum's place under the mock's folder."""
    lmjd, plan, spectrograph, fibre = place(index)
    return Path("lamost", f"spec-{lmjd}-{plan}_sp{spectrograph:02d}-{fibre:03d}.fits")


def spectrum_bytes(seed: int, source: Source, light: NDArray[np.float64]) -> bytes:
    """Return a star's file.

    Parameters
    ----------
    seed : int
    source : Source
    light : ndarray, shape (n,)
        Expectation on the observed grid of `skyfuse.mock.spectra`, 1e-17 erg/s/cm²/Å.

    Returns
    -------
    bytes
        One image of five rows: flux, inverse variance, flux less continuum, AND and OR mask (1 is bad).
    """
    rng = generator(seed, SPAWN_LAMOST, source.index)
    first = 35682 + int(rng.integers(-3, 12))
    cut = slice(first - spectra.FIRST_BIN, first - spectra.FIRST_BIN + BINS)
    along = np.linspace(-1.0, 1.0, BINS)
    tilt, bend = CALIBRATION * rng.standard_normal(2)
    response = np.exp(tilt * along + bend * (along**2 - 1 / 3))
    variance = LOSS * spectra.variance(light)[cut]
    flux = light[cut] + np.sqrt(variance) * rng.standard_normal(BINS)
    masked = np.zeros(BINS, np.bool_)
    for start in rng.integers(0, BINS - 20, rng.poisson(1.5)):
        masked[start : start + int(rng.integers(1, 8))] = True
    scale = COUNTS * response
    rows = np.zeros((5, BINS), ">f4")
    rows[0] = flux * scale
    rows[1] = np.where(masked, 0.0, 1 / (variance * scale**2))
    rows[2] = rows[0] - median_filter(rows[0].astype(np.float64), 301, mode="nearest")
    rows[3] = rows[4] = masked
    wave = spectra.WAVELENGTH[cut]
    noise = np.sqrt(variance)
    header = header_of(_cards(source, first))
    for band, low, high in (("U", 3700, 3900), ("G", 3900, 5500), ("R", 5500, 6900), ("I", 6900, 8200)):
        inside = (wave > low) & (wave < high)
        header[f"SN_{band}"] = round(float(np.median(light[cut][inside] / noise[inside])), 2)
    header["SN_Z"] = round(float(np.median((light[cut] / noise)[wave > 8200])), 2)
    return fits_bytes(fits.PrimaryHDU(rows, header))


def _cards(source: Source, first: int) -> tuple[tuple[str, Any], ...]:
    lmjd, plan, spectrograph, fibre = place(source.index)
    return (
        ("FILENAME", spectrum_path(source.index).name),
        ("AUTHOR", "Skyfuse mock"),
        ("EXTEN0", "Flux Inverse Subcontinuum Andmask Ormask"),
        ("ORIGIN", "MOCK"),
        ("TELESCOP", "MOCK"),
        ("LMJD", lmjd),
        ("MJD", lmjd + 1),
        ("DESIG", f"MOCK J{source.ra:09.5f}{source.dec:+09.5f}"),
        ("PLANID", plan),
        ("RA", source.ra),
        ("DEC", source.dec),
        ("FIBERID", fibre),
        ("OBJTYPE", "star"),
        ("FIBERTYP", "Obj"),
        ("RADECSYS", "FK5"),
        ("EQUINOX", 2000.0),
        ("SPID", spectrograph),
        ("HELIO", True),
        ("VACUUM", True),
        ("NWORDER", 2),
        ("WFITTYPE", "LOG-LINEAR"),
        ("COEFF0", round(first * 1e-4, 4)),
        ("COEFF1", 1e-4),
        ("CRVAL1", round(first * 1e-4, 4)),
        ("CD1_1", 1e-4),
        ("CRPIX1", 1),
        ("CTYPE1", "LINEAR"),
        ("DC-FLAG", 1),
        ("CLASS", "STAR"),
        ("SUBCLASS", source.subclass),
        ("Z", round(source.z, 8)),
        ("Z_ERR", 5e-5),
    )
