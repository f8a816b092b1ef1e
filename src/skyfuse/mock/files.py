"""Files written whole or not at all, and FITS blocks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
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


def header_of(cards: Iterable[tuple[Any, ...]], into: fits.Header | None = None) -> fits.Header:
    """Return a header of cards, (key, value) or (key, value, comment), put behind those of `into`."""
    header = fits.Header() if into is None else into
    for key, *content in cards:
        header[key] = tuple(content)
    return header


def wcs_cards(wcs: WCS) -> Iterator[tuple[str, Any]]:
    """Yield the cards of a plain WCS: projection, reference, matrix."""
    held = wcs.wcs
    for axis in (0, 1):
        yield f"CTYPE{axis + 1}", str(held.ctype[axis])
        yield f"CUNIT{axis + 1}", "deg"
        yield f"CRPIX{axis + 1}", float(held.crpix[axis])
        yield f"CRVAL{axis + 1}", float(held.crval[axis])
        for other in (0, 1):
            yield f"CD{axis + 1}_{other + 1}", float(held.cd[axis, other])


def fits_bytes(*hdus: Any) -> bytes:
    """Return HDUs as a FITS file."""
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def padded(data: bytes) -> bytes:
    """Return data filled up to whole FITS blocks."""
    return data + b"\0" * (-len(data) % 2880)
