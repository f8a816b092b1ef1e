"""Galaxy Zoo: colour images of the galaxies, and what volunteers say of them.

Images are as those of Galaxy Zoo 2 (Willett et al. 2013, MNRAS 435, 2835): 424 pixels of 0.02 Petrosian R90
each, g, r and i joined by the asinh stretch of Lupton et al. (2004, PASP 116, 133). Volunteers walk the
decision tree of that paper (its table 2); each answers by chance, the more surely the plainer the galaxy
shows it. Bars and smooth arms are drawn here alone: the survey's frames do not show them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyfuse.mock import images
from skyfuse.mock.sky import PIXEL, SPAWN_COLOUR_IMAGE, SPAWN_VOTES, Source, generator

Array = NDArray[np.float64]

SIZE = 424
"""Side of an image, pixels."""
SCALE = 0.02
"""Pixel of an image, Petrosian R90."""
VOTERS = 44
"""Mean number of volunteers for a galaxy."""
# Tasks and their answers, by number and name, as in the table of votes; Willett et al. (2013), table 2.
TREE: dict[str, tuple[tuple[int, str], ...]] = {
    "t01_smooth_or_features": ((1, "smooth"), (2, "features_or_disk"), (3, "star_or_artifact")),
    "t02_edgeon": ((4, "yes"), (5, "no")),
    "t03_bar": ((6, "bar"), (7, "no_bar")),
    "t04_spiral": ((8, "spiral"), (9, "no_spiral")),
    "t05_bulge_prominence": ((10, "no_bulge"), (11, "just_noticeable"), (12, "obvious"), (13, "dominant")),
    "t06_odd": ((14, "yes"), (15, "no")),
    "t07_rounded": ((16, "completely_round"), (17, "in_between"), (18, "cigar_shaped")),
    "t08_odd_feature": (
        (19, "ring"),
        (20, "lens_or_arc"),
        (21, "disturbed"),
        (22, "irregular"),
        (23, "other"),
        (24, "merger"),
        (38, "dust_lane"),
    ),
    "t09_bulge_shape": ((25, "rounded"), (26, "boxy"), (27, "no_bulge")),
    "t10_arms_winding": ((28, "tight"), (29, "medium"), (30, "loose")),
    "t11_arms_number": ((31, "1"), (32, "2"), (33, "3"), (34, "4"), (36, "more_than_4"), (37, "cant_tell")),
}


@dataclass(frozen=True, slots=True)
class Morphology:
    """What is to be seen of a galaxy.

    Attributes
    ----------
    bulge : float
        Share of the r light that is in the bulge.
    axis_ratio : float
        Of the whole, as projected.
    inclination : float
        deg.
    bar : float
        Share of the disc's light in a bar; 0 for none.
    bar_angle : float
        Of the bar in the disc's plane, from the line of nodes, deg.
    arms : bool
        Two logarithmic arms.
    pitch : float
        Of the arms, deg; NaN without.
    features : float
        Log odds that a volunteer sees features or a disc.
    odd : str
        Answer to the question for oddity that fits; empty where nothing is odd.
    """

    bulge: float
    axis_ratio: float
    inclination: float
    bar: float
    bar_angle: float
    arms: bool
    pitch: float
    features: float
    odd: str


def pitch_angle(clumps: Array) -> float:
    """Return the pitch angle, deg, of the two logarithmic arms on which clumps lie in turn.

    The angle φ = ln(r)/tan(pitch) + const that scatters least.
    """
    radius = np.log(np.hypot(clumps[:, 0], clumps[:, 1]))
    angle = np.arctan2(clumps[:, 1], clumps[:, 0]) - np.pi * (np.arange(len(clumps)) % 2)
    tried = np.linspace(10.0, 32.0, 89)
    residual = angle - radius / np.tan(np.radians(tried))[:, None]
    return float(tried[np.argmax(np.abs(np.exp(1j * residual).mean(axis=1)))])


def look(seed: int, source: Source, flux: Array) -> Morphology:
    """Return a galaxy's morphology, and draw what only the images show: bar and oddity.

    Parameters
    ----------
    seed : int
    source : Source
        A galaxy.
    flux : ndarray, shape (5, 3)
        Fluxes of bulge, disc and young component in u g r i z.
    """
    shape = source.shape
    if shape is None:
        raise TypeError("only galaxies have a morphology")
    rng = generator(seed, SPAWN_VOTES, source.index, 0)
    has_bar, odd = rng.random(), rng.random()
    share, angle = rng.uniform(0.25, 0.45), rng.uniform(0.0, 180.0)
    bulge = float(flux[2, 0] / flux[2].sum())
    disc = not source.quenched
    bar = float(share) if disc and has_bar < 0.4 else 0.0
    arms = disc and len(shape.clumps) == 28
    q = max(float(np.cos(np.radians(shape.inclination))), 0.15)
    young = float(flux[1, 2] / flux[1].sum())
    features = -3.0 + 1.8 * arms + 1.2 * (bar > 0) + 6.0 * young * shape.clump_share + 2.2 * disc
    features += 1.3 * float(np.log(shape.re_disc / images.SEEING[2])) + 2.5 * (shape.inclination > 75) * (
        bulge < 0.7
    )
    kinds = ("ring", "lens_or_arc", "disturbed", "irregular", "other", "dust_lane")
    what = "merger" if source.blend and odd < 0.5 else ""
    if not what and odd > 0.93:
        what = kinds[int((odd - 0.93) / 0.07 * len(kinds)) % len(kinds)]
    return Morphology(
        bulge,
        bulge * (1 - 0.35 * (1 - q)) + (1 - bulge) * q,
        shape.inclination,
        bar,
        float(angle),
        arms,
        pitch_angle(shape.clumps) if arms else np.nan,
        features,
        what,
    )


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _nearest(value: float, centres: tuple[float, ...], width: float) -> Array:
    """Return probabilities of ordered answers: Gaussian in the distance from each answer's centre."""
    odds = np.exp(-0.5 * ((value - np.array(centres)) / width) ** 2) + 0.01
    return np.asarray(odds / odds.sum())


def probabilities(seen: Morphology) -> dict[str, Array]:
    """Return the probability of each answer of each task, for a volunteer who is asked it."""
    smooth = 1 - _logistic(seen.features)
    edge = _logistic((seen.inclination - 74.0) / 2.5)
    face_on = _logistic((62.0 - seen.inclination) / 6.0)
    bar = 0.08 + 0.82 * face_on * min(seen.bar / 0.3, 1.0) if seen.bar else 0.1
    spiral = 0.15 + 0.8 * seen.arms * _logistic((70.0 - seen.inclination) / 5.0)
    odd = 0.75 if seen.odd else 0.06
    names = [name for _, name in TREE["t08_odd_feature"]]
    feature = np.full(len(names), 0.04)
    feature[names.index(seen.odd or "other")] += 1.0
    shape = np.array([0.1 + 2.0 * seen.bulge, 0.05 + 0.6 * (seen.bar > 0), 0.02 + np.exp(-seen.bulge / 0.08)])
    two = 0.75 if seen.arms else 0.2
    numbers = np.array([0.06, two, 0.06, 0.03, 0.04, 0.95 - two])
    return {
        "t01_smooth_or_features": np.array([0.98 * smooth, 0.98 * (1 - smooth), 0.02]),
        "t02_edgeon": np.array([edge, 1 - edge]),
        "t03_bar": np.array([bar, 1 - bar]),
        "t04_spiral": np.array([spiral, 1 - spiral]),
        "t05_bulge_prominence": _nearest(float(np.sqrt(seen.bulge)), (0.08, 0.3, 0.52, 0.78), 0.09),
        "t06_odd": np.array([odd, 1 - odd]),
        "t07_rounded": _nearest(seen.axis_ratio, (0.92, 0.62, 0.28), 0.13),
        "t08_odd_feature": feature / feature.sum(),
        "t09_bulge_shape": shape / shape.sum(),
        "t10_arms_winding": _nearest(seen.pitch, (15.0, 20.0, 25.0), 2.5) if seen.arms else np.full(3, 1 / 3),
        "t11_arms_number": numbers / numbers.sum(),
    }


def vote(seed: int, index: int, seen: Morphology) -> dict[str, NDArray[np.int64]]:
    """Let volunteers walk the tree; return the counts of each task's answers."""
    rng = generator(seed, SPAWN_VOTES, index, 1)
    chance = probabilities(seen)
    count: dict[str, NDArray[np.int64]] = {}

    def ask(task: str, voters: int) -> NDArray[np.int64]:
        count[task] = rng.multinomial(voters, chance[task])
        return count[task]

    smooth, features, _ = ask("t01_smooth_or_features", 5 + int(rng.poisson(VOTERS - 5)))
    edge_on, not_edge_on = ask("t02_edgeon", int(features))
    ask("t09_bulge_shape", int(edge_on))
    ask("t03_bar", int(not_edge_on))
    spiral, _ = ask("t04_spiral", int(not_edge_on))
    ask("t10_arms_winding", int(spiral))
    ask("t11_arms_number", int(spiral))
    ask("t05_bulge_prominence", int(not_edge_on))
    ask("t07_rounded", int(smooth))
    odd, _ = ask("t06_odd", int(smooth + features))
    ask("t08_odd_feature", int(odd))
    return count


def class_of(count: dict[str, NDArray[np.int64]]) -> str:
    """Return the abbreviated class of Willett et al. (2013, appendix A) that most votes lead to."""

    def most(task: str, letters: str) -> str:
        return letters[int(np.argmax(count[task]))]

    first = most("t01_smooth_or_features", "ESA")
    if first == "A":
        return "A"
    if first == "E":
        name = "E" + most("t07_rounded", "ric")
    elif most("t02_edgeon", "yn") == "y":
        name = "Se" + most("t09_bulge_shape", "rbn")
    else:
        name = "S" + ("B" if most("t03_bar", "yn") == "y" else "") + most("t05_bulge_prominence", "dcba")
        if most("t04_spiral", "yn") == "y":
            name += most("t11_arms_number", "1234+?") + most("t10_arms_winding", "tml")
    if most("t06_odd", "yn") == "y":
        name += f"({most('t08_odd_feature', 'rldiomu')})"
    return name


def columns(count: dict[str, NDArray[np.int64]]) -> dict[str, float]:
    """Return the vote columns of one galaxy, named and ordered as in the public table.

    Weighted votes and debiased fractions equal the plain ones: the mock's volunteers are all alike, and see
    every galaxy at the redshift it has. The flag is Willett et al.'s: a debiased fraction of 0.8 and more, by
    twenty and more votes.
    """
    row: dict[str, float] = {}
    for task, answers in TREE.items():
        total = int(count[task].sum())
        for (number, answer), votes in zip(answers, count[task], strict=True):
            name = f"{task}_a{number:02d}_{answer}"
            share = float(votes / total) if total else 0.0
            row |= {f"{name}_count": int(votes), f"{name}_weight": float(votes), f"{name}_fraction": share}
            row |= {f"{name}_weighted_fraction": share, f"{name}_debiased": share}
            row[f"{name}_flag"] = int(share >= 0.8 and total >= 20)
    return row


def colour(bands: Array) -> NDArray[np.uint8]:
    """Return a colour image of g, r and i, after Lupton et al. (2004), with half of the survey's own scales.

    Parameters
    ----------
    bands : ndarray, shape (3, ny, nx)
        g, r, i; nanomaggies a pixel.

    Returns
    -------
    ndarray of uint8, shape (ny, nx, 3)
        Red is i, green r and blue g; the ratio of colours is kept where a channel overflows.
    """
    scaled = 0.5 * bands[::-1] * np.array([4.9, 5.7, 7.8])[:, None, None]
    mean = np.maximum(scaled.mean(axis=0), 1e-12)
    stretch = 2.25
    out = scaled * (np.arcsinh(stretch * mean) / stretch / mean)
    out /= np.maximum(out.max(axis=0), 1.0)
    return np.asarray(np.moveaxis(np.clip(out * 255, 0, 255), 0, -1), np.uint8)


def render(seed: int, source: Source, flux: Array, seen: Morphology, r90: float) -> bytes:
    """Return a galaxy's image, with the noise of empty sky and its own, as JPEG.

    Parameters
    ----------
    seed : int
    source : Source
        A galaxy.
    flux : ndarray, shape (5, 3)
        Nanomaggies, of its components in u g r i z.
    seen : Morphology
    r90 : float
        Petrosian, arcsec.
    """
    side = SIZE * SCALE * r90 / PIXEL
    size = max(images.box_size(source), 2 * int(np.ceil(side / 2 + 2)))
    parts = images.transforms(source, size)
    _structure(parts, source, seen)
    rng = generator(seed, SPAWN_COLOUR_IMAGE, source.index)
    bands = np.empty((3, size, size))
    empty = images.empty_sky_variance()
    for row, band in enumerate((1, 2, 3)):
        light = np.tensordot(flux[band], parts, 1) * images.point_spread(size, images.SEEING[band])
        image = np.maximum(np.fft.fftshift(np.fft.irfft2(light, s=(size, size))), 0.0)
        gain = images.CALIBRATION[band] / images.GAIN[2][band]
        bands[row] = image + np.sqrt(empty[band] + image * gain) * rng.standard_normal(image.shape)
    middle = size / 2 + 0.5
    box = (middle - side / 2, middle - side / 2, middle + side / 2, middle + side / 2)
    picture = Image.fromarray(colour(bands)).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _structure(parts: NDArray[np.complex128], source: Source, seen: Morphology) -> None:
    """Put bar and smooth arms into the transform of the disc, in place."""
    shape = source.shape
    if shape is None or not (seen.bar or seen.arms):
        return
    size = parts.shape[1]
    kx, ky, _ = images.wavenumbers(size)
    angle = np.radians(shape.position_angle)
    q = max(float(np.cos(np.radians(shape.inclination))), 0.15)
    # Wave numbers in the disc's plane: along the line of nodes, and across it, foreshortened.
    along, across = kx * np.cos(angle) + ky * np.sin(angle), q * (ky * np.cos(angle) - kx * np.sin(angle))
    if seen.bar:
        turn = np.radians(seen.bar_angle)
        length, width = 0.45 * shape.re_disc, 0.11 * shape.re_disc
        major = along * np.cos(turn) + across * np.sin(turn)
        minor = across * np.cos(turn) - along * np.sin(turn)
        bar = np.exp(-0.5 * ((length * major) ** 2 + (width * minor) ** 2))
        parts[1] = (1 - seen.bar) * parts[1] + seen.bar * bar
    if seen.arms:
        x, y = shape.clumps[:, :2].T * shape.re_young
        blurred = np.exp(-0.5 * (0.18 * shape.re_young) ** 2 * (along**2 + across**2))
        arms = sum(
            weight * np.exp(-1j * (along * a + across * b))
            for a, b, weight in zip(x, y, shape.clumps[:, 2], strict=True)
        )
        for component, part in ((1, 0.2), (2, 0.5)):
            parts[component] = (1 - part) * parts[component] + part * arms * blurred


def image_path(objid: int) -> Path:
    """Return an image's place under the mock's folder."""
    return Path("zoo", "images", f"{objid}.jpg")
