"""Tables and sentences of the page."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from skyfuse.study.report.classification import confusion, gallery_cell
from skyfuse.study.report.common import METHOD_NAMES, fusion_name, metric_name, model_name, records
from skyfuse.study.report.data import gaps_by_input
from skyfuse.study.report.folder import Folder


def content(study: Folder) -> dict[str, Any]:
    """Return everything that the page shows beside its pictures.

    Parameters
    ----------
    study : Folder

    Returns
    -------
    dict
        By the names that the template uses.
    """
    best = study.best
    return {
        "study": study,
        "recipe": study.recipe,
        "task": study.recipe.task,
        "header": study.header,
        "headline": {**best, **_names(study, best)},
        "score": study.primary,
        "metrics": [{"name": name, "title": metric_name(name)} for name in study.scores],
        "table": _score_table(study),
        "attainable": study.attainable(study.primary),
        "limits": {name: limit for name in study.scores if (limit := study.attainable(name)) is not None},
        "n": {part: best.get(f"n_{part}") for part in ("train", "valid", "calibration", "test")},
        "class_table": _class_table(study),
        "unknown": _unknown(study),
        "systems": _systems(study),
        "guard": study.data["guard"],
        "looked": study.data.get("looked", {}),
        "leaks": _leaks(study),
        "leaky_gains": _leaky_gains(study),
        "funnel": _funnel(study),
        "gaps": gaps_by_input(study),
        "multi": study.data["multi"],
        "correlations": _correlations(study),
        "gains": _gains(study),
        "gallery": _gallery(study),
        "tuned": sorted(set(study.trials["model"])) if len(study.trials) else [],
        "flaws": _flaws(study),
        "published": _published(study),
        "published_scores": list(
            dict.fromkeys(name for figure in study.recipe.published for name in figure.scores)
        ),
        "cells": _cell_table(study),
        "versions": study.header["versions"],
        "recipe_text": study.recipe.to_yaml(),
    }


def _names(study: Folder, row: dict[str, Any]) -> dict[str, str]:
    """Return how a cell is called, with the weights of its members where a late fusion has learnt them."""
    weights = study.cells[row["cell"]].get("weights") if row["fusion"] == "late-weighted" else None
    shares = zip(weights or [], study.inputs, strict=weights is not None)
    return {
        "model_name": model_name(row["model"]),
        "fusion_name": fusion_name(row["fusion"]),
        "weights": ", ".join(f"{weight:.2f} {name}" for weight, name in shares),
        "name": study.title(row["cell"]),
    }


def _score_table(study: Folder) -> list[dict[str, Any]]:
    rows = [row for m in study.models for f in study.fusions if (row := study.row(m, f)) is not None]
    return [{**row, **_names(study, row)} for row in rows]


def _class_table(study: Folder) -> list[dict[str, Any]]:
    if study.kind != "classification":
        return []
    return confusion(study.predictions(study.best["cell"]), study.classes).table()


def _gallery(study: Folder) -> str | None:
    """Return what the galleries show: ``image``, ``spectrum``, or None where there is none."""
    cell = gallery_cell(study) if study.kind == "classification" else None
    table = None if cell is None else study.beside(cell, "gallery")
    return None if table is None else "spectrum" if table["image"].isna().all() else "image"


def _unknown(study: Folder) -> list[dict[str, Any]]:
    """Return how many objects each model calls none of the known."""
    if study.kind == "reconstruction":
        return []
    found = []
    for row in study.leaders:
        table = study.predictions(row["cell"])
        if "unknown" in table and table["unknown"].notna().any():
            flagged = table["unknown"].fillna(False).astype(bool)
            found.append({"name": _names(study, row)["name"], "flagged": int(flagged.sum()), "n": len(table)})
    return found


def _systems(study: Folder) -> dict[str, list[dict[str, Any]]]:
    """Return how far every two systems of the label lie from each other, and every model beside each."""
    task = study.recipe.task
    if not task.systems or not len(study.systems):
        return {"pairs": [], "models": []}
    models = [{**row, "name": study.title(row["cell"])} for row in records(study.ceilings)]
    # Of the pairs, those with the label alone bound a model.
    limits = {(task.label, row["system"]): row for row in models}
    pairs = [
        {**row, "what": task.systems[row["b"]].what, "limits": limits.get((row["a"], row["b"]))}
        for row in records(study.systems)
    ]
    return {"pairs": pairs, "models": models}


def _leaks(study: Folder) -> list[dict[str, Any]]:
    """Return each cell with leaking inputs beside its twin without, and their paired difference."""
    pairs = study.comparisons
    pairs = pairs[(pairs["kind"] == "leak") & (pairs["metric"] == study.primary)]
    by_cell = {row["cell"]: row for row in records(study.results)}
    return [
        {
            "name": _names(study, by_cell[row["b"]])["name"],
            "sound": by_cell[row["b"]],
            "leaky": by_cell[row["a"]],
            "difference": row["difference"],
            "low": row["low"],
            "high": row["high"],
        }
        for row in records(pairs)
    ]


def _leaky_gains(study: Folder) -> list[dict[str, Any]]:
    """Return fusions against single inputs, without leaking inputs and with them."""
    table = study.comparisons
    table = table[(table["metric"] == study.primary) & table["kind"].isin(["fusion", "single"])]
    fusion_of = dict(zip(study.results["cell"], study.results["fusion"], strict=True))
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in records(table):
        model, fusion, single = str(row["model"]), str(row["fusion"]), str(fusion_of[row["b"]])
        names = {"model_name": model_name(model), "name": f"{fusion_name(fusion)} \N{MINUS SIGN} {single}"}
        entry = found.setdefault((model, fusion, single), names)
        entry["sound" if pd.isna(row["change"]) else "leaky"] = row
    return [entry for entry in found.values() if "sound" in entry and "leaky" in entry]


def _funnel(study: Folder) -> list[dict[str, Any]]:
    steps = study.data["funnel"]
    top = max((step["count"] for step in steps), default=0) or 1
    return [{**step, "width": 100 * step["count"] / top} for step in steps]


def _correlations(study: Folder) -> list[dict[str, Any]]:
    return [{**row, "method_name": METHOD_NAMES[row["method"]]} for row in records(study.correlations)]


def _gains(study: Folder) -> list[dict[str, Any]]:
    """Return what each model's best fusion gains over its best single input."""
    gains = study.sound[(study.sound["kind"] == "fusion") & study.sound["chosen"].astype(bool)]
    fusion_of = dict(zip(study.results["cell"], study.results["fusion"], strict=True))
    return [
        {
            **row,
            "model_name": model_name(str(row["model"])),
            "fusion_name": fusion_name(str(row["fusion"])),
            "single": fusion_of[row["b"]],
            "sure": row["low"] > 0,
        }
        for row in records(gains)
    ]


def _flaws(study: Folder) -> list[dict[str, Any]]:
    effects = {row["change"]: row for row in records(study.effects)} if len(study.effects) else {}
    return [
        {
            "what": flaw.what,
            "avoided": flaw.avoided,
            "effect": effects.get(flaw.change) if flaw.change else None,
            "model_name": model_name(flaw.model or ""),
            "fusion": flaw.fusion,
        }
        for flaw in study.recipe.flaws
    ]


def _published(study: Folder) -> list[dict[str, Any]]:
    return [
        {
            **figure.model_dump(),
            "model_name": model_name(figure.model),
            "fusion_name": fusion_name(figure.fusion),
        }
        for figure in study.recipe.published
    ]


def _cell_table(study: Folder) -> list[dict[str, Any]]:
    rows = records(study.results.astype({f"{name}_zoom": object for name in study.arrays}))
    return [
        {
            **row,
            "model_name": model_name(row["model"]),
            "fusion_name": fusion_name(row["fusion"]),
            "parameters": ", ".join(f"{k} {v}" for k, v in json.loads(row["parameters"]).items()),
        }
        for row in rows
    ]
