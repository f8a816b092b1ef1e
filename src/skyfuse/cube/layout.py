"""Files of a cube or dataset: contiguous HDF5 arrays mapped at their own bytes, whole or absent."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from skyfuse.checksums import named_sum, sum32
from skyfuse.disk import replaced
from skyfuse.errors import StoreError

FORMAT = 2
"""Version of the on-disk layout of a cube; readers refuse any other."""

VERSION = version("skyfuse")
"""Version of the program, which every tile's fingerprint and every store's provenance name."""

TILE_ORDER = 6
"""HEALPix order of tiles that stay within the size limit (0.92° wide)."""

COMPONENTS: dict[str, np.dtype[Any]] = {
    "value": np.dtype(np.float32),
    "sigma": np.dtype(np.float32),
    "coverage": np.dtype(np.float16),
}
"""Arrays that make one `Samples`, and how they are stored."""

# Data starts on a page of its own, so that a map of one array touches no byte of another.
_ALIGNMENT = 4096
_CHUNK = 1 << 20
# HDF5's type of a text of any length, and the extent of a single value.
_TEXT = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
_ONE = h5py.h5s.create(h5py.h5s.SCALAR)


def tile_path(root: Path, tile: str) -> Path:
    """Return the file of a tile inside a cube.

    Parameters
    ----------
    root : Path
        Folder of the cube.
    tile : str
        HEALPix order and NESTED pixel, ``"6/12345"``.

    Returns
    -------
    Path
        ``root/Norder=6/Dir=10000/Npix=12345.h5``: folders of ten thousand pixels, as HATS has them.
    """
    order, pixel = (int(part) for part in tile.split("/"))
    return root / f"Norder={order}" / f"Dir={pixel // 10000 * 10000}" / f"Npix={pixel}.h5"


class ArrayWriter:
    """Fill preallocated arrays of one HDF5 file by rows, in any order; the file appears when all is written.

    Use it as a context manager: it flushes and renames at the end of the block, and leaves nothing behind if
    the block raises. What is never written reads as zero.

    Parameters
    ----------
    path : Path
        Final place of the file.
    specs : mapping of str to (shape, dtype)
        Arrays by their path inside the file, e.g. ``"/frames/0/value"``. Groups that hold a ``value`` array
        become NeXus ``NXdata`` with ``sigma`` as its errors.
    wavelengths : mapping of str to ndarray, optional
        For a group, the vacuum wavelengths (Å) of its arrays' last axis.
    units : mapping of str to str, optional
        For a group, the unit of value and sigma.

    Attributes
    ----------
    digest : str
        Checksum of the whole file, see `skyfuse.checksums`; known after the block.
    """

    digest: str

    def __init__(
        self,
        path: Path,
        specs: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
        *,
        wavelengths: Mapping[str, NDArray[np.float64]] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self._replaced = replaced(path)
        self._partial = self._replaced.__enter__()
        self._fd = -1
        self._sum = 0
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in specs}
        self._added = dict.fromkeys(specs, 0)
        try:
            self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._places = self._create(specs, wavelengths or {}, units or {})
        except BaseException as error:
            self._close(error)
            raise

    def _create(
        self,
        specs: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
        wavelengths: Mapping[str, NDArray[np.float64]],
        units: Mapping[str, str],
    ) -> dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]:
        """Lay out the file; return offset, shape and type of each array.

        The HDF5 library crashes where the disk is full. It writes into memory, and what it wrote is copied:
        everything but the arrays.
        """
        with _memory_file() as file:
            places = _allocate(file, specs, wavelengths, units)
            fd = file.fileno()
            size = os.fstat(fd).st_size
            os.truncate(self._fd, size)
            spans = sorted((at, math.prod(shape) * dtype.itemsize) for at, shape, dtype in places.values())
            start = 0
            for begin, length in [*spans, (size, 0)]:
                if begin > start:
                    content = os.pread(fd, begin - start, start)
                    self._put(memoryview(content), start)
                    self._sum += sum32(content, start)
                start = max(start, begin + length)
        return places

    def _put(self, view: memoryview, place: int) -> None:
        while view:
            written = os.pwrite(self._fd, view, place)
            view = view[written:]
            place += written

    def _close(self, error: BaseException | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._replaced.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def write(self, name: str, index: int | tuple[int, ...], values: NDArray[Any]) -> None:
        """Write `values` into array `name`, from the first element of ``array[index]`` on.

        Parameters
        ----------
        name : str
            As in `specs`.
        index : int or tuple of int
            Leading indices of the first row.
        values : ndarray
            Converted to the array's type; must not run over its end.

        Raises
        ------
        ValueError
            If `values` would run over the array's end.
        """
        offset, shape, dtype = self._places[name]
        index = (index,) if isinstance(index, int) else index
        first = 0
        for i, size in zip(index, shape, strict=False):
            first = first * size + i
        first *= math.prod(shape[len(index) :])
        data = np.ascontiguousarray(values, dtype)
        if first < 0 or first + data.size > math.prod(shape):
            raise ValueError(f"{data.shape} at {index} runs over the end of {name} {shape}")
        if data.size == 0:
            return
        view = data.data.cast("B")
        place = offset + first * dtype.itemsize
        # Now, while the bytes are in the processor's cache.
        self._added[name] += sum32(view, place)
        self._put(view, place)
        self._written[name].append((place, place + len(view)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                total = self._sum + sum(map(self._array_sum, self._places))
                self.digest = named_sum(total, os.fstat(self._fd).st_size)
            except BaseException as late:
                self._close(late)
                raise
        self._close(error)

    def _array_sum(self, name: str) -> int:
        """Return what an array adds to the file's sum: read again where it was written over."""
        spans = np.array(sorted(self._written[name]), np.int64).reshape(-1, 2)
        if not (spans[1:, 0] < spans[:-1, 1]).any():
            return self._added[name]
        total, (begin, _), stop = 0, spans[0], int(spans[:, 1].max())
        for place in range(int(begin), stop, _CHUNK):
            total += sum32(os.pread(self._fd, min(_CHUNK, stop - place), place), place)
        return total


def _memory_file() -> BinaryIO:
    """Open a file that lies in memory; where the system has none, in its folder of temporary files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("skyfuse"), "r+b", buffering=0)  # noqa: PTH123 - a descriptor, no path
    return tempfile.TemporaryFile(buffering=0)


def create_arrays(
    path: Path,
    specs: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
    *,
    wavelengths: Mapping[str, NDArray[np.float64]] | None = None,
    units: Mapping[str, str] | None = None,
) -> ArrayWriter:
    """Preallocate contiguous, uncompressed arrays to be filled by rows; see `ArrayWriter`.

    Examples
    --------
    >>> with create_arrays(path, {"/image/0/value": ((100, 5, 64, 64), "f4")}) as arrays:  # doctest: +SKIP
    ...     arrays.write("/image/0/value", 7, image)
    """
    return ArrayWriter(path, specs, wavelengths=wavelengths, units=units)


def _allocate(
    target: BinaryIO,
    specs: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
    wavelengths: Mapping[str, NDArray[np.float64]],
    units: Mapping[str, str],
) -> dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]:
    """Create the file with its groups and attributes; return offset, shape and type of each array.

    The oldest file format and no tracked times: equal content must give equal bytes. By h5py's low-level
    calls, since a tile has hundreds of names and may have one object.
    """
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)

    def array(group: h5py.h5g.GroupID, leaf: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        kind = h5py.h5t.py_create(dtype, logical=True)
        return h5py.h5d.create(group, leaf.encode(), kind, h5py.h5s.create_simple(shape), create)

    places = {}
    with h5py.File(
        target,
        "w",
        libver="earliest",
        alignment_threshold=_ALIGNMENT,
        alignment_interval=_ALIGNMENT,
        locking=False,
    ) as file:
        root = h5py.h5g.open(file.id, b"/")
        _note(root, "NX_class", "NXroot")
        groups = {"": root}
        holders = {name.rsplit("/", 1)[0] for name in specs if name.endswith("/value")}
        for name, (shape, kind) in specs.items():
            dtype = np.dtype(kind)
            group, leaf = name.rsplit("/", 1)
            parent = _group(groups, group, holders)
            dataset = array(parent, leaf, shape, dtype)
            places[name] = (dataset.get_offset() or 0, shape, dtype)
            if leaf == "value":
                _note(parent, "signal", "value")
                axes = ["."] * len(shape)
                if group in wavelengths:
                    axes[-1] = "wavelength"
                    centres = np.ascontiguousarray(wavelengths[group], np.float64)
                    axis = array(parent, "wavelength", centres.shape, centres.dtype)
                    axis.write(h5py.h5s.ALL, h5py.h5s.ALL, centres)
                    _note(axis, "units", "Angstrom")
                _note(parent, "axes", axes)
                _note(dataset, "uncertainties", "sigma")
            if leaf == "sigma":
                # The name by which H5Web finds a signal's errors; a second link, no copy.
                parent.links.create_hard(b"value_errors", parent, b"sigma")
            if leaf in ("value", "sigma") and group in units:
                _note(dataset, "units", units[group])
    return places


def _group(groups: dict[str, h5py.h5g.GroupID], name: str, holders: Collection[str]) -> h5py.h5g.GroupID:
    """Return a group, made with those above it; each names its kind and what a viewer shows first."""
    if name not in groups:
        above, _, leaf = name.rpartition("/")
        first = not any(known.rpartition("/")[0] == above for known in groups if known)
        parent = _group(groups, above, holders)
        groups[name] = h5py.h5g.create(parent, leaf.encode())
        if first:
            _note(parent, "default", leaf)
        _note(groups[name], "NX_class", "NXdata" if name in holders else "NXsubentry" if above else "NXentry")
    return groups[name]


def _note(item: h5py.h5g.GroupID | h5py.h5d.DatasetID, name: str, text: str | Sequence[str]) -> None:
    """Give an item an attribute of text."""
    value = np.array(text, h5py.string_dtype())
    space = h5py.h5s.create_simple(value.shape) if value.ndim else _ONE
    h5py.h5a.create(item, name.encode(), _TEXT, space).write(value)


def map_array(path: Path, name: str) -> NDArray[Any]:
    """Map one array of an HDF5 file at its own bytes, read-only.

    Parameters
    ----------
    path : Path
        File written through `create_arrays`.
    name : str
        Path of the array inside the file, e.g. ``"/frames/0/value"``.

    Returns
    -------
    numpy.memmap
        Of the array's shape and type. An array without elements comes as an ordinary empty one.

    Raises
    ------
    StoreError
        If the file is missing or damaged, or holds no such contiguous array.
    """
    return _map(path, name, _stamp(path))


def list_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a file by name.

    Raises
    ------
    StoreError
        If the file is missing or damaged.
    """
    return {name: shape for name, (_, shape, _) in _directory(path, _stamp(path)).items()}


def has_array(path: Path, name: str) -> bool:
    """Tell whether a file holds an array.

    Raises
    ------
    StoreError
        If the file is missing or damaged.
    """
    return name in _directory(path, _stamp(path))


def prefetch(array: NDArray[Any], rows: NDArray[np.integer[Any]]) -> None:
    """Tell the system that these rows of a mapped array are read next.

    A cold batch pays one page fault for every 4 KB otherwise. Does nothing where the platform has no
    ``posix_fadvise`` or where `array` is not mapped.

    Parameters
    ----------
    array : numpy.memmap
        From `map_array`, not a slice of it.
    rows : ndarray of int
        Rows along the first axis, in any order.
    """
    if not isinstance(array, np.memmap) or not hasattr(os, "posix_fadvise") or len(rows) == 0:
        return
    wanted = np.unique(np.asarray(rows, np.int64))
    breaks = np.flatnonzero(np.diff(wanted) > 1)
    first = wanted[np.r_[0, breaks + 1]]
    count = wanted[np.r_[breaks, len(wanted) - 1]] - first + 1
    size = array.strides[0]
    fd = os.open(str(array.filename), os.O_RDONLY)
    try:
        for start, rows_on in zip((first * size).tolist(), (count * size).tolist(), strict=True):
            os.posix_fadvise(fd, int(array.offset) + start, rows_on, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced, so that no map outlives the file it was made for."""
    try:
        status = path.stat()
    except OSError as error:
        raise StoreError(
            f"cannot be opened ({error.strerror})", remedy="build it again", path=path
        ) from error
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1024)
def _directory(
    path: Path, stamp: tuple[int, int, int]
) -> dict[str, tuple[int | None, tuple[int, ...], np.dtype[Any]]]:
    """Read where each array of a file lies: offset, shape, type."""
    found: dict[str, tuple[int | None, tuple[int, ...], np.dtype[Any]]] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found["/" + name] = (item.id.get_offset(), item.shape, item.dtype)

    try:
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(note)
    # Damage makes the library raise whatever its parser stumbles over.
    except Exception as error:
        raise StoreError(f"is not a whole HDF5 file ({error})", remedy="build it again", path=path) from error
    return found


@lru_cache(maxsize=4096)
def _map(path: Path, name: str, stamp: tuple[int, int, int]) -> NDArray[Any]:
    directory = _directory(path, stamp)
    if name not in directory:
        raise StoreError(f"holds no array {name}", remedy="build it again", path=path)
    offset, shape, dtype = directory[name]
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    if dtype.hasobject or offset is None or offset + math.prod(shape) * dtype.itemsize > stamp[2]:
        raise StoreError(
            f"array {name} is not contiguous or runs over the file's end", remedy="build it again", path=path
        )
    return np.memmap(path, dtype, "r", offset, shape)
