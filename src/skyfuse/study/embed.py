"""Two-dimensional views and clusters of the inputs, and how they go with the label.

Every method learns on the training part alone and then places the other parts (PCA projects, openTSNE and
UMAP embed new points into the finished map). Invalid values take the training mean of their feature; features
are standardised with training means and deviations. t-SNE and UMAP start from the first `COMPONENTS`
principal components, which keep their distances and spare them the noise of thousands of pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.errors import DataError, UsageError
from skyfuse.words import PARTS

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

METHODS = ("pca", "tsne", "umap")
"""Ways to embed."""
COMPONENTS = 30
"""Principal components that t-SNE and UMAP see."""
MAX_PERPLEXITY = 30.0
NEIGHBOURS = 15
CLUSTER_STARTS = 10
"""Starts of k-means, of which the best is kept."""
CLUSTER_COLUMNS = ("cluster", "group", "n", "adjusted_rand", "mutual_information")
RANGES = 5
"""Ranges of a label that is a number, of equal numbers of objects, against which clusters are set."""


def embed(
    arrays: Mapping[str, NDArray[np.float32]], *, method: str, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Place the objects of all parts in a plane.

    Parameters
    ----------
    arrays : mapping of str to ndarray of float32, shape (n, ...)
        One input by part: ``train``, from which the method learns, and others; NaN where invalid.
    method : {"pca", "tsne", "umap"}
        Way to embed.
    seed : int
        Fixes the result.

    Returns
    -------
    dict of str to ndarray of float64, shape (n, 2)
        Positions by part.

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
    return {part: np.asarray(xy, dtype=np.float64) for part, xy in points.items()}


def spans(train: NDArray[np.float32]) -> bool:
    """Return whether at least two features vary in the training part: what varies less is no plane."""
    return int(np.count_nonzero(_moments(train.reshape(len(train), -1).astype(np.float64))[1] > 0)) >= 2


def embed_dataset(dataset: Dataset, *, method: str, name: str, zoom: int, seed: int) -> pd.DataFrame:
    """Place all objects of a dataset in a plane.

    The method learns from the training part of the default split, or from all objects without a split.

    Parameters
    ----------
    dataset : Dataset
    method : str
        ``pca``, ``tsne`` or ``umap``.
    name : str
        ``image``, ``spectrum`` or ``table`` (the dataset's own columns).
    zoom : int
        One that the dataset holds; a table has none.
    seed : int
        Fixes the result.

    Returns
    -------
    DataFrame
        In the order of the dataset's table: object_id, part (empty for objects in no part), x, y, and the
        label where the dataset has one.

    Raises
    ------
    UsageError
        Unknown method, or an input or zoom that the dataset does not hold.
    DataError
        As `embed`.
    """
    if method not in METHODS:
        raise UsageError(f"no method is called {method!r}", remedy=f"choose among {', '.join(METHODS)}")
    if dataset.kind_of(name) == "table":
        zoom = 0
    elif zoom not in dataset.zooms.get(name, ()):
        held = "; ".join(f"{name} {', '.join(map(str, zooms))}" for name, zooms in dataset.zooms.items())
        raise UsageError(
            f"has no {name} at zoom {zoom}", path=dataset.path, remedy=f"it holds these zooms: {held}"
        )
    parts = _parts(dataset)
    arrays = {part: dataset.inputs({name: zoom}, rows)[name] for part, rows in parts.items()}
    points = embed(arrays, method=method, seed=seed)
    table = pd.DataFrame({"object_id": dataset.table["object_id"], "part": "", "x": np.nan, "y": np.nan})
    for part, rows in parts.items():
        table.loc[rows, "part"] = part
        table.loc[rows, ["x", "y"]] = points[part]
    label = dataset.meta["label"]
    if label is not None:
        table[label["name"]] = dataset.table[label["name"]]
    return table


def _parts(dataset: Dataset) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each part, those in none under an empty name; without a split, all as training."""
    every = np.arange(len(dataset), dtype=np.int64)
    try:
        split = dataset.split()
    except DataError:
        return {"train": every}
    parts = {part: split[part] for part in PARTS}
    rest = np.setdiff1d(every, np.concatenate(list(parts.values())))
    return parts if not len(rest) else {**parts, "": rest}


def clusters(
    arrays: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[Any]],
    *,
    number: int,
    seed: int,
) -> pd.DataFrame:
    """Find clusters in the training part by k-means, and count the labels in each over all parts.

    Like `embed`, it works on standardised features, of many the first `COMPONENTS` principal components.

    Parameters
    ----------
    arrays : mapping of str to ndarray of float32, shape (n, ...)
        One input by part: ``train``, from which the centres are learned, and others; NaN where invalid.
    labels : mapping of str to ndarray, shape (n,)
        Labels by part: names of classes (None for none), or numbers, which are taken in `RANGES` ranges.
    number : int
        Number of clusters.
    seed : int
        Fixes the result.

    Returns
    -------
    DataFrame
        Columns cluster, group (class or range), n, and, equal in all rows, adjusted_rand (Hubert & Arabie
        1985) and mutual_information (adjusted for chance; Vinh et al. 2010) between clusters and groups.

    Raises
    ------
    DataError
        As `embed`, or the training part has fewer objects than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    scores = _principal(arrays, seed)
    if len(scores["train"]) < number:
        raise DataError(
            f"{len(scores['train'])} training objects cannot make {number} clusters",
            remedy="ask for fewer clusters",
        )
    fitted = KMeans(number, n_init=CLUSTER_STARTS, random_state=seed).fit(scores["train"])
    cluster = np.concatenate([fitted.predict(values) for values in scores.values()])
    label = pd.Series(np.concatenate([labels[part] for part in scores]))
    if pd.api.types.is_float_dtype(label):
        label = pd.qcut(label, RANGES, duplicates="drop").astype("string")
    known = label.notna().to_numpy(dtype=bool)
    found = pd.DataFrame({"cluster": cluster[known], "group": label[known].to_numpy(dtype=str)})
    counts = found.value_counts(sort=False).rename("n").reset_index()
    return counts.assign(
        adjusted_rand=float(adjusted_rand_score(found["group"], found["cluster"])),
        mutual_information=float(adjusted_mutual_info_score(found["group"], found["cluster"])),
    )


def correlations(
    points: Mapping[str, NDArray[np.float64]], labels: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    """Return the Pearson correlation of both axes with the label; the sign of an axis has no meaning.

    Parameters
    ----------
    points : mapping of str to ndarray of float64, shape (n, 2)
        Positions by part, from `embed`.
    labels : mapping of str to ndarray of float64, shape (n,)
        Labels by part.

    Returns
    -------
    dict of str to float
        ``rho_x``, ``rho_y`` over all objects; ``held_x``, ``held_y`` over those that the method did not learn
        from.
    """
    found = {}
    for key, parts in (("rho", list(points)), ("held", [part for part in points if part != "train"])):
        xy = np.concatenate([points[part] for part in parts])
        y = np.concatenate([labels[part] for part in parts])
        for axis, name in enumerate("xy"):
            found[f"{key}_{name}"] = pearson(xy[:, axis], y)
    return found


def pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the Pearson correlation of two samples, NaN where one of them does not vary."""
    dx, dy = x - x.mean(), y - y.mean()
    norm = float(np.sqrt(np.sum(dx**2) * np.sum(dy**2)))
    return float(np.sum(dx * dy)) / norm if norm > 0 else float("nan")


def _principal(arrays: Mapping[str, NDArray[np.float32]], seed: int) -> dict[str, NDArray[np.float64]]:
    from sklearn.decomposition import PCA

    flat = {part: values.reshape(len(values), -1).astype(np.float64) for part, values in arrays.items()}
    train = flat["train"]
    mean, spread = _moments(train)
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


def _moments(train: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the finite values of each feature, 0 where nothing differs."""
    seen = np.isfinite(train)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, train, 0).sum(axis=0) / count
    spread = np.sqrt(np.where(seen, (train - mean) ** 2, 0).sum(axis=0) / count)
    # Rounding of the mean leaves a trace of spread where there is none.
    differs = np.where(seen, train, -np.inf).max(axis=0) > np.where(seen, train, np.inf).min(axis=0)
    return mean, np.where(differs, spread, 0)


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
