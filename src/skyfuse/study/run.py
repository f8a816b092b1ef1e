"""Run a study: every model, input and zoom of a recipe as a cell of its own, then compare, embed and report.

Everything a report needs lies in the study's folder::

    recipe.yaml  study.json  objects.parquet  data.json  tuning.sqlite  trials.parquet
    cells/<cell>/{cell.json, predictions.parquet, model/, gallery.parquet | latent.parquet, examples.parquet}
    results.parquet  comparisons.parquet  effects.parquet  coverage.parquet  binned.parquet
    systems.parquet  ceilings.parquet
    embeddings.parquet  correlations.parquet  clusters.parquet  embeddings.json  report.html

A cell is written under a temporary name and renamed when it is whole; within it, each round of a
cross-validation that is whole stays. A cell whose fingerprint (its part of the recipe, data, split, versions)
is unchanged is not run again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skyfuse.checksums import NAME, damaged, seal
from skyfuse.disk import locked, named, read_json, read_parquet, replaced, write_json
from skyfuse.errors import StoreError, UsageError
from skyfuse.models.inputs import Arrays
from skyfuse.models.registry import MODELS
from skyfuse.recipe import ModelPlan, Recipe, load_recipe
from skyfuse.study import embed as views
from skyfuse.study import leakage
from skyfuse.study.cells import Cell, is_late, plan, reference, seed_of
from skyfuse.study.faults import of_models, raise_all, with_templates
from skyfuse.study.fitting import FORMAT, Fitter
from skyfuse.study.metrics import PRIMARY, names_of
from skyfuse.study.report import write_report
from skyfuse.study.results import Findings, StudyResult
from skyfuse.study.tasks import Target, complete, describe, digest, target
from skyfuse.study.tune import COLUMNS, Store, Tuning, first_point, number_of_trials, tune
from skyfuse.words import PARTS, Fusion, Progress

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset


_LIBRARIES = (
    "skyfuse",
    "numpy",
    "scikit-learn",
    "lightgbm",
    "torch",
    "optuna",
    "openTSNE",
    "umap-learn",
)


@dataclass(frozen=True)
class Study:
    """A recipe, ready to run.

    Attributes
    ----------
    recipe : Recipe
        With the overrides of a variant and of a short run applied.
    variant : str or None
        Which variant of its recipe it is.
    quick : bool
        Whether it is the recipe's short run.
    """

    recipe: Recipe
    variant: str | None = None
    quick: bool = False

    @classmethod
    def from_recipe(cls, name: str | Path, *, variant: str | None = None, quick: bool = False) -> Study:
        """Return the study of a shipped recipe or of a YAML file.

        Parameters
        ----------
        name : str or path
            ``sfr``, or a path.
        variant : str, optional
            One of the recipe's variants.
        quick : bool
            Apply the recipe's `quick` overrides.

        Returns
        -------
        Study

        Raises
        ------
        UsageError
            No such recipe or variant, or a wrong field.
        """
        recipe = load_recipe(name)
        if variant is not None:
            recipe = recipe.varied(variant)
        return cls(recipe.shortened() if quick else recipe, variant, quick)

    def run(
        self,
        dataset: Dataset,
        out: str | Path = "skyfuse-study",
        progress: Progress | None = None,
        truth: pd.DataFrame | None = None,
        mock: bool = False,
        templates: str | Path | None = None,
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
        mock : bool
            The dataset is of the recipe's own mock sky; the report says so.
        templates : path, optional
            Folder of eigentemplates, for the models that fit them.

        Returns
        -------
        StudyResult

        Raises
        ------
        UsageError
            The recipe names an unknown model, or one that cannot do its task.
        DataError
            The dataset lacks the label, a column, a zoom, the rounds or the folds that the recipe names; or
            an input gives the label away, see `skyfuse.study.leakage`.
        StoreError
            `out` holds something else, or another study writes it.
        """
        self.check(out, templates)
        recipe = with_templates(self.recipe, templates)
        goal = target(recipe, dataset, truth)
        looked = _looked(recipe, dataset, goal)
        with _own_folder(Path(out), "study.json", "study") as folder:
            return _Run(recipe, dataset, folder, progress, goal).go(
                {"data": "mock" if mock else "user", "variant": self.variant, "quick": self.quick}, looked
            )

    def check(self, out: str | Path = "skyfuse-study", templates: str | Path | None = None) -> None:
        """Raise what is wrong with models, their parameters, templates and the folder, before any work.

        Parameters
        ----------
        out, templates
            As for `run`.
        """
        raise_all([*of_models(with_templates(self.recipe, templates))])
        _check_folder(Path(out), "study.json", "study")

    def narrowed(self, model: str, fusion: str, templates: str | Path | None = None) -> Recipe:
        """Return the recipe of one model and one input alone, as `tune` takes it.

        Raises
        ------
        UsageError
            The recipe does not name the model or the input, or there is nothing to tune.
        """
        recipe = with_templates(self.recipe, templates)
        raise_all([*of_models(recipe)])
        if model not in recipe.models:
            raise UsageError(
                f"recipe {recipe.name} does not name the model {model!r}",
                remedy=f"choose among {', '.join(recipe.models)}",
            )
        known = [one for one in recipe.fusions_of(model) if not is_late(one)]
        if fusion not in known:
            raise UsageError(f"{fusion!r} cannot be tuned", remedy=f"choose among {', '.join(known)}")
        if not recipe.models[model].tuned:
            raise UsageError(
                f"recipe {recipe.name} names no grid for {model}",
                remedy=f"give models.{model}.grid at least two points",
            )
        return recipe.model_copy(
            update={
                "models": {model: recipe.models[model].model_copy(update={"fusions": [fusion]})},
                "learning": None,
                "flaws": [],
            }
        )

    def tune(
        self,
        dataset: Dataset,
        out: str | Path,
        *,
        model: str,
        fusion: str,
        progress: Progress | None = None,
        templates: str | Path | None = None,
    ) -> pd.DataFrame:
        """Search the parameters of one model alone, by cross-validation on the training part.

        Parameters
        ----------
        dataset : Dataset
            With a frozen split.
        out : path
            Folder of ``tuning.sqlite`` and ``trials.parquet``: new, empty, or a search that goes on.
        model : str
            One of the recipe's models.
        fusion : str
            An input, ``early``, or inputs joined by ``+``.
        progress : callable, optional
            Called with (done, total, what).
        templates : path, optional
            As for `run`.

        Returns
        -------
        DataFrame
            One row a point, see `skyfuse.study.tune.Tuning`.

        Raises
        ------
        UsageError
            The recipe does not name the model or the input, or there is nothing to tune.
        DataError, StoreError
            As `run`.
        """
        narrow = self.narrowed(model, fusion, templates)
        goal = target(narrow, dataset)
        _looked(narrow, dataset, goal)
        with _own_folder(Path(out), "tuning.sqlite", "search") as folder:
            covered = (folder / NAME).exists()
            (folder / NAME).unlink(missing_ok=True)
            _Run(narrow, dataset, folder, progress, goal).tune()
            if covered:
                seal(folder)
        return read_parquet(folder / "trials.parquet")


def _looked(recipe: Recipe, dataset: Dataset, goal: Target) -> list[leakage.Finding]:
    """Return how much of the label each input tells; refuse those that give it away."""
    found = leakage.look(recipe, dataset, goal)
    leakage.refuse(found, recipe, dataset)
    return found


@contextmanager
def _own_folder(folder: Path, mark: str, what: str) -> Iterator[Path]:
    """Hold a folder, which must be new, empty, or carry the mark of an earlier run."""
    with locked(folder, what), named(folder):
        _check_folder(folder, mark, what)
        yield folder


def _check_folder(folder: Path, mark: str, what: str) -> None:
    if folder.is_file():
        raise UsageError("is a file", remedy="give a folder", path=folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise StoreError(f"is not the folder of a {what}", remedy="give a new folder", path=folder)


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
        self._total = sum(number_of_trials(p, recipe.search) for p in self._searches().values())
        self._versions = {name: version(name) for name in _LIBRARIES}
        self._source = digest(dataset)
        self.fitter = Fitter(
            recipe,
            dataset,
            goal,
            folder,
            source=self._source,
            versions=self._versions,
            tell=self._tell,
        )

    def _searches(self) -> dict[tuple[str, Fusion], ModelPlan]:
        """Return what is fitted fold by fold, by model and input: to tune it, or to choose by it.

        Late fusion reuses what its members found.
        """
        return {
            (name, fusion): plan_
            for name, plan_ in self.recipe.models.items()
            for fusion in self.recipe.fusions_of(name)
            if not is_late(fusion) and (plan_.tuned or self.recipe.choice == "folds")
        }

    def _step(self, what: str) -> None:
        self._done += 1
        self._tell(what)

    def _trial_done(self, search: str, point: str) -> None:
        self._step(f"{search}: {point}")

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)

    def go(self, facts: Mapping[str, Any], looked: Sequence[leakage.Finding]) -> StudyResult:
        self._total += len(self.cells) + 2  # embeddings and report
        self._differing = damaged(self.folder)
        # Until the end they would not be those of the files.
        (self.folder / NAME).unlink(missing_ok=True)
        self._write_header(facts, looked)
        tunings = self.tune()
        for cell in self.cells:
            self._tell(cell.name)
            self.fitter.run(cell, *self._parameters(cell, tunings))
            self._step(cell.name)
        folds = {
            reference(self.recipe, *place).name: float(tuning.trials["score"].max())
            for place, tuning in tunings.items()
        }
        findings = Findings(self.folder, self.recipe, self.dataset, self.goal, self.cells, folds)
        results = findings.results()
        self._write("results.parquet", results)
        self._write("comparisons.parquet", findings.comparisons(results))
        self._write("effects.parquet", findings.effects())
        self._write("coverage.parquet", findings.coverage())
        self._write("binned.parquet", findings.binned())
        for name, table in findings.systems().items():
            self._write(f"{name}.parquet", table)
        self._tell("embeddings")
        self._embed()
        self._step("embeddings")
        self._tell("report")
        report = write_report(self.folder)
        seal(self.folder)
        self._step("report")
        return StudyResult(results, report, leakage.notes(looked, self.recipe))

    def _write(self, name: str, table: pd.DataFrame) -> None:
        with replaced(self.folder / name) as temporary:
            table.to_parquet(temporary, index=False)

    def _write_header(self, facts: Mapping[str, Any], looked: Sequence[leakage.Finding]) -> None:
        write_json(
            self.folder / "study.json",
            {
                "format": FORMAT,
                "recipe": self.recipe.name,
                **facts,
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
        unknown = np.full(len(table), np.nan)
        sigma, magnitude = self.goal.attainable_sigma, self.goal.magnitude
        self._write(
            "objects.parquet",
            pd.DataFrame(
                {
                    "row": np.arange(len(table)),
                    "object_id": table["object_id"].to_numpy(),
                    "part": part,
                    "label": self.goal.names(),
                    "complete": complete(table),
                    "attainable_sigma": unknown if sigma is None else sigma,
                    "magnitude": unknown if magnitude is None else magnitude,
                }
            ),
        )
        data = describe(self.recipe, self.dataset, self.goal)
        write_json(self.folder / "data.json", {**data, "looked": leakage.summary(looked, self.recipe)})

    def tune(self) -> dict[tuple[str, Fusion], Tuning]:
        found: dict[tuple[str, Fusion], Tuning] = {}
        tables = []
        rows = self.goal.rows["train"]
        place = {row: i for i, row in enumerate(rows.tolist())}
        folds = [np.array([place[row] for row in fold.tolist()]) for fold in self.goal.folds]
        for (name, fusion), plan_ in self._searches().items():
            cell = reference(self.recipe, name, fusion)
            search = self.recipe.search
            content = {
                "tune": cell.name,
                **plan_.model_dump(exclude={"fusions"}),
                "method": search.method,
                "scored": search.scored,
                "folds": self.recipe.split.folds,
            }
            what = f"tuning {cell.name}"
            self._tell(what)
            before = self._done
            arrays = self.fitter.feed.inputs(cell.zooms, sigma=MODELS[name].reads_sigma)["train"]
            found[name, fusion] = tune(
                plan_,
                search,
                partial(self.fitter.trial, name, arrays, rows),
                folds,
                primary=PRIMARY[self.recipe.task.kind],
                store=Store(
                    self.folder / "tuning.sqlite",
                    f"{cell.name}-{self.fitter.fingerprint(content, cell)[:16]}",
                ),
                seed=seed_of(self.recipe.seed, what),
                progress=partial(self._trial_done, what),
            )
            self._done = before + len(found[name, fusion].trials)
            if plan_.tuned:
                tables.append(found[name, fusion].trials.assign(model=name, fusion=fusion))
        columns = ["model", "fusion", *COLUMNS, *names_of(self.recipe.task)]
        trials = pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
        self._write("trials.parquet", trials)
        return found

    def _parameters(
        self, cell: Cell, tunings: Mapping[tuple[str, Fusion], Tuning]
    ) -> tuple[dict[str, Any], float]:
        if cell.late:
            return {}, 0.0
        plan_ = self.recipe.models[cell.model]
        tuning = tunings.get((cell.model, cell.fusion))
        if tuning is None:
            return {**plan_.fixed, **first_point(plan_)}, 0.0
        return {**plan_.fixed, **tuning.best}, tuning.seconds

    def _embed(self) -> None:
        wanted = [(name, zoom) for name, zooms in self.recipe.views().items() for zoom in zooms]
        latents = [cell for cell in self.cells if (self.fitter.place(cell) / "latent.parquet").is_file()]
        content = {
            "embeddings": [self.recipe.embeddings.methods, wanted],
            "clusters": self.recipe.clusters,
            "latents": [read_json(self.fitter.place(cell) / "cell.json")["fingerprint"] for cell in latents],
        }
        fingerprint = self.fitter.fingerprint(content)
        mark = self.folder / "embeddings.json"
        tables = (f"{name}.parquet" for name in ("embeddings", "correlations", "clusters"))
        files = tuple(f"{self.folder / name}:" for name in (mark.name, *tables))
        if mark.is_file() and not any(line.startswith(files) for line in self._differing):
            with suppress(StoreError):
                if read_json(mark).get("fingerprint") == fingerprint:
                    return
        points, found, groups = [], [], []
        for name, zoom in wanted:
            inputs = self.fitter.feed.inputs({name: zoom})
            arrays = {part: inputs[part][name] for part in PARTS}
            if not views.spans(arrays["train"]):
                continue
            place = {"input": name, "zoom": zoom}
            for method in self.recipe.embeddings.methods:
                what = f"{method} of {name} at zoom {zoom}"
                self._tell(what)
                xy = views.embed(arrays, method=method, seed=seed_of(self.recipe.seed, what))
                for part, rows in self.goal.rows.items():
                    where = {"row": rows, "part": part, "x": xy[part][:, 0], "y": xy[part][:, 1]}
                    points.append(pd.DataFrame({"method": method, **place, **where}))
                if not self.goal.classes:
                    labels = {part: self.goal.label[rows] for part, rows in self.goal.rows.items()}
                    found.append({"method": method, **place, **views.correlations(xy, labels)})
            groups.append(self._clusters("inputs", name, zoom, arrays))
        for cell in latents:
            table = read_parquet(self.fitter.place(cell) / "latent.parquet")
            names = [name for name in map(str, table) if name not in ("row", "part", "label")]
            values = {part: table.loc[table["part"] == part, names].to_numpy(np.float32) for part in PARTS}
            ((name, zoom),) = cell.zooms.items()
            if views.spans(values["train"]):
                groups.append(self._clusters(cell.name, name, zoom, values))
        columns = ["method", "input", "zoom", "row", "part", "x", "y"]
        self._write("embeddings.parquet", _joined(points, columns))
        self._write("correlations.parquet", pd.DataFrame(found))
        self._write("clusters.parquet", _joined(groups, ["source", "input", "zoom", *views.CLUSTER_COLUMNS]))
        write_json(mark, {"fingerprint": fingerprint})

    def _clusters(self, source: str, name: str, zoom: int, arrays: Arrays) -> pd.DataFrame:
        """Return the clusters of some inputs against the labels; empty where the recipe wants none."""
        if not self.recipe.clusters:
            return pd.DataFrame()
        what = f"clusters of {source}, {name} at zoom {zoom}"
        self._tell(what)
        labels = {part: self.goal.names(rows) for part, rows in self.goal.rows.items()}
        seed = seed_of(self.recipe.seed, what)
        table = views.clusters(arrays, labels, number=self.recipe.clusters, seed=seed)
        return table.assign(source=source, input=name, zoom=zoom)


def _joined(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return (
        pd.concat(filled, ignore_index=True)[list(columns)] if filled else pd.DataFrame(columns=list(columns))
    )
