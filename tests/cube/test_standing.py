"""A further build of a cube: what stands in it stays, whatever is given, unless it may be replaced."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyfuse.checksums import replace_covered, stamped
from skyfuse.cube import build as build_module
from skyfuse.cube import staging
from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.query import Cube
from skyfuse.cube.staging import is_switching
from skyfuse.disk import dumps, read_json, write_json
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError
from tests.cube.sky import (
    frame_path,
    make_frame,
    make_sky,
    make_spectrum,
    on_pixel,
    spectrum_path,
    tile_hashes,
)


def state(cube: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that readers see."""
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cube.rglob("*"))
        if path.is_file() and "ledger/next" not in str(path) and path.name != "scan.jsonl"
    }


def held(cube: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a cube was built from, by its name in the indexes."""
    opened = Cube.open(cube)
    found = dict(zip(opened.frames["frame_id"], opened.frames["sha256"], strict=True))
    return found | dict(zip(opened.spectra["spectrum_id"], opened.spectra["sha256"], strict=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("standing")
    sky = make_sky(folder / "sky")
    return sky, build([sky], folder / "a.cube", workers=1).out


@pytest.fixture
def copy(pair: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Return a sky and its cube, to be changed."""
    sky = Path(shutil.copytree(pair[0], tmp_path / "sky"))
    return sky, build([sky], tmp_path / "a.cube", workers=1).out


def more(folder: Path) -> Path:
    """Write two spectra near others of the sky, and one far from all."""
    folder.mkdir()
    make_spectrum(folder, 11, *on_pixel(0, 30.0, 60.0))
    make_spectrum(folder, 12, *on_pixel(2, 30.0, 60.0))
    make_spectrum(folder, 13, 10.0, -40.0)
    return folder


def test_the_same_inputs_change_nothing(pair: tuple[Path, Path]) -> None:
    sky, cube = pair
    before = {path: path.stat().st_mtime_ns for path in cube.rglob("*")}
    assert build([sky], cube, workers=1).built == 0
    del before[cube / "ledger"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_fewer_inputs_lose_nothing(pair: tuple[Path, Path]) -> None:
    sky, cube = pair
    before = state(cube)
    report = build([sky / "spectro" / "spec-0001-55000-0006.fits"], cube, workers=1)
    assert (report.ingested, report.built, report.gone) == (24, 0, 0)
    tiles = {name: value for name, value in before.items() if name.endswith((".h5", ".parquet"))}
    assert tiles.items() <= state(cube).items()
    assert check(cube) == []


@pytest.mark.parametrize("again", [True, False])
def test_more_inputs_are_added_to_the_bytes_of_one_build(
    copy: tuple[Path, Path], tmp_path: Path, *, again: bool
) -> None:
    sky, cube = copy
    new = more(tmp_path / "more")
    report = build([sky, new] if again else [new], cube, workers=1)
    assert (report.frames, report.spectra, report.asked) == (15, 12, 27)
    assert check(cube) == []
    both = build([sky, new], tmp_path / "both.cube", workers=1)
    assert tile_hashes(cube) == tile_hashes(both.out)
    assert held(cube) == held(both.out)
    assert Cube.open(cube).meta["counts"] == Cube.open(both.out).meta["counts"]


def test_broken_or_no_inputs_change_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, cube = pair
    before = state(cube)
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(DataError, match="holds no files"):
        build([broken], cube, workers=1)
    (broken / "a.fits").write_bytes(b"no FITS" * 99)
    with pytest.raises(DataError, match=r"none of the 1 files is a frame.*rejects\.parquet"):
        build([broken], cube, workers=1)
    assert state(cube) == before
    assert check(cube) == []


def test_broken_inputs_among_good_ones_are_counted_and_stay_counted(
    copy: tuple[Path, Path], tmp_path: Path
) -> None:
    _, cube = copy
    new = more(tmp_path / "more")
    (new / "a.fits").write_bytes(b"no FITS" * 99)
    assert build([new], cube, workers=1).rejected == {"not-fits": 1}
    make_spectrum(tmp_path, 14, 11.0, -40.0)
    report = build([spectrum_path(tmp_path, 1, 14)], cube, workers=1)
    assert (report.asked, report.ingested, report.rejected) == (29, 28, {"not-fits": 1})
    (new / "a.fits").unlink()
    assert build([new], cube, workers=1).rejected == {}


def test_another_grid_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sky, cube = pair
    before = state(cube)
    with pytest.raises(StoreError, match=r"has sdss on the wavelength grid sdss, not hiss; .*--replace"):
        build([sky], cube, grid="hiss", workers=1)
    assert state(cube) == before
    replaced = Path(shutil.copytree(cube, tmp_path / "r.cube"))
    build([sky], replaced, grid="hiss", workers=1, replace=True)
    assert tile_hashes(replaced) == tile_hashes(build([sky], tmp_path / "h.cube", grid="hiss", workers=1).out)
    # A cube's own grid is the one that is added to.
    assert build([sky], replaced, workers=1).built == 0


def test_changed_content_is_refused_and_replaced_on_demand(copy: tuple[Path, Path], tmp_path: Path) -> None:
    sky, cube = copy
    before, path = state(cube), spectrum_path(sky / "spectro", 1, 5)
    whole = path.read_bytes()
    make_spectrum(path.parent, 5, *on_pixel(2, 64.5, 49.5), quality=50.0)
    for broken in (False, True):
        with pytest.raises(StoreError, match=r"holds sdss-1-55000-5 from .*not as it was.*--replace"):
            build([sky], cube, workers=1)
        assert state(cube) == before
        if not broken:
            path.write_bytes(b"no FITS" * 99)
    # As long as its tile stays, nobody asks for the file.
    assert build([sky / "photo"], cube, workers=1).gone == 1
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    # The same bytes at another time are the same file.
    assert (build([sky], cube, workers=1).gone, tile_hashes(cube).items() <= before.items()) == (0, True)
    make_spectrum(path.parent, 5, *on_pixel(2, 64.5, 49.5), quality=50.0)
    build([sky], cube, workers=1, replace=True)
    assert tile_hashes(cube) == tile_hashes(build([sky], tmp_path / "b.cube", workers=1).out)


def test_a_file_that_is_gone_stays_unless_its_tile_must_be_built_again(
    copy: tuple[Path, Path], tmp_path: Path
) -> None:
    sky, cube = copy
    before = held(cube)
    frame_path(sky / "photo", 0, "r").unlink()
    report = build([sky], cube, workers=1)
    assert (report.ingested, report.gone) == (24, 1)
    assert "ingested, file gone now" in str(report)
    far = tmp_path / "far"
    far.mkdir()
    make_spectrum(far, 13, 10.0, -40.0)
    assert build([far], cube, workers=1).ingested == 25
    known = state(cube)
    near = tmp_path / "near"
    near.mkdir()
    make_spectrum(near, 11, *on_pixel(0, 30.0, 60.0))
    with pytest.raises(
        StoreError, match=r"must build tile .* again .*frame-r-004510-4-0001.*no longer there"
    ):
        build([near], cube, workers=1)
    assert state(cube) == known
    assert before.items() <= held(cube).items()
    assert check(cube) == []


def test_a_file_that_moved_is_the_same_file(copy: tuple[Path, Path], tmp_path: Path) -> None:
    sky, cube = copy
    before = tile_hashes(cube)
    sky.rename(tmp_path / "elsewhere")
    report = build([tmp_path / "elsewhere"], cube, workers=1)
    assert (report.ingested, report.asked, report.gone, report.rejected) == (24, 24, 0, {})
    assert tile_hashes(cube) == before
    assert check(cube) == []


def test_a_copy_never_takes_the_place_of_what_stands(copy: tuple[Path, Path], tmp_path: Path) -> None:
    sky, cube = copy
    # Before the other in the order of paths.
    (tmp_path / "0").mkdir()
    make_frame(tmp_path / "0", 0, "r").write_bytes(frame_path(sky / "photo", 0, "r").read_bytes())
    report = build([tmp_path / "0"], cube, workers=1)
    assert (report.built, report.rejected) == (0, {"duplicate": 1})
    assert report.rejects[0].path.startswith(str(tmp_path / "0"))


def test_tiles_that_split_keep_what_they_held(
    copy: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky, cube = copy
    before, new = held(cube), more(tmp_path / "more")
    monkeypatch.setattr(build_module, "MAX_TILE_BYTES", 1_000_000)
    build([new], cube, workers=1)
    assert before.items() <= held(cube).items()
    assert check(cube) == []
    whole = build([sky, new], tmp_path / "w.cube", workers=1)
    assert tile_hashes(cube) == tile_hashes(whole.out)


def test_a_folder_of_something_else_is_left_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes" / "ledger").mkdir(parents=True)
    (tmp_path / "notes" / "ledger" / "2026.txt").write_text("x")
    (tmp_path / "notes" / "thesis.tex").write_text("x")
    for options in ({}, {"replace": True}):
        with pytest.raises(UsageError, match="holds other things"):
            build([pair[0]], tmp_path / "notes", workers=1, **options)
    assert sorted(path.name for path in (tmp_path / "notes").rglob("*")) == [
        "2026.txt",
        "ledger",
        "thesis.tex",
    ]


@pytest.mark.parametrize(("key", "value"), [("format", 99), ("skyfuse", "99.0"), ("grid", "hiss")])
def test_a_cube_of_another_version_is_left_alone(copy: tuple[Path, Path], key: str, value: object) -> None:
    sky, cube = copy
    meta = read_json(cube / "cube.json")
    (meta["instruments"]["sdss"]["spectrum"] if key == "grid" else meta)[key] = value
    replace_covered(cube, "cube.json", dumps(meta).encode())
    before = state(cube)
    with pytest.raises(StoreError, match=r"--replace"):
        build([sky], cube, grid="sdss", workers=1)
    assert state(cube) == before
    build([sky], cube, workers=1, replace=True)
    assert check(cube) == []


def test_a_damaged_entry_of_the_ledger_rebuilds_its_tile(copy: tuple[Path, Path]) -> None:
    sky, cube = copy
    before = tile_hashes(cube)
    for number, entry in enumerate(sorted((cube / "ledger" / "tiles").iterdir())):
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 1 << number % 8
        entry.write_bytes(bytes(content))
        with pytest.raises(StoreError, match=r"would lose .*--replace"):
            # What the tile held is known from the indexes, its files are not.
            build([_far(sky.parent)], cube, workers=1)
        assert build([sky], cube, workers=1).built == 1
        assert tile_hashes(cube) == before
        assert check(cube) == []


def _far(folder: Path) -> Path:
    (folder / "far").mkdir(exist_ok=True)
    return make_spectrum(folder / "far", 13, 10.0, -40.0)


@pytest.mark.parametrize(
    "name", ["cube.json", "checksums.json", "objects/hats.properties", "ledger/rejects.parquet"]
)
def test_the_same_build_mends_what_is_damaged_beside_the_tiles(copy: tuple[Path, Path], name: str) -> None:
    sky, cube = copy
    before = state(cube)
    content = bytearray((cube / name).read_bytes())
    content[len(content) // 2] ^= 4
    (cube / name).write_bytes(bytes(content))
    assert [problem for problem in check(cube) if name in problem]
    assert build([sky], cube, workers=1).built == 0
    assert state(cube) == before
    assert check(cube) == []


def test_earlier_rejects_that_cannot_be_known_are_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sky, _ = pair
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "spec.fits").write_bytes(b"no FITS")
    report = build([sky, tmp_path / "bad"], tmp_path / "b.cube", workers=1)
    assert not report.forgotten
    again = build([sky], report.out, workers=1)
    assert again.rejected == report.rejected == {"not-fits": 1}
    assert not again.forgotten
    table = report.out / "ledger" / "rejects.parquet"
    # Parquet tells nothing of this flip: the path would be another one.
    content = bytearray(table.read_bytes())
    content[content.index(b"spec.fits")] ^= 1
    table.write_bytes(bytes(content))
    again = build([sky], report.out, workers=1)
    assert again.forgotten
    assert "was damaged and is made anew" in str(again)
    again = build([tmp_path / "bad", sky], report.out, workers=1)
    assert (again.rejected, again.forgotten) == ({"not-fits": 1}, False)


def test_the_same_build_mends_the_memory_of_the_scan(copy: tuple[Path, Path]) -> None:
    sky, cube = copy
    before = held(cube)
    memory = cube / "ledger" / "scan.jsonl"
    content = bytearray(memory.read_bytes())
    content[len(content) // 2] ^= 4
    memory.write_bytes(bytes(content) + b"added\n")
    assert [problem for problem in check(cube) if "scan.jsonl" in problem]
    assert build([sky], cube, workers=1).built == 0
    assert held(cube) == before
    assert check(cube) == []


def stopping(name: str, moment: int, calls: Iterator[int], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == moment:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    return call


def test_an_addition_may_stop_anywhere(
    copy: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the n-th call that reaches the disk: the cube is the old one or the new one, no other."""
    sky, cube = copy
    new = more(tmp_path / "more")
    old = held(cube)
    whole = build([sky, new], tmp_path / "w.cube", workers=1)
    both, tiles = held(whole.out), tile_hashes(whole.out)
    saved = Path(shutil.copytree(cube, tmp_path / "saved.cube"))
    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
    switched = 0
    for moment in itertools.count(1, 7):
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            for name, function in real.items():
                patch.setattr(os, name, stopping(name, moment, calls, function))
            try:
                build([new], cube, workers=1)
                break
            except KeyboardInterrupt:
                pass
        switched += is_switching(cube)
        assert held(cube) in (old, both)
        if moment % 3 == 1:
            assert check(cube) == []
            build([new], cube, workers=1)
            assert (held(cube), tile_hashes(cube), check(cube)) == (both, tiles, [])
        shutil.rmtree(cube)
        shutil.copytree(saved, cube)
    assert switched > 2
    assert (held(cube), tile_hashes(cube), check(cube)) == (both, tiles, [])


@pytest.fixture
def half(copy: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cube whose further build was stopped when its switch was about to begin."""

    def stop(_out: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "go_on", stop)
        with pytest.raises(KeyboardInterrupt):
            build([more(tmp_path / "more")], copy[1], workers=1)
    assert is_switching(copy[1])
    return copy[1]


def test_a_switch_may_stop_at_every_step(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(shutil.copytree(half, tmp_path / "whole.cube"))
    both = held(whole)
    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "rmdir")}
    for moment in itertools.count(1, 2):
        cube = Path(shutil.copytree(half, tmp_path / f"{moment}.cube"))
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            for name, function in real.items():
                patch.setattr(os, name, stopping(name, moment, calls, function))
            try:
                staging.go_on(cube)
                break
            except KeyboardInterrupt:
                pass
        assert held(cube) == both
        if moment % 10 == 1:
            assert (state(cube), check(cube)) == (state(whole), [])
        shutil.rmtree(cube)
    assert moment > 30


def test_a_reader_that_cannot_end_a_switch_says_so(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("replace", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(StoreError) as caught:
        Cube.open(half)
    assert str(caught.value) == (
        f"{half}: is a cube whose build was stopped in its last step (Read-only file system); "
        "run the same skyfuse build again to go on"
    )


def test_an_open_cube_never_mixes_two_states(copy: tuple[Path, Path], tmp_path: Path) -> None:
    _, cube = copy
    opened = Cube.open(cube)
    expected = opened.gather("spectrum", 4, [0]).value
    build([more(tmp_path / "more")], cube, workers=1)
    with pytest.raises(StoreError, match="was built again while it was open; open it again"):
        opened.gather("spectrum", 4, range(len(opened.objects)))
    again = Cube.open(cube)
    row = int(np.flatnonzero(again.objects["object_id"] == opened.objects["object_id"][0])[0])
    np.testing.assert_array_equal(again.gather("spectrum", 4, [row]).value, expected)


def test_an_unfinished_build_of_other_files_is_not_thrown_away(
    copy: tuple[Path, Path], tmp_path: Path
) -> None:
    sky, cube = copy
    (cube / "cube.json").unlink()
    tiles = tile_hashes(cube)
    with pytest.raises(StoreError, match=r"is the unfinished cube of other files.*--replace"):
        build([more(tmp_path / "more")], cube, workers=1)
    assert tile_hashes(cube) == tiles
    assert build([sky], cube, workers=1).built == 0
    assert tile_hashes(cube) == tiles


def test_a_forged_list_of_steps_reaches_nothing_beyond_the_cube(
    copy: tuple[Path, Path], tmp_path: Path
) -> None:
    _, cube = copy
    (tmp_path / "precious").write_text("x")
    (cube / "ledger" / "next").mkdir()
    write_json(cube / "ledger" / "next" / "switch.json", stamped({"add": [], "remove": ["../precious"]}))
    for call in (lambda: Cube.open(cube), lambda: build([copy[0]], cube, workers=1)):
        with pytest.raises(SkyfuseError, match="names files that are none of a cube"):
            call()
    assert (tmp_path / "precious").exists()
