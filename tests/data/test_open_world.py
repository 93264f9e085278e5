"""Environments that somebody plays begin where the recorded episode of their seed does, and answer as it did.

Run: pytest tests/data/test_open_world.py
"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.sources.families import open_world
from data_pipelines.sources.recording import world_of

WORLDS = ["BabyAI-GoToLocalS8N3-v0", "MiniGrid-DoorKey-6x6-v0", "ALE/Pong-v5", "CartPole-v1"]
SIZE = 48


@pytest.mark.parametrize("environment", WORLDS)
def test_playing_the_actions_of_an_episode_shows_its_frames(environment: str) -> None:
    episode = world_of(environment).record_episode(
        environment, 3, max_steps=6, random_action_fraction=1.0, image_size=SIZE
    )
    opened = open_world(environment, 3, SIZE)
    assert np.array_equal(opened.frame, episode.frames[0])
    for step, action in enumerate(episode.actions):
        frame, reward, terminated, _ = opened.step(int(action))
        assert np.array_equal(frame, episode.frames[step + 1]) and np.array_equal(frame, opened.frame)
        assert reward == pytest.approx(float(episode.rewards[step])) and terminated == episode.done[step]
    opened.close()


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown environment"):
        open_world("MiniGrid-Nowhere-v0", 0, SIZE)
