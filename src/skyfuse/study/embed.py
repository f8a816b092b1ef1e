"""Two-dimensional views of images and spectra, and how each axis goes with the label.

Every method learns on the training part alone and then places the other parts (PCA projects, openTSNE and
UMAP embed new points into the finished map). Invalid values take the training mean of their feature; features
are standardised with training means and deviations. t-SNE and UMAP start from the first `COMPONENTS` principal
components, which keep their distances and spare them the noise of thousands of pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import DataError

COMPONENTS = 30
"""Principal components that t-SNE and UMAP see."""
MAX_PERPLEXITY = 30.0
NEIGHBOURS = 15


@dataclass(frozen=True)
class Embedding:
    """One view.

    Attributes
    ----------
    points : dict of str to ndarray of float64, shape (n, 2)
        Positions by part.
    correlations : dict of str to float
        Pearson correlation of the axes with the label: ``rho_x``, ``rho_y`` over all objects, ``held_x``,
        ``held_y`` over those that the method did not learn from. The sign of an axis has no meaning.
    """

    points: dict[str, NDArray[np.float64]]
    correlations: dict[str, float]


def embed(
    arrays: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.float64]],
    *,
    method: Literal["pca", "tsne", "umap"],
    seed: int,
) -> Embedding:
    """Place the objects of all parts in a plane.

    Parameters
    ----------
    arrays : mapping of str to ndarray of float32, shape (n, ...)
        One modality by part: ``train`` and others; NaN where invalid.
    labels : mapping of str to ndarray of float64, shape (n,)
        Labels by part.
    method : {"pca", "tsne", "umap"}
        Way to embed.
    seed : int
        Fixes the result.

    Returns
    -------
    Embedding

    Raises
    ------
    DataError
        The training part has fewer than five objects, or nothing in it varies.
    """
    n = len(arrays["train"])
    if n < 5:
        raise DataError(f"{n} training objects cannot be embedded", remedy="embed at least five")
    scores = _principal(arrays, seed)
    if method == "pca":
        points = {part: values[:, :2] for part, values in scores.items()}
    elif method == "tsne":
        points = _tsne(scores, seed)
    else:
        points = _umap(scores, seed)
    points = {part: np.asarray(xy, dtype=np.float64) for part, xy in points.items()}
    held = [part for part in points if part != "train"]
    correlations = {}
    for key, parts in (("rho", list(points)), ("held", held)):
        xy = np.concatenate([points[part] for part in parts])
        y = np.concatenate([labels[part] for part in parts])
        correlations[f"{key}_x"] = pearson(xy[:, 0], y)
        correlations[f"{key}_y"] = pearson(xy[:, 1], y)
    return Embedding(points, correlations)


def pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the Pearson correlation of two samples, NaN where one of them does not vary."""
    dx, dy = x - x.mean(), y - y.mean()
    norm = float(np.sqrt(np.sum(dx**2) * np.sum(dy**2)))
    return float(np.sum(dx * dy)) / norm if norm > 0 else float("nan")


def _principal(arrays: Mapping[str, NDArray[np.float32]], seed: int) -> dict[str, NDArray[np.float64]]:
    from sklearn.decomposition import PCA

    flat = {part: values.reshape(len(values), -1).astype(np.float64) for part, values in arrays.items()}
    train = flat["train"]
    seen = np.isfinite(train)
    count = seen.sum(axis=0)
    mean = np.where(seen, train, 0).sum(axis=0) / np.maximum(count, 1)
    spread = np.sqrt(np.where(seen, (train - mean) ** 2, 0).sum(axis=0) / np.maximum(count, 1))
    # Features that never vary in training (always invalid, say) carry nothing.
    kept = spread > 0
    if np.count_nonzero(kept) < 2:
        raise DataError(
            "nothing in the training part varies", remedy="embed inputs with valid, differing values"
        )
    scaled = {
        part: np.where(np.isfinite(values[:, kept]), (values[:, kept] - mean[kept]) / spread[kept], 0)
        for part, values in flat.items()
    }
    number = min(COMPONENTS, len(train) - 1, int(np.count_nonzero(kept)))
    pca = PCA(number, svd_solver="randomized", random_state=seed).fit(scaled["train"])
    return {part: pca.transform(values) for part, values in scaled.items()}


def _tsne(scores: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Any]:
    from openTSNE import TSNE

    n = len(scores["train"])
    perplexity = min(MAX_PERPLEXITY, (n - 1) / 3)
    # Exact neighbours and one thread: the map does not depend on the machine's number of cores.
    fitted = TSNE(perplexity=perplexity, neighbors="exact", n_jobs=1, random_state=seed).fit(scores["train"])
    points = {"train": np.asarray(fitted)}
    for part, values in scores.items():
        if part != "train":
            points[part] = np.asarray(fitted.transform(values, perplexity=min(5.0, perplexity)))
    return points


def _umap(scores: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        # umap warns on import that its TensorFlow variant is not there; it is not used.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    neighbours = min(NEIGHBOURS, len(scores["train"]) - 1)
    with warnings.catch_warnings():
        # umap-learn warns that a fixed seed means one thread, which is what is asked for.
        warnings.filterwarnings("ignore", message=".*n_jobs value.*", category=UserWarning)
        fitted = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit(scores["train"])
        points = {"train": fitted.embedding_}
        for part, values in scores.items():
            if part != "train":
                points[part] = fitted.transform(values)
    return points
