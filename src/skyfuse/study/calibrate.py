"""A saved model's intervals or sets, weighed for a survey whose objects come without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfuse.dataset.given import columns_beside
from skyfuse.dataset.sources.protocol import Naming
from skyfuse.errors import SkyfuseError, StoreError, UsageError
from skyfuse.models.applicability import Applicability
from skyfuse.models.base import Model
from skyfuse.models.promise import SIGMAS, Sample, promised
from skyfuse.models.shift import Digest, Weighted
from skyfuse.models.summaries import summarise, without_input
from skyfuse.study.predict import opened, usable
from skyfuse.words import Progress

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset


def calibrate(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    id_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model whose intervals or sets are meant for the objects of some data, which need no labels.

    Each object that the model was calibrated on counts by how much more frequent its like is in the data
    (Tibshirani et al. 2019), see `skyfuse.models.shift`. That holds where labels follow from the inputs as in
    the model's own survey; whether they do cannot be seen without labels.

    Parameters
    ----------
    model : path
        Folder of a saved model, or of a study, whose chosen model is taken. It stays as it is.
    data : path
        As for `skyfuse.study.predict.predict`.
    output : path
        Folder of the new model; it must not exist.
    id_column, columns, progress
        As for `skyfuse.study.predict.predict`.

    Returns
    -------
    dict
        ``file``, the new folder, and what its card tells of the target, see `skyfuse.models.files.Target`.

    Raises
    ------
    StoreError
        If a folder is missing or damaged, or keeps no calibration.
    UsageError
        If the new folder exists.
    DataError
        If the data cannot be read, or no promise can be made for it, with the reason.
    """
    data, output = Path(data), Path(output)
    if output.exists():
        raise UsageError(f"{output} exists", remedy="name a new folder for the calibrated model")
    choice, fitted = usable(Path(model), data)
    plain = fitted.interval.plain if isinstance(fitted.interval, Weighted) else fitted.interval
    if fitted.applicability is None or fitted.evidence is None or plain is None:
        raise StoreError(
            "keeps no calibration that could be weighed",
            path=choice.model,
            remedy="train it by skyfuse study, which keeps one",
        )
    with opened(fitted, data, Naming(id_column, columns or {}), progress) as given:
        sample, digest = _sample(fitted, fitted.applicability, given.dataset, progress)
        known = columns_beside(data, given, fitted.evidence.columns)
    sample = replace(sample, beside={name: values[np.isfinite(values)] for name, values in known.items()})
    try:
        fitted.interval, promise = promised(fitted.applicability, plain, fitted.evidence, sample)
    except SkyfuseError as error:
        error.path = error.path or data
        raise
    told = {"name": data.name, "sha256": digest, **asdict(promise)}
    fitted.card["target"] = told
    fitted.save(output)
    return {"file": output, "model": str(choice.model), "chosen": choice.why, **told}


def _sample(
    fitted: Model, known: Applicability, dataset: Dataset, progress: Progress | None
) -> tuple[Sample, str]:
    """Return what a model tells of all objects that it can read, and the digest of what it read."""
    columns, digest = fitted.card["inputs"]["columns"], Digest()
    parts: list[Sample] = []
    for x in fitted.read(dataset, progress=progress):
        digest.update(x)
        kept = ~without_input(x, fitted.inputs)
        x = {name: array[kept] for name, array in x.items()}
        summary = summarise(x, columns, fitted.inputs)
        prediction = fitted.predict(x)
        told = prediction.value if prediction.probability is None else prediction.probability
        told = told.reshape(len(told), -1).astype(np.float64)
        parts.append(Sample(known.places(summary), told, known.outside(summary) != "", {}))
    whole = Sample(
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.outside for part in parts]),
        {},
    )
    return whole, str(digest)


def summary(facts: Mapping[str, Any]) -> str:
    """Return what a weighted calibration rests on, in lines to read."""
    lines = [
        f"given {facts['given']}: {facts['outside']} outside of what the training taught; a fit tells the "
        f"others from the training in {facts['apart']:.0%} of pairs (50 % where they are alike)",
        f"weighed, the {facts['calibrated']} calibration objects tell as much as {facts['effective']:.0f}: "
        f"the coverage is known to ± {SIGMAS * facts['spread']:.3f}",
        f"columns that the model does not read and its errors go with: {facts['beside']} compared, alike",
        "this holds where labels follow from the inputs as in the model's own survey, which cannot be seen "
        "without labels",
    ]
    if facts["chosen"]:
        lines.append(f"model: {facts['model']} ({facts['chosen']})")
    return "\n".join(lines)
