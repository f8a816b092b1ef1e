"""The true sky: places, populations and light, against independent computations."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from skyfuse.mock import bound, images, sky, spectra
from skyfuse.mock.sky import Source


@pytest.fixture(scope="module")
def galaxies() -> list[Source]:
    return [sky.draw_galaxy(sky.generator(3, i), i, 150.0, 0.1) for i in range(300)]


def star(mag: float = 17.0, ra: float = 150.0, dec: float = 0.1) -> Source:
    return Source(0, "STAR", "G2", ra, dec, 0.0, mag_r=mag, temperature=5700.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 2**31))
def test_places_are_apart_and_inside(fields: int, n: int, seed: int) -> None:
    patch = sky.layout(fields)
    strip, row, column, edge = sky.place(np.random.default_rng(seed), patch, n)
    for number in np.unique(strip):
        on = strip == number
        length = max(f.row0 for f in patch if f.strip == number) + sky.NY
        assert (row[on] > 0).all()
        assert (row[on] < length).all()
        points = np.column_stack([row[on], column[on]])
        if len(points) > 1:
            assert cKDTree(points).query(points, k=2)[0][:, 1].min() * sky.PIXEL > 5
    assert ((column[edge] < 30) == edge[edge]).all()
    assert ((column[~edge] > 40) & (column[~edge] < sky.NX - 40)).all()


def test_fields_abut_by_128_rows() -> None:
    patch = sky.layout(130)
    assert len({(f.run, f.camcol, f.number) for f in patch}) == 130
    assert {f.strip for f in patch} == {0, 1, 2}
    step = (patch[1].ra - patch[0].ra) * np.cos(np.radians(patch[0].dec)) * 3600 / sky.PIXEL
    assert sky.NY - step == pytest.approx(128, abs=0.1)


def test_what_is_drawn_does_not_depend_on_the_rest() -> None:
    few, many = sky.draw_sky(5, 2, 20), sky.draw_sky(5, 2, 40)
    for a, b in zip(few.targets, many.targets, strict=False):
        assert (a.kind, a.z, a.log_sfr, a.mag_r) == pytest.approx(
            (b.kind, b.z, b.log_sfr, b.mag_r), nan_ok=True
        )


def test_population(galaxies: list[Source]) -> None:
    mass = np.array([g.log_mass for g in galaxies])
    quenched = np.array([g.quenched for g in galaxies])
    sfr = np.array([g.log_sfr for g in galaxies])
    heavy = mass > np.median(mass)
    assert quenched[heavy].mean() > quenched[~heavy].mean() + 0.1
    assert np.corrcoef(mass[~quenched], sfr[~quenched])[0, 1] > 0.6
    flux = np.array([spectra.filter_weights() @ spectra.source_light(g).sum(axis=0) for g in galaxies])
    mag = 22.5 - 2.5 * np.log10(flux)
    # The red sequence and the blue cloud of SDSS galaxies (Strateva et al. 2001 part them at u − r = 2.22).
    colour = mag[:, 0] - mag[:, 2]
    assert np.median(colour[quenched]) > 2.22 > np.median(colour[~quenched])
    assert np.percentile(mag[:, 2], 95) < 18.4
    share = np.array([g.shape.clump_share for g in galaxies if g.shape])
    assert np.corrcoef(share, sfr - mass)[0, 1] > 0.3


def test_luminosity_distance() -> None:
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3)
    for z in (0.01, 0.1, 0.4):
        assert sky.luminosity_distance(z) == pytest.approx(cosmology.luminosity_distance(z).value, rel=1e-4)
        scale = 1 / cosmology.arcsec_per_kpc_proper(z).value
        assert sky.angular_scale(z) == pytest.approx(scale, rel=1e-4)


def test_filters_give_ab_magnitudes() -> None:
    # A source of 3.631e-29 erg/s/cm²/Hz at every frequency has one nanomaggy in every band.
    flat = 3.631e-29 * 2.99792458e18 / spectra.WAVELENGTH**2 * 1e17
    np.testing.assert_allclose(spectra.filter_weights() @ flat, 1.0, rtol=1e-10)


@pytest.mark.parametrize("kind", ["star", "quasar"])
def test_point_sources_have_their_magnitude(kind: str) -> None:
    source = star() if kind == "star" else sky.draw_quasar(np.random.default_rng(1), 0, 150.0, 0.1)
    flux = spectra.filter_weights()[2] @ spectra.source_light(source)[0]
    assert 22.5 - 2.5 * np.log10(flux) == pytest.approx(source.mag_r, abs=1e-9)


def line_flux(light: np.ndarray, centre: float) -> float:
    wave = spectra.WAVELENGTH
    near = np.abs(wave - centre) < 14
    around = (np.abs(wave - centre) > 40) & (np.abs(wave - centre) < 60)
    step = wave * np.log(10) * 1e-4
    return float(np.sum(((light - light[around].mean()) * step)[near]))


def test_emission_lines_follow_the_rate() -> None:
    z = 0.05
    at = np.array([9.0, 0.5, z, -6.0, 0.7, 8.0, -2.0, -np.inf])
    light = spectra.galaxy_light(at, 0.2).sum(axis=0)
    area = 4 * np.pi * (sky.luminosity_distance(z) * 3.0857e24) ** 2
    # Kennicutt & Evans (2012): log SFR = log L(Hα) − 41.27; the young stars' absorption takes a little.
    halpha = line_flux(light, 6564.61 * (1 + z))
    assert np.log10(halpha * 1e-17 * area) - 41.27 == pytest.approx(0.5, abs=0.03)
    assert halpha / line_flux(light, 4862.68 * (1 + z)) == pytest.approx(2.86, rel=0.12)
    dusty = spectra.galaxy_light(np.array([9.0, 0.5, z, np.log10(2.0), 0.7, 8.0, -2.0, -np.inf]), 0.2).sum(
        axis=0
    )
    extinction = 10 ** (-0.4 * 2.0 / 4.05 * spectra.calzetti(np.array([6564.61]))[0])
    assert line_flux(dusty, 6564.61 * (1 + z)) / halpha == pytest.approx(extinction, rel=0.03)


def test_break_grows_with_age() -> None:
    def strength(log_age: float) -> float:
        light = spectra.galaxy_light(
            np.array([11.0, -2.0, 0.0, -3.0, log_age, 8.8, 0.0, -np.inf]) + 1e-9, 0.5
        )
        nu = light.sum(axis=0) * spectra.WAVELENGTH**2
        red = (spectra.WAVELENGTH > 4000) & (spectra.WAVELENGTH < 4100)
        blue = (spectra.WAVELENGTH > 3850) & (spectra.WAVELENGTH < 3950)
        return float(nu[red].mean() / nu[blue].mean())

    narrow = [strength(a) for a in (0.3, 0.7, 1.0)]
    assert narrow == sorted(narrow)
    # D_n(4000) of old galaxies (Kauffmann et al. 2003).
    assert 1.5 < narrow[-1] < 2.4


def test_fibre_share_of_a_star_is_the_moffat_integral() -> None:
    profile = galsim.Moffat(beta=images.MOFFAT_BETA, fwhm=images.FIBRE_SEEING)
    within = profile.calculateHLR(flux_frac=0.5)
    share = images.fibre_shares(images.transforms(star(), 128))
    radius = profile.scale_radius
    exact = 1 - (1 + (images.FIBRE_RADIUS / radius) ** 2) ** (1 - images.MOFFAT_BETA)
    assert within < images.FIBRE_RADIUS
    assert share[0] == pytest.approx(exact, abs=2e-3)


def test_galaxy_image_is_galsims(galaxies: list[Source]) -> None:
    source = next(g for g in galaxies if g.shape and 1.5 < g.shape.re_disc < 3 and g.shape.inclination < 60)
    shape = source.shape
    assert shape is not None
    size = images.box_size(source)
    part = images.transforms(source, size)[1] * images.point_spread(size, 1.3)
    stamp = np.fft.fftshift(np.fft.irfft2(part, s=(size, size)))
    q = np.cos(np.radians(shape.inclination))
    disc = galsim.Sersic(n=1.0, half_light_radius=shape.re_disc, trunc=5 * shape.re_disc)
    # galsim's shear keeps the area: an axis ratio q shrinks the major axis by sqrt(q), which dilation undoes.
    disc = disc.transform(1, 0, 0, q).withFlux(1.0).rotate(shape.position_angle * galsim.degrees)
    seen = galsim.Convolve(disc, galsim.Moffat(beta=images.MOFFAT_BETA, fwhm=1.3))
    image = galsim.Image(size, size, scale=sky.PIXEL, dtype=float)
    seen.drawImage(image, use_true_center=False)
    assert np.abs(stamp - image.array).max() < 0.01 * image.array.max()


def test_light_on_the_frame_is_the_objects_light() -> None:
    where = sky.layout(1)[0]
    rng = np.random.default_rng(4)
    galaxy = sky.draw_galaxy(rng, 1, where.ra + 0.03, where.dec + 0.02)
    for source in (star(16.0, where.ra, where.dec), galaxy):
        world = sky.Sky(1, [where], [source], [], {0: [(700.0, source)]})
        flux = spectra.filter_weights() @ spectra.source_light(source).sum(axis=0)
        frames = images.render(world, where, images.conditions(world, where))
        np.testing.assert_allclose([f.sum() for f in frames], flux, rtol=5e-3)


def test_masked_bins_give_the_nan_study_something_to_count() -> None:
    dark = np.zeros(spectra.N_BINS)
    runs = []
    for i in range(250):
        seen = spectra.observe(dark, sky.generator(11, i))
        bad = np.concatenate([[False], seen.ivar == 0, [False]])
        edges = np.flatnonzero(np.diff(bad.astype(int)))
        runs.append(edges[1::2] - edges[::2])
    assert 0.25 < np.mean([len(r) == 0 for r in runs]) < 0.45
    assert max(r.max() for r in runs if len(r)) > 150
    assert np.median([r.max() for r in runs if len(r)]) < 40


def test_sky_is_brighter_and_spectra_noisier_in_the_oh_forest() -> None:
    noise = np.sqrt(spectra.variance(np.zeros(spectra.N_BINS)))
    wave = spectra.WAVELENGTH
    clean = (wave > 6900) & (wave < 7150)
    assert noise[(wave > 8760) & (wave < 9000)].max() > 2 * np.median(noise[clean])
    dichroic = np.median(noise[(wave > 5900) & (wave < 5960)])
    assert dichroic > 1.15 * np.median(noise[(wave > 5700) & (wave < 5760)])
    assert dichroic > 1.3 * np.median(noise[(wave > 6150) & (wave < 6250)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**31))
def test_bound_is_the_exact_posterior_of_a_linear_model(p: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    jacobian, noise = rng.normal(size=(m, p)), rng.uniform(0.2, 2.0, m)
    root = rng.normal(size=(p, p)) + 2 * np.eye(p)
    covariance = root @ root.T
    got = bound.posterior_variance(jacobian, 1 / noise**2, np.linalg.inv(covariance), 0)
    # Conditioning the joint normal distribution of parameters and data needs no information matrix.
    data = jacobian @ covariance @ jacobian.T + np.diag(noise**2)
    cross = covariance[0] @ jacobian.T
    assert got == pytest.approx(covariance[0, 0] - cross @ np.linalg.solve(data, cross), rel=1e-6, abs=1e-9)
    full = bound.posterior_variance(jacobian, np.diag(1 / noise**2), np.linalg.inv(covariance), 0)
    assert full == pytest.approx(got, rel=1e-9)


def test_no_regression_beats_the_bound() -> None:
    rng = np.random.default_rng(8)
    jacobian, noise = rng.normal(size=(6, 3)), rng.uniform(0.5, 1.5, 6)
    root = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0.3, -0.2, 0.5]])
    theta = rng.normal(size=(40000, 3)) @ root.T
    data = theta @ jacobian.T + noise * rng.normal(size=(40000, 6))
    weights = np.linalg.lstsq(data[:20000], theta[:20000, 0], rcond=None)[0]
    error = np.mean((data[20000:] @ weights - theta[20000:, 0]) ** 2)
    least = bound.posterior_variance(jacobian, noise**-2, np.linalg.inv(root @ root.T), 0)
    # Four standard errors of a variance from 20,000 draws.
    assert error == pytest.approx(least, rel=4 * np.sqrt(2 / 20000))


def rate_sigma(source: Source, exposure: float = 1.0) -> float:
    light, parts = spectra.source_light(source), images.transforms(source, images.box_size(source))
    seen = spectra.observe(images.fibre_shares(parts) @ light, np.random.default_rng(2))
    seen.ivar[:] *= exposure
    return float(np.sqrt(bound.rate_variance(source, light, parts, seen)))


def test_rate_is_between_exact_and_the_prior(galaxies: list[Source]) -> None:
    for source in galaxies[:25]:
        prior = sky.QUENCHED_SCATTER if source.quenched else sky.MAIN_SEQUENCE_SCATTER
        sigma = rate_sigma(source)
        assert 0 < sigma < 1.001 * prior
        assert rate_sigma(source, 1e-3) >= sigma
    quenched = [rate_sigma(g) for g in galaxies if g.quenched][:10]
    assert np.median(quenched) > 3 * np.median([rate_sigma(g) for g in galaxies if not g.quenched][:10])


def test_no_fit_of_the_spectrum_beats_the_bound(galaxies: list[Source]) -> None:
    # A model that knows the mock and starts at the truth: one Gauss-Newton step on many noisy spectra.
    source = next(g for g in galaxies if not g.quenched and np.isinf(g.log_agn))
    assert source.shape is not None
    at = spectra.galaxy_parameters(source)[:7]
    parts = images.transforms(source, images.box_size(source))
    shares = images.fibre_shares(parts)
    steps = np.array([1e-3, 1e-3, 1e-5, 1e-3, 1e-3, 1e-3, 1e-3])

    def fibre(parameters: np.ndarray) -> np.ndarray:
        assert source.shape is not None
        full = np.append(parameters, -np.inf)
        return shares @ spectra.galaxy_light(full, source.shape.bulge)

    truth = fibre(at)
    seen = spectra.observe(truth, np.random.default_rng(0))
    cut = slice(seen.first - spectra.FIRST_BIN, seen.first - spectra.FIRST_BIN + len(seen.flux))
    jacobian = np.column_stack([(fibre(at + s) - truth)[cut] / s.sum() for s in np.diag(steps)])
    prior = bound.prior_information(source)[:7, :7]
    weighted = jacobian.T * seen.ivar
    gain = np.linalg.solve(weighted @ jacobian + prior, weighted)
    rng = np.random.default_rng(5)
    good = seen.ivar > 0
    sigma = np.zeros(len(good))
    sigma[good] = seen.ivar[good] ** -0.5
    truths = rng.multivariate_normal(np.zeros(7), np.linalg.inv(prior), 2000)
    errors = [(gain @ (jacobian @ t + sigma * rng.standard_normal(len(sigma))))[1] - t[1] for t in truths]
    spectrum_alone = np.std(errors)
    light = spectra.source_light(source)
    assert bound.rate_variance(source, light, parts, seen) ** 0.5 < 1.05 * spectrum_alone
