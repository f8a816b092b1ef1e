"""The one input of arrays that a source gives which is no cube, and its zooms."""

from __future__ import annotations

from collections.abc import Sequence

from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import UsageError
from skyfuse.words import Sampled


def named_zooms(
    reader: str, kind: Sampled | None, wanted: Wanted, default: Sequence[int] = ()
) -> tuple[str, list[int]]:
    """Return what an input is called, and its zooms in order.

    Parameters
    ----------
    reader : str
        Name of the source.
    kind : str or None
        Of the arrays that the source gives; None for none.
    wanted : Wanted
    default : sequence of int
        Zooms where none are named.

    Raises
    ------
    UsageError
        If other arrays are asked of it, or no such zoom.
    """
    named = wanted.named() if kind is None else wanted.named((kind,))
    names = [name for name, one in named.items() if one.kind != "table"]
    zooms = {name: sorted(set((wanted.zooms or {}).get(name, default))) for name in names}
    strange = [name for name in names if named[name].kind != kind or named[name].instrument is not None]
    if strange or len(names) > 1 or any(zoom < 0 for each in zooms.values() for zoom in each):
        raise UsageError(
            f"the reader {reader!r} gives no {', '.join(names)} at zooms {[*zooms.values()]}",
            remedy=f"choose {'' if kind is None else f'one {kind} or '}table, and zooms of 0 and above",
        )
    return (names[0], zooms[names[0]]) if names else (kind or "table", [*default])
