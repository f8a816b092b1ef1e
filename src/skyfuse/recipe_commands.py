"""The verbs under ``skyfuse recipe``: list the recipes, show, check and draft one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from skyfuse.errors import one_line
from skyfuse.terminal import Json, say

app = typer.Typer(
    help="Recipes of studies: list those shipped, show one, check one, draft one from a table.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(name="list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes shipped with Skyfuse, what each shows, and its variants.

    Example: skyfuse recipe list
    """
    from skyfuse.recipe import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    data = [
        {
            "name": recipe.name,
            "kind": recipe.task.kind,
            "reader": recipe.reader,
            "shows": recipe.shows.strip(),
            "variants": list(recipe.variants),
        }
        for recipe in recipes
    ]
    width = max(len(recipe.name) for recipe in recipes) + 2
    lines = []
    for recipe in recipes:
        lines.append(f"{recipe.name:<{width}}{recipe.task.kind:<16}{one_line(recipe.shows)}")
        if recipe.variants:
            lines.append(f"{'':<{width}}variants: {', '.join(recipe.variants)}")
    say("\n".join(lines), as_json, data)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a recipe file.")],
    as_json: Json = False,
) -> None:
    """Print a recipe as YAML, each field with what it means; --json prints all its values, defaults too.

    Example: skyfuse recipe show sfr > mine.yaml
    """
    from skyfuse.recipe import load_recipe
    from skyfuse.study.explain import commented

    found = load_recipe(recipe)
    say("" if as_json else commented(recipe).rstrip(), as_json, found.model_dump(mode="json"))


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a recipe file.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Data for it; may be repeated. Tables are read for its columns.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels.")] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of SDSS spEigen*.fits, for models that fit templates.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say all that is wrong with a recipe, its variants, and the data for it; run nothing.

    Example: skyfuse recipe check mine.yaml --data table.csv
    """
    from skyfuse.study.faults import of_recipe

    found = of_recipe(recipe, sources=data or [], labels=labels, templates=templates)
    if as_json:
        say("", as_json, {"recipe": recipe, "faults": [str(fault) for fault in found]})
    elif not found:
        say(f"{recipe}: nothing is wrong", as_json, None)
    else:
        for fault in found:
            sys.stderr.write(f"skyfuse: {fault}\n")
    if found:
        raise typer.Exit(1)


@app.command()
def new(
    table: Annotated[Path, typer.Argument(help="Table with a row for each object: CSV, FITS, Parquet …")],
    label: Annotated[str, typer.Option(help="Column that is to be predicted.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Recipe to write.")] = Path("recipe.yaml"),
    as_json: Json = False,
) -> None:
    """Draft a recipe that predicts a column of a table from the others; says which it leaves out, and why.

    Example: skyfuse recipe new table.csv --label redshift -o photoz.yaml
    """
    from skyfuse.study.draft import draft, recipe_path

    output = recipe_path(output)
    drafted = draft(table, label)
    drafted.write(output)
    say(f"{output}: {drafted}; run: skyfuse study {output} --data {table}", as_json, drafted.to_dict(output))
