"""Light of the true sky at 3.4 and 4.6 µm, the bands W1 and W2 of WISE.

Broad relations in place of spectra, which end at 1.1 µm here. Old stars give a galaxy's light in proportion
to its mass, with the colour of stars, zero in Vega magnitudes; what the young ones heat adds a little in W1
and more in W2, so that the colour follows the specific star-formation rate; the dust around a nucleus is as
red as a quasar, W1 − W2 near 1 (Wright et al. 2010, AJ 140, 1868, figure 12; Stern et al. 2012, ApJ 753, 30).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfuse.mock.sky import SPAWN_INFRARED, Source, generator, luminosity_distance
from skyfuse.mock.spectra import blackbody

Array = NDArray[np.float64]

BANDS = (1, 2)
"""W1 and W2."""
VEGA_TO_AB = (2.699, 3.339)
"""AB less Vega magnitude (Explanatory Supplement to the WISE All-Sky Data Release, IV.4.h, table 3)."""
WAVELENGTH = (33526.0, 46028.0)
"""Å (Wright et al. 2010)."""
SUN = 3.24
"""Absolute Vega magnitude of the Sun in W1 (Jarrett et al. 2013, AJ 145, 6)."""
MASS_TO_LIGHT = 0.6
"""Solar masses for a solar luminosity in W1, whatever the age (Meidt et al. 2014, ApJ 788, 144)."""
YOUNG = (2.5e9, 5.0e9)
"""Solar luminosities in W1 and W2 that one solar mass a year adds: schematic, a colour of 0.13 at a specific
rate of 1e-10 a year, and never above 0.75."""
NUCLEUS = 30.0
"""ν L_ν at 3.4 µm of a nucleus' dust for the luminosity of its Hα."""
TORUS = 0.98
"""W1 − W2, Vega, of a power law f_ν ∝ 1/ν."""
_SUN_NU_L = 1.63e32
"""ν L_ν of the Sun at 3.4 µm, erg/s: `SUN` with the zero point 3631 Jy and `VEGA_TO_AB`."""
QUASAR = (0.8, 0.25, 0.12)
"""r − W1 of quasars, AB, its scatter, and that of W1 − W2, mag."""


def fluxes(seed: int, source: Source) -> Array:
    """Return a source's flux by band and component.

    Parameters
    ----------
    seed : int
        Of the sky.
    source : Source

    Returns
    -------
    ndarray, shape (2, 3) for galaxies (bulge, disc, young), (2, 1) for point sources
        W1 and W2, nanomaggies whose zero point is Vega's, as in the coadds of unWISE.
    """
    if source.shape is not None:
        return _galaxy(source)
    return _quasar(seed, source) if source.kind == "QSO" else _star(source)


def _galaxy(source: Source) -> Array:
    if source.shape is None:
        raise TypeError("only galaxies have components")
    bulge, z = source.shape.bulge, source.z
    # The flux of a solar luminosity at that distance; (1+z)³ for stars, whose light falls as 1/λ² in f_ν.
    unit = 10 ** (0.4 * (22.5 - SUN - 5 * np.log10(luminosity_distance(z) * 1e5)))
    stars = unit * (1 + z) ** 3 * 10**source.log_mass / MASS_TO_LIGHT
    young = unit * 10**source.log_sfr * np.array(YOUNG)
    nucleus = unit * NUCLEUS * 10**source.log_agn / _SUN_NU_L * np.array([1.0, 10 ** (0.4 * TORUS)])
    return np.column_stack([bulge * stars + nucleus, np.full(2, (1 - bulge) * stars), young])


def _quasar(seed: int, source: Source) -> Array:
    colour, scatter, width = QUASAR
    first, second = generator(seed, SPAWN_INFRARED, source.index).standard_normal(2)
    w1 = source.mag_r - colour - scatter * first - VEGA_TO_AB[0]
    # Beyond z = 2.5 the bands see less of the dust and more of the disc.
    w2 = w1 - (TORUS + width * second - 0.15 * max(source.z - 2.5, 0.0))
    return np.asarray(10 ** (0.4 * (22.5 - np.array([[w1], [w2]]))))


def _star(source: Source) -> Array:
    # f_ν over that at 6200 Å; Vega's own colour is every star's, so W2 is as bright as W1.
    ratio = blackbody(np.array(WAVELENGTH[:1]), source.temperature)[0] * (WAVELENGTH[0] / 6200.0) ** 2
    flux = 10 ** (0.4 * (22.5 - source.mag_r + VEGA_TO_AB[0])) * ratio
    return np.full((2, 1), flux)
