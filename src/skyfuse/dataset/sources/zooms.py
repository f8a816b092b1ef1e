"""Zooms of what no cube holds."""

from __future__ import annotations

from collections.abc import Sequence

from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import UsageError


def checked_zooms(reader: str, kinds: Sequence[str], wanted: Wanted) -> dict[str, list[int]]:
    """Return the zooms of the arrays that are asked of a source, in order.

    Raises
    ------
    UsageError
        If it does not give such arrays, or no such zoom.
    """
    zooms = {name: sorted(set(numbers)) for name, numbers in (wanted.zooms or {}).items() if name != "table"}
    if set(zooms) - set(kinds) or any(zoom < 0 for each in zooms.values() for zoom in each):
        raise UsageError(
            f"the reader {reader!r} gives no {', '.join(zooms)} at zooms {[*zooms.values()]}",
            remedy=f"choose {' or '.join((*kinds, 'table'))}, and zooms of 0 and above",
        )
    return zooms
