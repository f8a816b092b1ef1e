"""A FITS file read and checked whole."""

from __future__ import annotations

from pathlib import Path

from skyfuse.survey.fits.content import MOST_BYTES, OnDisk, Scratch, is_compressed, read_bytes
from skyfuse.survey.fits.hdus import HDU, parse
from skyfuse.survey.fits.images import unpacked


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
        content = memoryview(unpacked(content, hdus, path, most))
        hdus = parse(content, path)
    return content, hdus, sha256


def read_on_demand(path: Path) -> tuple[memoryview | OnDisk, list[HDU], str]:
    """Check a FITS file whole, to be read when asked for; compressed files go to memory.

    Parameters
    ----------
    path : Path

    Returns
    -------
    content : memoryview of bytes, or OnDisk
        Decompressed; tile-compressed images in it stay as they are, see `image`.
    hdus : list of HDU
    sha256 : str
        Of the bytes as they lie on disk.

    Raises
    ------
    FileError
        As `read_bytes` and `parse`.
    """
    content: memoryview | OnDisk
    if is_compressed(path):
        content, sha256 = read_bytes(path)
    else:
        content = OnDisk(path)
        sha256 = content.sha256()
    return content, parse(content, path), sha256
