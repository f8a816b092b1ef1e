"""Zooms of images and spectra against plain references that work from the native samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.cube.grid import HISS, SDSS, SpectralGrid
from skyfuse.cube.pyramid import image_levels, series_levels, spectrum_levels
from skyfuse.errors import UsageError
from skyfuse.survey.records import Spectrum, SpectrumInfo

INFO = SpectrumInfo("sdss-1-2-3", "sdss", 1, 2, 3, 10.0, 20.0)


def blocks(value, sigma, zoom):
    """Mean, σ and coverage of each block, from its native samples, one block at a time."""
    size = 2**zoom
    ny, nx = (-(-n // size) for n in value.shape)
    mean, error, share = np.full((3, ny, nx), np.nan)
    for i in range(ny):
        for j in range(nx):
            cut = np.s_[i * size : (i + 1) * size, j * size : (j + 1) * size]
            v, s = value[cut].astype(float), sigma[cut].astype(float)
            good = np.isfinite(v) & np.isfinite(s) & (s > 0)
            share[i, j] = good.sum() / size**2
            if good.any():
                mean[i, j] = v[good].mean()
                error[i, j] = np.sqrt((s[good] ** 2).sum()) / good.sum()
    return mean, error, share


@given(
    ny=st.integers(1, 37),
    nx=st.integers(1, 37),
    levels=st.sampled_from((1, 2, 5)),
    bad=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_images_equal_the_reference(ny, nx, levels, bad, seed):
    rng = np.random.default_rng(seed)
    value = rng.normal(0, 10, (ny, nx)).astype(np.float32)
    sigma = rng.uniform(0.1, 5, (ny, nx)).astype(np.float32)
    for array, words in ((value, (np.nan, np.inf, -np.inf)), (sigma, (np.nan, np.inf, 0, -1))):
        hit = rng.random((ny, nx)) < bad / 2
        array[hit] = rng.choice(words, hit.sum())
    value.flags.writeable = sigma.flags.writeable = False
    made = image_levels(value, sigma, levels)
    assert len(made) == levels
    for zoom, level in enumerate(made):
        mean, error, share = blocks(value, sigma, zoom)
        assert [array.dtype for array in level] == [np.float32, np.float32, np.float16]
        np.testing.assert_array_equal(level.coverage, share)
        np.testing.assert_allclose(level.value, mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(level.sigma, error, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(level.value), share == 0)
        np.testing.assert_array_equal(np.isnan(level.sigma), share == 0)


def test_an_unknown_sigma_stays_unknown_and_changes_no_value():
    value = np.random.default_rng(4).uniform(0, 1, (3, 2, 9, 6)).astype(np.float32)
    value[1, 0, 2:4] = np.nan
    for zoom, level in enumerate(image_levels(value, None, 4)):
        side = 2**zoom
        assert np.isnan(level.sigma).all()
        for y, x in np.ndindex(level.value.shape[2:]):
            block = value[1, 0, y * side : (y + 1) * side, x * side : (x + 1) * side]
            known = block[np.isfinite(block)].astype(np.float64)
            assert level.coverage[1, 0, y, x] == np.float16(known.size / side**2)
            expected = known.mean() if known.size else np.nan
            np.testing.assert_allclose(level.value[1, 0, y, x], expected, rtol=1e-6)


def test_rows_of_bins_are_halved():
    value = np.arange(14, dtype=np.float32).reshape(2, 7)
    value[0, 1] = np.nan
    sigma = np.full_like(value, 3)
    native, half, quarter = series_levels(value, sigma, 3)
    assert native.value.shape == (2, 7)
    assert half.value.tolist() == [[0, 2.5, 4.5, 6], [7.5, 9.5, 11.5, 13]]
    np.testing.assert_allclose(half.sigma[0], [3, np.sqrt(18) / 2, np.sqrt(18) / 2, 3], rtol=1e-6)
    assert half.coverage[0].tolist() == [0.5, 1, 1, 0.5]
    assert quarter.value[1].tolist() == [8.5, 12]


def test_leading_axes_are_independent_images():
    rng = np.random.default_rng(3)
    value, sigma = rng.normal(size=(4, 5, 9, 7)).astype("f4"), rng.uniform(1, 2, (4, 5, 9, 7)).astype("f4")
    value[rng.random(value.shape) < 0.2] = np.nan
    together = image_levels(value, sigma)
    alone = image_levels(value[2, 3], sigma[2, 3])
    for many, one in zip(together, alone, strict=True):
        for a, b in zip(many, one, strict=True):
            assert a.shape[:2] == (4, 5)
            np.testing.assert_array_equal(a[2, 3], b)


def test_slices_and_other_layouts_are_taken():
    rng = np.random.default_rng(4)
    value, sigma = rng.normal(size=(20, 30)), rng.uniform(1, 2, (20, 30))
    for cut in (np.s_[::2, 3:17], np.s_[::-1, ::3]):
        mean, error, _ = blocks(value[cut].astype("f4"), sigma[cut].astype("f4"), 2)
        level = image_levels(value[cut], sigma[cut], 3)[2]
        np.testing.assert_allclose(level.value, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(level.sigma, error, rtol=1e-6)


def test_the_input_is_never_changed():
    value = np.array([[1, np.nan], [np.inf, 2]], np.float32)
    sigma = np.ones((2, 2), np.float32)
    level = image_levels(value, sigma, 1)[0]
    np.testing.assert_array_equal(value, [[1, np.nan], [np.inf, 2]])
    np.testing.assert_array_equal(sigma, 1)
    np.testing.assert_array_equal(level.sigma, [[1, np.nan], [np.nan, 1]])


def test_flux_over_a_closed_region_is_the_same_at_every_zoom():
    rng = np.random.default_rng(5)
    value = rng.lognormal(0, 2, (320, 480)).astype(np.float32)
    sigma = np.sqrt(value)
    value[rng.random(value.shape) < 0.1] = np.nan
    made = image_levels(value, sigma)
    fluxes = [
        np.nansum(level.value.astype(float) * level.coverage * 4.0**zoom) for zoom, level in enumerate(made)
    ]
    np.testing.assert_allclose(fluxes, fluxes[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "sigma", "levels"),
    [
        (np.ones((3, 3)), np.ones((3, 4)), 5),
        (np.ones(3), np.ones(3), 5),
        (np.ones((0, 3)), np.ones((0, 3)), 5),
        (np.ones((3, 3)), np.ones((3, 3)), 0),
    ],
)
def test_wrong_calls_are_told(value, sigma, levels):
    with pytest.raises(UsageError):
        image_levels(value, sigma, levels)


def spectrum_of(wavelength, flux, sigma, first_bin=None):
    return Spectrum(INFO, wavelength, flux.astype(np.float32), sigma.astype(np.float32), first_bin, "")


@given(
    first=st.integers(35000, 40000),
    n=st.integers(1, 5000),
    bad=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_native_spectra_are_placed_by_whole_bins(first, n, bad, seed):
    rng = np.random.default_rng(seed)
    flux, sigma = rng.normal(5, 1, n), rng.uniform(0.1, 2, n)
    flux[rng.random(n) < bad] = np.nan
    spectrum = spectrum_of(10 ** ((first + np.arange(n)) * 1e-4), flux, sigma, first)
    k = first + np.arange(n)
    for zoom, level in enumerate(spectrum_levels(spectrum, SDSS)):
        good = np.isfinite(flux) & (k >= 35835) & (k <= 39578)
        bins = (k[good] - 35835) >> zoom
        count = np.bincount(bins, minlength=SDSS.sizes[zoom])
        with np.errstate(invalid="ignore"):
            mean = np.bincount(bins, spectrum.flux[good], SDSS.sizes[zoom]) / count
            error = np.sqrt(np.bincount(bins, spectrum.sigma[good] ** 2.0, SDSS.sizes[zoom])) / count
        np.testing.assert_array_equal(level.coverage, count / 2**zoom)
        np.testing.assert_allclose(level.value, mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(level.sigma, error, rtol=1e-6)


def overlaps(edges_in, edges_out):
    """Lengths of the overlaps of every output bin with every input bin, shape (out, in)."""
    low = np.maximum(edges_out[:-1, None], edges_in[None, :-1])
    high = np.minimum(edges_out[1:, None], edges_in[None, 1:])
    return np.clip(high - low, 0, None)


@given(
    n=st.integers(2, 60),
    bad=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    grid=st.sampled_from(
        [
            SpectralGrid("linear", (40, 13), (4000.0, 4400.0)),
            SpectralGrid("log", (40, 7), (3.6, 3.65), log=True),
        ]
    ),
)
@settings(max_examples=60, deadline=None)
def test_other_grids_average_by_overlap(n, bad, seed, grid):
    rng = np.random.default_rng(seed)
    wavelength = rng.uniform(3900, 4000) + np.cumsum(rng.uniform(0.5, 30, n))
    flux, sigma = rng.normal(5, 1, n), rng.uniform(0.1, 2, n)
    flux[rng.random(n) < bad] = np.nan
    spectrum = spectrum_of(wavelength, flux, sigma)
    middle = (wavelength[1:] + wavelength[:-1]) / 2
    native = np.concatenate(([2 * wavelength[0] - middle[0]], middle, [2 * wavelength[-1] - middle[-1]]))
    for zoom, level in enumerate(spectrum_levels(spectrum, grid, 2)):
        edges = grid.edges(zoom)
        w = overlaps(native, edges) * np.isfinite(flux)
        share = w.sum(1) / np.diff(edges)
        # Within rounding of the least overlap either answer is right.
        clear = np.abs(share - 1e-6) > 1e-9
        good = (share > 1e-6) & clear
        w = w[good] / w[good].sum(1, keepdims=True)
        f, e = np.nan_to_num(spectrum.flux.astype(float)), spectrum.sigma.astype(float)
        np.testing.assert_allclose(level.value[good], w @ f, rtol=1e-5)
        np.testing.assert_allclose(level.sigma[good], np.sqrt(w**2 @ e**2), rtol=1e-5)
        np.testing.assert_allclose(level.coverage[clear], share[clear] * good[clear], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(level.value), level.coverage == 0)
        np.testing.assert_array_equal(np.isnan(level.sigma), level.coverage == 0)


def test_overlap_keeps_the_flux():
    k = 35700 + np.arange(4100)
    wavelength = 10 ** (k * 1e-4)
    flux = 3 + np.sin(wavelength / 7) + 50 * np.exp(-((wavelength - 6563) ** 2) / 8)
    spectrum = spectrum_of(wavelength, flux, np.full(4100, 0.3), 35700)
    edges = 10 ** ((35700 - 0.5 + np.arange(4101)) * 1e-4)
    # Integral of the native spectrum up to any wavelength, exact for bins of constant flux density.
    integral = np.concatenate(([0], np.cumsum(spectrum.flux.astype(float) * np.diff(edges))))
    expected = np.diff(np.interp(HISS.edges(0)[[0, -1]], edges, integral))[0]
    for zoom, level in enumerate(spectrum_levels(spectrum, HISS)):
        np.testing.assert_array_equal(level.coverage, 1)
        flux = (level.value.astype(float) * np.diff(HISS.edges(zoom))).sum()
        assert flux == pytest.approx(expected, rel=1e-6)


def test_a_spectrum_off_the_grid_leaves_it_empty():
    spectrum = spectrum_of(np.linspace(9500, 9600, 20), np.ones(20), np.ones(20))
    for grid in (SDSS, HISS):
        for level in spectrum_levels(spectrum, grid):
            assert np.isnan(level.value).all()
            assert np.isnan(level.sigma).all()
            assert not level.coverage.any()


@pytest.mark.parametrize("levels", [0, 6])
def test_zooms_that_a_grid_lacks_are_told(levels):
    spectrum = spectrum_of(np.linspace(5000, 6000, 20), np.ones(20), np.ones(20))
    with pytest.raises(UsageError):
        spectrum_levels(spectrum, SDSS, levels)
