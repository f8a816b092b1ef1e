"""The truth table: what is known of each object, and what each column means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfuse.mock.sdss import fibre_of
from skyfuse.mock.sky import SPAWN_LABEL, Source, generator
from skyfuse.mock.spectra import BANDS
from skyfuse.mock.zoo import Morphology

COLUMNS = {
    "objid": "number of the object, as in the catalogue and the votes",
    "source_id": "Gaia's number of the object",
    "plate": "plate number of the spectrum",
    "mjd": "night of the spectrum, as in its name",
    "fiberid": "fibre number",
    "ra": "right ascension, deg (ICRS)",
    "dec": "declination, deg (ICRS)",
    "kind": "GALAXY, QSO or STAR",
    "subclass": "AGN, STARBURST, STARFORMING, with or without BROADLINE, BROADLINE alone, or empty"
    " (galaxies); BROADLINE (quasars); spectral type (stars)",
    "z": "true redshift",
    "log_mass": "log10 of stellar mass, solar masses",
    "log_sfr": "log10 of the true star-formation rate of the whole galaxy, solar masses a year",
    "avg": "the label: log_sfr with a scatter of label_sigma; the SFR table holds it, or what `listed` says",
    "flag": "FLAG of the SFR table, 0 for good; -1 for what has no row there",
    "listed": "what the SFR table holds: value, sentinel (-99), undefined (NaN), or absent (no row)",
    "label_sigma": "known standard deviation of avg about log_sfr, dex",
    "attainable_sigma": "NaN without spectra; sqrt(label_sigma² + Var(log_sfr | spectrum, images)), dex. The"
    " variance is the marginal of the inverse of (Fisher information of the noisy spectrum and of the images"
    " in five bands + inverse prior covariance), by finite differences of the mock's forward model at the"
    " true parameters:"
    " the Bayesian Cramér-Rao bound (Van Trees 1968, I, §2.4.3) in its local form. It bounds a model that"
    " knew the mock. Attainable R² of a set of objects = 1 - mean(attainable_sigma²) / var(avg)",
    "attainable_z_xp": "NaN without Gaia spectra; standard deviation of z given the 186 samples of the Gaia"
    " spectrum and the prior, likewise; the least mean absolute error is sqrt(2/pi) times its mean, to"
    " about 5 %",
    "mag_u": "AB magnitude of the whole object",
    "mag_g": "likewise",
    "mag_r": "likewise",
    "mag_i": "likewise",
    "mag_z": "likewise",
    "fibre_mag_r": "AB magnitude of the light in the 3″ fibre; NaN without spectra",
    "radius": "half-light radius of the disc, arcsec, before inclination; NaN for point sources",
    "inclination": "deg, 0 is face-on",
    "position_angle": "deg, North through East",
    "bulge": "share of the old light in the bulge",
    "clump_share": "share of the young light in arms and clumps",
    "petro_r50": "radius with half of the Petrosian flux in r, arcsec, as seen through the atmosphere",
    "petro_r90": "likewise, with nine tenths",
    "bar": "share of the disc's light in a bar, on the colour images alone; 0 for none",
    "arms": "two arms",
    "log_av": "log10 of the gas's attenuation in V, mag",
    "log_age": "log10 of the old stars' age, Gyr",
    "log_oh": "12 + log10(O/H) of the gas",
    "history": "log10 of the mean rate of the last Gyr over the present one",
    "quenched": "drawn from the quenched sequence",
    "blend": "another source was put 2.5 to 7 arcsec away",
    "edge": "put beside the patch's edge",
}
"""Columns of the truth table, and what they mean."""
OF_PRODUCT = {
    "infrared": {
        "flux_w1": "flux of the whole object in W1, nanomaggies whose zero point is Vega's",
        "flux_w2": "likewise in W2",
    },
    "desi": {
        "targetid": "DESI's number of the object",
        "desi_fibre": "good, or broken: without a spectrum",
    },
}
"""Columns that it has beside these where a product is written."""


def columns(products: Sequence[str]) -> dict[str, str]:
    """Return the columns of the truth table where some products are written."""
    return COLUMNS | {
        name: text for product in products for name, text in OF_PRODUCT.get(product, {}).items()
    }


def object_id(seed: int, index: int) -> int:
    """Return a target's number in the catalogue: 18 digits, as those of the survey's DR7."""
    return 587_000_000_000_000_000 + seed % 10**9 * 10**7 + index


def source_id(seed: int, index: int) -> int:
    """Return a target's number in Gaia's catalogue."""
    return 3_800_000_000_000_000_000 + seed % 10**9 * 10**7 + index


def target_id(seed: int, index: int) -> int:
    """Return a target's number in DESI's catalogue: above 2⁵³, as the survey's own, so no float holds it."""
    return 39_600_000_000_000_001 + seed % 10**7 * 10**7 + index


def sky_target_id(seed: int, number: int) -> int:
    """Return the number of a place of empty sky in DESI's catalogue."""
    return target_id(seed, number) + 10**15


_COPIED = (
    *("ra", "dec", "kind", "subclass", "z", "log_mass", "log_sfr", "log_av", "log_age", "log_oh", "history"),
    *("quenched", "blend", "edge"),
)


def truth_row(
    seed: int, source: Source, flux: NDArray[np.float64], seen: Morphology | None
) -> dict[str, Any]:
    """Return what is true of a target, and what its star-formation table says, but for what only files tell.

    Parameters
    ----------
    seed : int
    source : Source
    flux : ndarray, shape (5, c)
        Nanomaggies of its components in u g r i z.
    seen : Morphology or None
        That of galaxies.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
    row |= {"objid": object_id(seed, source.index), "source_id": source_id(seed, source.index)}
    row |= dict(zip(("plate", "mjd", "fiberid"), fibre_of(source.index), strict=True))
    row |= {"flag": -1, "listed": "absent"}
    row |= {name: getattr(source, name) for name in _COPIED}
    mags = 22.5 - 2.5 * np.log10(flux.sum(axis=1))
    row |= {f"mag_{band}": float(mag) for band, mag in zip(BANDS, mags, strict=True)}
    shape = source.shape
    if shape is None or seen is None:
        return row
    row |= {"radius": shape.re_disc, "inclination": shape.inclination, "position_angle": shape.position_angle}
    row |= {"bulge": shape.bulge, "clump_share": shape.clump_share, "bar": seen.bar, "arms": float(seen.arms)}
    rng = generator(seed, SPAWN_LABEL, source.index)
    sigma = float(np.clip(0.24 * np.exp(0.25 * rng.standard_normal()), 0.1, 0.6))
    row["flag"] = 0 if rng.random() < 0.85 else int(rng.integers(1, 6))
    # A flagged fit is a worse one.
    sigma *= 2.0 if row["flag"] else 1.0
    row["avg"] = source.log_sfr + sigma * rng.standard_normal()
    row["label_sigma"] = sigma
    row["listed"] = str(rng.choice(["value", "sentinel", "undefined", "absent"], p=[0.88, 0.05, 0.03, 0.04]))
    return row
