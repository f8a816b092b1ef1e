"""What readers of spectra have in common: checks of wavelengths, fluxes and verdicts, the bins of SDSS."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import Spectrum, SpectrumInfo

REDSHIFTS = (-0.1, 10.0)
"""Of stars and galaxies that fall towards us, to those whose Lyman α is infrared."""

FLUX_UNIT = u.Unit("1e-17 erg s-1 cm-2 Angstrom-1")
"""Of fluxes in a cube, where they are calibrated absolutely."""

# How headers abbreviate it. In the standard "A" is the ampere, which no flux of light has.
_ANGSTROM = re.compile(r"\b(A|AA|Ang|Angstroms)\b")

CLASSES = ("GALAXY", "QSO", "STAR")
"""Words of SDSS for what an object is, which the catalogues of all surveys are brought to."""

# log10 Å: 1000 Å to 10 µm.
_LOGLAM = (3.0, 5.0)
# A step may be so many times the one before: smooth grids of any kind pass, one lost pixel does not.
_MOST_UNEVEN = 1.5
# 1e-17 erg/s/cm²/Å: Sirius has 1.3e9 at its brightest.
_MOST_FLUX = 1e10
# No σ is a millionth of the unit: the faintest of real spectra are a tenth.
_MOST_IVAR = 1e12
# Half a unit in the last place of the five decimals of COEFF0, in bins of 1e-4, with room for one rounding.
_COEFF_TOLERANCE = 5e-2
# Bits of ZWARNING that mean that the fibre saw no known object (SDSS page of ZWARNING). Those of redrock's
# ZWARN are the same.
_NO_OBJECT = (
    (1 << 0, "sky-fibre", "a sky fibre"),
    (1 << 7, "unplugged", "a fibre that was unplugged or broken"),
    (1 << 8, "bad-target", "a fibre with a catastrophically bad position"),
    (1 << 9, "no-data", "a fibre without data"),
)
LEFT_OUT = "leave it out, or read it from Python with keep_unknown=True"
"""Remedy where a fibre saw no known object."""


class OneSpectrumReader:
    """What readers share whose files hold one spectrum each, of which the primary header tells all.

    Attributes
    ----------
    info : callable
        Takes the primary header and the path.
    spectrum : callable
        Takes the path, `keep_unknown` and `keep_unclassified`.
    """

    info: Callable[[fits.Header, Path], SpectrumInfo]
    spectrum: Callable[..., Spectrum]

    def records(self, file: SurveyFile) -> list[SpectrumInfo]:
        """Return the one spectrum of the file."""
        return [self.info(file.header, file.path)]

    def read(self, path: Path, key: str, options: Options) -> Spectrum:
        """Read the spectrum; `key` is empty."""
        return self.spectrum(
            path, keep_unknown=options.keep_unknown, keep_unclassified=options.keep_unclassified
        )


def require_wavelengths(loglam: NDArray[np.float64], path: Path) -> None:
    """Refuse wavelengths that do not rise evenly, or are none of ultraviolet to infrared light.

    Parameters
    ----------
    loglam : ndarray of float64, shape (n,)
        log10 of Å; n ≥ 2.

    Raises
    ------
    FileError
        ``bad-values``.
    """
    steps = np.diff(loglam)
    # Also false where anything is NaN.
    if not ((loglam > _LOGLAM[0]) & (loglam < _LOGLAM[1])).all():
        fault = f"its wavelengths are not from {10 ** _LOGLAM[0]:.0f} to {10 ** _LOGLAM[1]:.0f} Å"
    elif not (steps > 0).all():
        fault = "its wavelengths do not rise"
    # Bins reach half way to their neighbours: those beside a gap would reach into it.
    elif (
        not (steps[1:] < _MOST_UNEVEN * steps[:-1]).all() or not (steps[:-1] < _MOST_UNEVEN * steps[1:]).all()
    ):
        fault = "its wavelengths jump"
    else:
        return
    raise FileError(fault, reason="bad-values", remedy=AGAIN, path=path)


def require_flux_unit(text: str, path: Path) -> None:
    """Refuse a unit of flux, as a header writes it, that is not 1e-17 erg/s/cm²/Å.

    Raises
    ------
    FileError
        ``wrong-unit``.
    """
    plain = _ANGSTROM.sub("Angstrom", text).replace("ergs", "erg")
    with warnings.catch_warnings():
        # Of several slashes, which the standard discourages.
        warnings.simplefilter("ignore", u.UnitsWarning)
        found = u.Unit(plain, parse_strict="silent")
    if not found.is_equivalent(FLUX_UNIT) or abs(float(found.to(FLUX_UNIT)) - 1) > 1e-6:
        raise FileError(
            f"its fluxes are in {text!r}, not in 1e-17 erg/s/cm²/Å",
            reason="wrong-unit",
            remedy=AGAIN,
            path=path,
        )


def require_fluxes(flux: NDArray[Any], ivar: NDArray[Any], path: Path) -> None:
    """Refuse a spectrum whose valid pixels are none, or brighter or more exact than any.

    Raises
    ------
    FileError
        ``no-good-pixels`` or ``bad-values``.
    """
    if not flux.size:
        raise FileError("none of its pixels is valid", reason="no-good-pixels", remedy=AGAIN, path=path)
    if np.abs(flux).max() > _MOST_FLUX or ivar.max() > _MOST_IVAR:
        raise FileError(
            f"its fluxes reach {np.abs(flux).max():.3g} and their inverse variances {ivar.max():.3g}, "
            "more than any spectrograph's",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )


def require_object(zwarning: int | None, objtype: str | None, path: Path) -> None:
    """Refuse a fibre of which the flags say that it saw no known object.

    Raises
    ------
    FileError
        ``sky-fibre``, ``unplugged``, ``bad-target`` or ``no-data``.
    """
    for bit, reason, fault in _NO_OBJECT:
        if (zwarning or 0) & bit:
            raise FileError(f"it is {fault}", reason=reason, remedy=LEFT_OUT, path=path)
    if objtype == "SKY":
        raise FileError("it is a sky fibre", reason="sky-fibre", remedy=LEFT_OUT, path=path)


def require_class(name: str | None, said: str, path: Path, also: Sequence[str] = ()) -> None:
    """Refuse a class that is none of `CLASSES` or of `also`; None is for what was not classified.

    Parameters
    ----------
    name : str or None
    said : str
        Beginning of the message, e.g. ``HDU 2 says CLASS``.
    path : Path
        For messages.
    also : sequence of str

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if name is not None and name not in (*CLASSES, *also):
        raise FileError(
            f"{said} = {name!r}, none of {', '.join(filter(None, (*CLASSES, *also)))}",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )


def within(value: float, least: float, most: float, said: str, path: Path) -> float:
    """Return a value of a table or header, or refuse one that cannot be; `said` as in `require_class`.

    Raises
    ------
    FileError
        ``bad-values``, also where it is NaN.
    """
    if not least <= value <= most:
        raise FileError(
            f"{said} = {value}, not from {least} to {most}",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    return value


def on_ladder(loglam: NDArray[np.float64], tolerance: float) -> tuple[NDArray[np.float64], int | None]:
    """Return wavelengths exactly on the bins log10 λ = k · 1e-4 where they are these but for rounding.

    Parameters
    ----------
    loglam : ndarray of float64, shape (n,)
        log10 of Å.
    tolerance : float
        What the file's rounding can move a bin by, in bins.

    Returns
    -------
    loglam : ndarray of float64, shape (n,)
    first_bin : int or None
        k of the first; None where they are other bins, which stay as they are.
    """
    bins = np.rint(loglam * 1e4)
    if np.abs(loglam * 1e4 - bins).max() < tolerance and (np.diff(bins) == 1).all():
        return bins * 1e-4, int(bins[0])
    return loglam, None


def described_bins(header: fits.Header, size: int, path: Path) -> tuple[NDArray[np.float64], int | None]:
    """Return the wavelengths ``log10 λ = COEFF0 + COEFF1 · i`` of a header, and as `on_ladder` the first bin.

    Raises
    ------
    FileError
        ``missing-keyword`` or ``bad-values``.
    """
    start, step = fits.number(header, "COEFF0", path), fits.number(header, "COEFF1", path)
    if not (abs(start) < 10 and abs(step) < 1):
        raise FileError(
            f"its wavelengths begin at COEFF0 = {start} with steps of COEFF1 = {step}",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    loglam = start + step * np.arange(size, dtype=np.float64)
    require_wavelengths(loglam, path)
    return on_ladder(loglam, _COEFF_TOLERANCE)


def flux_and_sigma(
    flux: NDArray[Any], ivar: NDArray[Any], masked: NDArray[np.bool_], path: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return flux and σ of a spectrum, both NaN where it is masked or not finite, or has no inverse variance.

    Raises
    ------
    FileError
        As `require_fluxes`.
    """
    good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf) & ~masked
    require_fluxes(flux[good], ivar[good], path)
    # What does not fit, in whichever precision, is masked.
    with np.errstate(over="ignore"):
        flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
    good &= ivar > 0
    sigma = np.full(flux.size, np.nan, np.float32)
    sigma[good] = 1 / np.sqrt(ivar[good])
    flux[~good] = np.nan
    return flux, sigma


def ivar_of(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return inverse variances, 0 where a σ is not above 0 or not finite."""
    given = np.isfinite(sigma) & (sigma > 0)
    with np.errstate(over="ignore"):
        return np.where(given, np.where(given, sigma, 1) ** -2.0, 0)


def sn_median(flux: NDArray[np.float32], sigma: NDArray[np.float32]) -> float:
    """Return the median signal to noise over the valid pixels of a spectrum."""
    good = np.isfinite(sigma)
    return float(np.median(flux[good] / sigma[good]))
