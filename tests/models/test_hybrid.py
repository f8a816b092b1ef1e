import json

import numpy as np
import pytest

from skyfuse.cube.grid import SDSS
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import Examples, load_model
from skyfuse.models.hybrid import SCANNED, Hybrid, _at_rest, _bridged, _local, _Scan, _typical
from skyfuse.models.template import TERMS, Shifted, polynomials, weighted

from .spectra import CLASSES, observe


@pytest.fixture(scope="module")
def classifier(folder, sets):
    model = Hybrid(templates=str(folder), rejection=0.1)
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
    model = Hybrid(templates=str(folder), rejection=0.1)
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


def test_the_scan_is_least_squares_with_its_weights(sets):
    """The projection that a scan takes for the best is where a plain fit, shift by shift, leaves least."""
    random = np.random.default_rng(1)
    root = random.uniform(0.5, 2, SCANNED)
    shifted = Shifted(sets[1], 3)
    scan = _Scan(shifted, root)
    flux = random.standard_normal((5, SCANNED))
    left = np.empty((5, len(scan.shifts)))
    for i, shift in enumerate(scan.shifts):
        light = shifted.at(int(shift))[:-TERMS].reshape(-1, SCANNED, scan.block).mean(axis=2)
        design = np.concatenate([light, polynomials(SCANNED, TERMS)]).T * root[:, None]
        solution = np.linalg.lstsq(design, (flux * root).T, rcond=None)[0]
        left[:, i] = np.square((flux * root).T - design @ solution).sum(axis=0)
    found = scan.proposals((flux * root).astype(np.float32))
    best = scan.shifts[left.argmin(axis=1)]
    assert found.shape == (5, 15)
    assert found[:, 2].tolist() == best.tolist()
    assert (np.diff(found[:, :5], axis=1) == 1).all()


def test_gaps_are_bridged_before_the_scan():
    flux, weight = np.tile(np.arange(468, dtype=np.float32), (2, 1)), np.ones((2, 468), np.float32)
    weight[0, 40:80] = 0
    flux[0, 40:80] = 0
    weight[1] = 0
    found = _bridged(flux, weight)
    assert found[0] == pytest.approx(np.arange(SCANNED) * 4 + 1.5, abs=1e-3)
    assert (found[1] == 0).all()


def test_typical_weights_are_those_of_most_spectra():
    weight = np.ones((9, 468), np.float32)
    weight[:, 100:104] = 4
    weight[0] *= 1e6
    weight[1] = 0
    weight[:, 200:204] = 0
    weight[:, 300:304] = 1e-9
    root = _typical(weight)
    assert root[[0, 25, 50]] == pytest.approx([1, 2, 1])
    assert root[75] == pytest.approx(20**-0.5)


def test_a_redshift_has_pieces_where_it_is_not_certain(folder, sets):
    (x, _, z), (other, _, truth) = observe(sets, 90, 1, noise=0.4), observe(sets, 60, seed=3, noise=0.4)
    model = Hybrid(templates=str(folder))
    model.fit(Examples(x, z), Examples(x, z), seed=0)
    model.calibrate(other, truth)
    new, _, label = observe(sets, 90, seed=5, noise=0.4)
    found = model.predict(new)
    assert found.pieces is not None
    held = (found.pieces[:, :, 0] <= label[:, None]) & (label[:, None] <= found.pieces[:, :, 1])
    assert held.any(axis=1).mean() > 0.8
    assert np.median(np.nansum(found.pieces[:, :, 1] - found.pieces[:, :, 0], axis=1)) < 0.02


@pytest.fixture(scope="module")
def regressor(folder, sets):
    x, _, z = observe(sets, 60, 1)
    model = Hybrid(templates=str(folder))
    model.fit(Examples(x, z), Examples(x, z), seed=0)
    model.calibrate(x, z)
    return model


def test_a_regression_is_saved_with_its_density(tmp_path, sets, regressor):
    x, _, _ = observe(sets, 30, seed=9)
    one = regressor.predict(x)
    two = load_model(regressor.save(tmp_path / "model")).predict(x)
    np.testing.assert_array_equal(one.value, two.value)
    np.testing.assert_array_equal(one.pieces, two.pieces)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["posterior"].update(heat=0.0),
        lambda state: state["posterior"].pop("share"),
        lambda state: state.pop("posterior"),
        lambda state: state.update(threshold=41.0),
        lambda state: state.update(threshold="12"),
        lambda state: state["sets"].pop(),
    ],
)
def test_damage_is_refused(tmp_path, regressor, damage):
    folder = regressor.save(tmp_path / "model")
    state = json.loads((folder / "model.json").read_text())
    damage(state["state"])
    (folder / "model.json").write_text(json.dumps(state))
    with pytest.raises(StoreError):
        load_model(folder)


def test_weights_that_are_none_are_refused(tmp_path, regressor):
    kept, regressor._root = regressor._root, np.zeros(SCANNED)
    folder = regressor.save(tmp_path / "model")
    regressor._root = kept
    with pytest.raises(StoreError, match="holds weights that are none"):
        load_model(folder)


def test_types_of_stars_by_their_fits_alone(folder, sets):
    x, y, _ = observe(sets, 30, seed=3, kinds=("A", "G", "M"))
    model = Hybrid(templates=str(folder))
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=("A", "G", "M"))
    assert (model.predict(x).value == y).all()


def test_spectra_too_coarse_are_refused(folder, sets):
    x, _, z = observe(sets, 9, 1, zoom=4)
    with pytest.raises(UsageError, match="zoom 3 or finer"):
        Hybrid(templates=str(folder)).fit(Examples(x, z), Examples(x, z), seed=0)


def test_narrow_lines_between_bins_are_found(folder, sets):
    """Of lines half as wide as a bin of 276 km/s, each shifted by its own share of a bin."""
    random = np.random.default_rng(8)
    wide = Hybrid(templates=str(folder))
    x, _, z = observe(sets, 30, 1)
    wide.fit(Examples(x, z), Examples(x, z), seed=0)
    galaxy = sets[0]
    truth = 10 ** random.uniform(0.05, 0.06, 24) - 1
    native = np.arange(SDSS.sizes[0]) + SDSS.first_bin
    flux = np.empty((24, SDSS.sizes[0]))
    for i, one in enumerate(truth):
        rest = native - np.log10(1 + one) * 1e4 - galaxy.first
        flux[i] = np.interp(rest, np.arange(galaxy.vectors.shape[1]), galaxy.vectors.sum(axis=0))
    flux += 0.02 * random.standard_normal(flux.shape)
    joined = flux.reshape(24, -1, 4).mean(axis=2).astype(np.float32)
    found = wide.predict({"spectrum": joined, "spectrum_sigma": np.full_like(joined, 0.01)})
    error = (found.value - truth) / (1 + truth)
    # A twelfth of a bin; three values at whole bins alone were off by up to a third.
    assert np.abs(error).max() < 8e-5
