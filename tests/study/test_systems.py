import numpy as np
import pandas as pd
import pytest

from skyfuse.errors import DataError
from skyfuse.recipe import Recipe
from skyfuse.study import Study, systems
from skyfuse.study.cells import plan
from skyfuse.study.feed import Feed
from skyfuse.study.systems import Measured
from skyfuse.study.tasks import target

from .sky import SmallSky

OTHER = "RATE"


@pytest.fixture
def sky(tmp_path):
    """Give objects whose label two more catalogues state: `RATE` in other units, and few of `FEW`."""
    made = SmallSky(tmp_path, n=400)
    rng = np.random.default_rng(5)
    own = made.table["AVG"]
    made.table[OTHER] = 3 + 2 * (own + 0.3 * rng.normal(size=len(own)))
    made.table.loc[::5, OTHER] = np.nan
    made.table["FEW"] = np.where(np.arange(len(own)) < 12, own, np.nan)
    made.table["AVG_ERR"] = rng.uniform(0.05, 0.5, len(own))
    made.table.loc[[0, 1], "AVG_ERR"] = 0.0, 900.0
    return made


def recipe_of(columns=("shape", "line"), **task) -> Recipe:
    own = {"label": "AVG", "title": "log SFR", "unit": "dex", "definition": "made up"}
    own |= {"systems": {OTHER: {"what": "another catalogue"}}, **task}
    content = {"name": "rates", "title": "Rates", "reader": "table", "columns": [*columns], "task": own}
    models = {"linear": {}, "tree": {"fixed": {"max_depth": 3}}}
    return Recipe.model_validate(
        {**content, "models": models, "embeddings": {"methods": ["pca"]}, "bootstrap": 200, "seed": 11}
    )


def test_both_systems_get_one_mean_and_one_spread_without_the_errors_of_either():
    rng = np.random.default_rng(0)
    true = rng.normal(size=20_000)
    a, b = true + 0.5 * rng.normal(size=len(true)), 1 + 4 * (true + 0.5 * rng.normal(size=len(true)))
    b[:100] = np.nan
    found = systems.line(a, b, ("a", "b"))
    # The true relation, which a least-squares line misses by the reliability, 0.8.
    assert found.scale == pytest.approx(1 / 4, rel=0.02)
    assert found.offset == pytest.approx(-1 / 4, abs=0.02)
    assert found.n == 19_900
    assert np.nanmean(found(b)) == pytest.approx(a[100:].mean())
    assert np.nanstd(found(b)) == pytest.approx(a[100:].std())


def test_what_is_no_measurement_of_the_label_is_told():
    a = np.arange(30.0)
    with pytest.raises(DataError, match="19 training objects have both a and b, 20 are needed"):
        systems.line(a, np.where(a < 19, a, np.nan), ("a", "b"))
    for other in (-a, np.ones(30)):
        with pytest.raises(DataError, match="b does not rise with a"):
            systems.line(a, other, ("a", "b"))


def test_offset_and_scale_come_from_the_training_part_alone(sky):
    goal = target(recipe_of(learned=OTHER), sky)
    before = goal.learned(0)[goal.rows["train"]]
    rest = np.setdiff1d(np.arange(len(sky)), goal.rows["train"])
    sky.table.loc[rest, OTHER] *= 50
    np.testing.assert_array_equal(
        target(recipe_of(learned=OTHER), sky).learned(0)[goal.rows["train"]], before
    )


def test_models_learn_the_other_system_and_are_judged_by_the_label(sky):
    recipe = recipe_of(learned=OTHER)
    goal = target(recipe, sky)
    known = sky.table[OTHER].notna().to_numpy()
    whole = target(recipe_of(), sky)
    for part in ("train", "valid"):
        assert set(goal.rows[part]) == {row for row in whole.rows[part] if known[row]}
    np.testing.assert_array_equal(goal.test, whole.test)
    assert sorted(np.concatenate(goal.folds)) == sorted(goal.rows["train"])
    lot = Feed(recipe, sky, goal).lot(plan(recipe)[0], 0, seed=0, sigma=False)
    np.testing.assert_array_equal(lot.labels["test"], sky.table["AVG"][goal.test])
    train = goal.rows["train"]
    own, other = sky.table["AVG"][train], sky.table[OTHER][train]
    expected = own.mean() + (other - other.mean()) / other.std() * own.std()
    np.testing.assert_allclose(lot.labels["train"], expected)


def test_objects_weigh_by_the_share_of_variance_that_is_not_their_error(sky):
    goal = target(recipe_of(error="AVG_ERR"), sky)
    train = goal.rows["train"]
    variance, error = sky.table["AVG"][train].var(ddof=0), sky.table["AVG_ERR"].to_numpy(copy=True)
    weight = goal.weight(0, np.arange(len(sky)))
    rows = np.arange(2, len(sky))
    np.testing.assert_allclose(weight[rows], variance / (variance + error[rows] ** 2))
    # An error beyond the spread of the labels says no more than that; none at all is a usual one.
    assert weight[1] == pytest.approx(0.5)
    assert weight.min() == weight[1] < weight[0] < weight.max()
    assert goal.attainable_sigma[1] == pytest.approx(np.sqrt(variance))
    np.testing.assert_allclose(goal.attainable_sigma[rows], error[rows])
    assert target(recipe_of(), sky).weight(0, train) is None
    # The error is that of the label; what is learned has none.
    assert target(recipe_of(error="AVG_ERR", learned=OTHER), sky).weight(0, train) is None


def test_pairs_state_the_rms_of_what_was_put_in():
    rng = np.random.default_rng(1)
    n = 30_000
    true = rng.normal(size=n)
    a, b = true + 0.3 * rng.normal(size=n), 1 + 2 * (true + 0.4 * rng.normal(size=n))
    rounds = [{"train": np.arange(n // 2), "test": np.arange(n // 2, n)}]
    few = np.where(np.arange(n) % 1500 == 0, true, np.nan)
    other = {"b": Measured(b, np.full(n, 0.8)), "few": Measured(np.where(np.arange(n) < 25, true, few), None)}
    found = systems.pairs({"a": Measured(a, np.full(n, 0.3)), **other}, rounds).set_index(["a", "b"])
    pair = found.loc["a", "b"]
    assert pair["n"] == n // 2
    # Brought to a, b has the errors 0.4 times the ratio of the two spreads.
    scale = np.sqrt(1.09 / 1.16) / 2
    assert pair["scale"] == pytest.approx(scale, rel=0.02)
    assert pair["stated"] == pytest.approx(np.hypot(0.3, 0.8 * scale), rel=0.01)
    assert pair["rms"] == pytest.approx(np.sqrt(0.3**2 + (0.8 * scale) ** 2 + (1 - 2 * scale) ** 2), rel=0.02)
    assert np.isnan(found.loc[("a", "few"), "stated"])
    holed = Measured(np.where(np.arange(n) < 25, np.nan, b), None)
    lonely = systems.pairs({"a": Measured(a, None), "b": holed, "few": other["few"]}, rounds).set_index(
        ["a", "b"]
    )
    assert lonely.loc[("b", "few"), "n"] == 10
    assert np.isnan(lonely.loc[("b", "few"), "rms"])


def test_no_model_of_a_noisy_label_passes_the_bound_of_errors_alike():
    rng = np.random.default_rng(2)
    n = 20_000
    true = rng.normal(size=n)
    a, b = (true + 0.5 * rng.normal(size=n) for _ in range(2))
    rounds = [{"train": np.arange(n // 2), "test": np.arange(n // 2, n)}]
    test = rounds[0]["test"]
    # The best model there is knows the truth itself.
    says = {"best": true, "copy of b": b, "noise": rng.normal(size=n)}
    tests = {
        name: pd.DataFrame({"row": test, "label": a[test], "prediction": values[test]})
        for name, values in says.items()
    }
    found = systems.ceilings(
        {"a": Measured(a, None), "b": Measured(b, None)}, rounds, tests, groups=None, samples=300, seed=0
    ).set_index("cell")
    best, copy = found.loc["best"], found.loc["copy of b"]
    assert best["alike_r2"] == pytest.approx(1 / 1.25, abs=0.01)
    assert best["alike_rmse"] == pytest.approx(0.5, abs=0.01)
    assert best["distance_low"] < 0 < best["distance_high"]
    assert best["farther_high"] < 0
    assert copy["rmse"] == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert copy["farther_low"] <= 0.002
    assert abs(copy["farther"]) < 0.002
    assert found.loc["noise", "farther_low"] > 0
    assert found.loc["noise", "distance_low"] > 1


def test_a_study_states_the_systems_beside_its_models(sky, tmp_path):
    recipe = recipe_of(error="AVG_ERR", learned=OTHER)
    result = Study(recipe).run(sky, tmp_path / "study")
    pair = pd.read_parquet(tmp_path / "study" / "systems.parquet").iloc[0]
    beside = pd.read_parquet(tmp_path / "study" / "ceilings.parquet")
    assert set(beside["cell"]) == {"linear-table", "tree-table"}
    assert (beside["n"] == pair["n"]).all()
    page = result.report.read_text(encoding="utf-8")
    assert "Other measurements of the label" in page
    assert f"learned <code>{OTHER}</code>" in page
    # The rms of the pair is the model's that says what the other system says.
    assert beside["system_rmse"].iloc[0] == pytest.approx(pair["rms"])


@pytest.mark.parametrize(
    ("columns", "task", "told"),
    [
        (["shape", OTHER], {}, r"gives the answer away \(the same quantity, by another catalogue\)"),
        (["shape", "log10(AVG_ERR)"], {"error": "AVG_ERR"}, "the error of a label follows it"),
        (["shape"], {"learned": "AVG"}, "learned names AVG"),
        (["shape"], {"kind": "classification"}, "error and systems belong to a regression"),
    ],
)
def test_recipes_that_cannot_be(columns, task, told):
    with pytest.raises(ValueError, match=told):
        recipe_of(columns, **task)


def test_a_column_that_is_not_there_is_told(sky):
    with pytest.raises(DataError, match="no column 'NOWHERE'"):
        target(recipe_of(error="NOWHERE"), sky)
