"""What a cell is fitted on: arrays and labels of each part, cut, spoilt or balanced as the recipe says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.dataset.balance import balance, class_weights
from skyfuse.models.inputs import Arrays
from skyfuse.recipe import Recipe
from skyfuse.study.cells import Cell
from skyfuse.study.compare import LEAKS
from skyfuse.study.tasks import Rows, Target, complete
from skyfuse.words import PARTS

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

PIXEL_UNIT = 1e-18
"""Size of a pixel value in the units of the original study's cube, erg/s/cm²/Å."""
PIXEL_DIVISOR = 255
"""By which the original study divided pixel values, as if they were bytes."""


@dataclass(frozen=True)
class Lot:
    """Data of one cell in one round.

    Attributes
    ----------
    rows : dict of str to ndarray of int64
        Rows of the dataset by part.
    inputs : dict of str to dict of str to ndarray
        Arrays by part, see `skyfuse.models.base.Arrays`.
    labels : dict of str to ndarray
        Labels by part.
    weight : ndarray, shape (n,), or None
        Weights of the training part.
    """

    rows: Rows
    inputs: dict[str, Arrays]
    labels: dict[str, NDArray[Any]]
    weight: NDArray[np.float64] | None = None


class Feed:
    """Reads a dataset for cells; what was read last of each input stays in memory.

    Parameters
    ----------
    recipe : Recipe
    dataset : Dataset
    goal : Target
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, goal: Target) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.goal = goal
        self._loaded: dict[str, tuple[object, dict[str, Arrays]]] = {}

    def columns(self, change: str | None) -> tuple[str, ...]:
        """Return the columns of the table that cells with a change read."""
        return self.goal.leaky if change == LEAKS else self.goal.columns

    def inputs(
        self,
        zooms: Mapping[str, int],
        *,
        number: int = 0,
        change: str | None = None,
        sigma: bool = False,
    ) -> dict[str, Arrays]:
        """Return the arrays of each part of one round, as they stand in the dataset."""
        for name, zoom in zooms.items():
            columns = self.columns(change)
            key = (zoom, number, columns if self.recipe.inputs[name].kind == "table" else sigma)
            if self._loaded.get(name, (None,))[0] != key:
                self._loaded[name] = (
                    key,
                    {
                        part: self.dataset.inputs(
                            {name: zoom},
                            rows,
                            columns=columns,
                            smooth=self.recipe.smooth,
                            sigma=sigma,
                        )
                        for part, rows in self.goal.rounds[number].items()
                    },
                )
        return {
            part: {one: array for name in zooms for one, array in self._loaded[name][1][part].items()}
            for part in PARTS
        }

    def lot(self, cell: Cell, number: int, *, seed: int, sigma: bool) -> Lot:
        """Return the data of one cell in one round, spoilt or cut as the cell says.

        Parameters
        ----------
        cell : Cell
        number : int
            Round.
        seed : int
            Of what is drawn: the order of bands, the piece of the training part.
        sigma : bool
            Whether σ of the spectra is given beside them.
        """
        rows = dict(self.goal.rounds[number])
        inputs = self.inputs(cell.zooms, number=number, change=cell.change, sigma=sigma)
        if cell.change == "complete-only":
            whole = complete(self.dataset.table)
            kept = {part: whole[rows[part]] | (part == "test") for part in PARTS}
            inputs = {p: {m: values[kept[p]] for m, values in inputs[p].items()} for p in PARTS}
            rows = {part: rows[part][kept[part]] for part in PARTS}
        elif cell.change == "tiny-pixels":
            factor = np.float32(PIXEL_UNIT / PIXEL_DIVISOR)
            inputs = {p: self._with_images(inputs[p], lambda image: image * factor) for p in PARTS}
        elif cell.change == "shuffled-bands":
            rng = np.random.default_rng(seed)
            inputs = {p: self._with_images(inputs[p], lambda image: _shuffled(image, rng)) for p in PARTS}
        learned = self.goal.learned(number)
        labels = {
            part: (learned if part in ("train", "valid") else self.goal.label)[rows[part]] for part in PARTS
        }
        if cell.size is not None:
            # One seed for all sizes: a smaller piece is part of every larger one.
            order = nested_order(labels["train"], bool(self.goal.classes), self.recipe.seed)[: cell.size]
            piece = np.sort(order)
            rows["train"], labels["train"] = rows["train"][piece], labels["train"][piece]
            inputs["train"] = {name: values[piece] for name, values in inputs["train"].items()}
        return Lot(rows, inputs, labels, self.goal.weight(number, rows["train"]))

    def _with_images(
        self, arrays: Arrays, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> Arrays:
        """Return arrays with all images changed."""
        images = [name for name, one in self.recipe.inputs.items() if one.kind == "image" and name in arrays]
        return arrays | {name: change(arrays[name]) for name in images}

    def balanced(
        self, arrays: Arrays, y: NDArray[Any], seed: int
    ) -> tuple[Arrays, NDArray[Any], NDArray[np.float64] | None]:
        """Return training arrays, labels and weights with the recipe's balance of classes."""
        how = self.recipe.balance
        if how == "none":
            return arrays, y, None
        if how == "weights":
            return arrays, y, class_weights(y, len(self.goal.classes))
        arrays, y = balance(arrays, y, how, seed)
        return arrays, y, None


def nested_order(y: NDArray[Any], classes: bool, seed: int) -> NDArray[np.intp]:
    """Return an order of objects of which every beginning holds the classes, or labels, in equal shares.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Labels.
    classes : bool
        Whether labels are classes; numbers are taken in ten ranges of equal size.
    seed : int
    """
    stratum = y if classes else np.argsort(np.argsort(y, kind="stable")) * 10 // len(y)
    rng = np.random.default_rng(seed)
    place = np.empty(len(y))
    for value in np.unique(stratum):
        own = np.flatnonzero(stratum == value)
        # Member i of n stands about (i + 1/2)/n down the list, so that each stratum is spread evenly.
        place[rng.permutation(own)] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.argsort(place, kind="stable")


def _shuffled(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return images, shape (n, bands, ny, nx), with the bands of each object in a random order."""
    order = rng.permuted(np.tile(np.arange(image.shape[1]), (len(image), 1)), axis=1)
    return np.take_along_axis(image, order[:, :, None, None], axis=1)
