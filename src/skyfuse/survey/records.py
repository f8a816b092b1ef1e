"""What every reader delivers: frames and spectra with their uncertainties, free of survey formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BANDS = "ugriz"
"""SDSS bands in the order in which every image array holds them."""


class Samples(NamedTuple):
    """Values with their uncertainty and coverage; three arrays of one shape.

    Attributes
    ----------
    value : ndarray of float32
        NaN where invalid.
    sigma : ndarray of float32
        Standard deviation, in the unit of `value`; NaN where invalid.
    coverage : ndarray of float16
        Fraction of the underlying native samples that is valid, 0 to 1.
    """

    value: NDArray[np.float32]
    sigma: NDArray[np.float32]
    coverage: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """What a frame's header alone tells, cheap to get even from a compressed file.

    Attributes
    ----------
    frame_id : str
        Unique and stable, e.g. ``sdss-4510-4-30-r``.
    survey : str
    run, camcol, field : int
    band : str
        One of `BANDS`.
    mjd : float
        Time of the exposure's middle, MJD (TAI).
    shape : tuple of int
        Rows and columns (ny, nx).
    wcs : str
        Celestial WCS as FITS header cards, for `astropy.wcs.WCS`.
    ra, dec : float
        Centre of the frame, degrees (ICRS).
    """

    frame_id: str
    survey: str
    run: int
    camcol: int
    field: int
    band: str
    mjd: float
    shape: tuple[int, int]
    wcs: str
    ra: float
    dec: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One calibrated exposure in one band.

    Attributes
    ----------
    info : FrameInfo
    value : ndarray of float32, shape (ny, nx)
        Sky-subtracted surface brightness, nanomaggies a pixel; NaN where invalid.
    sigma : ndarray of float32, shape (ny, nx)
        Standard deviation of `value`; NaN where invalid.
    sky_sigma : float
        Standard deviation of an empty pixel (median over the frame), nanomaggies.
    sha256 : str
        Of the file's bytes as they lie on disk.
    """

    info: FrameInfo
    value: NDArray[np.float32]
    sigma: NDArray[np.float32]
    sky_sigma: float
    sha256: str


@dataclass(frozen=True, slots=True)
class SpectrumInfo:
    """What a spectrum's primary header alone tells.

    Attributes
    ----------
    spectrum_id : str
        Unique and stable, e.g. ``sdss-266-51602-31``.
    survey : str
        ``sdss``, ``lamost``, or ``mock``: simulated in the format of either.
    plate, mjd, fiberid : int
        `mjd` is the integer of the file's name; of LAMOST `plate` is the spectrograph.
    ra, dec : float
        Degrees (ICRS).
    """

    spectrum_id: str
    survey: str
    plate: int
    mjd: int
    fiberid: int
    ra: float
    dec: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One calibrated spectrum on its native grid.

    Attributes
    ----------
    info : SpectrumInfo
    wavelength : ndarray of float64, shape (n,)
        Bin centres, Å, vacuum, heliocentric.
    flux : ndarray of float32, shape (n,)
        1e-17 erg/s/cm²/Å, of LAMOST on a relative scale; NaN where invalid.
    sigma : ndarray of float32, shape (n,)
        Standard deviation of `flux`; NaN where invalid.
    first_bin : int or None
        k of the first sample where log10 λ = k · 1e-4 exactly (the SDSS grid); None on any other grid.
    catalogue : dict
        ``class``, ``subclass``, ``z``, ``z_err``, ``zwarning``, ``sn_median``, ``objtype``: the pipeline's
        own verdicts, kept for the indexes and never an input of a model unless a recipe names them. None
        where the pipeline tells nothing.
    sha256 : str
        Of the file's bytes as they lie on disk.
    """

    info: SpectrumInfo
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    sigma: NDArray[np.float32]
    first_bin: int | None
    sha256: str
    catalogue: dict[str, Any] = field(default_factory=dict)
