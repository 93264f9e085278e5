"""What an agent's steps look like to itself: so far forward, so far to its left, and a turn to its left.

A move says nothing of where in the world it was made, so that whoever knows nothing but moves knows where it has come
to from where it began.
"""

from __future__ import annotations

import math

import numpy as np

QUARTER_TURN = math.pi / 2


def standard_poses(poses: np.ndarray) -> np.ndarray:
    """float64 [T + 1, 3] x to the right, y up, and the angle from x towards y, of poses as `Episode` has them: whole
    numbers in a grid (y down, 0 right, 1 down, 2 left, 3 up), else MiniWorld's (y down, an angle that turns to the
    left)."""
    angle = -QUARTER_TURN * poses[:, 2] if np.issubdtype(poses.dtype, np.integer) else poses[:, 2]
    return np.stack([poses[:, 0], -poses[:, 1], angle], axis=1).astype(np.float64)


def moves_between(poses: np.ndarray) -> np.ndarray:
    """float64 [T, 3] (forward, left, turn) from each pose of an episode [T + 1, 3] to the next; a turn is above -pi and
    at most pi."""
    standard = standard_poses(poses)
    step, heading = np.diff(standard[:, :2], axis=0), standard[:-1, 2]
    cos, sin = np.cos(heading), np.sin(heading)
    turn = math.pi - (math.pi - np.diff(standard[:, 2])) % (2 * math.pi)
    return np.stack([cos * step[:, 0] + sin * step[:, 1], cos * step[:, 1] - sin * step[:, 0], turn], axis=1)
