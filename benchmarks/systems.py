"""How far catalogues of star-formation rates lie from each other, over three tables joined by position.

    python benchmarks/systems.py [../shared/data/tables]

ALFALFA and SDSS (GSWLC-2; 0.23 and 22 µm; 22 µm alone), xGASS (MPA-JHU; its best rate) and xCOLD GASS
(MPA-JHU; its fit; its best rate), joined within 5″. Offset and scale come from one half of the galaxies that
have both and are judged on the other, in turns. Each pair has its number of galaxies, its rms before and
after, and the correlation: the R² that a model of either reaches at best if both err alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from skyfuse.dataset.match import closest_first, find_pairs
from skyfuse.dataset.select import numbers
from skyfuse.study.systems import Measured, pairs
from skyfuse.survey.tables import read_table, without_sentinels

TABLES = Path(__file__).parents[2] / "shared" / "data" / "tables"
RATES = {
    "alfalfa_sdss_durbala2020": {
        "GSWLC-2": "logSFRGSWLC",
        "0.23 + 22 µm": "logSFRNUVIR",
        "22 µm": "logSFR22",
    },
    "xgass_representative_sample": {
        "MPA-JHU (xGASS)": "lgSFR_tot_median",
        "best of xGASS": "log10(SFR_best)",
    },
    "xcoldgass_pubcat": {
        "MPA-JHU (xCOLD GASS)": "LOGSFR_MPAJHU",
        "fit of xCOLD GASS": "LOGSFR_SED",
        "best of xCOLD GASS": "LOGSFR_BEST",
    },
}
REACH = 5.0
"""Distance of two rows of one galaxy, arcsec."""


def joined(folder: Path) -> pd.DataFrame:
    """Return one row a galaxy, with the rates of all tables."""
    whole = pd.DataFrame({"RA": [], "DEC": []})
    for name, columns in RATES.items():
        table = without_sentinels(read_table(folder / f"{name}.fits"))[0]
        rates = {system: numbers(table, column) for system, column in columns.items()}
        own = pd.DataFrame({"RA": table["RA"], "DEC": table["DEC"], **rates})
        found = find_pairs(whole["RA"], whole["DEC"], own["RA"], own["DEC"], REACH)
        found = found.take(closest_first(found))
        met = own[[*rates]].iloc[found.b].set_axis(found.a)
        rest = own.drop(index=own.index[found.b])
        whole = pd.concat([whole.join(met), rest], ignore_index=True)
    return whole


def main() -> None:
    table = joined(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLES)
    names = [name for columns in RATES.values() for name in columns]
    order = np.random.default_rng(0).permutation(len(table))
    halves = order[::2], order[1::2]
    rounds = [{"train": a, "test": b} for a, b in (halves, halves[::-1])]
    found = pairs({name: Measured(table[name].to_numpy(), None) for name in names}, rounds)
    print(found.drop(columns="stated").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
