"""SDSS files in miniature, written with astropy (the readers' own code takes no part); reading any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo, Spectrum, SpectrumInfo
from skyfuse.survey.registry import reader_of


def frame_header(**cards: Any) -> fits.Header:
    header = fits.Header()
    header.update(
        RUN=4510, CAMCOL=4, FRAME=30, FILTER="r", BUNIT="nanomaggy", TAI=4586229007.28, EXPTIME="53.907456"
    )
    header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CUNIT1="deg", CUNIT2="deg", RADECSYS="ICRS")
    header.update(CRPIX1=5.0, CRPIX2=4.0, CRVAL1=200.0, CRVAL2=36.0)
    header.update(CD1_1=1e-5, CD1_2=1.1e-4, CD2_1=1.1e-4, CD2_2=-1e-5)
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    return header


def frame_hdus(
    image: np.ndarray,
    calib: np.ndarray | None = None,
    sky: np.ndarray | None = None,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    **cards: Any,
) -> fits.HDUList:
    header = frame_header(**cards)
    ny, nx = image.shape
    calib = np.full(nx, 0.005, np.float32) if calib is None else calib
    sky = np.full((ny // 8 + 2, nx // 8 + 2), 100, np.float32) if sky is None else sky
    x = (np.arange(nx) + 0.5) / 8 - 0.5 if x is None else x
    y = (np.arange(ny) + 0.5) / 8 - 0.5 if y is None else y
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("ALLSKY", f"{sky.size}E", dim=f"({sky.shape[1]},{sky.shape[0]})", array=sky[None]),
            fits.Column("XINTERP", f"{nx}E", array=x[None]),
            fits.Column("YINTERP", f"{ny}E", array=y[None]),
        ]
    )
    return fits.HDUList(
        [
            fits.PrimaryHDU(image.astype(np.float32), header),
            fits.ImageHDU(calib.astype(np.float32)),
            table,
            fits.BinTableHDU.from_columns(
                [
                    fits.Column("CAMCOL", "J", array=[header.get("CAMCOL", 0)]),
                    fits.Column("A", "D", array=[1.5]),
                ]
            ),
        ]
    )


def write_frame(path: Path, image: np.ndarray, **options: Any) -> Path:
    frame_hdus(image, **options).writeto(path, overwrite=True, output_verify="ignore")
    return path


def spectrum_hdus(
    flux: np.ndarray,
    ivar: np.ndarray,
    loglam: np.ndarray,
    and_mask: np.ndarray | None = None,
    *,
    upper: bool = False,
    named: bool = True,
    verdict: dict[str, Any] | None = None,
    sky: np.ndarray | None = None,
    **cards: Any,
) -> fits.HDUList:
    n = len(flux)
    and_mask = np.zeros(n, np.int32) if and_mask is None else and_mask
    columns = {"flux": flux, "loglam": loglam, "ivar": ivar, "and_mask": and_mask}
    columns |= {} if sky is None else {"sky": sky}
    coadd = fits.BinTableHDU.from_columns(
        [
            fits.Column(name.upper() if upper else name, "J" if name == "and_mask" else "E", array=array)
            for name, array in columns.items()
        ],
        name="COADD" if named else None,
    )
    row = {"CLASS": "GALAXY", "SUBCLASS": "", "Z": 0.1, "Z_ERR": 1e-5, "ZWARNING": 0, "SN_MEDIAN_ALL": 7.5}
    row |= {"SOURCETYPE": "GALAXY"} | (verdict or {})
    formats = {str: "16A", float: "E", int: "J"}
    specobj = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, formats[type(value)], array=np.array([value]))
            for name, value in row.items()
            if value is not None
        ]
    )
    primary = fits.PrimaryHDU()
    primary.header.update(PLATEID=266, MJD=51602, FIBERID=31, PLUG_RA=147.3, PLUG_DEC=-0.006, COEFF0=3.58)
    for key, value in cards.items():
        if value is None:
            del primary.header[key]
        else:
            primary.header[key] = value
    lines = fits.BinTableHDU.from_columns([fits.Column("LINEZ", "E", array=[0.1])])
    return fits.HDUList([primary, coadd, specobj, lines])


def write_spectrum(
    path: Path, flux: np.ndarray, ivar: np.ndarray, loglam: np.ndarray, **options: Any
) -> Path:
    spectrum_hdus(flux, ivar, loglam, **options).writeto(path, overwrite=True, output_verify="ignore")
    return path


def write_lamost(
    path: Path, flux: np.ndarray, ivar: np.ndarray, and_mask: np.ndarray | None = None, **cards: Any
) -> Path:
    """Write a LAMOST spectrum of the pilot survey's layout: row 2 is no wavelength."""
    rows = np.zeros((5, len(flux)), np.float32)
    rows[0], rows[1], rows[2] = flux, ivar, 1
    if and_mask is not None:
        rows[3] = and_mask
    primary = fits.PrimaryHDU(rows)
    primary.header.update(TELESCOP="LAMOST", PLANID="B6212", SPID=6, FIBERID=3, LMJD=55862, VACUUM=True)
    primary.header.update(RA=99.316263, DEC=27.23237, COEFF0=3.5682, COEFF1=1e-4, FIBERTYP="Obj")
    primary.header.update(CLASS="STAR", SUBCLASS="F9", Z=-7.138e-05, Z_ERR=4.663e-05, OBJTYPE="star")
    primary.header.update({key: value for key, value in cards.items() if value is not None})
    for key in (key for key, value in cards.items() if value is None):
        del primary.header[key]
    primary.writeto(path, overwrite=True)
    return path


DESI_ARMS = {"B": (4500, 2751), "R": (7200, 2326), "Z": (9400, 2881)}
"""First bin, in steps of 0.8 Å, and number of bins of each arm, as the data model has them."""


def desi_hdus(
    targets: list[int],
    arms: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    first: dict[str, int] | None = None,
    fibermap: dict[str, Any] | None = None,
    **cards: Any,
) -> fits.HDUList:
    """Return a coadd: of each arm flux, inverse variance and mask, shape (targets, bins)."""
    n = len(targets)
    columns = {
        "TARGETID": ("K", np.array(targets, np.int64)),
        "COADD_FIBERSTATUS": ("J", np.zeros(n)),
        "TARGET_RA": ("D", 150 + 0.01 * np.arange(n)),
        "TARGET_DEC": ("D", 2 + 0.01 * np.arange(n)),
        "OBJTYPE": ("3A", np.array(["TGT"] * n)),
    }
    for name, values in (fibermap or {}).items():
        if values is None:
            del columns[name]
        else:
            columns[name] = (columns.get(name, ("J",))[0], np.array(values))
    primary = fits.PrimaryHDU()
    primary.header.update({"SPGRP": "healpix", "SURVEY": "main", "PROGRAM": "dark", **cards})
    hdus = fits.HDUList([primary])
    hdus.append(
        fits.BinTableHDU.from_columns(
            [fits.Column(k, f, array=v) for k, (f, v) in columns.items()], name="FIBERMAP"
        )
    )
    exposures = {
        "TARGETID": ("K", np.repeat(np.array(targets, np.int64), 2)),
        "MJD": ("D", np.tile([59301.9, 59305.2], n)),
    }
    hdus.append(
        fits.BinTableHDU.from_columns(
            [fits.Column(k, f, array=v) for k, (f, v) in exposures.items()], name="EXP_FIBERMAP"
        )
    )
    for arm, (flux, ivar, mask) in arms.items():
        start = (first or {}).get(arm, DESI_ARMS[arm[0]][0])
        wave = 0.8 * start + np.cumsum(np.full(flux.shape[1], 0.8)) - 0.8
        parts = {"WAVELENGTH": wave, "FLUX": flux.astype(np.float32), "IVAR": ivar.astype(np.float32)}
        for part, array in (parts | {"MASK": mask.astype(np.int32)}).items():
            hdus.append(fits.ImageHDU(array, name=f"{arm}_{part}"))
        hdus[f"{arm}_FLUX"].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    return hdus


def redrock_hdus(targets: list[int], **columns: Any) -> fits.HDUList:
    n = len(targets)
    found = {
        "TARGETID": ("K", np.array(targets, np.int64)),
        "Z": ("D", 0.1 + 0.01 * np.arange(n)),
        "ZERR": ("D", np.full(n, 1e-5)),
        "ZWARN": ("K", np.zeros(n, np.int64)),
        "SPECTYPE": ("6A", np.array(["GALAXY"] * n)),
        "SUBTYPE": ("20A", np.array([""] * n)),
    }
    for name, values in columns.items():
        found[name] = (found[name][0], np.array(values))
    table = [fits.Column(name, form, array=array) for name, (form, array) in found.items()]
    return fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table, name="REDSHIFTS")])


def write_desi(
    folder: Path, targets: list[int], *, redshifts: bool = True, seed: int = 0, **options: Any
) -> Path:
    """Write a coadd of noise and its redshifts."""
    random = np.random.default_rng(seed)
    arms = {
        arm: (
            random.normal(1, 1, (len(targets), bins)),
            random.uniform(0.1, 5, (len(targets), bins)),
            np.zeros((len(targets), bins)),
        )
        for arm, (_, bins) in DESI_ARMS.items()
    }
    folder.mkdir(exist_ok=True)
    path = folder / "coadd-main-dark-1.fits"
    desi_hdus(targets, arms, **options).writeto(path, overwrite=True, checksum=True)
    if redshifts:
        redrock_hdus(targets).writeto(folder / "redrock-main-dark-1.fits", overwrite=True, checksum=True)
    return path


def write_spspec(
    path: Path, flux: np.ndarray, error: np.ndarray, mask: np.ndarray | None = None, **cards: Any
) -> Path:
    """Write a spectrum of DR7's layout."""
    rows = np.zeros((5, len(flux)), np.float32)
    rows[0], rows[1], rows[2] = flux, 0, error
    if mask is not None:
        rows[3] = mask
    primary = fits.PrimaryHDU(rows)
    primary.header.update(TELESCOP="SDSS 2.5-M", PLATEID=266, MJD=51602, FIBERID=31, OBJTYPE="GALAXY")
    primary.header.update(RA=10.0, DEC=20.0, RAOBJ=147.3, DECOBJ=-0.006, COEFF0=3.58, COEFF1=1e-4, VACUUM=1)
    primary.header.update(SPEC_CLN=2, Z=0.0213, Z_ERR=1.5e-4, Z_CONF=0.99, Z_WARNIN=0)
    primary.header.update({key: value for key, value in cards.items() if value is not None})
    for key in (key for key, value in cards.items() if value is None):
        del primary.header[key]
    primary.writeto(path, overwrite=True)
    return path


def write_sdssv(path: Path, flux: np.ndarray, ivar: np.ndarray, loglam: np.ndarray, **verdict: Any) -> Path:
    """Write a spectrum of SDSS-V's layout: upper-case columns, no plate and no fibre."""
    hdus = spectrum_hdus(
        flux, ivar, loglam, upper=True, PLATEID=None, FIBERID=None, MJD=None, PLUG_RA=None, PLUG_DEC=None
    )
    row = {"CLASS": "STAR", "SUBCLASS": "G2", "Z": 1e-4, "Z_ERR": 1e-5, "ZWARNING": 0, "SN_MEDIAN_ALL": 9.5}
    row |= {"OBJTYPE": "science", "FIELD": 101126, "MJD": 60206, "CATALOGID": 2**54 + 1}
    row |= {"RACAT": 210.5, "DECCAT": 52.25} | verdict
    formats = {str: "20A", float: "D", int: "K"}
    columns = [
        fits.Column(name, formats[type(value)], array=np.array([value]))
        for name, value in row.items()
        if value is not None
    ]
    hdus[2] = fits.BinTableHDU.from_columns(columns, name="SPALL")
    hdus.writeto(path, overwrite=True)
    return path


def recognise(path: Path) -> FrameInfo | SpectrumInfo:
    """Return what the reader of a file with one record says of it."""
    file = SurveyFile(path)
    (found,) = reader_of(file).records(file)
    assert isinstance(found, FrameInfo | SpectrumInfo)
    return found


def read_any(path: Path, **options: bool) -> Frame | Spectrum:
    """Read a file with one record by whatever reader knows it."""
    return reader_of(SurveyFile(path)).read(path, "", Options(**options))
