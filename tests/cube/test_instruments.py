"""One cube of several instruments: what each saw of an object, what is missing, and what is added later."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skyfuse.cube.build import BuildReport, Reading, build
from skyfuse.cube.check import check
from skyfuse.cube.export import export
from skyfuse.cube.query import Cube
from skyfuse.cube.staging import INDEXES
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey import registry
from skyfuse.survey.described import described
from skyfuse.survey.reader import Options, Reader, SurveyFile
from skyfuse.survey.registry import reader_of
from tests.cube.sky import (
    make_decam,
    make_frame,
    make_spectrum,
    make_unwise,
    on_pixel,
    tile_hashes,
)
from tests.survey.files import redrock_hdus, write_desi

BOTH = on_pixel(0, 60.3, 50.2)
"""Seen by all instruments."""
TARGETS = [39633321764622337, 39633321764622338, 39633321764622340]
"""Above 2^53: the first at `BOTH`, the second on frames in a tile of its own, the third off all frames."""
PLACES = (BOTH, on_pixel(2, 60.0, 50.0), (30.0, 10.0))
BIG = 2**62 + 1


def make_desi(folder: Path, **options: Any) -> Path:
    ra, dec = zip(*PLACES, strict=True)
    places = {"TARGET_RA": ra, "TARGET_DEC": dec}
    return write_desi(folder, TARGETS, fibermap=options.pop("fibermap", {}) | places, **options)


def make_all(folder: Path) -> Path:
    """Write frames and spectra of SDSS, coadds of unWISE, exposures of DECam, a coadd of DESI."""
    for name in ("photo", "spectro"):
        (folder / name).mkdir(parents=True)
    for field in (0, 2):
        for band in "gr":
            make_frame(folder / "photo", field, band)
    make_spectrum(folder / "spectro", 1, *BOTH)
    make_spectrum(folder / "spectro", 2, 10.0, 40.0)
    make_unwise(folder / "unwise", 150.0, 2.0)
    make_decam(folder / "decam", *BOTH)
    make_decam(folder / "decam", *BOTH, number=8, zero=None)
    make_desi(folder / "desi")
    return folder


def make_table(path: Path, **columns: Any) -> Path:
    table = pd.DataFrame({"source_id": [BIG, BIG + 2], "ra": [150.004, 10.0], "dec": [2.001, 40.0]} | columns)
    table.to_csv(path, index=False)
    return path


def state(cube: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that readers see."""
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cube.rglob("*"))
        if path.is_file() and "ledger" not in path.parts
    }


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("instruments") / "sky")


@pytest.fixture(scope="module")
def built(sky: Path) -> tuple[BuildReport, Cube]:
    report = build([sky], sky.parent / "a.cube", workers=1)
    return report, Cube.open(report.out)


def at(cube: Cube, place: tuple[float, float]) -> int:
    """Return the row of the object at a position."""
    apart = SkyCoord(cube.objects["ra"], cube.objects["dec"], unit="deg").separation(
        SkyCoord(*place, unit="deg")
    )
    assert apart.arcsec.min() < 0.1
    return int(apart.argmin())


def sources(sky: Path) -> dict[str, tuple[Path, Any]]:
    """Return what the readers themselves find, by name: the file and what the record holds."""
    found: dict[str, tuple[Path, Any]] = {}
    for path in sorted(sky.rglob("*.fits")):
        reader = reader_of(SurveyFile(path))
        for info in reader.records(SurveyFile(path)):
            if hasattr(info, "frame_id") or hasattr(info, "spectrum_id"):
                record = reader.read(path, info.key, Options())
                found[getattr(info, "frame_id", None) or info.spectrum_id] = path, record
    return found


def test_every_record_is_asked_and_answered(sky: Path, built: tuple[BuildReport, Cube]) -> None:
    report, cube = built
    # 4 frames of SDSS, 2 of unWISE, 2 of DECam; 2 spectra of SDSS, 3 of DESI; weights, masks, redshifts.
    assert (report.asked, report.frames, report.spectra, report.rejected) == (13, 8, 5, {})
    assert (report.partners, report.uncalibrated) == (3 + 4 + 1, 1)
    assert report.partners + report.asked - len(TARGETS) + 1 == len([*sky.rglob("*.fits")])
    assert (report.objects, report.without_image, report.without_spectrum) == (4, 2, 0)
    assert {*cube.frames["frame_id"], *cube.spectra["spectrum_id"]} == sources(sky).keys()
    assert check(cube.path) == []


def test_stored_values_are_the_readers_own(sky: Path, built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    found = sources(sky)
    for row, (name, instrument, tile, place) in enumerate(
        cube.frames[["frame_id", "instrument", "tile", "row"]].itertuples(index=False)
    ):
        frame = found[name][1]
        ny, nx = frame.value.shape
        for component in ("value", "sigma"):
            stored = cube._map(tile, f"/frames/{instrument}/0/{component}")[place]
            np.testing.assert_array_equal(stored[:ny, :nx], getattr(frame, component))
        assert cube.frames["caution"][row] == frame.info.caution
    for row, (name, instrument) in enumerate(
        cube.spectra[["spectrum_id", "instrument"]].itertuples(index=False)
    ):
        spectrum, grid = found[name][1], cube.spectroscopy(instrument).grid
        stored = cube.spectrum_samples([row])
        bins = np.searchsorted(grid.edges(0), spectrum.wavelength) - 1
        on = (bins >= 0) & (bins < grid.sizes[0])
        np.testing.assert_allclose(grid.centres(0)[bins[on]], spectrum.wavelength[on], rtol=1e-6)
        np.testing.assert_array_equal(stored.value[0][bins[on]], spectrum.flux[on])
        np.testing.assert_array_equal(stored.sigma[0][bins[on]], spectrum.sigma[on])


def test_an_object_is_cut_from_the_frames_of_each_instrument(
    sky: Path, built: tuple[BuildReport, Cube]
) -> None:
    _, cube = built
    found, row = sources(sky), at(cube, BOTH)
    for instrument, bands in (("sdss", "gr"), ("unwise", ("W1", "W2")), ("decam-cp", "g")):
        imaging = cube.imaging(instrument)
        image = cube.gather("image", 0, [row], instrument)
        assert image.value.shape == (1, len(imaging.bands), imaging.size, imaging.size)
        for band in bands:
            path, frame = found[cube.objects[f"frame_{instrument}_{band}"][row]]
            header = fits.getheader(path)
            header.pop("RADECSYS", None)
            x, y = WCS(header).all_world2pix(*(float(cube.objects[axis][row]) for axis in ("ra", "dec")), 0)
            x0, y0 = (int(np.ceil(float(axis) - imaging.size / 2)) for axis in (x, y))
            cut = frame.value[max(y0, 0) : y0 + imaging.size, max(x0, 0) : x0 + imaging.size]
            stored = image.value[0, imaging.bands.index(band)]
            stored = stored[max(-y0, 0) :, max(-x0, 0) :][: cut.shape[0], : cut.shape[1]]
            np.testing.assert_array_equal(stored, cut)
            assert np.isfinite(cut).mean() > 0.9
            free = cube.cutout(
                SkyCoord(cube.objects["ra"][row], cube.objects["dec"][row], unit="deg"),
                size=imaging.size,
                bands=[band],
                instrument=instrument,
            )
            np.testing.assert_array_equal(free.data[0], image.value[0, imaging.bands.index(band)])


def test_bands_of_one_name_are_told_apart_and_no_object_is_cut_without_zero_point(
    built: tuple[BuildReport, Cube],
) -> None:
    _, cube = built
    row = at(cube, BOTH)
    assert cube.objects["frame_sdss_g"][row].startswith("sdss-")
    assert cube.objects["frame_decam-cp_g"][row] == "decam-cp-7-g"
    bare = cube.frames.set_index("frame_id").loc["decam-cp-8-g"]
    assert (bare["unit"], bare["scale"]) == ("adu", 1.0)
    assert cube.frames.set_index("frame_id").loc["decam-cp-7-g", "unit"] == "nanomaggy"
    # It is kept, and found among the epochs, but its numbers never stand beside others.
    epochs = cube.frame_epochs(SkyCoord(*BOTH, unit="deg"), "g", "decam-cp")
    assert {*epochs["frame_id"]} == {"decam-cp-7-g", "decam-cp-8-g"}
    cut = cube.cutout(SkyCoord(*BOTH, unit="deg"), bands="g", instrument="decam-cp")
    assert cut.meta["frame_id"] == {"g": "decam-cp-7-g"}


def test_what_an_instrument_did_not_see_is_missing(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    rows = [at(cube, place) for place in (BOTH, PLACES[1], PLACES[2], (10.0, 40.0))]
    seen = {
        ("image", "sdss"): (True, True, False, False),
        ("image", "unwise"): (True, False, False, False),
        ("image", "decam-cp"): (True, False, False, False),
        ("spectrum", "sdss"): (True, False, False, True),
        ("spectrum", "desi"): (True, True, True, False),
    }
    for (kind, instrument), expected in seen.items():
        for zoom in range(3):
            found = cube.gather(kind, zoom, rows, instrument)
            axes = tuple(range(1, found.value.ndim))
            assert tuple(np.isfinite(found.value).any(axis=axes)) == expected
            assert tuple((found.coverage > 0).any(axis=axes)) == expected
            np.testing.assert_array_equal(np.isnan(found.sigma), found.coverage == 0)
        chosen = cube.select("objects", instrument=instrument)
        # Of an instrument with both kinds, either is enough.
        assert {row for row, there in zip(rows, expected, strict=True) if there} <= {*chosen.index}
    assert {*cube.select("objects", instrument="sdss").index} == {rows[0], rows[1], rows[3]}
    assert cube.objects["n_spectra"][rows].to_list() == [2, 1, 1, 1]


def test_one_of_several_instruments_must_be_named(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    for call in (
        cube.imaging,
        cube.spectroscopy,
        lambda: cube.gather("image", 0, [0]),
        lambda: cube.cutouts([150.0], [2.0]),
        lambda: cube.cutout(SkyCoord(*BOTH, unit="deg")),
        lambda: cube.select("frames", bands="g"),
    ):
        with pytest.raises(UsageError, match=r"(images|spectra) of .* and .*; name one instrument"):
            call()
    with pytest.raises(UsageError, match="not of desi"):
        cube.imaging("desi")
    with pytest.raises(UsageError, match="no bands of unwise; choose among W1, W2"):
        cube.select("frames", bands="g", instrument="unwise")
    with pytest.raises(UsageError, match="rows are spectra of desi and sdss"):
        cube.spectrum_samples(range(len(cube.spectra)))


def test_spectra_of_an_object_come_from_each_instrument(built: tuple[BuildReport, Cube]) -> None:
    _, cube = built
    row = cube.objects.iloc[at(cube, BOTH)]
    epochs = cube.epochs(row["object_id"])
    assert [one.meta["instrument"] for one in epochs] == ["sdss", "desi"]
    assert [len(one.flux) for one in epochs] == [3744, 7781]
    assert row["spectrum_sdss"] == "sdss-1-55000-1"
    assert row["spectrum_desi"] == f"desi-main-dark-{TARGETS[0]}"
    for name in (row["spectrum_sdss"], row["spectrum_desi"]):
        np.testing.assert_array_equal(
            cube.spectrum(name).flux.value,
            cube.gather("spectrum", 0, [at(cube, BOTH)], "desi" if "desi" in name else "sdss").value[0],
        )
    one = cube.spectra.set_index("spectrum_id").loc[row["spectrum_desi"]]
    assert (one["key"], one["z"], pd.isna(one["plate"])) == (str(TARGETS[0]), 0.1, True)


def test_exports_name_the_instruments(built: tuple[BuildReport, Cube], tmp_path: Path) -> None:
    _, cube = built
    row = at(cube, BOTH)
    name = cube.objects["object_id"][row]
    for fmt, suffix in (("fits", ".fits"), ("votable", ".vot"), ("numpy", ".npz")):
        assert export(cube, tmp_path / f"all{suffix}", fmt=fmt) == len(cube.objects)
    assert export(cube, tmp_path / "one.fits", ids=[name]) == 1
    with fits.open(tmp_path / "one.fits") as hdus:
        names = {hdu.name for hdu in hdus}
        assert {"1_SDSS_G_VALUE", "1_DECAM-CP_G_VALUE", "1_UNWISE_W2_SIGMA", "1_DESI_SPECTRUM"} <= names
        np.testing.assert_array_equal(
            hdus["1_UNWISE_W2_VALUE"].data, cube.gather("image", 0, [row], "unwise").value[0, 1]
        )
        np.testing.assert_array_equal(
            hdus["1_DESI_SPECTRUM"].data["flux"], cube.gather("spectrum", 0, [row], "desi").value[0]
        )
    table = Table.read(tmp_path / "all.vot")
    np.testing.assert_array_equal(
        np.ma.filled(table["desi_flux"], np.nan), cube.gather("spectrum", 0, cube.objects.index, "desi").value
    )
    with np.load(tmp_path / "all.npz") as arrays:
        np.testing.assert_array_equal(
            arrays["unwise_image_value"], cube.gather("image", 0, cube.objects.index, "unwise").value
        )
        assert json.loads(str(arrays["meta"]))["units"]["decam-cp_image"] == "nanomaggy"


def test_its_indexes_open_in_lsdb(built: tuple[BuildReport, Cube]) -> None:
    with warnings.catch_warnings():
        # Deprecations inside Dask and LSDB; nothing of ours is in them.
        warnings.simplefilter("ignore")
        import lsdb

        for name in INDEXES:
            catalogue = lsdb.open_catalog(built[1].path / name)
            assert len(catalogue) == len(getattr(built[1], name))


def test_bytes_do_not_hang_on_workers_or_on_how_it_was_put_together(
    sky: Path, built: tuple[BuildReport, Cube], tmp_path: Path
) -> None:
    whole = tile_hashes(built[1].path)
    assert tile_hashes(build([sky], tmp_path / "two.cube", workers=2).out) == whole
    # One instrument after the other.
    out = tmp_path / "added.cube"
    build([sky / "photo", sky / "spectro"], out, workers=1)
    for name in ("unwise", "desi", "decam"):
        before, held = tile_hashes(out), Cube.open(out)
        names = {*held.frames["frame_id"], *held.spectra["spectrum_id"]}
        build([sky / name], out, workers=1)
        now = Cube.open(out)
        assert names <= {*now.frames["frame_id"], *now.spectra["spectrum_id"]}
        # Tiles far from what is added stay as they were.
        far = str(next(iter(now.objects.loc[now.objects["dec"] > 39, "tile"]))).split("/")[1]
        (tile,) = (path for path in before if f"Npix={far}.h5" in path)
        assert before[tile] == tile_hashes(out)[tile]
        assert check(out) == []
    assert tile_hashes(out) == whole


def test_each_instrument_may_have_its_own_grid(sky: Path, tmp_path: Path) -> None:
    inputs = [sky / "spectro", sky / "desi"]
    out = tmp_path / "g.cube"
    build(inputs, out, grid={"desi": "log:3800,9000,2e-4"}, workers=1)
    cube = Cube.open(out)
    assert cube.spectroscopy("desi").grid.name.startswith("log:")
    assert cube.spectroscopy("sdss").grid.name == "sdss"
    assert check(out) == []
    # What stands keeps its grid unless it is told another.
    assert build(inputs, out, workers=1).built == 0
    before = state(out)
    for grid in ({"desi": "desi"}, "hiss"):
        with pytest.raises(StoreError, match=r"has .* on the wavelength grid .*, not .*--replace"):
            build(inputs, out, grid=grid, workers=1)
    assert state(out) == before
    with pytest.raises(UsageError, match=r"no instrument 'dezi' to have a grid; choose among .*desi, "):
        build(inputs, out, grid={"dezi": "hiss"}, workers=1)
    # None of the samples of SDSS lie there.
    report = build(inputs, tmp_path / "o.cube", grid={"sdss": "linear:9600,9800,1"}, workers=1)
    assert (report.asked, report.spectra, report.rejected) == (5, 3, {"outside-grid": 2})
    assert "outside-grid" in str(report)


# What is added, changed and gone: nothing that stands is lost or changed unless it may be replaced.


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Return a frame of SDSS, coadds of unWISE and a coadd of DESI, and where their cube will be."""
    sky = tmp_path / "sky"
    (sky / "photo").mkdir(parents=True)
    make_frame(sky / "photo", 0, "r")
    make_unwise(sky / "unwise", 150.0, 2.0)
    make_desi(sky / "desi")
    return sky, tmp_path / "a.cube"


WEIGHT = "unwise/unwise-1500p020-w1-invvar-m.fits"
IMAGE = "unwise/unwise-1500p020-w1-img-m.fits"
MASK = "unwise/unwise-1500p020-msk.fits"
REDSHIFTS = "desi/redrock-main-dark-1.fits"
COADD = "desi/coadd-main-dark-1.fits"


@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        (WEIGHT, {"no-weight": 1}),
        (MASK, {"no-mask": 2}),
        (IMAGE, {"no-image": 1}),
        (REDSHIFTS, {"no-redshifts": 3}),
        (COADD, {"no-spectra": 1}),
    ],
)
def test_a_file_that_comes_later_is_taken_up(
    small: tuple[Path, Path], tmp_path: Path, name: str, rejected: dict[str, int]
) -> None:
    sky, out = small
    (sky / name).rename(tmp_path / "later")
    report = build([sky], out, workers=1)
    assert report.rejected == rejected
    assert build([sky], out, workers=1).built == 0
    (tmp_path / "later").rename(sky / name)
    report = build([sky], out, workers=1)
    assert (report.asked, report.ingested, report.rejected, report.partners) == (6, 6, {}, 4)
    assert check(out) == []
    assert tile_hashes(out) == tile_hashes(build([sky], tmp_path / "w.cube", workers=1).out)


@pytest.mark.parametrize("name", [WEIGHT, MASK, REDSHIFTS, COADD])
@pytest.mark.parametrize("gone", [True, False])
def test_a_file_beside_others_that_changes_or_goes_is_refused(
    small: tuple[Path, Path], name: str, *, gone: bool
) -> None:
    sky, out = small
    build([sky], out, workers=1)
    before = state(out)
    if gone:
        (sky / name).unlink()
    elif name == REDSHIFTS:
        redrock_hdus(TARGETS, Z=[0.3, 0.4, 0.5]).writeto(sky / name, overwrite=True)
    elif name == COADD:
        make_desi(sky / "desi", seed=3)
    else:
        with fits.open(sky / name, mode="update") as hdus:
            hdus[0].data[9, 9] += 1
    if (sky / COADD).exists():
        with pytest.raises(StoreError, match=rf"holds .* from .*, and .*{Path(name).name} is not as it was"):
            build([sky], out, workers=1)
        assert state(out) == before
    else:
        assert build([sky], out, workers=1).gone == 1
    # Tiles that need it are not built again without it.
    make_spectrum(sky.parent, 7, *BOTH)
    with pytest.raises(StoreError, match=r"(must build tile .* no longer there as it was|not as it was)"):
        build([sky.parent / "spec-0001-55000-0007.fits"], out, workers=1)
    tiles = {path: one for path, one in before.items() if path.endswith((".h5", ".parquet"))}
    assert tiles.items() <= state(out).items()
    report = build([sky], out, workers=1, replace=True)
    assert check(out) == []
    assert (report.ingested == 6) == (not gone)


def test_redshifts_that_come_beside_what_stands_unclassified_are_refused(tmp_path: Path) -> None:
    make_desi(tmp_path / "desi", redshifts=False)
    out = tmp_path / "a.cube"
    build([tmp_path / "desi"], out, workers=1, reading=Reading(keep_unclassified=True))
    (tmp_path / "desi" / "notes.txt").write_text("of no matter")
    report = build([tmp_path / "desi"], out, workers=1, reading=Reading(keep_unclassified=True))
    assert (report.spectra, report.built, report.rejected) == (3, 0, {"not-fits": 1})
    redrock_hdus(TARGETS).writeto(tmp_path / REDSHIFTS)
    before = state(out)
    with pytest.raises(StoreError, match=r"not as it was.*--replace"):
        build([tmp_path / "desi"], out, workers=1, reading=Reading(keep_unclassified=True))
    assert state(out) == before
    build([tmp_path / "desi"], out, workers=1, reading=Reading(keep_unclassified=True), replace=True)
    assert Cube.open(out).spectra["z"].notna().all()


def test_one_target_more_in_a_file_is_another_file(tmp_path: Path) -> None:
    folder, out = tmp_path / "desi", tmp_path / "a.cube"
    make_desi(folder)
    build([folder], out, workers=1)
    before = state(out)
    ra, dec = zip(*PLACES, (150.1, 2.1), strict=True)
    write_desi(folder, [*TARGETS, 77], fibermap={"TARGET_RA": ra, "TARGET_DEC": dec})
    with pytest.raises(StoreError, match=r"coadd-main-dark-1.fits is not as it was.*--replace"):
        build([folder], out, workers=1)
    assert state(out) == before
    assert build([folder], out, workers=1, replace=True).spectra == 4


def test_a_coadd_under_another_name_is_the_same(tmp_path: Path) -> None:
    out = tmp_path / "a.cube"
    make_desi(tmp_path / "desi")
    build([tmp_path / "desi"], out, workers=1)
    before = tile_hashes(out)
    shutil.copytree(tmp_path / "desi", tmp_path / "copy")
    report = build([tmp_path / "copy"], out, workers=1)
    assert (report.asked, report.built, report.rejected) == (6, 0, {"duplicate": 3})
    # It stays before another version that comes with it.
    shutil.rmtree(tmp_path / "desi")
    make_desi(tmp_path / "another", seed=5)
    report = build([tmp_path / "another", tmp_path / "copy"], out, workers=1)
    assert (report.asked, report.rejected, report.gone) == (6, {"duplicate": 3}, 0)
    assert {Path(reject.path).parent.name for reject in report.rejects} == {"another"}
    assert tile_hashes(out) == before
    assert check(out) == []


def test_only_broken_files_of_several_instruments_change_nothing(
    sky: Path, built: tuple[BuildReport, Cube], tmp_path: Path
) -> None:
    before = state(built[1].path)
    for path in (sky / "unwise").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"none of the .* files is a frame"):
        build([tmp_path], built[1].path, workers=1)
    assert state(built[1].path) == before


def test_another_description_of_what_stands_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(str(resources.files("skyfuse") / "instruments" / "unwise.yaml")).read_text()
    registered: list[Reader] = []
    monkeypatch.setattr(registry, "_registered", registered)
    sky, out = tmp_path / "sky", tmp_path / "a.cube"
    make_unwise(sky, 150.0, 2.0)
    build([sky], out, workers=1)
    before = state(out)
    for change in (("means: inverse-variance", "means: sigma"), ("pixels: 16", "pixels: 20")):
        path = tmp_path / "unwise.yaml"
        path.write_text(text.replace(*change))
        registered[:] = [described(path)]
        with pytest.raises(StoreError, match=r"holds data of unwise as another description tells them"):
            build([sky], out, workers=1)
        with pytest.raises(StoreError, match="another description"):
            build([make_spectrum(tmp_path, 7, 10.0, 40.0)], out, workers=1)
        assert state(out) == before
    # A comment changes nothing.
    path.write_text(f"# The same.\n{text}")
    registered[:] = [described(path)]
    assert build([sky], out, workers=1).built == 0
