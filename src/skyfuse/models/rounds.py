"""The models of all rounds of a cross-validation as one, with the intervals that all their errors make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import Examples, History, Lesson, Model, Output
from skyfuse.models.inputs import Arrays
from skyfuse.models.members import MembersModel
from skyfuse.models.mixture import Mixture
from skyfuse.models.uncertainty import Conformal, Scores, groups_of, missed, rank_of, ties
from skyfuse.words import Kind

if TYPE_CHECKING:
    from skyfuse.models.shift import Weighted

Numbers = NDArray[np.float64]

_ONE_TIE = 0.9e-9
"""What ties add to the scores of classes at most: these are rounded to 1e-9, and keep their order."""

_HALVINGS = 20
"""Halvings of the range over which the rounds disagree about the end of an interval: a millionth is left."""


@dataclass(frozen=True, slots=True)
class Joined(Output):
    """What models of several rounds tell together.

    Attributes
    ----------
    parts : tuple of Output
        What each of them tells; its scale is that of its calibration.
    """

    parts: tuple[Output, ...] = ()


class Rounds(MembersModel):
    """Mean of models that were each fitted in one round of a cross-validation.

    Its intervals are those of CV+ (Barber, Candès, Ramdas & Tibshirani 2021, Annals of Statistics 49, 486,
    section 3): each calibration object counts with its error under the model of its own round, which it took
    no part in, and with what that same model says of the new object; so they widen where the rounds disagree.
    They hold the truth with a probability of at least 2 · level − 1 whatever the models are (theorem 4, but
    for a term in the number of folds), and of about `level` where the models are stable. Sets of classes
    likewise (Romano, Sesia & Candès 2020, NeurIPS 33, section 3). Densities are averaged, and the threshold
    of all rounds' scores is used.

    Parameters
    ----------
    members : sequence of Model
        Fitted and calibrated, one a round; of one class, kind and inputs.

    Attributes
    ----------
    members : list of Model
    """

    name: ClassVar[str] = "rounds"
    title: ClassVar[str] = "Joined rounds"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    reads_sigma: ClassVar[bool] = True
    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        self._take(members)
        first = members[0]
        self.inputs, self.shapes = dict(first.inputs), dict(first.shapes)
        self.kind, self.classes = first.kind, first.classes
        self.fitted = True

    def _take(self, members: Sequence[Model]) -> None:
        told = {
            (type(one), one.kind, one.classes, *one.inputs.items(), *one.shapes.items()) for one in members
        }
        if not members or len(told) > 1 or not all(one.fitted and one.interval for one in members):
            raise UsageError(
                f"{len(members)} models of {len(told)} sorts are no rounds of one",
                remedy="give the fitted and calibrated models of one cross-validation",
            )
        self.members = list(members)
        self._scores: Scores | None = None
        self._round = np.empty(0, dtype=np.int64)

    def _fit(self, lesson: Lesson) -> History:
        raise UsageError("joined rounds are not fitted", remedy="fit each round's model, and join them")

    def join(self, scores: Sequence[Scores], level: float) -> None:
        """Calibrate by the errors of all rounds.

        Parameters
        ----------
        scores : sequence of Scores
            Of each round's calibration objects under its own model.
        level : float

        Raises
        ------
        DataError
            If there are too few objects for this level.
        """
        together = Scores(
            *(np.concatenate([getattr(one, name) for one in scores]) for name in ("value", "tie", "group"))
        )
        self.interval = Conformal.of(together, self._score, level, classes=len(self.classes))
        self._scores = together
        self._round = np.repeat(np.arange(len(scores)), [len(one.value) for one in scores])

    @property
    def _score(self) -> Any:
        plain = self.members[0].interval
        assert isinstance(plain, Conformal)  # noqa: S101 - rounds are not weighed for a survey
        return plain.score

    def calibrate(
        self, x: Arrays, y: ArrayLike, *, level: float = 0.9, beside: Examples | None = None
    ) -> None:
        """Calibrate on objects that no round has seen, as any other model; see `Model.calibrate`."""
        super().calibrate(x, y, level=level, beside=beside)
        self._scores = None

    def _predict(self, x: Arrays) -> Joined:
        parts = []
        for member in self.members:
            part = member._output(x)
            if isinstance(member.interval, Conformal) and member.interval.score == "error":
                part = Output(part.value, part.unknown, member.interval.scale(part, x), part.mixture)
            parts.append(part)
        value = np.mean([part.value for part in parts], axis=0)
        scales = [part.scale for part in parts if part.scale is not None]
        flags = [part.unknown for part in parts if part.unknown is not None]
        mixtures = [part.mixture for part in parts if part.mixture is not None]
        return Joined(
            value,
            unknown=np.mean(flags, axis=0) > 0.5 if flags else None,
            scale=np.mean(scales, axis=0) if scales else None,
            mixture=_averaged(mixtures) if mixtures else None,
            parts=tuple(parts),
        )

    def _limits(self, interval: Conformal | Weighted, output: Output, x: Arrays) -> dict[str, NDArray[Any]]:
        if self._scores is None or not isinstance(interval, Conformal) or not isinstance(output, Joined):
            return interval.limits(output, x)
        if interval.score == "density":
            return interval.limits(output, x)
        groups = groups_of(self._scores.group, len(interval.thresholds), interval.level)
        split = [[mask & (self._round == k) for k in range(len(self.members))] for mask in groups]
        if self.classes:
            probability = np.stack([part.value for part in output.parts])
            members = crossed_sets(probability, ties(x), self._scores, split, interval.level)
            return {"members": members}
        ordered = [np.sort(self._scores.value[own]) for own in split[0]]
        value = np.stack([part.value for part in output.parts])
        scale = np.stack([np.ones_like(output.value) if o.scale is None else o.scale for o in output.parts])
        rank = rank_of(len(self._scores.value), interval.level)
        return {
            "low": -crossed_end(-value, scale, ordered, rank),
            "high": crossed_end(value, scale, ordered, rank),
        }

    def _write(self, folder: Path) -> dict[str, Any]:
        none = np.empty(0)
        kept = self._scores or Scores(none, none, none.astype(np.int64))
        turn = self._round if self._scores else none.astype(np.int64)
        files.write_arrays({"value": kept.value, "tie": kept.tie, "group": kept.group, "round": turn}, folder)
        return {"members": self._save_members(folder)}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        members = files.load_members(folder, state["members"])
        if any(isinstance(member, Rounds) for member in members):
            raise StoreError("a member is itself of several rounds", remedy="join all rounds", path=folder)
        self._take(members)
        first = members[0]
        if (first.kind, first.classes, first.inputs, first.shapes) != (
            self.kind,
            self.classes,
            self.inputs,
            self.shapes,
        ):
            raise StoreError(
                "its members read or predict something else", remedy="join the rounds again", path=folder
            )
        kinds = {"value": "f8", "tie": "f8", "group": "i8", "round": "i8"}
        arrays = files.read_arrays(folder, {name: (kind, ("objects",)) for name, kind in kinds.items()})
        scores, turn = Scores(arrays["value"], arrays["tie"], arrays["group"]), arrays["round"]
        sound = (
            (scores.value >= 0).all()
            and ((scores.tie >= 0) & (scores.tie < 1)).all()
            and ((scores.group >= 0) & (scores.group < max(len(self.classes), 1))).all()
            and ((turn >= 0) & (turn < len(members))).all()
        )
        if not sound:
            raise StoreError("has scores that are none", remedy="join the rounds again", path=folder)
        if len(turn):
            self._scores, self._round = scores, turn


def crossed_end(value: Numbers, scale: Numbers, scores: Sequence[Numbers], rank: int) -> Numbers:
    """Return the upper end of each object's interval by CV+.

    It is the `rank`-th smallest of value + scale · score over all calibration objects, with value and scale
    as the model of the calibration object's own round tells them of the new one (Barber et al. 2021, eq. 8);
    rounded up by what bisection leaves.

    Parameters
    ----------
    value, scale : ndarray of float64, shape (rounds, n)
    scores : sequence of ndarray of float64
        Of the calibration objects of each round, in ascending order.
    rank : int
        From 1.
    """
    joined = np.concatenate(scores)
    starts = np.cumsum([0, *(len(one) for one in scores)])
    middle = np.sort(joined)[rank - 1]
    sides = (np.ascontiguousarray(side.T) for side in (value, scale))
    return np.asarray(_crossed_end(*sides, joined, starts, rank, middle))


@njit(cache=True, nogil=True)
def _crossed_end(
    value: Numbers, scale: Numbers, scores: Numbers, starts: NDArray[np.int64], rank: int, middle: float
) -> Numbers:
    found = np.empty(len(value))
    rounds = value.shape[1]
    for i in range(len(value)):
        # With the rank's score of all rounds, the lowest end is reached by too few, the highest by enough.
        low, high = np.inf, -np.inf
        for k in range(rounds):
            if starts[k + 1] > starts[k]:
                end = value[i, k] + scale[i, k] * middle
                low, high = min(low, end), max(high, end)
        # A hair wider, since rounding may part what is equal.
        high += 1e-12 * (abs(high) + high - low)
        for _ in range(_HALVINGS):
            if not low < high:
                break
            at = (low + high) / 2
            count = 0
            for k in range(rounds):
                own = scores[starts[k] : starts[k + 1]]
                count += np.searchsorted(own, (at - value[i, k]) / scale[i, k], side="right")
            if count >= rank:
                high = at
            else:
                low = at
        found[i] = high
    return found


def crossed_sets(
    probability: Numbers,
    numbers: Numbers,
    scores: Scores,
    split: Sequence[Sequence[NDArray[np.bool_]]],
    level: float,
) -> NDArray[np.bool_]:
    """Return the sets of classes by CV+, (n, classes).

    A class is in the set of an object unless (1 − level) of the calibration objects or fewer, the object
    among them, have as bad a score under their own round's model as the object would have under the same one
    (Romano et al. 2020, eq. 7).

    Parameters
    ----------
    probability : ndarray of float64, shape (rounds, n, classes)
    numbers : ndarray of float64, shape (n,)
        Each object's own, by which equal scores are ordered.
    scores : Scores
        Of the calibration objects.
    split : sequence of sequence of ndarray of bool
        For all classes, or for each, and in that for each round, the calibration objects that count.
    level : float
    """
    classes = probability.shape[2]
    better = np.zeros(probability.shape[1:], dtype=np.int64)
    keys = scores.value + _ONE_TIE * scores.tie
    for k, told in enumerate(probability):
        worse = missed(told) + _ONE_TIE * numbers[:, None]
        for c in range(classes):
            own = np.sort(keys[split[c if len(split) > 1 else 0][k]])
            better[:, c] += np.searchsorted(own, worse[:, c], side="left")
    counted = [sum(int(mask.sum()) for mask in one) for one in split]
    ranks = np.array([rank_of(n, level) for n in counted])
    return np.asarray(better < ranks)


def _averaged(mixtures: Sequence[Mixture]) -> Mixture:
    """Return the mean of densities."""
    centre, sigma, weight = (np.concatenate(arrays, axis=1) for arrays in zip(*mixtures, strict=True))
    return Mixture(centre, sigma, weight / len(mixtures))
