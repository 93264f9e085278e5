"""Worlds that are stepped one action at a time: what was recorded is met again, and an earlier state exactly.

Run: pytest tests/data/test_open_world.py
"""

from __future__ import annotations

import numpy as np
import pytest
from recorded_data import played

from data_pipelines.sources import atari, minigrid
from data_pipelines.sources.families import branch_frames
from data_pipelines.sources.recording import open_world
from data_pipelines.sources.world import World

CRAFTER, COINRUN = "data_pipelines.sources.crafter:Crafter-v1", "data_pipelines.sources.procgen:CoinRun-v0"
WORLDS = ["BabyAI-GoToLocalS8N3-v0", "MiniGrid-DoorKey-8x8-v0", "ALE/Breakout-v5", "CartPole-v1", CRAFTER, COINRUN]
RESTORING = [world for world in WORLDS if world != "CartPole-v1"]


def opened(environment: str, seed: int = 3) -> World:
    for package, its in (("crafter", CRAFTER), ("procgen", COINRUN)):
        if environment == its:
            pytest.importorskip(package)
    return open_world(environment, seed, 64)


@pytest.mark.parametrize("environment", WORLDS)
def test_stepping_meets_what_was_recorded(environment: str) -> None:
    world = opened(environment)
    (episode,) = played(environment, 3)
    assert world.mission == episode.mission and world.num_actions == episode.num_actions
    assert np.array_equal(world.frame, episode.frames[0])
    for number, action in enumerate(episode.actions):
        step = world.step(action)
        assert step.frame.shape == (64, 64, 3) and step.frame.dtype == np.uint8
        assert np.array_equal(step.frame, episode.frames[number + 1]) and np.array_equal(step.frame, world.frame)
        assert (np.float32(step.reward), step.terminated) == (episode.rewards[number], episode.done[number])
    world.close()


@pytest.mark.parametrize("environment", RESTORING)
def test_a_restored_world_goes_on_as_before(environment: str) -> None:
    world = opened(environment)
    rng = np.random.default_rng(0)
    for action in rng.integers(world.num_actions, size=5):
        world.step(action)
    snapshot, frame = world.snapshot(), world.frame
    actions = rng.integers(world.num_actions, size=12)

    def go_on() -> list[tuple[bytes, float, bool, bool]]:
        return [(frame.tobytes(), *outcome) for frame, *outcome in (world.step(action) for action in actions)]

    first = go_on()
    assert len({step[0] for step in first}) > 1
    for _ in range(2):
        world.restore(snapshot)
        assert np.array_equal(world.frame, frame)
        assert go_on() == first
    world.close()


def test_sticky_actions_of_a_restored_game_repeat_the_right_one() -> None:
    """The emulator alone would repeat whatever was done last before it was set back."""
    world = open_world("ALE/Breakout-v5", 1, 64)
    for _ in range(25):
        for _ in range(2):
            world.step(2)  # to the right
        snapshot = world.snapshot()
        first = world.step(0).frame
        for _ in range(3):
            world.step(3)  # to the left
        world.restore(snapshot)
        assert np.array_equal(world.step(0).frame, first)


def test_a_world_of_crafter_does_not_hang_on_where_in_memory_its_creatures_lie() -> None:
    """Crafter draws one of a plain set of creatures by its number, and their order there is that of their addresses."""
    pytest.importorskip("crafter")
    from data_pipelines.sources.crafter import Crafter, InOrder

    walks, kept = [], []
    for _ in range(2):
        env, rng = Crafter(), np.random.default_rng(1)
        env.reset(seed=1)
        walks.append([env.step(rng.integers(env.action_space.n))[0] for _ in range(60)])
        kept += [env, [bytearray(number) for number in range(1000)]]  # the next one's lie elsewhere
        assert all(type(creatures) is InOrder for creatures in env._world._world._chunks.values())
    np.testing.assert_array_equal(walks[0], walks[1])


def test_an_environment_that_cannot_be_set_back_says_so() -> None:
    world = open_world("CartPole-v1", 0, 32)
    assert not world.restores
    with pytest.raises(ValueError, match="CartPole-v1 cannot be set back"):
        world.snapshot()


@pytest.mark.parametrize("environment", [world for world in RESTORING if world != CRAFTER])  # seconds to open
def test_branches_are_the_same_by_restoring_and_by_replaying(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(environment).close()
    restored = branch_frames(environment, 4, [1, 2, 2], 64)
    for simulator in (minigrid.Level, atari.Game):
        monkeypatch.setattr(simulator, "restores", False)
    if environment == COINRUN:
        monkeypatch.delattr("data_pipelines.sources.procgen.Procgen.snapshot")
    assert not opened(environment).restores
    assert np.array_equal(branch_frames(environment, 4, [1, 2, 2], 64), restored)


def test_wrong_actions_and_steps_after_the_end_are_refused() -> None:
    world = open_world("CartPole-v1", 0, 32)
    for action in (-1, 2):
        with pytest.raises(ValueError, match=rf"CartPole-v1: action {action} is outside 0\.\.1"):
            world.step(action)
    while not world.over:
        world.step(1)
    with pytest.raises(ValueError, match="CartPole-v1, seed 0: the episode is over"):
        world.step(1)
