import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binomtest

from skyfuse.study.results import gallery, picture
from skyfuse.study.run import Study

from .sky import SmallSky, class_recipe, small_recipe


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return SmallSky(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def studies(sky, tmp_path_factory):
    """Finished studies by kind: folder and result."""
    task = {**small_recipe().task.model_dump(), "redshift": True, "magnitude": "shape"}
    changes = {"models": {"tree": {"fixed": {"max_depth": 3}}}, "flaws": [], "embeddings": {"methods": []}}
    recipes = {"regression": small_recipe(task=task, **changes), "classification": class_recipe()}
    folder = tmp_path_factory.mktemp("studies")
    sky.table["AVG"] = sky.table["AVG"].clip(lower=-0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skyfuse.study.run.write_report", lambda folder: folder / "report.html")
        return {
            kind: (folder / kind, Study(recipe).run(sky, folder / kind)) for kind, recipe in recipes.items()
        }


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_table_prints_in_eighty_columns(studies, kind):
    result = studies[kind][1]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    lines = [line for line in text.splitlines() if re.search(r"\d\.\d\d\d +-?\d\.\d\d…", line)]
    assert len(lines) == result.results["role"].isin(["reference", "leak"]).sum()
    assert {"regression": "outliers", "classification": "macro F1"}[kind] in text
    assert ("+ leaks" in text) == (kind == "classification")


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_coverage_is_counted_overall_and_by_group(studies, sky, kind):
    folder, result = studies[kind]
    coverage = pd.read_parquet(folder / "coverage.parquet")
    name = result.results["cell"].iloc[0]
    own = coverage[coverage["cell"] == name].set_index(["by", "group"])
    test = pd.read_parquet(folder / "cells" / name / "predictions.parquet").query("part == 'test'")
    whole = own.loc[("overall", "all")]
    hits = int(test["covered"].sum())
    assert whole["coverage"] == hits / len(test)
    limits = binomtest(hits, len(test)).proportion_ci(0.95, method="exact")
    assert (whole["low"], whole["high"]) == pytest.approx((limits.low, limits.high))
    by = {"regression": {"label", "prediction"}, "classification": {"class"}}[kind] | {"magnitude"}
    assert set(coverage["by"]) == {"overall", *by}
    for group in by:
        assert own.loc[group, "n"].sum() == len(test)
    if kind == "classification":
        high = test[test["label"] == "high"]
        assert own.loc[("class", "high"), "width"] == high["set_size"].mean()
    row = result.results.iloc[0]
    assert (row["coverage"], row["coverage_low"], row["coverage_high"], row["width"]) == tuple(
        whole[["coverage", "low", "high", "width"]]
    )


def test_redshifts_are_binned_by_redshift_and_magnitude(studies):
    folder, result = studies["regression"]
    binned = pd.read_parquet(folder / "binned.parquet")
    name = result.results["cell"].iloc[0]
    own = binned[(binned["cell"] == name) & (binned["by"] == "redshift")]
    test = pd.read_parquet(folder / "cells" / name / "predictions.parquet").query("part == 'test'")
    relative = (test["prediction"] - test["label"]) / (1 + test["label"])
    assert own["n"].sum() == len(test)
    assert (own["bias"] * own["n"]).sum() == pytest.approx(relative.sum())
    assert (own["outliers"] * own["n"]).sum() == pytest.approx((relative.abs() > 0.15).sum())
    assert set(binned["by"]) == {"redshift", "magnitude"}


def test_leaks_are_measured_pairwise(studies):
    folder, _ = studies["classification"]
    table = pd.read_parquet(folder / "comparisons.parquet")
    leak = table[(table["kind"] == "leak") & (table["metric"] == "f1_macro")].set_index("a")
    assert leak.loc["tree-table-with-leaks", "b"] == "tree-table"
    assert leak.loc["tree-table-with-leaks", "low"] > 0
    data = json.loads((folder / "data.json").read_text())
    assert data["guard"][0]["used"]


def test_galleries_hold_right_and_wrong_objects_with_their_looks(studies, sky):
    folder, _ = studies["classification"]
    shown = pd.read_parquet(folder / "cells" / "tree-spectrum-s4" / "gallery.parquet")
    table = pd.read_parquet(folder / "cells" / "tree-spectrum-s4" / "predictions.parquet")
    test = table[table["part"] == "test"].set_index("row")
    for right, part in shown.groupby(shown["label"] == shown["prediction"]):
        for label, chosen in part.groupby("label"):
            known = test[(test["label"] == label) & ((test["label"] == test["prediction"]) == right)]
            assert len(chosen) == min(len(known), 9)
            assert set(chosen["row"]) <= set(known.index)
    row = shown.iloc[0]
    assert row["probability"] == test.loc[row["row"], f"p_{row['prediction']}"]
    assert len(row["image"]) == 64 * 64 * 3
    expected = sky.inputs({"spectrum": 3}, [row["row"]])["spectrum"][0]
    np.testing.assert_array_equal(row["spectrum"], expected)


def test_a_gallery_of_right_predictions_alone(sky):
    table = pd.DataFrame(
        {"row": [0, 1], "label": ["a", "b"], "prediction": ["a", "b"], "p_a": 0.5, "p_b": 0.5}
    )
    assert len(gallery(sky, table, seed=0)) == 2


def test_pictures_are_colours_of_sixty_four_pixels():
    colours = np.zeros((3, 8, 8), dtype=np.float32)
    colours[0, :4] = 1
    colours[2] = 2
    found = picture(colours)
    assert found.shape == (64, 64, 3)
    assert found[0, 0].tolist() == [255, 0, 255]
    assert found[63, 63].tolist() == [0, 0, 255]
    bands = np.zeros((5, 16, 16), dtype=np.float32)
    bands[3, 5, 5] = 100
    bands[1, 0, 0] = np.nan
    star = picture(bands)
    assert star[22, 22].tolist() == [255, 0, 0]
    assert star.sum() == 255 * 16
