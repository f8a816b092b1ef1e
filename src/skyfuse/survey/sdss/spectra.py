"""SDSS spectra of DR8 and later: ``spec-<plate>-<mjd>-<fibre>.fits`` of the SDSS data model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.records import Spectrum, SpectrumInfo
from skyfuse.survey.sdss.instrument import SDSS

# Bits of SPPIXMASK, in `and_mask`: set in every exposure that went into the pixel. The SDSS page of SPPIXMASK
# says that what is very bad has ivar = 0 already, and names BRIGHTSKY as the bit to look at beyond that. Of
# the good pixels of 173 real spectra, BRIGHTSKY takes 3.9 %, BADSKYCHI 0.03 %, the others none; NOPLUG and
# BADARC make the whole spectrum or its wavelengths meaningless. The bits that only warn of the fibre or of
# larger errors (BADFLAT, MANYBADCOLUMNS, NEARBADPIXEL, LOWFLAT, PARTIALREJECT and so on) stay: their pixels'
# errors allow for it. NODATA (24) is deprecated in favour of ivar = 0.
BAD_BITS = (
    1 << 0  # NOPLUG: fibre not listed in the plug map
    | 1 << 3  # BADARC: bad arc solution
    | 1 << 18  # FULLREJECT: fully rejected in extraction
    | 1 << 22  # NOSKY: sky level unknown at this wavelength
    | 1 << 23  # BRIGHTSKY: sky so bright that its subtraction may not be trusted
    | 1 << 25  # COMBINEREJ: rejected in the combination of exposures
    | 1 << 27  # BADSKYCHI: chi² > 3 in the sky residuals at this wavelength
    | 1 << 28  # REDMONSTER: a whole region of such
)
PIXELS = {"FLUX": "f", "LOGLAM": "f", "IVAR": "f", "AND_MASK": "iu", "OR_MASK": "iu", "SKY": "f"}
VERDICTS = {
    "CLASS": "S",
    "SUBCLASS": "S",
    "Z": "f",
    "Z_ERR": "f",
    "ZWARNING": "iu",
    "SN_MEDIAN_ALL": "f",
    "OBJTYPE": "S",
    "SOURCETYPE": "S",
    "PLATE": "iu",
    "MJD": "iu",
    "FIBERID": "iu",
    "PLUG_RA": "f",
    "PLUG_DEC": "f",
}
# Degrees: headers round positions to 1e-5 or so.
_SAME_PLACE = 1e-3
# Half a unit in the last place of a float32 near 4, in bins of 1e-4, with room for one rounding more.
_BIN_TOLERANCE = 5e-3
# Of a file, decompressed: the full format has all exposures, some MB.
_MOST_BYTES = 1 << 28


def is_spectrum(header: fits.Header) -> bool:
    """Tell whether a primary header claims to be an SDSS spectrum's."""
    return "PLATEID" in header and "FIBERID" in header


def spectrum_info(header: fits.Header, path: Path) -> SpectrumInfo:
    """Check a spectrum's primary header and keep what identifies the spectrum.

    Its survey is ``sdss``, or ``mock`` where TELESCOP says that no telescope took it.

    Raises
    ------
    FileError
        ``unknown-kind``, ``damaged``, ``missing-keyword`` or ``bad-values``.
    """
    fits.require_one_voice(header, path)
    # As many digits as the names of the archive's files have.
    plate = fits.integer(header, "PLATEID", path, 1, 999_999)
    mjd = int(fits.require_date(fits.integer(header, "MJD", path), path))
    fiberid = fits.integer(header, "FIBERID", path, 1, 9999)
    ra, dec = fits.position(header, "PLUG_RA", "PLUG_DEC", path)
    survey = fits.survey(header, "sdss")
    return SpectrumInfo(
        spectrum_id=f"{survey}-{plate}-{mjd}-{fiberid}",
        survey=survey,
        plate=plate,
        mjd=mjd,
        fiberid=fiberid,
        ra=ra,
        dec=dec,
    )


def read_spectrum(
    path: str | Path, *, keep_unknown: bool = False, keep_unclassified: bool = False
) -> Spectrum:
    """Read an SDSS spectrum, in the lite or the full format.

    A pixel is invalid where `ivar` is 0 or not finite, where `flux` is not finite, and where `and_mask` has
    one of the bits that say that the pixel cannot be trusted (SPPIXMASK: NOPLUG, BADARC, FULLREJECT, NOSKY,
    BRIGHTSKY, COMBINEREJ, BADSKYCHI, REDMONSTER).

    Parameters
    ----------
    path : path
        ``spec-*.fits``, plain or compressed with bzip2 or gzip.
    keep_unknown : bool
        Also read fibres that saw no known object: sky, unplugged, without a usable position.
    keep_unclassified : bool
        Also read spectra without the pipeline's verdicts: those that end after HDU 1 or 2, and those whose
        HDU 2 has no CLASS, Z or ZWARNING. What is not told is None in `catalogue`.

    Returns
    -------
    Spectrum

    Raises
    ------
    FileError
        As `skyfuse.survey.registry.reader_of`, and ``sky-fibre``, ``unplugged``, ``bad-target``,
        ``no-data``, ``wrong-hdus``, ``bad-values`` or ``no-good-pixels``.
    """
    path = Path(path)
    content, (primary, *others), sha256 = fits.read(path, most=_MOST_BYTES)
    if not is_spectrum(primary.header):
        raise FileError(
            "it is no SDSS spectrum", reason="unknown-kind", remedy="give a spec-*.fits file", path=path
        )
    info = spectrum_info(primary.header, path)
    if len(others) < (1 if keep_unclassified else 3):
        raise FileError(
            "it lacks the spectrum, the verdict or the lines (HDUs 1 to 3)",
            reason="wrong-hdus",
            remedy=AGAIN,
            path=path,
        )
    pixels = fits.table(content, others[0], path, PIXELS)
    verdicts = fits.table(content, others[1], path, VERDICTS) if len(others) > 1 else {}
    _require_same_spectrum(verdicts, info, path)
    catalogue = catalogue_of(verdicts, path, keep_unclassified=keep_unclassified)
    if not keep_unknown:
        spectra.require_object(catalogue["zwarning"], catalogue["objtype"], path)
    return spectrum_of(info, pixels, sha256, catalogue, path)


def spectrum_of(
    info: SpectrumInfo,
    pixels: dict[str, NDArray[Any]],
    sha256: str,
    catalogue: dict[str, Any],
    path: Path,
) -> Spectrum:
    """Return a spectrum from the table of its pixels, as the ``spec`` files of all releases have it.

    Parameters
    ----------
    info : SpectrumInfo
    pixels : dict of ndarray
        Columns FLUX, LOGLAM, IVAR, and AND_MASK, or else OR_MASK: set in any exposure. SKY may be missing.
    sha256 : str
    catalogue : dict
        Its ``sn_median`` is filled where the pipeline tells none.
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``wrong-hdus``, ``bad-values`` or ``no-good-pixels``.
    """
    mask = pixels.get("AND_MASK", pixels.get("OR_MASK"))
    lacking = mask is None or not {"FLUX", "LOGLAM", "IVAR"} <= set(pixels)
    if mask is None or lacking or any(column.ndim > 1 or len(column) < 2 for column in pixels.values()):
        raise FileError(
            "HDU 1 lacks FLUX, LOGLAM, IVAR or AND_MASK", reason="wrong-hdus", remedy=AGAIN, path=path
        )
    loglam = pixels["LOGLAM"].astype(np.float64)
    spectra.require_wavelengths(loglam, path)
    loglam, first_bin = spectra.on_ladder(loglam, _BIN_TOLERANCE)
    flux, sigma = spectra.flux_and_sigma(pixels["FLUX"], pixels["IVAR"], mask & BAD_BITS != 0, path)
    if catalogue["sn_median"] is None:
        catalogue["sn_median"] = spectra.sn_median(flux, sigma)
    sky = pixels["SKY"].astype(np.float32) if "SKY" in pixels else None
    return Spectrum(info, 10.0**loglam, flux, sigma, first_bin, sha256, catalogue, sky=sky)


def _require_same_spectrum(row: dict[str, NDArray[Any]], info: SpectrumInfo, path: Path) -> None:
    """Refuse a file whose HDU 2 is about another spectrum."""
    if any(column.shape != (1,) for column in row.values()):
        raise _no_verdict(path)
    for name, own in (("PLATE", info.plate), ("MJD", info.mjd), ("FIBERID", info.fiberid)):
        if name in row and int(row[name][0]) != own:
            raise FileError(
                f"HDU 2 is about another spectrum: its {name} is {row[name][0]}, that of HDU 0 {own}",
                reason="bad-values",
                remedy=AGAIN,
                path=path,
            )

    for name, place in (("PLUG_RA", info.ra), ("PLUG_DEC", info.dec)):
        # Also where it is NaN; 360° is 0°.
        if name in row and not abs((float(row[name][0]) - place + 180) % 360 - 180) <= _SAME_PLACE:
            raise FileError(
                f"HDU 2 has another place: its {name} is {row[name][0]}, that of HDU 0 {place}",
                reason="bad-values",
                remedy=AGAIN,
                path=path,
            )


def _no_verdict(path: Path) -> FileError:
    return FileError(
        "HDU 2 lacks one row with CLASS, Z and ZWARNING", reason="wrong-hdus", remedy=AGAIN, path=path
    )


def catalogue_of(row: dict[str, NDArray[Any]], path: Path, *, keep_unclassified: bool) -> dict[str, Any]:
    """Return the pipeline's verdicts from the one row of HDU 2, whose columns are `VERDICTS`.

    Raises
    ------
    FileError
        ``wrong-hdus`` or ``bad-values``.
    """
    lacking = not (keep_unclassified or {"CLASS", "Z", "ZWARNING"} <= set(row))
    if lacking or any(column.shape != (1,) for column in row.values()):
        raise _no_verdict(path)

    def text(*names: str) -> str:
        found = next((row[name][0] for name in names if name in row), b"")
        # FITS pads with NUL or blanks.
        return fits.printable(bytes(found).rstrip(b"\0 "), path).strip()

    def number(name: str, least: float, most: float) -> float | None:
        if name not in row:
            return None
        return spectra.within(float(row[name][0]), least, most, f"HDU 2 says {name}", path)

    kind = text("CLASS") if "CLASS" in row else None
    spectra.require_class(kind, "HDU 2 says CLASS", path, also=("",))
    return {
        "class": kind,
        "subclass": text("SUBCLASS") if "CLASS" in row else None,
        "z": number("Z", *spectra.REDSHIFTS),
        # Negative: the pipeline's codes for a fit that failed.
        "z_err": number("Z_ERR", -100, 1e4),
        "zwarning": int(row["ZWARNING"][0]) if number("ZWARNING", 0, 2**16) is not None else None,
        "sn_median": number("SN_MEDIAN_ALL", -1e5, 1e5),
        "objtype": text("OBJTYPE", "SOURCETYPE"),
    }


class SpectrumReader(spectra.OneSpectrumReader):
    """Spectra in the lite or the full format, ``spec-*.fits``."""

    name = "sdss-spectra"
    instruments = (SDSS,)
    info = staticmethod(spectrum_info)
    spectrum = staticmethod(read_spectrum)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the primary header is a spectrum's; before DR8 it had an image."""
        return is_spectrum(file.header) and file.header.get("NAXIS") != 2
