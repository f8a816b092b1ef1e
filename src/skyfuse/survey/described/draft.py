"""The draft of an instrument's description, guessed from the headers of one file, to be completed by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from skyfuse.errors import FileError
from skyfuse.survey import fits, wcs
from skyfuse.survey.described import hdus

# Keywords that tell an instrument, the surest first.
_TELLTALES = ("INSTRUME", "CAMERA", "TELESCOP", "SURVEY", "ORIGIN")
_FILTERS = ("FILTER", "BAND", "FILTNAM", "FILTER1")
_STARTS = ("MJD-OBS", "MJD-BEG", "DATE-BEG", "DATE-OBS")
_EXPOSURES = ("EXPTIME", "EXPOSURE", "XPOSURE")
_IDS = ("EXPNUM", "EXPID", "OBSID", "OBS_ID", "VISIT")
_ZERO_POINTS = ("MAGZERO", "MAGZPT", "MAGZP", "ZEROPNT", "PHOTZP", "ZP", "ZPMAG")
_GAINS = ("GAIN", "EGAIN", "GAINEFF")
# What arrays of these names hold, as pipelines use the names.
_WEIGHTS = {
    "inverse-variance": ("IVAR", "INVVAR", "INVVARIANCE"),
    "variance": ("VAR", "VARIANCE"),
    "sigma": ("ERR", "ERROR", "SIGMA", "UNCERT", "STDDEV"),
    "rms": ("RMS",),
    "relative": ("WHT", "WEIGHT", "WT"),
}
_MASKS = ("DQ", "MASK", "FLAGS", "FLAG", "BPM", "QUALITY")
# Decides nothing but whether the WCS of the draft's file computes: any telescope's pixels pass.
_ANY_PIXEL = (0.1, 10.0)


def draft(path: Path) -> str:
    """Return a description that reads a file, with comments on what was guessed.

    Parameters
    ----------
    path : Path
        A FITS file with an image.

    Raises
    ------
    FileError
        If it is unreadable, or holds no image with a WCS.
    """
    headers = fits.read_headers(path)
    images = [
        (number, hdus.name_of(header))
        for number, header in enumerate(headers)
        if hdus.is_image(header, number) and header.get("NAXIS") == 2
    ]
    if not images:
        raise FileError(
            "no HDU of it holds an image of two axes",
            reason="wrong-hdus",
            remedy="give a file with an image",
            path=path,
        )
    names = [name for _, name in images]
    weight, mask = _beside(names)
    chosen = [(number, name) for number, name in images if name not in (weight[1], mask)]
    number, name = (chosen or images)[0]
    own = headers[number]
    header = own.over(headers[0]) if number else own
    pixel = _pixel(hdus.with_wcs(own, headers[0]), own, path)
    told = [key for key in _TELLTALES if str(header.get(key, "")).strip()]
    sections = [
        *_named(header, told),
        *_recognised(header, told[:2], names),
        *_images(name, weight, mask, len(images)),
        *_banded(header, path),
        *_timed(header),
        f"pixel_arcsec: {pixel:.4g}",
        *_scaled(header),
        *_identified(header, bool(name) or len(chosen) > 1),
    ]
    return "\n".join(sections) + "\n"


def _named(header: fits.Header, told: Sequence[str]) -> list[str]:
    first = str(header[told[0]]) if told else ""
    name = re.sub(r"[^a-z0-9]+", "-", first.lower()).strip("-")[:40].strip("-") or "my-instrument"
    return [
        "# A draft, guessed from the headers of one file. Try it with `skyfuse instrument check`.",
        f"name: {name}",
        f"title: {_quoted(first or 'My instrument')}",
        "source: 'Where the data model is told: write it here'",
    ]


def _recognised(header: fits.Header, told: Sequence[str], names: Sequence[str]) -> list[str]:
    lines = ["# What tells a file of this instrument from all others, in regular expressions.", "recognise:"]
    if told:
        lines.append("  header:")
        lines += [f"    {key}: {_quoted(_escaped(str(header[key]).strip()))}" for key in told]
    else:
        lines.append(f"  extensions: [{', '.join(_quoted(name) for name in sorted(set(names)))}]")
    return lines


def _beside(names: Sequence[str]) -> tuple[tuple[str, str | None], str | None]:
    """Return what the array that tells σ means, the name of its HDU, and that of the mask's."""
    by_name = {name.upper(): name for name in reversed(names) if name}
    found = ((means, by_name[word]) for means, words in _WEIGHTS.items() for word in words if word in by_name)
    return next(found, ("measured", None)), next((by_name[word] for word in _MASKS if word in by_name), None)


def _images(name: str, weight: tuple[str, str | None], mask: str | None, count: int) -> list[str]:
    means, extension = weight
    lines = []
    # A lone image may be one of many CCDs, each under a name of its own.
    if name and count > 1 and (extension or mask):
        lines += ["images:", f"  extension: {_quoted(_escaped(name))}"]
    lines += [
        "# Weight and mask may also lie in files of their own, whose names follow from the image's:",
        "# images: {file: '(?P<exposure>.*)_image'}, weight: {file: '{exposure}_weight', means: ...}.",
    ]
    if extension is None:
        lines += ["# No array of this file tells sigma: it is measured from neighbouring pixels."]
    lines += ["weight:", f"  means: {means}"]
    if extension is not None:
        lines += [f"  extension: {_quoted(extension)}"]
    if mask is not None:
        lines += [
            "# All pixels that are not 0 are bad, unless `values` or `bits` tell which are.",
            "mask:",
            f"  extension: {_quoted(mask)}",
        ]
    return [
        *lines,
        "# Whether the sky's light is still in the image: included or subtracted.",
        "sky: subtracted",
    ]


def _banded(header: fits.Header, path: Path) -> list[str]:
    key = next((key for key in _FILTERS if str(header.get(key, "")).strip()), None)
    if key is None:
        raise FileError(
            f"its header names no filter ({', '.join(_FILTERS)})",
            reason="missing-keyword",
            remedy="write the description by hand: skyfuse instrument show generic is a pattern",
            path=path,
        )
    told = str(header[key]).strip()
    band = re.sub(r"[^A-Za-z0-9]", "", told.split()[0])[:12] or "band"
    return [
        "# In the order of all arrays; names hold letters and digits.",
        f"bands: [{_quoted(band)}]",
        "band:",
        f"  keyword: {key}",
        f"  names: {{{_quoted(_escaped(told))}: {_quoted(band)}}}",
    ]


def _timed(header: fits.Header) -> list[str]:
    start = next((key for key in _STARTS if key in header), None)
    if start is None:
        return ["# No keyword of the exposure's start was found: frames have no time."]
    exposure = next((key for key in _EXPOSURES if key in header), None)
    return [
        "# The scale is utc unless TIMESYS says tai.",
        "time:",
        f"  start: {start}",
        *([f"  exposure: {exposure}"] if exposure else []),
        f"  scale: {'tai' if str(header.get('TIMESYS', '')).strip().upper() == 'TAI' else 'utc'}",
    ]


def _scaled(header: fits.Header) -> list[str]:
    unit = re.sub(r"[^ -~]", "", str(header.get("BUNIT", "")).strip())[:40] or "adu"
    if unit.lower() in ("nanomaggy", "nanomaggies", "nmgy"):
        return ["unit: nanomaggy"]
    lines = [f"unit: {_quoted(unit)}"]
    key = next((key for key in _ZERO_POINTS if key in header), None)
    if key is not None:
        lines += [
            f"# {key} is {header[key]}. Where that is the AB magnitude of a source of 1 in this unit, say",
            "# so; where it is that of 1 per second and the image holds counts, add `per_second: EXPTIME`.",
            f"# zero_point: {{magnitude: {key}}}",
        ]
    else:
        lines += ["# zero_point: {magnitude: 25.0}"]
    gain = next((key for key in _GAINS if key in header), None)
    if gain is not None:
        lines += [f"# With a weight of the sky alone, the objects' own noise is added by `gain: {gain}`."]
    return lines


def _identified(header: fits.Header, keyed: bool) -> list[str]:
    key = next((key for key in _IDS if str(header.get(key, "")).strip()), None)
    template = "-".join([f"{{{key}}}" if key else "{file}", *(["{key}"] if keyed else []), "{band}"])
    return ["# Unique for every frame of the survey.", f"id: {_quoted(template)}"]


def _pixel(header: fits.Header, own: fits.Header, path: Path) -> float:
    """Return the width of a file's pixels, arcsec."""
    nx, ny = (fits.integer(own, key, path, 1) for key in ("NAXIS1", "NAXIS2"))
    error: FileError | None = None
    for nominal in _ANY_PIXEL:
        try:
            return wcs.celestial(header, (ny, nx), path, nominal).pixel_arcsec
        except FileError as found:
            error = found
    assert error is not None  # noqa: S101 - the loop ran
    raise error


def _escaped(text: str) -> str:
    """Return a regular expression for a text alone; unlike `re.escape` it leaves blanks as they are."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _quoted(text: str) -> str:
    """Return text as YAML reads it in any case."""
    return "'" + text.replace("'", "''") + "'"
