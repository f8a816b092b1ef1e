from __future__ import annotations

import bz2
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skyfuse.errors import FileError
from skyfuse.fetch import checks
from skyfuse.fetch.checks import check
from skyfuse.fetch.ledger import Wanted
from tests.fetch.standin import spectra

PAGE = b"<!DOCTYPE html>\n<html><body>Service unavailable</body></html>"


def wanted(name: str, kind: str = "table", **more: object) -> Wanted:
    return Wanted(name, f"http://archive/{name}", kind, **more)


def verdict(folder: Path, content: bytes, asked: Wanted) -> str:
    """Return the reason for which a content is refused, or "good"."""
    place = folder / "part"
    place.write_bytes(content)
    try:
        check(place, asked)
    except FileError as error:
        return error.reason
    return "good"


def picture(form: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(content, form)
    return content.getvalue()


GOOD = {
    "a.csv": b'id,name\n1,a\n2,"b,\nc"\n',
    "b.csv": b"#Table1\nid,name\n1,a\n",
    "c.csv.gz": gzip.compress(b"id,name\n1,a\n"),
    "d.jpg": picture("JPEG"),
    "e.dat": b"anything",
}


@pytest.mark.parametrize("name", GOOD)
def test_whole_files_pass(tmp_path: Path, name: str) -> None:
    assert verdict(tmp_path, GOOD[name], wanted(name)) == "good"


@pytest.mark.parametrize("name", GOOD)
def test_an_error_page_and_an_empty_file_are_told_whatever_was_asked_for(tmp_path: Path, name: str) -> None:
    assert verdict(tmp_path, PAGE, wanted(name)) == "html-page"
    assert verdict(tmp_path, b"\n " + PAGE.upper(), wanted(name)) == "html-page"
    assert verdict(tmp_path, b"", wanted(name)) == "empty"


def test_cut_files_are_told(tmp_path: Path) -> None:
    # In the CSV the cut falls within the last row, before its second field.
    assert verdict(tmp_path, GOOD["a.csv"][: GOOD["a.csv"].rindex(b',"')], wanted("a.csv")) == "truncated"
    for name, kind in (("c.csv.gz", "table"), ("d.jpg", "image")):
        assert verdict(tmp_path, GOOD[name][:-5], wanted(name, kind)) == "truncated"


def test_other_formats_are_told(tmp_path: Path, model: bytes) -> None:
    assert verdict(tmp_path, picture("PNG"), wanted("a.fits")) == "not-fits"
    assert verdict(tmp_path, model, wanted("no-name", "image")) == "not-jpeg"
    assert verdict(tmp_path, b"# only a remark\n", wanted("a.csv")) == "not-csv"
    assert verdict(tmp_path, b"a" * 200_000, wanted("a.csv")) == "not-csv"


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
def test_a_spectrum_is_known_by_its_header(tmp_path: Path, model: bytes, squeeze: type) -> None:
    content = squeeze(spectra.spectrum(model, 266, 51630, 3))
    right = {"PLATEID": 266, "MJD": 51630.0, "FIBERID": 3}
    assert verdict(tmp_path, content, wanted("a", "spectrum", expect=right)) == "good"
    for key in right:
        asked = wanted("a", "spectrum", expect=right | {key: 4})
        assert verdict(tmp_path, content, asked) == "wrong-object"
    assert verdict(tmp_path, content, wanted("a", "spectrum", expect={"RUN": 94})) == "wrong-object"
    assert verdict(tmp_path, content, wanted("a", "spectrum", expect={"EXTEND": "True"})) == "good"
    assert verdict(tmp_path, content, wanted("a", "spectrum", expect={"EXTEND": "no"})) == "wrong-object"


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_fits_file_cut_anywhere_is_told(
    tmp_path_factory: pytest.TempPathFactory, model: bytes, cut: float
) -> None:
    content = model[: 6 + int(cut * (len(model) - 6))]
    reason = verdict(tmp_path_factory.getbasetemp(), content, wanted("a", "spectrum"))
    # A piece of the next header is no end, and no header either.
    assert reason in ("truncated", "wrong-hdus", "damaged")


def test_a_published_checksum_must_agree_and_then_vouches_for_the_rest(tmp_path: Path, model: bytes) -> None:
    content = bz2.compress(model)
    for algorithm in ("sha1", "md5", "sha256"):
        published = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        (tmp_path / "part").write_bytes(content)
        upper = f"{algorithm}:{published.partition(':')[2].upper()}"
        asked = wanted("a.fits.bz2", "frame", checksum=upper, expect={"MJD": 0})
        assert check(tmp_path / "part", asked) == published
    asked = wanted("a.fits.bz2", "frame", checksum="sha1:" + "0" * 40)
    assert verdict(tmp_path, content, asked) == "wrong-checksum"
    assert verdict(tmp_path, content[:-9], asked) == "truncated"


def test_without_a_published_checksum_its_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert check(tmp_path / "part", wanted("a.dat")) == f"sha256:{known}"


def test_the_size_that_the_archive_states_must_agree(tmp_path: Path) -> None:
    assert verdict(tmp_path, b"abc", wanted("a.dat", bytes=3)) == "good"
    assert verdict(tmp_path, b"abc", wanted("a.dat", bytes=4)) == "wrong-size"


def test_what_swells_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.MOST, "table", 1 << 20)
    bomb = gzip.compress(bytes(1 << 23))
    assert len(bomb) < 10_000
    assert verdict(tmp_path, bomb, wanted("a.fits.gz")) == "too-large"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_real_files_pass(real_data: Path) -> None:
    def first(pattern: str) -> list[Path]:
        return sorted(real_data.glob(pattern))[:3]

    frames, spectra_ = first("sdss_frames/frame-*.bz2"), first("sdss_spectra/**/spec-*.fits")
    pictures = first("gz1_sdss_jpeg/**/*.jpg") + first("galaxy_challenge_jpg/**/*.jpg")
    assert frames
    assert spectra_
    assert pictures
    for kind, paths in (("frame", frames[:1]), ("spectrum", spectra_), ("image", pictures)):
        for path in paths:
            assert check(path, wanted(path.name, kind)).startswith("sha256:")
