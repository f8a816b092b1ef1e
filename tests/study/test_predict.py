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
from skyfuse.study.predict import predict_path
from skyfuse.study.prepare import prepare
from skyfuse.study.tasks import target
from tests.study.sky import SmallSky, small_recipe

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
        prepare(load_recipe("sfr"), tmp_path / "w", source=tmp_path / "nowhere")


def test_a_label_is_found_whatever_its_case(tmp_path):
    sky = SmallSky(tmp_path)
    expected = target(small_recipe(), sky).label
    sky.table = sky.table.rename(columns={"AVG": "avg"})
    np.testing.assert_array_equal(target(small_recipe(), sky).label, expected)
