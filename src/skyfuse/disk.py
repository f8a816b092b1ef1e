"""Files that appear whole or not at all, folders with one writer, JSON of the stores, hashes of files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyfuse.errors import StoreError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_DIGITS = 308
"""Characters of a whole number at most: any that is longer may lie beyond float64."""


@contextmanager
def replaced(path: Path, *, alone: bool = False, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its name once it is complete and flushed to disk.

    Parameters
    ----------
    path : Path
        Final place; its folder is created. It keeps its old content if the block raises.
    alone : bool
        Nobody else writes it: the temporary name is always the same, so that what a killed run left is
        written over.
    flush : bool
        Wait until the disk has it. Needless where the next run makes again what a power cut took.

    Yields
    ------
    Path
        Where to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random rather than the process's number: the same number may run on several machines of a cluster.
    word = "part" if alone else f"{secrets.token_hex(6)}.tmp"
    partial = path.with_name(f".{path.name}.{word}")
    try:
        with named(path):
            yield partial
            if flush:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if flush:
        # The rename itself lives in the folder's entry.
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named(place: str | Path) -> Iterator[None]:
    """Give what fails on a full disk the name of what is written: it fails in calls that know no names.

    Parameters
    ----------
    place : str or Path
        A file, or the folder where several are written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(place)
        raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tell of a disk that cannot be written, as a full one, by the file or folder that is meant.

    Raises
    ------
    StoreError
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})",
            remedy="make room on its disk or give permission, then run the same command again to go on",
            path=place,
        ) from error


class BusyError(StoreError):
    """Another process writes the folder."""


@contextmanager
def locked(folder: Path, work: str, what: str = "folder") -> Iterator[None]:
    """Hold a folder against a second writer; the system lets go when the process ends, however it ends.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    work : str
        What writes it, in one word, e.g. ``study``.
    what : str
        What it is.

    Raises
    ------
    UsageError
        If it is a file.
    StoreError
        If it cannot be made.
    BusyError
        If another writer holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", remedy="give a folder", path=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", remedy="give a folder that you may write", path=folder
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another {work} writes this {what}", remedy="wait until it ends or stop it", path=folder
            ) from error
        except OSError:
            pass  # Some cluster file systems have no locks; then the user has to see to it.
        yield
    finally:
        os.close(descriptor)


def is_of_disk(error: BaseException | None) -> bool:
    """Tell whether SQLite failed for the disk, as a full one, and not for what its file holds."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(
        ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
    )


def dumps(content: Any) -> str:
    """Return `content` as the stores write JSON: sorted, indented, NaN refused."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        # The name of a file may hold bytes that are no UTF-8.
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return text


def names_file(path: Path) -> bool:
    """Tell whether a name in a folder is that of a file, or of a link that has lost its file."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON (NaN refused), whole or not at all."""
    text = dumps(content)
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a store, which holds an object.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    remedy = "make it again with the command that wrote it"
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror or error})", remedy=remedy, path=path) from error
    except ValueError as error:
        raise StoreError(f"cannot be read: it is damaged ({error})", remedy=remedy, path=path) from error


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table of a store.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    # Damage makes the libraries raise whatever their parsers stumble over.
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(
            f"cannot be read ({said})", remedy="make it again with the command that wrote it", path=path
        ) from error


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the object that JSON of a store holds.

    Raises
    ------
    ValueError
        If it is anything else, no UTF-8, holds an entry twice, or a number beyond float64.
    """
    try:
        # Written without byte order marks and NaN: whatever has them was not written here.
        found = json.loads(
            content.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_real,
            parse_int=_whole,
            object_pairs_hook=_each_once,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:40]} is too large a number")
    return int(text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an entry stands there twice")
    return entries


def json_sha256(content: Any) -> str:
    """Return the SHA-256 of content as JSON, whatever the order of its keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
