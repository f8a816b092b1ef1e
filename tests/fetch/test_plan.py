import json
import sqlite3

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.fetch import plan
from skyfuse.fetch.ledger import Ledger
from skyfuse.fetch.plan import Answered, Group, require_area, within
from skyfuse.sphere import Box, Cone, unit_vectors

RNG = np.random.default_rng(4)
SKY = np.column_stack([RNG.uniform(0, 360, 3000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 3000)))])
SKY = np.concatenate([SKY, [[0, 0], [359.999, 0], [10, 90], [200, -90], [0.001, 89.99]]])


@pytest.fixture(scope="module")
def table():
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE t (n INTEGER, ra REAL, dec REAL, cx REAL, cy REAL, cz REAL)")
    rows = [(n, ra, dec, *unit_vectors(ra, dec).tolist()) for n, (ra, dec) in enumerate(SKY.tolist())]
    base.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
    return base


def held(table, where):
    return {n for (n,) in table.execute(" ".join(["SELECT n FROM t WHERE", " AND ".join(where)]))}


@settings(max_examples=60)
@given(
    ra=st.floats(0, 360),
    dec=st.floats(-90, 90),
    radius=st.floats(0.01, 60),
    margin=st.sampled_from([0.0, 2.0]),
)
def test_a_cone_in_sql_is_the_cone_on_the_sky(table, ra, dec, radius, margin):
    place = SkyCoord(SKY[:, 0], SKY[:, 1], unit="deg")
    away = place.separation(SkyCoord(ra, dec, unit="deg")).deg - radius - margin
    found = held(table, within(Cone.degrees(ra, dec, radius), "t", margin))
    assert found >= set(np.flatnonzero(away < -1e-6))
    assert not found & set(np.flatnonzero(away > 1e-6))


@settings(max_examples=60)
@given(
    ras=st.tuples(st.floats(0, 360), st.floats(0, 360)),
    decs=st.tuples(st.floats(-90, 90), st.floats(-90, 90)),
)
def test_a_box_in_sql_is_the_box_on_the_sky(table, ras, decs):
    low, high = sorted(decs)
    if high - low < 1e-3:
        return
    ra, dec = SKY.T
    inside = (ra >= ras[0]) & (ra <= ras[1]) if ras[0] <= ras[1] else (ra >= ras[0]) | (ra <= ras[1])
    box = Box(*ras, low, high)
    if ras[0] != ras[1]:
        exact = set(np.flatnonzero(inside & (dec > low + 1e-6) & (dec < high - 1e-6)))
        edge = np.minimum(np.abs(ra - ras[0]), np.abs(ra - ras[1])) < 1e-6
        assert held(table, within(box, "t")) >= exact - set(np.flatnonzero(edge))
        wide = (dec < low - 1e-6) | (dec > high + 1e-6) | (~inside & ~edge)
        full = (ras[1] - ras[0]) % 360 == 0
        assert full or not held(table, within(box, "t")) & set(np.flatnonzero(wide & (ra > 1e-5)))
    assert held(table, within(box, "t", 3.0)) >= held(table, within(box, "t"))


def test_a_box_with_a_margin_reaches_over_the_pole_and_over_zero(table):
    assert "ra" not in " ".join(within(Box(10, 20, 80, 89), "t", 2.0)).replace("dec", "")
    assert "OR" in within(Box(0.5, 3, -1, 1), "t", 1.0)[1]


@pytest.mark.parametrize(
    "wrong", [Cone.degrees(0, 0, 0), Cone.degrees(0, 0, 91), Box(0, 0, 1, 2), Box(0, 1, 2, 2)]
)
def test_regions_that_no_archive_can_be_asked_for(wrong):
    with pytest.raises(UsageError, match=r"cannot be asked for|has no area"):
        require_area(wrong)


def test_what_is_told_of_a_group():
    assert Group("STAR", "", 5, 9, 5).remark == ""
    assert Group("STAR", "", 5, 3, 3).remark == "asked 5, there are 3"
    assert Group("STAR", "", 5, 9, 4).remark == "the archive counted 5 and gave 4"
    assert Group("STAR", "", None, 1200, 1000, "so").remark == "the archive counted 1,200 and gave 1,000; so"


def test_an_answer_is_asked_for_once_and_kept_whole(tmp_path):
    asked = []

    def asking(file):
        asked.append(1)
        file.write("A,b\n1,2\n")
        yield Group("rows", "SELECT 1", None, 1, 1)

    def broken(file):
        file.write("A,b\n1,")
        raise DataError("the line broke", remedy="none")

    with Ledger.open(tmp_path) as ledger:
        with pytest.raises(DataError):
            plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, broken, ledger)
        assert not list(tmp_path.rglob("*.csv"))
        for _ in range(2):
            found = plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger)
        assert list(found.rows()) == [{"a": "1", "b": "2"}]
        assert found.groups == [Group("rows", "SELECT 1", None, 1, 1)]
        other = plan.answered(tmp_path, "spectra", "sdss", {"n": 2}, asking, ledger)
        assert [query.rows for query in ledger.queries()] == [1]
    assert len(asked) == 2
    assert other.table != found.table
    story = json.loads(found.table.with_suffix(".json").read_text())
    assert story["groups"][0]["sql"] == "SELECT 1"
    assert {"time", "versions", "cite", "asked"} <= set(story)


def test_tables_of_the_users(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        plan.user_table(tmp_path / "no.csv")
    (tmp_path / "t.csv").write_text("ID,Other\n1234567890123456789,x\n")
    table = plan.user_table(tmp_path / "t.csv")
    assert plan.whole_numbers(table["id"], tmp_path) == [1234567890123456789]
    assert plan.pick(table, ("nope", "other")).tolist() == ["x"]
    assert plan.pick(table, ("nope",)) is None
    for values in ([1.5], [float("nan")], ["x"], [1e18]):
        with pytest.raises(DataError, match=r"must be whole numbers|have lost their last digits"):
            plan.whole_numbers(pd.Series(values, name="id"), tmp_path)
    names = ["4658615927801509761", "", "Gaia DR3 4658615927801509889", "0012"]
    (tmp_path / "t.csv").write_text("\n".join(["source_id,g", *(f"{name},1" for name in names)]))
    table = plan.user_table(tmp_path / "t.csv")
    numbers = plan.whole_numbers(table["source_id"], tmp_path)
    assert numbers == [4658615927801509761, None, 4658615927801509889, 12]


def test_positions_of_the_users(tmp_path):
    table = pd.DataFrame({"ra": ["10.5", "359"], "plug_dec": pd.array([-5, 90], dtype="Int64")})
    assert plan.positions(table, tmp_path).tolist() == [[10.5, -5.0], [359.0, 90.0]]
    for wrong in (["x", 1], [None, 1], [95, 1]):
        with pytest.raises(DataError, match="1 positions are missing"):
            plan.positions(table.assign(plug_dec=wrong), tmp_path)


def test_rows_of_a_table_are_streamed_by_name(tmp_path):
    (tmp_path / "t.csv").write_text('A,B\n"x, y",1\n')
    assert list(Answered(tmp_path / "t.csv").rows()) == [{"a": "x, y", "b": "1"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("json", b""),
        ("json", b"{"),
        ("json", b"[]"),
        ("json", b"{}"),
        ("json", b'{"groups": 7}'),
        ("json", b'{"groups": [7]}'),
        ("json", b'{"groups": [{"name": "rows"}]}'),
        ("json", b'{"groups": [{"name": "rows", "sql": "SELECT 1", "rows": "many"}]}'),
        ("json", b'{"groups": [{"name": "rows", "sql": 7}]}'),
        ("json", b"\xff\xfe"),
        ("json", b"[" * 100_000),
        ("csv", b""),
        ("csv", b"A,b\n1,3\n"),
        ("csv", b"A,b\n1\n"),
        ("csv", b"A,b\n1,\xff\n"),
        ("csv", None),
    ],
)
def test_an_answer_that_is_damaged_is_asked_for_again(tmp_path, name, content):
    asked = []

    def asking(file):
        asked.append(1)
        file.write("A,b\n1,2\n")
        yield Group("rows", "SELECT 1", None, 1, 1)

    with Ledger.open(tmp_path) as ledger:
        whole = plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger)
        path = whole.table.with_suffix(f".{name}")
        path.unlink() if content is None else path.write_bytes(content)
        found = plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger)
        assert found == plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger)
    assert list(found.rows()) == [{"a": "1", "b": "2"}]
    assert found.groups == whole.groups
    assert len(asked) == 2


def test_an_answer_of_an_earlier_version_is_kept(tmp_path):
    def asking(file):
        file.write("A,b\n1,2\n")
        yield Group("rows", "SELECT 1", None, 1, 1)

    with Ledger.open(tmp_path) as ledger:
        found = plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger)
        story = found.table.with_suffix(".json")
        story.write_text(json.dumps({"groups": json.loads(story.read_text())["groups"]}))
        assert plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, pytest.fail, ledger) == found
        found.table.write_bytes(b"A,b\n1\n")
        assert list(plan.answered(tmp_path, "spectra", "sdss", {"n": 1}, asking, ledger).rows())
