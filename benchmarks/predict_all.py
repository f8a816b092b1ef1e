"""The chosen model of every shipped recipe, asked for a sky that it has not seen.

For each recipe its short study on a mock sky, then a mock sky of another seed, which `skyfuse predict` is
given with the study's folder, as a command and in Python. Both must give the same table, with a row for every
record; what is given must be answered, marked or rejected; and on the objects that the study's own funnel
would keep the score must be that of its test part, within three standard errors of the
difference. With --cells every other model of each study is asked too, and its account checked.

Example: python benchmarks/predict_all.py work/ --recipes superclass,morphology
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse import predict, write_mock
from skyfuse.recipe import Recipe, load_recipe, recipe_names
from skyfuse.study.predict import ACCOUNT
from skyfuse.study.prepare import IN_MOCK, prepare

OTHER_SEED = 1000
ERRORS = 3.0
SCORE = {"classification": "accuracy", "regression": "mae", "reconstruction": "mse"}


def check(table: pd.DataFrame) -> dict[str, int]:
    """Return how many records were given and answered; every one must be accounted for, once."""
    facts = table.attrs[ACCOUNT]
    assert facts["given"] == len(table) == facts["answered"] + facts["marked"] + facts["rejected"], facts
    for name in ("marked", "rejected"):
        assert sum(facts["reasons"][name].values()) == facts[name], facts
    place = [name for name in ("file", "row", "spectrum_id", "detail") if name in table]
    assert not table.duplicated(place).any(), "a record has two rows"
    return facts


def run(*words: object) -> str:
    done = subprocess.run(
        [str(shutil.which("skyfuse")), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def joined(recipe: Recipe, table: pd.DataFrame, sky: Path, work: Path) -> pd.DataFrame:
    """Return answers beside the labels of the objects that the recipe's own funnel keeps."""
    dataset, _ = prepare(recipe, work, sources=[sky])
    own = dataset.table.copy()
    key = {"cube": "object_id", "table": "objid", "gaia-xp": "source_id"}.get(recipe.reader, "name")
    label = str(dataset.meta["label"]["name"])
    truth = pd.DataFrame({"key": own[key].astype(str), "truth": own[label]})
    answered = table[table["status"] == "answered"]
    return truth.merge(answered.assign(key=answered[key].astype(str)), on="key", validate="one_to_one")


def score(recipe: Recipe, both: pd.DataFrame) -> tuple[float, float]:
    """Return accuracy, mean absolute error or mean squared error, with its standard error."""
    if recipe.task.kind == "reconstruction":
        values = both["mse"].to_numpy(float)
    elif recipe.task.kind == "regression":
        values = np.abs(both[recipe.task.label].to_numpy(float) - both["truth"].to_numpy(float))
    else:
        values = (both[recipe.task.label].astype(str) == both["truth"].astype(str)).to_numpy(float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def ask(name: str, work: Path, *, cells: bool) -> str:
    recipe = load_recipe(name).shortened()
    study, sky = work / name, work / f"{name}-new" / "sky"
    if not (study / "study" / "results.parquet").is_file():
        run("study", name, "--quick", "-o", study)
    mock = recipe.mock
    write_mock(
        sky,
        fields=mock.fields,
        objects=mock.objects,
        seed=mock.seed + OTHER_SEED,
        products=mock.products,
        z_max=mock.z_max,
        shares=mock.shares,
    )
    data = sky / IN_MOCK[recipe.reader]
    output = sky.parent / "predictions.parquet"
    told = json.loads(run("predict", study, data, "-o", output, "--json"))
    started = time.perf_counter()
    table = predict(study, data)
    seconds = time.perf_counter() - started
    facts = check(table)
    assert told == {"file": str(output), **facts}, "the command and Python say different things"
    pd.testing.assert_frame_equal(pd.read_parquet(output), table, check_dtype=False)
    results = pd.read_parquet(study / "study" / "results.parquet").set_index("cell")
    chosen = results.loc[Path(facts["model"]).parent.name]
    both = joined(recipe, table, sky, sky.parent / "labelled")
    value, error = score(recipe, both)
    metric = SCORE[recipe.task.kind]
    before = float(chosen[f"test_{metric}"])
    before_error = float(chosen[f"test_{metric}_high"] - chosen[f"test_{metric}_low"]) / 3.92
    apart = abs(value - before) / np.hypot(error, before_error)
    others = [cell for cell in results.index if cell != chosen.name] if cells else []
    for cell in others:
        also = check(predict(study / "study" / "cells" / cell / "model", data))
        assert also["given"] == facts["given"], cell
    line = (
        f"{name:<16}{chosen.name:<28}{facts['given']:>6}{facts['answered']:>7}{facts['marked']:>6}"
        f"{facts['rejected']:>6}{facts['share']:>9.1%}  {metric:<9}{before:>9.4f}{value:>9.4f}{apart:>6.1f}"
        f"{len(others):>6}{seconds:>7.1f}"
    )
    assert apart <= ERRORS, f"{line}\nthe score on the new sky is another"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of the studies, which are kept, and the new skies")
    parser.add_argument("--recipes", default=",".join(recipe_names()))
    parser.add_argument("--cells", action="store_true", help="ask every model of each study")
    options = parser.parse_args()
    print(
        f"{'recipe':<16}{'chosen':<28}{'given':>6}{'answ.':>7}{'mark.':>6}{'rej.':>6}{'outside':>9}  "
        f"{'score':<9}{'study':>9}{'new':>9}{'/ σ':>6}{'cells':>6}{'s':>7}"
    )
    for name in options.recipes.split(","):
        print(ask(name, options.work, cells=options.cells), flush=True)


if __name__ == "__main__":
    main()
