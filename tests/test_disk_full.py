"""A full disk under the verbs: one line, nothing that stood is harmed, and the same command goes on."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from skyfuse.cli import main
from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.query import Cube
from skyfuse.errors import StoreError
from skyfuse.models import Examples
from skyfuse.models.files import write_tensors
from skyfuse.models.registry import MODELS
from skyfuse.study.tune import Store, _trials
from tests.cube.sky import make_spectrum

PLENTY = 64 * 1024**2
Disk = Callable[[int], AbstractContextManager[Path]]


def mount(folder: Path, options: str) -> bool:
    command = shutil.which("mount") or "mount"
    words = [command, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(words, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Return a file system of so many bytes as a context, with temporary files on it; skip without one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    @contextmanager
    def mounted(size: int) -> Iterator[Path]:
        if not mount(folder, f"size={size}"):
            pytest.skip("no file system can be mounted here")
        try:
            with monkeypatch.context() as patch:
                patch.setattr(tempfile, "tempdir", str(folder))
                yield folder
        finally:
            subprocess.run([shutil.which("umount") or "umount", "-l", str(folder)], check=True)

    return mounted


def grow(folder: Path) -> None:
    assert mount(folder, f"remount,size={PLENTY}")


@pytest.fixture
def skyfuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Call the command line; return its exit code and what it says."""
    monkeypatch.setattr("skyfuse.stop.listen", lambda: None)

    def call(*words: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["skyfuse", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        lines = capsys.readouterr().err.splitlines()
        return [str(stop.value.code or 0), *(line for line in lines if line.startswith("skyfuse: "))]

    return call


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("scan.jsonl", "checksums.json")
    }


def spectra(folder: Path, *fibers: int) -> Path:
    folder.mkdir()
    for fiber in fibers:
        make_spectrum(folder, fiber, 150.0 + 20 * (fiber % 2), 2.0)
    return folder


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_build_and_one_that_adds(share: float, disk: Disk, tmp_path: Path, skyfuse) -> None:
    first, second = spectra(tmp_path / "a", 1, 2), spectra(tmp_path / "b", 3)
    one = build([first], tmp_path / "one.cube", workers=1).out
    both = build([first, second], tmp_path / "both.cube", workers=1).out
    size = sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
    with disk(int(share * size) // 4096 * 4096 + 4096) as folder:
        cube = folder / "a.cube"
        code, line = skyfuse("build", first, cube, "--workers", 1)
        assert (code, str(cube) in line, "No space left" in line) == ("1", True, True)
        grow(folder)
        assert skyfuse("build", first, cube, "--workers", 1) == ["0"]
        assert files(cube) == files(one)
    with disk(PLENTY) as folder:
        cube = Path(shutil.copytree(one, folder / "a.cube"))
        filler = folder / "filler"
        room = shutil.disk_usage(folder).free - int(share * size / 2)
        filler.write_bytes(bytes(room // 4096 * 4096))
        code, line = skyfuse("build", second, cube, "--workers", 1)
        assert (code, str(cube) in line, "No space left" in line) == ("1", True, True)
        assert (len(Cube.open(cube).spectra), check(cube)) == (2, [])
        filler.unlink()
        assert skyfuse("build", second, cube, "--workers", 1) == ["0"]
        left, expected = files(cube), files(both)
        # What was named as input differs: the first files were not given again.
        assert {name for name in left if left[name] != expected.get(name)} <= {"cube.json"}
        assert left.keys() == expected.keys()


def test_a_mock(disk: Disk, tmp_path: Path, skyfuse) -> None:
    words = ("--fields", 1, "--objects", 4, "--products", "spectra,sfr")
    assert skyfuse("mock", tmp_path / "sky", *words) == ["0"]
    with disk(256 * 1024) as folder:
        code, line = skyfuse("mock", folder / "sky", *words)
        assert (code, str(folder / "sky") in line, "No space left" in line) == ("1", True, True)
        assert not [*folder.rglob(".*")]
        grow(folder)
        assert skyfuse("mock", folder / "sky", *words) == ["0"]
        assert files(folder / "sky") == files(tmp_path / "sky")


@pytest.mark.parametrize("kind", ["fits", "votable", "numpy"])
def test_an_export(kind: str, disk: Disk, tmp_path: Path, skyfuse) -> None:
    cube = build([spectra(tmp_path / "a", 1)], tmp_path / "a.cube", workers=1).out
    with disk(16 * 1024) as folder:
        out = folder / "out"
        out.write_bytes(b"old")
        code, line = skyfuse("export", cube, out, "--format", kind)
        assert (code, str(out) in line, "No space left" in line) == ("1", True, True)
        assert [path.read_bytes() for path in folder.iterdir()] == [b"old"]


def test_standard_output(tmp_path: Path, skyfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    cube = build([spectra(tmp_path / "a", 1)], tmp_path / "a.cube", workers=1).out
    out = full.open("w")
    monkeypatch.setattr(sys, "stdout", out)
    code, line = skyfuse("info", cube)
    with suppress(OSError):
        out.close()
    assert code == "1"
    assert line.startswith("skyfuse: standard output: No space left on device; ")


@pytest.mark.parametrize("size", [4096, 65536, 131072])
def test_a_store_of_trials(size: int, disk: Disk) -> None:
    def try_points(store: Path, count: int) -> float:
        with _trials(Store(store, "name")) as study:
            for _ in range(count):
                study.tell(study.ask(), 1.0)
            return study.best_value

    with disk(size) as folder:
        store = folder / "trials.sqlite"
        with pytest.raises(
            StoreError, match=r"trials\.sqlite: cannot be read or written .*; the same command"
        ):
            try_points(store, 500)
        grow(folder)
        assert try_points(store, 1) == 1.0


def test_weights_of_models(disk: Disk) -> None:
    x = {"table": np.random.default_rng(1).normal(size=(300, 60)).astype(np.float32)}
    model = MODELS["forest"]()
    model.fit(Examples(x, x["table"][:, 0]), Examples(x, x["table"][:, 0]), seed=1)
    with disk(16 * 1024) as folder:
        with pytest.raises(OSError, match="No space left") as caught:
            model.save(folder / "model")
        assert caught.value.filename == str(folder / "model")
        with pytest.raises(OSError, match="No space left"):
            write_tensors({"a": torch.zeros(100_000)}, folder)
