import hashlib
import json

import numpy as np
import pytest
from mapie.regression import CrossConformalRegressor
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from skyfuse.errors import StoreError, UsageError
from skyfuse.models import MODELS, Conformal, Examples, Mixture, Output, load_model
from skyfuse.models.rounds import Rounds, crossed_end
from skyfuse.models.uncertainty import Scores, ties


def inputs(n, seed, columns=3):
    return {"table": np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)}


def scores(value):
    return Scores(np.asarray(value, float), np.zeros(len(value)), np.zeros(len(value), dtype=np.int64))


class Fixed:
    """A fitted and calibrated member that says what it is told to say."""

    fitted, shapes, inputs = True, {"table": (3,)}, {"table": "table"}

    def __init__(self, output, classes=()):
        self.kind, self.classes = ("classification" if classes else "regression"), classes
        self.interval = Conformal(
            0.9, "probability" if classes else "error", (1.0,), (0.5,) if classes else ()
        )
        self._said = output

    def _output(self, x):
        return self._said


def test_jackknife_plus_of_four_objects_worked_by_hand():
    # Leaving each of four objects out, the models say 1, 2, 4 and 3 of a new one, and missed by 1, 0.5, 2, 1.
    model = Rounds([Fixed(Output(np.array([value]))) for value in (1.0, 2.0, 4.0, 3.0)])
    model.join([scores([miss]) for miss in (1.0, 0.5, 2.0, 1.0)], 0.6)
    told = model.predict(inputs(1, 0))
    assert told.value.tolist() == [2.5]
    # Of the upper ends 2, 2.5, 6, 4 the third, ⌈0.6 · 5⌉, from below; of the lower 0, 1.5, 2, 2 from above.
    assert told.high.tolist() == pytest.approx([4.0], abs=1e-5)
    assert told.low.tolist() == pytest.approx([1.5], abs=1e-5)


def test_ends_are_order_statistics_of_all_rounds_shifted_and_scaled():
    rng = np.random.default_rng(0)
    value, scale = rng.normal(size=(4, 60)), rng.uniform(0.5, 2, (4, 60))
    own = [np.sort(np.abs(rng.normal(size=n))) for n in (7, 0, 11, 8)]
    every = np.concatenate([value[k, :, None] + scale[k, :, None] * own[k] for k in range(4)], axis=1)
    for rank in (1, 13, 24, 26):
        expected = np.sort(every, axis=1)[:, rank - 1]
        found = crossed_end(value, scale, own, rank)
        assert (found >= expected - 1e-12).all()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_intervals_are_those_of_mapie():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3))
    y = x @ [1, 2, 3] + rng.normal(size=60)
    new = rng.normal(size=(40, 3))
    folds = KFold(5)
    reference = CrossConformalRegressor(LinearRegression(), confidence_level=0.9, method="plus", cv=folds)
    reference.fit_conformalize(x, y)
    _, limits = reference.predict_interval(new)
    members, errors = [], []
    for train, held in folds.split(x):
        line = LinearRegression().fit(x[train], y[train])
        members.append(Fixed(Output(line.predict(new))))
        errors.append(scores(np.abs(y[held] - line.predict(x[held]))))
    model = Rounds(members)
    model.join(errors, 0.9)
    told = model.predict({"table": new.astype(np.float32)})
    np.testing.assert_allclose(told.low, limits[:, 0, 0], atol=1e-4)
    np.testing.assert_allclose(told.high, limits[:, 1, 0], atol=1e-4)


def test_sets_by_hand():
    # Two rounds; scores 1 − p of the true classes of their calibration objects, ten in all.
    said = [np.array([[0.7, 0.2, 0.1]]), np.array([[0.5, 0.45, 0.05]])]
    model = Rounds([Fixed(Output(one), ("a", "b", "c")) for one in said])
    misses = ([0.1, 0.2, 0.35, 0.6, 0.85], [0.05, 0.3, 0.52, 0.7, 0.9])
    model.join([scores(one) for one in misses], 0.8)
    told = model.predict(inputs(1, 0))
    np.testing.assert_allclose(told.probability, [[0.6, 0.325, 0.075]])
    # A class is out where ⌈0.8 · 11⌉ = 9 of the ten or more did better: of a 2 + 2, of b 4 + 3, of c 5 + 5.
    assert told.members.tolist() == [[True, True, False]]


def crossed(seed, n, unstable=0.0, rounds=4):
    """Models of a noisy line, joined over rounds; and 3,000 new objects of it."""
    rng = np.random.default_rng(seed)

    def sky(n):
        x = {"table": rng.normal(size=(n, 3)).astype(np.float32)}
        return x, x["table"][:, 0] + rng.normal(size=n)

    x, y = sky(n)
    turn = rng.permutation(n) % rounds
    members, errors = [], []
    for k in range(rounds):
        held, fitted = turn == k, turn != k
        model = MODELS["knn"](k=1 if unstable else 10)
        part = [Examples({"table": x["table"][mask]}, y[mask]) for mask in (fitted, held)]
        model.fit(part[0], part[0], seed=0)
        model.calibrate(part[1].x, part[1].y)
        members.append(model)
        errors.append(model.interval.scores)
    joined = Rounds(members)
    joined.join(errors, 0.9)
    return joined, sky(3000)


@pytest.mark.parametrize("unstable", [0, 1])
def test_joined_rounds_cover_new_objects(unstable):
    shares = []
    for seed in range(6):
        model, (x, y) = crossed(seed, 200, unstable)
        told = model.predict(x)
        shares.append(np.mean((told.low <= y) & (y <= told.high)))
        assert ((told.low <= told.value) & (told.value <= told.high)).all()
    # 1,200 calibration objects in all: ± 0.009 below; where rounds disagree they cover more, never less.
    assert 0.88 < np.mean(shares) < (0.99 if unstable else 0.93)


def test_densities_are_averaged():
    def peak(at):
        column = np.ones((5, 1))
        return Output(np.full(5, at), mixture=Mixture(at * column, 0.1 * column, column))

    members = [Fixed(peak(at)) for at in (0.0, 4.0)]
    for member in members:
        member.interval = Conformal(0.9, "density", (1.0,))
    model = Rounds(members)
    model.join([scores(np.linspace(0, 3, 30))] * 2, 0.9)
    told = model.predict(inputs(5, 0))
    assert told.pieces.shape == (5, 2, 2)
    np.testing.assert_allclose(told.pieces[0].mean(axis=1), [0, 4], atol=1e-6)


def test_models_that_are_no_rounds_of_one_are_refused():
    one, other = Fixed(Output(np.zeros(1))), Fixed(Output(np.zeros((1, 2))), ("a", "b"))
    bare = Fixed(Output(np.zeros(1)))
    bare.interval = None
    for members in ([], [one, other], [one, bare]):
        with pytest.raises(UsageError, match="no rounds of one"):
            Rounds(members)
    x = inputs(20, 0)
    part = Examples(x, x["table"][:, 0])
    with pytest.raises(UsageError, match="fit each round's model"):
        Rounds([one]).fit(part, part, seed=0)


@pytest.fixture
def saved(tmp_path):
    model, (x, _) = crossed(0, 200)
    return model, model.save(tmp_path / "model"), x


def test_joined_rounds_survive_the_disk(saved, tmp_path):
    model, folder, x = saved
    again = load_model(folder)
    now, then = again.predict(x), model.predict(x)
    for name in ("value", "low", "high"):
        assert np.array_equal(getattr(now, name), getattr(then, name))
    copy = again.save(tmp_path / "copy")
    for path in folder.rglob("*"):
        if path.is_file():
            assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes()
    # Calibrated on new objects it is a model like any other.
    again.calibrate(x, now.value + 1)
    assert again.predict(x).high == pytest.approx(now.value + 1, abs=1e-6)
    assert load_model(again.save(copy)).predict(x).high == pytest.approx(now.value + 1, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("round", lambda a: a + 4, "scores that are none"),
        ("round", lambda a: a - 1, "scores that are none"),
        ("value", lambda a: -a - 1, "scores that are none"),
        ("tie", lambda a: a + 1, "scores that are none"),
        ("group", lambda a: a + 1, "scores that are none"),
        ("value", lambda a: a[:-1], "does not fit its card"),
        ("members", lambda a: [*a[:-1], "../model"], "names the member"),
        ("members", lambda a: a[:0], "no rounds of one"),
        ("members", lambda a: [*a, "member-9"], "is no model folder"),
    ],
)
def test_damage_is_refused(saved, name, change, fault):
    _, folder, _ = saved
    card = json.loads((folder / "model.json").read_text())
    if name == "members":
        card["state"]["members"] = change(card["state"]["members"])
    else:
        arrays = load_file(folder / "arrays.safetensors")
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
        save_file(arrays, folder / "arrays.safetensors")
        digest = hashlib.sha256((folder / "arrays.safetensors").read_bytes()).hexdigest()
        card["files"]["arrays.safetensors"] = digest
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(StoreError, match=fault):
        load_model(folder)


def test_ties_order_equal_scores_of_sets():
    # Every calibration object and every new one has the same score: nine of ten sets hold the class.
    n = 400
    x = inputs(n, 3)
    said = np.tile([0.6, 0.4], (n, 1))
    model = Rounds([Fixed(Output(said), ("a", "b")) for _ in range(2)])
    numbers = np.random.default_rng(4).uniform(size=(2, 200))
    same = [Scores(np.full(200, 0.4), own, np.zeros(200, dtype=np.int64)) for own in numbers]
    model.join(same, 0.9)
    members = model.predict(x).members
    assert abs(members[:, 0].mean() - 0.9) < 0.06
    assert np.array_equal(members[:, 0], ties(x) <= np.sort(numbers.ravel())[360])
