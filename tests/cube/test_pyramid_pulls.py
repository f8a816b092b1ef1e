"""Pulls of simulated exposures against their known truth, from the written file to every zoom."""

from __future__ import annotations

import numpy as np
import pytest

from skyfuse.cube.grid import HISS, SDSS
from skyfuse.cube.pyramid import image_levels, spectrum_levels
from skyfuse.survey.sdss.frames import read_frame
from skyfuse.survey.sdss.spectra import read_spectrum
from tests.survey.files import write_frame, write_spectrum

SIZE = 1024
FRAMES = 12
GAIN, DARK, CALIB = 3.995, 1.96, 0.0035  # g band of camcol 4
N_SPECTRA = 200


def means(array, zoom):
    """Mean of each block of a square image whose size is a multiple of it."""
    size = 2**zoom
    return array.reshape(SIZE // size, size, SIZE // size, size).mean((1, 3))


def require_unit_normal(pulls):
    """Require a mean within 0.02 of 0 and a deviation within 0.02 of 1, from pulls enough to tell."""
    assert pulls.size > 1e4
    assert abs(pulls.mean()) < 0.02
    assert abs(pulls.std() - 1) < 0.02


@pytest.fixture(scope="module")
def image_pulls(tmp_path_factory):
    """Pulls by place and zoom, less the bias of a σ from its own electrons.

    The left half is sky, the right half sources; the lower half has masked pixels. The frames are written
    with astropy and read as any other.
    """
    path = tmp_path_factory.mktemp("pulls") / "frame.fits"
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:SIZE, :SIZE]
    sky = 90 + 20 * x / SIZE + 10 * y / SIZE
    # The table holds every eighth pixel; bilinear interpolation gives a plane back exactly.
    at = 8 * np.arange(SIZE // 8 + 1)
    table = 90 + 20 * at / SIZE + 10 * at[:, None] / SIZE
    found = {place: [[] for _ in range(5)] for place in ("sky", "sources", "masked sky", "masked sources")}
    for _ in range(FRAMES):
        peak = (10 ** rng.uniform(2, 4, (SIZE // 32, SIZE // 32))).repeat(32, 0).repeat(32, 1)
        source = peak * np.exp(-((x % 32 - 15.5) ** 2 + (y % 32 - 15.5) ** 2) / 2 / 6**2) * (x >= SIZE // 2)
        dn = rng.poisson((sky + source) * GAIN) / GAIN + rng.normal(0, np.sqrt(DARK), sky.shape)
        masked = (rng.random(sky.shape) < 0.05) & (y >= SIZE // 2)
        image = np.where(masked, np.nan, CALIB * (dn - sky))
        frame = read_frame(
            write_frame(
                path,
                image,
                calib=np.full(SIZE, CALIB),
                sky=table,
                x=np.arange(SIZE) / 8,
                y=np.arange(SIZE) / 8,
                FILTER="g",
            )
        )
        for zoom, level in enumerate(image_levels(frame.value, frame.sigma)):
            share = means(1.0 - masked, zoom)
            with np.errstate(invalid="ignore"):
                truth = means(np.where(masked, 0, CALIB * source), zoom) / share
            # From the variance of the block's sum in electrons²: σ is low where the sum is low.
            electrons = (GAIN * (sky + source) + DARK * GAIN**2) * ~masked
            with np.errstate(divide="ignore"):
                bias = -0.5 / np.sqrt(means(electrons, zoom) * 4**zoom)
            pulls = (level.value - truth) / level.sigma - bias
            half, places = SIZE // 2 // 2**zoom, iter(found)
            for rows in (slice(None, half), slice(half, None)):
                for columns in (slice(None, half), slice(half, None)):
                    cut = pulls[rows, columns]
                    found[next(places)][zoom].append(cut[np.isfinite(cut)])
    return {place: [np.concatenate(pulls) for pulls in zooms] for place, zooms in found.items()}


@pytest.mark.parametrize("zoom", range(5))
@pytest.mark.parametrize("place", ["sky", "sources", "masked sky", "masked sources"])
def test_image_pulls(image_pulls, place, zoom):
    require_unit_normal(image_pulls[place][zoom])


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """Spectra of a line and a broken continuum with noise that varies, masked stretches, and their truth."""
    path = tmp_path_factory.mktemp("pulls") / "spec.fits"
    rng = np.random.default_rng(12)
    k = 35780 + np.arange(4000)
    wavelength = 10 ** (k * 1e-4)
    truth = 5 + 3 * (wavelength > 4000) + 80 * np.exp(-((wavelength - 6563) ** 2) / 2 / 5**2)
    sigma = 0.5 + (wavelength < 4200) + 3 * (rng.random(4000) < 0.05) + 0.05 * truth
    out = []
    for _ in range(N_SPECTRA):
        ivar = np.where(rng.random(4000) < 0.03, 0, sigma**-2.0)
        ivar[1700:1720] = 0
        flux = np.where(ivar > 0, rng.normal(truth, sigma), 1e6)
        out.append(read_spectrum(write_spectrum(path, flux, ivar, k * 1e-4)))
    return truth, out


def block_truth(truth, spectrum, grid, zoom):
    """Mean truth over the valid part of each output bin, as differences of its integral."""
    native = 10 ** ((spectrum.first_bin - 0.5 + np.arange(truth.size + 1)) * 1e-4)
    good = np.isfinite(spectrum.flux)
    edges = grid.edges(zoom)
    reach = np.concatenate(([0], np.cumsum(good * np.diff(native))))
    total = np.concatenate(([0], np.cumsum(good * np.diff(native) * truth)))
    width = np.diff(np.interp(edges, native, reach))
    with np.errstate(invalid="ignore"):
        return np.diff(np.interp(edges, native, total)) / width


@pytest.mark.parametrize("grid", [SDSS, HISS], ids=lambda grid: grid.name)
def test_spectrum_pulls(spectra, grid):
    truth, made = spectra
    pulls = [[] for _ in range(5)]
    for spectrum in made:
        for zoom, level in enumerate(spectrum_levels(spectrum, grid)):
            if grid is SDSS:
                start = SDSS.first_bin - spectrum.first_bin
                good = np.isfinite(spectrum.flux[start : start + 3744]).reshape(-1, 2**zoom)
                inside = truth[start : start + 3744].reshape(-1, 2**zoom)
                with np.errstate(invalid="ignore"):
                    expected = (inside * good).sum(1) / good.sum(1)
            else:
                expected = block_truth(truth, spectrum, grid, zoom)
            pull = (level.value - expected) / level.sigma
            pulls[zoom].append(pull[np.isfinite(pull)])
    for zoom in range(5):
        require_unit_normal(np.concatenate(pulls[zoom]))
