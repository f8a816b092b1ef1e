"""From whatever the user points at (a dataset, a cube, survey files, tables, images) to a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.sources.registry import SOURCES
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, StoreError
from skyfuse.words import Progress


def open_source(
    paths: str | Path | Sequence[str | Path],
    work: Path,
    wanted: Wanted,
    *,
    reader: str = "cube",
    labels: pd.DataFrame | Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a dataset, or make one from what the reader reads.

    Parameters
    ----------
    paths : path or sequence of path
        One dataset, which is opened whatever the reader. Else for ``cube`` one cube, or files and folders of
        survey files, of which a cube is built; for ``table`` tables, which are put one below the other with a
        column ``source`` that names the file of each row; for ``gaia-xp`` files of BP/RP spectra; for
        ``images`` folders of colour images; for ``scene`` one scene folder.
    work : path
        Folder in which a cube (``sky.cube``) and a dataset (``dataset``) are made. A dataset that is there
        already, made from the same data with the same options, is used.
    wanted : Wanted
        Without a label the dataset has no label and no split.
    reader : str
        Key of `skyfuse.dataset.sources.registry.SOURCES`.
    labels : DataFrame or path, optional
        Table with the labels. ``cube``: joined by spectrum or position. ``gaia-xp``: by ``source_id``; by
        default the first table among `paths` with that column and the label. ``images``: by name; by default
        ``labels.csv`` or the first table among `paths` with the label, else an image's class is the name of
        its folder.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If a path does not exist.
    UsageError
        If the reader cannot give what is asked of it.
    DataError
        If the label, or any object with one, is missing.
    FileError
        If a table cannot be read.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for path in given:
        if not path.exists():
            raise StoreError(
                "does not exist", path=path, remedy="give a dataset, a cube or a folder of survey files"
            )
    if len(given) == 1 and (given[0] / "dataset.json").exists():
        return Dataset.open(given[0])
    try:
        draft = SOURCES[reader].draft(given, work, wanted, labels, progress)
        return Dataset.make(draft, work / "dataset", progress=progress)
    except DataError as error:
        error.path = error.path or given[0]
        raise
