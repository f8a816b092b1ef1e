from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyfuse.dataset import groups
from skyfuse.dataset import split as splitting
from skyfuse.dataset.split import SplitPlan
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError
from skyfuse.words import PARTS

ARCSEC = 1 / 3600


def part_of(n: int, parts: Any) -> NDArray[np.int64]:
    """Number of the part of each row, −1 for none; no row stands in two."""
    found = np.full(n, -1)
    for number, rows in enumerate(parts):
        assert (found[rows] == -1).all()
        assert np.array_equal(rows, np.unique(rows))
        found[rows] = number
    return found


def field(seed: int, n: int, width: float, height: float) -> tuple[Any, ...]:
    """Objects scattered over a field of so many arcsec, with a label."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"J{k:05d}" for k in rng.permutation(n)])
    return ids, 30 + rng.uniform(0, width, n) * ARCSEC, rng.uniform(0, height, n) * ARCSEC, rng.normal(size=n)


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
    group = groups.sky_groups(ids, ra, dec, angle=angle)[0]
    split = splitting.make_split(ids, group, label, SplitPlan(seed=3), label_name="AVG")

    part, fold = part_of(n, split.rounds[0].parts()), part_of(n, split.folds)
    assert np.array_equal(fold >= 0, part == 0)
    assert np.array_equal(np.flatnonzero(part < 0), split.dropped)

    i, j = groups.overlapping_pairs(ra, dec, 64, angle).T
    both = (part[i] >= 0) & (part[j] >= 0)
    assert np.array_equal(part[i][both], part[j][both])
    assert np.array_equal(fold[i][both], fold[j][both])
    assert np.bincount(group[group >= 0]).max() <= 0.1 * n

    kept = n - len(split.dropped)
    for number, fraction in enumerate((0.6, 0.1, 0.1, 0.2)):
        assert abs(np.count_nonzero(part == number) - fraction * kept) <= 0.05 * n

    order = np.random.default_rng(seed).permutation(n)
    again = splitting.make_split(
        ids[order],
        groups.sky_groups(ids[order], ra[order], dec[order], angle=angle)[0],
        label[order],
        SplitPlan(seed=3),
    )
    assert again.digest(ids[order]) == split.digest(ids)


def test_another_seed_gives_another_split() -> None:
    # On a wide field: where a few large groups fill it, two seeds may well agree.
    ids, ra, dec, label = field(1, 300, 200000, 200000)
    group = groups.sky_groups(ids, ra, dec)[0]
    digests = {splitting.make_split(ids, group, label, SplitPlan(seed=seed)).digest(ids) for seed in range(5)}
    assert len(digests) == 5


def test_each_stratum_is_shared_out_alike() -> None:
    ids, ra, dec, _ = field(1, 1000, 200000, 200000)
    label = np.array(["GALAXY"] * 700 + ["QSO"] * 250 + ["STAR"] * 50)
    split = splitting.make_split(ids, groups.sky_groups(ids, ra, dec)[0], label)
    for rows, counts in zip(
        split.rounds[0].parts(), ((420, 150, 30), (70, 25, 5), (70, 25, 5), (140, 50, 10)), strict=True
    ):
        found = [np.count_nonzero(label[rows] == kind) for kind in ("GALAXY", "QSO", "STAR")]
        np.testing.assert_allclose(found, counts, atol=3)
    for rows in split.folds:
        assert abs(np.count_nonzero(label[rows] == "GALAXY") - 84) <= 3


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


def frozen(rounds: int = 1) -> tuple[NDArray[np.str_], dict[str, Any]]:
    ids, ra, dec, label = field(0, 60, 100000, 100000)
    plan = SplitPlan(rounds=rounds)
    return ids, splitting.make_split(ids, groups.sky_groups(ids, ra, dec)[0], label, plan).to_json(ids)


@pytest.mark.parametrize("rounds", [1, 3])
def test_frozen_split_comes_back(rounds: int) -> None:
    ids, stored = frozen(rounds)
    assert len(stored["rounds"]) == rounds
    again = json.loads(json.dumps(stored))
    assert splitting.Split.from_json("default", again, ids).to_json(ids) == stored


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_changed_place_is_found(data: st.DataObject) -> None:
    ids, stored = frozen(3)
    text = data.draw(st.sampled_from(["folds", 0, 1, 2]))
    row = data.draw(st.integers(0, 59))
    whole = stored["folds"] if text == "folds" else stored["rounds"][text]
    letter = data.draw(st.sampled_from(sorted({"-", "0", "1", "2", "3"} - {whole[row]})))
    changed = whole[:row] + letter + whole[row + 1 :]
    if text == "folds":
        moved = stored | {"folds": changed}
    else:
        moved = stored | {"rounds": [changed if k == text else r for k, r in enumerate(stored["rounds"])]}
    with pytest.raises(StoreError, match="its hash differs"):
        splitting.Split.from_json("default", moved, ids)


def test_split_of_another_table_is_refused() -> None:
    ids, stored = frozen()
    with pytest.raises(StoreError, match="its hash differs"):
        splitting.Split.from_json("default", stored, ids[::-1])
    with pytest.raises(StoreError, match="not one of 4 places for each of 59 rows"):
        splitting.Split.from_json("default", stored, ids[1:])
    with pytest.raises(StoreError, match="malformed"):
        splitting.Split.from_json("default", stored | {"rounds": ["4" * 60]}, ids)
    with pytest.raises(StoreError, match="malformed"):
        splitting.Split.from_json("default", stored | {"rounds": []}, ids)


@pytest.mark.parametrize("entry", [None, [], {}, {"rounds": 3}, {"recipe": {}, "sha256": "", "rounds": "é"}])
def test_malformed_split_is_refused(entry: Any) -> None:
    with pytest.raises(StoreError, match="malformed"):
        splitting.Split.from_json("default", entry, ["a"])


def scattered(seed: int, n: int = 150) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.str_]]:
    """Ids, groups of one to three rows, and a label of three classes."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"J{k:04d}" for k in rng.permutation(n)])
    return ids, rng.integers(0, n // 2, n), rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rounds=st.integers(2, 6), always=st.booleans())
def test_rounds_test_every_object_once(seed: int, rounds: int, always: bool) -> None:
    ids, group, label = scattered(seed)
    n = len(ids)
    values = np.where(np.arange(n) % 4 == 0, "mock", "sdss")
    # Every other group is of one survey alone, so that both kinds occur.
    values = np.where(group % 2 == 0, np.array(["mock", "sdss"])[group // 2 % 2], values)
    plan = SplitPlan(rounds=rounds, seed=seed % 7, folds=3)
    if always:
        plan = replace(plan, column="survey", train=("mock",))
    split = splitting.make_split(ids, group, label, plan, values=values)

    dropped = np.zeros(n, dtype=bool)
    dropped[split.dropped] = True
    mock = (values == "mock") & always
    mixed = np.isin(group, group[mock]) & np.isin(group, group[~mock])
    assert np.array_equal(dropped, mock & mixed)
    assert len(split.rounds) == rounds
    tested = np.concatenate([turn.test for turn in split.rounds])
    assert np.array_equal(np.sort(tested), np.flatnonzero(~mock & ~dropped))
    for turn in split.rounds:
        part = part_of(n, turn.parts())
        assert np.array_equal(part < 0, dropped)
        assert (part[mock & ~dropped] == 0).all()
        for number in np.unique(group):
            assert len(set(part[(group == number) & ~dropped])) <= 1
    fold = part_of(n, split.folds)
    assert np.array_equal(np.flatnonzero(fold >= 0), split.rounds[0].train)
    order = np.random.default_rng(seed).permutation(n)
    again = splitting.make_split(ids[order], group[order], label[order], plan, values=values[order])
    assert again.digest(ids[order]) == split.digest(ids)


def test_rounds_are_stratified_and_of_equal_size() -> None:
    rng = np.random.default_rng(0)
    label = rng.permutation(["a"] * 300 + ["b"] * 90 + ["c"] * 10)
    ids = [f"{k:03d}" for k in range(400)]
    split = splitting.make_split(ids, np.arange(400), label, SplitPlan(rounds=5))
    for turn in split.rounds:
        found = [[np.count_nonzero(label[rows] == kind) for kind in "abc"] for rows in turn.parts()]
        np.testing.assert_allclose(found[3], [60, 18, 2], atol=1)
        # Of the other 320, six parts of eight train.
        np.testing.assert_allclose(found[0], [180, 54, 6], atol=2)
        np.testing.assert_allclose(found[2], [30, 9, 1], atol=2)


def test_parts_fixed_by_a_column() -> None:
    values = np.array(["s.train"] * 60 + ["s.valid"] * 20 + ["s.test"] * 40)
    ids, group = [f"{k:03d}" for k in range(120)], np.arange(120)
    # A pair of equal rows that the file put into two parts: the test keeps its own.
    group[100] = group[3]
    plan = SplitPlan(column="source", train=("*train",), valid=("*valid",), test=("*test",), folds=2)
    split = splitting.make_split(ids, group, np.arange(120.0), plan, values=values)
    part = part_of(120, split.rounds[0].parts())
    assert split.dropped.tolist() == [3]
    assert (part[60:80] == 1).all()
    assert (part[80:] == 3).all()
    # Nothing names the calibration part: it comes out of the training part, 0.1 of 0.1 + 0.6.
    assert set(part[:60]) == {0, 2, -1}
    assert abs(np.count_nonzero(part[:60] == 2) - 59 / 7) < 2


def test_rows_named_nowhere_are_shared_out() -> None:
    values = np.array(["mock"] * 50 + ["sdss"] * 100 + ["lamost"] * 30)
    ids, label = [f"{k:03d}" for k in range(180)], np.arange(180.0)
    plan = SplitPlan(column="survey", train=("mock",), folds=2)
    part = part_of(
        180, splitting.make_split(ids, np.arange(180), label, plan, values=values).rounds[0].parts()
    )
    assert (part[:50] == 0).all()
    np.testing.assert_allclose(np.bincount(part[50:]), [78, 13, 13, 26], atol=1.5)
    plan = replace(plan, test=("lamost",))
    part = part_of(
        180, splitting.make_split(ids, np.arange(180), label, plan, values=values).rounds[0].parts()
    )
    assert (part[:50] == 0).all()
    assert (part[150:] == 3).all()
    np.testing.assert_allclose(np.bincount(part[50:150]), [75, 12.5, 12.5], atol=1.5)


def test_impossible_splits_are_refused() -> None:
    ids, group, label = ["a", "b", "c"], [0, 0, 0], [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match="3 objects in 1 groups"):
        splitting.make_split(ids, group, label)
    with pytest.raises(UsageError, match="more than once"):
        splitting.make_split(["a", "a", "c"], group, label)
    with pytest.raises(DataError):
        splitting.make_split([], [], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": (0.5, 0.5)}, "is impossible"),
        ({"fractions": (0.6, 0.3, 0.2, 0.2)}, "is impossible"),
        ({"fractions": (0.8, 0.0, 0.1, 0.1)}, "is impossible"),
        ({"folds": 1}, "is impossible"),
        ({"rounds": 0}, "is impossible"),
        ({"train": ("a",)}, "names values for train and no column"),
        ({"column": "c", "test": ("a",), "rounds": 3}, "cross-validation of 3 rounds makes test itself"),
        ({"column": "c", "train": ("a*",), "test": ("ab",)}, "'ab' is named for train and for test"),
        ({"column": "c", "train": ("x",)}, "'x' for train, which no row has in 'c'; its values are ab, b"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    ids, values = [f"{k:03d}" for k in range(200)], np.array(["ab", "b"] * 100)
    with pytest.raises(SkyfuseError, match=message):
        splitting.make_split(ids, np.arange(200), np.zeros(200), SplitPlan(**changes), values=values)


def test_parts_are_in_the_order_that_files_state() -> None:
    # splits.json holds numbers of parts.
    assert PARTS == ("train", "valid", "calibration", "test")
