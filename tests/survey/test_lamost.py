"""LAMOST spectra: the grid, the masks, the verdicts, and what is no object."""

from __future__ import annotations

import numpy as np
import pytest

from skyfuse.cube.build import build
from skyfuse.cube.grid import SDSS
from skyfuse.cube.pyramid import spectrum_levels
from skyfuse.cube.query import Cube
from skyfuse.errors import FileError
from skyfuse.survey.lamost import read_spectrum
from tests.survey.files import read_any, recognise

from .files import write_lamost, write_spectrum

FLUX = np.linspace(1, 2, 3904)
IVAR = np.full(3904, 4.0)


def test_flux_sigma_grid_and_verdict(tmp_path):
    path = write_lamost(tmp_path / "s.fits", FLUX, IVAR)
    spectrum = read_spectrum(path)
    np.testing.assert_array_equal(spectrum.flux, FLUX.astype(np.float32))
    np.testing.assert_array_equal(spectrum.sigma, np.float32(0.5))
    assert spectrum.first_bin == 35682
    np.testing.assert_allclose(spectrum.wavelength, 10 ** (3.5682 + 1e-4 * np.arange(3904)), rtol=1e-12)
    assert spectrum.info.spectrum_id == "lamost-55862-B6212_sp06-003"
    assert (spectrum.info.survey, spectrum.info.plate, spectrum.info.fiberid) == ("lamost", 6, 3)
    assert recognise(path) == read_any(path).info == spectrum.info
    assert spectrum.catalogue == {
        "class": "STAR",
        "subclass": "F9",
        "z": pytest.approx(-7.138e-05),
        "z_err": pytest.approx(4.663e-05),
        "zwarning": None,
        "sn_median": pytest.approx(3.0, rel=1e-6),
        "objtype": "star",
    }


def test_pixels_that_cannot_be_used_are_nan_in_both(tmp_path):
    flux, ivar, mask = FLUX.copy(), IVAR.copy(), np.zeros(len(FLUX))
    flux[0], ivar[1:4], mask[4] = np.nan, (0, -1, np.inf), 1
    spectrum = read_spectrum(write_lamost(tmp_path / "s", flux, ivar, mask))
    bad = np.arange(len(FLUX)) < 5
    np.testing.assert_array_equal(np.isnan(spectrum.flux), bad)
    np.testing.assert_array_equal(np.isnan(spectrum.sigma), bad)


def test_its_bins_are_those_of_the_sdss_grid(tmp_path):
    spectrum = read_spectrum(write_lamost(tmp_path / "s", FLUX, IVAR))
    finest = spectrum_levels(spectrum, SDSS)[0]
    first = SDSS.first_bin - 35682
    np.testing.assert_array_equal(finest.value, spectrum.flux[first : first + 3744])
    assert (finest.coverage == 1).all()


def test_another_grid_is_averaged_over_overlaps_and_keeps_its_flux(tmp_path):
    spectrum = read_spectrum(write_lamost(tmp_path / "s", FLUX, IVAR, COEFF0=3.56823, COEFF1=9e-5))
    assert spectrum.first_bin is None
    for zoom, samples in enumerate(spectrum_levels(spectrum, SDSS)):
        widths = np.diff(SDSS.edges(zoom))
        held = np.flatnonzero(samples.coverage > 0.999)
        total = (samples.value * widths)[held].astype(float).sum()
        low, high = SDSS.edges(zoom)[[held[0], held[-1] + 1]]
        # The trapezium rule over the native samples, which are much finer than what is asked of them.
        inside = np.linspace(low, high, 200_001)
        expected = np.trapezoid(np.interp(inside, spectrum.wavelength, spectrum.flux.astype(float)), inside)
        assert total == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"FIBERTYP": "Sky"}, "sky-fibre"),
        ({"FIBERTYP": "Unused"}, "unplugged"),
        ({"FIBERTYP": "PosErr"}, "bad-target"),
        ({"VACUUM": False}, "wrong-unit"),
        ({"COEFF1": 0.0}, "bad-values"),
        ({"DEC": 127.0}, "bad-values"),
        ({"LMJD": None}, "missing-keyword"),
        ({"CLASS": None}, "missing-keyword"),
        ({"CLASS": "_STAR"}, "bad-values"),
        ({"SUBCLASS": 0.5}, "bad-values"),
        ({"PLANID": 6212}, "bad-values"),
        ({"Z": 1e30}, "bad-values"),
        ({"Z_ERR": -1e30}, "bad-values"),
        ({"LMJD": -55862}, "bad-values"),
        ({"FIBERID": 2**63}, "bad-values"),
        ({"COEFF1": 1e300}, "bad-values"),
        ({"COEFF0": 0.5}, "bad-values"),
        ({"BSCALE": 2.0}, "wrong-hdus"),
        ({"FILENAME": "spec-55862-B6212_sp06-004.fits"}, "bad-values"),
    ],
)
def test_what_is_no_spectrum_of_an_object_is_told(tmp_path, cards, reason):
    path = write_lamost(tmp_path / "s.fits", FLUX, IVAR, **cards)
    with pytest.raises(FileError) as caught:
        read_spectrum(path)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_told(tmp_path):
    path = write_lamost(tmp_path / "s.fits", FLUX, np.zeros(len(FLUX)))
    with pytest.raises(FileError, match="none of its pixels"):
        read_spectrum(path)
    path = write_lamost(tmp_path / "cut.fits", FLUX, IVAR)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(FileError) as caught:
        read_spectrum(path)
    assert caught.value.reason == "truncated"
    sdss = write_spectrum(tmp_path / "sdss.fits", FLUX, IVAR, 3.5682 + 1e-4 * np.arange(3904))
    with pytest.raises(FileError, match="no LAMOST spectrum"):
        read_spectrum(sdss)


def test_sky_is_read_where_asked_for_and_unknown_objects_have_no_redshift(tmp_path):
    sky = write_lamost(tmp_path / "sky.fits", FLUX, IVAR, FIBERTYP="Sky", CLASS="Unknown", Z=-9999.0)
    spectrum = read_any(sky, keep_unknown=True)
    assert spectrum.catalogue["class"] == "UNKNOWN"
    assert spectrum.catalogue["z"] is None


def test_spectra_without_a_class_are_read_where_asked_for(tmp_path):
    path = write_lamost(tmp_path / "s.fits", FLUX, IVAR, CLASS=None, SUBCLASS=None, Z=None, Z_ERR=None)
    spectrum = read_any(path, keep_unclassified=True)
    assert [spectrum.catalogue[key] for key in ("class", "subclass", "z", "z_err")] == [None] * 4


@pytest.mark.parametrize("write", [write_lamost, write_spectrum])
def test_what_no_telescope_took_is_a_mock(tmp_path, write):
    grid = () if write is write_lamost else (3.5682 + 1e-4 * np.arange(3904),)
    info = recognise(write(tmp_path / "s.fits", FLUX, IVAR, *grid, TELESCOP="MOCK"))
    assert info.survey == "mock"
    assert info.spectrum_id.startswith("mock-")


def test_real_spectra(real_data):
    paths = sorted((real_data / "lamost_dr1_spectra").glob("*.fits"))
    spectra = [read_spectrum(path) for path in paths]
    assert len(spectra) >= 60
    assert len({spectrum.info.spectrum_id for spectrum in spectra}) == len(spectra)
    assert {spectrum.catalogue["class"] for spectrum in spectra} == {"STAR"}
    for spectrum in spectra:
        assert spectrum.info.survey == "lamost"
        assert spectrum.first_bin == 35682
        assert np.isfinite(spectrum.flux).mean() > 0.6


def test_a_cube_takes_them(tmp_path):
    (tmp_path / "in").mkdir()
    write_lamost(tmp_path / "in" / "a.fits", FLUX, IVAR)
    write_lamost(tmp_path / "in" / "b.fits", FLUX, IVAR, FIBERID=4, DEC=27.5)
    write_lamost(tmp_path / "in" / "sky.fits", FLUX, IVAR, FIBERID=5, FIBERTYP="Sky")
    report = build([tmp_path / "in"], tmp_path / "l.cube", workers=1)
    assert (report.spectra, report.rejected) == (2, {"sky-fibre": 1})
    spectra = Cube.open(tmp_path / "l.cube").spectra
    assert spectra["survey"].tolist() == ["lamost", "lamost"]
    assert spectra["zwarning"].isna().all()
