"""Reading spectra: the grid, the masks, the verdicts, and what is no object."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skyfuse.cube.build import Reading, build
from skyfuse.cube.query import Cube
from skyfuse.errors import DataError, FileError
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.sdss import sdssv, spspec
from skyfuse.survey.sdss.frames import FrameReader
from skyfuse.survey.sdss.spectra import SpectrumReader, read_spectrum
from tests.survey.files import recognise

from ..files import spectrum_hdus, write_spectrum

LOGLAM = (35800 + np.arange(50)) * 1e-4
FLUX = np.linspace(1, 2, 50)
IVAR = np.full(50, 4.0)


def test_flux_sigma_and_grid(tmp_path):
    path = write_spectrum(tmp_path / "s.fits", FLUX, IVAR, LOGLAM)
    spectrum = read_spectrum(path)
    np.testing.assert_array_equal(spectrum.flux, FLUX.astype(np.float32))
    np.testing.assert_array_equal(spectrum.sigma, np.float32(0.5))
    assert spectrum.first_bin == 35800
    # Exact, where the file's own float32 loglam is off by up to half a unit in its last place.
    np.testing.assert_allclose(spectrum.wavelength, 10**LOGLAM, rtol=1e-13)
    assert spectrum.info.spectrum_id == "sdss-266-51602-31"
    assert (spectrum.info.ra, spectrum.info.dec) == (147.3, -0.006)
    assert recognise(path) == spectrum.info
    assert spectrum.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert spectrum.catalogue == {
        "class": "GALAXY",
        "subclass": "",
        "z": pytest.approx(0.1),
        "z_err": pytest.approx(1e-5),
        "zwarning": 0,
        "sn_median": 7.5,
        "objtype": "GALAXY",
    }


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_names_do_not_matter(tmp_path, upper, named):
    path = write_spectrum(tmp_path / "s", FLUX, IVAR, LOGLAM, upper=upper, named=named)
    np.testing.assert_array_equal(read_spectrum(path).flux, FLUX.astype(np.float32))


def test_signal_to_noise_is_computed_where_the_table_lacks_it(tmp_path):
    path = write_spectrum(tmp_path / "s", FLUX, IVAR, LOGLAM, verdict={"SN_MEDIAN_ALL": None})
    assert read_spectrum(path).catalogue["sn_median"] == pytest.approx(3.0)


@pytest.mark.parametrize("bit", range(31))
def test_mask_bits(tmp_path, bit):
    mask = np.zeros(50, np.int32)
    mask[7] = 1 << bit
    path = write_spectrum(tmp_path / "s", FLUX, IVAR, LOGLAM, and_mask=mask)
    bad = np.isnan(read_spectrum(path).flux)
    # NOPLUG, BADARC, FULLREJECT, NOSKY, BRIGHTSKY, COMBINEREJ, BADSKYCHI, REDMONSTER
    assert bad[7] == (bit in (0, 3, 18, 22, 23, 25, 27, 28))
    assert bad.sum() == bad[7]


def test_values_that_cannot_be_used_are_nan_in_both(tmp_path):
    flux, ivar = FLUX.copy(), IVAR.copy()
    flux[:2] = np.nan, np.inf
    ivar[2:6] = 0, -1, np.nan, np.inf
    spectrum = read_spectrum(write_spectrum(tmp_path / "s", flux, ivar, LOGLAM))
    bad = np.arange(50) < 6
    np.testing.assert_array_equal(np.isnan(spectrum.flux), bad)
    np.testing.assert_array_equal(np.isnan(spectrum.sigma), bad)


def test_other_grids_have_no_first_bin(tmp_path):
    for loglam in (
        LOGLAM + 3e-5,
        LOGLAM[0] + np.arange(50) * 2e-4,
        np.log10(3800 + 2.0 * np.arange(50)),
    ):
        spectrum = read_spectrum(write_spectrum(tmp_path / "s", FLUX, IVAR, loglam))
        assert spectrum.first_bin is None
        np.testing.assert_allclose(spectrum.wavelength, 10**loglam, rtol=1e-6)


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ({"ZWARNING": 1 | 4}, "sky-fibre"),
        ({"SOURCETYPE": "SKY"}, "sky-fibre"),
        ({"OBJTYPE": "SKY"}, "sky-fibre"),
        ({"ZWARNING": 128}, "unplugged"),
        ({"ZWARNING": 256}, "bad-target"),
        ({"ZWARNING": 512}, "no-data"),
    ],
)
def test_fibres_without_an_object_are_told(tmp_path, verdict, reason):
    path = write_spectrum(tmp_path / "s", FLUX, IVAR, LOGLAM, verdict=verdict)
    with pytest.raises(FileError) as caught:
        read_spectrum(path)
    assert caught.value.reason == reason
    assert read_spectrum(path, keep_unknown=True).flux.size == 50


def test_other_warnings_are_kept(tmp_path):
    path = write_spectrum(tmp_path / "s", FLUX, IVAR, LOGLAM, verdict={"ZWARNING": 4 | 16})
    assert read_spectrum(path).catalogue["zwarning"] == 20


def test_spectra_without_verdicts_are_read_where_asked_for(tmp_path):
    whole = spectrum_hdus(FLUX, IVAR, LOGLAM)
    unclassified = spectrum_hdus(FLUX, IVAR, LOGLAM, verdict={"CLASS": None, "Z": None})
    for number, hdus in enumerate((fits.HDUList(whole[:2]), unclassified)):
        path = tmp_path / f"{number}.fits"
        hdus.writeto(path)
        with pytest.raises(FileError) as caught:
            read_spectrum(path)
        assert caught.value.reason == "wrong-hdus"
        spectrum = read_spectrum(path, keep_unclassified=True)
        np.testing.assert_array_equal(spectrum.flux, FLUX.astype(np.float32))
        assert [spectrum.catalogue[key] for key in ("class", "subclass", "z")] == [None] * 3
    report = build([tmp_path], tmp_path / "c.cube", workers=1, reading=Reading(keep_unclassified=True))
    # Both files hold the same spectrum.
    assert (report.spectra, report.rejected) == (1, {"duplicate": 1})
    (row,) = Cube.open(report.out).spectra.to_dict("records")
    assert pd.isna(row["class"])
    assert pd.isna(row["z"])
    assert (
        build(
            [tmp_path / "0.fits"], tmp_path / "d.cube", workers=1, reading=Reading(keep_unclassified=True)
        ).spectra
        == 1
    )
    with pytest.raises(DataError):
        build([tmp_path / "0.fits"], tmp_path / "e.cube", workers=1)


def test_unsigned_masks_are_read(tmp_path):
    hdus = spectrum_hdus(FLUX, IVAR, LOGLAM)
    mask = np.zeros(50, np.uint32)
    mask[7], mask[9] = 1 << 23, 1 << 31
    columns = [column for column in hdus[1].columns if column.name != "and_mask"]
    columns.append(fits.Column("and_mask", "J", bzero=2**31, array=mask))
    hdus[1] = fits.BinTableHDU.from_columns(columns)
    hdus.writeto(tmp_path / "s.fits")
    assert np.flatnonzero(np.isnan(read_spectrum(tmp_path / "s.fits").flux)).tolist() == [7]


def test_broken_spectra_are_told(tmp_path):
    path = tmp_path / "s"

    def reason_of(hdus: fits.HDUList) -> str:
        hdus.writeto(path, overwrite=True)
        with pytest.raises(FileError) as caught:
            read_spectrum(path)
        return caught.value.reason

    whole = spectrum_hdus(FLUX, IVAR, LOGLAM)
    assert reason_of(fits.HDUList(whole[:1])) == "wrong-hdus"
    assert reason_of(fits.HDUList(whole[:2])) == "wrong-hdus"
    assert reason_of(fits.HDUList([whole[0], whole[2], whole[1]])) == "wrong-hdus"
    assert reason_of(fits.HDUList([whole[0], fits.ImageHDU(np.ones(3)), whole[2]])) == "wrong-hdus"
    assert reason_of(spectrum_hdus(FLUX, 0 * IVAR, LOGLAM)) == "no-good-pixels"
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM[::-1])) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, IVAR, np.where(LOGLAM > 3.582, LOGLAM, np.nan))) == "bad-values"
    jumping = np.delete(np.append(LOGLAM, LOGLAM[-1] + 1e-4), 20)
    assert reason_of(spectrum_hdus(FLUX, IVAR, jumping)) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM - 1)) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, IVAR, 10**LOGLAM)) == "bad-values"
    assert reason_of(spectrum_hdus(1e30 * FLUX, IVAR, LOGLAM)) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, 1e30 * IVAR, LOGLAM)) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM)[:3]) == "wrong-hdus"
    for verdict in (
        {"Z": 1e30},
        {"Z": np.nan},
        {"Z": -1.0},
        {"Z_ERR": -2e17},
        {"ZWARNING": -452984832},
        {"SN_MEDIAN_ALL": 1e30},
        {"CLASS": "_GALAX"},
        {"CLASS": "GALAXY\x01"},
        {"SUBCLASS": "\x7f"},
        {"PLATE": 267},
        {"MJD": 51603},
        {"FIBERID": 32},
        {"PLUG_RA": 147.4},
        {"PLUG_DEC": np.nan},
    ):
        assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM, verdict=verdict)) == "bad-values", verdict
    for card in (
        {"PLATEID": 2**64},
        {"PLATEID": -1},
        {"FIBERID": 10**18},
        {"MJD": -51602},
        {"MJD": 1e294},
        {"MJD": 51602.5},
        {"PLUG_RA": 4639.0},
    ):
        assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM, **card)) == "bad-values", card
    agreeing = {"PLATE": 266, "MJD": 51602, "FIBERID": 31, "CLASS": ""}
    path = write_spectrum(path, FLUX, IVAR, LOGLAM, verdict=agreeing)
    assert read_spectrum(path).catalogue["class"] == ""
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM, PLUG_RA=None)) == "missing-keyword"
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM, PLUG_DEC=91.0)) == "bad-values"
    assert reason_of(spectrum_hdus(FLUX, IVAR, LOGLAM, verdict={"CLASS": None})) == "wrong-hdus"
    assert reason_of(fits.HDUList(fits.PrimaryHDU())) == "unknown-kind"
    whole.writeto(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(FileError) as caught:
        read_spectrum(path)
    assert caught.value.reason == "truncated"


def test_all_real_spectra_are_read(real_data):
    objects = sorted((real_data / "sdss_spectra" / "objects").glob("*.fits"))
    assert len(objects) == 173
    for path in objects:
        spectrum = read_spectrum(path)
        assert recognise(path) == spectrum.info
        assert spectrum.first_bin is not None
        info = spectrum.info
        assert path.name == f"spec-{info.plate:04}-{info.mjd}-{info.fiberid:04}.fits"


def test_real_spectra_equal_what_astropy_reads(real_data):
    for path in sorted((real_data / "sdss_spectra" / "objects").glob("*.fits"))[::9]:
        spectrum = read_spectrum(path)
        with fits.open(path) as hdus:
            primary, pixels, row = hdus[0].header, hdus[1].data, hdus[2].data
            flux, ivar, mask, loglam = (pixels[name] for name in ("flux", "ivar", "and_mask", "loglam"))
            good = (ivar > 0) & ((mask & 0x1AC40009) == 0)
            np.testing.assert_array_equal(np.isfinite(spectrum.flux), good)
            np.testing.assert_array_equal(spectrum.flux[good], flux[good])
            np.testing.assert_allclose(spectrum.sigma[good], ivar[good] ** -0.5, rtol=1e-6)
            np.testing.assert_allclose(spectrum.wavelength, 10.0 ** loglam.astype(float), rtol=1e-6)
            assert spectrum.catalogue["z"] == row["Z"][0]
            assert spectrum.catalogue["zwarning"] == row["ZWARNING"][0]
            assert spectrum.catalogue["class"] == row["CLASS"][0].strip()
            assert spectrum.catalogue["subclass"] == row["SUBCLASS"][0].strip()
            assert spectrum.catalogue["sn_median"] == row["SN_MEDIAN_ALL"][0]
            assert (spectrum.info.ra, spectrum.info.dec) == (primary["PLUG_RA"], primary["PLUG_DEC"])


def test_real_sky_fibres_are_rejected(real_data):
    paths = sorted((real_data / "sdss_spectra" / "sky_fibres").glob("*.fits"))
    assert len(paths) == 12
    for path in paths:
        with pytest.raises(FileError) as caught:
            read_spectrum(path)
        assert caught.value.reason == "sky-fibre"
        assert read_spectrum(path, keep_unknown=True).catalogue["objtype"] == "SKY"


def test_other_surveys_are_not_taken_for_sdss(real_data):
    files = [*(real_data / "desi").glob("*.fits"), *(real_data / "templates").rglob("*.fits")]
    assert len(files) > 6
    readers = FrameReader(), SpectrumReader(), spspec.SpectrumReader(), sdssv.SpectrumReader()
    for path in files:
        assert not any(reader.recognises(SurveyFile(path)) for reader in readers), path
