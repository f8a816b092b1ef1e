"""Where samples lie: wavelength grids, HEALPix cells and the WCS of each zoom."""

from __future__ import annotations

import math
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
    """Wavelength bins at each zoom.

    All zooms divide the same span equally, except that a grid whose bins are counted (`first_bin`) is halved
    exactly, as its spectra are: where its bins are odd in number, the last one of the next zoom reaches
    beyond the span.

    Attributes
    ----------
    name : str
        By which `grid_named` finds it.
    sizes : tuple of int
        Number of bins by zoom.
    span : tuple of float
        Outer edges of zoom 0: Å, or log10 of Å where `log`.
    log : bool
        Whether the bins are equal in log10 λ.
    first_bin : int or None
        k of the first bin of zoom 0 where the bins are log10 λ = k · 1e-4, centred, or λ = k · `step`; else
        None.
    step : float or None
        Å, where the bins that `first_bin` counts are equal in λ.
    """

    name: str
    sizes: tuple[int, ...]
    span: tuple[float, float]
    log: bool = False
    first_bin: int | None = None
    step: float | None = None

    def edges(self, zoom: int) -> NDArray[np.float64]:
        """Return the bins' edges, Å, shape (n + 1,)."""
        edges = self._edges(zoom)
        return 10.0**edges if self.log else edges

    def centres(self, zoom: int) -> NDArray[np.float64]:
        """Return the bins' centres, Å, shape (n,): in log10 λ where the bins are equal in it."""
        edges = self._edges(zoom)
        centres: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return 10.0**centres if self.log else centres

    def _edges(self, zoom: int) -> NDArray[np.float64]:
        if not 0 <= zoom < len(self.sizes):
            raise UsageError(
                f"zoom {zoom} is not on the grid {self.name!r}",
                remedy=f"choose 0 to {len(self.sizes) - 1}",
            )
        size, (low, high) = self.sizes[zoom], self.span
        if self.first_bin is not None:
            # Of even numbers exactly the span.
            high = low + (high - low) * ((size << zoom) / self.sizes[0])
        return np.linspace(low, high, size + 1)


def _counted(name: str, first: int, last: int, step: float | None = None) -> SpectralGrid:
    """Return the grid of the bins `first` to `last`: log10 λ = k · 1e-4, or λ = k · step."""
    width = 1e-4 if step is None else step
    return SpectralGrid(
        name,
        _sizes(last - first + 1),
        ((first - 0.5) * width, (last + 0.5) * width),
        log=step is None,
        first_bin=first,
        step=step,
    )


def _sizes(bins: int) -> tuple[int, ...]:
    """Return the number of bins of each zoom, halved and rounded up."""
    return tuple(-(-bins // 2**zoom) for zoom in range(_ZOOMS))


_ZOOMS = 5
SDSS = _counted("sdss", 35835, 39578)
"""The native bins of SDSS, log10 λ = k · 1e-4 with k = 35835 … 39578: no resampling."""

BOSS = _counted("boss", 35563, 40170)
"""The same bins over the span of the BOSS spectrographs, 3600 to 10400 Å."""

LAMOST = _counted("lamost", 35671, 39590)
"""The same bins over the span of LAMOST's spectra of low resolution, 3690 to 9099 Å."""

DESI = _counted("desi", 4500, 12280, step=0.8)
"""The native bins of DESI, λ = k · 0.8 Å from 3600 to 9824 Å: no resampling."""

_HISS_STEP = (8914.597 - 3839.7244) / (4620 - 1)
HISS = SpectralGrid(
    "hiss", (4620, 2310, 1155, 577, 289), (3839.7244 - _HISS_STEP / 2, 8914.597 + _HISS_STEP / 2)
)
"""The linear grid of the star-formation-rate study; the coarser zooms divide the same span equally."""

GRIDS = {grid.name: grid for grid in (SDSS, BOSS, DESI, LAMOST, HISS)}
"""The named grids; of others see `grid_named`."""

# 2^5: at least one bin of the coarsest zoom. A million bins is over 100 times the finest that any survey has.
_FEWEST, _MOST = 32, 1_000_000
# Å: from soft X-rays to millimetres.
_WAVELENGTHS = (1.0, 1e8)
# Bins are those of SDSS (or multiples of the step) where they are less than this share of a bin off.
_ALIKE = 5e-3
_HOW = "write log:FIRST,LAST,STEP or linear:FIRST,LAST,STEP, e.g. log:3600,10400,1e-4 or linear:3600,9824,0.8"


def grid_named(text: str) -> SpectralGrid:
    """Return a grid by its name, or one that is described in the same word.

    ``log:λ0,λ1,Δ`` and ``linear:λ0,λ1,Δ`` have their first bin centred on λ0 (Å) and their last one on λ1, or
    less than a step before it. Δ is the step in log10 λ, or in Å. Spectra whose bins are the grid's own are
    not resampled: those of SDSS where Δ is 1e-4 and log10 λ0 a multiple of it (to half a percent of a bin),
    those of DESI where Δ is 0.8 Å and λ0 a multiple of it.

    Parameters
    ----------
    text : str

    Returns
    -------
    SpectralGrid
        The name of a described one is its description in canonical form, which gives the same grid again.

    Raises
    ------
    UsageError
        If there is none of that name, or the description makes no sense.
    """
    if text in GRIDS:
        return GRIDS[text]
    kind, colon, numbers = text.strip().partition(":")
    if kind not in ("log", "linear") or not colon:
        raise UsageError(
            f"there is no wavelength grid '{text}'", remedy=f"choose one of {', '.join(GRIDS)}, or {_HOW}"
        )
    try:
        first, last, step = (float(number) for number in numbers.split(","))
    except ValueError:
        raise UsageError(f"the grid '{text}' is not three numbers", remedy=_HOW) from None
    low, high = _WAVELENGTHS
    if not (low <= first < last <= high and 0 < step < math.inf):
        raise UsageError(
            f"the grid '{text}' does not rise from {low:g} to {high:g} Å at most in steps above 0",
            remedy=_HOW,
        )
    return _described(kind, first, last, step)


def _described(kind: str, first: float, last: float, step: float) -> SpectralGrid:
    name = f"{kind}:{first!r},{last!r},{step!r}"
    log = kind == "log"
    start, stop = (math.log10(first), math.log10(last)) if log else (first, last)
    # The last centre may be written rounded.
    steps = (stop - start) / step + _ALIKE
    if not _FEWEST <= steps + 1 <= _MOST:
        raise UsageError(
            f"the grid '{name}' has {steps + 1:.0f} bins, not {_FEWEST} to {_MOST}",
            remedy="give a step in log10 λ" if log else "give a step in Å",
        )
    bins = int(steps) + 1
    place = start / step
    if abs(place - round(place)) < _ALIKE and (step == 1e-4 or not log):
        return _counted(name, round(place), round(place) + bins - 1, None if log else step)
    return SpectralGrid(name, _sizes(bins), (start - step / 2, start + (bins - 0.5) * step), log=log)


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
