import numpy as np
import pytest

from skyfuse.study.cells import plan
from skyfuse.study.feed import Feed, nested_order
from skyfuse.study.tasks import target

from .sky import SmallSky, class_recipe, small_recipe


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return SmallSky(tmp_path_factory.mktemp("sky"), rounds=3)


def lot(sky, recipe, name, number=0, sigma=False):
    feed = Feed(recipe, sky, target(recipe, sky))
    cell = next(cell for cell in plan(recipe) if cell.name == name)
    return feed.lot(cell, number, seed=5, sigma=sigma)


def recipe(**changes):
    return class_recipe(
        split={"rounds": 3},
        models={"tree": {}},
        sizes=[30, 60],
        learning={"models": ["tree"], "fusion": "table"},
        **changes,
    )


def test_each_round_gives_its_own_objects(sky):
    tests = []
    for number in range(3):
        found = lot(sky, recipe(), "tree-table", number)
        for part, rows in found.rows.items():
            np.testing.assert_array_equal(
                found.inputs[part]["table"][:, 0], sky.table["shape"].iloc[rows].astype(np.float32)
            )
            assert (
                np.array(["low", "middle", "high"])[found.labels[part]] == sky.table["kind"].iloc[rows]
            ).all()
        tests.append(found.rows["test"])
    assert sorted(np.concatenate(tests)) == list(range(len(sky)))


def test_leaking_columns_reach_the_cells_that_say_so_alone(sky):
    assert lot(sky, recipe(), "tree-table").inputs["test"]["table"].shape[1] == 2
    leaky = lot(sky, recipe(), "tree-table-with-leaks")
    expected = sky.table["leak"].iloc[leaky.rows["test"]]
    np.testing.assert_allclose(leaky.inputs["test"]["table"][:, 2], expected, rtol=1e-6)


def test_sigma_stands_beside_the_spectrum_where_asked(sky):
    assert set(lot(sky, recipe(), "tree-spectrum-s4").inputs["train"]) == {"spectrum"}
    assert set(lot(sky, recipe(), "tree-early-s4", sigma=True).inputs["train"]) == {
        "spectrum",
        "spectrum_sigma",
        "table",
    }


def test_small_pieces_lie_in_larger_ones_and_leave_the_other_parts_alone(sky):
    small, large = (lot(sky, recipe(), f"tree-table-n{n}") for n in (30, 60))
    whole = lot(sky, recipe(), "tree-table")
    assert len(small.rows["train"]) == len(small.inputs["train"]["table"]) == 30
    assert set(small.rows["train"]) < set(large.rows["train"]) < set(whole.rows["train"])
    np.testing.assert_array_equal(small.rows["test"], whole.rows["test"])


@pytest.mark.parametrize("classes", [True, False])
def test_every_beginning_of_a_nested_order_holds_the_classes_in_their_shares(classes):
    rng = np.random.default_rng(0)
    y = rng.choice(3, size=600, p=[0.7, 0.2, 0.1]) if classes else rng.normal(size=600)
    order = nested_order(y, classes, seed=1)
    assert sorted(order) == list(range(600))
    stratum = y if classes else np.argsort(np.argsort(y)) // 60
    for n in (50, 200):
        for value in np.unique(stratum):
            share = np.mean(stratum[order[:n]] == value)
            assert share == pytest.approx(np.mean(stratum == value), abs=1.5 / n + 0.01)


def test_balance_is_the_recipes(sky):
    y = np.repeat([0, 1, 2], [30, 20, 10])
    x = {"table": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)}
    found = {}
    for how in ("none", "weights", "smote", "rarest"):
        own = recipe(balance=how)
        found[how] = Feed(own, sky, target(own, sky)).balanced(x, y, seed=3)
    assert found["none"][0] is x
    assert found["none"][2] is None
    np.testing.assert_allclose([found["weights"][2][y == k].sum() for k in range(3)], 20)
    assert np.bincount(found["smote"][1]).tolist() == [30, 30, 30]
    assert np.bincount(found["rarest"][1]).tolist() == [10, 10, 10]
    assert found["smote"][2] is None


def test_spoilt_data_is_spoilt_as_the_variant_says(tmp_path):
    sky, own = SmallSky(tmp_path), small_recipe()
    sound = lot(sky, own, "tree-image-i3")
    tiny = lot(sky, own, "tree-image-i3-tiny-pixels")
    np.testing.assert_allclose(
        tiny.inputs["test"]["image"] * 2.55e20, sound.inputs["test"]["image"], rtol=1e-5
    )
    mixed = lot(sky, own, "tree-image-i3-shuffled-bands").inputs["test"]["image"]
    assert not np.array_equal(mixed, sound.inputs["test"]["image"])
    np.testing.assert_array_equal(np.sort(mixed, axis=1), np.sort(sound.inputs["test"]["image"], axis=1))
    whole = lot(sky, own, "tree-spectrum-s3-complete-only")
    for part in ("train", "valid", "calibration"):
        assert np.isfinite(whole.inputs[part]["spectrum"]).all()
        assert (sky.table["nan_fraction"].iloc[whole.rows[part]] == 0).all()
    assert np.isnan(whole.inputs["test"]["spectrum"]).any()
