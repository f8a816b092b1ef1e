"""What is given to a trained model: every record of it, and a dataset of those that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.ledger import Ledger
from skyfuse.dataset.make import NOTHING_LEFT
from skyfuse.dataset.select import find_column, numbers
from skyfuse.dataset.sources.files import tables_in
from skyfuse.dataset.sources.protocol import Naming, Source
from skyfuse.dataset.sources.registry import SOURCES
from skyfuse.dataset.wanted import Input, Wanted
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import Progress

IDENTITY = ("object_id", "spectrum_id", "ra", "dec", "plate", "mjd", "fiberid", "source_id", "name")
"""Columns of a dataset or cube that name an object."""


@dataclass(frozen=True)
class Given:
    """Records of some data, each with what became of it.

    Attributes
    ----------
    dataset : Dataset
        Those that can be read.
    records : DataFrame
        One row a record, in the order of the files: columns that name it, then ``status`` (``answered``
        where the dataset holds it; ``marked``: it can be read, and has no answer of its own; ``rejected``: it
        cannot be read as an object), ``reason`` (one word) and ``detail``, both empty for what is answered.
    row : ndarray of int64
        Row of the dataset of each record, −1 for none.
    others : dict of str to int
        What was found beside the records, e.g. frames.
    """

    dataset: Dataset
    records: pd.DataFrame
    row: NDArray[np.int64]
    others: dict[str, int]


def open_given(
    path: Path,
    work: Path,
    inputs: Mapping[str, Any],
    *,
    naming: Naming | None = None,
    progress: Progress | None = None,
) -> Given:
    """Return every record of some data, and a dataset of those that a model can be asked for.

    Parameters
    ----------
    path : path
        A dataset, a cube, or a file or folder of what the model's training read.
    work : path
        Empty folder for what has to be made.
    inputs : mapping
        Of the model's card, see `skyfuse.models.files.Inputs`.
    naming : Naming, optional
        How a table calls its rows and columns.
    progress : callable, optional
        ``(done, total, what)``.

    Raises
    ------
    StoreError
        If the model's card does not tell what read its training's files.
    UsageError
        If columns are named where the data is no table.
    DataError, FileError
        If nothing can be read, or the data lacks what the model reads.
    """
    source = None if inputs["reader"] is None else SOURCES[inputs["reader"]]
    stored = next((kind for kind in ("dataset", "cube") if (path / f"{kind}.json").is_file()), None)
    if naming and (stored is not None or source is None or not source.named):
        raise UsageError("only tables have columns to be named", remedy="leave out --id and --column")
    if stored == "dataset":
        return _of_dataset(Dataset.open(path))
    if source is None:
        raise StoreError(
            "is no dataset, and the model was trained on arrays from Python",
            path=path,
            remedy="give a dataset, or arrays in Python",
        )
    if stored == "cube" and source.name != "cube":
        raise DataError(
            "is a cube", path=path, remedy=f"the model reads what the reader {source.name!r} reads"
        )
    records = source.records(path, work, _wanted(source, inputs), naming or Naming(), progress)
    try:
        dataset = Dataset.make(records.draft, work / "dataset", progress=progress)
    except DataError as error:
        if records.nothing is None or not error.fault.startswith(NOTHING_LEFT):
            raise
        raise records.nothing from error
    return _given(dataset, records.account(dataset.table))


def _wanted(source: Source, inputs: Mapping[str, Any]) -> Wanted:
    """Return what a model's card asks of data."""
    named = {name: Input(one["kind"], one["instrument"]) for name, one in inputs["inputs"].items()}
    zooms = {name: {one["zoom"]} for name, one in inputs["inputs"].items() if one["kind"] != "table"}
    measured = {}
    for one in inputs["derive"].values():
        of_kind = [name for name, own in named.items() if own.kind == one["kind"]]
        if source.measures and not of_kind and one["instrument"] is not None:
            measured[one["kind"]] = one["instrument"]
        elif not source.measures:
            # What the model itself does not read is there for what is derived from it.
            name = of_kind[0] if of_kind else one["kind"]
            named.setdefault(name, Input(one["kind"]))
            zooms.setdefault(name, set()).add(one["zoom"])
    cut = [*inputs["inputs"].values(), *inputs["derive"].values()]
    grids = {one["instrument"]: one["grid"] for one in cut if one["instrument"] and one["grid"]}
    return Wanted(
        inputs=named,
        zooms={name: sorted(levels) for name, levels in zooms.items()},
        columns=inputs["columns"],
        derive=list(inputs["derive"]),
        measured=measured,
        split=None,
        every_spectrum=inputs["every_spectrum"],
        grid=grids or None,
        sigma=next((one["sigma"] for one in cut if one["sigma"] is not None), None),
        image_size=next((one["size"] for one in cut if one["size"] is not None), None),
    )


def _of_dataset(dataset: Dataset) -> Given:
    ledger = Ledger()
    names = dataset.table[[name for name in IDENTITY if name in dataset.table]]
    ledger.add(names, np.arange(len(dataset)))
    return _given(dataset, ledger)


def _given(dataset: Dataset, ledger: Ledger) -> Given:
    records, row = ledger.table()
    return Given(dataset, records, row, dict(ledger.others))


def columns_beside(path: Path, given: Given, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return columns of some data that the model does not read, as far as it has them as numbers.

    Parameters
    ----------
    path : path
        The data.
    given : Given
        What was made of it.
    names : sequence of str

    Returns
    -------
    dict of str to ndarray of float64
        Of all rows of the tables, or of the objects of a dataset; NaN where there is no value.
    """
    tables = [given.dataset.table]
    if not (path / "dataset.json").is_file() and given.dataset.meta["source"].get("reader") == "table":
        # What was made of tables holds no more than the model reads.
        tables = [without_sentinels(read_table(file))[0] for file in tables_in([path]) if names]
    found: dict[str, NDArray[np.float64]] = {}
    for name in names:
        with suppress(DataError):
            found[name] = np.concatenate([numbers(table, find_column(table, name)) for table in tables])
    return found
