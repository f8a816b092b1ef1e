import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skyfuse.cube.grid import SDSS
from skyfuse.errors import DataError, UsageError
from skyfuse.models import Examples, load_model
from skyfuse.models.template import (
    STEP,
    Shifted,
    Template,
    classes_of,
    polynomials,
    smooth_chi2,
    star_type,
    weighted,
)
from skyfuse.survey.sdss.spectra import read_spectrum

from .spectra import CLASSES, observe


@pytest.fixture(scope="module")
def classifier(folder, sets):
    model = Template(templates=str(folder))
    (x, y, _), (valid, y_valid, _) = observe(sets, 40, 1), observe(sets, 20, 2)
    model.fit(Examples(x, y), Examples(valid, y_valid), seed=0, kind="classification", classes=CLASSES)
    return model


def test_every_shift_is_a_weighted_least_squares_fit(sets):
    x, _, _ = observe(sets, 1, seed=5)
    (flux,), (weight,) = weighted(x, 2)
    templates = Shifted(sets[1], 2)
    chi2, amplitudes = templates.fit(flux, weight)
    root = np.sqrt(weight)
    for i in (0, 700, len(chi2) - 1):
        design = templates.at(int(templates.shifts[i])).T
        expected, *_ = np.linalg.lstsq(design * root[:, None], flux * root, rcond=None)
        assert amplitudes[i] == pytest.approx(expected, rel=1e-6, abs=1e-8)
        assert chi2[i] == pytest.approx(np.sum(weight * (flux - design @ expected) ** 2), rel=1e-9)


@pytest.mark.parametrize("zoom", [0, 2, 4])
def test_templates_are_averaged_over_the_bins_of_the_grid(sets, zoom):
    quasar = sets[1]
    shift = round(np.log10(2.5) / STEP) >> zoom
    seen = Shifted(quasar, zoom).at(shift)[0]
    first = SDSS.first_bin - (shift << zoom) - quasar.first
    native = quasar.vectors[0, first : first + SDSS.sizes[0]]
    expected = native.reshape(SDSS.sizes[zoom], -1).mean(axis=1)
    assert (seen / expected).std() == pytest.approx(0, abs=1e-6)


def test_bins_are_joined_by_plain_means_of_the_valid_ones():
    x = {
        "spectrum": np.full((1, 3744), 2.0, np.float32),
        "spectrum_sigma": np.full((1, 3744), 0.5, np.float32),
    }
    x["spectrum"][0, :4], x["spectrum"][0, 4:6] = np.nan, [4.0, 0.0]
    x["spectrum_sigma"][0, 6] = np.nan
    value, weight = weighted(x, 2)
    assert value[0, :3].tolist() == [0.0, 2.0, 2.0]
    assert weight[0, :3] == pytest.approx([0.0, 3 / 0.25, 4 / 0.25])


def test_without_sigma_it_is_taken_from_the_scatter_of_neighbours():
    noise = np.random.default_rng(0).normal(5, 0.3, (2, 3744)).astype(np.float32)
    _, weight = weighted({"spectrum": noise}, 0)
    assert weight**-0.5 == pytest.approx(0.3, rel=0.05)


def test_a_polynomial_leaves_nothing_for_lines():
    flux = np.array([[3.0, -1.0, 0.5]]) @ polynomials(936, 3)
    weight = np.full((1, 936), 4.0)
    assert smooth_chi2(flux, weight)[0] == pytest.approx(0, abs=1e-6)


def test_classes_and_redshifts_come_back(folder, sets, classifier):
    x, y, z = observe(sets, 60, seed=3)
    found = classifier.predict(x)
    assert (found.value == y).mean() > 0.95
    assert found.probability.sum(axis=1) == pytest.approx(1)
    model = Template(templates=str(folder))
    model.fit(Examples(x, z), Examples(x, z), seed=0)
    assert np.abs(model.predict(x).value - z) / (1 + z) == pytest.approx(0, abs=1e-3)


def test_smooth_light_is_no_known_object(sets, classifier):
    random = np.random.default_rng(4)
    flux = 1 + 0.1 * random.standard_normal((20, 936))
    x = {"spectrum": flux.astype(np.float32), "spectrum_sigma": np.full((20, 936), 0.1, np.float32)}
    assert classifier.predict(x).unknown.all()
    known, _, _ = observe(sets, 60, seed=6)
    assert classifier.predict(known).unknown.mean() < 0.25


def test_a_saved_model_needs_no_folder(tmp_path, sets, classifier):
    x, _, _ = observe(sets, 9, seed=7)
    loaded = load_model(classifier.save(tmp_path / "model"))
    one, other = classifier.predict(x), loaded.predict(x)
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.unknown, other.unknown)


@given(
    arrays(np.float32, (2, 234), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)),
    arrays(np.float32, (2, 234), elements=st.floats(0, 1e6, width=32) | st.just(np.nan)),
)
def test_any_input_gives_finite_answers(sets, flux, sigma):
    model = Template()
    model.shapes, model.kind, model.classes = {"spectrum": (234,)}, "classification", CLASSES
    model._take_up(sets[:2])
    found, several = model._evidence({"spectrum": flux, "spectrum_sigma": sigma})
    assert np.isfinite(found.penalised).all()
    assert np.isfinite(found.redshift).all()
    assert np.isfinite(several.redshift).all()
    assert (several.width > 0).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("F3/F5V (30743)", "F"),
        ("sd:F0 (G_84-29)", "F"),
        ("Am (78362)", "A"),
        ("Ldwarf", "L"),
        ("WDhotter", "WD"),
        ("CalciumWD", "WD"),
        ("Carbon", "Carbon"),
        ("WDmagnetic", "WDmagnetic"),
    ],
)
def test_types_of_stars(name, expected):
    assert star_type(name) == expected


def test_classes_are_found_by_kind_or_type(sets):
    assert classes_of(sets, ["star", "galaxy"]).tolist() == [1, -1, 0, 0, 0, 0]
    assert classes_of(sets, ["A", "M", "T2"]).tolist() == [-1, -1, -1, 0, -1, 1]
    with pytest.raises(UsageError, match=r"know fewer than two of the classes"):
        classes_of(sets, ["indoors", "outdoors"])


def test_wrong_calls_name_the_remedy(folder, sets, tmp_path):
    x, _, z = observe(sets, 6, seed=8)
    with pytest.raises(UsageError, match="--templates DIR"):
        Template().fit(Examples(x, z), Examples(x, z), seed=0)
    with pytest.raises(UsageError, match=r"spEigenGal-56436\.fits: holds no eigentemplates"):
        Template(templates=str(tmp_path)).fit(Examples(x, z), Examples(x, z), seed=0)
    with pytest.raises(UsageError, match=r"rejection is 0\.7"):
        Template(rejection=0.7)
    short = {"spectrum": x["spectrum"][:, :900]}
    with pytest.raises(DataError, match="900 bins"):
        Template(templates=str(folder)).fit(Examples(short, z), Examples(short, z), seed=0)
    table = {"table": np.ones((6, 2), np.float32)}
    with pytest.raises(UsageError, match="spectra alone"):
        Template(templates=str(folder)).fit(Examples(table, z), Examples(table, z), seed=0)


def load_real(folder):
    """Return the real spectra at zoom 2, their classes and redshifts, and which are sky or failed fibres."""
    files = sorted(folder.glob("*/spec-*.fits"))
    x = {name: np.full((len(files), 3744), np.nan, np.float32) for name in ("spectrum", "spectrum_sigma")}
    kinds, redshift = [], []
    for i, file in enumerate(files):
        spectrum = read_spectrum(file, keep_unknown=True)
        at = spectrum.first_bin - SDSS.first_bin + np.arange(len(spectrum.flux))
        inside = (at >= 0) & (at < 3744)
        x["spectrum"][i, at[inside]] = spectrum.flux[inside]
        x["spectrum_sigma"][i, at[inside]] = spectrum.sigma[inside]
        kinds.append(CLASSES.index(spectrum.catalogue["class"]))
        redshift.append(spectrum.catalogue["z"])
    value, weight = weighted(x, 2)
    sigma = np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, 1)), np.nan)
    joined = {"spectrum": np.where(weight > 0, value, np.nan), "spectrum_sigma": sigma}
    sky = np.array([file.parent.name == "sky_fibres" for file in files])
    return (
        {name: a.astype(np.float32) for name, a in joined.items()},
        np.array(kinds),
        np.array(redshift),
        sky,
    )


def test_real_spectra(real_data):
    x, y, _, sky = load_real(real_data / "sdss_spectra")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~sky))
    train, test = rows[:130], rows[130:]
    part = [{name: a[r] for name, a in x.items()} for r in (train[:100], train[100:], test, sky)]
    model = Template(templates=str(real_data / "templates" / "idlspec2d"))
    model.fit(
        Examples(part[0], y[train[:100]]),
        Examples(part[1], y[train[100:]]),
        seed=0,
        kind="classification",
        classes=CLASSES,
    )
    found = model.predict(part[2])
    assert found.unknown.mean() <= 0.1
    # Labels teach the model nothing: all objects judge it.
    assert (model.predict({name: a[rows] for name, a in x.items()}).value == y[rows]).mean() >= 0.98
    assert model.predict(part[3]).unknown.sum() >= 10
