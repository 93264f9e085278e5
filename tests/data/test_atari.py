"""Atari episodes: the same seed gives the same bytes, and every frame has the sound that came with it.

Run: pytest tests/data/test_atari.py
"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from recorded_data import played

from data_pipelines.sources.atari import SOUND_RATE, action_names
from data_pipelines.sources.episode import Episode, decode_episode, encode_episode
from data_pipelines.sources.families import open_world
from data_pipelines.sources.sample import decode_sample

GAME = "ALE/Pong-v5"


def record(seed: int, steps: int = 12) -> Episode:
    return played(GAME, seed, max_steps=steps, repeat_fraction=0.75)[0]


def test_one_seed_is_one_episode_and_survives_its_shard() -> None:
    one, again, other = record(3), record(3), record(4)
    assert encode_episode(one) == encode_episode(again) and encode_episode(one) != encode_episode(other)
    back = decode_episode(one.key, encode_episode(one))
    assert (back.frames == one.frames).all() and (back.actions == one.actions).all()
    assert back.audio_rate == SOUND_RATE and np.abs(back.audio - one.audio).max() < 1e-4
    assert back.poses.shape == (13, 0)


def test_a_frame_has_the_sound_of_its_four_emulated_frames() -> None:
    episode = record(5)
    assert len(episode.audio) == len(episode.frames) * 4 * 512
    sample = decode_sample(episode.key, encode_episode(episode))
    assert sample.seconds_per_frame == pytest.approx(4 / 60)
    assert any(record(seed).audio.std() > 0.01 for seed in range(5)), "Pong is heard"


def test_a_longer_recording_begins_like_a_shorter_one() -> None:
    """Sticky actions, the emulator's own chance, are seeded too."""
    episode = record(6, steps=5)
    longer = record(6, steps=6)
    assert (longer.frames[:6] == episode.frames).all() and (longer.actions[:5] == episode.actions).all()
    assert (longer.audio[: len(episode.audio)] == episode.audio).all()


def test_actions_have_names_and_what_is_unknown_is_refused() -> None:
    assert action_names(GAME) == ("noop", "fire", "right", "left", "rightfire", "leftfire")
    with pytest.raises(ValueError, match=r"unknown environment 'ALE/Pung-v5'.*ALE/Pong-v5"):
        open_world("ALE/Pung-v5", 0, 64)
    assert GAME in gymnasium.registry
