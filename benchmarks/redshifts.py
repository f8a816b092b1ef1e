"""Class and redshift of real spectra: the full template fit against the learned model, in one run.

Both read the same spectra at the native bins of the grid ``sdss``, with σ, in one call for all test objects,
on one core. The full fit tries every redshift of every template set; the learned model proposes and fits a
few. Objects are cross-validated in five parts, those at one place together; sky and failed fibres take no
part in any fit. Times are of the processor, so that neighbours do not count.

Example: python benchmarks/redshifts.py ../shared/data/sdss_spectra ../shared/data/templates/idlspec2d
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
    parser.add_argument("--draws", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    x, facts = read(options.spectra)
    known, sky = np.flatnonzero(~facts["sky"]), np.flatnonzero(facts["sky"])
    places = np.stack([np.round(facts["ra"][known] * 1200), np.round(facts["dec"][known] * 1200)], axis=1)
    _, group = np.unique(places, axis=0, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % ROUNDS

    def take(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[rows] for name, array in x.items()}

    speed: dict[str, float] = {}
    for name, model_class, extra in (
        ("template", Template, {}),
        ("hybrid", Hybrid, {"draws": options.draws, "epochs": options.epochs}),
    ):
        label, redshift = np.full(len(fold), -1), np.full(len(fold), np.nan)
        unknown, flagged, seconds = np.zeros(len(fold), bool), [], []
        for number in range(ROUNDS):
            test, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            valid, train = rest[::8], np.setdiff1d(rest, rest[::8])
            for kind, y in (("classification", facts["class"]), ("regression", facts["z"])):
                model = model_class(templates=str(options.templates), **extra)
                model.fit(
                    Examples(take(known[train]), y[known[train]]),
                    Examples(take(known[valid]), y[known[valid]]),
                    seed=number,
                    kind=kind,
                    classes=CLASSES if kind == "classification" else (),
                )
                inputs = take(known[test])
                model.predict(take(known[test[:1]]))
                started = time.process_time()
                found = model.predict(inputs)
                seconds.append((time.process_time() - started) / len(test))
                if kind == "regression":
                    redshift[test] = found.value
                else:
                    label[test], unknown[test] = found.value, found.unknown
                    flagged.append(int(model.predict(take(sky)).unknown.sum()) if len(sky) else 0)
        error = np.abs(redshift - facts["z"][known]) / (1 + facts["z"][known])
        outliers = [
            f"{(error[rows] > 0.01).sum()} of {len(error[rows])} {kind}"
            for kind, rows in ((kind, facts["class"][known] == i) for i, kind in enumerate(CLASSES[:2]))
        ]
        speed[name] = float(np.median(seconds))
        print(
            f"{name}: accuracy {(label == facts['class'][known]).mean():.4f} of {len(known)}; "
            f"outliers {' and '.join(outliers)}; unknown {unknown.mean():.3f} of known objects and "
            f"{min(flagged)} to {max(flagged)} of {len(sky)} sky fibres; "
            f"{speed[name] * 1e3:.3f} ms a spectrum",
            flush=True,
        )
    print(f"the learned model is {speed['template'] / speed['hybrid']:.0f} times faster")


if __name__ == "__main__":
    main()
