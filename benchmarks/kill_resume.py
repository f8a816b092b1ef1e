"""Kill a build (SIGKILL, workers too) at random moments, go on, and compare every tile byte for byte.

The moments are spread over the time that an uninterrupted build takes in the same run, and each build begins
anew.

Example: python benchmarks/kill_resume.py sky/ --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skyfuse.cube.build import build
from skyfuse.cube.query import check

SCRIPT = """
import sys
from pathlib import Path
from skyfuse.cube.build import build
if __name__ == "__main__":
    build([Path(path) for path in sys.argv[3:]], Path(sys.argv[1]), workers=int(sys.argv[2]))
"""


def hashes(cube: Path) -> dict[str, str]:
    return {
        str(tile.relative_to(cube)): hashlib.sha256(tile.read_bytes()).hexdigest()
        for tile in sorted(cube.glob("Norder=*/Dir=*/Npix=*.h5"))
    }


def start(cube: Path, workers: int, inputs: list[Path]) -> subprocess.Popen[bytes]:
    # The arguments are the caller's own.
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SCRIPT, str(cube), str(workers), *map(str, inputs)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=Path, nargs="+", help="files or folders to build from")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        if start(Path(name) / "whole.cube", arguments.workers, arguments.inputs).wait() != 0:
            return 1
        duration = time.perf_counter() - started
        expected = hashes(Path(name) / "whole.cube")
        equal = killed = 0
        for kill in range(arguments.kills):
            cube = Path(name) / "killed.cube"
            shutil.rmtree(cube, ignore_errors=True)
            process = start(cube, arguments.workers, arguments.inputs)
            try:
                process.wait(chance.uniform(0.0, duration))
            except subprocess.TimeoutExpired:
                killed += 1
            process.kill()
            process.wait()
            done = len(hashes(cube))
            report = build(arguments.inputs, cube, workers=1)
            same = hashes(cube) == expected and not check(cube)
            equal += same
            verdict = "equal" if same else "DIFFERENT"
            print(f"kill {kill + 1}: {done} tiles stood, {report.built} tasks to do, {verdict}", flush=True)
    print(
        f"{equal} of {arguments.kills} resumed builds equal the whole one in every byte (bound: all); "
        f"{killed} were killed before their end"
    )
    return 0 if equal == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
