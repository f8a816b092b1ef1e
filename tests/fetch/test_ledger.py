from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import DataError, StoreError
from skyfuse.fetch.ledger import NAME, Added, Ledger, Query, Row, Wanted


def file(name: str, **more: object) -> Wanted:
    return Wanted(f"spectra/{name}", f"http://archive/{name}", "spectrum", **more)


def rows(ledger: Ledger, now: float = 1.0) -> list[Row]:
    return list(ledger.waiting(now))


def test_an_index_that_has_lost_a_row_is_told(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.add(Wanted(f"{k}.fits", f"https://example.org/{k}", "spectrum") for k in range(5))
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = 1")
        stored = db.execute("SELECT sql FROM sqlite_master WHERE name = 'waiting'").fetchone()[0]
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'waiting'", (f"{stored} AND id <> 3",))
    # The index is made anew without the row, then called what it was.
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as db:
        db.execute("REINDEX waiting")
        db.execute("PRAGMA writable_schema = 1")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'waiting'", (stored,))
    with pytest.raises(StoreError, match="index of waiting files"):
        Ledger.open(tmp_path)


def test_a_wanted_file_comes_back_as_it_was_asked_for(tmp_path: Path) -> None:
    wanted = Wanted(
        "frames/a.fits",
        "http://archive/a",
        "frame",
        bytes=12,
        checksum="sha1:00",
        expect={"RUN": 94, "FILTER": "r", "X": 0.5},
        data="ID=1",
    )
    with Ledger.open(tmp_path) as ledger:
        assert ledger.add([wanted]) == Added(1, 0, 0)
    with Ledger.open(tmp_path) as ledger:
        assert rows(ledger) == [Row(1, wanted, 0, None, None, None)]


def test_a_file_asked_twice_is_one_row_and_is_told(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        assert ledger.add(file(name) for name in "abacab") == Added(new=3, known=0, twice=3)
        assert ledger.add([file("c"), file("d"), file("c")]) == Added(new=1, known=1, twice=1)
        assert [row.wanted.path[-1] for row in rows(ledger)] == ["a", "b", "c", "d"]


def test_two_files_under_one_name_are_refused(tmp_path: Path) -> None:
    other = Wanted("spectra/a", "http://archive/other", "spectrum")
    with Ledger.open(tmp_path) as ledger:
        with pytest.raises(DataError, match=r"two different files.*archive/a and .*archive/other"):
            ledger.add([file("b"), file("a"), other])
        assert ledger.tally().asked == 0


def test_a_later_asking_may_name_another_mirror(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add([file("a")])
        assert ledger.add([Wanted("spectra/a", "http://mirror/a", "spectrum", bytes=5)]) == Added(0, 1, 0)
        (row,) = rows(ledger)
    assert (row.wanted.url, row.wanted.bytes) == ("http://mirror/a", 5)


def test_asking_streams_and_may_use_the_ledger_meanwhile(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:

        def plan() -> object:
            for number in range(1201):
                if number == 600:
                    ledger.note_query("STAR", "SELECT", rows=1201, available=None)
                yield file(str(number))

        assert ledger.add(plan()) == Added(1201, 0, 0)
        assert [row.id for row in rows(ledger)] == list(range(1, 1202))


def test_each_state_is_counted(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(file(name) for name in "abcd")
        ledger.received(1, 100, "sha256:00")
        ledger.failed(2, "html-page", "it is a page", 1, due=None)
        ledger.failed(3, "no-answer", "refused", 1, due=50.0)
        ledger.failed(3, "html-page", "it is a page", 2, due=60.0)
        tally = ledger.tally()
        assert (tally.asked, tally.received, tally.rejected, tally.waiting) == (4, 1, 1, 2)
        assert tally.bytes == 100
        assert tally.reasons == {"html-page": 1}
        assert tally.faults == {"html-page": 2, "no-answer": 1}
        assert list(ledger.rejected()) == [("spectra/b", "html-page", "it is a page")]
        assert [row.id for row in rows(ledger, now=59.0)] == [4]
        assert [(row.id, row.tries) for row in rows(ledger, now=60.0)] == [(3, 2), (4, 0)]
        assert ledger.next_due() == 0.0


def test_a_new_run_tries_the_rejected_and_the_lost_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(file(name) for name in "abcd")
        (tmp_path / "spectra").mkdir()
        for number, name in enumerate("abc", 1):
            (tmp_path / "spectra" / name).write_bytes(b"12345")
            ledger.received(number, 5, "sha256:00")
        ledger.failed(4, "http-404", "no such file", 1, due=None)
        (tmp_path / "spectra/b").unlink()
        (tmp_path / "spectra/c").write_bytes(b"123456")
        assert ledger.renew() == 2
        assert [(row.id, row.digest) for row in rows(ledger)] == [
            (2, "sha256:00"),
            (3, "sha256:00"),
            (4, None),
        ]
        assert ledger.tally().bytes == 5


def test_known_and_unknown_sizes_of_what_waits(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add([file("a", bytes=10), file("b"), file("c", bytes=7), file("d", bytes=1)])
        ledger.received(4, 1, "sha256:00")
        assert ledger.outstanding() == {"spectrum": (17, 1)}


def test_queries_are_kept_and_replaced(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.note_query("STAR", "SELECT 1", rows=5, available=9)
        ledger.note_query("STAR", "SELECT 1", rows=9, available=9, remark="all")
        ledger.note_query("QSO", "SELECT 2", rows=0)
        assert ledger.queries() == [
            Query("STAR", "SELECT 1", 9, 9, "all"),
            Query("QSO", "SELECT 2", 0, None, ""),
        ]


def test_remarks_from_a_server_are_one_printable_line(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add([file("\x1b[2Ja\nb")])
        ledger.failed(1, "unsafe-path", "bad\n\x1b]0;name\x07", 1, due=None)
        assert list(ledger.rejected()) == [("spectra/\ufffd[2Ja b", "unsafe-path", "bad \ufffd]0;name\ufffd")]


def test_a_lone_surrogate_in_a_name_is_still_a_row(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add([file("a\ud800")])
        assert rows(ledger)[0].wanted.path == "spectra/a\\ud800"


def test_no_ledger_a_damaged_one_a_newer_one_and_a_link_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was fetched into it; "):
        Ledger.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(
        StoreError, match=r"is damaged \(file is not a database\); remove it and give the same fetch"
    ):
        Ledger.open(tmp_path)
    (tmp_path / NAME).unlink()
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match="format 99, this program knows 1"):
        Ledger.open(tmp_path)
    (tmp_path / NAME).rename(tmp_path / "elsewhere")
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        Ledger.open(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.text(min_size=1, max_size=4), max_size=12), max_size=4), st.data())
def test_asked_is_received_and_rejected_and_waiting(
    tmp_path_factory: pytest.TempPathFactory, askings: list[list[str]], data: st.DataObject
) -> None:
    known: set[str] = set()
    with Ledger.open(tmp_path_factory.mktemp("ledger")) as ledger:
        for names in askings:
            added = ledger.add(file(name) for name in names)
            assert added == Added(
                len(set(names) - known), len(set(names) & known), len(names) - len(set(names))
            )
            known |= set(names)
            for row in rows(ledger):
                fate = data.draw(st.sampled_from(["wait", "receive", "fail", "reject"]))
                if fate == "receive":
                    ledger.received(row.id, 1, "sha256:00")
                elif fate != "wait":
                    ledger.failed(row.id, fate, fate, row.tries + 1, 0.5 if fate == "fail" else None)
            tally = ledger.tally()
            assert tally.asked == len(known) == tally.received + tally.rejected + tally.waiting
            assert tally.rejected == sum(tally.reasons.values()) == len(list(ledger.rejected()))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE files SET path = x'ff00' WHERE id = 2",
        "UPDATE files SET kind = 'spektrum' WHERE id = 2",
        "UPDATE files SET state = 'receiveb' WHERE id = 2",
        "UPDATE files SET state = 'rejected', reason = NULL WHERE id = 2",
        "UPDATE files SET state = 'received', size = 'many', digest = '' WHERE id = 2",
        "UPDATE files SET due = 'soon' WHERE id = 2",
        "UPDATE files SET expect = '{' WHERE id = 2",
        "UPDATE files SET expect = '[1]' WHERE id = 2",
        "UPDATE files SET expect = '{\"RUN\": [1]}' WHERE id = 2",
        "UPDATE files SET url = CAST(x'68ff' AS TEXT) WHERE id = 2",
        "INSERT INTO faults VALUES ('no-answer', 'many')",
        "INSERT INTO queries VALUES ('STAR', 'SELECT', 'x', NULL, '')",
        "DROP TABLE faults",
        "ALTER TABLE files DROP COLUMN remark",
    ],
)
def test_a_damaged_row_is_told_in_a_line(tmp_path: Path, change: str) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(file(name) for name in "abc")
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(change)
    db.close()

    def use() -> None:
        with Ledger.open(tmp_path) as ledger:
            list(ledger.waiting(1.0))
            ledger.tally()

    with pytest.raises(StoreError, match=r"ledger.sqlite: is damaged \(.*\); remove it and give") as told:
        use()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_of_a_ledger_are_told_in_a_line_or_do_no_harm(tmp_path: Path, seed: int) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(file(str(number)) for number in range(40))
        ledger.failed(1, "http-404", "no such file", 1, due=None)
        ledger.note_query("STAR", "SELECT", rows=3)
    (tmp_path / "ledger.sqlite-wal").unlink(missing_ok=True)
    whole = (tmp_path / NAME).read_bytes()
    chance = np.random.default_rng(seed)
    told = []
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 8))):
            content[chance.integers(len(content))] ^= 1 << int(chance.integers(8))
        for stale in tmp_path.glob("ledger.sqlite-*"):
            stale.unlink()
        (tmp_path / NAME).write_bytes(content)
        try:
            with Ledger.open(tmp_path) as ledger:
                ledger.renew()
                list(ledger.waiting(1.0))
                list(ledger.rejected())
                tally = ledger.tally()
                ledger.queries()
            assert tally.asked == tally.received + tally.rejected + tally.waiting
        except StoreError as error:
            told.append(str(error))
    assert told
    assert not any("\n" in line for line in told)
