"""What can be wrong with the bytes of a FITS file, each with its reason and remedy."""

from __future__ import annotations

from pathlib import Path

from skyfuse.errors import FileError

AGAIN = "get the file again from the archive"
"""Remedy where a file is not as its archive wrote it."""


def damaged(fault: str, path: Path) -> FileError:
    """Return the error of a file that is not as it was written."""
    return FileError(fault, reason="damaged", remedy=AGAIN, path=path)


def too_large(path: Path, fault: str, most: int) -> FileError:
    """Return the error of a file that is larger than it may be."""
    return FileError(
        f"{fault}, more than the {most >> 20} MiB that such a file may have",
        reason="too-large",
        remedy="leave it out, or get the file again if the archive's is smaller",
        path=path,
    )


def cut_off(path: Path, where: str) -> FileError:
    """Return the error of a file that ends too early."""
    return FileError(f"it ends {where}", reason="truncated", remedy=AGAIN, path=path)


def unreadable(path: Path, error: OSError) -> FileError:
    """Return the error of a file that the system does not give."""
    return FileError(
        f"it cannot be read ({error.strerror or error})",
        reason="unreadable",
        remedy="check that it exists and that you may read it",
        path=path,
    )


def empty(path: Path) -> FileError:
    """Return the error of a file without bytes."""
    return FileError("it is empty", reason="empty", remedy=AGAIN, path=path)


def bad_compression(path: Path, error: Exception) -> FileError:
    """Return the error of a file that does not decompress."""
    return FileError(
        f"its compressed data are damaged or cut off ({error})",
        reason="truncated",
        remedy=AGAIN,
        path=path,
    )
