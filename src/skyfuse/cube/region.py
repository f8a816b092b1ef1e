"""Which positions, and which footprints of frames, lie in a region of the sky."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import UsageError
from skyfuse.sphere import Box, Cone, unit_vectors

if TYPE_CHECKING:
    from mocpy import MOC

Region: TypeAlias = "Cone | Box | MOC"

# Depth at which boxes, MOCs and frames are compared: cells of 13 arc seconds.
_MOC_DEPTH = 14


def read_moc(path: Path) -> MOC:
    """Read the region of a FITS file.

    Raises
    ------
    UsageError
        If it holds none.
    """
    from mocpy import MOC

    if not path.is_file():
        raise UsageError("there is no such file", path=path, remedy="give a FITS file that holds a MOC")
    try:
        return MOC.from_fits(str(path))
    except (OSError, ValueError) as error:
        raise UsageError(
            "cannot be read as a MOC", path=path, remedy="give a FITS file that holds a MOC"
        ) from error


def holds(region: Region, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which positions (degrees, shape (n,)) lie in a region.

    Raises
    ------
    UsageError
        If it is no region.
    """
    if isinstance(region, Cone | Box):
        return region.holds(ra, dec)
    return np.asarray(_cells(region).contains_lonlat(ra * units.deg, dec * units.deg), bool)


def meets(region: Region, corners: ArrayLike) -> NDArray[np.bool_]:
    """Tell which footprints overlap a region: cones exactly, others to the 13″ of the cells compared.

    Parameters
    ----------
    region : Cone, Box or mocpy.MOC
    corners : array_like, shape (n, 8) or (n, 4, 2)
        RA and Dec (degrees) of each footprint's corners, in order around it.

    Raises
    ------
    UsageError
        If it is no region.
    """
    footprints = np.asarray(corners, np.float64).reshape(-1, 4, 2)
    if isinstance(region, Cone):
        return np.array([_cone_meets(region, polygon) for polygon in footprints], bool)
    cells = _cells(region)
    return np.array([_moc_meets(cells, polygon) for polygon in footprints], bool)


def _cone_meets(cone: Cone, corners: NDArray[np.float64]) -> bool:
    """Tell whether a cone and a frame overlap: its centre lies on the frame or near enough to an edge."""
    middle = cone.middle
    vectors = unit_vectors(corners[:, 0], corners[:, 1])
    following = np.roll(vectors, -1, axis=0)
    poles = np.cross(vectors, following)
    poles /= np.linalg.norm(poles, axis=1, keepdims=True)
    sides = poles @ middle
    facing = np.dot(vectors.mean(axis=0), middle) > 0
    if facing and (np.all(sides >= 0) or np.all(sides <= 0)):
        return True
    distances = np.linalg.norm(vectors - middle, axis=1)
    nearest = np.degrees(2 * np.arcsin(np.clip(distances / 2, 0, 1))).min()
    for start, end, pole, side in zip(vectors, following, poles, sides, strict=True):
        foot = middle - side * pole
        between = np.dot(np.cross(start, foot), pole) >= 0 and np.dot(np.cross(foot, end), pole) >= 0
        if between:
            nearest = min(nearest, abs(np.degrees(np.arcsin(np.clip(side, -1, 1)))))
    return bool(nearest <= cone.radius)


def _cells(region: Box | MOC) -> MOC:
    """Return a region as the cells that it covers."""
    from mocpy import MOC

    if isinstance(region, Box):
        return _box_cells(region)
    if not isinstance(region, MOC):
        raise UsageError(f"{type(region).__name__} is no region", remedy="give a Cone, a Box or a mocpy.MOC")
    return region


def _box_cells(box: Box) -> MOC:
    from mocpy import MOC

    start, end = box.ra_min % 360, box.ra_min % 360 + box.width
    # A zone ends before 0h, where right ascension starts anew.
    parts = [(start, min(end, 360.0)), (0.0, end - 360.0)]
    region = MOC.new_empty(_MOC_DEPTH)
    for left, right in parts:
        if right > left:
            corners = SkyCoord([[left, box.dec_min], [right, box.dec_max]], unit="deg")
            region = region.union(MOC.from_zone(corners, max_depth=_MOC_DEPTH))
    return region


def _moc_meets(region: MOC, corners: NDArray[np.float64]) -> bool:
    """Tell whether a MOC and a frame overlap, to the 13″ of the cells they are compared in."""
    from mocpy import MOC

    frame = MOC.from_polygon(corners[:, 0] * units.deg, corners[:, 1] * units.deg, max_depth=_MOC_DEPTH)
    return not frame.intersection(region).empty()
