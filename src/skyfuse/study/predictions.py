"""Predictions of a cell as a table: written, read, and made ready for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset.features import Scaler
from skyfuse.disk import read_parquet
from skyfuse.models.base import Prediction
from skyfuse.models.inputs import Arrays
from skyfuse.study.metrics import Outcome

if TYPE_CHECKING:
    from skyfuse.recipe import Task
    from skyfuse.study.tasks import Target


def frame(
    goal: Target,
    rows: NDArray[np.int64],
    part: str,
    number: int,
    prediction: Prediction,
    baseline: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """Return the predictions for one part as a table.

    Parameters
    ----------
    goal : Target
    rows : ndarray of int64
        Rows of the dataset.
    part : str
    number : int
        Round.
    prediction : Prediction
        For these rows.
    baseline : ndarray of float64, optional
        Reconstruction: mean square of each object's scaled input about the mean training spectrum.

    Returns
    -------
    DataFrame
        row, round, part, label, prediction, covered (missing on the parts that the model was fitted on), and
        by kind: low, high, and of intervals that may be several ``pieces`` as text and their joint width;
        p_<class>, set_size, members; baseline; unknown where the model tells.
    """
    truth = goal.label[rows]
    table = pd.DataFrame({"row": rows, "round": number, "part": part, "label": goal.names(rows)})
    covered: NDArray[np.bool_] | None = None
    if prediction.probability is not None:
        table["prediction"] = prediction.names
        for i, name in enumerate(prediction.classes):
            table[f"p_{name}"] = prediction.probability[:, i]
        if prediction.members is not None:
            covered = prediction.members[np.arange(len(rows)), truth]
            table["set_size"] = prediction.members.sum(axis=1)
            table["members"] = set_names(prediction.members, prediction.classes)
    else:
        table["prediction"] = prediction.value
        if prediction.low is not None and prediction.high is not None:
            covered = (prediction.low <= truth) & (truth <= prediction.high)
            table["low"], table["high"] = prediction.low, prediction.high
        if prediction.pieces is not None:
            low, high = prediction.pieces[:, :, 0], prediction.pieces[:, :, 1]
            covered = np.asarray(((low <= truth[:, None]) & (truth[:, None] <= high)).any(axis=1))
            table["pieces"], table["width"] = told_pieces(prediction.pieces), np.nansum(high - low, axis=1)
    if baseline is not None:
        table["baseline"] = baseline
    if prediction.unknown is not None:
        table["unknown"] = prediction.unknown
    told = None if part in ("train", "valid") else covered
    table["covered"] = pd.Series(told, index=table.index, dtype="boolean")
    return table


def set_names(members: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    """Return each set of classes, a row of `members`, as names joined by ``|``; an empty one as no text."""
    return ["|".join(np.array(classes)[row]) for row in members]


def told_pieces(pieces: NDArray[np.float64]) -> list[str]:
    """Return the intervals of each object (n, k, 2) as text, ``low:high`` joined by ``|``."""
    return [
        "|".join(f"{low:.9g}:{high:.9g}" for low, high in own if np.isfinite(low)) for own in pieces.tolist()
    ]


def baseline_of(train: Arrays, x: Arrays) -> NDArray[np.float64]:
    """Return the error of the best constant: each spectrum's mean square about the mean training spectrum.

    Parameters
    ----------
    train : dict of str to ndarray
        ``spectrum`` of the training part, shape (m, bins).
    x : dict of str to ndarray
        ``spectrum`` of n objects.

    Returns
    -------
    ndarray of float64, shape (n,)
        Mean over the valid bins, in the scaled units of `skyfuse.models.autoencoder`.
    """
    scaler = Scaler.fit({"spectrum": train["spectrum"]})
    learned, own = (
        scaler.transform({"spectrum": arrays["spectrum"]})["spectrum"].astype(np.float64)
        for arrays in (train, x)
    )
    seen = np.isfinite(learned)
    mean = np.where(seen, learned, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    seen = np.isfinite(own)
    squares = np.where(seen, (own - mean) ** 2, 0)
    return np.asarray(squares.sum(axis=1) / np.maximum(seen.sum(axis=1), 1))


def read_predictions(cell: Path, part: str) -> pd.DataFrame:
    """Return the predictions of one cell for one part, in the order of the split.

    Parameters
    ----------
    cell : Path
        Folder of the cell.
    part : str
        ``train``, ``valid``, ``calibration`` or ``test``; the calibration and test parts of all
        rounds follow each other, of the others there is the first round's.

    Returns
    -------
    DataFrame
        See `frame`.
    """
    table = read_parquet(cell / "predictions.parquet")
    return table[table["part"] == part].reset_index(drop=True)


def outcome(table: pd.DataFrame, task: Task, classes: Sequence[str]) -> Outcome:
    """Return stored predictions ready for scoring."""
    if task.kind == "classification":
        names = pd.Index(classes)
        return Outcome(
            task.kind,
            names.get_indexer(pd.Index(table["label"])),
            names.get_indexer(pd.Index(table["prediction"])),
            table[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64),
        )
    value = table["prediction"].to_numpy(dtype=np.float64)
    if task.kind == "reconstruction":
        return Outcome(task.kind, table["baseline"].to_numpy(dtype=np.float64), value)
    truth = table["label"].to_numpy(dtype=np.float64)
    return Outcome(task.kind, truth, value, outlier=task.outlier if task.redshift else None)
