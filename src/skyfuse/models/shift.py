"""Intervals and sets for a survey whose objects are other ones than those that a model was calibrated on.

Weighted conformal prediction (Tibshirani, Foygel Barber, Candès & Ramdas 2019, NeurIPS 32, eq. 8): where
labels follow from the inputs alike in both samples and only the inputs are distributed otherwise (covariate
shift), each calibration object counts by w(x), the ratio of the two densities of inputs, and each new object
counts with its own weight as if its score were infinite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
    """

    places: NDArray[np.float32]
    values: Numbers
    truth: Numbers
    scores: Numbers
    numbers: Numbers

    LAYOUT: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "places": ("f4", ("objects", "axes")),
        "values": ("f8", ("objects", "outputs")),
        "truth": ("f8", ("objects",)),
        "scores": ("f8", ("objects",)),
        "numbers": ("f8", ("objects",)),
    }

    @classmethod
    def of(cls, model: Model, x: Arrays, y: ArrayLike) -> Self:
        """Keep what a model tells of the objects that it was just calibrated on.

        Parameters
        ----------
        model : Model
            With its `applicability`, and its `interval` with scores.
        x : dict of str to ndarray
            As for `Model.calibrate`.
        y : array_like, shape (n,)
        """
        scores = model.interval.scores if isinstance(model.interval, Conformal) else None
        if model.applicability is None or scores is None:
            raise ValueError("the model is not calibrated, or does not tell what its training looked like")
        arrays = inside({name: x[name] for name in model._names.values()}, model.inputs)
        truth = np.asarray(y, dtype=np.float64)
        values = model._output(arrays).value.reshape(len(truth), -1)
        return cls(places_of(model.applicability, arrays), values, truth, scores.value, scores.tie)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, classes: int) -> Self:
        """Rebuild what `arrays` gave, of a model of so many classes (0: a regression).

        Raises
        ------
        ValueError
            If the numbers make no sense together.
        """
        known = cls(**arrays)
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
