"""Live worlds of several agents: stepped by an action of each, from a cache that is the whole window read again.

Run: pytest tests/world/test_society_worlds.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peers.recomputed_world import recompute_step
from toy_sequences import BUILDER, PAD_ID, TINY_BACKBONE, VOCABULARY, toy_society

from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.sampling.fill import FillSettings
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WINDOW_FRAMES = 6


def wide_backbone(family: str = "qwen3_5_text") -> Backbone:
    decoder = build_decoder(TINY_BACKBONE.model_copy(update={"family": family}), VOCABULARY, seed=1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5.0)
    decoder.set_attn_implementation("sdpa")
    return Backbone(decoder).eval()


def world(seed: int, frames: int, agents: int = 2) -> WorldState:
    episode = toy_society(seed, steps=frames, agents=agents)
    return WorldState(episode.mission, episode.frames[:frames], episode.actions[: frames - 1])


@pytest.mark.parametrize("family", ["qwen3_5_text", "llama"])
def test_a_cached_step_is_the_whole_window_read_again(family: str) -> None:
    """Past two turns of the window, with agents that come and go; beside a world of another past."""
    backbone, fill = wide_backbone(family), FillSettings(steps=2)
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, fill)
    slots, rng = [worlds.open(world(0, 1)), worlds.open(world(1, 4))], np.random.default_rng(0)
    absences = 0
    for number in range(2 * WINDOW_FRAMES):
        past = [worlds.state(slot) for slot in slots]
        windows = [p.since(len(p.frames) - worlds.window_frames(s)) for p, s in zip(past, slots, strict=True)]
        actions = rng.integers(UNKNOWN_ACTION, VOCABULARY.action_size, size=(2, 2)).tolist()
        absences += sum(row.count(UNKNOWN_ACTION) for row in actions)
        frames = worlds.step(slots, actions)
        np.testing.assert_array_equal(frames, recompute_step(backbone, BUILDER, PAD_ID, windows, actions, fill))
        if number % 4 == 3:
            worlds.outcomes(slots)
    assert absences > 3 and worlds.state(slots[0]).actions.shape == (2 * WINDOW_FRAMES, 2)


def test_worlds_of_one_and_of_several_agents_stand_beside_each_other() -> None:
    backbone = wide_backbone()
    worlds, alone = (Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES) for _ in range(2))
    single = world(2, 3)
    single = WorldState(single.mission, single.frames, np.abs(single.actions[:, 0]))
    slots = [worlds.open(world(0, 3, agents=3)), worlds.open(single)]
    other = alone.open(single)
    for action in (1, 4):
        frames = worlds.step(slots, [(0, UNKNOWN_ACTION, action), action])
        np.testing.assert_array_equal(frames[1], alone.step([other], [action])[0])


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_each_agents_action_shows(agent: int) -> None:
    worlds = Worlds(wide_backbone(), BUILDER, PAD_ID, WINDOW_FRAMES)
    first, others = worlds.open(world(3, 3, agents=3)), np.array([1, 1, 1])
    frames = []
    for done in (1, 2, 3, UNKNOWN_ACTION):
        taken = others.copy()
        taken[agent] = done
        (slot,) = worlds.branch(first, [0])
        frames.append(worlds.step([slot], [taken.tolist()])[0].tobytes())
    assert len(set(frames)) > 1


def test_a_branch_goes_on_as_its_trunk() -> None:
    worlds = Worlds(wide_backbone(), BUILDER, PAD_ID, WINDOW_FRAMES)
    trunk = worlds.open(world(4, 8))
    for step in range(4):
        (branch,) = worlds.branch(trunk, [0])
        action = (step, UNKNOWN_ACTION)
        frames = [worlds.step([slot], [action])[0] for slot in (trunk, branch)]
        np.testing.assert_array_equal(*frames)
        worlds.close(branch)


def test_a_state_goes_back_to_where_it_was() -> None:
    state = world(5, 4)
    later = state.stepped((1, UNKNOWN_ACTION), state.frames[0])
    assert later.num_agents == 2 and later.actions[-1].tolist() == [1, UNKNOWN_ACTION]
    back = later.rewound(4)
    assert np.array_equal(back.actions, state.actions) and np.array_equal(back.frames, state.frames)
    assert later.recent(2).actions.tolist() == [[1, UNKNOWN_ACTION]]


def test_an_action_of_every_agent_is_asked_for() -> None:
    worlds = Worlds(wide_backbone(), BUILDER, PAD_ID, WINDOW_FRAMES)
    slot = worlds.open(world(6, 2))
    for wrong in (1, (1,), (1, 2, 3)):
        with pytest.raises(ValueError, match="an action of each of 2 agents"):
            worlds.step([slot], [wrong])
    with pytest.raises(ValueError, match="action code 99 is outside 0..4"):
        worlds.step([slot], [(0, 99)])
    assert len(worlds.state(slot).frames) == 2
