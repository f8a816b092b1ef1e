"""Models asked for samples that are not like their training: who is marked, and what is promised.

"marked": the DR14 table of 10,000 classes is cut by magnitude, hard or with a soft edge; models are trained
and calibrated on the bright part. It prints the share of like objects that are marked, the share of the
fainter objects beyond the training's least or greatest value that are marked, and the coverage of the 90 %
sets of all, of those inside, and of those for whom predict states the level.

"promised": models are trained and calibrated on one of two samples and `calibrate --for` is asked about the
other, whose labels only judge: ECO and RESOLVE (objects that both hold are left out of the target), and pairs
cut out of one table by a soft edge in magnitude, where labels follow the inputs alike. It prints the coverage
without and with weights, or the reason of a refusal.

Example: python benchmarks/shift.py ../shared/data/tables --seeds 3
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.errors import DataError
from skyfuse.models import MODELS, Examples, Model
from skyfuse.models.applicability import Applicability
from skyfuse.models.promise import SIGMAS, Sample, borne_out, promised
from skyfuse.models.shift import Evidence
from skyfuse.models.summaries import summarise

LEVEL = 0.9
SHARES = (0.75, 0.125)  # training and validation; the rest calibrates, as in a split by survey
PARAMETERS: dict[str, dict[str, Any]] = {
    "knn": {"k": 20},
    "svm": {"C": 10.0, "gamma": 0.05},
    "tree": {"max_depth": 6},
    "lightgbm": {"learning_rate": 0.05, "max_depth": 5},
}


class Objects:
    """Inputs, labels and other columns of a sample."""

    def __init__(
        self, table: pd.DataFrame, columns: list[str], label: NDArray[Any], hidden: tuple[str, ...] = ()
    ) -> None:
        bands = table[columns].to_numpy(np.float64)
        colours = [f"{a}-{b}" for a, b in pairwise(columns)]
        self.names = [*columns, *colours]
        self.x = np.concatenate([bands, bands[:, :-1] - bands[:, 1:]], axis=1).astype(np.float32)
        self.y = label
        self.others = {
            name: table[name].to_numpy(np.float64)
            for name in map(str, table.columns)
            if pd.api.types.is_numeric_dtype(table[name])
            and name not in columns
            and not any(fnmatch.fnmatch(name, pattern) for pattern in hidden)
        }

    def __getitem__(self, rows: NDArray[Any]) -> Objects:
        part = object.__new__(Objects)
        part.names, part.x, part.y = self.names, self.x[rows], self.y[rows]
        part.others = {name: values[rows] for name, values in self.others.items()}
        return part

    def __len__(self) -> int:
        return len(self.y)

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Inputs of a model."""
        return {"table": self.x}


def fitted(
    name: str, source: Objects, seed: int, classes: tuple[str, ...], shares: tuple[float, float]
) -> Model:
    """Return a model trained and calibrated on one sample."""
    order = np.random.default_rng(seed).permutation(len(source))
    cuts = np.cumsum([int(share * len(source)) for share in shares])
    train, valid, own = (source[rows] for rows in np.split(order, cuts))
    model = MODELS[name](**PARAMETERS.get(name, {}))
    options: dict[str, Any] = {"kind": "classification", "classes": classes} if classes else {}
    model.fit(Examples(train.arrays, train.y), Examples(valid.arrays, valid.y), seed=seed, **options)
    model.calibrate(own.arrays, own.y, level=LEVEL)
    model.applicability = Applicability.fit(summarise(train.arrays, source.names))
    model.evidence = Evidence.of(model, own.arrays, own.y, own.others)
    return model


def covered(limits: dict[str, NDArray[Any]], y: NDArray[Any]) -> NDArray[np.bool_]:
    if "members" in limits:
        return np.asarray(limits["members"][np.arange(len(y)), y])
    return np.asarray((limits["low"] <= y) & (y <= limits["high"]))


def ask(model: Model, target: Objects) -> tuple[str, float, float]:
    """Return what is said of a target, and the coverage there without and with weights (NaN if refused)."""
    assert model.applicability is not None
    assert model.evidence is not None
    summary = summarise(target.arrays, target.names)
    arrays = model._inside(target.arrays)
    output = model._output(arrays)
    outside = model.applicability.outside(summary) != ""
    known = {
        name: target.others[name][np.isfinite(target.others[name])]
        for name in model.evidence.columns
        if name in target.others
    }
    values = output.value.reshape(len(target), -1)
    sample = Sample(model.applicability.places(summary), values, outside, known)
    before = float(covered(model.interval.limits(output, arrays), target.y).mean())
    try:
        weighted, promise = promised(model.applicability, model.interval, model.evidence, sample)
    except DataError as error:
        return f"refused: {error.fault.removeprefix('no level can be promised for it: ')}", before, np.nan
    within = covered(weighted.limits(output, arrays), target.y)[~outside]
    said = f"promised: {promise.effective:.0f} of {promise.calibrated} tell, ± {SIGMAS * promise.spread:.3f}"
    return said, before, float(within.mean())


def galaxies(folder: Path) -> dict[str, pd.DataFrame]:
    names = {"RESOLVE": "RESOLVE_full_raw.csv", "ECO": "ECO_full_snr5_dext_jhu.csv"}
    tables = {name: pd.read_csv(folder / "resolve_eco" / file) for name, file in names.items()}
    return {
        name: table[table["umag"].between(5, 30) & table["zmag"].between(5, 30)].reset_index(drop=True)
        for name, table in tables.items()
    }


RATE = ("nuvmag", "uvm2mag", "sfr*", "fsmgr*", "*meanfsmgr*", "logm*")
MASS = ("logm*", "mu_*", "grpms", "absrmag*", "sfr*")


def surveys(folder: Path, seeds: int, shares: tuple[float, float]) -> list[tuple[str, float, bool]]:
    """Ask every model about ECO from RESOLVE and the reverse; return name, coverage and whether promised."""
    tables = galaxies(folder)
    both = set(tables["RESOLVE"]["econame"]) & set(tables["ECO"]["name"])
    found = []
    for label, hidden in (("log SFR", RATE), ("log mass", MASS)):
        samples = {}
        for name, table in tables.items():
            y = np.log10(table["sfr_nuv"]) if label == "log SFR" else table["logmstar"]
            samples[name] = Objects(table, ["umag", "gmag", "rmag", "imag", "zmag"], y.to_numpy(), hidden)
        for source, target in (("RESOLVE", "ECO"), ("ECO", "RESOLVE")):
            own = tables[target]["name" if target == "ECO" else "econame"]
            rest = samples[target][~own.isin(both).to_numpy()]
            for name in ("linear", "knn", "svm", "tree", "lightgbm"):
                for seed in range(seeds):
                    said, before, after = ask(fitted(name, samples[source], seed, (), shares), rest)
                    case = f"{label} {source} -> {target} {name} {seed}"
                    print(f"  {case:40} {before:.3f} -> {after:.3f}  {said}", flush=True)
                    found.append((case, after, bool(np.isfinite(after))))
    return found


def soft(magnitude: NDArray[np.float64], quantile: float, width: float, seed: int) -> NDArray[np.bool_]:
    """Return which objects count as bright, with a logistic edge of some width in magnitudes."""
    edge = np.quantile(magnitude, quantile)
    chance = 1 / (1 + np.exp(np.clip((magnitude - edge) / max(width, 1e-6), -50, 50)))
    return np.asarray(np.random.default_rng(seed).random(len(magnitude)) < chance)


def simulated(folder: Path, seeds: int) -> list[tuple[str, float, bool]]:
    """Ask about the faint part of a table whose bright part was learned from."""
    dr14 = pd.read_csv(folder / "sdss_dr14_skyserver_10k.csv")
    found = []
    classes = ("GALAXY", "QSO", "STAR")
    y = dr14["class"].map({name: k for k, name in enumerate(classes)}).to_numpy()
    whole = Objects(dr14, list("ugriz"), y, ("*",))
    for width in (0.4, 0.8, 1.5):
        for quantile in (0.4, 0.6, 0.8):
            for seed in range(seeds):
                bright = soft(dr14["r"].to_numpy(), quantile, width, seed)
                model = fitted("lightgbm", whole[bright], seed, classes, (0.6, 0.1))
                said, before, after = ask(model, whole[~bright])
                case = f"DR14 r edge {quantile} width {width} {seed}"
                print(f"  {case:40} {before:.3f} -> {after:.3f}  {said}", flush=True)
                found.append((case, after, bool(np.isfinite(after))))
    return found


def marked(folder: Path, seeds: int) -> bool:
    """Cut the DR14 table by magnitude and tell who is marked; return whether the bounds hold."""
    dr14 = pd.read_csv(folder / "sdss_dr14_skyserver_10k.csv")
    classes = ("GALAXY", "QSO", "STAR")
    y = dr14["class"].map({name: k for k, name in enumerate(classes)}).to_numpy()
    whole, fine = Objects(dr14, list("ugriz"), y, ("*",)), True
    for band in "gri":
        for quantile in (0.3, 0.5, 0.7, 0.9):
            for width in (0.0, 0.4):
                for seed in range(seeds):
                    bright = soft(dr14[band].to_numpy(), quantile, width, seed)
                    like = bright & (np.random.default_rng(seed + 100).random(len(bright)) < 0.2)
                    source = whole[bright & ~like]
                    model = fitted("lightgbm", source, seed, classes, (0.8, 0.1))
                    assert model.applicability is not None
                    faint = whole[~bright]
                    told = model.applicability.outside(summarise(faint.arrays, whole.names)) != ""
                    usual = model.applicability.outside(summarise(whole[like].arrays, whole.names)) != ""
                    beyond = ((faint.x < source.x.min(axis=0)) | (faint.x > source.x.max(axis=0))).any(axis=1)
                    arrays = model._inside(faint.arrays)
                    within = covered(model.interval.limits(model._output(arrays), arrays), faint.y)
                    kept = ~told
                    places = model.applicability.places(summarise(faint.arrays, whole.names))
                    if model.applicability.drift(
                        model.applicability.counts(summarise(faint.arrays, whole.names))
                    ):
                        kept &= borne_out(model.interval, model.evidence, places)
                    rest = within[kept]
                    share = told[beyond].mean() if beyond.any() else np.nan
                    good = not share < 0.95 and (len(rest) < 200 or rest.mean() >= 0.87)
                    fine &= good
                    print(
                        f"  {band} edge {quantile} width {width} {seed}: of like objects {usual.mean():.3f} "
                        f"marked; of {len(faint)} fainter ones {beyond.mean():.2f} beyond the range, "
                        f"{share:.3f} of these and {told.mean():.2f} of all marked; coverage "
                        f"{within.mean():.3f}, of those inside {within[~told].mean():.3f}, where the level "
                        f"is stated ({kept.mean():.2f}) {rest.mean() if len(rest) else np.nan:.3f}"
                        f"{'' if good else ' MISSED'}",
                        flush=True,
                    )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="../shared/data/tables")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=("marked", "surveys", "simulated"))
    parser.add_argument("--calibration", type=float, default=1 - sum(SHARES), help="share that calibrates")
    options = parser.parse_args()
    kept = 1 - options.calibration
    shares = (kept * 6 / 7, kept / 7)
    fine, asked = True, []
    if options.only in (None, "marked"):
        print("marked, DR14 cut by magnitude:")
        fine &= marked(options.folder, options.seeds)
    if options.only in (None, "surveys"):
        print("promised, ECO and RESOLVE:")
        asked += surveys(options.folder, options.seeds, shares)
    if options.only in (None, "simulated"):
        print("promised, one table cut by a soft edge:")
        asked += simulated(options.folder, options.seeds)
    kept_ones = np.array([after for _, after, promise in asked if promise])
    wrong = ((kept_ones < 0.85) | (kept_ones > 0.95)).sum()
    print(f"\n{len(asked)} asked, {len(kept_ones)} promised, {wrong} of these outside 0.85 to 0.95")
    return int(not fine or wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
