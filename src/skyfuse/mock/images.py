"""Frames of the true sky: profiles, point spread functions, calibration and noise.

Sources are rendered in Fourier space: each component of light has one transform for all bands, made of
galsim's profiles, which is multiplied by the band's point spread function, the pixel and a shift. That
gives the exact expectation within each pixel, up to the periodic box, which is five half-light radii wide
on each side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import galsim
import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.special import j1

from skyfuse.mock.sky import (
    CAMCOLS,
    NX,
    NY,
    PIXEL,
    SPAWN_CAMERA,
    SPAWN_FIELD,
    SPAWN_NOISE,
    Field,
    Sky,
    Source,
    generator,
)
from skyfuse.mock.spectra import BANDS, Populations, filter_weights, source_light

Array = NDArray[np.float64]

# Gain (electrons per count) and dark variance (counts²) by camera column, u g r i z; SDSS `frame` data
# model, late runs.
GAIN = {
    1: (1.62, 3.32, 4.71, 5.165, 4.745),
    2: (1.825, 3.855, 4.6, 6.565, 5.155),
    3: (1.59, 3.845, 4.72, 4.86, 4.885),
    4: (1.6, 3.995, 4.76, 4.885, 4.775),
    5: (1.47, 4.05, 4.725, 4.64, 3.48),
    6: (2.17, 4.035, 4.895, 4.76, 4.69),
}
DARK_VARIANCE = {
    1: (9.61, 15.6025, 1.8225, 7.84, 0.81),
    2: (12.6025, 1.44, 1.00, 6.25, 1.0),
    3: (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    4: (12.6025, 1.96, 1.3225, 7.5625, 12.6025),
    5: (9.3025, 1.1025, 0.81, 7.84, 2.1025),
    6: (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
}
CALIBRATION = (0.00966, 0.00374, 0.00507, 0.00637, 0.0368)
"""Nanomaggies per count, as in real frames."""
SKY_COUNTS = (18.5, 65.0, 114.0, 148.0, 76.0)
SEEING = (1.55, 1.45, 1.32, 1.25, 1.28)
"""Full width at half maximum, arcsec."""
MOFFAT_BETA = 3.5
FIBRE_RADIUS, FIBRE_SEEING = 1.5, 1.5
_SIZES = (64, 96, 128, 192, 256)


@lru_cache(maxsize=8)
def sersic_transform(n: float) -> tuple[Array, Array]:
    """Tabulate the transform of a Sérsic profile of flux 1 and half-light radius 1, cut at 5 radii."""
    profile = galsim.Sersic(n=n, half_light_radius=1.0, trunc=5.0)
    k = np.concatenate([np.linspace(0, 12, 900), np.geomspace(12.05, 400, 250)])
    return k, np.array([profile.kValue(v, 0.0).real for v in k])


@lru_cache(maxsize=256)
def _moffat(fwhm: float) -> tuple[Array, Array]:
    """Tabulate the transform of the point spread function against k, per arcsec."""
    profile = galsim.Moffat(beta=MOFFAT_BETA, fwhm=fwhm)
    k = np.linspace(0.0, 12.0, 600)
    return k, np.array([profile.kValue(v, 0.0).real for v in k])


@lru_cache(maxsize=8)
def wavenumbers(size: int, pixel: float = PIXEL) -> tuple[Array, Array, Array]:
    """Return kx, ky (radians per arcsec) of a half-plane transform, and their length."""
    kx = np.asarray(2 * np.pi * np.fft.rfftfreq(size, pixel)[None, :], np.float64)
    ky = np.asarray(2 * np.pi * np.fft.fftfreq(size, pixel)[:, None], np.float64)
    return kx, ky, np.asarray(np.hypot(kx, ky), np.float64)


@lru_cache(maxsize=64)
def point_spread(size: int, fwhm: float, pixel: float = PIXEL, finer: int = 1) -> Array:
    """Return the transform of point spread function and pixel, `finer` samples a pixel.

    Shape (size, size // 2 + 1).
    """
    kx, ky, k = wavenumbers(size, pixel / finer)
    square = np.sinc(kx * pixel / 2 / np.pi) * np.sinc(ky * pixel / 2 / np.pi)
    return np.asarray(np.interp(k, *_moffat(fwhm)) * square)


def box_size(source: Source) -> int:
    """Return the side of the box, pixels of a frame, that a source is rendered in."""
    if source.shape is None:
        return 128 if source.mag_r < 17 else 64
    shape = source.shape
    reach = 5 * max(shape.re_bulge * min(1, 20 * shape.bulge), shape.re_disc, 0.8 * shape.re_young) + 3
    return next((size for size in _SIZES if size * PIXEL / 2 >= reach), _SIZES[-1])


def transforms(source: Source, size: int, pixel: float = PIXEL) -> NDArray[np.complex128]:
    """Return the transforms of a source's components, each of flux 1 and centred on 0.

    Parameters
    ----------
    source : Source
    size : int
        Side of the box, pixels.
    pixel : float
        Side of a pixel, arcsec.

    Returns
    -------
    ndarray, shape (3, size, size // 2 + 1) for galaxies (bulge, disc, young), (1, …) for point sources
        x runs to the North, y to the East.
    """
    shape = source.shape
    if shape is None:
        return np.ones((1, size, size // 2 + 1), np.complex128)
    kx, ky, _ = wavenumbers(size, pixel)
    angle = np.radians(shape.position_angle)
    major = kx * np.cos(angle) + ky * np.sin(angle)
    minor = ky * np.cos(angle) - kx * np.sin(angle)
    q = max(float(np.cos(np.radians(shape.inclination))), 0.15)
    round_q = 1 - 0.35 * (1 - q)
    out = np.empty((3, size, size // 2 + 1), np.complex128)
    out[0] = np.interp(shape.re_bulge * np.hypot(major, round_q * minor), *sersic_transform(4.0))
    radius = np.hypot(major, q * minor)
    out[1] = np.interp(shape.re_disc * radius, *sersic_transform(1.0))
    out[2] = (1 - shape.clump_share) * np.interp(shape.re_young * radius, *sersic_transform(1.0))
    along, across = shape.clumps[:, 0] * shape.re_young, shape.clumps[:, 1] * shape.re_young * q
    x = along * np.cos(angle) - across * np.sin(angle)
    y = along * np.sin(angle) + across * np.cos(angle)
    width = shape.clumps[:, 3]
    # Round Gaussians separate in x and y, so a sum over clumps is one matrix product.
    in_x = np.exp(-1j * kx * x[:, None] - 0.5 * (kx * width[:, None]) ** 2)
    in_y = np.exp(-1j * ky.T * y[:, None] - 0.5 * (ky.T * width[:, None]) ** 2)
    out[2] += shape.clump_share * ((shape.clumps[:, 2, None] * in_y).T @ in_x)
    return out


def fibre_shares(
    parts: NDArray[np.complex128], seeing: float = FIBRE_SEEING, radius: float = FIBRE_RADIUS
) -> Array:
    """Return which share of each component's light enters a fibre that is centred on the source.

    Parameters
    ----------
    parts : ndarray, shape (c, size, size // 2 + 1)
        Transforms of the components.
    seeing : float
        Full width at half maximum, arcsec.
    radius : float
        Of the fibre, arcsec; by default that of the survey's 3″ fibres.

    Returns
    -------
    ndarray, shape (c,)
    """
    size = parts.shape[1]
    return np.asarray(np.einsum("cij,ij->c", parts.real, _fibre(size, seeing, radius)))


@lru_cache(maxsize=16)
def _fibre(size: int, seeing: float, radius: float) -> Array:
    """Return the weights by which a transform sums to the blurred light in a fibre (Parseval's theorem)."""
    _, _, k = wavenumbers(size)
    kr = np.where(k > 0, k, 1.0) * radius
    aperture = np.where(k > 0, 2 * j1(kr) / kr, 1.0) * np.interp(k, *_moffat(seeing))
    # The half plane stands for both: every column but the first and the last counts twice.
    aperture[:, 1:-1] *= 2
    return np.asarray(aperture * np.pi * radius**2 / (size * PIXEL) ** 2)


def empty_sky_variance(camcol: int = CAMCOLS[0]) -> Array:
    """Return the noise variance of an empty pixel in each band under mean conditions, nanomaggies²."""
    sky, gain, dark = (np.array(v) for v in (SKY_COUNTS, GAIN[camcol], DARK_VARIANCE[camcol]))
    return np.asarray(np.array(CALIBRATION) ** 2 * (sky / gain + dark))


def profile_products(parts: NDArray[np.complex128], seeing: float = min(SEEING)) -> Array:
    """Return the sums over pixels of products of the components' images, shape (c, c).

    With uniform noise σ, these over σ² are the Fisher information of an image about its components' fluxes.
    """
    size = parts.shape[1]
    weight = np.full(size // 2 + 1, 2.0)
    weight[[0, -1]] = 1.0
    blurred = (parts * (point_spread(size, seeing) * np.sqrt(weight))).reshape(len(parts), -1)
    return np.asarray((blurred @ blurred.conj().T).real / size**2)


@dataclass(frozen=True, slots=True)
class Conditions:
    """How one field was observed in one band.

    Attributes
    ----------
    band : str
    wcs : WCS
        Of the band's own frame.
    calib : ndarray of float32, shape (NX,)
        Nanomaggies per count, by column.
    all_sky : ndarray of float32, shape (192, 256)
        Sky, counts, on the coarse grid of the frame's table.
    gain, dark_variance, seeing, tai : float
    """

    band: str
    wcs: WCS
    calib: NDArray[np.float32]
    all_sky: NDArray[np.float32]
    gain: float
    dark_variance: float
    seeing: float
    tai: float


X_INTERP: NDArray[np.float32] = (-0.4375 + 0.125 * np.arange(NX)).astype(np.float32)
Y_INTERP: NDArray[np.float32] = (0.5625 + 0.125 * np.arange(NY)).astype(np.float32)
DRIFT_ORDER = "riuzg"
"""The order in which a star drifts over the five chips, 71.7 s apart."""


def conditions(sky: Sky, where: Field) -> list[Conditions]:
    """Draw how a field was observed, band by band."""
    out = []
    for number, band in enumerate(BANDS):
        # Offsets between bands belong to the camera: the same for each field of a strip, but for a little
        # jitter.
        camera = generator(sky.seed, SPAWN_CAMERA, where.strip, number)
        rng = generator(sky.seed, SPAWN_FIELD, where.index, number)
        shift = (camera.uniform(-2.5, 2.5, 2) if band != "r" else np.zeros(2)) + rng.normal(0, 0.05, 2)
        rotation = np.radians((camera.uniform(-0.04, 0.04) if band != "r" else 0.0) + 0.01)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crpix = [NX / 2 + 1, NY // 2 + 1]
        scale = PIXEL / 3600
        wcs.wcs.cd = scale * np.array(
            [[np.sin(rotation), np.cos(rotation)], [np.cos(rotation), -np.sin(rotation)]]
        )
        wcs.wcs.crval = [
            where.ra + shift[1] * scale / np.cos(np.radians(where.dec)),
            where.dec + (0.5 + shift[0]) * scale,
        ]
        wcs.wcs.set()
        column = (np.arange(NX) - NX / 2) / NX
        calib = CALIBRATION[number] * rng.normal(1, 0.02) * (1 + 0.003 * rng.standard_normal() * column)
        yy, xx = np.mgrid[0:192, 0:256] / 256.0 - 0.5
        tilt = 0.002 * rng.standard_normal(2)
        all_sky = SKY_COUNTS[number] * rng.normal(1, 0.08) * (1 + tilt[0] * xx + tilt[1] * yy)
        out.append(
            Conditions(
                band,
                wcs,
                calib.astype(np.float32),
                all_sky.astype(np.float32),
                GAIN[where.camcol][number],
                DARK_VARIANCE[where.camcol][number],
                round(SEEING[number] * rng.normal(1, 0.04), 3),
                round(
                    4.5e9
                    + 86400.0 * (where.run - 9000)
                    + 35.824 * where.number
                    + 71.72 * DRIFT_ORDER.index(band),
                    2,
                ),
            )
        )
    return out


def sky_counts(all_sky: NDArray[np.float32]) -> Array:
    """Interpolate the coarse sky bilinearly to every pixel, counts; shape (NY, NX)."""
    sky = all_sky.astype(np.float64)
    y = np.clip(Y_INTERP.astype(np.float64), 0, sky.shape[0] - 1)
    x = np.clip(X_INTERP.astype(np.float64), 0, sky.shape[1] - 1)
    i, j = np.minimum(y.astype(int), sky.shape[0] - 2), np.minimum(x.astype(int), sky.shape[1] - 2)
    rows = sky[i] + (y - i)[:, None] * (sky[i + 1] - sky[i])
    return np.asarray(rows[:, j] + (x - j) * (rows[:, j + 1] - rows[:, j]))


def render(
    sky: Sky, where: Field, observed: list[Conditions], bank: Populations | None = None
) -> list[Array]:
    """Render a field's sources without noise, in nanomaggies a pixel.

    Parameters
    ----------
    sky : Sky
    where : Field
    observed : list of Conditions
        One a band.
    bank : Populations, optional

    Returns
    -------
    list of ndarray, each of shape (NY, NX)
        In the order of `observed`.
    """
    frames = [np.zeros((NY, NX)) for _ in observed]
    sources = sky.of_field(where)
    ra, dec = np.array([s.ra for s in sources]), np.array([s.dec for s in sources])
    pixels = [np.column_stack(o.wcs.all_world2pix(ra, dec, 0)) for o in observed] if sources else []
    weights = filter_weights()
    for number, source in enumerate(sources):
        size = box_size(source)
        fluxes = weights @ source_light(source, bank).T
        parts = transforms(source, size)
        for band, (frame, o) in enumerate(zip(frames, observed, strict=True)):
            x, y = pixels[band][number]
            light: NDArray[np.complex128] = np.tensordot(fluxes[band], parts, 1)
            add_source(frame, (x, y), light * point_spread(size, o.seeing))
    return frames


def add_source(
    frame: Array,
    at: tuple[float, float],
    seen: NDArray[np.complex128],
    pixel: float = PIXEL,
    finer: int = 1,
) -> None:
    """Add a source to an image, in place; what falls beside the image is lost.

    Parameters
    ----------
    frame : ndarray, shape (ny, nx)
        x runs to the North, y to the East.
    at : (float, float)
        x and y of the source, pixels from the centre of the first one.
    seen : ndarray, shape (size, size // 2 + 1)
        Transform of the source centred on 0, through point spread function and pixel.
    pixel : float
        Side of a pixel, arcsec.
    finer : int
        Samples of `seen` a pixel along each axis; more than one where pixels are too wide to hold all
        waves of the point spread function.
    """
    fine = len(seen)
    size = fine // finer
    ny, nx = frame.shape
    x, y = at
    x0, y0 = round(x) - size // 2, round(y) - size // 2
    if x0 >= nx or y0 >= ny or x0 + size <= 0 or y0 + size <= 0:
        return
    kx, ky, _ = wavenumbers(fine, pixel / finer)
    shift = np.exp(-1j * ky * ((y - y0) * pixel)) * np.exp(-1j * kx * ((x - x0) * pixel))
    stamp = np.fft.irfft2(seen * shift, s=(fine, fine))[::finer, ::finer] * finer**2
    ys, xs = slice(max(y0, 0), min(y0 + size, ny)), slice(max(x0, 0), min(x0 + size, nx))
    frame[ys, xs] += np.maximum(stamp[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0], 0.0)


def expose(expected: Array, observed: Conditions, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add noise to a frame's expectation.

    Photons of source and sky arrive as Poisson electrons; the dark variance is Gaussian, in counts².

    Parameters
    ----------
    expected : ndarray, shape (NY, NX)
        Nanomaggies.
    observed : Conditions
    rng : Generator

    Returns
    -------
    ndarray of float32, shape (NY, NX)
        Sky-subtracted nanomaggies; a few pixels, hit by cosmic rays or on a bad column, are NaN.
    """
    sky = sky_counts(observed.all_sky)
    calib = observed.calib.astype(np.float64)
    counts = rng.poisson((expected / calib + sky) * observed.gain) / observed.gain
    counts += np.sqrt(observed.dark_variance) * rng.standard_normal(counts.shape)
    image = ((counts - sky) * calib).astype(np.float32)
    for _ in range(rng.poisson(30)):
        x, y, angle = rng.uniform(0, NX), rng.uniform(0, NY), rng.uniform(0, np.pi)
        steps = np.arange(rng.integers(2, 12))
        hit_x, hit_y = (x + steps * np.cos(angle)).astype(int), (y + steps * np.sin(angle)).astype(int)
        inside = (hit_x >= 0) & (hit_x < NX) & (hit_y < NY)
        image[hit_y[inside], hit_x[inside]] = np.nan
    column, row, length = (int(v) for v in rng.integers((0, 0, 20), (NX, NY - 80, 80)))
    image[row : row + length, column] = np.nan
    return image


def noise_generator(sky: Sky, where: Field, band: int) -> np.random.Generator:
    """Return the generator of a frame's noise."""
    return generator(sky.seed, SPAWN_NOISE, where.index, band)
