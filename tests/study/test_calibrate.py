"""A model is weighed for a survey without labels: a new folder that says for whom, or a reason why not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from skyfuse.cli import main
from skyfuse.disk import sha256
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import MODELS, Conformal, Examples, load_model
from skyfuse.models.applicability import Applicability
from skyfuse.models.files import write_arrays
from skyfuse.models.shift import Evidence, Weighted
from skyfuse.models.summaries import summarise
from skyfuse.study.calibrate import calibrate
from skyfuse.study.check import check
from skyfuse.study.predict import predict
from tests.models.cards import inputs_of


def sky(rng, n, shift=0.0):
    """Return magnitudes and a label that faint objects tell less of, and that the distance changes."""
    table = pd.DataFrame({"g": rng.normal(17 + shift, 1, n), "r": rng.normal(16.5, 0.5, n)})
    table["cz"] = rng.uniform(4000, 7000, n)
    noise = 0.1 * np.exp(0.7 * (table["g"] - 17)) * rng.normal(size=n)
    return table.assign(value=table["r"] - 16 + (table["cz"] - 5500) * 6e-5 + noise)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a model, its own survey and a fainter one."""
    folder = tmp_path_factory.mktemp("calibrate")
    rng = np.random.default_rng(1)
    columns = ["g", "r"]
    parts = [sky(rng, 1500) for _ in range(2)]
    x, own = ({"table": part[columns].to_numpy(np.float32)} for part in parts)
    model = MODELS["linear"]()
    model.fit(Examples(x, parts[0]["value"]), Examples(own, parts[1]["value"]), seed=0)
    model.calibrate(own, parts[1]["value"])
    # One width for all: what is learned of difficulty would mend most of the shift.
    width = np.abs(model.predict(own).value - parts[1]["value"].to_numpy())
    model.interval = Conformal.of(replace(model.interval.scores, value=width), "error", 0.9)
    model.applicability = Applicability.fit(summarise(x, columns))
    others = {"cz": parts[1]["cz"].to_numpy()}
    model.evidence = Evidence.of(model, own, parts[1]["value"], others)
    card = inputs_of({"table": 0}, columns=columns, reader="table")
    model.card.update(label={"name": "value", "unit": "dex"}, inputs=card, split=None, metrics={})
    model.save(folder / "model")
    model.applicability = model.evidence = None
    model.save(folder / "bare")
    sky(rng, 1500, 0.8).to_csv(folder / "faint.csv", index=False)
    near = sky(rng, 1500, 0.8)
    near.assign(CZ=near["cz"] - 2000).drop(columns="cz").to_csv(folder / "near.csv", index=False)
    near.drop(columns="cz").to_csv(folder / "blind.csv", index=False)
    sky(rng, 1500, 6.0).to_csv(folder / "far.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def weighed(trained):
    """Return the folder of the weighed model, and what was said of it."""
    return trained / "weighed", calibrate(trained / "model", trained / "faint.csv", trained / "weighed")


def covered(table, labels):
    truth = labels["value"].to_numpy()
    return np.mean((table["value_low"].to_numpy() <= truth) & (truth <= table["value_high"].to_numpy()))


def test_the_new_model_covers_the_target_and_the_old_one_stays(trained, weighed):
    folder, facts = weighed
    labels = pd.read_csv(trained / "faint.csv")
    before = predict(trained / "model", trained / "faint.csv")
    after = predict(folder, trained / "faint.csv")
    assert covered(before, labels) < 0.87
    inside = (after["outside"] == "").to_numpy()
    assert covered(after[inside], labels[inside]) == pytest.approx(0.9, abs=3 * facts["spread"])
    assert after["value"].tolist() == before["value"].tolist()
    assert after["outside"].tolist() == before["outside"].tolist()
    assert (facts["name"], facts["given"], facts["calibrated"]) == ("faint.csv", 1500, 1500)
    assert check(folder).problems == []
    told = after.attrs["account"]["target"]
    assert told["same"]
    assert told["effective"] == facts["effective"] < 1500
    assert before.attrs["account"]["target"] is None
    # As a whole these are fainter: without weights the level is stated where like objects bear it out.
    assert next(iter(before.attrs["account"]["drift"])) == "g fainter"
    stated = before["value_level_holds"].to_numpy(bool)
    assert 0.3 < stated.mean() < 0.9
    assert covered(before[stated], labels[stated]) > 0.87
    assert after["value_level_holds"].to_numpy(bool).tolist() == inside.tolist()


def test_objects_of_another_sample_are_told_apart(trained, weighed):
    folder, _ = weighed
    pd.read_csv(trained / "faint.csv").head(700).to_csv(trained / "some.csv", index=False)
    assert not predict(folder, trained / "some.csv").attrs["account"]["target"]["same"]


def test_a_weighed_model_can_be_weighed_anew(trained, weighed, tmp_path):
    again = calibrate(weighed[0], trained / "faint.csv", tmp_path / "again")
    assert again["effective"] == weighed[1]["effective"]
    assert load_model(tmp_path / "again").card["target"] == load_model(weighed[0]).card["target"]


def test_what_errors_go_with_is_compared_where_the_data_has_it(trained, weighed, tmp_path):
    assert weighed[1]["beside"] == 1
    assert calibrate(trained / "model", trained / "blind.csv", tmp_path / "blind")["beside"] == 0
    with pytest.raises(DataError, match=r"near\.csv: no level .* errors go with cz, which it does not read"):
        calibrate(trained / "model", trained / "near.csv", tmp_path / "near")


def test_what_cannot_be_promised_is_refused_and_nothing_written(trained, tmp_path):
    with pytest.raises(DataError, match=r"far\.csv: no level can be promised for it: .* outside"):
        calibrate(trained / "model", trained / "far.csv", tmp_path / "far")
    assert not (tmp_path / "far").exists()
    with pytest.raises(StoreError, match="keeps no calibration"):
        calibrate(trained / "bare", trained / "faint.csv", tmp_path / "bare")
    with pytest.raises(UsageError, match="exists"):
        calibrate(trained / "model", trained / "faint.csv", trained / "model")
    with pytest.raises(StoreError, match="does not exist"):
        calibrate(trained / "model", trained / "nowhere.csv", tmp_path / "nowhere")


def said(monkeypatch, capsys, code, *words):
    monkeypatch.setattr("sys.argv", ["skyfuse", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == code
    return capsys.readouterr()


def test_the_command_line_tells_what_the_promise_rests_on(trained, weighed, tmp_path, monkeypatch, capsys):
    words = ["calibrate", trained / "model", "--for", trained / "faint.csv", "-o"]
    out, _ = said(monkeypatch, capsys, 0, *words, tmp_path / "text")
    assert f"the 1500 calibration objects tell as much as {weighed[1]['effective']:.0f}" in out
    assert "which cannot be seen without labels" in out
    facts = json.loads(said(monkeypatch, capsys, 0, *words, tmp_path / "json", "--json")[0])
    assert {key: facts[key] for key in ("sha256", "effective", "apart", "spread")} == {
        key: weighed[1][key] for key in ("sha256", "effective", "apart", "spread")
    }
    words[3] = trained / "far.csv"
    _, err = said(monkeypatch, capsys, 1, *words, tmp_path / "far")
    assert f"{words[3]}: no level can be promised for it: " in err.splitlines()[-1]
    out, err = said(
        monkeypatch, capsys, 0, "predict", weighed[0], trained / "faint.csv", "-o", tmp_path / "out.csv"
    )
    size = f"{facts['effective']:.0f} of 1500"
    assert f"calibrated for faint.csv (1500 objects; effective sample size {size})" in out
    assert "lean away from the training" not in err


@pytest.mark.parametrize("wrong", ["target", "training", "ratio", "scores", "evidence", "sha"])
def test_damage_to_a_weighed_model_is_refused(weighed, tmp_path, wrong):
    model = load_model(weighed[0])
    folder = model.save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    parts = {
        "": model.applicability.arrays,
        "calibration_": model.evidence.arrays,
        "ratio_": model.interval.ratio.arrays,
    }
    arrays = {f"{start}{name}": array for start, part in parts.items() for name, array in part.items()}
    assert isinstance(model.interval, Weighted)
    if wrong == "target":
        card["target"]["apart"] = 2.0
    elif wrong == "sha":
        card["target"]["sha256"] = "x"
    elif wrong == "training":
        card["training"] = None
    elif wrong == "evidence":
        card["training"]["calibration"] = False
    elif wrong == "ratio":
        arrays["ratio_low"] = arrays["ratio_high"] + 1
    else:
        arrays["calibration_scores"] = -arrays["calibration_scores"] - 1
    write_arrays(arrays, folder, "sample.safetensors")
    if card["training"] is not None:
        card["training"]["sha256"] = sha256(folder / "sample.safetensors")
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(StoreError):
        load_model(folder)
