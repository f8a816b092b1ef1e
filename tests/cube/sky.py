"""A small sky on disk, in SDSS formats: two fields in five bands, and spectra of objects on and off them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from skyfuse.survey.sdss.instrument import BANDS
from tests.survey.files import frame_header, write_frame, write_spectrum

SHAPE = (100, 130)
CENTRES = ((150.0, 2.0), (150.001, 2.0), (210.0, -5.0))
"""Of the fields: the second overlaps the first, the third lies in another tile."""

FIRST, LAST = 35835, 39578


def field_cards(field: int, band: str) -> dict[str, object]:
    ra, dec = CENTRES[field]
    offset = BANDS.index(band)
    return {
        # FRAME counts along the scan, which meets the bands in the order r, i, u, z, g, two frames apart.
        "FRAME": field + 1 + 2 * "riuzg".index(band),
        "FILTER": band,
        "CRPIX1": SHAPE[1] / 2 + 0.5 + offset,
        "CRPIX2": SHAPE[0] / 2 + 0.5 - offset / 2,
        "CRVAL1": ra,
        "CRVAL2": dec,
        "TAI": 4586229007.28 + 864000.0 * field,
    }


def frame_path(folder: Path, field: int, band: str) -> Path:
    return folder / f"frame-{band}-004510-4-{field + 1:04d}.fits"


def make_frame(folder: Path, field: int, band: str) -> Path:
    random = np.random.default_rng(100 * field + BANDS.index(band))
    image = random.normal(0.0, 0.03, SHAPE)
    image[10:12, 20:24] = np.nan
    # A fainter sky in the second field, so that it is the better frame where both hold an object.
    sky = np.full((14, 18), 100.0 - 40.0 * (field == 1), np.float32)
    return write_frame(frame_path(folder, field, band), image, sky=sky, **field_cards(field, band))


def frame_wcs(field: int, band: str) -> WCS:
    header = frame_header(**field_cards(field, band))
    del header["RADECSYS"]
    return WCS(header)


def spectrum_path(folder: Path, plate: int, fiber: int) -> Path:
    return folder / f"spec-{plate:04d}-55000-{fiber:04d}.fits"


def make_spectrum(
    folder: Path,
    fiber: int,
    ra: float,
    dec: float,
    *,
    plate: int = 1,
    quality: float = 7.5,
    zwarning: int = 0,
    sky: float | None = None,
) -> Path:
    random = np.random.default_rng(10_000 * plate + fiber)
    bins = np.arange(FIRST - 20, LAST + 31)
    flux = random.normal(5.0, 1.0, len(bins)).astype(np.float32)
    ivar = np.where(random.random(len(bins)) < 0.02, 0.0, 1.0).astype(np.float32)
    return write_spectrum(
        spectrum_path(folder, plate, fiber),
        flux,
        ivar,
        (bins * 1e-4).astype(np.float32),
        verdict={"SN_MEDIAN_ALL": quality, "ZWARNING": zwarning},
        sky=None if sky is None else np.full(len(bins), sky, np.float32),
        PLATEID=plate,
        MJD=55000,
        FIBERID=fiber,
        PLUG_RA=ra,
        PLUG_DEC=dec,
    )


def on_pixel(field: int, x: float, y: float, band: str = "r") -> tuple[float, float]:
    """Return RA and Dec of a 0-based pixel of a field."""
    ra, dec = frame_wcs(field, band).wcs_pix2world(x, y, 0)
    return float(ra), float(dec)


def make_sky(folder: Path) -> Path:
    """Write 15 frames and 9 spectra of 7 objects: 8 (2 epochs), edge, overlap, other tile, three far away."""
    (folder / "photo").mkdir(parents=True)
    (folder / "spectro").mkdir()
    for field in range(len(CENTRES)):
        for band in BANDS:
            make_frame(folder / "photo", field, band)
    spectra = folder / "spectro"
    ra, dec = on_pixel(0, 50.3, 49.6)
    make_spectrum(spectra, 1, ra, dec, quality=5.0)
    make_spectrum(spectra, 1, ra + 0.3 / 3600, dec, plate=2, quality=9.0)
    make_spectrum(spectra, 2, ra, dec + 0.3 / 3600, plate=2, quality=20.0, zwarning=4)
    make_spectrum(spectra, 3, *on_pixel(0, 3.0, 4.0))
    make_spectrum(spectra, 4, *on_pixel(1, 65.0, 50.0))
    make_spectrum(spectra, 5, *on_pixel(2, 64.5, 49.5))
    for fiber, ra in ((6, 10.0), (7, 10.5), (8, 359.9999)):
        make_spectrum(spectra, fiber, ra, 40.0)
    return folder


def tile_hashes(cube: Path) -> dict[str, str]:
    """Return the SHA-256 of every tile by its relative path."""
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cube.glob("Norder=*/Dir=*/Npix=*.h5"))
    }


def write_image(path: Path, pixels: np.ndarray, ra: float, dec: float, pixel: float, **cards: object) -> Path:
    """Write an array with a plain WCS whose middle lies at a position."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.cdelt = [ra, dec], [-pixel / 3600, pixel / 3600]
    wcs.wcs.crpix = [(size + 1) / 2 for size in pixels.shape[::-1]]
    header = wcs.to_header()
    header.update(cards)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)
    return path


def make_unwise(folder: Path, ra: float, dec: float, side: int = 30) -> Path:
    """Write coadds in W1 and W2 with weights and their mask; return the image in W1."""
    stem = f"unwise-{round(10 * ra):04d}{'m' if dec < 0 else 'p'}{round(10 * abs(dec)):03d}"
    for number in (1, 2):
        random = np.random.default_rng(number)
        cards = {"UNW_VER": "test", "BAND": number, "MAGZP": 22.5}
        image = random.normal(5, 1, (side, side)).astype(np.float32)
        weight = random.uniform(0.5, 2, (side, side)).astype(np.float32)
        for kind, pixels in (("img-m", image), ("invvar-m", weight)):
            write_image(folder / f"{stem}-w{number}-{kind}.fits", pixels, ra, dec, 2.75, **cards)
    mask = np.zeros((side, side), np.int32)
    # Bit 0 counts for W1, bit 2 for W2.
    mask[3, 4:9], mask[20, 20] = 1, 4
    write_image(folder / f"{stem}-msk.fits", mask, ra, dec, 2.75, UNW_VER="test", BAND=1, MAGZP=22.5)
    return folder / f"{stem}-w1-img-m.fits"


def make_decam(
    folder: Path, ra: float, dec: float, *, number: int = 7, zero: float | None = 25.0, side: int = 110
) -> Path:
    """Write an exposure in g with weight and mask; return the image."""
    random = np.random.default_rng(number)
    cards: dict[str, object] = {"INSTRUME": "DECam", "PROCTYPE": "InstCal", "FILTER": "g DECam SDSS c0001"}
    cards |= {"EXPNUM": number, "MJD-OBS": 57000.5, "EXPTIME": 90.0}
    cards |= {} if zero is None else {"MAGZERO": zero}
    planes = {
        "ooi": random.normal(100, 5, (side, side)).astype(np.float32),
        "oow": random.uniform(0.02, 0.06, (side, side)).astype(np.float32),
        "ood": (random.random((side, side)) < 0.02).astype(np.int16),
    }
    for kind, pixels in planes.items():
        write_image(folder / f"c4d_{number:06d}_{kind}_g_v1.fits", pixels, ra, dec, 0.262, **cards)
    return folder / f"c4d_{number:06d}_ooi_g_v1.fits"
