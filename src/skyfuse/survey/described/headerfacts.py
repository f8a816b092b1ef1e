"""What a header tells of an image, as its description says: band, time, scale, id, what speaks against it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.description import FIELD, Description, Time
from skyfuse.survey.fits.faults import AGAIN

# What ids are made of: they name rows of indexes and appear in file names and pages.
_ID = re.compile(r"[A-Za-z0-9_.+:,-]{1,200}")
_SECONDS_A_DAY = 86400.0


def require_one_voice(description: Description, header: fits.Header, path: Path) -> None:
    """Refuse a header that gives twice, with different values, a keyword that the description asks for.

    Raises
    ------
    FileError
        ``damaged``.
    """
    point, time = description.zero_point, description.time
    asked = {*description.caution, *FIELD.findall(description.id), description.band.keyword}
    asked |= {told for told in (description.gain, description.saturation) if isinstance(told, str)}
    asked |= {point.per_second} if point is not None else set()
    asked |= {point.magnitude} if point is not None and isinstance(point.magnitude, str) else set()
    asked |= {time.start, time.end, time.exposure} if time is not None else set()
    for key in sorted(header.contradicted & asked):
        raise fits.damaged(f"its header gives {key} twice, with different values", path)


def band_of(description: Description, header: fits.Header, path: Path, groups: dict[str, str]) -> str:
    """Return the band of an image, by its header or the groups of its name.

    Raises
    ------
    FileError
        ``unknown-band``.
    """
    told_by = description.band
    if told_by.group is not None:
        told = groups[told_by.group]
    else:
        told = str(header.get(told_by.keyword or "", "")).strip()
    names = told_by.names or {re.escape(band): band for band in description.bands}
    for pattern, band in names.items():
        if re.fullmatch(pattern, told):
            return band
    where = "its name says" if told_by.group is not None else f"its {told_by.keyword} is"
    raise FileError(
        f"{where} {told[:60]!r}, which means none of the bands {', '.join(description.bands)}",
        reason="unknown-band",
        remedy="add the band to a description of your own, or leave the file out",
        path=path,
    )


def scale_of(
    description: Description, header: fits.Header, band: str, path: Path
) -> tuple[float, str | None]:
    """Return what turns an image into the unit of its values, and that unit where it is its own.

    Raises
    ------
    FileError
        ``missing-keyword`` or ``bad-values``.
    """
    point = description.zero_point
    if point is None:
        return 1.0, None
    magnitude = point.magnitude
    if isinstance(magnitude, dict):
        magnitude = magnitude[band]
    elif isinstance(magnitude, str):
        if magnitude not in header:
            return 1.0, description.unit
        magnitude = fits.number(header, magnitude, path)
    if point.vega is not None:
        magnitude += point.vega[band]
    # Magnitudes of astronomy's cameras: beyond, the scale itself would overflow.
    if not -50 <= magnitude <= 100:
        raise FileError(f"its zero point is {magnitude:g} mag", reason="bad-values", remedy=AGAIN, path=path)
    scale = 10 ** ((22.5 - magnitude) / 2.5)
    return scale / (_seconds(header, point.per_second, path) if point.per_second else 1), None


def id_of(description: Description, fields: dict[str, str], header: fits.Header, path: Path) -> str:
    """Return the id of a frame within the instrument, of keywords and `fields`.

    Raises
    ------
    FileError
        ``missing-keyword`` or ``bad-values``.
    """
    for field in FIELD.findall(description.id):
        if field not in fields and field not in header:
            raise FileError(
                f"its header has no {field}, which its id is made of",
                reason="missing-keyword",
                remedy=AGAIN,
                path=path,
            )
    told = {field: str(header[field]).strip() for field in FIELD.findall(description.id) if field in header}
    # An image without a name leaves the dash before it.
    made = filled(description.id, told | fields).strip("-").replace("--", "-")
    if not _ID.fullmatch(made):
        raise FileError(
            f"its id would be {made[:80]!r}",
            reason="bad-values",
            remedy="make it of keywords that hold letters, digits and _.+:,-",
            path=path,
        )
    return made


def caution_of(description: Description, header: fits.Header) -> str:
    """Return what the header says against an image, and what its σ lacks."""
    words = [
        f"{key} = {str(header[key]).strip()}"
        for key, pattern in description.caution.items()
        if key in header and re.fullmatch(pattern, str(header[key]).strip())
    ]
    weight = description.weight
    if weight.of_sky and description.gain is None:
        words.append("sigma is that of the sky, without the objects' own noise")
    return "; ".join(words)


def middle_of(time: Time | None, header: fits.Header, path: Path) -> float | None:
    """Return the middle of an exposure, MJD (TAI), or None where nothing tells it.

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if time is None or any(
        key is not None and key not in header for key in (time.start, time.end, time.exposure)
    ):
        return None
    start = _mjd(header, time.start, time.scale, path)
    if time.end is not None:
        start = (start + _mjd(header, time.end, time.scale, path)) / 2
    if time.exposure is not None:
        start += _seconds(header, time.exposure, path) / 2 / _SECONDS_A_DAY
    return fits.require_date(start, path)


def _mjd(header: fits.Header, key: str, scale: str, path: Path) -> float:
    """Return the MJD (TAI) of a keyword, an MJD or a date."""
    from astropy.time import Time as AstropyTime

    text = str(header[key]).strip()
    dated = re.match(r"\d{4}-\d\d-\d\d", text) is not None
    told: Any = text if dated else fits.require_date(fits.number(header, key, path), path)
    try:
        with warnings.catch_warnings():
            # Years whose leap seconds are not known yet: none of them are taken for granted.
            warnings.simplefilter("ignore")
            return float(AstropyTime(told, format=None if dated else "mjd", scale=scale).tai.mjd)
    except ValueError as error:
        raise FileError(
            f"its {key} is {text[:60]!r}, no time", reason="bad-values", remedy=AGAIN, path=path
        ) from error


def filled(template: str, fields: dict[str, str]) -> str:
    """Return a template with its fields replaced."""
    return FIELD.sub(lambda found: fields[found[1]], template)


def number_of(told: float | str | None, header: fits.Header, path: Path) -> float | None:
    """Return a number that a description gives, or the keyword of which it gives."""
    return fits.number(header, told, path) if isinstance(told, str) else told


def _seconds(header: fits.Header, key: str, path: Path) -> float:
    seconds = fits.number(header, key, path)
    if not 0 < seconds < 100 * _SECONDS_A_DAY:
        raise FileError(f"its {key} is {seconds:g} s", reason="bad-values", remedy=AGAIN, path=path)
    return seconds
