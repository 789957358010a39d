import io
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import UnreadableImage, decode_image
from cardiff.data.decode import open_picture
from cardiff.errors import UserError


def encode(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def config(resolution=2, channels=3, **fields):
    return DataConfig(resolution=resolution, channels=channels, **fields)


def decode(picture, format="PNG", channels=3, **options):
    """Decodes a 2 x 2 picture without resizing."""
    return decode_image(encode(picture, format, **options), config(channels=channels))


RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], dtype=np.uint8)  # (2, 2, 3)
GREY = np.array([[0, 80], [160, 255]], dtype=np.uint8)


def test_rgb():
    image = decode(Image.fromarray(RGB))
    assert image.shape == (3, 2, 2) and image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, RGB.transpose(2, 0, 1))


def test_grey():
    np.testing.assert_array_equal(decode(Image.fromarray(GREY)), np.stack([GREY] * 3))
    np.testing.assert_array_equal(decode(Image.fromarray(GREY), channels=1), GREY[None])


def test_rgb_to_grey_is_luma():
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B.
    expected = [[[76, 150], [29, 18]]]
    np.testing.assert_array_equal(decode(Image.fromarray(RGB), channels=1), expected)


def test_bilevel():
    picture = Image.fromarray(GREY > 100)
    assert picture.mode == "1"
    np.testing.assert_array_equal(decode(picture, channels=1), [[[0, 0], [255, 255]]])


def palette_picture():
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8)).convert("L")
    picture.putpalette(RGB.tobytes())
    assert picture.mode == "P"
    return picture


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(format):
    np.testing.assert_array_equal(decode(palette_picture(), format), RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(format):
    expected = RGB.copy()
    expected[1, 0] = 255  # colour 2, laid on white
    np.testing.assert_array_equal(decode(palette_picture(), format, transparency=2), expected.transpose(2, 0, 1))


def test_palette_with_partial_transparency():
    image = decode(palette_picture(), transparency=bytes([255, 51, 0, 255]))
    np.testing.assert_array_equal(image[:, 0, 1], [204, 255, 204])  # a fifth of green on white
    np.testing.assert_array_equal(image[:, 1, 0], [255, 255, 255])


def test_rgba_on_white():
    alpha = np.array([[255, 51], [0, 255]], dtype=np.uint8)
    image = decode(Image.fromarray(np.dstack([RGB, alpha])))
    expected = [[[255, 0, 0], [204, 255, 204]], [[255, 255, 255], [10, 20, 30]]]
    np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)


def test_grey_with_alpha_on_white():
    picture = Image.merge("LA", [Image.fromarray(a) for a in (GREY, np.array([[51, 255], [0, 255]], dtype=np.uint8))])
    np.testing.assert_array_equal(decode(picture, channels=1), [[[204, 80], [255, 255]]])


def test_grey_with_a_transparent_value():
    np.testing.assert_array_equal(decode(Image.fromarray(GREY), channels=1, transparency=80), [[[0, 255], [160, 255]]])


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk(format):
    # (C, M, Y, K) -> (255 - C) (255 - K) / 255 and so on; one colour per picture, which JPEG keeps exactly.
    for cmyk, rgb in (((0, 0, 0, 0), 255), ((255, 255, 255, 0), 0), ((0, 0, 0, 255), 0), ((0, 0, 0, 155), 100)):
        image = decode(Image.new("CMYK", (2, 2), cmyk), format)
        np.testing.assert_array_equal(image, np.full((3, 2, 2), rgb))


@pytest.mark.parametrize("dtype, format", [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF")])
def test_16_bits_are_scaled(dtype, format):
    picture = Image.fromarray(np.array([[0, 257], [32896, 65535]], dtype=dtype))
    assert picture.mode in ("I;16", "I;16B", "I")
    np.testing.assert_array_equal(decode(picture, format, channels=1), [[[0, 1], [128, 255]]])


def test_float():
    share = np.array([[0, 0.2], [0.6, 1]], dtype=np.float32)
    np.testing.assert_array_equal(decode(Image.fromarray(share), "TIFF", channels=1), [[[0, 51], [153, 255]]])
    np.testing.assert_array_equal(decode(Image.fromarray(share * 255), "TIFF", channels=1), [[[0, 51], [153, 255]]])
    share[0, 0] = np.nan
    with pytest.raises(UnreadableImage, match="infinite or undefined pixels"):
        decode(Image.fromarray(share), "TIFF")


@pytest.mark.parametrize(
    "values, expected",
    [
        ([[0, 1], [128, 255]], [[0, 1], [128, 255]]),  # 8 bits in 32
        ([[0, 257], [514, 256]], [[0, 1], [2, 1]]),  # 16 bits in 32
        ([[-5, 80], [160, 255]], [[0, 80], [160, 255]]),
    ],
)
def test_32_bits(values, expected):
    picture = Image.fromarray(np.array(values, dtype=np.int32))
    assert picture.mode == "I"
    np.testing.assert_array_equal(decode(picture, "TIFF", channels=1), [expected])


@pytest.mark.parametrize("values, reason", [(65536, "largest value is 65536"), (2**31 - 1, "largest value is 2.147")])
def test_32_bits_of_an_unknown_scale(values, reason):
    for array in (np.full((2, 2), values, np.int32), np.full((2, 2), values, np.float32)):
        with pytest.raises(UnreadableImage, match=rf"{reason}.*: convert it to 8 or 16 bits"):
            decode(Image.fromarray(array), "TIFF")


@pytest.mark.parametrize("format", ["PNG", "PPM"])
def test_a_dark_picture_of_16_bits_stays_dark(format):
    picture = Image.fromarray(np.array([[0, 128], [129, 255]], dtype=np.uint16))
    np.testing.assert_array_equal(decode(picture, format, channels=1), [[[0, 0], [1, 1]]])


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode(frames[0], format, save_all=True, append_images=frames[1:], duration=100, **options)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), np.full((2, 2, 3), [255, 0, 0]))


@pytest.mark.parametrize(
    "orientation, expected",
    [(1, [[0, 80], [160, 255]]), (2, [[80, 0], [255, 160]]), (3, [[255, 160], [80, 0]]), (6, [[160, 0], [255, 80]])],
)
@pytest.mark.parametrize("dtype, scale", [(np.uint8, 1), (np.uint16, 257)])
def test_exif_orientation(orientation, expected, dtype, scale):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(GREY.astype(dtype) * dtype(scale))
    np.testing.assert_array_equal(decode(picture, channels=1, exif=exif), [expected])


def tiff(*tags):
    """A grey 2 x 2 TIFF with these tags (number, type, count, value) beside the necessary ones."""
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), *tags]
    tags = sorted([*tags, (277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, 4)])
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 12) + GREY.tobytes() + directory


ROTATED = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "exif, rotated",
    [
        (b"Exif\0\0junkjunk", False),
        (b"junk", False),
        (b"Exif\0\0II*\0", False),
        (b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0", False),  # "abc" for a number
        (ROTATED, True),  # ends in the middle of its second entry
        (ROTATED + b"\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0", True),  # a directory beyond the end
        (ROTATED + b"\x00\x01\x02\0\x04\0\0\0abc\0\0\0\0\0", True),  # text where PIL would write a number
    ],
)
def test_damaged_exif(format, exif, rotated):
    expected = GREY // 2 * 2
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    image = decode(Image.fromarray(expected), format, channels=1, exif=exif, **options)[0]
    expected = np.rot90(expected, -1) if rotated else expected
    np.testing.assert_allclose(image.astype(int), expected, atol=3 if format == "JPEG" else 1)


def test_damaged_checksum_of_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encode(Image.fromarray(GREY), exif=exif))
    checksum = data.find(b"eXIf") + 4 + int.from_bytes(data[data.find(b"eXIf") - 4 :][:4], "big")
    data[checksum] ^= 255
    np.testing.assert_array_equal(decode_image(bytes(data), config(channels=1)), GREY[None])
    data[data.find(b"IHDR") + 5] ^= 255  # the size is not for sure either
    with pytest.raises(UnreadableImage, match="not an image of a known format"):
        decode_image(bytes(data), config(channels=1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("tag", [(0x8769, 4, 1, 2**31 - 1), (0x8769, 4, 1, 3), (0x8769, 2, 4, 0x41414141)])
def test_damaged_exif_of_a_tiff(tag):
    np.testing.assert_array_equal(decode_image(tiff(tag), config(channels=1)), GREY[None])
    rotated = decode_image(tiff(tag, (274, 3, 1, 6)), config(channels=1))
    np.testing.assert_array_equal(rotated, np.rot90(GREY, -1)[None])


@pytest.mark.parametrize("name", ["a::b.png", "*.png", "[x].png", "?", "zip:x.png", "-a.png", "a b\nc.png", "file:"])
def test_local_names_are_taken_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(encode(Image.fromarray(RGB)))
    for path in (name, str(tmp_path / name), tmp_path / name):
        np.testing.assert_array_equal(decode_image(path, config()), RGB.transpose(2, 0, 1))


def test_a_picture_in_an_archive(tmp_path):
    """As streams name it."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/x.png", encode(Image.fromarray(RGB)))
    image = decode_image(f"zip://in/x.png::{tmp_path}/a.zip", config())
    np.testing.assert_array_equal(image, RGB.transpose(2, 0, 1))


def large(mode):
    """A picture of 6 million pixels, more than are converted at a time, and what it should come out as, (H, W, 3)."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (2000, 3000), dtype=np.uint8)
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray(grey[::-1].copy())
        picture = Image.merge(mode, [Image.fromarray(grey)] * (len(mode) - 1) + [alpha])
        white = Image.new("RGBA", picture.size, "white")
        return picture, np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))
    expected = np.repeat(grey[..., None], 3, axis=2)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257), expected
    if mode in ("I", "F"):
        return Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32)), expected
    return Image.fromarray(expected), expected


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of the memory is Linux's")
@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize("mode, most", [("RGB", 9), ("RGBA", 9), ("LA", 9), ("I;16", 5), ("I", 9), ("F", 9)])
def test_large_pictures(tmp_path, mode, most, orientation):
    """Converted in parts: the same pixels, and at most so many bytes of memory for each of them."""
    picture, expected = large(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "large.tif", exif=exif)
    expected = expected[::-1, ::-1] if orientation == 3 else expected
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "large.tif", "").convert("RGB")), expected)
    pixels = picture.width * picture.height
    del picture, expected

    def memory(name):
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    decode_image(tmp_path / "large.tif", config(resolution=8))
    assert memory("VmHWM") - before < most * pixels + 2**24


def test_raw_forms(tmp_path):
    data = encode(Image.fromarray(RGB))
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    for raw in (data, path, str(path), {"bytes": data, "path": "b.png"}, {"bytes": None, "path": str(path)}):
        np.testing.assert_array_equal(decode_image(raw, config()), RGB.transpose(2, 0, 1))


# A 4 x 6 (high x wide) picture whose columns and rows tell where a cut was made.
WIDE = (np.arange(4)[:, None] * 10 + np.arange(6)).astype(np.uint8)


def fitted(pixels, resolution, **fields):
    return decode_image(encode(Image.fromarray(pixels)), config(resolution, channels=1, **fields))[0]


def test_crop_cuts_the_middle():
    np.testing.assert_array_equal(fitted(WIDE, 4, fit="crop"), WIDE[:, 1:5])
    np.testing.assert_array_equal(fitted(WIDE.T.copy(), 4, fit="crop"), WIDE.T[1:5])


def test_crop_resizes_the_short_side():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((14, 10), Image.BICUBIC))[:, 2:12]
    np.testing.assert_array_equal(fitted(pixels, 10, fit="crop"), expected)


def test_shrinking_averages():
    # Without antialiasing a checkerboard would come out as one of its two colours.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert set(np.unique(fitted(board, 4))) <= {127, 128}


def test_stretch():
    expected = Image.fromarray(WIDE).resize((2, 2), Image.BICUBIC)
    np.testing.assert_array_equal(fitted(WIDE, 2, fit="stretch"), expected)


def test_pad_smaller_picture():
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[2:6, 1:7] = WIDE
    np.testing.assert_array_equal(fitted(WIDE, 8, fit="pad"), expected)


def test_pad_larger_picture():
    expected = np.zeros((3, 3), dtype=np.uint8)
    expected[0:2] = Image.fromarray(WIDE).resize((3, 2), Image.BICUBIC)
    np.testing.assert_array_equal(fitted(WIDE, 3, fit="pad"), expected)


def test_upscale():
    small = np.full((2, 3), 7, np.uint8)
    np.testing.assert_array_equal(fitted(small, 8, fit="crop", upscale=True), np.full((8, 8), 7))
    padded = np.zeros((9, 9))
    padded[1:7] = 7
    np.testing.assert_array_equal(fitted(small, 9, fit="pad", upscale=True), padded)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_small_pictures_are_refused(fit):
    with pytest.raises(UserError, match="cat.png is 6x4 pixels .* data.resolution 5: set data.upscale") as info:
        decode_image(encode(Image.fromarray(WIDE)), config(5, fit=fit), name="cat.png")
    assert not isinstance(info.value, UnreadableImage)  # not to be skipped silently


def test_box():
    scan = np.arange(200, dtype=np.uint8).reshape(10, 20)

    def cut(box, margin, resolution=4):
        fields = config(resolution, channels=1, crop_to_box=True, box_margin=margin)
        return decode_image(encode(Image.fromarray(scan)), fields, box=box)[0]

    np.testing.assert_array_equal(cut((3, 2, 7, 6), 0.0), scan[2:6, 3:7])
    np.testing.assert_array_equal(cut((3, 2, 7, 6), 0.25, 6), scan[1:7, 2:8])
    # The margin ends at the edge of the picture.
    np.testing.assert_array_equal(cut((0, 0, 4, 4), 0.5, 6), scan[0:6, 0:6])
    np.testing.assert_array_equal(cut((16, 6, 20, 10), 0.5, 6), scan[4:10, 14:20])
    with pytest.raises(UserError, match="is 4x4 pixels after any cropping, smaller than data.resolution 5"):
        cut((3, 2, 7, 6), 0.0, 5)
    for empty in ((5, 5, 5, 8), (30, 2, 34, 6)):
        with pytest.raises(UnreadableImage, match="contains no pixel of the 20x10 picture"):
            cut(empty, 0.0)


def test_the_margin_of_a_box_is_a_share_of_its_own_sides():
    """A tall box in a wide picture and the other way round: neither x and y nor width and height are exchanged."""
    scan = np.arange(240, dtype=np.uint8).reshape(12, 20)

    def cut(pixels, box, margin, resolution):
        fields = config(resolution, channels=1, fit="pad", crop_to_box=True, box_margin=margin)
        return decode_image(encode(Image.fromarray(pixels)), fields, box=box)[0]

    # A quarter of 2 columns and of 8 rows on each side: half a column, which rounds outwards here, and 2 rows.
    np.testing.assert_array_equal(cut(scan, (9, 2, 11, 10), 0.25, 12), np.pad(scan[0:12, 8:12], ((0, 0), (4, 4))))
    np.testing.assert_array_equal(cut(scan.T.copy(), (2, 9, 10, 11), 0.25, 12), np.pad(scan.T[8:12], ((4, 4), (0, 0))))
    # Beyond the edges on all four sides.
    np.testing.assert_array_equal(cut(scan, (0, 0, 20, 12), 0.5, 20), np.pad(scan, ((4, 4), (0, 0))))


def test_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg, png = (encode(Image.fromarray(noise), format) for format in ("JPEG", "PNG"))
    for raw, reason in (
        (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"),
        (b"not a picture", "not an image of a known format"),
        (b"", "not an image of a known format"),
        (None, "the row has no image"),
        ({"bytes": None, "path": None}, "the row has no image"),
        (tmp_path / "absent.png", "no such file"),
    ):
        with pytest.raises(UnreadableImage, match=rf"^img 3 cannot be read \(.*{reason}.*\): repair or remove it"):
            decode_image(raw, config(), name="img 3")
