from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyfuse.dataset import split as splitting
from skyfuse.errors import DataError, StoreError, UsageError

ARCSEC = 1 / 3600


def field(seed: int, n: int, width: float, height: float) -> tuple[Any, ...]:
    """Objects scattered over a field of so many arcsec, with a label."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"J{k:05d}" for k in rng.permutation(n)])
    return ids, 30 + rng.uniform(0, width, n) * ARCSEC, rng.uniform(0, height, n) * ARCSEC, rng.normal(size=n)


def squares_overlap(ra: float, dec: float, ra2: float, dec2: float, angle: float, size: int) -> bool:
    """Tell by counting whether two grids of pixels, turned alike, share a place on the sky."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    dx = (ra2 - ra) * 3600 * np.cos(np.radians((dec + dec2) / 2))
    dy = (dec2 - dec) * 3600
    along, across = (c * dx + s * dy) / splitting.PIXEL_ARCSEC, (c * dy - s * dx) / splitting.PIXEL_ARCSEC
    x, y = int(np.rint(along)), int(np.rint(across))
    first = {(i, j) for i in range(size) for j in range(size)}
    return bool(first & {(i + x, j + y) for i in range(size) for j in range(size)})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(-180, 180), turned=st.booleans())
def test_objects_whose_pixels_overlap_are_always_a_pair(seed: int, angle: float, turned: bool) -> None:
    size = 8
    _, ra, dec, _ = field(seed, 12, 25, 25)
    pairs = splitting.overlapping_pairs(ra, dec, size, np.full(12, angle) if turned else None)
    found = {tuple(sorted(pair)) for pair in pairs.tolist()}
    for i in range(12):
        for j in range(i + 1, 12):
            if squares_overlap(ra[i], dec[i], ra[j], dec[j], angle, size):
                assert (i, j) in found


def test_known_orientation_parts_what_the_circle_joins() -> None:
    step = 70 * splitting.PIXEL_ARCSEC * ARCSEC
    ra, dec = np.array([10.0, 10.0 + step]), np.zeros(2)
    assert len(splitting.overlapping_pairs(ra, dec, 64)) == 1
    assert len(splitting.overlapping_pairs(ra, dec, 64, np.zeros(2))) == 0
    # Along the diagonal of squares turned by 45 degrees, 70 pixels are less than their reach of 66·√2.
    assert len(splitting.overlapping_pairs(ra, dec, 64, np.full(2, 45.0))) == 1
    assert len(splitting.overlapping_pairs(ra, dec, 64, np.array([0.0, 45.0]))) == 1
    assert len(splitting.overlapping_pairs(ra, dec, 64, np.array([0.0, np.nan]))) == 1
    assert len(splitting.overlapping_pairs(ra, dec, 64, np.full(2, np.nan))) == 1


def test_spectra_alone_pair_within_one_fibre() -> None:
    ra = np.array([0.0, 2.9, 6.1]) * ARCSEC
    assert splitting.overlapping_pairs(ra, np.zeros(3), 0).tolist() == [[0, 1]]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(120, 260),
    width=st.floats(300, 3000),
    turned=st.booleans(),
)
def test_split_holds_its_promises(seed: int, n: int, width: float, turned: bool) -> None:
    ids, ra, dec, label = field(seed, n, width, 400)
    angle = np.zeros(n) if turned else None
    group = splitting.sky_groups(ids, ra, dec, angle=angle)
    split = splitting.make_split(ids, group, label, seed=3, label_name="AVG")

    part = np.full(n, -1)
    fold = np.full(n, -1)
    for number, rows in enumerate((split.train, split.valid, split.test)):
        assert (part[rows] == -1).all()
        part[rows] = number
    for number, rows in enumerate(split.folds):
        assert (part[rows] == 0).all()
        assert (fold[rows] == -1).all()
        fold[rows] = number
    assert (fold[split.train] >= 0).all()
    assert np.array_equal(np.flatnonzero(part < 0), split.dropped)

    i, j = splitting.overlapping_pairs(ra, dec, 64, angle).T
    both = (part[i] >= 0) & (part[j] >= 0)
    assert np.array_equal(part[i][both], part[j][both])
    assert np.array_equal(fold[i][both], fold[j][both])
    assert np.bincount(group[group >= 0]).max() <= 0.1 * n

    kept = n - len(split.dropped)
    for number, fraction in enumerate((0.6, 0.2, 0.2)):
        assert abs(np.count_nonzero(part == number) - fraction * kept) <= 0.05 * n

    order = np.random.default_rng(seed).permutation(n)
    again = splitting.make_split(
        ids[order],
        splitting.sky_groups(ids[order], ra[order], dec[order], angle=angle),
        label[order],
        seed=3,
    )
    assert again.digest(ids[order]) == split.digest(ids)


def test_another_seed_gives_another_split() -> None:
    # On a wide field: where a few large groups fill it, two seeds may well agree.
    ids, ra, dec, label = field(1, 300, 200000, 200000)
    group = splitting.sky_groups(ids, ra, dec)
    digests = {splitting.make_split(ids, group, label, seed=seed).digest(ids) for seed in range(5)}
    assert len(digests) == 5


def test_each_stratum_is_shared_out_alike() -> None:
    ids, ra, dec, _ = field(1, 1000, 200000, 200000)
    label = np.array(["GALAXY"] * 700 + ["QSO"] * 250 + ["STAR"] * 50)
    split = splitting.make_split(ids, splitting.sky_groups(ids, ra, dec), label)
    for rows, counts in (
        (split.train, (420, 150, 30)),
        (split.valid, (140, 50, 10)),
        (split.test, (140, 50, 10)),
    ):
        found = [np.count_nonzero(label[rows] == kind) for kind in ("GALAXY", "QSO", "STAR")]
        np.testing.assert_allclose(found, counts, atol=3)
    for rows in split.folds:
        assert abs(np.count_nonzero(label[rows] == "GALAXY") - 84) <= 3


def test_cut_gives_up_no_more_than_it_must() -> None:
    # A chain of 40 objects, each overlapping only the next: pieces of 4 need gaps of one object between them.
    n = 40
    ra, dec = 5 + np.arange(n) * 30 * ARCSEC, np.zeros(n)
    group = splitting.sky_groups([f"J{k:03d}" for k in range(n)], ra, dec)
    sizes = np.bincount(group[group >= 0])
    assert sizes.max() <= 4
    assert 8 <= np.count_nonzero(group < 0) <= 10


def covered_by_brute_force(edges: list[tuple[int, int]], n: int) -> int:
    masks = range(1 << (2 * n))
    return min(
        bin(mask).count("1") for mask in masks if all(mask >> a & 1 or mask >> (n + b) & 1 for a, b in edges)
    )


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_vertex_cover_is_the_smallest(edges: set[tuple[int, int]]) -> None:
    pairs = np.array(sorted(edges))
    # The two sides hold different vertices, as they do in a cut.
    left, right = pairs[:, 0], pairs[:, 1] + 4
    cover = set(splitting._vertex_cover(left, right, 8).tolist())
    assert all(a in cover or b in cover for a, b in zip(left.tolist(), right.tolist(), strict=True))
    assert len(cover) == covered_by_brute_force(sorted(edges), 4)


@pytest.mark.parametrize(
    ("label", "strata"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 0, 1, 1, 1]),
        ([1.0, np.nan, 6.0, 2.0], [1, 0, 2, 2]),
        (["b", "a", "b"], [1, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        ([7.0, 7.0, 7.0], [0, 0, 0]),
    ],
)
def test_strata(label: list[Any], strata: list[int]) -> None:
    assert splitting.strata(label, 2).tolist() == strata


def frozen() -> tuple[NDArray[np.str_], dict[str, Any]]:
    ids, ra, dec, label = field(0, 60, 100000, 100000)
    return ids, splitting.make_split(ids, splitting.sky_groups(ids, ra, dec), label).to_json(ids)


def test_frozen_split_comes_back() -> None:
    ids, stored = frozen()
    assert splitting.Split.from_json("default", stored, ids).to_json(ids) == stored


def test_changed_split_is_refused() -> None:
    ids, stored = frozen()
    moved = stored | {
        "valid": [stored["test"][0], *stored["valid"][1:]],
        "test": [stored["valid"][0], *stored["test"][1:]],
    }
    with pytest.raises(StoreError, match="its hash differs"):
        splitting.Split.from_json("default", moved, ids)
    with pytest.raises(StoreError, match="does not hold each of the 60 rows once"):
        splitting.Split.from_json("default", stored | {"valid": stored["test"]}, ids)
    with pytest.raises(StoreError, match="no partition"):
        splitting.Split.from_json("default", stored | {"folds": stored["folds"][1:]}, ids)
    with pytest.raises(StoreError, match="its hash differs"):
        splitting.Split.from_json("default", stored, ids[::-1])


@pytest.mark.parametrize("entry", [None, [], {}, {"train": "x"}, {"train": [2**70]}, {"train": 1.5}])
def test_malformed_split_is_refused(entry: Any) -> None:
    with pytest.raises(StoreError, match=r"malformed|does not hold"):
        splitting.Split.from_json("default", entry, ["a"])


def test_impossible_splits_are_refused() -> None:
    ids, group, label = ["a", "b", "c"], [0, 0, 0], [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match="3 objects in 1 groups"):
        splitting.make_split(ids, group, label)
    with pytest.raises(UsageError, match="more than once"):
        splitting.make_split(["a", "a", "c"], group, label)
    for fractions in ((0.5, 0.5), (0.6, 0.3, 0.2), (1.0, 0.0, 0.0)):
        with pytest.raises(UsageError, match="impossible"):
            splitting.make_split(ids, group, label, fractions=fractions)
    with pytest.raises(DataError):
        splitting.make_split([], [], [])
