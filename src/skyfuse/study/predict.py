"""A saved model on new data: a cube, a dataset or survey files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.source import open_source
from skyfuse.errors import DataError
from skyfuse.models import load_model

Progress = Callable[[int, int, str], None]
BLOCK = 1024  # objects in memory at a time


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
        for start in range(0, len(dataset.table), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(dataset.table)))
            arrays = {m: dataset.batch(m, z, rows).value for m, z in zooms.items()}
            values.append(fitted.predict(arrays).value)
            if progress is not None:
                progress(int(rows[-1]) + 1, len(dataset.table), "predict")
        table = dataset.table[["object_id", "ra", "dec", "plate", "mjd", "fiberid"]].reset_index(drop=True)
    table[fitted.card["label"]["name"]] = np.concatenate(values) if values else np.empty(0)
    return table


def _check(dataset: Dataset, inputs: dict[str, object], data: Path) -> None:
    """Refuse data that the model would read as something else than it was trained on."""
    for key in ("bands", "size", "grid"):
        has, wants = dataset.meta.get(key), inputs.get(key)
        if wants is not None and has is not None and has != wants:
            raise DataError(
                f"was made with {key} {has}, the model with {wants}",
                path=data,
                remedy=f"build it with {key} {wants}",
            )
