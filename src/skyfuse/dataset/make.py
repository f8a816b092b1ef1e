"""Making a dataset: rows chosen and counted, quality measured, groups and split, arrays written in blocks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse import disk
from skyfuse.checksums import replace_covered, seal
from skyfuse.dataset import quality, select
from skyfuse.dataset import split as splitting
from skyfuse.dataset.arrays import write_arrays, write_block
from skyfuse.dataset.content import Content
from skyfuse.dataset.measured import derived, measured
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import DataError, StoreError
from skyfuse.words import DERIVED, Progress

FORMAT = 4
"""Version of the folder's layout; `Dataset.open` refuses any other."""
TABLE, ARRAYS, META, SPLITS = "table.parquet", "arrays.h5", "dataset.json", "splits.json"
NOTHING_LEFT = "no object is left to use"
"""How the error begins where every object was dropped on the way."""

WARNING = "zwarning"
"""Column by which pipelines doubt their own classes and redshifts."""


def plain(content: Any) -> Any:
    """Return content as it comes back from JSON: lists for tuples, text for keys."""
    return json.loads(json.dumps(content))


def make(
    path: Path, content: Content, wanted: Wanted, request: dict[str, Any], progress: Progress | None
) -> None:
    """Write a dataset of what a source holds and the call asks for."""
    funnel = content.funnel
    keep = np.ones(len(content.rows), dtype=bool)
    for name, passes in _row_steps(content, wanted):
        keep &= passes
        funnel.add(name, int(keep.sum()))
    content.keep(keep)
    if wanted.label is not None and wanted.classes:
        named = select.class_names(content.table[wanted.label], wanted.classes)
        content.table[wanted.label] = named.astype(str).astype(object)
    content.table = pd.concat([content.table, measured(content, progress)], axis=1)
    keep = np.ones(len(content.rows), dtype=bool)
    for name, passes, applied in _strict_steps(content):
        funnel.add(name, int((keep & passes).sum()), applied=applied)
        if applied:
            keep &= passes
    content.keep(keep)
    if not len(content.rows):
        raise DataError(
            f"{NOTHING_LEFT}: " + " → ".join(f"{s.name} {s.count}" for s in funnel.steps),
            remedy="drop a step of the funnel, or take data with more objects",
        )
    funnel.add("used", len(content.rows))
    content.table = pd.concat([content.table, derived(content, wanted.derive)], axis=1)
    columns = select.expand_columns(content.table, wanted.columns)
    splits = {}
    if wanted.label is not None and wanted.split is not None:
        group = pd.DataFrame({"group": content.group(content.table)})
        content.table = pd.concat([content.table.drop(columns="group", errors="ignore"), group], axis=1)
        splits["default"] = split = split_table(content.table, wanted.label, wanted.split)
        funnel.add(
            "in a part of the split (the others would part a group)", len(content.rows) - len(split.dropped)
        )
    _write(path, content, _meta(content, wanted, request, columns), splits, progress)


def _meta(
    content: Content, wanted: Wanted, request: dict[str, Any], columns: Sequence[str]
) -> dict[str, Any]:
    """Return the content of dataset.json."""
    label = {
        "name": wanted.label,
        "unit": wanted.label_unit,
        "definition": wanted.label_definition,
        "classes": list(wanted.classes or ()),
    }
    tables = {name: one for name, one in wanted.named().items() if one.kind == "table"}
    derived = {}
    for name in wanted.derive:
        held = content.inputs[content.first(DERIVED[name].modality) or ""]
        derived[name] = held.cut(held.finest)
    return {
        "format": FORMAT,
        "skyfuse": version("skyfuse"),
        "request": request,
        "objects": len(content.rows),
        "label": None if wanted.label is None else label,
        "funnel": content.funnel.to_json(),
        "inputs": {
            **{
                name: {"kind": held.kind, "zooms": list(held.zooms), **held.told}
                for name, held in content.kept.items()
            },
            **{name: {"kind": "table"} for name in tables},
        },
        # JSON sorts names, and the first input of a kind is what the recipe names first.
        "order": [*content.kept, *tables],
        "columns": list(columns),
        "derived": derived,
        **content.meta,
    }


def split_table(table: pd.DataFrame, label: str, plan: splitting.SplitPlan) -> splitting.Split:
    """Return the split of a dataset's table, which has its groups."""
    values = None if plan.column is None else table[select.find_column(table, plan.column)]
    return splitting.make_split(
        table["object_id"], table["group"], table[label], plan, values=values, label_name=label
    )


def write_splits(path: Path, splits: Mapping[str, splitting.Split], ids: ArrayLike) -> None:
    """Write ``splits.json``."""
    content = disk.dumps({name: split.to_json(ids) for name, split in splits.items()})
    replace_covered(path, SPLITS, content.encode())


def _row_steps(content: Content, wanted: Wanted) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the steps that the table alone decides."""
    table = content.table
    steps = select.where_steps(table, wanted.where or {})
    if wanted.label is not None:
        flag = None if content.flag is None else table[content.flag]
        if flag is not None and content.flag == WARNING:
            # Not every survey's pipeline warns.
            flag = flag.fillna(0)
        steps += select.label_steps(table[wanted.label], flag, wanted.classes)
    return steps


def _strict_steps(content: Content) -> list[tuple[str, NDArray[np.bool_], bool]]:
    """Return the steps of the original study: their names, which rows pass, and whether they apply."""
    table, steps = content.table, []
    for column, name, wanted in (
        ("nan_fraction", "no NaN in the spectrum", 0),
        ("n_components", "one object in the cutout", 1),
    ):
        if column in table:
            steps.append((name, (table[column] == wanted).to_numpy(), content.strict.get(column, False)))
    return steps


def _write(
    path: Path,
    content: Content,
    meta: dict[str, Any],
    splits: dict[str, splitting.Split],
    progress: Progress | None,
) -> None:
    """Write the files of a dataset; memory holds one block of objects."""
    rows, n = content.rows, len(content.rows)
    shapes = {
        (name, zoom): content.read(name, zoom, rows[:1]).value.shape[1:]
        for name, held in content.kept.items()
        for zoom in held.zooms
    }
    largest = max((4 * int(np.prod(shape)) for shape in shapes.values()), default=0)
    with write_arrays(path / ARRAYS, n, shapes, content.kept) as writer:
        for block in quality.blocks(n if shapes else 0, largest):
            for name, zoom in shapes:
                write_block(writer, name, zoom, block.start, content.read(name, zoom, rows[block]))
            if progress is not None:
                progress(block.stop, n, "arrays")
    with disk.replaced(path / TABLE) as temporary:
        content.table.to_parquet(temporary, index=False)
    if splits:
        write_splits(path, splits, content.table["object_id"])
    disk.write_json(path / META, meta)
    seal(path, {ARRAYS: writer.digest})


@contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` that takes its name when it is whole, held against a second maker.

    Raises
    ------
    StoreError
        If another process makes this dataset, or has just made it.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with disk.locked(partial, "dataset"):
            if path.exists():
                raise StoreError("was made meanwhile", remedy="run the same command again")
            try:
                # What a killed run left.
                for file in partial.iterdir():
                    file.unlink()
                yield partial
                partial.rename(path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except StoreError as error:
        if error.path in (None, partial):
            error.path = path
        raise
