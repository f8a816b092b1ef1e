"""Columns that are measured on the arrays of a dataset, at the finest zoom: quality, and what is derived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.dataset import features, quality, select
from skyfuse.dataset.content import Content
from skyfuse.dataset.morphology import morphology
from skyfuse.errors import DataError
from skyfuse.survey.records import BANDS
from skyfuse.words import DERIVED, Progress, Sampled

_REDSHIFTS = ("z", "redshift")


def measured(content: Content, progress: Progress | None) -> pd.DataFrame:
    """Return the quality columns, measured at the finest zoom block by block."""
    in_bands = content.meta.get("image", {}).get("bands") == BANDS
    columns: dict[str, list[NDArray[Any]]] = {}
    measured = [m for m in content.zooms if m == "spectrum" or in_bands]
    for span in _blocks(content, measured):
        block = content.rows[span]
        found: dict[str, NDArray[Any]] = {}
        if "spectrum" in measured:
            gaps = np.isnan(content.read("spectrum", content.finest["spectrum"], block).value)
            found["nan_fraction"] = gaps.mean(axis=1)
            found["nan_runs"] = np.bincount(quality.runs(gaps)[0], minlength=len(block))
        if "image" in measured:
            images = content.read("image", content.finest["image"], block)
            red, error = quality.r_band(images.value), quality.r_band(images.sigma)
            found["image_valid"] = np.isfinite(images.value).reshape(len(block), -1).mean(axis=1)
            found["n_components"] = quality.bright_components(red)
            found["n_sources"] = quality.extracted_sources(red, error)
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        if progress is not None:
            progress(span.stop, len(content.rows), "quality")
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def _blocks(content: Content, modalities: Sequence[Sampled]) -> Iterator[slice]:
    """Yield blocks of rows whose arrays at the finest zoom fit into memory; none if no arrays are read."""
    rows = content.rows
    if not modalities or not len(rows):
        return iter(())
    first = [content.read(m, content.finest[m], rows[:1]).value.nbytes for m in modalities]
    return quality.blocks(len(rows), max(first))


def derived(content: Content, names: Sequence[str]) -> pd.DataFrame:
    """Return the columns that are derived from the arrays, measured at the finest zoom block by block."""
    needed = sorted({DERIVED[name].modality for name in names})
    for modality in needed:
        if modality not in content.finest:
            raise DataError(
                f"{', '.join(names)} cannot be derived: the data has no {modality}", remedy="leave out derive"
            )
    z = _redshift(content.table) if "ew" in names else None
    columns: dict[str, list[NDArray[np.float64]]] = {}
    for block in _blocks(content, needed):
        values = {m: content.read(m, content.finest[m], content.rows[block]).value for m in needed}
        found: dict[str, NDArray[np.float64]] = {}
        if "spectrum" in values:
            flux, wavelength = values["spectrum"], content.wavelengths[content.finest["spectrum"]]
            if z is not None:
                widths = features.equivalent_widths(wavelength, flux, z[block])
                found |= dict(zip(features.EW_NAMES, widths.T, strict=True))
            if "indices" in names:
                indices = features.line_indices(wavelength, flux)
                found |= dict(zip(features.INDEX_NAMES, indices.T, strict=True))
        if "image" in values:
            found |= {f"morph_{name}": column for name, column in morphology(values["image"]).items()}
        for name, column in found.items():
            columns.setdefault(name, []).append(column)
    made = {name: np.concatenate(parts) for name, parts in columns.items()}
    return pd.DataFrame(made, index=content.table.index)


def _redshift(table: pd.DataFrame) -> NDArray[np.float64]:
    for name in _REDSHIFTS:
        if name in table:
            return select.numbers(table, name)
    raise DataError(
        "equivalent widths need a redshift, and the table has none",
        remedy=f"give a column {' or '.join(_REDSHIFTS)}",
    )
