"""PyTorch's own state (threads, determinism, random stream), and how much it evaluates at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def evaluation_batch(x: Mapping[str, Any]) -> int:
    """Return how many objects to evaluate at once where no gradient is kept.

    A first layer of 512 channels on 3,744 bins makes 8 MB of each object: large inputs go by 32, small ones
    by up to 4,096.
    """
    values = sum(math.prod(array.shape[1:]) for array in x.values())
    return int(np.clip(2**18 // values, 32, 4096))


@contextmanager
def torch_state(threads: int, *, deterministic: bool = False, seed: int | None = None) -> Iterator[None]:
    """Set PyTorch's threads, determinism and random stream, and give the caller's back afterwards."""
    before = torch.get_num_threads()
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    if deterministic and devices:
        # cuBLAS reads it when it starts; without it PyTorch refuses to multiply matrices deterministically.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        # Writing NaN into each new tensor would find code that reads what it has not written; none does.
        memory.fill_uninitialized_memory = False
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict, warn_only=warn)
            memory.fill_uninitialized_memory = fill
