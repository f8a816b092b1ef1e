"""Tables of any form (CSV and other text, FITS, Parquet, VOTable, NumPy) as data frames.

With the values that surveys write for "missing".
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from astropy.io import votable

from skyfuse.errors import DataError, FileError
from skyfuse.survey import fits as raw
from skyfuse.survey.columns import framed, hidden, masks, of_arrow, spread, with_units
from skyfuse.survey.filetype import FITS, HEAD, NUMPY, PARQUET, VOTABLE, form_of
from skyfuse.survey.fitstable import MOST_COLUMNS, read_fits
from skyfuse.survey.parquetfooter import values_told
from skyfuse.survey.texttable import read_text

PART = "part"
"""Column that says which part of a fixed split a row belongs to, where the file's name says it."""

SENTINELS = (-9999.0, -999.0, -9999.9, -999.9, -99.99, -99.9)
"""Values that surveys write for "missing" and that hardly anything measured is."""

ROUND_SENTINELS = (-100.0, -99.0, 99.0, 99.9, 99.99, 999.0, 9999.0)
"""Values that surveys write for "missing" and that measurements take, too."""

_TEXT = (".csv", ".txt", ".dat", ".tsv", ".asc", ".ecsv")
_FITS = (".fits", ".fit", ".fits.fz")
_VOTABLE = (".vot", ".votable", ".xml")
_SUFFIXES = ".csv, .txt, .dat, .ecsv, .fits, .fit, .parquet, .vot, .npy, or ANNz's .<bands>.train"
# ANNz (Collister & Lahav 2004, PASP 116, 345) names its files after the bands and the part, writes no header,
# and in each row the magnitudes, their errors and the redshift.
_ANNZ = re.compile(r".*\.([A-Za-z]{2,})\.(train|valid|test)$")
# float64 holds whole numbers up to this exactly.
_EXACT = 2.0**53
# Most bytes of the header of a .npy file.
_NPY_HEADER = 1 << 20
# Of VOTables before 1.3 astropy takes an empty cell of whole numbers for 0.
_OLD_VOTABLE = re.compile(rb"(<(?:\w+:)?VOTABLE\b[^>]*\bversion\s*=\s*[\"'])1\.[0-2]\b")
# Bytes of the largest table, and of what compression or holes make of few bytes on disk: so many times those.
_MOST_BYTES, _EXPANSION, _LEAST_BOUND = 16 << 30, 100, 256 << 20
# Cells that a file may have whatever its size, and for each of its bytes.
_MOST_CELLS, _MOST_CELLS_A_BYTE = 100_000_000, 100


def read_table(path: str | Path, *, names: Sequence[str] = ()) -> pd.DataFrame:
    """Read a catalogue table.

    Values are kept as they are: sentinels such as −9999 or −99 are numbers like any other until
    `without_sentinels` takes them out. Columns keep their names and order; a column of vectors becomes one
    column an element, named ``NAME_0``, ``NAME_1`` and so on.

    Parameters
    ----------
    path : path
        Text such as ``.csv`` (comma, tab, semicolon, bar or blanks; comment lines above the header; UTF-8 or
        Latin-1), ``.fits``, ``.fit``, ``.fits.gz``, ``.parquet``, ``.vot`` or a structured ``.npy``.
        ``*.<bands>.train``, ``.valid`` and ``.test`` are ANNz's: magnitudes, errors (``err_u`` …) and
        ``redshift``, with the column `PART`.
    names : sequence of str
        Names of the columns of a text table without a header.

    Returns
    -------
    DataFrame
        Numbers in the machine's byte order, text without padding. Whole numbers stay whole: a column with
        holes is Int64 (UInt64 where int64 is too narrow), one of truth values ``boolean``. Missing is what
        the file marks so (TNULL, masks, nulls, blanks) and, as text, the words of
        `skyfuse.survey.columns.MISSING`. ``attrs["units"]`` holds the units by column that FITS and VOTable
        files name, or text headers such as ``ra [deg]``.

    Raises
    ------
    FileError
        ``unreadable``, ``empty``, ``unknown-kind``, ``not-fits``, ``wrong-hdus``, ``no-header`` or
        ``truncated``.
    DataError
        The table has no rows.
    """
    path = Path(path)
    # Compressed or not is told by the bytes.
    name = re.sub(r"\.(gz|bz2)$", "", path.name.lower())
    annz = _ANNZ.match(path.name)
    try:
        if path.stat().st_size == 0:
            raise FileError("it is empty", reason="empty", remedy="give a file with data", path=path)
        if name.endswith(".parquet"):
            with path.open("rb") as file:
                _check_form(file.read(HEAD), PARQUET, path)
            table = _read_parquet(path)
        elif annz is not None or name.endswith((*_TEXT, *_FITS, *_VOTABLE, ".npy")):
            content, _ = raw.read_bytes(path, most=_most_bytes(path))
            table = _read_content(content, name, annz, path, names)
        else:
            raise FileError(
                "its name does not say what kind of table it is",
                reason="unknown-kind",
                remedy=f"give one of {_SUFFIXES}",
                path=path,
            )
    except (DataError, FileError):
        raise
    except FileNotFoundError as error:
        raise FileError(
            "it is not there", reason="unreadable", remedy="give the path of a table", path=path
        ) from error
    except OSError as error:
        # Of a damaged file pyarrow and others say so by an OSError without a number.
        reason = "unreadable" if error.errno else "truncated"
        raise _failed(path, reason, error) from error
    # A damaged file makes the libraries raise whatever their parsers stumble over.
    except Exception as error:
        raise _failed(path, "truncated", error) from error
    if table.empty:
        raise DataError("the table has no rows", remedy="give a table with data", path=path)
    return table


def _read_content(
    content: memoryview, name: str, annz: re.Match[str] | None, path: Path, names: Sequence[str]
) -> pd.DataFrame:
    """Read a table from its bytes, decompressed, by its name without the suffix of a compression."""
    head = bytes(content[:HEAD])
    if name.endswith(_FITS) and annz is None:
        _check_form(head, FITS, path)
        return read_fits(content, path)
    if name.endswith(_VOTABLE) and annz is None:
        _check_form(head, VOTABLE, path)
        return _read_votable(content, path)
    if name.endswith(".npy") and annz is None:
        _check_form(head, NUMPY, path)
        return _read_npy(content, path)
    _check_form(head, "text", path)
    if annz is None:
        return read_text(bytes(content), path, names)
    bands = list(annz[1])
    known = [*bands, *(f"err_{band}" for band in bands), "redshift"]
    return read_text(bytes(content), path, names or known).assign(**{PART: annz[2]})


def _check_form(head: bytes, form: str, path: Path) -> None:
    """Refuse a file that is plainly of another form than its name says."""
    found = form_of(head)
    # Text has no mark of its own: what looks like nothing known may be damaged, which its reader tells.
    if found not in (None, form):
        raise FileError(
            f"its name says that it is {form}, and its content that it is {found}",
            reason="not-fits" if form == FITS else "unknown-kind",
            remedy=f"give it the name of what it is, or convert it to one of {_SUFFIXES}",
            path=path,
        )


def _most_bytes(path: Path) -> int:
    """Return how many bytes a file may have, decompressed: a hundred times what it takes on disk."""
    taken = path.stat().st_blocks * 512
    return max(_LEAST_BOUND, min(_EXPANSION * taken, _MOST_BYTES))


def without_sentinels(
    table: pd.DataFrame, columns: Collection[str] | None = None
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Take out the values that stand for "missing", and count them.

    Each column is judged on its own, and what may be a measurement stays. Of `SENTINELS` a value goes where
    it lies further from all other values than these span; of `ROUND_SENTINELS` where, besides, the column is
    not of whole numbers and the value occurs more than once or lies five times as far. A column of nothing
    but such values stays as it is: nothing tells what it holds. So does one of identifiers that no float64
    holds exactly.

    Parameters
    ----------
    table : DataFrame
    columns : collection of str, optional
        Columns to look at; all numeric ones by default.

    Returns
    -------
    table : DataFrame
        A copy; columns of whole numbers that lost a value are Int64, others float64.
    counts : dict of dict
        By column, the sentinel as text and how many of it there were.
    """
    table = table.copy()
    counts: dict[str, dict[str, int]] = {}
    for name in table.columns if columns is None else columns:
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            continue
        values = table[name].to_numpy(np.float64, na_value=np.nan, copy=True)
        # A float32 column holds the float32 nearest to −99.99.
        wanted = table[name].to_numpy().dtype if table[name].dtype == np.float32 else np.dtype(np.float64)
        candidates = np.array(SENTINELS + ROUND_SENTINELS, wanted).astype(np.float64)
        suspect = np.isin(values, candidates)
        rest = values[np.isfinite(values) & ~suspect]
        if not suspect.any() or not rest.size:
            continue
        low, high = float(rest.min()), float(rest.max())
        if table[name].dtype.kind in "iu" and max(-low, high) > _EXACT:
            continue
        whole = bool((rest == np.rint(rest)).all())
        gone = np.zeros(len(values), bool)
        for value in candidates:
            found = values == value
            number = int(found.sum())
            apart = max(low - value, value - high)
            round_value = value in candidates[len(SENTINELS) :]
            doubtful = round_value and (whole or low == high or (number < 2 and apart <= 5 * (high - low)))
            if number and apart > high - low and not doubtful:
                gone |= found
                counts.setdefault(str(name), {})[f"{value:.6g}"] = number
        if not gone.any():
            continue
        if table[name].dtype.kind in "iu":
            table[name] = table[name].astype("Int64").mask(gone)
        else:
            table[name] = np.where(gone, np.nan, values)
    return table, counts


def _failed(path: Path, reason: str, error: Exception) -> FileError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return FileError(
        f"the table cannot be read ({said})",
        reason=reason,
        remedy="check that the file is whole and of the kind that its name says",
        path=path,
    )


def _read_npy(content: memoryview, path: Path) -> pd.DataFrame:
    stream = io.BytesIO(content[:_NPY_HEADER])
    major, minor = np.lib.format.read_magic(stream)
    if major not in (1, 2, 3) or minor != 0:
        raise ValueError(f"it is of the version {major}.{minor} of its format, which NumPy does not write")
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if dtype.names is None:
        raise FileError(
            "its array has no named columns",
            reason="wrong-columns",
            remedy="give a structured array",
            path=path,
        )
    held = len(content) - stream.tell()
    if len(shape) != 1 or not dtype.itemsize or shape[0] * dtype.itemsize != held:
        raise ValueError(f"its header tells of {shape} records of {dtype.itemsize} bytes and it holds {held}")
    if _elements(dtype) > MOST_COLUMNS:
        raise ValueError(f"its columns have more than {MOST_COLUMNS} elements")
    array = np.frombuffer(content, dtype, shape[0], stream.tell())
    return framed(pair for name in dtype.names for pair in spread(name, array[name]))


def _elements(dtype: np.dtype[Any]) -> int:
    return sum(math.prod(dtype[name].shape) for name in dtype.names or ())


def _read_parquet(path: Path) -> pd.DataFrame:
    size, told = path.stat().st_size, pq.read_metadata(path)
    # What is repeated is stored once, so that a small file may stand for any number of cells.
    lists = [k for k in range(told.num_columns) if told.schema.column(k).max_repetition_level]
    cells = told.num_rows * (told.num_columns - len(lists))
    cells += sum(values[k] for values in (values_told(path) if lists else ()) for k in lists)
    if max(cells, told.num_rows) > _MOST_CELLS + _MOST_CELLS_A_BYTE * size:
        raise FileError(
            f"its {size} bytes tell of {told.num_rows} rows with {cells} cells",
            reason="bad-values",
            remedy="split it if it is what it says",
            path=path,
        )
    table = pq.ParquetFile(path).read()
    if len(set(table.column_names)) < table.num_columns:
        raise FileError(
            "two of its columns have one name",
            reason="wrong-columns",
            remedy="give each a name of its own",
            path=path,
        )
    columns = {
        name: column
        for name, column in zip(table.column_names, table.columns, strict=True)
        if not name.startswith("__index_level_")
    }
    notes = table.schema.metadata or {}
    columns = hidden(columns, masks(notes.get(b"table_meta_yaml", b"").decode()))
    frame = framed((name, of_arrow(column)) for name, column in columns.items())
    kept = json.loads(notes.get(b"pandas", b"{}"))
    for index in kept.get("index_columns") or []:
        # pandas leaves an index without gaps to three numbers.
        if isinstance(index, dict) and index.get("kind") == "range" and index.get("name"):
            numbers = range(index["start"], index["stop"], index["step"])
            if len(numbers) == len(frame) and index["name"] not in frame:
                frame[index["name"]] = np.array(numbers, np.int64)
    frame.attrs = dict(kept.get("attributes") or {})
    return frame


def _read_votable(content: memoryview, path: Path) -> pd.DataFrame:
    _check_votable(bytes(content), path)
    with warnings.catch_warnings():
        # What it says of files that stray from the standard; what it cannot read raises.
        warnings.simplefilter("ignore")
        # Whole numbers beyond their type would be cut to its limit.
        warnings.simplefilter("error", votable.exceptions.W51)
        found = votable.parse_single_table(
            io.BytesIO(_OLD_VOTABLE.sub(rb"\g<1>1.3", bytes(content), count=1)), verify="warn"
        ).to_table(use_names_over_ids=True)
    units = {name: str(found[name].unit) for name in found.colnames if found[name].unit is not None}
    columns = framed(
        pair
        for name in found.colnames
        for pair in spread(name, np.ma.getdata(found[name]), np.ma.getmaskarray(found[name]))
    )
    return with_units(columns, units)


def _check_votable(content: bytes, path: Path) -> None:
    """Refuse what makes a reader of VOTables wait, fetch, or ask for memory that the file does not fill."""
    said = None
    failed = re.search(
        rb"<(?:\w+:)?INFO\b(?=[^>]*QUERY_STATUS)(?=[^>]*[\"']ERROR[\"'])[^>]*?(?:/>|>([^<]{0,200}))", content
    )
    if failed is not None:
        words = " ".join((failed[1] or b"").decode("utf-8", "replace").split())
        raise FileError(
            f"it is the error of a query: {words!r}",
            reason="bad-values",
            remedy="mend the query, and get the table again",
            path=path,
        )
    if b"<!ENTITY" in content or b"\0" in content[:4]:
        said = "it is XML of a kind that no VOTable need be (entities, or UTF-16)"
    elif re.search(rb"<(\w+:)?STREAM\b[^>]*\b(href|encoding\s*=\s*[\"']gzip)", content):
        said = "its data lie in another file or are compressed"
    elif re.search(rb"<(\w+:)?FITS\b", content):
        said = "its data are FITS inside XML"
    else:
        rows = max([content.count(b"TR>"), *map(int, re.findall(rb"\bnrows\s*=\s*[\"'](\d{1,18})", content))])
        cells = sum(
            math.prod(int(word) for word in re.findall(rb"\d{1,18}", size))
            for size in re.findall(rb"\barraysize\s*=\s*[\"']([^\"']*)", content)
        )
        if re.search(rb"\bnrows\s*=\s*[\"']\d{19}", content) or rows > len(content):
            said = f"its {len(content)} bytes tell of more rows than they can hold"
        elif cells > MOST_COLUMNS or rows * cells > _MOST_CELLS + _MOST_CELLS_A_BYTE * len(content):
            said = f"its {len(content)} bytes tell of {rows} rows of {cells} elements"
    if said is not None:
        raise FileError(said, reason="bad-values", remedy="save it as CSV, FITS or Parquet", path=path)
