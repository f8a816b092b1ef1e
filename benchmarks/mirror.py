"""Whether the answers of a model swap as images are mirrored, and stay as they are turned.

    python benchmarks/mirror.py MODEL FOLDER [--most 300]

MODEL is the folder of a saved model whose task names classes that a mirror swaps, FOLDER one of colour
images. Of up to so many of them, evenly spread over the sorted names, lossless copies are written as they
are, mirrored, and turned by a quarter, and `skyfuse predict` answers for all three. Printed are the share of
the objects called one of a pair of classes whose mirror image is called the other one, the share of all
others that keep their class in the mirror, and the share that keep it when turned. Bound: 98 % of the pairs'
objects swap.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from skyfuse.models import Model, load_model
from skyfuse.models.mirror import Mirror
from skyfuse.study.predict import predict

BOUND = 0.98
WAYS = ("as it is", "mirrored", "turned")


def mirror_of(model: Model) -> Mirror:
    """Return what a mirror does to a model's objects; a model of several has it from them."""
    while model.mirror is None:
        if not getattr(model, "members", None):
            sys.exit("the model's task names no classes that a mirror swaps")
        model = model.members[0]
    return model.mirror


def copies(paths: list[Path], folder: Path, way: str) -> Path:
    """Write images as they are, mirrored, or turned by a quarter; return their folder."""
    target = folder / way.replace(" ", "-")
    target.mkdir()
    for path in paths:
        with Image.open(path) as image:
            moved = image.convert("RGB")
        if way == "mirrored":
            moved = ImageOps.mirror(moved)
        elif way == "turned":
            moved = moved.transpose(Image.Transpose.ROTATE_90)
        moved.save(target / f"{path.stem}.png", compress_level=1)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--most", type=int, default=300)
    given = parser.parse_args()
    model = load_model(given.model)
    mirror, classes = mirror_of(model), np.array(model.classes)
    becomes = dict(zip(classes, classes[list(mirror.becomes)], strict=True))
    paths = sorted(
        path for path in given.images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    paths = [paths[k] for k in np.unique(np.linspace(0, len(paths) - 1, given.most).astype(int))]
    said: dict[str, pd.Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            table = predict(given.model, copies(paths, Path(folder), way)).set_index("name")
            said[way] = table[model.card["label"]["name"]]
    plain = said["as it is"]
    paired = plain.map(lambda name: becomes[name] != name)
    expected = plain.map(becomes)
    swapped = (said["mirrored"].loc[plain.index] == expected)[paired]
    kept = (said["mirrored"].loc[plain.index] == plain)[~paired]
    turned = said["turned"].loc[plain.index] == plain
    print(f"{len(plain)} images, {len(swapped)} of them in classes that a mirror swaps")
    for what, share in (
        ("swap in a mirror", swapped),
        ("stay in a mirror", kept),
        ("stay when turned", turned),
    ):
        print(f"{what}: {share.mean():.3f} ({int(share.sum())} of {len(share)})")
    sys.exit(int(swapped.mean() < BOUND))


if __name__ == "__main__":
    main()
