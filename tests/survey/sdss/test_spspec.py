"""SDSS spectra of DR7's layout, and of SDSS-V's: pixels, verdicts, names, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skyfuse.errors import FileError
from skyfuse.survey import registry
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.sdss.spectra import read_spectrum

from ..files import write_sdssv, write_spectrum, write_spspec

FLUX = np.linspace(1, 2, 60)
ERROR = np.linspace(0.2, 0.7, 60)
LOGLAM = 3.58 + 1e-4 * np.arange(60)


def read(path, **options):
    file = SurveyFile(path)
    reader = registry.reader_of(file)
    (info,) = reader.records(file)
    spectrum = reader.read(path, info.key, Options(**options))
    assert spectrum.info == info
    return spectrum


def test_flux_sigma_bins_and_verdict_of_dr7(tmp_path):
    spectrum = read(write_spspec(tmp_path / "spSpec-51602-0266-031.fit", FLUX, ERROR))
    np.testing.assert_array_equal(spectrum.flux, FLUX.astype(np.float32))
    np.testing.assert_allclose(spectrum.sigma, ERROR.astype(np.float32), rtol=3e-7)
    assert spectrum.first_bin == 35800
    np.testing.assert_allclose(spectrum.wavelength, 10**LOGLAM, rtol=1e-12)
    assert (spectrum.info.ra, spectrum.info.dec) == (147.3, -0.006)
    assert spectrum.catalogue == {
        "class": "GALAXY",
        "subclass": None,
        "z": pytest.approx(0.0213),
        "z_err": pytest.approx(1.5e-4),
        "zwarning": None,
        "sn_median": pytest.approx(np.median(FLUX / ERROR), rel=1e-6),
        "objtype": "GALAXY",
    }


def test_one_observation_has_one_name_in_all_releases(tmp_path):
    old = read(write_spspec(tmp_path / "a.fit", FLUX, ERROR))
    new = read_spectrum(write_spectrum(tmp_path / "b.fits", FLUX, ERROR**-2, LOGLAM))
    assert old.info == new.info
    assert old.info.spectrum_id == "sdss-266-51602-31"


def test_pixels_of_dr7_that_cannot_be_used(tmp_path):
    flux, error, mask = FLUX.copy(), ERROR.copy(), np.zeros(60)
    flux[0], error[1:5], mask[5:8] = np.nan, (0, -1, np.nan, np.inf), (1 << 24, 1 << 23, 1 << 0)
    mask[8:10] = 1 << 16, 1 << 30
    spectrum = read(write_spspec(tmp_path / "s.fit", flux, error, mask))
    np.testing.assert_array_equal(np.isnan(spectrum.flux), np.arange(60) < 8)
    np.testing.assert_array_equal(np.isnan(spectrum.sigma), np.arange(60) < 8)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0, "UNKNOWN"), (1, "STAR"), (2, "GALAXY"), (3, "QSO"), (4, "QSO"), (6, "STAR"), (7, "GALAXY")],
)
def test_classes_of_dr7(tmp_path, code, kind):
    catalogue = read(write_spspec(tmp_path / "s.fit", FLUX, ERROR, SPEC_CLN=code)).catalogue
    assert catalogue["class"] == kind
    assert (catalogue["z"] is None) == (kind == "UNKNOWN")


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"SPEC_CLN": 5}, "sky-fibre"),
        ({"OBJTYPE": "SKY"}, "sky-fibre"),
        ({"SPEC_CLN": 9}, "bad-values"),
        ({"SPEC_CLN": None}, "missing-keyword"),
        ({"Z": 99.0}, "bad-values"),
        ({"COEFF0": None}, "missing-keyword"),
        ({"COEFF1": 0.0}, "bad-values"),
        ({"COEFF0": 1e300}, "bad-values"),
        ({"VACUUM": 0}, "wrong-unit"),
        ({"MJD": 5}, "bad-values"),
        ({"DECOBJ": 95.0}, "bad-values"),
        ({"DECOBJ": None}, "missing-keyword"),
    ],
)
def test_what_is_refused_of_dr7(tmp_path, cards, reason):
    with pytest.raises(FileError) as raised:
        read(write_spspec(tmp_path / "s.fit", FLUX, ERROR, **cards))
    assert raised.value.reason == reason
    assert "\n" not in str(raised.value)


def test_dr7_without_verdicts_or_pixels(tmp_path):
    path = write_spspec(tmp_path / "s.fit", FLUX, ERROR, SPEC_CLN=None)
    assert read(path, keep_unclassified=True).catalogue["class"] is None
    assert read(write_spspec(path, FLUX, ERROR, SPEC_CLN=5), keep_unknown=True).catalogue["class"] is None
    with pytest.raises(FileError) as raised:
        read(write_spspec(path, FLUX, 0 * ERROR))
    assert raised.value.reason == "no-good-pixels"
    with fits.open(write_spspec(path, FLUX, ERROR)) as hdus:
        hdus[0].data = hdus[0].data[:3]
        hdus.writeto(tmp_path / "t.fit")
    with pytest.raises(FileError) as raised:
        read(tmp_path / "t.fit")
    assert raised.value.reason == "wrong-hdus"


def test_sdss_v_has_the_pixels_of_sdss_and_names_by_field_and_catalogue(tmp_path):
    ivar = ERROR**-2
    ivar[3] = 0
    spectrum = read(write_sdssv(tmp_path / "spec-101126-60206-18014398509481985.fits", FLUX, ivar, LOGLAM))
    info = spectrum.info
    assert info.spectrum_id == "sdss-101126-60206-18014398509481985"
    assert (info.plate, info.mjd, info.fiberid, info.ra, info.dec) == (None, 60206, None, 210.5, 52.25)
    assert spectrum.first_bin == 35800
    assert np.flatnonzero(np.isnan(spectrum.flux)).tolist() == [3]
    good = np.arange(60) != 3
    np.testing.assert_array_equal(spectrum.flux[good], FLUX.astype(np.float32)[good])
    np.testing.assert_allclose(spectrum.sigma[good], ERROR[good], rtol=1e-6)
    assert spectrum.catalogue == {
        "class": "STAR",
        "subclass": "G2",
        "z": pytest.approx(1e-4),
        "z_err": pytest.approx(1e-5),
        "zwarning": 0,
        "sn_median": pytest.approx(9.5),
        "objtype": "science",
    }


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ({"ZWARNING": 1}, "sky-fibre"),
        ({"OBJTYPE": "sky"}, "sky-fibre"),
        ({"ZWARNING": 1 << 7}, "unplugged"),
        ({"CLASS": None}, "wrong-hdus"),
        ({"CATALOGID": "a b"}, "bad-values"),
        ({"CATALOGID": ""}, "bad-values"),
        ({"MJD": None}, "wrong-hdus"),
        ({"MJD": 1}, "bad-values"),
        ({"RACAT": None}, "missing-keyword"),
        ({"RACAT": -999.0}, "bad-values"),
    ],
)
def test_what_is_refused_of_sdss_v(tmp_path, verdict, reason):
    with pytest.raises(FileError) as raised:
        read(write_sdssv(tmp_path / "s.fits", FLUX, ERROR**-2, LOGLAM, **verdict))
    assert raised.value.reason == reason


def test_sdss_v_names_of_letters_or_masks_of_any_exposure_are_read(tmp_path):
    path = write_sdssv(tmp_path / "s.fits", FLUX, ERROR**-2, LOGLAM, CATALOGID="u4544")
    assert read(path).info.spectrum_id == "sdss-101126-60206-u4544"
    with fits.open(path) as hdus:
        hdus.readall()
        hdus[1].data["AND_MASK"][7] = 1 << 23
        hdus[1].columns["AND_MASK"].name = "OR_MASK"
        hdus.writeto(tmp_path / "t.fits")
    assert np.flatnonzero(np.isnan(read(tmp_path / "t.fits").flux)).tolist() == [7]
