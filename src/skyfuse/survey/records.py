"""What every reader delivers: frames and spectra with their uncertainties, free of survey formats."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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
class Imaging:
    """What the images of one instrument have in common.

    Attributes
    ----------
    bands : tuple of str
        In the order in which arrays hold them.
    pixel_arcsec : float
        Nominal width of a pixel.
    unit : str
        Of value and sigma of its frames, ``nanomaggy`` (AB) unless the files do not tell how to get there.
    size : int
        Native pixels along each axis of the cutouts that a cube keeps of each object.
    zooms : int
        Zooms of frames and cutouts, the native one counted.
    """

    bands: tuple[str, ...]
    pixel_arcsec: float
    unit: str = "nanomaggy"
    size: int = 64
    zooms: int = 5


@dataclass(frozen=True, slots=True)
class Spectroscopy:
    """What the spectra of one instrument have in common.

    Attributes
    ----------
    grid : str
        Wavelength grid that serves where none is asked for, see `skyfuse.cube.grid.grid_named`.
    unit : str
        Of flux and sigma.
    """

    grid: str
    unit: str = "1e-17 erg s-1 cm-2 Angstrom-1"


@dataclass(frozen=True, slots=True)
class Instrument:
    """What took images or spectra, or both.

    Attributes
    ----------
    name : str
        Letters, digits and ``-``: it names groups of arrays and columns.
    imaging : Imaging or None
    spectroscopy : Spectroscopy or None
    described : str
        What names the content of its description, where it comes from one.
    """

    name: str
    imaging: Imaging | None = None
    spectroscopy: Spectroscopy | None = None
    described: str = ""


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """What a frame's header alone tells, cheap to get even from a compressed file.

    Attributes
    ----------
    frame_id : str
        Unique and stable, e.g. ``sdss-4510-4-30-r``.
    survey : str
        ``mock`` where no telescope took it, else mostly the name of the instrument.
    band : str
        One of the instrument's.
    mjd : float or None
        Time of the exposure's middle, MJD (TAI); None where a coadd has none.
    shape : tuple of int
        Rows and columns (ny, nx).
    wcs : str
        Celestial WCS as FITS header cards, for `astropy.wcs.WCS`.
    ra, dec : float
        Centre of the frame, degrees (ICRS).
    instrument : str
        Name of an `Instrument`.
    key : str
        Names the frame within its file; may be empty where the file holds no other.
    unit : str or None
        Unit of value and sigma where it is not the instrument's (no zero point is known): such a frame is
        kept, and no object is cut from it.
    scale : float
        What its file's pixels were multiplied by to get there, the frame's σ likewise.
    partners : tuple of str
        Paths of the files beside it that it is read from too (weight, mask), and of those that it would be
        read from if they were there.
    caution : str
        What its header says against it without making it useless; empty for nothing.
    run, camcol, field : int or None
        Of SDSS.
    """

    frame_id: str
    survey: str
    band: str
    mjd: float | None
    shape: tuple[int, int]
    wcs: str
    ra: float
    dec: float
    instrument: str = "sdss"
    key: str = ""
    unit: str | None = None
    scale: float = 1.0
    partners: tuple[str, ...] = ()
    caution: str = ""
    run: int | None = None
    camcol: int | None = None
    field: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One calibrated exposure in one band.

    Attributes
    ----------
    info : FrameInfo
    value : ndarray of float32, shape (ny, nx)
        Surface brightness in the instrument's unit (or `FrameInfo.unit`) a pixel; NaN where invalid.
    sigma : ndarray of float32, shape (ny, nx)
        Standard deviation of `value`; NaN where invalid.
    sky_sigma : float
        Standard deviation of an empty pixel (median over the frame), in the same unit.
    sha256 : str
        Of the file's bytes as they lie on disk; of several files see `content_of`.
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
        ``mock`` where no telescope took it, else mostly the name of the instrument.
    plate, mjd, fiberid : int or None
        Of fibre surveys. `mjd` is the integer of the file's name; of LAMOST `plate` is the spectrograph.
    ra, dec : float
        Degrees (ICRS).
    instrument : str
        Name of an `Instrument`.
    key : str
        Names the spectrum within its file; empty where the file holds no other.
    partners : tuple of str
        Paths of the files beside it that it is read from too (redshifts), and of those that it would be read
        from if they were there.
    """

    spectrum_id: str
    survey: str
    plate: int | None
    mjd: int | None
    fiberid: int | None
    ra: float
    dec: float
    instrument: str = "sdss"
    key: str = ""
    partners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One calibrated spectrum on its native grid.

    Attributes
    ----------
    info : SpectrumInfo
    wavelength : ndarray of float64, shape (n,)
        Bin centres, Å, vacuum, heliocentric.
    flux : ndarray of float32, shape (n,)
        In the instrument's unit, of LAMOST on a relative scale; NaN where invalid.
    sigma : ndarray of float32, shape (n,)
        Standard deviation of `flux`; NaN where invalid.
    first_bin : int or None
        k of the first sample where log10 λ = k · 1e-4 exactly (the bins of SDSS), or λ = k · `step`; None on
        any other grid.
    catalogue : dict
        ``class``, ``subclass``, ``z``, ``z_err``, ``zwarning``, ``sn_median``, ``objtype``: the pipeline's
        own verdicts, kept for the indexes and never an input of a model unless a recipe names them. None
        where the pipeline tells nothing.
    sha256 : str
        Of the file's bytes as they lie on disk; of several files see `content_of`.
    step : float or None
        Å, where the bins that `first_bin` counts are equal in λ.
    sky : ndarray of float32, shape (n,), or None
        Level of the sky that was subtracted, in the unit of `flux`; None where the file does not tell it.
    """

    info: SpectrumInfo
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    sigma: NDArray[np.float32]
    first_bin: int | None
    sha256: str
    catalogue: dict[str, Any] = field(default_factory=dict)
    step: float | None = None
    sky: NDArray[np.float32] | None = None


def content_of(digests: Sequence[str]) -> str:
    """Return what names the content of files that are read together: of one its SHA-256.

    Parameters
    ----------
    digests : sequence of str
        SHA-256 of the file itself, then of its partners that are there, in their order.
    """
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
