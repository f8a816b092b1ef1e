import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from skyfuse.errors import DataError
from skyfuse.recipe import Task
from skyfuse.study.metrics import (
    LABELS,
    METRICS_OF,
    REDSHIFT,
    Outcome,
    attainable_mae,
    attainable_r2,
    names_of,
)


def regression(y, p, outlier=None):
    return Outcome("regression", np.asarray(y, float), np.asarray(p, float), outlier=outlier)


def classification(y, probability):
    probability = np.asarray(probability, float)
    return Outcome("classification", np.asarray(y), probability.argmax(axis=1), probability)


def test_regression_by_hand():
    # errors y - p: 1, -1, 0, 3; median 0.5; deviations 0.5, 1.5, 0.5, 2.5 with median 1.
    found = regression([1, 2, 3, 6], [0, 3, 3, 3]).score()
    assert found == pytest.approx({"r2": 1 - 11 / 14, "mae": 1.25, "rmse": np.sqrt(11 / 4), "nmad": 1.4826})


def test_the_mean_scores_zero_and_the_truth_one():
    y = np.array([0.5, -1.0, 2.0])
    assert regression(y, np.full(3, y.mean())).score()["r2"] == pytest.approx(0)
    assert regression(y, y).score() == {"r2": 1, "mae": 0, "rmse": 0, "nmad": 0}


def test_nmad_of_a_gaussian_is_its_deviation():
    error = np.random.default_rng(1).normal(0.3, 0.7, 200_000)
    found = regression(np.arange(200_000.0) + error, np.arange(200_000.0)).score()
    assert found["nmad"] == pytest.approx(0.7, rel=0.01)


FINITE = st.floats(-1e3, 1e3)


@given(arrays(float, st.integers(2, 30), elements=FINITE), st.data())
def test_regression_agrees_with_scikit_learn(y, data):
    p = data.draw(arrays(float, y.shape, elements=FINITE))
    if np.var(y) < 1e-6:
        return
    found = regression(y, p).score()
    assert found["r2"] == pytest.approx(sk.r2_score(y, p), rel=1e-9, abs=1e-9)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p))


def test_redshifts_by_hand():
    z, p = np.array([0.0, 0.5, 1.0, 0.25]), np.array([0.1, 0.5, 1.4, 0.0])
    relative = np.array([0.1, 0.0, 0.2, -0.2])
    found = regression(z, p, outlier=0.15).score()
    assert found["bias"] == pytest.approx(0.025)
    assert found["sigma_nmad"] == pytest.approx(1.4826 * np.median(np.abs(relative - np.median(relative))))
    assert found["outliers"] == 0.5
    assert found["sigma_rms"] == pytest.approx(np.std(p - z))
    assert list(found) == list(names_of(Task.model_validate(TASK | {"redshift": True})))


TASK = {"label": "z", "title": "z", "definition": "made up"}


@pytest.mark.filterwarnings("ignore:.*y_pred contains classes not in y_true")
@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 2**31 - 1))
def test_classification_agrees_with_scikit_learn(number, n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(number, size=n)
    p = rng.dirichlet(np.full(number, 0.3), size=n)
    found = classification(y, p).score()
    said = p.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, said))
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        expected = score(y, said, average="macro", zero_division=0)
        assert found[f"{name}_macro"] == pytest.approx(expected)
    for way in ("macro", "weighted"):
        assert found[f"f1_{way}"] == pytest.approx(sk.f1_score(y, said, average=way, zero_division=0))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(number)), rel=1e-6)


def test_a_class_that_nobody_has_or_names_does_not_count():
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    assert classification([0, 1], p).score()["f1_macro"] == 1


def test_reconstruction_explains_what_the_mean_does_not():
    found = Outcome("reconstruction", np.array([1.0, 3.0]), np.array([0.5, 0.1])).score()
    assert found == pytest.approx({"mse": 0.3, "explained": 1 - 0.6 / 4})


@given(st.sampled_from(sorted(METRICS_OF)), st.integers(3, 12), st.integers(0, 2**31 - 1))
def test_counts_stand_for_repeated_objects(kind, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "classification":
        p = rng.dirichlet(np.ones(3), size=n)
        # Each class stands among the first two objects, which every resample holds.
        truth = rng.integers(3, size=n)
        truth[:2], p[0] = (0, 1), (0.1, 0.1, 0.8)
        whole = classification(truth, p)
    else:
        outlier = 0.2 if kind == "regression" else None
        whole = Outcome(kind, rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, n), outlier=outlier)
    counts = rng.integers(0, 3, size=(4, n))
    counts[:, :2] += 1
    found = whole.scores(counts.astype(float))
    for k, row in enumerate(counts):
        rows = np.repeat(np.arange(n), row)
        probability = None if whole.probability is None else whole.probability[rows]
        again = Outcome(kind, whole.truth[rows], whole.value[rows], probability, whole.outlier).score()
        if kind == "classification":
            # Where a class is not among the rows, see the tests of resamples.
            del again["precision_macro"], again["recall_macro"]
        assert {name: found[name][k] for name in again} == pytest.approx(again, rel=1e-9, abs=1e-9)


def test_every_score_has_a_label():
    names = {name for kind in METRICS_OF.values() for name in kind} | set(REDSHIFT)
    assert names == set(LABELS)


def test_attainable_scores_are_what_the_best_prediction_reaches():
    rng = np.random.default_rng(2)
    signal, sigma = rng.normal(0, 1, 100_000), rng.uniform(0.1, 0.8, 100_000)
    y = signal + sigma * rng.standard_normal(100_000)
    best = regression(y, signal).score()
    assert attainable_r2(y, sigma) == pytest.approx(best["r2"], abs=0.005)
    assert attainable_mae(sigma) == pytest.approx(best["mae"], rel=0.01)


def test_attainable_r2_by_hand():
    assert attainable_r2([0.0, 2.0], [0.5, 0.5]) == pytest.approx(0.75)
    with pytest.raises(DataError, match="all labels are equal"):
        attainable_r2([1.0, 1.0], [0.5, 0.5])


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([1.0, 2.0], [1.0], "one prediction for each object"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one prediction for each object"),
        ([1.0], [1.0], "at least two"),
        ([1.0, np.nan], [1.0, 2.0], "1 of 2 labels or predictions are not finite"),
        ([1.0, 2.0], [np.inf, 2.0], "not finite"),
    ],
)
def test_bad_values(y, p, message):
    with pytest.raises(DataError, match=message):
        regression(y, p).score()


def test_a_score_without_meaning_is_none_with_its_reason():
    outcome = regression([3.0, 3.0], [1.0, 2.0])
    assert outcome.score() == {
        "r2": None,
        "mae": 1.5,
        "rmse": pytest.approx(np.sqrt(2.5)),
        "nmad": pytest.approx(1.4826 * 0.5),
    }
    assert outcome.undefined() == "R² has no meaning: all labels of these 2 objects are equal"
    assert regression([3.0, 4.0], [1.0, 2.0]).undefined() is None


def test_bad_probabilities():
    with pytest.raises(DataError, match="probabilities are not finite"):
        classification([0, 1], [[np.nan, 1.0], [0.5, 0.5]])
    with pytest.raises(DataError, match=r"2 labels against probabilities of shape \(3, 2\)"):
        Outcome("classification", np.array([0, 1]), np.array([0, 1]), np.full((3, 2), 0.5))
    with pytest.raises(DataError, match="has no probabilities"):
        Outcome("classification", np.array([0, 1]), np.array([0, 1])).score()
