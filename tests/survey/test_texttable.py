"""Text tables in the forms that archives, spreadsheets and people write."""

from __future__ import annotations

import bz2
import gzip

import numpy as np
import pandas as pd
import pytest

from skyfuse.errors import FileError
from skyfuse.survey.tables import read_table

ROWS = [(1, 10.1, -0.5, 17.1), (2, 10.2, -0.5, 17.2), (3, 10.3, -0.5, 17.3)]


def lines(separator, header=None, *, decimal=".", quote=""):
    words = [[f"{quote}{str(v).replace('.', decimal)}{quote}" for v in row] for row in ROWS]
    return [header or separator.join(("objid", "ra", "dec", "r")), *(separator.join(row) for row in words)]


FORMS = {
    "plain.csv": lines(","),
    "spaces.csv": lines(", "),
    "comma.csv": lines(";", decimal=","),
    "quoted_comma.csv": lines(";", decimal=",", quote='"'),
    "quoted_comma_comma.csv": lines(",", decimal=",", quote='"'),
    "tab_comma.tsv": lines("\t", decimal=","),
    "vizier.tsv": [
        "#",
        "#   VizieR Astronomical Server",
        "#Name: J/X/1",
        "",
        "objid\tra\tdec\tr",
        " \tdeg\tdeg\tmag",
        "-----\t----\t----\t----",
        *lines("\t")[1:],
        "",
        "#END#",
    ],
    "vizier_semicolon.csv": [
        "#Name: J/X/1",
        "objid;ra;dec;r",
        ";deg;deg;mag",
        "--;---;---;---",
        *lines(";")[1:],
    ],
    "blanks.dat": ["  objid   ra    dec  r  ", *(f"   {row}  " for row in lines("   ")[1:])],
    "trailing.csv": [f"{line}," for line in lines(",")],
    "trailing_rows.csv": [lines(",")[0], *(f"{line}," for line in lines(",")[1:])],
    "trailing_header.csv": [f"{lines(',')[0]},", *lines(",")[1:]],
    "sep.csv": ["sep=;", *lines(";")],
    "blank_lines.csv": ["", *lines(","), "", "   "],
    "quotes_after_blanks.csv": [*lines(", ", quote='"'), "  ", ""],
    "commented.csv": ["# by hand", *lines(",")[:2], "# 9,9,9,9", *lines(",")[2:]],
    "table.ecsv": [
        "# %ECSV 1.0",
        "# ---",
        "# datatype:",
        "# - {name: objid, datatype: int64}",
        "# - {name: ra, unit: deg, datatype: float64}",
        "# - {name: dec, unit: deg, datatype: float64}",
        "# - {name: r, datatype: float64}",
        "# schema: astropy-2.0",
        *lines(" "),
    ],
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_table(tmp_path, name, end):
    (tmp_path / name).write_bytes(end.join(FORMS[name]).encode())
    table = read_table(tmp_path / name)
    assert list(table.columns) == ["objid", "ra", "dec", "r"]
    assert table["objid"].dtype == np.int64
    assert list(table.itertuples(index=False, name=None)) == ROWS
    if "deg" in "".join(FORMS[name]):
        assert table.attrs["units"]["ra"] == "deg"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_encodings_are_told_by_the_bytes(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("objid,naïve\n1,é\n2,x\n".encode(encoding))
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"objid": [1, 2], "naïve": ["é", "x"]}


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_text(tmp_path, suffix, compress):
    (tmp_path / f"t.csv{suffix}").write_bytes(compress(b"a,b\n1,2\n"))
    assert read_table(tmp_path / f"t.csv{suffix}").to_dict("list") == {"a": [1], "b": [2]}


def test_quoted_fields_hold_separators_quotes_and_lines(tmp_path):
    (tmp_path / "t.csv").write_text('n,name, note\n1,"NGC 1, east", "x, ""y"""\n2,"two\nlines",5\' 3"\n')
    table = read_table(tmp_path / "t.csv")
    assert table["name"].tolist() == ["NGC 1, east", "two\nlines"]
    assert table["note"].tolist() == ['x, "y"', "5' 3\""]
    (tmp_path / "t.dat").write_text('n  name\n1 "NGC  1"\n2   M31\n')
    assert read_table(tmp_path / "t.dat")["name"].tolist() == ["NGC  1", "M31"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("t.csv", "ra,dec,name\n1,2,NGC 1, east\n1,2,NGC 2\n", "line 2 has 4 fields and the header 3"),
        ("t.csv", "# x\n\nra,dec\n1,2\n\n1\n", "line 6 has 1 fields and the header 2"),
        ("t.csv", "a,b\n1,2,\n1,2\n", "line 3 has 2 fields and the header 3"),
        ("t.csv", 'a, b\n1, "x"\n2, 3, 4\n', "line 3 has 3 fields and the header 2"),
        ("t.dat", "a b c\n1 2 3\n 1   3\n", "line 3 has 2 fields and the header 3"),
        ("t.csv", "#x\na,b\n1,2\n#y\n1,2,3\n", "line 5 has 3 fields and the header 2"),
        ("t.csv", 'a,b\n1,"2\n3,4\n5,6\n', "a quote opens before '2' and does not close"),
        ("t.csv", "a,b\n1,\0\n", "bytes that are no text"),
        ("t.tsv", "a\tb\n--\t---\n1\t2\na\tc\n--\t---\n1\t2\n", "several tables"),
    ],
)
def test_rows_that_do_not_fit_are_told_by_line(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=fault) as caught:
        read_table(tmp_path / name)
    assert caught.value.reason == "bad-values"


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1", "--", "3"], [1, None, 3]),
        (["1", "-", "3"], [1, None, 3]),
        (["1.5", "...", "3"], [1.5, None, 3]),
        (["x", "-", "--"], ["x", "-", None]),
        (["1.5D+03", "-2d-1", "+3"], [1500.0, -0.2, 3.0]),
        (["+5", "−7", "3"], [5, -7, 3]),
        (["1e400", "-inf", "2"], [np.inf, -np.inf, 2.0]),
        (["0x1F", "2", "3"], ["0x1F", "2", "3"]),
        (["1_000", "2", "3"], ["1_000", "2", "3"]),
        (["1,234", "2,345", "3"], ["1,234", "2,345", "3"]),
        (["1,234", "0,5", "3"], [1.234, 0.5, 3]),
        (["1.5", "abc", "3"], ["1.5", "abc", "3"]),
        (["007", "8", "9"], [7, 8, 9]),
        (["True", "", "false"], [True, None, False]),
        # What float64 would round stays as it is written.
        (["4658615927801509761", "1.5", "2"], ["4658615927801509761", "1.5", "2"]),
        (["4658615927801509761", "nan", "2"], [4658615927801509761, None, 2]),
        (["18446744073709551617", "1", "2"], ["18446744073709551617", "1", "2"]),
        (["18446744073709551615", "", "2"], [2**64 - 1, None, 2]),
    ],
)
def test_cells_are_numbers_truth_values_or_text(tmp_path, cells, found):
    rows = "".join(f"{k};{cell}\n" for k, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"n;a\n{rows}")
    column = read_table(tmp_path / "t.csv")["a"]
    assert [None if pd.isna(cell) else cell for cell in column] == found
    assert pd.api.types.is_numeric_dtype(column) == (not any(isinstance(cell, str) for cell in found))


def test_types_of_ecsv_count(tmp_path):
    (tmp_path / "t.ecsv").write_text(
        "# %ECSV 1.0\n# ---\n# delimiter: ','\n# datatype:\n# -\n#   name: id\n#   datatype: string\n"
        "# - {name: x, datatype: float32, description: 'a *note, &c'}\n# meta: !!omap\n"
        "# - a: &x [1, 2]\n# - b: *x\nid,x\n007,5\nnull,null\n"
    )
    table = read_table(tmp_path / "t.ecsv")
    assert table["id"].tolist()[0] == "007"
    assert table["x"].dtype == np.float64
    assert table.isna().all(axis=1).tolist() == [False, True]
    (tmp_path / "bomb.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - &a [1]\n# - [*a, *a]\nid\n1\n")
    with pytest.raises(FileError, match="ECSV header cannot be read: it holds an alias"):
        read_table(tmp_path / "bomb.ecsv")


ECSV = [
    "# %ECSV 1.0",
    "# ---",
    "# datatype:",
    "# - {name: n, datatype: int8}",
    "# - {name: x, datatype: float64}",
]
ECSV += ["# - {name: good, datatype: bool}", "n x good"]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([*ECSV, "1 2.5 True", "n 2.5 True"], "n is int8"),
        ([*ECSV, "1 2.5 True", "1.5 2.5 True"], "n is int8"),
        ([*ECSV, "1 2.5 True", "300 2.5 True"], "n is int8"),
        ([*ECSV, "1 2.5 True", "2 2.x5 True"], "x is float64"),
        ([*ECSV, "1 2.5 True", "2 2.5D0 True"], "x is float64"),
        ([*ECSV, "1 2.5 True", "2 2.5 maybe"], "good is bool"),
        ([*ECSV[:-1], "1 2.5 True", "2 2.5 True"], "no header"),
        ([*ECSV[:-1], ECSV[-2], "n x good", "1 2.5 True"], "one column twice"),
        ([*ECSV[:-1], "x n good", "1 2.5 True"], "tells of the columns n, x, good"),
        ([*ECSV[1:], "1 2.5 True"], "does not begin as ECSV"),
        ([*ECSV, "1 2.5 \xff"], "no text"),
    ],
)
def test_an_ecsv_table_is_what_its_header_tells(tmp_path, lines, fault):
    (tmp_path / "t.ecsv").write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(FileError, match=fault) as caught:
        read_table(tmp_path / "t.ecsv")
    assert "\n" not in str(caught.value)


def test_holes_of_an_ecsv_table_are_of_any_type(tmp_path):
    (tmp_path / "t.ecsv").write_text("\n".join([*ECSV, "1 2 True", '"" "" ""']))
    table = read_table(tmp_path / "t.ecsv")
    assert table.isna().all(axis=1).tolist() == [False, True]
    assert (table["n"][0], table["x"][0], table["good"][0]) == (1, 2.0, True)
    assert table["x"].dtype == np.float64


def test_bytes_among_utf_8_are_damage_and_not_latin_1(tmp_path):
    (tmp_path / "t.csv").write_bytes("name,n\nMüller,1\nMayer,2\n".encode())
    assert read_table(tmp_path / "t.csv")["name"].tolist() == ["Müller", "Mayer"]
    (tmp_path / "l.csv").write_bytes("name,n\nMüller,1\nMayer,2\n".encode("latin-1"))
    assert read_table(tmp_path / "l.csv")["name"].tolist() == ["Müller", "Mayer"]
    (tmp_path / "d.csv").write_bytes("name,n\nMüller,1\nMayer,2\n".encode().replace(b"May", b"M\xffy"))
    with pytest.raises(FileError, match="bytes that are no text"):
        read_table(tmp_path / "d.csv")


def test_a_header_of_one_field_does_not_stand_above_rows_of_more(tmp_path):
    (tmp_path / "t.csv").write_text("id\n1,2.5,STAR\n2,3.5,QSO\n")
    with pytest.raises(FileError, match="header has one field and its rows have more"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "decimal.csv").write_text("x\n1,5\n2,25\n")
    assert read_table(tmp_path / "decimal.csv")["x"].tolist() == [1.5, 2.25]


def test_columns_of_one_name_are_all_kept(tmp_path):
    (tmp_path / "t.csv").write_text("a,a,a.1\n1,2,3\n")
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"a": [1], "a.1": [2], "a.1.1": [3]}


def test_one_column_keeps_the_blanks_in_its_cells(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("designation\nGaia DR3 5\n\nGaia DR3 4658615927801509760\n")
    assert read_table(path)["designation"].tolist() == ["Gaia DR3 5", "Gaia DR3 4658615927801509760"]


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        # As TOPCAT writes it: the last comment is the header.
        ('# objid  ra  name\n 5 10.5 "a b"\n 6 10.6 ""\n', ["objid", "ra", "name"], 2),
        ("#id,name\n5,abc\n6,def\n", ["id", "name"], 2),
        # As R writes it: names of rows have no header.
        ('"id" "z"\n"1" 5 0.1\n"4" NA 0.2\n', ["id", "z"], 2),
        ('"id","z"\n"1",5,0.1\n"2",NA,0.2\n', ["id", "z"], 2),
        ("id,0,1,2\n5,1,2,3\n", ["id", "0", "1", "2"], 1),
        ("id," + ",".join(map(str, range(3900, 4000, 10))) + "\n7" + ",1" * 10 + "\n", None, 1),
        ("0\n5\n6\n", ["0"], 2),
    ],
)
def test_headers_that_stand_elsewhere_or_hold_numbers(tmp_path, text, names, rows):
    (tmp_path / "t.csv").write_text(text)
    table = read_table(tmp_path / "t.csv")
    assert len(table) == rows
    assert names is None or list(table.columns) == names


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("4658615927801509761,STAR,0.1\n5,STAR,0.2\n", "its first line holds the number 4658615927801509761"),
        ("4658615927801509761\n4658615927801509762\n", "it has no header"),
        ("# two notes\nSTAR 17.5 18.2\nSTAR 17.6 18.3\n", "it has no header"),
        ("|  id|  ra|\n|long|double|\n   5 10.5\n", "drawn with bars"),
        ("+----+\n| id |\n+----+\n| 5  |\n+----+\n", "drawn with bars"),
        # Names of rows that are no quoted numbers may be a field too many.
        ("id,name\n1,NGC 1, east\n2,NGC 2, west\n", "line 2 has 3 fields and the header 2"),
    ],
)
def test_a_row_is_never_taken_for_a_header(tmp_path, text, fault):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FileError, match=fault):
        read_table(tmp_path / "t.csv")


def test_points_between_thousands_are_no_decimals_where_commas_are(tmp_path):
    (tmp_path / "t.csv").write_text("n;k;x;y\n1.234;5;5,5;10.25\n12.345;6;6,5;9.5\n")
    table = read_table(tmp_path / "t.csv")
    assert table["n"].tolist() == ["1.234", "12.345"]
    assert table[["k", "x", "y"]].to_numpy().tolist() == [[5, 5.5, 10.25], [6, 6.5, 9.5]]


def test_a_type_that_ecsv_does_not_know_is_told(tmp_path):
    path = tmp_path / "t.ecsv"
    path.write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: int65}\na\n1\n")
    with pytest.raises(FileError, match="int65"):
        read_table(path)
