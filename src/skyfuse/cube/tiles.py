"""Tiles: the plan that shares the sky among independent tasks, and the task that builds one tile."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from skyfuse.checksums import read_stamped, stamped
from skyfuse.cube.cutout import cut_frame, place
from skyfuse.cube.grid import SpectralGrid, grid_named, healpix29
from skyfuse.cube.layout import COMPONENTS, FORMAT, TILE_ORDER, VERSION, ArrayWriter, create_arrays, tile_path
from skyfuse.cube.pyramid import image_levels, spectrum_levels
from skyfuse.cube.scan import (
    MATCH_ARCSEC,
    FrameSource,
    ObjectSource,
    Reject,
    Scan,
    Source,
    SpectrumSource,
    Stamp,
    records_of,
    unexpected,
)
from skyfuse.disk import json_sha256, write_json
from skyfuse.errors import FileError, StoreError, shown
from skyfuse.sphere import chord, unit_vectors
from skyfuse.survey.fits import Scratch
from skyfuse.survey.noise import FORMAL, NoiseModel, noise_model
from skyfuse.survey.reader import Options, Reader
from skyfuse.survey.records import Frame, FrameInfo, Imaging, Instrument, Samples, Spectrum
from skyfuse.survey.registry import reader_named

DEEPEST_ORDER = 11

# Cutouts of so many objects are in memory at a time (0.7 MB with their zooms and uncertainties).
_BATCH = 16

# Blocks of the coarsest zoom in the rows of a frame that are made and written at a time, so that they stay in
# the processor's cache.
_STRIP = 16

_SAMPLE_BYTES = sum(dtype.itemsize for dtype in COMPONENTS.values())
# All zooms of an image together, in native ones.
_PYRAMID = 4 / 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the whole cube has in common.

    Attributes
    ----------
    instruments : tuple of Instrument
        Of all frames and spectra.
    grids : tuple of (str, str)
        Wavelength grid of each instrument that has spectra.
    keep_unclassified : bool
        Spectra without the pipeline's class and redshift count as whole.
    noise : tuple of (str, str)
        Noise model by which σ of each instrument's spectra is told; of others it is formal.
    """

    instruments: tuple[Instrument, ...]
    grids: tuple[tuple[str, str], ...]
    keep_unclassified: bool = False
    noise: tuple[tuple[str, str], ...] = ()

    def instrument(self, name: str) -> Instrument:
        """Return an instrument by its name."""
        return next(one for one in self.instruments if one.name == name)

    def imaging(self, name: str) -> Imaging:
        """Return what the images of an instrument have in common."""
        imaging = self.instrument(name).imaging
        if imaging is None:
            raise TypeError(f"{name} delivers images and says nothing of them")
        return imaging

    def grid(self, name: str) -> SpectralGrid:
        """Return the wavelength grid of an instrument."""
        return grid_named(dict(self.grids)[name])

    def only(self, names: Container[str]) -> Setup:
        """Return what some instruments need: a tile does not change with those of other tiles."""
        return Setup(
            tuple(one for one in self.instruments if one.name in names),
            tuple((name, grid) for name, grid in self.grids if name in names),
            self.keep_unclassified,
            tuple((name, model) for name, model in self.noise if name in names),
        )

    def noise_model(self, name: str) -> NoiseModel | None:
        """Return the noise model of an instrument's spectra; None where their σ is formal."""
        return noise_model(name) if name in dict(self.noise) else None


@dataclass(frozen=True, slots=True)
class TilePlan:
    """All that one tile task needs to know.

    Attributes
    ----------
    out : str
        Folder of the cube.
    tile : str
        HEALPix order and NESTED pixel, ``"6/12345"``.
    setup : Setup
        Of the instruments whose data the tile holds.
    frames : tuple of FrameSource
        Frames whose centre lies in the tile: it stores them.
    foreign : tuple of FrameSource
        Frames of other tiles that may hold objects of this one: it only cuts from them.
    objects : tuple of tuple of SpectrumSource or ObjectSource
        The spectra of each object, then the rows of tables that name it.
    """

    out: str
    tile: str
    setup: Setup
    frames: tuple[FrameSource, ...]
    foreign: tuple[FrameSource, ...]
    objects: tuple[tuple[SpectrumSource | ObjectSource, ...], ...]

    @property
    def records(self) -> int:
        """Number of records that the tile stores."""
        return len(self.frames) + sum(map(len, self.objects))

    @property
    def files(self) -> set[Stamp]:
        """Files that the tile is made from."""
        sources: list[Source] = [
            *self.frames,
            *self.foreign,
            *(one for group in self.objects for one in group),
        ]
        return {source.file for source in sources}

    def fingerprint(self) -> str:
        """Return a hash of all that decides the tile's bytes."""
        content = asdict(self) | {"out": "", "format": FORMAT, "skyfuse": VERSION}
        return json_sha256(content)


@dataclass(frozen=True, slots=True)
class TileReport:
    """What a tile task says when it is done; its index rows wait in the ledger."""

    tile: str
    records: int


def plan(scan: Scan, out: Path, setup: Setup, max_tile_bytes: int) -> list[TilePlan]:
    """Share frames and objects among tiles; a pure function of the scan.

    Parameters
    ----------
    scan : Scan
    out : Path
        Folder of the cube.
    setup : Setup
    max_tile_bytes : int
        A tile that would outgrow this splits into its four children, down to order `DEEPEST_ORDER`.

    Returns
    -------
    list of TilePlan
        Sorted by tile.
    """
    objects = group_objects(scan.spectra, scan.objects)
    frames = sorted(scan.frames, key=lambda frame: _frame_order(frame, setup))
    frame_cells = _cells([(frame.info.ra, frame.info.dec) for frame in frames])
    object_cells = _cells([_place_of(group[0]) for group in objects])
    frame_bytes = np.array([math.prod(frame.info.shape) * _PYRAMID * _SAMPLE_BYTES for frame in frames])
    object_bytes = _object_bytes(objects, setup)
    tiles: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def split(order: int, in_frames: NDArray[np.int64], in_objects: NDArray[np.int64]) -> None:
        shift = 2 * (29 - order)
        for pixel in np.union1d(frame_cells[in_frames] >> shift, object_cells[in_objects] >> shift):
            f = in_frames[frame_cells[in_frames] >> shift == pixel]
            o = in_objects[object_cells[in_objects] >> shift == pixel]
            if frame_bytes[f].sum() + object_bytes[o].sum() > max_tile_bytes and order < DEEPEST_ORDER:
                split(order + 1, f, o)
            else:
                tiles[order, int(pixel)] = f, o

    split(TILE_ORDER, np.arange(len(frames)), np.arange(len(objects)))
    near = _frames_near(frames, objects)
    plans = []
    for (order, pixel), (f, o) in sorted(tiles.items()):
        own = set(f.tolist())
        foreign = sorted({i for row in o for i in near[row]} - own)
        held = [frames[i] for i in (*f, *foreign)]
        groups = [objects[i] for i in o[np.argsort(object_cells[o], kind="stable")]]
        names = {one.info.instrument for one in held}
        names |= {one.info.instrument for group in groups for one in group if isinstance(one, SpectrumSource)}
        plans.append(
            TilePlan(
                str(out),
                f"{order}/{pixel}",
                setup.only(names),
                tuple(held[: len(f)]),
                tuple(held[len(f) :]),
                tuple(groups),
            )
        )
    return plans


def _object_bytes(objects: Sequence[tuple[SpectrumSource | ObjectSource, ...]], setup: Setup) -> Floats:
    """Return about how many bytes each object takes in its tile."""
    images = sum(
        len(one.imaging.bands) * one.imaging.size**2 for one in setup.instruments if one.imaging is not None
    )
    bins = {name: grid_named(grid).sizes[0] for name, grid in setup.grids}
    return np.array(
        [
            _SAMPLE_BYTES
            * (
                images * _PYRAMID
                + 2 * sum(bins.values())
                + 2 * sum(bins[one.info.instrument] for one in group if isinstance(one, SpectrumSource))
            )
            for group in objects
        ]
    )


def _frame_order(frame: FrameSource, setup: Setup) -> tuple[Any, ...]:
    info = frame.info
    bands = setup.imaging(info.instrument).bands
    numbers = (info.run or 0, info.camcol or 0, info.field or 0)
    return info.instrument, info.survey, *numbers, bands.index(info.band), info.frame_id


def _place_of(source: SpectrumSource | ObjectSource) -> tuple[float, float]:
    return (source.ra, source.dec) if isinstance(source, ObjectSource) else (source.info.ra, source.info.dec)


def _cells(positions: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
    if not positions:
        return np.empty(0, np.int64)
    ra, dec = np.array(positions, np.float64).T
    return np.asarray(healpix29(ra, dec), np.int64)


def group_objects(
    spectra: Sequence[SpectrumSource], sources: Sequence[ObjectSource]
) -> list[tuple[SpectrumSource | ObjectSource, ...]]:
    """Group what is one object: all that hangs together by steps of less than `MATCH_ARCSEC`.

    Parameters
    ----------
    spectra : sequence of SpectrumSource
    sources : sequence of ObjectSource

    Returns
    -------
    list of tuple
        In each the spectra, sorted by spectrum_id, then the rows of tables, sorted by source_id; the list is
        sorted by the first of each.
    """
    ordered: list[SpectrumSource | ObjectSource] = [
        *sorted(spectra, key=lambda source: source.info.spectrum_id),
        *sorted(sources, key=lambda source: source.source_id),
    ]
    if not ordered:
        return []
    ra, dec = zip(*map(_place_of, ordered), strict=True)
    pairs = cKDTree(unit_vectors(ra, dec)).query_pairs(
        float(chord(MATCH_ARCSEC / 3600)), output_type="ndarray"
    )
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(ordered),) * 2)
    _, labels = connected_components(links, directed=False)
    groups: dict[int, list[SpectrumSource | ObjectSource]] = defaultdict(list)
    for label, source in zip(labels.tolist(), ordered, strict=True):
        groups[label].append(source)
    return [tuple(group) for group in groups.values()]


def _frames_near(
    frames: Sequence[FrameSource], objects: Sequence[tuple[SpectrumSource | ObjectSource, ...]]
) -> list[list[int]]:
    """List, for each object, the frames whose circle around the corners holds it or nearly so."""
    if not frames or not objects:
        return [[] for _ in objects]
    centres = cKDTree(unit_vectors([f.info.ra for f in frames], [f.info.dec for f in frames]))
    ra, dec = zip(*(_place_of(group[0]) for group in objects), strict=True)
    positions = unit_vectors(ra, dec)
    # The object's own place is that of its best epoch, known only when the spectra are read.
    radii = np.array([frame.radius for frame in frames]) + 2 * MATCH_ARCSEC / 3600
    candidates = centres.query_ball_point(positions, float(chord(radii.max())))
    centre_vectors = np.asarray(centres.data)
    near = []
    for position, indices in zip(positions, candidates, strict=True):
        found = np.array(sorted(indices), np.int64)
        apart = np.linalg.norm(centre_vectors[found] - position, axis=1)
        near.append(found[apart <= chord(radii[found])].tolist())
    return near


def ledger_path(out: Path, tile: str) -> Path:
    """Return the file in which a tile's index rows and rejects wait for the end of the build."""
    order, pixel = tile.split("/")
    return out / "ledger" / "tiles" / f"Norder={order}-Npix={pixel}.json"


def is_built(tile_plan: TilePlan) -> bool:
    """Tell whether the tile stands finished on disk, made from just this plan."""
    out = Path(tile_plan.out)
    try:
        entry = read_stamped(ledger_path(out, tile_plan.tile))
        path = tile_path(out, tile_plan.tile)
        size = path.stat().st_size if path.exists() else None
        # Permissions, failing disks and files still being written deserve another try.
        again = {"unreadable", "changed"} & {reject["reason"] for reject in entry["rejects"]}
        return bool(not again and entry["fingerprint"] == tile_plan.fingerprint() and entry["size"] == size)
    except (StoreError, KeyError, TypeError):
        return False


def build_tile(tile_plan: TilePlan, readers: Sequence[Reader] = ()) -> TileReport:
    """Build one tile: read its spectra and frames one by one, write all zooms, cut out its objects.

    Independent of every other task: it writes the tile's file and the tile's entry in the ledger, each whole
    or not at all, and returns only counts. Equal plans over equal inputs give equal bytes.

    Parameters
    ----------
    tile_plan : TilePlan
    readers : sequence of Reader
        Those that are not built in, installed or registered.

    Returns
    -------
    TileReport
    """
    out = Path(tile_plan.out)
    path = tile_path(out, tile_plan.tile)
    entry_path = ledger_path(out, tile_plan.tile)
    # A tile under an entry that was made for another tile would pass for finished.
    entry_path.unlink(missing_ok=True)
    rejects: dict[tuple[str, str], Reject] = {}
    digest = None
    while True:
        task = _Tile(tile_plan, readers, rejects)
        if not task.frames and not task.objects:
            path.unlink(missing_ok=True)
            break
        try:
            digest = task.write(path)
            break
        except _GapsError:
            rejects |= {(reject.path, reject.key): reject for reject in task.rejects}
    own: list[Source] = [*tile_plan.frames, *(one for group in tile_plan.objects for one in group)]
    entry = {
        "tile": tile_plan.tile,
        "grids": dict(tile_plan.setup.grids),
        "noise": dict(tile_plan.setup.noise),
        "skyfuse": VERSION,
        "fingerprint": tile_plan.fingerprint(),
        "size": path.stat().st_size if digest is not None else None,
        "digest": digest,
        "sources": records_of(own, readers),
        "frames": task.frame_rows,
        "spectra": task.spectrum_rows,
        "objects": task.object_rows,
        "rejects": [asdict(rejects[name]) for name in sorted(rejects)],
    }
    write_json(entry_path, stamped(entry))
    return TileReport(tile_plan.tile, tile_plan.records)


class _GapsError(Exception):
    """Some of the tile's own records turned out bad when read in full, so that their rows stayed empty."""


class _Tile:
    """One pass over the records of a tile; holds one frame or one spectrum in memory at a time."""

    def __init__(
        self, tile_plan: TilePlan, readers: Sequence[Reader], bad: Container[tuple[str, str]]
    ) -> None:
        self.plan, self.setup, self.readers = tile_plan, tile_plan.setup, readers
        self.frames = [one for one in tile_plan.frames if (one.file.path, one.info.key) not in bad]
        self.objects = []
        for group in tile_plan.objects:
            spectra = [
                one
                for one in group
                if isinstance(one, SpectrumSource) and (one.file.path, one.info.key) not in bad
            ]
            named = [one for one in group if isinstance(one, ObjectSource)]
            if spectra or named:
                self.objects.append((spectra, named))
        self.options = Options(keep_unclassified=self.setup.keep_unclassified, scratch=Scratch())
        self.rejects: list[Reject] = []
        self.frame_rows: list[dict[str, Any]] = []
        self.spectrum_rows: list[dict[str, Any]] = []
        self.object_rows: list[dict[str, Any]] = []
        # Instruments of which the tile holds frames, has spectra, and has frames to cut objects from.
        self.framed = _counted(one.info.instrument for one in self.frames)
        self.observed = _counted(one.info.instrument for spectra, _ in self.objects for one in spectra)
        cut = {one.info.instrument for one in (*self.frames, *tile_plan.foreign)} if self.objects else set()
        self.imaged = sorted(cut)
        self.rows: dict[str, int] = {}
        self.frame_shapes = {
            name: tuple(
                max(one.info.shape[axis] for one in self.frames if one.info.instrument == name)
                for axis in (0, 1)
            )
            for name in self.framed
        }

    def write(self, path: Path) -> str:
        """Write the tile's file and return its checksum, or raise `_GapsError` and leave `rejects` filled."""
        specs, wavelengths, units_of = self._layout()
        with create_arrays(path, specs, wavelengths=wavelengths, units=units_of) as writer:
            self._fill_spectra(writer)
            if not self.rejects:
                self._fill_frames(writer)
            if self.rejects:
                raise _GapsError
        return writer.digest

    def _layout(
        self,
    ) -> tuple[dict[str, tuple[tuple[int, ...], DTypeLike]], dict[str, Floats], dict[str, str]]:
        """Return the arrays of the file, wavelengths and units by group.

        What a viewer opens first comes first: the objects.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        wavelengths: dict[str, Floats] = {}
        units_of: dict[str, str] = {}

        def add_spectra(group: str, rows: int, name: str, zoom: int) -> None:
            shapes[group] = (rows, self.setup.grid(name).sizes[zoom])
            wavelengths[group] = self.setup.grid(name).centres(zoom)
            spectroscopy = self.setup.instrument(name).spectroscopy
            units_of[group] = "" if spectroscopy is None else spectroscopy.unit

        def add_images(group: str, shape: tuple[int, ...], name: str) -> None:
            shapes[group] = shape
            units_of[group] = self.setup.imaging(name).unit

        for name in self.imaged:
            imaging = self.setup.imaging(name)
            for zoom in range(imaging.zooms):
                size = _zoomed(imaging.size, zoom)
                images = (len(self.objects), len(imaging.bands), size, size)
                add_images(f"/objects/{name}/{zoom}/image", images, name)
        for name, count in self.observed.items():
            for zoom in range(len(self.setup.grid(name).sizes)):
                add_spectra(f"/objects/{name}/{zoom}/spectrum", len(self.objects), name, zoom)
                add_spectra(f"/spectra/{name}/{zoom}", count, name, zoom)
        for name, count in self.framed.items():
            ny, nx = self.frame_shapes[name]
            for zoom in range(self.setup.imaging(name).zooms):
                shape = (count, _zoomed(ny, zoom), _zoomed(nx, zoom))
                add_images(f"/frames/{name}/{zoom}", shape, name)
        specs: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            f"{group}/{component}": (shape, dtype)
            for group, shape in shapes.items()
            for component, dtype in COMPONENTS.items()
        }
        return specs, wavelengths, units_of

    def _next_row(self, group: str) -> int:
        """Return the next free row of an instrument's frames or spectra."""
        row = self.rows.get(group, 0)
        self.rows[group] = row + 1
        return row

    def _read(self, source: FrameSource | SpectrumSource) -> Any:
        """Read a record, which must be the one that the scan saw."""
        reader = reader_named(source.file.reader, self.readers)
        record = reader.read(Path(source.file.path), source.info.key, self.options)
        same = record.info == source.info if isinstance(record, Frame) else _same_name(record, source)
        if not same:
            raise FileError(
                "changed while the build ran",
                reason="changed",
                remedy="run the same build again when it is whole",
                path=source.file.path,
            )
        return record

    def _reject(self, source: FrameSource | SpectrumSource, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error
        path, key = source.file.path, source.info.key
        if isinstance(error, FileError):
            self.rejects.append(Reject(path, error.reason, str(error), key))
        else:
            self.rejects.append(Reject(path, "unreadable", unexpected(path, error), key))

    def _fill_spectra(self, writer: ArrayWriter) -> None:
        for number, (sources, named) in enumerate(self.objects):
            best: dict[str, tuple[Spectrum, list[Samples], dict[str, Any]]] = {}
            rows = []
            for source in sources:
                try:
                    spectrum: Spectrum = self._read(source)
                    grid = self.setup.grid(source.info.instrument)
                    model = self.setup.noise_model(source.info.instrument)
                    levels = spectrum_levels(spectrum, grid, len(grid.sizes), sigma=model or FORMAL)
                    _require_on_grid(source, grid, levels[0])
                # As in the scan: a broken file costs that file alone.
                except Exception as error:
                    self._reject(source, error)
                    continue
                group = f"/spectra/{source.info.instrument}"
                row = self._next_row(group)
                for zoom, samples in enumerate(levels):
                    _put(writer, f"{group}/{zoom}", row, samples)
                entry = _spectrum_row(spectrum, levels[0], source.file.path)
                entry["noise"] = model is not None and model.spectrograph(spectrum) is not None
                rows.append(entry | {"tile": self.plan.tile, "row": row})
                name = source.info.instrument
                if name not in best or _epoch_order(spectrum) < _epoch_order(best[name][0]):
                    best[name] = spectrum, levels, entry
            if not rows and not named:
                continue
            for name in self.observed:
                self._put_best(writer, name, number, best[name][1] if name in best else None)
            self._add_object(number, rows, best, named)

    def _put_best(self, writer: ArrayWriter, name: str, row: int, levels: list[Samples] | None) -> None:
        """Write the best spectrum of an object, NaN where the instrument has none."""
        for zoom, bins in enumerate(self.setup.grid(name).sizes):
            group = f"/objects/{name}/{zoom}/spectrum"
            if levels is not None:
                _put(writer, group, row, levels[zoom])
            else:
                for component in ("value", "sigma"):
                    writer.write(f"{group}/{component}", row, np.full(bins, np.nan, np.float32))

    def _add_object(
        self,
        number: int,
        rows: list[dict[str, Any]],
        best: Mapping[str, tuple[Spectrum, list[Samples], dict[str, Any]]],
        named: Sequence[ObjectSource],
    ) -> None:
        """Note the index rows of an object and of its spectra."""
        found: dict[str, Any] = {}
        if best:
            _, _, found = min(best.values(), key=lambda one: _epoch_order(one[0]))
        else:
            found = {"ra": named[0].ra, "dec": named[0].dec}
        name = object_name(found["ra"], found["dec"])
        self.spectrum_rows += [{"object_id": name} | entry for entry in rows]
        self.object_rows.append(
            {"object_id": name, "source_id": named[0].source_id if named else None, "n_spectra": len(rows)}
            | {key: value for key, value in found.items() if key not in ("sha256", "file", "key", "noise")}
            | {f"spectrum_{instrument}": one.info.spectrum_id for instrument, (one, _, _) in best.items()}
            | {"sources": {source.source_id: source.sha256 for source in named}}
            | {"tile": self.plan.tile, "row": number}
        )

    def _fill_frames(self, writer: ArrayWriter) -> None:
        ra = np.array([row["ra"] for row in self.object_rows], np.float64)
        dec = np.array([row["dec"] for row in self.object_rows], np.float64)
        # For each object, instrument and band: the rank of the frame that serves, best first.
        best: dict[tuple[int, str, str], tuple[bool, float, str]] = {}
        # Rows in the order of the plan, so that they do not hang on the order of reading.
        own = {id(source): self._next_row(f"/frames/{source.info.instrument}") for source in self.frames}
        for source in sorted((*self.frames, *self.plan.foreign), key=lambda source: source.info.frame_id):
            size = self.setup.imaging(source.info.instrument).size
            held, inside, x0, y0 = _held(source, ra, dec, size)
            row = own.get(id(source))
            if row is None and len(held) == 0:
                continue
            try:
                frame: Frame = self._read(source)
            # As in the scan: a broken file costs that file alone. A foreign frame counts in its own tile.
            except Exception as error:
                if row is not None:
                    self._reject(source, error)
                continue
            if row is not None:
                self._put_frame(writer, row, frame, source)
            if frame.info.unit is None:
                self._cut(writer, frame, (held, inside, x0, y0), best)
        self.frame_rows.sort(key=lambda entry: (entry["instrument"], int(entry["row"])))
        self._fill_uncovered(writer, best.keys())

    def _put_frame(self, writer: ArrayWriter, row: int, frame: Frame, source: FrameSource) -> None:
        """Write all zooms of a frame and note its index row."""
        name = frame.info.instrument
        zooms = self.setup.imaging(name).zooms
        good = _put_levels(writer, f"/frames/{name}", row, frame, self.frame_shapes[name], zooms)
        info = {key: value for key, value in asdict(frame.info).items() if key not in ("shape", "partners")}
        self.frame_rows.append(
            info
            | {"unit": frame.info.unit or self.setup.imaging(name).unit}
            | {"ny": frame.info.shape[0], "nx": frame.info.shape[1], "sky_sigma": frame.sky_sigma}
            | {"good_fraction": good / frame.value.size}
            | {"corners": list(source.corners), "radius": source.radius}
            | {"file": shown(Path(source.file.path).name), "sha256": frame.sha256}
            | {"tile": self.plan.tile, "row": row}
        )

    def _cut(
        self,
        writer: ArrayWriter,
        frame: Frame,
        where: tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]],
        best: dict[tuple[int, str, str], tuple[bool, float, str]],
    ) -> None:
        """Cut out the objects of which this is the best frame so far."""
        held, inside, x0, y0 = where
        name, band, imaging = (
            frame.info.instrument,
            frame.info.band,
            self.setup.imaging(frame.info.instrument),
        )
        column = imaging.bands.index(band)
        orders = [(not whole, frame.sky_sigma, frame.info.frame_id) for whole in inside]
        better = [
            i
            for i, key in zip(held, orders, strict=True)
            if key < best.get((int(i), name, band), (True, np.inf, ""))
        ]
        chosen = np.flatnonzero(np.isin(held, better))
        for start in range(0, len(chosen), _BATCH):
            batch = chosen[start : start + _BATCH]
            cut = cut_frame(frame.value, frame.sigma, x0[batch], y0[batch], imaging.size)
            for zoom, samples in enumerate(image_levels(*cut, imaging.zooms)):
                for i, k in enumerate(batch):
                    one = Samples(*(component[i] for component in samples))
                    _put(writer, f"/objects/{name}/{zoom}/image", (int(held[k]), column), one)
        for k in chosen:
            best[int(held[k]), name, band] = orders[k]
            self.object_rows[held[k]][f"frame_{name}_{band}"] = frame.info.frame_id
            self.object_rows[held[k]][f"inside_{name}_{band}"] = bool(inside[k])

    def _fill_uncovered(self, writer: ArrayWriter, covered: Iterable[tuple[int, str, str]]) -> None:
        """Write NaN where no frame holds an object in a band; its coverage is 0 as the file was allocated."""
        there = set(covered)
        for name in self.imaged:
            imaging = self.setup.imaging(name)
            missing = [
                (row, column)
                for row in range(len(self.object_rows))
                for column, band in enumerate(imaging.bands)
                if (row, name, band) not in there
            ]
            for zoom in range(imaging.zooms):
                blank = np.full((_zoomed(imaging.size, zoom),) * 2, np.nan, np.float32)
                for place_of in missing:
                    for component in ("value", "sigma"):
                        writer.write(f"/objects/{name}/{zoom}/image/{component}", place_of, blank)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _same_name(spectrum: Spectrum, source: FrameSource | SpectrumSource) -> bool:
    seen = source.info
    return not isinstance(seen, FrameInfo) and spectrum.info.spectrum_id == seen.spectrum_id


def _require_on_grid(source: SpectrumSource, grid: SpectralGrid, native: Samples) -> None:
    if not _valid(native):
        low, high = grid.edges(0)[[0, -1]]
        raise FileError(
            f"none of its valid pixels lies on the grid {grid.name!r}, {low:.0f} to {high:.0f} Å",
            reason="outside-grid",
            remedy="leave it out, or build with a grid that holds its wavelengths",
            path=source.file.path,
        )


def _valid(native: Samples) -> int:
    """Count the native samples that are valid."""
    # As integers: 16-bit floats take seven times as long.
    return int(np.count_nonzero(native.coverage.view(np.uint16)))


def _zoomed(size: int, zoom: int) -> int:
    """Return the size of an axis at a zoom: an odd edge leaves a partial block."""
    return math.ceil(size / (1 << zoom))


def _put(writer: ArrayWriter, group: str, index: int | tuple[int, ...], samples: Samples) -> None:
    writer.write(f"{group}/value", index, samples.value)
    writer.write(f"{group}/sigma", index, samples.sigma)
    writer.write(f"{group}/coverage", index, samples.coverage)


def _put_levels(
    writer: ArrayWriter, group: str, row: int, frame: Frame, shape: tuple[int, ...], zooms: int
) -> int:
    """Write all zooms of a frame and return how many of its pixels are valid.

    A frame smaller than the tile's largest is padded with NaN, which has coverage 0 at every zoom.
    """
    value, sigma = frame.value, frame.sigma
    if value.shape != shape:
        pad = [(0, size - own) for size, own in zip(shape, value.shape, strict=True)]
        value, sigma = (np.pad(array, pad, constant_values=np.nan) for array in (value, sigma))
    valid = 0
    # A whole number of blocks of every zoom.
    height = _STRIP << (zooms - 1)
    for start in range(0, shape[0], height):
        strip = slice(start, start + height)
        levels = image_levels(value[strip], sigma[strip], zooms)
        for zoom, samples in enumerate(levels):
            _put(writer, f"{group}/{zoom}", (row, start >> zoom), samples)
        valid += _valid(levels[0])
    return valid


def _held(
    source: FrameSource, ra: NDArray[np.float64], dec: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return which objects lie on a frame, whether their whole cutout does, and where the cutouts begin."""
    apart = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(source.info.ra, source.info.dec), axis=1)
    near = np.flatnonzero(apart <= chord(source.radius + 1 / 3600))
    on, inside, x0, y0 = place(source.info.wcs, source.info.shape, ra[near], dec[near], size)
    return near[on], inside[on], x0[on], y0[on]


def _epoch_order(spectrum: Spectrum) -> tuple[bool, float, str]:
    """Order epochs, best first: no pipeline warning, then highest signal-to-noise, then the id."""
    catalogue = spectrum.catalogue
    sn_median = catalogue.get("sn_median")
    sn_median = -math.inf if sn_median is None or not math.isfinite(sn_median) else float(sn_median)
    return catalogue.get("zwarning") != 0, -sn_median, spectrum.info.spectrum_id


def _spectrum_row(spectrum: Spectrum, native: Samples, path: str) -> dict[str, Any]:
    catalogue: dict[str, Any] = {
        key: spectrum.catalogue.get(key)
        for key in ("class", "subclass", "z", "z_err", "zwarning", "sn_median")
    }
    for key in ("z", "z_err", "sn_median"):
        if catalogue[key] is not None and not math.isfinite(catalogue[key]):
            catalogue[key] = None
    info = {key: value for key, value in asdict(spectrum.info).items() if key != "partners"}
    return (
        info
        | {key: value.item() if isinstance(value, np.generic) else value for key, value in catalogue.items()}
        | {"good_fraction": _valid(native) / native.coverage.size}
        | {"file": shown(Path(path).name), "sha256": spectrum.sha256}
    )


def object_name(ra: float, dec: float) -> str:
    """Return the IAU-style name of a position: J, truncated sexagesimal RA and Dec.

    Parameters
    ----------
    ra, dec : float
        Degrees.

    Returns
    -------
    str
        E.g. ``J003948.12-003012.4``: RA to 0.01 s, Dec to 0.1″, both cut off, never rounded (IAU
        recommendation for designations). Objects of a cube are more than 1″ apart, so that their names
        differ.
    """
    hours = math.floor(round(ra / 15 * 360000, 6)) % (24 * 360000)
    degrees = math.floor(round(abs(dec) * 36000, 6))
    right = f"{hours // 360000:02d}{hours // 6000 % 60:02d}{hours // 100 % 60:02d}.{hours % 100:02d}"
    north = f"{degrees // 36000:02d}{degrees // 600 % 60:02d}{degrees // 10 % 60:02d}.{degrees % 10}"
    return f"J{right}{'-' if dec < 0 else '+'}{north}"
