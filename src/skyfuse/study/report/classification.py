"""Figures of classification: confusion, ROC, reliability, and galleries of right and wrong predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.study.report.common import (
    INK,
    Drawn,
    colour,
    dashes,
    model_name,
    new,
    number,
    whiskers,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skyfuse.study.report.folder import Folder

GALLERY = 9
"""Right and wrong predictions of each class that a gallery shows, as in the study of SDSS spectra."""
THUMBNAIL = 64
BINS = 10
"""Bins of a reliability curve, at most."""
MAX_MATRICES = 9


@dataclass(frozen=True)
class Confusion:
    """How many objects of each class were called what.

    Attributes
    ----------
    names : list of str
        Classes of the task, then whatever else labels or predictions hold.
    counts : ndarray of int64, shape (k, k)
        Row: true class; column: predicted class.
    """

    names: list[str]
    counts: NDArray[np.int64]

    def table(self) -> list[dict[str, Any]]:
        """Return precision, recall, F1 and support of each class; None where a ratio has no meaning."""
        found = []
        for i, name in enumerate(self.names):
            hit, called, there = self.counts[i, i], self.counts[:, i].sum(), self.counts[i].sum()
            found.append(
                {
                    "name": name,
                    "precision": hit / called if called else None,
                    "recall": hit / there if there else None,
                    "f1": 2 * hit / (called + there) if called + there else None,
                    "support": int(there),
                }
            )
        return found


def confusion(table: pd.DataFrame, classes: Sequence[str]) -> Confusion:
    """Count predictions by true and predicted class.

    Parameters
    ----------
    table : DataFrame
        With the columns label and prediction, class names.
    classes : sequence of str
        Order of the classes.

    Returns
    -------
    Confusion
    """
    label, prediction = table["label"].astype(str), table["prediction"].astype(str)
    names = list(dict.fromkeys([*classes, *sorted({*label, *prediction})]))
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (label.map(place).to_numpy(), prediction.map(place).to_numpy()), 1)
    return Confusion(names, counts)


def draw(study: Folder) -> Iterator[Drawn]:
    """Yield the figures of a classification."""
    tables = {row["cell"]: study.predictions(row["cell"]) for row in study.leaders}
    yield from _matrices(study, tables)
    best = tables[study.best["cell"]]
    if len(set(best["label"])) > 1:
        yield _roc(study, best)
    yield _reliability(study, tables)
    yield from _galleries(study)


def _matrices(study: Folder, tables: dict[str, pd.DataFrame]) -> Iterator[Drawn]:
    best = study.best
    found = confusion(tables[best["cell"]], study.classes)
    k = len(found.names)
    figure, axes = new(max(4.2, 0.62 * k + 1.6), max(3.2, 0.5 * k + 1.3))
    _matrix(axes[0, 0], found, words=True)
    yield Drawn(
        "confusion",
        figure,
        f"Confusion matrix of {study.title(best['cell'])}: share of each true class by prediction",
        f"{study.title(best['cell'])}: percent of each true class (row), with the number of test objects.",
    )
    others = study.leaders[1 : 1 + MAX_MATRICES]
    if not others:
        return
    side = float(np.clip(0.36 * k + 1.2, 2.6, 5.2))
    figure, panels = wrapped(len(others), 2 if k > 10 else 3, width=side + 0.5, height=side)
    for axis, row in zip(panels, others, strict=True):
        _matrix(axis, confusion(tables[row["cell"]], study.classes), words=k <= 6)
        axis.set_title(study.title(row["cell"]))
    yield Drawn(
        "confusions",
        figure,
        "Confusion matrices of the other models, each with its best input",
        "The other models, each with the input that was chosen for it"
        + (
            ": percent of the true class, with counts."
            if k <= 6
            else ": number of test objects, shaded by share."
        ),
    )


def _matrix(axis: Axes, found: Confusion, *, words: bool) -> None:
    share = found.counts / np.maximum(found.counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(share.shape):
        if found.counts[i, j]:
            text = f"{found.counts[i, j]:,}"
            axis.text(
                j,
                i,
                f"{100 * share[i, j]:.3g} %\n({text})" if words else text,
                ha="center",
                va="center",
                fontsize=7 if words else 6,
                color="white" if share[i, j] > 0.6 else INK,
            )
    axis.set_xticks(range(len(found.names)), found.names, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(found.names)), found.names, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.grid(visible=False)


def curve(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Return the receiver operating characteristic: false and true positive rate by falling threshold.

    Parameters
    ----------
    score : ndarray of float64, shape (n,)
        Higher is more positive; objects of equal score fall together.
    positive : ndarray of bool, shape (n,)
        The truth, with at least one object on either side.

    Returns
    -------
    tuple of ndarray
        Both from 0 to 1, one point for each different score and one at the origin.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits, total = np.cumsum(positive[order])[last], np.arange(1, len(score) + 1)[last]
    true = np.concatenate([[0], hits]) / positive.sum()
    false = np.concatenate([[0], total - hits]) / (~positive).sum()
    return false, true


def area(false: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return the area under a curve by trapezoids: the chance that a positive ranks above a negative."""
    return float(np.trapezoid(true, false))


def _roc(study: Folder, table: pd.DataFrame) -> Drawn:
    figure, axes = new(6.4, 4.2)
    for i, name in enumerate(study.classes):
        positive = (table["label"] == name).to_numpy()
        if not 0 < positive.sum() < len(positive):
            continue
        false, true = curve(table[f"p_{name}"].to_numpy(dtype=float), positive)
        named = f"{name}: {number(area(false, true), 4)}"
        if len(false) > 500:
            # More points than pixels would only swell the page.
            kept = np.unique(np.linspace(0, len(false) - 1, 500).astype(int))
            false, true = false[kept], true[kept]
        axes[0, 0].plot(false, true, dashes(i), color=colour(i), label=named)
    axes[0, 0].plot([0, 1], [0, 1], color="#888888", lw=0.9)
    axes[0, 0].set_xlabel("share of the other classes taken for it")
    axes[0, 0].set_ylabel("share of the class that is found")
    axes[0, 0].set_aspect("equal")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.02, 1), title="class: area below")
    return Drawn(
        "roc",
        figure,
        "Receiver operating characteristic of each class against all others, with the area below each curve",
        f"{study.title(study.best['cell'])}: each class against all others by its probability, and the area "
        "below the curve (AUC): 1 parts the class from all others, 0.5 is chance.",
    )


def reliability(p: NDArray[np.float64], hit: NDArray[np.bool_]) -> tuple[pd.DataFrame, float]:
    """Compare probabilities with what came true, in bins of about equal numbers of objects.

    Equal probabilities, as trees give them, stay in one bin.

    Parameters
    ----------
    p : ndarray of float64, shape (n,)
        Probabilities.
    hit : ndarray of bool, shape (n,)
        Whether it came true.

    Returns
    -------
    table : DataFrame
        Columns p (mean), share, low, high (Wilson's binomial 95 % interval), n; one row a bin.
    error : float
        Expected calibration error: mean over objects of the distance between p and share of their bin.
    """
    edges = np.unique(np.quantile(p, np.arange(1, BINS) / BINS))
    place = np.searchsorted(edges, p, side="right")
    rows = []
    for part in (place == i for i in np.unique(place)):
        share, n = float(hit[part].mean()), int(part.sum())
        z = 1.959964
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        rows.append((float(p[part].mean()), share, centre - half, centre + half, n))
    table = pd.DataFrame(rows, columns=["p", "share", "low", "high", "n"])
    error = float(np.average((table["p"] - table["share"]).abs(), weights=table["n"]))
    return table, error


def _reliability(study: Folder, tables: dict[str, pd.DataFrame]) -> Drawn:
    figure, axes = new(11, 4.0, 1, 2)
    for row in study.leaders:
        table = tables[row["cell"]]
        p = table[[f"p_{name}" for name in study.classes]].to_numpy(dtype=float)
        found, error = reliability(p.max(axis=1), (table["label"] == table["prediction"]).to_numpy())
        axes[0, 0].errorbar(
            found["p"],
            found["share"],
            whiskers(found["share"], found["low"], found["high"]),
            fmt="o-",
            ms=3.5,
            lw=1.2,
            color=study.colour(row["model"]),
            label=f"{model_name(row['model'])}: {number(error)}",
        )
    table = tables[study.best["cell"]]
    for i, name in enumerate(study.classes):
        found, error = reliability(
            table[f"p_{name}"].to_numpy(dtype=float), (table["label"] == name).to_numpy()
        )
        axes[0, 1].plot(
            found["p"],
            found["share"],
            f"o{dashes(i)}",
            ms=3.5,
            lw=1.2,
            color=colour(i),
            label=f"{name}: {number(error)}",
        )
    for axis, title in ((axes[0, 0], "predicted class"), (axes[0, 1], "each class")):
        axis.plot([0, 1], [0, 1], color="#888888", lw=0.9)
        axis.set_xlabel(f"probability of the {title}" if axis is axes[0, 0] else "probability of the class")
        axis.set_ylabel("share that came true")
        axis.legend(fontsize=7, title="calibration error", title_fontsize=7.5)
    axes[0, 0].set_title("all models, predicted class")
    axes[0, 1].set_title(f"{study.title(study.best['cell'])}, {title}")
    return Drawn(
        "reliability",
        figure,
        "Share of predictions that came true against the stated probability, for each model and each class",
        f"Reliability on the test part in up to {BINS} bins of about equal numbers of objects: on the "
        "diagonal, probabilities mean what they say. Left: of the predicted class, with binomial 95 % "
        "intervals; right: of each class. Numbers: expected calibration error, the mean distance from the "
        "diagonal.",
    )


def gallery_cell(study: Folder) -> str | None:
    """Return the best compared cell with a gallery: tables alone have nothing to show."""
    rows = study.reference.sort_values("choice", ascending=False, kind="stable")
    return next((cell for cell in rows["cell"] if study.beside(cell, "gallery") is not None), None)


def _galleries(study: Folder) -> Iterator[Drawn]:
    cell = gallery_cell(study)
    if cell is None:
        return
    table = study.beside(cell, "gallery")
    if table is None:
        return
    wide = table["image"].isna().all()
    for name in study.classes:
        rows = table[table["label"] == name]
        right = rows[rows["prediction"] == name].head(GALLERY)
        wrong = rows[rows["prediction"] != name].head(GALLERY)
        if rows.empty:
            continue
        figure = _gallery(study, name, right, wrong, wide=bool(wide))
        kind = "Spectra" if wide else "Images"
        yield Drawn(
            f"gallery:{name}",
            figure,
            f"{kind} of the class {name}: {len(right)} predicted right on the left, {len(wrong)} wrong on "
            "the right",
            f"True class {name}: left, {len(right)} right; right, {len(wrong)} wrong, each with what it was "
            f"taken for and how probable that seemed. {study.title(cell)}.",
        )


def _gallery(study: Folder, name: str, right: pd.DataFrame, wrong: pd.DataFrame, *, wide: bool) -> Any:
    from matplotlib.figure import Figure

    down = max(-(-len(part) // 3) for part in (right, wrong))
    width, height = (11.0, 1.05) if wide else (5.6, 1.05)
    figure = Figure(figsize=(width, height * down + 0.35), layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    for half, part, title in zip(halves, (right, wrong), ("right", "wrong"), strict=True):
        half.suptitle(f"{name}, {title}: {f'{len(part)} shown' if len(part) else 'none'}", fontsize=9)
        if part.empty:
            continue
        axes = half.subplots(down, 3, squeeze=False)
        for axis in axes.flat[len(part) :]:
            axis.set_visible(False)
        for axis, row in zip(axes.flat, part.to_dict("records"), strict=False):
            if wide:
                _spectrum(axis, study, np.asarray(row["spectrum"], dtype=float))
            else:
                picture = np.asarray(row["image"], dtype=np.uint8).reshape(THUMBNAIL, THUMBNAIL, 3)
                axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            said = f"{row['probability']:.2f}"
            if title == "wrong":
                # A small picture is narrower than the name of a class and a number.
                said = f"{row['prediction']}{' ' if wide else chr(10)}{said}"
            axis.set_title(said, fontsize=7, pad=2)
    return figure


def _spectrum(axis: Axes, study: Folder, flux: NDArray[np.float64]) -> None:
    axis.plot(study.wavelength(len(flux)), flux, lw=0.6, color=INK)
    if np.isfinite(flux).any():
        low, high = np.nanpercentile(flux, [0.5, 99.5])
        pad = 0.15 * (high - low) or 1.0
        axis.set_ylim(low - pad, high + pad)
