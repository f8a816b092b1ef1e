from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyfuse.dataset.labels import match_identifiers, match_labels
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


def test_rows_that_repeat_or_contradict_each_other_are_counted() -> None:
    labels = pd.DataFrame(
        {
            "plate": ["2", "2", "1", " 1", "3", None, "77"],
            "mjd": [52, 52.0, 51, 51, 53, 51, 55],
            "fiberid": ["8", "0008", "9", "9.0", "7", "9", "5"],
            "AVG": [np.nan, 1.0, 2.0, 3.0, 4.0, 2.0, 5.0],
        }
    )
    match = match_labels(labels, OBJECTS, SPECTRA, "AVG")
    # Of two rows the one that has a label serves; of two that contradict each other none does.
    assert match.label_row.tolist() == [1, -1, 4]
    assert match.counts() == {
        "by": "plate, mjd, fiberid",
        "matched": 5,
        "unmatched": 2,
        "unnamed": 1,
        "repeated": 1,
        "disputed": 2,
    }
    told = "1 without a name, 1 repeated, 2 left out since they contradict each other"
    assert match.remark() == f" (of 7 rows {told})"


def test_positions_that_contradict_each_other_serve_nothing() -> None:
    labels = pd.DataFrame(
        {"ra": ["10", "10.0", "20", "--"], "dec": [0, 0, -5, 0], "AVG": [1.0, 2.0, 3.0, 4.0]}
    )
    match = match_labels(labels, OBJECTS, SPECTRA, "AVG")
    assert match.label_row.tolist() == [-1, -1, 2]
    assert (match.unnamed, match.repeated, match.disputed) == (1, 0, 2)


def test_spectra_are_named_by_spec_obj_id_beyond_63_bits() -> None:
    plates = np.array([266, 9000, 15000])
    spectra = SPECTRA.iloc[:3].assign(plate=plates, mjd=[51630, 58000, 59999], fiberid=[3, 1000, 640])
    # Digit by digit, in Python's own integers.
    ids = [
        (int(p) << 50) + (f << 38) + ((m - 50000) << 24) + (26 << 10)
        for p, m, f in zip(plates, (51630, 58000, 59999), (3, 1000, 640), strict=True)
    ]
    assert max(ids) > 2**63
    labels = pd.DataFrame({"specObjID": [str(ids[2]), "", str(ids[1])], "AVG": [2.0, 9.0, 1.0]})
    match = match_labels(labels, OBJECTS, spectra, "AVG")
    assert match.label_row.tolist() == [2, 0, -1]
    assert match.unnamed == 1


def test_a_name_as_a_rounded_float_is_refused() -> None:
    own = pd.Series([4658615927801509760])
    theirs = pd.Series([4658615927801509760.0, np.nan], name="source_id")
    with pytest.raises(DataError, match="'source_id' holds identifiers as floats"):
        match_identifiers(own, theirs)


def test_names_of_which_none_meets_are_shown() -> None:
    theirs = pd.Series([None, "Gaia DR2 7"], name="source_id")
    with pytest.raises(DataError, match=r"none of the 2 labels.*source_id is e.g. Gaia DR2 7 there.*e.g. 7"):
        match_identifiers(pd.Series([7, 8]), theirs)
