"""A saved model on new data: a cube, a dataset or survey files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.source import open_source
from skyfuse.errors import DataError
from skyfuse.models import load_model

Progress = Callable[[int, int, str], None]
_BLOCK = 1024  # objects in memory at a time


def predict_path(model: Path, data: Path, *, progress: Progress | None = None) -> pd.DataFrame:
    """Predict for every object of a cube, a dataset or a folder of survey files.

    Parameters
    ----------
    model : path
        Folder of a saved model.
    data : path
        What to predict for. Survey files are built into a temporary cube first.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    DataFrame
        object_id, ra, dec, plate, mjd, fiberid and the prediction, named after the model's label.

    Raises
    ------
    StoreError
        If either folder is missing or damaged.
    DataError
        If the data lacks what the model reads, or was made on another wavelength grid or cutout size.
    """
    fitted = load_model(model)
    inputs = fitted.card["inputs"]
    zooms = {modality: int(zoom) for modality, zoom in inputs["zooms"].items()}
    with TemporaryDirectory(prefix="skyfuse-predict-") as work:
        dataset = open_source(
            data,
            Path(work),
            zooms={m: [z] for m, z in zooms.items()},
            grid=inputs.get("grid") or "sdss",
            progress=progress,
        )
        _check(dataset, inputs, data)
        values = []
        for start in range(0, len(dataset.table), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(dataset.table)))
            values.append(fitted.predict(dataset.inputs(zooms, rows)).value)
            if progress is not None:
                progress(int(rows[-1]) + 1, len(dataset.table), "predict")
        table = dataset.table[["object_id", "ra", "dec", "plate", "mjd", "fiberid"]].reset_index(drop=True)
    table[fitted.card["label"]["name"]] = np.concatenate(values) if values else np.empty(0)
    return table


def _check(dataset: Dataset, inputs: dict[str, Any], data: Path) -> None:
    """Refuse data that the model would read as something else than it was trained on."""
    image, spectrum = dataset.meta["image"], dataset.meta["spectrum"]
    has = {"bands": image["bands"], "size": image["size"], "grid": spectrum["grid"]}
    for key, value in has.items():
        wanted = inputs.get(key)
        if wanted is not None and wanted != value:
            raise DataError(
                f"was made with {key} {value}, the model with {wanted}",
                path=data,
                remedy=f"build it with {wanted}",
            )
    for modality, zoom in inputs["zooms"].items():
        if zoom not in dataset.zooms.get(modality, ()):
            raise DataError(
                f"does not hold {modality} zoom {zoom}, which the model reads",
                path=data,
                remedy="give the cube instead",
            )
