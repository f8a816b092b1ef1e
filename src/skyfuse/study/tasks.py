"""What a study predicts, drawn from a dataset: labels by part, groups, and the scatter no model can beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.config import Modality, Recipe
from skyfuse.dataset.select import find_column
from skyfuse.errors import DataError

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset
    from skyfuse.dataset.quality import NanStudy

PARTS = ("train", "valid", "test")
"""The three sides of a split, in the order of tables."""

KEYS = ["plate", "mjd", "fiberid"]
"""What names a spectrum in the truth table and in the dataset."""


@dataclass(frozen=True)
class Target:
    """Labels of a dataset for one task.

    Attributes
    ----------
    label : ndarray of float64, shape (n,)
        Label of each row of the dataset's table, in the task's unit.
    rows : dict of str to ndarray of int64
        Rows of ``train``, ``valid`` and ``test``.
    folds : list of ndarray of int64
        Cross-validation folds; together they are the training part.
    groups : ndarray, shape (n,), or None
        Objects that share sky pixels carry one group.
    attainable_sigma : ndarray of float64, shape (n,), or None
        Standard deviation of each label given all that can be observed; NaN where the truth does not tell.
    """

    label: NDArray[np.float64]
    rows: dict[str, NDArray[np.int64]]
    folds: list[NDArray[np.int64]]
    groups: NDArray[np.int64] | None
    attainable_sigma: NDArray[np.float64] | None


def target(recipe: Recipe, dataset: Dataset, truth: pd.DataFrame | None = None) -> Target:
    """Return the labels of a dataset as the recipe's task asks for them.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
        With a frozen split of the name ``default``.
    truth : DataFrame, optional
        Truth table of the mock sky, with plate, mjd, fiberid and attainable_sigma.

    Returns
    -------
    Target

    Raises
    ------
    DataError
        The label is missing or not finite, the folds are not those of the recipe, or the truth does not
        hold the test objects.
    """
    table = dataset.table
    try:
        column = find_column(table, recipe.task.label)
    except DataError as error:
        error.path = dataset.path
        raise
    label = table[column].to_numpy(dtype=np.float64)
    split = dataset.split()
    rows = {part: np.asarray(split[part], dtype=np.int64) for part in PARTS}
    folds = [np.asarray(fold, dtype=np.int64) for fold in split["folds"]]
    used = np.concatenate(list(rows.values()))
    if not np.all(np.isfinite(label[used])):
        raise DataError(
            f"{int(np.count_nonzero(~np.isfinite(label[used])))} objects of the split have no {column}",
            remedy="build the dataset with this label, so that the funnel drops them",
            path=dataset.path,
        )
    if len(folds) != recipe.split.folds:
        raise DataError(
            f"the dataset's split has {len(folds)} folds, the recipe asks for {recipe.split.folds}",
            remedy="set split.folds in the recipe to the dataset's number, or build the dataset anew",
            path=dataset.path,
        )
    sigma = None if truth is None else _attainable(table, truth, rows["test"])
    return Target(label, rows, folds, _groups(table), sigma)


def _groups(table: pd.DataFrame) -> NDArray[np.int64] | None:
    return table["group"].to_numpy(dtype=np.int64) if "group" in table else None


def _attainable(table: pd.DataFrame, truth: pd.DataFrame, test: NDArray[np.int64]) -> NDArray[np.float64]:
    missing = [name for name in [*KEYS, "attainable_sigma"] if name not in truth]
    if missing:
        raise DataError(f"the truth table lacks {', '.join(missing)}", remedy="give the mock's truth.parquet")
    known = truth[[*KEYS, "attainable_sigma"]].drop_duplicates(KEYS)
    joined = table[KEYS].merge(known, on=KEYS, how="left", validate="many_to_one")
    sigma = joined["attainable_sigma"].to_numpy(dtype=np.float64)
    unknown = int(np.count_nonzero(~np.isfinite(sigma[test])))
    if unknown:
        raise DataError(
            f"the truth table does not tell the attainable scatter of {unknown} of {len(test)} test objects",
            remedy="give the truth of the sky that this dataset was made from",
        )
    return sigma


def complete(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which objects have a spectrum without an invalid bin, from a dataset's table."""
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


def card_inputs(dataset: Dataset, zooms: Mapping[Modality, int]) -> dict[str, Any]:
    """Return how a model's inputs were cut, for its card."""
    inputs: dict[str, Any] = {"zooms": dict(zooms)}
    if "image" in zooms:
        inputs |= {"bands": dataset.meta["image"]["bands"], "size": dataset.meta["image"]["size"]}
    if "spectrum" in zooms:
        inputs["grid"] = dataset.meta["spectrum"]["grid"]
    return inputs


def describe(dataset: Dataset, goal: Target) -> dict[str, Any]:
    """Return what a report tells of the data, as plain values for JSON.

    Parameters
    ----------
    dataset : Dataset
    goal : Target

    Returns
    -------
    dict
        ``funnel``, ``parts`` (objects in each), ``nan`` (gaps of the spectra at each zoom), ``multi``
        (cutouts with several objects; None without images).
    """
    found: dict[str, Any] = {
        "funnel": dataset.funnel.to_json(),
        "parts": {part: len(rows) for part, rows in goal.rows.items()},
        "nan": [_gaps(study, dataset.wavelength(zoom)) for zoom, study in dataset.nan_study().items()],
        "multi": None,
    }
    if "image" in dataset.zooms:
        check = dataset.multi_object_check()
        found["multi"] = {
            "counts": check.table.to_numpy().tolist(),
            "threshold_only": check.threshold_only,
            "extraction_only": check.extraction_only,
            "unusable": check.unusable,
        }
    return found


def _gaps(study: NanStudy, wavelength: NDArray[np.float64]) -> dict[str, Any]:
    return {
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
