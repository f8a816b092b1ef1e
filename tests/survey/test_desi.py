"""DESI coadds: arms joined against sums by hand, redshifts by target, fibres without one, damaged files."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyfuse.cube.grid import DESI, SDSS
from skyfuse.cube.pyramid import spectrum_levels
from skyfuse.errors import FileError
from skyfuse.survey import registry
from skyfuse.survey.desi import CoaddReader
from skyfuse.survey.reader import Options, Partner, Reader, Refused, SurveyFile
from skyfuse.survey.records import SpectrumInfo

from .files import DESI_ARMS, desi_hdus, redrock_hdus, write_desi, write_spectrum

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "desi"
ANY = Options(keep_unclassified=True)
reader = CoaddReader()


def records(path):
    file = SurveyFile(path)
    assert registry.reader_of(file).name == reader.name
    return reader.records(file)


def by_hand(path, row):
    """Return flux and σ of a target from the arms, sample by sample."""
    total, weight = {}, {}
    with fits.open(path) as hdus:
        for arm in "BRZ":
            if f"{arm}_FLUX" not in hdus:
                continue
            parts = [hdus[f"{arm}_{part}"].data[row].astype(float) for part in ("FLUX", "IVAR", "MASK")]
            for wave, flux, ivar, mask in zip(hdus[f"{arm}_WAVELENGTH"].data, *parts, strict=True):
                if np.isfinite(flux) and np.isfinite(ivar) and ivar > 0 and mask == 0:
                    place = round((wave - 3600) / 0.8)
                    total[place] = total.get(place, 0) + ivar * flux
                    weight[place] = weight.get(place, 0) + ivar
    value, sigma = np.full(7781, np.nan), np.full(7781, np.nan)
    for place in weight:
        value[place], sigma[place] = total[place] / weight[place], weight[place] ** -0.5
    return value, sigma


@pytest.mark.skipif(not REAL.exists(), reason="no real DESI files here")
def test_real_targets_are_the_mean_of_their_arms_and_have_redrocks_redshifts():
    coadds = sorted(REAL.glob("coadd-*.fits"))
    assert coadds
    for path in coadds:
        redrock = REAL / path.name.replace("coadd", "redrock")
        assert records(redrock) == [Partner(str(path))]
        found = records(path)
        with fits.open(path) as hdus:
            targets = [int(target) for target in hdus["FIBERMAP"].data["TARGETID"]]
            last = {
                int(row["TARGETID"]): row["MJD"] for row in np.sort(hdus["EXP_FIBERMAP"].data, order="MJD")
            }
        assert [one.key for one in found] == [str(target) for target in targets]
        for row, one in enumerate(found):
            assert isinstance(one, SpectrumInfo)
            assert (one.instrument, one.partners, one.mjd) == (
                "desi",
                (str(redrock),),
                int(last[targets[row]]),
            )
            spectrum = reader.read(path, one.key, Options())
            assert spectrum.info == one
            native = spectrum_levels(spectrum, DESI)[0]
            value, sigma = by_hand(path, row)
            np.testing.assert_allclose(native.value, value, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(native.sigma, sigma, rtol=1e-6)
            with fits.open(redrock) as hdus:
                table = hdus["REDSHIFTS"].data
                (best,) = table[table["TARGETID"] == targets[row]]
            catalogue = spectrum.catalogue
            assert (catalogue["z"], catalogue["z_err"], catalogue["zwarning"], catalogue["class"]) == (
                best["Z"],
                best["ZERR"],
                best["ZWARN"],
                best["SPECTYPE"],
            )
    # The same files give the same names, whatever is read before.
    names = [one.spectrum_id for path in coadds for one in records(path)]
    assert sorted(names) == [
        "desi-special-dark-39089837499744649",
        "desi-tile80613-thru20210324-39633345008634465",
    ]


@pytest.mark.skipif(not REAL.exists(), reason="no real DESI files here")
def test_real_files_that_are_no_coadds_of_targets_say_so():
    with pytest.raises(FileError, match="no FIBERMAP") as raised:
        records(REAL / "quasarnp_test_coadd.fits")
    assert raised.value.reason == "missing-fibermap"
    with pytest.raises(FileError, match="no reader") as raised:
        registry.reader_of(SurveyFile(REAL / "stack-LRG.fits"))
    assert raised.value.reason == "unknown-kind"


def test_it_is_a_reader_that_can_go_to_another_process():
    assert isinstance(reader, Reader)
    assert pickle.loads(pickle.dumps(reader)).name == "desi-coadds"  # noqa: S301 - our own bytes


def test_masked_and_invalid_samples_do_not_count(tmp_path):
    path = write_desi(tmp_path, [7])
    with fits.open(path, mode="update", checksum=True) as hdus:
        hdus["B_MASK"].data[0, 2700:2705] = 4
        hdus["R_IVAR"].data[0, :3] = 0
        hdus["R_FLUX"].data[0, 3], hdus["R_IVAR"].data[0, 4] = np.nan, np.inf
        hdus["Z_IVAR"].data[0, -4:] = 0, -1, np.nan, 0
        hdus["B_MASK"].data[0, :2] = 1
    spectrum = reader.read(path, "7", Options())
    value, sigma = by_hand(path, 0)
    np.testing.assert_allclose(spectrum.flux, value, rtol=1e-6)
    np.testing.assert_allclose(spectrum.sigma, sigma, rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(spectrum.flux), np.isnan(spectrum.sigma))
    assert np.flatnonzero(np.isnan(value)).tolist() == [
        0,
        1,
        2700,
        2701,
        2702,
        2703,
        2704,
        7777,
        7778,
        7779,
        7780,
    ]
    good = ~np.isnan(value)
    assert spectrum.catalogue["sn_median"] == pytest.approx(np.median(value[good] / sigma[good]), rel=1e-5)


def test_bins_are_placed_whole_and_halved_exactly(tmp_path):
    spectrum = reader.read(write_desi(tmp_path, [7]), "7", Options())
    levels = spectrum_levels(spectrum, DESI)
    np.testing.assert_array_equal(levels[0].value, spectrum.flux)
    np.testing.assert_array_equal(levels[0].sigma, spectrum.sigma)
    for zoom, level in enumerate(levels):
        assert level.value.shape == (DESI.sizes[zoom],) == DESI.centres(zoom).shape
        whole = len(spectrum.flux) >> zoom
        pieces = spectrum.flux.astype(float)[: whole << zoom].reshape(whole, -1)
        np.testing.assert_allclose(level.value[:whole], pieces.mean(axis=1), rtol=1e-5, atol=1e-6)
        middle = spectrum.wavelength[: whole << zoom].reshape(whole, -1).mean(axis=1)
        np.testing.assert_allclose(DESI.centres(zoom)[:whole], middle, rtol=1e-12)
    # On another survey's grid it is resampled, with its flux kept.
    other = spectrum_levels(spectrum, SDSS)[0]
    assert other.coverage.min() == 1
    inside = (spectrum.wavelength > 4000) & (spectrum.wavelength < 9000)
    assert np.average(other.value, weights=np.diff(SDSS.edges(0))) == pytest.approx(
        spectrum.flux[inside].mean(), abs=0.05
    )


def test_arms_alone_joined_and_with_a_gap_are_read(tmp_path):
    random = np.random.default_rng(1)
    for names in (["B"], ["B", "Z"], ["BRZ"]):
        arms = {}
        for name in names:
            bins = 7781 if name == "BRZ" else DESI_ARMS[name][1]
            arms[name] = random.normal(1, 1, (1, bins)), np.full((1, bins), 4.0), np.zeros((1, bins))
        path = tmp_path / f"coadd-{'-'.join(names)}.fits"
        desi_hdus([3], arms).writeto(path)
        spectrum = reader.read(path, "3", ANY)
        held = np.isfinite(spectrum.flux)
        assert held.sum() == sum(flux.size for flux, _, _ in arms.values())
        np.testing.assert_array_equal(
            spectrum.flux[held], np.concatenate([a[0][0] for a in arms.values()]).astype("f4")
        )
        assert spectrum.first_bin == 4500
        np.testing.assert_allclose(spectrum.wavelength, 3600 + 0.8 * np.arange(held.size), rtol=1e-12)


@given(
    targets=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from(["TGT", "SKY", "BAD", ""]), min_size=6, max_size=6),
    bits=st.lists(
        st.sampled_from([0, 1, 1 << 1, 1 << 2, 1 << 3, 1 << 9, 1 << 10, 1 << 16, 1 << 22]),
        min_size=6,
        max_size=6,
    ),
)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_fibre_is_a_target_or_refused_with_its_reason(tmp_path_factory, targets, kinds, bits):
    folder = tmp_path_factory.mktemp("desi")
    n = len(targets)
    arms = {"B": (np.ones((n, 40)), np.ones((n, 40)), np.zeros((n, 40)))}
    path = folder / "coadd-x.fits"
    desi_hdus(targets, arms, fibermap={"OBJTYPE": kinds[:n], "COADD_FIBERSTATUS": bits[:n]}).writeto(path)
    found = records(path)
    assert len(found) == len({one.key for one in found}) == n
    seen = set()
    for one, target, kind, bit in zip(found, targets, kinds, bits, strict=False):
        bad = bit in (1, 1 << 2, 1 << 9, 1 << 16)
        if target in seen:
            expected = "duplicate"
        elif kind == "SKY":
            expected = "sky-fibre"
        elif target <= 0 or kind == "":
            expected = "unplugged"
        elif kind == "BAD" or bit == 1 << 9:
            expected = "bad-target"
        else:
            expected = "unplugged" if bad else None
        seen.add(target)
        assert (one.reason if isinstance(one, Refused) else None) == expected
        if expected != "duplicate":
            assert int(one.key) == target
            spectrum = reader.read(path, one.key, Options(keep_unknown=True, keep_unclassified=True))
            assert spectrum.info.spectrum_id == f"desi-main-dark-{target}"
        if expected not in (None, "duplicate"):
            with pytest.raises(FileError) as raised:
                reader.read(path, one.key, ANY)
            assert raised.value.reason == expected


def test_redshifts_go_by_target_and_not_by_row(tmp_path):
    targets = [2**62 + 1, 2**62 + 2, 2**62 + 3]
    path = write_desi(tmp_path, targets, redshifts=False)
    redrock_hdus(
        targets[::-1], Z=[3.0, 2.0, 0.001], SPECTYPE=["QSO", "GALAXY", "STAR"], SUBTYPE=["HIZ", "", "M"]
    ).writeto(tmp_path / "redrock-main-dark-1.fits")
    found = [reader.read(path, str(target), Options()).catalogue for target in targets]
    assert [one["z"] for one in found] == [0.001, 2.0, 3.0]
    assert [(one["class"], one["subclass"]) for one in found] == [
        ("STAR", "M"),
        ("GALAXY", ""),
        ("QSO", "HIZ"),
    ]


def test_without_redshifts_a_target_waits_for_them_or_is_kept_unclassified(tmp_path):
    path = write_desi(tmp_path, [5, 6], redshifts=False)
    # Redshifts that come later change the folder.
    assert [one.partners for one in records(path)] == [(str(tmp_path),)] * 2
    with pytest.raises(FileError, match="target 5: no redrock file") as raised:
        reader.read(path, "5", Options())
    assert raised.value.reason == "no-redshifts"
    catalogue = reader.read(path, "5", ANY).catalogue
    assert catalogue["class"] is catalogue["z"] is catalogue["zwarning"] is None
    # Old names and compressed ones count; and a file that comes later is seen.
    content = tmp_path / "x.fits"
    redrock_hdus([6]).writeto(content)
    (tmp_path / "zbest-main-dark-1.fits.gz").write_bytes(gzip.compress(content.read_bytes()))
    content.unlink()
    assert reader.read(path, "6", Options()).catalogue["class"] == "GALAXY"
    with pytest.raises(FileError, match="target 5"):
        reader.read(path, "5", Options())


@pytest.mark.parametrize(
    ("bit", "reason"), [(0, "sky-fibre"), (7, "unplugged"), (8, "bad-target"), (9, "no-data")]
)
def test_redrocks_flags_of_no_object_count(tmp_path, bit, reason):
    path = write_desi(tmp_path, [5], redshifts=False)
    redrock_hdus([5], ZWARN=[1 << bit]).writeto(tmp_path / "redrock-main-dark-1.fits")
    with pytest.raises(FileError) as raised:
        reader.read(path, "5", Options())
    assert raised.value.reason == reason
    assert reader.read(path, "5", Options(keep_unknown=True)).catalogue["zwarning"] == 1 << bit


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({}, "main-dark"),
        ({"SPGRP": "cumulative", "SPGRPVAL": 20210324, "TILEID": 80613}, "tile80613-thru20210324"),
        ({"SPGRP": "pernight", "SPGRPVAL": 20210324, "TILEID": 80613}, "tile80613-20210324"),
        ({"SPGRP": "perexp", "SPGRPVAL": 123, "TILEID": 80613}, "tile80613-perexp123"),
        ({"SPGRP": "", "SURVEY": "", "PROGRAM": ""}, None),
    ],
)
def test_coadds_of_one_target_have_names_of_their_own(tmp_path, cards, name):
    path = write_desi(tmp_path, [5], **cards)
    (found,) = records(path)
    if name is None:
        assert (found.reason, "make no name" in found.message) == ("bad-values", True)
    else:
        assert found.spectrum_id == f"desi-{name}-5"


def test_early_headers_leave_the_name_to_the_file(tmp_path):
    path = write_desi(tmp_path, [5])
    with fits.open(path, mode="update") as hdus:
        for key in ("SPGRP", "SURVEY", "PROGRAM", "CHECKSUM", "DATASUM"):
            hdus[0].header.remove(key, ignore_missing=True)
    assert records(path)[0].spectrum_id == "desi-main-dark-1-5"


def test_a_changed_file_is_read_anew(tmp_path):
    path = write_desi(tmp_path, [5])
    before = reader.read(path, "5", Options())
    assert before.sha256 == reader.read(path, "5", Options()).sha256
    write_desi(tmp_path, [5], seed=1)
    after = reader.read(path, "5", Options())
    assert after.sha256 != before.sha256
    np.testing.assert_allclose(after.flux, by_hand(path, 0)[0], rtol=1e-6)
    redrock = tmp_path / "redrock-main-dark-1.fits"
    digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, redrock)]
    assert after.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()
    with pytest.raises(FileError, match="any more"):
        reader.read(path, "8", Options())
    path.unlink()
    with pytest.raises(FileError) as raised:
        reader.read(path, "5", Options())
    assert raised.value.reason == "unreadable"


def test_compressed_coadds_are_the_same(tmp_path):
    path = write_desi(tmp_path, [5, 6])
    plain = reader.read(path, "6", Options())
    packed = tmp_path / "coadd-main-dark-1.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [one.key for one in records(packed)] == ["5", "6"]
    spectrum = reader.read(packed, "6", Options())
    np.testing.assert_array_equal(spectrum.flux, plain.flux)
    assert spectrum.info.partners == plain.info.partners


def test_threads_that_read_two_files_in_turn_get_their_own(tmp_path):
    paths = [write_desi(tmp_path / str(seed), [5], seed=seed) for seed in range(2)]
    wanted = [reader.read(path, "5", Options()).flux for path in paths]
    wrong = []

    def work():
        for turn in range(20):
            if not np.array_equal(reader.read(paths[turn % 2], "5", Options()).flux, wanted[turn % 2]):
                wrong.append(turn)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_single_exposures_are_another_kind(tmp_path):
    path = write_desi(tmp_path, [5, 5], fibermap={"EXPID": [1, 2], "COADD_FIBERSTATUS": None})
    with pytest.raises(FileError, match="single exposures") as raised:
        records(path)
    assert raised.value.reason == "unknown-kind"


@pytest.mark.parametrize(
    "unit", ["", "1e-17 erg/(s cm2 A)", "10^-17 ergs/s/cm^2/Ang", "10**-17 erg s-1 cm-2 Angstrom-1"]
)
def test_its_unit_is_known_however_it_is_written(tmp_path, unit):
    path = write_desi(tmp_path, [5])
    with fits.open(path, mode="update", checksum=True) as hdus:
        hdus["B_FLUX"].header["BUNIT"] = unit
    assert reader.read(path, "5", ANY).info.key == "5"


def test_redshifts_without_their_coadd_are_told(tmp_path):
    path = tmp_path / "redrock-a.fits"
    redrock_hdus([5]).writeto(path)
    with pytest.raises(FileError, match="put redrock-X") as raised:
        records(path)
    assert raised.value.reason == "no-spectra"


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (lambda hdus: hdus.pop("R_IVAR"), "wrong-hdus", "R_IVAR is no image"),
        (lambda hdus: hdus["R_FLUX"].header.update(BUNIT="Jy"), "wrong-unit", "'Jy'"),
        (
            lambda hdus: hdus["R_FLUX"].header.update(BUNIT="10**-16 erg/(s cm2 Angstrom)"),
            "wrong-unit",
            "-16",
        ),
        (lambda hdus: setattr(hdus["R_FLUX"], "data", hdus["R_FLUX"].data[:, 1:]), "wrong-hdus", "R_FLUX"),
        (
            lambda hdus: setattr(hdus["Z_MASK"], "data", hdus["Z_MASK"].data.astype("f4")),
            "wrong-hdus",
            "Z_MASK",
        ),
        (lambda hdus: hdus["R_WAVELENGTH"].data.__iadd__(0.4), "bad-values", "arm R"),
        (lambda hdus: hdus["Z_WAVELENGTH"].data.__imul__(1.0001), "bad-values", "arm Z"),
        (lambda hdus: hdus["B_WAVELENGTH"].data.__setitem__(5, np.nan), "wrong-hdus", "no wavelengths"),
        (
            lambda hdus: hdus["B_WAVELENGTH"].data.sort() or hdus["B_WAVELENGTH"].data.__imul__(-1),
            "wrong-hdus",
            "rise",
        ),
        (lambda hdus: hdus.append(hdus["B_FLUX"].copy()), "wrong-hdus", "two HDUs B_FLUX"),
        # An arm or a mask that were passed over would be wrong in silence.
        (lambda hdus: hdus.pop("B_FLUX"), "wrong-hdus", "it has B_WAVELENGTH and no B_FLUX"),
        (lambda hdus: hdus.pop("R_MASK"), "wrong-hdus", "no R_MASK, but that of another arm"),
    ],
)
def test_what_is_wrong_with_a_coadd_costs_one_line(tmp_path, change, reason, message):
    path = write_desi(tmp_path, [5])
    with fits.open(path) as hdus:
        hdus.readall()
        change(hdus)
        hdus.writeto(tmp_path / "coadd-wrong.fits", checksum=True)
    with pytest.raises(FileError, match=message) as raised:
        records(tmp_path / "coadd-wrong.fits")
    assert raised.value.reason == reason
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SPECTYPE": ["PLANET"]}, "PLANET"),
        ({"Z": [np.nan]}, "Z = nan"),
        ({"Z": [99.0]}, "Z = 99"),
        ({"ZWARN": [-1]}, "ZWARN"),
    ],
)
def test_redshifts_that_cannot_be_cost_their_target(tmp_path, values, message):
    path = write_desi(tmp_path, [5], redshifts=False)
    redrock_hdus([5], **values).writeto(tmp_path / "redrock-main-dark-1.fits")
    with pytest.raises(FileError, match=message) as raised:
        reader.read(path, "5", Options())
    assert (raised.value.reason, raised.value.path.name) == ("bad-values", "redrock-main-dark-1.fits")


def test_targets_without_a_place_or_data_are_counted(tmp_path):
    path = write_desi(tmp_path, [5, 6, 7], fibermap={"TARGET_RA": [np.nan, 10, 360]})
    with fits.open(path, mode="update", checksum=True) as hdus:
        for arm in "BRZ":
            hdus[f"{arm}_IVAR"].data[1] = 0
    lost, held, turned = records(path)
    assert isinstance(lost, Refused)
    assert (lost.key, lost.reason) == ("5", "bad-values")
    assert turned.ra == 0
    with pytest.raises(FileError) as raised:
        reader.read(path, held.key, Options())
    assert raised.value.reason == "no-good-pixels"


def test_a_flipped_byte_is_found_before_any_spectrum_is_given(tmp_path):
    path = write_desi(tmp_path, [5, 6])
    content = bytearray(path.read_bytes())
    with fits.open(path) as hdus:
        content[hdus["Z_FLUX"].fileinfo()["datLoc"] + 5] ^= 0x40
    path.write_bytes(content)
    for key in ("5", "6", "5"):
        with pytest.raises(FileError, match="DATASUM") as raised:
            reader.read(path, key, Options())
        assert raised.value.reason == "damaged"
    path.write_bytes(content[:-2880])
    with pytest.raises(FileError) as raised:
        records(path)
    assert raised.value.reason == "truncated"


def test_other_spectra_are_not_taken_for_desis(tmp_path):
    path = write_spectrum(tmp_path / "s.fits", np.ones(40), np.ones(40), 3.6 + 1e-4 * np.arange(40))
    assert not reader.recognises(SurveyFile(path))
    shutil.copy(path, tmp_path / "coadd-1.fits")
    assert not reader.recognises(SurveyFile(tmp_path / "coadd-1.fits"))
