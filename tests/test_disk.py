"""Files that appear whole or not at all, and JSON of the stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyfuse.disk import read_json, replaced, write_json
from skyfuse.errors import StoreError


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


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StoreError, match=r"bad\.json: cannot be read"):
        read_json(tmp_path / "bad.json")
