"""Asking a cube: aligned arrays, cutouts, spectra, and what lies in a region, a time or a band."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData, StdDevUncertainty
from numpy.typing import ArrayLike, NDArray

from skyfuse.checksums import read_checksums, verified
from skyfuse.cube.catalogue import read_catalogue, schema_of
from skyfuse.cube.contents import CubeImaging, CubeSpectroscopy, is_sound, sigma_of
from skyfuse.cube.cutout import cut_into, frame_wcs
from skyfuse.cube.grid import grid_named, healpix29, zoom_wcs
from skyfuse.cube.holders import Best, Holders
from skyfuse.cube.layout import COMPONENTS, FORMAT, has_array, map_array, prefetch, tile_path
from skyfuse.cube.pyramid import image_levels
from skyfuse.cube.region import Region, holds, meets
from skyfuse.cube.staging import is_switching, settle
from skyfuse.disk import parse_json
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.sphere import position, positions
from skyfuse.survey.records import Samples
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
    instruments : dict
        Its entry ``instruments``: what it holds of each.

    Examples
    --------
    >>> cube = Cube.open("stripe.cube")  # doctest: +SKIP
    >>> cut = cube.cutout(SkyCoord("0h42m -0d30m"), zoom=1, bands="gri")  # doctest: +SKIP
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.instruments: dict[str, dict[str, Any]] = meta["instruments"]
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
        if not is_sound(meta):
            raise StoreError("is damaged", remedy=_AGAIN, path=path / "cube.json")
        cube = cls(path, meta)
        cube._opened = state
        return cube

    def imaging(self, instrument: str | None = None) -> CubeImaging:
        """Return what the images of an instrument have in common.

        Parameters
        ----------
        instrument : str, optional
            By default the only one with images.

        Raises
        ------
        UsageError
            If several have images and none is named, or the named one has none.
        DataError
            If the cube holds no images.
        """
        name, told = self._told("image", instrument)
        return CubeImaging(
            name, tuple(told["bands"]), told["size"], told["zooms"], told["unit"], told["pixel_arcsec"]
        )

    def spectroscopy(self, instrument: str | None = None) -> CubeSpectroscopy:
        """Return what the spectra of an instrument have in common; see `imaging`."""
        name, told = self._told("spectrum", instrument)
        return CubeSpectroscopy(name, grid_named(told["grid"]), told["zooms"], told["unit"], sigma_of(told))

    def instruments_with(self, kind: Sampled) -> list[str]:
        """Return the names of the instruments that have images, or spectra, in the cube."""
        return [name for name, told in self.instruments.items() if kind in told]

    def _told(self, kind: Sampled, instrument: str | None) -> tuple[str, dict[str, Any]]:
        names = self.instruments_with(kind)
        noun = "images" if kind == "image" else "spectra"
        if instrument is None and len(names) == 1:
            instrument = names[0]
        if not names:
            raise DataError(f"holds no {noun}", remedy=f"build it with {noun}", path=self.path)
        if instrument not in names:
            fault = f"holds {noun} of {' and '.join(names)}"
            if instrument is not None:
                fault += f", not of {instrument}"
            raise UsageError(fault, remedy="name one instrument", path=self.path)
        return instrument, self.instruments[instrument][kind]

    def _read(self, what: What) -> pd.DataFrame:
        table = read_catalogue(self.path, what, schema_of(what, self.instruments))
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
        """Frames: a row each, columns as in `skyfuse.cube.catalogue.schema_of`."""
        return self._read("frames")

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """Spectra of all epochs: a row each, columns as in `skyfuse.cube.catalogue.schema_of`."""
        return self._read("spectra")

    @cached_property
    def objects(self) -> pd.DataFrame:
        """Objects: a row each, columns as in `skyfuse.cube.catalogue.schema_of`."""
        return self._read("objects")

    @cached_property
    def _holders(self) -> Holders:
        return Holders(self.frames)

    def gather(self, kind: Sampled, zoom: int, rows: ArrayLike, instrument: str | None = None) -> Samples:
        """Return the stored arrays of objects.

        Parameters
        ----------
        kind : "image" or "spectrum"
        zoom : int
        rows : array_like of int
            Positions in `objects`.
        instrument : str, optional
            By default the only one with such data.

        Returns
        -------
        Samples
            Images (n, bands, s, s), spectra (n, bins); NaN with coverage 0 where the instrument saw nothing.

        Raises
        ------
        UsageError
            If the kind, the instrument or the zoom does not exist, or the rows are no whole numbers.
        DataError
            If a row does not exist.
        """
        if kind not in ("image", "spectrum"):
            raise UsageError(f"objects have no '{kind}'", remedy="ask for 'image' or 'spectrum'")
        name, told = self._told(kind, instrument)
        self._require_zoom(zoom, told["zooms"])
        positions = self._require_rows(rows, "objects")
        shape: tuple[int, ...] = (told["sizes"][zoom],) if kind == "spectrum" else ()
        if kind == "image":
            size = -(-told["size"] // 2**zoom)
            shape = (len(told["bands"]), size, size)
        return self._gathered(self.objects, positions, shape, f"/objects/{name}/{zoom}/{kind}")

    def _gathered(
        self, table: pd.DataFrame, positions: NDArray[np.int64], shape: tuple[int, ...], group: str
    ) -> Samples:
        """Return rows of an index from the arrays of their tiles; a tile without them has no data."""
        out = [np.empty((len(positions), *shape), dtype) for dtype in COMPONENTS.values()]
        picked = table[["tile", "row"]].iloc[positions].reset_index(drop=True)
        for tile, members in picked.groupby("tile", sort=True):
            wanted = members["row"].to_numpy()
            order = np.argsort(wanted, kind="stable")
            target = members.index.to_numpy()[order]
            there = has_array(tile_path(self.path, str(tile)), f"{group}/value")
            for component, values in zip(COMPONENTS, out, strict=True):
                if not there:
                    values[target] = 0 if component == "coverage" else np.nan
                    continue
                array = self._map(str(tile), f"{group}/{component}")
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
        bands: str | Sequence[str] | None = None,
        time: tuple[float, float] | None = None,
        instrument: str | None = None,
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
        bands : str or sequence of str, optional
            See `CubeImaging.chosen`; by default all of the instrument.
        time : tuple of float, optional
            Only frames taken between these MJD.
        instrument : str, optional
            By default the only one with images.

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
        imaging = self.imaging(instrument)
        chosen = imaging.chosen(bands)
        for zoom in zooms:
            self._require_zoom(zoom, imaging.zooms)
        self._require_size(size)
        ra, dec = positions(ra, dec)
        usable = self._usable(imaging, chosen, time)
        best = self._holders.best(ra, dec, size, chosen, usable)
        out: dict[int, list[NDArray[Any]]] = {}
        for zoom in zooms:
            shape = (len(ra), len(chosen), -(-size // 2**zoom), -(-size // 2**zoom))
            out[zoom] = [np.empty(shape, dtype) for dtype in COMPONENTS.values()]
        depth = max(zooms, default=0) + 1
        # Neighbours on the sky share frames: batches of neighbours touch few of them.
        order = np.argsort(healpix29(ra, dec), kind="stable") if len(ra) else np.empty(0, np.int64)
        count = max(1, _BATCH_PIXELS // size**2)
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            levels = image_levels(*self._native(batch, imaging.instrument, size, best), depth)
            for zoom, arrays in out.items():
                for array, values in zip(arrays, levels[zoom], strict=True):
                    array[batch] = values
        return {zoom: Samples(*arrays) for zoom, arrays in out.items()}

    def _native(
        self, batch: NDArray[np.int64], instrument: str, size: int, best: dict[str, Best]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cut a batch of positions at the native resolution, frame by frame."""
        value = np.full((len(batch), len(best), size, size), np.nan, np.float32)
        sigma = value.copy()
        tiles, rows, ny, nx = (self.frames[name].to_numpy() for name in ("tile", "row", "ny", "nx"))
        for column, chosen in enumerate(best.values()):
            frame_of = chosen.frame[batch]
            for frame in np.unique(frame_of[frame_of >= 0]):
                held = np.flatnonzero(frame_of == frame)
                x0, y0 = chosen.x0[batch[held]], chosen.y0[batch[held]]
                for component, target in (("value", value), ("sigma", sigma)):
                    array = self._map(tiles[frame], f"/frames/{instrument}/0/{component}")[
                        rows[frame], : ny[frame], : nx[frame]
                    ]
                    cut_into(array, x0, y0, held, target[:, column])
        return value, sigma

    def _usable(
        self, imaging: CubeImaging, bands: Sequence[str], time: tuple[float, float] | None
    ) -> NDArray[np.bool_]:
        """Return which frames images may be cut from."""
        frames = self.frames
        usable = (frames["instrument"] == imaging.instrument) & frames["band"].isin(bands)
        # Without a zero point a frame has a unit of its own.
        usable &= frames["unit"] == imaging.unit
        if time is not None:
            usable &= frames["mjd"].between(*self._require_time(time))
        return usable.to_numpy(bool)

    def cutout(
        self,
        coord: SkyCoord,
        *,
        size: int = 64,
        zoom: int = 0,
        bands: str | Sequence[str] | None = None,
        time: tuple[float, float] | None = None,
        instrument: str | None = None,
    ) -> NDData:
        """Cut one image with its uncertainty and WCS.

        Parameters
        ----------
        coord : SkyCoord
            Scalar.
        size : int
            Native pixels along each axis.
        zoom : int
        bands : str or sequence of str, optional
            See `CubeImaging.chosen`; by default all of the instrument.
        time : tuple of float, optional
            Only frames taken between these MJD.
        instrument : str, optional
            By default the only one with images.

        Returns
        -------
        NDData
            Data (bands, s, s) in the instrument's unit a native pixel (a zoom is a mean); mask True where
            invalid; WCS of the first band that has a frame, at this zoom. ``meta``: ``instrument``,
            ``unit``, ``bands``, ``frame_id``, ``mjd``, ``wcs`` (by band), ``coverage``
            (bands, s, s), ``zoom``.

        Raises
        ------
        UsageError
            If a zoom or band does not exist, the size is out of range, or `coord` is not one position.
        DataError
            If no frame holds the position.
        """
        imaging = self.imaging(instrument)
        chosen_bands = imaging.chosen(bands)
        self._require_zoom(zoom, imaging.zooms)
        self._require_size(size)
        ra, dec = positions(*position(coord))
        usable = self._usable(imaging, chosen_bands, time)
        best = self._holders.best(ra, dec, size, chosen_bands, usable)
        found = {band: int(chosen.frame[0]) for band, chosen in best.items() if chosen.frame[0] >= 0}
        if not found:
            raise DataError(
                f"no frame in {', '.join(chosen_bands)} holds RA {ra[0]:.5f} Dec {dec[0]:+.5f}"
                + ("" if time is None else f" between MJD {time[0]} and {time[1]}"),
                remedy=self._holders.whereabouts(usable),
                path=self.path,
            )
        cut = self.cutouts(
            ra, dec, size=size, zooms=(zoom,), bands=chosen_bands, time=time, instrument=imaging.instrument
        )
        samples = Samples(*(array[0] for array in cut[zoom]))
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
            unit=units.Unit(imaging.unit, parse_strict="silent"),
            meta={
                "instrument": imaging.instrument,
                "bands": chosen_bands,
                "unit": imaging.unit,
                "zoom": zoom,
                "frame_id": {band: str(frames["frame_id"].iloc[frame]) for band, frame in found.items()},
                # NaN where a coadd has no time.
                "mjd": {band: float(frames["mjd"].iloc[frame]) for band, frame in found.items()},
                "wcs": wcs,
                "coverage": samples.coverage,
            },
        )

    def frame_epochs(self, coord: SkyCoord, band: str, instrument: str | None = None) -> pd.DataFrame:
        """Return all frames of a band of an instrument that hold a position, in order of time.

        Raises
        ------
        UsageError
            If the band does not exist, or `coord` is not one position.
        """
        ra, dec = positions(*position(coord))
        imaging = self.imaging(instrument)
        frames = self.frames
        usable = frames["instrument"].eq(imaging.instrument) & frames["band"].isin(imaging.chosen(band))
        held = [frame for frame, *_ in self._holders.of(ra, dec, 1, usable.to_numpy(bool))]
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
        rows = np.flatnonzero((self.spectra["spectrum_id"] == name).to_numpy())
        if len(rows) == 0:
            best = self.objects.loc[self.objects["object_id"] == name, "spectrum_id"].dropna()
            if best.empty and name in set(self.objects["object_id"]):
                raise DataError(
                    f"the object {name} has no spectrum", remedy="ask for its images", path=self.path
                )
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
        if object_id not in set(self.objects["object_id"]):
            raise self._unknown(object_id, "objects")
        rows = np.flatnonzero((self.spectra["object_id"] == object_id).to_numpy())
        table = self.spectra.iloc[rows]
        order = np.lexsort((table["spectrum_id"].to_numpy().astype(str), table["mjd"].to_numpy()))
        return [self._spectrum(int(row), zoom) for row in rows[order]]

    def spectrum_samples(self, rows: ArrayLike, zoom: int = 0) -> Samples:
        """Return stored spectra of one instrument, shape (n, bins), by their positions in `spectra`.

        Raises
        ------
        UsageError
            If the zoom does not exist, the rows are no whole numbers, or of several instruments.
        DataError
            If a row does not exist.
        """
        found = self._require_rows(rows, "spectra")
        names = sorted(set(self.spectra["instrument"].iloc[found]))
        if len(names) > 1:
            raise UsageError(
                f"the rows are spectra of {' and '.join(names)}", remedy="ask for those of one instrument"
            )
        spectroscopy = self.spectroscopy(names[0] if names else None)
        self._require_zoom(zoom, spectroscopy.zooms)
        group = f"/spectra/{spectroscopy.instrument}/{zoom}"
        return self._gathered(self.spectra, found, (spectroscopy.grid.sizes[zoom],), group)

    def _spectrum(self, row: int, zoom: int) -> SpecutilsSpectrum:
        # Half a second to import, and only this face needs it.
        from specutils import Spectrum

        samples = self.spectrum_samples([row], zoom)
        spectroscopy = self.spectroscopy(self.spectra["instrument"].iloc[row])
        return Spectrum(
            flux=samples.value[0] * units.Unit(spectroscopy.unit),
            spectral_axis=spectroscopy.grid.centres(zoom) * units.AA,
            uncertainty=StdDevUncertainty(samples.sigma[0]),
            mask=samples.coverage[0] == 0,
            meta=dict(self.spectra.iloc[row]) | {"coverage": samples.coverage[0], "zoom": zoom},
        )

    def select(
        self,
        what: What = "objects",
        region: Region | None = None,
        time: tuple[float, float] | None = None,
        bands: str | Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        instrument: str | None = None,
    ) -> pd.DataFrame:
        """Return the rows of an index that meet all conditions; their labels are positions in that index.

        Parameters
        ----------
        what : "objects", "frames" or "spectra"
        region : Cone, Box or mocpy.MOC, optional
            Objects and spectra by position; frames that overlap it.
        time : tuple of float, optional
            First and last MJD: frames and spectra taken in it, objects with a spectrum taken in it.
        bands : str or sequence of str, optional
            Frames in one of them; objects that a frame holds in each of them.
        ids : sequence of str, optional
            Names; for objects, of the object, of any of its spectra, or what a table of objects calls it.
        instrument : str, optional
            Frames and spectra of it, objects that it saw; also whose bands are meant, by default those of the
            only one with images.

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
        if instrument is not None:
            keep &= self._seen_by(table, what, instrument)
        if bands is not None:
            imaging = self.imaging(instrument)
            chosen = imaging.chosen(bands)
            if what == "frames":
                of_bands = (table["instrument"] == imaging.instrument) & table["band"].isin(chosen)
                keep &= of_bands.to_numpy(bool)
            elif what == "objects":
                keep &= table[[f"frame_{imaging.instrument}_{band}" for band in chosen]].notna().all(axis=1)
            else:
                raise UsageError("spectra have no bands", remedy="select objects or frames by band")
        return table[keep]

    def _seen_by(self, table: pd.DataFrame, what: What, instrument: str) -> NDArray[np.bool_]:
        """Return which rows an instrument took, or which objects it saw."""
        if instrument not in self.instruments:
            raise UsageError(
                f"there is no instrument '{instrument}'",
                remedy=f"choose among {', '.join(self.instruments)}",
                path=self.path,
            )
        if what != "objects":
            return (table["instrument"] == instrument).to_numpy(bool)
        told = self.instruments[instrument]
        names = [f"frame_{instrument}_{band}" for band in told.get("image", {}).get("bands", ())]
        names += [f"spectrum_{instrument}"] if "spectrum" in told else []
        return table[names].notna().any(axis=1).to_numpy(bool)

    def _named(self, what: What, ids: Sequence[str]) -> NDArray[np.bool_]:
        table: pd.DataFrame = getattr(self, what)
        key = _KEYS[what]
        # A lone name is a sequence of characters.
        ids = [ids] if isinstance(ids, str) else list(ids)
        names = ids
        if what == "objects":
            of_spectrum = dict(zip(self.spectra["spectrum_id"], self.spectra["object_id"], strict=True))
            named = self.objects.dropna(subset="source_id")
            of_spectrum |= dict(zip(named["source_id"], named["object_id"], strict=True))
            names = [of_spectrum.get(name, name) for name in names]
        there = set(table[key])
        for given, name in zip(ids, names, strict=True):
            if name not in there:
                raise self._unknown(given, what)
        return np.asarray(table[key].isin(names).to_numpy(), bool)

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

    def _require_zoom(self, zoom: int, zooms: int) -> None:
        if not isinstance(zoom, int | np.integer) or zoom not in range(zooms):
            raise UsageError(
                f"there is no zoom {zoom}", remedy=f"choose 0 (native) to {zooms - 1}", path=self.path
            )

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


def _state(path: Path) -> tuple[int, int] | None:
    """Return what changes when a build ends: its cube.json is another file."""
    try:
        status = (path / "cube.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _common(one: str, other: str) -> int:
    """Count the leading characters that two names share."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
