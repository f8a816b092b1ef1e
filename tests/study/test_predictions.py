import numpy as np
import pandas as pd
import pytest

from skyfuse.models.base import Prediction
from skyfuse.recipe import Task
from skyfuse.study.predictions import baseline_of, frame, outcome, read_predictions, set_names
from skyfuse.study.tasks import target

from .sky import SmallSky, class_recipe, small_recipe


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return SmallSky(tmp_path_factory.mktemp("sky"))


def test_sets_are_named_by_their_classes():
    members = np.array([[True, False, True], [False, False, False], [False, True, False]])
    assert set_names(members, ("a", "b", "c")) == ["a|c", "", "b"]


def test_a_classification_goes_to_a_table_and_back(sky, tmp_path):
    recipe = class_recipe()
    goal = target(recipe, sky)
    rows = goal.rows["test"][:4]
    probability = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3]])
    members = probability > 0.25
    said = Prediction(
        probability.argmax(axis=1), probability, goal.classes, members=members, unknown=members[:, 0]
    )
    table = frame(goal, rows, "test", 2, said)
    assert table["label"].tolist() == sky.table["kind"].iloc[rows].tolist()
    assert table["prediction"].tolist() == ["low", "high", "middle", "middle"]
    assert table["set_size"].tolist() == [1, 1, 3, 2]
    assert table["unknown"].tolist() == [True, False, True, False]
    assert table["covered"].tolist() == members[np.arange(4), goal.label[rows]].tolist()
    train = frame(goal, goal.rows["train"][:4], "train", 0, said)
    pd.concat([table, train]).to_parquet(tmp_path / "predictions.parquet")
    back = outcome(read_predictions(tmp_path, "test"), recipe.task, goal.classes)
    np.testing.assert_array_equal(back.truth, goal.label[rows])
    np.testing.assert_array_equal(back.value, said.value)
    np.testing.assert_array_equal(back.probability, probability)


def test_an_interval_covers_what_lies_within_it(sky):
    recipe = small_recipe()
    goal = target(recipe, sky)
    rows = goal.rows["calibration"]
    y = goal.label[rows]
    low, high = y - np.where(np.arange(len(y)) % 3, 1, -0.1), y + 1
    table = frame(goal, rows, "calibration", 0, Prediction(y + 0.5, low=low, high=high))
    assert table["covered"].tolist() == (np.arange(len(y)) % 3 > 0).tolist()
    assert outcome(table, recipe.task, ()).score()["mae"] == pytest.approx(0.5)


def test_an_interval_in_pieces_covers_what_lies_within_one_of_them(sky):
    goal = target(small_recipe(), sky)
    rows = goal.rows["test"][:3]
    y = goal.label[rows]
    pieces = np.full((3, 2, 2), np.nan)
    pieces[0] = [[y[0] - 3, y[0] - 1], [y[0] + 1, y[0] + 4]]
    pieces[1, 0] = y[1] - 1, y[1] + 1
    pieces[2] = [[0.1021, 0.1043], [y[2] - 0.5, y[2]]]
    said = Prediction(
        y, low=np.nanmin(pieces, axis=(1, 2)), high=np.nanmax(pieces, axis=(1, 2)), pieces=pieces
    )
    table = frame(goal, rows, "test", 0, said)
    assert table["covered"].tolist() == [False, True, True]
    assert table["width"].tolist() == pytest.approx([5, 2, 0.5022])
    assert table["pieces"][2].startswith("0.1021:0.1043|")
    assert [text.count("|") for text in table["pieces"]] == [1, 0, 1]


def test_a_redshift_brings_its_own_scores():
    task = Task(label="z", title="z", definition="made up", redshift=True, outlier=0.01)
    table = pd.DataFrame({"label": [0.1, 0.2, 0.4], "prediction": [0.1, 0.25, 0.4]})
    assert outcome(table, task, ()).score()["outliers"] == pytest.approx(1 / 3)


def test_the_baseline_is_the_error_of_the_mean_spectrum():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 6)).astype(np.float32)
    x = {"spectrum": train[:50].copy()}
    found = baseline_of({"spectrum": train}, x)
    # Scaled to the variance 1, white noise about its mean spectrum has the mean square 1.
    assert baseline_of({"spectrum": train}, {"spectrum": train}).mean() == pytest.approx(1, abs=0.05)
    x["spectrum"][:, 2] = np.nan
    gaps = baseline_of({"spectrum": train}, x)
    assert np.isfinite(gaps).all()
    assert not np.allclose(gaps, found)
