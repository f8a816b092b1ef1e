"""From whatever the user points at (a dataset, a cube or survey files) to a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset.dataset import Dataset
from skyfuse.errors import StoreError

Progress = Callable[[int, int, str], None]


def open_source(
    path: Path,
    work: Path,
    *,
    labels: pd.DataFrame | Path | None = None,
    zooms: Mapping[str, Sequence[int]],
    grid: str = "sdss",
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Open a dataset, or make one from a cube or from survey files.

    Parameters
    ----------
    path : path
        A dataset, a cube, or a file or folder of survey files.
    work : path
        Folder in which a cube (``sky.cube``) and a dataset (``dataset``) are made where `path` is not yet
        one. A dataset that is there already, made from the same cube with the same options, is used.
    labels : DataFrame or path, optional
        Labels to join, see `Dataset.from_cube`; not used where `path` is a dataset.
    zooms : mapping of str to sequence of int
        Zooms by modality, e.g. ``{"image": (2, 3), "spectrum": (3,)}``; the keys are the modalities.
    grid : str
        Wavelength grid of the cube that is built from files.
    progress : callable, optional
        ``(done, total, what)``.
    **options
        Further arguments of `Dataset.from_cube`.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If `path` does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(
            "does not exist", path=path, remedy="give a dataset, a cube or a folder of survey files"
        )
    if (path / "dataset.json").exists():
        return Dataset.open(path)
    if (path / "cube.json").exists():
        cube = Cube.open(path)
    else:
        work.mkdir(parents=True, exist_ok=True)
        build([path], work / "sky.cube", grid=grid, progress=progress)
        cube = Cube.open(work / "sky.cube")
    return Dataset.from_cube(
        cube, work / "dataset", labels=labels, modalities=tuple(zooms), zooms=dict(zooms), **options
    )
