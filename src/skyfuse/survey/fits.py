"""FITS headers and tables straight from bytes: what is needed of the standard to read survey files fast.

Opening a lite spectrum with astropy takes about 7 ms, nearly all of it spent on the 126 to 236 columns of a
table of which seven values are needed. These few functions read the same values in well under 1 ms.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import math
import mmap
import os
import re
import warnings
import weakref
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits as astropy_fits
from numpy.typing import DTypeLike, NDArray

from skyfuse.errors import FileError
from skyfuse.survey.filetype import form_of

BLOCK = 2880
CARD = 80
MOST_BYTES = 1 << 30
"""Bytes of the largest file that is read into memory, decompressed, where the caller sets no other bound."""

_MAX_HEADER = 1000 * BLOCK
_MOST_HDUS = 2000
_PIECE = 1 << 20
_PRINTABLE = bytes(range(0x20, 0x7F))
_END = b"END".ljust(CARD)
_BITPIX = (8, 16, 32, 64, -32, -64)
# Keywords on which the place and the meaning of data hang.
_STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|BSCALE|BZERO|T(FORM|TYPE|DIM|SCAL|ZERO|NULL)\d+"
)
# numpy's big-endian code and the bytes of one element for each letter of TFORMn (FITS 4.0, table 18).
_FORMATS = {
    "L": ("S1", 1),
    "B": (">u1", 1),
    "I": (">i2", 2),
    "J": (">i4", 4),
    "K": (">i8", 8),
    "A": ("S", 1),
    "E": (">f4", 4),
    "D": (">f8", 8),
    "C": (">c8", 8),
    "M": (">c16", 16),
    "P": (">i4", 8),
    "Q": (">i8", 16),
}
_TFORM = re.compile(r"(\d*)([LXBIJKAEDCM])(?:\d*|:.*)|([01]?)([PQ])[LXBIJKAEDCM](?:\(\d*\))?")
_QUOTED = re.compile(r" +'(?:[^']|'')*' *(?:/.*)?")
_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?")
# What the standard keeps for columns, less TTYPE and TFORM, which are checked where they are read.
_OF_COLUMNS = re.compile(rb"T(?:BCOL|DIM|DISP|NULL|SCAL|UNIT|ZERO|CTYP|CUNI|CRPX|CRVL|CDLT|RPOS)\d+ *=")
_VALUE = re.compile(
    rb" +(?:'(?:[^']|'')*'|[TF]|%(n)s|\( *%(n)s *, *%(n)s *\))? *(?:/.*)?" % {b"n": _FLOAT.pattern.encode()}
)
# How bzip2 and gzip begin: by what the bytes say, not by the name, since archives rename files both ways.
_COMPRESSED = (b"BZh", b"\x1f\x8b")
_NO_DATA = b"".join(
    card.ljust(CARD)
    for card in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
    )
)
_NO_DATA = (_NO_DATA + _END).ljust(BLOCK)
_AGAIN = "get the file again from the archive"


class Header(Mapping[str, str | float | int | bool]):
    """Keyword to value of one header; each card is parsed when it is asked for, since most never are.

    Parameters
    ----------
    content : bytes
        Whole cards.

    Attributes
    ----------
    contradicted : frozenset of str
        Keywords that stand there more than once, with different values.
    """

    def __init__(self, content: bytes) -> None:
        text = content.decode("latin-1")
        # Backwards, so that of a repeated keyword the first card holds, as in astropy.
        places = [at for at in range(len(text) - CARD, -1, -CARD) if text[at + 8] == "="]
        # With the blank after the sign: what stands in its place makes no value.
        self._cards = {text[at : at + 8].rstrip(): text[at + 9 : at + CARD] for at in places}
        self.contradicted: frozenset[str] = frozenset()
        if len(self._cards) < len(places):
            values = {(text[at : at + 8].rstrip(), _value(text[at + 9 : at + CARD])) for at in places}
            counts = Counter(key for key, _ in values)
            self.contradicted = frozenset(key for key, count in counts.items() if count > 1)

    def __getitem__(self, key: str) -> str | float | int | bool:
        return _value(self._cards[key])

    def __contains__(self, key: object) -> bool:
        return key in self._cards

    def __len__(self) -> int:
        return len(self._cards)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def is_quoted(self, key: str) -> bool:
        """Return whether a value is written as text, with nothing but a comment behind it."""
        return _QUOTED.fullmatch(self._cards[key]) is not None

    def quoted(self, key: str) -> str:
        """Return a value that is written as text, see `is_quoted`; empty where there is none."""
        return str(self[key]) if key in self and self.is_quoted(key) else ""

    def replaced(self, names: Mapping[str, str]) -> Header:
        """Return a copy in which each key of `names` has the value of another keyword."""
        copy = Header(b"")
        copy._cards = self._cards | {key: self._cards[other] for key, other in names.items()}
        copy.contradicted = self.contradicted
        return copy

    def over(self, other: Header, only: Container[str] | None = None) -> Header:
        """Return a copy in which keywords that this header lacks, or `only` some, have the other's values."""
        copy = Header(b"")
        taken = {key: card for key, card in other._cards.items() if only is None or key in only}
        copy._cards = taken | self._cards
        copy.contradicted = self.contradicted | (other.contradicted & (taken.keys() - self._cards.keys()))
        return copy


@dataclass(frozen=True, slots=True)
class HDU:
    """One header and the place of its data in the file's bytes.

    Attributes
    ----------
    header : mapping
        Keyword to value.
    start, stop, end : int
        First byte of the data, the byte after their last, and the byte after their padding.
    """

    header: Header
    start: int
    stop: int
    end: int


def _value(card: str) -> str | float | int | bool:
    """Return the value of what follows ``KEYWORD =`` on a card."""
    card = card.strip()
    if card[:1] == "'":
        if card.count("'") == 2:
            return card[1 : card.index("'", 1)].rstrip()
        end = card.find("'", 1)
        while end > 0 and card[end + 1 : end + 2] == "'":
            end = card.find("'", end + 2)
        return card[1 : end if end > 0 else None].replace("''", "'").rstrip()
    word = card.split("/", 1)[0].strip()
    if word in ("T", "F"):
        return word == "T"
    if _INTEGER.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word):
        return float(word.replace("D", "E"))
    return word


def number(header: Header, key: str, path: Path) -> float:
    """Return a header value as a number, also where it is written as text (``EXPTIME = '53.9'``).

    Raises
    ------
    FileError
        ``missing-keyword`` where it is absent, ``bad-values`` where it is no finite number.
    """
    value = _number(header, key, path)
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _not(header, key, path, "a finite number")
    return value


def integer(header: Header, key: str, path: Path, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """Return a header value as an integer from `least` to `most`, never rounded on the way; see `number`.

    Raises
    ------
    FileError
        ``missing-keyword``, or ``bad-values`` where it is no such integer.
    """
    value = _number(header, key, path)
    if isinstance(value, float) and not value.is_integer():
        raise _not(header, key, path, "an integer")
    value = int(value)
    if not least <= value <= most:
        raise _not(header, key, path, f"from {least} to {most}")
    return value


def _number(header: Header, key: str, path: Path) -> int | float:
    if key not in header:
        raise FileError(f"its header has no {key}", reason="missing-keyword", remedy=_AGAIN, path=path)
    value = header[key]
    if isinstance(value, str):
        value = _value(value)
    if isinstance(value, bool | str):
        raise _not(header, key, path, "a finite number")
    return value


def _not(header: Header, key: str, path: Path, wanted: str) -> FileError:
    return FileError(
        f"its header says {key} = {header[key]!r}, not {wanted}",
        reason="bad-values",
        remedy=_AGAIN,
        path=path,
    )


def text(header: Header, key: str, path: Path) -> str:
    """Return a header value that is text, without blanks around it.

    Raises
    ------
    FileError
        ``missing-keyword`` where it is absent, ``bad-values`` where it is no text.
    """
    if key not in header:
        raise FileError(f"its header has no {key}", reason="missing-keyword", remedy=_AGAIN, path=path)
    value = header[key]
    if not isinstance(value, str) or not header.is_quoted(key):
        raise _not(header, key, path, "text")
    return value.strip()


def require_one_voice(header: Header, path: Path) -> None:
    """Refuse a header that gives a keyword twice, with different values: which one holds cannot be known.

    Raises
    ------
    FileError
        ``damaged``.
    """
    if header.contradicted:
        raise damaged(f"its header gives {min(header.contradicted)} twice, with different values", path)


def require_plain_image(header: Header, path: Path) -> None:
    """Refuse an image of floats that BSCALE and BZERO scale: its pixels are not what they say.

    Raises
    ------
    FileError
        ``wrong-hdus``.
    """
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0:
        raise FileError(
            "its image is scaled (BSCALE, BZERO)",
            reason="wrong-hdus",
            remedy="write it unscaled, or get the file again from the archive",
            path=path,
        )


def require_date(mjd: float, path: Path) -> float:
    """Return a time, MJD, or refuse one that is none of a digital survey: before 1968 or after 2132.

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if not 40_000 <= mjd < 100_000:
        raise FileError(
            f"its time, MJD {mjd}, is not from 40000 to 100000",
            reason="bad-values",
            remedy=_AGAIN,
            path=path,
        )
    return mjd


def printable(text: bytes, path: Path) -> str:
    """Return a text of a table, which is printable ASCII (FITS 4.0, section 7.3.3.1).

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if text.translate(None, _PRINTABLE):
        raise FileError(
            f"a text of a table holds bytes that are no printable ASCII: {text[:40]!r}",
            reason="bad-values",
            remedy=_AGAIN,
            path=path,
        )
    return text.decode("ascii")


def position(header: Header, ra: str, dec: str, path: Path) -> tuple[float, float]:
    """Return the right ascension, in [0, 360), and declination that two keywords give, degrees.

    Raises
    ------
    FileError
        ``missing-keyword``, or ``bad-values`` where they are not on the sky.
    """
    at = number(header, ra, path), number(header, dec, path)
    if not (0 <= at[0] <= 360 and -90 <= at[1] <= 90):
        raise FileError(
            f"its position {at} is not on the sky",
            reason="bad-values",
            remedy=_AGAIN,
            path=path,
        )
    return at[0] % 360.0, at[1]


def survey(header: Header, name: str) -> str:
    """Return the name of the survey, or ``mock`` where TELESCOP says that no telescope took the file."""
    return "mock" if str(header.get("TELESCOP", "")).strip().upper() == "MOCK" else name


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
            raise _unreadable(path, error) from error
        if not len(self):
            raise _empty(path)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(len(self))
        try:
            content = os.pread(self._descriptor, max(stop - start, 0), start)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if len(content) < stop - start:
            raise _cut_off(self._path, "while it is read")
        return content

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes."""
        digest = hashlib.sha256(usedforsecurity=False)
        for at in range(0, len(self), _PIECE):
            digest.update(self[at : at + _PIECE])
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
        raise _unreadable(path, error) from error
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
            return file.read(3).startswith(_COMPRESSED)
    except OSError as error:
        raise _unreadable(path, error) from error


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
                raise _too_large(path, f"it has {room} bytes", most)
            content = (scratch or Scratch()).array("content", (room,), np.uint8).data
            size = 0
            while count := file.readinto(content[size:]):
                size += count
    except OSError as error:
        raise _unreadable(path, error) from error
    if not size:
        raise _empty(path)
    content = content[:size]
    sha256 = hashlib.sha256(content, usedforsecurity=False).hexdigest()
    head = bytes(content[:3])
    if head.startswith(_COMPRESSED):
        stream = _decompressing(head, io.BytesIO(content))
        pieces, size = [], 0
        try:
            # Piece by piece, so that a small file that blows up to gigabytes stops at the bound.
            while piece := stream.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise _too_large(path, f"it decompresses to over {most} bytes", most)
                pieces.append(piece)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise _bad_compression(path, error) from error
        content = memoryview(b"".join(pieces))
    return content, sha256


def _decompressing(head: bytes, file: io.RawIOBase | io.BytesIO) -> bz2.BZ2File | gzip.GzipFile:
    """Return a stream of what a compressed file holds."""
    return bz2.BZ2File(file) if head.startswith(b"BZh") else gzip.GzipFile(fileobj=file)


def read(
    path: Path, scratch: Scratch | None = None, most: int = MOST_BYTES
) -> tuple[memoryview, list[HDU], str]:
    """Read and check a FITS file whole: plain, in ``.bz2`` or ``.gz``, or tile-compressed (``.fz``).

    Parameters
    ----------
    path, scratch, most
        As in `read_bytes`.

    Returns
    -------
    content : memoryview of bytes
        The file as it stands uncompressed: of a tile-compressed one, its image is HDU 0.
    hdus : list of HDU
    sha256 : str
        Of the bytes as they lie on disk.

    Raises
    ------
    FileError
        As `read_bytes` and `parse`.
    """
    content, sha256 = read_bytes(path, scratch, most)
    hdus = parse(content, path)
    if len(hdus) > 1 and hdus[0].header.get("NAXIS") == 0 and hdus[1].header.get("ZIMAGE") is True:
        content = memoryview(_unpacked(content, hdus, path, most))
        hdus = parse(content, path)
    return content, hdus, sha256


def _unpacked(content: memoryview, hdus: list[HDU], path: Path, most: int) -> bytes:
    """Return a tile-compressed file (FITS 4.0, section 10) with its images plain, the first as HDU 0."""
    images = [number for number, hdu in enumerate(hdus) if hdu.header.get("ZIMAGE") is True]
    size = sum(_data_size(unpacked_header(hdus[number].header), path) for number in images)
    if size > most:
        raise _too_large(path, f"its images unpack to {size} bytes", most)
    plain = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with astropy_fits.open(io.BytesIO(content), memmap=False) as packed:
                for number, hdu in enumerate(hdus[1:], 1):
                    if number in images:
                        header = packed[number].header.copy()
                        # Those of the image before; quantised values are others.
                        for key in ("CHECKSUM", "DATASUM"):
                            header.remove(key, ignore_missing=True)
                        image = packed[number].data
                        if plain.tell():
                            alone = io.BytesIO()
                            astropy_fits.ImageHDU(image, header).writeto(alone)
                            # Less the empty primary HDU that astropy puts before it.
                            plain.write(alone.getbuffer()[BLOCK:])
                        else:
                            astropy_fits.PrimaryHDU(image, header).writeto(plain)
                    else:
                        plain.write(content[hdus[number - 1].end : hdu.end])
    # Whatever damaged data make the library raise.
    except Exception as error:
        text = " ".join(str(error).split())
        raise damaged(f"its tile-compressed image does not unpack ({text})", path) from error
    return plain.getvalue()


def unpacked_header(header: Header) -> Header:
    """Return the header of a tile-compressed image with the size that the image has unpacked."""
    return header.replaced({key[1:]: key for key in header if re.fullmatch(r"ZBITPIX|ZNAXIS\d*", key)})


def read_mapped(path: Path) -> tuple[memoryview, list[HDU], str]:
    """Check a FITS file whole and map it; what the system cannot map, compressed files, goes to memory.

    Parameters
    ----------
    path : Path

    Returns
    -------
    content : memoryview of bytes
        Decompressed; tile-compressed images in it stay as they are, see `image`.
    hdus : list of HDU
    sha256 : str
        Of the bytes as they lie on disk.

    Raises
    ------
    FileError
        As `read_bytes` and `parse`.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise _empty(path)
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise _unreadable(path, error) from error
    if bytes(content[:3]).startswith(_COMPRESSED):
        content, sha256 = read_bytes(path)
    else:
        sha256 = hashlib.sha256(content, usedforsecurity=False).hexdigest()
    return content, parse(content, path), sha256


def image(content: memoryview, hdus: list[HDU], number: int, path: Path) -> NDArray[Any]:
    """Return the pixels of one HDU as they are meant: unpacked and scaled, NaN where they are blank.

    Parameters
    ----------
    content : memoryview of bytes
    hdus : list of HDU
    number : int
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``damaged`` if they do not unpack, ``too-large``.
    """
    size = _data_size(unpacked_header(hdus[number].header), path)
    if size > MOST_BYTES:
        raise _too_large(path, f"the image of HDU {number} has {size} bytes", MOST_BYTES)
    start = hdus[number - 1].end if number else 0
    alone = io.BytesIO(_NO_DATA * (number > 0) + bytes(content[start : hdus[number].end]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with astropy_fits.open(alone, memmap=False) as file:
                pixels = file[-1].data
    # Whatever damaged data make the library raise.
    except Exception as error:
        text = " ".join(str(error).split())
        raise damaged(f"the image of HDU {number} does not unpack ({text})", path) from error
    return np.asarray(pixels)


def read_header(path: Path) -> Header:
    """Read the primary header alone; of a compressed file no more is decompressed than it needs.

    Raises
    ------
    FileError
        ``unreadable``, ``empty``, ``not-fits``, ``damaged`` or ``truncated``.
    """
    return _read_headers(path, 1)[0]


def read_headers(path: Path) -> list[Header]:
    """Read the headers of all HDUs, passing over the data between them.

    A tile-compressed image (``.fz``) has the header that it has unpacked.

    Raises
    ------
    FileError
        As `read_header`.
    """
    return _read_headers(path, _MOST_HDUS)


def _read_headers(path: Path, count: int) -> list[Header]:
    """Read the first headers of a file; what is cut off behind them is for the full reading to find."""
    headers: list[Header] = []
    try:
        with path.open("rb", buffering=0) as raw:
            head = raw.read(BLOCK * 8)
            if not head:
                raise _empty(path)
            raw.seek(0)
            stream = _decompressing(head, raw) if head.startswith(_COMPRESSED) else raw
            content, at = b"", 0
            while True:
                try:
                    piece = stream.read(BLOCK * 8)
                except (EOFError, OSError, ValueError, zlib.error) as error:
                    raise _bad_compression(path, error) from error
                content += piece or b""
                # A file may end after a header, but not within one.
                while (at < len(content) or not headers) and (
                    end := _end_of_header(content, at, path, first=not headers, last=not piece)
                ):
                    header = _header(content[at:end], len(headers), path)
                    headers.append(unpacked_header(header) if header.get("ZIMAGE") is True else header)
                    if len(headers) == count:
                        return headers
                    at = end + -(-_data_size(header, path) // BLOCK) * BLOCK
                    if at > len(content):
                        # A damaged header may tell of more than any file can hold.
                        stream.seek(min(at - len(content), 1 << 40), os.SEEK_CUR)
                        content, at = b"", 0
                if not piece:
                    return headers
    except OSError as error:
        raise _unreadable(path, error) from error


def parse(content: memoryview | OnDisk, path: Path, *, sums: bool = True) -> list[HDU]:
    """Find the HDUs of a file, to its end, and refuse what the standard does not allow.

    Whole blocks; headers of printable ASCII, the mandatory keywords first and in their order, none of them
    twice with different values, those of columns with values that can be read, blanks after END; data padded
    with zeros (ASCII tables: blanks); one HDU after the other to the last byte; CHECKSUM and DATASUM right
    where they are given (FITS 4.0, sections 3, 4.1, 4.4.1, 4.4.2.7). A byte or block that was lost, added or
    moved shows in one of these.

    Parameters
    ----------
    content : memoryview of bytes, or OnDisk
        The whole file, decompressed.
    path : Path
        For messages.
    sums : bool
        Whether CHECKSUM and DATASUM are checked, for which all data are read; see also `require_sums`.

    Returns
    -------
    list of HDU
        One or more.

    Raises
    ------
    FileError
        ``not-fits``, ``truncated`` or ``damaged``.
    """
    found: list[HDU] = []
    at = 0
    while at < len(content):
        if found and bytes(content[at : at + 8]) != b"XTENSION":
            raise damaged(f"what follows HDU {len(found) - 1} is no HDU", path)
        start = _end_of_header(content, at, path, first=not found, last=True)
        header = _header(bytes(content[at:start]), len(found), path)
        stop = start + _data_size(header, path)
        end = start + -(-(stop - start) // BLOCK) * BLOCK
        if end > len(content):
            raise _cut_off(path, f"within the data of HDU {len(found)}")
        if bytes(content[stop:end]).strip(b" " if header.get("XTENSION") == "TABLE" else b"\0"):
            raise damaged(f"the padding after the data of HDU {len(found)} is not empty", path)
        found.append(HDU(header, start, stop, end))
        at = end
    if not found:
        raise _empty(path)
    if sums:
        require_sums(content, found, path)
    return found


def _header(content: bytes, number: int, path: Path) -> Header:
    """Return the checked header of one HDU."""
    if content.translate(None, _PRINTABLE):
        raise damaged(f"the header of HDU {number} has bytes that are no printable ASCII", path)
    if content[content.index(_END, len(content) - BLOCK) + CARD :].strip(b" "):
        raise damaged(f"the header of HDU {number} goes on after its END", path)
    header = Header(content)
    for key in header.contradicted:
        if _STRUCTURAL.fullmatch(key):
            raise damaged(f"the header of HDU {number} gives {key} twice, with different values", path)
    axes = header.get("NAXIS")
    if isinstance(axes, bool) or not isinstance(axes, int) or not 0 <= axes <= 999:
        raise damaged(f"the header of HDU {number} says NAXIS = {axes!r}", path)
    if header.get("BITPIX") not in _BITPIX:
        raise damaged(f"the header of HDU {number} says BITPIX = {header.get('BITPIX')!r}", path)
    kind = str(header.get("XTENSION", "")) if number else "SIMPLE"
    for at, begin in _mandatory(kind, axes):
        if content[at : at + 10] != begin:
            raise damaged(f"the header of HDU {number} lacks {begin[:8].decode().strip()} at its place", path)
    for card in _OF_COLUMNS.finditer(content):
        at = card.start()
        if at % CARD == 0 and not _VALUE.fullmatch(content, at + 9, at + CARD):
            key = content[at : at + 8].decode().strip()
            raise damaged(f"the header of HDU {number} gives {key} a value that cannot be read", path)
    if number == 0 and header["SIMPLE"] is not True:
        raise damaged("its header says itself that it does not follow the standard (SIMPLE is not T)", path)
    return header


@lru_cache(maxsize=1024)
def _mandatory(kind: str, axes: int) -> list[tuple[int, bytes]]:
    """Return where the mandatory cards of a header begin, and how (FITS 4.0, 4.4.1)."""
    names = ["SIMPLE" if kind == "SIMPLE" else "XTENSION", "BITPIX", "NAXIS"]
    names += [f"NAXIS{axis}" for axis in range(1, axes + 1)]
    names += [] if kind == "SIMPLE" else ["PCOUNT", "GCOUNT"]
    names += ["TFIELDS"] if kind in ("BINTABLE", "TABLE") else []
    return [(card * CARD, f"{name:<8}= ".encode()) for card, name in enumerate(names)]


def _data_size(header: Header, path: Path) -> int:
    """Return the bytes of an HDU's data (FITS 4.0, equation 2)."""
    axes = integer(header, "NAXIS", path, 0, 999)
    if axes < 1:
        return 0
    lengths = [integer(header, f"NAXIS{axis}", path, 0) for axis in range(1, axes + 1)]
    extra = integer(header, "PCOUNT", path, 0) if "PCOUNT" in header else 0
    groups = integer(header, "GCOUNT", path, 0) if "GCOUNT" in header else 1
    return abs(integer(header, "BITPIX", path)) // 8 * groups * (extra + math.prod(lengths))


def require_sums(content: memoryview | OnDisk, hdus: list[HDU], path: Path) -> None:
    """Refuse a file in which a DATASUM or CHECKSUM, where an HDU has them, is not that of its bytes.

    Raises
    ------
    FileError
        ``damaged``.
    """
    at = 0
    for number, hdu in enumerate(hdus):
        _require_sums(content, hdu, at, number, path)
        at = hdu.end


def _require_sums(content: memoryview | OnDisk, hdu: HDU, at: int, number: int, path: Path) -> None:
    header = hdu.header
    stated = [str(header.get(key, "")).strip() for key in ("DATASUM", "CHECKSUM")]
    if not any(stated):
        return
    data = _ones_complement_sum(content, hdu.start, hdu.end)
    if stated[0] and str(data) != stated[0]:
        raise damaged(f"the DATASUM of HDU {number} is not that of its data", path)
    # The checksum is chosen so that the sum over the whole HDU is -0.
    whole = data + _ones_complement_sum(content, at, hdu.start)
    if stated[1] and whole not in (0, 0xFFFFFFFF, 2 * 0xFFFFFFFF):
        raise FileError(
            f"the CHECKSUM of HDU {number} is not that of its bytes",
            reason="damaged",
            remedy="get the file again from the archive, or renew the checksum if its header was edited",
            path=path,
        )


def _ones_complement_sum(content: memoryview | OnDisk, start: int, stop: int) -> int:
    """Return the 32-bit ones' complement sum of big-endian words (FITS 4.0, appendix J)."""
    total = 0
    for at in range(start, stop, _PIECE):
        piece = content[at : min(at + _PIECE, stop)]
        total += int(np.frombuffer(piece, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def table(content: memoryview, hdu: HDU, path: Path, wanted: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Read some columns of a binary table, whatever the case of their names.

    Parameters
    ----------
    content : memoryview of bytes
    hdu : HDU
    path : Path
        For messages.
    wanted : mapping of str to str
        Upper-case names, and the numpy kinds that each may be of; those absent are left out of the result.

    Returns
    -------
    dict of ndarray
        Views of `content`, big-endian, of shape (rows,) or (rows, elements); text as ``S``. Unsigned
        integers, which FITS stores shifted by half their range (FITS 4.0, table 19), are arrays of their own.

    Raises
    ------
    FileError
        ``wrong-hdus``: not a binary table, or a column has no name, is scaled, of another kind, not
        understood, or there twice.
    """
    header = hdu.header
    if header.get("XTENSION") != "BINTABLE":
        raise _wrong_table(path, "an HDU that must be a binary table is none")
    at = 0
    names, formats, offsets, unsigned = [], [], [], []
    for column in range(1, integer(header, "TFIELDS", path, 0, 999) + 1):
        repeat, letter = _form(header.quoted(f"TFORM{column}"))
        if not letter:
            raise _wrong_table(path, f"TFORM{column} of a table is not understood")
        name = header.quoted(f"TTYPE{column}").upper()
        if not name:
            raise _wrong_table(path, f"TTYPE{column} of a table, the name of a column, is missing")
        if letter == "X":
            at += -(-repeat // 8)
            continue
        code, size = _FORMATS[letter]
        if name in names:
            raise _wrong_table(path, f"a table has the column {name} twice")
        if name in wanted:
            zero = header.get(f"TZERO{column}", 0)
            if letter in "IJK" and zero == 1 << (8 * size - 1):
                unsigned.append(name)
                zero = 0
            if header.get(f"TSCAL{column}", 1) != 1 or zero != 0:
                raise _wrong_table(path, f"the column {name} is scaled, which these files never are")
            if np.dtype(code).kind not in wanted[name]:
                raise _wrong_table(path, f"the column {name} is of the type {letter}")
            names.append(name)
            formats.append(f"S{repeat}" if letter == "A" else f"({repeat},){code}" if repeat != 1 else code)
            offsets.append(at)
        at += repeat * size
    width, rows = integer(header, "NAXIS1", path), integer(header, "NAXIS2", path)
    if at != width:
        raise _wrong_table(path, f"the columns of a table take {at} bytes of rows of {width}")
    if not names:
        return {}
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": width})
    records = np.frombuffer(content, dtype, rows, hdu.start)
    return {name: _unshifted(records[name]) if name in unsigned else records[name] for name in names}


def column_names(header: Header) -> set[str]:
    """Return the names of a table's columns, in upper case."""
    return {str(header[key]).strip().upper() for key in header if key.startswith("TTYPE")}


@lru_cache(maxsize=1024)
def _form(text: str) -> tuple[int, str]:
    """Return the number of elements and the letter of a TFORM; the letter is empty where it is none."""
    form = _TFORM.fullmatch(text)
    return (int(form[1] or form[3] or 1), form[2] or form[4]) if form else (0, "")


def _unshifted(column: NDArray[Any]) -> NDArray[Any]:
    """Return the unsigned integers that stand in a column as signed ones, less half of their range."""
    kind = np.dtype(f"u{column.itemsize}")
    native = column.astype(column.dtype.newbyteorder("=")).view(kind)
    native ^= kind.type(1 << (8 * column.itemsize - 1))
    return native


def _end_of_header(
    content: bytes | memoryview | OnDisk, at: int, path: Path, *, first: bool, last: bool
) -> int:
    """Return where the header that begins at `at` ends, or 0 where more bytes are needed."""
    if first and content[:6] != b"SIMPLE" and (last or len(content) >= BLOCK):
        raise _not_fits(bytes(content[:BLOCK]), path)
    block = at
    while block + BLOCK <= len(content) and block - at < _MAX_HEADER:
        cards = bytes(content[block : block + BLOCK])
        card = cards.find(_END)
        # Within a comment it would be no card.
        while card >= 0 and card % CARD:
            card = cards.find(_END, card + 1)
        if card >= 0:
            return block + BLOCK
        block += BLOCK
    if last or block - at >= _MAX_HEADER:
        raise _cut_off(path, "within a header")
    return 0


def _not_fits(head: bytes, path: Path) -> FileError:
    if head.startswith(b"XTENSION"):
        return damaged("it begins with an extension: what stood before is lost", path)
    form = form_of(head)
    return FileError(
        f"it is {form}, no FITS file" if form else "it is no FITS file",
        reason="not-fits",
        remedy="leave it out, or give the FITS file in its place",
        path=path,
    )


def damaged(fault: str, path: Path) -> FileError:
    """Return the error of a file that is not as it was written."""
    return FileError(fault, reason="damaged", remedy=_AGAIN, path=path)


def _too_large(path: Path, fault: str, most: int) -> FileError:
    return FileError(
        f"{fault}, more than the {most >> 20} MiB that such a file may have",
        reason="too-large",
        remedy="leave it out, or get the file again if the archive's is smaller",
        path=path,
    )


def _cut_off(path: Path, where: str) -> FileError:
    return FileError(f"it ends {where}", reason="truncated", remedy=_AGAIN, path=path)


def _unreadable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"it cannot be read ({error.strerror or error})",
        reason="unreadable",
        remedy="check that it exists and that you may read it",
        path=path,
    )


def _empty(path: Path) -> FileError:
    return FileError("it is empty", reason="empty", remedy=_AGAIN, path=path)


def _bad_compression(path: Path, error: Exception) -> FileError:
    return FileError(
        f"its compressed data are damaged or cut off ({error})",
        reason="truncated",
        remedy=_AGAIN,
        path=path,
    )


def _wrong_table(path: Path, fault: str) -> FileError:
    return FileError(fault, reason="wrong-hdus", remedy=_AGAIN, path=path)
