"""Model folders: ``model.json`` and weights in formats that hold data alone.

Weights are safetensors (networks, and the arrays of every classic model: coefficients, support vectors, the
nodes of trees) or LightGBM's text. Loading trusts nothing: every name, number and hash is checked before it
is used, and nothing is executed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skyfuse.checksums import NAME as CHECKSUMS
from skyfuse.checksums import digest as file_digest
from skyfuse.checksums import named_sha256, write_checksums
from skyfuse.disk import named, parse_json, replaced, sha256
from skyfuse.errors import SkyfuseError, StoreError, UsageError
from skyfuse.models.applicability import Applicability
from skyfuse.models.base import Model
from skyfuse.models.difficulty import Difficulty
from skyfuse.models.inputs import axes_of, kind_of, slots_of
from skyfuse.models.mirror import Mirror
from skyfuse.models.registry import MODELS
from skyfuse.models.shift import Evidence, Weighted
from skyfuse.models.uncertainty import Conformal
from skyfuse.models.weighing import Ratio
from skyfuse.words import Kind, Modality

if TYPE_CHECKING:
    import torch

CARD = "model.json"
FORMAT: Literal["skyfuse-model"] = "skyfuse-model"
VERSION: Literal[5] = 5
CARD_LIMIT = 16 * 2**20
"""Bytes beyond which a ``model.json`` is not one: the largest, with scalers of 4,620 bins, stay below 1
MB."""

TENSORS = "weights.safetensors"
"""File of a network's weights."""

ARRAYS = "arrays.safetensors"
"""File of a classic model's arrays."""

SAMPLE = "sample.safetensors"
"""File of what is kept of a training part, to tell whom it has taught nothing of."""

LIMIT = 4 * 2**30
"""Bytes beyond which a file of weights is not read, nor its hash taken: those of the models here are some
hundred MB at most, nearest neighbours among 10,000 images of zoom 0 are 1.6 GB."""

_HEADER = 2**20
"""Bytes of a header of safetensors at most: a thousand tensors take a tenth of it."""

TEXT = "model.txt"
"""File of a LightGBM model."""

DIFFICULTY = "difficulty.txt"
"""File of what tells how difficult objects are."""

_REMEDY = "train the model again, or get the folder again from where it came"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Label(_Strict):
    """The quantity that a model predicts.

    Attributes
    ----------
    name : str
        Column of the dataset's table, e.g. ``AVG``.
    unit : str
        E.g. ``log10(Msun/yr)``.
    definition : str
        What the quantity means, in words.
    """

    name: str
    unit: str
    definition: str = ""


class Training(_Strict):
    """What is kept of the training part in `SAMPLE`.

    Attributes
    ----------
    names : list of str
        See `skyfuse.models.applicability.Applicability`.
    sha256 : str
        Of the file.
    calibration : bool
        Whether it holds an `skyfuse.models.shift.Evidence`, too.
    beside : list of str
        Columns of that.
    """

    names: list[str]
    sha256: str
    calibration: bool
    beside: list[str]


class Target(_Strict):
    """The survey that a calibration was weighed for, see `skyfuse.models.promise.Promise`.

    Attributes
    ----------
    name : str
        Of the file or folder.
    sha256 : str
        Of what the model read of its objects.
    """

    name: str
    sha256: str = Field(pattern="[0-9a-f]{64}")
    given: int = Field(ge=1)
    outside: int = Field(ge=0)
    calibrated: int = Field(ge=1)
    effective: float = Field(gt=0)
    spread: float = Field(ge=0)
    apart: float = Field(ge=0, le=1)
    beside: int = Field(ge=0)


class Trees(_Strict):
    """What the difficulty of objects is learned in, see `skyfuse.models.difficulty.Difficulty`.

    Attributes
    ----------
    unit : float
    sha256 : str
        Of the file `DIFFICULTY`.
    """

    unit: float
    sha256: str


class Cut(_Strict):
    """How an input was cut; what does not apply is None.

    Attributes
    ----------
    kind : str
        ``image``, ``spectrum`` or ``table``.
    zoom : int
    instrument : str, optional
        Of a cube's arrays.
    bands : list of str, optional
        Bands of images, in order.
    size : int, optional
        Cutout size in native pixels (zoom 0).
    grid : str, optional
        Name of the spectral grid.
    sigma : str, optional
        Of a cube's spectra: ``model`` (σ comes from a noise model where one is known) or ``formal``.
    """

    kind: Modality
    zoom: int = 0
    instrument: str | None = None
    bands: list[str] | None = None
    size: int | None = None
    grid: str | None = None
    sigma: Literal["model", "formal"] | None = None


class Inputs(_Strict):
    """Where the arrays that a model reads come from, and how they were cut.

    Attributes
    ----------
    inputs : dict of str to Cut
        By the names of the dataset.
    columns : list of str
        Columns of the table, in order; ``a-b`` is the difference of two.
    smooth : float
        Standard deviation, in bins, of the Gaussian that spectra were smoothed with; 0 is none.
    reader : str, optional
        What read the training's files, see `skyfuse.dataset.open.open_source`; None for a dataset that was
        made of arrays in Python.
    every_spectrum : bool
        Whether each spectrum was an object of its own; else each object came with its best spectrum.
    derive : dict of str to Cut
        What among the columns is derived from arrays, and how these were cut.
    """

    inputs: dict[str, Cut]
    columns: list[str] = Field(default_factory=list)
    smooth: float = 0.0
    reader: Literal["cube", "table", "gaia-xp", "images", "scene"] | None = None
    every_spectrum: bool = False
    derive: dict[Literal["ew", "indices", "morphology"], Cut] = Field(default_factory=dict)


class Mirrored(_Strict):
    """See `skyfuse.models.mirror.Mirror`."""

    becomes: list[int]
    odd: list[int]


class Card(_Strict):
    """What ``model.json`` holds.

    Attributes
    ----------
    format, version
        Mark of the folder and version of its layout.
    name : str
        Key of `skyfuse.models.MODELS`.
    kind : str
        See `skyfuse.words.Kind`.
    classes : list of str
        Names of the classes; empty unless `kind` is classification.
    params : dict
        Hyperparameters.
    kinds : dict of str to str
        Kind of each input by its name, in the order in which they are joined.
    shapes : dict of str to list of int
        Shape of one object in each array, by what it is called inside a model (`skyfuse.models.inputs`).
    state : dict
        What the model needs beside its weights (scalers, label mean, fusion weights).
    files : dict of str to str
        SHA-256 of each file of weights.
    libraries : dict of str to str
        Versions that wrote the model.
    mirror : Mirrored, optional
        What a mirror does to the objects, see `skyfuse.models.mirror.Mirror`.
    interval : dict, optional
        The calibration, see `skyfuse.models.uncertainty.Conformal`.
    difficulty : Trees, optional
        Of a calibration whose intervals follow it.
    training : Training, optional
    target : Target, optional
        For whom the calibration is weighed, of which `SAMPLE` holds the weights.
    label : Label, optional
    inputs : Inputs, optional
    split : str, optional
        SHA-256 of the training split.
    metrics : dict of str to float
        As measured when the model was made; null where undefined.
    """

    format: Literal["skyfuse-model"]
    version: Literal[5]
    name: str
    kind: Kind
    classes: list[str]
    params: dict[str, Any]
    kinds: dict[str, Modality]
    shapes: dict[str, list[int]]
    state: dict[str, Any]
    files: dict[str, str]
    libraries: dict[str, str]
    mirror: Mirrored | None = None
    interval: dict[str, Any] | None = None
    difficulty: Trees | None = None
    training: Training | None = None
    target: Target | None = None
    label: Label | None = None
    inputs: Inputs | None = None
    split: str | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)


def save_model(model: Model, folder: str | Path) -> Path:
    """Write a fitted model into a folder.

    Parameters
    ----------
    model : Model
        Its `card` entries ``label``, ``inputs``, ``split`` and ``metrics`` are kept.
    folder : path
        Made if absent; a model that lies there is replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        If the model is not fitted, or its card does not follow `Card`.
    """
    folder = Path(folder)
    if not model.fitted:
        raise UsageError("an unfitted model cannot be saved", remedy="call fit first")
    folder.mkdir(parents=True, exist_ok=True)
    # Without its card a folder is no model: one that is interrupted half-way is never taken for a whole one.
    (folder / CARD).unlink(missing_ok=True)
    (folder / CHECKSUMS).unlink(missing_ok=True)
    with named(folder):
        state = model._write(folder)
    own = {key: model.card[key] for key in ("label", "inputs", "split", "metrics") if key in model.card}
    own["metrics"] = {key: _finite(value) for key, value in own.get("metrics", {}).items()}
    libraries = {"skyfuse": version("skyfuse"), "numpy": np.__version__}
    libraries |= {library: version(library) for library in model.libraries}
    plain = model.interval.plain if isinstance(model.interval, Weighted) else model.interval
    try:
        card = Card(
            format=FORMAT,
            version=VERSION,
            name=model.name,
            kind=model.kind,
            classes=list(model.classes),
            params=model.params,
            kinds=dict(model.inputs),
            shapes={slot: list(shape) for slot, shape in model.shapes.items()},
            state=state,
            files={file: sha256(folder / file) for file in model.weights},
            libraries=libraries,
            mirror=None if model.mirror is None else Mirrored(**model.mirror.to_dict()),
            interval=None if plain is None else plain.to_dict(),
            difficulty=_write_difficulty(plain, folder),
            training=_write_training(model, folder),
            target=model.card["target"] if isinstance(model.interval, Weighted) else None,
            **own,
        )
    except ValidationError as error:
        raise UsageError(
            f"the model's card is wrong: {_first(error)}", remedy="see skyfuse.models.files.Card"
        ) from error
    model.card = card.model_dump()
    content = json.dumps(model.card, indent=1, allow_nan=False).encode()
    weights = {file: f"sha256:{digest}" for file, digest in card.files.items()}
    if card.difficulty is not None:
        weights[DIFFICULTY] = f"sha256:{card.difficulty.sha256}"
    if card.training is not None:
        weights[SAMPLE] = f"sha256:{card.training.sha256}"
    members = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in folder.glob(f"*/{CHECKSUMS}")
    }
    write_checksums(folder, {CARD: named_sha256(content), **weights, **members})
    with replaced(folder / CARD) as part:
        part.write_bytes(content)
    return folder


def load_model(folder: str | Path) -> Model:
    """Read a model folder; nothing in it is executed.

    Parameters
    ----------
    folder : path
        As `save_model` wrote it.

    Returns
    -------
    Model
        Fitted, with `card` as read.

    Raises
    ------
    StoreError
        If the folder is missing, damaged, of another version, or holds anything but a model's data.
    """
    folder = Path(folder)
    card = _read_card(folder)
    try:
        model = _class(card, folder)._empty(card.params)
        model.inputs = dict(card.kinds)
        model.shapes = {slot: tuple(shape) for slot, shape in card.shapes.items()}
        model.kind, model.classes = card.kind, tuple(card.classes)
        if card.mirror is not None:
            model.mirror = Mirror.from_dict(card.mirror.model_dump(), len(card.classes), model.shapes)
        model._read(folder, card.state)
        if card.interval is not None:
            difficulty = _read_difficulty(card.difficulty, model, folder)
            model.interval = Conformal.from_dict(
                card.interval, classes=len(card.classes), difficulty=difficulty
            )
        if card.target is not None and card.training is None:
            raise ValueError("a weighted calibration lacks its weights")
        if card.training is not None:
            _read_training(model, card, card.training, folder)
    except ImportError as error:
        raise StoreError(
            f"holds a {card.name} model, which needs {error.name}",
            remedy=f"install {error.name}",
            path=folder,
        ) from error
    except StoreError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, SkyfuseError) as error:
        raise StoreError(
            f"the {card.name} model does not fit its card ({error})", remedy=_REMEDY, path=folder
        ) from error
    model.fitted = True
    model.card = card.model_dump()
    return model


def load_members(folder: Path, names: Sequence[Any]) -> list[Model]:
    """Return the models in folders of a model's folder, each named ``member-<number>``.

    Raises
    ------
    StoreError
        If a name is another, a member is a link, or none can be loaded from there.
    """
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"member-\d{1,3}", name):
            raise StoreError(
                f"names the member {name!r}",
                remedy="members are folders member-0, member-1 …",
                path=folder,
            )
        if (folder / name).is_symlink():
            raise StoreError("is a link", remedy="copy the member's folder itself", path=folder / name)
    return [load_model(folder / name) for name in names]


def _read_card(folder: Path) -> Card:
    path = folder / CARD
    try:
        if path.stat().st_size > CARD_LIMIT:
            raise StoreError(f"is larger than {CARD_LIMIT} bytes", remedy=_REMEDY, path=path)
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            "is no model folder: it has no model.json", remedy="name a folder that save wrote", path=folder
        ) from error
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", remedy=_REMEDY, path=path) from error
    try:
        raw = parse_json(content)
    except ValueError as error:
        raise StoreError(f"is not JSON ({error})", remedy=_REMEDY, path=path) from error
    if raw.get("format") != FORMAT:
        raise StoreError("is not a model's card", remedy="name a folder that save wrote", path=path)
    if raw.get("version") != VERSION:
        raise StoreError(
            f"has layout version {raw.get('version')!r} where this Skyfuse reads {VERSION}",
            remedy="load it with the Skyfuse that wrote it, or train it again",
            path=path,
        )
    try:
        card = Card.model_validate(raw)
    except ValidationError as error:
        raise StoreError(f"is damaged: {_first(error)}", remedy=_REMEDY, path=path) from error
    if card.name not in MODELS:
        raise StoreError(
            f"names the unknown model {card.name!r}",
            remedy=f"install the package that brings it or register it; known are {', '.join(MODELS)}",
            path=path,
        )
    slots = slots_of(card.kinds)
    shapes_fit = {slot for slot in slots if kind_of(slot)} <= set(card.shapes) <= set(slots) and all(
        len(shape) + 1 == axes_of(slot) and all(0 < side < 2**31 for side in shape)
        for slot, shape in card.shapes.items()
    )
    if not card.shapes or not shapes_fit:
        raise StoreError(f"has impossible input shapes {card.shapes}", remedy=_REMEDY, path=path)
    return card


def _class(card: Card, folder: Path) -> type[Model]:
    """Return the class that a card names, once the files beside it are the ones that it describes."""
    path = folder / CARD
    model = MODELS[card.name]
    named = len(card.classes) > 1 and len(set(card.classes)) == len(card.classes)
    if card.kind not in model.kinds or named != (card.kind == "classification"):
        raise StoreError(
            f"describes a {card.name} model for {card.kind} of {len(card.classes)} classes",
            remedy=_REMEDY,
            path=path,
        )
    if set(card.files) != set(model.weights):
        raise StoreError(
            f"lists the files {sorted(card.files)}, which are not those of a {card.name} model",
            remedy=_REMEDY,
            path=path,
        )
    for file, expected in card.files.items():
        _require(folder / file, expected)
    return model


def _require(path: Path, expected: str) -> None:
    """Refuse a file that is not the one that a card describes."""
    if not path.is_file():
        raise StoreError("is missing", remedy=_REMEDY, path=path)
    if path.stat().st_size > LIMIT:
        raise StoreError(f"is larger than {LIMIT} bytes", remedy=_REMEDY, path=path)
    if sha256(path) != expected:
        raise StoreError("is not the file that model.json describes", remedy=_REMEDY, path=path)


def _write_difficulty(interval: Conformal | None, folder: Path) -> Trees | None:
    difficulty = None if interval is None else interval.difficulty
    if difficulty is None:
        (folder / DIFFICULTY).unlink(missing_ok=True)
        return None
    with named(folder):
        (folder / DIFFICULTY).write_text(difficulty.trees.text(), encoding="ascii")
    return Trees(unit=difficulty.unit, sha256=sha256(folder / DIFFICULTY))


def _read_difficulty(told: Trees | None, model: Model, folder: Path) -> Difficulty | None:
    if told is None:
        return None
    _require(folder / DIFFICULTY, told.sha256)
    return Difficulty.read(folder / DIFFICULTY, model.shapes, told.unit)


def _write_training(model: Model, folder: Path) -> Training | None:
    if model.applicability is None:
        (folder / SAMPLE).unlink(missing_ok=True)
        return None
    kept = {"": model.applicability.arrays}
    if model.evidence is not None:
        kept[_EVIDENCE] = model.evidence.arrays
    if isinstance(model.interval, Weighted):
        kept[_RATIO] = model.interval.ratio.arrays
    arrays = {f"{start}{name}": array for start, part in kept.items() for name, array in part.items()}
    with named(folder):
        write_arrays(arrays, folder, SAMPLE)
    names = list(model.applicability.names)
    return Training(
        names=names,
        sha256=sha256(folder / SAMPLE),
        calibration=model.evidence is not None,
        beside=[] if model.evidence is None else list(model.evidence.columns),
    )


_EVIDENCE, _RATIO = "calibration_", "ratio_"
"""How the names of arrays begin that are not of the training part."""


def _read_training(model: Model, card: Card, told: Training, folder: Path) -> None:
    """Take up what is kept of the training part, of the calibration part, and the weights for a target."""
    _require(folder / SAMPLE, told.sha256)
    parts: dict[str, Layout] = {"": Applicability.LAYOUT}
    if told.calibration:
        parts[_EVIDENCE] = Evidence.LAYOUT
    if card.target is not None:
        parts[_RATIO] = Ratio.LAYOUT
    layout = {f"{start}{name}": one for start, part in parts.items() for name, one in part.items()}
    sizes = {"names": len(told.names), "one": 1, "deciles": 9, "outputs": max(len(card.classes), 1)}
    sizes["columns"] = len(told.beside)
    arrays = read_arrays(folder, layout, SAMPLE, **sizes)
    kept = {start: {name: arrays[f"{start}{name}"] for name in part} for start, part in parts.items()}
    model.applicability = Applicability.of_arrays(tuple(told.names), kept[""])
    if told.calibration:
        columns, classes = tuple(told.beside), len(card.classes)
        model.evidence = Evidence.of_arrays(columns, kept[_EVIDENCE], classes=classes)
    if card.target is not None:
        if model.evidence is None or not isinstance(model.interval, Conformal):
            raise ValueError("a weighted calibration lacks what is weighed")
        ratio = Ratio.of_arrays(kept[_RATIO])
        model.interval = Weighted(model.interval, model.evidence, ratio, model.applicability)


def write_arrays(arrays: dict[str, NDArray[Any]], folder: Path, file: str = ARRAYS) -> None:
    """Write a model's arrays as safetensors, by default a classic model's own."""
    from safetensors.numpy import save

    # It takes the bytes as they lie, whatever the strides say.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    # Not by safetensors itself, whose error on a full disk is none of the system's.
    (folder / file).write_bytes(content)


Layout = Mapping[str, tuple[str, tuple[str, ...]]]
"""By name of an array its dtype, as numpy writes it shortly, and the names of its dimensions."""


def read_arrays(folder: Path, layout: Layout, file: str = ARRAYS, **sizes: int) -> dict[str, NDArray[Any]]:
    """Read a model's arrays, by default a classic model's own.

    Parameters
    ----------
    folder : path
    layout : mapping of str to (str, tuple of str)
        What the file must hold, no more and no less, e.g. ``{"mean": ("f8", ("features",))}``. A dimension is
        equally long wherever its name stands.
    file : str
        Its name.
    **sizes : int
        Lengths of the dimensions that are known before.

    Returns
    -------
    dict of str to ndarray
        Numbers all finite.

    Raises
    ------
    StoreError
        If the file is not safetensors, or holds anything else.
    """
    from safetensors.numpy import load_file

    path = folder / file
    told = _header(path)
    if set(told) != set(layout):
        raise StoreError(f"holds {sorted(told)} where {sorted(layout)} belong", remedy=_REMEDY, path=path)
    for name, (dtype, dimensions) in layout.items():
        kind, shape = told[name]
        known = dict(zip(dimensions, shape, strict=False)) | sizes
        if kind != _KINDS.get(dtype) or shape != tuple(known.get(d, -1) for d in dimensions):
            raise StoreError(
                f"{name} is {kind} of shape {shape}, which does not fit its card",
                remedy=_REMEDY,
                path=path,
            )
        sizes = known
    arrays: dict[str, NDArray[Any]] = load_file(path)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise StoreError(f"{name} is not finite", remedy=_REMEDY, path=path)
    return arrays


_KINDS = {f"{kind}{bits // 8}": f"{kind.upper()}{bits}" for kind in "fiu" for bits in (8, 16, 32, 64)}
"""Types of numbers as safetensors calls them, by numpy's short names."""


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each array of a file, before any memory is taken for them.

    Raises
    ------
    StoreError
        If it is not safetensors: a length, an offset or a size in it is wrong, or a header impossibly long.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length > _HEADER:
            raise ValueError(f"its header would be {length} bytes")
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"is not safetensors ({error})", remedy=_REMEDY, path=path) from error


def write_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a network's weights as safetensors."""
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    # See `write_arrays`.
    (folder / TENSORS).write_bytes(content)


def read_tensors(folder: Path, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Read a network's weights.

    Parameters
    ----------
    folder : path
    network : Module
        The network that the card describes; on the meta device it costs nothing, whatever sizes it claims.

    Returns
    -------
    dict of str to Tensor
        Numbers all finite.

    Raises
    ------
    StoreError
        If the file is not safetensors, or holds other weights.
    """
    import torch
    from safetensors.torch import load_file

    path = folder / TENSORS
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    expected = {
        name: (kinds.get(tensor.dtype), tuple(tensor.shape)) for name, tensor in network.state_dict().items()
    }
    if _header(path) != expected:
        raise StoreError(
            "weights are not those of the network that model.json describes", remedy=_REMEDY, path=path
        )
    # Cloned, since the file's own memory is not aligned to 64 bytes and the kernels then round differently.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise StoreError(f"{name} is not finite", remedy=_REMEDY, path=path)
    return tensors


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
