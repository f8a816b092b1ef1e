import json

import numpy as np
import pandas as pd
import pytest
import yaml

from skyfuse import cli
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.recipe import load_recipe
from skyfuse.study.draft import draft, recipe_path


def table(rows=400):
    """Return a table with a label that two columns tell in part, and columns that are no inputs."""
    rng = np.random.default_rng(3)
    light, size = rng.normal(18, 1, rows), rng.normal(2, 0.3, rows)
    mass = 10 - 0.4 * light + size + rng.normal(0, 0.3, rows)
    return pd.DataFrame(
        {
            "objid": 1237650000000000000 + rng.permutation(rows),
            "unnamed: 0": np.arange(rows),
            "ra": rng.uniform(0, 360, rows),
            "dec": rng.uniform(-5, 5, rows),
            "l": rng.uniform(0, 360, rows),
            "b": rng.uniform(-90, 90, rows),
            "plate": rng.integers(266, 300, rows),
            "mag-r": light,
            "half size": size,
            "grid": rng.normal(0, 1, rows),
            "Mass": mass,
            "mass_err": np.abs(rng.normal(0.1, 0.01, rows)),
            "weight": np.exp(-mass),
            "remark": "none",
            "flat": 1.0,
            "rare": np.where(np.arange(rows) % 3, np.nan, light),
            "kind": np.where(mass > np.median(mass), "no", "yes"),
        }
    )


def written(folder, content=None, name="galaxies.csv"):
    path = folder / name
    (table() if content is None else content).to_csv(path, index=False)
    return path


def test_a_draft_chooses_inputs_and_says_why_others_are_none(tmp_path):
    drafted = draft(written(tmp_path), "Mass")
    assert (drafted.kind, drafted.rows) == ("regression", 400)
    assert drafted.columns == ("mag-r", "half size", "grid")
    reasons = {name: reason for reason, names in drafted.left_out.items() for name in names}
    assert reasons == {
        "objid": "identifiers",
        "unnamed: 0": "how the survey went",
        "ra": "where an object lies, which is no property of it",
        "dec": "where an object lies, which is no property of it",
        "l": "where an object lies, which is no property of it",
        "b": "where an object lies, which is no property of it",
        "plate": "how the survey went",
        "mass_err": "named like the label",
        "weight": "gives the label away",
        "remark": "no numbers",
        "flat": "at most one value",
        "rare": "missing in more than 50% of the rows",
        "kind": "no numbers",
    }
    # Each of them stands in the recipe, as a comment.
    assert all(name in drafted.text for name in reasons)
    assert yaml.safe_load(drafted.text)["columns"] == list(drafted.columns)


def test_columns_that_are_parts_of_a_sum_are_no_inputs(tmp_path):
    content = table()
    parts = np.random.default_rng(8).normal(0, 1, (400, 2))
    content = content.assign(one=parts[:, 0], two=parts[:, 1], three=content["Mass"] - parts.sum(axis=1))
    drafted = draft(written(tmp_path, content), "Mass")
    assert drafted.columns == ("mag-r", "half size", "grid")
    assert drafted.left_out["give the label away together"] == ("one", "two", "three")


def test_classes_are_those_of_the_label_with_rows_enough(tmp_path):
    content = table()
    content.loc[:4, "kind"] = "a+b"
    drafted = draft(written(tmp_path, content), "kind")
    recipe = yaml.safe_load(drafted.text)
    assert drafted.kind == "classification"
    assert recipe["task"]["classes"] == {"no": ["no"], "yes": ["yes"]}
    assert drafted.rows == 395
    # The class was cut from the mass, which so tells it.
    assert "Mass" not in drafted.columns


def test_whole_numbers_of_few_values_are_classes_and_logarithms_may_be_labels(tmp_path):
    content = table().assign(bars=np.arange(400) // 7 % 3)
    path = written(tmp_path, content)
    assert yaml.safe_load(draft(path, "bars").text)["task"]["classes"] == {"0": ["0"], "1": ["1"], "2": ["2"]}
    logarithm = draft(path, "log10(weight)")
    assert "weight" not in logarithm.columns
    assert yaml.safe_load(logarithm.text)["task"]["label"] == "log10(weight)"


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        ("Masse", DataError, r"galaxies.csv: the table has no column 'Masse'; nearest columns: Mass"),
        ("remark", DataError, r"remark has fewer than two classes of 20 rows or more"),
        ("objname", DataError, r"objname has 400 different texts, .*; name a column of numbers"),
        ("seldom", DataError, r"50 rows have a value of seldom; give a table with 100 or more"),
    ],
)
def test_labels_that_nothing_can_be_made_of(tmp_path, label, error, message):
    names = [f"galaxy {i}" for i in range(400)]
    seldom = np.where(np.arange(400) < 50, np.linspace(0, 1, 400), np.nan)
    path = written(tmp_path, table().assign(objname=names, seldom=seldom))
    with pytest.raises(error, match=message):
        draft(path, label)


def test_where_there_is_no_table_or_no_input(tmp_path):
    with pytest.raises(StoreError, match=r"none.csv: does not exist; give a table"):
        draft(tmp_path / "none.csv", "x")
    path = written(tmp_path, table()[["ra", "objid", "Mass"]], "few.csv")
    with pytest.raises(DataError, match=r"no column may be an input; see why: where an object lies.*: ra"):
        draft(path, "Mass")


def test_a_recipe_that_stands_there_is_kept(tmp_path):
    there = tmp_path / "mine.yaml"
    there.write_text("name: mine")
    with pytest.raises(UsageError, match="is there already; give another name"):
        recipe_path(there)
    with pytest.raises(UsageError, match=r"end it in \.yaml"):
        recipe_path(tmp_path / "mine.txt")
    assert recipe_path(tmp_path / "new" / "mine.yml").suffix == ".yml"


def call(monkeypatch, capsys, *words):
    """Return exit code, standard output and error of a call."""
    monkeypatch.setattr("sys.argv", ["skyfuse", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, *capsys.readouterr()


def test_a_drafted_recipe_is_whole_for_its_table_and_runs_at_once(tmp_path, monkeypatch, capsys):
    data, recipe = written(tmp_path), tmp_path / "mine.yaml"
    code, out, _ = call(monkeypatch, capsys, "recipe", "new", data, "--label", "Mass", "-o", recipe, "--json")
    assert code == 0
    assert json.loads(out)["columns"] == ["mag-r", "half size", "grid"]
    assert load_recipe(recipe).modalities == ["table"]
    assert call(monkeypatch, capsys, "recipe", "check", recipe, "--data", data)[0] == 0
    code, out, err = call(
        monkeypatch, capsys, "study", recipe, "--data", data, "-o", tmp_path / "out", "--json"
    )
    assert code == 0, err
    scores = {row["model"]: row["test_r2"] for row in json.loads(out)}
    # Of the mass, whose variance is 0.16 + 0.09 + 0.09, the last part is noise; 80 test objects.
    assert scores["linear"] == pytest.approx(0.25 / 0.34, abs=0.2)
