"""What the verbs of the command line share: --json, progress bars, tables, and how results are printed."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from skyfuse.disk import named, replaced
from skyfuse.errors import UsageError
from skyfuse.words import Progress

if TYPE_CHECKING:
    import pandas as pd


_QUIET = 10.0
"""Seconds after which lines of progress tell the state between two tenths."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options, which verbs share, as dataclasses of annotated fields.

    Typer sees each field as an option (or argument) of the command's own.

    Parameters
    ----------
    command : callable
        Its parameters, and the fields of those that are dataclasses, are annotated for Typer.

    Returns
    -------
    callable
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }

    def call(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    options = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            known = get_type_hints(groups[name], include_extras=True)
            own = [(one, known[one.name]) for one in inspect.signature(groups[name]).parameters.values()]
        else:
            own = [(parameter, hints[name])]
        # By keyword alone: the options of a group have defaults, and may stand before what has none.
        options += [one.replace(kind=one.KEYWORD_ONLY, annotation=hint) for one, hint in own]
    shown: Any = update_wrapper(call, command)
    shown.__signature__ = inspect.Signature(options)
    shown.__annotations__ = {option.name: option.annotation for option in options}
    return call


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a callback ``(done, total, what)`` that shows each stretch of work on stderr.

    On a terminal a stretch is a bar. Elsewhere it is plain lines: one when it begins, one for each tenth, and
    after `_QUIET` seconds without one what is being done then.
    """
    with _bars() if sys.stderr.isatty() else _lines() as update:
        yield update


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as bar
    from rich.console import Console

    columns = (
        bar.TextColumn("{task.description:<36}"),
        bar.BarColumn(bar_width=24),
        bar.MofNCompleteColumn(),
        bar.TimeElapsedColumn(),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns, console=Console(stderr=True)) as bars:
        current: bar.Task | None = None

        def update(done: int, total: int, what: str) -> None:
            # A stretch is told by its total; what is being done within it may change from step to step.
            nonlocal current
            if current is None or current.total != total or done < current.completed:
                number = bars.add_task(what, total=total)
                current = bars.tasks[number]
            bars.update(current.id, completed=done, description=what)

        yield update


@contextmanager
def _lines() -> Iterator[Progress]:
    started = time.monotonic()
    told: tuple[int, int, str] | None = None
    last: tuple[int, int, str] | None = None
    held = threading.Lock()
    over = threading.Event()

    def tell() -> None:
        nonlocal told
        if last is None or last == told:
            return
        told = last
        done, total, what = last
        # Flushed: a log that is read while the work runs shows it.
        sys.stderr.write(f"{time.monotonic() - started:6.0f} s  {done}/{total}  {what}\n")
        sys.stderr.flush()

    def update(done: int, total: int, what: str) -> None:
        nonlocal last
        with held:
            last = (done, total, what)
            begins = told is None or told[1] != total or done < told[0]
            if begins or (told is not None and 10 * (done - told[0]) >= total) or done == total:
                tell()

    def watch() -> None:
        while not over.wait(_QUIET):
            with held:
                tell()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield update
    finally:
        over.set()


def table_path(output: Path) -> Path:
    """Return where a table goes, refused before the work if it could not be written there after it."""
    if output.suffix not in (".parquet", ".csv"):
        raise UsageError(
            "its name does not say how to write the table", path=output, remedy="end it in .parquet or .csv"
        )
    if output.is_dir():
        raise UsageError("is a folder", path=output, remedy="give the name of a file")
    # The nearest folder that is there decides: those below it are made.
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        fault = "cannot be written into" if above.is_dir() else "is a file"
        raise UsageError(fault, path=above, remedy="give a file in a folder that you may write")
    return output


def write_table(table: pd.DataFrame, output: Path) -> None:
    """Write a table where `table_path` allowed it, whole or not at all."""
    with replaced(output.absolute()) as partial:
        if output.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def say(text: str, as_json: bool, data: Any) -> None:
    """Print the human text, or the same facts as JSON."""
    with named("standard output"):
        typer.echo(json.dumps(_plain(data), indent=2, allow_nan=False) if as_json else text)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: null for what is missing or no finite number, text for paths."""
    if hasattr(value, "tolist"):
        # Scalars and arrays of NumPy.
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = str(value)
    return None if text in ("<NA>", "NaT") else text
