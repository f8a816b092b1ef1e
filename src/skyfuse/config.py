"""Recipes: what a study does, as one typed and documented YAML file.

A recipe is data, never code: unknown fields are errors, and every error names the field and what it may hold.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skyfuse.errors import UsageError

Modality = Literal["image", "spectrum"]
Fusion = Literal["image", "spectrum", "early", "late-mean", "late-weighted"]
Variant = Literal["tiny-pixels", "shuffled-bands", "complete-only"]
Scalar = bool | int | float | str

MODALITIES: tuple[Modality, ...] = ("image", "spectrum")
FUSIONS: tuple[Fusion, ...] = ("image", "spectrum", "early", "late-mean", "late-weighted")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Task(_Part):
    """What is predicted."""

    label: str = Field(description="Column of the dataset's table that holds the label.")
    title: str = Field(description="The label as axes and tables name it, e.g. `log SFR`.")
    unit: str = Field(description="Unit of the label as printed, e.g. `dex`.")
    definition: str = Field(description="What the label means and where it comes from, in one sentence.")
    kind: Literal["regression"] = Field("regression", description="Kind of task.")


class MockSource(_Part):
    """The mock sky on which the study runs by default."""

    fields: int = Field(2, ge=1, description="Number of imaging fields.")
    objects: int = Field(1500, ge=20, description="Number of objects with a spectrum.")
    seed: int = Field(7, ge=0, description="Seed of the sky.")


class Funnel(_Part):
    """Which objects the dataset keeps; the steps are counted one by one."""

    flag_zero: bool = Field(True, description="Keep only labels of good quality (FLAG = 0).")
    complete_spectra: bool = Field(
        False, description="Drop every spectrum with an invalid bin, as the original study did."
    )
    single_objects: bool = Field(
        False, description="Drop cutouts with more than one object, as the original study did."
    )


class ModelPlan(_Part):
    """One model: what is fixed and what is tuned."""

    fixed: dict[str, Scalar] = Field(default_factory=dict, description="Parameters given as they are.")
    grid: dict[str, list[Scalar]] = Field(
        default_factory=dict, description="Parameters tuned by cross-validation: every combination is tried."
    )

    @model_validator(mode="after")
    def _check(self) -> ModelPlan:
        for name, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{name} is empty: name at least one value")
            if len(set(values)) < len(values):
                raise ValueError(f"grid.{name} repeats a value: name each value once")
        both = sorted(set(self.fixed) & set(self.grid))
        if both:
            raise ValueError(f"{', '.join(both)} stands in both fixed and grid: keep one of them")
        return self


class Split(_Part):
    """How objects are divided; frozen in the dataset before any model is fitted."""

    train: float = Field(0.6, gt=0, lt=1, description="Share of objects that models learn from.")
    valid: float = Field(0.2, gt=0, lt=1, description="Share that stops training and chooses between models.")
    test: float = Field(0.2, gt=0, lt=1, description="Share on which results are stated.")
    folds: int = Field(5, ge=3, description="Cross-validation folds of the training part, for tuning.")
    seed: int = Field(0, ge=0, description="Seed of the split.")

    @model_validator(mode="after")
    def _check(self) -> Split:
        if abs(self.train + self.valid + self.test - 1) > 1e-9:
            raise ValueError("train + valid + test must be 1")
        return self


class Embeddings(_Part):
    """Two-dimensional views of the inputs."""

    methods: list[Literal["pca", "tsne", "umap"]] = Field(
        default=["pca", "tsne", "umap"], description="Which methods."
    )
    zooms: dict[Modality, list[int]] = Field(
        default={"image": [0, 1, 2, 3], "spectrum": [0, 1, 2, 3]}, description="At which zooms."
    )


class Flaw(_Part):
    """A known flaw of the original study: how it is avoided, and, where it can be measured, its effect."""

    what: str = Field(description="The flaw.")
    avoided: str = Field(description="How it is avoided here.")
    variant: Variant | None = Field(
        None,
        description="Data spoilt in the same way, to measure the effect: `tiny-pixels` divides pixels by 255 "
        "after bringing them to 1e-18; `shuffled-bands` changes the order of bands between objects; "
        "`complete-only` trains on spectra without an invalid bin alone.",
    )
    model: str | None = Field(None, description="Model with which the effect is measured.")
    fusion: Literal["image", "spectrum", "early"] | None = Field(
        None, description="Input with which the effect is measured."
    )

    @model_validator(mode="after")
    def _check(self) -> Flaw:
        given = [self.variant is not None, self.model is not None, self.fusion is not None]
        if any(given) and not all(given):
            raise ValueError("variant, model and fusion belong together: give all three or none")
        return self


class Published(_Part):
    """A figure that the authors of the original study state for their data; quoted, never compared."""

    model: str = Field(description="Model.")
    fusion: Fusion = Field(description="Input.")
    r2: float | None = Field(None, description="R².")
    mae: float | None = Field(None, description="Mean absolute error.")
    rmse: float | None = Field(None, description="Root mean square error.")


class Recipe(_Part):
    """One study, whole."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", description="Short name, e.g. `sfr`.")
    title: str = Field(description="Title of the report.")
    task: Task = Field(description="What is predicted.")
    mock: MockSource = Field(
        default=MockSource.model_validate({}), description="Mock sky used when no data is given."
    )
    funnel: Funnel = Field(default=Funnel.model_validate({}), description="Which objects are kept.")
    modalities: list[Modality] = Field(default=["image", "spectrum"], description="Inputs of the dataset.")
    zooms: dict[Modality, list[int]] = Field(
        description="Zooms of the resolution study: each model is fitted at each of them."
    )
    reference: dict[Modality, int] = Field(
        description="Zooms at which fusions are compared and parameters tuned."
    )
    models: dict[str, ModelPlan] = Field(min_length=1, description="Models by name, with their parameters.")
    fusions: list[Fusion] = Field(default=list(FUSIONS), min_length=1, description="Inputs compared.")
    split: Split = Field(default=Split.model_validate({}), description="Training, validation and test parts.")
    embeddings: Embeddings = Field(
        default=Embeddings.model_validate({}), description="Two-dimensional views."
    )
    bootstrap: int = Field(5000, ge=200, description="Bootstrap samples behind each interval.")
    seed: int = Field(0, ge=0, description="The one seed from which every cell's seed follows.")
    flaws: list[Flaw] = Field(default_factory=list, description="Known flaws of the original study.")
    published: list[Published] = Field(default_factory=list, description="The authors' own figures.")
    source: str = Field("", description="The original study, as the report cites it.")
    quick: dict[str, Any] = Field(
        default_factory=dict,
        description="Overrides for a short run: same fields; sections merge, lists and grids are replaced.",
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for field, zooms in (("zooms", self.zooms), ("embeddings.zooms", self.embeddings.zooms)):
            for modality, levels in zooms.items():
                if modality not in self.modalities:
                    raise ValueError(f"{field}.{modality}: modalities does not name {modality}")
                if any(not 0 <= z <= 4 for z in levels) or len(set(levels)) < len(levels):
                    raise ValueError(f"{field}.{modality} holds zooms from 0 to 4, each once")
        for modality in self.modalities:
            if not 0 <= self.reference.get(modality, -1) <= 4:
                raise ValueError(f"reference.{modality} is needed: a zoom from 0 to 4")
        for fusion in self.fusions:
            needed = set(inputs_of(fusion))
            if not needed <= set(self.modalities):
                raise ValueError(f"fusions: {fusion} needs {', '.join(sorted(needed))} in modalities")
            if fusion.startswith("late") and not {"image", "spectrum"} <= set(self.fusions):
                raise ValueError(f"fusions: {fusion} needs image and spectrum in fusions too")
        for index, flaw in enumerate(self.flaws):
            if flaw.model is not None and flaw.model not in self.models:
                raise ValueError(f"flaws.{index}.model: {flaw.model} is not among models")
            if flaw.fusion is not None and flaw.fusion not in self.fusions:
                raise ValueError(f"flaws.{index}.fusion: {flaw.fusion} is not among fusions")
        return self

    def shortened(self) -> Recipe:
        """Return the recipe with its `quick` overrides applied.

        Returns
        -------
        Recipe
            The same study with smaller grids and fewer zooms; its own `quick` is empty.

        Raises
        ------
        UsageError
            An override names an unknown field or a value that the field cannot hold.
        """
        whole = self.model_dump(mode="json")
        overrides = whole.pop("quick")
        return _validated(_merged(whole, overrides), where=f"{self.name}, quick")

    def with_seed(self, seed: int) -> Recipe:
        """Return the recipe with one seed for the mock sky, the split and the models.

        Raises
        ------
        UsageError
            The seed is negative.
        """
        if seed < 0:
            raise UsageError(f"the seed is {seed}", remedy="give 0 or a positive whole number")
        return self.model_copy(
            update={
                "seed": seed,
                "mock": self.mock.model_copy(update={"seed": seed}),
                "split": self.split.model_copy(update={"seed": seed}),
            }
        )

    def to_yaml(self) -> str:
        """Return the recipe as YAML, readable by `load_recipe`."""
        content = self.model_dump(mode="json")
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


def inputs_of(fusion: Fusion) -> tuple[Modality, ...]:
    """Return the modalities that a fusion reads."""
    if fusion == "image":
        return ("image",)
    if fusion == "spectrum":
        return ("spectrum",)
    return MODALITIES


def recipe_names() -> list[str]:
    """Return the names of the recipes shipped with Skyfuse, sorted."""
    folder = resources.files("skyfuse") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by the name of a shipped one or by the path of a YAML file.

    Parameters
    ----------
    name : str or path
        ``sfr``, or a path ending in ``.yaml`` or ``.yml``.

    Returns
    -------
    Recipe

    Raises
    ------
    UsageError
        No such recipe, no valid YAML, or a field that holds what it may not.
    """
    if str(name) in recipe_names():
        text = (resources.files("skyfuse") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        return _parsed(text, where=f"recipe {name}")
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"no recipe is called {name!r}",
            remedy=f"choose one of {', '.join(recipe_names())} or give the path of a .yaml file",
        )
    if not path.is_file():
        raise UsageError("no such recipe file", remedy="check the path", path=path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the recipe cannot be read ({error})", remedy="give a UTF-8 YAML file", path=path
        ) from error
    return _parsed(text, where=str(path))


def _parsed(text: str, *, where: str) -> Recipe:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise UsageError(f"{where}: no valid YAML{line} ({first})", remedy="mend that line") from error
    if not isinstance(data, dict):
        raise UsageError(
            f"{where}: no recipe, but {type(data).__name__}", remedy="write fields, as in sfr.yaml"
        )
    return _validated(data, where=where)


def _validated(data: dict[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        faults = list(_faults(error, data))
        more = "" if len(faults) == 1 else f" (and {len(faults) - 1} more)"
        fault, remedy = faults[0]
        raise UsageError(f"{where}: {fault}{more}", remedy=remedy) from error


def _faults(error: ValidationError, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for item in error.errors(include_url=False):
        field = ".".join(str(step) for step in item["loc"]) or "recipe"
        value = _short(item["input"])
        kind = item["type"]
        if kind == "extra_forbidden":
            known = _fields_at(item["loc"][:-1])
            yield f"unknown field {field}", f"the fields there are {', '.join(known)}"
        elif kind == "missing":
            yield f"field {field} is missing", "add it"
        elif kind == "literal_error":
            yield f"field {field} is {value}", f"allowed are {item['ctx']['expected']}"
        elif kind == "value_error":
            prefix = "" if field == "recipe" else f"field {field}: "
            fault, _, remedy = str(item["ctx"]["error"]).partition(": ")
            yield f"{prefix}{fault}", remedy or "correct it"
        else:
            message = item["msg"]
            yield f"field {field} is {value}", message[0].lower() + message[1:]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the section at a place in the recipe, by walking the types."""
    section: type[BaseModel] = Recipe
    for step in location:
        if not isinstance(step, str) or step not in section.model_fields:
            continue
        inner = _section_in(section.model_fields[step].annotation)
        if inner is not None:
            section = inner
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_in(argument)
        if found is not None:
            return found
    return None


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge overrides into a recipe; `grid` is replaced whole, since half a grid has no meaning."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and key != "grid":
            merged[key] = _merged(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
