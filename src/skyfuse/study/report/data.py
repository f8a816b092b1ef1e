"""Figures of the data: labels, gaps in spectra, mean spectra, embeddings and clusters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.study.report.common import (
    INK,
    METHOD_NAMES,
    PART_COLOURS,
    Drawn,
    bins_for,
    colour,
    new,
    number,
    shade,
    signed,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skyfuse.study.report.folder import Folder

REDSHIFT_BIN = 0.01
"""Width of the bins of a redshift histogram, as in the Gaia study."""


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield the figures of the data."""
    yield from _label(study)
    yield from _gaps(study)
    yield from _mean_spectra(study)
    yield from _embeddings(study)
    yield from _clusters(study)


def _label(study: Folder) -> Iterator[Drawn]:
    used = study.objects[study.objects["part"] != ""].dropna(subset=["label"])
    if used.empty:
        return
    parts = {part: used.loc[used["part"] == part, "label"] for part in PART_COLOURS}
    if study.rounds > 1:
        # Each object is in every part in some round.
        parts = {"": used["label"]}
    title = study.recipe.task.title
    if study.classes:
        figure, axes = new(8, 0.26 * len(study.classes) * max(1, len(parts) / 2) + 0.9)
        height = 0.8 / len(parts)
        for k, (part, values) in enumerate(parts.items()):
            counts = values.astype(str).value_counts().reindex(study.classes, fill_value=0)
            y = np.arange(len(counts)) + height * (k - (len(parts) - 1) / 2)
            named = f"{part} ({len(values):,})" if part else f"all {len(values):,}"
            axes[0, 0].barh(y, counts, height, color=PART_COLOURS.get(part, INK), label=named)
        axes[0, 0].set_yticks(range(len(study.classes)), study.classes)
        axes[0, 0].invert_yaxis()
        axes[0, 0].set_xlabel("objects")
        axes[0, 0].grid(visible=False, axis="y")
    else:
        figure, axes = new(8, 2.9)
        values = used["label"].astype(float)
        if study.recipe.task.redshift:
            edges: Any = np.arange(
                np.floor(values.min() / REDSHIFT_BIN) - 0.5, values.max() / REDSHIFT_BIN + 1.5
            )
            edges *= REDSHIFT_BIN
        else:
            edges = np.histogram_bin_edges(values, bins=bins_for(len(values)))
        for part, values in parts.items():
            axes[0, 0].hist(
                values.astype(float),
                bins=edges,
                density=not study.recipe.task.redshift,
                histtype="step",
                lw=1.6,
                color=PART_COLOURS.get(part, INK),
                label=f"{part} ({len(values):,})" if part else f"all {len(values):,}",
            )
        axes[0, 0].set_xlabel(study.label)
        axes[0, 0].set_ylabel(
            f"objects in {REDSHIFT_BIN}"
            if study.recipe.task.redshift
            else f"density (1/{study.unit or 'unit'})"
        )
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    bins = f" in bins of {REDSHIFT_BIN}" if study.recipe.task.redshift and not study.classes else ""
    where = "of all objects" if study.rounds > 1 else "in the parts of the split, which is stratified on it"
    definition = study.recipe.task.definition.rstrip(".")
    yield Drawn(
        "label",
        figure,
        f"Histogram of {title}{bins} in each part of the split",
        f"Distribution of the label{bins} {where}. {definition[:1].upper()}{definition[1:]}.",
    )


def gaps_by_input(study: Folder) -> list[dict[str, Any]]:
    """Return the gaps of each input of spectra: its name, the end of its figures' names, a record a zoom."""
    names = list(dict.fromkeys(str(entry["input"]) for entry in study.data["nan"]))
    return [
        {
            "input": name,
            "end": f"-{name}" if len(names) > 1 else "",
            "zooms": [entry for entry in study.data["nan"] if entry["input"] == name],
        }
        for name in names
    ]


def _gaps(study: Folder) -> Iterator[Drawn]:
    for own in gaps_by_input(study):
        yield from _gaps_of(own["zooms"], own["end"])


def _gaps_of(gaps: Sequence[dict[str, Any]], end: str) -> Iterator[Drawn]:
    figure, axes = new(6.4, 2.9)
    names = _share_names(gaps[0]["shares"]["up_to"])
    width = 0.8 / len(gaps)
    for i, entry in enumerate(gaps):
        x = np.arange(len(names)) + (i - (len(gaps) - 1) / 2) * width
        share = 100 * np.array(entry["shares"]["share"])
        axes[0, 0].bar(x, share, width, color=shade(i, len(gaps)), label=f"zoom {entry['zoom']}")
    axes[0, 0].set_xticks(range(len(names)), names)
    axes[0, 0].set_xlabel("invalid bins of a spectrum")
    axes[0, 0].set_ylabel("objects (%)")
    axes[0, 0].legend(ncols=2)
    axes[0, 0].grid(visible=False, axis="x")
    yield Drawn(
        f"shares{end}",
        figure,
        "Bars: share of spectra by their percentage of invalid bins, at each zoom",
        "Share of objects by percentage of invalid (NaN) spectral bins.",
    )
    broken = [entry for entry in gaps if entry["runs"]]
    if not broken:
        return
    yield _runs(broken, end)
    figure, axes = new(10, 2.7)
    finest = gaps[0]
    axes[0, 0].plot(finest["wavelength"], 100 * np.array(finest["frequency"]), lw=0.8, color=INK)
    axes[0, 0].set_xlabel("vacuum wavelength (Å)")
    axes[0, 0].set_ylabel("spectra invalid here (%)")
    axes[0, 0].set_xlim(finest["wavelength"][0], finest["wavelength"][-1])
    axes[0, 0].set_ylim(bottom=0)
    yield Drawn(
        f"frequency{end}",
        figure,
        "Percentage of spectra that are invalid in each bin, along the wavelength",
        f"How often each bin is invalid, at zoom {finest['zoom']}.",
    )


def _runs(gaps: Sequence[dict[str, Any]], end: str) -> Drawn:
    figure, axes = new(6.4, 2.9)
    for i, entry in enumerate(gaps):
        low, high = (np.array(entry["histogram"][key]) for key in ("from_length", "to_length"))
        counts = np.array(entry["histogram"]["runs"], dtype=float)
        seen = counts > 0
        middle = np.sqrt(low * high)
        axes[0, 0].plot(
            middle[seen], counts[seen], "o-", color=shade(i, len(gaps)), label=f"zoom {entry['zoom']}"
        )
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_xlabel("length of a run of invalid bins (bins)")
    axes[0, 0].set_ylabel("runs")
    axes[0, 0].legend(ncols=2)
    return Drawn(
        f"runs{end}",
        figure,
        "Number of runs of consecutive invalid bins against their length, at each zoom, axes logarithmic",
        "Lengths of runs of consecutive invalid bins, in classes of length.",
    )


def _share_names(edges: Sequence[float]) -> list[str]:
    names = ["none"]
    for low, high in itertools.pairwise(edges):
        if low > 99.9:
            names.append("all")
        else:
            names.append(f"{low:g}\N{EN DASH}{min(high, 100):.4g} %" if high < 99.9 else f"> {low:g} %")
    return names


def _mean_spectra(study: Folder) -> Iterator[Drawn]:
    means = study.data.get("mean_spectra")
    if not means:
        return
    ranges = means["ranges"]
    figure, axes = wrapped(len(ranges), 3, width=3.6, height=2.0, sharex=True)
    for i, (axis, part) in enumerate(zip(axes, ranges, strict=True)):
        # Gaia's two photometers overlap: where the wavelength falls back, another curve begins.
        starts = np.flatnonzero(np.diff(means["wavelength"]) <= 0) + 1
        x, y = (
            np.insert(np.array(v, dtype=float), starts, np.nan) for v in (means["wavelength"], part["mean"])
        )
        axis.plot(x, y, lw=1, color=shade(i, len(ranges)))
        axis.set_title(f"{part['low']:.3g} ≤ z < {part['high']:.3g} ({part['n']:,})")
        if i >= len(ranges) - 3:
            axis.set_xlabel(f"wavelength ({means['unit']})")
        if i % 3 == 0:
            axis.set_ylabel("mean flux")
    yield Drawn(
        "mean-spectra",
        figure,
        f"Mean spectra of the training part in {len(ranges)} ranges of redshift",
        f"Mean spectra in {len(ranges)} ranges of redshift, with the number of training objects in each; "
        "each spectrum is divided by its own mean absolute flux first.",
    )


def _embeddings(study: Folder) -> Iterator[Drawn]:
    table = study.embeddings
    if table.empty:
        return
    methods = list(dict.fromkeys(table["method"]))
    inputs = list(dict.fromkeys(table["input"]))
    zooms = sorted(set(table["zoom"]))
    if len(zooms) > 2:
        layout = [[(method, name, z) for z in zooms] for name in inputs for method in methods]
    else:
        # Few zooms: one row an input keeps the panels large.
        own = {m: sorted(set(table.loc[table["input"] == m, "zoom"])) for m in inputs}
        layout = [[(method, m, z) for z in own[m] for method in methods] for m in inputs]
    columns = max(len(row) for row in layout)
    side = min(11 / columns, 3.1)
    figure, axes = new(side * columns + 0.9, (side * 0.85 + 0.25) * len(layout), len(layout), columns)
    label = study.objects.set_index("row")["label"]
    keys = ["method", "input", "zoom"]
    rho = study.correlations.set_index(keys) if "rho_x" in study.correlations else pd.DataFrame()
    views: dict[Any, pd.DataFrame] = dict(iter(table.groupby(keys, sort=False)))
    dots: Any = None
    for i, j in np.ndindex(axes.shape):
        axis = axes[i, j]
        place: Any = layout[i][j] if j < len(layout[i]) else None
        if place not in views:
            axis.set_visible(False)
            continue
        view = views[place]
        found = label.loc[view["row"]]
        dots = _coloured(axis, view["x"], view["y"], found, study.classes)
        # A few far points would press all others into a corner.
        for values, limits in ((view["x"], axis.set_xlim), (view["y"], axis.set_ylim)):
            a, b = np.percentile(values, [0.5, 99.5])
            pad = 0.08 * (b - a) or abs(a) or 1.0
            limits(a - pad, b + pad)
        title = f"{METHOD_NAMES[place[0]]}, {place[1]}" + ("" if place[1] == "table" else f" zoom {place[2]}")
        if place in rho.index:
            r: Any = rho.loc[place, :]
            title += f"\nρx {signed(r['rho_x'], 2)}, ρy {signed(r['rho_y'], 2)}"
        axis.set_title(title, fontsize=8.5)
        axis.set_xticks([])
        axis.set_yticks([])
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(True)
    _key(figure, axes, dots, study)
    with_rho = "" if rho.empty else ", with the Pearson correlation of each axis with it"
    yield Drawn(
        "embeddings",
        figure,
        "Scatter plots of the objects in two dimensions by method, input and zoom, coloured by the label",
        f"The inputs in two dimensions, coloured by the label{with_rho}. Each method learnt from the "
        "training part and then placed the others; the outermost 1 % is off the axes.",
    )


def _coloured(axis: Axes, x: pd.Series, y: pd.Series, label: pd.Series, classes: Sequence[str]) -> Any:
    """Scatter points in the colours of their labels; return what a colour bar needs, or None for classes."""
    size = float(np.clip(4000 / max(len(x), 1), 0.6, 9))
    if not classes:
        values = label.to_numpy(dtype=float)
        low, high = np.nanpercentile(values, [2, 98]) if np.isfinite(values).any() else (0, 1)
        return axis.scatter(
            x, y, c=values, s=size, lw=0, cmap="viridis", vmin=low, vmax=high, rasterized=True
        )
    colours: Any = (
        label.astype(str).map({name: colour(i) for i, name in enumerate(classes)}).fillna("#BBBBBB")
    )
    axis.scatter(x, y, c=colours, s=size, lw=0, rasterized=True)
    return None


def _key(figure: Any, axes: NDArray[Any], dots: Any, study: Folder) -> None:
    from matplotlib.lines import Line2D

    if dots is not None:
        figure.colorbar(dots, ax=axes, shrink=0.7, aspect=30, label=study.label)
        return
    handles = [Line2D([], [], marker="o", ls="", color=colour(i)) for i in range(len(study.classes))]
    figure.legend(handles, study.classes, loc="outside right upper", fontsize=8)


def _clusters(study: Folder) -> Iterator[Drawn]:
    if study.clusters.empty:
        return
    places = list(study.clusters.groupby(["source", "input", "zoom"], sort=False))
    groups = study.classes or list(dict.fromkeys(study.clusters["group"].astype(str)))
    rows = int(study.clusters["cluster"].nunique())
    figure, axes = wrapped(
        len(places), 2 if len(groups) > 6 else 3, width=max(3.5, 0.45 * len(groups)), height=1.1 + 0.26 * rows
    )
    for axis, ((source, name, _), table) in zip(axes, places, strict=True):
        counts = table.pivot_table(index="cluster", columns="group", values="n", aggfunc="sum", fill_value=0)
        counts = counts.reindex(columns=groups, fill_value=0)
        crosstab(axis, counts.to_numpy(dtype=np.int64), groups, [str(c) for c in counts.index])
        axis.set_ylabel("cluster")
        named = name if source == "inputs" else f"latent values, {study.title(str(source))}"
        axis.set_title(f"{named}: adjusted Rand index {number(table['adjusted_rand'].iloc[0], 2)}")
    yield Drawn(
        "clusters",
        figure,
        "Counts of objects by k-means cluster and by label, shaded by the share of the cluster",
        "k-means clusters against the labels, which the clustering has not seen: number of objects, shaded "
        "by their share of the cluster. Adjusted Rand index (Hubert & Arabie 1985): 1 is agreement, 0 is "
        "chance.",
    )


def crosstab(axis: Axes, counts: NDArray[np.int64], columns: Sequence[str], rows: Sequence[str]) -> None:
    """Draw counts as a table of cells, each shaded by its share of the row."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(counts.shape):
        if counts[i, j]:
            ink = "white" if share[i, j] > 0.6 else INK
            axis.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=7.5)
    axis.set_yticks(range(len(rows)), rows, fontsize=7.5)
    axis.grid(visible=False)
