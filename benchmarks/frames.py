"""Frames into a cube, on one core, against plain reading and writing of the same bytes.

Uncompressed: build (scan, calibration, uncertainty, five zooms, one tile file) over `read` of the frames and
`write` of as many bytes as the cube holds. Compressed: build over bare bzip2 decompression of the same files.
Neither side flushes to the disk, whose speed is not the subject. Each figure is the best of the rounds, which
alternate, so that other work on the machine touches both sides alike.

Example: python benchmarks/frames.py ../shared/data/sdss_frames
"""

from __future__ import annotations

import argparse
import bz2
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from skyfuse.cube.build import build


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain(files: list[Path], size: int, target: Path) -> None:
    """Read each frame and write its share of the cube's bytes."""
    share = bytes(size // len(files))
    with target.open("wb", buffering=0) as out:
        for file in files:
            file.read_bytes()
            out.write(share)


def fresh(inputs: list[Path], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    build(inputs, out, workers=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with frame-*.fits.bz2 or frame-*.fits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=10, help="frames to take")
    arguments = parser.parse_args()
    os.fsync = lambda fd: None
    found = sorted(arguments.folder.rglob("frame-*.fits*"))[: arguments.files]
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bz2").mkdir()
        (folder / "fits").mkdir()
        for file in found:
            content = file.read_bytes()
            if file.suffix == ".bz2":
                shutil.copy(file, folder / "bz2")
                content = bz2.decompress(content)
            (folder / "fits" / file.name.removesuffix(".bz2")).write_bytes(content)
        files = sorted((folder / "fits").iterdir())
        cube = folder / "one.cube"
        fresh([folder / "fits"], cube)
        size = sum(tile.stat().st_size for tile in cube.rglob("*.h5"))
        ours, base = [], []
        for _ in range(arguments.rounds):
            shutil.rmtree(cube)
            (folder / "plain").unlink(missing_ok=True)
            base.append(seconds(lambda: plain(files, size, folder / "plain")))
            ours.append(seconds(lambda: fresh([folder / "fits"], cube)))
        ratio = min(ours) / min(base)
        ok &= ratio <= 2.5
        print(
            f"uncompressed: {min(ours) / len(files) * 1e3:.1f} ms a frame, plain read and write "
            f"{min(base) / len(files) * 1e3:.1f} ms: ratio {ratio:.2f} (bound 2.5)"
        )
        packed = sorted((folder / "bz2").iterdir())
        if packed:
            base, ours = [], []
            for _ in range(max(2, arguments.rounds // 2)):
                base.append(seconds(lambda: [bz2.decompress(file.read_bytes()) for file in packed]))
                ours.append(seconds(lambda: fresh([folder / "bz2"], cube)))
            ratio = min(ours) / min(base)
            ok &= ratio <= 1.3
            print(
                f"bzip2: {min(ours) / len(packed):.2f} s a frame, bare decompression "
                f"{min(base) / len(packed):.2f} s: ratio {ratio:.2f} (bound 1.3)"
            )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
