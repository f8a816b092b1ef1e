"""Coverage of 90 % intervals and sets on the test part of each recipe, on mock skies large enough to tell.

    python benchmarks/intervals.py [RECIPE …] [--seed 11] [--work FOLDER]

Each recipe is run as it stands, but on a larger mock sky, with a quarter of the objects for calibration and a
quarter for the test, at its reference zooms or coarser ones, with one point of each grid and few epochs:
coverage does not depend on how good a model is. A perfect method strays too: after calibration on m objects
the number covered of n others is beta-binomial (Vovk 2012, Proc. Machine Learning Research 25, 475), of
standard deviation √(0.09/m + 0.09/n) or nearly so. Beside each coverage stands how many of these it lies from
the level, above the table how likely one cell strays beyond the bound by chance. Cells of one recipe share
their objects and stray together. Bound: 0.88 to 0.92. Last stand the class that is covered least, and the
least and greatest coverage of fifths of magnitude and of predicted value (of real tables:
`intervals_real.py`).
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import betabinom

from skyfuse.recipe import Recipe, load_recipe
from skyfuse.study import Study
from skyfuse.study.prepare import prepare

LOW, HIGH = 0.88, 0.92
LEAST = 200
"""Test objects of a class at least, for its own coverage to be stated."""

SMALLER: dict[str, Any] = {
    "zooms": None,
    "learning": None,
    "sizes": None,
    "flaws": [],
    "embeddings": {"methods": [], "zooms": None},
    "clusters": 0,
    "bootstrap": 200,
    "split": {"train": 0.4, "valid": 0.1, "calibration": 0.25, "test": 0.25, "folds": 3},
}
FEW = {"fixed": {"max_epochs": 4}}
TABLE: dict[str, Any] = {
    "mock": {"objects": 12_000},
    "models": {"feed-forward": {"fixed": {"max_epochs": 15}}},
}
SPECTRA: dict[str, Any] = {
    "mock": {"fields": 2, "objects": 9000},
    "reference": {"spectrum": 4},
    "models": {"sdss-cnn": FEW, "mixed": {**FEW, "fusions": ["early"]}},
}
RECIPES: dict[str, dict[str, Any]] = {
    "sfr": {
        "mock": {"fields": 24, "objects": 7200, "shares": [1, 0, 0]},
        "split": {**SMALLER["split"], "train": 0.2, "calibration": 0.35, "test": 0.35},
        "reference": {"image": 3, "spectrum": 3},
        "models": {"vggnet12": {"fixed": {"max_epochs": 6}, "grid": {"learning_rate": [1e-3]}}},
    },
    "scene": {
        "mock": {"objects": 9000},
        "image_size": 16,
        "models": {"vggnet12": {"fixed": {"max_epochs": 2}}},
    },
    "redshift-gaia": {"mock": {"objects": 10_000}, "models": {"gaia-cnn": None}},
    "mainclass": SPECTRA,
    "galaxy-subclass": SPECTRA,
    "star-subclass": {**SPECTRA, "models": {"sdss-cnn": FEW}},
    "superclass": TABLE,
    "star-tabular": TABLE,
    "galaxy-tabular": TABLE,
    "morphology": {
        "mock": {"objects": 8000},
        "image_size": 32,
        "models": {
            "image-ff": FEW,
            "image-cnn": FEW,
            "image-lstm": None,
            "resnet50": None,
        },
    },
    "photoz": {**TABLE, "models": {"feed-forward": {"fixed": {"members": 1, "max_epochs": 30}}}},
}


def shortened(name: str, seed: int) -> Recipe:
    """Return a recipe on its larger sky, with the middle point of each grid."""
    recipe = load_recipe(name)
    overrides = {**SMALLER, **RECIPES[name]}
    kept = recipe.model_copy(update={"quick": overrides}).shortened()
    models = {
        model: plan.model_copy(
            update={"grid": {key: [values[len(values) // 2]] for key, values in plan.grid.items()}}
        )
        for model, plan in kept.models.items()
    }
    return kept.model_copy(update={"models": models}).with_seed(seed)


def chance(m: int, n: int, level: float) -> float:
    """Return how likely the coverage of n objects strays beyond the bound, after calibration on m others."""
    rank = math.ceil((m + 1) * level - 1e-9)
    covered = betabinom(n, rank, m + 1 - rank)
    inside = covered.cdf(math.floor(HIGH * n + 1e-9)) - covered.cdf(math.ceil(LOW * n - 1e-9) - 1)
    return float(1 - inside)


def measure(name: str, work: Path, seed: int) -> int:
    """Run a recipe, print the coverage of each cell, and return how many lie outside the bound."""
    started = time.perf_counter()
    recipe = shortened(name, seed)
    dataset, truth = prepare(recipe, work)
    results = Study(recipe).run(dataset, work / "study", truth=truth, mock=True).results
    groups = pd.read_parquet(work / "study" / "coverage.parquet")
    level, m, n = recipe.task.level, int(results["n_calibration"].iloc[0]), int(results["n_test"].iloc[0])
    spread = math.sqrt(level * (1 - level) * (1 / m + 1 / n))
    print(
        f"\n{name}: {m} calibration and {n} test objects, spread {spread:.4f}, one cell strays by chance in "
        f"{chance(m, n, level):.1%}, {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    outside = 0
    for row in results.itertuples():
        line = f"  {row.cell:34} {row.coverage:.4f} ({(row.coverage - level) / spread:+.1f})"
        classes = groups[(groups["cell"] == row.cell) & (groups["by"] == "class") & (groups["n"] >= LEAST)]
        if len(classes):
            worst = classes.loc[classes["coverage"].idxmin()]
            line += f", of {worst['n']:4} {worst['group']} {worst['coverage']:.3f}"
        for by in ("magnitude", "prediction"):
            fifths = groups[(groups["cell"] == row.cell) & (groups["by"] == by) & (groups["n"] >= LEAST)]
            if len(fifths):
                line += f", by {by} {fifths['coverage'].min():.3f} to {fifths['coverage'].max():.3f}"
        if not LOW <= row.coverage <= HIGH:
            outside += 1
            line += " OUTSIDE"
        print(line, flush=True)
    return outside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--work", type=Path, help="keep skies and studies here")
    parser.add_argument("recipes", nargs="*", default=[], metavar="RECIPE", help=", ".join(RECIPES))
    options = parser.parse_args()
    outside = 0
    for name in options.recipes or RECIPES:
        if options.work is not None:
            outside += measure(name, options.work / name, options.seed)
        else:
            with tempfile.TemporaryDirectory() as folder:
                outside += measure(name, Path(folder), options.seed)
    print(f"\n{outside} cells outside {LOW} to {HIGH}: {'MISSED' if outside else 'met'}")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
