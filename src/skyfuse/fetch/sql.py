"""Queries cut into pages: every row that is asked for, whatever a service's caps, and each row once.

A service that caps its answers may cut them without a word. So each query has a TOP of its own and begins
where the last answer ended, by key and not by offset, until the rows that COUNT promised are there or no more
come. Each row ends with a mark of ours, so that an answer that was cut on its way is told from a whole one.
"""

from __future__ import annotations

import csv
import io
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skyfuse.errors import DataError, FileError, UsageError
from skyfuse.fetch.bounds import ROWS

if TYPE_CHECKING:
    from skyfuse.fetch.archives import Archives
    from skyfuse.fetch.client import Client

PAGE = 50_000
"""Rows asked for at a time: few enough for memory and for the services' time limits."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")
_TEXT = re.compile(r"[\w ()+./*?:,-]{0,64}")
# The last column of every query; its value in each row is a full stop.
_END = "row_end"
_END_COLUMN = f"'.' AS {_END}"
_CAP = re.compile(r"limit is\s+top\s+(\d+)", re.IGNORECASE)
KEYS = ("specobjid", "objid", "bestobjid", "source_id")
"""Names of columns, in lower case, by which a query can be taken up again where its answer ended."""

Row = list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the names of its columns, and its rows as text, ``null`` as the empty text."""

    columns: Row
    rows: Iterator[Row]


@dataclass(frozen=True, slots=True)
class Selection:
    """A query that can be cut into pages.

    Attributes
    ----------
    columns : tuple of str
        What is selected, each with its alias where it has one.
    source : str
        What follows FROM.
    where : tuple of str
        Conditions, all of which must hold.
    key : str or None
        Name, in the answer, of the column that orders the rows; None where nothing does.
    expression : str
        What the key stands for within the query.
    numeric : bool
        The key is a number.
    """

    columns: tuple[str, ...]
    source: str
    where: tuple[str, ...] = ()
    key: str | None = None
    expression: str = ""
    numeric: bool = True

    def sql(self, top: int | None = None, after: str | None = None) -> str:
        """Return one page's query: the first `top` rows from the key `after` on, that key's own included."""
        where = self.where
        if after is not None:
            where += (f"{self.expression} >= {whole(after) if self.numeric else text(after)}",)
        tail = ("ORDER BY", self.expression) if self.key is not None else ()
        return select([*self.columns, _END_COLUMN], self.source, where, *tail, top=top)

    def count(self, by: Sequence[str] = ()) -> str:
        """Return the query that counts the rows, of each group where `by` names columns."""
        tail = ("GROUP BY", ", ".join(by)) if by else ()
        return select([*by, "COUNT(*) AS n", _END_COLUMN], self.source, self.where, *tail)


def select(
    columns: Sequence[str], source: str, where: Sequence[str] = (), *tail: str, top: int | None = None
) -> str:
    """Return a query of these parts."""
    words = ["SELECT", *([] if top is None else [f"TOP {top}"]), ", ".join(columns), "FROM", source]
    return " ".join([*words, *(["WHERE", " AND ".join(where)] if where else []), *tail])


def text(value: str) -> str:
    """Return a text as a literal of SQL; what could end the literal is not let in.

    Raises
    ------
    UsageError
        It holds anything but letters, digits, blanks and the signs that names of classes have.
    """
    if not _TEXT.fullmatch(value):
        raise UsageError(
            f"{value!r} cannot be a name in a query", remedy="write letters, digits, blanks and ()+./*-"
        )
    return f"'{value}'"


def whole(value: str | int) -> str:
    """Return a whole number as a literal of SQL.

    Raises
    ------
    UsageError
        It is none.
    """
    if not re.fullmatch(r"-?\d{1,20}", str(value)):
        raise UsageError(f"{value!r} is no whole number", remedy="write digits alone")
    return str(value)


def column(name: str) -> str:
    """Return a column's name, checked.

    Raises
    ------
    UsageError
        It is more than a name, or a name of a table and one of its columns.
    """
    if not _NAME.fullmatch(name.strip()):
        raise UsageError(f"'{name}' is no column", remedy="write names such as z or p.petroMag_r")
    return name.strip()


def wrapped(query: str) -> Selection:
    """Return a user's own query as a selection: comments and the last semicolon are taken out of it.

    Raises
    ------
    UsageError
        It is not one SELECT.
    """
    query = re.sub(r"/\*.*?\*/", " ", query, flags=re.DOTALL)
    query = " ".join(" ".join(line.split("--")[0] for line in query.splitlines()).split()).rstrip("; ")
    if not query.lower().startswith("select ") or ";" in query:
        raise UsageError("the query is not one SELECT", remedy="write SELECT … FROM …, without semicolons")
    return Selection(("*",), f"({query}) AS q")


@dataclass(frozen=True, slots=True)
class Clock:
    """What a service waits by.

    Attributes
    ----------
    now, sleep : callable
        Seconds, and waiting for some.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


class Service(ABC):
    """A service that answers queries with tables of text.

    Parameters
    ----------
    client : Client
    archives : Archives
    clock : Clock

    Attributes
    ----------
    page : int
        Rows to ask for at a time; falls to the service's cap when that is met.
    """

    page = PAGE

    def __init__(self, client: Client, archives: Archives, clock: Clock = CLOCK) -> None:
        self._client, self._archives, self._clock = client, archives, clock

    @abstractmethod
    def ask(self, query: str) -> Answer:
        """Ask one query.

        Raises
        ------
        DataError
            The service refuses it, or answers with something that is no table.
        """

    def count(self, selection: Selection, by: Sequence[str] = ()) -> dict[tuple[str, ...], int]:
        """Return how many rows there are, by group.

        Raises
        ------
        DataError
            What comes are no counts of these groups; or as `ask`.
        """
        found = {}
        for row in self.ask(selection.count(by)).rows:
            if len(row) != len(by) + 1:
                raise DataError(
                    f"a count has {len(row)} columns, {len(by) + 1} were asked for",
                    remedy="give the same command again later",
                )
            found[tuple(row[:-1])] = number(row[-1])
        return found

    def keyed(self, selection: Selection) -> Selection:
        """Return a user's selection with the key that its columns offer, if they do."""
        found = self.ask(selection.sql(1)).columns
        names = {name.lower(): name for name in found}
        key = next((names[name] for name in KEYS if name in names), None)
        return selection if key is None else replace(selection, key=key, expression=f"q.{key}")

    def rows(
        self, selection: Selection, *, limit: int | None = None, available: int | None = None
    ) -> Iterator[Answer]:
        """Yield the answers that together give the selection, or its first `limit` rows, each row once.

        Parameters
        ----------
        selection : Selection
        limit : int, optional
        available : int, optional
            How many rows there are, from `count`.

        Raises
        ------
        DataError
            The answer is cut and cannot be taken up again: no key orders it, or more rows than a page have
            the same key; the rows are more than were asked for, or come out of order; or as `ask`.
        """
        wanted = min(value for value in (limit, available, float("inf")) if value is not None)
        got, after, seen = 0, None, set[tuple[str, ...]]()
        while got < wanted:
            top = int(min(self.page, wanted - got + len(seen)))
            try:
                answer = self.ask(selection.sql(top, after))
            except DataError as error:
                cap = _CAP.search(error.fault)
                if cap is None or int(cap[1]) >= top:
                    raise
                self.page = int(cap[1])
                continue
            page = _Page(answer, selection, top, seen, after)
            yield Answer(answer.columns, iter(page))
            got += page.new
            if got > ROWS:
                raise DataError(f"the query gives over {ROWS:,} rows", remedy="narrow it down")
            if selection.key is None:
                if available is not None and got < wanted:
                    raise DataError(
                        f"the service gives {got:,} of the {available:,} rows of the query, and none of its "
                        "columns tells where to go on",
                        remedy=f"add one of {', '.join(KEYS)} to its columns",
                    )
                return
            if page.new == 0:
                if page.rows >= top:
                    raise DataError(
                        f"more rows than a page of the service holds have the same {selection.key}",
                        remedy="write a query that gives fewer rows for each object",
                    )
                return
            after, seen = page.last or after, page.tied


class _Page:
    """Rows of one answer without those that the last answer ended with; counts as they are read."""

    def __init__(
        self, answer: Answer, selection: Selection, top: int, seen: set[tuple[str, ...]], after: str | None
    ) -> None:
        self._answer, self._top, self._seen, self._after = answer, top, seen, after
        self._numeric = selection.numeric
        key = selection.key
        if key is not None and answer.columns and key not in answer.columns:
            raise _strange(f"have no column {key}")
        # An answer without any rows may have no columns either.
        self._key = answer.columns.index(key) if key in answer.columns else None
        self.rows = self.new = 0
        self.last: str | None = None
        self.tied: set[tuple[str, ...]] = set()

    def __iter__(self) -> Iterator[Row]:
        for row in self._answer.rows:
            self.rows += 1
            if self.rows > self._top:
                raise _strange(f"are more than the {self._top:,} that were asked for")
            if self._key is not None:
                if row[self._key] != self.last:
                    # A service that pages otherwise than it is asked to would repeat rows, or leave some out.
                    if self._before(row[self._key], self._after if self.last is None else self.last):
                        raise _strange("do not come in the order that was asked for")
                    self.last, self.tied = row[self._key], set()
                self.tied.add(tuple(row))
                if tuple(row) in self._seen:
                    continue
            self.new += 1
            yield row

    def _before(self, key: str, other: str | None) -> bool:
        """Tell whether a key comes before another; a missing one comes first."""
        if not key:
            return bool(other)
        if self._numeric:
            return number(key) < (number(other) if other else -math.inf)
        return other is not None and key < other


def number(value: str) -> int:
    """Return a whole number that a service answered.

    Raises
    ------
    DataError
        It is none of 64 bits, signed or not.
    """
    if not re.fullmatch(r"-?[0-9]{1,20}", value) or not -(1 << 63) <= int(value) < 1 << 64:
        raise _strange(f"have {value[:40]!a} where a whole number belongs")
    return int(value)


def real(value: str) -> float:
    """Return a number that a service answered.

    Raises
    ------
    DataError
        It is none, or not finite.
    """
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise _strange(f"have {value[:40]!a} where a number belongs")
    return found


def columns_of(answer: Answer, names: Sequence[str]) -> dict[str, int]:
    """Return where the columns of an answer stand, by their names in lower case.

    Raises
    ------
    DataError
        One of `names` is not among them.
    """
    found = {name.lower(): place for place, name in enumerate(answer.columns)}
    missing = [name for name in names if name not in found]
    if missing:
        raise _strange(f"have no column {', '.join(missing)}")
    return found


def _strange(fault: str) -> DataError:
    return DataError(f"the rows that the service gives {fault}", remedy="give the same command again later")


def read(content: str) -> Answer:
    """Read an answer.

    Raises
    ------
    FileError
        It is no whole table: another try may give one.
    """
    content = content.lstrip("\ufeff \r\n\t")
    body = content.partition("\n")[2] if content.startswith("#") else content
    try:
        columns = [name.strip() for name in next(csv.reader(io.StringIO(body)), [])]
        if not columns or columns[-1] != _END:
            raise _no_table(opening(content) or "nothing")
        for row in csv.reader(io.StringIO(body)):
            if row and (len(row) != len(columns) or row[-1] not in (".", _END)):
                raise _no_table("it breaks off within a row")
    except csv.Error as error:
        raise _no_table(str(error)) from error
    return Answer(columns[:-1], _rows(body))


def _no_table(fault: str) -> FileError:
    return FileError(
        f"no whole table came ({fault})", reason="no-table", remedy="give the same command again later"
    )


def opening(content: str) -> str:
    """Return the first words of an answer, without tags, for messages."""
    return " ".join(re.sub(r"<[^>]*>", " ", content[:2000]).split())[:200]


def _rows(body: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(body))
    next(reader)
    for row in reader:
        if row:
            yield ["" if value == "null" else value for value in row[:-1]]
