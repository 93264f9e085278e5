"""Minari datasets, written by the `minari` library: a real MiniGrid world in pixels, or the spaces a test wants."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import minigrid.wrappers
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

NAME = "tests/made-v0"


def write_minari(
    root: Path,
    patch: pytest.MonkeyPatch,
    observations: spaces.Space,
    actions: spaces.Space,
    episodes: list[EpisodeBuffer],
    data_format: str = "hdf5",
    jpeg: bool = False,
) -> Path:
    """The folder of a dataset of these episodes."""
    patch.setenv("MINARI_DATASETS_PATH", str(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody signed it
        minari.create_dataset_from_buffers(
            NAME,
            episodes,
            observation_space=observations,
            action_space=actions,
            data_format=data_format,
            jpeg_encoding=jpeg,
        )
    return root / NAME


def play(num_episodes: int, steps: int, tile_size: int = 8) -> tuple[spaces.Dict, spaces.Discrete, list[EpisodeBuffer]]:
    """(observations, actions, episodes) of a random walk through a MiniGrid room, in pixels."""
    env: Any = minigrid.wrappers.RGBImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"), tile_size=tile_size)
    space = spaces.Dict({**env.observation_space.spaces, "mission": spaces.Text(64)})
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(num_episodes):
        observation, _ = env.reset(seed=seed)
        seen, taken, rewards, ends = [observation], [], [], []
        for _ in range(steps):
            taken.append(int(rng.integers(3)))  # turns and steps
            observation, reward, terminated, _, _ = env.step(taken[-1])
            seen.append(observation)
            rewards.append(float(reward))
            ends.append(bool(terminated))
            if terminated:
                break
        parts = {name: [one[name] for one in seen] for name in ("direction", "image", "mission")}
        over = [False] * len(ends)
        episodes.append(EpisodeBuffer(None, seed, None, parts, taken, rewards, ends, over, None))
    return space, env.action_space, episodes


def drifting(actions: list[np.ndarray]) -> tuple[spaces.Box, list[EpisodeBuffer]]:
    """(observations, episodes) of grey frames whose level is their number, with these actions [T, ...]."""
    box = spaces.Box(0, 255, (8, 10), np.uint8)
    episodes = []
    for taken in actions:
        seen = [np.full((8, 10), number, np.uint8) for number in range(len(taken) + 1)]
        zeros, over = [0.0] * len(taken), [False] * len(taken)
        episodes.append(EpisodeBuffer(None, None, None, seen, list(taken), zeros, over, over, None))
    return box, episodes
