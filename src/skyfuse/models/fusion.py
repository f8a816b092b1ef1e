"""Late fusion: several fitted models, one weighted mean of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import StoreError, UsageError
from skyfuse.models.base import History, Lesson, Model
from skyfuse.models.inputs import Arrays
from skyfuse.models.members import MembersModel
from skyfuse.words import Kind

MAX_MEMBERS = 12
"""The exact search for weights visits each subset of the members: 4,095 of them."""

STEPS = 10_000
"""Steps of the search for the weights of a classification at most."""


class LateFusion(MembersModel):
    """Mean of the values or the probabilities of fitted models, each of which reads its own inputs.

    Parameters
    ----------
    members : sequence of Model
        Fitted, 2 to `MAX_MEMBERS`, for one kind of label and the same classes.
    rule : {"mean", "weighted"}
        ``mean``: equal weights. ``weighted``: the weights, none negative and their sum 1, that minimise the
        mean square error (stacking; Breiman 1996, Machine Learning 24, 49) or the log loss (Smyth & Wolpert
        1999, Machine Learning 36, 59) over the validation part.

    Attributes
    ----------
    mix : ndarray of float64, shape (members,)
        Weight of each member; known after `fit`.
    """

    name: ClassVar[str] = "late"
    title: ClassVar[str] = "Late fusion"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    reads_sigma: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True

    def __init__(self, members: Sequence[Model], rule: Literal["mean", "weighted"] = "mean") -> None:
        super().__init__(rule=rule)
        self._take(members)

    def _take(self, members: Sequence[Model]) -> None:
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise UsageError(
                f"late fusion got {len(members)} members", remedy=f"give 2 to {MAX_MEMBERS} fitted models"
            )
        if self.params["rule"] not in ("mean", "weighted"):
            raise UsageError(f"rule is {self.params['rule']!r}", remedy="give 'mean' or 'weighted'")
        unfitted = [member.name for member in members if not member.fitted]
        if unfitted:
            raise UsageError(f"members are not fitted: {', '.join(unfitted)}", remedy="fit each member first")
        if len({(member.kind, member.classes) for member in members}) > 1:
            raise UsageError("members predict different things", remedy="fuse models of one label")
        self.members = list(members)
        self.mix = np.full(len(members), 1 / len(members))

    def _fit(self, lesson: Lesson) -> History:
        kind, classes = self.members[0].kind, self.members[0].classes
        if (lesson.kind, lesson.classes) != (kind, classes):
            raise UsageError(
                f"members were fitted for {' or '.join(classes) or kind}",
                remedy="fit the fusion with their kind and classes",
            )
        valid = self._outputs(lesson.valid)
        if self.params["rule"] == "weighted":
            if classes:
                self.mix = mixture_weights(valid[np.arange(len(valid)), lesson.y_valid])
            else:
                self.mix = simplex_weights(valid, lesson.y_valid)
        if lesson.progress is not None:
            lesson.progress(1, 1, "weights " + ", ".join(f"{weight:.3f}" for weight in self.mix))
        return lesson.history(self._outputs(lesson.train) @ self.mix, valid @ self.mix)

    def _outputs(self, x: Arrays) -> NDArray[np.float64]:
        """Return values (n, members) or probabilities (n, classes, members)."""
        # Members know inputs by their own names.
        named = {name: x[slot] for slot, name in self._names.items()}
        return np.stack([one._output(one._inside(named)).value for one in self.members], axis=-1)

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        value: NDArray[np.float64] = self._outputs(x) @ self.mix
        return value

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"members": self._save_members(folder), "weights": self.mix.tolist()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        from skyfuse.models.files import load_members

        weights = np.array(state["weights"], dtype=np.float64)
        members = load_members(folder, state["members"])
        if any(isinstance(member, LateFusion) for member in members):
            raise StoreError(
                "a member is itself a late fusion", remedy="fuse its members at once", path=folder
            )
        self._take(members)
        if (members[0].kind, members[0].classes) != (self.kind, self.classes):
            raise StoreError("its members predict something else", remedy="fit the fusion again", path=folder)
        if weights.shape != (len(members),) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise StoreError(
                f"has the weights {weights.tolist()} for {len(members)} members",
                remedy="fit the fusion again",
                path=folder,
            )
        self.mix = weights


def mixture_weights(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights w ≥ 0 with Σ w = 1 that maximise Σ ln(likelihood · w).

    Expectation and maximisation of the mixture, which climbs to the one maximum of this concave function
    (Dempster, Laird & Rubin 1977, JRSS B 39, 1).

    Parameters
    ----------
    likelihood : ndarray of float64, shape (n, members)
        Probability that each member gave to the true class.

    Returns
    -------
    ndarray of float64, shape (members,)
    """
    # Where every member excluded the truth, no weights are better than others.
    likelihood = np.clip(likelihood, np.finfo(np.float64).eps, None)
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(STEPS):
        share = likelihood * weights
        better = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
        step = float(np.abs(better - weights).max())
        weights = better
        if step < 1e-9:
            break
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def simplex_weights(values: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights w ≥ 0 with Σ w = 1 that minimise |values · w − y|², exactly.

    The minimum lies inside one face of the simplex, where only the sum is a constraint: each face is solved
    by least squares and the best admissible solution wins. Of equally good ones, the one with the fewest
    members is taken.

    Parameters
    ----------
    values : ndarray of float64, shape (n, members)
    y : ndarray of float64, shape (n,)

    Returns
    -------
    ndarray of float64, shape (members,)
    """
    count = values.shape[1]
    best, best_error = np.full(count, 1 / count), np.inf
    for size in range(1, count + 1):
        for face in combinations(range(count), size):
            last, others = face[-1], list(face[:-1])
            base = values[:, last]
            free = np.linalg.lstsq(values[:, others] - base[:, None], y - base, rcond=None)[0]
            weights = np.zeros(count)
            weights[others], weights[last] = free, 1 - free.sum()
            error = float(np.mean(np.square(values @ weights - y)))
            if weights.min() >= 0 and error < best_error:
                best, best_error = weights, error
    return best
