"""What an object looks like is told in the same numbers whatever its kind, and noise by its scatter."""

from __future__ import annotations

import numpy as np
import pytest

from skyfuse.models.summaries import BLOCKS, RINGS, summarise, without_input


def test_columns_of_a_table_stand_as_they_are():
    table = np.array([[1, np.nan], [3, 4]], np.float32)
    found = summarise({"table": table}, ("a", "b-c"))
    assert found.names == ("a", "b-c")
    np.testing.assert_array_equal(found.values, table)
    assert found.form.shape == (2, 0)
    assert summarise({"table": table}, ()).names == ("0", "1")


def test_images_and_spectra_are_told_by_brightness_share_of_valid_samples_and_noise():
    image = np.arange(600 * 3 * 4, dtype=np.float32).reshape(600, 3, 2, 2)
    spectrum = np.ones((600, 5), np.float32)
    spectrum[1, :2] = np.nan
    spectrum[2] = np.nan
    spectrum[3, 0] = np.inf
    x = {"image": image, "spectrum": spectrum, "spectrum_sigma": spectrum}
    found = summarise(x, ())
    of = dict(zip(found.names, found.values.T, strict=True))
    assert list(of) == [
        *("image median", "image valid", "image S/N"),
        *("spectrum median", "spectrum valid", "spectrum S/N"),
    ]
    np.testing.assert_allclose(of["image median"], [np.median(one) for one in image])
    np.testing.assert_allclose(of["spectrum valid"][:5], [1, 0.6, 0, 0.8, 1])
    assert np.isnan(of["spectrum median"][2])
    assert np.isnan(of["image S/N"]).all()  # two pixels in a line tell no noise
    assert found.form.shape == (600, 3 * RINGS + 5)
    assert without_input(x).tolist() == [False, False, True] + [False] * 597


@pytest.mark.parametrize("level", [2.0, 20.0])
def test_signal_to_noise_of_a_spectrum_is_that_of_its_noise(level):
    rng = np.random.default_rng(4)
    # A slope and a line are no noise; the estimate of 4,000 bins scatters by 2 %.
    flux = level * (1 + 0.2 * np.linspace(-1, 1, 4000)) + rng.normal(size=(20, 4000))
    flux[:, 1000:1020] += 50
    found = summarise({"spectrum": flux.astype(np.float32)}, ())
    assert np.mean(found.values[:, 2]) == pytest.approx(level, rel=0.03)


def test_a_star_stands_out_of_the_noise_of_its_image():
    rng = np.random.default_rng(5)
    y, x = np.indices((64, 64)) - 31.5
    star = np.exp(-(x**2 + y**2) / 50)
    sky = rng.normal(size=(20, 1, 64, 64))
    empty, bright = (
        summarise({"image": (sky + level * star).astype(np.float32)}, ()).values[:, 2] for level in (0, 10)
    )
    # Within R, a quarter of the half-diagonal, the mean is 50/R² · (1 − exp(−R²/50)) of the peak.
    radius = 64 / np.sqrt(2) / 4
    expected = 10 * 50 / radius**2 * (1 - np.exp(-(radius**2) / 50))
    assert np.mean(bright) == pytest.approx(expected, rel=0.1)
    assert np.abs(empty).max() < 0.3


def test_the_form_of_a_spectrum_is_its_means_over_pieces_in_units_of_its_own():
    flux = np.repeat(np.arange(1, BLOCKS + 1), 10).astype(np.float32)[None]
    form = summarise({"spectrum": flux}, ()).form[0]
    np.testing.assert_allclose(form, np.arange(1, BLOCKS + 1) / np.median(np.arange(1, BLOCKS + 1)))
    np.testing.assert_allclose(summarise({"spectrum": 7 * flux}, ()).form[0], form, rtol=1e-6)


def test_the_form_of_an_image_stays_as_it_turns():
    image = np.random.default_rng(6).normal(size=(1, 3, 16, 16)).astype(np.float32)
    turned = np.rot90(image, axes=(2, 3))
    np.testing.assert_allclose(
        summarise({"image": turned}, ()).form, summarise({"image": image}, ()).form, rtol=1e-4
    )
