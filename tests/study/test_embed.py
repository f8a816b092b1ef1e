import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import DataError
from skyfuse.study.embed import embed, pearson


def parts(n=(40, 15, 15), seed=0):
    rng = np.random.default_rng(seed)
    arrays, labels = {}, {}
    for name, number in zip(("train", "valid", "test"), n, strict=True):
        y = rng.normal(size=number)
        x = y[:, None, None] * np.array([[1.0, -2.0], [0.5, 3.0]]) + 0.1 * rng.normal(size=(number, 2, 2))
        arrays[name], labels[name] = x.astype(np.float32), y
    return arrays, labels


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=20))
def test_pearson_agrees_with_numpy(pairs):
    x, y = np.array(pairs).T
    if np.std(x) < 1e-3 or np.std(y) < 1e-3:
        return
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_pearson_of_a_constant_is_unknown():
    assert np.isnan(pearson(np.ones(4), np.arange(4.0)))


def test_pca_finds_the_label_and_learns_from_training_alone():
    arrays, labels = parts()
    found = embed(arrays, labels, method="pca", seed=0)
    assert abs(found.correlations["rho_x"]) > 0.99
    assert abs(found.correlations["held_x"]) > 0.99
    assert abs(found.correlations["held_y"]) < 0.6
    other = {**arrays, "test": 100 * arrays["test"]}
    again = embed(other, labels, method="pca", seed=0)
    np.testing.assert_array_equal(again.points["train"], found.points["train"])
    np.testing.assert_array_equal(again.points["valid"], found.points["valid"])


def test_invalid_values_take_the_training_mean():
    arrays, labels = parts()
    gaps = {name: values.copy() for name, values in arrays.items()}
    gaps["test"][3, 0, 1] = np.nan
    filled = {name: values.copy() for name, values in arrays.items()}
    filled["test"][3, 0, 1] = arrays["train"][:, 0, 1].mean(dtype=float)
    a, b = (embed(x, labels, method="pca", seed=0).points["test"] for x in (gaps, filled))
    np.testing.assert_allclose(a, b, atol=1e-5)
    # A feature that is never valid in training changes nothing.
    dead = {name: np.concatenate([x, np.full_like(x[:, :1], np.nan)], axis=1) for name, x in arrays.items()}
    dead["test"][:, 2] = 5.0
    c = embed(dead, labels, method="pca", seed=0).points["test"]
    np.testing.assert_allclose(c, embed(arrays, labels, method="pca", seed=0).points["test"], atol=1e-9)


def test_tsne_separates_groups_and_repeats():
    rng = np.random.default_rng(1)
    labels = {name: np.repeat([0.0, 1.0], n) for name, n in (("train", 20), ("test", 5))}
    arrays = {
        name: (20 * y[:, None] + rng.normal(size=(len(y), 6))).astype(np.float32) for name, y in labels.items()
    }
    one, two = (embed(arrays, labels, method="tsne", seed=3) for _ in range(2))
    for name in arrays:
        np.testing.assert_array_equal(one.points[name], two.points[name])
    centres = [one.points["train"][labels["train"] == k].mean(axis=0) for k in (0, 1)]
    for k in (0, 1):
        here = one.points["test"][labels["test"] == k]
        own, other = (np.linalg.norm(here - centres[j], axis=1) for j in (k, 1 - k))
        assert np.all(own < other)


def test_too_few_or_constant_inputs():
    arrays, labels = parts(n=(4, 3, 3))
    with pytest.raises(DataError, match="4 training objects cannot be embedded"):
        embed(arrays, labels, method="pca", seed=0)
    arrays, labels = parts()
    flat = {name: np.ones_like(values) for name, values in arrays.items()}
    with pytest.raises(DataError, match="nothing in the training part varies"):
        embed(flat, labels, method="pca", seed=0)
