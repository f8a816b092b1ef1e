"""Inputs by any names: what models read of them, joined, saved and read again."""

from __future__ import annotations

import numpy as np
import pytest

from skyfuse.errors import DataError
from skyfuse.models import MODELS, Examples, LateFusion, load_model
from skyfuse.models.inputs import axes_of, inside, kind_of, kinds_of, slots_of

KINDS = {"optical": "image", "lines": "spectrum", "infrared": "image", "sizes": "table"}
SMALL = {
    "tree": {"max_depth": 3},
    "vggnet12": {"max_epochs": 2, "width": 0.03},
    "image-cnn": {"max_epochs": 2},
    "sdss-cnn": {"max_epochs": 2, "filters": 4, "units": 8},
    "gaia-cnn": {"max_epochs": 2},
    "mixed": {"max_epochs": 2},
    "feed-forward": {"max_epochs": 2, "hidden": [8]},
}


def part(n, seed):
    """Inputs of two images of different shapes, a spectrum and a table, and a label that all show."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    x = {
        "lines": rng.normal(size=(n, 48)) + y[:, None],
        "sizes": rng.normal(size=(n, 2)) + y[:, None],
        "optical": rng.normal(size=(n, 5, 8, 8)) + y[:, None, None, None],
        "infrared": rng.normal(size=(n, 2, 6, 6)) + y[:, None, None, None],
    }
    return {name: values.astype(np.float32) for name, values in x.items()}, y


TRAIN, VALID, TEST = part(60, 0), part(24, 1), part(20, 2)


def fitted(name, names, **told):
    model = MODELS[name](**SMALL[name])
    train, valid = ({one: x[one] for one in names} for x in (TRAIN[0], VALID[0]))
    model.fit(Examples(train, TRAIN[1]), Examples(valid, VALID[1]), seed=3, **told)
    return model


def test_inside_a_model_inputs_go_by_kind_in_the_order_of_fusion():
    kinds = kinds_of(TRAIN[0], KINDS)
    assert list(kinds.items()) == [
        ("optical", "image"),
        ("infrared", "image"),
        ("lines", "spectrum"),
        ("sizes", "table"),
    ]
    names = {
        "image": "optical",
        "image2": "infrared",
        "spectrum": "lines",
        "table": "sizes",
        "spectrum_sigma": "lines_sigma",
    }
    assert slots_of(kinds) == names
    assert list(inside(TRAIN[0], kinds)) == ["image", "image2", "spectrum", "table"]
    assert [kind_of(slot) for slot in names] == ["image", "image", "spectrum", "table", None]
    assert [axes_of(slot) for slot in names] == [4, 4, 2, 2, 2]
    assert [axes_of(slot) for slot in ("image_sigma", "table_sigma", "radio", "image1", "image02")] == [
        None
    ] * 5


@pytest.mark.parametrize("name", SMALL)
def test_names_change_no_number(name, tmp_path):
    model = fitted(name, ["optical", "infrared", "lines", "sizes"], inputs=KINDS)
    plain = {"optical": "image", "infrared": "image2", "lines": "spectrum", "sizes": "table"}
    same = MODELS[name](**SMALL[name])
    train, valid, test = ({plain[one]: values for one, values in x.items()} for x, _ in (TRAIN, VALID, TEST))
    same.fit(Examples(train, TRAIN[1]), Examples(valid, VALID[1]), seed=3)
    found = model.predict(TEST[0]).value
    np.testing.assert_array_equal(found, same.predict(test).value)
    assert list(model.inputs) == ["optical", "infrared", "lines", "sizes"]
    # Each input counts.
    assert set(model.shapes) == {"image", "image2", "spectrum", "table"}
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.inputs == model.inputs
    np.testing.assert_array_equal(loaded.predict(TEST[0]).value, found)


@pytest.mark.parametrize("name", ["vggnet12", "image-cnn", "mixed"])
def test_every_branch_of_a_network_is_heard(name):
    model = fitted(name, ["optical", "infrared", "lines"], inputs=KINDS)
    found = model.predict(TEST[0]).value
    for one in model.inputs:
        changed = model.predict({**TEST[0], one: TEST[0][one] + 3}).value
        assert not np.allclose(found, changed), one


def test_a_model_of_one_spectrum_takes_it_under_any_name(tmp_path):
    model = MODELS["pca"](latent=3)
    train, valid = {"lines": TRAIN[0]["lines"]}, {"lines": VALID[0]["lines"]}
    model.fit(Examples(train), Examples(valid), seed=0, kind="reconstruction", inputs=KINDS)
    assert model.encode(TEST[0]).shape == (20, 3)
    assert model.reconstruct(TEST[0]).shape == (20, 48)
    with pytest.raises(DataError, match="the model reads lines, and lines is not given"):
        model.predict({"spectrum": TEST[0]["lines"]})


def test_members_of_a_late_fusion_read_their_own_inputs(tmp_path):
    members = [fitted("tree", [name], inputs=KINDS) for name in ("optical", "infrared", "lines")]
    fusion = LateFusion(members, "weighted")
    names = ("lines", "infrared", "optical")
    train, valid = ({name: x[name] for name in names} for x in (TRAIN[0], VALID[0]))
    fusion.fit(Examples(train, TRAIN[1]), Examples(valid, VALID[1]), seed=0, inputs=KINDS)
    said = np.stack([member.predict(TEST[0]).value for member in members], axis=1)
    np.testing.assert_allclose(fusion.predict(TEST[0]).value, said @ fusion.mix)
    loaded = load_model(fusion.save(tmp_path / "late"))
    np.testing.assert_array_equal(loaded.predict(TEST[0]).value, fusion.predict(TEST[0]).value)


def test_inputs_that_do_not_fit_are_told_by_their_names():
    with pytest.raises(DataError, match=r"inputs are 'optical'; give one or more of image, .* tell the kind"):
        fitted("tree", ["optical"])
    with pytest.raises(DataError, match=r"optical has shape \(60, 5, 8, 8\)"):
        fitted("tree", ["optical"], inputs={"optical": "spectrum"})
    model = fitted("tree", ["optical", "infrared"], inputs=KINDS)
    with pytest.raises(DataError, match=r"infrared has shape \(5, 8, 8\), and the model reads \(2, 6, 6\)"):
        model.predict({**TEST[0], "infrared": TEST[0]["optical"]})
    with pytest.raises(
        DataError, match=r"inputs differ in their number of objects .*20 of optical, 3 of infrared"
    ):
        model.predict({**TEST[0], "infrared": TEST[0]["infrared"][:3]})
