"""Catalogue tables of every kind, as they are found."""

from __future__ import annotations

import bz2
import gzip
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import DataError, FileError, SkyfuseError
from skyfuse.survey.tables import read_table, without_sentinels

COLUMNS = {"objid": [1237650795146445031, 2], "ra": [1.5, -9999.0], "class": ["STAR", "GALAXY"]}


@pytest.mark.parametrize("name", ["t.csv", "t.fits", "t.fits.gz", "t.parquet", "t.vot"])
def test_every_kind_gives_the_same_table(tmp_path, name):
    path = tmp_path / name
    table = pd.DataFrame(COLUMNS)
    if name.endswith(".csv"):
        table.to_csv(path, index=False)
    elif name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        Table.from_pandas(table).write(path, format="votable" if name.endswith(".vot") else "fits")
    read = read_table(path)
    assert list(read.columns) == list(COLUMNS)
    assert read["objid"].tolist() == COLUMNS["objid"]
    assert read["ra"].tolist() == COLUMNS["ra"]
    assert read["class"].tolist() == COLUMNS["class"]


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("#Table1\na,b\n1,2\n", ["a", "b"], [1, 2]),
        ("# made by hand\n\n# twice\na\tb\n1\t2\n", ["a", "b"], [1, 2]),
        ("#F:MAG_U;D:Z\n24.8,0.46\n21.2,0.3\n", ["F:MAG_U", "D:Z"], [24.8, 0.46]),
        ("# a,b\n1,2\n", ["a", "b"], [1, 2]),
        ("a|b\n1|2\n", ["a", "b"], [1, 2]),
        (",a,b\n0,1,2\n", ["a", "b"], [1, 2]),
        ("\ufeffa,b\r\n1,2\r\n", ["a", "b"], [1, 2]),
        ("ra,naïve\n1,2\n", ["ra", "naïve"], [1, 2]),
        ("a,b\n-9999,-99\n", ["a", "b"], [-9999, -99]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_csv_as_it_is_found(tmp_path, text, names, first, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding if "\ufeff" not in text else "utf-8"))
    table = read_table(path)
    assert list(table.columns) == names
    assert table.iloc[0].tolist() == first


def test_vectors_become_a_column_an_element(tmp_path):
    path = tmp_path / "t.fits"
    Table({"flux": np.arange(10.0).reshape(2, 5).astype(">f4"), "name": ["a ", "b"]}).write(path)
    table = read_table(path)
    assert list(table.columns) == [*(f"flux_{k}" for k in range(5)), "name"]
    assert table["flux_3"].tolist() == [3, 8]
    assert table["flux_3"].to_numpy().dtype.isnative
    assert table["name"].tolist() == ["a", "b"]


def test_what_is_no_table_is_told(tmp_path):
    cases = {
        "empty.csv": (b"", "empty"),
        "comments.csv": (b"# nothing\n", "truncated"),
        "table.xyz": (b"a,b\n1,2\n", "unknown-kind"),
        "text.fits": (b"a,b\n1,2\n", "not-fits"),
        "text.fits.gz": (gzip.compress(b"a,b\n1,2\n"), "not-fits"),
        "text.parquet": (b"a,b\n1,2\n", "truncated"),
        "text.vot": (b"a,b\n1,2\n", "truncated"),
        "ragged.csv": (b"# a,b\n1,2,3\n", "no-header"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            read_table(path)
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "absent.csv")
    assert caught.value.reason == "unreadable"
    (tmp_path / "header.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "header.csv")


REAL = {
    "sdss_dr14_skyserver_10k.csv": (10000, {"objid", "redshift"}),
    "boss_dr10_photoz/boss_dr10_2.csv": (None, {"F:MAG_U", "D:Z"}),
    "sdss_white_dwarf_parameters.csv": (5327, {"teff", "logg"}),
    "lamost_dr1_stellar_params_3166.csv": (3165, {"obsid", "teff"}),
    "gz1_sdss_galaxies_stellar_mass_5k.csv": (5000, {"stellar_mass"}),
    "sdss_dr9_balanced/galaxy_orig.csv": (1000, {"objid", "class"}),
    "resolve_eco/RESOLVE_full_raw.csv": (2286, {"name"}),
    "sdss_ugriz_redshift_5878.csv": (5878, {"redshift"}),
    "kcorrect_gst_tests_small.fits": (None, set()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables(real_data, name):
    rows, names = REAL[name]
    table = read_table(real_data / "tables" / name)
    assert rows is None or len(table) == rows
    assert names <= set(table.columns)
    assert len(table) > 100


def test_a_real_table_of_vectors(real_data):
    table = read_table(real_data / "sdss_frames" / "calibObj-004510-4-star.fits.gz")
    assert len(table) == 5232
    assert {"RA", "APERFLUX6_2", "PSFFLUX_0"} <= set(table.columns)


def test_sentinels_of_real_tables_are_kept(real_data):
    galaxies = read_table(real_data / "tables" / "sdss_dr9_balanced" / "galaxy_orig.csv")
    assert (galaxies[["u", "g", "r", "i", "z"]] == -9999).any(axis=1).sum() == 1


def test_annz_tables_have_no_header(tmp_path):
    (tmp_path / "sky.gr.valid").write_text("18.5 17.5 0.01 0.02 0.1\n19.5 18.5 0.01 0.02 0.2\n")
    table = read_table(tmp_path / "sky.gr.valid")
    assert list(table.columns) == ["g", "r", "err_g", "err_r", "redshift", "part"]
    assert table.iloc[1].tolist() == [19.5, 18.5, 0.01, 0.02, 0.2, "valid"]
    (tmp_path / "sky.ugr.test").write_text("18.5 17.5 0.01\n")
    with pytest.raises(FileError, match="7 columns are named and its rows have 3"):
        read_table(tmp_path / "sky.ugr.test")


def test_names_of_the_caller(tmp_path):
    (tmp_path / "t.txt").write_text("  1.5   2 x\n -99.0   4 y\n")
    assert read_table(tmp_path / "t.txt", names=["a", "b", "c"])["c"].tolist() == ["x", "y"]
    (tmp_path / "n.dat").write_text("1.5 2\n3 4\n")
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "n.dat")
    assert caught.value.reason == "no-header"
    (tmp_path / "h.txt").write_text("a b\n1 2\n")
    assert read_table(tmp_path / "h.txt").iloc[0].to_dict() == {"a": 1, "b": 2}


def test_structured_arrays(tmp_path):
    array = np.array([(1.5, b"QSO"), (2.5, b"STAR")], [("u", ">f8"), ("class", "S6")])
    np.save(tmp_path / "t.npy", array)
    table = read_table(tmp_path / "t.npy")
    assert table.to_dict("list") == {"u": [1.5, 2.5], "class": ["QSO", "STAR"]}
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(FileError, match="no named columns"):
        read_table(tmp_path / "plain.npy")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(FileError, match="cannot be read"):
        read_table(tmp_path / "pickle.npy")


def test_units_are_kept(tmp_path):
    units = {"ra": "deg", "flux": "nJy"}
    Table({"ra": [1.0], "flux": [[1.0, 2.0]], "n": [3]}, units=units).write(tmp_path / "t.fits")
    expected = {"ra": "deg", "flux_0": "nJy", "flux_1": "nJy"}
    assert read_table(tmp_path / "t.fits").attrs["units"] == expected
    Table({"ra": [1.0]}, units=units | {"flux": None}).write(tmp_path / "t.vot", format="votable")
    assert read_table(tmp_path / "t.vot").attrs["units"] == {"ra": "deg"}
    (tmp_path / "t.csv").write_text("ra [deg],n\n1,2\n")
    table = read_table(tmp_path / "t.csv")
    assert (list(table.columns), table.attrs["units"]) == (["ra", "n"], {"ra": "deg"})
    table.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").attrs["units"] == {"ra": "deg"}


MAGNITUDES = [15.5, 17.25, 20.0, 21.5]


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([*MAGNITUDES, -9999], {"-9999": 1}),
        ([*MAGNITUDES, -99.99, -999.0], {"-999": 1, "-99.99": 1}),
        ([*MAGNITUDES, 99.0, 99.0], {"99": 2}),
        ([*MAGNITUDES, -99.0], {"-99": 1}),
        ([-0.5, 1.25, -99.0, -99.0], {"-99": 2}),
        # May be measured: one alone, among its like, whole numbers, or nothing else to tell by.
        ([15.5, 41.5, 99.0], {}),
        ([15.5, 99.0, 99.0], {}),
        ([70.5, 98.5, 99.0, 99.0], {}),
        ([3, 15, 99, 99], {}),
        ([-9999.0, -9999.0], {}),
        ([-8000.5, -9999.0, 3000.0], {}),
        ([1237650795146445031, 1237650795146445032, -9999], {}),
    ],
)
@pytest.mark.parametrize("dtype", [None, np.float32])
def test_sentinels_go_only_where_nothing_measured_lies(values, counts, dtype):
    table = pd.DataFrame({"a": pd.Series(values, dtype=dtype if isinstance(values[0], float) else None)})
    cleaned, found = without_sentinels(table)
    assert found == ({"a": counts} if counts else {})
    gone = cleaned["a"].isna()
    assert gone.sum() == sum(counts.values())
    assert cleaned["a"][~gone].tolist() == table["a"][~gone].tolist()
    assert not table["a"].isna().any()


@given(st.lists(st.floats(-90, 90, allow_nan=False), min_size=1, max_size=30), st.integers(1, 3))
def test_sentinels_put_into_any_column_are_all_found_and_nothing_else(values, number):
    table = pd.DataFrame({"a": [*values, *[-9999.0] * number], "text": "x"})
    cleaned, found = without_sentinels(table, ["a"])
    assert found == {"a": {"-9999": number}}
    assert cleaned["a"][: len(values)].tolist() == values


def test_sentinels_of_real_tables_are_counted(real_data):
    resolve = read_table(real_data / "tables" / "resolve_eco" / "RESOLVE_full_raw.csv")
    cleaned, found = without_sentinels(resolve)
    assert found["uhmag"] == {"-99": (resolve["uhmag"] == -99).sum()}
    assert "name" not in found
    others = resolve["uhmag"][resolve["uhmag"] != -99]
    assert cleaned["uhmag"].dropna().tolist() == others.tolist()
    assert cleaned["sdss_dr12_objid"].equals(resolve["sdss_dr12_objid"])


@pytest.mark.parametrize("name", ["t.fits", "t.npy", "t.parquet", "t.vot"])
def test_damaged_tables_are_read_or_told_in_one_line(tmp_path, name):
    table = Table({"a": np.arange(50.0), "b": ["x"] * 50}, units={"a": "deg"})
    if name == "t.npy":
        np.save(tmp_path / name, table.as_array())
    else:
        table.write(tmp_path / name, format={"t.vot": "votable"}.get(name))
    content = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    told = []
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=10)] = rng.integers(0, 256, 10)
        (tmp_path / name).write_bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged) + 1)].tobytes())
        with warnings.catch_warnings():
            # What astropy says of a damaged file before it gives up or goes on.
            warnings.simplefilter("ignore")
            try:
                read_table(tmp_path / name)
            except SkyfuseError as error:
                told.append(str(error))
    assert told
    assert not any("\n" in message for message in told)


NEAR = st.integers(2**62 - 1000, 2**62 + 1000)
# Words by which text files mark a hole.
HOLES = st.sampled_from(["", " ", "null", "NULL", "nan", "NaN", "NA", "N/A", "--", "-", "None"])


@st.composite
def columns_with_holes(draw):
    rows = draw(st.integers(1, 12))

    def column(values):
        return draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))

    return {
        "id": column(NEAR),
        "long": column(st.integers(2**63, 2**64 - 1)),
        "n": column(st.integers(-(2**31), 2**31 - 1)),
        "x": column(st.floats(allow_nan=False, allow_infinity=False)),
        "ok": column(st.booleans()),
        "name": column(st.text("abcé ", min_size=1, max_size=6).map(lambda s: f"x{s}x")),
    }


def check_columns(table, columns):
    assert set(table.columns) == set(columns)
    for name, values in columns.items():
        assert [value is None for value in values] == table[name].isna().tolist()
        held = [value for value in values if value is not None]
        assert table[name].dropna().tolist() == held, name
        if held and name != "x":
            kinds = {"id": "i", "long": "u", "n": "i", "ok": "b", "name": "O"}
            assert table[name].dtype.kind == kinds[name]


def masked(columns):
    fill = {"id": 7, "long": 2**63 + 9, "n": 5, "x": 1e20, "ok": True, "name": "hidden"}
    kinds = {"id": "i8", "long": "u8", "n": "i4", "x": "f8", "ok": "?", "name": "U8"}
    return Table(
        {
            name: MaskedColumn(
                np.array([fill[name] if value is None else value for value in values], kinds[name]),
                mask=[value is None for value in values],
            )
            for name, values in columns.items()
        }
    )


@settings(deadline=None)
@given(columns_with_holes(), st.data())
def test_text_keeps_whole_numbers_and_holes(tmp_path_factory, columns, data):
    path = tmp_path_factory.mktemp("text") / "t.csv"
    separator = data.draw(st.sampled_from([",", ";", "\t", "|", ", "]))
    with path.open("w", encoding=data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))) as file:
        file.write(separator.join(columns) + "\n")
        for row in zip(*columns.values(), strict=True):
            hole = data.draw(HOLES)
            # A dash among texts may be one.
            words = [
                "" if v is None and (hole == "-" or k > 3) else hole if v is None else str(v)
                for k, v in enumerate(row)
            ]
            file.write(separator.join(words) + "\n")
    check_columns(read_table(path), columns)


@pytest.mark.parametrize("form", ["fits", "votable", "votable.binary2", "ascii.ecsv", "ascii.csv", "parquet"])
@settings(max_examples=30, deadline=None)
@given(columns=columns_with_holes())
def test_masked_columns_of_astropy_keep_whole_numbers_and_holes(tmp_path_factory, columns, form):
    ends = {"fits": "fits", "votable": "vot", "ascii.ecsv": "ecsv", "ascii.csv": "csv", "parquet": "parquet"}
    form, _, stream = form.partition("votable.")
    options = {"tabledata_format": stream} if stream else {}
    if stream:
        # It writes and ignores what masks hide of texts there.
        del columns["name"]
    if stream or form == "votable":
        form = "votable"
        # It has no unsigned 64 bits.
        del columns["long"]
    path = tmp_path_factory.mktemp("masked") / f"t.{ends[form]}"
    if form == "fits":
        # Masked truth values are written as true, and accents not at all.
        columns["ok"] = [value is not None and value for value in columns["ok"]]
        columns["name"] = [None if v is None else v.replace("é", "e") for v in columns["name"]]
    masked(columns).write(path, format=form, **options)
    check_columns(read_table(path), columns)


@settings(deadline=None)
@given(columns_with_holes(), st.sampled_from(["pandas", "nullable", "arrow"]))
def test_parquet_keeps_whole_numbers_and_holes(tmp_path_factory, columns, writer):
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    kinds = {"id": "Int64", "long": "UInt64", "n": "Int32", "x": "Float64", "ok": "boolean", "name": "string"}
    if writer == "arrow":
        types = {"long": pa.uint64(), "n": pa.int32()}
        pq.write_table(
            pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()}), path
        )
    elif writer == "nullable":
        pd.DataFrame({name: pd.array(values, kinds[name]) for name, values in columns.items()}).to_parquet(
            path
        )
    else:
        # It has no objects beyond 64 bits with a sign.
        del columns["long"]
        pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}).to_parquet(
            path
        )
    check_columns(read_table(path), columns)


@settings(deadline=None)
@given(columns_with_holes())
def test_undefined_values_of_fits_are_missing(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("fits") / "t.fits"
    null = {"id": -(2**63), "n": -(2**31)}
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(
                name,
                form,
                null=null[name],
                array=np.array([null[name] if v is None else v for v in columns[name]]),
            )
            for name, form in (("id", "K"), ("n", "J"))
        ]
    )
    table.writeto(path)
    wanted = {name: [None if v == null[name] else v for v in columns[name]] for name in null}
    check_columns(read_table(path), wanted)


def test_a_file_of_another_form_is_told_what_it_is(tmp_path):
    table = Table({"a": [1, 2]})
    table.write(tmp_path / "t.fits")
    table.write(tmp_path / "t.vot", format="votable")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", np.array([(1,)], [("a", "i8")]))
    contents = {
        "a FITS file": (tmp_path / "t.fits").read_bytes(),
        "a VOTable": (tmp_path / "t.vot").read_bytes(),
        "a Parquet table": (tmp_path / "t.parquet").read_bytes(),
        "a NumPy array": (tmp_path / "t.npy").read_bytes(),
        "an Excel workbook": b"PK\x03\x04" + bytes(100),
        "an old Excel workbook": b"\xd0\xcf\x11\xe0" + bytes(100),
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "compressed by xz": b"\xfd7zXZ" + bytes(100),
    }
    own = {"t.csv": "text", "t.fits": "a FITS file", "t.vot": "a VOTable", "t.npy": "a NumPy array"}
    own |= {"t.parquet": "a Parquet table", "t.csv.gz": "text"}
    for name, form in own.items():
        for other, content in contents.items():
            if other == form:
                continue
            (tmp_path / "x").mkdir(exist_ok=True)
            (tmp_path / "x" / name).write_bytes(content)
            with pytest.raises(
                FileError, match=f"its name says that it is {form}, and its content that it is {other}"
            ):
                read_table(tmp_path / "x" / name)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.fits.gz", "t.vot.gz", "t.npy.gz"])
def test_what_blows_up_is_told(tmp_path, monkeypatch, name, compress):
    monkeypatch.setattr("skyfuse.survey.tables._LEAST_BOUND", 1 << 20)
    (tmp_path / name).write_bytes(compress(b"SIMPLE  = 0,0,0\n" * (1 << 17)))
    with pytest.raises(FileError, match="decompresses to over") as caught:
        read_table(tmp_path / name)
    assert caught.value.reason == "too-large"


def test_a_file_of_holes_is_told(tmp_path):
    with (tmp_path / "t.csv").open("wb") as file:
        file.write(b"a,b\n1,2\n")
        file.truncate(1 << 31)
    with pytest.raises(FileError, match="more than the 256 MiB"):
        read_table(tmp_path / "t.csv")


def test_parquet_that_repeats_one_value_beyond_measure_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("skyfuse.survey.tables._MOST_CELLS", 1_000_000)
    column = pa.array(np.zeros(1_000_000, np.int8))
    pq.write_table(pa.table({f"c{k}": column for k in range(5)}), tmp_path / "t.parquet")
    with pytest.raises(FileError, match="tell of 1000000 rows with 5000000 cells"):
        read_table(tmp_path / "t.parquet")


VOTABLE = """<?xml version="1.0"?>
<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE{rows}>
<FIELD ID="col_1" name="source_id" datatype="long"><VALUES null="-9"/></FIELD>
<FIELD name="n" datatype="short"/><FIELD name="ok" datatype="boolean"/><FIELD name="bit" datatype="bit"/>
<FIELD name="c" datatype="char" arraysize="{size}"/><FIELD name="v" datatype="int" arraysize="2"/>
<DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>"""
CELLS = """<TABLEDATA>
<TR><TD>4658615927801509761</TD><TD>5</TD><TD>T</TD><TD>1</TD><TD>ab</TD><TD>1 2</TD></TR>
<TR><TD>-9</TD><TD/><TD>?</TD><TD/><TD>--</TD><TD/></TR>
</TABLEDATA>"""


def test_nulls_of_votables_are_missing(tmp_path):
    (tmp_path / "t.vot").write_text(VOTABLE.format(rows="", size="*", data=CELLS))
    table = read_table(tmp_path / "t.vot")
    assert list(table.columns) == ["source_id", "n", "ok", "bit", "c", "v_0", "v_1"]
    assert table.iloc[0].tolist() == [4658615927801509761, 5, True, True, "ab", 1, 2]
    assert table.iloc[1].isna().all()


@pytest.mark.parametrize(
    "content",
    [
        VOTABLE.format(rows=' nrows="99999999999"', size="*", data=CELLS),
        VOTABLE.format(rows=' nrows="99999999999999999999999"', size="*", data=CELLS),
        VOTABLE.format(rows="", size="999999999", data=CELLS),
        VOTABLE.format(rows="", size="*", data='<BINARY><STREAM href="http://127.0.0.1:9/x"/></BINARY>'),
        VOTABLE.format(rows="", size="*", data='<BINARY><STREAM encoding="gzip">AA==</STREAM></BINARY>'),
        VOTABLE.format(rows="", size="*", data='<FITS><STREAM encoding="base64">AA==</STREAM></FITS>'),
        VOTABLE.replace("<VOTABLE", '<!DOCTYPE v [<!ENTITY a "b">]><VOTABLE').format(
            rows="", size="*", data=CELLS
        ),
    ],
)
def test_votables_that_ask_for_more_than_they_hold_are_told(tmp_path, content):
    (tmp_path / "t.vot").write_text(content)
    begin = time.process_time()
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "t.vot")
    assert caught.value.reason == "bad-values"
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ("(1000000000000,)", "[('a', '<f8')]"),
        ("(1,)", "[('a', '<f8', (99999999,))]"),
        ("(5, 5)", "[('a', '<f8')]"),
        ("(1000000000,)", "[('a', 'S0')]"),
        ("(-1,)", "[('a', '<f8')]"),
        ("(1,)", "[('a', 'O')]"),
    ],
)
def test_forged_arrays_are_told_at_once(tmp_path, shape, dtype):
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "t.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hang.fits", "x.npy"])
def test_files_that_hung_or_were_forged(name):
    path = Path(__file__).parents[3] / "shared" / "cases" / "broken" / name
    if not path.is_file():
        pytest.skip("the collection of broken files is not here")
    begin = time.process_time()
    with pytest.raises(FileError) as caught:
        read_table(path)
    assert time.process_time() - begin < 1
    assert "\n" not in str(caught.value)


def test_sentinels_leave_whole_numbers_whole():
    table = pd.DataFrame(
        {
            "id": pd.array([2**62 + 1, None, 2**62 + 3, -9999], "Int64"),
            "n": pd.array([3, None, 7, -9999], "Int64"),
            "m": [3, 5, 7, -9999],
        }
    )
    cleaned, counts = without_sentinels(table)
    assert counts == {"n": {"-9999": 1}, "m": {"-9999": 1}}
    assert cleaned["id"].tolist() == table["id"].tolist()
    assert cleaned.dtypes.tolist() == ["Int64", "Int64", "Int64"]
    assert cleaned["n"].tolist() == [3, pd.NA, 7, pd.NA]
    assert cleaned["m"].tolist() == [3, 5, 7, pd.NA]


def votable(version, fields, rows, info=""):
    cells = "".join(f"<TR>{''.join(f'<TD>{cell}</TD>' for cell in row)}</TR>" for row in rows)
    return (
        f'<?xml version="1.0"?><VOTABLE version="{version}"><RESOURCE>{info}<TABLE>'
        + "".join(f'<FIELD name="{name}" datatype="{kind}"/>' for name, kind in fields.items())
        + f"<DATA><TABLEDATA>{cells}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3", "1.4"])
def test_empty_cells_of_votables_of_any_version_are_missing(tmp_path, version):
    path = tmp_path / "t.xml"
    path.write_text(votable(version, {"id": "long", "n": "short", "b": "boolean"}, [(5, 7, "T"), ("",) * 3]))
    table = read_table(path)
    assert table.loc[0].tolist() == [5, 7, True]
    assert table.loc[1].isna().all()


@pytest.mark.parametrize(
    ("kind", "value"), [("long", 2**63), ("int", 2**31), ("short", -(2**15) - 1), ("unsignedByte", 256)]
)
def test_whole_numbers_of_votables_beyond_their_type_are_told(tmp_path, kind, value):
    (tmp_path / "t.vot").write_text(votable("1.4", {"id": kind}, [(5,), (value,)]))
    with pytest.raises(FileError, match="out of range"):
        read_table(tmp_path / "t.vot")


def test_the_error_of_a_query_is_told(tmp_path):
    info = '<INFO value="ERROR" name="QUERY_STATUS">no column\nra</INFO>'
    (tmp_path / "t.vot").write_text(votable("1.4", {"id": "long"}, [], info))
    with pytest.raises(FileError, match="the error of a query: 'no column ra'"):
        read_table(tmp_path / "t.vot")


def test_tables_without_rows_say_so(tmp_path):
    columns = [
        fits.Column("id", "K", array=np.array([], int)),
        fits.Column("v", "PJ()", array=np.array([], object)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    (tmp_path / "t.csv").write_text("id,z\n")
    (tmp_path / "t.vot").write_text(votable("1.4", {"id": "long"}, []))
    pd.DataFrame({"id": [1]}).iloc[:0].to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", np.zeros(0, [("id", "i8"), ("z", "f8")]))
    for suffix in ("fits", "csv", "vot", "parquet", "npy"):
        with pytest.raises(DataError, match="the table has no rows"):
            read_table(tmp_path / f"t.{suffix}")


def test_decimals_and_indexes_of_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    number = pa.array([str(2**62 + 1), None, str(2**62 + 2)]).cast(pa.decimal128(38, 10))
    pq.write_table(pa.table({"id": number}), path)
    assert read_table(path)["id"].tolist() == [2**62 + 1, pd.NA, 2**62 + 2]
    pd.DataFrame({"z": [0.1, 0.2]}, index=pd.RangeIndex(5, 9, 2, name="id")).to_parquet(path)
    assert read_table(path)["id"].tolist() == [5, 7]
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["id", "id"]), path)
    with pytest.raises(FileError, match="two of its columns have one name"):
        read_table(path)


def test_a_version_of_npy_that_numpy_does_not_write_is_refused(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.zeros(2, [("a", "i8")]))
    content = bytearray(path.read_bytes())
    content[7] = 16
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"version 1\.16"):
        read_table(path)
