from itertools import product

import numpy as np
import pytest

from skyfuse.models.stars import Stars, bends, flattened, one_peaked
from skyfuse.models.template import Shifted, TemplateSet, classes_of

TYPES = ("A", "G", "M")


def library(sets, system="mk"):
    index = classes_of(sets, TYPES)
    own = [s for s, i in zip(sets, index, strict=True) if i >= 0]
    return Stars(own, [Shifted(s, 2) for s in own], index[index >= 0], TYPES, system)


def test_probabilities_have_one_peak_and_sets_no_holes():
    """Against brute force: the highest one-peaked curve below another one, before it is made to sum to 1."""
    random = np.random.default_rng(1)
    found = one_peaked(random.dirichlet(np.ones(5), 300), [0, 1, 2, 3, 4])
    assert found.sum(axis=1) == pytest.approx(1)
    for row, level in product(found, (0.05, 0.1, 0.2, 0.3)):
        members = np.flatnonzero(row >= level)
        assert len(members) == 0 or len(members) == members[-1] - members[0] + 1
    given = np.array([[0.3, 0.1, 0.4, 0.05, 0.15]])
    expected = np.array([0.1, 0.1, 0.4, 0.05, 0.05])
    assert one_peaked(given, range(5))[0] == pytest.approx(expected / 0.7)
    kept = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]])
    assert one_peaked(kept, range(5)) == pytest.approx(kept)


def test_the_order_is_that_of_temperature_not_of_the_columns():
    found = one_peaked(np.array([[0.5, 0.1, 0.4]]), [1, 0, 2])
    assert found[0] == pytest.approx([0.5, 0.1, 0.4])


def test_flattened_spectra_forget_the_calibration_but_not_the_lines():
    bins = 468
    x = np.linspace(0, 1, bins)
    line = 1 - 0.5 * np.exp(-0.5 * ((np.arange(bins) - 200) / 1.5) ** 2)
    weight = np.ones((1, bins), np.float32)
    plain = flattened((line[None]).astype(np.float32), weight)
    bent = flattened((line * 40 * np.exp(x - x**2)).astype(np.float32)[None], weight)
    assert np.abs(plain - bent)[:, 5:-5].max() < 0.02
    assert plain[0, 200] < -0.35


def test_a_lost_core_of_a_line_is_no_continuum():
    flux = np.ones((1, 468), np.float32)
    flux[0, 200:205] = 0.7
    weight = np.ones_like(flux)
    whole = flattened(flux, weight)
    weight[0, 202] = 0
    lost = flattened(np.where(weight > 0, flux, 0), weight)
    assert whole[0, 202] < -0.2
    assert lost[0, 202] == pytest.approx(lost[0, 201:204:2].mean(), abs=1e-6)
    assert lost[0, 202] < -0.2


def test_bends_are_smooth_factors_about_one():
    found = bends(400, 200, np.random.default_rng(0))
    assert (found > 0).all()
    assert np.log(found).mean() == pytest.approx(0, abs=0.02)
    assert np.abs(np.diff(np.log(found), axis=1)).max() < 0.05


def test_parts_hold_each_template_once_and_classes_evenly():
    names = [f"{letter}{digit}V" for letter in TYPES for digit in range(0, 10, 2)]
    own = [TemplateSet("STAR", name[0], name, 34842, np.ones((1, 5933)), -0.004, 0.004) for name in names]
    index = np.array([TYPES.index(name[0]) for name in names])
    stars = Stars(own, [Shifted(s, 4) for s in own], index, TYPES, "mk")
    parts = stars.parts(5, np.random.default_rng(3))
    assert sorted(np.concatenate(parts).tolist()) == list(range(15))
    assert all(np.bincount(index[part]).tolist() == [1, 1, 1] for part in parts)


def test_drawn_stars_are_of_their_templates(sets):
    stars = library(sets)
    noise = np.full((1, 936), 0.01)
    drawn = stars.draw(60, np.array([0, 2]), noise, np.random.default_rng(2))
    assert drawn.target.sum(axis=1) == pytest.approx(1)
    assert set(drawn.target.argmax(axis=1)) == {0, 2}
    assert np.abs((drawn.target > 0.5).sum(axis=0) - [30, 0, 30]).max() < 15
    assert np.median(drawn.flux[drawn.weight > 0]) == pytest.approx(1, abs=0.05)
