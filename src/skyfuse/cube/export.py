"""Export: objects of a cube as FITS, VOTable or NumPy files for every other program."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import from_table, writeto
from astropy.nddata import NDData
from astropy.table import Column, Table
from numpy.typing import NDArray

from skyfuse.cube.layout import VERSION
from skyfuse.cube.query import Cube
from skyfuse.cube.region import Region
from skyfuse.disk import replaced
from skyfuse.errors import DataError, UsageError
from skyfuse.survey.records import BANDS, Samples

if TYPE_CHECKING:
    pass

Format = Literal["fits", "votable", "numpy"]

_FORMATS = ("fits", "votable", "numpy")
_UNITS = {"ra": "deg", "dec": "deg", "mjd": "d"}


def export(
    cube: Cube,
    out: Path | str,
    *,
    region: Region | None = None,
    ids: Sequence[str] | None = None,
    zoom: int = 0,
    bands: str = BANDS,
    time: tuple[float, float] | None = None,
    fmt: Format = "fits",
) -> int:
    """Write objects of a cube into one file.

    Parameters
    ----------
    cube : Cube
    out : path
        File to write; replaced if it exists.
    region, ids : optional
        Which objects, see `Cube.select`; by default all.
    zoom : int
    bands : str
    time : tuple of float, optional
        Objects with a spectrum taken between these MJD; their images come from frames taken between them.
    fmt : "fits", "votable" or "numpy"
        FITS: the table of objects, then for each object its spectrum as a binary table and for each band
        three images (value, sigma, coverage) with WCS. VOTable: the table of objects with the spectra in
        array columns. NumPy: an ``.npz`` without pickled objects, all arrays aligned, its table and units as
        JSON in the entry ``meta``.

    Returns
    -------
    int
        Number of objects written.

    Raises
    ------
    UsageError
        If the format, a zoom or a band does not exist, or `out` is a folder.
    DataError
        If no object is left.
    """
    if fmt not in _FORMATS:
        raise UsageError(f"there is no export format '{fmt}'", remedy=f"choose one of {', '.join(_FORMATS)}")
    cube.require(zoom=zoom, bands=bands)
    out = _file(out)
    table = cube.select("objects", region=region, ids=ids, time=time)
    if table.empty:
        raise DataError(
            "no object meets the selection", remedy="widen the region or the time", path=cube.path
        )
    rows = table.index.to_numpy()
    spectra = cube.gather("spectrum", zoom, rows)
    with replaced(out) as partial:
        if fmt == "fits":
            _write_fits(cube, partial, table, spectra, zoom, bands, time)
        elif fmt == "votable":
            _write_votable(cube, partial, table, spectra, zoom)
        else:
            images = cube.cutouts(
                table["ra"], table["dec"], size=cube.image_size, zooms=(zoom,), bands=bands, time=time
            )[zoom]
            _write_numpy(cube, partial, table, images, spectra, zoom, bands)
    return len(table)


def write_cutout(cut: NDData, out: Path | str) -> None:
    """Write what `Cube.cutout` returned to FITS: for each band value, sigma and coverage, with WCS.

    Parameters
    ----------
    cut : NDData
    out : path
        File to write; replaced if it exists.
    """
    out = _file(out)
    hdus = fits.HDUList([_primary()])
    hdus.extend(_image_hdus(cut, ""))
    with replaced(out) as partial:
        _save(hdus, partial)


def _save(hdus: fits.HDUList, path: Path) -> None:
    # Not by Astropy itself, whose errors on a full disk are none of the system's.
    content = io.BytesIO()
    hdus.writeto(content)
    path.write_bytes(content.getbuffer())


def _file(out: Path | str) -> Path:
    out = Path(out)
    if out.is_dir():
        raise UsageError("is a folder", path=out, remedy="give the name of a file")
    return out.absolute()


def _primary() -> fits.PrimaryHDU:
    primary = fits.PrimaryHDU()
    primary.header["CREATOR"] = f"skyfuse {VERSION}"
    return primary


def _image_hdus(cut: NDData, prefix: str) -> list[fits.ImageHDU]:
    hdus = []
    # float16 has no FITS counterpart; coverage is exact in float32.
    arrays: dict[str, NDArray[Any]] = {
        "VALUE": cut.data,
        "SIGMA": cut.uncertainty.array,
        "COVERAGE": cut.meta["coverage"].astype(np.float32),
    }
    for number, band in enumerate(cut.meta["bands"]):
        for name, array in arrays.items():
            wcs = cut.meta["wcs"].get(band)
            # SIP is no part of the standard: astropy writes it only where that is allowed.
            header = fits.Header() if wcs is None else wcs.to_header(relax=wcs.sip is not None)
            if name != "COVERAGE":
                header["BUNIT"] = "nanomaggy"
            header["BAND"] = band
            header["ZOOM"] = (cut.meta["zoom"], "each step halves both axes")
            if band in cut.meta["frame_id"]:
                header["FRAMEID"] = cut.meta["frame_id"][band]
                header["MJD-OBS"] = (cut.meta["mjd"][band], "middle of the exposure, TAI")
            hdus.append(fits.ImageHDU(array[number], header, name=f"{prefix}{band}_{name}"))
    return hdus


def _astropy_table(table: pd.DataFrame) -> Table:
    """Turn index rows into an astropy table: text never null, units named."""
    columns = []
    for name in table.columns:
        values = table[name]
        if isinstance(values.dtype, pd.StringDtype) or values.dtype == object:
            columns.append(Column([_ascii(value) for value in values], name=name, dtype=str))
        else:
            columns.append(Column(values.to_numpy(), name=name, unit=_UNITS.get(str(name))))
    return Table(columns)


def _ascii(value: Any) -> str:
    """FITS tables hold ASCII alone; a missing name is an empty one."""
    return "" if pd.isna(value) else str(value).encode("ascii", "replace").decode()


def _write_fits(
    cube: Cube,
    path: Path,
    table: pd.DataFrame,
    spectra: Samples,
    zoom: int,
    bands: str,
    time: tuple[float, float] | None,
) -> None:
    flux_unit = units.Unit(cube.meta["spectrum"]["unit"])
    hdus = fits.HDUList([_primary(), fits.BinTableHDU(_astropy_table(table), name="OBJECTS")])
    for number, (object_id, ra, dec) in enumerate(
        zip(table["object_id"], table["ra"], table["dec"], strict=True), start=1
    ):
        columns = {
            "wavelength": cube.grid.centres(zoom) * units.AA,
            "flux": spectra.value[number - 1] * flux_unit,
            "sigma": spectra.sigma[number - 1] * flux_unit,
            "coverage": spectra.coverage[number - 1].astype(np.float32),
        }
        spectrum = fits.table_to_hdu(Table(columns))
        spectrum.name = f"{number}_SPECTRUM"
        spectrum.header["OBJECT"] = object_id
        hdus.append(spectrum)
        try:
            cut = cube.cutout(
                SkyCoord(ra, dec, unit="deg"), size=cube.image_size, zoom=zoom, bands=bands, time=time
            )
        except DataError:
            # No frame holds this object: its row and spectrum stand alone.
            continue
        for hdu in _image_hdus(cut, f"{number}_"):
            hdu.header["OBJECT"] = object_id
            hdus.append(hdu)
    _save(hdus, path)


def _write_votable(cube: Cube, path: Path, table: pd.DataFrame, spectra: Samples, zoom: int) -> None:
    # The VOUnit standard deprecates Å and erg: the same numbers in nm and W.
    flux_unit = units.Unit("1e-19 W m-2 nm-1")
    rows = _astropy_table(table)
    rows["wavelength"] = np.tile(cube.grid.centres(zoom) / 10, (len(table), 1)) * units.nm
    rows["flux"] = spectra.value * flux_unit
    rows["flux_sigma"] = spectra.sigma * flux_unit
    rows["flux_coverage"] = spectra.coverage.astype(np.float32)
    votable = from_table(rows, table_id="objects")
    votable.description = f"Objects of {cube.path.name}, zoom {zoom}; skyfuse {VERSION}"
    writeto(votable, str(path), tabledata_format="binary2")


def _write_numpy(
    cube: Cube,
    path: Path,
    table: pd.DataFrame,
    images: Samples,
    spectra: Samples,
    zoom: int,
    bands: str,
) -> None:
    meta = {
        "skyfuse": VERSION,
        "cube": cube.path.name,
        "zoom": zoom,
        "bands": bands,
        "units": {
            "image": cube.meta["image"]["unit"],
            "spectrum": cube.meta["spectrum"]["unit"],
            "wavelength": "Angstrom",
        },
        "objects": json.loads(table.to_json(orient="records")),
    }
    arrays: dict[str, NDArray[Any]] = {
        **{f"image_{name}": array for name, array in images._asdict().items()},
        **{f"spectrum_{name}": array for name, array in spectra._asdict().items()},
        "wavelength": cube.grid.centres(zoom),
        "object_id": np.array(table["object_id"].to_list(), dtype=str),
        "meta": np.array(json.dumps(meta, allow_nan=False)),
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
