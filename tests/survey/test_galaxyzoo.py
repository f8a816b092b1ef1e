"""Galaxy Zoo: the decision tree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import DataError
from skyfuse.survey.galaxyzoo import _ANSWERS, CLASSES, MORPHOLOGY, _decide, read_votes

TREE = {
    "Er": {"smooth": 0.8, "disk": 0.2, "round": 0.6, "between": 0.4},
    "Ee": {"smooth": 0.5, "disk": 0.4, "round": 0.3, "between": 0.4, "cigar": 0.3},
    "Ec": {"smooth": 0.9, "cigar": 1.0},
    "Ser": {"disk": 0.7, "smooth": 0.3, "edge-on": 0.8, "face-on": 0.2, "edge r": 0.5, "edge n": 0.4},
    "Seb": {"disk": 0.7, "edge-on": 0.8, "edge b": 0.5, "edge n": 0.4, "bar": 1, "bulge a": 1},
    "Sen": {"disk": 0.7, "edge-on": 0.8, "edge n": 0.4},
    "Sa": {"disk": 0.7, "face-on": 0.8, "no bar": 0.6, "bar": 0.4, "bulge a": 0.5, "bulge b": 0.4},
    "Sb": {"disk": 0.7, "face-on": 0.8, "no bar": 0.6, "bulge b": 0.5},
    "Sc": {"disk": 0.7, "face-on": 0.8, "no bar": 0.6, "bulge c": 0.5},
    "Sd": {"disk": 0.7, "face-on": 0.8, "no bar": 0.6, "bulge d": 0.5, "round": 1},
    "SBa": {"disk": 0.7, "face-on": 0.8, "bar": 0.6, "bulge a": 0.5},
    "SBb": {"disk": 0.7, "face-on": 0.8, "bar": 0.6, "bulge b": 0.5},
    "SBc": {"disk": 0.7, "face-on": 0.8, "bar": 0.6, "bulge c": 0.5},
    "SBd": {"disk": 0.7, "face-on": 0.8, "bar": 0.6, "bulge d": 0.5},
}
STAR = {"star": 0.7, "smooth": 0.3, "round": 1.0}
SILENT = {"disk": 0.7, "face-on": 1.0, "bar": 1.0}


def table(kind):
    rows = [*TREE.values(), STAR, SILENT, {}]
    content = {
        challenge if kind is None else name + kind: [row.get(answer, 0.0) for row in rows]
        for answer, (name, challenge) in _ANSWERS.items()
    }
    return pd.DataFrame({"dr7objid": np.arange(len(rows)) + 587722981733826738} | content)


@pytest.mark.parametrize("kind", ["_debiased", "_weighted_fraction", "_fraction", None])
def test_every_class_by_its_votes(tmp_path, kind):
    table(kind).to_csv(tmp_path / "votes.csv", index=False)
    votes = read_votes(tmp_path / "votes.csv")
    assert votes[MORPHOLOGY].fillna("none").tolist() == [*TREE, "none", "none", "none"]
    assert set(TREE) == set(CLASSES)
    assert votes["dr7objid"].iloc[0] == 587722981733826738


def test_debiased_fractions_come_first(tmp_path):
    plain = table("_fraction")
    plain[[name for name in plain if name != "dr7objid"]] = 0.0
    both = table("_debiased").merge(plain, on="dr7objid")
    both.to_csv(tmp_path / "votes.csv", index=False)
    assert read_votes(tmp_path / "votes.csv")[MORPHOLOGY].tolist()[:14] == list(TREE)


def test_published_classes(tmp_path):
    published = ["Er", "Ei", "Ec(o)", "SBb2m(r)", "Sc+t", "Sd?s", "Ser", "Seb(d)", "Sen", "A", ""]
    pd.DataFrame({"gz2_class": published}).to_csv(tmp_path / "gz2.csv", index=False)
    expected = ["Er", "Ee", "Ec", "SBb", "Sc", "Sd", "Ser", "Seb", "Sen", "none"]
    assert read_votes(tmp_path / "gz2.csv")[MORPHOLOGY].fillna("none").tolist()[:10] == expected


def test_a_table_without_votes_is_told(tmp_path):
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="no Galaxy Zoo 2 votes"):
        read_votes(tmp_path / "t.csv")


@given(st.lists(st.floats(0, 1), min_size=len(_ANSWERS), max_size=len(_ANSWERS)))
def test_any_votes_give_a_class_or_none(fractions):
    votes = {answer: np.array([value]) for answer, value in zip(_ANSWERS, fractions, strict=True)}
    (found,) = _decide(votes)
    assert found is None or found in CLASSES
    smooth, disk, star = fractions[:3]
    if found is not None:
        assert max(smooth, disk, star) > 0
        assert found.startswith("E") == (smooth >= disk)


def test_missing_votes_are_not_taken_for_none(tmp_path):
    votes = table("_debiased")
    names = [
        votes.columns.get_loc(_ANSWERS[answer][0] + "_debiased") for answer in ("smooth", "cigar", "bulge a")
    ]
    for row, name in enumerate(names):
        votes.iloc[row, name] = np.nan
    votes.to_csv(tmp_path / "votes.csv", index=False)
    # Er lacks a vote of the first question, Ee one of its roundness, Ec one of a question that is not asked.
    assert read_votes(tmp_path / "votes.csv")[MORPHOLOGY].fillna("none").tolist()[:3] == [
        "none",
        "none",
        "Ec",
    ]
    votes.astype(object).fillna("many").to_csv(tmp_path / "votes.csv", index=False)
    with pytest.raises(DataError, match="row 1 of 17 has 'many'"):
        read_votes(tmp_path / "votes.csv")
