"""Weighted intervals and sets: with equal weights those without, and right where the inputs shift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyfuse.models import MODELS, Examples
from skyfuse.models.applicability import Applicability
from skyfuse.models.base import Output
from skyfuse.models.mixture import Mixture, surprise
from skyfuse.models.shift import Digest, Evidence, Weighted, places_of
from skyfuse.models.summaries import summarise
from skyfuse.models.uncertainty import Conformal
from skyfuse.models.weighing import Ratio, weigh


def equal(axes):
    return Ratio(np.full(axes, -9.0), np.full(axes, 9.0), np.zeros(1), np.zeros(axes), np.zeros((axes, axes)))


def tables(rng, n, shift=0.0):
    """Return inputs and labels whose scatter grows with the first column."""
    x = rng.normal([shift, 0], 1, size=(n, 2)).astype(np.float32)
    y = x[:, 0] + np.sin(x[:, 1]) + 0.3 * np.exp(0.6 * x[:, 0]) * rng.normal(size=n)
    return {"table": x}, y


def calibrated(name, rng, n, classes=(), **params):
    """Return a model with what it keeps of its training and calibration."""
    parts = [tables(rng, n) for _ in range(2)]
    if classes:
        parts = [(x, (y > 0.5).astype(int)) for x, y in parts]
    model = MODELS[name](**params)
    options = {"kind": "classification", "classes": classes} if classes else {}
    model.fit(Examples(*parts[0]), Examples(*parts[1]), seed=0, **options)
    model.calibrate(*parts[1])
    model.applicability = Applicability.fit(summarise(parts[0][0], ()))
    model.evidence = Evidence.of(model, *parts[1])
    return model


@pytest.mark.parametrize("classes", [(), ("low", "high")])
def test_with_equal_weights_nothing_changes(classes):
    rng = np.random.default_rng(1)
    model = calibrated("tree", rng, 300, classes, max_depth=3)
    new, _ = tables(rng, 500)
    plain = model.predict(new)
    axes = model.evidence.places.shape[1]
    model.interval = Weighted(model.interval, model.evidence, equal(axes), model.applicability)
    found = model.predict(new)
    assert found.level == 0.9
    if classes:
        assert np.array_equal(found.members, plain.members)
    else:
        np.testing.assert_allclose(found.low, plain.low)
        np.testing.assert_allclose(found.high, plain.high)


def test_coverage_returns_where_the_inputs_shift():
    plain, weighted = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        model = calibrated("knn", rng, 2000, k=20)
        x, y = tables(rng, 2000, shift=1.0)
        # One width for all: what is learned of difficulty would mend most of it.
        width = np.abs(model.evidence.values[:, 0] - model.evidence.truth)
        model.evidence = replace(model.evidence, scores=width)
        model.interval = Conformal.of(replace(model.interval.scores, value=width), "error", 0.9)
        before = model.predict(x)
        plain.append(np.mean((before.low <= y) & (y <= before.high)))
        ratio = weigh(model.applicability.points, places_of(model.applicability, x)).ratio
        model.interval = Weighted(model.interval, model.evidence, ratio, model.applicability)
        after = model.predict(x)
        weighted.append(np.mean((after.low <= y) & (y <= after.high)))
    assert np.mean(plain) < 0.86
    # Weights leave some 700 of 2,000 objects: ± √(0.09/700/4) = 0.006 on the mean of four.
    assert np.mean(weighted) == pytest.approx(0.9, abs=0.02)


def test_an_object_that_outweighs_all_others_gets_no_finite_interval():
    rng = np.random.default_rng(2)
    model = calibrated("knn", rng, 200, k=5)
    steep = replace(equal(2), linear=np.array([3.0, 0.0]))
    model.interval = Weighted(model.interval, model.evidence, steep, model.applicability)
    far = {"table": np.array([[9.0, 0], [0, 0], [-9, 0]], np.float32)}
    found = model.predict(far)
    endless = np.isinf(found.low)
    assert endless.any()
    assert not endless.all()
    assert np.array_equal(endless, np.isinf(found.high))


def test_sets_hold_all_classes_where_no_promise_reaches():
    rng = np.random.default_rng(3)
    model = calibrated("tree", rng, 300, ("low", "high"), max_depth=3)
    places = places_of(model.applicability, {"table": np.array([[9.0, 0]], np.float32)})
    steep = replace(equal(2), linear=9 * np.sign(places[0]).astype(float))
    model.interval = Weighted(model.interval, model.evidence, steep, model.applicability)
    assert model.predict({"table": np.array([[9.0, 0]], np.float32)}).members.tolist() == [[True, True]]


def test_pieces_of_a_density_are_weighed_too():
    n = 200
    rng = np.random.default_rng(4)
    centre = np.stack([np.zeros(n), np.full(n, 10.0)], axis=1)
    mixture = Mixture(centre, np.ones((n, 2)), np.full((n, 2), 0.5))
    y = 10.0 * rng.integers(0, 2, n) + rng.normal(size=n)
    x = {"table": rng.normal(size=(n, 2)).astype(np.float32)}
    plain = Conformal.fit(Output(centre.mean(axis=1), mixture=mixture), y, x, level=0.9)
    known = Applicability.fit(summarise(x, ()))
    scores = surprise(mixture, y)
    values, none = centre.mean(axis=1)[:, None], np.empty((n, 0))
    own = Evidence(places_of(known, x), values, y, scores, rng.random(n), none)
    weighted = Weighted(plain, own, equal(own.places.shape[1]), known)
    new = Output(centre.mean(axis=1)[:5], mixture=Mixture(*(array[:5] for array in mixture)))
    some = {"table": x["table"][:5]}
    expected, found = plain.limits(new, some), weighted.limits(new, some)
    np.testing.assert_allclose(found["pieces"], expected["pieces"], atol=1e-6)
    np.testing.assert_allclose(found["low"], expected["low"], atol=1e-6)
    endless = replace(weighted, ratio=replace(weighted.ratio, constant=np.array([25.0])))
    # Equal for all, so that constants change nothing.
    np.testing.assert_allclose(endless.limits(new, some)["pieces"], found["pieces"])


def test_what_is_kept_of_a_calibration_is_checked():
    model = calibrated("tree", np.random.default_rng(5), 300, ("low", "high"), max_depth=3)
    own = model.evidence
    again = Evidence.of_arrays((), own.arrays, classes=2)
    assert all(np.array_equal(again.arrays[name], array) for name, array in own.arrays.items())
    for wrong in (
        replace(own, scores=own.scores - 2),
        replace(own, numbers=own.numbers + 1),
        replace(own, truth=own.truth + 0.5),
        replace(own, truth=own.truth + 2),
        Evidence(*(array[:0] for array in own.arrays.values())),
    ):
        with pytest.raises(ValueError, match="damaged"):
            Evidence.of_arrays((), wrong.arrays, classes=2)


def test_a_digest_is_that_of_what_was_read():
    whole, parts, other = Digest(), Digest(), Digest()
    x = {"table": np.arange(12, dtype=np.float32).reshape(4, 3)}
    for digest in (whole, parts):
        digest.update(x)
    other.update({"table": x["table"] + 1})
    assert str(whole) == str(parts) != str(other)
