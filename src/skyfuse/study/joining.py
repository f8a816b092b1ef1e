"""From the rounds of a cell to the one model that is kept, and to what it would say of each object unseen.

No object may be judged by a model that learned from it. Each test object has one round whose model did not:
its value is that model's, and its interval or set that model's with the threshold that the errors of the
calibration objects of all rounds make, but for those of its own group. The joined model says the mean of all
rounds and widens its intervals where these disagree (CV+), so that it covers as often or rather more often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.disk import read_parquet
from skyfuse.errors import DataError
from skyfuse.models.applicability import Applicability
from skyfuse.models.base import Model, Output, said
from skyfuse.models.files import load_model, write_arrays
from skyfuse.models.inputs import Arrays
from skyfuse.models.mixture import Mixture
from skyfuse.models.rounds import Rounds
from skyfuse.models.shift import Evidence, errors_of, telling
from skyfuse.models.summaries import Summary, summarise
from skyfuse.models.uncertainty import Conformal, Scores, groups_of, held, rank_of, ties
from skyfuse.study.predictions import frame
from skyfuse.words import PARTS

if TYPE_CHECKING:
    from skyfuse.study.tasks import Target

Numbers = NDArray[np.float64]

FILE = "told.safetensors"
"""What a round keeps, beside its model and predictions, until the rounds are joined."""

_SUMMED = ("train", "calibration")
"""Parts whose summaries are kept: what the training looked like, and where the calibration objects stand."""


@dataclass(frozen=True)
class Told:
    """What the model of a round tells of one part.

    Attributes
    ----------
    output : Output
        Its scale is that of the calibration.
    numbers : ndarray of float64, shape (n,)
        Each object's own, see `skyfuse.models.uncertainty.ties`.
    """

    output: Output
    numbers: Numbers


def told_of(model: Model, x: Arrays) -> Told:
    """Return what a calibrated model tells of arrays as they are called inside."""
    output = model._output(x)
    if isinstance(model.interval, Conformal) and model.interval.score == "error":
        output = replace(output, scale=model.interval.scale(output, x))
    return Told(output, ties(x) if model.classes else np.zeros(len(output.value)))


def keep(
    folder: Path,
    told: Mapping[str, Told],
    inputs: Mapping[str, Arrays],
    rows: Mapping[str, NDArray[np.int64]],
) -> None:
    """Write what a round tells, by part, and what its inputs look like."""
    arrays: dict[str, NDArray[Any]] = {}
    for part, one in told.items():
        arrays |= {f"{part} value": one.output.value, f"{part} numbers": one.numbers}
        for name in ("unknown", "scale"):
            if getattr(one.output, name) is not None:
                arrays[f"{part} {name}"] = getattr(one.output, name)
        if one.output.mixture is not None:
            arrays |= {f"{part} {name}": a for name, a in one.output.mixture._asdict().items()}
    for part in _SUMMED:
        summary = summarise(inputs[part], ())
        arrays |= {
            f"{part} summary": summary.values,  # noqa: PD011 - no pandas
            f"{part} form": summary.form,
            f"{part} rows": rows[part],
        }
    write_arrays(arrays, folder, FILE)


class Kept:
    """What `keep` left.

    Parameters
    ----------
    folder : Path
        Of a round.

    Raises
    ------
    OSError, ValueError
        If it is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            self._arrays = load_file(folder / FILE)
        except SafetensorError as error:
            raise ValueError(str(error)) from error

    def told(self, part: str) -> Told:
        """Return what the round's model tells of a part."""
        own = {name: self._arrays.get(f"{part} {name}") for name in ("unknown", "scale", *Mixture._fields)}
        peaks = [own[name] for name in Mixture._fields]
        mixture = None if any(one is None for one in peaks) else Mixture(*peaks)
        output = Output(self._arrays[f"{part} value"], own["unknown"], own["scale"], mixture)
        return Told(output, self._arrays[f"{part} numbers"])

    def summary(self, part: str) -> tuple[NDArray[np.int64], Summary]:
        """Return rows and summaries of a part; the names are left out."""
        summary = Summary((), self._arrays[f"{part} summary"], self._arrays[f"{part} form"])
        return self._arrays[f"{part} rows"], summary


def joined(
    rounds: Sequence[Path],
    level: float,
    others: Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.floating]]],
) -> Rounds:
    """Return the model of all rounds, calibrated by all their errors.

    Parameters
    ----------
    rounds : sequence of Path
        Folders of the rounds, each with a calibrated model and what `keep` left.
    level : float
    others : callable
        Returns what is known of some rows beside what the model reads, see `Evidence.of`.

    Raises
    ------
    DataError
        If all rounds together have too few calibration objects.
    """
    members = [load_model(folder / "model") for folder in rounds]
    model = Rounds(members)
    own = [member.evidence for member in members if member.evidence is not None]
    model.join([_scores(one, bool(model.classes)) for one in own], level)
    kept = [Kept(folder) for folder in rounds]
    rows, training = _stacked([one.summary("train") for one in kept])
    _, first = np.unique(rows, return_index=True)
    names = () if members[0].applicability is None else members[0].applicability.names
    values, form = training.values, training.form  # noqa: PD011 - no pandas
    model.applicability = Applicability.fit(Summary(names, values[first], form[first]))
    rows, calibration = _stacked([one.summary("calibration") for one in kept])
    outputs, truth, scores, numbers = (
        np.concatenate([getattr(one, name) for one in own])
        for name in ("values", "truth", "scores", "numbers")
    )
    beside = telling(errors_of(scores, truth, outputs), others(rows))
    table = np.stack([*beside.values()], axis=1) if beside else np.empty((len(truth), 0))
    places = model.applicability.places(calibration)
    model.evidence = Evidence(places, outputs, truth, scores, numbers, table, tuple(beside))
    return model


def predictions(model: Rounds, rounds: Sequence[Path], goal: Target) -> pd.DataFrame:
    """Return what is said of each object of each round by a model that did not learn from it.

    Parameters
    ----------
    model : Rounds
        From `joined`.
    rounds : sequence of Path
    goal : Target

    Returns
    -------
    DataFrame
        See `skyfuse.study.predictions.frame`; parts that shaped the fit are those of the first round.
    """
    interval = model.interval
    if not isinstance(interval, Conformal) or interval.scores is None:
        raise DataError("the rounds are not joined", remedy="join them first")
    kept = [Kept(folder) for folder in rounds]
    rows = np.concatenate([one.summary("calibration")[0] for one in kept])
    others = _Others(interval, _kin(goal, rows))
    found = []
    for number, (folder, one) in enumerate(zip(rounds, kept, strict=True)):
        table = read_parquet(folder / "predictions.parquet")
        for part in PARTS:
            own = table.loc[table["part"] == part, "row"].to_numpy(dtype=np.int64)
            if not len(own):
                continue
            told = one.told(part)
            threshold, tie = others.thresholds(_kin(goal, own))
            limits = held(interval.score, told.output, threshold, tie, told.numbers)
            prediction = said(told.output, model.classes, interval.level, limits)
            found.append(frame(goal, own, part, number, prediction))
    return pd.concat(found, ignore_index=True)


def _scores(evidence: Evidence, classes: bool) -> Scores:
    group = evidence.truth.astype(np.int64) if classes else np.zeros(len(evidence.truth), dtype=np.int64)
    return Scores(evidence.scores, evidence.numbers, group)


def _stacked(parts: Sequence[tuple[NDArray[np.int64], Summary]]) -> tuple[NDArray[np.int64], Summary]:
    values = np.concatenate([summary.values for _, summary in parts])  # noqa: PD011 - no pandas
    form = np.concatenate([summary.form for _, summary in parts])
    return np.concatenate([rows for rows, _ in parts]), Summary((), values, form)


def _kin(goal: Target, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what rows share that tell of each other: their group, or else themselves."""
    return rows if goal.groups is None else goal.groups[rows]


class _Others:
    """Thresholds from the scores of all calibration objects but those of one's own kin."""

    def __init__(self, interval: Conformal, kin: NDArray[np.int64]) -> None:
        scores = interval.scores
        assert scores is not None  # noqa: S101 - `predictions` asks for them
        self._level = interval.level
        self._columns = []
        for mask in groups_of(scores.group, len(interval.thresholds), interval.level):
            order = np.flatnonzero(mask)[np.lexsort((scores.tie[mask], scores.value[mask]))]
            places: dict[int, list[int]] = {}
            for place, one in enumerate(kin[order].tolist()):
                places.setdefault(one, []).append(place)
            self._columns.append((scores.value[order], scores.tie[order], places))

    def thresholds(self, kin: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """Return thresholds and ties of objects of some kin, each of shape (n, 1 or classes)."""
        found = np.array([list(self._of(one)) for one in kin.tolist()]).reshape(len(kin), -1, 2)
        return found[:, :, 0], found[:, :, 1]

    def _of(self, kin: int) -> Iterator[tuple[float, float]]:
        for value, tie, places in self._columns:
            own = places.get(kin, [])
            try:
                at = rank_of(len(value) - len(own), self._level) - 1
            except DataError:
                yield np.inf, 1.0
                continue
            for place in own:
                at += place <= at
            yield float(value[at]), float(tie[at])
