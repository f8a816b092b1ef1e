"""Files that appear whole or not at all, and JSON of the stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from skyfuse.disk import locked, read_json, replaced, write_json
from skyfuse.errors import StoreError, UsageError


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with replaced(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": 1, "a": 2}',
        b'[{"b": {"a": 1, "a": 1}}]',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b"[1]",
        b"",
    ],
)
def test_json_that_no_store_writes_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"bad\.json: cannot be read: it is damaged") as caught:
        read_json(tmp_path / "bad.json")
    assert len(str(caught.value)) < 300


def test_numbers_that_stores_write_are_read_exactly(tmp_path: Path) -> None:
    content = {"id": 2**63 + 1, "least": 5e-324, "most": 1.7976931348623157e308, "text": "\ud800"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StoreError, match=r"bad\.json: cannot be read"):
        read_json(tmp_path / "bad.json")


def test_a_folder_has_one_writer_and_is_free_when_that_one_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "study"
    script = (
        "import pathlib, sys, time; from skyfuse.disk import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'study'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError) as caught, locked(folder, "study"):
            pass
        other.kill()
    assert str(caught.value) == (f"{folder}: another study writes this folder; wait until it ends or stop it")
    with locked(folder, "study"):
        pass
    assert list(folder.iterdir()) == []


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; give a folder"), locked(tmp_path / "file", "study"):
        pass
    with (
        pytest.raises(StoreError, match=r"cannot be written \(Not a directory\)"),
        locked(tmp_path / "file" / "in", "study"),
    ):
        pass
