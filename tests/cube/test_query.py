"""Queries: regions, times, bands, ids; cutouts and spectra as objects; checks that find faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from mocpy import MOC

from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.layout import tile_path
from skyfuse.cube.query import Cube
from skyfuse.disk import read_json, write_json
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.sphere import Box, Cone
from skyfuse.survey.sdss.frames import read_frame
from tests.cube.sky import CENTRES, frame_path, make_sky, on_pixel


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    folder = tmp_path_factory.mktemp("query")
    return Cube.open(build([make_sky(folder / "sky")], folder / "q.cube", workers=1).out)


def at(ra: float, dec: float) -> SkyCoord:
    return SkyCoord(ra, dec, unit="deg")


def test_gather_keeps_the_order_asked_for(cube: Cube) -> None:
    rows = np.array([6, 0, 3, 3, 1])
    spectra = cube.gather("spectrum", 2, rows)
    for i, row in enumerate(rows):
        for one, many in zip(cube.gather("spectrum", 2, [row]), spectra, strict=True):
            np.testing.assert_array_equal(one[0], many[i])
    assert cube.gather("image", 1, []).value.shape == (0, 5, 32, 32)
    assert [array.dtype for array in spectra] == [np.float32, np.float32, np.float16]


def test_gather_refuses_what_is_not_there(cube: Cube) -> None:
    with pytest.raises(UsageError, match=r"no zoom 5; choose 0 \(native\) to 4"):
        cube.gather("image", 5, [0])
    with pytest.raises(UsageError, match=r"no 'light curve'; ask for 'image' or 'spectrum'"):
        cube.gather("light curve", 0, [0])
    with pytest.raises(DataError, match="row 7 is not among the 7 objects; ask for rows 0 to 6"):
        cube.gather("image", 0, [1, 7])


def test_cutout_is_centred_and_carries_wcs_uncertainty_and_mask(cube: Cube, tmp_path: Path) -> None:
    ra, dec = on_pixel(2, 60.0, 45.0)
    for zoom in range(5):
        cut = cube.cutout(at(ra, dec), zoom=zoom, bands="gr")
        size = 64 // 2**zoom
        assert cut.data.shape == cut.uncertainty.array.shape == cut.mask.shape == (2, size, size)
        assert cut.unit == units.nanomaggy
        np.testing.assert_array_equal(cut.mask, np.isnan(cut.data))
        for band in "gr":
            x, y = cut.meta["wcs"][band].world_to_pixel(at(ra, dec))
            centre = (64 - 1) / 2
            assert abs((x + 0.5) * 2**zoom - 0.5 - centre) <= 0.5 + 1e-6
            assert abs((y + 0.5) * 2**zoom - 0.5 - centre) <= 0.5 + 1e-6
    assert cut.meta["frame_id"] == {"g": "sdss-4510-4-3-g", "r": "sdss-4510-4-3-r"}


def test_bands_come_in_the_order_asked_for_and_each_from_its_own_frame(cube: Cube) -> None:
    ra, dec = on_pixel(2, 60.0, 45.0)
    one = cube.cutouts([ra], [dec], size=8, bands="zu")[0]
    for i, band in enumerate("zu"):
        alone = cube.cutouts([ra], [dec], size=8, bands=band)[0]
        np.testing.assert_array_equal(one.value[:, i], alone.value[:, 0])
    frame = read_frame(frame_path(cube.path.parent / "sky" / "photo", 2, "r"))
    stored = cube.cutouts([ra], [dec], size=8, bands="r")[0]
    np.testing.assert_array_equal(stored.value[0, 0], frame.value[41:49, 56:64])
    np.testing.assert_array_equal(stored.sigma[0, 0], frame.sigma[41:49, 56:64])


def test_time_chooses_the_epoch_of_a_cutout(cube: Cube) -> None:
    where = at(*on_pixel(1, 65.0, 50.0))
    epochs = cube.frame_epochs(where, "i")
    assert epochs["frame_id"].to_list() == ["sdss-4510-4-1-i", "sdss-4510-4-2-i"]
    first = epochs["mjd"].iloc[0]
    old = cube.cutout(where, bands="i", size=16, time=(first - 1, first + 1))
    new = cube.cutout(where, bands="i", size=16)
    assert (old.meta["frame_id"], new.meta["frame_id"]) == (
        {"i": "sdss-4510-4-1-i"},
        {"i": "sdss-4510-4-2-i"},
    )
    with pytest.raises(DataError, match=r"between MJD 1.0 and 2.0"):
        cube.cutout(where, time=(1.0, 2.0))
    with pytest.raises(UsageError, match="give the earlier MJD first"):
        cube.cutout(where, time=(2.0, 1.0))


def test_off_the_cube_names_where_the_cube_is(cube: Cube) -> None:
    with pytest.raises(
        DataError,
        match=r"no frame in u, g, r, i, z holds RA 20\.0.*15 frames lie between RA 149\.\d+ and 210\.\d",
    ):
        cube.cutout(at(20, 20))
    blank = cube.cutouts([20.0, np.nan], [20.0, 0.0], size=4)[0]
    assert np.isnan(blank.value).all()
    assert (blank.coverage == 0).all()
    assert cube.cutouts([], [], zooms=(0, 2))[2].value.shape == (0, 5, 16, 16)


@pytest.mark.parametrize("bands", ["", "x", "rr", "gR"])
def test_unknown_bands_are_refused(cube: Cube, bands: str) -> None:
    with pytest.raises(UsageError, match="choose among u, g, r, i, z, each once"):
        cube.cutouts([1.0], [1.0], bands=bands)


def test_spectra_come_as_specutils_objects_with_units(cube: Cube) -> None:
    name = cube.objects.loc[cube.objects["n_spectra"] == 3, "object_id"].iloc[0]
    best = cube.spectrum(name, zoom=1)
    assert best.meta["spectrum_id"] == "sdss-2-55000-1"
    assert best.spectral_axis.unit == units.AA
    assert best.flux.unit == units.Unit("1e-17 erg / (s cm2 Angstrom)")
    np.testing.assert_array_equal(best.mask, np.isnan(best.uncertainty.array))
    epochs = cube.epochs(name)
    assert [epoch.meta["spectrum_id"] for epoch in epochs] == [
        "sdss-1-55000-1",
        "sdss-2-55000-1",
        "sdss-2-55000-2",
    ]
    np.testing.assert_array_equal(cube.spectrum("sdss-2-55000-2").flux, epochs[2].flux)


def test_unknown_names_lead_to_the_nearest(cube: Cube) -> None:
    with pytest.raises(
        DataError, match="no 'sdss-1-55000-44' among the spectra; the nearest is sdss-1-55000-4"
    ):
        cube.spectrum("sdss-1-55000-44")
    near = cube.objects["object_id"].iloc[0]
    with pytest.raises(DataError, match="the nearest is J"):
        cube.epochs(near[:-1])
    with pytest.raises(DataError, match="no 'nobody' among the objects"):
        cube.select("objects", ids=["nobody"])


@settings(max_examples=60, deadline=None)
@given(
    ra=st.floats(0, 360),
    dec=st.floats(-90, 90),
    radius=st.one_of(st.floats(0, 180), st.floats(0, 0.05)),
    near=st.integers(0, 7),
)
def test_cones_hold_what_astropy_says(cube: Cube, ra: float, dec: float, radius: float, near: int) -> None:
    if near < 7:
        ra, dec = cube.objects["ra"][near], cube.objects["dec"][near]
    apart = at(cube.objects["ra"], cube.objects["dec"]).separation(at(ra, dec)).deg
    found = cube.select("objects", Cone.degrees(ra, dec, radius))
    sure = cube.objects.index[apart < radius - 1e-9]
    possible = cube.objects.index[apart <= radius + 1e-9]
    assert set(sure) <= set(found.index) <= set(possible)


@pytest.mark.parametrize(
    ("box", "count"),
    [
        (Box(149, 151, 1, 3), 3),
        (Box(209, 211, -6, -4), 1),
        (Box(359, 11, 39, 41), 3),
        (Box(-1, 10.2, 39, 41), 2),
        (Box(0, 360, -90, 90), 7),
        (Box(11, 359, -90, 90), 4),
    ],
)
def test_boxes_hold_objects_also_across_zero_hours(cube: Cube, box: Box, count: int) -> None:
    assert len(cube.select("objects", box)) == count
    assert len(cube.select("spectra", box)) >= count


def test_frames_are_selected_where_they_overlap(cube: Cube) -> None:
    ra, dec = CENTRES[2]
    assert len(cube.select("frames", Cone.degrees(ra, dec, 0.0))) == 5
    reach = 0.5 * 130 * 1.1e-4
    for shift, count in ((reach * 0.9, 5), (reach * 1.6, 0)):
        assert len(cube.select("frames", Cone.degrees(ra, dec + shift, 1e-5), bands="ugriz")) == count
    assert len(cube.select("frames", Cone.degrees(ra, dec + 0.05, 0.045))) == 5
    assert len(cube.select("frames", Box(ra - 0.1, ra + 0.1, dec - 0.1, dec + 0.1), bands="gr")) == 2
    assert len(cube.select("frames", Box(300, 10, -90, 90))) == 0
    assert len(cube.select("frames", Box(0, 360, -90, 90))) == 15
    moc = MOC.from_cone(ra * units.deg, dec * units.deg, radius=0.02 * units.deg, max_depth=14)
    assert len(cube.select("frames", moc)) == 5
    assert len(cube.select("objects", moc)) == 1


def test_time_and_bands_narrow_a_selection(cube: Cube) -> None:
    mjd = cube.frames["mjd"].max()
    assert len(cube.select("frames", time=(mjd - 1, mjd))) == 5
    assert len(cube.select("spectra", time=(54999, 55001))) == 9
    assert len(cube.select("objects", time=(1, 2))) == 0
    assert len(cube.select("objects", bands="ur")) == 4
    assert len(cube.select("objects", ids=["sdss-1-55000-1", "sdss-2-55000-1"])) == 1
    with pytest.raises(UsageError, match="spectra have no bands"):
        cube.select("spectra", bands="r")
    with pytest.raises(UsageError, match="no 'stars'; ask for one of objects, frames, spectra"):
        cube.select("stars")
    with pytest.raises(UsageError, match="str is no region"):
        cube.select("objects", region="here")
    with pytest.raises(UsageError, match="holds nothing"):
        cube.select("objects", Box(0, 1, 5, 4))
    with pytest.raises(UsageError, match="holds nothing"):
        cube.select("objects", Cone.degrees(0, 0, -1))


def test_open_tells_what_is_no_cube(cube: Cube, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        Cube.open(tmp_path / "none")
    with pytest.raises(StoreError, match=r"it has no cube\.json"):
        Cube.open(tmp_path)
    write_json(tmp_path / "cube.json", read_json(cube.path / "cube.json") | {"format": 99})
    with pytest.raises(StoreError, match="not written by this version"):
        Cube.open(tmp_path)
    write_json(tmp_path / "cube.json", read_json(cube.path / "cube.json"))
    with pytest.raises(StoreError, match="index cannot be read"):
        len(Cube.open(tmp_path).objects)


def test_check_finds_each_kind_of_damage(cube: Cube, tmp_path: Path) -> None:
    copy = tmp_path / "copy.cube"
    shutil.copytree(cube.path, copy)
    assert check(copy) == []
    tiles = sorted(set(cube.objects["tile"]))
    files = [tile_path(copy, tile) for tile in tiles]
    with h5py.File(files[0], "r+") as file:
        file["/objects/sdss/0/spectrum/coverage"][0, 5] = (
            0.0 if file["/objects/sdss/0/spectrum/coverage"][0, 5] else 1.0
        )
    with h5py.File(files[1], "r+") as file:
        sigma = file["/spectra/sdss/2/sigma"]
        sigma[0, int(np.flatnonzero(np.isfinite(sigma[0]))[0])] = 0.0
    files[2].write_bytes(files[2].read_bytes()[:5000])
    files[3].unlink()
    stray = tile_path(copy, "6/1")
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"")
    problems = check(copy)
    assert len(problems) == 5
    for file, words in zip(
        [*files[:4], stray],
        [
            "NaN does not stand exactly where coverage is 0",
            "not above 0",
            "",
            "cannot be opened",
            "no index knows this tile",
        ],
        strict=True,
    ):
        assert any(str(file) in problem and words in problem for problem in problems)


@pytest.mark.parametrize("size", [0, -2, 3.5, 4097])
def test_impossible_sizes_are_refused(cube: Cube, size: float) -> None:
    with pytest.raises(UsageError, match="give a whole number of pixels from 1 to 4096"):
        cube.cutout(at(*CENTRES[0]), size=size)


@pytest.mark.parametrize(
    ("coord", "match"),
    [
        (SkyCoord([10, 11], [0, 1], unit="deg"), "give a scalar SkyCoord"),
        ("10 5", "a str is not one position"),
        (SkyCoord(np.nan, 0, unit="deg"), "RA nan Dec 0.0 is no position"),
    ],
)
def test_what_is_not_one_position_is_refused(cube: Cube, coord: SkyCoord, match: str) -> None:
    for ask in (cube.cutout, lambda c: cube.frame_epochs(c, "r"), lambda c: regions(cube, c)):
        with pytest.raises(UsageError, match=match):
            ask(coord)


def regions(cube: Cube, coord: SkyCoord) -> None:
    cube.select(region=Cone(coord, 1 * units.deg))


def test_positions_that_cannot_be_are_refused(cube: Cube) -> None:
    with pytest.raises(UsageError, match="declination 95 is not on the sky"):
        cube.cutouts([1, 2], [2, 95.0])
    with pytest.raises(UsageError, match="give one of each for every position"):
        cube.cutouts([1, 2, 3], [1, 2])


def test_regions_and_times_that_cannot_be_are_refused(cube: Cube) -> None:
    with pytest.raises(UsageError, match="a box from RA nan to 1 holds nothing"):
        cube.select(region=Box(np.nan, 1, 0, 1))
    with pytest.raises(UsageError, match=r"the radius 1.0 m is no angle"):
        cube.select(region=Cone(at(10, 0), 1 * units.m))
    with pytest.raises(UsageError, match="give two MJD"):
        cube.select(time=(1,))


def test_rows_that_are_no_rows_are_refused(cube: Cube) -> None:
    with pytest.raises(UsageError, match="are no rows"):
        cube.gather("image", 0, [0.5])
    with pytest.raises(DataError, match="row 999 is not among the"):
        cube.spectrum_samples([999])


def test_a_lone_name_selects_like_a_list_of_one(cube: Cube) -> None:
    name = cube.objects["object_id"].iloc[2]
    assert cube.select(ids=name)["object_id"].to_list() == [name]


def test_large_cutouts_of_many_positions_go_in_small_batches(
    cube: Cube, monkeypatch: pytest.MonkeyPatch
) -> None:
    ra, dec = cube.objects["ra"], cube.objects["dec"]
    whole = cube.cutouts(ra, dec, size=30)[0]
    monkeypatch.setattr("skyfuse.cube.query._BATCH_PIXELS", 2 * 30 * 30)
    for one, other in zip(cube.cutouts(ra, dec, size=30)[0], whole, strict=True):
        np.testing.assert_array_equal(one, other)
