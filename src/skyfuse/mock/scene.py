"""A folder of scenes, image and sound together: the controlled check that fusing two kinds of input helps.

Laid out as the public data set of scene images and audio features (Bird et al. 2020): a picture and 104
Mel-frequency cepstral coefficients a scene. Pictures are procedural: layers of colour and texture. The
coefficients are Gaussian about a mean for each class. Neighbouring classes look alike, others sound alike, so
that either input alone errs where the other does not.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from skyfuse.mock.files import write_once
from skyfuse.mock.sky import SPAWN_SCENE, generator

SIZE = 96
COEFFICIENTS = 104
CLASSES = {
    "BEACH": "OUTDOORS",
    "CITY": "OUTDOORS",
    "FOREST": "OUTDOORS",
    "FOOTBALL-MATCH": "OUTDOORS",
    "CLASSROOM": "INDOORS",
    "GROCERY-STORE": "INDOORS",
    "RESTAURANT": "INDOORS",
    "LIBRARY": "INDOORS",
}
"""Scene and whether it is indoors."""
# Top, middle and bottom colour; texture's scale (pixels) and strength; vertical and horizontal stripes. The
# pairs beach and football match, classroom and library, grocery store and restaurant look alike.
_LOOKS = {
    "BEACH": ((0.55, 0.72, 0.88), (0.45, 0.65, 0.72), (0.78, 0.70, 0.52), 6.0, 0.06, 0.0, 0.05),
    "CITY": ((0.58, 0.66, 0.76), (0.48, 0.46, 0.45), (0.36, 0.36, 0.37), 1.5, 0.10, 0.16, 0.02),
    "FOREST": ((0.34, 0.46, 0.28), (0.24, 0.36, 0.18), (0.30, 0.26, 0.17), 1.2, 0.15, 0.10, 0.0),
    "FOOTBALL-MATCH": ((0.52, 0.64, 0.74), (0.50, 0.58, 0.56), (0.52, 0.66, 0.42), 5.0, 0.06, 0.0, 0.05),
    "CLASSROOM": ((0.78, 0.75, 0.68), (0.60, 0.55, 0.47), (0.48, 0.41, 0.34), 4.0, 0.06, 0.02, 0.10),
    "GROCERY-STORE": ((0.76, 0.75, 0.72), (0.56, 0.46, 0.40), (0.58, 0.54, 0.50), 2.0, 0.14, 0.06, 0.08),
    "RESTAURANT": ((0.70, 0.66, 0.60), (0.54, 0.43, 0.36), (0.50, 0.43, 0.38), 2.6, 0.12, 0.03, 0.05),
    "LIBRARY": ((0.74, 0.70, 0.62), (0.58, 0.50, 0.40), (0.46, 0.38, 0.30), 3.2, 0.08, 0.06, 0.10),
}
# Where each class lies on the axes along which sounds differ: crowd, traffic, nature, speech, machines.
_SOUNDS = {
    "BEACH": (0.2, 0.1, 1.0, 0.1, 0.0),
    "CITY": (0.4, 1.0, 0.1, 0.3, 0.4),
    "FOREST": (0.0, 0.1, 1.1, 0.0, 0.0),
    "FOOTBALL-MATCH": (1.2, 0.1, 0.2, 0.3, 0.1),
    "CLASSROOM": (0.2, 0.0, 0.0, 1.0, 0.0),
    "GROCERY-STORE": (0.4, 0.2, 0.0, 0.4, 0.8),
    "RESTAURANT": (0.7, 0.0, 0.0, 0.6, 0.3),
    "LIBRARY": (0.0, 0.1, 0.0, 0.2, 0.2),
}
LIGHTING, TONE = 0.08, 0.035
"""Scatter of a picture's brightness and of its three colours."""
LOUDNESS, VARIETY = 3.0, 0.14
"""Coefficients that a step along an axis of sound moves, and scatter along these axes."""


def picture(rng: np.random.Generator, scene: str) -> NDArray[np.uint8]:
    """Draw a scene; shape (96, 96, 3)."""
    *layers, scale, strength, upright, level = _LOOKS[scene]
    horizon = np.sort(rng.uniform((0.2, 0.5), (0.5, 0.8))) * SIZE
    rows = np.arange(SIZE)[:, None]
    image = np.broadcast_to(np.array(layers[0]), (SIZE, SIZE, 3)).copy()
    for edge, colour in zip(horizon, layers[1:], strict=True):
        # Soft, uneven borders between the layers.
        border = edge + gaussian_filter(rng.normal(0, 12.0, SIZE), 6.0)
        share = 1 / (1 + np.exp(-(rows - border) / 1.5))[..., None]
        image = image * (1 - share) + np.array(colour) * share
    texture = gaussian_filter(rng.standard_normal((SIZE, SIZE)), scale)
    image += (strength * texture / texture.std())[..., None]
    for stripes, axis in ((upright, 0), (level, 1)):
        pattern = np.sign(np.sin(2 * np.pi * (np.arange(SIZE) / rng.uniform(6, 16) + rng.random())))
        image += stripes * (pattern[None, :, None] if axis == 0 else pattern[:, None, None])
    image = image * np.exp(LIGHTING * rng.standard_normal()) + TONE * rng.standard_normal(3)
    image += 0.03 * rng.standard_normal(image.shape)
    return np.asarray(np.clip(image * 255, 0, 255), np.uint8)


def sound(rng: np.random.Generator, scene: str) -> NDArray[np.float64]:
    """Draw the coefficients of a scene; shape (104,)."""
    # The directions in which kinds of sound move the coefficients are the same for every folder.
    axes = np.random.default_rng(104).standard_normal((5, COEFFICIENTS)) / np.sqrt(COEFFICIENTS)
    at = np.array(_SOUNDS[scene]) + VARIETY * rng.standard_normal(5)
    # Cepstral coefficients fall off with their number, four time windows of 26 each.
    spread = 1.0 / np.sqrt(1 + np.arange(COEFFICIENTS) % 26)
    return np.asarray(
        10
        * (LOUDNESS * np.sqrt(COEFFICIENTS) * (at @ axes) * 0.3 + rng.standard_normal(COEFFICIENTS))
        * spread
    )


def write_scene(out: Path, seed: int, n: int, step: Callable[[], None]) -> None:
    """Write `n` scenes under ``scene/``, classes in turn.

    Parameters
    ----------
    out : path
    seed : int
    n : int
    step : callable
        Called after each scene.
    """
    rows = []
    for index in range(n):
        rng = generator(seed, SPAWN_SCENE, index)
        name = list(CLASSES)[index % len(CLASSES)]
        buffer = io.BytesIO()
        Image.fromarray(picture(rng, name)).save(buffer, "JPEG", quality=92)
        path = Path("images", f"{index + 1:05d}.jpg")
        write_once(out / "scene" / path, buffer.getvalue)
        row: dict[str, object] = {"IMAGE": path.as_posix()}
        row |= {f"MFCC_{k + 1}": round(float(v), 5) for k, v in enumerate(sound(rng, name))}
        rows.append(row | {"CLASS1": CLASSES[name], "CLASS2": name})
        step()
    text = pd.DataFrame(rows).to_csv(index=False)
    write_once(out / "scene" / "features.csv", lambda: text.encode("utf-8"))
