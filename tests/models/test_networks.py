import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skyfuse.dataset.features import Scaler
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import MODELS, Examples, architectures, load_model, networks
from skyfuse.models.networks import Network
from skyfuse.models.pytorch import evaluation_batch

from .sky import make, only, r2

NETWORKS = {
    "feed-forward": {"batch_size": 32},
    "vggnet12": {"width": 0.0625},
    "gaia-cnn": {},
    "sdss-cnn": {"filters": 4, "convolutions": 2, "kernel": 3},
    "mixed": {},
    "image-cnn": {"learning_rate": 1e-3},
    "image-ff": {},
    "image-lstm": {},
    "resnet50": {},
    "polar-cnn": {"channels": [4, 4], "units": 8},
}
"""Every network, as small as it goes."""

SMALL = {"width": 0.0625, "max_epochs": 4, "batch_size": 16}


def fit(parts, modalities=("image", "spectrum"), *, seed=0, params=SMALL, **kwargs):
    (train, y), (valid, y_valid), _ = parts
    model = MODELS["vggnet12"](**params)
    history = model.fit(
        Examples(only(train, *modalities), y),
        Examples(only(valid, *modalities), y_valid),
        seed=seed,
        **kwargs,
    )
    return model, history


def sky(n, seed):
    """A task whose every modality tells the class: blobs, lines and a table of two columns."""
    x, y = make(n, bins=60, seed=seed)
    rng = np.random.default_rng(seed)
    table = np.stack([y + rng.normal(scale=0.3, size=n), rng.normal(size=n)], axis=1)
    table[::9, 1] = np.nan
    return {**x, "table": table.astype(np.float32)}, np.digitize(y, [2.0, 4.0])


CLASSES = ("faint", "middle", "bright")


@pytest.fixture(scope="module")
def task():
    return sky(120, 1), sky(40, 2), sky(60, 3)


def test_all_named_networks_are_here():
    defined = [kind for kind in vars(networks).values() if isinstance(kind, type) and kind is not Network]
    assert {kind.name for kind in defined if issubclass(kind, Network)} == set(NETWORKS)
    assert all(MODELS[name].name == name for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_classes_joins_modalities_and_comes_back_from_its_file(name, task, tmp_path):
    (train, y), (valid, y_valid), (test, _) = task
    model = MODELS[name](**NETWORKS[name] | {"max_epochs": 1})
    weight = np.linspace(0.5, 1.5, len(y))
    model.fit(
        Examples(train, y, weight),
        Examples(valid, y_valid),
        seed=0,
        kind="classification",
        classes=CLASSES,
        folder=tmp_path,
    )
    said = model.predict(test)
    assert said.probability.shape == (60, 3)
    assert np.allclose(said.probability.sum(axis=1), 1)
    assert model.parameter_count > 1000
    loaded = load_model(model.save(tmp_path / "model"))
    assert np.array_equal(loaded.predict(test).probability, said.probability)
    assert loaded.parameter_count == model.parameter_count


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("feed-forward", "table"),
        ("vggnet12", "table"),
        ("mixed", "table"),
        ("mixed", "spectrum"),
        ("image-cnn", "image"),
        ("image-ff", "image"),
    ],
)
def test_each_modality_alone_tells_the_class(name, modality, task):
    (train, y), (valid, y_valid), (test, y_test) = task
    model = MODELS[name](**NETWORKS[name] | {"max_epochs": 15, "batch_size": 16})
    course = model.fit(
        Examples(only(train, modality), y),
        Examples(only(valid, modality), y_valid),
        seed=0,
        kind="classification",
        classes=CLASSES,
    )
    assert course["metric"] == "log loss"
    commonest = np.bincount(y_test).max() / len(y_test)
    assert np.mean(model.predict(test).value == y_test) > commonest + 0.1


@pytest.mark.parametrize("tells", ["line", "brightness"])
def test_gaia_network_learns_a_redshift_from_a_line_and_from_the_brightness(tells):
    def seen(n, seed):
        rng = np.random.default_rng(seed)
        z = rng.uniform(0, 0.6, n)
        grid = np.arange(186)
        place = z if tells == "line" else np.full(n, 0.3)
        flux = 1 - grid / 400 + 2 * np.exp(-((grid - 40 - 200 * place[:, None]) ** 2) / 50)
        scale = rng.normal(-16, 0.3, n) if tells == "line" else -14 - 5 * z
        return {"spectrum": (flux * 10 ** scale[:, None]).astype(np.float32)}, z

    (train, z), (valid, z_valid), (test, z_test) = seen(300, 0), seen(50, 1), seen(100, 2)
    model = MODELS["gaia-cnn"](max_epochs=4)
    model.fit(Examples(train, z), Examples(valid, z_valid), seed=0)
    assert model.parameter_count == 699_073
    # Without line or brightness, nothing is better than the mean's 0.15.
    assert np.abs(model.predict(test).value - z_test).mean() < 0.06


@pytest.mark.parametrize("modality", ["image", "spectrum"])
def test_network_learns_and_repeats_itself_bit_for_bit(parts, modality):
    params = {"width": 0.125, "max_epochs": 12, "batch_size": 16}
    test, y_test = parts[2]
    (first, course), (second, again) = (fit(parts, [modality], params=params) for _ in range(2))
    assert course == again
    assert np.array_equal(first.predict(test).value, second.predict(test).value)
    assert r2(first.predict(test).value, y_test) > 0.5


def test_colour_images_stay_linear_and_sky_images_are_stretched():
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    colour = rng.uniform(size=(40, 3, 6, 6)).astype(np.float32) ** 4
    colour[0, :, 0] = np.nan
    for image, linear in ((colour, True), (colour - 0.1, False)):
        model = MODELS["image-ff"](max_epochs=1)
        model.fit(Examples({"image": image}, y), Examples({"image": image}, y), seed=0)
        scaled = model._inputs({"image": image})["image"].numpy()
        known = np.isfinite(image)
        slope = np.corrcoef(scaled[:, 1][known[:, 1]], image[:, 1][known[:, 1]])[0, 1]
        assert (slope > 0.999999) == linear
        assert abs(scaled[known].mean()) < 1e-3
        assert scaled[known].std() == pytest.approx(1, abs=0.01)


def test_another_seed_gives_another_network(parts):
    test = parts[2][0]
    assert not np.allclose(fit(parts)[0].predict(test).value, fit(parts, seed=1)[0].predict(test).value)


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
    second.fit(Examples(train, 8 * y + 100), Examples(valid, 8 * y_valid + 100), seed=0)
    assert np.allclose(second.predict(test).value, 8 * first.predict(test).value + 100, rtol=1e-4)


def test_constant_labels_are_predicted_finite(parts):
    (train, y), (valid, y_valid), (test, _) = parts
    model = MODELS["vggnet12"](**SMALL)
    model.fit(Examples(train, np.full_like(y, 2.5)), Examples(valid, np.full_like(y_valid, 2.5)), seed=0)
    assert np.abs(model.predict(test).value - 2.5).max() < 2


def test_augmentation_changes_training_alone(parts):
    test = parts[2][0]
    model, _ = fit(parts, ["image"])
    plain, _ = fit(parts, ["image"], params={**SMALL, "augment": False})
    assert not np.allclose(model.predict(test).value, plain.predict(test).value)
    assert np.array_equal(model.predict(test).value, model.predict(test).value)


def test_many_objects_are_predicted_in_parts(fitted):
    x, _ = make(1700)
    assert 1700 > evaluation_batch(x) > 150
    whole = fitted["vggnet12"].predict(x).value
    first = fitted["vggnet12"].predict({m: a[:150] for m, a in x.items()}).value
    # Sums over batches of another size may be ordered otherwise.
    assert np.allclose(whole[:150], first, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("vggnet12", {"width": 0.0}, "width is 0.0; give a positive number up to 4"),
        ("vggnet12", {"width": "wide"}, "width is 'wide'; give a number"),
        ("vggnet12", {"dropout": 1.0}, "dropout is 1.0; give 0 or more and less than 1"),
        ("vggnet12", {"batch_size": 2}, "batch_size is 2; give a whole number from 4"),
        ("vggnet12", {"max_epochs": 0}, "max_epochs is 0"),
        ("vggnet12", {"max_epochs": 1.5}, "max_epochs is 1.5"),
        ("vggnet12", {"augment": 1}, "augment is 1; give true or false"),
        ("mixed", {"learning_rate": float("inf")}, "learning_rate is inf"),
        ("mixed", {"learning_rate": True}, "learning_rate is True"),
        ("gaia-cnn", {"loss": "mae"}, "loss is 'mae'; give mse or huber"),
        ("mixed", {"weight_decay": -0.1}, "weight_decay is -0.1; give 0 or a positive number"),
        ("mixed", {"weight_decay": float("nan")}, "weight_decay is nan; give 0 or a positive number"),
        ("mixed", {"schedule": "step"}, "schedule is 'step'; give none or cosine"),
        ("feed-forward", {"activation": "gelu"}, "activation is 'gelu'; give relu or tanh"),
        ("feed-forward", {"members": 0}, "members is 0; give a whole number from 1 to 64"),
        ("feed-forward", {"members": 65}, "members is 65; give a whole number from 1 to 64"),
        ("feed-forward", {"hidden": 64}, "hidden is 64; give a list of 1 to 12 whole numbers from 1 to 8192"),
        ("feed-forward", {"hidden": []}, r"hidden is \[\]; give a list"),
        ("feed-forward", {"hidden": [64, 0]}, r"hidden is \[64, 0\]; give a list"),
        ("feed-forward", {"hidden": [64, True]}, r"hidden is \[64, True\]; give a list"),
        ("feed-forward", {"hidden": [9] * 13}, "give a list of 1 to 12"),
        ("sdss-cnn", {"convolutions": 10**9}, "give a whole number from 1 to 12"),
        (
            "feed-forward",
            {"width": 1.0},
            "feed-forward has no parameter width; it has learning_rate, batch_size",
        ),
    ],
)
def test_impossible_parameters_are_named(name, params, message):
    with pytest.raises(UsageError, match=message):
        MODELS[name](**params)


@pytest.mark.parametrize("optimiser", ["adam", "adamax"])
def test_weight_decay_and_cosine_are_those_of_plain_pytorch(optimiser):
    from skyfuse.models.train import Settings, TensorExamples, fit_network

    torch.manual_seed(1)
    x, y = {"table": torch.randn(12, 3)}, torch.randn(12)
    network, plain = (architectures.feed_forward({"table": (3,)}, 1, 0.0, [4]) for _ in range(2))
    plain.load_state_dict(network.state_dict())
    training = {"learning_rate": 0.03, "weight_decay": 0.3, "optimiser": optimiser, "schedule": "cosine"}
    best = fit_network(
        network,
        TensorExamples(x, y),
        TensorExamples(x, y),
        Settings(**training, batch_size=12, max_epochs=20, patience=20),
        seed=0,
    )["best"]
    kind = torch.optim.AdamW if optimiser == "adam" else torch.optim.Adamax
    by_hand = kind(plain.parameters(), lr=0.03, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(by_hand, 20)
    for _ in range(best + 1):
        by_hand.zero_grad()
        torch.nn.functional.mse_loss(plain(x)[:, 0], y).backward()
        by_hand.step()
        schedule.step()
    assert best > 10
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


COMMITTEE = {
    "hidden": [8, 8],
    "activation": "tanh",
    "members": 3,
    "max_epochs": 5,
    "batch_size": 30,
    "dropout": 0.1,
    "weight_decay": 0.01,
    "schedule": "cosine",
}


def fit_committee(task, *, kind="classification", **kwargs):
    (train, y), (valid, y_valid), (test, _) = task
    model = MODELS["feed-forward"](**COMMITTEE)
    classes = CLASSES if kind == "classification" else ()
    x, x_valid = only(train, "table"), only(valid, "table")
    history = model.fit(
        Examples(x, y), Examples(x_valid, y_valid), seed=0, kind=kind, classes=classes, **kwargs
    )
    return model, history, only(test, "table")


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_committee_answers_with_its_members_mean_and_comes_back_from_one_file(kind, task, tmp_path):
    model, _, test = fit_committee(task, kind=kind)
    outputs = 3 if kind == "classification" else 1
    assert model.parameter_count == 3 * (2 * 8 + 8 + 8 * 8 + 8 + 8 * outputs + outputs)
    members = model._network.members
    with torch.no_grad():
        each = [member(model._inputs(test)).numpy() for member in members]
    assert not np.allclose(each[0], each[1])
    assert not np.allclose(each[1], each[2])
    assert np.allclose(model._outputs(test), np.mean(each, axis=0), atol=1e-6)
    folder = model.save(tmp_path / "model")
    names = {"checksums.json", "model.json", "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    loaded, said = load_model(folder), model.predict(test)
    assert np.array_equal(loaded.predict(test).value, said.value)
    assert kind == "regression" or np.array_equal(loaded.predict(test).probability, said.probability)
    assert loaded.parameter_count == model.parameter_count


def test_a_committee_without_a_member_is_refused(task, tmp_path):
    folder = fit_committee(task)[0].save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    card["params"]["members"] = 4
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(StoreError, match="weights are not those of the network"):
        load_model(folder)


# Of the 15 epochs, the second member's third is the 8th, and the 10th is its last.
@pytest.mark.parametrize("interrupted", [3, 8, 10])
def test_an_interrupted_committee_goes_on_where_it_was(interrupted, task, tmp_path, monkeypatch):
    monkeypatch.setattr("skyfuse.models.train.CHECKPOINT_SECONDS", 0.0)
    whole, course, test = fit_committee(task)

    def stop(done, total, what):
        assert total == 15
        assert what.startswith(f"member {-(-done // 5)} of 3, valid log loss")
        if done == interrupted:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit_committee(task, folder=tmp_path, progress=stop)
    seen = []
    resumed, again, _ = fit_committee(task, folder=tmp_path, progress=lambda done, *_: seen.append(done))
    assert seen == list(range(interrupted + 1, 16))
    assert again == course
    assert np.array_equal(resumed.predict(test).probability, whole.predict(test).probability)
    assert list(tmp_path.iterdir()) == []


def test_curves_of_a_committee_are_its_members_means_while_all_train():
    short = {"train": [4.0, 2.0], "valid": [5.0, 4.0], "best": 1, "metric": "RMSE"}
    long = {"train": [2.0, 1.0, 0.5], "valid": [3.0, 3.0, 1.0], "best": 2, "metric": "RMSE"}
    mean = networks._mean_history([short, long])
    assert mean == {"train": [3.0, 1.5], "valid": [4.0, 3.5], "best": 1, "metric": "RMSE"}


@pytest.mark.parametrize(("name", "needs"), [("gaia-cnn", "spectrum"), ("image-lstm", "image")])
def test_a_network_without_its_own_modality_is_refused(name, needs):
    x, y = {"table": np.zeros((20, 3))}, np.zeros(20)
    with pytest.raises(UsageError, match=f"{name} got no {needs}; give {needs}"):
        MODELS[name]().fit(Examples(x, y), Examples(x, y), seed=0)


def test_a_spectrum_too_short_for_the_layers_is_named():
    x, y = {"spectrum": np.zeros((20, 20))}, np.zeros(20)
    with pytest.raises(DataError, match=r"spectrum of shape \(20,\) is too small.*finer zoom"):
        MODELS["gaia-cnn"]().fit(Examples(x, y), Examples(x, y), seed=0)


def test_weights_of_another_type_are_refused(fitted, tmp_path):
    """A card may lie about anything but the weights, and these must be the network's own."""
    import hashlib

    from safetensors.torch import load_file, save_file

    folder = fitted["vggnet12"].save(tmp_path / "m")
    path = folder / "weights.safetensors"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    save_file({name: tensor.to(torch.float64) for name, tensor in load_file(path).items()}, path)
    card = (folder / "model.json").read_text()
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "model.json").write_text(card.replace(before, after))
    with pytest.raises(StoreError, match="weights are not those of the network"):
        load_model(folder)
    state = json.loads(card)["state"]
    assert set(state) == {"scaler", "mean", "std"}


@given(
    hnp.arrays(
        np.float32,
        (6, 4),
        elements=st.integers(-9999, 9999) | st.sampled_from([np.nan, np.inf, 0.0]),
    )
)
@settings(max_examples=80, deadline=None)
def test_each_sample_of_gaia_spectra_reaches_from_zero_to_one_over_the_training_part(spectra):
    scaled = networks._ranges(spectra).transform(spectra[:, :, None])[:, :, 0]
    assert np.array_equal(np.isfinite(scaled), np.isfinite(spectra))
    for sample, got in zip(spectra.T, scaled.T, strict=True):
        known = np.isfinite(sample)
        sample, got = sample[known], got[known]
        if np.unique(sample).size > 1:
            # In float32, whose last digit grows against the range where the samples lie far from zero.
            most, span = float(np.abs(sample).max()), float(np.ptp(sample))
            digit = 1e-6 + 16 * float(np.finfo(np.float32).eps) * most / span
            assert got.min() == pytest.approx(0, abs=digit)
            assert got.max() == pytest.approx(1, abs=digit)
            assert (np.diff(got[np.argsort(sample)]) >= 0).all()
        else:
            assert not got.any()


def test_gaia_network_keeps_a_scale_for_each_sample_in_its_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = {"spectrum": rng.normal(size=(40, 60)).astype(np.float32)}, rng.normal(size=40)
    model = MODELS["gaia-cnn"](max_epochs=1)
    model.fit(Examples(x, y), Examples(x, y), seed=0)
    folder = model.save(tmp_path / "model")
    assert np.array_equal(load_model(folder).predict(x).value, model.predict(x).value)
    card = json.loads((folder / "model.json").read_text())
    stretch = card["state"]["scaler"]["spectrum"]
    assert {name: len(values) for name, values in stretch.items()} == {"softening": 60, "mean": 60, "std": 60}
    # What a scale of one channel would do with 60 samples is not what the network learned.
    card["state"]["scaler"]["spectrum"] = {name: values[:1] for name, values in stretch.items()}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(StoreError, match="scales the channels"):
        load_model(folder)
