"""Figures of regression: predicted against true, with residuals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfuse.study.report.common import INK, Drawn, metric_name, number
from skyfuse.study.report.scores import columns, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skyfuse.study.report.folder import Folder


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield predicted against true labels of the test part, a panel a cell."""
    cells = panels(study)
    across = min(columns(study, len(cells)), len(cells))
    tables = [study.predictions(cell["cell"]) for cell in cells]
    truth = np.concatenate([table["label"].to_numpy(dtype=float) for table in tables])
    errors = np.concatenate([(table["prediction"] - table["label"]).abs().to_numpy() for table in tables])
    reach = float(np.quantile(errors, 0.995)) or 1.0
    # Equal labels get an axis, too.
    pad = 0.05 * float(np.ptp(truth)) or abs(float(truth[0])) or 1.0
    limits = (float(truth.min()) - pad, float(truth.max()) + pad)
    figure, axes = _pairs(len(cells), across)
    for k, (cell, table, (upper, lower)) in enumerate(zip(cells, tables, axes, strict=True)):
        _panel(study, cell, table, upper, lower)
        upper.set_xlim(limits)
        lower.set_xlim(limits)
        upper.plot(limits, limits, color=INK, lw=0.9)
        upper.set_ylim(limits)
        lower.set_ylim(-reach, reach)
        if k % across:
            upper.tick_params(labelleft=False)
            lower.tick_params(labelleft=False)
        else:
            upper.set_ylabel("predicted")
            lower.set_ylabel("residual")
        if k + across >= len(cells):
            lower.set_xlabel(f"true {study.recipe.task.title}")
        else:
            lower.tick_params(labelbottom=False)
    unit = f" ({study.recipe.task.unit})" if study.recipe.task.unit else ""
    yield Drawn(
        "predictions",
        figure,
        "Predicted against true label on the test part for each model and input, with residuals below each",
        f"Predicted against true {study.recipe.task.title} on the test part{unit}; below, predicted minus "
        "true (0.5 % of the largest residuals are off the axes). The line is equality.",
    )


def _pairs(count: int, across: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure of so many pairs of axes, predictions above residuals, and these row by row."""
    from matplotlib.figure import Figure

    down = -(-count // across)
    width, height = 2.3 * across + 0.8, 3.0 * down + 0.4
    figure = Figure(figsize=(width, height))
    outer = figure.add_gridspec(
        down,
        across,
        wspace=0.08,
        hspace=0.26,
        left=0.85 / width,
        right=1 - 0.1 / width,
        bottom=0.5 / height,
        top=1 - 0.3 / height,
    )
    axes = []
    for k in range(count):
        inner = outer[divmod(k, across)].subgridspec(2, 1, height_ratios=[3, 1.2], hspace=0.06)
        axes.append((figure.add_subplot(inner[0]), figure.add_subplot(inner[1])))
    return figure, axes


def _panel(study: Folder, cell: dict[str, Any], table: pd.DataFrame, upper: Axes, lower: Axes) -> None:
    for axis, values in ((upper, table["prediction"]), (lower, table["prediction"] - table["label"])):
        axis.scatter(
            table["label"],
            values,
            s=float(np.clip(1500 / len(table), 0.5, 8)),
            lw=0,
            alpha=0.6,
            color=study.colour(cell["model"]),
            rasterized=True,
        )
    lower.axhline(0, color=INK, lw=0.9)
    upper.tick_params(labelbottom=False)
    upper.set_title(study.title(cell["cell"]), fontsize=8.5)
    upper.text(
        0.05,
        0.93,
        f"{metric_name('r2')} {number(cell['test_r2'])}",
        transform=upper.transAxes,
        va="top",
        fontsize=8.5,
    )
