"""From a recipe to its dataset: on a mock sky of its own, on files, and without labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skyfuse.errors import StoreError
from skyfuse.mock import write_mock
from skyfuse.recipe import Recipe, load_recipe
from skyfuse.study.prepare import prepare, split_plan


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


def test_a_cube_alone_has_no_labels(recipe, small_cube, tmp_path):
    with pytest.raises(StoreError, match=r"holds no table of labels .* give one with --labels"):
        prepare(recipe, tmp_path / "w", sources=[small_cube])


def table_recipe(**changes):
    content = {
        "name": "kinds",
        "title": "Kinds",
        "task": {
            "label": "class",
            "title": "class",
            "definition": "of the catalogue",
            "kind": "classification",
            "classes": {"GALAXY": ["GALAXY"], "other": ["QSO", "STAR"]},
        },
        "reader": "table",
        "mock": {"objects": 120, "products": ["catalogue"], "z_max": 0.3},
        "modalities": ["table"],
        "columns": ["u-g", "r"],
        "models": {"tree": {}},
    }
    return Recipe.model_validate(content | changes)


def test_a_table_of_the_mock_sky_alone(tmp_path):
    dataset, truth = prepare(table_recipe(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "sky").iterdir() if path.suffix == ".csv") == [
        "catalogue.csv"
    ]
    assert set(dataset.table["class"]) == {"GALAXY", "other"}
    assert dataset.meta["columns"] == ["u-g", "r"]
    assert set(truth["objid"]) >= set(dataset.table["objid"])
    # The folder of a mock sky that the user gives is read in the same way.
    again, _ = prepare(table_recipe(), tmp_path / "again", sources=[tmp_path / "sky"])
    pd.testing.assert_frame_equal(again.table, dataset.table)


def test_tables_in_parts_that_a_column_names(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        table = pd.DataFrame({"r": rng.normal(size=80), "u": rng.normal(size=80), "g": rng.normal(size=80)})
        table.assign(**{"class": rng.choice(["GALAXY", "STAR", "ghost"], 80)}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    split = {"column": "source", "parts": {"train": ["one"], "test": ["tw*"]}, "folds": 3}
    where = {"r": [-1, None]}
    recipe = table_recipe(split=split, funnel={"where": where})
    dataset, truth = prepare(recipe, tmp_path / "w", sources=[tmp_path / "one.csv", tmp_path / "two.csv"])
    assert truth is None
    rows = dataset.split()
    assert set(dataset.table["source"].iloc[rows["test"]]) == {"two"}
    for part in ("train", "valid", "calibration"):
        assert set(dataset.table["source"].iloc[rows[part]]) == {"one"}
    assert dataset.table["r"].min() >= -1
    assert any("class" in step.name for step in dataset.funnel.steps)


def test_the_split_of_a_recipe_reaches_the_dataset():
    plan = split_plan(
        table_recipe(split={"rounds": 4, "seed": 3, "column": "survey", "parts": {"train": ["mock"]}})
    )
    assert (plan.rounds, plan.seed, plan.column, plan.train, plan.test) == (4, 3, "survey", ("mock",), ())
    assert plan.fractions == (0.6, 0.1, 0.1, 0.2)


def test_simulated_spectra_join_those_of_the_user_and_always_train(tmp_path):
    write_mock(tmp_path / "sky", objects=60, seed=5, products=["spectra"])
    # What is no mock of ours says another telescope.
    for path in (tmp_path / "sky").rglob("spec-*.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["TELESCOP"] = "SDSS 2.5-M"
    (tmp_path / "sky" / "truth.parquet").unlink()
    recipe = table_recipe(
        reader="cube",
        simulate={"objects": 40},
        modalities=["spectrum"],
        columns=[],
        fusions=["spectrum"],
        reference={"spectrum": 4},
        split={"rounds": 3, "column": "survey", "parts": {"train": ["mock"]}},
        funnel={"flag_zero": False},
    )
    dataset, _ = prepare(recipe, tmp_path / "w", sources=[tmp_path / "sky"])
    survey = dataset.table["survey"].to_numpy()
    assert set(survey) == {"mock", "sdss"}
    rounds = dataset.rounds()
    assert len(rounds) == 3
    for parts in rounds:
        assert set(survey[parts["test"]]) == {"sdss"}
        # On one patch of sky, some lie within 30″ of the user's objects: these stand in no part.
        others = np.concatenate([rows for part, rows in parts.items() if part != "train"])
        assert "mock" not in survey[others]
        assert np.count_nonzero(survey[parts["train"]] == "mock") > 0.7 * np.count_nonzero(survey == "mock")
