"""Peak memory and wall time of a build, against those of a build with ten times the fields.

Both skies are mocks, made here, with objects in proportion to the fields. Each build runs in a process of its
own with its workers; memory is the sum, over that process and its workers, of each one's greatest resident
size (VmHWM of `/proc`, read every 20 ms: it counts pages that the process touched, not the system's cache of
files). A process seen for less than a fifth of a second does not count: between fork and exec it shows its
parent's pages. The builds take turns, and of several rounds the least time and the greatest memory count.

Example: python benchmarks/memory.py --fields 2 --objects 100
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from skyfuse.mock import write_mock

MEMORY_BOUND = 1.10
TIME_BOUND = 10.5
SCRIPT = """
import sys
from pathlib import Path
from skyfuse.cube.build import build
if __name__ == "__main__":
    build([Path(sys.argv[1])], Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


def peaks(pid: int) -> dict[int, int]:
    """Return the greatest resident size so far (bytes) of a process and of its children, by process."""
    found = {}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= peaks(int(child))
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found[pid] = int(line.split()[1]) * 1024
    except OSError:
        pass  # It ended while we looked.
    return found


def measure(sky: Path, cube: Path, workers: int) -> tuple[int, float]:
    """Build once; return the sum of the processes' peaks (bytes) and the wall time (s)."""
    started = time.perf_counter()
    # The arguments are this file's own.
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(sky), str(cube), str(workers)])
    highest: dict[int, int] = {}
    sightings: Counter[int] = Counter()
    while process.poll() is None:
        seen = peaks(process.pid)
        highest |= seen
        sightings.update(seen.keys())
        time.sleep(0.02)
    if process.returncode != 0:
        raise SystemExit("the build failed")
    return sum(peak for pid, peak in highest.items() if sightings[pid] >= 10), time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=2, help="fields of the small sky")
    parser.add_argument("--objects", type=int, default=100, help="objects of the small sky")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    memory: dict[int, list[int]] = {1: [], 10: []}
    seconds: dict[int, list[float]] = {1: [], 10: []}
    with tempfile.TemporaryDirectory() as name:
        for times in memory:
            write_mock(
                Path(name) / f"sky{times}",
                fields=arguments.fields * times,
                objects=arguments.objects * times,
            )
        for turn in range(arguments.rounds):
            for times in memory:
                cube = Path(name) / f"{times}-{turn}.cube"
                peak, wall = measure(Path(name) / f"sky{times}", cube, arguments.workers)
                memory[times].append(peak)
                seconds[times].append(wall)
    for times in memory:
        print(
            f"{arguments.fields * times} fields, {arguments.objects * times} objects: "
            f"{max(memory[times]) / 2**20:.0f} MiB, {min(seconds[times]):.1f} s"
        )
    more_memory = max(memory[10]) / max(memory[1])
    more_time = min(seconds[10]) / min(seconds[1])
    print(
        f"ten times the fields: {more_memory:.2f} times the memory (bound {MEMORY_BOUND}), "
        f"{more_time:.1f} times the time (bound {TIME_BOUND})"
    )
    return 0 if more_memory <= MEMORY_BOUND and more_time <= TIME_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
