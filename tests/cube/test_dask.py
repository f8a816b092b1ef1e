"""The same tile tasks on a Dask cluster, one worker of which is killed half-way."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.errors import UsageError
from tests.cube.sky import make_sky, tile_hashes

distributed = pytest.importorskip("distributed")


@pytest.fixture
def cluster() -> Iterator[Any]:
    with warnings.catch_warnings():
        # Deprecations and shutdown notices inside distributed.
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as running:
            yield running


@pytest.mark.filterwarnings("ignore")
def test_a_killed_dask_worker_changes_no_byte(cluster: Any, tmp_path: Path) -> None:
    sky = make_sky(tmp_path / "sky")
    expected = tile_hashes(build([sky], tmp_path / "processes.cube", workers=2).out)
    pids = [worker.pid for worker in cluster.workers.values()]
    killed: list[int] = []

    def kill_once(done: int, total: int, what: str) -> None:
        if what == "building tiles" and not killed:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    report = build([sky], tmp_path / "dask.cube", workers=cluster.scheduler_address, progress=kill_once)
    assert killed
    assert report.ingested == 24
    assert tile_hashes(report.out) == expected
    assert check(report.out) == []


def test_no_scheduler_is_a_wrong_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    (tmp_path / "a").write_text("x")
    with pytest.raises(UsageError, match="no Dask scheduler answers at tcp://nowhere:1; start one"):
        build([tmp_path / "a"], tmp_path / "c.cube", workers="tcp://nowhere:1")
