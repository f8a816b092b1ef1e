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
from skyfuse.cube.catalogue import write_catalogue
from skyfuse.cube.grid import GRIDS
from skyfuse.cube.layout import FORMAT, TILE_ORDER, VERSION, tile_path
from skyfuse.cube.scan import Record, Reject, Runner, Scan, remember, scan, sort_out, walk
from skyfuse.cube.staging import INDEXES, TILES, WRITER, clean, go_on, next_folder, switch
from skyfuse.cube.standing import Standing, read_standing
from skyfuse.cube.tiles import (
    FLUX_UNIT,
    IMAGE_SIZE,
    IMAGE_UNIT,
    ZOOMS,
    TilePlan,
    build_tile,
    is_built,
    ledger_path,
    plan,
)
from skyfuse.disk import dumps, locked, replaced, write_json
from skyfuse.errors import DataError, StoreError, UsageError, shown
from skyfuse.processes import Context
from skyfuse.survey.records import BANDS
from skyfuse.words import Progress

MAX_TILE_BYTES = 2 * 1024**3
"""A tile that would outgrow this splits into its four children."""

DEFAULT_GRID = "sdss"
_CACHE = "ledger/scan.jsonl"


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did; `str` gives the table that the command line prints.

    Attributes
    ----------
    out : Path
        Folder of the cube.
    asked : int
        Files found in the inputs.
    frames, spectra : int
        Files that the cube holds.
    objects : int
        Groups of spectra within 1″.
    without_image : int
        Objects that no frame holds.
    rejected : dict of str to int
        Files that the cube does not hold, by reason.
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
    objects: int
    without_image: int
    rejected: dict[str, int]
    rejects: list[Reject]
    gone: int
    tiles: int
    built: int
    seconds: float
    forgotten: bool = False

    @property
    def ingested(self) -> int:
        """Number of files that the cube holds."""
        return self.frames + self.spectra

    def to_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return asdict(self) | {"out": str(self.out), "ingested": self.ingested}

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.frames} frames, {self.spectra} spectra of {self.objects} objects "
            f"in {self.tiles} tiles ({self.built} tasks run now), {self.seconds:.1f} s",
            f"{'files asked':<24}{self.asked:>9}",
            f"{'ingested':<24}{self.ingested:>9}",
            *(f"{'rejected: ' + reason:<24}{count:>9}" for reason, count in sorted(self.rejected.items())),
            f"{'objects without image':<24}{self.without_image:>9}",
        ]
        if self.gone:
            lines.append(f"{'ingested, file gone now':<24}{self.gone:>9}")
        if self.forgotten:
            lines.append(
                "The table of rejected files was damaged and is made anew: those of earlier builds are in it "
                "only if they were given again."
            )
        if self.rejects:
            lines.append(f"Each rejected file with its reason: {self.out / 'ledger' / 'rejects.parquet'}")
        return "\n".join(lines)


def build(
    inputs: Sequence[Path],
    out: Path,
    *,
    grid: str | None = None,
    replace: bool = False,
    workers: int | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
    max_tile_bytes: int = MAX_TILE_BYTES,
    keep_unclassified: bool = False,
) -> BuildReport:
    """Turn survey files into a cube; run it again to resume, or to take up what is new.

    What stands in a cube stays: the files given now are added to those that it was built from, which need not
    be given again, nor be there any more, as long as their tiles stay as they are. A build that would lose or
    replace something is refused before it changes anything. Until the end readers see the cube as it was.

    Parameters
    ----------
    inputs : sequence of path
        Files or folders; each file is recognised by what it is.
    out : path
        Folder of the cube.
    grid : str, optional
        Wavelength grid, a key of `skyfuse.cube.grid.GRIDS`; by default that of the cube, ``sdss`` for a new
        one.
    replace : bool
        Make the cube anew of the files given now, whatever it holds.
    workers : int, optional
        Worker processes, by default one for each processor; 1 runs the tasks in this process.
    dask : str, optional
        Address of a Dask scheduler that runs the tasks instead. Its workers must see the same files.
    progress : callable, optional
        ``(done, total, what)``.
    max_tile_bytes : int
        A tile that would outgrow this splits into its four children.
    keep_unclassified : bool
        Also take spectra without the pipeline's class and redshift (no HDU 2), as for a prediction: these
        columns of the indexes are then null. Otherwise such files are rejected.

    Returns
    -------
    BuildReport

    Raises
    ------
    UsageError
        If an input does not exist, `grid` is unknown, or `out` is a file or a folder of something else.
    DataError
        If no input holds a frame or a spectrum.
    StoreError
        If another build writes the same cube, the disk is full, worker processes die, or the cube would lose
        what it holds: files that have changed or are gone and whose tiles must be built again, another grid,
        another version of Skyfuse.
    KeyboardInterrupt
        On Ctrl-C, with a message; what is finished stays.
    """
    started = time.monotonic()
    inputs, out = [Path(path) for path in inputs], Path(out)
    if grid is not None and grid not in GRIDS:
        raise UsageError(f"there is no wavelength grid '{grid}'", remedy=f"choose one of {', '.join(GRIDS)}")
    if not inputs:
        raise UsageError("a build needs inputs", remedy="name files or folders of frames and spectra")
    files, not_files = walk(inputs, out)
    if not files and not not_files:
        raise DataError("holds no files", remedy="name a folder with SDSS frames or spectra", path=inputs[0])
    _require_own(out)
    with locked(out, *WRITER), _runner(workers, dask, len(files)) as run:
        go_on(out)
        clean(out)
        standing = None if replace else read_standing(out, grid)
        cache = out / _CACHE
        try:
            given = scan(files, cache, run, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{out}: stopped while recognising files; run the same command again to go on"
            ) from None
        task = _Task(
            inputs,
            out,
            grid or (standing and standing.grid) or DEFAULT_GRID,
            max_tile_bytes,
            keep_unclassified=keep_unclassified,
            standing=standing,
        )
        task.require_usable(given, not_files)
        records = given if standing is None else standing.join(given)
        earlier = [] if standing is None else standing.earlier_rejects(records, not_files)
        tasks = 0
        while True:
            found = sort_out(
                records, [*not_files, *(earlier or ())], () if standing is None else standing.records
            )
            plans, todo = task.prepare(found)
            _build_tiles(out, plans, todo, run, progress)
            tasks += len(todo)
            entries = task.entries(plans)
            # A file that failed only when read in full may have stood in the way of a whole one with the
            # same frame.
            failed = [reject for reject in _tile_rejects(entries) if reject.path in found.doubled]
            if not failed:
                report = task.finish(plans, entries, found, tasks, started)
                return dataclasses.replace(report, forgotten=earlier is None)
            remember(cache, records, failed)


def holds_only(out: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether a cube was built from files under the inputs alone.

    Parameters
    ----------
    out : path
        Folder of the cube, which need not be there.
    inputs : sequence of path
    """
    standing = read_standing(Path(out), None)
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
        grid: str,
        max_tile_bytes: int,
        *,
        keep_unclassified: bool,
        standing: Standing | None,
    ) -> None:
        self.inputs = inputs
        self.out = out
        self.grid = grid
        self.max_tile_bytes = max_tile_bytes
        self.keep_unclassified = keep_unclassified
        self.standing = standing
        self.root = next_folder(out) if (out / "cube.json").exists() else out

    def require_usable(self, given: dict[str, Record], not_files: Sequence[Reject]) -> None:
        """Raise DataError if none of the files given now can be used."""
        found = sort_out(dict(given), not_files)
        if not found.frames and not found.spectra:
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

    def prepare(self, found: Scan) -> tuple[list[TilePlan], list[TilePlan]]:
        """Plan the tiles; return all plans, each with the folder of its tile, and those still to be built."""
        todo, plans = [], []
        for planned in plan(
            found,
            self.out.absolute(),
            self.grid,
            self.max_tile_bytes,
            keep_unclassified=self.keep_unclassified,
        ):
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

    def entries(self, plans: Sequence[TilePlan]) -> list[dict[str, Any]]:
        """Return what the ledger says of each tile."""
        return [read_stamped(ledger_path(Path(tile_plan.out), tile_plan.tile)) for tile_plan in plans]

    def finish(
        self,
        plans: Sequence[TilePlan],
        entries: Sequence[dict[str, Any]],
        found: Scan,
        built: int,
        started: float,
    ) -> BuildReport:
        """Gather the ledger's entries into the indexes, seal the cube with cube.json and let it appear."""
        rows: dict[str, list[dict[str, Any]]] = {
            name: [row for entry in entries for row in entry[name]] for name in INDEXES
        }
        rejects = sorted([*found.rejects, *_tile_rejects(entries)], key=lambda reject: reject.path)
        if not rows["frames"] and not rows["spectra"]:
            self._refuse(rejects, found.asked)
        if self.standing is not None:
            self.standing.require_held([*rows["frames"], *rows["spectra"]])
        meta = self._meta(rows, rejects, found.asked, sum(entry["size"] is not None for entry in entries))
        table = _rejects_table(rejects)
        tiles: dict[str, str] = {}
        for tile_plan, entry in zip(plans, entries, strict=True):
            root = Path(tile_plan.out)
            path = ledger_path(root, tile_plan.tile)
            tiles[path.relative_to(root).as_posix()] = digest(path)
            if entry["size"] is not None:
                tiles[tile_path(root, tile_plan.tile).relative_to(root).as_posix()] = entry["digest"]
        new = any(Path(tile_plan.out) != self.out.absolute() for tile_plan in plans)
        if new or not self._stands(meta, table, tiles):
            for name, found_rows in rows.items():
                write_catalogue(self.root, name, found_rows, f"skyfuse {VERSION}")
            _write_bytes(self.root / "ledger" / "rejects.parquet", table)
            self._seal(meta, tiles)
            if self.root != self.out:
                switch(self.out, tiles)
        shutil.rmtree(next_folder(self.out), ignore_errors=True)
        clean(self.out)
        return BuildReport(
            out=self.out,
            asked=found.asked,
            frames=len(rows["frames"]),
            spectra=len(rows["spectra"]),
            objects=len(rows["objects"]),
            without_image=meta["counts"]["without_image"],
            rejected=meta["rejected"],
            rejects=rejects,
            gone=0 if self.standing is None else len(self.standing.gone),
            tiles=meta["counts"]["tiles"],
            built=built,
            seconds=time.monotonic() - started,
        )

    def _meta(
        self,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        rejects: Sequence[Reject],
        asked: int,
        tiles: int,
    ) -> dict[str, Any]:
        """Return the content of cube.json."""
        names = {"frames": "frame_id", "spectra": "spectrum_id"}
        hashes = sorted(f"{row[key]} {row['sha256']}" for name, key in names.items() for row in rows[name])
        counts = {name: len(found) for name, found in rows.items()}
        without_image = sum(all(row[f"frame_{band}"] is None for band in BANDS) for row in rows["objects"])
        earlier = [] if self.standing is None else self.standing.meta.get("inputs", {}).get("names", [])
        return {
            "format": FORMAT,
            "skyfuse": VERSION,
            "kind": "cube",
            "grid": self.grid,
            "zooms": ZOOMS,
            "image": {"size": IMAGE_SIZE, "bands": BANDS, "unit": IMAGE_UNIT},
            "spectrum": {"sizes": list(GRIDS[self.grid].sizes), "unit": FLUX_UNIT},
            "healpix": {"ordering": "NESTED", "tile_order": TILE_ORDER},
            "counts": counts | {"asked": asked, "tiles": tiles, "without_image": without_image},
            "rejected": dict(sorted(Counter(reject.reason for reject in rejects).items())),
            "inputs": {
                "names": list(dict.fromkeys([*earlier, *map(str, self.inputs)])),
                "sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
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


def _tile_rejects(entries: Sequence[Mapping[str, Any]]) -> list[Reject]:
    """Return the files that failed when they were read in full."""
    return [Reject(**reject) for entry in entries for reject in entry["rejects"]]


def _build_tiles(
    out: Path, plans: Sequence[TilePlan], todo: Sequence[TilePlan], run: Runner, progress: Progress | None
) -> None:
    total = sum(tile_plan.files for tile_plan in plans)
    done = total - sum(tile_plan.files for tile_plan in todo)
    finished = 0
    if progress is not None:
        progress(done, total, "building tiles")
    try:
        # The largest first, so that none is left running alone at the end.
        for report in run(build_tile, sorted(todo, key=lambda tile_plan: -tile_plan.files)):
            done += report.files
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
    names = ("path", "reason", "message")
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
def _runner(workers: int | None, dask: str | None, files: int) -> Iterator[Runner]:
    """Give a function that runs tasks and yields their results: here, on processes, or on Dask."""
    if dask is not None:
        with _dask_runner(dask) as on_dask:
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
