from __future__ import annotations

from typing import Any

import numpy as np
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


def test_spectra_alone_pair_within_one_fibre() -> None:
    ra = np.array([0.0, 2.9, 6.1]) * ARCSEC
    assert groups.overlapping_pairs(ra, np.zeros(3), 0).tolist() == [[0, 1]]


def test_cut_gives_up_no_more_than_it_must() -> None:
    # A chain of 40 objects, each overlapping only the next: pieces of 4 need gaps of one object between them.
    n = 40
    ra, dec = 5 + np.arange(n) * 30 * ARCSEC, np.zeros(n)
    group = groups.sky_groups([f"J{k:03d}" for k in range(n)], ra, dec)
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
@given(
    places=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=25),
    keys=st.lists(st.integers(0, 20), min_size=25, max_size=25),
    use=st.sampled_from(["both", "sky", "keys"]),
)
def test_equal_rows_share_a_group_and_no_others_do(
    places: list[tuple[int, bool]], keys: list[int], use: str
) -> None:
    n = len(places)
    # Places are 5″ apart, a row's own is known or not.
    ra = np.array([place * 5 * ARCSEC if known else np.nan for place, known in places], dtype=float)
    by_sky, by_key = use != "keys", use != "sky"
    found = groups.equal_groups(
        n, ra if by_sky else None, np.zeros(n) if by_sky else None, keys[:n] if by_key else None
    )
    expected = list(range(n))
    for _ in range(n):
        for i in range(n):
            for j in range(n):
                near = by_sky and np.isfinite(ra[i]) and ra[i] == ra[j]
                if near or (by_key and keys[i] == keys[j]):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert [[a == b for b in found] for a in found] == [[a == b for b in expected] for a in expected]
