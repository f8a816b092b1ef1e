"""The training loop of the networks: early stopping, checkpoints, and resuming from them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from skyfuse.disk import replaced
from skyfuse.errors import DataError, StoreError
from skyfuse.models.base import METRIC, History
from skyfuse.models.inputs import of_kind
from skyfuse.models.pytorch import evaluation_batch, torch_state
from skyfuse.words import Kind, Progress

CHECKPOINT = "training.safetensors"
CHECKPOINT_SECONDS = 20.0
"""Least time between two checkpoints: an interruption loses no more, and small networks are not slowed by
writing."""

Tensors = dict[str, Tensor]

Loss = Literal["mse", "huber"]
Optimiser = Literal["adam", "adamax"]
Schedule = Literal["none", "cosine"]

_OPTIMISERS: dict[Optimiser, Callable[..., torch.optim.Optimizer]] = {
    # One pass over the weights instead of ten: on the 50 million of image-cnn, a third of a step's time.
    # Without a weight decay, AdamW is Adam.
    "adam": partial(torch.optim.AdamW, fused=True),
    "adamax": torch.optim.Adamax,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network trains.

    Attributes
    ----------
    learning_rate : float
    batch_size : int
    max_epochs : int
    patience : int
        Epochs without a lower validation error after which training stops.
    threads : int
        CPU threads; sums are ordered by them, so that results repeat only at an equal number.
    augment : bool
        Show each image in a random one of the eight symmetries of the square.
    rotate : bool
        Show each image turned by a random angle.
    kind : str
        See `skyfuse.words.Kind`; decides the error that validation measures.
    loss : {"mse", "huber"}
        What the training of a regression lowers: the squared error, or Huber's, which goes over from square
        to absolute at 1 (the label's standard deviation). Classes are learned by their log loss.
    optimiser : {"adam", "adamax"}
        Kingma & Ba (2015), algorithms 1 and 2.
    weight_decay : float
        With adam decoupled from the gradient (Loshchilov & Hutter 2019, AdamW), with adamax added to it.
    schedule : {"none", "cosine"}
        The learning rate stays, or falls from epoch to epoch along half a cosine, to reach 0 after
        `max_epochs` (Loshchilov & Hutter 2017, eq. 5, without restarts).
    """

    learning_rate: float
    batch_size: int
    max_epochs: int
    patience: int
    threads: int = 1
    augment: bool = False
    rotate: bool = False
    kind: Kind = "regression"
    loss: Loss = "mse"
    optimiser: Optimiser = "adam"
    weight_decay: float = 0.0
    schedule: Schedule = "none"

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        if self.schedule == "none":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.max_epochs)) / 2


class TensorExamples(NamedTuple):
    """Examples as a network meets them: scaled, as tensors.

    Attributes
    ----------
    x : dict of str to Tensor
    y : Tensor, shape (n, ...)
        Standardised labels (n,), indices of classes (n,), or, for a reconstruction, (n, outputs) with NaN
        where nothing is known.
    weight : Tensor, shape (n,), optional
        Factor on the loss of each training object, 1 in the mean. The curves do not have it.
    """

    x: Tensors
    y: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """From where an interrupted training goes on.

    Attributes
    ----------
    path : Path
    keep : bool
        Leave the checkpoint of the finished training to the caller, who may need it to resume what this
        training is a part of.
    """

    path: Path
    keep: bool = False


class Batches:
    """Batches of tensors in memory, in an order that the seed and the epoch alone decide.

    At a few thousand objects this is many times faster than a DataLoader, which collates object by object.

    Parameters
    ----------
    examples : TensorExamples
    settings : Settings
        All batches are of nearly equal size, at most `Settings.batch_size`, so that none is too small for
        batch statistics.
    seed : int
    """

    def __init__(self, examples: TensorExamples, settings: Settings, *, seed: int) -> None:
        self.x, self.y, self.weight = examples
        self.settings, self.seed = settings, seed
        self.count = -(-len(self.y) // settings.batch_size)

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int) -> Iterator[tuple[Tensors, Tensor, Tensor | None]]:
        """Yield the inputs, targets and weights of each batch of an epoch, counted from 0."""
        random = torch.Generator().manual_seed(epoch_seed(self.seed, number))
        order = torch.randperm(len(self.y), generator=random)
        for rows in torch.tensor_split(order, self.count):
            x = {modality: tensor[rows] for modality, tensor in self.x.items()}
            for slot in of_kind("image", x):
                if self.settings.augment:
                    x[slot] = turn(x[slot], random)
                if self.settings.rotate:
                    x[slot] = rotate(x[slot], random)
            yield x, self.y[rows], None if self.weight is None else self.weight[rows]


class InOrder:
    """The same tensors in their own order, for validation."""

    def __init__(self, x: Tensors, y: Tensor) -> None:
        self.x, self.y = x, y
        self.size = evaluation_batch(x)

    def __iter__(self) -> Iterator[tuple[Tensors, Tensor]]:
        for start in range(0, len(self.y), self.size):
            rows = slice(start, start + self.size)
            yield {modality: tensor[rows] for modality, tensor in self.x.items()}, self.y[rows]


def turn(images: Tensor, random: torch.Generator) -> Tensor:
    """Give each image a random one of the eight symmetries of the square.

    Two mirrors and the transposition generate the group, and each of its elements comes from exactly one
    choice of the three, so that all eight are equally likely.

    Parameters
    ----------
    images : Tensor, shape (n, channels, size, size)
    random : torch.Generator
    """
    first, second, third = (torch.rand((3, len(images), 1, 1, 1), generator=random) < 0.5).unbind()
    images = torch.where(first, images.flip(-1), images)
    images = torch.where(second, images.flip(-2), images)
    return torch.where(third, images.transpose(-1, -2), images)


def rotate(images: Tensor, random: torch.Generator) -> Tensor:
    """Turn each image by a random angle around its centre, interpolating between four pixels.

    What comes in from beyond the corners is the image mirrored at its edge: sky, as bright as its own.

    Parameters
    ----------
    images : Tensor, shape (n, channels, size, size)
    random : torch.Generator
    """
    angle = 2 * math.pi * torch.rand(len(images), generator=random)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a seed and an epoch: each epoch has a random stream of its own, so training can resume at any."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def _errors(out: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """Return each object's squared error or log loss, shape (n,); NaN of what is to be drawn counts not."""
    if kind == "classification":
        return nn.functional.cross_entropy(out, y, reduction="none")
    if kind == "regression":
        return (out[:, 0] - y).square()
    known = ~y.isnan()
    return torch.where(known, out - y, 0).square().sum(dim=1) / known.sum(dim=1).clamp(min=1)


def fit_network(
    network: nn.Module,
    train: TensorExamples,
    valid: TensorExamples,
    settings: Settings,
    *,
    unit: float = 1.0,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a network and leave it in the state of its best epoch.

    One code path serves CPU and GPU: a CUDA device is taken where there is one, with mixed precision
    (bfloat16) where it computes in it.

    Parameters
    ----------
    network : torch.nn.Module
        Takes a dict of tensors, returns (n, outputs).
    train, valid : TensorExamples
    settings : Settings
    unit : float, default 1
        Standard deviation by which the labels were divided: it gives the curves their unit back.
    seed : int
    checkpoint : Checkpoint, optional
    progress : callable, optional

    Returns
    -------
    History

    Raises
    ------
    StoreError
        If the checkpoint is damaged.
    DataError
        If the error is not finite from the first epoch on.
    """
    watch = _Watch(network, settings, unit=unit, checkpoint=checkpoint, progress=progress)
    if checkpoint is not None:
        checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
        watch.fingerprint = _fingerprint(network, train, valid, settings, seed)
        watch.resume(checkpoint.path)
    if not watch.finished():
        with torch_state(settings.threads, deterministic=True):
            _run(watch, Batches(train, settings, seed=seed), InOrder(valid.x, valid.y))
    if not np.isfinite(watch.history["valid"][watch.history["best"]]):
        raise DataError(
            "training diverged in its first epoch",
            remedy=f"lower the learning rate ({settings.learning_rate})",
        )
    network.load_state_dict(watch.best_state)
    network.to("cpu").eval()
    if checkpoint is not None and not checkpoint.keep:
        checkpoint.path.unlink(missing_ok=True)
    return watch.history


def _run(watch: _Watch, batches: Batches, held: InOrder) -> None:
    """Train epoch by epoch until the watch has seen enough."""
    network, settings = watch.network, watch.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    network.to(device)
    optimizer = _OPTIMISERS[settings.optimiser](
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    if watch.optimizer_state:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": watch.optimizer_state})
    huber = settings.loss == "huber" and settings.kind == "regression"

    def answer(x: Tensors, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs = {modality: tensor.to(device, non_blocking=True) for modality, tensor in x.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            out = network(inputs)
        return out.float(), y.to(device, non_blocking=True)

    while not watch.stopped():
        epoch = watch.epochs()
        # Dropout draws from the global stream: started anew each epoch, it is the same after a resume.
        torch.manual_seed(epoch_seed(batches.seed, epoch))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(epoch)
        # Summed as tensors: reading each number back would make a GPU wait at every step.
        learned, seen = torch.zeros((), device=device), torch.zeros((), device=device)
        network.train()
        for x, y, weight in batches.epoch(epoch):
            out, y = answer(x, y)
            errors = _errors(out, y, settings.kind)
            losses = nn.functional.huber_loss(out[:, 0], y, reduction="none") if huber else errors
            loss = (losses if weight is None else losses * weight.to(device)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            learned += errors.detach().sum()
        network.eval()
        with torch.inference_mode():
            for x, y in held:
                seen += _errors(*answer(x, y), settings.kind).sum()
        watch.record(float(learned) / len(batches.y), float(seen) / len(held.y), optimizer)


class _Watch:
    """Keeps the curves and the best weights, stops early, writes checkpoints, and reports."""

    def __init__(
        self,
        network: nn.Module,
        settings: Settings,
        *,
        unit: float,
        checkpoint: Checkpoint | None,
        progress: Progress | None,
    ) -> None:
        self.network, self.settings, self.unit, self.progress = network, settings, unit, progress
        self.checkpoint = checkpoint
        self.fingerprint = ""
        self.history = History(train=[], valid=[], best=0, metric=METRIC[settings.kind])
        self.best_state: Tensors = {}
        self.optimizer_state: dict[int, Tensors] = {}
        self.written = time.monotonic()

    def epochs(self) -> int:
        """Epochs done, those before a resume counted."""
        return len(self.history["valid"])

    def finished(self) -> bool:
        """Whether patience or epochs are used up."""
        done = self.epochs()
        stale = done - 1 - self.history["best"]
        return done > 0 and (done >= self.settings.max_epochs or stale >= self.settings.patience)

    def stopped(self) -> bool:
        """Whether there is nothing more to do, or the training has diverged."""
        return self.finished() or not np.isfinite(self.history["valid"][-1:]).all()

    def record(self, train: float, valid: float, optimizer: torch.optim.Optimizer) -> None:
        """Take down the errors of an epoch, and keep what it has reached."""
        if self.settings.kind == "regression":
            train, valid = math.sqrt(train), math.sqrt(valid)
        history = self.history
        history["train"].append(train * self.unit)
        history["valid"].append(valid * self.unit)
        # Not "lower than": a network that diverges to NaN must not displace a finite state.
        if not self.best_state or history["valid"][-1] < history["valid"][history["best"]]:
            history["best"] = self.epochs() - 1
            self.keep(self.network.state_dict())
        due = not self.stopped() and time.monotonic() - self.written >= CHECKPOINT_SECONDS
        if self.checkpoint is not None and (due or (self.checkpoint.keep and self.finished())):
            self.write(self.checkpoint.path, optimizer)
            self.written = time.monotonic()
        if self.progress is not None:
            best = history["valid"][history["best"]]
            line = (
                f"valid {history['metric']} {history['valid'][-1]:.4f}, "
                f"best {best:.4f} (epoch {history['best'] + 1})"
            )
            self.progress(self.epochs(), self.settings.max_epochs, line)

    def keep(self, state: Tensors) -> None:
        """Copy a state to where the best one before it lies: memory that is not new costs half as much."""
        if not self.best_state:
            self.best_state = _clone(state)
            return
        for name, tensor in state.items():
            self.best_state[name].copy_(tensor)

    def write(self, path: Path, optimizer: torch.optim.Optimizer) -> None:
        """Write everything that the next epoch depends on, under a temporary name first."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": tensor for key, tensor in state.items()}
        metadata = {"fingerprint": self.fingerprint, "history": json.dumps(self.history)}
        with replaced(path, alone=True, flush=False) as partial:
            # Not by safetensors itself, whose error on a full disk is none of the system's.
            partial.write_bytes(save(_clone(tensors), metadata=metadata))

    def resume(self, path: Path) -> None:
        """Take up an earlier training of the same network, data, settings and seed, if there is one."""
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != self.fingerprint:
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            history = json.loads(metadata["history"])
            network = {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}
            self.network.load_state_dict(network)
            self.history = History(
                train=history["train"],
                valid=history["valid"],
                best=history["best"],
                metric=METRIC[self.settings.kind],
            )
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise StoreError(
                f"is a damaged checkpoint ({error})", remedy="delete it and train again", path=path
            ) from error
        self.best_state = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                self.optimizer_state.setdefault(int(i), {})[key] = value


def _clone(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _fingerprint(
    network: nn.Module, train: TensorExamples, valid: TensorExamples, settings: Settings, seed: int
) -> str:
    """Hash of all that decides a training: a checkpoint of any other is not taken up."""
    digest = hashlib.sha256(f"{settings} {seed} {network}".encode())
    parts = [
        *train.x.values(),
        train.y,
        *valid.x.values(),
        valid.y,
        *([] if train.weight is None else [train.weight]),
    ]
    for tensor in parts:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
