"""Whether a downloaded file is what was asked for: its structure, its identity, its published checksum.

An archive's answer may be an error page with status 200, a file cut off with a length that agrees, or another
object's file. So what the readers need of a format is looked at before a file gets its name.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from skyfuse.errors import FileError
from skyfuse.fetch.bounds import MOST
from skyfuse.fetch.ledger import Wanted
from skyfuse.survey import fits
from skyfuse.survey.fits.faults import AGAIN

_CHUNK = 1 << 20
_ALGORITHMS = ("md5", "sha1", "sha256")
# HDUs of the shortest real file: one cut off exactly between two HDUs is valid FITS. `spec` has the primary
# header, COADD, SPECOBJ and SPZLINE, and more in its full form; `frame` has image, calibration vector, sky
# and astrometry (SDSS data model, pages of spec and frame).
_HDUS = {"spectrum": 4, "frame": 4}
_KINDS = {"spectrum": "fits", "frame": "fits", "image": "jpeg"}
_SUFFIXES = {".fits": "fits", ".csv": "csv"}
# How files of a format begin and end.
_MARKS = {"fits": (b"SIMPLE", b""), "jpeg": (b"\xff\xd8\xff", b"\xff\xd9")}


def check(path: Path, wanted: Wanted) -> str:
    """Check that a file is whole and is the one that was asked for.

    A published checksum that agrees vouches for the whole; else the structure is walked to the file's end,
    through any compression.

    Parameters
    ----------
    path : Path
        Where its bytes lie.
    wanted : Wanted
        What was asked for; the name in it tells the format of a table.

    Returns
    -------
    str
        Its checksum: of the published kind, else ``"sha256:…"``.

    Raises
    ------
    FileError
        With the reason ``empty``, ``html-page``, ``not-fits``, ``not-jpeg``, ``not-csv``, ``truncated``,
        ``wrong-hdus``, ``bad-values``, ``wrong-object``, ``wrong-size``, ``wrong-checksum`` or ``too-large``.
    """
    size = path.stat().st_size
    if not size:
        raise _fault(wanted, "empty", "it is empty")
    suffixes = [suffix.lower() for suffix in PurePosixPath(wanted.path).suffixes]
    name = next((suffix for suffix in reversed(suffixes) if suffix not in (".gz", ".bz2")), "")
    form = _KINDS.get(wanted.kind, _SUFFIXES.get(name, ""))
    algorithm, _, published = (wanted.checksum or "sha256:").partition(":")
    if algorithm not in _ALGORITHMS:
        raise _fault(wanted, "wrong-checksum", f"it has a checksum of an unknown kind, {algorithm[:40]!a}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
            if published.lower() == digest:
                header = fits.read_header(path) if form == "fits" and wanted.expect else None
            else:
                with _plain(file, wanted) as content:
                    header = _walk(content, form, wanted)
    except FileError as error:
        raise _fault(wanted, error.reason, error.fault) from error
    if header is not None:
        for key, value in wanted.expect.items():
            found = header.get(key)
            if not _same(found, value):
                raise _fault(wanted, "wrong-object", f"its {key} is {found}, asked was {value}")
    if wanted.bytes not in (None, size):
        raise _fault(wanted, "wrong-size", f"it has {size} bytes, the archive says {wanted.bytes}")
    if published and published.lower() != digest:
        raise _fault(wanted, "wrong-checksum", f"its {algorithm} is not the one that the archive publishes")
    return f"{algorithm}:{digest}"


@contextmanager
def _plain(file: BinaryIO, wanted: Wanted) -> Iterator[BinaryIO]:
    """Give the file decompressed: itself, or a nameless file beside it, so that no memory holds it."""
    file.seek(0)
    magic = file.read(3)
    file.seek(0)
    stream: bz2.BZ2File | gzip.GzipFile
    if magic == b"BZh":
        stream = bz2.BZ2File(file)
    elif magic[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=file)
    else:
        yield file
        return
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as plain:
        while True:
            try:
                piece = stream.read(_CHUNK)
            except (EOFError, OSError, zlib.error) as error:
                raise _fault(
                    wanted, "truncated", f"its compressed data are damaged or cut off ({error})"
                ) from error
            if not piece:
                break
            plain.write(piece)
            if plain.tell() > MOST[wanted.kind]:
                raise _fault(wanted, "too-large", f"it decompresses to over {MOST[wanted.kind]} bytes")
        plain.flush()
        yield plain


def _walk(file: BinaryIO, form: str, wanted: Wanted) -> fits.Header | None:
    """Walk through the structure of a plain file to its end; return the primary header of a FITS file."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise _fault(wanted, "empty", "it is empty when decompressed")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        opening = content[:1024].lstrip().lower()
        if b"<!doctype html" in opening or b"<html" in opening:
            raise _fault(wanted, "html-page", "it is a web page, not a file of the archive")
        begins, ends = _MARKS.get(form, (b"", b""))
        if content[: len(begins)] != begins:
            raise _fault(wanted, f"not-{form}", f"it does not begin as {form.upper()} does")
        if not content[-64:].rstrip(b"\r\n\t \0").endswith(ends):
            raise _fault(wanted, "truncated", f"it does not end as {form.upper()} does")
        if form == "fits":
            with memoryview(content) as view:
                found = fits.parse(view, Path(wanted.path))
            # FITS 4.0, section 3.1: whole blocks. A reader would not miss the padding, but it shows a cut.
            if size % fits.BLOCK:
                raise _fault(wanted, "truncated", f"it ends within a block of {fits.BLOCK} bytes")
            if len(found) < _HDUS.get(wanted.kind, 1):
                raise _fault(wanted, "wrong-hdus", f"it has {len(found)} HDUs, not {_HDUS[wanted.kind]}")
            return found[0].header
    file.seek(0)
    if form == "csv":
        _walk_csv(file, wanted)
    return None


def _walk_csv(file: BinaryIO, wanted: Wanted) -> None:
    """Require that all rows have as many fields as the first; SkyServer's and ECSV's ``#`` lines aside."""
    text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")
    try:
        rows = (row for row in csv.reader(text) if row and not row[0].startswith("#"))
        first = next(rows, [])
        for number, row in enumerate(rows, 2):
            if len(row) != len(first):
                raise _fault(
                    wanted, "truncated", f"row {number} has {len(row)} fields, the first has {len(first)}"
                )
    except csv.Error as error:
        raise _fault(wanted, "not-csv", f"it is no CSV table ({error})") from error
    finally:
        text.detach()
    if not first:
        raise _fault(wanted, "not-csv", "it has no row")


def _same(found: object, value: str | int | float) -> bool:
    """Tell whether a header's value is the expected one; a number may be written as text, and rounded."""
    if isinstance(value, str):
        return str(found).strip() == value.strip()
    try:
        return math.isclose(float(str(found)), value, rel_tol=1e-9)
    except ValueError:
        return False


def _fault(wanted: Wanted, reason: str, fault: str) -> FileError:
    return FileError(fault, reason=reason, remedy=AGAIN, path=wanted.path)
