"""Classes of unequal size: weights, fewer of the common ones, or more of the rare ones, in training alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import DataError, UsageError

FloatArray = NDArray[np.float32]
_NEIGHBOURS = 5


def class_weights(y: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return weights of objects by which every class that occurs weighs the same.

    Parameters
    ----------
    y : ndarray of int64, shape (n,)
        Class of each object, 0 to k − 1.
    k : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape (n,)
        n / (k · objects of the class), with k the number of classes that occur: their mean is 1.
    """
    counts = np.bincount(y, minlength=k)
    return np.asarray(len(y) / (np.count_nonzero(counts) * counts[y]), dtype=np.float64)


def balance(
    arrays: Mapping[str, FloatArray], y: NDArray[np.int64], how: Literal["smote", "rarest"], seed: int = 0
) -> tuple[dict[str, FloatArray], NDArray[np.int64]]:
    """Return a training part in which every class has equally many objects.

    Parameters
    ----------
    arrays : mapping of str to ndarray of float32, each of length n
        Inputs by modality, of the training part alone.
    y : ndarray of int64, shape (n,)
        Classes.
    how : str
        ``rarest`` draws as many objects of each class as the rarest has; their order stays. ``smote`` adds
        synthetic objects after the given ones, on lines between neighbours of a class in the standardised
        inputs of all modalities (SMOTE, Chawla et al. 2002); missing values count as the median there.
    seed : int

    Returns
    -------
    arrays : dict of str to ndarray of float32
    y : ndarray of int64

    Raises
    ------
    UsageError
        If `how` is neither.
    DataError
        If SMOTE meets a class of a single object.
    """
    classes, counts = np.unique(y, return_counts=True)
    if how == "rarest":
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(np.flatnonzero(y == c), int(counts.min()), replace=False) for c in classes]
        rows = np.sort(np.concatenate(drawn))
        return {name: values[rows] for name, values in arrays.items()}, y[rows]
    if how != "smote":
        raise UsageError(f"{how!r} is no way to balance classes", remedy="choose smote or rarest")
    if counts.min() == counts.max():
        return dict(arrays), y
    if counts.min() < 2:
        raise DataError(
            f"SMOTE needs two objects of every class, and class {classes[counts.argmin()]} has one",
            remedy="balance by weights, or leave out the class",
        )
    new, labels = _synthetic(arrays, y, min(_NEIGHBOURS, int(counts.min()) - 1), seed)
    grown = {name: np.concatenate([values, new[name]]) for name, values in arrays.items()}
    return grown, np.concatenate([y, labels])


def _synthetic(
    arrays: Mapping[str, FloatArray], y: NDArray[np.int64], neighbours: int, seed: int
) -> tuple[dict[str, FloatArray], NDArray[np.int64]]:
    """Return the objects that SMOTE adds."""
    from imblearn.over_sampling import SMOTE

    n = len(y)
    flat = np.concatenate([values.reshape(n, -1) for values in arrays.values()], axis=1).astype(np.float64)
    known = np.isfinite(flat)
    some = known.any(axis=0)
    centre = np.zeros(flat.shape[1])
    centre[some] = np.nanmedian(np.where(known, flat, np.nan)[:, some], axis=0)
    flat = np.where(known, flat, centre)
    spread = flat.std(axis=0)
    spread[spread == 0] = 1
    sampler: Any = SMOTE(k_neighbors=neighbours, random_state=seed)
    grown, labels = sampler.fit_resample((flat - centre) / spread, y)
    made = (grown[n:] * spread + centre).astype(np.float32)
    widths = [int(np.prod(values.shape[1:])) for values in arrays.values()]
    parts = np.split(made, np.cumsum(widths)[:-1], axis=1)
    shaped = {
        name: part.reshape(len(part), *values.shape[1:])
        for (name, values), part in zip(arrays.items(), parts, strict=True)
    }
    return shaped, np.asarray(labels[n:], dtype=np.int64)
