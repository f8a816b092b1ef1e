"""The report of made-up studies of every kind: sections, figures, and the numbers that it computes itself."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from skyfuse.errors import StoreError
from skyfuse.study.report import write_report
from skyfuse.study.report.classification import area, confusion, curve, reliability
from skyfuse.study.report.common import listed, number, percent, seconds, signed
from skyfuse.study.report.data import draw as draw_data
from skyfuse.study.report.folder import read_folder

from .folders import CLASSES, write_folder

KINDS = ("regression", "classification", "reconstruction")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("studies")
    return {kind: write_folder(place / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def pages(folders):
    return {kind: write_report(folder).read_text() for kind, folder in folders.items()}


def text(page):
    """What a reader sees, white space made one."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"data:[^\"]*", "", page)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_is_one_file_without_links_or_scripts(pages, kind):
    page = pages[kind]
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    for target in re.findall(r"""(?:src|href)=["']([^"']*)""", page):
        assert target.startswith(("data:image/svg+xml;base64,", "#")), target[:80]
    assert set(re.findall(r'href="#([^"]*)', page)) <= set(re.findall(r'id="([^"]*)', page))


@pytest.mark.parametrize(
    ("kind", "figures"), [("regression", 16), ("classification", 18), ("reconstruction", 12)]
)
def test_every_figure_has_a_text_and_a_caption(pages, kind, figures):
    found = re.findall(r"<figure>.*?</figure>", pages[kind], flags=re.DOTALL)
    assert len(found) == figures
    for figure in found:
        assert len(re.search(r'alt="([^"]*)"', figure)[1]) > 30
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", figure, flags=re.DOTALL)[1]) > 25


@pytest.mark.parametrize("kind", KINDS)
def test_scores_stand_beside_published_figures_that_are_told_apart(folders, pages, kind):
    study = read_folder(folders[kind])
    for row in study.reference.to_dict("records"):
        assert f"<b>{row[f'test_{study.primary}']:.3f}</b>" in pages[kind]
    assert "<i>0.123</i>" in pages[kind]
    assert "Not comparable" in pages[kind]
    assert "77 objects" in pages[kind]
    assert "tiny &lt;pixels&gt;" in pages[kind]
    assert "That &lt;tags&gt; stay text." in pages[kind]
    assert "ab" * 32 in pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_missing_is_printed_by_its_name(pages, kind):
    # Figures are text too; only what is shown counts.
    shown = re.sub(r"<pre.*?</pre>", "", text(pages[kind]), flags=re.DOTALL)
    assert not re.search(r"\b(nan|None|NaT|inf)\b|<NA>", shown)


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_input_tells_is_shown(pages, kind):
    assert "plate 0.980 allowed by the recipe" in text(pages[kind])
    assert "From 0.97 on it is refused" in text(pages[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_headline_is_the_highest_of_the_choice(folders, pages, kind):
    study = read_folder(folders[kind])
    best = study.reference.sort_values("choice").iloc[-1]
    score, low, high = (best[f"test_{study.primary}{end}"] for end in ("", "_low", "_high"))
    assert re.search(
        rf"The model chosen is {study.title(best['cell'])} : .*? {score:.3f} on the test part "
        rf"\(95 % interval {low:.3f} to {high:.3f}\)",
        text(pages[kind]),
    )


def crossed(tmp_path, **coverage):
    """A study whose test part is another survey."""
    split = {"column": "source", "parts": {"train": ["RESOLVE*"], "test": ["ECO*"]}}
    folder = write_folder(tmp_path / "crossed", "regression", split=split)
    results = pd.read_parquet(folder / "results.parquet").assign(**coverage)
    results.to_parquet(folder / "results.parquet")
    return text(write_report(folder).read_text())


def test_a_split_between_surveys_says_that_intervals_promise_nothing(tmp_path, pages):
    page = crossed(tmp_path, coverage=0.64, coverage_low=0.6, coverage_high=0.68)
    assert "RESOLVE* calibrate, ECO* are tested" in page
    assert "exchangeable with the calibration objects" in page
    assert "Vovk" in page
    assert (
        "Here it is 64.0 % to 64.0 %, for 8 of 8 cells farther from 90 % than chance allows with 20" in page
    )
    assert "exchangeable" not in text(pages["regression"])


def test_a_split_by_column_that_keeps_its_coverage_is_said_to(tmp_path):
    page = crossed(tmp_path)
    assert "no farther from 90 % than chance allows with 20 calibration and 60 test objects" in page
    assert "not exchangeable" not in page


def test_curves_break_where_the_wavelength_falls_back(tmp_path):
    # BP and RP, which overlap, stand one after the other.
    folder = write_folder(tmp_path / "gaia", "regression")
    content = json.loads((folder / "data.json").read_text())
    content["mean_spectra"] |= {"wavelength": [400.0, 500.0, 600.0, 550.0, 650.0]}
    for part in content["mean_spectra"]["ranges"]:
        part["mean"] = [1.0, 2.0, None, 4.0, 5.0]
    (folder / "data.json").write_text(json.dumps(content))
    figure = next(drawn for drawn in draw_data(read_folder(folder)) if drawn.name == "mean-spectra").figure
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    assert len(lines) == 6
    for line in lines:
        np.testing.assert_array_equal(line.get_xdata(), [400, 500, 600, np.nan, 550, 650])
        np.testing.assert_array_equal(line.get_ydata(), [1, 2, np.nan, np.nan, 4, 5])


def test_leaking_inputs_never_make_the_headline(tmp_path):
    folder = write_folder(tmp_path / "leaky", "classification")
    results = pd.read_parquet(folder / "results.parquet")
    results.loc[results["role"] == "leak", ["choice", "test_f1_macro"]] = 0.999
    results.to_parquet(folder / "results.parquet")
    study = read_folder(folder)
    assert study.best["role"] == "reference"
    assert {row["role"] for row in study.leaders} == {"reference"}


def test_the_leakage_section_says_why_and_what_it_would_give(pages):
    section = pages["classification"].split('<h2 id="leakage">')[1].split("<h2")[0]
    assert "the &lt;plate&gt; was chosen by class" in section
    assert "used beside, on request" in section
    assert section.count("+0.111") == 2
    # Fusion against the single input, without and with: one row for each model.
    assert section.count("+0.161") == 2
    assert "stands <b>without</b>" in pages["classification"]
    assert "without</b> the inputs" not in pages["regression"]


def test_sections_follow_the_kind(pages):
    ids = {kind: set(re.findall(r'<h2 id="([^"]*)', page)) for kind, page in pages.items()}
    common = {
        "result",
        "leakage",
        "data",
        "views",
        "comparison",
        "zooms",
        "cost",
        "flaws",
        "published",
        "provenance",
    }
    assert ids["regression"] == common | {"tuning", "training", "redshift", "intervals", "learning"}
    assert ids["classification"] == common | {"tuning", "leakage", "classes", "intervals"}
    assert ids["reconstruction"] == common | {"training", "reconstruction"}


def test_redshifts_bring_their_own_scores_and_the_attainable_error(folders, pages):
    page = text(pages["regression"])
    best = read_folder(folders["regression"]).best
    assert f"outliers {100 * best['test_outliers']:.1f} %" in page
    assert f"this model has {best['test_mae'] / 0.011:.2f} times that" in page
    assert "in bins of 0.01" in page
    assert "Mean spectra in 6 ranges of redshift" in page


def test_galleries_and_unknown_objects_are_counted(folders, pages):
    page = text(pages["classification"])
    cell = read_folder(folders["classification"]).best["cell"]
    gallery = pd.read_parquet(folders["classification"] / "cells" / cell / "gallery.parquet")
    for name in CLASSES:
        rows = gallery[gallery["label"] == name]
        right = min(9, int((rows["prediction"] == name).sum()))
        wrong = min(9, int((rows["prediction"] != name).sum()))
        assert f"True class {name}: left, {right} right; right, {wrong} wrong" in page
    assert re.search(r"flagged of share .*? 3 60 5\.0 %", page)


def test_cross_validation_shows_every_object_once_and_images_in_galleries(tmp_path):
    folder = write_folder(
        tmp_path / "rounds",
        "classification",
        rounds=5,
        modalities=["spectrum"],
        columns=[],
        leaking=[],
        models={"logistic": {}},
    )
    rng = np.random.default_rng(1)
    for path in folder.glob("cells/*/gallery.parquet"):
        table = pd.read_parquet(path).assign(spectrum=None)
        table["image"] = [rng.integers(0, 255, 64 * 64 * 3, dtype=np.uint8) for _ in range(len(table))]
        table.to_parquet(path)
    page = write_report(folder).read_text()
    assert page.count('alt="Images of the class') == 3
    assert 'alt="Spectra of the class' not in page
    page = text(page)
    assert "5-fold cross-validation, in which each of 220 objects is tested once" in page
    counts = page.split("each class on the test part.")[1]
    support = [int(re.search(rf" {name} [\d.]+ [\d.]+ [\d.]+ (\d+) ", counts)[1]) for name in CLASSES]
    assert sum(support) == 220


def test_the_report_is_rebuilt_from_the_folder_alone(folders, pages):
    (folders["reconstruction"] / "report.html").unlink()
    assert write_report(folders["reconstruction"]).read_text() == pages["reconstruction"]


def test_no_study_or_half_a_study(tmp_path):
    with pytest.raises(StoreError, match="is not the folder of a study; run the study first"):
        write_report(tmp_path)
    folder = write_folder(tmp_path / "half", "regression")
    (folder / "coverage.parquet").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"coverage.parquet is missing or damaged; run the study again"):
        write_report(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("data.json", lambda path: path.write_text("{}")),
        ("study.json", lambda path: path.write_text("{}")),
        ("results.parquet", lambda path: pd.DataFrame({"a": [1]}).to_parquet(path)),
        ("objects.parquet", lambda path: pd.DataFrame({"label": ["a"]}).to_parquet(path)),
    ],
)
def test_results_that_do_not_fit_together_are_one_line(tmp_path, name, change):
    folder = write_folder(tmp_path / "study", "regression")
    change(folder / name)
    with pytest.raises(StoreError, match=r"its stored results do not fit together .* run the study again"):
        write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("cell", ["../elsewhere", "/etc", "..", ""])
def test_a_cell_never_leads_out_of_its_study(tmp_path, cell):
    folder = write_folder(tmp_path / "study", "regression")
    results = pd.read_parquet(folder / "results.parquet")
    results.loc[0, "cell"] = cell
    results.to_parquet(folder / "results.parquet")
    with pytest.raises(StoreError, match="which is no name"):
        write_report(folder)


# -------------------------------------------------------------------------------- numbers of its own


def test_class_scores_equal_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"label": rng.choice(CLASSES, 300), "prediction": rng.choice(CLASSES, 300)})
    found = pd.DataFrame(confusion(table, CLASSES).table())
    expected = precision_recall_fscore_support(table["label"], table["prediction"], labels=list(CLASSES))
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found[name].to_numpy(dtype=float), values, rtol=1e-12)


def test_classes_without_objects_or_outside_the_task_are_kept():
    table = pd.DataFrame({"label": ["star", "sky"], "prediction": ["star", "star"]})
    found = confusion(table, CLASSES)
    assert found.names == [*CLASSES, "sky"]
    assert found.counts[3, 2] == 1
    galaxy = found.table()[0]
    assert (galaxy["precision"], galaxy["recall"], galaxy["f1"], galaxy["support"]) == (None, None, None, 0)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: 0 < sum(hit for _, hit in rows) < len(rows)
    )
)
def test_area_below_the_curve_is_the_chance_to_rank_right(rows):
    score = np.array([value for value, _ in rows], dtype=float)
    positive = np.array([hit for _, hit in rows])
    false, true = curve(score, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    # Mann & Whitney: pairs in which the positive is higher, half of the ties.
    ahead = score[positive][:, None] - score[~positive][None, :]
    assert area(false, true) == pytest.approx(np.mean((ahead > 0) + 0.5 * (ahead == 0)))
    assert area(false, true) == pytest.approx(roc_auc_score(positive, score))


def test_reliability_of_probabilities_that_mean_what_they_say_and_of_others():
    p = np.repeat([0.1, 0.5, 0.9], 100)
    hit = np.concatenate([np.arange(100) < n for n in (10, 50, 90)])
    rng = np.random.default_rng(0)
    order = rng.permutation(300)
    table, error = reliability(p[order], hit[order])
    assert table["n"].tolist() == [100, 100, 100]
    np.testing.assert_allclose(table["share"], [0.1, 0.5, 0.9])
    assert error == pytest.approx(0)
    sure, wrong = reliability(np.ones(50), np.zeros(50, dtype=bool))
    assert wrong == 1
    # Wilson's interval of none of n: from 0 to z²/(n + z²).
    z2 = 1.959964**2
    assert sure.iloc[0]["low"] == pytest.approx(0, abs=1e-12)
    assert sure.iloc[0]["high"] == pytest.approx(z2 / (50 + z2))


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (number(-0.5), "\N{MINUS SIGN}0.500"),
        (number(None), "–"),
        (number(float("nan")), "–"),
        (number(0), "0.000"),
        (number(2e-5), "2.0e\N{MINUS SIGN}05"),
        (number(3, 0), "3"),
        (signed(0.25, 2), "+0.25"),
        (signed(-0.25, 2), "\N{MINUS SIGN}0.25"),
        (percent(0.1234), "12.3 %"),
        (seconds(0.0123), "12.3 ms"),
        (seconds(12.34), "12.3 s"),
        (seconds(150), "2.5 min"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_as_printed(printed, expected):
    assert printed == expected
