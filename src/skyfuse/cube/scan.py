"""Inputs of a build: walking folders, recognising files by their headers, remembering what was recognised."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyfuse.cube.cutout import frame_geometry
from skyfuse.disk import parse_json
from skyfuse.errors import FileError, StoreError, UsageError, shown
from skyfuse.survey.recognise import recognise
from skyfuse.survey.records import FrameInfo, SpectrumInfo

CHUNK = 64
"""Files that one scan task looks at."""

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_FITS_LIKE = (".fits", ".fit", ".fits.bz2", ".fits.gz", ".fit.gz", ".fits.fz", ".fit.fz")


@dataclass(frozen=True, slots=True)
class Reject:
    """An input that the cube does not hold: its path, the ledger's word for why, and the message."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FrameSource:
    """A frame's file as it was at the scan, what its header says, corners and radius (degrees)."""

    path: str
    size: int
    mtime_ns: int
    info: FrameInfo
    corners: tuple[float, ...]
    radius: float


@dataclass(frozen=True, slots=True)
class SpectrumSource:
    """A spectrum's file as it was at the scan, and what its header says."""

    path: str
    size: int
    mtime_ns: int
    info: SpectrumInfo


@dataclass(frozen=True, slots=True)
class Scan:
    """What a build found in its inputs; each list is sorted by path."""

    frames: list[FrameSource]
    spectra: list[SpectrumSource]
    rejects: list[Reject]
    asked: int
    doubled: frozenset[str]
    """Paths of files that stay while others with the same frame or spectrum are rejected as duplicates."""


Record = dict[str, Any]
"""JSON-ready: ``path``, ``size``, ``mtime_ns`` and one of ``frame``, ``spectrum``, ``reject``."""

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


def look(paths: Sequence[str]) -> list[Record]:
    """Recognise files by their headers; a task of its own for any executor.

    Parameters
    ----------
    paths : sequence of str

    Returns
    -------
    list of dict
        A record for each file, in order.
    """
    return [_look(path) for path in paths]


def _look(path: str) -> Record:
    record: Record = {"path": path, "size": -1, "mtime_ns": -1}
    try:
        status = Path(path).stat()
        record |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        info = recognise(Path(path))
        if isinstance(info, FrameInfo):
            corners, radius = frame_geometry(info.wcs, info.shape)
            if not np.isfinite([*corners.ravel(), radius]).all():
                raise FileError(
                    "its corners have no positions",
                    reason="bad-wcs",
                    remedy="correct its header, or get the file again from the archive",
                    path=path,
                )
            record["frame"] = asdict(info) | {"corners": corners.ravel().tolist(), "radius": radius}
        else:
            record["spectrum"] = asdict(info)
        json.dumps(record, allow_nan=False)
    except FileError as error:
        return _rejected(record, error.reason, str(error))
    # Whatever a broken file makes a library raise must cost that file alone, never the build.
    except Exception as error:
        return _rejected(record, "unreadable", unexpected(path, error))
    return record


def _rejected(record: Record, reason: str, message: str) -> Record:
    kept = {key: record[key] for key in ("path", "size", "mtime_ns")}
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

    Returns
    -------
    dict
        A record for each path, see `look`; `sort_out` makes a `Scan` of them.
    """
    known = {record["path"]: record for record in _remembered(cache)}
    records: dict[str, Record] = {}
    new: list[str] = []
    for path in files:
        record = known.get(path)
        if record is not None and is_unchanged(record):
            records[path] = record
        else:
            new.append(path)
    chunks = [new[start : start + CHUNK] for start in range(0, len(new), CHUNK)]
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
    try:
        _append_lines(cache, records)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})",
            remedy="make room or give permission, then run the same command again to go on",
            path=cache,
        ) from error


def _append_lines(cache: Path, records: Iterable[Record]) -> None:
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


def remember(cache: Path, records: dict[str, Record], rejects: Iterable[Reject]) -> None:
    """Turn the records of files that failed when read in full into rejects, here and in the cache."""
    changed = {
        reject.path: _rejected(records[reject.path], reject.reason, reject.message) for reject in rejects
    }
    records |= changed
    _append(cache, changed.values())


def name_of(record: Record) -> str | None:
    """Return the frame_id or the spectrum_id of a file; None of a reject."""
    name = record["frame"]["frame_id"] if "frame" in record else record.get("spectrum", {}).get("spectrum_id")
    return None if name is None else str(name)


def is_unchanged(record: Record) -> bool:
    """Tell whether the file is there as the scan saw it, by size and time."""
    # Permissions and failing disks change without a trace in size and time.
    if record.get("reject", {}).get("reason") == "unreadable":
        return False
    try:
        status = Path(record["path"]).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (record["size"], record["mtime_ns"])


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
    if not {"path", "size", "mtime_ns"} <= record.keys():
        raise ValueError("it is no record of a file")
    return record


def record_of(source: FrameSource | SpectrumSource) -> Record:
    """Return the record that `sort_out` made a source of."""
    record: Record = {"path": source.path, "size": source.size, "mtime_ns": source.mtime_ns}
    if isinstance(source, FrameSource):
        shown = {"corners": list(source.corners), "radius": source.radius}
        return record | {"frame": asdict(source.info) | shown}
    return record | {"spectrum": asdict(source.info)}


def sort_out(records: dict[str, Record], not_files: Iterable[Reject], standing: Container[str] = ()) -> Scan:
    """Split the records by kind; of several files with the same frame or spectrum one stays.

    Parameters
    ----------
    records : dict
        By path.
    not_files : iterable of Reject
        More rejects.
    standing : container of str
        Paths of files that a cube holds already: they stay before others, then the first path does.
    """
    rejects = list(not_files)
    frames: list[FrameSource] = []
    spectra: list[SpectrumSource] = []
    kept: dict[str, str] = {}
    doubled: set[str] = set()
    asked = len(records) + len(rejects)
    for path in sorted(records, key=lambda path: (path not in standing, path)):
        record = records[path]
        if "reject" in record:
            rejects.append(Reject(path, record["reject"]["reason"], record["reject"]["message"]))
            continue
        name = str(name_of(record))
        if name in kept:
            message = f"{shown(path)}: holds {name}, as {shown(kept[name])} does; keep one of the two"
            rejects.append(Reject(path, "duplicate", message))
            doubled.add(kept[name])
            continue
        kept[name] = path
        if "frame" in record:
            fields = dict(record["frame"])
            corners, radius = tuple(fields.pop("corners")), fields.pop("radius")
            info = FrameInfo(**(fields | {"shape": tuple(fields["shape"])}))
            frames.append(FrameSource(path, record["size"], record["mtime_ns"], info, corners, radius))
        else:
            spectrum = SpectrumInfo(**record["spectrum"])
            spectra.append(SpectrumSource(path, record["size"], record["mtime_ns"], spectrum))
    for found in (rejects, frames, spectra):
        found.sort(key=lambda one: one.path)
    return Scan(frames, spectra, rejects, asked, frozenset(doubled))
