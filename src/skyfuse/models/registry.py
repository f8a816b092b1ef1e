"""Which models there are by name: the built-in ones, those of installed packages, those registered by hand.

A model of one's own is Python code that was installed or registered by the user and runs with the user's
rights. A model's folder never brings code: its card names a model that must be known here already.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, TypeVar, get_args

from skyfuse.entrypoints import installed, load
from skyfuse.errors import UsageError
from skyfuse.models.base import Model
from skyfuse.words import Kind

ENTRY_POINT = "skyfuse.models"
"""Group of entry points under which an installed package names its model classes, by `Model.name`."""

BUILT_IN = {
    "linear": "skyfuse.models.classic:Linear",
    "logistic": "skyfuse.models.classic:Logistic",
    "knn": "skyfuse.models.classic:Neighbours",
    "svm": "skyfuse.models.classic:SupportVectors",
    "tree": "skyfuse.models.classic:DecisionTree",
    "forest": "skyfuse.models.classic:Forest",
    "lightgbm": "skyfuse.models.classic:LightGBM",
    "feed-forward": "skyfuse.models.networks:FeedForward",
    "vggnet12": "skyfuse.models.networks:VGGNet12",
    "gaia-cnn": "skyfuse.models.networks:GaiaCNN",
    "sdss-cnn": "skyfuse.models.networks:SdssCNN",
    "mixed": "skyfuse.models.networks:Mixed",
    "image-cnn": "skyfuse.models.networks:ImageCNN",
    "image-ff": "skyfuse.models.networks:ImageFF",
    "image-lstm": "skyfuse.models.networks:ImageLSTM",
    "resnet50": "skyfuse.models.networks:ResNet50",
    "polar-cnn": "skyfuse.models.networks:PolarCNN",
    "autoencoder": "skyfuse.models.autoencoder:Autoencoder",
    "pca": "skyfuse.models.autoencoder:PrincipalComponents",
    "template": "skyfuse.models.template:Template",
    "hybrid": "skyfuse.models.hybrid:Hybrid",
    "star-types": "skyfuse.models.starnet:StarTypes",
    "late": "skyfuse.models.fusion:LateFusion",
    "rounds": "skyfuse.models.rounds:Rounds",
}
"""Where each class lies."""

# Names of cells, and so of folders, are made of the models' names.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

M = TypeVar("M", bound=Model)

_registered: dict[str, type[Model]] = {}


class _Models(Mapping[str, type[Model]]):
    """Model classes by name, each imported when it is first asked for (PyTorch alone takes seconds)."""

    def __getitem__(self, name: str) -> type[Model]:
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            found: type[Model] = getattr(importlib.import_module(module), attribute)
            return found
        return _registered[name] if name in _registered else _load(name)

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        yield from (name for name in {**_registered, **_installed()} if name not in BUILT_IN)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in _registered or name in _installed()


MODELS: Mapping[str, type[Model]] = _Models()
"""Model classes by name."""


def register_model(model: type[M]) -> type[M]:
    """Let a model class of one's own be named in recipes and model files, until the process ends.

    Parameters
    ----------
    model : type
        A subclass of `skyfuse.models.Model`. Installed packages name theirs as entry points of the group
        ``skyfuse.models`` instead.

    Returns
    -------
    type
        The same class, so that this serves as a decorator.

    Raises
    ------
    UsageError
        If it lacks what a model must have, or its name is taken.
    """
    _require_model(model)
    if model.name in MODELS and _registered.get(model.name) is not model:
        raise UsageError(f"there is a model {model.name!r} already", remedy="give it another name")
    _registered[model.name] = model
    return model


@cache
def _installed() -> dict[str, EntryPoint]:
    found = installed(ENTRY_POINT)
    for name in BUILT_IN.keys() & found:
        raise UsageError(
            f"the installed {found[name].value} is called {name!r}, as a model of Skyfuse's own",
            remedy="remove its package, or give it another name",
        )
    return found


@cache
def _load(name: str) -> type[Model]:
    point = _installed()[name]
    model = load(point)
    _require_model(model)
    if model.name != name:
        raise UsageError(
            f"the entry point {name!r} leads to a model that calls itself {model.name!r}",
            remedy=f"give {point.value} one name",
        )
    found: type[Model] = model
    return found


def _require_model(model: Any) -> None:
    if not (inspect.isclass(model) and issubclass(model, Model)):
        raise UsageError(f"{model!r} is no model", remedy="give a subclass of skyfuse.models.Model")
    missing = sorted(getattr(model, "__abstractmethods__", ()))
    if missing:
        raise UsageError(f"{model.__name__} lacks {', '.join(missing)}", remedy="define them in the class")
    name, kinds = getattr(model, "name", None), getattr(model, "kinds", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{model.__name__} has the name {name!r}",
            remedy="give its attribute name letters a to z, digits and hyphens",
        )
    if not kinds or not set(kinds) <= set(get_args(Kind)):
        raise UsageError(
            f"{model.__name__} has the kinds {kinds!r}",
            remedy=f"give its attribute kinds some of {', '.join(get_args(Kind))}",
        )
