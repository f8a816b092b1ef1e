"""What became of each record of some data.

A record is what a user would count: a spectrum, a row of a table, an image. None is lost on the way: one that
the dataset does not hold is told with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.disk import names_file
from skyfuse.errors import DataError, FileError

OWN = ("file", "row", "status", "reason", "detail")
"""Columns of a ledger's table that are ours."""

NONE = np.array([-1], dtype=np.int64)
"""Row of the dataset of one record that it does not hold."""

OTHERS = "other files"
"""What files of no use are counted as."""

_ROW = "row of the dataset"


@dataclass
class Ledger:
    """Records as they come.

    Attributes
    ----------
    parts : list of DataFrame
        See `add`.
    others : Counter
        What was found beside the records, e.g. frames.
    by : str, optional
        Column in whose order they stand at last; by default as they came.
    """

    parts: list[pd.DataFrame] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    by: str | None = None

    def add(
        self,
        names: pd.DataFrame,
        row: NDArray[np.int64],
        reason: Any = "",
        detail: Any = "",
        *,
        status: Any = "marked",
    ) -> None:
        """Add records; those without a row of the dataset have the status."""
        held = row >= 0
        told = {"status": np.where(held, "answered", status), "reason": reason, "detail": detail}
        part = pd.DataFrame(told, index=names.index)
        part.loc[held, ["reason", "detail"]] = ""
        self.parts.append(pd.concat([names, part, pd.Series(row, names.index, name=_ROW)], axis=1))

    def reject(self, file: str, error: FileError | DataError, **names: Any) -> None:
        """Add one file that cannot be read."""
        reason = error.reason if isinstance(error, FileError) else "no-data"
        self.add(pd.DataFrame({"file": [file], **names}), NONE, reason, error.fault, status="rejected")

    def count_others(self, root: Path, used: Sequence[Path]) -> None:
        """Count the files of a folder that are of no use."""
        others = len({path for path in root.rglob("*") if names_file(path)} - {*used})
        if others:
            self.others[OTHERS] = others

    def table(self) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Return all records, and the dataset's row of each."""
        table = identifiers.stacked(self.parts)
        if self.by is not None:
            table = table.sort_values(self.by, kind="stable", ignore_index=True)
        row = table.pop(_ROW).to_numpy(np.int64)
        last = list(OWN[2:])
        table = table[[*(name for name in table.columns if name not in last), *last]]
        for name in table.columns:
            # Tables whose ids are numbers here and text there.
            if table[name].dtype == object:
                table[name] = table[name].astype("string")
        return table, row


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name for a column of the user's, another one where predictions have a column of that name."""
    return f"given_{name}" if name in taken else name
