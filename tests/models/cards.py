"""What a model's card tells of its inputs, written shortly."""

from __future__ import annotations

from typing import Any

from skyfuse.words import DERIVED


def inputs_of(
    zooms: dict[str, int],
    *,
    bands: str | None = None,
    size: int | None = None,
    grid: str | None = None,
    sigma: str | None = None,
    instrument: str | None = None,
    derive: dict[str, int] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return the entry ``inputs`` of a card for inputs that are called by their kind."""

    def cut(kind: str, zoom: int) -> dict[str, Any]:
        own: dict[str, Any] = dict.fromkeys(("instrument", "bands", "size", "grid", "sigma"))
        if kind == "image":
            own |= {"instrument": instrument, "bands": bands and [*bands], "size": size}
        elif kind == "spectrum":
            own |= {"instrument": instrument, "grid": grid, "sigma": sigma}
        return {"kind": kind, **own, "zoom": zoom}

    derived = {name: cut(DERIVED[name].modality, zoom) for name, zoom in (derive or {}).items()}
    return {
        "inputs": {kind: cut(kind, zoom) for kind, zoom in zooms.items()},
        "derive": derived,
        "every_spectrum": False,
        **others,
    }
