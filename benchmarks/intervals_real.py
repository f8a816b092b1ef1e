"""Coverage and width of 90 % intervals on real tables, by fifths of magnitude and of predicted value.

    python benchmarks/intervals_real.py [TABLE …] [--models NAMES] [--splits 3] [--data FOLDER]

Each table is split at random, several times, into training (0.6), validation, calibration (0.1 each) and
test part (0.2); a model is fitted and calibrated as a study does it. One line a split and model: coverage of
all test objects, of each fifth of magnitude and of predicted value, mean width, and in the same run mean
width and worst fifth of what was before: absolute errors by up to ten bins of the predicted value. Last the
same from crepes, where it is installed (widths by the errors of the nearest neighbours). Bound: 0.88 to 0.92
overall and 0.85 to 0.95 in each fifth of 1,000 test objects or more, in as many of the splits as chance
allows; mean width no more than before. Beside each table stands how many fifths would stray by chance if
each object were covered with probability 0.9 (binomial). What was chosen was chosen on `CHOSEN` and other
seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import binom

from skyfuse.models import MODELS, Examples

LEVEL = 0.9
FIRST_SEED = 2000
CHOSEN = ("annz", "durbala", "lamost")
"""Tables on which, by seeds 1000 to 1002, the way of learning difficulty was chosen."""

MODELS_OF: dict[str, dict[str, Any]] = {
    "lightgbm": {"learning_rate": 0.05, "max_depth": 6},
    "linear": {},
    "svm": {"C": 3.0, "epsilon": 0.2},
    "feed-forward": {
        "hidden": [64, 64],
        "activation": "tanh",
        "batch_size": 128,
        "learning_rate": 0.003,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "max_epochs": 25,
    },
}
MOST = 4000
"""Training objects of support vectors at most."""

Numbers = NDArray[np.float64]


def _ugriz(magnitudes: Numbers, *others: Numbers) -> Numbers:
    return np.hstack([magnitudes, -np.diff(magnitudes, axis=1), *others])


def annz(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    parts = [np.loadtxt(data / "annz_sdss" / f"sdss.ugriz.{part}") for part in ("train", "valid", "test")]
    table = np.concatenate(parts)
    errors = np.log10(np.clip(table[:, 5:10], 1e-6, None))
    return _ugriz(table[:, :5], errors), table[:, 10], table[:, 2]


def kcorrect(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    table = Table.read(data / "kcorrect_sdss_training_set.test.fits")
    flux, weight = (np.array(table[name], dtype=np.float64) for name in ("MAGGIES", "MAGGIES_IVAR"))
    logs = np.full(flux.shape, np.nan)
    np.log10(flux, out=logs, where=flux > 0)
    return np.hstack([logs, weight]), np.array(table["REDSHIFT"], dtype=np.float64), -2.5 * logs[:, 2]


def durbala(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    table = Table.read(data / "alfalfa_sdss_durbala2020.fits")

    def column(name: str) -> Numbers:
        values = np.ma.filled(np.ma.array(table[name], dtype=np.float64), np.nan)
        return np.where(np.abs(values) > 90, np.nan, values)

    names = ("gmi_corr", "absMag_i_corr", "expAB_r", "cModelMag_i", "gamma_g", "logMH")
    return np.stack([column(n) for n in names], axis=1), column("logSFRGSWLC"), column("cModelMag_i")


def colours(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    table = np.load(data / "sdss_galaxy_colors.npy")
    table = table[table["spec_class"] == b"GALAXY"][:20_000]
    magnitudes = np.stack([table[band] for band in "ugriz"], axis=1)
    magnitudes[np.abs(magnitudes) > 40] = np.nan
    return _ugriz(magnitudes), table["redshift"].astype(np.float64), magnitudes[:, 2]


def boss(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    # Pairs of magnitude and error, and the redshift; named in the first line with other separators.
    table = np.loadtxt(data / "boss_dr10_photoz" / "boss_dr10_colorCuts.csv", delimiter=",", comments="#")
    magnitudes, errors = table[:, 0:10:2], table[:, 1:10:2]
    told = np.full(errors.shape, np.nan)
    np.log10(errors, out=told, where=errors > 0)
    return _ugriz(magnitudes, told), table[:, 10], magnitudes[:, 3]


def lamost(data: Path) -> tuple[Numbers, Numbers, Numbers]:
    table = pd.read_csv(data / "lamost_dr1_stellar_params_3166.csv")
    names = ["BV", "BR", "BI", "VR", "VI", "RI"]
    inputs, teff, magnitude = (table[n].to_numpy(np.float64) for n in (names, "teff", "mag3"))
    return inputs, teff, magnitude


TABLES: dict[str, Callable[[Path], tuple[Numbers, Numbers, Numbers]]] = {
    "annz": annz, "durbala": durbala, "lamost": lamost,
    "kcorrect": kcorrect, "colours": colours, "boss": boss,
}  # fmt: skip


def by_bins(value: Numbers, error: Numbers, new: Numbers) -> Numbers:
    """Return half-widths as they were before: quantiles of the absolute error in bins of the prediction."""
    count = max(1, min(10, len(value) // 99))
    edges = np.quantile(value, np.arange(1, count) / count)
    bins = np.searchsorted(edges, value, side="right")
    own = [np.sort(error[bins == i]) for i in range(count)]
    widths = [e[int(np.ceil((len(e) + 1) * LEVEL - 1e-9)) - 1] for e in own]
    return np.array(widths)[np.searchsorted(edges, new, side="right")]


def by_crepes(parts: dict[str, tuple[Any, Numbers, Numbers, Numbers]]) -> Numbers | None:
    """Return half-widths of crepes, normalised by errors of nearest neighbours in the validation part."""
    try:
        from crepes import ConformalRegressor
        from crepes.extras import DifficultyEstimator
    except ImportError:
        return None
    filled = {part: np.nan_to_num(x["table"]) for part, (x, _, _, _) in parts.items()}
    residuals = {part: y - value for part, (_, y, _, value) in parts.items()}
    estimator = DifficultyEstimator()
    estimator.fit(X=filled["valid"], residuals=residuals["valid"], scaler=True)
    regressor = ConformalRegressor()
    regressor.fit(residuals["calibration"], sigmas=estimator.apply(filled["calibration"]))
    value = parts["test"][3]
    ends = regressor.predict_int(value, sigmas=estimator.apply(filled["test"]), confidence=LEVEL)
    return np.asarray((ends[:, 1] - ends[:, 0]) / 2)


def fifths(inside: NDArray[np.bool_], by: Numbers) -> list[float]:
    known = np.isfinite(by)
    edges = np.quantile(by[known], [0.2, 0.4, 0.6, 0.8])
    place = np.where(known, np.searchsorted(edges, by), -1)
    return [float(inside[place == i].mean()) for i in range(5)]


def measure(name: str, data: Path, models: list[str], splits: int) -> tuple[int, int]:
    """Print the lines of a table; return how many fifths lay outside the bound, and of how many."""
    x, y, magnitude = TABLES[name](data)
    known = np.isfinite(y)
    x, y, magnitude = x[known].astype(np.float32), y[known], magnitude[known]
    n = len(y) // 5
    stray = 1 - (binom.cdf(0.95 * n / 5, n // 5, LEVEL) - binom.cdf(0.85 * n / 5 - 1, n // 5, LEVEL))
    seen = "chosen on" if name in CHOSEN else "not looked at before"
    print(
        f"\n{name}: {len(y)} objects, {n} tested, {seen}; a fifth strays by chance in {stray:.1%}", flush=True
    )
    outside = counted = 0
    ratios, overall = [], []
    for model_name in models:
        for split in range(splits):
            rng = np.random.default_rng(FIRST_SEED + split)
            cuts = np.cumsum([int(share * len(y)) for share in (0.6, 0.1, 0.1)])
            rows = dict(
                zip(
                    ("train", "valid", "calibration", "test"),
                    np.split(rng.permutation(len(y)), cuts),
                    strict=True,
                )
            )
            if model_name == "svm":
                rows["train"] = rows["train"][:MOST]
            model = MODELS[model_name](**MODELS_OF[model_name])
            own = {part: Examples({"table": np.ascontiguousarray(x[r])}, y[r]) for part, r in rows.items()}
            model.fit(own["train"], own["valid"], seed=split)
            parts = {
                part: (own[part].x, y[rows[part]], magnitude[rows[part]], model.predict(own[part].x).value)
                for part in ("valid", "calibration", "test")
            }
            model.calibrate(own["calibration"].x, y[rows["calibration"]], level=LEVEL, beside=own["valid"])
            told = model.predict(own["test"].x)
            _, truth, mag, value = parts["test"]
            half = (told.high - told.low) / 2
            error = np.abs(truth - value)
            _, y_c, _, value_c = parts["calibration"]
            before, crepes = by_bins(value_c, np.abs(y_c - value_c), value), by_crepes(parts)
            inside = error <= half
            shares = fifths(inside, mag), fifths(inside, value)
            outside += sum(not 0.85 <= share <= 0.95 for group in shares for share in group)
            counted += 10
            ratios.append(half.mean() / before.mean())
            overall.append(float(inside.mean()))
            worst = max(abs(s - LEVEL) for by in (mag, value) for s in fifths(error <= before, by))
            line = f"  {model_name:12} {split} {inside.mean():.3f}" + (
                "" if 0.88 <= inside.mean() <= 0.92 else " OUTSIDE"
            )
            for what, group in zip(("mag", "value"), shares, strict=True):
                line += f" | {what} " + " ".join(f"{share:.2f}" for share in group)
            line += f" | width {half.mean():.4g}, before {before.mean():.4g} (farthest fifth {worst:.2f})"
            if crepes is not None:
                far = max(abs(s - LEVEL) for by in (mag, value) for s in fifths(error <= crepes, by))
                line += f", crepes {crepes.mean():.4g} ({np.mean(error <= crepes):.3f}, {far:.2f})"
            print(line, flush=True)
    print(
        f"  {name}: overall {np.mean(overall):.3f}, {outside} of {counted} fifths outside 0.85 to 0.95, "
        f"width {np.mean(ratios):.3f} of what it was"
    )
    return outside, counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS_OF))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tables"))
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    options = parser.parse_args()
    found = [
        measure(name, options.data, options.models.split(","), options.splits)
        for name in options.tables or TABLES
    ]
    outside, counted = (sum(side) for side in zip(*found, strict=True))
    print(f"\n{outside} of {counted} fifths outside 0.85 to 0.95")
    return 0


if __name__ == "__main__":
    sys.exit(main())
