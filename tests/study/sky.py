"""A small dataset in memory with the face of `skyfuse.dataset.Dataset`, and a recipe that fits it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from skyfuse.dataset.content import cut
from skyfuse.dataset.quality import MultiObjectCheck, NanStudy, multi_object_check, nan_study
from skyfuse.dataset.select import Funnel, Step
from skyfuse.recipe import Recipe


class SmallSky:
    """Objects whose label shows half in the image and half in the spectrum.

    The class tells whether the label is low, middle or high; the columns `shape` and `line` show each half,
    `leak` shows the label itself.
    """

    def __init__(self, path, n=240, seed=0, rounds=1):
        rng = np.random.default_rng(seed)
        self.path = path
        part, rest = rng.normal(size=n), rng.normal(size=n)
        label = part + rest + 0.2 * rng.normal(size=n)
        pattern = rng.normal(size=(5, 8, 8)).astype(np.float32)
        image = part[:, None, None, None] * pattern + 0.1 * rng.normal(size=(n, 5, 8, 8))
        line = np.exp(-0.5 * ((np.arange(40) - 20) / 2) ** 2)
        spectrum = rest[:, None] * line + 0.1 * rng.normal(size=(n, 40))
        image, spectrum = image.astype(np.float32), spectrum.astype(np.float32)
        spectrum[rng.random(n) < 0.5, 3:6] = np.nan
        image[0, 2] = np.nan
        self._arrays = {
            ("image", 3): image,
            ("image", 4): image.reshape(n, 5, 4, 2, 4, 2).mean(axis=(3, 5)),
            ("spectrum", 3): spectrum,
            ("spectrum", 4): spectrum.reshape(n, 20, 2).mean(axis=2),
        }
        self.zooms = {"image": (3, 4), "spectrum": (3, 4)}
        self.table = pd.DataFrame(
            {
                "object_id": [f"J{i:04d}" for i in range(n)],
                "plate": 266,
                "mjd": 51602,
                "fiberid": np.arange(n),
                "AVG": label,
                "kind": np.array(["low", "middle", "high"])[np.digitize(label, [-0.6, 0.6])],
                "shape": part + 0.3 * rng.normal(size=n),
                "line": rest + 0.3 * rng.normal(size=n),
                "leak": label + 0.01 * rng.normal(size=n),
                "group": np.arange(n) // 2,
                "nan_fraction": np.isnan(spectrum).mean(axis=1),
                "n_components": 1 + (np.arange(n) % 7 == 0),
                "n_sources": 1 + (np.arange(n) % 5 == 0),
            }
        )
        self.meta = {
            "inputs": {
                "image": {"kind": "image", "size": 64, "bands": [*"ugriz"]},
                "spectrum": {"kind": "spectrum", "grid": "sdss", "sizes": [320, 160, 80, 40, 20]},
            },
            "source": {"reader": None, "every_spectrum": False},
            "derived": {},
        }
        order = rng.permutation(n)
        self._rounds = []
        for k in range(rounds):
            test = order[k::rounds] if rounds > 1 else order[int(0.8 * n) :]
            rest_ = np.setdiff1d(order, test)
            cuts = [int(0.6 * n), int(0.7 * n)] if rounds == 1 else [len(rest_) * 3 // 4, len(rest_) * 7 // 8]
            rest_ = rng.permutation(rest_)
            names = ("train", "valid", "calibration")
            parts = dict(zip(names, (np.sort(x) for x in np.split(rest_, cuts)), strict=True))
            self._rounds.append({**parts, "test": np.sort(test)})
        self._folds = [self._rounds[0]["train"][k::5] for k in range(5)]
        self.truth = self.table[["plate", "mjd", "fiberid"]].assign(attainable_sigma=0.2)
        self.funnel = Funnel(
            [Step("catalogue rows", 2 * n), Step("complete", n // 2, applied=False), Step("used", n)]
        )

    def __len__(self):
        return len(self.table)

    def split(self, name="default"):
        return {**self._rounds[0], "folds": self._folds}

    def rounds(self, name="default"):
        return self._rounds

    def split_digest(self, name="default"):
        return "ab" * 32

    def inputs(self, zooms, rows, *, columns=(), smooth=0.0, sigma=False):
        found = {}
        for modality, zoom in zooms.items():
            if modality == "table":
                found["table"] = self.table.loc[rows, list(columns)].to_numpy(dtype=np.float32)
            else:
                found[modality] = self._arrays[modality, zoom][rows]
        if sigma and "spectrum" in found:
            found["spectrum_sigma"] = np.full_like(found["spectrum"], 0.1)
        return found

    @property
    def kinds(self):
        return {name: told["kind"] for name, told in self.meta["inputs"].items()}

    def kind_of(self, name):
        return self.kinds.get(name, "table")

    def cut(self, name, zoom):
        return cut(self.meta["inputs"].get(name, {"kind": "table"}), zoom)

    def wavelength(self, zoom, name=None):
        return np.linspace(4000.0, 9000.0, self._arrays["spectrum", zoom].shape[1])

    def nan_study(self, name) -> dict[int, NanStudy]:
        return {zoom: nan_study(self._arrays[name, zoom], zoom) for zoom in self.zooms[name]}

    def multi_object_check(self) -> MultiObjectCheck:
        return multi_object_check(
            self.table["object_id"].to_numpy(dtype=str),
            self.table["n_components"].to_numpy(),
            self.table["n_sources"].to_numpy(),
        )


CLASSES = {"low": ["low"], "middle": ["mid.*"], "high": ["high"]}


def class_recipe(**changes) -> Recipe:
    """Return a recipe of two quick models that classify `SmallSky` by its table and spectra."""
    content = {
        "name": "classes",
        "title": "A small classification",
        "task": {
            "label": "kind",
            "title": "kind",
            "definition": "made up",
            "kind": "classification",
            "classes": CLASSES,
            "forbidden": {"leak": "it is the label with a little noise"},
            "magnitude": "shape",
        },
        "modalities": ["spectrum", "table"],
        "columns": ["shape", "line"],
        "leaking": ["leak"],
        "reference": {"spectrum": 4},
        "models": {"tree": {"fixed": {"max_depth": 4}}, "forest": {"fusions": ["table"]}},
        "fusions": ["spectrum", "table", "early", "late-mean"],
        "embeddings": {"methods": ["pca"]},
        "clusters": 3,
        "bootstrap": 200,
        "seed": 11,
    }
    return Recipe.model_validate({**content, **changes})


def small_recipe(**changes) -> Recipe:
    """Return a recipe of two quick models for `SmallSky`; keyword arguments replace whole sections."""
    content = {
        "name": "small",
        "title": "A small study",
        "task": {
            "label": "AVG",
            "title": "log SFR",
            "unit": "dex",
            "definition": "made up",
            "attainable": "attainable_sigma",
        },
        "zooms": {"image": [3, 4], "spectrum": [3, 4]},
        "reference": {"image": 3, "spectrum": 3},
        "models": {
            "tree": {"grid": {"max_depth": [1, 3]}},
            "lightgbm": {
                "fixed": {"max_rounds": 12, "threads": 1},
                "grid": {"learning_rate": [0.1, 0.3], "max_depth": [2, 3]},
            },
        },
        "embeddings": {"methods": ["pca"], "zooms": {"image": [3], "spectrum": [3, 4]}},
        "bootstrap": 200,
        "seed": 11,
        "flaws": [
            {
                "what": "tiny <pixels>",
                "avoided": "floats",
                "change": "tiny-pixels",
                "model": "tree",
                "fusion": "image",
            },
            {
                "what": "bands",
                "avoided": "order",
                "change": "shuffled-bands",
                "model": "tree",
                "fusion": "image",
            },
            {
                "what": "gaps",
                "avoided": "kept",
                "change": "complete-only",
                "model": "tree",
                "fusion": "spectrum",
            },
            {"what": "sigma", "avoided": "tested"},
        ],
        "published": [{"model": "tree", "fusion": "early", "scores": {"r2": 0.155}}],
    }
    return Recipe.model_validate({**content, **changes})
