"""Identifiers: every spelling, every format and every verb, against Python's own integers."""

from __future__ import annotations

import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse import identifiers
from skyfuse.dataset.given import open_given
from skyfuse.dataset.labels import match_identifiers
from skyfuse.dataset.match_files import match_files
from skyfuse.errors import DataError
from skyfuse.survey.colourimages import Images
from skyfuse.survey.tables import read_table
from tests.dataset.made import opened
from tests.models.cards import inputs_of

# Gaia's, SDSS's photometric objects, and SDSS's spectra of plates beyond 8191, which need 64 bits unsigned.
BASES = (4658615927801509760, 1237661382772195474, 2**63 + 4658615927801509760)
N = 2000
MISSING = {"blank": "", "null": "null", "dashes": "--", "nan": "NaN"}


def adjacent(base: int, n: int, seed: int) -> list[int]:
    """Return numbers next to each other, in any order: float64 cannot tell them apart."""
    return [base + int(step) for step in np.random.default_rng(seed).choice(2 * n, n, replace=False)]


def holed(ids: list[int], seed: int) -> list[int | None]:
    gone = set(np.random.default_rng(seed).choice(len(ids), len(ids) // 50, replace=False).tolist())
    return [None if row in gone else number for row, number in enumerate(ids)]


def write(path: Path, kind: str, ids: list[int | None], others: dict[str, Any]) -> None:
    """Write a table with the column source_id in one of the ways in which programs do."""
    texts = [None if number is None else str(number) for number in ids]
    mask = np.array([number is None for number in ids])
    filled = np.array(
        [number or 0 for number in ids], np.uint64 if max(filter(None, ids)) > 2**63 else np.int64
    )
    if kind.startswith("csv"):
        _, hole = kind.split("-")
        words = {"designation": "", "quoted": "", "excel": ""} | MISSING
        form = {"designation": "Gaia DR3 {}", "quoted": '"{}"', "excel": '"=""{}"""'}.get(hole, "{}")
        cells = [words[hole] if text is None else form.format(text) for text in texts]
        rows = zip(cells, *others.values(), strict=True)
        lines = [",".join(["source_id", *others]), *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "text-fits" or (kind == "vot" and filled.dtype == np.uint64):
        # VOTable has no unsigned integers of 64 bits.
        table = Table({"source_id": [text or "" for text in texts], **others})
        table.write(path, format="votable" if kind == "vot" else "fits")
    elif kind in ("fits", "vot", "ecsv"):
        column = MaskedColumn(filled, mask=mask) if mask.any() else filled
        table = Table({"source_id": column, **others})
        table.write(path, format={"vot": "votable", "ecsv": "ascii.ecsv"}.get(kind, kind))
    elif kind == "arrow":
        pq.write_table(
            pa.table({"source_id": pa.array(ids, pa.from_numpy_dtype(filled.dtype)), **others}), path
        )
    elif kind == "decimal":
        digits = [None if number is None else Decimal(number) for number in ids]
        pq.write_table(pa.table({"source_id": pa.array(digits, pa.decimal128(20, 0)), **others}), path)
    elif kind == "nullable":
        whole = pd.arrays.IntegerArray(filled, mask)
        pd.DataFrame({"source_id": whole, **others}).to_parquet(path)
    elif kind == "pandas-text":
        pd.DataFrame({"source_id": texts, **others}).to_parquet(path)
    else:
        raise ValueError(kind)


KINDS = {
    **{f"csv-{hole}": "csv" for hole in (*MISSING, "designation", "quoted", "excel")},
    **{"fits": "fits", "text-fits": "fits", "vot": "vot", "ecsv": "ecsv"},
    **dict.fromkeys(("arrow", "decimal", "nullable", "pandas-text"), "parquet"),
}


def exact(column: pd.Series) -> list[int | None]:
    found = identifiers.whole_numbers(column).tolist()
    return [None if number is pd.NA else number for number in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_every_format_keeps_every_digit(tmp_path: Path, kind: str, base: int) -> None:
    ids = holed(adjacent(base, N, len(kind)), base % 1000)
    path = tmp_path / f"t.{KINDS[kind]}"
    write(path, kind, ids, {"z": np.arange(N) / N})
    table = read_table(path)
    assert exact(table["source_id"]) == ids
    # As labels: each object finds its own row, whatever the other side spells.
    own = [number for number in ids if number is not None][::-1]
    for spelled in (own, [f"Gaia DR3 {number}" for number in own], [f"{number:025d}" for number in own]):
        match = match_identifiers(pd.Series(spelled), table["source_id"], table["z"])
        assert [ids[row] for row in match.label_row] == own
        assert (match.unnamed, match.repeated, match.disputed) == (ids.count(None), 0, 0)


@pytest.mark.parametrize("kind", ["csv-blank", "csv-designation", "fits", "vot", "arrow", "nullable"])
def test_votes_and_predictions_keep_every_digit(tmp_path: Path, kind: str) -> None:
    ids = holed(adjacent(BASES[1], N, 5), 6)
    named = [number for number in ids if number is not None]
    folder = tmp_path / "tables"
    folder.mkdir()
    path = folder / f"t.{KINDS[kind]}"
    write(path, kind, ids, {"g": np.arange(N) + 0.5})
    images = Images(tuple(Path(f"images/{number}.jpg") for number in named[::-1]), 8, {})
    votes = images.join(read_table(path))
    row_of = {number: row for row, number in enumerate(ids)}
    assert (votes["g"] - 0.5).tolist() == [row_of[number] for number in named[::-1]]
    # Beside a table whose numbers need one bit more, and one without any hole.
    more = adjacent(BASES[2], N, 7)
    write(folder / "u.csv", "csv-blank", list(more), {"g": np.arange(N) + 0.5})
    inputs = inputs_of({"table": 0}, reader="table", columns=["g"])
    found = open_given(folder, tmp_path / "w", inputs).records
    assert exact(found["source_id"]) == [*ids, *more]
    made = opened(folder, tmp_path / "d", reader="table", columns=["g"])
    assert exact(made.table["source_id"]) == [*ids, *more]
    expected = [f"row-{row:07d}" if number is None else number for row, number in enumerate([*ids, *more])]
    assert [name.removeprefix("Gaia DR3 ") for name in made.table["object_id"]] == [*map(str, expected)]


def test_matches_keep_every_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    places = {"ra": rng.uniform(0, 300, N), "dec": rng.uniform(-60, 60, N)}
    ids = holed(adjacent(BASES[0], N, 8), 9)
    sides = {"a": "csv-null", "b": "arrow", "c": "vot"}
    for name, kind in sides.items():
        write(tmp_path / f"{name}.{KINDS[kind]}", kind, ids, places)
    for other in "bc":
        for out in ("m.csv", "m.parquet"):
            b = tmp_path / f"{other}.{KINDS[sides[other]]}"
            match_files(tmp_path / "a.csv", b, tmp_path / out, mode="nearest")
            found = read_table(tmp_path / out)
            assert exact(found["source_id_a"]) == exact(found["source_id_b"]) == ids


def test_catalogues_in_partitions_keep_every_digit(tmp_path: Path) -> None:
    lsdb = pytest.importorskip("lsdb")
    n = 300
    rng = np.random.default_rng(3)
    places = {"ra": rng.uniform(0, 300, n), "dec": rng.uniform(-60, 60, n)}
    ids = holed(adjacent(BASES[0], n, 8), 9)
    write(tmp_path / "a.parquet", "arrow", ids, places)
    with warnings.catch_warnings():
        # Deprecations inside Dask and LSDB.
        warnings.simplefilter("ignore")
        table = pq.read_table(tmp_path / "a.parquet").to_pandas(types_mapper=pd.ArrowDtype)
        catalogue = lsdb.from_dataframe(
            table, ra_column="ra", dec_column="dec", lowest_order=0, highest_order=0
        )
        catalogue.to_hats(tmp_path / "hats", catalog_name="b", progress_bar=False)
    for a, b in (("a.parquet", "hats"), ("hats", "hats")):
        match_files(tmp_path / a, tmp_path / b, tmp_path / "m.parquet")
        found = read_table(tmp_path / "m.parquet")
        row = [int(np.argmin(np.abs(places["ra"] - ra))) for ra in found["ra_a"]]
        for side in "ab":
            assert exact(found[f"source_id_{side}"]) == [ids[k] for k in row]
        assert sorted(row) == [*range(n)]


@pytest.mark.parametrize("kind", ["csv-blank", "csv-designation", "vot", "nullable"])
def test_labels_of_gaia_spectra_keep_every_digit(tmp_path: Path, kind: str) -> None:
    n = 200
    ids = adjacent(BASES[0], n, 4)
    rng = np.random.default_rng(4)
    columns: dict[str, Any] = {"source_id": np.array(ids)}
    for band in ("bp", "rp"):
        columns[f"{band}_flux"] = rng.normal(10, 1, (n, 120)).astype(np.float32)
        columns[f"{band}_flux_error"] = np.full((n, 120), 0.5, np.float32)
    Table(columns).write(tmp_path / "xp.fits")
    # One row has lost its number, one is there twice, and of one source two redshifts are told.
    order = rng.permutation(n).tolist()
    rows = [*(ids[row] for row in order), None, ids[order[0]], ids[order[1]]]
    z = [*(row / n for row in order), 0.5, order[0] / n, 7.0]
    write(tmp_path / f"z.{KINDS[kind]}", kind, rows, {"redshift": z})
    made = opened(
        tmp_path / "xp.fits",
        tmp_path / "w",
        reader="gaia-xp",
        label="redshift",
        labels=tmp_path / f"z.{KINDS[kind]}",
        split=None,
    )
    told = "1 without a name, 1 repeated, 2 left out since they contradict each other"
    assert made.funnel.steps[2].name == f"with a row in the table of labels (of {n + 3} rows {told})"
    kept = [row for row in range(n) if row != order[1]]
    assert made.table["object_id"].tolist() == [str(ids[row]) for row in kept]
    assert made.label().tolist() == [row / n for row in kept]


def test_spectra_whose_numbers_were_rounded_are_refused(tmp_path: Path) -> None:
    for kind, ids in (
        ("D", np.array(adjacent(BASES[0], 4, 1), np.float64)),
        ("text", ["4.65861592780151e+18"] * 4),
    ):
        flux = {f"{band}_flux{end}": np.ones((4, 120)) for band in ("bp", "rp") for end in ("", "_error")}
        Table({"source_id": ids, **flux}).write(tmp_path / f"{kind}.fits")
        with pytest.raises(DataError, match="fits: the column 'source_id' holds identifiers as floats"):
            opened(tmp_path / f"{kind}.fits", tmp_path / "w", reader="gaia-xp")


# ---------------------------------------------------------------------------------------------- one column


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(BASES).flatmap(lambda base: st.integers(base, base + 9)),
    st.integers(0, 999),
)
SPELLINGS = st.sampled_from(
    ["{}", " {} ", "{}", "+{}", "Gaia DR3 {}", "gaia_dr3_{}", "'{}", '="{}"', "GaiaEDR3 {}"]
)


@settings(max_examples=200, deadline=None)
@given(cells=st.lists(st.tuples(NUMBERS, SPELLINGS, st.integers(0, 4)), min_size=1, max_size=12))
def test_any_mixture_of_cells_is_read_as_python_reads_it(cells: list[tuple[int, str, int]]) -> None:
    own: list[Any] = []
    wanted: list[int | None] = []
    for number, spelling, kind in cells:
        wanted.append(number)
        if kind == 0:
            own.append(number)
        elif kind == 1:
            own.append(Decimal(number))
        elif kind == 2:
            own.append(str(number).encode())
        elif kind == 3:
            own.append((spelling if number >= 0 else "{}").format(number))
        else:
            own.append(None if number % 2 else "null")
            wanted[-1] = None
    known = [number for number in wanted if number is not None]
    column = pd.Series(own, dtype=object)
    # What fits into no type of 64 bits is compared as text.
    text = identifiers.as_text(column).tolist()
    assert text == [None if number is None else str(number) for number in wanted]
    if known and (min(known) >= 0 or max(known) < 2**63):
        assert exact(column) == wanted
    left, right = identifiers.codes(column, pd.Series(wanted, dtype=object))
    assert left.tolist() == right.tolist()
    assert (left >= 0).tolist() == [number is not None for number in wanted]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([266.0, np.nan, 3.0]), [266, None, 3]),
        (pd.Series(["266.0", "0266", "nan"]), [266, 266, None]),
        (pd.Series([BASES[0], None], dtype="int64[pyarrow]"), [BASES[0], None]),
        (pd.Series([str(BASES[2]), None], dtype="string[pyarrow]"), [BASES[2], None]),
        (
            pd.Series([BASES[0], BASES[0] + 1, None], dtype="Int64").astype("category"),
            [BASES[0], BASES[0] + 1, None],
        ),
        (pd.Series([1.5, 2.0]), [None, 2]),
        (pd.Series(["a1", "12"]), [None, 12]),
        (pd.Series([], dtype=object), []),
    ],
)
def test_columns_of_other_types(column: pd.Series, expected: list[int | None]) -> None:
    assert exact(column) == expected


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([4.6e18, np.nan]),
        pd.Series([2.0**53, 1.0]),
        pd.Series([2.0**24, 1.0], dtype=np.float32),
        pd.Series([4.6e18, None], dtype="double[pyarrow]"),
        pd.Series([12, 4.6e18, "x"], dtype=object),
        pd.Series(["4.6586159278015099e+18", "1"]),
        pd.Series(["4658615927801509888.0", "1"]),
    ],
)
def test_numbers_that_have_lost_digits_are_refused(column: pd.Series) -> None:
    with pytest.raises(DataError, match="have lost their last digits"):
        identifiers.identifiers(column.rename("objid"))


def test_leading_zeros_count_where_the_column_tells_them_apart() -> None:
    assert identifiers.identifiers(pd.Series(["0012", "13"])).tolist() == [12, 13]
    assert identifiers.identifiers(pd.Series(["0012", "12"])).tolist() == ["0012", "12"]
    assert identifiers.identifiers(pd.Series(["12e5", "SDSS J1", "Gaia DR2 7"])).tolist() == [
        "12e5",
        "SDSS J1",
        "Gaia DR2 7",
    ]


def test_tables_one_below_the_other_round_nothing() -> None:
    one = pd.DataFrame({"id": [BASES[0]], "mag": [18], "t": ["a"], "n": pd.array([None], dtype="Int64")})
    two = pd.DataFrame({"id": np.array([BASES[2]], np.uint64), "mag": [18.5], "b": [True]})
    three = pd.DataFrame({"id": [np.nan], "mag": [17]})
    found = identifiers.stacked([one, two, three])
    assert exact(found["id"]) == [BASES[0], BASES[2], None]
    assert found["mag"].tolist() == [18.0, 18.5, 17.0]
    assert found["b"].tolist()[1] is True
    assert found["b"].isna().tolist() == [True, False, True]
    mixed = identifiers.stacked([one, pd.DataFrame({"id": [f"Gaia DR3 {BASES[0] + 1}", None]})])
    assert exact(mixed["id"]) == [BASES[0], BASES[0] + 1, None]
    with pytest.raises(DataError, match="have lost their last digits"):
        identifiers.stacked([one, pd.DataFrame({"id": [float(BASES[0])]})])
