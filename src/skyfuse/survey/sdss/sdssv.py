"""SDSS-V optical spectra of the BOSS spectrographs: ``spec-<field>-<mjd>-<catalogid>.fits``.

They have the pixels of SDSS-I to IV, but no plates: HDU 2 (SPALL) tells the field, and the target by its
CATALOGID (idlspec2d v6).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import Spectrum, SpectrumInfo
from skyfuse.survey.sdss.instrument import SDSS
from skyfuse.survey.sdss.spectra import PIXELS, VERDICTS, catalogue_of, spectrum_of

_PLACES = (("RACAT", "DECCAT"), ("PLUG_RA", "PLUG_DEC"), ("FIBER_RA", "FIBER_DEC"))
_TARGET = {"FIELD": "iuS", "MJD": "iu", "CATALOGID": "iuS"} | {name: "f" for pair in _PLACES for name in pair}
_WANTED = VERDICTS | _TARGET
# Targets that had no number when they were observed have one of letters too.
_WORD = re.compile(r"[A-Za-z0-9_]{1,40}")
_MOST_BYTES = 1 << 28


def _info(row: dict[str, NDArray[Any]], path: Path) -> SpectrumInfo:
    """Return what identifies a spectrum from the one row of HDU 2."""
    if not {"FIELD", "MJD", "CATALOGID"} <= set(row) or any(column.shape != (1,) for column in row.values()):
        raise FileError(
            "HDU 2 lacks one row with FIELD, MJD and CATALOGID", reason="wrong-hdus", remedy=AGAIN, path=path
        )
    place = next((pair for pair in _PLACES if set(pair) <= set(row)), None)
    if place is None:
        raise FileError("HDU 2 has no RACAT and DECCAT", reason="missing-keyword", remedy=AGAIN, path=path)
    ra, dec = (float(row[name][0]) for name in place)
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise FileError(
            f"its position {(ra, dec)} is not on the sky", reason="bad-values", remedy=AGAIN, path=path
        )
    field, catalogid = _word(row["FIELD"][0], path), _word(row["CATALOGID"][0], path)
    mjd = int(fits.require_date(int(row["MJD"][0]), path))
    return SpectrumInfo(
        spectrum_id=f"sdss-{field}-{mjd}-{catalogid}",
        survey="sdss",
        plate=None,
        mjd=mjd,
        fiberid=None,
        ra=ra % 360.0,
        dec=dec,
    )


def _word(value: np.generic, path: Path) -> str:
    """Return an identifier, of digits or text, as text."""
    raw = value.item()
    word = fits.printable(raw.rstrip(b"\0 "), path).strip() if isinstance(raw, bytes) else str(raw)
    if not _WORD.fullmatch(word):
        raise FileError(
            f"HDU 2 calls its field or target {word!r}", reason="bad-values", remedy=AGAIN, path=path
        )
    return word


class SpectrumReader:
    """Spectra in the lite or the full format."""

    name = "sdss-v-spectra"
    instruments = (SDSS,)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether HDU 1 holds the pixels, and HDU 2 says which target of which field they are of."""
        if file.header.get("NAXIS") != 0 or "FIBERID" in file.header or len(file.headers) < 3:
            return False
        pixels, target = (fits.column_names(header) for header in file.headers[1:3])
        return {"FLUX", "LOGLAM", "IVAR"} <= pixels and {"FIELD", "CATALOGID"} <= target

    def records(self, file: SurveyFile) -> list[SpectrumInfo]:
        """Return the one spectrum of the file."""
        _, _, row, _ = self._row(file.path)
        return [_info(row, file.path)]

    def _row(self, path: Path) -> tuple[memoryview, list[fits.HDU], dict[str, NDArray[Any]], str]:
        content, hdus, sha256 = fits.read(path, most=_MOST_BYTES)
        if len(hdus) < 3:
            raise FileError(
                "it lacks the spectrum or the verdict (HDUs 1 and 2)",
                reason="wrong-hdus",
                remedy=AGAIN,
                path=path,
            )
        return content, hdus, fits.table(content, hdus[2], path, _WANTED), sha256

    def read(self, path: Path, key: str, options: Options) -> Spectrum:
        """Read the spectrum; `key` is empty. Pixels are valid as of `spectra.read_spectrum`."""
        content, hdus, row, sha256 = self._row(path)
        info = _info(row, path)
        verdicts = {name: column for name, column in row.items() if name in VERDICTS}
        catalogue = catalogue_of(verdicts, path, keep_unclassified=options.keep_unclassified)
        if not options.keep_unknown:
            spectra.require_object(catalogue["zwarning"], catalogue["objtype"].upper(), path)
        pixels = fits.table(content, hdus[1], path, PIXELS)
        return spectrum_of(info, pixels, sha256, catalogue, path)
