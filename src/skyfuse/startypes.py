"""Where stellar templates need a type that their names do not tell; for models and mock alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
