"""The training loop of the networks: Lightning, early stopping, checkpoints, and resuming from them.

Lightning takes ten seconds to import, so only a network that trains imports this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skyfuse.errors import DataError, StoreError
from skyfuse.models.base import History, Progress
from skyfuse.models.networks import EVALUATION_BATCH, torch_state

CHECKPOINT = "training.safetensors"
CHECKPOINT_SECONDS = 20.0
"""Least time between two checkpoints: an interruption loses no more, and small networks are not slowed by
writing."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network trains.

    Attributes
    ----------
    learning_rate : float
        Of Adam.
    batch_size : int
    max_epochs : int
    patience : int
        Epochs without a lower validation error after which training stops.
    augment : bool
        Show each image in a random one of the eight symmetries of the square.
    threads : int
        CPU threads; sums are ordered by them, so that results repeat only at an equal number.
    """

    learning_rate: float
    batch_size: int
    max_epochs: int
    patience: int
    augment: bool
    threads: int


class Batches:
    """Batches of tensors in memory, in an order that the seed and the epoch alone decide.

    At a few thousand objects this is many times faster than a DataLoader, which collates object by object.

    Parameters
    ----------
    x : dict of str to Tensor
    y : Tensor, shape (n,)
    size : int
        Of a batch at most; all batches are of nearly equal size, so that none is too small for batch
        statistics.
    seed : int
    epoch : callable
        Returns the epoch that is to come.
    augment : bool
        See `Settings`.
    """

    def __init__(
        self, x: Tensors, y: Tensor, *, size: int, seed: int, epoch: Callable[[], int], augment: bool
    ) -> None:
        self.x, self.y = x, y
        self.seed, self.epoch, self.augment = seed, epoch, augment
        self.count = -(-len(y) // size)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensors, Tensor]]:
        random = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch()))
        order = torch.randperm(len(self.y), generator=random)
        for rows in torch.tensor_split(order, self.count):
            x = {modality: tensor[rows] for modality, tensor in self.x.items()}
            if self.augment and "image" in x:
                x["image"] = turn(x["image"], random)
            yield x, self.y[rows]


class _InOrder:
    """The same tensors in their own order, for validation."""

    def __init__(self, x: Tensors, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(range(0, len(self.y), EVALUATION_BATCH))

    def __iter__(self) -> Iterator[tuple[Tensors, Tensor]]:
        for start in range(0, len(self.y), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
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


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a seed and an epoch: each epoch has a random stream of its own, so training can resume at any."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def fit_network(
    network: nn.Module,
    train: tuple[Tensors, Tensor],
    valid: tuple[Tensors, Tensor],
    settings: Settings,
    *,
    unit: float,
    seed: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a network and leave it in the state of its best epoch.

    One code path serves CPU and GPU: Lightning takes the accelerator that is there, with mixed precision on
    CUDA alone.

    Parameters
    ----------
    network : torch.nn.Module
        Takes a dict of tensors, returns (n,).
    train, valid : (dict of Tensor, Tensor)
        Inputs and standardised labels.
    settings : Settings
    unit : float
        Standard deviation by which the labels were divided: it gives the curves their unit back.
    seed : int
    folder : path, optional
        See `skyfuse.models.base.Model.fit`.
    progress : callable, optional

    Returns
    -------
    History

    Raises
    ------
    StoreError
        If the folder holds a damaged checkpoint.
    DataError
        If the error is not finite from the first epoch on.
    """
    path = None if folder is None else folder / CHECKPOINT
    watch = _Watch(settings, unit=unit, path=path, progress=progress)
    module = _Module(network, settings.learning_rate, seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        watch.fingerprint = _fingerprint(network, train, valid, settings, seed)
        watch.resume(path, module)
    if not watch.finished():
        _run(module, train, valid, settings, watch, seed=seed)
    if not np.isfinite(watch.history["valid"][watch.history["best"]]):
        raise DataError(
            "training diverged in its first epoch",
            remedy=f"lower the learning rate ({settings.learning_rate})",
        )
    network.load_state_dict(watch.best_state)
    network.to("cpu").eval()
    if path is not None:
        path.unlink(missing_ok=True)
    return watch.history


def _run(
    module: _Module,
    train: tuple[Tensors, Tensor],
    valid: tuple[Tensors, Tensor],
    settings: Settings,
    watch: _Watch,
    *,
    seed: int,
) -> None:
    network = module.network
    network.train()
    with torch_state(settings.threads, deterministic=True), _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            precision=_precision(),
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
        batches = Batches(
            *train,
            size=settings.batch_size,
            seed=seed,
            epoch=lambda: module.first_epoch + trainer.current_epoch,
            augment=settings.augment,
        )
        with _interruptible():
            trainer.fit(module, batches, _InOrder(*valid))


def _precision() -> Any:
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


class _Module(lightning.LightningModule):  # type: ignore[misc]  # lightning publishes no types
    """A network with its loss and optimiser, as Lightning wants it."""

    def __init__(self, network: nn.Module, learning_rate: float, *, seed: int) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.seed = seed
        self.first_epoch = 0
        self.optimizer_state: dict[int, dict[str, Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        if self.optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_epoch_start(self) -> None:
        # Dropout draws from the global stream: started anew each epoch, it is the same after a resume.
        torch.manual_seed(epoch_seed(self.seed, self.first_epoch + self.current_epoch))
        self.sums, self.counts = {}, {}

    def training_step(self, batch: tuple[Tensors, Tensor], _: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: tuple[Tensors, Tensor], _: int) -> None:
        self._loss(batch, "valid")

    def _loss(self, batch: tuple[Tensors, Tensor], part: str) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.network(x).float(), y)
        # Summed as tensors: reading each number back would make a GPU wait at every step.
        total = loss.detach() * len(y)
        self.sums[part] = self.sums[part] + total if part in self.sums else total
        self.counts[part] = self.counts.get(part, 0) + len(y)
        return loss

    def error(self, part: str) -> float:
        """Root mean square error of the epoch, in standardised labels."""
        return float(torch.sqrt(self.sums[part] / self.counts[part]))


class _Watch(lightning.Callback):  # type: ignore[misc]  # lightning publishes no types
    """Keeps the curves and the best weights, stops early, writes checkpoints, and reports."""

    def __init__(
        self, settings: Settings, *, unit: float, path: Path | None, progress: Progress | None
    ) -> None:
        self.settings, self.unit, self.path, self.progress = settings, unit, path, progress
        self.fingerprint = ""
        self.history = History(train=[], valid=[], best=0)
        self.best_state: Tensors = {}
        self.written = time.monotonic()

    def finished(self) -> bool:
        """Whether patience or epochs are used up."""
        done = len(self.history["valid"])
        stale = done - 1 - self.history["best"]
        return done > 0 and (done >= self.settings.max_epochs or stale >= self.settings.patience)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: _Module) -> None:
        history = self.history
        history["train"].append(module.error("train") * self.unit)
        history["valid"].append(module.error("valid") * self.unit)
        epoch = len(history["valid"])
        # Not "lower than": a network that diverges to NaN must not displace a finite state.
        if not self.best_state or history["valid"][-1] < history["valid"][history["best"]]:
            history["best"] = epoch - 1
            self.best_state = _clone(module.network.state_dict())
        trainer.should_stop = self.finished() or not np.isfinite(history["valid"][-1])
        due = time.monotonic() - self.written >= CHECKPOINT_SECONDS
        if self.path is not None and not trainer.should_stop and due:
            self.write(self.path, trainer, module)
            self.written = time.monotonic()
        if self.progress is not None:
            best = history["valid"][history["best"]]
            line = f"valid RMSE {history['valid'][-1]:.4f}, best {best:.4f} (epoch {history['best'] + 1})"
            self.progress(epoch, self.settings.max_epochs, line)

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
            self.history = History(train=history["train"], valid=history["valid"], best=history["best"])
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
    settings: Settings,
    seed: int,
) -> str:
    """Hash of all that decides a training: a checkpoint of any other is not taken up."""
    digest = hashlib.sha256(f"{settings} {seed} {network}".encode())
    for x, y in (train, valid):
        for tensor in (*x.values(), y):
            digest.update(tensor.numpy().data)
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
