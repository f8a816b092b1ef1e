"""Making a dataset: rows chosen and counted, quality measured, groups and split, arrays written in blocks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from skyfuse import disk, identifiers
from skyfuse.checksums import replace_covered, seal
from skyfuse.cube.cutout import frame_wcs, pixel_to_sky, sky_to_pixel
from skyfuse.dataset import features, groups, quality, select
from skyfuse.dataset import split as splitting
from skyfuse.dataset.arrays import UNITS, write_arrays, write_block
from skyfuse.dataset.labels import match_labels
from skyfuse.dataset.match import on_sky
from skyfuse.dataset.morphology import morphology
from skyfuse.disk import sha256
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.records import BANDS, Samples
from skyfuse.survey.tables import read_sfr, read_table
from skyfuse.words import DERIVED, SAMPLED, Progress, Sampled

if TYPE_CHECKING:
    from skyfuse.cube.query import Cube

Read = Callable[[Sampled, int, NDArray[np.int64]], Samples]
"""Arrays of one modality and zoom of some rows of the source."""

FORMAT = 3
"""Version of the folder's layout; `Dataset.open` refuses any other."""
TABLE, ARRAYS, META, SPLITS = "table.parquet", "arrays.h5", "dataset.json", "splits.json"
NOTHING_LEFT = "no object is left to use"
"""How the error begins where every object was dropped on the way."""

_BLOCK = 256
_FLAG, _WARNING = "FLAG", "zwarning"
# Columns of the cube's catalogues that mean nothing outside the cube.
_CUBE_ONLY = ("row", "tile", "file", "sha256", "good_fraction", "corners")
# Names by which catalogues call what names an object, best first; the first that is unique serves.
_IDS = ("object_id", "objid", "dr7objid", "source_id", "name", "galaxyid", "id")
# Names of positions in degrees.
_POSITIONS = (("ra", "dec"), ("radeg", "dedeg"), ("raj2000", "dej2000"), ("plug_ra", "plug_dec"))
_REDSHIFTS = ("z", "redshift")
# Bands whose frames are turned against each other by more than this have no common orientation.
_SAME_ANGLE_DEGREES = 0.2


@dataclass(frozen=True)
class Wanted:
    """What is asked of a dataset, whatever it is made from; see `skyfuse.dataset.Dataset.from_cube`."""

    label: str | None = None
    label_unit: str = ""
    label_definition: str = ""
    classes: Mapping[str, Sequence[str]] | None = None
    where: Mapping[str, Sequence[str | float | None]] | None = None
    columns: Sequence[str] = ()
    derive: Sequence[str] = ()
    split: splitting.SplitPlan | None = None

    def check(self) -> None:
        """Raise UsageError if no data could give it."""
        unknown = sorted(set(self.derive) - set(DERIVED))
        if unknown:
            raise UsageError(
                f"{', '.join(unknown)} cannot be derived",
                remedy=f"choose of {', '.join(DERIVED)}",
            )
        if self.split is not None:
            self.split.check()

    def request(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "label": self.label,
            "classes": {name: list(patterns) for name, patterns in (self.classes or {}).items()},
            "where": {name: list(values) for name, values in (self.where or {}).items()},
            "columns": list(self.columns),
            "derive": list(self.derive),
            "split": None if self.split is None else asdict(self.split),
        }


@dataclass
class Content:
    """Rows of a source on their way into a dataset.

    Attributes
    ----------
    table : DataFrame
        A row each.
    rows : ndarray of int64
        Position in the source of each row.
    read : callable
        Gives the arrays of such positions.
    zooms : dict
        Zooms by modality.
    finest : dict
        Finest zoom that the source can give, by modality: quality and lines are measured there.
    wavelengths : mapping
        Bin centres by zoom, Å, of the zooms to keep and of the finest.
    units : mapping
        Of value and sigma by modality.
    funnel : Funnel
        Steps so far.
    group : callable
        Gives the group of each row of a table that passed all steps.
    meta : dict
        Entries of dataset.json that the source alone knows.
    flag : str or None
        Column that must be 0 for a good label.
    strict : dict of str to bool
        Whether the steps of the original study apply, by name.
    """

    table: pd.DataFrame
    rows: NDArray[np.int64]
    read: Read
    zooms: dict[Sampled, tuple[int, ...]]
    finest: dict[Sampled, int]
    wavelengths: Mapping[int, NDArray[np.float64]]
    units: Mapping[Sampled, str]
    funnel: select.Funnel
    group: Callable[[pd.DataFrame], NDArray[np.int64]]
    meta: dict[str, Any]
    flag: str | None = None
    strict: dict[str, bool] = field(default_factory=dict)

    def keep(self, passes: NDArray[np.bool_]) -> None:
        """Drop the rows that do not pass."""
        self.table = self.table[passes].reset_index(drop=True)
        self.rows = self.rows[passes]


def plain(content: Any) -> Any:
    """Return content as it comes back from JSON: lists for tuples, text for keys."""
    return json.loads(json.dumps(content))


def make(
    path: Path, content: Content, wanted: Wanted, request: dict[str, Any], progress: Progress | None
) -> None:
    """Write a dataset of what a source holds and the call asks for."""
    funnel = content.funnel
    keep = np.ones(len(content.rows), dtype=bool)
    for name, passes in _row_steps(content, wanted):
        keep &= passes
        funnel.add(name, int(keep.sum()))
    content.keep(keep)
    if wanted.label is not None and wanted.classes:
        named = select.class_names(content.table[wanted.label], wanted.classes)
        content.table[wanted.label] = named.astype(str).astype(object)
    content.table = pd.concat([content.table, _measured(content, progress)], axis=1)
    keep = np.ones(len(content.rows), dtype=bool)
    for name, passes, applied in _strict_steps(content):
        funnel.add(name, int((keep & passes).sum()), applied=applied)
        if applied:
            keep &= passes
    content.keep(keep)
    if not len(content.rows):
        raise DataError(
            f"{NOTHING_LEFT}: " + " → ".join(f"{s.name} {s.count}" for s in funnel.steps),
            remedy="drop a step of the funnel, or take data with more objects",
        )
    funnel.add("used", len(content.rows))
    content.table = pd.concat([content.table, _derived(content, wanted.derive)], axis=1)
    columns = select.expand_columns(content.table, wanted.columns)
    splits = {}
    if wanted.label is not None and wanted.split is not None:
        group = pd.DataFrame({"group": content.group(content.table)})
        content.table = pd.concat([content.table.drop(columns="group", errors="ignore"), group], axis=1)
        splits["default"] = split = split_table(content.table, wanted.label, wanted.split)
        funnel.add(
            "in a part of the split (the others would part a group)", len(content.rows) - len(split.dropped)
        )
    meta = {
        "format": FORMAT,
        "skyfuse": version("skyfuse"),
        "request": request,
        "objects": len(content.rows),
        "label": None
        if wanted.label is None
        else {
            "name": wanted.label,
            "unit": wanted.label_unit,
            "definition": wanted.label_definition,
            "classes": list(wanted.classes or ()),
        },
        "funnel": funnel.to_json(),
        "modalities": {modality: list(levels) for modality, levels in content.zooms.items()},
        "table": {"columns": columns},
        "derived": {name: content.finest[DERIVED[name].modality] for name in wanted.derive},
        **content.meta,
    }
    _write(path, content, meta, splits, progress)


def split_table(table: pd.DataFrame, label: str, plan: splitting.SplitPlan) -> splitting.Split:
    """Return the split of a dataset's table, which has its groups."""
    values = None if plan.column is None else table[select.find_column(table, plan.column)]
    return splitting.make_split(
        table["object_id"], table["group"], table[label], plan, values=values, label_name=label
    )


def write_splits(path: Path, splits: Mapping[str, splitting.Split], ids: ArrayLike) -> None:
    """Write ``splits.json``."""
    content = disk.dumps({name: split.to_json(ids) for name, split in splits.items()})
    replace_covered(path, SPLITS, content.encode())


# ------------------------------------------------------------------------------------------------ from a cube


def cube_request(
    cube: Cube, labels: pd.DataFrame | None, wanted: Wanted, zooms: Mapping[Sampled, Sequence[int]]
) -> dict[str, Any]:
    """Return what names the sources and options of a dataset made from a cube."""
    return {
        "cube": {"name": cube.path.name, "sha256": sha256(cube.path / "cube.json")},
        "labels": None if labels is None else {"rows": len(labels), "sha256": table_digest(labels)},
        "modalities": {modality: list(levels) for modality, levels in zooms.items()},
        **wanted.request(),
    }


def cube_content(
    cube: Cube,
    labels: pd.DataFrame | None,
    label: str | None,
    zooms: dict[Sampled, tuple[int, ...]],
    *,
    every_spectrum: bool,
    flag_zero: bool,
    strict: dict[str, bool],
) -> Content:
    """Return the objects, or the spectra, of a cube that have every modality, joined with their labels."""
    objects = cube.objects.reset_index(drop=True)
    object_row = np.arange(len(objects))
    rows_table, spectra, what = objects, cube.spectra, "objects"
    if every_spectrum:
        rows_table, object_row = _spectra_as_objects(cube, objects)
        spectra, what = rows_table, "spectra"

    def read(modality: Sampled, zoom: int, rows: NDArray[np.int64]) -> Samples:
        if modality == "spectrum" and every_spectrum:
            return cube.spectrum_samples(rows, zoom)
        return cube.gather(modality, zoom, object_row[rows])

    described: dict[str, Any] = {
        "image": {"size": cube.image_size, "bands": BANDS, "pixel_arcsec": groups.PIXEL_ARCSEC},
        "spectrum": {"grid": cube.grid.name, "sizes": list(cube.grid.sizes)},
        "source": {"reader": "cube", "every_spectrum": every_spectrum},
        "matched": None,
    }

    def group(table: pd.DataFrame) -> NDArray[np.int64]:
        # Epochs of one object stand at one place, its own.
        one = table.drop_duplicates("object") if every_spectrum else table
        name = "object" if every_spectrum else "object_id"
        placed = objects.set_index("object_id").loc[one[name], ["ra", "dec"]]
        found, described["crowded"] = groups.sky_groups(
            one[name],
            placed["ra"],
            placed["dec"],
            size=cube.image_size if "image" in zooms else 0,
            angle=_frame_angles(cube.frames, one) if "image" in zooms else None,
            # Cutouts share light where they share pixels.
            apart=0.0 if [*zooms] == ["image"] else groups.NEIGHBOUR_ARCSEC,
        )
        return pd.Series(found, index=one[name].to_numpy()).loc[table[name]].to_numpy()

    present = _present(cube, read, len(rows_table), tuple(zooms))
    held = f"with {' and '.join(zooms) or 'any data'}"
    funnel = select.Funnel()
    rows = np.flatnonzero(present)
    table = rows_table[[name for name in rows_table.columns if name not in _CUBE_ONLY]]
    flag = _WARNING
    if labels is None:
        funnel.add(f"{what} in the cube", len(rows_table))
        funnel.add(held, len(rows))
        table = table.iloc[rows].reset_index(drop=True)
    else:
        match = match_labels(labels, rows_table, spectra, label)
        described["matched"] = match.counts()
        rows = np.flatnonzero(present & (match.label_row >= 0))
        funnel.add(f"catalogue rows{match.remark()}", len(labels))
        funnel.add(f"{'spectrum' if every_spectrum else 'object'} in the cube {held}", len(rows))
        own = labels.iloc[match.label_row[rows]].reset_index(drop=True)
        clash = {str(name).lower() for name in table.columns} | {"group"}
        own.columns = pd.Index(
            [f"label_{c}" if c != label and str(c).lower() in clash else str(c) for c in own]
        )
        table = table.drop(columns=label, errors="ignore").iloc[rows].reset_index(drop=True)
        table = pd.concat([table, own], axis=1)
        flag = next((name for name in own.columns if name.upper() == _FLAG), "")
    return Content(
        table=table,
        rows=rows.astype(np.int64),
        read=read,
        zooms=zooms,
        finest=dict.fromkeys(SAMPLED, 0),
        wavelengths={zoom: cube.grid.centres(zoom) for zoom in {0, *zooms.get("spectrum", ())}},
        units=UNITS,
        funnel=funnel,
        group=group,
        meta=described,
        flag=flag if flag_zero and flag in table else None,
        strict=strict,
    )


def _spectra_as_objects(cube: Cube, objects: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return the cube's spectra as rows of their own, and the row of each one's object."""
    spectra = cube.spectra.reset_index(drop=True)
    row_of = pd.Series(np.arange(len(objects)), index=objects["object_id"].to_numpy())
    object_row = row_of.loc[spectra["object_id"]].to_numpy()
    frames = [name for name in objects.columns if name.startswith(("frame_", "inside_"))]
    named = spectra.assign(object=spectra["object_id"], object_id=spectra["spectrum_id"])
    return pd.concat([named, objects[frames].iloc[object_row].reset_index(drop=True)], axis=1), object_row


def cube_zooms(
    cube: Cube, modalities: Sequence[str], zooms: Mapping[str, Sequence[int]] | None
) -> dict[Sampled, tuple[int, ...]]:
    """Return the zooms to keep of each modality of arrays.

    Raises
    ------
    UsageError
        If a modality or a zoom is not one of the cube's.
    """
    unknown = sorted((set(modalities) | set(zooms or {})) - {*SAMPLED, "table"})
    if unknown or not modalities:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} is no modality of a cube",
            remedy=f"choose of {', '.join(SAMPLED)}, table",
        )
    kept: dict[Sampled, tuple[int, ...]] = {}
    for modality in (known for known in SAMPLED if known in modalities):
        levels = tuple(sorted({int(zoom) for zoom in (zooms or {}).get(modality, range(cube.zooms))}))
        if not levels or levels[0] < 0 or levels[-1] >= cube.zooms:
            raise UsageError(
                f"zooms {list(levels)} of {modality} are not in the cube",
                remedy=f"choose of 0 to {cube.zooms - 1}",
            )
        kept[modality] = levels
    return kept


def _present(cube: Cube, read: Read, n: int, modalities: Sequence[Sampled]) -> NDArray[np.bool_]:
    """Return which rows have a valid sample in each modality: the coarsest zoom tells, and is small."""
    present = np.ones(n, dtype=bool)
    for first in range(0, n, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n))
        for modality in modalities:
            coverage = read(modality, cube.zooms - 1, rows).coverage
            present[rows] &= (coverage > 0).reshape(len(rows), -1).any(axis=1)
    return present


def _frame_angles(frames: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the angle from east to pixel axis of each object's frames (degrees), NaN if bands disagree."""
    angles = np.full((len(table), len(BANDS)), np.nan)
    cards = frames.set_index("frame_id")["wcs"]
    ra, dec = table["ra"].to_numpy(np.float64), table["dec"].to_numpy(np.float64)
    for b, band in enumerate(BANDS):
        for name, members in table.groupby(f"frame_{band}").indices.items():
            wcs = frame_wcs(str(cards[str(name)]))
            x, y = sky_to_pixel(wcs, ra[members], dec[members])
            # A step of 32 pixels, half a cutout, along the rows.
            ra_on, dec_on = pixel_to_sky(wcs, x + 32, y)
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


# ------------------------------------------------------------------------------------------------ from arrays


def arrays_request(
    table: pd.DataFrame,
    arrays: Mapping[tuple[Sampled, int], Samples | Callable[[NDArray[np.int64]], Samples]],
    wanted: Wanted,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what names the sources and options of a dataset made from arrays.

    What a function delivers is not read for this: the provenance names its files.
    """
    return {
        "table": {"rows": len(table), "sha256": table_digest(table)},
        "arrays": {
            f"{modality}/{zoom}": _samples_digest(source) if isinstance(source, Samples) else None
            for (modality, zoom), source in sorted(arrays.items())
        },
        "provenance": dict(provenance),
        **wanted.request(),
    }


def arrays_content(
    table: pd.DataFrame,
    arrays: Mapping[tuple[Sampled, int], Samples | Callable[[NDArray[np.int64]], Samples]],
    wavelengths: Mapping[int, NDArray[np.float64]],
    funnel: select.Funnel,
    *,
    columns: Sequence[str],
    apart: ArrayLike,
    image: Mapping[str, Any] | None,
    spectrum: Mapping[str, Any] | None,
    reader: str | None,
) -> Content:
    """Return the rows of a table with their arrays.

    Raises
    ------
    UsageError
        If a modality, its description or its wavelengths are missing, or lengths differ.
    DataError
        If the column ``object_id`` is there and not unique.
    """
    described: dict[Sampled, Mapping[str, Any] | None] = {"image": image, "spectrum": spectrum}
    zooms: dict[Sampled, tuple[int, ...]] = {}
    for modality, zoom in sorted(arrays):
        source = arrays[modality, zoom]
        if described.get(modality) is None or (modality == "spectrum" and zoom not in wavelengths):
            raise UsageError(
                f"what the arrays of {modality} at zoom {zoom} are is not told",
                remedy="describe image and spectrum, and give the wavelengths of every zoom",
            )
        if isinstance(source, Samples) and len(source.value) != len(table):
            raise UsageError(
                f"{modality} at zoom {zoom} has {len(source.value)} rows and the table {len(table)}",
                remedy="give one row for each object",
            )
        zooms[modality] = (*zooms.get(modality, ()), zoom)

    def read(modality: Sampled, zoom: int, rows: NDArray[np.int64]) -> Samples:
        source = arrays[modality, zoom]
        if isinstance(source, Samples):
            return Samples(source.value[rows], source.sigma[rows], source.coverage[rows])
        return source(rows)

    table = _identified(table)
    # By what the rows held before any was dropped.
    keys, names = _equal_keys(table, arrays, columns), _name_keys(table)
    reach = np.broadcast_to(np.asarray(apart, dtype=np.float64), len(table))
    row_of = pd.Series(np.arange(len(table)), index=table["object_id"].to_numpy())
    meta: dict[str, Any] = {
        **{str(name): dict(entry) for name, entry in described.items() if entry is not None},
        "source": {"reader": reader, "every_spectrum": False},
    }

    def group(kept: pd.DataFrame) -> NDArray[np.int64]:
        if "group" in table:
            return np.unique(kept["group"].astype(str), return_inverse=True)[1].astype(np.int64)
        rows = row_of.loc[kept["object_id"]].to_numpy()
        equal = [names[rows]]
        if not {"ra", "dec"} <= set(kept):
            return groups.equal_groups(len(kept), *equal, *([] if keys is None else [keys[rows]]))
        ra, dec = (kept[name].to_numpy(np.float64, na_value=np.nan) for name in ("ra", "dec"))
        placed = np.flatnonzero(on_sky(ra, dec))
        near = np.full(len(kept), -1, dtype=np.int64)
        near[placed], meta["crowded"] = groups.sky_groups(
            kept["object_id"].iloc[placed],
            ra[placed],
            dec[placed],
            size=0,
            apart=reach[rows[placed]],
        )
        found = groups.equal_groups(len(kept), *equal, near)
        found[placed[near[placed] < 0]] = -1
        return found

    units = {name: str(entry["unit"]) for name, entry in described.items() if entry and "unit" in entry}
    return Content(
        table=table,
        rows=np.arange(len(table)),
        read=read,
        zooms=zooms,
        finest={modality: min(levels) for modality, levels in zooms.items()},
        wavelengths=wavelengths,
        units=units,
        funnel=funnel,
        group=group,
        meta=meta,
    )


def position_names(table: pd.DataFrame) -> tuple[str, str] | None:
    """Return the columns of right ascension and declination in degrees, None where there are none."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    for ra, dec in _POSITIONS:
        if ra in lower and dec in lower:
            return lower[ra], lower[dec]
    return None


def _identified(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose rows have a unique object_id, and ra, dec if any column holds positions."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    added: dict[str, Any] = {}
    rows = pd.Series([f"row-{row:07d}" for row in range(len(table))], index=table.index)
    for own in (lower[name] for name in _IDS if name in lower):
        try:
            names = identifiers.as_text(table[own])
        except DataError:
            # Rounded numbers name nothing.
            names = pd.Series(None, index=table.index, dtype=object)
        known = names.notna()
        if known.any() and names[known].is_unique:
            written = pd.api.types.is_string_dtype(table[own])
            spelled = table[own].astype("string").str.strip() if written else names
            added["object_id"] = spelled.astype(object).where(known, rows).astype(str)
            break
        if own == "object_id":
            raise DataError(
                "the column object_id names rows twice, or not at all", remedy="name each row once"
            )
    else:
        added["object_id"] = rows
    placed = position_names(table)
    if placed is not None:
        degrees = [pd.to_numeric(table[name], errors="coerce") for name in placed]
        added |= dict(zip(("ra", "dec"), degrees, strict=True))
    return pd.concat([pd.DataFrame(added), table.drop(columns=[*added], errors="ignore")], axis=1)


def _equal_keys(
    table: pd.DataFrame,
    arrays: Mapping[tuple[Sampled, int], Samples | Callable[[NDArray[np.int64]], Samples]],
    columns: Sequence[str],
) -> NDArray[np.int64] | None:
    """Return a number for each row, equal where its inputs are, −1 where it has none.

    Its inputs are its columns, else its coarsest array.
    """
    inputs: list[str] = []
    for name in columns:
        # What is derived from the arrays is not there yet, and equal where they are.
        with suppress(DataError):
            inputs += select.expand_columns(table, [name])
    if inputs:
        numbers = np.stack([select.numbers(table, name) for name in inputs], axis=1)
    else:
        held = {zoom: source for (_, zoom), source in arrays.items() if isinstance(source, Samples)}
        if not held:
            return None
        numbers = held[max(held)].value.reshape(len(table), -1).astype(np.float64)
    keys = np.array([_row_key(row) for row in numbers], dtype=np.uint64)
    # Rows without a single value are not equal: nothing is known of them.
    unknown = ~np.isfinite(numbers).any(axis=1)
    codes = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    codes[unknown] = -1
    return codes


def _name_keys(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return a number for each row, equal where one identifier names them, −1 where that is not told."""
    lower = {str(name).lower(): str(name) for name in reversed(table.columns)}
    for own in (lower[name] for name in _IDS if name in lower and name != "object_id"):
        try:
            code = identifiers.codes(table[own])[0]
        except DataError:
            continue
        held = np.bincount(code[code >= 0], minlength=1)
        # What so many rows share is no object's name, but that of a survey or of nothing.
        if held.max() <= max(2, groups.LARGEST_GROUP * len(table)):
            return code
    return np.full(len(table), -1, dtype=np.int64)


def _row_key(row: NDArray[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")


# ----------------------------------------------------------------------------------------------------- labels


def label_table(labels: pd.DataFrame | str | Path | None) -> pd.DataFrame | None:
    """Return a table of labels given as such or as a file."""
    if labels is None:
        return None
    if isinstance(labels, pd.DataFrame):
        return storable(labels)
    if not isinstance(labels, str | Path):
        raise UsageError(
            f"a {type(labels).__name__} is no table of labels",
            remedy="give a DataFrame or the path of a table",
        )
    path = Path(labels)
    # The MPA-JHU rates come as two files of equal rows; their names are the catalogue's own.
    return read_sfr(path) if path.is_dir() or path.name.startswith("gal_") else read_table(path)


def storable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with native numbers, refused where Parquet could not hold it."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"the table has the column {twice[0]!r} more than once", remedy="keep one of them")
    columns: dict[Any, Any] = {}
    for name in table.columns:
        # Whole numbers with holes would become floats here, and are storable as they are.
        if isinstance(table[name].dtype, pd.api.extensions.ExtensionDtype):
            continue
        values = table[name].to_numpy()
        if values.dtype.kind == "O":
            # Python's integers beside None would be read again as floats.
            if pd.api.types.infer_dtype(values, skipna=True) == "integer":
                columns[name] = identifiers.identifiers(table[name])
                continue
            try:
                pa.array(values, from_pandas=True)
            except pa.ArrowException as error:
                if str(name).lower() in _IDS:
                    columns[name] = identifiers.as_text(table[name])
                    continue
                raise DataError(
                    f"the column {name!r} of the table mixes kinds of values ({error})",
                    remedy="make it all numbers or all text, or leave it out",
                ) from error
        # Tables read from FITS by other programs are often big-endian, which pandas cannot join.
        elif not values.dtype.isnative:
            columns[name] = values.astype(values.dtype.newbyteorder("="))
    return table.assign(**columns) if columns else table


def _row_steps(content: Content, wanted: Wanted) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the steps that the table alone decides."""
    table = content.table
    steps = select.where_steps(table, wanted.where or {})
    if wanted.label is not None:
        flag = None if content.flag is None else table[content.flag]
        if flag is not None and content.flag == _WARNING:
            # Not every survey's pipeline warns.
            flag = flag.fillna(0)
        steps += select.label_steps(table[wanted.label], flag, wanted.classes)
    return steps


# ------------------------------------------------------------------------------------------ quality, features


def _measured(content: Content, progress: Progress | None) -> pd.DataFrame:
    """Return the quality columns, measured at the finest zoom block by block."""
    in_bands = content.meta.get("image", {}).get("bands") == BANDS
    columns: dict[str, list[NDArray[Any]]] = {}
    measured = [m for m in content.zooms if m == "spectrum" or in_bands]
    for span in _blocks(content, measured):
        block = content.rows[span]
        found: dict[str, NDArray[Any]] = {}
        if "spectrum" in measured:
            gaps = np.isnan(content.read("spectrum", content.finest["spectrum"], block).value)
            found["nan_fraction"] = gaps.mean(axis=1)
            found["nan_runs"] = np.bincount(quality.runs(gaps)[0], minlength=len(block))
        if "image" in measured:
            images = content.read("image", content.finest["image"], block)
            red, error = quality.r_band(images.value), quality.r_band(images.sigma)
            found["image_valid"] = np.isfinite(images.value).reshape(len(block), -1).mean(axis=1)
            found["n_components"] = quality.bright_components(red)
            found["n_sources"] = quality.extracted_sources(red, error)
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        if progress is not None:
            progress(span.stop, len(content.rows), "quality")
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def _blocks(content: Content, modalities: Sequence[Sampled]) -> Iterator[slice]:
    """Yield blocks of rows whose arrays at the finest zoom fit into memory; none if no arrays are read."""
    rows = content.rows
    if not modalities or not len(rows):
        return iter(())
    first = [content.read(m, content.finest[m], rows[:1]).value.nbytes for m in modalities]
    return quality.blocks(len(rows), max(first))


def _strict_steps(content: Content) -> list[tuple[str, NDArray[np.bool_], bool]]:
    """Return the steps of the original study: their names, which rows pass, and whether they apply."""
    table, steps = content.table, []
    for column, name, wanted in (
        ("nan_fraction", "no NaN in the spectrum", 0),
        ("n_components", "one object in the cutout", 1),
    ):
        if column in table:
            steps.append((name, (table[column] == wanted).to_numpy(), content.strict.get(column, False)))
    return steps


def _derived(content: Content, names: Sequence[str]) -> pd.DataFrame:
    """Return the columns that are derived from the arrays, measured at the finest zoom block by block."""
    needed = sorted({DERIVED[name].modality for name in names})
    for modality in needed:
        if modality not in content.finest:
            raise DataError(
                f"{', '.join(names)} cannot be derived: the data has no {modality}", remedy="leave out derive"
            )
    z = _redshift(content.table) if "ew" in names else None
    columns: dict[str, list[NDArray[np.float64]]] = {}
    for block in _blocks(content, needed):
        values = {m: content.read(m, content.finest[m], content.rows[block]).value for m in needed}
        found: dict[str, NDArray[np.float64]] = {}
        if "spectrum" in values:
            flux, wavelength = values["spectrum"], content.wavelengths[content.finest["spectrum"]]
            if z is not None:
                widths = features.equivalent_widths(wavelength, flux, z[block])
                found |= dict(zip(features.EW_NAMES, widths.T, strict=True))
            if "indices" in names:
                indices = features.line_indices(wavelength, flux)
                found |= dict(zip(features.INDEX_NAMES, indices.T, strict=True))
        if "image" in values:
            found |= {f"morph_{name}": column for name, column in morphology(values["image"]).items()}
        for name, column in found.items():
            columns.setdefault(name, []).append(column)
    made = {name: np.concatenate(parts) for name, parts in columns.items()}
    return pd.DataFrame(made, index=content.table.index)


def _redshift(table: pd.DataFrame) -> NDArray[np.float64]:
    for name in _REDSHIFTS:
        if name in table:
            return select.numbers(table, name)
    raise DataError(
        "equivalent widths need a redshift, and the table has none",
        remedy=f"give a column {' or '.join(_REDSHIFTS)}",
    )


# ------------------------------------------------------------------------------------------------------- disk


def table_digest(table: pd.DataFrame) -> str:
    """Return the sha256 of a table's names and values."""
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        # Text, too, of whole numbers with holes, which an array of numbers would hold as floats.
        nullable = column.dtype.kind in "iub" and column.hasnans
        values = column.astype(object).astype(str) if column.dtype == object or nullable else column
        digest.update(f"{name}\n".encode())
        digest.update(pd.util.hash_array(values.to_numpy()).tobytes())
    return digest.hexdigest()


def _samples_digest(samples: Samples) -> str:
    digest = hashlib.sha256(repr([(part.shape, part.dtype.str) for part in samples]).encode())
    for part in samples:
        for block in quality.blocks(len(part), part[:1].nbytes):
            digest.update(np.ascontiguousarray(part[block]).data)
    return digest.hexdigest()


def _write(
    path: Path,
    content: Content,
    meta: dict[str, Any],
    splits: dict[str, splitting.Split],
    progress: Progress | None,
) -> None:
    """Write the files of a dataset; memory holds one block of objects."""
    rows, n = content.rows, len(content.rows)
    shapes: dict[tuple[Sampled, int], tuple[int, ...]] = {
        (modality, zoom): content.read(modality, zoom, rows[:1]).value.shape[1:]
        for modality, levels in content.zooms.items()
        for zoom in levels
    }
    wavelengths = {zoom: content.wavelengths[zoom] for zoom in content.zooms.get("spectrum", ())}
    largest = max((4 * int(np.prod(shape)) for shape in shapes.values()), default=0)
    with write_arrays(path / ARRAYS, n, shapes, wavelengths, content.units) as writer:
        for block in quality.blocks(n if shapes else 0, largest):
            for modality, zoom in shapes:
                samples = content.read(modality, zoom, rows[block])
                write_block(writer, modality, zoom, block.start, samples)
            if progress is not None:
                progress(block.stop, n, "arrays")
    with disk.replaced(path / TABLE) as temporary:
        content.table.to_parquet(temporary, index=False)
    if splits:
        write_splits(path, splits, content.table["object_id"])
    disk.write_json(path / META, meta)
    seal(path, {ARRAYS: writer.digest})


@contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` that takes its name when it is whole, held against a second maker.

    Raises
    ------
    StoreError
        If another process makes this dataset, or has just made it.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with disk.locked(partial, "dataset"):
            if path.exists():
                raise StoreError("was made meanwhile", remedy="run the same command again")
            try:
                # What a killed run left.
                for file in partial.iterdir():
                    file.unlink()
                yield partial
                partial.rename(path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except StoreError as error:
        if error.path in (None, partial):
            error.path = path
        raise
