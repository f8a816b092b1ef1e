"""Where the HDUs of a file lie, and whether each is as the standard has it: its header, place and sums."""

from __future__ import annotations

import math
import os
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from skyfuse.errors import FileError
from skyfuse.survey.filetype import form_of
from skyfuse.survey.fits.content import COMPRESSED, PIECE, OnDisk, decompressing
from skyfuse.survey.fits.faults import bad_compression, cut_off, damaged, empty, unreadable
from skyfuse.survey.fits.header import CARD, FLOAT, PRINTABLE, Header, integer

BLOCK = 2880
_MAX_HEADER = 1000 * BLOCK
_MOST_HDUS = 2000
END = b"END".ljust(CARD)
_BITPIX = (8, 16, 32, 64, -32, -64)
# Keywords on which the place and the meaning of data hang.
_STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|BSCALE|BZERO|T(FORM|TYPE|DIM|SCAL|ZERO|NULL)\d+"
)
# What the standard keeps for columns, less TTYPE and TFORM, which are checked where they are read.
_OF_COLUMNS = re.compile(rb"T(?:BCOL|DIM|DISP|NULL|SCAL|UNIT|ZERO|CTYP|CUNI|CRPX|CRVL|CDLT|RPOS)\d+ *=")
_VALUE = re.compile(
    rb" +(?:'(?:[^']|'')*'|[TF]|%(n)s|\( *%(n)s *, *%(n)s *\))? *(?:/.*)?" % {b"n": FLOAT.pattern.encode()}
)


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
                raise empty(path)
            raw.seek(0)
            stream = decompressing(head, raw) if head.startswith(COMPRESSED) else raw
            content, at = b"", 0
            while True:
                try:
                    piece = stream.read(BLOCK * 8)
                except (EOFError, OSError, ValueError, zlib.error) as error:
                    raise bad_compression(path, error) from error
                content += piece or b""
                # A file may end after a header, but not within one.
                while (at < len(content) or not headers) and (
                    end := _end_of_header(content, at, path, first=not headers, last=not piece)
                ):
                    header = _header(content[at:end], len(headers), path)
                    headers.append(unpacked_header(header) if header.get("ZIMAGE") is True else header)
                    if len(headers) == count:
                        return headers
                    at = end + -(-data_size(header, path) // BLOCK) * BLOCK
                    if at > len(content):
                        # A damaged header may tell of more than any file can hold.
                        stream.seek(min(at - len(content), 1 << 40), os.SEEK_CUR)
                        content, at = b"", 0
                if not piece:
                    return headers
    except OSError as error:
        raise unreadable(path, error) from error


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
        stop = start + data_size(header, path)
        end = start + -(-(stop - start) // BLOCK) * BLOCK
        if end > len(content):
            raise cut_off(path, f"within the data of HDU {len(found)}")
        if bytes(content[stop:end]).strip(b" " if header.get("XTENSION") == "TABLE" else b"\0"):
            raise damaged(f"the padding after the data of HDU {len(found)} is not empty", path)
        found.append(HDU(header, start, stop, end))
        at = end
    if not found:
        raise empty(path)
    if sums:
        require_sums(content, found, path)
    return found


def _header(content: bytes, number: int, path: Path) -> Header:
    """Return the checked header of one HDU."""
    if content.translate(None, PRINTABLE):
        raise damaged(f"the header of HDU {number} has bytes that are no printable ASCII", path)
    if content[content.index(END, len(content) - BLOCK) + CARD :].strip(b" "):
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
    # What an HDU is hangs on its name: one that nobody can read would let an arm or a mask be passed over.
    if header.get("EXTNAME", "") != "" and not header.is_quoted("EXTNAME"):
        raise damaged(f"the header of HDU {number} gives EXTNAME a value that cannot be read", path)
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


def data_size(header: Header, path: Path) -> int:
    """Return the bytes of an HDU's data (FITS 4.0, equation 2)."""
    axes = integer(header, "NAXIS", path, 0, 999)
    if axes < 1:
        return 0
    lengths = [integer(header, f"NAXIS{axis}", path, 0) for axis in range(1, axes + 1)]
    extra = integer(header, "PCOUNT", path, 0) if "PCOUNT" in header else 0
    groups = integer(header, "GCOUNT", path, 0) if "GCOUNT" in header else 1
    return abs(integer(header, "BITPIX", path)) // 8 * groups * (extra + math.prod(lengths))


def unpacked_header(header: Header) -> Header:
    """Return the header of a tile-compressed image with the size that the image has unpacked."""
    return header.replaced({key[1:]: key for key in header if re.fullmatch(r"ZBITPIX|ZNAXIS\d*", key)})


def _end_of_header(
    content: bytes | memoryview | OnDisk, at: int, path: Path, *, first: bool, last: bool
) -> int:
    """Return where the header that begins at `at` ends, or 0 where more bytes are needed."""
    if first and content[:6] != b"SIMPLE" and (last or len(content) >= BLOCK):
        raise _not_fits(bytes(content[:BLOCK]), path)
    block = at
    while block + BLOCK <= len(content) and block - at < _MAX_HEADER:
        cards = bytes(content[block : block + BLOCK])
        card = cards.find(END)
        # Within a comment it would be no card.
        while card >= 0 and card % CARD:
            card = cards.find(END, card + 1)
        if card >= 0:
            return block + BLOCK
        block += BLOCK
    if last or block - at >= _MAX_HEADER:
        raise cut_off(path, "within a header")
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
    for at in range(start, stop, PIECE):
        piece = content[at : min(at + PIECE, stop)]
        total += int(np.frombuffer(piece, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total
