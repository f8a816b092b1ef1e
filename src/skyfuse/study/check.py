"""Checking any folder that Skyfuse wrote, for `skyfuse check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyfuse.checksums import NAME, damaged
from skyfuse.errors import SkyfuseError
from skyfuse.study.describe import kind_of


@dataclass(frozen=True)
class Check:
    """What a check found; `str` gives the lines that the command line prints.

    Attributes
    ----------
    kind : str
        ``cube``, ``dataset``, ``model`` or ``study``.
    path : Path
    covered : bool
        Whether the folder carries checksums; without them damage that leaves sense behind is not found.
    problems : list of str
        One line each, empty for a sound folder.
    """

    kind: str
    path: Path
    covered: bool
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings ready for JSON."""
        return {
            "kind": self.kind,
            self.kind: str(self.path),
            "checksums": self.covered,
            "problems": self.problems,
        }

    def __str__(self) -> str:
        lines = self.problems or [f"{self.path}: every {'tile' if self.kind == 'cube' else 'file'} is whole"]
        if not self.covered:
            why = (
                "its run did not end, or an earlier Skyfuse wrote it"
                if self.kind == "study"
                else "an earlier Skyfuse wrote it"
            )
            lines = [*lines, f"{self.path}: carries no checksums ({why}), so that not all damage is found"]
        return "\n".join(lines)


def check(path: Path) -> Check:
    """Read a cube, dataset, model or study and list what is wrong with it.

    Parameters
    ----------
    path : path

    Returns
    -------
    Check

    Raises
    ------
    StoreError
        If the folder is none of these, or a cube whose build did not end.
    """
    kind, folder = kind_of(Path(path))
    covered = (folder / NAME).exists()
    if kind == "cube":
        from skyfuse.cube.check import check as check_cube

        return Check(kind, folder, covered, check_cube(folder))
    problems = damaged(folder)
    if kind == "study" and not covered:
        problems += [line for cell in sorted((folder / "cells").glob("[!.]*")) for line in damaged(cell)]
    if not problems:
        try:
            _open(kind, folder)
        except SkyfuseError as error:
            problems = [str(error)]
    return Check(kind, folder, covered, problems)


def _open(kind: str, folder: Path) -> None:
    """Open a folder as its reader would."""
    if kind == "dataset":
        from skyfuse.dataset import Dataset

        Dataset.open(folder)
    elif kind == "model":
        from skyfuse.models import load_model

        load_model(folder)
    elif (folder / "report.html").exists():
        from skyfuse.study.report.folder import read_folder

        read_folder(folder)
