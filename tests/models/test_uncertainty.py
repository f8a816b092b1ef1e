from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from mapie.regression import SplitConformalRegressor
from scipy.stats import binom
from sklearn.linear_model import LinearRegression, LogisticRegression

from skyfuse.dataset import Dataset, Material, Wanted
from skyfuse.errors import DataError, UsageError
from skyfuse.models import MODELS, Conformal, Examples, Mixture, Output, load_model, propagate
from skyfuse.models.uncertainty import ties
from skyfuse.survey.records import Samples
from tests.models.cards import inputs_of


def inputs(n, columns=3, seed=0):
    return {"table": np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)}


def within(share, n, level=0.9):
    """Whether a coverage of `level` gives so large a share of n objects, but for 1 in 10,000 times."""
    low, high = binom.interval(0.9999, n, level)
    return low <= round(share * n) <= high


@given(n=st.integers(9, 150), level=st.sampled_from([0.5, 0.8, 0.9]), seed=st.integers(0, 2**32 - 1))
def test_the_threshold_is_the_exact_finite_sample_quantile(n, level, seed):
    rng = np.random.default_rng(seed)
    value, y = rng.normal(size=n), rng.normal(size=n)
    found = Conformal.fit(Output(value), y, inputs(n), level=level)
    errors = np.abs(value - y)
    # The definition by counting: the smallest error with at least (n + 1) · level errors up to it.
    needed = (n + 1) * round(level * 10)
    expected = min(e for e in errors if 10 * np.count_nonzero(errors <= e) >= needed)
    assert found.thresholds == (expected,)
    assert found.difficulty is None


def test_intervals_are_those_of_mapie():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 3))
    y = x @ [1, 2, 3] + rng.normal(size=600)
    estimator = LinearRegression().fit(x[:300], y[:300])
    reference = SplitConformalRegressor(estimator, confidence_level=0.9, prefit=True)
    reference.conformalize(x[300:450], y[300:450])
    _, limits = reference.predict_interval(x[450:])
    ours = Conformal.fit(Output(estimator.predict(x[300:450])), y[300:450], inputs(150), level=0.9)
    found = ours.limits(Output(estimator.predict(x[450:])), inputs(150))
    assert np.allclose(found["low"], limits[:, 0, 0], rtol=1e-12)
    assert np.allclose(found["high"], limits[:, 1, 0], rtol=1e-12)


def test_sets_are_those_of_mapie():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(900, 3))
    y = np.argmax(x + rng.normal(size=x.shape), axis=1)
    estimator = LogisticRegression().fit(x[:300], y[:300])
    reference = SplitConformalClassifier(
        estimator, confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(x[300:600], y[300:600])
    _, sets = reference.predict_set(x[600:])
    ours = Conformal.fit(Output(estimator.predict_proba(x[300:600])), y[300:600], inputs(300), level=0.9)
    members = ours.limits(Output(estimator.predict_proba(x[600:])), inputs(300, seed=5))["members"]
    assert np.array_equal(members, sets[:, :, 0])


def test_a_scale_of_the_models_own_makes_widths_follow_it():
    rng = np.random.default_rng(4)
    value, scale = rng.normal(size=6000), rng.uniform(0.1, 2, 6000)
    y = value + 3 * scale * rng.normal(size=6000)
    # What is measured tells nothing here: what is learned on top of the scale adds no more than noise.
    found = Conformal.fit(Output(value[:3000], scale=scale[:3000]), y[:3000], inputs(3000), level=0.9)
    limits = found.limits(Output(value[3000:], scale=scale[3000:]), inputs(3000, seed=9))
    half = (limits["high"] - limits["low"]) / 2
    # Known: 1.645 σ each way, of σ = 3 · scale.
    assert np.median(half / scale[3000:]) == pytest.approx(3 * 1.645, rel=0.05)
    assert np.std(half / scale[3000:]) < 0.1 * 3 * 1.645
    inside = (limits["low"] <= y[3000:]) & (y[3000:] <= limits["high"])
    for small in (scale[3000:] < 0.5, scale[3000:] > 1.5):
        assert within(inside[small].mean(), np.count_nonzero(small))


def test_a_density_of_two_peaks_gives_both_where_both_are_needed():
    rng = np.random.default_rng(6)
    n = 4000
    # Known: peaks 10 apart of σ = 0.5; the second holds half of the odd objects, and none of the even ones.
    share = np.where(np.arange(n) % 2, 0.5, 1.0)
    peaks = np.stack([np.zeros(n), np.full(n, 10.0)], axis=1)
    mixture = Mixture(peaks, np.full((n, 2), 0.5), np.stack([share, 1 - share], axis=1))
    y = np.where(rng.uniform(size=n) < share, 0, 10) + 0.5 * rng.normal(size=n)
    half = [Mixture(*(a[part] for a in mixture)) for part in (slice(0, 2000), slice(2000, n))]
    found = Conformal.fit(Output(peaks[:2000, 0], mixture=half[0]), y[:2000], inputs(2000), level=0.9)
    limits = found.limits(Output(peaks[2000:, 0], mixture=half[1]), inputs(2000))
    low, high = limits["pieces"][:, :, 0], limits["pieces"][:, :, 1]
    assert np.isfinite(low).sum(axis=1).tolist() == [1, 2] * 1000
    assert np.array_equal(limits["low"], low[:, 0])
    assert np.array_equal(limits["high"], np.where(np.arange(2000) % 2, high[:, 1], high[:, 0]))
    # 90 % of each: ± 1.645 σ about every peak, give or take what 2000 objects tell.
    assert np.allclose(np.nansum(high - low, axis=1), np.tile([1.645, 2 * 1.645], 1000), rtol=0.08)
    inside = ((low <= y[2000:, None]) & (y[2000:, None] <= high)).any(axis=1)
    for kind in (0, 1):
        assert within(inside[kind::2].mean(), 1000)
    with pytest.raises(DataError, match="does not tell the density"):
        found.limits(Output(y), inputs(n))


def leaves(n, seed):
    """Objects of a tree with three leaves: probabilities of two classes, true classes, inputs."""
    rng = np.random.default_rng(seed)
    x = inputs(n, seed=seed + 1000)
    first = np.array([0.95, 0.9, 0.7])[np.digitize(x["table"][:, 0], [-0.5, 0.5])]
    return np.stack([first, 1 - first], axis=1), (rng.uniform(size=n) > first).astype(int), x


def test_sets_of_a_tree_with_three_leaves_cover_as_much_as_asked_and_no_more():
    # The threshold itself scatters by ± 0.30 / √4000 = 0.005 about the level, 0.0015 over ten of them.
    shares, without = [], []
    for seed in range(10):
        values, y, x = leaves(4000, seed)
        found = Conformal.fit(Output(values), y, x, level=0.9)
        values, y, x = leaves(10_000, seed + 100)
        shares.append(found.limits(Output(values), x)["members"][np.arange(10_000), y].mean())
        without.append((np.round(1 - values, 9) <= np.array(found.thresholds))[np.arange(10_000), y].mean())
    assert abs(np.mean(shares) - 0.9) < 0.007
    assert np.mean(without) > 0.93


def test_sets_may_be_empty_and_repeat_themselves():
    values = np.tile([0.7, 0.3], (500, 1))
    x = inputs(500)
    found = Conformal.fit(Output(values), np.zeros(500, int), x, level=0.5)
    members = found.limits(Output(values), x)["members"]
    assert np.array_equal(members, found.limits(Output(values), x)["members"])
    assert not members[:, 1].any()
    assert within(members[:, 0].mean(), 500, 0.5)
    one = {"table": x["table"][7:8]}
    assert np.array_equal(found.limits(Output(values[7:8]), one)["members"], members[7:8])


def test_numbers_of_objects_are_even_and_come_from_their_bytes():
    x = inputs(2000)
    numbers = ties(x)
    assert abs(numbers.mean() - 0.5) < 0.03
    assert np.ptp(np.histogram(numbers, 10, (0, 1))[0]) < 110
    assert len(np.unique(numbers)) == 2000
    copy = {"table": x["table"].copy()}
    copy["table"][3, 1] += 1
    assert np.flatnonzero(ties(copy) != numbers).tolist() == [3]


@pytest.mark.parametrize("name", ["linear", "tree", "lightgbm"])
def test_calibrated_intervals_of_models_cover_new_objects_and_survive_the_disk(name, tmp_path):
    rng = np.random.default_rng(5)
    x = inputs(5000)
    y = 2 * x["table"][:, 0] + rng.normal(size=5000)
    part = [({"table": x["table"][i : i + 1000]}, y[i : i + 1000]) for i in range(0, 5000, 1000)]
    model = MODELS[name]()
    model.fit(Examples(*part[0]), Examples(*part[1]), seed=0)
    assert model.predict(part[3][0]).low is None
    model.calibrate(*part[2])
    test, y_test = {"table": x["table"][3000:]}, y[3000:]
    prediction = model.predict(test)
    assert prediction.level == 0.9
    assert abs(np.mean((prediction.low <= y_test) & (y_test <= prediction.high)) - 0.9) < 0.035
    again = load_model(model.save(tmp_path / name)).predict(test)
    assert np.array_equal(again.low, prediction.low)
    assert np.array_equal(again.high, prediction.high)
    model.fit(Examples(*part[0]), Examples(*part[1]), seed=0)
    assert model.interval is None


def test_too_few_objects_and_impossible_levels_are_named():
    value = np.arange(8.0)
    with pytest.raises(DataError, match=r"8 objects, too few for level 0\.9; give at least 9"):
        Conformal.fit(Output(value), value, inputs(8), level=0.9)
    with pytest.raises(DataError, match="at least 99"):
        Conformal.fit(Output(value), value, inputs(8), level=0.99)
    for level in (0, 1, -1, 90, float("nan")):
        with pytest.raises(UsageError, match="probability between 0 and 1"):
            Conformal.fit(Output(value), value, inputs(8), level=level)


def test_calibration_goes_to_json_and_back():
    for found, classes in [
        (Conformal(0.9, "error", (1.0,)), 0),
        (Conformal(0.9, "density", (2.5,)), 0),
        (Conformal(0.9, "probability", (0.25,), (0.5,)), 3),
        (Conformal(0.9, "probability", (0.25, 0.5, 0.1), (0.5, 0.0, 0.25)), 3),
    ]:
        assert Conformal.from_dict(found.to_dict(), classes=classes) == found
        with pytest.raises(ValueError, match="damaged"):
            Conformal.from_dict(found.to_dict(), classes=3 - classes)
        if len(found.thresholds) > 1:
            with pytest.raises(ValueError, match="damaged"):
                Conformal.from_dict(found.to_dict(), classes=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"level": 1.5},
        {"level": "0.9"},
        {"thresholds": []},
        {"thresholds": [-2.0]},
        {"thresholds": [float("nan")]},
        {"thresholds": [1.0, 2.0]},
        {"thresholds": 3},
        {"score": "luck"},
        {"score": None},
        {"score": "probability"},
        {"ties": [0.5]},
        {"ties": None},
        {"command": "x"},
    ],
)
def test_damaged_calibrations_are_refused(changes):
    state = {"level": 0.9, "score": "error", "thresholds": [1.0], "ties": []}
    with pytest.raises((TypeError, ValueError)):
        Conformal.from_dict({**state, **changes}, classes=0)


@pytest.fixture
def catalogue(tmp_path):
    """A dataset of 40 objects: a spectrum with σ, and magnitudes of which two have errors."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(40, 3)), columns=["u", "g", "r"])
    table["err_u"], table["G_err"] = 0.3, 0.4
    table.loc[5, "err_u"] = np.nan
    table["y"] = table["u"]
    value = rng.normal(size=(40, 30)).astype(np.float32)
    value[3, 10] = np.nan
    sigma = np.where(np.isnan(value), np.nan, 0.5).astype(np.float32)
    material = Material(
        table,
        {("spectrum", 0): Samples(value, sigma, np.isfinite(value).astype(np.float16))},
        {"source": "random numbers"},
        {"spectrum": {"grid": "mine", "sizes": [30]}},
        {("spectrum", 0): np.arange(30.0) + 4000},
    )
    wanted = Wanted(label="y", columns=["u", "g", "r"], split=None)
    return Dataset.from_arrays(material, tmp_path / "data", wanted)


class Sum:
    """A fitted linear model with coefficients of our own, so that the spread is known."""

    def __init__(self, modality, coefficients, **card):
        self.modality, self.coefficients = modality, np.array(coefficients)
        self.require_inputs = lambda dataset: {"columns": (), "smooth": 0.0, "sigma": False, **card}

    def predict(self, x):
        return SimpleNamespace(value=np.nan_to_num(x[self.modality]) @ self.coefficients, classes=())


def test_spread_of_a_sum_is_the_sum_of_squares_and_a_difference_shares_its_errors(catalogue):
    model = Sum("table", [1, 2], columns=("u-g", "u"), zooms={"table": 0})
    found = propagate(model, catalogue, np.arange(40), draws=400, seed=1)
    u, g = (catalogue.table[name].to_numpy() for name in "ug")
    assert np.allclose(found["value"], 3 * u - g, atol=1e-5)
    # 3 u − g with σ_u = 0.3 and σ_g = 0.4; one object has no σ_u.
    expected = np.full(40, np.hypot(0.9, 0.4))
    expected[5] = 0.4
    assert np.allclose(found["spread"], expected, rtol=0.2)
    assert np.mean(found["spread"] / expected) == pytest.approx(1, abs=0.02)
    assert np.abs(found["mean"] - found["value"]).max() < 5 * 1.0 / np.sqrt(400)
    again = propagate(model, catalogue, np.arange(40), draws=400, seed=1)
    pd.testing.assert_frame_equal(found, again)


def test_errors_of_spectra_pass_the_smoothing(catalogue):
    one = np.zeros(30)
    one[15] = 1
    rows = np.array([0, 3, 9])
    for smooth, shrunk in ((0.0, 1.0), (3.0, np.sqrt(1 / (2 * np.sqrt(np.pi) * 3)))):
        model = Sum("spectrum", one, smooth=smooth, zooms={"spectrum": 0})
        found = propagate(model, catalogue, rows, draws=500, seed=0)
        # White noise smoothed by a Gaussian of width w keeps 1 / (2 √π w) of its variance.
        assert found["spread"].to_numpy() == pytest.approx(0.5 * shrunk, rel=0.15)
        assert found.index.tolist() == rows.tolist()


def test_classes_are_told_with_their_agreement(catalogue):
    x = catalogue.inputs({"table": 0}, np.arange(40))
    y = (x["table"][:, 0] > 0).astype(int)
    model = MODELS["logistic"]()
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=("low", "high"))
    model.card["inputs"] = inputs_of({"table": 0}, columns=["u", "g", "r"])
    found = propagate(model, catalogue, [7, 8], draws=30, seed=0)
    assert found.columns.tolist() == ["value", "agreement", "p_low", "spread_low", "p_high", "spread_high"]
    assert found["value"].isin(["low", "high"]).all()
    assert np.allclose(found["p_low"] + found["p_high"], 1)
    assert ((found["agreement"] > 0.4) & (found["agreement"] <= 1)).all()
    assert (found["spread_low"] > 0).all()
    with pytest.raises(UsageError, match="2 or more"):
        propagate(model, catalogue, [7], draws=1, seed=0)
