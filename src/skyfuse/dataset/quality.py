"""What is wrong with the data, counted: gaps in spectra at each zoom, and cutouts with several objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import sep
from numpy.typing import NDArray
from scipy import ndimage

from skyfuse.survey.sdss.instrument import BANDS

NAN_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.999999, 1.0)
"""Upper edges of the classes of NaN share (the last two: some valid bin is left; none is)."""
RUN_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Lower edges of the classes of the run-length histogram, in bins."""
BRIGHT = 0.9
"""Threshold of the multi-object check on the r band scaled to [0, 1]."""
DETECTION_SIGMA = 5.0
MIN_AREA = 5
"""Source extraction: this many connected pixels above so many σ make a source."""

_BLOCK_BYTES = 2**25
_R = BANDS.index("r")
# Pixels of one blend: a cutout has 4096 of them, and sep's default of 1024 sub-objects overflows on noise
# alone.
_SUB_OBJECTS = 4096


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices over `n` rows that hold about 32 MiB each."""
    step = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the runs of True along the last axis of a two-dimensional mask.

    Returns
    -------
    row, start, length : ndarray of int64, shape (runs,)
        In row order.
    """
    n, width = mask.shape
    edges = np.zeros((n, width + 2), dtype=np.int8)
    edges[:, 1:-1] = mask
    change = np.diff(edges, axis=1)
    row, start = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    return row.astype(np.int64), start.astype(np.int64), (end - start).astype(np.int64)


@dataclass(frozen=True)
class NanStudy:
    """Gaps of the spectra at one zoom.

    Attributes
    ----------
    zoom : int
    objects, bins : int
        Number of spectra and of bins in each.
    shares : DataFrame
        Columns ``up_to`` (percentage of NaN bins, inclusive upper edge), ``objects``, ``share``.
    runs : int
        Number of runs of consecutive NaN bins, over all spectra.
    mean_run, max_run : float, int
        Their mean and greatest length in bins; 0 if there is none.
    histogram : DataFrame
        Columns ``from_length``, ``to_length`` (inclusive), ``runs``.
    frequency : ndarray of float64, shape (bins,)
        Share of the spectra that are NaN in each bin.
    with_nan : int
        Spectra with at least one NaN bin.
    """

    zoom: int
    objects: int
    bins: int
    shares: pd.DataFrame
    runs: int
    mean_run: float
    max_run: int
    histogram: pd.DataFrame
    frequency: NDArray[np.float64]
    with_nan: int


def nan_study(spectra: NDArray[np.float32], zoom: int) -> NanStudy:
    """Count the gaps of spectra, block by block.

    Parameters
    ----------
    spectra : ndarray of float32, shape (n, bins)
        NaN where invalid; may be mapped.
    zoom : int
        For the record.
    """
    n, bins = spectra.shape
    lengths = np.zeros(bins + 1, dtype=np.int64)
    per_bin = np.zeros(bins, dtype=np.int64)
    per_object = np.zeros(n, dtype=np.int64)
    for block in blocks(n, 4 * bins):
        mask = np.isnan(spectra[block])
        lengths += np.bincount(runs(mask)[2], minlength=bins + 1)
        per_bin += mask.sum(axis=0)
        per_object[block] = mask.sum(axis=1)
    number = int(lengths.sum())
    classes = np.searchsorted(NAN_SHARES, per_object / max(bins, 1), side="left")
    in_class = np.bincount(classes, minlength=len(NAN_SHARES))
    lower = [edge for edge in RUN_EDGES if edge <= bins]
    upper = [edge - 1 for edge in lower[1:]] + [bins]
    return NanStudy(
        zoom=zoom,
        objects=n,
        bins=bins,
        shares=pd.DataFrame(
            {"up_to": 100 * np.asarray(NAN_SHARES), "objects": in_class, "share": in_class / max(n, 1)}
        ),
        runs=number,
        mean_run=float(lengths @ np.arange(bins + 1) / number) if number else 0.0,
        max_run=int(np.flatnonzero(lengths)[-1]) if number else 0,
        histogram=pd.DataFrame(
            {
                "from_length": lower,
                "to_length": upper,
                "runs": [int(lengths[a : b + 1].sum()) for a, b in zip(lower, upper, strict=True)],
            }
        ),
        frequency=per_bin / max(n, 1),
        with_nan=int(np.count_nonzero(per_object)),
    )


def bright_components(images: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of separate regions above the threshold in each image.

    Each image is scaled to [0, 1] by its least and greatest valid value; pixels above 0.9 that touch along
    an edge form a region. An image without a valid pixel, or with a single value throughout, has none.

    Parameters
    ----------
    images : ndarray of float32, shape (n, ny, nx)
        r band; NaN where invalid.
    """
    valid = np.isfinite(images)
    low = np.where(valid, images, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(valid, images, -np.inf).max(axis=(1, 2), keepdims=True)
    usable = high > low
    span = np.where(usable, high - low, 1)
    bright = valid & usable & ((images - np.where(usable, low, 0)) > BRIGHT * span)
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, _ = ndimage.label(bright, structure=in_plane)
    # Regions are numbered in scan order, so each image's numbers follow those of the image before.
    top = np.maximum.accumulate(labels.max(axis=(1, 2)))
    return np.diff(top, prepend=0).astype(np.int64)


def extracted_sources(images: NDArray[np.float32], sigma: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of sources in each image extracted and deblended (Bertin & Arnouts 1996).

    Parameters
    ----------
    images, sigma : ndarray of float32, shape (n, ny, nx)
        r band, sky-subtracted, and its standard deviation; NaN where invalid.

    Returns
    -------
    ndarray of int64, shape (n,)
        −1 where the extraction gave up (a blend of more parts than it can hold).
    """
    sep.set_sub_object_limit(_SUB_OBJECTS)
    counts = np.zeros(len(images), dtype=np.int64)
    for number, (image, error) in enumerate(zip(images, sigma, strict=True)):
        bad = ~(np.isfinite(image) & np.isfinite(error) & (error > 0))
        if bad.all():
            continue
        try:
            found = sep.extract(
                np.where(bad, np.float32(0), image),
                DETECTION_SIGMA,
                err=np.where(bad, np.float32(1), error),
                mask=bad,
                minarea=MIN_AREA,
            )
        except Exception:  # sep raises nothing narrower when its buffers overflow
            counts[number] = -1
        else:
            counts[number] = len(found)
    return counts


@dataclass(frozen=True)
class MultiObjectCheck:
    """Two ways to find cutouts with several objects, and where they disagree.

    Attributes
    ----------
    table : DataFrame
        Counts: rows ``threshold`` one/several, columns ``extraction`` one/several. Cutouts without a valid
        pixel, and those that the extraction gave up, count nowhere.
    threshold_only, extraction_only : list of str
        Ids of the objects that one way alone calls several.
    unusable : int
        Cutouts that count nowhere.
    """

    table: pd.DataFrame
    threshold_only: list[str]
    extraction_only: list[str]
    unusable: int


def multi_object_check(
    object_ids: NDArray[np.str_], n_components: NDArray[np.int64], n_sources: NDArray[np.int64]
) -> MultiObjectCheck:
    """Compare the numbers of bright regions and of extracted sources.

    Parameters
    ----------
    object_ids : array of str, shape (n,)
    n_components, n_sources : ndarray of int64, shape (n,)
        From `bright_components` and `extracted_sources`; −1 for unusable.
    """
    usable = (n_components > 0) & (n_sources >= 0)
    several, extracted = n_components > 1, n_sources > 1
    cells = [
        [int(np.count_nonzero(usable & (several == a) & (extracted == b))) for b in (False, True)]
        for a in (False, True)
    ]
    names = ["one", "several"]
    return MultiObjectCheck(
        table=pd.DataFrame(
            cells, index=pd.Index(names, name="threshold"), columns=pd.Index(names, name="extraction")
        ),
        threshold_only=[str(name) for name in object_ids[usable & several & ~extracted]],
        extraction_only=[str(name) for name in object_ids[usable & ~several & extracted]],
        unusable=int(np.count_nonzero(~usable)),
    )


def r_band(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the r band of images of shape (n, 5, ny, nx)."""
    return images[:, _R]
