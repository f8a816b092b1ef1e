"""The scene data set: a folder of images, and a table of features of the sound that goes with each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.errors import DataError
from skyfuse.survey.colourimages import Images, read_images
from skyfuse.survey.tables import read_table

FEATURES = tuple(f"MFCC_{k}" for k in range(1, 105))
"""Columns of the mel-frequency cepstral coefficients."""

LABELS = ("CLASS1", "CLASS2")
"""Indoors or outdoors, and one of eight scenes."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Images with their features and labels.

    Attributes
    ----------
    table : DataFrame
        ``image`` (row into `images`), ``name``, ``file``, ``folder``, `FEATURES`, `LABELS` and what else the
        table has; one row a pair.
    images : Images
    unpaired : dict of str to int
        Images without features and features without an image.
    features : Path
        The table of features.
    row : ndarray of int64, shape (images,)
        Row of that table for each image, −1 for none.
    rows : int
        Rows that it has.
    """

    table: pd.DataFrame
    images: Images
    unpaired: dict[str, int]
    features: Path
    row: NDArray[np.int64]
    rows: int


def read_scene(folder: str | Path, size: int, *, labels: bool = True) -> Scene:
    """Read a folder with images, at any depth, and one CSV table of features and labels.

    Parameters
    ----------
    folder : path
    size : int
        Rows and columns to average each image to.
    labels : bool
        Whether the table must have `LABELS`.

    Returns
    -------
    Scene

    Raises
    ------
    DataError
        No table, or several, with `FEATURES` and, if wanted, `LABELS`; no images; no pair.
    FileError
        A table cannot be read.
    """
    folder = Path(folder)
    images = read_images(folder, size)
    wanted = {*FEATURES, *(LABELS if labels else ())}
    tables = [(path, read_table(path)) for path in sorted(folder.rglob("*.csv"))]
    tables = [(path, table) for path, table in tables if wanted <= set(table.columns)]
    if len(tables) != 1:
        raise DataError(
            f"holds {len(tables)} tables with {FEATURES[0]} to {FEATURES[-1]}"
            + (f", {' and '.join(LABELS)}" if labels else ""),
            remedy="give a folder with the images and one such CSV table",
            path=folder,
        )
    path, table = tables[0]
    row = images.rows_of(table)
    pairs = images.join(table)
    unpaired = {
        "images without features": len(images) - len(pairs),
        "features without an image": len(table) - len(pairs),
    }
    return Scene(pairs, images, unpaired, path, row, len(table))
