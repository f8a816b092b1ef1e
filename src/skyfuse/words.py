"""Words that several floors share, each defined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and a line about it."""

Kind = Literal["regression", "classification", "reconstruction"]
"""What a model learns: a number, one of some classes, or (autoencoders) the input itself."""

Modality = Literal["image", "spectrum", "table"]
"""What sort of data an input is."""

Sampled = Literal["image", "spectrum"]
"""A modality that comes as arrays of samples with σ and coverage, at several zooms."""

Fusion = str
"""How a model gets its inputs: one by its name, some at once (names joined by ``+``), or all (`JOINT`)."""

JOINT = ("early", "late-mean", "late-weighted")
"""Fusions of all inputs: at once, or from models of each, by a plain or a weighted mean."""

Part = Literal["train", "valid", "calibration", "test"]
"""A part of a split."""

Product = Literal[
    "frames", "spectra", "sfr", "gaia", "zoo", "lamost", "catalogue", "scene", "infrared", "desi"
]
"""What a mock sky can be written as."""


def is_joint(fusion: Fusion) -> bool:
    """Tell whether a fusion joins inputs rather than being one."""
    return fusion in JOINT or "+" in fusion


MODALITIES: tuple[Modality, ...] = get_args(Modality)
SAMPLED: tuple[Sampled, ...] = get_args(Sampled)
PARTS: tuple[str, ...] = get_args(Part)
PRODUCTS: tuple[Product, ...] = get_args(Product)


class Derived(NamedTuple):
    """Columns of a table that are measured on arrays: which arrays, and the pattern of their names.

    `odd` is that of columns whose sign changes in a mirror.
    """

    modality: Sampled
    columns: str
    odd: str = ""


DERIVED: Mapping[str, Derived] = {
    "ew": Derived("spectrum", "ew_*"),
    "indices": Derived("spectrum", "idx_*"),
    "morphology": Derived("image", "morph_*", "morph_turn*"),
}
"""What can be derived, by the name that stands in a recipe's `derive`."""
