"""Search for parameters by cross-validation inside the training part, kept in a store that can be resumed.

Each point is fitted once for every fold: that fold scores, the next one stops the training early, the
others train. The fold that stops the training is never the one that scores, so that a long training with a
lucky moment gains nothing; validation, calibration and test parts are not touched at all.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from skyfuse.disk import is_of_disk
from skyfuse.errors import StoreError
from skyfuse.study.compare import ranked

if TYPE_CHECKING:
    from skyfuse.models.inputs import Arrays
    from skyfuse.recipe import ModelPlan, Scalar, Search

COLUMNS = (
    "method",
    "number",
    "parameters",
    "folds",
    "score",
    "score_std",
    "score_folds",
    "chosen",
    "seconds",
)
"""Columns of every table of trials, before the scores by name."""


@dataclass(frozen=True)
class Fold:
    """Objects of one fit of a cross-validation, as positions in the training part.

    Attributes
    ----------
    train, stop, held : ndarray of int64
        Those that are fitted, those that decide when the fit stops, and those that score it.
    """

    train: NDArray[np.int64]
    stop: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True)
class Store:
    """Where the trials of a search are kept.

    Attributes
    ----------
    path : Path
        SQLite file; points that it holds already under `name` are not fitted again.
    name : str
        Name of the search in it; must change whenever data or parameters do.
    """

    path: Path
    name: str


Judge = Callable[[dict[str, Any], Fold, int], dict[str, float | None]]
"""Fits parameters on the objects of a fold and returns the scores of those that it holds; with a seed."""


@dataclass(frozen=True)
class Tuning:
    """Result of one search.

    Attributes
    ----------
    best : dict
        Parameters with the highest mean score over the folds; the first tried among equals.
    trials : DataFrame
        One row a point in the order of trying: method, number, parameters (JSON), folds, the mean, standard
        deviation and list of the primary score over the folds, chosen, wall time in seconds, and the mean of
        each score by name, over the folds in which it has a meaning.
    seconds : float
        Wall time of all trials together, of earlier interrupted runs too.
    """

    best: dict[str, Scalar]
    trials: pd.DataFrame
    seconds: float


def grid_points(grid: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    """Return every combination of a grid's values, the last parameter varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def number_of_trials(plan: ModelPlan, search: Search) -> int:
    """Return how many points a search tries."""
    return len(grid_points(plan.grid)) if search.method == "grid" else search.trials


def first_point(plan: ModelPlan) -> dict[str, Scalar]:
    """Return one point that the plan allows: the first values of the grid, the lowest of the space."""
    space = {
        name: one.choices[0] if one.choices else cast("Scalar", one.low) for name, one in plan.space.items()
    }
    whole = {
        name: int(value) if isinstance(value, float) and _is_whole(plan, name) else value
        for name, value in space.items()
    }
    return {**{name: values[0] for name, values in plan.grid.items()}, **whole}


def _is_whole(plan: ModelPlan, name: str) -> bool:
    one = plan.space[name]
    return not one.choices and all(
        number is None or float(number).is_integer() for number in (one.low, one.high, one.step)
    )


def take(arrays: Arrays, rows: NDArray[np.int64]) -> Arrays:
    """Return some objects of aligned arrays."""
    return {name: values[rows] for name, values in arrays.items()}


def tune(
    plan: ModelPlan,
    search: Search,
    judge: Judge,
    folds: Sequence[NDArray[np.int64]],
    *,
    primary: str,
    store: Store,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Tuning:
    """Try points of a model's grid and space by cross-validation and return the best.

    Parameters
    ----------
    plan : ModelPlan
        What is fixed and what is tuned.
    search : Search
        How.
    judge : callable
        See `Judge`.
    folds : sequence of ndarray of int64
        Positions in the training part, a partition; at least three.
    primary : str
        The score that chooses, higher is better.
    store : Store
    seed : int
        Seed of every fit and of what is drawn: trial k of a resumed search is that of an unbroken one.
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
    wanted = number_of_trials(plan, search)
    points = grid_points(plan.grid) if search.method == "grid" else None
    with _trials(store) as study:
        while len(done := _finished(study)) < wanted:
            study.sampler = _sampler(search.method, seed, len(done))
            if points is not None:
                # Optuna's grid sampler counts an interrupted trial as visited, so that a resumed search
                # would miss its point; and a queue left by a killed run would run twice.
                found = {json.dumps(trial.params) for trial in done}
                missing = next(point for point in points if json.dumps(point) not in found)
                if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    study.enqueue_trial(missing)
            trial = study.ask()
            point = _suggested(trial, plan)
            started = time.perf_counter()
            # Draws among choices repeat themselves; the fit would say the same again.
            known = [old for old in done if old.params == trial.params]
            scores = (
                known[0].user_attrs["scores"]
                if known
                else _cross_validated(judge, {**plan.fixed, **point}, folds, search.scored, seed)
            )
            trial.set_user_attr("scores", scores)
            trial.set_user_attr("seconds", time.perf_counter() - started)
            if progress is not None:
                progress(", ".join(f"{key} {_short(value)}" for key, value in point.items()))
            # The store takes no NaN: a point that no fold can score is behind all others.
            study.tell(trial, ranked(_mean(scores[primary])))
        found_trials = _finished(study)[:wanted]
    if points is not None:
        by_point = {json.dumps(trial.params): trial for trial in found_trials}
        found_trials = [by_point[json.dumps(point)] for point in points]
    rows = [_row(trial, search.method, k, primary) for k, trial in enumerate(found_trials)]
    best = int(np.argmax([ranked(row["score"]) for row in rows]))
    for index, row in enumerate(rows):
        row["chosen"] = index == best
    trials = pd.DataFrame(rows)
    return Tuning(dict(found_trials[best].params), trials, float(trials["seconds"].sum()))


def _row(trial: optuna.trial.FrozenTrial, method: str, number: int, primary: str) -> dict[str, Any]:
    scores = trial.user_attrs["scores"]
    values = {
        "method": method,
        "number": number,
        "parameters": json.dumps(trial.params),
        "folds": len(scores[primary]),
        "score": _mean(scores[primary]),
        "score_std": float(np.std(known)) if (known := _known(scores[primary])) else np.nan,
        "score_folds": [np.nan if score is None else score for score in scores[primary]],
        "chosen": False,
        "seconds": trial.user_attrs["seconds"],
    }
    return {**values, **{metric: _mean(each) for metric, each in scores.items()}}


def _known(scores: Sequence[float | None]) -> list[float]:
    return [score for score in scores if score is not None]


def _mean(scores: Sequence[float | None]) -> float:
    """Return the mean over the folds whose score has a meaning, NaN where none has."""
    known = _known(scores)
    return float(np.mean(known)) if known else np.nan


def _short(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sampler(method: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return a sampler that depends on the trial's number alone, so that a resumed search draws the same."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if method == "bayesian":
        with warnings.catch_warnings():
            # "multivariate" is announced as experimental; it models the parameters together.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=own, multivariate=True)
    return optuna.samplers.RandomSampler(seed=own)


def _suggested(trial: optuna.Trial, plan: ModelPlan) -> dict[str, Scalar]:
    point: dict[str, Scalar] = {}
    for name, values in plan.grid.items():
        point[name] = cast("Scalar", trial.suggest_categorical(name, list(values)))
    for name, one in plan.space.items():
        if one.choices:
            point[name] = cast("Scalar", trial.suggest_categorical(name, list(one.choices)))
        elif one.low is not None and one.high is not None:
            if _is_whole(plan, name):
                step = 1 if one.step is None else int(one.step)
                point[name] = trial.suggest_int(name, int(one.low), int(one.high), step=step, log=one.log)
            else:
                point[name] = trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    return point


def _cross_validated(
    judge: Judge,
    parameters: dict[str, Any],
    folds: Sequence[NDArray[np.int64]],
    scored: int | None,
    seed: int,
) -> dict[str, list[float | None]]:
    scores: dict[str, list[float | None]] = {}
    for k, held in enumerate(folds[:scored]):
        stop = folds[(k + 1) % len(folds)]
        train = np.concatenate([fold for j, fold in enumerate(folds) if j not in (k, (k + 1) % len(folds))])
        for metric, value in judge(parameters, Fold(train, stop, held), seed + k).items():
            scores.setdefault(metric, []).append(value)
    return scores


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the finished trials of a search in their order."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@contextmanager
def _trials(store: Store) -> Iterator[optuna.Study]:
    """Open a search in the store, with Optuna's own log lines off meanwhile; close every connection after."""
    verbosity = optuna.logging.get_verbosity()
    # Optuna logs each trial at INFO; the progress bar says the same.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{store.path}")
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=store.name,
                direction="maximize",
                load_if_exists=True,
            )
            # What a killed run left half-done would stay "running" for ever.
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (StorageInternalError, SQLAlchemyError) as error:
        raise _unusable(error, store.path) from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def _unusable(error: BaseException, store: Path) -> StoreError:
    """Return what is wrong with a store: its disk, or itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error):
        cause = cause.__cause__
    if is_of_disk(cause):
        return StoreError(
            f"cannot be read or written ({cause})",
            remedy="check the free disk space and the permissions of its folder; the same command goes on",
            path=store,
        )
    return StoreError("is no store of trials", remedy="delete it and run again", path=store)
