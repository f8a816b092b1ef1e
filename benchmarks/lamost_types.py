"""What the LAMOST DR1 pipeline calls stars of an MK type, from its own table of stellar parameters.

The pipeline names a star by the nearest of a few templates (F2, F5, F9, G0, G2, G5, K1, K3, K5, K7), which
are not ordered by temperature (F9 is cooler than G2) and hold no giants (those of K0 and K1 become G5). For
each MK type the share of each letter is the mean over stars of the table near its temperature (Gaussian,
80 K) and of its gravity: dwarfs above log g 3.5, giants below. Temperatures of dwarfs are those of Pecaut &
Mamajek (2013, ApJS 208, 9, table 5), of giants those of Cox (2000, Allen's Astrophysical Quantities, table
15.7), in between linear. The result stands in `skyfuse.startypes`. Stars of plan B6212 are left out, so that
spectra of it can judge.

Example: python benchmarks/lamost_types.py ../shared/data/tables/lamost_dr1_stellar_params_3166.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

# fmt: off
DWARFS = {
    "F2": 6820, "F5": 6550, "F6": 6340, "F8": 6180, "F9": 6050, "G0": 5930, "G1": 5860, "G2": 5770,
    "G4": 5680, "G5": 5660, "G8": 5480, "G9": 5380,
    "K0": 5270, "K1": 5170, "K2": 5100, "K3": 4830, "K4": 4600,
}
GIANTS = {"G5": 5050, "G8": 4800, "G9": 4730, "K0": 4660, "K1": 4525, "K2": 4390, "K3": 4280, "K4": 4165}
# fmt: on
LEFT_OUT = "B6212"
WIDTH = 80.0
LETTERS = "FGK"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    table = pd.read_csv(parser.parse_args().table)
    table = table[(table["planid"] != LEFT_OUT) & table["subclass"].str[0].isin(list(LETTERS))]
    letter = table["subclass"].str[0].to_numpy()
    for name, rows, types in (
        ("dwarfs", table["logg"] >= 3.5, DWARFS),
        ("giants", table["logg"] < 3.5, GIANTS),
    ):
        print(f"{name}: {int(rows.sum())} stars")
        teff, own = table["teff"].to_numpy()[rows], letter[rows]
        for mk, temperature in types.items():
            near = np.exp(-0.5 * ((teff - temperature) / WIDTH) ** 2)
            shares = [near[own == one].sum() / near.sum() for one in LETTERS]
            told = ", ".join(f"{one} {share:.2f}" for one, share in zip(LETTERS, shares, strict=True))
            print(f"  {mk} {temperature} K: {told}; {near.sum():.0f} stars")


if __name__ == "__main__":
    main()
