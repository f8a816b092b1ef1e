"""Some columns of a binary table, straight from its bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.fits.hdus import HDU
from skyfuse.survey.fits.header import Header, integer

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


def _wrong_table(path: Path, fault: str) -> FileError:
    return FileError(fault, reason="wrong-hdus", remedy=AGAIN, path=path)
