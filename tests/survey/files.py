"""SDSS files in miniature, written with astropy: the readers' own code takes no part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits


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
    **cards: Any,
) -> fits.HDUList:
    n = len(flux)
    and_mask = np.zeros(n, np.int32) if and_mask is None else and_mask
    columns = {"flux": flux, "loglam": loglam, "ivar": ivar, "and_mask": and_mask}
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
