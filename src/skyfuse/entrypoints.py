"""What installed packages bring under a group of entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from skyfuse.errors import UsageError


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, in the order of the names; nothing is imported.

    Raises
    ------
    UsageError
        If two of them have one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        if point.name in found and found[point.name].value != point.value:
            raise UsageError(
                f"the installed {found[point.name].value} and {point.value} are both called {point.name!r}",
                remedy="remove the package of one, or give it another name",
            )
        found[point.name] = point
    return found


def load(point: EntryPoint) -> Any:
    """Import what an entry point leads to.

    Raises
    ------
    UsageError
        If it cannot be imported.
    """
    try:
        return point.load()
    # Whatever the code of another package raises.
    except Exception as error:
        package = "" if point.dist is None else f" of the installed package {point.dist.name}"
        raise UsageError(
            f"{point.value}{package} cannot be imported ({type(error).__name__}: {error})",
            remedy="mend or remove the package",
        ) from error
