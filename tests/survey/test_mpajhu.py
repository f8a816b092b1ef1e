"""The MPA-JHU rates: joined row by row with their spectra, and what is amiss with them told."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from skyfuse.errors import DataError
from skyfuse.survey.mpajhu import INFO_NAME, SFR_NAME, read_sfr
from skyfuse.survey.tables import read_table


def write_sfr(folder, rows=3):
    n = np.arange(rows)
    Table(
        {
            "PLATEID": (266 + n).astype("i2"),
            "MJD": (51602 + n).astype("i4"),
            "FIBERID": (1 + n).astype("i2"),
            "RA": 147.0 + n,
            "DEC": -0.5 + n,
            "Z": np.float32(0.1) * n,
            "PLUG_MAG": np.ones((rows, 5)),
        }
    ).write(folder / "info.fits")
    (folder / "info.fits").rename(folder / INFO_NAME)
    avg = np.array([-0.5, -99, np.nan], np.float32)
    Table({"AVG": avg, "FLAG": np.array([0, 1, 0], "i2"), "P16": avg - 1}).write(folder / SFR_NAME)


def test_sfr_from_the_two_tables(tmp_path):
    write_sfr(tmp_path)
    for path in (tmp_path, tmp_path / SFR_NAME):
        table = read_sfr(path)
        assert list(table.columns) == ["plate", "mjd", "fiberid", "ra", "dec", "z", "AVG", "FLAG", "P16"]
        assert table["plate"].tolist() == [266, 267, 268]
        assert table["plate"].dtype == table["FLAG"].dtype == np.int64
        np.testing.assert_array_equal(table["AVG"], np.array([-0.5, -99, np.nan], np.float32))


def test_sfr_from_one_table(tmp_path):
    write_sfr(tmp_path)
    whole = read_sfr(tmp_path)
    whole.to_csv(tmp_path / "sfr.csv", index=False)
    again = read_sfr(tmp_path / "sfr.csv")
    assert list(again.columns) == list(whole.columns)
    np.testing.assert_allclose(again.to_numpy(float), whole.to_numpy(float), rtol=1e-6)


def test_sfr_that_cannot_be_joined_is_told(tmp_path):
    with pytest.raises(DataError, match=SFR_NAME):
        read_sfr(tmp_path)
    write_sfr(tmp_path)
    (tmp_path / INFO_NAME).unlink()
    with pytest.raises(DataError, match=INFO_NAME):
        read_sfr(tmp_path)
    write_sfr_of_other_length = Table({"PLATEID": [1], "MJD": [2], "FIBERID": [3]})
    write_sfr_of_other_length.write(tmp_path / "info.fits")
    (tmp_path / "info.fits").rename(tmp_path / INFO_NAME)
    with pytest.raises(DataError, match="3 rows"):
        read_sfr(tmp_path)


def test_sfr_without_a_needed_column_is_told(tmp_path):
    write_sfr(tmp_path)
    table = read_table(tmp_path / INFO_NAME).drop(columns=["MJD"])
    (tmp_path / INFO_NAME).unlink()
    Table.from_pandas(table).write(tmp_path / "info.fits")
    (tmp_path / "info.fits").rename(tmp_path / INFO_NAME)
    with pytest.raises(DataError, match="lacks mjd"):
        read_sfr(tmp_path)


def test_sfr_with_a_hole_in_a_key_keeps_the_others(tmp_path):
    columns = "plate,mjd,fiberid,ra,dec,z,AVG,FLAG"
    (tmp_path / "sfr.csv").write_text(f"{columns}\n266,51602,1,1,2,0.1,-0.5,0\n,51602,2,1,2,0.1,-0.6,\n")
    table = read_sfr(tmp_path / "sfr.csv")
    assert table["plate"].dtype == table["FLAG"].dtype == "Int64"
    assert table["plate"].isna().tolist() == table["FLAG"].isna().tolist() == [False, True]
    assert table["fiberid"].dtype == np.int64
    (tmp_path / "sfr.csv").write_text(f"{columns}\n266,51602,1,1,2,0.1,-0.5,0\n266,x,2,1,2,0.1,-0.6,0\n")
    with pytest.raises(DataError, match="column mjd is not integer throughout: row 2 has 'x'"):
        read_sfr(tmp_path / "sfr.csv")
