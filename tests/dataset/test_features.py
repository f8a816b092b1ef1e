from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from skyfuse.dataset.features import Scaler, Stretch
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
