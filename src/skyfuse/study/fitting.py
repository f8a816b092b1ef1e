"""Fit one cell: each of its rounds is fitted, calibrated, tested and kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.checksums import damaged, seal
from skyfuse.disk import json_sha256, read_json, read_parquet, write_json
from skyfuse.errors import StoreError
from skyfuse.models.applicability import Applicability
from skyfuse.models.base import Examples, History, Model, said
from skyfuse.models.files import load_model
from skyfuse.models.fusion import LateFusion
from skyfuse.models.inputs import Arrays
from skyfuse.models.registry import MODELS
from skyfuse.models.rounds import Rounds
from skyfuse.models.shift import Evidence
from skyfuse.models.summaries import summarise
from skyfuse.recipe import Recipe
from skyfuse.study.cells import Cell, members, seed_of
from skyfuse.study.feed import Feed, Lot
from skyfuse.study.joining import Kept, joined, keep, told_of
from skyfuse.study.joining import predictions as joined_predictions
from skyfuse.study.metrics import Outcome
from skyfuse.study.predictions import baseline_of, frame, outcome
from skyfuse.study.results import EXAMPLES, gallery
from skyfuse.study.tasks import Target, card_inputs
from skyfuse.study.tune import Fold, take
from skyfuse.words import PARTS

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

FORMAT = 6
"""Version of a study's folder."""

_POOLED = ("calibration", "test")
"""Parts that are predicted in every round and scored over all at once; others in the first round alone."""


class Fitter:
    """Fits the cells of a study into its folder.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
    goal : Target
    folder : Path
        Folder of the study.
    source : dict of str to str
        Hashes that name the data, see `skyfuse.study.tasks.digest`.
    versions : dict of str to str
        Versions of the libraries.
    tell : callable
        Called with what is being done.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        goal: Target,
        folder: Path,
        *,
        source: dict[str, str],
        versions: dict[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.goal = goal
        self.folder = folder
        self.feed = Feed(recipe, dataset, goal)
        self._kinds = {name: one.kind for name, one in recipe.inputs.items()}
        self._source = source
        self._versions = versions
        self._tell = tell

    def fingerprint(self, content: Mapping[str, Any], cell: Cell | None = None) -> str:
        """Return a hash of all that a result follows from; without a cell, of what reads all inputs."""
        read = self.recipe.inputs if cell is None else cell.zooms
        kinds = {self.recipe.inputs[name].kind for name in read}
        columns = self.feed.columns(None if cell is None else cell.change)
        whole = {
            **content,
            "format": FORMAT,
            "task": self.recipe.task.model_dump(mode="json", exclude={"title", "unit", "definition"}),
            "balance": self.recipe.balance,
            "columns": columns if "table" in kinds else [],
            "smooth": self.recipe.smooth if "spectrum" in kinds else 0,
            "data": self._source,
            "versions": self._versions,
            "seed": self.recipe.seed,
        }
        return json_sha256(whole)

    def _fit(
        self,
        model: Model,
        train: Examples,
        valid: Examples,
        *,
        seed: int,
        change: str | None = None,
        **options: Any,
    ) -> History:
        """Fit a model for the task, its classes balanced as the recipe says; return its history."""
        kind = self.recipe.task.kind
        if kind == "reconstruction":
            parts = Examples(train.x), Examples(valid.x)
            return model.fit(*parts, seed=seed, kind=kind, inputs=self._kinds, **options)
        reads_table = any(self._kinds.get(name) == "table" for name in train.x)
        model.mirror = self.goal.mirror(self.feed.columns(change) if reads_table else ())
        if kind == "classification" and not isinstance(model, LateFusion):
            train = Examples(*self.feed.balanced(train.x, np.asarray(train.y), seed))
        elif not model.weighs or isinstance(model, LateFusion):
            train = Examples(train.x, train.y)
        return model.fit(
            train,
            valid,
            seed=seed,
            kind=kind,
            inputs=self._kinds,
            classes=self.goal.classes if kind == "classification" else (),
            **options,
        )

    def _baseline(self, train: Arrays, x: Arrays) -> NDArray[np.float64] | None:
        return baseline_of(train, x) if self.recipe.task.kind == "reconstruction" else None

    def _outcome(self, table: pd.DataFrame) -> Outcome:
        return outcome(table, self.recipe.task, self.goal.classes)

    def trial(
        self,
        name: str,
        arrays: Arrays,
        rows: NDArray[np.int64],
        parameters: dict[str, Any],
        fold: Fold,
        seed: int,
    ) -> dict[str, float | None]:
        """Return the scores of one fit inside the training part, see `skyfuse.study.tune.Judge`."""
        model = MODELS[name](**parameters)
        y = self.goal.learned(0)[rows]
        x = take(arrays, fold.train)
        train = Examples(x, y[fold.train], self.goal.weight(0, rows[fold.train]))
        self._fit(model, train, Examples(take(arrays, fold.stop), y[fold.stop]), seed=seed)
        shown = take(arrays, fold.held)
        table = frame(self.goal, rows[fold.held], "train", 0, model.predict(shown), self._baseline(x, shown))
        return self._outcome(table).score()

    def run(self, cell: Cell, parameters: dict[str, Any], tune_seconds: float) -> None:
        """Fit a cell unless it is there already; its members must be.

        Parameters
        ----------
        cell : Cell
        parameters : dict
            Of its model; those of a late fusion follow from the cell.
        tune_seconds : float
            What finding them has cost.
        """
        parts = members(self.recipe, cell) if cell.late else []
        notes = [read_json(self.place(part) / "cell.json") for part in parts]
        if cell.late:
            parameters = {"rule": cell.fusion.removeprefix("late-")}
            tune_seconds = sum(note["seconds"]["tune"] for note in notes)
        content = {
            "cell": asdict(cell),
            "parameters": content_of(parameters),
            "members": [note["fingerprint"] for note in notes],
        }
        fingerprint = self.fingerprint(content, cell)
        final = self.place(cell)
        if (final / "cell.json").is_file() and not damaged(final):
            # A damaged cell is fitted again.
            with suppress(StoreError):
                if read_json(final / "cell.json").get("fingerprint") == fingerprint:
                    return
        growing = self._growing(cell, fingerprint)
        rounds = [growing / "rounds" / str(number) for number in range(len(self.goal.rounds))]
        for number, folder in enumerate(rounds):
            if not _is_done(folder, self._joins):
                self._run_round(cell, parts, parameters, number, growing)
        model = None
        if self._joins:
            columns = self.feed.columns(cell.change)
            model = joined(rounds, self.recipe.task.level, lambda rows: self._others(rows, columns))
            predictions = joined_predictions(model, rounds, self.goal)
        else:
            tables = [read_parquet(folder / "predictions.parquet") for folder in rounds]
            predictions = pd.concat(tables, ignore_index=True)
        predictions.to_parquet(growing / "predictions.parquet", index=False)
        seen = self.recipe.task.kind == "classification" and bool(self.dataset.zooms)
        if cell.role == "reference" and seen:
            test = predictions[predictions["part"] == "test"]
            shown = gallery(self.dataset, test, seed_of(self.recipe.seed, f"gallery {cell.name}"))
            shown.to_parquet(growing / "gallery.parquet", index=False)
        facts = [read_json(folder / "round.json") for folder in rounds]
        note = self._note(cell, facts, predictions)
        # What a late fusion costs is its members' training; its own is a weighted mean.
        note["seconds"]["train"] += sum(part["seconds"]["train"] for part in notes)
        note["seconds"]["tune"] = tune_seconds
        self._settle(model, note["metrics"], growing, rounds)
        write_json(growing / "cell.json", {"fingerprint": fingerprint, "parameters": parameters, **note})
        seal(growing)
        shutil.rmtree(final, ignore_errors=True)
        growing.rename(final)

    def _note(self, cell: Cell, facts: Sequence[dict[str, Any]], predictions: pd.DataFrame) -> dict[str, Any]:
        """Return what its rounds together tell of a cell."""
        first = facts[0]
        metrics, undefined = first["metrics"], first["undefined"]
        for part in _POOLED:
            found = self._outcome(predictions[predictions["part"] == part])
            metrics[part] = found.score()
            undefined |= {part: reason} if (reason := found.undefined()) else {}
        note = {
            "cell": asdict(cell),
            "seed": seed_of(self.recipe.seed, cell.name),
            "rounds": len(facts),
            "classes": list(self.goal.classes),
            "n": {**first["n"], "test": int((predictions["part"] == "test").sum())},
            "metrics": metrics,
            "undefined": undefined,
            "history": first["history"],
            "parameters_count": first["parameters_count"],
            "seconds": {
                what: sum(fact["seconds"][what] for fact in facts) for what in ("train", "inference")
            },
        }
        return {**note, "weights": first["weights"]} if cell.late else note

    def _run_round(
        self, cell: Cell, parts: Sequence[Cell], parameters: dict[str, Any], number: int, growing: Path
    ) -> None:
        """Fit, calibrate and test one cell in one round; ``round.json`` is written last."""
        own = growing / "rounds" / str(number)
        suffix = f"-round{number}" if number else ""
        seed = seed_of(self.recipe.seed, cell.name + suffix)
        model: Any
        if cell.late:
            model = LateFusion([self._fitted(part, number) for part in parts], **parameters)
            sigma = any(MODELS[part.model].reads_sigma for part in parts)
        else:
            model = MODELS[cell.model](**parameters)
            sigma = model.reads_sigma
        lot = self.feed.lot(cell, number, seed=seed, sigma=sigma)
        started = time.perf_counter()
        history = self._fit(
            model,
            Examples(lot.inputs["train"], lot.labels["train"], lot.weight),
            Examples(lot.inputs["valid"], lot.labels["valid"]),
            seed=seed,
            change=cell.change,
            folder=own / "training",
            progress=lambda done, total, what: self._tell(f"{cell.name}: {what}"),
        )
        train_seconds = time.perf_counter() - started
        if self.recipe.task.kind != "reconstruction":
            model.calibrate(
                lot.inputs["calibration"],
                lot.labels["calibration"],
                level=self.recipe.task.level,
                beside=Examples(lot.inputs["valid"], lot.labels["valid"]),
            )
        tables, inference_seconds = self._tested(model, lot, number, own)
        found = {part: self._outcome(table) for part, table in tables.items() if part != "calibration"}
        metrics = {part: outcome.score() for part, outcome in found.items()}
        self._fill_card(model, cell, lot, metrics)
        model.save(own / "model")
        if self.recipe.task.kind == "reconstruction" and number == 0:
            self._reconstructions(model, lot, tables, growing)
        pd.concat(list(tables.values()), ignore_index=True).to_parquet(
            own / "predictions.parquet", index=False
        )
        shutil.rmtree(own / "training", ignore_errors=True)
        fact = {
            "n": {part: len(rows) for part, rows in lot.rows.items()},
            "metrics": {part: scores for part, scores in metrics.items() if part != "test"},
            "undefined": {
                part: reason
                for part, outcome in found.items()
                if part != "test" and (reason := outcome.undefined())
            },
            "history": {**history, "best": int(history["best"])},
            "parameters_count": getattr(model, "parameter_count", None),
            "seconds": {"train": train_seconds, "inference": inference_seconds},
        }
        if cell.late:
            fact["weights"] = [float(weight) for weight in model.mix]
        write_json(own / "round.json", fact)

    def _tested(
        self, model: Model, lot: Lot, number: int, own: Path
    ) -> tuple[dict[str, pd.DataFrame], float]:
        """Return the predictions of each part that a round predicts, and what those of the test part took.

        What is needed to join the rounds is kept.
        """
        tables, told = {}, {}
        for part in PARTS if number == 0 else _POOLED:
            started = time.perf_counter()
            if self._joins:
                told[part] = told_of(model, model._inside(lot.inputs[part]))
                prediction = said(told[part].output, model.classes)
            else:
                prediction = model.predict(lot.inputs[part])
            seconds = time.perf_counter() - started
            baseline = self._baseline(lot.inputs["train"], lot.inputs[part])
            tables[part] = frame(self.goal, lot.rows[part], part, number, prediction, baseline)
        if self._joins:
            keep(own, told, {part: model._inside(x) for part, x in lot.inputs.items()}, lot.rows)
        return tables, seconds

    def _fill_card(
        self, model: Model, cell: Cell, lot: Lot, metrics: Mapping[str, dict[str, float | None]]
    ) -> None:
        """Tell in the model's card what it learned from, and how well it does in each part."""
        task = self.recipe.task
        columns = self.feed.columns(cell.change)
        inputs = card_inputs(self.dataset, cell.zooms, columns, self.recipe.smooth)
        training = summarise(lot.inputs["train"], inputs.get("columns", ()), model.inputs)
        model.applicability = Applicability.fit(training)
        if model.interval is not None:
            others = self._others(lot.rows["calibration"], columns)
            model.evidence = Evidence.of(model, lot.inputs["calibration"], lot.labels["calibration"], others)
        model.card.update(
            label={"name": task.label, "unit": task.unit, "definition": task.definition},
            inputs=inputs,
            split=self._source["split"],
            metrics={f"{part}_{name}": value for part in metrics for name, value in metrics[part].items()},
        )

    def _others(self, rows: NDArray[np.int64], columns: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return what the table tells of some rows besides label, inputs and what is forbidden."""
        table = self.dataset.table.iloc[rows]
        apart = {self.recipe.task.label, *columns}
        return {
            name: table[name].to_numpy(np.float64, na_value=np.nan)
            for name in map(str, table.columns)
            if name not in apart
            and pd.api.types.is_numeric_dtype(table[name])
            and self.recipe.forbids(name) is None
        }

    def _reconstructions(
        self, model: Any, lot: Lot, tables: Mapping[str, pd.DataFrame], growing: Path
    ) -> None:
        """Write the latent values of all objects, and test objects with their reconstructions."""
        latent = []
        for part in PARTS:
            values = np.asarray(model.encode(lot.inputs[part]))
            table = pd.DataFrame(values, columns=[f"l{i}" for i in range(values.shape[1])])
            latent.append(tables[part][["row", "part", "label"]].join(table))
        pd.concat(latent, ignore_index=True).to_parquet(growing / "latent.parquet", index=False)
        test = tables["test"]
        # Spread from the plainest to the oddest spectrum: all models show the same objects, best first.
        order = np.argsort(test["baseline"].to_numpy(), kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).astype(int))]
        chosen = chosen[np.argsort(test["prediction"].to_numpy()[chosen], kind="stable")]
        x = take(lot.inputs["test"], chosen)
        shown = test.iloc[chosen][["row", "label"]].assign(error=test["prediction"].to_numpy()[chosen])
        (name,) = model.inputs
        shown["input"], shown["output"] = list(x[name]), list(model.reconstruct(x))
        shown.to_parquet(growing / "examples.parquet", index=False)

    def _settle(
        self, model: Rounds | None, metrics: Mapping[str, Any], growing: Path, rounds: Sequence[Path]
    ) -> None:
        """Keep the model of all rounds, or the only one."""
        if model is not None:
            told = {f"{part}_{name}": value for part in metrics for name, value in metrics[part].items()}
            first = model.members[0].card
            model.card.update({key: first[key] for key in ("label", "inputs", "split")}, metrics=told)
            model.save(growing / "model")
        elif (rounds[0] / "model").is_dir():
            (rounds[0] / "model").rename(growing / "model")
        shutil.rmtree(growing / "rounds")
        (growing / "fingerprint").unlink()

    @property
    def _joins(self) -> bool:
        """Whether there are rounds whose models become one; those of reconstructions have no mean."""
        return len(self.goal.rounds) > 1 and self.recipe.task.kind != "reconstruction"

    def _fitted(self, cell: Cell, number: int) -> Model:
        model = self.place(cell) / "model"
        return load_model(model / f"member-{number}" if self._joins else model)

    def place(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.folder / "cells" / cell.name

    def _growing(self, cell: Cell, fingerprint: str) -> Path:
        """Return where a cell grows; finished rounds and half-trained networks of one fingerprint stay."""
        growing = self.folder / "cells" / f".{cell.name}.partial"
        mark = growing / "fingerprint"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint:
            shutil.rmtree(growing, ignore_errors=True)
            growing.mkdir(parents=True)
            mark.write_text(fingerprint, encoding="utf-8")
        for number in range(len(self.goal.rounds)):
            (growing / "rounds" / str(number) / "training").mkdir(parents=True, exist_ok=True)
        return growing


def _is_done(folder: Path, joins: bool) -> bool:
    """Tell whether a round has ended and its results can be read; a damaged one is fitted again."""
    if not (folder / "round.json").is_file():
        return False
    try:
        read_json(folder / "round.json")
        read_parquet(folder / "predictions.parquet")
        if joins:
            Kept(folder)
    except (StoreError, OSError, ValueError):
        return False
    return not (joins and damaged(folder / "model"))


def content_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as they decide a result: a folder of templates by what its files hold."""
    if not parameters.get("templates"):
        return parameters
    sha = hashlib.sha256()
    for path in sorted(Path(parameters["templates"]).glob("*.fit*")):
        sha.update(path.name.encode() + path.read_bytes())
    return {**parameters, "templates": sha.hexdigest()}
