"""Figures of the intervals and sets: how often they hold the truth, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from skyfuse.study.compare import LEVEL
from skyfuse.study.report.common import INK, Drawn, listed, new, rows_of, whiskers

if TYPE_CHECKING:
    import pandas as pd

    from skyfuse.study.report.folder import Folder

BY = ("class", "magnitude", "prediction", "label")


_NAMES = {"label": "by {}", "prediction": "by predicted {}"}


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield coverage and width of all compared cells, and by group for the best one."""
    compared = study.coverage[study.coverage["cell"].isin(study.reference["cell"])]
    overall = compared[compared["by"] == "overall"]
    if overall.empty:
        return
    yield _overall(study, overall)
    best = compared[compared["cell"] == study.best["cell"]]
    ways = [by for by in BY if (best["by"] == by).any()]
    if ways:
        yield _groups(study, best, ways)


def _words(study: Folder) -> tuple[str, str]:
    """Return what the regions are called, and what their width is."""
    if study.classes:
        return "sets", "mean size of the set"
    return "intervals", f"mean width ({study.unit})" if study.unit else "mean width"


def _overall(study: Folder, overall: pd.DataFrame) -> Drawn:
    level, (sort, what) = study.recipe.task.level, _words(study)
    figure, axes = new(11, 0.24 * len(overall) + 1.0, 1, 2)
    model_of = dict(zip(study.results["cell"], study.results["model"], strict=True))
    for i, row in enumerate(rows_of(overall)):
        colour = study.colour(model_of[row.cell])
        axes[0, 0].plot([100 * row.low, 100 * row.high], [i, i], color=colour)
        axes[0, 0].plot(100 * row.coverage, i, "o", color=colour)
        axes[0, 1].barh(i, row.width, 0.6, color=colour)
    axes[0, 0].axvline(100 * level, color=INK, ls="--", lw=1.2)
    names = [study.title(cell) for cell in overall["cell"]]
    for axis, title in ((axes[0, 0], "coverage (%)"), (axes[0, 1], what)):
        axis.set_yticks(range(len(names)), names if axis is axes[0, 0] else [], fontsize=8)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlabel(title)
        axis.grid(visible=False, axis="y")
    return Drawn(
        "coverage",
        figure,
        f"Coverage of the {sort} of each cell on the test part with its 95 % interval, and their {what}",
        f"Share of test objects whose {sort} hold the truth, with binomial 95 % intervals; dashed: the "
        f"nominal {100 * level:g} %. Right: {what}. {_origin(study)}",
    )


def _origin(study: Folder) -> str:
    """Return where the regions come from, as a sentence."""
    sort = _words(study)[0]
    if study.rounds == 1:
        return f"The {sort} come from split conformal prediction on the calibration part alone."
    return (
        f"The {sort} of each object are those of the one round's model that did not learn from it, with the "
        f"errors of the calibration parts of all {study.rounds} rounds except its own. The models that are "
        "kept are the means of all rounds, whose intervals widen where these disagree (CV+): on new objects "
        "they cover as often or, the more the rounds disagree, more often, and no less than "
        f"{100 * (2 * study.recipe.task.level - 1):g} % but for a term that falls with the number of objects "
        "(Barber et al. 2021)."
    )


def _groups(study: Folder, best: pd.DataFrame, ways: Sequence[str]) -> Drawn:
    level, (sort, what) = study.recipe.task.level, _words(study)
    colour = study.colour(study.best["model"])
    figure, axes = new(11, 4.2, 2, len(ways))
    for (upper, lower), by in zip(axes.T, ways, strict=True):
        rows = best[best["by"] == by]
        x = np.arange(len(rows))
        low, high = binom.interval(LEVEL, rows["n"].to_numpy(), level) / rows["n"].to_numpy()
        upper.bar(x, 100 * (high - low), 0.6, bottom=100 * low, color=INK, alpha=0.1, lw=0)
        upper.errorbar(
            x,
            100 * rows["coverage"],
            whiskers(*(100 * rows[end] for end in ("coverage", "low", "high"))),
            fmt="o",
            capsize=2.5,
            lw=1.3,
            color=colour,
        )
        upper.axhline(100 * level, color=INK, ls="--", lw=1.2)
        lower.bar(x, rows["width"], 0.6, color=colour)
        upper.tick_params(labelbottom=False)
        upper.set_xticks(x)
        crowded = len(rows) > 4 or rows["group"].str.len().max() > 8
        lower.set_xticks(
            x,
            [f"{r.group} ({r.n:,})" for r in rows_of(rows)],
            rotation=40 if crowded else 0,
            ha="right" if crowded else "center",
            fontsize=7.5,
        )
        upper.set_title(_NAMES.get(by, "by {}").format(study.recipe.task.title if by in _NAMES else by))
        for axis in (upper, lower):
            axis.grid(visible=False, axis="x")
            axis.set_xlim(-0.6, len(rows) - 0.4)
    axes[0, 0].set_ylabel("coverage (%)")
    axes[1, 0].set_ylabel(what)
    return Drawn(
        "coverage-groups",
        figure,
        f"Coverage and {what} by {listed(ways)} for the best cell, with binomial 95 % intervals",
        f"{study.title(study.best['cell'])}: coverage of the {sort} with binomial 95 % intervals and {what} "
        f"by {listed(ways)} (number of test objects); dashed: the nominal {100 * level:g} %; grey: where "
        "95 % of groups of so many objects lie by chance if all are covered as often. "
        + (
            "Classes that differ have thresholds of their own, so that each is promised the level."
            if study.classes
            else "Widths follow what is learned of difficulty; the level itself is promised over all objects "
            "together, and by true values it cannot be: an extreme one is more often missed."
        ),
    )
