"""What is one file for all objects of a mock: the truth, and the tables of the surveys."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from skyfuse.mock import catalogue, gaia, lamost, sdss, truth, zoo
from skyfuse.mock.files import write_once
from skyfuse.mock.sky import Sky
from skyfuse.mock.spectra import BANDS


@dataclass(frozen=True, slots=True)
class Batch:
    """What some targets give to the tables.

    Attributes
    ----------
    rows : list of dict
        Of the truth table.
    flux : ndarray, shape (n, 5)
        True fluxes, nanomaggies.
    votes : list of dict or None
        Counts of the volunteers' answers; None for what is no galaxy.
    xp : Observed or None
        Gaia spectra of the galaxies among them.
    """

    rows: list[dict[str, Any]]
    flux: NDArray[np.float64]
    votes: list[dict[str, NDArray[np.int64]] | None]
    xp: gaia.Observed | None


def write_tables(out: Path, sky: Sky, products: tuple[str, ...], batches: list[Batch]) -> dict[str, int]:
    """Write the truth and what else is one file for all objects; return counts for the summary."""
    rows = pd.DataFrame([row for batch in batches for row in batch.rows])
    if "rate_variance" in rows:
        rows["attainable_sigma"] = np.sqrt(rows["label_sigma"] ** 2 + rows["rate_variance"])
    known = rows[list(truth.columns(products))]
    kinds = known["kind"].value_counts()
    counts = {
        "galaxies": int(kinds.get("GALAXY", 0)),
        "quasars": int(kinds.get("QSO", 0)),
        "stars": int(kinds.get("STAR", 0)),
    }
    votes = [count for batch in batches for count in batch.votes]
    galaxies = known[known["kind"] == "GALAXY"]
    if "sfr" in products:
        counts["rows of the SFR table"] = sdss.write_sfr_tables(out, known)
    if "gaia" in products:
        observed = [batch.xp for batch in batches if batch.xp is not None]
        flux = np.concatenate([np.zeros((0, 2 * gaia.SAMPLES), np.float32), *(xp.flux for xp in observed)])
        error = np.concatenate([np.zeros_like(flux[:0]), *(xp.error for xp in observed)])
        write_once(out / "gaia" / "xp_sampled.fits", partial(gaia.table_bytes, galaxies, flux, error))
        redshifts = galaxies[["source_id", "ra", "dec", "z"]].rename(columns={"z": "redshift"})
        _write_csv(out / "gaia" / "galaxies.csv", redshifts)
        counts["Gaia spectra"] = len(flux)
    if "zoo" in products:
        _write_csv(out / "zoo" / "votes.csv", _vote_table(galaxies, [v for v in votes if v is not None]))
        counts["colour images"] = len(galaxies)
    if "lamost" in products:
        stars = known[known["kind"] == "STAR"]
        files = [lamost.spectrum_path(int(index)).name for index in stars.index]
        labels = stars[["subclass", "ra", "dec", "z"]].assign(**{"class": "STAR"})
        labels.insert(0, "path", files)
        _write_csv(out / "lamost" / "labels.csv", labels)
        counts["LAMOST spectra"] = len(stars)
    if "catalogue" in products:
        flux_all = np.concatenate([batch.flux for batch in batches])
        table = catalogue.measure(
            sky.seed, sky.targets, flux_all, known["petro_r50"].to_numpy(), known["petro_r90"].to_numpy()
        )
        table = pd.concat(
            [known[["objid", "ra", "dec", "plate", "mjd", "fiberid", "subclass"]], table], axis=1
        )
        table["class"] = known["kind"]
        table["gz2_class"] = ["" if count is None else zoo.class_of(count) for count in votes]
        _write_csv(out / "catalogue.csv", table[list(_CATALOGUE)])
        counts["rows of the catalogue"] = len(table)
    buffer = io.BytesIO()
    known.to_parquet(buffer, index=False)
    write_once(out / "truth.parquet", buffer.getvalue)
    return counts


_CATALOGUE = (
    *("objid", "ra", "dec", *BANDS, *(f"err_{band}" for band in BANDS), "petroR50_r", "petroR90_r"),
    *("class", "subclass", "redshift", "redshift_err", "plate", "mjd", "fiberid", "gz2_class"),
)


def _vote_table(galaxies: pd.DataFrame, votes: list[dict[str, NDArray[np.int64]]]) -> pd.DataFrame:
    """Return the votes as the public table has them."""
    place = SkyCoord(galaxies["ra"].to_numpy(), galaxies["dec"].to_numpy(), unit="deg")
    head = pd.DataFrame(
        {
            "dr7objid": galaxies["objid"].to_numpy(),
            "ra": galaxies["ra"].to_numpy(),
            "dec": galaxies["dec"].to_numpy(),
            "rastring": place.ra.to_string("hour", sep=":", precision=2, pad=True),
            "decstring": place.dec.to_string("deg", sep=":", precision=1, pad=True, alwayssign=True),
            "sample": "original",
            "gz2_class": [zoo.class_of(count) for count in votes],
            "total_classifications": [int(c["t01_smooth_or_features"].sum()) for c in votes],
            "total_votes": [int(sum(v.sum() for v in c.values())) for c in votes],
        }
    )
    return pd.concat([head, pd.DataFrame([zoo.columns(count) for count in votes])], axis=1)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_once(path, lambda: table.round(7).to_csv(index=False, lineterminator="\n").encode("utf-8"))
