"""A part of ``benchmarks/fuzz.py``: its judge finds what it must, and mutants of each kind do no harm."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pytest

from skyfuse.errors import DataError

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "benchmarks" / "fuzz.py")
fuzz = importlib.util.module_from_spec(SPEC)
os.sys.modules["fuzz"] = fuzz
SPEC.loader.exec_module(fuzz)


# Of the slow kinds a few: a kind's first mutants wait for what its reader imports.
SHARES = fuzz.shares(list(fuzz.KINDS), 2000)


@pytest.mark.parametrize("name", fuzz.KINDS)
def test_mutants_do_no_harm(name):
    tally = fuzz.run(name, SHARES[name])
    assert sum(tally.outcomes.values()) == SHARES[name]
    assert tally.faults == []
    assert tally.outcomes["equal"] + tally.outcomes["other"] > 0
    # The build of a cube mends its ledger.
    assert (tally.outcomes["refused"] > 0) == (name != "cube-ledger")


def test_a_parquet_file_that_made_arrow_abort_is_refused():
    assert fuzz.run("table-parquet", 1, first=100929, workers=1).outcomes == {"refused": 1}


def test_shares_make_up_all_mutants():
    assert sum(SHARES.values()) >= 2000
    assert all(SHARES.values())


def note(folder):
    (folder / "note.txt").write_text("12 and 34")
    return folder / "note.txt"


def content_of(path):
    return path.read_text()


def wrong_value(path):
    return 46 if path.read_text() == "12 and 34" else 47


def unnamed(path):
    if path.read_text() != "12 and 34":
        raise DataError("is damaged", remedy="mend it")


class TwoLinesError(DataError):
    def __str__(self):
        return f"{self.path}: is\ndamaged"


def of_two_lines(path):
    if path.read_text() != "12 and 34":
        raise TwoLinesError("is damaged", remedy="mend it", path=path)


def named(path):
    if path.read_text() != "12 and 34":
        raise DataError("is damaged", remedy="mend it", path=path)


def dying(path):
    if path.read_text() != "12 and 34":
        os.abort()


def greedy(path):
    if path.read_text() != "12 and 34":
        np.ones(2**29, dtype=np.uint8)


def bursting(path):
    if path.read_text() != "12 and 34":
        np.ones(2**40, dtype=np.uint8)


def hanging(path):
    if path.read_text() != "12 and 34":
        time.sleep(1000)


def slow(path):
    started = time.process_time()
    while path.read_text() != "12 and 34" and time.process_time() - started < 0.3:
        pass


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (content_of, "fault: other values in silence"),
        (wrong_value, "fault: other values in silence"),
        (unnamed, "fault: the file is not named"),
        (of_two_lines, "fault: more than one line"),
        (named, "refused"),
        (dying, "fault: death by -6"),
        (greedy, "fault: memory"),
        (bursting, "fault: memory"),
        (hanging, "fault: hangs"),
        (slow, "fault: slow"),
    ],
)
def test_the_judge_tells_what_came_of_a_mutant(read, outcome, monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 2.0 if read is hanging else 60.0)
    monkeypatch.setattr(fuzz, "SECONDS", 0.1 if read is slow else 60.0)
    monkeypatch.setattr(fuzz, "BYTES", 2**28 if read is greedy else 2**30)
    kind = fuzz.Kind(note, read, lambda *_: None, (lambda content, chance: b"other",) * 1000)
    monkeypatch.setitem(fuzz.KINDS, "note", kind)
    tally = fuzz.run("note", 2)
    assert tally.outcomes == {outcome: 2}
    assert len(tally.faults) == (2 if outcome.startswith("fault") else 0)


def test_a_mutant_is_the_same_each_time_and_others_differ(tmp_path):
    whole = fuzz.KINDS["table-csv"].make(tmp_path)
    contents = []
    for number in (1, 1, 2, 3):
        folder = tmp_path / str(len(contents))
        folder.mkdir()
        kind = fuzz.KINDS["table-csv"]
        contents.append(fuzz.mutant(kind, whole, folder, "table-csv", number).read_bytes())
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3
