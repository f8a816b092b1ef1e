"""SDSS spectra as the releases up to DR7 have them: ``spSpec-<mjd>-<plate>-<fibre>.fit``.

The layout is that of the DR7 data model page of ``spSpec``. The same spectrum as DR8 and later have it has
the same name: both are one observation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.records import Spectrum, SpectrumInfo
from skyfuse.survey.sdss.instrument import SDSS
from skyfuse.survey.sdss.spectra import BAD_BITS, is_spectrum, spectrum_info

# Rows of the primary image.
_FLUX, _ERROR, _MASK = 0, 2, 3
_FEWEST_ROWS = 4
# SPEC_CLN: what the spectro1d pipeline calls an object.
_CLASSES = {0: "UNKNOWN", 1: "STAR", 2: "GALAXY", 3: "QSO", 4: "QSO", 6: "STAR", 7: "GALAXY"}
_SKY = 5
# Of SPPIXMASK as DR7 has it: those of later releases, and NODATA, for which these have no inverse variance.
_BAD_BITS = BAD_BITS | 1 << 24
_MOST_BYTES = 1 << 26


def _info(header: fits.Header, path: Path) -> SpectrumInfo:
    # RAOBJ and DECOBJ are the object's, RA and DEC the telescope's.
    names = {"PLUG_RA": "RAOBJ", "PLUG_DEC": "DECOBJ"}
    for name in names.values():
        fits.number(header, name, path)
    return spectrum_info(header.replaced(names), path)


def _catalogue(header: fits.Header, path: Path) -> dict[str, Any]:
    """Return the pipeline's verdicts, in the words of SDSS.

    There is no ``zwarning``: the bits of Z_WARNIN have other meanings than those of DR8 and later.
    """
    code = fits.integer(header, "SPEC_CLN", path, 0, 7)
    kind = _CLASSES.get(code)
    known = kind not in (None, "UNKNOWN")

    def number(key: str, least: float, most: float) -> float | None:
        value = fits.number(header, key, path)
        return spectra.within(value, least, most, f"it says {key}", path) if known else None

    return {
        "class": kind,
        "subclass": None,
        "z": number("Z", *spectra.REDSHIFTS),
        "z_err": number("Z_ERR", -100, 1e4),
        "zwarning": None,
        "sn_median": None,
        "objtype": "SKY" if code == _SKY else str(header.get("OBJTYPE", "")).strip(),
    }


def read_spectrum(path: Path, *, keep_unknown: bool = False, keep_unclassified: bool = False) -> Spectrum:
    """Read a spectrum of DR7 or before.

    Wavelengths, vacuum and heliocentric, are ``log10 λ = COEFF0 + COEFF1 · i``. A pixel is invalid where its
    error is 0 or not finite, or its mask has a bit as in `skyfuse.survey.sdss.spectra.read_spectrum`, or
    NODATA.

    Parameters
    ----------
    path : Path
    keep_unknown : bool
        Also read fibres on the sky.
    keep_unclassified : bool
        Also read spectra without SPEC_CLN or Z, whose verdicts are None then.

    Raises
    ------
    FileError
        ``sky-fibre``, ``wrong-hdus``, ``wrong-unit``, ``missing-keyword``, ``bad-values``,
        ``no-good-pixels``, or what `skyfuse.survey.fits.read` raises.
    """
    content, (primary, *_), sha256 = fits.read(path, most=_MOST_BYTES)
    header = primary.header
    info = _info(header, path)
    rows, size = header.get("NAXIS2"), fits.integer(header, "NAXIS1", path, 0)
    if (
        header["BITPIX"] != -32
        or header["NAXIS"] != 2
        or not isinstance(rows, int)
        or rows < _FEWEST_ROWS
        or size < 2
    ):
        raise FileError(
            f"HDU 0 is no image of {_FEWEST_ROWS} or more rows of 32-bit floats",
            reason="wrong-hdus",
            remedy=AGAIN,
            path=path,
        )
    fits.require_plain_image(header, path)
    if header.get("VACUUM", 1) not in (1, True):
        raise FileError(
            "its wavelengths are not those in vacuum", reason="wrong-unit", remedy=AGAIN, path=path
        )
    image = np.frombuffer(content, ">f4", rows * size, primary.start).reshape(rows, size)
    loglam, first_bin = spectra.described_bins(header, size, path)
    ivar = spectra.ivar_of(image[_ERROR].astype(np.float64))
    mask = image[_MASK]
    masked = ~np.isfinite(mask) | (np.where(np.isfinite(mask), mask, 0).astype(np.int64) & _BAD_BITS != 0)
    flux, sigma = spectra.flux_and_sigma(image[_FLUX], ivar, masked, path)
    if keep_unclassified and not {"SPEC_CLN", "Z", "Z_ERR"} <= header.keys():
        catalogue: dict[str, Any] = dict.fromkeys(("class", "subclass", "z", "z_err", "zwarning", "objtype"))
    else:
        catalogue = _catalogue(header, path)
    catalogue["sn_median"] = spectra.sn_median(flux, sigma)
    if not keep_unknown:
        spectra.require_object(None, catalogue["objtype"], path)
    return Spectrum(info, 10.0**loglam, flux, sigma, first_bin, sha256, catalogue)


class SpectrumReader(spectra.OneSpectrumReader):
    """Spectra of DR7 and before."""

    name = "sdss-spspec"
    instruments = (SDSS,)
    info = staticmethod(_info)
    spectrum = staticmethod(read_spectrum)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the primary HDU is the image of a spectrum."""
        return is_spectrum(file.header) and file.header.get("NAXIS") == 2 and "RAOBJ" in file.header
