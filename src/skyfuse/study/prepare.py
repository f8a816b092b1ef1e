"""From a recipe and the user's data, or no data at all, to the dataset that the study needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from skyfuse.config import Recipe
from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.source import open_source
from skyfuse.errors import StoreError
from skyfuse.mock import write_mock

Progress = Callable[[int, int, str], None]


def prepare(
    recipe: Recipe,
    work: Path,
    *,
    source: Path | None = None,
    labels: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, pd.DataFrame | None]:
    """Return the dataset of a study; on a mock sky, its truth too.

    Parameters
    ----------
    recipe : Recipe
    work : path
        Folder for what has to be made: ``sky`` (mock files), ``sky.cube``, ``dataset``.
    source : path, optional
        A dataset, a cube or survey files; without it the recipe's mock sky is written to ``work/sky``.
    labels : path, optional
        Table of labels; by default the SFR tables found among the survey files.
    progress : callable, optional
        ``(done, total, what)``.

    Returns
    -------
    dataset : Dataset
        With a frozen split.
    truth : DataFrame or None
        The truth table, where `source` is a mock sky.

    Raises
    ------
    StoreError
        If `source` does not exist, or holds neither labels nor a dataset.
    """
    if source is None:
        source = work / "sky"
        mock = recipe.mock
        write_mock(source, fields=mock.fields, objects=mock.objects, seed=mock.seed, progress=progress)
    if not source.exists():
        raise StoreError(
            "does not exist", path=source, remedy="give a dataset, a cube or a folder of survey files"
        )
    if labels is None and not (source / "dataset.json").exists():
        labels = _find_labels(source)
    split = recipe.split
    dataset = open_source(
        source,
        work,
        labels=labels,
        label=recipe.task.label,
        zooms=_zooms(recipe),
        flag_zero=recipe.funnel.flag_zero,
        complete_spectra=recipe.funnel.complete_spectra,
        single_objects=recipe.funnel.single_objects,
        label_unit=recipe.task.unit,
        fractions=(split.train, split.valid, split.test),
        folds=split.folds,
        seed=split.seed,
        progress=progress,
    )
    truth = source / "truth.parquet"
    return dataset, pd.read_parquet(truth) if truth.exists() else None


def _find_labels(source: Path) -> Path:
    found = sorted(source.rglob("gal_totsfr*.fit*")) if source.is_dir() else []
    if not found:
        raise StoreError(
            "holds no table of labels (gal_totsfr_dr7_v5_2.fits)",
            path=source,
            remedy="give one with --labels",
        )
    return found[0]


def _zooms(recipe: Recipe) -> dict[str, list[int]]:
    """Return every zoom that a part of the recipe reads."""
    zooms: dict[str, list[int]] = {}
    for modality in recipe.modalities:
        wanted = {recipe.reference[modality]}
        wanted.update(recipe.zooms.get(modality, ()))
        wanted.update(recipe.embeddings.zooms.get(modality, ()))
        zooms[modality] = sorted(wanted)
    return zooms
