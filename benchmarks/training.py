"""Training speed: Skyfuse's loop against a bare PyTorch loop, for each network.

    python benchmarks/training.py [--rounds 3] [NETWORK …]

Both loops train the same network on the same data, on one thread, with the same batches, loss and optimiser
(fused Adam, or Adamax for gaia-cnn); after each epoch both evaluate the validation part (a quarter as many
objects), and copy the weights where they are the best so far. Images are shown as they are. The loops take
turns and the best of the rounds counts, since other programs can only add to it; the first round pays for the
kernels' set-up and does not count. Whatever a training sets up or takes down counts. Bound: ratio ≥ 0.9 in
processor time, which on one thread and without files is what a free machine takes; wall time stands beside.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skyfuse.models import MODELS
from skyfuse.models.networks import Network, torch_state
from skyfuse.models.train import Settings, TensorExamples, fit_network

BOUND = 0.9
CLASSES = 3
Part = tuple[dict[str, Tensor], Tensor]


@dataclass
class Case:
    """A network, its inputs, and how long to train it: about a second."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    batches: int
    epochs: int
    kind: str = "classification"
    batch_size: int | None = None


CASES = (
    Case("feed-forward", {"table": (5,)}, 8, 8),
    Case("vggnet12", {"image": (5, 16, 16)}, 12, 8, "regression"),
    Case("vggnet12", {"spectrum": (468,)}, 12, 6, "regression"),
    Case("vggnet12", {"image": (5, 16, 16), "spectrum": (468,)}, 8, 5, "regression"),
    Case("gaia-cnn", {"spectrum": (186,)}, 10, 2, "regression"),
    Case("sdss-cnn", {"spectrum": (936,)}, 4, 2),
    Case("mixed", {"spectrum": (468,), "table": (26,)}, 3, 3),
    Case("image-cnn", {"image": (3, 64, 64)}, 4, 2),
    Case("image-cnn", {"image": (3, 224, 224)}, 1, 1, batch_size=8),
    Case("image-ff", {"image": (3, 64, 64)}, 20, 3),
    Case("image-ff", {"image": (3, 224, 224)}, 4, 1),
    Case("image-lstm", {"image": (3, 64, 64)}, 4, 2),
    Case("image-lstm", {"image": (3, 224, 224)}, 1, 1, batch_size=8),
    Case("resnet50", {"image": (3, 64, 64)}, 2, 1, batch_size=16),
    Case("autoencoder", {"spectrum": (448,)}, 3, 2, "reconstruction"),
)


def part(case: Case, n: int, seed: int) -> Part:
    random = torch.Generator().manual_seed(seed)
    x = {m: torch.randn((n, *shape), generator=random) for m, shape in case.shapes.items()}
    if case.kind == "reconstruction":
        return x, x["spectrum"]
    if case.kind == "regression":
        return x, torch.randn(n, generator=random)
    return x, torch.randint(CLASSES, (n,), generator=random)


def bare(network: nn.Module, train: Part, valid: Part, settings: Settings) -> None:
    """Train as one would in thirty lines of a notebook."""
    if settings.optimiser == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    else:
        optimizer = torch.optim.Adamax(network.parameters(), lr=settings.learning_rate)
    if settings.kind == "classification":
        loss_function = nn.functional.cross_entropy
    else:
        loss_function = nn.functional.huber_loss if settings.loss == "huber" else nn.functional.mse_loss
    (x, y), (x_valid, y_valid) = train, valid
    best, best_state = np.inf, {}
    for _ in range(settings.max_epochs):
        network.train()
        for rows in torch.randperm(len(y)).split(settings.batch_size):
            optimizer.zero_grad()
            out = network({m: a[rows] for m, a in x.items()}).squeeze(1)
            loss = loss_function(out, y[rows])
            loss.backward()
            optimizer.step()
        network.eval()
        total = 0.0
        with torch.inference_mode():
            for rows in torch.arange(len(y_valid)).split(256):
                out = network({m: a[rows] for m, a in x_valid.items()}).squeeze(1)
                total += float(loss_function(out, y_valid[rows])) * len(rows)
        if total < best:
            best, best_state = total, {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(best_state)


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return the ratio bare / skyfuse of each clock, and print a line."""
    kind = MODELS[case.name]
    assert issubclass(kind, Network)
    model = kind()
    names = Settings.__dataclass_fields__.keys() & model.params.keys()
    settings = Settings(
        **{name: model.params[name] for name in names}
        | {"batch_size": case.batch_size or model.params["batch_size"], "max_epochs": case.epochs}
        | {"patience": case.epochs, "augment": False, "rotate": False, "threads": 1, "kind": case.kind}
    )
    n = settings.batch_size * case.batches
    train, valid = part(case, n, 1), part(case, max(8, n // 4), 2)
    outputs = {"classification": CLASSES, "regression": 1, "reconstruction": 0}[case.kind]
    clocks = {"processor": time.process_time, "wall": time.perf_counter}
    best = {(loop, clock): np.inf for loop in ("bare", "skyfuse") for clock in clocks}
    for round_ in range(rounds + 1):
        for loop in ("bare", "skyfuse"):
            with torch_state(1, seed=0):
                network = model.build(case.shapes, outputs)
                start = {clock: read() for clock, read in clocks.items()}
                if loop == "bare":
                    bare(network, train, valid, settings)
                else:
                    fit_network(network, TensorExamples(*train), TensorExamples(*valid), settings, seed=0)
                for clock, read in clocks.items():
                    if round_:
                        best[loop, clock] = min(best[loop, clock], read() - start[clock])
    ratios = {clock: best["bare", clock] / best["skyfuse", clock] for clock in clocks}
    rates = {loop: case.epochs * n / best[loop, "wall"] for loop in ("skyfuse", "bare")}
    inputs = " + ".join(f"{modality} {'×'.join(map(str, s))}" for modality, s in case.shapes.items())
    print(
        f"{case.name:13} {inputs:33} {rates['skyfuse']:8.0f} objects/s, bare {rates['bare']:8.0f}; ratio "
        + ", ".join(f"{ratio:.3f} {clock}" for clock, ratio in ratios.items()),
        flush=True,
    )
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("networks", nargs="*", default=[])
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.networks or case.name in arguments.networks]
    worst = min(measure(case, arguments.rounds)["processor"] for case in cases)
    print(f"worst ratio {worst:.3f}, bound {BOUND}: {'met' if worst >= BOUND else 'MISSED'}")
    return 0 if worst >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
