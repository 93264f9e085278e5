"""Worlds of several agents: recorded, replayed and branched like any other, with an action and a reward of each agent.

Run: pytest tests/data/test_society.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from recorded_data import contents, played, small_recording

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import Episode, decode_episode, encode_episode
from data_pipelines.sources.families import branch_frames, family_of, open_world
from data_pipelines.sources.recording import record_dataset
from data_pipelines.sources.sample import UNKNOWN_ACTION, sample_of

ORCHARD = "society:data_pipelines.sources.orchard?agents=3"
PONG, PISTONS = (
    "society:pettingzoo.butterfly.cooperative_pong_v6",
    "society:pettingzoo.butterfly.pistonball_v6?n_pistons=5&continuous=false",
)
ROLES = {"kind": "roles", "roles": ["trader", "gatherer", "random"], "leave_fraction": 0.1}


def test_every_agent_acts_and_gets_its_own() -> None:
    (episode,) = played(ORCHARD, 3, max_steps=30, **ROLES)
    assert episode.actions.shape == episode.rewards.shape == (30, 3) and episode.num_agents == 3
    assert episode.num_actions == 6 and episode.mission.startswith("gather") and not episode.done.any()
    absent = episode.actions == UNKNOWN_ACTION
    assert absent.any() and not absent.all() and (episode.actions[~absent] >= 0).all()
    assert (sample_of(episode).rewards == episode.rewards.sum(axis=1)).all()
    again = decode_episode(episode.key, encode_episode(episode))
    assert (again.actions == episode.actions).all() and (again.rewards == episode.rewards).all()
    world = open_world(ORCHARD, 3, 64)
    for number, action in enumerate(episode.actions):
        step = world.step(action)
        assert np.array_equal(step.frame, episode.frames[number + 1])
        assert np.array_equal(np.float32(step.rewards), episode.rewards[number]) and step.reward == sum(step.rewards)
        assert world.moment.caption == episode.captions[number + 1]


@pytest.mark.parametrize("policy", [ROLES, {"kind": "random"}, {"kind": "sticky", "repeat_fraction": 0.9}])
def test_two_recordings_are_equal_byte_for_byte(tmp_path: Path, policy: dict) -> None:
    recording = small_recording(environment=ORCHARD, policies=[policy])
    record_dataset(tmp_path / "one", recording, processes=1)
    record_dataset(tmp_path / "two", recording, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    metadata = ShardReader(tmp_path / "one/train").metadata
    assert (metadata["num_agents"], metadata["num_actions"]) == (3, 6)
    assert metadata["action_names"] == ["stay", "up", "down", "left", "right", "trade"]


def test_a_world_of_one_agent_says_nothing_of_agents(tmp_path: Path) -> None:
    record_dataset(tmp_path / "one", small_recording(), processes=1)
    reader = ShardReader(tmp_path / "one/train")
    assert "num_agents" not in reader.metadata and decode_episode(*reader.read(0)).actions.ndim == 1


def test_sticky_agents_repeat_each_by_itself() -> None:
    (episode,) = played(ORCHARD, 1, max_steps=60, kind="sticky", repeat_fraction=0.8)
    same = episode.actions[1:] == episode.actions[:-1]
    assert 0.7 < same.mean() < 0.95 and 0.2 < same.all(axis=1).mean() < 0.8


def test_a_restored_world_goes_on_as_before() -> None:
    world, rng = open_world(ORCHARD, 4, 64), np.random.default_rng(0)
    actions = rng.integers(UNKNOWN_ACTION, 6, size=(20, 3))
    for action in actions[:5]:
        world.step(action)
    snapshot = world.snapshot()
    runs = []
    for _ in range(2):
        world.restore(snapshot)
        runs.append([(step.frame.tobytes(), step.rewards) for step in map(world.step, actions[5:])])
    assert runs[0] == runs[1] and len(set(runs[0])) > 1


def test_branches_of_one_agent_leave_the_others_as_they_were() -> None:
    (episode,) = played(ORCHARD, 5, max_steps=8)
    done, last = episode.actions[:6].tolist(), episode.actions[6].tolist()
    tried = [[*last[:1], action, *last[2:]] for action in range(6)]
    frames = branch_frames(ORCHARD, 5, done, 64, tried=tried)
    assert np.array_equal(frames[last[1]], episode.frames[7])
    assert len({frame.tobytes() for frame in frames}) > 1


@pytest.mark.parametrize(
    ("environment", "policies", "said"),
    [
        (ORCHARD, [{"kind": "roles", "roles": ["thief"]}], "no role 'thief': its roles are gatherer, trader, avoider"),
        (ORCHARD, [{"kind": "effective"}], "has several agents: choose random or sticky"),
        (ORCHARD, [{"kind": "bot"}], "has no scripted bot"),
        ("CartPole-v1", [{"kind": "roles", "roles": ["random"]}], "is for several agents, and CartPole-v1 has one"),
        ("society:data_pipelines.sources.orchard?agents=9", [{"kind": "random"}], "2 to 4 agents, not 9"),
        ("society:data_pipelines.sources.orchard?cells=9", [{"kind": "random"}], "unknown environment .*'cells'"),
        ("society:data_pipelines.sources.nowhere", [{"kind": "random"}], "unknown environment .*nowhere"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(
    tmp_path: Path, environment: str, policies: list[dict], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        record_dataset(tmp_path / "new", small_recording(environment=environment, policies=policies))
    assert not (tmp_path / "new").exists()


def test_wrong_actions_are_refused() -> None:
    world = open_world(ORCHARD, 0, 64)
    for wrong in (3, (0, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="an action of each of 3 agents"):
            world.step(wrong)
    with pytest.raises(ValueError, match=r"action 6 is outside 0\.\.5"):
        world.step((0, 6, 0))
    alone = open_world("CartPole-v1", 0, 64)
    with pytest.raises(ValueError, match="an action of each of 1 agents"):
        alone.step([0])


def test_an_episode_of_several_agents_is_checked() -> None:
    (episode,) = played(ORCHARD, 3)
    values = {name: getattr(episode, name) for name in Episode.__slots__}
    with pytest.raises(ValueError, match="rewards is float32"):
        Episode(**(values | {"rewards": episode.rewards.sum(axis=1)}))
    with pytest.raises(ValueError, match="of a single one they are"):
        Episode(**(values | {"actions": episode.actions[:, :1], "rewards": episode.rewards[:, :1]}))
    with pytest.raises(ValueError, match=r"actions go outside 0\.\.5"):
        Episode(**(values | {"actions": episode.actions + 6}))


@pytest.mark.parametrize(("environment", "agents", "names"), [(PONG, 2, 3), (PISTONS, 5, 3)])
def test_worlds_of_pettingzoo_are_recorded_by_the_same_path(environment: str, agents: int, names: int) -> None:
    pytest.importorskip("pettingzoo")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    (episode,) = played(environment, 3, max_steps=20, kind="random")
    assert episode.actions.shape == (20, agents) and episode.frames.shape == (21, 64, 64, 3)
    assert (episode.frames[1:] != episode.frames[:-1]).any()
    (again,) = played(environment, 3, max_steps=20, kind="random")
    assert np.array_equal(again.frames, episode.frames) and np.array_equal(again.rewards, episode.rewards)
    assert len(family_of(environment).action_names(environment)) == names
    world = open_world(environment, 3, 64)
    assert not world.restores
    with pytest.raises(ValueError, match="must act: agents cannot be absent"):
        world.step([UNKNOWN_ACTION] * agents)
    branches = branch_frames(environment, 3, episode.actions[:4].tolist(), 64, tried=[[0] * agents, [2] * agents])
    assert branches.shape == (2, 64, 64, 3)
