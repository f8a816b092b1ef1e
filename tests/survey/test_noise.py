from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from skyfuse.errors import UsageError
from skyfuse.survey.noise import is_sky, leverage, noise_model, noise_name, read_model
from skyfuse.survey.records import Spectrum, SpectrumInfo

TOLD: dict[str, Any] = {
    "name": "one",
    "plates": [1, 3509],
    "fibres": 320,
    "wavelength": [4000.0, 6000.0],
    "scale": [1.0, 2.0],
    "next": [0.2, 0.0],
    "second": [0.0, 0.1],
    "sky_fit": 0.02,
    "sky_residual": [0.01, 0.02],
    "sky_residual_slit": 0.5,
    "calibration": [0.03, 0.01],
    "offset": 0.25,
    "evidence": {"sky_fibres": 1, "sky_plates": [1], "pairs": 0, "objects": 0, "pair_plates": []},
}


def written(**changes: Any) -> str:
    return yaml.safe_dump({"name": "m", "version": 1, "spectrographs": [TOLD | changes]})


def spectrum(fiber: int = 31, survey: str = "sdss", plate: int | None = 266, **more: Any) -> Spectrum:
    info = SpectrumInfo("s", survey, plate, 51602, fiber, 10.0, 20.0)
    flux, sigma = np.array([2, -3, np.nan], np.float32), np.array([1, 2, np.nan], np.float32)
    sky = np.array([8, 16, 4], np.float32)
    return Spectrum(info, np.array([4000.0, 5000.0, 7000.0]), flux, sigma, None, "", **({"sky": sky} | more))


def test_the_shipped_model_is_sound_and_named_by_its_content() -> None:
    model = noise_model("sdss")
    assert model is not None
    assert [one.name for one in model.spectrographs] == ["SDSS-I and II", "BOSS"]
    assert all(len(one.evidence.pair_plates) for one in model.spectrographs)
    assert noise_name("sdss").startswith(f"sdss {model.version} ")
    assert len(noise_name("sdss")) > 20
    assert noise_model("lamost") is None
    assert noise_name("lamost") == ""


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"scale": [1.0]}, "differ in length"),
        ({"wavelength": [6000.0, 4000.0]}, "does not rise"),
        ({"scale": [1.0, 9.0]}, "scale is not from"),
        ({"calibration": [0.0, 0.5]}, "calibration is not from"),
        ({"sky_residual": [-0.1, 0.0]}, "sky_residual is not from"),
        ({"next": [0.9, 0.9]}, "spectral density"),
        ({"plates": [9, 3]}, "plates do not rise"),
        ({"offset": float("nan")}, "offset"),
        ({"more": 1}, "more"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read_model(written(**changes), "m.yaml")


def test_spectrographs_have_no_plates_in_common() -> None:
    both = {
        "name": "m",
        "version": 1,
        "spectrographs": [TOLD, TOLD | {"plates": [3509, 4000], "name": "two"}],
    }
    with pytest.raises(UsageError, match="plates in common"):
        read_model(yaml.safe_dump(both), "m.yaml")


def test_leverage_is_that_of_a_polynomial_fit() -> None:
    place = np.linspace(-1, 1, 320)
    # The diagonal of the projection on cubic polynomials: its trace is the number of coefficients.
    basis, _ = np.linalg.qr(np.vander(place, 4))
    expected = 320 * (basis**2).sum(axis=1)
    found = np.array([leverage(fibre, 320) for fibre in range(1, 321)])
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert abs(found.mean() - 4) < 0.1
    assert leverage(321, 320) == leverage(1, 320) > leverage(160, 320)


def test_numbers_of_the_native_bins() -> None:
    model = read_model(written(), "m.yaml")
    noise = model.noise(spectrum())
    assert noise is not None
    reach = leverage(31, 320)
    np.testing.assert_allclose(
        noise.sigma[:2], np.array([1.0, 1.5 * 2]) * np.sqrt(1 + 0.02 * reach), rtol=1e-6
    )
    np.testing.assert_allclose(noise.next, [0.2, 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(noise.common, np.array([0.08, 0.24, 0.08]) * np.sqrt(reach / 4), rtol=1e-6)
    np.testing.assert_allclose(noise.calibration, [0.03, 0.02, 0.01])
    # σ² / (sky + flux), of no flux below 0.
    np.testing.assert_allclose(noise.offset[:2], [0.25 * 1 / 10, 0.25 * 4 / 16], rtol=1e-6)


def test_fibres_that_the_sky_was_fitted_to_scatter_less_than_objects() -> None:
    model = read_model(written(), "m.yaml")
    own = spectrum(catalogue={"zwarning": 5})
    assert is_sky(own)
    assert is_sky(spectrum(catalogue={"objtype": "SKY", "zwarning": None}))
    assert not is_sky(spectrum(catalogue={"zwarning": 4}))
    for fiber in (1, 160):
        one, other = model.noise(replace(own, info=spectrum(fiber).info)), model.noise(spectrum(fiber))
        assert one is not None
        assert other is not None
        reach = 0.02 * leverage(fiber, 320)
        ratio = np.nanmean(one.sigma / other.sigma)
        assert ratio == pytest.approx(np.sqrt((1 - reach) / (1 + reach)))


def test_nothing_is_claimed_of_spectra_that_the_model_does_not_know() -> None:
    model = read_model(written(), "m.yaml")
    unknown = (spectrum(survey="mock"), spectrum(plate=None), spectrum(plate=3510), spectrum(sky=None))
    assert [model.noise(one) for one in unknown] == [None] * 4


def test_a_sky_that_is_none_adds_nothing() -> None:
    noise = read_model(written(), "m.yaml").noise(spectrum(sky=np.array([np.nan, -2, np.inf], np.float32)))
    assert noise is not None
    np.testing.assert_array_equal(noise.common, 0)
    np.testing.assert_array_equal(noise.offset, 0)
