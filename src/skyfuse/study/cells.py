"""The cells of a study: which model is fitted on which input, at which zooms, and why."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from skyfuse.recipe import Recipe
from skyfuse.study.compare import LEAKS
from skyfuse.words import Fusion

Role = Literal["reference", "resolution", "flaw", "leak", "size"]


@dataclass(frozen=True)
class Cell:
    """One fit of a study.

    Attributes
    ----------
    model : str
        Name in `skyfuse.models.MODELS`.
    fusion : str
        How the inputs are used.
    zooms : dict of str to int
        Zoom of each input that the cell reads; 0 for the table.
    role : str
        ``reference``: compared with the others at the recipe's reference zooms; ``resolution``: another zoom;
        ``flaw``: fitted on data spoilt on purpose; ``leak``: reads the leaking columns too; ``size``: fitted
        on a piece of the training part.
    change : str or None
        What is changed on purpose: how the data is spoilt, or ``with-leaks``.
    size : int or None
        Objects of the training part that are used; None for all.
    """

    model: str
    fusion: Fusion
    zooms: dict[str, int] = field(hash=False)
    role: Role = "reference"
    change: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """Unique within a study, and a file name."""
        parts = [self.model, self.fusion]
        parts += [f"{modality[0]}{zoom}" for modality, zoom in self.zooms.items() if modality != "table"]
        if self.size is not None:
            parts.append(f"n{self.size}")
        if self.change is not None:
            parts.append(self.change)
        return "-".join(parts)

    @property
    def late(self) -> bool:
        """Whether fitted cells of single inputs make up this one."""
        return is_late(self.fusion)


def is_late(fusion: str) -> bool:
    """Tell whether a fusion joins the predictions of fitted models."""
    return fusion.startswith("late")


def plan(recipe: Recipe) -> list[Cell]:
    """Return the cells of a recipe, single inputs before the fusions that reuse them.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    list of Cell
    """
    cells: list[Cell] = []
    for model in recipe.models:
        fusions = sorted(recipe.fusions_of(model), key=is_late)
        cells += [reference(recipe, model, fusion) for fusion in fusions]
        if recipe.leaking:
            cells += [
                Cell(model, fusion, _zooms(recipe, fusion), "leak", LEAKS)
                for fusion in fusions
                if recipe.table() in recipe.inputs_of(fusion)
            ]
        cells += [
            Cell(model, name, {name: zoom}, "resolution")
            for name in recipe.inputs
            if name in fusions
            for zoom in recipe.zooms.get(name, [])
            if zoom != recipe.reference_of(name)
        ]
    if recipe.learning is not None:
        fusion = recipe.learning.fusion
        cells += [
            Cell(model, fusion, _zooms(recipe, fusion), "size", size=size)
            for model in recipe.learning.models
            for size in recipe.sizes
        ]
    cells += [
        Cell(flaw.model, flaw.fusion, _zooms(recipe, flaw.fusion), "flaw", flaw.change)
        for flaw in recipe.flaws
        if flaw.change is not None and flaw.model is not None and flaw.fusion is not None
    ]
    # What joins other models' cells comes after them.
    return sorted(cells, key=lambda cell: cell.late and bool(recipe.models[cell.model].partners))


def reference(recipe: Recipe, model: str, fusion: Fusion) -> Cell:
    """Return the cell of a model and an input at the recipe's reference zooms."""
    return Cell(model, fusion, _zooms(recipe, fusion))


def members(recipe: Recipe, cell: Cell) -> list[Cell]:
    """Return the cells that a late fusion joins: with leaks where it leaks itself and they read the table."""
    partners = recipe.models[cell.model].partners
    return [
        Cell(partners.get(name, cell.model), name, {name: recipe.reference_of(name)}, cell.role, cell.change)
        if name == recipe.table()
        else reference(recipe, partners.get(name, cell.model), name)
        for name in recipe.inputs_of(cell.fusion)
    ]


def _zooms(recipe: Recipe, fusion: Fusion) -> dict[str, int]:
    return {name: recipe.reference_of(name) for name in recipe.inputs_of(fusion)}


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one cell, from the recipe's one seed and the cell's name alone.

    Parameters
    ----------
    seed : int
        Seed of the recipe.
    name : str
        Name of the cell.

    Returns
    -------
    int
        Below 2³¹, whatever other cells the study has.
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    state = np.random.SeedSequence([seed, *words.tolist()]).generate_state(1)
    return int(state[0] >> 1)
