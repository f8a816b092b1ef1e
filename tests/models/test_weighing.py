"""Weights that make one sample stand for another, against densities that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skyfuse.errors import DataError
from skyfuse.models.weighing import Ratio, apart, effective_size, weigh, weighted_rank


def by_hand(weights, own, level):
    """Return the place of the threshold among the calibration scores and +∞, by adding up."""
    total, reached = math.fsum([*weights, own]), 0.0
    for k, weight in enumerate(weights):
        reached += weight
        if reached / total >= level - 1e-12:
            return k
    return len(weights)


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9, 0.95])
def test_the_weighted_quantile_is_that_of_the_formula(level):
    rng = np.random.default_rng(1)
    weights, own = rng.gamma(1, size=57), rng.gamma(1, size=40) * np.geomspace(0.01, 100, 40)
    found = weighted_rank(weights, own, level)
    assert found.tolist() == [by_hand(weights, one, level) for one in own]
    assert found.max() == 57  # so heavy an object has no finite threshold


@pytest.mark.parametrize("n", [9, 10, 19, 99, 110, 1000])
def test_equal_weights_give_the_quantile_without_weights(n):
    rank = math.ceil((n + 1) * 9 / 10 - 1e-9)
    assert weighted_rank(np.full(n, 0.3), np.array([0.3]), 0.9).tolist() == [rank - 1]


def test_the_effective_size_counts_equal_weights_and_no_zeros():
    assert effective_size(np.full(50, 0.2)) == pytest.approx(50)
    assert effective_size(np.array([1.0, 1, 1, 0, 0])) == pytest.approx(3)


def test_the_ratio_of_two_normal_distributions_is_found():
    rng = np.random.default_rng(2)
    source, target = rng.normal(size=(2000, 2)), rng.normal([0.8, 0], [0.7, 1], size=(2000, 2))
    found = weigh(source, target)
    grid = np.stack(np.meshgrid(np.linspace(-1.5, 2, 15), np.linspace(-1.5, 1.5, 7)), axis=-1).reshape(-1, 2)
    x = grid[:, 0]
    truth = -0.5 * ((x - 0.8) / 0.7) ** 2 - np.log(0.7) + 0.5 * x**2
    assert np.abs(np.log(found.ratio(grid)) - truth).max() < 0.3
    # Under the source the ratio has mean 1, whatever the target.
    assert found.ratio(source).mean() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(np.log(found.target), np.log(found.ratio(target)))[0, 1] > 0.98


@pytest.mark.parametrize(("shift", "auc"), [(0.0, 0.5), (1.0, 0.76), (6.0, 1.0)])
def test_how_well_samples_are_told_apart_is_that_of_normal_distributions(shift, auc):
    # Φ(δ/√2) for two of equal width.
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(1500, 1)), rng.normal(shift, 1, size=(1500, 1))
    assert weigh(source, target).auc == pytest.approx(auc, abs=0.03)


def test_few_objects_give_no_weights():
    with pytest.raises(DataError, match="the data has 20 objects"):
        weigh(np.zeros((100, 2)), np.zeros((20, 2)))


def test_places_that_do_not_vary_give_equal_weights():
    same = np.zeros((100, 2))
    np.testing.assert_allclose(weigh(same, same).ratio(same), 1, rtol=1e-3)


def test_two_distributions_are_apart_by_their_greatest_difference():
    values, weights = np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 1, 1])
    target = np.repeat([1.0, 2, 3, 4], 25)
    assert apart(values, weights, target) == pytest.approx(0)
    assert apart(values, np.array([1.0, 0, 0, 1]), target) == pytest.approx(0.25)
    assert apart(values, weights, target + 10) == pytest.approx(1)


def test_damaged_weights_are_refused():
    ratio = weigh(np.random.default_rng(4).normal(size=(60, 2)), np.zeros((60, 2))).ratio
    assert Ratio.of_arrays(ratio.arrays).arrays.keys() == ratio.arrays.keys()
    with pytest.raises(ValueError, match="damaged"):
        Ratio.of_arrays({**ratio.arrays, "low": ratio.high + 1})
