"""What names an object: whole numbers of 64 bits, or text; never a float, which rounds them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skyfuse.errors import DataError

IntArray = NDArray[np.int64]

_LEAST, _MOST_SIGNED, _MOST = -(2**63), 2**63 - 1, 2**64 - 1
# What tables write for "no identifier".
_MISSING = frozenset(
    {"", "null", "none", "nan", "nat", "na", "n/a", "<na>", "-", "--", "---", "...", "\\n", "masked"}
)
# Digits of a number that surely has no more than 63 bits, without a leading zero: Arrow reads these.
_PLAIN = r"^(0|[1-9][0-9]{0,17}|[1-8][0-9]{18})$"
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_ZEROS = re.compile(r"0[0-9]+")
_POINT = re.compile(r"([+-]?[0-9]{1,40})\.0*")
# As programs write a large float; 12e5 may be a name.
_FLOAT = re.compile(r"[+-]?[0-9]+(\.[0-9]*e\+?|e\+)[0-9]+", re.IGNORECASE)
# EDR3 and DR3 share their numbers; those of DR2 are others.
_GAIA = re.compile(r"gaia[\s_-]*(?:e?dr3)?[\s_:-]*([0-9]{1,40})", re.IGNORECASE)
# Spreadsheets are made to keep digits by an apostrophe, by quotes or by ="…".
_QUOTED = re.compile(r"""=?(["'])(.*)\1|'(.*)|b'(.*)'""")


def identifiers(column: pd.Series) -> pd.Series:
    """Return what a column of any type names, so that spellings of one name are equal.

    Whole numbers are numbers however they are written: as integers of any width, as floats that hold them
    exactly, as text (``266``, ``0266``, ``266.0``) or as Gaia's designations (``Gaia DR3 N``). Leading zeros
    count only in a column that has the number without them, too. All else is text without its outer blanks.

    Parameters
    ----------
    column : Series
        Of n rows: numbers, text, both mixed, categories; of NumPy, pandas' nullable or Arrow's types.

    Returns
    -------
    Series
        Of the same index: ``Int64``, ``UInt64`` where a number needs it, or, where any is no number of 64
        bits, ``object`` with text; `<NA>` or None where the column has nothing, a blank or a word for it
        (``null``, ``--`` …).

    Raises
    ------
    DataError
        If the column holds floats that may have been rounded already.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        kinds = identifiers(pd.Series(column.cat.categories, name=column.name))
        code = pd.Series(column.cat.codes.to_numpy(np.int64)).replace(-1, len(kinds))
        # The last entry is the missing one.
        found = kinds.reindex(range(len(kinds) + 1)).iloc[code].set_axis(column.index, axis=0)
        return found.where(found.notna(), None) if found.dtype == object else found
    if isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_dictionary(column.dtype.pyarrow_dtype):
        decoded = pa.chunked_array(pa.array(column)).combine_chunks().dictionary_decode()
        return identifiers(pd.Series(pd.arrays.ArrowExtensionArray(decoded), column.index, name=column.name))
    if pd.api.types.is_integer_dtype(column):
        unsigned = pd.api.types.is_unsigned_integer_dtype(column)
        numbers = column.astype("UInt64" if unsigned else "Int64")
        return numbers.astype("Int64") if unsigned and _fits(numbers) else numbers
    if pd.api.types.is_float_dtype(column):
        return _of_floats(column)
    return _of_cells(column)


def _fits(numbers: pd.Series) -> bool:
    greatest = numbers.max()
    return bool(pd.isna(greatest) or greatest <= _MOST_SIGNED)


def _rounded(column: pd.Series, value: Any) -> DataError:
    return DataError(
        f"the column {str(column.name)!r} holds identifiers as floats (e.g. {value}), which have lost their "
        "last digits",
        remedy="get it from its source again, written as integers or text",
    )


def _of_floats(column: pd.Series) -> pd.Series:
    values = column.to_numpy(np.float64, na_value=np.nan)
    dtype = column.dtype.numpy_dtype if hasattr(column.dtype, "numpy_dtype") else column.dtype
    # Beyond this a float skips whole numbers.
    exact = 2.0 ** (np.finfo(dtype).nmant + 1)
    known = np.isfinite(values)
    beyond = known & (np.abs(values) >= exact)
    if beyond.any():
        raise _rounded(column, column.iloc[int(beyond.argmax())])
    if (values[known] == np.rint(values[known])).all():
        whole = np.where(known, values, 0).astype(np.int64)
        return pd.Series(pd.arrays.IntegerArray(whole, ~known), column.index, name=column.name)
    return _of_cells(column.astype(object))


def _of_cells(column: pd.Series) -> pd.Series:
    """Return the identifiers of text, or of cells of several kinds."""
    texts = _texts(column)
    if texts is None:
        return _assembled([_of_cell(cell, column) for cell in column.array], column)
    plain = pc.fill_null(pc.match_substring_regex(texts, _PLAIN), False)
    others = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    told = [_of_cell(cell, column) for cell in texts.take(pa.array(others)).to_pylist()]
    whole = pc.if_else(plain, texts, None).cast(pa.int64()).fill_null(0).to_numpy()
    if all(cell is None for cell in told):
        mask = np.zeros(len(column), dtype=bool)
        mask[others] = True
        return pd.Series(pd.arrays.IntegerArray(whole, mask), column.index, name=column.name)
    cells: list[int | str | None] = whole.tolist()
    for row, cell in zip(others.tolist(), told, strict=True):
        cells[row] = cell
    _keep_zeros(cells, dict(zip(others.tolist(), texts.take(pa.array(others)).to_pylist(), strict=True)))
    return _assembled(cells, column)


def _texts(column: pd.Series) -> pa.Array | None:
    """Return a column of nothing but text without outer blanks, None where it holds other things, too."""
    own = column.dtype.pyarrow_dtype if isinstance(column.dtype, pd.ArrowDtype) else None
    if own is not None and not (pa.types.is_string(own) or pa.types.is_large_string(own)):
        return None
    try:
        texts = pa.array(column.array, type=pa.large_string(), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        return None
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    return pc.utf8_trim_whitespace(texts)


def _of_cell(cell: Any, column: pd.Series) -> int | str | None:
    """Return one cell's number, else its text, None where it names nothing."""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bool):
        return str(cell)
    if isinstance(cell, int):
        return cell
    if isinstance(cell, float | Decimal):
        if not math.isfinite(cell):
            return None
        if isinstance(cell, float) and abs(cell) >= 2.0**53:
            raise _rounded(column, cell)
        return int(cell) if cell == int(cell) else str(cell)
    if not isinstance(cell, str):
        return None if cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell)) else str(cell)
    text = cell.strip()
    if (quoted := _QUOTED.fullmatch(text)) is not None:
        text = next(part for part in quoted.groups()[1:] if part is not None).strip()
    if text.lower() in _MISSING:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    if (pointed := _POINT.fullmatch(text)) is not None:
        if abs(int(pointed[1])) >= 2**53:
            raise _rounded(column, text)
        return int(pointed[1])
    if _FLOAT.fullmatch(text):
        if not abs(float(text)) < 2.0**53:
            raise _rounded(column, text)
        return int(float(text)) if float(text).is_integer() else text
    if (gaia := _GAIA.fullmatch(text)) is not None:
        return int(gaia[1])
    return text


def _assembled(cells: Sequence[int | str | None], column: pd.Series) -> pd.Series:
    """Return numbers and text as one column."""
    numbers = [cell for cell in cells if isinstance(cell, int)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    mask = np.array([cell is None for cell in cells], dtype=bool)
    fits = low >= _LEAST and high <= (_MOST if low >= 0 else _MOST_SIGNED)
    if fits and len(numbers) + int(mask.sum()) == len(cells):
        values = np.array([cell or 0 for cell in cells], np.uint64 if high > _MOST_SIGNED else np.int64)
        return pd.Series(pd.arrays.IntegerArray(values, mask), column.index, name=column.name)
    texts = [None if cell is None else str(cell) for cell in cells]
    return pd.Series(texts, column.index, name=column.name, dtype=object)


def _keep_zeros(cells: list[int | str | None], spelled: Mapping[int, str | None]) -> None:
    """Make text again of numbers with leading zeros that the column also has without, or with other, ones."""
    zeros = {row: text for row, text in spelled.items() if text is not None and _ZEROS.fullmatch(text)}
    if not zeros:
        return
    bare = {cell for row, cell in enumerate(cells) if row not in zeros}
    spellings: dict[int | str | None, set[str]] = {}
    for row, text in zeros.items():
        spellings.setdefault(cells[row], set()).add(text)
    clash = {number for number, texts in spellings.items() if number in bare or len(texts) > 1}
    for row, text in zeros.items():
        if cells[row] in clash:
            cells[row] = text


def whole_numbers(column: pd.Series) -> pd.Series:
    """Return `identifiers` that are whole numbers; `<NA>` where there is none, or text.

    Leading zeros count for nothing.
    """
    names = identifiers(column)
    if names.dtype != object:
        return names
    cells = [None if text is None or _WHOLE.fullmatch(text) is None else int(text) for text in names]
    least = _LEAST if all(cell is None or cell <= _MOST_SIGNED for cell in cells) else 0
    return _assembled([None if cell is None or not least <= cell <= _MOST else cell for cell in cells], names)


def as_text(column: pd.Series) -> pd.Series:
    """Return `identifiers` as text, None where one is missing."""
    names = identifiers(column)
    if names.dtype == object:
        return names
    return names.astype("string").astype(object).where(names.notna(), None)


def codes(*columns: pd.Series) -> tuple[IntArray, ...]:
    """Return for each row of some columns a number that is equal where the identifiers are, −1 for none.

    Raises
    ------
    DataError
        As `identifiers`.
    """
    names = [identifiers(column) for column in columns]
    if len({str(name.dtype) for name in names}) > 1:
        # No type holds signed and unsigned numbers, or numbers and text.
        names = [name if name.dtype == object else as_text(name) for name in names]
    code = pd.factorize(pd.concat(names, ignore_index=True))[0].astype(np.int64)
    ends = np.cumsum([len(name) for name in names])[:-1]
    return tuple(np.split(code, ends))


def stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables one below the other, without a float made of any whole number.

    A column that one table lacks, or holds as another type, would make pandas round the others' integers.

    Raises
    ------
    DataError
        If a column holds long whole numbers in one table and floats in another that have lost digits.
    """
    tables = list(tables)
    columns: list[dict[Any, pd.Series]] = [{} for _ in tables]
    for name in dict.fromkeys(name for table in tables for name in table.columns):
        held = [number for number, table in enumerate(tables) if name in table.columns]
        parts = [tables[number][name] for number in held]
        if len(held) < len(tables) or len({str(part.dtype) for part in parts}) > 1:
            for number, part in zip(held, _alike(parts), strict=True):
                columns[number][name] = part
    made = [
        pd.DataFrame({name: own.get(name, table[name]) for name in table.columns}, index=table.index)
        for table, own in zip(tables, columns, strict=True)
    ]
    return pd.concat(made, ignore_index=True)


def _alike(parts: Sequence[pd.Series]) -> list[pd.Series]:
    """Return parts of one column as types that go together without a loss."""
    whole = [pd.api.types.is_integer_dtype(part) for part in parts]
    if not any(whole):
        return list(parts)
    floats = [part for part in parts if pd.api.types.is_float_dtype(part)]
    if len(floats) + sum(whole) == len(parts) and floats:
        long = any(
            (part.dropna().astype(object).map(abs) >= 2**53).any()
            for part, known in zip(parts, whole, strict=True)
            if known
        )
        # Measurements that happen to be whole in one of the tables.
        if not long or any((part.dropna() % 1 != 0).any() for part in floats):
            return [part.astype("float64") for part in parts]
    if len(floats) + sum(whole) < len(parts):
        # Text stays as it is spelled.
        return [part if pd.api.types.is_string_dtype(part) else as_text(part) for part in parts]
    named = [identifiers(part) for part in parts]
    kinds = {str(part.dtype) for part in named}
    if kinds == {"Int64", "UInt64"} and all((part.dropna() >= 0).all() for part in named):
        return [part.astype("UInt64") for part in named]
    return named if len(kinds) == 1 else [as_text(part) for part in parts]
