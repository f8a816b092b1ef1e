"""Tables of labels, and which row of one belongs to which object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.dataset.match import closest_first, find_pairs, on_sky
from skyfuse.dataset.tables import storable
from skyfuse.errors import DataError, UsageError
from skyfuse.survey.mpajhu import holds_sfr, read_sfr
from skyfuse.survey.sdss.specobjid import spectra_named
from skyfuse.survey.tables import read_table

MATCH_ARCSEC = 1.0
"""Greatest distance of a label's position from its object."""
_KEYS = {"plate": ("plate", "plateid"), "mjd": ("mjd",), "fiberid": ("fiberid", "fiber")}
_SPECTRUM = ("specobjid", "specobj_id")

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """Labels tied to objects.

    Attributes
    ----------
    label_row : ndarray of int64, shape (objects,)
        Row of the label table for each object, −1 where none matches.
    how : str
        What was compared.
    matched, unmatched : int
        Label rows that belong to one of the objects, and those that do not. Several spectra of one object
        may each have a row: the best spectrum's serves.
    unnamed : int
        Label rows that name no object: an identifier or a position is missing.
    repeated : int
        Label rows that name an object again and do not contradict; the first with a label serves.
    disputed : int
        Label rows that name an object for which another row has another label; none of them serves.
    """

    label_row: IntArray
    how: str
    matched: int
    unmatched: int
    unnamed: int = 0
    repeated: int = 0
    disputed: int = 0

    def counts(self) -> dict[str, Any]:
        """Return all but the rows as plain values."""
        return {
            "by": self.how,
            "matched": self.matched,
            "unmatched": self.unmatched,
            "unnamed": self.unnamed,
            "repeated": self.repeated,
            "disputed": self.disputed,
        }

    def remark(self) -> str:
        """Return what is to be told of label rows that do not serve, in brackets; empty where all do."""
        told = {
            "without a name": self.unnamed,
            "repeated": self.repeated,
            "left out since they contradict each other": self.disputed,
        }
        said = ", ".join(f"{number:,} {what}" for what, number in told.items() if number)
        return f" (of {self.matched + self.unmatched:,} rows {said})" if said else ""


def _column(table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    for name in names:
        for column in table.columns:
            if str(column).lower() == name:
                return str(column)
    return None


def match_identifiers(own: pd.Series, theirs: pd.Series, label: pd.Series | None = None) -> Match:
    """Tie the rows of a label table to objects by what names them, however it is spelled.

    Parameters
    ----------
    own : Series
        Identifiers of the objects.
    theirs : Series
        Identifiers of the label rows.
    label : Series, optional
        Their labels, to tell rows that contradict each other from those that only repeat.

    Raises
    ------
    DataError
        If either column holds identifiers as floats that were rounded, or no row matches.
    """
    code, named = identifiers.codes(own, theirs)
    serves, repeated, disputed = _serving(named, label)
    row_of = np.full(max(code.max(initial=-1), named.max(initial=-1)) + 2, -1, dtype=np.int64)
    row_of[named[serves]] = np.flatnonzero(serves)
    # A missing one, of code −1, finds the last place, which nothing has.
    matched = int(np.isin(named, code[code >= 0]).sum())
    if not matched:
        raise DataError(
            f"none of the {len(theirs)} labels names one of the {len(own)} objects: {theirs.name} is e.g. "
            f"{_first(theirs)} there, and here e.g. {_first(own)}",
            remedy="give the label table of these objects",
        )
    unnamed = int((named < 0).sum())
    return Match(row_of[code], str(theirs.name), matched, len(theirs) - matched, unnamed, repeated, disputed)


def _first(column: pd.Series) -> Any:
    return next(iter(column.dropna()), "missing")


def _serving(code: IntArray, label: pd.Series | None) -> tuple[NDArray[np.bool_], int, int]:
    """Return which label rows serve, and how many only repeat another or contradict one.

    Parameters
    ----------
    code : ndarray of int64
        Equal where rows name one object, −1 where they name none.
    label : Series, optional
    """
    named = code >= 0
    if label is None:
        value = np.zeros(len(code), dtype=np.int64)
    else:
        numeric = pd.api.types.is_numeric_dtype(label)
        text = label.astype("string").str.strip()
        words = label if numeric else text.where(text != "")
        value = pd.factorize(words)[0].astype(np.int64)
    n = int(code.max(initial=-1)) + 1
    told = named & (value >= 0)
    least, greatest = np.full(n, np.iinfo(np.int64).max), np.full(n, -1, dtype=np.int64)
    np.minimum.at(least, code[told], value[told])
    np.maximum.at(greatest, code[told], value[told])
    contradicted = least < greatest
    order = np.lexsort((~told, code))
    order = order[named[order]]
    first = np.zeros(len(code), dtype=bool)
    first[order[np.diff(code[order], prepend=-1) != 0]] = True
    disputed = named & np.append(contradicted, False)[code]
    return first & ~disputed, int((named & ~first & ~disputed).sum()), int(disputed.sum())


def match_labels(
    labels: pd.DataFrame, objects: pd.DataFrame, spectra: pd.DataFrame, label: str | None = None
) -> Match:
    """Tie the rows of a label table to objects of a cube.

    By plate, MJD and fibre of any of the object's spectra if the table has these columns (any case;
    ``plateid`` and ``fiber`` count too), or its ``specObjID`` says them; else by position within 1″, nearest
    pairs first, each row and each object once.

    Parameters
    ----------
    labels : DataFrame
    objects : DataFrame
        With object_id, ra, dec, spectrum_id (the best spectrum).
    spectra : DataFrame
        With spectrum_id, object_id, plate, mjd, fiberid: all epochs.
    label : str, optional
        The label's column, see `match_identifiers`.

    Raises
    ------
    DataError
        If the table has none of these columns, its identifiers were rounded, or no row matches.
    """
    keys = [_column(labels, names) for names in _KEYS.values()]
    spectrum = _column(labels, _SPECTRUM)
    ra, dec = _column(labels, ("ra",)), _column(labels, ("dec",))
    values = None if label is None else labels[label]
    if None not in keys or spectrum is not None:
        columns = [str(key) for key in keys] if None not in keys else [str(spectrum)]
        named = (
            labels[columns].set_axis([*_KEYS], axis=1)
            if None not in keys
            else spectra_named(labels[columns[0]])
        )
        match = _match_spectra(named, objects, spectra, values)
        compared = ", ".join(columns)
        ours, theirs = _example(labels, columns), _example(spectra, [*_KEYS])
    elif ra is not None and dec is not None:
        match = _match_positions(labels[[ra, dec]], objects, values)
        compared = f"{ra}, {dec} (degrees, within {MATCH_ARCSEC:g}″)"
        ours, theirs = _example(labels, [ra, dec]), _example(objects, ["ra", "dec"])
    else:
        raise DataError(
            "the label table has neither plate, mjd, fiberid nor ra, dec "
            f"(it has {', '.join(map(str, labels.columns[:8]))})",
            remedy="add the columns that say which object each label belongs to",
        )
    if not match.matched:
        raise DataError(
            f"labels are missing for all {len(objects)} objects: compared {compared}; "
            f"the table has e.g. {ours}, the cube e.g. {theirs}",
            remedy="give the label table of these objects",
        )
    return match


def _example(table: pd.DataFrame, columns: list[str]) -> str:
    if table.empty:
        return "nothing"
    return "-".join(
        f"{value:.6g}" if isinstance(value, float) else str(value) for value in table[columns].iloc[0]
    )


def _match_spectra(
    keys: pd.DataFrame, objects: pd.DataFrame, spectra: pd.DataFrame, label: pd.Series | None
) -> Match:
    own, theirs = np.zeros(len(spectra), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
    for name in _KEYS:
        ours, others = identifiers.codes(
            identifiers.whole_numbers(spectra[name]), identifiers.whole_numbers(keys[name])
        )
        step = max(ours.max(initial=0), others.max(initial=0)) + 1
        # Numbered anew each time, so that the product stays small.
        both = np.concatenate(
            [np.where((a < 0) | (b < 0), -1, a * step + b) for a, b in ((own, ours), (theirs, others))]
        )
        code = np.unique(both, return_inverse=True)[1].astype(np.int64) - int((both < 0).any())
        own, theirs = code[: len(own)], code[len(own) :]
    serves, repeated, disputed = _serving(theirs, label)
    left = pd.DataFrame({"code": theirs[serves], "label_row": np.flatnonzero(serves)})
    right = spectra[["spectrum_id", "object_id"]].assign(code=own)
    found = left.merge(right[own >= 0], on="code")
    object_row = pd.Series(np.arange(len(objects)), index=objects["object_id"].to_numpy())
    found = found[found["object_id"].isin(object_row.index)]
    best = set(objects["spectrum_id"])
    found = found.assign(other=~found["spectrum_id"].isin(best)).sort_values(["other", "label_row"])
    found = found.drop_duplicates("object_id")
    label_row = np.full(len(objects), -1, dtype=np.int64)
    label_row[object_row.loc[found["object_id"]].to_numpy()] = found["label_row"].to_numpy()
    held = own[(own >= 0) & spectra["object_id"].isin(object_row.index).to_numpy()]
    matched = int(np.isin(theirs, held).sum())
    unnamed = int((theirs < 0).sum())
    return Match(label_row, "plate, mjd, fiberid", matched, len(keys) - matched, unnamed, repeated, disputed)


def _match_positions(positions: pd.DataFrame, objects: pd.DataFrame, label: pd.Series | None) -> Match:
    ra, dec = (
        pd.to_numeric(positions[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        for name in positions
    )
    placed = on_sky(ra, dec)
    code = np.full(len(ra), -1, dtype=np.int64)
    code[placed] = np.unique(np.stack([ra, dec], axis=1)[placed], axis=0, return_inverse=True)[1].reshape(-1)
    serves, repeated, disputed = _serving(code, label)
    rows = np.flatnonzero(serves)
    pairs = find_pairs(objects["ra"], objects["dec"], ra[rows], dec[rows], MATCH_ARCSEC)
    pairs = pairs.take(closest_first(pairs))
    label_row = np.full(len(objects), -1, dtype=np.int64)
    label_row[pairs.a] = rows[pairs.b]
    return Match(
        label_row,
        f"position within {MATCH_ARCSEC:g}″",
        len(pairs),
        len(ra) - len(pairs),
        int((~placed).sum()),
        repeated,
        disputed,
    )


def label_table(labels: pd.DataFrame | str | Path | None) -> pd.DataFrame | None:
    """Return a table of labels given as such or as a file."""
    if labels is None:
        return None
    if isinstance(labels, pd.DataFrame):
        return storable(labels)
    if not isinstance(labels, str | Path):
        raise UsageError(
            f"a {type(labels).__name__} is no table of labels",
            remedy="give a DataFrame or the path of a table",
        )
    path = Path(labels)
    # The MPA-JHU rates come as two files of equal rows.
    return read_sfr(path) if holds_sfr(path) else read_table(path)
