"""Datasets with what is wanted of them written out as keywords."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from skyfuse.dataset import Dataset, Material, Wanted
from skyfuse.dataset.open import open_source


def opened(paths: Any, work: Path, *, reader: str = "cube", labels: Any = None, **wanted: Any) -> Dataset:
    return open_source(paths, work, Wanted(**wanted), reader=reader, labels=labels)


def of_cube(
    cube: Any, path: Path | None = None, *, labels: Any = None, progress: Any = None, **wanted: Any
) -> Dataset:
    return Dataset.from_cube(cube, path, Wanted(**wanted), labels=labels, progress=progress)


def of_arrays(path: Path | None, table: pd.DataFrame, **options: Any) -> Dataset:
    progress = options.pop("progress", None)
    told = {name: options.pop(name) for name in ("image", "spectrum") if options.get(name)}
    wavelengths = {("spectrum", zoom): values for zoom, values in options.pop("wavelengths", {}).items()}
    options = {"inputs": told, "wavelengths": wavelengths} | options
    own = {field.name for field in fields(Material)}
    material = Material(table, **{name: value for name, value in options.items() if name in own})
    wanted = Wanted(**{name: value for name, value in options.items() if name not in own})
    return Dataset.from_arrays(material, path, wanted, progress=progress)
