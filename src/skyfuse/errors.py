"""The exception tree; each message names the fault and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unicodedata import category


def shown(path: str | Path) -> str:
    """Return a path as one line that can be written anywhere: what no line can hold as its codes."""
    return _coded(str(path))


def one_line(text: str) -> str:
    """Return a message as one line: breaks as blanks, other letters that are not printable as their codes."""
    return _coded(" ".join(part for line in text.splitlines() if (part := line.strip())))


def _coded(text: str) -> str:
    # Control characters could write over what a terminal shows, and lone surrogates end in an error.
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


class SkyfuseError(Exception):
    """Base of every error that Skyfuse raises on purpose.

    Parameters
    ----------
    fault : str
        What is wrong, in one clause.
    remedy : str
        What the user can do about it, in one clause.
    path : path, optional
        The file or folder at fault.

    Attributes
    ----------
    exit_code : int
        Exit code of the command line: 1, the work failed; 2, the call was wrong.
    """

    exit_code = 1

    def __init__(self, fault: str, *, remedy: str, path: str | Path | None = None) -> None:
        self.fault = fault
        self.remedy = remedy
        self.path = None if path is None else Path(path)
        super().__init__(fault)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{shown(self.path)}: "
        return f"{where}{one_line(f'{self.fault}; {self.remedy}')}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would otherwise be lost between worker processes.
        return _rebuild, (type(self), self.fault, self.__dict__)


def _rebuild(kind: type[SkyfuseError], fault: str, state: dict[str, object]) -> SkyfuseError:
    error = kind.__new__(kind)
    Exception.__init__(error, fault)
    error.__dict__.update(state)
    return error


class UsageError(SkyfuseError):
    """The call was wrong: an argument that no data could satisfy."""

    exit_code = 2


class FaultsError(UsageError):
    """Several faults, told at once: a line each.

    Attributes
    ----------
    faults : tuple of SkyfuseError
        Each by itself.
    """

    def __init__(self, faults: Sequence[SkyfuseError]) -> None:
        self.faults = tuple(faults)
        first = self.faults[0]
        more = f"{first.fault} (and {len(self.faults) - 1} more)"
        super().__init__(more, remedy=first.remedy, path=first.path)
        self.exit_code = max(fault.exit_code for fault in self.faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


def together(faults: Sequence[SkyfuseError]) -> SkyfuseError:
    """Return one error for one fault or more, each told once."""
    told = list({str(fault): fault for fault in faults}.values())
    return told[0] if len(told) == 1 else FaultsError(told)


class FileError(SkyfuseError):
    """One input file cannot be used; a build counts it and goes on.

    Parameters
    ----------
    reason : str
        Short word by which the ledger counts such files, e.g. ``truncated``.
    partners : sequence of str
        Paths whose change makes the file worth another look: files that belong to it and are missing, or the
        folder that they would lie in.
    """

    def __init__(
        self,
        fault: str,
        *,
        reason: str,
        remedy: str,
        path: str | Path | None = None,
        partners: Sequence[str] = (),
    ) -> None:
        super().__init__(fault, remedy=remedy, path=path)
        self.reason = reason
        self.partners = tuple(partners)


class DataError(SkyfuseError):
    """The data at hand does not hold what was asked of it."""


class StoreError(SkyfuseError):
    """A cube, dataset, model or study folder is missing, damaged or of another version."""
