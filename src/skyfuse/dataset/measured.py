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
from skyfuse.survey.sdss.instrument import BANDS
from skyfuse.words import DERIVED, Progress, Sampled

_REDSHIFTS = ("z", "redshift")


def measured(content: Content, progress: Progress | None) -> pd.DataFrame:
    """Return the quality columns: of the first spectra that are kept, and of the first images in ugriz."""
    kept = content.kept
    spectrum = next((name for name, held in kept.items() if held.kind == "spectrum"), None)
    image = next((name for name, held in kept.items() if list(held.told.get("bands", ())) == [*BANDS]), None)
    columns: dict[str, list[NDArray[Any]]] = {}
    for span in _blocks(content, [name for name in (spectrum, image) if name is not None]):
        block = content.rows[span]
        found: dict[str, NDArray[Any]] = {}
        if spectrum is not None:
            gaps = np.isnan(content.read(spectrum, kept[spectrum].finest, block).value)
            found["nan_fraction"] = gaps.mean(axis=1)
            found["nan_runs"] = np.bincount(quality.runs(gaps)[0], minlength=len(block))
        if image is not None:
            images = content.read(image, kept[image].finest, block)
            red, error = quality.r_band(images.value), quality.r_band(images.sigma)
            found["image_valid"] = np.isfinite(images.value).reshape(len(block), -1).mean(axis=1)
            found["n_components"] = quality.bright_components(red)
            found["n_sources"] = quality.extracted_sources(red, error)
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        if progress is not None:
            progress(span.stop, len(content.rows), "quality")
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def _blocks(content: Content, names: Sequence[str]) -> Iterator[slice]:
    """Yield blocks of rows whose arrays at the finest zoom fit into memory; none if no arrays are read."""
    rows = content.rows
    if not names or not len(rows):
        return iter(())
    first = [content.read(name, content.inputs[name].finest, rows[:1]).value.nbytes for name in names]
    return quality.blocks(len(rows), max(first))


def derived(content: Content, names: Sequence[str]) -> pd.DataFrame:
    """Return the columns that are derived from arrays, of the first input of the kind, block by block."""
    sources: dict[Sampled, str] = {}
    for kind in sorted({DERIVED[name].modality for name in names}):
        source = content.first(kind)
        if source is None:
            raise DataError(
                f"{', '.join(names)} cannot be derived: the data has no {kind}", remedy="leave out derive"
            )
        sources[kind] = source
    z = _redshift(content.table) if "ew" in names else None
    columns: dict[str, list[NDArray[np.float64]]] = {}
    for block in _blocks(content, list(sources.values())):
        rows = content.rows[block]
        values = {
            k: content.read(name, content.inputs[name].finest, rows).value for k, name in sources.items()
        }
        found: dict[str, NDArray[np.float64]] = {}
        if "spectrum" in values:
            held = content.inputs[sources["spectrum"]]
            flux, wavelength = values["spectrum"], held.wavelengths[held.finest]
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
