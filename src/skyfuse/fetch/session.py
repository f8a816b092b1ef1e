"""One fetching from asking to having: the services, the ledger, what was answered, and how it ended."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skyfuse.fetch.archives import BYTES, Archives
from skyfuse.fetch.client import Client
from skyfuse.fetch.download import download
from skyfuse.fetch.gaia import CHUNK, Gaia
from skyfuse.fetch.ledger import Ledger, Tally, Wanted
from skyfuse.fetch.plan import Answered, Asking, Group, answered
from skyfuse.fetch.skyserver import SkyServer
from skyfuse.words import Progress

# Bytes of a file of each kind, for the look at the disk's room.
_TYPICAL = {
    "spectrum": BYTES["lite"],
    "frame": BYTES["frame"],
    "image": BYTES["image"],
    "table": BYTES["votes"],
    "xp": CHUNK * BYTES["xp"],
}


@dataclass(slots=True)
class Outcome:
    """What there is to tell.

    Attributes
    ----------
    groups : list of Group
        What the services were asked for and gave.
    files, bytes : int
        Files that were asked for in this run, and about how many bytes they have.
    tally : Tally or None
        Of the whole folder; None after a dry run.
    tables : list of Path
        Catalogues in the folder.
    remarks : list of str
        What else the user must know.
    """

    groups: list[Group] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    tally: Tally | None = None
    tables: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Session:
    """A fetching into one folder; use as a context manager.

    Parameters
    ----------
    folder : Path
    archives : Archives
    connections : int
    dry_run : bool
        Ask the services how much there is; write nothing.
    progress : callable
        ``(done, total, what)``.
    """

    def __init__(
        self,
        folder: Path,
        archives: Archives,
        *,
        connections: int = 20,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.folder, self.archives, self.dry_run = folder, archives, dry_run
        self.outcome = Outcome()
        self.progress: Progress = progress or (lambda done, total, what: None)
        self.client = Client(archives.hosts, connections=connections)
        self.skyserver = SkyServer(self.client, archives)
        self.gaia = Gaia(self.client, archives)
        self.ledger: Ledger | None = None

    def __enter__(self) -> Self:
        self.client.__enter__()
        if not self.dry_run:
            self.ledger = Ledger.open(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ledger is not None:
            self.ledger.__exit__(kind, error, trace)
        self.client.__exit__(kind, error, trace)

    def ask(
        self,
        kind: str,
        archive: str,
        options: Mapping[str, Any],
        asking: Asking,
        count: Callable[[], Iterable[Group]] | None = None,
    ) -> Answered | None:
        """Get a catalogue, or take the one that the folder has; on a dry run only count.

        Parameters
        ----------
        kind, archive, options, asking
            See `skyfuse.fetch.plan.answered`.
        count : callable, optional
            What a dry run does instead of asking for everything.

        Returns
        -------
        Answered or None
            None on a dry run.
        """
        if self.ledger is None:
            self.outcome.groups += asking(io.StringIO()) if count is None else count()
            return None
        found = answered(self.folder, kind, archive, options, asking, self.ledger)
        self.outcome.groups += found.groups
        self.outcome.tables.append(found.table)
        return found

    def expect(self, files: int, size: int) -> None:
        """Note how much is to come."""
        self.outcome.files += files
        self.outcome.bytes += size

    def get(self, wanted: Iterable[Wanted]) -> Tally | None:
        """Put files into the ledger and get all that waits there; None on a dry run."""
        if self.ledger is None:
            return None
        added = self.ledger.add(wanted)
        self.outcome.files = added.new + added.known
        if added.twice:
            self.outcome.remarks.append(f"{added.twice:,} times a row names a file that another row names")
        self.outcome.tally = download(self.client, self.ledger, typical=_TYPICAL, progress=self.progress)
        return self.outcome.tally
