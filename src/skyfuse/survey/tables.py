"""Catalogue tables (CSV, FITS, Parquet, VOTable) as data frames, and the MPA-JHU star-formation rates."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits, votable

from skyfuse.errors import DataError, FileError
from skyfuse.survey import fits as raw

SFR_NAME = "gal_totsfr_dr7_v5_2.fits"
"""Name of the MPA-JHU table of star-formation rates (DR7)."""
INFO_NAME = "gal_info_dr7_v5_2.fit"
"""Name of the table beside it that says which spectrum each row is."""

_SEPARATORS = (",", "\t", ";", "|")
_SUFFIXES = ".csv, .fits, .fit, .fits.gz, .parquet, .vot"
# Our names, and those of gal_info and of other tables of spectra, compared in lower case.
_SFR_NAMES = {
    "plate": ("plate", "plateid"),
    "mjd": ("mjd",),
    "fiberid": ("fiberid", "fiber"),
    "ra": ("ra", "plug_ra"),
    "dec": ("dec", "plug_dec"),
    "z": ("z",),
    "AVG": ("avg",),
    "FLAG": ("flag",),
}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a catalogue table.

    Values are kept as they are: sentinels such as −9999 or −99 are numbers like any other. Columns keep their
    names and order; a column of vectors becomes one column an element, named ``NAME_0``, ``NAME_1`` and so
    on.

    Parameters
    ----------
    path : path
        ``.csv`` (comma, tab, semicolon or bar; comment lines above the header; UTF-8 or Latin-1), ``.fits``,
        ``.fit``, ``.fits.gz``, ``.parquet`` or ``.vot``.

    Returns
    -------
    DataFrame
        Numbers in the machine's byte order, text without padding.

    Raises
    ------
    FileError
        ``unreadable``, ``empty``, ``unknown-kind``, ``not-fits``, ``wrong-hdus`` or ``truncated``.
    DataError
        The table has no rows.
    """
    path = Path(path)
    name = path.name.lower()
    try:
        if path.stat().st_size == 0:
            raise FileError("it is empty", reason="empty", remedy="give a file with data", path=path)
        if name.endswith((".csv", ".csv.gz")):
            table = _read_csv(path)
        elif name.endswith((".fits", ".fit", ".fits.gz", ".fit.gz")):
            table = _read_fits(path)
        elif name.endswith(".parquet"):
            table = pd.read_parquet(path)
        elif name.endswith((".vot", ".votable")):
            table = _read_votable(path)
        else:
            raise FileError(
                "its name does not say what kind of table it is",
                reason="unknown-kind",
                remedy=f"give one of {_SUFFIXES}",
                path=path,
            )
    except OSError as error:
        # Of a damaged file astropy, gzip and pyarrow say so by an OSError without a number.
        reason = "unreadable" if error.errno else "truncated"
        raise _failed(path, reason, error) from error
    except (ValueError, EOFError, TypeError, IndexError, KeyError) as error:
        raise _failed(path, "truncated", error) from error
    if table.empty:
        raise DataError("the table has no rows", remedy="give a table with data", path=path)
    return table


def _failed(path: Path, reason: str, error: Exception) -> FileError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return FileError(
        f"the table cannot be read ({said})",
        reason=reason,
        remedy="check that the file is whole and of the kind that its name says",
        path=path,
    )


def _read_csv(path: Path) -> pd.DataFrame:
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = text.splitlines(keepends=True)
    comments = 0
    while comments < len(lines) and (lines[comments].startswith("#") or not lines[comments].strip()):
        comments += 1
    if comments == len(lines):
        raise ValueError("it has no header line")
    header, rest = lines[comments], lines[comments + 1 :]
    separator = max(_SEPARATORS, key=header.count)
    # Some tables write their header as the last comment, with a separator of its own: the first line is data
    # then.
    if comments and _is_numbers(header, separator):
        named = lines[comments - 1].lstrip("#").strip()
        names = named.split(max(_SEPARATORS, key=named.count))
        width = len(header.rstrip("\r\n").split(separator))
        if len(names) != width:
            raise ValueError(f"its header names {len(names)} columns and its rows have {width}")
        names = [name.strip() for name in names]
        return pd.read_csv(io.StringIO("".join((header, *rest))), sep=separator, header=None, names=names)
    body = "".join((header, *rest))
    table = pd.read_csv(io.StringIO(body), sep=separator, low_memory=False, index_col=False)
    # An unnamed first column is the row number that pandas writes.
    return table.drop(columns=[name for name in table.columns[:1] if name == "Unnamed: 0"])


def _is_numbers(line: str, separator: str) -> bool:
    try:
        [float(word) for word in line.split(separator) if word.strip()]
    except ValueError:
        return False
    return True


def _read_fits(path: Path) -> pd.DataFrame:
    content, _ = raw.read_bytes(path)
    # astropy warns of a damaged file and goes on with what is left of it; this raises.
    raw.parse(content, path)
    with fits.open(io.BytesIO(content)) as hdus:
        found = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
        if found is None:
            raise FileError(
                "it holds no table", reason="wrong-hdus", remedy="give a FITS file with a table", path=path
            )
        return _frame_of({name: found.data[name] for name in found.columns.names})


def _read_votable(path: Path) -> pd.DataFrame:
    with path.open("rb") as stream:
        array = votable.parse_single_table(stream, verify="ignore").to_table()
    return _frame_of({name: np.ma.filled(array[name], _hole(array[name].dtype)) for name in array.colnames})


def _hole(dtype: np.dtype[Any]) -> float | None:
    """Return what stands for a missing value: NaN for floats, the default of numpy for the rest."""
    return float("nan") if dtype.kind == "f" else None


def _frame_of(columns: dict[str, Any]) -> pd.DataFrame:
    """Make a data frame of columns of any byte order and shape."""
    out: dict[str, Any] = {}
    for name, column in columns.items():
        array = np.asarray(column)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind in "SU":
            text = array.astype(str) if array.dtype.kind == "U" else np.char.decode(array, "latin-1")
            array = np.char.strip(text).astype(object)
        if array.ndim == 1:
            out[name] = array
        else:
            elements = array.reshape(len(array), -1)
            out |= {f"{name}_{k}": elements[:, k] for k in range(elements.shape[1])}
    return pd.DataFrame(out)


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
        plate, mjd, fiberid (int64), ra, dec (degrees), z, AVG (log10 of M☉ a year), FLAG (0 is good), and the
        other columns of the rates. Undefined rows and the sentinel −99 are kept: dropping them is the
        funnel's work.

    Raises
    ------
    FileError
        See `read_table`.
    DataError
        Columns are missing, or the two tables differ in length.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path, SFR_NAME)
    rates = read_table(path)
    present = {name.lower() for name in rates.columns}
    if not all(present & set(names) for names in _SFR_NAMES.values()):
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
        ours: next((lower[name] for name in names if name in lower), None)
        for ours, names in _SFR_NAMES.items()
    }
    missing = [ours for ours, theirs in chosen.items() if theirs is None]
    if missing:
        raise DataError(
            f"the table lacks {', '.join(missing)}",
            remedy=f"give {SFR_NAME} with {INFO_NAME} beside it, or one table with {', '.join(_SFR_NAMES)}",
            path=path,
        )
    out = pd.DataFrame({ours: rates[theirs] for ours, theirs in chosen.items()})
    for name in ("plate", "mjd", "fiberid", "FLAG"):
        try:
            out[name] = pd.to_numeric(out[name]).astype(np.int64)
        except (ValueError, TypeError, pd.errors.IntCastingNaNError) as error:
            raise DataError(
                f"its column {name} is not integer throughout ({error})",
                remedy="remove or mend those rows",
                path=path,
            ) from error
    taken = {str(theirs) for theirs in chosen.values()} | set(out.columns)
    return pd.concat([out, rates[[name for name in others if name not in taken]]], axis=1)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise DataError(
        f"{name} is not there", remedy=f"put {SFR_NAME} and {INFO_NAME} into one folder", path=folder
    )
