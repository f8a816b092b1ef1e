"""Stop a build at random moments, go on, and compare every tile byte for byte.

An uninterrupted build tells how long each phase takes: recognising files, building tiles, finishing. The
kills take the phases in turn, each at a random moment of its phase, and none counts that came after the
build's end. Most are SIGKILL, every other one of them takes the workers at the same instant, else they find
their parent gone; then come SIGTERM and SIGINT. Each build begins anew, and small tiles make it many tasks.

With --standing each build adds to a copy of a cube. After the kill, readers must find the old state or the
new one, whole.

Examples: python benchmarks/kill_resume.py sky/ --kills 20
          python benchmarks/kill_resume.py sky/spectro --kills 20 --standing sky/photoObj
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from skyfuse.cube import build as building
from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.query import Cube

WAYS = ("all", signal.SIGKILL, signal.SIGTERM, "all", signal.SIGINT)
PHASES = ("recognising files", "building tiles", "finishing")
SCRIPT = """
import signal
import sys
from pathlib import Path
from skyfuse.cube import build as building
from skyfuse.cube.build import build

told = set()

def tell(done, total, what):
    # Tiles are built in two goes where a file fails that stood in the way of another.
    if done == total and what not in told:
        told.add(what)
        print(flush=True)

if __name__ == "__main__":
    # Where this was started in the background, Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(flush=True)
    building.MAX_TILE_BYTES = int(sys.argv[3])
    build(sys.argv[4:], sys.argv[1], workers=int(sys.argv[2]), progress=tell)
    print(flush=True)
"""


def hashes(cube: Path) -> dict[str, str]:
    return {
        str(tile.relative_to(cube)): hashlib.sha256(tile.read_bytes()).hexdigest()
        for tile in sorted(cube.glob("Norder=*/Dir=*/Npix=*.h5"))
    }


def start(cube: Path, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a build that writes a line as each phase begins, and one at the end."""
    shutil.rmtree(cube, ignore_errors=True)
    if arguments.standing:
        shutil.copytree(cube.parent / "standing.cube", cube)
    numbers = (str(arguments.workers), str(arguments.tile_bytes))
    # The arguments are the caller's own.
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(cube), *numbers, *map(str, arguments.inputs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )


def spans(cube: Path, arguments: argparse.Namespace) -> list[float]:
    """Build without a kill and return how long each phase takes, s."""
    process = start(cube, arguments)
    moments = [time.perf_counter() for _ in iter(process.stdout.readline, b"")]
    if process.wait() != 0:
        raise SystemExit("the build failed")
    return np.diff(moments).tolist()


def kill(cube: Path, arguments: argparse.Namespace, phase: int, delay: float, way: str | int) -> int:
    """Stop a build `delay` seconds into a phase; return the phase it was in, 3 if it had ended."""
    process = start(cube, arguments)
    for _ in range(phase + 1):
        process.stdout.readline()
    time.sleep(delay)
    if way == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.send_signal(way)
    process.wait()
    return phase + process.stdout.read().count(b"\n")


def held(cube: Path) -> set[str]:
    """Return what readers find in a cube."""
    opened = Cube.open(cube)
    return {*opened.frames["sha256"], *opened.spectra["sha256"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=Path, nargs="+", help="files or folders to build from")
    parser.add_argument("--standing", type=Path, nargs="*", default=[], help="what the cube holds before")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tile-bytes", type=int, default=8 * 1024**2, help="limit at which a tile splits")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    building.MAX_TILE_BYTES = arguments.tile_bytes
    chance = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, cube = Path(name) / "whole.cube", Path(name) / "killed.cube"
        states = []
        if arguments.standing:
            standing = Path(name) / "standing.cube"
            build(arguments.standing, standing, workers=1)
            states.append(held(standing))
        lengths = spans(whole, arguments)
        expected = hashes(whole)
        states.append(held(whole))
        print(
            f"{len(expected)} tiles; "
            + ", ".join(f"{what} {length:.2f} s" for what, length in zip(PHASES, lengths, strict=True))
        )
        equal = 0
        hit: Counter[str] = Counter()
        while hit.total() < arguments.kills:
            number = hit.total()
            phase = number % len(PHASES)
            delay = chance.uniform(0.0, lengths[phase])
            phase = kill(cube, arguments, phase, delay, WAYS[number % len(WAYS)])
            if phase == len(PHASES):
                continue
            hit[PHASES[phase]] += 1
            done = len(hashes(cube))
            found = not arguments.standing or (held(cube) in states and not check(cube))
            report = build(arguments.inputs, cube, workers=arguments.workers)
            same = found and hashes(cube) == expected and not check(cube)
            equal += same
            verdict = "equal" if same else "DIFFERENT"
            print(
                f"kill {number + 1}, {PHASES[phase]}: {done} tiles stood, "
                f"{report.built} tasks to do, {verdict}",
                flush=True,
            )
    print(
        f"{equal} of {arguments.kills} resumed builds equal the whole one in every byte (bound: all); killed "
        + ", ".join(f"{count} while {what}" for what, count in hit.items())
    )
    return 0 if equal == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
