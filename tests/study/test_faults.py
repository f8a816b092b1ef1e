import pandas as pd
import pytest
import yaml

from skyfuse.errors import FaultsError, SkyfuseError
from skyfuse.recipe import Recipe, recipe_names
from skyfuse.study.faults import check, of_recipe
from tests.test_recipe import table_recipe


def lines(call, *given, **named):
    """Return all faults that a call raises, each as a line."""
    with pytest.raises(SkyfuseError) as caught:
        call(*given, **named)
    return str(caught.value).splitlines()


def test_models_their_parameters_and_the_data_are_told_at_once(tmp_path):
    recipe = Recipe.model_validate(
        table_recipe(
            reader="table",
            models={
                "tree": {"fixed": {"depth": 3}},
                "forrest": {},
                "linear": {},
                "feed-forward": {"grid": {"dropout": [0.1, 2.0]}},
            },
        )
    )
    told = lines(check, recipe, sources=[tmp_path / "none.csv"], labels=tmp_path / "labels.csv")
    assert [line.split(";")[0] for line in told] == [
        "recipe kinds names the model forrest",
        "recipe kinds gives tree a parameter that it cannot take (DecisionTree.__init__() got an unexpected "
        "keyword argument 'depth')",
        "recipe kinds is a classification, which the model linear cannot do",
        "recipe kinds gives feed-forward a parameter that it cannot take (dropout is 2.0)",
        f"{tmp_path / 'none.csv'}: does not exist",
        "the data of kinds hold their labels themselves",
    ]
    assert "choose among autoencoder" in told[0]
    weighed = Recipe.model_validate(table_recipe(models={"hybrid": {}}, balance="weights"))
    assert "recipe kinds: hybrid takes no weights of objects" in lines(check, weighed, sources=[tmp_path])[0]


def test_a_mock_sky_must_hold_what_is_read():
    recipe = Recipe.model_validate(table_recipe(reader="table"))
    assert lines(check, recipe) == [
        "recipe kinds has a mock sky without catalogue, and no data were given; "
        "give data with --data, or name catalogue in mock.products"
    ]
    check(Recipe.model_validate(table_recipe(reader="table", mock={"products": ["catalogue"]})))


def test_what_several_variants_share_is_told_once_and_all_are_looked_at(tmp_path):
    path = tmp_path / "mine.yaml"
    content = table_recipe(
        models={"tree": {}, "treee": {}},
        variants={"a": {"models": {"knn": {"fixed": {"k": 0}}}}, "b": {"bootstrap": 3, "seed": -1}},
        quick={"columns": ["kind"]},
    )
    path.write_text(yaml.safe_dump(content))
    assert sorted(str(fault).split(";")[0] for fault in of_recipe(path)) == [
        "kinds, quick: columns holds kind, which gives the answer away (it is the label)",
        "kinds, variant b: field bootstrap is 3",
        "kinds, variant b: field seed is -1",
        "recipe kinds gives knn a parameter that it cannot take (k is 0)",
        "recipe kinds names the model treee",
    ]


def test_models_and_data_are_told_beside_the_faults_of_the_recipe_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(table_recipe(models={"treee": {}}, seed=-1)))
    told = [
        str(fault).split(";")[0] for fault in of_recipe(path, sources=[tmp_path / "x"], labels=path / "y")
    ]
    assert told == [
        f"{path}: field seed is -1",
        f"{path} names the model treee",
        f"{tmp_path / 'x'}: does not exist",
        f"{path / 'y'}: does not exist",
    ]


def test_tables_are_read_for_the_columns_together(tmp_path):
    path = tmp_path / "mine.yaml"
    content = table_recipe(
        reader="table",
        columns=["u", "g", "u-g", "log10(x)", "mag*"],
        split={"column": "source", "parts": {"train": ["a"], "test": ["b"]}},
        funnel={"where": {"r": [10, 20], "u": [10, None]}},
    )
    path.write_text(yaml.safe_dump(content))
    pd.DataFrame({"U": [1.0], "kind": ["a"]}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"G": [1.0], "kind": ["b"]}).to_csv(tmp_path / "b.csv", index=False)
    found = of_recipe(path, sources=[tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [fault.fault for fault in found] == [
        "the table has no column 'x'",
        "no column of numbers matches 'mag*'",
        "the table has no column 'redshift'",
        "the table has no column 'r'",
    ]
    broken = tmp_path / "c.fits"
    broken.write_bytes(b"SIMPLE")
    assert any(fault.path == broken for fault in of_recipe(path, sources=[broken]))


@pytest.mark.parametrize("name", recipe_names())
def test_no_shipped_recipe_has_a_fault(name):
    assert of_recipe(name) == []


def test_several_faults_are_one_error_that_survives_a_process(tmp_path):
    import pickle

    recipe = Recipe.model_validate(table_recipe(models={"treee": {}, "forrest": {}}))
    with pytest.raises(FaultsError) as caught:
        check(recipe, sources=[tmp_path])
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert str(again) == str(caught.value)
    assert (again.exit_code, len(again.faults)) == (2, 2)
    assert again.fault == "recipe kinds names the model treee (and 1 more)"
