"""Types of stars by networks that learn from stars drawn from templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax

from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import Examples, History, Lesson, Model, Output
from skyfuse.models.inputs import Arrays
from skyfuse.models.stars import SYSTEMS, Stars, flattened, one_peaked
from skyfuse.models.template import (
    Array,
    Floats,
    Shifted,
    TemplateSet,
    check_parameters,
    classes_of,
    coarser,
    require_spectra,
    require_templates,
    restore_templates,
    template_layout,
    weighted,
    write_templates,
    zoom_of,
)
from skyfuse.models.uncertainty import Conformal, Scores
from skyfuse.words import Kind, Progress

ZOOM = 2
"""Zoom at which spectra are drawn, 276 km/s a bin; networks see two bins joined."""

_SOURCES = 1000
"""Training spectra at most whose noise is drawn."""

_HELD = 200
"""Stars drawn for each member from the templates that it does not see."""

_LAYERS = 3
_MOST_MEMBERS = 99

Layers = list[tuple[Floats, Floats]]


class Held(NamedTuple):
    """Stars drawn from templates that a network did not see: its probabilities (n, classes), and classes."""

    probability: Array
    label: NDArray[np.int64]

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], folder: Path) -> Held:
        """Take it out of a model's arrays, refusing numbers that are no probabilities or classes."""
        found = cls(arrays["held.probability"], arrays["held.label"])
        n, classes = found.probability.shape
        sums = found.probability.sum(axis=1)
        if (
            not n
            or not (found.probability >= 0).all()
            or np.abs(sums - 1).max() > 1e-6
            or not ((found.label >= 0) & (found.label < classes)).all()
        ):
            raise StoreError("holds no probabilities of stars", remedy="train the model again", path=folder)
        return found


class StarTypes(Model):
    """Networks that tell types of stars and learn from templates alone, so that they serve other surveys.

    They see each spectrum over its running mean, which does not depend on the flux calibration, with gaps
    bridged, and have two hidden layers. What they learn from is drawn from templates as another survey would
    see stars (`skyfuse.models.stars`): resolution, noise, calibration, speed and lost cores of lines; of the
    training part the noise alone counts. Classes are ordered by temperature: sets of classes have no holes.

    Each of several members learns without a part of the templates; stars drawn from that part show it what
    new stars are. `calibrate` then takes its objects or these, whatever is harder to tell.

    Parameters
    ----------
    templates : str
        Folder of the SDSS pipeline's eigentemplates; needed by `fit` alone.
    system : str, default 'mk'
        Who gives stars their types, see `skyfuse.startypes.shares`.
    draws : int, default 10000
        Spectra drawn to train each member on.
    epochs : int, default 12
        Passes over the drawn spectra.
    width : int, default 256
        Units of each hidden layer.
    learning_rate : float, default 2e-3
        Highest of a one-cycle course (Smith & Topin 2019) with AdamW.
    dropout : float, default 0.4
        Share of the hidden units left out at each step.
    members : int, default 5
        Networks; their mean probability counts.
    threads : int, default 1
        CPU threads of the training.
    """

    name: ClassVar[str] = "star-types"
    title: ClassVar[str] = "Networks on drawn stars"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    reads_sigma: ClassVar[bool] = True
    reads_templates: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numba", "safetensors")
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "templates": "",
            "system": "mk",
            "draws": 10_000,
            "epochs": 12,
            "width": 256,
            "learning_rate": 2e-3,
            "dropout": 0.4,
            "members": 5,
            "threads": 1,
        }
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**self.completed(params))
        params = self.params
        check_parameters(params["templates"], 0)
        if params["system"] not in SYSTEMS:
            raise UsageError(f"system is {params['system']!r}", remedy=f"give one of {', '.join(SYSTEMS)}")
        whole = ("epochs", "width", "members", "threads")
        if (
            min(params[name] for name in whole) < 1
            or params["members"] > _MOST_MEMBERS
            or params["draws"] < 256
            or not (0 < params["learning_rate"] < 1 and 0 <= params["dropout"] < 1)
        ):
            told = ", ".join(
                f"{name} {params[name]}" for name in ("draws", "learning_rate", "dropout", *whole)
            )
            raise UsageError(
                f"of {told} one is out of range",
                remedy="give 256 draws or more, rates between 0 and 1, and 1 or more for the others, "
                f"{_MOST_MEMBERS} members at most",
            )

    def _take_up(self, sets: list[TemplateSet]) -> None:
        """Keep the stars that are of the classes."""
        index = classes_of(sets, self.classes)
        wanted = [i for i, s in enumerate(sets) if index[i] >= 0]
        if wide := sorted({sets[i].kind for i in wanted} - {"STAR"}):
            raise UsageError(
                f"star-types cannot tell {' and '.join(wide)} from others",
                remedy="give it types of stars as classes, or take hybrid or template",
            )
        self._sets = [sets[i] for i in wanted]
        self._zoom = max(zoom_of(self.shapes["spectrum"][0]), ZOOM)
        shifted = [Shifted(s, self._zoom) for s in self._sets]
        self._stars = Stars(self._sets, shifted, index[wanted], self.classes, self.params["system"])

    def _fit(self, lesson: Lesson) -> History:
        require_spectra(lesson.shapes)
        self._take_up(require_templates(self.params["templates"]))
        random = np.random.default_rng(lesson.seed)
        rows = np.sort(random.permutation(len(lesson.y))[:_SOURCES])
        noise = _noise(*weighted({name: a[rows] for name, a in lesson.train.items()}, self._zoom))
        self._members: list[Layers] = []
        count, every = self.params["members"], np.arange(len(self._sets))
        parts = self._stars.parts(count, random) if count > 1 else [every[:0]]
        probability, label = [], []
        for member, part in enumerate(parts):
            drawn = self._stars.draw(self.params["draws"], np.setdiff1d(every, part), noise, random)
            inputs = flattened(*coarser(drawn.flux, drawn.weight))
            if not member:
                self._mean, self._std = inputs.mean(axis=0), inputs.std(axis=0) + np.float32(1e-3)
            layers = _train(
                self._scaled(inputs), drawn.target, self.params, lesson.seed + member, lesson.progress
            )
            self._members.append(layers)
            if len(part):
                new = self._stars.draw(_HELD, part, noise, random)
                probability.append(self._probability([layers], new.flux, new.weight))
                label.append([random.choice(len(p), p=p / p.sum()) for p in new.target.astype(np.float64)])
        self._held = Held(np.concatenate(probability), np.concatenate(label)) if probability else None
        train, valid = (self._predict(x) for x in (lesson.train, lesson.valid))
        return lesson.history(train, valid)

    def calibrate(
        self, x: Arrays, y: ArrayLike, *, level: float = 0.9, beside: Examples | None = None
    ) -> None:
        """Calibrate on objects that took no part in the fit, see `Model.calibrate`.

        Spectra drawn from templates do not show what stars unlike these are. So sets are calibrated on stars
        like templates that a member did not see as well, and the larger sets count. All classes have one
        threshold, so that sets have no holes.
        """
        super().calibrate(x, y, level=level, beside=beside)
        known = [self.interval]
        if self._held is not None:
            ties = {"held": self._held.probability.astype(np.float32)}
            known.append(Conformal.fit(Output(self._held.probability), self._held.label, ties, level=level))
        alike = [
            _alike(one.scores, level)
            for one in known
            if isinstance(one, Conformal) and one.scores is not None
        ]
        # `scores` are those of the objects given, which a survey without labels weighs.
        self.interval = replace(max(alike, key=lambda one: one.thresholds), scores=alike[0].scores)

    def _scaled(self, inputs: Floats) -> Floats:
        return np.asarray((inputs - self._mean) / self._std)

    def _probability(self, members: Sequence[Layers], flux: Array, weight: Array) -> Array:
        """Return the mean probability that some networks give to each class, (n, classes)."""
        x = self._scaled(flattened(*coarser(flux, weight)))
        found = []
        for layers in members:
            y = x
            for i, (matrix, offset) in enumerate(layers):
                y = y @ matrix + offset
                if i < _LAYERS - 1:
                    np.maximum(y, 0, out=y)
            found.append(log_softmax(y.astype(np.float64), axis=1))
        return one_peaked(softmax(logsumexp(found, axis=0), axis=1), self._stars.ordered)

    def _predict(self, x: Arrays) -> Array:
        return self._probability(self._members, *weighted(x, self._zoom))

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays, notes = write_templates(self._sets)
        for m, layers in enumerate(self._members):
            for i, (matrix, offset) in enumerate(layers):
                arrays |= {f"layer.{m}.{i}.matrix": matrix, f"layer.{m}.{i}.offset": offset}
        arrays |= {"mean": self._mean, "std": self._std}
        if self._held is not None:
            arrays |= {"held.probability": self._held.probability, "held.label": self._held.label}
        files.write_arrays(arrays, folder)
        return {"sets": notes, "held": self._held is not None}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        notes = state["sets"]
        units = ["inputs", *(f"hidden.{i}" for i in range(1, _LAYERS)), "classes"]
        layout = template_layout(notes) | dict.fromkeys(("mean", "std"), ("f4", ("inputs",)))
        members = range(self.params["members"])
        for m in members:
            for i in range(_LAYERS):
                layout[f"layer.{m}.{i}.matrix"] = ("f4", (units[i], units[i + 1]))
                layout[f"layer.{m}.{i}.offset"] = ("f4", (units[i + 1],))
        if state["held"]:
            layout |= {"held.probability": ("f8", ("held", "classes")), "held.label": ("i8", ("held",))}
        arrays = files.read_arrays(folder, layout, classes=len(self.classes))
        require_spectra(self.shapes)
        self._take_up(restore_templates(arrays, notes, folder))
        if not (arrays["std"] > 0).all():
            raise StoreError("has spreads that are none", remedy="train the model again", path=folder)
        self._mean, self._std = arrays["mean"], arrays["std"]
        self._members = [
            [(arrays[f"layer.{m}.{i}.matrix"], arrays[f"layer.{m}.{i}.offset"]) for i in range(_LAYERS)]
            for m in members
        ]
        self._held = Held.read(arrays, folder) if state["held"] else None


def _alike(scores: Scores, level: float) -> Conformal:
    """Return a calibration with one threshold for all classes."""
    alike = replace(scores, group=np.zeros_like(scores.group))
    return Conformal.of(alike, "probability", level, classes=1)


def _noise(flux: Array, weight: Array) -> Array:
    """Return σ of spectra in units of their median flux, NaN where invalid, of those that have one."""
    found = []
    for f, w in zip(flux, weight, strict=True):
        good = w > 0
        scale = abs(float(np.median(f[good]))) if good.any() else 0.0
        if scale > 0:
            sigma = np.full(len(f), np.nan)
            sigma[good] = 1 / (np.sqrt(w[good]) * scale)
            found.append(sigma)
    if not found:
        raise DataError("no training spectrum has a valid bin", remedy="check the dataset's funnel")
    return np.array(found)


def _train(
    inputs: Floats, target: Floats, params: dict[str, Any], seed: int, progress: Progress | None
) -> Layers:
    """Train a network and return its layers as (matrix, offset)."""
    import torch
    from torch import nn

    from skyfuse.models.pytorch import torch_state

    width, epochs = params["width"], params["epochs"]
    with torch_state(params["threads"], seed=seed):
        layers = [
            nn.Linear(inputs.shape[1], width),
            nn.Linear(width, width),
            nn.Linear(width, target.shape[1]),
        ]
        network = nn.Sequential(
            layers[0],
            nn.ReLU(),
            nn.Dropout(params["dropout"]),
            layers[1],
            nn.ReLU(),
            nn.Dropout(params["dropout"]),
            layers[2],
        )
        x, y = torch.from_numpy(inputs), torch.from_numpy(target)
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4, fused=True)
        batches = max(len(x) // 256, 1)
        course = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, params["learning_rate"], total_steps=epochs * batches
        )
        for epoch in range(epochs):
            total = 0.0
            for rows in torch.tensor_split(torch.randperm(len(x)), batches):
                entropy = nn.functional.cross_entropy(network(x[rows]), y[rows])
                optimiser.zero_grad()
                entropy.backward()  # type: ignore[no-untyped-call]  # as PyTorch leaves it
                optimiser.step()
                course.step()
                total += entropy.item()
            if progress is not None:
                progress(epoch + 1, epochs, f"log loss of drawn stars {total / batches:.3f}")
        return [
            (np.ascontiguousarray(layer.weight.detach().numpy().T), layer.bias.detach().numpy().copy())
            for layer in layers
        ]
