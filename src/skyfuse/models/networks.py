"""Convolutional networks, in one dimension for spectra and in two for images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skyfuse.dataset.features import Scaler
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import Arrays, History, Model, Progress

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of the five blocks at width 1 (Simonyan & Zisserman 2015, table 1)."""

CONVOLUTIONS = (1, 2, 2, 2, 2)
"""3×3 convolutions of each block: nine, as between VGG11 (1, 1, 2, 2, 2) and VGG13 (2, 2, 2, 2, 2); the first
block, at full resolution, has the single one."""

HIDDEN = 512
"""Units of the two hidden dense layers at width 1. VGG's 4,096 suit a million images of a thousand classes;
here they would hold nearly all weights of a network for some thousand objects."""

POOL = {"image": 2, "spectrum": 4}
"""Step of the max-pooling: 4 bins become one as 2 × 2 pixels do, so that 3,744 bins end in 3."""

LONGEST = {"image": 2, "spectrum": 4}
"""Longest side of the map that the dense layers read; only images beyond 64 px and spectra beyond 4,620 bins
exceed it and are averaged down."""


class Vgg(nn.Module):
    """Nine convolutions for each modality, joined by three dense layers to one value.

    As in the VGG of 2015, there is no batch normalisation. The weights start as He et al. (2015, ICCV, eq.
    10) derived for rectified layers, which lets all nine convolutions train from the first epoch; so begun,
    the plain network reached the higher R² in 13 of 15 pairs of trainings with and without normalisation
    (mock tasks of 240 and 400 objects, several seeds, rates and modalities).

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Shape of one object in each modality.
    width : float
        Factor on all numbers of channels and hidden units.
    dropout : float
        Before each hidden dense layer's successor.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], width: float, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({m: _branch(m, shape, width) for m, shape in shapes.items()})
        features = sum(_features(m, shape, width) for m, shape in shapes.items())
        hidden = _scaled(HIDDEN, width)
        self.dense = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return one value for each object, shape (n,)."""
        features = [branch(x[modality]) for modality, branch in self.branches.items()]
        out: Tensor = self.dense(torch.cat(features, dim=1))
        return out.squeeze(1)


def _scaled(count: int, width: float) -> int:
    return max(4, round(count * width))


def _sides(modality: str, side: int) -> list[int]:
    """Side of the map after each block: pooled as long as it is larger than 1."""
    sides = []
    for _ in CHANNELS:
        side = max(1, side // POOL[modality])
        sides.append(side)
    return sides


def _last_pool(modality: str, side: int) -> int:
    return math.ceil(_sides(modality, side)[-1] / LONGEST[modality])


def _features(modality: str, shape: tuple[int, ...], width: float) -> int:
    pool = _last_pool(modality, shape[-1])
    side = math.ceil(_sides(modality, shape[-1])[-1] / pool)
    return _scaled(CHANNELS[-1], width) * (side if len(shape) == 1 else side * side)


def _branch(modality: str, shape: tuple[int, ...], width: float) -> nn.Sequential:
    flat = len(shape) == 1
    convolution: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if flat else nn.Conv2d
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if flat else []
    channels, side = 1 if flat else shape[0], shape[-1]
    for count, repeats, smaller in zip(CHANNELS, CONVOLUTIONS, _sides(modality, side), strict=True):
        for _ in range(repeats):
            layer = convolution(channels, _scaled(count, width), 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # present, since it is not switched off
            layers += [layer, nn.ReLU()]
            channels = _scaled(count, width)
        if smaller < side:
            # A map of 2 or 3 bins is shorter than the step and still becomes one.
            step = min(POOL[modality], side)
            layers.append(nn.MaxPool1d(step) if flat else nn.MaxPool2d(step))
        side = smaller
    pool = _last_pool(modality, shape[-1])
    if pool > 1:
        # Not AdaptiveAvgPool: its gradient is not deterministic on CUDA.
        layers.append(nn.AvgPool1d(pool, ceil_mode=True) if flat else nn.AvgPool2d(pool, ceil_mode=True))
    layers.append(nn.Flatten())
    return nn.Sequential(*layers)


class VGGNet12(Model):
    """VGG of twelve layers: nine 3×3 convolutions in five blocks with max-pooling, three dense layers.

    Images of any size and number of bands pass through two-dimensional convolutions, spectra of any length
    through one-dimensional ones; given both, the features of the two branches are joined before the dense
    layers (early fusion). Inputs are scaled by the training part's own statistics
    (`skyfuse.dataset.features.Scaler`), invalid samples then become 0, the mean; labels are standardised
    within.

    Parameters
    ----------
    learning_rate : float, default 1e-3
        Of Adam; 3e-6 to 1e-3 in the star-formation study, whose small values suit weights trained before.
    width : float, default 0.25
        Factor on the channels 64-128-256-512-512.
    dropout : float, default 0.5
    batch_size : int, default 32
    max_epochs : int, default 200
    patience : int, default 30
        Epochs without a lower validation error after which training stops.
    augment : bool, default True
        Show images in random orientations: a galaxy on the sky has no preferred one.
    threads : int, default 1
        CPU threads, one for the reason given at `LightGBM`. Two runs agree bit for bit on one processor at an
        equal number.
    """

    name: ClassVar[str] = "vggnet12"

    _network: Vgg
    _scaler: Scaler
    _mean: float
    _std: float

    def __init__(
        self,
        *,
        learning_rate: float = 1e-3,
        width: float = 0.25,
        dropout: float = 0.5,
        batch_size: int = 32,
        max_epochs: int = 200,
        patience: int = 30,
        augment: bool = True,
        threads: int = 1,
    ) -> None:
        if not (learning_rate > 0 and 0 < width <= 4 and 0 <= dropout < 1):
            raise UsageError(
                f"learning_rate, width and dropout are {learning_rate}, {width} and {dropout}",
                remedy="give a positive rate, a width in (0, 4] and a dropout in [0, 1)",
            )
        if min(max_epochs, patience, threads) < 1 or batch_size < 4:
            raise UsageError(
                f"batch_size {batch_size}, max_epochs {max_epochs}, patience {patience} "
                f"or threads {threads} is too small",
                remedy="give a batch size of 4 or more and 1 or more for the others",
            )
        super().__init__(
            learning_rate=learning_rate,
            width=width,
            dropout=dropout,
            batch_size=batch_size,
            max_epochs=max_epochs,
            patience=patience,
            augment=augment,
            threads=threads,
        )

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
    ) -> History:
        from skyfuse.models.train import Settings, fit_network

        params = self.params
        self._scaler = Scaler.fit(train)
        self._mean, self._std = float(y.mean()), float(y.std()) or 1.0
        shapes = {modality: array.shape[1:] for modality, array in train.items()}
        with torch_state(params["threads"], seed=seed):
            self._network = Vgg(shapes, params["width"], params["dropout"])
            return fit_network(
                self._network,
                (_tensors(self._scaler, train), self._labels(y)),
                (_tensors(self._scaler, valid), self._labels(y_valid)),
                Settings(
                    learning_rate=params["learning_rate"],
                    batch_size=params["batch_size"],
                    max_epochs=params["max_epochs"],
                    patience=params["patience"],
                    augment=params["augment"],
                    threads=params["threads"],
                ),
                unit=self._std,
                seed=seed,
                folder=folder,
                progress=progress,
            )

    def _labels(self, y: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(((y - self._mean) / self._std).astype(np.float32))

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        count = -(-len(next(iter(x.values()))) // EVALUATION_BATCH)
        parts = {modality: np.array_split(array, count) for modality, array in x.items()}
        values = []
        with torch_state(self.params["threads"], deterministic=True), torch.inference_mode():
            network = self._network.to(device).eval()
            for i in range(count):
                batch = _tensors(self._scaler, {modality: part[i] for modality, part in parts.items()})
                values.append(network({m: tensor.to(device) for m, tensor in batch.items()}).cpu())
            network.to("cpu")
        return torch.cat(values).numpy().astype(np.float64) * self._std + self._mean

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_tensors(self._network.state_dict(), folder)
        return {"scaler": self._scaler.to_dict(), "mean": self._mean, "std": self._std}

    @classmethod
    def _read(
        cls, folder: Path, params: dict[str, Any], shapes: dict[str, tuple[int, ...]], state: dict[str, Any]
    ) -> Self:
        model = cls(**params)
        tensors = files.read_tensors(folder)
        # On the meta device the layers cost nothing, whatever sizes a card claims, until the weights have
        # proved them.
        with torch.device("meta"):
            network = Vgg(shapes, model.params["width"], model.params["dropout"])
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
        if expected != {name: tensor.shape for name, tensor in tensors.items()}:
            raise StoreError(
                "weights are not those of the network that model.json describes",
                remedy="train the model again",
                path=folder,
            )
        network.load_state_dict(tensors, assign=True)
        model._network = network.eval()
        model._scaler = Scaler.from_dict(state["scaler"])
        model._mean, model._std = float(state["mean"]), float(state["std"])
        channels = {modality: len(stretch.mean) for modality, stretch in model._scaler.stretches.items()}
        if channels != {modality: shape[0] if len(shape) > 1 else 1 for modality, shape in shapes.items()}:
            raise StoreError(
                f"scales the channels {channels} where its inputs are {shapes}",
                remedy="train the model again",
                path=folder,
            )
        if not (math.isfinite(model._mean) and math.isfinite(model._std)):
            raise StoreError("has no finite label scale", remedy="train the model again", path=folder)
        model.shapes = shapes
        return model


EVALUATION_BATCH = 256
"""Objects at once where no gradient is kept: bounds the memory that activations take."""


def _tensors(scaler: Scaler, x: Arrays) -> dict[str, Tensor]:
    scaled = scaler.transform(x)
    return {
        modality: torch.from_numpy(np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0))
        for modality, array in scaled.items()
    }


@contextmanager
def torch_state(threads: int, *, deterministic: bool = False, seed: int | None = None) -> Iterator[None]:
    """Set PyTorch's threads, determinism and random stream, and give the caller's back afterwards."""
    before = torch.get_num_threads()
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict, warn_only=warn)
