"""`docs/results.md` is what its generator makes of the stored summaries."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest

from skyfuse.recipe import load_recipe

from .study.folders import write_folder

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def results():
    spec = spec_from_file_location("results", DOCS / "results.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stored(results, tmp_path, monkeypatch):
    """A folder in the place of docs, with one study collected."""
    monkeypatch.setattr(results, "HERE", tmp_path)
    folder = write_folder(tmp_path / "study", "classification", name="sfr")
    results.main(["--collect", str(folder), "one", "--note", "a | catalogue"])
    return tmp_path


def test_the_page_is_what_the_summaries_make(results):
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results.page(DOCS / "results")


def test_every_stored_summary_is_of_a_shipped_recipe():
    for path in sorted((DOCS / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe = load_recipe(content["recipe"])
        assert content["variant"] is None or content["variant"] in recipe.variants, path.name


def test_a_summary_says_what_the_folder_says(results, stored):
    content = json.loads((stored / "results" / "one.json").read_text())
    table = pd.read_parquet(stored / "study" / "results.parquet").set_index("cell")
    for cell in content["cells"]:
        for score in ("f1_macro", "accuracy"):
            assert cell[f"test_{score}"] == table.loc[cell["cell"], f"test_{score}"]
            assert cell[f"test_{score}_high"] == table.loc[cell["cell"], f"test_{score}_high"]
    assert {cell["role"] for cell in content["cells"]} == {"reference", "leak"}
    assert content["objects"] == {"train": 120, "valid": 20, "calibration": 20, "test": 60}
    reference = table[table["role"] == "reference"]
    assert content["headline"] == reference["choice"].idxmax()


def test_the_row_has_our_number_and_theirs_told_apart(results, stored):
    page = (stored / "results.md").read_text()
    assert page == results.page(stored / "results")
    row = next(line for line in page.splitlines() if line.startswith("| [one](#one)"))
    table = pd.read_parquet(stored / "study" / "results.parquet")
    best = table[table["role"] == "reference"].sort_values("choice").iloc[-1]
    score, low, high = (best[f"test_f1_macro{end}"] for end in ("", "_low", "_high"))
    assert f"macro F1 {score:.3f} ({low:.3f} to {high:.3f})" in row
    assert "mock sky: a \\| catalogue; 220 objects" in row
    assert "120 / 20 / 20 / 60" in row
    assert "Pixel values near 1e-18 divided by 255" in row


def test_the_answer_to_the_question_is_what_the_stored_differences_say(results, stored):
    path = stored / "results" / "one.json"
    content = json.loads(path.read_text())
    head = next(cell for cell in content["cells"] if cell["cell"] == content["headline"])
    models = [row for row in content["differences"] if row["kind"] == "models"]
    (rival,) = (row for row in models if head["cell"] in (row["a"], row["b"]))
    section = results.page(stored / "results").split("## one")[1]
    for other in models:
        # On another input than the headline's, models are compared in the section.
        if other is not rival:
            assert f"macro F1 {results.signed(other['difference'])}" in section
    ahead = "beats" if rival["a"] == head["cell"] else "is beaten by"
    assert f" {ahead} " in results.page(stored / "results").split("| [one]")[1].split("\n")[0]
    for ends, words in (
        ((-0.01, 0.09), "is level with"),
        ((-0.09, -0.01), "beats" if ahead == "is beaten by" else "is beaten by"),
    ):
        rival["low"], rival["high"] = ends
        path.write_text(json.dumps(content))
        row = results.page(stored / "results").split("| [one]")[1].split("\n")[0]
        assert f" {words} " in row
        assert f" {ahead} " not in row


def test_coverage_across_surveys_is_told_in_words(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "HERE", tmp_path)
    split = {"column": "source", "parts": {"train": ["RESOLVE*"], "test": ["ECO*"]}}
    folder = write_folder(tmp_path / "study", "regression", name="sfr", split=split)
    results.main(["--collect", str(folder), "crossed"])
    page = (tmp_path / "results.md").read_text()
    assert "RESOLVE* calibrate, ECO* are tested" in page
    assert "no farther from 90 % than chance allows" in page


def test_the_section_tells_what_leaking_inputs_would_add(stored):
    section = (stored / "results.md").read_text().split("## one")[1]
    assert section.count("leaking inputs would add macro F1 +0.111 (+0.071 to +0.151)") == 2
    assert section.count(" with leaking inputs |") == 2
    assert "early fusion against spectrum alone macro F1 +0.050" in section
    assert "90.0 % (85.0 % to 94.0 %)" in section


def test_studies_of_other_kinds_and_rounds(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "HERE", tmp_path)
    for kind, rounds in (("regression", 1), ("reconstruction", 1), ("classification", 5)):
        folder = write_folder(tmp_path / kind, kind, rounds=rounds, name="sfr")
        results.main(["--collect", str(folder), kind])
    lines = (tmp_path / "results.md").read_text().splitlines()
    row = {line.split("(#")[1].split(")")[0]: line for line in lines if line.startswith("| [")}
    assert "5-fold, each object tested once" in row["classification"]
    assert "explained share 0." in row["reconstruction"]
    assert all(f"{name} 0." in row["regression"] for name in ("R²", "MAE", "RMSE", "σ_NMAD", "outliers"))
    theirs = "*R² 0.308; MAE 0.19; RMSE 0.32* (LightGBM, early fusion; 11,179 galaxies; 60/20/20)"
    assert f"{theirs}; not comparable: different data" in row["regression"]
    assert any(line.startswith("Attainable MAE on these test objects: 0.0110") for line in lines)


def test_searches_and_zooms_are_kept_as_the_study_has_them(results, tmp_path):
    folder = write_folder(tmp_path / "study", "regression")
    content = results.summary(folder, "")
    trials = pd.read_parquet(folder / "trials.parquet")
    trials = trials[trials["parameters"] != "{}"]
    assert [row["score"] for row in content["tuning"]] == trials["score"].tolist()
    chosen = trials[trials["chosen"].astype(bool)]
    text = "\n".join(results._told_of_searches(content, "r2"))
    assert text.count("**") == 2 * len(chosen) > 0
    table = pd.read_parquet(folder / "results.parquet")
    rows = table[table["role"].isin(["reference", "resolution"]) & (table["fusion"] == "spectrum")]
    assert [row["test_r2"] for row in content["resolution"]] == rows["test_r2"].tolist()
    assert [row["zoom"] for row in content["resolution"]] == rows["spectrum_zoom"].tolist()
    assert "zoom" in "\n".join(results._told_of_zooms(content, "r2"))


def test_what_else_measured_the_label_stands_beside_the_models(results):
    pair = {
        "a": "A",
        "b": "B",
        "n": 1234,
        "offset": -0.1,
        "scale": 0.7,
        "raw": 0.5,
        "rms": 0.3,
        "stated": None,
    }
    limits = {"system_r2": 0.6, "alike_r2": 0.8, "r2": 0.75, "rmse": 0.25}
    ends = {f"{name}{end}": 0.01 for name in ("farther", "distance") for end in ("", "_low", "_high")}
    model = {"cell": "one", "system": "B", **limits, **ends}
    content = {"systems": [{**pair, "models": [model]}], "cells": [{"cell": "one", "model": "tree"}]}
    lines = results._told_of_systems(content)
    assert "| A | B | 1,234 | −0.100 | 0.700 | 0.500 | 0.300 | – |" in lines
    assert any(line.startswith("| Decision tree | B | 0.750 | 0.600 | 0.800 | 0.010 (") for line in lines)
    assert results._told_of_systems({"systems": []}) == results._told_of_systems({}) == []
