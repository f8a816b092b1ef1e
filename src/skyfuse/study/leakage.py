"""A look at the data for inputs that give the label away, whatever they are called.

A recipe names columns that carry the answer (`task.forbidden`); this finds those that do so under any name.
On the training part alone, and on one object of each group, each input is asked how much of the label it
tells by itself: objects are put in its order, and each is compared with its neighbours; nothing is fitted.

- Numbers: with the ranks r of the labels in that order and dᵢ = rᵢ − (rᵢ₋₁ + rᵢ₊₁)/2, the input leaves a
  scatter of variance (2/3)·mean(dᵢ²) (Gasser, Sroka & Jennen-Steinmetz 1986, Biometrika 73, 625). The score
  is one minus its share of the variance of r: the R² of the best smooth curve, monotone or not, in any units.
- Classes: the number of runs of equal labels in that order (Wald & Wolfowitz 1940). K runs score 1, the
  n(1 − Σp²) + 1 that chance makes score 0; of two classes of one size, 1 % of wrong ones cost 0.04.

What no single input tells, several may:

- Numbers: pairs of columns by a linear fit, plain and in logarithms: sums, differences, products, ratios, a
  label cut into whole part and fraction.
- All labels: columns with at most `FEW` values together, by a tree of few leaves that is scored on objects
  which it has not seen: a one-hot code, bits, digits.

The levels are above what measurements allow. A label known to a tenth of its spread, as rates, masses and
temperatures are, cannot be told better than R² = 0.99 by anything that was measured without it; of classes
that pipelines or eyes give, about one in a hundred is wrong, which scores 0.97. Where an input may honestly
reach the level, the recipe names it in `trusted`. Of pixels and bins, whose light models are made to read,
only an exact copy of a number is refused; what else reaches the level is told.

Not found are: three columns or more of many values that tell the label only together, and two that so tell a
class; a code that several pixels or bins share; a copy with noise above a tenth of the label's spread; a
column that tells one of several classes; and anything in fewer than `LEAST` training objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from skyfuse.config import Modality, Recipe
from skyfuse.errors import DataError
from skyfuse.study.tasks import Target

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

LEVEL = {"regression": 0.99, "classification": 0.97}
"""Score from which an input gives the label away, by kind of task."""
EXACT = {"regression": 0.9999, "classification": np.inf}
"""The same for a pixel or bin, which measures nothing but light: a bright line tells a redshift to 0.999, and
where classes differ in brightness one pixel tells them apart."""
LEAST = 50
"""Training objects below which nothing can be told."""
MOST = 2000
"""Training objects that are looked at, drawn at random."""
FEW = 16
"""Values of a column up to which it may be part of a code."""

_FIRST, _HOPEFUL = 200, 0.1
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
    if "table" in recipe.modalities:
        values = dataset.inputs({"table": 0}, rows, columns=goal.leaky)["table"].astype(np.float64)
        score = _score_of(label, goal.classes)
        own = [_allows(recipe, goal, name) for name in goal.leaky]
        alone = score(values)
        found += [
            Finding((name,), float(s), allowed, level)
            for name, s, allowed in zip(goal.leaky, alone, own, strict=True)
        ]
        # What tells the label alone does so with any other, too.
        rest = [i for i, allowed in enumerate(own) if not allowed and alone[i] < level]
        named = [goal.leaky[i] for i in rest]
        found += _together(values[:, rest], named, label, goal.classes, level)
    for modality, zoom in _arrays(recipe):
        best = _best(dataset, modality, zoom, rows, label, goal.classes, level)
        found.append(Finding((best[0],), best[1], modality in recipe.trusted, EXACT[recipe.task.kind]))
    return sorted(found, key=lambda one: -one.score)


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


def _arrays(recipe: Recipe) -> Iterator[tuple[Modality, int]]:
    for modality in recipe.modalities:
        if modality != "table":
            for zoom in sorted({recipe.reference_of(modality), *recipe.zooms.get(modality, ())}):
                yield modality, zoom


def _score_of(label: NDArray[Any], classes: Sequence[str]) -> Score:
    if classes:
        return lambda values: told_of_classes(values, label)
    return lambda values: told_of_numbers(values, label)


def told_of_numbers(values: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much of a label that is a number each input tells.

    Parameters
    ----------
    values : ndarray, shape (n, inputs)
        NaN where missing, which counts as one value.
    label : ndarray, shape (n,)
        In an order that has nothing to do with the values.

    Returns
    -------
    ndarray of float64, shape (inputs,)
    """
    rank = rankdata(label)
    in_order = rank[np.argsort(values, axis=0, kind="stable")]
    away = in_order[1:-1] - (in_order[:-2] + in_order[2:]) / 2
    return np.asarray(1 - (2 / 3) * np.mean(away**2, axis=0) / np.var(rank))


def told_of_classes(values: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much of a class each input tells; arguments and result as of `told_of_numbers`."""
    counts = np.unique(label, return_counts=True)[1]
    in_order = label[np.argsort(values, axis=0, kind="stable")]
    runs = 1 + np.count_nonzero(in_order[1:] != in_order[:-1], axis=0)
    chance = 1 + len(label) * (1 - float(np.sum((counts / len(label)) ** 2)))
    return np.asarray(1 - (runs - len(counts)) / max(chance - len(counts), 1), dtype=np.float64)


def _together(
    values: NDArray[np.float64],
    names: Sequence[str],
    label: NDArray[Any],
    classes: Sequence[str],
    level: float,
) -> list[Finding]:
    """Return the columns that tell the label together and not alone."""
    found = [] if classes else _pairs(values, names, label, level)
    few = [i for i in range(len(names)) if 1 < len(np.unique(values[:, i])) <= FEW]
    if len(few) > 1:
        score, used = _coded(values[:, few], label, classes)
        if score >= level:
            found.append(Finding(tuple(names[few[i]] for i in used), score, allowed=False, level=level))
    return found


def _pairs(
    values: NDArray[np.float64], names: Sequence[str], label: NDArray[np.float64], level: float
) -> list[Finding]:
    """Return the pairs of columns of which a linear fit, plain or in logarithms, tells the label."""
    found: dict[tuple[int, int], float] = {}
    ways = [(values, label)]
    if (label > 0).all():
        with np.errstate(divide="ignore", invalid="ignore"):
            ways.append((np.log(np.where(values > 0, values, np.nan)), np.log(label)))
    for x, y in ways:
        for i, j in _hopeful(x, y):
            pair = x[:, [i, j]]
            whole = np.isfinite(pair).all(axis=1)
            if np.count_nonzero(whole) < LEAST:
                continue
            design = np.column_stack([pair[whole], np.ones(np.count_nonzero(whole))])
            weights = np.linalg.lstsq(design, y[whole], rcond=None)[0]
            score = float(told_of_numbers((design @ weights)[:, None], y[whole])[0])
            if score >= level and score > found.get((i, j), 0):
                found[i, j] = score
    return [
        Finding((names[i], names[j]), score, allowed=False, level=level) for (i, j), score in found.items()
    ]


def _hopeful(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs of columns with R² above 0.9, by the correlations alone; gaps count as the mean."""
    known = np.isfinite(x)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, x - np.where(known, x, 0).sum(axis=0) / count, 0)
    spread = np.sqrt(np.sum(centred**2, axis=0))
    unit = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    each = unit.T @ ((y - y.mean()) / np.linalg.norm(y - y.mean()))
    both = unit.T @ unit
    free = 1 - both**2
    joint = each[:, None] ** 2 + each[None] ** 2 - 2 * each[:, None] * each[None] * both
    # Columns that are one another's copies fit no better together.
    share = np.divide(joint, free, out=np.zeros_like(joint), where=free > 1e-10)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(share > 0.9, 1))]


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
        shares = np.unique(label, return_counts=True)[1] / len(label)
        # On the scale of the runs: each wrong object makes two more of them.
        score = 1 - 2 * float(np.mean(told != target)) / float(1 - np.sum(shares**2))
    else:
        score = 1 - float(np.mean((told - target) ** 2)) / float(np.var(target))
    return score, sorted(used)


def _best(
    dataset: Dataset,
    modality: Modality,
    zoom: int,
    rows: NDArray[np.int64],
    label: NDArray[Any],
    classes: Sequence[str],
    level: float,
) -> tuple[str, float]:
    """Return the pixel or bin that tells most, by name and score: of some objects first, then of all."""
    some = dataset.inputs({modality: zoom}, rows[:_FIRST])[modality]
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
                (piece := dataset.inputs({modality: zoom}, rows[start : start + block])[modality]).reshape(
                    len(piece), -1
                )[:, chosen]
                for start in range(0, len(rows), block)
            ]
        )
        scores = _score_of(label, classes)(all_rows)
        best, told = int(chosen[np.argmax(scores)]), float(scores.max())
    place = ", ".join(str(int(i)) for i in np.unravel_index(best, shape))
    what = "bin" if modality == "spectrum" else "band, row, column"
    return f"{modality} at zoom {zoom}, {what} {place}", told
