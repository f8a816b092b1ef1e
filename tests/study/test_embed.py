import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from skyfuse.errors import DataError, UsageError
from skyfuse.study.embed import clusters, correlations, embed, embed_dataset, pearson

from .sky import SmallSky


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
    points = embed(arrays, method="pca", seed=0)
    found = correlations(points, labels)
    assert abs(found["rho_x"]) > 0.99
    assert abs(found["held_x"]) > 0.99
    held = np.concatenate([points["valid"][:, 1], points["test"][:, 1]])
    y = np.concatenate([labels["valid"], labels["test"]])
    assert found["held_y"] == pytest.approx(np.corrcoef(held, y)[0, 1])
    again = embed({**arrays, "test": 100 * arrays["test"]}, method="pca", seed=0)
    np.testing.assert_array_equal(again["train"], points["train"])
    np.testing.assert_array_equal(again["valid"], points["valid"])


def test_invalid_values_take_the_training_mean():
    arrays, _ = parts()
    gaps = {name: values.copy() for name, values in arrays.items()}
    gaps["test"][3, 0, 1] = np.nan
    filled = {name: values.copy() for name, values in arrays.items()}
    filled["test"][3, 0, 1] = arrays["train"][:, 0, 1].mean(dtype=float)
    a, b = (embed(x, method="pca", seed=0)["test"] for x in (gaps, filled))
    np.testing.assert_allclose(a, b, atol=1e-5)
    # A feature that is never valid in training changes nothing.
    dead = {name: np.concatenate([x, np.full_like(x[:, :1], np.nan)], axis=1) for name, x in arrays.items()}
    dead["test"][:, 2] = 5.0
    c = embed(dead, method="pca", seed=0)["test"]
    np.testing.assert_allclose(c, embed(arrays, method="pca", seed=0)["test"], atol=1e-9)


def test_tsne_separates_groups_and_repeats():
    rng = np.random.default_rng(1)
    labels = {name: np.repeat([0.0, 1.0], n) for name, n in (("train", 20), ("test", 5))}
    arrays = {
        name: (20 * y[:, None] + rng.normal(size=(len(y), 6))).astype(np.float32)
        for name, y in labels.items()
    }
    one, two = (embed(arrays, method="tsne", seed=3) for _ in range(2))
    for name in arrays:
        np.testing.assert_array_equal(one[name], two[name])
    centres = [one["train"][labels["train"] == k].mean(axis=0) for k in (0, 1)]
    for k in (0, 1):
        here = one["test"][labels["test"] == k]
        own, other = (np.linalg.norm(here - centres[j], axis=1) for j in (k, 1 - k))
        assert np.all(own < other)


def test_too_few_or_constant_inputs():
    arrays, _ = parts(n=(4, 3, 3))
    with pytest.raises(DataError, match="4 training objects cannot be embedded"):
        embed(arrays, method="pca", seed=0)
    arrays, _ = parts()
    flat = {name: np.ones_like(values) for name, values in arrays.items()}
    with pytest.raises(DataError, match="nothing in the training part varies"):
        embed(flat, method="pca", seed=0)


def test_a_dataset_is_embedded_whole(tmp_path):
    sky = SmallSky(tmp_path)
    sky.meta["label"] = {"name": "AVG", "unit": "dex"}
    # An object in no part of the split is placed all the same.
    left = sky._rounds[0]["test"][0]
    sky._rounds[0]["test"] = sky._rounds[0]["test"][1:]
    table = embed_dataset(sky, method="pca", name="spectrum", zoom=3, seed=1)
    assert table["object_id"].tolist() == sky.table["object_id"].tolist()
    assert table.loc[left, "part"] == ""
    assert table["part"].value_counts()["train"] == len(sky.split()["train"])
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()
    assert table["AVG"].equals(sky.table["AVG"])


def test_a_dataset_without_split_or_label_is_embedded_by_all_its_objects(tmp_path):
    class Unlabelled(SmallSky):
        def split(self, name="default"):
            raise DataError("has no split", remedy="make one")

    sky = Unlabelled(tmp_path)
    sky.meta["label"] = None
    table = embed_dataset(sky, method="pca", name="image", zoom=4, seed=1)
    assert set(table["part"]) == {"train"}
    assert table.columns.tolist() == ["object_id", "part", "x", "y"]


def test_a_table_is_embedded_by_its_columns(tmp_path):
    sky = SmallSky(tmp_path)
    sky.meta["label"] = None
    own = sky.inputs
    sky.inputs = lambda zooms, rows: own(zooms, rows, columns=["shape", "line"])
    table = embed_dataset(sky, method="pca", name="table", zoom=3, seed=1)
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()


def test_clusters_of_groups_that_lie_apart_are_the_groups():
    rng = np.random.default_rng(4)
    names = {part: rng.choice(["a", "b", "c"], n) for part, n in (("train", 60), ("test", 30))}
    centre = {"a": 0.0, "b": 30.0, "c": 60.0}
    arrays = {
        part: (np.array([[centre[x]] * 4 for x in own]) + rng.normal(size=(len(own), 4))).astype(np.float32)
        for part, own in names.items()
    }
    labels = {part: own.astype(object) for part, own in names.items()}
    labels["test"][0] = None
    found = clusters(arrays, labels, number=3, seed=0)
    assert found["n"].sum() == 89
    assert len(found) == 3
    assert found["adjusted_rand"].unique().tolist() == [1.0]
    assert found["mutual_information"].unique() == pytest.approx(1)
    merged = clusters(arrays, labels, number=2, seed=0)
    pairs = merged.loc[merged.index.repeat(merged["n"])]
    assert merged["adjusted_rand"].iloc[0] == pytest.approx(
        adjusted_rand_score(pairs["group"], pairs["cluster"])
    )
    with pytest.raises(DataError, match="60 training objects cannot make 61 clusters"):
        clusters(arrays, labels, number=61, seed=0)


def test_numbers_are_set_against_clusters_in_ranges():
    arrays, labels = parts()
    found = clusters(arrays, labels, number=4, seed=0)
    assert found["group"].nunique() == 5
    assert found["n"].sum() == 70
    assert found["adjusted_rand"].iloc[0] > 0.3


def test_wrong_calls_of_embed_dataset(tmp_path):
    sky = SmallSky(tmp_path)
    with pytest.raises(UsageError, match="no method is called 'som'; choose among pca, tsne, umap"):
        embed_dataset(sky, method="som", name="image", zoom=3, seed=1)
    with pytest.raises(
        UsageError, match="has no image at zoom 0; it holds these zooms: image 3, 4; spectrum 3, 4"
    ):
        embed_dataset(sky, method="pca", name="image", zoom=0, seed=1)
