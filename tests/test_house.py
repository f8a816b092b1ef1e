"""The house as DESIGN draws it: no import runs upward or in a circle, and nothing in it is long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import skyfuse

SOURCE = Path(skyfuse.__file__).parent

FLOORS = (
    {"__main__", "__init__"},
    {"cli", "recipe_commands"},
    {"testing"},
    {"plugins"},
    {"study"},
    {"models", "fetch"},
    {"dataset"},
    {"cube"},
    {"survey", "mock"},
)
"""From the top down; what is named nowhere is the ground, of modules that any floor may use."""

LOAD_AND_SAVE = ("skyfuse.models.base", "skyfuse.models.files")
"""The one circle: a model loads and saves itself by what knows all model files."""

MOST_LINES, MOST_PARAMETERS = 60, 8


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def for_types_alone(tree: ast.Module) -> set[ast.AST]:
    """Return all nodes under ``if TYPE_CHECKING``."""
    blocks = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")
    ]
    return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of ours that one imports, at its head or within functions, not for types alone."""
    tree = tree_of(module)
    unused, found = for_types_alone(tree), set()
    for node in ast.walk(tree):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= below or {node.module}
    return frozenset(found & set(MODULES)) - {module}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def floor(module: str) -> int:
    """Return the number of a module's floor from the top."""
    return next((i for i, rooms in enumerate(FLOORS) if room(module) in rooms), len(FLOORS))


def test_every_room_that_is_named_is_there() -> None:
    assert set().union(*FLOORS) <= {room(module) for module in MODULES}
    assert imports("skyfuse.models.base") >= {"skyfuse.errors", "skyfuse.models.files"}


def test_no_import_runs_upward() -> None:
    upward = [f"{one} -> {other}" for one in MODULES for other in imports(one) if floor(other) < floor(one)]
    assert upward == []


def test_rooms_of_one_floor_do_not_know_each_other() -> None:
    across = [
        f"{one} -> {other}"
        for one in MODULES
        for other in imports(one)
        if 1 < floor(one) == floor(other) < len(FLOORS) and room(one) != room(other)
    ]
    assert across == []


def test_no_import_runs_in_a_circle_but_that_of_load_and_save() -> None:
    graph = {module: set(imports(module)) for module in MODULES}
    one, other = LOAD_AND_SAVE
    assert other in graph[one]
    graph[one].discard(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef):
                yield module, node


def lines_of(function: ast.FunctionDef) -> int:
    """Return the lines of a function's body without its docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters_of(function: ast.FunctionDef) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len(names) + len(function.args.kwonlyargs) - (names[:1] in (["self"], ["cls"]))


@cache
def kernels(module: str) -> frozenset[str]:
    """Return what numba compiles: it takes plain arrays alone, so these may be long and take any number."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(d) for d in node.decorator_list):
            found.add(node.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("njit("):
            found |= {ast.unparse(argument) for argument in node.args}
    return frozenset(found)


def test_no_function_is_long_or_takes_much() -> None:
    assert kernels("skyfuse.dataset.match") >= {"_near"}
    found = {
        (module, function.name)
        for module, function in functions()
        if (lines_of(function) > MOST_LINES or parameters_of(function) > MOST_PARAMETERS)
        and function.name not in kernels(module)
    }
    assert found == set()
