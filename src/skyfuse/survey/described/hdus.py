"""Which HDUs of a file hold images, what they are called, and what they inherit from the primary header."""

from __future__ import annotations

from collections.abc import Sequence

from skyfuse.survey import fits, wcs

# fpack's name for the image of the primary HDU, which it moves.
_PACKED_PRIMARY = "COMPRESSED_IMAGE"


def name_of(header: fits.Header) -> str:
    """Return an HDU's name (EXTNAME), empty for none."""
    name = str(header.get("EXTNAME", "")).strip()
    return "" if name == _PACKED_PRIMARY else name


def is_image(header: fits.Header, number: int) -> bool:
    """Tell whether an HDU, by its number in the file, holds an image, packed or plain."""
    kind = number == 0 or header.get("XTENSION") == "IMAGE" or header.get("ZIMAGE") is True
    return kind and header.get("NAXIS") != 0


def inherited(headers: Sequence[fits.Header]) -> list[fits.Header]:
    """Return each header over the primary one: instruments tell there what holds for all images."""
    return [headers[0], *(header.over(headers[0]) for header in headers[1:])]


def with_wcs(own: fits.Header, primary: fits.Header) -> fits.Header:
    """Return the header that an image's WCS is read from.

    What the HDU does not say itself is the primary header's only where INHERIT says so, and never a part of
    the terms: a matrix of one header with the scales of the other would be nobody's.
    """
    if own.get("INHERIT") is not True:
        return own
    return own.over(primary, wcs.FRAME_OF_REFERENCE) if "CTYPE1" in own else own.over(primary)
