"""The Gaia archive: sources by ADQL through its table access service, BP and RP spectra through DataLink.

Queries run as asynchronous jobs of the IVOA's Table Access Protocol 1.1 (UWS for the jobs, an upload for a
table to match with), the way that the archive's own pages and ``astroquery.utils.tap`` go. Not through
``pyvo``, which the client here replaces: a job whose answer is lost on its way is asked for again, waits obey
the server's Retry-After, and no answer comes from another host.

The service gives no more than 3 million rows, and CSV does not say where it cuts; so queries are cut into
pages by source_id. DataLink takes 5000 sources a call and leaves out, without a word, those that it has no
spectrum of (https://github.com/astropy/astroquery/issues/2973); so what came is compared with what was asked.
Its continuous spectra as one CSV table (``RETRIEVAL_TYPE=XP_CONTINUOUS``, ``DATA_STRUCTURE=RAW``) are what
`skyfuse.survey.gaia.read_xp` reads; the sampled ones of DR3 are calibrated otherwise and on another grid.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlencode

import numpy as np

from skyfuse.errors import DataError, UsageError
from skyfuse.fetch import sql
from skyfuse.fetch.archives import GAIA_RELEASE, GAIA_ROWS, XP_SOURCES, Archives
from skyfuse.fetch.ledger import Wanted
from skyfuse.fetch.plan import (
    Answered,
    Group,
    pick,
    positions,
    require_area,
    user_table,
    whole_file,
    whole_numbers,
)
from skyfuse.fetch.sql import PAGE, Answer, Selection, Service, opening, read
from skyfuse.sphere import Cone
from skyfuse.words import Progress

SOURCES = "gaiadr3.gaia_source"
COLUMNS = (
    *("source_id", "ra", "dec", "parallax", "parallax_error", "pmra", "pmdec", "ruwe"),
    *("phot_g_mean_mag", "phot_bp_mean_mag", "phot_rp_mean_mag", "has_xp_continuous"),
)
"""Columns of gaia_source that are got unless others are named."""
FOLDER = "gaia/xp"
"""Where spectra go."""
CHUNK = 1000
"""Sources of a file of spectra: some 40 MB."""
UPLOADED = 10_000
"""Positions that are matched at a time."""

_LONGEST_WAIT = 10.0
_YES = ("true", "t", "1")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which sources are wanted: one of four ways.

    Attributes
    ----------
    adql : str or None
        A query that gives source_id.
    cone : Cone or None
    match : Path or None
        A table with ra and dec; all sources within `radius` of each position.
    ids : Path or None
        A table with source_id.
    radius : float
        Arcsec.
    columns : tuple of str
        Of gaia_source.
    """

    adql: str | None = None
    cone: Cone | None = None
    match: Path | None = None
    ids: Path | None = None
    radius: float = 1.0
    columns: tuple[str, ...] = COLUMNS

    def __post_init__(self) -> None:
        require_area(self.cone)
        ways = [way for way in (self.adql, self.cone, self.match, self.ids) if way is not None]
        if len(ways) != 1:
            raise UsageError(
                f"{'several ways' if ways else 'no way'} to choose sources is given",
                remedy="give one of --adql, --cone, --match and --ids",
            )
        if not 0 < self.radius <= 3600:
            raise UsageError(f"the radius is {self.radius} arcsec", remedy="give one of up to 3600")


class Gaia(Service):
    """Gaia's table access service; its parameters are those of `Service`."""

    page = min(PAGE, GAIA_ROWS)
    upload: bytes | None = None

    def ask(self, query: str) -> Answer:
        """Run one query as a job, with the table `upload` as ``tap_upload.positions`` where there is one."""
        return read(self._job(query).decode("utf-8", errors="replace"))

    def _job(self, adql: str) -> bytes:
        fields = {"REQUEST": "doQuery", "LANG": "ADQL", "FORMAT": "csv", "PHASE": "RUN", "QUERY": adql}
        files = None
        if self.upload is not None:
            fields["UPLOAD"] = "positions,param:positions"
            files = {"positions": ("positions.vot", self.upload, "application/x-votable+xml")}
        job = self._client.post(f"{self._archives.tap}/async", data=fields, files=files).url
        if not re.search(r"/async/[^/?#]+$", job):
            raise DataError("the Gaia archive starts no job", remedy="give the same command again later")
        wait, end = 0.1, self._clock.now() + self._client.bounds.job
        while (phase := self._phase(job)) not in ("COMPLETED", "ERROR", "ABORTED"):
            if self._clock.now() > end:
                raise DataError(
                    f"the Gaia archive does not end the query within {self._client.bounds.job:g} s "
                    f"({opening(phase)[:40]})",
                    remedy="narrow it down, or give the same command again later",
                )
            self._clock.sleep(wait)
            wait = min(1.5 * wait, _LONGEST_WAIT)
        if phase != "COMPLETED":
            said = opening(self._client.get(f"{job}/error").content.decode("utf-8", errors="replace"))
            raise DataError(f"the Gaia archive refuses the query ({said})", remedy="change the query")
        content = self._client.get(f"{job}/results/result", accept=_accept).content
        self._client.post(job, data={"ACTION": "DELETE"}, ok=(200, 303, 403, 404))
        return content

    def _phase(self, job: str) -> str:
        return self._client.get(f"{job}/phase").content.decode("ascii", errors="replace").strip().upper()


def _accept(content: bytes) -> None:
    """Refuse what is no whole table."""
    read(content.decode("utf-8", errors="replace"))


def selection(choice: Choice) -> Selection:
    """Return the query for the sources.

    Raises
    ------
    UsageError
        The query is not one SELECT, or a column is no name.
    """
    columns = [sql.column(name) for name in choice.columns]
    if not any(name.lower().split(".")[-1] == "source_id" for name in columns):
        columns.insert(0, "source_id")
    named = [f"g.{name.split('.')[-1]}" for name in dict.fromkeys(columns)]
    there, joined = "POINT('ICRS', g.ra, g.dec)", f"tap_upload.positions AS u JOIN {SOURCES} AS g"
    if choice.adql is not None:
        query = choice.adql
    elif choice.cone is not None:
        within = f"1 = CONTAINS({there}, CIRCLE('ICRS', {_circle(choice.cone)}))"
        query = sql.select(named, f"{SOURCES} AS g", [within])
    elif choice.match is not None:
        separation = f"3600 * DISTANCE({there}, POINT('ICRS', u.ra, u.dec)) AS separation"
        within = f"1 = CONTAINS({there}, CIRCLE('ICRS', u.ra, u.dec, {choice.radius / 3600:.10f}))"
        query = sql.select(["u.match_row", separation, *named], f"{joined} ON {within}")
    else:
        query = sql.select(named, f"{joined} ON g.source_id = u.source_id")
    chosen = sql.wrapped(query)
    return Selection(("q.*",), chosen.source, (), "source_id", "q.source_id")


def _circle(cone: Cone) -> str:
    return f"{cone.ra:.10f}, {cone.dec:.10f}, {cone.radius:.10f}"


def write(service: Gaia, choice: Choice, file: TextIO, progress: Progress) -> Iterator[Group]:
    """Write the sources as one CSV table; yield what came.

    Raises
    ------
    DataError
        Not one source came, columns are missing, or as `Gaia.ask`.
    """
    writer = csv.writer(file, lineterminator="\n")
    chosen = selection(choice)
    header: list[str] = []
    rows = asked = 0
    ids, unnamed = ([], 0) if choice.ids is None else source_ids(choice.ids)
    for total, upload in _uploads(choice, ids):
        progress(asked, total, "asking the Gaia archive")
        if upload is not None:
            asked += upload[0]
            service.upload = upload[1]
        for answer in service.rows(chosen):
            if not header and answer.columns:
                header = answer.columns
                if "source_id" not in (name.lower() for name in header):
                    raise DataError("the query gives no source_id", remedy="add it to the columns")
                writer.writerow(header)
            for row in answer.rows:
                writer.writerow(row)
                rows += 1
        progress(asked or total, total, "asking the Gaia archive")
    service.upload = None
    if not rows:
        raise DataError("the archive has nothing of what was asked", remedy="widen the choice")
    note = f"for {asked:,} rows of {(choice.match or choice.ids or Path()).name}" if asked else ""
    if unnamed:
        note += f", and {unnamed:,} without a number"
    yield Group("sources", chosen.sql(), None, None, rows, note)


def _uploads(choice: Choice, ids: Sequence[int]) -> Iterator[tuple[int, tuple[int, bytes] | None]]:
    """Yield the number of all rows, and a table to upload with its own; None where the query needs none."""
    if choice.match is not None:
        places = positions(user_table(choice.match), choice.match)
        for start in range(0, len(places), UPLOADED):
            part = places[start : start + UPLOADED]
            numbers = np.arange(start, start + len(part))
            yield (
                len(places),
                (len(part), _votable({"match_row": numbers, "ra": part[:, 0], "dec": part[:, 1]})),
            )
    elif choice.ids is not None:
        for start in range(0, len(ids), UPLOADED):
            some = ids[start : start + UPLOADED]
            yield len(ids), (len(some), _votable({"source_id": np.array(some, np.int64)}))
    else:
        yield 1, None


def source_ids(path: Path) -> tuple[list[int], int]:
    """Return the numbers of Gaia's sources in a table, each once, sorted, and how many rows have none.

    Raises
    ------
    DataError
        There is no column of them, it was rounded, or it holds other things, too.
    """
    names = ("source_id", "dr3_source_id", "gaia_source_id", "designation")
    column = pick(user_table(path), names)
    if column is None:
        raise DataError("it has no column source_id", path=path, remedy="give one, or use --match")
    found = whole_numbers(column, path)
    numbers = {number for number in found if number is not None}
    if not 0 <= min(numbers) <= max(numbers) < 1 << 63:
        raise DataError(
            f"its column {column.name} holds numbers that are none of Gaia's",
            path=path,
            remedy="give source_id as Gaia's archive writes it",
        )
    return sorted(numbers), found.count(None)


def _votable(columns: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]) -> bytes:
    from astropy.io import votable
    from astropy.table import Table

    buffer = io.BytesIO()
    votable.from_table(Table(columns)).to_xml(buffer)
    return buffer.getvalue()


def with_spectra(found: Answered) -> list[int]:
    """Return the sources of a catalogue that have spectra, as far as it says, each once, sorted."""
    numbers = set()
    for row in found.rows():
        if row.get("has_xp_continuous", "true").strip().lower() in _YES:
            numbers.add(sql.number(row["source_id"]))
    return sorted(numbers)


def wanted_xp(archives: Archives, numbers: Sequence[int], chunk: int = CHUNK) -> Iterator[Wanted]:
    """Yield files of the spectra of so many sources each."""
    size = min(chunk, XP_SOURCES)
    for start in range(0, len(numbers), size):
        listed = ",".join(map(str, numbers[start : start + size]))
        name = hashlib.sha256(listed.encode()).hexdigest()[:12]
        fields = {
            "ID": listed,
            "RELEASE": GAIA_RELEASE,
            "RETRIEVAL_TYPE": "XP_CONTINUOUS",
            "DATA_STRUCTURE": "RAW",
            "FORMAT": "csv",
        }
        yield Wanted(f"{FOLDER}/xp-{name}.csv", archives.datalink, "xp", data=urlencode(fields))


def came(files: Iterable[Path]) -> set[int]:
    """Return the sources that files of spectra hold.

    Raises
    ------
    DataError
        A file has no column of them.
    """
    found: set[int] = set()
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            names = next(file, "").strip().split(",")
            try:
                at = names.index("source_id")
                # Numbers stand before the quoted vectors, so that splitting at commas finds them.
                found.update(int(line.split(",", at + 1)[at]) for line in file if line.strip())
            except (ValueError, IndexError) as error:
                raise DataError(
                    "it does not say whose its spectra are",
                    path=path,
                    remedy="delete it and give the same command again",
                ) from error
    return found


def write_missing(folder: Path, numbers: Iterable[int]) -> Path:
    """Write the sources that the archive gave no spectrum of; return the table."""
    path = folder / "gaia" / "missing.csv"
    with whole_file(path) as file:
        csv.writer(file, lineterminator="\n").writerows([["source_id"], *([number] for number in numbers)])
    return path
