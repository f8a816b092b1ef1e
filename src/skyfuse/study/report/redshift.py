"""Figures of redshift tasks: bias, scatter and outliers by magnitude and by redshift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from skyfuse.study.report.common import INK, Drawn, bins_for, listed, metric_name, new, unique_labels
from skyfuse.study.report.scores import histograms

if TYPE_CHECKING:
    from skyfuse.study.report.folder import Folder

SCORES = ("bias", "sigma_nmad", "outliers")


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield the redshift scores by magnitude and redshift, and the distribution of Δz/(1+z)."""
    ways = [by for by in ("magnitude", "redshift") if len(study.binned) and (study.binned["by"] == by).any()]
    if ways:
        yield _binned(study, ways)
    yield _errors(study)


def _binned(study: Folder, ways: Sequence[str]) -> Drawn:
    figure, axes = new(11, 5.6, len(SCORES), len(ways), sharex="col")
    for row in study.leaders:
        cell = study.binned[study.binned["cell"] == row["cell"]]
        for j, by in enumerate(ways):
            part = cell[cell["by"] == by]
            middle = (part["low"] + part["high"]) / 2
            for i, score in enumerate(SCORES):
                axes[i, j].plot(
                    middle,
                    100 * part[score] if score == "outliers" else part[score],
                    "o-",
                    color=study.colour(row["model"]),
                    label=study.title(row["cell"]),
                )
    for i, score in enumerate(SCORES):
        axes[i, 0].set_ylabel(metric_name(score) + (" (%)" if score == "outliers" else ""))
    for j, by in enumerate(ways):
        axes[0, j].axhline(0, color=INK, lw=0.9)
        column = study.recipe.task.magnitude
        axes[-1, j].set_xlabel(f"magnitude ({column})" if by == "magnitude" else "true redshift")
    handles = unique_labels(axes[0, 0])
    figure.legend(*handles, loc="outside upper center", ncols=min(4, len(handles[0])))
    return Drawn(
        "binned",
        figure,
        f"Bias, scatter and share of outliers by {listed(ways)}, one line for each model's best cell",
        "Bias = median Δz/(1+z), σ_NMAD = 1.4826 × median absolute deviation of it, and share of "
        f"|Δz|/(1+z) above {study.recipe.task.outlier:g}, by {listed(ways)}; each model with the "
        "input that was chosen for it.",
    )


def _errors(study: Folder) -> Drawn:
    figure, axes = new(6.4, 2.9)
    tables = {row["cell"]: study.predictions(row["cell"]) for row in study.leaders}
    scaled = {
        cell: ((table["prediction"] - table["label"]) / (1 + table["label"])).to_numpy(dtype=float)
        for cell, table in tables.items()
    }
    reach = float(np.quantile(np.abs(np.concatenate(list(scaled.values()))), 0.98)) or 1e-6
    edges = np.linspace(-reach, reach, bins_for(len(scaled[study.leaders[0]["cell"]])))
    histograms(axes[0, 0], study, scaled, edges)
    axes[0, 0].axvline(0, color=INK, lw=0.9)
    axes[0, 0].set_xlabel("Δz/(1+z)")
    return Drawn(
        "redshift-errors",
        figure,
        "Histogram of predicted minus true redshift over one plus true redshift, one line for each model",
        "Redshift errors on the test part; each model with its best input; 2 % of the largest errors are off "
        "the axes.",
    )
