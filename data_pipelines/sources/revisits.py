"""Where an agent has been before, told by its poses."""

from __future__ import annotations

import math

import numpy as np

ROUNDED = 1000
"""Poses of a continuous world are equal to a thousandth: sums of equal steps differ in their last digits."""


def revisits(poses: np.ndarray, window: int) -> np.ndarray:
    """int64 [pairs, 2] of times (i, j): the agent has the same pose at j as at i, not in between, and j - i > window.

    `poses` [T + 1, 3 or 0], in cells or, as floats, on the ground with an angle in radians. Whether the world has
    stayed the same there, `are_unchanged` tells.
    """
    if not poses.size:
        return np.zeros((0, 2), dtype=np.int64)
    places = poses.astype(np.int64)
    if not np.array_equal(places, poses):
        angles = poses[:, 2:] % (2 * math.pi)
        places = np.rint(np.concatenate([poses[:, :2], angles], axis=1) * ROUNDED).astype(np.int64)
        places[:, 2] %= round(2 * math.pi * ROUNDED)
    last: dict[tuple[int, ...], int] = {}
    pairs = []
    for time, place in enumerate(map(tuple, places.tolist())):
        if time - last.get(place, time) > window:
            pairs.append((last[place], time))
        last[place] = time
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def are_unchanged(frames: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """bool [pairs]: whether the frames (pixels or codes, [T + 1, ...]) of both times are the same."""
    flat = frames.reshape(len(frames), -1)
    return (flat[pairs[:, 0]] == flat[pairs[:, 1]]).all(axis=1)
