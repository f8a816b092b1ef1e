"""A saved model on new data: a cube, a dataset or survey files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from skyfuse.dataset.source import open_source
from skyfuse.errors import SkyfuseError, StoreError
from skyfuse.models import load_model

Progress = Callable[[int, int, str], None]


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
        If either folder is missing or damaged, or the model does not tell what it reads and predicts.
    DataError
        If the data lacks what the model reads, or was made on another wavelength grid or cutout size.
    """
    fitted = load_model(model)
    inputs, label = fitted.card.get("inputs"), fitted.card.get("label")
    if not inputs or not label:
        raise StoreError(
            "its card does not tell its inputs and its label",
            path=model,
            remedy="fill card['inputs'] and card['label'] before saving it",
        )
    with TemporaryDirectory(prefix="skyfuse-predict-") as work:
        try:
            dataset = open_source(
                data,
                Path(work),
                zooms={modality: [int(zoom)] for modality, zoom in inputs["zooms"].items()},
                grid=inputs.get("grid") or "sdss",
                progress=progress,
            )
        except SkyfuseError as error:
            if work not in error.remedy:
                raise
            # The ledger it points to goes away with the temporary cube.
            error.remedy = "see why with skyfuse build"
            raise
        fitted.require_inputs(dataset, data)
        value = fitted.predict(dataset, progress=progress).value
        table = dataset.table[["object_id", "ra", "dec", "plate", "mjd", "fiberid"]].reset_index(drop=True)
    table[label["name"]] = value
    return table
