"""The dataset: one table, aligned arrays at every zoom, and frozen splits, in one folder."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse import disk
from skyfuse.checksums import damaged
from skyfuse.cube import layout
from skyfuse.dataset import features, make, quality, select
from skyfuse.dataset import split as splitting
from skyfuse.dataset.arrays import Arrays
from skyfuse.dataset.content import Draft, cut
from skyfuse.dataset.sources.arrays import Material, draft_of_arrays
from skyfuse.dataset.sources.cube import draft_of_cube
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.records import Samples
from skyfuse.words import MODALITIES, PARTS, Progress

if TYPE_CHECKING:
    from skyfuse.cube.query import Cube
    from skyfuse.dataset.tensors import TensorDataset

_AGAIN = "make the dataset anew from its source"


class Dataset:
    """Labelled objects with aligned arrays: `Dataset.open`, `Dataset.from_cube`, `Dataset.from_arrays`.

    Attributes
    ----------
    path : Path
        Folder.
    table : DataFrame
        Row i belongs to row i of every array: object_id, the columns of the source and of its label table,
        and ``nan_fraction`` and ``nan_runs`` of the spectrum at the finest zoom; of cutouts ``image_valid``
        (share of valid pixels), ``n_components`` and ``n_sources`` of the r band; ``group`` (rows of one
        group may not be parted; −1: in no part).
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
        # The table is always there.
        self._kinds = {"table": "table", **self.kinds}
        self._chosen_columns: tuple[tuple[str, ...], NDArray[np.float32]] | None = None
        self._arrays = Arrays(
            path / make.ARRAYS,
            len(table),
            {(name, zoom): self.kinds[name] for name, zooms in self.zooms.items() for zoom in zooms},
        )

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        zooms = ", ".join(f"{name} {list(levels)}" for name, levels in self.zooms.items())
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
        if not (path / make.META).is_file():
            raise StoreError(
                "is no dataset (it has no dataset.json)", path=path, remedy="give the folder of a dataset"
            )
        meta = disk.read_json(path / make.META)
        if meta.get("format") != make.FORMAT:
            raise StoreError(
                f"has format {meta.get('format')!r}, this version reads {make.FORMAT}",
                path=path / make.META,
                remedy=_AGAIN,
            )
        if differing := damaged(path, (make.META, make.TABLE, make.SPLITS)):
            raise StoreError(
                "holds files that are damaged or were changed: " + "; ".join(differing),
                path=path,
                remedy=_AGAIN,
            )
        table = disk.read_parquet(path / make.TABLE)
        _check_meta(path, meta, table)
        splits: dict[str, splitting.Split] = {}
        if (path / make.SPLITS).is_file():
            for name, entry in disk.read_json(path / make.SPLITS).items():
                splits[name] = splitting.Split.from_json(name, entry, table["object_id"])
        try:
            return cls(path, table, meta, splits)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"is malformed ({type(error).__name__}: {error})", path=path / make.META, remedy=_AGAIN
            ) from error

    @classmethod
    def from_cube(
        cls,
        cube: Cube,
        path: str | Path | None = None,
        wanted: Wanted | None = None,
        *,
        labels: pd.DataFrame | str | Path | None = None,
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
        wanted : Wanted, optional
            Inputs, label, rows, columns and split; by default all that the cube holds.
        labels : DataFrame or path, optional
            Table with the label, joined by plate, MJD and fibre of any spectrum of the object, else by
            position within 1″. Without it the label is a column of the cube's own index: class, subclass or
            z as the headers of the spectra state them.
        progress : callable, optional
            ``(done, total, what)``.

        Returns
        -------
        Dataset

        Raises
        ------
        UsageError
            If an input or a zoom is not one of the cube's, or the split is impossible.
        DataError
            If a label column is missing, no label matches, no object is left, or there are too few to split.
        StoreError
            If `path` holds something else already.
        """
        return cls.make(draft_of_cube(cube, wanted or Wanted(), labels), path, progress=progress)

    @classmethod
    def from_arrays(
        cls,
        material: Material,
        path: str | Path | None = None,
        wanted: Wanted | None = None,
        *,
        progress: Progress | None = None,
    ) -> Dataset:
        """Make a dataset of a table, colour images or spectra that no cube holds.

        Rows that may not be parted by a split share a group: by the column ``group`` if there is one, else
        those that one identifier names, and those close enough to share light, or (without positions) those
        of equal inputs.

        Parameters
        ----------
        material : Material
            The table and the arrays of its rows.
        path, wanted, progress
            As in `from_cube`.

        Returns
        -------
        Dataset

        Raises
        ------
        UsageError
            If arrays and table differ in length, or what the arrays are is not told.
        DataError, StoreError
            As in `from_cube`.
        """
        return cls.make(draft_of_arrays(material, wanted or Wanted()), path, progress=progress)

    @classmethod
    def make(
        cls, draft: Draft, path: str | Path | None = None, *, progress: Progress | None = None
    ) -> Dataset:
        """Make the dataset of a draft, or open the one that is there if it was asked for in the same words.

        Parameters
        ----------
        draft : Draft
            From a source of `skyfuse.dataset.sources`.
        path, progress
            As in `from_cube`.
        """
        draft.wanted.check()
        request = make.plain(draft.request)
        if path is None:
            folder = tempfile.mkdtemp(prefix="skyfuse-dataset-")
            try:
                dataset = cls.make(draft, Path(folder) / "dataset", progress=progress)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            weakref.finalize(dataset, _remove, folder, os.getpid())
            return dataset
        path = Path(path)
        if (path / make.META).is_file():
            present = cls.open(path)
            if present.meta.get("request") == request:
                return present
            raise StoreError(
                "is a dataset of another state of the data, of other labels or of other options",
                path=path,
                remedy="remove it or give another path",
            )
        if path.exists():
            raise StoreError(
                "is there already and is something else", path=path, remedy="remove it or give another path"
            )
        with make.reserved(path) as partial:
            make.make(partial, draft.gather(), draft.wanted, request, progress)
        return cls.open(path)

    # --------------------------------------------------------------------------------------------------- read

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each input by its name: ``image``, ``spectrum`` or ``table``."""
        return {name: str(self.meta["inputs"][name]["kind"]) for name in self.meta["order"]}

    @property
    def zooms(self) -> dict[str, tuple[int, ...]]:
        """Zooms of each input that is an array, by its name."""
        told = self.meta["inputs"]
        return {
            name: tuple(told[name]["zooms"]) for name in self.meta["order"] if self.kinds[name] != "table"
        }

    def cut(self, name: str, zoom: int) -> dict[str, Any]:
        """Return what decides how an input looks at a zoom, see `skyfuse.dataset.content.cut`."""
        return cut(self.meta["inputs"].get(name, {"kind": "table"}), zoom)

    @property
    def funnel(self) -> select.Funnel:
        """Steps from the label table to the objects used, with a count each."""
        return select.Funnel.from_json(self.meta["funnel"])

    def array(self, name: str, zoom: int) -> Samples:
        """Return an input's arrays, mapped read-only: images (n, bands, s, s), spectra (n, bins).

        Raises
        ------
        UsageError
            If the dataset does not hold them.
        """
        return self._arrays.samples(name, zoom)

    def batch(self, name: str, zoom: int, rows: ArrayLike) -> Samples:
        """Return the arrays of some objects in memory, their bytes announced to the kernel first."""
        chosen = self._rows(rows)
        return Samples(*self._arrays.gather([(name, zoom, part) for part in layout.COMPONENTS], chosen))

    def inputs(
        self,
        zooms: Mapping[str, int],
        rows: ArrayLike,
        *,
        columns: Sequence[str] = (),
        smooth: float = 0.0,
        sigma: bool = False,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the values of some objects for models: a float32 array an input, NaN where invalid.

        Parameters
        ----------
        zooms : mapping of str to int
            Zoom by input, e.g. ``{"image": 1, "spectrum": 3}``; that of the table is 0.
        rows : array of int
        columns : sequence of str
            Columns of the table, by name, as a difference ``a-b``, a logarithm ``log10(a)`` or a shell
            pattern; those that the dataset was made with by default.
        smooth : float
            Standard deviation in bins of the Gaussian that spectra are smoothed by; 0 leaves them.
        sigma : bool
            Add ``<input>_sigma`` for each input of spectra, their standard deviation.

        Raises
        ------
        UsageError
            If an array is not held, the table is asked for at another zoom than 0, or without columns.
        DataError
            If a column is missing or holds no numbers.
        """
        chosen = self._rows(rows)
        kinds = self._kinds
        keys = [(name, zoom, "value") for name, zoom in zooms.items() if kinds.get(name) != "table"]
        if sigma:
            keys += [(name, zoom, "sigma") for name, zoom in zooms.items() if kinds.get(name) == "spectrum"]
        gathered = dict(zip(keys, self._arrays.gather(keys, chosen), strict=True))
        out: dict[str, NDArray[np.float32]] = {}
        for name, zoom in zooms.items():
            kind = kinds.get(name)
            if kind == "table":
                out[name] = self._columns(zoom, columns)[chosen]
                continue
            out[name] = gathered[name, zoom, "value"]
            if kind == "spectrum" and smooth:
                out[name] = features.smooth(out[name], smooth)
            if kind == "spectrum" and sigma:
                error = gathered[name, zoom, "sigma"]
                out[f"{name}_sigma"] = features.smooth_sigma(error, smooth) if smooth else error
        return out

    def kind_of(self, name: str) -> str:
        """Return the kind of an input; what is none of them has none."""
        return self._kinds.get(name, "")

    def _columns(self, zoom: int, names: Sequence[str]) -> NDArray[np.float32]:
        """Return columns of the table side by side; the last choice is kept, since batches repeat it."""
        key = tuple(names) or tuple(self.meta["columns"])
        if zoom != 0 or not key:
            raise UsageError(
                f"the table was asked for at zoom {zoom} with {len(key)} columns",
                path=self.path,
                remedy="ask for zoom 0 and name columns",
            )
        if self._chosen_columns is None or self._chosen_columns[0] != key:
            expanded = select.expand_columns(self.table, key)
            values = np.empty((len(self), len(expanded)), dtype=np.float32)
            for number, name in enumerate(expanded):
                values[:, number] = self._single(name)
            self._chosen_columns = key, values
        return self._chosen_columns[1]

    def _single(self, name: str) -> NDArray[np.float32]:
        """Return a column as float32, refused where that cannot hold it."""
        values = select.numbers(self.table, name)
        beyond = np.isfinite(values) & (np.abs(values) > np.finfo(np.float32).max)
        if beyond.any():
            row = int(beyond.argmax())
            raise DataError(
                f"{name} of {self.table['object_id'].iloc[row]} is {values[row]:g}, beyond float32, in which "
                "models compute",
                remedy=f"mend or empty such cells, or use log10({name})",
                path=self.path,
            )
        return values.astype(np.float32)

    def matrix(
        self, zooms: Mapping[str, int], rows: ArrayLike, *, columns: Sequence[str] = (), smooth: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the values of some objects as scikit-learn takes them, inputs one after the other.

        Parameters
        ----------
        zooms, rows, columns, smooth
            As in `inputs`.

        Returns
        -------
        ndarray of float32, shape (n, features)
            NaN where invalid.
        """
        arrays = self.inputs(zooms, rows, columns=columns, smooth=smooth)
        return np.concatenate(
            [values.reshape(len(values), math.prod(values.shape[1:])) for values in arrays.values()], axis=1
        )

    def torch(
        self,
        zooms: Mapping[str, int],
        rows: ArrayLike,
        label: str | None = None,
        *,
        columns: Sequence[str] = (),
        smooth: float = 0.0,
    ) -> TensorDataset:
        """Return a ``torch.utils.data.Dataset`` of some objects.

        Parameters
        ----------
        zooms, rows, columns, smooth
            As in `inputs`.
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
        # What the dataset does not hold is told here, not in a worker.
        self.inputs(zooms, chosen[:1], columns=columns, smooth=smooth)
        return TensorDataset(self, zooms, chosen, values, columns=columns, smooth=smooth)

    def label(self, name: str | None = None) -> NDArray[Any]:
        """Return a column of the table for all objects, the dataset's label by default.

        Whole numbers with holes come as float64 with NaN or, where that would round them, as objects with
        None.

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
        column = self.table[select.find_column(self.table, name)]
        if column.dtype.kind in "iu" and column.hasnans:
            if (column.dropna().abs() <= 2**53).all():
                return column.to_numpy(np.float64, na_value=np.nan)
            return column.astype(object).where(column.notna(), None).to_numpy()
        return column.to_numpy()

    def wavelength(self, zoom: int, name: str | None = None) -> NDArray[np.float64]:
        """Return the bin centres of spectra at one zoom, Å, vacuum.

        Parameters
        ----------
        zoom : int
        name : str, optional
            Of the input; by default the first of spectra.
        """
        name = name or next((own for own, kind in self.kinds.items() if kind == "spectrum"), "spectrum")
        self._arrays.shape(name, zoom)
        return np.array(layout.map_array(self.path / make.ARRAYS, f"/{name}/{zoom}/wavelength"))

    # -------------------------------------------------------------------------------------------------- split

    def split(self, name: str = "default") -> dict[str, Any]:
        """Return a frozen split; where it has several rounds, the first.

        Returns
        -------
        dict
            Rows (int64) of ``train``, ``valid``, ``calibration`` and ``test``, and ``folds``, a list of
            arrays that partition ``train``.
        """
        return {**self.rounds(name)[0], "folds": list(self._split(name).folds)}

    def rounds(self, name: str = "default") -> list[dict[str, NDArray[np.int64]]]:
        """Return the parts of each cross-validation round of a split, one round where it has no others.

        Returns
        -------
        list of dict
            Rows (int64) of ``train``, ``valid``, ``calibration`` and ``test``.
        """
        return [dict(zip(PARTS, turn.parts(), strict=True)) for turn in self._split(name).rounds]

    def split_digest(self, name: str = "default") -> str:
        """Return the sha256 of a split, by which a model says what it was trained on."""
        return self._split(name).digest(self.table["object_id"])

    def make_split(
        self, name: str, plan: splitting.SplitPlan = splitting.DEFAULT, *, label: str | None = None
    ) -> dict[str, Any]:
        """Make a further split and freeze it under a name.

        Parameters
        ----------
        name : str
        plan : SplitPlan
        label : str, optional
            Column to stratify on, the dataset's label by default.

        Returns
        -------
        dict
            As from `split`.

        Raises
        ------
        StoreError
            If another split has that name.
        DataError
            If the dataset has no label or no groups, or the plan does not fit it.
        """
        column = (
            select.find_column(self.table, label)
            if label is not None
            else str((self.meta["label"] or {}).get("name", ""))
        )
        if "group" not in self.table or not column:
            raise DataError(
                "the dataset has no label or no groups",
                path=self.path,
                remedy="make it with labels and a split",
            )
        ids = self.table["object_id"]
        split = make.split_table(self.table, column, plan)
        if name not in self._splits:
            make.write_splits(self.path, self._splits | {name: split}, ids)
            self._splits[name] = split
        elif self._splits[name].digest(ids) != split.digest(ids):
            raise StoreError(
                f"the split {name!r} is frozen and differs", path=self.path, remedy="choose another name"
            )
        return self.split(name)

    # ------------------------------------------------------------------------------------------------ quality

    def nan_study(self, name: str) -> dict[int, quality.NanStudy]:
        """Return the gaps of an input's spectra at each zoom."""
        return {zoom: quality.nan_study(self.array(name, zoom).value, zoom) for zoom in self.zooms[name]}

    def multi_object_check(self) -> quality.MultiObjectCheck:
        """Return where threshold and source extraction disagree on cutouts with several objects.

        Raises
        ------
        DataError
            If the dataset holds no images in ugriz.
        """
        if "n_components" not in self.table:
            raise DataError(
                "the dataset holds no images in ugriz", path=self.path, remedy="make it with such an input"
            )
        return quality.multi_object_check(
            self.table["object_id"].to_numpy(dtype=str),
            self.table["n_components"].to_numpy(dtype=np.int64),
            self.table["n_sources"].to_numpy(dtype=np.int64),
        )

    def _numbers(self, name: str) -> NDArray[np.float32]:
        try:
            return self._single(name)
        except DataError as error:
            error.path = self.path
            raise

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
    inputs = meta.get("inputs")
    sound = (
        isinstance(inputs, dict)
        and all(_is_told(told) for told in inputs.values())
        and isinstance(meta.get("order"), list)
        and sorted(map(str, meta["order"])) == sorted(inputs)
        and isinstance(meta.get("funnel"), list)
        and all(isinstance(s, dict) and {"name", "count", "applied"} <= set(s) for s in meta["funnel"])
        and (meta.get("label", 0) is None or isinstance(meta.get("label"), dict))
        and isinstance(meta.get("columns"), list)
    )
    if not sound:
        raise StoreError("is malformed", path=path / make.META, remedy=_AGAIN)
    if meta.get("objects") != len(table) or "object_id" not in table:
        raise StoreError(
            f"does not hold the {meta.get('objects')} objects of dataset.json",
            path=path / make.TABLE,
            remedy=_AGAIN,
        )


def _is_told(told: Any) -> bool:
    """Tell whether an entry of dataset.json says what an input is."""
    if not isinstance(told, dict) or told.get("kind") not in MODALITIES:
        return False
    zooms = told.get("zooms")
    return told["kind"] == "table" or (isinstance(zooms, list) and all(type(z) is int for z in zooms))


def _remove(folder: str, process: int) -> None:
    # A forked worker has a copy of the object, whose end is not the end of the dataset.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
