"""Named inputs from the survey's files to predictions: one mock sky as three instruments see it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset, Input, Wanted
from skyfuse.errors import DataError, UsageError
from skyfuse.mock import write_mock
from skyfuse.models import load_model
from skyfuse.recipe import load_recipe
from skyfuse.study.predict import predict
from skyfuse.study.prepare import prepare
from skyfuse.study.run import Study

INPUTS = {
    "optical": Input("image", "sdss"),
    "infrared": Input("image", "unwise"),
    "spectrum": Input("spectrum", "desi"),
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Return the folder of a mock sky of some galaxies, and its cube."""
    folder = tmp_path_factory.mktemp("surveys") / "sky"
    products = ["frames", "infrared", "desi", "spectra", "sfr"]
    write_mock(folder, fields=1, objects=140, seed=5, products=products, shares=[1.0, 0.0, 0.0])
    build([folder], folder.parent / "sky.cube", workers=1)
    return folder


@pytest.fixture(scope="module")
def study(sky):
    """Return the folder of a study with three named inputs."""
    recipe = load_recipe("sfr-surveys").shortened()
    models = {"tree": {"fixed": {"max_depth": 3}}, "vggnet12": {"fixed": {"max_epochs": 2, "width": 0.05}}}
    content = recipe.model_dump(mode="json") | {"models": models, "bootstrap": 200}
    recipe = type(recipe).model_validate(content)
    (labels,) = (sky / "sfr").glob("gal_totsfr*")
    dataset, _ = prepare(recipe, sky.parent / "work", sources=[sky.parent / "sky.cube"], labels=labels)
    Study(recipe).run(dataset, sky.parent / "study")
    return sky.parent / "study"


def test_arrays_are_those_of_each_instrument(sky):
    cube = Cube.open(sky.parent / "sky.cube")
    zooms = {"optical": [2], "infrared": [0, 1], "spectrum": [4]}
    made = Dataset.from_cube(cube, None, Wanted(inputs=INPUTS, zooms=zooms))
    assert made.zooms == {name: tuple(levels) for name, levels in zooms.items()}
    assert made.kinds == {name: one.kind for name, one in INPUTS.items()}
    place = pd.Index(cube.objects["object_id"]).get_indexer(made.table["object_id"])
    for name, one in INPUTS.items():
        for zoom in zooms[name]:
            expected = cube.gather(one.kind, zoom, place, one.instrument)
            for mine, theirs in zip(made.array(name, zoom), expected, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(made.wavelength(4, "spectrum"), cube.spectroscopy("desi").grid.centres(4))
    # Who has no spectrum of DESI (its fibre is broken) is counted and left out.
    unseen = cube.objects["spectrum_desi"].isna().sum()
    assert unseen > 0
    assert [step.count for step in made.funnel.steps[:2]] == [len(cube.objects), len(cube.objects) - unseen]
    told = made.meta["inputs"]["infrared"]
    assert (told["instrument"], told["pixel_arcsec"], told["bands"][:2]) == ("unwise", 2.75, ["W1", "W2"])
    x = made.inputs({"infrared": 1, "spectrum": 4}, np.arange(3), sigma=True)
    assert [*x] == ["infrared", "spectrum", "spectrum_sigma"]


def test_groups_follow_the_widest_cutout(sky):
    cube = Cube.open(sky.parent / "sky.cube")
    wide, narrow = (
        Dataset.from_cube(cube, None, Wanted(inputs={"one": INPUTS[name]}, label="z"))
        for name in ("infrared", "optical")
    )
    # 16 pixels of 2.75″ reach 44″, 64 of 0.396″ 25″: whoever shares the latter shares the former.
    both = (wide.table["group"] >= 0) & (narrow.table["group"] >= 0)
    for _, group in narrow.table[both].groupby("group"):
        assert len(set(wide.table.loc[group.index, "group"])) == 1
    assert len(set(wide.table["group"])) < len(set(narrow.table["group"]))


def test_what_a_cube_of_several_instruments_is_asked(sky):
    cube = Cube.open(sky.parent / "sky.cube")
    for wanted, fault in (
        (Wanted(inputs=["image"]), "holds images of sdss and unwise; name one instrument"),
        (Wanted(inputs={"a": Input("image", "decam")}), "not of decam"),
        (Wanted(inputs=INPUTS, zooms={"infrared": [3]}), r"zooms \[3\] of infrared are not in the cube"),
        (Wanted(inputs=INPUTS, zooms={"image": [3]}), "zooms are given of image, which is no input"),
        (Wanted(inputs={"a": Input("sound")}), "sound is no modality"),
        (
            Wanted(
                inputs={"a": Input("spectrum", "sdss"), "b": Input("spectrum", "desi")}, every_spectrum=True
            ),
            "rows cannot be the spectra of desi and sdss at once",
        ),
    ):
        with pytest.raises(UsageError, match=fault):
            Dataset.from_cube(cube, None, wanted)
    every = Wanted(inputs={"a": INPUTS["spectrum"]}, zooms={"a": [4]}, every_spectrum=True)
    made = Dataset.from_cube(cube, None, every)
    own = cube.spectra[cube.spectra["instrument"] == "desi"]
    assert set(made.table["object_id"]) <= set(own["spectrum_id"])
    rows = pd.Index(cube.spectra["spectrum_id"]).get_indexer(made.table["object_id"])
    np.testing.assert_array_equal(made.array("a", 4).value, cube.spectrum_samples(rows, 4).value)


def test_a_study_goes_by_the_names_of_its_inputs(study):
    results = pd.read_parquet(study / "results.parquet")
    fusions = ["optical", "infrared", "spectrum", "optical+infrared", "early", "late-mean", "late-weighted"]
    assert set(results["fusion"]) == set(fusions)
    assert {"optical_zoom", "infrared_zoom", "spectrum_zoom"} <= set(results)
    joined = results[results["fusion"] == "optical+infrared"].iloc[0]
    assert (joined["optical_zoom"], joined["infrared_zoom"]) == (4, 1)
    assert pd.isna(joined["spectrum_zoom"])
    model = load_model(study / "cells" / "vggnet12-early-o4-i1-s4" / "model")
    assert model.inputs == {name: one.kind for name, one in INPUTS.items()}
    told = model.card["inputs"]["inputs"]
    assert {name: one["instrument"] for name, one in told.items()} == {
        name: one.instrument for name, one in INPUTS.items()
    }
    report = (study / "report.html").read_text(encoding="utf-8")
    assert all(f"{name} zoom" in report for name in INPUTS)
    embedded = pd.read_parquet(study / "embeddings.parquet")
    assert set(embedded["input"]) == set(INPUTS)


def test_predictions_for_files_and_cube_are_those_of_the_model(study, sky):
    cell = study / "cells" / "tree-early-o4-i1-s4" / "model"
    cube = Cube.open(sky.parent / "sky.cube")
    of_cube, of_files = predict(cell, cube.path), predict(cell, sky)
    answered = of_cube[of_cube["status"] == "answered"].set_index("object_id")
    # The record that is answered is the spectrum that the model reads.
    desi = cube.objects.set_index("object_id")["spectrum_desi"]
    assert (answered["spectrum_id"] == desi.loc[answered.index]).all()
    assert len(answered) == desi.notna().sum()
    place = pd.Index(cube.objects["object_id"]).get_indexer(answered.index)
    zooms = {"optical": 4, "infrared": 1, "spectrum": 4}
    x = {
        name: cube.gather(INPUTS[name].kind, zoom, place, INPUTS[name].instrument).value
        for name, zoom in zooms.items()
    }
    np.testing.assert_array_equal(answered["AVG"].to_numpy(), load_model(cell).predict(x).value)
    again = of_files[of_files["status"] == "answered"].set_index("object_id")["AVG"]
    assert again.to_dict() == answered["AVG"].to_dict()
    assert of_files.attrs["account"]["given"] == of_files["status"].value_counts().sum()


def test_objects_without_a_spectrum_are_records_too(study, sky, tmp_path):
    truth = pd.read_parquet(sky / "truth.parquet")
    # Two on the frames between the galaxies, and one that no frame shows.
    places = pd.DataFrame({"source_id": [11, 12, 13], "ra": truth["ra"][:3] + 0.005, "dec": truth["dec"][:3]})
    places.loc[2, ["ra", "dec"]] = 200.0, -40.0
    places.to_csv(tmp_path / "places.csv", index=False)
    files = [sky / "photoObj", sky / "unwise", *(sky / "desi").rglob("*.fits")]
    build(files, tmp_path / "places.cube", objects=[tmp_path / "places.csv"], workers=1)
    cells = study / "cells"
    found = predict(cells / "tree-optical+infrared-o4-i1" / "model", tmp_path / "places.cube")
    own = found[found["source_id"].notna()].set_index("source_id")
    assert own["status"].to_dict() == {"11": "answered", "12": "answered", "13": "marked"}
    assert own.loc["13", "reason"] == "no-image"
    assert own.loc[["11", "12"], "AVG"].notna().all()
    found = predict(cells / "tree-early-o4-i1-s4" / "model", tmp_path / "places.cube")
    own = found[found["source_id"].notna()].set_index("source_id")
    assert set(own.loc[["11", "12"], "reason"]) == {"no-spectrum"}


def test_a_cube_without_an_instrument_that_the_model_reads_is_refused(study, sky, tmp_path):
    parts = [sky / name for name in ("photoObj", "spectro", "sfr")]
    build(parts, tmp_path / "other.cube", workers=1)
    cell = study / "cells" / "tree-early-o4-i1-s4" / "model"
    with pytest.raises(UsageError, match=r"other.cube: holds images of sdss, not of unwise"):
        predict(cell, tmp_path / "other.cube")
    single = study / "cells" / "tree-optical-o4" / "model"
    assert (predict(single, tmp_path / "other.cube")["status"] == "answered").sum() > 80
    # A dataset of the same names from another instrument is not taken for the model's.
    wrong = {**INPUTS, "spectrum": Input("spectrum", "sdss")}
    zooms = {"optical": [4], "infrared": [1], "spectrum": [4]}
    made = Dataset.from_cube(Cube.open(sky.parent / "sky.cube"), None, Wanted(inputs=wrong, zooms=zooms))
    with pytest.raises(DataError, match="made with instrument sdss of spectrum, the model with desi"):
        load_model(cell).predict(made)


def test_recipes_tell_what_is_wrong_with_their_inputs(tmp_path):
    whole = load_recipe("sfr-surveys").model_dump(mode="json", exclude={"modalities"})

    def told(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(json.dumps(whole | changes))
        with pytest.raises(UsageError) as caught:
            load_recipe(path)
        return str(caught.value)

    inputs = whole["inputs"]
    assert "inputs names early; give a name of small letters" in told(
        inputs=inputs | {"early": {"kind": "image"}}
    )
    assert "inputs names a-b; give" in told(inputs=inputs | {"a-b": {"kind": "image"}})
    assert "inputs names image; give" in told(inputs=inputs | {"image": {"kind": "spectrum"}})
    assert "reference.more is needed" in told(inputs=inputs | {"more": {"kind": "image"}})
    assert (
        "fusions names optical+radio, which is no input; the inputs are optical, infrared, spectrum"
        in told(fusions=["optical", "optical+radio"])
    )
    assert "which is no input" in told(fusions=["optical+optical"])
    assert "fusions names late-mean; name optical and infrared and spectrum there too" in told(
        fusions=["late-mean"]
    )
    assert "modalities and inputs name different inputs" in told(modalities=["table"])
    two = {"a": {"kind": "table"}, "b": {"kind": "table"}}
    assert "inputs names the tables a and b; name one table" in told(inputs=inputs | two, columns=["u"])
    assert "names an instrument, which only images and spectra of a cube have" in told(
        inputs={"a": {"kind": "image", "instrument": "sdss"}},
        reader="images",
        fusions=["a"],
        reference={"a": 1},
        zooms={},
    )
