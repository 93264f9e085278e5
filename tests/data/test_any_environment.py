"""Recording of environments that nobody here has heard of: gymnasium's own and one of the user's.

Run: pytest tests/data/test_any_environment.py
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from recorded_data import played

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.any_environment import action_names
from data_pipelines.sources.episode import decode_episode, encode_episode
from data_pipelines.sources.families import branch_frames, open_world
from data_pipelines.sources.recording import Recording, record_dataset

CRAFTER = "data_pipelines.sources.crafter:Crafter-v1"


class Lamps(gymnasium.Env):
    """Four lamps in a row; an action switches its lamp, and what is seen is what is lit."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)
    mission = "light all lamps"

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.lit = self.np_random.random(4) < 0.3
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.lit[action] = not self.lit[action]
        return self._seen(), float(self.lit.all()), bool(self.lit.all()), False, {}

    def _seen(self) -> np.ndarray:
        return np.repeat(np.repeat(self.lit[None, :, None], 16, axis=0), 16, axis=1).repeat(3, axis=2) * np.uint8(255)


class Restless(Lamps):
    """Draws from a generator that no seed reaches."""

    surprises = np.random.default_rng(0)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.lit = self.surprises.random(4) < 0.5
        return self._seen(), 0.0, False, False, {}


gymnasium.register("Lamps-v0", Lamps)
gymnasium.register("Restless-v0", Restless)


def test_one_seed_is_one_episode() -> None:
    one, again, other = (played("CartPole-v1", seed)[0] for seed in (3, 3, 4))
    assert encode_episode(one) == encode_episode(again) and encode_episode(one) != encode_episode(other)
    assert one.frames.shape[1:] == (64, 64, 3) and len(one.frames) == len(one.actions) + 1
    assert action_names("CartPole-v1") == ("action_0", "action_1")


def test_world_of_the_users_own_is_recorded_with_its_mission(tmp_path: Path) -> None:
    recording = Recording(0, "Lamps-v0", 6, 2, 2, 5, [{"kind": "random"}], 32, 3)
    assert record_dataset(tmp_path, recording, processes=1)
    reader = ShardReader(tmp_path / "train")
    episode = decode_episode(*reader.read(0))
    assert episode.mission == "light all lamps" and episode.num_actions == 4
    assert episode.frames.shape[1:] == (32, 32, 3) and set(np.unique(episode.frames)) <= {0, 255}


@pytest.mark.parametrize("environment", ["CartPole-v1", "Lamps-v0", "ALE/Pong-v5", CRAFTER])
def test_branch_of_the_recorded_action_is_the_recorded_frame(environment: str) -> None:
    if environment == CRAFTER:
        pytest.importorskip("crafter")
    (episode,) = played(environment, 5, max_steps=4)
    for step, action in enumerate(episode.actions):
        branches = branch_frames(environment, 5, episode.actions[:step].tolist(), 64)
        assert len(branches) == episode.num_actions
        assert np.array_equal(branches[action], episode.frames[step + 1])


@pytest.mark.parametrize(
    ("package", "environment"),
    [
        ("crafter", CRAFTER),
        ("miniworld", "miniworld:MiniWorld-FourRooms-v0"),
    ],
)
def test_worlds_of_other_packages_replay_exactly(package: str, environment: str) -> None:
    pytest.importorskip(package)
    episode, again = (played(environment, 1, max_steps=3)[0] for _ in range(2))
    assert np.array_equal(episode.frames, again.frames) and np.ptp(episode.frames) > 0
    assert len(action_names(environment)) == episode.num_actions


def test_restless_world_has_no_branches() -> None:
    with pytest.raises(ValueError, match="two replays differ"):
        branch_frames("Restless-v0", 0, [1, 2], 32)


def test_what_cannot_be_recorded_is_refused() -> None:
    for environment, said in (
        ("CartPoel-v1", "Nearest known: CartPole-v1"),
        ("no_such_module:Thing-v0", "module:Id-v0"),
        ("Pendulum-v1", "only Discrete ones, from 0, can be recorded"),
    ):
        with pytest.raises(ValueError, match=said):
            open_world(environment, 0, 32)
    with pytest.raises(ValueError, match=r"action 4 at step 1 is outside 0\.\.1"):
        branch_frames("CartPole-v1", 0, [0, 4], 32)
