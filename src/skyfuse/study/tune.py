"""Grid search with cross-validation inside the training part, kept in a store that can be resumed.

Each grid point is fitted once for every fold: that fold scores, the next one stops the training early, the
others train. The fold that stops the training is never the one that scores, so that a long training with a
lucky moment gains nothing; validation and test parts are not touched at all.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import TrialState
from sqlalchemy.exc import DatabaseError

from skyfuse.errors import StoreError
from skyfuse.study.metrics import METRICS, score

if TYPE_CHECKING:
    from skyfuse.config import Scalar
    from skyfuse.models.base import Arrays, Model

TRIAL_COLUMNS = [
    "model",
    "fusion",
    "parameters",
    "folds",
    *METRICS,
    "r2_std",
    "r2_folds",
    "chosen",
    "seconds",
]
"""Columns of ``trials.parquet``; ``seconds`` is wall time, everything else follows from the seed."""


@dataclass(frozen=True)
class Tuning:
    """Result of one grid search.

    Attributes
    ----------
    best : dict
        Parameters with the highest mean R² over the folds; the first in grid order among equals.
    trials : DataFrame
        One row a grid point in grid order: parameters (JSON), the mean of each score over the folds, standard
        deviation and list of R², wall time in seconds.
    seconds : float
        Wall time of all trials together, of earlier interrupted runs too.
    """

    best: dict[str, Scalar]
    trials: pd.DataFrame
    seconds: float


def grid_points(grid: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    """Return every combination of a grid's values, the last parameter varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def take(arrays: Arrays, rows: NDArray[np.int64]) -> Arrays:
    """Return some objects of aligned arrays."""
    return {name: values[rows] for name, values in arrays.items()}


def tune(
    make: Callable[..., Model],
    fixed: Mapping[str, Scalar],
    grid: Mapping[str, Sequence[Scalar]],
    arrays: Arrays,
    label: NDArray[np.float64],
    folds: Sequence[NDArray[np.int64]],
    *,
    store: Path,
    name: str,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Tuning:
    """Try every point of a grid by cross-validation and return the best.

    Parameters
    ----------
    make : callable
        Model class, called with the parameters.
    fixed, grid : mapping
        Parameters that stay, and the values of those that are tuned.
    arrays : dict of ndarray
        Inputs of the training part.
    label : ndarray, shape (n,)
        Labels of the training part.
    folds : sequence of ndarray of int64
        Positions in `label`, a partition; at least three.
    store : path
        SQLite file; points that it holds already under `name` are not fitted again.
    name : str
        Name of this search in the store; must change whenever data or parameters do.
    seed : int
        Seed of every fit.
    progress : callable, optional
        Called with a description after each trial.

    Returns
    -------
    Tuning

    Raises
    ------
    StoreError
        The store is no SQLite file of trials.
    """
    points = grid_points(grid)
    with _trials(store, name) as study:

        def objective(trial: optuna.Trial) -> float:
            point = {
                key: cast("Scalar", trial.suggest_categorical(key, list(values)))
                for key, values in grid.items()
            }
            started = time.perf_counter()
            scores = _cross_validated(make, {**fixed, **point}, arrays, label, folds, seed)
            trial.set_user_attr("scores", scores)
            trial.set_user_attr("seconds", time.perf_counter() - started)
            if progress is not None:
                progress(", ".join(f"{key} {value}" for key, value in point.items()))
            return float(np.mean(scores["r2"]))

        # Points are queued by hand: Optuna's grid sampler counts an interrupted trial as visited, so that a
        # resumed search would miss its point. One at a time: a queue left by a killed run would run twice.
        while missing := [point for point in points if json.dumps(point) not in _found(study)]:
            if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                study.enqueue_trial(missing[0])
            study.optimize(objective, n_trials=1)
        found = _found(study)
    rows: list[dict[str, Any]] = []
    for point in points:
        trial = found[json.dumps(point)]
        scores = trial.user_attrs["scores"]
        rows.append(
            {
                "parameters": json.dumps(point),
                "folds": len(folds),
                **{metric: float(np.mean(scores[metric])) for metric in METRICS},
                "r2_std": float(np.std(scores["r2"])),
                "r2_folds": list(scores["r2"]),
                "seconds": trial.user_attrs["seconds"],
            }
        )
    best = int(np.argmax([row["r2"] for row in rows]))
    for index, row in enumerate(rows):
        row["chosen"] = index == best
    trials = pd.DataFrame(rows)
    return Tuning(points[best], trials, float(trials["seconds"].sum()))


def _cross_validated(
    make: Callable[..., Model],
    parameters: Mapping[str, Scalar],
    arrays: Arrays,
    label: NDArray[np.float64],
    folds: Sequence[NDArray[np.int64]],
    seed: int,
) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for k, held in enumerate(folds):
        stop = folds[(k + 1) % len(folds)]
        train = np.concatenate([fold for j, fold in enumerate(folds) if j not in (k, (k + 1) % len(folds))])
        model = make(**parameters)
        model.fit(take(arrays, train), label[train], take(arrays, stop), label[stop], seed=seed + k)
        result = score(label[held], model.predict(take(arrays, held)).value)
        for metric, value in result._asdict().items():
            scores[metric].append(value)
    return scores


def _found(study: optuna.Study) -> dict[str, optuna.trial.FrozenTrial]:
    """Return the finished trials of a search by their point."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {json.dumps(trial.params): trial for trial in finished}


@contextmanager
def _trials(store: Path, name: str) -> Iterator[optuna.Study]:
    """Open a search in the store, with Optuna's own log lines off meanwhile; close every connection after."""
    verbosity = optuna.logging.get_verbosity()
    # Optuna logs each trial at INFO; the progress bar says the same.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{store}")
        except DatabaseError as error:
            raise StoreError("is no store of trials", remedy="delete it and run again", path=store) from error
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                # Every point is queued, so nothing is ever sampled.
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
            # What a killed run left half-done would stay "running" for ever.
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()
    finally:
        optuna.logging.set_verbosity(verbosity)
