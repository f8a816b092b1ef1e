"""Training speed: Skyfuse's loop on Lightning against a bare PyTorch loop, same network, batches and data.

    python benchmarks/training.py [--epochs 10] [--objects 400]

Both train VGGNet12 (width 0.25) on one thread with Adam, and evaluate the validation part after each epoch.
The loops take turns and the best of the rounds counts, since other programs can only add to it. Time is
processor time: on one thread, without files, it is what a free machine takes. Bound: ratio ≥ 0.9.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from skyfuse.models.networks import Vgg, torch_state
from skyfuse.models.train import Settings, fit_network

BOUND = 0.9
ROUNDS = 4
Part = tuple[dict[str, Tensor], Tensor]


def part(n: int, shape: dict[str, tuple[int, ...]], seed: int) -> Part:
    rng = np.random.default_rng(seed)
    x = {m: torch.from_numpy(rng.normal(size=(n, *s)).astype(np.float32)) for m, s in shape.items()}
    return x, torch.from_numpy(rng.normal(size=n).astype(np.float32))


def bare(network: nn.Module, train: Part, valid: Part, epochs: int, batch_size: int) -> None:
    """Train as one would in twenty lines of a notebook."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    x, y = train
    for _ in range(epochs):
        network.train()
        for rows in torch.tensor_split(torch.randperm(len(y)), -(-len(y) // batch_size)):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network({m: a[rows] for m, a in x.items()}), y[rows])
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            nn.functional.mse_loss(network(valid[0]), valid[1]).item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--objects", type=int, default=400)
    arguments = parser.parse_args()
    settings = Settings(
        learning_rate=1e-4,
        batch_size=32,
        max_epochs=arguments.epochs,
        patience=arguments.epochs,
        augment=False,
        threads=1,
    )
    worst = np.inf
    for shapes in ({"image": (5, 16, 16)}, {"spectrum": (468,)}, {"image": (5, 16, 16), "spectrum": (468,)}):
        train, valid = part(arguments.objects, shapes, 1), part(arguments.objects // 3, shapes, 2)
        seconds: dict[str, list[float]] = {"bare": [], "skyfuse": []}
        for round_ in range(ROUNDS + 1):
            for loop in seconds:
                with torch_state(1, seed=0):
                    network = Vgg(shapes, 0.25, 0.5)
                    start = time.process_time()
                    if loop == "bare":
                        bare(network, train, valid, arguments.epochs, settings.batch_size)
                    else:
                        fit_network(network, train, valid, settings, unit=1.0, seed=0)
                    # The first round pays for the kernels' set-up on either side.
                    if round_:
                        seconds[loop].append(time.process_time() - start)
        best = {loop: min(times) for loop, times in seconds.items()}
        ratio = best["bare"] / best["skyfuse"]
        worst = min(worst, ratio)
        rates = {loop: arguments.epochs * arguments.objects / best[loop] for loop in best}
        print(
            f"{' + '.join(shapes):17}: {rates['skyfuse']:7.0f} objects/s, bare {rates['bare']:7.0f}, "
            f"ratio {ratio:.3f}; {best['skyfuse'] / arguments.epochs:.3f} s an epoch"
        )
    print(f"worst ratio {worst:.3f}, bound {BOUND}: {'met' if worst >= BOUND else 'MISSED'}")
    return 0 if worst >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
