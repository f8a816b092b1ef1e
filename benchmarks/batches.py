"""Random batches of 256 from a dataset of 20,000 objects against raw memory maps, and its size on disk.

Run: python benchmarks/batches.py [--objects 20000] [--folder DIR].
It needs 9 GB of disk, and removes what it wrote.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from skyfuse.cube.contents import CubeImaging, CubeSpectroscopy
from skyfuse.cube.grid import SDSS
from skyfuse.cube.layout import COMPONENTS
from skyfuse.dataset import Dataset, Wanted
from skyfuse.survey.records import Samples

BATCH = 256
COLD_ROUNDS = 7
CASES = (("image", 0), ("spectrum", 4))
WARM_BOUND, COLD_BOUND, DISK_BOUND = 0.7, 5.0, 1.05


class NoiseCube:
    """Objects of noise, drawn when they are asked for."""

    _imaging = CubeImaging("sdss", tuple("ugriz"), 64, 5, "nanomaggy", 0.396)
    _spectroscopy = CubeSpectroscopy("sdss", SDSS, 5, "1e-17 erg s-1 cm-2 Angstrom-1")

    def __init__(self, folder: Path, n: int) -> None:
        self.path = folder
        folder.mkdir()
        (folder / "cube.json").write_text("{}")
        self.objects = pd.DataFrame({"object_id": [f"J{k:06d}" for k in range(n)]})
        self.spectra = self.objects
        rng = np.random.default_rng(0)
        self._pool = {
            kind: rng.normal(size=(256, *shape)).astype(np.float32)
            for kind, shape in (("image", (5, 64, 64)), ("spectrum", SDSS.sizes[:1]))
        }

    def instruments_with(self, kind: str) -> list[str]:
        """Return the one instrument."""
        return ["sdss"]

    def imaging(self, instrument: str | None = None) -> CubeImaging:
        """Return what the images are."""
        return self._imaging

    def spectroscopy(self, instrument: str | None = None) -> CubeSpectroscopy:
        """Return what the spectra are."""
        return self._spectroscopy

    def gather(self, kind: str, zoom: int, rows: np.ndarray, instrument: str | None = None) -> Samples:
        """Return the samples of some objects."""
        native = self._pool[kind][rows % 256] + rows.astype(np.float32).reshape(
            -1, *[1] * (self._pool[kind].ndim - 1)
        )
        value = (
            native[..., :: 1 << zoom, :: 1 << zoom] if kind == "image" else native[..., : SDSS.sizes[zoom]]
        )
        return Samples(value, np.ones_like(value), np.ones(value.shape, np.float16))


def drop_cache(path: Path) -> None:
    """Take a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(read: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> float:
    """Return objects a second over some batches."""
    start = time.perf_counter()
    for rows in batches:
        read(rows)
    return BATCH * len(batches) / (time.perf_counter() - start)


def resident(array: np.memmap) -> float:
    """Return the share of a mapped array that is in the page cache."""
    pages = -(-array.nbytes // mmap.PAGESIZE)
    seen = (ctypes.c_ubyte * pages)()
    address = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), seen):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((np.frombuffer(seen, np.uint8) & 1).mean())


def draw(n: int, batches: int, seed: int) -> list[np.ndarray]:
    """Return random batches of rows."""
    rng = np.random.default_rng(seed)
    return [rng.choice(n, BATCH, replace=False) for _ in range(batches)]


def raw_path(folder: Path, modality: str, zoom: int, name: str) -> Path:
    return folder / f"{modality}-{zoom}-{name}.raw"


def make(folder: Path, n: int) -> float:
    """Write the dataset and the same arrays as raw files; return its size over that of the arrays."""
    zooms = {modality: (zoom,) for modality, zoom in CASES}
    dataset = Dataset.from_cube(NoiseCube(folder / "noise.cube", n), folder / "dataset", Wanted(zooms=zooms))
    raw = 0
    for modality, zoom in CASES:
        for name, values in zip(COMPONENTS, dataset.array(modality, zoom), strict=True):
            raw += values.nbytes
            with raw_path(folder, modality, zoom, name).open("wb") as file:
                for first in range(0, n, BATCH):
                    file.write(np.ascontiguousarray(values[first : first + BATCH]))
    return sum(path.stat().st_size for path in dataset.path.iterdir()) / raw


def raw_maps(dataset: Dataset, folder: Path, modality: str, zoom: int) -> list[np.memmap]:
    """Map the raw files."""
    arrays = zip(COMPONENTS, dataset.array(modality, zoom), strict=True)
    return [
        np.memmap(raw_path(folder, modality, zoom, name), a.dtype, "r", shape=a.shape) for name, a in arrays
    ]


def warm(folder: Path, modality: str, zoom: int, rounds: int) -> str:
    """Time batches of arrays that are in the page cache, ours and theirs in turn."""
    dataset = Dataset.open(folder / "dataset")
    maps = raw_maps(dataset, folder, modality, zoom)
    for array in (*maps, *dataset.array(modality, zoom)):
        for first in range(0, len(array), BATCH):
            np.array(array[first : first + BATCH])
    ours, theirs, values = [], [], []
    for number in range(rounds):
        batches = draw(len(dataset), 10, number)
        theirs.append(rate(lambda rows: [array[rows] for array in maps], batches))
        ours.append(rate(lambda rows: dataset.batch(modality, zoom, rows), batches))
        alone = rate(lambda rows: maps[0][rows], batches)
        values.append(rate(lambda rows: dataset.inputs({modality: zoom}, rows), batches) / alone)
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    return (
        f"warm {modality} zoom {zoom}: {median(ours):,.0f} objects/s, {ratio:.2f} x a raw memmap "
        f"(bound {WARM_BOUND}); values without sigma and coverage {median(values):.2f} x"
    )


def cold(folder: Path, ours: bool, seed: int) -> tuple[float, float]:
    """Time batches of images from files that are not cached; return objects a second and the share cached."""
    dataset = Dataset.open(folder / "dataset")
    maps = list(dataset.array("image", 0)) if ours else raw_maps(dataset, folder, "image", 0)
    for path in {Path(str(array.filename)) for array in maps}:
        drop_cache(path)
    before = max(map(resident, maps))
    batches = draw(len(dataset), 4, seed)
    if ours:
        return rate(lambda rows: dataset.batch("image", 0, rows), batches), before
    return rate(lambda rows: [array[rows] for array in maps], batches), before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=20000)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write (default: the temporary folder)"
    )
    parser.add_argument("--rounds", type=int, default=31, help="warm timings, of which the median counts")
    arguments = parser.parse_args()
    # The kernel keeps pages that any process has mapped, so each case has a process of its own.
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as temporary,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as own,
    ):
        folder = Path(temporary)
        size = own.submit(make, folder, arguments.objects).result()
        print(f"{arguments.objects} objects; disk: {size:.4f} x the raw arrays (bound {DISK_BOUND})")
        for modality, zoom in CASES:
            print(own.submit(warm, folder, modality, zoom, arguments.rounds).result())
        pairs = [
            [own.submit(cold, folder, ours, seed).result() for ours in (True, False)]
            for seed in range(COLD_ROUNDS)
        ]
        ratio = median(a[0] / b[0] for a, b in pairs)
        cached = max(share for pair in pairs for _, share in pair)
        print(
            f"cold image zoom 0: {median(a[0] for a, _ in pairs):,.0f} objects/s, a cold raw memmap "
            f"{median(b[0] for _, b in pairs):,.0f}: {ratio:.1f} x (bound {COLD_BOUND}); {cached:.1%} cached"
        )


if __name__ == "__main__":
    main()
