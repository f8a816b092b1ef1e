"""Inputs of models: of which kind each is, and what it is called inside a model.

A recipe calls inputs as it likes; a model cares for what they are. Inside, an input goes by its kind:
``image``, ``spectrum``, ``table``, a second one of a kind ``image2`` and so on, in the order in which they
were given. A model of one spectrum thus finds it as ``spectrum`` whatever the recipe calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import DataError
from skyfuse.words import MODALITIES, Modality

Arrays = dict[str, NDArray[np.float32]]
"""Model inputs by name: images (n, channels, size, size), spectra (n, bins), tables (n, columns) and, beside
spectra, ``<name>_sigma`` (n, bins); NaN where invalid."""

AXES: Mapping[Modality, int] = {"image": 4, "spectrum": 2, "table": 2}
"""Number of dimensions of each kind's array, objects first, in the order in which fusion joins them."""

SIGMA = "_sigma"
"""End of the name of what stands beside spectra, for models whose class has `Model.reads_sigma`."""

_SLOT = re.compile(r"(image|spectrum|table)([2-9]|[1-9]\d)?")


def kind_of(slot: str) -> Modality | None:
    """Return the kind of an input by what it is called inside a model; None for σ and anything else."""
    match = _SLOT.fullmatch(slot)
    return cast(Modality, match[1]) if match else None


def of_kind(kind: Modality, slots: Iterable[str]) -> list[str]:
    """Return those of some inputs, as they are called inside a model, that are of a kind."""
    return [slot for slot in slots if kind_of(slot) == kind]


def axes_of(slot: str) -> int | None:
    """Return the number of dimensions of an array by what it is called inside a model; None for no array."""
    kind = kind_of(slot.removesuffix(SIGMA))
    if kind is None or (slot.endswith(SIGMA) and kind != "spectrum"):
        return None
    return AXES[kind]


def kinds_of(x: Mapping[str, ArrayLike], told: Mapping[str, Modality] | None = None) -> dict[str, Modality]:
    """Return the kind of each input, in the order in which fusion joins them.

    Parameters
    ----------
    x : mapping of str to array
    told : mapping of str to str, optional
        Kinds of inputs that are not called by it.

    Raises
    ------
    DataError
        If there is no input, or one of an unknown kind.
    """
    told = told or {}
    names = [name for name in x if name.removesuffix(SIGMA) == name or name.removesuffix(SIGMA) not in x]
    kinds = {name: told.get(name) or kind_of(name) for name in names}
    if not names or None in kinds.values():
        raise DataError(
            f"inputs are {', '.join(map(repr, x)) or 'empty'}",
            remedy=f"give one or more of {', '.join(MODALITIES)}, or tell the kind of each input",
        )
    # Sorting keeps the order of those of one kind.
    order = sorted(kinds.items(), key=lambda one: MODALITIES.index(cast(Modality, one[1])))
    return {name: cast(Modality, kind) for name, kind in order}


def slots_of(kinds: Mapping[str, Modality]) -> dict[str, str]:
    """Return the name of each input, and of the σ beside spectra, by what it is called inside a model."""
    names: dict[str, str] = {}
    for name, kind in kinds.items():
        number = 1 + len(of_kind(kind, names))
        names[kind if number == 1 else f"{kind}{number}"] = name
    return names | {f"{slot}{SIGMA}": f"{names[slot]}{SIGMA}" for slot in of_kind("spectrum", [*names])}


def inside(x: Mapping[str, ArrayLike], kinds: Mapping[str, Modality]) -> Arrays:
    """Return checked inputs by what they are called inside a model.

    Raises
    ------
    DataError
        If an array has the wrong dimensions, or they differ in their number of objects.
    """
    names = slots_of(kinds)
    arrays = {
        slot: np.ascontiguousarray(x[name], dtype=np.float32) for slot, name in names.items() if name in x
    }
    for slot, array in arrays.items():
        if array.ndim != axes_of(slot) or 0 in array.shape[1:]:
            raise DataError(
                f"{names[slot]} has shape {array.shape}",
                remedy="give images as (n, channels, size, size), spectra (n, bins), tables (n, columns)",
            )
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{len(array)} of {names[slot]}" for slot, array in arrays.items())
        raise DataError(f"inputs differ in their number of objects ({counts})", remedy="align their rows")
    for slot, array in arrays.items():
        if slot.endswith(SIGMA) and array.shape != arrays[slot.removesuffix(SIGMA)].shape:
            name = names[slot]
            raise DataError(
                f"{name} has not the shape of {name.removesuffix(SIGMA)}", remedy="read both at one zoom"
            )
    return arrays
