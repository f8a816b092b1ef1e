"""A part of ``benchmarks/fuzz.py``: its judge finds what it must, and mutants of each kind do no harm."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
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


def one_verdict(name, tmp_path, change):
    kind = fuzz.KINDS[name]
    whole = kind.make(tmp_path)
    (tmp_path / "damaged").mkdir()
    damaged = fuzz.copied(whole, tmp_path / "damaged")
    change(damaged)
    return fuzz.read_verdict(kind, whole, damaged, kind.read(whole))[0]


def test_the_judge_reads_spectra_below_a_blank_line(tmp_path):
    def change(path):
        path.write_bytes(b" \n" + path.read_bytes().replace(b" 9.9", b" 7.9"))

    assert one_verdict("xp-csv", tmp_path, change) == "other"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lamost", b"EXTEND  =                    T", b"EXTEND  =                  inf"),
        ("table-fits", b"TTYPE4  = 'mag     '", b"TTYPE4  = '        '"),
        ("table-csv", b".078", b".0d999"),
    ],
)
def test_the_judge_knows_what_other_readers_do_not(tmp_path, name, old, new):
    def change(path):
        content = path.read_bytes()
        assert old in content
        content = content.replace(old, new, 1)
        if name == "lamost":
            # A pixel, too: the judge is asked where values differ.
            content = content[:2883] + bytes([content[2883] ^ 1]) + content[2884:]
        path.write_bytes(content)

    assert one_verdict(name, tmp_path, change) == "other"


@pytest.mark.parametrize("name", ["\x0cag", "mag ", "tag"])
def test_the_judge_reads_names_of_columns_as_they_are(tmp_path, name):
    def change(path):
        pd.read_parquet(path).rename(columns={"mag": name}).to_parquet(path)

    assert one_verdict("table-parquet", tmp_path, change) == "other"


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
