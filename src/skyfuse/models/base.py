"""What every model is: the protocol, its inputs and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.dataset.content import CUT
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models.inputs import SIGMA, Arrays, inside, kinds_of, slots_of
from skyfuse.models.mirror import Mirror
from skyfuse.models.mixture import Mixture
from skyfuse.words import Kind, Modality, Progress

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset
    from skyfuse.models.applicability import Applicability
    from skyfuse.models.shift import Evidence, Weighted
    from skyfuse.models.uncertainty import Conformal

METRIC: Mapping[Kind, str] = {"regression": "RMSE", "classification": "log loss", "reconstruction": "MSE"}
"""Error that a training lowers, by kind; the name that `History` gives it."""

_BLOCK = 1024  # objects of a dataset in memory at a time


class History(TypedDict):
    """Course of a training.

    Attributes
    ----------
    train, valid : list of float
        Error by epoch (network) or iteration (boosting): root mean square error in the label's unit, log loss
        (classification), mean squared error in scaled units (reconstruction). The training curve of a network
        is the running mean over the epoch with dropout at work, so it may lie above `valid`.
    best : int
        Index of the lowest `valid`: the state that the fitted model keeps.
    metric : str
        Which error: a value of `METRIC`.
    """

    train: list[float]
    valid: list[float]
    best: int
    metric: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Objects that a model learns from, or that judge how well it learns.

    Attributes
    ----------
    x : dict of str to ndarray
        Their inputs, see `skyfuse.models.inputs.Arrays`.
    y : array_like, shape (n,), optional
        Regression: labels, finite. Classification: indices of classes. Reconstruction: None.
    weight : array_like, shape (n,), optional
        Weight of each object in the training, positive; only the ratios count.
    """

    x: Arrays
    y: ArrayLike | None = None
    weight: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What `Model.fit` hands to a concrete model's `_fit`: checked data, and all else that a training needs.

    Attributes
    ----------
    train, valid : dict of str to ndarray
        Inputs as they are called inside a model, see `skyfuse.models.inputs`; of equal names and shapes,
        float32, C-contiguous.
    y, y_valid : ndarray, shape (n,)
        float64 labels (regression), int64 indices into `classes` (classification; the training part holds at
        least two of them, not always all), zeros that nobody reads (reconstruction).
    kind : str
        See `skyfuse.words.Kind`.
    classes : tuple of str
        Names of the classes; empty unless `kind` is classification.
    weight : ndarray of float64, shape (n,), optional
        Weight of each training object, positive, 1 in the mean.
    seed : int
    folder : path, optional
        Where a long training keeps its checkpoint.
    progress : callable, optional
        See `Progress`.
    """

    train: Arrays
    y: NDArray[Any]
    valid: Arrays
    y_valid: NDArray[Any]
    kind: Kind
    classes: tuple[str, ...]
    weight: NDArray[np.float64] | None
    seed: int
    folder: Path | None
    progress: Progress | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one object in each array."""
        return {name: array.shape[1:] for name, array in self.train.items()}

    def mirrored(self, mirror: Mirror) -> Lesson:
        """Return a lesson of these objects and of their mirror images."""
        return replace(
            self,
            train=mirror.both(self.train),
            y=np.concatenate([self.y, mirror.labels(self.y)]),
            valid=mirror.both(self.valid),
            y_valid=np.concatenate([self.y_valid, mirror.labels(self.y_valid)]),
            weight=None if self.weight is None else np.tile(self.weight, 2),
        )

    def history(self, train: NDArray[np.float64], valid: NDArray[np.float64]) -> History:
        """Return the course of a training at one stroke, from what the model then predicts for both parts.

        Parameters
        ----------
        train, valid : ndarray of float64
            As the `value` of an `Output`.
        """
        return History(
            train=[loss(train, self.y, self.kind)],
            valid=[loss(valid, self.y_valid, self.kind)],
            best=0,
            metric=METRIC[self.kind],
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of n objects.

    Attributes
    ----------
    value : ndarray, shape (n,)
        Regression: float64 in the label's unit. Classification: int64, index of the most probable class.
        Reconstruction: float64, mean squared error of each object in the model's scaled units.
    probability : ndarray of float64, shape (n, classes), optional
        Classification: rows sum to 1.
    classes : tuple of str
        Names of the classes.
    low, high : ndarray of float64, shape (n,), optional
        Calibrated regression: the interval that holds the label with probability `level`. With `pieces` the
        lowest and the highest of their ends.
    pieces : ndarray of float64, shape (n, k, 2), optional
        Calibrated regression of a model that tells a `Mixture`: the intervals, apart and in order, that
        together hold the label with probability `level`; NaN where an object has fewer than k.
    members : ndarray of bool, shape (n, classes), optional
        Calibrated classification: the classes in the object's set, which holds the true one with probability
        `level`. A set may be empty: no known class is credible at this level.
    level : float, optional
        Known once the model is calibrated.
    unknown : ndarray of bool, shape (n,), optional
        Of models that can say so: the object is none of the kind that the model knows.
    """

    value: NDArray[Any]
    probability: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    pieces: NDArray[np.float64] | None = None
    members: NDArray[np.bool_] | None = None
    level: float | None = None
    unknown: NDArray[np.bool_] | None = None

    @property
    def names(self) -> NDArray[np.str_]:
        """Name of the most probable class of each object (classification).

        Raises
        ------
        UsageError
            If the model predicts no classes.
        """
        if not self.classes:
            raise UsageError("the model predicts no classes", remedy="read value instead of names")
        names: NDArray[np.str_] = np.array(self.classes)[self.value]
        return names


@dataclass(frozen=True, slots=True)
class Output:
    """What a concrete model tells of n objects.

    Attributes
    ----------
    value : ndarray of float64
        Values (n,), probabilities (n, classes) or errors of a reconstruction (n,).
    unknown : ndarray of bool, shape (n,), optional
        True where the object is none of the kind that the model knows.
    scale : ndarray of float64, shape (n,), optional
        Regression: how far off each value may be, positive, in the model's own idea; only the ratios count.
    mixture : Mixture, optional
        Regression: a posterior with several peaks.
    """

    value: NDArray[np.float64]
    unknown: NDArray[np.bool_] | None = None
    scale: NDArray[np.float64] | None = None
    mixture: Mixture | None = None


class Model(ABC):
    """A map from one input or several to a label, a class, or the input itself.

    The inputs that `fit` receives decide what the model is: one, a model of that input; several, early
    fusion (classic models read the concatenated features, networks join the features of their branches).

    A concrete model sets the class attributes `name`, `kinds`, `weights` and `libraries`, and writes `_fit`,
    `_predict`, `_write` and `_read`; `shapes`, `kind` and `classes` are set before any of these is called.

    Parameters
    ----------
    **params
        Hyperparameters of the concrete model, kept for the model file.

    Attributes
    ----------
    name : str
        Key of `skyfuse.models.MODELS`, in recipes and model files.
    title : str
        Its name in figures and tables.
    kinds : frozenset of str
        What the class can learn, see `skyfuse.words.Kind`.
    reads_templates : bool
        Whether its parameter ``templates`` names a folder of eigentemplates.
    reads_sigma : bool
        Whether it takes the σ of spectra beside them where it is given; others never see it.
    weighs : bool
        Whether it takes sample weights.
    symmetric : bool
        Whether its answers swap with the mirror's classes by what it is made of.
    weights : tuple of str
        Names of the files that `_write` leaves in a model's folder.
    libraries : tuple of str
        Distributions whose versions the model's card records.
    defaults : mapping of str to value
        All parameters with their default values, of a class that has too many for a signature.
    fitted : bool
        Whether `fit` has succeeded, or the model was loaded.
    inputs : dict of str to str
        Kind of each input that the model was fitted on, by its name, in the order in which they are joined;
        empty before `fit`.
    shapes : dict of str to tuple
        Shape of one object in each array that the model was fitted on, by what it is called inside (see
        `skyfuse.models.inputs`); empty before `fit`.
    kind : str
        What it was fitted for, see `skyfuse.words.Kind`.
    classes : tuple of str
        Classification: names of the classes, in the order of the probabilities.
    mirror : Mirror, optional
        Classification: what a mirror does to the objects; set before `fit`. A model that is not `symmetric`
        then learns from all objects and their mirror images, and answers with the mean over both, so that
        the classes swap exactly where an object is mirrored.
    interval : Conformal or Weighted, optional
        Set by `calibrate`; weighted for a target survey by `skyfuse.study.calibrate`.
    applicability : Applicability, optional
        What its training looked like; whoever fits a model sets it.
    evidence : Evidence, optional
        What is kept of the objects that it was calibrated on; whoever calibrates it sets it.
    card : dict
        What `save` writes beside the model's own state; the caller fills ``label``, ``inputs``, ``split`` and
        ``metrics`` (see `skyfuse.models.files.Card`), loading fills everything.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    kinds: ClassVar[frozenset[Kind]]
    reads_templates: ClassVar[bool] = False
    reads_sigma: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False
    weights: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, **params: Any) -> None:
        self.params = params
        self.inputs: dict[str, Modality] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kind: Kind = "regression"
        self.classes: tuple[str, ...] = ()
        self.mirror: Mirror | None = None
        self.interval: Conformal | Weighted | None = None
        self.applicability: Applicability | None = None
        self.evidence: Evidence | None = None
        self.card: dict[str, Any] = {}
        self.fitted = False

    @classmethod
    def completed(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `defaults` with these parameters in their place.

        Raises
        ------
        UsageError
            If the class has no parameter of a name.
        """
        for name in params:
            if name not in cls.defaults:
                raise UsageError(
                    f"{cls.name} has no parameter {name}", remedy=f"it has {', '.join(cls.defaults)}"
                )
        return {**cls.defaults, **params}

    @property
    def _names(self) -> dict[str, str]:
        """Name of each array that the fitted model reads, by what it is called inside."""
        names = slots_of(self.inputs)
        return {slot: names[slot] for slot in self.shapes}

    def fit(
        self,
        train: Examples,
        valid: Examples,
        *,
        seed: int,
        kind: Kind = "regression",
        classes: Sequence[str] = (),
        inputs: Mapping[str, Modality] | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> History:
        """Fit on the training part; the validation part decides when to stop and what to keep.

        Parameters
        ----------
        train, valid : Examples
            Both with the same inputs and shapes; labels of a classification are indices into `classes`. Only
            the training part may have weights.
        seed : int
            Two fits with the same seed, data and thread count on one processor give the same model.
        kind : str
            See `skyfuse.words.Kind`.
        classes : sequence of str
            Classification: the names of all classes, two or more.
        inputs : mapping of str to str, optional
            Kind of each input that is not called by it: ``image``, ``spectrum`` or ``table``.
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
        UsageError
            If the model cannot learn this kind, or cannot take weights, or the validation part has some, or
            the classes are no classes.
        DataError
            If the arrays do not fit each other, a label is not finite or no index of a class, or a part is
            too small.
        """
        classes = tuple(classes)
        self._require_learnable(train, valid, kind, classes)
        kinds, valid_kinds = kinds_of(train.x, inputs), kinds_of(valid.x, inputs)
        x, x_valid = (
            {
                slot: array
                for slot, array in inside(part.x, own).items()
                if self.reads_sigma or not slot.endswith(SIGMA)
            }
            for part, own in ((train, kinds), (valid, valid_kinds))
        )
        labels = _checked(x, train.y, "training", kind, len(classes))
        valid_labels = _checked(x_valid, valid.y, "validation", kind, len(classes))
        if kind == "classification" and len(np.unique(labels)) < 2:
            raise DataError(
                "the training part holds a single class", remedy="take a larger dataset, or merge classes"
            )
        lesson = Lesson(
            train=x,
            y=labels,
            valid=x_valid,
            y_valid=valid_labels,
            kind=kind,
            classes=classes,
            weight=None if train.weight is None else _weights(train.weight, len(labels)),
            seed=seed,
            folder=folder,
            progress=progress,
        )
        shapes = {name: array.shape[1:] for name, array in x_valid.items()}
        if lesson.shapes != shapes or kinds != valid_kinds:
            raise DataError(
                f"training inputs are {lesson.shapes} and validation inputs are {shapes}",
                remedy="take both from one dataset at the same zooms",
            )
        self.fitted, self.interval, self.applicability, self.evidence = False, None, None, None
        self.inputs, self.shapes, self.kind, self.classes = kinds, shapes, kind, classes
        mirror = self._outer_mirror
        history = self._fit(lesson if mirror is None else lesson.mirrored(mirror))
        self.fitted = True
        return history

    def _require_learnable(
        self, train: Examples, valid: Examples, kind: Kind, classes: tuple[str, ...]
    ) -> None:
        """Refuse what this class cannot learn, classes that are none, and weights that nobody heeds."""
        if kind not in get_args(Kind) or kind not in self.kinds:
            raise UsageError(
                f"{self.name} cannot learn {kind}", remedy=f"it learns {' and '.join(sorted(self.kinds))}"
            )
        named = len(classes) > 1 and len(set(classes)) == len(classes)
        if named != (kind == "classification") or (classes and not named):
            raise UsageError(
                f"{kind} got the classes {', '.join(classes) or 'none'}",
                remedy="name two or more different classes for classification, and none for anything else",
            )
        if self.mirror is not None and len(self.mirror.becomes) != len(classes):
            raise UsageError(
                f"the mirror is for {len(self.mirror.becomes)} classes, not for {len(classes)}",
                remedy="make one of these classes, or set mirror to None",
            )
        if train.weight is not None and not self.weighs:
            raise UsageError(
                f"{self.name} takes no weights of objects", remedy="balance with smote or rarest instead"
            )
        if valid.weight is not None:
            raise UsageError(
                "the validation part got weights of objects", remedy="give weights to the training part alone"
            )

    def predict(self, x: Arrays | Dataset, *, progress: Progress | None = None) -> Prediction:
        """Predict for each object, with an interval or a set of classes once the model is calibrated.

        Parameters
        ----------
        x : dict of str to ndarray, or Dataset
            The inputs that the model was fitted on, in the same shapes; others are ignored. Of a dataset
            all objects are read, block by block, as the model's card says.
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
            If an input is missing or has another shape than the model knows, or a dataset lacks what the
            model reads or was made on another wavelength grid or cutout size.
        """
        self._require_fitted()
        if not isinstance(x, Mapping):
            return self._predict_dataset(x, progress)
        x = self._inside(x)
        return self._told(self._output(x), x)

    def _told(self, output: Output, x: Arrays) -> Prediction:
        """Return what is said of objects, with what holds the truth once the model is calibrated."""
        if self.interval is None:
            return said(output, self.classes)
        return said(output, self.classes, self.interval.level, self._limits(self.interval, output, x))

    def _limits(self, interval: Conformal | Weighted, output: Output, x: Arrays) -> dict[str, NDArray[Any]]:
        """Return what a calibration says of an output, see `Conformal.limits`."""
        return interval.limits(output, x)

    def _output(self, x: Arrays) -> Output:
        """Return what the model tells of arrays as they are called inside; of none, too."""
        if not len(next(iter(x.values()))):
            return Output(np.empty((0, len(self.classes)) if self.classes else 0))
        mirror = self._outer_mirror
        found = self._predict(x if mirror is None else mirror.both(x))
        output = found if isinstance(found, Output) else Output(found)
        if mirror is None:
            return output
        unknown = None if output.unknown is None else np.split(output.unknown, 2)[0]
        return Output(mirror.mean(output.value), unknown=unknown)

    @property
    def _outer_mirror(self) -> Mirror | None:
        """The mirror for which `_fit` and `_predict` do not provide themselves."""
        return None if self.symmetric else self.mirror

    def _inside(self, x: Mapping[str, ArrayLike]) -> Arrays:
        """Return what the model reads of some inputs, as it is called inside."""
        names = self._names
        missing = [name for name in names.values() if name not in x]
        if missing:
            raise DataError(
                f"the model reads {' and '.join(names.values())}, and {' and '.join(missing)} is not given",
                remedy="give every input that the model was fitted on",
            )
        arrays = inside({name: x[name] for name in names.values()}, self.inputs)
        for slot, shape in self.shapes.items():
            if arrays[slot].shape[1:] != shape:
                raise DataError(
                    f"{names[slot]} has shape {arrays[slot].shape[1:]}, and the model reads {shape}",
                    remedy="cut the inputs at the zoom, bands, size and columns of the model's training",
                )
        return arrays

    def _require_fitted(self) -> None:
        if not self.fitted:
            raise UsageError("the model is not fitted", remedy="call fit first, or load a saved model")

    def calibrate(
        self, x: Arrays, y: ArrayLike, *, level: float = 0.9, beside: Examples | None = None
    ) -> None:
        """Learn from objects that took no part in the fit how far predictions are off.

        Afterwards `predict` gives intervals (regression) or sets of classes (classification) that hold the
        truth with probability `level`, whatever the model is worth, as long as new objects are like these.

        Parameters
        ----------
        x : dict of str to ndarray
            The calibration part.
        y : array_like, shape (n,)
            Its labels, as for `fit`.
        level : float
            Between 0 and 1.
        beside : Examples, optional
            Other objects that the model was not fitted on, e.g. the validation part: they help to tell which
            are difficult, and have no part in what is promised.

        Raises
        ------
        UsageError
            If the model is not fitted or reconstructs its input, or `level` is no probability.
        DataError
            If labels do not fit, or there are too few objects for this level.
        """
        from skyfuse.models.uncertainty import Conformal

        if self.kind == "reconstruction":
            raise UsageError(
                "a reconstruction has nothing to be calibrated on", remedy="calibrate models with a label"
            )
        self._require_fitted()
        self.interval = None

        def told(x: Arrays, y: ArrayLike | None, part: str) -> tuple[Output, NDArray[Any], Arrays]:
            arrays = self._inside(x)
            labels = _checked(arrays, y, part, self.kind, len(self.classes))
            return self._output(arrays), labels, arrays

        known = told(x, y, "calibration")
        # Classes and densities tell by themselves what is difficult.
        helped = beside is not None and self.kind == "regression" and known[0].mixture is None
        helpers = told(beside.x, beside.y, "validation") if beside is not None and helped else None
        self.interval = Conformal.fit(*known, level=level, beside=helpers)

    def _predict_dataset(self, dataset: Dataset, progress: Progress | None) -> Prediction:
        from skyfuse.dataset.dataset import Dataset

        if not isinstance(dataset, Dataset):
            raise UsageError(
                f"a model cannot predict for a {type(dataset).__name__}",
                remedy="give arrays by input or a Dataset, and folders to skyfuse predict",
            )
        return joined([self.predict(x) for x in self.read(dataset, progress=progress)])

    def read(self, dataset: Dataset, *, progress: Progress | None = None) -> Iterator[Arrays]:
        """Yield what the model reads of a dataset, block by block, as its card says.

        Parameters
        ----------
        dataset : Dataset
        progress : callable, optional
            See `Progress`; called when a block is done with.

        Raises
        ------
        UsageError, DataError
            As `require_inputs`.
        """
        inputs = self.require_inputs(dataset)
        for start in range(0, max(len(dataset), 1), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(dataset)))
            yield dataset.inputs(rows=rows, **inputs)
            if progress is not None:
                progress(start + len(rows), len(dataset), "predict")

    def require_inputs(self, dataset: Dataset, path: Path | None = None) -> dict[str, Any]:
        """Return how to read a dataset for this model, refusing one that it would read as something else.

        Parameters
        ----------
        dataset : Dataset
        path : path, optional
            What errors call the dataset; by default its own folder.

        Returns
        -------
        dict
            Arguments of `Dataset.inputs` except the rows: ``zooms``, ``columns``, ``smooth``, ``sigma``.

        Raises
        ------
        UsageError
            If the model's card does not tell its inputs.
        DataError
            If the dataset lacks a zoom, or was made with another instrument, or other bands, size or grid.
        """
        path = dataset.path if path is None else path
        inputs = self.card.get("inputs")
        if not inputs:
            raise UsageError(
                "the model's card does not tell at which zooms it reads a dataset",
                remedy="give it dataset.inputs({input: zoom}, rows), or fill card['inputs'] before saving",
            )
        for name, one in inputs["inputs"].items():
            if one["kind"] != "table" and one["zoom"] not in dataset.zooms.get(name, ()):
                raise DataError(
                    f"does not hold {name} zoom {one['zoom']}, which the model reads",
                    path=path,
                    remedy="give the cube instead",
                )
            has = dataset.cut(name, one["zoom"])
            for key in CUT:
                if one.get(key) is not None and one[key] != has.get(key):
                    told, wanted = (_listed(value) for value in (has.get(key), one[key]))
                    raise DataError(
                        f"was made with {key} {told} of {name}, the model with {wanted}",
                        path=path,
                        remedy=f"make it with {key} {wanted}",
                    )
        derived = dataset.meta.get("derived") or {}
        for name, one in (inputs.get("derive") or {}).items():
            found = derived.get(name) or {}
            if any(found.get(key) != value for key, value in one.items() if value is not None):
                raise DataError(
                    f"does not hold {name} derived at zoom {one['zoom']}, which the model reads",
                    path=path,
                    remedy="give the files or the cube instead",
                )
        return {
            "zooms": {name: int(one["zoom"]) for name, one in inputs["inputs"].items()},
            "columns": tuple(inputs.get("columns") or ()),
            "smooth": float(inputs.get("smooth") or 0),
            "sigma": any(slot.endswith(SIGMA) for slot in self.shapes),
        }

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
    def _fit(self, lesson: Lesson) -> History:
        """Learn; `shapes`, `kind` and `classes` are set already."""

    @abstractmethod
    def _predict(self, x: Arrays) -> NDArray[np.float64] | Output:
        """Predict for one object or more; `x` holds exactly the arrays of `shapes`, in their order.

        An array alone stands for the `value` of an `Output` that tells no more.
        """

    @abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the files named in `weights` and return the JSON state that `_read` needs beside them."""

    @abstractmethod
    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        """Take up what `_write` left; `params`, `shapes`, `kind` and `classes` are set already."""

    @classmethod
    def _empty(cls, params: dict[str, Any]) -> Self:
        """Return an unfitted model with the parameters that a card names, for `_read` to fill."""
        return cls(**params)


def rmse(error: NDArray[np.float64]) -> float:
    """Root mean square of an error."""
    return float(np.sqrt(np.mean(np.square(error))))


def log_loss(probability: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Mean of −ln of the probability that the true class was given.

    Parameters
    ----------
    probability : ndarray of float64, shape (n, classes)
    y : ndarray of int64, shape (n,)
        Indices of the true classes.
    """
    given = probability[np.arange(len(y)), y]
    # A class that was excluded would otherwise cost infinitely much, and a mean of that says nothing.
    return float(-np.mean(np.log(np.clip(given, np.finfo(np.float64).eps, None))))


def loss(output: NDArray[np.float64], y: NDArray[Any], kind: Kind) -> float:
    """Return the error of `METRIC` that a model of this kind makes.

    Parameters
    ----------
    output : ndarray of float64
        As the `value` of an `Output`.
    y : ndarray, shape (n,)
        Labels; not read for a reconstruction.
    """
    if kind == "regression":
        return rmse(output - y)
    return log_loss(output, y) if kind == "classification" else float(output.mean())


def said(
    output: Output,
    classes: Sequence[str],
    level: float | None = None,
    limits: Mapping[str, NDArray[Any]] | None = None,
) -> Prediction:
    """Return an output as a prediction.

    Parameters
    ----------
    output : Output
    classes : sequence of str
        Of a classification; else empty.
    level : float, optional
    limits : mapping of str to ndarray, optional
        What holds the truth with this probability, see `skyfuse.models.uncertainty.Conformal.limits`.
    """
    value: NDArray[Any] = output.value
    told: dict[str, Any] = {"level": level, "unknown": output.unknown, **(limits or {})}
    if not classes:
        return Prediction(value, **told)
    return Prediction(value.argmax(axis=1), value, tuple(classes), **told)


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Return the predictions for blocks of objects as one."""
    first = parts[0]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Prediction)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    return Prediction(**columns, classes=first.classes, level=first.level)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _checked(arrays: Arrays, y: ArrayLike | None, part: str, kind: Kind, classes: int) -> NDArray[Any]:
    """Return the labels of some inputs."""
    n = len(next(iter(arrays.values())))
    if n < 2:
        raise DataError(f"the {part} part has {n} objects", remedy="give at least 2, better hundreds")
    if kind == "reconstruction":
        if y is not None:
            raise UsageError("a reconstruction got labels", remedy="give None: the input is the label")
        return np.zeros(n)
    labels = np.asarray(y, dtype=np.float64)
    if labels.shape != (n,):
        raise DataError(
            f"{part} labels have shape {labels.shape} for {n} objects",
            remedy="give one label for each object",
        )
    if not np.isfinite(labels).all():
        raise DataError(
            f"{np.count_nonzero(~np.isfinite(labels))} {part} labels are not finite",
            remedy="drop these objects in the dataset's funnel",
        )
    if kind == "regression":
        return labels
    indices = labels.astype(np.int64)
    strange = (indices != labels) | (indices < 0) | (indices >= classes)
    if strange.any():
        raise DataError(
            f"{np.count_nonzero(strange)} {part} labels are no indices of the {classes} classes",
            remedy=f"give whole numbers from 0 to {classes - 1}",
        )
    return indices


def _weights(weight: ArrayLike, n: int) -> NDArray[np.float64]:
    weights = np.asarray(weight, dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or not (weights > 0).all():
        raise DataError(
            f"weights of shape {weights.shape} for {n} objects are not all positive numbers",
            remedy="give one positive weight for each training object",
        )
    scaled: NDArray[np.float64] = weights / weights.mean()
    return scaled
