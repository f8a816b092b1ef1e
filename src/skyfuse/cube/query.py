"""Asking a cube: aligned arrays, cutouts, spectra, and what lies in a region, a time or a band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData, StdDevUncertainty
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from skyfuse.checksums import read_checksums, verified
from skyfuse.cube.catalogue import read_catalogue
from skyfuse.cube.cutout import cut_into, frame_wcs, place
from skyfuse.cube.grid import GRIDS, SpectralGrid, healpix29, zoom_wcs
from skyfuse.cube.layout import COMPONENTS, FORMAT, map_array, prefetch, tile_path
from skyfuse.cube.pyramid import image_levels
from skyfuse.cube.region import Region, holds, meets
from skyfuse.cube.staging import is_switching, settle
from skyfuse.disk import parse_json
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.sphere import chord, position, positions, unit_vectors
from skyfuse.survey.records import BANDS, Samples
from skyfuse.words import Sampled

if TYPE_CHECKING:
    from specutils import Spectrum as SpecutilsSpectrum

What = Literal["objects", "frames", "spectra"]

_AGAIN = "run skyfuse build again on the same inputs"
_KEYS = {"objects": "object_id", "frames": "frame_id", "spectra": "spectrum_id"}

MAX_SIZE = 4096
"""Greatest cutout, native pixels along each axis: twice a frame's longer side, and 1 GB in five bands."""

# So many pixels of a band are in memory at their native resolution at a time: 256 cutouts of 64 pixels.
_BATCH_PIXELS = 256 * 64 * 64


class Cube:
    """A built cube, read-only.

    Attributes
    ----------
    path : Path
        Its folder.
    meta : dict
        Content of its cube.json.
    grid : SpectralGrid
        Wavelengths of its spectra.
    image_size : int
        Native pixels along each axis of the objects' images.
    zooms : int
        Number of zooms, 0 being native.

    Examples
    --------
    >>> cube = Cube.open("stripe.cube")  # doctest: +SKIP
    >>> cut = cube.cutout(SkyCoord("0h42m -0d30m"), zoom=1, bands="gri")  # doctest: +SKIP
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.grid: SpectralGrid = GRIDS[meta["grid"]]
        self.image_size = int(meta["image"]["size"])
        self.zooms = int(meta["zooms"])
        self._opened = _state(path)

    def __repr__(self) -> str:
        counts = self.meta["counts"]
        listed = ", ".join(f"{counts[what]} {what}" for what in _KEYS)
        return f"<Cube {self.path}: {listed}>"

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a cube.

        Raises
        ------
        StoreError
            If there is none, if its build did not end, or if another version wrote it.
        """
        path = Path(path)
        if not path.is_dir():
            raise StoreError("is no cube: no such folder", remedy="build one with skyfuse build", path=path)
        settle(path)
        if not (path / "cube.json").exists():
            if (path / "ledger").is_dir():
                raise StoreError(
                    "is a cube whose build did not end",
                    remedy="run the same skyfuse build again to go on",
                    path=path,
                )
            raise StoreError(
                "is no cube: it has no cube.json", remedy="build one with skyfuse build", path=path
            )
        state = _state(path)
        try:
            meta = parse_json(verified(path, "cube.json", read_checksums(path)))
        except ValueError as error:
            raise StoreError(f"cannot be read ({error})", remedy=_AGAIN, path=path / "cube.json") from error
        if meta.get("format") != FORMAT:
            raise StoreError(
                f"was not written by this version of Skyfuse (cube format {FORMAT})",
                remedy="build it again into a new folder",
                path=path / "cube.json",
            )
        if not _is_sound(meta):
            raise StoreError("is damaged", remedy=_AGAIN, path=path / "cube.json")
        cube = cls(path, meta)
        cube._opened = state
        return cube

    def _read(self, what: What) -> pd.DataFrame:
        table = read_catalogue(self.path, what)
        self._require_same()
        return table

    def _map(self, tile: str, name: str) -> NDArray[Any]:
        array = map_array(tile_path(self.path, tile), name)
        # What is mapped stays as it is, whatever a build does from now on.
        self._require_same()
        return array

    def _require_same(self) -> None:
        """Raise StoreError if a build has changed the cube, so that rows of its indexes lie elsewhere now."""
        if is_switching(self.path) or _state(self.path) != self._opened:
            raise StoreError("was built again while it was open", remedy="open it again", path=self.path)

    @cached_property
    def frames(self) -> pd.DataFrame:
        """Frames: a row each, columns as in `skyfuse.cube.catalogue.SCHEMAS`."""
        return self._read("frames")

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """Spectra of all epochs: a row each, columns as in `skyfuse.cube.catalogue.SCHEMAS`."""
        return self._read("spectra")

    @cached_property
    def objects(self) -> pd.DataFrame:
        """Objects: a row each, columns as in `skyfuse.cube.catalogue.SCHEMAS`."""
        return self._read("objects")

    def gather(self, kind: Sampled, zoom: int, rows: ArrayLike) -> Samples:
        """Return the stored arrays of objects.

        Parameters
        ----------
        kind : "image" or "spectrum"
        zoom : int
        rows : array_like of int
            Positions in `objects`.

        Returns
        -------
        Samples
            Images (n, 5, s, s), bands in the order u, g, r, i, z; spectra (n, bins).

        Raises
        ------
        UsageError
            If the kind or the zoom does not exist, or the rows are no whole numbers.
        DataError
            If a row does not exist.
        """
        if kind not in ("image", "spectrum"):
            raise UsageError(f"objects have no '{kind}'", remedy="ask for 'image' or 'spectrum'")
        self._require_zoom(zoom)
        table = self.objects
        chosen = self._require_rows(rows, "objects")
        size = -(-self.image_size // 2**zoom)
        shape = (len(BANDS), size, size) if kind == "image" else (self.grid.sizes[zoom],)
        out = [np.empty((len(chosen), *shape), dtype) for dtype in COMPONENTS.values()]
        picked = table[["tile", "row"]].iloc[chosen].reset_index(drop=True)
        for tile, group in picked.groupby("tile", sort=True):
            wanted = group["row"].to_numpy()
            order = np.argsort(wanted, kind="stable")
            target = group.index.to_numpy()[order]
            for component, values in zip(COMPONENTS, out, strict=True):
                array = self._map(str(tile), f"/objects/{zoom}/{kind}/{component}")
                prefetch(array, wanted)
                values[target] = array[wanted[order]]
        return Samples(*out)

    def cutouts(
        self,
        ra: ArrayLike,
        dec: ArrayLike,
        *,
        size: int = 64,
        zooms: Sequence[int] = (0,),
        bands: str = BANDS,
        time: tuple[float, float] | None = None,
    ) -> dict[int, Samples]:
        """Cut images around any positions straight out of the frames.

        Each band comes from the best frame that holds the position: one on which the whole cutout lies before
        others, then the one with the lowest sky noise.

        Parameters
        ----------
        ra, dec : array_like, shape (n,)
            Degrees (ICRS).
        size : int
            Native pixels along each axis, at most `MAX_SIZE`.
        zooms : sequence of int
        bands : str
        time : tuple of float, optional
            Only frames taken between these MJD.

        Returns
        -------
        dict of int to Samples
            For each zoom, arrays (n, bands, s, s) with s = ceil(size / 2**zoom). NaN with coverage 0 off the
            frames.

        Raises
        ------
        UsageError
            If a zoom or band does not exist, the size is out of range, or a position is not on the sky.
        """
        for zoom in zooms:
            self._require_zoom(zoom)
        self._require_size(size)
        ra, dec = positions(ra, dec)
        best = self._best_frames(ra, dec, size, self._require_bands(bands), time)
        out: dict[int, list[NDArray[Any]]] = {}
        for zoom in zooms:
            shape = (len(ra), len(bands), -(-size // 2**zoom), -(-size // 2**zoom))
            out[zoom] = [np.empty(shape, dtype) for dtype in COMPONENTS.values()]
        depth = max(zooms, default=0) + 1
        # Neighbours on the sky share frames: batches of neighbours touch few of them.
        order = np.argsort(healpix29(ra, dec), kind="stable") if len(ra) else np.empty(0, np.int64)
        count = max(1, _BATCH_PIXELS // size**2)
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            levels = image_levels(*self._native(batch, bands, size, best), depth)
            for zoom, arrays in out.items():
                for array, values in zip(arrays, levels[zoom], strict=True):
                    array[batch] = values
        return {zoom: Samples(*arrays) for zoom, arrays in out.items()}

    def _native(
        self, batch: NDArray[np.int64], bands: str, size: int, best: dict[str, _Best]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cut a batch of positions at the native resolution, frame by frame."""
        value = np.full((len(batch), len(bands), size, size), np.nan, np.float32)
        sigma = value.copy()
        tiles, rows, ny, nx = (self.frames[name].to_numpy() for name in ("tile", "row", "ny", "nx"))
        for column, band in enumerate(bands):
            chosen = best[band]
            frame_of = chosen.frame[batch]
            for frame in np.unique(frame_of[frame_of >= 0]):
                held = np.flatnonzero(frame_of == frame)
                x0, y0 = chosen.x0[batch[held]], chosen.y0[batch[held]]
                for component, target in (("value", value), ("sigma", sigma)):
                    array = self._map(tiles[frame], f"/frames/0/{component}")[
                        rows[frame], : ny[frame], : nx[frame]
                    ]
                    cut_into(array, x0, y0, held, target[:, column])
        return value, sigma

    def _best_frames(
        self,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        size: int,
        bands: str,
        time: tuple[float, float] | None = None,
    ) -> dict[str, _Best]:
        """Choose, for each band and position, the frame to cut from."""
        best = {band: _Best(len(ra)) for band in bands}
        frames = self.frames
        band_of, frame_ids, sky = (frames[name].to_numpy() for name in ("band", "frame_id", "sky_sigma"))
        for frame, rows, inside, x0, y0 in self._holders(ra, dec, size, bands, time):
            chosen = best[band_of[frame]]
            # Whole cutouts, then the darkest sky, then the name: the choice never depends on the order.
            old = chosen.frame[rows]
            old_sky = np.where(old >= 0, sky[old], np.inf)
            first = frame_ids[frame] < frame_ids[old]
            same = inside == chosen.inside[rows]
            darker = (sky[frame] < old_sky) | ((sky[frame] == old_sky) & first)
            better = (old < 0) | (inside & ~chosen.inside[rows]) | (same & darker)
            won = rows[better]
            chosen.frame[won] = frame
            chosen.inside[won] = inside[better]
            chosen.x0[won] = x0[better]
            chosen.y0[won] = y0[better]
        return best

    def _holders(
        self,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        size: int,
        bands: str,
        time: tuple[float, float] | None,
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each frame that holds some of the positions, which, and where: one WCS call a frame."""
        frames = self.frames
        if len(frames) == 0 or len(ra) == 0:
            return
        usable = frames["band"].isin(list(bands)).to_numpy(copy=True)
        if time is not None:
            usable &= frames["mjd"].between(*self._require_time(time)).to_numpy()
        tree, centres, radius = self._frame_tree
        vectors = unit_vectors(ra, dec)
        finite = np.asarray(np.isfinite(vectors).all(axis=1), bool)
        places = cKDTree(np.where(finite.reshape(-1, 1), vectors, 2.0))
        reach = chord(radius + 1 / 3600)
        # From the smaller side: few positions ask the tree of frames which to look at.
        if len(ra) < len(frames):
            near = tree.query_ball_point(vectors[finite], float(reach.max()))
            usable &= np.isin(np.arange(len(frames)), np.unique(np.concatenate([[], *near])).astype(np.int64))
        shapes = frames[["ny", "nx"]].to_numpy()
        cards = frames["wcs"].to_numpy()
        for frame in np.flatnonzero(usable):
            rows = np.array(sorted(places.query_ball_point(centres[frame], reach[frame])), np.int64)
            if len(rows) == 0:
                continue
            shape = (int(shapes[frame, 0]), int(shapes[frame, 1]))
            on, inside, x0, y0 = place(cards[frame], shape, ra[rows], dec[rows], size)
            if on.any():
                yield int(frame), rows[on], inside[on], x0[on], y0[on]

    @cached_property
    def _frame_tree(self) -> tuple[cKDTree, NDArray[np.float64], NDArray[np.float64]]:
        frames = self.frames
        centres = unit_vectors(frames["ra"].to_numpy(), frames["dec"].to_numpy())
        return cKDTree(centres), centres, frames["radius"].to_numpy()

    def cutout(
        self,
        coord: SkyCoord,
        *,
        size: int = 64,
        zoom: int = 0,
        bands: str = BANDS,
        time: tuple[float, float] | None = None,
    ) -> NDData:
        """Cut one image with its uncertainty and WCS.

        Parameters
        ----------
        coord : SkyCoord
            Scalar.
        size : int
            Native pixels along each axis.
        zoom : int
        bands : str
        time : tuple of float, optional
            Only frames taken between these MJD.

        Returns
        -------
        NDData
            Data (bands, s, s) in nanomaggies a native pixel (a zoom is a mean); mask True where invalid; WCS
            of the first band that has a frame, at this zoom. ``meta``: ``bands``, ``frame_id``, ``mjd``,
            ``wcs`` (by band), ``coverage`` (bands, s, s), ``zoom``.

        Raises
        ------
        UsageError
            If a zoom or band does not exist, the size is out of range, or `coord` is not one position.
        DataError
            If no frame holds the position.
        """
        self._require_zoom(zoom)
        self._require_size(size)
        ra, dec = positions(*position(coord))
        best = self._best_frames(ra, dec, size, self._require_bands(bands), time)
        found = {band: int(chosen.frame[0]) for band, chosen in best.items() if chosen.frame[0] >= 0}
        if not found:
            raise DataError(
                f"no frame in {bands} holds RA {ra[0]:.5f} Dec {dec[0]:+.5f}"
                + ("" if time is None else f" between MJD {time[0]} and {time[1]}"),
                remedy=self._whereabouts(),
                path=self.path,
            )
        samples = Samples(
            *(
                array[0]
                for array in self.cutouts(ra, dec, size=size, zooms=(zoom,), bands=bands, time=time)[zoom]
            )
        )
        frames = self.frames
        wcs = {}
        for band, frame in found.items():
            corner = int(best[band].x0[0]), int(best[band].y0[0])
            wcs[band] = zoom_wcs(frame_wcs(frames["wcs"].iloc[frame]), zoom, corner)
            wcs[band].array_shape = samples.value.shape[1:]
        return NDData(
            samples.value,
            uncertainty=StdDevUncertainty(samples.sigma),
            mask=samples.coverage == 0,
            wcs=wcs[next(iter(found))],
            unit=units.Unit(self.meta["image"]["unit"]),
            meta={
                "bands": bands,
                "zoom": zoom,
                "frame_id": {band: str(frames["frame_id"].iloc[frame]) for band, frame in found.items()},
                "mjd": {band: float(frames["mjd"].iloc[frame]) for band, frame in found.items()},
                "wcs": wcs,
                "coverage": samples.coverage,
            },
        )

    def frame_epochs(self, coord: SkyCoord, band: str) -> pd.DataFrame:
        """Return all frames of a band that hold a position, in order of time.

        Raises
        ------
        UsageError
            If the band does not exist, or `coord` is not one position.
        """
        ra, dec = positions(*position(coord))
        held = [frame for frame, *_ in self._holders(ra, dec, 1, self._require_bands(band), None)]
        return self.frames.iloc[held].sort_values("mjd").reset_index(drop=True)

    def spectrum(self, name: str, zoom: int = 0) -> SpecutilsSpectrum:
        """Return one spectrum on the cube's grid.

        Parameters
        ----------
        name : str
            A spectrum_id, or an object_id for its best spectrum.
        zoom : int

        Returns
        -------
        specutils.Spectrum
            Flux with StdDevUncertainty, mask True where invalid, vacuum wavelengths; the index row in
            ``meta``.

        Raises
        ------
        DataError
            If no spectrum or object has this name.
        """
        self._require_zoom(zoom)
        rows = np.flatnonzero((self.spectra["spectrum_id"] == name).to_numpy())
        if len(rows) == 0:
            best = self.objects.loc[self.objects["object_id"] == name, "spectrum_id"]
            if best.empty:
                raise self._unknown(name, "spectra")
            rows = np.flatnonzero((self.spectra["spectrum_id"] == best.iloc[0]).to_numpy())
        return self._spectrum(int(rows[0]), zoom)

    def epochs(self, object_id: str, zoom: int = 0) -> list[SpecutilsSpectrum]:
        """Return all spectra of an object in order of time; see `spectrum`.

        Raises
        ------
        DataError
            If no object has this name.
        """
        self._require_zoom(zoom)
        rows = np.flatnonzero((self.spectra["object_id"] == object_id).to_numpy())
        if len(rows) == 0:
            raise self._unknown(object_id, "objects")
        table = self.spectra.iloc[rows]
        order = np.lexsort((table["spectrum_id"].to_numpy().astype(str), table["mjd"].to_numpy()))
        return [self._spectrum(int(row), zoom) for row in rows[order]]

    def spectrum_samples(self, rows: ArrayLike, zoom: int = 0) -> Samples:
        """Return stored spectra, shape (n, bins), by their positions in `spectra`.

        Raises
        ------
        UsageError
            If the zoom does not exist, or the rows are no whole numbers.
        DataError
            If a row does not exist.
        """
        self._require_zoom(zoom)
        chosen = self._require_rows(rows, "spectra")
        out = [np.empty((len(chosen), self.grid.sizes[zoom]), dtype) for dtype in COMPONENTS.values()]
        picked = self.spectra[["tile", "row"]].iloc[chosen].reset_index(drop=True)
        for tile, group in picked.groupby("tile", sort=True):
            for component, values in zip(COMPONENTS, out, strict=True):
                array = self._map(str(tile), f"/spectra/{zoom}/{component}")
                values[group.index.to_numpy()] = array[group["row"].to_numpy()]
        return Samples(*out)

    def _spectrum(self, row: int, zoom: int) -> SpecutilsSpectrum:
        # Half a second to import, and only this face needs it.
        from specutils import Spectrum

        samples = self.spectrum_samples([row], zoom)
        flux_unit = units.Unit(self.meta["spectrum"]["unit"])
        return Spectrum(
            flux=samples.value[0] * flux_unit,
            spectral_axis=self.grid.centres(zoom) * units.AA,
            uncertainty=StdDevUncertainty(samples.sigma[0]),
            mask=samples.coverage[0] == 0,
            meta=dict(self.spectra.iloc[row]) | {"coverage": samples.coverage[0], "zoom": zoom},
        )

    def select(
        self,
        what: What = "objects",
        region: Region | None = None,
        time: tuple[float, float] | None = None,
        bands: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the rows of an index that meet all conditions; their labels are positions in that index.

        Parameters
        ----------
        what : "objects", "frames" or "spectra"
        region : Cone, Box or mocpy.MOC, optional
            Objects and spectra by position; frames that overlap it.
        time : tuple of float, optional
            First and last MJD: frames and spectra taken in it, objects with a spectrum taken in it.
        bands : str, optional
            Frames in one of them; objects that a frame holds in each of them.
        ids : sequence of str, optional
            Names; for objects, of the object or of any of its spectra.

        Raises
        ------
        UsageError
            If `what`, a band, the interval or the region makes no sense.
        DataError
            If a name is unknown.
        """
        if what not in _KEYS:
            raise UsageError(f"a cube has no '{what}'", remedy=f"ask for one of {', '.join(_KEYS)}")
        table: pd.DataFrame = getattr(self, what)
        keep = np.ones(len(table), bool)
        if ids is not None:
            keep &= self._named(what, ids)
        if region is not None:
            if what == "frames":
                keep &= meets(region, table["corners"].tolist())
            else:
                keep &= holds(region, table["ra"].to_numpy(), table["dec"].to_numpy())
        if time is not None:
            start, end = self._require_time(time)
            if what == "objects":
                seen = self.spectra.loc[self.spectra["mjd"].between(start, end), "object_id"]
                keep &= table["object_id"].isin(seen).to_numpy()
            else:
                keep &= table["mjd"].between(start, end).to_numpy()
        if bands is not None:
            self._require_bands(bands)
            if what == "frames":
                keep &= table["band"].isin(list(bands)).to_numpy()
            elif what == "objects":
                keep &= table[[f"frame_{band}" for band in bands]].notna().all(axis=1).to_numpy()
            else:
                raise UsageError("spectra have no bands", remedy="select objects or frames by band")
        return table[keep]

    def _named(self, what: What, ids: Sequence[str]) -> NDArray[np.bool_]:
        table: pd.DataFrame = getattr(self, what)
        key = _KEYS[what]
        # A lone name is a sequence of characters.
        ids = [ids] if isinstance(ids, str) else list(ids)
        names = ids
        if what == "objects":
            of_spectrum = dict(zip(self.spectra["spectrum_id"], self.spectra["object_id"], strict=True))
            names = [of_spectrum.get(name, name) for name in names]
        there = set(table[key])
        for given, name in zip(ids, names, strict=True):
            if name not in there:
                raise self._unknown(given, what)
        return np.asarray(table[key].isin(names).to_numpy(), bool)

    def require(self, *, zoom: int = 0, bands: str = BANDS) -> None:
        """Raise UsageError unless the cube has this zoom and these bands."""
        self._require_zoom(zoom)
        self._require_bands(bands)

    def _require_rows(self, rows: ArrayLike, what: What) -> NDArray[np.int64]:
        count = len(getattr(self, what))
        given = np.atleast_1d(np.asarray(rows))
        if given.size and (given.ndim > 1 or given.dtype.kind not in "iu"):
            raise UsageError(
                f"{given.dtype} of shape {given.shape} are no rows", remedy=f"give positions in Cube.{what}"
            )
        chosen = given.astype(np.int64).reshape(-1)
        outside = chosen[(chosen < 0) | (chosen >= count)]
        if len(outside):
            raise DataError(
                f"row {outside[0]} is not among the {count} {what}",
                remedy=f"ask for rows 0 to {count - 1}",
                path=self.path,
            )
        return chosen

    def _require_size(self, size: int) -> None:
        if not isinstance(size, int | np.integer) or not 1 <= size <= MAX_SIZE:
            raise UsageError(
                f"a cutout of {size} pixels cannot be made",
                remedy=f"give a whole number of pixels from 1 to {MAX_SIZE}",
            )

    def _require_zoom(self, zoom: int) -> None:
        if not isinstance(zoom, int | np.integer) or zoom not in range(self.zooms):
            raise UsageError(
                f"there is no zoom {zoom}", remedy=f"choose 0 (native) to {self.zooms - 1}", path=self.path
            )

    def _require_bands(self, bands: str) -> str:
        known = isinstance(bands, str) and bands and set(bands) <= set(BANDS)
        if not known or len(set(bands)) < len(bands):
            raise UsageError(f"'{bands}' are no bands", remedy=f"choose among {BANDS}, each once")
        return bands

    def _require_time(self, time: tuple[float, float]) -> tuple[float, float]:
        try:
            start, end = (float(mjd) for mjd in time)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{time!r} is no interval", remedy="give two MJD, the earlier first") from error
        if not start <= end:
            raise UsageError(f"the interval {start} to {end} is empty", remedy="give the earlier MJD first")
        return start, end

    def _unknown(self, name: str, what: What) -> DataError:
        from difflib import get_close_matches

        names = getattr(self, what)[_KEYS[what]].to_list()
        # The first characters of a name lead to its part of the sky, or to its plate or run.
        near = get_close_matches(name, names, n=1, cutoff=0.0) if len(names) <= 20_000 else []
        if not near and names:
            near = [min(names, key=lambda other: (-_common(name, other), other))]
        remedy = f"the nearest is {near[0]}" if near else "this cube holds none"
        return DataError(f"there is no '{name}' among the {what}", remedy=remedy, path=self.path)

    def _whereabouts(self) -> str:
        """Say where the cube's frames lie."""
        frames = self.frames
        if len(frames) == 0:
            return "this cube holds no frames"
        ra, dec = frames["ra"].to_numpy(), frames["dec"].to_numpy()
        middle = np.degrees(np.angle(np.mean(np.exp(1j * np.radians(ra))))) % 360
        offset = (ra - middle + 180) % 360 - 180
        reach = frames["radius"].max()
        return (
            f"its {len(frames)} frames lie between RA {(middle + offset.min() - reach) % 360:.3f} and "
            f"{(middle + offset.max() + reach) % 360:.3f}, "
            f"Dec {dec.min() - reach:+.3f} and {dec.max() + reach:+.3f}"
        )


def _state(path: Path) -> tuple[int, int] | None:
    """Return what changes when a build ends: its cube.json is another file."""
    try:
        status = (path / "cube.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_sound(meta: dict[str, Any]) -> bool:
    """Tell whether a cube.json holds all that reading relies on."""
    image, spectrum, counts = (meta.get(name) for name in ("image", "spectrum", "counts"))
    return (
        meta.get("grid") in [*GRIDS]
        and _is_count(meta.get("zooms"), 1)
        and isinstance(image, dict)
        and _is_count(image.get("size"), 1)
        and isinstance(image.get("unit"), str)
        and isinstance(spectrum, dict)
        and isinstance(spectrum.get("unit"), str)
        and isinstance(counts, dict)
        and all(_is_count(counts.get(name), 0) for name in _KEYS)
        and meta["zooms"] <= len(GRIDS[meta["grid"]].sizes)
    )


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class _Best:
    """For each position: the chosen frame (-1: none), is the cutout wholly on it, where it begins."""

    def __init__(self, count: int) -> None:
        self.frame = np.full(count, -1, np.int64)
        self.inside = np.zeros(count, bool)
        self.x0 = np.zeros(count, np.int64)
        self.y0 = np.zeros(count, np.int64)


def _common(one: str, other: str) -> int:
    """Count the leading characters that two names share."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
