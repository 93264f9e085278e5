"""Actions, rewards and episode ends as codes. Discrete actions are their own codes; rewards are symlog bins."""

from __future__ import annotations

import numpy as np

from data_pipelines.sources.sample import UNKNOWN_ACTION

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


def agent_answers(
    actions: np.ndarray, rewards: np.ndarray, done: np.ndarray, discount: float, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What an agent did at the moments of an episode from `start` on, int codes, and what it got from then on, bins of
    sum_i discount^i reward_(t + i); each as far as it is known.

    `actions` ([T] or [T, agents]), `rewards` and `done` [T] are those of the episode. What came after it was cut off
    nobody knows: its last moment has no value, and the values before count what came until then.
    """
    nothing = np.zeros(0, dtype=np.int64)
    is_known = actions.ndim == 2 or (len(actions) > 0 and int(actions[0]) != UNKNOWN_ACTION)
    if len(rewards) == 0 or np.isnan(rewards[0]):
        return (actions[start:] if is_known else nothing), nothing
    values = np.zeros(len(rewards) - start + 1)
    for back, reward in enumerate(rewards[start:][::-1], start=2):
        values[-back] = reward + discount * values[1 - back]
    codes = reward_codes(values if done[-1] else values[:-1])
    return (actions[start:] if is_known else nothing), codes


def by_agent(actions: np.ndarray) -> np.ndarray:
    """[T] of one agent, or [T, agents], as [T, agents]."""
    return actions if actions.ndim == 2 else actions[:, None]


_EDGES = reward_values(np.arange(REWARD_BINS - 1) + 0.5)
"""Where a bin ends and the next begins."""
