"""Cells of a cross-validation: rounds, their union, and what a killed run keeps."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from skyfuse.models import Examples
from skyfuse.models.classic import DecisionTree
from skyfuse.models.files import load_model
from skyfuse.models.rounds import Rounds
from skyfuse.models.uncertainty import ties
from skyfuse.study.cells import seed_of
from skyfuse.study.fitting import content_of
from skyfuse.study.results import EXAMPLES, WALL_COLUMNS
from skyfuse.study.run import Study, with_templates
from tests.models.cards import inputs_of

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
        assert set(table.loc[table["part"].isin(["train", "valid"]), "round"]) == {0}
        for number, parts in enumerate(sky.rounds()):
            assert test.loc[test["round"] == number, "row"].tolist() == parts["test"].tolist()
        score = f1_score(test["label"], test["prediction"], average="macro")
        assert row["test_f1_macro"] == pytest.approx(score)
        assert row["test_f1_macro_low"] < score < row["test_f1_macro_high"]


def test_cells_are_chosen_by_the_calibration_parts_of_all_rounds_together(done, sky):
    folder, results = done
    rounds = [parts["calibration"].tolist() for parts in sky.rounds()]
    for cell, row in results.iterrows():
        table = predictions(folder, cell)
        table = table[table["part"] == "calibration"]
        assert [group["row"].tolist() for _, group in table.groupby("round")] == rounds
        score = f1_score(table["label"], table["prediction"], average="macro")
        assert row["calibration_f1_macro"] == pytest.approx(score)


def test_the_folds_of_the_training_part_choose_where_the_recipe_says_so(done, sky, tmp_path):
    models = {"tree": {"fixed": {"max_depth": 4}}, "knn": {"fixed": {"k": 5}}}
    own = recipe(choice="folds", fusions=["table"], modalities=["table"], reference={}, models=models)
    folder = tmp_path / "study"
    results = Study(own).run(sky, folder).results.set_index("cell")
    folds, labels = sky.split()["folds"], sky.table["kind"].to_numpy()
    classes = ["low", "middle", "high"]

    def lot(rows):
        y = [classes.index(label) for label in labels[rows]]
        return sky.inputs({"table": 0}, rows, columns=["shape", "line"]), y

    scores = []
    for k, held in enumerate(folds):
        after = (k + 1) % len(folds)
        train = np.concatenate([fold for j, fold in enumerate(folds) if j not in (k, after)])
        model = DecisionTree(max_depth=4)
        seed = seed_of(own.seed, "tuning tree-table") + k
        model.fit(
            Examples(*lot(train)),
            Examples(*lot(folds[after])),
            classes=classes,
            kind="classification",
            seed=seed,
        )
        said = model.predict(lot(held)[0]).names
        scores.append(f1_score(labels[held], said, average="macro"))
    assert results.loc["tree-table", "choice"] == pytest.approx(np.mean(scores))
    assert np.isfinite(results.loc["knn-table", "choice"])
    assert results.loc[results["role"] == "leak", "choice"].isna().all()
    # The cells are those that they would be without; and what is not tuned has no trials to show.
    assert results.loc["tree-table", "test_f1_macro"] == done[1].loc["tree-table", "test_f1_macro"]
    assert pd.read_parquet(folder / "trials.parquet").empty


P = ["p_low", "p_middle", "p_high"]


def test_the_model_kept_is_the_mean_of_all_rounds(done, sky):
    folder, _ = done
    model = load_model(folder / "cells" / "tree-table" / "model")
    assert (type(model), len(model.members)) == (Rounds, 3)
    table = predictions(folder, "tree-table")
    every = sky.inputs({"table": 0}, np.arange(len(sky)), columns=["shape", "line"])
    told = np.stack([member.predict(every).probability for member in model.members])
    np.testing.assert_allclose(model.predict(every).probability, told.mean(axis=0))
    # What was judged: each object by the one round's model that did not see it.
    test = table[table["part"] == "test"]
    np.testing.assert_allclose(told[test["round"], test["row"]], test[P])
    assert model.card["inputs"] == inputs_of({"table": 0}, columns=["shape", "line"], smooth=0.0, reader=None)
    trained = np.unique(np.concatenate([parts["train"] for parts in sky.rounds()]))
    training = sky.table[["shape", "line"]].to_numpy(np.float32)[trained]
    assert model.applicability.names == ("shape", "line")
    np.testing.assert_allclose(model.applicability.centre, np.median(training, axis=0), rtol=1e-6)
    assert model.card["metrics"]["test_accuracy"] == pytest.approx(
        (test["label"] == test["prediction"]).mean()
    )


def test_sets_of_the_test_parts_come_from_the_errors_of_all_rounds_but_ones_own(done, sky):
    folder, _ = done
    model = load_model(folder / "cells" / "tree-table" / "model")
    table = predictions(folder, "tree-table")
    classes = ["low", "middle", "high"]
    numbers = ties(sky.inputs({"table": 0}, np.arange(len(sky)), columns=["shape", "line"]))
    own = table[table["part"] == "calibration"]
    truth = np.array([classes.index(name) for name in own["label"]])
    missed = np.round(1 - own[P].to_numpy()[np.arange(len(own)), truth], 9)
    pairs = list(zip(missed, numbers[own["row"]], strict=True))
    group = sky.table["group"].to_numpy() if "group" in sky.table else np.arange(len(sky))
    by_class = len(model.interval.thresholds) > 1
    assert not by_class
    for row in table[table["part"] == "test"].to_dict("records")[::7]:
        others = [
            pair for pair, kin in zip(pairs, group[own["row"]], strict=True) if kin != group[row["row"]]
        ]
        held = []
        for name, p in zip(classes, P, strict=True):
            score = (round(1 - row[p], 9), numbers[row["row"]])
            # At most a tenth of the others and of the object itself are as bad or worse.
            better = sum(pair < score for pair in others)
            if 10 * better < 9 * (len(others) + 1):
                held.append(name)
        assert row["members"] == "|".join(held)


def test_late_fusion_joins_the_members_of_its_own_round(done):
    folder, _ = done
    late, spectrum, table = (
        predictions(folder, name) for name in ("tree-late-mean-s4", "tree-spectrum-s4", "tree-table")
    )
    for name in ("p_low", "p_middle", "p_high"):
        np.testing.assert_allclose(late[name], (spectrum[name] + table[name]) / 2, atol=1e-12)
    assert not list(folder.glob("cells/*/rounds"))
    model = load_model(folder / "cells" / "tree-late-mean-s4" / "model")
    assert [member.name for member in model.members] == ["late"] * 3
    assert [len(member.members) for member in model.members] == [2, 2, 2]


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


@pytest.mark.parametrize(
    "damaged", [None, "round.json", "predictions.parquet", "told.safetensors", "model/arrays.safetensors"]
)
def test_rounds_that_a_killed_run_has_finished_are_fitted_again_only_if_damaged(
    done, sky, tmp_path, monkeypatch, damaged
):
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
    if damaged:
        content = (growing / "0" / damaged).read_bytes()
        (growing / "0" / damaged).write_bytes(content[: len(content) // 2])
    fits.clear()
    monkeypatch.setattr(DecisionTree, "_fit", lambda self, *a, **k: (fits.append(1), fit(self, *a, **k))[1])
    resumed = Study(recipe()).run(sky, tmp_path / "study").results.set_index("cell")
    # Fifteen fits in all: five cells of three rounds.
    assert len(fits) == 10 + bool(damaged)
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
        models={
            "pca": {"fixed": {"latent": 3}},
            "autoencoder": {"fixed": {"latent": 2, "max_epochs": 1}},
        },
        reference={"spectrum": 4},
    )
    result = Study(own).run(sky, tmp_path / "study")
    cell = tmp_path / "study" / "cells" / "pca-spectrum-s4"
    table = predictions(tmp_path / "study", "pca-spectrum-s4")
    test = table[table["part"] == "test"]
    row = result.results.set_index("cell").loc["pca-spectrum-s4"]
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
    # Figures set the models' reconstructions of one object beside each other.
    other = pd.read_parquet(cell.parent / "autoencoder-spectrum-s4" / "examples.parquet")
    assert set(other["row"]) == set(examples["row"])
    assert other["error"].is_monotonic_increasing
    assert len(set(examples["row"])) == len(examples) == EXAMPLES
    both = examples.merge(other, on="row", suffixes=("", "_other"))
    np.testing.assert_array_equal(np.stack(both["input"]), np.stack(both["input_other"]))
    clusters = pd.read_parquet(tmp_path / "study" / "clusters.parquet")
    assert set(clusters["source"]) == {"inputs", "pca-spectrum-s4", "autoencoder-spectrum-s4"}
    assert (clusters.groupby("source")["n"].sum() == len(sky)).all()
