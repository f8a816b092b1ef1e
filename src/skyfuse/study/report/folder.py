"""A study's folder as the report reads it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import betabinom

from skyfuse.disk import read_json, read_parquet
from skyfuse.errors import StoreError
from skyfuse.recipe import Recipe, load_recipe
from skyfuse.study.compare import ranked
from skyfuse.study.metrics import PRIMARY, names_of
from skyfuse.study.report.common import FIXED_COLOURS, PALETTE, fusion_name, metric_name, model_name, records
from skyfuse.words import JOINT

TABLES = ("objects", "results", "trials", "comparisons", "effects", "embeddings", "correlations", "coverage")
OPTIONAL = ("binned", "clusters", "systems", "ceilings")
"""Tables that only some studies have: redshifts by magnitude and redshift; clusters of embeddings; other
systems of the label, and the models beside them."""


@dataclass(frozen=True)
class Folder:
    """What a study's folder holds.

    Attributes
    ----------
    path : Path
    recipe : Recipe
    header, data : dict
        ``study.json`` and ``data.json``.
    objects, results, trials, comparisons, effects, embeddings, correlations, coverage : DataFrame
        The tables of the same names.
    binned, clusters, systems, ceilings : DataFrame
        Empty where the study has none.
    cells : dict of str to dict
        ``cell.json`` by cell.
    """

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
    coverage: pd.DataFrame
    binned: pd.DataFrame
    clusters: pd.DataFrame
    systems: pd.DataFrame
    ceilings: pd.DataFrame
    cells: dict[str, dict[str, Any]]

    @property
    def kind(self) -> str:
        """``regression``, ``classification`` or ``reconstruction``."""
        return str(self.recipe.task.kind)

    @property
    def primary(self) -> str:
        """The score that chooses; higher is better."""
        return PRIMARY[self.kind]

    @property
    def scores(self) -> list[str]:
        """The scores of this kind of task, in the order of tables."""
        return list(names_of(self.recipe.task))

    @cached_property
    def reference(self) -> pd.DataFrame:
        """The cells that are compared: reference zooms, no leaking inputs, nothing spoilt."""
        return self.results[self.results["role"] == "reference"]

    @property
    def models(self) -> list[str]:
        """Models in the recipe's order."""
        return [model for model in self.recipe.models if model in set(self.results["model"])]

    @property
    def inputs(self) -> list[str]:
        """Inputs in the recipe's order."""
        return list(self.recipe.inputs)

    @property
    def arrays(self) -> list[str]:
        """Inputs that are images or spectra, which have zooms."""
        return [name for name, one in self.recipe.inputs.items() if one.kind != "table"]

    @cached_property
    def fusions(self) -> list[str]:
        """Inputs of the compared cells: single ones first, then those joined, early, and late fusions."""
        some = sorted({str(name) for name in self.reference["fusion"]} - {*self.inputs, *JOINT})
        order = [*self.inputs, *some, *JOINT]
        return sorted(set(self.reference["fusion"]), key=order.index)

    @property
    def classes(self) -> list[str]:
        """Class names: the task's, or those that stand as labels beside a reconstruction; else empty."""
        label = self.objects["label"].dropna()
        if self.data["classes"] or pd.api.types.is_numeric_dtype(label):
            return list(self.data["classes"])
        return sorted(set(label.astype(str)))

    @property
    def sound(self) -> pd.DataFrame:
        """The comparisons between cells without leaking inputs, in the primary score."""
        table = self.comparisons[self.comparisons["metric"] == self.primary]
        return table[table["change"].isna()]

    @property
    def undefined(self) -> dict[str, str]:
        """Why the score that chooses has no meaning, by part, where it has none."""
        return dict(self.cells[self.best["cell"]].get("undefined", {}))

    @property
    def rounds(self) -> int:
        """How many times the split goes round; with more than one, every object is tested once."""
        return int(self.recipe.split.rounds)

    @property
    def label(self) -> str:
        """The label with its unit, as axes name it."""
        task = self.recipe.task
        return f"{task.title} ({task.unit})" if task.unit else task.title

    @property
    def unit(self) -> str:
        """Unit of the label without its explanation; empty where it has none."""
        return self.recipe.task.unit.split(",")[0]

    @cached_property
    def best(self) -> dict[str, Any]:
        """The headline: the row of the compared cell with the highest score in the choice."""
        return self.leaders[0]

    @cached_property
    def leaders(self) -> list[dict[str, Any]]:
        """Each model's best cell by the choice, see `Recipe.choice`, the best of all first."""
        rows = sorted(records(self.reference), key=lambda row: -ranked(float(row["choice"])))
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            found.setdefault(str(row["model"]), row)
        return list(found.values())

    @cached_property
    def crossing(self) -> dict[str, Any] | None:
        """How intervals fare where a column, not chance, tells the test part from the calibration part.

        Returns
        -------
        dict or None
            ``column``; ``calibration`` and ``test``, its values; ``n_calibration`` and ``n_test`` objects;
            ``cells`` compared, and how many of them cover farther from the nominal level than chance allows
            (``off``); the ``lowest`` and ``highest`` coverage. None where the test part is drawn at random.

        Notes
        -----
        Given exchangeable objects, the number of covered ones is beta-binomial (Vovk 2013, Machine Learning
        92, 349): k of n calibration objects lie within the interval, and each test object with a probability
        that is Beta(k, n + 1 - k). Farther off than the central 95 % of that counts.
        """
        split = self.recipe.split
        if "test" not in split.parts or self.kind == "reconstruction":
            return None
        rows = self.reference
        n, tested = int(rows["n_calibration"].iloc[0]), int(rows["n_test"].iloc[0])
        within = min(int(np.ceil((n + 1) * self.recipe.task.level)), n)
        low, high = betabinom.ppf([0.025, 0.975], tested, within, n + 1 - within) / tested
        off = (rows["coverage"] < low) | (rows["coverage"] > high)
        return {
            "column": split.column,
            "calibration": ", ".join(
                split.parts.get("calibration") or split.parts.get("train", ["the rest"])
            ),
            "test": ", ".join(split.parts["test"]),
            "n_calibration": n,
            "n_test": tested,
            "cells": len(rows),
            "off": int(off.sum()),
            "lowest": float(rows["coverage"].min()),
            "highest": float(rows["coverage"].max()),
        }

    def attainable(self, score: str) -> float | None:
        """Return the best value of a score that the truth allows on the test objects, where it is known."""
        column = f"attainable_{score}"
        values = self.reference[column].dropna().tolist() if column in self.reference else []
        return float(values[0]) if values else None

    def colour(self, model: str) -> str:
        """Return a model's colour, the same in every figure."""
        taken = {FIXED_COLOURS.get(name) for name in self.models}
        spare = [c for c in PALETTE if c not in taken]
        others = [name for name in self.models if name not in FIXED_COLOURS]
        return FIXED_COLOURS.get(model) or spare[others.index(model) % len(spare)]

    def named(self, metric: str) -> str:
        """Return a score's name with the label's unit, where it has that unit."""
        with_unit = metric in ("mae", "rmse", "nmad") and self.unit
        return f"{metric_name(metric)} ({self.unit})" if with_unit else metric_name(metric)

    def predictions(self, cell: str) -> pd.DataFrame:
        """Return the predictions of a cell on the test parts of all rounds."""
        table = read_parquet(self.path / "cells" / cell / "predictions.parquet")
        return table[table["part"] == "test"].reset_index(drop=True)

    def beside(self, cell: str, name: str) -> pd.DataFrame | None:
        """Return a table that only some cells have (``gallery``, ``latent``, ``examples``), or None."""
        path = self.path / "cells" / cell / f"{name}.parquet"
        return read_parquet(path) if path.is_file() else None

    def row(self, model: str, fusion: str) -> dict[str, Any] | None:
        """Return the compared cell of a model and an input, if there is one."""
        return self._compared.get((model, fusion))

    @cached_property
    def _compared(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["model"], row["fusion"]): row for row in records(self.reference)}

    def title(self, cell: str) -> str:
        """Return a cell's name as the report prints it: its model, and its input where there are several."""
        row = self.results[self.results["cell"] == cell].iloc[0]
        model = model_name(str(row["model"]))
        return model if len(self.fusions) == 1 else f"{model}, {fusion_name(str(row['fusion']))}"

    def wavelength(self, bins: int, name: str | None = None) -> NDArray[np.float64]:
        """Return the wavelengths (Å) of a spectrum of some bins; where none are stored, the bins' numbers.

        Parameters
        ----------
        bins : int
        name : str, optional
            Of the input; by default the first of spectra.
        """
        told = self.data.get("wavelength", {})
        for values in told.get(name or next(iter(told), ""), {}).values():
            if len(values) == bins:
                return np.asarray(values, dtype=np.float64)
        return np.arange(bins, dtype=np.float64)

    def groups(self, label: pd.Series) -> dict[str, NDArray[np.bool_]]:
        """Return which objects belong to which group of labels: classes, or fifths of a number."""
        known = label.dropna()
        if known.empty:
            return {"": np.ones(len(label), dtype=bool)}
        if not pd.api.types.is_numeric_dtype(known):
            return {name: (label.astype(str) == name).to_numpy() for name in self.classes}
        cut = pd.qcut(label.astype(float), 5, duplicates="drop")
        return {
            f"{part.left:.3g} – {part.right:.3g}": (cut == part).to_numpy() for part in cut.cat.categories
        }


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Tell what goes wrong with the stored results of a study as theirs, in one line.

    Raises
    ------
    StoreError
        They lack something, or hold what does not fit: they are damaged, or of another version.
    """
    from jinja2 import UndefinedError

    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError, UndefinedError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise StoreError(
            f"its stored results do not fit together ({type(error).__name__}: {error})",
            remedy="see what is damaged with skyfuse check, or run the study again in a new folder",
            path=path,
        ) from error


def read_folder(path: Path) -> Folder:
    """Read a finished study.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Folder

    Raises
    ------
    StoreError
        The folder is no study, or is not finished.
    """
    if not (path / "study.json").is_file():
        raise StoreError("is not the folder of a study", remedy="run the study first", path=path)
    tables = {}
    for name in (*TABLES, *OPTIONAL):
        file = path / f"{name}.parquet"
        if name in OPTIONAL and not file.is_file():
            tables[name] = pd.DataFrame()
            continue
        try:
            # Studies of version 0.1 call it a variant.
            tables[name] = read_parquet(file).rename(columns={"variant": "change"})
        except StoreError as error:
            raise StoreError(
                f"{name}.parquet is missing or damaged",
                remedy="run the study again: it finishes what is missing",
                path=path,
            ) from error
    with fitting(path):
        names = [str(name) for name in tables["results"]["cell"]]
    strange = next((name for name in names if name in ("", ".", "..") or Path(name).name != name), None)
    if strange is not None:
        # It becomes part of paths, and must not lead out of the folder.
        raise StoreError(
            f"its results name the cell {strange!r}, which is no name",
            remedy="run the study again, or get the folder again from where it came",
            path=path / "results.parquet",
        )
    cells = {name: read_json(path / "cells" / name / "cell.json") for name in names}
    header, data = read_json(path / "study.json"), read_json(path / "data.json")
    return Folder(path, load_recipe(path / "recipe.yaml"), header, data, cells=cells, **tables)
