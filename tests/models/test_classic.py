import lightgbm
import numpy as np
import pytest
from sklearn import ensemble, linear_model, neighbors, svm
from sklearn.preprocessing import RobustScaler

from skyfuse.errors import UsageError
from skyfuse.models import MODELS, Examples

from .conftest import QUICK, QUICK_CLASSES
from .sky import make, only, r2


def test_stump_finds_the_step_and_the_means_on_both_sides():
    rng = np.random.default_rng(0)
    spectrum = rng.uniform(size=(200, 6)).astype(np.float32)
    y = np.where(spectrum[:, 4] < 0.3, -1.0, 2.0) + rng.normal(scale=0.01, size=200)
    model = MODELS["tree"](max_depth=1)
    model.fit(Examples({"spectrum": spectrum}, y), Examples({"spectrum": spectrum}, y), seed=0)
    low = spectrum[:, 4] < 0.3
    expected = np.where(low, y[low].mean(), y[~low].mean())
    assert np.allclose(model.predict({"spectrum": spectrum}).value, expected, rtol=0, atol=1e-12)


def test_tree_sends_missing_values_to_the_side_that_they_belong_to():
    x = np.repeat(np.float32([[0.0], [1.0], [np.nan]]), 20, axis=0)
    y = np.repeat([5.0, 1.0, 1.0], 20)
    model = MODELS["tree"](max_depth=1)
    model.fit(Examples({"spectrum": x}, y), Examples({"spectrum": x}, y), seed=0)
    assert np.array_equal(model.predict({"spectrum": np.float32([[0], [1], [np.nan]])}).value, [5, 1, 1])


def test_lightgbm_is_the_same_for_every_number_of_threads_and_every_run(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    values = []
    for threads in (1, 1, 2):
        model = MODELS["lightgbm"](threads=threads, max_rounds=20)
        model.fit(Examples(train, y), Examples(valid, y_valid), seed=5)
        values.append(model.predict(test).value)
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[2])


def test_boosting_stops_after_patience_and_keeps_the_best_round(parts):
    (train, y), (valid, y_valid), (test, y_test) = parts
    seen = []
    model = MODELS["lightgbm"](patience=4)
    history = model.fit(
        Examples(train, y), Examples(valid, y_valid), seed=0, progress=lambda *line: seen.append(line)
    )
    assert len(history["valid"]) == history["best"] + 1 + 4
    assert len(model._boosted.leaves) == history["best"] + 1
    assert [line[0] for line in seen] == list(range(1, len(history["valid"]) + 1))
    assert seen[-1][1] == 1000
    assert f"{history['valid'][-1]:.4f}" in seen[-1][2]
    assert r2(model.predict(test).value, y_test) > 0.5


@pytest.fixture
def told(monkeypatch):
    """Return the settings that LightGBM is given."""
    settings, train = {}, lightgbm.train

    def overhear(given, *parts, **options):
        settings.update(given)
        return train(given, *parts, **options)

    monkeypatch.setattr(lightgbm, "train", overhear)
    return settings


def test_wide_inputs_show_each_tree_a_part_of_the_features(monkeypatch, told):
    monkeypatch.setattr("skyfuse.models.classic.FEATURES_PER_TREE", 4)
    (x, y) = make(100, bins=40)
    x = only(x, "spectrum")
    model = MODELS["lightgbm"](max_rounds=10)
    model.fit(Examples(x, y), Examples(x, y), seed=0)
    text = model._boosted.text()
    assert told["feature_fraction"] == pytest.approx(0.1)
    for tree in text.split("Tree=")[1:]:
        split = next(line for line in tree.splitlines() if line.startswith("split_feature="))
        assert len(set(split[14:].split())) <= 4


def test_early_fusion_joins_image_features_before_those_of_the_spectrum(parts):
    x, y = make(80)
    x = {"spectrum": x["spectrum"], "image": np.zeros_like(x["image"])}
    model = MODELS["tree"](max_depth=1)
    model.fit(Examples(x, y), Examples(x, y), seed=0)
    assert tuple(model.inputs) == ("image", "spectrum")
    assert model._nodes["feature"][0] >= 5 * 8 * 8


@pytest.mark.parametrize("name", ["linear", "knn", "svm", "tree", "forest", "lightgbm"])
def test_classic_models_beat_the_mean_on_each_modality(name, parts):
    (train, y), (valid, y_valid), (test, y_test) = parts
    for modality in ("image", "spectrum"):
        model = MODELS[name](**QUICK[name])
        model.fit(Examples(only(train, modality), y), Examples(only(valid, modality), y_valid), seed=0)
        assert r2(model.predict(test).value, y_test) > 0.3


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
@pytest.mark.parametrize("name", ["linear", "logistic", "knn", "svm", "tree", "forest", "lightgbm"])
def test_inputs_that_say_nothing_give_the_mean_of_the_labels(name, value):
    x = {"table": np.full((60, 3), value, dtype=np.float32)}
    y = np.arange(60) % 3
    for kind in sorted(MODELS[name].kinds):
        classes = ("a", "b", "c") if kind == "classification" else ()
        # All are equally near: of fewer neighbours than there are, which ones count is chance.
        params = {"k": 60} if name == "knn" else QUICK.get(name, {})
        model = MODELS[name](**params)
        model.fit(Examples(x, y), Examples(x, y), seed=0, kind=kind, classes=classes)
        model.calibrate(x, y, level=0.8)
        found = model.predict(x)
        if classes:
            # In a bag of objects the shares are near a third.
            assert found.probability == pytest.approx(1 / 3, abs=0.1)
        else:
            assert found.value == pytest.approx(1, abs=0.15)
            assert np.mean((found.low <= y) & (y <= found.high)) >= 0.8


def table(n=300, columns=4, gaps=0.0, seed=0):
    """Columns of very different scales, without gaps unless asked for, and three classes in them."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, columns)) * 10.0 ** np.arange(columns) + 5).astype(np.float32)
    y = ((x[:, 0] > 5).astype(int) + (x[:, 1] > 5)).astype(np.int64)
    x[rng.uniform(size=x.shape) < gaps] = np.nan
    return x, y


def learn(name, x, y, x_valid, y_valid, *, weight=None, seed=0, **params):
    kind = {"kind": "classification", "classes": "abc"} if y.dtype == np.int64 else {}
    model = MODELS[name](**params)
    model.fit(Examples({"table": x}, y, weight), Examples({"table": x_valid}, y_valid), seed=seed, **kind)
    return model


def ready(x, train, limit=5.0):
    """Scale by median and middle 68 %, fill gaps by the median, and limit, as scikit-learn does."""
    scaled = RobustScaler(quantile_range=(15.87, 84.13)).fit(train.astype(float)).transform(x.astype(float))
    return np.clip(np.nan_to_num(2 * scaled), -limit, limit)


@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_are_those_of_numpy(weighted):
    x, _ = table(gaps=0.05)
    rng = np.random.default_rng(1)
    y, weight = rng.normal(100, 5, 300), rng.uniform(0.5, 2, 300) if weighted else None
    model = learn("linear", x, y, x[:50], y[:50], weight=weight)
    filled = np.where(np.isnan(x), np.nanmedian(x, axis=0), x).astype(float)
    design = np.column_stack([filled, np.ones(300)])
    root = np.ones(300) if weight is None else np.sqrt(weight)
    solution = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    assert np.allclose(model.predict({"table": x}).value, design @ solution, rtol=1e-7)


def test_ridge_is_that_of_scikit_learn_and_collinear_columns_do_no_harm():
    x, _ = table()
    x = np.column_stack([x, x[:, 0] - x[:, 1], np.full(300, 7.0)]).astype(np.float32)
    y = np.random.default_rng(1).normal(size=300)
    z = ready(x, x, np.inf)
    ridge = linear_model.Ridge(alpha=0.3 * 300).fit(z, y)
    assert np.allclose(
        learn("linear", x, y, x, y, alpha=0.3).predict({"table": x}).value, ridge.predict(z), atol=1e-6
    )
    plain = linear_model.LinearRegression().fit(z[:, :4], y)
    value = learn("linear", x, y, x, y, alpha=0.0).predict({"table": x}).value
    assert np.allclose(value, plain.predict(z[:, :4]), atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "knn", "svm"])
def test_one_wild_value_does_not_rule_the_distances(name):
    x, y = table()
    wild = x.copy()
    wild[0] = 1e9
    sane, upset = (learn(name, data, y, x, y).predict({"table": x}) for data in (x, wild))
    assert np.mean(sane.value == upset.value) > 0.97


def test_a_column_that_is_nearly_constant_keeps_its_rare_values():
    x = np.zeros((200, 2), np.float32)
    x[::20, 0], x[:, 1] = 1.0, 0.1
    y = np.where(x[:, 0] > 0, 7.0, -1.0)
    assert np.allclose(learn("linear", x, y, x, y).predict({"table": x}).value, y, atol=1e-6)
    assert np.allclose(learn("knn", x, y, x, y, k=5).predict({"table": x}).value, y)


def test_wide_inputs_get_the_penalty_that_is_best_on_validation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 80)).astype(np.float32)
    y = x[:, :3].sum(axis=1) + rng.normal(scale=2, size=120)
    parts = x[:60], y[:60], x[60:], y[60:]
    chosen = learn("linear", *parts)
    errors = [
        np.mean((learn("linear", *parts, alpha=10.0**power).predict({"table": x[60:]}).value - y[60:]) ** 2)
        for power in range(-6, 4)
    ]
    error = np.mean((chosen.predict({"table": x[60:]}).value - y[60:]) ** 2)
    assert error == pytest.approx(min(errors), rel=1e-9)
    assert 0 < np.argmin(errors) < 9


def test_logistic_regression_is_that_of_scikit_learn():
    x, y = table(gaps=0.05)
    z = ready(x, x)
    for labels in (y, np.minimum(y, 1)):
        reference = linear_model.LogisticRegression(C=0.5, max_iter=1000, tol=1e-8).fit(z, labels)
        probability = learn("logistic", x, labels, x, labels, C=0.5).predict({"table": x}).probability
        assert np.allclose(probability[:, reference.classes_], reference.predict_proba(z), atol=1e-3)


def test_neighbours_are_those_of_scikit_learn_and_weights_count():
    x, y = table(gaps=0.05)
    z = ready(x, x[:200])
    model = learn("knn", x[:200], y[:200], x[:50], y[:50], k=7)
    reference = neighbors.KNeighborsClassifier(7).fit(z[:200], y[:200])
    assert np.allclose(model.predict({"table": x[200:]}).probability, reference.predict_proba(z[200:]))
    numbers = y + 0.5
    model = learn("knn", x[:200], numbers[:200], x[:50], numbers[:50], k=7)
    reference = neighbors.KNeighborsRegressor(7).fit(z[:200], numbers[:200])
    assert np.allclose(model.predict({"table": x[200:]}).value, reference.predict(z[200:]))
    weight = np.where(numbers > 1, 1e6, 1e-6)[:200]
    model = learn("knn", x[:200], numbers[:200], x[:50], numbers[:50], k=7, weight=weight)
    near = neighbors.NearestNeighbors(n_neighbors=7).fit(z[:200]).kneighbors(z[200:])[1]
    rare = (numbers[near] > 1).any(axis=1)
    assert (model.predict({"table": x[200:]}).value[rare] > 1.4).all()


def test_more_neighbours_than_objects_are_all_objects():
    x, y = table(30)
    model = learn("knn", x, y + 0.0, x, y + 0.0, k=100)
    assert np.allclose(model.predict({"table": x}).value, y.mean())


@pytest.mark.parametrize("count", [2, 3])
def test_decisions_between_classes_are_those_of_libsvm(count):
    x, y = table(200)
    y = np.minimum(y, count - 1)
    model = learn("svm", x, y, x, y, C=2.0, gamma=0.3)
    z = model._scale(x)
    reference = svm.SVC(C=2.0, gamma=0.3, decision_function_shape="ovo").fit(z, y)
    expected = reference.decision_function(z).reshape(200, -1)
    assert np.allclose(model._decisions(z, model._own), expected, atol=1e-6)
    prediction = model.predict({"table": x})
    assert np.mean(prediction.value == reference.predict(z)) > 0.98
    if count == 2:
        slope = model._own["unit"][0]
        assert np.allclose(prediction.probability[:, 1], 1 / (1 + np.exp(-slope * expected[:, 0])), atol=1e-3)


def test_support_vector_regression_is_that_of_libsvm():
    x, _ = table(200)
    y = np.sin(x[:, 0]) * 1e6 + 1e7
    z = ready(x, x).astype(np.float32)
    model = learn("svm", x, y, x, y, C=3.0)
    reference = svm.SVR(C=3.0, gamma=1 / 4).fit(z, (y - y.mean()) / y.std())
    expected = reference.predict(z) * y.std() + y.mean()
    assert np.allclose(model.predict({"table": x}).value, expected, rtol=1e-5)


@pytest.mark.parametrize("regression", [False, True])
def test_walking_the_trees_gives_what_scikit_learn_gives(regression):
    x, y = table(400, gaps=0.2)
    y = y + 0.5 if regression else y
    module = ensemble.RandomForestRegressor if regression else ensemble.RandomForestClassifier
    features = {"max_features": 1 / 3} if regression else {}
    reference = module(20, min_samples_leaf=2, random_state=3, **features).fit(x, y)
    model = learn("forest", x, y, x, y, trees=20, seed=3)
    other, _ = table(200, gaps=0.2, seed=5)
    other[:, 2] = np.nan
    prediction = model.predict({"table": other})
    expected = reference.predict(other) if regression else reference.predict_proba(other)
    assert np.allclose(prediction.value if regression else prediction.probability, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "svm", "tree", "forest", "lightgbm"])
def test_weights_turn_the_choice_between_equal_classes(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = rng.integers(0, 2, 400)
    heavy = learn(name, x, y, x, y, weight=np.where(y == 1, 20.0, 1.0), **QUICK_CLASSES[name])
    light = learn(name, x, y, x, y, weight=np.where(y == 0, 20.0, 1.0), **QUICK_CLASSES[name])
    assert np.mean(heavy.predict({"table": x}).value) > 0.9
    assert np.mean(light.predict({"table": x}).value) < 0.1


@pytest.mark.parametrize("name", ["linear", "knn", "svm", "tree", "forest", "lightgbm"])
def test_infinite_features_count_as_missing_and_empty_ones_do_no_harm(name, parts):
    (train, y), (valid, y_valid), (test, _) = parts
    bad, gap = test["spectrum"].copy(), test["spectrum"].copy()
    bad[:, 20], gap[:, 20] = np.inf, np.nan
    x = only(train, "spectrum")
    x["spectrum"] = x["spectrum"].copy()
    x["spectrum"][:, 7] = np.nan
    model = MODELS[name](**QUICK[name])
    model.fit(Examples(x, y), Examples(only(valid, "spectrum"), y_valid), seed=0)
    value = model.predict({"spectrum": bad}).value
    assert np.isfinite(value).all()
    assert np.array_equal(value, model.predict({"spectrum": gap}).value)


def test_lightgbm_grows_as_told(told):
    x, y = table(600)
    model = learn(
        "lightgbm",
        x,
        y,
        x,
        y,
        leaves=7,
        max_depth=3,
        min_leaf=50,
        rows=0.5,
        features=0.5,
        bins=15,
        max_rounds=4,
    )
    assert len(model._boosted.leaves) == 3 * 4
    expected = {"num_leaves": 7, "min_data_in_leaf": 50, "bagging_fraction": 0.5, "max_bin": 15}
    expected |= {"feature_fraction": 0.5, "bagging_freq": 1}
    assert {key: told[key] for key in expected} == expected


@pytest.mark.parametrize(("name", "key"), [("lightgbm", "threads"), ("forest", "trees"), ("svm", "C")])
def test_a_parameter_is_none_only_where_none_is_its_default(name, key):
    with pytest.raises(UsageError, match=f"{key} is None"):
        MODELS[name](**{key: None})
    assert MODELS["forest"](max_depth=None).params["max_depth"] is None
    assert MODELS["svm"](gamma=None).params["gamma"] is None
