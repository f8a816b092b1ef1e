"""The training loop of the networks: Lightning, early stopping, checkpoints, and resuming from them.

Lightning leads from epoch to epoch: it picks the device and the precision, and validates. An epoch is one of
its steps, since its own work for each batch (about 1 ms) would cost small networks a tenth of their speed.

It takes ten seconds to import, so only a network that trains imports this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as lightning
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skyfuse.errors import DataError, StoreError
from skyfuse.models.base import METRIC, History, Kind, Progress
from skyfuse.models.networks import evaluation_batch, torch_state

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
        See `skyfuse.models.base.Kind`; decides the error that validation measures.
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


class Batches:
    """Batches of tensors in memory, in an order that the seed and the epoch alone decide.

    At a few thousand objects this is many times faster than a DataLoader, which collates object by object.

    Parameters
    ----------
    x : dict of str to Tensor
    y : Tensor, shape (n, ...)
    weight : Tensor, shape (n,), optional
    settings : Settings
        All batches are of nearly equal size, at most `Settings.batch_size`, so that none is too small for
        batch statistics.
    seed : int
    epoch : callable
        Returns the epoch that is to come.
    """

    def __init__(
        self,
        x: Tensors,
        y: Tensor,
        weight: Tensor | None,
        settings: Settings,
        *,
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        self.x, self.y, self.weight = x, y, weight
        self.settings, self.seed, self.epoch = settings, seed, epoch
        self.count = -(-len(y) // settings.batch_size)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensors, Tensor, Tensor | None]]:
        random = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch()))
        order = torch.randperm(len(self.y), generator=random)
        for rows in torch.tensor_split(order, self.count):
            x = {modality: tensor[rows] for modality, tensor in self.x.items()}
            if "image" in x and self.settings.augment:
                x["image"] = turn(x["image"], random)
            if "image" in x and self.settings.rotate:
                x["image"] = rotate(x["image"], random)
            yield x, self.y[rows], None if self.weight is None else self.weight[rows]


class InOrder:
    """The same tensors in their own order, for validation."""

    def __init__(self, x: Tensors, y: Tensor) -> None:
        self.x, self.y = x, y
        self.size = evaluation_batch(x)

    def __iter__(self) -> Iterator[tuple[Tensors, Tensor, None]]:
        for start in range(0, len(self.y), self.size):
            rows = slice(start, start + self.size)
            yield {modality: tensor[rows] for modality, tensor in self.x.items()}, self.y[rows], None


class _Whole:
    """A pass over all batches, handed to Lightning as its only batch."""

    def __init__(self, batches: Batches | InOrder) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batches | InOrder]:
        yield self.batches


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
    train: tuple[Tensors, Tensor],
    valid: tuple[Tensors, Tensor],
    settings: Settings,
    *,
    weight: Tensor | None = None,
    unit: float = 1.0,
    seed: int,
    path: Path | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> History:
    """Train a network and leave it in the state of its best epoch.

    One code path serves CPU and GPU: Lightning takes the accelerator that is there, with mixed precision
    (bfloat16) on a CUDA device that computes in it.

    Parameters
    ----------
    network : torch.nn.Module
        Takes a dict of tensors, returns (n, outputs).
    train, valid : (dict of Tensor, Tensor)
        Inputs, and what is to come out: standardised labels (n,), indices of classes (n,), or, for a
        reconstruction, (n, outputs) with NaN where nothing is known.
    settings : Settings
    weight : Tensor, shape (n,), optional
        Factor on the loss of each training object, 1 in the mean. The curves do not have it.
    unit : float, default 1
        Standard deviation by which the labels were divided: it gives the curves their unit back.
    seed : int
    path : path, optional
        File of the checkpoint, from which an interrupted training goes on.
    keep : bool, default False
        Leave the checkpoint of the finished training to the caller, who may need it to resume what this
        training is a part of.
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
    watch = _Watch(settings, unit=unit, path=path, keep=keep, progress=progress)
    module = _Module(network, settings, seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        watch.fingerprint = _fingerprint(network, train, valid, weight, settings, seed)
        watch.resume(path, module)
    if not watch.finished():
        _run(module, train, valid, weight, watch)
    if not np.isfinite(watch.history["valid"][watch.history["best"]]):
        raise DataError(
            "training diverged in its first epoch",
            remedy=f"lower the learning rate ({settings.learning_rate})",
        )
    network.load_state_dict(watch.best_state)
    network.to("cpu").eval()
    if path is not None and not keep:
        path.unlink(missing_ok=True)
    return watch.history


def _run(
    module: _Module,
    train: tuple[Tensors, Tensor],
    valid: tuple[Tensors, Tensor],
    weight: Tensor | None,
    watch: _Watch,
) -> None:
    module.network.train()
    settings = module.settings
    with torch_state(settings.threads, deterministic=True), _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if _bfloat16() else "32-true",
            max_epochs=settings.max_epochs - module.first_epoch,
            callbacks=[watch],
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        batches = Batches(*train, weight, settings, seed=module.seed, epoch=module.epoch)
        with _interruptible():
            trainer.fit(module, _Whole(batches), _Whole(InOrder(*valid)))


def _bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


class _Module(lightning.LightningModule):  # type: ignore[misc]  # lightning publishes no types
    """A network with its loss and optimiser, as Lightning wants it."""

    def __init__(self, network: nn.Module, settings: Settings, *, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.settings = settings
        self.seed = seed
        self.first_epoch = 0
        self.optimizer_state: dict[int, dict[str, Tensor]] = {}
        self.error: dict[str, float] = {}

    def epoch(self) -> int:
        """Epochs done, those before a resume counted."""
        return self.first_epoch + int(self.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.settings
        optimizer = _OPTIMISERS[settings.optimiser](
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        if self.optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_epoch_start(self) -> None:
        # Dropout draws from the global stream: started anew each epoch, it is the same after a resume.
        torch.manual_seed(epoch_seed(self.seed, self.epoch()))
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = self.settings.rate(self.epoch())

    def training_step(self, batches: Batches, _: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        huber = self.settings.loss == "huber" and self.settings.kind == "regression"
        # Summed as a tensor: reading each number back would make a GPU wait at every step.
        total = torch.zeros((), device=self.device)
        for x, y, weight in batches:
            out, y = self._out(x, y)
            errors = _errors(out, y, self.settings.kind)
            losses = nn.functional.huber_loss(out[:, 0], y, reduction="none") if huber else errors
            loss = (losses if weight is None else losses * weight.to(self.device)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            # Else the next step would see this one's weights, cast to bfloat16.
            torch.clear_autocast_cache()
            total += errors.detach().sum()
        self.error["train"] = self._error(total, len(batches.y))

    def validation_step(self, batches: InOrder, _: int) -> None:
        total = torch.zeros((), device=self.device)
        for x, y, _weight in batches:
            total += _errors(*self._out(x, y), self.settings.kind).sum()
        self.error["valid"] = self._error(total, len(batches.y))

    def _out(self, x: Tensors, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs = {modality: tensor.to(self.device, non_blocking=True) for modality, tensor in x.items()}
        return self.network(inputs).float(), y.to(self.device, non_blocking=True)

    def _error(self, total: Tensor, count: int) -> float:
        mean = float(total) / count
        return math.sqrt(mean) if self.settings.kind == "regression" else mean


class _Watch(lightning.Callback):  # type: ignore[misc]  # lightning publishes no types
    """Keeps the curves and the best weights, stops early, writes checkpoints, and reports."""

    def __init__(
        self, settings: Settings, *, unit: float, path: Path | None, keep: bool, progress: Progress | None
    ) -> None:
        self.settings, self.unit, self.progress = settings, unit, progress
        self.path, self.keep_checkpoint = path, keep
        self.fingerprint = ""
        self.history = History(train=[], valid=[], best=0, metric=METRIC[settings.kind])
        self.best_state: Tensors = {}
        self.written = time.monotonic()

    def finished(self) -> bool:
        """Whether patience or epochs are used up."""
        done = len(self.history["valid"])
        stale = done - 1 - self.history["best"]
        return done > 0 and (done >= self.settings.max_epochs or stale >= self.settings.patience)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: _Module) -> None:
        history = self.history
        history["train"].append(module.error["train"] * self.unit)
        history["valid"].append(module.error["valid"] * self.unit)
        epoch = len(history["valid"])
        # Not "lower than": a network that diverges to NaN must not displace a finite state.
        if not self.best_state or history["valid"][-1] < history["valid"][history["best"]]:
            history["best"] = epoch - 1
            self.keep(module.network.state_dict())
        trainer.should_stop = self.finished() or not np.isfinite(history["valid"][-1])
        due = not trainer.should_stop and time.monotonic() - self.written >= CHECKPOINT_SECONDS
        if self.path is not None and (due or (self.keep_checkpoint and self.finished())):
            self.write(self.path, trainer, module)
            self.written = time.monotonic()
        if self.progress is not None:
            best = history["valid"][history["best"]]
            line = (
                f"valid {history['metric']} {history['valid'][-1]:.4f}, "
                f"best {best:.4f} (epoch {history['best'] + 1})"
            )
            self.progress(epoch, self.settings.max_epochs, line)

    def keep(self, state: Tensors) -> None:
        """Copy a state to where the best one before it lies: memory that is not new costs half as much."""
        if not self.best_state:
            self.best_state = _clone(state)
            return
        for name, tensor in state.items():
            self.best_state[name].copy_(tensor)

    def write(self, path: Path, trainer: lightning.Trainer, module: _Module) -> None:
        """Write everything that the next epoch depends on, under a temporary name first."""
        tensors = {f"network.{name}": tensor for name, tensor in module.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        for i, state in trainer.optimizers[0].state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": tensor for key, tensor in state.items()}
        part = path.with_suffix(".part")
        metadata = {"fingerprint": self.fingerprint, "history": json.dumps(self.history)}
        save_file(_clone(tensors), part, metadata=metadata)
        part.replace(path)

    def resume(self, path: Path, module: _Module) -> None:
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
            module.network.load_state_dict(network)
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
                module.optimizer_state.setdefault(int(i), {})[key] = value
        module.first_epoch = len(self.history["valid"])


def _clone(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _fingerprint(
    network: nn.Module,
    train: tuple[Tensors, Tensor],
    valid: tuple[Tensors, Tensor],
    weight: Tensor | None,
    settings: Settings,
    seed: int,
) -> str:
    """Hash of all that decides a training: a checkpoint of any other is not taken up."""
    digest = hashlib.sha256(f"{settings} {seed} {network}".encode())
    parts = [
        *train[0].values(),
        train[1],
        *valid[0].values(),
        valid[1],
        *([] if weight is None else [weight]),
    ]
    for tensor in parts:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Lightning's log lines about hardware, and one deprecation that only Lightning can mend."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning 2.6 asks PyTorch 2.9 and later for a tree specification by its former name.
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl+C through: Lightning would turn it into an exit and ignore every later one."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):
            raise exit_.__context__ from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
