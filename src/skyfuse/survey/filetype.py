"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

HEAD = 4096
"""First bytes of a file by which its form is told."""

FITS, PARQUET, NUMPY, VOTABLE = "a FITS file", "a Parquet table", "a NumPy array", "a VOTable"

_MARKS = (
    (b"SIMPLE  =", FITS),
    (b"PAR1", PARQUET),
    (b"\x93NUMPY", NUMPY),
    (b"\x89HDF", "an HDF5 file"),
    (b"PK\x03\x04", "an Excel workbook or another ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
)


def form_of(head: bytes) -> str | None:
    """Return what a file that begins with these bytes is, None where nothing tells."""
    found = next((form for mark, form in _MARKS if head.startswith(mark)), None)
    if found is not None:
        return found
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as servers send with an error"
    if text.startswith((b"<?xml", b"<votable")):
        return VOTABLE if b"<votable" in text else "an XML document"
    return None
