"""Cubes, and the survey files that one is built from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.cube.build import build, holds_only
from skyfuse.cube.cutout import frame_wcs, pixel_to_sky, sky_to_pixel
from skyfuse.cube.query import Cube
from skyfuse.dataset import groups, select
from skyfuse.dataset.arrays import UNITS
from skyfuse.dataset.content import Content, Draft, Read
from skyfuse.dataset.labels import label_table, match_labels
from skyfuse.dataset.ledger import NONE, OTHERS, Ledger
from skyfuse.dataset.make import WARNING
from skyfuse.dataset.sources.protocol import Labels, Naming, Records
from skyfuse.dataset.tables import table_digest
from skyfuse.dataset.wanted import Wanted
from skyfuse.disk import sha256
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError, shown
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.records import Samples, SpectrumInfo
from skyfuse.survey.registry import reader_of
from skyfuse.words import SAMPLED, Progress, Sampled

_SFR_LABEL = "AVG"
_FLAG = "FLAG"
_BLOCK = 256
_FITS_NAME = re.compile(r".+\.(fits?|fits?\.(gz|bz2|fz))", re.IGNORECASE)
# Columns of the cube's catalogues that mean nothing outside the cube.
_CUBE_ONLY = ("row", "tile", "file", "sha256", "good_fraction", "corners")
# Bands whose frames are turned against each other by more than this have no common orientation.
_SAME_ANGLE_DEGREES = 0.2


class CubeSource:
    """See `skyfuse.dataset.sources.protocol.Source`."""

    name: ClassVar[str] = "cube"
    named: ClassVar[bool] = False

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Open the one cube, or build one from all files."""
        cubes = [path for path in paths if (path / "cube.json").exists()]
        if cubes and len(paths) > 1:
            raise UsageError(
                "a cube cannot be joined with other data",
                path=cubes[0],
                remedy="give the files it was built from",
            )
        if not cubes:
            work.mkdir(parents=True, exist_ok=True)
            if not holds_only(work / "sky.cube", paths):
                raise StoreError(
                    "is a cube of other files too", path=work / "sky.cube", remedy="give another folder"
                )
            build(paths, work / "sky.cube", grid=wanted.grid, progress=progress)
        return draft_of_cube(Cube.open(cubes[0] if cubes else work / "sky.cube"), wanted, labels)

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every spectrum; frames and other files are counted beside them."""
        ledger = Ledger(by="file")
        if (path / "cube.json").is_file():
            cube, rejects = Cube.open(path), []
            before = sum(cube.meta["rejected"].values())
            if before:
                ledger.others["files that the cube's build rejected"] = before
        else:
            report = build(
                [path], work / "sky.cube", grid=wanted.grid, keep_unclassified=True, progress=progress
            )
            cube, rejects = Cube.open(work / "sky.cube"), report.rejects
            if report.frames:
                ledger.others["frames"] = report.frames

        def account(table: pd.DataFrame) -> Ledger:
            _add_spectra(ledger, cube, wanted, table)
            for reject in rejects:
                file = Path(reject.path)
                if not _FITS_NAME.fullmatch(file.name):
                    ledger.others[OTHERS] += 1
                    continue
                # The ledger's message begins with the path, which is told already.
                said = reject.message.removeprefix(f"{reject.path}: ").partition("; ")[0]
                names = pd.DataFrame({"file": [shown(file.name)], **_header_names(file)})
                ledger.add(names, NONE, reject.reason, said, status="rejected")
            return ledger

        read = " and ".join(name for name in wanted.inputs or () if name != "table") or "spectrum"
        nothing = DataError(
            f"none of its {len(cube.spectra)} spectra is of an object with {read}, which the model reads",
            path=path,
            remedy="give frames and spectra of the same objects, or a model that reads less",
        )
        return Records(draft_of_cube(cube, wanted, None), account, nothing)


def _add_spectra(ledger: Ledger, cube: Cube, wanted: Wanted, table: pd.DataFrame) -> None:
    """Add every spectrum of a cube, answered by a row of the dataset or marked with its reason."""
    spectra = cube.spectra.sort_values(["file", "spectrum_id"], ignore_index=True)
    row_of = pd.Series(np.arange(len(table)), index=table["object_id"].to_numpy())
    key = "spectrum_id" if wanted.every_spectrum else "object_id"
    row = np.array(row_of.reindex(spectra[key]).fillna(-1), dtype=np.int64)
    own = cube.objects.set_index("object_id").loc[spectra["object_id"]]
    dark = own[[name for name in own if str(name).startswith("frame_")]].isna().to_numpy().all(axis=1)
    dark &= "image" in (wanted.inputs or ())
    reason = np.where(dark, "no-image", "no-valid-sample").astype(object)
    detail = np.where(dark, "no frame holds its place", "none of its samples is valid").astype(object)
    if not wanted.every_spectrum:
        repeated = (own["spectrum_id"].to_numpy() != spectra["spectrum_id"].to_numpy()) & (row >= 0)
        row[repeated], reason[repeated] = -1, "repeat"
        detail[repeated] = "its object is answered by " + own["spectrum_id"].to_numpy(object)[repeated]
    columns = ["file", "spectrum_id", "object_id", "survey", "plate", "mjd", "fiberid", "ra", "dec"]
    names = spectra[columns].astype(dict.fromkeys(("plate", "mjd", "fiberid"), "Int64"))
    ledger.add(names, row, reason, detail)


def _header_names(file: Path) -> dict[str, Any]:
    """Return what a rejected file's header says that it is, where it does."""
    try:
        opened = SurveyFile(file)
        found = reader_of(opened).records(opened)
    except (SkyfuseError, OSError):
        return {}
    if len(found) != 1 or not isinstance(found[0], SpectrumInfo):
        return {}
    info = found[0]
    numbers_ = {name: pd.array([getattr(info, name)], dtype="Int64") for name in ("plate", "mjd", "fiberid")}
    texts = {name: [getattr(info, name)] for name in ("spectrum_id", "survey")}
    return {**texts, **numbers_, "ra": [info.ra], "dec": [info.dec]}


def draft_of_cube(cube: Cube, wanted: Wanted, labels: pd.DataFrame | str | Path | None) -> Draft:
    """Return the draft of a dataset of a cube's objects, or spectra.

    Raises
    ------
    UsageError
        If an input or a zoom is not one of the cube's.
    DataError
        If a label column is missing.
    """
    zooms = _zooms(cube, wanted)
    table = label_table(labels)
    if table is not None:
        table, label = select.with_label(table, wanted.label or _SFR_LABEL)
        wanted = replace(wanted, label=label)
    elif wanted.label is not None:
        wanted = replace(wanted, label=select.find_column(cube.objects, wanted.label))
    request = {
        "cube": {"name": cube.path.name, "sha256": sha256(cube.path / "cube.json")},
        "labels": None if table is None else {"rows": len(table), "sha256": table_digest(table)},
        "modalities": {modality: list(levels) for modality, levels in zooms.items()},
        **wanted.request(),
        "steps": {
            "flag_zero": wanted.flag_zero,
            "every_spectrum": wanted.every_spectrum,
            **wanted.strict,
        },
    }
    return Draft(
        wanted, request, lambda: _content(_Rows.of(cube, wanted.every_spectrum), wanted, table, zooms)
    )


def _zooms(cube: Cube, wanted: Wanted) -> dict[Sampled, tuple[int, ...]]:
    """Return the zooms to keep of each input that is an array."""
    zooms = wanted.zooms or {}
    inputs = wanted.inputs if wanted.inputs is not None else tuple(zooms) or SAMPLED
    unknown = sorted((set(inputs) | set(zooms)) - {*SAMPLED, "table"})
    if unknown or not inputs:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} is no modality of a cube",
            remedy=f"choose of {', '.join(SAMPLED)}, table",
        )
    kept: dict[Sampled, tuple[int, ...]] = {}
    for modality in (known for known in SAMPLED if known in inputs):
        count = _zooms_of(cube, modality)
        levels = tuple(sorted({int(zoom) for zoom in zooms.get(modality, range(count))}))
        if not levels or levels[0] < 0 or levels[-1] >= count:
            raise UsageError(
                f"zooms {list(levels)} of {modality} are not in the cube",
                remedy=f"choose of 0 to {count - 1}",
            )
        kept[modality] = levels
    return kept


def _zooms_of(cube: Cube, modality: Sampled) -> int:
    return (cube.imaging() if modality == "image" else cube.spectroscopy()).zooms


@dataclass(frozen=True)
class _Rows:
    """What of a cube becomes a row: each object, or each spectrum.

    Attributes
    ----------
    cube : Cube
    table : DataFrame
        A row each.
    object_row : ndarray of int64
        Row of each one's object in the cube.
    spectra : DataFrame
        To which labels are matched.
    every_spectrum : bool
    """

    cube: Cube
    table: pd.DataFrame
    object_row: NDArray[np.int64]
    spectra: pd.DataFrame
    every_spectrum: bool

    @classmethod
    def of(cls, cube: Cube, every_spectrum: bool) -> _Rows:
        objects = cube.objects.reset_index(drop=True)
        if not every_spectrum:
            return cls(cube, objects, np.arange(len(objects)), cube.spectra, False)
        table, object_row = _spectra_as_objects(cube, objects)
        return cls(cube, table, object_row, table, True)

    @property
    def what(self) -> str:
        return "spectra" if self.every_spectrum else "objects"

    def read(self, modality: Sampled, zoom: int, rows: NDArray[np.int64]) -> Samples:
        if modality == "spectrum" and self.every_spectrum:
            return self.cube.spectrum_samples(rows, zoom)
        return self.cube.gather(modality, zoom, self.object_row[rows])

    def groups(self, table: pd.DataFrame, modalities: Sequence[Sampled]) -> tuple[NDArray[np.int64], int]:
        """Return the group of each row of a table, and how many objects a crowded field costs."""
        # Epochs of one object stand at one place, its own.
        one = table.drop_duplicates("object") if self.every_spectrum else table
        name = "object" if self.every_spectrum else "object_id"
        placed = self.cube.objects.set_index("object_id").loc[one[name], ["ra", "dec"]]
        seen = "image" in modalities
        found, crowded = groups.sky_groups(
            one[name],
            placed["ra"],
            placed["dec"],
            size=self.cube.imaging().size if seen else 0,
            angle=_frame_angles(self.cube, one) if seen else None,
            # Cutouts share light where they share pixels.
            apart=0.0 if [*modalities] == ["image"] else groups.NEIGHBOUR_ARCSEC,
        )
        return pd.Series(found, index=one[name].to_numpy()).loc[table[name]].to_numpy(), crowded


def _content(
    source: _Rows, wanted: Wanted, labels: pd.DataFrame | None, zooms: dict[Sampled, tuple[int, ...]]
) -> Content:
    """Return the rows that have every input, joined with their labels."""
    cube = source.cube
    described: dict[str, Any] = {
        **_described(cube),
        "source": {"reader": "cube", "every_spectrum": source.every_spectrum},
        "matched": None,
    }

    def group(table: pd.DataFrame) -> NDArray[np.int64]:
        found, described["crowded"] = source.groups(table, tuple(zooms))
        return found

    present = _present(cube, source.read, len(source.table), tuple(zooms))
    held = f"with {' and '.join(zooms) or 'any data'}"
    funnel = select.Funnel()
    rows = np.flatnonzero(present)
    table = source.table[[name for name in source.table.columns if name not in _CUBE_ONLY]]
    flag = WARNING
    if labels is None:
        funnel.add(f"{source.what} in the cube", len(source.table))
        funnel.add(held, len(rows))
        table = table.iloc[rows].reset_index(drop=True)
    else:
        match = match_labels(labels, source.table, source.spectra, wanted.label)
        described["matched"] = match.counts()
        rows = np.flatnonzero(present & (match.label_row >= 0))
        funnel.add(f"catalogue rows{match.remark()}", len(labels))
        funnel.add(f"{'spectrum' if source.every_spectrum else 'object'} in the cube {held}", len(rows))
        own = labels.iloc[match.label_row[rows]].reset_index(drop=True)
        table = _labelled(table.iloc[rows].reset_index(drop=True), own, wanted.label)
        flag = next((name for name in own.columns if str(name).upper() == _FLAG), "")
    return Content(
        table=table,
        rows=rows.astype(np.int64),
        read=source.read,
        zooms=zooms,
        finest=dict.fromkeys(SAMPLED, 0),
        wavelengths={
            zoom: cube.spectroscopy().grid.centres(zoom)
            for zoom in {0, *zooms.get("spectrum", ())}
            if cube.instruments_with("spectrum")
        },
        units=UNITS,
        funnel=funnel,
        group=group,
        meta=described,
        flag=flag if wanted.flag_zero and flag in table else None,
        strict=wanted.strict,
    )


def _described(cube: Cube) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if cube.instruments_with("image"):
        imaging = cube.imaging()
        bands = "".join(imaging.bands)
        told["image"] = {"size": imaging.size, "bands": bands, "pixel_arcsec": imaging.pixel_arcsec}
    if cube.instruments_with("spectrum"):
        grid = cube.spectroscopy().grid
        told["spectrum"] = {"grid": grid.name, "sizes": list(grid.sizes)}
    return told


def _labelled(table: pd.DataFrame, own: pd.DataFrame, label: str | None) -> pd.DataFrame:
    """Return a table beside the rows of its labels, whose columns step aside where a name is taken."""
    clash = {str(name).lower() for name in table.columns} | {"group"}
    own.columns = pd.Index([f"label_{c}" if c != label and str(c).lower() in clash else str(c) for c in own])
    return pd.concat([table.drop(columns=label, errors="ignore"), own], axis=1)


def _spectra_as_objects(cube: Cube, objects: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return the cube's spectra as rows of their own, and the row of each one's object."""
    spectra = cube.spectra.reset_index(drop=True)
    row_of = pd.Series(np.arange(len(objects)), index=objects["object_id"].to_numpy())
    object_row = row_of.loc[spectra["object_id"]].to_numpy()
    frames = [name for name in objects.columns if name.startswith(("frame_", "inside_"))]
    named = spectra.assign(object=spectra["object_id"], object_id=spectra["spectrum_id"])
    return pd.concat([named, objects[frames].iloc[object_row].reset_index(drop=True)], axis=1), object_row


def _present(cube: Cube, read: Read, n: int, modalities: Sequence[Sampled]) -> NDArray[np.bool_]:
    """Return which rows have a valid sample in each modality: the coarsest zoom tells, and is small."""
    present = np.ones(n, dtype=bool)
    for first in range(0, n, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n))
        for modality in modalities:
            coverage = read(modality, _zooms_of(cube, modality) - 1, rows).coverage
            present[rows] &= (coverage > 0).reshape(len(rows), -1).any(axis=1)
    return present


def _frame_angles(cube: Cube, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the angle from east to pixel axis of each object's frames (degrees), NaN if bands disagree."""
    imaging = cube.imaging()
    angles = np.full((len(table), len(imaging.bands)), np.nan)
    cards = cube.frames.set_index("frame_id")["wcs"]
    ra, dec = table["ra"].to_numpy(np.float64), table["dec"].to_numpy(np.float64)
    for b, band in enumerate(imaging.bands):
        for name, members in table.groupby(f"frame_{imaging.instrument}_{band}").indices.items():
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
