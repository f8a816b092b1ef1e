"""The verbs of ``skyfuse instrument``, through the command line as a user calls it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skyfuse.cli import main
from skyfuse.survey.described import described
from skyfuse.survey.description import shipped_names
from skyfuse.survey.reader import SurveyFile
from skyfuse.survey.trial import try_file


@pytest.fixture
def skyfuse(monkeypatch, capsys):
    """Call ``skyfuse instrument`` and return what it printed, on stdout and stderr."""

    def call(*words: object, fails: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["skyfuse", "instrument", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert (stop.value.code or 0) == fails, err
        return out, err

    return call


def exposure(path: Path, *, planes: bool = True, **cards) -> Path:
    """An exposure of a camera that nobody knows: image, σ and mask, noise of σ 3."""
    rng = np.random.default_rng(4)
    header = fits.Header()
    header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=50.0, CRPIX2=40.0, CRVAL1=30.0, CRVAL2=-5.0)
    header.update(CD1_1=-1e-4, CD1_2=0.0, CD2_1=0.0, CD2_2=1e-4)
    primary = fits.PrimaryHDU()
    primary.header.update(
        INSTRUME="Night's Eye (v2)", FILTER="g' 4700", BUNIT="e-/s", EXPNUM=77, MAGZERO=25.5
    )
    primary.header.update({"DATE-OBS": "2024-05-06T07:08:09", "EXPTIME": 60.0, "GAIN": 1.0} | cards)
    mask = np.zeros((80, 100), np.int16)
    mask[5, 6] = 1
    hdus = [primary, fits.ImageHDU(rng.normal(10, 3, (80, 100)).astype(np.float32), header, name="SCI")]
    if planes:
        hdus += [
            fits.ImageHDU(np.full((80, 100), 3, np.float32), header, name="ERR"),
            fits.ImageHDU(mask, header, name="DQ"),
        ]
    fits.HDUList(hdus).writeto(path)
    return path


def test_list_names_every_instrument(skyfuse):
    out, _ = skyfuse("list")
    for name in ("sdss", "lamost", *shipped_names()):
        assert any(line.split()[0] == name for line in out.splitlines())
    told = {one["name"]: one for one in json.loads(skyfuse("list", "--json")[0])}
    assert told["unwise"]["imaging"]["bands"] == ["W1", "W2", "W3", "W4"]


def test_show_explains_descriptions_and_readers_in_python(skyfuse, tmp_path):
    out, _ = skyfuse("show", "decam-cp")
    (tmp_path / "again.yaml").write_text(out)
    # What is shown is a description that works.
    assert described(tmp_path / "again.yaml").description == described("decam-cp").description
    out, _ = skyfuse("show", "sdss")
    assert "sdss-frames" in out
    assert "nanomaggy" in out
    (told,) = json.loads(skyfuse("show", "unwise", "--json")[0])
    assert told["description"]["zero_point"]["vega"]["W1"] == 2.699


def test_check_tells_values_sigma_scatter_and_what_is_invalid(skyfuse, tmp_path):
    path = exposure(tmp_path / "night1.fits")
    description = tmp_path / "eye.yaml"
    skyfuse("new", path, "-o", description)
    out, _ = skyfuse("check", description, path)
    assert "1 of 8000 pixels invalid" in out
    (record,) = json.loads(skyfuse("check", description, path, "--json")[0])["files"][0]["records"]
    facts = record["facts"]
    assert facts["sky_sigma"] == 3
    assert facts["invalid"] == 1
    np.testing.assert_allclose(facts["scatter"], 1, atol=0.03)
    np.testing.assert_allclose(facts["pixel_arcsec"], 0.36, rtol=1e-6)
    np.testing.assert_allclose([facts["ra"], facts["dec"]], [29.99995, -4.99995], atol=1e-4)


def test_check_fails_on_what_cannot_be_read_and_says_why(skyfuse, tmp_path):
    path = exposure(tmp_path / "night1.fits")
    out, err = skyfuse("check", "unwise", path, tmp_path / "none.fits", fails=1)
    assert "not recognised as one of unwise-frames" in out
    assert "none.fits" in out
    assert err.count("\n") == 1
    assert "2 records" in err


@pytest.mark.parametrize("verb", ["list", "show", "check", "new"])
def test_help_has_an_example(skyfuse, verb):
    assert f"Example: skyfuse instrument {verb}" in " ".join(skyfuse(verb, "--help")[0].split())


def test_faults_of_the_call_are_one_line(skyfuse, tmp_path):
    path = exposure(tmp_path / "night1.fits")
    for arguments in (("check", "nix"), ("show", tmp_path / "nix.yaml"), ("new", path, "-o", path)):
        _, err = skyfuse(*arguments, fails=2)
        assert err.count("\n") == 1
    _, err = skyfuse("check", "nix", fails=2)
    assert "decam-cp" in err
    assert "sdss" in err
    (tmp_path / "bad.yaml").write_text("name: bad\ncolour: red\n")
    _, err = skyfuse("check", tmp_path / "bad.yaml", fails=2)
    assert "bad.yaml" in err
    (tmp_path / "empty.fits").write_bytes(b"")
    _, err = skyfuse("new", tmp_path / "empty.fits", fails=1)
    assert err.count("\n") == 1


@pytest.mark.parametrize("cards", [{}, {"BUNIT": "nanomaggy"}, {"INSTRUME": "'; rm {x} #"}, {"FILTER": "(r"}])
@pytest.mark.parametrize("planes", [True, False])
def test_drafts_read_the_file_that_they_were_made_from(planes, cards, tmp_path):
    from skyfuse.survey.described.draft import draft

    path = exposure(tmp_path / "night1.fits", planes=planes, **cards)
    (tmp_path / "eye.yaml").write_text(draft(path))
    reader = described(tmp_path / "eye.yaml")
    assert reader.recognises(SurveyFile(path))
    (tried,) = try_file(reader, path)
    assert tried.what == "frame", tried
    assert tried.facts["unit"] == cards.get("BUNIT", "e-/s")
    np.testing.assert_allclose(tried.facts["sky_sigma"], 3, rtol=0.03)
    # Another instrument's file is not taken for this one's.
    assert not reader.recognises(SurveyFile(exposure(tmp_path / "other.fits", INSTRUME="Other")))


def test_drafts_of_real_files_read_them(real_data, tmp_path):
    from skyfuse.survey.described.draft import draft

    names = ("c4d_170916*ooi*", "k4m_160311*ooi*", "ksb_160406*ooi*", "unwise*w1-img-m*")
    for name in names:
        (path,) = (real_data / "imaging_other").rglob(name)
        (tmp_path / "own.yaml").write_text(draft(path))
        (tried,) = try_file(described(tmp_path / "own.yaml"), path)
        # A cut of 10 x 10 pixels has too few to measure their noise.
        assert tried.what == "frame" or tried.reason == "no-noise", tried


def test_a_file_without_a_filter_or_an_image_has_no_draft(skyfuse, tmp_path):
    path = exposure(tmp_path / "night1.fits", FILTER="")
    _, err = skyfuse("new", path, fails=1)
    assert "FILTER" in err
    fits.PrimaryHDU().writeto(tmp_path / "none.fits")
    _, err = skyfuse("new", tmp_path / "none.fits", fails=1)
    assert "image" in err


def test_of_a_folder_the_files_of_the_instrument_are_tried(skyfuse, tmp_path):
    skyfuse("new", exposure(tmp_path / "night1.fits"), "-o", tmp_path / "eye.yaml")
    (tmp_path / "notes.txt").write_text("nothing of the sky")
    out, _ = skyfuse("check", tmp_path / "eye.yaml", tmp_path, "--json")
    assert [Path(file["path"]).name for file in json.loads(out)["files"]] == ["night1.fits"]
