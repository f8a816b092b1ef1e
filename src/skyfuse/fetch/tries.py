"""A try to get something from a server that failed: why, and whether another one is worth it."""

from __future__ import annotations

from skyfuse.errors import FileError


class TryError(FileError):
    """A try that failed.

    Attributes
    ----------
    final : bool
        Another try would fail likewise.
    wait : float
        Seconds that the server asked to wait.
    gained : int
        Bytes that it brought all the same.
    """

    gained = 0

    def __init__(self, reason: str, fault: str, url: str, *, final: bool = False, wait: float = 0.0) -> None:
        remedy = "check what was asked for" if final else "run the same command again later"
        super().__init__(f"{fault} ({url[:300]})", reason=reason, remedy=remedy)
        self.final = final
        self.wait = wait


def failed_try(error: FileError, url: str) -> TryError:
    """Return an error as that of a try: what fails a check may be a slip of the server."""
    return error if isinstance(error, TryError) else TryError(error.reason, error.fault, url)
