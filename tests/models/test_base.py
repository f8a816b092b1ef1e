import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from sklearn import metrics

from skyfuse.errors import DataError, UsageError
from skyfuse.models import MODELS, Examples, Model, Output, Prediction
from skyfuse.models.base import METRIC
from tests.models.cards import inputs_of

from .conftest import QUICK, QUICK_CLASSES
from .sky import CLASSES, add_table, make, only


def test_importing_models_imports_no_learning_library():
    code = (
        "import sys, skyfuse.models as m; assert {'tree', 'resnet50', 'template', 'late'} < set(m.MODELS);"
        "assert 'vggnet12' in m.MODELS;"
        "print(*{'torch', 'lightgbm', 'sklearn', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_registry_gives_each_model_under_its_own_name():
    for name, model in MODELS.items():
        assert issubclass(model, Model)
        assert model.name == name
        assert model.kinds <= set(METRIC)
    assert len(MODELS) == 24
    with pytest.raises(KeyError):
        MODELS["xgboost"]


@pytest.mark.parametrize("name", QUICK)
def test_every_model_takes_any_modalities_and_ignores_others(name, parts):
    parts = [(add_table(x), y) for x, y in parts]
    (train, y), (valid, y_valid), (test, _) = parts
    params = {**QUICK[name], "max_epochs": 1} if name == "vggnet12" else QUICK[name]
    for modalities in (["image"], ["table"], ["image", "spectrum", "table"]):
        model = MODELS[name](**params)
        history = model.fit(
            Examples(only(train, *modalities), y), Examples(only(valid, *modalities), y_valid), seed=0
        )
        assert tuple(model.inputs) == tuple(modalities)
        value = model.predict(test).value
        assert value.shape == (60,)
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
        assert np.array_equal(value, model.predict(only(test, *modalities)).value)
        assert history["best"] == int(np.argmin(history["valid"]))
        assert len(history["train"]) == len(history["valid"])


@pytest.mark.parametrize("name", QUICK)
def test_history_ends_in_the_error_of_the_fitted_model(name, parts, fitted):
    _, (valid, y_valid), _ = parts
    model = MODELS[name](**fitted[name].params)
    history = model.fit(Examples(*parts[0]), Examples(valid, y_valid), seed=0)
    error = np.sqrt(np.mean((model.predict(valid).value - y_valid) ** 2))
    assert history["valid"][history["best"]] == pytest.approx(error, rel=1e-5)
    assert history["metric"] == "RMSE"


@pytest.mark.parametrize("name", QUICK_CLASSES)
def test_history_of_a_classification_is_the_log_loss(name, class_parts):
    (train, y), (valid, y_valid), _ = class_parts
    model = MODELS[name](**QUICK_CLASSES[name])
    history = model.fit(
        Examples(train, y), Examples(valid, y_valid), seed=0, kind="classification", classes=CLASSES
    )
    assert history["metric"] == "log loss"
    expected = metrics.log_loss(y_valid, model.predict(valid).probability, labels=range(4))
    assert history["valid"][history["best"]] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [*QUICK_CLASSES, "late"])
def test_classification_tells_class_and_probabilities(name, class_parts, classifiers):
    test, y = class_parts[2]
    prediction = classifiers[name].predict(test)
    assert prediction.probability.shape == (60, 4)
    assert np.allclose(prediction.probability.sum(axis=1), 1)
    assert (prediction.probability >= 0).all()
    # The training part has no object of the last class.
    assert prediction.probability[:, 3].max() < 1e-6
    assert np.array_equal(prediction.value, prediction.probability.argmax(axis=1))
    assert prediction.names.tolist() == [CLASSES[i] for i in prediction.value]
    assert np.mean(prediction.value == y) > 0.7
    assert prediction.low is None


@pytest.mark.parametrize("name", [*QUICK, "late"])
def test_prediction_of_no_objects_is_empty(name, fitted):
    assert fitted[name].predict(make(0)[0]).value.shape == (0,)


def test_calibrated_prediction_of_no_objects_is_empty(classifiers):
    prediction = classifiers["tree"].predict(make(0)[0])
    assert prediction.value.shape == prediction.names.shape == (0,)
    assert prediction.members.shape == prediction.probability.shape == (0, 4)


@pytest.mark.parametrize("name", [*QUICK, "late"])
def test_an_object_is_predicted_alike_alone_and_among_others(name, parts, fitted):
    test = parts[2][0]
    alone = [fitted[name].predict({m: a[i : i + 1] for m, a in test.items()}).value[0] for i in range(5)]
    assert np.allclose(alone, fitted[name].predict(test).value[:5], rtol=1e-5)


@pytest.mark.parametrize("name", [*QUICK_CLASSES, "late"])
def test_an_object_has_the_same_set_alone_and_among_others(name, class_parts, classifiers):
    test = class_parts[2][0]
    whole = classifiers[name].predict(test).members
    single = ({m: a[i : i + 1] for m, a in test.items()} for i in range(60))
    alone = [classifiers[name].predict(x).members[0] for x in single]
    assert np.array_equal(whole, alone)


def test_unfitted_model_says_so(parts):
    with pytest.raises(UsageError, match="call fit first"):
        MODELS["tree"]().predict(parts[2][0])


def test_predict_names_a_missing_modality(fitted, parts):
    with pytest.raises(DataError, match="spectrum is not given"):
        fitted["tree"].predict(only(parts[2][0], "image"))


@given(shape=array_shapes(min_dims=1, max_dims=5, max_side=9))
def test_predict_refuses_every_other_shape(fitted, shape):
    x = {"image": np.zeros((3, 5, 8, 8), np.float32), "spectrum": np.zeros((3, 40), np.float32)}
    if shape[1:] != (5, 8, 8) or shape[0] != 3:
        with pytest.raises(DataError):
            fitted["tree"].predict({**x, "image": np.zeros(shape, np.float32)})


@given(bad=st.sampled_from([np.nan, np.inf, -np.inf]), row=st.integers(0, 39))
def test_fit_refuses_labels_that_are_not_finite(bad, row):
    x, y = make(40)
    y[row] = bad
    with pytest.raises(DataError, match="1 training labels are not finite"):
        MODELS["tree"]().fit(Examples(x, y), Examples(x, y), seed=0)


def test_fit_refuses_what_does_not_belong_together():
    x, y = make(20)
    tree = MODELS["tree"]()
    with pytest.raises(DataError, match=r"labels have shape \(19,\)"):
        tree.fit(Examples(x, y[:-1]), Examples(x, y), seed=0)
    with pytest.raises(DataError, match="differ in their number"):
        tree.fit(Examples({**x, "image": x["image"][:5]}, y), Examples(x, y), seed=0)
    with pytest.raises(DataError, match="validation inputs"):
        tree.fit(Examples(x, y), Examples(only(x, "image"), y), seed=0)
    with pytest.raises(DataError, match="'colour'"):
        tree.fit(Examples({"colour": x["image"]}, y), Examples(x, y), seed=0)
    with pytest.raises(DataError, match="empty"):
        tree.fit(Examples({}, y), Examples(x, y), seed=0)
    with pytest.raises(DataError, match="has 1 objects"):
        tree.fit(Examples({m: a[:1] for m, a in x.items()}, y[:1]), Examples(x, y), seed=0)
    with pytest.raises(UsageError, match="not fitted"):
        tree.predict(x)


def test_fit_refuses_what_is_no_classification():
    x, y = make(20)
    tree, classes = MODELS["tree"](), {"kind": "classification", "classes": CLASSES}
    y = np.arange(20) % 3
    for wrong in (y + 0.5, y - 1, y + 2):
        with pytest.raises(DataError, match="no indices of the 4 classes"):
            tree.fit(Examples(x, wrong), Examples(x, y), seed=0, **classes)
    with pytest.raises(DataError, match="single class"):
        tree.fit(Examples(x, 0 * y), Examples(x, y), seed=0, **classes)
    for names in ((), ("a",), ("a", "a", "b")):
        with pytest.raises(UsageError, match="two or more different classes"):
            tree.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=names)
    with pytest.raises(UsageError, match="none for anything else"):
        tree.fit(Examples(x, y), Examples(x, y), seed=0, classes=CLASSES)
    with pytest.raises(UsageError, match="tree cannot learn reconstruction"):
        tree.fit(Examples(x), Examples(x), seed=0, kind="reconstruction")
    with pytest.raises(UsageError, match="logistic cannot learn regression"):
        MODELS["logistic"]().fit(Examples(x, y), Examples(x, y), seed=0)
    assert not tree.fitted
    with pytest.raises(UsageError, match="predicts no classes"):
        _ = Prediction(np.zeros(2)).names


@given(bad=st.sampled_from([np.nan, np.inf, 0.0, -1.0]), row=st.integers(0, 19))
def test_fit_refuses_weights_that_are_not_positive(bad, row):
    x, y = make(20)
    weight = np.ones(20)
    weight[row] = bad
    with pytest.raises(DataError, match="not all positive"):
        MODELS["tree"]().fit(Examples(x, y, weight), Examples(x, y), seed=0)


class Weightless(Model):
    """Predicts the mean, and how many sigmas it saw."""

    name, kinds, weighs, reads_sigma = "weightless", frozenset({"regression", "reconstruction"}), False, True

    def _fit(self, lesson):
        self.seen = sorted(lesson.train)
        return lesson.history(np.zeros(len(lesson.y)), np.ones(len(lesson.y_valid)))

    def _predict(self, x):
        empty = np.isnan(x["spectrum"]).any(axis=1)
        return Output(empty.astype(float), empty)

    def _write(self, folder):
        return {}

    def _read(self, folder, state):
        pass


def test_a_model_that_cannot_weigh_names_what_can_be_done():
    x, y = make(20)
    with pytest.raises(UsageError, match="smote or rarest"):
        Weightless().fit(Examples(x, y, np.ones(20)), Examples(x, y), seed=0)


def test_weights_that_nobody_would_heed_are_refused():
    x, y = make(20)
    with pytest.raises(UsageError, match="the validation part got weights"):
        MODELS["tree"]().fit(Examples(x, y), Examples(x, y, np.ones(20)), seed=0)


def test_sigma_reaches_the_models_that_read_it_and_no_others(parts):
    (x, y), _, _ = parts
    x = {**x, "spectrum_sigma": np.ones_like(x["spectrum"])}
    model = Weightless()
    model.fit(Examples(x, y), Examples(x, y), seed=0)
    assert model.seen == ["image", "spectrum", "spectrum_sigma"]
    assert tuple(model.inputs) == ("image", "spectrum")
    with pytest.raises(DataError, match="spectrum_sigma is not given"):
        model.predict(only(x, "image", "spectrum"))
    with pytest.raises(DataError, match="not the shape of spectrum"):
        model.fit(Examples({**x, "spectrum_sigma": np.ones((120, 3))}, y), Examples(x, y), seed=0)
    tree = MODELS["tree"]()
    tree.fit(Examples(x, y), Examples(x, y), seed=0)
    assert set(tree.shapes) == {"image", "spectrum"}


def test_reconstruction_has_no_labels_and_unknown_objects_are_told(parts):
    (x, y), _, _ = parts
    x = {**x, "spectrum_sigma": np.ones_like(x["spectrum"])}
    model = Weightless()
    with pytest.raises(UsageError, match="input is the label"):
        model.fit(Examples(x, y), Examples(x, y), seed=0, kind="reconstruction")
    history = model.fit(Examples(x), Examples(x), seed=0, kind="reconstruction")
    assert history == {"train": [0.0], "valid": [1.0], "best": 0, "metric": "MSE"}
    assert np.array_equal(model.predict(x).unknown, np.isnan(x["spectrum"]).any(axis=1))
    with pytest.raises(UsageError, match="nothing to be calibrated on"):
        model.calibrate(x, y)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tree", {"max_depth": 0}),
        ("lightgbm", {"learning_rate": 0.0}),
        ("lightgbm", {"patience": 0}),
        ("lightgbm", {"rows": 1.5}),
        ("lightgbm", {"leaves": 1}),
        ("linear", {"alpha": -1.0}),
        ("logistic", {"C": 0.0}),
        ("knn", {"k": 0}),
        ("svm", {"gamma": -1.0}),
        ("forest", {"trees": 0}),
        ("vggnet12", {"width": 0.0}),
        ("vggnet12", {"dropout": 1.0}),
        ("vggnet12", {"batch_size": 2}),
    ],
)
def test_impossible_parameters_are_a_wrong_call(name, params):
    with pytest.raises(UsageError):
        MODELS[name](**params)


def test_a_dataset_is_read_at_the_zooms_of_the_card(fitted, monkeypatch):
    from skyfuse.dataset import Dataset, Wanted
    from tests.dataset.sky import MemoryCube

    monkeypatch.setattr("skyfuse.models.base._BLOCK", 7)
    with TemporaryDirectory() as folder:
        data = Dataset.from_cube(MemoryCube(Path(folder) / "c", 20), wanted=Wanted(split=None))
        zooms = {"image": 1, "spectrum": 2}
        rng = np.random.default_rng(0)
        train = data.inputs(zooms, np.arange(20))
        model = MODELS["tree"](max_depth=3)
        model.fit(Examples(train, rng.normal(size=20)), Examples(train, rng.normal(size=20)), seed=0)
        with pytest.raises(UsageError, match="does not tell at which zooms"):
            model.predict(data)
        model.card["inputs"] = inputs_of(zooms, grid="test", size=16, bands="ugriz", instrument="sdss")
        seen = []
        value = model.predict(data, progress=lambda done, total, what: seen.append((done, total))).value
        assert np.array_equal(value, model.predict(train).value)
        assert seen == [(7, 20), (14, 20), (20, 20)]
        y = np.arange(20) % 2
        sorter = MODELS["tree"](max_depth=1)
        sorter.fit(
            Examples(train, y), Examples(train, y), seed=0, kind="classification", classes=("even", "odd")
        )
        sorter.calibrate(train, y)
        sorter.card = model.card
        whole, blocks = sorter.predict(train), sorter.predict(data)
        assert np.array_equal(blocks.probability, whole.probability)
        assert np.array_equal(blocks.members, whole.members)
        assert (blocks.classes, blocks.level) == (whole.classes, 0.9)
        for change, match in [
            ({"grid": "sdss"}, "made with grid test of spectrum, the model with sdss"),
            ({"size": 64}, "made with size 16 of image, the model with 64"),
            ({"bands": "gri"}, "made with bands u, g, r, i, z of image, the model with g, r, i"),
            ({"sigma": "formal"}, "made with sigma model of spectrum, the model with formal"),
            ({"instrument": "decam"}, "made with instrument sdss of image, the model with decam"),
            ({"zooms": {"image": 9}}, "does not hold image zoom 9"),
        ]:
            model.card["inputs"] = inputs_of(**({"zooms": zooms} | change))
            with pytest.raises(DataError, match=match):
                model.predict(data)
    with pytest.raises(UsageError, match="cannot predict for a str"):
        model.predict("some folder")
