"""Gaia's view of the galaxies: sampled BP and RP spectra with errors, and how well they fix a redshift.

The instrument after Gaia Collaboration, Prusti et al. (2016, A&A 595, A1), Jordi et al. (2010, A&A 523, A48)
and Montegriffo et al. (2023, A&A 674, A3): two prisms, a line spread function of a few pixels, and a window
of 60 by 12 pixels (3.5″ by 2.1″) around the source. There is no slit: each component's spectrum is smeared
along the scan by the component's own profile, averaged over the scans' directions, which leaves a galaxy of
2″ little but its colours. Samples lie evenly along the scan over the range in which
each photometer transmits, 120 of them each, as from the module that samples the mean spectra for the
astrophysical pipeline (Gaia DR3 documentation, §11.3.1); the redshift study cuts 34 and 6 of BP's, 4 and 10
of RP's, and keeps 186 from 366 to 996 nm.

How well a spectrum fixes the redshift is the local form of the Bayesian Cramér–Rao bound, as in
`skyfuse.mock.bound`; its prior is the normal distribution with the covariance of the mock's own population.
It is an approximation, good to about 5 % (see `attainable_z`), and no strict bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from speclite.filters import load_filter

from skyfuse.mock import bulk, classes, images, spectra
from skyfuse.mock.bulk import Galaxies
from skyfuse.mock.files import fits_bytes
from skyfuse.mock.sky import AGN_SCATTER, SPAWN_XP, Source, draw_galaxy, generator

Array = NDArray[np.float64]

SAMPLES = 120
"""Samples of BP, and of RP."""
KEPT = np.r_[34 : SAMPLES - 6, SAMPLES + 4 : 2 * SAMPLES - 10]
"""Which of the 240 samples the redshift study keeps."""
# Pixel along the scan, counted from an arbitrary zero, at even wavelengths (first, step, nm): the prisms'
# mean dispersion, from the table that the consortium publishes with GaiaXPy (Montegriffo et al. 2023, §4).
_BP_PIXEL = np.array(
    [
        *(62.5258, 54.5151, 48.0482, 42.8236, 38.5205, 34.9248, 31.8757, 29.2580, 26.9865, 24.9968, 23.2392),
        *(21.6751, 20.2736, 19.0096, 17.8629, 16.8163, 15.8564, 14.9675, 14.1326, 13.3591, 12.6369, 11.9601),
    ]
)
_RP_PIXEL = np.array(
    [
        *(2.5890, 7.4000, 11.6796, 15.5197, 18.9935, 22.1621, 25.0741, 27.7696, 30.2816, 32.6370, 34.8584),
        *(36.9645, 38.9708, 40.8901, 42.7328, 44.5084, 46.2242, 47.8869, 49.5014, 51.0725, 52.6041),
    ]
)
_BANDS = (("gaiadr3-BP", (300.0, 20.0), _BP_PIXEL), ("gaiadr3-RP", (580.0, 25.0), _RP_PIXEL))
# Wavelengths, nm, of the first and last sample that the study keeps of each band; where the bands meet is
# not stated, and chosen so that 120 samples span the range in which each transmits.
_SPAN = ((366.0, 627.0), (620.0, 996.0))
_WIDTH_NM = ((330.0, 680.0), (640.0, 1050.0))
_WIDTH = ((1.3, 1.9), (3.5, 4.1))
"""Full width of the line spread function, pixels, at 330 and 680 nm (BP), and at 640 and 1050 nm (RP): the
76 % energy extent of Jordi et al. (2010), which for a Gaussian is its width at half maximum."""
APERTURE_CM2 = 1.45 * 0.5 * 1e4
"""Collecting area of one telescope, cm²; each transit is seen by one of the two."""
TRANSITS, EXPOSURE = 20, 4.42
"""Good transits of an extended source over the 34 months of DR3, and seconds that each is integrated."""
BACKGROUND, READ_NOISE = 20.0, 5.0
"""Sky and stray light, electrons a second in a pixel along the scan; read noise, electrons. With them the
blue end of a red galaxy scatters by 0.3 e-/s. A choice of ours; published spectra show no less."""
FLOOR = 0.004
"""Relative error that the internal calibration leaves."""
ALONG, ACROSS = 0.0589, 2.1
"""Pixel along the scan, and width of the window across it, arcsec."""
_PADDED = 384
"""Samples of the periodic box in which spectra are smeared."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """Where the samples lie and what they get.

    Attributes
    ----------
    wavelength : ndarray, shape (240,)
        Of the samples, BP then RP, each increasing; nm.
    pixels : ndarray, shape (240,)
        Width of each sample, pixels.
    fine : ndarray, shape (240, n)
        Electrons a second that one unit of flux in a bin of the observed grid gives in each sample.
    response : ndarray, shape (240, n_coarse)
        Likewise on the coarse grid.
    """

    wavelength: Array
    pixels: Array
    fine: Array
    response: Array


@lru_cache(maxsize=1)
def instrument() -> Instrument:
    """Return the mean instrument."""
    waves, widths, rows = [], [], []
    nm = spectra.WAVELENGTH / 10
    # Photons a second in a bin, from 1e-17 erg/s/cm²/Å: energy over h c / λ, times bin and mirror.
    photons = 1e-17 * spectra.WAVELENGTH / 1.98644586e-8
    photons = photons * spectra.WAVELENGTH * np.log(10.0) * 1e-4 * APERTURE_CM2
    for band, (name, (first, step_nm), pixel) in enumerate(_BANDS):
        curve = load_filter(name)
        passed = np.interp(10 * nm, np.asarray(curve.wavelength), np.asarray(curve.response), 0.0, 0.0)
        table = first + step_nm * np.arange(len(pixel))
        to_pixel = PchipInterpolator(table, pixel)
        kept = KEPT[(KEPT >= SAMPLES) == bool(band)] - SAMPLES * band
        low, high = to_pixel(_SPAN[band])
        step = (high - low) / (kept[-1] - kept[0])
        place = low + step * (np.arange(SAMPLES) - kept[0])
        dense = np.linspace(table[0], table[-1], 20001)
        order = np.argsort(to_pixel(dense))
        waves.append(np.interp(place, to_pixel(dense)[order], dense[order]))
        step = abs(float(step))
        widths.append(np.full(SAMPLES, step))
        sigma = np.interp(nm, _WIDTH_NM[band], _WIDTH[band]) / 2.3548
        # Outside of the table no light passes.
        at = to_pixel(np.clip(nm, table[0], table[-1]))
        profile = np.exp(-0.5 * ((place[:, None] - at) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
        rows.append(profile * step * passed * photons)
    fine = np.concatenate(rows)
    return Instrument(np.concatenate(waves), np.concatenate(widths), fine, bulk.detector(fine))


def radii(sources: list[Source]) -> Array:
    """Return half-light radii of bulge, disc and young component, arcsec; shape (n, 3).

    Of the circle with the inclined ellipse's area, since scans run in all directions.
    """
    shapes = [s.shape for s in sources if s.shape is not None]
    q = np.maximum(np.cos(np.radians([s.inclination for s in shapes])), 0.15)
    each = np.array([(s.re_bulge, s.re_disc, s.re_young) for s in shapes])
    return np.asarray(each * np.sqrt(np.column_stack([1 - 0.35 * (1 - q), q, q])))


_SERSIC = (4.0, 1.0, 1.0)


@lru_cache(maxsize=2)
def _across(n: float) -> tuple[Array, Array]:
    """Tabulate the share of a Sérsic profile's light in a strip, against its half width in radii."""
    k = np.linspace(1e-6, 300.0, 60001)
    transform = np.interp(k, *images.sersic_transform(n))
    width = np.geomspace(0.02, 20.0, 80)
    # The transform of the projection is that of the profile (projection-slice theorem); its integral over
    # the strip is the transform's against sin(kw)/k.
    share = [2 / np.pi * np.trapezoid(transform * np.sin(k * w) / k, k) for w in width]
    return width, np.minimum(share, 1.0)


def smear(flux: Array, size: Array) -> Array:
    """Smear components' spectra along the scan, cut them by the window across it, and add them.

    What the window lets through across the scan is taken to be the same share all along it.

    Parameters
    ----------
    flux : ndarray, shape (n, 3, 240)
        Of bulge, disc and young component as point sources.
    size : ndarray, shape (n, 3)
        Half-light radii, arcsec.

    Returns
    -------
    ndarray, shape (n, 240)
    """
    out = np.empty((len(flux), 2 * SAMPLES))
    for start in (0, SAMPLES):
        part = slice(start, start + SAMPLES)
        k = 2 * np.pi * np.fft.rfftfreq(_PADDED, instrument().pixels[start] * ALONG)
        total = np.zeros((len(flux), len(k)), np.complex128)
        for component, n in enumerate(_SERSIC):
            radius = size[:, component]
            kernel = np.interp(radius[:, None] * k, *images.sersic_transform(n))
            kernel *= np.interp(ACROSS / 2 / radius, *_across(n))[:, None]
            total += np.fft.rfft(flux[:, component, part], _PADDED, axis=1) * kernel
        out[:, part] = np.fft.irfft(total, _PADDED, axis=1)[:, :SAMPLES]
    return out


def expected(sources: list[Source], bank: spectra.Populations | None = None) -> Array:
    """Return the noise-free spectra of galaxies, electrons a second in a sample; shape (n, 240)."""
    return smear(bulk.counts(Galaxies.of(sources), instrument().response, bank), radii(sources))


def sigma(flux: Array, samples: NDArray[np.intp] | slice = slice(None)) -> Array:
    """Return the error of mean spectra, e-/s: photons, background and read noise of all transits, and floor.

    Parameters
    ----------
    flux : ndarray, shape (n, m)
        Expectation.
    samples : index
        Which m of the 240 samples these are.
    """
    pixels = instrument().pixels[samples]
    noise = (flux + BACKGROUND * pixels) * EXPOSURE + READ_NOISE**2 * pixels
    return np.sqrt(noise / (TRANSITS * EXPOSURE**2) + (FLOOR * flux) ** 2)


# Steps of the finite differences: the eight parameters of the light, the bulge's share, and the log10 of the
# old and of the young light's radius.
_STEPS = np.array([2e-3, 2e-3, 2e-4, 2e-3, 4e-3, 4e-3, 2e-3, 4e-3, 4e-3, 4e-3, 4e-3])
_Z = spectra.GALAXY_PARAMETERS.index("z")
_AGN = spectra.GALAXY_PARAMETERS.index("log_agn")
_BULGE, _OLD, _YOUNG = range(len(spectra.GALAXY_PARAMETERS), len(_STEPS))


def _vectors(sources: list[Source]) -> Array:
    """Return the parameters that priors are taken of, shape (n, 11); radii as circles, log10."""
    light = Galaxies.of(sources)
    return np.column_stack([light.parameters, light.bulge, np.log10(radii(sources)[:, 1:])])


@lru_cache(maxsize=4)
def _prior(z_max: float, n: int = 2000) -> Array:
    """Return the inverse covariance of the parameters of the mock's galaxies; shape (11, 11).

    One normal distribution for quenched galaxies and others, since nobody says which a spectrum shows; so
    the flux limit counts, which ties mass to redshift. The nucleus' luminosity, which few have, is
    independent of all.
    """
    drawn = [draw_galaxy(generator(0, SPAWN_XP, i), i, 0.0, 0.0, z_max=z_max) for i in range(n)]
    values = _vectors([classes.dress(0, source) for source in drawn])
    values[:, _AGN] = 0.0
    covariance = np.cov(values.T)
    covariance[_AGN, _AGN] = AGN_SCATTER**2
    return np.asarray(np.linalg.inv(covariance), np.float64)


def attainable_z(sources: list[Source], z_max: float, bank: spectra.Populations | None = None) -> Array:
    """Return the standard deviation of z that the 186 samples and the prior leave the best estimator.

    Parameters
    ----------
    sources : list of Source
        Galaxies.
    z_max : float
        That of the sky they were drawn for.
    bank : Populations, optional

    Returns
    -------
    ndarray, shape (n,)
        The marginal of the inverse of Fisher information plus inverse prior covariance. For a Gaussian
        posterior the least mean absolute error is √(2/π) times as much.

    Notes
    -----
    Relations of the mock are not linear, nor its posteriors Gaussian, so √(2/π) σ was compared with what
    estimators that share nothing with it reach, in units of its own mean of 0.0214:

    - A network trained for the median on 192,000 simulated galaxies, with fresh noise in each epoch, has a
      mean absolute error of 1.010 on 8,000 others; from the quarter with the lowest signal-to-noise ratio to
      that with the highest 0.965, 0.993, 1.064 and 1.047. The least error is no larger than these.
    - Importance sampling from 200,000 simulated galaxies, each brought to the brightness observed and
      weighted with the prior there. Where its effective sample size is above 30 (234 of 500 galaxies, seldom
      bright ones) the posterior's mean absolute deviation from its median is 0.947, and the medians err by
      0.951 ± 0.053. The deviations are 0.77 of the standard deviations; a Gaussian's are √(2/π) = 0.80.
    """
    response, size = instrument().response, radii(sources)
    base = Galaxies.of(sources)
    parts = bulk.counts(base, response, bank)
    flux = smear(parts, size)[:, KEPT]
    noise = sigma(flux, KEPT)
    jacobian = np.empty((len(sources), len(KEPT), len(_STEPS)))
    for k, step in enumerate(_STEPS):
        if k in (_OLD, _YOUNG):
            old, young = 10 ** (step * np.array([k == _OLD, k == _YOUNG]))
            after = smear(parts, size * np.array([old, old, young]))
        else:
            moved, bulge = base.parameters.copy(), base.bulge.copy()
            if k == _BULGE:
                bulge -= step * np.sign(bulge - 0.5)
            else:
                moved[:, k] += step
            after = smear(bulk.counts(replace(base, parameters=moved, bulge=bulge), response, bank), size)
        jacobian[:, :, k] = (after[:, KEPT] - flux) / step
    # The bulge's share moves towards one half, whichever side it lies.
    jacobian[:, :, _BULGE] *= -np.sign(base.bulge - 0.5)[:, None]
    has_nucleus = np.isfinite(base.parameters[:, _AGN])
    jacobian[~has_nucleus, :, _AGN] = 0.0
    weighted = jacobian / noise[:, :, None] ** 2
    information = np.einsum("nsi,nsj->nij", jacobian, weighted, optimize=True)
    information += _prior(z_max)
    return np.asarray(np.sqrt(np.linalg.inv(information)[:, _Z, _Z]))


@dataclass(frozen=True, slots=True)
class Observed:
    """Spectra as delivered, and what they fix.

    Attributes
    ----------
    flux, error : ndarray of float32, shape (n, 240)
        Error as estimated from the noisy flux, not from the unknown expectation.
    attainable : ndarray, shape (n,)
        Least standard deviation of z.
    """

    flux: NDArray[np.float32]
    error: NDArray[np.float32]
    attainable: Array


def observe(seed: int, sources: list[Source], z_max: float, bank: spectra.Populations | None) -> Observed:
    """Observe galaxies.

    Parameters
    ----------
    seed : int
        Of the sky.
    sources : list of Source
        Galaxies.
    z_max : float
        That of the sky.
    bank : Populations or None
    """
    flux = expected(sources, bank)
    error = sigma(flux)
    noise = [generator(seed, SPAWN_XP, s.index).standard_normal(flux.shape[1]) for s in sources]
    seen = flux + error * np.array(noise)
    # An error taken at the expectation would tell that expectation, free of noise, to whoever reads it.
    stated = sigma(np.maximum(seen, 0.0))
    return Observed(seen.astype(np.float32), stated.astype(np.float32), attainable_z(sources, z_max, bank))


def table_bytes(truth: pd.DataFrame, flux: NDArray[np.float32], error: NDArray[np.float32]) -> bytes:
    """Return the file of sampled spectra.

    Parameters
    ----------
    truth : DataFrame
        Rows of the truth table, for source_id, ra and dec.
    flux, error : ndarray, shape (n, 240)

    Returns
    -------
    bytes
        FITS: a table with a row a source, samples in the order of rising wavelength.
    """
    samples = (">f4", (SAMPLES,))
    rows = np.zeros(
        len(truth),
        [("source_id", ">i8"), ("ra", ">f8"), ("dec", ">f8")]
        + [(f"{band}_{what}", *samples) for band in ("bp", "rp") for what in ("flux", "flux_error")],
    )
    for key in ("source_id", "ra", "dec"):
        rows[key] = truth[key]
    for band, part in (("bp", slice(0, SAMPLES)), ("rp", slice(SAMPLES, None))):
        rows[f"{band}_flux"], rows[f"{band}_flux_error"] = flux[:, part], error[:, part]
    table = fits.BinTableHDU(rows, name="XP_SAMPLED")
    for number, name in enumerate(rows.dtype.names or (), start=1):
        if "flux" in name:
            table.header[f"TUNIT{number}"] = "electron/s"
    return fits_bytes(fits.PrimaryHDU(), table)
