import numpy as np
import pytest
from scipy.special import softmax

from skyfuse.errors import UsageError
from skyfuse.models import Examples, load_model
from skyfuse.models.hybrid import Hybrid, _at_rest, _coarser, _local
from skyfuse.models.stars import one_peaked
from skyfuse.models.template import Shifted, polynomials, weighted

from .spectra import CLASSES, observe

QUICK = {"draws": 4000, "epochs": 5, "width": 96, "rejection": 0.1}


@pytest.fixture(scope="module")
def classifier(folder, sets):
    model = Hybrid(templates=str(folder), **QUICK)
    (x, y, _), (valid, y_valid, _) = observe(sets, 60, 1), observe(sets, 20, 2)
    model.fit(Examples(x, y), Examples(valid, y_valid), seed=0, kind="classification", classes=CLASSES)
    return model


def test_a_local_fit_is_the_full_fit_at_that_shift(sets):
    x, _, _ = observe(sets, 3, seed=5)
    flux, weight = weighted(x, 2)
    templates = Shifted(sets[1], 2)
    at = np.array([[0, 400], [1, 2], [900, 300]])
    found = _local(templates.vectors, templates.products, templates.polynomials, flux, weight, at)
    for i in range(3):
        chi2, _ = templates.fit(flux[i], weight[i])
        assert found[i] == pytest.approx(chi2[len(chi2) - 1 - at[i]], rel=1e-8)


def test_stars_at_rest_are_fitted_with_their_polynomial(sets):
    x, _, _ = observe(sets, 3, seed=6)
    flux, weight = weighted(x, 2)
    stars = np.concatenate([Shifted(s, 2).at(0)[:1] for s in sets if s.kind == "STAR"])
    found = _at_rest(stars, polynomials(936, 3), flux, weight)
    for i in range(3):
        root = np.sqrt(weight[i])
        for star, chi2 in zip(stars, found[i], strict=True):
            design = np.concatenate([star[None], polynomials(936, 3)]).T * root[:, None]
            best, *_ = np.linalg.lstsq(design, flux[i] * root, rcond=None)
            expected = np.sum((flux[i] * root - design @ best) ** 2)
            assert chi2 == pytest.approx(expected, rel=1e-4) if best[0] > 0 else chi2 == np.inf


def test_classes_come_back(sets, classifier):
    x, y, _ = observe(sets, 90, seed=3)
    found = classifier.predict(x)
    assert (found.value == y).mean() > 0.9
    assert found.probability.sum(axis=1) == pytest.approx(1)


def test_redshifts_come_back(folder, sets):
    (x, _, z), (test, _, truth) = observe(sets, 60, 1), observe(sets, 90, seed=3)
    model = Hybrid(templates=str(folder), **QUICK)
    history = model.fit(Examples(x, z), Examples(x, z), seed=0)
    error = np.abs(model.predict(test).value - truth) / (1 + truth)
    assert np.mean(error < 0.01) > 0.8
    assert np.median(error) < 3e-4
    assert history["metric"] == "RMSE"


def test_smooth_light_is_no_known_object(classifier):
    flux = 1 + 0.1 * np.random.default_rng(4).standard_normal((20, 936))
    x = {"spectrum": flux.astype(np.float32), "spectrum_sigma": np.full((20, 936), 0.1, np.float32)}
    assert classifier.predict(x).unknown.mean() > 0.7


def test_a_saved_model_needs_no_folder(tmp_path, sets, classifier):
    x, _, _ = observe(sets, 9, seed=7)
    loaded = load_model(classifier.save(tmp_path / "model"))
    one, other = classifier.predict(x), loaded.predict(x)
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.unknown, other.unknown)


def test_types_of_stars_need_no_flux_calibration(folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=("A", "G", "M"))
    model = Hybrid(templates=str(folder), **QUICK)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=("A", "G", "M"))
    bent = {**x, "spectrum": x["spectrum"] * np.linspace(1, 5, 936, dtype=np.float32)}
    assert (model.predict(bent).value == y).mean() > 0.9


def test_members_are_averaged_and_saved(tmp_path, folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=("A", "G", "M"))
    kind = {"kind": "classification", "classes": ("A", "G", "M")}
    small = {"templates": str(folder), "draws": 500, "epochs": 1, "width": 8}
    model = Hybrid(**small, members=2)
    model.fit(Examples(x, y), Examples(x, y), seed=0, **kind)
    both = model.predict(x).probability
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(x).probability, both)
    coarse = _coarser(*weighted(x, 2))
    alone = [softmax(model._odds([member], *coarse).astype(float), axis=1) for member in model._members]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(both, one_peaked(np.mean(alone, axis=0), [0, 1, 2]), atol=1e-6)


def test_a_lost_core_of_a_line_is_no_continuum(folder, sets):
    x, y, _ = observe(sets, 60, seed=3, kinds=("A", "G", "M"))
    model = Hybrid(templates=str(folder), **QUICK)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=("A", "G", "M"))
    flux = np.ones((1, 468), np.float32)
    flux[0, 200:205] = 0.7
    weight = np.ones_like(flux)
    whole = model._inputs(flux, weight)
    weight[0, 202] = 0
    lost = model._inputs(np.where(weight > 0, flux, 0), weight)
    assert whole[0, 202] < -0.2
    assert lost[0, 202] == pytest.approx(lost[0, 201:204:2].mean(), abs=1e-6)
    assert lost[0, 202] < -0.2


@pytest.mark.parametrize(
    "wrong", [{"draws": 10}, {"members": 0}, {"epochs": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}]
)
def test_impossible_parameters(wrong):
    with pytest.raises(UsageError, match="out of range"):
        Hybrid(**wrong)
