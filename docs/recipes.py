"""Write docs/recipes.md, the reference of recipes, from the schema and the models themselves.

python docs/recipes.py [OUT.md]
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from skyfuse.models import MODELS, LateFusion, Model
from skyfuse.models.rounds import Rounds
from skyfuse.recipe import Recipe, load_recipe, recipe_names

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Recipes

Written by `docs/recipes.py` from the schema and the models: do not edit it.

A recipe says what a study does, as YAML: what is predicted, from which inputs, by which models, on which
parts of the data. It is data, never code.

    skyfuse recipe list                                 the recipes shipped, and their variants
    skyfuse recipe show sfr > mine.yaml                 one of them, each field explained
    skyfuse recipe new table.csv --label redshift       a first recipe for a table
    skyfuse recipe check mine.yaml --data table.csv     all that is wrong with it, before anything runs
    skyfuse study mine.yaml --data table.csv            run it

The shortest one names the label, the columns and the models:

```yaml
name: mine
title: Redshifts from magnitudes
task: {label: redshift, title: z, definition: spectroscopic redshift}
reader: table
columns: [u, g, r, i, z]
models: {linear: {}, lightgbm: {}}
```

All faults of a recipe are told at once, each with its field. `a-b` in a list of columns is a difference of
two columns, `log10(a)` a logarithm, and `*` stands for any letters.
"""


def page() -> str:
    """Return the page."""
    parts = [
        HEAD,
        "## Recipes shipped\n",
        table(("recipe", "kind", "reader", "shows", "variants"), _shipped()),
    ]
    parts += ["## Fields\n", "Sections are explained below, each under its name.\n"]
    parts += explained_sections(Recipe, "the recipe")
    parts += [
        "## Models\n",
        "Their parameters stand under `fixed`, `grid` or `space` of `models.<name>`.\n",
    ]
    for name in sorted(set(MODELS) - {LateFusion.name, Rounds.name}):
        parts += _model(MODELS[name])
    return "\n".join(parts)


def explained_sections(whole: type[BaseModel], what: str) -> list[str]:
    """Return the parts of a page that explain every section of a file of settings."""
    parts = []
    for title, section in sections(whole).items():
        parts += [f"### {title or what}\n", f"{inspect.cleandoc(section.__doc__ or '')}\n", _fields(section)]
    return parts


def sections(section: type[BaseModel], title: str = "") -> dict[str, type[BaseModel]]:
    """Return a section and all inside of it, by the place where each stands first; the whole has none."""
    found = {title: section}
    for name, field in section.model_fields.items():
        for inner, place in _inner(field.annotation, name):
            for own, one in sections(inner, f"{title}.{place}".lstrip(".")).items():
                if one not in found.values():
                    found[own] = one
    return found


def _inner(annotation: Any, place: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, place
    for one in get_args(annotation):
        yield from _inner(one, f"{place}.<name>" if get_origin(annotation) is dict else place)


def _shipped() -> Iterator[tuple[str, ...]]:
    for name in recipe_names():
        recipe = load_recipe(name)
        shows = " ".join(recipe.shows.split())
        yield (
            f"`{name}`",
            recipe.task.kind,
            recipe.reader,
            shows,
            ", ".join(f"`{one}`" for one in recipe.variants),
        )


def _fields(section: type[BaseModel]) -> str:
    rows = (
        (f"`{name}`", type_name(field.annotation) + _bounds(field), _default(field), field.description or "")
        for name, field in section.model_fields.items()
    )
    return table(("field", "holds", "default", "means"), rows)


def type_name(annotation: Any) -> str:
    """Return what a field of a type holds, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, UnionType):
        names = list(dict.fromkeys(type_name(one) for one in inner if one is not type(None)))
        return "number or text" if set(names) >= {"number", "text"} else " or ".join(names)
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is list:
        return f"list of: {type_name(inner[0])}"
    if origin is dict:
        return f"by name: {type_name(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", bool: "true or false", int: "whole number", float: "number"}.get(
        annotation, "any value"
    )


def _bounds(field: FieldInfo) -> str:
    """Return what a number may be, and how many entries a list or a section may have."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    told = [
        f"{sign} {_power(getattr(limit, name))}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    told += [f"{limit.min_length} or more" for limit in field.metadata if hasattr(limit, "min_length")]
    return f", {', '.join(told)}" if told else ""


def _power(value: float) -> str:
    return "2⁶³" if value == 2**63 else f"{value:,}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return shown(value)


def shown(value: Any) -> str:
    """Return a default as YAML writes it."""
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _model(model: type[Model]) -> list[str]:
    about = inspect.cleandoc(model.__doc__ or "").split("\n\nParameters\n")[0]
    # The first sentences, up to the first section of the docstring.
    about = re.split(r"\n\n[A-Z]\w+\n---", about)[0]
    learns = " and ".join(sorted(model.kinds))
    text = explained(model)
    rows = ((f"`{name}`", shown(value), text.get(name, "")) for name, value in parameters(model).items())
    return [
        f"### {model.name}\n",
        f"{about}\n\nLearns {learns}.\n",
        table(("parameter", "default", "means"), rows),
    ]


def parameters(model: type[Model]) -> Mapping[str, Any]:
    """Return the parameters of a model with their default values."""
    defaults: Mapping[str, Any] | None = getattr(model, "defaults", None)
    if defaults is not None:
        return defaults
    return {
        name: one.default
        for name, one in inspect.signature(model.__init__).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }


def explained(model: type[Model]) -> dict[str, str]:
    """Return what docstrings say of each parameter of a model: its own, then those of what it inherits."""
    found: dict[str, str] = {}
    for own in model.__mro__:
        section = re.search(
            r"\nParameters\n-+\n(.*?)(\n\n[A-Z]\w+\n-+\n|\Z)", inspect.getdoc(own) or "", re.DOTALL
        )
        for names, kind, text in re.findall(
            r"^([\w, ]+) : (.*)\n((?:    .*\n?|\n)*)", section[1] + "\n" if section else "", re.MULTILINE
        ):
            for name in names.split(", "):
                choices = re.search(r"\{(.*)\}", kind)
                told = " ".join(text.split())
                if choices:
                    told = f"One of {choices[1]}. {told}".strip().replace('"', "")
                if told:
                    found.setdefault(name, told)
    return found


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    if len(lines) == 2:
        return "None.\n"
    safe = (" | ".join(cell.replace("|", "&#124;") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in safe)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page(), encoding="utf-8")
