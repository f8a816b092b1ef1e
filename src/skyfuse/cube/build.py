"""Building a cube: scan, plan, independent tile tasks on any executor, indexes."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skyfuse.cube.catalogue import write_catalogue
from skyfuse.cube.grid import GRIDS
from skyfuse.cube.layout import FORMAT, TILE_ORDER, VERSION, tile_path
from skyfuse.cube.scan import Reject, Runner, Scan, remember, scan, sort_out, walk
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
from skyfuse.disk import read_json, replaced, write_json
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.records import BANDS

Progress = Callable[[int, int, str], None]

MAX_TILE_BYTES = 2 * 1024**3
"""A tile that would outgrow this splits into its four children."""


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
    tiles, built : int
        Tiles of the cube, and how many tile tasks this run had to do; the others stood there unchanged.
    seconds : float
        Wall time.
    """

    out: Path
    asked: int
    frames: int
    spectra: int
    objects: int
    without_image: int
    rejected: dict[str, int]
    rejects: list[Reject]
    tiles: int
    built: int
    seconds: float

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
        if self.rejects:
            lines.append(f"Each rejected file with its reason: {self.out / 'ledger' / 'rejects.parquet'}")
        return "\n".join(lines)


def build(
    inputs: Sequence[Path],
    out: Path,
    *,
    grid: str = "sdss",
    workers: int | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
    max_tile_bytes: int = MAX_TILE_BYTES,
    keep_unclassified: bool = False,
) -> BuildReport:
    """Turn survey files into a cube; run it again to resume, or to take up what is new or changed.

    Parameters
    ----------
    inputs : sequence of path
        Files or folders; each file is recognised by what it is.
    out : path
        Folder of the cube.
    grid : str
        Wavelength grid, a key of `skyfuse.cube.grid.GRIDS`.
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
        If another build writes the same cube, the disk is full, or worker processes die.
    KeyboardInterrupt
        On Ctrl-C, with a message; what is finished stays.
    """
    started = time.monotonic()
    inputs, out = [Path(path) for path in inputs], Path(out)
    if grid not in GRIDS:
        raise UsageError(f"there is no wavelength grid '{grid}'", remedy=f"choose one of {', '.join(GRIDS)}")
    if not inputs:
        raise UsageError("a build needs inputs", remedy="name files or folders of frames and spectra")
    files, not_files = walk(inputs, out)
    if not files and not not_files:
        raise DataError("holds no files", remedy="name a folder with SDSS frames or spectra", path=inputs[0])
    with _locked(out), _runner(workers, dask, len(files)) as run:
        cache = out / "ledger" / "scan.jsonl"
        try:
            records = scan(files, cache, run, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{out}: stopped while recognising files; run the same command again to go on"
            ) from None
        tasks = 0
        while True:
            found = sort_out(records, not_files)
            plans, todo = _prepare(
                inputs, out, grid, found, max_tile_bytes, keep_unclassified=keep_unclassified
            )
            _build_tiles(out, plans, todo, run, progress)
            tasks += len(todo)
            # A file that failed only when read in full may have stood in the way of a whole one with the
            # same frame.
            failed = [reject for reject in _tile_rejects(out, plans) if reject.path in found.doubled]
            if not failed:
                return _finish(inputs, out, grid, plans, found.rejects, found.asked, tasks, started)
            remember(cache, records, failed)


def _prepare(
    inputs: Sequence[Path],
    out: Path,
    grid: str,
    found: Scan,
    max_tile_bytes: int,
    *,
    keep_unclassified: bool,
) -> tuple[list[TilePlan], list[TilePlan]]:
    """Plan the tiles and remove those no longer planned; return all plans and those still to be built."""
    if not found.frames and not found.spectra:
        _write_rejects(out, found.rejects)
        (out / "cube.json").unlink(missing_ok=True)
        reasons = _listed(Counter(reject.reason for reject in found.rejects))
        raise DataError(
            f"none of the {found.asked} files is a frame or a spectrum that can be used ({reasons})",
            remedy=f"see {out / 'ledger' / 'rejects.parquet'}",
            path=inputs[0],
        )
    plans = plan(found, out.absolute(), grid, max_tile_bytes, keep_unclassified=keep_unclassified)
    todo = [tile_plan for tile_plan in plans if not is_built(tile_plan)]
    stale = _stale(out, plans)
    if todo or stale:
        # Between here and the end tiles and indexes disagree: no cube.json, no cube.
        (out / "cube.json").unlink(missing_ok=True)
    for path in stale:
        path.unlink(missing_ok=True)
    return plans, todo


def _tile_rejects(out: Path, plans: Sequence[TilePlan]) -> list[Reject]:
    """Return the files that failed when they were read in full."""
    entries = (read_json(ledger_path(out, tile_plan.tile)) for tile_plan in plans)
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


def _finish(
    inputs: Sequence[Path],
    out: Path,
    grid: str,
    plans: Sequence[TilePlan],
    rejects: Sequence[Reject],
    asked: int,
    built: int,
    started: float,
) -> BuildReport:
    """Gather the tiles' ledger entries into the indexes and seal the cube with its cube.json."""
    rows: dict[str, list[dict[str, Any]]] = {"objects": [], "frames": [], "spectra": []}
    all_rejects = list(rejects)
    tiles = 0
    for tile_plan in plans:
        entry = read_json(ledger_path(out, tile_plan.tile))
        for name, found in rows.items():
            found += entry[name]
        all_rejects += [Reject(**reject) for reject in entry["rejects"]]
        tiles += entry["size"] is not None
    all_rejects.sort(key=lambda reject: reject.path)
    rejected = dict(sorted(Counter(reject.reason for reject in all_rejects).items()))
    _write_rejects(out, all_rejects)
    if not rows["frames"] and not rows["spectra"]:
        raise DataError(
            f"none of the {asked} files is a frame or a spectrum that can be used ({_listed(rejected)})",
            remedy=f"see {out / 'ledger' / 'rejects.parquet'}",
            path=inputs[0],
        )
    without_image = sum(all(row[f"frame_{band}"] is None for band in BANDS) for row in rows["objects"])
    names = {"frames": "frame_id", "spectra": "spectrum_id"}
    hashes = sorted(f"{row[key]} {row['sha256']}" for name, key in names.items() for row in rows[name])
    counts = {name: len(found) for name, found in rows.items()}
    meta = {
        "format": FORMAT,
        "skyfuse": VERSION,
        "kind": "cube",
        "grid": grid,
        "zooms": ZOOMS,
        "image": {"size": IMAGE_SIZE, "bands": BANDS, "unit": IMAGE_UNIT},
        "spectrum": {"sizes": list(GRIDS[grid].sizes), "unit": FLUX_UNIT},
        "healpix": {"ordering": "NESTED", "tile_order": TILE_ORDER},
        "counts": counts | {"asked": asked, "tiles": tiles, "without_image": without_image},
        "rejected": rejected,
        "inputs": {
            "names": [str(path) for path in inputs],
            "sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        },
    }
    if not _stands(out, meta):
        for name, found in rows.items():
            write_catalogue(out, name, found, f"skyfuse {VERSION}")
        write_json(out / "cube.json", meta)
    _clean(out)
    return BuildReport(
        out=out,
        asked=asked,
        frames=counts["frames"],
        spectra=counts["spectra"],
        objects=counts["objects"],
        without_image=without_image,
        rejected=rejected,
        rejects=all_rejects,
        tiles=tiles,
        built=built,
        seconds=time.monotonic() - started,
    )


def _stands(out: Path, meta: dict[str, Any]) -> bool:
    """Tell whether the cube is already sealed with just this content."""
    try:
        return bool(read_json(out / "cube.json") == meta)
    except StoreError:
        return False


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))


def _write_rejects(out: Path, rejects: Sequence[Reject]) -> None:
    names = ("path", "reason", "message")
    # File names may hold bytes that are no UTF-8 text.
    columns = {
        name: [getattr(reject, name).encode("utf-8", "replace").decode() for reject in rejects]
        for name in names
    }
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in names]))
    with replaced(out / "ledger" / "rejects.parquet") as partial:
        pq.write_table(table, partial)


def _stale(out: Path, plans: Sequence[TilePlan]) -> list[Path]:
    """List tiles and ledger entries that are no longer in the plan."""
    planned = {tile_path(out, tile_plan.tile) for tile_plan in plans}
    planned |= {ledger_path(out, tile_plan.tile) for tile_plan in plans}
    there = {*out.glob("Norder=*/Dir=*/Npix=*.h5"), *(out / "ledger" / "tiles").glob("Norder=*-Npix=*.json")}
    return sorted(there - planned)


def _clean(out: Path) -> None:
    """Remove what a killed build left half-written, and folders that held only stale tiles."""
    for pattern in ("Norder=*/Dir=*/.*.tmp", "ledger/.*.tmp", "ledger/tiles/.*.tmp", ".*.tmp"):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)
    for pattern in ("Norder=*/Dir=*", "Norder=*"):
        for path in out.glob(pattern):
            if not any(path.iterdir()):
                path.rmdir()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the cube against a second build; the system lets go when the process ends, however it ends."""
    if out.exists() and not out.is_dir():
        raise UsageError("is a file", remedy="name a folder for the cube", path=out)
    known = {"cube.json", "ledger", "objects", "frames", "spectra"}
    if out.is_dir():
        strange = sorted(
            path.name
            for path in out.iterdir()
            if path.name not in known and not path.name.startswith(("Norder=", "."))
        )
        if strange and not (out / "ledger").is_dir():
            raise UsageError(
                f"holds other things ({strange[0]})", remedy="name a new folder for the cube, last", path=out
            )
    try:
        (out / "ledger").mkdir(parents=True, exist_ok=True)
        lock = (out / "ledger" / "lock").open("w")
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror})", remedy="name a folder that you may write", path=out
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                "another build writes this cube", remedy="wait until it ends or stop it", path=out
            ) from error
        _clean(out)
        yield


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
    # Spawned: the parent's threads (numerical libraries, progress bars) must not be forked half-way.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)

    def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise StoreError(
                "a worker process died (out of memory, killed, or started from a script without "
                "if __name__ == '__main__')",
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
