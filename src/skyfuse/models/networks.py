"""The networks as models: one base that scales, trains, predicts and stores, and a few lines for each."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skyfuse.dataset.features import Scaler, Stretch
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import architectures, files
from skyfuse.models.architectures import Committee, Shapes
from skyfuse.models.base import History, Lesson, Model
from skyfuse.models.inputs import Arrays, kind_of, of_kind
from skyfuse.models.mirror import Mirror
from skyfuse.models.polar import PolarNetwork
from skyfuse.models.pytorch import evaluation_batch, torch_state
from skyfuse.words import Kind, Progress

if TYPE_CHECKING:
    from skyfuse.models.train import Settings

TRAINING = {
    "learning_rate": 1e-3,
    "batch_size": 32,
    "max_epochs": 200,
    "patience": 30,
    "optimiser": "adam",
    "weight_decay": 0.0,
    "schedule": "none",
    "loss": "mse",
    "threads": 1,
}
"""Parameters of every network, with the values that most have."""

_LEAST = {"batch_size": 4}
"""Whole numbers are 1 at least, a batch is 4: batch statistics of fewer are noise."""

_MOST = {
    "width": 4.0,
    "crop": 1.0,
    "convolutions": 12,
    "dense": 12,
    "filters": 4096,
    "units": 8192,
    "latent": 4096,
    "members": 64,
    "channels": 3,
}

_CHOICES = {
    "optimiser": ("adam", "adamax"),
    "schedule": ("none", "cosine"),
    "loss": ("mse", "huber"),
    "activation": ("relu", "tanh"),
}

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Network(Model):
    """What all networks share.

    Inputs are scaled by the training part's own statistics (`skyfuse.dataset.features.Scaler`), invalid
    samples then become 0, the mean; labels are standardised within. Each modality has a branch of its own,
    and their features are joined before the last dense layers (early fusion). Training ends where the
    validation error falls no more, and its best state is kept. One path serves CPU and GPU.

    Parameters
    ----------
    learning_rate : float
        Size of the steps.
    batch_size : int
        Objects between two steps.
    max_epochs : int
        Passes over the training part at most.
    patience : int
        Epochs without a lower validation error after which training stops.
    optimiser : {"adam", "adamax"}
    weight_decay : float, default 0
        How strongly weights are drawn to 0.
    schedule : {"none", "cosine"}
        Of the learning rate; for these three see `skyfuse.models.train.Settings`.
    loss : {"mse", "huber"}
        Of a regression, see `skyfuse.models.train.Settings`; classes are learned by their log loss.
    threads : int, default 1
        CPU threads, one for the reason given at `skyfuse.models.classic.LightGBM`. Two runs agree bit for bit
        on one processor at an equal number.
    **params
        What else the concrete network names in `defaults`.

    Attributes
    ----------
    needs : tuple of str
        Modalities without which the network would not be itself; any others may come beside them.

    Raises
    ------
    UsageError
        If a parameter is unknown or its value impossible.
    """

    kinds = frozenset[Kind]({"regression", "classification"})
    weights = (files.TENSORS,)
    libraries = ("torch",)
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(TRAINING)
    needs: ClassVar[tuple[str, ...]] = ()

    _network: nn.Module
    _scaler: Scaler
    _mean: float = 0.0
    _std: float = 1.0

    def __init__(self, **params: Any) -> None:
        completed = self.completed(params)
        for name, value in params.items():
            _check(name, value, self.defaults[name])
        super().__init__(**completed)

    @abstractmethod
    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """Return the untrained network for inputs of these shapes.

        Parameters
        ----------
        shapes : dict of str to tuple of int
            Shape of one object in each modality.
        outputs : int
            1 for a regression, else the number of classes.

        Raises
        ------
        DataError
            If an input is too small for the layers.
        """

    @property
    def parameter_count(self) -> int:
        """Numbers that the fitted network holds, running statistics of batch normalisation included."""
        return architectures.parameter_count(self._network)

    def _built(self) -> nn.Module:
        """Return the untrained network, or a committee of them where the class has the parameter for it."""
        count = self.params.get("members", 1)
        built = [self.build(self.shapes, len(self.classes) or 1) for _ in range(count)]
        return built[0] if count == 1 else Committee(built)

    def _fit(self, lesson: Lesson) -> History:
        from skyfuse.models.train import Settings

        missing = [modality for modality in self.needs if modality not in lesson.shapes]
        if missing:
            raise UsageError(
                f"{self.name} got no {missing[0]}",
                remedy=f"give {missing[0]}, alone or with others, or take feed-forward or mixed",
            )
        if self.mirror is not None and self.params.get("augment"):
            raise UsageError(
                f"{self.name} would see mirrored images under their old classes",
                remedy="set augment to false",
            )
        self._scaler = self._scaled(lesson.train)
        if lesson.kind == "regression":
            self._mean, self._std = float(lesson.y.mean()), float(lesson.y.std()) or 1.0
        names = Settings.__dataclass_fields__.keys() & self.params.keys()
        settings = Settings(**{name: self.params[name] for name in names}, kind=lesson.kind)
        with torch_state(settings.threads, seed=lesson.seed):
            self._network = self._built()
            return self._train(lesson, settings)

    def _scaled(self, train: Arrays) -> Scaler:
        """Return the scaling of the inputs, fitted on the training part."""
        return _scaler(train)

    def _channels(self, modality: str, shape: tuple[int, ...]) -> int:
        """Return how many channels of a modality have a scale of their own."""
        return 1 if kind_of(modality) == "spectrum" else shape[0]

    def _train(self, lesson: Lesson, settings: Settings) -> History:
        """Train the network, or each member of the committee from a seed of its own."""
        from skyfuse.models.train import CHECKPOINT, Checkpoint, TensorExamples, fit_network

        whole = self._network
        members = list(whole.members) if isinstance(whole, Committee) else [whole]
        seeds = [
            lesson.seed,
            *np.random.SeedSequence(lesson.seed).generate_state(len(members) - 1, np.uint64),
        ]
        paths = [
            lesson.folder and lesson.folder / (f"member-{i}-" * (len(members) > 1) + CHECKPOINT)
            for i in range(len(members))
        ]
        weight = None if lesson.weight is None else torch.from_numpy(lesson.weight).float()
        train = TensorExamples(*self._part(lesson.train, lesson.y), weight)
        valid = TensorExamples(*self._part(lesson.valid, lesson.y_valid))
        histories = [
            fit_network(
                member,
                train,
                valid,
                settings,
                unit=self._std,
                seed=int(seeds[i]),
                checkpoint=None if path is None else Checkpoint(path, keep=len(members) > 1),
                progress=_member_progress(lesson.progress, i, len(members)),
            )
            for i, (member, path) in enumerate(zip(members, paths, strict=True))
        ]
        for path in paths:
            if path is not None:
                path.unlink(missing_ok=True)
        return histories[0] if len(members) == 1 else _mean_history(histories)

    def _part(self, x: Arrays, y: NDArray[Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Return inputs and targets as the network meets them."""
        if self.kind == "classification":
            return self._inputs(x), torch.from_numpy(y)
        return self._inputs(x), torch.from_numpy(((y - self._mean) / self._std).astype(np.float32))

    def _inputs(self, x: Arrays) -> dict[str, Tensor]:
        return {modality: _filled(array) for modality, array in self._scaler.transform(x).items()}

    def _outputs(
        self, x: Arrays, part: Callable[[dict[str, Tensor]], Tensor] | None = None
    ) -> NDArray[np.float64]:
        """Return what the network, or another method of it, gives for each object, shape (n, outputs)."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        n = len(next(iter(x.values())))
        size = evaluation_batch(x)
        values = []
        with torch_state(self.params["threads"], deterministic=True), torch.inference_mode():
            network = self._network.to(device).eval()
            for start in range(0, n, size):
                inputs = self._inputs({name: array[start : start + size] for name, array in x.items()})
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                values.append((part or network)(inputs).cpu())
            network.to("cpu")
        return torch.cat(values).double().numpy()

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        out = self._outputs(x)
        if self.kind == "regression":
            return out[:, 0] * self._std + self._mean
        odds = np.exp(out - out.max(axis=1, keepdims=True))
        probability: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return probability

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_tensors(self._network.state_dict(), folder)
        return {"scaler": self._scaler.to_dict(), "mean": self._mean, "std": self._std}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        # On the meta device the layers cost nothing, whatever sizes a card claims, until the weights have
        # proved them.
        with torch.device("meta"):
            network = self._built()
        network.load_state_dict(files.read_tensors(folder, network), assign=True)
        self._network = network.eval()
        self._scaler = Scaler.from_dict(state["scaler"])
        self._mean, self._std = float(state["mean"]), float(state["std"])
        channels = {modality: len(stretch.mean) for modality, stretch in self._scaler.stretches.items()}
        if channels != {modality: self._channels(modality, shape) for modality, shape in self.shapes.items()}:
            raise StoreError(
                f"scales the channels {channels} where its inputs are {self.shapes}",
                remedy="train the model again",
                path=folder,
            )
        if not (math.isfinite(self._mean) and math.isfinite(self._std)):
            raise StoreError("has no finite label scale", remedy="train the model again", path=folder)


def _check(name: str, value: Any, default: Any) -> None:
    """Refuse a value that a parameter cannot have."""
    if name in _CHOICES:
        sound, remedy = value in _CHOICES[name], f"give {' or '.join(_CHOICES[name])}"
    elif isinstance(default, list):
        most = _MOST[{"hidden": "dense"}.get(name, name)]
        sound = isinstance(value, list) and 1 <= len(value) <= most
        sound = sound and all(type(units) is int and 1 <= units <= _MOST["units"] for units in value)
        remedy = f"give a list of 1 to {most} whole numbers from 1 to {_MOST['units']}"
    elif isinstance(default, bool):
        sound, remedy = isinstance(value, bool), "give true or false"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        sound, remedy = False, "give a number"
    elif isinstance(default, int):
        least, most = _LEAST.get(name, 1), _MOST.get(name, math.inf)
        sound = isinstance(value, int) and least <= value <= most
        remedy = f"give a whole number from {least}" + (f" to {most}" if name in _MOST else "")
    elif name == "weight_decay":
        sound, remedy = 0 <= value < math.inf, "give 0 or a positive number"
    elif name == "dropout":
        sound, remedy = 0 <= value < 1, "give 0 or more and less than 1"
    else:
        most = _MOST.get(name, math.inf)
        sound = 0 < value <= most and math.isfinite(value)
        remedy = "give a positive number" + (f" up to {most}" if name in _MOST else "")
    if not sound:
        raise UsageError(f"{name} is {value!r}", remedy=remedy)


def _mean_history(histories: Sequence[History]) -> History:
    """Return the members' mean curves, over the epochs that all of them went through."""
    train, valid = (
        np.array(list(zip(*(history[part] for history in histories), strict=False))).mean(axis=1)
        for part in ("train", "valid")
    )
    return History(
        train=train.tolist(),
        valid=valid.tolist(),
        best=int(np.nanargmin(valid)),
        metric=histories[0]["metric"],
    )


def _member_progress(progress: Progress | None, member: int, count: int) -> Progress | None:
    """Return what reports a member's epochs among those of the whole committee."""
    if progress is None or count == 1:
        return progress
    return lambda done, total, what: progress(
        member * total + done, count * total, f"member {member + 1} of {count}, {what}"
    )


_LINEAR = 1e4
"""Softening beyond which arcsinh is linear to float32 precision for values up to 1."""


def _scaler(train: Arrays) -> Scaler:
    """Fit the scaling of the inputs; colour images, whose values lie between 0 and 1, stay linear.

    They were stretched when they were made for the eye. Stretched again, they cost `ImageCNN` 6 to 7 in 100
    spirals told from other galaxies (400 images at 48 px, two folds: 0.70 against 0.76 in validation).
    """
    scaler = Scaler.fit(train)
    for slot in of_kind("image", train):
        image = train[slot]
        if np.nanmin(image, initial=0) >= 0 and np.nanmax(image, initial=0) <= 1:
            scaler.stretches[slot] = _linear(image)
    return scaler


def _linear(image: NDArray[np.float32]) -> Stretch:
    """Return what standardises each channel of images, shape (n, channels, size, size), and no more."""
    channels = np.moveaxis(image, 1, 0).reshape(image.shape[1], -1)
    mean, std = np.zeros(len(channels)), np.ones(len(channels))
    for i, values in enumerate(channels):
        known = values[np.isfinite(values)].astype(np.float64)
        if known.size and known.std() > 1e-6:
            mean[i], std[i] = known.mean(), known.std()
    return Stretch(np.full(len(channels), _LINEAR), mean / _LINEAR, std / _LINEAR)


def _ranges(spectra: NDArray[np.float32]) -> Stretch:
    """Return what brings each sample of spectra to 0 … 1 over the training part, by way of arcsinh.

    Parameters
    ----------
    spectra : ndarray of float32, shape (n, bins)
        NaN or infinite where invalid; a bin without two values becomes 0 throughout.
    """
    softening = Stretch.fit(spectra[:, :, None]).softening
    stretched = np.arcsinh(spectra / softening)
    known = np.isfinite(stretched)
    low = stretched.min(axis=0, where=known, initial=np.inf)
    span = stretched.max(axis=0, where=known, initial=-np.inf) - low
    varied = np.isfinite(span) & (span > 0)
    return Stretch(softening, np.where(np.isfinite(low), low, 0.0), np.where(varied, span, 1.0))


def _filled(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0))


# --------------------------------------------------------------------------------------- by name


class FeedForward(Network):
    """Hidden dense layers on all inputs: 69,123 parameters for 5 inputs, 512 and 128 units and 3 classes.

    Batches of 2,048 and 5 epochs suit the hundred thousands of rows of the study; smaller tables need smaller
    batches and more epochs.

    Parameters
    ----------
    hidden : list of int, default [512, 128]
        Units of each hidden layer.
    activation : {"relu", "tanh"}
    dropout : float, default 0
        Share of the units left out at each step, after each hidden layer.
    members : int, default 1
        Networks that differ in their seed alone and answer with their mean, as Collister & Lahav (2004)
        have it for photometric redshifts.
    **params
        See `Network`.
    """

    name = "feed-forward"
    title = "Feed-forward"
    defaults = MappingProxyType(
        {
            **TRAINING,
            "batch_size": 2048,
            "max_epochs": 5,
            "patience": 5,
            "hidden": [512, 128],
            "activation": "relu",
            "dropout": 0.0,
            "members": 1,
        }
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        params = self.params
        activation = _ACTIVATIONS[params["activation"]]
        return architectures.feed_forward(shapes, outputs, params["dropout"], params["hidden"], activation)


class VGGNet12(Network):
    """VGG of twelve layers: nine 3×3 convolutions in five blocks with max-pooling, three dense layers.

    Images of any size and number of bands pass through two-dimensional convolutions, spectra of any length
    through one-dimensional ones, tables through dense layers.

    Parameters
    ----------
    learning_rate : float, default 1e-3
        3e-6 to 1e-3 in the star-formation study, whose small values suit weights trained before.
    width : float, default 0.25
        Factor on the channels 64-128-256-512-512.
    dropout : float, default 0.5
        Share of the units left out at each step, between dense layers.
    augment : bool, default True
        Show images in random orientations: a galaxy on the sky has no preferred one.
    **params
        See `Network`.
    """

    name = "vggnet12"
    title = "VGGNet12"
    defaults = MappingProxyType({**TRAINING, "width": 0.25, "dropout": 0.5, "augment": True})

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        return architectures.vgg(shapes, outputs, self.params["width"], self.params["dropout"])


class GaiaCNN(Network):
    """Network of the Gaia redshift study: 699,073 parameters for 186 fluxes of BP and RP.

    Its loss, optimiser, batches and epochs are the study's, and so is the min-max scaling (§3.3): each
    sample of the spectrum reaches from 0 to 1 over the training part, so that an object keeps its
    brightness. Fluxes go through arcsinh first, which the study's did not: of a range that the brightest
    galaxies set, half of all would fill the lowest twenty-fifth.

    Parameters
    ----------
    **params
        See `Network`.
    """

    name = "gaia-cnn"
    title = "Gaia CNN"
    needs = ("spectrum",)
    defaults = MappingProxyType(
        {
            **TRAINING,
            "batch_size": 16,
            "max_epochs": 20,
            "patience": 20,
            "optimiser": "adamax",
            "loss": "huber",
        }
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        return architectures.gaia_cnn(shapes, outputs)

    def _scaled(self, train: Arrays) -> Scaler:
        scaler = super()._scaled(train)
        scaler.stretches["spectrum"] = _ranges(train["spectrum"])
        return scaler

    def _channels(self, modality: str, shape: tuple[int, ...]) -> int:
        return shape[0]

    def _inputs(self, x: Arrays) -> dict[str, Tensor]:
        inputs = super()._inputs({**x, "spectrum": x["spectrum"][:, :, None]})
        return {**inputs, "spectrum": inputs["spectrum"][:, :, 0]}


class SdssCNN(Network):
    """Tunable network for optical spectra.

    Its study searched 64 to 512 filters, kernels of 3 to 7, pools of 1 to 4, 2 to 6 convolutions, 2 to 6
    dense layers of 64 to 512 units and learning rates of 1e-3 and 1e-4.

    Parameters
    ----------
    convolutions : int, default 4
        Number of convolutions.
    filters : int, default 64
        Of each convolution.
    kernel : int, default 5
        Bins that each convolution sees.
    pool : int, default 2
        Step of the max-pooling after the second, third and fourth convolution; 1 is none.
    dense : int, default 2
        Hidden dense layers.
    units : int, default 128
        Of each hidden dense layer.
    dropout : float, default 0.5
        Between dense layers; a fifth of it between convolutions.
    **params
        See `Network`.
    """

    name = "sdss-cnn"
    title = "SDSS CNN"
    needs = ("spectrum",)
    defaults = MappingProxyType(
        {
            **TRAINING,
            "max_epochs": 60,
            "patience": 10,
            "convolutions": 4,
            "filters": 64,
            "kernel": 5,
            "pool": 2,
            "dense": 2,
            "units": 128,
            "dropout": 0.5,
        }
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        names = architectures.SdssLayers.__annotations__
        layers = architectures.SdssLayers(**{name: self.params[name] for name in names})
        return architectures.sdss_cnn(shapes, outputs, layers)


class Mixed(Network):
    """Mixed-input network: a spectrum branch and a table branch, either of which also works alone.

    Parameters
    ----------
    dropout : float, default 0.5
        Between dense layers; a fifth of it between convolutions.
    **params
        See `Network`.
    """

    name = "mixed"
    title = "Mixed-input network"
    defaults = MappingProxyType({**TRAINING, "max_epochs": 60, "patience": 10, "dropout": 0.5})

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        return architectures.mixed(shapes, outputs, self.params["dropout"])


_IMAGES = {
    **TRAINING,
    "max_epochs": 100,
    "patience": 20,
    "dropout": 0.0,
    "crop": 1.0,
    "augment": True,
    "rotate": False,
    "members": 1,
}


def _oriented(network: nn.Module, params: Mapping[str, Any]) -> nn.Module:
    """Let a network that is trained on turned images answer for all orientations."""
    mirror = params["augment"]
    return architectures.Oriented(network, mirror=mirror) if mirror or params["rotate"] else network


class ImageCNN(Network):
    """Three convolutions, dense 2048 and 1024: 53,760,970 parameters for 3×224×224 and 10 classes.

    Parameters
    ----------
    learning_rate : float, default 1e-4
    batch_size : int, default 16
    dropout : float, default 0.5
        Share of the units left out at each step. These three as the validation parts of a few hundred real
        images chose them.
    crop : float, default 1
        Share of the image's side that is read, around the centre: the object may fill little of it.
    augment, rotate : bool, default True
        Show images mirrored and turned by quarters, and by any angle; the study turned them at random.
    members : int, default 1
        See `FeedForward`.
    **params
        See `Network`.
    """

    name = "image-cnn"
    title = "Image CNN"
    needs = ("image",)
    defaults = MappingProxyType(
        {**_IMAGES, "learning_rate": 1e-4, "batch_size": 16, "dropout": 0.5, "rotate": True}
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        network = architectures.image_cnn(shapes, outputs, self.params["dropout"], self.params["crop"])
        return _oriented(network, self.params)


class ImageFF(Network):
    """Dense layers 256, 512, 256, 128 on the pixels: 38,837,130 parameters for 3×224×224 and 10 classes.

    Parameters
    ----------
    dropout, crop, members : float, float, int
        As `ImageCNN`.
    augment, rotate : bool, default False
        As `ImageCNN`; the study showed this network images as they are.
    **params
        See `Network`.
    """

    name = "image-ff"
    title = "Image feed-forward"
    needs = ("image",)
    defaults = MappingProxyType({**_IMAGES, "augment": False})

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        network = architectures.image_ff(shapes, outputs, self.params["dropout"], self.params["crop"])
        return _oriented(network, self.params)


class ImageLSTM(Network):
    """The convolutions of `ImageCNN`, and an LSTM of 256 over the one frame that an image is.

    Keras counts 26,245,962 numbers for 3×224×224 and 10 classes. PyTorch's LSTM adds a bias to what it reads
    and another to what it remembers, where Keras has their sum alone: 4 · 256 = 1,024 more.

    Parameters
    ----------
    dropout, crop, augment, rotate, members : float, float, bool, bool, int
        As `ImageCNN`.
    **params
        See `Network`.
    """

    name = "image-lstm"
    title = "Image LSTM"
    needs = ("image",)
    defaults = MappingProxyType({**_IMAGES, "rotate": True})

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        network = architectures.image_lstm(shapes, outputs, self.params["dropout"], self.params["crop"])
        return _oriented(network, self.params)


class ResNet50(Network):
    """Residual network of 50 layers (He et al. 2016), begun anew: the study's weights came from photographs.

    Parameters
    ----------
    augment, rotate : bool, default True and False
        As `ImageCNN`.
    **params
        See `Network`.
    """

    name = "resnet50"
    title = "ResNet-50"
    needs = ("image",)
    defaults = MappingProxyType(
        {**TRAINING, "max_epochs": 100, "patience": 20, "augment": True, "rotate": False}
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`."""
        return _oriented(architectures.resnet50(shapes, outputs), self.params)


_WHITE = 0.999
"""Share of the pixels that are darker than white, in images that were not stretched for the eye."""


class PolarCNN(Network):
    """Convolutions of galaxies seen face-on in polar coordinates; see `skyfuse.models.polar`.

    The answer does not depend on how the image lies: not at all for quarter turns, hardly for other angles.
    In a mirror the classes swap that the task names, exactly. A table of what was measured on the image, and
    spectra, may stand beside it.

    Parameters
    ----------
    learning_rate : float, default 1e-3
        At 3e-3 the steps of the first epochs, large as they are, cost it the sense of the arms: its training
        loss after 20 epochs of Galaxy Zoo 1 images was 0.72 in place of 0.62.
    channels : list of int, default [16, 32, 64]
        Filters of each convolution, three at most: each is pooled by 2.
    units : int, default 64
        Of the hidden dense layer.
    dropout : float, default 0.3
        Before each dense layer.
    members : int, default 1
        See `FeedForward`.
    **params
        See `Network`.
    """

    name = "polar-cnn"
    title = "Polar CNN"
    needs = ("image",)
    symmetric = True
    defaults = MappingProxyType(
        {
            **TRAINING,
            "learning_rate": 1e-3,
            "batch_size": 64,
            "max_epochs": 40,
            "patience": 40,
            "weight_decay": 1e-2,
            "schedule": "cosine",
            "channels": [16, 32, 64],
            "units": 64,
            "dropout": 0.3,
            "members": 1,
        }
    )

    def build(self, shapes: Shapes, outputs: int) -> nn.Module:
        """See `Network.build`.

        Raises
        ------
        UsageError
            If it is given a second image.
        """
        images = of_kind("image", shapes)
        if len(images) > 1:
            raise UsageError(f"{self.name} got {len(images)} images", remedy="give it one of them")
        mirror = self.mirror or Mirror(tuple(range(outputs)))
        params = self.params
        return PolarNetwork(shapes, mirror, params["channels"], params["units"], params["dropout"])

    def _scaled(self, train: Arrays) -> Scaler:
        """Return the scaling in which a colour image stays as it is, and any other has its brightest near 1.

        Black stays black, since logarithms are taken of the light itself. Columns that change their sign in a
        mirror do so when scaled, too.
        """
        scaler = super()._scaled(train if self.mirror is None else self.mirror.both(train))
        image = train["image"]
        known = image[np.isfinite(image)]
        white = 1.0
        if known.size and not (known.min() >= 0 and known.max() <= 1):
            white = max(float(np.quantile(known, _WHITE)), 1e-30)
        every = np.ones(image.shape[1])
        scaler.stretches["image"] = Stretch(_LINEAR * white * every, 0 * every, every / _LINEAR)
        return scaler
