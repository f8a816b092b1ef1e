"""Building: what goes where, checked against the readers' own output and plain slicing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skyfuse.cube import build as build_module
from skyfuse.cube.build import BuildReport, build
from skyfuse.cube.catalogue import schema_of
from skyfuse.cube.check import check
from skyfuse.cube.grid import SDSS, tile_of
from skyfuse.cube.layout import map_array, tile_path
from skyfuse.cube.pyramid import image_levels, spectrum_levels
from skyfuse.cube.query import Cube
from skyfuse.cube.scan import SpectrumSource, Stamp, walk
from skyfuse.cube.staging import INDEXES
from skyfuse.cube.tiles import group_objects, object_name
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.records import SpectrumInfo
from skyfuse.survey.sdss.frames import read_frame
from skyfuse.survey.sdss.instrument import BANDS
from skyfuse.survey.sdss.spectra import read_spectrum
from tests.cube.sky import (
    frame_path,
    make_frame,
    make_sky,
    make_spectrum,
    on_pixel,
    spectrum_path,
    tile_hashes,
)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="module")
def built(sky: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildReport, Cube]:
    out = tmp_path_factory.mktemp("cube") / "small.cube"
    report = build([sky], out, workers=1)
    return report, Cube.open(out)


def test_the_report_counts_everything(built: tuple[BuildReport, Cube]) -> None:
    report, cube = built
    assert (report.asked, report.ingested, report.frames, report.spectra) == (24, 24, 15, 9)
    assert (report.objects, report.without_image, report.rejected) == (7, 3, {})
    assert cube.meta["counts"]["tiles"] == report.tiles == len(tile_hashes(cube.path))
    assert "15 frames, 9 spectra, 7 objects" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["ingested"] == 24


def test_indexes_have_their_columns_and_point_at_their_rows(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    for name in INDEXES:
        schema = schema_of(name, cube.instruments)
        assert list(getattr(cube, name).columns) == schema.names
    for table in (cube.objects, cube.spectra, cube.frames):
        order = np.array([int(tile.split("/")[0]) for tile in table["tile"]])
        assert (order == 6).all()
    pixels = [f"6/{pixel}" for pixel in tile_of(cube.frames["ra"], cube.frames["dec"], 6)]
    assert cube.frames["tile"].to_list() == pixels
    assert check(cube.path) == []


def test_frames_are_stored_as_read_at_every_zoom(sky: Path, built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    frames = cube.frames.set_index("frame_id")
    row = frames.loc["sdss-4510-4-2-g"]
    frame = read_frame(frame_path(sky / "photo", 1, "g"))
    for zoom, samples in enumerate(image_levels(frame.value, frame.sigma, 5)):
        for name, expected in samples._asdict().items():
            array = map_array(tile_path(cube.path, row["tile"]), f"/frames/sdss/{zoom}/{name}")
            np.testing.assert_array_equal(array[row["row"]], expected)
    assert row["sky_sigma"] == frame.sky_sigma
    assert row["good_fraction"] == 1 - 8 / 13000
    assert row["file"] == "frame-g-004510-4-0002.fits"


def test_epochs_within_an_arcsecond_are_one_object_with_the_best_in_front(
    sky: Path, built: tuple[BuildReport, Cube]
) -> None:
    _, cube = built
    objects = cube.objects[cube.objects["n_spectra"] > 1]
    assert objects["n_spectra"].to_list() == [3]
    # Highest signal-to-noise of those without a warning.
    assert objects["spectrum_id"].to_list() == ["sdss-2-55000-1"]
    assert objects["object_id"].iloc[0] == object_name(objects["ra"].iloc[0], objects["dec"].iloc[0])
    epochs = cube.spectra[cube.spectra["object_id"] == objects["object_id"].iloc[0]]
    assert set(epochs["spectrum_id"]) == {"sdss-1-55000-1", "sdss-2-55000-1", "sdss-2-55000-2"}
    best = read_spectrum(spectrum_path(sky / "spectro", 2, 1))
    for zoom, samples in enumerate(spectrum_levels(best, SDSS, 5)):
        for stored, expected in zip(cube.gather("spectrum", zoom, objects.index), samples, strict=True):
            np.testing.assert_array_equal(stored[0], expected)


def test_object_images_come_from_the_best_frame(sky: Path, built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    objects = cube.objects.set_index("spectrum_id")
    # Whole cutouts on both fields: the darker sky wins.
    assert objects.loc["sdss-1-55000-4", "frame_sdss_r"] == "sdss-4510-4-2-r"
    assert objects.loc["sdss-1-55000-5", "frame_sdss_r"] == "sdss-4510-4-3-r"
    edge = objects.loc["sdss-1-55000-3"]
    assert not edge["inside_sdss_r"]
    row = int(np.flatnonzero(objects.index == "sdss-1-55000-3")[0])
    images = cube.gather("image", 0, [row])
    band = BANDS.index("r")
    field = int(edge["frame_sdss_r"].split("-")[3]) - 1
    frame = read_frame(frame_path(sky / "photo", field, "r"))
    x, y = frame_position(frame.info.wcs, edge["ra"], edge["dec"])
    x0, y0 = int(np.ceil(x - 32)), int(np.ceil(y - 32))
    padded = np.pad(frame.value, 64, constant_values=np.nan)
    expected = padded[y0 + 64 : y0 + 128, x0 + 64 : x0 + 128]
    np.testing.assert_array_equal(images.value[0, band], expected)
    np.testing.assert_array_equal(images.coverage[0, band] == 0, np.isnan(expected))


def frame_position(cards: str, ra: float, dec: float) -> tuple[float, float]:
    from astropy.wcs import WCS

    x, y = WCS(cards).wcs_world2pix(ra, dec, 0)
    return float(x), float(y)


def test_objects_off_every_frame_are_kept_as_nan(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    bare = cube.objects.index[cube.objects["frame_sdss_u"].isna()]
    assert len(bare) == 3
    for zoom in range(5):
        images = cube.gather("image", zoom, bare)
        assert np.isnan(images.value).all()
        assert np.isnan(images.sigma).all()
        assert (images.coverage == 0).all()
        assert np.isfinite(cube.gather("spectrum", zoom, bare).value).any()


def test_stored_images_equal_cutouts_from_the_frames(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    cut = cube.cutouts(cube.objects["ra"], cube.objects["dec"], zooms=range(5))
    for zoom in range(5):
        for stored, direct in zip(
            cube.gather("image", zoom, range(len(cube.objects))), cut[zoom], strict=True
        ):
            np.testing.assert_array_equal(stored, direct)


def test_processes_give_the_same_bytes(sky: Path, built: tuple[BuildReport, Cube], tmp_path: Path) -> None:
    _, cube = built
    report = build([sky / "spectro", sky / "photo"], tmp_path / "two.cube", workers=2)
    assert report.ingested == 24
    assert tile_hashes(tmp_path / "two.cube") == tile_hashes(cube.path)
    for name in INDEXES:
        pd.testing.assert_frame_equal(getattr(Cube.open(tmp_path / "two.cube"), name), getattr(cube, name))


def test_a_second_build_does_only_what_is_new(tmp_path: Path) -> None:
    sky = make_sky(tmp_path / "sky")
    out = tmp_path / "a.cube"
    first = build([sky], out, workers=1)
    sealed = (out / "cube.json").read_bytes()
    assert build([sky], out, workers=1).built == 0
    assert (out / "cube.json").read_bytes() == sealed
    make_spectrum(sky / "spectro", 9, 10.0, -40.0)
    added = build([sky], out, workers=1)
    assert (added.built, added.spectra, added.tiles) == (1, 10, first.tiles + 1)
    spectrum_path(sky / "spectro", 1, 9).unlink()
    spectrum_path(sky / "spectro", 1, 6).unlink()
    stays = build([sky], out, workers=1)
    assert (stays.spectra, stays.gone, stays.built) == (10, 2, 0)
    removed = build([sky], out, workers=1, replace=True)
    assert (removed.spectra, removed.gone) == (8, 0)
    assert len(tile_hashes(out)) == removed.tiles
    assert check(out) == []
    fresh = build([sky], tmp_path / "b.cube", workers=1)
    assert (fresh.tiles, tile_hashes(tmp_path / "b.cube")) == (removed.tiles, tile_hashes(out))


def test_tiles_split_when_they_would_outgrow_the_limit(
    sky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "MAX_TILE_BYTES", 1_000_000)
    build([sky], tmp_path / "deep.cube", workers=1)
    cube = Cube.open(tmp_path / "deep.cube")
    orders = {int(tile.split("/")[0]) for tile in cube.objects["tile"]}
    assert max(orders) > 6
    assert check(cube.path) == []
    for tile, group in cube.frames.groupby("tile"):
        order, pixel = (int(part) for part in str(tile).split("/"))
        assert (tile_of(group["ra"], group["dec"], order) == pixel).all()
    plain = Cube.open(build([sky], tmp_path / "plain.cube", workers=1).out)
    for zoom in (0, 4):
        for deep, flat in zip(
            cube.gather("image", zoom, range(7)), plain.gather("image", zoom, range(7)), strict=True
        ):
            np.testing.assert_array_equal(deep, flat)


def test_frames_of_unequal_shape_share_a_tile(sky: Path, tmp_path: Path) -> None:
    from tests.cube.sky import field_cards
    from tests.survey.files import write_frame

    folder = tmp_path / "in"
    folder.mkdir()
    make_frame(folder, 0, "r")
    # Taller than the other, than what is written at a time, and narrower; odd both ways.
    image = np.random.default_rng(1).normal(0, 0.1, (299, 121))
    write_frame(folder / "tall.fits", image, **(field_cards(0, "g") | {"CRPIX2": 150.0}))
    cube = Cube.open(build([folder], tmp_path / "c.cube", workers=1).out)
    assert check(cube.path) == []
    rows = cube.frames.set_index("band")
    tall, wide = read_frame(folder / "tall.fits"), read_frame(frame_path(folder, 0, "r"))
    for zoom, shape in enumerate([(299, 130), (150, 65), (75, 33), (38, 17), (19, 9)]):
        for band, frame in (("g", tall), ("r", wide)):
            expected = image_levels(frame.value, frame.sigma, 5)[zoom]
            for name, samples in expected._asdict().items():
                path = tile_path(cube.path, rows.loc[band, "tile"])
                stored = map_array(path, f"/frames/sdss/{zoom}/{name}")[rows.loc[band, "row"]]
                assert stored.shape == shape
                ny, nx = samples.shape
                np.testing.assert_array_equal(stored[:ny, :nx], samples)
                blank = np.ones(shape, bool)
                blank[:ny, :nx] = False
                np.testing.assert_array_equal(stored[blank], 0 if name == "coverage" else np.nan)
    assert rows.loc["g", "good_fraction"] == 1
    assert rows.loc["r", "good_fraction"] == np.isfinite(wide.value).mean()


def test_indexes_open_in_lsdb_as_they_are(built: tuple[BuildReport, Cube]) -> None:
    import warnings

    with warnings.catch_warnings():
        # Deprecations inside Dask and LSDB; nothing of ours is in them.
        warnings.simplefilter("ignore")
        import lsdb

        for name in INDEXES:
            catalogue = lsdb.open_catalog(built[1].path / name)
            assert len(catalogue) == len(getattr(built[1], name))
        near = lsdb.open_catalog(built[1].path / "objects").cone_search(10.0, 40.0, 60.0).compute()
    assert near["spectrum_id"].to_list() == ["sdss-1-55000-6"]


def test_walk_passes_hidden_files_cubes_and_loops(tmp_path: Path) -> None:
    for name in ("a.fits", ".hidden.fits", "b.fits.part", "c.fits~", "sub/d", "x.cube/cube.json", "x.cube/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "out.cube").mkdir()
    (tmp_path / "out.cube" / "f").write_text("x")
    files, rejects = walk([tmp_path, tmp_path / "sub", tmp_path / "a.fits"], tmp_path / "out.cube")
    assert [os.path.relpath(file, tmp_path) for file in files] == ["a.fits", "sub/d"]
    assert rejects == []


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (0.0, 0.0, "J000000.00+000000.0"),
        (187.70593075958, 12.39112323919, "J123049.42+122328.0"),
        (359.99999999, -89.99999, "J235959.99-895959.9"),
        (15.0, -0.5, "J010000.00-003000.0"),
    ],
)
def test_names_are_truncated_sexagesimal(ra: float, dec: float, name: str) -> None:
    assert object_name(ra, dec) == name


def test_grouping_follows_chains_and_crosses_zero_hours() -> None:
    places = [(359.9999, 0.0), (0.0001, 0.0), (0.0003, 0.0), (0.0007, 0.0)]
    sources = [
        SpectrumSource(Stamp(f"{i}", 1, 1, "r"), SpectrumInfo(f"s{i}", "sdss", 1, 1, i, *place))
        for i, place in enumerate(places)
    ]
    groups = group_objects(sources, [])
    assert [[source.file.path for source in group] for group in groups] == [["0", "1", "2"], ["3"]]


def test_bad_calls_say_what_to_do(sky: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none: does not exist; name files"):
        build([tmp_path / "none"], tmp_path / "a.cube")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        build([tmp_path / "empty"], tmp_path / "a.cube")
    with pytest.raises(UsageError, match="no wavelength grid 'x'; choose one of sdss"):
        build([sky], tmp_path / "a.cube", grid="x")
    with pytest.raises(UsageError, match="holds other things"):
        build([sky / "photo"], sky)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        build([sky], tmp_path / "file")
    with pytest.raises(DataError, match=r"none of the 1 files .*not-fits: 1"):
        build([tmp_path / "file"], tmp_path / "a.cube", workers=1)
    with pytest.raises(StoreError, match="build did not end; run the same skyfuse build again"):
        Cube.open(tmp_path / "a.cube")
    assert not (tmp_path / "empty" / "ledger").exists()


def test_two_builds_of_one_cube_exclude_each_other(sky: Path, tmp_path: Path) -> None:
    messages = []

    def again(done: int, total: int, what: str) -> None:
        if not messages:
            with pytest.raises(StoreError, match="another build writes this cube") as caught:
                build([sky], tmp_path / "a.cube", workers=1)
            messages.append(str(caught.value))

    build([sky], tmp_path / "a.cube", workers=1, progress=again)
    assert len(messages) == 1


def test_progress_ends_at_the_number_of_files(sky: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    build([sky], tmp_path / "a.cube", workers=1, progress=lambda *call: calls.append(call))
    assert calls[-1] == (24, 24, "building tiles")
    done = [call[0] for call in calls if call[2] == "building tiles"]
    assert done == sorted(done)


def test_on_pixel_is_the_inverse_of_the_stored_wcs(built: tuple[BuildReport, Cube]) -> None:
    row = built[1].frames.set_index("frame_id").loc["sdss-4510-4-1-z"]
    np.testing.assert_allclose(
        frame_position(row["wcs"], *on_pixel(0, 12.0, 7.0, "z")), (12.0, 7.0), atol=1e-6
    )


def test_the_hiss_grid_fills_its_own_bins(sky: Path, tmp_path: Path) -> None:
    cube = Cube.open(build([sky / "spectro"], tmp_path / "h.cube", grid="hiss", workers=1).out)
    assert [cube.gather("spectrum", zoom, [0]).value.shape[1] for zoom in range(5)] == [
        4620,
        2310,
        1155,
        577,
        289,
    ]
    assert check(cube.path) == []
