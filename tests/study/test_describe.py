"""What `skyfuse info` says of a folder, and of one that is nothing."""

from __future__ import annotations

import json

import pytest

from skyfuse.errors import StoreError
from skyfuse.study.describe import describe


@pytest.mark.parametrize("kind", ["cube", "dataset", "model", "study"])
def test_facts_are_flat_and_the_kind_comes_first(tmp_path, kind):
    content = {
        "format": 1,
        "counts": {"objects": 3, "deep": {"er": "x"}},
        "empty": {},
        "many": list(range(20)),
    }
    (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    facts = describe(tmp_path)
    assert next(iter(facts)) == "kind"
    # No cube, but for its name: nothing is measured in it.
    assert (kind == "cube") == ("not known: " in facts.pop("background", ""))
    assert facts == {
        "kind": kind,
        "path": str(tmp_path),
        "format": 1,
        "counts.objects": 3,
        "counts.deep.er": "x",
        "empty": {},
        "many": "20 entries",
    }


def test_an_unfinished_cube_is_told_from_nothing(tmp_path):
    (tmp_path / "ledger").mkdir()
    with pytest.raises(StoreError, match="has not finished; run the same build again"):
        describe(tmp_path)


def test_damaged_and_absent_folders(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        describe(tmp_path / "no")
    with pytest.raises(StoreError, match="is no cube, dataset, model or study"):
        describe(tmp_path)
    (tmp_path / "cube.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        describe(tmp_path)
