"""Where a file that is got may lie: within the folder of its ledger, whatever a server calls it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path, PureWindowsPath

from skyfuse.fetch.ledger import NAME, Wanted
from skyfuse.fetch.tries import TryError

BAD_NAME = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""Names that cannot be, and names taken otherwise: what the server asks for is at fault, not the disk."""


def target_of(folder: Path, wanted: Wanted) -> Path:
    """Return where a file goes: within `folder`, whatever its name says, but for links that lie there.

    Raises
    ------
    TryError
        ``unsafe-path``.
    """
    path = wanted.path
    parts = path.split("/")
    windows = PureWindowsPath(path)
    if windows.drive or windows.root or "\\" in path or not path.isprintable():
        raise unsafe(wanted, "its name is no relative path")
    # A leading dot is for part files, and the ledger's own files lie beside the downloads.
    if any(not part or part.startswith(".") for part in parts) or parts[0].lower().startswith(NAME):
        raise unsafe(wanted, "its name holds '..', a hidden part or the ledger's name")
    return folder.joinpath(*parts)


def size_of(path: Path, wanted: Wanted) -> int | None:
    """Return the bytes of a file, or None where there is none.

    Raises
    ------
    TryError
        ``unsafe-path``: something else lies there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise unsafe(wanted, "a link or a folder lies in its place")
    return found.st_size


def unsafe(wanted: Wanted, fault: str) -> TryError:
    """Return the error of a name under which nothing is written."""
    return TryError("unsafe-path", f"{fault}: {wanted.path!a}", wanted.url, final=True)
