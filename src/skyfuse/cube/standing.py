"""What stands in a cube already, and that a further build loses none of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skyfuse.checksums import read_checksums, read_stamped, verified
from skyfuse.cube.catalogue import read_catalogue, schema_of
from skyfuse.cube.layout import FORMAT, VERSION
from skyfuse.cube.scan import TABLE, Record, Reject, changed, is_unchanged, keys_of, names_of
from skyfuse.cube.tiles import TilePlan
from skyfuse.disk import read_json, sha256
from skyfuse.errors import StoreError, shown
from skyfuse.survey.noise import FORMAL, MODEL, noise_name
from skyfuse.survey.records import content_of
from skyfuse.survey.registry import readers

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
    grids : dict of str to str
        Its wavelength grid of each instrument.
    noise : dict of str to str
        What names the noise model by which σ of each instrument's spectra is told; empty where it is formal.
    records : dict of str to dict
        What the scan told of each file that its tiles were planned with, by path.
    held : dict of str to str
        What names the content of each file that it holds, by frame_id, spectrum_id or ``source`` and its id;
        empty where that is not known.
    gone : set of str
        Paths of files that are no longer there as they were; filled by `join`.
    moved : dict of str to str
        Where the bytes of such a file lie now, of those that were given; filled by `join`.
    """

    out: Path
    finished: bool
    meta: dict[str, Any]
    grids: dict[str, str]
    noise: dict[str, str]
    records: dict[str, Record]
    held: dict[str, str]
    gone: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> set[str]:
        """Paths of the files that stand in the cube, after `join` as they are now."""
        return {self.moved.get(path, path) for path in self.records}

    @property
    def instruments(self) -> Mapping[str, Any]:
        """What its cube.json says of each instrument."""
        return _told(self.meta)

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
            for name in names_of(record):
                copies.setdefault(name, []).append(path)
        for path, record in self.records.items():
            names = names_of(record)
            content = self._content_of(names)
            if content is None:
                # Rejected when it was read in full: as long as it is the same file, it would be again.
                if path not in records and is_unchanged(record):
                    records[path] = record
                continue
            now = given.get(path, record)
            if is_unchanged(record) or _content(now if "records" in now else record) == content:
                records[path] = _joined(record, given.get(path))
                continue
            others = [other for name in names for other in copies.get(name, ()) if other != path]
            others = list(dict.fromkeys(others))
            moved = [other for other in others if _content(given[other]) == content]
            if moved:
                # The same bytes under another name.
                self.moved[path] = moved[0]
            elif others or path in records:
                where = others[0] if others else changed(record) or path
                raise StoreError(
                    f"holds {names[0]} from {path}, and {shown(where)} is not as it was",
                    remedy=f"put it back as it was, or {REPLACE}",
                    path=self.out,
                )
            else:
                records[path] = record
                self.gone.add(path)
        return records

    def _content_of(self, names: Iterable[str]) -> str | None:
        """Return the content of the file that holds some frames, spectra or sources; None if none is held."""
        return next((self.held[name] for name in names if name in self.held), None)

    def _require_given(self, records: Mapping[str, Record]) -> None:
        for path, record in self.records.items():
            content = self._content_of(names_of(record))
            if content is None:
                continue
            if path not in records or not (is_unchanged(record) or _content(record) == content):
                raise StoreError(
                    f"is the unfinished cube of other files, among them {path}",
                    remedy=f"run the build that it began with, {REPLACE}",
                    path=self.out,
                )

    def require_sources(self, todo: Iterable[TilePlan]) -> None:
        """Raise StoreError if a tile must be built again from a file that is gone, or that nothing reads."""
        known = {TABLE, *(reader.name for reader in readers())}
        for tile_plan in todo:
            for file in sorted(tile_plan.files, key=lambda file: file.path):
                fault, remedy = "", f"put the file back, or {REPLACE}"
                if file.path in self.gone:
                    fault = "is no longer there as it was"
                elif file.reader not in known:
                    fault = f"was read by {file.reader}, which is not known here"
                    remedy = "name the same description with --instrument, or install the reader"
                if fault:
                    raise StoreError(
                        f"must build tile {tile_plan.tile} again for what is added, and {file.path}, which "
                        f"it holds, {fault}",
                        remedy=remedy,
                        path=self.out,
                    )

    def require_held(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raise StoreError if the next state of the cube lacks anything that the present one holds.

        Parameters
        ----------
        rows : iterable of mapping
            Index rows of all frames, spectra and objects of the next state.
        """
        there: dict[str, str] = {}
        for row in rows:
            there |= _held(row)
        lost = sorted(
            name
            for name, content in self.held.items()
            if name not in there or (content and there[name] != content)
        )
        if lost:
            others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
            raise StoreError(
                f"would lose {lost[0]}{others}: not given, not readable, or of other content now",
                remedy=f"put the files back and name them, or {REPLACE}",
                path=self.out,
            )

    def earlier_rejects(
        self, given: Mapping[str, Record], records: Mapping[str, Record], again: Sequence[Reject]
    ) -> list[Reject] | None:
        """Return the rejects of earlier builds whose files are still there and were not looked at now.

        None where the table of them is damaged.

        Parameters
        ----------
        given : mapping
            Records of the files given now, by path.
        records : mapping
            The same with those that stand, from `join`.
        again : sequence of Reject
            What was met now that is no file.
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
            found = [Reject(row["path"], row["reason"], row["message"], row["key"]) for row in table]
        except (StoreError, OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        # What is read in full comes again with its tile.
        read = {(path, key) for path, record in records.items() for key in keys_of(record)}
        # What stands as another kind of file than it was taken for now keeps what was said of it.
        now = {path for path, record in given.items() if "records" in record or path not in self.records}
        now |= {reject.path for reject in again}
        return [
            reject
            for reject in found
            if reject.path not in now and (reject.path, reject.key) not in read and Path(reject.path).exists()
        ]


def read_standing(out: Path, grids: Mapping[str, str], sigma: str | None = None) -> Standing | None:
    """Return what stands in a cube; None where nothing does.

    Parameters
    ----------
    out : Path
        Folder of the cube.
    grids : mapping of str to str
        Wavelength grids that were asked for by instrument; under an empty name that of all others.
    sigma : "model" or "formal", optional
        Where σ of spectra shall come from.

    Raises
    ------
    StoreError
        If nothing can be added: another grid, another σ, another version of Skyfuse, or what it holds is not
        known.
    """
    finished = (out / "cube.json").exists()
    meta = _meta(out) if finished else {}
    entries, whole, damaged = [], set(), False
    for path in sorted((out / "ledger" / "tiles").glob("Norder=*-Npix=*.json")):
        try:
            entry = read_stamped(path)
            sources = {record["path"]: record for record in entry["sources"]}
            rows: dict[str, str] = {}
            for row in (*entry["frames"], *entry["spectra"], *entry["objects"]):
                rows |= _held(row)
            own = {
                name: (grid, entry.get("noise", {}).get(name, "")) for name, grid in entry["grids"].items()
            }
            entries.append((sources, rows, own, entry["skyfuse"]))
            whole.add(entry["tile"])
        except (StoreError, KeyError, TypeError, AttributeError):
            damaged = True
    if not finished and not entries:
        return None
    held = {name: content for _, rows, _, _ in entries for name, content in rows.items()}
    if finished:
        held |= _of_indexes(out, whole, needed=damaged or not entries)
    records: dict[str, Record] = {}
    for found, _, _, _ in entries:
        for path, record in found.items():
            records[path] = _joined(records[path], record) if path in records else record
    stand = [(name, _taken(told["spectrum"])) for name, told in _told(meta).items() if "spectrum" in told]
    stand += [pair for _, _, own, _ in entries for pair in own.items()]
    versions = {version for _, _, _, version in entries} | ({meta["skyfuse"]} if "skyfuse" in meta else set())
    for name, (grid, noise) in stand:
        asked = grids.get(name, grids.get("", grid))
        if asked != grid:
            raise StoreError(
                f"has {name} on the wavelength grid {grid}, not {asked}", remedy=REPLACE, path=out
            )
        _require_same_noise(out, name, noise, sigma)
    if versions - {VERSION}:
        raise StoreError(
            f"was built by Skyfuse {min(map(str, versions - {VERSION}))}, this is {VERSION}: all of its "
            "tiles would be built anew",
            remedy=REPLACE,
            path=out,
        )
    own_grids = {name: grid for name, (grid, _) in stand}
    own_noise = {name: noise for name, (_, noise) in stand}
    return Standing(out, finished, meta, own_grids, own_noise, records, held)


def _taken(told: Mapping[str, Any]) -> tuple[str, str]:
    """Return grid and noise model of an instrument's spectra, from what cube.json tells of them."""
    return told["grid"], told.get("sigma", {}).get("model", "")


def _require_same_noise(out: Path, name: str, own: str, sigma: str | None) -> None:
    """Raise StoreError where σ of an instrument's spectra would come from elsewhere than it did."""
    now = noise_name(name)
    if own and sigma == FORMAL:
        fault = f"has σ of {name} by the noise model {own}, not the formal one"
    elif own and own != now:
        fault = f"has σ of {name} by the noise model {own}, this Skyfuse has {now or 'none'}"
    elif now and not own and sigma == MODEL:
        fault = f"has the formal σ of {name}, not that of the noise model {now}"
    else:
        return
    raise StoreError(fault, remedy=REPLACE, path=out)


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
            table = read_catalogue(out, what, schema_of(what, {}))
            chosen = table[~table["tile"].isin(whole)]
            held |= dict(zip(chosen[key], chosen["sha256"], strict=True))
        table = read_catalogue(out, "objects", schema_of("objects", {}))
        named = table[~table["tile"].isin(whole)]["source_id"].dropna()
        # The index does not tell the content of their tables.
        held |= {f"source {name}": "" for name in named}
    except StoreError as error:
        if needed:
            raise StoreError(
                f"is damaged in ledger and indexes, so that what it holds is not known ({error.fault})",
                remedy=REPLACE,
                path=out,
            ) from error
    return held


def _told(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    told = meta.get("instruments", {})
    return told if isinstance(told, dict) else {}


def _held(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what an index row of the ledger holds: names, and the content that each is from."""
    if "sources" in row:
        return {f"source {name}": content for name, content in row["sources"].items()}
    return {str(row.get("frame_id") or row["spectrum_id"]): row["sha256"]}


def _joined(record: Record, more: Record | None) -> Record:
    """Return a record together with what another one tells of the same file beyond it."""
    if more is None or "records" not in more:
        return record
    names = {*names_of(record)}
    beyond = [entry for entry in more["records"] if not {*names_of({"records": [entry]})} & names]
    return record | {"records": [*record["records"], *beyond]}


def _content(record: Record) -> str | None:
    """Return what names the content of a file and its partners now, None where it cannot be read."""
    entries = [fields for entry in record["records"] for fields in entry.values()]
    beside = next((fields["partners"] for fields in entries if fields.get("partners")), ())
    # What is missing is told by its folder.
    partners = [path for path in beside if Path(path).is_file()]
    try:
        return content_of([sha256(Path(path)) for path in (record["path"], *partners)])
    except OSError:
        return None
