"""Building a cube: scan, plan, independent tile tasks on any executor, indexes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from skyfuse.checksums import (
    NAME,
    damaged,
    digest,
    named_sha256,
    read_checksums,
    read_stamped,
    write_checksums,
)
from skyfuse.cube.catalogue import schema_of, write_catalogue
from skyfuse.cube.contents import AS_ASKED
from skyfuse.cube.grid import grid_named
from skyfuse.cube.layout import FORMAT, TILE_ORDER, VERSION, tile_path
from skyfuse.cube.scan import Record, Reject, Runner, Scan, remember, scan, sort_out, walk
from skyfuse.cube.staging import INDEXES, TILES, WRITER, clean, go_on, next_folder, switch
from skyfuse.cube.standing import REPLACE, Standing, read_standing
from skyfuse.cube.tiles import Setup, TilePlan, build_tile, is_built, ledger_path, plan
from skyfuse.disk import dumps, locked, replaced, write_json
from skyfuse.errors import DataError, StoreError, UsageError, shown
from skyfuse.processes import Context
from skyfuse.survey import registry
from skyfuse.survey.noise import FORMAL, MODEL, noise_model, noise_name
from skyfuse.survey.records import Imaging, Instrument
from skyfuse.words import Progress

MAX_TILE_BYTES = 2 * 1024**3
"""A tile that would outgrow this splits into its four children."""

_CACHE = "ledger/scan.jsonl"


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did; `str` gives the table that the command line prints.

    Attributes
    ----------
    out : Path
        Folder of the cube.
    asked : int
        Records found in the inputs: most files hold one, some thousands; one that holds none counts as one.
    frames, spectra : int
        Records that the cube holds.
    sources : int
        Rows of tables of objects that the cube holds.
    objects : int
        Groups of spectra and sources within 1″.
    without_image : int
        Objects that no frame holds.
    without_spectrum : int
        Objects without a spectrum.
    uncalibrated : int
        Frames whose files do not tell their zero point: kept in their own unit, never cut for objects.
    partners : int
        Files that were read together with others (weights, masks, redshifts).
    rejected : dict of str to int
        Records that the cube does not hold, by reason.
    rejects : list of Reject
        The same one by one; also in ``ledger/rejects.parquet``.
    gone : int
        Files that the cube holds and that are no longer where they were, or have changed.
    tiles, built : int
        Tiles of the cube, and how many tile tasks this run had to do; the others stood there unchanged.
    seconds : float
        Wall time.
    forgotten : bool
        Whether the table of rejects of earlier builds was damaged: of them only files given now are told.
    """

    out: Path
    asked: int
    frames: int
    spectra: int
    sources: int
    objects: int
    without_image: int
    without_spectrum: int
    uncalibrated: int
    partners: int
    rejected: dict[str, int]
    rejects: list[Reject]
    gone: int
    tiles: int
    built: int
    seconds: float
    forgotten: bool = False

    @property
    def ingested(self) -> int:
        """Number of records that the cube holds."""
        return self.frames + self.spectra + self.sources

    def to_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return asdict(self) | {"out": str(self.out), "ingested": self.ingested}

    def __str__(self) -> str:
        counts = [("records asked", self.asked), ("ingested", self.ingested)]
        counts += [(f"rejected: {reason}", count) for reason, count in sorted(self.rejected.items())]
        counts += [("objects without image", self.without_image)]
        counts += [
            (what, count)
            for what, count in (
                ("objects without spectrum", self.without_spectrum),
                ("frames without zero point", self.uncalibrated),
                ("files read beside others", self.partners),
                ("ingested, file gone now", self.gone),
            )
            if count
        ]
        lines = [
            f"{self.out}: {self.frames} frames, {self.spectra} spectra, {self.objects} objects "
            f"in {self.tiles} tiles ({self.built} tasks run now), {self.seconds:.1f} s",
            *(f"{what:<26}{count:>9}" for what, count in counts),
        ]
        if self.forgotten:
            lines.append(
                "The table of rejected files was damaged and is made anew: those of earlier builds are in it "
                "only if they were given again."
            )
        if self.rejects:
            lines.append(f"Each rejected record with its reason: {self.out / 'ledger' / 'rejects.parquet'}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Reading:
    """How spectra are read.

    Attributes
    ----------
    keep_unclassified : bool
        Also take spectra without the pipeline's class and redshift, as for a prediction: these columns of the
        indexes are then null. Otherwise such files are rejected.
    sigma : "model" or "formal", optional
        Where their σ comes from: the noise model of their instrument, where there is one (see
        `skyfuse.survey.noise`), or only what their files say; by default as in the cube, in a new one from
        the model.
    """

    keep_unclassified: bool = False
    sigma: str | None = None


def build(
    inputs: Sequence[Path | str],
    out: Path | str,
    *,
    grid: str | Mapping[str, str] | None = None,
    objects: Sequence[Path | str] = (),
    replace: bool = False,
    reading: Reading = Reading(),
    workers: int | str | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Turn survey files into a cube; run it again to resume, or to take up what is new.

    What stands in a cube stays: the files given now are added to those that it was built from, which need not
    be given again, nor be there any more, as long as their tiles stay as they are. A build that would lose or
    replace something is refused before it changes anything. Until the end readers see the cube as it was.

    Parameters
    ----------
    inputs : sequence of path
        Files or folders; each file is recognised by what it is, see `skyfuse.survey.registry`.
    out : path
        Folder of the cube.
    grid : str or mapping of str to str, optional
        Wavelength grid, see `skyfuse.cube.grid.grid_named`: of all spectra, or by instrument; by default that
        of the cube, in a new one that of each instrument.
    objects : sequence of path
        Tables of positions, whose rows are objects whether or not they have a spectrum.
    replace : bool
        Make the cube anew of the files given now, whatever it holds.
    reading : Reading
    workers : int or str, optional
        Worker processes, by default one for each processor; 1 runs the tasks in this process. The address of
        a Dask scheduler lets that run the tasks; its workers must see the same files.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    BuildReport

    Raises
    ------
    UsageError
        If an input does not exist, `grid` or `reading.sigma` is unknown, or `out` is a file or a folder of
        something else.
    DataError
        If no input holds a frame or a spectrum.
    StoreError
        If another build writes the same cube, the disk is full, worker processes die, or the cube would lose
        what it holds: files that have changed or are gone and whose tiles must be built again, another grid,
        another σ, another version of Skyfuse.
    KeyboardInterrupt
        On Ctrl-C, with a message; what is finished stays.
    """
    started = time.monotonic()
    paths, out = [Path(path) for path in inputs], Path(out)
    grids = {} if grid is None else {"": grid} if isinstance(grid, str) else dict(grid)
    grids = {name: grid_named(text).name for name, text in grids.items()}
    if unknown := sorted(grids.keys() - {"", *registry.instruments()}):
        raise UsageError(
            f"there is no instrument {unknown[0]!r} to have a grid",
            remedy=f"choose among {', '.join(sorted(registry.instruments()))}",
        )
    if reading.sigma not in (None, MODEL, FORMAL):
        raise UsageError(f"there is no σ {reading.sigma!r} of spectra", remedy=f"choose {MODEL} or {FORMAL}")
    if not paths and not objects:
        raise UsageError("a build needs inputs", remedy="name files or folders of frames and spectra")
    files, not_files = walk(paths, out)
    tables, _ = walk([Path(path) for path in objects], out)
    if not files and not not_files and not tables:
        raise DataError("holds no files", remedy="name a folder with frames or spectra", path=paths[0])
    _require_own(out)
    with locked(out, *WRITER), _runner(workers, len(files)) as run:
        go_on(out)
        clean(out)
        standing = None if replace else read_standing(out, grids, reading.sigma)
        cache = out / _CACHE
        try:
            given = scan(sorted({*files, *tables}), cache, run, progress, tables=frozenset(tables))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{out}: stopped while recognising files; run the same command again to go on"
            ) from None
        task = _Task([*paths, *map(Path, objects)], out, grids, standing, reading)
        return task.run(given, not_files, run, progress, started)


def holds_only(out: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether a cube was built from files under the inputs alone.

    Parameters
    ----------
    out : path
        Folder of the cube, which need not be there.
    inputs : sequence of path
    """
    standing = read_standing(Path(out), {})
    return standing is None or standing.records.keys() <= set(walk(inputs, Path(out))[0])


class _Task:
    """One build: what it was asked for, and what stood there before.

    Attributes
    ----------
    root : Path
        Where its files go: the cube's own folder as long as no build has ended there, else beside the state
        that readers see.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        out: Path,
        grids: Mapping[str, str],
        standing: Standing | None,
        reading: Reading,
    ) -> None:
        self.inputs = inputs
        self.out = out
        self.grids = ({} if standing is None else standing.grids) | dict(grids)
        self.reading = reading
        self.standing = standing
        self.root = next_folder(out) if (out / "cube.json").exists() else out

    def run(
        self,
        given: dict[str, Record],
        not_files: Sequence[Reject],
        run: Runner,
        progress: Progress | None,
        started: float,
    ) -> BuildReport:
        """Build what is missing and let the cube appear in its next state."""
        self._require_usable(given, not_files)
        records = given if self.standing is None else self.standing.join(given)
        earlier = [] if self.standing is None else self.standing.earlier_rejects(given, records, not_files)
        tasks = 0
        while True:
            found = sort_out(
                records,
                [*not_files, *(earlier or ())],
                () if self.standing is None else self.standing.paths,
            )
            setup = self._setup(found)
            plans, todo = self._prepare(found, setup)
            _build_tiles(self.out, plans, todo, run, progress)
            tasks += len(todo)
            entries = self._entries(plans)
            # A file that failed only when read in full may have stood in the way of a whole one with the
            # same frame.
            failed = [reject for reject in _tile_rejects(entries) if reject.path in found.doubled]
            if not failed:
                report = self._finish(plans, entries, found, setup)
                return dataclasses.replace(
                    report, built=tasks, seconds=time.monotonic() - started, forgotten=earlier is None
                )
            remember(self.out / _CACHE, records, failed)

    def _setup(self, found: Scan) -> Setup:
        """Return what is known of the instruments whose frames and spectra were found."""
        known = registry.instruments()
        framed = {one.info.instrument for one in found.frames}
        observed = {one.info.instrument for one in found.spectra}
        grids = []
        for name in sorted(observed):
            told = known[name].spectroscopy if name in known else None
            if name not in self.grids and "" not in self.grids and told is None:
                raise UsageError(
                    f"the spectra of {name} have no wavelength grid", remedy="give one with --grid"
                )
            default = self.grids.get("", "" if told is None else told.grid)
            grids.append((name, grid_named(self.grids.get(name, default)).name))
        unknown = sorted((framed | observed) - known.keys())
        if unknown:
            raise StoreError(
                f"holds data of {unknown[0]}, which is not known here",
                remedy="name the same description with --instrument, or install the reader",
                path=self.out,
            )
        self._require_alike(known)
        return Setup(
            tuple(known[name] for name in sorted(framed | observed)),
            tuple(grids),
            self.reading.keep_unclassified,
            ()
            if self._formal
            else tuple((name, noise_name(name)) for name in sorted(observed) if noise_name(name)),
        )

    @property
    def _formal(self) -> bool:
        """Whether no noise model is asked of spectra, now or when the cube was begun."""
        own = {} if self.standing is None else self.standing.noise
        kept = any(noise_name(name) and not model for name, model in own.items())
        return self.reading.sigma == FORMAL or kept

    def _require_alike(self, known: Mapping[str, Instrument]) -> None:
        """Raise StoreError where what stands in the cube was read by another description."""
        if self.standing is None:
            return
        for name, told in self.standing.instruments.items():
            if name in known and not _is_alike(known[name], told):
                raise StoreError(
                    f"holds data of {name} as another description tells them",
                    remedy=f"name that description with --instrument, or {REPLACE}",
                    path=self.out,
                )

    def _require_usable(self, given: dict[str, Record], not_files: Sequence[Reject]) -> None:
        """Raise DataError if none of the files given now can be used."""
        found = sort_out(dict(given), not_files)
        if not (found.frames or found.spectra or found.objects):
            self._refuse(found.rejects, found.asked)

    def _refuse(self, rejects: Sequence[Reject], asked: int) -> NoReturn:
        path = self.root / "ledger" / "rejects.parquet"
        _write_bytes(path, _rejects_table(rejects))
        reasons = _listed(Counter(reject.reason for reject in rejects))
        raise DataError(
            f"none of the {asked} files is a frame or a spectrum that can be used ({reasons})",
            remedy=f"see {path}",
            path=self.inputs[0],
        )

    def _prepare(self, found: Scan, setup: Setup) -> tuple[list[TilePlan], list[TilePlan]]:
        """Plan the tiles; return all plans, each with the folder of its tile, and those still to be built."""
        todo, plans = [], []
        for planned in plan(found, self.out.absolute(), setup, MAX_TILE_BYTES):
            tile_plan = planned
            if not is_built(tile_plan):
                tile_plan = dataclasses.replace(planned, out=str(self.root.absolute()))
                if self.root == self.out or not is_built(tile_plan):
                    todo.append(tile_plan)
            plans.append(tile_plan)
        if self.standing is not None:
            self.standing.require_sources(todo)
        for path in self._stale(plans):
            path.unlink(missing_ok=True)
        return plans, todo

    def _stale(self, plans: Sequence[TilePlan]) -> list[Path]:
        """List tiles and ledger entries of an unfinished state that are no longer in the plan."""
        here = [tile_plan.tile for tile_plan in plans if tile_plan.out == str(self.root.absolute())]
        planned = {place(self.root, tile) for tile in here for place in (tile_path, ledger_path)}
        entries = (self.root / "ledger" / "tiles").glob("Norder=*-Npix=*.json")
        return sorted({*self.root.glob(TILES), *entries} - planned)

    def _entries(self, plans: Sequence[TilePlan]) -> list[dict[str, Any]]:
        """Return what the ledger says of each tile."""
        return [read_stamped(ledger_path(Path(tile_plan.out), tile_plan.tile)) for tile_plan in plans]

    def _finish(
        self, plans: Sequence[TilePlan], entries: Sequence[dict[str, Any]], found: Scan, setup: Setup
    ) -> BuildReport:
        """Gather the ledger's entries into the indexes, seal the cube with cube.json and let it appear."""
        rows: dict[str, list[dict[str, Any]]] = {
            name: [row for entry in entries for row in entry[name]] for name in INDEXES
        }
        rejects = sorted(
            [*found.rejects, *_tile_rejects(entries)], key=lambda reject: (reject.path, reject.key)
        )
        if not any(rows.values()):
            self._refuse(rejects, found.asked)
        if self.standing is not None:
            self.standing.require_held([row for name in INDEXES for row in rows[name]])
        tiles = sum(entry["size"] is not None for entry in entries)
        meta = self._meta(rows, setup, rejects, {"asked": found.asked, "tiles": tiles})
        self._publish(plans, entries, meta, rows, _rejects_table(rejects))
        counts = meta["counts"]
        return BuildReport(
            out=self.out,
            rejected=meta["rejected"],
            rejects=rejects,
            partners=_partners(found),
            gone=0 if self.standing is None else len(self.standing.gone),
            built=0,
            seconds=0.0,
            **{
                field.name: counts[field.name]
                for field in dataclasses.fields(BuildReport)
                if field.name in counts
            },
        )

    def _publish(
        self,
        plans: Sequence[TilePlan],
        entries: Sequence[dict[str, Any]],
        meta: dict[str, Any],
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        rejects: bytes,
    ) -> None:
        """Write indexes, checksums and cube.json, and put them in place, unless just this stands there."""
        tiles: dict[str, str] = {}
        for tile_plan, entry in zip(plans, entries, strict=True):
            root = Path(tile_plan.out)
            path = ledger_path(root, tile_plan.tile)
            tiles[path.relative_to(root).as_posix()] = digest(path)
            if entry["size"] is not None:
                tiles[tile_path(root, tile_plan.tile).relative_to(root).as_posix()] = entry["digest"]
        new = any(Path(tile_plan.out) != self.out.absolute() for tile_plan in plans)
        if new or not self._stands(meta, rejects, tiles):
            for name, found_rows in rows.items():
                schema = schema_of(name, meta["instruments"])
                write_catalogue(self.root, name, found_rows, schema, f"skyfuse {VERSION}")
            _write_bytes(self.root / "ledger" / "rejects.parquet", rejects)
            self._seal(meta, tiles)
            if self.root != self.out:
                switch(self.out, tiles)
        shutil.rmtree(next_folder(self.out), ignore_errors=True)
        clean(self.out)

    def _meta(
        self,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        setup: Setup,
        rejects: Sequence[Reject],
        counts: Mapping[str, int],
    ) -> dict[str, Any]:
        """Return the content of cube.json."""
        names = {"frames": "frame_id", "spectra": "spectrum_id"}
        hashes = [f"{row[key]} {row['sha256']}" for name, key in names.items() for row in rows[name]]
        sources = {name: content for row in rows["objects"] for name, content in row["sources"].items()}
        hashes += [f"source {name} {content}" for name, content in sources.items()]
        instruments = _described(setup, rows)
        images = [key for key in schema_of("objects", instruments).names if key.startswith("frame_")]
        earlier = [] if self.standing is None else self.standing.meta.get("inputs", {}).get("names", [])
        return {
            "format": FORMAT,
            "skyfuse": VERSION,
            "kind": "cube",
            "instruments": instruments,
            "healpix": {"ordering": "NESTED", "tile_order": TILE_ORDER},
            "counts": {name: len(found) for name, found in rows.items()}
            | dict(counts)
            | {
                "sources": len(sources),
                "without_image": sum(all(row.get(key) is None for key in images) for row in rows["objects"]),
                "without_spectrum": sum(not row["n_spectra"] for row in rows["objects"]),
                "uncalibrated": sum(
                    row["unit"] != instruments[row["instrument"]]["image"]["unit"] for row in rows["frames"]
                ),
            },
            "rejected": dict(sorted(Counter(reject.reason for reject in rejects).items())),
            "inputs": {
                "names": list(dict.fromkeys([*earlier, *map(str, self.inputs)])),
                "sha256": hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
            },
        }

    def _stands(self, meta: dict[str, Any], rejects: bytes, tiles: Mapping[str, str]) -> bool:
        """Tell whether the cube is already sealed with just this content, and whole but for its tiles."""
        try:
            files = read_checksums(self.out)
            if files is None or not (self.out / "cube.json").exists():
                return False
            same = {
                "cube.json": named_sha256(dumps(meta).encode()),
                "ledger/rejects.parquet": named_sha256(rejects),
                **self._cache_digest(),
                **tiles,
            }
            indexes = {name for name in files if name.startswith(INDEXES)}
            others = files.keys() - indexes - same.keys()
            if others or any(files.get(name) != value for name, value in same.items()):
                return False
            return not damaged(self.out, {*indexes, "cube.json", "ledger/rejects.parquet"})
        except StoreError:
            return False

    def _seal(self, meta: dict[str, Any], tiles: Mapping[str, str]) -> None:
        """Write the checksums of all files, then cube.json, which makes it a cube."""
        files = dict(tiles)
        for index in INDEXES:
            for path in (self.root / index).rglob("*"):
                if path.is_file():
                    files[path.relative_to(self.root).as_posix()] = digest(path)
        files["ledger/rejects.parquet"] = digest(self.root / "ledger" / "rejects.parquet")
        files |= self._cache_digest()
        files["cube.json"] = named_sha256(dumps(meta).encode())
        write_checksums(self.root, files)
        write_json(self.root / "cube.json", meta)

    def _cache_digest(self) -> dict[str, str]:
        """Return the digest of the scan's memory as it is now: every build adds to it, a stopped one too."""
        path = self.out / _CACHE
        size = path.stat().st_size if path.exists() else 0
        return {_CACHE: f"{digest(path, size=size)}@{size}"} if size else {}


def _described(
    setup: Setup, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what cube.json says of each instrument whose data the cube holds."""
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for name in sorted({row["instrument"] for row in rows["frames"]}):
        imaging = setup.imaging(name)
        told[name] = {"image": _told_of(imaging)} | _told(setup.instrument(name))
    for name in sorted({row["instrument"] for row in rows["spectra"]}):
        spectroscopy, grid = setup.instrument(name).spectroscopy, setup.grid(name)
        unit = "" if spectroscopy is None else spectroscopy.unit
        spectrum = {"grid": grid.name, "sizes": list(grid.sizes), "zooms": len(grid.sizes), "unit": unit}
        own = [row for row in rows["spectra"] if row["instrument"] == name]
        spectrum["sigma"] = _sigma_of(name, dict(setup.noise).get(name, ""), own)
        told.setdefault(name, {})["spectrum"] = spectrum
    return dict(sorted(told.items()))


def _sigma_of(name: str, model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what cube.json says of where σ of an instrument's spectra comes from."""
    known = noise_model(name)
    if not model or known is None:
        return {"formal": f"no noise model of {name} is known" if known is None else AS_ASKED}
    by_model = sum(bool(row.get("noise")) for row in rows)
    evidence = {one.name: one.evidence.model_dump() for one in known.spectrographs}
    return {"model": model, "by_model": by_model, "formal": len(rows) - by_model, "evidence": evidence}


def _told_of(imaging: Imaging) -> dict[str, Any]:
    """Return what cube.json says of the images of an instrument."""
    return asdict(imaging) | {"bands": list(imaging.bands)}


def _is_alike(instrument: Instrument, told: Mapping[str, Any]) -> bool:
    """Tell whether what is known of an instrument now is what cube.json says of the data that it holds."""
    image = {} if instrument.imaging is None else _told_of(instrument.imaging)
    unit = "" if instrument.spectroscopy is None else instrument.spectroscopy.unit
    return bool(
        told.get("described", "") == (instrument.described if "image" in told else "")
        and told.get("image", image) == image
        and told.get("spectrum", {}).get("unit", unit) == unit
    )


def _told(instrument: Instrument) -> dict[str, Any]:
    """Return what cube.json says of the description that an instrument comes from."""
    return {"described": instrument.described} if instrument.described else {}


def _partners(found: Scan) -> int:
    """Count the files that are read only together with others, those of files that stand too."""
    files = {one.file for one in found.frames} | {one.file for one in found.spectra}
    beside = {path for file in files for path, size, _ in file.beside if size >= 0 and Path(path).is_file()}
    return len({*found.partners, *beside})


def _tile_rejects(entries: Sequence[Mapping[str, Any]]) -> list[Reject]:
    """Return the files that failed when they were read in full."""
    return [Reject(**reject) for entry in entries for reject in entry["rejects"]]


def _build_tiles(
    out: Path, plans: Sequence[TilePlan], todo: Sequence[TilePlan], run: Runner, progress: Progress | None
) -> None:
    total = sum(tile_plan.records for tile_plan in plans)
    done = total - sum(tile_plan.records for tile_plan in todo)
    task = partial(build_tile, readers=registry.added())
    finished = 0
    if progress is not None:
        progress(done, total, "building tiles")
    try:
        # The largest first, so that none is left running alone at the end.
        for report in run(task, sorted(todo, key=lambda tile_plan: -tile_plan.records)):
            done += report.records
            finished += 1
            if progress is not None:
                progress(done, total, "building tiles")
    except KeyboardInterrupt:
        tiles = len(plans) - len(todo) + finished
        raise KeyboardInterrupt(
            f"{out}: stopped with {tiles} of {len(plans)} tiles built; run the same command again to go on"
        ) from None
    except OSError as error:
        raise StoreError(
            f"a tile cannot be written ({error.strerror or error})",
            remedy="make room or give permission, then run the same command again to go on",
            path=out,
        ) from error


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))


def _rejects_table(rejects: Sequence[Reject]) -> bytes:
    """Return the table of rejects as Parquet."""
    names = ("path", "key", "reason", "message")
    # File names may hold bytes that are no UTF-8 text.
    columns = {name: [shown(getattr(reject, name)) for reject in rejects] for name in names}
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in names]))
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def _write_bytes(path: Path, content: bytes) -> None:
    with replaced(path) as partial:
        partial.write_bytes(content)


def _require_own(out: Path) -> None:
    """Raise UsageError if the folder is there and is no cube's."""
    if out.exists() and not out.is_dir():
        raise UsageError("is a file", remedy="name a folder for the cube", path=out)
    if not out.is_dir() or (out / _CACHE).is_file():
        return
    known = {"cube.json", NAME, "ledger", *INDEXES}
    strange = sorted(
        path.name
        for path in out.iterdir()
        if path.name not in known and not path.name.startswith(("Norder=", "."))
    )
    if strange:
        raise UsageError(
            f"holds other things ({strange[0]})", remedy="name a new folder for the cube, last", path=out
        )


@contextmanager
def _runner(workers: int | str | None, files: int) -> Iterator[Runner]:
    """Give a function that runs tasks and yields their results: here, on processes, or on Dask."""
    if isinstance(workers, str):
        with _dask_runner(workers) as on_dask:
            yield on_dask
        return
    count = min(workers or _processors(), files)
    if count <= 1:
        yield map
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=Context(), initializer=_start_worker)

    def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise StoreError(
                "a worker process died (out of memory, or killed)",
                remedy="run the same build again to go on, with fewer workers if memory was short",
            ) from error

    try:
        yield run
    except BaseException:
        # What is half-done is worth nothing; what is done is on disk.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


def _processors() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Let a worker end without a traceback on Ctrl-C, and with its parent if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _dask_runner(address: str) -> Iterator[Runner]:
    try:
        from distributed import Client
        from distributed import as_completed as as_dask_completed
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UsageError(
            "Dask is not installed", remedy="install it with: pip install 'skyfuse[scale]'"
        ) from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address}",
            remedy="start one with dask scheduler, or give its address",
        ) from error

    def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        # Not pure: a result that the scheduler remembers says nothing about what is on disk.
        futures = client.map(function, list(tasks), pure=False)
        try:
            for _, result in as_dask_completed(futures, with_results=True):
                yield result
        except KilledWorker as error:
            raise StoreError(
                "one task lost its Dask worker again and again",
                remedy="give the workers more memory, then run the same build again to go on",
            ) from error
        finally:
            client.cancel(futures)

    with client:
        yield run
