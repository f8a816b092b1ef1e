"""Whether a model class keeps to what studies, predictions and model files rely on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import UsageError
from skyfuse.models.base import Examples, Model, Prediction
from skyfuse.models.files import CARD, load_model
from skyfuse.models.inputs import Arrays
from skyfuse.models.registry import MODELS
from skyfuse.testing.require import require
from skyfuse.testing.tiny import tiny_arrays
from skyfuse.words import Kind

_CLASSES = ("faint", "middling", "bright")


def check_model(model_class: type[Model], modalities: Sequence[str] = ("table",), **params: Any) -> None:
    """Check that a model class keeps to what studies, predictions and model files rely on.

    It must be known by its name, give the same model for the same seed, treat each object by itself, take
    missing values, and come back from its files as it was, for each kind that it says it learns.

    Parameters
    ----------
    model_class : type
        Registered (`skyfuse.register`) or installed.
    modalities : sequence of str
        What it reads of ``image``, ``spectrum`` and ``table``.
    **params
        Its parameters, such that it learns from 80 objects in a moment.

    Raises
    ------
    AssertionError
        With what is asked for and does not hold.
    """
    name = model_class.name
    require(name in MODELS and MODELS[name] is model_class, f"{name} is registered or installed")
    for kind in sorted(model_class.kinds):
        _check_kind(model_class, kind, modalities, params)


def _check_kind(
    model_class: type[Model], kind: Kind, modalities: Sequence[str], params: dict[str, Any]
) -> None:
    name, classes = model_class.name, _CLASSES if kind == "classification" else ()
    x, value = tiny_arrays(120, modalities)
    y = None if kind == "reconstruction" else _labels(value, kind)
    parts = [slice(0, 80), slice(80, 100), slice(100, 120)]
    train, valid, test = ({key: array[part] for key, array in x.items()} for part in parts)
    for array in test.values():
        array[3].flat[0] = np.nan
    labels = [None if y is None else y[part] for part in parts]
    learned, held = Examples(train, labels[0]), Examples(valid, labels[1])
    try:
        model_class(**params).predict(test)
    except UsageError:
        pass
    else:
        raise AssertionError(f"{name} predicts only once it is fitted")
    model = model_class(**params)
    history = model.fit(learned, held, seed=1, kind=kind, classes=classes)
    require(history["train"] and history["valid"], f"{name} tells the course of its training")
    require(0 <= history["best"] < len(history["valid"]), f"{name} tells its best iteration")
    told = model.predict(test)
    _check_prediction(name, told, kind, len(classes))
    twin = model_class(**params)
    twin.fit(learned, held, seed=1, kind=kind, classes=classes)
    require(_equal(twin.predict(test), told), f"{name} of one seed and data is one model")
    turned = {key: np.ascontiguousarray(array[::-1]) for key, array in test.items()}
    require(_close(model.predict(turned), told, slice(None, None, -1)), f"{name} predicts in whatever order")
    alone = {key: np.ascontiguousarray(array[:1]) for key, array in test.items()}
    require(_close(model.predict(alone), told, slice(0, 1)), f"{name} predicts one object as among others")
    if model_class.weighs:
        weighted = replace(learned, weight=np.linspace(0.5, 1.5, 80))
        model_class(**params).fit(weighted, held, seed=1, kind=kind, classes=classes)
    _check_files(model, test, told)


def _labels(value: NDArray[np.float64], kind: Kind) -> NDArray[Any]:
    return value if kind == "regression" else np.digitize(value, np.quantile(value, [1 / 3, 2 / 3]))


def _check_prediction(name: str, told: Prediction, kind: Kind, classes: int) -> None:
    require(told.value.shape == (20,), f"{name} predicts one value for each object")
    require(np.isfinite(told.value).all(), f"{name} predicts finite values, also where inputs miss some")
    if kind == "classification":
        probability = told.probability
        require(
            probability is not None
            and probability.shape == (20, classes)
            and (probability >= 0).all()
            and np.allclose(probability.sum(axis=1), 1),
            f"{name} gives each object probabilities of all classes whose sum is 1",
        )


def _numbers(told: Prediction) -> NDArray[np.float64]:
    return np.asarray(told.value if told.probability is None else told.probability, np.float64)


def _equal(one: Prediction, other: Prediction) -> bool:
    return bool(np.array_equal(_numbers(one), _numbers(other)))


def _close(one: Prediction, other: Prediction, rows: slice) -> bool:
    numbers = _numbers(other)
    scale = np.abs(numbers).max()
    return bool(np.allclose(_numbers(one), numbers[rows], rtol=1e-4, atol=1e-5 * scale))


def _check_files(model: Model, test: Arrays, told: Prediction) -> None:
    name = model.name
    with tempfile.TemporaryDirectory(prefix="skyfuse-check-") as folder:
        model.save(Path(folder) / "model")
        inside = {path.name for path in (Path(folder) / "model").iterdir() if path.is_file()}
        require(CARD in inside and set(model.weights) <= inside, f"{name} writes the files of its weights")
        read = load_model(Path(folder) / "model")
        require(type(read) is type(model), f"the files of {name} bring back its class")
        require(_equal(read.predict(test), told), f"the files of {name} bring back the model as it was")
