"""Damage small valid inputs of every kind, read them, and count what goes wrong.

Each mutant is one input with a few changes: of its bytes (flips, lost, doubled or swapped blocks, a cut end),
or of its structure (a header card, a cell, a JSON value, an entry of a text), drawn from a seed of its own.
It is right to refuse it by one line that names the file, or to give the values of the undamaged input.
Values that differ need a reason: an independent reader of the damaged file must find the same, or another
valid file; of a store of our own, ``skyfuse check`` must name the file, whatever was read. All else is a
fault: another exception, a death of the process, more than `SECONDS` or `BYTES`, a value that is wrong in
silence.

What no reader can tell, since the format has no checksum, passes with the values that are there: other
digits or letters of a cell of text, other bits of a number in FITS, NumPy or VOTable files, in a pixel or in
JPEG's coded data (Pillow decodes what libjpeg makes of it); the loss of a FITS card that may be missing, or
of its comment; words that stand for missing values; rows that are whole but gone, doubled or exchanged; texts
in an SQLite ledger; numbers of a model whose forger puts the hashes right; rows after the end of the memory
of a cube's scan, which builds that were stopped leave there.

Example: python benchmarks/fuzz.py --mutants 2000 --kinds recipe model-lightgbm
Replay one mutant, with its traceback: python benchmarks/fuzz.py --replay recipe 17
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import gzip
import hashlib
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SECONDS = 5.0
"""Seconds of one mutant at most: of the processor, since others may use the machine."""
BYTES = 2**30
"""Memory that one mutant may take."""
PATIENCE = 60.0
"""Seconds without a word from a process after which it hangs, whatever the machine is busy with."""

Values = Any
"""What a reader gives: arrays, tables, numbers, texts, in dicts and lists."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes
    ----------
    make : callable
        Writes a valid input into an empty folder, and returns its path: a file, or a folder of a store.
    read : callable
        Reads it with Skyfuse and returns its values.
    change : tuple of callable
        Changes of its structure: take the bytes of one file and a source of chance, return other bytes.
    reason : callable
        Takes the paths of the damaged and the whole input and the values read; returns why they may differ.
    files : str
        Pattern of the files that are damaged, where the input is a folder.
    settle : callable
        Makes a store forget that it was damaged, as a forger would, e.g. puts hashes right.
    store : bool
        Whether ``skyfuse check`` must name each damaged file; then values that differ have their reason.
    share : float
        Mutants for each one of another kind; fewer where one takes long.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Values]
    reason: Callable[[Path, Path, Values], str | None]
    change: tuple[Callable[[bytes, random.Random], bytes], ...] = ()
    files: str = "**/*"
    settle: Callable[[Path], None] | None = None
    store: bool = False
    share: float = 1.0


# ------------------------------------------------------------------------------------------------- changes


def flip(content: bytes, chance: random.Random) -> bytes:
    """Flip one to eight bits."""
    out = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def overwrite(content: bytes, chance: random.Random) -> bytes:
    """Set a stretch to zeros, ones, blanks or noise."""
    start, length = chance.randrange(len(content)), chance.choice([1, 2, 8, 80, 512, 2880])
    filling = chance.choice([b"\0" * length, b"\xff" * length, b" " * length, chance.randbytes(length)])
    return content[:start] + filling[: len(content) - start] + content[start + length :]


def blocks(content: bytes, chance: random.Random) -> bytes:
    """Drop, double, swap or insert a block."""
    size = chance.choice([1, 16, 80, 512, 2880])
    count = max(len(content) // size, 1)
    one, other = sorted(chance.randrange(count) * size for _ in range(2))
    block, rest = content[one : one + size], content[one + size :]
    action = chance.randrange(4)
    if action == 0:
        return content[:one] + rest
    if action == 1:
        return content[:one] + block + block + rest
    if action == 2:
        return content[:one] + chance.randbytes(size) + content[one:]
    return (
        content[:one]
        + content[other : other + size]
        + content[one + size : other]
        + block
        + content[other + size :]
    )


def cut(content: bytes, chance: random.Random) -> bytes:
    """Cut the end off, or add to it."""
    if chance.random() < 0.3:
        return content + chance.choice([b"\0", b"\n", b"x", b"\0" * 2880, content])
    return content[: chance.randrange(len(content))]


BYTEWISE = (flip, overwrite, blocks, cut)

_NUMBERS = "0 -1 1 2 255 -32768 2147483648 9223372036854775807 18446744073709551616 1e308 1e400 -1e30 1e-320"
_WORDS = "nan inf -inf null true -- 'x' é \u2028"
EXTREMES = (*_NUMBERS.split(" "), *_WORDS.split(" "), "9" * 40, "", " ")
"""What a number or a word is replaced by."""


def digits(content: bytes, chance: random.Random) -> bytes:
    """Set a digit of a text to another one: all lengths stay right."""
    found = list(re.finditer(rb"[0-9]", content))
    if not found:
        return content
    place = chance.choice(found).start()
    return content[:place] + chance.choice(b"0123456789").to_bytes(1, "big") + content[place + 1 :]


def words(content: bytes, chance: random.Random) -> bytes:
    """Set a number or a word of a text to an extreme one, or exchange two."""
    found = list(re.finditer(rb"[A-Za-z0-9_.+-]+", content))
    if not found:
        return content
    one, other = chance.choice(found), chance.choice(found)
    new = chance.choice([chance.choice(EXTREMES).encode(), other.group()])
    return content[: one.start()] + new + content[one.end() :]


def lines(content: bytes, chance: random.Random) -> bytes:
    """Drop, double, exchange or indent a line, or end one in an unusual way."""
    found = content.split(b"\n")
    one, other = chance.randrange(len(found)), chance.randrange(len(found))
    action = chance.randrange(6)
    if action == 0:
        del found[one]
    elif action == 1:
        found.insert(other, found[one])
    elif action == 2:
        found[one], found[other] = found[other], found[one]
    elif action == 3:
        found[one] = chance.choice([b" ", b"\t", b"  ", b"- "]) + found[one]
    elif action == 4:
        found[one] += chance.choice([b"\x0c", b"\r", b"\x0b", b"\xe2\x80\xa8", b"\0"]) + found[other]
    else:
        found[one] = found[one] + found[other]
    return b"\n".join(found)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a JSON tree with each of its keys."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def json_values(content: bytes, chance: random.Random) -> bytes:
    """Give a value of a JSON file another type or size, drop it, or nest it deeply."""
    tree = json.loads(content)
    found = list(places(tree))
    if not found:
        return content
    where, key = chance.choice(found)
    strange: list[Any] = [
        None,
        True,
        0,
        -1,
        10**30,
        1.5,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\0",
        [],
        {},
    ]
    strange += [[None], {"x": 1}, [[[]]], "../x", "/etc/passwd", where[key], "é" * 1000]
    action = chance.randrange(8)
    if action == 0:
        del where[key]
    elif action == 1:
        other, there = chance.choice(found)
        where[key], other[there] = other[there], where[key]
    else:
        where[key] = chance.choice(strange)
    try:
        text = json.dumps(tree)
    except ValueError:
        return content
    if action == 2:
        text = text.replace("null", "[" * 5000 + "]" * 5000, 1)
    if action == 3:
        text = text.replace("{", '{"format": 1, ', 1)
    return text.encode()


def cards(content: bytes, chance: random.Random) -> bytes:
    """Change, drop, double or exchange a card of a FITS header."""
    starts = [m.start() for m in re.finditer(rb"(?:SIMPLE  |XTENSION)=", content) if m.start() % 2880 == 0]
    if not starts:
        return content
    start = chance.choice(starts)
    end = content.find(b"END" + b" " * 77, start)
    if end < 0 or (end - start) % 80:
        return content
    one, other = (start + 80 * chance.randrange((end - start) // 80) for _ in range(2))
    card = content[one : one + 80]
    action = chance.randrange(5)
    if action == 0:
        card = b" " * 80
    elif action == 1:
        card = content[other : other + 80]
    elif action == 2:
        card = card[:10] + chance.choice(EXTREMES).encode()[:20].rjust(20) + b" " * 50
    elif action == 3:
        card = chance.randbytes(8) + card[8:]
    else:
        card = words(card, chance)[:80].ljust(80)
    return content[:one] + card + content[one + 80 :]


# --------------------------------------------------------------------------------------------------- models


def _fitted(name: str, classes: int, **params: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from skyfuse.models import MODELS, Examples

        random = np.random.default_rng(5)
        x = {"table": random.normal(size=(120, 4)).astype(np.float32)}
        x["table"][::7, 1] = np.nan
        y = np.nan_to_num(x["table"]).sum(axis=1) + random.normal(size=120)
        if classes:
            y = np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1]))
        model = MODELS[name](**params)
        names = tuple(f"c{i}" for i in range(classes))
        kind: Any = "classification" if classes else "regression"
        model.fit(Examples(x, y), Examples(x, y), seed=0, kind=kind, classes=names)
        model.calibrate(x, y, level=0.8)
        return Path(model.save(folder / "model"))

    return make


NEW = np.random.default_rng(6).normal(size=(7, 4)).astype(np.float32)
NEW[2, 1] = np.nan


def _predictions(folder: Path) -> Values:
    from skyfuse.models import load_model

    model = load_model(folder)
    found = model.predict({"table": NEW})
    return {"params": model.params, "classes": list(model.classes)} | {
        key: getattr(found, key) for key in ("value", "low", "high", "probability", "members")
        if getattr(found, key, None) is not None
    }  # fmt: skip


def _rehash(folder: Path) -> None:
    """Put right the hashes of damaged weights, where the card can be read, and sizes in half the texts."""
    text, path = folder / "model.txt", folder / "model.json"
    if text.is_file() and len(content := text.read_bytes()) % 2:
        blocks = content.partition(b"\nend of trees")[0].split(b"\nTree=")[1:]
        sizes = b" ".join(str(len(block) + 6).encode() for block in blocks)
        text.write_bytes(re.sub(rb"\ntree_sizes=[^\n]*", b"\ntree_sizes=" + sizes, content, count=1))
    try:
        card = json.loads(path.read_bytes())
        for name in card["files"]:
            card["files"][name] = hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest()
        path.write_text(json.dumps(card))
    except (ValueError, TypeError, KeyError, OSError, RecursionError, AttributeError):
        return


def _card_says(damaged: Path, whole: Path) -> bool:
    """Tell whether a card that JSON can read states something else."""
    cards = [json.loads((folder / "model.json").read_bytes()) for folder in (damaged, whole)]
    for card in cards:
        card.pop("files")
    return bool(cards[0] != cards[1])


def _other_numbers(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that the weights are other numbers, as an own reader of safetensors finds them."""
    if _card_says(damaged, whole):
        return "the card states other values"
    found = []
    for folder in (damaged, whole):
        content = next(folder.glob("*.safetensors")).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        notes = {key: (note["dtype"], note["shape"]) for key, note in header.items() if key != "__metadata__"}
        start = {key: header[key]["data_offsets"] for key in notes}
        found.append(
            (notes, {key: content[8 + length + a : 8 + length + b] for key, (a, b) in start.items()})
        )
    (notes, numbers), (first, before) = found
    return "the weights are other finite numbers" if notes == first and numbers != before else None


def _walk(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that the trees are others, as a plain walk through the text finds them."""
    if _card_says(damaged, whole):
        return "the card states other values"
    text = (damaged / "model.txt").read_text(encoding="ascii")
    sums = np.zeros((len(NEW), 3))
    for number, block in enumerate(text.partition("\nend of trees")[0].split("\nTree=")[1:]):
        entries = dict(line.split("=", 1) for line in block.split("\n") if "=" in line)
        tree = {key: entry.split() for key, entry in entries.items()}
        for i, row in enumerate(NEW):
            node = 0 if int(entries["num_leaves"]) > 1 else -1
            while node >= 0:
                x, kind = float(row[int(tree["split_feature"][node])]), int(tree["decision_type"][node])
                if (kind >> 2 == 2 and np.isnan(x)) or (kind >> 2 == 1 and (np.isnan(x) or x == 0)):
                    left = bool(kind & 2)
                else:
                    left = (0.0 if np.isnan(x) else x) <= float(tree["threshold"][node])
                node = int(tree["left_child" if left else "right_child"][node])
            sums[i, number % 3] += float(tree["leaf_value"][-1 - node])
    odds = np.exp(sums - sums.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True)
    same = np.allclose(values["probability"], expected, rtol=1e-12, atol=1e-300)
    return "a plain walk through the text gives these values" if same else None


# -------------------------------------------------------------------------------------------------- recipes


def _recipe(folder: Path) -> Path:
    source = ROOT / "src" / "skyfuse" / "recipes" / "morphology.yaml"
    return Path(shutil.copy(source, folder / "mine.yaml"))


def _read_recipe(path: Path) -> Values:
    from skyfuse.recipe import load_recipe

    recipe = load_recipe(path)
    return {"recipe": recipe.model_dump(mode="json"), "again": recipe.to_yaml()}


def _stated(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that the recipe holds all that PyYAML's own loader finds in the file."""
    import yaml

    class Text(yaml.SafeLoader):
        """Dates stay text."""

    Text.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
    stated = yaml.load(damaged.read_text(encoding="utf-8"), Loader=Text)  # noqa: S506 - a safe loader

    def held(said: Any, taken: Any) -> bool:
        if isinstance(said, dict):
            return isinstance(taken, dict) and all(
                key in taken and held(v, taken[key])
                # The word ``true`` as a name stays text.
                for key, v in (
                    (str(k).lower() if isinstance(k, bool) else str(k), v) for k, v in said.items()
                )
            )
        if isinstance(said, list):
            return isinstance(taken, list) and len(said) == len(taken) and all(map(held, said, taken))
        if isinstance(taken, bool | int | float) and not isinstance(said, type(None)):
            return float(taken) == float({"true": 1, "false": 0}.get(str(said).lower(), said))
        return bool(said == taken)

    return "the file states these values" if held(stated, values["recipe"]) else None


# ------------------------------------------------------------------------------------------------- datasets


def _dataset(folder: Path) -> Path:
    from skyfuse.dataset import Dataset, Material, Wanted
    from skyfuse.survey.records import Samples

    random = np.random.default_rng(3)
    n = 40
    table = pd.DataFrame({"object_id": [f"s{i}" for i in range(n)], "dec": 0.1 * np.arange(n)})
    table["ra"], table["z"] = random.uniform(0, 1, (2, n))
    table["u"], table["g"] = random.normal(20, 1, (2, n))
    flux = random.normal(9, 1, (n, 16)).astype(np.float32)
    samples = Samples(flux, np.abs(flux) / 9, np.ones_like(flux))
    material = Material(
        table,
        {("spectrum", 0): samples},
        {"made": "by benchmarks/fuzz.py"},
        {"spectrum": {"grid": "own", "sizes": [16]}},
        {("spectrum", 0): np.linspace(4000, 7000, 16)},
    )
    Dataset.from_arrays(material, folder / "dataset", Wanted(label="z", columns=["u", "g"]))
    return folder / "dataset"


def _read_dataset(path: Path) -> Values:
    from skyfuse.dataset import Dataset

    data = Dataset.open(path)
    inputs = data.inputs({"spectrum": 0, "table": 0}, np.arange(len(data)))
    return {"table": data.table, "inputs": dict(inputs), "split": data.split(), "meta": data.meta}


# ------------------------------------------------------------------------------------------- other stores


MADE: dict[str, Path] = {}
"""Places of files beside an input that its reader needs."""


def _cube(folder: Path) -> Path:
    from tests.cube import sky
    from tests.survey.files import write_frame

    from skyfuse.cube.build import build

    survey = folder / "survey"
    survey.mkdir()
    pixels = np.random.default_rng(7).normal(0, 0.03, (40, 50))
    write_frame(sky.frame_path(survey, 0, "r"), pixels, **sky.field_cards(0, "r"))
    sky.make_spectrum(survey, 1, *sky.on_pixel(0, 30.0, 20.0))
    # No spectrum: it stands in the ledger of what was rejected.
    (survey / "spec-0002-55000-0001.fits").write_bytes(b"SIMPLE  =                    T")
    build([survey], folder / "sky.cube", workers=1)
    MADE["survey"] = survey
    return folder / "sky.cube"


def _read_cube(path: Path) -> Values:
    from skyfuse.cube.layout import list_arrays, map_array, tile_path
    from skyfuse.cube.query import Cube

    cube = Cube.open(path)
    tables = {what: getattr(cube, what) for what in ("objects", "frames", "spectra")}
    tiles = sorted({tile for table in tables.values() for tile in table["tile"].tolist()})
    files = {tile: tile_path(path, tile) for tile in tiles}
    arrays = {
        f"{tile} {name}": np.array(map_array(file, name))
        for tile, file in files.items()
        for name in list_arrays(file)
    }
    return {"tables": tables, "arrays": arrays, "meta": cube.meta}


def _build_again(path: Path) -> Values:
    """Run the build of a cube again, on its damaged ledger."""
    from skyfuse.cube.build import build
    from skyfuse.study.check import check

    report = build([MADE["survey"]], path, workers=1)
    rejected = [(Path(reject.path).name, reject.reason) for reject in report.rejects]
    found = check(path).problems
    return {**_read_cube(path), "rejected": rejected, "problems": found}


def _study(folder: Path) -> Path:
    from tests.study.folders import write_folder

    from skyfuse.checksums import seal

    study: Path = write_folder(folder / "study", "classification") or folder / "study"
    for cell in (study / "cells").iterdir():
        seal(cell)
    seal(study)
    return study


def _read_study(path: Path) -> Values:
    from dataclasses import fields

    from skyfuse.study.report.folder import read_folder

    found = read_folder(path)
    return {entry.name: getattr(found, entry.name) for entry in fields(found) if entry.name != "path"}


def _downloads(folder: Path) -> Path:
    from skyfuse.fetch.ledger import Ledger, Wanted

    place = folder / "downloads"
    content = b"SIMPLE  =                    T"
    with Ledger.open(place) as ledger:
        ledger.add(
            Wanted(f"spec-{k:04d}.fits", f"https://example.org/{k}", "spectrum", 90 + k, None, {"MJD": k})
            for k in range(12)
        )
        for row in list(ledger.waiting(0.0))[:8]:
            if row.id % 2:
                (place / row.wanted.path).write_bytes(content)
                ledger.received(row.id, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
            else:
                ledger.failed(row.id, "not-found", "the server says 404", 3, None)
        ledger.note_query("STAR", "SELECT 1", rows=12, available=40, remark="asked 12, there are 40")
    return place


def _read_downloads(path: Path) -> Values:
    from skyfuse.fetch.ledger import Ledger

    with Ledger.open(path, create=False) as ledger:
        return {
            "tally": str(ledger.tally()),
            "rejected": list(ledger.rejected()),
            "waiting": list(map(str, ledger.waiting(0.0))),
            "queries": list(map(str, ledger.queries())),
        }


def _sqlite(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that a plain walk through the tables, without their indexes, finds this."""
    with contextlib.closing(sqlite3.connect(damaged / "ledger.sqlite")) as db:
        # What Skyfuse does not read, as the address of a rejected file, may be no text.
        db.text_factory = lambda content: content.decode(errors="replace")
        columns = "path, url, state, reason, remark FROM files NOT INDEXED ORDER BY rowid"
        files = db.execute(f"SELECT {columns}").fetchall()
        queries = db.execute("SELECT sql FROM queries NOT INDEXED ORDER BY rowid").fetchall()
    states = Counter(row[2] for row in files)
    numbers = {"asked": len(files), **{name: states[name] for name in ("received", "rejected", "waiting")}}
    counts = ", ".join(f"{name}={number}" for name, number in numbers.items())

    def plain(text: str) -> str:
        return re.sub(r"\W", "", text)

    rejected = [[plain(row[k]) for k in (0, 3, 4)] for row in files if row[2] == "rejected"]
    waiting = [row[1] for row in files if row[2] == "waiting"]
    alike = (
        counts in values["tally"]
        and rejected == [[*map(plain, row)] for row in values["rejected"]]
        and len(waiting) == len(values["waiting"])
        and all(repr(url) in row for url, row in zip(waiting, values["waiting"], strict=True))
        and len(queries) == len(values["queries"])
        and all(repr(sql) in row for (sql,), row in zip(queries, values["queries"], strict=True))
    )
    return "a plain walk through the tables finds these rows" if alike else None


# ----------------------------------------------------------------------------------------- files of surveys


def _frame(folder: Path) -> Path:
    from tests.survey.files import write_frame

    return write_frame(folder / "frame.fits", np.random.default_rng(1).normal(0, 0.03, (40, 50)))


def _read_frame(path: Path) -> Values:
    from tests.survey.files import read_any, recognise

    recognise(path)
    frame = read_any(path)
    return {"value": frame.value, "sigma": frame.sigma, "info": str(frame.info)}


def _spectrum(folder: Path) -> Path:
    from tests.survey.files import write_spectrum

    random = np.random.default_rng(2)
    loglam = (35835 + np.arange(300)) * 1e-4
    return write_spectrum(folder / "spec.fits", random.normal(9, 1, 300), random.uniform(1, 2, 300), loglam)


def _lamost(folder: Path) -> Path:
    from tests.survey.files import write_lamost

    random = np.random.default_rng(2)
    return write_lamost(folder / "lamost.fits", random.normal(9, 1, 300), random.uniform(1, 2, 300))


def _read_spectrum(path: Path) -> Values:
    from tests.survey.files import read_any, recognise

    recognise(path)
    spectrum = read_any(path)
    # The hash of the file's bytes differs by itself.
    return {key: getattr(spectrum, key) for key in spectrum.__slots__ if key != "sha256"}


def _astropy(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that astropy reads another valid file: as many HDUs of the same shapes, and other contents."""
    from astropy.io import fits

    def content(hdu: Any) -> bytes | None:
        try:
            return None if hdu.data is None else hdu.data.tobytes()
        except AssertionError as error:
            # Readers need the names of those columns alone that they read.
            if "Column name" not in str(error):
                raise
            return None

    found = []
    for path in (damaged, whole):
        with fits.open(
            io.BytesIO(_extended(path.read_bytes())), memmap=False, ignore_missing_end=False
        ) as hdus:
            contents = [(hdu.header.tostring(), content(hdu)) for hdu in hdus]
            found.append(([[hdu.header.get(f"NAXIS{k}") for k in (1, 2)] for hdu in hdus], contents))
    (shapes, contents), (first, before) = found
    return (
        "astropy reads other contents of the same shapes" if shapes == first and contents != before else None
    )


def _extended(content: bytes) -> bytes:
    """Return a FITS file with a sound EXTEND: of no use to a reader, and astropy cannot do without."""
    return re.sub(rb"(?s)EXTEND  =.{71}", b"EXTEND  =" + b"T".rjust(21) + b" " * 50, content, count=1)


_XP = ("bp_flux", "bp_flux_error", "rp_flux", "rp_flux_error")


def _xp(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from astropy.table import Table

        random = np.random.default_rng(8)
        columns: dict[str, Any] = {"source_id": 4_000_000_000_000_000_000 + random.integers(0, 2**60, 3)}
        columns |= {name: random.normal(10, 1, (3, 120)).round(3).astype(np.float32) for name in _XP}
        if suffix == ".fits":
            Table(columns).write(folder / "xp.fits")
        else:
            texts = {name: [str(tuple(row)) for row in columns[name].tolist()] for name in _XP}
            pd.DataFrame(columns["source_id"], columns=["source_id"]).assign(**texts).to_csv(
                folder / "xp.csv", index=False
            )
        return folder / f"xp{suffix}"

    return make


def _read_xp(path: Path) -> Values:
    from skyfuse.survey.gaia import read_xp

    found = read_xp(path)
    # What is kept, and why the others are not.
    return {"table": found.table, "rows": found.rows, **found.samples._asdict()}


def _other_vectors(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that astropy or the csv module find these numbers, and what is left out is not of use."""
    from astropy.table import Table

    from skyfuse.survey.columns import MISSING

    if damaged.suffix == ".fits":
        table = Table.read(io.BytesIO(_extended(damaged.read_bytes())), format="fits")
        names = {name.lower(): name for name in table.colnames}
        rows = [{key: table[name][k] for key, name in names.items()} for k in range(len(table))]
    else:
        # Blank lines above the header are none to Skyfuse, and to the csv module the header.
        text = _text(damaged).lstrip(" \t\n\r\v\f")
        rows = [
            {key.strip().lower(): cell for key, cell in row.items()}
            for row in csv.DictReader(io.StringIO(text, newline=None))
        ]
        # A line of nothing but blanks is none.
        rows = [row for row in rows if any((cell or "").strip() for cell in row.values())]
    if len(rows) != len(values["rows"]):
        return None
    kept = [row for row, fault in zip(rows, values["rows"]["fault"], strict=True) if not fault]

    def vector(cell: Any) -> Any:
        if not isinstance(cell, str):
            return np.ma.filled(np.ma.asarray(cell, np.float64), np.nan)
        words = cell.strip().strip("()[] ").replace(",", " ").split()
        try:
            return np.array([np.nan if word in MISSING else float(word) for word in words] or [np.nan] * 120)
        except ValueError:
            return np.full(120, np.nan)

    for k, row in enumerate(kept):
        flux, error, other, other_error = (vector(row[name]) for name in _XP)
        value = np.concatenate([flux[34:114], other[4:110]]).astype(np.float32)
        sigma = np.concatenate([error[34:114], other_error[4:110]]).astype(np.float32)
        bad = ~(np.isfinite(value) & (sigma > 0) & (sigma < np.inf))
        value[bad], sigma[bad] = np.nan, np.nan
        alike = same(value, values["value"][k]) and same(sigma, values["sigma"][k])
        if not alike or bad.all() or int(str(row["source_id"])) != values["table"]["source_id"][k]:
            return None
    return "an independent reader finds these numbers"


def _image(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from PIL import Image

        y, x = np.mgrid[:48, :56]
        bands = [255 * np.exp(-((x - 28 - k) ** 2 + (y - 24) ** 2) / (60 + 40 * k)) for k in range(3)]
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8)).save(folder / f"image{suffix}", exif=exif)
        return folder / f"image{suffix}"

    return make


def _read_image(path: Path) -> Values:
    from skyfuse.survey.colourimages import read_images

    return read_images([path], 12).load()


def _pillow(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that Pillow, bare, decodes these pixels."""
    from PIL import Image, ImageOps

    with Image.open(damaged) as image:
        turned = ImageOps.exif_transpose(image).convert("RGB")
    side = min(turned.size)
    left, top = ((length - side) // 2 for length in turned.size)
    small = turned.crop((left, top, left + side, top + side)).resize((12, 12), Image.Resampling.BOX)
    expected = np.asarray(small, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return "Pillow decodes these pixels" if np.allclose(values, expected, atol=1.5 / 255) else None


# ------------------------------------------------------------------------- files of surveys that go together


def _records(folder: Path) -> Values:
    """Read every record of the files of a folder; what is refused is its one line.

    Raises
    ------
    SkyfuseError
        The first one, where no record can be read.
    """
    from skyfuse.errors import FileError
    from skyfuse.survey.reader import Options, Partner, Refused, SurveyFile
    from skyfuse.survey.registry import reader_of

    found: dict[str, Values] = {}
    first: FileError | None = None
    for path in sorted(folder.iterdir()):
        try:
            file = SurveyFile(path)
            reader = reader_of(file)
            records = reader.records(file)
        except FileError as error:
            first, found[path.name] = first or error, _line(str(error), folder)
            continue
        for record in records:
            name = f"{path.name} {getattr(record, 'key', '')}"
            if isinstance(record, Partner):
                found[name] = f"of {Path(record.of).name}"
                continue
            if isinstance(record, Refused):
                first = first or FileError(record.message, reason=record.reason, remedy="", path=path)
                found[name] = _line(record.message, folder)
                continue
            try:
                read = reader.read(path, record.key, Options())
            except FileError as error:
                first, found[name] = first or error, _line(str(error), folder)
                continue
            slots = {key: getattr(read, key) for key in read.__slots__ if key not in ("info", "sha256")}
            slots["info"] = {key: getattr(read.info, key) for key in read.info.__slots__ if key != "partners"}
            found[name] = slots
    if first is not None and not any(isinstance(one, dict) for one in found.values()):
        raise first
    return found


@cache
def _undamaged(whole: Path) -> Values:
    return _records(whole)


def _changed(whole: Path, values: Values) -> dict[str, Values]:
    """Return the records that were read, without those that are as in the undamaged files."""
    expected = _undamaged(whole)
    return {
        name: one
        for name, one in values.items()
        if not isinstance(one, str) and not same(one, expected.get(name))
    }


def _line(text: str, folder: Path) -> str:
    """Return what was said of a record without its folder, if it is one line that names a file."""
    if len(text.splitlines()) != 1 or not any(path.name in text for path in folder.iterdir()):
        raise ValueError(f"no line that names a file: {text!r}")
    return text.replace(str(folder), "")


def _coadds(folder: Path) -> Path:
    from tests.cube.sky import make_unwise

    make_unwise(folder / "survey", 150.0, 2.0)
    return folder / "survey"


def _ccds(folder: Path) -> Path:
    """Write an exposure of two CCDs: image packed, weight plain, mask in gzip."""
    from astropy.io import fits

    random = np.random.default_rng(9)
    (folder / "survey").mkdir()
    cards = {"INSTRUME": "DECam", "PROCTYPE": "InstCal", "FILTER": "g DECam SDSS c0001", "EXPNUM": 7}
    cards |= {"MJD-OBS": 57000.5, "EXPTIME": 90.0, "MAGZERO": 25.0}
    files = {kind: fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards))]) for kind in "iwd"}
    for number in (1, 2):
        wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 15.5, "CRPIX2": 12.5}
        wcs |= {"CRVAL1": 150 + 0.01 * number, "CRVAL2": 2.0, "CDELT1": -7.3e-5, "CDELT2": 7.3e-5}
        image = random.normal(100, 5, (24, 30)).astype(np.float32)
        packed = {"compression_type": "GZIP_1", "quantize_level": 0}
        header, name = fits.Header(wcs), f"S{number}"
        files["i"].append(fits.CompImageHDU(image, header, name=name, **packed))
        weight = random.uniform(0.02, 0.06, (24, 30)).astype(np.float32)
        files["w"].append(fits.ImageHDU(weight, header, name=name))
        files["d"].append(fits.ImageHDU((image > 110).astype(np.int16), header, name=name))
    for kind, ending in (("i", ".fz"), ("w", ""), ("d", ".gz")):
        files[kind].writeto(folder / "survey" / f"c4d_000007_oo{kind}_g_v1.fits{ending}")
    return folder / "survey"


_UNWISE_BITS = {
    "1": (0, 1, 4, 13, 14, 17, 18, 23, 25, 26, 27, 29),
    "2": (2, 3, 5, 11, 12, 15, 16, 19, 20, 24, 28, 30),
}
"""Of the mask, by number of the band (Meisner et al. 2019)."""
_VEGA = {"1": 2.699, "2": 3.339}
_ASKED = ("MAGZP", "MAGZERO", "FILTER", "MJD-OBS", "EXPTIME")


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a file; one that is compressed is so by its bytes, not by its name."""
    content = path.read_bytes()
    return _extended(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)


def _plane(path: Path, key: str) -> tuple[Any, Any, Any]:
    """Return the pixels of an image, its header, and that of the primary HDU, as astropy has them."""
    from astropy.io import fits

    content = _unpacked(path)
    options = {"memmap": False, "ignore_missing_end": False}
    with fits.open(io.BytesIO(content), disable_image_compression=True, **options) as hdus:
        primary = hdus[0].header
        name, _, version = key.partition(",")
        asked: Any = int(key or 0) if key.isdigit() or not key else (name, int(version)) if version else name
        place = hdus[asked].fileinfo()
    # Alone, since astropy ends with the first HDU that does not unpack.
    alone = bytes(fits.PrimaryHDU().header.tostring(), "ascii") if key else b""
    alone += content[place["hdrLoc"] : place["datLoc"] + place["datSpan"]]
    with fits.open(io.BytesIO(alone), **options) as hdus:
        header = hdus[-1].header
        # What has no value, or none that can be read, is not given.
        for name in list(header):
            try:
                given = header[name] is not None
            except fits.VerifyError:
                given = False
            if not given:
                header.remove(name)
        return np.array(hdus[-1].data), header, primary


def _planes(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that image, weight and mask, as astropy reads them, make these values."""
    from astropy.time import Time
    from astropy.wcs import WCS

    for name, got in _changed(whole, values).items():
        file, key = name.split(" ")
        image, own, primary = _plane(damaged / file, key)
        header = {key: own.get(key, primary.get(key)) for key in _ASKED if key in own or key in primary}
        if file.startswith("unwise"):
            number = file.split("-w")[1][0]
            weight = _plane(damaged / file.replace("img-m", "invvar-m"), key)[0]
            mask = _plane(damaged / f"{file.split('-w')[0]}-msk.fits", key)[0]
            masked = mask & sum(2**bit for bit in _UNWISE_BITS[number]) != 0
            band, middle = f"W{number}", None
            zero = header["MAGZP"] + _VEGA[number] if "MAGZP" in header else 22.5
        else:
            weight = _plane(damaged / file.replace("ooi", "oow").removesuffix(".fz"), key)[0]
            mask = _plane(damaged / file.replace("ooi", "ood").replace(".fz", ".gz"), key)[0]
            masked, band = mask != 0, header["FILTER"].strip()[0]
            zero, middle = header.get("MAGZERO", 22.5), None
            if {"MJD-OBS", "EXPTIME"} <= set(header):
                start = Time(header["MJD-OBS"], format="mjd", scale="utc").tai.mjd
                middle = start + header["EXPTIME"] / 2 / 86400
        scale = 10 ** (0.4 * (22.5 - zero))
        with np.errstate(all="ignore"):
            value = (scale * image.astype(np.float64)).astype(np.float32)
            sigma = (scale / np.sqrt(weight.astype(np.float64))).astype(np.float32)
            good = np.isfinite(value) & (weight > 0) & (weight < np.inf) & ~masked
            good &= (sigma > 0) & np.isfinite(sigma)
        value[~good] = sigma[~good] = np.nan
        info = got["info"]
        told = (info["band"], info["shape"])
        same_time = info["mjd"] == middle or abs(info["mjd"] - middle) < 1e-6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mine, theirs = WCS(info["wcs"]), WCS(own)
        corners = np.array([[0, 0], [image.shape[1] - 1, 0], [0, image.shape[0] - 1]])
        lost = theirs.wcs_world2pix(mine.wcs_pix2world(corners, 0), 0) - corners
        if not (
            told == (band, image.shape)
            and same_time
            and math.isclose(info["scale"], scale, rel_tol=1e-9)
            and np.allclose(got["value"], value, rtol=1e-5, atol=0, equal_nan=True)
            and np.allclose(got["sigma"], sigma, rtol=1e-5, atol=0, equal_nan=True)
            and np.abs(lost).max() < 1e-3
        ):
            return None
    return "astropy's image, weight and mask make these values"


_TARGETS = [39633321764622337, 39633321764622338, 39633321764622340]


def _desi(folder: Path) -> Path:
    """Write a coadd of three short arms, its redshifts in another order."""
    from tests.survey.files import desi_hdus, redrock_hdus

    random = np.random.default_rng(11)
    first, bins = {"B": 4500, "R": 4700, "Z": 4900}, 250
    arms = {
        arm: (
            random.normal(1, 1, (3, bins)),
            random.uniform(0.1, 5, (3, bins)),
            random.random((3, bins)) < 0.05,
        )
        for arm in first
    }
    (folder / "survey").mkdir()
    desi_hdus(_TARGETS, arms, first=first).writeto(folder / "survey" / "coadd-main-dark-1.fits")
    redrock_hdus(_TARGETS[::-1]).writeto(folder / "survey" / "redrock-main-dark-1.fits")
    return folder / "survey"


def _arms(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that sums over the arms, and rows of the tables by TARGETID, as astropy reads them, are these."""
    from astropy.io import fits

    def opened(name: str) -> Any:
        return fits.open(io.BytesIO(_unpacked(damaged / name)), memmap=False, ignore_missing_end=False)

    with opened("coadd-main-dark-1.fits") as coadd:
        fibres = coadd["FIBERMAP"].data
        rows = {int(target): row for row, target in reversed(list(enumerate(fibres["TARGETID"])))}
        places = {
            target: (fibres["TARGET_RA"][row], fibres["TARGET_DEC"][row]) for target, row in rows.items()
        }
        arms = [
            [np.array(coadd[f"{arm}_{part}"].data) for part in ("WAVELENGTH", "FLUX", "IVAR")]
            + [np.array(coadd[f"{arm}_MASK"].data) if f"{arm}_MASK" in coadd else None]
            for arm in "BRZ"
            if f"{arm}_FLUX" in coadd
        ]
    redshifts = {}
    with contextlib.suppress(OSError, KeyError), opened("redrock-main-dark-1.fits") as redrock:
        for row in redrock["REDSHIFTS"].data:
            redshifts[int(row["TARGETID"])] = row
    start = min(wave[0] for wave, *_ in arms)
    for name, got in _changed(whole, values).items():
        target = int(name.split(" ")[1])
        ra, dec = places[target]
        total, weight = np.zeros((2, len(got["flux"])))
        for wave, flux, ivar, mask in arms:
            own = np.rint((wave - start) / 0.8).astype(int)
            if not np.allclose(got["wavelength"][own], wave, rtol=0, atol=1e-3):
                return None
            row = rows[target]
            good = np.isfinite(flux[row]) & (ivar[row] > 0) & np.isfinite(ivar[row])
            good &= True if mask is None else mask[row] == 0
            used = np.where(good, ivar[row], 0).astype(np.float64)
            total[own] += used * np.where(good, flux[row], 0)
            weight[own] += used
        with np.errstate(all="ignore"):
            value, sigma = (total / weight).astype(np.float32), (1 / np.sqrt(weight)).astype(np.float32)
        bad = ~(np.isfinite(value) & np.isfinite(sigma) & (sigma > 0))
        value[bad] = sigma[bad] = np.nan
        said, told = redshifts[target], got["catalogue"]
        fields = {"z": "Z", "z_err": "ZERR", "zwarning": "ZWARN", "class": "SPECTYPE", "subclass": "SUBTYPE"}
        if not (
            (got["info"]["ra"], got["info"]["dec"]) == (ra % 360, dec)
            and all(str(told[mine]) == str(said[theirs]).strip() for mine, theirs in fields.items())
            and np.allclose(got["flux"], value, rtol=1e-5, atol=0, equal_nan=True)
            and np.allclose(got["sigma"], sigma, rtol=1e-5, atol=0, equal_nan=True)
        ):
            return None
    return "sums over astropy's arms, and its rows by TARGETID, are these"


# --------------------------------------------------------------------------------------------------- tables


def _text(path: Path) -> str:
    """Return a text as UTF-8, else as Latin-1, which takes any byte."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _catalogue() -> pd.DataFrame:
    random = np.random.default_rng(4)
    n = 25
    table = pd.DataFrame({"source_id": 4_000_000_000_000_000_000 + random.integers(0, 2**60, n)})
    table["ra"], table["dec"] = random.uniform(0, 360, n), random.uniform(-90, 90, n)
    table["mag"], table["flag"] = random.normal(18, 1, n).round(3), random.integers(0, 9, n)
    table["class"] = random.choice(["STAR", "GALAXY", "QSO"], n)
    return table


def _table(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from astropy.table import Table

        path, table = folder / f"table{suffix}", _catalogue()
        if suffix == ".csv":
            table.to_csv(path, index=False)
        elif suffix == ".parquet":
            table.to_parquet(path)
        elif suffix == ".npy":
            np.save(path, table.drop(columns="class").to_records(index=False))
        else:
            form = {".fits": "fits", ".vot": "votable", ".ecsv": "ascii.ecsv"}[suffix]
            Table.from_pandas(table).write(path, format=form)
        return path

    return make


def _read_table(path: Path) -> Values:
    from skyfuse.survey.tables import read_table

    return read_table(path)


def _read_objects(path: Path) -> Values:
    from skyfuse.survey.objecttable import read_sources

    table, refused = read_sources(path)
    return {"table": table, "refused": {one.key: _line(one.message, path.parent) for one in refused}}


def _other_cells(damaged: Path) -> pd.DataFrame:
    """Return the cells of a table as pandas, pyarrow, numpy or astropy read them."""
    import pyarrow.parquet as pq
    from astropy.io import fits, votable

    if damaged.suffix == ".csv":
        other = pd.read_csv(io.StringIO(_text(damaged)), dtype=str, keep_default_na=False)
    elif damaged.suffix == ".parquet":
        # Without what pandas notes of its own.
        other = pq.ParquetFile(damaged).read().to_pandas(ignore_metadata=True)
    elif damaged.suffix == ".npy":
        other = pd.DataFrame(np.load(damaged))
    elif damaged.suffix == ".ecsv":
        other = _ecsv_cells(damaged)
    elif damaged.suffix == ".vot":
        found = votable.parse_single_table(damaged, verify="ignore").to_table(use_names_over_ids=True)
        other = found.to_pandas()
    else:
        with fits.open(io.BytesIO(_extended(damaged.read_bytes())), memmap=False) as hdus:
            # The standard allows columns without a name, and astropy does not.
            for k in range(1, hdus[1].header["TFIELDS"] + 1):
                if not str(hdus[1].header.get(f"TTYPE{k}", "")).strip():
                    hdus[1].header[f"TTYPE{k}"] = f"col{k}"
            data = hdus[1].data
            other = pd.DataFrame({name: data.field(k).tolist() for k, name in enumerate(data.columns.names)})
    return other


def _other_reader(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that another reader finds the same values in the damaged file."""
    from skyfuse.survey.columns import MISSING, MISSING_NUMBERS

    other = _other_cells(damaged)
    # A name of nothing but blanks is none.
    names = [str(name).strip() or f"Unnamed: {k}" for k, name in enumerate(other.columns)]
    taken_names = [str(name).strip() or f"Unnamed: {k}" for k, name in enumerate(values.columns)]
    if names != taken_names or len(other) != len(values):
        return None
    for k in range(len(names)):
        for one, two in zip(other.iloc[:, k], values.iloc[:, k], strict=True):
            # Text of FITS ends with its first NUL.
            text = one.decode("latin-1") if isinstance(one, bytes) else str(one)
            text = text.partition("\0")[0] if damaged.suffix == ".fits" else text
            said, taken = text.strip(), "" if pd.isna(two) else str(two).strip()
            if said == taken or (not taken and said in (*MISSING, *MISSING_NUMBERS)):
                continue
            if damaged.suffix == ".csv":
                # Fortran's exponent.
                said = re.sub(r"(?i)(?<=[0-9.])d(?=[+-]?[0-9]+$)", "e", said)
            try:
                if float(said) != float(taken):
                    return None
            except ValueError:
                return None
    return "an independent reader finds the same values"


def _other_rows(damaged: Path, whole: Path, values: Values) -> str | None:
    """Say that another reader finds these places and names, and places off the sky in the refused rows."""
    other = _other_cells(damaged)
    names = {str(name).strip().lower(): k for k, name in reversed(list(enumerate(other.columns)))}
    table, refused = values["table"].set_index("key"), values["refused"]
    if len(table) + len(refused) != len(other):
        return None
    for row in range(len(other)):
        cells = {name: other.iloc[row, k] for name, k in names.items()}
        texts = {
            name: (cell.decode("latin-1") if isinstance(cell, bytes) else str(cell))
            .partition("\0")[0]
            .strip()
            for name, cell in cells.items()
        }
        try:
            ra, dec = (float(re.sub(r"(?i)(?<=[0-9.])d", "e", texts[name])) for name in ("ra", "dec"))
        except ValueError:
            ra = dec = math.nan
        on_sky = 0 <= ra <= 360 and -90 <= dec <= 90
        if on_sky != (str(row) in table.index):
            return None
        if on_sky:
            mine = table.loc[str(row)]
            called = {texts.get("source_id"), f"{damaged.stem}-{row}"}
            if (mine["ra"], mine["dec"]) != (ra % 360, dec) or mine["source_id"] not in called:
                return None
    return "an independent reader finds these places and names"


def _ecsv_cells(path: Path) -> pd.DataFrame:
    """Return the cells of an ECSV file as text; ValueError where they are not of the types that it tells."""
    import yaml

    from skyfuse.survey.columns import MISSING, MISSING_NUMBERS

    # Line ends and blank lines are of no matter; nor are tabs between words.
    text = re.sub(r"\r\n?", "\n", path.read_bytes().decode("utf-8")).replace("\t", " ")
    rows = [line for line in text.split("\n") if line.strip(" ")]
    if not rows[0].startswith("# %ECSV"):
        raise ValueError("it is no ECSV")
    # Comments above the list of columns and further down tell of none.
    header = itertools.takewhile(lambda line: line.startswith("#"), rows)
    header = itertools.dropwhile(lambda line: not line.startswith("# datatype:"), header)
    entries = [re.fullmatch(r"# *- *(\{.*?\})\s*(#.*)?", line) for line in header]
    told = [yaml.safe_load(entry[1]) for entry in entries if entry]
    split = [
        next(iter(csv.reader([line.strip(" ")], delimiter=" ", skipinitialspace=True)))
        for line in rows
        if line[0] != "#"
    ]
    names = [str(entry["name"]) for entry in told]
    if split[0] != names or any(len(row) != len(names) for row in split):
        raise ValueError("its rows are not of the columns that it tells")
    for row in split[1:]:
        for cell, entry in zip(row, told, strict=True):
            if cell.strip() not in (*MISSING, *MISSING_NUMBERS) and entry["datatype"] != "string":
                value = int(cell) if entry["datatype"] == "int64" else float(cell)
                if entry["datatype"] == "int64" and not -(2**63) <= value < 2**63:
                    raise ValueError(f"{cell} is beyond 64 bits")
    return pd.DataFrame(split[1:], columns=names)


def _never(damaged: Path, whole: Path, values: Values) -> str | None:
    return None


TEXT = (words, words, lines, digits)
KINDS: dict[str, Kind] = {
    "recipe": Kind(_recipe, _read_recipe, _stated, TEXT),
    "model-lightgbm": Kind(
        _fitted("lightgbm", 3, max_rounds=4, min_leaf=5), _predictions, _walk, TEXT, "model.txt", _rehash
    ),
    "model-card": Kind(
        _fitted("lightgbm", 3, max_rounds=2), _predictions, _walk, (json_values,) * 3, "model.json"
    ),
    "model-forest": Kind(
        _fitted("forest", 3, trees=3), _predictions, _other_numbers, (words,), "arrays.safetensors", _rehash
    ),
    "model-network": Kind(
        _fitted("feed-forward", 3, max_epochs=2, hidden=[8]),
        _predictions,
        _other_numbers,
        (words,),
        "weights.safetensors",
        _rehash,
    ),
    "model-svm": Kind(
        _fitted("svm", 0), _predictions, _other_numbers, (words,), "arrays.safetensors", _rehash
    ),
    # A store's files carry checksums: what differs from the whole one is a fault, whatever others read.
    "dataset": Kind(_dataset, _read_dataset, _never, (json_values, words), "*.*", store=True, share=1.0),
    "cube": Kind(_cube, _read_cube, _never, (json_values, words), store=True, share=0.3),
    "cube-ledger": Kind(_cube, _build_again, _never, (json_values, words), "ledger/**/*", share=0.1),
    "study": Kind(_study, _read_study, _never, (json_values, words), store=True, share=0.2),
    "downloads": Kind(_downloads, _read_downloads, _sqlite, (words,), "ledger.sqlite"),
    "frame": Kind(_frame, _read_frame, _astropy, (cards,) * 4),
    "spectrum": Kind(_spectrum, _read_spectrum, _astropy, (cards,) * 4),
    "lamost": Kind(_lamost, _read_spectrum, _astropy, (cards,) * 4),
    "desi": Kind(_desi, _records, _arms, (cards,) * 4, share=0.5),
    "described": Kind(_coadds, _records, _planes, (cards,) * 4, share=0.5),
    "described-ccds": Kind(_ccds, _records, _planes, (cards,) * 4, share=0.5),
    "xp-csv": Kind(_xp(".csv"), _read_xp, _other_vectors, TEXT),
    "xp-fits": Kind(_xp(".fits"), _read_xp, _other_vectors, (cards,) * 4),
    "image-jpeg": Kind(_image(".jpg"), _read_image, _pillow),
    "image-png": Kind(_image(".png"), _read_image, _pillow),
    "table-csv": Kind(_table(".csv"), _read_table, _other_reader, TEXT),
    "table-ecsv": Kind(_table(".ecsv"), _read_table, _other_reader, TEXT),
    "table-votable": Kind(_table(".vot"), _read_table, _other_reader, TEXT),
    "table-fits": Kind(_table(".fits"), _read_table, _other_reader, (cards,) * 4),
    "table-parquet": Kind(_table(".parquet"), _read_table, _other_reader),
    "table-npy": Kind(_table(".npy"), _read_table, _other_reader, (words,)),
    "objects-csv": Kind(_table(".csv"), _read_objects, _other_rows, TEXT),
    "objects-fits": Kind(_table(".fits"), _read_objects, _other_rows, (cards,) * 4),
    "objects-parquet": Kind(_table(".parquet"), _read_objects, _other_rows),
}


# ------------------------------------------------------------------------------------------------- verdicts


def same(one: Values, other: Values) -> bool:
    """Tell whether two readers' values are equal, NaN counting as equal to NaN."""
    if isinstance(one, pd.DataFrame):
        return isinstance(other, pd.DataFrame) and one.equals(other)
    if isinstance(one, dict):
        keys = isinstance(other, dict) and one.keys() == other.keys()
        return bool(keys and all(same(one[key], other[key]) for key in one))
    if isinstance(one, list):
        alike = isinstance(other, list) and len(one) == len(other)
        return bool(alike and all(map(same, one, other)))
    if isinstance(one, np.ndarray):
        if not isinstance(other, np.ndarray) or (one.shape, one.dtype) != (other.shape, other.dtype):
            return False
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return bool(one == other or (one != one and other != other))


def differences(one: Values, other: Values, name: str = "") -> Iterator[tuple[str, Values, Values]]:
    """Yield what differs of two readers' values, and where."""
    if same(one, other):
        return
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        one, other = ({key: table[key].tolist() for key in table} for table in (one, other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{name}/{key}")
    elif isinstance(one, list | np.ndarray) and len(one) == len(other):
        for k, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{name}/{k}")
    else:
        yield name, one, other


def copied(whole: Path, folder: Path) -> Path:
    """Copy an input into another folder."""
    copy = folder / whole.name
    if whole.is_file():
        shutil.copyfile(whole, copy)
    else:
        shutil.copytree(whole, copy)
    return copy


def expectation(kind: Kind, whole: Path) -> Values:
    """Return the values of an undamaged input; some readers write into it."""
    with tempfile.TemporaryDirectory() as folder:
        return kind.read(copied(whole, Path(folder)))


def mutant(kind: Kind, whole: Path, folder: Path, name: str, number: int) -> Path:
    """Write one mutant of an input and return its path."""
    chance = random.Random(f"{name} {number}")  # noqa: S311 - damage, no secret
    victim = damaged = copied(whole, folder)
    if damaged.is_dir():
        files = [path for path in damaged.glob(kind.files) if path.is_file() and path.stat().st_size]
        victim = chance.choice(sorted(files))
    content = victim.read_bytes()
    for _ in range(1 if chance.random() < 0.7 else chance.randint(2, 4)):
        change = chance.choice((*BYTEWISE, *kind.change))
        try:
            content = change(content, chance) or b"\0"
        except (ValueError, RecursionError):
            # What was damaged before is no longer of the structure that this change knows.
            content = flip(content, chance)
    victim.write_bytes(content)
    if kind.settle is not None:
        kind.settle(damaged)
    return damaged


def unnamed(damaged: Path, whole: Path) -> list[str]:
    """Return the damaged files of a store that ``skyfuse check`` does not name."""
    from skyfuse.errors import StoreError
    from skyfuse.study.check import check

    try:
        problems = check(damaged).problems
    except StoreError as error:
        problems = [str(error)]
    if any(len(line.splitlines()) != 1 for line in problems):
        raise ValueError(f"check prints more lines than problems: {problems}")
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    changed = [file for file in files if (whole / file).read_bytes() != (damaged / file).read_bytes()]
    missed = [file for file in changed if not any(str(damaged / file) in line for line in problems)]
    # A build that is stopped leaves added rows, which are taken or passed over one by one.
    return [
        str(file)
        for file in missed
        if file.name != "scan.jsonl"
        or not (damaged / file).read_bytes().startswith((whole / file).read_bytes())
    ]


def verdict(kind: Kind, whole: Path, damaged: Path, expected: Values) -> tuple[str, str]:
    """Read a mutant and return what came of it, and its details: ``fault`` begins what must not be."""
    if kind.store:
        try:
            if missed := unnamed(damaged, whole):
                return "fault: check does not name a file", str(missed)
        except Exception:
            return "fault: check fails", traceback.format_exc()
    return read_verdict(kind, whole, damaged, expected)


def read_verdict(kind: Kind, whole: Path, damaged: Path, expected: Values) -> tuple[str, str]:
    """Read a mutant and return what came of it."""
    from skyfuse.errors import FaultsError, SkyfuseError

    try:
        values = kind.read(damaged)
    except SkyfuseError as error:
        text = str(error)
        # A recipe's faults are told all at once, a line each.
        told = error.faults if isinstance(error, FaultsError) else (error,)
        if any(len(str(one).splitlines()) != 1 for one in told):
            return "fault: more than one line", text
        if any(damaged.name not in str(one) for one in told):
            return "fault: the file is not named", text
        return "refused", text
    except MemoryError:
        return "fault: memory", traceback.format_exc()
    except Exception:
        return "fault: traceback", traceback.format_exc()
    if same(values, expected):
        return "equal", ""
    if kind.store:
        return "other", "check names the file"
    try:
        reason = kind.reason(damaged, whole, values)
    except Exception as error:
        return "fault: accepted, which another reader refuses", repr(error)
    return ("other", reason) if reason else ("fault: other values in silence", "")


# ---------------------------------------------------------------------------------------------------- runs


def _peak() -> int:
    """Return the most memory held since `_reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def work(told: Connection, name: str, whole: Path, numbers: Sequence[int]) -> None:
    """Try mutants in a process of its own, telling of each before and after."""
    warnings.simplefilter("ignore")
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the life of the process
    # What the parent left behind, freed later, would hide what a mutant takes.
    gc.collect()
    gc.freeze()
    kind = KINDS[name]
    expected = expectation(kind, whole)
    size = int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))[0])
    # An allocation that is far too large fails at once instead of filling the machine.
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + 3 * BYTES, size * 1024 + 3 * BYTES))
    for number in numbers:
        told.send((number, None, None))
        with tempfile.TemporaryDirectory() as folder:
            damaged = mutant(kind, whole, Path(folder), name, number)
            _reset_peak()
            before, started = _peak(), time.process_time()
            outcome, details = verdict(kind, whole, damaged, expected)
            seconds, grown = time.process_time() - started, _peak() - before
        if seconds > SECONDS:
            outcome, details = "fault: slow", f"{seconds:.1f} s"
        elif grown > BYTES:
            outcome, details = "fault: memory", f"{grown} bytes"
        told.send((number, outcome, details))
    told.close()


@dataclass
class Tally:
    """Outcomes of one kind, and its faults: number and details by outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, outcome: str, details: str) -> None:
        """Count one mutant."""
        self.outcomes[outcome] += 1
        if outcome.startswith("fault"):
            self.faults.append((number, outcome, details))


def run(name: str, mutants: int, *, first: int = 0, workers: int = 2) -> Tally:
    """Try mutants of one kind.

    Parameters
    ----------
    name : str
        Key of `KINDS`.
    mutants, first : int
        How many, and the number of the first: the seed of each.
    workers : int
        Processes.
    """
    tally = Tally()
    # Forked, processes have the libraries that this one has imported, and kinds that a test has added.
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        whole = KINDS[name].make(Path(place))
        todo = [list(range(first + k, first + mutants, workers)) for k in range(workers)]
        running: dict[Any, tuple[Any, list[int], float]] = {}

        def start(numbers: list[int]) -> None:
            told, tell = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(tell, name, whole, numbers), daemon=True)
            process.start()
            tell.close()
            running[told] = (process, numbers, time.monotonic())

        for numbers in filter(None, todo):
            start(numbers)
        while running:
            ready = wait(list(running), timeout=1.0)
            for told, (process, numbers, heard) in list(running.items()):
                fault = ""
                if told in ready:
                    try:
                        number, outcome, details = told.recv()
                    except EOFError:
                        process.join()
                        fault = f"fault: death by {process.exitcode}" if numbers else ""
                    else:
                        running[told] = (process, numbers, time.monotonic())
                        if outcome is not None:
                            tally.add(number, outcome, details)
                            numbers.remove(number)
                        continue
                elif time.monotonic() - heard < PATIENCE:
                    continue
                else:
                    process.kill()
                    process.join()
                    fault = "fault: hangs"
                del running[told]
                if fault:
                    tally.add(numbers.pop(0), fault, "")
                    if numbers:
                        start(numbers)
    return tally


def replay(name: str, number: int, keep: Path | None) -> None:
    """Read one mutant in this process and print what comes of it."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "whole").mkdir()
        (Path(place) / "damaged").mkdir()
        whole = kind.make(Path(place) / "whole")
        expected = expectation(kind, whole)
        damaged = mutant(kind, whole, Path(place) / "damaged", name, number)
        if keep is not None:
            (shutil.copyfile if damaged.is_file() else shutil.copytree)(damaged, keep / damaged.name)
        print(*verdict(kind, whole, damaged, expected), sep="\n")
        try:
            for name, one, other in differences(expected, kind.read(damaged)):
                print(f"{name}: {one!r:.300} -> {other!r:.300}")
        except Exception as error:
            print(type(error).__name__, error)


def shares(names: Sequence[str], mutants: int) -> dict[str, int]:
    """Return how many mutants of each kind make up so many in all, rounded up."""
    whole = sum(KINDS[name].share for name in names)
    return {name: math.ceil(mutants * KINDS[name].share / whole) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=20_000, help="in all, shared among the kinds")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "NUMBER"))
    parser.add_argument("--keep", type=Path, help="with --replay, a folder for the damaged input")
    arguments = parser.parse_args()
    if arguments.replay:
        replay(arguments.replay[0], int(arguments.replay[1]), arguments.keep)
        return 0
    counts_of = shares(arguments.kinds, arguments.mutants)
    columns = ("equal", "other", "refused")
    print(
        f"{'kind':<16}{'mutants':>8}" + "".join(f"{c:>9}" for c in columns) + f"{'faults':>8}{'ms each':>9}"
    )
    faults = 0
    for name, each in counts_of.items():
        started = time.monotonic()
        tally = run(name, each, first=arguments.first, workers=arguments.workers)
        took = 1000 * (time.monotonic() - started) / each
        counts = "".join(f"{tally.outcomes[column]:>9}" for column in columns)
        print(f"{name:<16}{each:>8}{counts}{len(tally.faults):>8}{took:>9.1f}", flush=True)
        shown: Counter[str] = Counter()
        for number, outcome, details in tally.faults:
            last = details.strip().splitlines()[-1:] or [""]
            key = f"{outcome} {re.sub(r'[0-9]+', '#', last[0])[:60]}"
            shown[key] += 1
            if shown[key] <= 2:
                print(f"    {name} {number}: {outcome}: {last[0][:150]}", flush=True)
        faults += len(tally.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
