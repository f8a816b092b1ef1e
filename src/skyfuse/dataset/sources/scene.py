"""Scenes: colour images, each with a row of a table of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from skyfuse.dataset import select
from skyfuse.dataset.content import Draft
from skyfuse.dataset.ledger import Ledger
from skyfuse.dataset.sources.arrays import draft_of_arrays
from skyfuse.dataset.sources.files import digests
from skyfuse.dataset.sources.images import (
    ImageSource,
    Shown,
    add_damaged,
    image_names,
    material_of_images,
)
from skyfuse.dataset.sources.protocol import Labels, Naming, Records
from skyfuse.dataset.wanted import Wanted
from skyfuse.errors import UsageError, shown
from skyfuse.survey.scene import read_scene
from skyfuse.words import Progress

_SMALL = 8


class SceneSource:
    """See `skyfuse.dataset.sources.protocol.Source`."""

    name: ClassVar[str] = "scene"
    named: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def draft(
        self, paths: Sequence[Path], work: Path, wanted: Wanted, labels: Labels, progress: Progress | None
    ) -> Draft:
        """Read one folder of scenes, whose table holds the labels."""
        shown_as = Shown.of(self.name, wanted)
        if len(paths) != 1:
            raise UsageError(f"{len(paths)} scene folders were given", remedy="give one")
        scene = read_scene(paths[0], shown_as.size)
        funnel = select.Funnel()
        funnel.add("images", len(scene.images) + len(scene.images.damaged))
        funnel.add("that can be read", len(scene.images))
        funnel.add("with features", len(scene.table))
        provenance = {"reader": self.name, "files": digests(sorted(paths[0].rglob("*.csv")))}
        return draft_of_arrays(
            material_of_images(scene.table, scene.images, shown_as, provenance, funnel), wanted
        )

    def records(
        self, path: Path, work: Path, wanted: Wanted, naming: Naming, progress: Progress | None
    ) -> Records:
        """Return every image, and every row of features that belongs to none."""
        if all(one.kind != "table" for one in wanted.named().values()):
            # A model of scenes that hears nothing needs no table.
            return ImageSource().records(path, work, wanted, naming, progress)
        ledger = Ledger()
        if wanted.image_size is None:
            # A model that looks at no picture; the pictures are the records all the same.
            wanted = replace(wanted, image_size=_SMALL)
        shown_as = Shown.of(self.name, wanted)
        scene = read_scene(path, shown_as.size, labels=False)
        row = np.full(len(scene.images), -1, dtype=np.int64)
        row[scene.table["image"]] = np.arange(len(scene.table))
        ledger.add(
            image_names(scene.images.paths, path), row, "no-features", "no row of the table is its own"
        )
        add_damaged(ledger, scene.images, path, (*scene.images.paths, scene.features))
        lonely = np.setdiff1d(np.arange(scene.rows), scene.row)
        names = pd.DataFrame({"file": shown(scene.features.name), "row": lonely})
        ledger.add(names, np.full(len(lonely), -1, dtype=np.int64), "no-image", "no image is its own")
        provenance = {"reader": self.name, "files": {}}
        material = material_of_images(scene.table, scene.images, shown_as, provenance, select.Funnel())
        return Records(draft_of_arrays(material, wanted), lambda _: ledger)
