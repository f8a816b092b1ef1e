"""A file's bytes: read whole, read when asked for, or decompressed, never more of them than a bound."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import math
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skyfuse.survey.fits.faults import bad_compression, cut_off, empty, too_large, unreadable

MOST_BYTES = 1 << 30
"""Bytes of the largest file that is read into memory, decompressed, where the caller sets no other bound."""

PIECE = 1 << 20
"""Bytes of a large file that are worked on at once."""

# How bzip2 and gzip begin: by what the bytes say, not by the name, since archives rename files both ways.
COMPRESSED = (b"BZh", b"\x1f\x8b")


class Scratch:
    """Memory that serves one file after another: fresh pages for a frame take as long as its calibration.

    What it gives holds until the same name is asked for again.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array with arbitrary content in the memory known by `name`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, np.uint8)
        return self._held[name][:size].view(dtype).reshape(shape)


class OnDisk:
    """A file's bytes as `memoryview` gives them, but read when asked for: gigabytes take no memory.

    It is not mapped, because a mapped file that another process cuts short ends this one.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileError
        ``unreadable`` or ``empty``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise unreadable(path, error) from error
        if not len(self):
            raise empty(path)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(len(self))
        pieces = []
        try:
            # One call gives 2 GiB at most, and less than asked for where the system likes.
            while start < stop and (piece := os.pread(self._descriptor, stop - start, start)):
                pieces.append(piece)
                start += len(piece)
        except OSError as error:
            raise unreadable(self._path, error) from error
        if start < stop:
            raise cut_off(self._path, "while it is read")
        return b"".join(pieces)

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes."""
        digest = hashlib.sha256(usedforsecurity=False)
        for at in range(0, len(self), PIECE):
            digest.update(self[at : at + PIECE])
        return digest.hexdigest()


def stamp(path: Path) -> tuple[int, int, int]:
    """Return by what a changed file is told: its inode, the time of its last change, and its size.

    Raises
    ------
    FileError
        ``unreadable``.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return status.st_ino, status.st_mtime_ns, status.st_size


def is_compressed(path: Path) -> bool:
    """Tell whether a file begins as those of bzip2 and gzip.

    Raises
    ------
    FileError
        ``unreadable``.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(3).startswith(COMPRESSED)
    except OSError as error:
        raise unreadable(path, error) from error


def read_bytes(path: Path, scratch: Scratch | None = None, most: int = MOST_BYTES) -> tuple[memoryview, str]:
    """Read a file whole, decompressing ``.bz2`` and ``.gz``.

    Parameters
    ----------
    path : Path
    scratch : Scratch, optional
        Where the bytes of a plain file go.
    most : int
        Bytes of the largest file that is read; of a compressed one no more is decompressed.

    Returns
    -------
    content : memoryview of bytes
        Decompressed.
    sha256 : str
        Of the bytes as they lie on disk.

    Raises
    ------
    FileError
        ``unreadable``, ``empty``, ``truncated`` or ``too-large``.
    """
    try:
        with path.open("rb", buffering=0) as file:
            room = os.fstat(file.fileno()).st_size
            if room > most:
                raise too_large(path, f"it has {room} bytes", most)
            content = (scratch or Scratch()).array("content", (room,), np.uint8).data
            size = 0
            while count := file.readinto(content[size:]):
                size += count
    except OSError as error:
        raise unreadable(path, error) from error
    if not size:
        raise empty(path)
    content = content[:size]
    sha256 = hashlib.sha256(content, usedforsecurity=False).hexdigest()
    head = bytes(content[:3])
    if head.startswith(COMPRESSED):
        stream = decompressing(head, io.BytesIO(content))
        pieces, size = [], 0
        try:
            # Piece by piece, so that a small file that blows up to gigabytes stops at the bound.
            while piece := stream.read(PIECE):
                size += len(piece)
                if size > most:
                    raise too_large(path, f"it decompresses to over {most} bytes", most)
                pieces.append(piece)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise bad_compression(path, error) from error
        content = memoryview(b"".join(pieces))
    return content, sha256


def decompressing(head: bytes, file: io.RawIOBase | io.BytesIO) -> bz2.BZ2File | gzip.GzipFile:
    """Return a stream of what a compressed file holds."""
    return bz2.BZ2File(file) if head.startswith(b"BZh") else gzip.GzipFile(fileobj=file)
