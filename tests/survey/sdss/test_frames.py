"""Reading frames: calibration against an independent calculation, and every kind of broken file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from skyfuse.cube import cutout
from skyfuse.cube.grid import zoom_wcs
from skyfuse.errors import FileError
from skyfuse.survey.fits import Scratch
from skyfuse.survey.records import FrameInfo
from skyfuse.survey.sdss.frames import dark_variance, gain, read_frame
from tests.survey.files import recognise

from ..files import frame_hdus, frame_header, write_frame


def reference_sigma(image, calib, sky, x, y, electrons_per_dn, variance):
    at = np.meshgrid(np.clip(y, 0, len(sky) - 1), np.clip(x, 0, sky.shape[1] - 1), indexing="ij")
    dn = image / calib + map_coordinates(sky.astype(float), at, order=1, mode="nearest")
    return calib * np.sqrt(dn / electrons_per_dn + variance)


@given(
    ny=st.integers(1, 40),
    nx=st.integers(1, 40),
    sky_shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_value_and_sigma_follow_the_data_model(tmp_path_factory, ny, nx, sky_shape, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(0.1, 0.05, (ny, nx)).astype(np.float32)
    calib = rng.uniform(0.004, 0.006, nx).astype(np.float32)
    sky = rng.uniform(80, 120, sky_shape).astype(np.float32)
    x = rng.uniform(-1, sky_shape[1] + 1, nx).astype(np.float32)
    y = rng.uniform(-1, sky_shape[0] + 1, ny).astype(np.float32)
    path = tmp_path_factory.mktemp("frame") / "frame.fits"
    frame = read_frame(write_frame(path, image, calib=calib, sky=sky, x=x, y=y))
    np.testing.assert_array_equal(frame.value, image)
    expected = reference_sigma(image.astype(float), calib.astype(float), sky, x, y, 4.76, 1.3225)
    np.testing.assert_allclose(frame.sigma, expected, rtol=2e-6)


def test_invalid_pixels_are_nan_in_both(tmp_path):
    image = np.full((6, 8), 0.1, np.float32)
    image[0, :3] = np.nan, np.inf, -np.inf
    image[1, 0] = -10  # more below the sky than the noise model has electrons for
    calib = np.full(8, 0.005, np.float32)
    calib[5:] = 0, np.nan, -0.005
    frame = read_frame(write_frame(tmp_path / "f.fits", image, calib=calib))
    bad = np.zeros((6, 8), bool)
    bad[0, :3] = bad[1, 0] = bad[:, 5:] = True
    np.testing.assert_array_equal(np.isnan(frame.value), bad)
    np.testing.assert_array_equal(np.isnan(frame.sigma), bad)
    assert frame.sky_sigma == pytest.approx(0.005 * np.sqrt(100 / 4.76 + 1.3225), rel=1e-6)


@pytest.mark.parametrize(
    ("run", "camcol", "band", "expected_gain", "expected_variance"),
    [
        (4510, 4, "z", 4.775, 12.6025),
        (1499, 4, "z", 4.775, 9.61),
        (1500, 4, "z", 4.775, 12.6025),
        (1099, 2, "u", 1.595, 12.6025),
        (1100, 2, "u", 1.825, 12.6025),
        (1499, 2, "i", 6.565, 5.76),
        (1500, 2, "i", 6.565, 6.25),
        (94, 6, "g", 4.035, 1.8225),
        (2820, 3, "i", 4.86, 4.6225),
    ],
)
def test_gain_and_dark_variance(run, camcol, band, expected_gain, expected_variance):
    assert gain(run, camcol, band) == expected_gain
    assert dark_variance(run, camcol, band) == expected_variance


def test_tables_equal_the_published_ones(real_data):
    for name, ours in (("ccd_gain.tsv", gain), ("ccd_dark_variance.tsv", dark_variance)):
        lines = (real_data / "sdss_frames" / name).read_text().splitlines()[1:]
        for camcol, runs, *values in (line.split("\t") for line in lines):
            edge = int(runs[1:])
            run = edge - 1 if runs[0] == "<" else edge + 1
            assert [ours(run, int(camcol), band) for band in "ugriz"] == [float(v) for v in values]


def test_info_is_the_same_from_the_header_alone(tmp_path):
    path = write_frame(tmp_path / "anything.bin", np.ones((9, 12)))
    frame, info = read_frame(path), recognise(path)
    assert info == frame.info
    assert isinstance(info, FrameInfo)
    assert (info.frame_id, info.band, info.shape) == ("sdss-4510-4-30-r", "r", (9, 12))
    # Row 4 of 9 is read 4 × 26,322 µs (C_OBS) after row 0, and has been exposed for 53.907456 s by then.
    assert info.mjd == pytest.approx((4586229007.28 + 4 * 0.026322 - 53.907456 / 2) / 86400, abs=1e-9)
    wcs = WCS(info.wcs)
    assert wcs.pixel_shape == (12, 9)
    centre = wcs.pixel_to_world(5.5, 4.0)
    assert (info.ra, info.dec) == pytest.approx((centre.ra.deg, centre.dec.deg), abs=1e-10)
    # Pixel (5, 4), counted from 1, is the reference point.
    at = wcs.pixel_to_world(4, 3)
    assert (at.ra.deg, at.dec.deg) == pytest.approx((200, 36), abs=1e-12)


@pytest.mark.parametrize(("compress", "name"), [(bz2.compress, "f.fits.bz2"), (gzip.compress, "f.fits.gz")])
def test_compressed_frames_read_the_same(tmp_path, compress, name):
    plain = write_frame(tmp_path / "f.fits", np.arange(48.0).reshape(6, 8) / 100)
    packed = tmp_path / name
    packed.write_bytes(compress(plain.read_bytes()))
    a, b = read_frame(plain), read_frame(packed)
    np.testing.assert_array_equal(a.value, b.value)
    np.testing.assert_array_equal(a.sigma, b.sigma)
    assert recognise(packed) == a.info == b.info
    assert b.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert a.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()


def test_frames_that_share_their_memory_read_the_same(tmp_path):
    rng = np.random.default_rng(3)
    scratch = Scratch()
    for number, shape in enumerate([(20, 31), (7, 9), (33, 40)]):
        path = write_frame(tmp_path / f"{number}.fits", rng.normal(0, 0.1, shape))
        shared, own = read_frame(path, scratch), read_frame(path)
        np.testing.assert_array_equal(shared.value, own.value)
        np.testing.assert_array_equal(shared.sigma, own.sigma)
        assert (shared.sha256, shared.sky_sigma) == (own.sha256, own.sky_sigma)


NO_CD = dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2"))
SIP = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 3, "B_ORDER": 2}
SIP |= {"A_2_0": 3e-4, "A_1_1": -2e-4, "A_0_3": 4e-6, "B_0_2": -3e-4, "B_2_0": 1e-4}
TPV = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_0": 2e-5, "PV1_1": 1.01, "PV1_2": 0.002, "PV1_4": 0.9}
TPV |= {"PV2_0": -1e-5, "PV2_1": 0.99, "PV2_2": -0.003, "PV2_4": 0.4, "PV2_7": 3.0}
WHOLE_WCS = {
    "plain": {},
    "cd-and-cdelt": {"CDELT1": 5.0, "CDELT2": 7.0},
    "pc": NO_CD
    | {"PC1_1": 0.1, "PC1_2": 0.99, "PC2_1": 0.99, "PC2_2": -0.1, "CDELT1": 1.1e-4, "CDELT2": 1.2e-4},
    "cdelt": NO_CD | {"CDELT1": -1.1e-4, "CDELT2": 1.1e-4},
    "crota": NO_CD | {"CDELT1": -1.1e-4, "CDELT2": 1.1e-4, "CROTA2": 30.0},
    "lonpole": {"LONPOLE": 170.0},
    "latpole": {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL2": 0.0, "LONPOLE": 90.0, "LATPOLE": 45.0},
    "sin": {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "PV2_1": 0.1, "PV2_2": -0.2},
    "zpn": {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 40.0},
    "tpv": TPV,
    "sip": SIP,
    "arcsec": NO_CD
    | {"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CRVAL1": 720000.0, "CRVAL2": 129600.0}
    | {"CDELT1": -0.396, "CDELT2": 0.396},
}


@pytest.mark.parametrize("name", WHOLE_WCS)
@pytest.mark.parametrize("zoom", [0, 1, 3])
def test_every_term_of_a_wcs_is_kept_at_every_zoom(tmp_path, name, zoom):
    header = frame_header(**WHOLE_WCS[name], RADECSYS=None)
    expected = WCS(header)
    path = write_frame(tmp_path / "f.fits", np.ones((90, 120)), **WHOLE_WCS[name])
    info = recognise(path)
    assert info == read_frame(path).info
    x, y = np.array([0.0, 119.0, 0.0, 119.0, 59.5, 31.7]), np.array([0.0, 0.0, 89.0, 89.0, 44.5, 8.2])
    ra, dec = expected.all_pix2world(x, y, 0)
    assert (info.ra, info.dec) == pytest.approx((ra[4], dec[4]), abs=1e-10)
    kept = cutout.frame_wcs(info.wcs)
    np.testing.assert_allclose(cutout.pixel_to_sky(kept, x, y), (ra, dec), rtol=0, atol=1e-11)
    np.testing.assert_allclose(cutout.sky_to_pixel(kept, ra, dec), (x, y), rtol=0, atol=1e-6)
    # The centre of a block of native pixels, counted from the corner of a part, by the native WCS alone.
    corner, cells = (16, -24), np.array([0.0, 3.0, 10.0])
    native_x, native_y = ((cells + 0.5) * 2**zoom - 0.5 + first for first in corner)
    coarse = zoom_wcs(kept, zoom, corner)
    there = expected.all_pix2world(native_x, native_y, 0)
    # 1e-10 degrees are 1e-6 of a pixel.
    np.testing.assert_allclose(coarse.all_pix2world(cells, cells, 0), there, rtol=0, atol=1e-10)
    # And through a FITS header, as exports write it.
    written = WCS(coarse.to_header(relax=coarse.sip is not None))
    np.testing.assert_allclose(written.all_pix2world(cells, cells, 0), there, rtol=0, atol=1e-10)


def test_distortion_moves_what_it_should(tmp_path):
    """The cases above would agree if no one applied the terms."""
    plain = recognise(write_frame(tmp_path / "p.fits", np.ones((90, 120))))
    for name in ("tpv", "sip", "lonpole", "arcsec"):
        info = recognise(write_frame(tmp_path / f"{name}.fits", np.ones((90, 120)), **WHOLE_WCS[name]))
        x, y = cutout.sky_to_pixel(cutout.frame_wcs(info.wcs), [plain.ra], [plain.dec])
        assert np.hypot(x - 59.5, y - 44.5) > 0.3, name


BAD_WCS = {
    "sip-without-suffix": SIP | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"},
    "suffix-without-sip": {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
    "sip-that-folds": SIP | {"A_2_0": -0.02},
    "pv-beside-tan": {"PV1_1": 1.01, "PV2_1": 0.99},
    "lookup-table": {"CPDIS1": "Lookup"},
    "longpole": {"LONGPOLE": 170.0},
    "cd-and-pc": {"PC1_1": 1.0},
    "tnx": {"CTYPE1": "RA---TNX", "CTYPE2": "DEC--TNX"},
    "unknown": {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
    "galactic": {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "swapped": {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 36.0, "CRVAL2": 200.0},
    "fk4": {"RADECSYS": "FK4", "EQUINOX": 1950.0},
    "fk5-of-1975": {"RADECSYS": "FK5", "EQUINOX": 1975.0},
    "old-equinox": {"RADECSYS": None, "EQUINOX": 1950.0},
    "three-axes": {"WCSAXES": 3},
    "no-scale": NO_CD,
    "half-a-matrix": {"CD1_2": None},
    "wide-pixels": {"CD1_2": 1.1e-2, "CD2_1": 1.1e-2},
    "unit": {"CUNIT1": "pixel"},
    "text": {"CTYPE1": "RA---TAN'", "CTYPE2": "DEC--TAN"},
}


@pytest.mark.parametrize("name", BAD_WCS)
def test_what_a_wcs_could_only_say_in_part_is_refused(tmp_path, name):
    path = write_frame(tmp_path / "f.fits", np.ones((90, 120)), **BAD_WCS[name])
    for read in (recognise, read_frame):
        with pytest.raises(FileError) as caught:
            read(path)
        assert caught.value.reason == "bad-wcs"
        assert "\n" not in str(caught.value)


def test_frames_of_other_forms_read_the_same(tmp_path):
    rng = np.random.default_rng(8)
    image = rng.normal(0.1, 0.05, (60, 80)).astype(np.float32)
    image[3, 4] = np.nan
    hdus = frame_hdus(image, calib=rng.uniform(0.004, 0.006, 80))
    plain = tmp_path / "f.fits"
    hdus.writeto(plain)
    expected = read_frame(plain)

    def packed(**options) -> fits.HDUList:
        images = [
            fits.CompImageHDU(hdu.data.reshape(-1) if hdu.data.ndim == 1 else hdu.data, hdu.header, **options)
            for hdu in hdus[:2]
        ]
        return fits.HDUList([fits.PrimaryHDU(), *images, *hdus[2:]])

    lossless = tmp_path / "lossless.fits.fz"
    packed(compression_type="GZIP_2", quantize_level=0).writeto(lossless, checksum=True)
    doubles = tmp_path / "doubles.fits"
    wide = [
        kind(hdu.data.astype(np.float64), hdu.header)
        for kind, hdu in zip((fits.PrimaryHDU, fits.ImageHDU), hdus, strict=False)
    ]
    fits.HDUList([*wide, *hdus[2:]]).writeto(doubles)
    zipped = tmp_path / "zipped.fz"
    zipped.write_bytes(gzip.compress(lossless.read_bytes()))
    for path in (lossless, doubles, zipped):
        frame = read_frame(path)
        assert recognise(path) == frame.info == expected.info
        np.testing.assert_array_equal(frame.value, expected.value)
        np.testing.assert_array_equal(frame.sigma, expected.sigma)
    # Quantised as fpack does by default: the values are those that astropy reads.
    lossy = tmp_path / "lossy.fits.fz"
    packed(compression_type="RICE_1", quantize_level=4, quantize_method=1).writeto(lossy)
    frame = read_frame(lossy)
    assert recognise(lossy) == frame.info == expected.info
    np.testing.assert_array_equal(frame.value, fits.getdata(lossy, 1))
    np.testing.assert_allclose(frame.value, image, atol=0.02)
    assert (frame.value != image)[np.isfinite(image)].any()


def test_damaged_packed_frames_are_told(tmp_path):
    hdus = frame_hdus(np.random.default_rng(2).normal(0.1, 0.05, (60, 80)).astype(np.float32))
    images = [fits.CompImageHDU(hdu.data, hdu.header) for hdu in hdus[:2]]
    path = tmp_path / "f.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), *images, *hdus[2:]]).writeto(path)
    content = path.read_bytes()
    at = content.index(b"ZNAXIS1 ")
    for changed, reasons in (
        (content[:-2880], {"truncated"}),
        (content.replace(b"'RICE_1  '", b"'NICE_1  '", 1), {"damaged"}),
        (content[:at] + b"ZNAXIS1 =           2000000000".ljust(80) + content[at + 80 :], {"wrong-hdus"}),
    ):
        path.write_bytes(changed)
        with pytest.raises(FileError) as caught:
            read_frame(path)
        assert caught.value.reason in reasons | {"too-large"}
    rng = np.random.default_rng(5)
    start = 5 * 2880
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(start, len(content) // 2, 3):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(FileError):
            read_frame(path)


@pytest.mark.parametrize(
    ("cards", "words"),
    [({"BITPIX": 16}, "fpC"), ({"BUNIT": "DN"}, "calibrated frames")],
)
def test_frames_of_other_kinds_are_named(tmp_path, cards, words):
    hdus = frame_hdus(np.ones((6, 8)))
    if "BITPIX" in cards:
        hdus[0] = fits.PrimaryHDU(np.ones((6, 8), np.int16), hdus[0].header)
    else:
        hdus[0].header.update(cards)
    hdus.writeto(tmp_path / "f.fits", output_verify="ignore")
    with pytest.raises(FileError, match=words):
        recognise(tmp_path / "f.fits")


@pytest.mark.parametrize("shape", [(1, 2049), (2049, 1)])
def test_frames_larger_than_a_ccd_are_refused(tmp_path, shape):
    path = write_frame(tmp_path / "f.fits", np.ones(shape))
    with pytest.raises(FileError, match="no place on a CCD"):
        recognise(path)


BROKEN_HEADERS = {
    "band": ({"FILTER": "y"}, "unknown-band"),
    "two-bands": ({"FILTER": "ug"}, "unknown-band"),
    "no-band": ({"FILTER": None}, "unknown-band"),
    "unit": ({"BUNIT": "adu"}, "wrong-unit"),
    "no-unit": ({"BUNIT": None}, "wrong-unit"),
    "nan-wcs": ({"CD1_1": "NaN"}, "bad-wcs"),
    "no-wcs": ({"CRVAL1": None}, "bad-wcs"),
    "singular-wcs": ({"CD1_1": 0.0, "CD1_2": 0.0}, "bad-wcs"),
    "no-celestial-wcs": ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, "bad-wcs"),
    "half-celestial-wcs": ({"CTYPE1": "RA---TAN", "CTYPE2": "LINEAR"}, "bad-wcs"),
    "latitude": ({"CRVAL2": 3600.0}, "bad-wcs"),
    "galactic-frame": ({"RADECSYS": "GAPPT"}, "bad-wcs"),
    "camcol": ({"CAMCOL": 7}, "bad-values"),
    "huge-run": ({"RUN": 2**64}, "bad-values"),
    "negative-field": ({"FRAME": -5}, "bad-values"),
    "date": ({"TAI": 1e294}, "bad-values"),
    "negative-date": ({"TAI": -4586229007.28}, "bad-values"),
    "exposure": ({"EXPTIME": "-53.9"}, "bad-values"),
    "text-run": ({"RUN": "first"}, "bad-values"),
    "half-run": ({"RUN": 1.5}, "bad-values"),
    "no-time": ({"TAI": None}, "missing-keyword"),
    "time": ({"TAI": "Inf"}, "bad-values"),
    "scaled": ({"BSCALE": 2.0}, "wrong-hdus"),
}


@pytest.mark.parametrize("fault", BROKEN_HEADERS)
def test_broken_headers_are_told_by_the_header_alone(tmp_path, fault):
    cards, reason = BROKEN_HEADERS[fault]
    path = write_frame(tmp_path / "f.fits", np.ones((6, 8)))
    content = bytearray(path.read_bytes())
    keys = [bytes(content[at : at + 8]).decode().strip() for at in range(0, 2880, 80)]
    for key, value in cards.items():
        # What is not there yet takes the place of EXTEND.
        at = 80 * keys.index(key if key in keys else "EXTEND")
        content[at : at + 80] = b" " * 80 if value is None else fits.Card(key, value).image.encode()
    path.write_bytes(content)
    for read in (recognise, read_frame):
        with pytest.raises(FileError) as caught:
            read(path)
        assert caught.value.reason == reason
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def _truncated(hdus: fits.HDUList, path: Path) -> None:
    hdus.writeto(path)
    path.write_bytes(path.read_bytes()[:-4000])


def _without(index: int):
    def write(hdus: fits.HDUList, path: Path) -> None:
        fits.HDUList(hdus[:index]).writeto(path)

    return write


def _short_vector(hdus: fits.HDUList, path: Path) -> None:
    hdus[1] = fits.ImageHDU(np.ones(3, np.float32))
    hdus.writeto(path)


def _sky_as_image(hdus: fits.HDUList, path: Path) -> None:
    hdus[2] = fits.ImageHDU(np.ones((3, 3), np.float32))
    hdus.writeto(path)


def _nan_sky_positions(hdus: fits.HDUList, path: Path) -> None:
    hdus[2].data["XINTERP"][0, 2] = np.nan
    hdus.writeto(path)


def _of_another_frame(hdus: fits.HDUList, path: Path) -> None:
    hdus[3].data["CAMCOL"] = 5
    hdus.writeto(path)


def _all_nan(hdus: fits.HDUList, path: Path) -> None:
    hdus[0].data[:] = np.nan
    hdus.writeto(path)


def _integers(hdus: fits.HDUList, path: Path) -> None:
    hdus[0].data = hdus[0].data.astype(np.int16)
    hdus.writeto(path)


def _cube(hdus: fits.HDUList, path: Path) -> None:
    hdus[0].data = hdus[0].data[None]
    hdus.writeto(path)


def _cut_bz2(hdus: fits.HDUList, path: Path) -> None:
    hdus.writeto(path)
    path.write_bytes(bz2.compress(path.read_bytes())[:-20])


def _cut_gzip(hdus: fits.HDUList, path: Path) -> None:
    hdus.writeto(path)
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncated, "truncated"),
        (_without(1), "wrong-hdus"),
        (_without(2), "wrong-hdus"),
        (_short_vector, "wrong-hdus"),
        (_sky_as_image, "wrong-hdus"),
        (_nan_sky_positions, "bad-values"),
        (_of_another_frame, "bad-values"),
        (_all_nan, "no-good-pixels"),
        (_integers, "wrong-hdus"),
        (_cube, "wrong-hdus"),
        (_cut_bz2, "truncated"),
        (_cut_gzip, "truncated"),
    ],
)
def test_broken_files_are_told(tmp_path, spoil, reason):
    path = tmp_path / "f.fits"
    spoil(frame_hdus(np.ones((6, 8))), path)
    with pytest.raises(FileError) as caught:
        read_frame(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"plain text, and more of it" * 200, "not-fits"),
        (b"short", "not-fits"),
        (b"BZh9 not really", "truncated"),
        (b"\x1f\x8b not really", "truncated"),
        (b"SIMPLE  =                    T".ljust(80) * 36, "truncated"),
        (fits.PrimaryHDU().header.tostring().encode(), "unknown-kind"),
    ],
)
def test_what_is_no_frame_is_told(tmp_path, content, reason):
    path = tmp_path / "f.fits"
    path.write_bytes(content)
    for read in (recognise, read_frame):
        with pytest.raises(FileError) as caught:
            read(path)
        assert caught.value.reason == reason


@pytest.mark.parametrize("read", [recognise, read_frame])
def test_missing_files_and_folders_are_unreadable(tmp_path, read):
    for path in (tmp_path / "absent.fits", tmp_path):
        with pytest.raises(FileError) as caught:
            read(path)
        assert caught.value.reason == "unreadable"


def test_all_bands_of_a_real_field_carry_its_number(real_data):
    files = sorted((real_data / "sdss_frames").glob("frame-*.fits.bz2"))
    assert len(files) == 10
    for file in files:
        _, band, run, camcol, field = file.name.removesuffix(".fits.bz2").split("-")
        info = recognise(file)
        assert (info.run, info.camcol, info.field, info.band) == (int(run), int(camcol), int(field), band)
