"""Which pixels of a described image are good, and their variance: from weight, mask and pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.described.headerfacts import number_of
from skyfuse.survey.description import Description
from skyfuse.survey.fits.faults import AGAIN

# Pairs of neighbouring pixels from which a scatter is worth something: 5 %.
_LEAST_PAIRS = 200
# Median absolute deviation to standard deviation, of a normal distribution.
_TO_SIGMA = 1.482602218505602


def good_pixels(
    description: Description,
    pixels: NDArray[Any],
    flags: NDArray[Any] | None,
    header: fits.Header,
    band: str,
    path: Path,
) -> NDArray[np.bool_]:
    """Return which pixels mask and saturation leave.

    Parameters
    ----------
    description : Description
    pixels : ndarray, shape (ny, nx)
    flags : ndarray or None, shape (ny, nx)
        The mask.
    header : Header
        Of the image, over the primary one.
    band : str
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``wrong-hdus`` where the mask holds no whole numbers.
    """
    good: NDArray[np.bool_] = np.isfinite(pixels)
    level = number_of(description.saturation, header, path)
    if level is not None:
        good &= pixels < level
    mask = description.mask
    if flags is None or mask is None:
        return good
    if flags.dtype.kind not in "iu":
        raise FileError("its mask holds no whole numbers", reason="wrong-hdus", remedy=AGAIN, path=path)
    if mask.values is not None:
        good &= ~np.isin(flags, mask.values)
    elif mask.bits is None:
        good &= flags == 0
    else:
        bits = mask.bits[band] if isinstance(mask.bits, dict) else mask.bits
        asked = np.uint64(sum(1 << bit for bit in set(bits)))
        good &= flags.astype(np.int64).view(np.uint64) & asked == 0
    return good


def variances(
    description: Description,
    pixels: NDArray[Any],
    noise: NDArray[Any] | None,
    good: NDArray[np.bool_],
    header: fits.Header,
    path: Path,
) -> NDArray[np.float64]:
    """Return the variance of each pixel in the image's unit, NaN where there is none.

    Parameters
    ----------
    description : Description
    pixels : ndarray, shape (ny, nx)
    noise : ndarray or None, shape (ny, nx)
        The weight.
    good : ndarray of bool, shape (ny, nx)
        Which pixels count; those without a valid weight are taken out of it.
    header : Header
        Of the image, over the primary one.
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``no-noise`` or ``bad-values``.
    """
    means = description.weight.means
    array = np.ones(pixels.shape) if noise is None else noise.astype(np.float64)
    good &= (array > 0) & (array < np.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if means in ("sigma", "rms"):
            variance = array**2
        elif means == "variance":
            variance = array
        else:
            variance = 1 / array
        if means in ("relative", "measured"):
            variance *= scatter(pixels, variance, good, path) ** 2
    gain = number_of(description.gain, header, path)
    if gain is not None:
        if not gain > 0:
            raise FileError(f"its gain is {gain:g}", reason="bad-values", remedy=AGAIN, path=path)
        signal = pixels.astype(np.float64)
        if description.sky == "included" and good.any():
            signal -= np.median(signal[good])
        variance = variance + np.where(good & (signal > 0), signal, 0) / gain
    return np.where(good, variance, np.nan)


def scatter(
    pixels: NDArray[Any], variance: NDArray[np.floating[Any]], good: NDArray[np.bool_], path: Path
) -> float:
    """Return the scatter of neighbouring pixels over their σ, robustly: sources and slopes hardly count.

    The median absolute deviation of the differences of neighbours in rows, from zero. Where neighbours are
    correlated, as after resampling, it is too small.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
    variance : ndarray, shape (ny, nx)
        σ² in the same unit.
    good : ndarray of bool, shape (ny, nx)
        Which pixels count.
    path : Path
        For messages.

    Raises
    ------
    FileError
        ``no-noise`` where too few pixels are valid, or they do not scatter.
    """
    pairs = good[:, 1:] & good[:, :-1]
    left, right = (part[pairs].astype(np.float64) for part in (pixels[:, :-1], pixels[:, 1:]))
    spread = np.sqrt((variance[:, :-1] + variance[:, 1:])[pairs])
    found = _TO_SIGMA * float(np.median(np.abs(right - left) / spread)) if len(left) >= _LEAST_PAIRS else 0.0
    if not (found > 0 and math.isfinite(found)):
        raise FileError(
            "its pixels have no scatter that could tell their noise",
            reason="no-noise",
            remedy="describe a weight that tells it",
            path=path,
        )
    return found
