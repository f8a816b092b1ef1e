"""A first recipe for a table: the kind of its label, which columns may be inputs, and why others may not."""

from __future__ import annotations

import json
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse import identifiers
from skyfuse.dataset.select import numbers, with_label
from skyfuse.dataset.sources.files import tables_in
from skyfuse.disk import replaced
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.recipe import Recipe
from skyfuse.sections import validated
from skyfuse.strictyaml import parse_yaml
from skyfuse.study.leakage import LEVEL, MOST, gives, of_columns, of_sums
from skyfuse.survey.objecttable import position_names
from skyfuse.survey.tables import read_table, without_sentinels

_TOGETHER = "give the label away together"

LEAST_ROWS = 100
"""Rows with a label below which no parts of a split are worth a study."""

FEW_VALUES = 20
"""Different whole numbers up to which a label is a class."""

MOST_CLASSES = 50
"""Classes above which a label is rather a name."""

LEAST_OF_CLASS = 20
"""Rows of a class at least: each part of the split must have some."""

MOST_MISSING = 0.5
"""Share of rows without a value above which a column is left out."""

MARGIN = 0.02
"""How far below the level a column is left out: scores differ by so much between choices of objects."""

_IDENTIFIER = re.compile(
    r"(.*[_.])?(ids?|index|name|number|no|nr|row|seq)|.*(obj|object|spec|source|plate|fiber|obs|photo|target)_?id\d*"
)
_PLACE = re.compile(
    r"(.*_)?(ra|dec|raj?2000|dej?2000|decj?2000|ra_?deg|de_?deg|glon|glat|elon|elat|htmid|healpix)"
)
_PLACES = ({"l", "b"}, {"cx", "cy", "cz"}, {"raj", "dej"})
"""Names that say where an object lies where all of them are there."""
_SURVEY = re.compile(
    r"plate|mjd|lmjd|fiber(id)?|run|rerun|camcol|field|tile|spid|planid|skyversion|chunk|unnamed.*|"
)
_REDSHIFT = re.compile(r"z|z_?spec|spec_?z|redshift|z_?best|zphot|z_noqso", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """A recipe as text, with what it was drawn up from.

    Attributes
    ----------
    text : str
        YAML with comments.
    kind : str
        Kind of task.
    rows : int
        Rows with a label.
    columns : tuple of str
        Inputs.
    left_out : dict of str to tuple of str
        Columns that are no inputs, by the reason.
    """

    text: str
    kind: str
    rows: int
    columns: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        left = sum(map(len, self.left_out.values()))
        return f"{self.kind}, {self.rows:,} rows with a label, {len(self.columns)} inputs, {left} left out"

    def write(self, path: Path) -> None:
        """Write the recipe, whole or not at all."""
        with replaced(path.absolute()) as partial:
            partial.write_text(self.text, encoding="utf-8")

    def to_dict(self, path: Path) -> dict[str, Any]:
        """Return the facts as plain values for JSON."""
        return {
            "file": path,
            "kind": self.kind,
            "rows": self.rows,
            "columns": self.columns,
            "left_out": self.left_out,
        }


def recipe_path(path: Path) -> Path:
    """Return where a recipe goes, refused before the work if it cannot be written there or stands there.

    Raises
    ------
    UsageError
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError("is no name of a recipe", path=path, remedy="end it in .yaml")
    if path.exists():
        raise UsageError("is there already", path=path, remedy="give another name with -o, or remove it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError("cannot be written into", path=above, remedy="give a folder that you may write")
    return path


def draft(path: Path, label: str) -> Draft:
    """Draw up a recipe that predicts one column of a table from the others.

    Parameters
    ----------
    path : path
        A table, or a folder of tables, as the reader ``table`` takes them.
    label : str
        Column that is to be predicted, or ``log10(column)``.

    Returns
    -------
    Draft

    Raises
    ------
    StoreError
        There is no such table.
    FileError
        It cannot be read.
    DataError
        It has no such column, too few rows with a label, or no column that may be an input.
    """
    if not path.exists():
        raise StoreError("does not exist", path=path, remedy="give a table")
    files = list(tables_in([path]))
    if not files:
        raise StoreError("holds no table", path=path, remedy="give a CSV, FITS, Parquet or .npy table")
    table = identifiers.stacked([without_sentinels(read_table(file))[0] for file in files])
    try:
        table, column = with_label(table, label)
        kind, values, classes = _labels(table[column])
        known = np.flatnonzero(values >= 0 if classes else np.isfinite(values))
        if len(known) < LEAST_ROWS:
            raise DataError(
                f"{len(known)} rows have a value of {column}",
                remedy=f"give a table with {LEAST_ROWS} or more",
            )
        table, values = table.iloc[known].reset_index(drop=True), values[known]
        columns, left_out = _chosen(table, column, values, classes)
        if not columns:
            raise DataError("no column may be an input", remedy=f"see why: {_reasons(left_out)}")
    except DataError as error:
        error.path = path
        raise
    text = _written(path, column, kind, classes, values, columns, left_out)
    # What it says is held to the same rules as any recipe.
    recipe = validated(Recipe, parse_yaml(text, "recipe", where="draft"), "recipe", where="draft")
    return Draft(text, kind, len(values), tuple(recipe.columns), left_out)


def _labels(column: pd.Series) -> tuple[str, NDArray[Any], list[str]]:
    """Return the kind of task, labels as numbers or as indices of classes (−1 for none), and the classes."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric:
        number = column.to_numpy(dtype=np.float64, na_value=np.nan)
        finite = np.unique(number[np.isfinite(number)])
        if len(finite) > FEW_VALUES or (finite != np.rint(finite)).any():
            return "regression", number, []
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    counts = text[text != ""].value_counts()
    if len(counts) > MOST_CLASSES and counts.iloc[:MOST_CLASSES].sum() < 0.9 * counts.sum():
        raise DataError(
            f"{column.name} has {len(counts):,} different texts, e.g. {counts.index[0]!r}",
            remedy="name a column of numbers, or of some classes",
        )
    classes = sorted(str(name) for name, count in counts.items() if count >= LEAST_OF_CLASS)[:MOST_CLASSES]
    if len(classes) < 2:
        raise DataError(
            f"{column.name} has fewer than two classes of {LEAST_OF_CLASS} rows or more",
            remedy="name another column, or give more rows",
        )
    return "classification", pd.Index(classes).get_indexer(pd.Index(text)).astype(np.int64), classes


def _chosen(
    table: pd.DataFrame, label: str, values: NDArray[Any], classes: list[str]
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Return the columns that may be inputs, and the others by the reason."""
    reasons: dict[str, list[str]] = {}
    columns = []
    lower = {str(name).lower() for name in table.columns}
    places = {*(position_names(table) or ()), *(name for own in _PLACES if own <= lower for name in own)}
    for name in map(str, table.columns):
        if name == label:
            continue
        reason = _reason(table, name, label, places)
        if reason is None:
            columns.append(name)
        else:
            reasons.setdefault(reason, []).append(name)
    for name, reason in _leaks(table, columns, values, classes).items():
        columns.remove(name)
        reasons.setdefault(reason, []).append(name)
    return columns, {reason: tuple(names) for reason, names in reasons.items()}


def _reason(table: pd.DataFrame, name: str, label: str, places: set[str]) -> str | None:
    """Return why a column is no input by its name or its values, None where it may be one."""
    column, lower = table[name], name.lower()
    bare = re.sub(r"^log10\((.*)\)$", r"\1", label).lower()
    if not pd.api.types.is_numeric_dtype(column):
        return "no numbers"
    if lower == bare or (len(bare) > 2 and bare in lower):
        return "named like the label"
    if name in places or lower in places or _PLACE.fullmatch(lower):
        return "where an object lies, which is no property of it"
    if _SURVEY.fullmatch(lower):
        return "how the survey went"
    number = numbers(table, name)
    known = number[np.isfinite(number)]
    if _IDENTIFIER.fullmatch(lower) or (
        len(known) and np.abs(known).min() > 2**40 and len(np.unique(known)) > 2
    ):
        return "identifiers"
    if len(np.unique(known)) < 2:
        return "at most one value"
    whole = np.array_equal(known, np.arange(len(known)) + known[0])
    if whole:
        return "the numbers of the rows"
    if len(known) < (1 - MOST_MISSING) * len(number):
        return f"missing in more than {MOST_MISSING:.0%} of the rows"
    return None


def _leaks(
    table: pd.DataFrame, columns: list[str], values: NDArray[Any], classes: list[str]
) -> dict[str, str]:
    """Return the columns that give the label away, each with the reason; see `skyfuse.study.leakage`."""
    rows = np.random.default_rng(0).permutation(len(table))[:MOST]
    level = LEVEL["classification" if classes else "regression"] - MARGIN
    told: dict[str, str] = {}
    while rest := [name for name in columns if name not in told]:
        data = np.stack([numbers(table, name)[rows] for name in rest], axis=1).astype(np.float64)
        data[~np.isfinite(data)] = np.nan
        found = of_columns(data, dict.fromkeys(rest, False), values[rows], classes, level)
        found = [one for one in found if gives(one)]
        for one in found:
            if len(one.inputs) > 2 and not classes:
                told |= dict.fromkeys(one.inputs, _TOGETHER)
                continue
            others = "" if len(one.inputs) == 1 else f" with {' and '.join(one.inputs[1:])}"
            told.setdefault(one.inputs[0], f"gives the label away{others}")
        if not found:
            together = [] if classes else of_sums(data, values[rows], level)[1]
            if not together:
                break
            told |= {rest[i]: _TOGETHER for i in together}
    return told


def _written(
    path: Path,
    label: str,
    kind: str,
    classes: list[str],
    values: NDArray[Any],
    columns: list[str],
    left_out: dict[str, tuple[str, ...]],
) -> str:
    """Return the recipe as YAML with comments."""
    redshift = (
        kind == "regression" and bool(_REDSHIFT.fullmatch(label)) and -0.1 < values.min() <= values.max() < 10
    )
    first, *others = ("logistic", "knn") if classes else ("linear", "knn")
    name = re.sub(r"[^a-z0-9]+", "-", f"{label}-of-{path.stem}".lower()).strip("-")
    lines = [
        f"# Drawn up by skyfuse recipe new from {path.name}: {len(values):,} rows have a value of {label}.",
        "# Every field is explained in docs/recipes.md; skyfuse recipe check tells what is wrong with it.",
        f"name: {name if name[:1].isalpha() else f'x-{name}'}",
        f"title: {_text(f'{label} from {path.name}')}",
        "shows: How well do the other columns of the table tell it?",
        "",
        "# What is predicted. Say what the column means: the report quotes it.",
        "task:",
        f"  label: {_text(label)}",
        f"  title: {_text(label)}",
        '  unit: ""',
        f"  definition: {_text(f'column {label} of {path.name}')}",
        f"  kind: {kind}",
    ]
    if redshift:
        lines += ["  # Bias, scatter and outliers of Δz/(1+z) are stated too.", "  redshift: true"]
    if classes:
        lines += [
            "  # Each class with what its label must match in full, a regular expression; rows of none are",
            f"  # dropped and counted. Classes of fewer than {LEAST_OF_CLASS} rows are not listed.",
            "  classes:",
            *(f"    {_text(one)}: [{_text(re.escape(one))}]" for one in classes),
        ]
    lines += [
        "",
        "# What the data is made from: tables, whose rows are the objects.",
        "reader: table",
        "",
        "# Columns that are inputs; a-b is a difference, log10(a) a logarithm, * any letters.",
        *_wrapped("columns: [" + ", ".join(map(_text, columns)) + "]", "  "),
    ]
    if left_out:
        lines += ["# Left out:", *(line for why, names in left_out.items() for line in _remark(why, names))]
    folds = 3 if len(values) < 10 * LEAST_ROWS else 5
    lines += [
        "",
        "# Models, with parameters that are fixed or, in a grid, tuned by cross-validation.",
        "models:",
        f"  {first}: {{}}",
        *(f"  {one}: {{}}" for one in others),
        "  forest: {}",
        "  lightgbm: {grid: {max_depth: [3, 5]}}",
        "",
        "# Shares of the objects: to learn from, to stop on, to calibrate intervals, to state results.",
        f"split: {{train: 0.6, valid: 0.1, calibration: 0.1, test: 0.2, folds: {folds}, seed: 0}}",
        "embeddings: {methods: [pca]}",
        "bootstrap: 2000",
        "seed: 1",
        "",
    ]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Return text as YAML holds it within a line."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", text) and text.lower() not in _SPECIAL
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


_SPECIAL = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan"})
"""Words that YAML takes for something else than text."""


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _remark(reason: str, names: tuple[str, ...]) -> list[str]:
    return _wrapped(f"#   {reason}: {', '.join(map(_text, names))}", "#     ")


def _reasons(left_out: dict[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{reason}: {', '.join(names[:5])}" for reason, names in left_out.items())
