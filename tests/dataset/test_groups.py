from __future__ import annotations

from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.dataset import groups

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
    along, across = (c * dx + s * dy) / groups.PIXEL_ARCSEC, (c * dy - s * dx) / groups.PIXEL_ARCSEC
    x, y = int(np.rint(along)), int(np.rint(across))
    first = {(i, j) for i in range(size) for j in range(size)}
    return bool(first & {(i + x, j + y) for i in range(size) for j in range(size)})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(-180, 180), turned=st.booleans())
def test_objects_whose_pixels_overlap_are_always_a_pair(seed: int, angle: float, turned: bool) -> None:
    size = 8
    _, ra, dec, _ = field(seed, 12, 25, 25)
    pairs = groups.overlapping_pairs(ra, dec, size, np.full(12, angle) if turned else None)
    found = {tuple(sorted(pair)) for pair in pairs.tolist()}
    for i in range(12):
        for j in range(i + 1, 12):
            if squares_overlap(ra[i], dec[i], ra[j], dec[j], angle, size):
                assert (i, j) in found


def test_known_orientation_parts_what_the_circle_joins() -> None:
    step = 70 * groups.PIXEL_ARCSEC * ARCSEC
    ra, dec = np.array([10.0, 10.0 + step]), np.zeros(2)
    assert len(groups.overlapping_pairs(ra, dec, 64)) == 1
    assert len(groups.overlapping_pairs(ra, dec, 64, np.zeros(2))) == 0
    # Along the diagonal of squares turned by 45 degrees, 70 pixels are less than their reach of 66·√2.
    assert len(groups.overlapping_pairs(ra, dec, 64, np.full(2, 45.0))) == 1
    assert len(groups.overlapping_pairs(ra, dec, 64, np.array([0.0, 45.0]))) == 1
    assert len(groups.overlapping_pairs(ra, dec, 64, np.array([0.0, np.nan]))) == 1
    assert len(groups.overlapping_pairs(ra, dec, 64, np.full(2, np.nan))) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), each=st.booleans(), dec=st.floats(-85, 85))
def test_neighbours_are_those_of_every_pair(seed: int, each: bool, dec: float) -> None:
    rng = np.random.default_rng(seed)
    n = 40
    ra = (rng.uniform(-90, 90, n) * ARCSEC / np.cos(np.radians(dec))) % 360
    up = dec + rng.uniform(-90, 90, n) * ARCSEC
    reach = rng.choice([3.0, 30.0, 60.0], n) if each else np.full(n, 30.0)
    found = groups.near_pairs(ra, up, reach)
    assert found is not None
    place = SkyCoord(ra, up, unit="deg")
    apart = place[:, None].separation(place[None, :]).arcsec
    wanted = {(i, j) for i in range(n) for j in range(i) if apart[i, j] <= (reach[i] + reach[j]) / 2}
    assert {tuple(sorted(pair, reverse=True)) for pair in found.tolist()} == wanted


def test_neighbours_up_to_half_a_minute_stay_together() -> None:
    # Pairs 3 to 33″ apart, the pairs far from each other.
    apart = np.arange(3, 34, 3.0)
    n = len(apart)
    ra = np.concatenate([np.arange(n), np.arange(n)]) * 1.0
    dec = np.concatenate([np.zeros(n), apart * ARCSEC])
    group, crowded = groups.sky_groups(np.arange(2 * n), ra, dec, size=0, apart=groups.NEIGHBOUR_ARCSEC)
    assert not crowded
    assert (group[:n] == group[n:]).tolist() == (apart <= 30).tolist()
    # Cutouts that share no pixel hold neighbours in fibres all the same.
    group, _ = groups.sky_groups(np.arange(2 * n), ra, dec, size=8, angle=np.zeros(2 * n), apart=30.0)
    assert (group[:n] == group[n:]).tolist() == (apart <= 30).tolist()


def test_a_crowded_sky_is_told_by_what_would_be_cut() -> None:
    ids, ra, dec, _ = field(1, 600, 400, 400)
    group, crowded = groups.sky_groups(ids, ra, dec, size=0, apart=30.0)
    assert crowded
    near = groups.near_pairs(ra, dec, groups.CROWDED_ARCSEC)
    assert near is not None
    kept = near[(group[near] >= 0).all(axis=1)]
    assert (group[kept[:, 0]] == group[kept[:, 1]]).all()
    assert (group >= 0).mean() > 0.99
    # One cluster in a field of many single objects is cut, and its members stay together but for the cut.
    far = np.arange(2000)
    ra, dec = np.concatenate([ra, 40 + far % 50 / 1.0]), np.concatenate([dec, -40 + far // 50 / 1.0])
    group, crowded = groups.sky_groups(np.arange(2600), ra, dec, size=0, apart=30.0)
    assert not crowded
    near = groups.near_pairs(ra, dec, 30.0)
    assert near is not None
    kept = near[(group[near] >= 0).all(axis=1)]
    assert (group[kept[:, 0]] == group[kept[:, 1]]).all()
    assert np.bincount(group[group >= 0]).max() <= 260


def test_cut_gives_up_no_more_than_it_must() -> None:
    # A chain of 40 objects, each overlapping only the next: pieces of 4 need gaps of one object between them.
    n = 40
    ra, dec = 5 + np.arange(n) * 30 * ARCSEC, np.zeros(n)
    group = groups.sky_groups([f"J{k:03d}" for k in range(n)], ra, dec)[0]
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
    cover = set(groups._vertex_cover(left, right, 8).tolist())
    assert all(a in cover or b in cover for a, b in zip(left.tolist(), right.tolist(), strict=True))
    assert len(cover) == covered_by_brute_force(sorted(edges), 4)


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(st.tuples(st.integers(-1, 12), st.integers(-1, 20)), max_size=25))
def test_equal_rows_share_a_group_and_no_others_do(keys: list[tuple[int, int]]) -> None:
    n = len(keys)
    found = groups.equal_groups(n, *np.array(keys, dtype=np.int64).reshape(n, 2).T)
    expected = list(range(n))
    for _ in range(n):
        for i in range(n):
            for j in range(n):
                if any(a == b >= 0 for a, b in zip(keys[i], keys[j], strict=True)):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert [[a == b for b in found] for a in found] == [[a == b for b in expected] for a in expected]
