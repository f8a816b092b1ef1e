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
    match_labels,
    numbers,
)
from skyfuse.errors import DataError

OBJECTS = pd.DataFrame(
    {
        "object_id": ["A", "B", "C"],
        "spectrum_id": ["a2", "b1", "c1"],
        "ra": [10.0, 10.01, 20.0],
        "dec": [0.0, 0.0, -5.0],
    }
)
SPECTRA = pd.DataFrame(
    {
        "spectrum_id": ["a1", "a2", "b1", "c1"],
        "object_id": ["A", "A", "B", "C"],
        "plate": [1, 2, 1, 3],
        "mjd": [51, 52, 51, 53],
        "fiberid": [7, 8, 9, 7],
    }
)


def test_labels_match_any_epoch_and_the_best_one_serves() -> None:
    labels = pd.DataFrame(
        {
            "PLATEID": [1, 2, 3, 9],
            "MJD": [51.0, 52.0, 53.0, 51.0],
            "Fiber": [7, 8, 7, 7],
            "AVG": [0.0, 1.0, 2.0, 3.0],
        }
    )
    match = match_labels(labels, OBJECTS, SPECTRA)
    assert match.label_row.tolist() == [1, -1, 2]
    assert (match.matched, match.unmatched) == (3, 1)
    # The worse epoch's label serves where the best has none.
    assert match_labels(labels.drop(index=1), OBJECTS, SPECTRA).label_row.tolist() == [0, -1, 1]


def test_unreadable_keys_match_nothing() -> None:
    labels = pd.DataFrame({"plate": ["1", "x"], "mjd": [51, 51], "fiberid": [9, np.nan]})
    match = match_labels(labels, OBJECTS, SPECTRA)
    assert match.label_row.tolist() == [-1, 0, -1]
    assert match.unmatched == 1


def test_positions_match_nearest_first_and_once() -> None:
    arcsec = 1 / 3600
    labels = pd.DataFrame(
        {
            "RA": [10.0 + 0.8 * arcsec, 10.0 + 0.3 * arcsec, 20.0 + 2 * arcsec, np.nan],
            "Dec": [0.0, 0.0, -5.0, 0.0],
        }
    )
    match = match_labels(labels, OBJECTS, SPECTRA)
    assert match.label_row.tolist() == [1, -1, -1]
    assert (match.matched, match.unmatched) == (1, 3)


def test_match_across_zero_right_ascension() -> None:
    objects = OBJECTS.assign(ra=[359.99995, 90.0, 180.0], dec=[0.0, 0.0, 0.0])
    labels = pd.DataFrame({"ra": [0.00005], "dec": [0.0]})
    assert match_labels(labels, objects, SPECTRA).label_row.tolist() == [0, -1, -1]


def test_labels_missing_for_all_says_what_was_compared() -> None:
    labels = pd.DataFrame({"plate": [77], "mjd": [55], "fiberid": [5]})
    with pytest.raises(
        DataError, match=r"all 3 objects: compared plate, mjd, fiberid; the table has e.g. 77-55-5, the"
    ):
        match_labels(labels, OBJECTS, SPECTRA)
    with pytest.raises(DataError, match=r"compared ra, dec .* the cube e.g. 10-0"):
        match_labels(pd.DataFrame({"ra": [77.0], "dec": [5.0]}), OBJECTS, SPECTRA)
    with pytest.raises(DataError, match="neither plate, mjd, fiberid nor ra, dec"):
        match_labels(pd.DataFrame({"name": ["x"]}), OBJECTS, SPECTRA)


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
