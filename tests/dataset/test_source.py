"""Survey files, a cube and a dataset all lead to the same dataset."""

from __future__ import annotations

import numpy as np
import pytest

from skyfuse.cube.build import build
from skyfuse.dataset.source import open_source
from skyfuse.errors import StoreError

ZOOMS = {"image": [4], "spectrum": [4]}


def test_every_kind_of_source_gives_the_same_arrays(small_sky, tmp_path):
    labels = small_sky / "sfr" / "gal_totsfr_dr7_v5_2.fits"
    from_files = open_source(small_sky, tmp_path / "a", labels=labels, zooms=ZOOMS, seed=None)
    build([small_sky], tmp_path / "my.cube", workers=1)
    from_cube = open_source(tmp_path / "my.cube", tmp_path / "b", labels=labels, zooms=ZOOMS, seed=None)
    from_dataset = open_source(from_cube.path, tmp_path / "c", zooms=ZOOMS)
    assert len(from_files) > 20
    for other in (from_cube, from_dataset):
        assert list(other.table["object_id"]) == list(from_files.table["object_id"])
        for modality in ZOOMS:
            for mine, theirs in zip(from_files.array(modality, 4), other.array(modality, 4), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert not (tmp_path / "c").exists()


def test_a_second_call_uses_what_is_there(small_sky, tmp_path):
    first = open_source(small_sky, tmp_path / "w", zooms=ZOOMS)
    stamp = (first.path / "arrays.h5").stat().st_mtime_ns
    again = open_source(small_sky, tmp_path / "w", zooms=ZOOMS)
    assert (again.path / "arrays.h5").stat().st_mtime_ns == stamp


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="does not exist; give a dataset, a cube or a folder"):
        open_source(tmp_path / "no", tmp_path, zooms=ZOOMS)
