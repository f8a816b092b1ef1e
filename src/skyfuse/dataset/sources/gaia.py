"""BP/RP spectra of Gaia, joined with a table of labels by their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.cube.pyramid import series_levels
from skyfuse.dataset import groups, select
from skyfuse.dataset.content import Draft
from skyfuse.dataset.labels import match_identifiers
from skyfuse.dataset.ledger import Ledger
from skyfuse.dataset.sources.arrays import Material, draft_of_arrays
from skyfuse.dataset.sources.files import digests, tables_in
from skyfuse.dataset.sources.protocol import Labels, Naming, Records, file_name
from skyfuse.dataset.sources.zooms import named_zooms
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, FileError, StoreError
from skyfuse.survey.gaia import XpSpectra, read_xp
from skyfuse.survey.records import Samples
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import Progress

_GRID = "gaia-xp"
_UNIT = "electron/s"
_ANGSTROM_PER_NM = 10.0
# Columns that name Gaia's sources, best first.
_SOURCES = ("source_id", "dr3_source_id", "gaia_source_id", "gaiadr3", "gaiaedr3", "designation")


class GaiaSource:
    """See `skyfuse.dataset.sources.protocol.Source`."""

    name: ClassVar[str] = "gaia-xp"
    named: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Read all spectra, each source once; labels come from the first table with the label, by default."""
        name, zooms = named_zooms(self.name, "spectrum", wanted, (0,))
        files, others, spectra = [], [], []
        for path in tables_in(paths):
            try:
                spectra.append(read_xp(path))
                files.append(path)
            except FileError as error:
                if error.reason != "wrong-columns":
                    raise
                others.append(path)
        if not spectra:
            raise _no_spectra(paths[0])
        table, samples, funnel = _joined(spectra)
        if isinstance(labels, Path):
            files.append(labels)
            labels = read_table(labels)
        elif labels is None and wanted.label is not None and not select.has_column(table, wanted.label):
            path, labels = _table_of_labels(others, wanted.label, paths[0])
            files.append(path)
        if labels is not None:
            table, rows, remark = _with_labels(table, labels, wanted.label)
            samples = Samples(samples.value[rows], samples.sigma[rows], samples.coverage[rows])
            funnel.add(f"with a row in the table of labels{remark}", len(table))
        material = _material(table, samples, spectra[0].wavelength, (name, zooms), files, funnel)
        return draft_of_arrays(material, wanted)

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every row of every file of spectra; later rows of a source are marked."""
        name, zooms = named_zooms(self.name, "spectrum", wanted, (0,))
        ledger, spectra, files = Ledger(), [], []
        seen: set[int] = set()
        kept: list[NDArray[np.bool_]] = []
        count = 0
        for file in tables_in([path]):
            try:
                found = read_xp(file)
            except (FileError, DataError) as error:
                if file == path:
                    raise
                if isinstance(error, FileError) and error.reason == "wrong-columns":
                    ledger.others["other tables"] += 1
                else:
                    ledger.reject(file_name(file, path), error)
                continue
            new = np.array([int(source) not in seen for source in found.table["source_id"]], dtype=bool)
            seen |= {int(source) for source in found.table["source_id"]}
            fault = found.rows["fault"].to_numpy(object)
            readable = np.flatnonzero(fault == "")
            row = np.full(len(fault), -1, dtype=np.int64)
            row[readable[new]] = np.arange(count, count + int(new.sum()))
            names = pd.DataFrame({"file": file_name(file, path), "row": np.arange(len(row))})
            names["source_id"] = found.rows["source_id"]
            reason = np.where(fault == "", "repeat", fault)
            again = (reason == "repeat") | (reason == "source_id repeated")
            reason[again] = "repeat"
            detail = np.where(again, "its source has been answered before", "")
            ledger.add(names, row, reason, detail, status=np.where(again, "marked", "rejected"))
            spectra.append(found)
            files.append(file)
            kept.append(new)
            count += int(new.sum())
        if not spectra:
            raise _no_spectra(path)
        table = identifiers.stacked([part.table[new] for part, new in zip(spectra, kept, strict=True)])
        samples = _samples(spectra, kept)
        material = _material(table, samples, spectra[0].wavelength, (name, zooms), files, select.Funnel())
        return Records(draft_of_arrays(material, wanted), lambda _: ledger)


def _no_spectra(path: Path) -> StoreError:
    return StoreError("holds no BP/RP spectra", path=path, remedy="give files with bp_flux, rp_flux …")


def _table_of_labels(paths: Sequence[Path], label: str, given: Path) -> tuple[Path, pd.DataFrame]:
    """Return the first table that names Gaia's sources and holds the label."""
    for path in paths:
        table = read_table(path)
        if select.has_column(table, label) and _source_column(table) is not None:
            return path, table
    raise DataError(
        f"no table of labels with source_id and {label!r} is among the files",
        path=given,
        remedy="give one with --labels",
    )


def _with_labels(
    table: pd.DataFrame, labels: pd.DataFrame, label: str | None
) -> tuple[pd.DataFrame, NDArray[np.int64], str]:
    """Return the rows of a table that have labels beside these, which rows they are, and a remark."""
    column = _source_column(labels) or select.find_column(labels, "source_id")
    own = without_sentinels(labels)[0]
    told = (
        own[select.find_column(own, label)] if label is not None and select.has_column(own, label) else None
    )
    match = match_identifiers(table["source_id"], labels[column], told)
    rows = np.flatnonzero(match.label_row >= 0)
    held = {*table.columns, column}
    new = own[[name for name in own.columns if name not in held]].iloc[match.label_row[rows]]
    joined = pd.concat([table.iloc[rows].reset_index(drop=True), new.reset_index(drop=True)], axis=1)
    return joined, rows, match.remark()


def _material(
    table: pd.DataFrame,
    samples: Samples,
    nanometres: NDArray[np.float64],
    named: tuple[str, Sequence[int]],
    files: Sequence[Path],
    funnel: select.Funnel,
) -> Material:
    """Return spectra under a name at some zooms, one for each row of the table."""
    name, zooms = named
    levels = series_levels(samples.value, samples.sigma, max(zooms) + 1)
    sizes = [value.shape[1] for value, *_ in levels]
    told = {"kind": "spectrum", "grid": _GRID, "sizes": sizes, "unit": _UNIT}
    return Material(
        table,
        {(name, zoom): levels[zoom] for zoom in zooms},
        {"reader": GaiaSource.name, "files": digests(files)},
        {name: told},
        {(name, zoom): _ANGSTROM_PER_NM * _block_means(nanometres, zoom) for zoom in zooms},
        apart=groups.WINDOW_ARCSEC,
        funnel=funnel,
    )


def _source_column(table: pd.DataFrame) -> str | None:
    """Return the column that names Gaia's sources."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    return next((lower[name] for name in _SOURCES if name in lower), None)


def _joined(spectra: Sequence[XpSpectra]) -> tuple[pd.DataFrame, Samples, select.Funnel]:
    """Return the spectra of all files, each source once."""
    table = identifiers.stacked([part.table for part in spectra])
    first = ~table["source_id"].duplicated().to_numpy()
    samples = Samples(
        np.concatenate([part.samples.value for part in spectra])[first],
        np.concatenate([part.samples.sigma for part in spectra])[first],
        np.concatenate([part.samples.coverage for part in spectra])[first],
    )
    funnel = select.Funnel()
    rejected: Counter[str] = Counter()
    for part in spectra:
        rejected.update(part.rejected)
    said = ", ".join(f"{number:,} with {reason}" for reason, number in rejected.items())
    funnel.add(f"rows of the files{said and f' ({said})'}", len(table) + rejected.total())
    funnel.add("with a usable spectrum, each source once", int(first.sum()))
    return table[first].reset_index(drop=True), samples, funnel


def _block_means(values: NDArray[np.float64], zoom: int) -> NDArray[np.float64]:
    starts = np.arange(0, len(values), 2**zoom)
    return np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))


def _samples(spectra: Sequence[XpSpectra], kept: Sequence[NDArray[np.bool_]]) -> Samples:
    parts = [[array[new] for array in part.samples] for part, new in zip(spectra, kept, strict=True)]
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
