"""Tables that are files: star-formation rates of MPA-JHU, and the votes of Galaxy Zoo 2 with their images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse.errors import DataError, UsageError
from skyfuse.fetch.archives import SFR_TABLES, Archives
from skyfuse.fetch.ledger import Wanted

IMAGE_SIZE = 424
"""Pixels on a side of the images that the volunteers saw."""
IMAGE_SCALE = 0.02
"""Of those images: arcsec a pixel, for each arcsec of petroR90_r (Willett et al. 2013, section 2.3)."""


def wanted_sfr(archives: Archives) -> Iterator[Wanted]:
    """Yield the MPA-JHU tables that `skyfuse.survey.mpajhu.read_sfr` reads together."""
    for name in SFR_TABLES:
        yield Wanted(*archives.sfr(name), "table")


def wanted_votes(archives: Archives, *, sample: bool) -> Iterator[Wanted]:
    """Yield the votes of Galaxy Zoo 2, and the galaxies' sizes where images are wanted."""
    yield Wanted(*archives.votes(), "table")
    if sample:
        yield Wanted(*archives.sample(), "table")


@dataclass(frozen=True, slots=True)
class Images:
    """Galaxies of which images are wanted.

    Attributes
    ----------
    table : DataFrame
        objid, ra, dec and r90 (petroR90_r, arcsec), in the order in which they are taken.
    available : int
        How many there are with a size.
    without : int
        How many of the voted galaxies have none, or no number.
    """

    table: pd.DataFrame
    available: int
    without: int


def choose_images(folder: Path, archives: Archives, number: int, seed: int) -> Images:
    """Choose galaxies from the tables in the folder, in the order of the MD5 sum of seed and number.

    Raises
    ------
    DataError
        A table lacks the columns that tell number, position and size.
    """
    votes, unnamed = _read(folder / archives.votes()[0], ("dr7objid", "ra", "dec"))
    sizes, _ = _read(folder / archives.sample()[0], ("objid", "petror90_r"))
    sizes = sizes.rename(columns={"objid": "dr7objid", "petror90_r": "r90"}).drop_duplicates("dr7objid")
    both = votes.drop_duplicates("dr7objid").merge(sizes, on="dr7objid", how="left")
    good = both[np.isfinite(both["r90"]) & (both["r90"] > 0)]
    drawn = [
        hashlib.md5(f"{seed}:{objid}".encode(), usedforsecurity=False).hexdigest()
        for objid in good["dr7objid"]
    ]
    table = good.assign(draw=drawn).sort_values("draw").head(number).drop(columns="draw")
    return Images(table.rename(columns={"dr7objid": "objid"}), len(good), len(both) - len(good) + unnamed)


def _read(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, int]:
    """Read some columns of a large CSV table, by lower-case names; return how many rows have no number, too.

    The first of the columns holds the numbers.
    """
    # Types that have holes: a number that is missing makes no floats of the others.
    table = pd.read_csv(path, usecols=lambda name: name.lower() in columns, dtype_backend="numpy_nullable")
    table.columns = pd.Index([name.lower() for name in table.columns])
    missing = set(columns) - set(table.columns)
    if missing or table[columns[0]].dtype.kind not in "iu":
        raise DataError(
            f"has no column {', '.join(sorted(missing)) or columns[0] + ' of whole numbers'}",
            path=path,
            remedy="delete it and give the same command again",
        )
    named = table[list(columns)].dropna(subset=columns[0])
    floats = dict.fromkeys(columns[1:], "float64")
    return named.astype(floats), len(table) - len(named)


def wanted_images(archives: Archives, images: Images, size: int = IMAGE_SIZE) -> Iterator[Wanted]:
    """Yield the colour images, as large on the sky as those that the volunteers saw."""
    columns = (images.table[name].tolist() for name in ("objid", "ra", "dec", "r90"))
    for objid, ra, dec, r90 in zip(*columns, strict=True):
        scale = IMAGE_SCALE * r90 * IMAGE_SIZE / size
        yield Wanted(*archives.cutout(str(objid), ra, dec, scale, size), "image")


def checked_size(size: int) -> int:
    """Return the number of pixels on a side of images.

    Raises
    ------
    UsageError
        The service does not make images of that size.
    """
    if not 64 <= size <= 2048:
        raise UsageError(f"images of {size} pixels are not made", remedy="give 64 to 2048")
    return size
