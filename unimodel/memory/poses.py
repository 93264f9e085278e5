"""Poses in the plane: [..., 3] x, y and the angle in radians from x towards y, of an agent that looks along it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def moved(pose: Tensor, move: Tensor) -> Tensor:
    """Where a move [..., 3] (forward, left, turn) leads from a pose (dead reckoning); angles stay from -pi to pi, or
    those of a long life would be told in ever larger steps."""
    cos, sin = pose[..., 2].cos(), pose[..., 2].sin()
    x = pose[..., 0] + cos * move[..., 0] - sin * move[..., 1]
    y = pose[..., 1] + sin * move[..., 0] + cos * move[..., 1]
    angle = pose[..., 2] + move[..., 2]
    around = (angle <= -math.pi).to(angle.dtype) - (angle > math.pi).to(angle.dtype)
    return torch.stack([x, y, angle + 2 * math.pi * around], dim=-1)


def seen_from(here: Tensor, pose: Tensor) -> Tensor:
    """[..., 3] (forward, left, turn): the move that leads from `here` to `pose`; a turn may go round more than once."""
    step, cos, sin = pose - here, here[..., 2].cos(), here[..., 2].sin()
    forward = cos * step[..., 0] + sin * step[..., 1]
    left = cos * step[..., 1] - sin * step[..., 0]
    return torch.stack([forward, left, step[..., 2]], dim=-1)


def apart(one: Tensor, other: Tensor, turn_weight: float) -> Tensor:
    """[...] the distance of their places and `turn_weight` times the angle, 0 to pi, between where they look."""
    step = one - other
    angle = torch.atan2(step[..., 2].sin(), step[..., 2].cos()).abs()
    return torch.linalg.vector_norm(step[..., :2], dim=-1) + turn_weight * angle
