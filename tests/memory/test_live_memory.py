"""Live worlds with a memory: each step is what training makes of the same past, and a world outlives its process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from toy_memories import SIDE, STEPS, TOKENS, each_memory, memory_of, remembering
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, toy_episode

from unimodel.backbone.model import Backbone
from unimodel.batch import CorruptedSequence, pack
from unimodel.layout import NO_TARGET
from unimodel.memory.state import State, from_bytes, to_bytes
from unimodel.objectives.segments import join_segments
from unimodel.objectives.teacher_forcing import lay_copies
from unimodel.sampling.fill import FillSettings
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState
from unimodel.world.window import lay_state
from unimodel.world.worlds import Worlds

IMAGES = VOCABULARY.range_of(Modality.IMAGE)
ROUNDS = 4 * STEPS + 1


def start(seed: int, frames: int = 1) -> WorldState:
    episode = toy_episode(seed, frames, SIDE)
    return WorldState(episode.mission, episode.frames[:frames], episode.actions[: frames - 1])


def worlds_of(backbone: Backbone, passes: int = 1) -> Worlds:
    return Worlds(backbone, BUILDER, PAD_ID, STEPS + 1, FillSettings(steps=passes))


def asked_segments(state: WorldState) -> list[CorruptedSequence]:
    """The past of a world as training lays it out, every frame asked for in a copy that is all hidden."""
    segments = []
    for first in range(0, len(state.actions), STEPS):
        sequence, ids = lay_state(BUILDER, state.rewound(min(len(state.frames), first + STEPS + 1)), first)
        copies = lay_copies(sequence.layout)
        ids, target = ids[copies.source], np.full(len(copies.source), NO_TARGET)
        for (moment,) in copies.moments:
            target[moment] = ids[moment]
            ids[moment] = VOCABULARY.mask(Modality.IMAGE)
        plain = np.full(len(ids), -1)
        segments.append(
            CorruptedSequence(
                input_ids=ids,
                position_ids=sequence.position_ids()[:, copies.source],
                block=copies.block,
                stream=copies.stream,
                target=target,
                weight=np.ones(len(ids), dtype=np.float32),
                objective=plain,
                modality=sequence.modality()[copies.source],
            )
        )
    return segments


@each_memory
def test_a_live_step_is_what_training_makes_of_the_same_past(mechanisms: list) -> None:
    """Every frame of three worlds of other ages, over several segments: the likeliest codes, one pass a frame."""
    backbone = remembering(mechanisms)
    worlds, rng = worlds_of(backbone), np.random.default_rng(0)
    states = [start(1), start(2, 3), start(3, 2 * STEPS + 2)]
    slots = [worlds.open(state) for state in states]
    for _ in range(ROUNDS):
        worlds.step(slots, rng.integers(VOCABULARY.action_size, size=3).tolist())
    for slot, begun in zip(slots, states, strict=True):
        lived = worlds.state(slot)
        batch = pack([[join_segments(asked_segments(lived), TOKENS)]], 8 * TOKENS, PAD_ID)
        with torch.no_grad():
            logits = backbone(batch)[:, IMAGES.start : IMAGES.stop]
        made = logits.argmax(dim=-1).reshape(-1, SIDE, SIDE)[len(begun.actions) :]
        np.testing.assert_array_equal(made.numpy(), lived.frames[len(begun.frames) :])


@each_memory
def test_a_world_goes_on_from_its_bytes_as_if_nothing_had_happened(mechanisms: list, tmp_path: Path) -> None:
    """Saved at every age, brought back among other worlds, by its state or by its past alone."""
    backbone = remembering(mechanisms)
    actions = np.random.default_rng(1).integers(VOCABULARY.action_size, size=ROUNDS).tolist()
    whole = worlds_of(backbone, passes=3)
    slot = whole.open(start(5), seed=9)
    saved: list[tuple[WorldState, State]] = []
    for action in actions:
        memory = whole.memory(slot)
        assert memory is not None
        saved.append((whole.state(slot), memory))
        whole.step([slot], [action])
    expected = whole.state(slot)
    for number in range(0, ROUNDS, 2):
        state, memory = saved[number]
        save_file(to_bytes(memory), tmp_path / "memory.safetensors")
        again = from_bytes(load_file(tmp_path / "memory.safetensors"), memory_of(backbone).init(1, torch.device("cpu")))
        worlds = worlds_of(backbone, passes=3)
        worlds.open(start(6, 4))
        slots = [worlds.open(state, seed=9, memory=again), worlds.open(state, seed=9)]
        for action in actions[number:]:
            worlds.step(slots, [action, action])
        for brought_back in slots:
            np.testing.assert_array_equal(worlds.state(brought_back).frames, expected.frames)


@each_memory
def test_branches_share_a_past_and_then_go_their_own_ways(mechanisms: list) -> None:
    backbone = remembering(mechanisms)
    worlds, rng = worlds_of(backbone), np.random.default_rng(2)
    trunk = worlds.open(start(7), seed=1)
    for _ in range(2 * STEPS + 1):
        worlds.step([trunk], [int(rng.integers(VOCABULARY.action_size))])
    branches = worlds.branch(trunk, seeds=[1, 1])
    for _ in range(2 * STEPS):
        worlds.step([trunk, *branches], [0, 0, 3])
    alone = worlds.open(replace(worlds.state(branches[1])), seed=1)
    np.testing.assert_array_equal(worlds.state(trunk).frames, worlds.state(branches[0]).frames)
    np.testing.assert_array_equal(worlds.step([branches[1]], [2]), worlds.step([alone], [2]))


def test_another_past_beyond_the_window_changes_the_next_frame() -> None:
    """With the window alone it does not: nothing else could have told."""
    same, other = start(1, 2 * STEPS + 1), start(2, 2 * STEPS + 1)
    frames = np.concatenate([other.frames[: 2 * STEPS], same.frames[2 * STEPS :]])
    mixed = replace(same, frames=frames, actions=other.actions)
    cases: list[tuple[list[dict[str, object]], bool]] = [([], False), ([{"kind": "recurrent", "tokens": 3}], True)]
    for mechanisms, differs in cases:
        backbone = remembering(mechanisms)
        worlds = worlds_of(backbone)
        slots = [worlds.open(same), worlds.open(mixed)]
        codes = [worlds.step([slot], [1]) for slot in slots]
        assert bool((codes[0] != codes[1]).any()) == differs
