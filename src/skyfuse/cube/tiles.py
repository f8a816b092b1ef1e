"""Tiles: the plan that shares the sky among independent tasks, and the task that builds one tile."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
from skyfuse.cube.grid import GRIDS, SpectralGrid, healpix29
from skyfuse.cube.layout import COMPONENTS, FORMAT, TILE_ORDER, VERSION, ArrayWriter, create_arrays, tile_path
from skyfuse.cube.pyramid import image_levels, spectrum_levels
from skyfuse.cube.scan import FrameSource, Reject, Scan, SpectrumSource, record_of, unexpected
from skyfuse.disk import write_json
from skyfuse.errors import FileError, StoreError, shown
from skyfuse.sphere import chord, unit_vectors
from skyfuse.survey.fits import Scratch
from skyfuse.survey.recognise import read_spectrum
from skyfuse.survey.records import BANDS, Frame, Samples, Spectrum
from skyfuse.survey.sdss import read_frame

ZOOMS = 5
IMAGE_SIZE = 64
DEEPEST_ORDER = 11
MATCH_ARCSEC = 1.0
"""Spectra closer than this are epochs of one object."""

IMAGE_UNIT = "nanomaggy"
FLUX_UNIT = "1e-17 erg s-1 cm-2 Angstrom-1"

# Cutouts of so many objects are in memory at a time (0.7 MB with their zooms and uncertainties).
_BATCH = 16

# Rows of a frame whose zooms are made and written at a time, so that they stay in the processor's cache: a
# whole number of blocks of every zoom.
_STRIP = 16 * (1 << (ZOOMS - 1))

_SAMPLE_BYTES = sum(dtype.itemsize for dtype in COMPONENTS.values())


@dataclass(frozen=True, slots=True)
class TilePlan:
    """All that one tile task needs to know.

    Attributes
    ----------
    out : str
        Folder of the cube.
    tile : str
        HEALPix order and NESTED pixel, ``"6/12345"``.
    grid : str
        Name of the wavelength grid.
    frames : tuple of FrameSource
        Frames whose centre lies in the tile: it stores them.
    foreign : tuple of FrameSource
        Frames of other tiles that may hold objects of this one: it only cuts from them.
    objects : tuple of tuple of SpectrumSource
        The epochs of each object.
    keep_unclassified : bool
        Spectra without the pipeline's class and redshift count as whole.
    """

    out: str
    tile: str
    grid: str
    frames: tuple[FrameSource, ...]
    foreign: tuple[FrameSource, ...]
    objects: tuple[tuple[SpectrumSource, ...], ...]
    keep_unclassified: bool = False

    @property
    def files(self) -> int:
        """Number of files that the tile stores."""
        return len(self.frames) + sum(map(len, self.objects))

    def fingerprint(self) -> str:
        """Return a hash of all that decides the tile's bytes."""
        content = asdict(self) | {"out": "", "format": FORMAT, "skyfuse": VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TileReport:
    """What a tile task says when it is done; its index rows wait in the ledger."""

    tile: str
    files: int


def plan(
    scan: Scan, out: Path, grid: str, max_tile_bytes: int, *, keep_unclassified: bool = False
) -> list[TilePlan]:
    """Share frames and objects among tiles; a pure function of the scan.

    Parameters
    ----------
    scan : Scan
    out : Path
        Folder of the cube.
    grid : str
        Name of the wavelength grid.
    max_tile_bytes : int
        A tile that would outgrow this splits into its four children, down to order `DEEPEST_ORDER`.
    keep_unclassified : bool
        As in `TilePlan`.

    Returns
    -------
    list of TilePlan
        Sorted by tile.
    """
    objects = group_epochs(scan.spectra)
    frames = sorted(scan.frames, key=lambda frame: _frame_order(frame.info.frame_id, frame))
    frame_cells = _cells([(frame.info.ra, frame.info.dec) for frame in frames])
    object_cells = _cells([(epochs[0].info.ra, epochs[0].info.dec) for epochs in objects])
    bins = GRIDS[grid].sizes[0]

    pyramid = 4 / 3
    frame_bytes = np.array([math.prod(frame.info.shape) * pyramid * _SAMPLE_BYTES for frame in frames])
    image_bytes = len(BANDS) * IMAGE_SIZE**2 * pyramid * _SAMPLE_BYTES
    object_bytes = np.array(
        [image_bytes + (len(epochs) + 1) * 2 * bins * _SAMPLE_BYTES for epochs in objects]
    )

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
        plans.append(
            TilePlan(
                str(out),
                f"{order}/{pixel}",
                grid,
                tuple(frames[i] for i in f),
                tuple(frames[i] for i in foreign),
                tuple(objects[i] for i in o[np.argsort(object_cells[o], kind="stable")]),
                keep_unclassified,
            )
        )
    return plans


def _frame_order(name: str, frame: FrameSource) -> tuple[str, int, int, int, int, str]:
    info = frame.info
    return info.survey, info.run or 0, info.camcol or 0, info.field or 0, BANDS.index(info.band), name


def _cells(positions: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
    if not positions:
        return np.empty(0, np.int64)
    ra, dec = np.array(positions, np.float64).T
    return np.asarray(healpix29(ra, dec), np.int64)


def group_epochs(spectra: Sequence[SpectrumSource]) -> list[tuple[SpectrumSource, ...]]:
    """Group spectra of one object: all that hang together by steps of less than `MATCH_ARCSEC`.

    Parameters
    ----------
    spectra : sequence of SpectrumSource

    Returns
    -------
    list of tuple
        Each sorted by spectrum_id; the list too, by its first.
    """
    ordered = sorted(spectra, key=lambda source: source.info.spectrum_id)
    if not ordered:
        return []
    vectors = unit_vectors([s.info.ra for s in ordered], [s.info.dec for s in ordered])
    pairs = cKDTree(vectors).query_pairs(float(chord(MATCH_ARCSEC / 3600)), output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(ordered),) * 2)
    _, labels = connected_components(links, directed=False)
    groups: dict[int, list[SpectrumSource]] = defaultdict(list)
    for label, source in zip(labels.tolist(), ordered, strict=True):
        groups[label].append(source)
    return [tuple(group) for group in groups.values()]


def _frames_near(
    frames: Sequence[FrameSource], objects: Sequence[tuple[SpectrumSource, ...]]
) -> list[list[int]]:
    """List, for each object, the frames whose circle around the corners holds it or nearly so."""
    if not frames or not objects:
        return [[] for _ in objects]
    centres = cKDTree(unit_vectors([f.info.ra for f in frames], [f.info.dec for f in frames]))
    positions = unit_vectors([o[0].info.ra for o in objects], [o[0].info.dec for o in objects])
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


def build_tile(tile_plan: TilePlan) -> TileReport:
    """Build one tile: read its spectra and frames one by one, write all zooms, cut out its objects.

    Independent of every other task: it writes the tile's file and the tile's entry in the ledger, each whole
    or not at all, and returns only counts. Equal plans over equal inputs give equal bytes.

    Parameters
    ----------
    tile_plan : TilePlan

    Returns
    -------
    TileReport
    """
    out = Path(tile_plan.out)
    path = tile_path(out, tile_plan.tile)
    entry_path = ledger_path(out, tile_plan.tile)
    # A tile under an entry that was made for another tile would pass for finished.
    entry_path.unlink(missing_ok=True)
    rejects: dict[str, Reject] = {}
    digest = None
    while True:
        task = _Tile(
            tile_plan,
            [frame for frame in tile_plan.frames if frame.path not in rejects],
            [[s for s in epochs if s.path not in rejects] for epochs in tile_plan.objects],
        )
        if not task.frames and not task.objects:
            path.unlink(missing_ok=True)
            break
        try:
            digest = task.write(path)
            break
        except _GapsError:
            rejects |= {reject.path: reject for reject in task.rejects}
    sources: list[FrameSource | SpectrumSource] = [*tile_plan.frames]
    sources += [source for epochs in tile_plan.objects for source in epochs]
    entry = {
        "tile": tile_plan.tile,
        "grid": tile_plan.grid,
        "skyfuse": VERSION,
        "fingerprint": tile_plan.fingerprint(),
        "size": path.stat().st_size if digest is not None else None,
        "digest": digest,
        "sources": [record_of(source) for source in sources],
        "frames": task.frame_rows,
        "spectra": task.spectrum_rows,
        "objects": task.object_rows,
        "rejects": [asdict(rejects[name]) for name in sorted(rejects)],
    }
    write_json(entry_path, stamped(entry))
    return TileReport(tile_plan.tile, tile_plan.files)


class _GapsError(Exception):
    """Some of the tile's own files turned out bad when read in full, so that their rows stayed empty."""


class _Tile:
    """One pass over the files of a tile; holds one frame or one spectrum in memory at a time."""

    def __init__(
        self, tile_plan: TilePlan, frames: list[FrameSource], objects: list[list[SpectrumSource]]
    ) -> None:
        self.plan = tile_plan
        self.frames = frames
        self.objects = [epochs for epochs in objects if epochs]
        self.grid: SpectralGrid = GRIDS[tile_plan.grid]
        self.scratch = Scratch()
        self.rejects: list[Reject] = []
        self.frame_rows: list[dict[str, Any]] = []
        self.spectrum_rows: list[dict[str, Any]] = []
        self.object_rows: list[dict[str, Any]] = []
        self.frame_shape = (
            max((frame.info.shape[0] for frame in frames), default=0),
            max((frame.info.shape[1] for frame in frames), default=0),
        )

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
    ) -> tuple[dict[str, tuple[tuple[int, ...], DTypeLike]], dict[str, NDArray[np.float64]], dict[str, str]]:
        """Return the arrays of the file, wavelengths and units by group.

        What a viewer opens first comes first: the objects.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        wavelengths: dict[str, NDArray[np.float64]] = {}
        units_of: dict[str, str] = {}
        epochs = sum(map(len, self.objects))
        for zoom in range(ZOOMS):
            if self.objects:
                size = _zoomed(IMAGE_SIZE, zoom)
                shapes[f"/objects/{zoom}/image"] = (len(self.objects), len(BANDS), size, size)
                shapes[f"/objects/{zoom}/spectrum"] = (len(self.objects), self.grid.sizes[zoom])
                shapes[f"/spectra/{zoom}"] = (epochs, self.grid.sizes[zoom])
            if self.frames:
                ny, nx = self.frame_shape
                shapes[f"/frames/{zoom}"] = (len(self.frames), _zoomed(ny, zoom), _zoomed(nx, zoom))
        for group, shape in shapes.items():
            spectral = group.endswith("spectrum") or group.startswith("/spectra")
            units_of[group] = FLUX_UNIT if spectral else IMAGE_UNIT
            if spectral:
                wavelengths[group] = self.grid.centres(self.grid.sizes.index(shape[-1]))
        specs: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            f"{group}/{component}": (shape, dtype)
            for group, shape in shapes.items()
            for component, dtype in COMPONENTS.items()
        }
        return specs, wavelengths, units_of

    def _reject(self, path: str, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error
        if isinstance(error, FileError):
            self.rejects.append(Reject(path, error.reason, str(error)))
        else:
            self.rejects.append(Reject(path, "unreadable", unexpected(path, error)))

    def _fill_spectra(self, writer: ArrayWriter) -> None:
        row = 0
        for number, epochs in enumerate(self.objects):
            best: Spectrum | None = None
            best_levels: list[Samples] = []
            rows = []
            for source in epochs:
                try:
                    spectrum = read_spectrum(Path(source.path), keep_unclassified=self.plan.keep_unclassified)
                    _require_same(source, spectrum.info.spectrum_id == source.info.spectrum_id)
                    levels = spectrum_levels(spectrum, self.grid, ZOOMS)
                    self._require_on_grid(source, levels[0])
                # As in the scan: a broken file costs that file alone.
                except Exception as error:
                    self._reject(source.path, error)
                    continue
                for zoom, samples in enumerate(levels):
                    _put(writer, f"/spectra/{zoom}", row, samples)
                rows.append(
                    _spectrum_row(spectrum, levels[0], source.path) | {"tile": self.plan.tile, "row": row}
                )
                row += 1
                if best is None or _epoch_order(spectrum) < _epoch_order(best):
                    best, best_levels = spectrum, levels
            if best is None:
                continue
            for zoom, samples in enumerate(best_levels):
                _put(writer, f"/objects/{zoom}/spectrum", number, samples)
            name = object_name(best.info.ra, best.info.dec)
            self.spectrum_rows += [{"object_id": name} | entry for entry in rows]
            best_row = next(entry for entry in rows if entry["spectrum_id"] == best.info.spectrum_id)
            self.object_rows.append(
                {"object_id": name, "n_spectra": len(rows)}
                | {key: value for key, value in best_row.items() if key not in ("sha256", "file")}
                | {"row": number}
                | {f"frame_{band}": None for band in BANDS}
                | {f"inside_{band}": False for band in BANDS}
            )

    def _require_on_grid(self, source: SpectrumSource, native: Samples) -> None:
        if not _valid(native):
            low, high = self.grid.edges(0)[[0, -1]]
            raise FileError(
                f"none of its valid pixels lies on the grid {self.grid.name!r}, {low:.0f} to {high:.0f} Å",
                reason="outside-grid",
                remedy="leave it out, or build with a grid that holds its wavelengths",
                path=source.path,
            )

    def _fill_frames(self, writer: ArrayWriter) -> None:
        ra = np.array([row["ra"] for row in self.object_rows], np.float64)
        dec = np.array([row["dec"] for row in self.object_rows], np.float64)
        best: dict[tuple[int, str], tuple[bool, float, str]] = {}
        own = {source.path: row for row, source in enumerate(self.frames)}
        for source in sorted((*self.frames, *self.plan.foreign), key=lambda source: source.info.frame_id):
            held, inside, x0, y0 = _held(source, ra, dec)
            row = own.get(source.path)
            if row is None and len(held) == 0:
                continue
            try:
                frame = read_frame(Path(source.path), self.scratch)
                _require_same(source, frame.info == source.info and frame.value.shape == source.info.shape)
            # As in the scan: a broken file costs that file alone. A foreign frame counts in its own tile.
            except Exception as error:
                if row is not None:
                    self._reject(source.path, error)
                continue
            if row is not None:
                good = _put_frame(writer, row, frame, self.frame_shape)
                info = {key: value for key, value in asdict(frame.info).items() if key != "shape"}
                self.frame_rows.append(
                    info
                    | {"ny": frame.info.shape[0], "nx": frame.info.shape[1], "sky_sigma": frame.sky_sigma}
                    | {"good_fraction": good / frame.value.size}
                    | {"corners": list(source.corners), "radius": source.radius}
                    | {"file": shown(Path(source.path).name), "sha256": frame.sha256}
                    | {"tile": self.plan.tile, "row": row}
                )
            band = frame.info.band
            orders = [(not whole, frame.sky_sigma, frame.info.frame_id) for whole in inside]
            better = [
                i
                for i, key in zip(held, orders, strict=True)
                if key < best.get((int(i), band), (True, np.inf, ""))
            ]
            chosen = np.flatnonzero(np.isin(held, better))
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH]
                cut = cut_frame(frame.value, frame.sigma, x0[batch], y0[batch], IMAGE_SIZE)
                for zoom, samples in enumerate(image_levels(*cut, ZOOMS)):
                    for i, k in enumerate(batch):
                        one = Samples(*(component[i] for component in samples))
                        _put(writer, f"/objects/{zoom}/image", (int(held[k]), BANDS.index(band)), one)
            for k in chosen:
                best[int(held[k]), band] = orders[k]
                self.object_rows[held[k]][f"frame_{band}"] = frame.info.frame_id
                self.object_rows[held[k]][f"inside_{band}"] = bool(inside[k])
        self.frame_rows.sort(key=lambda entry: int(entry["row"]))
        self._fill_uncovered(writer, best.keys())

    def _fill_uncovered(self, writer: ArrayWriter, covered: Iterable[tuple[int, str]]) -> None:
        """Write NaN where no frame holds an object in a band; its coverage is 0 as the file was allocated."""
        missing = {(row, band) for row in range(len(self.object_rows)) for band in BANDS} - set(covered)
        for zoom in range(ZOOMS):
            blank = np.full((_zoomed(IMAGE_SIZE, zoom),) * 2, np.nan, np.float32)
            for row, band in sorted(missing):
                for component in ("value", "sigma"):
                    writer.write(f"/objects/{zoom}/image/{component}", (row, BANDS.index(band)), blank)


def _require_same(source: FrameSource | SpectrumSource, same: bool) -> None:
    if not same:
        raise FileError(
            "changed while the build ran",
            reason="changed",
            remedy="run the same build again when it is whole",
            path=source.path,
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


def _put_frame(writer: ArrayWriter, row: int, frame: Frame, shape: tuple[int, int]) -> int:
    """Write all zooms of a frame and return how many of its pixels are valid.

    A frame smaller than the tile's largest is padded with NaN, which has coverage 0 at every zoom.
    """
    value, sigma = frame.value, frame.sigma
    if value.shape != shape:
        pad = [(0, size - own) for size, own in zip(shape, value.shape, strict=True)]
        value, sigma = (np.pad(array, pad, constant_values=np.nan) for array in (value, sigma))
    valid = 0
    for start in range(0, shape[0], _STRIP):
        strip = slice(start, start + _STRIP)
        levels = image_levels(value[strip], sigma[strip], ZOOMS)
        for zoom, samples in enumerate(levels):
            _put(writer, f"/frames/{zoom}", (row, start >> zoom), samples)
        valid += _valid(levels[0])
    return valid


def _held(
    source: FrameSource, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return which objects lie on a frame, whether their whole cutout does, and where the cutouts begin."""
    apart = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(source.info.ra, source.info.dec), axis=1)
    near = np.flatnonzero(apart <= chord(source.radius + 1 / 3600))
    on, inside, x0, y0 = place(source.info.wcs, source.info.shape, ra[near], dec[near], IMAGE_SIZE)
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
    return (
        asdict(spectrum.info)
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
