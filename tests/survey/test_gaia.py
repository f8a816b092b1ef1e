"""Gaia BP/RP spectra, sampled and as coefficients."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from skyfuse.errors import FileError, UsageError
from skyfuse.survey import gaia
from skyfuse.survey.gaia import KEPT, read_xp, wavelengths

# GaiaXPy leaves a file open, and sets an option that pandas has given up.
with_gaiaxpy = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*chained_assignment"),
    pytest.mark.filterwarnings("ignore:.*float_precision"),
]
RNG = np.random.default_rng(3)


def test_the_grid_of_186():
    bp, rp = (wavelengths(band)[KEPT[band]] for band in ("bp", "rp"))
    assert (bp.size, rp.size) == (80, 106)
    assert bp[0] == pytest.approx(366, abs=0.05)
    assert rp[-1] == pytest.approx(996, abs=0.05)
    for band in ("bp", "rp"):
        assert wavelengths(band).size == 120
        # Rising, and coarser with rising wavelength.
        assert (np.diff(wavelengths(band)) > 0).all()
        assert (np.diff(wavelengths(band), 2) > -0.02).all()


def sampled(n=5):
    columns = {f"{band}_flux": RNG.normal(10, 1, (n, 120)).astype(np.float32) for band in ("bp", "rp")}
    columns |= {f"{band}_flux_error": np.full((n, 120), 0.5, np.float32) for band in ("bp", "rp")}
    return {"SOURCE_ID": 4_000_000_000_000_000_000 + np.arange(n), "ra": np.arange(float(n))} | columns


def test_sampled_spectra_are_cut_and_joined(tmp_path):
    content = sampled()
    Table(content).write(tmp_path / "xp.fits")
    spectra = read_xp(tmp_path / "xp.fits")
    expected = np.hstack((content["bp_flux"][:, 34:114], content["rp_flux"][:, 4:110]))
    np.testing.assert_array_equal(spectra.samples.value, expected)
    np.testing.assert_array_equal(spectra.samples.sigma, np.float32(0.5))
    assert (spectra.samples.coverage == 1).all()
    assert spectra.wavelength.shape == (186,)
    assert spectra.table["source_id"].tolist() == content["SOURCE_ID"].tolist()
    assert list(spectra.table.columns) == ["source_id", "ra"]
    assert spectra.rejected == {}


def test_of_names_that_differ_in_case_alone_the_plain_one_serves(tmp_path):
    content = sampled() | {"source_id": np.arange(5), "BP_FLUX": np.zeros(5)}
    pd.DataFrame({name: list(column) for name, column in content.items()}).to_parquet(tmp_path / "xp.parquet")
    spectra = read_xp(tmp_path / "xp.parquet")
    assert spectra.table["source_id"].tolist() == list(range(5))
    assert spectra.table["SOURCE_ID"].tolist() == content["SOURCE_ID"].tolist()
    np.testing.assert_array_equal(spectra.samples.value[:, :80], content["bp_flux"][:, 34:114])


@pytest.mark.parametrize("form", ["({})", "[{}]", "{{{}}}"])
def test_words_for_missing_within_vectors(tmp_path, form):
    content = sampled(2)
    cells = {
        name: [form.format(",".join(["--", "NaN", "null", *map(str, row.tolist()[3:])])) for row in column]
        for name, column in content.items()
        if column.ndim == 2
    }
    pd.DataFrame({"source_id": [1, 2], **cells}).to_csv(tmp_path / "xp.csv", index=False)
    spectra = read_xp(tmp_path / "xp.csv")
    np.testing.assert_array_equal(spectra.samples.value[:, :80], content["bp_flux"][:, 34:114])


def test_csv_with_vectors_as_text(tmp_path):
    content = sampled(2)
    rows = {
        name: column if column.ndim == 1 else [str(tuple(row.tolist())) for row in column]
        for name, column in content.items()
    }
    pd.DataFrame(rows).to_csv(tmp_path / "xp.csv", index=False)
    spectra = read_xp(tmp_path / "xp.csv")
    np.testing.assert_array_equal(spectra.samples.value[:, :80], content["bp_flux"][:, 34:114])


def test_bad_samples_and_rows_are_counted(tmp_path):
    content = sampled()
    content["bp_flux"][0, 40] = np.nan
    content["rp_flux_error"][1, 50] = 0
    content["bp_flux"][2] = np.nan
    content["bp_flux"][3], content["rp_flux"][3] = np.nan, np.nan
    content["SOURCE_ID"][4] = content["SOURCE_ID"][0]
    Table(content).write(tmp_path / "xp.fits")
    spectra = read_xp(tmp_path / "xp.fits")
    assert spectra.rejected == {"no valid sample": 1, "source_id repeated": 1}
    assert len(spectra.table) == 3
    for component in spectra.samples[:2]:
        np.testing.assert_array_equal(np.isnan(component), spectra.samples.coverage == 0)
    assert np.isnan(spectra.samples.value).sum(axis=1).tolist() == [1, 1, 80]


def continuous(n=3):
    pairs = 55 * 54 // 2
    return {
        f"{band}_{name}": column
        for band in ("bp", "rp")
        for name, column in {
            "coefficients": RNG.normal(0, 10, (n, 55)),
            "coefficient_errors": RNG.uniform(0.5, 2, (n, 55)),
            "coefficient_correlations": RNG.uniform(-0.01, 0.01, (n, pairs)),
        }.items()
    } | {"source_id": np.arange(n) + 1}


@pytest.fixture
def design(monkeypatch):
    matrix = RNG.normal(size=(120, 55))
    monkeypatch.setattr(gaia, "_design_matrix", lambda band: matrix)
    return matrix


def test_coefficients_and_their_covariance_are_carried_to_the_samples(tmp_path, design):
    content = continuous()
    Table(content).write(tmp_path / "xp.fits")
    spectra = read_xp(tmp_path / "xp.fits")
    correlation = np.eye(55)
    # The lower triangle row by row, as the archive's data model counts it.
    flat = iter(content["rp_coefficient_correlations"][1])
    for i in range(55):
        for j in range(i):
            correlation[i, j] = correlation[j, i] = next(flat)
    errors = content["rp_coefficient_errors"][1]
    covariance = design @ (errors[:, None] * correlation * errors) @ design.T
    np.testing.assert_allclose(spectra.samples.sigma[1, 80:], np.sqrt(np.diag(covariance))[4:110], rtol=1e-5)
    expected = design @ content["rp_coefficients"][1]
    np.testing.assert_allclose(spectra.samples.value[1, 80:], expected[4:110], rtol=1e-4, atol=1e-3)


def test_a_column_a_coefficient_counts_as_uncorrelated(tmp_path, design):
    content = continuous(2)
    columns = {"source_id": content["source_id"]}
    for band in ("bp", "rp"):
        columns |= {f"{band}_coeff_{k}": content[f"{band}_coefficients"][:, k] for k in range(55)}
        columns |= {f"e_{band}_coeff_{k}": content[f"{band}_coefficient_errors"][:, k] for k in range(55)}
    pd.DataFrame(columns).to_parquet(tmp_path / "xp.parquet")
    spectra = read_xp(tmp_path / "xp.parquet")
    expected = np.sqrt((design**2) @ (content["bp_coefficient_errors"] ** 2).T).T
    np.testing.assert_allclose(spectra.samples.sigma[:, :80], expected[:, 34:114], rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"ra": [1.0]}, "no column source_id"),
        ({"source_id": [1]}, "neither bp_flux nor bp_coefficients"),
        ({"source_id": [1], "bp_flux": ["(1, 2)"]}, "2 elements, not 120"),
        ({"source_id": [1]} | {f"bp_flux_{k}": [1.0] for k in range(90)}, "not 120 elements"),
        ({"source_id": [1]} | {f"bp_flux_{k}": [1.0] for k in range(120)}, "no columns bp_flux and bp_flux"),
    ],
)
def test_other_tables_are_told(tmp_path, columns, fault):
    path = tmp_path / "t.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    with pytest.raises(FileError, match=fault) as caught:
        read_xp(path)
    assert caught.value.reason == "wrong-columns"
    assert "\n" not in str(caught.value)


def test_a_file_of_nothing_but_bad_rows_is_told(tmp_path):
    content = sampled(2)
    content["bp_flux"][:], content["rp_flux"][:] = np.nan, np.nan
    Table(content).write(tmp_path / "xp.fits")
    with pytest.raises(FileError, match="none of its rows"):
        read_xp(tmp_path / "xp.fits")


def test_coefficients_without_gaiaxpy_say_what_to_install(tmp_path, monkeypatch):
    gaia._design_matrix.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gaiaxpy", None)
    Table(continuous()).write(tmp_path / "xp.fits")
    with pytest.raises(UsageError, match=r"skyfuse\[gaia\]"):
        read_xp(tmp_path / "xp.fits")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("xp_continuous_combined_chunk0.fits", 2000),
        ("xp_continuous_combined_weiler2023_examples.vot", 4),
        ("gaiaxpy_tests/xp_continuous__XP_CONTINUOUS_RAW.csv", 2),
        ("gaiaxpy_tests/xp_continuous__XP_CONTINUOUS_RAW.fits", 2),
        ("gaiaxpy_tests/xp_continuous__XP_CONTINUOUS_RAW_with_missing_BP.csv", 3),
        ("gaiaxpy_tests/xp_continuous__XP_CONTINUOUS_RAW_with_missing_BP.fits", 3),
    ],
)
def test_real_coefficients_are_read_without_gaiaxpy(real_data, design, name, rows):
    spectra = read_xp(real_data / "gaia_xp" / name)
    assert len(spectra.table) == rows
    assert spectra.table["source_id"].is_unique
    missing = np.isnan(spectra.samples.value[:, :80]).all(axis=1)
    assert missing.sum() == ("missing_BP" in name)
    assert np.isfinite(spectra.samples.sigma[:, 80:]).all()


class TestWithGaiaXPy:
    pytestmark = with_gaiaxpy

    def test_samples_are_those_of_its_converter(self, real_data):
        gaia._design_matrix.cache_clear()
        path = real_data / "gaia_xp" / "gaiaxpy_tests" / "xp_continuous__XP_CONTINUOUS_RAW.csv"
        spectra = read_xp(path)
        assert not matplotlib.rcParams["text.usetex"]
        from gaiaxpy import convert

        for band, part in (("bp", slice(0, 80)), ("rp", slice(80, 186))):
            pixels = gaia._pixels(band)[KEPT[band]]
            step = abs(pixels[1] - pixels[0])
            order = np.argsort(pixels)
            found, _ = convert(str(path), sampling=pixels[order], save_file=False)
            rows = found[found["xp"].str.lower() == band].set_index("source_id")
            for number, source in enumerate(spectra.table["source_id"]):
                flux, error = (np.array(rows.loc[source, name]) for name in ("flux", "flux_error"))
                value, sigma = (component[number, part][order] / step for component in spectra.samples[:2])
                # The mean over a sample, not the value at its centre.
                np.testing.assert_allclose(value, flux, atol=0.003 * flux.max())
                np.testing.assert_allclose(sigma, error, rtol=0.03)
