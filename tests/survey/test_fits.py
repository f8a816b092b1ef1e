"""The small FITS reader against astropy, and against damage of every kind."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.io.fits.verify import VerifyError
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.sdss.frames import read_frame
from skyfuse.survey.sdss.spectra import read_spectrum
from tests.survey.files import read_any, recognise

from .files import frame_hdus, spectrum_hdus, write_lamost


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


def one_column(path, name, form, array, **options) -> bytes:
    column = astropy_fits.Column(name, form, array=array, **options)
    table = astropy_fits.BinTableHDU.from_columns([column])
    return bytes_of(astropy_fits.HDUList([astropy_fits.PrimaryHDU(), table]), path)


@pytest.mark.parametrize("card", ["TSCAL1  = 0.5", "TZERO1  = 3.0", "TZERO1  = 32768"])
def test_scaled_columns_are_refused(tmp_path, card):
    content = one_column(tmp_path / "t.fits", "flux", "J", np.array([1, 2]), unit="m")
    at = content.index(b"TUNIT1")
    content = content[:at] + card.ljust(80).encode() + content[at + 80 :]
    with pytest.raises(FileError, match="scaled"):
        fits.table(content, fits.parse(content, tmp_path)[1], tmp_path, {"FLUX": "i"})


@pytest.mark.parametrize(("form", "bits"), [("I", 16), ("J", 32), ("K", 64)])
def test_unsigned_columns_keep_every_bit(tmp_path, form, bits):
    array = np.array([0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1], f"u{bits // 8}")
    content = one_column(tmp_path / "t.fits", "and_mask", form, array, bzero=2 ** (bits - 1))
    read = fits.table(content, fits.parse(content, tmp_path)[1], tmp_path, {"AND_MASK": "iu"})["AND_MASK"]
    assert read.dtype == array.dtype
    assert read.tolist() == array.tolist()


def test_a_file_is_whole_blocks_to_its_last_byte(tmp_path):
    content = bytes_of(astropy_fits.HDUList([astropy_fits.PrimaryHDU(np.ones(3))]), tmp_path / "t.fits")
    assert len(fits.parse(content, tmp_path)) == 1
    for changed, reason in (
        (content + b"\0" * 2880, "damaged"),
        (content + b"\0", "damaged"),
        (content[:-1], "truncated"),
        (content[: 2880 + 24], "truncated"),
        (content[:-1] + b"\1", "damaged"),
        (b"", "empty"),
    ):
        with pytest.raises(FileError) as caught:
            fits.parse(changed, tmp_path)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BITPIX  =                  -64", "BITPIX  =                  -63"),
        ("BITPIX  =                  -64", "bITPIX  =                  -64"),
        ("NAXIS   =                    1", "NAXIS   =           4294967296"),
        ("NAXIS1  =                    3", "NAXIS2  =                    3"),
        ("NAXIS1  =                    3", "NAXIS1  =%                   3"),
        ("SIMPLE  =                    T", "SIMPLE  =                    F"),
        ("OBJECT  = 'M 31    '", "NAXIS   =            2"),
        ("OBJECT  = 'M 31    '", "OBJECT  = 'M\t31'"),
        ("OBJECT  = 'M 31    '", "OBJECT  = 'M\xff31'"),
        ("END    ", "END   x"),
        ("END" + " " * 77, "end" + " " * 77),
    ],
)
def test_headers_follow_the_standard(tmp_path, old, new):
    hdu = astropy_fits.PrimaryHDU(np.ones(3))
    hdu.header["OBJECT"] = "M 31"
    content = bytes_of(astropy_fits.HDUList([hdu]), tmp_path / "t.fits")
    at = content.index(old.encode())
    new = new.ljust(len(old)).encode("latin-1")
    changed = content[:at] + new + content[at + len(new) :]
    assert len(changed) == len(content)
    with pytest.raises(FileError) as caught:
        fits.parse(changed, tmp_path)
    assert caught.value.reason in ("damaged", "truncated")


@pytest.mark.parametrize("key", ["TDIM1", "TNULL1", "TSCAL1", "TZERO1", "TUNIT1", "TDISP1", "TCRVL1"])
def test_what_columns_are_told_can_be_read(tmp_path, key):
    table = astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("a", "3J", array=np.ones((2, 3)))])
    table.header[key] = "here"
    content = bytes_of(astropy_fits.HDUList([astropy_fits.PrimaryHDU(), table]), tmp_path / "t.fits")
    at = content.index(f"{key:<8}= ".encode())

    def changed(card):
        return content[:at] + f"{key:<8}={card}".ljust(80).encode() + content[at + 80 :]

    sound = [" '(3)'", " 'it''s' / of 3", " 5", " -1.5D3 / a", " T", " (1.0, -2)", " ", " / none"]
    broken = [" '(3", " nan", " 12 x", " 1 2", " (1.0)", " 1E400E", " '(120)   '     x"]
    for card in sound:
        assert fits.parse(changed(card), tmp_path)[1].header.get(key) is not None
    for card in broken:
        with pytest.raises(VerifyError):
            astropy_fits.Card.fromstring(f"{key:<8}={card}").value  # noqa: B018
        with pytest.raises(FileError, match=f"HDU 1 gives {key} a value that cannot be read"):
            fits.parse(changed(card), tmp_path)
    # Here astropy sees one text, or another one.
    for card in (" '(3)'  'x'", "%5", "'(3)'"):
        with pytest.raises(FileError, match=f"HDU 1 gives {key} a value that cannot be read"):
            fits.parse(changed(card), tmp_path)


def test_without_the_blank_after_its_sign_a_text_is_none(tmp_path):
    header = fits.Header(b"OBJECT  ='M 31'".ljust(80) + b"NUMBER  =%  5".ljust(80))
    assert not header.is_quoted("OBJECT")
    with pytest.raises(FileError, match="NUMBER"):
        fits.number(header, "NUMBER", tmp_path)


def test_a_keyword_may_stand_twice_only_with_one_value(tmp_path):
    hdu = astropy_fits.PrimaryHDU(np.ones(3))
    hdu.header.append(("OBJECT", "a"))
    hdu.header.append(("OBJECT", "b"))
    hdu.header.append(("BITPIX", -64, "again"))
    content = bytes_of(astropy_fits.HDUList([hdu]), tmp_path / "t.fits")
    (found,) = fits.parse(content, tmp_path)
    assert found.header.contradicted == {"OBJECT"}
    with pytest.raises(FileError, match="OBJECT twice"):
        fits.require_one_voice(found.header, tmp_path)


def test_checksums_are_verified_where_given(tmp_path):
    rng = np.random.default_rng(0)
    hdus = astropy_fits.HDUList(
        [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(rng.normal(size=(40, 50)).astype(np.float32))]
    )
    path = tmp_path / "t.fits"
    hdus.writeto(path, checksum=True)
    content = path.read_bytes()
    assert len(fits.parse(content, path)) == 2
    for at in rng.integers(2 * 2880, 2 * 2880 + 8000, 20):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(FileError, match="DATASUM"):
            fits.parse(bytes(changed), path)
    with pytest.raises(FileError, match="CHECKSUM"):
        fits.parse(content.replace(b"Image extension", b"image extension"), path)


@pytest.mark.parametrize("text", ["1_000", "1e5x", "0x10", "infinity", "T", "--1", ""])
def test_what_is_no_number_of_the_standard_is_none(tmp_path, text):
    header = fits.Header(f"KEY     = {text}".ljust(80).encode())
    with pytest.raises(FileError) as caught:
        fits.number(header, "KEY", tmp_path)
    assert caught.value.reason == "bad-values"


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_integers_are_never_rounded(tmp_path, value):
    header = fits.Header(
        f"KEY     = {value:>20}".ljust(80).encode() + f"TEXT    = '{value}'".ljust(80).encode()
    )
    assert fits.integer(header, "KEY", tmp_path) == fits.integer(header, "TEXT", tmp_path) == value
    beyond = fits.Header(f"KEY     = {value * 4:>20}".ljust(80).encode())
    if abs(value) > 2**61:
        with pytest.raises(FileError, match="from -9223372036854775808"):
            fits.integer(beyond, "KEY", tmp_path)


def test_bombs_stop_at_the_bound(tmp_path):
    path = tmp_path / "bomb.fits"
    for compress in (bz2.compress, gzip.compress):
        path.write_bytes(compress(bytes(64 << 20)))
        tracemalloc.start()
        with pytest.raises(FileError) as caught:
            fits.read_bytes(path, most=8 << 20)
        assert caught.value.reason == "too-large"
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
        tracemalloc.stop()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileError, match="MiB"):
        fits.read_bytes(path)


LOGLAM = (35800 + np.arange(60)) * 1e-4


@pytest.mark.parametrize(
    "name", ["hang.fits", "lamost-block-inserted.fits", "spec-1byte-hdu2.fits", "spec-END-hdu2.fits"]
)
def test_files_that_were_damaged_behind_their_first_header_are_refused(real_data, name):
    path = real_data.parent / "cases" / "broken" / name
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    with pytest.raises(FileError) as caught:
        read_any(path)
    assert caught.value.reason == "damaged"


WAVES = (35835 + np.arange(3000)) * 1e-4


def small(kind: str, path) -> bytes:
    """Return a file of a kind, its data several blocks long and different from block to block."""
    rng = np.random.default_rng(4)
    if kind == "frame":
        return bytes_of(frame_hdus(rng.normal(0.1, 0.05, (60, 70)), RADECSYS="ICRS"), path)
    flux, ivar = rng.normal(5, 1, 3000), rng.uniform(1, 2, 3000)
    if kind == "spectrum":
        agreeing = {"PLATE": 266, "MJD": 51602, "FIBERID": 31}
        return bytes_of(spectrum_hdus(flux, ivar, WAVES, verdict=agreeing), path)
    return write_lamost(path, flux, ivar, COEFF0=3.5835).read_bytes()


def values_of(path, kind: str) -> list[object]:
    if kind == "frame":
        frame = read_frame(path)
        return [frame.info, frame.sky_sigma, frame.value.tobytes(), frame.sigma.tobytes()]
    one = read_any(path)
    return [one.info, one.catalogue, one.wavelength.tobytes(), one.flux.tobytes(), one.sigma.tobytes()]


OPERATIONS = {
    "drop": lambda c, at, n: c[:at] + c[at + n :],
    "repeat": lambda c, at, n: c[: at + n] + c[at:],
    "cut": lambda c, at, n: c[:at],
    "insert-zeros": lambda c, at, n: c[:at] + bytes(n) + c[at:],
    "insert-blanks": lambda c, at, n: c[:at] + b" " * n + c[at:],
    "insert-noise": lambda c, at, n: c[:at] + np.random.default_rng(at).bytes(n) + c[at:],
    "swap": lambda c, at, n: c[:at] + c[at + n : at + 2 * n] + c[at : at + n] + c[at + 2 * n :],
}


@pytest.mark.parametrize("kind", ["frame", "spectrum", "lamost"])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "swap"])
@pytest.mark.parametrize("size", [2880, 80, 1])
def test_what_is_lost_or_added_anywhere_is_told_or_changes_no_value(tmp_path, kind, operation, size):
    path = tmp_path / "f.fits"
    content = small(kind, path)
    whole = values_of(path, kind)
    step = 2880 if size == 2880 else 1440 + size
    refused = 0
    for at in range(0, len(content), step):
        path.write_bytes(OPERATIONS[operation](content, at, size))
        try:
            assert values_of(path, kind) == whole, at
        except FileError:
            refused += 1
    # What may pass is a header that repeats its cards, has more blank ones or lost some without a meaning.
    assert refused > 0.7 * len(range(0, len(content), step))


@pytest.mark.parametrize("kind", ["frame", "spectrum", "lamost"])
def test_what_moves_across_a_border_is_told(tmp_path, kind):
    """Blocks that change places within one HDU's data cannot be told; all others can."""
    path = tmp_path / "f.fits"
    content = small(kind, path)
    whole = values_of(path, kind)
    inside = {
        at for hdu in fits.parse(content, path) for at in range(hdu.start, hdu.stop - 2 * 2880 + 1, 2880)
    }
    for at in range(0, len(content) - 2880, 2880):
        path.write_bytes(OPERATIONS["swap"](content, at, 2880))
        try:
            assert at in inside or values_of(path, kind) == whole, at
        except FileError:
            continue


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


def test_headers_of_a_file_that_claims_more_than_any_can_hold_are_read(tmp_path):
    path = tmp_path / "huge.fits"
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(np.ones(9)), astropy_fits.ImageHDU(np.ones(9))]).writeto(
        path
    )
    card = b"NAXIS1  =  9223372036854775807"
    content = path.read_bytes().replace(b"NAXIS1  =                    9", card, 1)
    path.write_bytes(content)
    assert len(fits.read_headers(path)) == 1
    with pytest.raises(FileError) as raised:
        fits.read(path)
    assert raised.value.reason == "truncated"
    for sums in (False, True):
        with pytest.raises(FileError):
            fits.parse(fits.OnDisk(path), path, sums=sums)


def test_a_file_read_on_demand_gives_the_bytes_and_the_hash_of_the_whole(tmp_path):
    path = tmp_path / "s.fits"
    spectrum_hdus(np.ones(3000), np.ones(3000), 3.6 + 1e-4 * np.arange(3000)).writeto(path, checksum=True)
    content, hdus, sha256 = fits.read(path)
    on_disk = fits.OnDisk(path)
    assert len(on_disk) == len(content)
    assert on_disk[100:5000] == bytes(content[100:5000])
    assert on_disk.sha256() == sha256
    assert [hdu.start for hdu in fits.parse(on_disk, path)] == [hdu.start for hdu in hdus]
    flipped = bytearray(content)
    flipped[hdus[1].start] ^= 1
    path.write_bytes(flipped)
    fits.parse(fits.OnDisk(path), path, sums=False)
    with pytest.raises(FileError, match="DATASUM of HDU 1"):
        fits.parse(fits.OnDisk(path), path)


def test_a_packed_image_that_astropy_takes_for_a_table_is_refused(tmp_path):
    path = tmp_path / "p.fits"
    packed = astropy_fits.CompImageHDU(np.ones((24, 30), np.float32), compression_type="GZIP_1")
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), packed]).writeto(path)
    content, hdus, _ = fits.read_on_demand(path)
    assert fits.image(content, hdus, 1, path).shape == (24, 30)
    card = b"ZTENSION= 'IMAGE   '"
    path.write_bytes(path.read_bytes().replace(card, b"ZTENSION=".ljust(len(card) - 4) + b"-inf"))
    content, hdus, _ = fits.read_on_demand(path)
    with pytest.raises(FileError, match="HDU 1 holds is not the image") as caught:
        fits.image(content, hdus, 1, path)
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("value", ["null", "true", "'S1      ' \"", "S1"])
def test_a_name_of_an_hdu_that_cannot_be_read_is_damage(tmp_path, value):
    path = tmp_path / "n.fits"
    hdus = [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(np.ones(9), name="S1")]
    astropy_fits.HDUList(hdus).writeto(path)
    content = path.read_bytes()
    place = content.index(b"EXTNAME =")
    card = f"EXTNAME = {value}".encode().ljust(80)
    path.write_bytes(content[:place] + card + content[place + 80 :])
    for read in (fits.read, fits.read_headers):
        with pytest.raises(FileError, match="HDU 1 gives EXTNAME a value that cannot be read"):
            read(path)
    # Without a value it is not given.
    path.write_bytes(content[:place] + b"EXTNAME =".ljust(80) + content[place + 80 :])
    assert len(fits.read_headers(path)) == 2
