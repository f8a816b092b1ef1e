"""Intervals and sets for a survey whose objects are other ones than those that a model was calibrated on.

Weighted conformal prediction (Tibshirani, Foygel Barber, Candès & Ramdas 2019, NeurIPS 32, eq. 8): where
labels follow from the inputs alike in both samples and only the inputs are distributed otherwise (covariate
shift), each calibration object counts by w(x), the ratio of the two densities of inputs, and each new object
counts with its own weight as if its score were infinite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.models.applicability import Applicability
from skyfuse.models.inputs import Arrays, inside
from skyfuse.models.summaries import summarise
from skyfuse.models.uncertainty import Conformal, groups_of
from skyfuse.models.weighing import Ratio, weighted_rank

if TYPE_CHECKING:
    from skyfuse.models.base import Model, Output

Numbers = NDArray[np.float64]

CORRELATED = 0.2
"""Rank correlation from which on errors go with a quantity: it then tells 4 % of their variance."""

MOST_BESIDE = 16
"""Quantities that are kept beside what a model reads, at most."""

_JUDGED = 2000  # objects by which it is judged, about: thousands more would only take time
_MOSTLY = 0.9  # share of objects of which a quantity must be known


@dataclass(frozen=True)
class Evidence:
    """What is kept of the objects that a model was calibrated on.

    Attributes
    ----------
    places : ndarray of float32, shape (n, axes)
        Where they stand in the axes of `skyfuse.models.applicability.Applicability`.
    values : ndarray of float64, shape (n, outputs)
        What the model tells of them: the value, or the probability of each class.
    truth : ndarray of float64, shape (n,)
        Labels, or indices of the true classes.
    scores : ndarray of float64, shape (n,)
        See `skyfuse.models.uncertainty.Scores`.
    numbers : ndarray of float64, shape (n,)
        By which equal scores are ordered.
    beside : ndarray of float64, shape (n, columns)
        What the model does not read, and its errors go with all the same (see `telling`).
    columns : tuple of str
        Names of these.
    """

    places: NDArray[np.float32]
    values: Numbers
    truth: Numbers
    scores: Numbers
    numbers: Numbers
    beside: Numbers
    columns: tuple[str, ...] = ()

    LAYOUT: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "places": ("f4", ("objects", "axes")),
        "values": ("f8", ("objects", "outputs")),
        "truth": ("f8", ("objects",)),
        "scores": ("f8", ("objects",)),
        "numbers": ("f8", ("objects",)),
        "beside": ("f8", ("objects", "columns")),
    }

    @classmethod
    def of(
        cls, model: Model, x: Arrays, y: ArrayLike, others: Mapping[str, NDArray[np.floating]] | None = None
    ) -> Self:
        """Keep what a model tells of the objects that it was just calibrated on.

        Parameters
        ----------
        model : Model
            With its `applicability`, and its `interval` with scores.
        x : dict of str to ndarray
            As for `Model.calibrate`.
        y : array_like, shape (n,)
        others : mapping of str to ndarray, shape (n,), optional
            What else is known of these objects, by name; NaN where it is not.
        """
        scores = model.interval.scores if isinstance(model.interval, Conformal) else None
        if model.applicability is None or scores is None:
            raise ValueError("the model is not calibrated, or does not tell what its training looked like")
        arrays = inside({name: x[name] for name in model._names.values()}, model.inputs)
        truth = np.asarray(y, dtype=np.float64)
        value = model._output(arrays).value
        errors = errors_of(scores.value, truth, value)
        beside = telling(errors, others or {})
        table = np.stack([*beside.values()], axis=1) if beside else np.empty((len(truth), 0))
        places, told = places_of(model.applicability, arrays), value.reshape(len(truth), -1)
        return cls(places, told, truth, scores.value, scores.tie, table, tuple(beside))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept, by name, besides the names of columns."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "columns"}

    @classmethod
    def of_arrays(cls, columns: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], *, classes: int) -> Self:
        """Rebuild what `arrays` gave, of a model of so many classes (0: a regression).

        Raises
        ------
        ValueError
            If the numbers make no sense together.
        """
        known = cls(**arrays, columns=columns)
        indices = known.truth.astype(np.int64)
        sound = (
            len(known.scores) > 0
            and (known.scores >= 0).all()
            and ((known.numbers >= 0) & (known.numbers < 1)).all()
            and (not classes or ((indices == known.truth) & (indices >= 0) & (indices < classes)).all())
        )
        if not sound:
            raise ValueError("what it keeps of its calibration is damaged")
        return known


@dataclass(frozen=True)
class Weighted:
    """A calibration for objects that are distributed otherwise than those that it was learned from.

    Attributes
    ----------
    plain : Conformal
        The calibration of the model's own survey.
    evidence : Evidence
    ratio : Ratio
        Density of the target's inputs over that of the model's own survey.
    applicability : Applicability
    """

    plain: Conformal
    evidence: Evidence
    ratio: Ratio
    applicability: Applicability

    @property
    def level(self) -> float:
        """Probability that the interval or set holds the truth."""
        return self.plain.level

    def limits(self, output: Output, x: Arrays) -> dict[str, NDArray[Any]]:
        """Return what holds the truth with probability `level`, see `Conformal.limits`.

        Where an object's own weight is too large for any promise, the interval is infinite, and the set holds
        all classes.
        """
        own = self.evidence
        weights = self.ratio(own.places)
        new = self.ratio(places_of(self.applicability, x))
        found = []
        for group in groups_of(own.truth.astype(np.int64), len(self.plain.thresholds), self.plain.level):
            order = np.flatnonzero(group)[np.lexsort((own.numbers[group], own.scores[group]))]
            rank = weighted_rank(weights[order], new, self.plain.level)
            found.append(
                (np.append(own.scores[order], np.inf)[rank], np.append(own.numbers[order], 1.0)[rank])
            )
        threshold, tie = (np.stack(side, axis=1) for side in zip(*found, strict=True))
        return self.plain.limits(output, x, threshold=threshold, tie=tie)


def errors_of(scores: Numbers, truth: Numbers, values: Numbers) -> list[Numbers]:
    """Return what may go with a quantity: the size of errors, and of a regression their side."""
    values = values.reshape(len(truth), -1)
    return [scores] if values.shape[1] > 1 else [scores, truth - values[:, 0]]


def telling(errors: Sequence[Numbers], others: Mapping[str, NDArray[np.floating]]) -> dict[str, Numbers]:
    """Return what a model's errors go with though it does not read it.

    Where such a quantity is distributed otherwise in another survey, errors are, too, even of objects whose
    inputs are alike: a shift that the inputs do not show. It counts where the rank correlation with an error
    exceeds `CORRELATED` and four times what chance brings.

    Parameters
    ----------
    errors : sequence of ndarray of float64, shape (n,)
    others : mapping of str to ndarray, shape (n,)

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        Those that count, the strongest first, at most `MOST_BESIDE`; the median where there is no value.
    """
    found: dict[str, tuple[float, Numbers]] = {}
    n = len(errors[0])
    for name, values in others.items():
        known = np.isfinite(values)
        if known.sum() < _MOSTLY * n:
            continue
        strength = strength_of(values[known], [error[known] for error in errors])
        if strength > max(CORRELATED, 4 / np.sqrt(n)):
            found[name] = strength, np.where(known, values, np.median(values[known])).astype(np.float64)
    order = sorted(found, key=lambda name: -found[name][0])
    return {name: found[name][1] for name in order[:MOST_BESIDE]}


def strength_of(values: NDArray[np.floating], errors: Sequence[Numbers]) -> float:
    """Return the greatest rank correlation, without its sign, of a quantity with one of some errors."""
    from scipy.stats import spearmanr

    step = max(len(values) // _JUDGED, 1)
    found = [0.0]
    for error in errors:
        if np.ptp(error[::step]) > 0 and np.ptp(values[::step]) > 0:
            found.append(abs(float(spearmanr(values[::step], error[::step]).statistic)))
    return max(found)


class Digest:
    """SHA-256 of what a model read of some objects, by which the same objects are known again."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, x: Arrays) -> None:
        """Take in the inputs of some more objects."""
        for name in sorted(x):
            self._sha.update(name.encode() + np.ascontiguousarray(x[name]).data)

    def __str__(self) -> str:
        return self._sha.hexdigest()


def places_of(applicability: Applicability, arrays: Arrays) -> NDArray[np.float32]:
    """Return where objects stand, from arrays as they are called inside a model."""
    return applicability.places(summarise(arrays, ()))
