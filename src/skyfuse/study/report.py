"""One self-contained page: every figure and table of a study, made from the study's folder alone."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skyfuse.config import FUSIONS, Recipe, load_recipe
from skyfuse.cube.layout import read_json, replaced
from skyfuse.errors import StoreError
from skyfuse.study.metrics import LABELS, METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL_NAMES = {"tree": "Decision tree", "lightgbm": "LightGBM", "vggnet12": "VGGNet12"}
FUSION_NAMES = {
    "image": "image",
    "spectrum": "spectrum",
    "early": "early fusion",
    "late-mean": "late fusion, mean",
    "late-weighted": "late fusion, weighted",
}
METHOD_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
PARAMETER_NAMES = {"max_depth": "depth", "learning_rate": "learning rate"}

# Okabe & Ito (2008): told apart by all common kinds of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_FIXED_COLOURS = {"tree": "#D55E00", "lightgbm": "#0072B2", "vggnet12": "#009E73"}
_MARKERS = {"image": "s", "spectrum": "^", "early": "o", "late-mean": "D", "late-weighted": "v"}
_INK = "#222222"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "savefig.dpi": 150,
    # Names inside the SVG would otherwise be random, and the file would differ from run to run.
    "svg.hashsalt": "skyfuse",
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it.

    Attributes
    ----------
    uri : str
        SVG as a data URI.
    alt : str
        What the figure shows, for readers who cannot see it.
    caption : str
        Text below it.
    """

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class _Folder:
    """What a study's folder holds."""

    path: Path
    recipe: Recipe
    header: dict[str, Any]
    data: dict[str, Any]
    objects: pd.DataFrame
    results: pd.DataFrame
    trials: pd.DataFrame
    comparisons: pd.DataFrame
    effects: pd.DataFrame
    embeddings: pd.DataFrame
    correlations: pd.DataFrame
    cells: dict[str, dict[str, Any]]

    @property
    def reference(self) -> pd.DataFrame:
        return self.results[self.results["role"] == "reference"]

    @property
    def models(self) -> list[str]:
        return list(self.recipe.models)

    @property
    def fusions(self) -> list[str]:
        return [fusion for fusion in FUSIONS if fusion in self.recipe.fusions]

    @property
    def label(self) -> str:
        task = self.recipe.task
        return f"{task.title} ({task.unit})"

    @property
    def unit(self) -> str:
        """Unit of the label without its explanation."""
        return self.recipe.task.unit.split(",")[0]

    @property
    def attainable(self) -> float | None:
        values = self.reference["attainable_r2"].dropna()
        return float(values.iloc[0]) if len(values) else None

    def colour(self, model: str) -> str:
        spare = [c for c in _COLOURS if c not in _FIXED_COLOURS.values()]
        others = [name for name in self.models if name not in _FIXED_COLOURS]
        return _FIXED_COLOURS.get(model) or spare[others.index(model) % len(spare)]

    def predictions(self, cell: str, part: str) -> pd.DataFrame:
        table = pd.read_parquet(self.path / "cells" / cell / "predictions.parquet")
        return table[table["part"] == part]

    def row(self, model: str, fusion: str) -> pd.Series | None:
        rows = self.reference[(self.reference["model"] == model) & (self.reference["fusion"] == fusion)]
        return rows.iloc[0] if len(rows) else None


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a study's folder, from what lies in the folder.

    Parameters
    ----------
    folder : path
        A finished study.

    Returns
    -------
    Path
        The report: one file without links to anything else.

    Raises
    ------
    StoreError
        The folder is no study, or is not finished.
    """
    from jinja2 import Environment, StrictUndefined

    study = _read(Path(folder))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.filters["seconds"] = _seconds
    environment.filters["signed"] = _signed
    source = (resources.files("skyfuse.study") / "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(**_content(study))
    path = study.path / "report.html"
    with replaced(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def model_name(model: str) -> str:
    """Return a model's name as the report prints it."""
    return MODEL_NAMES.get(model, model)


def _read(path: Path) -> _Folder:
    if not (path / "study.json").is_file():
        raise StoreError("is not the folder of a study", remedy="run the study first", path=path)
    tables = {}
    for name in ("objects", "results", "trials", "comparisons", "effects", "embeddings", "correlations"):
        try:
            tables[name] = pd.read_parquet(path / f"{name}.parquet")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{name}.parquet is missing or damaged",
                remedy="run the study again: it finishes what is missing",
                path=path,
            ) from error
    recipe = load_recipe(path / "recipe.yaml")
    cells = {
        name: read_json(path / "cells" / name / "cell.json") for name in tables["results"]["cell"].tolist()
    }
    header, data = read_json(path / "study.json"), read_json(path / "data.json")
    return _Folder(path, recipe, header, data, cells=cells, **tables)


# -------------------------------------------------------------------------------- content of the page


def _content(study: _Folder) -> dict[str, Any]:
    return {
        "recipe": study.recipe,
        "header": study.header,
        "headline": _headline(study),
        "table": _score_table(study),
        "attainable": study.attainable,
        "n": {part: int((study.objects["part"] == part).sum()) for part in ("train", "valid", "test")},
        "funnel": _funnel(study),
        "gaps": study.data["nan"],
        "multi": study.data["multi"],
        "correlations": _correlations(study),
        "fusion_gains": _gains(study),
        "flaws": _flaws(study),
        "published": _published(study),
        "cells": _cell_table(study),
        "pictures": _pictures(study),
        "versions": study.header["versions"],
        "recipe_text": study.recipe.to_yaml(),
    }


def _headline(study: _Folder) -> dict[str, Any]:
    """Return the cell with the best R² on the validation part, with its test scores."""
    best = max(_records(study.reference), key=lambda row: float(row["valid_r2"]))
    return {**best, "name": f"{model_name(best['model'])}, {FUSION_NAMES[best['fusion']]}"}


def _score_table(study: _Folder) -> list[dict[str, Any]]:
    rows = []
    for model in study.models:
        for fusion in study.fusions:
            row = study.row(model, fusion)
            if row is None:
                continue
            weights = study.cells[row["cell"]].get("weights")
            named = FUSION_NAMES[fusion]
            if weights is not None and fusion == "late-weighted":
                named += f" ({weights[0]:.2f} image, {weights[1]:.2f} spectrum)"
            names = {"model_name": model_name(model), "fusion_name": named}
            rows.append({str(key): value for key, value in row.items()} | names)
    return rows


def _funnel(study: _Folder) -> list[dict[str, Any]]:
    steps = study.data["funnel"]
    top = max((step["count"] for step in steps), default=0) or 1
    return [{**step, "width": 100 * step["count"] / top} for step in steps]


def _correlations(study: _Folder) -> list[dict[str, Any]]:
    return [{**row, "method_name": METHOD_NAMES[row["method"]]} for row in _records(study.correlations)]


def _gains(study: _Folder) -> list[dict[str, Any]]:
    gains = study.comparisons
    gains = gains[(gains["kind"] == "fusion") & (gains["metric"] == "r2")]
    fusion_of = dict(zip(study.results["cell"], study.results["fusion"], strict=True))
    return [
        {
            **row,
            "model_name": model_name(str(row["model"])),
            "fusion_name": FUSION_NAMES[str(row["fusion"])],
            "single": fusion_of[row["b"]],
            "sure": row["low"] > 0,
        }
        for row in _records(gains)
    ]


def _flaws(study: _Folder) -> list[dict[str, Any]]:
    effects = {row["variant"]: row for row in _records(study.effects)} if len(study.effects) else {}
    return [
        {
            "what": flaw.what,
            "avoided": flaw.avoided,
            "effect": effects.get(flaw.variant) if flaw.variant else None,
            "model_name": model_name(flaw.model or ""),
            "fusion": flaw.fusion,
        }
        for flaw in study.recipe.flaws
    ]


def _published(study: _Folder) -> list[dict[str, Any]]:
    return [
        {
            **figure.model_dump(),
            "model_name": model_name(figure.model),
            "fusion_name": FUSION_NAMES[figure.fusion],
        }
        for figure in study.recipe.published
    ]


def _cell_table(study: _Folder) -> list[dict[str, Any]]:
    rows = _records(study.results.astype({"image_zoom": object, "spectrum_zoom": object}))
    return [
        {
            **row,
            "model_name": model_name(row["model"]),
            "fusion_name": FUSION_NAMES[row["fusion"]],
            "parameters": ", ".join(f"{k} {v}" for k, v in json.loads(row["parameters"]).items()),
        }
        for row in rows
    ]


def _pictures(study: _Folder) -> dict[str, Picture]:
    makers: dict[str, Callable[[_Folder], tuple[Figure, str, str] | None]] = {
        "label": _draw_label,
        "shares": _draw_gap_shares,
        "runs": _draw_runs,
        "frequency": _draw_frequency,
        "embeddings": _draw_embeddings,
        "losses": _draw_losses,
        "scores": _draw_scores,
        "differences": _draw_differences,
        "predictions": _draw_predictions,
        "zooms": _draw_zooms,
        "runtime": _draw_runtime,
        "cost": _draw_cost,
    }
    pictures = {}
    with _style():
        for name, make in makers.items():
            drawn = make(study)
            if drawn is not None:
                pictures[name] = _picture(*drawn)
        for model in study.models:
            drawn = _draw_tuning(study, model)
            if drawn is not None:
                pictures[f"tuning-{model}"] = _picture(*drawn)
    return pictures


@contextmanager
def _style() -> Iterator[None]:
    # Matplotlib takes half a second to import; whoever only reads results does not pay for it.
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def _picture(figure: Figure, alt: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(
        "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), alt, caption
    )


def _new(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    rows: list[Any] = table.to_dict("records")
    return rows


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table with its columns as attributes."""
    return iter(table.itertuples())


def _number(value: Any, digits: int = 3) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{float(value):.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _signed(value: Any, digits: int = 3) -> str:
    text = _number(value, digits)
    return text if text.startswith(("\N{MINUS SIGN}", "–")) else f"+{text}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


# ------------------------------------------------------------------------------------------- figures


def _draw_label(study: _Folder) -> tuple[Figure, str, str]:
    figure, axes = _new(6.4, 2.9)
    axis = axes[0, 0]
    used = study.objects[study.objects["part"] != ""]
    edges = np.histogram_bin_edges(used["label"], bins=30)
    for part, colour in zip(("train", "valid", "test"), ("#666666", "#E69F00", "#0072B2"), strict=True):
        values = used.loc[used["part"] == part, "label"]
        axis.hist(
            values,
            bins=edges,
            density=True,
            histtype="step",
            lw=1.6,
            color=colour,
            label=f"{part} ({len(values)})",
        )
    axis.set_xlabel(study.label)
    axis.set_ylabel(f"density (1/{study.unit})")
    axis.legend()
    return (
        figure,
        f"Histogram of {study.recipe.task.title} in the training, validation and test parts",
        f"Distribution of the label in the three parts of the split, which is stratified on it. "
        f"{study.recipe.task.definition}.",
    )


def _draw_gap_shares(study: _Folder) -> tuple[Figure, str, str] | None:
    gaps = study.data["nan"]
    if not gaps:
        return None
    figure, axes = _new(6.4, 2.9)
    axis = axes[0, 0]
    names = _share_names(gaps[0]["shares"]["up_to"])
    width = 0.8 / len(gaps)
    for i, entry in enumerate(gaps):
        x = np.arange(len(names)) + (i - (len(gaps) - 1) / 2) * width
        percent = 100 * np.array(entry["shares"]["share"])
        axis.bar(x, percent, width, color=_shade(i, len(gaps)), label=f"zoom {entry['zoom']}")
    axis.set_xticks(range(len(names)), names)
    axis.set_xlabel("invalid bins of a spectrum")
    axis.set_ylabel("objects (%)")
    axis.legend(ncols=2)
    axis.grid(visible=False, axis="x")
    return (
        figure,
        "Bars: share of spectra by their percentage of invalid bins, at each zoom",
        "Share of objects by percentage of invalid (NaN) spectral bins.",
    )


def _share_names(edges: Sequence[float]) -> list[str]:
    names = ["none"]
    for low, high in itertools.pairwise(edges):
        if low > 99.9:
            names.append("all")
        else:
            names.append(f"{low:g}\N{EN DASH}{min(high, 100):.4g} %" if high < 99.9 else f"> {low:g} %")
    return names


def _shade(i: int, n: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.1 + 0.75 * i / max(n - 1, 1))


def _draw_runs(study: _Folder) -> tuple[Figure, str, str] | None:
    gaps = [entry for entry in study.data["nan"] if entry["runs"]]
    if not gaps:
        return None
    figure, axes = _new(6.4, 2.9)
    axis = axes[0, 0]
    for i, entry in enumerate(gaps):
        low, high = (np.array(entry["histogram"][key]) for key in ("from_length", "to_length"))
        counts = np.array(entry["histogram"]["runs"], dtype=float)
        seen = counts > 0
        middle = np.sqrt(low * high)
        axis.plot(middle[seen], counts[seen], "o-", color=_shade(i, len(gaps)), label=f"zoom {entry['zoom']}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("length of a run of invalid bins (bins)")
    axis.set_ylabel("runs")
    axis.legend(ncols=2)
    return (
        figure,
        "Number of runs of consecutive invalid bins against their length, at each zoom, axes logarithmic",
        "Lengths of runs of consecutive invalid bins, in classes of length.",
    )


def _draw_frequency(study: _Folder) -> tuple[Figure, str, str] | None:
    gaps = study.data["nan"]
    if not gaps:
        return None
    figure, axes = _new(10, 2.7)
    axis = axes[0, 0]
    finest = gaps[0]
    axis.plot(finest["wavelength"], 100 * np.array(finest["frequency"]), lw=0.8, color=_INK)
    axis.set_xlabel("vacuum wavelength (Å)")
    axis.set_ylabel("spectra invalid here (%)")
    axis.set_xlim(finest["wavelength"][0], finest["wavelength"][-1])
    axis.set_ylim(bottom=0)
    return (
        figure,
        "Percentage of spectra that are invalid in each bin, along the wavelength",
        f"How often each bin is invalid, at zoom {finest['zoom']}.",
    )


def _draw_embeddings(study: _Folder) -> tuple[Figure, str, str] | None:
    table = study.embeddings
    if table.empty:
        return None
    methods = list(dict.fromkeys(table["method"]))
    modalities = list(dict.fromkeys(table["modality"]))
    zooms = sorted(set(table["zoom"]))
    if len(zooms) > 2:
        layout = [[(method, modality, z) for z in zooms] for modality in modalities for method in methods]
    else:
        # Few zooms: one row a modality keeps the panels large.
        own = {m: sorted(set(table.loc[table["modality"] == m, "zoom"])) for m in modalities}
        layout = [[(method, m, z) for z in own[m] for method in methods] for m in modalities]
    columns = max(len(row) for row in layout)
    side = min(11 / columns, 3.1)
    figure, axes = _new(side * columns + 0.7, (side * 0.85 + 0.25) * len(layout), len(layout), columns)
    label = study.objects.set_index("row")["label"]
    low, high = np.percentile(label.loc[table["row"].unique()], [2, 98])
    rho = study.correlations.set_index(["method", "modality", "zoom"])
    dots: Any = None
    for i, j in np.ndindex(axes.shape):
        axis = axes[i, j]
        if j >= len(layout[i]) or layout[i][j] not in rho.index:
            axis.set_visible(False)
            continue
        place = method, modality, zoom = layout[i][j]
        here = (table["method"] == method) & (table["modality"] == modality) & (table["zoom"] == zoom)
        view = table[here]
        dots = axis.scatter(
            view["x"],
            view["y"],
            c=label.loc[view["row"]],
            s=np.clip(4000 / len(view), 0.6, 9),
            lw=0,
            cmap="viridis",
            vmin=low,
            vmax=high,
            rasterized=True,
        )
        # A few far points would press all others into a corner.
        for values, limits in ((view["x"], axis.set_xlim), (view["y"], axis.set_ylim)):
            a, b = np.percentile(values, [0.5, 99.5])
            limits(a - 0.08 * (b - a), b + 0.08 * (b - a))
        r: Any = rho.loc[place, :]
        axis.set_title(
            f"{METHOD_NAMES[method]}, {modality} zoom {zoom}\n"
            f"ρx {_signed(r['rho_x'], 2)}, ρy {_signed(r['rho_y'], 2)}",
            fontsize=8.5,
        )
        axis.set_xticks([])
        axis.set_yticks([])
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(True)
    figure.colorbar(dots, ax=axes, shrink=0.7, aspect=30, label=study.label)
    return (
        figure,
        "Scatter plots of the objects in two dimensions by method, modality and zoom, coloured by the label",
        "Images and spectra in two dimensions, coloured by the label, with the Pearson correlation of each "
        "axis with it. Each method learnt from the training part and then placed the others; the outermost "
        "1 % is off the axes.",
    )


def _draw_tuning(study: _Folder, model: str) -> tuple[Figure, str, str] | None:
    trials = study.trials[study.trials["model"] == model]
    if trials.empty:
        return None
    grid = study.recipe.models[model].grid
    along = max(grid, key=lambda name: (name == "learning_rate", len(grid[name])))
    others = [name for name in grid if name != along and len(grid[name]) > 1]
    fusions = list(dict.fromkeys(trials["fusion"]))
    figure, axes = _new(11, 2.0 * len(fusions) + 0.4, len(fusions), len(METRICS), sharex=True)
    points = [json.loads(text) for text in trials["parameters"]]
    trials = trials.assign(
        x=[point[along] for point in points],
        line=[", ".join(f"{_parameter(name)} {point[name]}" for name in others) for point in points],
    )
    lines = list(dict.fromkeys(trials["line"]))
    for i, fusion in enumerate(fusions):
        for j, metric in enumerate(METRICS):
            axis = axes[i, j]
            for k, line in enumerate(lines):
                part = trials[(trials["fusion"] == fusion) & (trials["line"] == line)]
                colour = _shade(k, len(lines)) if others else study.colour(model)
                axis.plot(part["x"], part[metric], "o-", color=colour, label=line or None)
                if metric == "r2":
                    axis.fill_between(
                        part["x"],
                        part["r2"] - part["r2_std"],
                        part["r2"] + part["r2_std"],
                        color=colour,
                        alpha=0.1,
                        lw=0,
                    )
            best = trials[(trials["fusion"] == fusion) & trials["chosen"]].iloc[0]
            axis.plot(best["x"], best[metric], "o", ms=11, mfc="none", mec=_INK, mew=1.3)
            if along == "learning_rate":
                axis.set_xscale("log")
            axis.set_xticks(sorted(set(trials["x"])), [f"{x:g}" for x in sorted(set(trials["x"]))])
            axis.minorticks_off()
            if i == 0:
                axis.set_title(LABELS[metric])
            if j == 0:
                axis.set_ylabel(FUSION_NAMES[fusion])
            if i == len(fusions) - 1:
                axis.set_xlabel(_parameter(along))
    if others:
        figure.legend(*_unique_labels(axes[0, 0]), loc="outside upper center", ncols=len(lines))
    return (
        figure,
        f"{model_name(model)}: cross-validated scores against {_parameter(along)}, one row for each input",
        f"{model_name(model)}: scores against the tuned parameters, means over "
        f"{int(trials['folds'].iloc[0])} folds of the training part (band: standard deviation of R² over "
        "the folds; circle: chosen, by R²). MAE, RMSE and NMAD in the label's unit.",
    )


def _parameter(name: str) -> str:
    return PARAMETER_NAMES.get(name, name.replace("_", " "))


def _draw_losses(study: _Folder) -> tuple[Figure, str, str] | None:
    rows = study.reference[study.reference["iterations"] > 1]
    if rows.empty:
        return None
    models = [model for model in study.models if model in set(rows["model"])]
    fusions = [fusion for fusion in study.fusions if fusion in set(rows["fusion"])]
    figure, axes = _new(3.4 * len(fusions), 2.4 * len(models), len(models), len(fusions))
    for i, model in enumerate(models):
        for j, fusion in enumerate(fusions):
            axis = axes[i, j]
            row = study.row(model, fusion)
            if row is None:
                axis.set_visible(False)
                continue
            history = study.cells[row["cell"]]["history"]
            x = np.arange(1, len(history["valid"]) + 1)
            axis.plot(x, history["train"], color="#56B4E9", label="training")
            axis.plot(x, history["valid"], color="#E69F00", label="validation")
            axis.axvline(history["best"] + 1, color="#B00020", ls="--", lw=1.2, label="best")
            axis.set_title(f"{model_name(model)}, {FUSION_NAMES[fusion]}: best {history['best'] + 1}")
            axis.set_xlabel("epoch" if model.startswith("vgg") else "iteration")
            if j == 0:
                axis.set_ylabel(f"RMSE ({study.unit})")
    figure.legend(*_unique_labels(axes[0, 0]), loc="outside upper center", ncols=3)
    return (
        figure,
        "Training and validation error by epoch or iteration for each model and input, best one marked",
        "Error by epoch (network) or boosting iteration. The dashed line marks the lowest validation "
        "error, the state that is kept. A network's training curve is the mean over the epoch with dropout "
        "at work, so it may lie above.",
    )


def _draw_scores(study: _Folder) -> tuple[Figure, str, str]:
    figure, axes = _new(11, 3.1, 1, len(METRICS))
    fusions, models = study.fusions, study.models
    for axis, metric in zip(axes[0], METRICS, strict=True):
        for k, model in enumerate(models):
            offset = 0.17 * (k - (len(models) - 1) / 2)
            for i, fusion in enumerate(fusions):
                row = study.row(model, fusion)
                if row is None:
                    continue
                value = row[f"test_{metric}"]
                error = [[value - row[f"test_{metric}_low"]], [row[f"test_{metric}_high"] - value]]
                axis.errorbar(
                    i + offset,
                    value,
                    np.abs(error),
                    fmt=_MARKERS[fusion],
                    color=study.colour(model),
                    capsize=2.5,
                    lw=1.3,
                    label=model_name(model) if i == 0 else None,
                )
        if metric == "r2" and study.attainable is not None:
            axis.axhline(study.attainable, color=_INK, ls="--", lw=1.2, label="attainable")
        axis.set_title(LABELS[metric] if metric == "r2" else f"{LABELS[metric]} ({study.unit})")
        axis.set_xticks(
            range(len(fusions)),
            [FUSION_NAMES[f].replace(" fusion,", ",") for f in fusions],
            rotation=35,
            ha="right",
        )
        axis.grid(visible=False, axis="x")
    figure.legend(*_unique_labels(axes[0, 0]), loc="outside upper center", ncols=len(models) + 1)
    return (
        figure,
        "R², MAE, RMSE and NMAD on the test part by input, one colour for each model, with 95 % intervals",
        "Scores on the test part by input, with 95 % bootstrap intervals.",
    )


def _unique_labels(axis: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axis.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    return list(named.values()), list(named)


def _draw_differences(study: _Folder) -> tuple[Figure, str, str] | None:
    table = study.comparisons[study.comparisons["metric"] == "r2"]
    if table.empty:
        return None
    gains = table[table["kind"] == "fusion"]
    pairs = table[table["kind"] == "models"]
    height = 0.24 * max(len(gains), len(pairs)) + 1.0
    figure, axes = _new(11, height, 1, 2)
    fusion_of = dict(zip(study.results["cell"], study.results["fusion"], strict=True))
    names = [
        f"{model_name(r.model)}: {FUSION_NAMES[r.fusion]}{' *' if r.chosen else ''} \N{MINUS SIGN} "
        f"{fusion_of[r.b]}"
        for r in _rows(gains)
    ]
    _forest(axes[0, 0], gains, names, [study.colour(model) for model in gains["model"]])
    axes[0, 0].set_title("fusion against the best single input")
    names = []
    for r in _rows(pairs):
        a, b = str(r.model).split(" - ")
        names.append(f"{FUSION_NAMES[r.fusion]}: {model_name(a)} \N{MINUS SIGN} {model_name(b)}")
    _forest(axes[0, 1], pairs, names, [_INK] * len(pairs))
    axes[0, 1].set_title("between models, same input")
    return (
        figure,
        "Differences of test R² with 95 % intervals: fusions against the best single input, models in pairs",
        "Differences of R² on the same test objects, with paired bootstrap 95 % intervals; right of zero, "
        "the first is better. The single input, and the fusion marked *, are the model's best on the "
        "validation part.",
    )


def _forest(axis: Axes, table: pd.DataFrame, names: Sequence[str], colours: Sequence[str]) -> None:
    for i, row in enumerate(_rows(table)):
        axis.plot([row.low, row.high], [i, i], color=colours[i], lw=1.6)
        axis.plot(
            row.difference,
            i,
            "o",
            color=colours[i],
            mfc=colours[i] if row.low > 0 or row.high < 0 else "white",
        )
    axis.axvline(0, color="#888888", lw=1)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("difference of R²")
    axis.grid(visible=False, axis="y")


def _draw_predictions(study: _Folder) -> tuple[Figure, str, str]:
    from matplotlib.figure import Figure

    models, fusions = study.models, study.fusions
    figure = Figure(figsize=(2.3 * len(fusions) + 0.6, 3.0 * len(models) + 0.3))
    outer = figure.add_gridspec(
        len(models),
        len(fusions),
        wspace=0.08,
        hspace=0.24,
        left=0.85 / figure.get_figwidth(),
        right=1 - 0.1 / figure.get_figwidth(),
        bottom=0.5 / figure.get_figheight(),
        top=1 - 0.3 / figure.get_figheight(),
    )
    test = study.objects.loc[study.objects["part"] == "test", "label"]
    low, high = float(test.min()), float(test.max())
    pad = 0.05 * (high - low)
    limits = (low - pad, high + pad)
    errors = np.concatenate(
        [
            np.abs(table["prediction"] - table["label"])
            for table in (study.predictions(cell, "test") for cell in study.reference["cell"])
        ]
    )
    reach = float(np.quantile(errors, 0.995))
    for i, model in enumerate(models):
        for j, fusion in enumerate(fusions):
            row = study.row(model, fusion)
            if row is None:
                continue
            table = study.predictions(row["cell"], "test")
            inner = outer[i, j].subgridspec(2, 1, height_ratios=[3, 1.2], hspace=0.06)
            upper, lower = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
            size = float(np.clip(1500 / len(table), 1, 8))
            for axis, values in ((upper, table["prediction"]), (lower, table["prediction"] - table["label"])):
                axis.scatter(
                    table["label"],
                    values,
                    s=size,
                    lw=0,
                    alpha=0.6,
                    color=study.colour(model),
                    rasterized=True,
                )
                axis.set_xlim(limits)
            upper.plot(limits, limits, color=_INK, lw=0.9)
            upper.set_ylim(limits)
            lower.axhline(0, color=_INK, lw=0.9)
            lower.set_ylim(-reach, reach)
            upper.tick_params(labelbottom=False)
            upper.set_title(
                f"{model_name(model)}\n{FUSION_NAMES[fusion]}" if i == 0 else FUSION_NAMES[fusion],
                fontsize=8.5,
            )
            upper.text(
                0.05, 0.93, f"R² {_number(row['test_r2'])}", transform=upper.transAxes, va="top", fontsize=8.5
            )
            if j:
                upper.tick_params(labelleft=False)
                lower.tick_params(labelleft=False)
            else:
                upper.set_ylabel(f"{model_name(model)}\npredicted")
                lower.set_ylabel("residual")
            if i == len(models) - 1:
                lower.set_xlabel(f"true {study.recipe.task.title}")
            upper.set_title(FUSION_NAMES[fusion], fontsize=9)
    return (
        figure,
        "Predicted against true label on the test part for each model and input, with residuals below each",
        f"Predicted against true {study.recipe.task.title} on the test part ({study.recipe.task.unit}); "
        "below, predicted minus true. The line is equality.",
    )


def _draw_zooms(study: _Folder) -> tuple[Figure, str, str] | None:
    found = study.results[
        study.results["role"].isin(["reference", "resolution"])
        & study.results["fusion"].isin(["image", "spectrum"])
    ]
    modalities = [
        m for m in ("image", "spectrum") if len(set(found.loc[found["fusion"] == m, f"{m}_zoom"])) > 1
    ]
    if not modalities:
        return None
    figure, axes = _new(11, 2.4 * len(modalities) + 0.3, len(modalities), len(METRICS))
    for i, modality in enumerate(modalities):
        part = found[found["fusion"] == modality]
        for j, metric in enumerate(METRICS):
            axis = axes[i, j]
            for k, model in enumerate(study.models):
                rows = part[part["model"] == model].sort_values(f"{modality}_zoom")
                zoom = rows[f"{modality}_zoom"].to_numpy(dtype=float)
                value = rows[f"test_{metric}"].to_numpy()
                error = np.abs(
                    [
                        value - rows[f"test_{metric}_low"].to_numpy(),
                        rows[f"test_{metric}_high"].to_numpy() - value,
                    ]
                )
                axis.errorbar(
                    zoom + 0.06 * (k - 1),
                    value,
                    error,
                    fmt="o-",
                    capsize=2.5,
                    lw=1.3,
                    color=study.colour(model),
                    label=model_name(model),
                )
            axis.set_xticks(sorted(int(z) for z in part[f"{modality}_zoom"].unique()))
            axis.set_xlabel(f"{modality} zoom (0: finest)")
            axis.set_title(LABELS[metric])
            if j == 0:
                axis.set_ylabel(modality)
    figure.legend(*_unique_labels(axes[0, 0]), loc="outside upper center", ncols=len(study.models))
    return (
        figure,
        "Scores on the test part against the zoom of the image and of the spectrum, one line for each model",
        "Resolution study: scores on the test part of each model on images alone and on spectra alone, at "
        "each zoom; each zoom halves the sampling along each axis. 95 % bootstrap intervals.",
    )


def _draw_runtime(study: _Folder) -> tuple[Figure, str, str]:
    figure, axes = _new(11, 3.0, 1, 2)
    fusions, models = study.fusions, study.models
    width = 0.8 / len(models)
    for axis, column, title in (
        (axes[0, 0], "train_seconds", "training (s)"),
        (axes[0, 1], "inference_seconds", "inference, whole test part (s)"),
    ):
        for k, model in enumerate(models):
            rows = [study.row(model, fusion) for fusion in fusions]
            heights = [np.nan if row is None else max(float(row[column]), 1e-5) for row in rows]
            x = np.arange(len(fusions)) + width * (k - (len(models) - 1) / 2)
            axis.bar(x, heights, width, color=study.colour(model), label=model_name(model))
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xticks(range(len(fusions)), [FUSION_NAMES[f] for f in fusions], rotation=20, ha="right")
        axis.grid(visible=False, axis="x")
    figure.legend(*_unique_labels(axes[0, 0]), loc="outside upper center", ncols=len(models))
    return (
        figure,
        "Bars: wall time of training and of inference by input and model, logarithmic",
        "Wall time on this machine. A late fusion costs the training of its members.",
    )


def _draw_cost(study: _Folder) -> tuple[Figure, str, str]:
    figure, axes = _new(11, 3.4, 1, 2, sharey=True)
    rows = study.results[study.results["role"] != "flaw"]
    shown: dict[str, Any] = {}
    for row in _rows(rows):
        main = row.role == "reference"
        for axis, cost in (
            (axes[0, 0], row.train_seconds),
            (axes[0, 1], 1e3 * row.inference_seconds / row.n_test),
        ):
            (dot,) = axis.plot(
                max(cost, 1e-5),
                row.test_r2,
                _MARKERS[row.fusion],
                color=study.colour(row.model),
                mfc=study.colour(row.model) if main else "white",
                ms=7 if main else 4.5,
                alpha=1 if main else 0.8,
            )
            if main:
                shown.setdefault(f"{model_name(row.model)}, {FUSION_NAMES[row.fusion]}", dot)
    for axis, name in ((axes[0, 0], "training (s)"), (axes[0, 1], "inference (ms an object)")):
        axis.set_xscale("log")
        axis.set_xlabel(name)
        if study.attainable is not None:
            axis.axhline(study.attainable, color=_INK, ls="--", lw=1.2)
    axes[0, 0].set_ylabel("R² on the test part")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=7.5)
    return (
        figure,
        "R² on the test part against training time and against inference time, one point for each cell",
        "Accuracy against cost. Filled: reference zooms; open: other zooms of the resolution study"
        + ("." if study.attainable is None else "; dashed: attainable."),
    )
