"""What a training never saw the like of is told by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skyfuse.models.ranges import outside, ranges, summaries, without_input

numbers = st.floats(-1e6, 1e6, width=32) | st.just(np.nan)
tables = arrays(np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=numbers)


def table(*rows):
    return {"table": np.array(rows, dtype=np.float32)}


@given(train=tables)
def test_no_object_of_the_training_lies_outside(train):
    names = ("a", "b")
    assert set(outside({"table": train}, names, ranges({"table": train}, names))) == {""}


@given(train=tables, new=tables)
def test_what_lies_outside_is_below_above_or_missing(train, new):
    found = outside({"table": new}, ("a", "b"), ranges({"table": train}, ("a", "b")))
    for row, said in zip(new, found, strict=True):
        expected = []
        for k, name in enumerate("ab"):
            seen = [value for value in train[:, k] if not np.isnan(value)]
            if np.isnan(row[k]):
                strange = len(seen) == len(train)
            else:
                strange = not seen or not min(seen) <= row[k] <= max(seen)
            expected += [name] if strange else []
        assert said == ";".join(expected)


def test_gaps_are_strange_only_where_the_training_had_none():
    known = ranges(table([1, 1], [2, np.nan]), ("a", "b"))
    assert known == {
        "a": {"low": 1.0, "high": 2.0, "gaps": False},
        "b": {"low": 1.0, "high": 1.0, "gaps": True},
    }
    new = table([np.nan, np.nan], [2.5, np.inf], [2, 1])
    assert outside(new, ("a", "b"), known).tolist() == ["a", "a", ""]


def test_a_column_without_any_value_in_the_training_makes_every_value_strange():
    known = ranges(table([np.nan], [np.nan]), ("a",))
    assert known == {"a": {"low": None, "high": None, "gaps": True}}
    assert outside(table([0.0], [np.nan]), ("a",), known).tolist() == ["a", ""]


def test_images_and_spectra_are_told_by_brightness_and_share_of_valid_samples():
    image = np.arange(600 * 3 * 4, dtype=np.float32).reshape(600, 3, 2, 2)
    spectrum = np.ones((600, 5), np.float32)
    spectrum[1, :2] = np.nan
    spectrum[2] = np.nan
    x = {"image": image, "spectrum": spectrum, "spectrum_sigma": spectrum}
    found = summaries(x, ())
    assert list(found) == ["image median", "image valid", "spectrum median", "spectrum valid"]
    np.testing.assert_allclose(found["image median"], [np.median(one) for one in image])
    np.testing.assert_allclose(found["spectrum valid"][:4], [1, 0.6, 0, 1])
    assert np.isnan(found["spectrum median"][2])
    known = ranges({name: array[3:] for name, array in x.items()}, ())
    assert outside(x, (), known)[:4].tolist() == [
        "image median",
        "image median;spectrum valid",
        "image median;spectrum median;spectrum valid",
        "",
    ]
    assert without_input(x).tolist() == [False, False, True] + [False] * 597


def test_of_a_model_that_knows_no_ranges_nothing_lies_outside():
    assert outside(table([1, 2]), ("a", "b"), {}).tolist() == [""]


@pytest.mark.parametrize("value", [15.0, 19.0, np.nextafter(np.float32(19), np.float32(0))])
def test_the_ends_of_a_range_lie_inside(value):
    known = ranges(table([15], [19]), ("r",))
    assert outside(table([value], [22.0]), ("r",), known).tolist() == ["", "r"]
