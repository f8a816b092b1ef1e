from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from skyfuse.cube import layout
from skyfuse.dataset import Dataset, SplitPlan, arrays
from skyfuse.dataset.dataset import _remove
from skyfuse.dataset.sources.cube import _frame_angles
from skyfuse.dataset.tables import table_digest
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError
from tests.dataset.made import of_arrays, of_cube
from tests.dataset.sky import GRID, SIZE, MemoryCube

N = 60


def label_table(n: int = N + 9) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "plate": 1,
            "MJD": 51000,
            "fiberID": np.arange(1, n + 1),
            "AVG": np.random.default_rng(0).normal(size=n),
            "FLAG": 0,
            "z": 0.1,
        }
    )
    table.loc[3, "AVG"] = -99
    table.loc[4, "AVG"] = np.nan
    table.loc[5, "FLAG"] = 1
    return table


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> MemoryCube:
    made = MemoryCube(tmp_path_factory.mktemp("sky") / "sky.cube", N)
    made.spoil(np.array([0, 1, 6]), slice(3, 9))
    made.no_image[7] = True
    return made


@pytest.fixture(scope="module")
def dataset(cube: MemoryCube, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(cube, tmp_path_factory.mktemp("made") / "dataset", labels=label_table())


def make(cube: MemoryCube, path: Path, **options: Any) -> Dataset:
    return of_cube(cube, path, **options)  # stands in for a Cube


def object_rows(dataset: Dataset) -> Any:
    return dataset.table["object_id"].str[1:].astype(int).to_numpy()


def test_funnel_counts_every_step(dataset: Dataset) -> None:
    assert dataset.funnel.to_frame()[["step", "count", "applied"]].to_numpy().tolist() == [
        ["catalogue rows", N + 9, True],
        ["object in the cube with image and spectrum", N - 1, True],
        ["AVG defined", N - 2, True],
        ["AVG ≠ -99", N - 3, True],
        ["FLAG = 0", N - 4, True],
        ["no NaN in the spectrum", N - 7, False],
        ["one object in the cutout", N - 4, False],
        ["used", N - 4, True],
        ["in a part of the split (the others would part a group)", N - 4, True],
    ]
    assert dataset.meta["matched"]["matched"] == N
    assert dataset.meta["matched"]["unmatched"] == 9


def test_strict_steps_drop_what_the_default_only_reports(cube: MemoryCube, tmp_path: Path) -> None:
    made = make(
        cube,
        tmp_path / "d",
        labels=label_table(),
        complete_spectra=True,
        single_objects=True,
        flag_zero=False,
    )
    assert len(made) == N - 6
    assert (made.table["nan_fraction"] == 0).all()
    assert made.funnel.to_frame()["applied"].all()
    assert made.nan_study("spectrum")[0].with_nan == 0


def test_arrays_are_those_of_the_cube(cube: MemoryCube, dataset: Dataset) -> None:
    rows = object_rows(dataset)
    for modality in ("image", "spectrum"):
        for zoom in range(3):
            expected = cube.gather(modality, zoom, rows)
            for name, values in zip(expected._fields, dataset.array(modality, zoom), strict=True):
                np.testing.assert_array_equal(values, getattr(expected, name))
            chosen = np.array([5, 0, 5, 30])
            for values, mapped in zip(dataset.batch(modality, zoom, chosen), expected, strict=True):
                np.testing.assert_array_equal(values, mapped[chosen])
    np.testing.assert_array_equal(dataset.wavelength(1), GRID.centres(1))


def test_table_belongs_to_the_arrays(cube: MemoryCube, dataset: Dataset) -> None:
    table, rows = dataset.table, object_rows(dataset)
    np.testing.assert_array_equal(table["AVG"], label_table()["AVG"][rows])
    np.testing.assert_array_equal(table["z"], cube.objects["z"][rows])
    assert (table["label_z"] == 0.1).all()
    gaps = np.isnan(dataset.array("spectrum", 0).value)
    np.testing.assert_allclose(table["nan_fraction"], gaps.mean(axis=1))
    assert table["nan_runs"].tolist() == gaps.any(axis=1).astype(int).tolist()
    assert (table["image_valid"] == 1).all()


def test_split_is_frozen(dataset: Dataset, cube: MemoryCube, tmp_path: Path) -> None:
    split = dataset.split()
    every = np.concatenate([split[part] for part in ("train", "valid", "calibration", "test")])
    assert np.array_equal(np.sort(every), np.arange(len(dataset)))
    assert np.array_equal(np.sort(np.concatenate(split["folds"])), split["train"])
    assert {dataset.split_digest()} == {Dataset.open(dataset.path).split_digest()}
    assert dataset.split_digest() == make(cube, tmp_path / "again", labels=label_table()).split_digest()


def test_further_split_keeps_its_name(cube: MemoryCube, tmp_path: Path) -> None:
    made = make(cube, tmp_path / "d", labels=label_table())
    plan = SplitPlan(seed=5, folds=3)
    other = made.make_split("other", plan)
    assert len(other["folds"]) == 3
    assert np.array_equal(made.make_split("other", plan)["test"], other["test"])
    assert np.array_equal(Dataset.open(made.path).split("other")["test"], other["test"])
    with pytest.raises(StoreError, match="'other' is frozen and differs"):
        made.make_split("other", SplitPlan(seed=6))
    with pytest.raises(DataError, match=r"no split 'third'.*default, other"):
        made.split("third")


def test_same_request_opens_and_another_is_refused(cube: MemoryCube, tmp_path: Path) -> None:
    made = make(cube, tmp_path / "d", labels=label_table())
    before = {path.name: path.stat().st_mtime_ns for path in made.path.iterdir()}
    make(cube, tmp_path / "d", labels=label_table())
    assert {path.name: path.stat().st_mtime_ns for path in made.path.iterdir()} == before
    reseeded = {"labels": label_table(), "split": SplitPlan(seed=1)}
    for options in ({"labels": label_table().iloc[::-1]}, reseeded, {}):
        with pytest.raises(StoreError, match="is a dataset of another state"):
            make(cube, tmp_path / "d", **options)


def test_dataset_without_labels_has_no_split(cube: MemoryCube, tmp_path: Path) -> None:
    made = make(cube, tmp_path / "d", inputs=["spectrum"], zooms={"spectrum": [2]})
    assert len(made) == N
    assert made.zooms == {"spectrum": (2,)}
    assert [step.name for step in made.funnel.steps] == [
        "objects in the cube",
        "with spectrum",
        "no NaN in the spectrum",
        "used",
    ]
    with pytest.raises(DataError, match="no split"):
        made.split()
    with pytest.raises(DataError, match="has no label"):
        made.label()
    with pytest.raises(DataError, match="no label or no groups"):
        made.make_split("x")
    with pytest.raises(DataError, match="no images"):
        made.multi_object_check()
    with pytest.raises(UsageError, match=r"no image at zoom 0.*spectrum 2"):
        made.array("image", 0)


def test_labels_from_a_file(cube: MemoryCube, dataset: Dataset, tmp_path: Path) -> None:
    label_table().to_csv(tmp_path / "labels.csv", index=False)
    made = make(cube, tmp_path / "d", labels=tmp_path / "labels.csv")
    np.testing.assert_allclose(made.label(), dataset.label())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": label_table(), "label": "AVGE"}, DataError, "nearest columns: AVG"),
        ({"labels": label_table().assign(AVG=-99.0)}, DataError, "no object is left"),
        ({"labels": label_table().assign(plate=9)}, DataError, "missing for all"),
        ({"labels": label_table().head(3)}, DataError, "cannot be split"),
        ({"inputs": ["xray"]}, UsageError, "xray is no modality"),
        ({"inputs": []}, UsageError, "nothing is asked of the cube"),
        ({"zooms": {"image": [3]}}, UsageError, "choose of 0 to 2"),
        ({"zooms": {"spectrum": []}}, UsageError, "not in the cube"),
    ],
)
def test_bad_calls_leave_nothing_behind(
    cube: MemoryCube, tmp_path: Path, options: dict[str, Any], error: type[SkyfuseError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(cube, tmp_path / "d", **options)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing_behind(
    cube: MemoryCube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skyfuse.dataset.make.write_block", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(cube, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_progress_reaches_the_end(cube: MemoryCube, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    make(cube, tmp_path / "d", progress=lambda done, total, what: calls.append((done, total, what)))
    assert calls == [(N - 1, N - 1, "quality"), (N - 1, N - 1, "arrays")]


@pytest.mark.parametrize("rows", [[-1], [N], [0.5], [[1]], [True]])
def test_impossible_rows_are_refused(dataset: Dataset, rows: Any) -> None:
    with pytest.raises(UsageError, match="rows must be whole numbers"):
        dataset.batch("image", 0, rows)


def test_matrix_keeps_the_order_of_its_inputs(dataset: Dataset) -> None:
    rows = [4, 1]
    x = dataset.matrix({"spectrum": 2, "image": 1}, rows)
    assert x.dtype == np.float32
    spectrum, image = dataset.array("spectrum", 2).value, dataset.array("image", 1).value
    np.testing.assert_array_equal(x, np.hstack([spectrum[rows], image[rows].reshape(2, -1)]))
    assert dataset.matrix({"spectrum": 2, "image": 1}, []).shape == (0, 16 + 5 * 64)


def test_torch_loader_gives_the_same_arrays(dataset: Dataset) -> None:
    rows = dataset.split()["train"]
    tensors = dataset.torch({"image": 1, "spectrum": 2}, rows, "AVG")
    batches = list(torch.utils.data.DataLoader(tensors, batch_size=8))
    assert sum(len(batch["row"]) for batch in batches) == len(tensors) == len(rows)
    for batch in batches:
        expected = dataset.inputs({"image": 1, "spectrum": 2}, batch["row"].numpy())
        np.testing.assert_array_equal(batch["image"].numpy(), expected["image"])
        np.testing.assert_array_equal(batch["spectrum"].numpy(), expected["spectrum"])
        np.testing.assert_array_equal(
            batch["label"].numpy(), dataset.label()[batch["row"].numpy()].astype(np.float32)
        )
    assert tensors[0]["image"].shape == (5, SIZE // 2, SIZE // 2)
    assert "label" not in dataset.torch({"image": 1}, rows)[0]
    with pytest.raises(DataError, match=r"nearest columns: AVG"):
        dataset.torch({"image": 1}, rows, "AVGG")
    with pytest.raises(DataError, match="holds no numbers"):
        dataset.torch({"image": 1}, rows, "object_id")
    with pytest.raises(UsageError, match="no image at zoom 7"):
        dataset.torch({"image": 7}, rows)


def test_dataset_travels_to_workers_by_its_path(dataset: Dataset) -> None:
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    unpacked = pickle.loads(packed)  # noqa: S301 # written by the line above
    np.testing.assert_array_equal(unpacked.array("image", 2).value, dataset.array("image", 2).value)


def test_large_rows_stay_mapped_and_small_ones_go_to_memory(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []
    monkeypatch.setattr(layout, "prefetch", lambda array, rows: announced.append(len(rows)))
    monkeypatch.setattr(arrays.Arrays, "_is_cached", lambda *_: False)
    fresh = Dataset.open(dataset.path)
    small = fresh.batch("image", 2, [1, 2])
    assert announced == []
    monkeypatch.setattr(arrays, "_SMALL_ROW_BYTES", 0)
    fresh = Dataset.open(dataset.path)
    large = fresh.batch("image", 2, [1, 2])
    assert announced == [2, 2, 2]
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a, b)


def test_frame_angle_is_that_of_the_pixel_rows(cube: MemoryCube) -> None:
    # CD matrix of the frames: one pixel along a row goes −9.526e-5 degrees east and 5.5e-5 north.
    expected = np.degrees(np.arctan2(5.5, -9.526))
    table = cube.objects.copy()
    table.loc[:9, "frame_sdss_u"] = None
    table.loc[10, [f"frame_sdss_{band}" for band in "ugriz"]] = None
    angles = _frame_angles(cube, table, cube.imaging())
    assert np.isnan(angles[10])
    apart = (np.delete(angles, 10) - expected + 45) % 90 - 45
    # North turns against the frame's columns away from its centre, by ΔRA · sin δ < 0.004 degrees here.
    np.testing.assert_allclose(apart, 0, atol=0.005)


def test_frames_that_disagree_have_no_angle(cube: MemoryCube) -> None:
    frames = cube.frames.copy()
    turned = str(frames.loc[0, "wcs"]).replace("CD1_2   =            5.5E-05", "CD1_2   =            5.0E-05")
    frames.loc[0, "wcs"] = turned.replace("CD2_1   =            5.5E-05", "CD2_1   =            5.0E-05")
    other = copy.copy(cube)
    other.frames = frames
    assert np.isnan(_frame_angles(other, cube.objects, other.imaging())).all()


def copied(dataset: Dataset, folder: Path) -> Path:
    path = folder / "copy"
    path.mkdir()
    for file in dataset.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def spoil_json(name: str, **changes: Any) -> Any:
    def spoil(path: Path) -> None:
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | changes))

    return spoil


def spoil_text(name: str, text: str) -> Any:
    return lambda path: (path / name).write_text(text)


def shorten(path: Path) -> None:
    content = (path / "arrays.h5").read_bytes()
    (path / "arrays.h5").write_bytes(content[: len(content) // 2])


def link_outside(path: Path) -> None:
    with h5py.File(path / "arrays.h5", "r+") as file:
        del file["image/0/value"]
        file["image/0/value"] = h5py.ExternalLink("/etc/hostname", "/")


def store_outside(path: Path) -> None:
    with h5py.File(path / "arrays.h5", "r+") as file:
        shape = file["image/0/value"].shape
        del file["image/0/value"]
        outside = [(str(path / "elsewhere"), 0, int(np.prod(shape)) * 4)]
        file.create_dataset("image/0/value", shape, "f4", external=outside)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: (path / "dataset.json").unlink(), id="no json"),
        pytest.param(lambda path: (path / "table.parquet").unlink(), id="no table"),
        pytest.param(lambda path: (path / "arrays.h5").unlink(), id="no arrays"),
        pytest.param(shorten, id="arrays truncated"),
        pytest.param(link_outside, id="link out of the folder"),
        pytest.param(store_outside, id="bytes out of the folder"),
        pytest.param(spoil_text("dataset.json", "{"), id="broken json"),
        pytest.param(spoil_text("dataset.json", "[]"), id="json of another kind"),
        pytest.param(spoil_text("table.parquet", "x"), id="broken table"),
        pytest.param(spoil_text("splits.json", "[1]"), id="broken splits"),
        pytest.param(spoil_json("dataset.json", format=1), id="another version"),
        pytest.param(spoil_json("dataset.json", objects=3), id="another length"),
        pytest.param(spoil_json("dataset.json", inputs={"xray": [0]}), id="unknown modality"),
        pytest.param(spoil_json("dataset.json", inputs={"image": [9]}), id="missing array"),
        pytest.param(spoil_json("dataset.json", funnel=[1]), id="broken funnel"),
        pytest.param(spoil_json("splits.json", default={}), id="malformed split"),
    ],
)
def test_damage_is_told_in_one_line(dataset: Dataset, tmp_path: Path, damage: Any) -> None:
    path = copied(dataset, tmp_path)
    damage(path)
    with pytest.raises(StoreError) as caught:
        Dataset.open(path)
    assert "\n" not in str(caught.value)


def test_bytes_on_disk_are_little_more_than_the_arrays(tmp_path: Path) -> None:
    made = make(MemoryCube(tmp_path / "sky.cube", 600), tmp_path / "d")
    held = sum(a.nbytes for m, zooms in made.zooms.items() for zoom in zooms for a in made.array(m, zoom))
    assert sum(path.stat().st_size for path in made.path.iterdir()) < 1.05 * held


def test_dataset_without_a_path_lasts_as_long_as_its_object(cube: MemoryCube) -> None:
    made = Dataset.from_cube(cube, labels=label_table())  # stands in for a Cube
    folder = made.path.parent
    assert len(made.split()["train"]) > 0
    # A forked worker that lets its copy go must not take the files along.
    _remove(str(folder), os.getpid() + 1)
    assert Dataset.open(made.path).meta == made.meta
    del made
    assert not folder.exists()


def test_refused_dataset_without_a_path_leaves_nothing(
    cube: MemoryCube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DataError, match="no column 'SFR'"):
        of_cube(cube, labels=label_table(), label="SFR")  # as above
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_dataset_is_not_replaced(cube: MemoryCube, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(StoreError, match="is there already and is something else"):
        make(cube, tmp_path / "d", labels=label_table())


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (5, "a int is no table of labels"),
        (label_table().assign(AVG=[1, "a", 2.5] * ((N + 9) // 3)), "'AVG' of the table mixes kinds"),
        (pd.concat([label_table(), label_table()[["AVG"]]], axis=1), "the column 'AVG' more than once"),
    ],
)
def test_label_tables_that_cannot_be_kept_are_refused(
    cube: MemoryCube, tmp_path: Path, labels: Any, match: str
) -> None:
    with pytest.raises(SkyfuseError, match=match):
        make(cube, tmp_path / "d", labels=labels)


def test_big_endian_and_infinite_labels(cube: MemoryCube, dataset: Dataset, tmp_path: Path) -> None:
    table = label_table()
    swapped = table.assign(AVG=table["AVG"].to_numpy().astype(">f8"))
    np.testing.assert_array_equal(make(cube, tmp_path / "d", labels=swapped).label(), dataset.label())
    table.loc[10, "AVG"] = np.inf
    assert np.isfinite(make(cube, tmp_path / "e", labels=table).label()).all()


def test_whole_numbers_with_holes_are_not_rounded(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "objid": range(4),
            "other": pd.array([2**62 + 1, None, 2**62 + 3, 5], "Int64"),
            "n": pd.array([1, None, 3, 4], "Int64"),
            "luminosity": [1e44, 1.0, 2.0, np.inf],
        }
    )
    data = of_arrays(tmp_path / "d", table, columns=["n"])
    assert data.label("other").tolist() == [2**62 + 1, None, 2**62 + 3, 5]
    np.testing.assert_array_equal(data.label("n"), [1, np.nan, 3, 4])
    np.testing.assert_array_equal(data.inputs({"table": 0}, range(4))["table"][:, 0], [1, np.nan, 3, 4])
    again = Dataset.open(tmp_path / "d").table
    assert again["other"].tolist() == table["other"].tolist()
    logarithm = data.inputs({"table": 0}, range(4), columns=["log10(luminosity)"])["table"][:, 0]
    np.testing.assert_allclose(logarithm, [44, 0, np.log10(2), np.inf], rtol=1e-6)
    with pytest.raises(DataError, match=r"luminosity of 0 is 1e\+44, beyond float32"):
        data.inputs({"table": 0}, range(4), columns=["luminosity"])
    other = table.assign(other=pd.array([2**62 + 1, None, 2**62 + 2, 5], "Int64"))
    assert table_digest(other) != table_digest(table)
