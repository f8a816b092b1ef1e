"""How far a prediction may be off: split conformal intervals and sets, and measurement errors propagated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from skyfuse.errors import DataError, UsageError
from skyfuse.models.difficulty import Difficulty, Errors, learn
from skyfuse.models.mixture import highest, surprise

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset
    from skyfuse.models.base import Model, Output
    from skyfuse.models.inputs import Arrays

Numbers = NDArray[np.float64]

Score = Literal["error", "density", "probability"]
"""What is compared with a threshold: the absolute error, in units of the object's scale; −ln of the mass of
all labels less probable (`skyfuse.models.mixture`); 1 − probability of a class."""

LEAST_OF_CLASS = 30
"""Calibration objects of a class at least, for it to have a threshold of its own; at high levels more."""

DIFFER = 0.01
"""Probability of classes that are covered as unequally as these, or more, below which they are told apart."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How badly a model's predictions for the calibration objects miss the truth.

    Attributes
    ----------
    value : ndarray of float64, shape (n,)
        See `Score`; larger is worse.
    tie : ndarray of float64, shape (n,)
        In [0, 1): orders equal scores.
    group : ndarray of int64, shape (n,)
        The true class of a classification, which may have a threshold of its own; else 0.
    """

    value: Numbers
    tie: Numbers
    group: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Conformal:
    """A split conformal calibration: what a model's errors on objects of their own say about new objects.

    For n calibration objects with scores s (larger: worse), a new object that is exchangeable with them has a
    score of at most their ⌈(n + 1) · level⌉-th smallest one with a probability from `level` to
    level + 1/(n + 1) (Vovk, Gammerman & Shafer 2005, chapter 2; Angelopoulos & Bates 2021, arXiv:2107.07511).

    Regression: the score is the absolute error over the object's scale, which is learned
    (`skyfuse.models.difficulty`) on top of the model's own where it tells one. Of a model that tells a
    density the score is −ln of the mass of all labels less probable (HPD-split; Izbicki, Shimizu & Stern
    2022, JMLR 23, 87). Classification: the score is 1 − probability of the true class, and the set holds each
    class whose score does not exceed the threshold (LAC; Sadinle, Lei & Wasserman 2019, JASA 114, 223); it
    may be empty. Where the classes differ, each has a threshold from its own objects (Mondrian; Vovk et al.
    2005, chapter 4), so that rare ones are covered as often as the others.

    Equal scores, the rule with trees, would let sets cover more than `level`. They are ordered by a number
    that is drawn from each object's own input bytes: as good as random, and the same in every call.

    Attributes
    ----------
    level : float
        Probability that the interval or set holds the truth.
    score : str
        See `Score`.
    thresholds : tuple of float
        Of the score: one for all, or one for each class.
    ties : tuple of float
        Classification: a class whose score equals its threshold belongs to the set of an object whose own
        number (`ties`) is at most this; one for each of `thresholds`.
    difficulty : Difficulty, optional
        Regression: what an object's scale is learned from; without it, it is that of the model, or 1.
    scores : Scores, optional
        Of the objects that it was calibrated on, in their order; not kept in files.
    """

    level: float
    score: Score
    thresholds: tuple[float, ...]
    ties: tuple[float, ...] = ()
    difficulty: Difficulty | None = None
    scores: Scores | None = field(default=None, compare=False)

    @classmethod
    def fit(
        cls,
        output: Output,
        y: NDArray[Any],
        x: Arrays,
        *,
        level: float,
        beside: tuple[Output, NDArray[Any], Arrays] | None = None,
    ) -> Self:
        """Calibrate on objects that took no part in the model's fit.

        Parameters
        ----------
        output : Output
            What the model tells of them.
        y : ndarray, shape (n,)
            True values, or indices of the true classes.
        x : dict of str to ndarray
            Inputs of the model, from which difficulty is learned and ties are broken.
        level : float
            Between 0 and 1.
        beside : tuple of Output, ndarray and dict, optional
            The same of objects that only help to learn difficulty, such as those of the validation part.

        Raises
        ------
        UsageError
            If `level` is no probability.
        DataError
            If there are too few objects for this level.
        """
        if not 0 < level < 1:
            raise UsageError(f"level is {level}", remedy="give a probability between 0 and 1, e.g. 0.9")
        rank_of(len(y), level)
        none = np.zeros(len(y))
        if output.value.ndim == 2:
            value = missed(output.value)[np.arange(len(y)), y]
            return cls.of(Scores(value, ties(x), y), "probability", level, classes=output.value.shape[1])
        group = np.zeros(len(y), dtype=np.int64)
        if output.mixture is not None:
            return cls.of(Scores(surprise(output.mixture, y), none, group), "density", level)
        errors = _errors(output, y, x)
        difficulty, scale = learn(errors, None if beside is None else _errors(*beside))
        return cls.of(Scores(errors.size / scale, none, group), "error", level, difficulty=difficulty)

    @classmethod
    def of(
        cls,
        scores: Scores,
        score: Score,
        level: float,
        *,
        classes: int = 0,
        difficulty: Difficulty | None = None,
    ) -> Self:
        """Return the calibration that scores of objects make.

        Parameters
        ----------
        scores : Scores
        score : str
            Of what kind they are, see `Score`.
        level : float
        classes : int
            Classification: how many classes there are.
        difficulty : Difficulty, optional
            What they are in units of.

        Raises
        ------
        DataError
            If there are too few objects for this level.
        """
        threshold, tie = _quantile(scores.value, scores.tie, level)
        if score != "probability":
            return cls(level, score, (threshold,), (), difficulty, scores)
        within = (scores.value < threshold) | ((scores.value == threshold) & (scores.tie <= tie))
        own = groups_of(scores.group, classes, level)
        if not _differ([within[mask] for mask in own if not mask.all()]):
            return cls(level, score, (threshold,), (tie,), None, scores)
        found = [_quantile(scores.value[mask], scores.tie[mask], level) for mask in own]
        return cls(level, score, tuple(t for t, _ in found), tuple(t for _, t in found), None, scores)

    def limits(
        self, output: Output, x: Arrays, *, threshold: Numbers | None = None, tie: Numbers | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return what holds the truth with probability `level`.

        Parameters
        ----------
        output : Output
            What the model tells of n objects.
        x : dict of str to ndarray
            Their inputs.
        threshold : ndarray of float64, shape (n, 1) or (n, classes), optional
            Of each object in place of `thresholds`; what is infinite holds everything.
        tie : ndarray of float64, of the same shape, optional
            In place of `ties`; without it equal scores are within.

        Returns
        -------
        dict of str to ndarray
            ``low`` and ``high``, and ``pieces`` of a density; or ``members``, as in
            `skyfuse.models.base.Prediction`.

        Raises
        ------
        DataError
            If the model does not tell the density that it was calibrated by.
        """
        if threshold is None:
            threshold = np.array([self.thresholds])
            tie = np.array([self.ties]) if self.ties else None
        if self.score == "probability":
            return held(self.score, output, threshold, tie, ties(x))
        scaled = replace(output, scale=self.scale(output, x)) if self.score == "error" else output
        return held(self.score, scaled, threshold)

    def scale(self, output: Output, x: Arrays) -> Numbers:
        """Return in what units each object's error is compared with the threshold of a regression, (n,)."""
        own = np.ones(len(output.value)) if output.scale is None else output.scale
        if self.difficulty is None or not len(own):
            return own
        return own * self.difficulty.scale(x, output.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON holds it, but for the difficulty."""
        return {
            "level": self.level,
            "score": self.score,
            "thresholds": list(self.thresholds),
            "ties": list(self.ties),
        }

    @classmethod
    def from_dict(
        cls, state: Mapping[str, Any], *, classes: int, difficulty: Difficulty | None = None
    ) -> Self:
        """Rebuild a calibration of a model of so many classes (0: a regression).

        Raises
        ------
        TypeError, ValueError
            If the state is not one that `to_dict` gives.
        """
        numbers = {key: tuple(state[key]) for key in ("thresholds", "ties")}
        known = cls(**{**state, **numbers}, difficulty=difficulty)
        every = (known.level, *known.thresholds, *known.ties)
        sound = (
            all(isinstance(number, float) and math.isfinite(number) for number in every)
            and 0 < known.level < 1
            and known.score in get_args(Score)
            and bool(classes) == (known.score == "probability")
            and min(known.thresholds, default=-1) >= 0
            and len(known.thresholds) in {1, classes or 1}
            and len(known.ties) == (len(known.thresholds) if classes else 0)
            and (known.score == "error" or difficulty is None)
        )
        if not sound:
            raise ValueError("the calibration is damaged")
        return known


def held(
    score: Score, output: Output, threshold: Numbers, tie: Numbers | None = None, own: Numbers | None = None
) -> dict[str, NDArray[Any]]:
    """Return what lies within thresholds, as `Conformal.limits` does.

    Parameters
    ----------
    score : str
        See `Score`.
    output : Output
        What a model tells of n objects; its scale is that of the errors.
    threshold, tie : ndarray of float64, shape (n or 1, 1 or classes)
    own : ndarray of float64, shape (n,)
        Classification: each object's own number, from `ties`.
    """
    value = output.value
    if score == "probability":
        worse = missed(value)
        admitted = True if tie is None or own is None else own[:, None] <= tie
        return {"members": (worse < threshold) | ((worse == threshold) & admitted)}
    limit = np.broadcast_to(threshold[:, 0], len(value))
    if score == "error":
        half = limit if output.scale is None else limit * output.scale
        return {"low": value - half, "high": value + half}
    if output.mixture is None:
        if len(value):
            raise DataError(
                "the model does not tell the density by which it was calibrated", remedy="calibrate it again"
            )
        return {"low": value, "high": value, "pieces": np.empty((0, 1, 2))}
    pieces = highest(output.mixture, limit)
    low, high = np.nanmin(pieces[:, :, 0], axis=1), np.nanmax(pieces[:, :, 1], axis=1)
    return {"low": low, "high": high, "pieces": pieces}


def groups_of(group: NDArray[np.int64], thresholds: int, level: float) -> list[NDArray[np.bool_]]:
    """Return which calibration objects each threshold is learned from, where there may be one for each class.

    Parameters
    ----------
    group : ndarray of int64, shape (n,)
        See `Scores`.
    thresholds : int
        How many there are: 1, or one for each class.
    level : float

    Returns
    -------
    list of ndarray of bool, shape (n,)
        A class with too few objects takes the threshold of all.
    """
    every = np.ones(len(group), dtype=bool)
    least = max(LEAST_OF_CLASS, _least(level))
    own = [group == i for i in range(thresholds)]
    return [every] if thresholds == 1 else [mask if mask.sum() >= least else every for mask in own]


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


def missed(probability: Numbers) -> Numbers:
    """Return 1 − probability, the score of each class."""
    # Rounded, since sums in another order (other batches, another processor) would part equal scores.
    return np.round(1 - probability, 9)


def _errors(output: Output, y: Numbers, x: Arrays) -> Errors:
    size = np.abs(y - output.value)
    return Errors(x, output.value, size if output.scale is None else size / output.scale)


def _quantile(value: Numbers, tie: Numbers, level: float) -> tuple[float, float]:
    """Return the score, and its number among equals, that new objects exceed with probability 1 - level."""
    last = np.lexsort((tie, value))[rank_of(len(value), level) - 1]
    return float(value[last]), float(tie[last])


def rank_of(n: int, level: float) -> int:
    """Return the rank, from 1, of the score of n that new objects exceed with probability 1 − level or less.

    Raises
    ------
    DataError
        If there are too few objects for this level.
    """
    # 0.9 · 110 is 99.000…01 in floating point and must stay 99.
    rank = math.ceil((n + 1) * level - 1e-9)
    if rank > n:
        raise DataError(
            f"the calibration part has {n} objects, too few for level {level:g}",
            remedy=f"give at least {_least(level)}, better hundreds, or lower the level",
        )
    return rank


def _least(level: float) -> int:
    return math.ceil(level / (1 - level) - 1e-9)


def _differ(within: Sequence[NDArray[np.bool_]]) -> bool:
    """Tell whether classes are covered more unequally than chance allows: Pearson's χ² test."""
    if len(within) < 2:
        return False
    counts = np.array([[np.count_nonzero(one), np.count_nonzero(~one)] for one in within], dtype=np.float64)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    if not expected.all():
        return False
    squares = float(((counts - expected) ** 2 / expected).sum())
    return bool(chdtrc(len(within) - 1, squares) < DIFFER)


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
