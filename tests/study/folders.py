"""Study folders as a finished run leaves them, made up: the report is tested without fitting anything."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse.recipe import Recipe
from skyfuse.study.metrics import PRIMARY, names_of

CLASSES = ("galaxy", "qso", "star")
SPLIT = {"train": 120, "valid": 20, "calibration": 20, "test": 60}
WAVELENGTH = np.linspace(4000.0, 9000.0, 64)


def recipe(kind: str, *, rounds: int = 1, **fields) -> Recipe:
    """A recipe of some kind with a table and spectra, two models and a leaking column."""
    task = {
        "regression": {"label": "z", "title": "redshift", "redshift": True, "magnitude": "mag_r"},
        "classification": {
            "label": "class",
            "title": "class",
            "classes": {name: [name] for name in CLASSES},
            "forbidden": {"plate": "the <plate> was chosen by class"},
        },
        "reconstruction": {"label": "class", "title": "class"},
    }[kind]
    content = {
        "name": "made-up",
        "title": "A made-up study",
        "shows": "That <tags> stay text.",
        "task": {"kind": kind, "definition": "What somebody wrote down", **task},
        "modalities": ["spectrum"] if kind == "reconstruction" else ["spectrum", "table"],
        "columns": ["u-g", "plate"] if kind == "classification" else ["u-g"],
        "leaking": ["plate"] if kind == "classification" else [],
        "reference": {"spectrum": 2},
        "zooms": {"spectrum": [2, 3]},
        "models": {
            "regression": {
                "tree": {"grid": {"max_depth": [2, 4]}},
                "feed-forward": {"fixed": {"max_epochs": 9}},
            },
            "classification": {
                "forest": {
                    "space": {
                        "min_samples_leaf": {"low": 1, "high": 100, "log": True},
                        "criterion": {"choices": ["gini", "entropy"]},
                    }
                },
                "logistic": {},
            },
            "reconstruction": {"autoencoder": {"fixed": {"latent": 4}}, "pca": {"fixed": {"latent": 4}}},
        }[kind],
        "search": {"method": "bayesian" if kind == "classification" else "grid", "trials": 12},
        "split": {"rounds": rounds},
        "bootstrap": 1000,
        "seed": 5,
        "source": "Somebody (1999).",
        "flaws": [{"what": "tiny <pixels>", "avoided": "never done"}],
        "published": [
            {
                "model": "tree",
                "fusion": "early",
                "scores": {PRIMARY[kind]: 0.123},
                "data": "77 objects",
                "split": "50/50",
            }
        ],
        **fields,
    }
    if "table" not in content["modalities"]:
        content["columns"] = []
    if rounds > 1:
        # No part is left for tuning that no round tests.
        content["models"] = {name: {} for name in content["models"]}
    if len(content["modalities"]) > 1:
        content["fusions"] = ["spectrum", "table", "early", "late-weighted"]
    return Recipe.model_validate(content)


def write_folder(path: Path, kind: str, *, rounds: int = 1, seed: int = 0, **fields) -> Path:
    """Write the folder of a finished study of some kind: numbers from a seed, in the layout of a run."""
    return _Folder(path, recipe(kind, rounds=rounds, **fields), np.random.default_rng(seed)).write()


class _Folder:
    def __init__(self, path: Path, recipe: Recipe, rng: np.random.Generator) -> None:
        self.path, self.recipe, self.rng = path, recipe, rng
        self.kind = recipe.task.kind
        self.classes = list(recipe.task.classes)
        n = sum(SPLIT.values())
        part = np.repeat(list(SPLIT), list(SPLIT.values()))
        label = {
            "regression": rng.uniform(0, 0.6, n),
            "classification": rng.choice(CLASSES, n, p=[0.6, 0.25, 0.15]),
            "reconstruction": rng.choice(CLASSES, n),
        }[self.kind]
        self.objects = pd.DataFrame(
            {
                "row": np.arange(n),
                "object_id": [f"J{i:04d}" for i in range(n)],
                "part": part,
                "label": label,
                "complete": rng.random(n) < 0.5,
                "attainable_sigma": np.nan,
                "magnitude": rng.uniform(15, 20, n),
            }
        )

    def write(self) -> Path:
        (self.path / "cells").mkdir(parents=True)
        rows = [self._cell(*place) for place in self._plan()]
        results = pd.DataFrame(rows)
        for column in ("spectrum_zoom", "size", "parameters_count"):
            results[column] = results[column].astype("Int64")
        tables = {
            "objects": self.objects,
            "results": results,
            "trials": self._trials(),
            "comparisons": self._comparisons(results),
            "effects": pd.DataFrame(),
            "embeddings": self._embeddings(),
            "correlations": self._correlations(),
            "coverage": self._coverage(results),
        }
        if self.recipe.task.redshift:
            tables["binned"] = self._binned(results)
        if self.kind == "classification":
            tables["clusters"] = self._clusters()
        for name, table in tables.items():
            table.to_parquet(self.path / f"{name}.parquet", index=False)
        (self.path / "recipe.yaml").write_text(self.recipe.to_yaml())
        self._json("study", self._header())
        self._json("data", self._data())
        return self.path

    def _json(self, name: str, content: dict) -> None:
        (self.path / f"{name}.json").write_text(json.dumps(content))

    def _plan(self):
        """Model, input, role, change, size of each cell."""
        for model in self.recipe.models:
            for fusion in self.recipe.fusions_of(model):
                yield model, fusion, "reference", None, None
            yield model, "spectrum", "resolution", None, None
            if self.recipe.leaking:
                yield model, "early", "leak", "with-leaks", None
        if self.kind == "regression":
            for size in (30, 60):
                yield "tree", "early", "size", None, size

    def _cell(self, model, fusion, role, change, size):
        zoom = None if fusion == "table" else 3 if role == "resolution" else 2
        name = "-".join(str(s) for s in (model, fusion, zoom, change, size) if s is not None)
        n = {**SPLIT, "train": size or SPLIT["train"]}
        if self.recipe.split.rounds > 1:
            n["test"] = len(self.objects)
        metrics = list(names_of(self.recipe.task))
        shift = 0.02 * list(self.recipe.models).index(model)
        row = {
            "cell": name,
            "model": model,
            "fusion": fusion,
            "spectrum_zoom": zoom,
            "role": role,
            "change": change,
            "size": size,
            "parameters": json.dumps({"max_depth": 4}),
            **{f"n_{part}": count for part, count in n.items()},
            **{
                f"{p}_{m}": self.rng.uniform(0.7, 0.8) + shift
                for p in ("train", "valid", "calibration", "test")
                for m in metrics
            },
        }
        row["choice"] = row[f"calibration_{PRIMARY[self.kind]}"]
        for metric in metrics:
            row[f"test_{metric}_low"] = row[f"test_{metric}"] - 0.031
            row[f"test_{metric}_high"] = row[f"test_{metric}"] + 0.029
        known = self.kind == "regression"
        row |= {"attainable_r2": 0.97, "attainable_mae": 0.011} if known else {"attainable_r2": np.nan}
        row |= {"distance": 0.2, "distance_low": 0.1, "distance_high": 0.3}
        row |= {"coverage": 0.9, "coverage_low": 0.85, "coverage_high": 0.94, "width": 1.3}
        network = model in ("feed-forward", "autoencoder")
        row |= {"iterations": 6 if network else 1, "best_iteration": 4 if network else 0}
        row["parameters_count"] = 69_123 if network else None
        row |= {"train_seconds": 2.0, "inference_seconds": 0.01, "tune_seconds": 0.0}
        folder = self.path / "cells" / name
        folder.mkdir()
        valid = np.linspace(1, 0.4, row["iterations"])
        history = {"train": (valid - 0.1).tolist(), "valid": valid.tolist(), "best": row["best_iteration"]}
        note = {"history": {**history, "metric": "RMSE"}, "rounds": self.recipe.split.rounds}
        if fusion == "late-weighted":
            note["weights"] = [0.75, 0.25]
        (folder / "cell.json").write_text(json.dumps(note))
        self._predictions().to_parquet(folder / "predictions.parquet", index=False)
        if role == "reference":
            self._beside(folder)
        return row

    def _predictions(self) -> pd.DataFrame:
        table = self.objects[["row", "part", "label"]].assign(round=0)
        if self.recipe.split.rounds > 1:
            every = table.assign(part="test", round=np.arange(len(table)) % self.recipe.split.rounds)
            table = pd.concat([table[table["part"] != "test"], every], ignore_index=True)
        n = len(table)
        covered = pd.Series(self.rng.random(n) < 0.9, dtype=object)
        covered[table["part"].isin(["train", "valid"])] = None
        if self.kind == "regression":
            value = table["label"] + 0.03 * self.rng.normal(size=n)
            return table.assign(prediction=value, covered=covered, low=value - 0.05, high=value + 0.05)
        if self.kind == "reconstruction":
            return table.assign(prediction=self.rng.lognormal(size=n))
        truth = np.array([CLASSES.index(name) for name in table["label"]])
        logit = 2.5 * np.eye(3)[truth] + self.rng.normal(size=(n, 3))
        p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
        return table.assign(
            prediction=np.array(CLASSES)[p.argmax(axis=1)],
            covered=covered,
            **{f"p_{name}": p[:, i] for i, name in enumerate(CLASSES)},
            set_size=1,
            unknown=np.arange(n) % 20 == 0,
        )

    def _beside(self, folder: Path) -> None:
        """What only some kinds of cell have: pictures of objects, latent values, reconstructions."""
        if self.kind == "classification":
            table = self._predictions()
            table = table[table["part"] == "test"].head(40)
            wave = [np.sin(WAVELENGTH / 300) + 0.2 * self.rng.normal(size=64) for _ in range(len(table))]
            pd.DataFrame(
                {
                    "row": table["row"],
                    "label": table["label"],
                    "prediction": table["prediction"],
                    "probability": 0.9,
                    "image": None,
                    "spectrum": wave,
                }
            ).to_parquet(folder / "gallery.parquet", index=False)
        if self.kind == "reconstruction":
            n = len(self.objects)
            latent = self.rng.normal(size=(n, 4)) + 2 * (self.objects["label"] == "qso").to_numpy()[:, None]
            columns = {f"l{i}": latent[:, i] for i in range(4)}
            self.objects[["row", "part"]].assign(**columns).to_parquet(folder / "latent.parquet", index=False)
            test = self.objects[self.objects["part"] == "test"].head(9)
            true = [np.cos(WAVELENGTH / 400 + i) for i in range(len(test))]
            test[["row", "label"]].assign(
                error=np.arange(len(test)) / 10,
                input=[t + 0.1 * self.rng.normal(size=64) for t in true],
                output=true,
            ).to_parquet(folder / "examples.parquet", index=False)

    def _trials(self) -> pd.DataFrame:
        rows = []
        for model, plan in self.recipe.models.items():
            if not plan.tuned:
                continue
            for fusion in ("spectrum", "early"):
                points = [{"max_depth": d} for d in plan.grid.get("max_depth", [])] or [
                    {"min_samples_leaf": int(10 ** (i / 6)), "criterion": ("gini", "entropy")[i % 2]}
                    for i in range(12)
                ]
                for number, point in enumerate(points):
                    rows.append(
                        {
                            "model": model,
                            "fusion": fusion,
                            "number": number,
                            "parameters": json.dumps(point),
                            "folds": 5,
                            **dict.fromkeys(names_of(self.recipe.task), 0.5 + 0.01 * number),
                            "score": 0.5 + 0.01 * number,
                            "score_std": 0.02,
                            "chosen": number == len(points) - 1,
                            "seconds": 1.5,
                        }
                    )
        columns = [
            "model",
            "fusion",
            "number",
            "parameters",
            "folds",
            "score",
            "score_std",
            "chosen",
            "seconds",
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)

    def _comparisons(self, results: pd.DataFrame) -> pd.DataFrame:
        primary = PRIMARY[self.kind]
        cells = {(r.model, r.fusion, r.role): r.cell for r in results.itertuples()}
        first, second = [*self.recipe.models, *self.recipe.models][:2]
        rows = []

        def add(kind, model, fusion, a, b, *, chosen=False, change=None, difference=0.05):
            ends = {"difference": difference, "low": difference - 0.04, "high": difference + 0.04}
            place = {"kind": kind, "model": model, "fusion": fusion, "a": a, "b": b, "metric": primary}
            rows.append({**place, **ends, "chosen": chosen, "change": change})

        for fusion in self.recipe.fusions:
            pair = (cells[first, fusion, "reference"], cells[second, fusion, "reference"])
            add("models", f"{first} - {second}", fusion, *pair)
        if len(self.recipe.modalities) > 1:
            for model in self.recipe.models:
                early, spectrum = (cells[model, f, "reference"] for f in ("early", "spectrum"))
                add("fusion", model, "early", early, spectrum, chosen=True)
                add("single", model, "early", early, cells[model, "table", "reference"], difference=0.02)
                if self.kind == "classification":
                    leaky = cells[model, "early", "leak"]
                    add("leak", model, "early", leaky, early, difference=0.111)
                    add("fusion", model, "early", leaky, spectrum, change="with-leaks", difference=0.161)
        return pd.DataFrame(rows)

    def _embeddings(self) -> pd.DataFrame:
        xy = self.rng.normal(size=(len(self.objects), 2))
        place = {"method": "pca", "input": "spectrum", "zoom": 2}
        return self.objects[["row", "part"]].assign(**place, x=xy[:, 0], y=xy[:, 1])

    def _correlations(self) -> pd.DataFrame:
        columns = ["method", "input", "zoom", "rho_x", "rho_y", "held_x", "held_y"]
        rows = [("pca", "spectrum", 2, 0.5, -0.25, 0.4, -0.2)] if self.kind == "regression" else []
        return pd.DataFrame(rows, columns=columns)

    def _coverage(self, results: pd.DataFrame) -> pd.DataFrame:
        columns = ["cell", "by", "group", "n", "coverage", "low", "high", "width"]
        if self.kind == "reconstruction":
            return pd.DataFrame(columns=columns)
        groups = [("overall", "all")]
        groups += [("class", name) for name in self.classes] or [("label", "0.0–0.3"), ("label", "0.3–0.6")]
        groups += [("magnitude", "15–18"), ("magnitude", "18–20")]
        rows = [
            (cell, by, group, 20, 0.9, 0.8, 0.95, 1.2) for cell in results["cell"] for by, group in groups
        ]
        return pd.DataFrame(rows, columns=columns)

    def _binned(self, results: pd.DataFrame) -> pd.DataFrame:
        rows = [
            (cell, by, low, low + step, 12, 0.001, 0.02, 0.05)
            for cell in results["cell"]
            for by, start, step in (("magnitude", 15.0, 1.0), ("redshift", 0.0, 0.1))
            for low in start + step * np.arange(5)
        ]
        columns = ["cell", "by", "low", "high", "n", "bias", "sigma_nmad", "outliers"]
        return pd.DataFrame(rows, columns=columns)

    def _clusters(self) -> pd.DataFrame:
        place = {"source": "inputs", "input": "spectrum", "zoom": 2}
        agreement = {"adjusted_rand": 0.42, "mutual_information": 0.4}
        rows = [
            {**place, "cluster": c, "group": name, "n": 10 * (c == i) + 1, **agreement}
            for c in range(3)
            for i, name in enumerate(CLASSES)
        ]
        return pd.DataFrame(rows)

    def _header(self) -> dict:
        return {
            "format": 3,
            "recipe": self.recipe.name,
            "variant": None,
            "data": "mock",
            "quick": False,
            "seed": 5,
            "dataset": {"record": "cd" * 32, "split": "ab" * 32},
            "versions": {"skyfuse": "0.1", "numpy": "2"},
            "python": "3.11",
            "machine": "x",
            "system": "y",
        }

    def _data(self) -> dict:
        labels = self.objects["label"]
        wave = WAVELENGTH.tolist()
        data = {
            "kind": self.kind,
            "classes": self.classes,
            "counts": {name: int((labels == name).sum()) for name in self.classes},
            "funnel": [
                {"name": "rows", "count": 300, "applied": True},
                {"name": "complete", "count": 100, "applied": False},
                {"name": "used", "count": 220, "applied": True},
            ],
            "parts": SPLIT,
            "rounds": self.recipe.split.rounds,
            "looked": {
                "level": 0.97,
                "inputs": [
                    {"input": "plate", "score": 0.98, "allowed": True},
                    {"input": "u-g", "score": 0.4, "allowed": False},
                ],
            },
            "guard": [
                {"column": name, "reason": reason, "used": name in self.recipe.leaking}
                for name, reason in self.recipe.task.forbidden.items()
            ],
            "nan": [],
            "multi": None,
            "wavelength": {"spectrum": {"2": wave}},
        }
        if self.recipe.task.redshift:
            edges = np.linspace(0, 0.6, 7)
            data["mean_spectra"] = {
                "wavelength": wave,
                "unit": "Å",
                "ranges": [
                    {"low": a, "high": b, "n": 20, "mean": np.cos(WAVELENGTH / 500 + a).tolist()}
                    for a, b in pairwise(edges)
                ],
            }
        return data
