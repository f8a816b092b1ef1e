import json

import numpy as np
import pytest

from skyfuse.errors import StoreError, UsageError
from skyfuse.models import MODELS, Examples, load_model
from skyfuse.models.mirror import Mirror

CLASSES = ("left", "right", "round")
MIRROR = Mirror.of({"left": "right"}, CLASSES, odd=[1])


def winding(n, seed):
    """A table of two columns: how flat something is, and which way it winds."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    sense = np.array([-1.5, 1.5, 0.0])[y] + rng.normal(scale=0.5, size=n)
    return {"table": np.stack([rng.normal(size=n), sense], axis=1).astype(np.float32)}, y


def fitted(name="logistic", mirror=MIRROR, **params):
    (x, y), (x_valid, y_valid) = winding(120, 1), winding(40, 2)
    model = MODELS[name](**params)
    model.mirror = mirror
    model.fit(Examples(x, y), Examples(x_valid, y_valid), seed=0, kind="classification", classes=CLASSES)
    return model


def mirrored(x):
    return {"table": x["table"] * np.float32([1, -1])}


def test_a_mirror_swaps_the_classes_of_a_pair_and_no_others():
    assert MIRROR.becomes == (1, 0, 2)
    assert MIRROR.labels(np.array([0, 1, 2])).tolist() == [1, 0, 2]


def test_a_mirror_flips_images_and_the_sign_of_odd_columns():
    image = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    found = MIRROR.inputs({"image": image, "table": np.float32([[1, 2], [3, -4]])})

    assert (found["image"][:, :, :, 0] == image[:, :, :, 3]).all()
    assert found["table"].tolist() == [[1, -2], [3, 4]]


@pytest.mark.parametrize("pairs", [{"left": "up"}, {"left": "right", "round": "left"}, {"left": "left"}])
def test_a_pair_names_two_classes_once(pairs):
    with pytest.raises(UsageError, match="a mirror swaps"):
        Mirror.of(pairs, CLASSES)


@pytest.mark.parametrize("name", ["logistic", "svm", "forest", "lightgbm", "feed-forward"])
def test_what_is_mirrored_gets_the_answer_with_its_classes_swapped(name):
    model, (x, _) = fitted(name), winding(50, 3)
    said, other = model.predict(x).probability, model.predict(mirrored(x)).probability

    assert other[:, [1, 0, 2]] == pytest.approx(said, abs=1e-12)
    assert np.abs(said[:, 0] - said[:, 1]).max() > 0.5


def test_one_sense_teaches_the_other():
    x, y = winding(120, 1)
    seen = y != 1
    model = MODELS["logistic"]()
    model.mirror = MIRROR
    part = Examples({"table": x["table"][seen]}, y[seen])
    model.fit(part, part, seed=0, kind="classification", classes=CLASSES)
    x, y = winding(60, 3)

    assert (model.predict(x).value == y).mean() > 0.85


def test_weights_count_for_mirror_images_too():
    x, y = winding(120, 1)
    model = MODELS["logistic"]()
    model.mirror = MIRROR
    weight = np.where(y == 2, 20.0, 1.0)
    model.fit(Examples(x, y, weight), Examples(x, y), seed=0, kind="classification", classes=CLASSES)

    assert (model.predict(x).value == 2).sum() > (fitted().predict(x).value == 2).sum()


def test_a_saved_model_keeps_its_mirror(tmp_path):
    model, (x, _) = fitted(), winding(50, 3)
    model.save(tmp_path)
    loaded = load_model(tmp_path)

    assert loaded.mirror == MIRROR
    assert (loaded.predict(x).probability == model.predict(x).probability).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"becomes": [1, 2, 0], "odd": []},
        {"becomes": [1, 0], "odd": []},
        {"becomes": [1, 0, 3], "odd": []},
        {"becomes": [1, 0, 2], "odd": [2]},
        {"becomes": [1, 0, 2], "odd": [1, 1]},
    ],
)
def test_a_card_with_an_impossible_mirror_is_refused(wrong, tmp_path):
    fitted().save(tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card | {"mirror": wrong}))

    with pytest.raises(StoreError, match="no mirror swaps"):
        load_model(tmp_path)


def test_a_mirror_needs_the_classes_of_the_task():
    x, y = winding(120, 1)
    model = MODELS["logistic"]()
    model.mirror = MIRROR

    with pytest.raises(UsageError, match="3 classes"):
        model.fit(Examples(x, y > 0), Examples(x, y > 0), seed=0, kind="classification", classes=("a", "b"))
