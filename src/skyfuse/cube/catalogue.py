"""Indexes of a cube: Parquet catalogues laid out as HATS, so that LSDB opens them as they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from skyfuse.checksums import read_checksums, verified
from skyfuse.cube.grid import healpix29
from skyfuse.disk import replaced
from skyfuse.errors import StoreError

ROWS = 1_000_000
"""A partition with more rows than this splits into its four children."""

HEALPIX = "_healpix_29"

_PLACE: list[tuple[str, pa.DataType]] = [("tile", pa.string()), ("row", pa.int64())]
_VERDICT: list[tuple[str, pa.DataType]] = [
    ("class", pa.string()),
    ("subclass", pa.string()),
    ("z", pa.float64()),
    ("z_err", pa.float64()),
    ("zwarning", pa.int64()),
    ("sn_median", pa.float64()),
]
_SPECTRUM: list[tuple[str, pa.DataType]] = [
    ("spectrum_id", pa.string()),
    ("instrument", pa.string()),
    ("survey", pa.string()),
    ("plate", pa.int64()),
    ("mjd", pa.int64()),
    ("fiberid", pa.int64()),
    ("ra", pa.float64()),
    ("dec", pa.float64()),
    *_VERDICT,
    ("good_fraction", pa.float64()),
]
_FILE: list[tuple[str, pa.DataType]] = [("file", pa.string()), ("key", pa.string()), ("sha256", pa.string())]

_FRAMES = pa.schema(
    [
        ("frame_id", pa.string()),
        ("instrument", pa.string()),
        ("survey", pa.string()),
        ("run", pa.int64()),
        ("camcol", pa.int64()),
        ("field", pa.int64()),
        ("band", pa.string()),
        ("mjd", pa.float64()),
        ("ra", pa.float64()),
        ("dec", pa.float64()),
        ("ny", pa.int64()),
        ("nx", pa.int64()),
        ("unit", pa.string()),
        ("scale", pa.float64()),
        ("caution", pa.string()),
        ("sky_sigma", pa.float64()),
        ("good_fraction", pa.float64()),
        ("corners", pa.list_(pa.float64())),
        ("radius", pa.float64()),
        ("wcs", pa.string()),
        *_FILE,
        *_PLACE,
    ]
)
_SPECTRA = pa.schema([("object_id", pa.string()), *_SPECTRUM, *_FILE, *_PLACE])


def schema_of(name: str, instruments: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of an index.

    `tile` is ``order/pixel`` of the tile's file, `row` the first index into its arrays: those of the
    instrument for frames and spectra. In `objects`, position, plate to sn_median and good_fraction are those
    of the best spectrum of all; ``spectrum_<instrument>`` is the best of one instrument,
    ``frame_<instrument>_<band>`` the frame its cutout comes from (null: none holds it), and
    ``inside_<instrument>_<band>`` tells whether the whole cutout lies on it. `source_id` is what the table
    calls the object that named it; null where none did.

    Parameters
    ----------
    name : str
        ``objects``, ``frames`` or ``spectra``.
    instruments : mapping
        Entry ``instruments`` of cube.json.
    """
    if name != "objects":
        return _FRAMES if name == "frames" else _SPECTRA
    images = [
        (one, band) for one, told in instruments.items() for band in told.get("image", {}).get("bands", ())
    ]
    return pa.schema(
        [
            ("object_id", pa.string()),
            ("source_id", pa.string()),
            ("n_spectra", pa.int64()),
            *_SPECTRUM,
            *((f"spectrum_{one}", pa.string()) for one, told in instruments.items() if "spectrum" in told),
            *((f"frame_{one}_{band}", pa.string()) for one, band in images),
            *((f"inside_{one}_{band}", pa.bool_()) for one, band in images),
            *_PLACE,
        ]
    )


def write_catalogue(
    root: Path, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, creator: str
) -> None:
    """Write one index as a HATS catalogue, replacing what stands there.

    Parameters
    ----------
    root : Path
        Folder of the cube; the catalogue goes to ``root/name``.
    name : str
    rows : sequence of mapping
        One a row, by column; what is not there is null, or false.
    schema : pyarrow.Schema
        From `schema_of`.
    creator : str
        Program and version, for the properties.

    Notes
    -----
    Layout: HATS, IVOA note 1.0: ``hats.properties``, ``partition_info.csv``,
    ``dataset/Norder=k/Dir=d/Npix=p.parquet``, rows sorted by the order-29 HEALPix column.
    """
    columns = {}
    for field in schema:
        default = False if field.type == pa.bool_() else None
        columns[field.name] = [row.get(field.name, default) for row in rows]
    table = pa.table(columns, schema=schema)
    cells = healpix29(table["ra"].to_numpy(), table["dec"].to_numpy()) if rows else np.empty(0, np.int64)
    order = np.argsort(cells, kind="stable")
    cells = np.asarray(cells, np.int64)[order]
    table = table.take(pa.array(order)).add_column(0, HEALPIX, pa.array(cells, pa.int64()))

    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    metadata = []
    partitions = list(_partitions(cells, 0)) if len(cells) else []
    for level, pixel, start, stop in partitions:
        relative = f"Norder={level}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
        with replaced(folder / "dataset" / relative) as partial:
            collector: list[pq.FileMetaData] = []
            pq.write_table(table.slice(start, stop - start), partial, metadata_collector=collector)
        collector[0].set_file_path(relative)
        metadata += collector
    with replaced(folder / "dataset" / "_common_metadata") as partial:
        pq.write_metadata(table.schema, partial)
    with replaced(folder / "dataset" / "_metadata") as partial:
        pq.write_metadata(table.schema, partial, metadata_collector=metadata)
    lines = ["Norder,Npix", *(f"{level},{pixel}" for level, pixel, _, _ in partitions)]
    with replaced(folder / "partition_info.csv") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    properties = {
        "obs_collection": name,
        "dataproduct_type": "object",
        "hats_nrows": len(table),
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": HEALPIX,
        "hats_col_healpix_order": 29,
        "hats_npix_suffix": ".parquet",
        "hats_order": max((level for level, *_ in partitions), default=0),
        "hats_max_rows": ROWS,
        "hats_builder": creator,
        "obs_regime": "Optical",
    }
    with replaced(folder / "hats.properties") as partial:
        partial.write_text(
            "#HATS catalog\n" + "".join(f"{key}={value}\n" for key, value in properties.items()),
            encoding="utf-8",
        )


def _partitions(cells: np.ndarray[Any, np.dtype[np.int64]], level: int) -> list[tuple[int, int, int, int]]:
    """Share sorted order-29 cells among pixels; return (order, pixel, first row, row after the last)."""
    shift = 2 * (29 - level)
    pixels, starts = np.unique(cells >> shift, return_index=True)
    stops = [*starts[1:].tolist(), len(cells)]
    found = []
    for pixel, start, stop in zip(pixels.tolist(), starts.tolist(), stops, strict=True):
        if stop - start > ROWS and level < 29:
            deeper = _partitions(cells[start:stop], level + 1)
            found += [(order, child, start + a, start + b) for order, child, a, b in deeper]
        else:
            found.append((level, pixel, start, stop))
    return found


def read_catalogue(root: Path, name: str, schema: pa.Schema) -> pd.DataFrame:
    """Read a whole index of a cube with the columns of `schema_of`, sorted by HEALPix cell.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    checksums = read_checksums(root)
    try:
        files = sorted((root / name).glob("dataset/Norder=*/Dir=*/Npix=*.parquet"))
        if checksums is not None:
            listed = {path for path in checksums if path.startswith(f"{name}/dataset/Norder=")}
            if lost := listed - {file.relative_to(root).as_posix() for file in files}:
                raise ValueError(f"{min(lost)} is missing")
        contents = [verified(root, file.relative_to(root).as_posix(), checksums) for file in files]
        tables = [pq.read_table(pa.BufferReader(content)) for content in contents]
        if not tables:
            tables = [schema.empty_table()]
        table = pa.concat_tables(tables)
        if HEALPIX in table.column_names:
            table = table.sort_by(HEALPIX).drop_columns([HEALPIX])
        missing = [column for column in schema.names if column not in table.column_names]
        if missing or not (root / name / "hats.properties").exists():
            raise ValueError(
                f"columns missing: {', '.join(missing)}" if missing else "hats.properties is missing"
            )
        frame: pd.DataFrame = table.to_pandas()
    except (OSError, ValueError, pa.ArrowException, StoreError) as error:
        raise StoreError(
            f"the index cannot be read ({error})",
            remedy="run skyfuse build again on the same inputs",
            path=root / name,
        ) from error
    return frame
