"""The real field 4510-4-30: noise, photometry and astrometry of frames and their zooms."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation
from scipy.optimize import curve_fit
from scipy.special import erf

from skyfuse.cube.grid import zoom_wcs
from skyfuse.cube.pyramid import image_levels
from skyfuse.survey.sdss.frames import read_frame
from skyfuse.survey.tables import read_table

APERTURE = 7.43 / 0.396
"""Radius of APERFLUX6, pixels."""


@pytest.fixture(scope="module", params="ugriz")
def field(real_data, request):
    """One band: the frame, sources found in it with their map, and the catalogue's stars."""
    folder = real_data / "sdss_frames"
    frame = read_frame(folder / f"frame-{request.param}-004510-4-0030.fits.bz2")
    background = sep.Background(frame.value, bw=128, bh=128).back()
    sources, segments = sep.extract(
        frame.value - background, 1.5, err=frame.sigma, minarea=5, segmentation_map=True
    )
    table = read_table(folder / "calibObj-004510-4-star.fits.gz")
    band = "ugriz".index(request.param)
    stars = table[["RA", "DEC"]].assign(
        psf=table[f"PSFFLUX_{band}"], aperture=table[f"APERFLUX6_{band}"], fwhm=table[f"PSF_FWHM_{band}"]
    )
    x, y = WCS(frame.info.wcs).world_to_pixel_values(stars["RA"], stars["DEC"])
    ny, nx = frame.info.shape
    inside = (x > 45) & (x < nx - 46) & (y > 45) & (y < ny - 46)
    return frame, sources, segments, stars.assign(x=x, y=y)[inside]


def isolated(stars, sources, reach):
    """Stars with less than 2 % of their flux in other sources within `reach` pixels along each axis."""
    alone = []
    for star in stars.itertuples():
        away = np.maximum(abs(sources["x"] - star.x), abs(sources["y"] - star.y))
        alone.append(sources["flux"][(away > 4) & (away < reach)].sum() < 0.02 * star.psf)
    return stars[alone]


def test_sigma_is_the_scatter_of_sky_pixels(field):
    frame, _, segments, _ = field
    sky = ~binary_dilation(segments > 0, iterations=6)
    assert sky.mean() > 0.5
    pulls = (frame.value[sky] - np.median(frame.value[sky])) / frame.sigma[sky]
    assert 1.4826 * np.median(np.abs(pulls - np.median(pulls))) == pytest.approx(1, abs=0.1)
    assert frame.sky_sigma == pytest.approx(np.median(frame.sigma[sky]), rel=0.02)


def test_aperture_fluxes_are_the_catalogues(field):
    frame, sources, segments, stars = field
    bright = stars[(stars["psf"] > 100) & (stars["psf"] < 3000)]
    ratios = []
    for star in isolated(bright, sources, APERTURE + 6).itertuples():
        column, row = round(star.x), round(star.y)
        cut = np.s_[row - 40 : row + 41, column - 40 : column + 41]
        rows, columns = np.mgrid[cut]
        radius = np.hypot(columns - star.x, rows - star.y)
        # What is left of the sky around the star, as in the catalogue.
        ring = frame.value[cut][(radius > 24) & (radius < 38) & (segments[cut] == 0)]
        ring = ring[np.abs(ring - np.median(ring)) < 3 * frame.sky_sigma]
        flux = sep.sum_circle(frame.value, [star.x], [star.y], APERTURE, subpix=0)[0][0]
        ratios.append((flux - ring.mean() * np.pi * APERTURE**2) / star.aperture)
    assert len(ratios) >= 5
    assert np.median(ratios) == pytest.approx(1, abs=0.03)


def star_model(size, width):
    """Return a Gaussian star on a level background, integrated over the pixels of a square cutout."""
    edges = np.arange(size + 1) - 0.5

    def model(_, x, y, flux, background):
        across, along = (np.diff(erf((edges - at) / width / np.sqrt(2))) / 2 for at in (x, y))
        return (flux * along[:, None] * across + background).ravel()

    return model


def test_stars_lie_where_the_wcs_of_each_zoom_says(field):
    # The catalogue knows the width, so that a star on the corner of four coarse pixels can be placed.
    frame, sources, _, stars = field
    bright = stars[(stars["psf"] > 50) & (stars["psf"] < 1000)]
    offsets = []
    for star in isolated(bright, sources, 36).itertuples():
        column, row = int(np.ceil(star.x - 32)), int(np.ceil(star.y - 32))
        cut = np.s_[row : row + 64, column : column + 64]
        wcs = WCS(frame.info.wcs)
        wcs.wcs.crpix -= column, row
        offsets.append([])
        for zoom, level in enumerate(image_levels(frame.value[cut], frame.sigma[cut])):
            x, y = zoom_wcs(wcs, zoom).world_to_pixel_values(star.RA, star.DEC)
            size = 2**zoom
            found, _ = curve_fit(
                star_model(64 // size, star.fwhm / 0.396 / 2.3548 / size),
                0,
                level.value.ravel().astype(float),
                p0=[x, y, star.psf / size**2, 0],
                sigma=level.sigma.ravel(),
            )
            offsets[-1].append(np.hypot(found[0] - x, found[1] - y) * size)
    assert len(offsets) >= 5
    assert (np.median(offsets, axis=0) < 0.15).all()
