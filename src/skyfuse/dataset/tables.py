"""Tables on their way into a dataset: what names their rows, where these stand, what Parquet can hold."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.dataset import groups
from skyfuse.errors import DataError
from skyfuse.sphere import chord, unit_vectors
from skyfuse.survey.objecttable import IDS, position_names

FAR_ARCSEC = 60.0
"""Rows of one name that lie further apart are two objects: more than positions of one object ever differ."""


def identified(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose rows have a unique object_id, and ra, dec if any column holds positions."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    added: dict[str, Any] = {}
    rows = pd.Series([f"row-{row:07d}" for row in range(len(table))], index=table.index)
    for own in (lower[name] for name in IDS if name in lower):
        try:
            names = identifiers.as_text(table[own])
        except DataError:
            # Rounded numbers name nothing.
            names = pd.Series(None, index=table.index, dtype=object)
        known = names.notna()
        if known.any() and names[known].is_unique:
            written = pd.api.types.is_string_dtype(table[own])
            spelled = table[own].astype("string").str.strip() if written else names
            added["object_id"] = spelled.astype(object).where(known, rows).astype(str)
            break
        if own == "object_id":
            raise DataError(
                "the column object_id names rows twice, or not at all", remedy="name each row once"
            )
    else:
        added["object_id"] = rows
    placed = position_names(table)
    if placed is not None:
        degrees = [pd.to_numeric(table[name], errors="coerce") for name in placed]
        added |= dict(zip(("ra", "dec"), degrees, strict=True))
    return pd.concat([pd.DataFrame(added), table.drop(columns=[*added], errors="ignore")], axis=1)


def name_keys(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return a number for each row, equal where one identifier names them, −1 where that is not told."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    for own in (lower[name] for name in IDS if name in lower and name != "object_id"):
        try:
            code = identifiers.codes(table[own])[0]
        except DataError:
            continue
        if _by_chance(table, own, code):
            continue
        held = np.bincount(code[code >= 0], minlength=1)
        # What so many rows share is no object's name, but that of a survey or of nothing.
        if held.max() <= max(2, groups.LARGEST_GROUP * len(table)):
            return code
    return np.full(len(table), -1, dtype=np.int64)


def _by_chance(table: pd.DataFrame, own: str, code: NDArray[np.int64]) -> bool:
    """Tell whether a column names rows of several tables alike that are different objects.

    Where positions are told, by these: most rows of one name lie more than `FAR_ARCSEC` apart. Else where the
    column only numbers the rows of each table, from 0 or 1 on.
    """
    order = np.argsort(code, kind="stable")
    first, second = order[:-1], order[1:]
    alike = (code[first] == code[second]) & (code[first] >= 0)
    if not alike.any():
        return False
    if {"ra", "dec"} <= set(table):
        at = unit_vectors(*(table[name].to_numpy(np.float64, na_value=np.nan) for name in ("ra", "dec")))
        apart = np.linalg.norm(at[first[alike]] - at[second[alike]], axis=1)
        if np.isfinite(apart).any():
            return bool(np.nanmedian(apart) > chord(FAR_ARCSEC / 3600))
    if "source" not in table:
        return False
    numbers = identifiers.whole_numbers(table[own])
    if numbers.isna().any() or not pd.api.types.is_integer_dtype(numbers):
        return False
    each = [numbers[rows].sort_values().to_numpy() for rows in table.groupby("source").indices.values()]
    return len(each) > 1 and all(
        rows[0] in (0, 1) and np.array_equal(rows, rows[0] + np.arange(len(rows))) for rows in each
    )


def storable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with native numbers, refused where Parquet could not hold it."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"the table has the column {twice[0]!r} more than once", remedy="keep one of them")
    columns: dict[Any, Any] = {}
    for name in table.columns:
        # Whole numbers with holes would become floats here, and are storable as they are.
        if isinstance(table[name].dtype, pd.api.extensions.ExtensionDtype):
            continue
        values = table[name].to_numpy()
        if values.dtype.kind == "O":
            # Python's integers beside None would be read again as floats.
            if pd.api.types.infer_dtype(values, skipna=True) == "integer":
                columns[name] = identifiers.identifiers(table[name])
                continue
            try:
                pa.array(values, from_pandas=True)
            except pa.ArrowException as error:
                if str(name).lower() in IDS:
                    columns[name] = identifiers.as_text(table[name])
                    continue
                raise DataError(
                    f"the column {name!r} of the table mixes kinds of values ({error})",
                    remedy="make it all numbers or all text, or leave it out",
                ) from error
        # Tables read from FITS by other programs are often big-endian, which pandas cannot join.
        elif not values.dtype.isnative:
            columns[name] = values.astype(values.dtype.newbyteorder("="))
    return table.assign(**columns) if columns else table


def table_digest(table: pd.DataFrame) -> str:
    """Return the sha256 of a table's names and values."""
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        # Text, too, of whole numbers with holes, which an array of numbers would hold as floats.
        nullable = column.dtype.kind in "iub" and column.hasnans
        values = column.astype(object).astype(str) if column.dtype == object or nullable else column
        digest.update(f"{name}\n".encode())
        digest.update(pd.util.hash_array(values.to_numpy()).tobytes())
    return digest.hexdigest()
