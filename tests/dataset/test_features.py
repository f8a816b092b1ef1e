from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.cube.grid import SDSS
from skyfuse.dataset.features import (
    EW_NAMES,
    INDEX_NAMES,
    Scaler,
    Stretch,
    _vacuum,
    equivalent_widths,
    line_indices,
    smooth,
    smooth_sigma,
)
from skyfuse.errors import StoreError, UsageError


def images() -> Any:
    rng = np.random.default_rng(0)
    x = rng.normal(0, [1, 2, 4, 8, 16], (40, 8, 8, 5)).transpose(0, 3, 1, 2).astype(np.float32)
    x[0, 2] = np.nan
    x[3, :, 0] = np.nan
    return x


def test_stretch_of_each_band_by_an_independent_way() -> None:
    x = images()
    stretch = Stretch.fit(x)
    for band in range(5):
        per_object = [np.nanmedian(np.abs(o[band])) for o in x if np.isfinite(o[band]).any()]
        assert stretch.softening[band] == pytest.approx(np.median(per_object), rel=1e-6)
        stretched = np.arcsinh(x[:, band] / stretch.softening[band])
        assert stretch.mean[band] == pytest.approx(np.nanmean(stretched), abs=1e-5)
        assert stretch.std[band] == pytest.approx(np.nanstd(stretched), rel=1e-5)
    scaled = stretch.transform(x)
    np.testing.assert_allclose(np.nanmean(scaled, axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(scaled, axis=(0, 2, 3)), 1, atol=1e-4)
    assert scaled.dtype == np.float32
    assert np.array_equal(np.isnan(scaled), np.isnan(x))


def test_absolute_scale_of_spectra_survives() -> None:
    rng = np.random.default_rng(1)
    shape = 1 + 0.1 * rng.normal(size=50)
    brightness = np.geomspace(0.1, 1000, 30)
    spectra = (brightness[:, None] * shape).astype(np.float32)
    level = np.median(Scaler.fit({"spectrum": spectra}).transform({"spectrum": spectra})["spectrum"], axis=1)
    assert (np.diff(level) > 0).all()
    # Logarithmic where bright: equal factors become equal steps.
    np.testing.assert_allclose(np.diff(level)[-5:], np.diff(level)[-1], rtol=0.02)


def test_what_is_not_training_data_changes_nothing() -> None:
    x = images()
    scaler = Scaler.fit({"image": x[:20]})
    alone = scaler.transform({"image": x[20:30]})["image"]
    with_others = scaler.transform({"image": x[20:]})["image"][:10]
    assert np.array_equal(alone, with_others, equal_nan=True)


def test_scaler_survives_json() -> None:
    x = {"image": images(), "spectrum": images()[:, 0].reshape(40, 64)}
    scaler = Scaler.fit(x)
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    for modality, values in scaler.transform(x).items():
        assert np.array_equal(values, again.transform(x)[modality], equal_nan=True)


@pytest.mark.parametrize("fill", [np.nan, 0.0, 5.0])
def test_channel_without_spread_stays_finite(fill: float) -> None:
    x = np.full((4, 2, 3, 3), fill, np.float32)
    x[:, 1] = np.arange(9).reshape(3, 3)
    scaled = Stretch.fit(x).transform(x)
    assert np.isfinite(scaled[:, 1]).all()
    assert np.array_equal(np.isnan(scaled[:, 0]), np.isnan(x[:, 0]))
    assert not np.isinf(scaled).any()


def test_wrong_inputs_are_refused() -> None:
    scaler = Scaler.fit({"image": images()})
    with pytest.raises(UsageError, match="fitted on 5 channels, not 3"):
        scaler.transform({"image": images()[:, :3]})
    with pytest.raises(UsageError, match="not fitted on spectrum"):
        scaler.transform({"spectrum": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        {"softening": [1.0], "mean": [0.0]},
        {"softening": [0.0], "mean": [0.0], "std": [1.0]},
        {"softening": [1.0], "mean": [float("nan")], "std": [1.0]},
        {"softening": [1.0, 1.0], "mean": [0.0], "std": [1.0]},
        {"softening": "x", "mean": [0.0], "std": [1.0]},
    ],
)
def test_damaged_scaler_is_refused(entry: Any) -> None:
    with pytest.raises(StoreError, match="train the model again"):
        Scaler.from_dict({"image": entry})


def table_values() -> Any:
    rng = np.random.default_rng(5)
    x = rng.normal([5, -3, 0, 2], [2, 1, 0.1, 0], (400, 4))
    x[:, 2] *= np.exp(rng.normal(0, 2, 400))
    x[3, 0], x[5, 1], x[7, 2] = np.nan, np.inf, 1e9
    return x.astype(np.float32)


def test_standard_by_an_independent_way() -> None:
    x = table_values()
    scaled = Scaler.fit({"table": x}).transform({"table": x})["table"]
    assert scaled.dtype == np.float32
    for column in range(3):
        values = np.where(np.isfinite(x[:, column]), x[:, column].astype(float), np.nan)
        low, middle, high = np.nanpercentile(values, [25, 50, 75])
        stretched = np.arcsinh((np.where(np.isnan(values), middle, values) - middle) / ((high - low) / 1.349))
        expected = np.clip((stretched - stretched.mean()) / stretched.std(), -5, 5)
        np.testing.assert_allclose(scaled[:, column], expected, atol=1e-5)
    assert (scaled[:, 3] == 0).all()
    assert np.abs(scaled).max() <= 5


def test_columns_of_few_values_stay_apart() -> None:
    # More than half are equal: the quartiles alone would give no scale.
    x = np.zeros((100, 3), np.float32)
    x[:10, 0] = 7
    x[:, 1] = np.nan
    scaled = Scaler.fit({"table": x}).transform({"table": x})["table"]
    assert scaled[0, 0] - scaled[-1, 0] > 2
    assert (scaled[:, 1:] == 0).all()
    with pytest.raises(UsageError, match=r"fitted on 3 columns, not \(2,\)"):
        Scaler.fit({"table": x}).transform({"table": x[:, :2]})


def test_table_scaler_survives_json_and_ignores_other_parts() -> None:
    x = table_values()
    scaler = Scaler.fit({"table": x[:300]})
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    whole = scaler.transform({"table": x})["table"]
    assert np.array_equal(again.transform({"table": x})["table"], whole)
    assert np.array_equal(scaler.transform({"table": x[:300]})["table"], whole[:300])
    with pytest.raises(StoreError, match="train the model again"):
        Scaler.from_dict({"table": scaler.to_dict()["table"] | {"scale": [0.0] * 4}})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.floats(0.3, 6), gaps=st.integers(0, 30))
def test_smoothing_by_the_sum_over_valid_bins(seed: int, width: float, gaps: int) -> None:
    rng = np.random.default_rng(seed)
    flux = rng.normal(10, 3, (2, 40)).astype(np.float32)
    sigma = rng.uniform(0.5, 2, (2, 40)).astype(np.float32)
    hole = rng.integers(0, 40, gaps)
    flux[0, hole], sigma[0, hole] = np.nan, np.nan
    out, error = smooth(flux, width), smooth_sigma(sigma, width)
    for row in range(2):
        for k in range(40):
            if np.isnan(flux[row, k]):
                assert np.isnan(out[row, k])
                assert np.isnan(error[row, k])
                continue
            near = [j for j in range(40) if np.isfinite(flux[row, j]) and abs(j - k) <= np.ceil(4 * width)]
            w = np.array([math.exp(-0.5 * ((j - k) / width) ** 2) for j in near])
            w /= w.sum()
            assert out[row, k] == pytest.approx(w @ flux[row, near], rel=1e-5)
            assert error[row, k] == pytest.approx(math.sqrt(w**2 @ sigma[row, near] ** 2), rel=1e-5)


@pytest.mark.parametrize("width", [0, -1, np.nan, np.inf])
def test_impossible_smoothing_is_refused(width: float) -> None:
    with pytest.raises(UsageError, match="give a width above 0"):
        smooth(np.ones((1, 9), np.float32), width)


LINES = {
    "ew_mgii_2799": 2799.1, "ew_oii_3727": 3728.5, "ew_caii_k_3934": 3934.8, "ew_caii_h_3968": 3969.6,
    "ew_hdelta_4101": 4102.9, "ew_gband_4304": 4301.0, "ew_hgamma_4342": 4341.7, "ew_hbeta_4861": 4862.7,
    "ew_oiii_4960": 4960.3, "ew_oiii_5008": 5008.2, "ew_mg_5175": 5176.7, "ew_na_5895": 5895.6,
    "ew_halpha_6565": 6564.6, "ew_sii_6716": 6718.3,
}  # fmt: skip


def line_spectra(
    wavelength: Any, name: str, z: Any, depth: float, sigma: float, slope: float
) -> tuple[Any, float]:
    """Spectra with one Gaussian line on a sloped continuum, and its equivalent width at rest."""
    stretch = 1 + np.asarray(z)[:, None]
    continuum = 20 * (1 + slope * (wavelength / (LINES[name] * stretch) - 1))
    profile = depth * np.exp(-0.5 * ((wavelength / stretch - LINES[name]) / sigma) ** 2)
    return (continuum * (1 - profile)).astype(np.float32), depth * sigma * math.sqrt(2 * math.pi)


@pytest.mark.parametrize("name", EW_NAMES)
@pytest.mark.parametrize(("depth", "slope"), [(0.6, 0.0), (0.4, 2.0), (-3.0, -1.5)])
def test_widths_of_gaussians_on_sloped_continua(name: str, depth: float, slope: float) -> None:
    wavelength = SDSS.centres(0)
    z = np.array([0.45, 0.5, 0.53]) if name == "ew_mgii_2799" else np.array([0.06, 0.15, 0.31])
    flux, expected = line_spectra(wavelength, name, z, depth, 2.0, slope)
    found = equivalent_widths(wavelength, flux, z)
    np.testing.assert_allclose(found[:, EW_NAMES.index(name)], expected, rtol=0.01)
    # Nothing spills into the lines that lie farther off than its neighbours.
    far = [k for k, other in enumerate(EW_NAMES) if abs(LINES[other] - LINES[name]) > 120]
    assert np.nanmax(np.abs(found[:, far])) < 0.02


def test_widths_where_nothing_can_be_measured() -> None:
    wavelength = SDSS.centres(0)
    halpha, hbeta = EW_NAMES.index("ew_halpha_6565"), EW_NAMES.index("ew_hbeta_4861")
    z = np.array([0.0, 0.0, 0.0, 0.0, 0.5, np.nan, -2.0])
    flux = np.full((7, len(wavelength)), 5, np.float32)
    flux[1, np.searchsorted(wavelength, 6564)] = np.nan
    flux[2, (wavelength > 6490) & (wavelength < 6515)] = np.nan
    flux[3] = -flux[3]
    found = equivalent_widths(wavelength, flux, z)
    assert np.isnan(found[0, EW_NAMES.index("ew_mgii_2799")])
    assert np.isfinite(found[0, 2:]).all()
    # A gap in the line, more than half of a side band lost, no continuum, off the grid, no redshift.
    assert np.isnan(found[[1, 2, 3, 4, 5, 6], halpha]).all()
    np.testing.assert_allclose(found[[0, 1, 2, 4], hbeta], 0, atol=1e-6)
    assert np.isnan(found[3:, hbeta][[0, 2, 3]]).all()
    assert equivalent_widths(wavelength, flux[:0], z[:0]).shape == (0, 14)


def test_widths_do_not_depend_on_the_block() -> None:
    wavelength = SDSS.centres(2)
    rng = np.random.default_rng(2)
    flux, z = rng.uniform(5, 9, (1100, len(wavelength))), rng.uniform(0, 0.4, 1100)
    whole = equivalent_widths(wavelength, flux, z)
    np.testing.assert_array_equal(whole[700:703], equivalent_widths(wavelength, flux[700:703], z[700:703]))


def test_indices_of_a_known_star() -> None:
    wavelength = SDSS.centres(0)
    # Flux per frequency is 2 blueward and 5 redward of 3975 Å, and Hα (air 6562.8) a Gaussian in absorption.
    flux = np.where(wavelength < 3975, 2.0, 5.0) / wavelength**2 * 1e7
    flux *= 1 - 0.5 * np.exp(-0.5 * ((wavelength - 6564.6) / 3) ** 2)
    found = dict(zip(INDEX_NAMES, line_indices(wavelength, flux[None].astype(np.float32))[0], strict=True))
    assert found["idx_d4000"] == pytest.approx(2.5, rel=2e-3)
    assert found["idx_halpha"] == pytest.approx(0.5 * 3 * math.sqrt(2 * math.pi), rel=0.01)
    for name in set(INDEX_NAMES) - {"idx_d4000", "idx_halpha"}:
        # The fall with λ² bends between the bands of the widest.
        assert abs(found[name]) < 0.3
    flux[(wavelength > 6550) & (wavelength < 6560)] = np.nan
    assert np.isnan(line_indices(wavelength, flux[None])[0, INDEX_NAMES.index("idx_halpha")])


def test_air_wavelengths_become_those_of_the_vacuum() -> None:
    # Hβ and Hα in air, and in vacuum (NIST).
    np.testing.assert_allclose(_vacuum([4861.333, 6562.79]), [4862.691, 6564.60], atol=0.01)
