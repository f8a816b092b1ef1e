"""Angles against astropy's; regions and what users write for them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import UsageError
from skyfuse.sphere import Box, Cone, chord, position, unit_vectors

RNG = np.random.default_rng(11)
RA, DEC = RNG.uniform(0, 360, 500), np.degrees(np.arcsin(RNG.uniform(-1, 1, 500)))
SKY = SkyCoord(RA, DEC, unit="deg")


def test_unit_vectors_are_those_of_astropy() -> None:
    np.testing.assert_allclose(unit_vectors(RA, DEC), SKY.cartesian.xyz.value.T, atol=1e-15)
    assert unit_vectors(10.0, 5.0).shape == (3,)


def test_chords_measure_angles() -> None:
    apart = np.linalg.norm(unit_vectors(RA[1:], DEC[1:]) - unit_vectors(RA[0], DEC[0]), axis=1)
    np.testing.assert_allclose(apart, chord(SKY[1:].separation(SKY[0]).deg), atol=1e-14)
    assert chord(180.0) == pytest.approx(2.0)


@settings(max_examples=50)
@given(ra=st.floats(0, 360), dec=st.floats(-90, 90), radius=st.floats(0, 200))
def test_a_cone_holds_what_is_near(ra: float, dec: float, radius: float) -> None:
    away = SKY.separation(SkyCoord(ra, dec, unit="deg")).deg - radius
    held = Cone.degrees(ra, dec, radius).holds(RA, DEC)
    clear = np.abs(away) > 1e-6
    np.testing.assert_array_equal(held[clear], away[clear] < 0)


def test_a_cone_is_one_however_it_is_made() -> None:
    cone = Cone(SkyCoord("0h42m -0d30m"), 6 * units.arcmin)
    assert asdict(cone) == pytest.approx({"ra": 10.5, "dec": -0.5, "radius": 0.1})
    same = Cone.parse("10.5, -0.5 0.1")
    assert same == Cone.degrees(10.5, -0.5, 0.1)
    assert hash(same) == hash(Cone.degrees(10.5, -0.5, 0.1))
    assert Cone(SkyCoord(0 * units.deg, 90 * units.deg, frame="galactic"), 1 * units.deg).dec == (
        pytest.approx(27.12825, abs=1e-4)
    )


def test_a_box_spans_zero_hours_and_all_hours() -> None:
    assert Box(350, 10, -1, 1).width == 20
    assert Box(0, 360, -1, 1).width == Box(-10, 500, -1, 1).width == 360
    assert Box(5, 5, -1, 1).width == Box(360, 0, -1, 1).width == 0
    ra, dec = np.array([349.0, 351.0, 0.0, 9.0, 11.0, 0.0]), np.array([0, 0, 1, -1, 0, 1.1])
    assert Box(350, 10, -1, 1).holds(ra, dec).tolist() == [False, True, True, True, False, False]
    assert Box.parse("350 10 -1 1") == Box(350.0, 10.0, -1.0, 1.0)


@pytest.mark.parametrize("text", ["", "1 2", "a b c", "1 2 nan", "1 2 inf", "1 2 3 4 5"])
def test_what_is_no_region(text: str) -> None:
    for kind, option in ((Cone, "--cone"), (Box, "--box")):
        with pytest.raises(UsageError, match=f"is no region of the sky; write {option}"):
            kind.parse(text)


@pytest.mark.parametrize("numbers", [(0, 91, 1), (0, 0, -1), (0, 0, np.nan), (np.nan, 0, 1), (np.inf, 0, 1)])
def test_cones_that_hold_nothing(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match=r"not on the sky|holds nothing|no position"):
        Cone.degrees(*numbers)


@pytest.mark.parametrize("numbers", [(0, 1, 5, 4), (0, 1, -91, 0), (0, 1, np.nan, 0), (np.nan, 1, 0, 1)])
def test_boxes_that_hold_nothing(numbers: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError, match="holds nothing"):
        Box(*numbers)


def test_positions_that_are_not_one() -> None:
    for coord in (SKY, "10 5", None):
        with pytest.raises(UsageError, match="not one position"):
            position(coord)
