"""What an SDSS objID tells of where an object was seen."""

from __future__ import annotations

from typing import NamedTuple


class Seen(NamedTuple):
    """Where the photometry of an object comes from.

    Attributes
    ----------
    version : int
        Of the sky: 1 up to DR7, 2 from DR8 on.
    rerun, run, camcol, field : int
    """

    version: int
    rerun: int
    run: int
    camcol: int
    field: int


def unpack(objid: int) -> Seen | None:
    """Return what an object's number holds; None where it is none.

    An objID packs, from the highest bit down, 1 empty bit, sky version (4 bits), rerun (11), run (16), camera
    column (3), first field (1), field (12) and the object's number in it (16); see objID in the glossary of
    SkyServer.

    Parameters
    ----------
    objid : int
        E.g. 587722983352696961 (DR7) or 1237648720693755918 (DR8 and later).
    """
    version, rerun, run = objid >> 59, objid >> 48 & 0x7FF, objid >> 32 & 0xFFFF
    camcol, field = objid >> 29 & 0x7, objid >> 16 & 0xFFF
    sound = 1 <= version <= 2 and run > 0 and 1 <= camcol <= 6 and field > 0
    return Seen(version, rerun, run, camcol, field) if sound else None


def field_number(name: str) -> int:
    """Return a number of the field of an object, the same for all that one exposure saw; -1 for other names.

    Rerun and first field differ between versions of one photometry and do not count.
    """
    seen = unpack(int(name)) if name.isascii() and name.isdecimal() else None
    return -1 if seen is None else (seen.run * 8 + seen.camcol) << 12 | seen.field
