"""The verbs of ``skyfuse fetch``: thin, one for each kind of data, and one that says how a folder stands."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skyfuse.errors import StoreError, UsageError
from skyfuse.terminal import Json, grouped, progress_bars, say

if TYPE_CHECKING:
    from skyfuse.fetch.gaia import Choice as Sources
    from skyfuse.fetch.ledger import Tally
    from skyfuse.fetch.plan import Answered, Region
    from skyfuse.fetch.sdss import Choice, Fields
    from skyfuse.fetch.session import Outcome, Session

app = typer.Typer(
    help="Get data from the archives: complete, resumable, and counted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
sdss = typer.Typer(
    help="Spectra, frames and catalogues of SDSS.", no_args_is_help=True, rich_markup_mode=None
)
gaia = typer.Typer(help="Sources and BP/RP spectra of Gaia.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sdss, name="sdss")
app.add_typer(gaia, name="gaia")

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Where the data go; the same command again resumes.")
]
Release = Annotated[str, typer.Option(help="Data release of SDSS: dr7 to dr19.")]
Connections = Annotated[int, typer.Option(help="Most connections at a time.", min=1, max=64)]
ConeText = Annotated[str | None, typer.Option("--cone", help="'RA DEC RADIUS', degrees.")]
BoxText = Annotated[
    str | None,
    typer.Option("--box", help="'RA_MIN RA_MAX DEC_MIN DEC_MAX', degrees; RA_MIN > RA_MAX spans RA 0."),
]


@dataclass(frozen=True)
class Access:
    """Where data go, how the archives are asked, and how it is told what came."""

    folder: Folder
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the queries and how much would come, and get nothing.")
    ] = False
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive", metavar="URL", help="A mirror or stand-in, instead of the archives' hosts."
        ),
    ] = None
    as_json: Json = False

    @contextmanager
    def session(self, *, release: str | None = None, connections: int = 1) -> Iterator[Session]:
        """Open a session that gets files into the folder; say at its end how it went."""
        from skyfuse.fetch.archives import DEFAULT_RELEASE, Archives, release_name
        from skyfuse.fetch.session import Session

        archives = Archives(release_name(release or DEFAULT_RELEASE), self.archive)
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError("is a file", path=self.folder, remedy="give a folder")
        with (
            progress_bars() as progress,
            Session(
                self.folder, archives, connections=connections, dry_run=self.dry_run, progress=progress
            ) as session,
        ):
            yield session
        _end(session.outcome, self.as_json)


@dataclass(frozen=True)
class ChosenSpectra:
    """Which spectra of SDSS, and what the catalogue tells of them."""

    per_class: Annotated[
        int | None, typer.Option(help="So many of each class, or all there are; --seed says which.", min=1)
    ] = None
    per_subclass: Annotated[
        int | None, typer.Option(help="So many of each subclass of each class, or all there are.", min=1)
    ] = None
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="GALAXY, QSO or STAR alone; may be repeated.")
    ] = None
    cone: ConeText = None
    box: BoxText = None
    sql: Annotated[
        Path | None,
        typer.Option(
            "--sql", help="File with a SELECT of your own: plate, mjd, fiberID, run2d, specObjID, …"
        ),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            help="Instead of the magnitudes, e.g. 's.velDisp,p.petroMag_r' (s: SpecObjAll, p: SpecPhotoAll)."
        ),
    ] = None
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Also repeated observations, and those with zWarning.")
    ] = False
    seed: Annotated[
        int,
        typer.Option(
            help="Where a class has more than asked, they come in the order of MD5(seed:specObjID): as good "
            "as random, the same each time, and a smaller choice is part of a larger one.",
            min=0,
        ),
    ] = 7

    @property
    def given(self) -> bool:
        """Whether any way to choose spectra is given."""
        ways = (self.per_class, self.per_subclass, self.classes or None, self.cone, self.box, self.sql)
        return any(way is not None for way in ways)

    def choice(self) -> Choice:
        """Return the options read and checked."""
        from skyfuse.fetch.sdss import COLUMNS, Choice

        return Choice(
            tuple(self.classes or ()),
            self.per_class,
            self.per_subclass,
            _region(self.cone, self.box),
            None if self.sql is None else _read(self.sql),
            COLUMNS if self.columns is None else _names(self.columns),
            self.repeats,
            self.seed,
        )


@dataclass(frozen=True)
class ChosenFields:
    """Which fields of SDSS's imaging."""

    cone: ConeText = None
    box: BoxText = None
    run: Annotated[int | None, typer.Option(help="A run: all its fields, or those of --camcol.", min=1)] = (
        None
    )
    camcol: Annotated[int | None, typer.Option(help="Camera column of --run, 1 to 6.")] = None
    fields: Annotated[
        str | None, typer.Option("--field", help="Fields of --run and --camcol, e.g. 122 or 100-130,140.")
    ] = None
    stripe: Annotated[int | None, typer.Option(help="All fields of a stripe, e.g. 82.", min=1)] = None
    objects: Annotated[
        Path | None, typer.Option(help="Table with ra and dec: every field that covers one of them.")
    ] = None
    primary: Annotated[
        bool, typer.Option("--primary", help="Of --objects, the field of each objid alone, without a query.")
    ] = False

    def choice(self) -> Fields:
        """Return the options read and checked."""
        from skyfuse.fetch.sdss import Fields

        return Fields(
            _region(self.cone, self.box),
            self.run,
            self.camcol,
            _ranges(self.fields),
            self.stripe,
            self.objects,
            self.primary,
        )


@dataclass(frozen=True)
class ChosenSources:
    """Which sources of Gaia, and what the table tells of them."""

    adql: Annotated[Path | None, typer.Option(help="File with an ADQL SELECT that gives source_id.")] = None
    cone: ConeText = None
    match: Annotated[
        Path | None, typer.Option(help="Table with ra and dec: every source within --radius of each row.")
    ] = None
    ids: Annotated[Path | None, typer.Option(help="Table with source_id.")] = None
    radius: Annotated[float, typer.Option(help="Arcsec, for --match; Gaia's positions are of 2016.0.")] = 1.0
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Of gaia_source, instead of the usual ones, with commas."),
    ] = None

    def choice(self) -> Sources:
        """Return the options read and checked."""
        from skyfuse.fetch.gaia import COLUMNS
        from skyfuse.fetch.gaia import Choice as Sources
        from skyfuse.sphere import Cone

        return Sources(
            None if self.adql is None else _read(self.adql),
            None if self.cone is None else Cone.parse(self.cone),
            self.match,
            self.ids,
            self.radius,
            COLUMNS if self.columns is None else _names(self.columns),
        )


_SHOWN = 20


@sdss.command()
@grouped
def spectra(
    chosen: ChosenSpectra,
    access: Access,
    list_: Annotated[
        Path | None, typer.Option("--list", help="Table with plate, mjd, fiberid (and run2d).")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With the single exposures, six times as large.")
    ] = False,
    release: Release = "dr17",
    connections: Connections = 24,
) -> None:
    """Get spectra, with a catalogue of their classes, redshifts and magnitudes.

    Example: skyfuse fetch sdss spectra sky/ --per-class 10000
    """
    from skyfuse.fetch import sdss as survey

    ask: Callable[[Session], Answered | None]
    if list_ is None:
        ask = partial(_catalogue, kind="spectra", choice=chosen.choice())
    elif chosen.given:
        raise UsageError("--list was given with another choice", remedy="give one of them")
    elif not list_.is_file():
        raise StoreError("does not exist", path=list_, remedy="name a table that exists")
    else:
        ask = partial(_listed, path=list_)
    with access.session(release=release, connections=connections) as session:
        found = ask(session)
        number = survey.counted(session.outcome.groups)
        session.expect(number, survey.spectrum_bytes(number, full=full))
        if found is not None:
            session.get(survey.wanted_spectra(session.archives, found, session.skyserver, full=full))


@sdss.command()
@grouped
def catalogue(
    chosen: ChosenSpectra,
    access: Access,
    release: Release = "dr17",
) -> None:
    """Get catalogue columns alone, of spectra or by a query of your own, as one CSV table.

    Example: skyfuse fetch sdss catalogue tables/ --cone "194.95 27.98 1"
    """
    choice = chosen.choice()
    with access.session(release=release) as session:
        _catalogue(session, "catalogue", choice)


@sdss.command()
@grouped
def frames(
    chosen: ChosenFields,
    access: Access,
    bands: Annotated[str, typer.Option(help="Bands.")] = "ugriz",
    release: Release = "dr17",
    connections: Connections = 10,
) -> None:
    """Get imaging frames of a region, of runs, or all that cover some objects.

    Example: skyfuse fetch sdss frames coma/ --cone "194.95 27.98 0.5" --bands gri
    """
    from skyfuse.disk import sha256
    from skyfuse.fetch import sdss as survey
    from skyfuse.fetch.archives import BYTES

    bands = survey.checked_bands(bands)
    choice = chosen.choice()
    with access.session(release=release, connections=connections) as session:
        objects = None if choice.objects is None else sha256(choice.objects)
        options = {**asdict(choice), "objects": objects}
        found = session.ask(
            "frames",
            "sdss",
            {**options, "release": session.archives.release.name},
            lambda file: survey.write_fields(session.skyserver, choice, file, session.progress),
        )
        number = survey.counted(session.outcome.groups) * len(bands)
        session.expect(number, number * BYTES["frame"])
        if found is not None:
            session.get(survey.wanted_frames(session.archives, found, bands))


@gaia.command()
@grouped
def sources(
    chosen: ChosenSources,
    access: Access,
) -> None:
    """Get sources of Gaia DR3 by a query, in a cone, or by cross-match with a table.

    Example: skyfuse fetch gaia sources gaia/ --match galaxies.csv --radius 1
    """
    choice = chosen.choice()
    with access.session(connections=4) as session:
        _gaia_sources(session, choice)


@gaia.command()
@grouped
def xp(
    chosen: ChosenSources,
    access: Access,
    connections: Annotated[int, typer.Option(help="Most connections at a time.", min=1, max=16)] = 4,
) -> None:
    """Get BP/RP spectra of Gaia DR3, as coefficients, of all sources that are chosen and have one.

    Example: skyfuse fetch gaia xp xp/ --adql galaxies.adql
    """
    from skyfuse.fetch import gaia as archive_of_gaia
    from skyfuse.fetch.archives import BYTES

    choice = chosen.choice()
    with access.session(connections=connections) as session:
        found = _gaia_sources(session, choice)
        if found is None:
            number = sum(group.expected for group in session.outcome.groups)
            session.expect(-(-number // archive_of_gaia.CHUNK), number * BYTES["xp"])
        else:
            numbers = archive_of_gaia.with_spectra(found)
            session.expect(-(-len(numbers) // archive_of_gaia.CHUNK), len(numbers) * BYTES["xp"])
            session.get(archive_of_gaia.wanted_xp(session.archives, numbers))
            files = (
                access.folder / wanted.path for wanted in archive_of_gaia.wanted_xp(session.archives, numbers)
            )
            came = archive_of_gaia.came(path for path in files if path.exists())
            missing = sorted(set(numbers) - came)
            told = f"{len(came):,} of {len(numbers):,} sources have a spectrum in the folder"
            if missing:
                told += f"; the others are in {archive_of_gaia.write_missing(access.folder, missing)}"
            session.outcome.remarks.append(told)


@app.command()
@grouped
def sfr(access: Access) -> None:
    """Get the MPA-JHU star-formation rates of SDSS DR7, with the table that says whose they are.

    Example: skyfuse fetch sfr sky/
    """
    from skyfuse.fetch.archives import SFR_TABLES
    from skyfuse.fetch.tables import wanted_sfr

    with access.session(connections=len(SFR_TABLES)) as session:
        session.expect(len(SFR_TABLES), sum(SFR_TABLES.values()))
        session.get(wanted_sfr(session.archives))


@app.command()
@grouped
def galaxyzoo(
    access: Access,
    images: Annotated[
        int, typer.Option(help="Colour images of so many of its galaxies, or of all there are.", min=0)
    ] = 0,
    size: Annotated[int, typer.Option(help="Pixels on a side of the images.")] = 424,
    seed: Annotated[int, typer.Option(help="Images come in the order of MD5(seed:dr7objid).", min=0)] = 7,
    release: Release = "dr17",
    connections: Connections = 10,
) -> None:
    """Get the votes of Galaxy Zoo 2, and colour images of its galaxies cut out by SkyServer.

    Example: skyfuse fetch galaxyzoo zoo/ --images 5000
    """
    from skyfuse.fetch import tables
    from skyfuse.fetch.archives import BYTES

    size = tables.checked_size(size)
    with access.session(release=release, connections=connections) as session:
        weight = BYTES["votes"] + (BYTES["sample"] + images * BYTES["image"] if images else 0)
        session.expect(1 + (1 + images if images else 0), weight)
        tally = session.get(tables.wanted_votes(session.archives, sample=bool(images)))
        if tally is not None and images and not tally.rejected:
            chosen = tables.choose_images(access.folder, session.archives, images, seed)
            if chosen.available < images:
                session.outcome.remarks.append(f"asked {images:,} images, there are {chosen.available:,}")
            if chosen.without:
                session.outcome.remarks.append(f"{chosen.without:,} galaxies have no size, and no image")
            session.get(tables.wanted_images(session.archives, chosen, size))


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say what was asked, what came, what did not and why.

    Example: skyfuse fetch status sky/
    """
    from skyfuse.fetch.ledger import Ledger

    with Ledger.open(folder, create=False) as ledger:
        tally, queries = ledger.tally(), ledger.queries()
        rejected = islice(ledger.rejected(), None if as_json else _SHOWN)
        missing = [dict(zip(("path", "reason", "remark"), row, strict=True)) for row in rejected]
    lines = [("folder", str(folder)), *_tally(tally)]
    for query in queries:
        there = "" if query.available is None else f" of {query.available:,}"
        lines.append(
            (query.name, f"{query.rows:,}{there} rows" + (f": {query.remark}" if query.remark else ""))
        )
    text = [_aligned(lines), *(f"{row['path']}: {row['reason']}: {row['remark']}" for row in missing)]
    if tally.rejected > len(missing):
        text.append(f"… and {tally.rejected - len(missing):,} more; --json lists them all")
    data = {**asdict(tally), "queries": [asdict(query) for query in queries], "missing": missing}
    say("\n".join(text), as_json, data)


# ---------------------------------------------------------------------------------------------------- helpers


def _catalogue(session: Session, kind: str, choice: Choice) -> Answered | None:
    """Get the catalogue of chosen spectra; on a dry run count them."""
    from skyfuse.fetch import sdss as survey

    server = session.skyserver
    return session.ask(
        kind,
        "sdss",
        {**asdict(choice), "release": session.archives.release.name},
        lambda file: survey.write(server, survey.strata(server, choice), file, session.progress),
        lambda: (stratum.group() for stratum in survey.strata(server, choice)),
    )


def _listed(session: Session, path: Path) -> Answered | None:
    """Get the catalogue of the spectra that a table lists."""
    from skyfuse.disk import sha256
    from skyfuse.fetch import sdss as survey

    options = {"list": sha256(path), "release": session.archives.release.name}
    return session.ask(
        "spectra", "sdss", options, lambda file: survey.write_list(session.skyserver, path, file)
    )


def _gaia_sources(session: Session, choice: Sources) -> Answered | None:
    """Get the table of chosen sources; on a dry run count them."""
    from skyfuse.disk import sha256
    from skyfuse.fetch import gaia as archive_of_gaia
    from skyfuse.fetch.plan import Group

    given = {"match": choice.match, "ids": choice.ids}
    options = asdict(choice) | {name: sha256(path) for name, path in given.items() if path is not None}
    service = session.gaia

    def count() -> Iterable[Group]:
        query = archive_of_gaia.selection(choice)
        if choice.match is None and choice.ids is None:
            return [Group("sources", query.sql(), None, sum(service.count(query).values()))]
        return archive_of_gaia.write(service, choice, io.StringIO(), session.progress)

    return session.ask(
        "gaia",
        "gaia",
        options,
        lambda file: archive_of_gaia.write(service, choice, file, session.progress),
        count,
    )


def _end(outcome: Outcome, as_json: bool) -> None:
    """Say how it ended; exit with 1 where anything was rejected."""
    lines: list[tuple[str, str]] = []
    dry = outcome.tally is None and not outcome.tables
    for group in outcome.groups:
        known = group.expected if group.rows is None else group.rows
        there = "" if group.available is None else f" of {group.available:,}"
        lines.append((group.name, f"{known:,}{there}" + (f": {group.remark}" if group.remark else "")))
    if outcome.tally is not None:
        lines += _tally(outcome.tally)
    elif outcome.files:
        lines.append(("would come", f"{outcome.files:,} files, about {_size(outcome.bytes)}"))
    lines += [("table", str(table)) for table in outcome.tables]
    lines += [("note", remark) for remark in outcome.remarks]
    queries = [group.sql for group in outcome.groups if group.sql] if dry else []
    data = {
        "groups": [{**asdict(group), "remark": group.remark} for group in outcome.groups],
        "files": outcome.files,
        "bytes": outcome.bytes,
        "tally": None if outcome.tally is None else asdict(outcome.tally),
        "tables": outcome.tables,
        "remarks": outcome.remarks,
    }
    say("\n".join([*queries, _aligned(lines)]), as_json, data)
    if outcome.tally is not None and outcome.tally.rejected:
        raise typer.Exit(1)


def _tally(tally: Tally) -> list[tuple[str, str]]:
    lines = [
        (
            "files",
            f"{tally.asked:,} asked = {tally.received:,} received + {tally.rejected:,} rejected"
            f" + {tally.waiting:,} waiting",
        ),
        ("received", _size(tally.bytes)),
    ]
    lines += [(f"rejected: {reason}", f"{count:,}") for reason, count in sorted(tally.reasons.items())]
    if tally.faults:
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(tally.faults.items()))
        lines.append(("tries that failed", told))
    return lines


def _aligned(lines: list[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in lines), default=0) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


def _size(number: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if number >= 10**power:
            return f"{number / 10**power:,.1f} {unit}"
    return f"{number} bytes"


def _region(cone: str | None, box: str | None) -> Region | None:
    from skyfuse.sphere import Box, Cone

    if cone is not None and box is not None:
        raise UsageError("--cone and --box were given together", remedy="give one region")
    if cone is not None:
        return Cone.parse(cone)
    return None if box is None else Box.parse(box)


def _ranges(text: str | None) -> tuple[int, ...]:
    """Read ``100-130,140``."""
    numbers: list[int] = []
    for word in [] if text is None else text.replace(",", " ").split():
        first, _, last = word.partition("-")
        if not (
            first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first) < 10_000
        ):
            raise UsageError(
                f"'{text}' are no fields", remedy="write e.g. --field 122 or --field 100-130,140"
            )
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))


def _names(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


def _read(path: Path) -> str:
    """Read a query.

    Raises
    ------
    StoreError
        The file is not there, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            "cannot be read as a query", path=path, remedy="give a text file with one SELECT"
        ) from error
