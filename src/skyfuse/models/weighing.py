"""One sample of objects weighed so that it stands for another: the ratio of two densities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import DataError

Numbers = NDArray[np.float64]

_STEEPEST = 30.0  # logarithm of a weight, at most and at least
_TRIALS = (0.001, 0.01, 0.1, 1.0, 10.0)  # strengths of the fit, chosen among by cross-validation
_FOLDS = 5
_SAMPLE = 4096  # objects of the target that weights are fitted on, at most


@dataclass(frozen=True)
class Ratio:
    """The ratio of two densities: its logarithm is a polynomial of second degree in the places.

    That is what two normal distributions of any covariances have to each other, and what a logistic
    regression on squares and products of the places learns from samples of both.

    Attributes
    ----------
    low, high : ndarray of float64, shape (axes,)
        Beyond which places count as there, so that no polynomial runs away.
    constant : ndarray of float64, shape (1,)
    linear : ndarray of float64, shape (axes,)
    square : ndarray of float64, shape (axes, axes)
    """

    low: Numbers
    high: Numbers
    constant: Numbers
    linear: Numbers
    square: Numbers

    LAYOUT: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "low": ("f8", ("axes",)),
        "high": ("f8", ("axes",)),
        "constant": ("f8", ("one",)),
        "linear": ("f8", ("axes",)),
        "square": ("f8", ("axes", "axes")),
    }

    def __call__(self, places: NDArray[np.floating]) -> Numbers:
        """Return the ratio at some places, (n,)."""
        z = np.clip(places.astype(np.float64), self.low, self.high)
        logarithm = self.constant[0] + z @ self.linear + ((z @ self.square) * z).sum(axis=1)
        return np.asarray(np.exp(np.clip(logarithm, -_STEEPEST, _STEEPEST)))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild what `arrays` gave.

        Raises
        ------
        ValueError
            If the numbers make no sense together.
        """
        known = cls(**arrays)
        if not (known.low <= known.high).all():
            raise ValueError("its weights are damaged")
        return known


@dataclass(frozen=True)
class Weighing:
    """How objects of one sample are weighed to stand for those of another.

    Attributes
    ----------
    ratio : Ratio
    target : ndarray of float64, shape (m,)
        Ratio at the objects of the target, each told by a fit without it.
    auc : float
        Probability that a fit without them tells an object of the target from one of the other sample: 0.5
        where they are alike, 1 where they are apart.
    """

    ratio: Ratio
    target: Numbers
    auc: float


def weigh(source: NDArray[np.floating], target: NDArray[np.floating]) -> Weighing:
    """Learn the ratio of the densities of two samples by telling them apart.

    A logistic regression with equal weights of both samples gives the logarithm of the ratio as its log odds
    (Bickel, Brückner & Scheffer 2007, ICML 24). Its strength is chosen by cross-validation.

    Parameters
    ----------
    source, target : ndarray, shape (n, axes) and (m, axes)
        Places of objects, in axes in which the source has variance 1.

    Raises
    ------
    DataError
        If there are too few of either.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, roc_auc_score

    fewest = 10 * _FOLDS
    for name, sample in (("training", source), ("data", target)):
        if len(sample) < fewest:
            raise DataError(
                f"the {name} has {len(sample)} objects that weights could be learned from",
                remedy=f"give at least {fewest}, better hundreds",
            )
    rng = np.random.default_rng(0)
    target = target[np.sort(rng.permutation(len(target))[:_SAMPLE])]
    both = np.concatenate([source, target]).astype(np.float64)
    is_target = np.arange(len(both)) >= len(source)
    low, high = np.quantile(both, [0.005, 0.995], axis=0)
    z = np.clip(both, low, high)
    features = _features(z)
    mean, std = features.mean(axis=0), features.std(axis=0)
    std = np.where(std > 1e-9, std, 1.0)
    features = (features - mean) / std
    turn = np.empty(len(both), dtype=np.int64)
    for part in (is_target, ~is_target):
        turn[part] = rng.permutation(int(part.sum())) % _FOLDS
    balance = np.where(is_target, len(both) / is_target.sum(), len(both) / (~is_target).sum()) / 2

    def learned(strength: float, rows: NDArray[np.bool_]) -> LogisticRegression:
        model = LogisticRegression(C=strength, max_iter=500, tol=1e-5)
        return model.fit(features[rows], is_target[rows], sample_weight=balance[rows])

    best, odds = _TRIALS[0], np.zeros(len(both))
    lowest = np.inf
    for strength in _TRIALS:
        held = np.empty(len(both))
        for fold in range(_FOLDS):
            held[turn == fold] = learned(strength, turn != fold).decision_function(features[turn == fold])
        loss = log_loss(is_target, 1 / (1 + np.exp(-held)), sample_weight=balance)
        if loss < lowest:
            best, odds, lowest = strength, held, loss
    final = learned(best, np.ones(len(both), dtype=bool))
    slope = final.coef_[0] / std
    axes = both.shape[1]
    square = np.zeros((axes, axes))
    square[np.triu_indices(axes)] = slope[axes:]
    constant = np.atleast_1d(final.intercept_[0] - slope @ mean)
    ratio = Ratio(low, high, constant, slope[:axes], (square + square.T) / 2)
    auc = float(roc_auc_score(is_target, odds))
    return Weighing(ratio, np.exp(np.clip(odds[is_target], -_STEEPEST, _STEEPEST)), auc)


def _features(z: Numbers) -> Numbers:
    """Return places, their squares and products."""
    rows, columns = np.triu_indices(z.shape[1])
    return np.concatenate([z, z[:, rows] * z[:, columns]], axis=1)


def weighted_rank(weights: Numbers, own: Numbers, level: float) -> NDArray[np.int64]:
    """Return which calibration score is the threshold of each new object.

    It is the smallest score up to which the weights of the calibration objects make `level` of all weight,
    the new object's own included (Tibshirani et al. 2019, eq. 8). With equal weights it is the
    ⌈(n + 1) · level⌉-th, as without weights.

    Parameters
    ----------
    weights : ndarray of float64, shape (n,)
        Of the calibration objects, in the order of their scores.
    own : ndarray of float64, shape (m,)
        Of the new objects.
    level : float

    Returns
    -------
    ndarray of int64, shape (m,)
        From 0; n where not even the largest score suffices.
    """
    reached = np.cumsum(weights)
    wanted = level * (reached[-1] + own)
    # 0.9 · 110 is 99.000…01 in floating point and must stay 99.
    return np.asarray(np.searchsorted(reached, wanted * (1 - 1e-12), side="left"), dtype=np.int64)


def effective_size(weights: Numbers) -> float:
    """Return how many equally weighted objects tell as much as weighted ones (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def apart(values: NDArray[np.floating], weights: Numbers, target: NDArray[np.floating]) -> float:
    """Return the greatest difference of two cumulative distributions, one of them weighted."""
    places = np.concatenate([values, np.quantile(target, np.arange(1, 40) / 40, method="inverted_cdf")])
    order = np.argsort(values, kind="stable")
    reached = np.append(0.0, np.cumsum(weights[order]) / weights.sum())
    ours = reached[np.searchsorted(values[order], places, side="right")]
    theirs = np.searchsorted(np.sort(target), places, side="right") / len(target)
    return float(np.abs(ours - theirs).max())
