"""What the verbs of the command line share: --json, progress bars, tables, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfuse.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a callback ``(done, total, what)`` that draws one bar on stderr for each stretch of work."""
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


def table_path(output: Path) -> Path:
    """Return where a table goes, refused before the work if it could not be written there after it."""
    if output.suffix not in (".parquet", ".csv"):
        raise UsageError(
            "its name does not say how to write the table", path=output, remedy="end it in .parquet or .csv"
        )
    if output.is_dir():
        raise UsageError("is a folder", path=output, remedy="give the name of a file")
    return output


def write_table(table: pd.DataFrame, output: Path) -> None:
    """Write a table where `table_path` allowed it, whole or not at all."""
    from skyfuse.disk import replaced

    with replaced(output.absolute()) as partial:
        if output.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def say(text: str, as_json: bool, data: dict[str, Any]) -> None:
    """Print the human text, or the same facts as JSON."""
    typer.echo(json.dumps(data, indent=2, default=str) if as_json else text)
