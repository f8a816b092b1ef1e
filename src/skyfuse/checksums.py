"""Checksums of a store's files: written with it, verified when it is opened, and what `skyfuse check` reads.

Every cube, dataset, study, cell and model keeps ``checksums.json``: the digest of each of its files by
relative path, and the SHA-256 of that list. A digest is ``sha256:…``, or ``sum32:…`` for files of arrays,
which are too large to hash: the sum over the file's little-endian 32-bit words w_i (zeros pad the last) of
(2i + 1) · w_i, modulo 2⁶⁴, the last of them the file's size. A product fits into 64 bits, so that no change
of one word, no two bits, and no two words that change places leave the sum of a file below 8 GiB as it was;
and the sum does not depend on the order in which the words were written. Earlier stores have ``sum64:…``, the
same of 64-bit words, which is still read: there the highest bits of any two words cancel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.disk import dumps, json_sha256, read_json, replaced, write_json
from skyfuse.errors import StoreError

NAME = "checksums.json"

_CHUNK = 1 << 20
_BLOCK = 256
_MASK = (1 << 64) - 1
_AGAIN = "make it again with the command that wrote it"


def _sum(words: NDArray[np.uint64], first: int) -> np.uint64:
    total = np.uint64(0)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    start = 0
    # Within a block the factors are small: two products of 32 bits take half the time of one of 64.
    while start < len(words):
        lower, upper, rising = np.uint64(0), np.uint64(0), np.uint64(0)
        block = words[start : start + _BLOCK]
        for j in range(len(block)):
            low, high = block[j] & mask, block[j] >> half
            lower += low
            upper += high
            rising += low * np.uint64(np.uint32(j)) + high * np.uint64(np.uint32(j))
        factor = np.uint64(4 * (first + start) + 1)
        total += lower * factor + upper * (factor + np.uint64(2)) + np.uint64(4) * rising
        start += _BLOCK
    return total


_compiled: Any = njit(cache=True, nogil=True)(_sum)


def sum32(content: bytes | memoryview, offset: int = 0) -> int:
    """Return what bytes that lie at an offset of a file add to its sum.

    Parameters
    ----------
    content : bytes-like
    offset : int
        Of the first byte.
    """
    return int(_compiled(_words(content, offset), offset // 8))


def _sum64(content: memoryview, offset: int) -> int:
    words = _words(content, offset)
    return int((words * (2 * np.arange(len(words), dtype=np.uint64) + (offset // 8 * 2 + 1))).sum())


def _words(content: bytes | memoryview, offset: int) -> NDArray[np.uint64]:
    """Return the 64-bit words of a file in which some bytes lie, zeros where its others do."""
    size, before = len(content), offset % 8
    if not before and size % 8 == 0:
        return np.frombuffer(content, np.uint64)
    padded = np.zeros(-(-(before + size) // 8) * 8, np.uint8)
    padded[before : before + size] = np.frombuffer(content, np.uint8)
    return padded.view(np.uint64)


def named_sum(total: int, size: int, bits: int = 32) -> str:
    """Return the sum of a file's words of 32 or 64 bits as a digest is written, its size as a last word."""
    total += (2 * -(-size // (bits // 8)) + 1) * size
    return f"sum{bits}:{total & _MASK:016x}"


def named_sha256(content: bytes) -> str:
    """Return the digest of a whole file's content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest(path: Path, kind: str = "sha256", size: int | None = None) -> str:
    """Return the digest of a file.

    Parameters
    ----------
    path : Path
    kind : "sha256", "sum32" or "sum64"
    size : int, optional
        Read so many bytes alone, the first ones.
    """
    total, sha = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer, done = bytearray(_CHUNK), 0
        while size is None or done < size:
            count = file.readinto(memoryview(buffer)[: None if size is None else size - done])
            if not count:
                break
            piece = memoryview(buffer)[:count]
            if kind == "sha256":
                sha.update(piece)
            else:
                total += (_sum64 if kind == "sum64" else sum32)(piece, done)
            done += count
    if kind != "sha256":
        return named_sum(total, done, 64 if kind == "sum64" else 32)
    return f"sha256:{sha.hexdigest()}"


def write_checksums(folder: Path, files: Mapping[str, str]) -> None:
    """Write the list of a store's files and their digests.

    Parameters
    ----------
    folder : Path
    files : mapping of str to str
        Digest by relative path. ``sha256:…@N`` speaks for the first N bytes of a file that grows.
    """
    content = {"files": dict(files), "sha256": _own(files)}
    write_json(folder / NAME, content)


def seal(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the checksums of a folder's files, but of hidden ones; of a store within it that of its list.

    Parameters
    ----------
    folder : Path
    known : mapping of str to str, optional
        Digests that need not be read again.
    """
    known = known or {}
    write_checksums(
        folder, {name: known.get(name) or digest(folder / name) for name in _own_files(folder, folder)}
    )


def _own_files(folder: Path, root: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == NAME:
            continue
        if path.is_dir():
            if (path / NAME).is_file():
                yield (path / NAME).relative_to(root).as_posix()
            else:
                yield from _own_files(path, root)
        else:
            yield path.relative_to(root).as_posix()


def _own(files: Mapping[str, str]) -> str:
    return hashlib.sha256(dumps(dict(files)).encode()).hexdigest()


def read_checksums(folder: Path) -> dict[str, str] | None:
    """Return the digests of a store's files by relative path; None where it keeps none.

    Raises
    ------
    StoreError
        If the list itself is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_json(path)
    files = content.get("files")
    sound = (
        isinstance(files, dict)
        and all(isinstance(value, str) for value in files.values())
        and content.get("sha256") == _own(files)
        # White space too: a list that is whole is just what would be written again.
        and path.read_bytes() == dumps(content).encode()
    )
    if not sound or not isinstance(files, dict):
        raise StoreError("is damaged: it differs from its own checksum", remedy=_AGAIN, path=path)
    return files


def verified(folder: Path, name: str, files: Mapping[str, str] | None) -> bytes:
    """Read a file of a store and compare it with its digest, where there is one.

    Parameters
    ----------
    folder : Path
    name : str
        Relative path.
    files : mapping of str to str or None
        From `read_checksums`.

    Raises
    ------
    StoreError
        If the file cannot be read, or is not as it was written.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", remedy=_AGAIN, path=path) from error
    if files is not None and name not in files:
        raise StoreError(f"is not in the list of {NAME}", remedy=_AGAIN, path=path)
    if files is not None and named_sha256(content) not in files[name].split():
        raise StoreError("is damaged: it differs from its checksum", remedy=_AGAIN, path=path)
    return content


def replace_covered(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a store; wherever this stops, its checksum is right.

    Parameters
    ----------
    folder : Path
        A store that keeps checksums, or one that does not yet.
    name : str
        Relative path.
    content : bytes
    """
    try:
        files = read_checksums(folder)
    except StoreError:
        # A damaged list must not keep the file from being written; `check` names the list.
        files = None
    new = named_sha256(content)
    if files is not None:
        # Until the file is replaced, the old digest holds as well as the new one.
        write_checksums(folder, files | {name: " ".join(dict.fromkeys((*files.get(name, "").split(), new)))})
    with replaced(folder / name) as partial:
        partial.write_bytes(content)
    if files is not None:
        write_checksums(folder, files | {name: new})


def damaged(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Compare the files of a store, and of the stores within it, with their checksums.

    Parameters
    ----------
    folder : Path
    names : iterable of str, optional
        Only these files.

    Returns
    -------
    list of str
        A line for each file that is missing or not as it was written.
    """
    try:
        files = read_checksums(folder) or {}
    except StoreError as error:
        return [str(error)]
    problems: list[str] = []
    for name in sorted(files if names is None else files.keys() & set(names)):
        faults = [*_faults(folder / name, files[name])]
        if not faults and name.endswith(f"/{NAME}"):
            faults = damaged((folder / name).parent)
        problems += faults
    return problems


def _faults(path: Path, value: str) -> Iterator[str]:
    try:
        for one in value.split():
            kind, _, rest = one.partition(":")
            expected, _, size = rest.partition("@")
            found = digest(path, kind, int(size) if size else None)
            if found == f"{kind}:{expected}":
                return
    except FileNotFoundError:
        yield f"{path}: is missing; {_AGAIN}"
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror}); get the disk checked"
    else:
        yield f"{path}: is damaged: it differs from its checksum; {_AGAIN}"


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON content with a checksum of its own, which `read_stamped` verifies."""
    return dict(content) | {"checksum": json_sha256(content)}


def verified_stamp(content: Any) -> dict[str, Any]:
    """Return the content that `stamped` was given.

    Raises
    ------
    ValueError
        If it is not as it was.
    """
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError("it carries no checksum")
    plain = {key: value for key, value in content.items() if key != "checksum"}
    if json_sha256(plain) != content["checksum"]:
        raise ValueError("it differs from its own checksum")
    return plain


def read_stamped(path: Path) -> dict[str, Any]:
    """Read a JSON file that was written with `stamped` content.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    try:
        return verified_stamp(read_json(path))
    except ValueError as error:
        raise StoreError(f"is damaged: {error}", remedy=_AGAIN, path=path) from error
