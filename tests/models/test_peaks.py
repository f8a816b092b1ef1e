import numpy as np
import pytest

from skyfuse.models.mixture import highest, surprise
from skyfuse.models.peaks import CLOSE, KINDS, PEAKS, Peaks, Posterior, dips
from skyfuse.models.template import vertex

STEP = 4e-4


def lot(redshift, chi2, kind=("GALAXY", "QSO"), width=1e-4, per_bin=1.0):
    redshift, chi2 = np.atleast_2d(redshift).astype(float), np.atleast_2d(chi2).astype(float)
    n = len(redshift)
    return Peaks(
        redshift,
        np.full(redshift.shape, width),
        chi2,
        np.array([KINDS.index(name) for name in kind]),
        np.full(n, per_bin),
    )


PLAIN = Posterior(1.0, (0.5, 0.5, 1e-9), (1e-9,) * 3, (1e-9,) * 3, (0.0,) * 3)


@pytest.mark.parametrize("offset", [-0.4, 0.0, 0.3])
def test_a_parabola_gives_its_vertex_and_where_it_is_one_higher(offset):
    """χ² of a redshift that noise alone blurs by σ in ln(1 + z) is ((x − x0)/σ)²."""
    shift, error = 700, 2.5e-4
    truth = (shift + offset) * STEP * np.log(10)
    at = np.arange(shift - 1, shift + 2) * STEP * np.log(10)
    chi2 = ((at - truth) / error) ** 2 + 917.0
    redshift, width = vertex(chi2[None], np.array([shift]), STEP, 0.5)
    assert np.log1p(redshift[0]) == pytest.approx(truth, abs=1e-12)
    assert width[0] == pytest.approx(error, rel=1e-9)


def test_a_flat_curve_is_no_narrower_than_what_counts_as_one_candidate():
    redshift, width = vertex(np.full((1, 3), 5.0), np.array([10]), STEP, 0.5)
    assert width[0] == CLOSE
    assert redshift[0] == pytest.approx(10 ** (10 * STEP) - 1)


def test_one_parabola_is_a_normal_distribution():
    """The sum of exp(−χ²/2) over a fine grid, made a density, is what a single candidate must give."""
    found = PLAIN.mixture(lot([0.3, 0.7], [10.0, np.inf], width=2e-3))
    grid = np.linspace(0.28, 0.32, 40_001)
    chi2 = ((grid - 0.3) / (1.3 * 2e-3)) ** 2
    expected = np.exp(-chi2 / 2)
    mass = np.cumsum(expected) / expected.sum()
    low, high = np.interp([0.05, 0.95], mass, grid)
    (pieces,) = highest(found, np.array([-np.log(0.1)]))
    assert pieces[0] == pytest.approx([low, high], abs=3e-5)
    assert np.isnan(pieces[1:]).all()


def test_two_parabolas_weigh_as_their_depths():
    found = PLAIN.mixture(lot([0.3, 0.7], [10.0, 10.0 + 2 * np.log(3)]))
    weight = [found.weight[0][np.isclose(found.centre[0], z)].sum() for z in (0.3, 0.7)]
    assert weight == pytest.approx([0.75, 0.25])
    (pieces,) = highest(found, np.array([-np.log(0.1)]))
    assert np.isfinite(pieces).all(axis=1).sum() == 2
    hot = PLAIN._replace(heat=2.0).weights(lot([0.3, 0.7], [10.0, 10.0 + 2 * np.log(3)], per_bin=1.0))
    assert hot[0, 0] / hot[0, 1] == pytest.approx(3**0.5)
    bad = PLAIN.weights(lot([0.3, 0.7], [10.0, 10.0 + 2 * np.log(3)], per_bin=4.0))
    assert bad[0, 0] / bad[0, 1] == pytest.approx(3**0.25)


def draw(n, seed, heat=1.0, error=1e-3):
    """Draw candidates of n objects; the less deep one is true as often as its depth says at this heat."""
    random = np.random.default_rng(seed)
    depth = random.exponential(6.0, n)
    second = random.random(n) < 1 / (1 + np.exp(depth / (2 * heat)))
    redshift = np.stack([random.uniform(0.1, 0.5, n), random.uniform(1, 3, n)], axis=1)
    truth = np.where(second, redshift[:, 1], redshift[:, 0])
    truth = np.expm1(np.log1p(truth) + error * random.standard_normal(n))
    swap = np.where(random.random((n, 1)) < 0.5, [[1, 0]], [[0, 1]])
    chi2 = np.stack([np.full(n, 9.0), 9.0 + depth], axis=1)
    return lot(np.take_along_axis(redshift, swap, axis=1), np.take_along_axis(chi2, swap, axis=1)), truth


def test_what_the_training_part_knows_comes_back():
    peaks, truth = draw(3000, seed=1, heat=4.0)
    found = Posterior.fit(peaks, truth)
    assert found.heat == pytest.approx(4, rel=0.3)
    assert found.narrow[0] == pytest.approx(1e-3, rel=0.15)
    others, labels = draw(2000, seed=2, heat=4.0)
    # −ln of a number that is even between 0 and 1.
    assert np.mean(surprise(found.mixture(others), labels) < -np.log(0.1)) == pytest.approx(0.9, abs=0.02)


def test_a_missed_object_changes_little():
    peaks, truth = draw(400, seed=3)
    plain = Posterior.fit(peaks, truth)
    truth[:4] = 6.0
    assert Posterior.fit(peaks, truth).narrow == pytest.approx(plain.narrow, rel=0.3)


def test_dips_are_apart_and_lowest_first():
    curve = np.full(100, 50.0)
    curve[[10, 12, 40, 70, 99]] = [3.0, 2.0, 5.0, 1.0, 4.0]
    assert dips(curve, PEAKS, 5).tolist() == [70, 12, 99]
    assert dips(np.arange(5.0), PEAKS, 1).tolist() == [0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"heat": 0.5},
        {"heat": float("nan")},
        {"heat": 1},
        {"share": [0.5, 0.5]},
        {"share": [0.5, 0.4, 0.4]},
        {"narrow": [0.0, 0.1, 0.1]},
        {"narrow": [0.2, 0.2, 0.2]},
        {"far": [0.1, 1.5, 0.0]},
        {"wide": "abc"},
        {"more": 1.0},
    ],
)
def test_a_damaged_state_is_refused(wrong):
    state = Posterior(2.0, (0.5, 0.25, 0.25), (1e-4,) * 3, (0.01,) * 3, (0.1,) * 3)._asdict()
    assert Posterior.from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in state.items()})
    with pytest.raises((TypeError, ValueError)):
        Posterior.from_dict({**state, **wrong})
