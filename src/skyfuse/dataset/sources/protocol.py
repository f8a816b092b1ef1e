"""What every source of a dataset is, and what it tells of the records that it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import pandas as pd

from skyfuse.dataset.content import Draft
from skyfuse.dataset.ledger import Ledger
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, shown
from skyfuse.words import Progress

Labels = pd.DataFrame | Path | None
"""A table of labels, where one was given beside the data."""


@dataclass(frozen=True)
class Naming:
    """How a user's table calls what it holds.

    Attributes
    ----------
    rows : str, optional
        Column that names the rows; by default every column whose name says so, else the first one if it is
        unique.
    columns : mapping of str to str
        The table's own column for each that a model reads, where the names differ.
    """

    rows: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.rows is not None or bool(self.columns)


@dataclass(frozen=True)
class Records:
    """Every record of some data.

    Attributes
    ----------
    draft : Draft
        Of a dataset of those that can be read.
    account : callable
        Takes the table of that dataset, and returns what became of each record.
    nothing : DataError, optional
        What to raise where no record is left; by default what the making of the dataset says.
    """

    draft: Draft
    account: Callable[[pd.DataFrame], Ledger]
    nothing: DataError | None = None


class Source(Protocol):
    """One kind of what a dataset is made from.

    Attributes
    ----------
    name : str
        By which a recipe's ``reader`` calls it.
    named : bool
        Whether its data are tables, whose columns a user may name.
    measures : bool
        Whether columns can be derived from arrays that are none of the inputs.
    """

    name: ClassVar[str]
    named: ClassVar[bool]
    measures: ClassVar[bool]

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Return the draft of a dataset.

        Parameters
        ----------
        paths : sequence of path
            Files and folders that exist.
        work : path
            Folder for what has to be made on the way.
        wanted : Wanted
        labels : DataFrame or path, optional
        progress : callable, optional
            ``(done, total, what)``.
        """

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every record of some data for a trained model; none is lost on the way.

        Parameters
        ----------
        path : path
            File or folder.
        work : path
            Empty folder for what has to be made.
        wanted : Wanted
            What the model reads, without label and split.
        naming : Naming
        progress : callable, optional
            ``(done, total, what)``.
        """


def file_name(file: Path, root: Path) -> str:
    """Return a file's name as it stands under what the user pointed at."""
    return shown(file.name if file == root else str(file.relative_to(root)))
