"""What every model is: the protocol, its inputs and outputs, and the registry by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

Arrays = dict[str, NDArray[np.float32]]
"""Model inputs by modality: ``image`` (n, bands, size, size), ``spectrum`` (n, bins); NaN where invalid."""

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and a line about it."""

_BLOCK = 1024  # objects of a dataset in memory at a time

MODALITIES = {"image": 4, "spectrum": 2}
"""Number of dimensions of each modality's array, objects first, in the order in which fusion joins them."""


class History(TypedDict):
    """Course of a training.

    Attributes
    ----------
    train, valid : list of float
        Root mean square error by epoch (network) or iteration (boosting), in the label's unit. The training
        curve of a network is the running mean over the epoch with dropout at work, so it may lie above
        `valid`.
    best : int
        Index of the lowest `valid`: the state that the fitted model keeps.
    """

    train: list[float]
    valid: list[float]
    best: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of n objects.

    Attributes
    ----------
    value : ndarray of float64, shape (n,)
        In the label's unit.
    """

    value: NDArray[np.float64]


class Model(ABC):
    """A regression from one modality or several to one label.

    The modalities that `fit` receives decide what the model is: one, a model of that modality; both, early
    fusion (trees read the concatenated features, networks join the features of their branches).

    Parameters
    ----------
    **params
        Hyperparameters of the concrete model, kept for the model file.

    Attributes
    ----------
    shapes : dict of str to tuple
        Shape of one object in each modality that the model was fitted on; empty before `fit`.
    card : dict
        What `save` writes beside the model's own state; the caller fills ``label``, ``inputs``, ``split`` and
        ``metrics`` (see `skyfuse.models.files.Card`), loading fills everything.
    """

    name: ClassVar[str]

    def __init__(self, **params: Any) -> None:
        self.params = params
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.card: dict[str, Any] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the fitted model reads."""
        return tuple(self.shapes)

    def fit(
        self,
        train: Arrays,
        y: ArrayLike,
        valid: Arrays,
        y_valid: ArrayLike,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> History:
        """Fit on the training part; the validation part decides when to stop and what to keep.

        Parameters
        ----------
        train, valid : dict of str to ndarray
            See `Arrays`; both with the same modalities and shapes.
        y, y_valid : array_like, shape (n,)
            Labels, finite.
        seed : int
            Two fits with the same seed, data and thread count on one processor give the same model.
        folder : path, optional
            Where a long training keeps its checkpoint; a later call with the same data, seed and parameters
            goes on from there. Empty again after the training.
        progress : callable, optional
            See `Progress`.

        Returns
        -------
        History

        Raises
        ------
        DataError
            If the arrays do not fit each other, a label is not finite, or a part is too small.
        """
        train, labels = _checked(train, y, "training")
        valid, valid_labels = _checked(valid, y_valid, "validation")
        shapes = {modality: array.shape[1:] for modality, array in train.items()}
        valid_shapes = {modality: array.shape[1:] for modality, array in valid.items()}
        if shapes != valid_shapes:
            raise DataError(
                f"training inputs are {shapes} and validation inputs are {valid_shapes}",
                remedy="take both from one dataset at the same zooms",
            )
        history = self._fit(train, labels, valid, valid_labels, seed=seed, folder=folder, progress=progress)
        self.shapes = shapes
        return history

    def predict(self, x: Arrays | Dataset, *, progress: Progress | None = None) -> Prediction:
        """Predict the label of each object.

        Parameters
        ----------
        x : dict of str to ndarray, or Dataset
            The modalities that the model was fitted on, in the same shapes; others are ignored. Of a dataset
            all objects are read, block by block, at the zooms that the model's card names.
        progress : callable, optional
            See `Progress`; called where `x` is a dataset.

        Returns
        -------
        Prediction

        Raises
        ------
        UsageError
            If the model is not fitted, or its card does not tell how to read a dataset.
        DataError
            If a modality is missing or has another shape than the model knows, or a dataset lacks what the
            model reads or was made on another wavelength grid or cutout size.
        """
        if not self.shapes:
            raise UsageError("the model is not fitted", remedy="call fit first, or load a saved model")
        if not isinstance(x, Mapping):
            return self._predict_dataset(x, progress)
        missing = [modality for modality in self.shapes if modality not in x]
        if missing:
            raise DataError(
                f"the model reads {' and '.join(self.shapes)}, and {' and '.join(missing)} is not given",
                remedy="give every modality that the model was fitted on",
            )
        x = _arrays({modality: x[modality] for modality in self.shapes})
        for modality, shape in self.shapes.items():
            if x[modality].shape[1:] != shape:
                raise DataError(
                    f"{modality} has shape {x[modality].shape[1:]}, and the model reads {shape}",
                    remedy="cut the inputs at the zoom, bands and size of the model's training",
                )
        if not len(next(iter(x.values()))):
            return Prediction(np.empty(0))
        return Prediction(self._predict(x))

    def _predict_dataset(self, dataset: Dataset, progress: Progress | None) -> Prediction:
        from skyfuse.dataset.dataset import Dataset

        if not isinstance(dataset, Dataset):
            raise UsageError(
                f"a model cannot predict for a {type(dataset).__name__}",
                remedy="give arrays by modality or a Dataset, and folders to skyfuse predict",
            )
        zooms = self.require_inputs(dataset)
        values = [np.empty(0)]
        for start in range(0, len(dataset), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(dataset)))
            values.append(self.predict(dataset.inputs(zooms, rows)).value)
            if progress is not None:
                progress(start + len(rows), len(dataset), "predict")
        return Prediction(np.concatenate(values))

    def require_inputs(self, dataset: Dataset, path: Path | None = None) -> dict[str, int]:
        """Return the zooms to read from a dataset, refusing one that the model would read as something else.

        Parameters
        ----------
        dataset : Dataset
        path : path, optional
            What errors call the dataset; by default its own folder.

        Raises
        ------
        UsageError
            If the model's card does not tell its inputs.
        DataError
            If the dataset lacks a zoom, or was made with other bands, size or grid.
        """
        path = dataset.path if path is None else path
        inputs = self.card.get("inputs")
        if not inputs:
            raise UsageError(
                "the model's card does not tell at which zooms it reads a dataset",
                remedy="give it dataset.inputs({modality: zoom}, rows), or fill card['inputs'] before saving",
            )
        image, spectrum = dataset.meta["image"], dataset.meta["spectrum"]
        has = {"bands": image["bands"], "size": image["size"], "grid": spectrum["grid"]}
        for key, value in has.items():
            wanted = inputs.get(key)
            if wanted is not None and wanted != value:
                raise DataError(
                    f"was made with {key} {value}, the model with {wanted}",
                    path=path,
                    remedy=f"build it with {wanted}",
                )
        for modality, zoom in inputs["zooms"].items():
            if zoom not in dataset.zooms.get(modality, ()):
                raise DataError(
                    f"does not hold {modality} zoom {zoom}, which the model reads",
                    path=path,
                    remedy="give the cube instead",
                )
        return {modality: int(zoom) for modality, zoom in inputs["zooms"].items()}

    def save(self, folder: str | Path) -> Path:
        """Write the model into a folder; ``model.json`` last, so that a folder that has it is whole.

        Raises
        ------
        UsageError
            If the model is not fitted.
        """
        from skyfuse.models.files import save_model

        return save_model(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model of this class; nothing in the folder is executed.

        Raises
        ------
        StoreError
            If the folder holds no model, a damaged one, or one of another class.
        """
        from skyfuse.models.files import load_model

        model = load_model(folder)
        if not isinstance(model, cls):
            raise StoreError(
                f"holds a {model.name} model, not {cls.name}",
                remedy="load it with skyfuse.load_model, which takes any",
                path=folder,
            )
        return model

    @abstractmethod
    def _fit(
        self,
        train: Arrays,
        y: NDArray[np.float64],
        valid: Arrays,
        y_valid: NDArray[np.float64],
        *,
        seed: int,
        folder: Path | None,
        progress: Progress | None,
    ) -> History: ...

    @abstractmethod
    def _predict(self, x: Arrays) -> NDArray[np.float64]: ...

    @abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the weights and return the JSON state that `_read` needs beside them."""

    @classmethod
    @abstractmethod
    def _read(
        cls, folder: Path, params: dict[str, Any], shapes: dict[str, tuple[int, ...]], state: dict[str, Any]
    ) -> Self:
        """Rebuild the model from what `_write` left."""


class _Registry(Mapping[str, type[Model]]):
    """Model classes by name, each imported when it is first asked for (PyTorch alone takes seconds)."""

    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type[Model]:
        module, attribute = self._places[name]
        found: type[Model] = getattr(importlib.import_module(module), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


MODELS: Mapping[str, type[Model]] = _Registry(
    {
        "tree": ("skyfuse.models.classic", "DecisionTree"),
        "lightgbm": ("skyfuse.models.classic", "LightGBM"),
        "vggnet12": ("skyfuse.models.networks", "VGGNet12"),
        "late": ("skyfuse.models.fusion", "LateFusion"),
    }
)
"""Model classes by name."""


def rmse(error: NDArray[np.float64]) -> float:
    """Root mean square of an error."""
    return float(np.sqrt(np.mean(np.square(error))))


def _arrays(x: Mapping[str, ArrayLike]) -> Arrays:
    unknown = [modality for modality in x if modality not in MODALITIES]
    if unknown or not x:
        raise DataError(
            f"inputs are {', '.join(map(repr, x)) or 'empty'}",
            remedy=f"give one or more of {', '.join(MODALITIES)}",
        )
    arrays = {m: np.ascontiguousarray(x[m], dtype=np.float32) for m in MODALITIES if m in x}
    for modality, array in arrays.items():
        if array.ndim != MODALITIES[modality] or 0 in array.shape[1:]:
            raise DataError(
                f"{modality} has shape {array.shape}",
                remedy="give image as (n, bands, size, size) and spectrum as (n, bins)",
            )
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{len(array)} of {modality}" for modality, array in arrays.items())
        raise DataError(f"modalities differ in their number of objects ({counts})", remedy="align their rows")
    return arrays


def _checked(x: Arrays, y: ArrayLike, part: str) -> tuple[Arrays, NDArray[np.float64]]:
    arrays = _arrays(x)
    labels = np.asarray(y, dtype=np.float64)
    n = len(next(iter(arrays.values())))
    if labels.shape != (n,):
        raise DataError(
            f"{part} labels have shape {labels.shape} for {n} objects",
            remedy="give one label for each object",
        )
    if n < 2:
        raise DataError(f"the {part} part has {n} objects", remedy="give at least 2, better hundreds")
    if not np.isfinite(labels).all():
        raise DataError(
            f"{np.count_nonzero(~np.isfinite(labels))} {part} labels are not finite",
            remedy="drop these objects in the dataset's funnel",
        )
    return arrays, labels
