"""Recipes as text for people: each field with what it means."""

from __future__ import annotations

import re
import textwrap
from importlib import resources
from pathlib import Path

from pydantic.fields import FieldInfo

from skyfuse.recipe import Recipe, recipe_names
from skyfuse.sections import inner_section

_FIELD = re.compile(r"( *)([a-z_]+):")


def commented(name: str | Path) -> str:
    """Return the YAML of a recipe with a comment above each field that says what it means.

    Parameters
    ----------
    name : str or path
        As of `skyfuse.recipe.load_recipe`, which must take it.

    Returns
    -------
    str
        YAML that holds the same.
    """
    if str(name) in recipe_names():
        text = (resources.files("skyfuse") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        text = Path(name).read_text(encoding="utf-8")
    lines: list[str] = []
    inner: dict[str, FieldInfo] = {}
    for line in text.splitlines():
        found = _FIELD.match(line)
        depth, field = (len(found[1]), found[2]) if found else (-1, "")
        if depth == 0 and field in Recipe.model_fields:
            section = inner_section(Recipe.model_fields[field].annotation)
            inner = {} if section is None else dict(section.model_fields)
            lines += _remark(Recipe.model_fields[field], "")
        elif depth == 2 and field in inner:
            lines += _remark(inner[field], "  ")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _remark(field: FieldInfo, indent: str) -> list[str]:
    return textwrap.wrap(
        field.description or "", 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )  # fmt: skip
