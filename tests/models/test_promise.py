"""A level is promised for a target where it can be kept, and refused with the reason where it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyfuse.errors import DataError
from skyfuse.models import MODELS, Conformal, Examples
from skyfuse.models.applicability import Applicability
from skyfuse.models.promise import Sample, borne_out, label_shares, promised
from skyfuse.models.shift import Evidence
from skyfuse.models.summaries import summarise


def regression(rng, n, shift=0.0, spread=1.0):
    """Return inputs and labels whose scatter grows with the first column."""
    x = rng.normal([shift, 0], spread, size=(n, 2)).astype(np.float32)
    y = np.sin(x[:, 1]) + 0.3 * np.exp(0.6 * x[:, 0]) * rng.normal(size=n)
    return {"table": x}, y


def classes(rng, n, share):
    """Return inputs and classes of two kinds that overlap, the second with a share."""
    y = (rng.random(n) < share).astype(int)
    return {"table": (rng.normal(size=(n, 2)) + 1.6 * y[:, None]).astype(np.float32)}, y


def made(train, calibration, name="knn", names=(), others=None, **params):
    model = MODELS[name](**params)
    options = {"kind": "classification", "classes": names} if names else {}
    model.fit(Examples(*train), Examples(*calibration), seed=0, **options)
    model.calibrate(*calibration)
    model.applicability = Applicability.fit(summarise(train[0], ()))
    model.evidence = Evidence.of(model, *calibration, others)
    return model


def asked(model, x, beside=None):
    summary = summarise(x, ())
    told = model.predict(x)
    values = told.value[:, None] if told.probability is None else told.probability
    outside = model.applicability.outside(summary) != ""
    sample = Sample(model.applicability.places(summary), values, outside, beside or {})
    return promised(model.applicability, model.interval, model.evidence, sample)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(1)
    return made(regression(rng, 1500), regression(rng, 1500), k=20)


def test_a_shift_of_the_inputs_is_weighed_away(model):
    rng = np.random.default_rng(2)
    x, y = regression(rng, 2000, shift=0.8)
    scores, width = model.interval.scores, np.abs(model.evidence.values[:, 0] - model.evidence.truth)
    before = Conformal.of(replace(scores, value=width), "error", 0.9).limits(model._output(x), x)
    weighted, promise = asked(model, x)
    limits = weighted.limits(model._output(x), x)
    covered = np.mean((limits["low"] <= y) & (y <= limits["high"]))
    # One width for all, not weighed, fails.
    assert np.mean((before["low"] <= y) & (y <= before["high"])) < 0.87
    assert covered == pytest.approx(0.9, abs=3 * promise.spread)
    assert (promise.given, promise.calibrated) == (2000, 1500)
    # exp(−δ²) of objects count as equal ones between normal distributions δ apart: 0.53 of 1,500.
    assert promise.effective == pytest.approx(1500 * np.exp(-(0.8**2)), rel=0.25)
    assert promise.spread == pytest.approx(np.sqrt(0.09 / promise.effective), rel=0.5)
    assert promise.apart == pytest.approx(0.714, abs=0.03)  # Φ(δ/√2)


@pytest.mark.parametrize(
    ("shift", "spread", "reason"),
    [
        (9.0, 1.0, "lie outside of what the training taught"),
        (1.5, 1.3, "lie outside of what the training taught"),
        (1.9, 0.2, "can be told from those of the training"),
    ],
)
def test_what_the_training_hardly_holds_is_refused(model, shift, spread, reason):
    x, _ = regression(np.random.default_rng(3), 800, shift=shift, spread=spread)
    with pytest.raises(DataError, match=f"no level can be promised for it: .*{reason}"):
        asked(model, x)


def test_too_few_calibration_objects_are_refused():
    rng = np.random.default_rng(4)
    few = made(regression(rng, 800), regression(rng, 150), k=20)
    with pytest.raises(DataError, match=r"150 calibration objects tell as much as \d\d: the coverage"):
        asked(few, regression(rng, 800, shift=1.0)[0])


def test_weights_that_make_nothing_alike_are_refused(model):
    # Two islands where the training has one hill: no polynomial of second degree makes one of the other.
    rng = np.random.default_rng(5)
    x, _ = regression(rng, 3000)
    x["table"][:, 0] = np.where(rng.random(3000) < 0.5, -1.15, 1.15) + 0.05 * rng.normal(size=3000)
    with pytest.raises(DataError, match="the inputs are distributed otherwise"):
        asked(model, x)


def test_shares_of_classes_come_out_of_what_the_model_says():
    rng = np.random.default_rng(6)
    model = made(classes(rng, 2000, 0.2), classes(rng, 2000, 0.2), "logistic", ("a", "b"))
    new, y = classes(rng, 3000, 0.6)
    ratio = label_shares(model.evidence, model.predict(new).probability)
    share = np.bincount(model.evidence.truth.astype(int)) / 2000 * ratio
    np.testing.assert_allclose(share, [0.4, 0.6], atol=0.04)
    assert np.mean(y) == pytest.approx(0.6, abs=0.03)


def test_a_shift_of_the_classes_that_breaks_the_promise_is_named():
    # Rare stars that look like galaxies: the sets miss them, and in the target they are common.
    rng = np.random.default_rng(7)

    def sky(n, share):
        y = (rng.random(n) < share).astype(int)
        return {"table": (rng.normal(size=(n, 2)) + 0.9 * y[:, None]).astype(np.float32)}, y

    model = made(sky(3000, 0.08), sky(3000, 0.08), "logistic", ("galaxy", "star"))
    x, y = sky(3000, 0.45)
    asked(model, x)  # Each class has its own threshold, which holds however many there are of it.
    assert np.mean(model.predict(x).members[np.arange(3000), y]) == pytest.approx(0.9, abs=0.03)
    model.interval = Conformal.of(model.interval.scores, "probability", 0.9)
    with pytest.raises(DataError, match=r"other shares of the classes \(label shift: 0\.5\d, 0\.4\d"):
        asked(model, x)
    # What it is refused for is true: weights alone would not cover.
    assert np.mean(model.predict(x).members[np.arange(3000), y]) < 0.8


def test_sets_of_a_shifted_sample_are_promised():
    rng = np.random.default_rng(8)
    model = made(classes(rng, 2000, 0.5), classes(rng, 2000, 0.5), "logistic", ("a", "b"))
    x, y = classes(rng, 6000, 0.5)
    kept = rng.random(6000) < 1 / (1 + np.exp(-1.2 * x["table"][:, 0]))
    x, y = {"table": x["table"][kept]}, y[kept]
    weighted, promise = asked(model, x)
    members = weighted.limits(model._output(x), x)["members"]
    assert np.mean(members[np.arange(len(y)), y]) == pytest.approx(0.9, abs=3 * promise.spread)


def test_a_shift_of_what_the_model_does_not_read_is_named():
    # Nearer galaxies of one magnitude have less mass; the magnitudes alone do not tell how near they are.
    rng = np.random.default_rng(9)

    def galaxies(n, near, far):
        distance = rng.uniform(near, far, n)
        x = rng.normal(size=(n, 2)).astype(np.float32)
        y = x[:, 0] + 2 * np.log10(distance) + 0.05 * rng.normal(size=n)
        return ({"table": x}, y), {"cz": distance, "ra": rng.uniform(0, 360, n)}

    train, _ = galaxies(1500, 4200, 7200)
    calibration, others = galaxies(1500, 4200, 7200)
    model = made(train, calibration, "linear", others=others)
    assert model.evidence.columns == ("cz",)
    shifts = (3000, 7200, r"\d\d% of its objects lie outside"), (4200, 6000, "it is distributed otherwise")
    for near, far, reason in shifts:
        (x, _), known = galaxies(1500, near, far)
        with pytest.raises(DataError, match=f"errors go with cz, which it does not read, and {reason}"):
            asked(model, x, {"cz": known["cz"]})
    # What it is refused for is true.
    (x, y), _ = galaxies(1500, 3000, 7200)
    told = model.predict(x)
    assert np.mean((told.low <= y) & (y <= told.high)) < 0.82
    (x, _), known = galaxies(1500, 4200, 7200)
    assert asked(model, x, {"cz": known["cz"]})[1].beside == 1
    # So close a relation is too much to be taken on trust.
    with pytest.raises(DataError, match=r"errors go with cz \(rank correlation 0\.\d\d\), which neither"):
        asked(model, x)


def test_a_level_is_borne_out_where_the_calibration_objects_nearby_are_covered():
    # One wide threshold for all: bright objects are covered always, faint ones in two thirds.
    rng = np.random.default_rng(10)

    def sky(n):
        x = rng.uniform(-1, 1, size=(n, 2)).astype(np.float32)
        return {"table": x}, np.where(x[:, 0] > 0, 3.0, 1.0) * rng.normal(size=n)

    model = made(sky(1000), sky(2000), "linear")
    errors = np.abs(model.evidence.truth - model.evidence.values[:, 0])
    plain = Conformal.of(replace(model.interval.scores, value=errors), "error", 0.9)
    evidence = replace(model.evidence, scores=errors)
    x, _ = sky(2000)
    held = borne_out(plain, evidence, model.applicability.places(summarise(x, ())))
    faint = x["table"][:, 0] > 0
    assert held[~faint].mean() > 0.95
    assert held[faint].mean() < 0.3
