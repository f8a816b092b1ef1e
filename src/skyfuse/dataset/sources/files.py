"""Files of tables among what a user points at, and what names their content."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from skyfuse.disk import names_file, sha256
from skyfuse.errors import shown

# Names of tables; text files other than CSV count where they are pointed at, not where a folder is.
_TABLE_NAME = re.compile(r"(.+)\.(parquet|(csv|ecsv|fits?|vot|votable|npy)(\.gz|\.bz2)?)", re.IGNORECASE)
_ANNZ_NAME = re.compile(r".+\.(train|valid|test)")
_TEXT_NAME = re.compile(r"(.+)\.(txt|dat|asc|tsv)(\.gz|\.bz2)?", re.IGNORECASE)


def tables_in(given: Sequence[Path]) -> Iterator[Path]:
    """Yield the tables that are pointed at, and those in the folders."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            if (_TABLE_NAME.fullmatch(file.name) or _ANNZ_NAME.fullmatch(file.name)) and names_file(file):
                yield file


def stem(path: Path) -> str:
    """Return a table's name without what its kind adds."""
    named = _TABLE_NAME.fullmatch(path.name) or _TEXT_NAME.fullmatch(path.name)
    return named[1] if named else path.name


def digests(files: Sequence[Path]) -> dict[str, str]:
    """Return the sha256 of each file, by its number and name."""
    return {f"{number}: {shown(path.name)}": sha256(path) for number, path in enumerate(files)}
