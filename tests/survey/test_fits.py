"""The small FITS reader against astropy, and against damage of every kind."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.recognise import recognise
from skyfuse.survey.sdss import read_frame, read_spectrum

from .files import frame_hdus, spectrum_hdus


def bytes_of(hdus: astropy_fits.HDUList, path) -> bytes:
    hdus.writeto(path, overwrite=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("'text    '           / comment", "text"),
        ("'it''s / no comment'", "it's / no comment"),
        ("''", ""),
        ("                  -32 / bits", -32),
        ("      4586229007.28 / TAI", 4586229007.28),
        ("   1.78098032636E-05 /", 1.78098032636e-05),
        ("   1.5D3", 1500.0),
        ("                   T / yes", True),
        ("                   F", False),
    ],
)
def test_values_of_cards(card, value):
    header = fits.Header(f"KEY     = {card}".ljust(80).encode() + b"KEY     = 'second'".ljust(80))
    assert header["KEY"] == value
    assert type(header["KEY"]) is type(value)
    assert list(header) == ["KEY"]


def test_hdus_and_columns_equal_those_of_astropy(tmp_path):
    rng = np.random.default_rng(1)
    columns = [
        astropy_fits.Column("flags", "11X", array=rng.random((3, 11)) > 0.5),
        astropy_fits.Column("Flux", "E", array=rng.normal(size=3)),
        astropy_fits.Column("text", "5A", array=["a", "bc", "defgh"]),
        astropy_fits.Column("ragged", "PE()", array=np.array([[1.0], [1.0, 2.0], []], dtype=object)),
        astropy_fits.Column("vector", "4D", array=rng.normal(size=(3, 4))),
        astropy_fits.Column("yes", "L", array=[True, False, True]),
        astropy_fits.Column("number", "K", array=[1, -2, 2**60]),
    ]
    table = astropy_fits.BinTableHDU.from_columns(columns)
    image = astropy_fits.ImageHDU(rng.normal(size=(5, 7)))
    hdus = astropy_fits.HDUList([astropy_fits.PrimaryHDU(), table, image])
    path = tmp_path / "t.fits"
    content = bytes_of(hdus, path)
    found = fits.parse(content, path)
    assert len(found) == 3
    np.testing.assert_array_equal(
        np.frombuffer(content, ">f8", 35, found[2].start).reshape(5, 7), hdus[2].data
    )
    wanted = {"FLUX": "f", "TEXT": "S", "VECTOR": "f", "NUMBER": "i", "ABSENT": "f"}
    read = fits.table(content, found[1], path, wanted)
    assert set(read) == {"FLUX", "TEXT", "VECTOR", "NUMBER"}
    np.testing.assert_array_equal(read["FLUX"], table.data["Flux"])
    np.testing.assert_array_equal(read["VECTOR"], table.data["vector"])
    np.testing.assert_array_equal(read["NUMBER"], table.data["number"])
    assert read["TEXT"].tolist() == [b"a", b"bc", b"defgh"]
    with pytest.raises(FileError, match="FLUX"):
        fits.table(content, found[1], path, {"FLUX": "i"})


def test_scaled_columns_are_refused(tmp_path):
    column = astropy_fits.Column("flux", "J", bzero=2**31, array=np.array([1, 2], np.uint32))
    hdus = astropy_fits.HDUList([astropy_fits.PrimaryHDU(), astropy_fits.BinTableHDU.from_columns([column])])
    path = tmp_path / "t.fits"
    content = bytes_of(hdus, path)
    with pytest.raises(FileError, match="scaled"):
        fits.table(content, fits.parse(content, path)[1], path, {"FLUX": "i"})


def test_what_follows_the_last_hdu_is_left_alone(tmp_path):
    path = tmp_path / "t.fits"
    content = bytes_of(astropy_fits.HDUList([astropy_fits.PrimaryHDU(np.ones(3))]), path)
    assert len(fits.parse(content + b"\0" * 2880, path)) == 1
    # Without the padding of the last HDU nothing is lost.
    assert len(fits.parse(content[: 2880 + 24], path)) == 1
    with pytest.raises(FileError) as caught:
        fits.parse(content[: 2880 + 23], path)
    assert caught.value.reason == "truncated"


LOGLAM = (35800 + np.arange(60)) * 1e-4


@pytest.mark.parametrize("kind", ["frame", "spectrum"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_survived_or_told(tmp_path_factory, kind, data):
    """Whatever bytes change or are cut off, the file is read or refused by a FileError."""
    path = tmp_path_factory.mktemp("damage") / "f.fits"
    hdus = frame_hdus(np.ones((6, 8))) if kind == "frame" else spectrum_hdus(LOGLAM, np.ones(60), LOGLAM)
    content = bytearray(bytes_of(hdus, path))
    cards = [at for at in range(0, len(content), 80) if content[at + 8 : at + 10] == b"= "]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(cards)) + data.draw(st.integers(0, 31))
        content[at] = data.draw(st.sampled_from(b" 0123456789-+.EDTF'/=AZaz\xff\x00"))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content)] * 4 + [len(content) // 2]))])
    for read in (recognise, read_frame if kind == "frame" else read_spectrum):
        with contextlib.suppress(FileError):
            read(path)
