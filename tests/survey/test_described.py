"""Images of described instruments: astropy and NumPy, reading the same files by themselves, judge."""

import gzip
import os
import pickle
import shutil
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.cube.grid import zoom_wcs
from skyfuse.errors import FileError
from skyfuse.survey import registry
from skyfuse.survey.described import DescribedReader, described
from skyfuse.survey.reader import Options, Partner, Refused, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo

VEGA = {"W1": 2.699, "W2": 3.339, "W3": 5.174, "W4": 6.620}
W1_BITS = (0, 1, 4, 13, 14, 17, 18, 23, 25, 26, 27, 29)
W2_BITS = (2, 3, 5, 11, 12, 15, 16, 19, 20, 24, 28, 30)

SURVEY = """\
name: toy
title: A survey that nobody has flown
source: this test
recognise:
  header: {CAMERA: 'toycam.*'}
images:
  file: '(?P<night>n[0-9]+)_img'
weight:
  file: '{night}_wht'
  means: inverse-variance
bands: [g, i]
band: {keyword: FILTER}
pixel_arcsec: 0.5
unit: adu
id: '{night}-{key}-{band}'
"""


def toy(folder: Path, changes: str = "", *drop: str) -> DescribedReader:
    """A description with some of its top fields replaced."""
    blocks: dict[str, str] = {}
    for line in (SURVEY + textwrap.dedent(changes)).splitlines(keepends=True):
        if not line.startswith(" "):
            field = line.split(":")[0]
            blocks[field] = ""
        blocks[field] += line
    for name in drop:
        del blocks[name]
    path = folder / "toy.yaml"
    path.write_text("".join(blocks.values()), encoding="utf-8")
    return described(path)


def toy_header(**cards) -> fits.Header:
    header = fits.Header()
    header.update(CAMERA="toycam 3", FILTER="g", CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=5.0, CRPIX2=6.0)
    header.update(CRVAL1=150.0, CRVAL2=2.0, CD1_1=-1.4e-4, CD1_2=0.0, CD2_1=0.0, CD2_2=1.4e-4)
    header.update({key: value for key, value in cards.items() if value is not None})
    for key in [key for key, value in cards.items() if value is None]:
        header.remove(key, ignore_missing=True)
    return header


def write(path: Path, pixels: np.ndarray, **cards) -> Path:
    fits.PrimaryHDU(pixels, toy_header(**cards)).writeto(path)
    return path


def pixels(seed: int = 0, shape: tuple[int, int] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)


def only(reader: DescribedReader, path: Path) -> FrameInfo:
    (record,) = reader.records(SurveyFile(path))
    assert isinstance(record, FrameInfo), record
    return record


def frame_of(reader: DescribedReader, path: Path) -> Frame:
    info = only(reader, path)
    frame = reader.read(path, info.key, Options())
    assert frame.info == info
    return frame


def fault_of(reader: DescribedReader, path: Path) -> FileError:
    """What is wrong with a file that has one record, or with that record when it is read."""

    def work() -> None:
        (record,) = reader.records(SurveyFile(path))
        if not isinstance(record, Partner):
            reader.read(path, record.key, Options())

    with pytest.raises(FileError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value


def require_equal(frame: Frame, value: np.ndarray, sigma: np.ndarray, good: np.ndarray) -> None:
    assert frame.value.dtype == frame.sigma.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(frame.value), good)
    np.testing.assert_array_equal(np.isfinite(frame.sigma), good)
    np.testing.assert_allclose(frame.value[good], value[good], rtol=1e-5)
    np.testing.assert_allclose(frame.sigma[good], sigma[good], rtol=1e-5)


# Real files.


def plane(path: Path) -> tuple[np.ndarray, fits.Header, fits.Header]:
    """Pixels of the one image of a file, the header of its HDU, and that of the primary one."""
    with fits.open(path) as hdus:
        (hdu,) = [hdu for hdu in hdus if hdu.data is not None]
        return hdu.data.copy(), hdu.header, hdus[0].header


def independent(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str | None]:
    """Value, σ and validity of a real image from its files, and its unit where it is its own."""
    image, own, primary = plane(path)
    if "-img-m" in path.name:
        band = f"W{path.name.split('-w')[1][0]}"
        weight = plane(path.with_name(path.name.replace("-img-m.fits", "-invvar-m.fits.gz")))[0]
        mask = plane(path.with_name(path.name.split("-w")[0] + "-msk.fits.gz"))[0]
        bits = {"W1": W1_BITS, "W2": W2_BITS}.get(band, ())
        masked = (mask & sum(2**bit for bit in bits)) != 0
        # One nanomaggy of Vega's is fainter by the offset on the AB scale.
        scale, unit = 10 ** (-0.4 * VEGA[band]), None
    else:
        weight = plane(path.with_name(path.name.replace("_ooi_", "_oow_")))[0]
        masked = plane(path.with_name(path.name.replace("_ooi_", "_ood_")))[0] != 0
        scale, unit = 1.0, None
        if "c4d_" in path.name:
            zero = own.get("MAGZERO", primary.get("MAGZERO"))
            scale, unit = (10 ** (0.4 * (22.5 - zero)), None) if zero is not None else (1.0, "adu")
    good = np.isfinite(image) & np.isfinite(weight) & (weight > 0) & ~masked
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = scale / np.sqrt(weight.astype(np.float64))
    return scale * image.astype(np.float64), sigma, good, unit


def real_files(real_data: Path) -> list[Path]:
    return sorted((real_data / "imaging_other").rglob("*.fits*"))


def real_images(real_data: Path) -> list[Path]:
    return [path for path in real_files(real_data) if "_ooi_" in path.name or "-img-m" in path.name]


def test_values_and_sigmas_of_real_images_are_those_of_image_weight_and_mask(real_data):
    images = real_images(real_data)
    assert len(images) >= 21
    for path in images:
        file = SurveyFile(path)
        reader = registry.reader_of(file)
        (info,) = reader.records(file)
        frame = reader.read(path, info.key, Options())
        assert frame.info == info
        *arrays, unit = independent(path)
        require_equal(frame, *arrays)
        assert info.unit == unit
        assert info.shape == arrays[0].shape
        # The index lets anyone repeat it.
        image = plane(path)[0]
        np.testing.assert_allclose(frame.value, info.scale * image, rtol=1e-6)


def test_every_real_file_is_a_frame_or_a_partner_or_known_beside_them(real_data):
    found = {"frame": 0, "partner": 0, "companion": 0}
    for path in real_files(real_data):
        file = SurveyFile(path)
        reader = registry.reader_of(file)
        if "-n-" in path.name or ".mod." in path.name:
            assert fault_of(reader, path).reason == "companion"
            found["companion"] += 1
            continue
        (record,) = reader.records(file)
        if isinstance(record, Partner):
            (of,) = reader.records(SurveyFile(Path(record.of)))
            assert str(path) in of.partners or "-msk" in path.name
            found["partner"] += 1
        else:
            assert isinstance(record, FrameInfo)
            found["frame"] += 1
    assert sum(found.values()) == len(real_files(real_data))
    assert found["frame"] == len(real_images(real_data))


def test_wcs_of_real_images_is_astropys_at_every_zoom(real_data):
    for path in real_images(real_data):
        file = SurveyFile(path)
        (info,) = registry.reader_of(file).records(file)
        _, own, primary = plane(path)
        merged = primary.copy()
        merged.update(own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = WCS(merged)
        ny, nx = info.shape
        for zoom in range(5):
            size = 2**zoom
            x, y = (
                np.array([-0.5, (nx - 1) / 2, nx - 0.5, 3.0]),
                np.array([-0.5, (ny - 1) / 2, 2.0, ny - 0.5]),
            )
            ours = zoom_wcs(WCS(info.wcs), zoom)
            sky = ours.all_pix2world((x + 0.5) / size - 0.5, (y + 0.5) / size - 0.5, 0)
            back = whole.all_world2pix(*sky, 0)
            assert max(np.abs(back[0] - x).max(), np.abs(back[1] - y).max()) < 1e-3
            forth = ours.all_world2pix(*whole.all_pix2world(x, y, 0), 0)
            assert np.abs((forth[0] + 0.5) * size - 0.5 - x).max() < 1e-3
            part = zoom_wcs(WCS(info.wcs), 0, (2, 3))
            np.testing.assert_allclose(
                whole.all_world2pix(*part.all_pix2world(x, y, 0), 0), [x + 2, y + 3], atol=1e-3
            )


def test_time_is_the_middle_of_the_exposure(real_data):
    (path,) = [path for path in real_images(real_data) if "c4d_170916" in path.name]
    header = fits.getheader(path)
    middle = Time(header["MJD-OBS"] + header["EXPTIME"] / 2 / 86400, format="mjd", scale="utc").tai.mjd
    np.testing.assert_allclose(only(described("decam-cp"), path).mjd, middle, atol=1e-8)
    (path,) = [path for path in real_images(real_data) if "w1-img" in path.name]
    assert only(described("unwise"), path).mjd is None


def test_what_a_header_says_against_an_image_is_told(real_data):
    for path in real_images(real_data):
        if "c4d_" in path.name:
            failed = fits.getheader(path)["WCSCAL"] != "Successful"
            assert only(described("decam-cp"), path).caution == ("WCSCAL = Failed" if failed else "")


def test_masked_and_unweighted_real_pixels_are_invalid(real_data, tmp_path):
    (path,) = [path for path in real_images(real_data) if "c4d_170916" in path.name]
    for name in (path.name, path.name.replace("_ooi_", "_oow_"), path.name.replace("_ooi_", "_ood_")):
        shutil.copyfile(path.with_name(name), tmp_path / name)
    image = tmp_path / path.name
    with fits.open(tmp_path / path.name.replace("_ooi_", "_ood_"), mode="update") as hdus:
        hdus[1].data[3, 4], hdus[1].data[5, 6] = 7, 2
    with fits.open(tmp_path / path.name.replace("_ooi_", "_oow_"), mode="update") as hdus:
        hdus[1].data[10, 11], hdus[1].data[12, 13], hdus[1].data[14, 15] = 0, -1, np.nan
    frame = frame_of(described("decam-cp"), image)
    require_equal(frame, *independent(image)[:3])
    assert np.isnan(frame.value).sum() == 5


def test_masks_of_unwise_speak_by_band(real_data, tmp_path):
    folder = next(path for path in real_images(real_data) if "w1-img" in path.name).parent
    for path in folder.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    mask = tmp_path / "unwise-3460p121-msk.fits.gz"
    with fits.open(mask) as hdus:
        hdus[0].data[1, 1], hdus[0].data[2, 2], hdus[0].data[3, 3] = 2**4, 2**5, 2**4 + 2**30
        hdus.writeto(mask, overwrite=True)
    for band, bad in (("w1", 2), ("w2", 2), ("w3", 0)):
        path = tmp_path / f"unwise-3460p121-{band}-img-m.fits"
        frame = frame_of(described("unwise"), path)
        require_equal(frame, *independent(path)[:3])
        assert np.isnan(frame.value).sum() == bad
    mask.unlink()
    assert only(described("unwise"), tmp_path / "unwise-3460p121-w4-img-m.fits").band == "W4"
    with pytest.raises(FileError) as caught:
        described("unwise").records(SurveyFile(tmp_path / "unwise-3460p121-w1-img-m.fits"))
    assert caught.value.reason == "no-mask"
    assert "unwise-3460p121-msk" in str(caught.value)


# One survey that is not shipped, by its description alone.


def test_a_survey_of_one_file_of_yaml(tmp_path):
    (tmp_path / "kestrel.yaml").write_text(
        """\
name: kestrel
title: An invented survey of SCI and ERR
source: nowhere
recognise:
  extensions: [SCI, ERR]
  header: {INSTRUME: KESTREL}
images: {extension: SCI}
weight: {extension: ERR, means: sigma}
bands: [blue, red]
band: {keyword: ARM, names: {'B[0-9]': blue, 'R[0-9]': red}}
time: {start: DATE-BEG, end: DATE-END, scale: tai}
pixel_arcsec: 0.8
unit: mJy
zero_point: {magnitude: {blue: 16.4, red: 16.1}}
cutout: {arcsec: 25}
zooms: 4
id: '{OBSID}-{band}'
"""
    )
    value = pixels(1)
    error = np.abs(pixels(2)) / 50
    value[4, 4], error[5, 5], error[6, 6] = np.nan, 0, np.nan
    primary = fits.PrimaryHDU()
    primary.header.update(INSTRUME="KESTREL", ARM="R7", OBSID=12345678901234567, TELESCOP="Kestrel 2 m")
    primary.header.update({"DATE-BEG": "2025-03-04T05:00:00", "DATE-END": "2025-03-04T05:10:00"})
    wcs = toy_header(CD1_1=-2e-4, CD2_2=2.2e-4)
    fits.HDUList(
        [primary, fits.ImageHDU(value, wcs, name="SCI"), fits.ImageHDU(error, wcs, name="ERR")]
    ).writeto(tmp_path / "night1.fits")

    reader = described(tmp_path / "kestrel.yaml")
    file = SurveyFile(tmp_path / "night1.fits")
    assert registry.reader_of(file, [reader]) is reader
    with pytest.raises(FileError, match="no reader knows"):
        registry.reader_of(file)
    frame = frame_of(reader, file.path)
    scale = 10 ** (0.4 * (22.5 - 16.1))
    require_equal(frame, scale * value, scale * error, np.isfinite(value * error) & (error > 0))
    info = frame.info
    assert (info.frame_id, info.band, info.key) == ("kestrel-12345678901234567-red", "red", "SCI")
    np.testing.assert_allclose(info.mjd, Time("2025-03-04T05:05:00", scale="tai").mjd, atol=1e-8)
    (instrument,) = reader.instruments
    assert instrument.imaging.bands == ("blue", "red")
    assert (instrument.imaging.size, instrument.imaging.zooms, instrument.imaging.unit) == (
        32,
        4,
        "nanomaggy",
    )
    with pickle_copy(reader) as copy:
        require_equal(frame_of(copy, file.path), frame.value, frame.sigma, np.isfinite(frame.value))


class pickle_copy:  # noqa: N801 - reads as a statement
    def __init__(self, reader: DescribedReader) -> None:
        self.copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes

    def __enter__(self) -> DescribedReader:
        return self.copy

    def __exit__(self, *_: object) -> None:
        return None


# What weights, masks and zero points mean.

NOISE = np.abs(pixels(7)) / 20
MEANS = {
    "inverse-variance": (NOISE**-2, {}),
    "variance": (NOISE**2, {}),
    "sigma": (NOISE, {}),
    "rms": (NOISE, {}),
}


@pytest.mark.parametrize("means", MEANS)
def test_weights_mean_what_the_description_says(means, tmp_path):
    image, weight = pixels(), MEANS[means][0].astype(np.float32)
    weight[2, 3], weight[4, 5], weight[6, 7], weight[8, 9] = 0, -1, np.nan, np.inf
    write(tmp_path / "n1_img.fits", image)
    write(tmp_path / "n1_wht.fits", weight)
    reader = toy(tmp_path, f"weight: {{file: '{{night}}_wht', means: {means}}}\n")
    frame = frame_of(reader, tmp_path / "n1_img.fits")
    good = np.isfinite(weight) & (weight > 0)
    require_equal(frame, image, NOISE, good)
    assert ("objects' own" in frame.info.caution) == (means == "rms")
    np.testing.assert_allclose(frame.sky_sigma, np.median(NOISE[good]), rtol=1e-3)


@pytest.mark.parametrize("means", ["relative", "measured"])
def test_scatter_of_neighbours_sets_an_unknown_scale(means, tmp_path):
    rng = np.random.default_rng(5)
    shape = (300, 400)
    # Noise that doubles to the right, on a sloping sky, with stars.
    true = np.broadcast_to(np.linspace(3, 6, shape[1]) if means == "relative" else 4.0, shape)
    image = rng.normal(0, true) + np.linspace(50, 300, shape[0])[:, None]
    image[rng.integers(0, shape[0], 300), rng.integers(0, shape[1], 300)] += 5000
    write(tmp_path / "n1_img.fits", image.astype(np.float32))
    if means == "relative":
        write(tmp_path / "n1_wht.fits", (17 / true**2).astype(np.float32))
        reader = toy(tmp_path, "weight: {file: '{night}_wht', means: relative}\n")
    else:
        reader = toy(tmp_path, "weight: {means: measured}\n")
    frame = frame_of(reader, tmp_path / "n1_img.fits")
    np.testing.assert_allclose(frame.sigma, true, rtol=0.02)
    assert "objects' own" in frame.info.caution
    write(tmp_path / "n2_img.fits", np.full(shape, 7, np.float32))
    write(tmp_path / "n2_wht.fits", np.ones(shape, np.float32))
    with pytest.raises(FileError) as caught:
        frame_of(reader, tmp_path / "n2_img.fits")
    assert caught.value.reason == "no-noise"


@pytest.mark.parametrize("sky", ["included", "subtracted"])
def test_gain_adds_the_noise_of_objects(sky, tmp_path):
    level = 1000.0 if sky == "included" else 0.0
    image = pixels() - 100
    image[10:14, 10:14] += 4000
    image += level
    write(tmp_path / "n1_img.fits", image, EGAIN=2.5)
    write(tmp_path / "n1_wht.fits", np.full(image.shape, 25, np.float32))
    changes = f"weight: {{file: '{{night}}_wht', means: variance, sky_only: true}}\ngain: EGAIN\nsky: {sky}\n"
    frame = frame_of(toy(tmp_path, changes), tmp_path / "n1_img.fits")
    above = image.astype(np.float64) - (np.median(image) if level else 0)
    require_equal(frame, image, np.sqrt(25 + np.maximum(above, 0) / 2.5), np.ones(image.shape, bool))
    assert frame.info.caution == ""


MASKS = {
    "": lambda mask, band: mask != 0,
    ", values: [3, 9]": lambda mask, band: (mask == 3) | (mask == 9),
    ", bits: [0, 3]": lambda mask, band: (mask & 9) != 0,
    ", bits: {g: [1], i: [30]}": lambda mask, band: (mask & {"g": 2, "i": 2**30}[band]) != 0,
}


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.uint16, np.int64])
@pytest.mark.parametrize("bad", MASKS)
def test_masks_mean_what_the_description_says(bad, kind, tmp_path):
    image = pixels()
    mask = np.random.default_rng(3).integers(0, 12, image.shape).astype(kind)
    if np.iinfo(kind).bits > 16:
        mask[5] |= 2**30
    write(tmp_path / "n1_wht.fits", np.ones(image.shape, np.float32))
    fits.PrimaryHDU(mask, toy_header()).writeto(tmp_path / "n1_flg.fits")
    reader = toy(tmp_path, f"mask: {{file: '{{night}}_flg'{bad}}}\nsaturation: 108\n")
    for band in ("g", "i"):
        path = write(tmp_path / "n1_img.fits", image, FILTER=band)
        good = ~MASKS[bad](mask.astype(np.int64), band) & (image < 108)
        require_equal(frame_of(reader, path), image, np.ones(image.shape), good)
        path.unlink()


ZERO = {
    "{magnitude: 27.5}": (10**-2, None),
    "{magnitude: {g: 25.0, i: 30.0}}": (10**-1, None),
    "{magnitude: ZP}": (10 ** (-0.4 * 3.7), None),
    "{magnitude: ZP, per_second: EXPTIME}": (10 ** (-0.4 * 3.7) / 50, None),
    "{magnitude: 22.5, vega: {g: -0.1, i: 0.4}}": (10**0.04, None),
    "{magnitude: NOWHERE}": (1.0, "adu"),
}


@pytest.mark.parametrize("point", ZERO)
def test_zero_points_lead_to_nanomaggies(point, tmp_path):
    image = pixels()
    path = write(tmp_path / "n1_img.fits", image, ZP=26.2, EXPTIME=50.0)
    write(tmp_path / "n1_wht.fits", np.full(image.shape, 0.25, np.float32))
    frame = frame_of(toy(tmp_path, f"zero_point: {point}\n"), path)
    scale, unit = ZERO[point]
    np.testing.assert_allclose(frame.info.scale, scale, rtol=1e-9)
    assert frame.info.unit == unit
    require_equal(frame, scale * image, np.full(image.shape, 2 * scale), np.ones(image.shape, bool))


TIMES = {
    "{start: MJD, exposure: EXPTIME}": Time(58000.5 + 50 / 86400, format="mjd", scale="utc").tai.mjd,
    "{start: MJD, scale: tai}": 58000.5,
    "{start: DATE, exposure: EXPTIME}": Time("2017-09-04T12:00:50", scale="utc").tai.mjd,
    "{start: MJD, end: MJDEND, scale: tai}": 58000.75,
    # Leap seconds of later years are not known: the 37 of 2017 stay.
    "{start: LATE}": 95000 + 37 / 86400,
    "{start: NOWHERE, exposure: EXPTIME}": None,
}


@pytest.mark.parametrize("time", TIMES)
def test_times_are_those_of_the_middle(time, tmp_path):
    cards = {"MJD": 58000.5, "MJDEND": 58001.0, "DATE": "2017-09-04T12:00:00", "EXPTIME": 100.0}
    path = write(tmp_path / "n1_img.fits", pixels(), LATE=95000.0, **cards)
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    mjd = only(toy(tmp_path, f"time: {time}\n"), path).mjd
    assert mjd == (None if TIMES[time] is None else pytest.approx(TIMES[time], abs=1e-8))


# Files of many CCDs, packed.


def write_mosaic(
    folder: Path, count: int, *, packed: bool, skip: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Images, weights and masks of some CCDs; the weight of CCD 1 stands first in its file."""
    images = {f"S{number}": pixels(number, (40, 50)) for number in range(1, count + 1)}
    kinds = {
        "img": images,
        "wht": {key: np.abs(array) / 500 for key, array in reversed(images.items())},
        "flg": {key: (array > 112).astype(np.int32) for key, array in images.items()},
    }
    for kind, planes in kinds.items():
        primary = fits.PrimaryHDU()
        primary.header.update(CAMERA="toycam", FILTER="i", EXTNAME="all")
        hdus = [primary]
        for key, array in planes.items():
            if f"{kind}:{key}" in skip:
                continue
            header = toy_header(CRVAL1=150 + 0.1 * int(key[1:]), CAMERA=None, FILTER=None)
            if packed:
                hdus.append(
                    fits.CompImageHDU(array, header, name=key, compression_type="GZIP_1", quantize_level=0)
                )
            else:
                hdus.append(fits.ImageHDU(array, header, name=key))
        fits.HDUList(hdus).writeto(folder / f"n1_{kind}.fits{'.fz' if packed else ''}")
    return images


@pytest.mark.parametrize("packed", [False, True])
def test_each_ccd_of_a_file_is_a_frame(packed, tmp_path, monkeypatch):
    images = write_mosaic(tmp_path, 4, packed=packed, skip=("wht:S2",))
    reader = toy(tmp_path, "mask: {file: '{night}_flg'}\n")
    path = next(tmp_path.glob("n1_img*"))
    infos = {record.key: record for record in reader.records(SurveyFile(path))}
    assert list(infos) == ["S1", "S2", "S3", "S4"]
    assert len({info.frame_id for info in infos.values()}) == 4
    opened = []
    real = DescribedReader.read.__globals__["fits"].read_on_demand
    monkeypatch.setattr(
        DescribedReader.read.__globals__["fits"],
        "read_on_demand",
        lambda file: opened.append(file) or real(file),
    )
    for key, image in images.items():
        if key == "S2":
            with pytest.raises(FileError) as caught:
                reader.read(path, key, Options())
            assert caught.value.reason == "no-weight"
            assert "S2" in str(caught.value)
            continue
        frame = reader.read(path, key, Options())
        assert frame.info == infos[key]
        require_equal(frame, image, 1 / np.sqrt(np.abs(image) / 500), image <= 112)
    # Image, weight and mask once each, not once a CCD.
    assert len(opened) == 3


def test_a_file_that_changes_between_two_reads_is_opened_again(tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels(1))
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    reader = toy(tmp_path)
    first = frame_of(reader, path)
    before = path.stat()
    path.unlink()
    write(path, pixels(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = frame_of(reader, path)
    np.testing.assert_array_equal(second.value, pixels(2))
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("victim", ["n1_img.fits", "n1_wht.fits"])
def test_a_file_that_is_cut_short_while_it_is_read_is_refused(victim, tmp_path, monkeypatch):
    path = write(tmp_path / "n1_img.fits", pixels())
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    reader = toy(tmp_path)
    info = only(reader, path)
    module = DescribedReader.read.__globals__["fits"]
    real = module.image

    def cut_before(content, hdus, number, file):
        # Opened and checked it was whole.
        if file.name == victim:
            os.truncate(file, 100)
        return real(content, hdus, number, file)

    monkeypatch.setattr(module, "image", cut_before)
    with pytest.raises(FileError, match="while it is read") as caught:
        reader.read(path, info.key, Options())
    assert caught.value.reason == "truncated"
    assert str(caught.value).startswith(str(tmp_path / victim))


def test_content_is_that_of_all_files(tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels())
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    reader = toy(tmp_path)
    one = frame_of(reader, path).sha256
    (tmp_path / "n1_wht.fits").unlink()
    write(tmp_path / "n1_wht.fits", np.full((24, 31), 2, np.float32))
    assert frame_of(toy(tmp_path), path).sha256 != one


def test_compressed_partners_serve(tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels())
    write(tmp_path / "w.fits", np.full((24, 31), 4, np.float32))
    (tmp_path / "n1_wht.fits.gz").write_bytes(gzip.compress((tmp_path / "w.fits").read_bytes()))
    frame = frame_of(toy(tmp_path), path)
    assert frame.info.partners == (str(tmp_path / "n1_wht.fits.gz"),)
    np.testing.assert_allclose(frame.sigma, 0.5)


# Faults.


def test_partners_that_are_missing_alone_or_unlike_cost_one_line_each(tmp_path):
    reader = toy(tmp_path, "mask: {file: '{night}_flg'}\n")

    def fault(name: str) -> tuple[str, str]:
        error = fault_of(reader, tmp_path / name)
        return error.reason, str(error)

    ones = np.ones((24, 31), np.float32)
    write(tmp_path / "n1_img.fits", pixels())
    reason, message = fault("n1_img.fits")
    assert reason == "no-weight"
    assert "n1_wht.fits" in message
    write(tmp_path / "n1_wht.fits", ones[:, 1:])
    reason, message = fault("n1_img.fits")
    assert reason == "no-mask"
    assert "n1_flg.fits" in message
    write(tmp_path / "n1_flg.fits", ones)
    reason, message = fault("n1_img.fits")
    assert reason == "wrong-shape"
    assert "30 × 24" in message
    assert "n1_wht.fits" in message
    (tmp_path / "n1_wht.fits").unlink()
    write(tmp_path / "n1_wht.fits", ones)
    # A mask of floats has no bits.
    assert fault("n1_img.fits")[0] == "wrong-hdus"
    assert isinstance(reader.records(SurveyFile(tmp_path / "n1_wht.fits"))[0], Partner)
    (tmp_path / "n1_img.fits").unlink()
    assert fault("n1_wht.fits")[0] == fault("n1_flg.fits")[0] == "no-image"
    write(tmp_path / "n1_sky.fits", ones)
    assert fault("n1_sky.fits")[0] == "unknown-kind"
    whole = (tmp_path / "n1_wht.fits").read_bytes()
    write(tmp_path / "n1_img.fits", pixels())
    (tmp_path / "n1_flg.fits").unlink()
    fits.PrimaryHDU(ones.astype(np.int16), toy_header()).writeto(tmp_path / "n1_flg.fits")
    (tmp_path / "n1_wht.fits").write_bytes(whole[:4000])
    reason, message = fault("n1_img.fits")
    assert reason == "truncated"
    assert "n1_wht.fits" in message
    (tmp_path / "n1_wht.fits").write_bytes(b"")
    assert fault("n1_img.fits")[0] == "empty"


@pytest.mark.parametrize(
    ("image", "weight"),
    [
        ({}, {"EXTNAME": "WEIGHT"}),
        ({"EXTNAME": "A", "EXTVER": 3}, {"EXTNAME": "A"}),
        ({"EXTNAME": "A"}, {"EXTNAME": "A", "EXTVER": 2}),
    ],
)
def test_the_only_weight_of_a_file_is_that_of_its_only_image(image, weight, tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels(), **image)
    write(tmp_path / "n1_wht.fits", np.full((24, 31), 4, np.float32), **weight)
    np.testing.assert_allclose(frame_of(toy(tmp_path), path).sigma, 0.5)


def test_the_weight_of_another_ccd_is_not_taken(tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels(), EXTNAME="N1")
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32), EXTNAME="N2")
    assert fault_of(toy(tmp_path), path).reason == "no-weight"


@pytest.mark.parametrize(("key", "reason"), [("ZP", "damaged"), ("CRVAL1", "bad-wcs"), ("AIRMASS", None)])
def test_a_keyword_that_counts_must_not_be_there_twice(key, reason, tmp_path):
    path = write(tmp_path / "n1_img.fits", pixels(), ZP=25.0, AIRMASS=1.5)
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    content = path.read_bytes()
    end = content.index(b"END" + b" " * 77)
    card = f"{key:<8}= {24.0:>20}".ljust(80).encode()
    path.write_bytes(content[:end] + card + content[end : end + 80] + content[end + 160 :])
    reader = toy(tmp_path, "zero_point: {magnitude: ZP}\n")
    if reason is None:
        assert frame_of(reader, path).info.scale == pytest.approx(0.1)
    else:
        assert fault_of(reader, path).reason == reason


HEADERS = {
    "no-band": ({"FILTER": "zz"}, "unknown-band"),
    "no-filter": ({"FILTER": None}, "unknown-band"),
    "no-wcs": ({"CTYPE1": None}, "bad-wcs"),
    "another-scale": ({"CD1_1": -1e-2, "CD2_2": 1e-2}, "bad-wcs"),
    "no-number": ({"ZP": "high"}, "bad-values"),
    "absurd-zero-point": ({"ZP": 1e9}, "bad-values"),
    "no-exposure": ({"EXPTIME": None}, "missing-keyword"),
    "negative-exposure": ({"EXPTIME": -1.0}, "bad-values"),
    "no-time": ({"MJD": "yesterday"}, "bad-values"),
    "no-date": ({"MJD": "2017-99-99T00:00:00"}, "bad-values"),
    "another-age": ({"MJD": 5.0}, "bad-values"),
    "three-axes": ({"cube": True}, "wrong-hdus"),
    "slash": ({"OBSID": "a/../../b"}, "bad-values"),
    "no-id": ({"OBSID": None}, "missing-keyword"),
    "empty-id": ({"OBSID": " "}, "bad-values"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_say_no_frame_are_refused(name, tmp_path):
    reader = toy(
        tmp_path,
        "zero_point: {magnitude: ZP, per_second: EXPTIME}\ntime: {start: MJD}\nid: '{OBSID}-'\n",
    )
    cards, reason = HEADERS[name]
    cards = {"ZP": 25.0, "EXPTIME": 10.0, "MJD": 58000.0, "OBSID": "x"} | cards
    image = np.zeros((3, 24, 31), np.float32) if cards.pop("cube", False) else pixels()
    write(tmp_path / "n1_img.fits", image, **cards)
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    with pytest.raises(FileError) as caught:
        reader.records(SurveyFile(tmp_path / "n1_img.fits"))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_one_bad_ccd_costs_no_other(tmp_path):
    write_mosaic(tmp_path, 3, packed=False)
    with fits.open(tmp_path / "n1_img.fits", mode="update") as hdus:
        hdus["S2"].header["CTYPE1"] = "GLON-TAN"
        hdus["S3"].header["FILTER"] = "nonsense"
    records = toy(tmp_path).records(SurveyFile(tmp_path / "n1_img.fits"))
    assert [type(record) for record in records] == [FrameInfo, Refused, Refused]
    assert [record.reason for record in records[1:]] == ["bad-wcs", "unknown-band"]
    assert [record.key for record in records] == ["S1", "S2", "S3"]


def test_images_of_one_name_are_told_apart_by_version(tmp_path):
    headers = [toy_header(CRVAL1=150.0 + n) for n in range(2)]
    made = [fits.PrimaryHDU()]
    for number, header in enumerate(headers, 1):
        made.append(fits.ImageHDU(pixels(number), header, name="SCI", ver=number))
        made.append(fits.ImageHDU(np.full((24, 31), number, np.float32), header, name="ERR", ver=number))
    fits.HDUList(made).writeto(tmp_path / "n1_img.fits")
    reader = toy(tmp_path, "weight: {extension: ERR, means: sigma}\n")
    infos = reader.records(SurveyFile(tmp_path / "n1_img.fits"))
    assert [info.key for info in infos] == ["SCI,1", "SCI,2"]
    for number, info in enumerate(infos, 1):
        frame = reader.read(tmp_path / "n1_img.fits", info.key, Options())
        require_equal(frame, pixels(number), np.full((24, 31), number), np.ones((24, 31), bool))


@pytest.mark.parametrize(
    "name", ["n1\n_img.fits", "..n1_img.fits", "n1_img.fits.exe", "n1_imgé.fits", "n_img"]
)
def test_names_that_are_not_the_surveys_are_answered_in_one_line(name, tmp_path):
    write(tmp_path / "i.fits", pixels()).rename(tmp_path / name)
    assert fault_of(toy(tmp_path), tmp_path / name).reason == "unknown-kind"


@pytest.mark.parametrize("name", ["n1_img", "n1_img.FITS", "n1_img.fit"])
def test_endings_are_not_what_counts(name, tmp_path):
    write(tmp_path / "n1_wht.fits", np.ones((24, 31), np.float32))
    write(tmp_path / "i.fits", pixels()).rename(tmp_path / name)
    assert only(toy(tmp_path), tmp_path / name).frame_id == "toy-n1-g"


def test_a_group_that_names_another_folder_leads_nowhere(tmp_path):
    # The name of a file holds no slash; a link in the folder is a file as any.
    reader = toy(tmp_path, "images: {file: '(?P<night>.*)_img'}\n")
    write(tmp_path / ".._img.fits", pixels())
    assert fault_of(reader, tmp_path / ".._img.fits").reason == "no-weight"


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_ids_are_names_whatever_a_header_holds(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("ids")
    write(folder / "n1_img.fits", pixels(), OBSID=text)
    write(folder / "n1_wht.fits", np.ones((24, 31), np.float32))
    reader = toy(folder, "id: '{OBSID}'\n")
    allowed = set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.+:,-")
    told = text.strip().strip("-").replace("--", "-")
    if told and set(told) <= allowed:
        assert only(reader, folder / "n1_img.fits").frame_id == f"toy-{told}"
    else:
        assert fault_of(reader, folder / "n1_img.fits").reason == "bad-values"


# The other shipped descriptions, on files written as theirs are.


def test_coadds_of_the_legacy_surveys(tmp_path):
    image, ivar = pixels(), np.full((24, 31), 4, np.float32)
    ivar[0, 0] = 0
    bits = np.zeros((24, 31), np.int16)
    bits[1, 1], bits[2, 2], bits[3, 3] = 2**3, 2**2, 1
    cards = {
        "LEGPIPEV": "DR10.0.1",
        "BRICK": "1500p020",
        "CD1_1": -7.28e-5,
        "CD2_2": 7.28e-5,
        "MAGZERO": 22.5,
    }
    cards |= {"BUNIT": "nanomaggy", "MJD_MEAN": 58528.5, "FILTER": "r DECam SDSS c0002 6415.0 1480.0"}
    for name, array in (("image-r", image), ("invvar-r", ivar), ("maskbits", bits), ("model-r", image)):
        hdu = fits.CompImageHDU(array, toy_header(**cards), compression_type="GZIP_1", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / f"legacysurvey-1500p020-{name}.fits.fz")
    path = tmp_path / "legacysurvey-1500p020-image-r.fits.fz"
    reader = registry.reader_of(SurveyFile(path))
    assert reader.name == "legacy-coadd-frames"
    frame = frame_of(reader, path)
    require_equal(frame, image, np.full((24, 31), 0.5), (ivar > 0) & (bits & (2**3 + 2**6) == 0))
    assert frame.info.frame_id == "legacy-coadd-1500p020-r"
    assert frame.info.mjd == 58528.5
    assert isinstance(only_record(reader, "legacysurvey-1500p020-maskbits.fits.fz", tmp_path), Partner)
    with pytest.raises(FileError) as caught:
        only_record(reader, "legacysurvey-1500p020-model-r.fits.fz", tmp_path)
    assert caught.value.reason == "companion"


def only_record(reader: DescribedReader, name: str, folder: Path) -> object:
    (record,) = reader.records(SurveyFile(folder / name))
    return record


def test_generic_images(tmp_path):
    image, error, flags = pixels(), np.abs(pixels(3)) / 40, np.zeros((24, 31), np.int32)
    flags[7, 7] = 4
    header = toy_header(BUNIT="nanomaggy", FILTER="H", CAMERA=None)
    planes = {"SCI": image, "ERR": error, "DQ": flags}
    made = [fits.ImageHDU(array, header, name=name) for name, array in planes.items()]
    path = tmp_path / "field-1.fits"
    fits.HDUList([fits.PrimaryHDU(), *made]).writeto(path)
    reader = registry.reader_of(SurveyFile(path))
    frame = frame_of(reader, path)
    require_equal(frame, image, error, flags == 0)
    assert frame.info.instrument == "generic"
    assert frame.info.band == "H"
    assert frame.info.unit is None
