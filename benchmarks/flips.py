"""Change single bytes of a cube, dataset, study and model, and see that `skyfuse check` names the file.

Each change gives one byte of one file another value: half of them one bit, half of them any. Files are
chosen by chance, half of the time by their size and half of the time evenly, so that the small ones get their
share. Before and after every change the folder is whole; whole folders are checked as often as told, after
the report was written again, a split was added, the study was run again, and h5py opened every array.

Example: python benchmarks/flips.py --flips 500 --whole 50
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset
from skyfuse.mock import write_mock
from skyfuse.study.check import check
from skyfuse.study.report import write_report
from skyfuse.study.run import Study


def make(folder: Path) -> dict[str, Path]:
    """Write a cube, a dataset, a study and a model."""
    write_mock(folder / "sky", fields=1, objects=150, seed=3)
    (folder / "sky" / "note.txt").write_text("no FITS")
    cube = build([folder / "sky"], folder / "sky.cube", workers=1).out
    labels = next((folder / "sky").rglob("gal_totsfr*"))
    data = Dataset.from_cube(Cube.open(cube), folder / "dataset", labels=labels)
    study = folder / "study"
    run(data, study)
    model = next(path.parent for path in sorted(study.rglob("model.json")))
    shutil.copytree(model, folder / "model")
    return {"cube": cube, "dataset": folder / "dataset", "study": study, "model": folder / "model"}


def run(data: Dataset, study: Path) -> None:
    plan = Study.from_recipe("sfr", quick=True)
    recipe = plan.recipe.model_copy(
        update={"models": {"lightgbm": plan.recipe.models["lightgbm"]}, "flaws": [], "learning": None}
    )
    Study(recipe, quick=True).run(data, study)


def files_of(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def flip(path: Path, chance: np.random.Generator) -> tuple[int, int]:
    """Change one byte of a file; return where it is and what it was."""
    place = int(chance.integers(path.stat().st_size))
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(1)[0]
        new = (
            old ^ (1 << int(chance.integers(8)))
            if chance.random() < 0.5
            else old ^ int(chance.integers(1, 256))
        )
        file.seek(place)
        file.write(bytes([new]))
    return place, old


def restore(path: Path, place: int, old: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([old]))


def found(kind: str, folder: Path, path: Path) -> bool:
    """Tell whether a check of the folder names the file."""
    try:
        return any(str(path) in line for line in check(folder).problems)
    except Exception as error:
        print(f"{kind}: {path}: {type(error).__name__}: {error}")
        return False


def use(stores: dict[str, Path], number: int) -> None:
    """Use the folders in a way that leaves them whole."""
    way = number % 5
    if way == 0:
        write_report(stores["study"])
    elif way == 1:
        Dataset.open(stores["dataset"]).make_split(f"split{number}")
    elif way == 2:
        for path in [*stores["cube"].rglob("*.h5"), stores["dataset"] / "arrays.h5"]:
            with h5py.File(path, "r") as file:
                file.visititems(lambda name, item: None)
    elif way == 3:
        run(Dataset.open(stores["dataset"]), stores["study"])
    else:
        build([stores["cube"].parent / "sky"], stores["cube"], workers=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--whole", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        stores = make(Path(name))
        named: Counter[str] = Counter()
        tried: Counter[str] = Counter()
        for number in range(arguments.flips):
            kind = [*stores][number % len(stores)]
            files = files_of(stores[kind])
            sizes = np.array([path.stat().st_size for path in files], float)
            weights = sizes / sizes.sum() if chance.random() < 0.5 else None
            path = files[int(chance.choice(len(files), p=weights))]
            place, old = flip(path, chance)
            tried[kind] += 1
            if found(kind, stores[kind], path):
                named[kind] += 1
            else:
                print(f"NOT FOUND: byte {place} of {path.relative_to(name)}, {path.stat().st_size} bytes")
            restore(path, place, old)
        false = 0
        for number in range(arguments.whole):
            kind = [*stores][number % len(stores)]
            use(stores, number)
            lines = check(stores[kind]).problems
            false += bool(lines)
            for line in lines:
                print(f"FALSE: {kind}: {line}")
    print(
        f"{named.total()} of {arguments.flips} single-byte changes found and named (bound: all), "
        f"{false} of {arguments.whole} whole folders accused (bound: 0): "
        + ", ".join(f"{kind} {named[kind]} of {tried[kind]}" for kind in tried)
    )
    return 0 if named.total() == arguments.flips and not false else 1


if __name__ == "__main__":
    sys.exit(main())
