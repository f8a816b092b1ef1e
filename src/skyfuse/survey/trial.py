"""A reader tried on a file: what it makes of it, and whether its σ is that of the pixels' own scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from skyfuse.errors import FileError, shown
from skyfuse.survey.described.pixels import scatter
from skyfuse.survey.reader import Options, Partner, Reader, Refused, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo, Instrument, SpectrumInfo


@dataclass(frozen=True, slots=True)
class Tried:
    """What a reader makes of one record of a file, or of the file where that is all there is to say.

    Attributes
    ----------
    key : str
    what : str
        ``frame``, ``spectrum``, ``partner`` or ``refused``.
    reason, message : str or None
        Of what is refused: the ledger's word and the message; of a partner, the file that it belongs to.
    facts : dict
        Of a frame and a spectrum: what the index would hold, and what the pixels tell.
    """

    key: str
    what: str
    reason: str | None
    message: str | None
    facts: dict[str, Any]


def try_file(reader: Reader, path: Path) -> list[Tried]:
    """Read all records of a file.

    Parameters
    ----------
    reader : Reader
    path : Path

    Returns
    -------
    list of Tried
        One for each record; of a file that is not the reader's, one with the reason ``unknown-kind``.
    """
    file = SurveyFile(path)
    try:
        if not reader.recognises(file):
            raise FileError(
                f"it is not recognised as one of {reader.name}",
                reason="unknown-kind",
                remedy="compare its headers and name with what the description asks for",
                path=path,
            )
        return [_tried(reader, path, record) for record in reader.records(file)]
    except FileError as error:
        return [Tried("", "refused", error.reason, str(error), {})]


def _tried(reader: Reader, path: Path, record: FrameInfo | SpectrumInfo | Refused | Partner) -> Tried:
    if isinstance(record, Partner):
        return Tried("", "partner", None, record.of, {})
    if isinstance(record, Refused):
        return Tried(record.key, "refused", record.reason, record.message, {})
    try:
        read = reader.read(path, record.key, Options())
    except FileError as error:
        return Tried(record.key, "refused", error.reason, str(error), {})
    if isinstance(read, Frame):
        (imaging,) = [one.imaging for one in reader.instruments if one.name == read.info.instrument]
        own = {"unit": read.info.unit or imaging.unit, "cut": read.info.unit is None} if imaging else {}
        return Tried(record.key, "frame", None, None, _facts(read, path) | own)
    return Tried(record.key, "spectrum", None, None, asdict(read.info) | {"bins": len(read.flux)})


def _facts(frame: Frame, path: Path) -> dict[str, Any]:
    """Return what a frame's header and its pixels tell."""
    valid = np.isfinite(frame.value)
    try:
        ratio = scatter(frame.value, frame.sigma.astype(np.float64) ** 2, valid, path)
    except FileError:
        ratio = None
    told = {name: value for name, value in asdict(frame.info).items() if value is not None and name != "wcs"}
    return told | {
        "pixel_arcsec": float(np.mean(proj_plane_pixel_scales(WCS(frame.info.wcs)))) * 3600,
        "pixels": valid.size,
        "invalid": int(valid.size - valid.sum()),
        "median": float(np.median(frame.value[valid])),
        "sky_sigma": frame.sky_sigma,
        "scatter": ratio,
    }


def summary(instrument: Instrument) -> str:
    """Return in one line what an instrument delivers."""
    parts = []
    if instrument.imaging is not None:
        one = instrument.imaging
        parts.append(
            f"images {', '.join(one.bands)}; {one.pixel_arcsec:g} arcsec a pixel; {one.unit}; "
            f"cutouts of {one.size} pixels, {one.zooms} zooms"
        )
    if instrument.spectroscopy is not None:
        parts.append(f"spectra on the grid {instrument.spectroscopy.grid}; {instrument.spectroscopy.unit}")
    return "; ".join(parts)


def lines(tried: Sequence[Tried]) -> list[str]:
    """Return what a trial found as lines of text."""
    found = []
    for one in tried:
        name = f"{one.key}: " if one.key else ""
        if one.what == "refused":
            found.append(f"{name}refused, {one.reason}: {one.message}")
        elif one.what == "partner":
            found.append(f"read together with {shown(one.message or '')}")
        elif one.what == "spectrum":
            found.append(f"{name}spectrum {one.facts['spectrum_id']}, {one.facts['bins']} bins")
        else:
            found += _frame_lines(name, one.facts)
    return found


def _frame_lines(name: str, facts: dict[str, Any]) -> list[str]:
    ny, nx = facts["shape"]
    ratio = facts["scatter"]
    time = f"MJD {facts['mjd']:.5f} (TAI)" if "mjd" in facts else "no time"
    cut = "" if facts["cut"] else ": no zero point is known, so no object is cut from it"
    return [
        f"{name}frame {facts['frame_id']}, band {facts['band']}, {time}",
        f"  {nx} x {ny} pixels of {facts['pixel_arcsec']:.4g} arcsec "
        f"around {facts['ra']:.5f} {facts['dec']:+.5f}",
        f"  value = {facts['scale']:.6g} x image, {facts['unit']}{cut}",
        f"  {facts['invalid']} of {facts['pixels']} pixels invalid; median {facts['median']:.4g}, "
        f"sigma of empty pixels {facts['sky_sigma']:.4g}",
        "  too few pixels to measure their scatter"
        if ratio is None
        else f"  neighbouring pixels scatter by {ratio:.3f} sigma (1: sigma is right; less after resampling)",
        *([f"  caution: {facts['caution']}"] if facts["caution"] else []),
        *(f"  with {shown(partner)}" for partner in facts["partners"]),
    ]
