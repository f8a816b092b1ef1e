import json
import sqlite3

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import StoreError
from skyfuse.recipe import ModelPlan, Search
from skyfuse.study.metrics import Outcome
from skyfuse.study.tune import Store, first_point, grid_points, number_of_trials, take, tune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3))
Y = X[:, 0] + 0.1 * RNG.normal(size=50)
FOLDS = [np.arange(50)[k::5] for k in range(5)]
SEEN: list = []


def judge(parameters, fold, seed):
    """Score the first feature times a parameter; keep what was shown."""
    SEEN.append((parameters, fold.train, fold.stop, fold.held, seed))
    held = fold.held
    value = parameters["factor"] * X[held, 0] + parameters.get("offset", 0.0)
    return Outcome("regression", Y[held], value).score()


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


def search(store, grid=None, method="grid", trials=6, space=None, **more):
    plan = ModelPlan(grid={"factor": [0.5, 1.0, 2.0]} if grid is None else grid, space=space or {})
    how = Search(method=method, trials=trials, scored=more.pop("scored", None))
    options = {"primary": "r2", "store": Store(store, more.pop("name", "a")), "seed": 7, **more}
    return tune(plan, how, judge, FOLDS, **options)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3), st.lists(st.integers(), min_size=1, max_size=3), max_size=3
    )
)
def test_grid_points_are_the_product(grid):
    points = grid_points(grid)
    assert len(points) == np.prod([len(values) for values in grid.values()], dtype=int)
    assert all(list(point) == list(grid) for point in points)
    assert all(point[key] in grid[key] for point in points for key in grid)


def test_grid_order_varies_the_last_parameter_fastest():
    points = grid_points({"a": [1, 2], "b": ["x", "y"]})
    assert points == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_take_keeps_rows_aligned():
    taken = take({"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}, np.array([3, 1]))
    assert taken["a"].tolist() == [3, 1]
    assert taken["b"].tolist() == [[6, 7], [2, 3]]


def test_best_point_and_its_scores(tmp_path):
    found = search(tmp_path / "t.sqlite")
    assert found.best == {"factor": 1.0}
    assert found.trials["chosen"].tolist() == [False, True, False]
    assert [json.loads(text)["factor"] for text in found.trials["parameters"]] == [0.5, 1.0, 2.0]
    expected = [Outcome("regression", Y[fold], X[fold, 0]).score() for fold in FOLDS]
    row = found.trials.iloc[1]
    assert row["score"] == row["r2"] == pytest.approx(np.mean([s["r2"] for s in expected]))
    assert row["nmad"] == pytest.approx(np.mean([s["nmad"] for s in expected]))
    assert row["score_folds"] == pytest.approx([s["r2"] for s in expected])
    assert row["score_std"] == pytest.approx(np.std([s["r2"] for s in expected]))
    assert found.trials["number"].tolist() == [0, 1, 2]


def test_the_fold_that_scores_neither_trains_nor_stops(tmp_path):
    search(tmp_path / "t.sqlite", {"factor": [1.0, 2.0]})
    assert len(SEEN) == 2 * len(FOLDS)
    for _, train, stop, held, seed in SEEN:
        assert sorted([*train, *stop, *held]) == list(range(50))
        assert 7 <= seed < 12
    assert {tuple(held) for _, _, _, held, _ in SEEN} == {tuple(fold) for fold in FOLDS}


def test_fewer_folds_may_score(tmp_path):
    found = search(tmp_path / "t.sqlite", {"factor": [1.0, 2.0]}, scored=1)
    assert len(SEEN) == 2
    assert found.trials["folds"].tolist() == [1, 1]


def test_a_finished_search_fits_nothing_again(tmp_path):
    first = search(tmp_path / "t.sqlite")
    SEEN.clear()
    again = search(tmp_path / "t.sqlite")
    assert SEEN == []
    assert again.best == first.best
    assert again.trials.equals(first.trials)


def test_another_name_is_another_search(tmp_path):
    search(tmp_path / "t.sqlite")
    SEEN.clear()
    search(tmp_path / "t.sqlite", name="b")
    assert len(SEEN) == 3 * len(FOLDS)


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path):
    class Stop(BaseException):
        pass

    def stop_after_two(what):
        done.append(what)
        if len(done) == 2:
            raise Stop

    done: list[str] = []
    with pytest.raises(Stop):
        search(tmp_path / "t.sqlite", progress=stop_after_two)
    # The second trial was not yet told to the store: one is complete, two are left.
    SEEN.clear()
    resumed = search(tmp_path / "t.sqlite")
    assert len(SEEN) == 2 * len(FOLDS)
    whole = search(tmp_path / "whole.sqlite")
    assert resumed.best == whole.best
    assert resumed.trials.drop(columns="seconds").equals(whole.trials.drop(columns="seconds"))


def test_a_trial_left_running_by_a_killed_process_is_run_again(tmp_path):
    search(tmp_path / "t.sqlite")
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
    connection.close()
    SEEN.clear()
    assert search(tmp_path / "t.sqlite").best == {"factor": 1.0}
    assert len(SEEN) == len(FOLDS)


def test_equal_points_leave_the_first(tmp_path):
    tie = search(tmp_path / "t.sqlite", {"factor": [2.0, 1.0], "offset": [0.0], "unused": ["b", "a"]})
    assert tie.trials["r2"].iloc[2] == tie.trials["r2"].iloc[3]
    assert tie.best == {"factor": 1.0, "offset": 0.0, "unused": "b"}


SPACE = {
    "factor": {"low": 0.1, "high": 10.0, "log": True},
    "offset": {"low": -1, "high": 1, "step": 0.5},
    "layers": {"low": 1, "high": 4},
    "shape": {"choices": ["round", "flat"]},
}


def within(point):
    return (
        0.1 <= point["factor"] <= 10
        and point["offset"] in (-1, -0.5, 0, 0.5, 1)
        and point["layers"] in (1, 2, 3, 4)
        and point["shape"] in ("round", "flat")
        and point["depth"] in (2, 3)
    )


@pytest.mark.parametrize("method", ["random", "bayesian"])
def test_a_resumed_search_draws_what_an_unbroken_one_draws(tmp_path, method):
    class Stop(BaseException):
        pass

    def stop(what):
        done.append(what)
        if len(done) in (3, 5, 14):
            raise Stop

    how = {"grid": {"depth": [2, 3]}, "space": SPACE, "method": method, "trials": 16, "scored": 1}
    done: list[str] = []
    for _ in range(3):
        with pytest.raises(Stop):
            search(tmp_path / "t.sqlite", **how, progress=stop)
    resumed = search(tmp_path / "t.sqlite", **how)
    whole = search(tmp_path / "whole.sqlite", **how)
    assert resumed.trials.drop(columns="seconds").equals(whole.trials.drop(columns="seconds"))
    assert len(whole.trials) == 16
    assert all(within(json.loads(text)) for text in whole.trials["parameters"])
    assert whole.trials["parameters"].nunique() > 10
    # Fewer trials of the same search are its first ones.
    fewer = search(tmp_path / "t.sqlite", **{**how, "trials": 4})
    assert fewer.trials["parameters"].tolist() == whole.trials["parameters"].tolist()[:4]


def test_a_bayesian_search_ends_nearer_than_chance(tmp_path):
    space = {"factor": {"low": -20.0, "high": 20.0}}
    best = {}
    for method in ("random", "bayesian"):
        found = search(tmp_path / f"{method}.sqlite", {}, method, 30, space, scored=1)
        late = [abs(json.loads(text)["factor"] - 1) for text in found.trials["parameters"][15:]]
        best[method] = np.median(late)
    assert best["bayesian"] < best["random"] / 2


def test_a_point_drawn_twice_is_fitted_once(tmp_path):
    found = search(tmp_path / "t.sqlite", {"factor": [1.0, 2.0]}, "random", 8)
    assert len(found.trials) == 8
    assert len(SEEN) == 2 * len(FOLDS)


def test_the_first_point_takes_first_values_and_lowest_numbers():
    plan = ModelPlan(grid={"depth": [3, 1]}, space=SPACE)
    point = first_point(plan)
    assert point == {"depth": 3, "factor": 0.1, "offset": -1, "layers": 1, "shape": "round"}
    assert isinstance(point["layers"], int)
    assert number_of_trials(plan, Search(method="random", trials=9)) == 9
    assert number_of_trials(ModelPlan(grid={"a": [1, 2], "b": [1, 2]}), Search()) == 4


def test_optuna_keeps_its_verbosity(tmp_path):
    before = optuna.logging.get_verbosity()
    search(tmp_path / "t.sqlite")
    assert optuna.logging.get_verbosity() == before


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "t.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="is no store of trials; delete it and run again"):
        search(tmp_path / "t.sqlite")
