"""The WCS that frames carry is the whole one of their headers: astropy's own reading of the header judges."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.cube.grid import zoom_wcs
from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.wcs import celestial

HERE = Path("image.fits")
SHAPE = (201, 301)
TAN = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": -3575.6,
    "CRPIX2": -1572.7,
    "CRVAL1": 244.66,
    "CRVAL2": 12.34,
    "CD1_1": -2.2e-7,
    "CD1_2": 7.3e-5,
    "CD2_1": -7.3e-5,
    "CD2_2": -2.1e-7,
}
SCALED = {key: value for key, value in TAN.items() if not key.startswith("CD")} | {
    "CDELT1": -7.3e-5,
    "CDELT2": 7.3e-5,
}
TPV = TAN | {
    "CTYPE1": "RA---TPV",
    "CTYPE2": "DEC--TPV",
    **{
        f"PV1_{k}": v
        for k, v in {0: -3e-4, 1: 1.0057, 2: -2e-4, 4: 7e-5, 6: 2e-4, 7: -4e-3, 10: 4e-4}.items()
    },
    **{f"PV2_{k}": v for k, v in {0: 4e-4, 1: 1.0046, 2: 9e-5, 5: -8e-4, 8: -1.5e-3, 9: -4e-3}.items()},
}
SIP = TAN | {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "CRPIX1": 150.0,
    "CRPIX2": 100.0,
    **{"A_ORDER": 3, "A_2_0": 3e-5, "A_1_1": -2e-5, "A_0_3": 4e-9},
    **{"B_ORDER": 2, "B_0_2": -1.5e-5, "B_1_1": 2.5e-5},
}
WHOLE = {
    "tan": TAN,
    "tpv": TPV,
    "sip": SIP,
    "scales": SCALED,
    "rotated-scales": SCALED | {"CROTA2": 31.0},
    "pc": SCALED | {"PC1_1": 0.8, "PC1_2": 0.6, "PC2_1": -0.6, "PC2_2": 0.8},
    "lonpole": TAN | {"LONPOLE": 130.0, "LATPOLE": 10.0},
    "zpn": SCALED
    | {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 42.0, "LONPOLE": 170.0},
    "fk5-beside-icrs": TAN | {"RADESYS": "FK5", "RADECSYS": "ICRS", "EQUINOX": 2000.0},
    "fk5-by-its-equinox": TAN | {"EQUINOX": 2000.0},
}


def header_of(cards: dict[str, object]) -> fits.Header:
    made = astropy_fits.Header()
    made.update(cards)
    return fits.Header(made.tostring().encode())


def sky(wcs: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return wcs.all_pix2world(x, y, 0)


def largest_miss(carried: WCS, whole: WCS, zoom: int) -> float:
    """Native pixels between where both put the same points of the image, there and back."""
    ny, nx = (-(-size // 2**zoom) for size in SHAPE)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, nx - 0.5, 12), np.linspace(-0.5, ny - 0.5, 12)))
    native = (x + 0.5) * 2**zoom - 0.5, (y + 0.5) * 2**zoom - 0.5
    ours, theirs = sky(carried, x, y), sky(whole, *native)
    back = whole.all_world2pix(*ours, 0)
    forth = carried.all_world2pix(*theirs, 0)
    there = max(np.abs(back[0] - native[0]).max(), np.abs(back[1] - native[1]).max())
    return max(there, 2**zoom * max(np.abs(forth[0] - x).max(), np.abs(forth[1] - y).max()))


def whole_wcs(cards: dict[str, object]) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(astropy_fits.Header(cards))


@pytest.mark.parametrize("name", WHOLE)
def test_cards_lead_where_the_whole_header_leads_at_every_zoom(name):
    place = celestial(header_of(WHOLE[name]), SHAPE, HERE, 0.263)
    whole = whole_wcs(WHOLE[name])
    for zoom in range(5):
        assert largest_miss(zoom_wcs(WCS(place.cards), zoom), whole, zoom) < 1e-3
    centre = sky(whole, (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
    np.testing.assert_allclose([place.ra, place.dec], np.array(centre).ravel(), atol=1e-9)
    np.testing.assert_allclose(place.pixel_arcsec, 0.263, rtol=0.01)


@pytest.mark.parametrize("name", ["tan", "tpv", "sip"])
def test_distortions_are_not_a_formality(name):
    plain = whole_wcs({key: value for key, value in WHOLE[name].items() if key[:2] not in ("PV", "A_", "B_")})
    assert (largest_miss(plain, whole_wcs(WHOLE[name]), 0) > 0.1) == (name != "tan")


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    terms=st.lists(st.floats(-3e-3, 3e-3), min_size=8, max_size=8),
    at=st.tuples(st.floats(0, 359), st.floats(-80, 80)),
    corner=st.tuples(st.integers(0, 250), st.integers(0, 150)),
    zoom=st.integers(0, 3),
)
def test_cutouts_of_distorted_frames_lie_where_the_frame_says(terms, at, corner, zoom):
    keys = ["PV1_0", "PV1_2", "PV1_4", "PV1_7", "PV2_0", "PV2_2", "PV2_5", "PV2_9"]
    cards = TPV | dict(zip(keys, terms, strict=True)) | dict(zip(("CRVAL1", "CRVAL2"), at, strict=True))
    place = celestial(header_of(cards), SHAPE, HERE, 0.263)
    part = zoom_wcs(WCS(place.cards), zoom, corner)
    x, y = np.array([0.0, 7.0, 3.5]), np.array([0.0, 2.0, 7.0])
    native = (x + 0.5) * 2**zoom - 0.5 + corner[0], (y + 0.5) * 2**zoom - 0.5 + corner[1]
    back = whole_wcs(cards).all_world2pix(*sky(part, x, y), 0)
    assert np.abs(np.array(back) - native).max() < 1e-3


REFUSED = {
    "tnx": {"CTYPE1": "RA---TNX", "CTYPE2": "DEC--TNX"},
    "scamp-tan-with-pv": {"PV1_1": 1.0, "PV1_4": 1e-3},
    "sip-without-its-name": {"A_ORDER": 2, "A_2_0": 1e-5},
    "sip-without-coefficients": {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
    "lookup-table": {"CPDIS1": "LOOKUP"},
    "matrix-of-both-kinds": {"PC1_1": 1.0},
    "half-a-matrix": {"CD2_2": None},
    "three-axes": {"WCSAXES": 3},
    "galactic": {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "fk4": {"RADESYS": "FK4", "EQUINOX": 1950.0},
    "fk4-beside-icrs": {"RADESYS": "ICRS", "RADECSYS": "FK4"},
    "another-camera": {"CD1_2": 7.3e-3, "CD2_1": -7.3e-3},
    "no-number": {"CRVAL1": "west"},
    "off-the-sky": {"CRVAL2": 123.0},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused(name):
    cards = {key: value for key, value in (TAN | REFUSED[name]).items() if value is not None}
    with pytest.raises(FileError) as caught:
        celestial(header_of(cards), SHAPE, HERE, 0.263)
    assert caught.value.reason == "bad-wcs"
    assert "\n" not in str(caught.value)
