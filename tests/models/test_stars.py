from itertools import product

import numpy as np
import pytest

from skyfuse.errors import UsageError
from skyfuse.models import Examples, load_model
from skyfuse.models.base import Output
from skyfuse.models.hybrid import Held, Hybrid
from skyfuse.models.stars import Stars, bends, flattened, one_peaked
from skyfuse.models.template import Shifted, classes_of
from skyfuse.models.uncertainty import Conformal

from .spectra import observe

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


def test_bends_are_smooth_factors_about_one():
    found = bends(400, 200, np.random.default_rng(0))
    assert (found > 0).all()
    assert np.log(found).mean() == pytest.approx(0, abs=0.02)
    assert np.abs(np.diff(np.log(found), axis=1)).max() < 0.05


def test_parts_hold_each_template_once_and_classes_evenly():
    from skyfuse.models.template import TemplateSet

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


@pytest.fixture(scope="module")
def typed(folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = Hybrid(templates=str(folder), draws=600, epochs=2, width=32)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=TYPES)
    return model


def test_the_harder_calibration_counts(typed, sets):
    x, y, _ = observe(sets, 60, seed=4, kinds=TYPES)
    typed._held = None
    typed.calibrate(x, y)
    assert typed.interval is not None
    easy = typed.interval.thresholds
    random = np.random.default_rng(5)
    probability = random.dirichlet(np.ones(3), 200)
    typed._held = Held(probability, random.integers(0, 3, 200))
    typed.calibrate(x, y)
    ties = {"x": probability.astype(np.float32)}
    hard = Conformal.fit(Output(probability), typed._held.label, ties, level=0.9).thresholds
    assert easy < hard == typed.interval.thresholds
    sure = np.eye(3)[y] * 0.97 + 0.01
    typed._held = Held(sure, y)
    typed.calibrate(x, y)
    assert typed.interval.thresholds == easy


def test_held_stars_are_saved_and_damage_is_refused(tmp_path, typed):
    random = np.random.default_rng(6)
    typed._held = Held(random.dirichlet(np.ones(3), 20), random.integers(0, 3, 20))
    loaded = load_model(typed.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded._held.probability, typed._held.probability)
    np.testing.assert_array_equal(loaded._held.label, typed._held.label)
    for name, value in (("probability", -1.0), ("label", 3)):
        arrays = {"held.probability": typed._held.probability.copy(), "held.label": typed._held.label.copy()}
        arrays[f"held.{name}"].flat[0] = value
        with pytest.raises(Exception, match="holds no probabilities of stars"):
            Held.read(arrays, tmp_path)


def test_members_learn_without_a_part_of_the_templates(folder, sets):
    """With three templates and three members each part is one class, which the other members alone know."""
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = Hybrid(templates=str(folder), draws=400, epochs=1, width=8, members=3)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=TYPES)
    assert len(model._members) == 3
    assert model._held is not None
    assert len(model._held.label) == 600
    assert np.bincount(model._held.label).tolist() == [200, 200, 200]


def test_an_unknown_system_is_refused():
    with pytest.raises(UsageError, match="give one of mk, lamost"):
        Hybrid(system="harvard")
