"""Plain PNGs through libspng: small ones are read and decoded 1.65 times as fast (`benchmarks/data_loading.py`)."""

from __future__ import annotations

import struct
import zlib

import numpy as np

try:
    import pyspng
except ImportError:  # no wheel for this machine: Pillow reads these pictures as well
    pyspng = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">IIBBBBB")
"""IHDR: width, height, bits, colour type, compression, filter, interlacing."""
PLAIN_RGB = (8, 2, 0, 0, 0)
CHUNK = struct.Struct(">I4s")
CHECKSUM = struct.Struct(">I")
PIXELS_ALONE = {b"IHDR", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME", b"tEXt"}
"""Chunks that leave the pixels as they are stored: nothing transparent, turned or moving."""


def plain_size(payload: bytes) -> tuple[int, int] | None:
    """(height, width) of a whole PNG of 8-bit RGB and nothing else that matters; None of anything else.

    The checksum of every chunk is tried: libspng accepts some damage that Pillow does not.
    """
    if pyspng is None or not payload.startswith(SIGNATURE):
        return None
    size, at = None, len(SIGNATURE)
    view = memoryview(payload)
    while at + CHUNK.size + CHECKSUM.size <= len(payload):
        length, kind = CHUNK.unpack_from(payload, at)
        end = at + CHUNK.size + length
        if kind not in PIXELS_ALONE or end + CHECKSUM.size > len(payload):
            return None
        if CHECKSUM.unpack_from(payload, end)[0] != zlib.crc32(view[at + 4 : end]):
            return None
        if kind == b"IHDR":
            if length != HEADER.size:
                return None
            width, height, *about = HEADER.unpack_from(payload, at + CHUNK.size)
            size = (height, width) if tuple(about) == PLAIN_RGB else None
        elif kind == b"IEND":
            return size
        at = end + CHECKSUM.size
    return None


def decode_plain(payload: bytes) -> np.ndarray | None:
    """uint8 [height, width, 3] of a payload that has a `plain_size`; None when its pixels cannot be inflated."""
    assert pyspng is not None
    try:
        return pyspng.load(payload, format="RGB")
    except (ValueError, RuntimeError):
        return None
