"""Results of the studies beside the authors' own: `docs/results.md`, made from stored summaries.

python docs/results.py                                              writes docs/results.md
python docs/results.py --collect STUDY_FOLDER NAME --note "data"    stores docs/results/NAME.json, then writes

A summary is what a finished study's folder says; the authors' figures, the flaws and the line on what a study
shows come from its recipe. No number is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skyfuse.recipe import Recipe, load_recipe
from skyfuse.study.metrics import PRIMARY
from skyfuse.study.report.common import (
    crossing,
    figure,
    fusion_name,
    listed,
    metric_name,
    model_name,
    number,
    percent,
    records,
    seconds,
    signed,
)
from skyfuse.study.report.folder import Folder, read_folder

HERE = Path(__file__).parent
HEAD = """# Results

Made by `python docs/results.py` from the summaries in `docs/results/`; no number is typed by hand. Each of
our figures is of a test part that took no part in training, tuning, choosing between models, or setting
intervals; brackets hold 95 % intervals (bootstrap over test objects, whole groups). The model is chosen
where no training stopped: by cross-validation inside the training part, or on the calibration part (over the
rounds of a cross-validation together); the section of a study says which. Inputs that carry the answer are
left out of every headline; the section says what they would add. *Figures in italics are the authors' own*,
on their data. "Mock sky" is simulated data, "short run" a study at the size of `--quick`: both show that a
study runs and what its mechanism finds, not what the real sky holds.
"""

_LOWER = frozenset({"mae", "rmse", "nmad", "sigma_nmad", "sigma_rms", "outliers"})
"""Scores of which less is better."""


def summary(folder: Path, note: str) -> dict[str, Any]:
    """Return what is kept of a finished study.

    Parameters
    ----------
    folder : Path
        The study's folder.
    note : str
        The data, in words.

    Returns
    -------
    dict
        Ready for JSON.
    """
    study = read_folder(folder)
    best = study.best
    return {
        "recipe": study.recipe.name,
        "variant": study.header["variant"],
        "quick": study.header["quick"],
        "data": study.header["data"],
        "note": note,
        "kind": study.kind,
        "title": study.recipe.title,
        "label": {"title": study.recipe.task.title, "unit": study.unit},
        "level": study.recipe.task.level,
        "crossing": study.crossing,
        "objects": {part: int(best[f"n_{part}"]) for part in ("train", "valid", "calibration", "test")},
        "counts": study.data.get("counts") or {},
        "split": {
            "rounds": study.rounds,
            "column": study.recipe.split.column,
            "shares": [study.recipe.split.model_dump()[p] for p in ("train", "valid", "calibration", "test")],
            "sha256": study.header["dataset"]["split"],
        },
        "seed": study.header["seed"],
        "scores": study.scores,
        "attainable": {name: limit for name in study.scores if (limit := study.attainable(name)) is not None},
        "systems": _systems(study),
        "headline": best["cell"],
        "cells": [
            _cell(study, row) for row in records(study.results) if row["role"] in ("reference", "leak")
        ],
        "resolution": _resolution(study),
        "tuning": _tuning(study),
        "differences": _differences(study),
        "flaws": [_clean(row) for row in records(study.effects)],
        "versions": study.header["versions"],
    }


def _cell(study: Folder, row: dict[str, Any]) -> dict[str, Any]:
    kept = ("cell", "model", "fusion", "role", "coverage", "coverage_low", "coverage_high", "width")
    costs = ("parameters_count", "train_seconds", "inference_seconds")
    scores = [f"test_{name}{end}" for name in study.scores for end in ("", "_low", "_high")]
    return _clean({name: row[name] for name in (*kept, *scores, *costs)})


def _systems(study: Folder) -> list[dict[str, Any]]:
    """Return the pairs of systems of the label, and with each other system every model's distance from it."""
    models = [_clean(row) for row in records(study.ceilings)]
    label = study.recipe.task.label
    found = []
    for pair in records(study.systems):
        beside = [row for row in models if (label, row["system"]) == (pair["a"], pair["b"])]
        found.append({**_clean(pair), "models": beside})
    return found


def _resolution(study: Folder) -> list[dict[str, Any]]:
    """Return the score of each single input at each of its zooms."""
    score = f"test_{study.primary}"
    kept = study.results[study.results["role"].isin(["reference", "resolution"])]
    rows = [row for row in records(kept) if row["fusion"] in study.arrays]
    names = ("model", "fusion", score, f"{score}_low", f"{score}_high", "train_seconds")
    found = [_clean({**{n: row[n] for n in names}, "zoom": row[f"{row['fusion']}_zoom"]}) for row in rows]
    return found if any(row["role"] == "resolution" for row in rows) else []


def _tuning(study: Folder) -> list[dict[str, Any]]:
    """Return each point of each search, with its mean score over the folds."""
    names = ("model", "fusion", "folds", "score", "score_std", "chosen", "seconds")
    return [
        {**_clean({name: row[name] for name in names}), "parameters": json.loads(row["parameters"])}
        for row in records(study.trials)
        if json.loads(row["parameters"])
    ]


def _differences(study: Folder) -> list[dict[str, Any]]:
    """Return what leaking inputs and fusions add, and how models do against each other.

    Fusions that read leaking columns stand beside those that do not. On the headline's input the models are
    its rivals; on the other inputs every two are compared.
    """
    table = study.comparisons[study.comparisons["metric"] == study.primary]
    headline = (table[["a", "b"]] == study.best["cell"]).any(axis=1)
    elsewhere = (table["fusion"] != study.best["fusion"]) & table["change"].isna()
    models = table[(table["kind"] == "models") & (headline | elsewhere)]
    others = table[table["kind"].isin(["leak", "fusion", "single"])]
    kept = ["kind", "change", "chosen", "a", "b", "difference", "low", "high"]
    return [_clean(row) for row in records(pd.concat([models, others])[kept])]


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with plain values; what is missing is None."""
    return {
        name: None if pd.isna(value) else value.item() if hasattr(value, "item") else value
        for name, value in row.items()
    }


def page(folder: Path) -> str:
    """Return the page that the stored summaries make.

    Parameters
    ----------
    folder : Path
        With one JSON file a study.

    Returns
    -------
    str
        Markdown.
    """
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    columns = (
        "study",
        "ours",
        "data",
        "split",
        "the authors' own",
        "what it shows",
        "flaws of the original avoided",
    )
    lines = [HEAD, _row(columns), _row(["---"] * len(columns))]
    sections = []
    for name, content in found.items():
        recipe = load_recipe(content["recipe"])
        recipe = recipe if content["variant"] is None else recipe.varied(content["variant"])
        lines.append(
            _row(
                [
                    f"[{name}](#{name})",
                    _ours(content, recipe),
                    _data(content),
                    _split(content),
                    _theirs(content, recipe),
                    _shown(content, recipe),
                    "; ".join(flaw.what for flaw in recipe.flaws) or "–",
                ]
            )
        )
        sections += _section(name, content, recipe)
    return "\n".join([*lines, "", *sections]).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _headline(content: dict[str, Any]) -> dict[str, Any]:
    return next(cell for cell in content["cells"] if cell["cell"] == content["headline"])


def _name(cell: dict[str, Any]) -> str:
    return f"{model_name(cell['model'])}, {fusion_name(cell['fusion'])}"


def _score(cell: dict[str, Any], name: str) -> str:
    value, low, high = (cell[f"test_{name}{end}"] for end in ("", "_low", "_high"))
    return f"{metric_name(name)} {figure(value)} ({figure(low)} to {figure(high)})"


def _ours(content: dict[str, Any], recipe: Recipe) -> str:
    """Return the headline, in the score that chooses, those that the authors state, those of redshifts."""
    cell = _headline(content)
    stated = [name for theirs in recipe.published for name in theirs.scores if name in content["scores"]]
    redshift = [name for name in ("sigma_nmad", "outliers") if name in content["scores"]]
    names = list(dict.fromkeys([PRIMARY[content["kind"]], *stated, *redshift]))
    return f"**{'; '.join(_score(cell, name) for name in names)}**, {_name(cell)}"


def _data(content: dict[str, Any]) -> str:
    n = content["objects"]
    size = n["test"] if content["split"]["rounds"] > 1 else sum(n.values())
    where = "mock sky" if content["data"] == "mock" else "real"
    note = f": {content['note']}" if content["note"] else ""
    return f"{where}{note}; {size:,} objects" + (", short run" if content["quick"] else "")


def _split(content: dict[str, Any]) -> str:
    split, n = content["split"], content["objects"]
    if split["rounds"] > 1:
        return f"{split['rounds']}-fold, each object tested once"
    fixed = f" (fixed by `{split['column']}`)" if split["column"] else ""
    return f"{n['train']:,} / {n['valid']:,} / {n['calibration']:,} / {n['test']:,}{fixed}"


def _theirs(content: dict[str, Any], recipe: Recipe) -> str:
    """Return the authors' best figure, with their data and split."""
    if not recipe.published:
        return "–"
    known = [PRIMARY[content["kind"]], *content["scores"], *recipe.published[0].scores]
    score = next(name for name in known if any(name in theirs.scores for theirs in recipe.published))
    stating = [theirs for theirs in recipe.published if score in theirs.scores]
    best = (min if score in _LOWER else max)(stating, key=lambda theirs: theirs.scores[score])
    scores = "; ".join(f"{metric_name(name)} {value:g}" for name, value in best.scores.items())
    parts = [
        f"{model_name(best.model)}{f', {fusion_name(best.fusion)}' if best.fusion else ''}",
        best.data,
        best.split,
    ]
    told = "same data and split" if best.comparable else "not comparable: different data"
    return f"*{scores}* ({'; '.join(part for part in parts if part)}); {told}"


def _shown(content: dict[str, Any], recipe: Recipe) -> str:
    """Return the question of a study, and what the stored results answer."""
    primary = metric_name(PRIMARY[content["kind"]])
    headline = _headline(content)
    cells = {cell["cell"]: cell for cell in content["cells"]}
    model = model_name(headline["model"])
    found = []
    rivals = [
        row
        for row in content["differences"]
        if row["kind"] == "models" and headline["cell"] in (row["a"], row["b"])
    ]
    if rivals:
        # Seen from the headline, whichever side of the pair it stands on.
        seen = [
            (row["difference"], row["low"], row["high"], row["b"])
            if row["a"] == headline["cell"]
            else (-row["difference"], -row["high"], -row["low"], row["a"])
            for row in rivals
        ]
        surely = [cells[name]["model"] for _, low, _, name in seen if low > 0]
        equal = [cells[name]["model"] for _, low, high, name in seen if low <= 0 <= high]
        worse = [cells[name]["model"] for _, _, high, name in seen if high < 0]
        for verb, models in (("beats", surely), ("is level with", equal), ("is beaten by", worse)):
            if models:
                found.append(f"{model} {verb} {listed([model_name(name) for name in models])}")
    for row in content["differences"]:
        own = headline["cell"] in (row["a"], row["b"])
        verdict = "more" if row["low"] > 0 else "less" if row["high"] < 0 else "no sure difference"
        change = f"{primary} {_change(row)}, {verdict}"
        if row["kind"] == "leak" and row["b"] == headline["cell"]:
            found.append(f"with the leaking inputs {change}")
        if row["kind"] == "fusion" and row["chosen"] and row["change"] is None:
            a, b = cells[row["a"]], cells[row["b"]]
            if own or a["model"] == headline["model"]:
                found.append(f"{fusion_name(a['fusion'])} against {b['fusion']} alone {change}")
    for score, limit in content["attainable"].items():
        found.append(f"attainable {metric_name(score)} {figure(limit)}")
    answer = "; ".join(found)
    return f"{recipe.shows or recipe.title}{f' {answer[:1].upper()}{answer[1:]}' if answer else ''}"


def _change(row: dict[str, Any]) -> str:
    return f"{signed(row['difference'])} ({signed(row['low'])} to {signed(row['high'])})"


def _section(name: str, content: dict[str, Any], recipe: Recipe) -> list[str]:
    cell = _headline(content)
    primary = PRIMARY[content["kind"]]
    scores = [score for score in content["scores"] if score != "log_loss"]
    covered = content["kind"] != "reconstruction"
    lines = [
        f"## {name}",
        "",
        f"{content['title']}: recipe `{content['recipe']}`"
        + (f", variant `{content['variant']}`" if content["variant"] else "")
        + f"; {_data(content)}. Label: {content['label']['title']}"
        + (f" in {content['label']['unit']}" if content["label"]["unit"] else "")
        + f": {recipe.task.definition.rstrip('.')}. Seed {content['seed']}, "
        + f"split `{content['split']['sha256'][:12]}`, "
        + ", ".join(f"{library} {version}" for library, version in content["versions"].items())
        + ".",
        "",
    ]
    if content["counts"]:
        counts = ", ".join(f"{group} {n:,}" for group, n in content["counts"].items())
        lines += [f"Objects by class: {counts}.", ""]
    if sum(row["role"] == "reference" for row in content["cells"]) > 1:
        where = (
            "by cross-validation inside the training part"
            if recipe.choice == "folds"
            else "on the calibration part"
        )
        lines += [f"In bold: the model chosen, {where}.", ""]
    for score, limit in content["attainable"].items():
        lines += [f"Attainable {metric_name(score)} on these test objects: {figure(limit)}.", ""]
    lines += _told_of_systems(content)
    width = "set size" if content["kind"] == "classification" else "width"
    head = ["model", "input", *(metric_name(score) for score in scores)]
    head += [f"coverage ({percent(content['level'], 0)})", width] if covered else []
    lines += [_row([*head, "training", "inference"]), _row(["---"] * (len(head) + 2))]
    for row in content["cells"]:
        leaky = " with leaking inputs" if row["role"] == "leak" else ""
        cells = [model_name(row["model"]), fusion_name(row["fusion"]) + leaky]
        for score in scores:
            value = figure(row[f"test_{score}"])
            if score == primary:
                value += f" ({figure(row[f'test_{score}_low'])} to {figure(row[f'test_{score}_high'])})"
            cells.append(f"**{value}**" if row is cell and score == primary else value)
        if covered:
            ends = f"{percent(row['coverage_low'])} to {percent(row['coverage_high'])}"
            cells += [f"{percent(row['coverage'])} ({ends})", figure(row["width"])]
        lines.append(_row([*cells, seconds(row["train_seconds"]), seconds(row["inference_seconds"])]))
    lines.append("")
    if content.get("crossing"):
        lines += [crossing(content["crossing"], content["level"]), ""]
    lines += _notes(content, primary)
    return [*lines, *_told_of_zooms(content, primary), *_told_of_searches(content, primary)]


def _told_of_zooms(content: dict[str, Any], primary: str) -> list[str]:
    """Return a table of the scores of single inputs by zoom."""
    rows = content.get("resolution", [])
    if not rows:
        return []
    zooms = sorted({row["zoom"] for row in rows})
    by = {(row["model"], row["fusion"], row["zoom"]): row for row in rows}
    lines = [f"{metric_name(primary)} by zoom:", "", _row(["model", "input", *(f"zoom {z}" for z in zooms)])]
    lines.append(_row(["---"] * (len(zooms) + 2)))
    for model, fusion in dict.fromkeys((row["model"], row["fusion"]) for row in rows):
        own = [by.get((model, fusion, zoom)) for zoom in zooms]
        names = [f"test_{primary}{end}" for end in ("", "_low", "_high")]
        told = [
            "" if row is None else "{} ({} to {})".format(*(number(row[name]) for name in names))
            for row in own
        ]
        lines.append(_row([model_name(model), fusion_name(fusion), *told]))
    return [*lines, ""]


def _told_of_searches(content: dict[str, Any], primary: str) -> list[str]:
    """Return each search in one line: its points with their scores over the folds, the chosen one in bold."""
    rows = content.get("tuning", [])
    lines = []
    for model, fusion in dict.fromkeys((row["model"], row["fusion"]) for row in rows):
        points = []
        for row in rows:
            if (row["model"], row["fusion"]) == (model, fusion):
                values = ", ".join(
                    f"{value:g}" if isinstance(value, float) else str(value)
                    for value in row["parameters"].values()
                )
                told = f"{values}: {number(row['score'])} ± {number(row['score_std'])}"
                points.append(f"**{told}**" if row["chosen"] else told)
        names = ", ".join(next(row["parameters"] for row in rows if row["model"] == model))
        lines.append(f"- {model_name(model)}, {fusion_name(fusion)} ({names}): {'; '.join(points)}.")
    if not lines:
        return []
    return [f"{metric_name(primary)} over the folds of the training part (mean ± spread):", "", *lines, ""]


def _told_of_systems(content: dict[str, Any]) -> list[str]:
    """Return how far systems of the label lie from each other, and every model from what that allows."""
    pairs = content.get("systems", [])
    if not pairs:
        return []
    lines = [
        "Other measurements of the label, on the test objects that have both; offset and scale of the "
        "training part bring them to one mean and one spread. R² if all disagreement is the label's error, "
        "and if both err alike.",
        "",
        _row(["label", "other", "objects", "offset", "scale", "rms as stated", "rms", "by stated errors"]),
        _row(["---"] * 8),
    ]
    for pair in pairs:
        told = [signed(pair["offset"]), number(pair["scale"])]
        told += [figure(pair[name]) for name in ("raw", "rms", "stated")]
        lines.append(_row([pair["a"], pair["b"], f"{pair['n']:,}", *told]))
    names = ("model", "other", "R²", "if all is the label's", "if alike", "below", "RMSE", "RMSE − rms")
    lines += ["", _row([*names]), _row(["---"] * 8)]
    cells = {cell["cell"]: cell for cell in content["cells"]}
    for row in (row for pair in pairs for row in pair.get("models", [])):
        limits = [number(row[name]) for name in ("r2", "system_r2", "alike_r2")]
        below = f"{number(row['distance'])} ({number(row['distance_low'])} to {number(row['distance_high'])})"
        farther = f"{signed(row['farther'])} ({signed(row['farther_low'])} to {signed(row['farther_high'])})"
        model = model_name(cells[row["cell"]]["model"])
        lines.append(_row([model, row["system"], *limits, below, figure(row["rmse"]), farther]))
    return [*lines, ""]


def _notes(content: dict[str, Any], primary: str) -> list[str]:
    cells = {cell["cell"]: cell for cell in content["cells"]}
    lines = []
    for row in content["differences"]:
        a, b = cells[row["a"]], cells[row["b"]]
        change = f"{metric_name(primary)} {_change(row)}"
        if row["kind"] == "leak":
            lines.append(f"- {_name(b)}: leaking inputs would add {change}.")
        elif row["kind"] == "models" and a["fusion"] != _headline(content)["fusion"]:
            lines.append(f"- {_name(a)}, against {model_name(b['model'])}: {change}.")
        elif row["kind"] in ("fusion", "single"):
            against = f"{fusion_name(a['fusion'])} against {b['fusion']} alone"
            leaky = " with leaking inputs" if row["change"] else ""
            lines.append(f"- {model_name(a['model'])}{leaky}: {against} {change}.")
    for row in content["flaws"]:
        lines.append(
            f"- Flaw `{row['change']}` brought back: {metric_name(primary)} {number(row['value_sound'])} "
            f"becomes {number(row['value'])} ({signed(row['difference'])}; {signed(row['low'])} to "
            f"{signed(row['high'])})."
        )
    return [*lines, ""] if lines else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Store a summary if asked, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--collect", nargs=2, metavar=("STUDY_FOLDER", "NAME"), help="store a study's summary"
    )
    parser.add_argument("--note", default="", help="the data, in words, e.g. the catalogue's name")
    chosen = parser.parse_args(arguments)
    stored = HERE / "results"
    if chosen.collect:
        folder, name = chosen.collect
        stored.mkdir(exist_ok=True)
        content = json.dumps(summary(Path(folder), chosen.note), indent=1, ensure_ascii=False)
        (stored / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(page(stored), encoding="utf-8")


if __name__ == "__main__":
    main()
