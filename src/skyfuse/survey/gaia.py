"""Gaia BP/RP mean spectra: sampled ones, and coefficients of continuous ones with the bases of GaiaXPy."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from skyfuse import identifiers
from skyfuse.errors import DataError, FileError, UsageError
from skyfuse.survey.columns import MISSING, floats
from skyfuse.survey.records import Samples
from skyfuse.survey.tables import read_table

Band = Literal["bp", "rp"]
_BANDS: tuple[Band, Band] = ("bp", "rp")

SAMPLES = 120
"""Samples of each band as SMSgen makes them (Gaia DR3 documentation, 11.3.1)."""

KEPT: dict[Band, slice] = {"bp": slice(34, SAMPLES - 6), "rp": slice(4, SAMPLES - 10)}
"""Samples that make up the 186 fluxes: the noisy ends are cut off (Gaia DR3 documentation, 11.3.13, UGC)."""

BASES = 55
"""Coefficients of each band."""

# Dispersion of DR3: pseudo-wavelength (pixels of the mean spectrum) of wavelengths in nm, every 20 or 25 nm
# from the table TabulatedDispersionFunction-DR3-v375wiv142r that GaiaXPy ships.
_DISPERSION: dict[Band, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "bp": (
        np.arange(300.0, 721.0, 20.0),
        np.array(
            [
                *(62.5258, 54.5151, 48.0482, 42.8236, 38.5205, 34.9248, 31.8757, 29.2580, 26.9865, 24.9968),
                *(23.2392, 21.6751, 20.2736, 19.0096, 17.8629, 16.8163, 15.8564, 14.9675, 14.1326, 13.3591),
                *(12.6369, 11.9601),
            ]
        ),
    ),
    "rp": (
        np.arange(580.0, 1081.0, 25.0),
        np.array(
            [
                *(2.5890, 7.4000, 11.6796, 15.5197, 18.9935, 22.1621, 25.0741, 27.7696, 30.2816, 32.6370),
                *(34.8584, 36.9645, 38.9708, 40.8901, 42.7328, 44.5084, 46.2242, 47.8869, 49.5014, 51.0725),
                52.6041,
            ]
        ),
    ),
}
# SMSgen's samples are equidistant in pixels (ESA, "Wavelength sampling used for inferring astrophysical
# parameters in Gaia DR3"). What is kept spans 366 to 996 nm (UGC). Where the bands meet is not stated: 627
# and 620 nm let the 120 samples of each band span 325 to 674 and 612 to 1051 nm, where it transmits light.
_SPAN: dict[Band, tuple[float, float]] = {"bp": (366.0, 627.0), "rp": (620.0, 996.0)}


@dataclass(frozen=True, slots=True)
class XpSpectra:
    """Gaia BP/RP spectra on one grid.

    Attributes
    ----------
    table : DataFrame of n rows
        ``source_id`` (int64) and the other scalar columns of the file.
    wavelength : ndarray of float64, shape (186,)
        Centres of the samples, nm: 80 of BP, then 106 of RP, which overlap by 7 nm.
    samples : Samples of shape (n, 186)
        Mean flux in each sample, electrons a second, internally calibrated. A source without one of the bands
        has NaN there.
    rejected : dict of str to int
        Rows that could not be used, by reason.
    rows : DataFrame
        Each row of the file: ``source_id`` (<NA> where it has none) and ``fault``, why it could not be used,
        empty for those that are here.
    """

    table: pd.DataFrame
    wavelength: NDArray[np.float64]
    samples: Samples
    rejected: dict[str, int]
    rows: pd.DataFrame


def _pixels(band: Band) -> NDArray[np.float64]:
    """Return the pseudo-wavelengths of a band's 120 samples, in the order of rising wavelength."""
    start, stop = KEPT[band].start, KEPT[band].stop - 1
    first, last = PchipInterpolator(*_DISPERSION[band])(_SPAN[band])
    step = (last - first) / (stop - start)
    return np.asarray(first + step * (np.arange(SAMPLES) - start), np.float64)


def wavelengths(band: Band) -> NDArray[np.float64]:
    """Return the wavelengths of the 120 samples of ``bp`` or ``rp``, nm, rising."""
    wavelength, pixel = _DISPERSION[band]
    order = np.argsort(pixel)
    return np.asarray(PchipInterpolator(pixel[order], wavelength[order])(_pixels(band)), np.float64)


def read_xp(path: str | Path) -> XpSpectra:
    """Read BP/RP spectra, sampled or as coefficients.

    Sampled spectra have the columns ``bp_flux``, ``bp_flux_error``, ``rp_flux`` and ``rp_flux_error``, each a
    vector of 120, in the order of rising wavelength. Coefficients have those of the archive's table
    ``xp_continuous_mean_spectrum`` (vectors of 55, correlations of 1485) or a column each (``bp_coeff_0``,
    ``e_bp_coeff_0`` …, taken as uncorrelated). As SMSgen does, all 55 are used: with the design matrix D that
    holds the integral of each base over each sample, ``flux = D c`` and ``σ² = diag(D Σ Dᵀ)``.

    Parameters
    ----------
    path : path
        CSV, FITS, VOTable or Parquet.

    Returns
    -------
    XpSpectra

    Raises
    ------
    FileError
        As `skyfuse.survey.tables.read_table`; ``wrong-columns`` where the file holds neither; ``no-spectra``
        where no row is usable.
    DataError
        Its source_id are floats that have lost digits.
    UsageError
        Coefficients without GaiaXPy at hand, which holds the bases.
    """
    path = Path(path)
    table = read_table(path)
    lower = {str(name).lower(): name for name in reversed(table.columns)}
    # Of names that differ in case alone the plain one serves.
    lower |= {name: name for name in table.columns if name in lower}
    if "source_id" not in lower:
        raise _wrong_columns(path, "it has no column source_id")
    table = table.rename(columns={name: key for key, name in lower.items()})
    sampled = "bp_flux" in table or "bp_flux_0" in table
    halves, used = [], {"source_id"}
    for band in _BANDS:
        flux, error, columns = (_sampled if sampled else _continuous)(table, band, path)
        halves.append((flux[:, KEPT[band]], error[:, KEPT[band]]))
        used |= columns
    value = np.concatenate([half[0] for half in halves], axis=1, dtype=np.float32)
    sigma = np.concatenate([half[1] for half in halves], axis=1, dtype=np.float32)
    good = np.isfinite(value) & (sigma > 0) & (sigma < np.inf)
    value[~good], sigma[~good] = np.nan, np.nan
    source = _source_ids(table["source_id"], path)
    faults = {
        "bad source_id": source.isna().to_numpy(),
        "no valid sample": ~good.any(axis=1),
        "source_id repeated": source.duplicated().to_numpy(),
    }
    fault = np.full(len(table), "", dtype=object)
    for reason, rows in faults.items():
        fault[rows & (fault == "")] = reason
    keep = np.asarray(fault == "", dtype=bool)
    rejected = {reason: count for reason in faults if (count := int((fault == reason).sum()))}
    if not keep.any():
        raise FileError(
            "none of its rows holds a spectrum",
            reason="no-spectra",
            remedy="give a file of BP/RP spectra with errors",
            path=path,
        )
    scalars = [name for name in table.columns if name not in used and not _is_vector(table[name])]
    kept = table.loc[keep, scalars].reset_index(drop=True)
    kept.insert(0, "source_id", source[keep].astype(np.int64).to_numpy())
    return XpSpectra(
        kept,
        np.concatenate([wavelengths(band)[KEPT[band]] for band in _BANDS]),
        Samples(value[keep], sigma[keep], good[keep].astype(np.float16)),
        rejected,
        pd.DataFrame({"source_id": source.reset_index(drop=True), "fault": fault}),
    )


def _source_ids(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    """Return the numbers of sources, as integers or in designations, `<NA>` where there is none."""
    try:
        found = identifiers.whole_numbers(column)
    except DataError as error:
        error.path = path
        raise
    # Gaia's have 63 bits.
    return found.where(found <= np.iinfo(np.int64).max).astype("Int64")


def _is_vector(column: pd.Series[Any]) -> bool:
    first = column.dropna().head(1)
    return bool(len(first)) and (np.ndim(first.iloc[0]) > 0 or str(first.iloc[0]).startswith(("(", "[")))


def _vectors(
    table: pd.DataFrame, names: Sequence[str], length: int, path: Path
) -> tuple[NDArray[np.float64], set[str]] | None:
    """Return a column of vectors, or columns ``name_0`` …, as (n, length); rows without one are NaN.

    `names` are the names that it may have; None where the table has none of them.
    """
    for name in names:
        spread = [f"{name}_{k}" for k in range(length)]
        if spread[0] in table:
            if spread[-1] not in table or f"{name}_{length}" in table:
                raise _wrong_columns(path, f"its column {name} has not {length} elements")
            return np.stack([floats(table[one], path) for one in spread], axis=1), set(spread)
        if name in table:
            out = np.full((len(table), length), np.nan)
            for row, cell in enumerate(table[name]):
                vector = _vector(cell)
                if vector is not None and vector.size not in (0, length):
                    raise _wrong_columns(
                        path, f"{name} of row {row + 1} has {vector.size} elements, not {length}"
                    )
                if vector is not None and vector.size:
                    out[row] = vector
            return out, {name}
    return None


def _vector(cell: Any) -> NDArray[np.float64] | None:
    """Return one cell's numbers: an array, or text such as ``(1.0, 2.0)``; None where it is missing."""
    if isinstance(cell, str):
        words = cell.strip().strip("()[]{}").replace(",", " ").split()
        try:
            return np.array([np.nan if word in MISSING else float(word) for word in words])
        except ValueError:
            return np.array([np.nan])
    if np.ndim(cell) == 0:
        return None
    return np.ma.filled(np.ma.asarray(cell, np.float64), np.nan)


def _sampled(
    table: pd.DataFrame, band: Band, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64], set[str]]:
    flux = _vectors(table, [f"{band}_flux"], SAMPLES, path)
    error = _vectors(table, [f"{band}_flux_error"], SAMPLES, path)
    if flux is None or error is None:
        raise _wrong_columns(path, f"it has no columns {band}_flux and {band}_flux_error")
    return flux[0], error[0], flux[1] | error[1]


def _continuous(
    table: pd.DataFrame, band: Band, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64], set[str]]:
    coefficients = _vectors(table, [f"{band}_coefficients", f"{band}_coeff"], BASES, path)
    errors = _vectors(table, [f"{band}_coefficient_errors", f"e_{band}_coeff"], BASES, path)
    if coefficients is None or errors is None:
        raise _wrong_columns(path, f"it has neither {band}_flux nor {band}_coefficients with their errors")
    pairs = BASES * (BASES - 1) // 2
    correlations = _vectors(table, [f"{band}_coefficient_correlations"], pairs, path)
    design = _design_matrix(band)
    value = coefficients[0] @ design.T
    sigma = np.empty_like(value)
    below = np.tril_indices(BASES, -1)
    for row, error in enumerate(errors[0]):
        scaled = design * error
        covariance = np.eye(BASES)
        if correlations is not None:
            covariance[below] = correlations[0][row]
            covariance.T[below] = correlations[0][row]
        variance = np.einsum("ij,jk,ik->i", scaled, covariance, scaled, optimize=True)
        # Correlations of few digits may leave one a little below 0.
        sigma[row] = np.sqrt(np.maximum(variance, 0.0))
    used = coefficients[1] | errors[1] | (set() if correlations is None else correlations[1])
    return value, sigma, used


@lru_cache
def _design_matrix(band: Band) -> NDArray[np.float64]:
    """Return the integral of each of the 55 bases over each of the 120 samples, by Simpson's rule."""
    from matplotlib import rc_context

    try:
        # Its import makes matplotlib ask for LaTeX, which would break every later figure without one, and
        # keeps the standard output of that moment for its bars; that output is ours to write.
        with warnings.catch_warnings(), rc_context(), contextlib.redirect_stdout(io.StringIO()):
            # It sets an option that pandas 3 has given up.
            warnings.filterwarnings("ignore", message=".*mode.chained_assignment")
            from gaiaxpy import convert
    except ImportError as error:
        raise UsageError(
            "coefficients of Gaia spectra need the bases of GaiaXPy, which is not installed",
            remedy='install it with pip install "skyfuse[gaia]", or give sampled spectra',
        ) from error
    centres = _pixels(band)
    half = (centres[1] - centres[0]) / 2
    points = np.append(centres - half, centres[-1] + half), centres
    order = np.argsort(np.concatenate(points))
    # GaiaXPy samples spectra, and shows its bases by those of which one coefficient alone is 1.
    unit: dict[str, Any] = {"source_id": np.arange(BASES)}
    for name in _BANDS:
        unit |= {
            f"{name}_coefficients": list(np.eye(BASES)),
            f"{name}_coefficient_errors": list(np.ones((BASES, BASES))),
            f"{name}_coefficient_correlations": list(np.zeros((BASES, BASES * (BASES - 1) // 2))),
            f"{name}_standard_deviation": 1.0,
            f"{name}_n_parameters": BASES,
            f"{name}_n_relevant_bases": BASES,
            f"{name}_basis_function_id": {"bp": 56, "rp": 57}[name],
        }
    with contextlib.redirect_stdout(io.StringIO()):
        found, _ = convert(pd.DataFrame(unit), sampling=np.concatenate(points)[order], save_file=False)
    rows = found[found["xp"].str.lower() == band].sort_values("source_id")
    bases = np.empty((BASES, order.size))
    bases[:, order] = np.stack(rows["flux"].to_list())
    edges, middle = bases[:, : SAMPLES + 1], bases[:, SAMPLES + 1 :]
    return np.asarray((edges[:, :-1] + 4 * middle + edges[:, 1:]).T * abs(half) / 3, np.float64)


def _wrong_columns(path: Path, fault: str) -> FileError:
    return FileError(
        fault,
        reason="wrong-columns",
        remedy="give the archive's continuous mean spectra, or sampled ones of 120 samples a band",
        path=path,
    )
