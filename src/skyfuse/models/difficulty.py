"""How difficult an object is: how far off a model may be there, learned from how far off it was elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.models.boosted import Boosted, parse_boosted, read_boosted
from skyfuse.models.inputs import Arrays
from skyfuse.models.summaries import summarise, width_of

LEAST = 200
"""Objects whose errors tell more than one width for all; with fewer, intervals only grow wider by it."""

_MANY = 1000  # objects from which larger trees, and more of them, pay
_MOST = 50_000  # objects that are learned from
_FOLDS = 5
_QUANTILE = 0.9  # of the errors that the trees tell
_SMALLEST = 0.02  # of the median error: a tree's few objects may by chance all be told well

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Boosted trees that tell the 0.9 quantile of the absolute error from the inputs and the prediction.

    Only the ratios of what they tell matter: a conformal threshold of the errors in these units makes the
    intervals hold what they promise, however good or bad the trees are (normalised scores; Papadopoulos,
    Gammerman & Vovk 2008, Proc. IASTED AIA, 64; Lei et al. 2018, JASA 113, 1094, section 5.2). A quantile, of
    which the pinball loss makes no more than of the next error, rather than a mean, which outliers rule.

    Attributes
    ----------
    trees : Boosted
        Of errors in units of `unit`.
    unit : float
        Median absolute error of the objects that it was learned from.
    """

    trees: Boosted
    unit: float

    def scale(self, x: Arrays, value: Numbers) -> Numbers:
        """Return how far off predictions may be, shape (n,), in the label's unit.

        Parameters
        ----------
        x : dict of str to ndarray
            Inputs of n objects, by what they are called inside a model.
        value : ndarray of float64, shape (n,)
            What the model predicts of them.
        """
        return self._told(_features(x, value))

    def _told(self, features: NDArray[np.float32]) -> Numbers:
        return self.unit * np.maximum(self.trees.predict(features), _SMALLEST)

    @classmethod
    def read(cls, path: Path, shapes: Mapping[str, tuple[int, ...]], unit: float) -> Difficulty:
        """Read trees from LightGBM's text, as `Boosted.text` writes it.

        Parameters
        ----------
        path : Path
        shapes : mapping of str to tuple of int
            Of one object in each array that the model reads, see `skyfuse.models.base.Model.shapes`.
        unit : float

        Raises
        ------
        StoreError
            If it is anything but sound trees for such objects.
        ValueError
            If the unit is none.
        """
        if not (isinstance(unit, float) and math.isfinite(unit) and unit > 0):
            raise ValueError(f"difficulty has the unit {unit}")
        return cls(read_boosted(path, width_of(shapes) + 1, 1), unit)


@dataclass(frozen=True, slots=True)
class Errors:
    """Objects that a model was not fitted on, and how far off it was.

    Attributes
    ----------
    x : dict of str to ndarray
        Inputs, by what they are called inside a model.
    value, size : ndarray of float64, shape (n,)
        What the model predicts, and the absolute error.
    """

    x: Arrays
    value: Numbers
    size: Numbers


def learn(errors: Errors, beside: Errors | None = None) -> tuple[Difficulty | None, Numbers]:
    """Learn how difficult objects are, and tell of each how difficult it looks to trees that never saw it.

    The errors of one object must not both shape the trees and set the threshold. So the objects are told in
    `_FOLDS` folds, each by trees that learned from the others (cross-fitting), and those that are kept learn
    from all.

    Parameters
    ----------
    errors : Errors
        Of the calibration part.
    beside : Errors, optional
        Of objects that only help to learn, such as the validation part.

    Returns
    -------
    Difficulty or None
        None where there are fewer than `LEAST` objects, or no errors to tell apart.
    ndarray of float64, shape (n,)
        Scale of each object of `errors`; all equal if there is no difficulty.
    """
    parts = [errors] if beside is None else [errors, beside]
    size = np.concatenate([part.size for part in parts])
    # A model that is right to the last digit for half of all objects has no unit of errors.
    unit = float(np.median(size)) if len(size) else 0.0
    n = len(errors.size)
    if len(size) < LEAST or not unit > 0:
        return None, np.ones(n)
    features = np.concatenate([_features(part.x, part.value) for part in parts])
    order = np.random.default_rng(0).permutation(len(size))
    fold = np.empty(len(size), dtype=np.int64)
    fold[order] = np.arange(len(size)) % _FOLDS
    scale = np.empty(n)
    for k in range(_FOLDS):
        own = fold[:n] == k
        # Those beside always help.
        others = np.concatenate([~own, np.ones(len(size) - n, dtype=bool)])
        grown = Difficulty(_grown(features[others], size[others] / unit), unit)
        scale[own] = grown._told(features[:n][own])
    return Difficulty(_grown(features, size / unit), unit), scale


def _grown(features: NDArray[np.float32], size: Numbers) -> Boosted:
    import lightgbm

    if len(size) > _MOST:
        chosen = np.sort(np.random.default_rng(0).choice(len(size), _MOST, replace=False))
        features, size = features[chosen], size[chosen]
    many = len(size) >= _MANY
    settings: dict[str, Any] = {
        "objective": "quantile",
        "alpha": _QUANTILE,
        "learning_rate": 0.05,
        "num_leaves": 8 if many else 4,
        "min_data_in_leaf": 20,
        "lambda_l2": 1.0,
        "max_bin": 63,
        "enable_bundle": False,
        "num_threads": 1,
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(features, size, params=settings)
    text: str = lightgbm.train(settings, data, 80 if many else 40).model_to_string()
    # What a quantile's trees tell adds up as a regression's does.
    text = text.replace("\nobjective=quantile\n", "\nobjective=regression\n", 1)
    return parse_boosted(text, features.shape[1], 1)


def _features(x: Arrays, value: Numbers) -> NDArray[np.float32]:
    """Return what difficulty is told from, (n, features): summaries of the inputs, and the prediction."""
    told = summarise(x, ())
    return np.column_stack([told.values, told.form, value.astype(np.float32)])
