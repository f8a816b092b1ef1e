"""Colour images, joined with tables of labels by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.cube.pyramid import image_levels
from skyfuse.dataset import groups, select
from skyfuse.dataset.content import Draft
from skyfuse.dataset.labels import match_identifiers
from skyfuse.dataset.ledger import Ledger
from skyfuse.dataset.sources.arrays import Material, Read, draft_of_arrays
from skyfuse.dataset.sources.files import digests, tables_in
from skyfuse.dataset.sources.protocol import Labels, Naming, Records, file_name
from skyfuse.dataset.sources.zooms import named_zooms
from skyfuse.dataset.wanted import Wanted
from skyfuse.disk import sha256
from skyfuse.errors import DataError, StoreError, UsageError, shown
from skyfuse.survey.colourimages import Images, read_images
from skyfuse.survey.galaxyzoo import MORPHOLOGY, read_votes
from skyfuse.survey.objecttable import position_names
from skyfuse.survey.records import Samples
from skyfuse.survey.sdss.objectid import field_number
from skyfuse.survey.tables import read_table, without_sentinels
from skyfuse.words import Progress

_LABELS = "labels.csv"
# Petrosian radii that tell the size of Galaxy Zoo's images.
_RADII = ("petror90_r", "petro_r90")


class ImageSource:
    """See `skyfuse.dataset.sources.protocol.Source`."""

    name: ClassVar[str] = "images"
    named: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Join images with labels by name.

        By default labels are those of ``labels.csv`` or the first table with the label, else an image's class
        is the name of its folder.
        """
        label = wanted.label
        shown_as = Shown.of(self.name, wanted)
        found = [read_images(path, shown_as.size) for path in paths if path.is_dir()]
        if not found:
            raise StoreError("is no folder of images", path=paths[0], remedy="give the folder")
        images = replace(
            found[0],
            paths=tuple(path for part in found for path in part.paths),
            damaged={name: said for part in found for name, said in part.damaged.items()},
        )
        funnel = select.Funnel()
        funnel.add("images", len(images) + len(images.damaged))
        funnel.add("that can be read", len(images))
        files: list[Path] = []
        tables = _tables_of_labels(paths, label, labels)
        if tables:
            files, table, remark = _joined_images(images, tables, label)
            funnel.add(f"with a row in the table of labels{remark}", len(table))
        else:
            table = images.table.assign(image=np.arange(len(images)))
            if label is not None:
                if table["folder"].nunique() < 2:
                    raise DataError(
                        f"no table with {label!r} is beside the images, nor are they sorted into folders",
                        path=paths[0],
                        remedy="give one with --labels, or one folder for each class",
                    )
                table = table.assign(**{label: table["folder"]})
        provenance = {"reader": self.name, "files": digests(files)}
        return draft_of_arrays(material_of_images(table, images, shown_as, provenance, funnel), wanted)

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every image."""
        ledger = Ledger()
        shown_as = Shown.of(self.name, wanted)
        images = read_images(path if path.is_dir() else [path], shown_as.size)
        ledger.add(image_names(images.paths, path), np.arange(len(images)))
        add_damaged(ledger, images, path, images.paths)
        table = images.table.assign(image=np.arange(len(images)))
        provenance = {"reader": self.name, "files": {}}
        material = material_of_images(table, images, shown_as, provenance, select.Funnel())
        return Records(draft_of_arrays(material, wanted), lambda _: ledger)


@dataclass(frozen=True)
class Shown:
    """How colour images become an input.

    Attributes
    ----------
    name : str
        Of the input.
    size : int
        Rows and columns at zoom 0.
    zooms : list of int
    """

    name: str
    size: int
    zooms: list[int]

    @classmethod
    def of(cls, reader: str, wanted: Wanted) -> Shown:
        """Return what is asked of colour images.

        Raises
        ------
        UsageError
            If the size is not told, or what is asked is no image.
        """
        name, zooms = named_zooms(reader, "image", wanted)
        if wanted.image_size is None:
            raise UsageError("colour images come in many sizes", remedy="set image_size, e.g. 224")
        return cls(name, wanted.image_size, zooms)


def _tables_of_labels(
    paths: Sequence[Path], label: str | None, labels: Labels
) -> dict[Path | None, pd.DataFrame]:
    """Return the tables in which images may find their labels."""
    tables: dict[Path | None, pd.DataFrame] = {}
    if isinstance(labels, Path):
        tables[labels] = labels_of(labels, label)
    elif labels is not None:
        tables[None] = labels
    elif label is not None:
        # labels.csv before any other table.
        for path in sorted(tables_in(paths), key=lambda path: (path.name != _LABELS, path)):
            read = labels_of(path, label)
            if select.has_column(read, label):
                tables[path] = read
    return tables


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
        told = (
            whole[select.find_column(whole, label)]
            if label is not None and select.has_column(whole, label)
            else None
        )
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
    if label is not None and label.lower() == MORPHOLOGY and not select.has_column(table, label):
        try:
            return read_votes(path)
        except DataError:
            return table
    return table


def material_of_images(
    table: pd.DataFrame,
    images: Images,
    shown_as: Shown,
    provenance: Mapping[str, object],
    funnel: select.Funnel,
) -> Material:
    """Return the images that the column ``image`` of a table counts, at some zooms."""
    row = table["image"].to_numpy(np.int64)
    table = table.drop(columns="image")
    content = [sha256(images.paths[k]) for k in row]
    if "group" not in table and position_names(table) is None:
        table = pd.concat([table, pd.DataFrame({"group": _groups(table["name"], content)})], axis=1)
    levels = _Levels(images, row, max(shown_as.zooms, default=0) + 1)
    return Material(
        table,
        {(shown_as.name, zoom): levels.at(zoom) for zoom in shown_as.zooms},
        {
            **provenance,
            "size": images.size,
            "images": hashlib.sha256("".join(content).encode()).hexdigest(),
        },
        {shown_as.name: {"kind": "image", "size": images.size, "bands": [*"rgb"]}},
        apart=_diagonals(table),
        funnel=funnel,
    )


def _groups(names: pd.Series, content: Sequence[str]) -> list[str]:
    """Return the group of each image without a position.

    The same picture under two names is one object, and objects that SDSS saw in one field may stand on each
    other's pictures.
    """
    fields = [field_number(name) for name in names.astype(str)]
    group = groups.equal_groups(len(content), pd.factorize(np.asarray(content))[0], fields)
    first: dict[int, str] = {}
    return [first.setdefault(number, digest) for number, digest in zip(group.tolist(), content, strict=True)]


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


class _Levels:
    """Zooms of the images of a table's rows; those of the last batch are kept, since every zoom is read."""

    def __init__(self, images: Images, row: NDArray[np.int64], levels: int) -> None:
        self._images, self._row, self._levels = images, row, levels
        self._last: tuple[bytes, list[Samples]] | None = None

    def at(self, zoom: int) -> Read:
        """Return the function that reads one zoom."""
        return lambda rows: self._read(rows)[zoom]

    def _read(self, rows: NDArray[np.int64]) -> list[Samples]:
        key = rows.tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, image_levels(self._images.load(self._row[rows]), None, self._levels)
        return self._last[1]


def image_names(paths: Sequence[Path], root: Path) -> pd.DataFrame:
    """Return what names images: the file under `root`, and its name without the ending."""
    files = [file_name(path, root) for path in paths]
    return pd.DataFrame({"file": files, "name": [shown(path.stem) for path in paths]})


def add_damaged(ledger: Ledger, images: Images, root: Path, used: Sequence[Path]) -> None:
    """Add the images that cannot be read, and count the files that are no image and of no use."""
    damaged = [Path(path) for path in images.damaged]
    if damaged:
        said = [text.removeprefix(f"{path}: ").partition("; ")[0] for path, text in images.damaged.items()]
        row = np.full(len(damaged), -1, dtype=np.int64)
        ledger.add(image_names(damaged, root), row, "damaged-image", said, status="rejected")
    ledger.count_others(root, [*used, *damaged])
