"""σ of a cube's spectra by a noise model: against drawn noise and plain sums, and what a cube tells of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skyfuse.cube.build import Reading, build
from skyfuse.cube.grid import HISS, SDSS, SpectralGrid, grid_named
from skyfuse.cube.pyramid import series_levels, spectrum_levels
from skyfuse.cube.query import Cube
from skyfuse.errors import StoreError, UsageError
from skyfuse.study.describe import describe
from skyfuse.survey import noise as told
from skyfuse.survey.noise import NoiseModel
from skyfuse.survey.records import Spectrum, SpectrumInfo
from tests.cube.sky import make_spectrum

FIRST, BINS = 35835, 512
GRID = grid_named(f"log:{10 ** (FIRST * 1e-4)!r},{10 ** ((FIRST + BINS - 1) * 1e-4)!r},1e-4")


def model_of(**numbers: object) -> NoiseModel:
    flat = {"scale": [1.0] * 2, "next": [0.0] * 2, "second": [0.0] * 2, "calibration": [0.0] * 2}
    flat |= {"sky_residual": [0.0] * 2, "sky_fit": 0.0, "sky_residual_slit": 0.0, "offset": 0.0}
    evidence = {"sky_fibres": 0, "sky_plates": [], "pairs": 0, "objects": 0, "pair_plates": []}
    head = {"name": "one", "plates": [1, 9], "fibres": 320, "wavelength": [3000.0, 9999.0]}
    section = head | flat | numbers | {"evidence": evidence}
    return NoiseModel.model_validate({"name": "m", "version": 1, "spectrographs": [section]})


def spectrum(flux: np.ndarray, sigma: np.ndarray, sky: float = 4.0, survey: str = "sdss") -> Spectrum:
    wavelength = 10 ** ((FIRST + np.arange(flux.size)) * 1e-4)
    info = SpectrumInfo("s", survey, 3, 4, 5, 10.0, 20.0)
    level = np.full(flux.size, sky, np.float32)
    return Spectrum(info, wavelength, flux.astype(np.float32), sigma.astype(np.float32), FIRST, "", sky=level)


def drawn(seed: int, size: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(5, 1, size), rng.uniform(0.5, 2, size)


def test_sigma_is_the_scatter_of_correlated_noise_at_every_zoom() -> None:
    rng = np.random.default_rng(3)
    sigma, share = 1 + 0.3 * np.sin(np.arange(BINS) / 40), np.array([1, 0.4, 0.2])
    power = (share**2).sum()
    following, second = (share[0] * share[1] + share[1] * share[2]) / power, share[0] * share[2] / power
    model = model_of(scale=[1.2, 1.2], next=[following] * 2, second=[second] * 2)
    white = rng.normal(0, 1, (600, BINS + 2)) / np.sqrt(power)
    values = 1.2 * sigma * sum(part * white[:, i : BINS + i] for i, part in enumerate(share))
    levels = [spectrum_levels(spectrum(one, sigma), GRID, sigma=model) for one in values]
    for zoom in range(5):
        scatter = np.std([one[zoom].value for one in levels], axis=0)
        ratio = scatter / levels[0][zoom].sigma
        # 600 draws and BINS / 2^zoom blocks that are nearly independent.
        assert np.mean(ratio) == pytest.approx(1, abs=4 / np.sqrt(2 * 600 * BINS / 2**zoom) + 1e-3)


@pytest.mark.parametrize("grid", [GRID, HISS], ids=["aligned", "resampled"])
def test_sigma_equals_the_sum_over_all_pairs_of_bins(grid: SpectralGrid) -> None:
    flux, sigma = drawn(1)
    flux[[3, 40, 41, 200]] = np.nan
    numbers = {"next": [0.25] * 2, "second": [-0.1] * 2, "sky_residual": [0.05] * 2}
    model = model_of(**numbers, calibration=[0.02] * 2, offset=0.5)
    one = spectrum(flux, sigma)
    edges = 10 ** ((FIRST - 0.5 + np.arange(BINS + 1)) * 1e-4)
    apart = np.abs(np.subtract.outer(np.arange(BINS), np.arange(BINS)))
    correlation = (apart == 0) + 0.25 * (apart == 1) - 0.1 * (apart == 2)
    good = np.isfinite(flux)
    for zoom, samples in enumerate(spectrum_levels(one, grid, sigma=model)):
        own = grid.edges(zoom)
        if grid is GRID:
            # Whole bins of a logarithmic grid count alike.
            own, native = np.arange(len(own)) * 2.0**zoom, np.arange(BINS + 1.0)
        else:
            native = edges
        held = np.flatnonzero(samples.coverage > 0)
        for block in held[:: max(len(held) // 20, 1)]:
            weight = np.clip(
                np.minimum(own[block + 1], native[1:]) - np.maximum(own[block], native[:-1]), 0, None
            )
            weight = np.where(good, weight, 0) / weight[good].sum()
            white = np.where(good, weight * sigma.astype(np.float32), 0)
            off = 0.5 * sigma**2 / (4 + np.maximum(flux, 0))
            mean = np.nansum(weight * (flux - off))
            variance = white @ correlation @ white + (0.05 * 4) ** 2 + (0.02 * mean) ** 2
            assert samples.value[block] == pytest.approx(mean, rel=2e-6)
            assert samples.sigma[block] == pytest.approx(np.sqrt(variance), rel=2e-6)


def test_formal_sigma_is_what_it_was_to_the_bit() -> None:
    flux, sigma = drawn(2, SDSS.sizes[0])
    flux[::50] = np.nan
    one = spectrum(flux, np.where(np.isfinite(flux), sigma, np.nan))
    plain = series_levels(one.flux[None], one.sigma[None], 5)
    for made in (
        spectrum_levels(one, SDSS, sigma="formal"),
        spectrum_levels(spectrum(one.flux, one.sigma, survey="mock"), SDSS),
    ):
        for level, expected in zip(made, plain, strict=True):
            for part, own in zip(level, expected, strict=True):
                assert part.tobytes() == own.tobytes()
    by_model = spectrum_levels(one, SDSS)
    assert by_model[4].value.shape == plain[4].value.shape[1:]
    np.testing.assert_array_equal(by_model[4].coverage, plain[4].coverage[0])
    assert (by_model[4].sigma != plain[4].sigma[0]).all()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise") / "sky"
    folder.mkdir()
    make_spectrum(folder, 1, 10.0, 40.0, sky=8.0)
    make_spectrum(folder, 2, 10.2, 40.0)
    return folder


def test_a_cube_tells_where_sigma_comes_from(files: Path, tmp_path: Path) -> None:
    by_model, formal = tmp_path / "m.cube", tmp_path / "f.cube"
    build([files], by_model, workers=1)
    build([files], formal, workers=1, reading=Reading(sigma="formal"))
    said = describe(by_model)
    assert said["instruments.sdss.spectrum.sigma.model"] == told.noise_name("sdss")
    # The other file tells no sky.
    assert said["instruments.sdss.spectrum.sigma.by_model"] == 1
    assert said["instruments.sdss.spectrum.sigma.formal"] == 1
    assert 1947 in said["instruments.sdss.spectrum.sigma.evidence.SDSS-I and II.sky_plates"]
    assert describe(formal)["instruments.sdss.spectrum.sigma.formal"] == "as asked"
    one, other = Cube.open(by_model), Cube.open(formal)
    ids = one.spectra["spectrum_id"].tolist()
    assert ids == other.spectra["spectrum_id"].tolist()
    same = np.isclose(
        one.spectrum_samples([0, 1]).sigma, other.spectrum_samples([0, 1]).sigma, equal_nan=True
    ).all(axis=1)
    assert [ids[i] for i in np.flatnonzero(same)] == ["sdss-1-55000-2"]


def test_sigma_of_two_kinds_is_never_mixed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    make_spectrum(more, 3, 10.4, 40.0, sky=8.0)
    cubes = {
        sigma: build([files], tmp_path / sigma, workers=1, reading=Reading(sigma=sigma)).out
        for sigma in ("model", "formal")
    }
    with pytest.raises(
        StoreError, match=r"has σ of sdss by the noise model sdss 1 .*, not the formal one; .*--replace"
    ):
        build([more], cubes["model"], workers=1, reading=Reading(sigma="formal"))
    with pytest.raises(StoreError, match="has the formal σ of sdss, not that of the noise model"):
        build([more], cubes["formal"], workers=1, reading=Reading(sigma="model"))
    # A cube's own is kept where nothing is asked.
    for sigma, cube in cubes.items():
        assert build([more], cube, workers=1).spectra == 3
        said = json.loads((cube / "cube.json").read_text())["instruments"]["sdss"]["spectrum"]["sigma"]
        assert said["formal"] == (1 if sigma == "model" else "as asked")
    for module in ("skyfuse.cube.standing", "skyfuse.cube.build"):
        monkeypatch.setattr(f"{module}.noise_name", lambda name: "sdss 2 0123456789abcdef")
    with pytest.raises(StoreError, match=r"by the noise model sdss 1 .*, this Skyfuse has sdss 2 0123"):
        build([more], cubes["model"], workers=1)


def test_instruments_without_a_model_say_so(tmp_path: Path) -> None:
    from tests.survey.files import write_lamost

    folder = tmp_path / "lamost"
    folder.mkdir()
    flux, ivar = np.full(3900, 5.0), np.ones(3900)
    write_lamost(folder / "spec-55859-F5902_sp01-001.fits", flux, ivar)
    build([folder], tmp_path / "l.cube", workers=1)
    said = describe(tmp_path / "l.cube")
    assert said["instruments.lamost.spectrum.sigma.formal"] == "no noise model of lamost is known"


def test_an_unknown_sigma_is_refused_at_once(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no σ 'true' of spectra; choose model or formal"):
        build([files], tmp_path / "c.cube", reading=Reading(sigma="true"))
    assert not (tmp_path / "c.cube").exists()
