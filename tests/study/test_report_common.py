import numpy as np
import pytest

from skyfuse.study.report.common import PALETTE, colour, dashes

STAR_GROUPS = 15
"""The most classes that a recipe names; those of Galaxy Zoo are next."""
GALAXY_CLASSES = 14

VISIONS = {
    "normal": np.eye(3),
    # Machado, Oliveira & Fernandes (2009, IEEE TVCG 15, 1291), table 1, severity 1; on linear sRGB.
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Ottosson (2020), "A perceptual color space for image processing": linear sRGB to cones, roots to OKLab.
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(names):
    values = np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in names]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(names, vision):
    seen = np.clip(linear(names) @ np.transpose(VISIONS[vision]), 0, 1)
    return np.cbrt(seen @ np.transpose(CONES)) @ np.transpose(OKLAB)


def nearest(names, vision):
    points = oklab(names, vision)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return apart[~np.eye(len(names), dtype=bool)].min()


@pytest.mark.parametrize("vision", VISIONS)
def test_every_eye_tells_the_classes_of_a_study_apart(vision):
    assert len(PALETTE) > STAR_GROUPS
    # Okabe & Ito's own seven come as near as 0.076 to one another, and 0.156 to the normal eye.
    assert nearest(PALETTE, vision) >= (0.14 if vision == "normal" else 0.075)


def test_every_colour_stands_out_from_white_paper():
    luminance = linear(PALETTE) @ [0.2126, 0.7152, 0.0722]
    # Contrast as in WCAG 2; Okabe & Ito's own orange has 2.25.
    contrast = 1.05 / (luminance + 0.05)
    assert contrast[:GALAXY_CLASSES].min() > 2.2
    assert contrast.min() > 1.5


def test_colours_start_again_with_other_dashes():
    n = len(PALETTE)
    assert colour(n) == colour(0)
    assert len({(colour(i), dashes(i)) for i in range(3 * n)}) == 3 * n
