"""Images that are packed or scaled, unpacked by astropy."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits as astropy_fits
from numpy.typing import NDArray

from skyfuse.survey.fits.content import MOST_BYTES, OnDisk
from skyfuse.survey.fits.faults import damaged, too_large
from skyfuse.survey.fits.hdus import BLOCK, END, HDU, data_size, unpacked_header
from skyfuse.survey.fits.header import CARD

_NO_DATA = b"".join(
    card.ljust(CARD)
    for card in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
    )
)
_NO_DATA = (_NO_DATA + END).ljust(BLOCK)


def image(content: memoryview | OnDisk, hdus: list[HDU], number: int, path: Path) -> NDArray[Any]:
    """Return the pixels of one HDU as they are meant: unpacked and scaled, NaN where they are blank.

    Parameters
    ----------
    content : memoryview of bytes, or OnDisk
    hdus : list of HDU
    number : int
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``damaged`` if they do not unpack, ``too-large``, or ``truncated`` since it was checked.
    """
    header = unpacked_header(hdus[number].header)
    size = data_size(header, path)
    if size > MOST_BYTES:
        raise too_large(path, f"the image of HDU {number} has {size} bytes", MOST_BYTES)
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
    axes = tuple(header.get(f"NAXIS{axis}") for axis in range(int(header["NAXIS"]), 0, -1))
    # A header damaged so that the library takes a packed image for a table.
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind not in "iuf" or pixels.shape != axes:
        raise damaged(f"what HDU {number} holds is not the image that its header tells of", path)
    return pixels


def unpacked(content: memoryview, hdus: list[HDU], path: Path, most: int) -> bytes:
    """Return a tile-compressed file (FITS 4.0, section 10) with its images plain, the first as HDU 0."""
    images = [number for number, hdu in enumerate(hdus) if hdu.header.get("ZIMAGE") is True]
    size = sum(data_size(unpacked_header(hdus[number].header), path) for number in images)
    if size > most:
        raise too_large(path, f"its images unpack to {size} bytes", most)
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
