"""The survey's classes: what their lines make of galaxies, and the rarer kinds of stars.

The sky of the star-formation study has few classes; this gives its sources the ones that the SDSS pipeline
tells apart (Bolton et al. 2012, AJ 144, 144, §3.3), each with light that shows it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skyfuse.mock import spectra
from skyfuse.mock.sky import SPAWN_CLASS, SPAWN_TEMPLATE, Gas, Source, generator, mean_log_sfr, velocity_width

PECULIAR_STARS = {
    "WD": (0.055, (7500.0, 30000.0)),
    "WDmagnetic": (0.015, (9000.0, 25000.0)),
    "CarbonWD": (0.015, (7000.0, 10500.0)),
    "Carbon": (0.02, (2900.0, 4600.0)),
    "Carbon_lines": (0.015, (16000.0, 24000.0)),
    "CV": (0.025, (9000.0, 22000.0)),
    "L": (0.02, (1500.0, 2300.0)),
    "T2": (0.015, (1200.0, 1400.0)),
}
"""Share of the stars, and range of effective temperature, K, of each rarer kind."""
DETECTED = 3.0
"""Rest-frame equivalent width of Hα, Å, from which the lines of a spectrum of the survey count as seen."""


def galaxy_subclass(source: Source) -> str:
    """Return the subclass that the pipeline's rules give a galaxy, from its lines without noise.

    With lines seen, AGN where log [O III]/Hβ > 0.7 − 1.2 (log [N II]/Hα + 0.4), else STARBURST where Hα has
    an equivalent width above 50 Å, else STARFORMING; BROADLINE is put after it where lines are wider than
    200 km/s (Bolton et al. 2012, AJ 144, 144, §3.3).

    Parameters
    ----------
    source : Source
        A galaxy.

    Returns
    -------
    str
        One of the eight; none of them is the empty string.
    """
    if source.shape is None:
        raise TypeError("only galaxies have these subclasses")
    gas = source.gas
    parts = [10 ** (source.log_sfr + spectra.LOG_HALPHA) * spectra.line_ratios(source.log_oh)]
    if np.isfinite(source.log_agn):
        parts.append(10**source.log_agn * spectra.AGN_RATIOS)
    names = [name for name, _ in spectra.NEBULAR]
    narrow = dict(zip(names, np.sum(parts, axis=0), strict=True))
    dust = 10 ** (-0.4 * 10**source.log_av / 4.05 * spectra.calzetti(np.array([6564.61]))[0])
    continuum = spectra.rest_continuum(spectra.galaxy_parameters(source), 6564.61)
    width = narrow["H_alpha"] * dust / continuum
    rotation = np.hypot(velocity_width(source.log_mass), 70.0)
    broad = np.isfinite(gas.log_broad) and 10**gas.log_broad * dust / continuum > 2 * DETECTED
    name = ""
    if width > DETECTED:
        nii, oiii = narrow["NII_6585"] / narrow["H_alpha"], narrow["OIII_5008"] / narrow["H_beta"]
        wide = (gas.nucleus if np.isfinite(source.log_agn) else gas.narrow) * rotation > 200.0
        broad = broad or wide
        if np.log10(oiii) > 0.7 - 1.2 * (np.log10(nii) + 0.4):
            name = "AGN"
        else:
            name = "STARBURST" if width > 50.0 else "STARFORMING"
    return " ".join(word for word in (name, "BROADLINE" if broad else "") if word)


def dress(seed: int, source: Source) -> Source:
    """Return the source with one of all classes, and with the light that goes with it.

    Parameters
    ----------
    seed : int
        Of the sky.
    source : Source
        A target, as drawn.

    Returns
    -------
    Source
    """
    rng = generator(seed, SPAWN_CLASS, source.index)
    first, second, third = generator(seed, SPAWN_TEMPLATE, source.index).standard_normal(3)
    source = replace(source, variety=(float(first), float(second), float(third)))
    if source.kind == "GALAXY":
        return _galaxy(rng, source)
    return _quasar(rng, source) if source.kind == "QSO" else _star(rng, source)


def _galaxy(rng: np.random.Generator, source: Source) -> Source:
    which, strength = rng.random(), rng.standard_normal()
    rotation = np.hypot(velocity_width(source.log_mass), 70.0)
    # Regular rotation stays below the pipeline's 200 km/s.
    gas = Gas(narrow=min(1.0, 185.0 / rotation), nucleus=min(1.15, 190.0 / rotation))
    wide = float(rng.uniform(225.0, 380.0) / rotation)
    broad = float(rng.uniform(900.0, 2800.0))
    if which < 0.07:
        # A nucleus strong enough to be seen beside the young stars.
        log_agn = max(source.log_sfr + spectra.LOG_HALPHA + 0.25, 40.0) + 0.25 * abs(strength)
        if which < 0.025:
            gas = replace(gas, log_broad=log_agn + 0.6, broad=broad, nucleus=wide)
        source = replace(source, log_agn=log_agn, gas=gas)
    elif which < 0.09:
        # Broad lines alone: no gas but the nucleus'.
        low = mean_log_sfr(source.log_mass, True) - 0.5
        gas = replace(gas, log_broad=40.9 + 0.25 * strength, broad=broad)
        source = replace(source, log_agn=-np.inf, log_sfr=min(source.log_sfr, low), quenched=True, gas=gas)
    elif which < 0.15 and not source.quenched:
        burst = 0.6 + 0.15 * abs(strength)
        gas = replace(gas, narrow=wide) if which < 0.105 else gas
        source = replace(
            source, log_agn=-np.inf, log_sfr=source.log_sfr + burst, history=-0.2 - burst, gas=gas
        )
    elif which < 0.19 and not source.quenched:
        source = replace(source, log_agn=-np.inf, gas=replace(gas, narrow=wide))
    else:
        source = replace(source, gas=gas)
    return replace(source, subclass=galaxy_subclass(source))


def _quasar(rng: np.random.Generator, source: Source) -> Source:
    # A flat share of redshifts and a deeper limit beside the bright sample's, as in the later surveys.
    z = float(rng.uniform(0.05, 5.0)) if rng.random() < 0.3 else source.z
    return replace(source, z=z, mag_r=source.mag_r + float(rng.uniform(0.0, 1.6)))


def _star(rng: np.random.Generator, source: Source) -> Source:
    which = rng.random()
    fainter = float(rng.uniform(0.0, 1.4))
    for name, (share, (coolest, hottest)) in PECULIAR_STARS.items():
        if which < share:
            # The share that is left is even: the rest of the same random number places within the range.
            fraction = which / share
            letter = f"L{int(10 * (1 - fraction)) % 10}" if name == "L" else name
            # Brown dwarfs that the survey sees are faint in r.
            mag = 18.8 + 1.2 * float(rng.random()) if name in ("L", "T2") else source.mag_r + fainter
            temperature = coolest * (hottest / coolest) ** fraction
            return replace(source, subclass=letter, temperature=temperature, mag_r=mag)
        which -= share
    return replace(source, mag_r=source.mag_r + fainter)
