"""What is given to a trained model: every record of it, and a dataset of those that can be read.

A record is what a user would count: a spectrum, a row of a table, an image. None is lost on the way: one that
the dataset does not hold is told with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.make import NOTHING_LEFT
from skyfuse.dataset.select import Funnel, find_column, numbers
from skyfuse.dataset.source import from_images, from_xp, tables_in
from skyfuse.disk import names_file
from skyfuse.errors import DataError, FileError, SkyfuseError, StoreError, UsageError, shown
from skyfuse.survey.gaia import XpSpectra, read_xp
from skyfuse.survey.galaxyzoo import Images, read_images
from skyfuse.survey.recognise import recognise
from skyfuse.survey.records import BANDS, Samples, SpectrumInfo
from skyfuse.survey.scene import read_scene
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import DERIVED, Progress

IDENTITY = ("object_id", "spectrum_id", "ra", "dec", "plate", "mjd", "fiberid", "source_id", "name")
"""Columns of a dataset or cube that name an object."""

OWN = ("file", "row", "status", "reason", "detail")
"""Columns of `Given.records` that are ours."""

# Columns of a table that name an object, in lower case; those that it has are carried through as they are.
_NAMES = (
    *("object_id", "objid", "dr7objid", "dr8objid", "bestobjid", "specobjid", "source_id", "name"),
    *("designation", "galaxyid", "obsid", "id", "plate", "plateid", "mjd", "fiberid", "fiber", "ra", "dec"),
)
_FITS_NAME = re.compile(r".+\.(fits?|fits?\.(gz|bz2|fz))", re.IGNORECASE)
_OTHERS = "other files"


@dataclass(frozen=True)
class Given:
    """Records of some data, each with what became of it.

    Attributes
    ----------
    dataset : Dataset
        Those that can be read.
    records : DataFrame
        One row a record, in the order of the files: columns that name it, then ``status`` (``answered``
        where the dataset holds it; ``marked``: it can be read, and has no answer of its own; ``rejected``: it
        cannot be read as an object), ``reason`` (one word) and ``detail``, both empty for what is answered.
    row : ndarray of int64
        Row of the dataset of each record, −1 for none.
    others : dict of str to int
        What was found beside the records, e.g. frames.
    """

    dataset: Dataset
    records: pd.DataFrame
    row: NDArray[np.int64]
    others: dict[str, int]


@dataclass
class _Ledger:
    """Records as they come."""

    parts: list[pd.DataFrame] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

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
        self.add(pd.DataFrame({"file": [file], **names}), _NONE, reason, error.fault, status="rejected")

    def count_others(self, root: Path, used: Sequence[Path]) -> None:
        """Count the files of a folder that are of no use."""
        others = len({path for path in root.rglob("*") if names_file(path)} - {*used})
        if others:
            self.others[_OTHERS] = others

    def given(self, dataset: Dataset, by: str | None = None) -> Given:
        """Return all records, in the order of a column or as they came."""
        table = identifiers.stacked(self.parts)
        if by is not None:
            table = table.sort_values(by, kind="stable", ignore_index=True)
        row = table.pop(_ROW).to_numpy(np.int64)
        last = list(OWN[2:])
        table = table[[*(name for name in table.columns if name not in last), *last]]
        for name in table.columns:
            # Tables whose ids are numbers here and text there.
            if table[name].dtype == object:
                table[name] = table[name].astype("string")
        return Given(dataset, table, row, dict(self.others))


_ROW = "row of the dataset"
_NONE = np.array([-1], dtype=np.int64)


def open_given(
    path: Path,
    work: Path,
    inputs: Mapping[str, Any],
    *,
    id_column: str | None = None,
    names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Given:
    """Return every record of some data, and a dataset of those that a model can be asked for.

    Parameters
    ----------
    path : path
        A dataset, a cube, or a file or folder of what the model's training read.
    work : path
        Empty folder for what has to be made.
    inputs : mapping
        Of the model's card, see `skyfuse.models.files.Inputs`.
    id_column : str, optional
        Column of a table that names its rows; by default every column whose name says so, else the first one
        if it is unique.
    names : mapping of str to str, optional
        The table's own column for each that the model reads, where the names differ.
    progress : callable, optional
        ``(done, total, what)``.

    Raises
    ------
    StoreError
        If the model's card does not tell what read its training's files.
    UsageError
        If columns are named where the data is no table.
    DataError, FileError
        If nothing can be read, or the data lacks what the model reads.
    """
    reader = inputs["reader"]
    stored = next((kind for kind in ("dataset", "cube") if (path / f"{kind}.json").is_file()), None)
    if (id_column or names) and (stored is not None or reader != "table"):
        raise UsageError("only tables have columns to be named", remedy="leave out --id and --column")
    if stored == "dataset":
        return _of_dataset(Dataset.open(path))
    if reader is None:
        raise StoreError(
            "is no dataset, and the model was trained on arrays from Python",
            path=path,
            remedy="give a dataset, or arrays in Python",
        )
    if stored == "cube" and reader != "cube":
        raise DataError("is a cube", path=path, remedy=f"the model reads what the reader {reader!r} reads")
    wanted: dict[str, Any] = {
        "columns": inputs["columns"],
        "derive": list(inputs["derive"]),
        "progress": progress,
    }
    zooms = {modality: {int(zoom)} for modality, zoom in inputs["zooms"].items() if modality != "table"}
    if reader == "cube":
        kept = {modality: [int(zoom)] for modality, zoom in inputs["zooms"].items()}
        wanted |= {"zooms": kept, "modalities": tuple(kept), "every_spectrum": inputs["every_spectrum"]}
        return _of_cube(path, work, inputs["grid"] or "sdss", wanted)
    for name, zoom in inputs["derive"].items():
        zooms.setdefault(DERIVED[name].modality, set()).add(int(zoom))
    levels = {modality: sorted(found) for modality, found in zooms.items()}
    target = work / "dataset"
    if reader == "table":
        return _of_tables(path, target, id_column, names or {}, wanted)
    if reader == "gaia-xp":
        return _of_xp(path, target, levels.get("spectrum", [0]), wanted)
    # A model of scenes that hears nothing needs no table.
    if reader == "scene" and "table" in inputs["zooms"]:
        return _of_scene(path, target, inputs["size"] or 8, levels.get("image", []), wanted)
    return _of_images(path, target, inputs["size"], levels["image"], wanted)


def _of_dataset(dataset: Dataset) -> Given:
    ledger = _Ledger()
    names = dataset.table[[name for name in IDENTITY if name in dataset.table]]
    ledger.add(names, np.arange(len(dataset)))
    return ledger.given(dataset)


# ------------------------------------------------------------------------------------------------------- cube


def _of_cube(path: Path, work: Path, grid: str, wanted: dict[str, Any]) -> Given:
    ledger = _Ledger()
    if (path / "cube.json").is_file():
        cube, rejects = Cube.open(path), []
        before = sum(cube.meta["rejected"].values())
        if before:
            ledger.others["files that the cube's build rejected"] = before
    else:
        report = build(
            [path], work / "sky.cube", grid=grid, keep_unclassified=True, progress=wanted["progress"]
        )
        cube, rejects = Cube.open(work / "sky.cube"), report.rejects
        if report.frames:
            ledger.others["frames"] = report.frames
    try:
        dataset = Dataset.from_cube(cube, work / "dataset", split=None, **wanted)
    except DataError as error:
        if not error.fault.startswith(NOTHING_LEFT):
            raise
        read = " and ".join(name for name in wanted["modalities"] if name != "table") or "spectrum"
        raise DataError(
            f"none of its {len(cube.spectra)} spectra is of an object with {read}, which the model reads",
            path=path,
            remedy="give frames and spectra of the same objects, or a model that reads less",
        ) from error
    spectra = cube.spectra.sort_values(["file", "spectrum_id"], ignore_index=True)
    row_of = pd.Series(np.arange(len(dataset)), index=dataset.table["object_id"].to_numpy())
    key = "spectrum_id" if wanted["every_spectrum"] else "object_id"
    row = np.array(row_of.reindex(spectra[key]).fillna(-1), dtype=np.int64)
    best = cube.objects.set_index("object_id")
    own = best.loc[spectra["object_id"]]
    dark = own[[f"frame_{band}" for band in BANDS]].isna().to_numpy().all(axis=1)
    dark &= "image" in wanted["modalities"]
    reason = np.where(dark, "no-image", "no-valid-sample").astype(object)
    detail = np.where(dark, "no frame holds its place", "none of its samples is valid").astype(object)
    if not wanted["every_spectrum"]:
        repeated = (own["spectrum_id"].to_numpy() != spectra["spectrum_id"].to_numpy()) & (row >= 0)
        row[repeated], reason[repeated] = -1, "repeat"
        detail[repeated] = "its object is answered by " + own["spectrum_id"].to_numpy(object)[repeated]
    columns = ["file", "spectrum_id", "object_id", "survey", "plate", "mjd", "fiberid", "ra", "dec"]
    names = spectra[columns].astype(dict.fromkeys(("plate", "mjd", "fiberid"), "Int64"))
    ledger.add(names, row, reason, detail)
    for reject in rejects:
        file = Path(reject.path)
        if not _FITS_NAME.fullmatch(file.name):
            ledger.others[_OTHERS] += 1
            continue
        # The ledger's message begins with the path, which is told already.
        said = reject.message.removeprefix(f"{reject.path}: ").partition("; ")[0]
        names = pd.DataFrame({"file": [shown(file.name)], **_header_names(file)})
        ledger.add(names, _NONE, reject.reason, said, status="rejected")
    return ledger.given(dataset, by="file")


def _header_names(file: Path) -> dict[str, Any]:
    """Return what a rejected file's header says that it is, where it does."""
    try:
        info = recognise(file)
    except (SkyfuseError, OSError):
        return {}
    if not isinstance(info, SpectrumInfo):
        return {}
    numbers_ = {name: pd.array([getattr(info, name)], dtype="Int64") for name in ("plate", "mjd", "fiberid")}
    texts = {name: [getattr(info, name)] for name in ("spectrum_id", "survey")}
    return {**texts, **numbers_, "ra": [info.ra], "dec": [info.dec]}


def _file_name(file: Path, root: Path) -> str:
    """Return a file's name as it stands under what the user pointed at."""
    return shown(file.name if file == root else str(file.relative_to(root)))


# ----------------------------------------------------------------------------------------------------- tables


def _of_tables(
    path: Path, target: Path, id_column: str | None, names: Mapping[str, str], wanted: dict[str, Any]
) -> Given:
    ledger, inputs, first = _Ledger(), [], None
    count = 0
    files = list(tables_in([path]))
    ledger.count_others(path, files)
    for file in files:
        try:
            table = read_table(file)
        except (FileError, DataError) as error:
            if file == path:
                raise
            ledger.reject(_file_name(file, path), error)
            first = first or error
            continue
        named = pd.DataFrame({"file": _file_name(file, path), "row": np.arange(len(table))})
        try:
            named = pd.concat([named, _names_of(table, id_column)], axis=1)
            found = _columns(without_sentinels(table)[0], wanted["columns"], names)
        except DataError as error:
            error.path = error.path or file
            if file == path:
                raise
            row = np.full(len(table), -1, dtype=np.int64)
            ledger.add(named, row, "missing-column", error.fault, status="rejected")
            first = first or error
            continue
        ledger.add(named, np.arange(count, count + len(table)))
        inputs.append(found)
        count += len(table)
    if not inputs:
        if first is not None:
            raise first
        raise StoreError("holds no table", path=path, remedy="give a CSV, FITS, Parquet or .npy table")
    dataset = Dataset.from_arrays(
        target, pd.concat(inputs, ignore_index=True), {}, split=None, provenance={"reader": "table"}, **wanted
    )
    return ledger.given(dataset)


def _columns(table: pd.DataFrame, columns: Sequence[str], names: Mapping[str, str]) -> pd.DataFrame:
    """Return the columns that a model reads, and their errors, under its names for them."""
    table = table.assign(**{ours: table[find_column(table, theirs)] for ours, theirs in names.items()})
    for ours in names:
        if not any(ours in _parts(column) for column in columns):
            raise UsageError(
                f"the model reads no column {ours!r}", remedy=f"it reads {', '.join(columns[:12])}"
            )
    found = {}
    for column in columns:
        try:
            numbers(table, column)
        except DataError as error:
            error.remedy += "; where it goes by another name, say so: --column MODEL=YOURS"
            raise
    for part in dict.fromkeys(part for column in columns for part in _parts(column)):
        # Errors are of use to whoever redraws the inputs.
        for name in (part, f"err_{part}", f"{part}_err"):
            with suppress(DataError):
                found[name] = numbers(table, find_column(table, name))
    return pd.DataFrame(found)


def _parts(column: str) -> list[str]:
    """Return what a column may be made of: of ``a-b`` both ends, of ``log10(a)`` what is inside."""
    ends = [(column[: dash.start()], column[dash.end() :]) for dash in re.finditer("-", column)]
    inside = column.removeprefix("log10(").removesuffix(")")
    return [column, inside, *(end for pair in ends for end in pair if end)]


def _names_of(table: pd.DataFrame, id_column: str | None) -> pd.DataFrame:
    """Return the columns that name the rows of a table, as they are."""
    if id_column is not None:
        chosen = [find_column(table, id_column)]
    else:
        chosen = [name for name in table.columns if str(name).lower() in _NAMES]
        first = table.columns[0]
        known = {str(name).lower() for name in chosen} - {"ra", "dec", "mjd"}
        if not known and first not in chosen and _names_rows(table[first]):
            chosen = [first, *chosen]
    columns = {free_name(str(name), OWN): _as_name(table[name]) for name in chosen}
    return pd.DataFrame(columns, index=table.index)


def _as_name(column: pd.Series) -> pd.Series:
    """Return a column as it is; numbers that a table writes as 6.0 as whole ones, positions apart."""
    if not pd.api.types.is_float_dtype(column) or str(column.name).lower() in ("ra", "dec"):
        return column
    try:
        return identifiers.identifiers(column)
    except DataError:
        # Rounded before they came here: what is left of them still tells the rows apart.
        return column


def _names_rows(column: pd.Series) -> bool:
    """Tell whether a column holds whole numbers or text, each once."""
    if not (pd.api.types.is_integer_dtype(column) or pd.api.types.is_string_dtype(column)):
        return False
    return bool(column.notna().all() and column.is_unique)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name for a column of the user's, another one where predictions have a column of that name."""
    return f"given_{name}" if name in taken else name


# ------------------------------------------------------------------------------------------------------- Gaia


def _of_xp(path: Path, target: Path, zooms: Sequence[int], wanted: dict[str, Any]) -> Given:
    ledger, spectra, files = _Ledger(), [], []
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
                ledger.reject(_file_name(file, path), error)
            continue
        new = np.array([int(source) not in seen for source in found.table["source_id"]], dtype=bool)
        seen |= {int(source) for source in found.table["source_id"]}
        fault = found.rows["fault"].to_numpy(object)
        readable = np.flatnonzero(fault == "")
        row = np.full(len(fault), -1, dtype=np.int64)
        row[readable[new]] = np.arange(count, count + int(new.sum()))
        names = pd.DataFrame({"file": _file_name(file, path), "row": np.arange(len(row))})
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
        raise StoreError("holds no BP/RP spectra", path=path, remedy="give files with bp_flux, rp_flux …")
    table = identifiers.stacked([part.table[new] for part, new in zip(spectra, kept, strict=True)])
    dataset = from_xp(
        target, table, _samples(spectra, kept), spectra[0].wavelength, zooms, files, Funnel(),
        {**wanted, "split": None},
    )  # fmt: skip
    return ledger.given(dataset)


def _samples(spectra: Sequence[XpSpectra], kept: Sequence[NDArray[np.bool_]]) -> Samples:
    parts = [[array[new] for array in part.samples] for part, new in zip(spectra, kept, strict=True)]
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


# ----------------------------------------------------------------------------------------------------- images


def _of_images(path: Path, target: Path, size: int, zooms: Sequence[int], wanted: dict[str, Any]) -> Given:
    ledger = _Ledger()
    images = read_images(path if path.is_dir() else [path], size)
    ledger.add(_image_names(images.paths, path), np.arange(len(images)))
    _add_damaged(ledger, images, path, images.paths)
    table = images.table.assign(image=np.arange(len(images)))
    wanted = {**wanted, "split": None}
    return ledger.given(from_images(target, table, images, zooms, [], "images", Funnel(), wanted))


def _of_scene(path: Path, target: Path, size: int, zooms: Sequence[int], wanted: dict[str, Any]) -> Given:
    ledger = _Ledger()
    scene = read_scene(path, size, labels=False)
    row = np.full(len(scene.images), -1, dtype=np.int64)
    row[scene.table["image"]] = np.arange(len(scene.table))
    ledger.add(_image_names(scene.images.paths, path), row, "no-features", "no row of the table is its own")
    _add_damaged(ledger, scene.images, path, (*scene.images.paths, scene.features))
    lonely = np.setdiff1d(np.arange(scene.rows), scene.row)
    names = pd.DataFrame({"file": shown(scene.features.name), "row": lonely})
    ledger.add(names, np.full(len(lonely), -1, dtype=np.int64), "no-image", "no image is its own")
    wanted = {**wanted, "split": None}
    return ledger.given(from_images(target, scene.table, scene.images, zooms, [], "scene", Funnel(), wanted))


def _image_names(paths: Sequence[Path], root: Path) -> pd.DataFrame:
    files = [_file_name(path, root) for path in paths]
    return pd.DataFrame({"file": files, "name": [shown(path.stem) for path in paths]})


def _add_damaged(ledger: _Ledger, images: Images, root: Path, used: Sequence[Path]) -> None:
    """Add the images that cannot be read, and count the files that are no image and of no use."""
    damaged = [Path(path) for path in images.damaged]
    if damaged:
        said = [text.removeprefix(f"{path}: ").partition("; ")[0] for path, text in images.damaged.items()]
        row = np.full(len(damaged), -1, dtype=np.int64)
        ledger.add(_image_names(damaged, root), row, "damaged-image", said, status="rejected")
    ledger.count_others(root, [*used, *damaged])
