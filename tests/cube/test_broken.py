"""Broken inputs among good ones: each counted with its reason, every good file ingested."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skyfuse.cube.build import build
from skyfuse.cube.check import check
from skyfuse.cube.query import Cube
from skyfuse.survey import records
from tests.cube.sky import FIRST, SHAPE, field_cards, make_sky, tile_hashes
from tests.survey.files import frame_hdus, spectrum_hdus

IMAGE = np.random.default_rng(3).normal(0, 0.05, SHAPE)
NUMBERS = itertools.count(100)
"""Each file holds a frame or spectrum of its own, so that none is a duplicate before it is broken."""

BINS = np.arange(FIRST, FIRST + 500)


def frame(**options: object) -> fits.HDUList:
    """Return a frame of a field that the good sky does not hold."""
    cards = field_cards(0, "r") | {"FRAME": next(NUMBERS)}
    image = options.pop("image", IMAGE)
    return frame_hdus(image, **(cards | options))


def spectrum(**options: object) -> fits.HDUList:
    """Return a spectrum that the good sky does not hold."""
    arrays: dict[str, np.ndarray] = {
        "flux": np.ones(len(BINS), np.float32),
        "ivar": np.ones(len(BINS), np.float32),
        "loglam": (BINS * 1e-4).astype(np.float32),
    }
    cards = {"PLATEID": 99, "MJD": 55000, "FIBERID": next(NUMBERS), "PLUG_RA": 150.0, "PLUG_DEC": 2.0}
    arrays |= {name: options.pop(name) for name in list(options) if name in arrays}
    return spectrum_hdus(**arrays, **(cards | options))


def raw(hdus: fits.HDUList) -> bytes:
    buffer = io.BytesIO()
    hdus.writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def without_column(name: str) -> bytes:
    hdus = spectrum()
    columns = fits.ColDefs([column for column in hdus[1].columns if column.name != name])
    return raw(fits.HDUList([hdus[0], fits.BinTableHDU.from_columns(columns), hdus[2]]))


def zero_rows() -> bytes:
    hdus = spectrum()
    empty = fits.BinTableHDU(hdus[1].data[:0])
    return raw(fits.HDUList([hdus[0], empty, hdus[2]]))


def repeated_wavelength() -> np.ndarray:
    loglam = (BINS * 1e-4).astype(np.float32)
    loglam[250] = loglam[249]
    return loglam


def integer_image() -> bytes:
    hdus = frame()
    primary = fits.PrimaryHDU((IMAGE * 1000).astype(np.int16), hdus[0].header)
    primary.header["BSCALE"], primary.header["BZERO"] = 0.001, 0.0
    return raw(fits.HDUList([primary, *hdus[1:]]))


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    assert len(old) == len(new)
    return content.replace(old, new, 1)


def nan_wcs() -> bytes:
    card = "CRVAL1  = {:>20}"
    return patched(raw(frame(CRVAL1=150.0)), card.format("150.0").encode(), card.format("NaN").encode())


def non_ascii() -> bytes:
    card = "RUN     = {:>20}"
    return patched(raw(frame()), card.format("4510").encode(), card.format("45é ").encode("latin-1"))


def flipped() -> bytes:
    content = bytearray(bz2.compress(raw(frame())))
    content[3000:3040] = bytes(byte ^ 170 for byte in content[3000:3040])
    return bytes(content)


END = b"END".ljust(80)
OBJECT = b"OBJECT  = 'x       '".ljust(80)
NAXIS = b"NAXIS   =           4294967296".ljust(80)


def data_after(content: bytes, word: bytes) -> int:
    """Return where the data begin whose header holds a word."""
    return content.index(END, content.index(word)) // 2880 * 2880 + 2880


def without_block(content: bytes, word: bytes, number: int) -> bytes:
    at = data_after(content, word) + number * 2880
    return content[:at] + content[at + 2880 :]


def with_block(content: bytes, word: bytes, number: int) -> bytes:
    at = data_after(content, word) + number * 2880
    return content[:at] + bytes(2880) + content[at:]


def shifted_verdict() -> bytes:
    """Return a spectrum whose row of HDU 2 stands one byte late, within its own block."""
    content = raw(spectrum())
    at = data_after(content, b"ZWARNING")
    return content[:at] + b"\0" + content[at : at + 60] + content[at + 61 :]


def scaled_calibration() -> fits.HDUList:
    hdus = frame()
    hdus[1].header["BSCALE"] = 2.0
    return hdus


def loglam_from(first: float) -> np.ndarray:
    return (first + 1e-4 * np.arange(len(BINS))).astype(np.float32)


BROKEN: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "zero-length.fits": (bytes, {"empty"}),
    "cut-header.fits": (lambda: raw(frame())[:1500], {"truncated"}),
    "cut-frame-data.fits": (lambda: raw(frame())[:30_000], {"truncated"}),
    "cut-frame-tables.fits": (lambda: raw(frame())[:-4000], {"truncated"}),
    "cut-spectrum-data.fits": (lambda: raw(spectrum())[:9000], {"truncated"}),
    "noise.fits": (lambda: np.random.default_rng(0).bytes(9000), {"not-fits"}),
    "page.fits": (lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 80, {"not-fits"}),
    "table.csv": (lambda: b"plate,mjd,fiberid\n1,2,3\n", {"not-fits"}),
    "README": ("σ of the sky".encode, {"not-fits"}),
    "catalogue.fits": (lambda: raw(fits.HDUList([fits.PrimaryHDU(), spectrum()[2]])), {"unknown-kind"}),
    "plain-image.fits": (lambda: raw(fits.HDUList([fits.PrimaryHDU(IMAGE)])), {"unknown-kind"}),
    "frame-alone.fits": (lambda: raw(frame()[:1]), {"wrong-hdus"}),
    "no-sky.fits": (lambda: raw(frame()[:2]), {"wrong-hdus"}),
    "sky-of-wrong-shape.fits": (
        lambda: raw(fits.HDUList([*frame()[:2], frame(image=IMAGE[:50, :60])[2]])),
        {"wrong-hdus"},
    ),
    "short-calibration.fits": (lambda: raw(frame(calib=np.full(SHAPE[1] - 1, 0.005))), {"wrong-hdus"}),
    "negative-calibration.fits": (
        lambda: raw(frame(calib=np.full(SHAPE[1], -0.005))),
        {"no-good-pixels", "bad-values"},
    ),
    "nan-wcs.fits": (nan_wcs, {"bad-wcs"}),
    "no-wcs.fits": (lambda: raw(frame(CD1_1=None)), {"bad-wcs"}),
    "singular-wcs.fits": (lambda: raw(frame(CD1_1=1e-4, CD1_2=1e-4, CD2_1=1e-4, CD2_2=1e-4)), {"bad-wcs"}),
    "counts.fits": (lambda: raw(frame(BUNIT="DN")), {"wrong-unit"}),
    "band-y.fits": (lambda: raw(frame(FILTER="y")), {"unknown-band"}),
    "camcol-9.fits": (lambda: raw(frame(CAMCOL=9)), {"bad-values"}),
    "no-time.fits": (lambda: raw(frame(TAI=None)), {"missing-keyword"}),
    "integers.fits": (integer_image, {"wrong-hdus"}),
    "all-nan.fits": (lambda: raw(frame(image=np.full(SHAPE, np.nan))), {"no-good-pixels"}),
    "non-ascii-run.fits": (non_ascii, {"damaged"}),
    "spectrum-alone.fits": (lambda: raw(spectrum()[:2]), {"wrong-hdus"}),
    "no-ivar.fits": (lambda: without_column("ivar"), {"wrong-hdus"}),
    "zero-rows.fits": (zero_rows, {"wrong-hdus"}),
    "ivar-zero.fits": (lambda: raw(spectrum(ivar=np.zeros(len(BINS), np.float32))), {"no-good-pixels"}),
    "ivar-negative.fits": (
        lambda: raw(spectrum(ivar=np.full(len(BINS), -1, np.float32))),
        {"no-good-pixels"},
    ),
    "wavelengths-repeat.fits": (lambda: raw(spectrum(loglam=repeated_wavelength())), {"bad-values"}),
    "wavelengths-nan.fits": (
        lambda: raw(spectrum(loglam=np.full(len(BINS), np.nan, np.float32))),
        {"bad-values"},
    ),
    "no-position.fits": (lambda: raw(spectrum(PLUG_RA=None)), {"missing-keyword"}),
    "off-the-sky.fits": (lambda: raw(spectrum(PLUG_RA=400.0)), {"bad-values"}),
    "sky-fibre.fits": (lambda: raw(spectrum(verdict={"SOURCETYPE": "SKY"})), {"sky-fibre"}),
    "cut.fits.bz2": (lambda: bz2.compress(raw(frame()))[:-2000], {"truncated"}),
    "flipped.fits.bz2": (flipped, {"truncated", "not-fits"}),
    "noise.fits.bz2": (lambda: bz2.compress(b"no FITS " * 900), {"not-fits"}),
    "noise.fits.gz": (lambda: gzip.compress(b"no FITS " * 900), {"not-fits"}),
    "cut.fits.gz": (lambda: gzip.compress(raw(spectrum()))[:-300], {"truncated"}),
    "fake.fits.bz2": (lambda: b"BZh9" + b"\0" * 4000, {"truncated"}),
    "bomb.fits.bz2": (lambda: bz2.compress(raw(frame())) + 80 * bz2.compress(bytes(1 << 20)), {"too-large"}),
    "one-byte-more.fits": (lambda: raw(spectrum()) + b"\0", {"damaged"}),
    "one-block-more.fits": (lambda: raw(frame()) + bytes(2880), {"damaged"}),
    "lost-block-of-the-sky.fits": (
        lambda: without_block(raw(frame()), b"YINTERP", 1),
        {"damaged", "truncated"},
    ),
    "block-inserted.fits": (lambda: with_block(raw(spectrum()), b"TTYPE4", 2), {"damaged", "truncated"}),
    "shifted-verdict.fits": (shifted_verdict, {"bad-values"}),
    "lower-case-end.fits": (lambda: patched(raw(spectrum()), END, END.lower()), {"damaged", "truncated"}),
    "NAXIS-twice.fits": (lambda: patched(raw(frame(OBJECT="x")), OBJECT, NAXIS), {"damaged"}),
    "scaled-calibration.fits": (lambda: raw(scaled_calibration()), {"wrong-hdus"}),
    "bright-sky.fits": (lambda: raw(frame(sky=np.full((14, 18), 1e6, np.float32))), {"bad-values"}),
    "sky-off-its-samples.fits": (lambda: raw(frame(x=np.full(SHAPE[1], 1e9))), {"bad-values"}),
    "three-hdus.fits": (lambda: raw(frame()[:3]), {"wrong-hdus"}),
    "plate-of-20-digits.fits": (lambda: raw(spectrum(PLATEID=10**19)), {"bad-values"}),
    "fibre-of-20-digits.fits": (lambda: raw(spectrum(FIBERID=-(10**19))), {"bad-values"}),
    "run-of-20-digits.fits": (lambda: raw(frame(RUN=10**19)), {"bad-values"}),
    "mjd-1e294.fits": (lambda: raw(spectrum(MJD=1e294)), {"bad-values"}),
    "mjd-negative.fits": (lambda: raw(spectrum(MJD=-55000)), {"bad-values"}),
    "ra-4639.fits": (lambda: raw(spectrum(PLUG_RA=4639.0)), {"bad-values"}),
    "z-1e30.fits": (lambda: raw(spectrum(verdict={"Z": 1e30})), {"bad-values"}),
    "galax.fits": (lambda: raw(spectrum(verdict={"CLASS": "_GALAX"})), {"bad-values"}),
    "below-the-grid.fits": (lambda: raw(spectrum(loglam=loglam_from(3.2))), {"outside-grid"}),
    "above-the-grid.fits": (lambda: raw(spectrum(loglam=loglam_from(3.96))), {"outside-grid"}),
    "nothing-valid-on-the-grid.fits": (
        lambda: raw(spectrum(loglam=loglam_from(3.56), ivar=(np.arange(len(BINS)) < 50).astype(float))),
        {"outside-grid"},
    ),
    "wide.fits": (lambda: raw(frame(image=np.zeros((1, 30_000)))), {"wrong-hdus"}),
    "lookup-table.fits": (lambda: raw(frame(CPDIS1="LOOKUP")), {"bad-wcs"}),
}
"""Name of the file, how it is made, and the reasons under which it may be counted."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, object]:
    folder = tmp_path_factory.mktemp("broken")
    sky = make_sky(folder / "sky")
    good = tile_hashes(build([sky], folder / "good.cube", workers=1).out)
    for number, (name, (make, _)) in enumerate(BROKEN.items()):
        # Among the good ones, before and after them in the order of the walk.
        place = sky / ("photo" if number % 2 else "a")
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(make())
    copy = sky / "photo" / "frame-r-004510-4-0001-again.fits"
    copy.write_bytes((sky / "photo" / "frame-r-004510-4-0001.fits").read_bytes())
    (sky / "x.fits").mkdir()
    (sky / "dangling.fits").symlink_to(sky / "nowhere.fits")
    (sky / "loop.fits").symlink_to(sky / "loop.fits")
    os.mkfifo(sky / "pipe.fits")
    report = build([sky], folder / "broken.cube", workers=1)
    return folder, sky, (report, good)


def test_every_broken_file_is_counted_under_a_clear_reason(result) -> None:
    folder, _, (report, _) = result
    counted = {Path(reject.path).name: reject for reject in report.rejects}
    assert BROKEN.keys() - counted.keys() == set()
    for name, (_, reasons) in BROKEN.items():
        assert counted[name].reason in reasons, counted[name]
    for name in ("x.fits", "dangling.fits", "loop.fits", "pipe.fits"):
        assert counted[name].reason == "unreadable"
    assert counted["frame-r-004510-4-0001.fits"].reason == "duplicate"
    assert len(counted) == len(report.rejects) == len(BROKEN) + 5
    assert sum(report.rejected.values()) == len(report.rejects)
    assert report.asked == report.ingested + len(report.rejects)
    table = pd.read_parquet(folder / "broken.cube" / "ledger" / "rejects.parquet")
    assert len(table) == len(report.rejects)


def test_every_message_names_the_file_and_a_remedy(result) -> None:
    for reject in result[2][0].rejects:
        assert reject.message.startswith(reject.path)
        assert ";" in reject.message
        assert "\n" not in reject.message


def test_every_good_file_is_ingested_to_the_same_bytes(result) -> None:
    folder, _, (report, good) = result
    assert report.ingested == 24
    assert tile_hashes(folder / "broken.cube") == good
    assert check(folder / "broken.cube") == []


def test_a_duplicate_names_the_file_that_was_kept(result) -> None:
    (duplicate,) = [reject for reject in result[2][0].rejects if reject.reason == "duplicate"]
    # '-' stands before '.' in the order of paths, so that the copy is the first.
    assert Path(duplicate.path).name == "frame-r-004510-4-0001.fits"
    assert (
        "as " + str(result[1] / "photo" / "frame-r-004510-4-0001-again.fits") + " does" in duplicate.message
    )
    frames = Cube.open(result[0] / "broken.cube").frames
    assert (frames["frame_id"] == "sdss-4510-4-1-r").sum() == 1


def test_a_broken_file_never_shadows_a_whole_one_with_the_same_content(tmp_path: Path) -> None:
    sky = make_sky(tmp_path / "sky")
    expected = tile_hashes(build([sky], tmp_path / "good.cube", workers=1).out)
    for name in ("photo/frame-r-004510-4-0001.fits", "spectro/spec-0001-55000-0005.fits"):
        content = (sky / name).read_bytes()
        (sky / "0").mkdir(exist_ok=True)
        (sky / "0" / Path(name).name).write_bytes(content[: len(content) - 9000])
    report = build([sky], tmp_path / "c.cube", workers=1)
    assert (report.ingested, report.rejected) == (24, {"truncated": 2})
    assert tile_hashes(report.out) == expected
    assert build([sky], tmp_path / "c.cube", workers=1).built == 0


def test_names_that_are_no_utf8_are_as_good_as_others(tmp_path: Path) -> None:
    sky = make_sky(tmp_path / "sky")
    expected = tile_hashes(build([sky], tmp_path / "good.cube", workers=1).out)
    for name in ("photo/frame-r-004510-4-0001.fits", "spectro/spec-0001-55000-0005.fits"):
        (sky / name).rename(os.fsdecode(os.fsencode(sky / name)[:-5] + b"-\xe9\xff.fits"))
    (sky / os.fsdecode(b"bad-\xe9.fits")).write_bytes(b"no FITS" * 999)
    (sky / os.fsdecode(b"dangling-\xe9.fits")).symlink_to(sky / "nowhere.fits")
    report = build([sky], tmp_path / "c.cube", workers=1)
    assert (report.ingested, report.rejected) == (24, {"not-fits": 1, "unreadable": 1})
    assert tile_hashes(report.out) == expected
    cube = Cube.open(report.out)
    assert "spec-0001-55000-0005-\\udce9\\udcff.fits" in set(cube.spectra["file"])
    assert "frame-r-004510-4-0001-\\udce9\\udcff.fits" in set(cube.frames["file"])
    rejects = pd.read_parquet(report.out / "ledger" / "rejects.parquet")
    assert rejects["path"].str.endswith("bad-\\udce9.fits").sum() == 1
    assert rejects["message"].str.contains("dangling-\\udce9.fits", regex=False).sum() == 1
    assert build([sky], tmp_path / "c.cube", workers=1).built == 0


def test_an_unforeseen_exception_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skyfuse.survey.sdss.spectra import SpectrumReader, read_spectrum

    sky = make_sky(tmp_path / "sky")

    def failing(path: Path, **options: bool) -> records.Spectrum:
        if path.name == "spec-0001-55000-0005.fits":
            raise ZeroDivisionError("of all\nthings")
        return read_spectrum(path, **options)

    monkeypatch.setattr(SpectrumReader, "spectrum", staticmethod(failing))
    report = build([sky], tmp_path / "c.cube", workers=1)
    assert report.rejected == {"unreadable": 1}
    assert "ZeroDivisionError: of all things" in report.rejects[0].message
    assert (report.spectra, report.objects) == (8, 6)
    assert check(tmp_path / "c.cube") == []
