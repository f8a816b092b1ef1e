"""Cross-match of catalogues on disk: tables, and through LSDB HATS catalogues larger than memory.

HATS catalogues (IVOA note *HATS*, 1.0) are matched partition against partition. The margin of a partition is
read from its neighbours, so that no margin catalogue need exist, and a pair that straddles a pixel border is
found like any other. LSDB opens the catalogues and reads their partitions. Its own cross-match is not used:
it needs a margin catalogue of B as wide as the radius, and knows no one-to-one.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skyfuse.cube.grid import tile_of
from skyfuse.cube.layout import VERSION
from skyfuse.dataset.match import (
    CANDIDATES,
    SEPARATION,
    Counts,
    CrossMatch,
    FloatArray,
    IntArray,
    Mode,
    Pairs,
    Zones,
    checked_mode,
    checked_radius,
    closest_first,
    degrees,
    joined_names,
    match_tables,
    nearest_each,
    on_sky,
    position_columns,
    zone_pairs,
)
from skyfuse.disk import replaced, sha256, write_json
from skyfuse.errors import DataError, FileError, StoreError, UsageError
from skyfuse.survey.tables import read_table
from skyfuse.words import Progress

# The whole sky: 12 cells of order 0, each of 4^29 cells of order 29.
_SKY = 12 << 58
# Nominal side of a HEALPix cell of order 0, arcsec: sqrt(4π/12) (Górski et al. 2005, ApJ 622, 759).
_CELL = float(np.degrees(np.sqrt(np.pi / 3)) * 3600)
# Partitions of B whose sorted positions are kept at hand (48 MB for a million rows).
_KEPT = 8


class _Catalogue(Protocol):
    """Rows in partitions, each of one range of order-29 HEALPix cells."""

    starts: IntArray
    stops: IntArray
    rows: int
    columns: tuple[str, str]
    path: Path

    def positions(self, part: int) -> tuple[FloatArray, FloatArray]:
        """Return the right ascensions and declinations of a partition, degrees."""

    def read(self, part: int) -> pa.Table:
        """Return all columns of a partition, in the same order."""

    def cells(self, order: int) -> IntArray:
        """Return order-29 ranges, shape (n, 2), that hold all rows; of tables cells of `order`."""

    def files(self) -> list[Path]:
        """Return the files that tell one version of the catalogue from another."""


class _Table:
    """A table in memory: one partition, the whole sky."""

    def __init__(self, frame: pd.DataFrame, columns: tuple[str, str] | None, path: Path) -> None:
        self.frame, self.path = frame, path
        self.columns = position_columns(list(frame.columns), columns, path=path)
        self.starts, self.stops = np.zeros(1, np.int64), np.full(1, _SKY)
        self.rows = len(frame)

    def positions(self, part: int) -> tuple[FloatArray, FloatArray]:
        ra, dec = (degrees(self.frame, name, self.path) for name in self.columns)
        return ra, dec

    def read(self, part: int) -> pa.Table:
        return pa.Table.from_pandas(self.frame, preserve_index=False).replace_schema_metadata()

    def cells(self, order: int) -> IntArray:
        return _cells(*self.positions(0), order)

    def files(self) -> list[Path]:
        return [self.path]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Deprecations inside Dask and LSDB; nothing of ours is in them.
        warnings.simplefilter("ignore")
        yield


class _Hats:
    """A HATS catalogue or collection on disk, read by LSDB a partition at a time."""

    def __init__(self, path: Path, columns: tuple[str, str] | None) -> None:
        try:
            with _quiet():
                import lsdb
        except ImportError as error:
            raise UsageError(
                "a HATS catalogue needs LSDB", path=path, remedy="pip install 'skyfuse[scale]'"
            ) from error
        if columns is not None:
            raise UsageError(
                "a HATS catalogue lies in the order of its own positions",
                path=path,
                remedy="name columns for tables only",
            )
        self.path = path
        try:
            with _quiet():
                self._whole = whole = lsdb.open_catalog(path, columns="all")
                info = whole.hc_structure.catalog_info
                self.columns = info.ra_column, info.dec_column
                places = lsdb.open_catalog(path, columns=list(self.columns))
                # Both in the order of the pixels; a graph built anew for each partition would hold them all.
                pixels = [
                    (int(pixel.order), int(pixel.pixel)) for pixel in whole.get_ordered_healpix_pixels()
                ]
                parts = list(zip(whole.to_delayed(), places.to_delayed(), strict=True))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from error
        starts = np.array([pixel << 2 * (29 - order) for order, pixel in pixels], np.int64)
        stops = np.array([(pixel + 1) << 2 * (29 - order) for order, pixel in pixels], np.int64)
        along = np.argsort(starts)
        self.starts, self.stops = starts[along], stops[along]
        self._parts = [parts[k] for k in along]
        self._pixels = [pixels[k] for k in along]
        self._suffix = str(getattr(info, "npix_suffix", None) or ".parquet")
        self.rows = int(info.total_rows)
        if not pixels:
            raise DataError("the catalogue has no rows", remedy="give a catalogue with data", path=path)

    def _frame(self, delayed: Any) -> pd.DataFrame:
        try:
            with _quiet():
                frame: pd.DataFrame = delayed.compute(scheduler="synchronous")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(self.path, error) from error
        return frame

    def positions(self, part: int) -> tuple[FloatArray, FloatArray]:
        frame = self._frame(self._parts[part][1])
        ra, dec = (degrees(frame, name, self.path) for name in self.columns)
        return ra, dec

    def read(self, part: int) -> pa.Table:
        frame = self._frame(self._parts[part][0])
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
        self._check_types(part, table.schema)
        return table

    def _check_types(self, part: int, shown: pa.Schema) -> None:
        """Refuse a partition that holds as floats what is whole in the catalogue, or the reverse."""
        from hats.io.paths import pixel_catalog_file
        from hats.pixel_math import HealpixPixel

        base = self._whole.hc_structure.catalog_base_dir
        place = pixel_catalog_file(base, HealpixPixel(*self._pixels[part]), npix_suffix=self._suffix)
        path = Path(str(place))
        for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
            schema = pq.read_schema(file)
            for field in schema:
                kinds = [field.type, shown.field(field.name).type if field.name in shown.names else None]
                if kinds[1] is None or not (
                    any(map(pa.types.is_floating, kinds)) and any(map(pa.types.is_integer, kinds))
                ):
                    continue
                whole = pq.read_table(file, columns=[field.name], partitioning=None)[field.name]
                values = np.abs(whole.cast(pa.float64(), safe=False).fill_null(0).to_numpy())
                narrow = pa.float32() in kinds
                if (values >= (2.0**24 if narrow else 2.0**53)).any():
                    raise DataError(
                        f"the column {field.name!r} is {kinds[0]} here and {kinds[1]} in the catalogue, "
                        "and its whole numbers have lost digits",
                        remedy="write it as integers, or as text, in all partitions",
                        path=file,
                    )

    def cells(self, order: int) -> IntArray:
        return np.stack([self.starts, self.stops], axis=1)

    def files(self) -> list[Path]:
        # The footers of all partitions stand for them: how many rows, least and greatest of each column.
        folder = Path(str(self._whole.hc_structure.catalog_base_dir))
        names = ("hats.properties", "properties", "partition_info.csv", "dataset/_metadata")
        return [folder / name for name in names if (folder / name).is_file()]


def _damaged(path: Path, error: Exception) -> StoreError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return StoreError(
        f"the catalogue cannot be read ({said})",
        remedy="give the folder that holds hats.properties, whole",
        path=path,
    )


def _cells(ra: FloatArray, dec: FloatArray, order: int) -> IntArray:
    """Return the cells of an order that hold positions, as order-29 ranges of shape (n, 2)."""
    valid = on_sky(ra, dec)
    cells = np.sort(pd.unique(tile_of(ra[valid], dec[valid], order)))
    return np.stack([cells, cells + 1], axis=1) << 2 * (29 - order)


def _order(radius: float) -> int:
    """Return the order of cells into whose neighbours, and no further, the radius reaches from any place.

    A cell is nowhere thinner than a quarter of the nominal side.
    """
    return int(np.clip(np.floor(np.log2(_CELL / (4 * radius))), 0, 29))


def _touched(catalogue: _Catalogue, cells: IntArray, order: int) -> IntArray:
    """Return the partitions that hold, or border on, some of these cells."""
    from mocpy import MOC

    if not len(cells):
        return np.empty(0, np.int64)
    around = MOC.from_depth29_ranges(29, cells.astype(np.uint64)).degrade_to_order(order).add_neighbours()
    begin, end = around.to_depth29_ranges.astype(np.int64).T
    # The last range that begins before a partition ends must end after it begins.
    last = np.searchsorted(begin, catalogue.stops) - 1
    return np.flatnonzero((last >= 0) & (end[last] > catalogue.starts))


_FOUND = np.dtype(
    [("part", "i8"), ("a", "i8"), ("b", "i8"), ("separation", "f8"), ("candidates", "i8"), ("nearest", "?")]
)
# A row's number within its partition takes the lower bits of one number for the whole catalogue.
_ROW_BITS = 40


def _match_parts(
    a: _Catalogue, b: _Catalogue, output: Path, radius: float, mode: Mode, progress: Progress | None
) -> CrossMatch:
    """Match partition by partition into a Parquet file.

    Pairs are found from the positions alone and go to disk by the partition of B, each with the number of
    candidates that its row of A has. Then each partition of B is read once, for the rows that are kept, and
    each of A once, to be written with them. Only the pairs that compete for a row are held for the whole
    catalogue: a chain of them may lead across any number of borders.
    """
    tell = progress or (lambda done, total, what: None)
    result = CrossMatch(mode, radius, Counts(rows=a.rows), Counts(rows=b.rows))
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        scratch = Path(folder)
        _find_parts(a, b, radius, scratch, result, tell)
        _settle_parts(scratch, result)
        _fetch_rows(b, scratch, result, tell)
        _write_parts(a, b, scratch, output, result, tell)
    return result


def _find_parts(
    a: _Catalogue, b: _Catalogue, radius: float, scratch: Path, result: CrossMatch, tell: Progress
) -> None:
    """Write all pairs to ``pairs/<partition of B>/<partition of A>.npy``."""
    order = _order(radius)
    sizes: dict[int, tuple[int, int]] = {}

    @lru_cache(maxsize=_KEPT)
    def zones_of(part: int) -> Zones:
        zones = Zones(*b.positions(part), radius)
        sizes[part] = zones.rows, len(zones.row)
        return zones

    done = 0
    for part_a in _touched(a, b.cells(order), order).tolist():
        ra, dec = a.positions(part_a)
        zones = Zones(ra, dec, radius)
        parts = _touched(b, _cells(ra, dec, order), order).tolist()
        nothing = np.empty(0, np.int64)
        found = [Pairs(nothing, nothing, np.empty(0))]
        for n, part_b in enumerate(parts):
            tell(done + zones.rows * n // len(parts), a.rows, "matching rows")
            pairs = zone_pairs(zones, zones_of(part_b), radius)
            found.append(Pairs(pairs.a, pairs.b + (part_b << _ROW_BITS), pairs.separation))
        pairs = Pairs(
            np.concatenate([p.a for p in found]),
            np.concatenate([p.b for p in found]),
            np.concatenate([p.separation for p in found]),
        )
        each = np.bincount(pairs.a, minlength=zones.rows)
        rows = np.empty(len(pairs), _FOUND)
        rows["part"], rows["a"], rows["separation"] = part_a, pairs.a, pairs.separation
        rows["b"] = pairs.b & ((1 << _ROW_BITS) - 1)
        rows["candidates"], rows["nearest"] = each[pairs.a], nearest_each(pairs)
        part_of = pairs.b >> _ROW_BITS
        for part_b in np.unique(part_of).tolist():
            _save(scratch / "pairs" / str(part_b) / f"{part_a}.npy", rows[part_of == part_b])
        done += zones.rows
        result.a.read += zones.rows
        result.a.placed += len(zones.row)
        result.a.near += int((each > 0).sum())
        result.a.ambiguous += int((each > 1).sum())
    for size, placed in sizes.values():
        result.b.read += size
        result.b.placed += placed
    # What a catalogue says of itself may be out of date.
    result.a.rows, result.b.rows = (max(c.rows, c.read) for c in (result.a, result.b))
    tell(a.rows, a.rows, "matching rows")


def _save(path: Path, rows: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by NumPy itself, whose error on a full disk is none of the system's.
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    path.write_bytes(content.getbuffer())


def _load(folder: Path) -> NDArray[Any]:
    return np.concatenate([np.load(file, allow_pickle=False) for file in sorted(folder.glob("*.npy"))])


def _parts(folder: Path) -> list[int]:
    """Return the partitions that have a folder, in order."""
    return sorted(int(path.name) for path in folder.iterdir()) if folder.is_dir() else []


def _settle_parts(scratch: Path, result: CrossMatch) -> None:
    """Write the pairs that are kept to ``kept/<partition of B>/``."""
    contested: list[NDArray[Any]] = []
    owner: list[IntArray] = []
    for part in _parts(scratch / "pairs"):
        rows = _load(scratch / "pairs" / str(part))
        each = np.bincount(rows["b"])
        sole = (rows["candidates"] == 1) & (each[rows["b"]] == 1)
        result.within += len(rows)
        result.sole += int(sole.sum())
        result.b.near += int((each > 0).sum())
        result.b.ambiguous += int((each > 1).sum())
        if result.mode == "one-to-one":
            contested.append(rows[~sole])
            owner.append(np.full(len(contested[-1]), part, np.int64))
            rows = rows[sole]
        elif result.mode == "nearest":
            rows = rows[rows["nearest"]]
        _save(scratch / "kept" / str(part) / "settled.npy", rows)
    if contested:
        rows, part_b = np.concatenate(contested), np.concatenate(owner)
        pairs = Pairs(
            rows["a"] + (rows["part"] << _ROW_BITS), rows["b"] + (part_b << _ROW_BITS), rows["separation"]
        )
        kept = closest_first(pairs)
        for part in np.unique(part_b[kept]).tolist():
            _save(scratch / "kept" / str(part) / "won.npy", rows[kept & (part_b == part)])


def _fetch_rows(b: _Catalogue, scratch: Path, result: CrossMatch, tell: Progress) -> None:
    """Write the rows of B that are kept to ``rows/<partition of A>/<partition of B>.parquet``."""
    parts = _parts(scratch / "kept")
    for n, part in enumerate(parts):
        tell(n, len(parts), "reading partitions of B")
        kept = _load(scratch / "kept" / str(part))
        if not len(kept):
            continue
        result.pairs += len(kept)
        result.b.matched += len(np.unique(kept["b"]))
        columns = b.read(part)
        for part_a in np.unique(kept["part"]).tolist():
            mine = kept[kept["part"] == part_a]
            rows = columns.take(pa.array(mine["b"]))
            pair = {name: pa.array(mine[name]) for name in ("a", "b", "separation", "candidates")}
            place = scratch / "rows" / str(part_a)
            place.mkdir(parents=True, exist_ok=True)
            # Columns by number: names of B may be those of the pair.
            table = pa.Table.from_arrays(
                [*pair.values(), pa.array(np.full(len(mine), part)), *rows.columns],
                [*pair, "part", *(f"c{k}" for k in range(rows.num_columns))],
            )
            pq.write_table(table, place / f"{part}.parquet")
    tell(len(parts), len(parts), "reading partitions of B")


def _write_parts(
    a: _Catalogue, b: _Catalogue, scratch: Path, output: Path, result: CrossMatch, tell: Progress
) -> None:
    """Join the rows of A and of B, a row group for each partition of A."""
    schema_a, schema_b = a.read(0).schema, b.read(0).schema
    names_a, names_b = joined_names(schema_a.names, schema_b.names)
    fields = [
        *(field.with_name(name) for field, name in zip(schema_a, names_a, strict=True)),
        *(field.with_name(name) for field, name in zip(schema_b, names_b, strict=True)),
        pa.field(SEPARATION, pa.float64()),
        pa.field(CANDIDATES, pa.int64()),
    ]
    schema = pa.schema(fields)
    parts = _parts(scratch / "rows")
    with pq.ParquetWriter(output, schema) as writer:
        for n, part in enumerate(parts):
            tell(n, len(parts), "writing partitions of A")
            files = sorted((scratch / "rows" / str(part)).glob("*.parquet"))
            rows = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
            rows = rows.sort_by([(key, "ascending") for key in ("a", "separation", "part", "b")])
            result.a.matched += len(np.unique(rows["a"].to_numpy()))
            columns = a.read(part).take(rows["a"].combine_chunks())
            mine = [rows[f"c{k}"] for k in range(len(names_b))]
            table = [*columns.columns, *mine, rows["separation"], rows["candidates"]]
            writer.write_table(pa.Table.from_arrays(table, schema.names).cast(schema))
    tell(len(parts), len(parts), "writing partitions of A")


def match_files(
    a: str | Path,
    b: str | Path,
    output: str | Path,
    radius: float = 1.0,
    mode: str = "one-to-one",
    *,
    columns_a: tuple[str, str] | None = None,
    columns_b: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> CrossMatch:
    """Match two catalogues on disk and write the result, with its counts and origin beside it.

    Parameters
    ----------
    a, b : path
        A table that `read_table` reads; or the folder of a HATS catalogue or collection, or of a cube (its
        objects), which is matched a partition at a time and may be larger than memory. In the mode one-to-one
        the pairs that compete for a row are held in memory (about 100 bytes each).
    output : path
        ``.parquet``, or ``.csv`` where both are tables. The counts, radius, mode, hashes of the inputs and
        versions go to the same name ending in ``.json``.
    radius, mode, columns_a, columns_b, progress
        See `match`; a HATS catalogue names its own columns.

    Returns
    -------
    CrossMatch
        Without a table. Rows of a HATS catalogue stand in the order of its partitions.

    Raises
    ------
    UsageError
        If the radius or the mode is none, the output would replace an input, or LSDB is missing.
    FileError, StoreError
        If an input cannot be read.
    DataError
        See `match`.
    """
    mode, radius, output = checked_mode(mode), checked_radius(radius), Path(output)
    if output.suffix not in (".parquet", ".csv"):
        raise UsageError(
            "its name does not say how to write the table", path=output, remedy="end it in .parquet or .csv"
        )
    for path in (a, b):
        if output.exists() and Path(path).exists() and output.samefile(path):
            raise UsageError("would replace an input", path=output, remedy="give another name for the result")
    output.parent.mkdir(parents=True, exist_ok=True)
    sides = [_open(Path(a), columns_a), _open(Path(b), columns_b)]
    left, right = sides
    tables = isinstance(left, _Table) and isinstance(right, _Table)
    if not tables and output.suffix == ".csv":
        raise UsageError(
            "a match with a HATS catalogue is written as Parquet", path=output, remedy="end it in .parquet"
        )
    # The table takes its place last: where the disk is full, one that stands there keeps its counts.
    with replaced(output.absolute()) as partial:
        if isinstance(left, _Table) and isinstance(right, _Table):
            placed = [(side.frame, *side.positions(0)) for side in (left, right)]
            result = match_tables(placed[0], placed[1], radius, mode, progress)
            if result.table is not None and output.suffix == ".csv":
                result.table.to_csv(partial, index=False)
            elif result.table is not None:
                result.table.to_parquet(partial, index=False)
            result.table = None
        else:
            result = _match_parts(left, right, partial, radius, mode, progress)
        _write_counts(output, sides, result)
    return result


def _write_counts(output: Path, sides: Sequence[_Table | _Hats], result: CrossMatch) -> None:
    """Write counts and origin beside a match."""
    libraries = ["numpy", "pandas", "pyarrow"]
    if any(isinstance(side, _Hats) for side in sides):
        libraries += ["lsdb", "hats"]
    origin = {
        "skyfuse": VERSION,
        "versions": {name: version(name) for name in libraries},
        "inputs": {
            name: {
                "path": str(side.path),
                "position": list(side.columns),
                "sha256": {file.name: sha256(file) for file in side.files()},
            }
            for name, side in zip("ab", sides, strict=True)
        },
    }
    write_json(output.with_suffix(".json"), result.to_dict() | {"provenance": origin})


def _open(path: Path, columns: tuple[str, str] | None) -> _Table | _Hats:
    if not path.is_dir():
        return _Table(read_table(path), columns, path)
    if (path / "cube.json").is_file():
        path = path / "objects"
    if not any(
        (path / name).is_file() for name in ("hats.properties", "properties", "collection.properties")
    ):
        raise FileError(
            "it is a folder without hats.properties",
            reason="unknown-kind",
            remedy="give a table, the folder of a HATS catalogue, or a cube",
            path=path,
        )
    return _Hats(path, columns)
