"""Decodes image files of any kind to square uint8 arrays."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
from PIL import ExifTags, Image

from cardiff.config.sections import DataConfig
from cardiff.errors import UserError

STRIP = 2**18
"""Pixels converted at a time, so that a large picture is never held several times in wider types."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation."""


class UnreadableImage(UserError):
    """A picture cannot be decoded for the given `reason`; `data.on_error` decides what happens."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        self.without_option = f"{name} cannot be read ({reason}): repair or remove it."
        super().__init__(f"{self.without_option.removesuffix('.')}, or set data.on_error: skip.")


def name_of_row(raw: dict | None, row: int, split: str) -> str:
    """The name of a data set's picture in messages: its row and, if it has one, its path."""
    name = f"row {row} of split {split!r}"
    return f"{raw['path']} ({name})" if raw and raw["path"] else name


def decode_image(
    raw: dict | bytes | str | Path,
    config: DataConfig,
    box: Sequence[float] | None = None,
    name: str = "the image",
) -> np.ndarray:
    """Decodes one picture, crops it to `box` and makes it square according to `config.fit`.

    Transparent pictures are composited on white, and the first frame of an animation is used. 16-bit values are
    scaled by 1/257. The value of white in a 32-bit picture is inferred from its largest value: integers are taken as
    0 to 255 if none is larger, else as 0 to 65535; floats as 0 to 1 if none is larger, else as 0 to 255.

    Args:
        raw: The encoded bytes, a path or URL, or the `{"bytes", "path"}` of an undecoded `datasets.Image`.
        config: The data section; resolution, channels, fit, upscale and box_margin are used.
        box: Bounding box (x1, y1, x2, y2) in pixels of the upright picture, x2 and y2 exclusive.
        name: Name of the picture in error messages.

    Returns:
        uint8 array (C, H, W) with H = W = `config.resolution`.

    Raises:
        UnreadableImage: The picture is missing, damaged, of an unknown format or of an unknown range of values, or its
            box is empty.
        UserError: The picture is smaller than the resolution, and neither upscale nor padding is on.
    """
    picture = _in_mode(open_picture(raw, name), "L" if config.channels == 1 else "RGB")
    if box is not None:
        picture = _crop_to_box(picture, box, config.box_margin, name)
    pixels = np.asarray(_make_square(picture, config, name))  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], config.channels).transpose(2, 0, 1))


def open_picture(raw: dict | bytes | str | Path | None, name: str) -> Image.Image:
    """Loads the first frame, upright, as 8-bit greyscale or RGB without transparency."""
    encoded = (raw["path"] if raw["bytes"] is None else raw["bytes"]) if isinstance(raw, dict) else raw
    if encoded is None:
        raise UnreadableImage(name, "the row has no image")
    try:
        with _open_file(encoded) as file:
            try:
                picture = Image.open(file)
            except Image.UnidentifiedImageError:
                if (without := _png_without_exif(file)) is None:
                    raise
                picture = Image.open(without)
            picture.load()
            picture = _upright(picture)  # reassigned, so that only one copy of a large picture is kept
            return _to_8_bits(picture)
    except FileNotFoundError as error:
        raise UnreadableImage(name, "no such file") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image of a known format") from error
    except Exception as error:  # Pillow's readers raise almost any exception type on bad data
        raise UnreadableImage(name, str(error) or type(error).__name__) from error


def _open_file(raw: bytes | str | Path) -> BinaryIO:
    if isinstance(raw, bytes):
        return io.BytesIO(raw)
    if "://" in str(raw) and not os.path.exists(raw):
        with fsspec.open(raw, "rb") as file:  # streams refer to files inside archives and on the Hub
            return io.BytesIO(file.read())
    return open(raw, "rb")  # fsspec would interpret "::", "*" and "[" in the name


def _png_without_exif(file: BinaryIO) -> BinaryIO | None:
    """A PNG file without its EXIF chunk, since PIL rejects a file if only that checksum is wrong; None for others.

    A chunk of a PNG file: length (4 bytes), type (4), data, checksum (4).
    """
    file.seek(0)
    data = file.read()
    start = data.find(b"eXIf") - 4
    if not data.startswith(b"\x89PNG") or start < 0:
        return None
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    return io.BytesIO(data[:start] + data[end:])


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block does not affect the pixels
        orientation = None
    return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


def _to_8_bits(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        scale = _scale(picture)
        grey = Image.new("L", picture.size)
        for top, strip in _strips(picture):
            values = np.asarray(strip).astype(np.float64) * scale
            grey.paste(Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8)), (0, top))
        return grey
    if picture.has_transparency_data:
        flat = Image.new("RGB", picture.size)
        for top, strip in _strips(picture):
            strip = strip.convert("RGBA")
            flat.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
        return flat
    return picture if picture.mode == "L" else _in_mode(picture, "RGB")


def _scale(picture: Image.Image) -> float:
    """The factor that scales white in a 16-bit or 32-bit picture to 255."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return 1 / 257
    if picture.mode == "F" and not all(np.isfinite(np.asarray(strip)).all() for _, strip in _strips(picture)):
        raise UserError("it has infinite or undefined pixels")
    _, largest = picture.getextrema()
    if picture.mode == "F" and largest <= 1:
        return 255.0
    # Resizing floats overshoots white, but by less than a factor of 2.
    if largest <= (255 if picture.mode == "I" else 510):
        return 1.0
    if picture.mode == "I" and largest <= 65535:
        return 1 / 257
    raise UserError(f"its largest value is {largest:g}, so its range is unknown: convert it to 8 or 16 bits")


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Horizontal strips of the picture, each with its first row."""
    height = max(1, STRIP // picture.width)
    for top in range(0, picture.height, height):
        yield top, picture.crop((0, top, picture.width, min(picture.height, top + height)))


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """The picture in a mode; not copied if it already is, as `convert` would."""
    return picture if picture.mode == mode else picture.convert(mode)


def _crop_to_box(picture: Image.Image, box: Sequence[float], margin: float, name: str) -> Image.Image:
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    left, top = max(0, round(x1 - dx)), max(0, round(y1 - dy))
    right, bottom = min(picture.width, round(x2 + dx)), min(picture.height, round(y2 + dy))
    if left >= right or top >= bottom:
        size = f"{picture.width}x{picture.height}"
        raise UnreadableImage(name, f"its bounding box {list(box)} contains no pixel of the {size} picture")
    return picture.crop((left, top, right, bottom))


def _make_square(picture: Image.Image, config: DataConfig, name: str) -> Image.Image:
    """Resizes with PIL's BICUBIC, which antialiases when shrinking.

    It rings less at edges than LANCZOS, and is what the usual FID reference statistics were resized with.
    """
    side, (width, height) = config.resolution, picture.size
    if config.fit == "pad":
        scale = side / max(width, height)
        if scale < 1 or config.upscale:
            picture = picture.resize(
                (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC
            )
        square = Image.new(picture.mode, (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square

    if min(width, height) < side and not config.upscale:
        raise UserError(
            f"{name} is {width}x{height} pixels after any cropping, smaller than data.resolution {side}: "
            "set data.upscale: true or a smaller data.resolution."
        )
    if config.fit == "stretch":
        return picture.resize((side, side), Image.Resampling.BICUBIC)
    scale = side / min(width, height)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
