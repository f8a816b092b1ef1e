"""Splits that no group straddles: stratified on the label, fixed by a column or cross-validated, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix

from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.words import PARTS

IntArray = NDArray[np.int64]

"""Training; choice of models and end of training; calibration of intervals; final figures."""
FRACTIONS = (0.6, 0.1, 0.1, 0.2)
FOLDS = 5
STRATA = 10

_TRAIN, _TEST = 0, 3
# Rows that no value of the plan's column names: their part is drawn.
_FREE = -1
# How near the test part a row stands that is free, or fixed to part 0, 1, 2, 3: of the rows of one group, the
# nearest are kept.
_NEARNESS = np.array([1, 0, 2, 3, 4])
# One character a row and round in splits.json: the number of the part or fold, or none.
_ZERO, _NONE, _MOST_FOLDS = ord("0"), ord("-"), 50


@dataclass(frozen=True)
class SplitPlan:
    """How objects are divided.

    Attributes
    ----------
    fractions : tuple of float
        Of training, validation, calibration and test part; they add up to 1.
    folds : int
        Cross-validation folds of the training part, for tuning.
    seed : int
    rounds : int
        Above 1: the objects are divided so many times, and each of them stands in exactly one round's test
        part; the rest of a round is shared out to the other parts by their fractions.
    column : str or None
        Column of the table that fixes parts by its values.
    train, valid, calibration, test : tuple of str
        Values of the column (shell patterns) whose rows always stand in that part. Other rows are shared out
        to the training part and to the parts that name no value; if no other rows are there, those parts are
        taken out of the training part. With several rounds only `train` may name values.
    """

    fractions: tuple[float, float, float, float] = FRACTIONS
    folds: int = FOLDS
    seed: int = 0
    rounds: int = 1
    column: str | None = None
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UsageError if no data could be divided like this."""
        fractions = np.asarray(self.fractions, dtype=np.float64)
        if (
            fractions.shape != (len(PARTS),)
            or not (fractions > 0).all()
            or abs(fractions.sum() - 1) > 1e-9
            or not 2 <= self.folds <= _MOST_FOLDS
            or self.rounds < 1
        ):
            raise UsageError(
                f"a split into {list(self.fractions)} with {self.folds} folds and {self.rounds} rounds is "
                "impossible",
                remedy=f"give four positive fractions that add up to 1, 2 to {_MOST_FOLDS} folds and a round",
            )
        named = [part for part in PARTS if getattr(self, part)]
        if named and self.column is None:
            raise UsageError(
                f"the split names values for {', '.join(named)} and no column", remedy="name the column too"
            )
        crossed = [part for part in named if part != "train" and self.rounds > 1]
        if crossed:
            raise UsageError(
                f"cross-validation of {self.rounds} rounds makes {', '.join(crossed)} itself",
                remedy="name values for train alone, or make one round",
            )

    def fixed(self, values: ArrayLike) -> IntArray:
        """Return the number of the part to which each value of the column is fixed, −1 for none.

        Raises
        ------
        UsageError
            If a value belongs to two parts.
        DataError
            If no row has a value that the plan names.
        """
        distinct, inverse = np.unique(np.asarray(values).astype(str), return_inverse=True)
        part_of = np.full(len(distinct), _FREE, dtype=np.int64)
        for number, part in enumerate(PARTS):
            for pattern in getattr(self, part):
                matches = np.array([fnmatchcase(value, pattern) for value in distinct], dtype=bool)
                if not matches.any():
                    held = ", ".join(distinct[:8].tolist()) or "none"
                    raise DataError(
                        f"the split names {pattern!r} for {part}, which no row has in {self.column!r}",
                        remedy=f"its values are {held}",
                    )
                twice = matches & (part_of != _FREE) & (part_of != number)
                if twice.any():
                    raise UsageError(
                        f"{str(distinct[twice][0])!r} is named for {PARTS[part_of[twice][0]]} and for {part}",
                        remedy="name each value of the split's column once",
                    )
                part_of[matches] = number
        return part_of[inverse.reshape(-1)]


DEFAULT = SplitPlan()


@dataclass(frozen=True)
class Round:
    """One division of the objects.

    Attributes
    ----------
    train, valid, calibration, test : ndarray of int64
        Rows of the dataset's table, ascending.
    """

    train: IntArray
    valid: IntArray
    calibration: IntArray
    test: IntArray

    def parts(self) -> list[IntArray]:
        """Return the rows of each part, in the order of `PARTS`."""
        return [getattr(self, part) for part in PARTS]


@dataclass(frozen=True)
class Split:
    """Which row stands in which part.

    Attributes
    ----------
    rounds : tuple of Round
        One, or as many as there are cross-validation rounds.
    folds : tuple of ndarray of int64
        A partition of the first round's training part, for tuning.
    dropped : ndarray of int64
        Rows in no part: their pixels stand on two sides of a cut, or their group belongs to another part.
    recipe : dict
        Everything the split was made with: the plan, label, strata.
    """

    rounds: tuple[Round, ...]
    folds: tuple[IntArray, ...]
    dropped: IntArray
    recipe: dict[str, Any]

    def _letters(self, n: int) -> list[str]:
        """Return for each round, and last for the folds, the place of every row as one character."""
        return [_letters(n, rows) for rows in (*(r.parts() for r in self.rounds), self.folds)]

    def digest(self, object_ids: ArrayLike) -> str:
        """Return the sha256 over (object, part in each round, fold), whatever the order of the table's rows.

        Parameters
        ----------
        object_ids : array of str, shape (n,)
            Identifiers of the table's rows.
        """
        ids = np.asarray(object_ids, dtype=str)
        places = zip(*self._letters(len(ids)), strict=True)
        lines = sorted(f"{name}\t{''.join(place)}" for name, place in zip(ids, places, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self, object_ids: ArrayLike) -> dict[str, Any]:
        """Return what ``splits.json`` holds: for each round and for the folds one character a row.

        ``0`` to ``3`` stand for the parts in the order of `PARTS`, ``0`` and the characters after it for the
        folds, ``-`` for a row in none.
        """
        *rounds, folds = self._letters(len(np.asarray(object_ids)))
        return {"recipe": self.recipe, "rounds": rounds, "folds": folds, "sha256": self.digest(object_ids)}

    @classmethod
    def from_json(cls, name: str, data: Any, object_ids: ArrayLike) -> Split:
        """Rebuild a split and check it against its hash.

        Raises
        ------
        StoreError
            If an entry is missing or malformed, does not fit the table, or the hash differs.
        """
        remedy = "restore splits.json, or make the dataset anew"
        n = len(np.asarray(object_ids))
        try:
            recipe, expected = dict(data["recipe"]), str(data["sha256"])
            rounds = tuple(Round(*_rows(text, n, len(PARTS))) for text in data["rounds"])
            folds = tuple(_rows(data["folds"], n, int(recipe["folds"])))
            dropped = np.setdiff1d(np.arange(n), np.concatenate(rounds[0].parts()))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StoreError(f"split {name!r} is malformed ({error!r})", remedy=remedy) from error
        split = cls(rounds=rounds, folds=folds, dropped=dropped, recipe=recipe)
        if split.digest(object_ids) != expected:
            raise StoreError(
                f"split {name!r} was changed since it was frozen (its hash differs)", remedy=remedy
            )
        return split


def _letters(n: int, parts: Sequence[IntArray]) -> str:
    codes = np.full(n, _NONE, dtype=np.uint8)
    for number, rows in enumerate(parts):
        codes[rows] = _ZERO + number
    return codes.tobytes().decode("ascii")


def _rows(text: str, n: int, count: int) -> list[IntArray]:
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    known = (codes == _NONE) | ((codes >= _ZERO) & (codes < _ZERO + count))
    if len(codes) != n or not known.all():
        raise ValueError(f"not one of {count} places for each of {n} rows")
    return [np.flatnonzero(codes == _ZERO + number).astype(np.int64) for number in range(count)]


def strata(label: ArrayLike, n: int = STRATA) -> IntArray:
    """Return the stratum of each label: class or quantile bin of `n`; undefined labels form their own."""
    values = np.asarray(label)
    if values.dtype.kind not in "fiub":
        return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64)
    values = values.astype(np.float64)
    defined = np.isfinite(values)
    out = np.zeros(len(values), dtype=np.int64)
    if not defined.any():
        return out
    distinct = np.unique(values[defined])
    if len(distinct) <= n:
        inner = distinct[1:]
    else:
        inner = np.unique(np.quantile(values[defined], np.linspace(0, 1, n + 1)[1:-1]))
    out[defined] = 1 + np.searchsorted(inner, values[defined], side="right")
    return np.unique(out, return_inverse=True)[1].astype(np.int64)


def _assign(
    group: IntArray, stratum: IntArray, fractions: NDArray[np.float64], rng: np.random.Generator
) -> IntArray:
    """Return the part of each object: whole groups, every stratum shared out in the given fractions."""
    n, n_strata = len(group), int(stratum.max(initial=0)) + 1
    number, first, group = np.unique(group, return_index=True, return_inverse=True)
    sizes = np.bincount(group, minlength=len(number))
    part_of_group = np.full(len(number), -1, dtype=np.int64)
    # One more column, for all strata together, keeps the parts' sizes near their target.
    counts = coo_matrix((np.ones(n, dtype=np.int64), (group, stratum)), shape=(len(number), n_strata)).tocsr()
    total = np.append(np.bincount(stratum, minlength=n_strata), n).astype(np.float64)
    target = fractions[:, None] * np.maximum(total, 1e-9)
    filled = np.zeros_like(target)
    order = rng.permutation(len(number))
    order = order[np.argsort(-sizes[order], kind="stable")]
    several = order[sizes[order] > 1]
    held_rows = counts[several]
    for k, g in enumerate(several):
        columns = held_rows.indices[held_rows.indptr[k] : held_rows.indptr[k + 1]]
        held = held_rows.data[held_rows.indptr[k] : held_rows.indptr[k + 1]].astype(np.float64)
        columns, held = np.append(columns, n_strata), np.append(held, sizes[g])
        # Increase of chi² between what the parts hold and what they should.
        lacking = target[:, columns] - filled[:, columns]
        cost = ((held * held - 2 * lacking * held) / target[:, columns]).sum(axis=1)
        chosen = int(np.argmin(cost))
        part_of_group[g] = chosen
        filled[chosen, columns] += held
    single = order[sizes[order] == 1]
    stratum_of_single = stratum[first[single]]
    for s in range(n_strata):
        members = single[stratum_of_single == s]
        if not len(members):
            continue
        lacking = np.maximum(target[:, s] - filled[:, s], 0)
        share = (lacking if lacking.sum() > 0 else fractions) / max(
            lacking.sum(), 1e-9 if lacking.sum() else 1
        )
        exact = share * len(members)
        given = np.floor(exact).astype(np.int64)
        # What rounding leaves goes first to the parts that are shortest of all that is given out by now.
        behind = fractions * (filled[:, -1].sum() + len(members)) - filled[:, -1] - given
        spare = len(members) - int(given.sum())
        given[np.argsort(-(behind + 1e-3 * (exact - given)), kind="stable")[:spare]] += 1
        part_of_group[members] = np.repeat(np.arange(len(fractions)), given)
        filled[:, s] += given
        filled[:, -1] += given
    return part_of_group[group]


def make_split(
    object_ids: ArrayLike,
    group: ArrayLike,
    label: ArrayLike,
    plan: SplitPlan = DEFAULT,
    *,
    values: ArrayLike | None = None,
    label_name: str = "",
) -> Split:
    """Share objects out into parts, round by round, and the first training part into folds.

    Each part holds each stratum of the label in the same proportion; no two parts, and no two folds, share a
    group. The result depends on the objects and the plan, not on the order of the rows.

    Parameters
    ----------
    object_ids : array of str, shape (n,)
        Unique.
    group : array of int, shape (n,)
        From `skyfuse.dataset.groups`; objects of a negative group stand in no part.
    label : array, shape (n,)
        Numbers (cut into quantile bins) or classes.
    plan : SplitPlan
    values : array, shape (n,), optional
        The plan's column.
    label_name : str
        For the recipe.

    Returns
    -------
    Split

    Raises
    ------
    UsageError
        If `object_ids` has duplicates or the plan is impossible.
    DataError
        If a part or a fold would be empty, or a value that the plan names is in no row.
    """
    plan.check()
    ids = np.asarray(object_ids, dtype=str)
    if len(np.unique(ids)) != len(ids):
        raise UsageError("object ids occur more than once", remedy="give each object one row")
    order = np.argsort(ids, kind="stable")
    groups = np.asarray(group, dtype=np.int64)[order]
    fixed = np.full(len(ids), _FREE, dtype=np.int64)
    if plan.column is not None and values is not None:
        fixed = plan.fixed(np.asarray(values)[order])
    kept = np.flatnonzero(groups >= 0)
    kept = kept[_undisputed(groups[kept], fixed[kept])]
    # Numbers of groups depend on the order of the rows; the place of a group's first object does not.
    _, first, inverse = np.unique(groups[kept], return_index=True, return_inverse=True)
    groups, fixed = np.argsort(np.argsort(first, kind="stable"), kind="stable")[inverse], fixed[kept]
    stratum = strata(np.asarray(label)[order])[kept]
    rng = np.random.default_rng(plan.seed)
    parts = _parts(groups, stratum, fixed, plan, rng)
    in_train = np.flatnonzero(parts[0] == _TRAIN)
    fold = _assign(groups[in_train], stratum[in_train], np.full(plan.folds, 1 / plan.folds), rng)
    counts = [np.bincount(part, minlength=len(PARTS)).min() for part in parts]
    if min(*counts, np.bincount(fold, minlength=plan.folds).min()) == 0:
        raise DataError(
            f"{len(ids)} objects in {groups.max(initial=-1) + 1} groups cannot be split into "
            f"{len(PARTS)} parts and {plan.folds} folds ({plan.rounds} times) that share no group",
            remedy="take more objects, fewer folds or rounds, or make no split",
        )

    def rows(chosen: NDArray[Any]) -> IntArray:
        return np.sort(order[kept[chosen]]).astype(np.int64)

    return Split(
        rounds=tuple(Round(*(rows(part == p) for p in range(len(PARTS)))) for part in parts),
        folds=tuple(rows(in_train[fold == k]) for k in range(plan.folds)),
        dropped=np.setdiff1d(np.arange(len(ids)), order[kept]),
        recipe={
            **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(plan).items()},
            "stratified_on": label_name,
            "strata": STRATA,
        },
    )


def _undisputed(group: IntArray, fixed: IntArray) -> NDArray[np.bool_]:
    """Return which rows stand no farther from the test part than any of their group."""
    nearness = _NEARNESS[fixed - _FREE]
    nearest = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(nearest, group, nearness)
    return np.asarray(nearness == nearest[group])


def _parts(
    group: IntArray, stratum: IntArray, fixed: IntArray, plan: SplitPlan, rng: np.random.Generator
) -> list[IntArray]:
    """Return the part of each row, for each round."""
    drawn = np.flatnonzero(fixed == _FREE)
    shares = np.asarray(plan.fractions)
    if plan.rounds == 1:
        unnamed = [number for number in range(_TRAIN + 1, len(PARTS)) if not getattr(plan, PARTS[number])]
        if not len(drawn) and unnamed:
            drawn = np.flatnonzero(fixed == _TRAIN)
        return [_drawn(group, stratum, fixed, drawn, [_TRAIN, *unnamed], shares, rng)]
    turn = _assign(group[drawn], stratum[drawn], np.full(plan.rounds, 1 / plan.rounds), rng)
    parts = []
    for number in range(plan.rounds):
        part = fixed.copy()
        part[drawn[turn == number]] = _TEST
        rest = drawn[turn != number]
        parts.append(_drawn(group, stratum, part, rest, list(range(_TEST)), shares, rng))
    return parts


def _drawn(
    group: IntArray,
    stratum: IntArray,
    part: IntArray,
    rows: IntArray,
    among: list[int],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
) -> IntArray:
    """Return the parts with those of some rows drawn among some parts by their shares."""
    out = part.copy()
    out[rows] = np.asarray(among)[
        _assign(group[rows], stratum[rows], shares[among] / shares[among].sum(), rng)
    ]
    return out
