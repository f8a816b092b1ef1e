"""What the inputs of an object look like in a few numbers, whatever their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyfuse.models.inputs import Arrays, kinds_of
from skyfuse.words import Modality

BLOCKS = 16
"""Pieces of a spectrum whose means stand for its shape."""

RINGS = 3
"""Rings about the centre of an image, within 1/4, 1/2 and all of its half-diagonal, whose means stand for its
profile in each band."""

_ROWS = 256  # objects at a time, since a median copies what it sorts
_FEWEST = 5  # samples in a line that noise can be told from
_GREATEST = 1e4  # signal to noise beyond which images without noise lie, e.g. drawn ones


@dataclass(frozen=True, slots=True)
class Summary:
    """A few numbers for each of n objects.

    Attributes
    ----------
    names : tuple of str
        What `values` are called.
    values : ndarray of float32, shape (n, names)
        Each column of the table under its name. Of images and spectra the median of the valid samples, which
        stands for the brightness (``image median``), the share of them (``image valid``), and the ratio of
        signal to noise (``image S/N``), as `_signal_to_noise` tells it. NaN where there is no value.
    form : ndarray of float32, shape (n, ...)
        What has no name: means over pieces of the spectra, in units of their median size, and over rings of
        the images, by band.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    form: NDArray[np.float32]


def summarise(arrays: Arrays, columns: Sequence[str], kinds: Mapping[str, Modality] | None = None) -> Summary:
    """Return what some objects look like.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Of n objects, see `skyfuse.models.inputs.Arrays`.
    columns : sequence of str
        Names of the columns of the table; where they are none, their numbers.
    kinds : mapping of str to str, optional
        Kind of each input that is not called by it.
    """
    names: list[str] = []
    values: list[NDArray[np.float32]] = []
    forms: list[NDArray[np.float32]] = [np.empty((len(next(iter(arrays.values()))), 0), np.float32)]
    for name, kind in kinds_of(arrays, kinds).items():
        array = arrays[name]
        if kind == "table":
            names += columns if len(columns) == array.shape[1] else map(str, range(array.shape[1]))
            values.append(array)
            continue
        names += [f"{name} median", f"{name} valid", f"{name} S/N"]
        own = [_of_block(array[rows], kind) for rows in _blocks(len(array))]
        values.append(np.concatenate([value for value, _ in own]))
        forms.append(np.concatenate([form for _, form in own]))
    return Summary(tuple(names), np.concatenate(values, axis=1), np.concatenate(forms, axis=1))


def width_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many numbers a `Summary` holds of an object.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one object in each array, by what it is called inside a model.
    """
    width = 0
    for slot, kind in kinds_of(dict.fromkeys(shapes, ())).items():
        first = shapes[slot][0]
        own = {"table": first, "spectrum": 3 + min(BLOCKS, first), "image": 3 + first * RINGS}
        width += own[kind]
    return width


def without_input(arrays: Arrays, kinds: Mapping[str, Modality] | None = None) -> NDArray[np.bool_]:
    """Return which objects have not a single valid value in one of the inputs."""
    empty = np.zeros(len(next(iter(arrays.values()))), dtype=bool)
    for name in kinds_of(arrays, kinds):
        empty |= ~np.isfinite(arrays[name]).reshape(len(empty), -1).any(axis=1)
    return empty


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, max(n, 1), _ROWS)]


def _of_block(array: NDArray[np.float32], kind: Modality) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return median, valid share and S/N, (n, 3), and the form, of some images or spectra."""
    known = np.where(np.isfinite(array), array, np.float32(np.nan))
    flat = known.reshape(len(known), -1)
    valid = np.isfinite(flat)
    form = _rings(known) if kind == "image" else _pieces(known)
    values = np.stack([_median(flat), valid.mean(axis=1, dtype=np.float64), _signal_to_noise(known)], axis=1)
    return values.astype(np.float32), form.astype(np.float32)


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median of the valid values of each row, NaN where there is none."""
    found = np.full(len(values), np.nan, np.float32)
    some = np.isfinite(values).any(axis=1)
    if some.any():
        found[some] = np.nanmedian(values[some], axis=1)
    return found


def _signal_to_noise(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far what is seen rises above the scatter of neighbouring samples.

    The noise is 1.482602/√6 of the median of |2 f(i) − f(i − 2) − f(i + 2)| (Stoehr et al. 2008, ASP Conf.
    Ser. 394, 505), along the spectrum or the rows of the image. The signal of a spectrum is its median, as
    there; that of an image the mean of the inner ring less that of the outer, in the band where it stands out
    most. It describes an input and is no measurement: noise that is correlated, or was smoothed away, makes
    it too large in the training and in new objects alike.
    """
    lines = values if values.ndim > 2 else values[:, None, None, :]
    n, bands = lines.shape[:2]
    if lines.shape[-1] < _FEWEST:
        return np.full(n, np.nan, np.float32)
    rough = np.abs(2 * lines[..., 2:-2] - lines[..., :-4] - lines[..., 4:])
    noise = 1.482602 / np.sqrt(6) * _median(rough.reshape(n * bands, -1)).reshape(n, bands)
    if values.ndim == 2:
        signal = _median(values).astype(np.float64)[:, None]
    else:
        rings = _rings(values).reshape(n, bands, RINGS)
        signal = rings[..., 0] - rings[..., -1]
    told = np.isfinite(signal) & np.isfinite(noise)
    ratio = np.full((n, bands), -np.inf)
    np.divide(signal, np.maximum(noise, np.abs(signal) / _GREATEST + 1e-30), out=ratio, where=told)
    best: NDArray[np.float32] = np.where(told.any(axis=1), ratio.max(axis=1), np.nan).astype(np.float32)
    return best


def _pieces(spectra: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the means over pieces of spectra, in units of the median of their sizes."""
    bins = spectra.shape[1]
    edges = np.linspace(0, bins, min(BLOCKS, bins) + 1).astype(int)[:-1]
    valid = np.isfinite(spectra)
    total = np.add.reduceat(np.where(valid, spectra, 0), edges, axis=1, dtype=np.float64)
    means = _ratio(total, np.add.reduceat(valid, edges, axis=1, dtype=np.float64))
    size = _median(np.abs(means).astype(np.float32)).astype(np.float64)[:, None]
    return _ratio(means, np.where(size > 0, size, 1))


def _rings(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the means over rings of images, by band, (n, bands · `RINGS`)."""
    n, bands, rows, columns = images.shape
    y, x = (np.abs(np.arange(side) - (side - 1) / 2) / max(side / 2, 1) for side in (rows, columns))
    ring = np.digitize(np.hypot(y[:, None], x) / np.sqrt(2), (0.25, 0.5)).ravel()
    masks = (ring[:, None] == np.arange(RINGS)).astype(np.float32)
    flat = images.reshape(n, bands, -1)
    valid = np.isfinite(flat)
    total = np.where(valid, flat, 0) @ masks
    return _ratio(total, valid.astype(np.float32) @ masks).reshape(n, -1)


def _ratio(total: NDArray[np.floating], count: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a quotient, NaN where the divisor is 0."""
    found = np.full(total.shape, np.nan)
    np.divide(total, count, out=found, where=count > 0)
    return found
