"""PSNR and SSIM of picture sets."""

from __future__ import annotations

import math

import numpy as np
from skimage.metrics import structural_similarity


def psnr(pictures: np.ndarray, references: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 [n, height, width, 3], from the mean squared error of the whole set.

    Pooling the error keeps frames that are exactly right (infinite by themselves) from deciding the mean.
    """
    return decibels(float(squared_errors(pictures, references).sum()) / pictures.size)


def decibels(mean_squared_error: float) -> float:
    """10 log10(255^2 / error); infinite for no error."""
    return math.inf if mean_squared_error == 0 else 10 * math.log10(255.0**2 / mean_squared_error)


def squared_errors(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """float64 [n]: the summed squared error of every picture of uint8 [n, height, width, 3]."""
    return np.sum((pictures.astype(np.float64) - references.astype(np.float64)) ** 2, axis=(1, 2, 3))


def ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """float64 [n]: structural similarity (Wang et al. 2004, Gaussian window) of uint8 [n, height, width, 3]."""
    return np.array(
        [
            structural_similarity(a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
            for a, b in zip(pictures, references, strict=True)
        ]
    )


def patch_means(frames: np.ndarray, patch_pixels: int) -> np.ndarray:
    """Frames with every patch replaced by its mean colour: the plainest picture with one value per token."""
    n, height, width, channels = frames.shape
    rows, columns = height // patch_pixels, width // patch_pixels
    patches = frames.reshape(n, rows, patch_pixels, columns, patch_pixels, channels).astype(np.float64)
    means = patches.mean(axis=(2, 4), keepdims=True)
    return np.broadcast_to(means, patches.shape).reshape(frames.shape).round().astype(np.uint8)
