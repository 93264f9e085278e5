"""Imagining many plans at once is stepping each by itself.

Run: pytest tests/world/test_imagination.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, tiny_backbone, toy_episode

from unimodel.sampling.fill import FillSettings
from unimodel.world.imagination import Branches, Choose, Imagination, Table
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

ACTIONS = VOCABULARY.action_size


def worlds(window_frames: int = 6) -> Worlds:
    return Worlds(tiny_backbone(seed=2), BUILDER, PAD_ID, window_frames, FillSettings(steps=2))


def state(frames: int = 1) -> WorldState:
    episode = toy_episode(3, steps=frames)
    return WorldState(episode.mission[:4], episode.frames[:frames], episode.actions[: frames - 1])


def by_plans(plans: np.ndarray) -> Choose:
    return lambda step, _: plans[:, step]


def one_by_one(start: WorldState, plans: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[WorldState]]:
    rewards, going, states = np.zeros(plans.shape), np.ones((len(plans), plans.shape[1] + 1)), []
    for number, plan in enumerate(plans.tolist()):
        alone, still = worlds(), 1.0
        slot = alone.open(start)
        for step, action in enumerate(plan):
            alone.step([slot], [action])
            outcome = alone.outcomes([slot])
            still *= 1 - outcome.over[0]
            rewards[number, step], going[number, step + 1] = outcome.rewards_above()[0], still
        states.append(alone.state(slot))
    return rewards, going, states


def imagination_of(kind: str) -> Imagination:
    return Table(worlds(), ACTIONS, memory_frames=6) if kind == "table" else Branches(worlds(), ACTIONS)


@pytest.mark.parametrize("kind", ["branches", "table"])
def test_worlds_rolled_together_are_worlds_rolled_alone(kind: str) -> None:
    """Two plans are equal, others share a beginning; all fit the window."""
    start, plans = state(2), np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3], [4, 1, 2], [3, 3, 3]])
    imagination = imagination_of(kind)
    rolled = imagination.roll([start] * len(plans), by_plans(plans), 3)
    rewards, going, states = one_by_one(start, plans)
    np.testing.assert_allclose(rolled.rewards, rewards, atol=1e-4)
    np.testing.assert_allclose(rolled.going, going, atol=1e-4)
    for ours, theirs in zip(rolled.states[-1], states, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
    assert len(np.unique(rolled.rewards[:, -1].round(5))) == 4
    again = imagination.roll([start] * len(plans), by_plans(plans), 3)
    np.testing.assert_allclose(again.rewards, rolled.rewards, atol=1e-5)


@pytest.mark.parametrize("kind", ["branches", "table"])
def test_a_policy_rolls_worlds_from_several_states(kind: str) -> None:
    def choose(step: int, states: Sequence[WorldState]) -> np.ndarray:
        return np.array([(step + int(one.frames[-1].sum())) % ACTIONS for one in states])

    starts = [state(1), state(2), state(1)]
    starts.append(starts[1])
    rolled = imagination_of(kind).roll(starts, choose, 2)
    for number, start in enumerate(starts):
        rewards, going, states = one_by_one(start, rolled.actions[number : number + 1])
        assert rolled.actions[number, 1] == (1 + int(rolled.states[1][number].frames[-1].sum())) % ACTIONS
        np.testing.assert_allclose(rolled.rewards[number], rewards[0], atol=1e-4)
        np.testing.assert_allclose(rolled.going[number], going[0], atol=1e-4)
        np.testing.assert_array_equal(rolled.states[-1][number].frames, states[0].frames)


def test_a_table_steps_nothing_twice() -> None:
    class Counted(Worlds):
        stepped = 0

        def step(self, slots, actions, passes=None):
            self.stepped += len(slots)
            return super().step(slots, actions, passes)

    counted = Counted(tiny_backbone(seed=2), BUILDER, PAD_ID, 6)
    table = Table(counted, ACTIONS)
    plans = np.random.default_rng(0).integers(ACTIONS, size=(60, 4))
    table.roll([state()] * 60, by_plans(plans), 4)
    assert 0 < counted.stepped <= table.num_states * ACTIONS
    before = counted.stepped
    table.roll([state()] * 60, by_plans(plans), 4)
    assert counted.stepped == before


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_branches_go_on_as_their_world_does(frames: int) -> None:
    """Also where the window is about to move on; and the trunk is left as it was."""
    together = worlds()
    trunk = together.open(state(frames), seed=3)
    together.step([trunk], [1])
    branches = together.branch(trunk, [3, 3])
    alone = worlds()
    others = [alone.open(state(frames), seed=3) for _ in range(2)]
    alone.step(others, [1, 1])
    for ours, theirs in ((2, 2), (0, 4), (1, 1)):
        frames_together = together.step([trunk, *branches], [ours, ours, theirs])
        np.testing.assert_array_equal(frames_together[0], frames_together[1])
        np.testing.assert_array_equal(frames_together[[0, 2]], alone.step(others, [ours, theirs]))
