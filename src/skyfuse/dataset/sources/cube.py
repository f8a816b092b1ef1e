"""Cubes, and the survey files that one is built from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.cube.build import Reading, build, holds_only
from skyfuse.cube.contents import CubeImaging, CubeSpectroscopy
from skyfuse.cube.cutout import frame_wcs, pixel_to_sky, sky_to_pixel
from skyfuse.cube.query import Cube
from skyfuse.dataset import groups, select
from skyfuse.dataset.content import Content, Draft, Held
from skyfuse.dataset.labels import label_table, match_labels
from skyfuse.dataset.ledger import NONE, OTHERS, Ledger
from skyfuse.dataset.make import WARNING
from skyfuse.dataset.sources.protocol import Labels, Naming, Records
from skyfuse.dataset.tables import table_digest
from skyfuse.dataset.wanted import Wanted
from skyfuse.disk import sha256
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError, shown
from skyfuse.survey import mpajhu
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.records import Samples, SpectrumInfo
from skyfuse.survey.registry import reader_of
from skyfuse.words import DERIVED, SAMPLED, Progress, Sampled

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
    measures: ClassVar[bool] = True

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
        """Return every spectrum, and every object without one; frames and other files are counted beside."""
        ledger = Ledger(by="file")
        if (path / "cube.json").is_file():
            cube, rejects = Cube.open(path), []
            before = sum(cube.meta["rejected"].values())
            if before:
                ledger.others["files that the cube's build rejected"] = before
        else:
            reading = Reading(keep_unclassified=True, sigma=wanted.sigma)
            report = build([path], work / "sky.cube", grid=wanted.grid, reading=reading, progress=progress)
            cube, rejects = Cube.open(work / "sky.cube"), report.rejects
            if report.frames:
                ledger.others["frames"] = report.frames

        def account(table: pd.DataFrame) -> Ledger:
            _add_spectra(ledger, cube, wanted, table)
            _add_lonely(ledger, cube, wanted, table)
            told: dict[Path, dict[str, Any]] = {}
            for reject in rejects:
                file = Path(reject.path)
                if not _FITS_NAME.fullmatch(file.name):
                    ledger.others[OTHERS] += 1
                    continue
                # The ledger's message begins with the path, which is told already.
                said = reject.message.removeprefix(f"{reject.path}: ").partition("; ")[0]
                if file not in told:
                    # A file may hold thousands of records.
                    told[file] = _header_names(file)
                names = pd.DataFrame({"file": [shown(file.name)], **told[file]})
                ledger.add(names, NONE, reject.reason, said, status="rejected")
            return ledger

        read = " and ".join(name for name, one in wanted.named().items() if one.kind != "table") or "spectrum"
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
    reason, detail = _why_not(cube, wanted, own)
    if not wanted.every_spectrum:
        serves = _answering(cube, wanted, own)
        repeated = (serves != spectra["spectrum_id"].to_numpy()) & (row >= 0)
        row[repeated], reason[repeated] = -1, "repeat"
        detail[repeated] = "its object is answered by " + serves[repeated]
    columns = ["file", "spectrum_id", "object_id", "survey", "plate", "mjd", "fiberid", "ra", "dec"]
    names = spectra[columns].astype(dict.fromkeys(("plate", "mjd", "fiberid"), "Int64"))
    ledger.add(names, row, reason, detail)


def _add_lonely(ledger: Ledger, cube: Cube, wanted: Wanted, table: pd.DataFrame) -> None:
    """Add the objects of a cube that have no spectrum at all, which a table named."""
    lonely = cube.objects[~cube.objects["object_id"].isin(cube.spectra["object_id"])].reset_index(drop=True)
    if not len(lonely):
        return
    row_of = pd.Series(np.arange(len(table)), index=table["object_id"].to_numpy())
    row = np.array(row_of.reindex(lonely["object_id"]).fillna(-1), dtype=np.int64)
    reason, detail = _why_not(cube, wanted, lonely)
    if wanted.every_spectrum:
        reason[:], detail[:] = "no-spectrum", "it has no spectrum"
    ledger.add(lonely[["object_id", "source_id", "ra", "dec"]], row, reason, detail)


def _why_not(
    cube: Cube, wanted: Wanted, objects: pd.DataFrame
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Return why each object may have no answer, in a word and in words, where the dataset lacks it."""
    reason = np.full(len(objects), "no-valid-sample", dtype=object)
    detail = np.full(len(objects), "none of its samples is valid", dtype=object)
    for asked in reversed(wanted.named().values()):
        if asked.kind == "spectrum":
            instrument = cube.spectroscopy(asked.instrument).instrument
            missing = objects[f"spectrum_{instrument}"].isna().to_numpy()
            reason[missing], detail[missing] = "no-spectrum", f"it has no spectrum of {instrument}"
        elif asked.kind == "image":
            imaging = cube.imaging(asked.instrument)
            frames = [f"frame_{imaging.instrument}_{band}" for band in imaging.bands]
            dark = objects[frames].isna().to_numpy().all(axis=1)
            reason[dark], detail[dark] = "no-image", "no frame holds its place"
    return reason, detail


def _answering(cube: Cube, wanted: Wanted, objects: pd.DataFrame) -> NDArray[np.object_]:
    """Return the spectrum whose record stands for each object: the best of those that the model reads."""
    best = objects["spectrum_id"]
    for asked in wanted.named().values():
        if asked.kind == "spectrum":
            return (
                objects[f"spectrum_{cube.spectroscopy(asked.instrument).instrument}"]
                .fillna(best)
                .to_numpy(object)
            )
    return best.to_numpy(object)


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
        If a label column is missing, or the cube holds no arrays of an input's kind.
    """
    inputs = _inputs(cube, wanted)
    table = label_table(labels)
    if table is not None:
        table, label = select.with_label(table, wanted.label or mpajhu.LABEL)
        wanted = replace(wanted, label=label)
    elif wanted.label is not None:
        wanted = replace(wanted, label=select.find_column(cube.objects, wanted.label))
    rows = _Rows(cube, inputs, wanted.every_spectrum)
    kept = [input_ for input_ in inputs.values() if input_.zooms]
    request = {
        "cube": {"name": cube.path.name, "sha256": sha256(cube.path / "cube.json")},
        "labels": None if table is None else {"rows": len(table), "sha256": table_digest(table)},
        "inputs": {input_.name: [input_.kind, input_.instrument, *input_.zooms] for input_ in kept},
        **wanted.request(),
        "steps": {
            "flag_zero": wanted.flag_zero,
            "every_spectrum": wanted.every_spectrum,
            **wanted.strict,
        },
    }
    return Draft(wanted, request, lambda: _content(rows, wanted, table))


@dataclass(frozen=True)
class _CubeInput:
    """An input as a cube holds it."""

    name: str
    has: CubeImaging | CubeSpectroscopy
    zooms: tuple[int, ...]

    @property
    def kind(self) -> Sampled:
        return "image" if isinstance(self.has, CubeImaging) else "spectrum"

    @property
    def instrument(self) -> str:
        return self.has.instrument

    def held(self) -> Held:
        has = self.has
        if isinstance(has, CubeImaging):
            told = {"bands": [*has.bands], "size": has.size, "pixel_arcsec": has.pixel_arcsec}
            return Held("image", self.zooms, 0, {"instrument": has.instrument, **told, "unit": has.unit})
        centres = {zoom: has.grid.centres(zoom) for zoom in {0, *self.zooms}}
        told = {"grid": has.grid.name, "sizes": list(has.grid.sizes), "sigma": has.sigma}
        return Held(
            "spectrum", self.zooms, 0, {"instrument": has.instrument, **told, "unit": has.unit}, centres
        )


def _inputs(cube: Cube, wanted: Wanted) -> dict[str, _CubeInput]:
    """Return the inputs that are arrays, images first, and those that columns are measured on alone."""
    named = wanted.named([kind for kind in SAMPLED if cube.instruments_with(kind)])
    if not named:
        raise UsageError("nothing is asked of the cube", remedy="name inputs: image, spectrum, table")
    found: dict[str, _CubeInput] = {}
    for kind in SAMPLED:
        for name, asked in named.items():
            if asked.kind == kind:
                has = _held(cube, kind, asked.instrument)
                given = (wanted.zooms or {}).get(name, range(has.zooms))
                levels = tuple(sorted({int(zoom) for zoom in given}))
                if not levels or levels[0] < 0 or levels[-1] >= has.zooms:
                    raise UsageError(
                        f"zooms {list(levels)} of {name} are not in the cube",
                        remedy=f"choose of 0 to {has.zooms - 1}",
                    )
                found[name] = _CubeInput(name, has, levels)
    kinds = {input_.kind for input_ in found.values()}
    for kind in {DERIVED[name].modality for name in wanted.derive if name in DERIVED} - kinds:
        has = _held(cube, kind, wanted.measured.get(kind))
        found[f"{kind} of columns"] = _CubeInput(f"{kind} of columns", has, ())
    return found


def _held(cube: Cube, kind: Sampled, instrument: str | None) -> CubeImaging | CubeSpectroscopy:
    return cube.imaging(instrument) if kind == "image" else cube.spectroscopy(instrument)


class _Rows:
    """What of a cube becomes a row: each object, or each spectrum.

    Parameters
    ----------
    cube : Cube
    inputs : mapping of str to _CubeInput
    every_spectrum : bool
        A row for each spectrum of the instrument that the inputs name, or the only one.

    Attributes
    ----------
    table : DataFrame
        A row each.
    spectra : DataFrame
        To which labels are matched.
    what : str
        What the rows are.
    """

    def __init__(self, cube: Cube, inputs: Mapping[str, _CubeInput], every_spectrum: bool) -> None:
        self.cube = cube
        self.inputs = inputs
        self.every_spectrum = every_spectrum
        objects = cube.objects.reset_index(drop=True)
        self.table, self._object_row, self.spectra = objects, np.arange(len(objects)), cube.spectra
        self._spectrum_row = np.empty(0, np.int64)
        if every_spectrum:
            names = {one.instrument for one in inputs.values() if one.kind == "spectrum"}
            if len(names) > 1:
                raise UsageError(
                    f"rows cannot be the spectra of {' and '.join(sorted(names))} at once",
                    remedy="name one input of spectra, or take every_spectrum away",
                )
            instrument = cube.spectroscopy(*names).instrument
            self._spectrum_row = np.flatnonzero((cube.spectra["instrument"] == instrument).to_numpy())
            spectra = cube.spectra.iloc[self._spectrum_row].reset_index(drop=True)
            self.table, self._object_row = _spectra_as_objects(spectra, objects)
            self.spectra = self.table

    @property
    def what(self) -> str:
        return "spectra" if self.every_spectrum else "objects"

    def read(self, name: str, zoom: int, rows: NDArray[np.int64]) -> Samples:
        """Return the arrays of an input."""
        own = self.inputs[name]
        if own.kind == "spectrum" and self.every_spectrum:
            return self.cube.spectrum_samples(self._spectrum_row[rows], zoom)
        return self.cube.gather(own.kind, zoom, self._object_row[rows], own.instrument)

    def groups(self, table: pd.DataFrame) -> tuple[NDArray[np.int64], bool]:
        """Return the group of each row of a table, and whether the sky is crowded."""
        # Epochs of one object stand at one place, its own.
        one = table.drop_duplicates("object") if self.every_spectrum else table
        name = "object" if self.every_spectrum else "object_id"
        placed = self.cube.objects.set_index("object_id").loc[one[name], ["ra", "dec"]]
        kept = [input_.has for input_ in self.inputs.values() if input_.zooms]
        images = [has for has in kept if isinstance(has, CubeImaging)]
        widest = max(images, key=lambda has: has.size * has.pixel_arcsec, default=None)
        found, crowded = groups.sky_groups(
            one[name],
            placed["ra"],
            placed["dec"],
            size=0 if widest is None else widest.size,
            pixel_arcsec=groups.PIXEL_ARCSEC if widest is None else widest.pixel_arcsec,
            # Images of several instruments have no common orientation.
            angle=_frame_angles(self.cube, one, images[0]) if len(images) == 1 else None,
            # Cutouts share light where they share pixels.
            apart=0.0 if images and len(images) == len(kept) else groups.NEIGHBOUR_ARCSEC,
        )
        return pd.Series(found, index=one[name].to_numpy()).loc[table[name]].to_numpy(), crowded


def _content(source: _Rows, wanted: Wanted, labels: pd.DataFrame | None) -> Content:
    """Return the rows that have every input, joined with their labels."""
    meta: dict[str, Any] = {
        "source": {"reader": "cube", "every_spectrum": source.every_spectrum},
        "matched": None,
    }

    def group(table: pd.DataFrame) -> NDArray[np.int64]:
        found, meta["crowded"] = source.groups(table)
        return found

    kept = [name for name, input_ in source.inputs.items() if input_.zooms]
    present = _present(source, kept)
    held = f"with {' and '.join(kept) or 'any data'}"
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
        meta["matched"] = match.counts()
        rows = np.flatnonzero(present & (match.label_row >= 0))
        funnel.add(f"catalogue rows{match.remark()}", len(labels))
        funnel.add(f"{'spectrum' if source.every_spectrum else 'object'} in the cube {held}", len(rows))
        own = labels.iloc[match.label_row[rows]].reset_index(drop=True)
        table = _labelled(table.iloc[rows].reset_index(drop=True), own, wanted.label)
        flag = next((name for name in own.columns if str(name).upper() == mpajhu.FLAG), "")
    return Content(
        table=table,
        rows=rows.astype(np.int64),
        read=source.read,
        inputs={name: input_.held() for name, input_ in source.inputs.items()},
        funnel=funnel,
        group=group,
        meta=meta,
        flag=flag if wanted.flag_zero and flag in table else None,
        strict=wanted.strict,
    )


def _labelled(table: pd.DataFrame, own: pd.DataFrame, label: str | None) -> pd.DataFrame:
    """Return a table beside the rows of its labels, whose columns step aside where a name is taken."""
    clash = {str(name).lower() for name in table.columns} | {"group"}
    own.columns = pd.Index([f"label_{c}" if c != label and str(c).lower() in clash else str(c) for c in own])
    return pd.concat([table.drop(columns=label, errors="ignore"), own], axis=1)


def _spectra_as_objects(
    spectra: pd.DataFrame, objects: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return spectra as rows of their own, and the row of each one's object."""
    row_of = pd.Series(np.arange(len(objects)), index=objects["object_id"].to_numpy())
    object_row = row_of.loc[spectra["object_id"]].to_numpy()
    frames = [name for name in objects.columns if str(name).startswith(("frame_", "inside_"))]
    named = spectra.assign(object=spectra["object_id"], object_id=spectra["spectrum_id"])
    return pd.concat([named, objects[frames].iloc[object_row].reset_index(drop=True)], axis=1), object_row


def _present(source: _Rows, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows have a valid sample in each input: the coarsest zoom tells, and is small."""
    present = np.ones(len(source.table), dtype=bool)
    for first in range(0, len(present), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(present)))
        for name in names:
            coverage = source.read(name, source.inputs[name].has.zooms - 1, rows).coverage
            present[rows] &= (coverage > 0).reshape(len(rows), -1).any(axis=1)
    return present


def _frame_angles(cube: Cube, table: pd.DataFrame, imaging: CubeImaging) -> NDArray[np.float64]:
    """Return the angle from east to pixel axis of each object's frames (degrees), NaN if bands disagree."""
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
