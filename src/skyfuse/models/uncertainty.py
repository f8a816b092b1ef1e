"""How far a prediction may be off: split conformal intervals and sets, and measurement errors propagated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError, UsageError
from skyfuse.models.mixture import highest, surprise

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset
    from skyfuse.models.base import Model, Output
    from skyfuse.models.inputs import Arrays

Score = Literal["error", "scaled", "density", "probability"]
"""What is compared with a threshold: the absolute error; the same in units of the model's own scale; −ln of
the mass of all labels less probable (`skyfuse.models.mixture`); 1 − probability of a class."""

MAX_BINS = 10
"""Bins of the predicted value at most, each with an error quantile of its own."""

MIN_BIN = 99
"""Calibration objects a bin at least: a 90 % quantile of 99 errors covers 0.90 ± 0.03."""


@dataclass(frozen=True, slots=True)
class Conformal:
    """A split conformal calibration: what a model's errors on objects of their own say about new objects.

    For n calibration objects with scores s (larger: worse), a new object that is exchangeable with them has a
    score of at most their ⌈(n + 1) · level⌉-th smallest one with a probability from `level` to
    level + 1/(n + 1) (Vovk, Gammerman & Shafer 2005, chapter 2; Angelopoulos & Bates 2021, arXiv:2107.07511).

    Regression: the score is the absolute error, by bins of the predicted value (Mondrian; Vovk et al. 2005,
    chapter 4), since large values of most labels are known less well; in units of the model's own scale where
    it tells one. Of a model that tells a density the score is −ln of the mass of all labels less probable
    (HPD-split; Izbicki, Shimizu & Stern 2022, JMLR 23, 87). Classification: the score is
    1 − probability of the true class, and the set holds each class whose score does not exceed the threshold
    (LAC; Sadinle, Lei & Wasserman 2019, JASA 114, 223); it may be empty.

    Equal scores, the rule with trees, would let sets cover more than `level`. They are ordered by a number
    that is drawn from each object's own input bytes: as good as random, and the same in every call.

    Attributes
    ----------
    level : float
        Probability that the interval or set holds the truth.
    score : str
        See `Score`.
    thresholds : tuple of float
        Of the score: in each bin of the predicted value, or the one for all.
    edges : tuple of float
        Predicted values at which the next bin begins; one less than `thresholds`.
    tie : float, optional
        Classification: a class whose score equals the threshold belongs to the set of an object whose own
        number (`ties`) is at most this.
    """

    level: float
    score: Score
    thresholds: tuple[float, ...]
    edges: tuple[float, ...] = ()
    tie: float | None = None

    @classmethod
    def fit(cls, output: Output, y: NDArray[Any], x: Arrays, *, level: float) -> Self:
        """Calibrate on objects that took no part in the model's fit.

        Parameters
        ----------
        output : Output
            What the model tells of them.
        y : ndarray, shape (n,)
            True values, or indices of the true classes.
        x : dict of str to ndarray
            Inputs of the model, from which ties are broken.
        level : float
            Between 0 and 1.

        Raises
        ------
        UsageError
            If `level` is no probability.
        DataError
            If there are too few objects for this level.
        """
        if not 0 < level < 1:
            raise UsageError(f"level is {level}", remedy="give a probability between 0 and 1, e.g. 0.9")
        values, rank = output.value, _rank(len(y), level)
        if values.ndim == 2:
            scores = _scores(values)[np.arange(len(y)), y]
            numbers = ties(x)
            last = np.lexsort((numbers, scores))[rank - 1]
            return cls(level, "probability", (float(scores[last]),), tie=float(numbers[last]))
        if output.mixture is not None:
            return cls(level, "density", (float(np.sort(surprise(output.mixture, y))[rank - 1]),))
        errors = np.abs(values - y) / (1 if output.scale is None else output.scale)
        edges = _edges(values, level)
        bins = np.searchsorted(edges, values, side="right")
        ordered = [np.sort(errors[bins == i]) for i in range(len(edges) + 1)]
        thresholds = tuple(float(e[_rank(len(e), level) - 1]) for e in ordered)
        return cls(level, "error" if output.scale is None else "scaled", thresholds, tuple(edges))

    def limits(self, output: Output, x: Arrays) -> dict[str, NDArray[Any]]:
        """Return what holds the truth with probability `level`.

        Parameters
        ----------
        output : Output
            What the model tells of n objects.
        x : dict of str to ndarray
            Their inputs, from which ties are broken.

        Returns
        -------
        dict of str to ndarray
            ``low`` and ``high``, and ``pieces`` of a density; or ``members``, as in
            `skyfuse.models.base.Prediction`.

        Raises
        ------
        DataError
            If the model does not tell what it was calibrated by.
        """
        values = output.value
        if self.tie is not None:
            scores, threshold = _scores(values), self.thresholds[0]
            admitted = (ties(x) <= self.tie)[:, None]
            return {"members": (scores < threshold) | ((scores == threshold) & admitted)}
        if (
            len(values)
            and {"density": output.mixture, "scaled": output.scale}.get(self.score, values) is None
        ):
            raise DataError(
                f"the model does not tell {_TOLD[self.score]}, by which it was calibrated",
                remedy="calibrate it again",
            )
        if output.mixture is not None and self.score == "density":
            pieces = highest(output.mixture, self.thresholds[0])
            low, high = np.nanmin(pieces[:, :, 0], axis=1), np.nanmax(pieces[:, :, 1], axis=1)
            return {"low": low, "high": high, "pieces": pieces}
        half = np.array(self.thresholds)[np.searchsorted(self.edges, values, side="right")]
        if output.scale is not None and self.score == "scaled":
            half = half * output.scale
        return {"low": values - half, "high": values + half}

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON holds it."""
        return asdict(self) | {"thresholds": list(self.thresholds), "edges": list(self.edges)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], *, classes: int) -> Self:
        """Rebuild a calibration of a model of so many classes (0: a regression).

        Raises
        ------
        TypeError, ValueError
            If the state is not one that `to_dict` gives.
        """
        known = cls(
            **{**state, "thresholds": tuple(state["thresholds"]), "edges": tuple(state.get("edges", ()))}
        )
        tie = () if known.tie is None else (known.tie,)
        sound = (
            all(isinstance(v, float) for v in (known.level, *known.thresholds, *known.edges, *tie))
            and all(map(math.isfinite, (known.level, *known.thresholds, *known.edges, *tie)))
            and 0 < known.level < 1
            and min(known.thresholds, default=-1) >= 0
            and known.score in get_args(Score)
            and len(known.thresholds) == len(known.edges) + 1
            and all(a < b for a, b in zip(known.edges, known.edges[1:], strict=False))
            and bool(tie) == bool(classes) == (known.score == "probability")
            and (known.score in ("error", "scaled") or not known.edges)
        )
        if not sound:
            raise ValueError("the calibration is damaged")
        return known


_TOLD = {"density": "a density", "scaled": "a scale"}


def ties(x: Arrays) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each object, as good as random, made from its input bytes alone.

    Parameters
    ----------
    x : dict of str to ndarray
        C-contiguous arrays with one row for each object.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    numbers = np.empty(len(next(iter(x.values()))))
    for i in range(len(numbers)):
        digest = blake2b(digest_size=6)
        for array in x.values():
            digest.update(array[i].tobytes())
        # 48 bits: a float64 holds them exactly.
        numbers[i] = int.from_bytes(digest.digest(), "big") / 2**48
    return numbers


def _scores(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rounded, since sums in another order (other batches, another processor) would part equal scores.
    return np.round(1 - probability, 9)


def _rank(n: int, level: float) -> int:
    """Rank of the finite-sample quantile; 0.9 · 110 is 99.000…01 in floating point and must stay 99."""
    rank = math.ceil((n + 1) * level - 1e-9)
    if rank > n:
        raise DataError(
            f"the calibration part has {n} objects, too few for level {level:g}",
            remedy=f"give at least {_least(level)}, better hundreds, or lower the level",
        )
    return rank


def _least(level: float) -> int:
    return math.ceil(level / (1 - level) - 1e-9)


def _edges(values: NDArray[np.float64], level: float) -> list[float]:
    """Choose where bins of the predicted value begin: of about equal numbers, none of them too small."""
    least = max(MIN_BIN, _least(level))
    ordered = np.sort(values)
    count = min(MAX_BINS, len(values) // least)
    if count < 2:
        return []
    size = len(values) // count
    # Errors of n objects cover ⌈(n + 1) · level⌉/(n + 1), up to 1/(n + 1) above the level, and so would all
    # bins together. A few objects less a bin bring it down to the level; the last bin takes those left over.
    size = min(range(max(least, size - size // 5), size + 1), key=lambda n: (_rank(n, level) / (n + 1), -n))
    edges: list[float] = []
    begin = 0
    for i in range(1, count):
        # The value at the quantile begins a bin, with all that equal it: a tree repeats its values.
        edge = ordered[i * size]
        start = int(np.searchsorted(ordered, edge, side="left"))
        if start - begin >= least and len(values) - start >= least:
            edges.append(float(edge))
            begin = start
    return edges


def propagate(model: Model, dataset: Dataset, rows: ArrayLike, *, draws: int = 20, seed: int) -> pd.DataFrame:
    """Return how far the measurement errors of the inputs spread a model's predictions.

    Each draw replaces every input by value + σ · N(0, 1), independently, and predicts again. The σ of images
    and spectra are the dataset's own; a table's column ``u`` takes them from ``u_err`` or ``err_u``, where
    there is one, and a difference ``u-g`` from those of both. Inputs without σ stay as they are.

    Parameters
    ----------
    model : Model
        Fitted, and its card tells its inputs.
    dataset : Dataset
    rows : array_like of int
    draws : int
        2 or more.
    seed : int

    Returns
    -------
    DataFrame
        One row for each of `rows`. Regression and reconstruction: ``value`` (of the inputs as measured),
        ``mean`` and ``spread`` (standard deviation) over the draws. Classification: ``value`` (name of the
        class), ``agreement`` (share of draws with the same one), and ``p_<class>`` and ``spread_<class>``,
        mean and standard deviation of its probability.

    Raises
    ------
    UsageError
        If there are fewer than 2 draws, or the model's card does not tell its inputs.
    DataError
        If the dataset does not hold what the model reads.
    """
    if draws < 2:
        raise UsageError(f"draws is {draws}", remedy="give 2 or more, better 20")
    rows = np.asarray(rows, dtype=np.int64)
    inputs = model.require_inputs(dataset)
    x = dataset.inputs(rows=rows, **inputs)
    sigma = _Sigma(dataset, rows, inputs)
    random = np.random.default_rng(seed)
    measured = model.predict(x)
    drawn = [model.predict(sigma.redraw(x, random)) for _ in range(draws)]
    table = pd.DataFrame({"value": measured.names if measured.classes else measured.value}, index=rows)
    if not measured.classes:
        values = np.stack([prediction.value for prediction in drawn])
        return table.assign(mean=values.mean(axis=0), spread=values.std(axis=0, ddof=1))
    table["agreement"] = np.mean([prediction.value == measured.value for prediction in drawn], axis=0)
    probability = np.stack([p.probability for p in drawn if p.probability is not None])
    for i, name in enumerate(measured.classes):
        table[f"p_{name}"] = probability[:, :, i].mean(axis=0)
        table[f"spread_{name}"] = probability[:, :, i].std(axis=0, ddof=1)
    return table


class _Sigma:
    """σ of a model's inputs, and inputs drawn with them."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64], inputs: Mapping[str, Any]) -> None:
        from skyfuse.dataset.select import expand_columns

        self.smooth = inputs["smooth"]
        self.kinds = {name: dataset.kind_of(name) for name in inputs["zooms"]}
        self.arrays = {
            name: _known(dataset.batch(name, zoom, rows).sigma)
            for name, zoom in inputs["zooms"].items()
            if self.kinds[name] != "table"
        }
        self.columns: list[str] = []
        if "table" in self.kinds.values():
            table = dataset.table
            self.columns = expand_columns(table, inputs["columns"] or dataset.meta["columns"])
            errors = {str(name).lower(): name for name in table.columns}
            self.table = pd.DataFrame(0.0, index=rows, columns=table.columns)
            for column in table.columns:
                names = (f"{column}_err".lower(), f"err_{column}".lower())
                found = next((errors[name] for name in names if name in errors), None)
                if found is not None:
                    self.table[column] = _known(table[found].to_numpy(dtype=np.float64, na_value=0)[rows])

    def redraw(self, x: Arrays, random: np.random.Generator) -> Arrays:
        """Return inputs with errors added; what is invalid stays invalid."""
        from skyfuse.dataset.features import smooth
        from skyfuse.dataset.select import numbers

        drawn = dict(x)
        for name, sigma in self.arrays.items():
            noise = random.standard_normal(sigma.shape, dtype=np.float32) * sigma
            if self.kinds[name] == "spectrum" and self.smooth:
                # Smoothing is linear, so that the errors may be smoothed by themselves.
                noise = smooth(np.where(np.isnan(x[name]), np.float32(np.nan), noise), self.smooth)
            drawn[name] = x[name] + noise
        if self.columns:
            noise = self.table * random.standard_normal(self.table.shape)
            added = np.stack([numbers(noise, name) for name in self.columns], axis=1)
            for name in (name for name, kind in self.kinds.items() if kind == "table"):
                drawn[name] = (x[name] + added).astype(np.float32)
        return drawn


def _known(sigma: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(sigma) & (sigma > 0), sigma, 0).astype(sigma.dtype)
