"""A cube changes in one step: what is new waits in ``ledger/next`` until it is whole, then takes its place.

The switch is a list of renames and removals that is written down before it begins: wherever it stops, the
next build goes on with it, and so does the next reader.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from skyfuse.checksums import NAME, read_stamped, stamped
from skyfuse.disk import BusyError, flush_folder, locked, write_json
from skyfuse.errors import StoreError

WRITER = ("build", "cube")
"""What writes a cube, and what it writes, for `skyfuse.disk.locked`."""

INDEXES = ("objects", "frames", "spectra")
TILES = "Norder=*/Dir=*/Npix=*.h5"

_AGAIN = "run the same skyfuse build again to go on"
# A switch takes milliseconds; a reader that meets one waits for it.
_PATIENCE = 10.0
# All that a switch may touch: a list that was tampered with must not reach beyond the cube.
_OWN = re.compile(
    r"Norder=\d+/Dir=\d+/Npix=\d+\.h5|ledger/tiles/Norder=\d+-Npix=\d+\.json|ledger/rejects\.parquet"
    r"|cube\.json|checksums\.json|(objects|frames|spectra)/(hats\.properties|partition_info\.csv"
    r"|dataset/(_metadata|_common_metadata|Norder=\d+/Dir=\d+/Npix=\d+\.parquet))"
)


def next_folder(out: Path) -> Path:
    """Return where the next state of a cube grows while the present one stays readable."""
    return out / "ledger" / "next"


def _journal(out: Path) -> Path:
    return next_folder(out) / "switch.json"


def own_files(out: Path) -> set[str]:
    """Return the files of a cube by relative path, without those of a build that is under way."""
    found = [*out.glob(TILES), *(out / "ledger" / "tiles").glob("Norder=*-Npix=*.json")]
    for index in INDEXES:
        found += [path for path in (out / index).rglob("*") if path.is_file()]
    found += [path for path in (out / "ledger" / "rejects.parquet", out / NAME) if path.exists()]
    # The last to change: it is what makes a folder a cube.
    found += [path for path in (out / "cube.json",) if path.exists()]
    return {name for name in (path.relative_to(out).as_posix() for path in found) if _OWN.fullmatch(name)}


def switch(out: Path, keep: Collection[str]) -> None:
    """Put the next state of a cube in place of the present one.

    Parameters
    ----------
    out : Path
        Folder of the cube, held by `locked`.
    keep : collection of str
        Files of the present state that belong to the next one too, by relative path.
    """
    add = own_files(next_folder(out))
    remove = own_files(out) - add - set(keep)
    write_json(_journal(out), stamped({"add": sorted(add), "remove": sorted(remove)}))
    go_on(out)


def go_on(out: Path) -> None:
    """Finish a switch that has begun, if one has; `out` is held by `locked`."""
    if not _journal(out).is_file():
        return
    steps = read_stamped(_journal(out))
    add, remove = steps["add"], steps["remove"]
    if not all(isinstance(name, str) and _OWN.fullmatch(name) for name in (*add, *remove)):
        raise StoreError("names files that are none of a cube", remedy="remove this file", path=_journal(out))
    touched = set()
    for name in sorted(add, key=lambda name: (name == "cube.json", name)):
        source, target = next_folder(out) / name, out / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            touched.add(target.parent)
    for name in remove:
        (out / name).unlink(missing_ok=True)
        touched.add((out / name).parent)
    for folder in touched:
        if folder.is_dir():
            flush_folder(folder)
    _journal(out).unlink()
    shutil.rmtree(next_folder(out), ignore_errors=True)
    clean(out)


def clean(out: Path) -> None:
    """Remove what a killed build left half-written, and folders that held only what is gone."""
    for root in (out, next_folder(out)):
        for pattern in ("Norder=*/Dir=*/.*.tmp", "ledger/.*.tmp", "ledger/tiles/.*.tmp", ".*.tmp"):
            for path in root.glob(pattern):
                path.unlink(missing_ok=True)
        for index in INDEXES:
            for path in (root / index).rglob(".*.tmp"):
                path.unlink(missing_ok=True)
    for pattern in ("Norder=*/Dir=*", "Norder=*", "*/dataset/Norder=*/Dir=*", "*/dataset/Norder=*"):
        for path in out.glob(pattern):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def is_switching(out: Path) -> bool:
    """Tell whether a switch has begun and not ended."""
    return _journal(out).is_file()


def settle(out: Path) -> None:
    """Let a reader wait for a switch that is under way, or finish one that was stopped.

    Raises
    ------
    StoreError
        If it can do neither.
    """
    deadline = time.monotonic() + _PATIENCE
    while is_switching(out):
        try:
            with locked(out, *WRITER):
                go_on(out)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except OSError as error:
            raise StoreError(
                f"is a cube whose build was stopped in its last step ({error.strerror or error})",
                remedy=_AGAIN,
                path=out,
            ) from error
