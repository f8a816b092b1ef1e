"""Build the same frames with two versions of the program in turn, and compare the processor time it takes.

Each build runs in a process of its own, after one that warms its compiled kernels; none flushes to the disk.
Odd rounds begin with one version, even rounds with the other. The ratio of the least times is what counts.

Example: python benchmarks/paired.py ../before/src src ../shared/data/sdss_frames
"""

from __future__ import annotations

import argparse
import bz2
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BUILD = """
import os, shutil, sys, time
from pathlib import Path
from skyfuse.cube.build import build
os.fsync = lambda fd: None
inputs, out, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
best = float("inf")
for number in range(rounds + 1):
    shutil.rmtree(out, ignore_errors=True)
    started = time.process_time()
    build([inputs], out, workers=1)
    if number:
        best = min(best, time.process_time() - started)
shutil.rmtree(out)
print(best)
"""


def best(source: Path, inputs: Path, out: Path, rounds: int) -> float:
    """Return the least processor time of a build, s."""
    environment = os.environ | {"PYTHONPATH": str(source.absolute())}
    arguments = [sys.executable, "-c", BUILD, str(inputs), str(out), str(rounds)]
    return float(subprocess.run(arguments, env=environment, check=True, capture_output=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="folder of the package skyfuse of the version before")
    parser.add_argument("now", type=Path, help="the same of the version now")
    parser.add_argument("inputs", type=Path, help="folder of frames (.bz2 is unpacked first) and spectra")
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "inputs"
        folder.mkdir()
        for file in sorted(arguments.inputs.rglob("*.fits*"))[: arguments.files]:
            content = file.read_bytes()
            packed = file.suffix == ".bz2"
            (folder / file.name.removesuffix(".bz2")).write_bytes(
                bz2.decompress(content) if packed else content
            )
        times: dict[Path, list[float]] = {arguments.before: [], arguments.now: []}
        for number in range(arguments.rounds):
            for source in [*times][:: 1 if number % 2 else -1]:
                times[source].append(best(source, folder, Path(name) / "out.cube", 4))
    before, now = (min(found) for found in times.values())
    print(f"before {before * 1e3:.1f} ms, now {now * 1e3:.1f} ms: ratio {now / before:.3f} (bound 1.05)")
    return 0 if now <= 1.05 * before else 1


if __name__ == "__main__":
    sys.exit(main())
