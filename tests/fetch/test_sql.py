import re
import sqlite3
from collections import Counter, deque

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skyfuse.errors import DataError, FileError, UsageError
from skyfuse.fetch.sql import Answer, Selection, Service, column, read, text, whole, wrapped
from tests.fetch.standin.sky import _csv, _limits

ROWS = Selection(("t.k", "t.v"), "t", (), "k", "t.k")


class Table(Service):
    """A service over one table (k, v) that gives no more than so many rows, with a word or without."""

    def __init__(self, keys, cap, *, silent=False, page=10):
        self.page, self._cap, self._silent = page, cap, silent
        self.asked = []
        self._base = sqlite3.connect(":memory:")
        self._base.execute("CREATE TABLE t (k INTEGER, v TEXT)")
        self.all = [(k, f"row {n}") for n, k in enumerate(keys)]
        self._base.executemany("INSERT INTO t VALUES (?, ?)", self.all)

    def ask(self, query):
        self.asked.append(query)
        top = re.match(r"SELECT TOP (\d+)", query)
        if top and int(top[1]) > self._cap and not self._silent:
            raise DataError(f"refused (error: limit is  top {self._cap} )", remedy="none")
        cursor = self._base.execute(_limits(query))
        rows = [list(map(str, row[:-1])) for row in cursor.fetchmany(self._cap)]
        return Answer([name for name, *_ in cursor.description[:-1]], iter(rows))

    def get(self, **options):
        return [tuple(row) for answer in self.rows(ROWS, **options) for row in answer.rows]


def test_a_query_in_words():
    chosen = Selection(("s.a", "s.b"), "SpecObjAll AS s", ("s.z > 1", "s.c = 'QSO'"), "a", "s.a")
    assert chosen.sql(5, "12") == (
        "SELECT TOP 5 s.a, s.b, '.' AS row_end FROM SpecObjAll AS s "
        "WHERE s.z > 1 AND s.c = 'QSO' AND s.a >= 12 ORDER BY s.a"
    )
    assert chosen.count(("s.c",)) == (
        "SELECT s.c, COUNT(*) AS n, '.' AS row_end FROM SpecObjAll AS s "
        "WHERE s.z > 1 AND s.c = 'QSO' GROUP BY s.c"
    )


@given(
    keys=st.lists(st.integers(0, 30), max_size=60),
    cap=st.integers(8, 20),
    page=st.integers(8, 25),
    silent=st.booleans(),
    counted=st.booleans(),
)
def test_every_row_comes_once_whatever_the_caps(keys, cap, page, silent, counted):
    assume(max(Counter(keys).values(), default=0) < min(cap, page))
    service = Table(keys, cap, silent=silent, page=page)
    expected = sorted((str(k), v) for k, v in service.all)
    assert sorted(service.get(available=len(keys) if counted else None)) == expected


def test_more_rows_of_one_key_than_a_page_holds_are_told():
    with pytest.raises(DataError, match="more rows than a page of the service holds have the same k"):
        Table([1, *[5] * 20, 9], 50, page=8).get(available=22)


def test_a_limit_takes_the_first():
    service = Table(range(30), 7, page=100)
    assert [k for k, _ in service.get(limit=12, available=30)] == [str(k) for k in range(12)]


def test_the_cap_is_learnt_from_the_refusal():
    service = Table(range(30), 7, page=100)
    service.get(available=30)
    assert service.page == 7
    assert sum("TOP 30" in query for query in service.asked) == 1


def test_a_cut_answer_without_a_key_is_not_taken_for_whole():
    service = Table(range(30), 7, page=7)
    bare = Selection(("t.k",), "t")
    with pytest.raises(DataError, match="7 of the 30 rows"):
        deque((deque(answer.rows) for answer in service.rows(bare, available=30)), 0)
    assert [len(list(a.rows)) for a in Table(range(5), 7, page=7).rows(bare, available=5)] == [5]


def test_counts_by_group():
    assert Table([1, 1, 2], 10).count(ROWS, ("t.k",)) == {("1",): 2, ("2",): 1}


@given(st.text(max_size=30))
def test_no_text_leaves_its_literal(value):
    try:
        literal = text(value)
    except UsageError:
        return
    assert literal[0] == literal[-1] == "'"
    assert not set(literal[1:-1]) & set("'\";\\\n\r\0")
    assert sqlite3.connect(":memory:").execute(f"SELECT {literal}").fetchone() == (value,)


@pytest.mark.parametrize("value", ["STAR'; DROP TABLE x", "a'", '"', "x\ny", "a" * 65])
def test_texts_that_could_leave_are_refused(value):
    with pytest.raises(UsageError, match="cannot be a name"):
        text(value)


@pytest.mark.parametrize("value", ["1 OR 1=1", "", "1.5", "0x1", "1" * 21])
def test_only_whole_numbers_are_numbers(value):
    with pytest.raises(UsageError, match="no whole number"):
        whole(value)


@pytest.mark.parametrize("name", ["a b", "z)--", "p.petroMag_r, (SELECT 1)", "", "a.b.c", "1a"])
def test_only_names_are_columns(name):
    with pytest.raises(UsageError, match="is no column"):
        column(name)
    assert column(" p.petroMag_r ") == "p.petroMag_r"


def test_a_query_of_the_users_loses_comments_and_line_ends():
    chosen = wrapped("SELECT plate, -- which\n mjd /* when\nexactly */ FROM SpecObj ;\n")
    assert chosen.source == "(SELECT plate, mjd FROM SpecObj) AS q"
    for wrong in ("DROP TABLE x", "", "SELECT 1; SELECT 2", "WITH a AS (SELECT 1) SELECT 2"):
        with pytest.raises(UsageError, match="not one SELECT"):
            wrapped(wrong)


def test_an_answer_is_read():
    answer = read('#Table1\nid,name,row_end\n12345678901234567890,"a, ""b""",.\n1,null,.\n')
    assert answer.columns == ["id", "name"]
    assert list(answer.rows) == [["12345678901234567890", 'a, "b"'], ["1", ""]]


def test_an_answer_that_was_cut_gives_no_wrong_row():
    rows = [(123456789, "a, b", 1.25, "."), (2, 'say "x"', -3e-5, "."), (3, None, 0.5, ".")]
    whole_answer = _csv(["k", "name", "z", "row_end"], rows).decode()
    truth = list(read(whole_answer).rows)
    for at in range(len(whole_answer)):
        try:
            found = list(read(whole_answer[:at]).rows)
        except FileError:
            continue
        assert found == truth[: len(found)]


@pytest.mark.parametrize(
    "content", ["", "<html><body>Error</body></html>", '{"Error": 1}', "SIMPLE  =  T", "a,b\n1,2\n"]
)
def test_what_is_no_table_of_ours_is_told(content):
    with pytest.raises(FileError, match="no whole table"):
        read(content)
