"""Export: objects of a cube as FITS, VOTable or NumPy files for every other program."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import from_table, writeto
from astropy.nddata import NDData
from astropy.table import Column, Table
from numpy.typing import NDArray

from skyfuse.cube.contents import CubeImaging, CubeSpectroscopy
from skyfuse.cube.layout import VERSION
from skyfuse.cube.query import Cube
from skyfuse.cube.region import Region
from skyfuse.disk import replaced
from skyfuse.errors import DataError, UsageError
from skyfuse.survey.records import Samples

Format = Literal["fits", "votable", "numpy"]

_FORMATS = ("fits", "votable", "numpy")
_SDSS_FLUX = "1e-17 erg s-1 cm-2 Angstrom-1"
_UNITS = {"ra": "deg", "dec": "deg", "mjd": "d"}


def export(
    cube: Cube,
    out: Path | str,
    *,
    region: Region | None = None,
    ids: Sequence[str] | None = None,
    zoom: int = 0,
    bands: str | Sequence[str] | None = None,
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
    bands : str or sequence of str, optional
        By default all; to be named only where the cube holds images of one instrument.
    time : tuple of float, optional
        Objects with a spectrum taken between these MJD; their images come from frames taken between them.
    fmt : "fits", "votable" or "numpy"
        FITS: the table of objects, then for each object its spectrum as a binary table and for each band
        three images (value, sigma, coverage) with WCS. VOTable: the table of objects with the spectra in
        array columns. NumPy: an ``.npz`` without pickled objects, all arrays aligned, its table and units as
        JSON in the entry ``meta``. Where several instruments have images, or spectra, their names stand
        before those of arrays, columns and HDUs.

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
    parts = _parts(cube, zoom, bands)
    out = _file(out)
    table = cube.select("objects", region=region, ids=ids, time=time)
    if table.empty:
        raise DataError(
            "no object meets the selection", remedy="widen the region or the time", path=cube.path
        )
    rows = table.index.to_numpy()
    spectra = {
        prefix: (told, cube.gather("spectrum", zoom, rows, told.instrument))
        for prefix, told in parts.spectra.items()
    }
    chosen = _Chosen(cube, table, spectra, parts, time)
    with replaced(out) as partial:
        if fmt == "fits":
            _write_fits(chosen, partial)
        elif fmt == "votable":
            _write_votable(chosen, partial)
        else:
            _write_numpy(chosen, partial)
    return len(table)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is exported of each object: images with their bands and spectra, by the prefix of their names."""

    zoom: int
    images: dict[str, tuple[CubeImaging, tuple[str, ...]]]
    spectra: dict[str, CubeSpectroscopy]


class _Chosen(NamedTuple):
    """What is exported: rows of a cube's objects, their spectra, and what is to be written of each."""

    cube: Cube
    table: pd.DataFrame
    spectra: Mapping[str, tuple[CubeSpectroscopy, Samples]]
    parts: _Parts
    time: tuple[float, float] | None


def _parts(cube: Cube, zoom: int, bands: str | Sequence[str] | None) -> _Parts:
    imagings = [cube.imaging(name) for name in cube.instruments_with("image")]
    spectroscopies = [cube.spectroscopy(name) for name in cube.instruments_with("spectrum")]
    if bands is not None and len(imagings) > 1:
        raise UsageError(
            f"bands were named, and the cube holds images of {len(imagings)} instruments",
            remedy="leave the bands out to export all, or cut out images of one instrument",
            path=cube.path,
        )
    # Of objects from a table alone there is nothing but their places.
    least = min([one.zooms for one in imagings] + [one.zooms for one in spectroscopies], default=1)
    if zoom not in range(least):
        raise UsageError(
            f"there is no zoom {zoom}", remedy=f"choose 0 (native) to {least - 1}", path=cube.path
        )

    def prefix(instrument: str, others: Sequence[Any]) -> str:
        return f"{instrument}_" if len(others) > 1 else ""

    return _Parts(
        zoom,
        {prefix(one.instrument, imagings): (one, one.chosen(bands)) for one in imagings},
        {prefix(one.instrument, spectroscopies): one for one in spectroscopies},
    )


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
                header["BUNIT"] = cut.meta["unit"]
            header["BAND"] = band
            header["ZOOM"] = (cut.meta["zoom"], "each step halves both axes")
            if band in cut.meta["frame_id"]:
                header["FRAMEID"] = cut.meta["frame_id"][band]
                if math.isfinite(cut.meta["mjd"][band]):
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


def _write_fits(chosen: _Chosen, path: Path) -> None:
    cube, table, spectra, parts, time = chosen
    hdus = fits.HDUList([_primary(), fits.BinTableHDU(_astropy_table(table), name="OBJECTS")])
    for row, (object_id, ra, dec) in enumerate(
        zip(table["object_id"], table["ra"], table["dec"], strict=True)
    ):
        own = [
            _spectrum_hdu(told, samples, row, parts.zoom, f"{row + 1}_{prefix}SPECTRUM")
            for prefix, (told, samples) in spectra.items()
        ]
        for prefix, (imaging, bands) in parts.images.items():
            try:
                cut = cube.cutout(
                    SkyCoord(ra, dec, unit="deg"),
                    size=imaging.size,
                    zoom=parts.zoom,
                    bands=bands,
                    time=time,
                    instrument=imaging.instrument,
                )
            except DataError:
                # No frame holds this object: its row and spectrum stand alone.
                continue
            own += _image_hdus(cut, f"{row + 1}_{prefix}")
        for hdu in own:
            hdu.header["OBJECT"] = object_id
            hdus.append(hdu)
    _save(hdus, path)


def _spectrum_hdu(
    told: CubeSpectroscopy, samples: Samples, row: int, zoom: int, name: str
) -> fits.BinTableHDU:
    flux_unit = units.Unit(told.unit)
    columns = {
        "wavelength": told.grid.centres(zoom) * units.AA,
        "flux": samples.value[row] * flux_unit,
        "sigma": samples.sigma[row] * flux_unit,
        "coverage": samples.coverage[row].astype(np.float32),
    }
    hdu = fits.table_to_hdu(Table(columns))
    hdu.name = name
    return hdu


def _write_votable(chosen: _Chosen, path: Path) -> None:
    cube, table, spectra, parts, _ = chosen
    rows = _astropy_table(table)
    for prefix, (told, samples) in spectra.items():
        # The VOUnit standard deprecates Å and erg: the same numbers in nm and W.
        flux_unit = units.Unit("1e-19 W m-2 nm-1") if told.unit == _SDSS_FLUX else units.Unit(told.unit)
        rows[f"{prefix}wavelength"] = np.tile(told.grid.centres(parts.zoom) / 10, (len(table), 1)) * units.nm
        rows[f"{prefix}flux"] = samples.value * flux_unit
        rows[f"{prefix}flux_sigma"] = samples.sigma * flux_unit
        rows[f"{prefix}flux_coverage"] = samples.coverage.astype(np.float32)
    votable = from_table(rows, table_id="objects")
    votable.description = f"Objects of {cube.path.name}, zoom {parts.zoom}; skyfuse {VERSION}"
    writeto(votable, str(path), tabledata_format="binary2")


def _write_numpy(chosen: _Chosen, path: Path) -> None:
    cube, table, spectra, parts, time = chosen
    arrays: dict[str, NDArray[Any]] = {}
    told_units, bands_of = {"wavelength": "Angstrom"}, {}
    for prefix, (imaging, bands) in parts.images.items():
        cut = cube.cutouts(
            table["ra"],
            table["dec"],
            size=imaging.size,
            zooms=(parts.zoom,),
            bands=bands,
            time=time,
            instrument=imaging.instrument,
        )[parts.zoom]
        arrays |= {f"{prefix}image_{name}": array for name, array in cut._asdict().items()}
        told_units[f"{prefix}image"], bands_of[f"{prefix}image"] = imaging.unit, list(bands)
    for prefix, (told, samples) in spectra.items():
        arrays |= {f"{prefix}spectrum_{name}": array for name, array in samples._asdict().items()}
        arrays[f"{prefix}wavelength"] = told.grid.centres(parts.zoom)
        told_units[f"{prefix}spectrum"] = told.unit
    meta = {
        "skyfuse": VERSION,
        "cube": cube.path.name,
        "zoom": parts.zoom,
        "bands": bands_of,
        "units": told_units,
        "objects": json.loads(table.to_json(orient="records")),
    }
    arrays["object_id"] = np.array(table["object_id"].to_list(), dtype=str)
    arrays["meta"] = np.array(json.dumps(meta, allow_nan=False))
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
