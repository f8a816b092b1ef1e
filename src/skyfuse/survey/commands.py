"""The verbs of ``skyfuse instrument``: which there are, what is said of one, a trial on a file, a draft."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfuse.disk import replaced
from skyfuse.errors import DataError, UsageError, shown
from skyfuse.terminal import Json, say

if TYPE_CHECKING:
    from skyfuse.survey.reader import Reader

app = typer.Typer(
    help="Instruments whose files are read: list and explain them, try one on a file, describe a new one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A known instrument, or a YAML file.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the instruments whose files are read, with bands, pixels, units and grids.

    Example: skyfuse instrument list
    """
    from skyfuse.survey import registry
    from skyfuse.survey.trial import summary

    known = registry.instruments()
    width = max(len(name) for name in known)
    text = "\n".join(f"{name:<{width}}  {summary(one)}" for name, one in known.items())
    say(text, as_json, [asdict(one) for one in known.values()])


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show what an instrument delivers, and its description, or that of the readers in Python.

    Example: skyfuse instrument show decam-cp
    """
    from skyfuse.survey.described import DescribedReader
    from skyfuse.survey.trial import summary

    readers = _readers(name)
    found = [one for reader in readers for one in reader.instruments]
    lines = [f"# {one.name}: {summary(one)}" for at, one in enumerate(found) if one not in found[:at]]
    data: list[dict[str, Any]] = []
    for reader in readers:
        if isinstance(reader, DescribedReader):
            lines.append(_text(name))
            told: dict[str, Any] = {"description": reader.description.model_dump(mode="json")}
        else:
            said = (type(reader).__doc__ or "").strip().splitlines()
            lines.append(
                f"# {reader.name}, a reader in Python ({type(reader).__module__}): {(said or [''])[0]}"
            )
            told = {"module": type(reader).__module__}
        data.append(
            {"reader": reader.name, "instruments": [asdict(one) for one in reader.instruments]} | told
        )
    say("\n".join(lines).rstrip("\n"), as_json, data)


@app.command()
def check(
    name: Name,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Files on which it is tried; of a folder those it knows."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a description, and try it on files: what is recognised, values, sigma, invalid pixels, WCS.

    Example: skyfuse instrument check my-camera.yaml night1/exposure-0001.fits
    """
    from skyfuse.survey.trial import lines, summary, try_file

    readers = _readers(name)
    text = [f"{one.name}: {summary(one)}" for reader in readers for one in reader.instruments]
    data: dict[str, Any] = {"instruments": [asdict(one) for reader in readers for one in reader.instruments]}
    data["files"] = []
    failed = 0
    for path, told in _files(files or []):
        # Images and spectra of an instrument may have readers of their own: the one that knows the file.
        trials = [try_file(reader, path) for reader in readers]
        tried = next((one for one in trials if one[0].reason != "unknown-kind"), trials[0])
        if tried[0].reason in ("unknown-kind", "not-fits") and not told:
            continue
        failed += sum(one.what == "refused" for one in tried)
        text += [shown(path), *(f"  {line}" for line in lines(tried))]
        data["files"].append({"path": str(path), "records": [asdict(one) for one in tried]})
    say("\n".join(text), as_json, data)
    if failed:
        raise DataError(
            f"{failed} record{'s' if failed > 1 else ''} cannot be read with {name}",
            remedy="mend what is said above",
        )


def _files(given: list[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether they were named themselves or only their folder was."""
    for path in given:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.rglob("*")) if file.is_file())
        else:
            yield path, True


@app.command()
def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A FITS file of the instrument, with an image.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the YAML goes; by default standard output.")
    ] = None,
) -> None:
    """Write the draft of a description from a file's headers, with comments, to be completed by hand.

    Example: skyfuse instrument new night1/exposure-0001.fits -o my-camera.yaml
    """
    from skyfuse.survey.described.draft import draft

    if output is not None and output.exists():
        raise UsageError("is there already", path=output, remedy="give another name, or remove it")
    text = draft(file)
    if output is None:
        say(text.rstrip("\n"), False, None)
        return
    with replaced(output.absolute()) as partial:
        partial.write_text(text, encoding="utf-8")
    say(
        f"{shown(output)}: a draft; try it with: skyfuse instrument check {shown(output)} {shown(file)}",
        False,
        None,
    )


def _readers(name: str) -> list[Reader]:
    """Return the readers of an instrument that is known, or the one of a YAML file."""
    from skyfuse.survey import registry
    from skyfuse.survey.described import described

    found = [reader for reader in registry.readers() if any(one.name == name for one in reader.instruments)]
    if not found and Path(name).suffix not in (".yaml", ".yml") and not Path(name).exists():
        raise UsageError(
            f"there is no instrument {name!r}",
            remedy=f"give a YAML file or one of {', '.join(registry.instruments())}",
        )
    return found or [described(name)]


def _text(name: str) -> str:
    """Return the YAML of a description as it stands in its file."""
    from skyfuse.survey.description import shipped_names, shipped_text

    return shipped_text(name) if name in shipped_names() else Path(name).read_text(encoding="utf-8")
