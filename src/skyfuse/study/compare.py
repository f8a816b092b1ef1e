"""Paired bootstrap: intervals for scores, and for their differences between models on the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError
from skyfuse.study.metrics import Outcome, attainable_r2, paired, spread_of
from skyfuse.words import is_joint

LEVEL = 0.95
"""Confidence level of every interval."""

LEAKS = "with-leaks"
"""What is changed in the cells that read the leaking columns too."""

# Bounds the memory of one block of resamples to about 16 MB for each work array.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Bootstrap:
    """Scores of several models over the same resamples of the same test objects.

    Attributes
    ----------
    point : dict of str to dict of str to float
        Score of each model on the objects themselves: ``point[model][metric]``; NaN where it has no meaning.
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
    """Return the central interval at `LEVEL`, without resamples of equal labels, which have no R².

    NaN where no resample has a score.
    """
    if np.isnan(draws).all():
        return np.nan, np.nan
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    outcomes: Mapping[str, Outcome],
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
    outcomes : mapping of str to Outcome
        By model, for the same n objects in the same order.
    groups : array_like, shape (n,), optional
        Group of each object, any sortable type.
    sigma : array_like, shape (n,), optional
        Irreducible scatter of each label of a regression, for the attainable R².
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
        Lengths differ, or there are fewer than two groups.
    """
    y = next(iter(outcomes.values())).truth
    for name, outcome in outcomes.items():
        if len(outcome.truth) != len(y):
            raise DataError(
                f"{name} predicts {len(outcome.truth)} objects, others {len(y)}",
                remedy="predict the same objects with every model",
            )
    point = {
        name: {metric: np.nan if value is None else value for metric, value in outcome.score().items()}
        for name, outcome in outcomes.items()
    }
    variance = None if sigma is None else paired(y, sigma)[1] ** 2
    parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {name: [] for name in outcomes}
    attainable = []
    for counts in resamples(len(y), groups, samples, seed):
        if variance is not None:
            attainable.append(1 - (counts @ variance) / spread_of(y, counts))
        for name, outcome in outcomes.items():
            parts[name].append(outcome.scores(counts))
    draws = {
        name: {metric: np.concatenate([block[metric] for block in blocks]) for metric in blocks[0]}
        for name, blocks in parts.items()
    }
    if sigma is None:
        return Bootstrap(point, draws)
    known = np.nan if np.isnan(spread_of(y, np.ones((1, len(y))))[0]) else attainable_r2(y, sigma)
    return Bootstrap(point, draws, known, np.concatenate(attainable))


def resamples(n: int, groups: ArrayLike | None, samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of resamples of n objects as how often each is drawn, shape (block, n).

    Parameters
    ----------
    n : int
    groups, samples, seed
        As of `bootstrap`.

    Raises
    ------
    DataError
        The groups are not those of n objects, or there are fewer than two.
    """
    _, group = np.unique(np.arange(n) if groups is None else np.asarray(groups), return_inverse=True)
    if len(group) != n:
        raise DataError(f"{len(group)} groups for {n} objects", remedy="give one group for each object")
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        raise DataError(
            "one group alone cannot be resampled", remedy="test on objects of at least two groups"
        )
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=rows)
        yield drawn[:, group].astype(np.float64)


def best_single(scores: Mapping[str, float]) -> str:
    """Return the single input with the highest score; never chosen on the test part.

    Parameters
    ----------
    scores : mapping of str to float
        Score that chooses, by fusion.

    Raises
    ------
    DataError
        No single input was fitted.
    """
    known = [name for name in scores if not is_joint(name)]
    if not known:
        raise DataError("no single input was fitted", remedy="name one among the fusions")
    return max(known, key=lambda name: ranked(scores[name]))


def ranked(score: float) -> float:
    """Return a score as one that sorts: below all others where it has no meaning."""
    return -np.inf if np.isnan(score) else score


def comparisons(cells: pd.DataFrame, boot: Bootstrap) -> pd.DataFrame:
    """Return differences of scores with intervals: of models, of fusions from single inputs, of leaks.

    Parameters
    ----------
    cells : DataFrame
        One row for each cell in `boot` at the reference zooms, with the columns cell, model, fusion, change
        (``with-leaks`` or missing) and choice, the score that chooses.
    boot : Bootstrap
        Scores by cell.

    Returns
    -------
    DataFrame
        Columns kind, model, fusion, change, a, b, metric, difference (a - b), low, high, chosen. Kind is
        ``models``: two models on one input; ``fusion``: a fusion against the model's best single input,
        ``chosen`` where it is its best fusion; ``single``: against another single input; ``leak``: with
        against without leaking columns. Where change is ``with-leaks``, both read
        them. What is best, the choice without leaking columns says.
    """
    leaky = (cells["change"] == LEAKS).to_numpy(dtype=bool)
    rows: list[tuple[object, ...]] = []

    def add(what: str, model: str, fusion: str, change: str | None, a: str, b: str, chosen: bool) -> None:
        for metric in boot.point[a]:
            rows.append((what, model, fusion, change, a, b, metric, *boot.difference(a, b, metric), chosen))

    for change, chosen_rows in ((None, ~leaky), (LEAKS, leaky)):
        for fusion, group in cells[chosen_rows].groupby("fusion", sort=False):
            named = list(zip(group["model"], group["cell"], strict=True))
            for i, (model_a, a) in enumerate(named):
                for model_b, b in named[i + 1 :]:
                    add("models", f"{model_a} - {model_b}", str(fusion), change, a, b, False)
    for model, group in cells.groupby("model", sort=False):
        sound = group[(group["change"] != LEAKS).to_numpy(dtype=bool)]
        leaks = group[(group["change"] == LEAKS).to_numpy(dtype=bool)]
        cell_of = dict(zip(sound["fusion"], sound["cell"], strict=True))
        score_of = dict(zip(sound["fusion"], sound["choice"], strict=True))
        singles = [fusion for fusion in score_of if not is_joint(fusion)]
        fused = [fusion for fusion in score_of if is_joint(fusion)]
        for fusion, name in zip(leaks["fusion"], leaks["cell"], strict=True):
            add("leak", str(model), fusion, LEAKS, name, cell_of[fusion], False)
        for change, also in ((None, leaks[:0]), (LEAKS, leaks)):
            cell = {**cell_of, **dict(zip(also["fusion"], also["cell"], strict=True))}
            if not fused or not singles or (change and not len(also)):
                continue
            single, best = best_single(score_of), max(fused, key=lambda fusion: ranked(score_of[fusion]))
            for fusion in fused:
                for other in singles:
                    what = "fusion" if other == single else "single"
                    add(what, str(model), fusion, change, cell[fusion], cell[other], fusion == best)
    columns = [
        "kind",
        "model",
        "fusion",
        "change",
        "a",
        "b",
        "metric",
        "difference",
        "low",
        "high",
        "chosen",
    ]
    return pd.DataFrame(rows, columns=columns)
