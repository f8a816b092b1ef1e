"""Whether the level of intervals or sets can be kept for a survey whose objects come without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import DataError
from skyfuse.models.applicability import Applicability
from skyfuse.models.shift import Evidence, Weighted, errors_of, strength_of
from skyfuse.models.uncertainty import Conformal, groups_of
from skyfuse.models.weighing import Numbers, Weighing, apart, effective_size, weigh, weighted_rank

STRAY = 0.05
"""How far the coverage may stray from its level."""

SIGMAS = 2.5
"""Standard deviations of the coverage by which it may not stray: two for the calibration objects' chance, and
half of one more for that of the weights, which simulated shifts show."""

NEARBY = 30
"""Calibration objects that tell how well a level is kept about a place."""

MOST_OUTSIDE = 0.1
"""Share of a target's objects outside of the training beyond which nothing is promised for it."""

MOST_APART = 0.95
"""Probability of telling two samples apart beyond which they are taken for separable."""


@dataclass(frozen=True)
class Sample:
    """Unlabelled objects of a target, as far as a model tells of them.

    Attributes
    ----------
    places : ndarray of float32, shape (n, axes)
    values : ndarray of float64, shape (n, outputs)
        As `Evidence.values`.
    outside : ndarray of bool, shape (n,)
        Whether the training held none of the like.
    beside : mapping of str to ndarray
        Values of those of `Evidence.columns` that are known of them, none of them missing.
    """

    places: NDArray[np.float32]
    values: Numbers
    outside: NDArray[np.bool_]
    beside: Mapping[str, Numbers]


@dataclass(frozen=True)
class Promise:
    """What a weighted calibration rests on.

    Attributes
    ----------
    given, outside : int
        Objects of the target, and how many of them the training held none of the like of.
    calibrated : int
        Calibration objects.
    effective : float
        How many equally weighted ones would tell as much, see `effective_size`.
    spread : float
        Standard deviation of the coverage that so few leave.
    apart : float
        `Weighing.auc`.
    beside : int
        Of what the model does not read and its errors go with, how much was compared.
    """

    given: int
    outside: int
    calibrated: int
    effective: float
    spread: float
    apart: float
    beside: int


def promised(
    applicability: Applicability, plain: Conformal, evidence: Evidence, sample: Sample
) -> tuple[Weighted, Promise]:
    """Weigh a calibration for a target, or refuse where its level could not be kept.

    Parameters
    ----------
    applicability : Applicability
    plain : Conformal
    evidence : Evidence
    sample : Sample
        Objects of the target.

    Returns
    -------
    Weighted, Promise

    Raises
    ------
    DataError
        If no promise can be made: too few objects, too many outside of the training, samples that can be told
        apart, too few calibration objects that count, weights that do not make the samples alike, a shift in
        what the model does not read and its errors go with, or a shift of the labels' shares that would
        explain the samples as well and break the promise.
    """
    n, inner = len(sample.outside), sample.places[~sample.outside]
    outside = int(sample.outside.sum())
    if outside > MOST_OUTSIDE * n:
        raise _refusal(
            f"{outside} of its {n} objects ({outside / n:.0%}) lie outside of what the training taught",
            "cut it to objects like those of the training, which skyfuse predict tells, or train on such too",
        )
    weighing = weigh(applicability.points, inner)
    if weighing.auc > MOST_APART:
        raise _refusal(
            f"its objects can be told from those of the training in {weighing.auc:.0%} of pairs: hardly any "
            "of the calibration objects is like them",
            "train and calibrate on objects of its kind",
        )
    weights = weighing.ratio(evidence.places)
    effective = effective_size(weights)
    weighted = Weighted(plain, evidence, weighing.ratio, applicability)
    within, told = _within(plain, evidence, weights, float(np.median(weighing.target)))
    told_by = np.sqrt(np.square(weights * (within - plain.level)).sum()) / weights.sum()
    spread = max(float(told_by), math.sqrt(plain.level * (1 - plain.level) / effective))
    promise = Promise(n, outside, len(weights), effective, spread, weighing.auc, len(sample.beside))
    _require_nothing_beside(weights, evidence, sample.beside)
    if not told or SIGMAS * spread > STRAY:
        raise _refusal(
            f"weighed for it, the {len(weights)} calibration objects tell as much as {effective:.0f}: the "
            f"coverage would be known to ± {SIGMAS * spread:.3f} at best, and ± {STRAY:g} is wanted",
            "calibrate on more objects like it",
        )
    points = applicability.points
    _require_alike("the inputs", weighing.ratio(points), points, inner)
    _require_alike("the model's predictions", weights, evidence.values, sample.values[~sample.outside])
    if plain.score == "probability":
        _require_no_label_shift(weighing, evidence, sample, within, plain.level)
    return weighted, promise


def borne_out(plain: Conformal, evidence: Evidence, places: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where the calibration objects nearby are covered as often as the level says.

    A level holds on the average over objects that come as those of the training came; of a sample that leans
    to one side only these remain, as far as calibration objects can tell.

    Parameters
    ----------
    plain : Conformal
    evidence : Evidence
    places : ndarray, shape (n, axes)

    Returns
    -------
    ndarray of bool, shape (n,)
        Whether of the `NEARBY` calibration objects about the nearest one more lie within their intervals or
        sets than `level` asks for: at least one more, since places are picked that may have been lucky.
    """
    from scipy.spatial import KDTree

    within, _ = _within(plain, evidence, np.ones(len(evidence.truth)), 1.0)
    tree = KDTree(evidence.places)
    nearby = min(NEARBY, len(within))
    _, about = tree.query(evidence.places, k=nearby)
    asked = min(math.ceil(plain.level * nearby - 1e-9) + 1, nearby)
    kept = within[about.reshape(len(within), -1)].sum(axis=1) >= asked
    _, nearest = tree.query(places)
    return np.asarray(kept[nearest])


def _within(
    plain: Conformal, evidence: Evidence, weights: Numbers, own: float
) -> tuple[NDArray[np.bool_], bool]:
    """Return which calibration objects lie within the thresholds of a new object, and whether it has all."""
    truth = evidence.truth.astype(np.int64)
    within, finite = np.zeros(len(truth), dtype=bool), True
    groups = groups_of(truth, len(plain.thresholds), plain.level)
    for i, group in enumerate(groups):
        order = np.flatnonzero(group)[np.lexsort((evidence.numbers[group], evidence.scores[group]))]
        last = int(weighted_rank(weights[order], np.array([own]), plain.level)[0])
        finite &= last < len(order)
        below = order[: last + 1]
        within[below if len(groups) == 1 else below[truth[below] == i]] = True
    return within, finite


def _refusal(reason: str, remedy: str) -> DataError:
    return DataError(f"no level can be promised for it: {reason}", remedy=remedy)


def _require_alike(
    what: str, weights: Numbers, values: NDArray[np.floating], target: NDArray[np.floating]
) -> None:
    """Refuse weights under which some numbers (n, k) are not distributed as in the target."""
    allowed = 0.1 + 1.36 / np.sqrt(effective_size(weights))
    most = max(apart(values[:, k], weights, target[:, k]) for k in range(values.shape[1]))
    if most > allowed:
        raise _refusal(
            f"even weighed, the model's own objects are not like it: {what} are distributed otherwise "
            f"(greatest difference {most:.2f}, {allowed:.2f} is allowed)",
            "calibrate on objects of its kind",
        )


HIDDEN = 0.5
"""Rank correlation of errors with what the data does not tell, beyond which nothing is promised."""


def _require_nothing_beside(weights: Numbers, evidence: Evidence, beside: Mapping[str, Numbers]) -> None:
    """Refuse where what the errors go with differs though the inputs are weighed alike."""
    allowed = 0.1 + 1.36 / np.sqrt(effective_size(weights))
    errors = errors_of(evidence.scores, evidence.truth, evidence.values)
    for name, own in zip(evidence.columns, evidence.beside.T, strict=True):
        target = beside.get(name)
        if target is None or not len(target):
            strength = strength_of(own, errors)
            if strength > HIDDEN:
                raise _refusal(
                    f"the model's errors go with {name} (rank correlation {strength:.2f}), which neither the "
                    "model reads nor the data tells",
                    f"train a model that reads {name}, or give data that has it",
                )
            continue
        beyond = float(np.mean((target < own.min()) | (target > own.max())))
        most = apart(own, weights, target)
        if most > allowed or beyond > MOST_OUTSIDE:
            reason = (
                f"{beyond:.0%} of its objects lie outside of the calibration's range of it"
                if beyond > MOST_OUTSIDE
                else f"it is distributed otherwise even when weighed (greatest difference {most:.2f})"
            )
            raise _refusal(
                f"the model's errors go with {name}, which it does not read, and {reason}",
                f"train a model that reads {name}, or cut the data to a like range of it",
            )


def label_shares(evidence: Evidence, target: Numbers) -> Numbers:
    """Return the ratio of each class's share in a target to that among the calibration objects.

    It is the one under which the classes that the model predicts for the target come out, were each class's
    inputs alike in both (label shift; black box shift estimation: Lipton, Wang & Smola 2018, ICML 35).

    Parameters
    ----------
    evidence : Evidence
        Of a classification.
    target : ndarray of float64, shape (n, classes)
        Probabilities for the objects of the target.

    Returns
    -------
    ndarray of float64, shape (classes,)
        0 or more; 1 for classes that no calibration object has.
    """
    from scipy.optimize import nnls

    classes = evidence.values.shape[1]
    truth = evidence.truth.astype(np.int64)
    # Mean probabilities by true class: soft counts are less noisy than those of the most probable class.
    joint = np.stack([evidence.values[truth == k].sum(axis=0) for k in range(classes)], axis=1) / len(truth)
    known = np.bincount(truth, minlength=classes) > 0
    found = np.ones(classes)
    found[known] = nnls(joint[:, known], target.mean(axis=0))[0]
    return found


def _require_no_label_shift(
    weighing: Weighing, evidence: Evidence, sample: Sample, within: NDArray[np.bool_], level: float
) -> None:
    """Refuse where other shares of the classes explain the target as well, and would break the promise."""
    inner = sample.values[~sample.outside]
    ratio = label_shares(evidence, inner)
    own = ratio[evidence.truth.astype(np.int64)]
    coverage = float((own * within).sum() / own.sum())
    if abs(coverage - level) <= STRAY:
        return
    # Which tells the two samples apart better: the inputs, or the classes alone?
    classes = np.log(np.maximum(np.concatenate([evidence.values @ ratio, inner @ ratio]), 1e-12))
    inputs = np.log(
        np.concatenate([weighing.ratio(evidence.places), weighing.ratio(sample.places[~sample.outside])])
    )
    is_target = np.arange(len(classes)) >= len(evidence.truth)
    if _loss(classes, is_target) > _loss(inputs, is_target) + 0.02:
        return
    shares = ratio * np.bincount(evidence.truth.astype(np.int64), minlength=len(ratio)) / len(evidence.truth)
    raise _refusal(
        "it may as well hold other shares of the classes (label shift: "
        f"{', '.join(f'{share:.2f}' for share in shares)} in the order of the model's classes), and then its "
        f"sets would cover {coverage:.2f}",
        "calibrate on objects of its kind, or state the shares of its classes by a labelled part of it",
    )


def _loss(odds: Numbers, is_target: NDArray[np.bool_]) -> float:
    """Return the log loss of log odds, both samples counting alike."""
    losses = np.logaddexp(0, np.where(is_target, -odds, odds))
    return float((losses[is_target].mean() + losses[~is_target].mean()) / 2)
