"""Paired bootstrap: intervals for scores, and for their differences between models on the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError
from skyfuse.study.metrics import METRICS, NMAD_SCALE, attainable_r2, paired, score

LEVEL = 0.95
"""Confidence level of every interval."""

# Bounds the memory of one block of resamples to about 16 MB for each work array.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Bootstrap:
    """Scores of several models over the same resamples of the same test objects.

    Attributes
    ----------
    point : dict of str to dict of str to float
        Score of each model on the objects themselves: ``point[model][metric]``.
    draws : dict of str to dict of str to ndarray of float64, shape (samples,)
        The same over the resamples; resample k holds the same objects for every model.
    attainable : float or None
        Attainable R² on the objects themselves, where the irreducible scatter is known.
    attainable_draws : ndarray of float64, shape (samples,), or None
        The same over the resamples.
    """

    point: dict[str, dict[str, float]]
    draws: dict[str, dict[str, NDArray[np.float64]]]
    attainable: float | None = None
    attainable_draws: NDArray[np.float64] | None = None

    def interval(self, model: str, metric: str) -> tuple[float, float]:
        """Return the percentile interval of a score at `LEVEL`."""
        return percentiles(self.draws[model][metric])

    def difference(self, a: str, b: str, metric: str) -> tuple[float, float, float]:
        """Return score(a) - score(b) and the percentile interval of this difference over common resamples."""
        low, high = percentiles(self.draws[a][metric] - self.draws[b][metric])
        return self.point[a][metric] - self.point[b][metric], low, high

    def distance(self, model: str) -> tuple[float, float, float]:
        """Return attainable R² - R² of a model, with its interval.

        Raises
        ------
        DataError
            The irreducible scatter was not given.
        """
        if self.attainable is None or self.attainable_draws is None:
            raise DataError("the attainable R² is not known", remedy="give the truth table of the mock sky")
        low, high = percentiles(self.attainable_draws - self.draws[model]["r2"])
        return self.attainable - self.point[model]["r2"], low, high


def percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the central interval at `LEVEL`, without resamples of equal labels, which have no R²."""
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    truth: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    *,
    groups: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Resample test objects with replacement and score every model on each resample.

    Objects that share sky pixels are not independent: with `groups`, whole groups are drawn.

    Parameters
    ----------
    truth : array_like, shape (n,)
        Labels of the test objects.
    predictions : mapping of str to array_like, shape (n,)
        Predictions by model for the same objects in the same order.
    groups : array_like, shape (n,), optional
        Group of each object, any sortable type.
    sigma : array_like, shape (n,), optional
        Irreducible scatter of each label, for the attainable R².
    samples : int
        Number of resamples.
    seed : int
        Seed of the resamples.

    Returns
    -------
    Bootstrap

    Raises
    ------
    DataError
        Shapes differ, values are not finite, all labels are equal, or there are fewer than two groups.
    """
    y = np.asarray(truth, dtype=np.float64)
    errors = {}
    for name, prediction in predictions.items():
        y, p = paired(truth, prediction)
        errors[name] = y - p
    point = {name: score(truth, prediction)._asdict() for name, prediction in predictions.items()}
    variance = None if sigma is None else paired(truth, sigma)[1] ** 2
    _, group = np.unique(np.arange(len(y)) if groups is None else np.asarray(groups), return_inverse=True)
    if len(group) != len(y):
        raise DataError(f"{len(group)} groups for {len(y)} objects", remedy="give one group for each object")
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        raise DataError(
            "one group alone cannot be resampled", remedy="test on objects of at least two groups"
        )

    # Centred labels keep Σ w y² - (Σ w y)²/Σ w from cancelling.
    centred = y - y.mean()
    order = {name: np.argsort(error, kind="stable") for name, error in errors.items()}
    parts: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        name: {metric: [] for metric in METRICS} for name in errors
    }
    attainable_parts = []
    for counts in _counts(group, n_groups, samples, seed):
        total = counts.sum(axis=1)
        spread = counts @ centred**2 - (counts @ centred) ** 2 / total
        spread = np.where(spread > 1e-12 * total, spread, np.nan)
        if variance is not None:
            attainable_parts.append(1 - (counts @ variance) / spread)
        for name, error in errors.items():
            squares = counts @ error**2
            parts[name]["r2"].append(1 - squares / spread)
            parts[name]["mae"].append(counts @ np.abs(error) / total)
            parts[name]["rmse"].append(np.sqrt(squares / total))
            parts[name]["nmad"].append(_nmad(error[order[name]], counts[:, order[name]]))
    draws = {
        name: {metric: np.concatenate(blocks) for metric, blocks in by_metric.items()}
        for name, by_metric in parts.items()
    }
    if sigma is None:
        return Bootstrap(point, draws)
    return Bootstrap(point, draws, attainable_r2(truth, sigma), np.concatenate(attainable_parts))


def _counts(group: NDArray[np.intp], n_groups: int, samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of resamples as how often each object is drawn, shape (block, n)."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(group))
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=rows)
        yield drawn[:, group].astype(np.float64)


def _nmad(error: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the NMAD of each resample; `error` sorted, `counts` in the same order, shape (block, n)."""
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


def best_single(valid_r2: Mapping[str, float], singles: Sequence[str]) -> str:
    """Return the single modality with the highest R² on the validation part; never chosen on the test part.

    Raises
    ------
    DataError
        No single modality was fitted.
    """
    known = [name for name in singles if name in valid_r2]
    if not known:
        raise DataError("no single modality was fitted", remedy="name image or spectrum among the fusions")
    return max(known, key=lambda name: valid_r2[name])


def comparisons(cells: pd.DataFrame, boot: Bootstrap) -> pd.DataFrame:
    """Return differences of scores with intervals: of models, and of fusions from the best single modality.

    Parameters
    ----------
    cells : DataFrame
        One row for each cell in `boot`, with the columns cell, model, fusion, valid_r2.
    boot : Bootstrap
        Scores by cell.

    Returns
    -------
    DataFrame
        Columns kind (``models`` or ``fusion``), model, fusion, a, b, metric, difference (a - b), low, high,
        and chosen: for ``fusion``, whether this fusion is the model's best on the validation part.
    """
    rows = []
    for fusion, group in cells.groupby("fusion", sort=False):
        named = list(zip(group["model"], group["cell"], strict=True))
        for i, (model_a, a) in enumerate(named):
            for model_b, b in named[i + 1 :]:
                rows += _differences(
                    boot, "models", f"{model_a} - {model_b}", str(fusion), a, b, chosen=False
                )
    for model, group in cells.groupby("model", sort=False):
        valid = dict(zip(group["fusion"], group["valid_r2"], strict=True))
        cell = dict(zip(group["fusion"], group["cell"], strict=True))
        fused = [fusion for fusion in valid if fusion not in ("image", "spectrum")]
        if not fused or not {"image", "spectrum"} & set(valid):
            continue
        single = best_single(valid, ("image", "spectrum"))
        best = max(fused, key=lambda name: valid[name])
        for fusion in fused:
            rows += _differences(
                boot, "fusion", str(model), fusion, cell[fusion], cell[single], chosen=fusion == best
            )
    return pd.DataFrame(
        rows, columns=["kind", "model", "fusion", "a", "b", "metric", "difference", "low", "high", "chosen"]
    )


def _differences(
    boot: Bootstrap, kind: str, model: str, fusion: str, a: str, b: str, *, chosen: bool
) -> list[tuple[object, ...]]:
    return [(kind, model, fusion, a, b, metric, *boot.difference(a, b, metric), chosen) for metric in METRICS]
