"""Every verb as a user calls it: what it prints, what it writes, and what it says of a wrong call."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skyfuse.cli import main
from skyfuse.cube.query import Cube


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def skyfuse(monkeypatch, capsys, tmp_path):
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["skyfuse", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        caught = capsys.readouterr()
        return Done(stop.value.code or 0, caught.out, caught.err)

    return call


@pytest.fixture
def cube(small_cube) -> Path:
    return small_cube


VERBS = [
    "demo",
    "mock",
    "build",
    "info",
    "cutout",
    "export",
    "check",
    "match",
    "study",
    "tune",
    "embed",
    "predict",
    "report",
]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(skyfuse, verb):
    done = skyfuse(verb, "--help")
    assert done.code == 0
    assert f"Example: skyfuse {verb}" in " ".join(done.out.split())


def test_mock_and_build_report_in_json(skyfuse, tmp_path):
    made = skyfuse("mock", "sky", "--fields", 1, "--objects", 20, "--seed", 3, "--json")
    assert made.code == 0
    json.loads(made.out)
    built = skyfuse("build", "sky", "one.cube", "--workers", 1, "--json")
    assert built.code == 0
    report = json.loads(built.out)
    frames = len(list((tmp_path / "sky").rglob("frame-*.fits")))
    assert frames == 5
    assert report["asked"] == report["ingested"] + sum(report["rejected"].values())
    assert skyfuse("check", "one.cube").code == 0


def test_info_tells_what_a_cube_holds(skyfuse, cube):
    data = json.loads(skyfuse("info", cube, "--json").out)
    assert data["kind"] == "cube"
    assert data["counts.objects"] == len(Cube.open(cube).objects)


def test_cutout_writes_value_sigma_and_wcs(skyfuse, cube):
    row = Cube.open(cube).objects.iloc[0]
    done = skyfuse("cutout", cube, f"{row.ra} {row.dec}", "--zoom", 1, "--bands", "gr", "-o", "cut.fits")
    assert done.code == 0, done.err
    with fits.open("cut.fits") as hdus:
        images = [hdu for hdu in hdus if hdu.data is not None]
        assert images[0].data.shape[-2:] == (32, 32)
        assert images[0].header["CTYPE1"] == "RA---TAN"


@pytest.mark.parametrize(
    ("fmt", "name"), [("fits", "out.fits"), ("votable", "out.vot"), ("numpy", "out.npz")]
)
def test_export_of_one_object(skyfuse, cube, fmt, name):
    row = Cube.open(cube).objects.iloc[0]
    done = skyfuse("export", cube, name, "--object", row.object_id, "--zoom", 2, "--format", fmt)
    assert done.code == 0, done.err
    assert Path(name).stat().st_size > 0


def test_a_damaged_cube_fails_the_check(skyfuse, cube, tmp_path):
    copy = tmp_path / "copy.cube"
    shutil.copytree(cube, copy, copy_function=os.link)
    tile = next(copy.rglob("*.h5"))
    content = tile.read_bytes()
    tile.unlink()
    tile.write_bytes(content[: len(content) // 2])
    done = skyfuse("check", copy)
    assert done.code == 1
    assert tile.name in done.out


def kinds(folder: Path) -> Path:
    """Write a recipe that classifies rows of a table by two columns."""
    path = folder / "kinds.yaml"
    path.write_text(
        """
        name: kinds
        title: Kinds
        task:
          {label: kind, title: kind, definition: made up, kind: classification, forbidden: {leak: told}}
        reader: table
        modalities: [table]
        columns: [u, u-g]
        leaking: [leak]
        models: {tree: {fixed: {max_depth: 3}}}
        embeddings: {methods: [pca]}
        bootstrap: 200
        variants: {few: {columns: [u], leaking: []}}
        """
    )
    return path


WRONG_CALLS = {
    "no such verb": ["fly"],
    "no such option": ["build", "--fast"],
    "missing argument": ["mock"],
    "not a number": ["mock", "sky", "--fields", "many"],
    "no fields": ["mock", "sky", "--fields", "0"],
    "build without a cube": ["build", "CUBE"],
    "build of nothing": ["build", "nowhere", "new.cube"],
    "build of an empty folder": ["build", "EMPTY", "new.cube"],
    "unknown grid": ["build", "SKY", "new.cube", "--grid", "parsec"],
    "info of nothing": ["info", "nowhere"],
    "info of a plain folder": ["info", "EMPTY"],
    "cutout off the cube": ["cutout", "CUBE", "10.0 80.0"],
    "zoom out of range": ["cutout", "CUBE", "HERE", "--zoom", "9"],
    "unknown band": ["cutout", "CUBE", "HERE", "--bands", "y"],
    "not a position": ["cutout", "CUBE", "over there"],
    "cutout of no cube": ["cutout", "EMPTY", "10 10"],
    "time that is no interval": ["cutout", "CUBE", "HERE", "--time", "yesterday"],
    "position that is no number": ["cutout", "CUBE", "nan nan"],
    "cutout larger than memory": ["cutout", "CUBE", "HERE", "--size", "100000000"],
    "cutout onto a folder": ["cutout", "CUBE", "HERE", "-o", "EMPTY"],
    "MOC that is not there": ["export", "CUBE", "out.fits", "--moc", "nowhere.fits"],
    "region off the sky": ["export", "CUBE", "out.fits", "--cone", "10 95 1"],
    "region without an end": ["export", "CUBE", "out.fits", "--box", "nan 1 0 1"],
    "unknown band of spectra": ["export", "CUBE", "out.vot", "--format", "votable", "--bands", "y"],
    "seed below zero": ["embed", "CUBE", "--seed", "-3"],
    "table of no kind": ["embed", "CUBE", "-o", "out.xyz"],
    "unknown object": ["export", "CUBE", "out.fits", "--object", "J000000"],
    "unknown format": ["export", "CUBE", "out.xyz", "--format", "xyz"],
    "two regions": ["export", "CUBE", "out.fits", "--cone", "1 1 1", "--box", "1 2 1 2"],
    "region in words": ["export", "CUBE", "out.fits", "--cone", "a b c"],
    "empty region": ["export", "CUBE", "out.fits", "--cone", "10 80 0.01"],
    "check of nothing": ["check", "nowhere"],
    "unknown recipe": ["study", "astrology"],
    "unknown variant": ["study", "sfr", "--variant", "andromeda"],
    "unknown product": ["mock", "sky", "--products", "frames,horoscopes"],
    "table without the label": ["study", "KINDS", "--data", "ELSEWHERE"],
    "study of nothing": ["study", "sfr", "--data", "nowhere"],
    "study without labels": ["study", "sfr", "--data", "CUBE"],
    "labels with other columns": ["study", "sfr", "--data", "CUBE", "--labels", "TABLE"],
    "labels missing for all": ["study", "sfr", "--data", "CUBE", "--labels", "ELSEWHERE"],
    "labels that are not there": ["study", "sfr", "--data", "SKY", "--labels", "nowhere.fits"],
    "labels of another label": ["study", "sfr", "--data", "SKY", "--labels", "TABLE"],
    "labels beside a table": ["study", "superclass", "--labels", "ELSEWHERE"],
    "study onto a file": ["study", "sfr", "-o", "TABLE"],
    "study into another folder": ["study", "sfr", "-o", "AROUND"],
    "no templates for what fits them": ["study", "mainclass", "--variant", "sdss", "--data", "SKY"],
    "model that is not named": ["tune", "sfr", "nowhere", "--model", "oracle"],
    "table into a file": ["embed", "CUBE", "-o", "table.csv/out.csv"],
    "tune of nothing": ["tune", "sfr", "nowhere"],
    "embed of nothing": ["embed", "nowhere"],
    "predict without a model": ["predict", "nowhere", "CUBE"],
    "report of nothing": ["report", "nowhere"],
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_a_wrong_call_gets_one_line_and_a_remedy(skyfuse, small_sky, cube, tmp_path, case):
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"name": ["a"], "colour": [1.0]}).to_csv(tmp_path / "table.csv", index=False)
    elsewhere = pd.DataFrame({"plate": [1], "mjd": [50000], "fiberid": [1], "AVG": [0.5], "FLAG": [0]})
    elsewhere.to_csv(tmp_path / "elsewhere.csv", index=False)
    row = Cube.open(cube).objects.iloc[0]
    words = {
        "SKY": small_sky,
        "CUBE": cube,
        "EMPTY": tmp_path / "empty",
        "HERE": f"{row.ra} {row.dec}",
        "TABLE": tmp_path / "table.csv",
        "ELSEWHERE": tmp_path / "elsewhere.csv",
        "KINDS": kinds(tmp_path),
        "AROUND": tmp_path / "around",
    }
    (tmp_path / "around" / "study").mkdir(parents=True)
    (tmp_path / "around" / "study" / "thesis.txt").touch()
    done = skyfuse(*(words.get(word, word) for word in WRONG_CALLS[case]))
    assert done.code in (1, 2)
    lines = [line for line in done.err.splitlines() if line.startswith("skyfuse: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    # A fault and what to do about it.
    assert len(lines[0].split("; ")) >= 2


def test_coordinates_are_read_as_users_write_them(skyfuse, cube):
    from astropy.coordinates import SkyCoord

    row = Cube.open(cube).objects.iloc[0]
    place = SkyCoord(row.ra, row.dec, unit="deg")
    written = [
        f"{row.ra:.6f}, {row.dec:.6f}",
        place.to_string("hmsdms", precision=3),
        place.to_string("hmsdms", sep=":", precision=3),
    ]
    cuts = []
    for number, text in enumerate(written):
        done = skyfuse("cutout", cube, text, "-o", f"{number}.fits", "--bands", "r")
        assert done.code == 0, done.err
        with fits.open(f"{number}.fits") as hdus:
            cuts.append(next(np.asarray(hdu.data) for hdu in hdus if hdu.data is not None))
    np.testing.assert_array_equal(cuts[0], cuts[1])
    np.testing.assert_array_equal(cuts[0], cuts[2])


def test_a_table_is_classified_and_new_rows_are_predicted(skyfuse, tmp_path):
    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(240, 2)), columns=["u", "g"])
    table["leak"] = table["u"] + 0.1 * rng.normal(size=240)
    table["kind"] = np.where(table["u"] + 0.2 * rng.normal(size=240) > 0, "blue", "red")
    table["err_u"] = 0.2
    for name, rows in (("one", slice(0, 120)), ("two", slice(120, 240))):
        table[rows].to_csv(tmp_path / f"{name}.csv", index=False)
    done = skyfuse("study", kinds(tmp_path), "--data", "one.csv", "--data", "two.csv", "-o", "out")
    assert done.code == 0, done.err
    assert "macro F1" in done.out
    assert "table + leaks" in done.out
    results = pd.read_parquet("out/study/results.parquet").set_index("cell")
    assert results.loc["tree-table", "test_accuracy"] > 0.8
    assert len(pd.read_parquet("out/study/objects.parquet")) == 240
    few = skyfuse("study", "kinds.yaml", "--variant", "few", "--data", "one.csv", "-o", "few", "--json")
    assert few.code == 0, few.err
    assert [row["cell"] for row in json.loads(few.out)] == ["tree-table"]
    facts = json.loads(Path("few/study/study.json").read_text())
    assert (facts["variant"], facts["data"], facts["quick"]) == ("few", "user", False)
    model = "out/study/cells/tree-table/model"
    told = skyfuse("predict", model, "two.csv", "-o", "new.csv", "--draws", 4)
    assert told.code == 0, told.err
    found = pd.read_csv("new.csv")
    assert {"kind", "p_blue", "p_red", "kind_set", "kind_agreement"} <= set(found)
    assert (found["kind"].to_numpy() == table["kind"].to_numpy()[120:]).mean() > 0.8
    assert skyfuse("embed", "out/dataset", "--input", "table", "-o", "at.csv").code == 0


def test_no_verb_lists_the_verbs(skyfuse):
    done = skyfuse()
    assert (done.code, done.out) == (2, "")
    assert all(any(line.strip().startswith(verb) for line in done.err.splitlines()) for verb in VERBS)


def test_a_position_may_begin_with_a_minus_sign(skyfuse, cube):
    row = Cube.open(cube).objects.iloc[0]
    for number, ra in enumerate((row.ra, row.ra - 360)):
        done = skyfuse("cutout", cube, f"{ra} {row.dec}", "-o", f"{number}.fits", "--bands", "r")
        assert done.code == 0, done.err
    with fits.open("0.fits") as plain, fits.open("1.fits") as negative:
        np.testing.assert_array_equal(plain[1].data, negative[1].data)


def test_a_study_is_found_in_the_folder_around_it(skyfuse, tmp_path):
    inner = tmp_path / "mine" / "study"
    inner.mkdir(parents=True)
    (inner / "study.json").write_text('{"recipe": "sfr"}')
    data = json.loads(skyfuse("info", "mine", "--json").out)
    assert (data["kind"], data["recipe"]) == ("study", "sfr")


def test_tables_are_written_whole_into_new_folders(skyfuse, cube):
    from skyfuse.dataset import Dataset, Wanted

    Dataset.from_cube(Cube.open(cube), "data", Wanted(zooms={"spectrum": [4]}))
    for name, read in (("new/at.csv", pd.read_csv), ("new/at.parquet", pd.read_parquet)):
        done = skyfuse("embed", "data", "--zoom", 4, "-o", name)
        assert done.code == 0, done.err
        assert np.isfinite(read(name)[["x", "y"]].to_numpy()).all()
    assert sorted(path.name for path in Path("new").iterdir()) == ["at.csv", "at.parquet"]
