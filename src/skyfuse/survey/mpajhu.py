"""The MPA-JHU tables of SDSS DR7: total star-formation rates, and which spectrum each is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse.errors import DataError
from skyfuse.identifiers import whole_numbers
from skyfuse.survey.tables import read_table

SFR_NAME = "gal_totsfr_dr7_v5_2.fits"
"""Name of the MPA-JHU table of star-formation rates (DR7)."""
INFO_NAME = "gal_info_dr7_v5_2.fit"
"""Name of the table beside it that says which spectrum each row is."""

LABEL = "AVG"
"""Column of the mean of each rate's likelihood."""
FLAG = "FLAG"
"""Column that is 0 where the rate is good."""

# Our names, and those of gal_info and of other tables of spectra, compared in lower case.
_NAMES = {
    "plate": ("plate", "plateid"),
    "mjd": ("mjd",),
    "fiberid": ("fiberid", "fiber"),
    "ra": ("ra", "plug_ra"),
    "dec": ("dec", "plug_dec"),
    "z": ("z",),
    LABEL: ("avg",),
    FLAG: ("flag",),
}


def find_sfr(folder: Path) -> Path | None:
    """Return the table of rates that lies in a folder or below, None for none."""
    return next(iter(sorted(folder.rglob("gal_totsfr*.fit*"))), None) if folder.is_dir() else None


def holds_sfr(path: Path) -> bool:
    """Tell whether a path of labels means these tables: their folder, or one by its own name."""
    return path.is_dir() or path.name.startswith("gal_")


def read_sfr(path: str | Path) -> pd.DataFrame:
    """Read MPA-JHU star-formation rates with the spectra that they belong to.

    Parameters
    ----------
    path : path
        ``gal_totsfr_dr7_v5_2.fits`` with ``gal_info_dr7_v5_2.fit`` beside it, row by row the same objects; or
        the folder of both (``.gz`` too); or one table of any kind that has all columns.

    Returns
    -------
    DataFrame
        plate, mjd, fiberid, FLAG (0 is good; int64, Int64 where one is missing), ra, dec (degrees), z, AVG
        (log10 of M☉ a year), and the other columns of the rates. Undefined rows and the sentinel −99 are
        kept: dropping them is the funnel's work.

    Raises
    ------
    FileError
        See `skyfuse.survey.tables.read_table`.
    DataError
        Columns are missing, or the two tables differ in length.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path, SFR_NAME)
    rates = read_table(path)
    present = {name.lower() for name in rates.columns}
    if not all(present & set(names) for names in _NAMES.values()):
        info_path = _find(path.parent, INFO_NAME)
        info = read_table(info_path)
        if len(info) != len(rates):
            raise DataError(
                f"it has {len(rates)} rows and {info_path.name} beside it {len(info)}",
                remedy="get both tables of the same release",
                path=path,
            )
        rates = pd.concat([info.drop(columns=[c for c in info.columns if c in rates.columns]), rates], axis=1)
        others = [name for name in rates.columns if name.lower() in present]
    else:
        others = list(rates.columns)
    lower = {name.lower(): name for name in reversed(rates.columns)}
    chosen = {
        ours: next((lower[name] for name in names if name in lower), None) for ours, names in _NAMES.items()
    }
    missing = [ours for ours, theirs in chosen.items() if theirs is None]
    if missing:
        raise DataError(
            f"the table lacks {', '.join(missing)}",
            remedy=f"give {SFR_NAME} with {INFO_NAME} beside it, or one table with {', '.join(_NAMES)}",
            path=path,
        )
    out = pd.DataFrame({ours: rates[theirs] for ours, theirs in chosen.items()})
    for name in ("plate", "mjd", "fiberid", FLAG):
        whole = whole_numbers(out[name])
        words = np.flatnonzero((whole.isna() & out[name].notna()).to_numpy())
        if len(words):
            raise DataError(
                f"its column {name} is not integer throughout: row {words[0] + 1} has "
                f"{str(out[name].iloc[words[0]])[:40]!r}",
                remedy="remove or mend those rows",
                path=path,
            )
        out[name] = whole.astype("Int64" if whole.hasnans else np.int64)
    taken = {str(theirs) for theirs in chosen.values()} | set(out.columns)
    return pd.concat([out, rates[[name for name in others if name not in taken]]], axis=1)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise DataError(
        f"{name} is not there", remedy=f"put {SFR_NAME} and {INFO_NAME} into one folder", path=folder
    )
