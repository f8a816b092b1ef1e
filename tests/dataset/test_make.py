"""Datasets of what no cube holds, and of a cube's own labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyfuse.dataset import Dataset, Funnel, SplitPlan
from skyfuse.dataset.features import EW_NAMES, equivalent_widths, smooth, smooth_sigma
from skyfuse.errors import DataError, SkyfuseError, StoreError, UsageError
from skyfuse.survey.records import Samples
from tests.dataset.made import of_arrays, of_cube
from tests.dataset.sky import GRID, MemoryCube

N = 80
WAVELENGTH = np.linspace(3900.0, 7100.0, 640)
ZOOMED = WAVELENGTH.reshape(320, 2).mean(axis=1)


def catalogue() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "objID": np.arange(1237650795146445031, 1237650795146445031 + N),
            "u": rng.normal(19, 1, N),
            "g": rng.normal(18, 1, N),
            "mass": rng.lognormal(0, 1, N),
            "z": rng.uniform(0, 0.05, N),
            "kind": np.array([" E ", "Sa", "Sb?", ""])[np.arange(N) % 4],
        }
    )
    table.loc[5, "mass"] = 0
    table.loc[[7, 17], "u"] = np.nan
    return table


def spectra() -> Samples:
    value = np.random.default_rng(2).normal(10, 1, (N, len(WAVELENGTH))).astype(np.float32)
    value[3, 10:12] = np.nan
    sigma = np.where(np.isnan(value), np.nan, 0.5).astype(np.float32)
    return Samples(value, sigma, np.isfinite(value).astype(np.float16))


def make(path: Path, table: pd.DataFrame | None = None, **options: Any) -> Dataset:
    defaults: dict[str, Any] = {"arrays": {}, "provenance": {"files": {}}, "split": SplitPlan(folds=2)}
    options = defaults | options
    return of_arrays(path, catalogue() if table is None else table, **options)


def steps(dataset: Dataset) -> list[tuple[str, int]]:
    return [(step.name, step.count) for step in dataset.funnel.steps]


# ----------------------------------------------------------------------------------------------------- tables


def test_a_table_alone(tmp_path: Path) -> None:
    made = make(tmp_path / "d", label="z", columns=["g", "u-g", "log10(mass)"])
    assert made.zooms == {}
    assert made.meta["columns"] == ["g", "u-g", "log10(mass)"]
    rows = np.array([5, 7, 0])
    x = made.inputs({"table": 0}, rows)["table"]
    own = catalogue()
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0], own["g"][rows], rtol=1e-6)
    np.testing.assert_allclose(x[[0, 2], 1], (own["u"] - own["g"])[[5, 0]], rtol=1e-5)
    np.testing.assert_allclose(x[1:, 2], np.log10(own["mass"][[7, 0]]), rtol=1e-5)
    # Neither a missing magnitude nor the logarithm of nothing is a number.
    assert np.isnan(x[1, 1])
    assert np.isnan(x[0, 2])
    chosen = made.inputs({"table": 0}, rows, columns=["mass", "[ug]"])["table"]
    np.testing.assert_allclose(chosen, own[["mass", "u", "g"]].to_numpy()[rows], rtol=1e-6)
    np.testing.assert_array_equal(made.matrix({"table": 0}, rows, columns=["g"]), x[:, :1])
    assert made.torch({"table": 0}, rows, "z", columns=["g"])[0]["table"].tolist() == x[0, :1].tolist()
    assert made.table["object_id"].tolist() == [str(k) for k in own["objID"]]


@pytest.mark.parametrize(
    ("zooms", "columns", "error", "match"),
    [
        ({"table": 1}, ["g"], UsageError, "at zoom 1 with 1 columns"),
        ({"table": 0}, [], UsageError, "at zoom 0 with 0 columns"),
        ({"table": 0}, ["kind"], DataError, "'kind' holds no numbers"),
        ({"table": 0}, ["u-x"], DataError, "no column 'u-x'"),
        ({"table": 0}, ["x*"], DataError, "no column of numbers matches 'x\\*'"),
        ({"spectrum": 0}, [], UsageError, "holds no spectrum at zoom 0"),
    ],
)
def test_inputs_that_are_not_there(
    tmp_path: Path, zooms: Any, columns: Any, error: type[SkyfuseError], match: str
) -> None:
    with pytest.raises(error, match=match):
        make(tmp_path / "d").inputs(zooms, [0], columns=columns)


def test_label_steps_are_counted(tmp_path: Path) -> None:
    funnel = Funnel()
    funnel.add("rows of the file", 100)
    made = make(
        tmp_path / "d",
        label="KIND",
        classes={"spiral": ["Sa.*", r"Sb\??"], "other": ["S.*"], "none": [""]},
        where={"kind": ["S.*", ""], "g": [None, 19.0], "u-g": [-5, None]},
        funnel=funnel,
    )
    own = catalogue()
    by_kind = own["kind"].str.strip() != "E"
    bright = by_kind & (own["g"] <= 19)
    blue = bright & (own["u"] - own["g"] >= -5)
    assert steps(made)[:5] == [
        ("rows of the file", 100),
        ("kind is S.* or ", int(by_kind.sum())),
        ("g ≤ 19", int(bright.sum())),
        ("-5 ≤ u-g", int(blue.sum())),
        ("kind is one of spiral, other, none", int(blue.sum())),
    ]
    assert made.label().tolist() == np.where(own["kind"][blue] == "", "none", "spiral").tolist()
    assert made.meta["label"]["classes"] == ["spiral", "other", "none"]
    assert made.table["g"].tolist() == own["g"][blue].tolist()


def test_logarithm_as_a_label(tmp_path: Path) -> None:
    made = make(tmp_path / "d", label="log10(mass)")
    own = catalogue()["mass"].drop(5)
    np.testing.assert_allclose(made.label(), np.log10(own))
    assert ("log10(mass) defined", N - 1) in steps(made)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"label": "kinds"}, DataError, "nearest columns: kind"),
        ({"label": "z", "columns": ["gr"]}, DataError, "no column 'gr'"),
        ({"label": "kind", "classes": {"a": ["("]}}, UsageError, "'\\(' is no regular expression"),
        ({"label": "kind", "classes": {"a": ["x"]}}, DataError, "no object is left to use"),
        ({"where": {"g": [1.0, 2.0, 3.0]}}, UsageError, "rows to keep by 'g' are given as"),
        ({"where": {"g": ["a", 3.0]}}, UsageError, "rows to keep by 'g' are given as"),
        ({"derive": ["colour"]}, UsageError, "colour cannot be derived"),
        ({"derive": ["ew"]}, DataError, "ew cannot be derived: the data has no spectrum"),
        ({"label": "z", "split": SplitPlan(folds=1)}, UsageError, "is impossible"),
        ({"label": "z", "split": SplitPlan(column="part", test=("x",))}, DataError, "no column 'part'"),
        ({"arrays": {("spectrum", 0): spectra()}}, UsageError, "spectrum at zoom 0 are is not told"),
        ({"arrays": {("image", 0): spectra()}}, UsageError, "image at zoom 0 are is not told"),
    ],
)
def test_bad_calls_leave_nothing_behind(
    tmp_path: Path, options: dict[str, Any], error: type[SkyfuseError], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        make(tmp_path / "d", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------- identity and groups


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("object_id", [f"a{k}" for k in range(6)], "a2"),
        ("Source_ID", np.arange(6) + 10, "12"),
        (
            "Source_ID",
            pd.array([4658615927801509760 + k if k else None for k in range(6)]),
            f"{4658615927801509762}",
        ),
        ("id", [" a", "b ", " c ", "d", None, ""], "c"),
        # A float has lost digits, and a name that occurs twice, in any spelling, names nothing.
        ("objid", np.arange(6) + 1e18, "row-0000002"),
        ("name", ["a", "a", "b", "c", "d", "e"], "row-0000002"),
        ("name", ["12", "Gaia DR3 12", "b", "c", "d", "e"], "row-0000002"),
        # A hole in a column of names is named by its row.
        ("name", ["a", "c", None, "b", "d", "e"], "row-0000002"),
    ],
)
def test_what_names_a_row(tmp_path: Path, column: str, values: Any, expected: str) -> None:
    made = make(tmp_path / "d", pd.DataFrame({column: values, "g": 1.0}))
    assert made.table["object_id"][2] == expected
    assert made.table["object_id"].is_unique


def test_whole_numbers_of_any_type_are_kept(tmp_path: Path) -> None:
    first = 4658615927801509761
    table = pd.DataFrame({"g": np.arange(4.0)})
    table["source_id"] = pd.Series([first, None, first + 1, 2**63 + 5], dtype=object)
    table["arrow"] = pd.Series([first, None, first + 1, first + 2], dtype="int64[pyarrow]")
    table["name"] = pd.Series([first, "Gaia DR3 7", "SDSS J1", None], dtype=object)
    found = make(tmp_path / "d", table).table
    assert [None if pd.isna(k) else int(k) for k in found["source_id"]] == [first, None, first + 1, 2**63 + 5]
    assert [None if pd.isna(k) else int(k) for k in found["arrow"]] == [first, None, first + 1, first + 2]
    assert found["name"].tolist()[:3] == [str(first), "7", "SDSS J1"]
    assert found["object_id"].tolist() == [str(first), "row-0000001", str(first + 1), str(2**63 + 5)]


def test_ids_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="object_id names rows twice"):
        make(tmp_path / "d", pd.DataFrame({"object_id": ["a", "a"]}))


@pytest.mark.parametrize("by", ["group", "position", "columns", "arrays"])
def test_what_may_not_be_parted(tmp_path: Path, by: str) -> None:
    # Rows k and k + 40 are one object.
    table = catalogue().drop(columns="objID")
    options: dict[str, Any] = {}
    if by == "group":
        table["group"] = [f"g{k % 40}" for k in range(N)]
    elif by == "position":
        table["RAdeg"], table["DEdeg"] = np.arange(N) % 40 / 10.0, np.where(np.arange(N) < 40, 0, 0.5 / 3600)
    elif by == "columns":
        table[["u", "g"]] = np.tile(table[["u", "g"]].to_numpy()[:40], (2, 1))
        table.loc[[3, 9], ["u", "g"]] = np.nan
        table.loc[[43], ["u", "g"]] = np.nan
        options["columns"] = ["g", "u-g"]
    else:
        half = spectra().value[:40]
        samples = Samples(np.concatenate([half, half]), *spectra()[1:])
        options = {
            "arrays": {("spectrum", 0): samples},
            "wavelengths": {0: WAVELENGTH},
            "spectrum": {"grid": "test"},
        }
    made = make(tmp_path / "d", table, label="z", **options)
    group = made.table["group"].to_numpy()
    # Of rows without any input nothing tells that they are one.
    alone = {3, 9} if by == "columns" else set()
    for k in range(40):
        assert (group[k] == group[k + 40]) == (k not in alone)
    assert len(set(group)) == 40 + len(alone)
    for turn in made.rounds():
        for rows in turn.values():
            assert set(group[rows]).isdisjoint(np.delete(group, rows))


def test_split_by_files(tmp_path: Path) -> None:
    table = catalogue().assign(source=np.repeat(["one", "two"], 40))
    made = make(tmp_path / "d", table, label="z", split=SplitPlan(column="source", test=("two",), folds=2))
    assert made.split()["test"].tolist() == list(range(40, 80))
    other = made.make_split("rounds", SplitPlan(rounds=3, folds=2, column="source", train=("one",)))
    assert len(made.rounds("rounds")) == 3
    tested = np.concatenate([turn["test"] for turn in Dataset.open(made.path).rounds("rounds")])
    assert np.array_equal(np.sort(tested), np.arange(40, 80))
    assert np.array_equal(other["test"], made.rounds("rounds")[0]["test"])
    assert set(range(40)) <= set(other["train"].tolist())


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (np.arange(40) + 1, False),
        (np.roll(np.arange(40), 7), False),
        # Not all of the numbers: names of a catalogue.
        (2 * np.arange(40) + 1, True),
        ([f"NGC {k}" for k in range(40)], True),
    ],
    ids=["from 1", "from 0, in another order", "with gaps", "words"],
)
def test_numbers_of_rows_tie_no_two_tables(tmp_path: Path, names: Any, one: bool) -> None:
    table = catalogue().drop(columns="objID")
    table = table.assign(source=np.repeat(["one", "two"], 40), id=[*names, *names])
    # Objects that stand in the test part, too, would be left out of the training part.
    plan = {} if one else {"split": SplitPlan(column="source", test=("two",), folds=2)}
    made = make(tmp_path / "d", table, label="z", **plan)
    group = made.table["group"].to_numpy()
    assert (group[:40] == group[40:]).all() == one
    assert len(set(group)) == (40 if one else 80)


def test_places_tell_whether_two_tables_name_one_object(tmp_path: Path) -> None:
    names = 3 * np.arange(40) + 1
    table = catalogue().drop(columns="objID")
    table = table.assign(source=np.repeat(["one", "two"], 40), id=[*names, *names])
    table["ra"], table["dec"] = np.tile(np.arange(40.0), 2), np.repeat([0.0, 40 / 3600], 40)
    for shift, one in ((0.0, True), (1.0, False)):
        moved = table.assign(dec=table["dec"] + shift * (table["source"] == "two"))
        made = make(tmp_path / str(one), moved, label="z")
        group = made.table["group"].to_numpy()
        assert (group[:40] == group[40:]).all() == one


# ----------------------------------------------------------------------------------------------------- arrays


def optical(**options: Any) -> dict[str, Any]:
    fine = spectra()
    coarse = Samples(*(part.reshape(N, 320, 2).mean(axis=2).astype(part.dtype) for part in fine))
    return {
        "arrays": {("spectrum", 0): fine, ("spectrum", 1): coarse},
        "wavelengths": {0: WAVELENGTH, 1: ZOOMED},
        "spectrum": {"grid": "test", "sizes": [640, 320], "unit": "electron/s"},
    } | options


def test_spectra_beside_a_table(tmp_path: Path) -> None:
    made = make(tmp_path / "d", label="z", columns=["g", "ew_h*"], derive=["ew", "indices"], **optical())
    fine = spectra()
    np.testing.assert_array_equal(made.array("spectrum", 0).value, fine.value)
    np.testing.assert_array_equal(made.wavelength(1), ZOOMED)
    assert made.table["nan_runs"].sum() == 1
    assert made.meta["columns"][:2] == ["g", "ew_hdelta_4101"]
    widths = equivalent_widths(WAVELENGTH, fine.value, catalogue()["z"])
    np.testing.assert_allclose(made.table[list(EW_NAMES)], widths)
    assert np.isfinite(made.table["ew_hbeta_4861"]).all()
    assert np.isfinite(made.table["idx_mgb"]).all()
    out = made.inputs({"spectrum": 0, "table": 0}, [3, 8], columns=["g"], smooth=2.0, sigma=True)
    assert sorted(out) == ["spectrum", "spectrum_sigma", "table"]
    np.testing.assert_array_equal(out["spectrum"], smooth(fine.value[[3, 8]], 2.0))
    np.testing.assert_array_equal(out["spectrum_sigma"], smooth_sigma(fine.sigma[[3, 8]], 2.0))
    plain = made.inputs({"spectrum": 1}, [3, 8], sigma=True)
    np.testing.assert_array_equal(plain["spectrum_sigma"], made.array("spectrum", 1).sigma[[3, 8]])


def test_equal_content_gives_equal_bytes_and_other_content_is_found(tmp_path: Path) -> None:
    first = make(tmp_path / "a", label="z", **optical())
    second = make(tmp_path / "b", label="z", **optical())
    for file in first.path.iterdir():
        assert file.read_bytes() == (second.path / file.name).read_bytes()
    stamp = (first.path / "arrays.h5").stat().st_mtime_ns
    make(tmp_path / "a", label="z", **optical())
    assert (first.path / "arrays.h5").stat().st_mtime_ns == stamp
    changed = optical()
    changed["arrays"]["spectrum", 1].value[70, 7] += 1
    for options in (
        changed,
        optical(provenance={"files": {"a": "b"}}),
        optical(table=catalogue().assign(u=1.0)),
        optical(columns=["g"]),
        optical(split=SplitPlan(folds=2, seed=1)),
    ):
        with pytest.raises(StoreError, match="of another state of the data"):
            make(tmp_path / "a", label="z", **options)


def test_functions_are_asked_for_the_rows_that_are_kept(tmp_path: Path) -> None:
    asked: list[int] = []

    def images(size: int) -> Callable[[NDArray[np.int64]], Samples]:
        def read(rows: NDArray[np.int64]) -> Samples:
            asked.extend(rows.tolist())
            value = np.broadcast_to(rows[:, None, None, None], (len(rows), 3, size, size)).astype(np.float32)
            return Samples(value, np.full_like(value, np.nan), np.ones(value.shape, np.float16))

        return read

    made = make(
        tmp_path / "d",
        arrays={("image", 0): images(8), ("image", 1): images(4)},
        image={"size": 8, "bands": "rgb"},
        where={"g": [None, 18.0]},
        derive=["morphology"],
        columns=["morph_*"],
    )
    kept = np.flatnonzero(catalogue()["g"] <= 18)
    assert made.array("image", 1).value[:, 2, 3, 3].tolist() == kept.tolist()
    assert set(asked) == set(kept.tolist())
    assert np.isnan(made.array("image", 0).sigma).all()
    assert len(made.meta["columns"]) > 10
    with pytest.raises(DataError, match="no images"):
        made.multi_object_check()
    with pytest.raises(UsageError, match="has 80 rows and the table 9"):
        make(tmp_path / "e", catalogue().head(9), **optical())


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_subset_of_rows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, N - 1), max_size=10))
    folder = tmp_path_factory.getbasetemp() / "any-rows"
    made = Dataset.open(folder) if folder.exists() else make(folder, **optical())
    out = made.inputs({"spectrum": 1, "table": 0}, rows, columns=["g"])
    np.testing.assert_array_equal(out["spectrum"], made.array("spectrum", 1).value[rows])
    np.testing.assert_array_equal(out["table"][:, 0], catalogue()["g"].to_numpy(np.float32)[rows])


# --------------------------------------------------------------------------------- labels of a cube's headers


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> MemoryCube:
    return MemoryCube(tmp_path_factory.mktemp("sky") / "sky.cube", 90)


def from_cube(cube: MemoryCube, path: Path, **options: Any) -> Dataset:
    return of_cube(cube, path, **{"split": SplitPlan(folds=2)} | options)  # stands in for a Cube


def test_labels_from_the_headers(cube: MemoryCube, tmp_path: Path) -> None:
    made = from_cube(cube, tmp_path / "d", label="class", inputs=["spectrum", "table"], columns=["z"])
    # The first object's pipeline warned; the second's never warns.
    assert steps(made)[:4] == [
        ("objects in the cube", 90),
        ("with spectrum", 90),
        ("class defined", 90),
        ("zwarning = 0", 89),
    ]
    assert made.label().tolist() == cube.objects["class"].tolist()[1:]
    assert made.inputs({"table": 0}, [0])["table"][0, 0] == np.float32(cube.objects["z"][1])
    assert made.zooms == {"spectrum": (0, 1, 2)}
    every = from_cube(cube, tmp_path / "e", label="class", inputs=["spectrum"], flag_zero=False)
    assert len(every) == 90
    with pytest.raises(DataError, match=r"no column 'klass'.*class"):
        from_cube(cube, tmp_path / "f", label="klass")


def test_mock_spectra_always_train(cube: MemoryCube, tmp_path: Path) -> None:
    plan = SplitPlan(column="survey", train=("mock",), rounds=3, folds=2)
    made = from_cube(cube, tmp_path / "d", label="class", inputs=["spectrum"], split=plan, flag_zero=False)
    mock = np.flatnonzero(made.table["survey"] == "mock")
    for turn in made.rounds():
        # One of them lies within 30″ of a real one, and so in no part.
        assert np.isin(mock, turn["train"]).sum() >= len(mock) - 1
        assert not np.isin(mock, np.concatenate([turn[part] for part in turn if part != "train"])).any()
    tested = np.sort(np.concatenate([turn["test"] for turn in made.rounds()]))
    assert np.array_equal(tested, np.flatnonzero(made.table["survey"] != "mock"))


@pytest.mark.parametrize("modalities", [["spectrum"], ["image", "spectrum"], ["table"]])
def test_every_spectrum_is_a_row(cube: MemoryCube, tmp_path: Path, modalities: list[str]) -> None:
    made = from_cube(
        cube,
        tmp_path / "d",
        label="class",
        inputs=modalities,
        columns=["z"],
        every_spectrum=True,
        flag_zero=False,
    )
    assert len(made) == 91
    table = made.table
    assert table["object_id"].tolist() == cube.spectra["spectrum_id"].tolist()
    assert table["object"].tolist() == cube.spectra["object_id"].tolist()
    # The last spectrum is another epoch of the first object: never in another part.
    assert table["group"].iloc[-1] == table["group"].iloc[0]
    if "spectrum" in modalities:
        expected = cube.spectrum_samples(np.arange(91), 1).value
        np.testing.assert_array_equal(made.array("spectrum", 1).value, expected)
        assert not np.array_equal(expected[0], expected[-1])
    if "image" in modalities:
        expected = cube.gather("image", 2, np.append(np.arange(90), 0)).value
        np.testing.assert_array_equal(made.array("image", 2).value, expected)


def test_labels_of_every_spectrum_are_its_own(cube: MemoryCube, tmp_path: Path) -> None:
    keys = cube.spectra[["plate", "mjd", "fiberid"]]
    labels = keys.assign(AVG=np.arange(91.0), FLAG=0).iloc[::-1]
    made = from_cube(cube, tmp_path / "d", labels=labels, inputs=["spectrum"], every_spectrum=True)
    assert made.label().tolist() == np.arange(91.0).tolist()
    assert steps(made)[1] == ("spectrum in the cube with spectrum", 91)


def test_lines_of_a_cube_are_measured_on_its_finest_zoom(cube: MemoryCube, tmp_path: Path) -> None:
    made = from_cube(
        cube, tmp_path / "d", label="class", zooms={"spectrum": [2]}, inputs=["spectrum"], derive=["ew"]
    )
    rows = np.arange(1, 90)
    flux = cube.gather("spectrum", 0, rows).value
    expected = equivalent_widths(GRID.centres(0), flux, cube.objects["z"].iloc[rows])
    np.testing.assert_array_equal(made.table[list(EW_NAMES)], expected)
