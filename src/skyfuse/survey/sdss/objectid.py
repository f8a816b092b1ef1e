"""What an SDSS objID tells of where an object was seen."""

from __future__ import annotations


def field_of(name: str) -> int:
    """Return a number of the field of an object, the same for all that one exposure saw; -1 for other names.

    An objID packs, from the highest bit down, 1 empty bit, sky version (4 bits), rerun (11), run (16), camera
    column (3), first field (1), field (12) and the object's number in it (16); see objID in the glossary of
    SkyServer. Rerun and first field differ between versions of one photometry and do not count.

    Parameters
    ----------
    name : str
        E.g. ``587722983352696961`` (DR7) or ``1237648720693755918`` (DR8 and later).
    """
    if not (name.isascii() and name.isdecimal()):
        return -1
    number = int(name)
    run, camcol, field = number >> 32 & 0xFFFF, number >> 29 & 0x7, number >> 16 & 0xFFF
    sound = 1 <= number >> 59 <= 2 and run > 0 and 1 <= camcol <= 6 and field > 0
    return (run * 8 + camcol) << 12 | field if sound else -1
