"""All that can be wrong with a study before any data is made or read, told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyfuse import identifiers
from skyfuse.cube.catalogue import schema_of
from skyfuse.dataset.labels import label_table
from skyfuse.dataset.select import expand_columns, find_column, numbers, with_label
from skyfuse.dataset.sources.files import tables_in
from skyfuse.dataset.sources.images import labels_of
from skyfuse.errors import DataError, FaultsError, SkyfuseError, StoreError, UsageError, together
from skyfuse.models.fusion import LateFusion
from skyfuse.models.registry import MODELS
from skyfuse.models.rounds import Rounds
from skyfuse.models.template import require_templates
from skyfuse.recipe import ModelPlan, Recipe, load_recipe, read_recipe
from skyfuse.study.tune import first_point
from skyfuse.survey.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

_PRODUCTS = {
    "table": "catalogue",
    "gaia-xp": "gaia",
    "images": "zoo",
    "scene": "scene",
}
"""What a mock sky must hold for a reader."""

_SEEN_BY = {
    ("image", "sdss"): "frames",
    ("spectrum", "sdss"): "spectra",
    ("image", "unwise"): "infrared",
    ("spectrum", "desi"): "desi",
}
"""What a mock sky must hold for an input of a cube, by kind and instrument."""


def check(
    recipe: Recipe,
    *,
    sources: Sequence[Path] = (),
    labels: Path | None = None,
    templates: str | Path | None = None,
) -> None:
    """Raise all that is wrong with a recipe's models, and with the data for it.

    Parameters
    ----------
    recipe : Recipe
    sources, labels, templates
        As of `skyfuse.study.prepare.prepare`.

    Raises
    ------
    UsageError
        A model is unknown, cannot do the task or take its parameters, or the reader takes no labels.
    StoreError
        A source or the table of labels does not exist.
    DataError
        The table of labels lacks the label.
    """
    found = [*of_models(with_templates(recipe, templates)), *of_sources(sources)]
    raise_all([*found, *of_labels(recipe, sources, labels), *(() if sources else of_mock(recipe))])


def raise_all(faults: Sequence[SkyfuseError]) -> None:
    """Raise faults as one error, where there are any."""
    if faults:
        raise together(faults)


def of_recipe(
    name: str | Path,
    *,
    sources: Sequence[Path] = (),
    labels: Path | None = None,
    templates: str | Path | None = None,
) -> list[SkyfuseError]:
    """Return all faults of a recipe, its variants and its short runs, each once.

    Parameters
    ----------
    name : str or path
        As of `skyfuse.recipe.load_recipe`.
    sources : sequence of path
        Data for it; of tables, whether they have the columns.
    labels, templates
        As of `check`. Without templates, models that need them are not asked for them.

    Raises
    ------
    UsageError
        There is no such recipe, or it is no YAML.
    """
    content, where = read_recipe(name)
    try:
        recipe = load_recipe(name)
    except UsageError as error:
        return [*each(error), *_beside(content, where, sources, labels)]
    found = [*of_models(with_templates(recipe, templates), asks_templates=templates is not None)]
    found += [*of_sources(sources), *of_labels(recipe, sources, labels)]
    if recipe.reader == "table" and not any(isinstance(fault, StoreError) for fault in found):
        found += of_tables(recipe, sources)
    for other in _others(recipe, found):
        found += of_models(with_templates(other, templates), asks_templates=templates is not None)
    return list({str(fault): fault for fault in found}.values())


def told_with(
    error: UsageError, name: str | Path, sources: Sequence[Path], labels: Path | None
) -> SkyfuseError:
    """Return an error of a recipe that cannot be, with what else is wrong with its models and the data."""
    try:
        content, where = read_recipe(name)
    except UsageError:
        return error
    return together([*each(error), *_beside(content, where, sources, labels)])


def _beside(
    content: Mapping[str, Any], where: str, sources: Sequence[Path], labels: Path | None
) -> Iterator[SkyfuseError]:
    """Yield the faults that can be told though the recipe itself is at fault."""
    models = content.get("models")
    yield from _of_names([str(model) for model in models] if isinstance(models, dict) else [], where)
    yield from of_sources(sources)
    if labels is not None and not labels.exists():
        yield _no_labels(labels)


def each(error: SkyfuseError) -> tuple[SkyfuseError, ...]:
    """Return the faults that an error tells."""
    return error.faults if isinstance(error, FaultsError) else (error,)


def _others(recipe: Recipe, found: list[SkyfuseError]) -> Iterator[Recipe]:
    """Yield the variants and short runs of a recipe; what is wrong with those that cannot be is added."""
    variants = []
    for name in recipe.variants:
        try:
            variants.append(recipe.varied(name))
        except UsageError as error:
            found += each(error)
    for one in (recipe, *variants):
        if one is not recipe:
            yield one
        try:
            yield one.shortened()
        except UsageError as error:
            found += each(error)


def with_templates(recipe: Recipe, templates: str | Path | None) -> Recipe:
    """Return a recipe whose template models know their folder, unless the recipe names one itself."""
    if templates is None:
        return recipe
    models = {
        name: plan.model_copy(update={"fixed": {"templates": str(templates), **plan.fixed}})
        if name in MODELS and MODELS[name].reads_templates
        else plan
        for name, plan in recipe.models.items()
    }
    return recipe.model_copy(update={"models": models})


def of_models(recipe: Recipe, *, asks_templates: bool = True) -> Iterator[SkyfuseError]:
    """Yield what is wrong with the models of a recipe and their parameters.

    Parameters
    ----------
    recipe : Recipe
    asks_templates : bool
        Whether models that need templates must have them.
    """
    where = f"recipe {recipe.name}"
    yield from _of_names(list(recipe.models), where)
    for name, plan in recipe.models.items():
        if name not in _known():
            continue
        model = MODELS[name]
        if recipe.task.kind not in model.kinds:
            yield UsageError(
                f"{where} is a {recipe.task.kind}, which the model {name} cannot do",
                remedy=f"take models.{name} out of the recipe",
            )
        if recipe.balance == "weights" and not model.weighs:
            yield UsageError(
                f"{where}: {name} takes no weights of objects",
                remedy="set balance to smote or rarest in the recipe",
            )
        if model.reads_templates and asks_templates:
            try:
                require_templates(str(plan.fixed.get("templates", "")))
            except SkyfuseError as error:
                yield error
        # A wrong parameter shows before the first hour of fitting, not after it.
        for point in _points(plan):
            try:
                model(**plan.fixed, **point)
            except (TypeError, ValueError, SkyfuseError) as error:
                fault = error.fault if isinstance(error, SkyfuseError) else error
                yield UsageError(
                    f"{where} gives {name} a parameter that it cannot take ({fault})",
                    remedy=f"mend models.{name} in the recipe"
                    + (f": {error.remedy}" if isinstance(error, SkyfuseError) else ""),
                )


def _known() -> list[str]:
    return sorted(name for name in MODELS if name not in (LateFusion.name, Rounds.name))


def _of_names(models: Sequence[str], where: str) -> Iterator[SkyfuseError]:
    for name in models:
        if name not in _known():
            yield UsageError(f"{where} names the model {name}", remedy=f"choose among {', '.join(_known())}")


def _points(plan: ModelPlan) -> list[dict[str, Any]]:
    """Return points that hold every value of the grid and of the choices at least once."""
    first = first_point(plan)
    values = {**plan.grid, **{name: one.choices for name, one in plan.space.items()}}
    return [first, *({**first, name: value} for name, many in values.items() for value in many[1:])]


def of_sources(sources: Sequence[Path]) -> Iterator[SkyfuseError]:
    """Yield which sources do not exist."""
    for path in sources:
        if not path.exists():
            yield StoreError(
                "does not exist", path=path, remedy="give a dataset, a cube or a folder of survey files"
            )


def of_mock(recipe: Recipe) -> Iterator[SkyfuseError]:
    """Yield what the recipe's mock sky does not hold and its reader reads."""
    needed = [_PRODUCTS[recipe.reader]] if recipe.reader in _PRODUCTS else []
    if recipe.reader == "cube":
        asked = [(one.kind, one.instrument or "sdss") for one in recipe.inputs.values()]
        needed = [_SEEN_BY[one] for one in asked if one in _SEEN_BY]
    for product in needed:
        if product not in recipe.mock.products:
            yield UsageError(
                f"recipe {recipe.name} has a mock sky without {product}, and no data were given",
                remedy=f"give data with --data, or name {product} in mock.products",
            )


def of_labels(recipe: Recipe, sources: Sequence[Path], labels: Path | None) -> Iterator[SkyfuseError]:
    """Yield what is wrong with the table of labels: the reader takes none, it is not there, it lacks them."""
    if labels is None:
        return
    if recipe.reader in ("table", "scene"):
        yield UsageError(
            f"the data of {recipe.name} hold their labels themselves", remedy="call it without --labels"
        )
        return
    if not labels.exists():
        yield _no_labels(labels)
        return
    label = recipe.task.label
    if label in schema_of("spectra", {}).names or any((path / "dataset.json").is_file() for path in sources):
        return
    try:
        table = labels_of(labels, label) if recipe.reader == "images" else label_table(labels)
        if table is not None:
            with_label(table, label)
    except SkyfuseError as error:
        error.path = error.path or labels
        yield error


def _no_labels(labels: Path) -> StoreError:
    return StoreError("does not exist", path=labels, remedy="give the table of labels")


def of_tables(recipe: Recipe, sources: Sequence[Path]) -> Iterator[SkyfuseError]:
    """Yield which columns tables lack, together, that the recipe names, and which tables cannot be read."""
    files = [] if any((path / "dataset.json").is_file() for path in sources) else list(tables_in(sources))
    tables = []
    for path in files:
        try:
            tables.append(read_table(path))
        except SkyfuseError as error:
            yield error
    if not tables:
        return
    # Each row gets the name of its file, in this column.
    table = identifiers.stacked(tables).assign(source="")
    asked: list[tuple[Callable[..., Any], Any]] = [(with_label, recipe.task.label)]
    asked += [(expand_columns, [name]) for name in recipe.leaky_columns]
    asked += [(_column, name) for name in recipe.funnel.where]
    asked += [(_column, name) for name in recipe.task.beside()]
    if recipe.split.column is not None:
        asked.append((find_column, recipe.split.column))
    for ask, name in asked:
        try:
            ask(table, name)
        except SkyfuseError as error:
            error.path = files[0]
            yield error


def _column(table: pd.DataFrame, name: str) -> None:
    """Raise an error where neither the table nor a difference or logarithm of its columns has a name."""
    try:
        find_column(table, name)
    except DataError:
        numbers(table, name)
