"""What a Skyfuse folder holds and what it was made from, for `skyfuse info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skyfuse.cube.background import background
from skyfuse.cube.query import Cube
from skyfuse.disk import read_json
from skyfuse.errors import StoreError

_MARKS = {"cube": "cube.json", "dataset": "dataset.json", "model": "model.json", "study": "study.json"}


def describe(path: Path) -> dict[str, Any]:
    """Return the facts of a cube, dataset, model or study, flat and ready to print.

    Of a cube also how far empty sky in its frames scatters, see `skyfuse.cube.background`.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        ``kind`` first; nested facts are joined with dots.

    Raises
    ------
    StoreError
        If the folder is none of these, or its description is damaged.
    """
    kind, folder = kind_of(path)
    facts = {"kind": kind, "path": str(folder), **dict(_flat(read_json(folder / _MARKS[kind])))}
    return facts | _background(folder) if kind == "cube" else facts


def _background(path: Path) -> dict[str, Any]:
    """Return the scatter of empty sky by instrument and band, or why it is not known."""
    try:
        cube = Cube.open(path)
        found = {name: background(cube, name) for name in cube.instruments_with("image")}
        return dict(_flat({"background": found})) if any(found.values()) else {}
    except StoreError as error:
        return {"background": f"not known: {error.fault}"}


def kind_of(path: Path) -> tuple[str, Path]:
    """Return whether a folder is a cube, dataset, model or study, and where it lies.

    Raises
    ------
    StoreError
        If the folder is none of these.
    """
    for kind, mark in _MARKS.items():
        folder = study_folder(path) if kind == "study" else path
        if (folder / mark).is_file():
            return kind, folder
    if (path / "ledger").is_dir():
        raise StoreError(
            "is a cube whose build has not finished", path=path, remedy="run the same build again"
        )
    fault = "is no cube, dataset, model or study" if path.exists() else "does not exist"
    raise StoreError(fault, path=path, remedy="give the folder that a skyfuse command wrote")


def study_folder(path: Path) -> Path:
    """Return the folder of a study, given it or the folder that ``skyfuse study -o`` wrote around it."""
    inner = path / "study"
    return inner if (inner / "study.json").is_file() and not (path / "study.json").exists() else path


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            rows.extend(_flat(value, f"{name}."))
        elif key == "funnel" and isinstance(value, list):
            rows.extend((f"{name}.{step['name']}", step["count"]) for step in value)
        elif isinstance(value, list) and len(value) > 12:
            rows.append((name, f"{len(value)} entries"))
        else:
            rows.append((name, value))
    return rows
