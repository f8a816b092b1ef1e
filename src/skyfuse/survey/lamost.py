"""LAMOST low-resolution spectra (DR1 and the pilot survey): ``spec-<LMJD>-<plan>_sp<nn>-<fibre>.fits``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.records import Instrument, Spectroscopy, Spectrum, SpectrumInfo
from skyfuse.survey.spectra import LEFT_OUT

LAMOST = Instrument("lamost", spectroscopy=Spectroscopy("sdss"))
"""Its bins are those of SDSS, so that both fit one grid."""

# Rows of the primary image (LAMOST DR1, data production description, 2.3). What row 2 holds differs: the
# wavelengths, or in files of the pilot survey's pipeline the continuum-subtracted spectrum (card EXTEN0). The
# wavelengths are therefore those of the header, which both have.
_FLUX, _IVAR, _AND_MASK = 0, 1, 3
_ROWS = 5
# FIBERTYP of fibres that saw no object, and the ledger's word for each.
_NO_OBJECT = {"sky": "sky-fibre", "unused": "unplugged", "dead": "unplugged", "poserr": "bad-target"}
_NO_REDSHIFT = -9999.0
_NAME = re.compile(r"spec-\d+-.+_sp\d+-\d+\.")
# What the LAMOST 1D pipeline calls what it could not classify (DR1, 3.2), in upper case.
_UNCLASSIFIED = "UNKNOWN"
# Of a file, decompressed: 0.1 MB.
_MOST_BYTES = 1 << 26


def is_spectrum(header: fits.Header) -> bool:
    """Tell whether a primary header claims to be a LAMOST spectrum's."""
    return all(key in header for key in ("PLANID", "SPID", "FIBERID", "COEFF0"))


def spectrum_info(header: fits.Header, path: Path) -> SpectrumInfo:
    """Check a spectrum's primary header and keep what identifies the spectrum.

    `plate` is the number of the spectrograph (SPID), and `mjd` the local MJD of the file's name; together
    with `fiberid` they need not be unique, as several plans are observed in one night. `spectrum_id` is.

    Raises
    ------
    FileError
        ``damaged``, ``missing-keyword`` or ``bad-values``.
    """
    fits.require_one_voice(header, path)
    # As many digits as the names of the archive's files have.
    spectrograph = fits.integer(header, "SPID", path, 1, 99)
    mjd = int(fits.require_date(fits.integer(header, "LMJD", path), path))
    fibre = fits.integer(header, "FIBERID", path, 1, 999)
    ra, dec = fits.position(header, "RA", "DEC", path)
    survey = fits.survey(header, "lamost")
    plan = fits.text(header, "PLANID", path)
    name = f"{mjd}-{plan}_sp{spectrograph:02d}-{fibre:03d}"
    own = str(header.get("FILENAME", ""))
    if _NAME.match(own) and not own.startswith(f"spec-{name}."):
        raise FileError(
            f"its header calls it {own!r}, and makes it spec-{name}",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    return SpectrumInfo(
        spectrum_id=f"{survey}-{name}",
        survey=survey,
        plate=spectrograph,
        mjd=mjd,
        fiberid=fibre,
        ra=ra,
        dec=dec,
        instrument="lamost",
    )


def read_spectrum(
    path: str | Path, *, keep_unknown: bool = False, keep_unclassified: bool = False
) -> Spectrum:
    """Read a LAMOST spectrum of the DR1 layout.

    The wavelengths, vacuum and heliocentric, are ``log10 λ = COEFF0 + COEFF1 · i``: the SDSS grid where
    COEFF1 is 1e-4. The flux is calibrated relatively only: its scale has no unit, unlike that of SDSS. A
    pixel is invalid where its inverse variance is 0 or not finite, where its flux is not finite, and where
    the and-mask is set: bad in all exposures.

    Parameters
    ----------
    path : path
        ``spec-*.fits``, plain or compressed with bzip2 or gzip.
    keep_unknown : bool
        Also read fibres that saw no object: sky, unused, dead, off their position.
    keep_unclassified : bool
        Also read spectra whose header has no CLASS or Z. What is not told is None in `catalogue`.

    Returns
    -------
    Spectrum
        `catalogue` has no ``zwarning``: LAMOST gives none. An object that its pipeline could not classify
        has the class ``UNKNOWN`` and no redshift.

    Raises
    ------
    FileError
        As `skyfuse.survey.registry.reader_of`, and ``sky-fibre``, ``unplugged``, ``bad-target``,
        ``wrong-hdus``, ``wrong-unit``, ``bad-values`` or ``no-good-pixels``.
    """
    path = Path(path)
    content, (primary, *_), sha256 = fits.read(path, most=_MOST_BYTES)
    header = primary.header
    if not is_spectrum(header):
        raise FileError(
            "it is no LAMOST spectrum", reason="unknown-kind", remedy="give a DR1 spec-*.fits", path=path
        )
    info = spectrum_info(header, path)
    if not keep_unclassified and not {"CLASS", "Z"} <= header.keys():
        raise FileError("its header has no CLASS or no Z", reason="missing-keyword", remedy=AGAIN, path=path)
    if header.get("BITPIX") != -32 or header.get("NAXIS") != 2 or header.get("NAXIS2") != _ROWS:
        raise FileError(
            f"HDU 0 is no image of {_ROWS} rows of 32-bit floats",
            reason="wrong-hdus",
            remedy="give spectra of LAMOST DR1; later releases have another layout",
            path=path,
        )
    fits.require_plain_image(header, path)
    if header.get("VACUUM", True) is not True:
        raise FileError(
            "its wavelengths are not those in vacuum", reason="wrong-unit", remedy=AGAIN, path=path
        )
    fibre = str(header.get("FIBERTYP", "Obj")).strip().lower()
    if fibre in _NO_OBJECT and not keep_unknown:
        raise FileError(
            f"its fibre saw no object (FIBERTYP is {header['FIBERTYP']!r})",
            reason=_NO_OBJECT[fibre],
            remedy=LEFT_OUT,
            path=path,
        )
    size = fits.integer(header, "NAXIS1", path)
    if size < 2:
        raise FileError("it has no spectrum", reason="wrong-hdus", remedy=AGAIN, path=path)
    rows = np.frombuffer(content, ">f4", _ROWS * size, primary.start).reshape(_ROWS, size)
    loglam, first_bin = spectra.described_bins(header, size, path)
    flux, sigma = spectra.flux_and_sigma(rows[_FLUX], rows[_IVAR], rows[_AND_MASK] != 0, path)
    catalogue = _catalogue(header, spectra.sn_median(flux, sigma), path)
    wavelength = np.power(10.0, loglam)
    return Spectrum(info, wavelength, flux, sigma, first_bin, sha256, catalogue)


def _catalogue(header: fits.Header, sn_median: float, path: Path) -> dict[str, Any]:
    """Return the pipeline's verdicts, in the words of SDSS."""

    def number(key: str, least: float, most: float) -> float | None:
        value = fits.number(header, key, path) if key in header else _NO_REDSHIFT
        if value == _NO_REDSHIFT:
            return None
        return spectra.within(value, least, most, f"its header says {key}", path)

    def text(key: str) -> str | None:
        return fits.text(header, key, path) if key in header else None

    name = text("CLASS")
    name = None if name is None else name.upper()
    spectra.require_class(name, "its header says CLASS", path, also=(_UNCLASSIFIED,))
    return {
        "class": name,
        "subclass": text("SUBCLASS"),
        "z": number("Z", *spectra.REDSHIFTS),
        "z_err": number("Z_ERR", -1e4, 1e4),
        "zwarning": None,
        "sn_median": sn_median,
        "objtype": text("OBJTYPE") or "",
    }


class SpectrumReader(spectra.OneSpectrumReader):
    """Low-resolution spectra of DR1 and the pilot survey."""

    name = "lamost-spectra"
    instruments = (LAMOST,)
    info = staticmethod(spectrum_info)
    spectrum = staticmethod(read_spectrum)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the primary header is a spectrum's."""
        return is_spectrum(file.header)
