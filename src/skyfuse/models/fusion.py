"""Late fusion: several fitted models, one weighted mean of their predictions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import StoreError, UsageError
from skyfuse.models.base import Arrays, History, Model, Progress, rmse

MAX_MEMBERS = 12
"""The exact search for weights visits each subset of the members: 4,095 of them."""


class LateFusion(Model):
    """Mean of the predictions of fitted models, each of which reads its own modalities.

    Parameters
    ----------
    members : sequence of Model
        Fitted, 2 to `MAX_MEMBERS`.
    rule : {"mean", "weighted"}
        ``mean``: equal weights. ``weighted``: the weights, none negative and their sum 1, that minimise the
        mean square error over the validation part (stacking; Breiman 1996, Machine Learning 24, 49).

    Attributes
    ----------
    weights : ndarray of float64, shape (members,)
        Known after `fit`.
    """

    name: ClassVar[str] = "late"

    def __init__(self, members: Sequence[Model], rule: Literal["mean", "weighted"] = "mean") -> None:
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise UsageError(
                f"late fusion got {len(members)} members", remedy=f"give 2 to {MAX_MEMBERS} fitted models"
            )
        if rule not in ("mean", "weighted"):
            raise UsageError(f"rule is {rule!r}", remedy="give 'mean' or 'weighted'")
        unfitted = [member.name for member in members if not member.shapes]
        if unfitted:
            raise UsageError(f"members are not fitted: {', '.join(unfitted)}", remedy="fit each member first")
        super().__init__(rule=rule)
        self.members = list(members)
        self.weights = np.full(len(members), 1 / len(members))

    def _fit(
        self,
        train: Arrays,
        y: NDArray[np.float64],
        valid: Arrays,
        y_valid: NDArray[np.float64],
        *,
        seed: int,
        folder: Path | None,
        progress: Progress | None,
    ) -> History:
        values = self._member_values(valid)
        if self.params["rule"] == "weighted":
            self.weights = simplex_weights(values, y_valid)
        if progress is not None:
            progress(1, 1, "weights " + ", ".join(f"{weight:.3f}" for weight in self.weights))
        return History(
            train=[rmse(self._member_values(train) @ self.weights - y)],
            valid=[rmse(values @ self.weights - y_valid)],
            best=0,
        )

    def _member_values(self, x: Arrays) -> NDArray[np.float64]:
        return np.stack([member.predict(x).value for member in self.members], axis=1)

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        value: NDArray[np.float64] = self._member_values(x) @ self.weights
        return value

    def _write(self, folder: Path) -> dict[str, Any]:
        names = [f"member-{i}" for i in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            member.save(folder / name)
        return {"members": names, "weights": self.weights.tolist()}

    @classmethod
    def _read(
        cls, folder: Path, params: dict[str, Any], shapes: dict[str, tuple[int, ...]], state: dict[str, Any]
    ) -> Self:
        from skyfuse.models.files import load_model

        names, weights = state["members"], np.array(state["weights"], dtype=np.float64)
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"member-\d{1,2}", name):
                raise StoreError(
                    f"names the member {name!r}",
                    remedy="members are folders member-0, member-1 …",
                    path=folder,
                )
            if (folder / name).is_symlink():
                raise StoreError("is a link", remedy="copy the member's folder itself", path=folder / name)
        members = [load_model(folder / name) for name in names]
        if any(isinstance(member, cls) for member in members):
            raise StoreError(
                "a member is itself a late fusion", remedy="fuse its members at once", path=folder
            )
        model = cls(members, **params)
        if weights.shape != (len(members),) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise StoreError(
                f"has the weights {weights.tolist()} for {len(members)} members",
                remedy="fit the fusion again",
                path=folder,
            )
        model.weights = weights
        model.shapes = shapes
        return model


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
