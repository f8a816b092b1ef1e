"""Light of the true sky: spectral energy distributions, magnitudes and fibre spectra with noise.

Galaxies are mixtures of three schematic populations (old, about 1 Gyr, and young), each a blackbody or
power law with breaks and lines put in by hand, reddened with the law of Calzetti et al. (2000, ApJ 533,
682), plus nebular lines. The scales are physical: Hα and ultraviolet light follow the rate as in Kennicutt
& Evans (2012, ARA&A 50, 531, table 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.special import ndtr
from speclite.filters import load_filter

from skyfuse.errors import UsageError
from skyfuse.mock.sky import Gas, Source, luminosity_distance, velocity_width
from skyfuse.startypes import has_m_bands

Array = NDArray[np.float64]
Features = tuple[tuple[float, float, float], ...]
"""Lines or bands, three numbers each: a wavelength in Å, a strength and a width."""

BANDS = "ugriz"
FIRST_BIN, N_BINS = 34600, 5901
"""Observed grid log10 λ = k · 1e-4, wide enough for all five filters."""
BIN = FIRST_BIN + np.arange(N_BINS, dtype=np.float64)
WAVELENGTH: Array = np.power(10.0, BIN * 1e-4, dtype=np.float64)
_LN10 = np.log(10.0)
_REST_FIRST, _REST_N = 33000, 7600
REST_LOG = (_REST_FIRST + np.arange(_REST_N)) * 1e-4
_REST: Array = np.power(10.0, REST_LOG, dtype=np.float64)

C_KMS = 299792.458
SOLAR_R = 4.68e29
"""Luminosity of the Sun at 6200 Å, erg/s/Å: absolute AB magnitude 4.65 (Willmer 2018, ApJS 236, 47)."""


@lru_cache(maxsize=1)
def filter_weights() -> Array:
    """Return the matrix that turns flux on the observed grid into nanomaggies; shape (5, n).

    Synthetic AB photometry, `∫ f_λ λ R dλ / ∫ f_AB λ R dλ`, with the SDSS curves of Doi et al. (2010); flux
    in 1e-17 erg/s/cm²/Å.
    """
    step = WAVELENGTH * _LN10 * 1e-4
    rows = []
    for band in BANDS:
        curve = load_filter(f"sdss2010-{band}")
        response = np.interp(
            WAVELENGTH, np.asarray(curve.wavelength), np.asarray(curve.response), left=0.0, right=0.0
        )
        # 0 mag AB is 3.631e-20 erg/s/cm²/Hz; c in Å/s.
        zero = np.sum(3.631e-20 * 2.99792458e18 / WAVELENGTH * response * step)
        rows.append(1e9 * 1e-17 * WAVELENGTH * response * step / zero)
    return np.array(rows)


def blackbody(wavelength: Array, temperature: float) -> Array:
    """Return a blackbody's f_λ, 1 at 6200 Å."""
    x = 1.43877688e8 / temperature
    return np.asarray((6200.0 / wavelength) ** 5 * np.expm1(x / 6200.0) / np.expm1(x / wavelength))


def _lines(wavelength: Array, lines: Features, strength: float = 1.0) -> Array:
    """Return the transmission of absorption lines (centre Å, depth, Gaussian width Å)."""
    out = np.ones_like(wavelength)
    for centre, depth, width in lines:
        near = np.abs(wavelength - centre) < 5 * width
        out[near] *= 1 - min(strength * depth, 0.95) * np.exp(
            -0.5 * ((wavelength[near] - centre) / width) ** 2
        )
    return out


def _table(text: str) -> Features:
    """Read features of a spectrum, three numbers each, from a text in which commas part them."""
    rows = (tuple(float(number) for number in row.split()) for row in text.split(","))
    return tuple((centre, strength, width) for centre, strength, width in rows)


# Centre in Å, depth, width in Å.
_BALMER = _table(
    """
    6564.6 0.25 6, 4862.7 0.38 7, 4341.7 0.42 7, 4102.9 0.45 7, 3971.2 0.45 7, 3890.2 0.42 6,
    3836.5 0.4 5, 3798.9 0.35 4
    """
)
_METALS = _table(
    """
    3934.8 0.55 9, 3969.6 0.52 9, 4227.9 0.16 6, 4305.6 0.24 11, 4384 0.12 7, 4532 0.08 12,
    4669 0.06 14, 5015 0.08 14, 5176.6 0.22 16, 5270 0.13 12, 5335 0.1 10, 5895.6 0.2 7,
    6498 0.05 10, 8500.4 0.12 8, 8544.4 0.22 9, 8664.5 0.18 9
    """
)
_TIO = _table(
    """
    4761 0.15 60, 4954 0.25 70, 5167 0.3 80, 5448 0.3 90, 5847 0.35 90, 6158 0.42 110, 6651 0.35 90,
    7053 0.5 120, 7589 0.45 110, 8432 0.4 110, 8859 0.35 100
    """
)


def _bands(wavelength: Array, heads: Features, strength: float) -> Array:
    """Return the transmission of molecular bands (head Å, depth, width Å over which it fades redward)."""
    out = np.ones_like(wavelength)
    for head, depth, width in heads:
        past = (wavelength - head) / width
        edge = 1 / (1 + np.exp(-np.clip((wavelength - head) / 5.0, -50, 50)))
        out *= 1 - min(strength * depth, 0.95) * edge * np.exp(-np.clip(past, 0.0, 50.0))
    return out


def _step(wavelength: Array, centre: float, width: float, below: float) -> Array:
    """Return a smooth step from `below` to 1."""
    return np.asarray(below + (1 - below) / (1 + np.exp(-(wavelength - centre) / width)))


@dataclass(frozen=True)
class Populations:
    """The stellar building blocks on the rest-frame grid, each 1 at 6200 Å.

    Attributes
    ----------
    log_ages : ndarray, shape (m,)
        log10 Gyr of the old templates.
    old : ndarray, shape (m, n)
    middle, young : ndarray, shape (n,)
    name : str
        Which set it is.
    quasars : (float, ndarray of shape (4, m)) or None
        log10 λ of the first bin and eigenspectra, in steps of 1e-4.
    stars : tuple of (group, digit, ndarray of shape (N_BINS,))
        Star templates on the observed grid.
    modes : ndarray, shape (k, n)
        Relative changes of a galaxy's light, of unit variance along the spectrum, by which galaxies differ.
    """

    log_ages: Array
    old: Array
    middle: Array
    young: Array
    name: str = "schematic"
    quasars: tuple[float, Array] | None = None
    stars: tuple[tuple[str, int, Array], ...] = ()
    modes: Array | None = None


@lru_cache(maxsize=1)
def populations() -> Populations:
    """Return the schematic populations."""
    log_ages = np.linspace(0.0, 1.3, 14)
    old = []
    for log_age in log_ages:
        share = log_age - 0.7
        spectrum = blackbody(_REST, 5150.0 - 900.0 * share)
        spectrum = (
            spectrum * _step(_REST, 4000.0, 25.0, 0.60 - 0.25 * share) * _step(_REST, 2750.0, 120.0, 0.45)
        )
        spectrum = (
            spectrum * _lines(_REST, _METALS, 1.0 + 0.5 * share) * _lines(_REST, _BALMER, 0.22 - 0.2 * share)
        )
        old.append(spectrum * _bands(_REST, _TIO, 0.16 + 0.1 * share))
    middle = (
        blackbody(_REST, 8600.0)
        * _step(_REST, 3720.0, 40.0, 0.5)
        * _lines(_REST, _BALMER)
        * _lines(_REST, _METALS, 0.25)
    )
    young = (_REST / 6200.0) ** -2.1 * _lines(_REST, _BALMER, 0.3) * _step(_REST, 3650.0, 30.0, 0.88)
    at = np.searchsorted(_REST, 6200.0)
    old_array = np.array(old)
    return Populations(
        log_ages, old_array / old_array[:, at : at + 1], middle / middle[at], young / young[at]
    )


_TEMPLATES = {
    "Gal": "spEigenGal-55740.fits",
    "QSO": "spEigenQSO-55732.fits",
    "Star": "spEigenStar-55734.fits",
}


def load_templates(folder: Path) -> Populations:
    """Return populations made of SDSS pipeline eigentemplates.

    Each schematic population is replaced by the least-squares combination of the four galaxy eigenspectra
    (3300 to 9500 Å, emission lines bridged over first, and never below a tenth of the schematic one), so
    that mass, rate and age still drive the spectrum; nebular lines are added as ever, since four
    eigenspectra cannot carry them. Outside of that range the schematic populations go on. Quasars become
    such combinations too; stars take a template of the nearest type, where K stars with the bands of M
    (`skyfuse.startypes.has_m_bands`) count as M0.

    Parameters
    ----------
    folder : path
        Holds ``spEigenGal-55740.fits``, ``spEigenQSO-55732.fits`` and ``spEigenStar-55734.fits``.

    Raises
    ------
    UsageError
        A template is missing or is no eigenspectrum.
    """
    data: dict[str, tuple[float, Array]] = {}
    names: list[str] = []
    for kind, file in _TEMPLATES.items():
        path = folder / file
        try:
            with fits.open(path) as hdus:
                header = hdus[0].header
                data[kind] = (float(header["COEFF0"]), np.asarray(hdus[0].data, np.float64))
                if kind == "Star":
                    names = [str(header[f"NAME{i}"]) for i in range(len(data[kind][1]))]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"no SDSS eigentemplates there ({type(error).__name__})",
                remedy="give the folder that holds " + ", ".join(_TEMPLATES.values()),
                path=path,
            ) from error
    start, eigen = data["Gal"]
    log_wave = start + 1e-4 * np.arange(eigen.shape[1])
    clear = np.ones(len(log_wave), bool)
    for line in NEBULAR_WAVE:
        clear &= np.abs(10**log_wave - line) > 14.0
    basis = np.stack([np.interp(REST_LOG, log_wave[clear], row[clear]) for row in eigen])
    schematic = populations()
    stars = []
    start, spectra = data["Star"]
    log_wave = start + 1e-4 * np.arange(spectra.shape[1])
    for name, row in zip(names, spectra, strict=True):
        good = row > 0
        group, digit = _group_of(name)
        if group == "K" and has_m_bands(10**log_wave, row):
            group, digit = "M", 0
        stars.append((group, digit, np.interp(BIN * 1e-4, log_wave[good], row[good])))
    # Beside the nearest combination, what the other eigenspectra change relatively to the first.
    modes = np.clip(basis[1:] / np.maximum(basis[0], 0.05 * basis[0].max()), -5.0, 5.0)
    inside = (_REST > 3500.0) & (_REST < 9000.0)
    modes = modes - modes[:, inside].mean(axis=1, keepdims=True)
    modes = np.clip(modes / modes[:, inside].std(axis=1, keepdims=True), -2.5, 2.5)
    return Populations(
        schematic.log_ages,
        np.stack([_combine(row, basis) for row in schematic.old]),
        _combine(schematic.middle, basis),
        _combine(schematic.young, basis),
        "+".join(_TEMPLATES.values()),
        data["QSO"],
        tuple(stars),
        np.asarray(modes),
    )


_TEMPLATE_GROUPS = (("Carbon", "Carbon"), ("Ldwarf", "L"), ("WDmagnetic", "WDmagnetic"), ("sd", "F"))


def _group_of(name: str) -> tuple[str, int]:
    """Return the group and digit of a star template, by its name: ``F6IV (28527)``, ``WDhotter``."""
    digits = [int(sign) for sign in name.split("(")[0] if sign.isdigit()]
    for start, group in _TEMPLATE_GROUPS:
        if name.startswith(start):
            return group, digits[0] if digits else 5
    if "WD" in name:
        return "WD", 5
    return name[0], digits[0] if digits else 5


def _combine(target: Array, basis: Array) -> Array:
    """Return the combination of eigenspectra nearest to a schematic population; that itself outside."""
    inside = (_REST > 3300.0) & (_REST < 9500.0)
    # Relative deviations count, else the red end alone would decide.
    scaled = basis[:, inside] / target[inside]
    coefficients = np.linalg.lstsq(scaled.T, np.ones(inside.sum()), rcond=None)[0]
    out = target.copy()
    out[inside] = np.maximum(coefficients @ basis[:, inside], 0.1 * target[inside])
    return np.asarray(out / np.interp(6200.0, _REST, out))


def calzetti(wavelength: Array) -> Array:
    """Return k(λ) of Calzetti et al. (2000, eq. 4), wavelength in Å; A(λ) = k E(B−V), R_V = 4.05."""
    micron = np.clip(wavelength * 1e-4, 0.12, 2.2)
    blue = 2.659 * (-2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 / micron) + 4.05
    return np.asarray(np.where(micron < 0.63, blue, red))


K_REST = calzetti(_REST)

# Line, vacuum Å, and which recipe drives it.
NEBULAR: tuple[tuple[str, float], ...] = (
    ("OII_3727", 3727.09),
    ("OII_3730", 3729.88),
    ("NeIII", 3869.86),
    ("H_delta", 4102.89),
    ("H_gamma", 4341.68),
    ("H_beta", 4862.68),
    ("OIII_4960", 4960.30),
    ("OIII_5008", 5008.24),
    ("HeI", 5877.25),
    ("OI", 6302.05),
    ("NII_6550", 6549.86),
    ("H_alpha", 6564.61),
    ("NII_6585", 6585.27),
    ("SII_6718", 6718.29),
    ("SII_6733", 6732.67),
    ("SIII", 9071.1),
)
NEBULAR_WAVE = np.array([w for _, w in NEBULAR])
NEBULAR_K = calzetti(NEBULAR_WAVE)


def line_ratios(log_oh: float | Array) -> Array:
    """Return the intrinsic strengths of the nebular lines relative to Hα, for H II regions of a metallicity.

    Case B Balmer ratios (Osterbrock & Ferland 2006); [N II] and [O III] follow N2 and O3N2 of Pettini &
    Pagel (2004, MNRAS 348, L59); [O II] follows the R-parameter trend of Kewley & Dopita (2002),
    schematically.

    Parameters
    ----------
    log_oh : float or ndarray, shape (…)
        12 + log10(O/H).

    Returns
    -------
    ndarray, shape (…, 16)
        In the order of `NEBULAR`.
    """
    x = np.clip(log_oh, 8.0, 9.2)
    n2 = np.minimum(10 ** ((x - 8.90) / 0.57), 0.7)
    o3 = np.minimum(10 ** ((8.73 - x) / 0.32) * n2 * 1.0, 5.0) / 2.86
    o2 = 1.1 * 10 ** (-0.45 * (x - 8.6))
    s2 = 0.30 * 10 ** (-0.2 * (x - 8.7))
    one = np.ones_like(x)
    strengths = [0.42 * o2, 0.58 * o2, 0.1 * o3, 0.0907 * one, 0.164 * one, 0.3497 * one, o3 / 2.98, o3]
    strengths += [0.04 * one, 0.03 * one, n2 / 3.05, one, n2, 0.57 * s2, 0.43 * s2, 0.1 * one]
    return np.stack(strengths, axis=-1)


AGN_RATIOS = np.array(
    [0.35, 0.45, 0.2, 0.0907, 0.164, 0.3497, 1.0, 2.98, 0.05, 0.2, 0.36, 1.0, 1.1, 0.35, 0.32, 0.1]
)
# Broad-line regions show the Balmer lines alone among these, with the decrement 3.06 of Dong et al. (2008,
# MNRAS 383, 581) for Hα over Hβ.
_BROAD = {"H_delta": 0.09, "H_gamma": 0.16, "H_beta": 1 / 3.06, "H_alpha": 1.0}
BROAD_RATIOS = np.array([_BROAD.get(name, 0.0) for name, _ in NEBULAR])


def _gaussians(grid_first: int, n: int, wavelength: Array, flux: Array, sigma_v: Array) -> Array:
    """Return lines as Gaussians in log λ on a grid; flux is each line's integral, per Å out."""
    out = np.zeros(n)
    centre = np.log10(wavelength) * 1e4 - grid_first
    width = np.maximum(sigma_v / C_KMS / _LN10 * 1e4, 0.8)
    for c, w, f in zip(centre, width, flux, strict=True):
        low, high = max(int(c - 6 * w), 0), min(int(c + 6 * w) + 2, n)
        if low >= high:
            continue
        bins = np.arange(low, high)
        wave = 10 ** ((bins + grid_first) * 1e-4)
        out[low:high] += (
            f * np.exp(-0.5 * ((bins - c) / w) ** 2) / (np.sqrt(2 * np.pi) * w * wave * _LN10 * 1e-4)
        )
    return out


GALAXY_PARAMETERS = ("log_mass", "log_sfr", "z", "log_av", "log_age", "log_oh", "history", "log_agn")
"""What a galaxy's light depends on, apart from its shape; the order of every parameter vector."""


LOG_HALPHA = 41.27
"""log10 of the Hα luminosity, erg/s, at one solar mass a year (Kennicutt & Evans 2012, table 1)."""


def rest_light(parameters: Array, bulge: float, bank: Populations, at: slice = slice(None)) -> Array:
    """Return the reddened starlight of a galaxy's bulge, disc and young component, erg/s/Å at rest; (3, n).

    Parameters
    ----------
    parameters : ndarray, shape (8,)
        In the order of `GALAXY_PARAMETERS`.
    bulge : float
        Share of the old light in the bulge.
    bank : Populations
    at : slice
        Which bins of the rest-frame grid.
    """
    log_mass, log_sfr, _, log_av, log_age, _, history, _ = (float(v) for v in parameters)
    sfr = 10**log_sfr
    place = float(
        np.clip(
            (log_age - bank.log_ages[0]) / (bank.log_ages[1] - bank.log_ages[0]),
            0,
            len(bank.log_ages) - 1.001,
        )
    )
    i = int(place)
    old = bank.old[i, at] + (place - i) * (bank.old[i + 1, at] - bank.old[i, at])
    # M/L in r of a single-age population: about 2 at 5 Gyr, rising as age^0.7 (Bruzual & Charlot 2003).
    old = old * (SOLAR_R * 10**log_mass / (2.0 * 10 ** (0.7 * (log_age - 0.7))))
    # A gigayear of star formation at 10^history times the present rate, M/L_r = 0.75 with the returned mass.
    middle = bank.middle[at] * (SOLAR_R * sfr * 10**history * 1e9 / 0.75)
    # Far ultraviolet: log SFR = log(ν L_ν) − 43.35 at 1500 Å; the slope takes it to 6200 Å.
    young = bank.young[at] * (sfr * 10**43.35 / 1500.0 * (6200.0 / 1500.0) ** -2.1)
    dust_stars = 10 ** (-0.4 * 0.44 * 10**log_av / 4.05 * K_REST[at])
    # Old stars sit behind half of the dust only.
    dust_old = np.sqrt(dust_stars)
    return np.stack([bulge * old * dust_old, ((1 - bulge) * old + middle) * dust_old, young * dust_stars])


def rest_continuum(parameters: Array, wavelength: float) -> float:
    """Return a galaxy's starlight beside a line, erg/s/Å at rest: the mean 30 to 60 Å to either side."""
    total = 0.0
    for low, high in ((-60.0, -30.0), (30.0, 60.0)):
        edges = np.searchsorted(_REST, (wavelength + low, wavelength + high))
        total += float(rest_light(parameters, 0.0, populations(), slice(*edges)).sum(axis=0).mean())
    return total / 2


def galaxy_light(
    parameters: Array, bulge: float, bank: Populations | None = None, gas: Gas | None = None
) -> Array:
    """Return the observed light of a galaxy's three components.

    Parameters
    ----------
    parameters : ndarray, shape (8,)
        In the order of `GALAXY_PARAMETERS`.
    bulge : float
        Share of the old light in the bulge.
    bank : Populations, optional
        Stellar templates; the schematic ones by default.
    gas : Gas, optional
        How the lines differ from what the parameters give; by default they do not.

    Returns
    -------
    ndarray, shape (3, n)
        Bulge, disc, and young component (stars below 10 Myr and their lines, and the nucleus' lines in the
        first), in 1e-17 erg/s/cm²/Å on the observed grid.
    """
    log_mass, log_sfr, z, log_av, _, log_oh, _, log_agn = (float(v) for v in parameters)
    gas = gas or Gas()
    rest = rest_light(parameters, bulge, bank or populations())
    area = 4 * np.pi * (luminosity_distance(z) * 3.0856776e24) ** 2 * 1e-17
    shifted = BIN * 1e-4 - np.log10(1 + z)
    light = np.stack([np.interp(shifted, REST_LOG, row) for row in rest]) / ((1 + z) * area)
    halpha = 10**log_sfr * 10**LOG_HALPHA / area
    dust_gas = 10 ** (-0.4 * 10**log_av / 4.05 * NEBULAR_K)
    wave = NEBULAR_WAVE * (1 + z)
    width = np.full(len(wave), np.hypot(velocity_width(log_mass), 70.0))
    light[2] += _gaussians(
        FIRST_BIN, N_BINS, wave, halpha * line_ratios(log_oh) * dust_gas, gas.narrow * width
    )
    if np.isfinite(log_agn):
        nucleus = 10**log_agn / area * AGN_RATIOS * dust_gas
        light[0] += _gaussians(FIRST_BIN, N_BINS, wave, nucleus, gas.nucleus * width)
    if np.isfinite(gas.log_broad):
        broad = 10**gas.log_broad / area * BROAD_RATIOS * dust_gas
        light[0] += _gaussians(FIRST_BIN, N_BINS, wave, broad, np.full(len(wave), gas.broad))
    return light


def galaxy_parameters(source: Source) -> Array:
    """Return a galaxy's parameter vector."""
    return np.array([getattr(source, name) for name in GALAXY_PARAMETERS])


# Rest wavelength in Å, equivalent width in Å, width over that of the others.
_QSO_LINES = _table(
    """
    1215.7 75 1, 1240.1 20 1.2, 1399.8 9 1.2, 1549.1 30 1.2, 1908.7 22 1.3, 2798.8 32 1, 4341.7 15 1,
    4862.7 46 1, 6564.6 195 1, 4960.3 5 0.15, 5008.2 14 0.15, 3728.5 3 0.15
    """
)


def quasar_light(source: Source) -> Array:
    """Return a quasar's shape on the observed grid: power law, broad lines, iron bumps, Lyman α forest.

    Equivalent widths as in the composite of Vanden Berk et al. (2001, AJ 122, 549).
    """
    rest = WAVELENGTH / (1 + source.z)
    continuum = (rest / 3000.0) ** source.slope
    lines = np.zeros_like(rest)
    for centre, width, breadth in _QSO_LINES:
        sigma = centre * source.sigma_v * breadth / C_KMS
        level = (centre / 3000.0) ** source.slope
        lines += level * width / (np.sqrt(2 * np.pi) * sigma) * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    for centre, height, width in ((2500.0, 0.25, 130.0), (4570.0, 0.15, 70.0), (5250.0, 0.14, 90.0)):
        lines += height * (centre / 3000.0) ** source.slope * np.exp(-0.5 * ((rest - centre) / width) ** 2)
    light = continuum + source.strength * lines
    # Mean forest transmission, effective depth 0.0036 (1+z)^3.3 as in Meiksin (2006), and nothing below the
    # limit.
    forest = np.exp(-0.0036 * (WAVELENGTH / 1215.67) ** 3.3)
    light = np.where(rest < 1215.67, light * forest, light)
    return np.where(rest < 912.0, 0.05 * light, light)


_SWAN = ((4737.0, 0.55, 90.0), (5165.0, 0.75, 110.0), (5636.0, 0.45, 120.0))
"""Heads of the Swan bands of C₂, which fade to the blue (Pearse & Gaydon 1976)."""
_CYANOGEN = ((5750.0, 0.2, 120.0), (6206.0, 0.3, 120.0), (6926.0, 0.4, 150.0), (7876.0, 0.5, 180.0))
_HYDRIDES = ((6750.0, 0.55, 140.0), (8611.0, 0.45, 90.0), (8692.0, 0.35, 90.0), (9896.0, 0.5, 150.0))
"""CaH, CrH and FeH (Kirkpatrick et al. 1999, ApJ 519, 802)."""
_CARBON_ATOMS = _table(
    """
    4268.4 0.3 14, 4372 0.22 12, 4770 0.25 14, 4933 0.22 12, 5053 0.3 14, 5381.8 0.35 14,
    6589 0.3 16, 7115 0.25 18
    """
)


def _swan(wavelength: Array, strength: float) -> Array:
    """Return the transmission of C₂'s bands: sharp to the red, fading to the blue."""
    mirrored = tuple((-head, depth, width) for head, depth, width in _SWAN)
    return _bands(-wavelength, mirrored, strength)


def star_light(source: Source) -> Array:
    """Return a star's shape on the observed grid.

    A blackbody with Balmer lines, metal lines and TiO bands for the types O to M; schematic forms of the
    features that name the others: broad Balmer lines (WD), the same split and shallow (WDmagnetic; the
    linear Zeeman effect, 20.2 Å per 10⁶ G at 6564 Å), Swan bands (CarbonWD, Carbon), atomic carbon
    (Carbon_lines), emission on a blue continuum (CV), hydrides and wide alkali lines (L), and the rise of
    water's band beside them (T).
    """
    t = source.temperature
    rest = WAVELENGTH / (1 + source.z)
    if source.subclass not in _PECULIAR:
        return _ordinary_star(rest, t)
    return _PECULIAR[source.subclass](rest, t)


def _ordinary_star(rest: Array, t: float) -> Array:
    balmer = float(np.exp(-0.5 * (np.log(t / 9200.0) / 0.32) ** 2)) * 1.3
    metals = float(np.clip((8200.0 - t) / 2800.0, 0.0, 1.5))
    bands = float(np.clip((4200.0 - t) / 900.0, 0.0, 1.5))
    light = (
        blackbody(rest, t)
        * _lines(rest, _BALMER, balmer)
        * _lines(rest, _METALS, metals)
        * _bands(rest, _TIO, bands)
    )
    light = light * _step(rest, 3700.0, 40.0, 1 - 0.55 * min(balmer, 1.0))
    helium = float(np.clip((t - 10000.0) / 15000.0, 0.0, 1.0))
    return light * _lines(rest, ((4472.7, 0.2, 4.0), (4027.3, 0.15, 4.0), (4687.0, 0.15, 4.0)), helium)


def _white_dwarf(rest: Array, t: float) -> Array:
    # Pressure makes the lines tens of Å wide (Bergeron et al. 1992), strongest near 12,000 K.
    depth = 1.3 * float(np.exp(-0.5 * (np.log(t / 12500.0) / 0.45) ** 2))
    wide = tuple((centre, 1.1 * d, 5.5 * width) for centre, d, width in _BALMER[:6])
    return blackbody(rest, t) * _lines(rest, wide, depth)


def _magnetic_white_dwarf(rest: Array, t: float) -> Array:
    split = tuple(
        (centre + side * 20.2 * 8.0 * (centre / 6564.6) ** 2, 0.3 * d, 3.0 * width)
        for centre, d, width in _BALMER[:4]
        for side in (-1, 0, 1)
    )
    return blackbody(rest, t) * _lines(rest, split)


def _carbon_white_dwarf(rest: Array, t: float) -> Array:
    return blackbody(rest, t) * _swan(rest, 1.1)


def _carbon_star(rest: Array, t: float) -> Array:
    metals = _lines(rest, _METALS, 0.5)
    return blackbody(rest, t) * _swan(rest, 1.2) * _bands(rest, _CYANOGEN, 1.0) * metals


def _hot_carbon(rest: Array, t: float) -> Array:
    return blackbody(rest, t) * _lines(rest, _CARBON_ATOMS)


def _cataclysmic(rest: Array, t: float) -> Array:
    light = blackbody(rest, t)
    helium = ((5877.2, 0.35), (6680.0, 0.2), (4472.7, 0.2), (4687.0, 0.3))
    for centre, height in (*((line, 0.6 + 0.8 * d) for line, d, _ in _BALMER[:6]), *helium):
        # An accretion disc's 700 km/s.
        width = centre * 700.0 / C_KMS
        level = np.interp(centre, rest, light)
        light = light + height * level * np.exp(-0.5 * ((rest - centre) / width) ** 2)
    return light


_ALKALI = ((5893.0, 0.9, 110.0), (7682.0, 0.9, 90.0), (8190.0, 0.4, 12.0), (8523.0, 0.4, 9.0))


def _l_dwarf(rest: Array, t: float) -> Array:
    return blackbody(rest, t) * _lines(rest, _ALKALI) * _bands(rest, _HYDRIDES, 1.0)


def _t_dwarf(rest: Array, t: float) -> Array:
    wide = tuple((centre, depth, 2.2 * width) for centre, depth, width in _ALKALI[:2])
    water = _bands(rest, ((9250.0, 0.7, 350.0),), 1.0)
    return blackbody(rest, t) * _lines(rest, (*wide, *_ALKALI[2:])) * water


_PECULIAR: dict[str, Callable[[Array, float], Array]] = {
    "WD": _white_dwarf,
    "WDmagnetic": _magnetic_white_dwarf,
    "CarbonWD": _carbon_white_dwarf,
    "Carbon": _carbon_star,
    "Carbon_lines": _hot_carbon,
    "CV": _cataclysmic,
    **{f"L{digit}": _l_dwarf for digit in range(10)},
    "T2": _t_dwarf,
}


def source_light(source: Source, bank: Populations | None = None) -> Array:
    """Return a source's light by component, (3, n) for galaxies and (1, n) for point sources.

    In 1e-17 erg/s/cm²/Å on the observed grid; the integral over the whole source.
    """
    if source.shape is not None:
        light = galaxy_light(galaxy_parameters(source), source.shape.bulge, bank, source.gas)
        if bank is not None and bank.modes is not None:
            change = np.clip(1 + VARIETY * np.asarray(source.variety) @ bank.modes, 0.5, 2.0)
            light *= np.interp(BIN * 1e-4 - np.log10(1 + source.z), REST_LOG, change)
        return light
    shape = quasar_light(source) if source.kind == "QSO" else star_light(source)
    if bank is not None and source.kind == "QSO" and bank.quasars is not None:
        shape = _as_eigenquasar(shape, source, *bank.quasars)
    elif bank is not None and source.kind == "STAR":
        shape = _template_star(source, bank, shape)
    flux_r = float(filter_weights()[2] @ shape)
    return (shape * (10 ** (0.4 * (22.5 - source.mag_r)) / flux_r))[None]


VARIETY = 0.06
"""Relative scatter about the nearest combination of eigenspectra, for each further eigenspectrum."""


def _template_star(source: Source, bank: Populations, otherwise: Array) -> Array:
    """Return a template of the star's own group, of its digit or within one and a half of it."""
    group = source.subclass if source.subclass in _PECULIAR else source.subclass[0]
    group = "L" if group.startswith("L") else group
    digit = int(source.subclass[-1]) if source.subclass[-1].isdigit() else 5
    like = sorted((abs(number - digit), i) for i, (kind, number, _) in enumerate(bank.stars) if kind == group)
    if not like:
        return otherwise
    near = (
        [i for distance, i in like if distance <= max(like[0][0], 1.5)]
        if any(source.variety)
        else [like[0][1]]
    )
    # The normal deviate's rank makes an even choice.
    return bank.stars[near[min(int(ndtr(source.variety[0]) * len(near)), len(near) - 1)]][2]


def _as_eigenquasar(target: Array, source: Source, start: float, eigen: Array) -> Array:
    """Return the combination of quasar eigenspectra nearest to a schematic quasar; itself outside."""
    log_wave = start + 1e-4 * np.arange(eigen.shape[1])
    rest = BIN * 1e-4 - np.log10(1 + source.z)
    # Blueward of Lyman α the forest is the sightline's own, not the eigenspectra's.
    inside = (rest > np.log10(1216.0)) & (rest < log_wave[-1])
    basis = np.stack([np.interp(rest[inside], log_wave, row) for row in eigen])
    coefficients = np.linalg.lstsq((basis / target[inside]).T, np.ones(inside.sum()), rcond=None)[0]
    scale = (basis / target[inside]).std(axis=1)
    coefficients[1:] += 2 * VARIETY * np.resize(source.variety, len(basis) - 1) / scale[1:]
    out = target.copy()
    out[inside] = np.maximum(coefficients @ basis, 0.1 * target[inside])
    return out


# Electrons a bin that 1e-17 erg/s/cm²/Å gives in an hour, blue and red arm joined near 6000 Å (where both
# fall off).
_RESPONSE_WAVE = (
    3400.0,
    3800.0,
    3900.0,
    4200.0,
    5000.0,
    5750.0,
    5930.0,
    6120.0,
    6700.0,
    7500.0,
    8000.0,
    8600.0,
    9100.0,
    9400.0,
)
_RESPONSE = (3.0, 8.0, 11.0, 24.0, 44.0, 46.0, 27.0, 60.0, 93.0, 88.0, 78.0, 55.0, 35.0, 22.0)
READ_VARIANCE = 60.0
"""Read noise and dark current of a bin, electrons²: three rows, four exposures."""
TELLURIC = ((6867.0, 6944.0, 0.75), (7594.0, 7700.0, 0.45), (7165.0, 7320.0, 0.93), (8130.0, 8350.0, 0.93))
"""Absorption bands of the air: from, to (Å), transmission."""
_SKY_LINES = (
    (5578.9, 140.0),
    (5891.6, 22.0),
    (5897.6, 14.0),
    (6302.0, 35.0),
    (6365.5, 12.0),
    (4359.6, 5.0),
    (5462.3, 6.0),
)


@lru_cache(maxsize=1)
def response() -> Array:
    """Return electrons per flux unit on the observed grid, with the air's absorption."""
    out = np.interp(WAVELENGTH, _RESPONSE_WAVE, _RESPONSE)
    for low, high, transmission in TELLURIC:
        out[(low < WAVELENGTH) & (high > WAVELENGTH)] *= transmission
    return out


@lru_cache(maxsize=1)
def night_sky() -> Array:
    """Return the sky's light in a fibre: continuum, mercury, sodium, [O I] and the OH forest; shape (n,)."""
    out = 4.5 + 2.5 * np.exp(-0.5 * ((WAVELENGTH - 4000.0) / 900.0) ** 2)
    wave = [w for w, _ in _SKY_LINES]
    flux = [f for _, f in _SKY_LINES]
    # OH vibration bands: P, Q and R branches spread over some 150 Å each, schematically, stronger to the red.
    for origin, strength in (
        (6860, 3),
        (7245, 8),
        (7720, 16),
        (7890, 20),
        (8290, 24),
        (8430, 22),
        (8765, 45),
        (8950, 45),
        (9300, 50),
    ):
        for number in range(11):
            wave.append(origin + 14.3 * number + 0.35 * number**2)
            flux.append(
                4.0 * strength * np.exp(-0.5 * ((number - 4.5) / 3.0) ** 2) * (1.0 if number % 2 else 0.6)
            )
    return out + _gaussians(FIRST_BIN, N_BINS, np.array(wave), np.array(flux), np.full(len(wave), 65.0))


@dataclass(frozen=True, slots=True)
class FibreSpectrum:
    """One noisy spectrum, on bins `first` … `first + n - 1` of the SDSS grid."""

    first: int
    flux: Array
    ivar: Array
    expected: Array
    and_mask: NDArray[np.int32]
    or_mask: NDArray[np.int32]
    sky: Array
    wdisp: Array


BIT_FULL_REJECT, BIT_BRIGHT_SKY, BIT_NO_DATA, BIT_COMBINE_REJECT = 1 << 18, 1 << 23, 1 << 24, 1 << 25
"""SPPIXMASK bits of the spectroscopic pipeline."""


def variance(light: Array) -> Array:
    """Return the noise variance of a fibre spectrum on the observed grid, from its expectation.

    Photons of object and sky, read and dark noise, and what is left of bright sky lines (3 %).
    """
    gain, sky = response(), night_sky()
    residual = 0.03 * np.maximum(sky - 15.0, 0.0)
    return np.asarray((light + sky) / gain + READ_VARIANCE / gain**2 + residual**2)


def observe(light: Array, rng: np.random.Generator) -> FibreSpectrum:
    """Observe a fibre's light.

    Parameters
    ----------
    light : ndarray, shape (n,)
        Expectation on the observed grid, 1e-17 erg/s/cm²/Å.
    rng : Generator

    Returns
    -------
    FibreSpectrum
        Its `ivar` is one over the variance of the very noise that was drawn; 0 in masked bins.
    """
    first = 35800 + int(rng.integers(-6, 29))
    last = 39632 + int(rng.integers(-30, 9))
    cut = slice(first - FIRST_BIN, last + 1 - FIRST_BIN)
    expected, gain, sky = light[cut], response()[cut], night_sky()[cut]
    total = variance(light)[cut]
    electrons = rng.poisson((expected + sky) * gain)
    extra = np.sqrt(np.maximum(total - (expected + sky) / gain, 0.0))
    flux = electrons / gain - sky + extra * rng.standard_normal(len(expected))
    ivar = 1 / total
    n = len(flux)
    and_mask, or_mask = np.zeros(n, np.int32), np.zeros(n, np.int32)
    or_mask[sky > 25.0] |= BIT_BRIGHT_SKY
    for start, length, bit in _masked_runs(rng, n, first):
        run = slice(start, start + length)
        flux[run] += np.abs(rng.normal(0, 30.0)) if bit == BIT_COMBINE_REJECT else 0.0
        if bit == BIT_NO_DATA:
            flux[run] = 0.0
        ivar[run] = 0.0
        and_mask[run] |= bit
        or_mask[run] |= bit
    wdisp = np.interp(np.arange(n), [0, n * 0.55, n * 0.56, n], [1.25, 0.86, 0.98, 0.84])
    return FibreSpectrum(first, flux, ivar, expected, and_mask, or_mask, sky, wdisp)


def _masked_runs(rng: np.random.Generator, n: int, first: int) -> list[tuple[int, int, int]]:
    """Draw masked runs (start, length, bit): none in a third of the spectra, a long tail in a few."""
    which = rng.random()
    if which < 0.36:
        return []
    runs = []
    for _ in range(1 + rng.poisson(2.5)):
        runs.append((int(rng.integers(0, n - 12)), int(rng.integers(1, 6)), BIT_COMBINE_REJECT))
    if rng.random() < 0.35:
        line = round(float(np.log10(5578.9)) * 1e4) - first
        runs.append((line - 4, int(rng.integers(4, 10)), BIT_FULL_REJECT))
    if rng.random() < 0.15:
        gap = round(float(np.log10(rng.uniform(5850.0, 6050.0))) * 1e4) - first
        runs.append((gap, int(rng.integers(5, 60)), BIT_NO_DATA))
    if which > 0.92:
        length = int(min(30 * (1 + rng.pareto(0.9)), 0.6 * n))
        runs.append((int(rng.integers(0, n - length)), length, BIT_NO_DATA))
    return [(max(start, 0), min(length, n - max(start, 0)), bit) for start, length, bit in runs]
