"""Spectra that specutils reads: units, σ, air and vacuum, and what nothing tells and is therefore refused."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from skyfuse.errors import FileError
from skyfuse.survey import registry
from skyfuse.survey.anyspectrum import SpecutilsReader
from skyfuse.survey.reader import Options, SurveyFile

WAVE = np.linspace(4000, 9000, 300)
FLUX = np.linspace(1, 2, 300)
SIGMA = np.linspace(0.1, 0.3, 300)
UNIT = u.Unit("1e-17 erg s-1 cm-2 Angstrom-1")


def table(**columns):
    found = {"wavelength": WAVE * u.AA, "flux": FLUX * UNIT, "uncertainty": SIGMA * UNIT} | columns
    return QTable({name: column for name, column in found.items() if column is not None})


def write(path, columns=None, **cards):
    cards = {"RA": 150.5, "DEC": 2.25, "AIRORVAC": "vac"} | cards
    cards = {key: value for key, value in cards.items() if value is not None}
    columns = table() if columns is None else columns
    if path.suffix == ".ecsv":
        columns.meta.update(cards)
        columns.write(path)
    else:
        primary = fits.PrimaryHDU()
        primary.header.update(cards)
        fits.HDUList([primary, fits.table_to_hdu(columns)]).writeto(path)
    return path


def image(path, ctype="WAVE", extension="STD", **cards):
    header = fits.Header()
    header.update(CTYPE1=ctype, CUNIT1="Angstrom", CRVAL1=5000.0, CDELT1=2.0, CRPIX1=1.0, RA=10.0, DEC=-5.0)
    header.update(BUNIT=UNIT.to_string("fits"), **cards)
    hdus = fits.HDUList([fits.PrimaryHDU(FLUX, header)])
    noise = {"STD": SIGMA, "VAR": SIGMA**2, "IVAR": SIGMA**-2}
    if extension:
        hdus.append(fits.ImageHDU(noise[extension], name=extension))
    hdus.append(fits.ImageHDU((np.arange(300) == 7).astype(np.uint8), name="MASK"))
    hdus.writeto(path)
    return path


def read(path, reader=None):
    file = SurveyFile(path)
    reader = registry.reader_of(file, [reader] if reader else ())
    (info,) = reader.records(file)
    spectrum = reader.read(path, info.key, Options())
    assert spectrum.info == info
    return spectrum


@pytest.mark.parametrize("name", ["s.fits", "s.ecsv"])
def test_tables_are_read_with_their_sigma(tmp_path, name):
    spectrum = read(write(tmp_path / name, **{"SPECSYS": "BARYCENT", "DATE-OBS": "2021-03-04T05:06:07"}))
    np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-12)
    np.testing.assert_allclose(spectrum.flux, FLUX, rtol=1e-6)
    np.testing.assert_allclose(spectrum.sigma, SIGMA, rtol=1e-6)
    info = spectrum.info
    assert (info.instrument, info.ra, info.dec, info.mjd) == ("generic", 150.5, 2.25, 59277)
    assert info.spectrum_id == f"generic-{spectrum.sha256[:16]}"
    assert spectrum.catalogue["class"] is spectrum.catalogue["z"] is None
    assert spectrum.catalogue["frame"] == "BARYCENT"
    assert "generic" in registry.instruments()
    assert registry.instruments()["generic"].spectroscopy is not None
    assert registry.instruments()["generic"].imaging is not None


@pytest.mark.parametrize("extension", ["STD", "VAR", "IVAR"])
def test_images_are_read_with_any_uncertainty_and_their_mask(tmp_path, extension):
    spectrum = read(image(tmp_path / "s.fits", extension=extension))
    np.testing.assert_allclose(spectrum.wavelength, 5000 + 2 * np.arange(300), rtol=1e-9)
    good = np.arange(300) != 7
    np.testing.assert_allclose(spectrum.flux[good], FLUX[good], rtol=1e-6)
    np.testing.assert_allclose(spectrum.sigma[good], SIGMA[good], rtol=1e-6)
    assert np.isnan(spectrum.flux[7])
    assert np.isnan(spectrum.sigma[7])


def test_units_of_wavelength_and_flux_are_converted(tmp_path):
    jansky = (FLUX * UNIT).to(u.Jy, u.spectral_density(WAVE * u.AA))
    noise = (SIGMA * UNIT).to(u.Jy, u.spectral_density(WAVE * u.AA))
    # Frequencies fall where wavelengths rise, and are those in vacuum.
    given = table(
        wavelength=None, flux=None, uncertainty=None, frequency=(WAVE * u.AA).to(u.THz, u.spectral())
    )
    given["flux"], given["uncertainty"] = jansky, noise
    spectrum = read(write(tmp_path / "s.fits", given[::-1], AIRORVAC=None))
    np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-12)
    np.testing.assert_allclose(spectrum.flux, FLUX, rtol=1e-6)
    np.testing.assert_allclose(spectrum.sigma, SIGMA, rtol=1e-6)


def ciddor(wave):
    """Return the refractive index of standard air for wavelengths in vacuum (Ciddor 1996, equation 1)."""
    squared = (1e4 / wave) ** 2
    return 1 + 1e-8 * (5792105 / (238.0185 - squared) + 167917 / (57.362 - squared))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write(path, table(wavelength=WAVE / ciddor(WAVE) * u.AA), AIRORVAC="air"),
        lambda path: write(path, table(wavelength=WAVE / ciddor(WAVE) * u.AA), AIRORVAC=None, VACUUM=False),
        lambda path: write(path, table(wavelength=(WAVE / ciddor(WAVE) * u.AA).to(u.um)), AIRORVAC="Air"),
    ],
)
def test_wavelengths_in_air_are_brought_to_vacuum(tmp_path, make):
    # The formulas of the field differ by less.
    np.testing.assert_allclose(read(make(tmp_path / "s.fits")).wavelength, WAVE, rtol=2e-8)


def test_what_axes_are_called_says_air_or_vacuum(tmp_path):
    vacuum = read(image(tmp_path / "v.fits", "WAVE")).wavelength
    air = read(image(tmp_path / "a.fits", "AWAV")).wavelength
    np.testing.assert_allclose(vacuum, 5000 + 2 * np.arange(300), rtol=1e-9)
    np.testing.assert_allclose(air / ciddor(air), vacuum, rtol=2e-8)


def test_a_reader_of_ones_own_may_know_the_medium(tmp_path):
    path = write(tmp_path / "s.fits", AIRORVAC=None)
    with pytest.raises(FileError, match="AIRORVAC") as raised:
        read(path)
    assert raised.value.reason == "no-medium"
    mine = pickle.loads(pickle.dumps(SpecutilsReader("mine", "air", "log:4000,9000,1e-4")))  # noqa: S301 - ours
    spectrum = read(path, mine)
    assert (spectrum.info.instrument, spectrum.info.spectrum_id[:5]) == ("mine", "mine-")
    np.testing.assert_allclose(spectrum.wavelength / ciddor(spectrum.wavelength), WAVE, rtol=2e-8)


def test_far_ultraviolet_wavelengths_are_those_in_vacuum(tmp_path):
    short = np.linspace(1500, 1999, 300)
    spectrum = read(write(tmp_path / "s.fits", table(wavelength=short * u.AA), AIRORVAC="air"))
    np.testing.assert_allclose(spectrum.wavelength, short, rtol=1e-12)


@pytest.mark.parametrize(
    ("columns", "cards", "reason"),
    [
        ({"uncertainty": None}, {}, "no-uncertainty"),
        ({"uncertainty": None, "continuum": SIGMA * UNIT}, {}, "no-uncertainty"),
        ({"flux": None, "uncertainty": None, "model": FLUX * UNIT}, {}, "wrong-hdus"),
        ({"flux": None, "uncertainty": None, "flux_err": FLUX * UNIT}, {}, "wrong-hdus"),
        ({"flux": FLUX * u.adu, "uncertainty": SIGMA * u.adu}, {}, "wrong-unit"),
        ({"flux": FLUX * u.K}, {}, "wrong-hdus"),
        ({"uncertainty": 0 * SIGMA * UNIT}, {}, "no-good-pixels"),
        ({"flux": 1e300 * FLUX * UNIT}, {}, "bad-values"),
        ({"uncertainty": 1e-200 * SIGMA * UNIT}, {}, "no-good-pixels"),
        ({"wavelength": WAVE.round(-3) * u.AA}, {}, "bad-values"),
        ({"wavelength": (WAVE - 5000) * u.AA}, {}, "bad-values"),
        ({}, {"RA": None}, "missing-keyword"),
        ({}, {"RA": 400.0}, "bad-values"),
        ({}, {"RA": "north"}, "bad-values"),
        ({}, {"RADESYS": "FK4"}, "bad-values"),
        ({}, {"EQUINOX": 1950.0}, "bad-values"),
        ({}, {"AIRORVAC": None}, "no-medium"),
        ({}, {"VACUUM": False}, "bad-values"),
        ({}, {"AIRORVAC": "water"}, "no-medium"),
    ],
)
def test_what_nothing_tells_is_refused_in_one_line(tmp_path, columns, cards, reason):
    path = write(tmp_path / "s.fits", table(**columns), **cards)
    with pytest.raises(FileError) as raised:
        read(path)
    assert raised.value.reason == reason
    assert "\n" not in str(raised.value)


def test_positions_may_be_sexagesimal(tmp_path):
    info = read(write(tmp_path / "s.fits", RA="10:02:00.0", DEC="-02:15:00")).info
    assert (info.ra, info.dec) == (pytest.approx(150.5), pytest.approx(-2.25))


def test_several_spectra_in_one_array_are_refused(tmp_path):
    many = table(flux=np.ones((300, 2)) * UNIT, uncertainty=np.ones((300, 2)) * UNIT)
    with pytest.raises(FileError) as raised:
        read(write(tmp_path / "s.fits", many))
    assert raised.value.reason == "wrong-hdus"


def test_damage_is_found(tmp_path):
    path = write(tmp_path / "s.fits")
    path.write_bytes(path.read_bytes()[:-2880])
    with pytest.raises(FileError) as raised:
        read(path)
    assert raised.value.reason == "truncated"
    (tmp_path / "t.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: wavelength\nbroken")
    with pytest.raises(FileError, match="specutils does not read it") as raised:
        read(tmp_path / "t.ecsv")
    assert raised.value.reason == "unknown-kind"


def test_a_damaged_header_does_not_take_all_memory(tmp_path):
    path = write(tmp_path / "s.fits")
    card = b"TFIELDS =  9223372036854775807"
    path.write_bytes(path.read_bytes().replace(b"TFIELDS =                    3", card))
    with pytest.raises(FileError) as raised:
        read(path)
    assert raised.value.reason == "unknown-kind"
    with pytest.raises(FileError) as raised:
        SpecutilsReader().read(path, "", Options())
    assert raised.value.reason == "bad-values"


def test_files_that_are_no_spectra_do_not_load_specutils(tmp_path):
    fits.PrimaryHDU(np.ones((20, 30), np.float32)).writeto(tmp_path / "image.fits")
    write(tmp_path / "catalogue.fits", QTable({"ra": FLUX, "dec": SIGMA}))
    QTable({"name": ["a"], "z": [0.1]}).write(tmp_path / "labels.ecsv")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    script = (
        "import sys, pathlib\n"
        "from skyfuse.errors import FileError\n"
        "from skyfuse.survey import registry\n"
        "from skyfuse.survey.reader import SurveyFile\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        registry.reader_of(SurveyFile(path))\n"
        "    except FileError as error:\n"
        "        print(path.name, error.reason)\n"
        "print('specutils' in sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert told[:-1] == [
        "catalogue.fits unknown-kind",
        "image.fits unknown-kind",
        "labels.ecsv not-fits",
        "notes.txt not-fits",
        "x.jpg not-fits",
        "False",
    ]
