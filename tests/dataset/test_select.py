from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyfuse.dataset.select import (
    Funnel,
    class_names,
    expand_columns,
    find_column,
    label_steps,
    numbers,
)
from skyfuse.errors import DataError


def test_unknown_column_names_its_neighbours() -> None:
    table = pd.DataFrame({"AVG": [1], "FLAG": [0], "MEDIAN": [1]})
    assert find_column(table, "avg") == "AVG"
    with pytest.raises(DataError, match=r"no column 'AVGE'.*nearest columns: AVG"):
        find_column(table, "AVGE")


def test_label_steps_of_the_star_formation_study() -> None:
    values = pd.Series([1.0, np.nan, -99.0, 0.5], name="AVG")
    steps = label_steps(values, pd.Series([0, 0, 0, 1], name="FLAG"))
    assert [name for name, _ in steps] == ["AVG defined", "AVG ≠ -99", "FLAG = 0"]
    assert [passes.tolist() for _, passes in steps] == [
        [True, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]
    assert len(label_steps(pd.Series(["STAR", None], name="class"), None)) == 1


def test_funnel_counts_losses_against_the_last_step_applied() -> None:
    funnel = Funnel()
    funnel.add("catalogue rows", 1000)
    funnel.add("no NaN in the spectrum", 200, applied=False)
    funnel.add("used", 900)
    assert funnel.to_frame()["lost"].tolist() == [0, 800, 100]
    assert "(no NaN in the spectrum: would leave)" in str(funnel)
    assert str(funnel).splitlines()[0].split()[-1] == "1,000"
    assert Funnel.from_json(funnel.to_json()).steps == funnel.steps


def test_first_class_that_matches_wins() -> None:
    text = pd.Series([" STARFORMING BROADLINE", "STARFORMING", "AGN", "", None, "starforming"])
    classes = {"broadline": [".*BROADLINE"], "starforming": ["STARFORMING.*"], "none": [""]}
    found = class_names(text, classes)
    assert found.tolist() == ["broadline", "starforming", None, "none", "none", None]
    numbers_as_text = class_names(pd.Series([0, 1, 1]), {"elliptical": ["0"], "clockwise": ["1"]})
    assert numbers_as_text.tolist() == ["elliptical", "clockwise", "clockwise"]


def test_steps_of_cleaned_labels() -> None:
    label = pd.Series(["G2 ", "??", None], name="subclass")
    ((name, passes),) = label_steps(label, None, {"G": ["G.*"], "K": ["K.*"]})
    assert name == "subclass is one of G, K"
    assert passes.tolist() == [True, False, False]
    # Without classes every text but an empty one is a label.
    ((name, passes),) = label_steps(pd.Series(["a", " ", None, ""], name="class"))
    assert passes.tolist() == [True, False, False, False]


def test_columns_differences_and_logarithms() -> None:
    table = pd.DataFrame(
        {"u": [1.0, 100.0], "g": [3, 4], "g-r": [7.0, 8.0], "r": [0.0, -1.0], "t": ["a", "b"]}
    )
    table["n"] = pd.array([1, None], dtype="Int64")
    assert numbers(table, "u-g").tolist() == [-2, 96]
    # A column of that name comes first.
    assert numbers(table, "g-r").tolist() == [7, 8]
    assert numbers(table, "u-g-r").tolist() == [-6, 92]
    assert numbers(table, "log10(u)").tolist() == [0, 2]
    assert np.isnan(numbers(table, "log10(r)")).all()
    assert numbers(table, "log10(u-r)").tolist() == pytest.approx([0, np.log10(101)])
    np.testing.assert_array_equal(numbers(table, "n"), [1, np.nan])
    assert expand_columns(table, ["G*", "u", "g", "u-g"]) == ["g", "g-r", "u", "u-g"]
    for name, fault in (
        ("t", "holds no numbers"),
        ("x-u", "no column 'x-u'"),
        ("T*", "no column of numbers"),
    ):
        with pytest.raises(DataError, match=fault):
            expand_columns(table, [name])


@pytest.mark.parametrize(
    "columns", [("u", "g"), ("U", "G"), ("modelMag_u", "g"), ("ModelMag_U", "MODELMAG_G")]
)
def test_differences_and_logarithms_find_their_columns_as_single_names_do(columns):
    table = pd.DataFrame(dict(zip(columns, ([20.0, 19.0], [10.0, 100.0]), strict=True)))
    assert numbers(table, "u-g").tolist() == [10.0, -81.0]
    assert numbers(table, "log10(g)").tolist() == [1.0, 2.0]
    assert expand_columns(table, ["u-g", "u"]) == ["u-g", "u"]


def test_two_columns_that_may_be_meant_are_told():
    table = pd.DataFrame({"U": [1.0], "modelMag_u": [2.0], "g": [3.0], "G": [4.0], "psfMag_r": [5.0]})
    for name in ("u", "u-g", "log10(u)"):
        with pytest.raises(DataError, match="2 columns that may be 'u': U, modelMag_u; call the right one u"):
            numbers(table, name)
    # The name itself is never in doubt; another magnitude is never taken for it.
    assert numbers(table, "g").tolist() == [3.0]
    with pytest.raises(DataError, match="no column 'r'"):
        numbers(table, "r")
