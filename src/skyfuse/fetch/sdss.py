"""SDSS: which spectra and frames are wanted, and the catalogue that goes with them.

Spectra are chosen on SpecObjAll, with the magnitudes of SpecPhotoAll beside them; fields on Frame, which has
one row with zoom 0 a field (schema browser of SkyServer). A spectrum without photometry keeps its row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from skyfuse import identifiers
from skyfuse.errors import DataError, UsageError
from skyfuse.fetch import sql
from skyfuse.fetch.archives import BYTES, RERUN, Archives, field_of
from skyfuse.fetch.ledger import Wanted
from skyfuse.fetch.plan import (
    Answered,
    Group,
    Region,
    pick,
    positions,
    require_area,
    user_table,
    whole_numbers,
    within,
)
from skyfuse.fetch.skyserver import SkyServer
from skyfuse.fetch.sql import Selection
from skyfuse.sphere import Cone, chord, unit_vectors
from skyfuse.survey.sdss.instrument import BANDS, FRAMES_BEHIND_R
from skyfuse.words import Progress

SPECTRA = "SpecObjAll AS s"
_JOINED = f"{SPECTRA} LEFT JOIN SpecPhotoAll AS p ON p.specObjID = s.specObjID"
_IDENTITY = (
    *("s.specObjID", "s.plate", "s.mjd", "s.fiberID", "s.run2d", "s.bestObjID", "s.ra", "s.dec", "s.class"),
    *("s.subClass", "s.z", "s.zErr", "s.zWarning", "s.snMedian"),
)
COLUMNS = tuple(f"p.{name}_{band}" for name in ("modelMag", "modelMagErr") for band in BANDS)
"""Photometry that goes with the spectra unless other columns are named."""
_GOOD = "s.zWarning = 0"
_PRIMARY = "s.sciencePrimary = 1"

FIELD_ROWS, FIELD_COLUMNS, PIXEL = 1489, 2048, 0.396
"""Rows along the scan and columns across it of a frame, and its pixels, arcsec (data model of `frame`)."""
_HALF_MU, _HALF_NU = FIELD_ROWS * PIXEL / 7200, FIELD_COLUMNS * PIXEL / 7200
# The bands lie some arcsec apart, and the frame's centre is given for r.
_SLACK = 0.004
_HALF_DIAGONAL = float(np.hypot(_HALF_MU, _HALF_NU)) + _SLACK
_FRAME: tuple[str, ...] = (
    "f.fieldID",
    "f.run",
    "f.rerun",
    "f.camcol",
    "f.field",
    "f.ra",
    "f.dec",
    "f.mu",
    "f.nu",
)
_FRAME += ("f.node", "f.incl")
# Positions that one query names; of more than so many, all fields of the survey are the smaller answer.
_POSITIONS, _MANY = 50, 2000
_SQL_NAMES = {"plate": ("plate", "plateid"), "mjd": ("mjd",), "fibre": ("fiberid", "fiber", "fibre")}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which spectra are wanted.

    Attributes
    ----------
    classes : tuple of str
        Classes of the pipeline; all where it is empty.
    per_class, per_subclass : int or None
        How many of each class, or of each subclass of each class.
    region : Cone or Box or None
    sql : str or None
        A query of the user's instead of all of these.
    columns : tuple of str
        Columns beside those that identify a spectrum; ``s.`` is SpecObjAll, ``p.`` SpecPhotoAll.
    repeats : bool
        Also spectra of objects that were observed again, and those that the pipeline doubts.
    seed : int
        Of the choice where there are more than asked.
    """

    classes: tuple[str, ...] = ()
    per_class: int | None = None
    per_subclass: int | None = None
    region: Region | None = None
    sql: str | None = None
    columns: tuple[str, ...] = COLUMNS
    repeats: bool = False
    seed: int = 7

    def __post_init__(self) -> None:
        require_area(self.region)
        ways = [self.per_class is not None, self.per_subclass is not None, self.sql is not None]
        if sum(ways) > 1:
            raise UsageError(
                "--per-class, --per-subclass and --sql exclude each other", remedy="give one of them"
            )
        if not any(ways) and self.region is None and not self.classes:
            raise UsageError(
                "this asks for every spectrum of the survey",
                remedy="give --per-class N, --per-subclass N, --cone, --box, --list or --sql",
            )


@dataclass(frozen=True, slots=True)
class Stratum:
    """One group of spectra: its name, query, how many are asked for (None: all) and how many there are."""

    name: str
    selection: Selection
    asked: int | None
    available: int

    def group(self, rows: int | None = None, note: str = "") -> Group:
        """Return what is told of it."""
        top = None if self.asked is None else min(self.asked, max(self.available, 1))
        return Group(self.name, self.selection.sql(top), self.asked, self.available, rows, note)


def strata(server: SkyServer, choice: Choice) -> list[Stratum]:
    """Count what there is and return the queries that get it, one for each class or subclass.

    Within a class the order is that of the MD5 sum of the seed and specObjID: as good as random, the same
    whenever it is asked, and of two numbers asked for the smaller one's spectra are among the larger one's.

    Raises
    ------
    DataError
        As `SkyServer.ask`.
    UsageError
        A name cannot be one of a class or column.
    """
    if choice.sql is not None:
        chosen = server.keyed(sql.wrapped(choice.sql))
        return [Stratum("query", chosen, None, sum(server.count(chosen).values()))]
    names = tuple(name.strip().upper() for name in choice.classes)
    where: tuple[str, ...] = () if choice.repeats else (_GOOD, _PRIMARY)
    where += () if choice.region is None else within(choice.region, "s")
    if names:
        where += (f"s.class IN ({', '.join(map(sql.text, names))})",)
    columns = tuple(dict.fromkeys((*_IDENTITY, *map(sql.column, choice.columns))))
    base = Selection(columns, _JOINED, where, "specObjID", "s.specObjID")
    bare = replace(base, source=SPECTRA)
    wanted = choice.per_class or choice.per_subclass
    if wanted is None:
        return [Stratum("spectra", base, None, sum(server.count(bare).values()))]
    by = ("s.class",) if choice.per_class is not None else ("s.class", "s.subClass")
    found = server.count(bare, by)
    if sum(found.values()) != sum(server.count(bare).values()):
        raise DataError(
            "SkyServer counts the classes differently twice", remedy="give the same command again"
        )
    if choice.per_class is not None:
        found = dict.fromkeys(((name,) for name in names), 0) | found
    number = f"'{choice.seed}:' + CAST(s.specObjID AS varchar(20))"
    draw = f"CONVERT(varchar(32), HASHBYTES('MD5', {number}), 2)"
    out = []
    for group, available in sorted(found.items()):
        conditions = tuple(f"{name} = {sql.text(value)}" for name, value in zip(by, group, strict=True))
        drawn = replace(
            base,
            columns=(*base.columns, f"{draw} AS draw"),
            where=where + conditions,
            key="draw",
            expression=draw,
            numeric=False,
        )
        name = " ".join(word for word in (group[0], *(f"[{word}]" for word in group[1:])) if word)
        out.append(Stratum(name, drawn, wanted, available))
    return out


def write(server: SkyServer, chosen: Sequence[Stratum], file: TextIO, progress: Progress) -> Iterator[Group]:
    """Write the rows of all strata as one CSV table; yield what came of each.

    Raises
    ------
    DataError
        Not one row came, or as `SkyServer.rows`.
    """
    writer = csv.writer(file, lineterminator="\n")
    header: list[str] = []
    total = 0
    for number, stratum in enumerate(chosen):
        progress(number, len(chosen), f"asking for {stratum.name}")
        count = 0
        if stratum.available:
            for answer in server.rows(stratum.selection, limit=stratum.asked, available=stratum.available):
                if not header and answer.columns:
                    header = answer.columns
                    writer.writerow(header)
                for row in answer.rows:
                    writer.writerow(row)
                    count += 1
        total += count
        yield stratum.group(count)
    progress(len(chosen), len(chosen), "asking SkyServer")
    if not total:
        raise DataError("the archive has nothing of what was asked", remedy="widen the choice")


def plates(server: SkyServer) -> dict[tuple[int, int], str]:
    """Return the pipeline version in which the archive keeps each plate and night, the last where several."""
    columns = ("x.plateID", "x.plate", "x.mjd", "x.run2d")
    chosen = Selection(columns, "PlateX AS x", (), "plateID", "x.plateID")
    found: dict[tuple[int, int], str] = {}
    for answer in server.rows(chosen):
        sql.columns_of(answer, ("plateid", "plate", "mjd", "run2d") if answer.columns else ())
        for _, plate, mjd, run2d in answer.rows:
            night = sql.number(plate), sql.number(mjd)
            found[night] = max(found.get(night, ""), run2d)
    return found


def write_list(server: SkyServer, path: Path, file: TextIO) -> Iterator[Group]:
    """Write a user's table of plate, MJD and fibre as the catalogue of spectra, with the pipeline's version.

    Raises
    ------
    DataError
        Columns are missing, or are not of whole numbers.
    """
    table = user_table(path)
    columns = {name: pick(table, names) for name, names in _SQL_NAMES.items()}
    missing = [name for name, column in columns.items() if column is None]
    if missing:
        raise DataError(
            f"it has no column of {', '.join(missing)}",
            path=path,
            remedy="give a table with plate, mjd and fiberid, and run2d if you know it",
        )
    numbers = [whole_numbers(column, path) for column in columns.values() if column is not None]
    versions = identifiers.as_text(table["run2d"]).tolist() if "run2d" in table else None
    known = plates(server) if versions is None else {}
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("plate", "mjd", "fiberID", "run2d"))
    unknown = unnamed = 0
    for row, (plate, mjd, fibre) in enumerate(zip(*numbers, strict=True)):
        if plate is None or mjd is None or fibre is None:
            unnamed += 1
            continue
        run2d = known.get((plate, mjd)) if versions is None else versions[row]
        unknown += run2d is None
        # A plate that the archive does not know is asked for all the same, so that the ledger says so.
        writer.writerow((plate, mjd, fibre, run2d or "unknown"))
    told = {"the archive does not know the plates of": unknown, "rows without plate, mjd or fibre:": unnamed}
    note = "; ".join(f"{what} {number:,}" for what, number in told.items() if number)
    rows = len(table) - unnamed
    yield Group(path.name, "SELECT plate, mjd, run2d FROM PlateX", len(table), None, rows, note)


def wanted_spectra(archives: Archives, found: Answered, server: SkyServer, *, full: bool) -> Iterator[Wanted]:
    """Yield the files of a catalogue of spectra.

    Raises
    ------
    DataError
        The catalogue lacks plate, MJD or fibre.
    """
    known: dict[tuple[int, int], str] | None = None
    for row in found.rows():
        values = [next((row[n] for n in names if n in row), "") for names in _SQL_NAMES.values()]
        if not all(values):
            raise DataError(
                "the catalogue does not say which spectra its rows are",
                path=found.table,
                remedy="select plate, mjd, fiberID and run2d",
            )
        plate, mjd, fibre = values
        run2d = row.get("run2d", "")
        numbers = all(re.fullmatch("[0-9]{1,18}", value) for value in values)
        if not run2d:
            known = plates(server) if known is None else known
            run2d = known.get((int(plate), int(mjd)), "unknown") if numbers else "unknown"
        # Names that lead elsewhere go into the ledger as they are: it refuses and counts them.
        path, url = archives.spectrum(plate, mjd, fibre, run2d, full=full)
        expect = dict(zip(("PLATEID", "MJD", "FIBERID"), map(int, values), strict=True)) if numbers else {}
        yield Wanted(path, url, "spectrum", expect=expect)


def spectrum_bytes(number: int, *, full: bool) -> int:
    """Return about how many bytes so many spectra have."""
    return number * BYTES["full" if full else "lite"]


# ----------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields are wanted.

    Attributes
    ----------
    region : Cone or Box or None
        Every field that shares sky with it.
    run, camcol : int or None
        Of one run, or one camera column of it.
    numbers : tuple of int
        Fields of that run and camera column.
    stripe : int or None
        Every field of a stripe of the survey, of all its runs.
    objects : Path or None
        Every field that covers an object of this table.
    primary : bool
        Of the objects, only the field in which each was detected.
    """

    region: Region | None = None
    run: int | None = None
    camcol: int | None = None
    numbers: tuple[int, ...] = ()
    stripe: int | None = None
    objects: Path | None = None
    primary: bool = False

    def __post_init__(self) -> None:
        require_area(self.region)
        ways = [way is not None for way in (self.region, self.run, self.stripe, self.objects)]
        if sum(ways) != 1:
            raise UsageError(
                f"{'several ways' if any(ways) else 'no way'} to choose fields is given",
                remedy="give one of --cone, --box, --run, --stripe and --objects",
            )
        if (self.numbers and self.camcol is None) or (self.camcol is not None and self.run is None):
            raise UsageError(
                "a field has a number only within a run and camera column",
                remedy="give --run R --camcol C --field F",
            )
        if self.camcol is not None and not 1 <= self.camcol <= 6:
            raise UsageError(f"there is no camera column {self.camcol}", remedy="give one of 1 to 6")


def _frames(*where: str) -> Selection:
    return Selection(_FRAME, "Frame AS f", ("f.zoom = 0", *where), "fieldID", "f.fieldID")


def field_selection(fields: Fields) -> Selection | None:
    """Return the query for the fields, or None where none is needed, or many are."""
    if fields.stripe is not None:
        return _frames(f"f.stripe = {fields.stripe}")
    if fields.region is not None:
        return _frames(*within(fields.region, "f", _HALF_DIAGONAL))
    if fields.run is not None and not fields.numbers:
        camcol = () if fields.camcol is None else (f"f.camcol = {fields.camcol}",)
        return _frames(f"f.run = {fields.run}", *camcol)
    return None


def write_fields(server: SkyServer, fields: Fields, file: TextIO, progress: Progress) -> Iterator[Group]:
    """Write the fields as a CSV table, each once; yield what came.

    Raises
    ------
    DataError
        There is no such field; the table of objects has neither numbers nor positions.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("run", "rerun", "camcol", "field"))
    chosen = field_selection(fields)
    if chosen is not None:
        available = sum(server.count(chosen).values())
        rows = 0
        for answer in server.rows(chosen, available=available):
            kept = _kept(answer, list(answer.rows), fields.region)
            writer.writerows(kept)
            rows += len(kept)
        group = Group("fields", chosen.sql(), None, None, rows)
    elif fields.objects is not None:
        group, kept = (
            _own_fields(fields.objects)
            if fields.primary
            else _covering_fields(server, fields.objects, progress)
        )
        writer.writerows(kept)
    else:
        kept = [(fields.run or 0, RERUN, fields.camcol or 0, number) for number in fields.numbers]
        writer.writerows(kept)
        group = Group("fields", "", len(kept), None, len(kept))
    if not group.rows:
        raise DataError("the survey has no field there", remedy="look at its footprint or at the run")
    yield group


FieldKey = tuple[int, int, int, int]
_KEY, _PLACE = ("run", "rerun", "camcol", "field"), ("mu", "nu", "node", "incl")


def _kept(answer: sql.Answer, rows: list[list[str]], region: Region | None) -> list[FieldKey]:
    """Return the keys of the fields of an answer that really share sky with a region."""
    at = sql.columns_of(answer, _KEY + _PLACE if rows else ())
    keys = [tuple(sql.number(row[at[name]]) for name in _KEY) for row in rows]
    if isinstance(region, Cone) and rows:
        place = _places(at, rows)
        near = distance(place, np.array(region.ra), np.array(region.dec)) <= region.radius
        keys = [key for key, kept in zip(keys, near, strict=True) if kept]
    return [(key[0], key[1], key[2], key[3]) for key in keys]


def _places(at: dict[str, int], rows: list[list[str]]) -> NDArray[np.float64]:
    return np.array([[sql.real(row[at[name]]) for name in _PLACE] for row in rows])


def distance(
    place: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far positions lie outside of fields, degrees; 0 within.

    A scan follows a great circle with a node and an inclination; μ runs along it and ν across (Stoughton et
    al. 2002, AJ 123, 485, section 3.2.2). In these coordinates a field is a rectangle.

    Parameters
    ----------
    place : ndarray, shape (…, 4)
        μ and ν of the fields' centres, node and inclination of their scans, degrees.
    ra, dec : ndarray
        Degrees; of any shape that goes with that of the fields.

    Returns
    -------
    ndarray
        Of the joint shape.
    """
    mu0, nu0, node, incl = np.moveaxis(np.radians(place), -1, 0)
    along, delta = np.radians(ra) - node, np.radians(dec)
    x = np.cos(along) * np.cos(delta)
    y = np.sin(along) * np.cos(delta) * np.cos(incl) + np.sin(delta) * np.sin(incl)
    z = np.sin(delta) * np.cos(incl) - np.sin(along) * np.cos(delta) * np.sin(incl)
    nu = np.arcsin(np.clip(z, -1, 1))
    d_mu = (np.arctan2(y, x) + node - mu0 + np.pi) % (2 * np.pi) - np.pi
    out_mu = np.maximum(np.abs(np.degrees(d_mu * np.cos(nu))) - _HALF_MU - _SLACK, 0.0)
    out_nu = np.maximum(np.abs(np.degrees(nu - nu0)) - _HALF_NU - _SLACK, 0.0)
    return np.asarray(np.hypot(out_mu, out_nu))


def _own_fields(path: Path) -> tuple[Group, list[FieldKey]]:
    """Return the fields in which objects were detected, from their numbers alone."""
    numbers = pick(user_table(path), ("objid", "bestobjid"))
    if numbers is None:
        raise DataError("it has no column objid", path=path, remedy="give one, or leave out --primary")
    named = whole_numbers(numbers, path)
    found = [field_of(number) for number in named if number is not None]
    keys = sorted({(key[1], key[0], key[2], key[3]) for key in found if key is not None})
    strange = sum(key is None for key in found)
    told = {"numbers are none of DR8 and later": strange, "rows have no number": named.count(None)}
    note = "; ".join(f"{number:,} {what}" for what, number in told.items() if number)
    return Group(path.name, "", None, None, len(keys), note), keys


def _covering_fields(server: SkyServer, path: Path, progress: Progress) -> tuple[Group, list[FieldKey]]:
    """Return every field that covers an object of a table with positions."""
    remedy = "give them in degrees, or objid and the option --primary"
    places = np.unique(positions(user_table(path), path, remedy), axis=0)
    tree = KDTree(unit_vectors(*places.T))
    keys: set[FieldKey] = set()
    covered = np.zeros(len(places), bool)
    chosen = list(_near(places))
    for number, selection in enumerate(chosen):
        progress(number, len(chosen), "asking which fields cover them")
        for answer in server.rows(selection):
            rows = list(answer.rows)
            at = sql.columns_of(answer, ("ra", "dec", *_PLACE) if rows else ())
            for row, hit in zip(rows, _covered(at, rows, tree, places), strict=True):
                if len(hit):
                    covered[hit] = True
                    keys |= set(_kept(answer, [row], None))
    progress(len(chosen), len(chosen), "asking which fields cover them")
    uncovered = int((~covered).sum())
    note = f"{uncovered:,} of {len(places):,} positions lie in no field" if uncovered else ""
    return Group(path.name, chosen[0].sql(), None, None, len(keys), note), sorted(keys)


def _near(places: NDArray[np.float64]) -> Iterator[Selection]:
    """Yield queries for the fields about positions; of many positions one for all fields of the survey."""
    if len(places) > _MANY:
        yield _frames()
        return
    limit = float(np.cos(np.radians(_HALF_DIAGONAL)))
    for start in range(0, len(places), _POSITIONS):
        vectors = unit_vectors(*places[start : start + _POSITIONS].T).tolist()
        near = " OR ".join(f"f.cx*{x:.9f}+f.cy*{y:.9f}+f.cz*{z:.9f}>={limit:.9f}" for x, y, z in vectors)
        yield _frames(f"({near})")


def _covered(
    at: dict[str, int], rows: list[list[str]], tree: KDTree, places: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """Return, for each field, which positions it covers."""
    if not rows:
        return []
    frames = _places(at, rows)
    centres = unit_vectors(*([sql.real(row[at[name]]) for row in rows] for name in ("ra", "dec")))
    reach = float(chord(_HALF_DIAGONAL))
    near = [np.array(hit, np.int64) for hit in tree.query_ball_point(centres, reach)]
    return [
        hit[distance(frame, places[hit, 0], places[hit, 1]) == 0]
        for frame, hit in zip(frames, near, strict=True)
    ]


def wanted_frames(archives: Archives, found: Answered, bands: str) -> Iterator[Wanted]:
    """Yield the frames of a catalogue of fields."""
    for row in found.rows():
        run, rerun, camcol, number = (int(row[name]) for name in ("run", "rerun", "camcol", "field"))
        for band in bands:
            path, url = archives.frame(run, camcol, number, band, rerun)
            expect: dict[str, str | int] = {"RUN": run, "CAMCOL": camcol, "FILTER": band}
            expect["FRAME"] = number + FRAMES_BEHIND_R[band]
            yield Wanted(path, url, "frame", expect=expect)


def checked_bands(bands: str) -> str:
    """Return bands, in the survey's order.

    Raises
    ------
    UsageError
        One is none of u, g, r, i and z.
    """
    if not bands or set(bands) - set(BANDS):
        raise UsageError(f"'{bands}' are no bands", remedy="give some of u, g, r, i, z, e.g. --bands gri")
    return "".join(band for band in BANDS if band in bands)


def counted(groups: Iterable[Group]) -> int:
    """Return how many rows groups hold, or can."""
    return sum(group.expected if group.rows is None else group.rows for group in groups)
