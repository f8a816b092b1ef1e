import numpy as np
import pytest

from skyfuse.models import MODELS

from .sky import make, only, r2


def test_stump_finds_the_step_and_the_means_on_both_sides():
    rng = np.random.default_rng(0)
    spectrum = rng.uniform(size=(200, 6)).astype(np.float32)
    y = np.where(spectrum[:, 4] < 0.3, -1.0, 2.0) + rng.normal(scale=0.01, size=200)
    model = MODELS["tree"](max_depth=1)
    model.fit({"spectrum": spectrum}, y, {"spectrum": spectrum}, y, seed=0)
    low = spectrum[:, 4] < 0.3
    expected = np.where(low, y[low].mean(), y[~low].mean())
    assert np.allclose(model.predict({"spectrum": spectrum}).value, expected, rtol=0, atol=1e-12)


def test_tree_sends_missing_values_to_the_side_that_they_belong_to():
    x = np.repeat(np.float32([[0.0], [1.0], [np.nan]]), 20, axis=0)
    y = np.repeat([5.0, 1.0, 1.0], 20)
    model = MODELS["tree"](max_depth=1)
    model.fit({"spectrum": x}, y, {"spectrum": x}, y, seed=0)
    assert np.array_equal(model.predict({"spectrum": np.float32([[0], [1], [np.nan]])}).value, [5, 1, 1])


def test_lightgbm_is_the_same_for_every_number_of_threads_and_every_run(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    values = []
    for threads in (1, 1, 2):
        model = MODELS["lightgbm"](threads=threads, max_rounds=20)
        model.fit(train, y, valid, y_valid, seed=5)
        values.append(model.predict(test).value)
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[2])


def test_boosting_stops_after_patience_and_keeps_the_best_round(parts):
    (train, y), (valid, y_valid), (test, y_test) = parts
    seen = []
    model = MODELS["lightgbm"](patience=4)
    history = model.fit(train, y, valid, y_valid, seed=0, progress=lambda *line: seen.append(line))
    assert len(history["valid"]) == history["best"] + 1 + 4
    assert model._booster.num_trees() == history["best"] + 1
    assert [line[0] for line in seen] == list(range(1, len(history["valid"]) + 1))
    assert seen[-1][1] == 1000
    assert f"{history['valid'][-1]:.4f}" in seen[-1][2]
    assert r2(model.predict(test).value, y_test) > 0.5


def test_wide_inputs_show_each_tree_a_part_of_the_features(monkeypatch):
    monkeypatch.setattr("skyfuse.models.classic.FEATURES_PER_TREE", 4)
    (x, y) = make(100, bins=40)
    x = only(x, "spectrum")
    model = MODELS["lightgbm"](max_rounds=10)
    model.fit(x, y, x, y, seed=0)
    text = model._booster.model_to_string()
    assert "[feature_fraction: 0.1]" in text
    for tree in text.split("Tree=")[1:]:
        split = next(line for line in tree.splitlines() if line.startswith("split_feature="))
        assert len(set(split[14:].split())) <= 4


def test_early_fusion_joins_image_features_before_those_of_the_spectrum(parts):
    x, y = make(80)
    x = {"spectrum": x["spectrum"], "image": np.zeros_like(x["image"])}
    model = MODELS["tree"](max_depth=1)
    model.fit(x, y, x, y, seed=0)
    assert model.modalities == ("image", "spectrum")
    assert model._tree.tree_.feature[0] >= 5 * 8 * 8


@pytest.mark.parametrize("name", ["tree", "lightgbm"])
def test_classic_models_beat_the_mean_on_each_modality(name, parts):
    (train, y), (valid, y_valid), (test, y_test) = parts
    for modality in ("image", "spectrum"):
        model = MODELS[name]()
        model.fit(only(train, modality), y, only(valid, modality), y_valid, seed=0)
        assert r2(model.predict(test).value, y_test) > 0.3
