"""YAML that people write, e.g. recipes: plain data of bounded size, never code; a fault names its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from skyfuse.errors import UsageError

SIZE_LIMIT = 2**18
"""Bytes of a file at most; the longest recipe shipped has 7,000."""

VALUES_LIMIT = 8_000
"""Values of a file at most, with all that its aliases stand for; of long ones each 32 letters count."""

DEPTH_LIMIT = 30
"""Levels of sections and lists in a file at most; those of recipes shipped have 7."""


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a file of settings.

    Parameters
    ----------
    path : Path
    what : str
        What the file is, in one word, e.g. ``recipe``.

    Returns
    -------
    dict
        The fields as they are written: text, numbers, lists and mappings.

    Raises
    ------
    UsageError
        There is no such file, it is too long, no UTF-8, no plain YAML, or holds anything but fields.
    """
    if not path.is_file():
        raise UsageError(f"no such {what} file", remedy="check the path", path=path)
    try:
        size = path.stat().st_size
        if size > SIZE_LIMIT:
            raise UsageError(
                f"the {what} has {size} bytes, more than {SIZE_LIMIT}",
                remedy=f"give the {what}, not its data",
                path=path,
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the {what} cannot be read ({error})", remedy="give a UTF-8 YAML file", path=path
        ) from error
    return parse_yaml(text, what, where=str(path))


def parse_yaml(text: str, what: str, *, where: str) -> dict[str, Any]:
    """Return the fields that YAML holds.

    Parameters
    ----------
    text : str
    what : str
        As of `read_yaml`.
    where : str
        Where it comes from, as errors say it.

    Raises
    ------
    UsageError
        It is no plain YAML, or holds anything but fields.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, narrowed
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, yaml.reader.ReaderError):
            row: int | None = text.count("\n", 0, error.position)
        else:
            row = None if mark is None else mark.line
        line = "" if row is None else f" in line {row + 1}"
        raise UsageError(f"{where}: no valid YAML{line} ({problem})", remedy="mend that line") from error
    if not isinstance(data, dict):
        raise UsageError(
            f"{where}: no {what}, but {type(data).__name__}", remedy="write lines of a field and its value"
        )
    return data


class _Loader(yaml.SafeLoader):
    """Plain YAML: text, numbers, lists and mappings, of bounded depth and size, each key once.

    A few aliases of aliases can stand for more values than any memory holds, so that what an alias stands for
    counts wherever it stands.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._inside: dict[str | None, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML has no types here
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._inside:
                raise _fault(event, f"*{short(event.anchor)[1:-1]} stands inside of what it stands for")
            self._count(event, self._inside.get(event.anchor, 0))
            return super().compose_node(parent, index)
        if event.tag is not None:
            raise _fault(event, f"{short(event.tag)} is a tag, which has no use here")
        text = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _fault(event, "half of a character")
        before = self._values
        self._count(event, 1 + len(text) // 32)
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise _fault(event, f"more than {DEPTH_LIMIT} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._inside[event.anchor] = self._values - before
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _fault(key, "a key that is no text")
                if key.value in seen:
                    raise _fault(key, f"{short(key.value)} stands there twice")
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            raise _fault(node, f"{short(node.value)} is no number") from error
        if isinstance(value, int) and abs(value) >= 2**64:
            raise _fault(node, f"{short(node.value)} is too large a number")
        return value

    def _count(self, event: yaml.Event, values: int) -> None:
        self._values += values
        if self._values > VALUES_LIMIT:
            raise _fault(event, f"more than {VALUES_LIMIT} values, aliases counted")


# Dates would be neither text nor numbers: they stay as they are written.
_Loader.yaml_implicit_resolvers = {
    sign: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
    for sign, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(place: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=place.start_mark)


def short(value: Any) -> str:
    """Return a value of a file as one short line, as errors show it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
