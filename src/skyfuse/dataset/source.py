"""From whatever the user points at (a dataset, a cube, survey files, tables, images) to a dataset."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.cube.build import build, holds_only
from skyfuse.cube.query import Cube
from skyfuse.dataset import groups, select
from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.labels import match_identifiers
from skyfuse.dataset.make import position_names
from skyfuse.disk import names_file, sha256
from skyfuse.errors import DataError, FileError, StoreError, UsageError, shown
from skyfuse.survey.gaia import XpSpectra, read_xp
from skyfuse.survey.galaxyzoo import MORPHOLOGY, Images, read_images, read_votes
from skyfuse.survey.records import Samples
from skyfuse.survey.scene import read_scene
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import SAMPLED, Progress

Reader = Literal["cube", "table", "gaia-xp", "images", "scene"]
Read = Callable[[NDArray[np.int64]], Samples]

_GAIA_GRID = "gaia-xp"
_GAIA_UNIT = "electron/s"
_ANGSTROM_PER_NM = 10.0
# Names of tables; text files other than CSV count where they are pointed at, not where a folder is.
_TABLE_NAME = re.compile(r"(.+)\.(parquet|(csv|ecsv|fits?|vot|votable|npy)(\.gz|\.bz2)?)", re.IGNORECASE)
_ANNZ_NAME = re.compile(r".+\.(train|valid|test)")
_TEXT_NAME = re.compile(r"(.+)\.(txt|dat|asc|tsv)(\.gz|\.bz2)?", re.IGNORECASE)
_LABELS = "labels.csv"
# Columns that name Gaia's sources, best first.
_SOURCES = ("source_id", "dr3_source_id", "gaia_source_id", "gaiadr3", "gaiaedr3", "designation")
# Petrosian radii that tell the size of Galaxy Zoo's images.
_RADII = ("petror90_r", "petro_r90")


def open_source(
    paths: str | Path | Sequence[str | Path],
    work: Path,
    *,
    reader: Reader = "cube",
    label: str | None = None,
    labels: pd.DataFrame | Path | None = None,
    zooms: Mapping[str, Sequence[int]] | None = None,
    image_size: int | None = None,
    grid: str = "sdss",
    every_spectrum: bool = False,
    flag_zero: bool = True,
    complete_spectra: bool = False,
    single_objects: bool = False,
    progress: Progress | None = None,
    **wanted: Any,
) -> Dataset:
    """Open a dataset, or make one from what the reader reads.

    Parameters
    ----------
    paths : path or sequence of path
        One dataset, which is opened whatever the reader. Else for ``cube`` one cube, or files and folders of
        survey files, of which a cube is built; for ``table`` tables, which are put one below the other with a
        column ``source`` that names the file of each row; for ``gaia-xp`` files of BP/RP spectra; for
        ``images`` folders of colour images; for ``scene`` one scene folder.
    work : path
        Folder in which a cube (``sky.cube``) and a dataset (``dataset``) are made. A dataset that is there
        already, made from the same data with the same options, is used.
    reader : str
    label : str, optional
        Column of the label; without it the dataset has no label and no split.
    labels : DataFrame or path, optional
        Table with the labels. ``cube``: joined by spectrum or position. ``gaia-xp``: by ``source_id``; by
        default the first table among `paths` with that column and the label. ``images``: by name; by default
        ``labels.csv`` or the first table among `paths` with the label, else an image's class is the name of
        its folder.
    zooms : mapping of str to sequence of int, optional
        Zooms by modality, e.g. ``{"image": (2, 3), "spectrum": (3,)}``; the keys are the modalities. Zooms of
        images and Gaia spectra are means of blocks of 2^k.
    image_size : int, optional
        Rows and columns of colour images at zoom 0. JPEG states no uncertainty: their σ is NaN, their
        coverage 1.
    grid : str
        Wavelength grid of the cube that is built from files.
    every_spectrum, flag_zero, complete_spectra, single_objects
        See `Dataset.from_cube`; for cubes alone.
    progress : callable, optional
        ``(done, total, what)``.
    **wanted
        ``label_unit``, ``label_definition``, ``classes``, ``where``, ``columns``, ``derive``, ``split``: see
        `Dataset.from_cube`.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If a path does not exist.
    UsageError
        If the reader cannot give what is asked of it.
    DataError
        If the label, or any object with one, is missing.
    FileError
        If a table cannot be read.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for path in given:
        if not path.exists():
            raise StoreError(
                "does not exist", path=path, remedy="give a dataset, a cube or a folder of survey files"
            )
    if len(given) == 1 and (given[0] / "dataset.json").exists():
        return Dataset.open(given[0])
    wanted |= {"label": label, "progress": progress}
    target = work / "dataset"
    try:
        if reader == "cube":
            wanted |= {
                "labels": labels,
                "modalities": SAMPLED if zooms is None else tuple(zooms),
                "zooms": zooms,
                "every_spectrum": every_spectrum,
                "flag_zero": flag_zero,
                "complete_spectra": complete_spectra,
                "single_objects": single_objects,
            }
            return _open_cube(given, work, grid, wanted)
        levels = _levels(reader, zooms or {})
        if reader == "table":
            return _open_tables(given, target, labels, wanted)
        if reader == "gaia-xp":
            return _open_gaia(given, target, labels, levels.get("spectrum", [0]), wanted)
        if image_size is None:
            raise UsageError("colour images come in many sizes", remedy="set image_size, e.g. 224")
        if reader == "scene":
            return _open_scene(given, target, image_size, levels.get("image", []), wanted)
        return _open_images(given, target, labels, image_size, levels.get("image", []), wanted)
    except DataError as error:
        error.path = error.path or given[0]
        raise


def _open_cube(given: list[Path], work: Path, grid: str, wanted: dict[str, Any]) -> Dataset:
    cubes = [path for path in given if (path / "cube.json").exists()]
    if cubes and len(given) > 1:
        raise UsageError(
            "a cube cannot be joined with other data",
            path=cubes[0],
            remedy="give the files it was built from",
        )
    if not cubes:
        work.mkdir(parents=True, exist_ok=True)
        if not holds_only(work / "sky.cube", given):
            raise StoreError(
                "is a cube of other files too", path=work / "sky.cube", remedy="give another folder"
            )
        build(given, work / "sky.cube", grid=grid, progress=wanted["progress"])
    return Dataset.from_cube(Cube.open(cubes[0] if cubes else work / "sky.cube"), work / "dataset", **wanted)


def _levels(reader: Reader, zooms: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return the zooms of the arrays that a reader gives, in order."""
    levels = {name: sorted(set(numbers)) for name, numbers in zooms.items() if name != "table"}
    held = {"table": (), "gaia-xp": ("spectrum",)}.get(reader, ("image",))
    if set(levels) - set(held) or any(zoom < 0 for each in levels.values() for zoom in each):
        raise UsageError(
            f"the reader {reader!r} gives no {', '.join(levels)} at zooms {[*levels.values()]}",
            remedy=f"choose {' or '.join((*held, 'table'))}, and zooms of 0 and above",
        )
    return levels


# ----------------------------------------------------------------------------------------------------- tables


def _open_tables(
    given: list[Path], target: Path, labels: pd.DataFrame | Path | None, wanted: dict[str, Any]
) -> Dataset:
    if labels is not None:
        raise UsageError(
            "tables hold their labels themselves", remedy="give all tables as data, and no labels"
        )
    files = list(tables_in(given))
    if not files:
        raise StoreError("holds no table", path=given[0], remedy="give a CSV, FITS, Parquet or .npy table")
    parts: list[pd.DataFrame] = []
    missing: dict[str, dict[str, int]] = {}
    for path in files:
        part, counts = without_sentinels(read_table(path))
        missing |= {f"{path.name}: {column}": found for column, found in counts.items()}
        parts.append(part if "source" in part else part.assign(source=_stem(path)))
    funnel = select.Funnel()
    funnel.add("rows of the tables", sum(map(len, parts)))
    return Dataset.from_arrays(
        target,
        identifiers.stacked(parts),
        {},
        funnel=funnel,
        provenance={"reader": "table", "files": _digests(files), "sentinels": missing},
        **wanted,
    )


def tables_in(given: Sequence[Path]) -> Iterator[Path]:
    """Yield the tables that are pointed at, and those in the folders."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            if (_TABLE_NAME.fullmatch(file.name) or _ANNZ_NAME.fullmatch(file.name)) and names_file(file):
                yield file


def _stem(path: Path) -> str:
    named = _TABLE_NAME.fullmatch(path.name) or _TEXT_NAME.fullmatch(path.name)
    return named[1] if named else path.name


def _digests(files: Sequence[Path]) -> dict[str, str]:
    return {f"{number}: {shown(path.name)}": sha256(path) for number, path in enumerate(files)}


def _has(table: pd.DataFrame, label: str) -> bool:
    return label.lower() in {str(name).lower() for name in table.columns}


# ------------------------------------------------------------------------------------------------------- Gaia


def _open_gaia(
    given: list[Path],
    target: Path,
    labels: pd.DataFrame | Path | None,
    zooms: Sequence[int],
    wanted: dict[str, Any],
) -> Dataset:
    label = wanted["label"]
    files, others, spectra = [], [], []
    for path in tables_in(given):
        try:
            spectra.append(read_xp(path))
            files.append(path)
        except FileError as error:
            if error.reason != "wrong-columns":
                raise
            others.append(path)
    if not spectra:
        raise StoreError("holds no BP/RP spectra", path=given[0], remedy="give files with bp_flux, rp_flux …")
    table, samples, funnel = _joined(spectra)
    if isinstance(labels, Path):
        files.append(labels)
        labels = read_table(labels)
    elif labels is None and label is not None and not _has(table, label):
        for path in others:
            read = read_table(path)
            if _has(read, label) and _source_column(read) is not None:
                files.append(path)
                labels = read
                break
        else:
            raise DataError(
                f"no table of labels with source_id and {label!r} is among the files",
                path=given[0],
                remedy="give one with --labels",
            )
    if labels is not None:
        column = _source_column(labels) or select.find_column(labels, "source_id")
        own = without_sentinels(labels)[0]
        told = own[select.find_column(own, label)] if label is not None and _has(own, label) else None
        match = match_identifiers(table["source_id"], labels[column], told)
        rows = np.flatnonzero(match.label_row >= 0)
        held = {*table.columns, column}
        new = own[[name for name in own.columns if name not in held]].iloc[match.label_row[rows]]
        table = pd.concat([table.iloc[rows].reset_index(drop=True), new.reset_index(drop=True)], axis=1)
        samples = Samples(samples.value[rows], samples.sigma[rows], samples.coverage[rows])
        funnel.add(f"with a row in the table of labels{match.remark()}", len(table))
    return from_xp(target, table, samples, spectra[0].wavelength, zooms, files, funnel, wanted)


def from_xp(
    target: Path,
    table: pd.DataFrame,
    samples: Samples,
    nanometres: NDArray[np.float64],
    zooms: Sequence[int],
    files: Sequence[Path],
    funnel: select.Funnel,
    wanted: dict[str, Any],
) -> Dataset:
    """Make a dataset of BP/RP spectra, one for each row of the table."""
    return Dataset.from_arrays(
        target,
        table,
        {("spectrum", zoom): coarser(samples, zoom, 1) for zoom in zooms},
        spectrum={
            "grid": _GAIA_GRID,
            "sizes": [-(-len(nanometres) // 2**zoom) for zoom in range(max(zooms) + 1)],
            "unit": _GAIA_UNIT,
        },
        wavelengths={zoom: _ANGSTROM_PER_NM * _block_means(nanometres, zoom) for zoom in zooms},
        apart=groups.WINDOW_ARCSEC,
        funnel=funnel,
        provenance={"reader": "gaia-xp", "files": _digests(files)},
        **wanted,
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


# ----------------------------------------------------------------------------------------------------- images


def _open_images(
    given: list[Path],
    target: Path,
    labels: pd.DataFrame | Path | None,
    size: int,
    zooms: Sequence[int],
    wanted: dict[str, Any],
) -> Dataset:
    label = wanted["label"]
    found = [read_images(path, size) for path in given if path.is_dir()]
    if not found:
        raise StoreError("is no folder of images", path=given[0], remedy="give the folder")
    images = replace(
        found[0],
        paths=tuple(path for part in found for path in part.paths),
        damaged={name: said for part in found for name, said in part.damaged.items()},
    )
    tables: dict[Path | None, pd.DataFrame] = {}
    if isinstance(labels, Path):
        tables[labels] = labels_of(labels, label)
    elif labels is not None:
        tables[None] = labels
    elif label is not None:
        # labels.csv before any other table.
        for path in sorted(tables_in(given), key=lambda path: (path.name != _LABELS, path)):
            read = labels_of(path, label)
            if _has(read, label):
                tables[path] = read
    funnel = select.Funnel()
    funnel.add("images", len(images) + len(images.damaged))
    funnel.add("that can be read", len(images))
    files: list[Path] = []
    if tables:
        files, table, remark = _joined_images(images, tables, label)
        funnel.add(f"with a row in the table of labels{remark}", len(table))
    else:
        table = images.table.assign(image=np.arange(len(images)))
        if label is not None:
            if table["folder"].nunique() < 2:
                raise DataError(
                    f"no table with {label!r} is beside the images, nor are they sorted into folders",
                    path=given[0],
                    remedy="give one with --labels, or one folder for each class",
                )
            table = table.assign(**{label: table["folder"]})
    return from_images(target, table, images, zooms, files, "images", funnel, wanted)


def _joined_images(
    images: Images, tables: Mapping[Path | None, pd.DataFrame], label: str | None
) -> tuple[list[Path], pd.DataFrame, str]:
    """Join each image with the table in its folder or the nearest above it, else with the first one.

    Another folder's image is left out where that table's folder has one of the same name.
    """
    beside: dict[Path, Path | None] = {}
    for path in tables:
        if path is not None:
            beside.setdefault(path.resolve().parent, path)
    first = next(iter(tables))
    serves = [
        next((beside[folder] for folder in path.resolve().parents if folder in beside), first)
        if len(tables) > 1
        else first
        for path in images.paths
    ]
    parts, remarks = [], []
    for path in dict.fromkeys(serves):
        own = np.flatnonzero([path == served for served in serves])
        if path is not None:
            beneath = np.array([path.resolve().parent in images.paths[k].resolve().parents for k in own])
            named = {images.paths[k].stem for k in own[beneath]}
            # Of two images of one name the table means that of its own folder.
            own = own[beneath | np.array([images.paths[k].stem not in named for k in own])]
        some, whole = replace(images, paths=tuple(images.paths[k] for k in own)), tables[path]
        told = whole[select.find_column(whole, label)] if label is not None and _has(whole, label) else None
        try:
            match = match_identifiers(some.table["name"], some.naming(whole), told)
            part = some.join(without_sentinels(whole)[0], match.label_row)
            remarks.append(match.remark())
        except DataError as error:
            error.path = path
            raise
        parts.append(part.assign(image=own[part["image"].to_numpy()]))
    table = identifiers.stacked(parts).sort_values("image", ignore_index=True)
    return [path for path in dict.fromkeys(serves) if path is not None], table, "".join(remarks)


def labels_of(path: Path, label: str | None) -> pd.DataFrame:
    """Return a table of labels; of votes, with the class that they give."""
    table = read_table(path)
    if label is not None and label.lower() == MORPHOLOGY and not _has(table, label):
        try:
            return read_votes(path)
        except DataError:
            return table
    return table


def _open_scene(
    given: list[Path], target: Path, size: int, zooms: Sequence[int], wanted: dict[str, Any]
) -> Dataset:
    if len(given) != 1:
        raise UsageError(f"{len(given)} scene folders were given", remedy="give one")
    scene = read_scene(given[0], size)
    funnel = select.Funnel()
    funnel.add("images", len(scene.images) + len(scene.images.damaged))
    funnel.add("that can be read", len(scene.images))
    funnel.add("with features", len(scene.table))
    files = sorted(given[0].rglob("*.csv"))
    return from_images(target, scene.table, scene.images, zooms, files, "scene", funnel, wanted)


def from_images(
    target: Path,
    table: pd.DataFrame,
    images: Images,
    zooms: Sequence[int],
    files: Sequence[Path],
    reader: str,
    funnel: select.Funnel,
    wanted: dict[str, Any],
) -> Dataset:
    """Make a dataset of the images that the column ``image`` of the table counts."""
    row = table["image"].to_numpy(np.int64)
    table = table.drop(columns="image")
    content = [sha256(images.paths[k]) for k in row]
    if "group" not in table and position_names(table) is None:
        # The same picture under two names is one object.
        table = pd.concat([table, pd.DataFrame({"group": content})], axis=1)
    native = _Native(images, row)
    return Dataset.from_arrays(
        target,
        table,
        {("image", zoom): native.at(zoom) for zoom in zooms},
        image={"size": images.size, "bands": "rgb"},
        apart=_diagonals(table),
        funnel=funnel,
        provenance={
            "reader": reader,
            "files": _digests(files),
            "size": images.size,
            "images": hashlib.sha256("".join(content).encode()).hexdigest(),
        },
        **wanted,
    )


def _diagonals(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return how far each colour image reaches on the sky, from corner to corner, arcsec."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    found = np.full(len(table), groups.IMAGE_ARCSEC)
    radius = next((lower[name] for name in _RADII if name in lower), None)
    if radius is not None and pd.api.types.is_numeric_dtype(table[radius]):
        diagonal = groups.IMAGE_RADII * select.numbers(table, radius)
        # Larger ones are no galaxy's.
        known = (diagonal > 0) & (diagonal < 10 * groups.IMAGE_ARCSEC)
        found[known] = diagonal[known]
    return found


class _Native:
    """Images of the rows of a table; the last batch is kept, since every zoom reads it."""

    def __init__(self, images: Images, row: NDArray[np.int64]) -> None:
        self._images, self._row = images, row
        self._last: tuple[bytes, Samples] | None = None

    def at(self, zoom: int) -> Read:
        """Return the function that reads one zoom."""
        return lambda rows: coarser(self._read(rows), zoom, 2)

    def _read(self, rows: NDArray[np.int64]) -> Samples:
        key = rows.tobytes()
        if self._last is None or self._last[0] != key:
            value = self._images.load(self._row[rows])
            unknown = np.full_like(value, np.nan)
            self._last = key, Samples(value, unknown, np.ones(value.shape, np.float16))
        return self._last[1]


def coarser(samples: Samples, zoom: int, axes: int) -> Samples:
    """Return samples averaged over blocks of 2^zoom along the last axes.

    The value is the mean over the valid samples of the block, ``sigma = sqrt(Σ σ²) / n_valid`` (NaN where any
    is unknown), coverage the mean coverage; the last block of an axis may be partial.

    Parameters
    ----------
    samples : Samples
    zoom : int
        0 returns the samples themselves.
    axes : int
        1 for spectra, 2 for images.
    """
    if zoom == 0:
        return samples
    valid = np.isfinite(samples.value)
    number = _block_sums(valid.astype(np.float64), zoom, axes)
    held = np.maximum(number, 1)
    value = _block_sums(np.where(valid, samples.value, 0).astype(np.float64), zoom, axes) / held
    variance = _block_sums(np.where(valid, samples.sigma, 0).astype(np.float64) ** 2, zoom, axes)
    size = _block_sums(np.ones(samples.value.shape[-axes:]), zoom, axes)
    coverage = _block_sums(samples.coverage.astype(np.float64), zoom, axes) / size
    return Samples(
        np.where(number > 0, value, np.nan).astype(np.float32),
        np.where(number > 0, np.sqrt(variance) / held, np.nan).astype(np.float32),
        coverage.astype(np.float16),
    )


def _block_sums(values: NDArray[np.float64], zoom: int, axes: int) -> NDArray[np.float64]:
    for axis in range(values.ndim - axes, values.ndim):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], 2**zoom), axis=axis)
    return values
