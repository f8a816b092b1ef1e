"""Catalogue tables of every kind, as they are found."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from skyfuse.errors import DataError, FileError
from skyfuse.survey.tables import INFO_NAME, SFR_NAME, read_sfr, read_table

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
        "ragged.csv": (b"# a,b\n1,2,3\n", "truncated"),
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
