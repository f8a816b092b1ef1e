"""What all kinds of fetching share: regions, tables of answers, provenance, and going on after a stop."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.disk import read_json, replaced, sha256, write_json, writing
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.fetch.archives import CITE
from skyfuse.fetch.ledger import Ledger
from skyfuse.sphere import Box, Cone
from skyfuse.survey.tables import read_table

CATALOGUES = "catalogue"
"""Folder, among the downloads, of what the services answered."""


Region = Cone | Box


def require_area(region: Region | None) -> None:
    """Raise UsageError if a region is one that no archive can be asked for."""
    if isinstance(region, Cone) and not 0 < region.radius <= 90:
        raise UsageError(
            f"a cone with radius {region.radius} cannot be asked for",
            remedy="give a radius of up to 90 degrees, above 0",
        )
    if isinstance(region, Box) and not (region.width > 0 and region.dec_min < region.dec_max):
        raise UsageError(
            f"the box {(region.ra_min, region.ra_max, region.dec_min, region.dec_max)} has no area",
            remedy="give RA_MIN RA_MAX DEC_MIN DEC_MAX, degrees; RA_MIN above RA_MAX reaches over RA 0",
        )


def within(region: Region, table: str, margin: float = 0.0) -> tuple[str, ...]:
    """Return the SQL conditions that a region sets; right at poles and at RA 0.

    Parameters
    ----------
    region : Cone or Box
    table : str
        Alias of a table with ra, dec and the unit vector (cx, cy, cz).
    margin : float
        Degrees by which the region is widened.
    """
    if isinstance(region, Cone):
        radius = region.radius + margin
        (x, y, z), limit = region.middle.tolist(), float(np.cos(np.radians(radius)))
        return (
            f"{table}.dec BETWEEN {region.dec - radius:.7f} AND {region.dec + radius:.7f}",
            f"{table}.cx*{x:.16f}+{table}.cy*{y:.16f}+{table}.cz*{z:.16f} >= {limit:.16f}",
        )
    low, high = region.dec_min - margin, region.dec_max + margin
    conditions = [f"{table}.dec BETWEEN {low:.7f} AND {high:.7f}"]
    wider = margin / max(float(np.cos(np.radians(min(max(abs(low), abs(high)), 90.0)))), 1e-6)
    if region.width + 2 * wider < 360.0:
        start, end = (region.ra_min - wider) % 360.0, (region.ra_max + wider) % 360.0
        joint = "AND" if start <= end else "OR"
        conditions.append(f"({table}.ra >= {start:.7f} {joint} {table}.ra <= {end:.7f})")
    return tuple(conditions)


@dataclass(frozen=True, slots=True)
class Group:
    """One group of the rows that are asked for, e.g. one class.

    Attributes
    ----------
    name : str
        What its rows are.
    sql : str
        Its query, whole.
    asked : int or None
        How many are asked for; None for all.
    available : int or None
        How many there are, where it was counted.
    rows : int or None
        How many came; None before they did.
    note : str
        What else is to be told.
    """

    name: str
    sql: str
    asked: int | None = None
    available: int | None = None
    rows: int | None = None
    note: str = ""

    @property
    def expected(self) -> int:
        """How many rows can come."""
        known = [number for number in (self.asked, self.available) if number is not None]
        return min(known, default=0)

    @property
    def remark(self) -> str:
        """What to tell of it: whether there are as many as asked, and whether all came."""
        said = []
        if self.asked is not None and self.available is not None and self.available < self.asked:
            said.append(f"asked {self.asked:,}, there are {self.available:,}")
        if self.rows is not None and self.available is not None and self.rows != self.expected:
            said.append(f"the archive counted {self.expected:,} and gave {self.rows:,}")
        return "; ".join([*said, *([self.note] if self.note else [])])


Asking = Callable[[TextIO], Iterable[Group]]
"""Writes the rows of all groups to a file, as CSV with a header, and says what came."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a service answered, on disk.

    Attributes
    ----------
    table : Path
        CSV, as the service gave it.
    groups : list of Group
    """

    table: Path
    groups: list[Group] = field(default_factory=list)

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield the rows, one at a time, by the columns' names in lower case."""
        with self.table.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            columns = [name.lower() for name in next(reader, [])]
            for row in reader:
                yield dict(zip(columns, row, strict=True))


def token(options: Mapping[str, Any]) -> str:
    """Return a short name for what was asked, the same whenever it is asked again."""
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def answered(
    folder: Path, kind: str, archive: str, options: Mapping[str, Any], asking: Asking, ledger: Ledger
) -> Answered:
    """Return the answer to what is asked: the one in the folder, or a new one, written whole or not at all.

    One in the folder that is damaged is asked for again.

    Beside the table lies a JSON file of its name that says what was asked, of which release, when, with which
    versions, and what to cite.

    Parameters
    ----------
    folder : Path
        Of the downloads.
    kind : str
        What is asked for; begins the table's name.
    archive : str
        Key of `skyfuse.fetch.archives.CITE`.
    options : mapping
        What distinguishes this asking from others.
    asking : callable
        Called only where the folder does not hold the answer.
    ledger : Ledger
        Gets a note of each group.

    Raises
    ------
    DataError
        As `asking`.
    """
    name = f"{kind}-{token(options)}"
    table, story = folder / CATALOGUES / f"{name}.csv", folder / CATALOGUES / f"{name}.json"
    known = _told(table, story)
    if known is not None:
        groups = known
    else:
        with whole_file(table) as file:
            groups = list(asking(file))
            file.flush()
            told = {
                "asked": dict(options),
                "sha256": sha256(Path(file.name)),
                "groups": [asdict(group) for group in groups],
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {"skyfuse": version("skyfuse"), "python": platform.python_version()},
                "cite": CITE[archive],
            }
            # The story first: a table without one would be taken for unfinished.
            write_json(story, told)
    for group in groups:
        ledger.note_query(
            group.name, group.sql, rows=group.rows or 0, available=group.available, remark=group.remark
        )
    return Answered(table, groups)


def _told(table: Path, story: Path) -> list[Group] | None:
    """Return what a catalogue's story tells; None where one of the two is missing or damaged.

    A story of an earlier version has no checksum of its catalogue; then the catalogue is only read through.
    """
    try:
        content = read_json(story)
        groups = [Group(**group) for group in content["groups"]]
        sound = all(_sound(group) for group in groups) and table.is_file()
        if sound and "sha256" in content:
            sound = content["sha256"] == sha256(table)
        elif sound:
            for _ in Answered(table).rows():
                pass
    except (StoreError, KeyError, TypeError, ValueError, RecursionError, csv.Error):
        return None
    return groups if sound else None


def _sound(group: Group) -> bool:
    texts = (group.name, group.sql, group.note)
    counts = (group.asked, group.available, group.rows)
    return all(isinstance(text, str) for text in texts) and all(
        count is None or (type(count) is int and 0 <= count < 1 << 63) for count in counts
    )


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Give a text file that takes its name once it is complete and flushed to disk.

    Raises
    ------
    StoreError
        The disk cannot be written.
    """
    with (
        writing(path.parent),
        replaced(path, alone=True) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        yield file


def user_table(path: Path) -> pd.DataFrame:
    """Read a table of the user's, its columns in lower case.

    Raises
    ------
    StoreError
        It is not there.
    FileError, DataError
        As `skyfuse.survey.tables.read_table`.
    """
    if not path.is_file():
        raise StoreError("does not exist", path=path, remedy="name a table that exists")
    table = read_table(path)
    table.columns = pd.Index([str(name).lower() for name in table.columns])
    return table


def pick(table: pd.DataFrame, names: Iterable[str]) -> pd.Series[Any] | None:
    """Return the first of the columns that the table has."""
    return next((table[name] for name in names if name in table), None)


def whole_numbers(column: pd.Series[Any], path: Path) -> list[int | None]:
    """Return a column of whole numbers, exactly, None where a row has none.

    Raises
    ------
    DataError
        A value is no whole number, or was rounded on its way here; all are missing.
    """
    try:
        numbers = identifiers.whole_numbers(column)
        strange = int((identifiers.identifiers(column).notna() & numbers.isna()).sum())
    except DataError as error:
        error.path = path
        raise
    if strange or numbers.isna().all():
        raise DataError(
            f"its column {column.name} must be whole numbers and has {strange or 'no'} values that are "
            f"{'none' if strange else 'any'}",
            path=path,
            remedy="write it as whole numbers",
        )
    return [None if number is pd.NA else number for number in numbers.tolist()]


def positions(table: pd.DataFrame, path: Path, remedy: str = "give them in degrees") -> NDArray[np.float64]:
    """Return right ascension and declination of a user's table, degrees, shape (n, 2).

    Raises
    ------
    DataError
        There are no such columns, or a position is missing or none on the sky.
    """
    columns = pick(table, ("ra", "plug_ra")), pick(table, ("dec", "plug_dec"))
    if columns[0] is None or columns[1] is None:
        raise DataError("it has no columns ra and dec", path=path, remedy=remedy)
    ra, dec = (
        pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        for column in columns
        if column is not None
    )
    good = np.isfinite(ra) & (np.abs(dec) <= 90)
    if not good.all():
        raise DataError(f"{int((~good).sum())} positions are missing", path=path, remedy="remove those rows")
    return np.column_stack([ra, dec])
