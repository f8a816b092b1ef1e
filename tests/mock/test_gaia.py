"""Gaia's samples against full-resolution light, the published zero points, and brute-force posteriors."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy.stats import skew

from skyfuse.mock import bulk, classes, gaia, images, sky, spectra
from skyfuse.mock.bulk import Galaxies
from skyfuse.mock.sky import Source


@pytest.fixture(scope="module")
def deep() -> list[Source]:
    drawn = [sky.draw_galaxy(sky.generator(5, i), i, 150.0, 0.1, z_max=0.6) for i in range(1000)]
    return [classes.dress(5, source) for source in drawn]


def test_redshifts_are_those_of_the_study(deep: list[Source]) -> None:
    z = np.array([source.z for source in deep])
    # Mean, median, standard deviation and skewness of its 520,393 galaxies; five standard errors.
    assert z.mean() == pytest.approx(0.142, abs=5 * 0.079 / np.sqrt(1000))
    assert np.median(z) == pytest.approx(0.126, abs=5 * 1.25 * 0.079 / np.sqrt(1000))
    assert z.std() == pytest.approx(0.079, rel=0.12)
    assert skew(z) == pytest.approx(1.09, abs=0.35)
    assert 0 < z.min() < z.max() <= 0.6
    near = [sky.draw_galaxy(sky.generator(5, i), i, 150.0, 0.1, z_max=0.05).z for i in range(40)]
    assert 0.02 <= min(near) < max(near) <= 0.05
    assert sky.luminosity_distance(0.6) == pytest.approx(
        FlatLambdaCDM(H0=70, Om0=0.3).luminosity_distance(0.6).value, rel=1e-4
    )


def test_samples_lie_where_the_study_cuts_them() -> None:
    wavelength = gaia.instrument().wavelength
    assert wavelength.shape == (240,)
    assert len(gaia.KEPT) == 186
    kept = wavelength[gaia.KEPT]
    assert kept[[0, -1]] == pytest.approx([366.0, 996.0], abs=0.1)
    assert (np.diff(wavelength[:120]) > 0).all()
    assert (np.diff(wavelength[120:]) > 0).all()


def test_zero_points_are_gaias() -> None:
    # AB zero points of DR3, mag (Riello et al. 2021, table 3): every photon falls into some sample.
    flat = 3.631e-20 * 2.99792458e18 / spectra.WAVELENGTH**2 * 1e17
    count = gaia.instrument().fine @ flat
    assert 2.5 * np.log10(count[:120].sum()) == pytest.approx(25.3540, abs=0.03)
    assert 2.5 * np.log10(count[120:].sum()) == pytest.approx(25.1040, abs=0.03)


def test_coarse_light_is_the_full_light(deep: list[Source]) -> None:
    some = deep[:25]
    coarse = bulk.counts(Galaxies.of(some), gaia.instrument().response)
    full = np.array([spectra.source_light(s) @ gaia.instrument().fine.T for s in some])
    difference = np.abs((coarse - full).sum(axis=1) / full.sum(axis=1))[:, gaia.KEPT]
    # Strong lines at the edge of a passband, a few Å wide, are where the coarse grid shows.
    assert difference.max() < 0.05
    assert np.percentile(difference, 99) < 0.004


def test_smearing_is_the_projected_profile() -> None:
    # One bright sample, a disc of 1.2″: galsim's image, summed across the scan, less what the window cuts.
    radius, middle = 1.2, 60
    flux = np.zeros((1, 3, 240))
    flux[0, 1, middle] = 1.0
    seen = gaia.smear(flux, np.full((1, 3), radius))[0, :120]
    step = float(gaia.instrument().pixels[0] * gaia.ALONG)
    disc = galsim.Sersic(n=1.0, half_light_radius=radius, trunc=5 * radius)
    image = galsim.Image(4096, 4096, scale=step / 4, dtype=float)
    disc.drawImage(image, method="no_pixel", use_true_center=False)
    inside = np.abs(np.arange(4096) - 2048) * step / 4 <= gaia.ACROSS / 2
    share = image.array[inside].sum() / image.array.sum()
    strip = share * image.array.sum(axis=0)
    profile = np.interp((np.arange(120) - middle) * step, (np.arange(4096) - 2048) * step / 4, strip) * 4
    np.testing.assert_allclose(seen, profile, atol=0.02 * profile.max())
    # Nothing is lost of a point source, and shapes leave no negative light.
    point = gaia.smear(flux, np.full((1, 3), 1e-3))[0]
    assert point[middle] == pytest.approx(1.0, abs=0.01)
    assert images.sersic_transform(1.0)[1][0] == pytest.approx(1.0, abs=1e-3)


def test_errors_are_the_scatter(deep: list[Source]) -> None:
    some = deep[:150]
    seen = gaia.observe(7, some, 0.6, None)
    expected = gaia.expected(some)
    pull = (seen.flux - expected) / seen.error
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert abs(pull.std() - 1) < 5 / np.sqrt(2 * pull.size)
    # Electrons of twenty transits, by hand, for one sample.
    flux, width = expected[3, 150], gaia.instrument().pixels[150]
    electrons = (flux + gaia.BACKGROUND * width) * 4.42 * 20 + 25 * width * 20
    assert gaia.sigma(expected)[3, 150] ** 2 == pytest.approx(
        electrons / (4.42 * 20) ** 2 + (gaia.FLOOR * flux) ** 2
    )
    # What is stated is what the observed flux lets one estimate: it holds nothing that the flux does not.
    np.testing.assert_allclose(seen.error, gaia.sigma(np.maximum(seen.flux, 0)), rtol=1e-5)
    again = gaia.observe(7, some[:3], 0.6, None)
    np.testing.assert_array_equal(again.flux, seen.flux[:3])


def test_attainable_error_is_what_bayesian_averaging_reaches(
    deep: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few transits, so that enough of a small library of simulated spectra look like any one of them.
    monkeypatch.setattr(gaia, "TRANSITS", 0.02)
    flux = gaia.expected(deep)[:, gaia.KEPT]
    z = np.array([source.z for source in deep])
    tested, library = slice(0, 200), slice(200, None)
    rng = np.random.default_rng(3)
    error = gaia.sigma(flux, gaia.KEPT)
    data = flux[tested] + error[tested] * rng.standard_normal(flux[tested].shape)
    precision = error[library] ** -2.0
    chi = data**2 @ precision.T - 2 * data @ (flux[library] * precision).T
    chi += (flux[library] ** 2 * precision).sum(axis=1)
    log = -0.5 * chi - np.log(error[library]).sum(axis=1)
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    order = np.argsort(z[library])
    share = np.cumsum(weight[:, order], axis=1) / weight.sum(axis=1, keepdims=True)
    median = z[library][order][(share < 0.5).sum(axis=1)]
    reached = np.abs(median - z[tested]).mean()
    bound = np.sqrt(2 / np.pi) * gaia.attainable_z(deep[tested], 0.6).mean()
    assert bound < np.sqrt(2 / np.pi) * z.std()
    assert 0.75 * reached < bound < 1.1 * reached


def test_more_light_fixes_a_redshift_better(deep: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    some = deep[:40]
    now = gaia.attainable_z(some, 0.6)
    assert ((now > 0) & (now < 0.11)).all()
    monkeypatch.setattr(gaia, "TRANSITS", 2000)
    assert (gaia.attainable_z(some, 0.6) < now).all()
