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

Read = Callable[[str, int, NDArray[np.int64]], Samples]
"""Arrays of one input and zoom of some rows of the source."""


@dataclass(frozen=True)
class Held:
    """Arrays that a source holds of one input.

    Attributes
    ----------
    kind : str
        ``image`` or ``spectrum``.
    zooms : tuple of int
        To keep; none where the arrays are there to be measured alone.
    finest : int
        Finest zoom that the source can give: quality and lines are measured there.
    told : dict
        What they are, for the record: instrument, bands, size, grid, unit.
    wavelengths : mapping of int to ndarray
        Of spectra: bin centres by zoom, Å, of the zooms to keep and of the finest.
    """

    kind: Sampled
    zooms: tuple[int, ...]
    finest: int
    told: Mapping[str, Any]
    wavelengths: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)

    def cut(self, zoom: int) -> dict[str, Any]:
        """Return what decides how the arrays at a zoom look, see `cut`."""
        return cut({"kind": self.kind, **self.told}, zoom)


def cut(told: Mapping[str, Any], zoom: int) -> dict[str, Any]:
    """Return what of an input's record decides how its arrays at a zoom look."""
    return {**{key: told[key] for key in CUT if key in told}, "zoom": zoom}


CUT = ("kind", "instrument", "bands", "size", "grid", "sigma")
"""Entries of an input's record that two datasets must share for one model to read both."""


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
    inputs : dict of str to Held
        Arrays by the name of their input.
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
    inputs: dict[str, Held]
    funnel: select.Funnel
    group: Callable[[pd.DataFrame], NDArray[np.int64]]
    meta: dict[str, Any]
    flag: str | None = None
    strict: dict[str, bool] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, Held]:
        """Inputs whose arrays the dataset keeps."""
        return {name: held for name, held in self.inputs.items() if held.zooms}

    def first(self, kind: Sampled) -> str | None:
        """Return the first input of a kind, on which quality and lines are measured."""
        return next((name for name, held in self.inputs.items() if held.kind == kind), None)

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
