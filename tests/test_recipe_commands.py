import json
import sys

import pytest
import yaml

from skyfuse import cli
from skyfuse.recipe import load_recipe, recipe_names
from skyfuse.study.explain import commented
from tests.test_recipe import table_recipe


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Call the command line in an empty folder; return exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["skyfuse", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return called


def test_all_recipes_are_listed_with_their_variants(call):
    code, out, _ = call("recipe", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == recipe_names()
    listed = json.loads(call("recipe", "list", "--json")[1])
    assert {row["name"]: row["variants"] for row in listed}["mainclass"] == ["sdss"]
    assert all(row["shows"] and row["kind"] for row in listed)


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_is_the_recipe_itself_with_comments(name, tmp_path):
    path = tmp_path / "shown.yaml"
    path.write_text(commented(name))
    recipe = load_recipe(name)
    assert load_recipe(path) == recipe
    assert "# Column of the dataset's table that holds the label" in path.read_text()
    # A file of one's own is shown likewise, also one that was shown before.
    assert load_recipe(path) == recipe


def test_show_prints_yaml_or_all_values(call):
    code, out, _ = call("recipe", "show", "sfr")
    assert (code, yaml.safe_load(out)["name"]) == (0, "sfr")
    assert json.loads(call("recipe", "show", "sfr", "--json")[1])["bootstrap"] == 5000
    assert call("recipe", "show", "sfx")[0] == 2


def test_check_tells_all_faults_a_line_each_and_study_starts_nothing(call, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        yaml.safe_dump(table_recipe(models={"treee": {}}, seed=-1, colums=["u"], bootstrap=1))
    )
    code, out, err = call("recipe", "check", "bad.yaml", "--data", "none.csv")
    told = err.splitlines()
    assert (code, out) == (1, "")
    assert [line.split(";")[0] for line in told] == [
        "skyfuse: bad.yaml: field bootstrap is 1",
        "skyfuse: bad.yaml: field seed is -1",
        "skyfuse: bad.yaml: unknown field colums (columns?)",
        "skyfuse: bad.yaml names the model treee",
        "skyfuse: none.csv: does not exist",
    ]
    assert json.loads(call("recipe", "check", "bad.yaml", "--json")[1])["faults"][0].startswith("bad.yaml: ")
    code, out, err = call("study", "bad.yaml", "--data", "none.csv")
    assert (code, out, err.splitlines()) == (2, "", told)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_check_says_so_where_nothing_is_wrong_and_bad_calls_are_told_from_faults(call, tmp_path):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(table_recipe()))
    assert call("recipe", "check", "good.yaml") == (0, "good.yaml: nothing is wrong\n", "")
    for name in ("none", "none.yaml"):
        code, _, err = call("recipe", "check", name)
        assert (code, len(err.splitlines())) == (2, 1)
