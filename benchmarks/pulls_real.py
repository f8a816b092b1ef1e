"""Acceptance: pulls of real SDSS spectra with the noise model, on data that took no part in fitting it.

Fibres on empty sky, whose true flux is 0: the model is fitted to those of half of the plates and judged on
the other half, for every way of halving them, both ways. Repeated spectra of one object: (a − b) / √(σa² +
σb²) after one factor for each pair, all pairs together; with the model of all data, and with models that saw
no spectrum of the object. NMAD is the normalised median absolute deviation, 1 where σ is right.

How far a figure strays by chance is told by drawing whole fibres again with replacement: what all bins of a
fibre have in common, it has but once.

    python benchmarks/pulls_real.py ../shared/data
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from noise_model import ZOOMS, Pair, is_sdss, model_of, nmad, pairs_of, plates_of, read
from skyfuse.cube.grid import BOSS, SDSS
from skyfuse.cube.pyramid import spectrum_levels
from skyfuse.survey.noise import FORMAL, MODEL, NoiseModel
from skyfuse.survey.records import Spectrum

PARTS = 12
DRAWS = 200


def sky_pulls(spectra: Sequence[Spectrum], sigma: NoiseModel | str) -> list[np.ndarray]:
    """Return value / σ of whole blocks by zoom, shape (spectra, bins), NaN elsewhere."""
    made = [spectrum_levels(one, SDSS, ZOOMS, sigma=sigma) for one in spectra]
    out = []
    for zoom in range(ZOOMS):
        value, error, coverage = (
            np.array([levels[zoom][part] for levels in made], np.float64) for part in range(3)
        )
        out.append(np.where(coverage == 1, value / error, np.nan))
    return out


def pair_pulls(pairs: Sequence[Pair], sigma: NoiseModel | str) -> list[list[np.ndarray]]:
    """Return (a − b) / √(σa² + σb²) by pair and zoom."""
    out = []
    for pair in pairs:
        grid = SDSS if is_sdss(pair.one) else BOSS
        sides = [spectrum_levels(one, grid, ZOOMS, sigma=sigma) for one in (pair.one, pair.other)]
        own = []
        for one, other in zip(*sides, strict=True):
            apart = one.value.astype(np.float64) - pair.factor * other.value
            error = np.hypot(one.sigma.astype(np.float64), pair.factor * other.sigma)
            whole = (one.coverage == 1) & (other.coverage == 1)
            own.append((apart / error)[whole])
        out.append(own)
    return out


def spread(pulls: np.ndarray) -> tuple[float, float]:
    """Return NMAD and median."""
    known = pulls[np.isfinite(pulls)]
    return nmad(known), float(np.median(known))


def chance(pulls: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the standard errors of NMAD and median by zoom, shape (zooms, 2)."""
    count = len(pulls[0])
    drawn = [rng.integers(0, count, count) for _ in range(DRAWS)]
    return np.array([np.std([spread(one[rows]) for rows in drawn], axis=0) for one in pulls])


def twelfths(pulls: np.ndarray) -> list[float]:
    """Return the NMAD of each twelfth of the wavelength range; NaN where nothing is valid."""
    parts = np.array_split(np.arange(pulls.shape[1]), PARTS)
    return [spread(pulls[:, part])[0] if np.isfinite(pulls[:, part]).any() else np.nan for part in parts]


def row(title: str, numbers: Sequence[float]) -> None:
    print(f"{title:<58}" + "".join(f"{number:9.3f}" for number in numbers))


def show_sky(sky: Sequence[Spectrum], pairs: Sequence[Pair]) -> None:
    rng = np.random.default_rng(11)
    for title, sigma in (("formal σ", FORMAL), ("shipped model, fitted to all of them", MODEL)):
        pulls = sky_pulls(sky, sigma)
        row(f"{title}: NMAD", [spread(one)[0] for one in pulls])
        row(f"{title}: median", [spread(one)[1] for one in pulls])
    errors = chance(pulls, rng)
    row("standard error of NMAD, all fibres", errors[:, 0])
    row("standard error of the median, all fibres", errors[:, 1])
    plates = plates_of(sky)
    halves, parts = [], []
    together: list[list[np.ndarray]] = [[] for _ in range(ZOOMS)]
    for chosen in combinations(plates, len(plates) // 2):
        inside = [one for one in sky if one.info.plate in chosen]
        outside = [one for one in sky if one.info.plate not in chosen]
        pulls = sky_pulls(outside, model_of(inside, [pair for pair in pairs if is_sdss(pair.one)]))
        halves.append([spread(one) for one in pulls])
        parts.append([twelfths(one) for one in pulls])
        for zoom, one in enumerate(pulls):
            together[zoom].append(one)
    joined = [np.concatenate(one) for one in together]
    found, by_part = np.array(halves), np.array(parts)
    print(f"\nfitted on half of the plates, judged on the other half, {len(halves)} times:")
    row("NMAD, all judged fibres together (bound 1 ± 0.04)", [spread(one)[0] for one in joined])
    row("median, all judged fibres together (bound ± 0.05)", [spread(one)[1] for one in joined])
    row("NMAD, mean of the halvings", found[:, :, 0].mean(axis=0))
    row("NMAD, standard deviation of the halvings", found[:, :, 0].std(axis=0))
    row("halvings within 1 ± 0.04", (np.abs(found[:, :, 0] - 1) <= 0.04).mean(axis=0))
    row("median, standard deviation of the halvings", found[:, :, 1].std(axis=0))
    row("halvings with a median within ± 0.05", (np.abs(found[:, :, 1]) <= 0.05).mean(axis=0))
    pooled = np.array([twelfths(one) for one in joined])
    row("twelfths, all judged together: least NMAD", np.nanmin(pooled, axis=1))
    row("twelfths, all judged together: largest (bound 1 ± 0.12)", np.nanmax(pooled, axis=1))
    row("twelfths of the halvings within 1 ± 0.12", np.nanmean(np.abs(by_part - 1) <= 0.12, axis=(0, 2)))


def show_pairs(sky: Sequence[Spectrum], pairs: Sequence[Pair]) -> None:
    for kind, own in (
        ("SDSS-I and II", [pair for pair in pairs if is_sdss(pair.one)]),
        ("BOSS", [pair for pair in pairs if not is_sdss(pair.one)]),
    ):
        names = sorted({pair.name for pair in own})
        print(f"\nrepeats, {kind}: {len(own)} pairs of {len(names)} objects (bound 1 ± 0.1)")
        for title, sigma in (("formal σ", FORMAL), ("shipped model, fitted to them too", MODEL)):
            pulls = pair_pulls(own, sigma)
            row(f"{title}: NMAD", [nmad(np.concatenate(one)) for one in zip(*pulls, strict=True)])
        found: list[list[np.ndarray]] = []
        for name in names:
            others = [pair for pair in own if pair.name != name]
            found += pair_pulls(
                [pair for pair in own if pair.name == name],
                model_of(sky if kind != "BOSS" else [], others),
            )
        row(
            "models that saw no spectrum of the object: NMAD",
            [nmad(np.concatenate(one)) for one in zip(*found, strict=True)],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with sdss_sky_fibres and sdss_spectra")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    sky = read(options.data / "sdss_sky_fibres")
    pairs = pairs_of(read(options.data / "sdss_spectra" / "objects"))
    print(f"{len(sky)} fibres on empty sky of {len(plates_of(sky))} plates, {len(pairs)} pairs")
    row("zoom", range(ZOOMS))
    show_sky(sky, pairs)
    show_pairs(sky, pairs)


if __name__ == "__main__":
    main()
