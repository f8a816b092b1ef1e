import json
import sqlite3
from typing import ClassVar

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import StoreError
from skyfuse.models.base import Prediction
from skyfuse.study.metrics import score
from skyfuse.study.tune import grid_points, take, tune

RNG = np.random.default_rng(0)
X = {"spectrum": RNG.normal(size=(50, 3)).astype(np.float32)}
Y = X["spectrum"][:, 0].astype(float) + 0.1 * RNG.normal(size=50)
FOLDS = [np.arange(50)[k::5] for k in range(5)]


class Scaled:
    """Predicts the first feature times a parameter; keeps what it was shown."""

    seen: ClassVar[list] = []

    def __init__(self, *, factor, offset=0.0, unused=None):
        self.factor, self.offset = factor, offset

    def fit(self, train, y, valid, y_valid, *, seed):
        Scaled.seen.append((train["spectrum"][:, 1], valid["spectrum"][:, 1], seed))
        self.y = y

    def predict(self, x):
        Scaled.seen[-1] += (x["spectrum"][:, 1],)
        return Prediction(self.factor * x["spectrum"][:, 0].astype(float) + self.offset)


@pytest.fixture(autouse=True)
def _forget():
    Scaled.seen = []


def search(store, grid=None, **more):
    grid = grid or {"factor": [0.5, 1.0, 2.0]}
    return tune(Scaled, {}, grid, X, Y, FOLDS, **{"store": store, "name": "a", "seed": 7, **more})


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
    expected = [score(Y[fold], X["spectrum"][fold, 0].astype(float)) for fold in FOLDS]
    row = found.trials.iloc[1]
    assert row["r2"] == pytest.approx(np.mean([s.r2 for s in expected]))
    assert row["nmad"] == pytest.approx(np.mean([s.nmad for s in expected]))
    assert row["r2_folds"] == pytest.approx([s.r2 for s in expected])
    assert row["r2_std"] == pytest.approx(np.std([s.r2 for s in expected]))


def test_the_fold_that_scores_neither_trains_nor_stops(tmp_path):
    search(tmp_path / "t.sqlite", {"factor": [1.0, 2.0]})
    assert len(Scaled.seen) == 2 * len(FOLDS)
    marks = X["spectrum"][:, 1]
    for train, stop, seed, held in Scaled.seen:
        parts = [set(train.tolist()), set(stop.tolist()), set(held.tolist())]
        assert sum(len(part) for part in parts) == 50
        assert set.union(*parts) == set(marks.tolist())
        assert 7 <= seed < 12


def test_a_finished_search_fits_nothing_again(tmp_path):
    first = search(tmp_path / "t.sqlite")
    Scaled.seen = []
    again = search(tmp_path / "t.sqlite")
    assert Scaled.seen == []
    assert again.best == first.best
    assert again.trials.equals(first.trials)


def test_another_name_is_another_search(tmp_path):
    search(tmp_path / "t.sqlite")
    Scaled.seen = []
    search(tmp_path / "t.sqlite", name="b")
    assert len(Scaled.seen) == 3 * len(FOLDS)


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
    Scaled.seen = []
    resumed = search(tmp_path / "t.sqlite")
    assert len(Scaled.seen) == 2 * len(FOLDS)
    whole = search(tmp_path / "whole.sqlite")
    assert resumed.best == whole.best
    assert resumed.trials.drop(columns="seconds").equals(whole.trials.drop(columns="seconds"))


def test_a_trial_left_running_by_a_killed_process_is_run_again(tmp_path):
    search(tmp_path / "t.sqlite")
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
    connection.close()
    Scaled.seen = []
    assert search(tmp_path / "t.sqlite").best == {"factor": 1.0}
    assert len(Scaled.seen) == len(FOLDS)


def test_equal_points_leave_the_first(tmp_path):
    tie = search(tmp_path / "t.sqlite", {"factor": [2.0, 1.0], "offset": [0.0], "unused": ["b", "a"]})
    assert tie.trials["r2"].iloc[2] == tie.trials["r2"].iloc[3]
    assert tie.best == {"factor": 1.0, "offset": 0.0, "unused": "b"}


def test_optuna_keeps_its_verbosity(tmp_path):
    before = optuna.logging.get_verbosity()
    search(tmp_path / "t.sqlite")
    assert optuna.logging.get_verbosity() == before


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "t.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="is no store of trials; delete it and run again"):
        search(tmp_path / "t.sqlite")
