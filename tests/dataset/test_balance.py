from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.dataset.balance import balance, class_weights
from skyfuse.errors import DataError, UsageError


def training_part() -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [60, 20, 4])
    centre = np.array([0.0, 50.0, 0.0, -50.0])[y]
    table = rng.normal(centre[:, None], [1, 1000, 1], (84, 3)).astype(np.float32)
    image = rng.normal(centre[:, None, None, None], 1, (84, 2, 3, 3)).astype(np.float32)
    table[2, 0], image[70, 1, 2, 2] = np.nan, np.nan
    order = rng.permutation(84)
    return {"image": image[order], "table": table[order]}, y[order]


def test_weights_make_classes_weigh_the_same() -> None:
    y = np.array([0, 0, 0, 1, 3, 3])
    weight = class_weights(y, 5)
    assert weight.tolist() == pytest.approx([2 / 3] * 3 + [2.0] + [1.0] * 2)
    assert weight.mean() == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
def test_down_to_the_rarest(classes: list[int], seed: int) -> None:
    y = np.array(classes)
    x = {"table": np.arange(len(y), dtype=np.float32)[:, None]}
    balanced, label = balance(x, y, "rarest", seed)
    rows = balanced["table"][:, 0].astype(int)
    assert np.array_equal(y[rows], label)
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(label)
    assert set(counts[counts > 0]) == {min(classes.count(c) for c in set(classes))}
    assert set(label) == set(classes)


def test_smote_adds_objects_between_neighbours_of_a_class() -> None:
    x, y = training_part()
    grown, label = balance(x, y, "smote", 3)
    assert np.bincount(label).tolist() == [60, 60, 0, 60]
    assert np.array_equal(label[: len(y)], y)
    for name, values in grown.items():
        assert np.array_equal(values[: len(y)], x[name], equal_nan=True)
        assert values.dtype == np.float32
        assert values.shape == (180, *x[name].shape[1:])
        assert np.isfinite(values[len(y) :]).all()
    # Each new object lies on a line between two of its class: in every feature within their range.
    for c in (1, 3):
        mine = x["table"][y == c]
        new = grown["table"][84:][label[84:] == c]
        assert (new >= np.nanmin(mine, axis=0) - 1e-3).all()
        assert (new <= np.nanmax(mine, axis=0) + 1e-3).all()
    rare = x["table"][y == 3].astype(float)
    for point in grown["table"][84:][label[84:] == 3].astype(float):
        apart = [
            np.linalg.norm(np.cross(b - a, point - a)) / np.linalg.norm(b - a)
            for k, a in enumerate(rare)
            for b in rare[k + 1 :]
        ]
        assert min(apart) < 1e-2
    again, _ = balance(x, y, "smote", 3)
    assert np.array_equal(again["table"], grown["table"], equal_nan=True)
    other, _ = balance(x, y, "smote", 4)
    assert not np.array_equal(other["table"], grown["table"], equal_nan=True)


def test_balanced_classes_stay_as_they_are() -> None:
    x, y = {"table": np.ones((4, 2), np.float32)}, np.array([0, 1, 0, 1])
    same, label = balance(x, y, "smote")
    assert same["table"] is x["table"]
    assert label is y


def test_what_cannot_be_balanced() -> None:
    x = {"table": np.ones((3, 2), np.float32)}
    with pytest.raises(DataError, match="class 1 has one; balance by weights"):
        balance(x, np.array([0, 0, 1]), "smote")
    with pytest.raises(UsageError, match="'more' is no way to balance"):
        balance(x, np.array([0, 0, 1]), "more")  # what a recipe may hold
