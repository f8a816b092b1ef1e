"""Checking a cube: every byte against its checksum, and every array against what it must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse.checksums import damaged, read_checksums
from skyfuse.cube.layout import COMPONENTS, list_arrays, map_array, tile_path
from skyfuse.cube.query import Cube
from skyfuse.cube.scan import read_line
from skyfuse.cube.staging import TILES
from skyfuse.errors import StoreError

_SCAN = "ledger/scan.jsonl"


def check(path: Path | str) -> list[str]:
    """Read every file of a cube and list what is wrong with it.

    Every file must be as it was written. Every array must have the shape that the indexes and grids ask for,
    value and sigma must be NaN exactly where coverage is 0, and every other sigma must be finite and above 0.

    Returns
    -------
    list of str
        One line a problem, empty for a sound cube.

    Raises
    ------
    StoreError
        If the folder is no finished cube.
    """
    path = Path(path)
    differing = damaged(path)
    problems = [*differing, *_scan_faults(path)]
    try:
        cube = Cube.open(path)
        tables = {what: getattr(cube, what) for what in ("objects", "frames", "spectra")}
    except StoreError:
        # What is damaged has been named; without it the rest cannot be looked at.
        if problems:
            return problems
        raise
    expected: dict[str, dict[str, tuple[int, ...]]] = {}
    for what, table in tables.items():
        count = cube.meta["counts"][what]
        if len(table) != count:
            problems.append(
                f"{cube.path / what}: {len(table)} rows where cube.json counts {count}; build it again"
            )
        for tile, group in table.groupby("tile"):
            for name, rows in [("", group)] if what == "objects" else group.groupby("instrument"):
                if sorted(rows["row"]) != list(range(len(rows))):
                    problems.append(
                        f"{tile_path(cube.path, str(tile))}: rows of {what} {name} are not 0 to "
                        f"{len(rows) - 1}; build it again"
                    )
                shapes = _expected_shapes(cube, what, str(name), rows)
                expected.setdefault(str(tile), {}).update(shapes)
    for tile, rows in tables["objects"].groupby("tile"):
        expected[str(tile)] |= _object_shapes(cube, rows, expected[str(tile)])
    for tile, shapes in sorted(expected.items()):
        file = tile_path(cube.path, tile)
        try:
            faults = [f"{file}: {fault}; delete it and build again" for fault in _tile_faults(file, shapes)]
        except StoreError as error:
            faults = [str(error)]
        if faults:
            # They say more than that its checksum differs.
            problems = [line for line in problems if line not in differing or not line.startswith(f"{file}:")]
        problems += faults
    known = {tile_path(cube.path, tile) for tile in expected}
    stray = sorted(set(cube.path.glob(TILES)) - known)
    return problems + [f"{file}: no index knows this tile; delete it" for file in stray]


def _scan_faults(path: Path) -> Iterator[str]:
    """Look at what builds that did not end have added to the memory of the scan."""
    try:
        listed = (read_checksums(path) or {}).get(_SCAN)
        content = (path / _SCAN).read_bytes()
    except (StoreError, OSError):
        return
    if listed is None:
        return
    # A build that was killed may leave half a line, which the next one passes over.
    added = content[int(listed.partition("@")[2] or 0) :].split(b"\n")[:-1]
    for number, line in enumerate(added, start=1):
        try:
            if line:
                read_line(line)
        except ValueError:
            yield f"{path / _SCAN}: line {number} after the last build is damaged; run skyfuse build again"
            return


def _expected_shapes(cube: Cube, what: str, name: str, rows: pd.DataFrame) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of an instrument's frames or spectra in a tile, by group."""
    shapes: dict[str, tuple[int, ...]] = {}
    if what == "spectra":
        for zoom, bins in enumerate(cube.spectroscopy(name).grid.sizes):
            shapes[f"/spectra/{name}/{zoom}"] = (len(rows), bins)
    elif what == "frames":
        for zoom in range(cube.imaging(name).zooms):
            ny, nx = (-(-int(rows[axis].max()) // 2**zoom) for axis in ("ny", "nx"))
            shapes[f"/frames/{name}/{zoom}"] = (len(rows), ny, nx)
    return shapes


def _object_shapes(
    cube: Cube, rows: pd.DataFrame, others: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a tile's objects: of all instruments that saw one of them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, told in cube.instruments.items():
        bands = told.get("image", {}).get("bands", [])
        if f"/frames/{name}/0" in others or rows[[f"frame_{name}_{band}" for band in bands]].notna().any(
            axis=None
        ):
            for zoom in range(told["image"]["zooms"]):
                size = -(-told["image"]["size"] // 2**zoom)
                shapes[f"/objects/{name}/{zoom}/image"] = (len(rows), len(bands), size, size)
        if f"/spectra/{name}/0" in others:
            for zoom, bins in enumerate(told["spectrum"]["sizes"]):
                shapes[f"/objects/{name}/{zoom}/spectrum"] = (len(rows), bins)
    return shapes


def _tile_faults(file: Path, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    there = list_arrays(file)
    for group, shape in shapes.items():
        wrong = [name for name in COMPONENTS if there.get(f"{group}/{name}") != shape]
        if wrong:
            name = f"{group}/{wrong[0]}"
            yield f"{name} has the shape {there.get(name)} where the index asks for {shape}"
            continue
        arrays = [map_array(file, f"{group}/{name}") for name in COMPONENTS]
        # One row at a time: a frame's row is 12 MB, a tile may be 2 GB.
        for row in range(shape[0]):
            value, sigma, coverage = (array[row] for array in arrays)
            invalid = coverage == 0
            if not (np.array_equal(np.isnan(value), invalid) and np.array_equal(np.isnan(sigma), invalid)):
                yield f"{group} row {row}: NaN does not stand exactly where coverage is 0"
            elif not (np.isfinite(value[~invalid]).all() and np.isfinite(sigma[~invalid]).all()):
                yield f"{group} row {row}: infinite values"
            elif not (sigma[~invalid] > 0).all():
                yield f"{group} row {row}: an uncertainty that is not above 0"
            elif not ((coverage >= 0) & (coverage <= 1)).all():
                yield f"{group} row {row}: a coverage outside 0 to 1"
