"""Cross-match: pairs against brute force at nasty places, assignments, counts, and HATS against memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, angular_separation
from astropy.io import fits
from cdshealpix.nested import vertices
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from skyfuse.cube import catalogue
from skyfuse.dataset import match as module
from skyfuse.dataset.match import closest_first, find_pairs, match, position_columns
from skyfuse.dataset.match_files import match_files
from skyfuse.errors import DataError, FileError, SkyfuseError, StoreError, UsageError
from skyfuse.survey.tables import read_table

# Poles, the meridian 0, and corners where HEALPix cells of several orders and three base cells meet.
CENTRES = [
    (0.0, 0.0), (0.0, 90.0), (123.0, -90.0), (45.0, 41.8103148957786), (0.0, 41.8103148957786), (90.0, 0.0),
    (359.9999, -45.0), (180.0, 89.9999), (22.5, 19.4712206344907),
]  # fmt: skip


def brute(ra_a, dec_a, ra_b, dec_b, radius) -> set[tuple[int, int]]:
    """Compare all with all by Vincenty's formula, as astropy has it."""
    a = np.radians([ra_a, dec_a])[:, :, None]
    b = np.radians([ra_b, dec_b])[:, None, :]
    apart = np.degrees(angular_separation(a[0], a[1], b[0], b[1])) * 3600
    return set(map(tuple, np.argwhere(apart <= radius).tolist()))


def scatter(rng, centres, n, arcsec) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions round centres, across poles and the meridian alike."""
    where = SkyCoord(*np.array(centres)[rng.integers(0, len(centres), n)].T, unit="deg")
    away = where.directional_offset_by(
        rng.uniform(0, 360, n) * module.units.deg,
        arcsec * np.sqrt(rng.uniform(0, 1, n)) * module.units.arcsec,
    )
    return away.ra.deg, away.dec.deg


@pytest.mark.parametrize("radius", [0.01, 1.0, 30.0, 3600.0])
def test_pairs_are_those_of_brute_force(radius):
    rng = np.random.default_rng(int(radius * 100))
    a, b = (scatter(rng, CENTRES, n, 6 * radius) for n in (700, 500))
    expected = brute(*a, *b, radius)
    pairs = find_pairs(*a, *b, radius)
    assert set(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)) == expected
    assert len(pairs) == len(expected) > 1000
    apart = SkyCoord(*a, unit="deg")[pairs.a].separation(SkyCoord(*b, unit="deg")[pairs.b]).arcsec
    # Vincenty's own rounding is 1e-16 radians = 2e-11 arcsec.
    np.testing.assert_allclose(pairs.separation, apart, rtol=1e-10, atol=2e-10)
    # By row of A, then distance.
    np.testing.assert_array_equal(np.lexsort((pairs.b, pairs.separation, pairs.a)), np.arange(len(pairs)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-180, 360), st.floats(-90, 90)), max_size=12),
    st.lists(st.tuples(st.floats(-180, 360), st.floats(-90, 90)), max_size=12),
    st.floats(1e-3, 3600),
)
def test_any_positions(a, b, radius):
    # Each row of A has a twin in B, half a radius to the north or south.
    b = b + [(ra, dec - np.copysign(radius / 7200, dec)) for ra, dec in a]
    places = [np.array(rows, float).reshape(-1, 2).T for rows in (a, b)]
    pairs = find_pairs(*places[0], *places[1], radius)
    found = set(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))
    # What lies on the circle to the last digit may fall to either side.
    certain, possible = (
        brute(*places[0], *places[1], radius * (1 + e) + np.sign(e) * 1e-9) for e in (-1e-9, 1e-9)
    )
    assert certain <= found <= possible
    assert {(k, len(b) - len(a) + k) for k in range(len(a))} <= found


def test_rows_without_a_position_are_counted():
    a = pd.DataFrame(
        {"ra": [10.0, np.nan, 10.0, 10.0, -999.0, 10.0], "dec": [0, 0, np.nan, np.inf, -999, 90.1]}
    )
    b = pd.DataFrame({"RA": [10.0, 370.0], "DEC": [0.0001, 0.0]})
    done = match(a, b, 1)
    assert (done.a.rows, done.a.placed, done.a.near, done.a.matched) == (6, 1, 1, 1)
    assert (done.b.rows, done.b.placed, done.b.near, done.b.matched) == (2, 1, 1, 1)
    assert done.table["separation"].to_list() == pytest.approx([0.36], abs=1e-9)
    empty = match(a.iloc[1:], b, 1)
    assert (empty.pairs, empty.within, len(empty.table)) == (0, 0, 0)
    assert list(empty.table.columns) == ["ra", "dec", "RA", "DEC", "separation", "candidates"]


# Along a meridian, arcsec north: a chain in which each row has two to choose from.
CHAIN_A, CHAIN_B = [0.0, 1.0, 5.0], [0.4, 1.7, 1.8, 9.0]


def line(offsets, **columns) -> pd.DataFrame:
    return pd.DataFrame({"ra": 359.99999, "dec": np.array(offsets) / 3600, **columns})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("one-to-one", [(0, 0), (1, 1)]),
        ("nearest", [(0, 0), (1, 0)]),
        ("all", [(0, 0), (1, 0), (1, 1), (1, 2)]),
    ],
)
def test_modes(mode, expected):
    a, b = line(CHAIN_A, id=range(3)), line(CHAIN_B, id=range(4))
    done = match(a, b, 0.9, mode)
    assert list(zip(done.table["id_a"], done.table["id_b"], strict=True)) == expected
    assert (done.within, done.sole, done.pairs) == (4, 0, len(expected))
    assert (done.a.near, done.a.ambiguous, done.b.near, done.b.ambiguous) == (2, 1, 3, 1)
    assert done.table["candidates"].to_list() == [{0: 1, 1: 3}[a] for a, _ in expected]
    offsets = [abs(CHAIN_A[i] - CHAIN_B[j]) for i, j in expected]
    np.testing.assert_allclose(done.table["separation"], offsets, atol=1e-9)
    assert (done.a.matched, done.b.matched) == tuple(len(set(side)) for side in zip(*expected, strict=True))


def test_one_to_one_is_stable_symmetric_and_holds_the_mutually_nearest():
    rng = np.random.default_rng(5)
    a, b = (rng.uniform(0, 20 / 3600, (n, 2)) for n in (300, 200))
    pairs = find_pairs(*a.T, *b.T, 2.0)
    kept = pairs.take(closest_first(pairs))
    assert len(set(kept.a)) == len(set(kept.b)) == len(kept)
    # The distance each row got; infinite where it stayed alone.
    got_a, got_b = np.full(300, np.inf), np.full(200, np.inf)
    got_a[kept.a] = got_b[kept.b] = kept.separation
    assert not ((pairs.separation < got_a[pairs.a]) & (pairs.separation < got_b[pairs.b])).any()
    other = find_pairs(*b.T, *a.T, 2.0)
    turned = other.take(closest_first(other))
    assert set(zip(turned.b, turned.a, strict=True)) == set(zip(kept.a, kept.b, strict=True))
    cost = np.full((300, 200), 1e9)
    cost[pairs.a, pairs.b] = pairs.separation
    nearest = {(i, cost[i].argmin()) for i in range(300) if cost[i].min() < 1e9}
    mutual = {(i, j) for i, j in nearest if cost[:, j].argmin() == i}
    assert mutual < set(zip(kept.a.tolist(), kept.b.tolist(), strict=True))
    # An assignment of least total cost may match more rows, never fewer.
    rows, columns = linear_sum_assignment(cost)
    assert len(kept) <= (cost[rows, columns] < 1e9).sum()


def test_equal_distances_go_to_the_lower_rows():
    a, b = line([0.0, 0.0, 1.0]), line([0.5, 0.5, 0.0])
    pairs = find_pairs(a["ra"], a["dec"], b["ra"], b["dec"], 0.6)
    kept = pairs.take(closest_first(pairs))
    assert list(zip(kept.a, kept.b, strict=True)) == [(0, 2), (1, 0), (2, 1)]
    nearest = match(a.assign(i=range(3)), b.assign(j=range(3)), 0.6, "nearest").table
    assert nearest["j"].to_list() == [2, 2, 0]


def test_names_that_clash_get_a_suffix():
    a = line([0.0], ra_a=1, separation=2, x=3)
    b = line([0.0], x_b=4, x=5)
    assert list(match(a, b).table.columns) == [
        "ra_a_a", "dec_a", "ra_a", "separation_a", "x_a", "ra_b", "dec_b", "x_b", "x_b_b", "separation",
        "candidates",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "given", "expected"),
    [
        (["id", "RA", "Dec"], None, ("RA", "Dec")),
        (["_RAJ2000", "_DEJ2000", "RAJ2000", "DEJ2000"], None, ("RAJ2000", "DEJ2000")),
        (["ALPHA_J2000", "DELTA_J2000"], None, ("ALPHA_J2000", "DELTA_J2000")),
        (["ra", "dec", "RA_gaia", "DEC_gaia"], ("ra_gaia", "dec_gaia"), ("RA_gaia", "DEC_gaia")),
    ],
)
def test_position_columns(columns, given, expected):
    assert position_columns(columns, given) == expected


def test_angles_in_other_units_are_degrees_all_the_same():
    a = pd.DataFrame({"ra": [np.pi / 2], "dec": [0.0]})
    a.attrs["units"] = {"ra": "rad", "dec": "deg"}
    assert match(a, pd.DataFrame({"ra": [90.0], "dec": [0.0]})).pairs == 1
    a.attrs["units"] = {"ra": "km"}
    with pytest.raises(DataError, match="'ra' is in km; give positions in decimal degrees"):
        match(a, a)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_a_bad_radius_is_refused(radius):
    with pytest.raises(UsageError, match="give arcseconds above 0 and at most 3600"):
        match(line([0.0]), line([0.0]), radius)


def test_wrong_calls(tmp_path, monkeypatch):
    good = line([0.0, 0.1])
    with pytest.raises(UsageError, match="choose one-to-one, nearest or all"):
        match(good, good, 1, "best")
    with pytest.raises(DataError, match="no columns of positions are known among a, b; name them"):
        match(pd.DataFrame({"a": [1], "b": [2]}), good)
    with pytest.raises(DataError, match="'ra' holds no numbers: row 1 of 1 has '0h1m'; give positions in"):
        match(pd.DataFrame({"ra": ["0h1m"], "dec": [1.0]}), good)
    with pytest.raises(DataError, match="nearest columns: dec"):
        match(good, good, columns_b=("ra", "decl"))
    with pytest.raises(UsageError, match="give one of each for every row"):
        find_pairs([1.0], [1.0, 2.0], [1.0], [1.0], 1)
    good.to_csv(tmp_path / "a.csv")
    with pytest.raises(UsageError, match="would replace an input"):
        match_files(tmp_path / "a.csv", tmp_path / "a.csv", tmp_path / "a.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"without hats\.properties; give a table"):
        match_files(tmp_path / "folder", tmp_path / "a.csv", tmp_path / "o.parquet")
    monkeypatch.setattr(module, "MOST_PAIRS", 3)
    with pytest.raises(DataError, match="more than 3 pairs lie within 1″; give a smaller radius"):
        match(good, good, 1, "all")


def test_files_and_what_stands_beside_the_result(tmp_path):
    line(CHAIN_A, id=range(3)).to_csv(tmp_path / "a.csv", index=False)
    line(CHAIN_B, id=range(4)).to_parquet(tmp_path / "b.parquet")
    told: list[tuple[int, int, str]] = []
    done = match_files(
        tmp_path / "a.csv", tmp_path / "b.parquet", tmp_path / "new" / "o.csv", 0.9,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "new" / "o.csv")
    assert table["id_b"].to_list() == [0, 1]
    beside = json.loads((tmp_path / "new" / "o.json").read_text())
    assert {key: beside[key] for key in done.to_dict()} == done.to_dict()
    assert beside["radius_arcsec"] == 0.9
    inputs = beside["provenance"]["inputs"]
    assert inputs["a"]["position"] == ["ra", "dec"]
    assert list(inputs["b"]["sha256"]) == ["b.parquet"]
    assert len(inputs["b"]["sha256"]["b.parquet"]) == 64
    assert beside["provenance"]["skyfuse"]
    assert told[-1][0] == told[-1][1] == 3
    assert "with a row of B within 0.9″" in str(done)


# ---- HATS -------------------------------------------------------------------------------------------------


def borders(rng, n, arcsec) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions at corners and along borders of cells of order 0 to 2, and at the poles."""
    places = list(CENTRES)
    for order in range(3):
        lon, lat = (
            side.deg.ravel() for side in vertices(np.arange(12 * 4**order, dtype=np.uint64), order, 3)
        )
        some = np.random.default_rng(order).choice(len(lon), 25, replace=False)
        places += list(zip(lon[some], lat[some], strict=True))
    return scatter(rng, places, n, arcsec)


def write_hats(root: Path, ra, dec, ids, most: int) -> Path:
    """Write positions as the objects of a cube, with so few rows in a partition."""
    rows = [{"ra": r, "dec": d, "object_id": i} for r, d, i in zip(ra, dec, ids, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "ROWS", most)
        catalogue.write_catalogue(root, "objects", rows, catalogue.schema_of("objects", {}), "test")
    return root / "objects"


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> dict[str, Path]:
    """Return two catalogues as HATS and as tables; many pairs straddle borders, some rows are there twice."""
    folder = tmp_path_factory.mktemp("hats")
    rng = np.random.default_rng(8)
    out: dict[str, Path] = {}
    for side, n, most in (("a", 1200, 100), ("b", 1000, 90)):
        ra, dec = borders(rng, n, 20.0)
        # Twins: the same position, another row.
        ra, dec = np.concatenate([ra, ra[:40]]), np.concatenate([dec, dec[:40]])
        ids = [f"{side}{k}" for k in range(len(ra))]
        out[side] = write_hats(folder / f"{side}.cube", ra, dec, ids, most)
        # In the order of the HATS catalogue, so that equal distances go to the same rows.
        schema = catalogue.schema_of("objects", {})
        table = catalogue.read_catalogue(folder / f"{side}.cube", "objects", schema)[
            ["object_id", "ra", "dec"]
        ]
        out[f"{side} table"] = folder / f"{side}.parquet"
        table.to_parquet(out[f"{side} table"])
    return out


COLUMNS = ["object_id_a", "ra_a", "dec_a", "object_id_b", "ra_b", "dec_b", "separation", "candidates"]


@pytest.mark.parametrize(
    ("a", "b", "mode", "radius"),
    [
        ("a", "b", "one-to-one", 10.0),
        ("b", "a", "nearest", 10.0),
        ("a table", "b", "all", 10.0),
        ("b", "a table", "one-to-one", 10.0),
        ("a table", "b", "one-to-one", 3600.0),
    ],
)
def test_hats_gives_the_pairs_of_memory(sides, tmp_path, a, b, mode, radius):
    tables = [pd.read_parquet(sides[f"{side[0]} table"]) for side in (a, b)]
    expected = match(*tables, radius, mode)
    done = match_files(sides[a], sides[b], tmp_path / "out.parquet", radius, mode)
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns[-2:]) == COLUMNS[-2:]
    order = ["object_id_a", "object_id_b"]
    mine = table[COLUMNS].sort_values(order, ignore_index=True)
    theirs = expected.table[COLUMNS].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True, check_dtype=False)
    assert done.to_dict() | {"a": 0, "b": 0} == expected.to_dict() | {"a": 0, "b": 0}
    for got, wanted in ((done.a, expected.a), (done.b, expected.b)):
        for name in ("rows", "near", "ambiguous", "matched"):
            assert getattr(got, name) == getattr(wanted, name)
    assert len(table) > 100
    assert not list(tmp_path.glob(".out*"))


def test_pairs_across_borders_are_many(sides):
    tables = [pd.read_parquet(sides[f"{side} table"]) for side in "ab"]
    together = match(*tables, 10.0, "all").table
    for side in "ab":
        pixels = pd.read_csv(sides[side] / "partition_info.csv")
        starts = np.sort(pixels["Npix"].to_numpy() << 2 * (29 - pixels["Norder"].to_numpy()))
        assert len(set(pixels["Norder"])) > 1
        cells = [catalogue.healpix29(together[f"ra_{s}"], together[f"dec_{s}"]) for s in "ab"]
        at = [np.searchsorted(starts, of, "right") for of in cells]
        assert (at[0] != at[1]).sum() > 500


def test_partitions_that_nothing_touches_are_not_read(sides, tmp_path):
    pd.DataFrame({"ra": [45.0], "dec": [41.81]}).to_csv(tmp_path / "a.csv")
    done = match_files(tmp_path / "a.csv", sides["b"], tmp_path / "o.parquet", 10)
    assert 0 < done.b.read < done.b.rows == 1040
    assert "in partitions that A touches" in str(done)
    none = pd.DataFrame({"ra": [200.0], "dec": [-20.0]})
    none.to_csv(tmp_path / "none.csv")
    done = match_files(tmp_path / "none.csv", sides["b"], tmp_path / "none.parquet", 10)
    assert done.pairs == 0
    table = pd.read_parquet(tmp_path / "none.parquet")
    assert len(table) == 0
    assert {"object_id", "ra_b", "separation"} <= set(table.columns)


def test_partitions_that_rounded_whole_numbers_are_told(tmp_path):
    ra, dec = np.linspace(0, 350, 40), np.linspace(-80, 80, 40)
    root = write_hats(tmp_path / "x.cube", ra, dec, [str(k) for k in range(40)], 10)
    paths = sorted(root.rglob("Npix=*.parquet"))
    assert len(paths) > 2
    whole = pq.read_schema(paths[0]).append(pa.field("number", pa.int64()))
    for path in paths:
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.append_column("number", pa.array([2**60 + 1] * len(table))), path)
    for name in ("_common_metadata", "_metadata"):
        (root / "dataset" / name).unlink(missing_ok=True)
    pq.write_metadata(whole, root / "dataset" / "_common_metadata")
    pd.DataFrame({"ra": ra, "dec": dec}).to_parquet(tmp_path / "b.parquet")
    match_files(root, tmp_path / "b.parquet", tmp_path / "o.parquet")
    assert set(pd.read_parquet(tmp_path / "o.parquet")["number"]) == {2**60 + 1}
    table = pq.read_table(paths[1], partitioning=None)
    column = table["number"].cast(pa.float64(), safe=False)
    pq.write_table(table.set_column(table.num_columns - 1, "number", column), paths[1])
    with pytest.raises(DataError, match="'number' is double here and int64 in the catalogue") as caught:
        match_files(root, tmp_path / "b.parquet", tmp_path / "p.parquet")
    assert caught.value.path == paths[1]
    assert not (tmp_path / "p.parquet").exists()


def test_a_cube_stands_for_its_objects_and_a_damaged_catalogue_is_told(sides, tmp_path):
    import shutil

    cube = tmp_path / "x.cube"
    shutil.copytree(sides["b"].parent, cube)
    (cube / "cube.json").write_text("{}")
    done = match_files(sides["a table"], cube, tmp_path / "o.parquet", 10)
    assert done.b.rows == 1040
    with pytest.raises(UsageError, match=r"end it in \.parquet"):
        match_files(sides["a table"], cube, tmp_path / "o.csv", 10)
    with pytest.raises(UsageError, match="name columns for tables only"):
        match_files(sides["a table"], cube, tmp_path / "o.parquet", columns_b=("ra", "dec"))
    before = (tmp_path / "o.parquet").read_bytes()
    victim = max(cube.glob("objects/dataset/Norder=*/*/*.parquet"), key=lambda file: file.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        match_files(sides["a table"], cube, tmp_path / "o.parquet", 10)
    assert isinstance(caught.value, SkyfuseError)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "o.parquet").read_bytes() == before


def test_the_verb(tmp_path, monkeypatch, capsys):
    import sys

    from skyfuse.cli import main

    monkeypatch.chdir(tmp_path)
    line(CHAIN_A).rename(columns={"ra": "x", "dec": "y"}).to_csv("a.csv", index=False)
    line(CHAIN_B).to_csv("b.csv", index=False)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["skyfuse", "match", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        caught = capsys.readouterr()
        return int(stop.value.code or 0), caught.out, caught.err

    code, out, _ = call(
        "a.csv", "b.csv", "--columns-a", "x y", "--radius", "0.9", "-o", "o.parquet", "--json"
    )
    assert code == 0
    assert json.loads(out)["pairs"] == len(pd.read_parquet("o.parquet")) == 2
    code, _, err = call("a.csv", "b.csv")
    assert (code, err.strip().count("\n")) == (1, 0)
    assert "name them, e.g. --columns-a 'RA_deg DE_deg'" in err
    assert call("a.csv", "b.csv", "--columns-a", "x")[0] == 2
    assert call("a.csv", "b.csv", "--radius", "nan")[0] == 2
    code, out, _ = call("--help")
    assert "Example: skyfuse match" in " ".join(out.split())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_undefined_whole_numbers_stay_missing_in_what_is_written(tmp_path, suffix):
    ra, dec = np.array([10.1, 10.2, 10.3]), np.full(3, -0.5)
    least = -(2**63)
    fits.BinTableHDU.from_columns(
        [
            fits.Column("ra", "D", array=ra),
            fits.Column("dec", "D", array=dec),
            fits.Column("nobs", "I", null=-32768, array=np.array([5, -32768, 7], "i2")),
            fits.Column("objid", "K", null=least, array=np.array([2**62 + 1, least, 2**62 + 3])),
        ]
    ).writeto(tmp_path / "a.fits")
    pd.DataFrame({"ra": ra, "dec": dec, "k": [1, 2, 3]}).to_csv(tmp_path / "b.csv", index=False)
    match_files(tmp_path / "a.fits", tmp_path / "b.csv", tmp_path / f"m.{suffix}")
    found = read_table(tmp_path / f"m.{suffix}")
    assert found["objid"].tolist() == [2**62 + 1, pd.NA, 2**62 + 3]
    assert found["nobs"].tolist() == [5, pd.NA, 7]
    assert found["k"].tolist() == [1, 2, 3]
