"""The true sky: how sources are laid out on it and which properties they have.

Everything is drawn from generators derived from one seed by `numpy.random.SeedSequence` spawn keys, one for
each source, so that no drawing depends on how many sources there are before it or on who draws first.

The population is schematic but follows published relations: the star-forming main sequence (Renzini & Peng
2015, ApJ 801, L29), sizes (Shen et al. 2003, MNRAS 343, 978), a Schechter mass function cut at the flux
limit of the SDSS main galaxy sample (r < 17.77; Strauss et al. 2002, AJ 124, 1810) and a quenched fraction
that grows with mass. Beyond the main sample's depth the limit goes down to that of the luminous red galaxies
(Eisenstein et al. 2001, AJ 122, 2267).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import UsageError

SpectralClass = Literal["GALAXY", "QSO", "STAR"]

PIXEL = 0.396
"""Pixel scale of the frames, arcsec."""
NX, NY = 2048, 1489
"""Columns and rows of a frame; rows run along the scan."""
FIELD_STEP = 1361
"""Rows from one field's first row to the next one's: fields of a run overlap by 128 rows."""
FIELDS_PER_CAMCOL = 60
"""Fields along one camera column before the next column opens."""
CAMCOLS = (2, 6, 4, 3, 1, 5)
"""Order in which camera columns are filled: first those whose u CCD makes most electrons of the sky."""
FIRST_RUN, FIRST_FIELD = 9001, 11
PATCH_RA, PATCH_DEC = 150.0, 0.1
CAMCOL_STEP, RUN_STEP = 0.42, 2.6
"""Degrees of declination between camera columns, and between runs."""
FLUX_LIMIT = 17.77
EDGE_MARGIN = 45.0

SPECTRAL_TYPES = ("O", "B", "A", "F", "G", "K", "M")
_TYPE_WEIGHT = (0.02, 0.06, 0.14, 0.24, 0.20, 0.18, 0.16)
_TYPE_TEMPERATURE = (
    (30000, 38000),
    (11000, 25000),
    (7600, 10000),
    (6100, 7500),
    (5300, 6000),
    (4000, 5200),
    (2900, 3800),
)

(
    SPAWN_PLACE,
    SPAWN_SOURCE,
    SPAWN_FAINT,
    SPAWN_CAMERA,
    SPAWN_FIELD,
    SPAWN_NOISE,
    SPAWN_SPECTRUM,
    SPAWN_LABEL,
    SPAWN_SKY_FIBRE,
    SPAWN_CLASS,
    SPAWN_XP,
    SPAWN_VOTES,
    SPAWN_COLOUR_IMAGE,
    SPAWN_CATALOGUE,
    SPAWN_LAMOST,
    SPAWN_SCENE,
    SPAWN_TEMPLATE,
    SPAWN_INFRARED,
    SPAWN_COADD,
    SPAWN_DESI,
) = range(20)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the generator that belongs to `key`, independent of every other key's.

    Parameters
    ----------
    seed : int
    *key : int
        What is drawn (one of the ``SPAWN`` numbers) and for which source, field or band.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the patch.

    Attributes
    ----------
    index, run, camcol, number : int
        Position in the patch, and the survey's own numbers.
    strip : int
        Which strip (camera column of a run) it belongs to.
    row0 : float
        First row, in rows along its strip.
    ra, dec : float
        Centre, degrees.
    """

    index: int
    run: int
    camcol: int
    number: int
    strip: int
    row0: float
    ra: float
    dec: float


def layout(fields: int) -> list[Field]:
    """Lay `fields` fields along camera columns.

    Parameters
    ----------
    fields : int

    Returns
    -------
    list of Field
    """
    found = []
    for index in range(fields):
        strip, along = divmod(index, FIELDS_PER_CAMCOL)
        run, column = divmod(strip, len(CAMCOLS))
        row0 = float(along * FIELD_STEP)
        ra, dec = strip_to_sky(strip, np.array([row0 + (NY - 1) / 2]), np.array([(NX - 1) / 2]))
        found.append(
            Field(
                index,
                FIRST_RUN + run,
                CAMCOLS[column],
                FIRST_FIELD + along,
                strip,
                row0,
                float(ra[0]),
                float(dec[0]),
            )
        )
    return found


def strip_to_sky(
    strip: int, row: NDArray[np.float64], column: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Convert rows and columns along a strip to right ascension and declination, degrees."""
    run, column_number = divmod(strip, len(CAMCOLS))
    dec0 = PATCH_DEC + CAMCOL_STEP * (CAMCOLS[column_number] - CAMCOLS[0]) + RUN_STEP * run
    dec = dec0 + (column - (NX - 1) / 2) * PIXEL / 3600
    ra = PATCH_RA + row * PIXEL / 3600 / np.cos(np.radians(dec0))
    return ra, dec


@dataclass(frozen=True, slots=True)
class Gas:
    """How a galaxy's lines differ from what rate, metallicity and nucleus give.

    Attributes
    ----------
    narrow : float
        Width of the H II regions' lines over that of the rotation.
    nucleus : float
        Width of the nucleus' narrow lines over that of the rotation.
    log_broad : float
        log10 of the luminosity of broad Hα, erg/s; -inf without a broad-line region.
    broad : float
        Standard deviation of the broad lines, km/s.
    """

    narrow: float = 1.0
    nucleus: float = 2.0
    log_broad: float = -np.inf
    broad: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """One source of the sky, with all that spectrum and image are made from.

    Attributes
    ----------
    index : int
        Number of the target, or of the untargeted source.
    kind, subclass : str
    ra, dec : float
        Degrees.
    z : float
    mag_r : float
        Asked r magnitude of stars and quasars (NaN for galaxies, whose light follows from mass and SFR).
    log_mass, log_sfr : float
        log10 of stellar mass (solar) and of the total star-formation rate (solar masses a year); NaN but
        for galaxies.
    log_av : float
        log10 of the gas's V-band attenuation, mag.
    log_age : float
        log10 of the old population's age, Gyr.
    log_oh : float
        Gas metallicity 12 + log10(O/H).
    history : float
        log10 of the ratio of the mean rate over the last Gyr to the present one.
    log_agn : float
        log10 of the Hα luminosity, erg/s, of an active nucleus; -inf without one.
    sigma_v : float
        Line width, km/s (standard deviation).
    shape : Shape or None
        Morphology of galaxies; None for point sources.
    temperature, slope, strength : float
        Stars: effective temperature, K. Quasars: power-law slope of f_λ, and strength of the broad lines.
    quenched, blend, edge : bool
    gas : Gas
        Galaxies: their lines.
    variety : (float, float, float)
        Standard normal deviates by which a light made of eigentemplates strays from the nearest combination.
    """

    index: int
    kind: SpectralClass
    subclass: str
    ra: float
    dec: float
    z: float
    mag_r: float = np.nan
    log_mass: float = np.nan
    log_sfr: float = np.nan
    log_av: float = np.nan
    log_age: float = np.nan
    log_oh: float = np.nan
    history: float = np.nan
    log_agn: float = -np.inf
    sigma_v: float = 100.0
    shape: Shape | None = None
    temperature: float = np.nan
    slope: float = np.nan
    strength: float = np.nan
    quenched: bool = False
    blend: bool = False
    edge: bool = False
    gas: Gas = Gas()
    variety: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """Morphology of a galaxy; three components of light: bulge, disc, and the young stars.

    Attributes
    ----------
    bulge : float
        Share of the old light that is in the bulge.
    re_bulge, re_disc, re_young : float
        Half-light radii, arcsec, before inclination.
    inclination, position_angle : float
        Degrees; position angle from North through East.
    clump_share : float
        Share of the young light that sits in arms and clumps.
    clumps : ndarray, shape (n, 4)
        Offsets in the disc's plane (units of `re_young`), weight (sum 1), and Gaussian radius (arcsec).
    """

    bulge: float
    re_bulge: float
    re_disc: float
    re_young: float
    inclination: float
    position_angle: float
    clump_share: float
    clumps: NDArray[np.float64]


MAIN_SEQUENCE_SCATTER = 0.35
QUENCHED_SCATTER = 0.45
AV_SCATTER, AGE_SCATTER, OH_SCATTER, HISTORY_SCATTER = 0.15, 0.12, 0.08, 0.2
CLUMP_SCATTER, SIZE_SCATTER, AGN_SCATTER = 0.25, 0.20, 0.4


def mean_log_sfr(log_mass: float, quenched: bool) -> float:
    """Return the mean log10 SFR at a mass: main sequence, or 1.6 dex and more below it."""
    return log_mass - 12.1 if quenched else 0.76 * log_mass - 7.64


def mean_log_av(log_mass: float, log_sfr: float) -> float:
    """Return the mean log10 of the gas's V-band attenuation: it grows with mass and SFR."""
    return -0.12 + 0.22 * (log_mass - 10.3) + 0.16 * log_sfr


def mean_log_age(log_mass: float, quenched: bool) -> float:
    """Return the mean log10 age (Gyr) of the old stars: older in heavier and in quenched galaxies."""
    return 0.62 + 0.12 * (log_mass - 10.5) + (0.16 if quenched else 0.0)


def mean_log_oh(log_mass: float, log_sfr: float) -> float:
    """Return the mean gas metallicity, with its weak dependence on SFR (as in Mannucci et al. 2010)."""
    return 8.75 + 0.28 * (log_mass - 10.3) - 0.06 * (log_sfr - 0.0)


def mean_log_clump(log_mass: float, log_sfr: float) -> float:
    """Return the mean log10 share of young light in arms and clumps: more at higher specific rates."""
    return -0.55 + 0.25 * (log_sfr - log_mass + 10.2)


def mean_log_size(log_mass: float, quenched: bool) -> float:
    """Return the mean log10 half-light radius, kpc, of early or late types (Shen et al. 2003)."""
    if quenched:
        return float(np.log10(2.88e-6) + 0.56 * log_mass)
    return float(-1.0 + 0.14 * log_mass + 0.25 * np.log10(1 + 10**log_mass / 3.98e10))


def velocity_width(log_mass: float) -> float:
    """Return the width of lines, km/s, that goes with a stellar mass (schematic Tully–Fisher relation)."""
    return float(60 + 90 * 10 ** (0.25 * (log_mass - 10.8)))


def angular_scale(z: float) -> float:
    """Return kpc per arcsec at redshift `z`."""
    return float(luminosity_distance(z) / (1 + z) ** 2 * 1e3 * np.pi / (180 * 3600))


@lru_cache(maxsize=1024)
def luminosity_distance(z: float) -> float:
    """Return the luminosity distance, Mpc, in flat ΛCDM with H0 = 70 km/s/Mpc and Ωm = 0.3."""
    grid = np.linspace(0.0, z, 129)
    inverse = 1 / np.sqrt(0.3 * (1 + grid) ** 3 + 0.7)
    return float((1 + z) * 299792.458 / 70.0 * np.trapezoid(inverse, grid))


_Z_GRID = np.linspace(0.02, 0.10, 1001)
_Z_CDF = np.cumsum(_Z_GRID**2 * np.exp(-((_Z_GRID / 0.055) ** 4)))
_Z_CDF /= _Z_CDF[-1]
DEEP = 0.10
"""Redshift up to which galaxies are those of the SFR study; beyond, the ones that Gaia sees."""
DEEPEST = 0.6
# Redshifts of the 520,393 SDSS galaxies with Gaia spectra of the redshift study: mean 0.142, median 0.126,
# standard deviation 0.079, skewness 1.09; a gamma distribution, shifted, has all four.
_DEEP_GRID = np.linspace(0.004, DEEPEST, 1193)
_DEEP_SHAPE, _DEEP_SCALE, _DEEP_SHIFT = 3.10, 0.0452, 0.0022
_DEEP_CDF = np.cumsum(
    (_DEEP_GRID - _DEEP_SHIFT) ** (_DEEP_SHAPE - 1) * np.exp(-(_DEEP_GRID - _DEEP_SHIFT) / _DEEP_SCALE)
)
_MASS_GRID = np.linspace(8.8, 11.9, 621)
_SCHECHTER = 10 ** ((1 - 1.15) * (_MASS_GRID - 10.8)) * np.exp(-(10 ** (_MASS_GRID - 10.8)))


def approximate_mag_r(log_mass: float, log_sfr: float, log_age: float, history: float, z: float) -> float:
    """Return a galaxy's r magnitude to about 0.2 mag, quick enough to select by."""
    light = 10**log_mass / (2.0 * 10 ** (0.7 * (log_age - 0.7))) + 10 ** (log_sfr + 9.1) * (
        0.45 + 0.9 * 10**history
    )
    return float(4.65 - 2.5 * np.log10(light) + 5 * np.log10(luminosity_distance(z) * 1e5) + 1.2 * z + 0.1)


def flux_limit(z: float) -> float:
    """Return the r magnitude down to which deep galaxies are seen."""
    return FLUX_LIMIT + float(np.clip((z - 0.15) / 0.35, 0.0, 1.0)) * 2.2


@lru_cache(maxsize=1)
def _mass_weights(z: float, limit: float) -> NDArray[np.float64]:
    """Return the cumulative mass function of what a limit in r lets through, or nearly, at a redshift."""
    # Few draws are in vain where the lightest are left out beforehand.
    faintest = 0.4 * (4.65 + 5 * np.log10(luminosity_distance(z) * 1e5) - limit) - 0.5
    return np.asarray(np.cumsum(np.where(faintest < _MASS_GRID, _SCHECHTER, 0.0)))


class _Stars(NamedTuple):
    """Of what a galaxy's stars are, in the words of `Source`."""

    z: float
    log_mass: float
    log_sfr: float
    log_age: float
    history: float
    quenched: bool


def _draw_stars(rng: np.random.Generator, faint: bool, z_max: float) -> _Stars:
    """Draw redshift and stars until the galaxy is as bright as its sample asks for."""
    limit = (19.0, 21.8) if faint else (14.0, FLUX_LIMIT)
    deep = z_max > DEEP and not faint
    if deep:
        z = float(np.interp(rng.random() * np.interp(z_max, _DEEP_GRID, _DEEP_CDF), _DEEP_CDF, _DEEP_GRID))
        limit = (13.0, flux_limit(z))
    while True:
        if not deep:
            share = 1.0 if faint or z_max == DEEP else float(np.interp(z_max, _Z_GRID, _Z_CDF))
            z = float(np.interp(rng.random() * share, _Z_CDF, _Z_GRID))
        if faint:
            z = min(2.2 * z, 0.4)
        weight = _mass_weights(z, limit[1])
        if weight[-1] == 0:
            continue
        log_mass = float(np.interp(rng.random() * weight[-1], weight, _MASS_GRID))
        quenched = bool(rng.random() < 0.85 / (1 + np.exp(-(log_mass - 10.65) / 0.35)))
        scatter = QUENCHED_SCATTER if quenched else MAIN_SEQUENCE_SCATTER
        log_sfr = mean_log_sfr(log_mass, quenched) + scatter * rng.standard_normal()
        log_age = mean_log_age(log_mass, quenched) + AGE_SCATTER * rng.standard_normal()
        history = HISTORY_SCATTER * rng.standard_normal() + (0.2 if quenched else 0.0)
        if limit[0] < approximate_mag_r(log_mass, log_sfr, log_age, history, z) < limit[1]:
            return _Stars(z, log_mass, log_sfr, log_age, history, quenched)


def _draw_shape(rng: np.random.Generator, stars: _Stars) -> Shape:
    """Draw a galaxy's morphology."""
    z, log_mass, log_sfr, _, _, quenched = stars
    log_re = mean_log_size(log_mass, quenched) + SIZE_SCATTER * rng.standard_normal()
    if quenched:
        bulge = float(np.clip(0.72 + 0.15 * rng.standard_normal(), 0.3, 1.0))
    else:
        bulge = float(np.clip(0.25 + 0.2 * (log_mass - 10.2) + 0.12 * rng.standard_normal(), 0.0, 0.6))
    re = float(np.clip(10**log_re / angular_scale(z), 0.25, 6.5))
    young = float(np.clip(re * 10 ** (0.10 + 0.22 * rng.standard_normal()), 0.25, 9.0))
    inclination = float(np.degrees(np.arccos(rng.uniform(0.15, 1.0))))
    share = float(min(10 ** (mean_log_clump(log_mass, log_sfr) + CLUMP_SCATTER * rng.standard_normal()), 0.8))
    return Shape(
        bulge=bulge,
        re_bulge=max(0.45 * re, 0.2) if not quenched else re,
        re_disc=re * 1.1,
        re_young=young,
        inclination=inclination,
        position_angle=float(rng.uniform(0, 180)),
        clump_share=share,
        clumps=_clumps(rng, young, spiral=bool(log_mass > 10.0 and rng.random() < 0.7)),
    )


def draw_galaxy(
    rng: np.random.Generator, index: int, ra: float, dec: float, *, faint: bool = False, z_max: float = DEEP
) -> Source:
    """Draw one galaxy of a flux-limited sample.

    Parameters
    ----------
    rng : Generator
    index : int
    ra, dec : float
        Degrees.
    faint : bool
        An untargeted one, r 19 to 22.
    z_max : float
        Largest redshift. Up to 0.10 the redshifts are those of a shallow flux-limited sample from 0.02 on;
        beyond, those of the galaxies that Gaia sees, whatever the mass that this takes.
    """
    stars = _draw_stars(rng, faint, z_max)
    log_mass, log_sfr = stars.log_mass, stars.log_sfr
    log_av = mean_log_av(log_mass, log_sfr) + AV_SCATTER * rng.standard_normal()
    log_oh = min(mean_log_oh(log_mass, log_sfr) + OH_SCATTER * rng.standard_normal(), 9.25)
    log_agn = -np.inf
    if rng.random() < 0.10 / (1 + np.exp(-(log_mass - 10.4) / 0.2)):
        log_agn = 40.2 + AGN_SCATTER * rng.standard_normal()
    rate = log_sfr - log_mass
    if np.isfinite(log_agn):
        subclass = "AGN"
    elif rate > -9.3:
        subclass = "STARBURST"
    else:
        subclass = "STARFORMING" if rate > -10.9 else ""
    return Source(
        index,
        "GALAXY",
        subclass,
        ra,
        dec,
        **stars._asdict(),
        log_av=log_av,
        log_oh=log_oh,
        log_agn=log_agn,
        sigma_v=velocity_width(log_mass),
        shape=_draw_shape(rng, stars),
    )


def _clumps(rng: np.random.Generator, re: float, *, spiral: bool) -> NDArray[np.float64]:
    """Draw clumps along two logarithmic arms, or scattered over the disc; shape (n, 4)."""
    n = 28 if spiral else 12
    radius = np.sqrt(rng.uniform(0.05, 1.0, n)) * 2.0
    if spiral:
        arm = np.pi * np.arange(n).__mod__(2)
        angle = np.log(radius) / np.tan(np.radians(rng.uniform(14, 26))) + arm + rng.normal(0, 0.15, n)
        angle += rng.uniform(0, 2 * np.pi)
    else:
        angle = rng.uniform(0, 2 * np.pi, n)
    weight = rng.lognormal(0.0, 0.7, n) * np.exp(-0.6 * radius)
    size = np.clip(rng.uniform(0.08, 0.16, n) * re, 0.25, 1.2)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), weight / weight.sum(), size])


def draw_quasar(rng: np.random.Generator, index: int, ra: float, dec: float) -> Source:
    """Draw one quasar, z 0.1 to 4, r 16.5 to 19.3."""
    z = float(np.clip(0.1 + rng.gamma(2.6, 0.6), 0.1, 4.0))
    return Source(
        index,
        "QSO",
        "BROADLINE",
        ra,
        dec,
        z,
        mag_r=float(19.3 - rng.exponential(0.7) % 2.8),
        slope=float(rng.normal(-1.5, 0.3)),
        strength=float(rng.lognormal(0.0, 0.3)),
        sigma_v=float(rng.uniform(1200, 3000)),
    )


def draw_star(rng: np.random.Generator, index: int, ra: float, dec: float, *, faint: bool = False) -> Source:
    """Draw one star, O to M, r 15 to 18.8 (untargeted: 18.5 to 21.5)."""
    kind = int(rng.choice(len(SPECTRAL_TYPES), p=_TYPE_WEIGHT))
    low, high = _TYPE_TEMPERATURE[kind]
    fraction = float(rng.random())
    return Source(
        index,
        "STAR",
        f"{SPECTRAL_TYPES[kind]}{int(10 * (1 - fraction)) % 10}",
        ra,
        dec,
        float(rng.normal(0, 1.5e-4)),
        mag_r=float(rng.uniform(18.5, 21.5) if faint else rng.uniform(15.0, 18.8)),
        temperature=low + fraction * (high - low),
        sigma_v=60.0,
    )


def place(
    rng: np.random.Generator, fields: list[Field], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Place `n` targets over the patch, none nearer to another than a minimum separation.

    The separation is 15″, less where the patch is too crowded for it.

    Returns
    -------
    strip, row, column, edge : ndarray, shape (n,)
        Where each target lies, pixels along and across its strip, and whether it was put by the patch's
        edge on purpose.

    Raises
    ------
    UsageError
        More targets than the patch holds at a separation of 5″.
    """
    strips = sorted({f.strip for f in fields})
    length = np.array([max(f.row0 for f in fields if f.strip == s) + NY for s in strips])
    area = float(length.sum()) * NX
    # Random sequential placement jams at a covering of 0.547; 0.33 is quick to reach.
    separation = min(15.0 / PIXEL, float(np.sqrt(0.33 * area * 4 / np.pi / max(n, 1))))
    if separation * PIXEL < 5.0:
        most = int(0.33 * area * 4 / np.pi / (5.0 / PIXEL) ** 2)
        raise UsageError(
            f"{n} objects do not fit on {len(fields)} fields",
            remedy=f"ask for at most {most}, or for more fields",
        )
    cells: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    strip = np.empty(n, np.int64)
    row, column, edge = np.empty(n), np.empty(n), np.zeros(n, np.bool_)
    end = np.cumsum(length)
    done = 0
    while done < n:
        at = int(np.searchsorted(end, rng.random() * end[-1], side="right"))
        by_edge = rng.random() < 0.02
        y = rng.uniform(EDGE_MARGIN, length[at] - EDGE_MARGIN)
        x = rng.uniform(3.0, 30.0) if by_edge else rng.uniform(EDGE_MARGIN, NX - EDGE_MARGIN)
        cy, cx = int(y // separation), int(x // separation)
        near = (p for i in (-1, 0, 1) for j in (-1, 0, 1) for p in cells.get((at, cy + i, cx + j), ()))
        if any((y - p[0]) ** 2 + (x - p[1]) ** 2 < separation**2 for p in near):
            continue
        cells.setdefault((at, cy, cx), []).append((y, x))
        strip[done], row[done], column[done], edge[done] = strips[at], y, x, by_edge
        done += 1
    return strip, row, column, edge


@dataclass(frozen=True, slots=True)
class Sky:
    """The whole true sky of a mock.

    Attributes
    ----------
    seed : int
    fields : list of Field
    targets : list of Source
        Objects with spectra, in the order of their fibres.
    faint : list of Source
        Fainter sources without spectra.
    strips : dict
        Strip number -> (rows of targets and faint sources, the sources), for finding those of a field.
    """

    seed: int
    fields: list[Field]
    targets: list[Source]
    faint: list[Source]
    places: dict[int, list[tuple[float, Source]]]

    def of_field(self, where: Field, reach: float = 130.0) -> list[Source]:
        """Return the sources whose light may fall on a field, `reach` pixels and less from its edge."""
        low, high = where.row0 - reach, where.row0 + NY + reach
        return [source for row, source in self.places.get(where.strip, []) if low < row < high]


def draw_sky(
    seed: int,
    fields: int,
    objects: int,
    *,
    z_max: float = DEEP,
    shares: tuple[float, float, float] = (0.78, 0.11, 0.11),
    untargeted: bool = True,
    dress: Callable[[Source], Source] | None = None,
) -> Sky:
    """Draw the sky.

    Parameters
    ----------
    seed : int
    fields : int
    objects : int
        Number of targets.
    z_max : float
        Largest redshift of the galaxies among them.
    shares : (float, float, float)
        Shares of galaxies, quasars and stars among the targets.
    untargeted : bool
        Draw the fainter sources too, which only frames show.
    dress : callable, optional
        Gives each target its class, where that is more than the drawing sets.

    Returns
    -------
    Sky
    """
    patch = layout(fields)
    strip, row, column, edge = place(generator(seed, SPAWN_PLACE), patch, objects)
    places: dict[int, list[tuple[float, Source]]] = {}
    targets = []
    for index in range(objects):
        rng = generator(seed, SPAWN_SOURCE, index)
        ra, dec = (float(v[0]) for v in strip_to_sky(int(strip[index]), row[[index]], column[[index]]))
        blend = bool(rng.random() < 0.07)
        neighbours: tuple[Source, ...] = ()
        if blend:
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(2.5, 7.0) / 3600
            draw = draw_star if rng.random() < 0.5 else draw_galaxy
            neighbours = (
                draw(
                    rng,
                    index,
                    ra + distance * np.cos(angle) / np.cos(np.radians(dec)),
                    dec + distance * np.sin(angle),
                ),
            )
        which = rng.random()
        if which < shares[0]:
            source = draw_galaxy(rng, index, ra, dec, z_max=z_max)
        elif which < shares[0] + shares[1]:
            source = draw_quasar(rng, index, ra, dec)
        else:
            source = draw_star(rng, index, ra, dec)
        source = replace(source, blend=blend, edge=bool(edge[index]))
        if dress is not None:
            source = dress(source)
        targets.append(source)
        places.setdefault(int(strip[index]), []).extend((float(row[index]), s) for s in (source, *neighbours))
    faint = []
    for where in patch if untargeted else ():
        for number in range(300):
            rng = generator(seed, SPAWN_FAINT, where.index, number)
            y, x = where.row0 + rng.uniform(0, FIELD_STEP), rng.uniform(0, NX)
            ra, dec = (float(v[0]) for v in strip_to_sky(where.strip, np.array([y]), np.array([x])))
            draw = draw_star if rng.random() < 0.3 else draw_galaxy
            source = draw(rng, number, ra, dec, faint=True)
            faint.append(source)
            places.setdefault(where.strip, []).append((y, source))
    return Sky(seed, patch, targets, faint, places)
