"""A dataset as PyTorch takes it; the only module of this package that imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skyfuse.dataset.dataset import Dataset

Sample = dict[str, torch.Tensor]


class TensorDataset(torch.utils.data.Dataset[Sample]):
    """Map-style dataset of dictionaries: a float32 tensor by input (NaN invalid), ``label`` and ``row``.

    A ``torch.utils.data.DataLoader`` fetches a whole batch by one call, whose bytes are announced to the
    kernel first.

    Parameters
    ----------
    dataset : Dataset
    inputs : mapping of str to int
        Zoom by input.
    rows : ndarray of int64
        Rows of the dataset that this one holds, in this order.
    label : ndarray, optional
        Label of each of these rows.
    columns, smooth
        As in `Dataset.inputs`.
    """

    def __init__(
        self,
        dataset: Dataset,
        inputs: Mapping[str, int],
        rows: NDArray[np.int64],
        label: NDArray[np.float32] | None,
        *,
        columns: Sequence[str] = (),
        smooth: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.inputs = dict(inputs)
        self.rows = rows
        self.label = label
        self.columns, self.smooth = columns, smooth

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, indices: Sequence[int]) -> Sample:
        """Return a batch as one dictionary of stacked tensors."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows = self.rows[chosen]
        inputs = self.dataset.inputs(self.inputs, rows, columns=self.columns, smooth=self.smooth)
        batch = {name: torch.from_numpy(values) for name, values in inputs.items()}
        if self.label is not None:
            batch["label"] = torch.from_numpy(self.label[chosen])
        batch["row"] = torch.from_numpy(rows)
        return batch

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        batch = self.fetch(indices)
        return [{name: tensor[k] for name, tensor in batch.items()} for k in range(len(indices))]
