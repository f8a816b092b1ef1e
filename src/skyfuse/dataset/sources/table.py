"""Tables, put one below the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.dataset import select
from skyfuse.dataset.content import Draft
from skyfuse.dataset.ledger import OWN, Ledger, free_name
from skyfuse.dataset.select import find_column, numbers
from skyfuse.dataset.sources.arrays import Material, draft_of_arrays
from skyfuse.dataset.sources.files import digests, stem, tables_in
from skyfuse.dataset.sources.protocol import Labels, Naming, Records, file_name
from skyfuse.dataset.sources.zooms import named_zooms
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, FileError, StoreError, UsageError
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import Progress

_GREATEST = float(np.finfo(np.float32).max)

# Columns of a table that name an object, in lower case; those that it has are carried through as they are.
_NAMES = (
    *("object_id", "objid", "dr7objid", "dr8objid", "bestobjid", "specobjid", "source_id", "name"),
    *("designation", "galaxyid", "obsid", "id", "plate", "plateid", "mjd", "fiberid", "fiber", "ra", "dec"),
)


class TableSource:
    """See `skyfuse.dataset.sources.protocol.Source`."""

    name: ClassVar[str] = "table"
    named: ClassVar[bool] = True
    measures: ClassVar[bool] = False

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Join all tables; a column ``source`` names the file of each row."""
        named_zooms(self.name, None, wanted)
        if labels is not None:
            raise UsageError(
                "tables hold their labels themselves", remedy="give all tables as data, and no labels"
            )
        files = list(tables_in(paths))
        if not files:
            raise _no_table(paths[0])
        parts: list[pd.DataFrame] = []
        missing: dict[str, dict[str, int]] = {}
        for path in files:
            part, counts = without_sentinels(read_table(path))
            missing |= {f"{path.name}: {column}": found for column, found in counts.items()}
            parts.append(part if "source" in part else part.assign(source=stem(path)))
        funnel = select.Funnel()
        funnel.add("rows of the tables", sum(map(len, parts)))
        provenance = {"reader": self.name, "files": digests(files), "sentinels": missing}
        material = Material(identifiers.stacked(parts), provenance=provenance, funnel=funnel)
        return draft_of_arrays(material, wanted)

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every row of every table."""
        ledger, inputs, first = Ledger(), [], None
        count = 0
        files = list(tables_in([path]))
        ledger.count_others(path, files)
        for file in files:
            try:
                table = read_table(file)
            except (FileError, DataError) as error:
                if file == path:
                    raise
                ledger.reject(file_name(file, path), error)
                first = first or error
                continue
            named = pd.DataFrame({"file": file_name(file, path), "row": np.arange(len(table))})
            try:
                named = pd.concat([named, _names_of(table, naming.rows)], axis=1)
                table, faults = _sound(table, wanted.columns, naming.columns)
                found = _columns(without_sentinels(table)[0], wanted.columns, naming.columns)
            except DataError as error:
                error.path = error.path or file
                if file == path:
                    raise
                row = np.full(len(table), -1, dtype=np.int64)
                ledger.add(named, row, "missing-column", error.fault, status="rejected")
                first = first or error
                continue
            sound = faults == ""
            row = np.where(sound, count + np.cumsum(sound) - 1, -1)
            ledger.add(named, row, "no-number", faults, status="rejected")
            inputs.append(found[sound])
            count += int(sound.sum())
        if not inputs:
            raise first or _no_table(path)
        material = Material(pd.concat(inputs, ignore_index=True), provenance={"reader": self.name})
        return Records(draft_of_arrays(material, wanted), lambda _: ledger)


def _no_table(path: Path) -> StoreError:
    return StoreError("holds no table", path=path, remedy="give a CSV, FITS, Parquet or .npy table")


def _columns(table: pd.DataFrame, columns: Sequence[str], names: Mapping[str, str]) -> pd.DataFrame:
    """Return the columns that a model reads, and their errors, under its names for them."""
    table = table.assign(**{ours: table[find_column(table, theirs)] for ours, theirs in names.items()})
    for ours in names:
        if not any(ours in _parts(column) for column in columns):
            raise UsageError(
                f"the model reads no column {ours!r}", remedy=f"it reads {', '.join(columns[:12])}"
            )
    found = {}
    for column in columns:
        try:
            numbers(table, column)
        except DataError as error:
            error.remedy += "; where it goes by another name, say so: --column MODEL=YOURS"
            raise
    for part in dict.fromkeys(part for column in columns for part in _parts(column)):
        # Errors are of use to whoever redraws the inputs.
        for name in (part, f"err_{part}", f"{part}_err"):
            with suppress(DataError):
                found[name] = numbers(table, find_column(table, name))
    return pd.DataFrame(found)


def _sound(
    table: pd.DataFrame, columns: Sequence[str], names: Mapping[str, str]
) -> tuple[pd.DataFrame, NDArray[np.object_]]:
    """Return a table whose columns that a model reads are numbers, and what is wrong with which row.

    A row is wrong where a cell is no number, or one beyond float32, in which models compute. A column without
    any number stays as it is, and so does a table of which no row would be left: there it is the column that
    is wrong.
    """
    faults = np.full(len(table), "", dtype=object)
    mended = {}
    # The logarithm of a number beyond float32 is none.
    bounded = {part for column in columns if "log10" not in column for part in _parts(column)} | set(names)
    for ours in dict.fromkeys([*names, *(part for column in columns for part in _parts(column))]):
        try:
            found = find_column(table, names.get(ours, ours))
        except DataError:
            continue
        known = table[found].notna().to_numpy(bool)
        values = pd.to_numeric(table[found], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        words = np.isnan(values) & known
        if pd.api.types.is_numeric_dtype(table[found]) or not np.isfinite(values).any():
            words[:] = False
        elif words.any():
            mended[found] = values
        vast = np.isfinite(values) & (np.abs(values) > _GREATEST) & (ours in bounded)
        for wrong, why in ((words, "which is no number"), (vast, "beyond float32, in which models compute")):
            for row in np.flatnonzero(wrong & (faults == "")):
                faults[row] = f"{found} is {str(table[found].iloc[row])[:40]!r}, {why}"
    if not (faults == "").any():
        return table, np.full(len(table), "", dtype=object)
    return table.assign(**mended), faults


def _parts(column: str) -> list[str]:
    """Return what a column may be made of: of ``a-b`` both ends, of ``log10(a)`` what is inside."""
    ends = [(column[: dash.start()], column[dash.end() :]) for dash in re.finditer("-", column)]
    inside = column.removeprefix("log10(").removesuffix(")")
    return [column, inside, *(end for pair in ends for end in pair if end)]


def _names_of(table: pd.DataFrame, id_column: str | None) -> pd.DataFrame:
    """Return the columns that name the rows of a table, as they are."""
    if id_column is not None:
        chosen = [find_column(table, id_column)]
    else:
        chosen = [name for name in table.columns if str(name).lower() in _NAMES]
        first = table.columns[0]
        known = {str(name).lower() for name in chosen} - {"ra", "dec", "mjd"}
        if not known and first not in chosen and _names_rows(table[first]):
            chosen = [first, *chosen]
    columns = {free_name(str(name), OWN): _as_name(table[name]) for name in chosen}
    return pd.DataFrame(columns, index=table.index)


def _as_name(column: pd.Series) -> pd.Series:
    """Return a column as it is; numbers that a table writes as 6.0 as whole ones, positions apart."""
    if not pd.api.types.is_float_dtype(column) or str(column.name).lower() in ("ra", "dec"):
        return column
    try:
        return identifiers.identifiers(column)
    except DataError:
        # Rounded before they came here: what is left of them still tells the rows apart.
        return column


def _names_rows(column: pd.Series) -> bool:
    """Tell whether a column holds whole numbers or text, each once."""
    if not (pd.api.types.is_integer_dtype(column) or pd.api.types.is_string_dtype(column)):
        return False
    return bool(column.notna().all() and column.is_unique)
