"""How far the inputs of a training reach, and which objects lie outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.models.inputs import Arrays, kinds_of
from skyfuse.words import Modality

_BLOCK = 256  # objects whose medians are taken at a time, since a median copies what it sorts


def summaries(
    arrays: Arrays, columns: Sequence[str], kinds: Mapping[str, Modality] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return what ranges are told of, by name: one number for each object.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Of n objects, see `skyfuse.models.inputs.Arrays`.
    columns : sequence of str
        Names of the columns of the table.
    kinds : mapping of str to str, optional
        Kind of each input that is not called by it.

    Returns
    -------
    dict of str to ndarray of float32, shape (n,)
        Each column of the table under its name. Of images and spectra the median of the valid samples, which
        stands for the brightness (``image median``), and the share of them (``image valid``). NaN where there
        is no value.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, kind in kinds_of(arrays, kinds).items():
        values = arrays[name]
        if kind == "table":
            found |= {column: values[:, k] for k, column in enumerate(columns)}
            continue
        flat = values.reshape(len(values), -1)
        valid = np.isfinite(flat)
        median = np.full(len(flat), np.nan, np.float32)
        some = np.flatnonzero(valid.any(axis=1))
        for rows in np.split(some, range(_BLOCK, len(some), _BLOCK)):
            median[rows] = np.nanmedian(np.where(valid[rows], flat[rows], np.nan), axis=1)
        found[f"{name} median"] = median
        found[f"{name} valid"] = valid.mean(axis=1, dtype=np.float64).astype(np.float32)
    return found


def ranges(
    arrays: Arrays, columns: Sequence[str], kinds: Mapping[str, Modality] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the ranges of a training part, for the model's card (`skyfuse.models.files.Range`)."""
    found = {}
    for name, values in summaries(arrays, columns, kinds).items():
        finite = values[np.isfinite(values)]
        found[name] = {
            "low": float(finite.min()) if finite.size else None,
            "high": float(finite.max()) if finite.size else None,
            "gaps": finite.size < values.size,
        }
    return found


def outside(
    arrays: Arrays,
    columns: Sequence[str],
    known: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, Modality] | None = None,
) -> NDArray[np.object_]:
    """Return which inputs of each object the training never saw the like of.

    Parameters
    ----------
    arrays, columns, kinds
        As in `summaries`.
    known : mapping of str to mapping
        From `ranges`.

    Returns
    -------
    ndarray of str, shape (n,)
        Names of the inputs that lie below or above the training's range, or have no value where every object
        of the training had one; joined by ``;``, empty where there is none.
    """
    names: list[str] = []
    flags: list[NDArray[np.bool_]] = []
    for name, values in summaries(arrays, columns, kinds).items():
        if name not in known:
            continue
        low, high, gaps = (known[name][key] for key in ("low", "high", "gaps"))
        finite = np.isfinite(values)
        beyond = (
            finite if low is None else finite & ((values < np.float32(low)) | (values > np.float32(high)))
        )
        names.append(name)
        flags.append(beyond | (~finite & (not gaps)))
    count = len(next(iter(arrays.values())))
    found = np.full(count, "", dtype=object)
    if names:
        marked = np.stack(flags, axis=1)
        for row in np.flatnonzero(marked.any(axis=1)):
            found[row] = ";".join(np.array(names)[marked[row]])
    return found


def without_input(arrays: Arrays, kinds: Mapping[str, Modality] | None = None) -> NDArray[np.bool_]:
    """Return which objects have not a single valid value in one of the inputs."""
    empty = np.zeros(len(next(iter(arrays.values()))), dtype=bool)
    for name in kinds_of(arrays, kinds):
        empty |= ~np.isfinite(arrays[name]).reshape(len(empty), -1).any(axis=1)
    return empty
