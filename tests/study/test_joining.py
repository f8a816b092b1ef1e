import numpy as np
import pytest

from skyfuse.models import Conformal, Mixture, Output
from skyfuse.models.uncertainty import Scores
from skyfuse.study.joining import FILE, Kept, Told, _Others, keep


@pytest.mark.parametrize("classes", [0, 2])
def test_ones_own_kin_has_no_part_in_ones_threshold(classes):
    rng = np.random.default_rng(0)
    n = 120
    value, tie = rng.integers(0, 30, n) / 100, rng.uniform(size=n)
    group = rng.integers(0, 2, n) if classes else np.zeros(n, dtype=np.int64)
    if classes:
        value += 0.4 * group
    kin = rng.integers(0, 40, n)
    interval = Conformal.of(
        Scores(value, tie, group), "probability" if classes else "error", 0.9, classes=classes
    )
    assert len(interval.thresholds) == max(classes, 1)
    threshold, ties = _Others(interval, kin).thresholds(np.arange(45))
    for one in range(45):
        for k in range(max(classes, 1)):
            others = sorted(
                (v, t) for v, t, g, own in zip(value, tie, group, kin, strict=True) if g == k and own != one
            )
            # The smallest score that with those below it makes nine tenths of the others and the object.
            rank = next(i for i in range(1, n) if 10 * i >= 9 * (len(others) + 1))
            assert (threshold[one, k], ties[one, k]) == others[rank - 1]


def test_where_kin_leaves_too_few_everything_is_held():
    interval = Conformal.of(Scores(np.arange(9.0), np.zeros(9), np.zeros(9, dtype=np.int64)), "error", 0.9)
    threshold, _ = _Others(interval, np.arange(9)).thresholds(np.array([3, 77]))
    assert threshold.tolist() == [[np.inf], [8.0]]


def test_what_a_round_keeps_comes_back(tmp_path):
    rng = np.random.default_rng(1)
    mixture = Mixture(*(rng.uniform(size=(4, 2)) for _ in range(3)))
    told = Told(Output(rng.normal(size=4), np.array([True, False, False, True]), None, mixture), np.zeros(4))
    plain = Told(Output(rng.normal(size=3), scale=np.ones(3)), np.arange(3) / 4)
    x = {"table": rng.normal(size=(5, 2)).astype(np.float32)}
    rows = {"train": np.arange(5), "calibration": np.arange(5, 10)}
    keep(tmp_path, {"test": told, "calibration": plain}, {"train": x, "calibration": x}, rows)
    kept = Kept(tmp_path)
    for part, one in (("test", told), ("calibration", plain)):
        again = kept.told(part)
        assert np.array_equal(again.output.value, one.output.value)
        assert np.array_equal(again.numbers, one.numbers)
        assert (again.output.scale is None) == (one.output.scale is None)
        assert (again.output.unknown is None) == (one.output.unknown is None)
    assert all(np.array_equal(a, b) for a, b in zip(kept.told("test").output.mixture, mixture, strict=True))
    assert np.array_equal(kept.summary("calibration")[0], rows["calibration"])
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:40])
    with pytest.raises(ValueError, match="rror"):
        Kept(tmp_path)
