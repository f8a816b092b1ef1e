"""A saved model gives one answer for one object, whatever form the object comes in, and accounts for all."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from PIL import Image

from skyfuse.cli import main
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset, Wanted
from skyfuse.dataset.given import open_given
from skyfuse.dataset.morphology import morphology
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import MODELS, Examples, load_model
from skyfuse.models.applicability import Applicability
from skyfuse.models.summaries import summarise
from skyfuse.recipe import load_recipe
from skyfuse.study.predict import account, choose, predict
from skyfuse.study.prepare import prepare
from tests.models.cards import inputs_of

from .folders import write_folder

ZOOMS = {"image": 4, "spectrum": 4}


def counts(table):
    facts = table.attrs["account"]
    assert facts["given"] == len(table) == facts["answered"] + facts["marked"] + facts["rejected"]
    for name in ("marked", "rejected"):
        assert sum(facts["reasons"][name].values()) == facts[name]
    return facts["given"], facts["answered"], facts["marked"], facts["rejected"]


@pytest.fixture(scope="module")
def trained(small_cube, tmp_path_factory):
    """Return a folder with a cube, a dataset and models fitted on it, and the tree's predictions."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "sky.cube").symlink_to(small_cube)
    data = Dataset.from_cube(
        Cube.open(small_cube),
        folder / "data",
        Wanted(zooms={m: [z] for m, z in ZOOMS.items()}, derive=["indices"]),
    )
    inputs = data.inputs(ZOOMS, np.arange(len(data)))
    z = data.table["z"].to_numpy()
    model = MODELS["tree"](max_depth=4)
    model.fit(Examples(inputs, z), Examples(inputs, z), seed=0)
    model.save(folder / "bare")
    card = inputs_of(ZOOMS, bands="ugriz", size=64, grid="sdss", instrument="sdss", reader="cube")
    model.card.update(label={"name": "redshift", "unit": ""}, inputs=card, split=None, metrics={})
    model.save(folder / "model")
    columns = ["idx_d4000", "idx_halpha"]
    x = data.inputs({"table": 0}, np.arange(len(data)), columns=columns)
    lines = MODELS["tree"](max_depth=4)
    lines.fit(Examples(x, z), Examples(x, z), seed=0)
    card = inputs_of({"table": 0}, grid="sdss", instrument="sdss", derive={"indices": 0}, columns=columns)
    card |= {"reader": "cube"}
    lines.card.update(label={"name": "redshift", "unit": ""}, inputs=card, split=None, metrics={})
    lines.save(folder / "lines")
    lines.card["inputs"] = card | {"every_spectrum": True}
    lines.save(folder / "every")
    return folder, pd.Series(model.predict(inputs).value, index=data.table["object_id"])


@pytest.fixture(scope="module")
def spectra(small_sky, tmp_path_factory):
    """Return a folder of eight spectra, two of one object and one without HDU 2, and four broken files."""
    folder = tmp_path_factory.mktemp("spectra")
    good = [path for path in sorted(small_sky.rglob("spec-*.fits")) if _is_object(path)][:7]
    for path in good:
        shutil.copy(path, folder)
    with fits.open(good[0]) as hdus:
        hdus[0].header["FIBERID"] = hdus[2].data["FIBERID"] = 999
        hdus[1].data["ivar"] *= 0.25
        hdus[2].data["SN_MEDIAN_ALL"] /= 2
        hdus.writeto(folder / "spec-again.fits")
        hdus[0].header["FIBERID"] = hdus[2].data["FIBERID"] = 998
        hdus[2].data["ZWARNING"] = 1
        hdus[2].data["OBJTYPE"] = "SKY"
        hdus.writeto(folder / "spec-sky.fits")
    with fits.open(good[1]) as hdus:
        fits.HDUList(hdus[:2]).writeto(folder / good[1].name, overwrite=True)
    (folder / "spec-empty.fits").write_bytes(b"")
    (folder / "spec-cut.fits").write_bytes(good[2].read_bytes()[:5000])
    (folder / "spec-text.fits").write_text("no FITS at all")
    (folder / "notes.txt").write_text("mine")
    return folder, good


def _is_object(path):
    with fits.open(path) as hdus:
        return str(hdus[2].data["OBJTYPE"][0]).strip() != "SKY"


@pytest.mark.parametrize("sigma", ["formal", "model"])
def test_files_are_read_with_the_sigma_of_the_training(spectra, tmp_path, sigma):
    card = inputs_of({"spectrum": 4}, grid="sdss", sigma=sigma, instrument="sdss", reader="cube", columns=[])
    given = open_given(spectra[0], tmp_path, card)
    assert given.dataset.cut("spectrum", 4)["sigma"] == sigma
    # Of the mock no noise model is used, asked for or not.
    assert Cube.open(tmp_path / "sky.cube").meta["instruments"]["sdss"]["spectrum"]["sigma"]["formal"]


def test_dataset_cube_and_files_are_predicted_alike(trained, small_sky):
    folder, expected = trained
    assert expected.nunique() > 3
    for source in (folder / "data", folder / "sky.cube", small_sky):
        table = predict(folder / "model", source)
        counts(table)
        answered = table[table["status"] == "answered"].set_index("object_id")["redshift"]
        pd.testing.assert_series_equal(
            answered.sort_index().astype(float),
            expected.sort_index(),
            check_names=False,
            check_index_type=False,
        )
        # No frame holds the others: none is lost, and none has a guess.
        rest = table[table["status"] != "answered"]
        assert rest["redshift"].isna().all()
        assert set(rest["reason"]) <= {"no-image", "sky-fibre", "unknown-kind"}


def test_every_file_of_a_folder_is_accounted_for(trained, spectra):
    folder, good = spectra
    table = predict(trained[0] / "lines", folder)
    assert counts(table) == (12, 7, 1, 4)
    facts = table.attrs["account"]
    assert facts["beside"] == {"other files": 1}
    assert facts["reasons"]["marked"] == {"repeat": 1}
    by_file = table.set_index("file")
    assert by_file.loc["spec-sky.fits", ["status", "reason"]].tolist() == ["rejected", "sky-fibre"]
    assert by_file.loc["spec-sky.fits", "fiberid"] == 998
    again = by_file.loc["spec-again.fits"]
    assert again["detail"].endswith(by_file.loc[good[0].name, "spectrum_id"])
    assert again["object_id"] == by_file.loc[good[0].name, "object_id"]
    assert set(by_file.index) == {path.name for path in folder.glob("*.fits")}
    assert by_file.loc[[path.name for path in good], "redshift"].notna().all()
    assert by_file.loc[by_file["status"] != "answered", ["redshift", "outside"]].isna().all(axis=None)


def test_a_model_of_every_spectrum_answers_every_spectrum(trained, spectra):
    table = predict(trained[0] / "every", spectra[0])
    assert counts(table) == (12, 8, 0, 4)
    both = table[table["object_id"] == table.set_index("file").loc["spec-again.fits", "object_id"]]
    assert len(both) == 2
    assert both["redshift"].notna().all()


def test_derived_columns_are_made_of_cubes_and_datasets_must_hold_them(trained, small_sky, tmp_path):
    folder, _ = trained
    data = Dataset.open(folder / "data")
    whole = predict(folder / "lines", folder / "sky.cube").set_index("object_id")["redshift"]
    held = predict(folder / "lines", folder / "data").set_index("object_id")["redshift"]
    assert held.tolist() == whole.loc[data.table["object_id"]].tolist()
    assert held.nunique() > 3
    bare = Dataset.from_cube(
        Cube.open(folder / "sky.cube"), tmp_path / "bare", Wanted(zooms={"spectrum": [4], "image": [4]})
    )
    with pytest.raises(DataError, match="does not hold indices derived at zoom 0"):
        predict(folder / "lines", bare.path)


def test_a_model_that_does_not_tell_its_inputs_is_refused(trained):
    folder, _ = trained
    with pytest.raises(StoreError, match="does not tell its inputs and its label"):
        predict(folder / "bare", folder / "data")


def test_an_error_names_no_folder_that_is_gone(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("no survey file")
    with pytest.raises(DataError, match="see why with skyfuse build") as caught:
        predict(trained[0] / "model", tmp_path)
    assert "skyfuse-predict-" not in str(caught.value)


def test_data_that_is_not_there_is_told_before_labels_are_looked_for(tmp_path):
    with pytest.raises(StoreError, match="nowhere: does not exist"):
        prepare(load_recipe("sfr"), tmp_path / "w", sources=[tmp_path / "nowhere"])


# ----------------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return a folder with a table and a calibrated classification and regression of it."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"objid": np.arange(300) + 10**17, "u": rng.normal(size=300)})
    table["g"] = rng.normal(size=300)
    table["err_u"] = 0.3
    table.to_csv(folder / "new.csv", index=False)
    x = {"table": np.stack([table["u"], table["u"] - table["g"]], axis=1).astype(np.float32)}
    for name, y, options in (
        ("value", x["table"][:, 0].astype(float), {}),
        (
            "kind",
            (x["table"][:, 0] > 0).astype(np.int64),
            {"kind": "classification", "classes": ("red", "blue")},
        ),
    ):
        model = MODELS["tree"](max_depth=3)
        model.fit(Examples(x, y), Examples(x, y), seed=0, **options)
        model.calibrate(x, y)
        columns = ["u", "u-g"]
        model.card.update(
            label={"name": name, "unit": ""},
            inputs=inputs_of({"table": 0}, columns=columns, reader="table"),
            split=None,
            metrics={},
        )
        model.applicability = Applicability.fit(summarise(x, columns))
        model.save(folder / name)
    return folder, table


def test_a_table_is_predicted_with_intervals(tables):
    folder, table = tables
    found = predict(folder / "value", folder / "new.csv")
    assert found["objid"].tolist() == table["objid"].tolist()
    assert ((found["value_low"] < found["value"]) & (found["value"] < found["value_high"])).all()
    x = np.stack([table["u"], table["u"] - table["g"]], axis=1).astype(np.float32)
    told = load_model(folder / "value").predict({"table": x})
    np.testing.assert_allclose(found["value_low"], told.low, rtol=1e-5)
    np.testing.assert_allclose(found["value_high"], told.high, rtol=1e-5)
    assert "value_spread" not in found
    assert set(found["outside"]) == {""}
    assert counts(found) == (300, 300, 0, 0)


def test_a_table_is_predicted_with_sets_and_draws(tables):
    folder, _ = tables
    found = predict(folder / "kind", folder / "new.csv", draws=5, seed=1)
    np.testing.assert_allclose(found["p_red"] + found["p_blue"], 1)
    assert set(found["kind"]) == {"red", "blue"}
    assert set(found["kind_set"]) <= {"", "red", "blue", "red|blue"}
    assert found["kind_agreement"].between(0, 1).all()
    assert found["kind_agreement"].mean() < 1
    again = predict(folder / "kind", folder / "new.csv", draws=5, seed=1)
    pd.testing.assert_frame_equal(found, again)


def test_rows_outside_the_training_are_marked(tables, tmp_path):
    folder, _ = tables
    new = pd.DataFrame({"u": [0.1, 22.0, 0.3, np.nan, 0.2], "g": [0.1, 22.0, np.nan, 0.1, -30.0]})
    new.to_csv(tmp_path / "new.csv", index=False)
    found = predict(folder / "kind", tmp_path / "new.csv")
    assert found["outside"].fillna("none").tolist() == ["", "u fainter", "u-g missing", "none", "u-g redder"]
    assert counts(found) == (5, 4, 1, 0)
    facts = found.attrs["account"]
    assert (facts["outside"], facts["share"]) == (3, 0.75)
    assert facts["ways"] == {"u fainter": 1, "u-g missing": 1, "u-g redder": 1}
    assert found["kind_level_holds"].fillna(value=False).tolist() == [True, False, False, False, False]
    assert (facts["level"], facts["holds"]) == (0.9, 1)
    # Nothing at all is known of it: a class would be a guess.
    assert found.loc[3, ["status", "reason"]].tolist() == ["marked", "no-input"]
    assert pd.isna(found.loc[3, "kind"])


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("U", "G"), None),
        (("modelMag_u", "MODELMAG_G"), None),
        (("my u", "g"), {"u": "my u"}),
    ],
)
def test_columns_are_found_as_in_the_training(tables, tmp_path, names, columns):
    folder, table = tables
    expected = predict(folder / "value", folder / "new.csv")["value"]
    table.rename(columns=dict(zip("ug", names, strict=True))).to_csv(tmp_path / "new.csv", index=False)
    found = predict(folder / "value", tmp_path / "new.csv", columns=columns)
    assert found["value"].tolist() == expected.tolist()


def test_numbers_beyond_float32_name_the_file_that_was_given(tables, tmp_path):
    folder, table = tables
    table.assign(u=1e300).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=r"new.csv: u of .* is 1e\+300, beyond float32"):
        predict(folder / "value", tmp_path / "new.csv")


def test_columns_that_are_not_there_or_there_twice_are_told(tables, tmp_path):
    folder, table = tables
    path = tmp_path / "new.csv"
    table.rename(columns={"u": "U"}).assign(modelMag_u=1.0).to_csv(path, index=False)
    with pytest.raises(DataError, match="2 columns that may be 'u': U, modelMag_u"):
        predict(folder / "value", path)
    table.rename(columns={"u": "psfMag_u"}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"no column 'u'.*--column MODEL=YOURS"):
        predict(folder / "value", path)
    with pytest.raises(UsageError, match="reads no column 'r'; it reads u, u-g"):
        predict(folder / "value", folder / "new.csv", columns={"r": "u"})


def test_names_of_columns_belong_to_tables(trained):
    with pytest.raises(UsageError, match="only tables have columns"):
        predict(trained[0] / "model", trained[0] / "data", id_column="objid")


def test_the_own_id_comes_through_exactly(tables, tmp_path):
    folder, table = tables
    numbers = 2**63 - 1 - np.arange(len(table))
    own = pd.DataFrame({"Star": [f"HD {k}" for k in range(len(table))], "SpecObjID": numbers})
    own = pd.concat([own, table[["u", "g"]]], axis=1)
    own.to_csv(tmp_path / "new.csv", index=False)
    found = predict(folder / "value", tmp_path / "new.csv")
    assert found["SpecObjID"].tolist() == numbers.tolist()
    assert "Star" not in found
    named = predict(folder / "value", tmp_path / "new.csv", id_column="star")
    assert named["Star"].tolist() == own["Star"].tolist()
    assert "SpecObjID" not in named
    own.drop(columns="SpecObjID").to_csv(tmp_path / "new.csv", index=False)
    assert predict(folder / "value", tmp_path / "new.csv")["Star"].tolist() == own["Star"].tolist()
    own["SpecObjID"] = own["SpecObjID"].astype(str).mask(own.index == 7, "")
    own.to_csv(tmp_path / "new.csv", index=False)
    holed = predict(folder / "value", tmp_path / "new.csv")["SpecObjID"]
    assert pd.isna(holed[7])
    assert holed.drop(7).tolist() == np.delete(numbers, 7).tolist()
    with pytest.raises(DataError, match="no column 'sun'"):
        predict(folder / "value", tmp_path / "new.csv", id_column="sun")


def test_names_written_as_floats_are_whole_and_rounded_ones_stay(tables, tmp_path):
    folder, table = tables
    own = table.head(3).assign(objid=[1.237e18, 2.5e18, 3e18], fiberid=[6.0, np.nan, 7.0], ra=[1.0, 2.0, 3.0])
    own.to_parquet(tmp_path / "new.parquet")
    found = predict(folder / "value", tmp_path / "new.parquet")
    assert found["fiberid"].tolist() == [6, pd.NA, 7]
    assert found["objid"].tolist() == [1.237e18, 2.5e18, 3e18]
    assert found["ra"].dtype == np.float64


def test_names_that_predictions_take_are_set_apart(tables, tmp_path):
    folder, table = tables
    own = table.rename(columns={"objid": "row"}).assign(kind=[f"k{n}" for n in table.index])
    own.to_csv(tmp_path / "new.csv", index=False)
    found = predict(folder / "kind", tmp_path / "new.csv")
    assert found["given_row"].tolist() == table["objid"].tolist()
    assert found["row"].tolist() == table.index.tolist()
    named = predict(folder / "kind", tmp_path / "new.csv", id_column="kind")
    assert named["given_kind"].tolist() == own["kind"].tolist()
    assert set(named["kind"]) == {"red", "blue"}


def test_a_cell_that_is_no_number_costs_its_row_alone(tables, tmp_path):
    folder, table = tables
    odd = table.head(6).astype({"u": object, "g": object})
    odd.loc[1, "u"], odd.loc[3, "g"], odd.loc[4, ["u", "g"]] = "faint!", "<22", "?"
    odd.to_csv(tmp_path / "new.csv", index=False)
    found = predict(folder / "value", tmp_path / "new.csv")
    assert counts(found) == (6, 3, 0, 3)
    assert found.attrs["account"]["reasons"]["rejected"] == {"no-number": 3}
    assert found["objid"].tolist() == odd["objid"].tolist()
    assert found["detail"].tolist()[1:5:2] == [
        "u is 'faint!', which is no number",
        "g is '<22', which is no number",
    ]
    whole = predict(folder / "value", folder / "new.csv")["value"]
    assert found["value"].dropna().tolist() == whole[[0, 2, 5]].tolist()
    vast = table.head(4).assign(g=[0.1, 1e300, -1e39, np.inf])
    vast.to_parquet(tmp_path / "vast.parquet")
    found = predict(folder / "value", tmp_path / "vast.parquet")
    assert counts(found) == (4, 2, 0, 2)
    assert found["detail"][1] == "g is '1e+300', beyond float32, in which models compute"
    assert found["value"][0] == predict(folder / "value", folder / "new.csv")["value"][0]
    # Where no row would be left, it is the column that is wrong.
    odd.loc[[0, 2, 5], "g"] = "x"
    odd.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match="holds no numbers: row 2 of 6 has 'faint!'"):
        predict(folder / "value", tmp_path / "new.csv")


def test_a_folder_of_tables_tells_those_of_no_use(tables, tmp_path):
    folder, table = tables
    table.head(3).to_csv(tmp_path / "a.csv", index=False)
    # Of another table the ids are text.
    table.tail(2).assign(objid=["x", "y"]).to_csv(tmp_path / "b.csv", index=False)
    pd.DataFrame({"objid": [1, 2], "r": [1.0, 2.0]}).to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "readme.md").write_text("mine")
    found = predict(folder / "value", tmp_path)
    assert counts(found) == (8, 5, 0, 3)
    assert found.attrs["account"]["reasons"]["rejected"] == {"missing-column": 2, "truncated": 1}
    assert found.attrs["account"]["beside"] == {"other files": 1}
    assert found["file"].tolist() == ["a.csv"] * 3 + ["b.csv"] * 2 + ["c.csv"] * 2 + ["d.parquet"]
    assert found["objid"].astype(str).tolist()[:5] == [str(10**17 + k) for k in range(3)] + ["x", "y"]
    found.to_parquet(tmp_path / "out.parquet")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="no column 'u'"):
        predict(folder / "value", tmp_path)


# ----------------------------------------------------------------------------------------- images and spectra


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of six images of 16 pixels, one of them damaged, and their pixels by name."""
    rng = np.random.default_rng(3)
    pixels = {f"{k}.png": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for k in range(5)}
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for name, image in pixels.items():
        Image.fromarray(image).save(tmp_path / "new" / ("deep" if name == "4.png" else "") / name)
    (tmp_path / "new" / "bad.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "new" / "notes.txt").write_text("mine")
    return tmp_path / "new", pixels


def _saved(path, x, card, classes=("a", "b")):
    y = np.arange(len(next(iter(x.values())))) % 2
    model = MODELS["tree"](max_depth=3)
    model.fit(Examples(x, y), Examples(x, y), seed=0, kind="classification", classes=classes)
    columns = card.get("columns", ())
    model.card.update(
        label={"name": "shape", "unit": ""},
        inputs=card,
        split=None,
        metrics={},
    )
    model.applicability = Applicability.fit(summarise(x, columns))
    model.save(path)
    return model


def test_images_are_accounted_for_and_their_columns_derived_as_in_the_training(pictures, tmp_path):
    folder, pixels = pictures
    value = np.stack([image.transpose(2, 0, 1) for image in pixels.values()]).astype(np.float32) / 255
    # Measured at zoom 1, as where a study holds no finer one.
    coarse = value.reshape(5, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    measured = morphology(coarse)
    columns = [f"morph_{name}" for name in measured]
    x = {"table": np.stack([*measured.values()], axis=1).astype(np.float32)}
    told = {"reader": "images", "bands": "rgb", "size": 16}
    card = inputs_of({"table": 0}, columns=columns, derive={"morphology": 1}, **told)
    expected = _saved(tmp_path / "table", x, card).predict(x).probability
    found = predict(tmp_path / "table", folder)
    assert counts(found) == (6, 5, 0, 1)
    assert found.attrs["account"]["beside"] == {"other files": 1}
    answered = found[found["status"] == "answered"].sort_values("name")
    assert answered["file"].tolist() == [*(f"{k}.png" for k in range(4)), "deep/4.png"]
    np.testing.assert_allclose(answered[["p_a", "p_b"]].to_numpy(np.float64), expected)
    assert found.set_index("file").loc["bad.png", "reason"] == "damaged-image"
    pixel = _saved(tmp_path / "image", {"image": value}, inputs_of({"image": 0}, columns=[], **told))
    one = predict(tmp_path / "image", folder / "2.png")
    assert counts(one) == (1, 1, 0, 0)
    assert one["p_a"].tolist() == pixel.predict({"image": value[2:3]}).probability[:, 0].tolist()


def test_scenes_need_no_labels_and_pairs_that_are_none_are_marked(pictures, tmp_path):
    folder, _ = pictures
    names = [f"MFCC_{k}" for k in range(1, 105)]
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(5, 104)), columns=names)
    features.insert(0, "FILE", ["0.png", "1.png", "2.png", "3.png", "nowhere.png"])
    features.to_csv(folder / "features.csv", index=False)
    x = {"table": features[names].to_numpy(np.float32)}
    card = inputs_of({"table": 0}, columns=names, reader="scene")
    model = _saved(tmp_path / "sound", x, card)
    found = predict(tmp_path / "sound", folder)
    assert counts(found) == (7, 4, 2, 1)
    assert found.attrs["account"]["reasons"]["marked"] == {"no-features": 1, "no-image": 1}
    answered = found[found["status"] == "answered"]
    assert answered["shape"].tolist() == model.predict(x).names[:4].tolist()
    assert found.loc[found["reason"] == "no-image", "row"].tolist() == [4]


def test_rows_of_gaia_spectra_are_accounted_for(tmp_path):
    from skyfuse.mock import write_mock
    from skyfuse.survey.gaia import read_xp

    write_mock(tmp_path / "sky", objects=40, seed=2, products=["gaia"], shares=[1, 0, 0])
    source = next((tmp_path / "sky" / "gaia").glob("xp_sampled*"))
    spectra = read_xp(source)
    model = MODELS["tree"](max_depth=3)
    x, y = {"spectrum": spectra.samples.value}, np.arange(40.0)
    model.fit(Examples(x, y), Examples(x, y), seed=0)
    card = inputs_of({"spectrum": 0}, grid="gaia-xp", reader="gaia-xp")
    model.card.update(label={"name": "redshift", "unit": ""}, inputs=card, split=None, metrics={})
    model.save(tmp_path / "model")
    (tmp_path / "new").mkdir()
    with fits.open(source) as hdus:
        hdus[1].data["bp_flux"][3] = hdus[1].data["rp_flux"][3] = np.nan
        hdus[1].data["source_id"][6] = hdus[1].data["source_id"][5]
        hdus[1].data["source_id"][39] = -1
        hdus[1].columns["source_id"].null = -1
        hdus.writeto(tmp_path / "new" / "a.fits")
    shutil.copy(source, tmp_path / "new" / "b.fits")
    pd.DataFrame({"source_id": [1], "redshift": [0.1]}).to_csv(tmp_path / "new" / "labels.csv", index=False)
    found = predict(tmp_path / "model", tmp_path / "new")
    # The second file answers for the three that the first could not.
    assert counts(found) == (80, 40, 38, 2)
    assert found.attrs["account"]["beside"] == {"other tables": 1}
    assert found["row"].tolist() == [*range(40), *range(40)]
    first = found[found["file"] == "a.fits"]
    assert first.loc[3, ["status", "reason"]].tolist() == ["rejected", "no valid sample"]
    assert first.loc[6, ["status", "reason"]].tolist() == ["marked", "repeat"]
    assert first.loc[6, "source_id"] == first.loc[5, "source_id"]
    assert first.loc[39, ["status", "reason"]].tolist() == ["rejected", "bad source_id"]
    assert found["source_id"].isna().tolist() == [row == 39 for row in range(80)]
    assert found["source_id"].dtype == "Int64"
    answered = found[found["status"] == "answered"].set_index("source_id")["redshift"]
    expected = pd.Series(model.predict(x).value, spectra.table["source_id"])
    assert answered.loc[expected.index].tolist() == expected.tolist()


# -------------------------------------------------------------------------------------- studies, command line


def test_a_study_gives_the_model_that_it_chose(tmp_path):
    write_folder(tmp_path / "s" / "study", "classification", rounds=3)
    results = pd.read_parquet(tmp_path / "s" / "study" / "results.parquet")
    compared = results[results["role"] == "reference"]
    best = compared.loc[compared["choice"].idxmax(), "cell"]
    for folder in (tmp_path / "s", tmp_path / "s" / "study"):
        choice = choose(folder)
        assert choice.model == tmp_path / "s" / "study" / "cells" / best / "model"
        assert choice.why == "chosen by the study made-up, fitted in its 3 rounds"
    (tmp_path / "s" / "study" / "results.parquet").unlink()
    with pytest.raises(StoreError, match="has not finished; run the same study again"):
        choose(tmp_path / "s")
    with pytest.raises(StoreError, match="neither a model nor a study"):
        choose(tmp_path)
    with pytest.raises(StoreError, match="is no folder"):
        choose(tmp_path / "nowhere")


def _said(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["skyfuse", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    out, err = capsys.readouterr()
    # Each of the calls here gives one object that is unlike the training.
    assert err.count("skyfuse: the level of 90% does not hold for 1 of ") == 1
    return out


def test_the_command_line_says_what_became_of_all(tables, tmp_path, monkeypatch, capsys):
    folder, table = tables
    table.assign(u=[np.nan, 22.0, *table["u"][2:]], g=[np.nan, *table["g"][1:]]).to_csv(
        tmp_path / "new.csv", index=False
    )
    words = ["predict", folder / "kind", tmp_path / "new.csv", "-o", tmp_path / "out.csv"]
    assert _said(monkeypatch, capsys, *words).splitlines() == [
        f"{tmp_path / 'out.csv'}: given 300: 299 answered, 1 marked (no-input 1), 0 rejected",
        "outside of what the training taught: 1 of 299 answered (0.3%): u fainter 1, u-g redder 1",
    ]
    facts = json.loads(_said(monkeypatch, capsys, *words, "--json"))
    out = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert (facts["given"], facts["answered"], facts["marked"]) == (len(out), 299, 1)
    assert out["objid"].tolist() == table["objid"].tolist()
    assert account(predict(folder / "kind", tmp_path / "new.csv"))["reasons"] == facts["reasons"]
