"""Infrared coadds: unWISE's format, light and noise, against real files and independent computations."""

from __future__ import annotations

from pathlib import Path

import galsim
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skyfuse.mock import infrared, sky, unwise, write_mock
from skyfuse.mock.sky import Shape, Sky, Source

FOLDER = Path("unwise", "150", "1501p001")


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sky") / "mock"
    write_mock(out, fields=1, objects=60, products=("infrared",), expected=True, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def alone(source: Source) -> np.ndarray:
    """Render a coadd that shows one source."""
    where = sky.layout(1)[0]
    lonely = Sky(1, [where], [source], [], {where.strip: [(where.row0 + sky.NY / 2, source)]})
    return unwise.render(lonely, where)


def test_files_are_like_real_ones(mock: Path, real_data: Path) -> None:
    names = {path.name for path in (mock / FOLDER).iterdir()}
    assert names == {
        "unwise-1501p001-msk.fits.gz",
        *(
            f"unwise-1501p001-w{band}-{what}"
            for band in (1, 2)
            for what in ("img-m.fits", "invvar-m.fits.gz")
        ),
    }
    real = real_data / "imaging_other" / "testcase12" / "unwise" / "346" / "3460p121"
    for name in names:
        with (
            fits.open(real / name.replace("1501p001", "3460p121")) as theirs,
            fits.open(mock / FOLDER / name) as ours,
        ):
            assert len(ours) == len(theirs) == 1
            assert ours[0].data.dtype == theirs[0].data.dtype
            for key in (
                "CTYPE1",
                "CTYPE2",
                "CUNIT1",
                "MAGZP",
                "BAND",
                "UNW_DVER",
                "EPOCH",
                "LONPOLE",
                "EQUINOX",
            ):
                assert ours[0].header[key] == theirs[0].header[key], key
            for key in ("CRVAL1", "CRPIX1", "CD1_1", "MJDMIN", "MJDMAX"):
                assert type(ours[0].header[key]) is type(theirs[0].header[key]), key
            assert ours[0].header["CD1_1"] == pytest.approx(theirs[0].header["CD1_1"], rel=1e-9)
            assert ours[0].header["CD2_2"] == pytest.approx(theirs[0].header["CD2_2"], rel=1e-9)
            assert ours[0].header["TELESCOP"] == "MOCK"
            if "invvar" in name:
                assert np.median(ours[0].data) == pytest.approx(np.median(theirs[0].data), rel=0.1)


def test_a_coadd_covers_its_field_and_a_cutout_more() -> None:
    where = sky.layout(70)[64]
    rows = where.row0 + np.array([0.0, 0.0, sky.NY - 1, sky.NY - 1])
    ra, dec = sky.strip_to_sky(where.strip, rows, np.array([0.0, sky.NX - 1, 0.0, sky.NX - 1]))
    x, y = unwise.wcs_of(where).all_world2pix(ra, dec, 0)
    for axis, length in ((x, unwise.SHAPE[1]), (y, unwise.SHAPE[0])):
        assert axis.min() > unwise.MARGIN - 2
        assert axis.max() < length + 1 - unwise.MARGIN
    assert len({unwise.name_of(field) for field in sky.layout(400)}) == 400


@pytest.mark.parametrize("band", [1, 2])
def test_noise_is_what_the_inverse_variance_says(mock: Path, band: int) -> None:
    stem = f"unwise-1501p001-w{band}"
    truth = np.load(mock / "expected" / f"{stem}-img-m.npy").astype(float)
    image = fits.getdata(mock / FOLDER / f"{stem}-img-m.fits").astype(float)
    ivar = fits.getdata(mock / FOLDER / f"{stem}-invvar-m.fits.gz").astype(float)
    mask = fits.getdata(mock / FOLDER / "unwise-1501p001-msk.fits.gz")
    bits = (1 << 13) | (1 << 14) if band == 1 else (1 << 15) | (1 << 16)
    good = (mask & bits == 0) & (ivar > 0)
    pull = ((image - truth) * np.sqrt(ivar))[good]
    assert abs(pull.mean()) < 0.02
    assert abs(pull.std() - 1) < 0.02
    bright = good & (truth > 5 / np.sqrt(np.where(ivar > 0, ivar, 1)))
    assert bright.sum() > 500
    assert abs(((image - truth) * np.sqrt(ivar))[bright].std() - 1) < 5 / np.sqrt(2 * bright.sum())
    # What is masked must not be used: it is far off, or has no data at all.
    assert ((image - truth) * np.sqrt(ivar))[(mask & bits != 0) & (ivar > 0)].mean() > 3
    assert 0 < (ivar == 0).sum() < 10
    assert (image[ivar == 0] == 0).all()


def test_a_star_is_its_point_spread_function() -> None:
    where = sky.layout(1)[0]
    star = Source(0, "STAR", "G2", where.ra + 0.013, where.dec - 0.021, 0.0, mag_r=16.0, temperature=5700.0)
    x, y = unwise.wcs_of(where).all_world2pix(star.ra, star.dec, 0)
    for frame, fwhm, flux in zip(alone(star), unwise.SEEING, infrared.fluxes(1, star)[:, 0], strict=True):
        j, i = round(float(y)), round(float(x))
        drawn = galsim.Moffat(beta=3.5, fwhm=fwhm, flux=flux).drawImage(
            nx=33, ny=33, scale=2.75, offset=(float(x) - i, float(y) - j)
        )
        np.testing.assert_allclose(
            frame[j - 16 : j + 17, i - 16 : i + 17], drawn.array, atol=1e-3 * frame.max()
        )
        assert frame.sum() == pytest.approx(flux, rel=2e-3)


def test_a_galaxy_lies_as_its_position_angle_says() -> None:
    where = sky.layout(1)[0]
    shape = Shape(0.0, 3.0, 6.0, 5.0, 70.0, 30.0, 0.0, np.array([[0.0, 0.0, 1.0, 0.5]]))
    galaxy = Source(0, "GALAXY", "", where.ra, where.dec, 0.05, log_mass=10.5, log_sfr=-np.inf, shape=shape)
    frame, flux = alone(galaxy)[0], infrared.fluxes(1, galaxy)[0].sum()
    # North is up and East to the left: from North through East is counter-clockwise, from x by 90° more.
    cos = np.cos(np.radians(70.0))
    # A transform keeps the surface brightness.
    profile = galsim.Exponential(half_light_radius=6.0, flux=flux / cos).transform(1.0, 0.0, 0.0, cos)
    profile = profile.rotate((90.0 + 30.0) * galsim.degrees)
    drawn = galsim.Convolve(profile, galsim.Moffat(beta=3.5, fwhm=unwise.SEEING[0])).drawImage(
        nx=41, ny=41, scale=2.75, offset=(-0.5, -0.5)
    )
    j, i = unwise.SHAPE[0] // 2, unwise.SHAPE[1] // 2
    np.testing.assert_allclose(frame[j - 20 : j + 21, i - 20 : i + 21], drawn.array, atol=5e-3 * frame.max())


def test_fluxes_follow_what_the_sky_knows(mock: Path) -> None:
    truth = pd.read_parquet(mock / "truth.parquet")
    colour = 2.5 * np.log10(truth["flux_w2"] / truth["flux_w1"])
    stars, quasars, galaxies = (truth["kind"] == kind for kind in ("STAR", "QSO", "GALAXY"))
    np.testing.assert_allclose(colour[stars], 0, atol=1e-9)
    # The cut of Stern et al. (2012).
    assert (colour[quasars] > 0.8).mean() > 0.8
    drawn = [sky.draw_galaxy(sky.generator(3, i), i, 150.0, 0.1) for i in range(400)]
    w1, w2 = np.array([infrared.fluxes(1, source).sum(axis=1) for source in drawn]).T
    mass, rate = (np.array([getattr(source, name) for source in drawn]) for name in ("log_mass", "log_sfr"))
    distance = np.array([sky.luminosity_distance(source.z) for source in drawn])
    absolute = 22.5 - 2.5 * np.log10(w1) - 5 * np.log10(distance * 1e5)
    # A solar luminosity for 0.6 solar masses, with the young stars' part and the redshift's on top.
    light = 10 ** (-0.4 * (absolute - 3.24))
    assert np.std(np.log10(light) - mass) < 0.1
    assert np.median(np.log10(light) - mass + np.log10(0.6)) == pytest.approx(0.1, abs=0.1)
    active = rate - mass > -11.5
    order = np.argsort((rate - mass)[active])
    rank = np.argsort(np.argsort((w2 / w1)[active]))
    assert np.corrcoef(rank[order], np.arange(len(order)))[0, 1] > 0.9
    assert colour[galaxies].between(-0.1, 1.0).all()


def test_same_bytes_and_going_on(tmp_path: Path, mock: Path) -> None:
    again = tmp_path / "m"
    summary = write_mock(again, fields=1, objects=60, products=("infrared",), expected=True, workers=1)
    assert summary.counts["infrared coadds"] == 2
    whole = contents(mock)
    assert contents(again) == whole
    (again / FOLDER / "unwise-1501p001-msk.fits.gz").unlink()
    (again / FOLDER / "unwise-1501p001-w2-img-m.fits").unlink()
    write_mock(again, fields=1, objects=60, products=("infrared",), expected=True, workers=1)
    assert contents(again) == whole
