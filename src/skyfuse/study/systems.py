"""Labels that several catalogues state: how far these lie from each other, and what that allows a model.

Two systems a and b measure one quantity. Brought to one scale they differ by D, and where their errors are
independent of each other, D² = σa² + σb² in the mean. How D is shared out no pair can tell. What a model of
the labels a can reach lies between two cases:

- The errors are a's alone. Then no model that is right about the quantity comes closer to a than b does:
  RMSE ≥ D, R² ≤ 1 − D²/var(a).
- Both err alike. Then RMSE ≥ D/√2, R² ≤ 1 − D²/(2 var(a)), which is the correlation of the two: the
  reliability of parallel measurements (Spearman 1904, American Journal of Psychology 15, 72).

The errors that a catalogue states give a bound of their own. All of these are bounds under two assumptions.
Where both systems share an input, such as a flux or a distance, they err together and the true bound lies
lower. Where a model reads what label a was computed from, it can learn a part of a's errors and come closer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset.select import numbers
from skyfuse.errors import DataError
from skyfuse.study.compare import percentiles, resamples
from skyfuse.study.metrics import spread_of

if TYPE_CHECKING:
    from skyfuse.recipe import Task
    from skyfuse.study.tasks import Rows

LEAST = 20
"""Training objects with both systems below which no offset and scale can be told."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """The quantity of a label in one system.

    Attributes
    ----------
    value : ndarray, shape (n,)
        Of each row of the dataset's table, NaN where the system has none.
    error : ndarray, shape (n,), or None
        Its stated standard deviation, NaN where none is stated; None where the system states none at all.
    """

    value: Values
    error: Values | None


@dataclass(frozen=True)
class Line:
    """What brings one system to the scale of another.

    Attributes
    ----------
    offset, scale : float
    n : int
        Objects that told them.
    """

    offset: float
    scale: float
    n: int

    def __call__(self, value: Values) -> Values:
        """Return values of the one system on the scale of the other."""
        return self.offset + self.scale * value


def measured(task: Task, table: pd.DataFrame, label: Values) -> dict[str, Measured]:
    """Return the label and every other system that a task names, by column.

    Parameters
    ----------
    task : Task
    table : DataFrame
    label : ndarray, shape (n,)

    Raises
    ------
    DataError
        A column that the task names is missing or holds no numbers.
    """
    found = {task.label: Measured(label, _stated(table, task.error))}
    for name, system in task.systems.items():
        value = numbers(table, name).astype(np.float64)
        found[name] = Measured(np.where(np.isfinite(value), value, np.nan), _stated(table, system.error))
    return found


def _stated(table: pd.DataFrame, column: str | None) -> Values | None:
    """Return the errors that a column states; an error of 0 is none."""
    if column is None:
        return None
    error = numbers(table, column).astype(np.float64)
    return np.where(np.isfinite(error) & (error > 0), error, np.nan)


def line(value: Values, other: Values, names: Sequence[str]) -> Line:
    """Return what brings `other` to `value`: an offset and a scale that give both one mean and one spread.

    A regression of the one on the other would shrink the scale by the errors of the other.

    Parameters
    ----------
    value, other : ndarray, shape (n,)
        NaN where a system has no value.
    names : sequence of str
        Of the two, for errors.

    Raises
    ------
    DataError
        Too few objects have both, or the one does not rise with the other.
    """
    both = np.isfinite(value) & np.isfinite(other)
    n = int(np.count_nonzero(both))
    said = f"{n} training objects have both {names[0]} and {names[1]}"
    if n < LEAST:
        raise DataError(f"{said}, {LEAST} are needed", remedy="take it out of task.systems in the recipe")
    a, b = value[both], other[both]
    if not (a.std() > 0 and b.std() > 0 and np.corrcoef(a, b)[0, 1] > 0):
        raise DataError(
            f"{names[1]} does not rise with {names[0]}: {said}",
            remedy="name a column of the same quantity in task.systems",
        )
    scale = float(a.std() / b.std())
    return Line(float(a.mean() - scale * b.mean()), scale, n)


def lessons(
    systems: Mapping[str, Measured], label: str, learned: str, rounds: Sequence[Rows]
) -> tuple[Values, ...]:
    """Return the system that models learn, brought to the label in each round, each of shape (n,).

    Offset and scale are those of the round's own training part.
    """
    own, other = systems[label].value, systems[learned].value
    return tuple(line(own[rows["train"]], other[rows["train"]], (label, learned))(other) for rows in rounds)


def weights(systems: Mapping[str, Measured], task: Task, rounds: Sequence[Rows]) -> tuple[Values, ...]:
    """Return the weight of each row in each round; none where what is learned has no stated errors.

    It is V/(V + σ²), with V the variance of what the round's training part learns and σ the row's own error:
    the share of the variance that is not error.
    """
    learned = systems[task.learned or task.label]
    if learned.error is None:
        return ()
    found = []
    for rows in rounds:
        variance = float(np.var(learned.value[rows["train"]]))
        sigma = filled(learned.error, float(np.sqrt(variance)), rows["train"])
        found.append(variance / (variance + sigma**2) if variance > 0 else np.ones(len(sigma)))
    return tuple(found)


def filled(error: Values, spread: float, rows: NDArray[np.int64]) -> Values:
    """Return stated errors as every row needs one.

    None is larger than the spread of the labels, beyond which it says no more. Rows without one get the root
    mean square of the others, which leaves the mean of σ² as it is.

    Parameters
    ----------
    error : ndarray, shape (n,)
    spread : float
        Standard deviation of the labels.
    rows : ndarray of int64
        Whose errors stand for those that are missing.
    """
    known = np.minimum(error, spread)
    own = known[rows][np.isfinite(known[rows])]
    if not own.size:
        raise DataError("no object has a stated error", remedy="take task.error out of the recipe")
    return np.where(np.isfinite(known), known, np.sqrt(np.mean(own**2)))


def brought(
    systems: Mapping[str, Measured], a: str, b: str, rounds: Sequence[Rows]
) -> tuple[Values, list[Line]]:
    """Return system `b` on the scale of `a` for the test objects, by the line of each round's training part.

    Returns
    -------
    values : ndarray, shape (n,)
        NaN outside the test parts, and where `b` has none.
    lines : list of Line
    """
    values = np.full(len(systems[a].value), np.nan)
    lines = []
    for rows in rounds:
        train = rows["train"]
        own = line(systems[a].value[train], systems[b].value[train], (a, b))
        values[rows["test"]] = own(systems[b].value[rows["test"]])
        lines.append(own)
    return values, lines


def pairs(systems: Mapping[str, Measured], rounds: Sequence[Rows]) -> pd.DataFrame:
    """Return how far every two systems lie from each other on the test objects that have both.

    Returns
    -------
    DataFrame
        ``a``, ``b``; ``n`` test objects; ``offset`` and ``scale`` that bring b to a (mean over the rounds);
        ``raw``, the rms of a − b as stated; ``rms`` after offset and scale; ``stated``, the rms that the
        stated errors give, NaN where one of the two states none; ``correlation``. Of two systems beside the
        label that too few objects have, there is the number alone.
    """
    test = np.concatenate([rows["test"] for rows in rounds])
    label = next(iter(systems))
    found = []
    for a, b in combinations(systems, 2):
        first, second = systems[a], systems[b]
        own = test[np.isfinite(first.value[test]) & np.isfinite(second.value[test])]
        row: dict[str, Any] = {"a": a, "b": b, "n": len(own)}
        found.append(row)
        try:
            values, lines = brought(systems, a, b, rounds)
        except DataError:
            if a == label:
                raise
            continue
        x, y = first.value[own], second.value[own]
        row["offset"] = float(np.mean([one.offset for one in lines]))
        row["scale"] = float(np.mean([one.scale for one in lines]))
        row |= {
            "raw": _rms(x - y),
            "rms": _rms(x - values[own]),
            "correlation": float(np.corrcoef(x, y)[0, 1]),
        }
        if first.error is not None and second.error is not None:
            sigma = [
                filled(error, float(v.std()), own)[own] for error, v in ((first.error, x), (second.error, y))
            ]
            row["stated"] = _rms(np.hypot(sigma[0], row["scale"] * sigma[1]))
    columns = ("a", "b", "n", "offset", "scale", "raw", "rms", "stated", "correlation")
    return pd.DataFrame(found, columns=list(columns))


def ceilings(
    systems: Mapping[str, Measured],
    rounds: Sequence[Rows],
    tests: Mapping[str, pd.DataFrame],
    *,
    groups: NDArray[np.int64] | None,
    samples: int,
    seed: int,
) -> pd.DataFrame:
    """Return what models reach beside what other systems tell of the label, on the objects that have both.

    Parameters
    ----------
    systems : mapping of str to Measured
        The label first.
    rounds : sequence of dict
    tests : mapping of str to DataFrame
        Predictions for the test objects by cell, of one order.
    groups : ndarray of int64, shape (n,), optional
        See `skyfuse.study.compare.bootstrap`, as are `samples` and `seed`.

    Returns
    -------
    DataFrame
        ``cell``, ``system``, ``n``; ``r2``, ``rmse`` of the model; ``system_r2``, ``system_rmse`` of the
        system, brought to the label, in place of a model: the bound where all error is the label's;
        ``alike_r2``, ``alike_rmse``, the bound where both err alike; ``farther``, the model's RMSE less the
        system's, and ``distance``, alike_r2 − r2, each with ``_low`` and ``_high``.
    """
    label, *others = systems
    found = []
    for name in others:
        values, _ = brought(systems, label, name, rounds)
        first = next(iter(tests.values()))
        both = np.isfinite(values[first["row"]])
        if np.count_nonzero(both) < 2:
            continue
        truth, rows = (first.loc[both, key].to_numpy() for key in ("label", "row"))
        said = [values[rows], *(table.loc[both, "prediction"].to_numpy() for table in tests.values())]
        error = truth[:, None] - np.column_stack(said)
        r2, rmse = (score[0] for score in _scores(truth, error, np.ones((1, len(truth)))))
        counted = resamples(len(truth), None if groups is None else groups[rows], samples, seed)
        drawn = [_scores(truth, error, counts) for counts in counted]
        r2s, rmses = (np.concatenate(blocks) for blocks in zip(*drawn, strict=True))
        alike = {"alike_r2": (1 + r2[0]) / 2, "alike_rmse": rmse[0] / np.sqrt(2)}
        for k, cell in enumerate(tests, start=1):
            low, high = percentiles(rmses[:, k] - rmses[:, 0])
            row = {"cell": cell, "system": name, "n": len(rows), "r2": r2[k], "rmse": rmse[k]}
            row |= {"system_r2": r2[0], "system_rmse": rmse[0], **alike}
            row |= {"farther": rmse[k] - rmse[0], "farther_low": low, "farther_high": high}
            low, high = percentiles((1 + r2s[:, 0]) / 2 - r2s[:, k])
            row |= {"distance": alike["alike_r2"] - r2[k], "distance_low": low, "distance_high": high}
            found.append(row)
    return pd.DataFrame(found)


def _scores(truth: Values, error: Values, counts: Values) -> tuple[Values, Values]:
    """Return R² and RMSE of each resample and each column of errors, both of shape (samples, columns)."""
    squares = counts @ error**2
    spread, total = spread_of(truth, counts), counts.sum(axis=1)
    return 1 - squares / spread[:, None], np.sqrt(squares / total[:, None])


def _rms(values: Values) -> float:
    return float(np.sqrt(np.mean(values**2)))
