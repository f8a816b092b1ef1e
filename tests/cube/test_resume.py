"""Killed and interrupted builds go on to the same bytes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyfuse.cube import build as build_module
from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.query import Cube
from skyfuse.cube.tiles import TilePlan, TileReport, build_tile
from skyfuse.errors import StoreError
from skyfuse.survey.reader import Reader
from tests.cube.sky import make_sky, tile_hashes

SCRIPT = """
import sys
from pathlib import Path
from skyfuse.cube.build import build
if __name__ == "__main__":
    print("begun", flush=True)
    build([Path(sys.argv[1])], Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="module")
def whole(sky: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tile_hashes(build([sky], tmp_path_factory.mktemp("whole") / "w.cube", workers=1).out)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_build_goes_on_to_the_same_bytes(
    sky: Path, whole: dict[str, str], tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "k.cube"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, sky, out, "1"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    # The build itself takes about half a second after this line: a moment somewhere within it.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(np.random.default_rng(seed).uniform(0.0, 0.3))
    process.kill()
    process.wait()
    process.stdout.close()
    build([sky], out, workers=1)
    assert tile_hashes(out) == whole
    assert check(out) == []
    assert not list(out.rglob(".*.tmp"))


def test_a_tile_is_whole_or_absent_wherever_the_task_stops(
    sky: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the n-th system call that reaches the disk, for every n: the strictest set of moments."""
    out = tmp_path / "n.cube"
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for moment in range(1, 40, 3):
        calls = itertools.count(1)

        def failing(name: str, stop: int, calls: Iterator[int]) -> Callable[..., object]:
            def call(*arguments: Any, **options: Any) -> object:
                if next(calls) == stop:
                    raise KeyboardInterrupt
                return real[name](*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, failing(name, moment, calls))
            try:
                build([sky], out, workers=1)
                break
            except KeyboardInterrupt:
                assert not (out / "cube.json").exists()
        hashes = tile_hashes(out)
        assert hashes.items() <= whole.items()
    build([sky], out, workers=1)
    assert tile_hashes(out) == whole
    assert check(out) == []


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    sky: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def interrupted(plan: TilePlan, readers: Sequence[Reader]) -> TileReport:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(plan.tile)
        return build_tile(plan)

    monkeypatch.setattr(build_module, "build_tile", interrupted)
    out = tmp_path / "c.cube"
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped with 2 of \d tiles built; run the same command again"
    ):
        build([sky], out, workers=1)
    monkeypatch.undo()
    assert len(tile_hashes(out)) == 2
    with pytest.raises(StoreError, match="build did not end"):
        Cube.open(out)
    report = build([sky], out, workers=1)
    assert report.built == report.tiles - 2
    assert tile_hashes(out) == whole


def _dying(plan: TilePlan, readers: Sequence[Reader]) -> TileReport:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_dying_worker_is_an_error_not_a_hang(
    sky: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "build_tile", _dying)
    with pytest.raises(StoreError, match=r"a worker process died.*; run the same build again"):
        build([sky], tmp_path / "d.cube", workers=2)
    monkeypatch.undo()
    build([sky], tmp_path / "d.cube", workers=1)
    assert tile_hashes(tmp_path / "d.cube") == whole


def test_workers_end_with_their_killed_parent(sky: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, sky, tmp_path / "o.cube", "2"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.wait()
        pytest.skip("this system does not list child processes under /proc")
    deadline = time.monotonic() + 20
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None and time.monotonic() < deadline:
        workers = [int(pid) for pid in children.read_text().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert workers
    while any(_lives(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"


def _lives(pid: int) -> bool:
    try:
        # An orphan that nobody has collected yet is dead all the same.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
