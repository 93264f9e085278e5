"""Actions, rewards and episode ends as codes. Discrete actions are their own codes; rewards are symlog bins."""

from __future__ import annotations

import numpy as np

REWARD_BINS = 63
"""Odd, so that reward 0 has a bin of its own."""
LARGEST_REWARD = 20.0


def _symlog(value: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|) (DreamerV3, arXiv 2301.04104, eq. 9)."""
    return np.sign(value) * np.log1p(np.abs(value))


def reward_codes(rewards: np.ndarray) -> np.ndarray:
    """float [...] rewards to int64 bins 0..REWARD_BINS-1, evenly spaced in symlog space and clipped at the ends."""
    scaled = _symlog(np.asarray(rewards, dtype=np.float64)) / _symlog(np.asarray(LARGEST_REWARD))
    half = (REWARD_BINS - 1) // 2
    return np.rint(np.clip(scaled, -1.0, 1.0) * half).astype(np.int64) + half


def reward_values(codes: np.ndarray) -> np.ndarray:
    """int bins back to float64 rewards at the bin centres."""
    half = (REWARD_BINS - 1) // 2
    symlog = (np.asarray(codes, dtype=np.float64) - half) / half * _symlog(np.asarray(LARGEST_REWARD))
    return np.sign(symlog) * np.expm1(np.abs(symlog))
