"""Fill the disk under each verb: one line, exit code 1, nothing harmed, and the same command goes on.

Each verb runs twice on a file system of its own (tmpfs, for which this needs root) with room enough: that
tells how much it takes at most, and which of its files are the same in every run. Then, for each level, it
runs on one that has only a part of that room, temporary files included. What stood there before is compared
afterwards; then there is room again, and the same command must end well with the same files.

The verbs run in forks of this process, which has imported what they need: a run then takes little more than
its work.

Example: python benchmarks/disk_full.py --levels 20
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Before numerical libraries start threads, which a fork would lose.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fetch.standin import Standin
from tests.fetch.standin.sky import Sky, make_sky

from skyfuse.cli import main as skyfuse
from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset
from skyfuse.fetch import download
from skyfuse.mock import write_mock
from skyfuse.study import describe, embed, predict, tune
from skyfuse.study.report import write_report
from skyfuse.study.run import Study

PRELOADED = (describe, embed, predict, tune, write_report)
PLENTY = 2 * 1024**3
PAGE = 4096


@dataclass(frozen=True)
class Run:
    """How a call ended.

    Attributes
    ----------
    code : int
        Exit code; negative for a signal.
    stderr : str
        What it wrote there.
    most : int
        Bytes that the disk held at most.
    """

    code: int
    stderr: str
    most: int


@dataclass(frozen=True)
class Verb:
    """A command of the command line.

    Attributes
    ----------
    words : str
        Without a blank within one.
    place : str
        Where it writes, in its folder.
    before : dict of str to Path
        What stands there before: names, and where they are copied from.
    blind : bool
        It does not look for room before, as where another program fills the disk meanwhile.
    """

    words: str
    place: str
    before: dict[str, Path] = field(default_factory=dict)
    blind: bool = False


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a file system of so many bytes; always at one place, since some files hold their path."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["/usr/bin/umount", "-l", folder], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["/usr/bin/mount", "-o", f"remount,size={PLENTY}", folder], check=True)


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def forked(work: Callable[[], object], folder: Path, log: Path) -> int:
    """Start `work` in a fork of this process, in a folder that takes its temporary files too.

    Returns
    -------
    int
        Exit code, negative for a signal.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def make(work: Callable[[], object], folder: Path, log: Path) -> None:
    """Run what must succeed."""
    if ended(forked(work, folder, log)):
        raise SystemExit(log.read_text(errors="replace"))


def call(words: str, folder: Path, log: Path, *, blind: bool = False) -> Run:
    """Run the command line."""

    def run() -> None:
        sys.argv = ["skyfuse", *words.split()]
        if blind:
            download._require_room = lambda *_: None
        skyfuse()

    most = 0
    process = forked(run, folder, log)
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, used(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = ended(process)
    over.set()
    watcher.join()
    return Run(code, log.read_text(errors="replace"), max(most, used(folder)))


def content(path: Path) -> bytes:
    """Return what a file holds; of a list of checksums the first of each file that does not grow."""
    if path.name != "checksums.json":
        return path.read_bytes()
    files = json.loads(path.read_bytes())["files"]
    return repr(
        [(name, digest.split()[0]) for name, digest in files.items() if "scan.jsonl" not in name]
    ).encode()


def state(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, but for what is under way."""
    return {
        name: hashlib.sha256(content(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "ledger/next" not in (name := str(path.relative_to(folder)))
        and path.name != "scan.jsonl"
    }


def partial(folder: Path, *endings: str) -> list[str]:
    """Return files that were left half-written, but for those of a cube's next state."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.endswith(endings) and "ledger/next" not in str(path)
    ]


def verbs(work: Path, url: str) -> dict[str, Verb]:
    """Make what the verbs need, and return them."""
    log = work / "log"
    sky, cube, data, study = (work / name for name in ("sky", "sky.cube", "dataset", "study"))

    def stores() -> None:
        write_mock(sky, fields=1, objects=160, seed=11)
        write_mock(work / "few", fields=1, objects=6, seed=13)
        build([sky], cube, workers=1)
        build([work / "few"], work / "few.cube", workers=1)
        build([work / "few" / "photoObj"], work / "frames.cube", workers=1)
        plan = Study.from_recipe("sfr", quick=True)
        model = plan.recipe.models["lightgbm"].model_copy(update={"grid": {"max_depth": [2, 3]}})
        recipe = plan.recipe.model_copy(
            update={"models": {"lightgbm": model}, "fusions": ["image"], "flaws": [], "learning": None}
        )
        labels = next(sky.rglob("gal_totsfr*"))
        dataset = Dataset.from_cube(Cube.open(cube), data, labels=labels)
        Study(recipe, quick=True).run(dataset, study)
        (work / "small.yaml").write_text(recipe.to_yaml())

    make(stores, work, log)
    labels = next(sky.rglob("gal_totsfr*"))
    recipe = str(work / "small.yaml")
    model = str(next(path.parent for path in sorted(study.glob("cells/*/model/model.json"))))
    few = str(work / "few")
    exports = {
        f"export, {kind}": Verb(f"export {work}/few.cube out --format {kind}", "out")
        for kind in ("fits", "votable", "numpy")
    }
    standing = {"a.cube": work / "frames.cube"}
    add = f"build {few}/spectro a.cube --workers 1"
    fetch = f"fetch sdss spectra got --per-class 4 --archive {url}"
    tables = "spectra,sfr,gaia,zoo,lamost,catalogue,scene"
    return {
        "build": Verb(f"build {few} new.cube --workers 1", "new.cube"),
        "build, adding": Verb(add, "a.cube", standing),
        "build, replacing": Verb(f"{add} --replace", "a.cube", standing),
        "mock": Verb("mock sky --fields 1 --objects 6", "sky"),
        "mock, tables": Verb(f"mock sky --fields 1 --objects 20 --products {tables}", "sky"),
        "study": Verb(f"study {recipe} --data {data} -o out", "out"),
        "study, again": Verb(f"study {recipe} --data {data} -o study", "study", {"study": study}),
        "dataset": Verb(f"study {recipe} --data {cube} --labels {labels} -o out", "out"),
        "predict": Verb(f"predict {model} {few} -o out.parquet", "out"),
        "fetch": Verb(fetch, "got"),
        "fetch, filled meanwhile": Verb(fetch, "got", blind=True),
        "tune": Verb(f"tune {recipe} {data} --input image -o out", "out"),
        "embed": Verb(f"embed {data} -o out.csv", "out.csv"),
        "match": Verb(f"match {cube} {work}/few.cube -o out.parquet", "out"),
        **exports,
    }


@contextmanager
def archive(work: Path) -> Iterator[str]:
    """Serve the stand-in archive from a process of its own; give its address."""
    out, into = os.pipe()
    process = os.fork()
    if not process:
        with Standin(Sky(make_sky(work / "archive", objects=60)), faults=0.0) as server:
            os.write(into, server.url.encode())
            while os.getppid() != 1:
                time.sleep(0.2)
        os._exit(0)
    try:
        yield os.read(out, 4096).decode()
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)


def fill(name: str, verb: Verb, levels: int, work: Path) -> bool:
    """Run a verb at each level; tell what was wrong, and whether nothing was."""
    folder, log = work / "disk", work / "log"
    began = time.monotonic()

    def set_up() -> None:
        for target, source in verb.before.items():
            shutil.copytree(source, folder / target)

    whole = []
    for _ in range(2):
        # Times in whole seconds must not be the same by chance.
        time.sleep(1.1)
        with disk(folder, PLENTY):
            set_up()
            start = used(folder)
            run = call(verb.words, folder, log)
            if run.code:
                raise SystemExit(f"{name} fails with room enough: {run.stderr}")
            most = run.most
            whole.append(state(folder))
    expected = {path for path, value in whole[0].items() if whole[1].get(path) == value}
    good, lines = 0, set()
    pages = (most - start) // PAGE
    rooms = sorted({pages * level // levels for level in range(levels)})
    for room in rooms:
        size = max(start + room * PAGE, PAGE)
        with disk(folder, size):
            set_up()
            stood = state(folder)
            run = call(verb.words, folder, log, blind=verb.blind)
            after = state(folder)
            told = [line for line in run.stderr.splitlines() if line.startswith("skyfuse: ")]
            lines.update(line.replace(str(work), "") for line in told)
            # Downloads keep their parts and go on with them; other temporary names are never the same again.
            left = partial(folder, ".tmp")
            grow(folder)
            again = call(verb.words, folder, log)
            end = state(folder)
            left += partial(folder, ".tmp", ".part")
            faults = [
                fault
                for fault, is_so in {
                    f"exit {run.code}": run.code != 1,
                    f"{len(told)} lines": len(told) != 1,
                    "traceback": "Traceback" in run.stderr,
                    "a line that names no folder": not any(
                        f"{place}" in line for line in told for place in (folder, verb.place)
                    ),
                    "harmed": any(after.get(path) != value for path, value in stood.items()),
                    f"left {left}": bool(left),
                    f"again: exit {again.code}": again.code != 0,
                    f"other files: {sorted(end.keys() ^ whole[0].keys())[:5]}": end.keys() != whole[0].keys(),
                    "other content: "
                    f"{[path for path in sorted(expected) if end.get(path) != whole[0][path]][:5]}": any(
                        end.get(path) != whole[0][path] for path in expected
                    ),
                }.items()
                if is_so
            ]
            good += not faults
            if faults:
                print(f"{name}, {size} of {most} bytes: {'; '.join(faults)}")
                print("\n".join(f"    {line}" for line in run.stderr.splitlines()[-6:]))
                if again.code:
                    print("\n".join(f"    again: {line}" for line in again.stderr.splitlines()[-6:]))
    print(
        f"{name}: {good} of {len(rooms)} levels end in one line and go on to the same "
        f"{len(expected)} of {len(whole[0])} files ({most - start} bytes, {time.monotonic() - began:.0f} s)"
    )
    for line in sorted(lines)[:6]:
        print(f"    {line}", flush=True)
    return good == len(rooms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--verbs", nargs="*", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, archive(Path(name)) as url:
        work = Path(name)
        found = verbs(work, url)
        results = [fill(verb, found[verb], arguments.levels, work) for verb in arguments.verbs or found]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
