"""Where samples lie: wavelength grids, HEALPix cells and the WCS of each zoom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import Latitude, Longitude
from astropy.wcs import WCS, Sip
from cdshealpix import lonlat_to_healpix
from numpy.typing import ArrayLike, NDArray

from skyfuse.errors import UsageError


@dataclass(frozen=True)
class SpectralGrid:
    """Wavelength bins at each zoom, all zooms dividing the same span equally.

    Attributes
    ----------
    name : str
    sizes : tuple of int
        Number of bins by zoom.
    span : tuple of float
        Outer edges: Å, or log10 of Å where `log`.
    log : bool
        Whether the bins are equal in log10 λ.
    first_bin : int or None
        k of the first bin of zoom 0 where the bins are log10 λ = k · 1e-4, centred; else None.
    """

    name: str
    sizes: tuple[int, ...]
    span: tuple[float, float]
    log: bool = False
    first_bin: int | None = None

    def edges(self, zoom: int) -> NDArray[np.float64]:
        """Return the bins' edges, Å, shape (n + 1,)."""
        edges = np.linspace(*self.span, self._size(zoom) + 1)
        return 10.0**edges if self.log else edges

    def centres(self, zoom: int) -> NDArray[np.float64]:
        """Return the bins' centres, Å, shape (n,): in log10 λ where the bins are equal in it."""
        edges = np.linspace(*self.span, self._size(zoom) + 1)
        centres: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return 10.0**centres if self.log else centres

    def _size(self, zoom: int) -> int:
        if not 0 <= zoom < len(self.sizes):
            raise UsageError(
                f"zoom {zoom} is not on the grid {self.name!r}",
                remedy=f"choose 0 to {len(self.sizes) - 1}",
            )
        return self.sizes[zoom]


SDSS = SpectralGrid(
    "sdss",
    (3744, 1872, 936, 468, 234),
    ((35835 - 0.5) * 1e-4, (39578 + 0.5) * 1e-4),
    log=True,
    first_bin=35835,
)
"""The native bins of SDSS, log10 λ = k · 1e-4 with k = 35835 … 39578: no resampling."""

_HISS_STEP = (8914.597 - 3839.7244) / (4620 - 1)
HISS = SpectralGrid(
    "hiss", (4620, 2310, 1155, 577, 289), (3839.7244 - _HISS_STEP / 2, 8914.597 + _HISS_STEP / 2)
)
"""The linear grid of the star-formation-rate study; the coarser zooms divide the same span equally."""

GRIDS = {"sdss": SDSS, "hiss": HISS}


def tile_of(ra: ArrayLike, dec: ArrayLike, order: int) -> NDArray[np.int64]:
    """Return the HEALPix cells of positions, NESTED.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.
    order : int
        0 to 29.

    Returns
    -------
    ndarray of int64
        Of the shape of `ra`, at least one-dimensional.
    """
    lon = Longitude(np.atleast_1d(np.asarray(ra, np.float64)), u.deg)
    lat = Latitude(np.atleast_1d(np.asarray(dec, np.float64)), u.deg)
    cells: NDArray[np.int64] = lonlat_to_healpix(lon, lat, order).astype(np.int64)
    return cells


def healpix29(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the HEALPix cells of positions at order 29, by which HATS catalogues are sorted."""
    return tile_of(ra, dec, 29)


def zoom_wcs(wcs: WCS, zoom: int, corner: tuple[int, int] = (0, 0)) -> WCS:
    """Return the WCS of a zoom of an image, or of a part of it.

    The edge of the first pixel stays where it is: ``crpix_z = (crpix − 0.5) / 2**zoom + 0.5``, and the scale
    grows by ``2**zoom``. SIP distortion is a polynomial in pixels, ``u + Σ A_pq u**p v**q``: its coefficients
    grow by ``2**(zoom (p + q − 1))``.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the native image, two celestial axes without distortion tables.
    zoom : int
    corner : tuple of int
        0-based column and row of the part's first pixel.

    Returns
    -------
    astropy.wcs.WCS
        A new one, `pixel_shape` rounded up.
    """
    factor = 2**zoom
    out = wcs.deepcopy()
    out.wcs.crpix = (wcs.wcs.crpix - corner - 0.5) / factor + 0.5
    if wcs.wcs.has_cd():
        out.wcs.cd = wcs.wcs.cd * factor
    else:
        out.wcs.cdelt = wcs.wcs.cdelt * factor
    if wcs.sip is not None:
        a, b, ap, bp = (
            None if terms is None else terms * float(factor) ** (np.indices(terms.shape).sum(axis=0) - 1)
            for terms in (wcs.sip.a, wcs.sip.b, wcs.sip.ap, wcs.sip.bp)
        )
        out.sip = Sip(a, b, ap, bp, (wcs.sip.crpix - corner - 0.5) / factor + 0.5)
    if wcs.pixel_shape is not None:
        out.pixel_shape = tuple(-(-size // factor) for size in wcs.pixel_shape)
    out.wcs.set()
    return out
