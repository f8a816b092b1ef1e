"""From files of every kind to a dataset."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from PIL import Image

from skyfuse.cube.build import build
from skyfuse.dataset import SplitPlan
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.survey.gaia import read_xp
from tests.dataset.made import opened

ZOOMS = {"image": [4], "spectrum": [4]}


@pytest.fixture(scope="module")
def from_files(small_sky, tmp_path_factory):
    """Return a dataset made from survey files, and how it was asked for."""
    labels = small_sky / "sfr" / "gal_totsfr_dr7_v5_2.fits"
    options = {"labels": labels, "zooms": ZOOMS, "split": None}
    work = tmp_path_factory.mktemp("files") / "a"
    return opened(small_sky, work, **options), work, options


def test_every_kind_of_source_gives_the_same_arrays(from_files, small_cube, tmp_path):
    made, _, options = from_files
    from_cube = opened(small_cube, tmp_path / "b", **options)
    from_dataset = opened(from_cube.path, tmp_path / "c", zooms=ZOOMS)
    assert len(made) > 20
    for other in (from_cube, from_dataset):
        assert list(other.table["object_id"]) == list(made.table["object_id"])
        for modality in ZOOMS:
            for mine, theirs in zip(made.array(modality, 4), other.array(modality, 4), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert not (tmp_path / "c").exists()


def test_a_second_call_uses_what_is_there(from_files, small_sky):
    first, work, options = from_files
    stamp = (first.path / "arrays.h5").stat().st_mtime_ns
    again = opened(small_sky, work, **options)
    assert (again.path / "arrays.h5").stat().st_mtime_ns == stamp


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="does not exist; give a dataset, a cube or a folder"):
        opened(tmp_path / "no", tmp_path, zooms=ZOOMS)


def test_a_cube_is_not_joined_with_files(small_sky, tmp_path):
    (tmp_path / "my.cube").mkdir()
    (tmp_path / "my.cube" / "cube.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be joined with other data"):
        opened([tmp_path / "my.cube", small_sky], tmp_path / "w", zooms=ZOOMS)


# ----------------------------------------------------------------------------------------------------- tables


def write_annz(folder, part, n):
    rng = np.random.default_rng(n)
    rows = np.hstack([rng.normal(19, 1, (n, 5)), rng.uniform(0, 0.1, (n, 5)), rng.uniform(0, 0.4, (n, 1))])
    np.savetxt(folder / f"sdss.ugriz.{part}", rows, fmt="%.8f")
    return rows


def test_tables_stand_one_below_the_other(tmp_path):
    folder = tmp_path / "annz"
    folder.mkdir()
    rows = np.concatenate([write_annz(folder, p, n) for p, n in (("test", 30), ("train", 70), ("valid", 20))])
    (folder / "readme.txt").write_text("where it is from")
    made = opened(
        folder,
        tmp_path / "w",
        reader="table",
        label="redshift",
        zooms={"table": [0]},
        columns=["u", "u-g", "err_*"],
        split=SplitPlan(column="part", train=("train",), valid=("valid",), test=("test",), folds=2),
    )
    assert made.funnel.steps[0].count == 120
    assert made.table["source"].unique().tolist() == [f"sdss.ugriz.{p}" for p in ("test", "train", "valid")]
    np.testing.assert_allclose(made.label(), rows[:, 10], atol=1e-8)
    expected = np.column_stack([rows[:, 0], rows[:, 0] - rows[:, 1], rows[:, 5:10]])
    np.testing.assert_allclose(made.inputs({"table": 0}, range(120))["table"], expected, atol=1e-6)
    assert made.split()["test"].tolist() == list(range(30))
    assert made.split()["valid"].tolist() == list(range(100, 120))


def test_sentinels_become_missing_and_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"name": [f"r{k}" for k in range(50)], "mag": rng.normal(18, 1, 50), "mass": 9.5})
    two = one.assign(name=[f"e{k}" for k in range(50)], extra=1.0)
    one["mass"], one["mag"] = rng.normal(9.5, 1, 50), rng.normal(18, 1, 50)
    one.loc[3, "mass"], one.loc[4, "mag"], two.loc[6, "mag"] = -9999.0, -9999.0, -999.0
    one.to_csv(tmp_path / "RESOLVE.csv", index=False)
    two.to_parquet(tmp_path / "ECO.parquet")
    made = opened(
        [tmp_path / "RESOLVE.csv", tmp_path / "ECO.parquet"],
        tmp_path / "w",
        reader="table",
        label="mass",
        columns=["mag"],
        split=SplitPlan(column="source", train=("RESOLVE",), test=("ECO",), folds=2),
    )
    assert [(s.name, s.count) for s in made.funnel.steps[:2]] == [
        ("rows of the tables", 100),
        ("mass defined", 99),
    ]
    assert made.table["object_id"].iloc[[0, -1]].tolist() == ["r0", "e49"]
    assert made.meta["request"]["provenance"]["sentinels"] == {
        "RESOLVE.csv: mag": {"-9999": 1},
        "RESOLVE.csv: mass": {"-9999": 1},
        "ECO.parquet: mag": {"-999": 1},
    }
    assert made.table["mag"].isna().sum() == 2


def test_readers_that_cannot_give_what_is_asked(tmp_path):
    pd.DataFrame({"a": [1.0]}).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="'table' gives no spectrum at zooms"):
        opened(tmp_path / "t.csv", tmp_path, reader="table", zooms={"spectrum": [0]})
    with pytest.raises(UsageError, match="gives no image at zooms"):
        opened(tmp_path, tmp_path, reader="images", zooms={"image": [-1]})
    with pytest.raises(UsageError, match="tables hold their labels themselves"):
        opened(tmp_path / "t.csv", tmp_path, reader="table", labels=tmp_path / "t.csv")
    with pytest.raises(UsageError, match="set image_size"):
        opened(tmp_path, tmp_path, reader="images")
    with pytest.raises(UsageError, match="2 scene folders"):
        opened([tmp_path, tmp_path], tmp_path, reader="scene", image_size=8)
    with pytest.raises(StoreError, match="holds no table"):
        opened(tmp_path / "empty", tmp_path, reader="table")
    with pytest.raises(StoreError, match="holds no BP/RP spectra"):
        opened(tmp_path / "t.csv", tmp_path, reader="gaia-xp")
    with pytest.raises(StoreError, match="is no folder of images"):
        opened(tmp_path / "t.csv", tmp_path, reader="images", image_size=8)


# ------------------------------------------------------------------------------------------------------- Gaia


def write_xp(path, first, n):
    rng = np.random.default_rng(first)
    table = {"source_id": 10**18 + first + np.arange(n), "ra": np.arange(n) + first / 100, "dec": np.zeros(n)}
    for band in ("bp", "rp"):
        table[f"{band}_flux"] = rng.normal(10, 1, (n, 120)).astype(np.float32)
        table[f"{band}_flux_error"] = np.full((n, 120), 0.5, np.float32)
    Table(table).write(path)


def test_gaia_spectra_are_joined_with_their_labels(tmp_path):
    folder = tmp_path / "gaia"
    folder.mkdir()
    write_xp(folder / "a.fits", 0, 40)
    write_xp(folder / "b.fits", 30, 40)
    ids = 10**18 + np.arange(60, 0, -1)
    pd.DataFrame({"SOURCE_ID": ids}).to_csv(folder / "0-others.csv", index=False)
    redshift = np.linspace(0, 0.6, 60)
    pd.DataFrame({"SOURCE_ID": ids, "ra": 1.0, "redshift": redshift}).to_csv(folder / "z.csv", index=False)
    made = opened(
        folder,
        tmp_path / "w",
        reader="gaia-xp",
        label="redshift",
        zooms={"spectrum": [0, 3]},
        split=SplitPlan(folds=2),
    )
    assert [(s.name, s.count) for s in made.funnel.steps[:3]] == [
        ("rows of the files", 80),
        ("with a usable spectrum, each source once", 70),
        ("with a row in the table of labels", 60),
    ]
    a, b = read_xp(folder / "a.fits"), read_xp(folder / "b.fits")
    value = np.concatenate([a.samples.value, b.samples.value[10:]])[1:61]
    np.testing.assert_array_equal(made.array("spectrum", 0).value, value)
    np.testing.assert_allclose(made.label(), redshift[::-1])
    assert made.table["object_id"].tolist() == [str(k) for k in ids[::-1]]
    # The spectra's own positions stay.
    assert made.table["ra"].iloc[1] == 2
    np.testing.assert_allclose(made.wavelength(0), 10 * a.wavelength)
    assert made.wavelength(3)[0] == pytest.approx(10 * a.wavelength[:8].mean())
    assert made.array("spectrum", 3).value.shape == (60, 24)
    assert made.meta["inputs"]["spectrum"] == {
        "kind": "spectrum",
        "zooms": [0, 3],
        "grid": "gaia-xp",
        "sizes": [186, 93, 47, 24],
        "unit": "electron/s",
    }
    alone = opened(folder / "a.fits", tmp_path / "x", reader="gaia-xp")
    assert len(alone) == 40
    named = opened(
        folder / "a.fits",
        tmp_path / "y",
        reader="gaia-xp",
        label="redshift",
        labels=folder / "z.csv",
        split=None,
    )
    assert len(named) == 39
    with pytest.raises(DataError, match="no table of labels with source_id and 'teff'"):
        opened(folder, tmp_path / "v", reader="gaia-xp", label="teff")


@pytest.mark.parametrize("spelled", ["{}", "Gaia DR3 {}", '"{}"'])
@pytest.mark.parametrize("hole", ["", "null", "--", "NaN"])
def test_a_hole_among_labels_costs_one_row_and_no_digit(tmp_path, spelled, hole):
    # Within one cell of the sky numbers differ by 128; a float64 would make them steps of 1024.
    ids = 4658615927801509760 + 128 * np.arange(40)
    rng = np.random.default_rng(5)
    table = {"source_id": ids}
    for band in ("bp", "rp"):
        table[f"{band}_flux"] = rng.normal(10, 1, (40, 120)).astype(np.float32)
        table[f"{band}_flux_error"] = np.full((40, 120), 0.5, np.float32)
    Table(table).write(tmp_path / "xp.fits")
    redshift = np.round(np.linspace(0.01, 0.4, 40), 4)
    rows = [f"{spelled.format(ids[k])},{redshift[k]}" for k in rng.permutation(40) if k != 7]
    rows += [f"{spelled.format(ids[7])},{hole}", f"{hole},0.5"]
    (tmp_path / "z.csv").write_text("\n".join(["source_id,redshift", *rows]) + "\n")
    made = opened(
        tmp_path / "xp.fits", tmp_path / "w", reader="gaia-xp", label="redshift", labels=tmp_path / "z.csv"
    )
    assert made.table["source_id"].tolist() == [*ids[:7], *ids[8:]]
    assert made.label().tolist() == [*redshift[:7], *redshift[8:]]
    assert {step.name: step.count for step in made.funnel.steps}["redshift defined"] == 39


# ----------------------------------------------------------------------------------------------------- images


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.zeros((20, 24, 3), np.uint8)
        pixels[..., number % 3] = 3 * number
        pixels[number % 20] = 200
        Image.fromarray(pixels).save(folder / f"{name}.png")


def test_images_with_a_table_of_labels(tmp_path):
    names = [str(1000 + k) for k in range(40)]
    write_images(tmp_path / "zoo" / "images", names)
    (tmp_path / "zoo" / "images" / "damaged.png").write_bytes(b"no image")
    shutil.copy(tmp_path / "zoo" / "images" / "1000.png", tmp_path / "zoo" / "images" / "1039.png")
    table = pd.DataFrame({"objid": [*names[1:], "1000"], "shape": ["spiral", "round"] * 20})
    table.to_csv(tmp_path / "zoo" / "votes.csv", index=False)
    # Any other table that has the label, too, but for labels.csv.
    table[["objid"]].assign(shape="x").to_csv(tmp_path / "zoo" / "images" / "labels.csv", index=False)
    arguments = {"reader": "images", "label": "shape", "image_size": 10, "zooms": {"image": [0, 1]}}
    arguments["split"] = SplitPlan(folds=2)
    made = opened(tmp_path / "zoo", tmp_path / "w", labels=tmp_path / "zoo" / "votes.csv", **arguments)
    assert [(s.name, s.count) for s in made.funnel.steps[:3]] == [
        ("images", 41),
        ("that can be read", 40),
        ("with a row in the table of labels", 40),
    ]
    assert made.table["shape"].tolist() == ["round", "spiral"] * 20
    assert made.table["object_id"].tolist() == names
    native = made.array("image", 0)
    assert native.value.shape == (40, 3, 10, 10)
    # The blue channel of the sixth image: 15 of 255 but for the bright row.
    assert np.median(native.value[5, 2]) == pytest.approx(15 / 255)
    np.testing.assert_allclose(
        made.array("image", 1).value, native.value.reshape(40, 3, 5, 2, 5, 2).mean(axis=(3, 5)), atol=1e-6
    )
    assert np.isnan(native.sigma).all()
    assert (native.coverage == 1).all()
    assert made.meta["inputs"]["image"] == {
        "kind": "image",
        "zooms": [0, 1],
        "size": 10,
        "bands": ["r", "g", "b"],
    }
    # The same picture under two names is one object.
    group = made.table["group"]
    assert group[0] == group[39]
    assert group.nunique() == 39
    other = opened(tmp_path / "zoo", tmp_path / "v", **(arguments | {"split": None}))
    assert set(other.table["shape"]) == {"x"}
    write_images(tmp_path / "zoo" / "images", ["1007"])
    with pytest.raises(StoreError, match="of another state of the data"):
        opened(tmp_path / "zoo", tmp_path / "w", labels=tmp_path / "zoo" / "votes.csv", **arguments)


def test_each_folder_of_images_has_its_own_labels(tmp_path):
    for folder, shapes in (("a", ["round", "spiral"]), ("b", ["spiral", "round"])):
        write_images(tmp_path / folder, [f"{k}" for k in range(40)])
        pd.DataFrame({"objid": range(40), "shape": shapes * 20}).to_csv(
            tmp_path / folder / "labels.csv", index=False
        )
    arguments = {"reader": "images", "label": "shape", "image_size": 8}
    for paths, name in (([tmp_path / "a", tmp_path / "b"], "w"), (tmp_path, "v")):
        data = opened(paths, tmp_path.parent / f"{tmp_path.name}{name}", **arguments)
        assert data.funnel.steps[2].count == 80
        told = data.table.set_index(["folder", "name"])["shape"]
        assert told["a", "0"] == told["b", "1"] == "round"
        assert told["a", "1"] == told["b", "0"] == "spiral"


def test_a_folder_without_labels_does_not_take_those_of_another_s_images_of_the_same_names(tmp_path):
    write_images(tmp_path / "a", [f"{k}" for k in range(40)])
    write_images(tmp_path / "b", [f"{k}" for k in range(38, 42)])
    rows = {"objid": range(42), "shape": ["round", "spiral"] * 21}
    pd.DataFrame(rows).to_csv(tmp_path / "a" / "labels.csv", index=False)
    arguments = {"reader": "images", "label": "shape", "image_size": 8}
    data = opened([tmp_path / "a", tmp_path / "b"], tmp_path / "w", **arguments)
    assert data.funnel.steps[2].count == 42
    assert set(data.table.loc[data.table["folder"] == "b", "name"]) == {"40", "41"}


def test_images_in_folders_of_their_class(tmp_path):
    write_images(tmp_path / "sky" / "spiral", [f"s{k}" for k in range(20)])
    with pytest.raises(DataError, match="no table with 'class' is beside the images, nor are they sorted"):
        opened(tmp_path / "sky", tmp_path / "w", reader="images", label="class", image_size=8)
    write_images(tmp_path / "sky" / "round", [f"r{k}" for k in range(3, 23)])
    made = opened(
        [tmp_path / "sky" / "round", tmp_path / "sky" / "spiral"],
        tmp_path / "w",
        reader="images",
        label="class",
        zooms={"image": [0], "table": [0]},
        image_size=8,
        derive=["morphology"],
        columns=["morph_*"],
        split=SplitPlan(folds=2),
    )
    assert made.table["class"].value_counts().to_dict() == {"round": 20, "spiral": 20}
    assert made.table["name"].tolist()[0] == "r10"
    assert np.isfinite(made.inputs({"table": 0}, [0, 1])["table"]).any()
    unlabelled = opened(tmp_path / "sky", tmp_path / "v", reader="images", zooms={"image": [2]}, image_size=8)
    assert len(unlabelled) == 40
    assert unlabelled.array("image", 2).value.shape == (40, 3, 2, 2)


def test_scene_folder(tmp_path):
    names = [f"i{k}" for k in range(40)]
    write_images(tmp_path / "scene" / "images", names)
    features = np.arange(40 * 104.0).reshape(40, 104) % 7
    table = pd.DataFrame(features, columns=[f"MFCC_{k}" for k in range(1, 105)])
    table = table.assign(IMAGE=[f"{name}.png" for name in names], CLASS1=["IN", "OUT"] * 20, CLASS2="x")
    table.head(39).to_csv(tmp_path / "scene" / "features.csv", index=False)
    made = opened(
        tmp_path / "scene",
        tmp_path / "w",
        reader="scene",
        label="CLASS1",
        image_size=8,
        zooms={"image": [0], "table": [0]},
        columns=["mfcc_*"],
        split=SplitPlan(folds=2),
    )
    assert [(s.name, s.count) for s in made.funnel.steps[:4]] == [
        ("images", 40),
        ("that can be read", 40),
        ("with features", 39),
        ("CLASS1 defined", 39),
    ]
    order = [names.index(name) for name in made.table["name"]]
    np.testing.assert_array_equal(made.inputs({"table": 0}, range(39))["table"], features[order])


# ---------------------------------------------------------------------------------------------- real files


def test_real_annz_split_keeps_equal_rows_together(real_data, tmp_path):
    folder = real_data / "tables" / "annz_sdss"
    made = opened(
        [folder / f"sdss.ugriz.{part}" for part in ("train", "valid", "test")],
        tmp_path,
        reader="table",
        label="redshift",
        columns=["u", "g", "r", "i", "z"],
        split=SplitPlan(column="part", train=("train",), valid=("valid",), test=("test",)),
    )
    split = made.split()
    assert len(split["test"]) == 6000
    assert (made.table["part"].iloc[split["test"]] == "test").all()
    magnitudes = made.table[list("ugriz")].to_numpy()
    test = {row.tobytes() for row in magnitudes[split["test"]]}
    for part in ("train", "valid", "calibration"):
        assert test.isdisjoint(row.tobytes() for row in magnitudes[split[part]])


def test_real_spectra_carry_their_own_labels(real_data, tmp_path):
    files = sorted((real_data / "sdss_spectra" / "objects").glob("*.fits"))[::9]
    build(files, tmp_path / "my.cube", workers=1)
    made = opened(
        tmp_path / "my.cube",
        tmp_path / "w",
        label="class",
        zooms={"spectrum": [3]},
        derive=["ew", "indices"],
        every_spectrum=True,
        flag_zero=False,
        split=None,
    )
    table = made.table
    labels = pd.read_csv(real_data / "sdss_spectra" / "labels.csv")
    keys = ["plate", "mjd", "fiberid"]
    joined = table.merge(labels.drop_duplicates(keys), on=keys, suffixes=("", "_told"))
    assert len(joined) == len(table) == len(files)
    assert (joined["class"] == joined["class_told"]).all()
    # Quasars show Mg II and Hβ in emission, galaxies Ca K in absorption.
    median = table.groupby("class")[["ew_mgii_2799", "ew_caii_k_3934"]].median()
    assert median.loc["QSO", "ew_mgii_2799"] < -5
    assert median.loc["GALAXY", "ew_caii_k_3934"] > 2
