"""The scores of the studies by kind of task, each defined once: for objects, and for resamples of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError

if TYPE_CHECKING:
    from skyfuse.recipe import Task
    from skyfuse.words import Kind

METRICS_OF: dict[str, tuple[str, ...]] = {
    "regression": ("r2", "mae", "rmse", "nmad"),
    "classification": (
        "accuracy",
        "f1_macro",
        "f1_weighted",
        "precision_macro",
        "recall_macro",
        "log_loss",
    ),
    "reconstruction": ("mse", "explained"),
}
"""Names of the scores by kind of task, in the order of tables."""

REDSHIFT = ("bias", "sigma_nmad", "outliers", "sigma_rms")
"""Further scores of a regression whose label is a redshift."""

PRIMARY: dict[str, str] = {
    "regression": "r2",
    "classification": "f1_macro",
    "reconstruction": "explained",
}
"""The score that chooses between models; the higher, the better."""

LABELS = {
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
    "nmad": "NMAD",
    "bias": "bias",
    "sigma_nmad": "σ_NMAD",
    "outliers": "outliers",
    "sigma_rms": "σ_rms",
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "log_loss": "log loss",
    "mse": "MSE",
    "explained": "explained share",
}
"""The scores as tables and axes print them."""

NMAD_SCALE = 1.4826
"""Makes the median absolute deviation of a Gaussian its standard deviation: 1/Φ⁻¹(3/4)."""


def names_of(task: Task) -> tuple[str, ...]:
    """Return the names of a task's scores, in the order of tables."""
    return METRICS_OF[task.kind] + (REDSHIFT if task.redshift else ())


@dataclass(frozen=True)
class Outcome:
    """What one model says of n objects, and what is true of them.

    Attributes
    ----------
    kind : str
        Kind of task.
    truth : ndarray, shape (n,)
        Regression: label. Classification: index of the class. Reconstruction: mean square of the object's
        scaled input about the mean training spectrum, which is the error of the best constant.
    value : ndarray, shape (n,)
        Regression: prediction. Classification: index of the predicted class. Reconstruction: mean squared
        error of the object, in the same scaled units.
    probability : ndarray of float64, shape (n, classes), or None
        Classification alone.
    outlier : float or None
        Regression of a redshift: size of Δz/(1+z) above which it is an outlier.
    """

    kind: Kind
    truth: NDArray[Any]
    value: NDArray[Any]
    probability: NDArray[np.float64] | None = None
    outlier: float | None = None

    def __post_init__(self) -> None:
        paired(self.truth, self.value)
        if self.probability is not None:
            if len(self.probability) != len(self.truth):
                raise DataError(
                    f"{len(self.truth)} labels against probabilities of shape {self.probability.shape}",
                    remedy="give one row of probabilities for each object",
                )
            if not np.isfinite(self.probability).all():
                raise DataError("probabilities are not finite", remedy="leave these objects out")

    def score(self) -> dict[str, float | None]:
        """Return the scores of these objects by name, None where one has no meaning (see `undefined`)."""
        found = {name: float(v[0]) for name, v in self.scores(np.ones((1, len(self.truth)))).items()}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    def undefined(self) -> str | None:
        """Return in one clause why the primary score of these objects has no meaning; None where it has."""
        primary = PRIMARY[self.kind]
        if self.score()[primary] is not None:
            return None
        equal = "labels" if self.kind == "regression" else "inputs"
        return f"{LABELS[primary]} has no meaning: all {equal} of these {len(self.truth)} objects are equal"

    def scores(self, counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the scores of resamples in which object j stands counts[i, j] times.

        Parameters
        ----------
        counts : ndarray of float64, shape (samples, n)

        Returns
        -------
        dict of str to ndarray of float64, shape (samples,)
            NaN where a score has no meaning.
        """
        if self.kind == "classification":
            return self._classification(counts)
        if self.kind == "reconstruction":
            total, error = counts.sum(axis=1), counts @ self.value
            spread = counts @ self.truth
            return {
                "mse": error / total,
                "explained": 1 - error / np.where(spread > 0, spread, np.nan),
            }
        return self._regression(counts)

    def _regression(self, counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        y = self.truth
        error = y - self.value
        total = counts.sum(axis=1)
        squares = counts @ error**2
        found = {
            "r2": 1 - squares / spread_of(y, counts),
            "mae": counts @ np.abs(error) / total,
            "rmse": np.sqrt(squares / total),
            "nmad": _nmad(error, counts),
        }
        if self.outlier is None:
            return found
        relative = -error / (1 + y)
        # The variance of Δz about its mean, from centred values that do not cancel.
        centre = error.mean()
        mean = counts @ (error - centre) / total
        return {
            **found,
            "bias": counts @ relative / total,
            "sigma_nmad": _nmad(relative, counts),
            "outliers": counts @ (np.abs(relative) > self.outlier) / total,
            "sigma_rms": np.sqrt(np.maximum(counts @ (error - centre) ** 2 / total - mean**2, 0)),
        }

    def _classification(self, counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `scores` of a classification.

        Macro scores are means over the classes that stand among all objects or are predicted for one, in each
        resample: a mean over the classes that a resample happens to hold would be that of another question.
        """
        if self.probability is None:
            raise DataError("a classification has no probabilities", remedy="predict them")
        every = np.arange(self.probability.shape[1])
        true, said = self.truth[:, None] == every, self.value[:, None] == every
        marks = [mark.astype(np.float64) for mark in (true & said, true, said)]
        whole = [mark.sum(axis=0) for mark in marks]
        both, real, named = (counts @ mark for mark in marks)
        total = counts.sum(axis=1)
        precision = _share(both, named, *(whole[i] for i in (0, 2)))
        recall = _share(both, real, *(whole[i] for i in (0, 1)))
        f1 = _share(2 * both, real + named, 2 * whole[0], whole[1] + whole[2])
        # A class that neither stands among the objects nor is predicted has no score.
        seen = max(np.count_nonzero(whole[1] + whole[2]), 1)
        eps = np.finfo(np.float64).eps
        at_truth = np.clip(self.probability[np.arange(len(self.truth)), self.truth], eps, 1 - eps)
        return {
            "accuracy": both.sum(axis=1) / total,
            "f1_macro": f1.sum(axis=1) / seen,
            "f1_weighted": (f1 * real).sum(axis=1) / total,
            "precision_macro": precision.sum(axis=1) / seen,
            "recall_macro": recall.sum(axis=1) / seen,
            "log_loss": counts @ -np.log(at_truth) / total,
        }


def _share(
    part: NDArray[np.float64],
    of: NDArray[np.float64],
    part_whole: NDArray[np.float64],
    of_whole: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return part / of for each resample and class, each of shape (samples, classes).

    What a resample leaves undefined, for it holds no object of a rare class, keeps its value on all objects:
    as 0 it would shift the resamples below the score. Where that is undefined too it is 0, the convention of
    scikit-learn.
    """
    known = np.divide(part_whole, of_whole, out=np.zeros_like(part_whole), where=of_whole > 0)
    return np.asarray(np.divide(part, of, out=np.tile(known, (len(part), 1)), where=of > 0))


def spread_of(y: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Σ (y - ȳ)² of each resample, NaN where all labels are equal; counts of shape (samples, n)."""
    # Told by the labels themselves: rounding leaves a trace of spread where there is none, and labels in
    # large units, or beside one that is far off, have a spread that is small.
    lowest = np.where(counts > 0, y, np.inf).min(axis=1)
    highest = np.where(counts > 0, y, -np.inf).max(axis=1)
    # About each resample's own mean, since Σ w y² - (Σ w y)²/Σ w cancels.
    centred = y - y.mean()
    mean = counts @ centred / counts.sum(axis=1)
    spread = np.einsum("ij,ij->i", counts, (centred - mean[:, None]) ** 2)
    return np.where((highest > lowest) & (spread > 0), spread, np.nan)


def attainable_r2(truth: ArrayLike, sigma: ArrayLike) -> float:
    """Return the best R² that any model can expect on these objects.

    With the label's irreducible scatter σᵢ known for each object, the expected squared error of the best
    possible prediction is the mean of σᵢ², hence R² = 1 - mean(σ²)/var(y).

    Parameters
    ----------
    truth : array_like, shape (n,)
        Labels.
    sigma : array_like, shape (n,)
        Standard deviation of each label given everything that can be observed, in the label's unit.

    Returns
    -------
    float

    Raises
    ------
    DataError
        As `paired`, or all labels are equal.
    """
    y, s = paired(truth, sigma)
    spread = float(spread_of(y, np.ones((1, len(y))))[0])
    if np.isnan(spread):
        raise DataError("R² has no meaning: all labels are equal", remedy="score objects whose labels differ")
    return 1 - float(np.sum(s**2)) / spread


def attainable_mae(sigma: ArrayLike) -> float:
    """Return the least MAE that any model can expect: the mean of √(2/π) σᵢ for Gaussian scatter.

    Parameters
    ----------
    sigma : array_like, shape (n,)
        As in `attainable_r2`.
    """
    return float(np.sqrt(2 / np.pi) * np.mean(np.asarray(sigma, dtype=np.float64)))


def paired(truth: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two arrays of float64, checked to be one-dimensional, of one length of at least two, and finite.

    Raises
    ------
    DataError
        One of these does not hold.
    """
    y = np.asarray(truth, dtype=np.float64)
    p = np.asarray(other, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1:
        raise DataError(
            f"labels of shape {y.shape} against predictions of shape {p.shape}",
            remedy="give one prediction for each object",
        )
    if len(y) < 2:
        raise DataError(f"{len(y)} objects cannot be scored", remedy="give at least two objects")
    bad = int(np.count_nonzero(~(np.isfinite(y) & np.isfinite(p))))
    if bad:
        raise DataError(
            f"{bad} of {len(y)} labels or predictions are not finite",
            remedy="leave objects without a label out",
        )
    return y, p


def _nmad(error: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1.4826 · median(abs(ε - median ε)) of each resample; counts of shape (samples, n)."""
    order = np.argsort(error, kind="stable")
    error, counts = error[order], counts[:, order]
    centre = _median(np.broadcast_to(error, counts.shape), counts)
    deviation = np.abs(error - centre[:, None])
    order = np.argsort(deviation, axis=1)
    return NMAD_SCALE * _median(
        np.take_along_axis(deviation, order, axis=1), np.take_along_axis(counts, order, axis=1)
    )


def _median(ordered: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each row, in which value j stands counts[j] times; rows ascending."""
    below = np.cumsum(counts, axis=1)
    total = below[:, -1:]
    lower = np.argmax(below > (total - 1) // 2, axis=1)
    upper = np.argmax(below > total // 2, axis=1)
    rows = np.arange(len(ordered))
    return np.asarray((ordered[rows, lower] + ordered[rows, upper]) / 2)
