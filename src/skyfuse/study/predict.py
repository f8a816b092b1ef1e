"""A saved model on new data: a cube, a dataset, or files of what its training read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from skyfuse.config import DERIVED, Reader
from skyfuse.dataset.source import open_source
from skyfuse.errors import SkyfuseError, StoreError
from skyfuse.models import load_model
from skyfuse.models.base import Prediction
from skyfuse.models.uncertainty import propagate
from skyfuse.study.predictions import set_names

Progress = Callable[[int, int, str], None]

IDENTITY = ("object_id", "ra", "dec", "plate", "mjd", "fiberid", "source_id", "name")
"""Columns that name an object in the table of predictions, where the data has them."""


def predict_path(
    model: Path, data: Path, *, draws: int = 0, seed: int = 0, progress: Progress | None = None
) -> pd.DataFrame:
    """Predict for every object of a cube, a dataset, or files of the kind that the model was trained on.

    Parameters
    ----------
    model : path
        Folder of a saved model.
    data : path
        What to predict for. Survey files are built into a temporary cube first.
    draws : int
        How often inputs are redrawn within their measured σ to spread the prediction; 0 leaves it out.
    seed : int
        Of the draws.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    DataFrame
        What names the object (`IDENTITY`), the prediction under the name of the model's label, and, as far as
        the model is calibrated and tells: ``<label>_low`` and ``_high``; or ``p_<class>`` and ``<label>_set``
        (classes joined by ``|``); ``unknown``. With draws ``<label>_spread`` (standard deviation over the
        draws) or ``<label>_agreement`` (share of draws with the same class).

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
    columns = inputs.get("columns") or []
    with TemporaryDirectory(prefix="skyfuse-predict-") as work:
        try:
            dataset = open_source(
                data,
                Path(work),
                reader=reader_of(inputs),
                zooms={modality: [int(zoom)] for modality, zoom in inputs["zooms"].items()},
                columns=columns,
                derive=[
                    name
                    for name, pattern in DERIVED.items()
                    if any(column.startswith(pattern.removesuffix("*")) for column in columns)
                ],
                image_size=inputs.get("size"),
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
        prediction = fitted.predict(dataset, progress=progress)
        known = [name for name in IDENTITY if name in dataset.table]
        table = dataset.table[known].reset_index(drop=True)
        table = pd.concat([table, pd.DataFrame(_told(prediction, label["name"]))], axis=1)
        if draws:
            spread = propagate(fitted, dataset, np.arange(len(dataset)), draws=draws, seed=seed)
            told = "agreement" if fitted.classes else "spread"
            table[f"{label['name']}_{told}"] = spread[told].to_numpy()
    return table


def _told(prediction: Prediction, label: str) -> dict[str, Any]:
    """Return what a prediction tells, by column."""
    if prediction.probability is not None:
        found: dict[str, Any] = {label: prediction.names}
        found |= {f"p_{name}": prediction.probability[:, i] for i, name in enumerate(prediction.classes)}
        if prediction.members is not None:
            found[f"{label}_set"] = set_names(prediction.members, prediction.classes)
    else:
        found = {label: prediction.value}
        if prediction.low is not None and prediction.high is not None:
            found |= {f"{label}_low": prediction.low, f"{label}_high": prediction.high}
    return found if prediction.unknown is None else {**found, "unknown": prediction.unknown}


def reader_of(inputs: Mapping[str, Any]) -> Reader:
    """Return the reader of files for a model, from how the inputs of its training were cut.

    Parameters
    ----------
    inputs : mapping
        ``inputs`` of the model's card.
    """
    zooms = inputs["zooms"]
    if inputs.get("grid") == "gaia-xp":
        return "gaia-xp"
    if inputs.get("bands") == "rgb":
        return "scene" if any("MFCC" in column for column in inputs.get("columns") or []) else "images"
    return "table" if set(zooms) == {"table"} else "cube"
