"""What stands in a cube already, and that a further build loses none of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skyfuse.checksums import read_checksums, read_stamped, verified
from skyfuse.cube.catalogue import read_catalogue
from skyfuse.cube.layout import FORMAT, VERSION
from skyfuse.cube.scan import Record, Reject, is_unchanged, name_of
from skyfuse.cube.tiles import TilePlan
from skyfuse.disk import read_json, sha256
from skyfuse.errors import StoreError

REPLACE = "name a new cube, or build with --replace if the cube may lose what it holds"


@dataclass(frozen=True)
class Standing:
    """Files that a cube was built from.

    Attributes
    ----------
    out : Path
        Folder of the cube.
    finished : bool
        Whether its build ended; otherwise only the tiles that it got to are known.
    meta : dict
        Its cube.json; empty where there is none, or a damaged one.
    grid : str or None
        Its wavelength grid.
    records : dict of str to dict
        What the scan told of each file that its tiles were planned with, by path.
    held : dict of str to str
        SHA-256 of each file that it holds, by frame_id or spectrum_id.
    gone : set of str
        Paths of files that are no longer there as they were; filled by `join`.
    """

    out: Path
    finished: bool
    meta: dict[str, Any]
    grid: str | None
    records: dict[str, Record]
    held: dict[str, str]
    gone: set[str] = field(default_factory=set)

    def join(self, given: Mapping[str, Record]) -> dict[str, Record]:
        """Return the records of the files given now, together with those of the files that stand in the cube.

        Raises
        ------
        StoreError
            If a file that the cube holds was given with other content, or the build that stands there did not
            end and was given other files.
        """
        records = dict(given)
        if not self.finished:
            self._require_given(records)
            return records
        copies: dict[str, list[str]] = {}
        for path, record in given.items():
            if (name := name_of(record)) is not None:
                copies.setdefault(name, []).append(path)
        for path, record in self.records.items():
            name = name_of(record)
            content = self.held.get(name or "")
            if content is None:
                # Rejected when it was read in full: as long as it is the same file, it would be again.
                if path not in records and is_unchanged(record):
                    records[path] = record
                continue
            if is_unchanged(record) or _content(path) == content:
                records[path] = record
                continue
            others = [other for other in copies.get(name or "", ()) if other != path]
            moved = [other for other in others if _content(other) == content]
            if moved:
                # The same bytes under another name.
                records.pop(path, None)
                for other in others:
                    if other != moved[0]:
                        records.pop(other)
            elif others or path in records:
                raise StoreError(
                    f"holds {name} from {path}, which has other content in {(*others, path)[0]} now",
                    remedy=f"put the file back, or {REPLACE}",
                    path=self.out,
                )
            else:
                records[path] = record
                self.gone.add(path)
        return records

    def _require_given(self, records: Mapping[str, Record]) -> None:
        for path, record in self.records.items():
            name = name_of(record)
            content = self.held.get(name or "")
            if content is None:
                continue
            if path not in records or not (is_unchanged(record) or _content(path) == content):
                raise StoreError(
                    f"is the unfinished cube of other files, among them {path}",
                    remedy=f"run the build that it began with, {REPLACE}",
                    path=self.out,
                )

    def require_sources(self, todo: Iterable[TilePlan]) -> None:
        """Raise StoreError if a tile must be built again from a file that is gone."""
        for tile_plan in todo:
            paths = [source.path for source in (*tile_plan.frames, *tile_plan.foreign)]
            paths += [source.path for epochs in tile_plan.objects for source in epochs]
            for path in paths:
                if path in self.gone:
                    raise StoreError(
                        f"must build tile {tile_plan.tile} again for what is added, and {path}, which "
                        "it holds, is no longer there",
                        remedy=f"put the file back, or {REPLACE}",
                        path=self.out,
                    )

    def require_held(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raise StoreError if the next state of the cube lacks anything that the present one holds.

        Parameters
        ----------
        rows : iterable of mapping
            Index rows of all frames and spectra of the next state.
        """
        there = {row.get("frame_id") or row["spectrum_id"]: row["sha256"] for row in rows}
        lost = sorted(name for name, content in self.held.items() if there.get(name) != content)
        if lost:
            others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
            raise StoreError(
                f"would lose {lost[0]}{others}: not given, not readable, or of other content now",
                remedy=f"put the files back and name them, or {REPLACE}",
                path=self.out,
            )

    def earlier_rejects(self, asked: Mapping[str, Record], again: Sequence[Reject]) -> list[Reject] | None:
        """Return the rejects of earlier builds whose files are still there and were not asked for now.

        None where the table of them is damaged.
        """
        if not self.finished:
            return []
        try:
            files = read_checksums(self.out)
        except StoreError:
            files = None
        try:
            content = verified(self.out, "ledger/rejects.parquet", files)
            table = pq.read_table(pa.BufferReader(content)).to_pylist()
            found = [Reject(row["path"], row["reason"], row["message"]) for row in table]
        except (StoreError, OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        now = {*asked, *self.records, *(reject.path for reject in again)}
        return [reject for reject in found if reject.path not in now and Path(reject.path).exists()]


def read_standing(out: Path, grid: str | None) -> Standing | None:
    """Return what stands in a cube; None where nothing does.

    Parameters
    ----------
    out : Path
        Folder of the cube.
    grid : str or None
        Wavelength grid that was asked for.

    Raises
    ------
    StoreError
        If nothing can be added: another grid, another version of Skyfuse, or what it holds is not known.
    """
    finished = (out / "cube.json").exists()
    meta = _meta(out) if finished else {}
    entries, whole, damaged = [], set(), False
    for path in sorted((out / "ledger" / "tiles").glob("Norder=*-Npix=*.json")):
        try:
            entry = read_stamped(path)
            records = {record["path"]: record for record in entry["sources"]}
            rows = {_name(row): row["sha256"] for row in (*entry["frames"], *entry["spectra"])}
            entries.append((records, rows, entry["grid"], entry["skyfuse"]))
            whole.add(entry["tile"])
        except (StoreError, KeyError, TypeError, AttributeError):
            damaged = True
    if not finished and not entries:
        return None
    held = {name: content for _, rows, _, _ in entries for name, content in rows.items()}
    if finished:
        held |= _of_indexes(out, whole, needed=damaged or not entries)
    records = {path: record for found, _, _, _ in entries for path, record in found.items()}
    grids = {grid for _, _, grid, _ in entries} | ({meta["grid"]} if meta.get("grid") else set())
    versions = {version for _, _, _, version in entries} | ({meta["skyfuse"]} if "skyfuse" in meta else set())
    if grid is not None and grids - {grid}:
        raise StoreError(
            f"has the wavelength grid {min(grids - {grid})}, not {grid}", remedy=REPLACE, path=out
        )
    if versions - {VERSION}:
        raise StoreError(
            f"was built by Skyfuse {min(map(str, versions - {VERSION}))}, this is {VERSION}: all of its "
            "tiles would be built anew",
            remedy=REPLACE,
            path=out,
        )
    return Standing(out, finished, meta, next(iter(sorted(grids)), None), records, held)


def _meta(out: Path) -> dict[str, Any]:
    """Return the content of cube.json; nothing where it is damaged, since the ledger tells the same."""
    try:
        meta = read_json(out / "cube.json")
        if meta.get("format") != FORMAT:
            found = repr(meta.get("format"))
        else:
            verified(out, "cube.json", read_checksums(out))
            return meta
    except StoreError:
        return {}
    raise StoreError(
        f"has the cube format {found} where this Skyfuse writes {FORMAT}", remedy=REPLACE, path=out
    )


def _of_indexes(out: Path, whole: set[str], *, needed: bool) -> dict[str, str]:
    """Return what the indexes say of tiles whose entry in the ledger is damaged or missing."""
    held: dict[str, str] = {}
    try:
        for what, key in (("frames", "frame_id"), ("spectra", "spectrum_id")):
            table = read_catalogue(out, what)
            chosen = table[~table["tile"].isin(whole)]
            held |= dict(zip(chosen[key], chosen["sha256"], strict=True))
    except StoreError as error:
        if needed:
            raise StoreError(
                f"is damaged in ledger and indexes, so that what it holds is not known ({error.fault})",
                remedy=REPLACE,
                path=out,
            ) from error
    return held


def _name(row: Mapping[str, Any]) -> str:
    return str(row["frame_id"] if "frame_id" in row else row["spectrum_id"])


def _content(path: str) -> str | None:
    """Return the SHA-256 of a file, None where it cannot be read."""
    try:
        return sha256(Path(path))
    except OSError:
        return None
