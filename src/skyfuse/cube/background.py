"""How far empty sky scatters beyond the noise of the measurement, at each zoom of a cube's frames.

The light of sources too faint to be seen alone, and the wings of those that are seen, do not average out as
noise does: means of many pixels of empty sky scatter by more than their σ. That is no error of the
measurement, so σ leaves it out; whoever looks for a source against it needs to know of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from skyfuse.cube.layout import map_array, tile_path
from skyfuse.cube.query import Cube

FRAMES = 12
"""So many frames of each band are looked at, evenly spread over the index."""

# Sky is empty where means of 2^3 × 2^3 pixels, and those around them, lie within so many deviations of the
# median.
_ZOOM, _DEVIATIONS = 3, 3.0
_NMAD = 1.4826
# Standard error of a normalised median absolute deviation, times √n (its efficiency is 0.37).
_RELATIVE_ERROR = 1.17
# Fewer blocks tell no scatter.
_LEAST = 100


def background(cube: Cube, instrument: str) -> dict[str, dict[str, list[float]]]:
    """Measure the scatter of empty sky in the frames of one instrument.

    Parameters
    ----------
    cube : Cube
    instrument : str

    Returns
    -------
    dict
        By band, for each zoom: ``over_sigma``, the scatter of block means on empty sky (normalised median
        absolute deviation) over their σ, 1 where the noise is all there is; ``beyond_sigma``, what must be
        added to σ in squares to make up for it, in the instrument's unit a native pixel. Both are medians
        over frames; bands whose frames have too little empty sky, too few zooms or no σ are left out.

    Raises
    ------
    StoreError
        If its arrays cannot be read.
    """
    imaging = cube.imaging(instrument)
    if imaging.zooms <= _ZOOM:
        return {}
    frames = cube.frames[cube.frames["instrument"] == instrument]
    frames = frames[frames["unit"] == imaging.unit]
    found = {}
    for band in imaging.bands:
        own = frames[frames["band"] == band]
        picked = own.iloc[np.unique(np.linspace(0, len(own) - 1, min(len(own), FRAMES)).astype(int))]
        scatter = [
            _scatter(cube, instrument, str(tile), int(row), imaging.zooms)
            for tile, row in zip(picked["tile"], picked["row"], strict=True)
        ]
        told = [one for one in scatter if one is not None]
        if told:
            over, beyond = np.median(told, axis=0)
            found[band] = {
                "over_sigma": [round(float(one), 3) for one in over],
                "beyond_sigma": [float(f"{one:.3g}") for one in beyond],
            }
    return found


def _scatter(cube: Cube, instrument: str, tile: str, row: int, zooms: int) -> NDArray[np.float64] | None:
    """Return for each zoom the scatter of empty sky over σ, and beyond it; None where it cannot be told."""
    path = tile_path(cube.path, tile)

    def array(zoom: int, part: str) -> NDArray[np.float64]:
        return np.asarray(map_array(path, f"/frames/{instrument}/{zoom}/{part}")[row], np.float64)

    coarse, whole = array(_ZOOM, "value"), array(_ZOOM, "coverage") == 1
    if whole.sum() < _LEAST:
        return None
    middle = np.median(coarse[whole])
    near = np.abs(coarse - middle) < _DEVIATIONS * _deviation(coarse[whole])
    empty = minimum_filter(near & whole, 3, mode="constant", cval=0)
    out = np.zeros((2, zooms))
    for zoom in range(zooms):
        chosen = empty
        if zoom <= _ZOOM:
            # One of the blocks within each empty one.
            step = 2 ** (_ZOOM - zoom)
            value, sigma = (array(zoom, part)[::step, ::step] for part in ("value", "sigma"))
        else:
            value, sigma = array(zoom, "value"), array(zoom, "sigma")
            chosen = _halved(empty, zoom - _ZOOM)
        pick = chosen & np.isfinite(value) & np.isfinite(sigma)
        if pick.sum() < _LEAST:
            return None
        value, sigma = value[pick], sigma[pick]
        out[0, zoom] = _deviation((value - np.median(value)) / sigma)
        # The difference of two like squares: 0 where it may be chance.
        if out[0, zoom] > 1 + 2 * _RELATIVE_ERROR / np.sqrt(len(value)):
            out[1, zoom] = np.median(sigma) * np.sqrt(out[0, zoom] ** 2 - 1)
    return out


def _halved(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Return where all samples of each block of 2^times × 2^times are true; partial blocks are not."""
    step = 2**times
    ny, nx = (-(-size // step) for size in mask.shape)
    full = np.zeros((ny * step, nx * step), bool)
    full[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(full.reshape(ny, step, nx, step).all(axis=(1, 3)), bool)


def _deviation(values: NDArray[np.float64]) -> float:
    return float(_NMAD * np.median(np.abs(values - np.median(values))))
