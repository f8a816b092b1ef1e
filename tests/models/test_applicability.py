"""Objects that the training held none of the like are told in words, and few others are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyfuse.models import applicability as module
from skyfuse.models.applicability import Applicability, words_of
from skyfuse.models.summaries import Summary


def told(values, names=None, form=None):
    values = np.asarray(values, dtype=np.float32)
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: values.shape[1]] if names is None else names)
    form = np.empty((len(values), 0), np.float32) if form is None else np.asarray(form, np.float32)
    return Summary(names, values, form)


def galaxies(rng, n):
    """Return magnitudes g and r of two kinds of objects, red and blue, and no colour of any in between."""
    red = rng.random(n) < 0.5
    r = rng.uniform(15, 19, n)
    return np.stack([r + np.where(red, 1.2, 0.0) + rng.normal(0, 0.05, n), r], axis=1)


@pytest.mark.parametrize(("n", "k"), [(6000, 9), (2000, 10), (288, 104), (300, 2)])
def test_few_objects_like_those_of_the_training_are_marked(n, k):
    shares = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        names = [f"c{i}" for i in range(k)]
        known = Applicability.fit(told(rng.standard_t(3, (n, k)), names))
        shares.append(np.mean(known.outside(told(rng.standard_t(3, (4000, k)), names)) != ""))
    # About 2 %, with the chance of a training of n objects.
    assert np.mean(shares) < 0.02 + 2 * np.sqrt(0.02 / n / 3)


def test_what_is_fainter_than_all_of_the_training_is_marked_and_called_so():
    rng = np.random.default_rng(1)
    every = galaxies(rng, 12000)
    known = Applicability.fit(told(every[every[:, 1] < 17.5], "gr"))
    faint = every[every[:, 1] >= 17.5]
    found = known.outside(told(faint, "gr"))
    assert (found != "").mean() > 0.99
    assert all("r fainter" in one for one in found[faint[:, 1] > 17.51])


def test_a_colour_that_no_object_has_is_told_from_magnitudes_within_their_ranges():
    rng = np.random.default_rng(2)
    known = Applicability.fit(told(galaxies(rng, 4000), "gr"))
    r = rng.uniform(15.5, 18.5, 200)
    green = np.stack([r + 0.6, r], axis=1)
    assert set(known.outside(told(green, "gr"))) == {"combination"}
    assert (known.outside(told(galaxies(rng, 2000), "gr")) != "").mean() < 0.025


def test_one_stray_object_of_the_training_does_not_make_its_like_usual():
    values = np.random.default_rng(3).normal(size=(3000, 3))
    values[7] = 40
    known = Applicability.fit(told(values))
    assert known.high.max() < 10
    assert known.outside(told([[40, 40, 40], [0, 0, 0]]))[1] == ""
    assert known.outside(told([[40, 40, 40]]))[0].split(";") == ["a above", "b above", "c above"]


def test_missing_values_are_strange_only_where_the_training_had_none():
    values = np.random.default_rng(4).normal(size=(500, 2))
    values[::3, 1] = np.nan
    known = Applicability.fit(told(values, ("cz", "size")))
    found = known.outside(told([[np.nan, 0], [0, np.nan], [np.inf, np.nan]], ("cz", "size")))
    assert found.tolist() == ["cz missing", "", "cz missing"]


def test_a_column_without_any_value_in_the_training_makes_every_value_strange():
    known = Applicability.fit(told(np.full((40, 1), np.nan), ("cz",)))
    found = known.outside(told([[-5.0], [0.0], [5.0], [np.nan]], ("cz",)))
    assert found[:3].tolist() == ["cz below", "cz above", "cz above"]
    assert found[3] == ""


def test_an_odd_form_is_far_from_the_training():
    rng = np.random.default_rng(5)
    form = np.array([1, 2, 3, 2]) + rng.normal(0, 0.1, (1000, 4))
    values = rng.normal(size=(1000, 1))
    known = Applicability.fit(told(values, ("spectrum median",), form))
    new = told(values[:2], ("spectrum median",), [[3, 2, 1, 2], [1, 2, 3, 2]])
    assert known.outside(new).tolist() == ["combination", ""]


def test_the_distance_is_that_to_the_third_nearest():
    rng = np.random.default_rng(6)
    points, new = (rng.normal(size=(n, 4)).astype(np.float32) for n in (50, 200))
    own = np.sort(np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2)), axis=1)
    np.testing.assert_allclose(module._distances(points, 3), own[:, 3], rtol=1e-5)
    assert module._distances(points[:2], 3).tolist() == pytest.approx([own_of(points[:2])] * 2)
    apart = np.sort(np.sqrt(((new[:, None] - points[None]) ** 2).sum(axis=2)), axis=1)[:, 2]
    limit = float(np.median(apart)) + 1e-4
    assert np.array_equal(module._far(points, new, 3, limit), apart > limit)


def own_of(two):
    return float(np.sqrt(((two[0] - two[1]) ** 2).sum()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("u", ("brighter", "fainter")),
        ("modelMag_r", ("brighter", "fainter")),
        ("umag-gmag", ("bluer", "redder")),
        ("petroR50_r", ("below", "above")),
        ("petroR90_r-petroR50_r", ("below", "above")),
        ("spectrum median", ("fainter", "brighter")),
        ("spectrum S/N", ("below", "above")),
    ],
)
def test_magnitudes_and_colours_are_called_as_astronomers_do(name, words):
    assert words_of(name) == words


def test_a_sample_that_leans_to_one_side_is_told_though_each_object_is_within():
    rng = np.random.default_rng(7)
    known = Applicability.fit(told(rng.uniform(15, 19, (5000, 2)), ("r", "cz")))
    alike = told(rng.uniform(15, 19, (1000, 2)), ("r", "cz"))
    assert known.drift(known.counts(alike)) == {}
    faint = told(np.stack([rng.uniform(17, 19, 1000), alike.values[:, 1]], axis=1), ("r", "cz"))
    assert (known.outside(faint) != "").mean() < 0.02
    # Half of the training lies below 17, none of these does.
    assert known.drift(known.counts(faint)) == {"r fainter": pytest.approx(0.5, abs=0.05)}
    parts = [Summary(faint.names, faint.values[s], faint.form[s]) for s in (slice(300), slice(300, None))]
    np.testing.assert_array_equal(sum(known.counts(part) for part in parts), known.counts(faint))


def test_values_that_repeat_are_no_drift():
    rng = np.random.default_rng(8)
    known = Applicability.fit(told(rng.integers(0, 2, (400, 1)), ("flag",)))
    assert known.drift(known.counts(told(rng.integers(0, 2, (400, 1)), ("flag",)))) == {}


def test_what_is_kept_is_checked_when_it_is_read():
    known = Applicability.fit(told(np.random.default_rng(9).normal(size=(100, 2))))
    again = Applicability.of_arrays(known.names, known.arrays)
    new = told(np.random.default_rng(1).normal(0, 2, (50, 2)))
    assert again.outside(new).tolist() == known.outside(new).tolist()
    for wrong in (
        replace(known, scale=-known.scale),
        replace(known, limit=-known.limit - 1),
        replace(known, shares=known.shares + 2),
        replace(known, deciles=-known.deciles),
        replace(known, points=known.points[:0]),
    ):
        with pytest.raises(ValueError, match="damaged"):
            Applicability.of_arrays(known.names, wrong.arrays)
