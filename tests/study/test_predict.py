"""A saved model gives one answer for one object, whatever form the object comes in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyfuse.config import load_recipe
from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset
from skyfuse.errors import DataError, StoreError
from skyfuse.models import MODELS
from skyfuse.study.predict import predict_path, reader_of
from skyfuse.study.prepare import prepare

ZOOMS = {"image": 4, "spectrum": 4}


@pytest.fixture(scope="module")
def trained(small_sky, tmp_path_factory):
    """Return a folder with a cube, a dataset and models fitted on it, and the tree's predictions."""
    folder = tmp_path_factory.mktemp("predict")
    build([small_sky], folder / "sky.cube", workers=1)
    data = Dataset.from_cube(
        Cube.open(folder / "sky.cube"), folder / "data", zooms={m: [z] for m, z in ZOOMS.items()}
    )
    inputs = data.inputs(ZOOMS, np.arange(len(data)))
    z = data.table["z"].to_numpy()
    model = MODELS["tree"](max_depth=4)
    model.fit(inputs, z, inputs, z, seed=0)
    model.save(folder / "bare")
    model.card.update(
        label={"name": "redshift", "unit": ""},
        inputs={"zooms": ZOOMS, "bands": "ugriz", "size": 64, "grid": "sdss"},
        split=None,
        metrics={},
    )
    model.save(folder / "model")
    return folder, pd.Series(model.predict(inputs).value, index=data.table["object_id"])


def test_dataset_cube_and_files_are_predicted_alike(trained, small_sky):
    folder, expected = trained
    assert expected.nunique() > 3
    for source in (folder / "data", folder / "sky.cube", small_sky):
        table = predict_path(folder / "model", source).set_index("object_id")
        pd.testing.assert_series_equal(table["redshift"], expected, check_names=False)


def test_a_model_that_does_not_tell_its_inputs_is_refused(trained):
    folder, _ = trained
    with pytest.raises(StoreError, match="does not tell its inputs and its label"):
        predict_path(folder / "bare", folder / "data")


def test_an_error_names_no_folder_that_is_gone(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("no survey file")
    with pytest.raises(DataError, match="see why with skyfuse build") as caught:
        predict_path(trained[0] / "model", tmp_path)
    assert "skyfuse-predict-" not in str(caught.value)


def test_data_that_is_not_there_is_told_before_labels_are_looked_for(tmp_path):
    with pytest.raises(StoreError, match="nowhere: does not exist"):
        prepare(load_recipe("sfr"), tmp_path / "w", sources=[tmp_path / "nowhere"])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return a folder with a table and a calibrated classification and regression of it."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"objid": np.arange(300) + 10**17, "u": rng.normal(size=300)})
    table["g"] = rng.normal(size=300)
    table["err_u"] = 0.3
    table.to_csv(folder / "new.csv", index=False)
    x = {"table": np.stack([table["u"], table["u"] - table["g"]], axis=1).astype(np.float32)}
    for name, y, options in (
        ("value", x["table"][:, 0].astype(float), {}),
        (
            "kind",
            (x["table"][:, 0] > 0).astype(np.int64),
            {"kind": "classification", "classes": ("red", "blue")},
        ),
    ):
        model = MODELS["tree"](max_depth=3)
        model.fit(x, y, x, y, seed=0, **options)
        model.calibrate(x, y)
        model.card.update(
            label={"name": name, "unit": ""},
            inputs={"zooms": {"table": 0}, "columns": ["u", "u-g"]},
            split=None,
            metrics={},
        )
        model.save(folder / name)
    return folder, table


def test_a_table_is_predicted_with_intervals(tables):
    folder, table = tables
    found = predict_path(folder / "value", folder / "new.csv")
    assert found["object_id"].tolist() == [str(number) for number in table["objid"]]
    assert ((found["value_low"] < found["value"]) & (found["value"] < found["value_high"])).all()
    held = (found["value_low"] <= table["u"]) & (table["u"] <= found["value_high"])
    assert held.mean() == pytest.approx(0.9, abs=0.02)
    assert "value_spread" not in found


def test_a_table_is_predicted_with_sets_and_draws(tables):
    folder, _ = tables
    found = predict_path(folder / "kind", folder / "new.csv", draws=5, seed=1)
    np.testing.assert_allclose(found["p_red"] + found["p_blue"], 1)
    assert set(found["kind"]) == {"red", "blue"}
    assert set(found["kind_set"]) <= {"", "red", "blue", "red|blue"}
    assert found["kind_agreement"].between(0, 1).all()
    assert found["kind_agreement"].mean() < 1
    again = predict_path(folder / "kind", folder / "new.csv", draws=5, seed=1)
    pd.testing.assert_frame_equal(found, again)


@pytest.mark.parametrize(
    ("inputs", "reader"),
    [
        ({"zooms": {"table": 0}}, "table"),
        ({"zooms": {"image": 2, "spectrum": 3}, "bands": "ugriz", "grid": "sdss"}, "cube"),
        ({"zooms": {"spectrum": 2, "table": 0}, "grid": "sdss", "columns": ["ew_h_beta"]}, "cube"),
        ({"zooms": {"spectrum": 0}, "grid": "gaia-xp"}, "gaia-xp"),
        ({"zooms": {"image": 0}, "bands": "rgb"}, "images"),
        ({"zooms": {"image": 0, "table": 0}, "bands": "rgb", "columns": ["MFCC_1"]}, "scene"),
        ({"zooms": {"image": 0, "table": 0}, "bands": "rgb", "columns": ["morph_gini"]}, "images"),
    ],
)
def test_files_are_read_as_in_the_training(inputs, reader):
    assert reader_of(inputs) == reader
