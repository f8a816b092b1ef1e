"""The mock on disk: the surveys' formats, its noise, its reproducibility and its refusals."""

from __future__ import annotations

import bz2
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import map_coordinates

from skyfuse.errors import UsageError
from skyfuse.mock import write_mock
from skyfuse.mock.images import DARK_VARIANCE, GAIN


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sky") / "mock"
    write_mock(out, fields=1, objects=40, expected=True)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def frames(mock: Path) -> list[Path]:
    return sorted((mock / "photoObj").rglob("frame-*.fits"))


def spectra(mock: Path) -> list[Path]:
    return sorted((mock / "spectro").rglob("spec-*.fits"))


def test_layout(mock: Path) -> None:
    assert [str(p.relative_to(mock)) for p in frames(mock)] == [
        f"photoObj/frames/301/9001/2/frame-{b}-009001-2-0011.fits" for b in "giruz"
    ]
    assert len(spectra(mock)) == 42
    assert spectra(mock)[0].relative_to(mock) == Path(
        "spectro/redux/26/spectra/lite/3001/spec-3001-53001-0001.fits"
    )
    assert not list(mock.rglob("*.part"))


def test_frame_is_like_a_real_one(mock: Path, real_data: Path) -> None:
    packed = (real_data / "sdss_frames" / "frame-r-004510-4-0030.fits.bz2").read_bytes()
    with fits.open(io.BytesIO(bz2.decompress(packed))) as real, fits.open(frames(mock)[2]) as ours:
        assert len(ours) == len(real) == 4
        for number in (0, 1):
            assert ours[number].data.shape == real[number].data.shape
            assert ours[number].data.dtype == real[number].data.dtype
        for column in ("ALLSKY", "XINTERP", "YINTERP"):
            assert ours[2].data[column].shape == real[2].data[column].shape
            assert ours[2].data[column].dtype == real[2].data[column].dtype
        np.testing.assert_array_equal(ours[2].data["XINTERP"], real[2].data["XINTERP"])
        np.testing.assert_array_equal(ours[2].data["YINTERP"], real[2].data["YINTERP"])
        for name in ours[3].columns.names:
            assert ours[3].columns[name].format == real[3].columns[name].format
        keys = "TAI EXPTIME RUN CAMCOL FRAME FILTER BUNIT RERUN NMGY CTYPE1 CRVAL1 CRPIX1 CD1_1 CD1_2 CD2_1"
        for key in keys.split():
            assert type(ours[0].header[key]) is type(real[0].header[key]), key
        assert ours[0].header["BUNIT"] == "nanomaggy"
        # The noise of empty sky is that of a real frame of the same band.
        spread = [np.nanpercentile(h[0].data, 50) - np.nanpercentile(h[0].data, 16) for h in (ours, real)]
        assert 0.8 < spread[0] / spread[1] < 1.3


def test_spectrum_is_like_a_real_one(mock: Path, real_data: Path) -> None:
    real_path = real_data / "sdss_spectra" / "objects" / "spec-0266-51630-0174.fits"
    with fits.open(real_path) as real, fits.open(spectra(mock)[0]) as ours:
        assert [h.name for h in ours] == ["PRIMARY", "COADD", "SPECOBJ", "SPZLINE"]
        assert ours[1].columns.names == real[1].columns.names
        assert ours[1].columns.formats == real[1].columns.formats
        for name in set(ours[2].columns.names) - {"OBJTYPE"}:
            assert ours[2].columns[name].format == real[2].columns[name].format, name
        for name in ours[3].columns.names:
            assert ours[3].columns[name].format == real[3].columns[name].format, name
        for key in (
            "PLATEID",
            "MJD",
            "FIBERID",
            "PLUG_RA",
            "PLUG_DEC",
            "COEFF0",
            "COEFF1",
            "BUNIT",
            "TAI",
            "EXPTIME",
        ):
            assert type(ours[0].header[key]) is type(real[0].header[key]), key
        assert ours[0].header["BUNIT"] == real[0].header["BUNIT"]


def test_every_spectrum_spans_the_common_grid(mock: Path) -> None:
    for path in spectra(mock):
        with fits.open(path) as hdus:
            bins = np.rint(hdus[1].data["loglam"].astype(float) * 1e4).astype(int)
            assert round(hdus[0].header["COEFF0"] * 1e4) == bins[0]
        assert bins[0] <= 35835
        assert bins[-1] >= 39578
        np.testing.assert_array_equal(np.diff(bins), 1)


@pytest.mark.parametrize("number", range(5))
def test_frame_noise_is_what_the_data_model_says(mock: Path, number: int) -> None:
    path = frames(mock)[number]
    truth = np.load(mock / "expected" / f"{path.stem}.npy").astype(float)
    with fits.open(path) as hdus:
        image, calib = hdus[0].data.astype(float), hdus[1].data.astype(float)
        band, table = "ugriz".index(hdus[0].header["FILTER"]), hdus[2].data[0]
        yy, xx = np.meshgrid(table["YINTERP"], table["XINTERP"], indexing="ij")
        sky = map_coordinates(table["ALLSKY"].astype(float), [yy, xx], order=1, mode="nearest")
    sigma = calib * np.sqrt((truth / calib + sky) / GAIN[2][band] + DARK_VARIANCE[2][band])
    pull = (image - truth) / sigma
    good = np.isfinite(pull)
    assert 0 < (~good).sum() < 2000
    n = good.sum()
    assert abs(pull[good].mean()) < 5 / np.sqrt(n)
    assert abs(pull[good].std() - 1) < 5 / np.sqrt(2 * n)
    bright = good & (truth > 3 * sigma)
    assert abs(pull[bright].std() - 1) < 5 / np.sqrt(2 * bright.sum())


def test_spectrum_noise_is_what_ivar_says(mock: Path) -> None:
    pulls = []
    for path in spectra(mock):
        truth = np.load(mock / "expected" / f"{path.stem}.npy")
        with fits.open(path) as hdus:
            data = hdus[1].data
            good = data["ivar"] > 0
            pulls.append((data["flux"] - truth)[good] * np.sqrt(data["ivar"][good]))
            assert np.isfinite(data["flux"]).all()
            assert (data["and_mask"][~good] != 0).all()
            assert (data["and_mask"] & ~data["or_mask"] == 0).all()
    pull = np.concatenate(pulls)
    assert abs(pull.mean()) < 5 / np.sqrt(len(pull))
    assert abs(pull.std() - 1) < 5 / np.sqrt(2 * len(pull))


def test_objects_lie_where_the_truth_says(mock: Path) -> None:
    truth = pd.read_parquet(mock / "truth.parquet")
    stars = truth[(truth["kind"] == "STAR") & ~truth["blend"] & ~truth["edge"] & (truth["mag_r"] < 17.5)]
    assert len(stars) > 0
    corners = []
    for path in frames(mock):
        expected = np.load(mock / "expected" / f"{path.stem}.npy").astype(float)
        with fits.open(path) as hdus:
            header = hdus[0].header
            # Real frames carry the old name too, which astropy warns about.
            header.rename_keyword("RADECSYS", "RADESYS")
            wcs = WCS(header)
        corners.append(wcs.all_pix2world([[0.0, 0.0]], 0)[0])
        for x, y in zip(*wcs.all_world2pix(stars["ra"], stars["dec"], 0), strict=True):
            j, i = round(float(y)), round(float(x))
            box = expected[j - 4 : j + 5, i - 4 : i + 5]
            grid = np.arange(-4, 5)
            assert abs((box.sum(axis=0) @ grid) / box.sum() + i - x) < 0.1
            assert abs((box.sum(axis=1) @ grid) / box.sum() + j - y) < 0.1
    # Bands are offset by a pixel or so, not by nothing and not by much.
    offset = np.ptp(np.array(corners), axis=0) * 3600 / 0.396
    assert ((offset > 0.1) & (offset < 12)).all()


def test_label_table(mock: Path) -> None:
    truth = pd.read_parquet(mock / "truth.parquet")
    with (
        fits.open(mock / "sfr" / "gal_info_dr7_v5_2.fit") as a,
        fits.open(mock / "sfr" / "gal_totsfr_dr7_v5_2.fits") as b,
    ):
        info, sfr = a[1].data, b[1].data
        assert len(info) == len(sfr)
        for i in range(len(info)):
            row = truth[truth["fiberid"] == info["FIBERID"][i]].iloc[0]
            assert row["kind"] == "GALAXY"
            assert info["RA"][i] == row["ra"]
            if row["listed"] == "value":
                assert sfr["AVG"][i] == np.float32(row["avg"])
                assert sfr["P84"][i] - sfr["AVG"][i] == pytest.approx(row["label_sigma"], abs=1e-5)
            elif row["listed"] == "sentinel":
                assert sfr["AVG"][i] == -99
            else:
                assert row["listed"] == "undefined"
                assert np.isnan(sfr["AVG"][i])
            assert sfr["FLAG"][i] == row["flag"]
    galaxies = truth[truth["kind"] == "GALAXY"]
    assert len(info) == (galaxies["listed"] != "absent").sum()
    assert (galaxies["attainable_sigma"] > galaxies["label_sigma"]).all()
    assert truth.loc[truth["kind"] != "GALAXY", "avg"].isna().all()
    assert set(json.loads((mock / "truth.json").read_text())["columns"]) == set(truth.columns)


def test_same_seed_same_bytes_and_going_on(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    first, second = tmp_path / "a", tmp_path / "b"
    summary = write_mock(first, fields=1, objects=6, progress=lambda *step: seen.append(step))
    write_mock(second, fields=1, objects=6, workers=2)
    whole = contents(first)
    assert whole == contents(second)
    assert [done for done, _, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert str(summary).splitlines()[1].split() == ["frames", "5"]
    # As if stopped half-way: what is missing comes back the same, what is there stays untouched.
    frames(second)[1].unlink()
    spectra(second)[2].unlink()
    (second / "truth.parquet").unlink()
    kept = spectra(second)[0].stat().st_mtime_ns
    write_mock(second, fields=1, objects=6)
    assert contents(second) == whole
    assert spectra(second)[0].stat().st_mtime_ns == kept
    with pytest.raises(UsageError, match="made otherwise"):
        write_mock(second, fields=1, objects=6, seed=8)


def test_other_seed_other_sky(tmp_path: Path, mock: Path) -> None:
    write_mock(tmp_path / "m", fields=1, objects=3, seed=8)
    assert frames(tmp_path / "m")[0].read_bytes() != frames(mock)[0].read_bytes()
    ours, theirs = pd.read_parquet(tmp_path / "m" / "truth.parquet"), pd.read_parquet(mock / "truth.parquet")
    assert not set(ours["ra"]) & set(theirs["ra"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"fields": 0}, "fields is 0"),
        ({"objects": 0}, "objects is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"objects": 2.5}, "objects is 2.5"),
        ({"fields": 1, "objects": 10**6}, "do not fit"),
        ({"templates": Path("nowhere")}, "no SDSS eigentemplates"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        write_mock(tmp_path / "m", **arguments)  # bad on purpose
    assert not (tmp_path / "m").exists()


def test_an_argument_that_does_not_exist_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no feilds, only fields, objects"):
        write_mock(tmp_path / "m", feilds=1)  # misspelt on purpose
    assert not (tmp_path / "m").exists()


def test_refuses_folders_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="not empty"):
        write_mock(tmp_path)
    with pytest.raises(UsageError, match="a file"):
        write_mock(tmp_path / "mine.txt")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "truth.json").write_text("{")
    with pytest.raises(UsageError, match="made otherwise"):
        write_mock(tmp_path / "other")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["mine.txt", "other"]


def test_templates(tmp_path: Path, real_data: Path) -> None:
    write_mock(
        tmp_path / "m", fields=1, objects=8, templates=real_data / "templates" / "idlspec2d", expected=True
    )
    write_mock(tmp_path / "n", fields=1, objects=8, expected=True)
    a, b = (pd.read_parquet(tmp_path / name / "truth.parquet") for name in "mn")
    pd.testing.assert_series_equal(a["log_sfr"], b["log_sfr"])
    # Other spectra of the same objects, as bright as before in r to what the fit of the templates leaves.
    np.testing.assert_allclose(a["mag_r"], b["mag_r"], atol=0.25)
    for one, other in zip(spectra(tmp_path / "m")[:8], spectra(tmp_path / "n")[:8], strict=True):
        light, schematic = (np.load(p.parents[6] / "expected" / f"{p.stem}.npy") for p in (one, other))
        assert (light > 0).all()
        assert np.abs(light / schematic - 1).max() > 0.02
