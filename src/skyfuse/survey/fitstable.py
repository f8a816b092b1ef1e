"""Tables of FITS files, binary and ASCII, with what the standard calls undefined as missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from skyfuse.errors import DataError, FileError
from skyfuse.survey import fits as raw
from skyfuse.survey.columns import framed, inferred, spread, texts, with_units

MOST_COLUMNS = 50_000
"""Columns, elements of vectors among them, beyond which a table is refused."""

# numpy's code of one element for each letter of TFORMn (FITS 4.0, table 18).
_CODES = {
    "L": "u1",
    "B": "u1",
    "I": ">i2",
    "J": ">i4",
    "K": ">i8",
    "A": "S1",
    "E": ">f4",
    "D": ">f8",
    "C": ">c8",
    "M": ">c16",
    "P": ">i4",
    "Q": ">i8",
}
_TFORM = re.compile(r"\s*(\d*)([LXBIJKAEDCMPQ])(.*)")
_VARIABLE = re.compile(r"\s*([LBIJKAEDCM])")
_MASK = re.compile(r"\.mask(_\d+)?$")
_ASCII = re.compile(r"\s*([AIFED])(\d+)(?:\.(\d+))?\s*")
# Cells of variable length may share their bytes; together they may take this many times the file.
_SHARED = 8
# Values that astropy puts where an unsigned column is masked: 999999, and what 16 bits hold of it.
_UNSIGNED_FILLS = (999999, 999999 % 2**16)
_AGAIN = "check that the file is whole"


def read_fits(content: memoryview, path: Path) -> pd.DataFrame:
    """Read the first table of a FITS file.

    Parameters
    ----------
    content : memoryview of bytes
        Decompressed.
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``not-fits``, ``truncated``, ``wrong-hdus``: no table, or one of a form that is not read;
        ``bad-values``: the table contradicts itself or has more than `MOST_COLUMNS` columns.
    DataError
        It has no rows.
    """
    hdus = raw.parse(content, path)
    hdu = next((hdu for hdu in hdus if hdu.header.get("XTENSION") in ("BINTABLE", "A3DTABLE", "TABLE")), None)
    if hdu is None:
        raise _no_table(path, "it holds no table" + (", only images" if _has_image(hdus) else ""))
    header = hdu.header
    if header.get("ZIMAGE") is True:
        raise _no_table(path, "it holds a tile-compressed image and no table")
    if header.get("ZTABLE") is True:
        raise FileError(
            "its table is tile-compressed",
            reason="wrong-hdus",
            remedy="decompress it with funpack",
            path=path,
        )
    fields = raw.integer(header, "TFIELDS", path)
    width, rows = raw.integer(header, "NAXIS1", path), raw.integer(header, "NAXIS2", path)
    # Zero-width rows may be any number without a byte of data.
    if not 0 < fields <= 999 or width <= 0 or header.get("NAXIS") != 2 or hdu.start + width * rows > hdu.stop:
        raise _contradicts(path, f"its header tells of {fields} columns in {rows} rows of {width} bytes")
    if rows == 0:
        raise DataError("the table has no rows", remedy="give a table with data", path=path)
    names = [_text(header, f"TTYPE{k}", path) or f"col{k}" for k in range(1, fields + 1)]
    told = {name: _text(header, f"TUNIT{k}", path) for k, name in enumerate(names, 1)}
    units = {name: unit for name, unit in told.items() if unit}
    records = np.ndarray((rows, width), np.uint8, content, hdu.start)
    if header.get("XTENSION") == "TABLE":
        columns = _ascii(header, names, records, path)
    else:
        columns = _binary(header, names, records, content[hdu.start : hdu.stop], path)
    table = framed(columns)
    if b"--BEGIN-ASTROPY-SERIALIZED-COLUMNS--" in bytes(content[: hdu.start]):
        table = _without_hidden(table)
    return with_units(table, units)


def _text(header: raw.Header, key: str, path: Path) -> str:
    return raw.text(header, key, path) if key in header else ""


def _without_hidden(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without what astropy hides by columns ``name.mask``, and without these."""
    found = {str(name): table[name] for name in table.columns}
    for mask in list(found):
        name = _MASK.sub(r"\1", mask)
        if name != mask and name in found and found[mask].dtype == bool:
            found |= dict(spread(name, found[name].to_numpy(), found.pop(mask).to_numpy()))
    return pd.DataFrame(found)


def _has_image(hdus: list[raw.HDU]) -> bool:
    return any(hdu.stop > hdu.start for hdu in hdus)


def _no_table(path: Path, fault: str) -> FileError:
    return FileError(fault, reason="wrong-hdus", remedy="give a FITS file with a table", path=path)


def _contradicts(path: Path, fault: str) -> FileError:
    return FileError(fault, reason="bad-values", remedy=_AGAIN, path=path)


def _scaling(header: raw.Header, k: int, path: Path) -> tuple[float, float]:
    """Return TSCALn and TZEROn, as int where they are whole."""
    found = []
    for key, default in ((f"TSCAL{k}", 1), (f"TZERO{k}", 0)):
        value = header.get(key, default)
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise _contradicts(path, f"its header says {key} = {value}, no number")
        found.append(int(value) if value == int(value) else value)
    return found[0], found[1]


# ---------------------------------------------------------------------------------------------- binary tables


def _binary(
    header: raw.Header, names: list[str], records: NDArray[np.uint8], data: memoryview, path: Path
) -> Iterator[tuple[str, Any]]:
    forms = []
    for k in range(1, len(names) + 1):
        form = _TFORM.match(_text(header, f"TFORM{k}", path))
        if form is None:
            raise _contradicts(path, f"TFORM{k} of its table is not understood")
        forms.append((int(form[1] or 1), form[2], form[3]))
    sizes = [
        -(-r // 8) if c == "X" else r * np.dtype(_CODES[c]).itemsize * (1 + (c in "PQ")) for r, c, _ in forms
    ]
    if sum(sizes) != records.shape[1]:
        raise _contradicts(path, f"its columns take {sum(sizes)} bytes of rows of {records.shape[1]}")
    if sum(1 if code in "APQ" else repeat for repeat, code, _ in forms) > MOST_COLUMNS:
        raise _contradicts(path, f"its columns have more than {MOST_COLUMNS} elements")
    at = 0
    for k, (name, (repeat, code, rest), size) in enumerate(zip(names, forms, sizes, strict=True), 1):
        field = np.ascontiguousarray(records[:, at : at + size])
        at += size
        if size == 0:
            continue
        if code in "PQ":
            yield name, _variable(header, k, field, code, rest, data, len(records) * records.shape[1], path)
            continue
        yield from _fixed(header, k, name, field, repeat, code, path)


def _fixed(
    header: raw.Header, k: int, name: str, field: NDArray[np.uint8], repeat: int, code: str, path: Path
) -> Iterator[tuple[str, Any]]:
    """Yield a column of fixed repeat."""
    rows = len(field)
    if code == "A":
        width = _text_width(header, k, repeat)
        values = field.view(f"S{width}").reshape(rows, -1)
        yield from spread(name, values[:, 0] if width == repeat else values)
        return
    if code == "X":
        bits = np.unpackbits(field, axis=1, count=repeat).astype(bool)
        yield from spread(name, bits if repeat > 1 else bits[:, 0])
        return
    values = field.view(_CODES[code])
    if repeat == 1:
        values = values[:, 0]
    if code == "L":
        # The standard knows T, F and 0, which is undefined.
        yield from spread(name, values == ord("T"), (values != ord("T")) & (values != ord("F")))
        return
    scale, zero = _scaling(header, k, path)
    missing = None
    if code in "BIJK" and f"TNULL{k}" in header:
        # Of the values as they are stored, before any scaling.
        null = raw.integer(header, f"TNULL{k}", path)
        missing = values == null
        if zero == 1 << (8 * values.dtype.itemsize - 1) and null in _UNSIGNED_FILLS:
            # astropy names the unsigned value itself.
            missing |= values == null - zero
    yield from spread(name, _scaled(values, missing, scale, zero), missing)


def _text_width(header: raw.Header, k: int, repeat: int) -> int:
    """Return the characters of each text of a field: TDIM makes several of one."""
    found = re.fullmatch(r"\(\s*(\d+)\s*((?:,\s*\d+\s*)+)\)", str(header.get(f"TDIM{k}", "")).strip())
    if found is None:
        return repeat
    width = int(found[1])
    number = math.prod(int(word) for word in found[2].split(",")[1:])
    return width if width > 0 and width * number == repeat and number <= MOST_COLUMNS else repeat


def _scaled(
    values: NDArray[Any], missing: NDArray[np.bool_] | None, scale: float, zero: float
) -> NDArray[Any]:
    """Return ``values * scale + zero``; whole numbers stay whole and exact where 64 bits hold them."""
    if scale == 1 and zero == 0:
        return values
    if values.dtype.kind in "iu" and scale == 1 and isinstance(zero, int):
        held = values if missing is None else values[~missing]
        low, high = (int(held.min()) + zero, int(held.max()) + zero) if held.size else (0, 0)
        if low >= -(2**63) and high < 2**64 and not (low < 0 and high >= 2**63):
            # Arithmetic modulo 2^64, whatever the sign.
            shifted = values.astype(np.int64).view(np.uint64) + np.uint64(zero % 2**64)
            return shifted if high >= 2**63 else shifted.view(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * np.float64(scale) + np.float64(zero))


def _variable(
    header: raw.Header,
    k: int,
    field: NDArray[np.uint8],
    code: str,
    rest: str,
    data: memoryview,
    main: int,
    path: Path,
) -> Any:
    """Return a column whose cells are arrays, or texts, of any length."""
    kind = _VARIABLE.match(rest)
    if kind is None:
        raise _contradicts(path, f"TFORM{k} of its table is not understood")
    dtype = np.dtype(_CODES[kind[1]])
    heap = raw.integer(header, "THEAP", path) if "THEAP" in header else main
    numbers, starts = field.view(_CODES[code]).astype(np.int64).reshape(len(field), -1).T[:2]
    # By division: a forged length times its size may overflow.
    inside = (numbers >= 0) & (starts >= 0) & (starts <= len(data)) & (numbers <= len(data) // dtype.itemsize)
    if (
        not inside.all()
        or heap < main
        or (heap + starts + numbers * dtype.itemsize > len(data))[numbers > 0].any()
    ):
        raise _contradicts(path, f"cells of its column {k} lie outside the file")
    if int(numbers.sum()) * dtype.itemsize > _SHARED * len(data):
        raise _contradicts(path, f"cells of its column {k} take more room than the file has")
    scale, zero = _scaling(header, k, path)
    null = raw.integer(header, f"TNULL{k}", path) if f"TNULL{k}" in header and kind[1] in "BIJK" else None
    cells = np.empty(len(field), object)
    for row, (number, start) in enumerate(zip(numbers.tolist(), starts.tolist(), strict=True)):
        values = np.frombuffer(data, dtype, number, heap + start) if number else np.empty(0, dtype)
        if kind[1] == "A":
            cells[row] = values.tobytes().partition(b"\0")[0].decode("latin-1")
        elif kind[1] == "L":
            cells[row] = values == ord("T")
        else:
            missing = None if null is None else values == null
            found = _scaled(values, missing, scale, zero)
            cells[row] = found.astype(found.dtype.newbyteorder("="))
            if missing is not None and missing.any():
                cells[row] = np.where(missing, np.nan, cells[row])
    if kind[1] == "A":
        return texts(pa.array(cells.tolist(), pa.large_string()))
    return cells


# ----------------------------------------------------------------------------------------------- ASCII tables


def _ascii(
    header: raw.Header, names: list[str], records: NDArray[np.uint8], path: Path
) -> Iterator[tuple[str, Any]]:
    for k, name in enumerate(names, 1):
        form = _ASCII.fullmatch(_text(header, f"TFORM{k}", path))
        at = raw.integer(header, f"TBCOL{k}", path) - 1
        if form is None or at < 0 or at + int(form[2]) > records.shape[1] or int(form[2]) == 0:
            raise _contradicts(path, f"TFORM{k} or TBCOL{k} of its table is not understood")
        field = np.ascontiguousarray(records[:, at : at + int(form[2])]).view(f"S{form[2]}")[:, 0]
        words = np.char.strip(np.char.decode(field, "latin-1"))
        null = str(header.get(f"TNULL{k}", "")).strip()
        # A blank number counts as missing, as VizieR means it.
        words = np.where(words == null, "", words)
        if form[1] == "A":
            yield from spread(name, words)
        else:
            yield name, _ascii_numbers(header, k, name, words, form, path)


def _ascii_numbers(
    header: raw.Header, k: int, name: str, words: NDArray[np.str_], form: re.Match[str], path: Path
) -> Any:
    decimals = int(form[3] or 0)
    if form[1] != "I" and decimals:
        # Without a point the last digits are decimals.
        plain = np.char.isdigit(np.char.lstrip(words, "+-"))
        words = np.array(
            [
                f"{w}e-{decimals}" if bare else w
                for w, bare in zip(words.tolist(), plain.tolist(), strict=True)
            ]
        )
    found = inferred(pa.chunked_array([pa.array(words.tolist(), pa.string())]))
    if not pd.api.types.is_numeric_dtype(found.dtype) or found.dtype.kind == "b":
        raise _contradicts(path, f"its column {name} holds words that are no numbers")
    scale, zero = _scaling(header, k, path)
    if form[1] == "I" and scale == 1 and zero == 0:
        return found
    return pd.Series(found).to_numpy(np.float64, na_value=np.nan) * scale + zero
