"""Recording of environments that nobody here has heard of: gymnasium's own and one of the user's.

Run: pytest tests/data/test_any_environment.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from recorded_data import played

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.any_environment import action_names
from data_pipelines.sources.episode import decode_episode, encode_episode
from data_pipelines.sources.families import branch_frames, open_world
from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.sources.world import scaled

WITHOUT_A_SCREEN = {"PYGLET_HEADLESS": "true", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
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


class Switches(Lamps):
    """Two switches of two and three states; the reward says which were chosen."""

    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._seen(), float(10 * action[0] + action[1]), False, False, {}


gymnasium.register("Switches-v0", Switches)
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


@pytest.mark.parametrize("environment", ["CartPole-v1", "Lamps-v0", "ALE/Pong-v5"])
def test_branch_of_the_recorded_action_is_the_recorded_frame(environment: str) -> None:
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
        ("memory_gym", "memory_gym:MortarMayhem-Grid-v0"),
        ("memory_gym", "memory_gym:SearingSpotlights-v0"),
        ("procgen", "data_pipelines.sources.procgen:CoinRun-v0"),
        ("Box2D", "LunarLander-v3"),
    ],
)
def test_worlds_of_other_packages_replay_exactly(
    package: str, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WITHOUT_A_SCREEN.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip(package)
    episode, again, other = (played(environment, seed, max_steps=5, kind="random")[0] for seed in (1, 1, 2))
    assert np.array_equal(episode.frames, again.frames) and np.ptp(episode.frames) > 0
    assert not np.array_equal(episode.frames[0], other.frames[0])
    assert len(set(action_names(environment))) == episode.num_actions
    branches = branch_frames(environment, 1, episode.actions[:-1].tolist(), 64)
    assert np.array_equal(branches[episode.actions[-1]], episode.frames[-1])


def test_miniworld_looks_the_same_from_a_recorded_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGLET_HEADLESS", "true")
    pytest.importorskip("miniworld")
    (episode,) = played("miniworld:MiniWorld-FourRooms-v0", 4, max_steps=12)
    assert episode.poses.dtype == np.float64 and len(np.unique(episode.poses, axis=0)) > 3
    world: Any = open_world("miniworld:MiniWorld-FourRooms-v0", 4, 64)
    env = world.simulator._env.unwrapped
    for frame, (x, z, angle) in zip(episode.frames, episode.poses, strict=True):
        env.agent.pos[[0, 2]], env.agent.dir = (x, z), angle
        assert np.array_equal(scaled(env.render_obs(), 64), frame)
    back = decode_episode(episode.key, encode_episode(episode))
    assert back.poses.dtype == np.float64 and np.array_equal(back.poses, episode.poses)


def test_crafter_tells_where_the_player_stands() -> None:
    pytest.importorskip("crafter")
    world = open_world(CRAFTER, 0, 64)
    x, y, _ = world.moment.pose
    moves = {2: (1, 0, 0), 4: (0, 1, 1), 1: (-1, 0, 2), 3: (0, -1, 3)}  # right, down, left, up
    for action, (dx, dy, direction) in moves.items():
        world.step(action)
        reached, stopped = (x + dx, y + dy, direction), (x, y, direction)
        assert world.moment.pose in (reached, stopped), "it moves, or only looks there"
        x, y, _ = world.moment.pose


def test_choices_of_a_multidiscrete_space_are_numbered() -> None:
    world = open_world("Switches-v0", 0, 32)
    assert world.num_actions == 6 and action_names("Switches-v0") == tuple(f"action_{i}" for i in range(6))
    for action, lit in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        assert world.step(action).reward == 10 * lit[0] + lit[1]


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
