"""Files: contiguous arrays mapped at their own bytes; whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from skyfuse.cube.layout import create_arrays, list_arrays, map_array, prefetch, tile_path
from skyfuse.errors import StoreError


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with create_arrays(path, {name: (array.shape, array.dtype) for name, array in arrays.items()}) as writer:
        for name, array in arrays.items():
            writer.write(name, (), array)


def test_tile_path_groups_ten_thousand_pixels_a_folder() -> None:
    assert tile_path(Path("a.cube"), "6/12345") == Path("a.cube/Norder=6/Dir=10000/Npix=12345.h5")
    assert tile_path(Path("a.cube"), "11/9999") == Path("a.cube/Norder=11/Dir=0/Npix=9999.h5")


@settings(max_examples=25, deadline=None)
@given(
    array=st.sampled_from([np.float32, np.float16, np.float64, np.int64]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    )
)
def test_any_array_comes_back_bit_by_bit_through_map_and_h5py(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.h5"
    write_arrays(path, {"/image/0/value": array, "/image/0/other": array[..., :1]})
    mapped = map_array(path, "/image/0/value")
    assert mapped.dtype == array.dtype
    assert mapped.shape == array.shape
    assert mapped.tobytes() == array.tobytes()
    with h5py.File(path) as file:
        assert file["image/0/value"][()].tobytes() == array.tobytes()
        assert file["image/0/value"].chunks is None


def test_rows_are_written_anywhere_and_read_from_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.h5"
    with create_arrays(path, {"/g/value": ((4, 2, 3), "f4"), "/g/coverage": ((4, 2, 3), "f2")}) as writer:
        writer.write("/g/value", 3, np.full((2, 3), 3.0))
        writer.write("/g/value", (1, 1), np.array([7.0, 8.0, 9.0]))
        writer.write("/g/coverage", 0, np.ones((2, 2, 3)))
        assert not path.exists()
    expected = np.zeros((4, 2, 3), np.float32)
    expected[3] = 3.0
    expected[1, 1] = [7.0, 8.0, 9.0]
    np.testing.assert_array_equal(map_array(path, "/g/value"), expected)
    assert map_array(path, "/g/coverage").sum() == 12
    with pytest.raises(ValueError, match="read-only"):
        map_array(path, "/g/value")[0] = 1.0


def test_writing_over_the_end_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="runs over the end"),
        create_arrays(tmp_path / "a.h5", {"/g/value": ((2, 3), "f4")}) as writer,
    ):
        writer.write("/g/value", 1, np.zeros((2, 3)))
    assert list(tmp_path.iterdir()) == []


def test_nexus_attributes_lead_a_viewer_to_the_plot(tmp_path: Path) -> None:
    path = tmp_path / "n.h5"
    shape = (2, 5)
    with create_arrays(
        path,
        {f"/spectra/sdss/0/{name}": (shape, "f4") for name in ("value", "sigma", "coverage")},
        wavelengths={"/spectra/sdss/0": np.linspace(4000.0, 4400.0, 5)},
        units={"/spectra/sdss/0": "Jy"},
    ):
        pass
    with h5py.File(path) as file:
        group = file
        while "default" in group.attrs:
            group = group[group.attrs["default"]]
        assert group.name == "/spectra/sdss/0"
        assert file.attrs["NX_class"] == "NXroot"
        assert file["spectra"].attrs["NX_class"] == "NXentry"
        assert group.attrs["NX_class"] == "NXdata"
        assert list(group.attrs["axes"]) == [".", "wavelength"]
        assert group[group.attrs["signal"]].attrs["units"] == "Jy"
        assert group["value_errors"] == group["sigma"]
        assert group["wavelength"][-1] == 4400.0


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    array = np.arange(6000, dtype=np.float32).reshape(2, 3000)
    for name in ("a.h5", "b.h5"):
        write_arrays(tmp_path / name, {"/x/value": array, "/x/sigma": array + 1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_map_never_outlives_the_file_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_arrays(path, {"/x/value": np.zeros(4, np.float32)})
    old = map_array(path, "/x/value")
    write_arrays(path, {"/x/value": np.ones(5, np.float32)})
    np.testing.assert_array_equal(map_array(path, "/x/value"), np.ones(5))
    np.testing.assert_array_equal(old, np.zeros(4))


def test_list_arrays_names_shapes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", {"/x/value": np.zeros((2, 3)), "/y": np.zeros(1)})
    assert list_arrays(tmp_path / "a.h5") == {"/x/value": (2, 3), "/y": (1,)}


@pytest.mark.parametrize("rows", [[], [0], [5, 3, 4, 4, 19]])
def test_prefetch_changes_nothing(tmp_path: Path, rows: list[int]) -> None:
    array = np.random.default_rng(0).random((20, 700))
    write_arrays(tmp_path / "a.h5", {"/x/value": array})
    mapped = map_array(tmp_path / "a.h5", "/x/value")
    prefetch(mapped, np.array(rows, np.int64))
    np.testing.assert_array_equal(mapped[rows], array[rows])


def test_prefetch_merges_adjacent_rows_into_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrays(tmp_path / "a.h5", {"/x/value": np.zeros((20, 10), np.float32)})
    mapped = map_array(tmp_path / "a.h5", "/x/value")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("os.posix_fadvise", lambda fd, start, size, advice: asked.append((start, size)))
    prefetch(mapped, np.array([7, 2, 3, 3, 4]))
    assert isinstance(mapped, np.memmap)
    assert asked == [(mapped.offset + 80, 120), (mapped.offset + 280, 40)]


def test_faults_name_file_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.h5: cannot be opened .*; build it again"):
        map_array(tmp_path / "none.h5", "/x")
    (tmp_path / "bad.h5").write_bytes(b"no HDF5 at all" * 100)
    with pytest.raises(StoreError, match=r"bad\.h5: is not a whole HDF5 file"):
        map_array(tmp_path / "bad.h5", "/x")
    write_arrays(tmp_path / "a.h5", {"/x": np.zeros(3)})
    with pytest.raises(StoreError, match="holds no array /y"):
        map_array(tmp_path / "a.h5", "/y")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(100), chunks=(10,))
    with pytest.raises(StoreError, match="not contiguous"):
        map_array(tmp_path / "c.h5", "/x")
