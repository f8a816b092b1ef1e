"""A look at the data for inputs that give the label away, whatever they are called.

A recipe names columns that carry the answer (`task.forbidden`); this finds those that do so under any name.
On the training part alone, and on one object of each group, each input is asked how much of the label it
tells by itself: objects are put in its order, and each is compared with its neighbours; nothing is fitted.

- Numbers: with the ranks r of the labels in that order and dᵢ = rᵢ − (rᵢ₋₁ + rᵢ₊₁)/2, the input leaves a
  scatter of variance (2/3)·mean(dᵢ²) (Gasser, Sroka & Jennen-Steinmetz 1986, Biometrika 73, 625). The score
  is one minus its share of the variance of r: the R² of the best smooth curve, monotone or not, in any units.
  Columns of a table may be told by the label in this way, too: bins and folds of it, which do not tell all of
  it.
- Classes: the number of runs of equal labels in that order (Wald & Wolfowitz 1940). K runs score 1, the
  n(1 − Σp²) + 1 that chance makes score 0; of two classes of one size, 1 % of wrong ones cost 0.04.

Each counts the objects in which the input has a value: a copy with holes is a copy. What no single input
tells, several may:

- Pairs of columns by a linear fit, each side plain or in logarithms: sums, differences, products, ratios, a
  label cut into whole part and fraction.
- Up to `FEW` columns by a linear fit, all plain or all in logarithms, that leaves nothing but rounding on
  objects which it has not seen: a formula.
- Classes: columns of which each tells one class from all others: a one-hot code, shares of votes.
- Columns with at most `FEW` values together, by a tree of few leaves that is scored on objects which it has
  not seen: bits, digits.

The levels are above what measurements allow. A label known to a tenth of its spread, as rates, masses and
temperatures are, cannot be told better than R² = 0.99 by anything that was measured without it; of classes
that pipelines or eyes give, about one in a hundred is wrong, which scores 0.97. Where an input may honestly
reach the level, the recipe names it in `trusted`. Of pixels and bins, whose light models are made to read,
only an exact copy of a number is refused; what else reaches the level is told.

Not found are: three columns or more of many values that tell the label only together, by a sum with noise or
by what is no sum or product, and two that so tell one of many classes; a code that several pixels or bins
share, or that stands in the last digits of a number; bits of which few objects have all; a copy with noise
above a tenth of the label's spread; a column that tells one of several classes; and anything in fewer than
`LEAST` training objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from skyfuse.errors import DataError
from skyfuse.recipe import Recipe
from skyfuse.study.tasks import Target

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

LEVEL = {"regression": 0.99, "classification": 0.97}
"""Score from which an input gives the label away, by kind of task."""
EXACT = {"regression": 0.9999, "classification": np.inf}
"""The same for a pixel or bin, which measures nothing but light: a bright line tells a redshift to 0.999, and
where classes differ in brightness one pixel tells them apart; and for sums of many columns, which a mass may
honestly come close to."""
LEAST = 50
"""Training objects below which nothing can be told."""
MOST = 2000
"""Training objects that are looked at, drawn at random."""
FEW = 16
"""Values of a column up to which it may be part of a code; columns that a formula has at most."""

_FIRST, _HOPEFUL = 200, 0.1
_SHARE = {"regression": 0.9, "classification": 0.3}
_SURE = 8
_BLOCK = 1 << 22
_SHOWN = 5
_REPORTED = 10

Score = Callable[[NDArray[Any]], NDArray[np.float64]]
"""Gives the scores of inputs, shape (n, inputs)."""


@dataclass(frozen=True)
class Finding:
    """How much of the label an input tells.

    Attributes
    ----------
    inputs : tuple of str
        Names: columns, or e.g. ``spectrum at zoom 3, bin 17``.
    score : float
        1 where they give the label exactly, about 0 where they tell nothing.
    allowed : bool
        Whether the recipe trusts them, or asks for them as leaking.
    level : float
        Score from which they give it away.
    """

    inputs: tuple[str, ...]
    score: float
    allowed: bool
    level: float


def look(recipe: Recipe, dataset: Dataset, goal: Target) -> list[Finding]:
    """Return what each input tells by itself, and those that tell the label together, highest score first.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
    goal : Target

    Returns
    -------
    list of Finding
        All columns of the table; of arrays the highest of each zoom that a model reads. Empty for a
        reconstruction, which has no label, and with fewer than `LEAST` objects.
    """
    rows = _rows(goal)
    if recipe.task.kind == "reconstruction" or len(rows) < LEAST:
        return []
    # Equal values stay in the order of the objects, which must not be that of the labels.
    rows = np.random.default_rng(recipe.seed).permutation(rows)[:MOST]
    label = goal.label[rows]
    level = LEVEL[recipe.task.kind]
    if len(np.unique(label)) < 2:
        return []
    found = []
    table = recipe.table()
    if table is not None:
        values = dataset.inputs({table: 0}, rows, columns=goal.leaky)[table].astype(np.float64)
        own = [_allows(recipe, goal, name) for name in goal.leaky]
        found += of_columns(values, dict(zip(goal.leaky, own, strict=True)), label, goal.classes, level)
    for name, zoom in _arrays(recipe):
        best = _best(dataset, name, zoom, rows, label, goal.classes, level)
        found.append(Finding((best[0],), best[1], name in recipe.trusted, EXACT[recipe.task.kind]))
    return sorted(found, key=lambda one: -one.score)


def of_columns(
    values: NDArray[np.float64],
    names: Mapping[str, bool],
    label: NDArray[Any],
    classes: Sequence[str],
    level: float,
) -> list[Finding]:
    """Return what each column of a table tells by itself, and those that tell the label together.

    Parameters
    ----------
    values : ndarray, shape (n, columns)
        NaN where missing.
    names : mapping of str to bool
        Names of the columns, and whether each is allowed to tell the label.
    label : ndarray, shape (n,)
        Numbers, or indices into `classes`; in an order that has nothing to do with the values.
    classes : sequence of str
        Empty for numbers.
    level : float
        Score from which a column gives the label away.
    """
    alone = _score_of(label, classes)(values)
    if not classes:
        alone = np.maximum(alone, made_of_numbers(values, label))
    found = [
        Finding((name,), float(score), allowed, level)
        for (name, allowed), score in zip(names.items(), alone, strict=True)
    ]
    # What tells the label alone does so with any other, too.
    rest = [i for i, one in enumerate(found) if not one.allowed and not gives(one)]
    return found + _together(values[:, rest], [found[i].inputs[0] for i in rest], label, classes, level)


def refuse(found: Sequence[Finding], recipe: Recipe, dataset: Dataset) -> None:
    """Raise an error if an input gives the label away and the recipe does not allow it.

    Raises
    ------
    DataError
        Names the inputs and their scores.
    """
    told = [one for one in found if gives(one) and not one.allowed]
    if not told:
        return
    named = [f"{' with '.join(one.inputs)} ({one.score:.4f})" for one in told[:_SHOWN]]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    raise DataError(
        f"inputs give the label {recipe.task.label} away: {', '.join(named)}{more}, where 1 is exactly and "
        f"no honest measurement reaches {min(one.level for one in told)}",
        remedy="take them out of the recipe's columns, or name them in trusted if measured without the label",
        path=dataset.path,
    )


def notes(found: Sequence[Finding], recipe: Recipe) -> tuple[str, ...]:
    """Return a line for each input that gives the label away and is allowed, or is light that may."""
    lines = []
    for one in found:
        told = f"{' with '.join(one.inputs)} gives the label away ({one.score:.4f} of 1)"
        if one.allowed and gives(one):
            lines.append(f"{told}, and the recipe allows it")
        elif not one.allowed and one.score >= LEVEL[recipe.task.kind]:
            lines.append(f"{told}, as light may: see that it was measured without the label")
    return tuple(lines)


def gives(one: Finding) -> bool:
    """Tell whether a finding reaches its level."""
    return one.score >= one.level


def summary(found: Sequence[Finding], recipe: Recipe) -> dict[str, Any]:
    """Return the highest scores as plain values for JSON, with the level from which inputs are refused."""
    return {
        "level": LEVEL.get(recipe.task.kind),
        "inputs": [
            {"input": " with ".join(one.inputs), "score": one.score, "allowed": one.allowed}
            for one in found[:_REPORTED]
        ],
    }


def _allows(recipe: Recipe, goal: Target, column: str) -> bool:
    return column not in goal.columns or any(fnmatchcase(column, name) for name in recipe.trusted)


def _rows(goal: Target) -> NDArray[np.int64]:
    """Return training rows, one of each group: epochs of one object share its label and its values."""
    rows = goal.rows["train"]
    if goal.groups is None:
        return rows
    return rows[np.sort(np.unique(goal.groups[rows], return_index=True)[1])]


def _arrays(recipe: Recipe) -> Iterator[tuple[str, int]]:
    for name, one in recipe.inputs.items():
        if one.kind != "table":
            for zoom in sorted({recipe.reference_of(name), *recipe.zooms.get(name, ())}):
                yield name, zoom


def _score_of(label: NDArray[Any], classes: Sequence[str]) -> Score:
    if classes:
        return lambda values: told_of_classes(values, label)
    return lambda values: told_of_numbers(values, label)


def told_of_numbers(values: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much of a label that is a number each input tells, of the objects in which it has a value.

    Parameters
    ----------
    values : ndarray, shape (n, inputs)
        NaN where missing; an input with fewer than `LEAST` values tells nothing.
    label : ndarray, shape (n,)
        In an order that has nothing to do with the values.

    Returns
    -------
    ndarray of float64, shape (inputs,)
    """
    if len(label) < LEAST:
        return np.zeros(values.shape[1])
    in_order = rankdata(label)[np.argsort(values, axis=0, kind="stable")]
    known = np.count_nonzero(~np.isnan(values), axis=0)
    number = np.maximum(known, LEAST)
    among = np.arange(len(label))[:, None] < known
    mean = np.sum(in_order, axis=0, where=among) / number
    spread = np.sum((in_order - mean) ** 2, axis=0, where=among) / number
    away = in_order[1:-1] - (in_order[:-2] + in_order[2:]) / 2
    scatter = np.sum(away**2, axis=0, where=among[2:]) / (number - 2)
    share = np.divide((2 / 3) * scatter, spread, out=np.ones(len(known)), where=spread > 0)
    return np.where(known >= LEAST, 1 - share, 0.0)


def made_of_numbers(values: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much the label tells of each input with three values or more.

    Bins and folds of a label do not tell all of it, and are made of it; what was measured without it is not
    told by it to this level. Arguments and result as of `told_of_numbers`.
    """
    made = np.zeros(values.shape[1])
    for i, column in enumerate(values.T):
        known = ~np.isnan(column)
        if len(np.unique(column[known])) > 2:
            made[i] = told_of_numbers(label[known, None], column[known])[0]
    return made


def told_of_classes(values: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much of a class each input tells; arguments and result as of `told_of_numbers`.

    Of all objects, with those that have no value as one more run, or of those that have one: the higher.
    """
    n = len(label)
    codes, counts = np.unique(label, return_counts=True)
    in_order = label[np.argsort(values, axis=0, kind="stable")]
    changes = in_order[1:] != in_order[:-1]
    told = _runs(1 + np.count_nonzero(changes, axis=0), counts[:, None], 1)
    known = np.count_nonzero(~np.isnan(values), axis=0)
    some = np.flatnonzero((known < n) & (known >= LEAST))
    if len(some):
        among = np.arange(n)[:, None] < known[some]
        own = np.array([np.count_nonzero((in_order[:, some] == code) & among, axis=0) for code in codes])
        runs = 1 + np.count_nonzero(changes[:, some] & among[1:], axis=0)
        told[some] = np.maximum(told[some], _runs(runs, own, _SURE))
    return told


def _runs(runs: NDArray[np.int64], counts: NDArray[np.int64], least: int) -> NDArray[np.float64]:
    """Return the scores of numbers of runs, shape (inputs,), of classes with counts of shape (classes, any).

    Where chance makes fewer than ``least`` runs more than there are classes, the score is 0.
    """
    number = np.maximum(counts.sum(axis=0), 1)
    present = np.count_nonzero(counts, axis=0)
    over = 1 + number - np.sum(counts.astype(np.float64) ** 2, axis=0) / number - present
    score = 1 - (runs - present) / np.maximum(over, 1)
    return np.asarray(np.where((over < least) & (least > 1), 0.0, score), dtype=np.float64)


def _together(
    values: NDArray[np.float64],
    names: Sequence[str],
    label: NDArray[Any],
    classes: Sequence[str],
    level: float,
) -> list[Finding]:
    """Return the columns that tell the label together and not alone."""
    pairs = _pairs(values, label, classes, level)
    found = [
        Finding((names[i], names[j]), told, allowed=False, level=level) for (i, j), told in pairs.items()
    ]
    if classes:
        score, used = _each_class(values, label, level)
        if score >= level:
            found.append(Finding(tuple(names[i] for i in used), score, allowed=False, level=level))
    else:
        exact = EXACT["regression"]
        rest = [i for i in range(len(names)) if not any(i in pair for pair in pairs)]
        score, used = of_sums(values[:, rest], label, exact)
        if score >= exact and len(used) <= FEW:
            inputs = tuple(names[rest[i]] for i in used)
            found.append(Finding(inputs, score, allowed=False, level=exact))
    few = [i for i in range(len(names)) if 1 < len(np.unique(values[:, i])) <= FEW]
    if len(few) > 1:
        score, used = _coded(values[:, few], label, classes)
        whole = ~np.isnan(values[:, few]).any(axis=1)
        if score < level and 2 * LEAST <= np.count_nonzero(whole) < len(label):
            score, used = _coded(values[whole][:, few], label[whole], classes)
        if score >= level:
            found.append(Finding(tuple(names[few[i]] for i in used), score, allowed=False, level=level))
    return found


def _each_class(values: NDArray[np.float64], label: NDArray[Any], level: float) -> tuple[float, list[int]]:
    """Return how much columns tell that each tell one class from all others, and the columns."""
    codes, counts = np.unique(label, return_counts=True)
    if len(codes) < 3 or not values.shape[1]:
        return 0.0, []
    told = np.array([told_of_classes(values, label == code) for code in codes])
    best = told.argmax(axis=1)
    sure = (told.max(axis=1) >= level) & (counts > _SURE // 2)
    # What is in none of the classes that are told apart counts as the largest of the others.
    wrong = (counts[~sure].sum() - max(counts[~sure], default=0)) / len(label)
    return _of_wrong(wrong, counts), sorted({int(i) for i in best[sure]})


def _of_wrong(wrong: float, counts: NDArray[np.int64]) -> float:
    """Return a share of wrong classes on the scale of the runs: each wrong object makes two more of them."""
    return 1 - 2 * float(wrong) / float(1 - np.sum((counts / counts.sum()) ** 2))


def of_sums(values: NDArray[np.float64], label: NDArray[np.float64], level: float) -> tuple[float, list[int]]:
    """Return how much a linear fit of many columns tells of a number, and few columns that tell so much.

    All columns are plain or all in logarithms, and so is the label. Each fit is made on one half of the
    objects that have all values and scored on the other; columns that many objects lack are left out.

    Parameters
    ----------
    values : ndarray, shape (n, columns)
        NaN where missing.
    label : ndarray, shape (n,)
        In an order that has nothing to do with the values.
    level : float
        Score below which nothing is found.

    Returns
    -------
    score : float
        0 where it is below the level.
    columns : list of int
        Without any of them the score is below the level.
    """
    for x in _sides(values):
        columns, rows = _known_together(x)
        if len(columns) < 2:
            continue
        for y in _targets(label):
            score, used = _summed(x[rows][:, columns], y[rows], level)
            if used:
                return score, sorted(columns[i] for i in used)
    return 0.0, []


def _known_together(x: NDArray[np.float64]) -> tuple[list[int], NDArray[np.int64]]:
    """Return columns, those with the fewest gaps, and the rows that have them all: many for each of them."""
    known = np.isfinite(x)
    whole = np.ones(len(x), bool)
    columns: list[int] = []
    for column in np.argsort(-known.sum(axis=0), kind="stable").tolist():
        left = whole & known[:, column]
        if left.sum() < max(2 * LEAST, 6 * (len(columns) + 1)):
            break
        if np.ptp(x[left, column]) > 0:
            columns, whole = [*columns, column], left
    return columns, np.flatnonzero(whole)


def _summed(x: NDArray[np.float64], y: NDArray[np.float64], level: float) -> tuple[float, list[int]]:
    """Return the score of a linear fit, and the columns that are left once none can be missed."""
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), np.finfo(np.float64).tiny)
    half = len(x) // 2

    def fitted(columns: Sequence[int]) -> tuple[float, NDArray[Any]]:
        design = np.column_stack([np.ones(len(x)), x[:, columns]])
        weights = np.linalg.lstsq(design[:half], y[:half], rcond=None)[0]
        return float(told_of_numbers(design[half:] @ weights[:, None], y[half:])[0]), weights[1:]

    score, weights = fitted(range(x.shape[1]))
    if score < level:
        return 0.0, []
    order = np.argsort(-np.abs(weights)).tolist()
    used = next(order[:n] for n in range(1, len(order) + 1) if fitted(order[:n])[0] >= level)
    for column in used[::-1]:
        if len(used) > 1 and fitted(without := [one for one in used if one != column])[0] >= level:
            used = without
    return fitted(used)[0], used


def _sides(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return columns plain and in logarithms."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return [values, np.log(np.where(values > 0, values, np.nan))]


def _targets(label: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return a number plain and, where it is positive, in logarithms."""
    return [label, np.log(label)] if (label > 0).all() else [label]


def _pairs(
    values: NDArray[np.float64], label: NDArray[Any], classes: Sequence[str], level: float
) -> dict[tuple[int, int], float]:
    """Return how much pairs of columns tell of which a linear fit does, each side plain or in logarithms."""
    found: dict[tuple[int, int], float] = {}
    if classes:
        codes = np.unique(label)
        targets = [(label == code).astype(np.float64) for code in (codes[1:] if len(codes) == 2 else codes)]
    else:
        targets = _targets(label)
    score = _score_of(label, classes)
    for x in _sides(values):
        for y in targets:
            for i, j in _hopeful(x, y, _SHARE["classification" if classes else "regression"]):
                pair = x[:, [i, j]]
                whole = np.isfinite(pair).all(axis=1)
                design = np.column_stack([pair[whole], np.ones(np.count_nonzero(whole))])
                weights = np.linalg.lstsq(design, y[whole], rcond=None)[0]
                fit = np.full((len(y), 1), np.nan)
                fit[whole, 0] = design @ weights
                told = float(score(fit)[0])
                if told >= level and told > found.get((i, j), 0):
                    found[i, j] = told
    return found


def _hopeful(x: NDArray[np.float64], y: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Return the pairs of columns with a share above least, of the objects in which both have a value."""
    known = np.isfinite(x)
    own = np.maximum(known.sum(axis=0), 1)
    zero = np.where(known, x, 0)
    zero = np.where(known, zero - zero.sum(axis=0) / own, 0)
    width = np.sqrt(np.sum(zero**2, axis=0) / own)
    zero = np.divide(zero, width, out=np.zeros_like(zero), where=width > 0)
    z, k = (y - y.mean()) / (y.std() or 1), known.astype(np.float64)
    # Sums over the objects in which columns i and j are known; of i where the name has one letter.
    n = np.maximum(k.T @ k, 1)
    a, aa, ab = zero.T @ k / n, (zero**2).T @ k / n, zero.T @ zero / n
    c, cc, ac = (k * z[:, None]).T @ k / n, (k * (z**2)[:, None]).T @ k / n, (zero * z[:, None]).T @ k / n
    var, both, vary, each = aa - a**2, ab - a * a.T, cc - c**2, ac - a * c
    # R² of a fit of two columns by their covariances with each other and with the label.
    free = var * var.T - both**2
    joint = each**2 * var.T + each.T**2 * var - 2 * each * each.T * both
    # Columns that are one another's copies fit no better together.
    good = (free > 1e-10 * np.maximum(var * var.T, 1e-300)) & (vary > 0) & (n >= LEAST)
    share = np.divide(joint, free * vary, out=np.zeros_like(joint), where=good)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(share > least, 1))]


def _coded(
    values: NDArray[np.float64], label: NDArray[Any], classes: Sequence[str]
) -> tuple[float, list[int]]:
    """Return how much a tree of few leaves tells of objects it has not seen, and the columns it reads."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    values = np.nan_to_num(values, nan=-1e30, posinf=1e30, neginf=-1e30).astype(np.float32)
    target = label if classes else rankdata(label)
    kind = DecisionTreeClassifier if classes else DecisionTreeRegressor
    leaves = 4 * len(np.unique(label)) if classes else 4 * FEW
    half = np.arange(len(label)) % 2 == 0
    told = np.empty(len(label))
    used: set[int] = set()
    for learn in (half, ~half):
        tree = kind(max_leaf_nodes=max(leaves, 2), random_state=0).fit(values[learn], target[learn])
        told[~learn] = tree.predict(values[~learn])
        used |= set(np.flatnonzero(tree.feature_importances_ > 0.01).tolist())
    if classes:
        score = _of_wrong(np.mean(told != target), np.unique(label, return_counts=True)[1])
    else:
        score = 1 - float(np.mean((told - target) ** 2)) / float(np.var(target))
    return score, sorted(used)


def _best(
    dataset: Dataset,
    name: str,
    zoom: int,
    rows: NDArray[np.int64],
    label: NDArray[Any],
    classes: Sequence[str],
    level: float,
) -> tuple[str, float]:
    """Return the pixel or bin that tells most, by name and score: of some objects first, then of all."""
    some = dataset.inputs({name: zoom}, rows[:_FIRST])[name]
    shape, flat = some.shape[1:], some.reshape(len(some), -1)
    score = _score_of(label[:_FIRST], classes)
    step = max(1, _BLOCK // len(flat))
    first = np.concatenate([score(flat[:, start : start + step]) for start in range(0, flat.shape[1], step)])
    chosen = np.flatnonzero(first >= level - _HOPEFUL)
    if not len(chosen) or len(rows) <= _FIRST:
        best, told = int(np.argmax(first)), float(first.max())
    else:
        block = max(1, _BLOCK // flat.shape[1])
        all_rows = np.concatenate(
            [
                (piece := dataset.inputs({name: zoom}, rows[start : start + block])[name]).reshape(
                    len(piece), -1
                )[:, chosen]
                for start in range(0, len(rows), block)
            ]
        )
        scores = _score_of(label, classes)(all_rows)
        best, told = int(chosen[np.argmax(scores)]), float(scores.max())
    place = ", ".join(str(int(i)) for i in np.unravel_index(best, shape))
    what = "bin" if len(shape) == 1 else "band, row, column"
    return f"{name} at zoom {zoom}, {what} {place}", told
