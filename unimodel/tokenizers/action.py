"""Actions, rewards and episode ends as codes. Discrete actions are their own codes; rewards are symlog bins."""

from __future__ import annotations

import numpy as np

REWARD_BINS = 63
"""Odd, so that reward 0 has a bin of its own."""
LARGEST_REWARD = 20.0


def reward_codes(rewards: np.ndarray) -> np.ndarray:
    """float [...] rewards to int64 bins 0..REWARD_BINS-1, evenly spaced in symlog space, sign(x) log(1 + |x|)
    (DreamerV3, arXiv 2301.04104, eq. 9), and clipped at the ends."""
    return np.searchsorted(_EDGES, rewards)


def reward_values(codes: np.ndarray) -> np.ndarray:
    """int bins back to float64 rewards at the bin centres."""
    half = (REWARD_BINS - 1) // 2
    symlog = (np.asarray(codes, dtype=np.float64) - half) / half * np.log1p(LARGEST_REWARD)
    return np.sign(symlog) * np.expm1(np.abs(symlog))


_EDGES = reward_values(np.arange(REWARD_BINS - 1) + 0.5)
"""Where a bin ends and the next begins."""
