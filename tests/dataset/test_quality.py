from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skyfuse.dataset import quality


def runs_by_hand(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    found = []
    for number, row in enumerate(mask):
        place = 0
        for bad, members in groupby(row.tolist()):
            length = len(list(members))
            if bad:
                found.append((number, place, length))
            place += length
    return found


MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS)
def test_runs_equal_those_counted_by_hand(mask: NDArray[np.bool_]) -> None:
    assert list(zip(*(a.tolist() for a in quality.runs(mask)), strict=True)) == runs_by_hand(mask)


@given(MASKS)
def test_nan_study_equals_a_count_by_hand(mask: NDArray[np.bool_]) -> None:
    spectra = np.where(mask, np.nan, 1).astype(np.float32)
    study = quality.nan_study(spectra, 2)
    lengths = [length for _, _, length in runs_by_hand(mask)]
    assert study.runs == len(lengths)
    assert study.max_run == max(lengths, default=0)
    assert study.mean_run == (np.mean(lengths) if lengths else 0)
    assert study.histogram["runs"].sum() == len(lengths)
    assert study.shares["objects"].sum() == len(mask)
    assert study.with_nan == sum(row.any() for row in mask)
    np.testing.assert_allclose(study.frequency, [column.mean() for column in mask.T])


def test_nan_study_sorts_objects_and_runs_into_classes() -> None:
    spectra = np.ones((4, 200), np.float32)
    spectra[1, 10:12] = np.nan  # 1 % in one run of 2
    spectra[2, 0:60] = np.nan  # 30 % in a run of 60 at the edge
    spectra[3] = np.nan
    study = quality.nan_study(spectra, 0)
    assert dict(zip(study.shares["up_to"].round(1), study.shares["objects"], strict=True)) == {
        0.0: 1, 1.0: 1, 5.0: 0, 10.0: 0, 25.0: 0, 50.0: 1, 100.0: 1,
    }  # fmt: skip
    held = study.histogram[study.histogram["runs"] > 0]
    assert held.to_numpy().tolist() == [[2, 2, 1], [50, 99, 1], [200, 200, 1]]


def test_study_of_nothing() -> None:
    study = quality.nan_study(np.empty((0, 5), np.float32), 0)
    assert (study.objects, study.runs, study.max_run) == (0, 0, 0)


def star(image: NDArray[np.float32], y: float, x: float, flux: float) -> None:
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    image += (flux * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / 4.5)).astype(np.float32)


def scenes() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (6, 64, 64)).astype(np.float32)
    star(images[0], 32, 32, 500)
    star(images[1], 32, 32, 500)
    star(images[1], 10, 12, 510)  # as bright: both ways see two
    star(images[2], 32, 32, 500)
    star(images[2], 10, 12, 100)  # fainter: extraction alone sees it
    star(images[3], 32, 32, 500)
    images[3, :, 40:] = np.nan
    images[4] = np.nan
    images[5] = 3.0
    return images


def test_bright_components_of_known_scenes() -> None:
    assert quality.bright_components(scenes()).tolist() == [1, 2, 1, 1, 0, 0]


def test_components_touch_along_edges_and_never_across_images() -> None:
    images = np.zeros((3, 4, 4), np.float32)
    images[0, 0, 0] = images[0, 1, 1] = 1  # corners do not touch
    images[1, 0, 0] = images[1, 0, 1] = 1
    images[2, 0, 0] = images[2, 3, 3] = 1
    assert quality.bright_components(images).tolist() == [2, 1, 2]


def test_extraction_of_known_scenes_and_where_they_disagree() -> None:
    images = scenes()
    sigma = np.ones_like(images)
    sigma[4] = np.nan
    found = quality.extracted_sources(images, sigma)
    assert found[:5].tolist() == [1, 2, 2, 1, 0]

    ids = np.array(["a", "b", "c", "d", "e", "f"])
    check = quality.multi_object_check(ids, quality.bright_components(images), found)
    assert check.table.to_numpy().tolist() == [[2, 1], [0, 1]]
    assert check.extraction_only == ["c"]
    assert check.threshold_only == []
    assert check.unusable == 2


@given(st.integers(0, 50), st.integers(1, 10**9))
def test_blocks_cover_every_row_once(n: int, row_bytes: int) -> None:
    rows = [k for block in quality.blocks(n, row_bytes) for k in range(block.start, block.stop)]
    assert rows == list(range(n))
