"""Figures of the searches for parameters: grids, random and Bayesian searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skyfuse.study.report.common import (
    INK,
    Drawn,
    fusion_name,
    metric_name,
    model_name,
    new,
    parameter_name,
    shade,
    unique_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skyfuse.study.report.folder import Folder

MAX_PARAMETERS = 4
"""Parameters of a search that get a panel each: those with the most different values."""


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield one figure for each tuned model."""
    for model in study.models:
        trials = study.trials[study.trials["model"] == model]
        if trials.empty:
            continue
        draws = study.recipe.search.method != "grid"
        yield _search(study, model, trials) if draws else _grid(study, model, trials)


def _grid(study: Folder, model: str, trials: pd.DataFrame) -> Drawn:
    grid = study.recipe.models[model].grid
    along = max(grid, key=lambda name: (name == "learning_rate", len(grid[name])))
    others = [name for name in grid if name != along and len(grid[name]) > 1]
    fusions = list(dict.fromkeys(trials["fusion"]))
    metrics = study.scores[:4]
    figure, axes = new(11, 2.0 * len(fusions) + 0.6, len(fusions), len(metrics), sharex=True)
    points = [json.loads(text) for text in trials["parameters"]]
    values = list(dict.fromkeys(point[along] for point in points))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    values = sorted(values) if numeric else values
    spread = numeric and values[0] > 0 and values[-1] / values[0] >= 10
    trials = trials.assign(
        # Words, and numbers that do not spread over a decade evenly, stand side by side.
        x=[point[along] if spread else values.index(point[along]) for point in points],
        line=[", ".join(f"{parameter_name(name)} {point[name]}" for name in others) for point in points],
    )
    lines = list(dict.fromkeys(trials["line"]))
    for i, fusion in enumerate(fusions):
        for j, metric in enumerate(metrics):
            axis = axes[i, j]
            for k, line in enumerate(lines):
                part = trials[(trials["fusion"] == fusion) & (trials["line"] == line)].sort_values("x")
                colour = shade(k, len(lines)) if others else study.colour(model)
                axis.plot(part["x"], part[metric], "o-", color=colour, label=line or None)
                if metric == study.primary:
                    low, high = (part["score"] + sign * part["score_std"] for sign in (-1, 1))
                    axis.fill_between(part["x"], low, high, color=colour, alpha=0.1, lw=0)
            best = trials[(trials["fusion"] == fusion) & trials["chosen"]].iloc[0]
            axis.plot(best["x"], best[metric], "o", ms=11, mfc="none", mec=INK, mew=1.3, clip_on=False)
            if spread:
                axis.set_xscale("log")
            places = values if spread else list(range(len(values)))
            axis.set_xticks(places, [f"{v:g}" if numeric else str(v) for v in values])
            axis.minorticks_off()
            if i == 0:
                axis.set_title(metric_name(metric))
            if j == 0:
                axis.set_ylabel(fusion_name(fusion))
            if i == len(fusions) - 1:
                axis.set_xlabel(parameter_name(along))
    if others:
        figure.legend(*unique_labels(axes[0, 0]), loc="outside upper center", ncols=min(6, len(lines)))
    return Drawn(
        f"tuning:{model}",
        figure,
        f"{model_name(model)}: cross-validated scores against {parameter_name(along)}, one row for each "
        "input",
        f"{model_name(model)}: scores against the tuned parameters, means over "
        f"{int(trials['folds'].iloc[0])} folds of the training part (band: standard deviation of "
        f"{metric_name(study.primary)} over the folds; circle: chosen, by {metric_name(study.primary)}).",
    )


def _search(study: Folder, model: str, trials: pd.DataFrame) -> Drawn:
    points = pd.DataFrame([json.loads(text) for text in trials["parameters"]], index=trials.index)
    different = {str(name): len(set(values)) for name, values in points.items()}
    most = sorted(different, key=lambda name: -different[name])[:MAX_PARAMETERS]
    varied = [name for name in different if name in most and different[name] > 1]
    fusions = list(dict.fromkeys(trials["fusion"]))
    across = 2 + len(varied)
    figure, axes = new(min(11, 2.6 * across), 2.1 * len(fusions) + 0.4, len(fusions), across)
    score = metric_name(study.primary)
    for i, fusion in enumerate(fusions):
        part = trials[trials["fusion"] == fusion].sort_values("number")
        chosen = part[part["chosen"]].iloc[0]
        order = np.arange(1, len(part) + 1)
        first, *middle, last = axes[i]
        first.plot(order, part["score"], "o", color=study.colour(model), ms=4, label="trial")
        first.step(order, part["score"].cummax(), where="post", color=INK, lw=1.2, label="best so far")
        first.set_ylabel(f"{fusion_name(fusion)}: {score}")
        last.bar(order, part["seconds"], color=study.colour(model))
        last.set_ylabel("seconds")
        for axis in (first, last):
            axis.set_xlabel("trial")
        for axis, name in zip(middle, varied, strict=True):
            _against(axis, points.loc[part.index, name], part["score"], study.colour(model))
            axis.plot(
                *_place(points.loc[part.index, name], chosen.name, chosen["score"]),
                "o",
                ms=11,
                mfc="none",
                mec=INK,
                mew=1.3,
                clip_on=False,
            )
            axis.set_xlabel(parameter_name(name))
        for axis in middle:
            axis.sharey(first)
            axis.tick_params(labelleft=False)
        if i == 0:
            first.set_title("by trial")
            last.set_title("time of each trial")
    figure.legend(*unique_labels(axes[0, 0]), loc="outside upper center", ncols=2)
    left = points.shape[1] - len(varied)
    method = "Bayesian" if study.recipe.search.method == "bayesian" else study.recipe.search.method
    return Drawn(
        f"tuning:{model}",
        figure,
        f"{model_name(model)}: score by trial with the best so far, against each parameter, and time of "
        "each trial",
        f"{model_name(model)}: {method} search of {len(points) // len(fusions)} trials for each input, means "
        f"over the scored folds of the training part; circle: chosen, by {score}."
        + (f" The {len(varied)} parameters with the most different values are shown." if left else ""),
    )


def _positions(values: pd.Series) -> tuple[list[Any], list[str] | None]:
    """Return where values stand on an axis, and their names if they are words or switches."""
    if values.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool)).all():
        return [float(value) for value in values], None
    names = sorted(values.astype(str).unique())
    return [names.index(str(value)) for value in values], names


def _place(values: pd.Series, row: Any, score: float) -> tuple[list[float], list[float]]:
    place = _positions(values)[0][list(values.index).index(row)]
    return [place], [score]


def _against(axis: Axes, values: pd.Series, score: pd.Series, colour: str) -> None:
    places, names = _positions(values)
    axis.plot(places, score, "o", color=colour, ms=4)
    if names is not None:
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7.5)
        axis.set_xlim(-0.5, len(names) - 0.5)
    elif min(places) > 0 and max(places) / min(places) >= 30:
        axis.set_xscale("log")
