"""The scene data set: a folder of images, and a table of features of the sound that goes with each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skyfuse.errors import DataError
from skyfuse.survey.galaxyzoo import Images, read_images
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
    """

    table: pd.DataFrame
    images: Images
    unpaired: dict[str, int]


def read_scene(folder: str | Path, size: int) -> Scene:
    """Read a folder with images, at any depth, and one CSV table of features and labels.

    Parameters
    ----------
    folder : path
    size : int
        Rows and columns to average each image to.

    Returns
    -------
    Scene

    Raises
    ------
    DataError
        No table, or several, with `FEATURES` and `LABELS`; no images; no pair.
    FileError
        A table cannot be read.
    """
    folder = Path(folder)
    images = read_images(folder, size)
    wanted = {*FEATURES, *LABELS}
    tables = [(path, read_table(path)) for path in sorted(folder.rglob("*.csv"))]
    tables = [(path, table) for path, table in tables if wanted <= set(table.columns)]
    if len(tables) != 1:
        raise DataError(
            f"holds {len(tables)} tables with {FEATURES[0]} to {FEATURES[-1]}, {' and '.join(LABELS)}",
            remedy="give a folder with the images and one such CSV table",
            path=folder,
        )
    pairs = images.join(tables[0][1])
    unpaired = {
        "images without features": len(images) - len(pairs),
        "features without an image": len(tables[0][1]) - len(pairs),
    }
    return Scene(pairs, images, unpaired)
