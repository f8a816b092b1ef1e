"""Catalogue tables (CSV and other text, FITS, Parquet, VOTable, NumPy) as data frames.

With the values that surveys write for "missing", and the MPA-JHU star-formation rates.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Collection, Sequence
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

UNITS = "units"
"""Key of `DataFrame.attrs` under which `read_table` leaves the units that the file names, by column."""

PART = "part"
"""Column that says which part of a fixed split a row belongs to, where the file's name says it."""

SENTINELS = (-9999.0, -999.0, -9999.9, -999.9, -99.99, -99.9)
"""Values that surveys write for "missing" and that hardly anything measured is."""

ROUND_SENTINELS = (-100.0, -99.0, 99.0, 99.9, 99.99, 999.0, 9999.0)
"""Values that surveys write for "missing" and that measurements take, too."""

_SEPARATORS = (",", "\t", ";", "|")
_SUFFIXES = ".csv, .txt, .dat, .fits, .fit, .fits.gz, .parquet, .vot, .npy, or ANNz's .<bands>.train"
_TEXT = (".csv", ".txt", ".dat", ".tsv", ".asc", ".csv.gz")
# ANNz (Collister & Lahav 2004, PASP 116, 345) names its files after the bands and the part, writes no header,
# and in each row the magnitudes, their errors and the redshift.
_ANNZ = re.compile(r".*\.([A-Za-z]{2,})\.(train|valid|test)$")
# float64 holds whole numbers up to this exactly.
_EXACT = 2.0**53
_BRACKETED = re.compile(r"^(.+?)\s*\[([^\[\]]*)\]$")
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


def read_table(path: str | Path, *, names: Sequence[str] = ()) -> pd.DataFrame:
    """Read a catalogue table.

    Values are kept as they are: sentinels such as −9999 or −99 are numbers like any other until
    `without_sentinels` takes them out. Columns keep their names and order; a column of vectors becomes one
    column an element, named ``NAME_0``, ``NAME_1`` and so on.

    Parameters
    ----------
    path : path
        Text such as ``.csv`` (comma, tab, semicolon, bar or blanks; comment lines above the header; UTF-8 or
        Latin-1), ``.fits``, ``.fit``, ``.fits.gz``, ``.parquet``, ``.vot`` or a structured ``.npy``.
        ``*.<bands>.train``, ``.valid`` and ``.test`` are ANNz's: magnitudes, errors (``err_u`` …) and
        ``redshift``, with the column `PART`.
    names : sequence of str
        Names of the columns of a text table without a header.

    Returns
    -------
    DataFrame
        Numbers in the machine's byte order, text without padding. ``attrs[UNITS]`` holds the units by column
        that FITS and VOTable files name, or text headers such as ``ra [deg]``.

    Raises
    ------
    FileError
        ``unreadable``, ``empty``, ``unknown-kind``, ``not-fits``, ``wrong-hdus``, ``no-header`` or
        ``truncated``.
    DataError
        The table has no rows.
    """
    path = Path(path)
    name = path.name.lower()
    annz = _ANNZ.match(path.name)
    try:
        if path.stat().st_size == 0:
            raise FileError("it is empty", reason="empty", remedy="give a file with data", path=path)
        if annz is not None:
            bands = list(annz[1])
            known = [*bands, *(f"err_{band}" for band in bands), "redshift"]
            table = _read_text(path, names or known).assign(**{PART: annz[2]})
        elif name.endswith(_TEXT):
            table = _read_text(path, names)
        elif name.endswith((".fits", ".fit", ".fits.gz", ".fit.gz")):
            table = _read_fits(path)
        elif name.endswith(".parquet"):
            table = pd.read_parquet(path)
        elif name.endswith((".vot", ".votable")):
            table = _read_votable(path)
        elif name.endswith(".npy"):
            table = _read_npy(path)
        else:
            raise FileError(
                "its name does not say what kind of table it is",
                reason="unknown-kind",
                remedy=f"give one of {_SUFFIXES}",
                path=path,
            )
    except FileError:
        raise
    except OSError as error:
        # Of a damaged file astropy, gzip and pyarrow say so by an OSError without a number.
        reason = "unreadable" if error.errno else "truncated"
        raise _failed(path, reason, error) from error
    # A damaged file makes the libraries raise whatever their parsers stumble over.
    except Exception as error:
        raise _failed(path, "truncated", error) from error
    if table.empty:
        raise DataError("the table has no rows", remedy="give a table with data", path=path)
    return table


def without_sentinels(
    table: pd.DataFrame, columns: Collection[str] | None = None
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Replace the values that stand for "missing" by NaN, and count them.

    Each column is judged on its own, and what may be a measurement stays. Of `SENTINELS` a value goes where
    it lies further from all other values than these span; of `ROUND_SENTINELS` where, besides, the column is
    not of whole numbers and the value occurs more than once or lies five times as far. A column of nothing
    but such values stays as it is: nothing tells what it holds. So does one of identifiers that no float64
    holds exactly.

    Parameters
    ----------
    table : DataFrame
    columns : collection of str, optional
        Columns to look at; all numeric ones by default.

    Returns
    -------
    table : DataFrame
        A copy; columns that lost a value are float64.
    counts : dict of dict
        By column, the sentinel as text and how many of it there were.
    """
    table = table.copy()
    counts: dict[str, dict[str, int]] = {}
    for name in table.columns if columns is None else columns:
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            continue
        values = table[name].to_numpy(np.float64, na_value=np.nan, copy=True)
        # A float32 column holds the float32 nearest to −99.99.
        wanted = table[name].to_numpy().dtype if table[name].dtype == np.float32 else np.dtype(np.float64)
        candidates = np.array(SENTINELS + ROUND_SENTINELS, wanted).astype(np.float64)
        suspect = np.isin(values, candidates)
        rest = values[np.isfinite(values) & ~suspect]
        if not suspect.any() or not rest.size:
            continue
        low, high = float(rest.min()), float(rest.max())
        if table[name].dtype.kind in "iu" and max(-low, high) > _EXACT:
            continue
        whole = bool((rest == np.rint(rest)).all())
        for value in candidates:
            found = values == value
            number = int(found.sum())
            apart = max(low - value, value - high)
            round_value = value in candidates[len(SENTINELS) :]
            doubtful = round_value and (whole or low == high or (number < 2 and apart <= 5 * (high - low)))
            if number and apart > high - low and not doubtful:
                values[found] = np.nan
                counts.setdefault(str(name), {})[f"{value:.6g}"] = number
        if str(name) in counts:
            table[name] = values
    return table, counts


def _failed(path: Path, reason: str, error: Exception) -> FileError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return FileError(
        f"the table cannot be read ({said})",
        reason=reason,
        remedy="check that the file is whole and of the kind that its name says",
        path=path,
    )


def _read_text(path: Path, names: Sequence[str]) -> pd.DataFrame:
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
    header, body = lines[comments], "".join(lines[comments:])
    separator = _separator(header)
    width = len(_words(header, separator))
    headless = bool(names) or (_is_numbers(header, separator) and (comments > 0 or width > 1))
    if headless and not names and comments:
        # Some tables write their header as the last comment, with a separator of its own.
        named = lines[comments - 1].lstrip("#").strip()
        names = [name.strip() for name in _words(named, _separator(named))]
    if headless:
        if not names:
            raise FileError(
                "it has no header", reason="no-header", remedy="name its columns, or give it one", path=path
            )
        if len(names) != width:
            raise ValueError(f"{len(names)} columns are named and its rows have {width}")
        table = pd.read_csv(io.StringIO(body), sep=separator, header=None, names=list(names))
    else:
        table = pd.read_csv(io.StringIO(body), sep=separator, low_memory=False, index_col=False)
        # An unnamed first column is the row number that pandas writes.
        table = table.drop(columns=[name for name in table.columns[:1] if name == "Unnamed: 0"])
    units = {found[1]: found[2] for name in table.columns if (found := _BRACKETED.match(str(name)))}
    table.columns = pd.Index([found[1] if (found := _BRACKETED.match(str(n))) else n for n in table.columns])
    return _with_units(table, units)


def _separator(line: str) -> str:
    """Return what parts the words of a line: the separator that occurs most, else blanks."""
    best = max(_SEPARATORS, key=line.strip().count)
    return best if best in line.strip() else r"\s+"


def _words(line: str, separator: str) -> list[str]:
    return line.split() if separator == r"\s+" else line.rstrip("\r\n").split(separator)


def _is_numbers(line: str, separator: str) -> bool:
    try:
        [float(word) for word in _words(line, separator) if word.strip()]
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
        units = {column.name: column.unit for column in found.columns if column.unit}
        return _with_units(_frame_of({name: found.data[name] for name in found.columns.names}), units)


def _read_npy(path: Path) -> pd.DataFrame:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.names is None:
        raise FileError(
            "its array has no named columns",
            reason="wrong-columns",
            remedy="give a structured array",
            path=path,
        )
    return _frame_of({name: array[name] for name in array.dtype.names})


def _read_votable(path: Path) -> pd.DataFrame:
    with path.open("rb") as stream:
        array = votable.parse_single_table(stream, verify="ignore").to_table()
    units = {name: str(array[name].unit) for name in array.colnames if array[name].unit is not None}
    columns = {name: np.ma.filled(array[name], _hole(array[name].dtype)) for name in array.colnames}
    return _with_units(_frame_of(columns), units)


def _with_units(table: pd.DataFrame, units: dict[str, str]) -> pd.DataFrame:
    """Leave the units with the table; a column that became one an element has that of the whole."""
    whole = {name: units.get(name) or units.get(str(name).rpartition("_")[0]) for name in table.columns}
    table.attrs[UNITS] = {name: unit for name, unit in whole.items() if unit}
    return table


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
