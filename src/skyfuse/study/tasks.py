"""What a study predicts, drawn from a dataset: labels, rounds, columns, and the scatter no model can beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset.select import expand_columns, find_column, numbers
from skyfuse.errors import DataError
from skyfuse.models.mirror import Mirror
from skyfuse.recipe import Recipe, Task
from skyfuse.study import systems
from skyfuse.study.systems import Measured
from skyfuse.words import DERIVED, PARTS

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset
    from skyfuse.dataset.quality import NanStudy

KEYS = (["plate", "mjd", "fiberid"], ["source_id"], ["objid"], ["object_id"])
"""What may name an object in the truth table and in the dataset; the first that tells serves."""

# Digits of a float32, in bits: what lies further off than so many times the body's width leaves it none.
_FLOAT32 = 2.0**24
# Far above anything measured.
_FARTHEST_REDSHIFT = 50.0

RANGES = 6
"""Ranges of redshift whose mean spectra are shown, of equal numbers of objects."""

Rows = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Target:
    """Labels of a dataset for one task.

    Attributes
    ----------
    label : ndarray, shape (n,)
        Of each row of the dataset's table: float64 in the task's unit, or the class's index (int64, -1 for
        none).
    classes : tuple of str
        Names of the classes, in their order; empty for a label that is a number.
    rounds : list of dict of str to ndarray of int64
        Rows of ``train``, ``valid``, ``calibration`` and ``test``: one hold-out round, or each round of a
        cross-validation, whose test parts together are every object that is tested.
    folds : list of ndarray of int64
        Cross-validation folds; together they are the first round's training part.
    groups : ndarray, shape (n,), or None
        Objects that share sky pixels, or are epochs of one, carry one group.
    attainable_sigma : ndarray of float64, shape (n,), or None
        Standard deviation of each label given all that can be observed, by the truth or the catalogue's own
        errors; NaN where the truth does not tell.
    magnitude : ndarray of float64, shape (n,), or None
        By which results are broken down.
    systems : dict of str to Measured
        The label and what else measured its quantity, by column; empty unless the task names errors or other
        systems.
    lessons : tuple of ndarray, each of shape (n,)
        What models learn in each round, where that is not the label.
    weights : tuple of ndarray, each of shape (n,)
        Weight of each row in each round's training; empty where all weigh the same.
    columns, leaky : tuple of str
        Columns of the table that are inputs, without and with the leaking ones.
    pairs : dict of str to str
        Classes that a mirror swaps.
    """

    label: NDArray[Any]
    classes: tuple[str, ...]
    rounds: list[Rows]
    folds: list[NDArray[np.int64]]
    groups: NDArray[np.int64] | None
    attainable_sigma: NDArray[np.float64] | None
    magnitude: NDArray[np.float64] | None
    columns: tuple[str, ...]
    leaky: tuple[str, ...]
    systems: dict[str, Measured] = field(default_factory=dict)
    lessons: tuple[NDArray[np.float64], ...] = ()
    weights: tuple[NDArray[np.float64], ...] = ()
    pairs: dict[str, str] = field(default_factory=dict)

    def mirror(self, columns: Sequence[str]) -> Mirror | None:
        """Return what a mirror does to objects with these columns; None where it swaps no classes.

        Raises
        ------
        UsageError
            If a pair names what is no class, or a class twice.
        """
        if not self.pairs:
            return None
        patterns = [one.odd for one in DERIVED.values() if one.odd]
        odd = [i for i, name in enumerate(columns) if any(fnmatchcase(name, odd) for odd in patterns)]
        return Mirror.of(self.pairs, self.classes, odd)

    @property
    def rows(self) -> Rows:
        """Rows of the first round's parts."""
        return self.rounds[0]

    @property
    def test(self) -> NDArray[np.int64]:
        """Rows of the test parts of all rounds, one after the other."""
        return np.concatenate([rows["test"] for rows in self.rounds])

    def learned(self, number: int) -> NDArray[Any]:
        """Return what models learn in a round, shape (n,): the label, or what stands for it."""
        return self.lessons[number] if self.lessons else self.label

    def weight(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return how much rows weigh in a round's training; None where all weigh the same."""
        return self.weights[number][rows] if self.weights else None

    def names(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[Any]:
        """Return labels as they are printed and stored: numbers, or names of classes (None for none)."""
        label = self.label[rows]
        return np.array([*self.classes, None], dtype=object)[label] if self.classes else label


def target(recipe: Recipe, dataset: Dataset, truth: pd.DataFrame | None = None) -> Target:
    """Return the labels of a dataset as the recipe's task asks for them.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
        With a frozen split of the name ``default``.
    truth : DataFrame, optional
        Truth table of the mock sky, with the column that `task.attainable` names.

    Returns
    -------
    Target

    Raises
    ------
    DataError
        The label or an input column is missing, a label is not finite or of no class, the rounds or folds are
        not those of the recipe, or the truth does not hold the test objects.
    """
    table = dataset.table
    try:
        column = find_column(table, recipe.task.label)
    except DataError as error:
        error.path = dataset.path
        raise
    label, classes = _labels(recipe, table[column], dataset)
    rounds = [{part: np.asarray(rows[part], dtype=np.int64) for part in PARTS} for rows in dataset.rounds()]
    folds = [np.asarray(fold, dtype=np.int64) for fold in dataset.split()["folds"]]
    used = np.unique(np.concatenate([rows[part] for rows in rounds for part in PARTS]))
    unknown = label[used] < 0 if classes else ~np.isfinite(label[used])
    if recipe.task.kind != "reconstruction" and unknown.any():
        what = f"{column} of a known class" if classes else column
        raise DataError(
            f"{int(np.count_nonzero(unknown))} objects of the split have no {what}",
            remedy="build the dataset with this label, so that the funnel drops them",
            path=dataset.path,
        )
    if not classes and recipe.task.kind != "reconstruction":
        _require_sound(label, used, recipe, dataset)
    if recipe.task.kind == "classification" and len(classes) < 2:
        raise DataError(
            f"{column} holds {len(classes)} classes",
            remedy="give data of two classes or more, or task.classes that fit it",
            path=dataset.path,
        )
    for what, found, wanted in (
        ("folds", len(folds), recipe.split.folds),
        ("rounds", len(rounds), recipe.split.rounds),
    ):
        if found != wanted:
            raise DataError(
                f"the dataset's split has {found} {what}, the recipe asks for {wanted}",
                remedy=f"set split.{what} in the recipe to the dataset's number, or build the dataset anew",
                path=dataset.path,
            )
    sigma = None
    if truth is not None and recipe.task.attainable is not None:
        test = np.concatenate([rows["test"] for rows in rounds])
        sigma = _attainable(table, truth, recipe.task.attainable, test)
    groups = table["group"].to_numpy(dtype=np.int64) if "group" in table else None
    goal = Target(
        label,
        classes,
        rounds,
        folds,
        groups,
        sigma,
        _magnitude(recipe.task.magnitude, table),
        tuple(expand_columns(table, recipe.sound_columns)),
        tuple(expand_columns(table, recipe.leaky_columns)),
        pairs=recipe.task.mirror,
    )
    return (
        goal if recipe.task.error is None and not recipe.task.systems else _measured(goal, recipe.task, table)
    )


def _measured(goal: Target, task: Task, table: pd.DataFrame) -> Target:
    """Return a target with the errors of its labels, and what else measured their quantity."""
    found = systems.measured(task, table, goal.label)
    if task.learned is not None:
        known = np.isfinite(found[task.learned].value)
        rounds = [
            {part: own[known[own]] if part in ("train", "valid") else own for part, own in rows.items()}
            for rows in goal.rounds
        ]
        goal = replace(goal, rounds=rounds, folds=[fold[known[fold]] for fold in goal.folds])
    sigma, error = goal.attainable_sigma, found[task.label].error
    if sigma is None and error is not None:
        sigma = systems.filled(error, float(np.std(goal.label[goal.rows["train"]])), goal.rows["train"])
    return replace(
        goal,
        systems=found,
        attainable_sigma=sigma,
        lessons=systems.lessons(found, task.label, task.learned, goal.rounds) if task.learned else (),
        weights=systems.weights(found, task, goal.rounds),
    )


def _labels(recipe: Recipe, column: pd.Series, dataset: Dataset) -> tuple[NDArray[Any], tuple[str, ...]]:
    named = recipe.task.kind == "classification" or bool(recipe.task.classes)
    if not named and pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), ()
    if recipe.task.kind == "regression" and not named:
        words = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        words = words if len(words) else column.dropna()
        raise DataError(
            f"{column.name} must be a number, and {len(words)} objects have text, "
            f"e.g. {dataset.table['object_id'].iloc[int(words.index[0])]} has {str(words.iloc[0])!r}",
            remedy="mend these cells of the table of labels, or empty them",
            path=dataset.path,
        )
    text = column.astype("string").str.strip()
    classes = tuple(recipe.task.classes) or tuple(sorted(text.dropna().unique()))
    return pd.Index(classes).get_indexer(pd.Index(text)).astype(np.int64), classes


def _require_sound(
    label: NDArray[np.float64], used: NDArray[np.int64], recipe: Recipe, dataset: Dataset
) -> None:
    """Refuse labels beside which float32, in which networks compute, cannot tell the others apart."""
    values = label[used]
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    far = np.abs(values - middle) > _FLOAT32 * (high - low)
    if low == high:
        far[:] = False
    if recipe.task.redshift:
        far |= np.abs(values) > _FARTHEST_REDSHIFT
    if far.any():
        row = int(used[far.argmax()])
        raise DataError(
            f"{int(far.sum())} labels are out of all proportion, e.g. {recipe.task.label} of "
            f"{dataset.table['object_id'].iloc[row]} is {label[row]:g}, where half of all are from "
            f"{low:g} to {high:g}",
            remedy="mend or empty these cells of the table of labels, or bound the label by where",
            path=dataset.path,
        )


def _magnitude(column: str | None, table: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return the magnitudes of a table, None where it has no such column."""
    if column is None:
        return None
    try:
        return numbers(table, column).astype(np.float64)
    except DataError:
        return None


def _attainable(
    table: pd.DataFrame, truth: pd.DataFrame, column: str, test: NDArray[np.int64]
) -> NDArray[np.float64]:
    if column not in truth:
        raise DataError(f"the truth table lacks {column}", remedy="give the mock's truth.parquet")
    sigma = np.full(len(table), np.nan)
    for keys in KEYS:
        if {*keys} <= {*table} and {*keys} <= {*truth}:
            known = truth[[*keys, column]].drop_duplicates(keys).astype(dict.fromkeys(keys, "string"))
            own = table[keys].astype("string")
            joined = own.merge(known, on=keys, how="left", validate="many_to_one")
            sigma = joined[column].to_numpy(dtype=np.float64)
            if np.isfinite(sigma[test]).any():
                break
    unknown = int(np.count_nonzero(~np.isfinite(sigma[test])))
    if unknown:
        raise DataError(
            f"the truth table does not tell the attainable scatter of {unknown} of {len(test)} test objects",
            remedy="give the truth of the sky that this dataset was made from",
        )
    return sigma


def complete(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which objects have a spectrum without an invalid bin; none where there are no spectra."""
    if "nan_fraction" not in table:
        return np.zeros(len(table), dtype=bool)
    return np.asarray(table["nan_fraction"].to_numpy(dtype=np.float64) == 0)


def digest(dataset: Dataset) -> dict[str, str]:
    """Return hashes that name a dataset's content: its record with its table, and its default split.

    The arrays are named by the record, which tells the cube and the steps that they were made from; reading
    ten million objects to hash them would cost more than many a study.

    Returns
    -------
    dict of str to str
        ``record`` and ``split``, both SHA-256.
    """
    sha = hashlib.sha256(json.dumps(dataset.meta, sort_keys=True).encode())
    sha.update(dataset.table.to_csv(index=False).encode())
    return {"record": sha.hexdigest(), "split": dataset.split_digest()}


def card_inputs(
    dataset: Dataset, zooms: Mapping[str, int], columns: Sequence[str], smooth: float
) -> dict[str, Any]:
    """Return where a model's inputs come from and how they were cut, for its card."""
    inputs: dict[str, Any] = {
        "inputs": {name: dataset.cut(name, zoom) for name, zoom in zooms.items()},
        **dataset.meta["source"],
    }
    kinds = {dataset.kind_of(name) for name in zooms}
    if "spectrum" in kinds:
        inputs["smooth"] = smooth
    if "table" in kinds:
        derived = dataset.meta["derived"].items()
        derive = {name: cut for name, cut in derived if _reads(columns, DERIVED[name].columns)}
        inputs |= {"columns": list(columns), "derive": derive}
    return inputs


def _reads(columns: Sequence[str], pattern: str) -> bool:
    """Tell whether any of the columns, or one inside a difference or a logarithm, matches a pattern."""
    return any(fnmatchcase(column, f"*{pattern}") for column in columns)


def describe(recipe: Recipe, dataset: Dataset, goal: Target) -> dict[str, Any]:
    """Return what a report tells of the data, as plain values for JSON.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
    goal : Target

    Returns
    -------
    dict
        ``kind``, ``label``, ``classes``, ``counts`` (objects of each class), ``rounds``, ``guard`` (forbidden
        columns with their reason, and whether they are used all the same), ``funnel``, ``parts`` (objects in
        each, first round), ``nan`` (gaps of each input of spectra at each zoom), ``multi`` (cutouts with
        several objects; None without survey images), ``wavelength`` (Å, by input and zoom) and, for
        redshifts, ``mean_spectra``.
    """
    task = recipe.task
    counts = {name: int(np.count_nonzero(goal.label == i)) for i, name in enumerate(goal.classes)}
    found: dict[str, Any] = {
        "kind": task.kind,
        "label": {"name": task.label, "title": task.title, "unit": task.unit, "definition": task.definition},
        "classes": list(goal.classes),
        "counts": counts,
        "rounds": len(goal.rounds),
        "guard": [
            {
                "column": column,
                "reason": reason,
                "used": any(recipe.forbids(c) == reason for c in recipe.leaking),
            }
            for column, reason in task.guarded().items()
        ],
        "funnel": dataset.funnel.to_json(),
        "parts": {part: len(rows) for part, rows in goal.rows.items()},
        "nan": [],
        "multi": None,
        "wavelength": {},
    }
    spectra = [name for name, kind in dataset.kinds.items() if kind == "spectrum"]
    for name in spectra:
        waves = {zoom: dataset.wavelength(zoom, name) for zoom in dataset.zooms[name]}
        found["nan"] += [_gaps(name, study, waves[zoom]) for zoom, study in dataset.nan_study(name).items()]
        found["wavelength"][name] = {str(zoom): values.tolist() for zoom, values in waves.items()}
    if spectra and task.redshift:
        found["mean_spectra"] = _mean_spectra(recipe, dataset, goal, spectra[0])
    if "n_components" in dataset.table:
        check = dataset.multi_object_check()
        found["multi"] = {
            "counts": check.table.to_numpy().tolist(),
            "threshold_only": check.threshold_only,
            "extraction_only": check.extraction_only,
            "unusable": check.unusable,
        }
    return found


def _mean_spectra(recipe: Recipe, dataset: Dataset, goal: Target, name: str) -> dict[str, Any]:
    """Return the mean training spectrum in each of some ranges of redshift with equal numbers of objects.

    Each spectrum is divided by its own mean absolute flux first.
    """
    zoom = recipe.reference.get(name, dataset.zooms[name][0])
    rows = goal.rows["train"]
    z = goal.label[rows]
    edges = np.quantile(z, np.linspace(0, 1, RANGES + 1))
    values = dataset.inputs({name: zoom}, rows)[name].astype(np.float64)
    seen = np.isfinite(values)
    # Else the mean would be that of the brightest.
    size = np.abs(np.where(seen, values, 0)).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    values /= np.where(size > 0, size, 1)[:, None]
    ranges = []
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = (z >= low) & ((z < high) | (i == RANGES - 1))
        sums = np.where(seen[inside], values[inside], 0).sum(axis=0)
        counts = seen[inside].sum(axis=0)
        mean = [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
        ranges.append({"low": low, "high": high, "n": int(inside.sum()), "mean": mean})
    return {"wavelength": dataset.wavelength(zoom, name).tolist(), "unit": "Å", "ranges": ranges}


def _gaps(name: str, study: NanStudy, wavelength: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "input": name,
        "zoom": study.zoom,
        "objects": study.objects,
        "bins": study.bins,
        "runs": study.runs,
        "mean_run": study.mean_run,
        "max_run": study.max_run,
        "with_nan": study.with_nan,
        "shares": study.shares.to_dict("list"),
        "histogram": study.histogram.to_dict("list"),
        "frequency": study.frequency.tolist(),
        "wavelength": wavelength.tolist(),
    }
