import numpy as np
import pytest
from astropy.io import fits

from skyfuse.mock.spectra import load_templates
from skyfuse.models.template import read_templates
from skyfuse.startypes import has_m_bands

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
