import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import UsageError
from skyfuse.models import MODELS, Examples, LateFusion
from skyfuse.models.base import log_loss
from skyfuse.models.fusion import mixture_weights, simplex_weights

from .sky import CLASSES, only


def members_of(parts):
    (train, y), (valid, y_valid), _ = parts
    members = []
    for modality in ("image", "spectrum"):
        member = MODELS["tree"](max_depth=3)
        member.fit(Examples(only(train, modality), y), Examples(only(valid, modality), y_valid), seed=0)
        members.append(member)
    return members


def test_mean_is_the_mean_and_each_member_reads_its_own_modality(parts):
    first, second = members_of(parts)
    test = parts[2][0]
    fusion = LateFusion([first, second])
    fusion.fit(Examples(*parts[0]), Examples(*parts[1]), seed=0)
    expected = (first.predict(only(test, "image")).value + second.predict(only(test, "spectrum")).value) / 2
    assert np.allclose(fusion.predict(test).value, expected, rtol=1e-15)
    assert tuple(fusion.inputs) == ("image", "spectrum")


def test_weights_come_from_validation_and_never_lose_to_the_mean_or_a_member_there(parts):
    members = members_of(parts)
    valid, y_valid = parts[1]
    fusion = LateFusion(members, "weighted")
    history = fusion.fit(Examples(*parts[0]), Examples(valid, y_valid), seed=0)
    first, second = (member.predict(valid).value for member in members)
    # Two members: the minimum of a parabola in the first one's weight.
    weight = np.clip((first - second) @ (y_valid - second) / ((first - second) @ (first - second)), 0, 1)
    assert np.allclose(fusion.mix, [weight, 1 - weight], atol=1e-10)
    for other in (first, second, (first + second) / 2):
        assert history["valid"][0] <= np.sqrt(np.mean((other - y_valid) ** 2)) + 1e-12


@given(seed=st.integers(0, 2**32 - 1), members=st.integers(2, 4))
def test_weights_are_admissible_and_no_point_of_a_grid_is_better(seed, members):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=30)
    values = y[:, None] * rng.uniform(-1, 2, members) + rng.normal(size=(30, members))
    weights = simplex_weights(values, y)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    found = np.mean((values @ weights - y) ** 2)
    for steps in itertools.product(range(9), repeat=members):
        if sum(steps) == 8:
            assert found <= np.mean((values @ np.array(steps) / 8 - y) ** 2) + 1e-9


def test_equal_members_and_a_perfect_one():
    y = np.arange(10.0)
    assert simplex_weights(np.stack([y + 1, y, y - 3], axis=1), y) == pytest.approx([0, 1, 0])
    assert simplex_weights(np.stack([y + 1, y - 1], axis=1), y) == pytest.approx([0.5, 0.5])
    assert simplex_weights(np.stack([y + 1, y + 1], axis=1), y).sum() == pytest.approx(1)


def test_classes_are_fused_by_their_probabilities(class_parts, classifiers):
    (train, y), (valid, y_valid), (test, _) = class_parts
    members = [classifiers[name] for name in ("logistic", "tree", "knn")]
    kind = {"kind": "classification", "classes": CLASSES}
    fusion = LateFusion(members)
    fusion.fit(Examples(train, y), Examples(valid, y_valid), seed=0, **kind)
    mean = sum(member.predict(test).probability for member in members) / 3
    assert np.allclose(fusion.predict(test).probability, mean, rtol=1e-12)
    weighted = LateFusion(members, "weighted")
    history = weighted.fit(Examples(train, y), Examples(valid, y_valid), seed=0, **kind)
    assert history["metric"] == "log loss"
    for member in [*members, fusion]:
        assert history["valid"][0] <= log_loss(member.predict(valid).probability, y_valid) + 1e-9


@given(seed=st.integers(0, 2**32 - 1), members=st.integers(2, 4))
def test_weights_of_probabilities_are_admissible_and_no_point_of_a_grid_is_better(seed, members):
    likelihood = np.random.default_rng(seed).uniform(size=(40, members)) ** 3
    weights = mixture_weights(likelihood)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    found = np.log(likelihood @ weights).mean()
    for steps in itertools.product(range(9), repeat=members):
        if sum(steps) == 8:
            assert found >= np.log(np.clip(likelihood @ np.array(steps) / 8, 1e-300, None)).mean() - 1e-5


def test_where_no_member_gave_the_truth_a_chance_weights_stay_equal():
    assert mixture_weights(np.zeros((5, 3))) == pytest.approx([1 / 3] * 3)


def test_any_number_of_modalities_is_fused(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    members = members_of(parts)
    train, valid, test = ({**x, "table": x["spectrum"][:, 15:25]} for x in (train, valid, test))
    members.append(MODELS["linear"]())
    members[2].fit(Examples(only(train, "table"), y), Examples(only(valid, "table"), y_valid), seed=0)
    fusion = LateFusion(members, "weighted")
    fusion.fit(Examples(train, y), Examples(valid, y_valid), seed=0)
    said = np.stack([member.predict(test).value for member in members], axis=1)
    assert tuple(fusion.inputs) == ("image", "spectrum", "table")
    assert np.allclose(fusion.predict(test).value, said @ fusion.mix, rtol=1e-12)


def test_members_of_another_label_are_refused(parts, fitted, classifiers):
    with pytest.raises(UsageError, match="predict different things"):
        LateFusion([fitted["tree"], classifiers["tree"]])
    fusion = LateFusion([classifiers["tree"], classifiers["knn"]])
    with pytest.raises(UsageError, match="fitted for faint or middling or bright"):
        fusion.fit(Examples(*parts[0]), Examples(*parts[1]), seed=0)


def test_wrong_members_are_a_wrong_call(fitted):
    with pytest.raises(UsageError, match="1 members"):
        LateFusion([fitted["tree"]])
    with pytest.raises(UsageError, match="lightgbm"):
        LateFusion([fitted["tree"], MODELS["lightgbm"]()])
    with pytest.raises(UsageError, match="median"):
        LateFusion([fitted["tree"], fitted["lightgbm"]], "median")
