"""Spectra into a cube, on one core, against a bare astropy read of the same HDUs.

Ours: the whole build (scan, reading, five zooms with uncertainties, tile files, indexes) of a folder of
spectra. Baseline: `astropy.io.fits.open` and both tables' data of each file. Neither side flushes to the
disk. Each figure is the best of the rounds, which alternate.

Example: python benchmarks/spectra.py ../shared/data/sdss_spectra
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from astropy.io import fits

from skyfuse.cube.build import build


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare(files: list[Path]) -> None:
    for file in files:
        with fits.open(file, memmap=False) as hdus:
            for hdu in hdus[1:3]:
                _ = hdu.data


def fresh(inputs: list[Path], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    build(inputs, out, workers=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with spec-*.fits")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.fsync = lambda fd: None
    files = sorted(arguments.folder.rglob("spec-*.fits"))
    ours, base = [], []
    with tempfile.TemporaryDirectory() as name:
        cube = Path(name) / "spectra.cube"
        fresh([arguments.folder], cube)
        for _ in range(arguments.rounds):
            base.append(seconds(lambda: bare(files)))
            ours.append(seconds(lambda: fresh([arguments.folder], cube)))
    ratio = min(ours) / min(base)
    print(
        f"{min(ours) / len(files) * 1e3:.2f} ms a spectrum, "
        f"bare astropy read {min(base) / len(files) * 1e3:.2f} ms: "
        f"ratio {ratio:.2f} (bound 1.5), {len(files)} files"
    )
    return 0 if ratio <= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
