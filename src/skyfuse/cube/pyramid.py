"""Zooms: images and spectra at halved resolutions, every value with its uncertainty and coverage.

The value is the plain mean over the valid native samples of a block, ``sigma = sqrt(Σ σ²) / n_valid``,
coverage the share of the block that is valid. Weighting by 1 / σ² would pull the mean towards faint samples,
because σ grows with the signal. Each zoom carries the sums over native samples from the zoom before, in
float64, so that it is exact.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.cube.grid import SpectralGrid
from skyfuse.errors import UsageError
from skyfuse.survey.noise import MODEL, NativeNoise, NoiseModel, noise_model
from skyfuse.survey.records import Samples, Spectrum

# Less overlap than this share of an output bin is rounding of edges, not data.
_LEAST_OVERLAP = 1e-6
# Share of the sum of variances that correlated bins keep at least.
_LEAST_VARIANCE = 0.05


@njit(cache=True, nogil=True)
def _pyramid(
    value: NDArray[np.float32],
    sigma: NDArray[np.float32],
    rows: int,
    values: tuple[NDArray[np.float32], ...],
    sigmas: tuple[NDArray[np.float32], ...],
    coverages: tuple[NDArray[np.uint16], ...],
    shares: tuple[NDArray[np.uint16], ...],
    inverses: tuple[NDArray[np.float64], ...],
) -> bool:
    """Fill all zooms of images (m, ny, nx) in one pass; tell whether the native samples need no marking.

    Each tuple has one member a zoom; of `values` and `sigmas` that of zoom 0 is not written. The loops are
    split so that each is vectorised.
    """
    m, ny, nx = value.shape
    zooms = len(values) - 1
    # The native row, 0 where invalid, and one row of sums over native samples for each further zoom; once
    # full it is written out and added to the next.
    t, w, n = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.int32)
    half = (nx + 1) // 2
    total = np.zeros((zooms + 1, half + half % 2))
    variance = np.zeros((zooms + 1, half + half % 2))
    count = np.zeros((zooms + 1, half + half % 2), np.int32)
    scale = np.empty(half)
    none, one = shares[0][0], shares[0][1]
    clean = True
    for image in range(m):
        for i in range(ny):
            v, s, cover = value[image, i], sigma[image, i], coverages[0][image, i]
            marked = np.int32(0)
            for j in range(nx):
                good = (abs(v[j]) < np.inf) & (s[j] > 0) & (s[j] < np.inf)
                marked += np.int32(good | (np.isnan(v[j]) & np.isnan(s[j])))
                cover[j] = one if good else none
                t[j] = v[j] if good else np.float32(0)
                w[j] = s[j] if good else np.float32(0)
                n[j] = np.int32(good)
            clean &= marked == nx
            if zooms == 0:
                continue
            _add_pairs(t, nx, total[1])
            _add_squares(w, nx, variance[1])
            _add_pairs(n, nx, count[1])
            height, length = 1, nx
            for k in range(1, zooms + 1):
                height *= rows
                length = (length + 1) // 2
                if (i + 1) % height and i + 1 < ny:
                    break
                row = i // height
                number, cover = count[k], coverages[k][image, row]
                inverse, share = inverses[k], shares[k]
                for j in range(length):
                    scale[j] = inverse[number[j]]
                    cover[j] = share[number[j]]
                _means(total[k], variance[k], scale, values[k][image, row], sigmas[k][image, row])
                if k < zooms:
                    _add_pairs(total[k], length, total[k + 1])
                    _add_pairs(variance[k], length, variance[k + 1])
                    _add_pairs(number, length, count[k + 1])
                total[k, :length], variance[k, :length], number[:length] = 0.0, 0.0, 0
    return clean


@njit(cache=True, nogil=True)
def _add_pairs(fine: NDArray[np.float64], length: int, coarse: NDArray[np.float64]) -> None:
    """Add the pairs of a row to the next zoom's; an odd last sample stands alone."""
    for j in range(length // 2):
        coarse[j] += coarse.dtype.type(fine[2 * j]) + coarse.dtype.type(fine[2 * j + 1])
    if length % 2:
        coarse[length // 2] += fine[length - 1]


@njit(cache=True, nogil=True)
def _add_squares(fine: NDArray[np.float32], length: int, coarse: NDArray[np.float64]) -> None:
    """Add the squares of a row as `_add_pairs` does; in float64 the square of a float32 is exact."""
    for j in range(length // 2):
        left, right = np.float64(fine[2 * j]), np.float64(fine[2 * j + 1])
        coarse[j] += left * left + right * right
    if length % 2:
        last = np.float64(fine[length - 1])
        coarse[length // 2] += last * last


@njit(cache=True, nogil=True)
def _means(
    total: NDArray[np.float64],
    variance: NDArray[np.float64],
    scale: NDArray[np.float64],
    value: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> None:
    """Turn a row of sums into means and their σ, `scale` being one by the number of samples."""
    for j in range(value.size):
        value[j] = total[j] * scale[j]
        sigma[j] = np.sqrt(variance[j]) * scale[j]


@lru_cache
def _tables(rows: int, levels: int) -> tuple[tuple[NDArray[np.uint16], ...], tuple[NDArray[np.float64], ...]]:
    """Return, for each zoom, coverage and one by n, both looked up by the n of valid samples of a block.

    numba has no float16: coverage is its bit pattern.
    """
    numbers = [np.arange((2 * rows) ** zoom + 1) for zoom in range(levels)]
    shares = tuple((n / n[-1]).astype(np.float16).view(np.uint16) for n in numbers)
    inverses = tuple(np.append(np.nan, 1.0 / n[1:]) for n in numbers)
    return shares, inverses


def _levels(value: NDArray[np.float32], sigma: NDArray[np.float32], rows: int, levels: int) -> list[Samples]:
    """Build zooms of (m, ny, nx), each halving the columns and dividing the rows by `rows` (1 or 2)."""
    m, ny, nx = value.shape
    shapes = [(m, -(-ny // rows**zoom), -(-nx // 2**zoom)) for zoom in range(levels)]
    shares, inverses = _tables(rows, levels)
    nothing = np.empty((0, 0, 0), np.float32)
    values = (nothing, *(np.empty(shape, np.float32) for shape in shapes[1:]))
    sigmas = (nothing, *(np.empty(shape, np.float32) for shape in shapes[1:]))
    coverages = tuple(np.empty(shape, np.uint16) for shape in shapes)
    if not _pyramid(value, sigma, rows, values, sigmas, coverages, shares, inverses):
        good = coverages[0] != 0
        value = np.where(good, value, np.float32(np.nan))
        sigma = np.where(good, sigma, np.float32(np.nan))
    return [
        Samples(v, s, c.view(np.float16))
        for v, s, c in zip((value, *values[1:]), (sigma, *sigmas[1:]), coverages, strict=True)
    ]


def _require_levels(levels: int) -> None:
    if levels < 1:
        raise UsageError(f"{levels} zooms were asked for", remedy="ask for one or more")


def image_levels(
    value: NDArray[np.float32], sigma: NDArray[np.float32] | None, levels: int = 5
) -> list[Samples]:
    """Build the zooms of images.

    Parameters
    ----------
    value, sigma : ndarray of float32, shape (..., ny, nx)
        A sample is invalid where its value is not finite or its sigma is not finite or not above 0. None for
        sigma: it is unknown, and NaN at every zoom, whichever samples are valid.
    levels : int
        How many zooms, the native one counted.

    Returns
    -------
    list of Samples
        Zoom z has the shape (..., ceil(ny / 2**z), ceil(nx / 2**z)); the blocks of an odd edge are partial,
        and their coverage is that of the full block's area. Zoom 0 shares memory with the input where no
        sample had to be marked.

    Raises
    ------
    UsageError
        Shapes that differ or have fewer than two axes, or no zoom.
    """
    _require_levels(levels)
    if sigma is None:
        made = image_levels(value, np.ones_like(value), levels)
        return [Samples(v, np.full_like(v, np.nan), coverage) for v, _, coverage in made]
    if value.shape != sigma.shape or value.ndim < 2 or value.size == 0:
        raise UsageError(
            f"value and sigma have the shapes {value.shape} and {sigma.shape}",
            remedy="give two arrays of one shape (..., ny, nx) with at least one pixel",
        )
    lead = value.shape[:-2]
    flat = (-1, *value.shape[-2:])
    made = _levels(
        np.ascontiguousarray(value, np.float32).reshape(flat),
        np.ascontiguousarray(sigma, np.float32).reshape(flat),
        rows=2,
        levels=levels,
    )
    return [_reshaped(level, (*lead, *level.value.shape[1:])) for level in made]


def series_levels(value: NDArray[np.float32], sigma: NDArray[np.float32], levels: int) -> list[Samples]:
    """Build the zooms of rows of bins; zoom z has the shape (n, ceil(bins / 2**z)).

    Parameters
    ----------
    value, sigma : ndarray of float32, shape (n, bins)
        As for `image_levels`.
    levels : int
        How many zooms, the native one counted.
    """
    made = _levels(value[:, None], sigma[:, None], rows=1, levels=levels)
    return [_reshaped(level, (len(value), -1)) for level in made]


def _reshaped(samples: Samples, shape: tuple[int, ...]) -> Samples:
    return Samples(
        samples.value.reshape(shape), samples.sigma.reshape(shape), samples.coverage.reshape(shape)
    )


@njit(cache=True, nogil=True)
def _overlap(
    native: NDArray[np.float64],
    flux: NDArray[np.float32],
    sigma: NDArray[np.float32],
    edges: NDArray[np.float64],
    least: float,
    value: NDArray[np.float32],
    error: NDArray[np.float32],
    coverage: NDArray[np.float32],
) -> None:
    """Average the native bins over each output bin, weighted by their overlap with it."""
    first = 0
    for i in range(edges.size - 1):
        low, high = edges[i], edges[i + 1]
        while first < flux.size and native[first + 1] <= low:
            first += 1
        weight, total, variance = 0.0, 0.0, 0.0
        k = first
        while k < flux.size and native[k] < high:
            width = min(high, native[k + 1]) - max(low, native[k])
            f, s = np.float64(flux[k]), np.float64(sigma[k])
            if np.isfinite(f) and s > 0 and s < np.inf:
                weight += width
                total += width * f
                variance += width * width * s * s
            k += 1
        share = weight / (high - low)
        if share > least:
            value[i], error[i] = total / weight, np.sqrt(variance) / weight
            coverage[i] = min(share, 1.0)
        else:
            value[i], error[i], coverage[i] = np.nan, np.nan, 0.0


@njit(cache=True, nogil=True)
def _noisy_overlap(
    native: NDArray[np.float64],
    flux: NDArray[np.float32],
    noise: tuple[NDArray[np.float64], ...],
    edges: NDArray[np.float64],
    least: float,
    value: NDArray[np.float32],
    error: NDArray[np.float32],
    coverage: NDArray[np.float32],
) -> None:
    """Average as `_overlap` does, with the noise of `NativeNoise`, by its fields."""
    sigma, following, second, common, offset, calibration = noise
    first = 0
    for i in range(edges.size - 1):
        low, high = edges[i], edges[i + 1]
        while first < flux.size and native[first + 1] <= low:
            first += 1
        weight, total, alone, together, shared, relative = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        # Shares in σ of the bin before, and of the one before that; 0 where they are invalid.
        last, before = 0.0, 0.0
        k = first
        while k < flux.size and native[k] < high:
            width = min(high, native[k + 1]) - max(low, native[k])
            f, s, part = np.float64(flux[k]), sigma[k], 0.0
            if np.isfinite(f) and s > 0 and s < np.inf:
                weight += width
                total += width * (f - offset[k])
                part = width * s
                alone += part * part
                shared += width * common[k]
                relative += width * calibration[k]
            if k > first:
                together += part * last * following[k - 1]
            if k > first + 1:
                together += part * before * second[k - 2]
            last, before = part, last
            k += 1
        share = weight / (high - low)
        if share > least:
            mean, rest = total / weight, shared / weight
            scaled = mean * relative / weight
            # Correlations hold for equal neighbours; where these are not, nothing may come out below 0.
            variance = max(alone + 2 * together, _LEAST_VARIANCE * alone) / (weight * weight)
            value[i] = mean
            error[i] = np.sqrt(variance + rest * rest + scaled * scaled)
            coverage[i] = min(share, 1.0)
        else:
            value[i], error[i], coverage[i] = np.nan, np.nan, 0.0


def _native_edges(spectrum: Spectrum) -> NDArray[np.float64]:
    """Return the edges of a spectrum's bins, Å: exact on the bins of SDSS, else midway between centres."""
    n = spectrum.wavelength.size
    if spectrum.first_bin is not None and spectrum.step is None:
        log = (spectrum.first_bin - 0.5 + np.arange(n + 1, dtype=np.float64)) * 1e-4
        return np.asarray(10.0**log, np.float64)
    middle = (spectrum.wavelength[:-1] + spectrum.wavelength[1:]) / 2
    # The outermost bins reach as far outwards as inwards.
    ends = 2 * spectrum.wavelength[[0, -1]] - middle[[0, -1]]
    return np.concatenate((ends[:1], middle, ends[1:]))


def spectrum_levels(
    spectrum: Spectrum, grid: SpectralGrid, levels: int = 5, *, sigma: NoiseModel | str = MODEL
) -> list[Samples]:
    """Bring a spectrum onto each zoom of a grid.

    A spectrum whose bins are the grid's own is placed by whole bins, without resampling, and halved exactly.
    Any other is averaged straight from its native bins onto each zoom with the overlap as weight, normalised
    over valid bins. This keeps the flux, and no zoom inherits correlated noise.

    Formally ``f = Σ w f`` and ``σ² = Σ w² σ²``. Where the noise of the spectrum is known (see
    `skyfuse.survey.noise`) ``f = Σ w (f − offset)`` and ``σ² = Σ w_i w_j ρ_ij σ_i σ_j + (Σ w common)² +
    (calibration · f)²``, with ρ of neighbours and of bins two apart.

    Parameters
    ----------
    spectrum : Spectrum
    grid : SpectralGrid
    levels : int
        How many zooms, the finest one counted.
    sigma : NoiseModel, "model" or "formal"
        By default by the noise model of the spectrum's instrument, if there is one; ``formal``: as if all
        bins were independent and what the file says of them true.

    Returns
    -------
    list of Samples
        Zoom z has the shape (grid.sizes[z],); coverage is the share of the bin that valid native bins cover.

    Raises
    ------
    UsageError
        No zoom, or more than the grid has.
    """
    _require_levels(levels)
    if levels > len(grid.sizes):
        raise UsageError(
            f"{levels} zooms were asked for", remedy=f"the grid {grid.name!r} has {len(grid.sizes)}"
        )
    model = noise_model(spectrum.info.instrument) if sigma == MODEL else sigma
    noise = model.noise(spectrum) if isinstance(model, NoiseModel) else None
    aligned = grid.first_bin is not None and spectrum.first_bin is not None and grid.step == spectrum.step
    if aligned and noise is None:
        return _halved(spectrum, grid, levels)
    out = []
    for zoom in range(levels):
        if aligned:
            # In bins: each is one wide, whatever its width in Å.
            native = np.arange(spectrum.flux.size + 1.0) + ((spectrum.first_bin or 0) - (grid.first_bin or 0))
            edges = np.arange(grid.sizes[zoom] + 1.0) * 2**zoom
        else:
            native, edges = _native_edges(spectrum), grid.edges(zoom)
        out.append(_averaged(spectrum, noise, native, edges))
    return out


def _halved(spectrum: Spectrum, grid: SpectralGrid, levels: int) -> list[Samples]:
    """Place a spectrum on the bins of a grid, which are its own, and halve them."""
    shape = (1, grid.sizes[0])
    placed = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    shift = (spectrum.first_bin or 0) - (grid.first_bin or 0)
    start, stop = max(shift, 0), min(shift + spectrum.flux.size, grid.sizes[0])
    if start < stop:
        placed[0][0, start:stop] = spectrum.flux[start - shift : stop - shift]
        placed[1][0, start:stop] = spectrum.sigma[start - shift : stop - shift]
    return [_reshaped(level, (-1,)) for level in series_levels(*placed, levels)]


def _averaged(
    spectrum: Spectrum,
    noise: NativeNoise | None,
    native: NDArray[np.float64],
    edges: NDArray[np.float64],
) -> Samples:
    """Average a spectrum's bins, of which `native` holds the edges, onto others."""
    value, sigma, coverage = (np.empty(edges.size - 1, np.float32) for _ in range(3))
    if noise is None:
        _overlap(native, spectrum.flux, spectrum.sigma, edges, _LEAST_OVERLAP, value, sigma, coverage)
    else:
        arrays = tuple(getattr(noise, field.name) for field in fields(noise))
        _noisy_overlap(native, spectrum.flux, arrays, edges, _LEAST_OVERLAP, value, sigma, coverage)
    return Samples(value, sigma, coverage.astype(np.float16))
