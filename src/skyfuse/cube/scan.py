"""Inputs of a build: walking folders, recognising files by their headers, remembering what was recognised."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyfuse.cube.cutout import frame_geometry
from skyfuse.errors import FileError, UsageError
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
            str(path), "unreadable", f"{path}: {fault}; remove it or put the file there"
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
        One JSON-ready record a file, in order: ``path``, ``size``, ``mtime_ns`` and one of ``frame``,
        ``spectrum``, ``reject``.
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
    return f"{path}: cannot be read ({text}); fetch the file again"


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
        File of JSON lines, one a record; grows as chunks of files are done.
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
        if record is not None and _unchanged(record):
            records[path] = record
        else:
            new.append(path)
    chunks = [new[start : start + CHUNK] for start in range(0, len(new), CHUNK)]
    cache.parent.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(len(records), len(files), "recognising files")
    with cache.open("a", encoding="utf-8") as file:
        # A line that a killed build left half-written must not swallow the next one.
        file.write("\n")
        for found in run(look, chunks):
            for record in found:
                records[record["path"]] = record
                file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            if progress is not None:
                progress(len(records), len(files), "recognising files")
    return records


def remember(cache: Path, records: dict[str, Record], rejects: Iterable[Reject]) -> None:
    """Turn the records of files that failed when read in full into rejects, here and in the cache."""
    with cache.open("a", encoding="utf-8") as file:
        for reject in rejects:
            records[reject.path] = _rejected(records[reject.path], reject.reason, reject.message)
            file.write(json.dumps(records[reject.path]) + "\n")


def _unchanged(record: Record) -> bool:
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
        text = cache.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"path", "size", "mtime_ns"} <= record.keys():
            yield record


def sort_out(records: dict[str, Record], not_files: Iterable[Reject]) -> Scan:
    """Split the records by kind; of several files with the same frame or spectrum the first path stays."""
    rejects = list(not_files)
    frames: list[FrameSource] = []
    spectra: list[SpectrumSource] = []
    kept: dict[str, str] = {}
    doubled: set[str] = set()
    asked = len(records) + len(rejects)
    for path in sorted(records):
        record = records[path]
        if "reject" in record:
            rejects.append(Reject(path, record["reject"]["reason"], record["reject"]["message"]))
            continue
        name = record["frame"]["frame_id"] if "frame" in record else record["spectrum"]["spectrum_id"]
        if name in kept:
            message = f"{path}: holds {name}, as {kept[name]} does; keep one of the two"
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
    rejects.sort(key=lambda reject: reject.path)
    return Scan(frames, spectra, rejects, asked, frozenset(doubled))
