r"""Class and redshift of real spectra: the full template fit against the hybrid, in one run.

Both read the same spectra at the native bins of the grid ``sdss``, with σ, in one call for all test objects,
on one core. The full fit tries every redshift of every template set; the hybrid proposes and fits a few.
Objects are cross-validated in five parts, those at one place together; a third of the others calibrates the
redshifts' pieces. Sky and failed fibres, and those of `--sky`, take no part in any fit. Times are of the
processor, so that neighbours do not count.

Example: python benchmarks/redshifts.py ../shared/data/sdss_spectra ../shared/data/templates/idlspec2d \
    --sky ../shared/data/sdss_sky_fibres
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from skyfuse.cube.grid import SDSS
from skyfuse.models import Examples
from skyfuse.models.hybrid import Hybrid
from skyfuse.models.template import Template
from skyfuse.survey.sdss.spectra import read_spectrum

CLASSES = ("GALAXY", "QSO", "STAR")
ROUNDS = 5


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the spectra on the grid, and what the pipeline says of each."""
    files = sorted(folder.rglob("spec-*.fits"))
    x = {
        name: np.full((len(files), SDSS.sizes[0]), np.nan, np.float32)
        for name in ("spectrum", "spectrum_sigma")
    }
    facts: dict[str, list[float]] = {"class": [], "z": [], "ra": [], "dec": [], "sky": []}
    for i, file in enumerate(files):
        spectrum = read_spectrum(file, keep_unknown=True)
        at = spectrum.first_bin - SDSS.first_bin + np.arange(len(spectrum.flux))
        inside = (at >= 0) & (at < SDSS.sizes[0])
        x["spectrum"][i, at[inside]] = spectrum.flux[inside]
        x["spectrum_sigma"][i, at[inside]] = spectrum.sigma[inside]
        facts["class"].append(CLASSES.index(spectrum.catalogue["class"]))
        facts["z"].append(spectrum.catalogue["z"])
        facts["ra"].append(spectrum.info.ra)
        facts["dec"].append(spectrum.info.dec)
        # Bits of ZWARNING: sky fibre, unplugged, bad target, no data.
        no_object = bool(spectrum.catalogue["zwarning"] & 0b1110000001)
        facts["sky"].append(no_object or file.parent.name == "sky_fibres")
    return x, {name: np.array(values) for name, values in facts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spectra", type=Path)
    parser.add_argument("templates", type=Path)
    parser.add_argument("--sky", type=Path, help="folder of more fibres on empty sky")
    options = parser.parse_args()
    x, facts = read(options.spectra)
    more = read(options.sky)[0] if options.sky else {name: array[:0] for name, array in x.items()}
    known, sky = np.flatnonzero(~facts["sky"]), np.flatnonzero(facts["sky"])
    places = np.stack([np.round(facts["ra"][known] * 1200), np.round(facts["dec"][known] * 1200)], axis=1)
    _, group = np.unique(places, axis=0, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % ROUNDS

    def take(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[rows] for name, array in x.items()}

    speed: dict[str, float] = {}
    for name, model_class in (("template", Template), ("hybrid", Hybrid)):
        label, redshift = np.full(len(fold), -1), np.full(len(fold), np.nan)
        unknown, held, width = (np.zeros(len(fold)) for _ in range(3))
        flagged, empty, seconds = [], [], []
        for number in range(ROUNDS):
            test, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            valid = rest[::3]
            train = np.setdiff1d(rest, valid)
            for kind, y in (("classification", facts["class"][known]), ("regression", facts["z"][known])):
                model = model_class(templates=str(options.templates))
                model.fit(
                    Examples(take(known[train]), y[train]),
                    Examples(take(known[valid]), y[valid]),
                    seed=number,
                    kind=kind,
                    classes=CLASSES if kind == "classification" else (),
                )
                inputs = take(known[test])
                model.predict(take(known[test[:1]]))
                started = time.process_time()
                found = model.predict(inputs)
                seconds.append((time.process_time() - started) / len(test))
                if kind == "classification":
                    label[test], unknown[test] = found.value, found.unknown
                    flagged.append(int(model.predict(take(sky)).unknown.sum()) if len(sky) else 0)
                    empty.append(float(model.predict(more).unknown.mean()) if options.sky else np.nan)
                    continue
                redshift[test] = found.value
                # The calibration part has helped to learn the density's few numbers, as a validation part.
                model.calibrate(take(known[valid]), y[valid])
                low, high = np.moveaxis(model.predict(inputs).pieces, -1, 0)
                held[test] = ((low <= y[test, None]) & (y[test, None] <= high)).any(axis=1)
                width[test] = np.nansum(high - low, axis=1)
        error = np.abs(redshift - facts["z"][known]) / (1 + facts["z"][known])
        outliers = [
            f"{(error[rows] > 0.01).sum()} of {len(error[rows])} {kind}"
            for kind, rows in ((kind, facts["class"][known] == i) for i, kind in enumerate(CLASSES[:2]))
        ]
        speed[name] = float(np.median(seconds))
        print(
            f"{name}: accuracy {(label == facts['class'][known]).mean():.4f} of {len(known)}; "
            f"outliers {' and '.join(outliers)}; 90 % redshifts: coverage {held.mean():.3f}, "
            f"median width {np.median(width):.5f}; unknown {unknown.mean():.3f} of known objects, "
            f"{min(flagged)} to {max(flagged)} of {len(sky)} sky fibres, and "
            f"{np.min(empty):.3f} to {np.max(empty):.3f} of {len(next(iter(more.values())))} others; "
            f"{speed[name] * 1e3:.3f} ms a spectrum",
            flush=True,
        )
    print(f"the hybrid is {speed['template'] / speed['hybrid']:.0f} times faster")


if __name__ == "__main__":
    main()
