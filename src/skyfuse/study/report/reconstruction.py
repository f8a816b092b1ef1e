"""Figures of reconstruction: examples, latent values, errors, and PCA of the same size beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skyfuse.study.report.common import INK, Drawn, bins_for, colour, new, number, unique_labels, wrapped
from skyfuse.study.report.scores import histograms

if TYPE_CHECKING:
    from skyfuse.study.report.folder import Folder

EXAMPLES = 9
LATENTS = 5
"""Latent values of a pair plot: those that vary most."""


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield the figures of a reconstruction."""
    yield from _examples(study)
    yield _errors(study)
    for row in study.leaders:
        yield from _latent(study, row)


def _examples(study: Folder) -> Iterator[Drawn]:
    known = [
        (row, table) for row in study.leaders if (table := study.beside(row["cell"], "examples")) is not None
    ]
    if not known:
        return
    first = known[0][1].sort_values("error").head(EXAMPLES)
    figure, axes = wrapped(len(first), 3, width=3.65, height=1.75)
    for axis, example in zip(axes, first.to_dict("records"), strict=True):
        x = study.wavelength(len(example["input"]), str(known[0][0]["fusion"]))
        axis.plot(x, np.asarray(example["input"], dtype=float), lw=0.7, color="#999999", label="input")
        for row, table in known:
            same = table[table["row"] == example["row"]]
            if len(same):
                axis.plot(
                    x,
                    np.asarray(same["output"].iloc[0], dtype=float),
                    lw=1.0,
                    color=study.colour(row["model"]),
                    label=study.title(row["cell"]),
                )
        named = "" if pd.isna(example["label"]) else f"{example['label']}, "
        axis.set_title(f"{named}error {number(example['error'])}", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.legend(*unique_labels(axes[0]), loc="outside upper center", ncols=1 + len(known))
    unit = "Å" if study.data.get("wavelength") else ""
    yield Drawn(
        "reconstructions",
        figure,
        f"Spectra of {len(first)} test objects with their reconstructions",
        f"Inputs of {len(first)} test objects and their reconstructions, by rising error of "
        f"{study.title(known[0][0]['cell'])} (mean squared, in scaled units)"
        + (f"; wavelength in {unit}." if unit else "."),
    )


def _errors(study: Folder) -> Drawn:
    figure, axes = new(6.4, 3.0)
    errors = {
        row["cell"]: study.predictions(row["cell"])["prediction"].to_numpy(dtype=float)
        for row in study.leaders
    }
    every = np.concatenate(list(errors.values()))
    low, high = np.quantile(every[every > 0], [0.001, 0.999])
    edges = np.geomspace(low, high * 1.0001, bins_for(len(every)))

    def label(cell: str) -> str:
        return f"{study.title(cell)}: median {number(np.median(errors[cell]))}"

    histograms(axes[0, 0], study, errors, edges, label)
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xlabel("mean squared error of an object (scaled units)")
    return Drawn(
        "errors",
        figure,
        "Histogram of the reconstruction error of each test object, one line for each model",
        "Reconstruction error of each test object.",
    )


def _latent(study: Folder, row: dict[str, Any]) -> Iterator[Drawn]:
    table = study.beside(row["cell"], "latent")
    if table is None:
        return
    table = table[table["part"] == "test"]
    values = table.filter(regex=r"^l\d+$")
    shown = sorted(values.var().nlargest(LATENTS).index, key=lambda name: int(name[1:]))
    label = study.objects.set_index("row")["label"].loc[table["row"]]
    n = len(shown)
    figure, axes = new(1.7 * n + 1.6, 1.6 * n + 0.2, n, n)
    groups = study.groups(label)
    handles: dict[str, Any] = {}
    for i, j in np.ndindex(axes.shape):
        axis = axes[i, j]
        if j > i:
            axis.set_visible(False)
            continue
        for k, (name, chosen) in enumerate(groups.items()):
            part = values[chosen]
            if i == j:
                axis.hist(
                    part[shown[i]],
                    bins=bins_for(len(part)),
                    histtype="step",
                    lw=1.2,
                    color=colour(k),
                    density=True,
                )
            else:
                handles[name] = axis.scatter(
                    part[shown[j]],
                    part[shown[i]],
                    s=float(np.clip(2000 / len(values), 0.6, 8)),
                    lw=0,
                    alpha=0.7,
                    color=colour(k) if name else INK,
                    rasterized=True,
                )
        if i == n - 1:
            axis.set_xlabel(shown[j])
        if j == 0:
            axis.set_ylabel(shown[i] if i else "density")
        axis.tick_params(labelsize=6.5)
        if i < n - 1:
            axis.tick_params(labelbottom=False)
        if j:
            axis.tick_params(labelleft=False)
    if len(groups) > 1:
        figure.legend(handles.values(), handles.keys(), loc="upper right", fontsize=8, markerscale=3)
    yield Drawn(
        f"latent:{row['cell']}",
        figure,
        f"Pair plot of {n} latent values of {study.title(row['cell'])}, coloured by the label",
        f"{study.title(row['cell'])}: the {n} of {values.shape[1]} latent values that vary "
        f"most, in pairs, coloured by {study.recipe.task.title}, which the model has not seen.",
    )
