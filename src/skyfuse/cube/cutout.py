"""Cutouts: one vectorised WCS call and compiled slicing for all objects of a frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from skyfuse.sphere import unit_vectors


@lru_cache(maxsize=8192)
def frame_wcs(cards: str) -> WCS:
    """Return the celestial WCS of a frame from its header cards (kept for the next call)."""
    return WCS(fits.Header.fromstring(cards, sep="\n" if "\n" in cards else ""))


def pixel_to_sky(wcs: WCS, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return RA and Dec (degrees) of 0-based pixels, by the whole WCS."""
    # What wcslib knows, TPV too, is in the first; only SIP is astropy's own.
    ra, dec = wcs.wcs_pix2world(x, y, 0) if wcs.sip is None else wcs.all_pix2world(x, y, 0)
    return ra, dec


def sky_to_pixel(wcs: WCS, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 0-based pixels of positions in degrees, by the whole WCS."""
    if wcs.sip is None:
        x, y = wcs.wcs_world2pix(ra, dec, 0)
    else:
        # SIP is inverted by iteration, to 1e-8 pixels where it converges, as it does on the frame.
        x, y = wcs.all_world2pix(ra, dec, 0, tolerance=1e-8, quiet=True)
    return x, y


def frame_geometry(cards: str, shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Return what is needed to ask whether a frame may hold a position.

    Parameters
    ----------
    cards : str
        WCS as header cards.
    shape : tuple of int
        (ny, nx).

    Returns
    -------
    corners : ndarray, shape (4, 2)
        RA and Dec (degrees) of the outer corners of the frame, in order around it.
    radius : float
        Greatest angle (degrees) between the frame's centre and a corner.
    """
    ny, nx = shape
    x = np.array([-0.5, nx - 0.5, nx - 0.5, -0.5, (nx - 1) / 2])
    y = np.array([-0.5, -0.5, ny - 0.5, ny - 0.5, (ny - 1) / 2])
    ra, dec = pixel_to_sky(frame_wcs(cards), x, y)
    vectors = unit_vectors(ra, dec)
    apart = np.linalg.norm(vectors[:4] - vectors[4], axis=1).max()
    return np.stack([ra[:4], dec[:4]], axis=1), float(np.degrees(2 * np.arcsin(apart / 2)))


def first_pixels(centre: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Return the first index of cutouts along one axis.

    ``ceil(x - size/2)``: the object then lies within half a pixel of the cutout's centre, ``(size - 1)/2``.

    Parameters
    ----------
    centre : ndarray
        0-based pixel coordinate of the objects.
    size : int
        Pixels along the axis.
    """
    return np.ceil(centre - size / 2).astype(np.int64)


def place(
    cards: str, shape: tuple[int, int], ra: NDArray[np.float64], dec: NDArray[np.float64], size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Find where positions fall on a frame.

    Parameters
    ----------
    cards : str
        The frame's WCS as header cards.
    shape : tuple of int
        (ny, nx) of the frame.
    ra, dec : ndarray, shape (n,)
        Degrees.
    size : int
        Pixels along each axis of the cutouts.

    Returns
    -------
    on : ndarray of bool
        The position lies on the frame.
    inside : ndarray of bool
        The whole cutout lies on the frame.
    x0, y0 : ndarray of int64
        First column and row of the cutouts (0 where the position is not on the frame).
    """
    ny, nx = shape
    x, y = sky_to_pixel(frame_wcs(cards), ra, dec)
    # Positions far from the tangent point project to NaN, or, behind it, mirrored: the second is kept out by
    # asking only for candidates near the frame.
    with np.errstate(invalid="ignore"):
        on = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    x0 = first_pixels(np.where(on, x, 0.0), size)
    y0 = first_pixels(np.where(on, y, 0.0), size)
    inside = on & (x0 >= 0) & (y0 >= 0) & (x0 + size <= nx) & (y0 + size <= ny)
    return on, inside, x0, y0


def _cut(
    source: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    ny, nx = source.shape
    size = out.shape[1]
    for i in range(len(rows)):
        for row in range(size):
            y = y0[i] + row
            for column in range(size):
                x = x0[i] + column
                if 0 <= y < ny and 0 <= x < nx:
                    out[rows[i], row, column] = source[y, x]
                else:
                    out[rows[i], row, column] = np.nan


_cut_compiled: Any = numba.njit(cache=True)(_cut)


def cut_frame(
    value: NDArray[np.float32],
    sigma: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut many objects out of one frame.

    Parameters
    ----------
    value, sigma : ndarray, shape (ny, nx)
        The frame at its native resolution.
    x0, y0 : ndarray of int64, shape (n,)
        First column and row of each cutout; may lie off the frame.
    size : int
        Pixels along each axis.

    Returns
    -------
    value, sigma : ndarray of float32, shape (n, size, size)
        NaN off the frame.
    """
    rows = np.arange(len(x0))
    cut_value = np.empty((len(x0), size, size), np.float32)
    cut_sigma = np.empty_like(cut_value)
    _cut_compiled(np.asarray(value), x0, y0, rows, cut_value)
    _cut_compiled(np.asarray(sigma), x0, y0, rows, cut_sigma)
    return cut_value, cut_sigma


def cut_into(
    source: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Cut many objects out of one frame into ``out[rows]``, shape (n, size, size); NaN off the frame."""
    _cut_compiled(np.asarray(source), x0, y0, rows, out)
