"""The celestial WCS of an image as a header gives it: whole, distortions included, or refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.wcs import WcsError, Wcsprm

from skyfuse.errors import FileError
from skyfuse.survey import fits

# The terms of a WCS that the cards carry (FITS 4.0, table 22, and the SIP convention), and those that change
# positions too and are not carried: lookup tables, text parameters, keywords of before FITS 3.0.
_TERM = re.compile(
    r"(CRPIX|CRVAL|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d\d?|LONPOLE|LATPOLE|[AB]_(ORDER|\d_\d)"
)
_WORD = re.compile(r"(CTYPE|CUNIT)[12]|RADE(SYS|CSYS)|EQUINOX|WCSAXES")
# All projections of FITS 4.0, table 23, and TPV; others (TNX, ZPX) have terms that wcslib ignores.
_PROJECTION = re.compile(
    r"(AZP|SZP|TAN|STG|SIN|ARC|ZPN|ZEA|AIR|CYP|CEA|CAR|MER|SFL|PAR|MOL|AIT|COP|COE|COD|COO|BON|PCO|TSC|CSC|QSC"
    r"|HPX|XPH|TPV)(-SIP)?"
)
_NOT_CARRIED = re.compile(
    r"(CPDIS|CQDIS|D2IMDIS)[12]|(DP|DQ)[12]|D2IM(ARR|EXT|ERR)|AXISCORR|PS[12]_\d\d?|LONGPOLE|(CD|PC)00[12]00[12]"
)
FRAME_OF_REFERENCE = ("RADESYS", "RADECSYS", "EQUINOX")
"""Keywords of the coordinates that positions are given in; RADECSYS is the name of before FITS 3.0."""

# An order of magnitude to either side of the instrument's is another camera, or damage.
_MOST_UNLIKE = 10
# Pixels: what the way to the sky and back may lose.
_MOST_LOST = 0.01


class Place(NamedTuple):
    """Where an image lies on the sky.

    Attributes
    ----------
    cards : str
        Its WCS as FITS header cards, for `astropy.wcs.WCS`.
    ra, dec : float
        Its centre, degrees (ICRS).
    pixel_arcsec : float
        Width of a pixel at the reference point.
    """

    cards: str
    ra: float
    dec: float
    pixel_arcsec: float


def celestial(header: fits.Header, shape: tuple[int, int], path: Path, pixel_arcsec: float) -> Place:
    """Return an image's WCS as header cards, and the position of its centre.

    The cards hold every term that the WCS has: matrix or scales, the projection's parameters, the native
    pole, SIP or TPV distortion. What they could not hold is refused.

    Parameters
    ----------
    header : Header
        Of the image's HDU.
    shape : tuple of int
        Rows and columns (ny, nx).
    path : Path
        For messages.
    pixel_arcsec : float
        Nominal width of a pixel: a tenth to ten times of it is let pass.

    Raises
    ------
    FileError
        ``bad-wcs``.
    """
    for key in header:
        if _NOT_CARRIED.fullmatch(key):
            raise _bad(path, f"its WCS has {key}, a term that is not read")
    for key in sorted(header.contradicted):
        if _TERM.fullmatch(key) or _WORD.fullmatch(key):
            raise _bad(path, f"its header gives {key} twice, with different values")
    try:
        if header.get("WCSAXES", 2) != 2:
            raise _bad(path, f"its WCS has {header['WCSAXES']} axes, not 2")
        values = _values(header, path)
        words = _words(header, path)
    except FileError as error:
        raise _bad(path, error.fault) from error
    _require_whole(values, words, path)
    cards = "".join(f"{key:<8}= {repr(value).upper():>20}".ljust(fits.CARD) for key, value in values.items())
    cards += "".join(f"{key:<8}= '{value:<8}'".ljust(fits.CARD) for key, value in words.items())
    for axis, size in enumerate(reversed(shape), start=1):
        cards += f"{f'NAXIS{axis}':<8}= {size:>20}".ljust(fits.CARD)
    return _placed(cards, shape, path, pixel_arcsec)


def _values(header: fits.Header, path: Path) -> dict[str, float | int]:
    """Return the numbers of a WCS by keyword."""
    terms = {key for key in header if _TERM.fullmatch(key)}
    keys = ["CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2"]
    if any(key.startswith("CD") and key[2] in "12" for key in terms):
        if any(key.startswith("PC") for key in terms):
            raise _bad(path, "its WCS has both CD and PC")
        keys += ["CD1_1", "CD1_2", "CD2_1", "CD2_2"]
        terms -= {"CDELT1", "CDELT2", "CROTA1", "CROTA2"}  # without meaning beside CD (FITS 4.0, 8.1.2)
    else:
        keys += ["CDELT1", "CDELT2"]
    keys += sorted(terms.difference(keys))
    return {
        key: fits.integer(header, key, path, 0, 9)
        if key.endswith("_ORDER")
        else fits.number(header, key, path)
        for key in keys
    }


def _words(header: fits.Header, path: Path) -> dict[str, str]:
    """Return the texts of a WCS by keyword, checked."""
    words = {f"CTYPE{axis}": str(header.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2)}
    words |= {f"CUNIT{axis}": str(header.get(f"CUNIT{axis}", "deg")).strip() for axis in (1, 2)}
    for axis, begin in ((1, "RA---"), (2, "DEC--")):
        kind, unit = words[f"CTYPE{axis}"], words[f"CUNIT{axis}"]
        if not (kind.startswith(begin) and _PROJECTION.fullmatch(kind[len(begin) :])):
            raise _bad(path, f"its axis {axis} is {kind!r}, not {begin} in a projection that is read")
        if not re.fullmatch(r"[A-Za-z ]{0,20}", unit):
            raise _bad(path, f"the unit of its axis {axis} is {unit!r}")
    equinox = fits.number(header, "EQUINOX", path) if "EQUINOX" in header else 2000.0
    # The default, in part, is the equinox's (FITS 4.0, 8.3).
    default = "ICRS" if "EQUINOX" not in header else "FK4" if equinox < 1984 else "FK5"
    # The old name may stand beside the new one, with another system: astropy warns about it alone.
    told = [str(header[key]).strip() for key in FRAME_OF_REFERENCE[:2] if key in header]
    systems = [name for name in told if name] or [default]
    for system in systems:
        # ICRS has no equinox, FK5 of 2000 is ICRS to 0.02″.
        if system not in ("ICRS", "FK5") or (system == "FK5" and equinox != 2000):
            raise _bad(path, f"its coordinates are {system!r} of {equinox:g}, neither ICRS nor FK5 of 2000")
    return words | {"RADESYS": systems[0]}


def _require_whole(values: dict[str, float | int], words: dict[str, str], path: Path) -> None:
    """Refuse distortions of which a part is missing, or that may be meant in either of two ways."""
    distorted = any(key.startswith(("A_", "B_")) for key in values)
    if any(words[f"CTYPE{axis}"].endswith("-SIP") != distorted for axis in (1, 2)):
        raise _bad(path, "its WCS has SIP coefficients or a CTYPE that ends in -SIP, one without the other")
    if words["CTYPE1"].startswith("RA---TAN") and any(key.startswith("PV") for key in values):
        raise _bad(path, "its WCS has PV terms beside TAN, which is written TPV where they are a distortion")


def _placed(cards: str, shape: tuple[int, int], path: Path, pixel_arcsec: float) -> Place:
    """Return where the WCS of some cards puts an image, if it leads to the sky and back."""
    ny, nx = shape
    pixels = np.array([[(nx - 1) / 2, (ny - 1) / 2], [0, 0], [nx - 1, 0], [0, ny - 1], [nx - 1, ny - 1]])
    try:
        # wcslib itself: `astropy.wcs.WCS` on top of it takes 13 times as long.
        wcs = Wcsprm(cards.encode("ascii"))
        wcs.set()
        if not (-180 <= wcs.crval[0] <= 540 and -90 <= wcs.crval[1] <= 90):
            raise _bad(path, f"its reference point {tuple(wcs.crval)} is not on the sky")
        scale = 3600 * math.sqrt(abs(np.linalg.det(np.diag(wcs.get_cdelt()) @ wcs.get_pc())))
        world = wcs.p2s(pixels, 0)["world"]
        back = wcs.s2p(world, 0)["pixcrd"]
    except (ValueError, WcsError) as error:
        raise _bad(path, f"its WCS does not compute ({str(error).splitlines()[0]})") from error
    if not pixel_arcsec / _MOST_UNLIKE <= scale <= pixel_arcsec * _MOST_UNLIKE:
        raise _bad(path, f"its pixels are {scale:.3g} arcsec wide, those of the instrument {pixel_arcsec:g}")
    if not (np.abs(back - pixels) < _MOST_LOST).all():
        raise _bad(path, "its WCS does not lead back from the sky to the pixels of its corners")
    return Place(cards, float(world[0, 0]), float(world[0, 1]), scale)


def _bad(path: Path, fault: str) -> FileError:
    remedy = "correct its header, or get the file again from the archive"
    return FileError(fault, reason="bad-wcs", remedy=remedy, path=path)
