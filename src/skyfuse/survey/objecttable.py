"""Tables of objects: which of their columns tell place and name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_string_dtype

from skyfuse import identifiers
from skyfuse.errors import DataError, FileError, shown
from skyfuse.survey.reader import Refused
from skyfuse.survey.tables import read_table

IDS = ("object_id", "objid", "dr7objid", "source_id", "targetid", "name", "galaxyid", "id")
"""Names by which catalogues call what names an object, best first; the first that is unique serves, else the
first of all, whose repetitions are duplicates."""

POSITIONS = (("ra", "dec"), ("radeg", "dedeg"), ("raj2000", "dej2000"), ("plug_ra", "plug_dec"))
"""Names of positions in degrees."""


def position_names(table: pd.DataFrame) -> tuple[str, str] | None:
    """Return the columns of right ascension and declination in degrees, None where there are none."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    for ra, dec in POSITIONS:
        if ra in lower and dec in lower:
            return lower[ra], lower[dec]
    return None


def read_sources(path: Path) -> tuple[pd.DataFrame, list[Refused]]:
    """Read the objects that a table names.

    Returns
    -------
    table : DataFrame
        ``key`` (number of the row, as text), ``source_id`` (text), ``ra``, ``dec`` (degrees, ICRS).
    refused : list of Refused
        Rows without a position on the sky.

    Raises
    ------
    FileError
        If the table cannot be read, or has no positions.
    """
    try:
        given = read_table(path)
    except DataError as error:
        raise FileError(error.fault, reason="empty", remedy=error.remedy, path=path) from error
    names = position_names(given)
    if names is None:
        raise FileError(
            "has no columns of positions",
            reason="wrong-columns",
            remedy=f"name them {' or '.join(', '.join(pair) for pair in POSITIONS)}, in degrees",
            path=path,
        )
    ra, dec = (pd.to_numeric(given[name], errors="coerce").to_numpy(np.float64) for name in names)
    placed = (ra >= 0) & (ra <= 360) & (dec >= -90) & (dec <= 90)
    keys = np.arange(len(given)).astype(str)
    refused = [
        Refused(
            str(keys[row]), "no-position", f"{shown(path)}: row {row} has no position on the sky; correct it"
        )
        for row in np.flatnonzero(~placed)
    ]
    table = pd.DataFrame(
        {
            "key": keys,
            "source_id": _names(given, path),
            "ra": np.where(placed, ra, np.nan) % 360.0,
            "dec": dec,
        }
    )
    return table[placed].reset_index(drop=True), refused


def _names(table: pd.DataFrame, path: Path) -> list[str]:
    """Return what the table calls its rows, by their numbers where it calls them nothing."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    rows = pd.Series([f"{shown(path.stem)}-{row}" for row in range(len(table))], index=table.index)
    found = []
    for own in (lower[name] for name in IDS if name in lower):
        try:
            names = identifiers.as_text(table[own])
        except DataError:
            # Rounded numbers name nothing.
            continue
        known = names.notna()
        if known.any():
            # Written names stay as they are spelled: 007 is not 7.
            spelled = table[own].astype("string").str.strip() if is_string_dtype(table[own]) else names
            found.append((not names[known].is_unique, spelled.astype(object).where(known, rows)))
    chosen = min(found, key=lambda one: one[0])[1] if found else rows
    return [str(name) for name in chosen]
