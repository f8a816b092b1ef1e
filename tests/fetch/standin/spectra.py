"""Spectra by the thousand: one real-looking file, with each one's own identity and numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from skyfuse.fetch.ledger import Wanted
from tests.fetch.standin.server import Reply, Request

PATH = "spectra/spec-{:04d}-{:05d}-{:04d}.fits"
_NAME = re.compile(r".*/spec-(\d+)-(\d+)-(\d+)\.fits")
_CARD = 80


def template(pixels: int = 200) -> bytes:
    """Return a lite spectrum as SDSS lays it out: primary header, COADD, SPECOBJ, SPZLINE."""
    primary = fits.PrimaryHDU()
    for key in ("PLATEID", "MJD", "FIBERID"):
        primary.header[key] = 0
    row = np.zeros(pixels, [("flux", "f4"), ("loglam", "f4"), ("ivar", "f4"), ("and_mask", "i4")])
    row["loglam"], row["ivar"] = 3.58 + 1e-4 * np.arange(pixels), 1
    verdict = np.array([("GALAXY", 0.1, 0)], [("CLASS", "S6"), ("Z", "f4"), ("ZWARNING", "i4")])
    lines = np.zeros(1, [("own", "u1", (64,))])
    tables = [fits.BinTableHDU(row), fits.BinTableHDU(verdict), fits.BinTableHDU(lines)]
    file = io.BytesIO()
    fits.HDUList([primary, *tables]).writeto(file)
    return file.getvalue()


def spectrum(model: bytes, plate: int, mjd: int, fiber: int) -> bytes:
    """Return the file of one object: the model with its identity and numbers of its own in its last block."""
    content = bytearray(model)
    for key, value in {"PLATEID": plate, "MJD": mjd, "FIBERID": fiber}.items():
        at = content.index(f"{key:<8}=".encode())
        content[at : at + _CARD] = f"{key:<8}= {value:>20}".ljust(_CARD).encode()
    content[-2880 : -2880 + 64] = np.random.default_rng((plate, mjd, fiber)).bytes(64)
    return bytes(content)


def identity(number: int) -> tuple[int, int, int]:
    """Return plate, MJD and fibre of the object of a number: 640 fibres a plate."""
    return 266 + number // 640, 51630 + number // 640, number % 640 + 1


def wanted(base: str, numbers: range) -> Iterator[Wanted]:
    """Yield what a plan would ask for."""
    for number in numbers:
        path = PATH.format(*identity(number))
        expect = dict(zip(("PLATEID", "MJD", "FIBERID"), identity(number), strict=True))
        yield Wanted(path, f"{base}/{path}", "spectrum", expect=expect)


def true(file: Path, model: bytes) -> bool:
    """Tell whether a file holds what its name says, byte for byte; a part file is named after its file."""
    found = _NAME.search(f"/{file.name.removeprefix('.')}")
    return found is not None and file.read_bytes() == spectrum(model, *map(int, found.groups()))


def handler(model: bytes) -> Callable[[Request], Reply | None]:
    """Return a handler that serves the spectrum of any identity, in whatever folder it is looked for."""

    def serve(request: Request) -> Reply | None:
        found = _NAME.fullmatch(request.path)
        return Reply(spectrum(model, *map(int, found.groups()))) if found else None

    return serve
