"""Folders of images: averaged, turned and scaled as they mean; what cannot be read told."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skyfuse.errors import DataError
from skyfuse.survey.colourimages import read_images
from skyfuse.survey.tables import read_table


@pytest.fixture
def folder(tmp_path):
    for kind, value in (("spirals", 255), ("other", 0)):
        (tmp_path / kind).mkdir()
        for number in range(2):
            pixels = np.zeros((8, 12, 3), np.uint8)
            pixels[:, 2:10, 0] = value
            pixels[:4, 2:6, 2] = 100
            Image.fromarray(pixels).save(tmp_path / kind / f"{kind}{number}.png")
    (tmp_path / "other" / "cut.png").write_bytes((tmp_path / "other" / "other0.png").read_bytes()[:60])
    (tmp_path / "other" / "text.jpg").write_text("no image")
    (tmp_path / "other" / ".hidden.png").write_text("no image")
    (tmp_path / "other" / "empty.jpeg").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "other.tif")
    return tmp_path


def test_images_are_averaged_over_area_and_damaged_ones_told(folder):
    images = read_images(folder, 2)
    assert images.table["name"].tolist() == ["other0", "other1", "spirals0", "spirals1"]
    assert images.table["folder"].tolist() == ["other", "other", "spirals", "spirals"]
    loaded = images.load()
    assert loaded.shape == (4, 3, 2, 2)
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded[2, 0], 1)
    np.testing.assert_allclose(loaded[:, 2, 0, 0], 100 / 255)
    np.testing.assert_allclose(loaded[:, 2, 1], 0)
    np.testing.assert_array_equal(images.load([3, 0]), loaded[[3, 0]])
    assert {path.rpartition("/")[2] for path in images.damaged} == {
        *("cut.png", "text.jpg", "empty.jpeg", "other.tif"),
    }
    assert all("\n" not in line and path in line for path, line in images.damaged.items())


def test_jpegs_cut_off_are_told(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    images = read_images([tmp_path / "a.jpg", tmp_path / "b.jpg"], 4)
    assert [path.name for path in images.paths] == ["a.jpg"]
    assert len(images.damaged) == 1


def test_a_lost_link_counts_as_damaged_and_names_that_are_no_text_are_told_as_codes(tmp_path):
    Image.new("RGB", (9, 9), (9, 9, 9)).save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes((tmp_path / "a.png").read_bytes())
    images = read_images(tmp_path, 4)
    assert list(images.damaged) == [str(tmp_path / "gone.png")]
    assert list(images.table["name"]) == ["a", "\\udcff"]
    images.table.to_parquet(tmp_path / "table.parquet")
    assert list(images.rows_of(pd.DataFrame({"name": ["a"]}))) == [0, -1]


def test_grey_images_get_three_equal_channels(tmp_path):
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_images(tmp_path, 2).load(), 0.2)


def test_labels_join_by_whatever_column_names_the_images(folder):
    images = read_images(folder, 2)
    labels = pd.DataFrame(
        {"n": range(4), "path": [f"any/where/{name}.png" for name in ("spirals1", "x", "other0", "other0")]}
    )
    joined = images.join(labels)
    assert joined["image"].tolist() == [0, 3]
    assert joined["n"].tolist() == [2, 0]
    assert list(joined.columns) == ["image", "name", "file", "folder", "n", "path"]
    with pytest.raises(DataError, match="names any"):
        images.join(pd.DataFrame({"a": ["x"]}))


def test_folders_without_images_are_told(tmp_path):
    with pytest.raises(DataError, match="no image that can be read"):
        read_images(tmp_path, 8)
    with pytest.raises(DataError, match="is no folder"):
        read_images(tmp_path / "absent", 8)


@pytest.mark.parametrize(("name", "rows"), [("galaxy_challenge_jpg", 400), ("gz1_sdss_jpeg", 211)])
def test_real_images(real_data, name, rows):
    images = read_images(real_data / name, 16)
    assert len(images) == rows
    assert images.damaged == {}
    assert len(images.join(read_table(real_data / name / "labels.csv"))) == rows
    loaded = images.load(range(5))
    assert 0 <= loaded.min() < loaded.max() <= 1


def write_png(path, samples, kind):
    """Write a PNG of 16 bits by hand (kind 0 grey, 2 colour, 4 grey and alpha, 6 colour and alpha)."""
    height, width = samples.shape[:2]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_images_of_16_bits_keep_their_scale(tmp_path, kind, channels):
    samples = np.full((4, 4, channels), 65535)
    samples[:, :, 0] = np.arange(16).reshape(4, 4) * 4096
    write_png(tmp_path / "a.png", samples, kind)
    loaded = read_images(tmp_path, 2).load()[0]
    blocks = samples[:, :, 0].reshape(2, 2, 2, 2).mean(axis=(1, 3)) / 65535
    # Pillow keeps 8 of the bits of all but grey ones.
    np.testing.assert_allclose(loaded[0], blocks, atol=1e-6 if kind == 0 else 1 / 255)
    if channels < 3:
        np.testing.assert_array_equal(loaded[0], loaded[2])


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_turned_as_their_exif_says(tmp_path, turn):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4, :4, 0], upright[:4, 4:, 1], upright[4:, :4, 2] = 240, 240, 240
    # How each value of the tag says that the pixels are stored (EXIF 2.32, Orientation).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[turn]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(tmp_path / "a.png", exif=exif)
    expected = upright.reshape(2, 4, 2, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(read_images(tmp_path, 2).load()[0], expected, atol=1e-6)


def test_images_of_every_mode_show_the_same(tmp_path):
    pixels = np.full((8, 8, 3), 200, np.uint8)
    pixels[:, :4] = 40
    colour = Image.fromarray(pixels)
    for mode in ("RGB", "L", "P", "RGBA", "LA"):
        colour.convert(mode).save(tmp_path / f"{mode}.png")
    colour.convert("CMYK").save(tmp_path / "CMYK.jpg", quality=100)
    colour.convert("1", dither=Image.Dither.NONE).save(tmp_path / "one.png")
    images = read_images(tmp_path, 2)
    for path, loaded in zip(images.paths, images.load(), strict=True):
        wanted = (0, 1) if path.stem == "one" else (40 / 255, 200 / 255)
        np.testing.assert_allclose(loaded, np.broadcast_to(wanted, (3, 2, 2)), atol=0.02, err_msg=path.name)


def test_what_is_transparent_is_dark(tmp_path):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, :2, 3] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_allclose(read_images(tmp_path, 2).load()[0], np.broadcast_to([0, 1], (3, 2, 2)))


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_images_too_large_are_told_before_they_are_read(tmp_path, side):
    write_png(tmp_path / "a.png", np.zeros((4, 4)), 0)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    write_png(tmp_path / "b.png", np.zeros((4, 4)), 0)
    images = read_images(tmp_path, 2)
    assert [path.name for path in images.paths] == ["b.png"]
    assert "more than 50,000,000 pixels; cut out" in images.damaged[str(tmp_path / "a.png")]
