"""Fill the disk under each verb: one line, exit code 1, nothing harmed, and the same command goes on.

Each verb runs once on a file system of its own (tmpfs, for which this needs root) with room enough, which
tells how much it takes. Then, for each level, on one that has only a part of that room. What stood there
before is compared afterwards; then there is room again and the same command must end well.

Example: python benchmarks/disk_full.py --levels 20
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fetch.standin import Standin
from tests.fetch.standin.sky import Sky, make_sky

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset
from skyfuse.mock import write_mock
from skyfuse.study.run import Study

PLENTY = 2 * 1024**3
PAGE = 4096


@contextmanager
def disk(size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes."""
    folder = tempfile.mkdtemp(prefix="skyfuse-disk-")
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield Path(folder)
    finally:
        subprocess.run(["/usr/bin/umount", "-l", folder], check=True)
        Path(folder).rmdir()


def grow(folder: Path) -> None:
    subprocess.run(["/usr/bin/mount", "-o", f"remount,size={PLENTY}", str(folder)], check=True)


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder; temporary files go there too."""
    script = "from skyfuse.cli import main; main()"
    environment = os.environ | {"TMPDIR": str(folder)}
    # The arguments are this file's own.
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def state(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of what stood there before, but for what grows and what is under way."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and "ledger/next" not in str(path) and path.name not in ("lock", "scan.jsonl")
    }


def verbs(work: Path, stack: ExitStack) -> dict[str, tuple[list[str], dict[str, Path]]]:
    """Make what the verbs need; return for each its words and what stands in its folder before."""
    write_mock(work / "sky", fields=1, objects=160, seed=11)
    write_mock(work / "more", fields=1, objects=20, seed=12)
    build([work / "sky"], work / "sky.cube", workers=1)
    labels = next((work / "sky").rglob("gal_totsfr*"))
    data = Dataset.from_cube(Cube.open(work / "sky.cube"), work / "dataset", labels=labels)
    plan = Study.from_recipe("sfr", quick=True)
    recipe = plan.recipe.model_copy(
        update={"models": {"lightgbm": plan.recipe.models["lightgbm"]}, "flaws": [], "learning": None}
    )
    Study(recipe, quick=True).run(data, work / "study")
    (work / "small.yaml").write_text(recipe.to_yaml())
    model = next(path.parent for path in sorted(work.glob("study/cells/*/model/model.json")))
    archive = stack.enter_context(Standin(Sky(make_sky(work / "archive", objects=60)), faults=0.0))
    return {
        "build": (["build", str(work / "sky"), "new.cube", "--workers", "1"], {}),
        "build, adding": (
            ["build", str(work / "more"), "sky.cube", "--workers", "1"],
            {"sky.cube": work / "sky.cube"},
        ),
        "mock": (["mock", "mock", "--fields", "1", "--objects", "20"], {}),
        "study": (
            ["study", str(work / "small.yaml"), "--data", str(work / "dataset"), "-o", "out"],
            {},
        ),
        "dataset": (
            [
                "study",
                str(work / "small.yaml"),
                "--data",
                str(work / "sky.cube"),
                "--labels",
                str(labels),
                "-o",
                "out",
            ],
            {},
        ),
        "predict": (["predict", str(model), str(work / "sky"), "-o", "predictions.parquet"], {}),
        "fetch": (
            ["fetch", "sdss", "spectra", "got", "--per-class", "6", "--archive", archive.url],
            {},
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--verbs", nargs="*", default=[])
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for verb, (words, before) in verbs(Path(name), stack).items():
            if arguments.verbs and verb not in arguments.verbs:
                continue
            with disk(PLENTY) as folder:
                for target, source in before.items():
                    shutil.copytree(source, folder / target)
                start = used(folder)
                whole = call(words, folder)
                if whole.returncode:
                    raise SystemExit(f"{verb} fails with room enough: {whole.stderr}")
                end = used(folder)
            good = 0
            lines = set()
            for level in range(arguments.levels):
                size = start + (end - start) * level // arguments.levels // PAGE * PAGE + PAGE
                with disk(size) as folder:
                    for target, source in before.items():
                        shutil.copytree(source, folder / target)
                    stood = state(folder, [*before])
                    done = call(words, folder)
                    told = [line for line in done.stderr.splitlines() if line.startswith("skyfuse: ")]
                    other = "Traceback" in done.stderr
                    lines.update(told)
                    same = state(folder, [*before]) == stood
                    partial = [path for path in folder.rglob("*.tmp") if "ledger/next" not in str(path)]
                    grow(folder)
                    again = call(words, folder)
                    right = (
                        done.returncode == 1
                        and len(told) == 1
                        and not other
                        and same
                        and again.returncode == 0
                    )
                    good += right
                    if not right or partial:
                        print(
                            f"{verb}, {size} of {end} bytes: exit {done.returncode}, {told}, "
                            f"{'the same' if same else 'HARMED'}, left {[str(p) for p in partial]}, "
                            f"again {again.returncode} {again.stderr[-300:] if again.returncode else ''}"
                            + (f"\n{done.stderr[-900:]}" if other or not told else "")
                        )
            failed += arguments.levels - good
            print(f"{verb}: {good} of {arguments.levels} levels end in one line and go on", flush=True)
            for line in sorted(lines)[:6]:
                print(f"    {line}")
    return 0 if not failed else 1


if __name__ == "__main__":
    sys.exit(main())
