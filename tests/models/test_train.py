import warnings

import numpy as np
import pytest
import torch
from torch import nn

from skyfuse.errors import DataError, StoreError
from skyfuse.models import MODELS, Examples
from skyfuse.models.train import (
    Batches,
    InOrder,
    Settings,
    TensorExamples,
    epoch_seed,
    fit_network,
    rotate,
    turn,
)

from .sky import only

SMALL = {"width": 0.0625, "max_epochs": 4, "batch_size": 16}


def fit(parts, modalities=("image", "spectrum"), *, seed=0, params=SMALL, weight=None, **kwargs):
    (train, y), (valid, y_valid), _ = parts
    model = MODELS["vggnet12"](**params)
    history = model.fit(
        Examples(only(train, *modalities), y, weight),
        Examples(only(valid, *modalities), y_valid),
        seed=seed,
        **kwargs,
    )
    return model, history


class Line(nn.Module):
    """One dense layer: its training can be followed by hand."""

    def __init__(self, inputs=2, outputs=1):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x["table"])


def step(x, y, *, weight=None, outputs=1, **settings):
    """Train one epoch of one batch, and return what was learned and the history."""
    network = Line(x.shape[1], outputs)
    settings = Settings(learning_rate=0.1, batch_size=len(x), max_epochs=1, patience=1, **settings)
    part = {"table": x}, y
    history = fit_network(
        network, TensorExamples(*part, weight), TensorExamples(*part), settings, unit=2.0, seed=0
    )
    return network.layer, history


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]])


def test_first_epoch_reports_the_error_before_and_after_the_step():
    y = torch.tensor([1.0, -1.0, 3.0, 0.5])
    layer, history = step(X, y)
    # From zero weights the error is the label itself; Adam's first step is the learning rate against the
    # gradient's sign.
    assert history["train"] == pytest.approx([2 * np.sqrt(np.mean(y.numpy() ** 2))])
    gradient = -(X.T @ y)
    assert torch.allclose(layer.weight[0], 0.1 * -gradient.sign(), atol=1e-5)
    after = (layer(X)[:, 0] - y).detach().numpy()
    assert history["valid"] == pytest.approx([2 * np.sqrt(np.mean(after**2))])
    assert history["metric"] == "RMSE"


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("optimiser", ["adam", "adamax"])
def test_training_is_what_plain_pytorch_does(loss, optimiser):
    torch.manual_seed(1)
    x, y = torch.randn(12, 3), 3 * torch.randn(12)
    network, plain = Line(3), Line(3)
    settings = Settings(
        learning_rate=0.03, batch_size=12, max_epochs=20, patience=20, loss=loss, optimiser=optimiser
    )
    part = TensorExamples({"table": x}, y)
    fit_network(network, part, part, settings, seed=0)
    kind = torch.optim.Adam if optimiser == "adam" else torch.optim.Adamax
    by_hand = kind(plain.parameters(), lr=0.03)
    function = nn.functional.mse_loss if loss == "mse" else nn.functional.huber_loss
    for _ in range(20):
        by_hand.zero_grad()
        function(plain({"table": x})[:, 0], y).backward()
        by_hand.step()
    assert torch.allclose(network.layer.weight, plain.layer.weight, atol=1e-5)


def test_classes_are_learned_by_their_log_loss():
    layer, history = step(X, torch.tensor([0, 1, 2, 1]), outputs=3, kind="classification")
    # Zero logits give each of three classes a third.
    assert history["train"] == pytest.approx([2 * np.log(3)])
    assert history["metric"] == "log loss"
    assert history["valid"][0] < history["train"][0]
    assert layer.bias.argmax() == 1


def test_weights_of_objects_move_the_loss_and_not_the_curve():
    y = torch.tensor([1.0, -1.0, 0.0, 0.0])
    x = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    for weights, sign in (([3.0, 1.0, 0.0, 0.0], 1), ([1.0, 3.0, 0.0, 0.0], -1)):
        layer, history = step(x, y, weight=torch.tensor(weights))
        assert layer.weight.item() == pytest.approx(0.1 * sign, abs=1e-5)
        assert history["train"] == pytest.approx([2 * np.sqrt(0.5)])


def test_what_is_unknown_of_a_reconstruction_counts_not():
    y = torch.tensor([[1.0, float("nan")], [3.0, 4.0], [float("nan"), float("nan")], [0.0, 0.0]])
    layer, history = step(X, y, outputs=2, kind="reconstruction")
    # Mean squared error of each object over what is known of it: 1, 12.5, 0 (nothing is known), 0.
    assert history["train"] == pytest.approx([2 * (1 + 12.5) / 4])
    assert history["metric"] == "MSE"
    assert torch.isfinite(layer.weight).all()


def test_best_state_is_kept():
    network = Line(1)
    x, y = torch.ones(4, 1), torch.zeros(4)
    away = {"table": x}, torch.full((4,), 5.0)
    settings = Settings(learning_rate=1.0, batch_size=4, max_epochs=6, patience=6)
    history = fit_network(network, TensorExamples(*away), TensorExamples({"table": x}, y), settings, seed=0)
    # Training leads away from what the validation part wants: the first epoch is the best.
    assert history["best"] == 0
    value = network.layer(x)[0].item()
    assert abs(value) == pytest.approx(history["valid"][0], rel=1e-5)
    assert history["valid"][-1] > history["valid"][0]


def test_caller_keeps_threads_random_stream_and_warnings(parts):
    torch.manual_seed(3)

    def state():
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.get_rng_state().tolist(),
        )

    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = fit(parts)
        model.predict(parts[2][0])
    assert state() == before


def test_training_leaves_nothing_behind_and_says_nothing(parts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(parts, folder=tmp_path / "cell")
    assert [path.name for path in tmp_path.rglob("*")] == ["cell"]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


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
@pytest.mark.parametrize("name", ["vggnet12", "sdss-cnn", "image-cnn"])
def test_interrupted_training_resumes_to_the_same_result(parts, tmp_path, monkeypatch, kind, name):
    """VGG has dropout, the spectral network Adamax, the image network batch normalisation and rotations."""
    monkeypatch.setattr("skyfuse.models.train.CHECKPOINT_SECONDS", 0.0)
    (train, y), (valid, y_valid), (test, _) = parts
    modality = "spectrum" if name == "sdss-cnn" else "image"
    params = {
        "vggnet12": {"width": 0.0625},
        "sdss-cnn": {"filters": 4, "optimiser": "adamax"},
        "image-cnn": {"dropout": 0.2},
    }[name]

    def train_(folder=None, progress=None):
        model = MODELS[name](**params, max_epochs=5, batch_size=40)
        x, x_valid = only(train, modality), only(valid, modality)
        return model, model.fit(
            Examples(x, y), Examples(x_valid, y_valid), seed=0, folder=folder, progress=progress
        )

    whole, course = train_()

    def stop_at_three(done, total, what):
        if done == 3:
            raise kind

    with pytest.raises(kind):
        train_(tmp_path, stop_at_three)
    assert (tmp_path / "training.safetensors").exists()
    seen = []
    resumed, again = train_(tmp_path, lambda done, *_: seen.append(done))
    assert seen == [4, 5]
    assert again == course
    assert np.array_equal(resumed.predict(test).value, whole.predict(test).value)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_training_is_not_taken_up(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("skyfuse.models.train.CHECKPOINT_SECONDS", 0.0)

    def stop_at_two(done, total, what):
        if done == 2:
            raise StopError

    weight = np.arange(1.0, len(parts[0][1]) + 1)
    for other in ({"seed": 1}, {"seed": 2, "weight": weight}):
        with pytest.raises(StopError):
            fit(parts, folder=tmp_path, progress=stop_at_two, **other)
        seen = []
        fit(parts, seed=2, folder=tmp_path, progress=lambda done, *_, seen=seen: seen.append(done))
        assert seen[0] == 1


def test_damaged_checkpoint_is_named(parts, tmp_path):
    (tmp_path / "training.safetensors").write_bytes(b"\x80\x04 no tensors here")
    with pytest.raises(StoreError, match=r"training\.safetensors: is a damaged checkpoint.*delete it"):
        fit(parts, folder=tmp_path)


def test_turns_are_the_eight_symmetries_equally_often():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = turn(image.repeat(4000, 1, 1, 1), torch.Generator().manual_seed(1))
    symmetries = [m.rot90(k, (-2, -1)) for m in (image[0], image[0].flip(-1)) for k in range(4)]
    counts = [int((turned == s).flatten(1).all(1).sum()) for s in symmetries]
    assert sum(counts) == 4000
    # Binomial with p = 1/8: mean 500, standard deviation 21.
    assert max(abs(count - 500) for count in counts) < 105


def test_rotation_turns_about_the_centre_by_any_angle():
    size, radius = 33, 8
    yy, xx = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2.0] * 2, indexing="ij")
    ring = torch.exp(-((torch.hypot(yy, xx) - radius) ** 2) / 8)
    spot = torch.exp(-((xx - radius) ** 2 + yy**2) / 8)
    images = torch.stack([ring, spot]).repeat(500, 1, 1, 1)
    turned = rotate(images, torch.Generator().manual_seed(1))
    # Beyond, the image mirrored at its edge comes in. The ring's profile has the second derivative 1/4 at
    # most, by which bilinear interpolation errs up to 2 · 1/8 · 1/4.
    inside = torch.hypot(yy, xx) < 15
    assert torch.allclose(turned[:, 0, inside], images[:, 0, inside], atol=0.07)
    weights = (turned[:, 1].clamp(min=0.1) - 0.1) * inside
    x, y = ((weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (xx, yy))
    assert torch.allclose(torch.hypot(x, y), torch.tensor(float(radius)), atol=0.4)
    angle = torch.atan2(y, x)
    # Uniform over the circle: each of eight sectors has 62.5 of 500 in the mean, standard deviation 7.4.
    counts = torch.histc(angle, 8, -torch.pi, torch.pi)
    assert (counts - 62.5).abs().max() < 37


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_show_each_object_once_in_an_order_of_seed_and_epoch_alone(weighted):
    x, y = {"spectrum": torch.arange(21.0).reshape(21, 1)}, torch.arange(21.0)
    settings = Settings(learning_rate=1, batch_size=4, max_epochs=1, patience=1)
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = Batches(TensorExamples(x, y, y if weighted else None), settings, seed=seed)
        shown = list(batches.epoch(epoch))
        assert len(shown) == len(batches) == 6
        assert {len(labels) for _, labels, _ in shown} == {3, 4}
        for inputs, labels, weight in shown:
            assert torch.equal(inputs["spectrum"][:, 0], labels)
            assert torch.equal(weight, labels) if weighted else weight is None
        orders[seed, epoch] = torch.cat([labels for _, labels, _ in shown]).tolist()
        assert sorted(orders[seed, epoch]) == y.tolist()
        assert orders[seed, epoch] == torch.cat([labels for _, labels, _ in batches.epoch(epoch)]).tolist()
    assert len({tuple(order) for order in orders.values()}) == 3


def test_validation_goes_in_order_by_parts_that_fit_into_memory():
    for values, size in ((5, 4096), (3744, 70), (150_528, 32)):
        y = torch.arange(100.0)
        parts = InOrder({"table": torch.zeros(100, 1).expand(100, values)}, y)
        assert parts.size == size
        assert torch.equal(torch.cat([labels for _, labels in parts]), y)


def test_each_epoch_has_a_random_stream_of_its_own():
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
