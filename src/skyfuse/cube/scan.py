"""Inputs of a build: walking folders, recognising files by their headers, remembering what was recognised."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyfuse.cube.cutout import frame_geometry
from skyfuse.disk import parse_json, sha256, writing
from skyfuse.errors import FileError, UsageError, shown
from skyfuse.sphere import unit_vectors
from skyfuse.survey.objecttable import read_sources
from skyfuse.survey.reader import Partner, Reader, Refused, SurveyFile
from skyfuse.survey.records import FrameInfo, SpectrumInfo
from skyfuse.survey.registry import added, marks_of, reader_of

MATCH_ARCSEC = 1.0
"""Spectra and rows of tables closer than this are one object."""

CHUNK = 64
"""Files that one scan task looks at."""

# Entries that every record has.
_ALWAYS = ("path", "size", "mtime_ns", "reader", "beside", "more")
TABLE = "table"
"""Reader of tables of objects."""

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_FITS_LIKE = (".fits", ".fit", ".fits.bz2", ".fits.gz", ".fit.gz", ".fits.fz", ".fit.fz")


@dataclass(frozen=True, slots=True)
class Reject:
    """An input that the cube does not hold.

    Attributes
    ----------
    path : str
    reason : str
        The ledger's word for why.
    message : str
        One line.
    key : str
        Names the record within its file; empty for the whole file.
    """

    path: str
    reason: str
    message: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was at the scan, and who reads it.

    Attributes
    ----------
    path : str
    size, mtime_ns : int
    reader : str
        Name of its reader.
    beside : tuple of (str, int, int)
        Path, size and time of the files that are read together with it; −1 where one is missing.
    """

    path: str
    size: int
    mtime_ns: int
    reader: str
    beside: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class FrameSource:
    """A frame: its file, what the header says, corners and radius (degrees)."""

    file: Stamp
    info: FrameInfo
    corners: tuple[float, ...]
    radius: float


@dataclass(frozen=True, slots=True)
class SpectrumSource:
    """A spectrum: its file, and what the header says."""

    file: Stamp
    info: SpectrumInfo


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """A row of a table of objects that are cut out whether or not they have a spectrum.

    Attributes
    ----------
    file : Stamp
    key : str
        Number of the row, from 0.
    source_id : str
        What the table calls it.
    ra, dec : float
        Degrees (ICRS).
    sha256 : str
        Of the table.
    """

    file: Stamp
    key: str
    source_id: str
    ra: float
    dec: float
    sha256: str


Source = FrameSource | SpectrumSource | ObjectSource


@dataclass(frozen=True, slots=True)
class Scan:
    """What a build found in its inputs; each list is sorted by path and key."""

    frames: list[FrameSource]
    spectra: list[SpectrumSource]
    objects: list[ObjectSource]
    rejects: list[Reject]
    partners: list[str]
    """Files that are read only together with another."""
    asked: int
    """Records in all files; a file that holds none counts as one, a partner as none."""
    doubled: frozenset[str]
    """Paths of files that stay while others with the same frame or spectrum are rejected as duplicates."""


Record = dict[str, Any]
"""JSON-ready: what the scan tells of one file.

``path``, ``size``, ``mtime_ns``, ``reader``, ``more`` (readers that were there and are not built in),
``beside`` (size and time of each partner by path, −1 where it is missing), and either ``reject`` (reason and
message), ``partner_of`` (a path) or ``records``: a list, each a ``frame``, a ``spectrum``, an ``object`` or a
``refused`` with its fields."""

Runner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def walk(inputs: Sequence[Path], skip: Path) -> tuple[list[str], list[Reject]]:
    """List the files under the inputs, sorted.

    Parameters
    ----------
    inputs : sequence of path
        Files or folders. Hidden and unfinished files are passed over, other cubes too; a folder reached
        twice, through a link or a loop of links, is walked once.
    skip : path
        The cube that is being built.

    Returns
    -------
    files : list of str
        Absolute paths of regular files.
    rejects : list of Reject
        What stands there as a file and is none: dangling links, pipes, sockets, devices.

    Raises
    ------
    UsageError
        If an input does not exist.
    """
    files: set[str] = set()
    rejects: dict[str, Reject] = {}
    seen: set[tuple[int, int]] = set()
    skip = skip.absolute()

    def reject(path: Path, fault: str) -> None:
        rejects[str(path)] = Reject(
            str(path), "unreadable", f"{shown(path)}: {fault}; remove it or put the file there"
        )

    def visit(path: Path) -> None:
        try:
            status = path.stat()
        except OSError as error:
            reject(path, f"cannot be opened ({error.strerror})")
            return
        if stat.S_ISDIR(status.st_mode):
            if path == skip or (status.st_dev, status.st_ino) in seen or (path / "cube.json").exists():
                return
            seen.add((status.st_dev, status.st_ino))
            try:
                names = sorted(entry.name for entry in path.iterdir())
            except OSError as error:
                reject(path, f"the folder cannot be listed ({error.strerror})")
                return
            if not names and path.name.endswith(_FITS_LIKE):
                reject(path, "is an empty folder with the name of a file")
            for name in names:
                if not name.startswith(".") and not name.endswith(_UNFINISHED):
                    visit(path / name)
        elif stat.S_ISREG(status.st_mode):
            files.add(str(path))
        else:
            reject(path, "is not a regular file")

    for given in inputs:
        # Not resolved: a link keeps the name under which the user knows it.
        path = Path(os.path.normpath(Path(given).absolute()))
        if not os.path.lexists(path):
            raise UsageError("does not exist", remedy="name files or folders that exist", path=given)
        visit(path)
    return sorted(files), [rejects[path] for path in sorted(rejects)]


@dataclass(frozen=True, slots=True)
class Look:
    """A task that recognises some files.

    Attributes
    ----------
    paths : tuple of str
    readers : tuple of Reader
        Those that are not built in.
    tables : frozenset of str
        Paths of tables of objects.
    """

    paths: tuple[str, ...]
    readers: tuple[Reader, ...]
    tables: frozenset[str]


def look(task: Look) -> list[Record]:
    """Recognise files by their headers; a task of its own for any executor.

    Returns
    -------
    list of dict
        A record for each file, in order.
    """
    return [_look(path, task) for path in task.paths]


def _look(path: str, task: Look) -> Record:
    record: Record = {"path": path, "size": -1, "mtime_ns": -1, "reader": "", "beside": {}}
    record["more"] = marks_of(task.readers)
    try:
        status = Path(path).stat()
        record |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        if path in task.tables:
            record |= {"reader": TABLE, "records": _objects(Path(path))}
        else:
            file = SurveyFile(Path(path))
            reader = reader_of(file, task.readers)
            record["reader"] = reader.name
            _note(record, reader.records(file))
        json.dumps(record, allow_nan=False)
    except FileError as error:
        record["beside"] = _beside(error.partners)
        return _rejected(record, error.reason, str(error))
    # Whatever a broken file makes a library raise must cost that file alone, never the build.
    except Exception as error:
        return _rejected(record, "unreadable", unexpected(path, error))
    return record


def _note(record: Record, found: Sequence[FrameInfo | SpectrumInfo | Refused | Partner]) -> None:
    """Write what a reader found in a file into its record."""
    path, listed = record["path"], []
    beside: set[str] = set()
    for one in found:
        if isinstance(one, Partner):
            record |= {"partner_of": one.of, "beside": _beside([one.of])}
            return
        beside.update(one.partners)
        if isinstance(one, Refused):
            listed.append(_refused(one.key, one.reason, one.message))
        elif isinstance(one, SpectrumInfo):
            listed.append({"spectrum": asdict(one)})
        else:
            listed.append(_frame(one, path))
    if not listed:
        raise FileError("holds no records", reason="empty", remedy="leave it out", path=path)
    record |= {"records": listed, "beside": _beside(sorted(beside))}


def _refused(key: str, reason: str, message: str) -> dict[str, Any]:
    return {"refused": {"key": key, "reason": reason, "message": message}}


def _frame(info: FrameInfo, path: str) -> dict[str, Any]:
    corners, radius = frame_geometry(info.wcs, info.shape)
    if not np.isfinite([*corners.ravel(), radius]).all():
        fault = FileError(
            "its corners have no positions",
            reason="bad-wcs",
            remedy="correct its header, or get the file again from the archive",
            path=path,
        )
        return _refused(info.key, fault.reason, str(fault))
    return {"frame": asdict(info) | {"corners": corners.ravel().tolist(), "radius": radius}}


def _objects(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of objects as entries of its record."""
    table, refused = read_sources(path)
    content = sha256(path)
    listed = [_refused(one.key, one.reason, one.message) for one in refused]
    for row in table.to_dict("records"):
        listed.append({"object": {str(name): value for name, value in row.items()} | {"sha256": content}})
    return listed


def _beside(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time of the files that are read together with another; −1 for what is missing."""
    return {path: list(_stamp(path) or (-1, -1)) for path in paths}


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _rejected(record: Record, reason: str, message: str) -> Record:
    kept = {key: record[key] for key in _ALWAYS}
    return kept | {"reject": {"reason": reason, "message": message}}


def unexpected(path: str, error: Exception) -> str:
    """Return the ledger's one-line message for an exception that no reader foresaw."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{shown(path)}: cannot be read ({text}); fetch the file again"


def scan(
    files: Sequence[str],
    cache: Path,
    run: Runner,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    tables: frozenset[str] = frozenset(),
) -> dict[str, Record]:
    """Recognise all files, taking from the cache those whose size and time have not changed.

    Parameters
    ----------
    files : sequence of str
        From `walk`.
    cache : path
        File of lines, each a record in JSON, a tab and its checksum; grows as chunks of files are done.
    run : callable
        ``run(function, tasks)`` yields the results as they come.
    progress : callable, optional
        ``(done, total, what)``.
    tables : frozenset of str
        Paths of tables of objects.

    Returns
    -------
    dict
        A record for each path; `sort_out` makes a `Scan` of them.
    """
    known = {record["path"]: record for record in _remembered(cache)}
    records: dict[str, Record] = {}
    new: list[str] = []
    readers = added()
    more = marks_of(readers)
    for path in files:
        record = known.get(path)
        if record is not None and is_unchanged(record) and _is_read_alike(record, more, tables):
            records[path] = record
        else:
            new.append(path)
    chunks = [
        Look(tuple(new[start : start + CHUNK]), readers, tables & {*new[start : start + CHUNK]})
        for start in range(0, len(new), CHUNK)
    ]
    cache.parent.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(len(records), len(files), "recognising files")
    for found in run(look, chunks):
        records |= {record["path"]: record for record in found}
        _append(cache, found)
        if progress is not None:
            progress(len(records), len(files), "recognising files")
    return records


def _append(cache: Path, records: Iterable[Record]) -> None:
    with writing(cache):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("ab+") as file:
            # A line that a killed build left half-written must not swallow the next one.
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            for record in records:
                line = json.dumps(record, allow_nan=False).encode()
                file.write(line + b"\t" + _mark(line) + b"\n")


def _mark(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode()


def _is_read_alike(record: Record, more: list[str], tables: Container[str]) -> bool:
    """Tell whether a remembered record is what looking again would give, with the readers there are now."""
    if (record["path"] in tables) != (record["reader"] == TABLE):
        return False
    # A reader that has come may claim any file, and one that has gone reads none.
    return bool(record["more"] == more)


def remember(cache: Path, records: dict[str, Record], rejects: Iterable[Reject]) -> None:
    """Turn what failed when it was read in full into rejects, here and in the cache."""
    failed: dict[str, dict[str, Reject]] = {}
    for reject in rejects:
        failed.setdefault(reject.path, {})[reject.key] = reject
    changed = {}
    for path, by_key in failed.items():
        record = records[path]
        listed = []
        for entry in record["records"]:
            ((kind, fields),) = entry.items()
            reject_now = None if kind == "refused" else by_key.get(fields["key"])
            if reject_now is not None:
                entry = _refused(reject_now.key, reject_now.reason, reject_now.message)
            listed.append(entry)
        changed[path] = record | {"records": listed}
    records |= changed
    _append(cache, changed.values())


def names_of(record: Record) -> list[str]:
    """Return the names of what a file holds: frame_id, spectrum_id, and ``source`` with its id."""
    return [name for entry in record.get("records", ()) if (name := _name_of(entry)) is not None]


def keys_of(record: Record) -> list[str]:
    """Return the keys of all that a file holds."""
    return [fields["key"] for entry in record.get("records", ()) for fields in entry.values()]


def _name_of(entry: Mapping[str, Mapping[str, Any]]) -> str | None:
    for kind, key in (("frame", "frame_id"), ("spectrum", "spectrum_id")):
        if kind in entry:
            return str(entry[kind][key])
    return f"source {entry['object']['source_id']}" if "object" in entry else None


def _arcsec(place: tuple[float, float], fields: Mapping[str, Any]) -> float:
    """Return how far from a position that of a row is."""
    one, other = unit_vectors([place[0], fields["ra"]], [place[1], fields["dec"]])
    return float(3600 * np.degrees(2 * np.arcsin(np.linalg.norm(one - other) / 2)))


def is_unchanged(record: Record) -> bool:
    """Tell whether the file, and those read together with it, are there as the scan saw them."""
    # Permissions and failing disks change without a trace in size and time.
    if record.get("reject", {}).get("reason") == "unreadable":
        return False
    return changed(record) is None


def changed(record: Record) -> str | None:
    """Return which of a file and those read together with it is not as the scan saw it; None if all are."""
    if _stamp(record["path"]) != (record["size"], record["mtime_ns"]):
        return str(record["path"])
    seen = record["beside"].items()
    return next((path for path, then in seen if list(_stamp(path) or (-1, -1)) != then), None)


def _remembered(cache: Path) -> Iterator[Record]:
    try:
        lines = cache.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            yield read_line(line)
        except ValueError:
            continue


def read_line(line: bytes) -> Record:
    """Return the record that a line of the scan's memory holds.

    Raises
    ------
    ValueError
        If it is not as it was written.
    """
    content, _, mark = line.rpartition(b"\t")
    if mark != _mark(content):
        raise ValueError("it differs from its own checksum")
    record = parse_json(content)
    if not record.keys() >= {*_ALWAYS}:
        raise ValueError("it is no record of a file")
    return record


def records_of(sources: Iterable[Source], readers: Sequence[Reader]) -> list[Record]:
    """Return the records that `sort_out` made some sources of, without what else their files hold.

    Parameters
    ----------
    sources : iterable of FrameSource, SpectrumSource or ObjectSource
    readers : sequence of Reader
        Those that were there and are not built in.
    """
    found: dict[str, Record] = {}
    more = marks_of(readers)
    for source in sources:
        file = source.file
        beside = {path: list(seen) for path, *seen in file.beside}
        empty = {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns, "reader": file.reader}
        record = found.setdefault(file.path, empty | {"beside": beside, "more": more, "records": []})
        if isinstance(source, FrameSource):
            place = {"corners": list(source.corners), "radius": source.radius}
            entry = {"frame": asdict(source.info) | place}
        elif isinstance(source, SpectrumSource):
            entry = {"spectrum": asdict(source.info)}
        else:
            entry = {"object": {key: value for key, value in asdict(source).items() if key != "file"}}
        record["records"].append(entry)
    return [found[path] for path in sorted(found)]


def sort_out(records: dict[str, Record], not_files: Iterable[Reject], standing: Container[str] = ()) -> Scan:
    """Split the records by kind; of several with the same frame, spectrum or source one stays.

    Parameters
    ----------
    records : dict
        By path.
    not_files : iterable of Reject
        More rejects.
    standing : container of str
        Paths of files that a cube holds already: they stay before others, then the first path does.
    """
    sorter = _Sorter(list(not_files))
    for path in sorted(records, key=lambda path: (path not in standing, path)):
        sorter.add(records[path])
    return sorter.scan()


class _Sorter:
    """Takes records in the order of their rank and keeps the first of each name."""

    def __init__(self, rejects: list[Reject]) -> None:
        self.rejects = rejects
        self.frames: list[FrameSource] = []
        self.spectra: list[SpectrumSource] = []
        self.objects: list[ObjectSource] = []
        self.partners: list[str] = []
        self.asked = len(rejects)
        self.kept: dict[str, str] = {}
        self.places: dict[str, tuple[float, float]] = {}
        self.doubled: set[str] = set()

    def add(self, record: Record) -> None:
        path = record["path"]
        if "partner_of" in record:
            self.partners.append(path)
        elif "reject" in record:
            self.asked += 1
            self.rejects.append(Reject(path, record["reject"]["reason"], record["reject"]["message"]))
        else:
            self.asked += len(record["records"])
            beside = tuple((other, *seen) for other, seen in sorted(record["beside"].items()))
            file = Stamp(path, record["size"], record["mtime_ns"], record["reader"], beside)
            for entry in record["records"]:
                self._add(file, entry)

    def _add(self, file: Stamp, entry: dict[str, dict[str, Any]]) -> None:
        ((kind, given),) = entry.items()
        fields = dict(given)
        name = _name_of(entry)
        if name is None:
            self.rejects.append(Reject(file.path, fields["reason"], fields["message"], fields["key"]))
            return
        if name in self.kept:
            other = self.kept[name]
            reason, where = "duplicate", "twice; keep one"
            if other != file.path:
                where = f"as {shown(other)} does; keep one of the two"
            if kind == "object" and (apart := _arcsec(self.places[name], fields)) > MATCH_ARCSEC:
                # Numbers of rows, most likely: two objects, of which neither is the other's repetition.
                reason = "same-name"
                where = f"{apart:.3g}″ from that of {shown(other)}; give each object a name of its own"
            message = f"{shown(file.path)}: holds {name}, {where}"
            self.rejects.append(Reject(file.path, reason, message, fields["key"]))
            self.doubled.add(other)
            return
        if kind == "object":
            self.places[name] = fields["ra"], fields["dec"]
        self.kept[name] = file.path
        if kind == "frame":
            corners, radius = tuple(fields.pop("corners")), fields.pop("radius")
            fields |= {"shape": tuple(fields["shape"]), "partners": tuple(fields["partners"])}
            self.frames.append(FrameSource(file, FrameInfo(**fields), corners, radius))
        elif kind == "spectrum":
            fields |= {"partners": tuple(fields["partners"])}
            self.spectra.append(SpectrumSource(file, SpectrumInfo(**fields)))
        else:
            self.objects.append(ObjectSource(file, **fields))

    def scan(self) -> Scan:
        self.frames.sort(key=lambda one: (one.file.path, one.info.key))
        self.spectra.sort(key=lambda one: (one.file.path, one.info.key))
        self.objects.sort(key=lambda one: (one.file.path, int(one.key)))
        self.rejects.sort(key=lambda one: (one.path, one.key))
        return Scan(
            self.frames,
            self.spectra,
            self.objects,
            self.rejects,
            sorted(self.partners),
            self.asked,
            frozenset(self.doubled),
        )
