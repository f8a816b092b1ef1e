"""What self-supervised pre-training brings to the polar network, on labelled colour images.

    python benchmarks/pretraining.py FOLDER [FOLDER ...] --label class [--more FOLDER] [--mirror a=b]
        [--folds 5] [--only 1] [--pretrain 20] [--epochs 40]

The labelled images of the FOLDERs, and the unlabelled ones of --more, teach the convolutions without any
label that two views of one galaxy are alike and different galaxies are not (VICReg: Bardes, Ponce & LeCun
2022, ICLR, arXiv:2105.04906; its weights 25, 25 and 1). Views differ in scale, centre and angle as in every
training, in noise, in contrast, and in a hidden piece of the map, never in their sense of winding. Then each
of the first --only folds is trained twice with equal seeds, from scratch and from these weights, and tested.
Printed are the accuracy and log loss of both, and the difference with its paired 95 % interval over the
objects. The labels of test objects are never seen; their images are.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from skyfuse.models.mirror import Mirror
from skyfuse.models.polar import RINGS, PolarNetwork
from skyfuse.models.pytorch import torch_state
from skyfuse.models.train import Settings, TensorExamples, fit_network
from skyfuse.survey.colourimages import read_images

SIZE = 128
CHANNELS = (24, 48, 96)
BATCH = 128
WIDTH = 256
SEED = 5


def view(maps: Tensor) -> Tensor:
    """Return maps with a hidden piece, noise, and channels of another contrast."""
    n, channels, rings, angles = maps.shape
    ring = torch.arange(rings) - torch.randint(0, rings - 4, (n, 1))
    angle = (torch.arange(angles) - torch.randint(0, angles, (n, 1))) % angles
    hidden = ((ring >= 0) & (ring < rings // 5))[:, None, :, None] & (angle < angles // 3)[:, None, None]
    seen = torch.where(hidden, torch.zeros(()), maps) + 0.2 * torch.randn(maps.shape)
    return seen * (1 + 0.4 * (torch.rand(n, channels, 1, 1) - 0.5))


def pooled(network: PolarNetwork, maps: Tensor) -> Tensor:
    """Return what the dense layers read of the convolutions."""
    found = network.trunk(maps)
    return torch.cat([found.mean(dim=-1), found.amax(dim=-1)], dim=1).flatten(1)


def loss(one: Tensor, other: Tensor) -> Tensor:
    """Return the loss of VICReg for two views."""
    alike = (one - other).square().mean()
    spread, shared = torch.zeros(()), torch.zeros(())
    for z in (one - one.mean(dim=0), other - other.mean(dim=0)):
        spread = spread + torch.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean() / 2
        covariance = z.T @ z / (len(z) - 1)
        shared = shared + (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
    return 25 * alike + 25 * spread + shared


def pretrain(network: PolarNetwork, images: Tensor, epochs: int) -> None:
    """Teach the convolutions of a network without labels."""
    features = 2 * CHANNELS[-1] * (RINGS >> len(CHANNELS))
    projector = nn.Sequential(
        nn.Linear(features, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
    )
    weights = [*network.trunk.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-4)
    batches = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=epochs * batches, pct_start=0.1
    )
    network.train()
    for _ in range(epochs):
        for rows in torch.tensor_split(torch.randperm(len(images)), batches):
            # Of a mirrored galaxy both views are mirrored: its sense is what they have in common.
            chosen = images[rows].flip(-1) if torch.rand(()) < 0.5 else images[rows]
            one, other = (projector(pooled(network, view(network.unrolled(chosen)[0]))) for _ in range(2))
            optimizer.zero_grad()
            torch.autograd.backward(loss(one, other))
            optimizer.step()
            schedule.step()


def fitted(
    network: PolarNetwork, images: Tensor, y: Tensor, train: NDArray[np.int64], settings: Settings
) -> PolarNetwork:
    """Train on nine tenths of the training part; the last tenth chooses the epoch."""
    order = np.random.default_rng(SEED).permutation(train)
    valid, learned = np.split(order, [len(order) // 10])
    parts = (TensorExamples({"image": images[rows]}, y[rows]) for rows in (learned, valid))
    fit_network(network, *parts, settings, seed=SEED)
    return network


def answers(network: PolarNetwork, images: Tensor) -> NDArray[np.float64]:
    """Return the probabilities of the classes."""
    with torch.inference_mode():
        said = [network({"image": part}).softmax(dim=1) for part in images.split(256)]
    return torch.cat(said).double().numpy()


def labelled(folders: list[Path], label: str) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return the images of some folders and what their labels.csv say of them."""
    images, names = [], []
    for folder in folders:
        found = read_images(folder, SIZE)
        table = pd.read_csv(folder / "labels.csv", dtype=str)
        by_name = dict(zip(table["path"].map(lambda path: Path(path).stem), table[label], strict=True))
        images.append(found.load())
        names += [by_name[path.stem] for path in found.paths]
    return np.concatenate(images), np.array(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--label", default="class")
    parser.add_argument("--more", type=Path, action="append", default=[])
    parser.add_argument("--mirror", default="")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, default=5)
    parser.add_argument("--pretrain", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    x, names = labelled(given.folders, given.label)
    classes, y = np.unique(names, return_inverse=True)
    mirror = Mirror.of(dict([given.mirror.split("=")]) if given.mirror else {}, classes.tolist())
    images, target = torch.from_numpy(x), torch.from_numpy(y)
    every = torch.from_numpy(
        np.concatenate([x, *(read_images(folder, SIZE).load() for folder in given.more)])
    )
    settings = Settings(
        1e-3, 64, given.epochs, given.epochs, kind="classification", weight_decay=1e-2, schedule="cosine"
    )
    with torch_state(1, seed=SEED):
        scratch = PolarNetwork({"image": x.shape[1:]}, mirror, CHANNELS, 64, 0.3)
        taught = copy.deepcopy(scratch)
        pretrain(taught, every, given.pretrain)
    said: dict[str, list[NDArray[np.float64]]] = {"from scratch": [], "pre-trained": []}
    tested = []
    folds = StratifiedKFold(given.folds, shuffle=True, random_state=SEED).split(x, y)
    for _, (train, test) in zip(range(given.only), folds, strict=False):
        tested.append(test)
        for how, network in (("from scratch", scratch), ("pre-trained", taught)):
            said[how].append(
                answers(fitted(copy.deepcopy(network), images, target, train, settings), images[test])
            )
    truth = y[np.concatenate(tested)]
    right = {}
    for how, parts in said.items():
        probability = np.concatenate(parts)
        right[how] = probability.argmax(axis=1) == truth
        error = -np.log(np.clip(probability[np.arange(len(truth)), truth], 1e-6, 1)).mean()
        print(f"{how}: accuracy {right[how].mean():.4f}, log loss {error:.4f}, {len(truth)} objects")
    gain = right["pre-trained"].astype(float) - right["from scratch"]
    drawn = np.random.default_rng(SEED).choice(gain, (10_000, len(gain))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    print(f"gain of pre-training: {gain.mean():+.4f} ({low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
