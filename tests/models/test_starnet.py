import numpy as np
import pytest
from scipy.special import softmax

from skyfuse.errors import StoreError, UsageError
from skyfuse.models import Examples, load_model
from skyfuse.models.base import Output
from skyfuse.models.starnet import Held, StarTypes
from skyfuse.models.stars import flattened, one_peaked
from skyfuse.models.template import coarser, weighted
from skyfuse.models.uncertainty import Conformal

from .spectra import CLASSES, observe

TYPES = ("A", "G", "M")


@pytest.fixture(scope="module")
def typed(folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = StarTypes(templates=str(folder), draws=600, epochs=2, width=32, members=1)
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
        with pytest.raises(StoreError, match="holds no probabilities of stars"):
            Held.read(arrays, tmp_path)


def test_members_learn_without_a_part_of_the_templates(folder, sets):
    """With three templates and three members each part is one class, which the other members alone know."""
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = StarTypes(templates=str(folder), draws=300, epochs=1, width=8, members=3)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=TYPES)
    assert len(model._members) == 3
    assert model._held is not None
    assert len(model._held.label) == 600
    assert np.bincount(model._held.label).tolist() == [200, 200, 200]


def test_an_unknown_system_is_refused():
    with pytest.raises(UsageError, match="give one of mk, lamost"):
        StarTypes(system="harvard")


def test_types_of_stars_need_no_flux_calibration(folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = StarTypes(templates=str(folder), draws=2000, epochs=5, width=64, members=1)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=TYPES)
    bent = {**x, "spectrum": x["spectrum"] * np.linspace(1, 5, 936, dtype=np.float32)}
    assert (model.predict(bent).value == y).mean() > 0.9


def test_members_are_averaged_and_saved(tmp_path, folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=TYPES)
    model = StarTypes(templates=str(folder), draws=300, epochs=1, width=8, members=2)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=TYPES)
    both = model.predict(x).probability
    np.testing.assert_array_equal(load_model(model.save(tmp_path / "model")).predict(x).probability, both)
    inputs = (flattened(*coarser(*weighted(x, 2))) - model._mean) / model._std
    alone = []
    for (a, b), (c, d), (e, f) in model._members:
        alone.append(softmax(np.maximum(np.maximum(inputs @ a + b, 0) @ c + d, 0) @ e + f, axis=1))
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(both, one_peaked(np.mean(alone, axis=0), [0, 1, 2]), atol=1e-6)


def test_galaxies_are_not_its_business(folder, sets):
    x, y, _ = observe(sets, 9, seed=3)
    with pytest.raises(UsageError, match="cannot tell GALAXY and QSO"):
        StarTypes(templates=str(folder)).fit(
            Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=CLASSES
        )


@pytest.mark.parametrize(
    "wrong", [{"draws": 10}, {"members": 0}, {"epochs": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}]
)
def test_impossible_parameters(wrong):
    with pytest.raises(UsageError, match="out of range"):
        StarTypes(**wrong)
