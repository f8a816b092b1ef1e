"""Disguises of the label are found; honest columns, of mock skies and of real tables, are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.cosmology import Planck18

from skyfuse.errors import DataError
from skyfuse.study import leakage
from skyfuse.study.leakage import EXACT, LEVEL, told_of_classes, told_of_numbers
from skyfuse.study.run import Study
from skyfuse.study.tasks import target
from skyfuse.survey.tables import read_table, without_sentinels

from .sky import SmallSky, class_recipe, small_recipe

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "tables"
N = 900
HONEST = ["shape", "line", "faint", "count", "flag"]


def a_sky(tmp_path) -> SmallSky:
    """A small sky with a redshift `z` and a class `type` of four, and honest columns that go with both."""
    sky = SmallSky(tmp_path, n=N, seed=4)
    rng = np.random.default_rng(5)
    z = rng.gamma(3, 0.05, N) + 0.002
    kind = rng.choice(4, N, p=[0.5, 0.3, 0.15, 0.05])
    sky.table["z"] = z
    sky.table["type"] = np.array(["elliptical", "spiral", "irregular", "merger"])[kind]
    sky.table["faint"] = 18 + 5 * np.log10(z) + 0.3 * kind + rng.normal(0, 0.4, N)
    sky.table["count"] = rng.poisson(2 + kind)
    sky.table["flag"] = (rng.random(N) < 0.2 + 0.2 * kind).astype(float)
    sky.table["group"] = np.arange(N)
    return sky


def found(sky, recipe) -> set[str]:
    goal = target(recipe, sky)
    try:
        leakage.refuse(looked := leakage.look(recipe, sky, goal), recipe, sky)
    except DataError:
        return {name for one in looked if leakage.gives(one) for name in one.inputs}
    return set()


def recipe_of(kind: str, columns: list[str], **changes):
    label = {"regression": "z", "classification": "type"}[kind]
    task = {"label": label, "title": label, "definition": "made up", "kind": kind}
    return class_recipe(task=task, columns=[*HONEST, *columns], leaking=[], **changes)


def apart(values: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two columns whose difference are the values."""
    other = rng.normal(0, 2 * values.std(), len(values))
    return {"first": values + other, "second": other}


OF_NUMBERS = {
    "another name": lambda z, rng: {"v": z},
    "velocity": lambda z, rng: {"v": 299792.458 * z},
    "logarithm": lambda z, rng: {"v": np.log10(1 + z)},
    "scale factor": lambda z, rng: {"v": 1 / (1 + z)},
    "rank": lambda z, rng: {"v": np.argsort(np.argsort(z))},
    "age of the universe": lambda z, rng: {"v": Planck18.age(z).value},
    "distance modulus": lambda z, rng: {"v": Planck18.distmod(z).value},
    "rounded": lambda z, rng: {"v": z.round(2)},
    "with noise": lambda z, rng: {"v": z + rng.normal(0, 0.03 * z.std(), len(z))},
    "other sign, scale and origin": lambda z, rng: {"v": 7 - 3.5e4 * z},
    "difference": apart,
    "product": lambda z, rng: {"first": z * (other := rng.uniform(1, 9, len(z))), "second": 1 / other},
    "distance modulus over two": lambda z, rng: {
        "first": (other := rng.normal(0, 3, len(z))) + 5 * np.log10(z),
        "second": other,
    },
    "line beside a line": lambda z, rng: {
        "first": 6563 * (1 + z) * (other := rng.uniform(1, 9, len(z))),
        "second": other,
    },
    "wide bins": lambda z, rng: {"v": z.round(1)},
    "bins of one size": lambda z, rng: {"v": pd.qcut(z, 5, labels=False)},
    "fold": lambda z, rng: {"v": np.abs(z - 0.1)},
    "whole part and fraction": lambda z, rng: {"first": np.floor(30 * z), "second": 30 * z % 1},
    "sum of three": lambda z, rng: {
        "first": (one := rng.normal(0, 2 * z.std(), len(z))) + (two := rng.normal(0, z.std(), len(z))),
        "second": two - one + z,
        "third": two + 5,
    },
    "product of four": lambda z, rng: {
        "first": (one := rng.uniform(1, 9, len(z))) * z**2,
        "second": one * (two := rng.uniform(1, 9, len(z))),
        "third": two / (three := rng.uniform(1, 9, len(z))),
        "fourth": three,
    },
    "one of many": lambda z, rng: {f"bin{k}": pd.qcut(z, 16, labels=False) == k for k in range(16)},
}
OF_CLASSES = {
    "code": lambda k, rng: {"v": k},
    "code in another order": lambda k, rng: {"v": np.array([30, 10, 40, 20])[k]},
    "code with noise": lambda k, rng: {"v": k + rng.normal(0, 0.1, len(k))},
    "one of four": lambda k, rng: {f"is{i}": (k == i).astype(float) for i in range(4)},
    "all but one of four": lambda k, rng: {f"is{i}": (k == i).astype(float) for i in range(3)},
    "bits": lambda k, rng: {"high": k // 2, "low": k % 2},
    "identifier given class by class": lambda k, rng: {
        "v": np.argsort(np.argsort(k + rng.random(len(k)))) + 10**6
    },
    "digits of a longer code": lambda k, rng: {"v": 100 * k + rng.integers(0, 100, len(k))},
    "shares of votes": lambda k, rng: {
        f"share{i}": 0.8 * (k == i) + 0.2 * rng.random(len(k)) for i in range(4)
    },
    "difference": lambda k, rng: {"first": k + (other := rng.normal(0, 4, len(k))), "second": other},
    "hole as a class": lambda k, rng: {"v": np.where(k == 0, np.nan, k)},
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return a_sky(tmp_path_factory.mktemp("sky"))


def test_honest_inputs_pass(sky):
    for kind in ("regression", "classification"):
        assert found(sky, recipe_of(kind, [])) == set()


@pytest.mark.parametrize("how", OF_NUMBERS)
def test_a_number_in_disguise_is_found(sky, monkeypatch, how):
    added = OF_NUMBERS[how](sky.table["z"].to_numpy(), np.random.default_rng(1))
    monkeypatch.setattr(sky, "table", sky.table.assign(**added))
    seen = found(sky, recipe_of("regression", list(added)))
    # Of several columns one may show by itself that it is made of the label.
    assert seen
    assert seen <= set(added)


def with_holes(added: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {name: np.where(rng.random(len(v)) < 0.3, np.nan, v) for name, v in added.items()}


# With a third of each of 16 bits missing, no object has all.
@pytest.mark.parametrize("how", [how for how in OF_NUMBERS if how != "one of many"])
def test_a_number_in_disguise_with_holes_is_found(sky, monkeypatch, how):
    added = with_holes(OF_NUMBERS[how](sky.table["z"].to_numpy(), np.random.default_rng(1)))
    monkeypatch.setattr(sky, "table", sky.table.assign(**added))
    seen = found(sky, recipe_of("regression", list(added)))
    assert seen
    assert seen <= set(added)


@pytest.mark.parametrize("how", [how for how in OF_CLASSES if how != "hole as a class"])
def test_a_class_in_disguise_with_holes_is_found(sky, monkeypatch, how):
    code = pd.Index(["elliptical", "spiral", "irregular", "merger"]).get_indexer(sky.table["type"])
    added = with_holes(OF_CLASSES[how](code, np.random.default_rng(1)))
    monkeypatch.setattr(sky, "table", sky.table.assign(**added))
    seen = found(sky, recipe_of("classification", list(added)))
    assert seen
    assert seen <= set(added)


def test_honest_inputs_with_holes_pass(sky, monkeypatch):
    monkeypatch.setattr(sky, "table", sky.table.assign(**with_holes({n: sky.table[n] for n in HONEST})))
    for kind in ("regression", "classification"):
        assert found(sky, recipe_of(kind, [])) == set()


def test_an_input_that_few_objects_have_tells_nothing_by_chance(sky, monkeypatch):
    rng = np.random.default_rng(3)
    seldom = {f"v{i}": np.where(rng.random(N) < 0.01 * i, rng.random(N), np.nan) for i in range(1, 40)}
    monkeypatch.setattr(sky, "table", sky.table.assign(**seldom))
    for kind in ("regression", "classification"):
        assert found(sky, recipe_of(kind, list(seldom))) == set()


@pytest.mark.parametrize("how", OF_CLASSES)
def test_a_class_in_disguise_is_found(sky, monkeypatch, how):
    code = pd.Index(["elliptical", "spiral", "irregular", "merger"]).get_indexer(sky.table["type"])
    added = OF_CLASSES[how](code, np.random.default_rng(1))
    monkeypatch.setattr(sky, "table", sky.table.assign(**added))
    seen = found(sky, recipe_of("classification", list(added)))
    assert seen
    assert seen <= set(added)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_order_of_a_sorted_table_is_found(sky, monkeypatch, kind):
    label = recipe_of(kind, []).task.label
    ordered = sky.table.sort_values(label, ignore_index=True).assign(row=np.arange(N))
    monkeypatch.setattr(sky, "table", ordered)
    assert found(sky, recipe_of(kind, ["row"])) == {"row"}
    # Without it the order is no input.
    assert found(sky, recipe_of(kind, [])) == set()


def test_a_pixel_and_a_bin_that_carry_the_label_are_found_at_their_zoom(tmp_path):
    sky = a_sky(tmp_path)
    sky._arrays["spectrum", 4][:, 7] = 3 * sky.table["z"]
    recipe = recipe_of("regression", [])
    assert found(sky, recipe) == {"spectrum at zoom 4, bin 7"}
    recipe = small_recipe()
    sky._arrays["image", 3][:, 1, 0, 5] = -sky.table["AVG"]
    assert found(sky, recipe) == {"image at zoom 3, band, row, column 1, 0, 5"}


def test_a_bright_line_tells_a_redshift_and_brightness_a_class_and_neither_is_refused(tmp_path):
    sky = a_sky(tmp_path)
    rng = np.random.default_rng(6)
    rank = sky.table["z"].rank().to_numpy() / N
    sky._arrays["spectrum", 4][:, 7] = np.exp(-((rank - 1.5) ** 2)) + rng.normal(0, 0.005, N)
    recipe = recipe_of("regression", [])
    assert found(sky, recipe) == set()
    (note,) = leakage.notes(leakage.look(recipe, sky, target(recipe, sky)), recipe)
    assert note.startswith("spectrum at zoom 4, bin 7 gives the label away (0.99")
    assert note.endswith("see that it was measured without the label")
    sky._arrays["spectrum", 4][:, 7] = sky.table["type"].astype("category").cat.codes
    recipe = recipe_of("classification", [])
    assert found(sky, recipe) == set()
    assert leakage.look(recipe, sky, target(recipe, sky))[0].score == 1


def test_epochs_of_one_object_are_no_leak(tmp_path):
    sky = a_sky(tmp_path)
    first = np.arange(N) // 10 * 10
    sky.table[["z", "place"]] = np.column_stack(
        [sky.table["z"][first], np.random.default_rng(2).random(N)[first]]
    )
    sky.table["group"] = first
    assert found(sky, recipe_of("regression", ["place"])) == set()
    # Taken for objects of their own, they would tell each other's label.
    sky.table["group"] = np.arange(N)
    assert told_of_numbers(sky.table[["place"]].to_numpy(), sky.table["z"].to_numpy())[0] > 0.8


def test_what_the_recipe_trusts_or_asks_for_runs_and_is_told(sky, monkeypatch, tmp_path):
    monkeypatch.setattr(sky, "table", sky.table.assign(v=sky.table["z"] * 3e5))
    with pytest.raises(DataError) as caught:
        Study(recipe_of("regression", ["v"])).run(sky, tmp_path / "refused")
    assert "inputs give the label z away: v (1.0000)" in str(caught.value)
    assert "name them in trusted" in str(caught.value)
    assert not (tmp_path / "refused").exists()
    models = {"tree": {"fixed": {"max_depth": 2}}}
    quick = {"models": models, "fusions": ["table"], "modalities": ["table"], "clusters": 0}
    monkeypatch.setattr("skyfuse.study.run.write_report", lambda folder: folder / "report.html")
    result = Study(recipe_of("regression", ["v"], trusted=["v"], **quick)).run(sky, tmp_path / "trusted")
    assert result.notes == ("v gives the label away (1.0000 of 1), and the recipe allows it",)
    looked = json.loads((tmp_path / "trusted" / "data.json").read_text())["looked"]
    assert looked["inputs"][0] == {"input": "v", "score": pytest.approx(1, abs=1e-4), "allowed": True}
    assert {one["input"] for one in looked["inputs"]} == {*HONEST, "v"}


def test_scores_of_known_scatter():
    rng = np.random.default_rng(0)
    label = rng.random(4000)
    told = told_of_numbers(
        label[:, None] + np.sqrt(1 / 12) * rng.normal(0, [0.05, 0.1, 0.2], (4000, 3)), label
    )
    # Of a uniform label with noise of a share s of its spread a linear curve tells 1/(1 + s²).
    np.testing.assert_allclose(told, [0.9975, 0.990, 0.962], atol=0.004)
    assert abs(told_of_numbers(rng.random((4000, 1)), label)[0]) < 0.06
    kind = np.arange(4000) % 2
    wrong = np.where(np.arange(4000) % 100 == 3, 1 - kind, kind)
    told = told_of_classes((wrong + 0.1 * rng.random(4000))[:, None], kind)
    assert told[0] == pytest.approx(0.96, abs=0.005)


REAL = [
    (
        "sdss_dr14_skyserver_10k.csv",
        "class",
        ["u", "g", "r", "i", "z", "ra", "dec", "field", "run", "camcol"],
    ),
    ("sdss_ugriz_redshift_5878.csv", "redshift", ["u", "g", "r", "i", "z"]),
    ("lamost_dr1_stellar_params_3166.csv", "teff", ["BV", "BR", "BI", "VR", "VI", "RI", "Ha", "Hb", "logg"]),
    ("sdss_white_dwarf_parameters.csv", "teff", ["a_height", "b_height", "g_height", "d_height", "a_fwhm"]),
    ("alfalfa_sdss_durbala2020.fits", "logMstarTaylor", ["absMag_i_corr", "logSFR22", "logMH"]),
    ("resolve_eco/RESOLVE_full_raw.csv", "logmstar", ["absrmag", "umag", "gmag", "rmag", "imag", "zmag"]),
    ("resolve_eco/ECO_full_snr5_dext_jhu.csv", "logmstar", ["absrmag", "umag", "gmag", "rmag", "2kmag"]),
    ("kcorrect_sdss_training_set.test.fits", "REDSHIFT", [f"MAGGIES_{k}" for k in range(8)]),
    ("boss_dr10_photoz/boss_dr10_0.csv", "D:Z", ["F:MAG_R", "F:MAGERR_R", "F:MAG_G", "F:MAG_I"]),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real tables are not here")
@pytest.mark.parametrize(("name", "label", "columns"), REAL, ids=[name for name, _, _ in REAL])
def test_no_honest_column_of_a_real_table_is_taken_for_the_label(name, label, columns):
    table = without_sentinels(read_table(DATA / name))[0].dropna(subset=[label])
    table = table.sample(min(2000, len(table)), random_state=1)
    values = table[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    if label == "class":
        told, level = told_of_classes(values, pd.factorize(table[label])[0]), LEVEL["classification"]
    else:
        numbers = table[label].to_numpy(dtype=np.float64)
        told, level = told_of_numbers(values, numbers), LEVEL["regression"]
        assert leakage._pairs(values, numbers, (), level) == {}
        assert leakage.of_sums(values, numbers, EXACT["regression"]) == (0.0, [])
    assert dict(zip(columns, told, strict=True)) == {
        column: score for column, score in zip(columns, told, strict=True) if score < level
    }


@pytest.mark.skipif(not DATA.is_dir(), reason="the real tables are not here")
@pytest.mark.parametrize(
    ("name", "label", "column"),
    [
        ("xcoldgass_pubcat.fits", "Z_SDSS", "LUMDIST"),
        ("xcoldgass_pubcat.fits", "LOGMSTAR", "WEIGHT"),
        ("resolve_eco/RESOLVE_full_raw.csv", "logmstar", "logmstar_84"),
        ("resolve_eco/ECO_full_snr5_dext_jhu.csv", "logmstar", "logmstare15"),
    ],
)
def test_the_label_under_another_name_in_a_real_table_is_found(name, label, column):
    table = (
        without_sentinels(read_table(DATA / name))[0].dropna(subset=[label]).sample(frac=1, random_state=1)
    )
    told = told_of_numbers(
        table[[column]].to_numpy(dtype=np.float64, na_value=np.nan), table[label].to_numpy()
    )
    assert told[0] >= LEVEL["regression"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real tables are not here")
def test_a_mass_that_was_computed_from_two_columns_is_found():
    columns = ["absMag_i_corr", "gmi_corr", "logSFR22", "logMH"]
    table = read_table(DATA / "alfalfa_sdss_durbala2020.fits").dropna(subset=["logMstarTaylor"])[:2000]
    values = table[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    label = table["logMstarTaylor"].to_numpy(dtype=np.float64)
    # log M = 1.15 + 0.70 (g − i) − 0.4 M_i, Taylor et al. 2011; each of the two alone stays below the level.
    ((pair, score),) = leakage._pairs(values, label, (), LEVEL["regression"]).items()
    assert pair == (columns.index("absMag_i_corr"), columns.index("gmi_corr"))
    assert score > 0.9999
    assert max(told_of_numbers(values, label)) < 0.98
