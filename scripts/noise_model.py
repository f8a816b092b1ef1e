"""Fit the noise model of SDSS spectra to fibres on empty sky and to repeated spectra of one object.

What is fitted is what `skyfuse.survey.noise` describes. The true flux of a fibre on empty sky is 0; two
spectra of one object differ by noise and by one factor. Each number is chosen so that the scatter (normalised
median absolute deviation) of value / σ is 1 in many cells at once: of zoom, of wavelength, and of the place
on the slit. Medians keep rare bad fibres from deciding. Stars, galaxies and quasars are all taken for
constant: what quasars vary by counts as calibration.

The spectrographs of SDSS-I and II (plates up to 3509) have both kinds of data. Those of BOSS have no fibres
on empty sky here: nothing that only these could tell is claimed of them.

    python scripts/noise_model.py ../shared/data -o src/skyfuse/instruments/noise/sdss.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import least_squares

from skyfuse.cube.grid import BOSS, SDSS, SpectralGrid
from skyfuse.errors import FileError
from skyfuse.sphere import chord, unit_vectors
from skyfuse.survey.noise import NoiseModel, is_sky, leverage
from skyfuse.survey.records import Spectrum
from skyfuse.survey.sdss.spectra import read_spectrum

ZOOMS = 5
LAST_OF_SDSS = 3509
"""Plates after this were taken with the spectrographs of BOSS."""
SPECTROGRAPHS = {
    "SDSS-I and II": ([1, LAST_OF_SDSS], 320, SDSS, [3833.0, 5800.0, 6100.0, 9074.0]),
    "BOSS": ([LAST_OF_SDSS + 1, 16_000], 500, BOSS, [3600.0, 5900.0, 6300.0, 10_400.0]),
}
"""Plates, fibres on a slit, grid, and the wavelengths between which numbers run linearly: those where the
light is divided between the two arms, and the ends."""

# Cells: parts of the wavelength range, and steps of the leverage along the slit.
PARTS, PAIR_PARTS = 12, 6
REACHES = (0.0, 2.6, 4.2, 99.0)
# Zooms that show what all pixels have in common.
COARSE = (3, 4)
# Of the finest zooms every so manieth block tells as much as is needed.
STRIDES = (8, 4, 2, 1, 1)
# Name, where the search begins, and the step that is one unit of it.
COLUMNS = (
    ("scale", 0.9, 1.0),
    ("first_average", 0.1, 0.5),
    ("second_average", 0.0, 0.5),
    ("calibration", 0.01, 0.03),
    ("sky_residual", 0.013, 0.02),
)
SINGLE = (
    ("sky_fit", 0.03, 0.05),
    ("sky_residual_slit", 0.5, 1.0),
)
OF_SKY_FIBRES = ("sky_fit", "sky_residual_slit")


def nmad(values: np.ndarray) -> float:
    """Return the normalised median absolute deviation: σ where the values are normal."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return where half of the weight lies below."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


@dataclass
class Blocks:
    """Blocks of 2^zoom bins of one spectrum, and all that their variance is made of; arrays (blocks,)."""

    whole: np.ndarray
    value: np.ndarray
    alone: np.ndarray
    next: np.ndarray
    second: np.ndarray
    sky: np.ndarray
    offset: np.ndarray
    wavelength: np.ndarray
    reach: float
    own: int


def placed(spectrum: Spectrum, grid: SpectralGrid) -> dict[str, np.ndarray]:
    """Return flux, σ and sky on the bins of a grid, NaN where invalid."""
    shift = (spectrum.first_bin or 0) - (grid.first_bin or 0)
    start, stop = max(shift, 0), min(shift + spectrum.flux.size, grid.sizes[0])
    out = {}
    for name in ("flux", "sigma", "sky"):
        out[name] = np.full(grid.sizes[0], np.nan)
        out[name][start:stop] = getattr(spectrum, name)[start - shift : stop - shift]
    return out


def blocks(spectrum: Spectrum, grid: SpectralGrid, zoom: int, fibres: int, hole: np.ndarray) -> Blocks:
    """Return the blocks of a spectrum; `hole` are bins that are not used besides those that are invalid."""
    bins = placed(spectrum, grid)
    step, size = 2**zoom, grid.sizes[0] // 2**zoom * 2**zoom
    good = (np.isfinite(bins["flux"]) & ~hole)[:size].reshape(-1, step)
    flux, sigma, sky = (
        np.where(good, bins[name][:size].reshape(-1, step), 0.0) for name in ("flux", "sigma", "sky")
    )
    sky = np.where(np.isfinite(sky) & (sky > 0), sky, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.where(good.any(axis=1), good.sum(axis=1), np.nan)
        offset = np.where(good & (sky > 0), sigma**2 / (sky + np.maximum(flux, 0)), 0)
    pairs = [(sigma[:, gap:] * sigma[:, :-gap]).sum(axis=1) if gap < step else 0 * count for gap in (1, 2)]
    return Blocks(
        # A quarter lost changes nothing that is measured here.
        whole=np.nan_to_num(count) >= 0.75 * step,
        value=flux.sum(axis=1) / count,
        alone=(sigma**2).sum(axis=1) / count**2,
        next=pairs[0] / count**2,
        second=pairs[1] / count**2,
        sky=sky.sum(axis=1) / count,
        offset=offset.sum(axis=1) / count,
        wavelength=grid.centres(0)[:size].reshape(-1, step).mean(axis=1),
        reach=leverage(spectrum.info.fiberid or 1, fibres),
        own=-1 if is_sky(spectrum) else 1,
    )


@dataclass
class Pair:
    """Two spectra of one object, the second times `factor`, and how much the pair counts."""

    one: Spectrum
    other: Spectrum
    factor: float
    weight: float
    name: str


def factor_of(one: Spectrum, other: Spectrum, grid: SpectralGrid) -> float:
    """Return what the second spectrum is multiplied by: robustly, by means of eight bins."""
    first, second = placed(one, grid), placed(other, grid)
    hole = ~(np.isfinite(first["flux"]) & np.isfinite(second["flux"]))
    a, b = (blocks(spectrum, grid, 3, 2, hole) for spectrum in (one, other))
    good = a.whole & b.whole
    a_value, b_value, a_variance, b_variance = (array[good] for array in (a.value, b.value, a.alone, b.alone))
    factor, kept = 1.0, np.ones(good.sum(), bool)
    for _ in range(20):
        weight = kept / (a_variance + factor**2 * b_variance)
        factor = (weight * a_value * b_value).sum() / (weight * b_value**2).sum()
        pull = (a_value - factor * b_value) / np.sqrt(a_variance + factor**2 * b_variance)
        kept = np.abs(pull) < 4 * nmad(pull)
    return float(factor)


def read(folder: Path) -> list[Spectrum]:
    """Read all spectra of a folder that have a plate, the sky's level and the bins of SDSS."""
    found = []
    for path in sorted(folder.rglob("*.fits")):
        try:
            spectrum = read_spectrum(path, keep_unknown=True, keep_unclassified=True)
        except FileError:
            continue
        if spectrum.sky is not None and spectrum.first_bin is not None:
            found.append(spectrum)
    return found


def is_sdss(spectrum: Spectrum) -> bool:
    return (spectrum.info.plate or 0) <= LAST_OF_SDSS


def pairs_of(spectra: Sequence[Spectrum]) -> list[Pair]:
    """Return all pairs of spectra within 1 arcsecond that one kind of spectrograph took.

    The n (n − 1) / 2 pairs of n spectra together count n − 1: so many are independent.
    """
    places = unit_vectors([one.info.ra for one in spectra], [one.info.dec for one in spectra])
    found, limit = [], float(chord(1 / 3600))
    for (i, one), (j, other) in combinations(enumerate(spectra), 2):
        near = np.linalg.norm(places[i] - places[j]) < limit
        if near and is_sdss(one) == is_sdss(other) and not is_sky(one):
            same = [k for k, third in enumerate(spectra) if is_sdss(third) == is_sdss(one)]
            group = [k for k in same if np.linalg.norm(places[i] - places[k]) < limit]
            grid = SDSS if is_sdss(one) else BOSS
            name = spectra[group[0]].info.spectrum_id
            found.append(Pair(one, other, factor_of(one, other, grid), 2 / len(group), name))
    return found


class Fit:
    """The cells of some sky fibres and pairs of one kind of spectrograph, and the search for its numbers."""

    def __init__(self, name: str, sky: Sequence[Spectrum], pairs: Sequence[Pair]) -> None:
        self.plates, self.fibres, self.grid, self.knots = SPECTROGRAPHS[name]
        self.name, self.sky, self.pairs = name, sky, pairs
        self.singles = [one for one in SINGLE if sky or one[0] not in OF_SKY_FIBRES]
        # For each cell where its blocks begin, and how much it counts.
        self.starts: list[int] = []
        self.counts: list[float] = []
        self.sides: list[list[tuple[np.ndarray, ...]]] = [[], []]
        self.weights: list[np.ndarray] = []
        self.size = 0
        self._gather()

    def _gather(self) -> None:
        none = np.zeros(self.grid.sizes[0], bool)
        for zoom in range(ZOOMS):
            made = [blocks(one, self.grid, zoom, self.fibres, none) for one in self.sky]
            for low, high in pairwise(REACHES):
                members = [one for one in made if low <= one.reach < high]
                self._add(zoom, PARTS, [(one, None, 1.0) for one in members], np.sqrt(len(members)), ())
            both = []
            for pair in self.pairs:
                holes = [~np.isfinite(placed(one, self.grid)["flux"]) for one in (pair.one, pair.other)]
                hole = holes[0] | holes[1]
                one, other = (
                    blocks(spectrum, self.grid, zoom, self.fibres, hole)
                    for spectrum in (pair.one, pair.other)
                )
                both.append((one, other, pair.factor))
            own = [pair.weight for pair in self.pairs]
            # A cell of sky fibres is one of three steps of the slit, and there are more of them.
            self._add(zoom, PAIR_PARTS, both, np.sqrt(2 * sum(own)), own)

    def _add(
        self,
        zoom: int,
        parts: int,
        members: Sequence[tuple[Blocks, Blocks | None, float]],
        count: float,
        own: Sequence[float],
    ) -> None:
        """Add the cells of one zoom, one for each part of the wavelength range."""
        if not members:
            return
        for part in np.array_split(np.arange(len(members[0][0].value)), parts):
            chosen = part[:: STRIDES[zoom]]
            columns: list[list[tuple[np.ndarray, ...]]] = [[], []]
            weight = []
            for number, (one, other, factor) in enumerate(members):
                good = one.whole[chosen] & (True if other is None else other.whole[chosen])
                for side, blocks_, scale in zip(columns, (one, other), (1.0, factor), strict=True):
                    if blocks_ is not None:
                        side.append(self._row(blocks_, chosen[good], scale))
                weight.append(np.full(good.sum(), own[number] if own else 1.0))
            weight_all = np.concatenate(weight)
            if len(weight_all) < 20:
                continue
            joined = [
                tuple(map(np.concatenate, zip(*side, strict=True))) if side else None for side in columns
            ]
            self.starts.append(self.size)
            self.counts.append(count)
            self.size += len(weight_all)
            self.weights.append(weight_all)
            self.sides[0].append(joined[0])
            self.sides[1].append(joined[1] or tuple(np.zeros_like(column) for column in joined[0]))

    @staticmethod
    def _row(one: Blocks, chosen: np.ndarray, factor: float) -> tuple[np.ndarray, ...]:
        square = factor**2
        same = np.ones(len(chosen))
        return (
            factor * one.value[chosen],
            square * one.alone[chosen],
            square * one.next[chosen],
            square * one.second[chosen],
            factor * one.sky[chosen],
            factor * one.offset[chosen],
            one.wavelength[chosen],
            one.reach * same,
            one.own * same,
        )

    def offset(self) -> float:
        """Return by how much too little sky was subtracted: the median over coarse blocks of sky fibres."""
        none = np.zeros(self.grid.sizes[0], bool)
        ratios = []
        for zoom in COARSE:
            for one in self.sky:
                made = blocks(one, self.grid, zoom, self.fibres, none)
                good = made.whole & (made.offset > 0)
                ratios.append((made.value / made.offset)[good])
        return float(max(np.median(np.concatenate(ratios)), 0)) if ratios else 0.0

    def told(self, search: np.ndarray) -> dict[str, float | np.ndarray]:
        """Return the numbers by name that a point of the search stands for."""
        numbers: dict[str, float | np.ndarray] = dict.fromkeys(OF_SKY_FIBRES, 0.0)
        at = 0
        for name, _, unit in COLUMNS:
            numbers[name] = (search[at : at + len(self.knots)] - 1) * unit
            at += len(self.knots)
        for name, _, unit in self.singles:
            numbers[name] = abs(float(search[at] - 1)) * unit
            at += 1
        # Pairs alone, most of two plates, tell too little to tell where there is more.
        for name in () if self.sky else ("calibration", "sky_residual"):
            numbers[name] = np.full(len(self.knots), np.mean(numbers[name]))
        # The search runs over moving averages, of which any numbers are noise that can be.
        one, two = numbers.pop("first_average"), numbers.pop("second_average")
        power = 1 + one**2 + two**2
        for name in ("calibration", "sky_residual"):
            numbers[name] = np.abs(numbers[name])
        return numbers | {"next": one * (1 + two) / power, "second": two / power}

    def run(self) -> dict[str, float | np.ndarray]:
        """Return the numbers that bring the scatter of all cells closest to 1."""
        begin = [value / unit + 1 for _, value, unit in COLUMNS for _ in self.knots]
        begin += [value / unit + 1 for _, value, unit in self.singles]
        first, second = (tuple(map(np.concatenate, zip(*side, strict=True))) for side in self.sides)
        offset = self.offset()
        weights = np.concatenate(self.weights)
        ends = [*self.starts[1:], self.size]

        def misfit(search: np.ndarray) -> np.ndarray:
            told = self.told(search)
            value = first[0] - offset * first[5] - (second[0] - offset * second[5])
            pull = value / np.sqrt(self._variance(told, first, offset) + self._variance(told, second, offset))
            return np.array(
                [
                    # About 0: about its median a cell of few fibres would lose what these share.
                    count * np.log(1.4826 * weighted_median(np.abs(pull[start:end]), weights[start:end]))
                    for start, end, count in zip(self.starts, ends, self.counts, strict=True)
                ]
            )

        # Medians move in small steps: differences are taken over 2 % of a unit.
        found = least_squares(misfit, np.array(begin), diff_step=0.02, loss="soft_l1", max_nfev=25)
        return self.told(found.x) | {"offset": offset}

    def _variance(
        self, told: dict[str, float | np.ndarray], side: tuple[np.ndarray, ...], offset: float
    ) -> np.ndarray:
        value, alone, following, second, sky, off, wavelength, reach, own = side
        scale, near, far, calibration, residual = (
            np.interp(wavelength, self.knots, told[name])
            for name in ("scale", "next", "second", "calibration", "sky_residual")
        )
        own_part = alone + 2 * near * following + 2 * far * second
        own_part = scale**2 * np.maximum(own_part, 0.05 * alone)
        own_part *= np.maximum(1 + own * told["sky_fit"] * reach, 0.1)
        rest = residual * (np.maximum(reach, 1e-9) / 4) ** told["sky_residual_slit"] * sky
        return own_part + rest**2 + (calibration * (value - offset * off)) ** 2


def fitted(name: str, sky: Sequence[Spectrum], pairs: Sequence[Pair]) -> dict[str, object]:
    """Return the section of the model's file for one kind of spectrograph, fitted to these spectra."""
    fit = Fit(name, sky, pairs)
    told = fit.run()
    numbers = {
        key: [round(float(one), 4) for one in value] if isinstance(value, np.ndarray) else round(value, 4)
        for key, value in told.items()
    }
    evidence = {
        "sky_fibres": len(sky),
        "sky_plates": plates_of(sky),
        "pairs": len(pairs),
        "objects": len({pair.name for pair in pairs}),
        "pair_plates": plates_of(one for pair in pairs for one in (pair.one, pair.other)),
    }
    head = {"name": name, "plates": fit.plates, "fibres": fit.fibres, "wavelength": fit.knots}
    return head | numbers | {"evidence": evidence}


def plates_of(spectra: Iterable[Spectrum]) -> list[int]:
    return sorted({int(one.info.plate or 0) for one in spectra})


def model_of(sky: Sequence[Spectrum], pairs: Sequence[Pair]) -> NoiseModel:
    """Fit all spectrographs of which there are data."""
    sections = []
    for name in SPECTROGRAPHS:
        sdss = name != "BOSS"
        own_sky = [one for one in sky if is_sdss(one) == sdss]
        own_pairs = [pair for pair in pairs if is_sdss(pair.one) == sdss]
        if own_pairs:
            sections.append(fitted(name, own_sky, own_pairs))
    return NoiseModel.model_validate({"name": "sdss", "version": 1, "spectrographs": sections})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with sdss_sky_fibres and sdss_spectra")
    parser.add_argument("-o", "--output", type=Path, required=True, help="YAML file to write")
    options = parser.parse_args()
    sky = read(options.data / "sdss_sky_fibres")
    pairs = pairs_of(read(options.data / "sdss_spectra" / "objects"))
    model = model_of(sky, pairs)
    head = "# Written by scripts/noise_model.py from fibres on empty sky and repeated spectra; see there.\n"
    text = yaml.safe_dump(model.model_dump(), sort_keys=False, default_flow_style=None, width=110)
    options.output.write_text(head + text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
