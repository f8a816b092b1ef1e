"""A saved model, or the one that a study chose, on new data: every record given is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset.given import Given, open_given
from skyfuse.dataset.ledger import free_name
from skyfuse.dataset.sources.protocol import Naming
from skyfuse.errors import SkyfuseError, StoreError
from skyfuse.models import load_model
from skyfuse.models.base import Model, Prediction, joined
from skyfuse.models.promise import borne_out
from skyfuse.models.shift import Digest
from skyfuse.models.summaries import summarise, without_input
from skyfuse.models.uncertainty import Conformal, propagate
from skyfuse.study.describe import study_folder
from skyfuse.study.predictions import set_names, told_pieces
from skyfuse.words import Progress

RECONSTRUCTED = "mse"
"""Column of what a model that reconstructs its input tells: its mean squared error, in scaled units."""

ACCOUNT = "account"
"""Key of a table's ``attrs`` under which the account of its records stands."""


def predict(
    model: str | Path,
    data: str | Path,
    *,
    draws: int = 0,
    seed: int = 0,
    id_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict for every record of a cube, a dataset, or files of the kind that the model was trained on.

    Parameters
    ----------
    model : path
        Folder of a saved model, or of a study, whose chosen model is taken.
    data : path
        What to predict for. Survey files are built into a temporary cube first.
    draws : int
        How often inputs are redrawn within their measured σ to spread the prediction; 0 leaves it out.
    seed : int
        Of the draws.
    id_column : str, optional
        Column that names the rows of a table; by default all whose names say so, else the first if it is
        unique. It comes through as it is.
    columns : mapping of str to str, optional
        The table's own names for columns that the model reads, where neither case nor
        `skyfuse.dataset.select.ALIASES` tells.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    DataFrame
        A row for each spectrum, row of a table or image that was given, in the order of the files:

        - what names it: ``file``, ``row`` (from 0, of a table), ids and position;
        - ``status``: ``answered``; ``marked`` (it can be read, and has no answer of its own); ``rejected``
          (it cannot be read as an object); with ``reason`` in one word and ``detail``;
        - the prediction under the name of the model's label (of a reconstruction `RECONSTRUCTED`), and, as
          far as the model is calibrated and tells: ``<label>_low`` and ``_high``, with ``_pieces``
          (``low:high`` joined by ``|``) where the interval may be several; or ``p_<class>`` and
          ``<label>_set`` (classes joined by ``|``); ``unknown``: the object is none of the kind that the
          model knows. With draws ``<label>_spread`` (standard deviation over the draws) or
          ``<label>_agreement`` (share of draws with the same class). All are missing where the status is not
          ``answered``;
        - ``outside``: in which ways, joined by ``;``, the object is none that the training could have
          taught, e.g. ``r fainter;u missing``; empty where there is none, see
          `skyfuse.models.applicability.Applicability.outside`. Such an answer is an extrapolation;
        - ``<label>_level_holds``, beside intervals and sets: whether their stated level is meant for this
          object, which is neither outside nor unknown; and, where all objects together lean away from the
          training, has calibration objects nearby that bear it out (`skyfuse.models.promise.borne_out`).

        A model that was trained on objects with their best spectrum answers each object once; other spectra
        of it are marked ``repeat``. ``attrs["account"]`` holds the account of `account`.

    Raises
    ------
    StoreError
        If a folder is missing or damaged, or the model does not tell what it reads and predicts.
    UsageError
        If columns are named where the data is no table.
    DataError
        If the data lacks what the model reads, or was made on another wavelength grid or cutout size.
    """
    data = Path(data)
    choice, fitted = usable(Path(model), data)
    with opened(fitted, data, Naming(id_column, columns or {}), progress) as given:
        # Of a reconstruction the label only colours the report's views.
        name = RECONSTRUCTED if fitted.kind == "reconstruction" else fitted.card["label"]["name"]
        told = _answers(fitted, given, name, progress)
        if draws:
            every = np.arange(len(given.dataset))
            spread = propagate(fitted, given.dataset, every, draws=draws, seed=seed)
            what = "agreement" if fitted.classes else "spread"
            told[f"{name}_{what}"] = spread[what].to_numpy()
        return _table(given, told, choice)


@contextmanager
def opened(fitted: Model, data: Path, naming: Naming, progress: Progress | None) -> Iterator[Given]:
    """Give what some data holds for a model; what is made on the way goes away at the end.

    Raises
    ------
    StoreError, UsageError, DataError
        As `predict`; no error names what has gone.
    """
    with TemporaryDirectory(prefix="skyfuse-predict-") as work:
        try:
            given = open_given(data, Path(work), fitted.card["inputs"], naming=naming, progress=progress)
            fitted.require_inputs(given.dataset, data)
            yield given
        except SkyfuseError as error:
            made = error.path is not None and error.path.is_relative_to(work)
            if made and isinstance(error.__cause__, OSError):
                # The same command begins anew.
                error.path = Path(work).parent
                error.remedy = "make room in this folder of temporary files, or name another as TMPDIR"
            elif made:
                error.path = data
            if work in error.remedy:
                error.remedy = "see why with skyfuse build"
            raise


def usable(path: Path, data: Path) -> tuple[Choice, Model]:
    """Return the model that a folder stands for, loaded, once there is data for it.

    Raises
    ------
    StoreError
        If a folder is missing or damaged, or the model does not tell what it reads and predicts.
    """
    choice = choose(path)
    if not data.exists():
        raise StoreError("does not exist", path=data, remedy="give a cube, a dataset, a file or a folder")
    fitted = load_model(choice.model)
    if not fitted.card.get("inputs") or not fitted.card.get("label"):
        raise StoreError(
            "its card does not tell its inputs and its label",
            path=choice.model,
            remedy="fill card['inputs'] and card['label'] before saving it",
        )
    return choice, fitted


@dataclass(frozen=True)
class Choice:
    """Which model is used.

    Attributes
    ----------
    model : Path
        Its folder.
    why : str
        How it was chosen, in a few words; empty where it was named.
    """

    model: Path
    why: str = ""


def choose(path: Path) -> Choice:
    """Return the model that a folder stands for: itself, or the one that a study chose.

    Raises
    ------
    StoreError
        If the folder holds neither a model nor a finished study.
    """
    if (path / "model.json").is_file():
        return Choice(path)
    folder = study_folder(path)
    if not (folder / "study.json").is_file():
        raise StoreError(
            "holds neither a model nor a study" if path.is_dir() else "is no folder",
            path=path,
            remedy="give the folder of a saved model, or of a study",
        )
    if not (folder / "results.parquet").is_file():
        raise StoreError(
            "is a study that has not finished", path=folder, remedy="run the same study again to go on"
        )
    from skyfuse.study.report.folder import fitting, read_folder

    study = read_folder(folder)
    with fitting(folder):
        best = str(study.best["cell"])
    why = f"chosen by the study {study.recipe.name}"
    if study.rounds > 1:
        whole = "the first of its" if study.kind == "reconstruction" else "its"
        why += f", fitted in {whole} {study.rounds} rounds"
    return Choice(folder / "cells" / best / "model", why)


def _answers(fitted: Model, given: Given, label: str, progress: Progress | None) -> pd.DataFrame:
    """Return what the model tells of each row of the dataset; ``empty`` where there was nothing to read."""
    columns, known = fitted.card["inputs"]["columns"], fitted.applicability
    target, digest = fitted.card.get("target"), Digest()
    predictions, empty = [], []
    beyond: list[NDArray[np.object_]] = []
    places: list[NDArray[np.float32]] = []
    counts: Any = 0
    for x in fitted.read(given.dataset, progress=progress):
        predictions.append(fitted.predict(x))
        empty.append(without_input(x, fitted.inputs))
        if target is not None:
            digest.update(x)
        if known is not None:
            summary = summarise(x, columns, fitted.inputs)
            beyond.append(known.outside(summary))
            counts += known.counts(summary)
            places.append(known.places(summary))
    prediction = joined(predictions)
    told = pd.DataFrame(_told(prediction, label))
    told["outside"] = np.concatenate(beyond) if known is not None else None
    drift = None if known is None else known.drift(counts)
    if prediction.level is not None and known is not None:
        holds = (told["outside"] == "").to_numpy(bool, copy=True)
        if prediction.unknown is not None:
            holds &= ~prediction.unknown
        if drift and isinstance(fitted.interval, Conformal) and fitted.evidence is not None:
            holds &= borne_out(fitted.interval, fitted.evidence, np.concatenate(places))
        told[f"{label}{_HOLDS}"] = pd.array(holds, dtype="boolean")
    if target is not None:
        target = {**target, "same": str(digest) == target["sha256"]}
    told.attrs.update(level=prediction.level, drift=drift, target=target)
    return told.assign(**{_EMPTY: np.concatenate(empty)})


_EMPTY = "nothing to read"

_HOLDS = "_level_holds"
"""End of the name of the column that tells for whom a stated level is meant."""


def _told(prediction: Prediction, label: str) -> dict[str, Any]:
    """Return what a prediction tells, by column."""
    if prediction.probability is not None:
        found: dict[str, Any] = {label: prediction.names.astype(object)}
        found |= {f"p_{name}": prediction.probability[:, i] for i, name in enumerate(prediction.classes)}
        if prediction.members is not None:
            found[f"{label}_set"] = set_names(prediction.members, prediction.classes)
    else:
        found = {label: prediction.value}
        if prediction.low is not None and prediction.high is not None:
            found |= {f"{label}_low": prediction.low, f"{label}_high": prediction.high}
        if prediction.pieces is not None:
            found[f"{label}_pieces"] = told_pieces(prediction.pieces)
    if prediction.unknown is not None:
        found["unknown"] = pd.array(prediction.unknown, dtype="boolean")
    return found


def _table(given: Given, told: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """Return all records with the answers of those that have one."""
    records, row = given.records.copy(), given.row.copy()
    empty = told.pop(_EMPTY).to_numpy(dtype=bool)
    blank = row >= 0
    blank[blank] = empty[row[blank]]
    records.loc[blank, ["status", "reason", "detail"]] = (
        "marked",
        "no-input",
        "none of its inputs has a value",
    )
    row[blank] = -1
    # A record without an answer takes the row after the last, which is missing throughout.
    answers = told.reindex(np.where(row < 0, len(told), row)).reset_index(drop=True)
    records.columns = pd.Index([free_name(name, answers.columns) for name in records.columns])
    table = pd.concat([records, answers], axis=1)
    table.attrs[ACCOUNT] = account(table) | {
        **told.attrs,
        "beside": given.others,
        "model": str(choice.model),
        "chosen": choice.why,
    }
    return table


def account(table: pd.DataFrame) -> dict[str, Any]:
    """Return what became of the records of a table of predictions.

    Parameters
    ----------
    table : DataFrame
        From `predict`.

    Returns
    -------
    dict
        ``given`` = ``answered`` + ``marked`` + ``rejected``; ``reasons``, how many of the latter two by
        status and reason; of those answered, how many lie ``outside`` what the training could teach, their
        ``share``, and in which ``ways``, with counts (None where the model does not tell what its training
        looked like); for how many the stated level ``holds`` (None where none is stated); and how many are
        ``unknown`` (None where the model cannot tell). Beside these `predict` tells the ``level``; the
        ``drift``: in which ways all objects that could be read lean to one side of the training, see
        `skyfuse.models.applicability.Applicability.drift`; and the ``target`` that the calibration was
        weighed for (None without), with whether these are the ``same`` objects.
    """
    status = table["status"]
    counts = {name: int((status == name).sum()) for name in ("answered", "marked", "rejected")}
    answered = table[status == "answered"]
    told = bool(answered["outside"].notna().all())
    ways = answered["outside"].value_counts() if told else pd.Series(dtype=int)
    far = int(ways.drop("", errors="ignore").sum()) if told else None
    by_way: Counter[str] = Counter()
    for way, count in ways.items():
        by_way.update(dict.fromkeys(filter(None, str(way).split(";")), int(count)))
    holds = next((name for name in reversed(table.columns) if str(name).endswith(_HOLDS)), None)
    return {
        "given": len(table),
        **counts,
        "reasons": {
            name: dict(Counter(table.loc[status == name, "reason"])) for name in ("marked", "rejected")
        },
        "outside": far,
        "share": None if far is None else far / max(len(answered), 1),
        "ways": dict(by_way.most_common()),
        "holds": None if holds is None else int(answered[holds].sum()),
        "unknown": int(answered["unknown"].sum()) if "unknown" in table else None,
    }


def summary(facts: Mapping[str, Any]) -> str:
    """Return an account in lines to read; the first tells what became of all records."""

    def listed(counts: Mapping[str, int], most: int = 5) -> str:
        words = [f"{name} {count}" for name, count in counts.items()]
        return ", ".join(words[:most] + (["…"] if len(words) > most else []))

    def one(name: str) -> str:
        return f"{facts[name]} {name}" + (f" ({listed(facts['reasons'][name])})" if facts[name] else "")

    beside = f"; beside them: {listed(facts['beside'])}" if facts["beside"] else ""
    lines = [
        f"given {facts['given']}: {facts['answered']} answered, {one('marked')}, {one('rejected')}{beside}",
        "outside of what the training taught: "
        + (
            "unknown, since the model does not tell what its training looked like"
            if facts["outside"] is None
            else f"{facts['outside']} of {facts['answered']} answered ({facts['share']:.1%})"
            + (f": {listed(facts['ways'])}" if facts["outside"] else "")
        ),
    ]
    if facts["unknown"] is not None:
        lines.append(f"none of the kind that the model knows: {facts['unknown']}")
    if facts["target"] is not None:
        target = facts["target"]
        lines.append(
            f"calibrated for {target['name']} ({target['given']} objects; effective sample size "
            f"{target['effective']:.0f} of {target['calibrated']})"
        )
    if facts["chosen"]:
        lines.append(f"model: {facts['model']} ({facts['chosen']})")
    return "\n".join(lines)


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """Return for whom the level of intervals and sets is not meant, a line each; none where all is well."""
    lines: list[str] = []
    if facts["level"] is None or not facts["answered"]:
        return lines
    level = f"the level of {facts['level']:.0%}"
    if facts["holds"] is None:
        return [f"{level} may not hold: the model does not tell what its training looked like"]
    apart = facts["answered"] - facts["holds"]
    if apart:
        lines.append(
            f"{level} does not hold for {apart} of {facts['answered']} objects; the column that ends in "
            f"{_HOLDS} marks them"
        )
    if facts["target"] is not None:
        if not facts["target"]["same"]:
            lines.append(
                f"{level} is meant for objects distributed as in {facts['target']['name']}, which the "
                "calibration was weighed for; these are others"
            )
    elif facts["drift"]:
        leaning = ", ".join(f"{name} ({apart:.2f})" for name, apart in [*facts["drift"].items()][:5])
        lines.append(
            f"as a whole the objects lean away from the training ({leaning}), so that {level} is stated only "
            "where calibration objects nearby bear it out; skyfuse calibrate MODEL --for DATA weighs the "
            "calibration for such a sample"
        )
    return lines
