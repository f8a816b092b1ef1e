"""The verbs of ``skyfuse fetch``: thin, one for each kind of data, and one that says how a folder stands."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfuse.errors import StoreError, UsageError
from skyfuse.terminal import Json, progress_bars, say

if TYPE_CHECKING:
    from skyfuse.fetch.ledger import Tally
    from skyfuse.fetch.plan import Answered, Region
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
Address = Annotated[
    str | None,
    typer.Option("--archive", metavar="URL", help="A mirror or stand-in, instead of the archives' hosts."),
]
Connections = Annotated[int, typer.Option(help="Most connections at a time.", min=1, max=64)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the queries and how much would come, and get nothing.")
]
PerClass = Annotated[
    int | None, typer.Option(help="So many of each class, or all there are; --seed says which.", min=1)
]
PerSubclass = Annotated[
    int | None, typer.Option(help="So many of each subclass of each class, or all there are.", min=1)
]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="GALAXY, QSO or STAR alone; may be repeated.")
]
ConeText = Annotated[str | None, typer.Option("--cone", help="'RA DEC RADIUS', degrees.")]
BoxText = Annotated[
    str | None,
    typer.Option("--box", help="'RA_MIN RA_MAX DEC_MIN DEC_MAX', degrees; RA_MIN > RA_MAX spans RA 0."),
]
SqlFile = Annotated[
    Path | None,
    typer.Option("--sql", help="File with a SELECT of your own: plate, mjd, fiberID, run2d, specObjID, …"),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Instead of the magnitudes, e.g. 's.velDisp,p.petroMag_r' (s: SpecObjAll, p: SpecPhotoAll)."
    ),
]
Repeats = Annotated[
    bool, typer.Option("--repeats", help="Also repeated observations, and those with zWarning.")
]
Seed = Annotated[
    int,
    typer.Option(
        help="Where a class has more than asked, they come in the order of MD5(seed:specObjID): as good as "
        "random, the same each time, and a smaller choice is part of a larger one.",
        min=0,
    ),
]
Adql = Annotated[Path | None, typer.Option(help="File with an ADQL SELECT that gives source_id.")]
Match = Annotated[
    Path | None, typer.Option(help="Table with ra and dec: every source within --radius of each row.")
]
Ids = Annotated[Path | None, typer.Option(help="Table with source_id.")]
Radius = Annotated[float, typer.Option(help="Arcsec, for --match; Gaia's positions are of 2016.0.")]
SourceColumns = Annotated[
    str | None, typer.Option("--columns", help="Of gaia_source, instead of the usual ones, with commas.")
]

_SHOWN = 20


@sdss.command()
def spectra(
    folder: Folder,
    per_class: PerClass = None,
    per_subclass: PerSubclass = None,
    classes: Classes = None,
    cone: ConeText = None,
    box: BoxText = None,
    list_: Annotated[
        Path | None, typer.Option("--list", help="Table with plate, mjd, fiberid (and run2d).")
    ] = None,
    sql: SqlFile = None,
    columns: Columns = None,
    repeats: Repeats = False,
    full: Annotated[
        bool, typer.Option("--full", help="With the single exposures, six times as large.")
    ] = False,
    seed: Seed = 7,
    release: Release = "dr17",
    dry_run: DryRun = False,
    connections: Connections = 24,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get spectra, with a catalogue of their classes, redshifts and magnitudes.

    Example: skyfuse fetch sdss spectra sky/ --per-class 10000
    """
    from skyfuse.fetch import sdss as survey

    choice = None
    if list_ is None:
        choice = _choice(per_class, per_subclass, classes, cone, box, sql, columns, repeats, seed)
    elif any(way is not None for way in (per_class, per_subclass, classes or None, cone, box, sql)):
        raise UsageError("--list was given with another choice", remedy="give one of them")
    elif not list_.is_file():
        raise StoreError("does not exist", path=list_, remedy="name a table that exists")
    with _session(folder, release, archive, connections, dry_run) as session:
        found = _catalogue(session, "spectra", choice) if list_ is None else _listed(session, list_)
        number = survey.counted(session.outcome.groups)
        session.expect(number, survey.spectrum_bytes(number, full=full))
        if found is not None:
            session.get(survey.wanted_spectra(session.archives, found, session.skyserver, full=full))
    _end(session.outcome, as_json)


@sdss.command()
def catalogue(
    folder: Folder,
    per_class: PerClass = None,
    per_subclass: PerSubclass = None,
    classes: Classes = None,
    cone: ConeText = None,
    box: BoxText = None,
    sql: SqlFile = None,
    columns: Columns = None,
    repeats: Repeats = False,
    seed: Seed = 7,
    release: Release = "dr17",
    dry_run: DryRun = False,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get catalogue columns alone, of spectra or by a query of your own, as one CSV table.

    Example: skyfuse fetch sdss catalogue tables/ --cone "194.95 27.98 1"
    """
    choice = _choice(per_class, per_subclass, classes, cone, box, sql, columns, repeats, seed)
    with _session(folder, release, archive, 1, dry_run) as session:
        _catalogue(session, "catalogue", choice)
    _end(session.outcome, as_json)


@sdss.command()
def frames(
    folder: Folder,
    cone: ConeText = None,
    box: BoxText = None,
    run: Annotated[
        int | None, typer.Option(help="A run: all its fields, or those of --camcol.", min=1)
    ] = None,
    camcol: Annotated[int | None, typer.Option(help="Camera column of --run, 1 to 6.")] = None,
    fields: Annotated[
        str | None, typer.Option("--field", help="Fields of --run and --camcol, e.g. 122 or 100-130,140.")
    ] = None,
    stripe: Annotated[int | None, typer.Option(help="All fields of a stripe, e.g. 82.", min=1)] = None,
    objects: Annotated[
        Path | None, typer.Option(help="Table with ra and dec: every field that covers one of them.")
    ] = None,
    primary: Annotated[
        bool, typer.Option("--primary", help="Of --objects, the field of each objid alone, without a query.")
    ] = False,
    bands: Annotated[str, typer.Option(help="Bands.")] = "ugriz",
    release: Release = "dr17",
    dry_run: DryRun = False,
    connections: Connections = 10,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get imaging frames of a region, of runs, or all that cover some objects.

    Example: skyfuse fetch sdss frames coma/ --cone "194.95 27.98 0.5" --bands gri
    """
    from skyfuse.disk import sha256
    from skyfuse.fetch import sdss as survey
    from skyfuse.fetch.archives import BYTES

    bands = survey.checked_bands(bands)
    chosen = survey.Fields(_region(cone, box), run, camcol, _ranges(fields), stripe, objects, primary)
    with _session(folder, release, archive, connections, dry_run) as session:
        options = {**asdict(chosen), "objects": None if objects is None else sha256(objects)}
        found = session.ask(
            "frames",
            "sdss",
            {**options, "release": session.archives.release.name},
            lambda file: survey.write_fields(session.skyserver, chosen, file, session.progress),
        )
        number = survey.counted(session.outcome.groups) * len(bands)
        session.expect(number, number * BYTES["frame"])
        if found is not None:
            session.get(survey.wanted_frames(session.archives, found, bands))
    _end(session.outcome, as_json)


@gaia.command()
def sources(
    folder: Folder,
    adql: Adql = None,
    cone: ConeText = None,
    match: Match = None,
    ids: Ids = None,
    radius: Radius = 1.0,
    columns: SourceColumns = None,
    dry_run: DryRun = False,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get sources of Gaia DR3 by a query, in a cone, or by cross-match with a table.

    Example: skyfuse fetch gaia sources gaia/ --match galaxies.csv --radius 1
    """
    choice = _gaia_choice(adql, cone, match, ids, radius, columns)
    with _session(folder, None, archive, 4, dry_run) as session:
        _gaia_sources(session, choice)
    _end(session.outcome, as_json)


@gaia.command()
def xp(
    folder: Folder,
    adql: Adql = None,
    cone: ConeText = None,
    match: Match = None,
    ids: Ids = None,
    radius: Radius = 1.0,
    columns: SourceColumns = None,
    dry_run: DryRun = False,
    connections: Annotated[int, typer.Option(help="Most connections at a time.", min=1, max=16)] = 4,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get BP/RP spectra of Gaia DR3, as coefficients, of all sources that are chosen and have one.

    Example: skyfuse fetch gaia xp xp/ --adql galaxies.adql
    """
    from skyfuse.fetch import gaia as archive_of_gaia
    from skyfuse.fetch.archives import BYTES

    choice = _gaia_choice(adql, cone, match, ids, radius, columns)
    with _session(folder, None, archive, connections, dry_run) as session:
        found = _gaia_sources(session, choice)
        if found is None:
            number = sum(group.expected for group in session.outcome.groups)
            session.expect(-(-number // archive_of_gaia.CHUNK), number * BYTES["xp"])
        else:
            numbers = archive_of_gaia.with_spectra(found)
            session.expect(-(-len(numbers) // archive_of_gaia.CHUNK), len(numbers) * BYTES["xp"])
            session.get(archive_of_gaia.wanted_xp(session.archives, numbers))
            files = (folder / wanted.path for wanted in archive_of_gaia.wanted_xp(session.archives, numbers))
            came = archive_of_gaia.came(path for path in files if path.exists())
            missing = sorted(set(numbers) - came)
            told = f"{len(came):,} of {len(numbers):,} sources have a spectrum in the folder"
            if missing:
                told += f"; the others are in {archive_of_gaia.write_missing(folder, missing)}"
            session.outcome.remarks.append(told)
    _end(session.outcome, as_json)


@app.command()
def sfr(
    folder: Folder,
    dry_run: DryRun = False,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get the MPA-JHU star-formation rates of SDSS DR7, with the table that says whose they are.

    Example: skyfuse fetch sfr sky/
    """
    from skyfuse.fetch.archives import SFR_TABLES
    from skyfuse.fetch.tables import wanted_sfr

    with _session(folder, None, archive, len(SFR_TABLES), dry_run) as session:
        session.expect(len(SFR_TABLES), sum(SFR_TABLES.values()))
        session.get(wanted_sfr(session.archives))
    _end(session.outcome, as_json)


@app.command()
def galaxyzoo(
    folder: Folder,
    images: Annotated[
        int, typer.Option(help="Colour images of so many of its galaxies, or of all there are.", min=0)
    ] = 0,
    size: Annotated[int, typer.Option(help="Pixels on a side of the images.")] = 424,
    seed: Annotated[int, typer.Option(help="Images come in the order of MD5(seed:dr7objid).", min=0)] = 7,
    release: Release = "dr17",
    dry_run: DryRun = False,
    connections: Connections = 10,
    archive: Address = None,
    as_json: Json = False,
) -> None:
    """Get the votes of Galaxy Zoo 2, and colour images of its galaxies cut out by SkyServer.

    Example: skyfuse fetch galaxyzoo zoo/ --images 5000
    """
    from skyfuse.fetch import tables
    from skyfuse.fetch.archives import BYTES

    size = tables.checked_size(size)
    with _session(folder, release, archive, connections, dry_run) as session:
        weight = BYTES["votes"] + (BYTES["sample"] + images * BYTES["image"] if images else 0)
        session.expect(1 + (1 + images if images else 0), weight)
        tally = session.get(tables.wanted_votes(session.archives, sample=bool(images)))
        if tally is not None and images and not tally.rejected:
            chosen = tables.choose_images(folder, session.archives, images, seed)
            if chosen.available < images:
                session.outcome.remarks.append(f"asked {images:,} images, there are {chosen.available:,}")
            if chosen.without:
                session.outcome.remarks.append(f"{chosen.without:,} galaxies have no size, and no image")
            session.get(tables.wanted_images(session.archives, chosen, size))
    _end(session.outcome, as_json)


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


@contextmanager
def _session(
    folder: Path, release: str | None, archive: str | None, connections: int, dry_run: bool
) -> Iterator[Session]:
    from skyfuse.fetch.archives import DEFAULT_RELEASE, Archives, release_name
    from skyfuse.fetch.session import Session

    archives = Archives(release_name(release or DEFAULT_RELEASE), archive)
    if folder.exists() and not folder.is_dir():
        raise StoreError("is a file", path=folder, remedy="give a folder")
    with (
        progress_bars() as progress,
        Session(folder, archives, connections=connections, dry_run=dry_run, progress=progress) as session,
    ):
        yield session


def _choice(
    per_class: int | None,
    per_subclass: int | None,
    classes: list[str] | None,
    cone: str | None,
    box: str | None,
    sql: Path | None,
    columns: str | None,
    repeats: bool,
    seed: int,
) -> Any:
    from skyfuse.fetch.sdss import COLUMNS, Choice

    return Choice(
        tuple(classes or ()),
        per_class,
        per_subclass,
        _region(cone, box),
        None if sql is None else _read(sql),
        COLUMNS if columns is None else _names(columns),
        repeats,
        seed,
    )


def _catalogue(session: Session, kind: str, choice: Any) -> Answered | None:
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


def _gaia_choice(
    adql: Path | None,
    cone: str | None,
    match: Path | None,
    ids: Path | None,
    radius: float,
    columns: str | None,
) -> Any:
    from skyfuse.fetch.gaia import COLUMNS, Choice
    from skyfuse.sphere import Cone

    return Choice(
        None if adql is None else _read(adql),
        None if cone is None else Cone.parse(cone),
        match,
        ids,
        radius,
        COLUMNS if columns is None else _names(columns),
    )


def _gaia_sources(session: Session, choice: Any) -> Answered | None:
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
