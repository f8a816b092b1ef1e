"""Run a study: every model, input and zoom of a recipe as a cell of its own, then compare, embed and report.

Everything a report needs lies in the study's folder::

    recipe.yaml  study.json  objects.parquet  data.json  tuning.sqlite  trials.parquet
    cells/<cell>/{cell.json, predictions.parquet, model/}
    results.parquet  comparisons.parquet  effects.parquet
    embeddings.parquet  correlations.parquet  embeddings.json  report.html

A cell is written under a temporary name and renamed when it is whole. A cell whose fingerprint (its part of
the recipe, data, split, versions) is unchanged is not run again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.config import Fusion, Modality, Recipe, Scalar, Variant, inputs_of, load_recipe
from skyfuse.cube.layout import read_json, replaced, write_json
from skyfuse.errors import StoreError, UsageError
from skyfuse.models.base import MODELS, Arrays, History
from skyfuse.models.files import load_model
from skyfuse.models.fusion import LateFusion
from skyfuse.study.compare import Bootstrap, bootstrap, comparisons
from skyfuse.study.embed import correlations, embed
from skyfuse.study.metrics import METRICS, score
from skyfuse.study.report import write_report
from skyfuse.study.tasks import PARTS, Target, card_inputs, complete, describe, digest, target
from skyfuse.study.tune import TRIAL_COLUMNS, Tuning, grid_points, tune

if TYPE_CHECKING:
    from rich.table import Table

    from skyfuse.dataset.dataset import Dataset

Progress = Callable[[int, int, str], None]
Role = Literal["reference", "resolution", "flaw"]

FORMAT = 1
"""Version of a study's folder."""

WALL_COLUMNS = ("train_seconds", "inference_seconds", "tune_seconds")
"""Columns of ``results.parquet`` that hold wall times; all others are equal in two runs of one seed."""

PIXEL_UNIT = 1e-18
"""Size of a pixel value in the units of the original study's cube, erg/s/cm²/Å."""
PIXEL_DIVISOR = 255
"""By which the original study divided pixel values, as if they were bytes."""

_LIBRARIES = (
    "skyfuse",
    "numpy",
    "scikit-learn",
    "lightgbm",
    "torch",
    "lightning",
    "optuna",
    "openTSNE",
    "umap-learn",
)


@dataclass(frozen=True)
class Cell:
    """One fit of a study.

    Attributes
    ----------
    model : str
        Name in `skyfuse.models.MODELS`.
    fusion : str
        How the inputs are used.
    image_zoom, spectrum_zoom : int or None
        None where the input is not read.
    role : str
        ``reference``: compared with the others at the recipe's reference zooms; ``resolution``: another zoom;
        ``flaw``: fitted on data spoilt on purpose.
    variant : str or None
        How the data is spoilt.
    """

    model: str
    fusion: Fusion
    image_zoom: int | None
    spectrum_zoom: int | None
    role: Role
    variant: Variant | None = None

    @property
    def name(self) -> str:
        """Unique within a study, and a file name."""
        parts = [self.model, self.fusion]
        if self.image_zoom is not None:
            parts.append(f"i{self.image_zoom}")
        if self.spectrum_zoom is not None:
            parts.append(f"s{self.spectrum_zoom}")
        if self.variant is not None:
            parts.append(self.variant)
        return "-".join(parts)

    @property
    def zooms(self) -> dict[Modality, int]:
        """Zoom of each modality that the cell reads."""
        zooms: dict[Modality, int] = {}
        if self.image_zoom is not None:
            zooms["image"] = self.image_zoom
        if self.spectrum_zoom is not None:
            zooms["spectrum"] = self.spectrum_zoom
        return zooms


def plan(recipe: Recipe) -> list[Cell]:
    """Return the cells of a recipe, single modalities before the fusions that reuse them.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    list of Cell
    """
    cells: list[Cell] = []
    for model in recipe.models:
        cells += [_cell(recipe, model, fusion) for fusion in sorted(recipe.fusions, key=_stage)]
        for modality in recipe.modalities:
            if modality not in recipe.fusions:
                continue
            for zoom in recipe.zooms.get(modality, []):
                cell = _cell(recipe, model, modality, zoom=zoom)
                if zoom != recipe.reference[modality]:
                    cells.append(cell)
    for flaw in recipe.flaws:
        if flaw.variant is not None and flaw.model is not None and flaw.fusion is not None:
            cells.append(_cell(recipe, flaw.model, flaw.fusion, variant=flaw.variant))
    return cells


def _stage(fusion: Fusion) -> int:
    return fusion.startswith("late")


def _cell(
    recipe: Recipe, model: str, fusion: Fusion, *, zoom: int | None = None, variant: Variant | None = None
) -> Cell:
    zooms = {modality: recipe.reference[modality] for modality in inputs_of(fusion)}
    role: Role = "reference"
    if variant is not None:
        role = "flaw"
    elif zoom is not None:
        zooms = dict.fromkeys(zooms, zoom)
        role = "resolution"
    return Cell(model, fusion, zooms.get("image"), zooms.get("spectrum"), role, variant)


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one cell, from the recipe's one seed and the cell's name alone.

    Parameters
    ----------
    seed : int
        Seed of the recipe.
    name : str
        Name of the cell.

    Returns
    -------
    int
        Below 2³¹, whatever other cells the study has.
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    state = np.random.SeedSequence([seed, *words.tolist()]).generate_state(1)
    return int(state[0] >> 1)


@dataclass(frozen=True)
class StudyResult:
    """What a study came to.

    Attributes
    ----------
    results : DataFrame
        One row a cell: model, fusion, zooms, role, variant, parameters, number of objects, each score of each
        part, 95 % intervals of the test scores, attainable R² and distance from it, wall times.
    report : Path
        The report, one self-contained HTML file.
    """

    results: pd.DataFrame
    report: Path

    def table(self) -> Table:
        """Return the scores at the reference zooms as a table for the terminal."""
        from rich.table import Table

        rows = self.results[self.results["role"] == "reference"]
        # Without lines it fits 80 columns.
        table = Table(title="Test part", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("model", no_wrap=True)
        table.add_column("input", no_wrap=True)
        for heading in ("R²", "95 %", "MAE", "RMSE", "NMAD", "train s", "infer s"):
            table.add_column(heading, justify="right", no_wrap=True)
        last = None
        for row in rows.to_dict("records"):
            table.add_row(
                "" if row["model"] == last else row["model"],
                row["fusion"],
                f"{row['test_r2']:.3f}",
                f"{row['test_r2_low']:.2f}…{row['test_r2_high']:.2f}",
                f"{row['test_mae']:.3f}",
                f"{row['test_rmse']:.3f}",
                f"{row['test_nmad']:.3f}",
                f"{row['train_seconds']:.2f}",
                f"{row['inference_seconds']:.3f}",
            )
            last = row["model"]
        attainable = rows["attainable_r2"].dropna()
        if len(attainable):
            table.caption = f"attainable R² on these objects: {attainable.iloc[0]:.3f}"
        return table


@dataclass(frozen=True)
class Study:
    """A recipe, ready to run.

    Attributes
    ----------
    recipe : Recipe
    """

    recipe: Recipe

    @classmethod
    def from_recipe(cls, name: str | Path, *, quick: bool = False) -> Study:
        """Return the study of a shipped recipe or of a YAML file.

        Parameters
        ----------
        name : str or path
            ``sfr``, or a path.
        quick : bool
            Apply the recipe's `quick` overrides.

        Returns
        -------
        Study

        Raises
        ------
        UsageError
            No such recipe, or a wrong field.
        """
        recipe = load_recipe(name)
        return cls(recipe.shortened() if quick else recipe)

    def run(
        self,
        dataset: Dataset,
        out: str | Path = "skyfuse-study",
        progress: Progress | None = None,
        truth: pd.DataFrame | None = None,
        quick: bool = False,
    ) -> StudyResult:
        """Run what is not yet there, and write the results and the report.

        Parameters
        ----------
        dataset : Dataset
            With a frozen split.
        out : path
            Folder of the study: new, empty, or a study that goes on.
        progress : callable, optional
            Called with (done, total, what).
        truth : DataFrame, optional
            Truth table of a mock sky; the report then states the attainable R².
        quick : bool
            Apply the recipe's `quick` overrides.

        Returns
        -------
        StudyResult

        Raises
        ------
        UsageError
            The recipe names an unknown model.
        DataError
            The dataset lacks the label, a zoom or the folds that the recipe names.
        StoreError
            `out` holds something else.
        """
        recipe = self.recipe.shortened() if quick else self.recipe
        _check_models(recipe)
        goal = target(recipe, dataset, truth)
        folder = _own_folder(Path(out), "study.json", "a study")
        return _Run(recipe, dataset, folder, progress, goal).go(quick=quick)

    def tune(
        self,
        dataset: Dataset,
        out: str | Path,
        *,
        model: str,
        modality: str,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Search the grid of one model alone, by cross-validation on the training part.

        Parameters
        ----------
        dataset : Dataset
            With a frozen split.
        out : path
            Folder of ``tuning.sqlite`` and ``trials.parquet``: new, empty, or a search that goes on.
        model : str
            One of the recipe's models.
        modality : str
            ``image``, ``spectrum`` or ``early``.
        progress : callable, optional
            Called with (done, total, what).

        Returns
        -------
        DataFrame
            One row a grid point, see `skyfuse.study.tune.Tuning`.

        Raises
        ------
        UsageError
            The recipe does not name the model or the modality, or there is nothing to tune.
        DataError, StoreError
            As `run`.
        """
        recipe = self.recipe
        _check_models(recipe)
        if model not in recipe.models:
            raise UsageError(
                f"recipe {recipe.name} does not name the model {model!r}",
                remedy=f"choose among {', '.join(recipe.models)}",
            )
        known = [fusion for fusion in recipe.fusions if not _stage(fusion)]
        if modality not in known:
            raise UsageError(f"{modality!r} cannot be tuned", remedy=f"choose among {', '.join(known)}")
        if len(grid_points(recipe.models[model].grid)) < 2:
            raise UsageError(
                f"recipe {recipe.name} names no grid for {model}",
                remedy=f"give models.{model}.grid at least two points",
            )
        narrow = recipe.model_copy(
            update={"models": {model: recipe.models[model]}, "fusions": [modality], "flaws": []}
        )
        goal = target(narrow, dataset)
        folder = _own_folder(Path(out), "tuning.sqlite", "a search")
        run = _Run(narrow, dataset, folder, progress, goal)
        run.tune()
        return pd.read_parquet(folder / "trials.parquet")


def _check_models(recipe: Recipe) -> None:
    known = sorted(name for name in MODELS if name != LateFusion.name)
    unknown = [name for name in recipe.models if name not in known]
    if unknown:
        raise UsageError(
            f"recipe {recipe.name} names the model {unknown[0]}", remedy=f"choose among {', '.join(known)}"
        )
    # A wrong parameter shows before the first hour of fitting, not after it.
    for name, plan_ in recipe.models.items():
        for point in grid_points(plan_.grid):
            try:
                MODELS[name](**plan_.fixed, **point)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"recipe {recipe.name} gives {name} a parameter that it cannot take ({error})",
                    remedy=f"mend models.{name} in the recipe",
                ) from error


def _own_folder(folder: Path, mark: str, what: str) -> Path:
    """Return the folder, made if it is not there; it must be empty or carry the mark of an earlier run."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file()):
        raise StoreError(f"is not the folder of {what}", remedy="give a new folder", path=folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Run:
    """State of one run: what is loaded, how far it is."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, folder: Path, progress: Progress | None, goal: Target
    ) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.folder = folder
        self.goal = goal
        self.cells = plan(recipe)
        self._progress = progress
        self._done = 0
        self._total = sum(len(grid_points(p.grid)) for p in self._searches().values())
        self._loaded: dict[Modality, tuple[int, dict[str, NDArray[np.float32]]]] = {}
        self._versions = {name: version(name) for name in _LIBRARIES}
        self._source = digest(dataset)

    def _searches(self) -> dict[tuple[str, Fusion], Any]:
        """Return what is tuned, by model and input; late fusion reuses what its members found."""
        return {
            (name, fusion): plan
            for name, plan in self.recipe.models.items()
            for fusion in self.recipe.fusions
            if not _stage(fusion) and len(grid_points(plan.grid)) > 1
        }

    def _step(self, what: str) -> None:
        self._done += 1
        self._tell(what)

    def _trial_done(self, search: str, point: str) -> None:
        self._step(f"{search}: {point}")

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)

    def go(self, *, quick: bool) -> StudyResult:
        self._total += len(self.cells) + 2  # embeddings and report
        self._write_header(quick=quick)
        tunings = self.tune()
        for cell in self.cells:
            self._tell(cell.name)
            self._run_cell(cell, tunings)
            self._step(cell.name)
        boot, results = self._results()
        self._write("results.parquet", results)
        reference = results[results["role"] == "reference"]
        self._write("comparisons.parquet", comparisons(reference, boot))
        self._write("effects.parquet", self._effects(boot))
        self._tell("embeddings")
        self._embed()
        self._step("embeddings")
        self._tell("report")
        report = write_report(self.folder)
        self._step("report")
        return StudyResult(results, report)

    def _write(self, name: str, table: pd.DataFrame) -> None:
        with replaced(self.folder / name) as temporary:
            table.to_parquet(temporary, index=False)

    def _write_header(self, *, quick: bool) -> None:
        write_json(
            self.folder / "study.json",
            {
                "format": FORMAT,
                "recipe": self.recipe.name,
                "quick": quick,
                "seed": self.recipe.seed,
                "dataset": self._source,
                "versions": self._versions,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "system": platform.system(),
            },
        )
        with replaced(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(self.recipe.to_yaml(), encoding="utf-8")
        part = np.full(len(self.goal.label), "", dtype=object)
        for name, rows in self.goal.rows.items():
            part[rows] = name
        table = self.dataset.table
        sigma = self.goal.attainable_sigma
        self._write(
            "objects.parquet",
            pd.DataFrame(
                {
                    "row": np.arange(len(table)),
                    "object_id": table["object_id"].to_numpy(),
                    "part": part,
                    "label": self.goal.label,
                    "complete": complete(table),
                    "attainable_sigma": np.full(len(table), np.nan) if sigma is None else sigma,
                }
            ),
        )
        write_json(self.folder / "data.json", describe(self.dataset, self.goal))

    def _fingerprint(self, content: Mapping[str, Any]) -> str:
        whole = {**content, "data": self._source, "versions": self._versions, "seed": self.recipe.seed}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _inputs(self, zooms: Mapping[Modality, int]) -> dict[str, Arrays]:
        """Return the arrays of each part; the last zoom of each modality stays in memory."""
        for modality, zoom in zooms.items():
            if self._loaded.get(modality, (None,))[0] != zoom:
                self._loaded[modality] = (
                    zoom,
                    {
                        part: self.dataset.inputs({modality: zoom}, rows)[modality]
                        for part, rows in self.goal.rows.items()
                    },
                )
        return {part: {m: self._loaded[m][1][part] for m in zooms} for part in PARTS}

    def _labels(self) -> dict[str, NDArray[np.float64]]:
        return {part: self.goal.label[rows] for part, rows in self.goal.rows.items()}

    def tune(self) -> dict[tuple[str, Fusion], Tuning]:
        found: dict[tuple[str, Fusion], Tuning] = {}
        tables = []
        train = self.goal.rows["train"]
        place = {row: i for i, row in enumerate(train.tolist())}
        folds = [np.array([place[row] for row in fold.tolist()]) for fold in self.goal.folds]
        for (model, fusion), plan_ in self._searches().items():
            cell = _cell(self.recipe, model, fusion)
            content = {"tune": cell.name, **plan_.model_dump(), "folds": self.recipe.split.folds}
            what = f"tuning {cell.name}"
            self._tell(what)
            before = self._done
            found[model, fusion] = tune(
                MODELS[model],
                plan_.fixed,
                plan_.grid,
                self._inputs(cell.zooms)["train"],
                self.goal.label[train],
                folds,
                store=self.folder / "tuning.sqlite",
                name=f"{cell.name}-{self._fingerprint(content)[:16]}",
                seed=seed_of(self.recipe.seed, what),
                progress=partial(self._trial_done, what),
            )
            self._done = before + len(found[model, fusion].trials)
            tables.append(found[model, fusion].trials.assign(model=model, fusion=fusion))
        if tables:
            self._write("trials.parquet", pd.concat(tables, ignore_index=True)[TRIAL_COLUMNS])
        else:
            self._write("trials.parquet", pd.DataFrame(columns=TRIAL_COLUMNS))
        return found

    def _parameters(
        self, cell: Cell, tunings: Mapping[tuple[str, Fusion], Tuning]
    ) -> tuple[dict[str, Scalar], float]:
        plan_ = self.recipe.models[cell.model]
        tuning = tunings.get((cell.model, cell.fusion))
        if tuning is None:
            return {**plan_.fixed, **grid_points(plan_.grid)[0]}, 0.0
        return {**plan_.fixed, **tuning.best}, tuning.seconds

    def _run_cell(self, cell: Cell, tunings: Mapping[tuple[str, Fusion], Tuning]) -> None:
        if _stage(cell.fusion):
            members = [self._member(cell, modality) for modality in inputs_of(cell.fusion)]
            notes = [read_json(self._place(member) / "cell.json") for member in members]
            parameters: dict[str, Any] = {"rule": cell.fusion.removeprefix("late-")}
            tune_seconds = sum(note["seconds"]["tune"] for note in notes)
            content = {"cell": asdict(cell), "members": [note["fingerprint"] for note in notes]}
        else:
            members, notes = [], []
            parameters, tune_seconds = self._parameters(cell, tunings)
            content = {"cell": asdict(cell), "parameters": parameters}
        fingerprint = self._fingerprint(content)
        final = self._place(cell)
        if (final / "cell.json").is_file() and read_json(final / "cell.json")["fingerprint"] == fingerprint:
            return
        growing = self._growing(cell, fingerprint)
        seed = seed_of(self.recipe.seed, cell.name)
        inputs, labels = self._spoilt(cell, self._inputs(cell.zooms), seed)

        if members:
            fitted = [load_model(self._place(member) / "model") for member in members]
            model: Any = LateFusion(fitted, **parameters)
        else:
            model = MODELS[cell.model](**parameters)
        started = time.perf_counter()
        history: History = model.fit(
            inputs["train"],
            labels["train"],
            inputs["valid"],
            labels["valid"],
            seed=seed,
            folder=growing / "training",
            progress=lambda done, total, what: self._tell(f"{cell.name}: {what}"),
        )
        # What a late fusion costs is its members' training; its own is a weighted mean.
        train_seconds = time.perf_counter() - started + sum(note["seconds"]["train"] for note in notes)
        predicted = {part: model.predict(inputs[part]).value for part in PARTS if part != "test"}
        started = time.perf_counter()
        predicted["test"] = model.predict(inputs["test"]).value
        inference_seconds = time.perf_counter() - started

        metrics = {part: score(labels[part], predicted[part])._asdict() for part in PARTS}
        model.card.update(
            label={"name": self.recipe.task.label, "unit": self.recipe.task.unit},
            inputs=card_inputs(self.dataset, cell.zooms),
            split=self._source["split"],
            metrics={f"{part}_{name}": value for part in PARTS for name, value in metrics[part].items()},
        )
        model.save(growing / "model")
        rows = self._spoilt_rows(cell)
        predictions = pd.concat(
            [
                pd.DataFrame(
                    {"row": rows[part], "part": part, "label": labels[part], "prediction": predicted[part]}
                )
                for part in PARTS
            ],
            ignore_index=True,
        )
        predictions.to_parquet(growing / "predictions.parquet", index=False)
        note = {
            "fingerprint": fingerprint,
            "cell": asdict(cell),
            "parameters": parameters,
            "seed": seed,
            "n": {part: len(labels[part]) for part in PARTS},
            "metrics": metrics,
            "history": {**history, "best": int(history["best"])},
            "seconds": {"train": train_seconds, "inference": inference_seconds, "tune": tune_seconds},
        }
        if members:
            note["weights"] = [float(weight) for weight in model.weights]
        shutil.rmtree(growing / "training", ignore_errors=True)
        (growing / "fingerprint").unlink()
        write_json(growing / "cell.json", note)
        shutil.rmtree(final, ignore_errors=True)
        growing.rename(final)

    def _member(self, cell: Cell, modality: Modality) -> Cell:
        return next(
            c for c in self.cells if (c.model, c.fusion, c.role) == (cell.model, modality, "reference")
        )

    def _place(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    def _growing(self, cell: Cell, fingerprint: str) -> Path:
        """Return where a cell grows; a half-trained network of the same fingerprint goes on from there."""
        growing = self.folder / "cells" / f".{cell.name}.partial"
        mark = growing / "fingerprint"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint:
            shutil.rmtree(growing, ignore_errors=True)
            (growing / "training").mkdir(parents=True)
            mark.write_text(fingerprint, encoding="utf-8")
        return growing

    def _spoilt_rows(self, cell: Cell) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each part, in training and validation without what the cell leaves out."""
        if cell.variant != "complete-only":
            return self.goal.rows
        whole = complete(self.dataset.table)
        return {part: rows if part == "test" else rows[whole[rows]] for part, rows in self.goal.rows.items()}

    def _spoilt(
        self, cell: Cell, inputs: dict[str, Arrays], seed: int
    ) -> tuple[dict[str, Arrays], dict[str, NDArray[np.float64]]]:
        """Return the inputs and labels of each part, spoilt in the way of the cell's variant."""
        labels = self._labels()
        if cell.variant == "complete-only":
            kept = {
                part: np.isin(self.goal.rows[part], rows) for part, rows in self._spoilt_rows(cell).items()
            }
            inputs = {p: {m: values[kept[p]] for m, values in inputs[p].items()} for p in PARTS}
            labels = {p: labels[p][kept[p]] for p in PARTS}
        elif cell.variant == "tiny-pixels":
            factor = np.float32(PIXEL_UNIT / PIXEL_DIVISOR)
            inputs = {p: {**inputs[p], "image": inputs[p]["image"] * factor} for p in PARTS}
        elif cell.variant == "shuffled-bands":
            rng = np.random.default_rng(seed)
            inputs = {p: {**inputs[p], "image": _shuffled(inputs[p]["image"], rng)} for p in PARTS}
        return inputs, labels

    def _notes(self) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for cell in self.cells:
            yield cell, read_json(self._place(cell) / "cell.json")

    def _results(self) -> tuple[Bootstrap, pd.DataFrame]:
        test = self.goal.rows["test"]
        sigma = self.goal.attainable_sigma
        predictions = {
            cell.name: read_predictions(self._place(cell), "test")["prediction"].to_numpy()
            for cell in self.cells
        }
        boot = bootstrap(
            self.goal.label[test],
            predictions,
            groups=None if self.goal.groups is None else self.goal.groups[test],
            sigma=None if sigma is None else sigma[test],
            samples=self.recipe.bootstrap,
            seed=seed_of(self.recipe.seed, "bootstrap"),
        )
        rows = []
        for cell, note in self._notes():
            row: dict[str, Any] = {"cell": cell.name, **asdict(cell)}
            row["parameters"] = json.dumps(note["parameters"], sort_keys=True)
            row |= {f"n_{part}": note["n"][part] for part in PARTS}
            row |= {f"{part}_{name}": note["metrics"][part][name] for part in PARTS for name in METRICS}
            for name in METRICS:
                row[f"test_{name}_low"], row[f"test_{name}_high"] = boot.interval(cell.name, name)
            known = boot.attainable is not None
            row["attainable_r2"] = boot.attainable if known else np.nan
            distance = boot.distance(cell.name) if known else (np.nan,) * 3
            row |= dict(zip(("distance", "distance_low", "distance_high"), distance, strict=True))
            row["iterations"] = len(note["history"]["valid"])
            row["best_iteration"] = note["history"]["best"]
            row |= {f"{name}_seconds": note["seconds"][name] for name in ("train", "inference", "tune")}
            rows.append(row)
        results = pd.DataFrame(rows)
        for column in ("image_zoom", "spectrum_zoom"):
            results[column] = results[column].astype("Int64")
        return boot, results

    def _effects(self, boot: Bootstrap) -> pd.DataFrame:
        """Return what each measurable flaw changes in R², over all test objects and over complete spectra."""
        test = self.goal.rows["test"]
        whole = complete(self.dataset.table)[test]
        rows = []
        for cell in self.cells:
            if cell.variant is None:
                continue
            sound = _cell(self.recipe, cell.model, cell.fusion).name
            difference, low, high = boot.difference(cell.name, sound, "r2")
            row = {
                "variant": cell.variant,
                "cell": cell.name,
                "sound": sound,
                "n_train": read_json(self._place(cell) / "cell.json")["n"]["train"],
                "n_train_sound": len(self.goal.rows["train"]),
                "r2": boot.point[cell.name]["r2"],
                "r2_sound": boot.point[sound]["r2"],
                "difference": difference,
                "low": low,
                "high": high,
                "n_complete": int(whole.sum()),
            }
            for key, name in (("r2_complete", cell.name), ("r2_sound_complete", sound)):
                table = read_predictions(self.folder / "cells" / name, "test")[whole]
                enough = len(table) > 1 and len(set(table["label"])) > 1
                row[key] = score(table["label"], table["prediction"]).r2 if enough else np.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def _embed(self) -> None:
        views = self.recipe.embeddings
        wanted = [
            (modality, zoom)
            for modality in self.recipe.modalities
            for zoom in views.zooms.get(modality, [])
            if views.methods
        ]
        fingerprint = self._fingerprint({"embeddings": views.model_dump(mode="json")})
        mark = self.folder / "embeddings.json"
        if mark.is_file() and read_json(mark)["fingerprint"] == fingerprint:
            return
        points, found = [], []
        for modality, zoom in wanted:
            inputs = self._inputs({modality: zoom})
            for method in views.methods:
                what = f"{method} of {modality} at zoom {zoom}"
                self._tell(what)
                xy = embed(
                    {part: inputs[part][modality] for part in PARTS},
                    method=method,
                    seed=seed_of(self.recipe.seed, what),
                )
                place = {"method": method, "modality": modality, "zoom": zoom}
                for part, rows in self.goal.rows.items():
                    where = {"row": rows, "part": part, "x": xy[part][:, 0], "y": xy[part][:, 1]}
                    points.append(pd.DataFrame({**place, **where}))
                found.append({**place, **correlations(xy, self._labels())})
        columns = ["method", "modality", "zoom", "row", "part", "x", "y"]
        table = pd.concat(points, ignore_index=True) if points else pd.DataFrame(columns=columns)
        self._write("embeddings.parquet", table)
        self._write("correlations.parquet", pd.DataFrame(found))
        write_json(mark, {"fingerprint": fingerprint})


def read_predictions(cell: Path, part: str) -> pd.DataFrame:
    """Return the predictions of one cell for one part, in the order of the split.

    Parameters
    ----------
    cell : Path
        Folder of the cell.
    part : str
        ``train``, ``valid`` or ``test``.

    Returns
    -------
    DataFrame
        Columns row, part, label, prediction.
    """
    table = pd.read_parquet(cell / "predictions.parquet")
    return table[table["part"] == part].reset_index(drop=True)


def _shuffled(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return images, shape (n, bands, ny, nx), with the bands of each object in a random order."""
    order = rng.permuted(np.tile(np.arange(image.shape[1]), (len(image), 1)), axis=1)
    return np.take_along_axis(image, order[:, :, None, None], axis=1)
