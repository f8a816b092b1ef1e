"""Model folders: ``model.json`` and weights in formats that hold data alone.

Weights are safetensors (networks), LightGBM's text (boosting) or skops with an allow-list (decision trees).
Loading trusts nothing: every name, number and hash is checked before it is used, and nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skyfuse.errors import SkyfuseError, StoreError, UsageError
from skyfuse.models.base import MODALITIES, MODELS, Model

if TYPE_CHECKING:
    import torch

CARD = "model.json"
FORMAT: Literal["skyfuse-model"] = "skyfuse-model"
VERSION: Literal[1] = 1
CARD_LIMIT = 16 * 2**20
"""Bytes beyond which a ``model.json`` is not one: the largest, with scalers of 4,620 bins, stay below 1
MB."""

_LIBRARIES = {
    "tree": ("scikit-learn", "skops"),
    "lightgbm": ("lightgbm",),
    "vggnet12": ("torch", "lightning"),
}
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
    """

    name: str
    unit: str


class Inputs(_Strict):
    """How the arrays that a model reads were cut.

    Attributes
    ----------
    zooms : dict of str to int
        Zoom of each modality.
    bands : str, optional
        Bands of the images, in order.
    size : int, optional
        Cutout size in native pixels (zoom 0).
    grid : str, optional
        Name of the spectral grid.
    """

    zooms: dict[Literal["image", "spectrum"], int]
    bands: str | None = None
    size: int | None = None
    grid: str | None = None


class Card(_Strict):
    """What ``model.json`` holds.

    Attributes
    ----------
    format, version
        Mark of the folder and version of its layout.
    name : str
        Key of `skyfuse.models.MODELS`.
    task : str
        ``regression``.
    params : dict
        Hyperparameters.
    shapes : dict of str to list of int
        Shape of one object in each modality.
    state : dict
        What the model needs beside its weights (scalers, label mean, fusion weights).
    files : dict of str to str
        SHA-256 of each weight file.
    libraries : dict of str to str
        Versions that wrote the model.
    label : Label, optional
    inputs : Inputs, optional
    split : str, optional
        SHA-256 of the training split.
    metrics : dict of str to float
        As measured when the model was made; null where undefined.
    """

    format: Literal["skyfuse-model"]
    version: Literal[1]
    name: str
    task: Literal["regression"]
    params: dict[str, Any]
    shapes: dict[str, list[int]]
    state: dict[str, Any]
    files: dict[str, str]
    libraries: dict[str, str]
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
    if not model.shapes:
        raise UsageError("an unfitted model cannot be saved", remedy="call fit first")
    folder.mkdir(parents=True, exist_ok=True)
    # Without its card a folder is no model: one that is interrupted half-way is never taken for a whole one.
    (folder / CARD).unlink(missing_ok=True)
    state = model._write(folder)
    own = {key: model.card[key] for key in ("label", "inputs", "split", "metrics") if key in model.card}
    own["metrics"] = {key: _finite(value) for key, value in own.get("metrics", {}).items()}
    libraries = {"skyfuse": version("skyfuse"), "numpy": np.__version__}
    libraries |= {library: version(library) for library in _LIBRARIES.get(model.name, ())}
    try:
        card = Card(
            format=FORMAT,
            version=VERSION,
            name=model.name,
            task="regression",
            params=model.params,
            shapes={modality: list(shape) for modality, shape in model.shapes.items()},
            state=state,
            files={file: _sha256(folder / file) for file in _weight_files(model.name)},
            libraries=libraries,
            **own,
        )
    except ValidationError as error:
        raise UsageError(
            f"the model's card is wrong: {_first(error)}", remedy="see skyfuse.models.files.Card"
        ) from error
    model.card = card.model_dump()
    part = folder / f"{CARD}.part"
    part.write_text(json.dumps(model.card, indent=1, allow_nan=False))
    part.replace(folder / CARD)
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
    kind = MODELS[card.name]
    try:
        model = kind._read(
            folder,
            card.params,
            {modality: tuple(shape) for modality, shape in card.shapes.items()},
            card.state,
        )
    except StoreError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, SkyfuseError) as error:
        raise StoreError(
            f"the {card.name} model does not fit its card ({error})", remedy=_REMEDY, path=folder
        ) from error
    model.card = card.model_dump()
    return model


def _read_card(folder: Path) -> Card:
    path = folder / CARD
    try:
        if path.stat().st_size > CARD_LIMIT:
            raise StoreError(f"is larger than {CARD_LIMIT} bytes", remedy=_REMEDY, path=path)
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            "is no model folder: it has no model.json", remedy="name a folder that save wrote", path=folder
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot be read ({error})", remedy=_REMEDY, path=path) from error
    try:
        raw = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"is not JSON ({error})", remedy=_REMEDY, path=path) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
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
            f"names the unknown model {card.name!r}", remedy=f"known are {', '.join(MODELS)}", path=path
        )
    shapes_fit = all(
        modality in MODALITIES
        and len(shape) == MODALITIES[modality] - 1
        and all(0 < side < 2**31 for side in shape)
        for modality, shape in card.shapes.items()
    )
    if not card.shapes or not shapes_fit:
        raise StoreError(f"has impossible input shapes {card.shapes}", remedy=_REMEDY, path=path)
    if set(card.files) != set(_weight_files(card.name)):
        raise StoreError(
            f"lists the files {sorted(card.files)}, which are not those of a {card.name} model",
            remedy=_REMEDY,
            path=path,
        )
    for file, expected in card.files.items():
        if not (folder / file).is_file():
            raise StoreError("is missing", remedy=_REMEDY, path=folder / file)
        if _sha256(folder / file) != expected:
            raise StoreError("is not the file that model.json describes", remedy=_REMEDY, path=folder / file)
    return card


WEIGHTS = {"tree": "tree.skops", "lightgbm": "model.txt", "vggnet12": "weights.safetensors"}
"""Weight file of each model that has one."""


def _weight_files(name: str) -> tuple[str, ...]:
    return (WEIGHTS[name],) if name in WEIGHTS else ()


def write_tree(tree: Any, folder: Path) -> None:
    """Write a fitted scikit-learn decision tree as skops."""
    import skops.io

    skops.io.dump(tree, folder / WEIGHTS["tree"])


# Everything that skops needs to store a DecisionTreeRegressor: containers, numbers, arrays, and the tree
# itself.
_TREE_TYPES = {
    ("builtins", "dict", "DictNode"),
    ("builtins", "list", "ListNode"),
    ("builtins", "tuple", "TupleNode"),
    ("builtins", "str", "JsonNode"),
    ("builtins", "str", "TypeNode"),
    ("numpy", "ndarray", "NdArrayNode"),
    ("sklearn.tree._classes", "DecisionTreeRegressor", "ObjectNode"),
    ("sklearn.tree._tree", "Tree", "TreeNode"),
}


def read_tree(folder: Path) -> Any:
    """Read a scikit-learn decision tree, admitting the types of `_TREE_TYPES` alone.

    skops would construct any scikit-learn estimator that a file names, so the types are checked before. A
    tree's node indices are followed without bounds by scikit-learn, so they are checked after.

    Raises
    ------
    StoreError
        If the file is damaged, holds another type, or its nodes do not form a tree.
    """
    import skops.io
    from sklearn.tree import DecisionTreeRegressor

    path = folder / WEIGHTS["tree"]
    try:
        with zipfile.ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
        types = set(_types(schema))
        if not types <= _TREE_TYPES:
            strange = ", ".join(sorted(f"{module}.{kind}" for module, kind, _ in types - _TREE_TYPES))
            raise StoreError(
                f"holds types that a decision tree has not ({strange})", remedy=_REMEDY, path=path
            )
        tree = skops.io.load(path, trusted=["sklearn.tree._tree.Tree"])
    except StoreError:
        raise
    # A hostile file can fail in any way inside zipfile, json and skops; each is the same fault to the user.
    except Exception as error:
        raise StoreError(f"is not a stored decision tree ({error})", remedy=_REMEDY, path=path) from error
    if type(tree) is not DecisionTreeRegressor or not _is_tree(tree):
        raise StoreError("does not hold a sound decision tree", remedy=_REMEDY, path=path)
    return tree


def _types(node: Any) -> list[tuple[str, str, str]]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [kind for child in children for kind in _types(child)]
    if isinstance(node, dict) and ("__loader__" in node or "__class__" in node):
        found.append((str(node.get("__module__")), str(node.get("__class__")), str(node.get("__loader__"))))
    return found


def _is_tree(estimator: Any) -> bool:
    tree = getattr(estimator, "tree_", None)
    features = getattr(estimator, "n_features_in_", None)
    if tree is None or not isinstance(features, int) or tree.n_features != features:
        return False
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    inner = left != -1
    # scikit-learn numbers children after their parent; with that, no walk can leave the array or turn in
    # circles.
    parents = np.flatnonzero(inner)
    return bool(
        len(left) == tree.node_count >= 1
        and (right[~inner] == -1).all()
        and all(((child[inner] > parents) & (child[inner] < len(left))).all() for child in (left, right))
        and ((feature[inner] >= 0) & (feature[inner] < features)).all()
        and tree.value.shape == (len(left), 1, 1)
    )


def write_text(text: str, folder: Path) -> None:
    """Write a LightGBM model in its text format."""
    (folder / WEIGHTS["lightgbm"]).write_text(text, encoding="utf-8")


def read_text(folder: Path) -> str:
    """Read a LightGBM model's text.

    Raises
    ------
    StoreError
        If the file is not such a text.
    """
    path = folder / WEIGHTS["lightgbm"]
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StoreError("is not a LightGBM text", remedy=_REMEDY, path=path) from error
    head, *blocks = text.partition("\nend of trees")[0].split("\nTree=")
    if not text.startswith("tree\n") or "\nend of trees" not in text or not blocks:
        raise StoreError("is not a LightGBM text", remedy=_REMEDY, path=path)
    try:
        features = int(_entries(head)["max_feature_idx"]) + 1
        sound = all(_is_text_tree(_entries(block), features) for block in blocks)
    except (KeyError, ValueError) as error:
        raise StoreError(f"is a damaged LightGBM text ({error})", remedy=_REMEDY, path=path) from error
    if not sound:
        raise StoreError("does not hold sound trees", remedy=_REMEDY, path=path)
    return text


def _entries(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _is_text_tree(entries: dict[str, str], features: int) -> bool:
    leaves = int(entries["num_leaves"])
    # Neither categories nor linear leaves are ever fitted here, and both would add indices to follow.
    if leaves < 1 or entries["num_cat"] != "0" or entries.get("is_linear", "0") != "0":
        return False
    if len(entries["leaf_value"].split()) != leaves:
        return False
    if leaves == 1:
        return True
    nodes = np.arange(leaves - 1)
    numbers = {
        key: np.array(entries[key].split(), dtype=np.int64)
        for key in ("split_feature", "decision_type", "left_child", "right_child")
    }
    if any(array.shape != nodes.shape for array in numbers.values()):
        return False
    # LightGBM numbers an inner child after its parent, and a leaf i as -1 - i.
    sides = (numbers["left_child"], numbers["right_child"])
    return bool(
        all(((child < 0) | (child > nodes)).all() for child in sides)
        and all(((child >= -leaves) & (child < leaves - 1)).all() for child in sides)
        and ((numbers["split_feature"] >= 0) & (numbers["split_feature"] < features)).all()
        and (numbers["decision_type"] & 1 == 0).all()
    )


def write_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a network's weights as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS["vggnet12"])


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read a network's weights.

    Raises
    ------
    StoreError
        If the file is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS["vggnet12"]
    try:
        # Cloned, since the file's own memory is not aligned to 64 bytes and the kernels then round
        # differently.
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"is not safetensors ({error})", remedy=_REMEDY, path=path) from error
    return tensors


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
