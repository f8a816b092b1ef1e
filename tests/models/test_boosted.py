import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import StoreError
from skyfuse.models.boosted import LIMIT, parse_boosted, read_boosted


def sky(rng, n, features):
    """Return features with holes, zeros, and numbers that LightGBM takes for zero."""
    x = rng.normal(size=(n, features)).astype(np.float32)
    for value, share in ((np.nan, 0.1), (0, 0.1), (1e-36, 0.02), (-1e-35, 0.02), (1e-35, 0.02), (3e38, 0.01)):
        x[rng.random(x.shape) < share] = value
    x[:, rng.random(features) < 0.2] = 1.0
    return x


def grown(rng, *, n=300, features=3, outputs=1, rounds=3, **settings):
    x = sky(rng, n, features)
    y = np.clip(np.nan_to_num(x[:, 0]), -9, 9) + rng.normal(size=n)
    if outputs > 1:
        y = rng.permutation(np.digitize(y, np.linspace(-2, 2, outputs - 1)))
    objective = "multiclass" if outputs > 1 else "regression"
    settings = {"objective": objective, "num_class": outputs, "verbosity": -1, "num_threads": 1, **settings}
    return lightgbm.train(settings, lightgbm.Dataset(x, y), rounds)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([25, 100, 600]),
    features=st.integers(1, 6),
    outputs=st.sampled_from([1, 1, 2, 3, 5]),
    rounds=st.integers(1, 8),
    own=st.fixed_dictionaries(
        {
            "num_leaves": st.sampled_from([2, 5, 31]),
            "max_depth": st.sampled_from([-1, 1, 4]),
            "min_data_in_leaf": st.sampled_from([1, 20]),
            "max_bin": st.sampled_from([3, 63, 255]),
            "zero_as_missing": st.booleans(),
            "use_missing": st.booleans(),
            "bagging_fraction": st.sampled_from([0.5, 1.0]),
            "bagging_freq": st.just(1),
        }
    ),
)
def test_predictions_are_those_of_the_library_to_the_last_bit(seed, n, features, outputs, rounds, own):
    rng = np.random.default_rng(seed)
    booster = grown(rng, n=n, features=features, outputs=outputs, rounds=rounds, **own)
    # The text is what is written: what the library says of its own text is the measure.
    text = booster.model_to_string()
    theirs = lightgbm.Booster(model_str=text)
    ours = parse_boosted(text, features, outputs)
    new = sky(rng, 400, features)
    expected = theirs.predict(new)
    assert np.array_equal(ours.predict(new), expected)
    assert np.array_equal(ours.predict(new, threads=3), expected)
    again = ours.text()
    assert np.array_equal(lightgbm.Booster(model_str=again).predict(new), expected)
    assert parse_boosted(again, features, outputs).text() == again


def test_written_text_keeps_gains_and_counts():
    booster = grown(np.random.default_rng(0), outputs=3, rounds=4)
    again = lightgbm.Booster(model_str=parse_boosted(booster.model_to_string(), 3, 3).text())
    for kind in ("split", "gain"):
        assert again.feature_importance(kind) == pytest.approx(booster.feature_importance(kind), rel=1e-5)
    theirs = lightgbm.Booster(model_str=booster.model_to_string())
    for one, other in zip(again.dump_model()["tree_info"], theirs.dump_model()["tree_info"], strict=True):
        assert one == other


def test_hundred_thousand_cuts_in_a_row_are_walked():
    leaves = 100_000
    nodes = leaves - 1
    rows = {
        "split_feature": [0] * nodes,
        "split_gain": [1] * nodes,
        "threshold": [float(i) for i in range(nodes)],
        "decision_type": [2] * nodes,
        "left_child": [-1 - i for i in range(nodes)],
        "right_child": [*range(1, nodes), -leaves],
        "leaf_value": [float(i) for i in range(leaves)],
        "leaf_weight": [1] * leaves,
        "leaf_count": [1] * leaves,
        "internal_value": [0] * nodes,
        "internal_weight": [0] * nodes,
        "internal_count": [0] * nodes,
    }
    lines = "\n".join(f"{key}={' '.join(map(str, row))}" for key, row in rows.items())
    block = f"\nnum_leaves={leaves}\nnum_cat=0\n{lines}\nis_linear=0\nshrinkage=1\n\n"
    sizes = len("Tree=0") + len(block) + 1
    head = TEXT.partition("tree_sizes=")[0].replace("max_feature_idx=2", "max_feature_idx=0")
    head = head.replace("Column_0 Column_1 Column_2", "Column_0")
    head = "\n".join(line if "infos" not in line else "feature_infos=none" for line in head.split("\n"))
    found = parse_boosted(f"{head}tree_sizes={sizes}\n\nTree=0{block}\nend of trees\n", 1, 1)
    assert found.predict(np.float32([[-1], [77_000.5], [1e9]])).tolist() == [0, 77_001, nodes]


TEXT = grown(np.random.default_rng(7)).model_to_string()


def changed(key, value):
    """Return the text with the first word of the first line of a key replaced."""
    lines = TEXT.split("\n")
    i = next(i for i, line in enumerate(lines) if line.startswith(f"{key}="))
    lines[i] = f"{key}={' '.join([value, *lines[i].split('=')[1].split()[1:]])}"
    return "\n".join(lines)


def sized(text):
    """Return the text with the sizes of its trees put right, as a forger would."""
    blocks = text.partition("\nend of trees")[0].split("\nTree=")[1:]
    sizes = " ".join(str(len(block) + 6) for block in blocks)
    return "\n".join(f"tree_sizes={sizes}" if s.startswith("tree_sizes") else s for s in text.split("\n"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("left_child", "99999"),
        ("right_child", "-99999"),
        ("left_child", "0"),
        ("left_child", "2"),
        ("split_feature", "99999"),
        ("split_feature", "3"),
        ("split_feature", "-1"),
        ("split_feature", "9" * 30),
        ("decision_type", "1"),
        ("decision_type", "12"),
        ("decision_type", "18"),
        ("num_cat", "1"),
        ("is_linear", "1"),
        ("num_leaves", "0"),
        ("num_leaves", "-3"),
        ("num_leaves", "many"),
        ("num_leaves", str(10**12)),
        ("leaf_value", ""),
        ("leaf_value", "nan"),
        ("leaf_value", "inf"),
        ("leaf_value", "1e999"),
        ("leaf_value", "1_0"),
        ("leaf_value", "\u0661"),
        ("threshold", "nan"),
        ("threshold", "0x10"),
        ("shrinkage", "nan"),
        ("num_class", "3"),
        ("num_tree_per_iteration", "1000000"),
        ("max_feature_idx", "2000000000"),
        ("objective", "binary sigmoid:1"),
        ("objective", "regression sqrt"),
        ("feature_names", "Column_1"),
        ("feature_infos", "none none"),
        ("tree_sizes", "4000000000"),
        ("tree_sizes", "-1"),
        ("version", "v3"),
    ],
)
def test_numbers_that_lead_astray_are_refused(key, value, tmp_path):
    path = tmp_path / "model.txt"
    forged = changed(key, value)
    path.write_text(forged if key == "tree_sizes" else sized(forged))
    with pytest.raises(StoreError, match="no LightGBM text with sound trees") as caught:
        read_boosted(path, 3, 1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["\x0c", "\x0b", "\r", "\x1c", "\x85", "\u2028", "\x00"])
def test_lines_end_where_the_library_ends_them(end, tmp_path):
    whole = next(line for line in TEXT.split("\n") if line.startswith("split_feature"))
    forged = TEXT.replace(whole, whole.replace("=", "=9") + f"\nfoo=1{end}{whole}", 1)
    (tmp_path / "model.txt").write_bytes(sized(forged).encode())
    with pytest.raises(StoreError, match="sound trees"):
        read_boosted(tmp_path / "model.txt", 3, 1)


@pytest.mark.parametrize("key", ["split_feature", "num_leaves", "shrinkage", "objective", "num_class"])
def test_an_entry_that_stands_twice_or_not_at_all_is_refused(key):
    lines = TEXT.split("\n")
    i = next(i for i, line in enumerate(lines) if line.startswith(key))
    for other in ([*lines[:i], *lines[i + 1 :]], [*lines[:i], lines[i], *lines[i:]]):
        with pytest.raises(ValueError, match=r"missing or unknown|twice|not that of"):
            parse_boosted(sized("\n".join(other)), 3, 1)


def test_texts_of_another_size_are_refused(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text(TEXT)
    assert read_boosted(path, 3, 1).text()
    for features, outputs in ((4, 1), (3, 2), (3, 3)):
        with pytest.raises(StoreError, match="sound trees"):
            read_boosted(path, features, outputs)
    with path.open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(StoreError, match="larger than"):
        read_boosted(path, 3, 1)
