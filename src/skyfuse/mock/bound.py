"""The best that any model can do on the mock: how well spectrum and images determine the star-formation rate.

The Bayesian Cramér–Rao bound (Van Trees 1968, Detection, Estimation, and Modulation Theory I, §2.4.3; Gill
& Levit 1995, Bernoulli 1, 59): the mean squared error of any estimator of θ is at least the inverse of the
information of the data, averaged over the prior, plus the information of the prior. Here the information is
taken at each object's own true parameters, which gives the variance of the Gaussian (Laplace) approximation
of that object's posterior; by Jensen's inequality its mean over objects is no smaller than the bound from
the averaged information. For a linear model with Gaussian prior and noise both are the exact posterior
variance.

What is taken as known (the galaxy's shape, the noise, whether it is quenched, no neighbours, images with the
noise of empty sky only) would widen the posterior were it not: a model that must learn all that does worse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfuse.mock import images, sky, spectra
from skyfuse.mock.sky import Source

Array = NDArray[np.float64]

_STEP = np.array([2e-3, 2e-3, 2e-5, 2e-3, 4e-3, 4e-3, 2e-3, 4e-3])
_AT = {name: i for i, name in enumerate(spectra.GALAXY_PARAMETERS)}


def posterior_variance(jacobian: Array, weight: Array, prior: Array, which: int) -> float:
    """Return the variance of one parameter given data and prior, to first order.

    Parameters
    ----------
    jacobian : ndarray, shape (m, p)
        Derivatives of the expected data by the parameters.
    weight : ndarray, shape (m,) or (m, m)
        Inverse variances of independent data, or the inverse covariance.
    prior : ndarray, shape (p, p)
        Inverse covariance of the prior.
    which : int
        The parameter asked for; the others are marginalised.

    Returns
    -------
    float
        Element (which, which) of ``inv(Jᵀ W J + prior)``.
    """
    weighted = jacobian * weight[:, None] if weight.ndim == 1 else weight @ jacobian
    information = jacobian.T @ weighted + prior
    # Parameters differ in scale by orders of magnitude; unit diagonals keep the inverse accurate.
    scale = 1 / np.sqrt(np.diag(information))
    inverse = np.linalg.inv(information * np.outer(scale, scale))
    return float(inverse[which, which] * scale[which] ** 2)


def prior_information(source: Source) -> Array:
    """Return the inverse covariance of the prior of a galaxy's parameters, shape (8, 8).

    A sum over the relations that the population is drawn from, each of which ties parameters by a linear
    residual with a known scatter; the shape of the galaxy, known, enters through the relations of size and
    clumps with mass and rate.
    """

    def residuals(parameters: Array) -> Array:
        p = {name: float(parameters[i]) for name, i in _AT.items()}
        mass, sfr = p["log_mass"], p["log_sfr"]
        return np.array(
            [
                (sfr - sky.mean_log_sfr(mass, source.quenched))
                / (sky.QUENCHED_SCATTER if source.quenched else sky.MAIN_SEQUENCE_SCATTER),
                (p["log_av"] - sky.mean_log_av(mass, sfr)) / sky.AV_SCATTER,
                (p["log_age"] - sky.mean_log_age(mass, source.quenched)) / sky.AGE_SCATTER,
                (p["log_oh"] - sky.mean_log_oh(mass, sfr)) / sky.OH_SCATTER,
                p["history"] / sky.HISTORY_SCATTER,
                sky.mean_log_clump(mass, sfr) / sky.CLUMP_SCATTER,
                (sky.mean_log_size(mass, source.quenched) - np.log10(sky.angular_scale(p["z"])))
                / sky.SIZE_SCATTER,
                p["z"] / 0.05,
                mass / 0.6,
                p["log_agn"] / sky.AGN_SCATTER,
            ]
        )

    at = spectra.galaxy_parameters(source)
    if not np.isfinite(source.log_agn):
        at[_AT["log_agn"]] = 0.0
    gradient = np.column_stack(
        [(residuals(at + s) - residuals(at - s)) / (2 * s.sum()) for s in np.diag(_STEP)]
    )
    return np.asarray(gradient.T @ gradient)


def rate_variance(
    source: Source,
    light: Array,
    parts: NDArray[np.complex128],
    seen: spectra.FibreSpectrum,
    bank: spectra.Populations | None = None,
) -> float:
    """Return the variance of a galaxy's log10 SFR given its spectrum, its images in five bands and the prior.

    Parameters
    ----------
    source : Source
    light : ndarray, shape (3, n)
        Its components' light.
    parts : ndarray, shape (3, size, size // 2 + 1)
        The transforms of its components.
    seen : FibreSpectrum
        The spectrum, for its inverse variances.
    bank : Populations, optional

    Returns
    -------
    float
        dex².
    """
    if source.shape is None:
        raise TypeError("only galaxies have a star-formation rate")
    at = spectra.galaxy_parameters(source)
    free = [i for i in range(len(at)) if np.isfinite(at[i])]
    empty = images.empty_sky_variance()
    # The best band's seeing stands for all: no less information than the images hold.
    products = images.profile_products(parts)
    shares = images.fibre_shares(parts)
    cut = slice(seen.first - spectra.FIRST_BIN, seen.first - spectra.FIRST_BIN + len(seen.flux))
    weights = spectra.filter_weights()
    by_spectrum, by_flux = [], []
    for i in free:
        moved = at.copy()
        moved[i] += _STEP[i]
        change = (spectra.galaxy_light(moved, source.shape.bulge, bank, source.gas) - light) / _STEP[i]
        by_spectrum.append((shares @ change)[cut])
        by_flux.append(weights @ change.T)
    jacobian = np.column_stack(by_spectrum)
    fluxes = np.stack(by_flux, axis=-1)
    prior = prior_information(source)[np.ix_(free, free)]
    for flux, noise in zip(fluxes, empty, strict=True):
        prior += flux.T @ products @ flux / noise
    return posterior_variance(jacobian, seen.ivar, prior, free.index(_AT["log_sfr"]))
