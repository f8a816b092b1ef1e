"""Infrared coadds of the true sky in the format of unWISE: W1 and W2, image, inverse variance and mask.

Laid out as the coadds of Lang (2014, AJ 147, 108) and Meisner, Lang & Schlegel (2018, AJ 156, 69): Vega
nanomaggies, North up and East to the left, with one coadd about each field of the mock in place of the
survey's 1.56° squares. Their inverse variances are those of empty sky; so is the noise here, independent from
pixel to pixel.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyfuse.mock import images, infrared
from skyfuse.mock import sky as skies
from skyfuse.mock.files import fits_bytes, header_of, wcs_cards
from skyfuse.mock.sky import SPAWN_COADD, Field, Sky, generator

Array = NDArray[np.float64]

PIXEL = 2.75
"""Side of a pixel, arcsec."""
MARGIN = 40
"""Pixels of a coadd beyond its field on each side: a cutout about an object by the edge is whole."""
SHAPE = tuple(2 * (int(np.ceil(n * skies.PIXEL / PIXEL / 2)) + MARGIN) for n in (skies.NX, skies.NY))
"""Rows and columns of a coadd."""
SEEING = (6.1, 6.4)
"""Full width at half maximum, arcsec (Wright et al. 2010, AJ 140, 1868)."""
SIGMA = (1.55, 5.8)
"""Noise of a pixel in Vega nanomaggies, as in real coadds of eight years."""
LATENT = (1 << 13, 1 << 15)
"""Bits of the mask for what a bright star leaves on the detector, in W1 and W2 (Meisner, Lang, Schlafly &
Schlegel 2019, PASP 131, 124504)."""
_BOX, _FINER = 48, 2
_NIGHTS = (55359.28830112, 58447.00049578)


@dataclass(frozen=True, slots=True)
class Coadd:
    """One band of one coadd, and its expectation.

    Attributes
    ----------
    band : int
    expected, image, ivar : ndarray of float32, shape `SHAPE`
        Vega nanomaggies, and one over their square.
    mask : ndarray of int32, shape `SHAPE`
        Bits of this band; the coadd's own mask holds those of all bands.
    """

    band: int
    expected: NDArray[np.float32]
    image: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.int32]


def name_of(where: Field) -> str:
    """Return a coadd's name, from right ascension and declination in tenths of a degree: ``1500p001``."""
    return f"{round(where.ra * 10):04d}{'p' if where.dec >= 0 else 'm'}{abs(round(where.dec * 10)):03d}"


def paths(where: Field) -> dict[str, Path]:
    """Return the places of a coadd's files under the mock's folder, by what each holds."""
    name = name_of(where)
    stem = f"unwise-{name}"
    files = {"mask": f"{stem}-msk.fits.gz"}
    for band in infrared.BANDS:
        files |= {
            f"image{band}": f"{stem}-w{band}-img-m.fits",
            f"ivar{band}": f"{stem}-w{band}-invvar-m.fits.gz",
        }
    return {what: Path("unwise", name[:3], name, file) for what, file in files.items()}


def wcs_of(where: Field) -> WCS:
    """Return a coadd's WCS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [where.ra, where.dec]
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]
    wcs.wcs.cd = [[-PIXEL / 3600, 0.0], [0.0, PIXEL / 3600]]
    wcs.wcs.set()
    return wcs


def render(sky: Sky, where: Field) -> Array:
    """Render the sources about a field without noise; shape (2, *`SHAPE`), Vega nanomaggies a pixel."""
    out = np.zeros((len(infrared.BANDS), *SHAPE))
    sources = sky.of_field(where, reach=(MARGIN + _BOX / 2) * PIXEL / skies.PIXEL)
    if not sources:
        return out
    x, y = wcs_of(where).all_world2pix([s.ra for s in sources], [s.dec for s in sources], 0)
    spread = [images.point_spread(_BOX * _FINER, fwhm, PIXEL, _FINER) for fwhm in SEEING]
    for source, column, row in zip(sources, x, y, strict=True):
        parts = images.transforms(source, _BOX * _FINER, PIXEL / _FINER)
        light = np.tensordot(infrared.fluxes(sky.seed, source), parts, 1)
        for band, frame in enumerate(out):
            # Profiles run to the North and to the East; so do the axes of the image turned over.
            turned = frame[:, ::-1].T
            at = (float(row), float(SHAPE[1] - 1 - column))
            images.add_source(turned, at, light[band] * spread[band], PIXEL, _FINER)
    return out


def observe(sky: Sky, where: Field) -> Iterator[Coadd]:
    """Yield a coadd's bands with noise, gaps without data and masked latent images."""
    y, x = (axis / max(SHAPE) for axis in np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]])
    for number, truth in enumerate(render(sky, where)):
        rng = generator(sky.seed, SPAWN_COADD, where.index, number)
        tilt = rng.uniform(-0.2, 0.2, 2)
        ivar = ((1 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)) / SIGMA[number] ** 2).astype(np.float32)
        expected = truth.astype(np.float32)
        noise = rng.standard_normal(SHAPE) / np.sqrt(ivar.astype(np.float64))
        image = (expected + noise).astype(np.float32)
        mask = np.zeros(SHAPE, np.int32)
        for _ in range(4):
            row, column, radius = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), rng.uniform(2.0, 5.0)
            latent = np.hypot(y * max(SHAPE) - row, x * max(SHAPE) - column) < radius
            image[latent] += np.float32(rng.uniform(5.0, 30.0) * SIGMA[number])
            mask[latent] |= LATENT[number]
        for row, column in rng.integers(0, SHAPE, (6, 2)):
            image[row, column] = ivar[row, column] = 0.0
        yield Coadd(infrared.BANDS[number], expected, image, ivar, mask)


def file_bytes(where: Field, band: int, pixels: NDArray[np.float32] | NDArray[np.int32]) -> bytes:
    """Return a file of a coadd, with the header that all of them share.

    Parameters
    ----------
    where : Field
    band : int
        Which the header names; masks name the first.
    pixels : ndarray, shape `SHAPE`
        Image, inverse variance or mask.
    """
    header = header_of(wcs_cards(wcs_of(where)))
    header_of(
        (
            ("EQUINOX", 2000.0, "Equatorial coordinates definition (yr)"),
            ("LONPOLE", 180.0),
            ("LATPOLE", 0.0),
            ("IMAGEW", SHAPE[1], "Image width,  in pixels."),
            ("IMAGEH", SHAPE[0], "Image height, in pixels."),
            ("MAGZP", 22.5, "Magnitude zeropoint (in Vega mag)"),
            ("UNW_SKY", 0.0, "Background value subtracted from coadd img"),
            ("UNW_VER", "mock", "unWISE code git revision"),
            ("UNW_DVER", 3.3, "unWISE data model version"),
            ("EPOCH", -1, "epoch number"),
            ("MJDMIN", _NIGHTS[0], "minimum MJD among included L1b frames"),
            ("MJDMAX", _NIGHTS[1], "maximum MJD among included L1b frames"),
            ("BAND", band, "WISE band"),
            ("ORIGIN", "MOCK"),
            ("TELESCOP", "MOCK"),
        ),
        header,
    )
    return fits_bytes(fits.PrimaryHDU(pixels, header))


def zipped(where: Field, band: int, pixels: NDArray[np.float32] | NDArray[np.int32]) -> bytes:
    """Return a file as `file_bytes` does, compressed; the same bytes at any time."""
    return gzip.compress(file_bytes(where, band, pixels), 6, mtime=0)
