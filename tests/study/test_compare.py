import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, r2_score, recall_score

from skyfuse.errors import DataError
from skyfuse.study import compare
from skyfuse.study.compare import LEAKS, best_single, bootstrap, comparisons, percentiles
from skyfuse.study.metrics import METRICS_OF, Outcome, attainable_r2

METRICS = METRICS_OF["regression"]


def outcome(y, p):
    return Outcome("regression", y, p)


def score(y, p):
    return outcome(y, p).score()


def redrawn(y, groups, samples, seed):
    """Yield the objects of each resample one by one, as the counts of the same draw tell."""
    _, group = np.unique(groups, return_inverse=True)
    n = group.max() + 1
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)[:, group]
    for row in counts:
        yield np.repeat(np.arange(len(y)), row)


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 25), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_draws_equal_scores_of_the_resampled_objects(n, members, seed):
    rng = np.random.default_rng(seed)
    y, p, sigma = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.1, 0.5, n)
    groups = np.arange(n) // members
    if groups.max() == 0:
        return
    boot = bootstrap({"m": outcome(y, p)}, groups=groups, sigma=sigma, samples=20, seed=seed)
    for k, rows in enumerate(redrawn(y, groups, 20, seed)):
        if np.ptp(y[rows]) == 0:
            assert np.isnan(boot.draws["m"]["r2"][k])
            continue
        expected = score(y[rows], p[rows])
        for metric in METRICS:
            assert boot.draws["m"][metric][k] == pytest.approx(expected[metric], rel=1e-8, abs=1e-8)
        assert boot.attainable_draws[k] == pytest.approx(attainable_r2(y[rows], sigma[rows]), rel=1e-8)


def test_blocks_do_not_change_the_draws(monkeypatch):
    rng = np.random.default_rng(3)
    y, p = rng.normal(size=40), rng.normal(size=40)
    whole = bootstrap({"m": outcome(y, p)}, samples=50, seed=1)
    monkeypatch.setattr(compare, "_BLOCK", 40 * 7)
    parts = bootstrap({"m": outcome(y, p)}, samples=50, seed=1)
    for metric in METRICS:
        np.testing.assert_allclose(whole.draws["m"][metric], parts.draws["m"][metric], rtol=1e-12)


def test_same_seed_same_draws_and_another_seed_others():
    rng = np.random.default_rng(3)
    y, p = rng.normal(size=40), rng.normal(size=40)
    one, two, three = (
        bootstrap({"m": outcome(y, p)}, samples=300, seed=s).interval("m", "r2") for s in (1, 1, 2)
    )
    assert one == two
    assert one != three


def test_intervals_cover_the_truth_as_often_as_they_say():
    # RMSE of Gaussian errors of deviation 1 is 1 over the population.
    rng = np.random.default_rng(4)
    hits = 0
    for k in range(200):
        y = rng.normal(size=150)
        boot = bootstrap({"m": outcome(y, y + rng.normal(size=150))}, samples=300, seed=k)
        low, high = boot.interval("m", "rmse")
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_shrinks_the_interval_of_a_difference():
    rng = np.random.default_rng(5)
    y = rng.normal(size=200)
    shared = rng.normal(size=200)
    a, b = y + shared, y + shared + 0.05 * rng.normal(size=200)
    boot = bootstrap({"a": outcome(y, a), "b": outcome(y, b)}, samples=1000, seed=0)
    difference, low, high = boot.difference("a", "b", "rmse")
    assert difference == pytest.approx(score(y, a)["rmse"] - score(y, b)["rmse"])
    assert low <= difference <= high
    single = boot.interval("a", "rmse")
    assert high - low < 0.2 * (single[1] - single[0])
    assert boot.difference("b", "a", "rmse") == pytest.approx((-difference, -high, -low))


def test_groups_widen_the_interval_when_their_members_err_together():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(40), 10)
    y = rng.normal(size=400)
    p = y + rng.normal(size=40)[groups]
    alone = bootstrap({"m": outcome(y, p)}, samples=1000, seed=0).interval("m", "rmse")
    grouped = bootstrap({"m": outcome(y, p)}, groups=groups, samples=1000, seed=0).interval("m", "rmse")
    assert grouped[1] - grouped[0] > 1.8 * (alone[1] - alone[0])


def test_distance_from_the_attainable():
    rng = np.random.default_rng(7)
    y, sigma = rng.normal(size=100), np.full(100, 0.3)
    boot = bootstrap({"m": outcome(y, y + 0.3 * rng.normal(size=100))}, sigma=sigma, samples=300, seed=0)
    value, low, high = boot.distance("m")
    assert value == pytest.approx(attainable_r2(y, sigma) - boot.point["m"]["r2"])
    assert low < value < high
    with pytest.raises(DataError, match="attainable R² is not known"):
        bootstrap({"m": outcome(y, y + 1)}, samples=200).distance("m")


def test_percentiles_by_hand():
    assert percentiles(np.arange(0, 1001, dtype=float)) == pytest.approx((25, 975))
    assert percentiles(np.array([np.nan, 2.0, 2.0])) == (2, 2)


def test_bad_groups():
    y, p = np.arange(4.0), np.ones(4)
    with pytest.raises(DataError, match="3 groups for 4 objects"):
        bootstrap({"m": outcome(y, p)}, groups=[0, 1, 2])
    with pytest.raises(DataError, match="one group alone"):
        bootstrap({"m": outcome(y, p)}, groups=[5, 5, 5, 5])
    with pytest.raises(DataError, match="b predicts 3 objects, others 4"):
        bootstrap({"a": outcome(y, p), "b": outcome(y[:3], p[:3])})


@pytest.mark.parametrize("rare", [0, 1])
def test_macro_scores_of_resamples_are_means_over_the_classes_of_all_objects(rare):
    rng = np.random.default_rng(9)
    y = rng.integers(4, size=60)
    y[y == 3] = 0
    # One object of a class in one of 30 groups: a third of the resamples do not hold it.
    y[:rare] = 3
    p = rng.dirichlet(np.full(5, 0.4), size=60) + np.eye(5)[y] * 0.6
    p[:, 4], p[y != 3, 3] = 0, 0
    p /= p.sum(axis=1, keepdims=True)
    said, groups = p.argmax(axis=1), np.arange(60) // 2
    boot = bootstrap({"m": Outcome("classification", y, said, p)}, groups=groups, samples=20, seed=2)
    classes = sorted({*y, *said})
    assert 4 not in classes
    scores = {"f1_macro": f1_score, "precision_macro": precision_score, "recall_macro": recall_score}
    absent = 0
    for k, rows in enumerate(redrawn(y, groups, 20, 2)):
        for name, score_of in scores.items():
            found = []
            for c in classes:
                own = score_of(y[rows], said[rows], labels=[c], average=None, zero_division=np.nan)[0]
                absent += name == "f1_macro" and np.isnan(own)
                known = score_of(y, said, labels=[c], average=None, zero_division=0)[0]
                found.append(known if np.isnan(own) else own)
            assert boot.draws["m"][name][k] == pytest.approx(np.mean(found))
    assert (absent > 0) == (rare > 0)
    for name, score_of in scores.items():
        expected = score_of(y, said, labels=classes, average="macro", zero_division=0)
        assert boot.point["m"][name] == pytest.approx(expected)


def test_resamples_without_rare_classes_do_not_shift_the_interval():
    y = np.repeat(np.arange(20), 2)
    p = np.eye(20)[y]
    p[::4] = np.roll(p[::4], 1, axis=1)
    boot = bootstrap({"m": Outcome("classification", y, p.argmax(axis=1), p)}, samples=4000, seed=3)
    low, high = boot.interval("m", "f1_macro")
    assert low < boot.point["m"]["f1_macro"] < high
    # A fifth of what is drawn is wrong, and every eighth class is absent: counted as 0, it would cost 0.1.
    assert boot.draws["m"]["f1_macro"].mean() == pytest.approx(boot.point["m"]["f1_macro"], abs=0.08)


@pytest.mark.parametrize("unit", [1e-18, 1e-9, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_small_units_and_far_objects_make_no_labels_equal(unit, offset):
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=50).astype(float) + offset
    p = y + rng.normal(size=50)
    expected = bootstrap({"m": outcome(y, p)}, samples=50, seed=1).draws["m"]["r2"]
    found = bootstrap({"m": outcome(y * unit, p * unit)}, samples=50, seed=1).draws["m"]["r2"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    far, there = np.append(y, 1e7), np.append(p, 1e7)
    boot = bootstrap({"m": outcome(far, there)}, samples=200, seed=1)
    for k, rows in enumerate(redrawn(far, np.arange(51), 200, 1)):
        assert boot.draws["m"]["r2"][k] == pytest.approx(r2_score(far[rows], there[rows]), rel=1e-6)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e9 + 0.1, -7.7e-12])
def test_equal_labels_are_told_from_rounding(value):
    flat = outcome(np.full(9, value), np.arange(9.0))
    assert flat.score()["r2"] is None
    assert "all labels of these 9 objects are equal" in flat.undefined()
    boot = bootstrap({"m": flat}, sigma=np.ones(9), samples=20)
    assert np.isnan([boot.point["m"]["r2"], *boot.interval("m", "r2"), *boot.distance("m")]).all()
    assert boot.interval("m", "mae")[0] <= boot.point["m"]["mae"] <= boot.interval("m", "mae")[1]
    with pytest.raises(DataError, match="all labels are equal"):
        attainable_r2(np.full(9, value), np.ones(9))


def test_no_resample_with_a_score_has_no_interval():
    assert np.isnan(compare.percentiles(np.full(5, np.nan))).all()


def test_best_single_is_a_modality():
    assert best_single({"image": 0.2, "table": 0.3, "early": 0.9}) == "table"
    assert best_single({"image": 0.2}) == "image"
    with pytest.raises(DataError, match="no single input"):
        best_single({"early": 0.2})


def cells_of(qualities, scores, changes=(None,)):
    """Return a table of cells and a bootstrap over predictions of given scatter."""
    rng = np.random.default_rng(8)
    y = rng.normal(size=120)
    rows, outcomes = [], {}
    for model in scores:
        for change in changes:
            for fusion, quality in qualities.items():
                if change == LEAKS and fusion == "spectrum":
                    continue
                name = f"{model}-{fusion}" + ("" if change is None else f"-{change}")
                row = {"cell": name, "model": model, "fusion": fusion, "change": change}
                rows.append({**row, "choice": scores[model][fusion]})
                scatter = quality if change is None else quality / 3
                outcomes[name] = outcome(y, y + scatter * rng.normal(size=120))
    return pd.DataFrame(rows), bootstrap(outcomes, samples=300, seed=0)


def test_comparisons_pair_models_and_set_fusions_against_the_choice():
    # By the choice the image looks better for b, though the test part says otherwise.
    scores = {
        "a": {"image": 0.1, "spectrum": 0.2, "early": 0.5, "late-mean": 0.4},
        "b": {"image": 0.4, "spectrum": 0.2, "early": 0.5, "late-mean": 0.6},
    }
    qualities = {"image": 0.9, "spectrum": 0.8, "early": 0.3, "late-mean": 0.6}
    cells, boot = cells_of(qualities, scores)
    table = comparisons(cells, boot)
    fusion = table[(table["kind"] == "fusion") & (table["metric"] == "r2")].set_index(["model", "fusion"])
    assert fusion.loc[("a", "early"), "b"] == "a-spectrum"
    assert fusion.loc[("b", "early"), "b"] == "b-image"
    assert fusion["chosen"].to_dict() == {
        ("a", "early"): True,
        ("a", "late-mean"): False,
        ("b", "early"): False,
        ("b", "late-mean"): True,
    }
    assert fusion.loc[("a", "early"), "low"] > 0
    single = table[(table["kind"] == "single") & (table["metric"] == "r2")].set_index(["model", "fusion"])
    assert single.loc[("a", "early"), "b"] == "a-image"
    models = table[table["kind"] == "models"]
    assert len(models) == len(qualities) * len(METRICS)
    row = models[(models["fusion"] == "image") & (models["metric"] == "mae")].iloc[0]
    expected = boot.difference("a-image", "b-image", "mae")
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(expected)


def test_leaks_are_set_against_the_same_cell_without_and_fused_among_themselves():
    scores = {"a": {"spectrum": 0.2, "table": 0.3, "early": 0.5}}
    cells, boot = cells_of({"spectrum": 0.9, "table": 0.8, "early": 0.6}, scores, (None, LEAKS))
    table = comparisons(cells, boot)
    table = table[table["metric"] == "r2"]
    leak = table[table["kind"] == "leak"].set_index("fusion")
    assert leak[["a", "b"]].to_numpy().tolist() == [
        ["a-table-with-leaks", "a-table"],
        ["a-early-with-leaks", "a-early"],
    ]
    assert (leak["low"] > 0).all()
    fused = table[table["kind"].isin(["fusion", "single"]) & (table["change"] == LEAKS)].set_index("kind")
    assert fused.loc["fusion", ["a", "b"]].tolist() == ["a-early-with-leaks", "a-table-with-leaks"]
    assert fused.loc["single", ["a", "b"]].tolist() == ["a-early-with-leaks", "a-spectrum"]
    sound = table[(table["kind"] == "fusion") & table["change"].isna()]
    assert sound[["a", "b"]].to_numpy().tolist() == [["a-early", "a-table"]]


def test_comparisons_without_fusions_hold_pairs_alone():
    y = np.arange(10.0)
    rows = pd.DataFrame([{"cell": "a", "model": "a", "fusion": "image", "change": None, "choice": 0.1}])
    boot = bootstrap({"a": outcome(y, y + 0.1 * (-1) ** np.arange(10))}, samples=200)
    assert comparisons(rows, boot).empty
