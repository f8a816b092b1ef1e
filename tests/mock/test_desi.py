"""DESI coadds and redrock files: the archive's format, light, noise and redshifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from speclite.filters import load_filter

from skyfuse.mock import desi, sky, write_mock

FOLDER = Path("desi", "tiles", "cumulative", "80001", "20210401")
NAME = "0-80001-thru20210401.fits"
ARGUMENTS: dict[str, Any] = {"fields": 1, "objects": 60, "products": ("desi",), "expected": True}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sky") / "mock"
    write_mock(out, **ARGUMENTS, workers=1)
    return out


@pytest.fixture(scope="module")
def coadd(mock: Path) -> dict[str, np.ndarray]:
    with fits.open(mock / FOLDER / f"coadd-{NAME}") as hdus:
        return {hdu.name: np.array(hdu.data) for hdu in hdus[1:]}


@pytest.fixture(scope="module")
def truth(mock: Path) -> pd.DataFrame:
    return pd.read_parquet(mock / "truth.parquet").set_index("targetid")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def joined(coadd: dict[str, np.ndarray], what: str) -> np.ndarray:
    return np.concatenate([coadd[f"{arm}_{what}"] for arm in "BRZ"], axis=-1)


def test_files_are_like_real_ones(mock: Path, real_data: Path) -> None:
    real_name = "4-80613-thru20210324.fits"
    for kind in ("coadd", "redrock"):
        with (
            fits.open(real_data / "desi" / f"{kind}-{real_name}") as theirs,
            fits.open(mock / FOLDER / f"{kind}-{NAME}") as ours,
        ):
            left_out = {"B_RESOLUTION", "R_RESOLUTION", "Z_RESOLUTION", "EXP_FIBERMAP", "TSNR2"}
            kept = [hdu.name for hdu in theirs if hdu.name not in left_out]
            assert [hdu.name for hdu in ours if hdu.name not in left_out] == kept
            for name in kept:
                one, other = ours[name], theirs[name]
                if isinstance(one, fits.BinTableHDU):
                    for column in one.columns:
                        if column.name != "LOCATION":
                            assert column.format == other.columns[column.name].format, column.name
                elif name != "PRIMARY":
                    assert one.data.dtype == other.data.dtype, name
                    assert one.data.shape[1:] == other.data.shape[1:], name
                    assert one.header.get("BUNIT") == other.header.get("BUNIT"), name
                if name.endswith("WAVELENGTH"):
                    np.testing.assert_allclose(one.data, other.data, rtol=0, atol=1e-9)
            for key in ("SPGRP", "SPGRPVAL", "NIGHT", "TILEID", "SPECTRO", "PETAL"):
                assert type(ours[0].header[key]) is type(theirs[0].header[key]), key
            assert ours[0].header["TELESCOP"] == "MOCK"


def test_every_fibre_is_accounted_for(mock: Path, coadd: dict[str, np.ndarray], truth: pd.DataFrame) -> None:
    fibres = coadd["FIBERMAP"]
    targets = fibres[fibres["OBJTYPE"] == b"TGT"]
    # A float64 would mix up neighbouring numbers.
    assert sorted(targets["TARGETID"].tolist()) == sorted(truth.index.tolist())
    assert len({float(number) for number in truth.index.tolist()}) < len(truth)
    assert (fibres["OBJTYPE"] == b"SKY").sum() == 2
    assert (fibres["TARGETID"][fibres["OBJTYPE"] == b"BAD"] < 0).all()
    assert len(fibres) == len(truth) + 3
    assert len(set(fibres["TARGETID"].tolist())) == len(fibres)
    of = truth.loc[targets["TARGETID"].tolist()]
    np.testing.assert_array_equal(targets["TARGET_RA"], of["ra"])
    np.testing.assert_array_equal(targets["TARGET_DEC"], of["dec"])
    broken = (of["desi_fibre"] == "broken").to_numpy()
    assert broken.sum() == 1
    np.testing.assert_array_equal(targets["COADD_FIBERSTATUS"] != 0, broken)
    dead = (fibres["COADD_FIBERSTATUS"] != 0) | (fibres["OBJTYPE"] == b"BAD")
    np.testing.assert_array_equal((joined(coadd, "IVAR") == 0).all(axis=1), dead)
    with fits.open(mock / FOLDER / f"redrock-{NAME}") as hdus:
        redshifts, seen = hdus["REDSHIFTS"].data, hdus["FIBERMAP"].data
        np.testing.assert_array_equal(redshifts["TARGETID"], seen["TARGETID"])
        assert sorted(redshifts["TARGETID"].tolist()) == sorted(fibres["TARGETID"].tolist())
        assert redshifts["TARGETID"].tolist() != fibres["TARGETID"].tolist()
        assert set(redshifts["TARGETID"][redshifts["ZWARN"] == 512]) == set(fibres["TARGETID"][dead])


def test_noise_is_what_the_inverse_variance_says(mock: Path, coadd: dict[str, np.ndarray]) -> None:
    expected = np.load(mock / "expected" / f"coadd-{NAME[:-5]}.npy").astype(float)
    flux, ivar, mask = (joined(coadd, what).astype(float) for what in ("FLUX", "IVAR", "MASK"))
    np.testing.assert_array_equal(ivar > 0, mask == 0)
    assert (flux[mask != 0] == 0).all()
    good = ivar > 0
    pull = ((flux - expected) * np.sqrt(ivar))[good]
    assert abs(pull.mean()) < 5 / np.sqrt(len(pull))
    assert abs(pull.std() - 1) < 5 / np.sqrt(2 * len(pull))
    assert 0 < (~good & (expected != 0)).sum() < 0.05 * good.size
    # Arms that meet see the same light, with noise of their own.
    blue, red = (coadd[f"{arm}_WAVELENGTH"] for arm in "BR")
    np.testing.assert_array_equal(blue[-51:], red[:51])
    np.testing.assert_array_equal(expected[:, 2700:2751], expected[:, 2751:2802])
    assert (coadd["B_FLUX"][:, -51:] != coadd["R_FLUX"][:, :51]).any(axis=1).sum() >= len(flux) - 2


def test_light_is_that_of_the_sky(mock: Path, coadd: dict[str, np.ndarray], truth: pd.DataFrame) -> None:
    expected = np.load(mock / "expected" / f"coadd-{NAME[:-5]}.npy").astype(float)
    wave = coadd["R_WAVELENGTH"]
    rows = {int(number): row for row, number in enumerate(coadd["FIBERMAP"]["TARGETID"])}
    # Synthetic photometry in a window of the r band, and the part of a Moffat profile within the fibre.
    full = load_filter("sdss2010-r")
    blue = coadd["B_WAVELENGTH"]
    alpha = 1.1 / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
    share = 1 - (1 + (0.75 / alpha) ** 2) ** (1 - 3.5)
    grid = np.concatenate([blue[blue < 5760.0], wave])
    response = np.interp(grid, full.wavelength, full.response)
    zero = np.sum(3.631e-20 * 2.99792458e18 / grid * response)
    stars = truth[truth["kind"] == "STAR"]
    assert len(stars) > 2
    for number, star in stars.iterrows():
        light = expected[rows[int(str(number))]]
        seen = np.concatenate([light[:2751][blue < 5760.0], light[2751 : 2751 + 2326]])
        magnitude = -2.5 * np.log10(1e-17 * np.sum(seen * grid * response) / zero)
        assert magnitude == pytest.approx(star["mag_r"] - 2.5 * np.log10(share), abs=0.02)
    shining = truth[(truth["kind"] == "GALAXY") & truth["subclass"].str.startswith("STARBURST")]
    for number, galaxy in shining.iterrows():
        light = expected[rows[int(str(number))]][2751 : 2751 + 2326]
        near = np.abs(wave - 6564.61 * (1 + galaxy["z"])) < 10
        if near.sum() == 25:
            assert wave[near][light[near].argmax()] == pytest.approx(6564.61 * (1 + galaxy["z"]), abs=2.0)


def test_redshifts_are_right_where_they_are_sure(mock: Path, truth: pd.DataFrame) -> None:
    with fits.open(mock / FOLDER / f"redrock-{NAME}") as hdus:
        table = pd.DataFrame(
            {name: hdus[1].data[name].tolist() for name in ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE")}
        )
    table = table[table["TARGETID"].isin(truth.index)]
    of = truth.loc[table["TARGETID"]]
    sure = (table["ZWARN"] == 0).to_numpy()
    assert sure.mean() > 0.8
    pull = (table["Z"].to_numpy() - of["z"].to_numpy())[sure] / table["ZERR"].to_numpy()[sure]
    assert np.abs(pull).max() < 5
    assert 0.7 < pull.std() < 1.35
    assert (table["SPECTYPE"].to_numpy() == of["kind"].to_numpy())[sure].all()


def test_petals_hold_480_targets_each_and_twelve_fibres_of_sky() -> None:
    drawn = sky.draw_sky(3, 1, 500, untargeted=False)
    assert desi.petals(500) == 2
    first, second = (desi.assign(drawn, number) for number in range(2))
    assert len(first) == 480 + 12 + 1 <= desi.FIBRES
    assert len(second) == 20 + 2 + 1
    numbers = [fibre.target for fibre in first + second]
    assert len(set(numbers)) == len(numbers)
    assert {f.source.index for f in first + second if f.source is not None} == set(range(500))
    assert sum(fibre.broken for fibre in first) == 10
    assert desi.paths(13)[0].name == "coadd-3-80002-thru20210402.fits"


@pytest.mark.parametrize(
    ("subclass", "name"),
    [("O5", "B"), ("G2", "G"), ("T2", "M"), ("CarbonWD", "WD"), ("CV", "CV"), ("Carbon", "K")],
)
def test_stars_have_a_template_that_redrock_has(subclass: str, name: str) -> None:
    assert desi.template_of(sky.Source(0, "STAR", subclass, 0.0, 0.0, 0.0)) == name


def test_same_bytes_and_going_on(tmp_path: Path, mock: Path) -> None:
    again = tmp_path / "m"
    summary = write_mock(again, **ARGUMENTS, workers=1)
    assert summary.counts["DESI petals"] == 1
    whole = contents(mock)
    assert contents(again) == whole
    (again / FOLDER / f"redrock-{NAME}").unlink()
    kept = (again / FOLDER / f"coadd-{NAME}").stat().st_mtime_ns
    write_mock(again, **ARGUMENTS, workers=1)
    assert contents(again) == whole
    assert (again / FOLDER / f"coadd-{NAME}").stat().st_mtime_ns == kept
