"""The dataset: one table, aligned arrays at every zoom, and frozen splits, in one folder."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from skyfuse.cube import layout
from skyfuse.cube.cutout import frame_wcs
from skyfuse.dataset import quality, select
from skyfuse.dataset import split as splitting
from skyfuse.dataset.arrays import Arrays, Modality, write_arrays, write_block
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.records import BANDS, Samples
from skyfuse.survey.tables import read_sfr, read_table

if TYPE_CHECKING:
    from skyfuse.cube.query import Cube
    from skyfuse.dataset.tensors import TensorDataset

Progress = Callable[[int, int, str], None]

FORMAT = 1
"""Version of the folder's layout; `Dataset.open` refuses any other."""
MODALITIES: tuple[Modality, ...] = get_args(Modality)

_TABLE, _ARRAYS, _META, _SPLITS = "table.parquet", "arrays.h5", "dataset.json", "splits.json"
_BLOCK = 256
_FLAG = "FLAG"
# Columns of the cube's object catalogue that mean nothing outside the cube.
_CUBE_ONLY = ("row", "tile", "file", "sha256", "good_fraction", "corners")
# Bands whose frames are turned against each other by more than this have no common orientation.
_SAME_ANGLE_DEGREES = 0.2
_AGAIN = "make the dataset anew from its cube"


class Dataset:
    """Labelled objects with aligned arrays; open one with `Dataset.open`, make one with `Dataset.from_cube`.

    Attributes
    ----------
    path : Path
        Folder.
    table : DataFrame
        Row i belongs to row i of every array: object_id, ra, dec, plate, mjd, fiberid, the label table's
        columns, and ``nan_fraction`` and ``nan_runs`` of the spectrum at zoom 0, ``image_valid`` (share of
        valid pixels), ``n_components`` and ``n_sources`` of the r band, ``group`` (objects of one group
        share sky; −1: in no part).
    meta : dict
        Content of ``dataset.json``.
    """

    def __init__(
        self, path: Path, table: pd.DataFrame, meta: dict[str, Any], splits: dict[str, splitting.Split]
    ) -> None:
        self.path = path
        self.table = table
        self.meta = meta
        self._splits = splits
        self._arrays = Arrays(
            path / _ARRAYS, len(table), [(m, zoom) for m, zooms in self.zooms.items() for zoom in zooms]
        )

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        zooms = ", ".join(f"{modality} {list(levels)}" for modality, levels in self.zooms.items())
        return f"<Dataset {self.path.name}: {len(self)} objects, {zooms}>"

    def __reduce__(self) -> tuple[Callable[[Path], Dataset], tuple[Path]]:
        # Worker processes map the files themselves instead of receiving copies of the arrays.
        return Dataset.open, (self.path,)

    # ------------------------------------------------------------------------------------------ open and make

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset; nothing but its table and indexes is read.

        Raises
        ------
        StoreError
            If the folder is no dataset, is of another version, or a file in it is damaged or was changed.
        """
        path = Path(path)
        if not (path / _META).is_file():
            raise StoreError(
                "is no dataset (it has no dataset.json)", path=path, remedy="give the folder of a dataset"
            )
        meta = layout.read_json(path / _META)
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            found = meta.get("format") if isinstance(meta, dict) else None
            raise StoreError(
                f"has format {found!r}, this version reads {FORMAT}", path=path / _META, remedy=_AGAIN
            )
        try:
            table = pd.read_parquet(path / _TABLE)
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise StoreError(f"cannot be read ({error})", path=path / _TABLE, remedy=_AGAIN) from error
        _check_meta(path, meta, table)
        splits: dict[str, splitting.Split] = {}
        if (path / _SPLITS).is_file():
            stored = layout.read_json(path / _SPLITS)
            if not isinstance(stored, dict):
                raise StoreError("is malformed", path=path / _SPLITS, remedy=_AGAIN)
            for name, entry in stored.items():
                splits[name] = splitting.Split.from_json(name, entry, table["object_id"])
        return cls(path, table, meta, splits)

    @classmethod
    def from_cube(
        cls,
        cube: Cube,
        path: str | Path | None = None,
        *,
        labels: pd.DataFrame | str | Path | None = None,
        label: str = "AVG",
        label_unit: str = "",
        label_definition: str = "",
        modalities: Sequence[str] = MODALITIES,
        zooms: Mapping[str, Sequence[int]] | None = None,
        flag_zero: bool = True,
        complete_spectra: bool = False,
        single_objects: bool = False,
        fractions: Sequence[float] = splitting.FRACTIONS,
        folds: int = splitting.FOLDS,
        seed: int | None = 0,
        progress: Progress | None = None,
    ) -> Dataset:
        """Make a dataset of the objects of a cube.

        A dataset of the same cube and options that is there already is opened.

        Parameters
        ----------
        cube : Cube
        path : path, optional
            Folder to create. It appears when it is whole. Without it the dataset lies in a temporary folder
            and lasts as long as the object that is returned.
        labels : DataFrame or path, optional
            Table with the label, joined by plate, MJD and fibre of any spectrum of the object, else by
            position within 1″. Without it the dataset has no labels and no split, for prediction.
        label : str
            Its column.
        label_unit, label_definition : str
            For the record.
        modalities : sequence of str
            ``image``, ``spectrum`` or both; an object must have each of them.
        zooms : mapping of str to sequence of int, optional
            Zooms to keep by modality; all of the cube's by default.
        flag_zero : bool
            Keep only labels whose ``FLAG`` is 0, if the table has that column.
        complete_spectra, single_objects : bool
            Drop spectra with an invalid bin, and cutouts with several bright regions, as the original study
            did. Where they are off, the funnel tells how many objects they would leave.
        fractions : sequence of float
            Of training, validation and test part.
        folds : int
            Cross-validation folds of the training part.
        seed : int or None
            Of the split; None makes none.
        progress : callable, optional
            ``(done, total, what)``.

        Returns
        -------
        Dataset

        Raises
        ------
        UsageError
            If a modality or a zoom is not one of the cube's.
        DataError
            If a label column is missing, no label matches, no object is left, or there are too few to split.
        StoreError
            If `path` holds something else already.
        """
        if path is None:
            return cls._temporary(
                cube,
                labels=labels,
                label=label,
                label_unit=label_unit,
                label_definition=label_definition,
                modalities=modalities,
                zooms=zooms,
                flag_zero=flag_zero,
                complete_spectra=complete_spectra,
                single_objects=single_objects,
                fractions=fractions,
                folds=folds,
                seed=seed,
                progress=progress,
            )
        path = Path(path)
        kept = _zooms(cube, modalities, zooms)
        labels = _label_table(labels)
        column = None if labels is None else select.find_column(labels, label)
        request = {
            "cube": {"name": cube.path.name, "sha256": _file_digest(cube.path / "cube.json")},
            "labels": None if labels is None else {"rows": len(labels), "sha256": _table_digest(labels)},
            "label": column,
            "modalities": {modality: list(levels) for modality, levels in kept.items()},
            "steps": {
                "flag_zero": flag_zero,
                "complete_spectra": complete_spectra,
                "single_objects": single_objects,
            },
            "split": None
            if seed is None
            else {"fractions": [float(f) for f in fractions], "folds": folds, "seed": seed},
        }
        if (path / _META).is_file():
            present = cls.open(path)
            if present.meta.get("request") == request:
                return present
            raise StoreError(
                "is a dataset of another state of the cube, of other labels or of other options",
                path=path,
                remedy="remove it or give another path",
            )
        if path.exists():
            raise StoreError(
                "is there already and is something else", path=path, remedy="remove it or give another path"
            )

        rows, table, funnel, matched = _chosen(cube, labels, column, kept, flag_zero)
        found = _measure(cube, rows, kept, progress)
        table = pd.concat([table, found], axis=1)
        keep = np.ones(len(rows), dtype=bool)
        for applied, name, passes in _strict_steps(table, complete_spectra, single_objects):
            funnel.add(name, int((keep & passes).sum()), applied=applied)
            if applied:
                keep &= passes
        if not keep.any():
            raise DataError(
                "no object is left to use: " + " → ".join(f"{s.name} {s.count}" for s in funnel.steps),
                remedy="drop a step of the funnel, or take a cube with more objects that have "
                + " and ".join(kept),
            )
        rows, table = rows[keep], table[keep].reset_index(drop=True)
        funnel.add("used", len(rows))

        splits: dict[str, splitting.Split] = {}
        if column is not None and seed is not None:
            table["group"] = splitting.sky_groups(
                table["object_id"],
                table["ra"],
                table["dec"],
                size=cube.image_size if "image" in kept else 0,
                angle=_frame_angles(cube.frames, table) if "image" in kept else None,
            )
            splits["default"] = splitting.make_split(
                table["object_id"],
                table["group"],
                table[column],
                seed=seed,
                fractions=fractions,
                folds=folds,
                label_name=column,
            )
            funnel.add(
                "in a part of the split (the others have pixels on two sides)",
                int((table["group"] >= 0).sum()),
            )

        meta = {
            "format": FORMAT,
            "skyfuse": version("skyfuse"),
            "request": request,
            "objects": len(rows),
            "label": None
            if column is None
            else {"name": column, "unit": label_unit, "definition": label_definition},
            "matched": matched,
            "funnel": funnel.to_json(),
            "modalities": request["modalities"],
            "image": {"size": cube.image_size, "bands": BANDS, "pixel_arcsec": splitting.PIXEL_ARCSEC},
            "spectrum": {"grid": cube.grid.name, "sizes": list(cube.grid.sizes)},
        }
        _write(path, cube, rows, table, meta, splits, progress)
        return cls.open(path)

    @classmethod
    def _temporary(cls, cube: Cube, **options: Any) -> Dataset:
        """Make a dataset in a folder that goes away with it."""
        folder = tempfile.mkdtemp(prefix="skyfuse-dataset-")
        try:
            dataset = cls.from_cube(cube, Path(folder) / "dataset", **options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(dataset, _remove, folder, os.getpid())
        return dataset

    # --------------------------------------------------------------------------------------------------- read

    @property
    def zooms(self) -> dict[str, tuple[int, ...]]:
        """Zooms by modality."""
        return {modality: tuple(levels) for modality, levels in self.meta["modalities"].items()}

    @property
    def funnel(self) -> select.Funnel:
        """Steps from the label table to the objects used, with a count each."""
        return select.Funnel.from_json(self.meta["funnel"])

    def array(self, modality: str, zoom: int) -> Samples:
        """Return the arrays of all objects, mapped read-only: image (n, 5, s, s), spectrum (n, bins).

        Raises
        ------
        UsageError
            If the dataset does not hold them.
        """
        return self._arrays.samples(modality, zoom)

    def batch(self, modality: str, zoom: int, rows: ArrayLike) -> Samples:
        """Return the arrays of some objects in memory, their bytes announced to the kernel first."""
        chosen = self._rows(rows)
        return Samples(*self._arrays.gather([(modality, zoom, name) for name in layout.COMPONENTS], chosen))

    def inputs(self, zooms: Mapping[str, int], rows: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Return the values of some objects for models: a float32 array a modality, NaN where invalid.

        Parameters
        ----------
        zooms : mapping of str to int
            Zoom by modality, e.g. ``{"image": 1, "spectrum": 3}``.
        rows : array of int
        """
        chosen = self._rows(rows)
        values = self._arrays.gather([(modality, zoom, "value") for modality, zoom in zooms.items()], chosen)
        return dict(zip(zooms, values, strict=True))

    def matrix(self, zooms: Mapping[str, int], rows: ArrayLike) -> NDArray[np.float32]:
        """Return the values of some objects as scikit-learn takes them, modalities one after the other.

        Returns
        -------
        ndarray of float32, shape (n, features)
            NaN where invalid.
        """
        arrays = self.inputs(zooms, rows)
        return np.concatenate(
            [values.reshape(len(values), math.prod(values.shape[1:])) for values in arrays.values()], axis=1
        )

    def torch(self, zooms: Mapping[str, int], rows: ArrayLike, label: str | None = None) -> TensorDataset:
        """Return a ``torch.utils.data.Dataset`` of some objects.

        Parameters
        ----------
        zooms : mapping of str to int
            Zoom by modality.
        rows : array of int
        label : str, optional
            Column of numbers of the table; it becomes float32.

        Raises
        ------
        DataError
            If there is no such column, or it does not hold numbers.
        """
        from skyfuse.dataset.tensors import TensorDataset

        chosen = self._rows(rows)
        values = None if label is None else self._numbers(label)[chosen]
        for modality, zoom in zooms.items():
            self._arrays.shape(modality, zoom)
        return TensorDataset(self, zooms, chosen, values)

    def label(self, name: str | None = None) -> NDArray[Any]:
        """Return a column of the table for all objects, the dataset's label by default.

        Raises
        ------
        DataError
            If there is none of that name; the message names the nearest.
        """
        if name is None:
            if self.meta["label"] is None:
                raise DataError(
                    "the dataset has no label", path=self.path, remedy="make it with a label table"
                )
            name = str(self.meta["label"]["name"])
        return self.table[select.find_column(self.table, name)].to_numpy()

    def wavelength(self, zoom: int) -> NDArray[np.float64]:
        """Return the bin centres of the spectra at one zoom, Å, vacuum."""
        self._arrays.shape("spectrum", zoom)
        return np.array(layout.map_array(self.path / _ARRAYS, f"/spectrum/{zoom}/wavelength"))

    # -------------------------------------------------------------------------------------------------- split

    def split(self, name: str = "default") -> dict[str, Any]:
        """Return a frozen split.

        Returns
        -------
        dict
            Rows (int64) of ``train``, ``valid`` and ``test``, and ``folds``, a list of arrays that partition
            ``train``.
        """
        split = self._split(name)
        return {part: getattr(split, part) for part in splitting.PARTS} | {"folds": list(split.folds)}

    def split_digest(self, name: str = "default") -> str:
        """Return the sha256 of a split, by which a model says what it was trained on."""
        return self._split(name).digest(self.table["object_id"])

    def make_split(
        self,
        name: str,
        *,
        label: str | None = None,
        seed: int = 0,
        fractions: Sequence[float] = splitting.FRACTIONS,
        folds: int = splitting.FOLDS,
    ) -> dict[str, Any]:
        """Make a further split and freeze it under a name; see `skyfuse.dataset.split.make_split`.

        Raises
        ------
        StoreError
            If another split has that name.
        DataError
            If the dataset has no label or no groups.
        """
        column = (
            select.find_column(self.table, label)
            if label is not None
            else str((self.meta["label"] or {}).get("name", ""))
        )
        if "group" not in self.table or not column:
            raise DataError(
                "the dataset has no label or no sky groups",
                path=self.path,
                remedy="make it with labels and a seed",
            )
        ids = self.table["object_id"]
        split = splitting.make_split(
            ids,
            self.table["group"],
            self.table[column],
            seed=seed,
            fractions=fractions,
            folds=folds,
            label_name=column,
        )
        if name not in self._splits:
            _write_splits(self.path, self._splits | {name: split}, ids)
            self._splits[name] = split
        elif self._splits[name].digest(ids) != split.digest(ids):
            raise StoreError(
                f"the split {name!r} is frozen and differs", path=self.path, remedy="choose another name"
            )
        return self.split(name)

    # ------------------------------------------------------------------------------------------------ quality

    def nan_study(self) -> dict[int, quality.NanStudy]:
        """Return the gaps of the spectra at each zoom."""
        return {
            zoom: quality.nan_study(self.array("spectrum", zoom).value, zoom)
            for zoom in self.zooms.get("spectrum", ())
        }

    def multi_object_check(self) -> quality.MultiObjectCheck:
        """Return where threshold and source extraction disagree on cutouts with several objects.

        Raises
        ------
        DataError
            If the dataset holds no images.
        """
        if "n_components" not in self.table:
            raise DataError(
                "the dataset holds no images", path=self.path, remedy="make it with the image modality"
            )
        return quality.multi_object_check(
            self.table["object_id"].to_numpy(dtype=str),
            self.table["n_components"].to_numpy(dtype=np.int64),
            self.table["n_sources"].to_numpy(dtype=np.int64),
        )

    def _numbers(self, name: str) -> NDArray[np.float32]:
        values = self.label(name)
        if values.dtype.kind not in "fiub":
            raise DataError(
                f"the column {name!r} holds no numbers",
                path=self.path,
                remedy="give a column of numbers, or encode it",
            )
        return values.astype(np.float32)

    def _split(self, name: str) -> splitting.Split:
        if name not in self._splits:
            held = ", ".join(self._splits) or "none"
            raise DataError(
                f"has no split {name!r}", path=self.path, remedy=f"it has {held}; make one with make_split"
            )
        return self._splits[name]

    def _rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        chosen = np.asarray(rows)
        if chosen.size == 0:
            return np.empty(0, dtype=np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= len(self):
            raise UsageError(
                f"rows must be whole numbers from 0 to {len(self) - 1}",
                path=self.path,
                remedy="take them from split()",
            )
        return chosen.astype(np.int64, copy=False)


# ---------------------------------------------------------------------------------------------------- helpers


def _check_meta(path: Path, meta: dict[str, Any], table: pd.DataFrame) -> None:
    modalities = meta.get("modalities")
    sound = (
        isinstance(modalities, dict)
        and set(modalities) <= set(MODALITIES)
        and all(
            isinstance(z, list) and all(isinstance(level, int) for level in z) for z in modalities.values()
        )
        and isinstance(meta.get("funnel"), list)
        and all(isinstance(s, dict) and {"name", "count", "applied"} <= set(s) for s in meta["funnel"])
        and (meta.get("label", 0) is None or isinstance(meta.get("label"), dict))
    )
    if not sound:
        raise StoreError("is malformed", path=path / _META, remedy=_AGAIN)
    if meta.get("objects") != len(table) or "object_id" not in table:
        raise StoreError(
            f"does not hold the {meta.get('objects')} objects of dataset.json",
            path=path / _TABLE,
            remedy=_AGAIN,
        )


def _remove(folder: str, process: int) -> None:
    # A forked worker has a copy of the object, whose end is not the end of the dataset.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table_digest(table: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        values = column.astype(str) if column.dtype == object else column
        digest.update(f"{name}\n".encode())
        digest.update(pd.util.hash_array(values.to_numpy()).tobytes())
    return digest.hexdigest()


def _label_table(labels: pd.DataFrame | str | Path | None) -> pd.DataFrame | None:
    if labels is None:
        return None
    if isinstance(labels, pd.DataFrame):
        return _storable(labels)
    if not isinstance(labels, str | Path):
        raise UsageError(
            f"a {type(labels).__name__} is no table of labels",
            remedy="give a DataFrame or the path of a table",
        )
    path = Path(labels)
    # The MPA-JHU rates come as two files of equal rows; their names are the catalogue's own.
    return read_sfr(path) if path.is_dir() or path.name.startswith("gal_") else read_table(path)


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with native numbers, refused where Parquet could not hold it."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(
            f"the label table has the column {twice[0]!r} more than once", remedy="keep one of them"
        )
    columns = {}
    for name in table.columns:
        values = table[name].to_numpy()
        if values.dtype.kind == "O":
            try:
                pa.array(values, from_pandas=True)
            except pa.ArrowException as error:
                raise DataError(
                    f"the column {name!r} of the label table mixes kinds of values ({error})",
                    remedy="make it all numbers or all text, or leave it out",
                ) from error
        # Tables read from FITS by other programs are often big-endian, which pandas cannot join.
        elif not values.dtype.isnative:
            columns[name] = values.astype(values.dtype.newbyteorder("="))
    return table.assign(**columns) if columns else table


def _zooms(
    cube: Cube, modalities: Sequence[str], zooms: Mapping[str, Sequence[int]] | None
) -> dict[Modality, tuple[int, ...]]:
    unknown = sorted((set(modalities) | set(zooms or {})) - set(MODALITIES))
    if unknown or not modalities:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} is no modality", remedy=f"choose of {', '.join(MODALITIES)}"
        )
    kept = {}
    for modality in (known for known in MODALITIES if known in modalities):
        levels = tuple(sorted({int(zoom) for zoom in (zooms or {}).get(modality, range(cube.zooms))}))
        if not levels or levels[0] < 0 or levels[-1] >= cube.zooms:
            raise UsageError(
                f"zooms {list(levels)} of {modality} are not in the cube",
                remedy=f"choose of 0 to {cube.zooms - 1}",
            )
        kept[modality] = levels
    return kept


def _chosen(
    cube: Cube,
    labels: pd.DataFrame | None,
    column: str | None,
    kept: Mapping[Modality, Sequence[int]],
    flag_zero: bool,
) -> tuple[NDArray[np.int64], pd.DataFrame, select.Funnel, dict[str, Any] | None]:
    """Return the positions of the objects that pass the label steps, their table, and the funnel so far."""
    objects = cube.objects.reset_index(drop=True)
    funnel = select.Funnel()
    present = _present(cube, tuple(kept))
    table = objects[[name for name in objects.columns if name not in _CUBE_ONLY]]
    held = f"with {' and '.join(kept)}"
    if labels is None or column is None:
        funnel.add("objects in the cube", len(objects))
        funnel.add(held, int(present.sum()))
        rows, matched = np.flatnonzero(present), None
    else:
        match = select.match_labels(labels, objects, cube.spectra)
        matched = {"by": match.how, "matched": match.matched, "unmatched": match.unmatched}
        funnel.add("catalogue rows", len(labels))
        rows = np.flatnonzero(present & (match.label_row >= 0))
        funnel.add(f"object in the cube {held}", len(rows))
        own = labels.iloc[match.label_row[rows]].reset_index(drop=True)
        flag = (
            own[select.find_column(own, _FLAG)]
            if flag_zero and _FLAG in {str(c).upper() for c in own}
            else None
        )
        keep = np.ones(len(rows), dtype=bool)
        for name, passes in select.label_steps(own[column], flag):
            keep &= passes
            funnel.add(name, int(keep.sum()))
        rows, own = rows[keep], own[keep].reset_index(drop=True)
        clash = {str(name).lower() for name in table.columns} | {"group"}
        own.columns = pd.Index(
            [f"label_{c}" if c != column and str(c).lower() in clash else str(c) for c in own]
        )
        table = pd.concat(
            [table.drop(columns=column, errors="ignore").iloc[rows].reset_index(drop=True), own], axis=1
        )
        return rows.astype(np.int64), table, funnel, matched
    return rows.astype(np.int64), table.iloc[rows].reset_index(drop=True), funnel, matched


def _present(cube: Cube, modalities: Sequence[Modality]) -> NDArray[np.bool_]:
    """Return which objects have a valid sample in each modality: the coarsest zoom tells, and is small."""
    n = len(cube.objects)
    present = np.ones(n, dtype=bool)
    for first in range(0, n, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n))
        for modality in modalities:
            coverage = cube.gather(modality, cube.zooms - 1, rows).coverage
            present[rows] &= (coverage > 0).reshape(len(rows), -1).any(axis=1)
    return present


def _measure(
    cube: Cube, rows: NDArray[np.int64], kept: Mapping[Modality, Sequence[int]], progress: Progress | None
) -> pd.DataFrame:
    """Return the quality columns, measured at zoom 0 block by block."""
    columns: dict[str, list[NDArray[Any]]] = {}
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        found: dict[str, NDArray[Any]] = {}
        if "spectrum" in kept:
            gaps = np.isnan(cube.gather("spectrum", 0, block).value)
            found["nan_fraction"] = gaps.mean(axis=1)
            found["nan_runs"] = np.bincount(quality.runs(gaps)[0], minlength=len(block))
        if "image" in kept:
            images = cube.gather("image", 0, block)
            red, error = quality.r_band(images.value), quality.r_band(images.sigma)
            found["image_valid"] = np.isfinite(images.value).reshape(len(block), -1).mean(axis=1)
            found["n_components"] = quality.bright_components(red)
            found["n_sources"] = quality.extracted_sources(red, error)
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        if progress is not None:
            progress(min(first + _BLOCK, len(rows)), len(rows), "quality")
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def _strict_steps(
    table: pd.DataFrame, complete_spectra: bool, single_objects: bool
) -> list[tuple[bool, str, NDArray[np.bool_]]]:
    """Return the steps of the original study: whether they apply, their names, and which objects pass."""
    steps = []
    if "nan_fraction" in table:
        passes = (table["nan_fraction"] == 0).to_numpy()
        steps.append((complete_spectra, "no NaN in the spectrum", passes))
    if "n_components" in table:
        passes = (table["n_components"] == 1).to_numpy()
        steps.append((single_objects, "one object in the cutout", passes))
    return steps


def _frame_angles(frames: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the angle from east to pixel axis of each object's frames (degrees), NaN if bands disagree."""
    angles = np.full((len(table), len(BANDS)), np.nan)
    cards = frames.set_index("frame_id")["wcs"]
    ra, dec = table["ra"].to_numpy(np.float64), table["dec"].to_numpy(np.float64)
    for b, band in enumerate(BANDS):
        for name, members in table.groupby(f"frame_{band}").indices.items():
            wcs = frame_wcs(str(cards[str(name)]))
            x, y = wcs.wcs_world2pix(ra[members], dec[members], 0)
            # A step of 32 pixels, half a cutout, along the rows.
            ra_on, dec_on = wcs.wcs_pix2world(x + 32, y, 0)
            east = ((ra_on - ra[members] + 180) % 360 - 180) * np.cos(np.radians(dec[members]))
            angles[members, b] = np.degrees(np.arctan2(dec_on - dec[members], east))
    # A square looks the same after a quarter turn.
    turned = np.exp(4j * np.radians(angles))
    held = np.isfinite(angles)
    number = np.maximum(held.sum(axis=1), 1)
    mean = np.where(held, turned, 0).sum(axis=1) / number
    apart = np.where(held, np.abs(turned - mean[:, None]), 0).max(axis=1)
    known = held.any(axis=1) & (apart < 4 * np.radians(_SAME_ANGLE_DEGREES))
    return np.where(known, np.degrees(np.angle(mean)) / 4, np.nan)


def _write(
    path: Path,
    cube: Cube,
    rows: NDArray[np.int64],
    table: pd.DataFrame,
    meta: dict[str, Any],
    splits: dict[str, splitting.Split],
    progress: Progress | None,
) -> None:
    """Write the folder under a temporary name, renamed when whole; memory holds one block of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        kept: dict[Modality, list[int]] = meta["modalities"]
        shapes: dict[tuple[Modality, int], tuple[int, ...]] = {
            (modality, zoom): cube.gather(modality, zoom, rows[:1]).value.shape[1:]
            for modality, levels in kept.items()
            for zoom in levels
        }
        wavelengths = {zoom: cube.grid.centres(zoom) for zoom in kept.get("spectrum", [])}
        with write_arrays(partial / _ARRAYS, len(rows), shapes, wavelengths) as writer:
            for first in range(0, len(rows), _BLOCK):
                block = rows[first : first + _BLOCK]
                for modality, zoom in shapes:
                    write_block(writer, modality, zoom, first, cube.gather(modality, zoom, block))
                if progress is not None:
                    progress(min(first + _BLOCK, len(rows)), len(rows), "arrays")
        with layout.replaced(partial / _TABLE) as temporary:
            table.to_parquet(temporary, index=False)
        if splits:
            _write_splits(partial, splits, table["object_id"])
        layout.write_json(partial / _META, meta)
        # mkdtemp makes private folders; a dataset is as readable as its neighbours.
        partial.chmod(0o777 & ~_umask())
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_splits(path: Path, splits: Mapping[str, splitting.Split], ids: ArrayLike) -> None:
    layout.write_json(path / _SPLITS, {name: split.to_json(ids) for name, split in splits.items()})
