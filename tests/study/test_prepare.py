"""From a recipe to its dataset: on a mock sky of its own, on files, and without labels."""

from __future__ import annotations

import pandas as pd
import pytest

from skyfuse.config import load_recipe
from skyfuse.cube.build import build
from skyfuse.errors import StoreError
from skyfuse.study.prepare import prepare


@pytest.fixture(scope="module")
def recipe():
    recipe = load_recipe("sfr").shortened()
    return recipe.model_copy(
        update={
            "mock": recipe.mock.model_copy(update={"fields": 1, "objects": 150}),
            "zooms": {"image": [4], "spectrum": [4]},
            "reference": {"image": 4, "spectrum": 4},
            "embeddings": recipe.embeddings.model_copy(update={"zooms": {"spectrum": [3]}}),
        }
    )


def test_without_data_a_mock_sky_with_its_truth_is_made(recipe, tmp_path):
    dataset, truth = prepare(recipe, tmp_path)
    assert dataset.zooms == {"image": (4,), "spectrum": (3, 4)}
    assert truth is not None
    keys = ["plate", "mjd", "fiberid"]
    joined = dataset.table.merge(pd.DataFrame(truth), on=keys, suffixes=("", "_true"))
    assert len(joined) == len(dataset)
    assert (joined["kind"] == "GALAXY").all()
    # The dataset's label is the one that the truth wrote into the survey's table.
    assert (joined["AVG"] - joined["avg"]).abs().max() < 1e-5
    assert (joined["flag"] == 0).all()


def test_a_cube_alone_has_no_labels(recipe, small_sky, tmp_path):
    build([small_sky], tmp_path / "my.cube", workers=1)
    with pytest.raises(StoreError, match=r"holds no table of labels .* give one with --labels"):
        prepare(recipe, tmp_path / "w", source=tmp_path / "my.cube")
