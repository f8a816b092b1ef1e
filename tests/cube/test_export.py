"""Exports, read back with the libraries that users have."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.table import Table
from astropy.wcs import WCS

from skyfuse.cube.build import build
from skyfuse.cube.export import export, write_cutout
from skyfuse.cube.query import Cube
from skyfuse.errors import DataError, UsageError
from skyfuse.sphere import Cone
from tests.cube.sky import make_sky, on_pixel


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    folder = tmp_path_factory.mktemp("export")
    return Cube.open(build([make_sky(folder / "sky")], folder / "e.cube", workers=1).out)


REGION = Cone.degrees(150.0, 2.0, 1.0)


def test_fits_holds_table_spectra_and_images_with_wcs(cube: Cube, tmp_path: Path) -> None:
    out = tmp_path / "a.fits"
    assert export(cube, out, region=REGION, zoom=1, bands="gr") == 3
    table = cube.select("objects", REGION)
    with fits.open(out) as hdus:
        hdus.verify("exception")
        assert hdus["OBJECTS"].data["object_id"].tolist() == table["object_id"].to_list()
        for number, row in enumerate(table.index, start=1):
            spectrum = Table.read(hdus[f"{number}_SPECTRUM"])
            stored = cube.gather("spectrum", 1, [row])
            np.testing.assert_array_equal(spectrum["flux"], stored.value[0])
            np.testing.assert_array_equal(spectrum["coverage"], stored.coverage[0])
            assert spectrum["wavelength"].unit == units.AA
            assert spectrum["flux"].unit.is_equivalent("W m-2 nm-1")
            cut = cube.cutouts([table["ra"][row]], [table["dec"][row]], zooms=(1,), bands="gr")[1]
            for i, band in enumerate("GR"):
                image = hdus[f"{number}_{band}_VALUE"]
                np.testing.assert_array_equal(image.data, cut.value[0, i])
                np.testing.assert_array_equal(hdus[f"{number}_{band}_SIGMA"].data, cut.sigma[0, i])
                x, y = WCS(image.header).world_to_pixel(
                    SkyCoord(table["ra"][row], table["dec"][row], unit="deg")
                )
                assert max(abs(x - 15.5), abs(y - 15.5)) <= 0.51
                assert image.header["FRAMEID"].startswith("sdss-4510-4-")


def test_objects_without_images_keep_row_and_spectrum(cube: Cube, tmp_path: Path) -> None:
    out = tmp_path / "a.fits"
    assert export(cube, out, ids=["sdss-1-55000-6"]) == 1
    with fits.open(out) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "OBJECTS", "1_SPECTRUM"]


def test_votable_is_read_by_astropy_with_units(cube: Cube, tmp_path: Path) -> None:
    out = tmp_path / "a.vot"
    assert export(cube, out, fmt="votable", zoom=3) == 7
    table = parse_single_table(out).to_table()
    np.testing.assert_array_equal(table["object_id"], cube.objects["object_id"])
    stored = cube.gather("spectrum", 3, range(7))
    np.testing.assert_array_equal(np.ma.filled(table["flux"], np.nan), stored.value)
    factor = (1 * table["flux"].unit).to_value("1e-17 erg s-1 cm-2 Angstrom-1")
    assert factor == pytest.approx(1.0)
    np.testing.assert_allclose(table["wavelength"][0] * 10, cube.spectroscopy().grid.centres(3))
    assert table["ra"].unit == units.deg


def test_numpy_needs_no_pickle(cube: Cube, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    assert export(cube, out, fmt="numpy", zoom=2, region=REGION) == 3
    with np.load(out, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["meta"]))
        rows = cube.select("objects", REGION).index
        for kind in ("image", "spectrum"):
            for name, expected in cube.gather(kind, 2, rows)._asdict().items():
                np.testing.assert_array_equal(arrays[f"{kind}_{name}"], expected)
        assert [entry["object_id"] for entry in meta["objects"]] == arrays["object_id"].tolist()
        assert meta["units"]["image"] == "nanomaggy"


def test_a_cutout_goes_to_fits_and_back(cube: Cube, tmp_path: Path) -> None:
    cut = cube.cutout(SkyCoord(*on_pixel(2, 10.0, 10.0), unit="deg"), bands="iz", zoom=1)
    write_cutout(cut, tmp_path / "c.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(tmp_path / "c.fits") as hdus:
            np.testing.assert_array_equal(hdus["Z_VALUE"].data, cut.data[1])
            np.testing.assert_array_equal(hdus["I_COVERAGE"].data, cut.meta["coverage"][0])
            assert hdus["I_VALUE"].header["BUNIT"] == "nanomaggy"
            assert np.isnan(hdus["I_VALUE"].data).any()


def test_bad_exports_write_nothing(cube: Cube, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one of fits, votable, numpy"):
        export(cube, tmp_path / "a", fmt="csv")
    with pytest.raises(DataError, match="no object meets the selection; widen"):
        export(cube, tmp_path / "a", region=Cone.degrees(80, 80, 1))
    with pytest.raises(UsageError, match="no zoom 9"):
        export(cube, tmp_path / "a", zoom=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fmt", ["fits", "votable", "numpy"])
def test_every_format_refuses_unknown_bands_and_folders(cube: Cube, tmp_path: Path, fmt: Any) -> None:
    with pytest.raises(UsageError, match="'q' are no bands"):
        export(cube, tmp_path / "out", bands="q", fmt=fmt)
    with pytest.raises(UsageError, match="is a folder; give the name of a file"):
        export(cube, tmp_path, fmt=fmt)
    assert list(tmp_path.iterdir()) == []
