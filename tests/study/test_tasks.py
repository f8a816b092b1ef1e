import numpy as np
import pandas as pd
import pytest

from skyfuse.errors import DataError
from skyfuse.study.tasks import describe, digest, target

from .sky import CLASSES, SmallSky, class_recipe, small_recipe


@pytest.fixture
def sky(tmp_path):
    return SmallSky(tmp_path)


def test_classes_stand_in_the_order_of_the_recipe(sky):
    goal = target(class_recipe(), sky)
    assert goal.classes == ("low", "middle", "high")
    assert goal.names().tolist() == sky.table["kind"].tolist()
    assert goal.columns == ("shape", "line")
    assert goal.leaky == ("shape", "line", "leak")
    np.testing.assert_allclose(goal.magnitude, sky.table["shape"], rtol=1e-6)
    task = {**class_recipe().task.model_dump(), "classes": {}, "magnitude": "nowhere"}
    found = target(class_recipe(task=task), sky)
    assert found.classes == ("high", "low", "middle")
    assert found.magnitude is None


def test_objects_of_no_class_are_told(sky):
    task = {**class_recipe().task.model_dump(), "classes": {"low": ["low"], "high": ["high"]}}
    lost = int((sky.table["kind"] == "middle").sum())
    with pytest.raises(DataError, match=f"{lost} objects of the split have no kind of a known class"):
        target(class_recipe(task=task), sky)
    sky.table["kind"] = "low"
    with pytest.raises(DataError, match="kind holds 1 classes"):
        target(class_recipe(task={**task, "classes": {}}), sky)


def test_a_label_that_colours_alone_may_be_missing(sky):
    task = {**class_recipe().task.model_dump(), "kind": "reconstruction"}
    sky.table.loc[3, "kind"] = None
    goal = target(class_recipe(task=task), sky)
    assert goal.names()[3] is None
    assert goal.label[3] == -1


def test_patterns_stand_for_the_columns_that_match(sky):
    goal = target(class_recipe(columns=["sh*", "l*e"]), sky)
    assert goal.columns == ("shape", "line")
    with pytest.raises(DataError, match=r"no column of numbers matches 'mfcc_\*'"):
        target(class_recipe(columns=["mfcc_*"]), sky)


def test_a_label_is_found_whatever_its_case(sky):
    expected = target(small_recipe(), sky).label
    sky.table = sky.table.rename(columns={"AVG": "avg"})
    np.testing.assert_array_equal(target(small_recipe(), sky).label, expected)


def test_a_label_that_is_no_number_is_told_before_the_work(sky):
    sky.table["AVG"] = sky.table["AVG"].astype(str)
    sky.table.loc[4, "AVG"] = "abc"
    with pytest.raises(DataError, match=f"{sky.table.loc[4, 'object_id']} has 'abc'"):
        target(small_recipe(), sky)


@pytest.mark.parametrize(
    ("value", "redshift", "sound"),
    [(1e30, False, False), (-1e12, False, False), (1e6, False, True), (60, True, False)],
)
def test_labels_out_of_all_proportion_are_told(sky, value, redshift, sound):
    row = int(sky.rounds()[0]["train"][2])
    sky.table.loc[row, "AVG"] = value
    recipe = small_recipe(task={**small_recipe().task.model_dump(), "redshift": redshift})
    if sound:
        assert target(recipe, sky).label[row] == value
        return
    with pytest.raises(DataError, match=f"AVG of {sky.table.loc[row, 'object_id']} is"):
        target(recipe, sky)


def test_rounds_and_folds_are_those_of_the_recipe(sky, tmp_path):
    with pytest.raises(DataError, match="split has 1 rounds, the recipe asks for 3"):
        target(class_recipe(split={"rounds": 3}), sky)
    goal = target(class_recipe(split={"rounds": 3}), SmallSky(tmp_path, rounds=3))
    assert sorted(goal.test) == list(range(len(sky)))
    assert goal.rows is goal.rounds[0]


def test_the_truth_is_joined_by_whatever_names_objects(sky):
    by_fibre = target(small_recipe(), sky, sky.truth.assign(attainable_sigma=np.arange(len(sky)) / 10))
    np.testing.assert_allclose(by_fibre.attainable_sigma, np.arange(len(sky)) / 10)
    sky.table["objid"] = 10**17 + np.arange(len(sky))
    truth = pd.DataFrame({"objid": sky.table["objid"][::-1], "attainable_sigma": np.arange(len(sky))[::-1]})
    sky.table = sky.table.drop(columns="plate")
    found = target(small_recipe(), sky, truth).attainable_sigma
    np.testing.assert_array_equal(found, np.arange(len(sky)))


def test_what_the_report_tells_of_the_data(sky):
    recipe = class_recipe()
    goal = target(recipe, sky)
    found = describe(recipe, sky, goal)
    assert found["counts"] == sky.table["kind"].value_counts().to_dict()
    assert list(found["counts"]) == list(CLASSES)
    assert found["guard"] == [
        {"column": "leak", "reason": "it is the label with a little noise", "used": True}
    ]
    assert found["parts"] == {part: len(rows) for part, rows in goal.rows.items()}
    assert set(found["wavelength"]) == {"spectrum"}
    assert set(found["wavelength"]["spectrum"]) == {"3", "4"}


def test_mean_spectra_of_redshift_ranges_are_the_means(sky):
    task = {**small_recipe().task.model_dump(), "redshift": True}
    recipe = small_recipe(task=task)
    goal = target(recipe, sky)
    found = describe(recipe, sky, goal)["mean_spectra"]
    rows = goal.rows["train"]
    assert sum(each["n"] for each in found["ranges"]) == len(rows)
    first = found["ranges"][0]
    inside = rows[(goal.label[rows] >= first["low"]) & (goal.label[rows] < first["high"])]
    values = sky.inputs({"spectrum": 3}, inside)["spectrum"].astype(np.float64)
    expected = np.nanmean(values / np.nanmean(np.abs(values), axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(np.array(first["mean"], dtype=float), expected, rtol=1e-4, atol=1e-6)


def test_the_digest_follows_the_table(sky):
    before = digest(sky)
    sky.table.loc[0, "leak"] += 1
    assert digest(sky)["record"] != before["record"]
    assert digest(sky)["split"] == before["split"]
