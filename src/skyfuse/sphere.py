"""Geometry on the sphere: unit vectors, positions, and the regions that users name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import UsageError

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return Cartesian unit vectors, shape (…, 3), of positions in degrees, shape (…)."""
    lon, lat = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def chord(angle: ArrayLike) -> NDArray[np.float64]:
    """Return the straight distance between unit vectors `angle` degrees apart."""
    return np.asarray(2 * np.sin(np.radians(angle) / 2))


def positions(ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions as two arrays of one shape (n,), degrees; NaN is no position.

    Raises
    ------
    UsageError
        If they are not one of each for every position, or a declination is not on the sky.
    """
    right, up = (np.atleast_1d(np.asarray(angle, np.float64)) for angle in (ra, dec))
    if right.ndim > 1 or up.ndim > 1 or (len(right) != len(up) and 1 not in (len(right), len(up))):
        raise UsageError(
            f"right ascensions of shape {right.shape} and declinations of shape {up.shape} make no positions",
            remedy="give one of each for every position",
        )
    right, up = np.broadcast_arrays(right, up)
    beyond = up[np.abs(up) > 90]
    if len(beyond):
        raise UsageError(f"declination {beyond[0]:g} is not on the sky", remedy="give degrees from -90 to 90")
    return right, up


def position(coord: SkyCoord) -> tuple[float, float]:
    """Return right ascension and declination (degrees, ICRS) of one position.

    Raises
    ------
    UsageError
        If `coord` is anything else.
    """
    from astropy.coordinates import SkyCoord

    if not isinstance(coord, SkyCoord) or not coord.isscalar:
        raise UsageError(
            f"a {type(coord).__name__} is not one position on the sky",
            remedy="give a scalar SkyCoord, and many positions to Cube.cutouts",
        )
    return _finite(float(coord.icrs.ra.deg), float(coord.icrs.dec.deg))


def _finite(ra: float, dec: float) -> tuple[float, float]:
    if not (math.isfinite(ra) and math.isfinite(dec)):
        raise UsageError(f"RA {ra} Dec {dec} is no position", remedy="give finite angles")
    return ra, dec


def numbers(text: str, count: int) -> list[float]:
    """Read so many finite numbers, apart by blanks or commas.

    Raises
    ------
    ValueError
        If `text` is anything else.
    """
    found = [float(word) for word in text.replace(",", " ").split()]
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"'{text}' is not {count} numbers")
    return found


@dataclass(frozen=True, slots=True, init=False)
class Cone:
    """All within an angle of a position.

    Parameters
    ----------
    coord : SkyCoord
        Scalar.
    radius : Quantity
        Angle.

    Attributes
    ----------
    ra, dec, radius : float
        Degrees (ICRS).

    Raises
    ------
    UsageError
        If `coord` is not one position, or the radius no angle of 0 or more.
    """

    ra: float
    dec: float
    radius: float

    def __init__(self, coord: SkyCoord, radius: Quantity) -> None:
        from astropy import units

        ra, dec = position(coord)
        try:
            angle = float(radius.to_value(units.deg))
        except (AttributeError, TypeError, units.UnitConversionError) as error:
            raise UsageError(
                f"the radius {radius} is no angle", remedy="give a Quantity, e.g. 0.1 * units.deg"
            ) from error
        self._set(ra, dec, angle)

    def _set(self, ra: float, dec: float, radius: float) -> None:
        _finite(ra, dec)
        positions(ra, dec)
        if not radius >= 0:
            raise UsageError(f"a cone of {radius}° holds nothing", remedy="give a radius of 0 or more")
        for name, value in (("ra", ra), ("dec", dec), ("radius", radius)):
            object.__setattr__(self, name, value)

    @classmethod
    def degrees(cls, ra: float, dec: float, radius: float) -> Self:
        """Make a cone from three numbers in degrees (ICRS)."""
        cone = cls.__new__(cls)
        cone._set(float(ra), float(dec), float(radius))
        return cone

    @classmethod
    def parse(cls, text: str) -> Self:
        """Make a cone from ``RA DEC RADIUS``, degrees (ICRS).

        Raises
        ------
        UsageError
            If `text` is anything else.
        """
        try:
            return cls.degrees(*numbers(text, 3))
        except ValueError as error:
            raise UsageError(
                f"'{text}' is no region of the sky", remedy="write --cone 'RA DEC RADIUS', all in degrees"
            ) from error

    @property
    def middle(self) -> NDArray[np.float64]:
        """Unit vector of its centre, shape (3,)."""
        return unit_vectors(self.ra, self.dec)

    def holds(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Tell which positions (degrees, shape (n,)) lie in it."""
        apart = np.linalg.norm(unit_vectors(ra, dec) - self.middle, axis=-1)
        return np.asarray(apart <= chord(min(self.radius, 180.0)))


@dataclass(frozen=True, slots=True)
class Box:
    """All between two meridians and two parallels (degrees, ICRS); ``ra_min > ra_max`` crosses 0h.

    Raises
    ------
    UsageError
        If no position can lie between them.
    """

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.ra_max - self.ra_min):
            raise UsageError(
                f"a box from RA {self.ra_min} to {self.ra_max} holds nothing", remedy="give both in degrees"
            )
        if not -90 <= self.dec_min <= self.dec_max <= 90:
            raise UsageError(
                f"a box from Dec {self.dec_min} to {self.dec_max} holds nothing",
                remedy="give dec_min <= dec_max, both from -90 to 90",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Make a box from ``RA_MIN RA_MAX DEC_MIN DEC_MAX``, degrees (ICRS).

        Raises
        ------
        UsageError
            If `text` is anything else.
        """
        try:
            return cls(*numbers(text, 4))
        except ValueError as error:
            raise UsageError(
                f"'{text}' is no region of the sky",
                remedy="write --box 'RA_MIN RA_MAX DEC_MIN DEC_MAX', all in degrees",
            ) from error

    @property
    def width(self) -> float:
        """Degrees of right ascension that it spans, 0 to 360."""
        # 360° and more hold every meridian, which the remainder alone would lose.
        return 360.0 if self.ra_max - self.ra_min >= 360 else (self.ra_max - self.ra_min) % 360

    def holds(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Tell which positions (degrees, shape (n,)) lie in it."""
        ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        along = (ra - self.ra_min) % 360 <= self.width
        return np.asarray(along & (dec >= self.dec_min) & (dec <= self.dec_max), bool)
