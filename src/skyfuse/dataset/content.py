"""Rows of a source on their way into a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset import select
from skyfuse.dataset.wanted import Wanted
from skyfuse.survey.records import Samples
from skyfuse.words import Sampled

Read = Callable[[Sampled, int, NDArray[np.int64]], Samples]
"""Arrays of one modality and zoom of some rows of the source."""


@dataclass
class Content:
    """Rows of a source on their way into a dataset.

    Attributes
    ----------
    table : DataFrame
        A row each.
    rows : ndarray of int64
        Position in the source of each row.
    read : callable
        Gives the arrays of such positions.
    zooms : dict
        Zooms by modality.
    finest : dict
        Finest zoom that the source can give, by modality: quality and lines are measured there.
    wavelengths : mapping
        Bin centres by zoom, Å, of the zooms to keep and of the finest.
    units : mapping
        Of value and sigma by modality.
    funnel : Funnel
        Steps so far.
    group : callable
        Gives the group of each row of a table that passed all steps.
    meta : dict
        Entries of dataset.json that the source alone knows.
    flag : str or None
        Column that must be 0 for a good label.
    strict : dict of str to bool
        Whether the steps of the original study apply, by name.
    """

    table: pd.DataFrame
    rows: NDArray[np.int64]
    read: Read
    zooms: dict[Sampled, tuple[int, ...]]
    finest: dict[Sampled, int]
    wavelengths: Mapping[int, NDArray[np.float64]]
    units: Mapping[Sampled, str]
    funnel: select.Funnel
    group: Callable[[pd.DataFrame], NDArray[np.int64]]
    meta: dict[str, Any]
    flag: str | None = None
    strict: dict[str, bool] = field(default_factory=dict)

    def keep(self, passes: NDArray[np.bool_]) -> None:
        """Drop the rows that do not pass."""
        self.table = self.table[passes].reset_index(drop=True)
        self.rows = self.rows[passes]


@dataclass(frozen=True)
class Draft:
    """A dataset that may be made.

    Attributes
    ----------
    wanted : Wanted
        With the label's column as the source writes it.
    request : dict
        What names sources and options; a dataset of the same request is the same.
    gather : callable
        Gives the rows.
    """

    wanted: Wanted
    request: dict[str, Any]
    gather: Callable[[], Content]
