import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from skyfuse.models.mixture import Mixture, highest, surprise

TWO = Mixture(np.array([[0.0, 3.0]]), np.array([[1.0, 0.4]]), np.array([[0.7, 0.3]]))


def density(y):
    return 0.7 * norm.pdf(y) + 0.3 * norm.pdf(y, 3, 0.4)


def region(cut):
    """Where the density of TWO is at least so high, by root finding."""
    y = np.linspace(-8, 8, 4001)
    over = density(y) >= cut
    return [brentq(lambda y: density(y) - cut, y[i], y[i + 1]) for i in np.flatnonzero(over[1:] != over[:-1])]


def mass(ends):
    return sum(quad(density, a, b)[0] for a, b in zip(ends[::2], ends[1::2], strict=True))


@pytest.mark.parametrize("y", [-1.5, 0.4, 2.2, 2.9, 4.1])
def test_surprise_is_the_mass_below_the_labels_density(y):
    assert np.exp(-surprise(TWO, np.array([y]))[0]) == pytest.approx(1 - mass(region(density(y))), abs=2e-3)


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.68, 0.9, 0.99])
def test_the_highest_region_holds_its_mass_and_ends_at_one_density(wanted):
    pieces = highest(TWO, np.array([-np.log(1 - wanted)]))[0]
    ends = pieces[np.isfinite(pieces)]
    assert mass(ends) == pytest.approx(wanted, abs=3e-3)
    assert np.ptp(density(ends)) < 2e-3
    assert len(ends) == len(region(density(ends).mean()))


def test_one_normal_distribution_is_what_tables_say_far_into_its_tail():
    # Objects of many widths, and the second distribution unused.
    sigma = np.geomspace(1e-4, 1e3, 300)
    gone = np.full(300, np.nan)
    one = Mixture(
        *(np.stack(pair, axis=1) for pair in ((7 * sigma, gone), (sigma, gone), (sigma * 0 + 1, gone)))
    )
    for z in (0.5, 1.645, 5, 20, 36):
        expected = -(norm.logsf(z) + np.log(2))
        assert surprise(one, (7 + z) * sigma) == pytest.approx(expected, rel=2e-2)
        assert surprise(one, (7 - z) * sigma) == pytest.approx(expected, rel=2e-2)
        pieces = highest(one, np.full(300, expected))
        assert np.isnan(pieces[:, 1]).all()
        assert pieces[:, 0] / sigma[:, None] - 7 == pytest.approx(np.tile([-z, z], (300, 1)), rel=2e-2)


def test_what_lies_out_of_reach_is_as_surprising_as_can_be_told():
    told = surprise(TWO, np.array([1e6]))
    assert np.isfinite(told)
    assert told == surprise(TWO, np.array([-1e9])) > 700
    # So wide that everything within reach is in.
    pieces = highest(TWO, told)[0]
    assert np.nanmin(pieces) < -30
    assert np.nanmax(pieces) > 30


def test_each_object_has_a_limit_of_its_own_and_an_infinite_one_holds_everything():
    three = Mixture(*(np.repeat(array, 3, axis=0) for array in TWO))
    found = highest(three, np.array([0.5, np.inf, 2.0]))
    assert np.array_equal(found[1, 0], [-np.inf, np.inf])
    assert np.isnan(found[1, 1]).all()
    for row, limit in ((0, 0.5), (2, 2.0)):
        np.testing.assert_array_equal(found[row], highest(TWO, np.array([limit]))[0])


def test_there_are_never_more_pieces_than_distributions():
    rng = np.random.default_rng(0)
    many = Mixture(rng.normal(size=(200, 4)), rng.uniform(0.05, 0.5, (200, 4)), np.full((200, 4), 0.25))
    for limit in (0.05, 0.7, 2.3, 5):
        pieces = highest(many, np.full(200, limit))
        low, high = pieces[:, :, 0], pieces[:, :, 1]
        assert (np.isfinite(low[:, 0]) & (high[:, 0] >= low[:, 0])).all()
        assert not (low[:, 1:] <= high[:, :-1]).any()
