"""Objects that a table names: cut whether or not they have a spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.export import export
from skyfuse.cube.query import Cube
from skyfuse.errors import DataError, StoreError
from tests.cube.sky import make_frame, make_spectrum, on_pixel, tile_hashes
from tests.cube.test_standing import state

BIG = 2**62 + 1
"""Floats cannot tell it from its neighbours."""
SEEN = on_pixel(0, 60.3, 50.2)


@pytest.fixture
def sky(tmp_path: Path) -> Path:
    folder = tmp_path / "sky"
    folder.mkdir()
    make_frame(folder, 0, "r")
    make_spectrum(folder, 1, *SEEN)
    return folder


def rows() -> pd.DataFrame:
    """Return half an arcsecond beside the spectrum, on the frame, nowhere, off all frames, off the sky."""
    ra, dec = SEEN
    near = on_pixel(0, 90.0, 20.0)
    return pd.DataFrame(
        {
            "source_id": np.arange(5) + BIG,
            "ra": [ra + 0.5 / 3600, near[0], np.nan, 10.0, np.inf],
            "dec": [dec, near[1], 2.0, 40.0, 1.0],
        }
    )


def write(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        Table.from_pandas(table).write(path, overwrite=True)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits"])
def test_every_row_is_an_object_or_counted(sky: Path, tmp_path: Path, suffix: str) -> None:
    table = write(tmp_path / f"t{suffix}", rows())
    report = build([sky], tmp_path / "a.cube", objects=[table], workers=1)
    assert (report.asked, report.frames, report.spectra, report.sources) == (7, 1, 1, 3)
    assert report.rejected == {"no-position": 2}
    assert [(reject.key, Path(reject.path).name) for reject in report.rejects] == [
        ("2", table.name),
        ("4", table.name),
    ]
    assert (report.objects, report.without_spectrum, report.without_image) == (3, 2, 1)
    assert check(report.out) == []
    cube = Cube.open(report.out)
    found = cube.objects.set_index("source_id")
    # The row beside the spectrum is that object, at the spectrum's place.
    assert found.loc[str(BIG), ["n_spectra", "ra"]].to_list() == [1, SEEN[0]]
    assert found.loc[[str(BIG + 1), str(BIG + 3)], "spectrum_id"].isna().all()
    place = cube.select("objects", ids=[str(BIG + 1)]).index
    image = cube.gather("image", 0, place)
    cut = cube.cutouts(cube.objects["ra"][place], cube.objects["dec"][place])[0]
    np.testing.assert_array_equal(image.value, cut.value)
    assert np.isfinite(image.value[0, 2]).any()
    assert np.isnan(cube.gather("spectrum", 0, place).value).all()
    with pytest.raises(DataError, match=r"the object J.* has no spectrum"):
        cube.spectrum(cube.objects["object_id"][place[0]])
    assert cube.epochs(cube.objects["object_id"][place[0]]) == []


def test_a_table_stays_with_its_cube(sky: Path, tmp_path: Path) -> None:
    table, out = write(tmp_path / "t.csv", rows()), tmp_path / "a.cube"
    build([sky], out, workers=1)
    # Added to a cube that stands.
    report = build([], out, objects=[table], workers=1)
    assert (report.spectra, report.sources, report.objects) == (1, 3, 3)
    assert tile_hashes(out) == tile_hashes(build([sky], tmp_path / "b.cube", objects=[table], workers=1).out)
    for again in ({"objects": [table]}, {}):
        report = build([sky], out, workers=1, **again)
        assert (report.asked, report.sources, report.built) == (7, 3, 0)
    # Where it lies among the inputs it is still the table that it was.
    report = build([sky, table], out, workers=1)
    assert (report.asked, report.rejected) == (7, {"no-position": 2})
    # The same rows in another table.
    copy = write(tmp_path / "copy.parquet", rows())
    report = build([], out, objects=[copy], workers=1)
    assert (report.sources, report.built, report.rejected) == (3, 0, {"duplicate": 3, "no-position": 4})
    copy.unlink()
    before = state(out)
    write(table, rows().assign(dec=lambda found: found["dec"] + 0.001))
    with pytest.raises(StoreError, match=r"holds source 46.* from .*t.csv, and .*t.csv is not as it was"):
        build([sky], out, objects=[table], workers=1)
    assert state(out) == before
    assert build([sky], out, objects=[table], workers=1, replace=True).sources == 3
    assert check(out) == []


def test_what_a_damaged_entry_held_of_a_table_is_known(sky: Path, tmp_path: Path) -> None:
    table, out = write(tmp_path / "t.csv", rows()), tmp_path / "a.cube"
    build([sky], out, objects=[table], workers=1)
    before = tile_hashes(out)
    for entry in (out / "ledger" / "tiles").iterdir():
        entry.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"would lose source .*--replace"):
        build([sky], out, workers=1)
    assert build([sky], out, objects=[table], workers=1).sources == 3
    assert tile_hashes(out) == before


def test_names_are_those_of_the_table(sky: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.csv", rows().iloc[[1, 1, 3]])
    report = build([sky], tmp_path / "a.cube", objects=[twice], workers=1)
    assert (report.asked, report.sources, report.rejected) == (5, 2, {"duplicate": 1})
    assert {*Cube.open(report.out).objects["source_id"].dropna()} == {str(BIG + 1), str(BIG + 3)}
    named = tmp_path / "named.csv"
    named.write_text("name,ra,dec\n007,150.001,2.0\nNGC 5,150.002,2.0\n,150.003,2.0\n")
    report = build([sky], tmp_path / "b.cube", objects=[named], workers=1)
    assert {*Cube.open(report.out).objects["source_id"].dropna()} == {"007", "NGC 5", "named-2"}


def test_numbers_of_rows_make_no_object_of_two_tables(sky: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text("id,ra,dec\n1,150.001,2.0\n2,10.0,40.0\n")
    # The first is elsewhere, the second the same object.
    other.write_text(f"id,ra,dec\n1,150.001,{2 + 10 / 3600}\n2,{10 + 0.4 / 3600},40.0\n")
    report = build([sky], tmp_path / "a.cube", objects=[one, other], workers=1)
    assert (report.asked, report.sources) == (6, 2)
    assert report.rejected == {"duplicate": 1, "same-name": 1}
    (reject,) = [reject for reject in report.rejects if reject.reason == "same-name"]
    assert f"holds source 1, 10″ from that of {one}; give each object a name of its own" in reject.message
    assert reject.path == str(other)


def test_tables_that_name_nothing_are_counted(sky: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("source_id,ra,dec\n")
    (tmp_path / "other.csv").write_text("source_id,mag\n1,2\n")
    tables = [tmp_path / "empty.csv", tmp_path / "other.csv"]
    report = build([sky], tmp_path / "a.cube", objects=tables, workers=1)
    assert (report.asked, report.ingested) == (4, 2)
    assert report.rejected == {"empty": 1, "wrong-columns": 1}
    with pytest.raises(DataError, match=r"none of the 2 files"):
        build([], tmp_path / "b.cube", objects=tables, workers=1)


def test_a_table_alone_makes_a_cube_of_places(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", rows())
    report = build([], tmp_path / "a.cube", objects=[table], workers=1)
    assert (report.objects, report.without_image, report.without_spectrum) == (3, 3, 3)
    assert check(report.out) == []
    cube = Cube.open(report.out)
    for fmt in ("fits", "votable", "numpy"):
        assert export(cube, tmp_path / fmt, fmt=fmt) == 3
