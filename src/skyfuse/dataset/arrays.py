"""Arrays of a dataset: plain HDF5, read at the speed of a raw memory map."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.cube import layout
from skyfuse.dataset.content import Held
from skyfuse.errors import StoreError, UsageError
from skyfuse.survey.records import Samples

_DIMENSIONS = {"image": 4, "spectrum": 2}

# Arrays with rows of at most this size go to memory whole: the system call that announces a row to the
# kernel would cost more than copying the row. Above the second limit they stay mapped, so that ten million
# objects fit.
_SMALL_ROW_BYTES = 8192
_MEMORY_LIMIT_BYTES = 256 * 2**20
# Rows of a batch that are looked up in the page cache.
_PROBES = 16


def write_arrays(
    path: Path, n: int, shapes: Mapping[tuple[str, int], tuple[int, ...]], inputs: Mapping[str, Held]
) -> layout.ArrayWriter:
    """Preallocate the arrays of a dataset, to be filled block by block with `write_block`.

    Parameters
    ----------
    path : path
        File to create.
    n : int
        Number of objects.
    shapes : mapping of (str, int) to tuple of int
        Shape of one object's array, by input and zoom.
    inputs : mapping of str to Held
        What the inputs are.
    """
    specs = {
        f"/{name}/{zoom}/{component}": ((n, *shape), dtype)
        for (name, zoom), shape in shapes.items()
        for component, dtype in layout.COMPONENTS.items()
    }
    told = {(name, zoom): inputs[name] for name, zoom in shapes}
    return layout.create_arrays(
        path,
        specs,
        wavelengths={
            f"/{name}/{zoom}": held.wavelengths[zoom]
            for (name, zoom), held in told.items()
            if held.kind == "spectrum"
        },
        units={
            f"/{name}/{zoom}": str(held.told["unit"])
            for (name, zoom), held in told.items()
            if held.told.get("unit")
        },
    )


def write_block(writer: layout.ArrayWriter, entry: str, zoom: int, first: int, samples: Samples) -> None:
    """Write the samples of consecutive objects, the first of them at row `first`."""
    for name in layout.COMPONENTS:
        writer.write(f"/{entry}/{zoom}/{name}", first, getattr(samples, name))


class Arrays:
    """Read the arrays of a dataset.

    Parameters
    ----------
    path : path
        File written through `write_arrays`.
    n : int
        Number of objects that each array must hold.
    keys : mapping of (str, int) to str
        Inputs and zooms that must be there, with the kind of each.

    Raises
    ------
    StoreError
        If the file is missing or damaged, or an array is missing, of another type or length, or not inside
        the file.
    """

    def __init__(self, path: Path, n: int, keys: Mapping[tuple[str, int], str]) -> None:
        self.path = path
        self.keys = tuple(keys)
        self._mapped: dict[tuple[str, int, str], NDArray[Any]] = {}
        self._in_memory: dict[tuple[str, int, str], NDArray[Any]] = {}
        for (entry, zoom), kind in keys.items():
            shapes = set()
            for name, dtype in layout.COMPONENTS.items():
                array = layout.map_array(path, f"/{entry}/{zoom}/{name}")
                self._mapped[entry, zoom, name] = array
                shapes.add(array.shape)
                if (
                    array.dtype != dtype
                    or array.ndim != _DIMENSIONS[kind]
                    or len(array) != n
                    or len(shapes) > 1
                ):
                    raise StoreError(
                        f"/{entry}/{zoom}/{name} is {array.dtype}{array.shape}, not {n} rows of {dtype}",
                        path=path,
                        remedy="the dataset is damaged: make it anew",
                    )

        self._fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)

    def shape(self, entry: str, zoom: int) -> tuple[int, ...]:
        """Return the shape of one object's array."""
        self._check(entry, zoom)
        return self._mapped[entry, zoom, "value"].shape[1:]

    def samples(self, entry: str, zoom: int) -> Samples:
        """Return the arrays of all objects, mapped: nothing is read until it is touched."""
        self._check(entry, zoom)
        return Samples(*(self._mapped[entry, zoom, name] for name in layout.COMPONENTS))

    def gather(self, keys: Sequence[tuple[str, int, str]], rows: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return some arrays of some objects, in memory.

        The kernel is told first which bytes of all arrays will be wanted, so that a cold read queues them at
        once instead of waiting for one page fault after the other.

        Parameters
        ----------
        keys : sequence of (str, int, str)
            Input, zoom, and ``value``, ``sigma`` or ``coverage``.
        rows : ndarray of int64
            Within the arrays.
        """
        for entry, zoom, name in keys:
            self._check(entry, zoom)
            mapped = self._mapped[entry, zoom, name]
            if (entry, zoom, name) in self._in_memory:
                continue
            row_bytes = math.prod(mapped.shape[1:]) * mapped.dtype.itemsize
            if row_bytes <= _SMALL_ROW_BYTES and mapped.nbytes <= _MEMORY_LIMIT_BYTES:
                self._in_memory[entry, zoom, name] = np.array(mapped)
            elif not self._is_cached(mapped, rows):
                layout.prefetch(mapped, rows)
        # The rows are within the arrays, so "clip" changes none; it spares take() a copy of the result.
        arrays = [self._in_memory.get(key, np.asarray(self._mapped[key])) for key in keys]
        return [array.take(rows, axis=0, mode="clip") for array in arrays]

    def _is_cached(self, mapped: NDArray[Any], rows: NDArray[np.int64]) -> bool:
        """Tell whether the page cache holds a sample of the rows, by reads that fail rather than wait.

        Announcing 256 rows that are there already would take a quarter of the time of copying them.
        """
        if not isinstance(mapped, np.memmap) or not hasattr(os, "RWF_NOWAIT"):
            return False
        byte = bytearray(1)
        try:
            for row in rows[:: max(1, len(rows) // _PROBES)].tolist():
                os.preadv(self._fd, [byte], int(mapped.offset) + row * mapped.strides[0], os.RWF_NOWAIT)
        except OSError:  # not in the cache, or a file system that cannot tell
            return False
        return True

    def _check(self, entry: str, zoom: int) -> None:
        if (entry, zoom) not in self.keys:
            held = ", ".join(f"{m} {z}" for m, z in self.keys)
            raise UsageError(
                f"the dataset holds no {entry} at zoom {zoom}",
                path=self.path.parent,
                remedy=f"choose of: {held}",
            )
