"""From the finished cells of a study to its tables: scores, comparisons, coverage, effects, galleries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta

from skyfuse.disk import read_json
from skyfuse.recipe import Recipe
from skyfuse.study import systems
from skyfuse.study.cells import Cell, reference, seed_of
from skyfuse.study.compare import LEVEL, Bootstrap, bootstrap, comparisons
from skyfuse.study.metrics import (
    LABELS,
    NMAD_SCALE,
    PRIMARY,
    attainable_mae,
    names_of,
)
from skyfuse.study.predictions import outcome, read_predictions
from skyfuse.study.tasks import Target, complete
from skyfuse.words import PARTS

if TYPE_CHECKING:
    from rich.table import Table

    from skyfuse.dataset.dataset import Dataset

WALL_COLUMNS = ("train_seconds", "inference_seconds", "tune_seconds")
"""Columns of ``results.parquet`` that hold wall times; all others are equal in two runs of one seed."""

BINS = 5
"""Bins of magnitude, label and redshift by which results are broken down, of equal numbers of objects."""

EXAMPLES = 9
"""Right, and as many wrong, predictions of each class in a gallery, and reconstructions shown."""
_SIDE, _LONGEST = 64, 512


@dataclass(frozen=True)
class StudyResult:
    """What a study came to.

    Attributes
    ----------
    results : DataFrame
        One row a cell: model, fusion, zooms, role, change, size, parameters, number of objects, each score
        of each part, the score by which it is chosen (missing where it is not up for choice), 95 % intervals
        of the test scores, coverage and width of the prediction intervals or sets, what is attainable and
        the distance from it, wall times.
    report : Path
        The report, one self-contained HTML file.
    notes : tuple of str
        Inputs that give the label away and that the recipe allows.
    """

    results: pd.DataFrame
    report: Path
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """Return the scores at the reference zooms as a table for the terminal."""
        from rich.table import Table

        rows = self.results[self.results["role"].isin(["reference", "leak"])]
        # Without lines it fits 80 columns.
        table = Table(title="Test part", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("model", no_wrap=True)
        table.add_column("input", no_wrap=True)
        kind = next(kind for kind, name in PRIMARY.items() if f"test_{name}" in rows)
        shown = _SHOWN["redshift" if "test_outliers" in rows else kind]
        headings = [LABELS[shown[0]], "95 %", *(LABELS[name] for name in shown[1:])]
        if rows["coverage"].notna().any():
            headings.append("cover")
        for heading in (*headings, "fit s", "infer s"):
            table.add_column(heading, justify="right", no_wrap=True)
        last = None
        for row in rows.to_dict("records"):
            first, others = shown[0], shown[1:]
            cells = [
                _printed(row[f"test_{first}"]),
                f"{_printed(row[f'test_{first}_low'], 2)}…{_printed(row[f'test_{first}_high'], 2)}",
                *(_printed(row[f"test_{name}"]) for name in others),
            ]
            if "cover" in headings:
                cells.append(_printed(row["coverage"]))
            leaks = "" if row["role"] == "reference" else " + leaks"
            table.add_row(
                "" if row["model"] == last else row["model"],
                row["fusion"] + leaks,
                *cells,
                f"{row['train_seconds']:.2f}",
                f"{row['inference_seconds']:.3f}",
            )
            last = row["model"]
        attainable = rows["attainable_r2"].dropna()
        if len(attainable):
            table.caption = f"attainable R² on these objects: {attainable.iloc[0]:.3f}"
        return table


def _printed(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


_SHOWN = {
    "regression": ("r2", "mae", "rmse", "nmad"),
    "redshift": ("r2", "mae", "sigma_nmad", "outliers"),
    "classification": ("f1_macro", "accuracy"),
    "reconstruction": ("explained", "mse"),
}


class Findings:
    """Tables of a study whose cells are all there.

    Parameters
    ----------
    folder : Path
        Folder of the study.
    recipe : Recipe
    dataset : Dataset
    goal : Target
    cells : list of Cell
    folds : dict of str to float
        Mean primary score over the folds of the training part, by cell, where these choose.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        dataset: Dataset,
        goal: Target,
        cells: list[Cell],
        folds: Mapping[str, float],
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.dataset = dataset
        self.goal = goal
        self.cells = cells
        self.folds = folds

    @cached_property
    def tests(self) -> dict[str, pd.DataFrame]:
        """Predictions for the test objects by cell; each with the same objects in the same order."""
        return {cell.name: read_predictions(self.folder / "cells" / cell.name, "test") for cell in self.cells}

    @cached_property
    def notes(self) -> dict[str, dict[str, Any]]:
        """Content of each ``cell.json`` by cell."""
        return {cell.name: read_json(self.folder / "cells" / cell.name / "cell.json") for cell in self.cells}

    @cached_property
    def boot(self) -> Bootstrap:
        """Scores of all cells over common resamples of the test objects."""
        test = self.goal.test
        sigma = self.goal.attainable_sigma
        task = self.recipe.task
        return bootstrap(
            {name: outcome(table, task, self.goal.classes) for name, table in self.tests.items()},
            groups=None if self.goal.groups is None else self.goal.groups[test],
            sigma=None if sigma is None else sigma[test],
            samples=self.recipe.bootstrap,
            seed=seed_of(self.recipe.seed, "bootstrap"),
        )

    def results(self) -> pd.DataFrame:
        """Return the table of `StudyResult`."""
        rows = []
        arrays = [name for name, one in self.recipe.inputs.items() if one.kind != "table"]
        sigma, boot = self.goal.attainable_sigma, self.boot
        for cell in self.cells:
            note, test = self.notes[cell.name], self.tests[cell.name]
            row: dict[str, Any] = {"cell": cell.name, "model": cell.model, "fusion": cell.fusion}
            row |= {f"{name}_zoom": cell.zooms.get(name) for name in arrays}
            row |= {"role": cell.role, "change": cell.change, "size": cell.size}
            row["parameters"] = json.dumps(note["parameters"], sort_keys=True)
            row |= {f"n_{part}": note["n"][part] for part in PARTS}
            names = names_of(self.recipe.task)
            row |= {
                f"{part}_{name}": _number(note["metrics"][part][name]) for part in PARTS for name in names
            }
            primary = PRIMARY[self.recipe.task.kind]
            known = row[f"calibration_{primary}"]
            row["choice"] = self.folds.get(cell.name, np.nan) if self.recipe.choice == "folds" else known
            for name in names:
                row[f"test_{name}_low"], row[f"test_{name}_high"] = boot.interval(cell.name, name)
            known = boot.attainable is not None
            row["attainable_r2"] = boot.attainable if known else np.nan
            row["attainable_mae"] = np.nan if sigma is None else attainable_mae(sigma[self.goal.test])
            distance = boot.distance(cell.name) if known else (np.nan,) * 3
            row |= dict(zip(("distance", "distance_low", "distance_high"), distance, strict=True))
            row |= _covered(test)
            row["iterations"] = len(note["history"]["valid"])
            row["best_iteration"] = note["history"]["best"]
            row["parameters_count"] = note["parameters_count"]
            row |= {f"{name}_seconds": note["seconds"][name] for name in ("train", "inference", "tune")}
            rows.append(row)
        results = pd.DataFrame(rows)
        whole = (*(f"{name}_zoom" for name in arrays), "size", "parameters_count")
        return results.astype(dict.fromkeys(whole, "Int64"))

    def systems(self) -> dict[str, pd.DataFrame]:
        """Return how the systems of the label lie to each other, and what models reach beside them, by file.

        See `skyfuse.study.systems.pairs` and `skyfuse.study.systems.ceilings`; nothing where there are none.
        """
        goal = self.goal
        if len(goal.systems) < 2:
            return {}
        shown = {cell.name: self.tests[cell.name] for cell in self.cells if cell.role == "reference"}
        return {
            "systems": systems.pairs(goal.systems, goal.rounds),
            "ceilings": systems.ceilings(
                goal.systems,
                goal.rounds,
                shown,
                groups=goal.groups,
                samples=self.recipe.bootstrap,
                seed=seed_of(self.recipe.seed, "systems"),
            ),
        }

    def comparisons(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return the differences between cells, see `skyfuse.study.compare.comparisons`."""
        compared = results[results["role"].isin(["reference", "leak"])]
        return comparisons(compared, self.boot)

    def effects(self) -> pd.DataFrame:
        """Return what each measurable flaw changes in the primary score, also over complete spectra alone."""
        primary = PRIMARY[self.recipe.task.kind]
        whole = complete(self.dataset.table)[self.goal.test]
        rows = []
        for cell in self.cells:
            if cell.role != "flaw":
                continue
            sound = reference(self.recipe, cell.model, cell.fusion).name
            difference, low, high = self.boot.difference(cell.name, sound, primary)
            row = {
                "change": cell.change,
                "cell": cell.name,
                "sound": sound,
                "metric": primary,
                "n_train": self.notes[cell.name]["n"]["train"],
                "n_train_sound": self.notes[sound]["n"]["train"],
                "value": self.boot.point[cell.name][primary],
                "value_sound": self.boot.point[sound][primary],
                "difference": difference,
                "low": low,
                "high": high,
                "n_complete": int(whole.sum()),
            }
            for key, name in (("value_complete", cell.name), ("value_sound_complete", sound)):
                table = self.tests[name][whole]
                enough = len(table) > 1 and len(set(table["label"])) > 1
                scored = outcome(table, self.recipe.task, self.goal.classes).score() if enough else {}
                row[key] = _number(scored.get(primary))
            rows.append(row)
        return pd.DataFrame(rows)

    def coverage(self) -> pd.DataFrame:
        """Return how often intervals or sets hold the truth, overall and by class, or value, and magnitude.

        Returns
        -------
        DataFrame
            Columns cell, by, group, n, coverage, low, high (`LEVEL`, binomial), width (mean width of the
            intervals, or mean number of classes in a set).
        """
        rows = []
        for name, table in self.tests.items():
            if table["covered"].isna().all():
                continue
            for by, group, chosen in self._groups(table):
                found = _covered(table[chosen])
                row = {key.removeprefix("coverage_"): value for key, value in found.items()}
                rows.append({"cell": name, "by": by, "group": group, "n": int(chosen.sum()), **row})
        columns = ["cell", "by", "group", "n", "coverage", "low", "high", "width"]
        return pd.DataFrame(rows, columns=columns)

    def _groups(self, table: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        yield "overall", "all", np.ones(len(table), dtype=bool)
        if self.goal.classes:
            for name in self.goal.classes:
                chosen = (table["label"] == name).to_numpy(dtype=bool)
                if chosen.any():
                    yield "class", name, chosen
        else:
            for by in ("label", "prediction"):
                for low, high, chosen in _bins(table[by].to_numpy(dtype=np.float64)):
                    yield by, f"{low:.3g} to {high:.3g}", chosen
        if self.goal.magnitude is not None:
            for low, high, chosen in _bins(self.goal.magnitude[table["row"]]):
                yield "magnitude", f"{low:.4g} to {high:.4g}", chosen

    def binned(self) -> pd.DataFrame:
        """Return bias, σ_NMAD and share of outliers of redshifts by magnitude and by redshift."""
        columns = ["cell", "by", "low", "high", "n", "bias", "sigma_nmad", "outliers"]
        rows = []
        for name, table in self.tests.items() if self.recipe.task.redshift else ():
            z = table["label"].to_numpy(dtype=np.float64)
            relative = (table["prediction"].to_numpy(dtype=np.float64) - z) / (1 + z)
            ways = {"redshift": z}
            if self.goal.magnitude is not None:
                ways["magnitude"] = self.goal.magnitude[table["row"]]
            for by, values in ways.items():
                for low, high, chosen in _bins(values):
                    part = relative[chosen]
                    row = {"cell": name, "by": by, "low": low, "high": high, "n": len(part)}
                    row["bias"] = float(part.mean())
                    row["sigma_nmad"] = NMAD_SCALE * float(np.median(np.abs(part - np.median(part))))
                    row["outliers"] = float(np.mean(np.abs(part) > self.recipe.task.outlier))
                    rows.append(row)
        return pd.DataFrame(rows, columns=columns)


def _number(score: float | None) -> float:
    return np.nan if score is None else score


def _covered(table: pd.DataFrame) -> dict[str, float]:
    """Return how many intervals or sets hold the truth, with Clopper-Pearson limits, and their mean width."""
    covered = table["covered"].dropna()
    n, hits = len(covered), int(covered.sum())
    if not n:
        return dict.fromkeys(("coverage", "coverage_low", "coverage_high", "width"), np.nan)
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    told = next((table[name] for name in ("set_size", "width") if name in table), None)
    width = table["high"] - table["low"] if told is None else told
    return {"coverage": hits / n, "coverage_low": low, "coverage_high": high, "width": float(width.mean())}


def _bins(values: NDArray[np.float64]) -> Iterator[tuple[float, float, NDArray[np.bool_]]]:
    """Yield bins of equal numbers of objects: lowest and highest value, and which objects; NaN is in none."""
    known = np.isfinite(values)
    if not known.any():
        return
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    for i in range(max(len(edges) - 1, 1)):
        chosen = known & (place == i)
        if chosen.any():
            yield float(values[chosen].min()), float(values[chosen].max()), chosen


def gallery(dataset: Dataset, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return some right and some wrong predictions of each class, with what the objects look like.

    Parameters
    ----------
    dataset : Dataset
    table : DataFrame
        Predictions of a classification for its test objects.
    seed : int
        Of the choice.

    Returns
    -------
    DataFrame
        row, label, prediction, probability (of the prediction), image (64 · 64 · 3 bytes, RGB by row; None
        without images), spectrum (at most 512 bins where the dataset has a zoom so coarse; None without).
    """
    shuffled = table.sample(frac=1, random_state=seed)
    right = shuffled["label"] == shuffled["prediction"]
    chosen = pd.concat(
        [part.groupby("label", sort=True).head(EXAMPLES) for part in (shuffled[right], shuffled[~right])]
    )
    rows = chosen["row"].to_numpy(dtype=np.int64)
    classes = chosen["prediction"].to_list()
    shown = pd.DataFrame({"row": rows, "label": chosen["label"].to_list(), "prediction": classes})
    shown["probability"] = [float(p) for p in (chosen[f"p_{name}"].iloc[i] for i, name in enumerate(classes))]
    images: list[Any] = [None] * len(rows)
    spectra: list[Any] = [None] * len(rows)
    first = {kind: name for name, kind in reversed(dataset.kinds.items())}
    if len(rows) and "image" in first:
        name = first["image"]
        cut = dataset.inputs({name: min(dataset.zooms[name])}, rows)[name]
        images = [picture(image).ravel().tolist() for image in cut]
    if len(rows) and "spectrum" in first:
        name = first["spectrum"]
        zooms = sorted(dataset.zooms[name])
        zoom = next((z for z in zooms if len(dataset.wavelength(z, name)) <= _LONGEST), zooms[-1])
        spectra = list(dataset.inputs({name: zoom}, rows)[name])
    shown["image"], shown["spectrum"] = images, spectra
    return shown


def picture(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image, shape (bands, size, size), as an RGB picture of shape (64, 64, 3).

    Three bands are colours from 0 to 1 as they are. Of five (u, g, r, i, z) i, r and g become red, green and
    blue after an inverse hyperbolic sine, which shows faint and bright parts at once (Lupton et al. 2004).
    """
    values = np.nan_to_num(image.astype(np.float64))
    if len(values) == 3:
        colour = np.clip(values, 0, 1)
    else:
        values = values[[3, 2, 1]] if len(values) == 5 else values[[0, 0, 0]]
        middle = np.median(values)
        noise = NMAD_SCALE * float(np.median(np.abs(values - middle))) or 1.0
        stretched = np.arcsinh((values - middle) / (3 * noise))
        colour = np.clip(stretched / max(float(stretched.max()), 1e-9), 0, 1)
    place = np.arange(_SIDE) * colour.shape[1] // _SIDE
    return np.asarray(np.round(255 * colour[:, place][:, :, place]).transpose(1, 2, 0), dtype=np.uint8)
