"""Checksums: every changed byte is found, and replacing a file never accuses it."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse import checksums
from skyfuse.checksums import damaged, digest, read_checksums, replace_covered, seal, sum32, write_checksums
from skyfuse.cube.layout import create_arrays
from skyfuse.errors import StoreError


def plain_sum(content: bytes, offset: int = 0, size: int = 4) -> int:
    """Return the sum as the module's text defines it, word by word."""
    padded = b"\0" * offset + content
    padded += b"\0" * (-len(padded) % size)
    words = [int.from_bytes(padded[i : i + size], "little") for i in range(0, len(padded), size)]
    return sum((2 * i + 1) * word for i, word in enumerate(words)) % 2**64


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.binary(max_size=5000), st.integers(0, 3000))
def test_the_sum_is_that_of_its_definition(content: bytes, offset: int) -> None:
    assert sum32(content, offset) == plain_sum(content, offset)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_every_change_of_a_word_changes_the_sum(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[place] ^= other
    assert sum32(bytes(changed)) != sum32(content)


@pytest.mark.parametrize("bit", range(64))
def test_no_two_bits_cancel(bit: int) -> None:
    content = np.random.default_rng(bit).integers(0, 2**64, 3000, np.uint64)
    places = (0, 1, 2, 255, 256, 1024, 1025, 2999)
    before = sum32(content.tobytes())
    for pair in itertools.combinations(places, 2):
        changed = content.copy()
        changed[list(pair)] ^= np.uint64(1 << bit)
        assert sum32(changed.tobytes()) != before


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8"])
def test_blocks_that_change_places_change_the_sum(kind: str) -> None:
    # Small whole numbers: the low bits of floats are 0, the high bits of integers.
    content = np.random.default_rng(7).integers(0, 3, 2**17).astype(kind).tobytes()
    for size in (512, 4096, 16384):
        for away in (1, 2, 4):
            at, to = size, size * (1 + away)
            pieces = content[at : at + size], content[at + size : to], content[to : to + size]
            changed = content[:at] + b"".join(pieces[::-1]) + content[to + size :]
            assert sum32(changed) != sum32(content)


def test_sums_of_earlier_stores_are_verified(tmp_path: Path) -> None:
    for size in (0, 5, 16, 3000, 2**20 + 1, 2**21 + 8):
        content = np.random.default_rng(size).bytes(size)
        (tmp_path / "a").write_bytes(content)
        padded = content + b"\0" * (-size % 8) + size.to_bytes(8, "little")
        write_checksums(tmp_path, {"a": f"sum64:{plain_sum(padded, size=8):016x}"})
        assert damaged(tmp_path) == []
        (tmp_path / "a").write_bytes(content + b"x")
        assert len(damaged(tmp_path)) == 1


def test_arrays_know_their_sum_however_they_are_written(tmp_path: Path) -> None:
    chance = np.random.default_rng(4)
    path = tmp_path / "a.h5"
    shapes = {f"/g/{name}": ((9, 5, 3), kind) for name, kind in (("value", "f4"), ("coverage", "f2"))}
    with create_arrays(path, {**shapes, "/e/value": ((0, 3), "f4")}) as writer:
        for row in (7, 0, 3, 3, 1):
            for name in shapes:
                writer.write(name, row, chance.normal(size=(5, 3)))
        writer.write("/g/coverage", (0, 2), chance.normal(size=3))
    assert writer.digest == digest(path, "sum32")
    content = path.read_bytes()
    content += b"\0" * (-len(content) % 4) + len(content).to_bytes(4, "little")
    assert writer.digest == f"sum32:{plain_sum(content):016x}"


def test_zeros_that_are_added_change_the_digest(tmp_path: Path) -> None:
    contents = [b"\0" * size for size in range(40)] + [b"abc" + b"\0" * size for size in range(40)]
    found = set()
    for content in contents:
        (tmp_path / "a").write_bytes(content)
        found.add(digest(tmp_path / "a", "sum32"))
    assert len(found) == len(contents)


def test_every_changed_byte_of_a_sealed_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "inner.txt").write_text("inner")
    seal(tmp_path / "in")
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    (tmp_path / ".hidden").write_text("x")
    seal(tmp_path)
    assert damaged(tmp_path) == []
    for path in (tmp_path / "a.json", *(tmp_path / "in").iterdir(), tmp_path / checksums.NAME):
        content = path.read_bytes()
        for place in range(len(content)):
            for other in (1, 0x2A):
                path.write_bytes(content[:place] + bytes([content[place] ^ other]) + content[place + 1 :])
                (line,) = damaged(tmp_path)
                assert line.startswith(f"{path}: ")
        path.unlink()
        if path.parent == tmp_path and path.name == checksums.NAME:
            assert read_checksums(tmp_path) is None
        else:
            assert damaged(tmp_path)[0].startswith(f"{path}: ")
        path.write_bytes(content)


def test_replacing_a_file_never_accuses_it_wherever_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("old")
    seal(tmp_path)
    replace = Path.replace
    for stop in range(4):
        left = [stop]

        def failing(path: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", failing)
        if stop < 3:
            with pytest.raises(KeyboardInterrupt):
                replace_covered(tmp_path, "report.html", f"new {stop}".encode())
        else:
            replace_covered(tmp_path, "report.html", b"new 3")
        monkeypatch.undo()
        assert damaged(tmp_path) == []
    assert (tmp_path / "report.html").read_text() == "new 3"
    assert len(damaged(tmp_path)) == 0
    (tmp_path / "report.html").write_text("old")
    assert len(damaged(tmp_path)) == 1


def write_four_rows(path: Path) -> None:
    with create_arrays(path, {"/g/value": ((4, 3), "f4")}) as writer:
        for row in range(4):
            writer.write("/g/value", row, np.ones(3))


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_full_disk_leaves_no_part_of_an_array_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Every call that writes to the disk is ours, so that each failure is an exception."""
    real, calls = os.pwrite, []

    def full(fd: int, data: memoryview, place: int) -> int:
        calls.append(place)
        if len(calls) == stop:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.h5'"):
        write_four_rows(tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_is_no_list_is_one_line(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"files": 1}', b'{"files": {}, "sha256": NaN}'):
        (tmp_path / checksums.NAME).write_bytes(content)
        with pytest.raises(StoreError, match=r"checksums\.json: .*damaged"):
            read_checksums(tmp_path)
