"""PNG to pixels: libspng where it is installed and knows the kind, Pillow otherwise; the same pixels bit for bit."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

try:
    import pyspng
except ImportError:  # no wheel for this machine: slower, and nothing else differs
    pyspng = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">8s4x4sIIBB2xB")
"""Signature, IHDR, width, height, bits, colour type, interlacing."""
RGB = 2
MAX_PIXELS = 1 << 26
"""Largest picture decoded, pixels (192 MiB as RGB): a damaged or hostile header cannot ask for more memory."""


class PngHeader(NamedTuple):
    """What the first bytes of a PNG say; no pixel is inflated for it."""

    width: int
    height: int
    bits: int
    colour_type: int
    interlaced: int

    @property
    def is_plain_rgb(self) -> bool:
        """8 bits, RGB, rows in order."""
        return (self.bits, self.colour_type, self.interlaced) == (8, RGB, 0)


def read_png_header(payload: bytes) -> PngHeader:
    """Raises ValueError for what does not begin like a PNG."""
    if len(payload) >= HEADER.size:
        signature, chunk, *header = HEADER.unpack_from(payload)
        if signature == SIGNATURE and chunk == b"IHDR":
            return PngHeader(*header)
    raise ValueError("it does not begin like a PNG")


def decode_png(payload: bytes) -> np.ndarray:
    """uint8 [height, width, 3] of an RGB picture; other kinds as Pillow converts them to RGB.

    Raises ValueError for what is not a whole PNG or has more than MAX_PIXELS pixels. Whether every byte is right, the
    checksum of the shard tells.
    """
    header = read_png_header(payload)
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"{header.width}x{header.height} pixels are more than {MAX_PIXELS}")
    try:
        # 2 to 4 times as fast as Pillow on small pictures (benchmarks/data_loading.py).
        if pyspng is not None and header.is_plain_rgb:
            return pyspng.load(payload, format="RGB")
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as image:
            return np.array(image.convert("RGB"))
    except (ValueError, OSError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise ValueError(f"its pixels cannot be read ({error})") from None
