import warnings

import numpy as np
import pytest
import torch
from torch import nn

from skyfuse.dataset.features import Scaler
from skyfuse.errors import DataError, StoreError
from skyfuse.models import MODELS
from skyfuse.models.networks import Vgg

from .sky import make, only, r2

SMALL = {"width": 0.0625, "max_epochs": 4, "batch_size": 16}


def fit(parts, modalities=("image", "spectrum"), *, seed=0, params=SMALL, **kwargs):
    (train, y), (valid, y_valid), _ = parts
    model = MODELS["vggnet12"](**params)
    history = model.fit(only(train, *modalities), y, only(valid, *modalities), y_valid, seed=seed, **kwargs)
    return model, history


@pytest.mark.parametrize(
    "shapes",
    [
        {"image": (channels, size, size)}
        for size, channels in ((64, 5), (32, 5), (16, 1), (8, 3), (4, 5), (1, 2), (96, 5))
    ]
    + [{"spectrum": (bins,)} for bins in (4620, 3744, 1872, 936, 468, 234, 289, 7, 1)]
    + [{"image": (5, 8, 8), "spectrum": (234,)}],
)
def test_twelve_layers_at_every_zoom_with_few_dense_inputs(shapes):
    network = Vgg(shapes, 0.125, 0.5)
    layers = list(network.modules())
    assert sum(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in layers) == 9 * len(shapes)
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(dense) == 3
    assert dense[0].in_features <= 4 * 64 * len(shapes)
    assert network({m: torch.zeros(2, *shape) for m, shape in shapes.items()}).shape == (2,)


def test_width_one_has_the_channels_of_vgg():
    layers = [m for m in Vgg({"image": (5, 16, 16)}, 1, 0.5).modules() if isinstance(m, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert all(layer.kernel_size == (3, 3) for layer in layers)


@pytest.mark.parametrize("modality", ["image", "spectrum"])
def test_network_learns_and_repeats_itself_bit_for_bit(parts, modality):
    params = {"width": 0.125, "max_epochs": 12, "batch_size": 16}
    test, y_test = parts[2]
    (first, course), (second, again) = (fit(parts, [modality], params=params) for _ in range(2))
    assert course == again
    assert np.array_equal(first.predict(test).value, second.predict(test).value)
    assert r2(first.predict(test).value, y_test) > 0.5


def test_another_seed_gives_another_network(parts):
    test = parts[2][0]
    assert not np.allclose(fit(parts)[0].predict(test).value, fit(parts, seed=1)[0].predict(test).value)


def test_caller_keeps_threads_random_stream_and_warnings(parts):
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = fit(parts)
        model.predict(parts[2][0])
    after = torch.get_num_threads(), torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]


def test_training_leaves_nothing_behind_and_says_nothing(parts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(parts, folder=tmp_path / "cell")
    assert [path.name for path in tmp_path.rglob("*")] == ["cell"]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_invalid_samples_count_as_the_mean(parts):
    (train, _), _, (test, _) = parts
    model, _ = fit(parts)
    scaler = Scaler.fit(train)
    stretch = scaler.stretches["spectrum"]
    mean = np.sinh(stretch.mean[0]) * stretch.softening[0]
    x = {"image": np.nan_to_num(test["image"]), "spectrum": test["spectrum"].copy()}
    gap, filled = dict(x), dict(x)
    gap["spectrum"] = np.full_like(x["spectrum"], np.nan)
    filled["spectrum"] = np.full_like(x["spectrum"], mean)
    assert np.allclose(model.predict(gap).value, model.predict(filled).value, rtol=1e-4)
    infinite = {**x, "spectrum": np.full_like(x["spectrum"], np.inf)}
    assert np.array_equal(model.predict(infinite).value, model.predict(gap).value)


def test_prediction_does_not_depend_on_the_labels_scale(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    first, _ = fit(parts)
    second = MODELS["vggnet12"](**SMALL)
    second.fit(train, 8 * y + 100, valid, 8 * y_valid + 100, seed=0)
    assert np.allclose(second.predict(test).value, 8 * first.predict(test).value + 100, rtol=1e-4)


def test_constant_labels_are_predicted_finite(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    model = MODELS["vggnet12"](**SMALL)
    model.fit(train, np.full_like(y, 2.5), valid, np.full_like(y_valid, 2.5), seed=0)
    assert np.abs(model.predict(test).value - 2.5).max() < 2


def test_patience_ends_the_training(parts):
    params = {"width": 0.0625, "max_epochs": 60, "patience": 2, "learning_rate": 1e-2, "batch_size": 16}
    _, history = fit(parts, params=params)
    assert len(history["valid"]) == history["best"] + 1 + 2 < 60


def test_divergence_is_named(parts):
    params = {**SMALL, "learning_rate": 1e30}
    with pytest.raises(DataError, match=r"diverged.*lower the learning rate"):
        fit(parts, params=params)


class StopError(Exception):
    pass


@pytest.mark.parametrize("kind", [StopError, KeyboardInterrupt])
def test_interrupted_training_resumes_to_the_same_result(parts, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("skyfuse.models.train.CHECKPOINT_SECONDS", 0.0)
    test = parts[2][0]
    params = {**SMALL, "max_epochs": 6}
    whole, course = fit(parts, params=params)

    def stop_at_three(done, total, what):
        if done == 3:
            raise kind

    with pytest.raises(kind):
        fit(parts, params=params, folder=tmp_path, progress=stop_at_three)
    assert (tmp_path / "training.safetensors").exists()
    seen = []
    resumed, again = fit(parts, params=params, folder=tmp_path, progress=lambda done, *_: seen.append(done))
    assert seen == [4, 5, 6]
    assert again == course
    assert np.array_equal(resumed.predict(test).value, whole.predict(test).value)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_training_is_not_taken_up(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("skyfuse.models.train.CHECKPOINT_SECONDS", 0.0)

    def stop_at_two(done, total, what):
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        fit(parts, seed=1, folder=tmp_path, progress=stop_at_two)
    seen = []
    fit(parts, seed=2, folder=tmp_path, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 1


def test_damaged_checkpoint_is_named(parts, tmp_path):
    (tmp_path / "training.safetensors").write_bytes(b"\x80\x04 no tensors here")
    with pytest.raises(StoreError, match=r"training\.safetensors: is a damaged checkpoint.*delete it"):
        fit(parts, folder=tmp_path)


def test_turns_are_the_eight_symmetries_equally_often():
    from skyfuse.models.train import turn

    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = turn(image.repeat(4000, 1, 1, 1), torch.Generator().manual_seed(1))
    symmetries = [m.rot90(k, (-2, -1)) for m in (image[0], image[0].flip(-1)) for k in range(4)]
    counts = [int((turned == s).flatten(1).all(1).sum()) for s in symmetries]
    assert sum(counts) == 4000
    # Binomial with p = 1/8: mean 500, standard deviation 21.
    assert max(abs(count - 500) for count in counts) < 105


def test_batches_show_each_object_once_in_an_order_of_seed_and_epoch_alone():
    from skyfuse.models.train import Batches

    x, y = {"spectrum": torch.arange(21.0).reshape(21, 1)}, torch.arange(21.0)
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = Batches(x, y, size=4, seed=seed, epoch=lambda epoch=epoch: epoch, augment=False)
        shown = list(batches)
        assert len(shown) == len(batches) == 6
        assert {len(labels) for _, labels in shown} == {3, 4}
        assert all(torch.equal(inputs["spectrum"][:, 0], labels) for inputs, labels in shown)
        orders[seed, epoch] = torch.cat([labels for _, labels in shown]).tolist()
        assert sorted(orders[seed, epoch]) == y.tolist()
        assert orders[seed, epoch] == torch.cat([labels for _, labels in batches]).tolist()
    assert len({tuple(order) for order in orders.values()}) == 3


def test_augmentation_changes_training_alone(parts):
    test = parts[2][0]
    model, _ = fit(parts, ["image"])
    plain, _ = fit(parts, ["image"], params={**SMALL, "augment": False})
    assert not np.allclose(model.predict(test).value, plain.predict(test).value)
    assert np.array_equal(model.predict(test).value, model.predict(test).value)


def test_many_objects_are_predicted_in_parts(fitted):
    x, _ = make(300)
    whole = fitted["vggnet12"].predict(x).value
    first = fitted["vggnet12"].predict({m: a[:150] for m, a in x.items()}).value
    assert np.array_equal(whole[:150], first)
