import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from skyfuse.errors import DataError
from skyfuse.study.metrics import attainable_r2, score


def test_scores_by_hand():
    # errors y - p: 1, -1, 0, 3; median 0.5; deviations 0.5, 1.5, 0.5, 2.5 with median 1.
    found = score([1.0, 2.0, 3.0, 6.0], [0.0, 3.0, 3.0, 3.0])
    assert found.r2 == pytest.approx(1 - 11 / 14)
    assert found.mae == pytest.approx(1.25)
    assert found.rmse == pytest.approx(np.sqrt(11 / 4))
    assert found.nmad == pytest.approx(1.4826)


def test_the_mean_scores_zero_and_the_truth_one():
    y = np.array([0.5, -1.0, 2.0])
    assert score(y, np.full(3, y.mean())).r2 == pytest.approx(0)
    assert score(y, y) == (1, 0, 0, 0)


def test_nmad_of_a_gaussian_is_its_deviation():
    error = np.random.default_rng(1).normal(0.3, 0.7, 200_000)
    assert score(np.arange(200_000.0) + error, np.arange(200_000.0)).nmad == pytest.approx(0.7, rel=0.01)


FINITE = st.floats(-1e3, 1e3)


@given(arrays(float, st.integers(2, 30), elements=FINITE), st.data())
def test_scores_agree_with_scikit_learn(y, data):
    p = data.draw(arrays(float, y.shape, elements=FINITE))
    if np.var(y) < 1e-6:
        return
    found = score(y, p)
    assert found.r2 == pytest.approx(r2_score(y, p), rel=1e-9, abs=1e-9)
    assert found.mae == pytest.approx(mean_absolute_error(y, p))
    assert found.rmse == pytest.approx(root_mean_squared_error(y, p))


def test_attainable_r2_is_what_the_best_prediction_reaches():
    rng = np.random.default_rng(2)
    signal, sigma = rng.normal(0, 1, 100_000), rng.uniform(0.1, 0.8, 100_000)
    y = signal + sigma * rng.standard_normal(100_000)
    assert attainable_r2(y, sigma) == pytest.approx(score(y, signal).r2, abs=0.005)


def test_attainable_r2_by_hand():
    assert attainable_r2([0.0, 2.0], [0.5, 0.5]) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([1.0, 2.0], [1.0], "one prediction for each object"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one prediction for each object"),
        ([1.0], [1.0], "at least two"),
        ([1.0, np.nan], [1.0, 2.0], "1 of 2 labels or predictions are not finite"),
        ([1.0, 2.0], [np.inf, 2.0], "not finite"),
        ([3.0, 3.0], [1.0, 2.0], "all labels are equal"),
    ],
)
def test_bad_values(y, p, message):
    with pytest.raises(DataError, match=message):
        score(y, p)
