"""Pictures from outside: what is already PNG, JPEG or WebP stays byte for byte, everything else becomes PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.sources.png import decode_plain, plain_size

MAX_PICTURE_PIXELS = 1 << 26
"""Largest picture that is decoded (192 MiB as RGB): a decompression bomb is refused by its header."""
KEPT_FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
READ_FORMATS = (*KEPT_FORMATS, "BMP", "GIF", "TIFF", "PPM")
"""Formats of pixels alone: none that starts another program or reads another file."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
ORIENTATION_TAG = 0x0112

PictureFormat = Literal["keep", "png"]
Result = TypeVar("Result")


def encode_picture(payload: bytes, format: PictureFormat = "keep") -> tuple[str, bytes, tuple[int, int]]:
    """(field, payload, (height, width)) of a picture, decoded once to the last pixel to know that it can be.

    Raises ValueError for what is not a readable picture or has more than MAX_PICTURE_PIXELS.
    """
    return _safely(lambda file: _encode(file, payload, format), payload)


def decode_picture(payload: bytes) -> np.ndarray:
    """uint8 [height, width, 3], upright, on white where it is transparent. Raises ValueError as `encode_picture`."""
    size = plain_size(payload)
    if size is not None and size[0] * size[1] <= MAX_PICTURE_PIXELS:
        pixels = decode_plain(payload)
        if pixels is not None:
            return pixels
    return _safely(_decode, payload)


def picture_size(payload: bytes) -> tuple[int, int] | None:
    """(height, width) from the header alone; None when there is no such header."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(payload), formats=READ_FORMATS) as image:
            warnings.simplefilter("ignore")
            return image.height, image.width
    except Exception:  # as above
        return None


def _safely(use: Callable[[Image.Image], Result], payload: bytes) -> Result:
    """`use` of the picture, whose pixels are there. Raises ValueError for whatever goes wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's advice about odd files: what counts is whether pixels come out
            with Image.open(io.BytesIO(payload), formats=READ_FORMATS) as image:
                if image.width * image.height > MAX_PICTURE_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PICTURE_PIXELS}")
                image.load()
                return use(image)
    except Exception as error:  # decoders fed with hostile bytes raise nearly anything
        what = str(error).split(" <_io", 1)[0]  # not where in memory it lay
        raise ValueError(f"not a readable picture ({len(payload)} bytes, {type(error).__name__}: {what})") from None


def _decode(image: Image.Image) -> np.ndarray:
    return np.asarray(_plain_pixels(ImageOps.exif_transpose(image)).convert("RGB"))


def _encode(image: Image.Image, payload: bytes, format: PictureFormat) -> tuple[str, bytes, tuple[int, int]]:
    upright = image.getexif().get(ORIENTATION_TAG, 1) == 1
    plain = image.mode in ("RGB", "L") and getattr(image, "n_frames", 1) == 1 and upright
    if plain and image.format in KEPT_FORMATS and (format == "keep" or image.format == "PNG"):
        return KEPT_FORMATS[image.format], payload, (image.height, image.width)
    pixels = ImageOps.exif_transpose(image)
    pixels = pixels if plain else _plain_pixels(pixels)
    png = io.BytesIO()
    # A new image: no text, profile or time of the old one comes along.
    Image.fromarray(np.asarray(pixels)).save(png, format="PNG", compress_level=6)
    return "png", png.getvalue(), (pixels.height, pixels.width)


def _plain_pixels(image: Image.Image) -> Image.Image:
    """As RGB or grey of 8 bits; what is transparent lies on white."""
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if image.mode in ("RGB", "L") and not transparent:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of kind {image.mode} have no known range")
    if transparent:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
