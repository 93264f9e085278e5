"""How far a dreamed picture is from the real one, for a person who looks at both."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

PATCH_PIXELS = 8
VISIBLE_DIFFERENCE = 13.0
"""Mean absolute difference of a patch, of 255, from which on a person sees it. On the demo's held-out frames the image
tokenizer alone stays below 11.7 and the smallest change that a step makes is 14.7."""
PNG_COMPRESS_LEVEL = 1
"""The fastest: pictures are small and go a short way."""
MOST_PSNR = 99.0


def psnr(dreamed: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures, at most MOST_PSNR (equal ones have no bound)."""
    error = float(np.mean((dreamed.astype(np.float32) - real.astype(np.float32)) ** 2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, round(10 * float(np.log10(255.0**2 / error)), 1))


def differs_visibly(dreamed: np.ndarray, real: np.ndarray) -> bool:
    """Whether some patch of PATCH_PIXELS x PATCH_PIXELS pixels looks different.

    A whole picture's PSNR tells little of it: an agent on the wrong cell of a grid changes two patches in sixty-four.
    """
    error = np.abs(dreamed.astype(np.float32) - real.astype(np.float32)).mean(axis=-1)
    height, width = (side - side % PATCH_PIXELS for side in error.shape)
    if not height or not width:
        return bool(error.mean() > VISIBLE_DIFFERENCE)
    patches = error[:height, :width].reshape(height // PATCH_PIXELS, PATCH_PIXELS, width // PATCH_PIXELS, PATCH_PIXELS)
    return bool(patches.mean(axis=(1, 3)).max() > VISIBLE_DIFFERENCE)


def encode_png(picture: np.ndarray) -> bytes:
    """A picture uint8 [height, width, 3], exactly."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG", compress_level=PNG_COMPRESS_LEVEL)
    return file.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """The reverse of `encode_png`."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image)
