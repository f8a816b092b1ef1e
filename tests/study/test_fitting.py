"""Cells of a cross-validation: rounds, their union, and what a killed run keeps."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from skyfuse.models.classic import DecisionTree
from skyfuse.models.files import load_model
from skyfuse.study.fitting import content_of
from skyfuse.study.results import WALL_COLUMNS
from skyfuse.study.run import Study, with_templates

from .sky import SmallSky, class_recipe


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr("skyfuse.study.run.write_report", lambda folder: folder / "report.html")


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return SmallSky(tmp_path_factory.mktemp("dataset"), rounds=3)


def recipe(**changes):
    models = {"tree": {"fixed": {"max_depth": 4}}}
    given = {"split": {"rounds": 3}, "models": models, "clusters": 0, "embeddings": {"methods": []}}
    return class_recipe(**{**given, **changes})


@pytest.fixture(scope="module")
def done(sky, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "rounds"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skyfuse.study.run.write_report", lambda folder: folder / "report.html")
        return folder, Study(recipe()).run(sky, folder).results.set_index("cell")


def predictions(folder, cell):
    return pd.read_parquet(folder / "cells" / cell / "predictions.parquet")


def test_the_test_parts_of_all_rounds_together_are_every_object_once(done, sky):
    folder, results = done
    for cell, row in results.iterrows():
        table = predictions(folder, cell)
        test = table[table["part"] == "test"]
        assert sorted(test["row"]) == list(range(len(sky)))
        assert row["n_test"] == len(sky)
        assert set(table.loc[table["part"] != "test", "round"]) == {0}
        for number, parts in enumerate(sky.rounds()):
            assert test.loc[test["round"] == number, "row"].tolist() == parts["test"].tolist()
        score = f1_score(test["label"], test["prediction"], average="macro")
        assert row["test_f1_macro"] == pytest.approx(score)
        assert row["test_f1_macro_low"] < score < row["test_f1_macro_high"]


def test_the_model_kept_is_that_of_the_first_round(done, sky):
    folder, _ = done
    rows = sky.rounds()[0]["test"]
    model = load_model(folder / "cells" / "tree-table" / "model")
    found = model.predict(sky.inputs({"table": 0}, rows, columns=["shape", "line"]))
    table = predictions(folder, "tree-table")
    test = table[(table["part"] == "test") & (table["round"] == 0)]
    assert found.names.tolist() == test["prediction"].tolist()
    np.testing.assert_allclose(found.probability, test[["p_low", "p_middle", "p_high"]])
    assert found.members.sum(axis=1).tolist() == test["set_size"].tolist()
    assert model.card["inputs"] == {
        "zooms": {"table": 0},
        "bands": None,
        "size": None,
        "grid": None,
        "columns": ["shape", "line"],
        "smooth": 0.0,
    }


def test_late_fusion_joins_the_members_of_its_own_round(done):
    folder, _ = done
    late, spectrum, table = (
        predictions(folder, name) for name in ("tree-late-mean-s4", "tree-spectrum-s4", "tree-table")
    )
    for name in ("p_low", "p_middle", "p_high"):
        np.testing.assert_allclose(late[name], (spectrum[name] + table[name]) / 2, atol=1e-12)
    members = folder / "cells" / "tree-spectrum-s4" / "rounds"
    assert sorted(path.name for path in members.iterdir()) == ["1", "2"]
    assert not (folder / "cells" / "tree-late-mean-s4" / "rounds").exists()


def test_covered_tells_whether_the_set_holds_the_class(done):
    folder, results = done
    table = predictions(folder, "tree-early-s4")
    test = table[table["part"] == "test"]
    held = [
        label in members.split("|") for label, members in zip(test["label"], test["members"], strict=True)
    ]
    assert test["covered"].tolist() == held
    assert table.loc[table["part"].isin(["train", "valid"]), "covered"].isna().all()
    assert results.loc["tree-early-s4", "coverage"] == pytest.approx(np.mean(held))


def test_rounds_that_a_killed_run_has_finished_are_not_fitted_again(done, sky, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    fits = []
    fit = DecisionTree._fit

    def counted(self, *args, **kwargs):
        if len(fits) == 5:
            raise Stop
        fits.append(self.params)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(DecisionTree, "_fit", counted)
    with pytest.raises(Stop):
        Study(recipe()).run(sky, tmp_path / "study")
    growing = tmp_path / "study" / "cells" / ".tree-table.partial" / "rounds"
    assert [(growing / str(k) / "round.json").is_file() for k in range(3)] == [True, True, False]
    fits.clear()
    monkeypatch.setattr(DecisionTree, "_fit", lambda self, *a, **k: (fits.append(1), fit(self, *a, **k))[1])
    resumed = Study(recipe()).run(sky, tmp_path / "study").results.set_index("cell")
    # Fifteen fits in all: five cells of three rounds.
    assert len(fits) == 10
    pd.testing.assert_frame_equal(
        resumed.drop(columns=list(WALL_COLUMNS)), done[1].drop(columns=list(WALL_COLUMNS))
    )


def test_other_leaks_refit_what_reads_them_and_no_other(sky, tmp_path):
    task = recipe().task.model_dump()
    task["forbidden"] = {**task["forbidden"], "AVG": "it is the label before it was cut"}
    found = []
    for leaking in (["leak", "AVG"], ["leak"]):
        Study(recipe(task=task, leaking=leaking)).run(sky, tmp_path / "study")
        notes = (tmp_path / "study").glob("cells/*/cell.json")
        found.append({path.parent.name: json.loads(path.read_text())["fingerprint"] for path in notes})
    before, after = found
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.endswith("with-leaks")}


def test_templates_count_by_what_they_hold(tmp_path):
    own = recipe(models={"template": {}, "tree": {}})
    assert with_templates(own, None) is own
    told = with_templates(own, tmp_path)
    assert told.models["template"].fixed == {"templates": str(tmp_path)}
    assert told.models["tree"].fixed == {}
    fixed = recipe(models={"template": {"fixed": {"templates": "mine"}}})
    assert with_templates(fixed, tmp_path).models["template"].fixed == {"templates": "mine"}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "spEigenGal.fits").write_bytes(b"one")
    one, two = (content_of({"templates": str(tmp_path / folder), "x": 1}) for folder in ("a", "b"))
    assert one == two
    assert one["x"] == 1
    (tmp_path / "b" / "spEigenGal.fits").write_bytes(b"two")
    assert content_of({"templates": str(tmp_path / "b"), "x": 1}) != one
    assert content_of({"templates": ""}) == {"templates": ""}


def test_reconstructions_are_scored_against_the_mean_spectrum(sky, tmp_path):
    task = {**class_recipe().task.model_dump(), "kind": "reconstruction", "forbidden": {}}
    own = class_recipe(
        task=task,
        split={"rounds": 3},
        modalities=["spectrum"],
        columns=[],
        leaking=[],
        fusions=["spectrum"],
        models={"pca": {"fixed": {"latent": 3}}},
        reference={"spectrum": 4},
    )
    result = Study(own).run(sky, tmp_path / "study")
    cell = tmp_path / "study" / "cells" / "pca-spectrum-s4"
    table = predictions(tmp_path / "study", "pca-spectrum-s4")
    test = table[table["part"] == "test"]
    row = result.results.iloc[0]
    assert row["test_explained"] == pytest.approx(1 - test["prediction"].sum() / test["baseline"].sum())
    # The label shows in one line of the spectrum: three components hold most of what is no noise.
    assert 0.4 < row["test_explained"] < 1
    assert np.isnan(row["coverage"])
    latent = pd.read_parquet(cell / "latent.parquet")
    assert latent.columns.tolist() == ["row", "part", "label", "l0", "l1", "l2"]
    assert len(latent) == len(sky)
    examples = pd.read_parquet(cell / "examples.parquet")
    assert examples["error"].is_monotonic_increasing
    assert {len(values) for name in ("input", "output") for values in examples[name]} == {20}
    clusters = pd.read_parquet(tmp_path / "study" / "clusters.parquet")
    assert set(clusters["source"]) == {"inputs", "pca-spectrum-s4"}
    assert (clusters.groupby("source")["n"].sum() == len(sky)).all()
