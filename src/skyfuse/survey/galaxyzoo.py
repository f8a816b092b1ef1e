"""Galaxy Zoo: votes as morphological classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.errors import DataError
from skyfuse.survey.columns import floats
from skyfuse.survey.tables import read_table

CLASSES = ("Er", "Ee", "Ec", "Sa", "Sb", "Sc", "Sd", "SBa", "SBb", "SBc", "SBd", "Ser", "Seb", "Sen")
"""Smooth galaxies by roundness (round, between, cigar), spirals without and with a bar by bulge (dominant to
none), discs seen edge-on by bulge shape (round, boxy, none)."""

MORPHOLOGY = "morphology"
"""Column of the class that `read_votes` adds."""

# The answers of Galaxy Zoo 2 (Willett et al. 2013, MNRAS 435, 2835, table 2) that decide the class, in the
# order of the tree, with the name that the Galaxy Zoo challenge of 2014 gave each.
_ANSWERS = {
    "smooth": ("t01_smooth_or_features_a01_smooth", "Class1.1"),
    "disk": ("t01_smooth_or_features_a02_features_or_disk", "Class1.2"),
    "star": ("t01_smooth_or_features_a03_star_or_artifact", "Class1.3"),
    "edge-on": ("t02_edgeon_a04_yes", "Class2.1"),
    "face-on": ("t02_edgeon_a05_no", "Class2.2"),
    "bar": ("t03_bar_a06_bar", "Class3.1"),
    "no bar": ("t03_bar_a07_no_bar", "Class3.2"),
    "bulge d": ("t05_bulge_prominence_a10_no_bulge", "Class5.1"),
    "bulge c": ("t05_bulge_prominence_a11_just_noticeable", "Class5.2"),
    "bulge b": ("t05_bulge_prominence_a12_obvious", "Class5.3"),
    "bulge a": ("t05_bulge_prominence_a13_dominant", "Class5.4"),
    "round": ("t07_rounded_a16_completely_round", "Class7.1"),
    "between": ("t07_rounded_a17_in_between", "Class7.2"),
    "cigar": ("t07_rounded_a18_cigar_shaped", "Class7.3"),
    "edge r": ("t09_bulge_shape_a25_rounded", "Class9.1"),
    "edge b": ("t09_bulge_shape_a26_boxy", "Class9.2"),
    "edge n": ("t09_bulge_shape_a27_no_bulge", "Class9.3"),
}
# Fractions corrected for distance first (Willett et al. 2013, section 3), then as weighted, then as counted.
_KINDS = ("_debiased", "_weighted_fraction", "_fraction")
# gz2_class of the published table writes "between" as i, and goes on with arms and oddities, e.g. SBb2m(r).
_PUBLISHED = r"^(E[ric]|Se[rbn]|SB?[abcd])"


def read_votes(path: str | Path) -> pd.DataFrame:
    """Read a table of Galaxy Zoo 2 votes and give each galaxy its class.

    The class follows the tree of Willett et al. (2013): at each question the answer with the largest fraction
    of the votes counts, the first of the tree where two are equal. Smooth galaxies are Er, Ee or Ec by how
    round they are; discs seen edge-on Ser, Seb or Sen by the shape of their bulge; all other discs S, or SB
    with a bar, and a to d as the bulge is dominant, obvious, just noticeable or absent.

    Parameters
    ----------
    path : path
        A table (see `skyfuse.survey.tables.read_table`) with the columns ``t01_smooth_or_features_…`` to
        ``t09_bulge_shape_…``, debiased, weighted or plain fractions; or the challenge's ``Class1.1`` to
        ``Class9.3``; or with ``gz2_class`` already.

    Returns
    -------
    DataFrame
        The table with the column `MORPHOLOGY`, one of `CLASSES`; missing for a star or artefact, and where
        a question on the way has no votes.

    Raises
    ------
    FileError
        See `skyfuse.survey.tables.read_table`.
    DataError
        Columns of votes are missing.
    """
    path = Path(path)
    table = read_table(path)
    votes = _votes(table, path)
    if votes is not None:
        found = _decide(votes)
    elif "gz2_class" in table:
        letters = table["gz2_class"].astype("string").str.extract(_PUBLISHED)[0].replace("Ei", "Ee")
        found = letters.astype(object).where(letters.notna(), None).to_numpy()
    else:
        raise DataError(
            "the table has no Galaxy Zoo 2 votes",
            remedy=f"give one with {_ANSWERS['smooth'][0]}_debiased and the others, Class1.1 …, or gz2_class",
            path=path,
        )
    return pd.concat([table, pd.Series(found, table.index, name=MORPHOLOGY)], axis=1)


def _votes(table: pd.DataFrame, path: Path) -> dict[str, NDArray[np.float64]] | None:
    """Return the fraction of each answer, or None where not all columns are there."""
    for kind in (*_KINDS, None):
        names = {
            answer: challenge if kind is None else galaxy_zoo + kind
            for answer, (galaxy_zoo, challenge) in _ANSWERS.items()
        }
        if set(names.values()) <= set(table.columns):
            return {answer: floats(table[name], path) for answer, name in names.items()}
    return None


def _decide(votes: dict[str, NDArray[np.float64]]) -> NDArray[np.object_]:
    """Follow the tree for every galaxy."""

    def most(answers: Sequence[str], results: Sequence[str]) -> NDArray[np.object_]:
        """Return the result of the answer with most votes; empty where there are none, or one is missing."""
        fractions = np.stack([votes[answer] for answer in answers])
        told = np.isfinite(fractions).all(axis=0)
        chosen = np.array(list(results), object)[np.where(told, fractions, 0).argmax(axis=0)]
        return np.where(told & (fractions.max(axis=0) > 0), chosen, "")

    kind = most(("smooth", "disk", "star"), ("E", "S", ""))
    smooth = most(("round", "between", "cigar"), ("Er", "Ee", "Ec"))
    view = most(("edge-on", "face-on"), ("edge", "face"))
    edge = most(("edge r", "edge b", "edge n"), ("Ser", "Seb", "Sen"))
    bar = most(("bar", "no bar"), ("SB", "S"))
    bulge = most(("bulge d", "bulge c", "bulge b", "bulge a"), "dcba")
    face = np.where((bar != "") & (bulge != ""), bar + bulge, "")
    disc = np.select([view == "edge", view == "face"], [edge, face], "")
    found = np.select([kind == "E", kind == "S"], [smooth, disc], "").astype(object)
    found[found == ""] = None
    return found
