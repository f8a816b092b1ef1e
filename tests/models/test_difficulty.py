import hashlib
import json

import numpy as np
import pytest
from mapie.conformity_scores import ResidualNormalisedScore
from mapie.regression import SplitConformalRegressor
from scipy.stats import binom
from sklearn.dummy import DummyRegressor

from skyfuse.errors import StoreError
from skyfuse.models import MODELS, Conformal, Examples, Output, load_model
from skyfuse.models.difficulty import LEAST, Difficulty, Errors, learn
from skyfuse.models.files import DIFFICULTY
from skyfuse.models.summaries import summarise, width_of
from skyfuse.models.uncertainty import Scores


def noisy(n, seed):
    """Inputs, a prediction that is always 0, the σ of each object and labels that are nothing but noise."""
    rng = np.random.default_rng(seed)
    x = {"table": rng.uniform(-1, 1, (n, 3)).astype(np.float32)}
    sigma = 0.2 + 2 * np.abs(x["table"][:, 1].astype(np.float64))
    return x, Output(np.zeros(n)), sigma, sigma * rng.normal(size=n)


@pytest.fixture(scope="module")
def calibrated():
    x, output, _, y = noisy(3000, 1)
    return Conformal.fit(output, y, x, level=0.9)


def test_intervals_follow_a_noise_whose_quantiles_are_known(calibrated):
    x, output, sigma, y = noisy(20_000, 2)
    limits = calibrated.limits(output, x)
    half = limits["high"]
    # The 0.9 quantile of |N(0, σ)| is 1.645 σ, from 0.33 to 3.6.
    assert np.mean(np.abs(half / (1.645 * sigma) - 1)) < 0.12
    inside = np.abs(y) <= half
    assert abs(inside.mean() - 0.9) < 0.02
    for fifth in np.array_split(np.argsort(sigma), 5):
        assert abs(inside[fifth].mean() - 0.9) < 0.04
    # One width for all would be that of the whole mixture of noises.
    assert half.mean() < 0.92 * np.quantile(np.abs(y), 0.9)


def test_the_objects_that_shape_the_scale_do_not_spoil_the_threshold():
    covered, spoilt = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = {"table": rng.normal(size=(2300, 4)).astype(np.float32)}
        y, output = rng.normal(size=2300), Output(np.zeros(2300))
        own = {"table": x["table"][:300]}
        found = Conformal.fit(Output(np.zeros(300)), y[:300], own, level=0.9)
        new = np.abs(y) <= found.limits(output, x)["high"]
        covered.append(new[300:].mean())
        told = np.abs(y[:300]) / found.scale(Output(np.zeros(300)), own)
        again = Conformal.of(
            Scores(told, told, np.zeros(300, int)), "error", 0.9, difficulty=found.difficulty
        )
        spoilt.append((np.abs(y) <= again.limits(output, x)["high"])[300:].mean())
    # 1,800 calibration objects in all: ± 0.007.
    assert abs(np.mean(covered) - 0.9) < 0.02
    assert np.mean(spoilt) < np.mean(covered) - 0.01


def test_normalised_intervals_are_those_of_mapie(calibrated):
    x, output, _, y = noisy(500, 3)
    scale = calibrated.difficulty.scale(x, output.value)

    class Told:
        is_fitted = True

        def fit(self, X, y):
            return self

        def predict(self, X):
            return calibrated.difficulty.scale({"table": X.astype(np.float32)}, np.zeros(len(X)))

    score = ResidualNormalisedScore(residual_estimator=Told(), prefit=True)
    nothing = DummyRegressor(strategy="constant", constant=0.0).fit(x["table"], y)
    reference = SplitConformalRegressor(nothing, confidence_level=0.9, prefit=True, conformity_score=score)
    reference.conformalize(x["table"], y)
    new, told, _, _ = noisy(200, 4)
    _, limits = reference.predict_interval(new["table"])
    scores = Scores(np.abs(y) / scale, np.zeros(500), np.zeros(500, dtype=np.int64))
    found = Conformal.of(scores, "error", 0.9, difficulty=calibrated.difficulty).limits(told, new)
    np.testing.assert_allclose(found["high"], limits[:, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(found["low"], limits[:, 0, 0], rtol=1e-6)


def test_few_objects_or_no_errors_give_one_width_for_all():
    x, output, _, y = noisy(LEAST, 5)
    half = Errors({"table": x["table"][: LEAST // 2]}, np.zeros(LEAST // 2), np.abs(y[: LEAST // 2]))
    rest = Errors({"table": x["table"][LEAST // 2 :]}, np.zeros(LEAST // 2), np.abs(y[LEAST // 2 :]))
    none, scale = learn(half)
    assert none is None
    assert scale.tolist() == [1.0] * (LEAST // 2)
    some, scale = learn(half, rest)
    assert some is not None
    assert len(set(scale)) > 1
    assert learn(Errors(x, output.value, np.zeros(LEAST)))[0] is None


def test_difficulty_is_told_of_images_and_spectra_too():
    rng = np.random.default_rng(6)
    n = 1200
    bright = rng.uniform(0, 3, n)
    x = {
        "image": (bright[:, None, None, None] + rng.normal(size=(n, 2, 6, 6))).astype(np.float32),
        "spectrum": rng.normal(size=(n, 30)).astype(np.float32),
    }
    x["spectrum"][::7] = np.nan
    assert width_of({name: array.shape[1:] for name, array in x.items()}) == sum(
        part.shape[1] for part in (summarise(x, ()).values, summarise(x, ()).form)
    )
    y = (0.1 + bright) * rng.normal(size=n)
    difficulty, _ = learn(Errors(x, np.zeros(n), np.abs(y)))
    scale = difficulty.scale(x, np.zeros(n))
    assert np.corrcoef(scale, bright)[0, 1] > 0.9


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(7)
    x = {"table": rng.normal(size=(900, 3)).astype(np.float32)}
    y = x["table"][:, 0] + np.abs(x["table"][:, 1]) * rng.normal(size=900)
    part = [Examples({"table": x["table"][i::3]}, y[i::3]) for i in range(3)]
    model = MODELS["linear"]()
    model.fit(part[0], part[1], seed=0)
    model.calibrate(part[2].x, part[2].y, beside=part[1])
    return model, model.save(tmp_path / "model"), x


def test_what_was_learned_survives_the_disk(saved):
    model, folder, x = saved
    now, then = load_model(folder).predict(x), model.predict(x)
    assert np.array_equal(now.low, then.low)
    assert np.array_equal(now.high, then.high)
    assert np.ptp(now.high - now.low) > 0.1
    first = (folder / DIFFICULTY).read_bytes()
    model.save(folder)
    assert (folder / DIFFICULTY).read_bytes() == first
    model.interval = None
    model.save(folder)
    assert not (folder / DIFFICULTY).exists()


@pytest.mark.parametrize(
    ("text", "card", "fault"),
    [
        (lambda t: t.replace("Tree=1\n", "Tree=7\n"), {}, "no LightGBM text"),
        (lambda t: t.replace("leaf_value=", "leaf_value=nan ", 1), {}, "no LightGBM text"),
        (lambda t: t, {"unit": -1.0}, "unit -1.0"),
        (lambda t: t, {"unit": 0.0}, "unit 0.0"),
        (lambda t: t, {"unit": "much"}, "difficulty.unit"),
        (lambda t: t, {"sha256": "0" * 64}, "is not the file that model.json describes"),
        (None, {}, "is missing"),
    ],
)
def test_damage_is_refused(saved, text, card, fault):
    _, folder, _ = saved
    told = json.loads((folder / "model.json").read_text())
    if text is None:
        (folder / DIFFICULTY).unlink()
    else:
        (folder / DIFFICULTY).write_text(text((folder / DIFFICULTY).read_text()))
        digest = hashlib.sha256((folder / DIFFICULTY).read_bytes()).hexdigest()
        told["difficulty"] = {**told["difficulty"], "sha256": digest, **card}
        (folder / "model.json").write_text(json.dumps(told))
    with pytest.raises(StoreError, match=fault):
        load_model(folder)


def test_trees_of_other_inputs_are_refused(saved):
    _, folder, _ = saved
    assert isinstance(Difficulty.read(folder / DIFFICULTY, {"table": (3,)}, 1.0), Difficulty)
    with pytest.raises(StoreError, match="no LightGBM text"):
        Difficulty.read(folder / DIFFICULTY, {"table": (2,)}, 1.0)


def classes(n, seed, harder):
    """Probabilities of two classes, of which the second is rare, and true classes."""
    rng = np.random.default_rng(seed)
    y = (rng.uniform(size=n) < 0.15).astype(int)
    sure = rng.beta(8, 2 - harder * y, size=n)
    return np.where((np.arange(2) == y[:, None]), sure[:, None], 1 - sure[:, None]), y


def test_classes_that_differ_have_thresholds_of_their_own():
    x = {"table": np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)}
    values, y = classes(4000, 1, -4)
    found = Conformal.fit(Output(values), y, x, level=0.9)
    assert len(found.thresholds) == len(found.ties) == 2
    values, y = classes(4000, 2, -4)
    inside = found.limits(Output(values), x)["members"][np.arange(4000), y]
    for k in (0, 1):
        low, high = binom.interval(0.999, np.count_nonzero(y == k), 0.9)
        assert low - 25 <= inside[y == k].sum() <= high + 25
    values, y = classes(4000, 3, 0)
    assert len(Conformal.fit(Output(values), y, x, level=0.9).thresholds) == 1
    # Too few of a class for a threshold of its own: that of all serves it.
    values, y = classes(100, 4, -4)
    few = Conformal.fit(Output(values), y, {"table": x["table"][:100]}, level=0.9)
    assert len(few.thresholds) == 1


def test_objects_may_have_thresholds_of_their_own(calibrated):
    x, output, _, _ = noisy(3, 8)
    own = calibrated.limits(output, x, threshold=np.array([[1.0], [np.inf], [2.0]]))
    scale = calibrated.difficulty.scale(x, output.value)
    np.testing.assert_allclose(own["high"], [scale[0], np.inf, 2 * scale[2]])
    np.testing.assert_allclose(own["low"], [-scale[0], -np.inf, -2 * scale[2]])
    sets = Conformal(0.9, "probability", (0.5,), (0.5,))
    told = sets.limits(Output(np.array([[0.7, 0.3], [0.7, 0.3]])), {"table": x["table"][:2]},
                       threshold=np.array([[0.3], [np.inf]]))  # fmt: skip
    assert told["members"].tolist() == [[True, False], [True, True]]
