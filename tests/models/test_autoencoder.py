import numpy as np
import pytest

from skyfuse.dataset.features import Scaler
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import MODELS, Examples, load_model

PARAMS = {"autoencoder": {"latent": 5, "max_epochs": 12, "batch_size": 16}, "pca": {"latent": 5}}
BINS = 42


def spectra(n, *, bins=BINS, seed=0):
    """Lines of two kinds at a few places on a sloping continuum: a few numbers say all of it."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, bins)
    slope, place, height = rng.normal(size=n), rng.uniform(-0.5, 0.5, n), rng.uniform(0, 6, n)
    line = np.exp(-((grid - place[:, None]) ** 2) / 0.02)
    flux = 5 + slope[:, None] * grid + height[:, None] * line + rng.normal(scale=0.1, size=(n, bins))
    flux[::3, 10:15] = np.nan
    return {"spectrum": flux.astype(np.float32)}


@pytest.fixture(scope="module", params=PARAMS)
def model(request):
    built = MODELS[request.param](**PARAMS[request.param])
    built.course = built.fit(
        Examples(spectra(120)), Examples(spectra(60, seed=1)), seed=0, kind="reconstruction"
    )
    return built


def test_code_and_drawing_have_the_shapes_that_were_asked_for(model):
    x = spectra(30, seed=2)
    assert model.encode(x).shape == (30, 5)
    drawn = model.reconstruct(x)
    assert drawn.shape == (30, BINS)
    # The network's 5 values stand for 5 · 8 of 42 bins; one is left out at either end.
    left_out = 2 if model.name == "autoencoder" else 0
    assert np.isnan(drawn).sum(axis=1).tolist() == [left_out] * 30


def test_error_is_that_of_the_drawing_over_valid_bins(model):
    x = spectra(30, seed=2)
    scaler = Scaler.fit(spectra(120))
    drawn = scaler.transform({"spectrum": model.reconstruct(x)})["spectrum"]
    true = scaler.transform(x)["spectrum"]
    expected = np.nanmean((drawn - true) ** 2, axis=1)
    assert np.allclose(model.predict(x).value, expected, rtol=1e-3)


def test_drawing_learns_the_spectra(model):
    x = spectra(60, seed=3)
    drawn, flux = model.reconstruct(x), x["spectrum"]
    mean = np.nanmean(spectra(120)["spectrum"], axis=0)
    assert np.nanmean((drawn - flux) ** 2) < 0.5 * np.nanmean((mean - flux) ** 2)
    assert model.course["metric"] == "MSE"
    assert model.course["valid"][model.course["best"]] == pytest.approx(
        model.predict(spectra(60, seed=1)).value.mean(), rel=1e-4
    )


def test_different_spectra_have_different_codes(model):
    assert (model.encode(spectra(60, seed=3)).std(axis=0) > 0.01).sum() >= 3


def test_saved_model_says_the_same(model, tmp_path):
    x = spectra(20, seed=4)
    loaded = load_model(model.save(tmp_path / "m"))
    assert np.array_equal(loaded.encode(x), model.encode(x))
    assert np.array_equal(loaded.reconstruct(x), model.reconstruct(x), equal_nan=True)


def test_a_card_that_claims_another_code_is_refused(tmp_path):
    model = MODELS["pca"](latent=5)
    model.fit(Examples(spectra(40)), Examples(spectra(40)), seed=0, kind="reconstruction")
    path = model.save(tmp_path) / "model.json"
    path.write_text(path.read_text().replace('"latent": 5', '"latent": 4'))
    with pytest.raises(StoreError):
        load_model(tmp_path)


def test_principal_components_are_those_of_the_singular_values():
    x, y = spectra(200), spectra(30, seed=1)
    model = MODELS["pca"](latent=4)
    model.fit(Examples(x), Examples(y), seed=0, kind="reconstruction")
    scaler = Scaler.fit(x)
    train, test = (np.nan_to_num(scaler.transform(part)["spectrum"]).astype(float) for part in (x, y))
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:4]
    drawn = (test - mean) @ axes.T @ axes + mean
    stretch = scaler.stretches["spectrum"]
    flux = np.sinh(drawn * stretch.std + stretch.mean) * stretch.softening
    assert np.allclose(model.reconstruct(y), flux, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PARAMS)
def test_wrong_calls_are_named(name, model):
    fresh = MODELS[name](**PARAMS[name])
    x = spectra(10)
    with pytest.raises(UsageError, match="not fitted"):
        fresh.encode(x)
    both = {**x, "table": np.zeros((10, 2), np.float32)}
    with pytest.raises(UsageError, match="got spectrum and table; give it spectrum and nothing else"):
        fresh.fit(Examples(both), Examples(both), seed=0, kind="reconstruction")
    with pytest.raises(UsageError, match="cannot learn regression"):
        fresh.fit(Examples(x, np.zeros(10)), Examples(x, np.zeros(10)), seed=0)
    with pytest.raises(DataError, match=r"spectrum has shape \(50,\), and the model reads \(42,\)"):
        model.encode(spectra(3, bins=50))
    with pytest.raises(DataError, match=r"spectrum has shape \(\), and the model reads \(42,\)"):
        model.reconstruct({})


@pytest.mark.parametrize(
    ("name", "message"), [("autoencoder", "cannot be coded by 300"), ("pca", "have no 300")]
)
def test_a_code_longer_than_the_spectrum_is_refused(name, message):
    model = MODELS[name](**PARAMS[name] | {"latent": 300})
    with pytest.raises(DataError, match=message):
        model.fit(Examples(spectra(20)), Examples(spectra(20)), seed=0, kind="reconstruction")
    with pytest.raises(UsageError, match="latent is 0"):
        MODELS[name](latent=0)
