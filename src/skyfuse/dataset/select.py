"""Which objects a dataset keeps, by which columns, and the funnel that counts each step."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.errors import DataError, UsageError
from skyfuse.survey.columns import floats
from skyfuse.survey.sdss.instrument import BANDS

SENTINEL = -99.0
"""Value by which the MPA-JHU tables mark a label that could not be measured."""
_SDSS_NAMES = {
    short.format(band): long.format(band)
    for band in BANDS
    for short, long in (("{}", "modelmag_{}"), ("err_{}", "modelmagerr_{}"))
}
ALIASES: Mapping[str, str] = _SDSS_NAMES | {long: short for short, long in _SDSS_NAMES.items()}
"""Names of one and the same quantity, in lower case: those that the schema of SDSS's PhotoObj calls aliases.
Other magnitudes (psfMag, petroMag, dered) are other quantities."""
_LOGARITHM = re.compile(r"log10\((.+)\)")


@dataclass(frozen=True)
class Step:
    """One step of a funnel.

    Attributes
    ----------
    name : str
        What a row must be to pass.
    count : int
        Rows left after it.
    applied : bool
        False if the step only tells how many it would leave; the rows go on to the next step all the same.
    """

    name: str
    count: int
    applied: bool = True


@dataclass
class Funnel:
    """Ordered steps from a catalogue to the objects used, with a count each.

    Attributes
    ----------
    steps : list of Step
    """

    steps: list[Step] = field(default_factory=list)

    def add(self, name: str, count: int, *, applied: bool = True) -> None:
        """Append a step."""
        self.steps.append(Step(name, int(count), applied))

    def to_frame(self) -> pd.DataFrame:
        """Return a table with columns step, count, lost (against the last applied step) and applied."""
        rows, last = [], None
        for step in self.steps:
            rows.append(
                {
                    "step": step.name,
                    "count": step.count,
                    "lost": 0 if last is None else last - step.count,
                    "applied": step.applied,
                }
            )
            if step.applied:
                last = step.count
        return pd.DataFrame(rows, columns=["step", "count", "lost", "applied"])

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps as plain dictionaries."""
        return [{"name": step.name, "count": step.count, "applied": step.applied} for step in self.steps]

    @classmethod
    def from_json(cls, data: Any) -> Funnel:
        """Rebuild a funnel from `to_json`."""
        return cls([Step(str(s["name"]), int(s["count"]), bool(s["applied"])) for s in data])

    def __str__(self) -> str:
        names = [step.name if step.applied else f"({step.name}: would leave)" for step in self.steps]
        width = max(map(len, names), default=0)
        return "\n".join(
            f"{name:<{width}}  {step.count:>12,}" for name, step in zip(names, self.steps, strict=True)
        )


def has_column(table: pd.DataFrame, name: str) -> bool:
    """Tell whether a table has a column of that name, in whatever case."""
    return name.lower() in {str(column).lower() for column in table.columns}


def find_column(table: pd.DataFrame, name: str) -> str:
    """Return the column of that name, or the only one that has it in another case or by `ALIASES`.

    Raises
    ------
    DataError
        If there is none, or several; the message names the nearest ones.
    """
    found = _known(table, name)
    if found is not None:
        return found
    columns = [str(column) for column in table.columns]
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.5) or columns[:8]
    raise DataError(f"the table has no column {name!r}", remedy=f"nearest columns: {', '.join(near)}")


def _known(table: pd.DataFrame, name: str) -> str | None:
    """Return the column that `find_column` finds, None where there is none."""
    if name in table.columns:
        return name
    names = {name.lower(), ALIASES.get(name.lower(), name.lower())}
    same = [str(column) for column in table.columns if str(column).lower() in names]
    if len(same) > 1:
        raise DataError(
            f"the table has {len(same)} columns that may be {name!r}: {', '.join(same)}",
            remedy=f"call the right one {name}",
        )
    return same[0] if same else None


def numbers(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, for ``a-b`` the difference of two, for ``log10(a)`` the logarithm of one.

    The logarithm of what is not above zero is NaN.

    Raises
    ------
    DataError
        If there is no such column, or it does not hold numbers.
    """
    logarithm = _LOGARITHM.fullmatch(name)
    if name not in table.columns and logarithm is not None:
        value = numbers(table, logarithm[1])
        return np.log10(value, where=value > 0, out=np.full_like(value, np.nan))
    if _known(table, name) is None:
        for dash in re.finditer("-", name):
            ends = [_known(table, end) for end in (name[: dash.start()], name[dash.end() :])]
            if ends[0] is not None and ends[1] is not None:
                return numbers(table, ends[0]) - numbers(table, ends[1])
    return floats(table[find_column(table, name)])


def expand_columns(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the columns that names, ``a-b``, ``log10(a)`` and shell patterns stand for, each once.

    A pattern stands for the columns of numbers that it matches in any case, in the order of the table.

    Raises
    ------
    DataError
        If a name stands for no column of numbers.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in table.columns and re.search(r"[*?\[]", name):
            every = [str(column) for column in table.columns]
            matched = [column for column in every if fnmatchcase(column.lower(), name.lower())]
            matched = [column for column in matched if pd.api.types.is_numeric_dtype(table[column])]
            if not matched:
                raise DataError(
                    f"no column of numbers matches {name!r}",
                    remedy=f"the table has {', '.join(map(str, table.columns[:8]))}",
                )
            found |= dict.fromkeys(matched)
        else:
            numbers(table.head(0), name)
            found[name] = None
    return list(found)


def with_label(table: pd.DataFrame, label: str) -> tuple[pd.DataFrame, str]:
    """Return a table that holds the label, and the label's column; a logarithm becomes a column of its own.

    Raises
    ------
    DataError
        If the table has no such column.
    """
    if label not in table.columns and _LOGARITHM.fullmatch(label):
        value = pd.DataFrame({label: numbers(table, label)}, index=table.index)
        return pd.concat([table, value], axis=1), label
    return table, find_column(table, label)


def class_names(values: pd.Series, classes: Mapping[str, Sequence[str]]) -> NDArray[np.object_]:
    """Return the class of each label, None where no pattern matches.

    Parameters
    ----------
    values : Series
        Labels as the catalogue writes them; a missing one reads as empty text.
    classes : mapping of str to sequence of str
        For each class, regular expressions of which one must match the whole text without its outer spaces.
        The first class that matches wins.

    Raises
    ------
    UsageError
        If a pattern is no regular expression.
    """
    text = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    patterns = [(name, _pattern(pattern)) for name, all_of in classes.items() for pattern in all_of]
    named = {
        value: next((name for name, pattern in patterns if pattern.fullmatch(value)), None)
        for value in text.unique()
    }
    return np.array([named[value] for value in text], dtype=object)


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no regular expression ({error})", remedy="mend it; write \\. for a dot"
        ) from error


def label_steps(
    values: pd.Series, flag: pd.Series | None = None, classes: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the label steps of the funnel in order: name, and which rows pass.

    Parameters
    ----------
    values : Series
        Labels; numbers or classes.
    flag : Series, optional
        Quality of the label, 0 for good.
    classes : mapping of str to sequence of str, optional
        See `class_names`; a label must be of one of them.
    """
    name = str(values.name)
    if classes:
        kept = pd.notna(class_names(values, classes))
        steps = [(f"{name} is one of {', '.join(classes)}", np.asarray(kept, dtype=bool))]
    elif pd.api.types.is_numeric_dtype(values):
        number = values.to_numpy(dtype=np.float64, na_value=np.nan)
        steps = [(f"{name} defined", np.isfinite(number)), (f"{name} ≠ {SENTINEL:g}", number != SENTINEL)]
    else:
        defined = values.notna() & (values.astype(str).str.strip() != "")
        steps = [(f"{name} defined", defined.to_numpy(dtype=bool))]
    if flag is not None:
        steps.append((f"{flag.name} = 0", floats(flag) == 0))
    return steps


def where_steps(
    table: pd.DataFrame, where: Mapping[str, Sequence[str | float | None]]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the steps that keep the rows of certain values: name, and which rows pass.

    Parameters
    ----------
    table : DataFrame
    where : mapping of str to sequence
        For a column, either regular expressions of which one must match the whole text, or the least and the
        greatest number allowed, None for no bound. A column of numbers may be a difference ``a-b``.

    Raises
    ------
    UsageError
        If the values are neither patterns nor two bounds.
    DataError
        If a column is missing.
    """
    steps = []
    for name, wanted in where.items():
        patterns = [value for value in wanted if isinstance(value, str)]
        if patterns and len(patterns) == len(wanted):
            column = table[find_column(table, name)]
            passes = np.asarray(pd.notna(class_names(column, {"kept": patterns})), dtype=bool)
            steps.append((f"{name} is {' or '.join(patterns)}", passes))
        elif not patterns and len(wanted) == 2:
            low, high = (None if bound is None else float(bound) for bound in wanted)
            value = numbers(table, name)
            passes = np.isfinite(value)
            said = name
            if low is not None:
                passes, said = passes & (value >= low), f"{low:g} ≤ {said}"
            if high is not None:
                passes, said = passes & (value <= high), f"{said} ≤ {high:g}"
            steps.append((said, passes))
        else:
            raise UsageError(
                f"the rows to keep by {name!r} are given as {list(wanted)}",
                remedy="give patterns of text, or the least and the greatest number",
            )
    return steps
