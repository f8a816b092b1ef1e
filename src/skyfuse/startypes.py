"""Types of stars: what a template's name tells and what it does not, and what surveys make of types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

SEQUENCE = "OBAFGKM"
"""Letters of the MK types, from hot to cool."""

_CERTAIN = 1.0
"""Subtypes by which types of one star differ between classifiers (standard deviation), in the MK system."""

_RARE = 0.2
"""Weight of supergiants, subdwarfs and peculiar stars among templates: few of a survey are like them."""

LAMOST: Mapping[bool, Mapping[float, tuple[float, float, float]]] = MappingProxyType(
    {
        False: {
            35: (1.0, 0.0, 0.0),
            36: (0.96, 0.04, 0.0),
            38: (0.81, 0.19, 0.0),
            39: (0.6, 0.4, 0.0),
            40: (0.52, 0.48, 0.0),
            42: (0.57, 0.43, 0.0),
            45: (0.61, 0.39, 0.0),
            48: (0.37, 0.62, 0.01),
            49: (0.25, 0.72, 0.03),
            50: (0.14, 0.7, 0.16),
            51: (0.08, 0.53, 0.39),
            52: (0.04, 0.39, 0.57),
            53: (0.01, 0.04, 0.95),
            54: (0.0, 0.0, 1.0),
        },
        True: {
            40: (0.6, 0.4, 0.0),
            45: (0.3, 0.67, 0.03),
            48: (0.14, 0.81, 0.05),
            50: (0.07, 0.78, 0.15),
            51: (0.05, 0.65, 0.3),
            52: (0.01, 0.45, 0.54),
            53: (0.0, 0.18, 0.82),
            54: (0.0, 0.02, 0.98),
            55: (0.0, 0.0, 1.0),
        },
    }
)
"""Shares of F, G and K that the LAMOST DR1 pipeline gives dwarfs (False) and giants of an MK subtype (35 is
F5), from 3,016 stars of its table of parameters by `benchmarks/lamost_types.py`: dwarfs like G0 to G5 are as
often called F9 as G, and giants up to K1 are called G5, since its templates hold no giants."""

_CAH2 = (6815.9, 6847.9), (7043.9, 7047.9)
"""Band and pseudo-continuum of the index CaH2, Å in vacuum (Reid, Hawley & Gizis 1995, AJ 110, 1838)."""
_M_BORDER = 0.87
"""CaH2 half way between the composite spectra of SDSS's K7 dwarfs (0.91) and M0 dwarfs (0.79 to 0.85;
Bochanski et al. 2007, AJ 133, 531; Kesseli et al. 2017, ApJS 230, 16). In giants, which hardly show CaH, TiO
fills the band: M0 III has 0.81, K4 III 0.99."""


def has_m_bands(wavelength: NDArray[np.floating[Any]], flux: NDArray[Any]) -> bool:
    """Tell whether a star called K has the molecular bands of type M.

    Old catalogues, whose types the SDSS pipeline's templates carry, end their K type later than surveys of M
    dwarfs do: of its two K5 dwarfs one (G 19-24) has the bands of an SDSS M0, and it alone stands for the
    early M dwarfs, since all templates called M are giants.

    Parameters
    ----------
    wavelength : ndarray, shape (n,)
        Å, vacuum, at rest.
    flux : ndarray, shape (n,)
        Per wavelength.

    Returns
    -------
    bool
        False also where the spectrum does not reach the bands.
    """
    band, beside = (flux[(wavelength > low) & (wavelength < high)] for low, high in _CAH2)
    return bool(len(band) and len(beside) and band.mean() < _M_BORDER * beside.mean())


class Star(NamedTuple):
    """What a template's name tells of its star.

    Attributes
    ----------
    subtype : float
        10 for each letter of `SEQUENCE` before its own, and the digit: A0 is 20, F5 35.
    giant : bool
        Of luminosity class I to III.
    weight : float
        1, or less for stars that are rare.
    """

    subtype: float
    giant: bool
    weight: float


def star_of(name: str, letter: str) -> Star | None:
    """Return what a template's name tells, e.g. ``F6IV (28527)``, ``sdF3 (140283)``; None without an MK type.

    Parameters
    ----------
    name : str
        In the SDSS pipeline's stellar templates.
    letter : str
        Its type, see `skyfuse.models.template.star_type`; M where a K star has the bands of one.
    """
    told = name.split("(")[0].strip()
    found = re.match(r"(sd:?)?([OBAFGKM])(\d(?:\.\d)?)?", told)
    if found is None or letter not in SEQUENCE:
        return None
    rest = told[found.end() :]
    bright = re.match(r":?(Ia|Ib|II(?!I))", rest)
    # Old subdwarfs go by their numbers in the Giclas catalogue, odd stars have no luminosity class.
    plain = "V" in rest or "III" in rest
    odd = letter != "M" and (found[1] or "(G_" in name or re.search(r"[mpw]|\.\.\.", rest) or not plain)
    digit = float(found[3]) if found[3] else 5.0
    subtype = 10.0 * SEQUENCE.index(letter) + (digit if found[2] == letter else 0.0)
    return Star(subtype, bool(bright) or "III" in rest, _RARE if bright or odd else 1.0)


def shares(star: Star, letters: Sequence[str], system: str) -> NDArray[np.float64]:
    """Return how likely a star like a template gets each of some letters.

    Parameters
    ----------
    star : Star
    letters : sequence of str
        Among `SEQUENCE`.
    system : str
        Who gives them: ``mk``, where classifiers differ by a subtype (Gaussian), or ``lamost``, where the
        table `LAMOST` tells between F and K.

    Returns
    -------
    ndarray of float64, shape (letters,)
        The sum is 1.
    """
    edges = (10.0 * np.arange(1, len(SEQUENCE)) - (star.subtype + 0.5)) / _CERTAIN
    found = np.diff(np.concatenate([[0.0], ndtr(edges), [1.0]]))
    known = LAMOST[star.giant]
    if system == "lamost" and min(known) <= star.subtype <= max(known):
        at = list(known)
        found = np.zeros(len(SEQUENCE))
        for i, column in zip(map(SEQUENCE.index, "FGK"), zip(*known.values(), strict=True), strict=True):
            found[i] = np.interp(star.subtype, at, column)
    wanted = found[[SEQUENCE.index(letter) for letter in letters]]
    return np.asarray(wanted / wanted.sum())
