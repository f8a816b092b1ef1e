"""Recipes: what a study does, as one typed and documented YAML file.

A recipe is data, never code: unknown fields are errors, and every error names the field and what it may hold.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from skyfuse.errors import UsageError
from skyfuse.sections import Fault, Section, validated
from skyfuse.strictyaml import parse_yaml, read_yaml
from skyfuse.words import DERIVED, JOINT, MODALITIES, PARTS, Fusion, Kind, Modality, Part, Product, is_joint

Change = Literal["tiny-pixels", "shuffled-bands", "complete-only"]
Reader = Literal["cube", "table", "gaia-xp", "images", "scene"]
Scalar = bool | int | float | str

GIVES: dict[str, tuple[Modality, ...]] = {
    "cube": ("image", "spectrum", "table"),
    "table": ("table",),
    "gaia-xp": ("spectrum", "table"),
    "images": ("image", "table"),
    "scene": ("image", "table"),
}
"""What each reader can give."""


class Input(Section):
    """One input of the models."""

    kind: Modality = Field(description="What sort of data it is.")
    instrument: str | None = Field(
        None, description="Instrument of a cube's images or spectra; by default the only one."
    )


class System(Section):
    """The quantity of the label, as another catalogue or method states it."""

    what: str = Field(description="How it was measured, in a few words.")
    error: str | None = Field(None, description="Column with its standard deviation.")


class Task(Section):
    """What is predicted."""

    label: str = Field(
        description="Column of the dataset's table that holds the label; for a reconstruction, the column by "
        "which views are coloured."
    )
    title: str = Field(description="The label as axes and tables name it, e.g. `log SFR`.")
    unit: str = Field("", description="Unit of the label as printed, e.g. `dex`; empty for classes.")
    definition: str = Field(description="What the label means and where it comes from, in one sentence.")
    kind: Kind = Field("regression", description="Kind of task.")
    redshift: bool = Field(
        False, description="The label is a redshift: bias, σ_NMAD and outliers of Δz/(1+z) are stated too."
    )
    outlier: float = Field(0.15, gt=0, description="Size of Δz/(1+z) above which a redshift is an outlier.")
    classes: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Classes in their order, each with regular expressions that a label must match in full; "
        "the first match counts, rows without one are dropped and counted. Empty: the labels as they are.",
    )
    mirror: dict[str, str] = Field(
        default_factory=dict,
        description="Pairs of classes that a mirror swaps, e.g. `{clockwise: anticlockwise}`: models learn "
        "from mirrored images, and from what `derive` measures on them, too, and answer accordingly.",
    )
    forbidden: dict[str, str] = Field(
        default_factory=dict,
        description="Columns that carry the answer, each with the reason; `*` stands for any letters, `ew` "
        "and other names in `derive` for what is derived under them.",
    )
    level: float = Field(0.9, gt=0.5, lt=1, description="Level of the prediction intervals and sets.")
    attainable: str | None = Field(
        None, description="Column of the mock's truth with the σ of the label that no model can beat."
    )
    error: str | None = Field(
        None,
        description="Column of the table with the standard deviation of each label, in its unit. It tells "
        "what no model can beat, and training objects weigh by the share of the labels' variance that is "
        "not their own error.",
    )
    systems: dict[str, System] = Field(
        default_factory=dict,
        description="Columns with the quantity of the label by other means, `log10(a)` for a logarithm. How "
        "far they lie from it is stated beside every model; they are never inputs.",
    )
    learned: str | None = Field(
        None,
        description="One of `systems`, from which models learn in place of the label, brought to it by an "
        "offset and a scale that the training part gives. The label judges.",
    )
    magnitude: str | None = Field(
        None, description="Column of the table, `a-b` for a difference, by which results are broken down."
    )

    def _faults(self) -> Iterator[Fault]:
        if self.kind != "regression" and (self.error or self.systems):
            yield Fault(
                f"error and systems belong to a regression, and kind is {self.kind}",
                "take them away",
                ("kind", "error", "systems"),
            )
        if self.learned is not None and self.learned not in self.systems:
            yield Fault(f"learned names {self.learned}", "name it in systems too", ("learned", "systems"))

        named = [*self.mirror, *self.mirror.values()]
        if named and self.kind != "classification":
            yield Fault("mirror needs a classification", "take it away", ("mirror", "kind"))
        for name in dict.fromkeys(named):
            if named.count(name) > 1 or (self.classes and name not in self.classes):
                what = "twice" if named.count(name) > 1 else "which is no class"
                yield Fault(f"mirror names {name} {what}", "name pairs of classes", ("mirror", "classes"))

    def beside(self) -> list[str]:
        """Return the columns that stand beside the label: other systems, and the errors of all of them."""
        errors = [self.error, *(one.error for one in self.systems.values())]
        return [*self.systems, *(name for name in errors if name is not None)]

    def guarded(self) -> dict[str, str]:
        """Return the columns that may not be inputs, each with the reason."""
        found = dict.fromkeys(self.beside(), "the error of a label follows it")
        found |= {name: f"the same quantity, by {one.what}" for name, one in self.systems.items()}
        return {**self.forbidden, **found}


class MockSource(Section):
    """The mock sky on which the study runs by default."""

    fields: int = Field(2, ge=1, le=100_000, description="Number of imaging fields.")
    objects: int = Field(1500, ge=20, le=100_000_000, description="Number of objects with a spectrum.")
    seed: int = Field(7, ge=0, lt=2**63, description="Seed of the sky.")
    products: list[Product] = Field(
        default=["frames", "spectra", "sfr"], min_length=1, description="What is written."
    )
    z_max: float = Field(0.1, gt=0.02, description="Highest redshift of the galaxies.")
    shares: list[float] = Field(
        default=[0.78, 0.11, 0.11],
        min_length=3,
        max_length=3,
        description="Shares of galaxies, quasars and stars; they add up to 1.",
    )

    def _faults(self) -> Iterator[Fault]:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            yield Fault("shares are not negative and must add up to 1", "correct them", ("shares",))


class Simulation(Section):
    """Mock spectra that join the user's own: simulation to reality."""

    objects: int = Field(ge=20, le=100_000_000, description="Number of simulated objects.")
    z_max: float = Field(0.1, gt=0.02, description="Highest redshift of the simulated galaxies.")
    product: Literal["spectra", "lamost"] = Field(
        "spectra", description="As whose spectra they are written: SDSS's, or LAMOST's of the stars."
    )


class Funnel(Section):
    """Which objects the dataset keeps; the steps are counted one by one."""

    flag_zero: bool = Field(
        True, description="Keep only labels of good quality: FLAG = 0 of a table, ZWARNING = 0 of spectra."
    )
    where: dict[str, list[str | float | None]] = Field(
        default_factory=dict,
        description="Conditions on columns: for numbers [lowest, highest] with null for none, for text "
        "regular expressions of which one must match in full.",
    )
    complete_spectra: bool = Field(
        False, description="Drop every spectrum with an invalid bin, as the original study did."
    )
    single_objects: bool = Field(
        False, description="Drop cutouts with more than one object, as the original study did."
    )


class Space(Section):
    """Values among which a random or Bayesian search draws one parameter: a range, or choices."""

    low: float | None = Field(None, description="Lowest value.")
    high: float | None = Field(None, description="Highest value; whole numbers for both mean whole numbers.")
    log: bool = Field(False, description="Draw evenly in the logarithm.")
    step: float | None = Field(None, gt=0, description="Distance of the values.")
    choices: list[Scalar] = Field(default_factory=list, description="The values themselves.")

    def _faults(self) -> Iterator[Fault]:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            yield Fault("a space is either choices or low and high", "give one of them")
        elif not self.choices and (self.low is None or self.high is None or self.low >= self.high):
            yield Fault("low must lie below high", "give both")
        if self.log and (self.low is None or self.low <= 0 or self.step is not None):
            yield Fault("log needs a positive low and no step", "correct it")


class ModelPlan(Section):
    """One model: what is fixed, what is tuned, and what it reads."""

    fixed: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Parameters given as they are."
    )
    grid: dict[str, list[Scalar]] = Field(
        default_factory=dict,
        description="Parameters tuned by cross-validation: a grid search tries every combination, other "
        "searches draw among the values.",
    )
    space: dict[str, Space] = Field(
        default_factory=dict, description="Parameters that a random or Bayesian search draws."
    )
    fusions: list[Fusion] | None = Field(
        None, min_length=1, description="Inputs of this model; by default all fusions of the recipe."
    )
    partners: dict[str, str] = Field(
        default_factory=dict,
        description="Models that speak for an input in this model's late fusions in its place, e.g. "
        "`{table: svm}` beside a network of images.",
    )

    @property
    def tuned(self) -> bool:
        """Whether there is more than one point to try."""
        return bool(self.space) or any(len(values) > 1 for values in self.grid.values())

    def _faults(self) -> Iterator[Fault]:
        for name, values in self.grid.items():
            if not values:
                yield Fault(f"grid.{name} is empty", "name at least one value", ("grid",))
            if len(set(values)) < len(values):
                yield Fault(f"grid.{name} repeats a value", "name each value once", ("grid",))
        for one, other in (("fixed", "grid"), ("fixed", "space"), ("grid", "space")):
            both = sorted(set(getattr(self, one)) & set(getattr(self, other)))
            if both:
                said = f"{', '.join(both)} stands in both {one} and {other}"
                yield Fault(said, "keep one of them", (one, other))


class Search(Section):
    """How parameters are tuned, by cross-validation inside the training part."""

    method: Literal["grid", "random", "bayesian"] = Field("grid", description="Kind of search.")
    trials: int = Field(20, ge=1, le=100_000, description="Points that a random or Bayesian search tries.")
    scored: int | None = Field(
        None, ge=1, description="Folds that score each point, the first ones; by default all of them."
    )


class Split(Section):
    """How objects are divided; frozen in the dataset before any model is fitted."""

    train: float = Field(0.6, gt=0, lt=1, description="Share of objects that models learn from.")
    valid: float = Field(0.1, gt=0, lt=1, description="Share on which trainings stop.")
    calibration: float = Field(
        0.1, gt=0, lt=1, description="Share that sets intervals and sets, and may choose between models."
    )
    test: float = Field(0.2, gt=0, lt=1, description="Share on which results are stated.")
    folds: int = Field(
        5, ge=3, le=1000, description="Cross-validation folds of the training part, for tuning."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split.")
    rounds: int = Field(
        1,
        ge=1,
        le=1000,
        description="1: hold out. k > 1: cross-validation, each object in exactly one test part of k.",
    )
    column: str | None = Field(None, description="Column of the table that tells the part of each object.")
    parts: dict[Part, list[str]] = Field(
        default_factory=dict,
        description="Values of that column by part, `*` for any letters; parts not named are taken out of "
        "the training part. With rounds, rows of the values named for train always train, and only the "
        "others are tested.",
    )

    def _faults(self) -> Iterator[Fault]:
        if abs(self.train + self.valid + self.calibration + self.test - 1) > 1e-9:
            yield Fault("train + valid + calibration + test must be 1", "correct them", PARTS)
        if bool(self.parts) != (self.column is not None):
            yield Fault("column and parts belong together", "give both or none", ("column", "parts"))


class Embeddings(Section):
    """Two-dimensional views of the inputs."""

    methods: list[Literal["pca", "tsne", "umap"]] = Field(
        default=["pca", "tsne", "umap"], description="Which methods."
    )
    zooms: dict[str, list[int]] | None = Field(
        None, description="Of which inputs, at which zooms; by default all at their reference zooms."
    )


class Learning(Section):
    """Whose scores are measured against the size of the training part."""

    models: list[str] = Field(min_length=1, description="Models.")
    fusion: Fusion = Field(description="Their input.")


class Flaw(Section):
    """A known flaw of the original study: how it is avoided, and, where it can be measured, its effect."""

    what: str = Field(description="The flaw.")
    avoided: str = Field(description="How it is avoided here.")
    change: Change | None = Field(
        None,
        description="What spoils the data likewise, to measure it: `tiny-pixels` divides pixels by 255 "
        "after bringing them to 1e-18; `shuffled-bands` changes the order of bands between objects; "
        "`complete-only` trains on spectra without an invalid bin alone.",
    )
    model: str | None = Field(None, description="Model with which the effect is measured.")
    fusion: Fusion | None = Field(None, description="Input with which the effect is measured.")

    def _faults(self) -> Iterator[Fault]:
        given = [self.change is not None, self.model is not None, self.fusion is not None]
        if any(given) and not all(given):
            yield Fault("change, model and fusion belong together", "give all three or none")


class Published(Section):
    """A figure that the authors of the original study state for their data; quoted, never compared."""

    model: str = Field(description="Model, in the words of the recipe or of the authors.")
    fusion: str = Field("", description="Input, in the words of the recipe or of the authors.")
    scores: dict[str, float] = Field(min_length=1, description="Scores by name, e.g. `r2: 0.308`.")
    data: str = Field("", description="Their data, e.g. `11,179 galaxies`.")
    split: str = Field("", description="Their split, e.g. `60/20/20`.")
    comparable: bool = Field(False, description="Their data and split are those of this recipe.")


class Recipe(Section):
    """One study, whole."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", description="Short name, e.g. `sfr`.")
    title: str = Field(description="Title of the report.")
    task: Task = Field(description="What is predicted.")
    reader: Reader = Field("cube", description="What the data is made from.")
    mock: MockSource = Field(
        default=MockSource.model_validate({}), description="Mock sky used when no data is given."
    )
    simulate: Simulation | None = Field(
        None, description="Simulated spectra that join the user's data, with `mock` in the column survey."
    )
    funnel: Funnel = Field(default=Funnel.model_validate({}), description="Which objects are kept.")
    every_spectrum: bool = Field(
        False, description="One row for each spectrum instead of one for each object; epochs stay together."
    )
    image_size: int = Field(64, ge=8, le=4096, description="Pixels on a side of colour images, at zoom 0.")
    derive: list[Literal["ew", "indices", "morphology"]] = Field(
        default_factory=list,
        description="Columns made from the arrays: `ew` rest-frame equivalent widths, `ew_…`; `indices` line "
        "indices in the observed frame, `idx_…`; `morphology` profile and moments of images, `morph_…`.",
    )
    smooth: float = Field(0, ge=0, description="Gaussian σ, in bins, by which spectra are smoothed.")
    modalities: list[Modality] = Field(
        default=["image", "spectrum"],
        min_length=1,
        description="Inputs that are called by their kind; by default what the reader gives, the table if "
        "`columns` is set.",
    )
    inputs: dict[str, Input] = Field(
        default_factory=dict,
        description="Inputs by names of one's own, in place of `modalities`: as many of a kind as wanted, "
        "but one table.",
    )
    columns: list[str] = Field(
        default_factory=list,
        description="Columns of the table that are inputs; `a-b` is a difference, `*` any letters.",
    )
    leaking: list[str] = Field(
        default_factory=list,
        description="Forbidden columns used all the same: what reads the table runs without and with them.",
    )
    trusted: list[str] = Field(
        default_factory=list,
        description="Inputs that may tell the label almost exactly, since they were measured without it: "
        "columns as in `columns`, or inputs of images and spectra. All others that do are refused.",
    )
    zooms: dict[str, list[int]] = Field(
        default_factory=dict,
        description="Zooms of the resolution study: each model is fitted at each of them.",
    )
    reference: dict[str, int] = Field(
        default_factory=dict,
        description="Zooms at which fusions are compared and parameters tuned; tables have none.",
    )
    models: dict[str, ModelPlan] = Field(min_length=1, description="Models by name, with their parameters.")
    fusions: list[Fusion] = Field(
        default_factory=list,
        description="What is compared: inputs by name, `early` and late fusions of all, names joined by `+`; "
        "by default each input, and with several early and late fusion too.",
    )
    balance: Literal["none", "weights", "smote", "rarest"] = Field(
        "none", description="How unequal classes are balanced, on the training part alone."
    )
    sizes: list[int] = Field(default_factory=list, description="Sizes of the training part, for `learning`.")
    learning: Learning | None = Field(None, description="Scores against the size of the training part.")
    choice: Literal["calibration", "folds"] = Field(
        "calibration",
        description="What chooses between fitted models and inputs, never what stops trainings: the "
        "calibration part, which costs nothing; or cross-validation inside the training part, which sees "
        "more objects and costs as much as tuning at one point.",
    )
    search: Search = Field(default=Search.model_validate({}), description="How parameters are tuned.")
    split: Split = Field(default=Split.model_validate({}), description="The parts of the data.")
    embeddings: Embeddings = Field(
        default=Embeddings.model_validate({}), description="Two-dimensional views."
    )
    clusters: int = Field(
        0, ge=0, le=10_000, description="Number of k-means clusters of the inputs; 0 makes none."
    )
    bootstrap: int = Field(5000, ge=200, le=1_000_000, description="Bootstrap samples behind each interval.")
    seed: int = Field(0, ge=0, lt=2**63, description="The one seed from which every cell's seed follows.")
    flaws: list[Flaw] = Field(default_factory=list, description="Known flaws of the original study.")
    published: list[Published] = Field(default_factory=list, description="The authors' own figures.")
    source: str = Field("", description="The original study, as the report cites it.")
    shows: str = Field("", description="The question that the study answers, in one line.")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Overrides by name, e.g. for other data: same fields; sections merge; lists, grids, "
        "spaces, classes, parts and conditions are replaced; null takes a field or an entry away.",
    )
    quick: dict[str, Any] = Field(
        default_factory=dict,
        description="Overrides for a short run, likewise; a variant may hold its own.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _fill(cls, data: Any, handler: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        """Name the default inputs, which follow from the reader, and fusions, which follow from these."""
        if not isinstance(data, dict):
            return handler(data)
        filled = dict(data)
        reader = data.get("reader", "cube")
        named = data.get("inputs") if not ("modalities" in data and _plain(data.get("inputs"))) else None
        if named:
            filled.setdefault("modalities", list(dict.fromkeys(_kinds(data["inputs"]))) or [*MODALITIES])
        elif "modalities" not in data and isinstance(reader, str) and reader in GIVES:
            # A table is read where its columns are named, or where there is nothing else.
            read = bool(data.get("columns")) or len(GIVES[reader]) == 1
            filled["modalities"] = [one for one in GIVES[reader] if read or one != "table"]
        modalities = filled.get("modalities")
        if not named and isinstance(modalities, list):
            filled["inputs"] = {str(name): {"kind": name} for name in modalities}
        if not data.get("fusions") and isinstance(filled.get("inputs"), dict):
            names = [str(name) for name in filled["inputs"]]
            filled["fusions"] = [*names, *(JOINT if len(names) > 1 else ())]
        recipe = handler(filled)
        # They follow again where a variant names others.
        recipe.model_fields_set.difference_update(filled.keys() - data.keys())
        return recipe

    def _faults(self) -> Iterator[Fault]:
        yield from self._faults_of_inputs()
        for fusion in self.fusions:
            yield from self._faults_of_fusion(fusion, self.fusions, "fusions")
        for name, plan in self.models.items():
            yield from self._faults_of_partners(name, plan)
            for fusion in plan.fusions or ():
                yield from self._faults_of_fusion(
                    fusion, [*(plan.fusions or ()), *plan.partners], f"models.{name}.fusions"
                )
        yield from self._faults_of_references()
        yield from self._faults_of_plan()
        yield from self._faults_of_columns()

    def _faults_of_inputs(self) -> Iterator[Fault]:
        reads = ("reader", "modalities", "inputs", "columns")
        if set(self.modalities) != {one.kind for one in self.inputs.values()}:
            yield Fault("modalities and inputs name different inputs", "keep one of the two", reads)
        for name, one in self.inputs.items():
            yield from self._faults_of_input(name, one)
            if one.kind != "table" and not 0 <= self.reference.get(name, -1) <= 4:
                yield Fault(f"reference.{name} is needed", "give a zoom from 0 to 4", (*reads, "reference"))
        tables = [name for name, one in self.inputs.items() if one.kind == "table"]
        if len(tables) > 1:
            yield Fault(f"inputs names the tables {' and '.join(tables)}", "name one table", reads)
        if tables and not self.columns:
            yield Fault("columns is empty", "name the columns of the table that are inputs", reads)
        if self.columns and not tables:
            yield Fault(
                "columns names inputs, and modalities does not name the table",
                "name table in modalities, or take columns away",
                reads,
            )
        for field, zooms in (("zooms", self.zooms), ("embeddings.zooms", self.embeddings.zooms or {})):
            for name, levels in zooms.items():
                if name not in self.inputs:
                    yield Fault(f"{field} names {name}, which is no input", self._choices(), (*reads, field))
                if any(not 0 <= z <= 4 for z in levels) or len(set(levels)) < len(levels):
                    yield Fault(f"{field}.{name} holds zooms from 0 to 4, each once", "correct it", (field,))

    def _choices(self) -> str:
        return f"the inputs are {', '.join(self.inputs)}"

    def _faults_of_input(self, name: str, one: Input) -> Iterator[Fault]:
        """Yield what is wrong with an input that no other field decides."""
        reads = ("reader", "modalities", "inputs")
        sound = _INPUT_NAME.fullmatch(name) and name not in JOINT and not name.endswith("_sigma")
        if not sound or (name in MODALITIES and name != one.kind):
            yield Fault(
                f"inputs names {name}",
                "give a name of small letters, digits and _, and none with a meaning",
                reads,
            )
        if one.kind not in GIVES[self.reader]:
            where = "modalities" if name == one.kind else "inputs"
            yield Fault(
                f"{where} names {name}, which the reader {self.reader} does not give",
                f"it gives {' and '.join(GIVES[self.reader])}",
                reads,
            )
        if one.instrument is not None and (self.reader != "cube" or one.kind == "table"):
            yield Fault(
                f"inputs.{name} names an instrument, which only images and spectra of a cube have",
                "take it away",
                reads,
            )

    def _faults_of_partners(self, name: str, plan: ModelPlan) -> Iterator[Fault]:
        """Yield what is wrong with the models that speak for a model's inputs in late fusions."""
        for one, partner in plan.partners.items():
            place = f"models.{name}.partners"
            if one not in self.inputs or partner == name or partner not in self.models:
                yield Fault(
                    f"{place} gives {one} to {partner}",
                    "name inputs, and other models of the recipe",
                    ("models", "reader", "modalities", "inputs"),
                )
            elif one not in self.fusions_of(partner):
                yield Fault(
                    f"{place} gives {one} to {partner}, which does not read it", "add it", ("models",)
                )

    def _faults_of_fusion(self, fusion: Fusion, beside: Sequence[Fusion], place: str) -> Iterator[Fault]:
        """Yield what is wrong with an input that is named among others at a place of the recipe."""
        reads = ("reader", "modalities", "inputs", "columns", "fusions", place)
        if fusion not in self.fusions:
            yield Fault(f"{place} names {fusion}", "name it in fusions too", reads)
        needed = self.inputs_of(fusion)
        unknown = [name for name in needed if name not in self.inputs]
        if unknown or len(set(needed)) < len(needed):
            yield Fault(
                f"{place} names {fusion}, which is no input",
                f"{self._choices()}; or name {', '.join(JOINT)}, or inputs joined by +",
                reads,
            )
        elif len(needed) < 2 and is_joint(fusion):
            yield Fault(
                f"{place} names {fusion}, which joins inputs",
                "name two or more in modalities or inputs",
                reads,
            )
        elif fusion.startswith("late") and not set(needed) <= set(beside):
            yield Fault(f"{place} names {fusion}", f"name {' and '.join(needed)} there too", reads)

    def _faults_of_references(self) -> Iterator[Fault]:
        """Yield what names a model, or an input of a model, that is not there."""
        reads = ("models", "reader", "modalities", "inputs", "columns", "fusions")
        for index, flaw in enumerate(self.flaws):
            place = f"flaws.{index}"
            if flaw.model is None or flaw.fusion is None:
                continue
            if flaw.model not in self.models:
                yield Fault(f"{place}.model names {flaw.model}", "choose among models", ("models", place))
            elif flaw.fusion not in self.fusions_of(flaw.model) or flaw.fusion.startswith("late"):
                yield Fault(
                    f"{place}.fusion names {flaw.fusion}",
                    "choose among the model's fusions that are not late",
                    (*reads, place),
                )
        if self.learning is not None:
            for model in self.learning.models:
                if model not in self.models or self.learning.fusion not in self.fusions_of(model):
                    yield Fault(
                        f"learning names {model} on {self.learning.fusion}",
                        "choose an input it reads",
                        (*reads, "learning"),
                    )

    def _faults_of_plan(self) -> Iterator[Fault]:
        """Yield what is wrong with searches, rounds, balance and choice."""
        if bool(self.sizes) != (self.learning is not None):
            yield Fault("sizes and learning belong together", "give both or none", ("sizes", "learning"))
        for name, plan in self.models.items():
            if plan.space and self.search.method == "grid":
                yield Fault(
                    f"models.{name}.space needs a random or bayesian search",
                    "set search.method",
                    (f"models.{name}", "search.method"),
                )
        if self.search.scored is not None and self.search.scored > self.split.folds:
            yield Fault(
                "search.scored is above split.folds", "score fewer folds", ("search.scored", "split.folds")
            )
        if self.split.rounds > 1 and any(plan.tuned for plan in self.models.values()):
            yield Fault(
                "split.rounds above 1 leaves no part for tuning that no round tests",
                "fix the parameters",
                ("split.rounds", "models"),
            )
        if self.task.kind != "classification" and self.balance != "none":
            yield Fault(
                f"balance {self.balance} needs a classification", "set none", ("task.kind", "balance")
            )
        if self.choice == "folds" and any(fusion.startswith("late") for fusion in self.fusions):
            yield Fault(
                "choice folds cannot judge late fusions",
                "set choice to calibration",
                ("choice", "reader", "modalities", "inputs", "columns", "fusions"),
            )

    def _faults_of_columns(self) -> Iterator[Fault]:
        """Yield which columns give the answer away."""
        reads = ("columns", "leaking", "task.label", "task.forbidden", "task.error", "task.systems")
        for column in dict.fromkeys([*self.columns, *self.leaking]):
            reason = self.forbids(column)
            if reason is None and column in self.leaking:
                yield Fault(
                    f"leaking holds {column}, which is not forbidden", "name it in columns instead", reads
                )
            elif reason is not None and (column not in self.leaking or _touches(column, self.task.label)):
                yield Fault(
                    f"columns holds {column}, which gives the answer away ({reason})",
                    "drop it, or name it in leaking to run both ways",
                    reads,
                )
        if self.table() and self.columns and not self.sound_columns:
            yield Fault(
                "columns holds leaking columns alone",
                "name one that does not leak",
                ("columns", "leaking", "reader", "modalities"),
            )

    def forbids(self, column: str) -> str | None:
        """Return why a column may not be an input, None where it may.

        Parameters
        ----------
        column : str
            As in `columns`: a name, a difference ``a-b``, or a pattern with ``*``.
        """
        if _touches(column, self.task.label):
            return "it is the label"
        for name, reason in self.task.guarded().items():
            if _touches(column, DERIVED[name].columns if name in DERIVED else name):
                return reason
        return None

    @property
    def sound_columns(self) -> list[str]:
        """Columns of the table that are inputs and do not leak."""
        return [column for column in self.columns if column not in self.leaking]

    @property
    def leaky_columns(self) -> list[str]:
        """Columns of the table where the leaking ones are used too."""
        return [*self.sound_columns, *self.leaking]

    def inputs_of(self, fusion: Fusion) -> tuple[str, ...]:
        """Return the inputs that a fusion reads: itself, those that it joins, or all of the recipe's."""
        return tuple(self.inputs) if fusion in JOINT else tuple(fusion.split("+"))

    def table(self) -> str | None:
        """Return the input that is the table."""
        return next((name for name, one in self.inputs.items() if one.kind == "table"), None)

    def fusions_of(self, model: str) -> list[Fusion]:
        """Return the inputs of a model."""
        own = self.models[model].fusions
        return list(self.fusions if own is None else own)

    def reference_of(self, name: str) -> int:
        """Return the zoom at which fusions are compared; a table has zoom 0 alone."""
        return 0 if self.inputs[name].kind == "table" else self.reference[name]

    def views(self) -> dict[str, list[int]]:
        """Return the inputs and zooms that are embedded."""
        if self.embeddings.zooms is not None:
            return dict(self.embeddings.zooms)
        return {name: [self.reference_of(name)] for name in self.inputs}

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
        overrides = self.quick
        return _validated(_merged(self._given(), {**overrides, "quick": None}), where=f"{self.name}, quick")

    def varied(self, name: str) -> Recipe:
        """Return the recipe with the overrides of one of its variants applied.

        Raises
        ------
        UsageError
            There is no such variant, or it names an unknown field or a value that the field cannot hold.
        """
        if name not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise UsageError(
                f"recipe {self.name} has no variant {name!r}", remedy=f"its variants are: {known}"
            )
        overrides = {**self.variants[name], "variants": None}
        varied = _validated(_merged(self._given(), overrides), where=f"{self.name}, variant {name}")
        models = varied.quick.get("models")
        if not isinstance(models, dict):
            return varied
        # What the variant took away the short run must not bring back.
        kept = {k: plan for k, plan in models.items() if k in varied.models or k not in self.models}
        return varied.model_copy(update={"quick": {**varied.quick, "models": kept}})

    def _given(self) -> dict[str, Any]:
        """Return the fields as YAML holds them, without those that follow from others."""
        derived = {"modalities", "inputs", "fusions"} - self.model_fields_set
        return self.model_dump(mode="json", exclude=derived)

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
        del content["inputs" if _plain(content["inputs"]) else "modalities"]
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


_INPUT_NAME = re.compile("[a-z][a-z0-9_]{0,39}")


def _plain(inputs: Any) -> bool:
    """Tell whether inputs as they stand in YAML are no more than `modalities` would tell."""
    return isinstance(inputs, dict) and all(
        isinstance(one, dict) and one.get("kind") == name and one.get("instrument") is None
        for name, one in inputs.items()
    )


def _kinds(inputs: Any) -> list[str]:
    """Return the kinds of inputs as they stand in YAML, as far as they are kinds."""
    entries = inputs.values() if isinstance(inputs, dict) else ()
    kinds = [entry.get("kind") if isinstance(entry, dict) else None for entry in entries]
    return [kind for kind in kinds if kind in MODALITIES]


def recipe_names() -> list[str]:
    """Return the names of the recipes shipped with Skyfuse, sorted."""
    folder = resources.files("skyfuse") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_recipe(name: str | Path) -> tuple[dict[str, Any], str]:
    """Return the fields of a recipe as they are written, right or wrong, and where they are from.

    Parameters
    ----------
    name : str or path
        As of `load_recipe`.

    Raises
    ------
    UsageError
        No such recipe, or no valid YAML.
    """
    if str(name) in recipe_names():
        text = (resources.files("skyfuse") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        return parse_yaml(text, "recipe", where=f"recipe {name}"), f"recipe {name}"
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"no recipe is called {str(name)!r}",
            remedy=f"choose one of {', '.join(recipe_names())} or give the path of a .yaml file",
        )
    return read_yaml(path, "recipe"), str(path)


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
        No such recipe, no valid YAML, or fields that hold what they may not: all of them at once.
    """
    content, where = read_recipe(name)
    return _validated(content, where=where)


def _validated(data: dict[str, Any], *, where: str) -> Recipe:
    return validated(Recipe, data, "recipe", where=where)


# These have a meaning only as a whole: half a grid or half a set of classes would say something else.
_WHOLE = ("grid", "space", "classes", "parts", "where")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge overrides into a recipe: sections merge, all else is replaced, None takes away."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and key not in _WHOLE:
            merged[key] = _merged(old if isinstance(old, dict) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _touches(column: str, name: str) -> bool:
    """Tell whether a column, or one inside a difference ``a-b`` or ``log10(a)``, may be `name`.

    Either may be a pattern.
    """
    # Names of tables differ in case from release to release.
    name, own = (_bare(text.casefold()) for text in (name, column))
    parts = (own, *(_bare(part) for part in own.split("-")))
    return any(fnmatchcase(part, name) or fnmatchcase(name, part) for part in parts)


def _bare(column: str) -> str:
    """Return the column inside ``log10(column)``: a logarithm gives away as much as the value."""
    return column.removeprefix("log10(").removesuffix(")") if column.startswith("log10(") else column
