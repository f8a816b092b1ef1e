"""Figures of every kind of task: scores, differences, zooms, learning curves, cost, training curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.study.report.common import (
    INK,
    Drawn,
    fusion_name,
    listed,
    marker,
    metric_name,
    model_name,
    new,
    rows_of,
    unique_labels,
    whiskers,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skyfuse.study.report.folder import Folder

MAX_FOREST = 40
"""Differences that one figure can hold and stay legible."""
MAX_PANELS = 24


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield the figures that every study has."""
    yield from _losses(study)
    yield _scores(study)
    yield from _differences(study)
    yield from _zooms(study)
    yield from _learning(study)
    if study.results[f"test_{study.primary}"].notna().any():
        yield _cost(study)
    yield _runtime(study)


def panels(study: Folder) -> list[dict[str, Any]]:
    """Return the compared cells that figures of one panel a cell show: all, or each model's best if many."""
    rows = [row for m in study.models for f in study.fusions if (row := study.row(m, f)) is not None]
    return rows if len(rows) <= MAX_PANELS else study.leaders


def columns(study: Folder, n: int) -> int:
    """Return in how many columns n panels stand: one for each input where all are shown."""
    inputs = len(study.fusions)
    return inputs if 2 <= inputs <= 5 and n == inputs * len(study.models) else 4


def histograms(
    axis: Axes,
    study: Folder,
    values: Mapping[str, NDArray[np.float64]],
    edges: NDArray[np.float64],
    label: Callable[[str], str] | None = None,
) -> None:
    """Draw how a value of each test object is distributed, a line for each model's best cell.

    Parameters
    ----------
    axis : Axes
    study : Folder
    values : mapping of str to ndarray
        By name of the cell.
    edges : ndarray
        Of the bins.
    label : callable, optional
        Gives a cell's line its name; by default its title.
    """
    for row in study.leaders:
        axis.hist(
            values[row["cell"]],
            bins=edges.tolist(),
            histtype="step",
            lw=1.6,
            color=study.colour(row["model"]),
            label=(label or study.title)(row["cell"]),
        )
    axis.set_ylabel("test objects")
    axis.legend(fontsize=7.5)


def _losses(study: Folder) -> Iterator[Drawn]:
    rows = [row for row in panels(study) if row["iterations"] > 1]
    if not rows:
        return
    figure, axes = wrapped(len(rows), columns(study, len(rows)), width=2.75, height=2.2)
    for axis, row in zip(axes, rows, strict=True):
        history = study.cells[row["cell"]]["history"]
        x = np.arange(1, len(history["valid"]) + 1)
        axis.plot(x, history["train"], color="#56B4E9", label="training")
        axis.plot(x, history["valid"], color="#E69F00", label="validation")
        axis.axvline(history["best"] + 1, color="#B00020", ls="--", lw=1.2, label="best")
        axis.set_title(f"{study.title(row['cell'])}: {history['best'] + 1}", fontsize=8.5)
        axis.set_xlabel("iteration" if row["model"] == "lightgbm" else "epoch")
        axis.set_ylabel(history.get("metric", "RMSE"))
    figure.legend(*unique_labels(axes[0]), loc="outside upper center", ncols=3)
    yield Drawn(
        "losses",
        figure,
        "Training and validation error by epoch or iteration for each model and input, best one marked",
        "Error by epoch (network) or boosting iteration. The dashed line and the number mark the lowest "
        "validation error, the state that is kept. A network's training curve is the mean over the epoch "
        "with dropout at work, so it may lie above.",
    )


def _scores(study: Folder) -> Drawn:
    metrics = [metric for metric in study.scores if metric != "log_loss"]
    fusions, models = study.fusions, study.models
    single = len(fusions) == 1
    # With one input, models stand where else the inputs stand.
    stands = models if single else fusions
    across = 5 if len(metrics) == 5 else min(4, len(metrics))
    figure, axes = wrapped(len(metrics), across, width=11 / across, height=3.0 + 0.1 * single)
    for axis, metric in zip(axes, metrics, strict=True):
        for k, model in enumerate(models):
            offset = 0 if single else 0.7 / len(models) * (k - (len(models) - 1) / 2)
            for i, fusion in enumerate(fusions):
                row = study.row(model, fusion)
                if row is None:
                    continue
                value = row[f"test_{metric}"]
                axis.errorbar(
                    k if single else i + offset,
                    value,
                    whiskers(value, row[f"test_{metric}_low"], row[f"test_{metric}_high"]),
                    fmt=marker(fusion),
                    color=study.colour(model),
                    capsize=2.5,
                    lw=1.3,
                    label=model_name(model),
                )
        limit = study.attainable(metric)
        if limit is not None:
            axis.axhline(limit, color=INK, ls="--", lw=1.2, label="attainable")
        axis.set_title(study.named(metric))
        names = [model_name(s) if single else fusion_name(s).replace(" fusion,", ",") for s in stands]
        axis.set_xticks(range(len(stands)), names, rotation=35, ha="right", fontsize=8)
        axis.set_xlim(-0.6, len(stands) - 0.4)
        axis.grid(visible=False, axis="x")
    if not single:
        handles: dict[str, Any] = {}
        for axis in axes:
            handles |= dict(zip(*reversed(unique_labels(axis)), strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(6, len(handles))
        )
    return Drawn(
        "scores",
        figure,
        f"{listed([metric_name(m) for m in metrics])} on the test part by model and input, with 95 % "
        "intervals",
        "Scores on the test part by "
        + ("model" if single else "input")
        + ", with 95 % bootstrap intervals"
        + ("; dashed: attainable." if any(study.attainable(m) is not None for m in metrics) else "."),
    )


def _differences(study: Folder) -> Iterator[Drawn]:
    table = study.sound
    fusion_of = dict(zip(study.results["cell"], study.results["fusion"], strict=True))
    gains = table[table["kind"].isin(["fusion", "single"])]
    pairs = table[table["kind"] == "models"]
    if len(pairs) > MAX_FOREST:
        leading = {row["cell"] for row in study.leaders}
        best = pairs[pairs["a"].isin(leading) & pairs["b"].isin(leading)]
        pairs = (
            best
            if 0 < len(best) <= MAX_FOREST
            else pairs[(pairs[["a", "b"]] == study.best["cell"]).any(axis=1)]
        )
    sides = []
    if len(gains):
        names = [
            f"{model_name(r.model)}: {fusion_name(r.fusion)}{' *' if r.chosen else ''} \N{MINUS SIGN} "
            f"{fusion_of[r.b]}"
            for r in rows_of(gains)
        ]
        colours = [study.colour(model) for model in gains["model"]]
        sides.append(("fusions against single inputs", gains, names, colours))
    if len(pairs):
        model_of = dict(zip(study.results["cell"], study.results["model"], strict=True))
        names = [
            ("" if len(study.fusions) == 1 else f"{fusion_name(r.fusion)}: ")
            + f"{model_name(model_of[r.a])} \N{MINUS SIGN} {model_name(model_of[r.b])}"
            for r in rows_of(pairs)
        ]
        sides.append(("between models, same input", pairs, names, [INK] * len(pairs)))
    if not sides:
        return
    height = 0.24 * max(len(side[1]) for side in sides) + 1.0
    figure, axes = new(11 if len(sides) > 1 else 7, height, 1, len(sides))
    for axis, (title, rows, names, colours) in zip(axes[0], sides, strict=True):
        forest(axis, rows, names, colours)
        axis.set_title(title)
        axis.set_xlabel(f"difference of {metric_name(study.primary)}")
    star = (
        " The fusion marked * is the one chosen for the model, against its best single input by the same "
        "choice."
        if len(gains)
        else ""
    )
    yield Drawn(
        "differences",
        figure,
        f"Differences of the test {metric_name(study.primary)} with 95 % intervals, in pairs of cells",
        f"Differences of {metric_name(study.primary)} on the same test objects, with paired bootstrap 95 % "
        f"intervals; right of zero, the first is better; filled where the interval leaves zero out.{star}",
    )


def forest(axis: Axes, table: pd.DataFrame, names: Sequence[str], colours: Sequence[str]) -> None:
    """Draw differences with their intervals, one below the other."""
    for i, row in enumerate(rows_of(table)):
        sure = row.low > 0 or row.high < 0
        axis.plot([row.low, row.high], [i, i], color=colours[i], lw=1.6)
        axis.plot(row.difference, i, "o", color=colours[i], mfc=colours[i] if sure else "white")
    axis.axvline(0, color="#888888", lw=1)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _zooms(study: Folder) -> Iterator[Drawn]:
    seen = study.results[study.results["role"].isin(["reference", "resolution"])]
    zoomed = [
        name
        for name in study.inputs
        if f"{name}_zoom" in seen and len(set(seen.loc[seen["fusion"] == name, f"{name}_zoom"])) > 1
    ]
    if not zoomed:
        return
    metrics = study.scores[:4]
    figure, axes = new(11, 2.4 * len(zoomed) + 0.3, len(zoomed), len(metrics))
    for i, name in enumerate(zoomed):
        part = seen[seen["fusion"] == name]
        for j, metric in enumerate(metrics):
            axis = axes[i, j]
            for k, model in enumerate(study.models):
                rows = part[part["model"] == model].sort_values(f"{name}_zoom")
                axis.errorbar(
                    rows[f"{name}_zoom"].to_numpy(dtype=float) + 0.06 * (k - (len(study.models) - 1) / 2),
                    rows[f"test_{metric}"],
                    whiskers(*(rows[f"test_{metric}{end}"] for end in ("", "_low", "_high"))),
                    fmt="o-",
                    capsize=2.5,
                    lw=1.3,
                    color=study.colour(model),
                    label=model_name(model),
                )
            axis.set_xticks(sorted(int(z) for z in part[f"{name}_zoom"].unique()))
            axis.set_xlabel(f"{name} zoom (0: finest)")
            axis.set_title(study.named(metric))
            if j == 0:
                axis.set_ylabel(name)
    figure.legend(*unique_labels(axes[0, 0]), loc="outside upper center", ncols=min(6, len(study.models)))
    yield Drawn(
        "zooms",
        figure,
        f"Scores on the test part against the zoom of {listed(zoomed)}, one line for each model",
        f"Resolution study: scores on the test part of each model on {listed(zoomed)} alone, at "
        "each zoom; each zoom halves the sampling along each axis. 95 % bootstrap intervals.",
    )


def _learning(study: Folder) -> Iterator[Drawn]:
    cut = study.results[study.results["role"] == "size"]
    if cut.empty:
        return
    metrics = study.scores[:3]
    figure, axes = new(11, 3.2, 1, len(metrics))
    sizes: set[int] = set()
    for (model, fusion), rows in cut.groupby(["model", "fusion"], sort=False):
        whole = study.reference[(study.reference["model"] == model) & (study.reference["fusion"] == fusion)]
        rows = pd.concat([rows, whole]).drop_duplicates("n_train").sort_values("n_train")
        sizes |= set(rows["n_train"])
        for axis, metric in zip(axes[0], metrics, strict=True):
            axis.errorbar(
                rows["n_train"],
                rows[f"test_{metric}"],
                whiskers(*(rows[f"test_{metric}{end}"] for end in ("", "_low", "_high"))),
                fmt=f"{marker(str(fusion))}-",
                capsize=2.5,
                lw=1.3,
                color=study.colour(str(model)),
                label=study.title(rows["cell"].iloc[0]),
            )
    for axis, metric in zip(axes[0], metrics, strict=True):
        axis.set_xscale("log")
        axis.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)], rotation=30, ha="right")
        axis.minorticks_off()
        axis.set_xlabel("training objects")
        axis.set_title(study.named(metric))
    handles = unique_labels(axes[0, 0])
    figure.legend(*handles, loc="outside upper center", ncols=min(4, len(handles[0])))
    yield Drawn(
        "learning",
        figure,
        "Scores on the test part against the number of training objects, one line for each model",
        "Learning curve: scores on the same test objects after training on parts of the training objects; "
        "the last point is the whole training part. 95 % bootstrap intervals.",
    )


def _runtime(study: Folder) -> Drawn:
    fusions, models = study.fusions, study.models
    single = len(fusions) == 1
    figure, axes = new(11, 3.0, 1, 2)
    width = 0.8 if single else 0.8 / len(models)
    for axis, column, title in (
        (axes[0, 0], "train_seconds", "training (s)"),
        (axes[0, 1], "inference_seconds", "inference, whole test part (s)"),
    ):
        for k, model in enumerate(models):
            rows = [study.row(model, fusion) for fusion in fusions]
            heights = [np.nan if row is None else max(float(row[column]), 1e-5) for row in rows]
            x = np.array([k]) if single else np.arange(len(fusions)) + width * (k - (len(models) - 1) / 2)
            axis.bar(x, heights, width, color=study.colour(model), label=model_name(model))
        axis.set_yscale("log")
        axis.set_title(title)
        names = [model_name(m) for m in models] if single else [fusion_name(f) for f in fusions]
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axis.grid(visible=False, axis="x")
    if not single:
        figure.legend(*unique_labels(axes[0, 0]), loc="outside upper center", ncols=min(6, len(models)))
    late = (
        " A late fusion costs the training of its members."
        if any(f.startswith("late") for f in fusions)
        else ""
    )
    return Drawn(
        "runtime",
        figure,
        "Bars: wall time of training and of inference by input and model, logarithmic",
        f"Wall time on this machine.{late}",
    )


def _cost(study: Folder) -> Drawn:
    rows = study.results[~study.results["role"].isin(["flaw", "leak"])]
    counted = bool(rows["parameters_count"].notna().any())
    figure, axes = new(11, 3.4, 1, 2 + counted, sharey=True)
    shown: dict[str, Any] = {}
    for row in rows_of(rows):
        main = row.role == "reference"
        costs = [row.train_seconds, 1e3 * row.inference_seconds / row.n_test]
        if counted:
            costs.append(row.parameters_count)
        for axis, cost in zip(axes[0], costs, strict=True):
            if pd.isna(cost):
                continue
            (dot,) = axis.plot(
                max(cost, 1e-5),
                getattr(row, f"test_{study.primary}"),
                marker(row.fusion),
                color=study.colour(row.model),
                mfc=study.colour(row.model) if main else "white",
                ms=7 if main else 4.5,
                alpha=1 if main else 0.8,
            )
            if main:
                shown.setdefault(study.title(row.cell), dot)
    limit = study.attainable(study.primary)
    names = ["training (s)", "inference (ms an object)", "weights of the network"]
    for axis, name in zip(axes[0], names, strict=False):
        axis.set_xscale("log")
        axis.set_xlabel(name)
        if limit is not None:
            axis.axhline(limit, color=INK, ls="--", lw=1.2)
    score = metric_name(study.primary)
    axes[0, 0].set_ylabel(f"{score} on the test part")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=7.5)
    others = "; open: other zooms and smaller training parts" if (rows["role"] != "reference").any() else ""
    return Drawn(
        "cost",
        figure,
        f"{score} on the test part against training time and inference time, one point for each cell",
        f"Accuracy against cost. Filled: compared cells{others}"
        + ("." if limit is None else "; dashed: attainable."),
    )
