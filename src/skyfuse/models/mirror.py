"""What a mirror does to objects: some classes swap, some columns change their sign, images are flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import UsageError
from skyfuse.models.inputs import Arrays, of_kind


@dataclass(frozen=True, slots=True)
class Mirror:
    """The mirror image of an object, for models whose answers must be the mirror images of each other.

    Attributes
    ----------
    becomes : tuple of int
        For each class the one that its mirror image has.
    odd : tuple of int
        Columns of the table whose sign tells the sense of winding.
    """

    becomes: tuple[int, ...]
    odd: tuple[int, ...] = ()

    @classmethod
    def of(cls, pairs: Mapping[str, str], classes: Sequence[str], odd: Sequence[int] = ()) -> Self:
        """Return the mirror that swaps pairs of classes.

        Raises
        ------
        UsageError
            If a pair names what is no class, or a class twice.
        """
        named = [*pairs, *pairs.values()]
        for name in named:
            if name not in classes or named.count(name) > 1:
                raise UsageError(
                    f"a mirror swaps {name!r}, which is "
                    + ("no class" if name not in classes else "named twice"),
                    remedy=f"name pairs of {', '.join(classes)}",
                )
        swaps = {**pairs, **{other: one for one, other in pairs.items()}}
        return cls(tuple(list(classes).index(swaps.get(name, name)) for name in classes), tuple(odd))

    def inputs(self, x: Arrays) -> Arrays:
        """Return the mirror images of objects."""
        mirrored = {slot: np.ascontiguousarray(x[slot][..., ::-1]) for slot in of_kind("image", x)}
        for slot in of_kind("table", x):
            mirrored[slot] = x[slot] * self.signs(x[slot].shape[1])
        return {**x, **mirrored}

    def signs(self, columns: int) -> NDArray[np.float32]:
        """Return the factor, 1 or -1, of each column of a table."""
        signs = np.ones(columns, dtype=np.float32)
        signs[list(self.odd)] = -1
        return signs

    def labels(self, y: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes of the mirror images."""
        return np.array(self.becomes, dtype=np.int64)[y]

    def both(self, x: Arrays) -> Arrays:
        """Return objects, and after them their mirror images."""
        other = self.inputs(x)
        return {slot: np.concatenate([x[slot], other[slot]]) for slot in x}

    def mean(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean answer, given those for objects and, after them, for their mirror images."""
        one, other = np.split(probability, 2)
        return (one + other[:, list(self.becomes)]) / 2

    def to_dict(self) -> dict[str, list[int]]:
        """Return what a model's card keeps."""
        return {"becomes": list(self.becomes), "odd": list(self.odd)}

    @classmethod
    def from_dict(
        cls, told: Mapping[str, Sequence[int]], classes: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> Self:
        """Return the mirror of a model's card.

        Raises
        ------
        ValueError
            If it is none of these classes and shapes: done twice, a mirror changes nothing.
        """
        becomes, odd = tuple(told["becomes"]), tuple(told["odd"])
        columns = shapes.get("table", (0,))[0]
        known = len(becomes) == classes and all(
            0 <= k < classes and becomes[k] == i for i, k in enumerate(becomes)
        )
        if not known or len(set(odd)) < len(odd) or not all(0 <= k < columns for k in odd):
            raise ValueError(f"no mirror swaps {list(becomes)} or the signs of {list(odd)}")
        return cls(becomes, odd)
