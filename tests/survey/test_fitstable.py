"""FITS tables against astropy's reading of them, and forged ones."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from skyfuse.errors import FileError
from skyfuse.survey.tables import read_table

BLOCK = 2880


def write(path, *columns, kind=fits.BinTableHDU):
    kind.from_columns(columns).writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("card", ["TTYPE1  = 7", "TTYPE1  = 1e-320", "TTYPE1  = 'a' b", "TFORM1  = 1J"])
def test_names_and_forms_of_columns_are_text(tmp_path, card):
    Table({"a": np.arange(3, dtype=np.int32)}).write(tmp_path / "t.fits")
    content = (tmp_path / "t.fits").read_bytes()
    place = content.index(card[:8].encode())
    (tmp_path / "t.fits").write_bytes(content[:place] + card.ljust(80).encode() + content[place + 80 :])
    with pytest.raises(FileError, match=f"says {card[:6]} = .*, not text"):
        read_table(tmp_path / "t.fits")


def test_every_type_is_read_as_astropy_reads_it(tmp_path):
    rng = np.random.default_rng(3)
    rows = 7
    whole = {
        form: rng.integers(-100, 100, rows).astype(code)
        for form, code in (("I", "i2"), ("J", "i4"), ("K", "i8"))
    }
    path = write(
        tmp_path / "t.fits",
        fits.Column("l", "L", array=rng.random(rows) > 0.5),
        fits.Column("x", "11X", array=rng.random((rows, 11)) > 0.5),
        fits.Column("b", "B", array=rng.integers(0, 256, rows).astype("u1")),
        *(fits.Column(form.lower(), form, array=values) for form, values in whole.items()),
        fits.Column("u2", "I", bzero=2**15, array=rng.integers(0, 2**16, rows).astype("u2")),
        fits.Column("u4", "J", bzero=2**31, array=rng.integers(0, 2**32, rows).astype("u4")),
        fits.Column("u8", "K", bzero=2**63, array=rng.integers(0, 2**64, rows, dtype="u8")),
        fits.Column("e", "E", array=rng.normal(size=rows).astype("f4")),
        fits.Column("d", "D", array=rng.normal(size=rows)),
        fits.Column("c", "M", array=rng.normal(size=rows) + 1j),
        fits.Column("scaled", "I", array=rng.integers(0, 100, rows).astype("i2")),
        fits.Column("a", "5A", array=np.array(["x", "yy ", "", "zzzzz", "q", "r", "s"])),
        fits.Column("aa", "6A", dim="(2,3)", array=rng.choice(["ab", "cd"], (rows, 3))),
        fits.Column("v", "6E", dim="(2,3)", array=rng.normal(size=(rows, 3, 2)).astype("f4")),
        fits.Column("p", "PD()", array=np.array([np.arange(k, dtype=float) for k in range(rows)], object)),
        fits.Column("none", "0E", array=np.empty((rows, 0), "f4")),
    )
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["TSCAL13"], hdus[1].header["TZERO13"] = 0.01, 5.5
    table = read_table(path)
    with fits.open(path) as hdus:
        data = hdus[1].data
        for name in ("l", "b", "i", "j", "k", "u2", "u4", "u8", "e", "d", "c"):
            np.testing.assert_array_equal(table[name].to_numpy(), data[name], err_msg=name)
        np.testing.assert_allclose(table["scaled"], data["scaled"], rtol=1e-12)
        np.testing.assert_array_equal(table[[f"x_{k}" for k in range(11)]], data["x"])
        np.testing.assert_array_equal(table[[f"v_{k}" for k in range(6)]], data["v"].reshape(rows, 6))
        assert table[[f"aa_{k}" for k in range(3)]].to_numpy().tolist() == data["aa"].tolist()
        assert [cell.tolist() for cell in table["p"]] == [cell.tolist() for cell in data["p"]]
    assert table["a"].fillna("").tolist() == ["x", "yy", "", "zzzzz", "q", "r", "s"]
    assert "none" not in table


def test_undefined_values_are_missing_under_every_type(tmp_path):
    path = write(
        tmp_path / "t.fits",
        fits.Column("byte", "B", null=255, array=np.array([0, 255, 1], "u1")),
        fits.Column("signed", "B", bzero=-128, null=0, array=np.array([5, -128, 7], "i1")),
        fits.Column("unsigned", "K", bzero=2**63, null=-(2**63), array=np.array([2**63, 0, 5], "u8")),
        fits.Column("vector", "2J", null=-1, array=np.array([[1, -1], [2, 3], [-1, -1]], "i4")),
        fits.Column("shifted", "K", null=-1, array=np.array([1, -1, 3])),
        fits.Column("scaled", "I", null=-1, array=np.array([1, -1, 3], "i2")),
    )
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["TZERO5"] = 2**62
        hdus[1].header["TSCAL6"] = 0.5
    table = read_table(path)
    hole = pd.NA
    expected = {
        "byte": [0, hole, 1],
        "signed": [5, hole, 7],
        "unsigned": [2**63, hole, 5],
        "vector_0": [1, 2, hole],
        "vector_1": [hole, 3, hole],
        "shifted": [2**62 + 1, hole, 2**62 + 3],
    }
    for name, values in expected.items():
        assert table[name].dtype in ("Int64", "UInt64")
        assert table[name].tolist() == values
    np.testing.assert_array_equal(table["scaled"], [0.5, np.nan, 1.5])


def test_logical_nulls_are_missing(tmp_path):
    path = write(tmp_path / "t.fits", fits.Column("ok", "L", array=np.array([True, False, True])))
    content = bytearray(path.read_bytes())
    content[2 * BLOCK + 2] = 0
    path.write_bytes(content)
    assert read_table(path)["ok"].tolist() == [True, False, pd.NA]


def test_masks_in_columns_of_their_own_hide(tmp_path):
    table = Table({"id": MaskedColumn([2**62 + 1, 2**62 + 2], mask=[False, True])})
    table.write(tmp_path / "t.fits", serialize_method="data_mask")
    read = read_table(tmp_path / "t.fits")
    assert list(read.columns) == ["id"]
    assert read["id"].tolist() == [2**62 + 1, pd.NA]


def test_ascii_tables(tmp_path):
    path = write(
        tmp_path / "t.fits",
        fits.Column("id", "I20", array=np.array([2**62 + 1, 66, 2**62 + 3]), ascii=True),
        fits.Column("x", "F10.5", array=np.array([1.5, 2.5, -3.25]), ascii=True),
        fits.Column("d", "D25.17", array=np.array([1e-300, 1 / 3, 1e300]), ascii=True),
        fits.Column("name", "A8", array=np.array(["M 31", "x", ""]), ascii=True),
        kind=fits.TableHDU,
    )
    content = path.read_bytes()
    blank = content.replace(b"66".rjust(20), b" " * 20).replace(b"   2.50000", b"    250000")
    path.write_bytes(blank)
    table = read_table(path)
    assert table["id"].tolist() == [2**62 + 1, pd.NA, 2**62 + 3]
    # Without a point the last five digits are decimals.
    assert table["x"].tolist() == [1.5, 2.5, -3.25]
    np.testing.assert_allclose(table["d"], [1e-300, 1 / 3, 1e300], rtol=1e-15)
    assert table["name"].isna().tolist() == [False, False, True]
    path.write_bytes(content.replace(b"66".rjust(20), b"6x".rjust(20)))
    with pytest.raises(FileError, match="column id holds words that are no numbers"):
        read_table(path)


def forged(path, **cards):
    """Write a table of one column of three float64, with other values in its header."""
    write(path, fits.Column("x", "D", array=np.arange(3.0)))
    content = path.read_bytes()
    for key, value in cards.items():
        at = content.index(f"{key:<8}=".encode())
        text = value if isinstance(value, str) else f"{value:>20}"
        content = content[: at + 10] + f"{text:<70}".encode() + content[at + 80 :]
    path.write_bytes(content)


@pytest.mark.parametrize(
    "cards",
    [
        {"NAXIS2": 10**12},
        {"NAXIS1": 0, "NAXIS2": 10**12, "TFORM1": "'0D'"},
        {"NAXIS1": 0, "NAXIS2": 10**12},
        {"TFIELDS": 999},
        {"TFIELDS": 10**9},
        {"TFORM1": "'999999999D'"},
        {"TFORM1": "'99999999999999999999D'"},
        {"TFORM1": "'1PD(9)'"},
        {"TFORM1": "'1QD(9)'", "NAXIS1": 16},
        {"TFORM1": "'64X'", "TFIELDS": 0},
        {"TFORM1": "'Z'"},
    ],
)
def test_forged_headers_are_told_at_once(tmp_path, cards):
    forged(tmp_path / "t.fits", **cards)
    begin = time.process_time()
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "t.fits")
    assert time.process_time() - begin < 1
    assert "\n" not in str(caught.value)


def test_a_million_elements_in_a_row_are_told(tmp_path):
    write(tmp_path / "t.fits", fits.Column("v", "1000000E", array=np.zeros((1, 1_000_000), "f4")))
    with pytest.raises(FileError, match="more than 50000 elements"):
        read_table(tmp_path / "t.fits")


def test_what_is_no_table_is_said(tmp_path):
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(FileError, match="no table, only images"):
        read_table(tmp_path / "image.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((64, 64), "f4"))]).writeto(
        tmp_path / "t.fits.fz"
    )
    with pytest.raises(FileError, match="tile-compressed image"):
        read_table(tmp_path / "t.fits.fz")
