"""The ledger of a folder of downloads: one row for each wanted file, in SQLite.

At every moment asked = received + rejected + waiting, over any number of runs and whatever killed them. Rows
are streamed, never listed, so that a million of them take no memory.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skyfuse.disk import is_of_disk, parse_json, writing
from skyfuse.errors import DataError, StoreError

NAME = "ledger.sqlite"
"""Name of the ledger within the folder that it keeps."""

FORMAT = 1
"""Version of its tables; any other is refused."""

KINDS = ("spectrum", "frame", "image", "table", "xp")
"""Kinds of files; each has a check of its own."""

_STATES = ("waiting", "received", "rejected")
_DAMAGED = "remove it and give the same fetch commands again; the files that lie in the folder whole are kept"
# SQLite keeps values of any type in any column, and has no checksum: a row that a damaged disk has changed is
# told by what no row can hold. NULL passes where the column may have it.
_SOUND = " AND ".join(
    [
        *(f"typeof({name}) = 'text'" for name in ("path", "url", "kind", "expect", "state")),
        *(f"typeof({name}) = 'integer'" for name in ("asking", "tries")),
        *(f"typeof({name}) IN ('text', 'null')" for name in ("checksum", "data", "part", "digest")),
        *(f"typeof({name}) IN ('text', 'null')" for name in ("reason", "remark")),
        *(f"typeof({name}) IN ('integer', 'null')" for name in ("bytes", "total", "size")),
        "typeof(due) IN ('real', 'integer')",
        "(state <> 'rejected' OR reason IS NOT NULL AND remark IS NOT NULL)",
        "(state <> 'received' OR size IS NOT NULL AND digest IS NOT NULL)",
        f"state IN {_STATES}",
        f"kind IN {KINDS}",
    ]
)
_SOUND_OTHERS = {
    "faults": "typeof(reason) = 'text' AND typeof(count) = 'integer'",
    "queries": "typeof(name) = 'text' AND typeof(sql) = 'text' AND typeof(rows) = 'integer' AND "
    "typeof(available) IN ('integer', 'null') AND typeof(remark) = 'text'",
}
# SQLite quotes what it does not understand, and Python may not be able to read that.
_FAULTS = (sqlite3.Error, UnicodeDecodeError)
_PAGE = 500
_PAGED = " AND id > :last ORDER BY id LIMIT :page"
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    kind TEXT NOT NULL,
    bytes INTEGER,
    checksum TEXT,
    expect TEXT NOT NULL,
    data TEXT,
    asking INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    part TEXT,
    total INTEGER,
    size INTEGER,
    digest TEXT,
    reason TEXT,
    remark TEXT
);
CREATE INDEX waiting ON files (id) WHERE state = 'waiting';
CREATE TABLE faults (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE queries (
    name TEXT NOT NULL, sql TEXT NOT NULL, rows INTEGER NOT NULL, available INTEGER, remark TEXT,
    PRIMARY KEY (name, sql)
);
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to get.

    Attributes
    ----------
    path : str
        Where it goes: a relative POSIX path inside the folder. It is the file's identity: asked twice, it is
        one row.
    url : str
        Where it comes from.
    kind : str
        One of `KINDS`: which check it must pass.
    bytes : int, optional
        Its size, where the archive says.
    checksum : str, optional
        Where the archive publishes one, ``"sha1:…"``, ``"md5:…"`` or ``"sha256:…"``, in hexadecimal.
    expect : mapping, optional
        Keywords of the primary header and the values that they must have, e.g. ``{"PLATEID": 266}``.
    data : str, optional
        Body of a POST, form-encoded; without it the file is got by GET.
    """

    path: str
    url: str
    kind: str
    bytes: int | None = None
    checksum: str | None = None
    expect: Mapping[str, str | int | float] = field(default_factory=dict)
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A waiting file: what is wanted, and what earlier tries left.

    Attributes
    ----------
    id : int
        Its number in the ledger.
    wanted : Wanted
    tries : int
        Failed tries since the last `Ledger.renew`.
    part : str or None
        Validator (ETag or Last-Modified) under which the bytes in its part file came.
    total : int or None
        Bytes that the part file has when it is whole, where the server said.
    digest : str or None
        Checksum that the file had when it was received, if it has been lost since.
    """

    id: int
    wanted: Wanted
    tries: int
    part: str | None
    total: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Added:
    """What an asking brought.

    Attributes
    ----------
    new, known, twice : int
        Files never asked before; files that the ledger had from an earlier asking; askings beyond the first
        for a file that this asking named before.
    """

    new: int
    known: int
    twice: int


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a ledger; asked = received + rejected + waiting.

    Attributes
    ----------
    asked, received, rejected, waiting : int
    bytes : int
        Of the received files.
    reasons : dict of str to int
        Rejected files by reason.
    faults : dict of str to int
        Failed tries by reason, those of files that came later among them.
    """

    asked: int
    received: int
    rejected: int
    waiting: int
    bytes: int
    reasons: dict[str, int]
    faults: dict[str, int]


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked of a service, and how much of it there is.

    Attributes
    ----------
    name : str
        What the rows are, e.g. ``STAR``.
    sql : str
        The query.
    rows : int
        How many it gave.
    available : int or None
        How many the archive has, where known.
    remark : str
        What to tell the user, e.g. ``asked 10,000, there are 9,802``.
    """

    name: str
    sql: str
    rows: int
    available: int | None
    remark: str


class Ledger:
    """Rows of wanted files in ``ledger.sqlite``; open it with `Ledger.open`, use it as a context manager.

    Any thread may call it. Each call is one transaction, on disk when it returns as far as the death of this
    process is concerned; a failing machine may lose the last ones, which `renew` finds out.

    Attributes
    ----------
    folder : Path
        Where the files go.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path, *, create: bool = True) -> Self:
        """Open the ledger of a folder.

        Parameters
        ----------
        folder : path
        create : bool
            Make the folder and the ledger if they are not there.

        Raises
        ------
        StoreError
            If there is none and none is to be made, or it is damaged, a link, or of another version.
        """
        folder = Path(folder)
        path = folder / NAME
        if path.is_symlink():
            raise StoreError("is a link", path=path, remedy="put the ledger itself there")
        if create:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise StoreError(
                "nothing was fetched into it", path=folder, remedy="give a folder that 'skyfuse fetch' made"
            )
        try:
            connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unreadable(error, path) from error
        ledger = cls(folder, connection)
        try:
            ledger._begin()
        except BaseException:
            connection.close()
            raise
        return ledger

    def _begin(self) -> None:
        """Make the tables if they are not there; require that all rows hold what rows can hold."""
        db = self._db
        try:
            # Readers do not wait for the writer, and a commit costs no flush to disk.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if not found and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {FORMAT};COMMIT;")
                found = FORMAT
        except _FAULTS as error:
            raise _unreadable(error, self._path) from error
        if found != FORMAT:
            raise StoreError(
                f"is of format {found}, this program knows {FORMAT}",
                path=self._path,
                remedy="use the Skyfuse that made it, or fetch into a new folder",
            )
        for table, sound in {"files": _SOUND, **_SOUND_OTHERS}.items():
            # Table and condition are those above.
            query = f"SELECT count(*), min(rowid) FROM {table} WHERE NOT coalesce({sound}, 0)"  # noqa: S608
            count, first = self._rows(query)[0]
            if count:
                raise _damaged(f"{count:,} rows of its table {table}, the first is {first}", self._path)
        # Rows that the index has lost would never be fetched.
        by_index, by_table = (
            self._rows(f"SELECT count(*), total(id) FROM files {way} WHERE state = 'waiting'")  # noqa: S608
            for way in ("INDEXED BY waiting", "NOT INDEXED")
        )
        if by_index != by_table:
            raise _damaged("its index of waiting files", self._path)

    @property
    def _path(self) -> Path:
        return self.folder / NAME

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._db.close()

    def add(self, wanted: Iterable[Wanted]) -> Added:
        """Ask for files.

        What the ledger knows already keeps its state; where it comes from and how it is checked is as asked
        last. Unsafe paths are taken in like any other: the client rejects them, so that they are counted.

        Parameters
        ----------
        wanted : iterable of Wanted
            Read as a stream.

        Returns
        -------
        Added

        Raises
        ------
        DataError
            If one asking wants different files under one path.
        """
        new = known = total = 0
        stream = map(_record, wanted)
        asking = self._rows("SELECT coalesce(max(asking), 0) + 1 FROM files")[0][0]
        while page := list(islice(stream, _PAGE)):
            values = [(*record, asking) for record in page]
            with self._transaction() as db:
                fresh = db.executemany(
                    "INSERT OR IGNORE INTO files (path, url, kind, bytes, checksum, expect, data, asking) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                ).rowcount
                old = db.executemany(
                    "UPDATE files SET url = ?2, kind = ?3, bytes = ?4, checksum = ?5, expect = ?6, "
                    "data = ?7, asking = ?8 WHERE path = ?1 AND asking <> ?8",
                    values,
                ).rowcount
                if fresh + old < len(page):
                    for path, url, *_, data in page:
                        other = db.execute(
                            "SELECT url FROM files WHERE path = ? AND (url <> ? OR data IS NOT ?)",
                            (path, url, data),
                        ).fetchone()
                        if other:
                            raise DataError(
                                f"two different files are asked for under one name ({other[0]} and {url})",
                                path=printable(str(path)),
                                remedy="ask for them in two folders",
                            )
            new, known, total = new + fresh, known + old, total + len(page)
        return Added(new, known, total - new - known)

    def renew(self) -> int:
        """Let wait again what was rejected, and what was received but is gone or has another size.

        Returns
        -------
        int
            How many received files have to be fetched again.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE files SET state = 'waiting', tries = 0, due = 0 "
                "WHERE state = 'rejected' OR state = 'waiting' AND (tries <> 0 OR due <> 0)"
            )
        lost = 0
        query = "SELECT id, path, size FROM files WHERE state = 'received'"
        for page in self._pages(query + _PAGED):
            gone = [(number,) for number, path, size in page if _size(self.folder / path) != size]
            if gone:
                with self._transaction() as db:
                    db.executemany(
                        "UPDATE files SET state = 'waiting', tries = 0, due = 0 WHERE id = ?",
                        gone,
                    )
            lost += len(gone)
        return lost

    def waiting(self, now: float) -> Iterator[Row]:
        """Stream the rows that may be tried, in the order in which they were asked for.

        Parameters
        ----------
        now : float
            Seconds on the clock of `failed`; rows that have to wait longer are left out.
        """
        query = (
            "SELECT id, path, url, kind, bytes, checksum, expect, data, tries, part, total, "
            "digest FROM files "
            "WHERE state = 'waiting' AND due <= :now"
        )
        for page in self._pages(query + _PAGED, now=now):
            for number, path, url, kind, size, checksum, expect, data, *state in page:
                told = self._expected(number, expect)
                wanted = Wanted(path, url, kind, size, checksum, told, data)
                yield Row(number, wanted, *state)

    def next_due(self) -> float | None:
        """Return when the first waiting row may be tried, on the clock of `failed`; None if none waits."""
        due: float | None = self._rows("SELECT min(due) FROM files WHERE state = 'waiting'")[0][0]
        return due

    def outstanding(self) -> dict[str, tuple[int, int]]:
        """Return, by kind, the known bytes of waiting files, and how many wait whose size is unknown."""
        rows = self._rows(
            "SELECT kind, coalesce(sum(bytes), 0), count(*) - count(bytes) FROM files "
            "WHERE state = 'waiting' GROUP BY kind"
        )
        return {kind: (known, unknown) for kind, known, unknown in rows}

    def began(self, number: int, part: str | None, total: int | None) -> None:
        """Note the validator and the whole size under which bytes begin to go into a part file."""
        with self._transaction() as db:
            db.execute("UPDATE files SET part = ?, total = ? WHERE id = ?", (part, total, number))

    def received(self, number: int, size: int, digest: str) -> None:
        """Note that a file lies under its name, with its size (bytes) and checksum (``"sha256:…"``)."""
        with self._transaction() as db:
            db.execute(
                "UPDATE files SET state = 'received', size = ?, digest = ?, part = NULL, total = NULL "
                "WHERE id = ?",
                (size, digest, number),
            )

    def failed(self, number: int, reason: str, remark: str, tries: int, due: float | None) -> None:
        """Note a failed try.

        Parameters
        ----------
        number : int
            Of the row.
        reason : str
            Short word by which such failures are counted.
        remark : str
            The whole story, in one line.
        tries : int
            Failed tries that now stand against it.
        due : float or None
            When to try again, seconds on the monotonic clock of the run; None rejects the file.
        """
        state = "rejected" if due is None else "waiting"
        with self._transaction() as db:
            db.execute(
                "UPDATE files SET tries = ?, state = ?, due = ?, reason = ?, remark = ? WHERE id = ?",
                (tries, state, due or 0.0, reason, printable(remark), number),
            )
            db.execute(
                "INSERT INTO faults VALUES (?, 1) ON CONFLICT (reason) DO UPDATE SET count = count + 1",
                (reason,),
            )

    def rejected(self) -> Iterator[tuple[str, str, str]]:
        """Stream path, reason and remark of the rejected files."""
        query = "SELECT id, path, reason, remark FROM files WHERE state = 'rejected'"
        for page in self._pages(query + _PAGED):
            for _, path, reason, remark in page:
                yield printable(path), reason, remark

    def tally(self) -> Tally:
        """Count the rows."""
        with self._transaction() as db:
            states = {
                state: (count, size or 0)
                for state, count, size in db.execute(
                    "SELECT state, count(*), sum(size) FROM files GROUP BY state"
                )
            }
            reasons = db.execute(
                "SELECT reason, count(*) FROM files WHERE state = 'rejected' GROUP BY reason ORDER BY 2 DESC"
            ).fetchall()
            faults = db.execute("SELECT reason, count FROM faults ORDER BY count DESC").fetchall()
        waiting, received, rejected = (states.get(s, (0, 0)) for s in ("waiting", "received", "rejected"))
        return Tally(
            asked=waiting[0] + received[0] + rejected[0],
            received=received[0],
            rejected=rejected[0],
            waiting=waiting[0],
            bytes=received[1],
            reasons=dict(reasons),
            faults=dict(faults),
        )

    def note_query(
        self, name: str, sql: str, *, rows: int, available: int | None = None, remark: str = ""
    ) -> None:
        """Keep what a service was asked and gave; the same name and query again replaces it."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO queries VALUES (?, ?, ?, ?, ?)", (name, sql, rows, available, remark)
            )

    def queries(self) -> list[Query]:
        """Return what services were asked, in that order."""
        return [
            Query(*row)
            for row in self._rows("SELECT name, sql, rows, available, remark FROM queries ORDER BY rowid")
        ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do what the block does as a whole or not at all."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except _FAULTS as error:
                raise _unreadable(error, self._path) from error

    def _expected(self, number: int, text: str) -> dict[str, str | int | float]:
        try:
            told = parse_json(text.encode())
        except ValueError as error:
            raise _damaged(f"row {number}", self._path) from error
        if any(type(v) not in (str, int, float) for v in told.values()):
            raise _damaged(f"row {number}", self._path)
        return told

    def _rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        with self._transaction() as db:
            return db.execute(query, values).fetchall()

    def _pages(self, query: str, **values: object) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query that ends in `_PAGED`, the id first; rows may change between pages."""
        last = 0
        while page := self._rows(query, last=last, page=_PAGE, **values):
            ids = [last, *(row[0] for row in page)]
            # A damaged index may name rows again, without end.
            if any(one >= other for one, other in pairwise(ids)):
                raise _damaged("the order of its rows", self._path)
            yield page
            last = ids[-1]


def _unreadable(error: Exception, path: Path) -> StoreError:
    """Return what is wrong with a ledger: its disk, or itself."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if is_of_disk(error):
        remedy = "check the free disk space and the permissions of its folder; the same command goes on"
    elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        remedy = "wait for the other program that has it open, or stop it"
    else:
        return _damaged(str(error), path)
    return StoreError(f"cannot be read or written ({error})", path=path, remedy=remedy)


def _damaged(what: str, path: Path) -> StoreError:
    return StoreError(f"is damaged ({printable(what)})", path=path, remedy=_DAMAGED)


def printable(text: str) -> str:
    """Return a text as one line without control characters, whatever a server put into it."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


def _record(wanted: Wanted) -> tuple[object, ...]:
    # JSON from a server may hold lone surrogates, which no file name and no database can.
    path, url = (text.encode(errors="backslashreplace").decode() for text in (wanted.path, wanted.url))
    expect = json.dumps(dict(wanted.expect), sort_keys=True)
    return path, url, wanted.kind, wanted.bytes, wanted.checksum, expect, wanted.data


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except (OSError, ValueError):
        return None
