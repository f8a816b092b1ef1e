"""From a recipe and the user's data, or no data at all, to the dataset that the study needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from skyfuse.cube.catalogue import schema_of
from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.open import open_source
from skyfuse.dataset.split import SplitPlan
from skyfuse.dataset.wanted import Input, Wanted
from skyfuse.disk import read_parquet
from skyfuse.errors import StoreError
from skyfuse.mock import write_mock
from skyfuse.recipe import Reader, Recipe
from skyfuse.study.faults import of_labels, of_sources, raise_all
from skyfuse.survey.mpajhu import SFR_NAME, find_sfr
from skyfuse.words import Progress

TRUTH = "truth.parquet"
"""What marks the folder of a mock sky."""

IN_MOCK: dict[Reader, str] = {
    "cube": "",
    "table": "catalogue.csv",
    "gaia-xp": "gaia",
    "images": "zoo",
    "scene": "scene",
}
"""What each reader reads of a mock sky."""


def prepare(
    recipe: Recipe,
    work: Path,
    *,
    sources: Sequence[Path] = (),
    labels: Path | None = None,
    templates: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, pd.DataFrame | None]:
    """Return the dataset of a study; on a mock sky, its truth too.

    Parameters
    ----------
    recipe : Recipe
    work : path
        Folder for what has to be made: ``sky`` (mock files), ``simulated`` (mock spectra that join the
        user's), ``sky.cube``, ``dataset``.
    sources : sequence of path
        A dataset, a cube, or files and folders of what the recipe's reader reads; without any the recipe's
        mock sky is written to ``work/sky``.
    labels : path, optional
        Table of labels; by default what lies among the files.
    templates : path, optional
        Folder of SDSS eigentemplates, from which mock spectra are then drawn.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    dataset : Dataset
        With a frozen split.
    truth : DataFrame or None
        The truth table, where the only source is a mock sky.

    Raises
    ------
    StoreError
        If a source does not exist, or holds neither labels nor a dataset.
    """
    raise_all([*of_sources(sources), *of_labels(recipe, sources, labels)])
    given = list(sources)
    if not given:
        given = [work / "sky"]
        mock = recipe.mock
        write_mock(
            given[0],
            fields=mock.fields,
            objects=mock.objects,
            seed=mock.seed,
            products=mock.products,
            z_max=mock.z_max,
            shares=mock.shares,
            templates=templates,
            progress=progress,
        )
    truth = given[0] / TRUTH if len(given) == 1 and (given[0] / TRUTH).is_file() else None
    paths = [
        path / IN_MOCK[recipe.reader] if not sources or (path / TRUTH).is_file() else path for path in given
    ]
    if labels is None and recipe.reader == "cube" and not (given[0] / "dataset.json").is_file():
        labels = _find_labels(recipe.task.label, given)
    if recipe.simulate is not None and sources:
        paths.append(work / "simulated")
        write_mock(
            paths[-1],
            objects=recipe.simulate.objects,
            seed=recipe.mock.seed,
            products=[recipe.simulate.product],
            z_max=recipe.simulate.z_max,
            shares=recipe.mock.shares,
            templates=templates,
            progress=progress,
        )
    dataset = open_source(paths, work, wanted(recipe), reader=recipe.reader, labels=labels, progress=progress)
    return dataset, None if truth is None else read_parquet(truth)


def wanted(recipe: Recipe) -> Wanted:
    """Return what a recipe asks of a dataset."""
    return Wanted(
        inputs={name: Input(one.kind, one.instrument) for name, one in recipe.inputs.items()},
        zooms=_zooms(recipe),
        label=recipe.task.label,
        label_unit=recipe.task.unit,
        label_definition=recipe.task.definition,
        classes=recipe.task.classes or None,
        where=recipe.funnel.where or None,
        columns=recipe.sound_columns,
        derive=recipe.derive,
        split=split_plan(recipe),
        every_spectrum=recipe.every_spectrum,
        flag_zero=recipe.funnel.flag_zero,
        complete_spectra=recipe.funnel.complete_spectra,
        single_objects=recipe.funnel.single_objects,
        image_size=recipe.image_size,
    )


def split_plan(recipe: Recipe) -> SplitPlan:
    """Return the recipe's split as the dataset takes it."""
    split = recipe.split
    return SplitPlan(
        fractions=(split.train, split.valid, split.calibration, split.test),
        folds=split.folds,
        seed=split.seed,
        rounds=split.rounds,
        column=split.column,
        **{part: tuple(values) for part, values in split.parts.items()},
    )


def _find_labels(label: str, sources: Sequence[Path]) -> Path | None:
    """Return the table of star-formation rates among the files; None where spectra hold the label."""
    if label in schema_of("spectra", {}).names:
        return None
    found = next(filter(None, map(find_sfr, sources)), None)
    if found is not None:
        return found
    raise StoreError(
        f"holds no table of labels ({SFR_NAME})",
        path=sources[0],
        remedy="give one with --labels",
    )


def _zooms(recipe: Recipe) -> dict[str, list[int]]:
    """Return every zoom that a part of the recipe reads."""
    zooms: dict[str, list[int]] = {}
    for name in recipe.inputs:
        levels = {recipe.reference_of(name)}
        levels.update(recipe.zooms.get(name, ()))
        levels.update(recipe.views().get(name, ()))
        zooms[name] = sorted(levels)
    return zooms
