import numpy as np
import pytest
from astropy.io import fits

from skyfuse.mock.spectra import load_templates
from skyfuse.models.template import read_templates
from skyfuse.startypes import has_m_bands, shares, star_of

WAVELENGTH = 10 ** np.arange(3.78, 3.9, 1e-4)


@pytest.mark.parametrize(("depth", "expected"), [(0.16, True), (0.1, False)])
def test_the_band_decides(depth, expected):
    flux = np.ones_like(WAVELENGTH)
    flux[(WAVELENGTH > 6800) & (WAVELENGTH < 6860)] -= depth
    assert has_m_bands(WAVELENGTH, 3 * flux) is expected


@pytest.mark.parametrize("lost", [slice(6800, 6860), slice(7000, 7100)])
def test_what_does_not_reach_the_bands_has_none(lost):
    there = (lost.start > WAVELENGTH) | (lost.stop < WAVELENGTH)
    flux = np.where(WAVELENGTH < 6900, 0.1, 1.0)
    assert has_m_bands(WAVELENGTH, flux)
    assert not has_m_bands(WAVELENGTH[there], flux[there])


def test_of_the_pipelines_k_stars_two_have_m_bands(real_data):
    folder = real_data / "templates" / "idlspec2d"
    with fits.open(folder / "spEigenStar-55734.fits") as hdus:
        header, rows = hdus[0].header, hdus[0].data
    wavelength = 10 ** (header["COEFF0"] + 1e-4 * np.arange(rows.shape[1]))
    names = [header[f"NAME{i}"] for i in range(len(rows))]
    found = {name: has_m_bands(wavelength, row) for name, row in zip(names, rows, strict=True)}
    assert {name for name, yes in found.items() if yes and name[0] == "K"} == {
        "K5 (G_19-24)",
        "K5III (120933)",
    }
    assert all(yes for name, yes in found.items() if name[0] == "M")
    assert not any(yes for name, yes in found.items() if name[0] in "OBAFG")
    # Models and mock agree on which stars these are.
    types = [s.type for s in read_templates(folder) if s.kind == "STAR" and s.type != "CV"]
    groups = [(group, digit) for group, digit, _ in load_templates(folder).stars]
    for name, letter, (group, digit) in zip(names, types, groups, strict=True):
        if found[name] and name[0] == "K":
            assert (letter, group, digit) == ("M", "M", 0)
        elif name[0] in "AFGKM":
            assert letter == group == name[0]


@pytest.mark.parametrize(
    ("name", "letter", "subtype", "giant", "rare"),
    [
        ("F6IV (28527)", "F", 36, False, False),
        ("K0IIIa (57669)", "K", 50, True, False),
        ("A1Iae (12953)", "A", 21, True, True),
        ("F0II (25291)", "F", 30, True, True),
        ("G0.5IV (14214)", "G", 40.5, False, False),
        ("sd:F0 (G_84-29)", "F", 30, False, True),
        ("Am (78362)", "A", 25, False, True),
        ("K5 (G_19-24)", "M", 60, False, False),
        ("M4.5:III (123657)", "M", 64.5, True, False),
    ],
)
def test_what_names_of_templates_tell(name, letter, subtype, giant, rare):
    star = star_of(name, letter)
    assert star is not None
    assert (star.subtype, star.giant, star.weight < 1) == (subtype, giant, rare)


def test_what_is_no_mk_type_tells_nothing():
    assert star_of("WDhotter", "WD") is None
    assert star_of("Carbon", "Carbon") is None


def test_types_are_known_to_a_subtype():
    """A9 lies half a subtype from the border: by the normal distribution 0.31 beyond it."""
    star = star_of("A9V (154660)", "A")
    assert star is not None
    assert shares(star, "AF", "mk") == pytest.approx([0.6915, 0.3085], abs=1e-4)
    assert shares(star, "FA", "mk") == pytest.approx([0.3085, 0.6915], abs=1e-4)
    assert shares(star, "AFGKM", "lamost") == pytest.approx(shares(star, "AFGKM", "mk"))


@pytest.mark.parametrize("name", ["F5V", "G0V", "G3III", "K0IV", "K2III", "K4V"])
def test_what_lamost_calls_stars(name):
    star = star_of(name, name[0])
    assert star is not None
    found = shares(star, "AFGKM", "lamost")
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found[[0, 4]] == pytest.approx(0)


def test_giants_of_k0_are_g_to_lamost():
    giant, dwarf = star_of("K0III", "K"), star_of("K3V", "K")
    assert giant is not None
    assert dwarf is not None
    assert "AFGKM"[shares(giant, "AFGKM", "lamost").argmax()] == "G"
    assert "AFGKM"[shares(dwarf, "AFGKM", "lamost").argmax()] == "K"
