"""The SDSS archive's own files: frames, lite spectra, and the MPA-JHU star-formation tables."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from skyfuse.mock import images, spectra
from skyfuse.mock.files import fits_bytes, header_of, padded, wcs_cards, write_once
from skyfuse.mock.sky import NX, NY, Field, Source

FIBRES, SKY_FIBRES = 640, 8
"""Fibres of a plate; the last ones look at empty sky."""
FIRST_PLATE, FIRST_MJD = 3001, 53001

_INFO = np.dtype(
    [
        ("PLATEID", ">i2"),
        ("MJD", ">i4"),
        ("FIBERID", ">i2"),
        ("RA", ">f8"),
        ("DEC", ">f8"),
        ("TARGETTYPE", "S19"),
        ("SPECTROTYPE", "S19"),
        ("SUBCLASS", "S21"),
        ("Z", ">f4"),
        ("Z_ERR", ">f4"),
        ("Z_WARNING", ">i2"),
    ]
)
_TOTSFR = np.dtype(
    [
        ("AVG", ">f4"),
        ("ENTROPY", ">f4"),
        ("FLAG", ">i2"),
        ("MEDIAN", ">f4"),
        ("MODE", ">f4"),
        ("P16", ">f4"),
        ("P2P5", ">f4"),
        ("P84", ">f4"),
        ("P97P5", ">f4"),
    ]
)


def frame_path(where: Field, band: str) -> Path:
    """Return a frame's place under the mock's folder, as on the SDSS archive server."""
    name = f"frame-{band}-{where.run:06d}-{where.camcol}-{where.number:04d}.fits"
    return Path("photoObj/frames/301", str(where.run), str(where.camcol), name)


def fibre_of(index: int) -> tuple[int, int, int]:
    """Return plate, MJD and fibre of a target."""
    plate, fibre = divmod(index, FIBRES - SKY_FIBRES)
    return FIRST_PLATE + plate, FIRST_MJD + plate, fibre + 1


def sky_fibre_of(number: int) -> tuple[int, int, int]:
    """Return plate, MJD and fibre of a spectrum of empty sky."""
    plate, fibre = divmod(number, SKY_FIBRES)
    return FIRST_PLATE + plate, FIRST_MJD + plate, FIBRES - fibre


def spectrum_path(plate: int, mjd: int, fibre: int) -> Path:
    """Return a lite spectrum's place under the mock's folder, as on the SDSS archive server."""
    return Path("spectro/redux/26/spectra/lite", f"{plate:04d}", f"spec-{plate:04d}-{mjd}-{fibre:04d}.fits")


def frame_bytes(where: Field, observed: images.Conditions, image: NDArray[np.float32]) -> bytes:
    """Return a frame file: image, calibration, sky, and how it was taken."""
    header = header_of(_frame_cards(where, observed))
    header_of(wcs_cards(observed.wcs), header)
    header["NMGY"] = (float(observed.calib.mean()), "Calibration factor [nMgy per count]")
    header["RERUN"] = ("301", "rerun")
    sky = np.zeros(1, [("ALLSKY", ">f4", (192, 256)), ("XINTERP", ">f4", (NX,)), ("YINTERP", ">f4", (NY,))])
    sky["ALLSKY"], sky["XINTERP"], sky["YINTERP"] = observed.all_sky, images.X_INTERP, images.Y_INTERP
    return fits_bytes(
        fits.PrimaryHDU(image, header),
        fits.ImageHDU(observed.calib),
        fits.BinTableHDU(sky),
        fits.BinTableHDU(_track(where, observed)),
    )


def _frame_cards(where: Field, observed: images.Conditions) -> tuple[tuple[str, Any, str], ...]:
    drift = images.DRIFT_ORDER.index(observed.band)
    return (
        ("TAI", observed.tai, "1st row - Number of seconds since Nov 17 1858"),
        ("RA", round(where.ra, 6), "Right ascension of telescope boresight"),
        ("DEC", round(where.dec, 6), "Declination of telescope boresight"),
        ("ORIGIN", "MOCK", ""),
        ("TELESCOP", "2.5m", ""),
        ("TIMESYS", "TAI", ""),
        ("RUN", where.run, "Run number"),
        ("FRAME", where.number + 2 * drift, "Frame sequence number within the run"),
        ("STRIPE", 10, "Stripe index number"),
        ("FLAVOR", "science", "Flavor of this run"),
        ("EXPTIME", "53.907456", "Exposure time (seconds)"),
        ("CCDMODE", "DRIFT", "'STARING' or 'DRIFT'"),
        ("C_OBS", 26322, "CCD row clock rate (usec/row)"),
        ("CAMROW", 1 + drift, "Row in the imaging camera"),
        ("EQUINOX", 2000.0, ""),
        ("SOFTBIAS", 1000, "software bias added to all DN"),
        ("BUNIT", "nanomaggy", "1 nanomaggy = 3.631e-6 Jy"),
        ("FILTER", observed.band, "filter used"),
        ("CAMCOL", where.camcol, "column in the imaging camera"),
        ("RADECSYS", "ICRS", "International Celestial Ref. System"),
    )


_TRACK = np.dtype(
    [
        ("RUN", ">i4"),
        ("RERUN", "S3"),
        ("CAMCOL", ">i4"),
        ("FILTER", "S1"),
        ("NODE", ">f8"),
        ("INCL", ">f8"),
        ("NAXIS", ">i4", (2,)),
        ("FIELD", ">i4"),
        ("MJD", ">f8"),
        ("AIRMASS", ">f8"),
    ]
)


def _track(where: Field, observed: images.Conditions) -> NDArray[np.void]:
    """Return the table of how the telescope moved, as far as the mock knows."""
    track = np.zeros(1, _TRACK)
    track["RUN"], track["RERUN"], track["CAMCOL"] = where.run, b"301", where.camcol
    track["FILTER"] = observed.band.encode()
    track["NODE"], track["NAXIS"], track["FIELD"] = 95.0, (NX, NY), where.number
    track["MJD"], track["AIRMASS"] = observed.tai / 86400, 1.1
    return track


_COADD = np.dtype(
    [
        ("flux", ">f4"),
        ("loglam", ">f4"),
        ("ivar", ">f4"),
        ("and_mask", ">i4"),
        ("or_mask", ">i4"),
        ("wdisp", ">f4"),
        ("sky", ">f4"),
        ("model", ">f4"),
    ]
)
_SPECOBJ = np.dtype(
    [
        ("SURVEY", "S6"),
        ("INSTRUMENT", "S4"),
        ("PROGRAMNAME", "S23"),
        ("PLATEQUALITY", "S8"),
        ("PLATESN2", ">f4"),
        ("SPECPRIMARY", "u1"),
        ("SPECLEGACY", "u1"),
        ("SPECOBJID", "S22"),
        ("RUN2D", "S3"),
        ("RUN1D", "S1"),
        ("CX", ">f8"),
        ("CY", ">f8"),
        ("CZ", ">f8"),
        ("SOURCETYPE", "S19"),
        ("TARGETTYPE", "S8"),
        ("OBJTYPE", "S16"),
        ("PLATE", ">i4"),
        ("TILE", ">i4"),
        ("MJD", ">i4"),
        ("FIBERID", ">i4"),
        ("PLUG_RA", ">f8"),
        ("PLUG_DEC", ">f8"),
        ("CLASS", "S6"),
        ("SUBCLASS", "S21"),
        ("Z", ">f4"),
        ("Z_ERR", ">f4"),
        ("RCHI2", ">f4"),
        ("DOF", ">i4"),
        ("VDISP", ">f4"),
        ("VDISP_ERR", ">f4"),
        ("WAVEMIN", ">f4"),
        ("WAVEMAX", ">f4"),
        ("ZWARNING", ">i4"),
        ("SN_MEDIAN_ALL", ">f4"),
        ("SN_MEDIAN", ">f4", (5,)),
        ("SPECTROFLUX", ">f4", (5,)),
        ("SPECTROFLUX_IVAR", ">f4", (5,)),
        ("ANYANDMASK", ">i4"),
        ("ANYORMASK", ">i4"),
    ]
)
# Lines that the pipeline fitted, one a row; the mock fits none, but its files have all HDUs of real ones.
_SPZLINE = np.dtype(
    [
        ("PLATE", ">i4"),
        ("MJD", ">i4"),
        ("FIBERID", ">i4"),
        ("LINENAME", "S13"),
        ("LINEWAVE", ">f8"),
        ("LINEZ", ">f4"),
    ]
)


@lru_cache(maxsize=128)
def _table_header(name: str, rows: int) -> bytes:
    """Return a table's header block; making it anew for each file would take most of the writing time."""
    dtype = {"COADD": _COADD, "SPECOBJ": _SPECOBJ, "SPZLINE": _SPZLINE}[name]
    header: str = fits.BinTableHDU(np.zeros(rows, dtype), name=name).header.tostring()
    return header.encode("ascii")


def spectrum_bytes(
    seen: spectra.FibreSpectrum, where: tuple[int, int, int], ra: float, dec: float, record: NDArray[np.void]
) -> bytes:
    """Return a lite spectrum file: header, coadded spectrum, and the pipeline's row."""
    header = header_of(_spectrum_cards(seen, where, ra, dec))
    n = len(seen.flux)
    coadd = np.zeros(n, _COADD)
    coadd["flux"], coadd["ivar"], coadd["loglam"] = seen.flux, seen.ivar, (seen.first + np.arange(n)) * 1e-4
    coadd["and_mask"], coadd["or_mask"] = seen.and_mask, seen.or_mask
    coadd["wdisp"], coadd["sky"], coadd["model"] = seen.wdisp, seen.sky, seen.expected
    return b"".join(
        [
            header.tostring().encode("ascii"),
            _table_header("COADD", n),
            padded(coadd.tobytes()),
            _table_header("SPECOBJ", 1),
            padded(record.tobytes()),
            _table_header("SPZLINE", 0),
        ]
    )


def _spectrum_cards(
    seen: spectra.FibreSpectrum, where: tuple[int, int, int], ra: float, dec: float
) -> tuple[tuple[str, Any, str], ...]:
    plate, mjd, fibre = where
    return (
        ("SIMPLE", True, ""),
        ("BITPIX", 8, ""),
        ("NAXIS", 0, ""),
        ("EXTEND", True, ""),
        ("TAI", mjd * 86400.0 + 15000.0, "1st row - Number of seconds since Nov 17 1858"),
        ("RA", ra, "Right ascension (deg)"),
        ("DEC", dec, "Declination (deg)"),
        ("EQUINOX", 2000.0, ""),
        ("RADECSYS", "FK5", ""),
        ("TIMESYS", "tai", "TAI, not UTC"),
        ("MJD", mjd, "MJD of observation"),
        ("TELESCOP", "MOCK", ""),
        ("EXPTIME", 3600.0, "Minimum of exposure times for all cameras"),
        ("FLAVOR", "science", ""),
        ("QUALITY", "excellent", "night/image quality"),
        ("PLATEID", plate, "Plate Id"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("NWORDER", 2, "Linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", round(seen.first * 1e-4, 4), "Central wavelength (log10) of first pixel"),
        ("COEFF1", 1e-4, "Log10 dispersion per pixel"),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("BUNIT", "1E-17 erg/cm^2/s/Ang", ""),
        ("PLUG_RA", ra, "RA of object [deg]"),
        ("PLUG_DEC", dec, "dec of object [deg]"),
        ("FIBERID", fibre, "Fiber number (1-640)"),
    )


def specobj(
    source: Source | None,
    where: tuple[int, int, int],
    ra: float,
    dec: float,
    seen: spectra.FibreSpectrum,
    rng: np.random.Generator,
) -> NDArray[np.void]:
    """Return the pipeline's row; `source` is None for a sky fibre."""
    plate, mjd, fibre = where
    record = np.zeros(1, _SPECOBJ)
    row: dict[str, Any] = {
        "SURVEY": b"sdss",
        "INSTRUMENT": b"SDSS",
        "PROGRAMNAME": b"legacy",
        "PLATEQUALITY": b"good",
        "PLATESN2": 20.0,
        "SPECPRIMARY": 1,
        "SPECLEGACY": 1,
        "RUN2D": b"26",
        "PLATE": plate,
        "TILE": plate,
        "MJD": mjd,
        "FIBERID": fibre,
        "SPECOBJID": str((plate << 50) + (fibre << 38) + ((mjd - 50000) << 24)).encode(),
        "PLUG_RA": ra,
        "PLUG_DEC": dec,
        "RCHI2": 1.0,
        "DOF": len(seen.flux) - 10,
        "CX": np.cos(np.radians(ra)) * np.cos(np.radians(dec)),
        "CY": np.sin(np.radians(ra)) * np.cos(np.radians(dec)),
        "CZ": np.sin(np.radians(dec)),
        "WAVEMIN": 10 ** (seen.first * 1e-4),
        "WAVEMAX": 10 ** ((seen.first + len(seen.flux) - 1) * 1e-4),
        "ANYANDMASK": np.bitwise_or.reduce(seen.and_mask),
        "ANYORMASK": np.bitwise_or.reduce(seen.or_mask),
    }
    good = seen.ivar > 0
    noise = np.sqrt(seen.ivar[good])
    row["SN_MEDIAN_ALL"] = float(np.median(seen.flux[good] * noise)) if good.any() else 0.0
    if source is None:
        row |= {
            "SOURCETYPE": b"SKY",
            "TARGETTYPE": b"SKY",
            "OBJTYPE": b"SKY",
            "CLASS": b"GALAXY",
            "ZWARNING": 4 | 1,
        }
    else:
        error = float(np.clip(3e-4 / max(row["SN_MEDIAN_ALL"], 0.3), 5e-6, 3e-3)) * (
            10 if source.kind == "QSO" else 1
        )
        row |= {
            "SOURCETYPE": {"GALAXY": b"GALAXY", "QSO": b"QSO", "STAR": b"SPECTROPHOTO_STD"}[source.kind],
            "TARGETTYPE": b"SCIENCE",
            "OBJTYPE": source.kind.encode(),
            "CLASS": source.kind.encode(),
            "SUBCLASS": source.subclass.encode(),
            "Z": source.z + error * rng.standard_normal(),
            "Z_ERR": error,
            "ZWARNING": 4 if row["SN_MEDIAN_ALL"] < 1.5 or rng.random() < 0.01 else 0,
            "VDISP": source.sigma_v if source.kind == "GALAXY" else 0.0,
            "VDISP_ERR": 10.0,
        }
    for key, value in row.items():
        record[key] = value
    return record


def write_sfr_tables(out: Path, truth: pd.DataFrame) -> int:
    """Write the two row-aligned tables of the MPA-JHU catalogue; return their number of rows."""
    rows = truth[truth["listed"] != "absent"]
    n = len(rows)
    info = np.zeros(n, _INFO)
    for key, column in (
        ("PLATEID", "plate"),
        ("MJD", "mjd"),
        ("FIBERID", "fiberid"),
        ("RA", "ra"),
        ("DEC", "dec"),
        ("Z", "z"),
    ):
        info[key] = rows[column]
    info["Z_ERR"], info["TARGETTYPE"], info["SPECTROTYPE"] = 1e-4, b"GALAXY", b"GALAXY"
    info["SUBCLASS"] = rows["subclass"].str.encode("ascii")
    sfr = np.zeros(n, _TOTSFR)
    # Offsets of the percentiles of a normal distribution, in standard deviations.
    for key, offset in (
        ("AVG", 0.0),
        ("MEDIAN", 0.0),
        ("MODE", 0.0),
        ("P16", -1.0),
        ("P84", 1.0),
        ("P2P5", -1.96),
        ("P97P5", 1.96),
    ):
        value = (rows["avg"] + offset * rows["label_sigma"]).to_numpy(copy=True)
        value[(rows["listed"] == "sentinel").to_numpy()] = -99.0
        value[(rows["listed"] == "undefined").to_numpy()] = np.nan
        sfr[key] = value
    sfr["FLAG"] = rows["flag"]
    for name, table in (("gal_info_dr7_v5_2.fit", info), ("gal_totsfr_dr7_v5_2.fits", sfr)):
        write_once(out / "sfr" / name, partial(fits_bytes, fits.PrimaryHDU(), fits.BinTableHDU(table)))
    return n
