"""Columns of any file as columns of a data frame: whole numbers stay whole, what is missing stays missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skyfuse.errors import DataError

UNITS = "units"
"""Key of `DataFrame.attrs` under which a table carries the units that its file names, by column."""

MISSING = (
    *("", "--", "null", "Null", "NULL", "None", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "N/A", "n/a"),
    *("<NA>", "#N/A", "#N/A N/A", "#NA", "\\N", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Words that stand for a missing value, whatever the column holds."""

MISSING_NUMBERS = ("-", "---", "...", "…", "–", "—", "none")
"""Words that stand for one where all others are numbers; among texts they may mean something."""

_BOOLEANS = ("True", "TRUE", "true", "False", "FALSE", "false")
# A decimal point or a comma, Fortran's D as exponent, and the sign that typesetters write; what they mean,
# first what Python takes too.
_NUMBER = r"^[+\-−]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eEdD][+\-−]?[0-9]+)?$"
_SPELLINGS = ((r"^\+", ""), ("−", "-"), ("[dD]", "e"), (",", "."))
_WHOLE = r"^[+\-]?[0-9]{16,}$"
# 1,234 may be a thousand and more, or one and a bit; 0,123 and 1,2 are no thousands.
_THOUSANDS = r"^[+\-−]?[1-9][0-9]{0,2},[0-9]{3}$"
_POINTED = r"^([+\-−]?[1-9][0-9]{0,2}(\.[0-9]{3})+|[+\-−]?[0-9]+)$"
# float64 holds whole numbers up to this exactly.
_EXACT = 2.0**53
_FIRST = 64
_INT64 = np.iinfo(np.int64)
_MASK = re.compile(r"mask: !astropy\.table\.SerializedColumn \{name: ([^}]+)\.mask\}")


def integers(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Any:
    """Return whole numbers as they are; with holes as Int64, or UInt64 where int64 is too narrow.

    Parameters
    ----------
    values : ndarray of int or uint, shape (n,)
    missing : ndarray of bool, shape (n,), optional
    """
    if missing is not None and not missing.any():
        missing = None
    held = values if missing is None else values[~missing]
    wide = values.dtype == np.uint64 and held.size > 0 and int(held.max()) > _INT64.max
    if missing is None:
        return values.astype(np.int64) if values.dtype == np.uint64 and not wide else values
    return pd.arrays.IntegerArray(values.astype(np.uint64 if wide else np.int64), missing)


def booleans(values: NDArray[np.bool_], missing: NDArray[np.bool_] | None = None) -> Any:
    """Return truth values as they are, with holes as ``boolean``."""
    return values if missing is None or not missing.any() else pd.arrays.BooleanArray(values, missing)


def floats(
    column: pd.Series[Any],
    path: Path | None = None,
    remedy: str = "mend or empty such cells, or give a column of numbers",
) -> NDArray[np.float64]:
    """Return a column of numbers as float64, NaN where one is missing.

    Raises
    ------
    DataError
        It is of text; the message names the first cell that is no number.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    said = "holds no numbers"
    words = np.flatnonzero((pd.to_numeric(column, errors="coerce").isna() & column.notna()).to_numpy())
    if len(words):
        said += f": row {words[0] + 1} of {len(column)} has {str(column.iloc[words[0]])[:40]!r}"
    raise DataError(
        f"the column {str(column.name)!r} {said}",
        remedy=remedy,
        path=path,
    )


def texts(column: pa.Array | pa.ChunkedArray) -> pd.Series[Any]:
    """Return text without padding, missing where it is blank or a word of `MISSING`."""
    column = pc.utf8_trim_whitespace(column)
    found: pd.Series[Any] = _without(column, MISSING).to_pandas()
    # pandas takes a column of nothing but nulls for one of objects.
    return found


def inferred(column: pa.ChunkedArray, *, decimal_comma: bool = False, plain: bool = False) -> Any:
    """Return a column of text as numbers, truth values or text, whichever all of its cells are.

    Whole numbers become int64 or uint64, other numbers float64; ``1.5D+03`` is one, ``inf`` too, and what is
    beyond float64 is infinite. What is written with ``_`` or in base 16 is text. So is a column in which a
    whole number would lose digits as float64.

    Parameters
    ----------
    column : ChunkedArray of string
    decimal_comma : bool
        Whether 1,5 is a number.
    plain : bool
        Whether only what Python takes for a number is one: neither ``1.5D+03`` nor what typesetters write.
    """
    found = _whole(column)
    if found is not None:
        return found
    number = _cast(column, pa.float64())
    if number is not None:
        value = _numpy(number)
        # Neither a hole nor a whole number that would lose digits: nothing more to look at.
        if (np.abs(value) < _EXACT).all():
            return value
    held = _without(pc.utf8_trim_whitespace(column), MISSING)
    if held.null_count == len(held):
        return np.full(len(held), np.nan)
    found = _number(held)
    if found is not None:
        return found
    if pc.all(pc.is_in(held, value_set=pa.array([*_BOOLEANS, None]))).as_py():
        truth = pc.is_in(held, value_set=pa.array(_BOOLEANS[:3]))
        return booleans(_numpy(truth), _numpy(held.is_null()))
    numbers = _without(held, MISSING_NUMBERS)
    spelled = numbers.null_count < len(numbers) and pc.all(pc.match_substring_regex(numbers, _NUMBER)).as_py()
    if spelled and (decimal_comma or not pc.any(pc.match_substring(numbers, ",")).as_py()):
        for written, meant in _SPELLINGS[:1] if plain else _SPELLINGS:
            numbers = pc.replace_substring_regex(numbers, written, meant)
        found = _number(numbers)
    return held.to_pandas() if found is None else found


def has_decimal_comma(column: pa.ChunkedArray) -> bool:
    """Return whether a column of text is of numbers with commas of which one, or more, is no thousands'."""
    held = _without(_without(pc.utf8_trim_whitespace(column), MISSING), MISSING_NUMBERS)
    commas = held.filter(pc.match_substring(held, ","))
    return bool(
        len(commas)
        and pc.all(pc.match_substring_regex(held, _NUMBER)).as_py()
        and not pc.all(pc.match_substring_regex(commas, _THOUSANDS)).as_py()
    )


def may_be_thousands(column: pa.ChunkedArray) -> bool:
    """Return whether a column of text is of whole numbers, some with points between thousands."""
    if not pc.any(pc.match_substring(column, ".")).as_py():
        return False
    held = _without(_without(pc.utf8_trim_whitespace(column), MISSING), MISSING_NUMBERS)
    return bool(pc.all(pc.match_substring_regex(held, _POINTED)).as_py())


def _without(column: Any, words: Iterable[str]) -> Any:
    return pc.if_else(pc.is_in(column, value_set=pa.array(list(words))), pa.scalar(None, column.type), column)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return text as numbers, None where it is not; some cells first, since a failure takes long to tell."""
    try:
        pc.cast(column.slice(0, _FIRST), kind)
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        return None


def _whole(column: pa.ChunkedArray) -> Any:
    """Return text as whole numbers, None where it is not."""
    for kind in (pa.int64(), pa.uint64()):
        found = _cast(column, kind)
        if found is None:
            continue
        # Arrow reads 0x1F.
        if any(pc.any(pc.match_substring(column, x)).as_py() for x in "xX"):
            return None
        return integers(_numpy(found.fill_null(0)), _numpy(found.is_null()))
    return None


def _number(column: pa.ChunkedArray) -> Any:
    """Return text as whole or other numbers, None where it is neither or would lose digits."""
    found = _whole(column)
    if found is not None:
        return found
    number = _cast(column, pa.float64())
    if number is None:
        return None
    value = _numpy(number.fill_null(np.nan))
    if (np.abs(value) > _EXACT).any():
        long = column.filter(pc.match_substring_regex(column, _WHOLE)).to_pylist()
        if any(int(float(word)) != int(word) for word in long):
            return None
    return value


def _numpy(column: Any) -> NDArray[Any]:
    return np.asarray(
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    )


def of_arrow(column: pa.ChunkedArray) -> Any:
    """Return a column of an Arrow table."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return of_arrow(column.cast(kind.value_type))
    if pa.types.is_decimal(kind):
        # Databases write long identifiers so, with decimals, too, that are all 0.
        for whole in (pa.int64(), pa.uint64()):
            try:
                return of_arrow(column.cast(whole))
            except pa.ArrowInvalid:
                continue
        return column.cast(pa.float64()).to_pandas()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        try:
            column = column.cast(pa.large_string())
        except pa.ArrowInvalid:
            return column.to_pandas()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return texts(column)
    if pa.types.is_integer(kind):
        return integers(_numpy(column.fill_null(0)), _numpy(column.is_null()))
    if pa.types.is_boolean(kind):
        return booleans(_numpy(column.fill_null(False)), _numpy(column.is_null()))
    return column.to_pandas()


def spread(
    name: str, values: NDArray[Any], missing: NDArray[np.bool_] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the name and the column, or of vectors ``name_0`` and so on, of an array of any kind.

    Parameters
    ----------
    name : str
    values : ndarray, shape (n, ...)
        Of any byte order.
    missing : ndarray of bool, same shape, optional
        Where a value is missing; NaN, blank text and words of `MISSING` are anyway.
    """
    if values.ndim > 1:
        elements = values.reshape(len(values), -1)
        holes = None if missing is None else missing.reshape(len(values), -1)
        for k in range(elements.shape[1]):
            yield from spread(f"{name}_{k}", elements[:, k], None if holes is None else holes[:, k])
        return
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if missing is not None and not missing.any():
        missing = None
    kind = values.dtype.kind
    if kind in "iu":
        yield name, integers(values, missing)
    elif kind == "b":
        yield name, booleans(values, missing)
    elif kind == "S":
        yield name, texts(_masked(_decoded(values), missing))
    elif kind == "U":
        yield name, texts(_masked(pa.array(values.tolist(), pa.large_string()), missing))
    elif missing is None:
        yield name, _objects(values) if kind == "O" else values
    elif kind in "fc":
        yield name, np.where(missing, values.dtype.type(np.nan), values)
    elif kind in "mM":
        yield name, np.where(missing, np.array("NaT", values.dtype), values)
    else:
        yield name, _objects(_with_none(values, missing))


def _masked(column: pa.Array, missing: NDArray[np.bool_] | None) -> pa.Array:
    return column if missing is None else pc.if_else(pa.array(missing), pa.scalar(None, column.type), column)


def _decoded(values: NDArray[np.bytes_]) -> pa.Array:
    """Return bytes as text, each up to its first NUL."""
    words = pa.array(values, pa.large_binary())
    try:
        found = words.cast(pa.large_string())
    except pa.ArrowInvalid:
        found = pa.array(np.char.decode(values, "latin-1").tolist(), pa.large_string())
    if pc.any(pc.match_substring(found, "\0")).as_py():
        found = pc.replace_substring_regex(found, "(?s)\0.*", "")
    return found


def _with_none(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.object_]:
    found = values.astype(object)
    found[missing] = None
    return found


def _objects(values: NDArray[np.object_]) -> Any:
    """Return texts where all cells are; other cells as they are."""
    if all(cell is None or isinstance(cell, str) for cell in values):
        return texts(pa.array(values.tolist(), pa.large_string()))
    out = np.empty(len(values), object)
    for row, cell in enumerate(values):
        held = np.ma.getmaskarray(cell) if isinstance(cell, np.ma.MaskedArray) else None
        out[row] = cell if held is None else np.where(held, np.nan, cell.data) if held.any() else cell.data
    return out


def masks(header: str) -> list[str]:
    """Return the columns that astropy hides by masks in columns of their own, ``name.mask``.

    Parameters
    ----------
    header : str
        What it writes of its own columns into ECSV, Parquet and FITS, as YAML.
    """
    return _MASK.findall(header)


def hidden(columns: dict[str, pa.ChunkedArray], names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """Return columns without what their masks hide, and without the masks."""
    out = dict(columns)
    for name in names:
        if name in out and f"{name}.mask" in out:
            out[name] = _hidden(out[name], out.pop(f"{name}.mask"))
    return out


def _hidden(column: pa.ChunkedArray, mask: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(mask.type):
        mask = pc.equal(mask, "True")
    if not pa.types.is_nested(column.type):
        return pc.if_else(mask, pa.scalar(None, column.type), column)
    cells = [
        [None if hide else value for value, hide in zip(*pair, strict=True)]
        for pair in zip(column.to_pylist(), mask.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(cells, column.type)])


def framed(columns: Iterable[tuple[str, Any]]) -> pd.DataFrame:
    """Return a data frame of columns; the second of two ``a`` is called ``a.1``."""
    named: dict[str, Any] = {}
    for name, column in columns:
        free, number = name, 0
        while free in named:
            number += 1
            free = f"{name}.{number}"
        named[free] = column
    return pd.DataFrame(named)


def with_units(table: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Leave the units with the table; a column that became one an element has that of the whole."""
    whole = {name: units.get(name) or units.get(str(name).rpartition("_")[0]) for name in table.columns}
    table.attrs[UNITS] = {name: unit for name, unit in whole.items() if unit}
    return table
