import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from skyfuse.dataset.morphology import morphology

SIZE = 128


def grid(size=SIZE):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return y, x


def galaxy(sigma=9.0, ratio=1.0, angle=0.0, size=SIZE, peak=0.7):
    y, x = grid(size)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = (np.cos(angle) * y - np.sin(angle) * x) / ratio
    return peak * np.exp(-(along**2 + across**2) / (2 * sigma**2))


def spiral(turn=1):
    y, x = grid()
    r, theta = np.hypot(x, y) + 1e-6, np.arctan2(y, x)
    arms = 1 + 0.6 * np.cos(2 * (theta - turn * np.log(r) * 2))
    return 0.5 * np.exp(-r / 14) * arms


def colour(*planes):
    return np.stack(planes)[None].astype(np.float32)


def measured(plane):
    return {name: values[0] for name, values in morphology(colour(plane, plane, plane)).items()}


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.9])
def test_an_ellipse_has_the_axis_ratio_it_was_drawn_with(angle):
    found = measured(galaxy(ratio=0.5, angle=angle))

    assert found["axis_ratio"] == pytest.approx(0.5, abs=0.02)
    assert found["outline_ratio"] == pytest.approx(0.5, abs=0.03)
    assert found["outline_fill"] == pytest.approx(1, abs=0.02)


def test_half_of_a_gaussians_light_lies_within_1_18_sigma():
    found = measured(galaxy(sigma=9))

    # The half pixel keeps the radius of a single pixel above 0; the faint rim below the threshold is cut.
    assert np.exp(found["log_r50"]) - 0.5 == pytest.approx(9 * np.sqrt(2 * np.log(2)), rel=0.04)


def test_a_flat_disc_is_less_concentrated_and_more_equal_than_a_cusp():
    y, x = grid()
    r = np.hypot(x, y)
    disc, cusp = measured(0.5 * (r < 20)), measured(0.8 * np.exp(-r / 6))

    # Light grows as r² in a flat disc.
    assert disc["concentration"] == pytest.approx(np.log(np.sqrt(0.8 / 0.2)), abs=0.06)
    # The threshold on the smoothed image takes in a dark rim of 1.6 pixels.
    assert disc["gini"] == pytest.approx(1 - (20 / 21.6) ** 2, abs=0.03)
    assert cusp["gini"] > 0.4
    assert cusp["concentration"] > 1.3 * disc["concentration"]
    assert cusp["m20"] < disc["m20"]


def test_a_mirror_image_turns_the_other_way_and_has_arms_as_strong():
    one, other = measured(spiral(1)), measured(spiral(-1))

    assert one["turn"] == pytest.approx(-other["turn"], abs=0.02)
    assert abs(one["turn"]) > 0.5
    assert one["spiral_2"] == pytest.approx(other["spiral_2"], abs=0.05)
    assert one["spiral_2"] > measured(galaxy())["spiral_2"] + 1


def test_turning_the_image_by_a_quarter_changes_nothing():
    plane = spiral() * (1 + 0.3 * galaxy(4, 0.6, 0.4))
    one, other = measured(plane), measured(np.rot90(plane))

    assert one == pytest.approx(other, rel=1e-3, abs=2e-3)


def test_two_nuclei_are_counted():
    pair = np.roll(galaxy(5), -9, axis=1) + 0.5 * np.roll(galaxy(5), 9, axis=1)
    found = measured(pair)

    assert found["nuclei"] == 2
    assert found["second_nucleus"] == pytest.approx(0.5, abs=0.08)
    assert measured(galaxy(5))["nuclei"] == 1


def test_colours_are_ratios_of_the_channels():
    plane = galaxy(peak=0.3)
    found = morphology(colour(2 * plane, plane, 0.5 * plane))

    assert found["colour_0_whole"][0] == pytest.approx(np.log(2), abs=1e-3)
    assert found["colour_1_whole"][0] == pytest.approx(np.log(2), abs=1e-3)
    assert found["colour_0_gradient"][0] == pytest.approx(0, abs=0.01)


def test_a_neighbour_does_not_enter_the_light():
    plane = galaxy(5)
    far = np.roll(galaxy(3), 45, axis=1)
    alone, accompanied = measured(plane), measured(plane + far)

    assert accompanied["objects"] == alone["objects"] + 1
    assert accompanied["log_r50"] == pytest.approx(alone["log_r50"], abs=1e-6)
    assert accompanied["axis_ratio"] == pytest.approx(alone["axis_ratio"], abs=1e-3)


def test_images_without_light_or_with_a_hole_have_no_features_and_spoil_no_other():
    good = colour(galaxy(), galaxy(), galaxy())
    hole = good.copy()
    hole[0, 0, 5, 5] = np.nan
    found = morphology(np.concatenate([good, np.zeros_like(good), hole]))

    assert all(np.isfinite(values[0]) for values in found.values())
    assert all(np.isnan(values[1:]).all() for values in found.values())


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(32, 90),
    channels=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    level=st.floats(0, 1),
)
def test_any_image_gives_the_same_finite_features(size, channels, seed, level):
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(level, 0.2, (2, channels, size, size)), 0, 1).astype(np.float32)
    found = morphology(image)

    assert all(np.isfinite(values).all() and values.shape == (2,) for values in found.values())
    assert list(found) == list(morphology(np.zeros((1, channels, 40, 40), dtype=np.float32)))


def test_what_tells_the_sense_of_winding_changes_its_sign_in_a_mirror_and_nothing_else_does():
    rng = np.random.default_rng(4)
    plane = spiral() * (1 + 0.3 * np.sin(np.arange(SIZE) / 9)) + 0.02 * rng.random((SIZE, SIZE))
    images = np.clip(np.stack([plane, 0.8 * plane, 0.5 * plane])[None], 0, 1).astype(np.float32)
    one, other = morphology(images), morphology(np.ascontiguousarray(images[..., ::-1]))

    for name, value in one.items():
        sign = -1 if name.startswith("turn") else 1
        assert other[name] == pytest.approx(sign * value, abs=1e-6), name


@pytest.mark.parametrize("channel", ["first", "last", "all"])
def test_the_slant_of_arms_tells_their_sense(channel):
    one, other = measured(spiral(1)), measured(spiral(-1))

    assert one[f"turn_{channel}_1_middle"] * other[f"turn_{channel}_1_middle"] < -0.01


def test_grain_grows_with_the_correlation_of_the_noise():
    noise = np.random.default_rng(3).normal(size=(SIZE, SIZE))
    fine, coarse = (
        measured(np.clip(galaxy(sigma=4) + 0.1 + 0.01 * plane / plane.std(), 0, 1))
        for plane in (noise, ndimage.gaussian_filter(noise, 3))
    )

    assert coarse["grain_1"] > fine["grain_1"] + 1
    # White noise smoothed by a Gaussian of σ pixels keeps 1 / (4πσ²) of its variance.
    assert fine["grain_1"] == pytest.approx(-np.log(4 * np.pi), abs=0.15)
