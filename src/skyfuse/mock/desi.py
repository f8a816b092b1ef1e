"""DESI spectra of the mock's objects: coadds of a petal's fibres, and redrock's redshifts beside them.

Laid out as the cumulative coadds of tiles in the DESI data model: up to 500 fibres in a file, arms B, R and Z
on one grid of 0.8 Å with bins in common where they meet. The light is that of the SDSS spectra, seen through
a fibre of half the width; throughputs are schematic, after the figures of the instrument's overview (DESI
Collaboration, Abareshi et al. 2022, AJ 164, 207).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyfuse.mock import images, spectra
from skyfuse.mock.files import fits_bytes, header_of
from skyfuse.mock.sky import SPAWN_DESI, Sky, Source, generator
from skyfuse.mock.truth import sky_target_id, target_id

Array = NDArray[np.float64]

STEP = 0.8
"""Å."""
TARGETS, SKY_FIBRES, FIBRES, PETALS = 480, 12, 500, 10
"""Targets and fibres on empty sky of a petal, all its fibres, and petals of a tile."""
BROKEN_EVERY = 48
"""One target in so many has a broken fibre."""
FIRST_TILE, FIRST_NIGHT, FIRST_MJD = 80001, 20210401, 59306
EXPOSURE = 1000.0
"""Seconds."""
RADIUS, SEEING = 0.75, 1.1
"""Radius of a fibre and full width at half maximum of the seeing, arcsec."""
READ_VARIANCE = 45.0
"""Read noise and dark current of a bin, electrons²."""
BROKEN_FIBRE, ALL_BAD, BAD_FIBRE = 1 << 2, 1 << 1, 1 << 4
"""Bits of COADD_FIBERSTATUS, and of the masks of spectra (desispec, maskbits)."""
SMALL_DELTA_CHI2, NO_DATA = 1 << 2, 1 << 9
"""Bits of redrock's ZWARN."""
_MIRROR_CM2 = 8.7e4
_SOWN, _ASSIGNED, _EMPTY = range(3)


class Arm(NamedTuple):
    """One arm of the spectrographs: its name, first wavelength (Å), bins, and throughput by wavelength."""

    name: str
    first: float
    bins: int
    throughput: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def wavelength(self) -> Array:
        """Centres of its bins, Å in vacuum."""
        return np.round(self.first + STEP * np.arange(self.bins), 1)


ARMS = (
    Arm("B", 3600.0, 2751, ((3600, 4000, 4500, 5200, 5700, 5800), (0.06, 0.18, 0.27, 0.30, 0.22, 0.06))),
    Arm("R", 5760.0, 2326, ((5760, 5900, 6500, 7200, 7500, 7620), (0.10, 0.28, 0.37, 0.38, 0.30, 0.10))),
    Arm("Z", 7520.0, 2881, ((7520, 7700, 8500, 9100, 9600, 9824), (0.10, 0.30, 0.41, 0.38, 0.28, 0.18))),
)
"""B and R have 51 bins in common, R and Z 126."""


@dataclass(frozen=True, slots=True)
class Fibre:
    """What a fibre looks at.

    Attributes
    ----------
    target : int
        TARGETID; negative where it has no target.
    source : Source or None
        None on empty sky.
    ra, dec : float
        Degrees.
    objtype : str
        TGT, SKY or BAD.
    broken : bool
    """

    target: int
    source: Source | None
    ra: float
    dec: float
    objtype: str = "TGT"
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Petal:
    """The spectra of one petal, bins of the arms after one another.

    Attributes
    ----------
    number : int
        Counted over all tiles.
    fibres : list of Fibre, length n
    flux, ivar, expected : ndarray of float32, shape (n, 7958)
        1e-17 erg/s/cm²/Å.
    mask : ndarray of int32, shape (n, 7958)
    redshifts : ndarray, shape (n,)
        Redrock's table, by rising TARGETID.
    """

    number: int
    fibres: list[Fibre]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    expected: NDArray[np.float32]
    mask: NDArray[np.int32]
    redshifts: NDArray[np.void]


def petals(targets: int) -> int:
    """Return how many petals a number of targets needs."""
    return -(-targets // TARGETS)


def tile_of(number: int) -> tuple[int, int, int]:
    """Return tile, night and petal of the tile."""
    tile, petal = divmod(number, PETALS)
    return FIRST_TILE + tile, FIRST_NIGHT + tile, petal


def paths(number: int) -> tuple[Path, Path]:
    """Return the places of a petal's coadd and redrock file, as in the archive's cumulative tiles."""
    tile, night, petal = tile_of(number)
    folder = Path("desi", "tiles", "cumulative", str(tile), str(night))
    name = f"{petal}-{tile}-thru{night}.fits"
    return folder / f"coadd-{name}", folder / f"redrock-{name}"


def is_broken(index: int) -> bool:
    """Say whether the fibre of a target is broken."""
    return index % BROKEN_EVERY == BROKEN_EVERY // 2


def assign(sky: Sky, number: int) -> list[Fibre]:
    """Assign a petal's fibres: targets, empty sky, and one without a target, in any order."""
    rng = generator(sky.seed, SPAWN_DESI, _ASSIGNED, number)
    targets = sky.targets[number * TARGETS : (number + 1) * TARGETS]
    fibres = [Fibre(target_id(sky.seed, s.index), s, s.ra, s.dec, broken=is_broken(s.index)) for s in targets]
    for k in range(max(2, SKY_FIBRES * len(targets) // TARGETS) + 1):
        field = sky.fields[int(rng.integers(len(sky.fields)))]
        ra, dec = field.ra + rng.uniform(-0.07, 0.07), field.dec + rng.uniform(-0.1, 0.1)
        name = sky_target_id(sky.seed, number * (SKY_FIBRES + 1) + k)
        fibres.append(Fibre(name, None, ra, dec, "SKY") if k else Fibre(-name, None, ra, dec, "BAD"))
    return [fibres[i] for i in rng.permutation(len(fibres))]


@lru_cache(maxsize=1)
def wavelengths() -> Array:
    """Return the wavelengths of all arms after one another, Å; shape (7958,)."""
    return np.concatenate([arm.wavelength for arm in ARMS])


@lru_cache(maxsize=1)
def _gain() -> Array:
    """Return the electrons of a bin for 1e-17 erg/s/cm²/Å, with the air's absorption."""
    wave = wavelengths()
    through = np.concatenate([np.interp(arm.wavelength, *arm.throughput) for arm in ARMS])
    for low, high, transmission in spectra.TELLURIC:
        through[(low < wave) & (high > wave)] *= transmission
    # Energy over h c / λ.
    return np.asarray(1e-17 * _MIRROR_CM2 * EXPOSURE * STEP * wave / 1.98644586e-8 * through)


def _night_sky() -> Array:
    """Return the sky's light in a fibre: a quarter of that in one of twice its width."""
    share = (RADIUS / images.FIBRE_RADIUS) ** 2
    return share * np.interp(wavelengths(), spectra.WAVELENGTH, spectra.night_sky())


def variance(light: Array) -> Array:
    """Return the noise variance of a spectrum from its expectation; both of shape (7958,).

    Photons of object and sky, read and dark noise, and 1 % of bright sky lines.
    """
    gain, sky = _gain(), _night_sky()
    residual = 0.01 * np.maximum(sky - 4.0, 0.0)
    return np.asarray((light + sky) / gain + READ_VARIANCE / gain**2 + residual**2)


def light_of(source: Source, bank: spectra.Populations | None) -> Array:
    """Return a source's light in a fibre on the arms' bins, 1e-17 erg/s/cm²/Å; shape (7958,)."""
    parts = images.transforms(source, images.box_size(source))
    light = images.fibre_shares(parts, SEEING, RADIUS) @ spectra.source_light(source, bank)
    return np.interp(wavelengths(), spectra.WAVELENGTH, light)


def _observe(light: Array, rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.int32]]:
    """Return flux, inverse variance (that of the noise drawn; 0 where masked) and mask of a spectrum."""
    gain, sky, total = _gain(), _night_sky(), variance(light)
    extra = np.sqrt(np.maximum(total - (light + sky) / gain, 0.0))
    flux = rng.poisson((light + sky) * gain) / gain - sky + extra * rng.standard_normal(len(light))
    mask = np.zeros(len(light), np.int32)
    for start in rng.integers(0, len(light), rng.poisson(4)):
        mask[start : start + int(rng.integers(1, 6))] = ALL_BAD
    return np.where(mask, 0.0, flux), np.where(mask, 0.0, 1 / total), mask


def observe(sky: Sky, number: int, bank: spectra.Populations | None) -> Petal:
    """Observe a petal.

    Parameters
    ----------
    sky : Sky
    number : int
        Below `petals` of the sky's targets.
    bank : Populations or None
        Stellar templates; the schematic ones by default.
    """
    fibres = assign(sky, number)
    shape = len(fibres), len(wavelengths())
    flux, ivar, expected = (np.zeros(shape, np.float32) for _ in range(3))
    mask = np.full(shape, BAD_FIBRE, np.int32)
    redshifts = np.zeros(len(fibres), _REDSHIFTS)
    for row, fibre in enumerate(fibres):
        source = fibre.source
        if source is None:
            rng = generator(sky.seed, SPAWN_DESI, _EMPTY, number, row)
        else:
            rng = generator(sky.seed, SPAWN_DESI, _SOWN, source.index)
            expected[row] = light_of(source, bank)
        if not fibre.broken and fibre.objtype != "BAD":
            flux[row], ivar[row], mask[row] = _observe(expected[row].astype(np.float64), rng)
        for key, value in _redshift(fibre, _signal(flux[row], ivar[row])["R"], rng).items():
            redshifts[key][row] = value
    return Petal(number, fibres, flux, ivar, expected, mask, np.sort(redshifts, order="TARGETID"))


def _cut(arm: Arm) -> slice:
    """Return where an arm's bins lie among those of all arms."""
    first = sum(other.bins for other in ARMS[: ARMS.index(arm)])
    return slice(first, first + arm.bins)


def _signal(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> dict[str, float]:
    """Return the median signal-to-noise ratio of a spectrum in each arm."""
    ratio = flux * np.sqrt(ivar)
    return {arm.name: float(np.median(ratio[_cut(arm)])) for arm in ARMS}


_REDSHIFTS = np.dtype(
    [
        ("TARGETID", ">i8"),
        ("CHI2", ">f8"),
        ("COEFF", ">f8", (10,)),
        ("Z", ">f8"),
        ("ZERR", ">f8"),
        ("ZWARN", ">i8"),
        ("NPIXELS", ">i8"),
        ("SPECTYPE", "S6"),
        ("SUBTYPE", "S20"),
        ("NCOEFF", ">i8"),
        ("DELTACHI2", ">f8"),
    ]
)


def _redshift(fibre: Fibre, signal: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return redrock's row: right to within its error where the light suffices, and any otherwise."""
    source = fibre.source
    row: dict[str, Any] = {"TARGETID": fibre.target, "SPECTYPE": b"GALAXY", "NCOEFF": 10}
    if fibre.broken or fibre.objtype == "BAD":
        return row | {"ZWARN": NO_DATA}
    contrast = 30.0 * max(signal, 0.0) ** 2
    row |= {"NPIXELS": len(wavelengths()), "CHI2": float(len(wavelengths())), "DELTACHI2": contrast}
    if source is None or contrast < 9.0:
        return row | {"Z": rng.uniform(0.0, 1.6), "ZERR": 5e-4, "ZWARN": SMALL_DELTA_CHI2}
    error = float(np.clip(1e-4 / signal, 1e-6, 5e-4)) * (1 + source.z) * (10 if source.kind == "QSO" else 1)
    row |= {"SPECTYPE": source.kind.encode(), "SUBTYPE": template_of(source).encode()}
    return row | {"Z": source.z + error * rng.standard_normal(), "ZERR": error}


def template_of(source: Source) -> str:
    """Return the name of redrock's template for a source, as it names subtypes."""
    if source.kind == "QSO":
        return "HIZ" if source.z > 1.6 else "LOZ"
    if source.kind == "GALAXY":
        return ""
    if "WD" in source.subclass:
        return "WD"
    first = source.subclass[0]
    # No template is hotter than B or cooler than M; carbon stars look like cool ones.
    near = {"O": "B", "L": "M", "T": "M", "C": "K"}
    return source.subclass if source.subclass == "CV" else near.get(first, first)


_FIBERMAP = np.dtype(
    [
        ("TARGETID", ">i8"),
        ("PETAL_LOC", ">i2"),
        ("DEVICE_LOC", ">i4"),
        ("LOCATION", ">i8"),
        ("FIBER", ">i4"),
        ("COADD_FIBERSTATUS", ">i4"),
        ("TARGET_RA", ">f8"),
        ("TARGET_DEC", ">f8"),
        ("FA_TYPE", "u1"),
        ("OBJTYPE", "S3"),
        ("TILEID", ">i4"),
        ("COADD_NUMEXP", ">i2"),
        ("COADD_EXPTIME", ">f4"),
        ("COADD_NUMNIGHT", ">i2"),
    ]
)
_EXPOSURES = np.dtype(
    [
        ("TARGETID", ">i8"),
        ("NIGHT", ">i4"),
        ("EXPID", ">i4"),
        ("MJD", ">f8"),
        ("TILEID", ">i4"),
        ("EXPTIME", ">f8"),
        ("PETAL_LOC", ">i2"),
        ("FIBER", ">i4"),
        ("FIBERSTATUS", ">i4"),
        ("FIBER_RA", ">f8"),
        ("FIBER_DEC", ">f8"),
    ]
)


def _maps(petal: Petal) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the tables of a petal's fibres, and of their exposures: one each."""
    tile, night, number = tile_of(petal.number)
    fibres, n = petal.fibres, len(petal.fibres)
    fibermap, exposures = np.zeros(n, _FIBERMAP), np.zeros(n, _EXPOSURES)
    place = np.arange(n)
    common = {
        "TARGETID": [f.target for f in fibres],
        "PETAL_LOC": number,
        "FIBER": number * FIBRES + place,
        "TILEID": tile,
    }
    status = [BROKEN_FIBRE if f.broken else 0 for f in fibres]
    for key, value in (
        common
        | {
            "DEVICE_LOC": place,
            "LOCATION": 1000 * number + place,
            "COADD_FIBERSTATUS": status,
            "TARGET_RA": [f.ra for f in fibres],
            "TARGET_DEC": [f.dec for f in fibres],
            "FA_TYPE": [{"TGT": 1, "SKY": 4, "BAD": 0}[f.objtype] for f in fibres],
            "OBJTYPE": [f.objtype.encode() for f in fibres],
            "COADD_NUMEXP": 1,
            "COADD_EXPTIME": EXPOSURE,
            "COADD_NUMNIGHT": 1,
        }
    ).items():
        fibermap[key] = value
    for key, value in (
        common
        | {
            "NIGHT": night,
            "EXPID": tile,
            "MJD": FIRST_MJD + (tile - FIRST_TILE) + 0.25,
            "EXPTIME": EXPOSURE,
            "FIBERSTATUS": status,
            "FIBER_RA": fibermap["TARGET_RA"],
            "FIBER_DEC": fibermap["TARGET_DEC"],
        }
    ).items():
        exposures[key] = value
    return fibermap, exposures


def _header(petal: Petal) -> fits.Header:
    tile, night, number = tile_of(petal.number)
    cards = (
        ("SPGRP", "cumulative"),
        ("SPGRPVAL", night),
        ("NIGHT", night),
        ("TILEID", tile),
        ("SPECTRO", number),
        ("PETAL", number),
        ("ORIGIN", "MOCK"),
        ("TELESCOP", "MOCK"),
        ("INSTRUME", "DESI"),
    )
    return header_of(cards)


def coadd_bytes(petal: Petal) -> bytes:
    """Return a petal's coadd."""
    fibermap, exposures = _maps(petal)
    hdus: list[Any] = [
        fits.PrimaryHDU(header=_header(petal)),
        fits.BinTableHDU(fibermap, name="FIBERMAP"),
        fits.BinTableHDU(exposures, name="EXP_FIBERMAP"),
    ]
    for arm in ARMS:
        cut = _cut(arm)
        for what, data, unit in (
            ("WAVELENGTH", arm.wavelength, "Angstrom"),
            ("FLUX", petal.flux[:, cut], "10**-17 erg/(s cm2 Angstrom)"),
            ("IVAR", petal.ivar[:, cut], "10**+34 (s2 cm4 Angstrom2) / erg2"),
            ("MASK", petal.mask[:, cut], ""),
        ):
            hdu = fits.ImageHDU(np.ascontiguousarray(data), name=f"{arm.name}_{what}")
            if unit:
                hdu.header["BUNIT"] = unit
            hdus.append(hdu)
    scores = np.zeros(
        len(petal.fibres), [("TARGETID", ">i8"), *((f"MEDIAN_COADD_SNR_{a.name}", ">f4") for a in ARMS)]
    )
    scores["TARGETID"] = fibermap["TARGETID"]
    for row in range(len(scores)):
        for name, signal in _signal(petal.flux[row], petal.ivar[row]).items():
            scores[f"MEDIAN_COADD_SNR_{name}"][row] = signal
    return fits_bytes(*hdus, fits.BinTableHDU(scores, name="SCORES"))


def redrock_bytes(petal: Petal) -> bytes:
    """Return the redshifts of a petal and, in the same order, its fibres."""
    fibermap, _ = _maps(petal)
    return fits_bytes(
        fits.PrimaryHDU(header=_header(petal)),
        fits.BinTableHDU(petal.redshifts, name="REDSHIFTS"),
        fits.BinTableHDU(np.sort(fibermap, order="TARGETID"), name="FIBERMAP"),
    )
