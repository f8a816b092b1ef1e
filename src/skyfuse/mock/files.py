"""Files written whole or not at all, and FITS blocks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyfuse.disk import replaced


def write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file whole or not at all; leave one that is there, since its bytes would be the same."""
    if path.exists():
        return
    data = make()
    with replaced(path, alone=True, flush=False) as partial:
        partial.write_bytes(data)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def fits_bytes(*hdus: Any) -> bytes:
    """Return HDUs as a FITS file."""
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def padded(data: bytes) -> bytes:
    """Return data filled up to whole FITS blocks."""
    return data + b"\0" * (-len(data) % 2880)
