import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from skyfuse.errors import DataError, UsageError
from skyfuse.models import MODELS, Model

from .sky import make, only


def test_importing_models_imports_no_learning_library():
    code = (
        "import sys, skyfuse.models as m; assert set(m.MODELS) == {'tree', 'lightgbm', 'vggnet12', 'late'};"
        "assert 'vggnet12' in m.MODELS;"
        "print(*{'torch', 'lightning', 'lightgbm', 'sklearn', 'skops'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_registry_gives_each_model_under_its_own_name():
    assert all(issubclass(kind, Model) and kind.name == name for name, kind in MODELS.items())
    assert len(MODELS) == 4
    with pytest.raises(KeyError):
        MODELS["resnet"]


@pytest.mark.parametrize("name", ["tree", "lightgbm", "vggnet12"])
def test_every_model_takes_one_modality_or_both_and_ignores_others(name, parts):
    (train, y), (valid, y_valid), (test, _) = parts
    params = {"max_epochs": 1, "width": 0.0625} if name == "vggnet12" else {}
    for modalities in (["image"], ["spectrum"], ["image", "spectrum"]):
        model = MODELS[name](**params)
        history = model.fit(only(train, *modalities), y, only(valid, *modalities), y_valid, seed=0)
        assert model.modalities == tuple(modalities)
        value = model.predict(test).value
        assert value.shape == (60,)
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
        assert np.array_equal(value, model.predict(only(test, *modalities)).value)
        assert history["best"] == int(np.argmin(history["valid"]))
        assert len(history["train"]) == len(history["valid"])


@pytest.mark.parametrize("name", ["tree", "lightgbm", "vggnet12"])
def test_history_ends_in_the_error_of_the_fitted_model(name, parts, fitted):
    _, (valid, y_valid), _ = parts
    model = MODELS[name](**fitted[name].params)
    history = model.fit(*parts[0], valid, y_valid, seed=0)
    error = np.sqrt(np.mean((model.predict(valid).value - y_valid) ** 2))
    assert history["valid"][history["best"]] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("name", ["tree", "lightgbm", "vggnet12", "late"])
def test_prediction_of_no_objects_is_empty(name, fitted):
    assert fitted[name].predict(make(0)[0]).value.shape == (0,)


@pytest.mark.parametrize("name", ["tree", "lightgbm", "vggnet12", "late"])
def test_an_object_is_predicted_alike_alone_and_among_others(name, parts, fitted):
    test = parts[2][0]
    alone = [fitted[name].predict({m: a[i : i + 1] for m, a in test.items()}).value[0] for i in range(5)]
    assert np.allclose(alone, fitted[name].predict(test).value[:5], rtol=1e-5)


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
        MODELS["tree"]().fit(x, y, x, y, seed=0)


def test_fit_refuses_what_does_not_belong_together():
    x, y = make(20)
    tree = MODELS["tree"]()
    with pytest.raises(DataError, match=r"labels have shape \(19,\)"):
        tree.fit(x, y[:-1], x, y, seed=0)
    with pytest.raises(DataError, match="differ in their number"):
        tree.fit({**x, "image": x["image"][:5]}, y, x, y, seed=0)
    with pytest.raises(DataError, match="validation inputs"):
        tree.fit(x, y, only(x, "image"), y, seed=0)
    with pytest.raises(DataError, match="'colour'"):
        tree.fit({"colour": x["image"]}, y, x, y, seed=0)
    with pytest.raises(DataError, match="empty"):
        tree.fit({}, y, x, y, seed=0)
    with pytest.raises(DataError, match="has 1 objects"):
        tree.fit({m: a[:1] for m, a in x.items()}, y[:1], x, y, seed=0)
    with pytest.raises(UsageError, match="not fitted"):
        tree.predict(x)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tree", {"max_depth": 0}),
        ("lightgbm", {"learning_rate": 0.0}),
        ("lightgbm", {"patience": 0}),
        ("vggnet12", {"width": 0.0}),
        ("vggnet12", {"dropout": 1.0}),
        ("vggnet12", {"batch_size": 2}),
    ],
)
def test_impossible_parameters_are_a_wrong_call(name, params):
    with pytest.raises(UsageError):
        MODELS[name](**params)


def test_a_dataset_is_read_at_the_zooms_of_the_card(fitted, monkeypatch):
    from skyfuse.dataset import Dataset
    from tests.dataset.sky import MemoryCube

    monkeypatch.setattr("skyfuse.models.base._BLOCK", 7)
    with TemporaryDirectory() as folder:
        data = Dataset.from_cube(MemoryCube(Path(folder) / "c", 20), seed=None)
        zooms = {"image": 1, "spectrum": 2}
        rng = np.random.default_rng(0)
        train = data.inputs(zooms, np.arange(20))
        model = MODELS["tree"](max_depth=3)
        model.fit(train, rng.normal(size=20), train, rng.normal(size=20), seed=0)
        with pytest.raises(UsageError, match="does not tell at which zooms"):
            model.predict(data)
        model.card["inputs"] = {"zooms": zooms, "grid": "test", "size": 16, "bands": "ugriz"}
        seen = []
        value = model.predict(data, progress=lambda done, total, what: seen.append((done, total))).value
        assert np.array_equal(value, model.predict(train).value)
        assert seen == [(7, 20), (14, 20), (20, 20)]
        for change, match in [
            ({"grid": "sdss"}, "made with grid test, the model with sdss"),
            ({"size": 64}, "made with size 16, the model with 64"),
            ({"zooms": {"image": 9}}, "does not hold image zoom 9"),
        ]:
            model.card["inputs"] = {"zooms": zooms} | change
            with pytest.raises(DataError, match=match):
                model.predict(data)
    with pytest.raises(UsageError, match="cannot predict for a str"):
        model.predict("some folder")
