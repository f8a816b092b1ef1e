import io
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from skyfuse.disk import locked
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models.classic import DecisionTree
from skyfuse.models.files import load_model
from skyfuse.study.feed import PIXEL_DIVISOR, PIXEL_UNIT
from skyfuse.study.metrics import Outcome, attainable_r2
from skyfuse.study.results import WALL_COLUMNS
from skyfuse.study.run import Study

from .sky import SmallSky, class_recipe, small_recipe


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return SmallSky(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def done(sky, tmp_path_factory):
    """A finished study: its folder and its result."""
    folder = tmp_path_factory.mktemp("study") / "small"
    return folder, Study(small_recipe()).run(sky, folder, truth=sky.truth)


@pytest.fixture
def no_report(monkeypatch):
    """Spare the seconds that the figures take where a test looks at results alone."""
    monkeypatch.setattr("skyfuse.study.run.write_report", lambda folder: folder / "report.html")


def score(y, p):
    return Outcome("regression", np.asarray(y), np.asarray(p)).score()


def without_wall(results):
    return results.drop(columns=list(WALL_COLUMNS))


def count_fits(monkeypatch):
    """Return a list that grows by one with each tree fitted."""
    fits = []
    fit = DecisionTree._fit

    def counted(self, *args, **kwargs):
        fits.append(self.params)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(DecisionTree, "_fit", counted)
    return fits


# -------------------------------------------------------------------------------- results


def test_scores_are_those_of_the_stored_predictions(done, sky):
    folder, result = done
    split = sky.split()
    for row in result.results.to_dict("records"):
        table = pd.read_parquet(folder / "cells" / row["cell"] / "predictions.parquet")
        test = table[table["part"] == "test"]
        assert test["row"].tolist() == split["test"].tolist()
        np.testing.assert_array_equal(test["label"], sky.table["AVG"].to_numpy()[split["test"]])
        expected = score(test["label"], test["prediction"])
        assert row["test_r2"] == expected["r2"]
        assert row["test_nmad"] == expected["nmad"]
        assert row["test_r2_low"] < row["test_r2"] < row["test_r2_high"]


def test_a_cell_is_the_model_that_its_parameters_make(done, sky):
    folder, result = done
    row = result.results.set_index("cell").loc["tree-spectrum-s4"]
    split, y = sky.split(), sky.table["AVG"].to_numpy()
    x = sky.inputs({"spectrum": 4}, np.arange(len(sky)))["spectrum"]
    saved = load_model(folder / "cells" / "tree-spectrum-s4" / "model")
    value = saved.predict({"spectrum": x[split["test"]]}).value
    assert score(y[split["test"]], value)["r2"] == row["test_r2"]
    assert saved.card["split"] == sky.split_digest()
    assert {name: one["zoom"] for name, one in saved.card["inputs"]["inputs"].items()} == {"spectrum": 4}
    assert saved.card["label"] == {"name": "AVG", "unit": "dex", "definition": "made up"}
    assert json.loads(row["parameters"]).items() <= saved.params.items()


def test_parameters_come_from_the_training_part_by_cross_validation(done):
    folder, result = done
    trials = pd.read_parquet(folder / "trials.parquet")
    assert set(zip(trials["model"], trials["fusion"], strict=True)) == {
        (model, fusion) for model in ("tree", "lightgbm") for fusion in ("image", "spectrum", "early")
    }
    for (model, fusion), group in trials.groupby(["model", "fusion"]):
        best = group.loc[group["score"].idxmax()]
        assert best["chosen"]
        used = result.results[(result.results["model"] == model) & (result.results["fusion"] == fusion)]
        for text in used["parameters"]:
            assert json.loads(best["parameters"]).items() <= json.loads(text).items()


def test_late_fusion_is_made_of_the_fitted_members(done):
    folder, result = done
    part = {
        name: pd.read_parquet(folder / "cells" / f"tree-{name}" / "predictions.parquet")["prediction"]
        for name in ("image-i3", "spectrum-s3", "late-mean-i3-s3", "late-weighted-i3-s3")
    }
    np.testing.assert_allclose(part["late-mean-i3-s3"], (part["image-i3"] + part["spectrum-s3"]) / 2)
    weights = json.loads((folder / "cells" / "tree-late-weighted-i3-s3" / "cell.json").read_text())["weights"]
    mixed = weights[0] * part["image-i3"] + weights[1] * part["spectrum-s3"]
    np.testing.assert_allclose(part["late-weighted-i3-s3"], mixed)
    rows = result.results.set_index("cell")
    members = rows.loc[["tree-image-i3", "tree-spectrum-s3"], "train_seconds"].sum()
    assert rows.loc["tree-late-mean-i3-s3", "train_seconds"] >= members


def test_fusion_gains_where_the_label_shows_half_in_each(done):
    folder, _ = done
    table = pd.read_parquet(folder / "comparisons.parquet")
    gain = table[(table["kind"] == "fusion") & (table["metric"] == "r2") & table["chosen"]].set_index("model")
    assert gain.loc["lightgbm", "low"] > 0


def test_attainable_is_stated_on_exactly_the_test_objects(done, sky):
    _, result = done
    test = sky.split()["test"]
    expected = attainable_r2(sky.table["AVG"].to_numpy()[test], np.full(len(test), 0.2))
    assert result.results["attainable_r2"].to_numpy() == pytest.approx(expected)
    assert (result.results["distance"] == result.results["attainable_r2"] - result.results["test_r2"]).all()


def test_flaws_have_the_effect_that_they_should(done, sky):
    folder, _ = done
    effects = pd.read_parquet(folder / "effects.parquet").set_index("change")
    # scikit-learn takes features that differ by less than 1e-7 for constant: the tree sees nothing.
    assert PIXEL_UNIT / PIXEL_DIVISOR < 1e-20
    assert effects.loc["tiny-pixels", "value"] == pytest.approx(0, abs=0.05)
    blind = pd.read_parquet(folder / "cells" / "tree-image-i3-tiny-pixels" / "predictions.parquet")
    assert np.ptp(blind["prediction"]) == 0
    assert effects.loc["shuffled-bands", "value"] < effects.loc["shuffled-bands", "value_sound"]
    whole = (sky.table["nan_fraction"] == 0).to_numpy()
    split = sky.split()
    assert effects.loc["complete-only", "n_train"] == whole[split["train"]].sum()
    assert effects.loc["complete-only", "n_complete"] == whole[split["test"]].sum()
    kept = pd.read_parquet(folder / "cells" / "tree-spectrum-s3-complete-only" / "predictions.parquet")
    assert whole[kept.loc[kept["part"] != "test", "row"]].all()
    assert kept.loc[kept["part"] == "test", "row"].tolist() == split["test"].tolist()


# -------------------------------------------------------------------------------- repeat and resume


@pytest.mark.usefixtures("no_report")
def test_two_runs_are_identical_but_for_wall_times(done, sky, tmp_path):
    again = Study(small_recipe()).run(sky, tmp_path / "again", truth=sky.truth)
    pd.testing.assert_frame_equal(
        without_wall(again.results), without_wall(done[1].results), check_exact=True
    )
    stored = pd.read_parquet(tmp_path / "again" / "results.parquet")
    assert list(stored.columns) == list(done[1].results.columns)
    assert list(stored.columns[-3:]) == ["train_seconds", "inference_seconds", "tune_seconds"]


def fingerprints(folder):
    found = folder.glob("cells/*/cell.json")
    return {path.parent.name: json.loads(path.read_text())["fingerprint"] for path in found}


def copy(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "study")
    return tmp_path / "study"


@pytest.mark.usefixtures("no_report")
def test_a_finished_study_fits_nothing_again(done, sky, tmp_path, monkeypatch):
    folder = copy(done, tmp_path)
    fits = count_fits(monkeypatch)
    again = Study(small_recipe()).run(sky, folder, truth=sky.truth)
    assert fits == []
    pd.testing.assert_frame_equal(again.results, done[1].results)


@pytest.mark.usefixtures("no_report")
def test_a_lost_cell_alone_is_run_again(done, sky, tmp_path, monkeypatch):
    folder = copy(done, tmp_path)
    shutil.rmtree(folder / "cells" / "tree-image-i4")
    (folder / "cells" / "tree-spectrum-s4" / "cell.json").unlink()
    fits = count_fits(monkeypatch)
    again = Study(small_recipe()).run(sky, folder, truth=sky.truth)
    assert len(fits) == 2
    pd.testing.assert_frame_equal(without_wall(again.results), without_wall(done[1].results))


@pytest.mark.usefixtures("no_report")
def test_a_changed_parameter_refits_its_model_and_no_other(done, sky, tmp_path, monkeypatch):
    folder = copy(done, tmp_path)
    recipe = small_recipe()
    models = recipe.model_dump()["models"]
    models["tree"]["grid"] = {"max_depth": [2]}
    before = {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("cells/*/cell.json")}
    fits = count_fits(monkeypatch)
    Study(small_recipe(models=models)).run(sky, folder, truth=sky.truth)
    after = {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("cells/*/cell.json")}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.startswith("tree")}
    assert all(parameters["max_depth"] == 2 for parameters in fits)


@pytest.mark.usefixtures("no_report")
def test_other_data_refits_everything(done, tmp_path):
    folder = copy(done, tmp_path)
    other = SmallSky(tmp_path, seed=1)
    before = fingerprints(folder)
    Study(small_recipe()).run(other, folder)
    after = fingerprints(folder)
    assert all(before[name] != after[name] for name in after)


@pytest.mark.parametrize(
    "when", ["tuning lightgbm-image-i3: learning_rate 0.1", "tree-early-i3-s3", "report"]
)
@pytest.mark.usefixtures("no_report")
def test_an_interrupted_study_goes_on_to_the_same_results(done, sky, tmp_path, when):
    class Stop(BaseException):
        pass

    def stop(count, total, what):
        assert 0 <= count <= total
        if what.startswith(when):
            raise Stop

    folder = tmp_path / "study"
    with pytest.raises(Stop):
        Study(small_recipe()).run(sky, folder, truth=sky.truth, progress=stop)
    assert not (folder / "report.html").exists()
    resumed = Study(small_recipe()).run(sky, folder, truth=sky.truth)
    pd.testing.assert_frame_equal(without_wall(resumed.results), without_wall(done[1].results))


@pytest.mark.usefixtures("no_report")
def test_progress_counts_up_to_the_end(sky, tmp_path):
    seen = []
    recipe = small_recipe(models={"tree": {"grid": {"max_depth": [1, 2]}}})
    Study(recipe).run(sky, tmp_path / "study", progress=lambda *step: seen.append(step))
    counts = [count for count, _, _ in seen]
    assert counts == sorted(counts)
    assert seen[-1] == (seen[0][1], seen[0][1], "report")
    assert len({total for _, total, _ in seen}) == 1


# -------------------------------------------------------------------------------- narrow and bad


def test_without_truth_and_with_one_modality(sky, tmp_path):
    task = {**small_recipe().task.model_dump(), "attainable": None}
    recipe = small_recipe(
        task=task,
        models={"tree": {}},
        modalities=["spectrum"],
        fusions=["spectrum"],
        zooms={"spectrum": [3]},
        reference={"spectrum": 3},
        embeddings={"methods": ["pca"], "zooms": {"spectrum": [3]}},
        flaws=[],
        published=[],
    )
    result = Study(recipe).run(sky, tmp_path / "study")
    assert result.results["cell"].tolist() == ["tree-spectrum-s3"]
    assert result.results["attainable_r2"].isna().all()
    assert "attainable R²" not in result.report.read_text()


def test_tune_alone(sky, tmp_path):
    trials = Study(small_recipe()).tune(sky, tmp_path / "t", model="tree", fusion="spectrum")
    assert len(trials) == 2
    assert trials["chosen"].sum() == 1
    again = Study(small_recipe()).tune(sky, tmp_path / "t", model="tree", fusion="spectrum")
    assert again["seconds"].tolist() == trials["seconds"].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"model": "knn", "fusion": "image"}, "does not name the model 'knn'; choose among tree"),
        ({"model": "tree", "fusion": "late-mean"}, "'late-mean' cannot be tuned; choose among image"),
        ({"model": "fixed", "fusion": "image"}, "names the model fixed; choose among autoencoder, "),
    ],
)
def test_tune_refuses_what_it_cannot_do(sky, tmp_path, call, message):
    models = {"tree": {"grid": {"max_depth": [1, 2]}}}
    if call["model"] == "fixed":
        models["fixed"] = {}
    with pytest.raises(UsageError, match=message):
        Study(small_recipe(models=models)).tune(sky, tmp_path / "t", **call)
    with pytest.raises(UsageError, match="names no grid for tree"):
        Study(small_recipe(models={"tree": {}})).tune(sky, tmp_path / "t", model="tree", fusion="image")


def test_an_unknown_model_is_named(sky, tmp_path):
    recipe = small_recipe(models={"oracle": {}}, flaws=[])
    with pytest.raises(UsageError, match=r"names the model oracle; choose among autoencoder, .*, vggnet12"):
        Study(recipe).run(sky, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_foreign_folder_is_left_alone(sky, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"is not the folder of a study; give a new folder"):
        Study(small_recipe()).run(sky, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match=r"thesis\.txt: is a file; give a folder"):
        Study(small_recipe()).run(sky, tmp_path / "thesis.txt")


def test_a_second_study_in_one_folder_gets_one_line_and_harms_nothing(sky, tmp_path):
    folder = tmp_path / "study"
    with locked(folder, "study"):
        with pytest.raises(
            StoreError, match="another study writes this folder; wait until it ends or stop it"
        ):
            Study(small_recipe()).run(sky, folder)
        with pytest.raises(StoreError, match="another search writes this folder"):
            Study(small_recipe()).tune(sky, folder, model="tree", fusion="early")
        assert list(folder.iterdir()) == []


def test_missing_labels_folds_and_truth(sky, tmp_path):
    task = {"label": "MASS", "title": "mass", "unit": "dex", "definition": "made up"}
    with pytest.raises(DataError, match="the table has no column 'MASS'; nearest columns"):
        Study(small_recipe(task=task)).run(sky, tmp_path / "a")
    with pytest.raises(DataError, match="split has 5 folds, the recipe asks for 4"):
        Study(small_recipe(split={"folds": 4})).run(sky, tmp_path / "a")
    with pytest.raises(DataError, match="truth table lacks attainable_sigma"):
        Study(small_recipe()).run(sky, tmp_path / "a", truth=sky.truth.drop(columns="attainable_sigma"))
    held = sky.truth[~sky.truth["fiberid"].isin(sky.split()["test"][:3])]
    with pytest.raises(DataError, match=r"does not tell the attainable scatter of 3 of 48 test objects"):
        Study(small_recipe()).run(sky, tmp_path / "a", truth=held)
    other = SmallSky(tmp_path)
    other.table.loc[other.split()["valid"][0], "AVG"] = np.nan
    with pytest.raises(DataError, match="1 objects of the split have no AVG"):
        Study(small_recipe()).run(other, tmp_path / "a")


@pytest.mark.usefixtures("no_report")
def test_all_three_models_of_the_study_run_together(sky, tmp_path):
    models = {
        "tree": {"fixed": {"max_depth": 2}},
        "lightgbm": {"fixed": {"max_rounds": 5, "threads": 1}},
        "vggnet12": {"fixed": {"max_epochs": 2, "patience": 1, "width": 0.1, "learning_rate": 0.001}},
    }
    recipe = small_recipe(models=models, zooms={"image": [4], "spectrum": [4]}, flaws=[])
    recipe = recipe.model_copy(update={"reference": {"image": 4, "spectrum": 4}})
    one, two = (Study(recipe).run(sky, tmp_path / name, truth=sky.truth).results for name in "ab")
    assert set(one["model"]) == set(models)
    assert np.isfinite(one["test_r2"]).all()
    pd.testing.assert_frame_equal(without_wall(one), without_wall(two), check_exact=True)
    vgg = tmp_path / "a" / "cells" / "vggnet12-early-i4-s4"
    names = ["cell.json", "checksums.json", "model", "predictions.parquet"]
    assert sorted(path.name for path in vgg.iterdir()) == names
    assert 1 <= len(json.loads((vgg / "cell.json").read_text())["history"]["valid"]) <= 2


@pytest.mark.parametrize("grid", [{"max_depth": ["a"]}, {"colour": [1]}])
def test_a_parameter_that_a_model_cannot_take_is_told_before_the_work(sky, tmp_path, grid):
    with pytest.raises(UsageError, match=r"gives tree a parameter .* mend models\.tree"):
        Study(small_recipe(models={"tree": {"grid": grid}})).run(sky, tmp_path / "s")
    assert not (tmp_path / "s").exists()


TABLE = {
    "modalities": ["table"],
    "columns": ["shape", "line"],
    "zooms": {},
    "reference": {},
    "fusions": ["table"],
    "flaws": [],
    "published": [],
    "leaking": [],
    "models": {"tree": {"grid": {"max_depth": [1, 3]}}, "knn": {}, "lightgbm": {"fixed": {"max_rounds": 3}}},
    "embeddings": {"methods": ["pca"]},
    "clusters": 2,
}


def flat(sky, parts, label, value):
    for part in parts:
        sky.table.loc[sky.split()[part], label] = value


def strict(folder):
    """Return every JSON file of a study by its name, read without NaN."""

    def refused(name):
        raise AssertionError(name)

    found = {path.relative_to(folder): path.read_text() for path in folder.rglob("*.json")}
    return {str(name): json.loads(text, parse_constant=refused) for name, text in found.items()}


@pytest.mark.parametrize("parts", [["calibration"], ["train", "valid", "calibration", "test"]])
def test_a_part_of_equal_labels_ends_in_a_report_that_says_so(tmp_path, parts):
    sky = SmallSky(tmp_path / "dataset")
    flat(sky, parts, "AVG", 0.1)
    result = Study(small_recipe(**TABLE)).run(sky, tmp_path / "study", truth=sky.truth)
    page = result.report.read_text()
    for part in ("train", "calibration", "test"):
        equal = f"all labels of these {len(sky.split()[part])} objects are equal"
        assert (f"On the {part} part R² has no meaning: {equal}" in page) == (part in parts)
        assert result.results[f"{part}_r2"].isna().all() == (part in parts)
        assert result.results[f"{part}_mae"].notna().all()
    notes = strict(tmp_path / "study")
    note = notes["cells/knn-table/cell.json"]
    assert set(note["undefined"]) == set(parts)
    assert [part for part, scores in note["metrics"].items() if scores["r2"] is None] == sorted(
        parts, key=list(note["metrics"]).index
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(result.table())
    assert ("–" in console.file.getvalue()) == ("test" in parts)


def test_a_test_part_of_one_class_and_constant_inputs_end_in_a_report(tmp_path):
    sky = SmallSky(tmp_path / "dataset")
    flat(sky, ["test", "calibration"], "kind", "low")
    sky.table["line"], sky.table["shape"] = 0.1, 7.3
    content = {**TABLE, "models": {"logistic": {}, "forest": {"fixed": {"trees": 5}}}}
    result = Study(class_recipe(**content)).run(sky, tmp_path / "study")
    table = pd.read_parquet(tmp_path / "study" / "cells" / "forest-table" / "predictions.parquet")
    test = table[table["part"] == "test"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that classes are never predicted.
        expected = f1_score(test["label"], test["prediction"], average="macro", zero_division=0)
    found = result.results.set_index("cell").loc["forest-table", "test_f1_macro"]
    assert found == pytest.approx(expected)
    assert "embeddings" not in result.report.read_text()[:2000]
    strict(tmp_path / "study")
