import numpy as np
import pytest
import torch
from torch import Tensor

from skyfuse.errors import UsageError
from skyfuse.models import MODELS, Examples, load_model, polar
from skyfuse.models.mirror import Mirror

CLASSES = ("left", "right", "round")
SIDE = 64


def galaxy(arms, turn=0.0, ratio=0.7, angle=0.5, centre=(0.0, 0.0), size=6.0):
    """A disc with two arms of one sense, seen at an angle: three channels, brightness from 0 to 1."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = x - centre[0], y - centre[1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / ratio
    r, theta = np.hypot(along, across) + 1e-6, np.arctan2(across, along)
    light = (
        0.6 * np.exp(-r / size) * (1 + 0.7 * abs(arms) * np.cos(2 * (theta - arms * 1.5 * np.log(r)) + turn))
    )
    return np.clip(np.stack([light, 0.8 * light, 0.6 * light]), 0, 1).astype(np.float32)


def sky(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    images = [
        galaxy(
            (-1, 1, 0)[k], rng.uniform(0, 6), rng.uniform(0.6, 1), rng.uniform(0, 3), rng.normal(0, 0.5, 2)
        )
        for k in y
    ]
    noisy = np.stack(images) + rng.normal(0, 0.01, (n, 3, SIDE, SIDE))
    table = np.stack([rng.normal(size=n), rng.normal(size=n)], axis=1)
    return {"image": np.clip(noisy, 0, 1).astype(np.float32), "table": table.astype(np.float32)}, y


def fitted(inputs=("image",), **params):
    (x, y), (x_valid, y_valid) = sky(150, 1), sky(60, 2)
    model = MODELS["polar-cnn"](
        **{"channels": [8, 8], "units": 16, "max_epochs": 8, "batch_size": 16} | params
    )
    model.mirror = Mirror.of({"left": "right"}, CLASSES, odd=[1] if "table" in inputs else [])
    train, valid = ({name: part[name] for name in inputs} for part in (x, x_valid))
    model.fit(Examples(train, y), Examples(valid, y_valid), seed=0, kind="classification", classes=CLASSES)
    return model


@pytest.fixture(scope="module")
def model():
    return fitted()


def odds(model, x):
    return np.log(model.predict(x).probability)


def test_an_ellipse_is_found_where_it_was_drawn():
    image = torch.from_numpy(galaxy(0, ratio=0.5, angle=0.4, centre=(1.5, -1.0))[None])
    centre, moments = polar.ellipses(image)
    values, vectors = np.linalg.eigh(moments[0].numpy())

    assert centre[0].numpy() == pytest.approx([1.5, -1.0], abs=0.15)
    assert np.sqrt(values[0] / values[1]) == pytest.approx(0.5, abs=0.05)
    assert abs(vectors[:, 1] @ [np.cos(0.4), np.sin(0.4)]) == pytest.approx(1, abs=0.01)


def test_a_gaussians_moments_are_its_own():
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    light = 0.9 * np.exp(-(x**2 / 16 + y**2 / 9) / 2)
    _, moments = polar.ellipses(torch.from_numpy(np.repeat(light[None, None], 3, axis=1)).float())

    # What is below `DARK` counts not, so the wings are cut a little.
    assert moments[0].numpy() == pytest.approx(np.diag([16.0, 9.0]), rel=0.08, abs=0.1)


def test_a_black_image_has_an_ellipse_too():
    for value in (0.0, 0.5):
        centre, moments = polar.ellipses(torch.full((1, 3, SIDE, SIDE), value))

        assert bool(torch.isfinite(centre).all())
        assert bool(torch.isfinite(moments).all())


def test_arms_run_straight_once_unrolled():
    unrolled = polar.Unrolled().eval()
    one, other = (
        unrolled(torch.from_numpy(galaxy(arms, ratio=1.0)[None]))[0][0, 3].numpy() for arms in (1, -1)
    )

    def slant(plane):
        along, across = np.roll(plane, -1, 1) - np.roll(plane, 1, 1), np.gradient(plane, axis=0)
        return (along * across)[6:18].sum()

    assert slant(one) * slant(other) < 0


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_image_gets_the_same_answer(model, quarters):
    x, _ = sky(12, 3)
    turned = np.ascontiguousarray(np.rot90(x["image"], quarters, (2, 3)))

    assert odds(model, {"image": turned}) == pytest.approx(odds(model, x), abs=1e-5)


def test_a_mirrored_image_gets_the_answer_with_its_classes_swapped(model):
    x, _ = sky(12, 3)
    mirrored = {"image": np.ascontiguousarray(x["image"][..., ::-1])}

    assert odds(model, mirrored)[:, [1, 0, 2]] == pytest.approx(odds(model, x), abs=1e-5)


def test_it_tells_which_way_arms_wind(model):
    x, y = sky(60, 4)

    assert (model.predict(x).value == y).mean() > 0.9


def test_an_image_of_odd_side_turns_too():
    network = polar.PolarNetwork({"image": (3, 33, 33)}, Mirror((1, 0, 2)), [4], 8, 0.0).eval()
    image = torch.rand(2, 3, 33, 33)
    said: Tensor = network({"image": image})

    assert network({"image": image.rot90(1, (2, 3))}).detach().numpy() == pytest.approx(
        said.detach().numpy(), abs=1e-5
    )


def test_a_table_beside_the_image_is_mirrored_with_it(tmp_path):
    model, (x, _) = fitted(("image", "table"), max_epochs=1), sky(12, 3)
    mirrored = {
        "image": np.ascontiguousarray(x["image"][..., ::-1]),
        "table": x["table"] * np.float32([1, -1]),
    }

    assert odds(model, mirrored)[:, [1, 0, 2]] == pytest.approx(odds(model, x), abs=1e-5)
    model.save(tmp_path)
    assert (load_model(tmp_path).predict(x).probability == model.predict(x).probability).all()


def test_a_second_image_is_refused():
    x, y = sky(30, 1)
    part = Examples({"image": x["image"], "image2": x["image"]}, y)

    with pytest.raises(UsageError, match="got 2 images"):
        MODELS["polar-cnn"]().fit(part, part, seed=0, kind="classification", classes=CLASSES)


def test_networks_that_see_mirrored_images_refuse_a_mirror():
    x, y = sky(30, 1)
    model = MODELS["image-cnn"](augment=True)
    model.mirror = Mirror.of({"left": "right"}, CLASSES)
    part = Examples({"image": x["image"]}, y)

    with pytest.raises(UsageError, match="mirrored images under their old classes"):
        model.fit(part, part, seed=0, kind="classification", classes=CLASSES)
