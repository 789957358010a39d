"""From the bytes of a picture of any kind to a square uint8 array."""

import io
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np
from PIL import Image, ImageOps

from cardiff.config import DataConfig


class UnreadableImage(ValueError):
    """A picture that cannot be decoded; `reason` says why, and `data.on_error` what follows."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be read ({reason}): repair or remove it, or set data.on_error: skip.")
        self.name = name
        self.reason = reason


def decode_image(
    raw: dict | bytes | str | Path,
    config: DataConfig,
    box: Sequence[float] | None = None,
    name: str = "the image",
) -> np.ndarray:
    """Decodes one picture, cuts it to `box` and makes it square as `config.fit` says.

    Transparent pictures are laid on white, 16-bit values are scaled by 1/257, floats are taken as 0 to 1 (or 0 to 255
    if any is above 1), and of an animation the first frame is taken.

    Args:
        raw: The encoded bytes, a path or URL, or the `{"bytes", "path"}` of an undecoded `datasets.Image`.
        config: The data section; resolution, channels, fit, upscale and box_margin are read.
        box: Bounding box (x1, y1, x2, y2) in pixels of the upright picture, x2 and y2 exclusive.
        name: What error messages call the picture.

    Returns:
        uint8 array (C, H, W) with H = W = `config.resolution`.

    Raises:
        UnreadableImage: if the picture is missing, damaged, of an unknown kind, or its box is empty.
        ValueError: if it is smaller than the resolution and may be neither enlarged nor padded.
    """
    picture = open_picture(raw, name).convert("L" if config.channels == 1 else "RGB")
    if box is not None:
        picture = _crop_to_box(picture, box, config.box_margin, name)
    pixels = np.asarray(_make_square(picture, config, name))  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], config.channels).transpose(2, 0, 1))


def open_picture(raw, name: str) -> Image.Image:
    """Loads the first frame, upright, as 8-bit grey or RGB without transparency."""
    if isinstance(raw, dict):
        raw = raw["path"] if raw["bytes"] is None else raw["bytes"]
    if raw is None:
        raise UnreadableImage(name, "the row has no image")
    try:
        if not isinstance(raw, bytes):
            with fsspec.open(raw, "rb") as file:  # streams name files inside archives and on the Hub
                raw = file.read()
        picture = Image.open(io.BytesIO(raw))
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        return _to_8_bits(picture)
    except FileNotFoundError as error:
        raise UnreadableImage(name, "no such file") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image of a known format") from error
    except Exception as error:  # Pillow's readers raise nearly every type on bad bytes
        raise UnreadableImage(name, str(error) or type(error).__name__) from error


def _to_8_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # PIL's own conversion clips at 255. 257 takes 65535 to 255 exactly.
        values = np.asarray(picture).astype(np.float64) / 257
    elif picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it has infinite or undefined pixels")
        if values.max() <= 1:
            values = values * 255
    else:
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        return picture if picture.mode == "L" else picture.convert("RGB")
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _crop_to_box(picture: Image.Image, box: Sequence[float], margin: float, name: str) -> Image.Image:
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    left, top = max(0, round(x1 - dx)), max(0, round(y1 - dy))
    right, bottom = min(picture.width, round(x2 + dx)), min(picture.height, round(y2 + dy))
    if left >= right or top >= bottom:
        size = f"{picture.width}x{picture.height}"
        raise UnreadableImage(name, f"its bounding box {list(box)} holds no pixel of the {size} picture")
    return picture.crop((left, top, right, bottom))


def _make_square(picture: Image.Image, config: DataConfig, name: str) -> Image.Image:
    """Resizes with BICUBIC, which PIL widens to antialias when it shrinks.

    It rings less at edges than LANCZOS, and it is the resize of the usual FID reference statistics.
    """
    side, (width, height) = config.resolution, picture.size
    if config.fit == "pad":
        scale = side / max(width, height)
        if scale < 1 or config.upscale:
            picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.BICUBIC)
        square = Image.new(picture.mode, (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square

    if min(width, height) < side and not config.upscale:
        raise ValueError(
            f"{name} is {width}x{height} pixels where it is used, smaller than data.resolution {side}: "
            "set data.upscale: true or a smaller data.resolution."
        )
    if config.fit == "stretch":
        return picture.resize((side, side), Image.BICUBIC)
    scale = side / min(width, height)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
