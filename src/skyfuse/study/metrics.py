"""The four scores of the studies, each as the seed study defines it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError

METRICS = ("r2", "mae", "rmse", "nmad")
"""Names of the scores, in the order of tables."""

LABELS = {"r2": "R²", "mae": "MAE", "rmse": "RMSE", "nmad": "NMAD"}
"""The scores as tables and axes print them."""

NMAD_SCALE = 1.4826
"""Makes the median absolute deviation of a Gaussian its standard deviation: 1/Φ⁻¹(3/4)."""


class Metrics(NamedTuple):
    """Scores of one set of predictions.

    Attributes
    ----------
    r2 : float
        1 - Σ(y - ŷ)² / Σ(y - ȳ)²; 1 is perfect, 0 is as good as the mean, negative is worse.
    mae : float
        Mean of abs(y - ŷ), in the label's unit.
    rmse : float
        Square root of the mean of (y - ŷ)², in the label's unit.
    nmad : float
        1.4826 · median(abs(ε - median ε)) with ε = y - ŷ, in the label's unit.
    """

    r2: float
    mae: float
    rmse: float
    nmad: float


def score(truth: ArrayLike, prediction: ArrayLike) -> Metrics:
    """Score predictions against the truth.

    Parameters
    ----------
    truth, prediction : array_like, shape (n,)
        In the label's unit.

    Returns
    -------
    Metrics

    Raises
    ------
    DataError
        The two differ in shape, hold fewer than two objects or a value that is not finite, or the truth does
        not vary, so that R² has no meaning.
    """
    y, p = paired(truth, prediction)
    error = y - p
    spread = float(np.sum((y - y.mean()) ** 2))
    if spread == 0:
        raise DataError("R² has no meaning: all labels are equal", remedy="score objects whose labels differ")
    deviation = np.abs(error - np.median(error))
    return Metrics(
        r2=1 - float(np.sum(error**2)) / spread,
        mae=float(np.mean(np.abs(error))),
        rmse=float(np.sqrt(np.mean(error**2))),
        nmad=NMAD_SCALE * float(np.median(deviation)),
    )


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
        As `score`.
    """
    y, s = paired(truth, sigma)
    variance = float(y.var())
    if variance == 0:
        raise DataError("R² has no meaning: all labels are equal", remedy="score objects whose labels differ")
    return 1 - float(np.mean(s**2)) / variance


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
