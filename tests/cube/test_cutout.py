"""Cutouts: where they begin, what they hold, checked pixel by pixel against plain slicing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.cube.build import build
from skyfuse.cube.cutout import cut_frame, cut_into, first_pixels, frame_geometry, place
from skyfuse.cube.query import Cube
from skyfuse.sphere import chord, unit_vectors
from tests.cube.sky import SHAPE, frame_wcs
from tests.survey.files import frame_header, write_frame


def cards(field: int, band: str) -> str:
    return frame_wcs(field, band).to_header_string()


@settings(max_examples=50, deadline=None)
@given(x=st.floats(-200, 3000), size=st.integers(1, 129))
def test_the_object_lies_within_half_a_pixel_of_the_centre(x: float, size: int) -> None:
    first = int(first_pixels(np.array([x]), size)[0])
    assert abs(x - first - (size - 1) / 2) <= 0.5 + 1e-9


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    corner=st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    size=st.integers(1, 12),
)
def test_cutouts_equal_slices_of_a_padded_frame(
    shape: tuple[int, int], corner: tuple[int, int], size: int
) -> None:
    value = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    padded = np.pad(value, 24, constant_values=np.nan)
    expected = padded[corner[1] + 24 :, corner[0] + 24 :][:size, :size]
    x0, y0 = (np.array([i], np.int64) for i in corner)
    cut, sigma = cut_frame(value, value + 1, x0, y0, size)
    np.testing.assert_array_equal(cut[0], expected)
    np.testing.assert_array_equal(sigma[0], expected + 1)


def test_cut_into_fills_only_its_rows() -> None:
    out = np.full((3, 2, 2), -1, np.float32)
    source = np.arange(12, dtype=np.float32).reshape(3, 4)
    cut_into(source, np.array([1]), np.array([0]), np.array([2]), out)
    np.testing.assert_array_equal(out[2], [[1, 2], [5, 6]])
    assert (out[:2] == -1).all()


def test_place_agrees_with_astropy_and_tells_whole_cutouts_apart() -> None:
    wcs = frame_wcs(0, "r")
    x = np.array([-0.4, 31.6, 40.2, SHAPE[1] - 0.6, -0.6, 65.0])
    y = np.array([50.3, 50.3, 30.9, 50.3, 50.3, SHAPE[0] + 5.0])
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    on, inside, x0, y0 = place(cards(0, "r"), SHAPE, ra, dec, 64)
    np.testing.assert_array_equal(on, [True, True, True, True, False, False])
    np.testing.assert_array_equal(inside, [False, True, False, False, False, False])
    np.testing.assert_array_equal(x0[:4], np.ceil(x[:4] - 32))
    np.testing.assert_array_equal(y0[:4], np.ceil(y[:4] - 32))


def test_geometry_gives_the_outer_corners() -> None:
    corners, radius = frame_geometry(cards(0, "r"), SHAPE)
    x, y = frame_wcs(0, "r").wcs_world2pix(corners[:, 0], corners[:, 1], 0)
    ny, nx = SHAPE
    np.testing.assert_allclose(x, [-0.5, nx - 0.5, nx - 0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(y, [-0.5, -0.5, ny - 0.5, ny - 0.5], atol=1e-6)
    scale = np.sqrt(abs(np.linalg.det(frame_wcs(0, "r").wcs.cd)))
    assert radius == pytest.approx(np.hypot(nx, ny) / 2 * scale, rel=1e-3)


def test_chord_and_unit_vectors_measure_angles() -> None:
    one, other = unit_vectors([10.0, 10.0], [80.0, 81.0])
    assert np.linalg.norm(one - other) == pytest.approx(float(chord(1.0)), rel=1e-12)
    assert chord(180.0) == pytest.approx(2.0)


def test_catalogue_stars_stand_where_the_cutouts_of_real_frames_say(real_data) -> None:
    """Centroids of bright isolated stars against the place that the WCS predicts, native pixels."""
    from skyfuse.survey.sdss.frames import read_frame

    frame = read_frame(real_data / "sdss_frames" / "frame-r-004510-4-0030.fits.bz2")
    with fits.open(real_data / "sdss_frames" / "calibObj-004510-4-star.fits.gz") as hdus:
        table = hdus[1].data
        table = table[table["FIELD"] == 30]
        flux = table["PSFFLUX"][:, 2]
        ra, dec = np.array(table["RA"], float), np.array(table["DEC"], float)
    good = np.flatnonzero((flux > 30) & (flux < 1000))
    apart = np.linalg.norm(unit_vectors(ra[good], dec[good])[:, None] - unit_vectors(ra, dec)[None], axis=2)
    good = good[(apart < chord(10 / 3600)).sum(axis=1) == 1]
    _, inside, x0, y0 = place(frame.info.wcs, frame.info.shape, ra[good], dec[good], 16)
    assert inside.sum() > 10
    value, _ = cut_frame(frame.value, frame.sigma, x0[inside], y0[inside], 16)
    x, y = WCS(frame.info.wcs).wcs_world2pix(ra[good][inside], dec[good][inside], 0)
    grid = np.arange(16.0)
    window = np.hypot(grid[:, None] - 7.5, grid - 7.5) < 6
    light = np.where(window, np.nan_to_num(value), 0)
    total = light.sum(axis=(1, 2))
    dx = (light.sum(axis=1) @ grid) / total + x0[inside] - x
    dy = (light.sum(axis=2) @ grid) / total + y0[inside] - y
    assert np.median(np.hypot(dx, dy)) < 0.15


@pytest.mark.parametrize("distortion", ["SIP", "TPV"])
def test_a_star_on_a_distorted_frame_is_cut_out_where_it_is(tmp_path: Path, distortion: str) -> None:
    """By the header alone the star would be some 6 pixels off."""
    if distortion == "SIP":
        terms: dict[str, object] = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
        terms |= {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 5e-4, "B_0_2": -4e-4, "B_1_1": 2e-4}
    else:
        terms = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.06, "PV1_2": 0.01, "PV2_1": 0.95}
    image = np.zeros((200, 220))
    image[150, 130] = 1.0
    (tmp_path / "in").mkdir()
    write_frame(tmp_path / "in" / "f.fits", image, **terms)
    wcs = WCS(frame_header(**terms, RADECSYS=None))
    star = SkyCoord(*wcs.all_pix2world(130, 150, 0), unit="deg")
    cube = Cube.open(build([tmp_path / "in"], tmp_path / "c.cube", workers=1).out)
    for zoom in range(3):
        cut = cube.cutout(star, size=64, zoom=zoom, bands="r")
        y, x = np.unravel_index(np.nanargmax(cut.data[0]), cut.data[0].shape)
        there = cut.meta["wcs"]["r"].all_world2pix(star.ra.deg, star.dec.deg, 0)
        # The pixel that holds the star: at zoom 0 its very centre.
        np.testing.assert_allclose(there, (x, y), atol=0.5 if zoom else 1e-6)
        assert abs(x - (64 / 2**zoom - 1) / 2) <= 1
    plain = WCS(frame_header(RADECSYS=None))
    assert np.hypot(*(np.array(plain.wcs_world2pix(star.ra.deg, star.dec.deg, 0)) - (130, 150))) > 4
