"""Schematic eigentemplates, and spectra made of them, for the template models."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from skyfuse.cube.grid import SDSS

CLASSES = ("GALAXY", "QSO", "STAR")
_LINES = {"GALAXY": (3729, 4863, 5008, 6565), "QSO": (1216, 1549, 1909, 2799, 4863, 6565)}
_STARS = {
    "A0 (1)": (3971, 4103, 4342, 4863, 6565),
    "G5V (2)": (3934, 3969, 4305, 5176),
    "M2III (3)": (6160, 7054),
}


def _bumps(first: int, bins: int, centres, width: float):
    wavelength = 10 ** (1e-4 * (first + np.arange(bins)))
    distance = (wavelength[None] - np.array(centres)[:, None]) / (width * np.array(centres)[:, None])
    return wavelength, np.exp(-0.5 * distance**2).sum(axis=0)


def write_folder(folder: Path) -> Path:
    """Write the four files that the pipeline's templates come in."""
    for kind, name, first, bins, width in (
        ("GALAXY", "spEigenGal-56436.fits", 30730, 9483, 0.001),
        ("QSO", "spEigenQSO-55732.fits", 26534, 13637, 0.01),
    ):
        wavelength, lines = _bumps(first, bins, _LINES[kind], width)
        step, power = np.where(wavelength < 4000, 0.5, 1.0), (wavelength / 4000) ** -0.7
        level = step if kind == "GALAXY" else power
        _write(folder / name, first, np.stack([level, lines]))
    stars = []
    for centres in _STARS.values():
        _, lines = _bumps(34842, 5933, centres, 0.002)
        stars.append(1 - 0.5 * lines)
    _write(folder / "spEigenStar-55734.fits", 34842, np.stack(stars), list(_STARS))
    _, lines = _bumps(35504, 4694, (4342, 4863, 5877, 6565), 0.004)
    _write(folder / "spEigenCVstar-55734.fits", 35504, np.stack([1 + lines]))
    return folder


def _write(path: Path, first: int, vectors, names=()) -> None:
    hdu = fits.PrimaryHDU(vectors.astype(np.float32))
    hdu.header["COEFF0"] = first * 1e-4
    for i, name in enumerate(names):
        hdu.header[f"NAME{i}"] = name
    hdu.writeto(path)


def observe(sets, n: int, seed: int, zoom: int = 2, noise: float = 0.1, kinds=CLASSES):
    """Return inputs, indices of kinds or types, and redshifts of n noisy spectra made of template sets."""
    random = np.random.default_rng(seed)
    bins = SDSS.sizes[zoom]
    wavelength = np.log10(SDSS.centres(zoom))
    flux, label, redshift = np.empty((n, bins)), np.empty(n, dtype=np.int64), np.zeros(n)
    for i in range(n):
        label[i] = i % 3
        like = [s for s in sets if kinds[label[i]] in (s.kind, s.type) and s.type != "CV"]
        s = like[random.integers(len(like))]
        if s.kind != "STAR":
            redshift[i] = 10 ** random.uniform(*np.log10([1.01 + s.low, 0.9 * (1 + s.high)])) - 1
        rest = 1e-4 * (s.first + np.arange(s.vectors.shape[1]))
        amplitudes = [1.0, random.uniform(0.7, 2)][: len(s.vectors)]
        flux[i] = np.interp(wavelength - np.log10(1 + redshift[i]), rest, amplitudes @ s.vectors)
    sigma = np.full(flux.shape, noise)
    flux += sigma * random.standard_normal(flux.shape)
    flux[random.random(flux.shape) < 0.02] = np.nan
    x = {"spectrum": flux.astype(np.float32), "spectrum_sigma": sigma.astype(np.float32)}
    return x, label, redshift
