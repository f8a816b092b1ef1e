"""The survey's classes, measured on the light that is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from skyfuse.mock import classes, sky, spectra
from skyfuse.mock.sky import Source


@pytest.fixture(scope="module")
def dressed() -> list[Source]:
    drawn = [sky.draw_galaxy(sky.generator(3, i), i, 150.0, 0.1) for i in range(700)]
    return [classes.dress(3, source) for source in drawn]


def lines_of(source: Source) -> tuple[dict[str, float], float]:
    """Measure line fluxes above the continuum beside them, and Hα's equivalent width at rest, Å."""
    light = spectra.source_light(source).sum(axis=0)
    step = spectra.WAVELENGTH * np.log(10) * 1e-4
    flux, z = {}, 1 + source.z
    for name, centre in (("hb", 4862.68), ("oiii", 5008.24), ("ha", 6564.61), ("nii", 6585.27)):
        near = np.abs(spectra.WAVELENGTH / z - centre) < (9.5 if name in ("ha", "nii") else 16)
        around = (np.abs(spectra.WAVELENGTH / z - centre) > 45) & (
            np.abs(spectra.WAVELENGTH / z - centre) < 80
        )
        level = light[around].mean()
        flux[name] = float(((light - level) * step)[near].sum())
        if name == "ha":
            width = flux[name] / level / z
    return flux, width


def test_every_galaxy_subclass_is_there_but_rare_ones_are_rare(dressed: list[Source]) -> None:
    count = Counter(source.subclass for source in dressed)
    assert set(count) == {
        *("", "AGN", "AGN BROADLINE", "BROADLINE", "STARBURST", "STARBURST BROADLINE", "STARFORMING"),
        "STARFORMING BROADLINE",
    }
    assert min(count.values()) >= 3
    assert max(count[name] for name in count if "BROADLINE" in name) < 0.08 * len(dressed)


def test_lines_lie_where_the_class_says(dressed: list[Source]) -> None:
    # Line ratios measured on the spectrum, against the pipeline's dividing line and 50 Å of Hα.
    checked = Counter[str]()
    for source in dressed:
        if source.subclass not in ("AGN", "STARBURST", "STARFORMING") or checked[source.subclass] > 12:
            continue
        flux, width = lines_of(source)
        if min(flux.values()) <= 0 or flux["hb"] < 0.12 * flux["ha"]:
            continue  # absorption by the stars drowns Hβ
        above = np.log10(flux["oiii"] / flux["hb"]) - 0.7 + 1.2 * (np.log10(flux["nii"] / flux["ha"]) + 0.4)
        if source.subclass == "AGN":
            assert above > -0.15
        else:
            assert above < 0.15
            assert (width > 40) == (source.subclass == "STARBURST") or 35 < width < 65
        checked[source.subclass] += 1
    assert min(checked[name] for name in ("AGN", "STARBURST", "STARFORMING")) >= 5


def test_broad_lines_are_broad(dressed: list[Source]) -> None:
    def spread(source: Source) -> float:
        # Second moment of what the gas adds to Hβ, km/s.
        with_gas = spectra.source_light(source).sum(axis=0)
        narrow = replace(source, gas=replace(source.gas, log_broad=-np.inf))
        added = with_gas - spectra.source_light(narrow).sum(axis=0)
        velocity = (spectra.WAVELENGTH / (4862.68 * (1 + source.z)) - 1) * spectra.C_KMS
        near = np.abs(velocity) < 9000
        return float(np.sqrt((added * velocity**2)[near].sum() / added[near].sum()))

    broad = [s for s in dressed if np.isfinite(s.gas.log_broad)]
    # A few drown in their galaxy's light.
    assert np.mean(["BROADLINE" in s.subclass for s in broad]) > 0.85
    for source in broad[:6]:
        assert spread(source) == pytest.approx(source.gas.broad, rel=0.05)
    for source in dressed:
        rotation = np.hypot(sky.velocity_width(source.log_mass), 70.0)
        if source.subclass in ("STARFORMING", "STARBURST"):
            assert source.gas.narrow * rotation <= 200
        elif source.subclass in ("STARFORMING BROADLINE", "STARBURST BROADLINE"):
            assert source.gas.narrow * rotation > 200


def star(subclass: str, temperature: float) -> np.ndarray:
    source = Source(0, "STAR", subclass, 150.0, 0.1, 0.0, mag_r=17.0, temperature=temperature)
    return spectra.source_light(source)[0]


def width_at(light: np.ndarray, centre: float, reach: float) -> float:
    """Return an equivalent width, Å, positive in absorption."""
    wave = spectra.WAVELENGTH
    near, step = np.abs(wave - centre) < reach, wave * np.log(10) * 1e-4
    beside = (np.abs(wave - centre) > reach) & (np.abs(wave - centre) < 1.3 * reach)
    return float(((1 - light / light[beside].mean()) * step)[near].sum())


def test_rare_stars_show_what_names_them() -> None:
    # White dwarfs' Balmer lines are several times those of an A star of the same temperature.
    assert width_at(star("WD", 12000.0), 4862.7, 150) > 2 * width_at(star("A0", 12000.0), 4862.7, 150) > 0
    assert width_at(star("CV", 15000.0), 6564.6, 90) < -12
    for name, temperature in (("Carbon", 3500.0), ("CarbonWD", 9000.0)):
        light = star(name, temperature)
        below, above = (np.abs(spectra.WAVELENGTH - c) < 20 for c in (5140.0, 5195.0))
        # The Swan head at 5165 Å is sharp to the red.
        assert light[below].mean() < 0.6 * light[above].mean()
    colours = {
        name: float(np.diff(-2.5 * np.log10(spectra.filter_weights() @ star(name, t)))[3])
        for name, t in (("M5", 3100.0), ("L3", 1900.0), ("T2", 1300.0))
    }
    # z − i: brown dwarfs are redder than any M dwarf.
    assert colours["T2"] < colours["L3"] < colours["M5"] < 0


def test_groups_of_stars() -> None:
    drawn = [sky.draw_star(sky.generator(4, i), i, 150.0, 0.1) for i in range(3000)]
    count = Counter(classes.dress(4, source).subclass for source in drawn)
    for name, (share, _) in classes.PECULIAR_STARS.items():
        found = sum(n for kind, n in count.items() if kind == name or (name == "L" and kind[0] == "L"))
        assert abs(found / 3000 - share) < 5 * np.sqrt(share / 3000)
    assert {name[0] for name in count} >= set("OBAFGKM")
    assert sum(count.values()) == 3000


def test_dressing_keeps_what_it_does_not_change() -> None:
    source = sky.draw_quasar(sky.generator(1, 1), 1, 150.0, 0.1)
    after = classes.dress(1, source)
    assert after == classes.dress(1, source)
    assert after.mag_r > source.mag_r
    with pytest.raises(TypeError):
        classes.galaxy_subclass(source)
