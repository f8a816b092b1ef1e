"""Cross-match of two catalogues by position.

The pairs are found along zones of declination, each sorted by right ascension (Gray, Nieto-Santisteban &
Szalay 2006, *The zones algorithm for finding points-near-a-point or cross-matching spatial datasets*,
MSR-TR-2006-52): right ascension wraps, and the poles are like any other place. Positions are taken as they
are: of one frame (ICRS) and one epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from astropy import units
from numba import njit
from numpy.typing import ArrayLike, NDArray

from skyfuse.dataset.select import Funnel, find_column
from skyfuse.errors import DataError, UsageError
from skyfuse.survey.columns import UNITS, floats
from skyfuse.words import Progress

Mode = Literal["one-to-one", "nearest", "all"]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MODES: tuple[Mode, ...] = get_args(Mode)

MAX_RADIUS = 3600.0
"""Greatest radius of a match, arcsec: beyond a degree nothing is told to be the same by its place."""
MOST_PAIRS = 200_000_000
"""Most pairs that are held at once (24 bytes each)."""

SUFFIXES = ("_a", "_b")
"""What columns of one name get appended, by side."""
SEPARATION, CANDIDATES = "separation", "candidates"
"""Columns of a result: the distance in arcsec, and how many rows of B the row of A had to choose from."""

POSITIONS = (
    ("ra", "dec"),
    ("ra_deg", "dec_deg"),
    ("radeg", "dedeg"),
    ("radeg", "decdeg"),
    ("ra_icrs", "de_icrs"),
    ("raj2000", "dej2000"),
    ("_raj2000", "_dej2000"),
    ("ra_j2000", "dec_j2000"),
    ("alpha_j2000", "delta_j2000"),
    ("alphawin_j2000", "deltawin_j2000"),
    ("ramean", "decmean"),
    ("plug_ra", "plug_dec"),
    ("right_ascension", "declination"),
    ("s_ra", "s_dec"),
    ("lon", "lat"),
)
"""Usual names of right ascension and declination, in lower case.

SDSS, Gaia, VizieR, SExtractor, Pan-STARRS, ObsCore."""

# Rows of A between two looks at the clock, the keyboard and the number of pairs.
_CHUNK = 16_384
# Zones are no thinner than this (degrees): a table of their first rows must stay small for any radius.
_THINNEST = 180 / 2**20
# A circle so near to a pole (degrees) is searched all round: the window's own rounding grows there.
_POLE = 1e-5


@dataclass(frozen=True)
class Pairs:
    """Rows of two catalogues that lie within the radius of each other, by row of A, distance and row of B.

    Attributes
    ----------
    a, b : ndarray of int64, shape (n,)
        Rows.
    separation : ndarray, shape (n,)
        Arcsec.
    """

    a: IntArray
    b: IntArray
    separation: FloatArray

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: NDArray[Any]) -> Pairs:
        """Return some of the pairs, by number or mask."""
        return Pairs(self.a[which], self.b[which], self.separation[which])


@dataclass
class Counts:
    """What became of the rows of one side.

    Attributes
    ----------
    rows : int
        Of the catalogue.
    read : int
        Rows of a HATS catalogue whose partition touches the other side; all rows of a table.
    placed : int
        Rows read that have a position on the sky: finite, declination within ±90°, right ascension within
        −180° to 360°.
    near : int
        Rows with at least one row of the other side within the radius.
    ambiguous : int
        Rows with more than one.
    matched : int
        Rows in the result.
    """

    rows: int = 0
    read: int = 0
    placed: int = 0
    near: int = 0
    ambiguous: int = 0
    matched: int = 0

    def funnel(self, side: str, other: str, radius: float) -> Funnel:
        """Return the counts as ordered steps."""
        funnel = Funnel()
        funnel.add(f"rows of {side}", self.rows)
        if self.read < self.rows:
            funnel.add(f"in partitions that {other} touches", self.read)
        funnel.add("with a valid position", self.placed)
        funnel.add(f"with a row of {other} within {radius:g}″", self.near)
        funnel.add("with one alone", self.near - self.ambiguous, applied=False)
        funnel.add("in the result", self.matched)
        return funnel


@dataclass
class CrossMatch:
    """Result of a match.

    Attributes
    ----------
    mode : str
    radius : float
        Arcsec.
    a, b : Counts
        What became of the rows of each side.
    within : int
        Pairs within the radius, before any was chosen.
    sole : int
        Those of which each is the other's only candidate.
    pairs : int
        Pairs of the result.
    table : DataFrame or None
        The columns of A, those of B, `SEPARATION` and `CANDIDATES`; columns of one name end in `SUFFIXES`.
        None where the result went to a file.
    """

    mode: Mode
    radius: float
    a: Counts
    b: Counts
    within: int = 0
    sole: int = 0
    pairs: int = 0
    table: pd.DataFrame | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the table as plain values."""
        return {
            "mode": self.mode,
            "radius_arcsec": self.radius,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "within": self.within,
            "sole": self.sole,
            "pairs": self.pairs,
        }

    def __str__(self) -> str:
        whole = Funnel()
        whole.add(f"pairs within {self.radius:g}″", self.within)
        whole.add("each the other's only candidate", self.sole, applied=False)
        whole.add(f"kept ({self.mode})", self.pairs)
        parts = (self.a.funnel("A", "B", self.radius), self.b.funnel("B", "A", self.radius), whole)
        return "\n\n".join(map(str, parts))


# ---- pairs -------------------------------------------------------------------------------------------------


def on_sky(ra: FloatArray, dec: FloatArray) -> NDArray[np.bool_]:
    """Tell which rows have a position on the sky; NaN compares false."""
    return (np.abs(dec) <= 90) & (ra >= -180) & (ra <= 360)


class Zones:
    """Positions sorted by zone of declination and right ascension; rows without a position are left out."""

    def __init__(self, ra: ArrayLike, dec: ArrayLike, radius: float) -> None:
        right, up = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        if right.ndim != 1 or right.shape != up.shape:
            raise UsageError(
                f"right ascensions of shape {right.shape} and declinations of shape {up.shape} do not pair",
                remedy="give one of each for every row",
            )
        self.rows = len(right)
        height = max(radius / 3600, _THINNEST)
        valid = np.flatnonzero(on_sky(right, up))
        right = np.mod(right[valid], 360.0)
        # The remainder of a tiny negative number is 360 itself.
        right[right >= 360] = 0.0
        up = up[valid]
        zone = ((up + 90) / height).astype(np.int64)
        # One number sorts as the two would, but for the last digits of the right ascension: enough for a
        # search that forms its bounds in the same way, since rounding keeps the order.
        key = zone * 360.0 + right
        order = np.argsort(key)
        self.row = valid[order]
        self.key, self.ra, self.dec = key[order], right[order], up[order]
        self.cosine = np.cos(np.radians(self.dec))
        self.height = height
        self.first = int(zone.min()) if len(zone) else 0
        # First entry of each zone, from the lowest that holds any.
        filled = np.bincount(zone - self.first) if len(zone) else np.zeros(0, np.int64)
        self.start = np.concatenate([[0], np.cumsum(filled)]).astype(np.int64)


def _near(
    ra_a: FloatArray, dec_a: FloatArray, cosine_a: FloatArray, key_b: FloatArray, ra_b: FloatArray,
    dec_b: FloatArray, cosine_b: FloatArray, row_b: IntArray, start: IntArray, first: int, height: float,
    radius: float, place: IntArray, b: IntArray, separation: FloatArray, counts: IntArray,
) -> None:  # fmt: skip
    """Count the neighbours of each position of A, or, if `place` says where they go, write them there.

    The window in right ascension is that of a small circle round a point (Gray et al. 2006, section 2.2):
    ``atan(sin r / sqrt(cos(dec − r) cos(dec + r)))``; the haversine decides, which is exact at small angles.
    """
    reach = radius / 3600
    # A hair more than the radius, against rounding: the separation itself decides.
    wide = reach * (1 + 1e-9) + 1e-12
    sine = np.sin(np.radians(wide))
    for i in range(len(ra_a)):
        right, up = ra_a[i], dec_a[i]
        window = 180.0
        if abs(up) + wide < 90 - _POLE:
            shrunk = np.cos(np.radians(up - wide)) * np.cos(np.radians(up + wide))
            window = min(180.0, np.degrees(np.arctan(sine / np.sqrt(shrunk))) * (1 + 1e-9) + 1e-12)
        # Truncation is towards zero, and no declination lies below −90°.
        lowest = max(int((max(up - wide, -90.0) + 90) / height), first)
        highest = min(int((up + wide + 90) / height), first + len(start) - 2)
        n = 0
        for zone in range(lowest, highest + 1):
            begin, end = start[zone - first], start[zone - first + 1]
            if begin == end:
                continue
            # The window itself, and what of it lies beyond 0h, from the other side.
            for turn in range(-1, 2):
                low, high = right - window + 360 * turn, right + window + 360 * turn
                if window == 180:
                    if turn != 0:
                        continue
                    low, high = 0.0, 360.0
                if high < 0 or low > 360:
                    continue
                low_key, high_key = zone * 360.0 + max(low, 0.0), zone * 360.0 + min(high, 360.0)
                at, stop = begin, end
                while at < stop:
                    middle = (at + stop) >> 1
                    if key_b[middle] < low_key:
                        at = middle + 1
                    else:
                        stop = middle
                while at < end and key_b[at] <= high_key:
                    delta = dec_b[at] - up
                    if abs(delta) <= wide:
                        turned = abs(ra_b[at] - right)
                        along = np.sin(np.radians(min(turned, 360 - turned)) / 2)
                        across = np.sin(np.radians(delta) / 2)
                        square = across * across + cosine_a[i] * cosine_b[at] * along * along
                        apart = np.degrees(2 * np.arcsin(np.sqrt(min(square, 1.0)))) * 3600
                        if apart <= radius:
                            if len(place):
                                # Insertion keeps a row's neighbours by distance, then by row of B.
                                to, where = place[i] + n, row_b[at]
                                while to > place[i] and (
                                    separation[to - 1] > apart
                                    or (separation[to - 1] == apart and b[to - 1] > where)
                                ):
                                    b[to], separation[to] = b[to - 1], separation[to - 1]
                                    to -= 1
                                b[to], separation[to] = where, apart
                            n += 1
                    at += 1
        counts[i] = n


_near_compiled: Any = njit(cache=True, nogil=True)(_near)


def zone_pairs(a: Zones, b: Zones, radius: float, progress: Progress | None = None) -> Pairs:
    """Return all pairs of two catalogues sorted for this radius (arcsec).

    Raises
    ------
    DataError
        If there are more than `MOST_PAIRS`.
    """
    begin, end = 0, 0
    if len(a.row) and len(b.row):
        # Only these entries of A lie in zones next to one that B has.
        last = b.first + len(b.start) - 2
        begin, end = np.searchsorted(a.key, [(b.first - 2) * 360.0, (last + 3) * 360.0]).tolist()
    counts = np.zeros(len(a.row), np.int64)

    def sweep(place: IntArray, rows: IntArray, separation: FloatArray) -> int:
        found = 0
        for low in range(begin, end, _CHUNK):
            part = slice(low, min(low + _CHUNK, end))
            _near_compiled(
                a.ra[part], a.dec[part], a.cosine[part], b.key, b.ra, b.dec, b.cosine, b.row, b.start,
                b.first, b.height, radius, place[part], rows, separation, counts[part],
            )  # fmt: skip
            found += int(counts[part].sum())
            if found > MOST_PAIRS:
                raise DataError(
                    f"more than {MOST_PAIRS:,} pairs lie within {radius:g}″",
                    remedy="give a smaller radius, or match a part of the sky at a time",
                )
            if progress is not None:
                share = (part.stop - begin) / (end - begin)
                progress(round(a.rows * (share + bool(len(place))) / 2), a.rows, "matching rows")
        return found

    nothing = np.empty(0, np.int64)
    total = sweep(nothing, nothing, np.empty(0))
    by_row = np.zeros(a.rows + 1, np.int64)
    by_row[a.row + 1] = counts
    by_row = np.cumsum(by_row)
    rows, separation = np.empty(total, np.int64), np.empty(total)
    if total:
        sweep(by_row[a.row], rows, separation)
    return Pairs(np.repeat(np.arange(a.rows), np.diff(by_row)), rows, separation)


def find_pairs(ra_a: ArrayLike, dec_a: ArrayLike, ra_b: ArrayLike, dec_b: ArrayLike, radius: float) -> Pairs:
    """Return every pair of positions no more than a radius apart.

    Parameters
    ----------
    ra_a, dec_a : array, shape (n,)
        Degrees. A row without a position on the sky (see `Counts`) is in no pair.
    ra_b, dec_b : array, shape (m,)
        Degrees.
    radius : float
        Arcsec; a pair exactly so far apart counts.

    Raises
    ------
    UsageError
        If the radius is not above 0 and at most `MAX_RADIUS`, or the shapes differ.
    DataError
        If there are more than `MOST_PAIRS`.
    """
    radius = checked_radius(radius)
    return zone_pairs(Zones(ra_a, dec_a, radius), Zones(ra_b, dec_b, radius), radius)


def checked_radius(radius: float) -> float:
    """Return the radius (arcsec), or raise UsageError."""
    if not 0 < radius <= MAX_RADIUS:
        raise UsageError(
            f"a radius of {radius:g}″ matches nothing of use",
            remedy=f"give arcseconds above 0 and at most {MAX_RADIUS:g}",
        )
    return float(radius)


def checked_mode(mode: str) -> Mode:
    """Return the mode, or raise UsageError."""
    for known in MODES:
        if mode == known:
            return known
    raise UsageError(f"there is no mode '{mode}'", remedy=f"choose {', '.join(MODES[:-1])} or {MODES[-1]}")


# ---- which pairs are kept ----------------------------------------------------------------------------------


def _take_free(a: IntArray, b: IntArray, n_a: int, n_b: int) -> NDArray[np.bool_]:
    """Go through pairs in order; keep each whose two rows are both still free."""
    free_a, free_b = np.ones(n_a, np.bool_), np.ones(n_b, np.bool_)
    kept = np.zeros(len(a), np.bool_)
    for k in range(len(a)):
        if free_a[a[k]] and free_b[b[k]]:
            free_a[a[k]] = free_b[b[k]] = False
            kept[k] = True
    return kept


_take_free_compiled: Any = njit(cache=True, nogil=True)(_take_free)


def closest_first(pairs: Pairs) -> NDArray[np.bool_]:
    """Return the pairs of a one-to-one assignment, each row of A and of B at most once.

    The closest pair of all is kept, its two rows are taken out, and so on. The result is the one stable
    assignment (Gale & Shapley 1962, American Mathematical Monthly 69, 9, with the distance as the preference
    of both sides): of no pair left out would both rows be closer to each other than to what they got. Every
    pair of mutually nearest rows is in it, and but for equal distances it does not depend on which catalogue
    is A. Of equal distances the lower row of A goes first, then the lower row of B.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    order = np.lexsort((pairs.b, pairs.a, pairs.separation))
    (ids_a, a), (ids_b, b) = (np.unique(rows, return_inverse=True) for rows in (pairs.a, pairs.b))
    kept = np.zeros(len(pairs), bool)
    kept[order] = _take_free_compiled(a[order], b[order], len(ids_a), len(ids_b))
    return kept


def nearest_each(pairs: Pairs) -> NDArray[np.bool_]:
    """Return the closest pair of each row of A; of equal distances the lower row of B."""
    order = np.lexsort((pairs.b, pairs.separation, pairs.a))
    kept = np.zeros(len(pairs), bool)
    kept[order[np.flatnonzero(np.diff(pairs.a[order], prepend=-1))]] = True
    return kept


# ---- tables in memory --------------------------------------------------------------------------------------


def position_columns(
    columns: Sequence[str], given: tuple[str, str] | None = None, *, path: Path | None = None
) -> tuple[str, str]:
    """Return the columns of right ascension and declination: those given, or the first pair of `POSITIONS`.

    Raises
    ------
    DataError
        If there are none.
    """
    if given is not None:
        frame = pd.DataFrame(columns=pd.Index(columns))
        try:
            return find_column(frame, given[0]), find_column(frame, given[1])
        except DataError as error:
            raise DataError(error.fault, remedy=error.remedy, path=path) from error
    lower = {str(name).lower(): str(name) for name in reversed(list(columns))}
    for ra, dec in POSITIONS:
        if ra in lower and dec in lower:
            return lower[ra], lower[dec]
    raise DataError(
        f"no columns of positions are known among {', '.join(map(str, columns[:8]))}",
        remedy="name them, e.g. --columns-a 'RA_deg DE_deg' (columns_a in Python)",
        path=path,
    )


def degrees(table: pd.DataFrame, name: str, path: Path | None = None) -> FloatArray:
    """Return a column of angles in degrees, whatever unit its file gives it.

    Raises
    ------
    DataError
        If it holds no numbers, or its unit is of no angle.
    """
    values = floats(table[name], path, "give positions in decimal degrees")
    unit = units.Unit(table.attrs.get(UNITS, {}).get(name, "deg"), parse_strict="silent")
    if isinstance(unit, units.UnrecognizedUnit) or unit == units.deg:
        return values
    if not unit.is_equivalent(units.deg):
        raise DataError(
            f"the column {name!r} is in {unit}", remedy="give positions in decimal degrees", path=path
        )
    return np.asarray(values * unit.to(units.deg), np.float64)


def joined_names(a: Iterable[str], b: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the columns' names in a result: those of both sides, or of our own columns, get a suffix."""
    sides = [list(map(str, a)), list(map(str, b))]
    ours = {SEPARATION, CANDIDATES}
    clash = (set(sides[0]) & set(sides[1])) | ours
    taken = (set(sides[0]) | set(sides[1])) - clash | ours
    out: list[list[str]] = []
    for names, suffix in zip(sides, SUFFIXES, strict=True):
        renamed = []
        for name in names:
            if name in clash:
                while name in clash or name in taken:
                    name += suffix
                taken.add(name)
            renamed.append(name)
        out.append(renamed)
    return out[0], out[1]


def match(
    a: pd.DataFrame,
    b: pd.DataFrame,
    radius: float = 1.0,
    mode: str = "one-to-one",
    *,
    columns_a: tuple[str, str] | None = None,
    columns_b: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> CrossMatch:
    """Match two tables by position.

    Parameters
    ----------
    a, b : DataFrame
    radius : float
        Greatest distance of a pair, arcsec.
    mode : str
        ``one-to-one`` (each row at most once, closest pairs first, see `closest_first`), ``nearest`` (for
        each row of A its nearest of B, which may serve several) or ``all`` (every pair).
    columns_a, columns_b : tuple of str, optional
        Right ascension and declination in degrees (ICRS, of one epoch); by default the first of `POSITIONS`.
    progress : callable, optional
        Called with (done, total, what).

    Returns
    -------
    CrossMatch
        Its table by row of A, then distance, then row of B.

    Raises
    ------
    UsageError
        If the radius or the mode is none.
    DataError
        If the positions are not found or are no numbers, or there are more than `MOST_PAIRS`.
    """
    mode, radius = checked_mode(mode), checked_radius(radius)
    sides = []
    for frame, given in ((a, columns_a), (b, columns_b)):
        ra, dec = position_columns(list(frame.columns), given)
        sides.append((degrees(frame, ra), degrees(frame, dec)))
    return match_tables((a, *sides[0]), (b, *sides[1]), radius, mode, progress)


Placed = tuple[pd.DataFrame, FloatArray, FloatArray]
"""A table with the right ascension and declination of its rows, degrees."""


def match_tables(a: Placed, b: Placed, radius: float, mode: Mode, progress: Progress | None) -> CrossMatch:
    """Match two tables whose positions are known; see `match`."""
    zones_a, zones_b = Zones(*a[1:], radius), Zones(*b[1:], radius)
    pairs = zone_pairs(zones_a, zones_b, radius, progress)
    each_a = np.bincount(pairs.a, minlength=zones_a.rows)
    each_b = np.bincount(pairs.b, minlength=zones_b.rows)
    sole = (each_a[pairs.a] == 1) & (each_b[pairs.b] == 1)
    if mode == "all":
        kept = np.ones(len(pairs), bool)
    elif mode == "nearest":
        kept = nearest_each(pairs)
    else:
        kept, rest = sole.copy(), np.flatnonzero(~sole)
        kept[rest[closest_first(pairs.take(rest))]] = True
    used = pairs.take(kept)
    names_a, names_b = joined_names(a[0].columns, b[0].columns)
    table = pd.concat(
        [
            a[0].iloc[used.a].set_axis(names_a, axis=1).reset_index(drop=True),
            b[0].iloc[used.b].set_axis(names_b, axis=1).reset_index(drop=True),
            pd.DataFrame({SEPARATION: used.separation, CANDIDATES: each_a[used.a]}),
        ],
        axis=1,
    )
    table.attrs = {}
    counts = [
        Counts(
            rows=zones.rows,
            read=zones.rows,
            placed=len(zones.row),
            near=int((each > 0).sum()),
            ambiguous=int((each > 1).sum()),
            matched=int((np.bincount(rows, minlength=1) > 0).sum()),
        )
        for zones, each, rows in ((zones_a, each_a, used.a), (zones_b, each_b, used.b))
    ]
    return CrossMatch(
        mode,
        radius,
        counts[0],
        counts[1],
        within=len(pairs),
        sole=int(sole.sum()),
        pairs=len(used),
        table=table,
    )
