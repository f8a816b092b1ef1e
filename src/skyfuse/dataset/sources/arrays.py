"""A table and the arrays of its rows, wherever they come from: files that no cube holds, or Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse.dataset import groups, quality, select
from skyfuse.dataset.content import Content, Draft, Held
from skyfuse.dataset.match import on_sky
from skyfuse.dataset.tables import identified, name_keys, storable, table_digest
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, UsageError
from skyfuse.survey.records import Samples
from skyfuse.words import SAMPLED

Read = Callable[[NDArray[np.int64]], Samples]
"""Arrays of one input and zoom of some rows of the table."""


@dataclass(frozen=True)
class Material:
    """A table with the arrays of its rows.

    Attributes
    ----------
    table : DataFrame
        A row for each object. What names it is the column ``object_id``, else the first of objid, source_id,
        name and the like that is unique, else the number of the row.
    arrays : mapping of (str, int) to Samples or callable
        For each input and zoom the arrays, or a function that gives those of some rows of `table`.
    provenance : mapping
        What names the source files and their content, as plain values for JSON: functions among `arrays` are
        not read to tell whether a dataset that is there already is of the same content. ``reader`` names
        the source of `skyfuse.dataset.sources` that would read them, if any.
    inputs : mapping of str to mapping
        What the arrays of each input are, for the record: ``{"image": {"size": 224, "bands": ["r", "g"]},
        "spectrum": {"grid": "gaia-xp", "sizes": [186]}}``, with a ``unit`` where they have one, and the
        ``kind`` of an input that is not called by it.
    wavelengths : mapping of (str, int) to ndarray
        Bin centres of spectra in Å, by input and zoom.
    apart : float or array, shape (n,)
        Distance up to which rows share light, arcsec; of two rows the mean of theirs counts. See
        `skyfuse.dataset.groups.sky_groups`.
    funnel : Funnel
        Steps that were taken before; those of the label are added.
    """

    table: pd.DataFrame
    arrays: Mapping[tuple[str, int], Samples | Read] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wavelengths: Mapping[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    apart: ArrayLike = groups.NEIGHBOUR_ARCSEC
    funnel: select.Funnel = field(default_factory=select.Funnel)

    def read(self, name: str, zoom: int, rows: NDArray[np.int64]) -> Samples:
        """Return the arrays of some rows."""
        source = self.arrays[name, zoom]
        if isinstance(source, Samples):
            return Samples(source.value[rows], source.sigma[rows], source.coverage[rows])
        return source(rows)

    def held(self) -> dict[str, Held]:
        """Return the arrays of each input.

        Raises
        ------
        UsageError
            If a description or its wavelengths are missing, or lengths differ.
        """
        levels: dict[str, list[int]] = {}
        for name, zoom in sorted(self.arrays):
            source = self.arrays[name, zoom]
            kind = self.inputs.get(name, {}).get("kind", name)
            untold = name not in self.inputs or kind not in SAMPLED
            if untold or (kind == "spectrum" and (name, zoom) not in self.wavelengths):
                raise UsageError(
                    f"what the arrays of {name} at zoom {zoom} are is not told",
                    remedy="describe each input, and give the wavelengths of every zoom of spectra",
                )
            if isinstance(source, Samples) and len(source.value) != len(self.table):
                raise UsageError(
                    f"{name} at zoom {zoom} has {len(source.value)} rows and the table {len(self.table)}",
                    remedy="give one row for each object",
                )
            levels.setdefault(name, []).append(zoom)
        found = {}
        # In the order of their kinds, in which models join them.
        for name in sorted(levels, key=lambda name: SAMPLED.index(self.inputs[name].get("kind", name))):
            told = {key: value for key, value in self.inputs[name].items() if key != "kind"}
            centres = {zoom: values for (own, zoom), values in self.wavelengths.items() if own == name}
            zooms = tuple(levels[name])
            found[name] = Held(self.inputs[name].get("kind", name), zooms, min(zooms), told, centres)
        return found


def draft_of_arrays(material: Material, wanted: Wanted) -> Draft:
    """Return the draft of a dataset of a table with the arrays of its rows.

    Raises
    ------
    DataError
        If the table cannot be stored, or the label is missing.
    """
    table = storable(material.table.reset_index(drop=True))
    if wanted.label is not None:
        table, label = select.with_label(table, wanted.label)
        wanted = replace(wanted, label=label)
    material = replace(material, table=table)
    request = {
        "table": {"rows": len(table), "sha256": table_digest(table)},
        # What a function delivers is not read for this: the provenance names its files.
        "arrays": {
            f"{name}/{zoom}": _samples_digest(source) if isinstance(source, Samples) else None
            for (name, zoom), source in sorted(material.arrays.items())
        },
        "provenance": dict(material.provenance),
        **wanted.request(),
    }
    return Draft(wanted, request, lambda: _content(material, wanted))


def _content(material: Material, wanted: Wanted) -> Content:
    """Return the rows of a table with their arrays."""
    held = material.held()
    funnel = select.Funnel(list(material.funnel.steps))
    if not funnel.steps:
        funnel.add("rows of the table", len(material.table))
    table = identified(material.table)
    meta: dict[str, Any] = {"source": {"reader": material.provenance.get("reader"), "every_spectrum": False}}
    group = _Groups(table, material, wanted.columns)

    def grouped(kept: pd.DataFrame) -> NDArray[np.int64]:
        found, crowded = group.of(kept)
        if crowded is not None:
            meta["crowded"] = crowded
        return found

    return Content(
        table=table,
        rows=np.arange(len(table)),
        read=material.read,
        inputs=held,
        funnel=funnel,
        group=grouped,
        meta=meta,
    )


class _Groups:
    """Which rows may not be parted, by what they held before any was dropped."""

    def __init__(self, table: pd.DataFrame, material: Material, columns: Sequence[str]) -> None:
        self._given = "group" in table
        self._equal, self._names = _equal_keys(table, material.arrays, columns), name_keys(table)
        self._reach = np.broadcast_to(np.asarray(material.apart, dtype=np.float64), len(table))
        self._row_of = pd.Series(np.arange(len(table)), index=table["object_id"].to_numpy())

    def of(self, kept: pd.DataFrame) -> tuple[NDArray[np.int64], int | None]:
        """Return the group of each row that is kept, and how many a crowded field costs."""
        if self._given:
            return np.unique(kept["group"].astype(str), return_inverse=True)[1].astype(np.int64), None
        rows = self._row_of.loc[kept["object_id"]].to_numpy()
        equal = [self._names[rows]]
        if not {"ra", "dec"} <= set(kept):
            same = [] if self._equal is None else [self._equal[rows]]
            return groups.equal_groups(len(kept), *equal, *same), None
        ra, dec = (kept[name].to_numpy(np.float64, na_value=np.nan) for name in ("ra", "dec"))
        placed = np.flatnonzero(on_sky(ra, dec))
        near = np.full(len(kept), -1, dtype=np.int64)
        near[placed], crowded = groups.sky_groups(
            kept["object_id"].iloc[placed],
            ra[placed],
            dec[placed],
            size=0,
            apart=self._reach[rows[placed]],
        )
        found = groups.equal_groups(len(kept), *equal, near)
        found[placed[near[placed] < 0]] = -1
        return found, crowded


def _equal_keys(
    table: pd.DataFrame,
    arrays: Mapping[tuple[str, int], Samples | Read],
    columns: Sequence[str],
) -> NDArray[np.int64] | None:
    """Return a number for each row, equal where its inputs are, −1 where it has none.

    Its inputs are its columns, else its coarsest array.
    """
    inputs: list[str] = []
    for name in columns:
        # What is derived from the arrays is not there yet, and equal where they are.
        with suppress(DataError):
            inputs += select.expand_columns(table, [name])
    if inputs:
        numbers = np.stack([select.numbers(table, name) for name in inputs], axis=1)
    else:
        held = {zoom: source for (_, zoom), source in arrays.items() if isinstance(source, Samples)}
        if not held:
            return None
        numbers = held[max(held)].value.reshape(len(table), -1).astype(np.float64)
    keys = np.array([_row_key(row) for row in numbers], dtype=np.uint64)
    # Rows without a single value are not equal: nothing is known of them.
    unknown = ~np.isfinite(numbers).any(axis=1)
    codes = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    codes[unknown] = -1
    return codes


def _row_key(row: NDArray[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")


def _samples_digest(samples: Samples) -> str:
    digest = hashlib.sha256(repr([(part.shape, part.dtype.str) for part in samples]).encode())
    for part in samples:
        for block in quality.blocks(len(part), part[:1].nbytes):
            digest.update(np.ascontiguousarray(part[block]).data)
    return digest.hexdigest()
