"""What objectives ask in worlds of several agents, and who can tell whose action is whose.

Run: pytest tests/objectives/test_society_objectives.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, tiny_backbone, toy_society

from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.batch import pack
from unimodel.config_objectives import (
    DiffusionForcingConfig,
    InverseDynamicsConfig,
    PolicyConfig,
    TeacherForcingConfig,
)
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.corruption import added_tokens, corrupt
from unimodel.sampling.fill import read_only
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import Modality

EPISODE = toy_society(4, steps=5)
ACTIONS = VOCABULARY.range_of(Modality.ACTION)


def logits_of(episode: TokenisedEpisode, family: str = "qwen3_5_text") -> np.ndarray:
    sequence = BUILDER.interaction(episode, 0, 4)
    return all_logits(tiny_backbone(family=family), pack([[read_only(sequence)]], len(sequence), PAD_ID))[0].numpy()


@pytest.mark.parametrize("family", ["qwen3_5_text", "llama"])
@pytest.mark.parametrize("agent", [0, 1])
def test_an_action_changes_its_own_frame_and_nothing_earlier(agent: int, family: str) -> None:
    actions = EPISODE.actions.copy()
    actions[1, agent] = (actions[1, agent] + 1) % len(ACTIONS)
    before, after = (logits_of(replace(EPISODE, actions=a), family) for a in (EPISODE.actions, actions))
    sequence = BUILDER.interaction(EPISODE, 0, 4)
    begins = next(span.start for span in sequence.spans if span.is_action and span.time == 2)
    moved = np.abs(before - after).max(axis=1)
    assert moved[:begins].max() < 1e-5
    frame = sequence.layout.pictures[2]
    assert moved[frame.start : frame.stop].min() > 1e-3


@pytest.mark.parametrize("family", ["qwen3_5_text", "llama"])
def test_it_matters_which_agent_did_what(family: str) -> None:
    actions = np.abs(EPISODE.actions)
    actions[:, 0], actions[:, 1] = 1, 2
    ours, swapped = (logits_of(replace(EPISODE, actions=a), family) for a in (actions, actions[:, ::-1]))
    frame = BUILDER.interaction(EPISODE, 0, 4).layout.pictures[1]
    assert np.abs(ours - swapped)[frame.start : frame.stop].max(axis=1).min() > 1e-3


def test_copies_hold_the_actions_of_all_agents_and_get_the_logits_of_sampling() -> None:
    """Training is inference: a noisy copy of a frame answers as a window that ends with it."""
    sequence = BUILDER.interaction(EPISODE, 0, 5)
    config = TeacherForcingConfig(kind="teacher_forcing", full_fraction=1.0)
    asked = corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(0))
    frame = 1 + EPISODE.frames[0].size
    assert len(asked) == len(sequence) + added_tokens(config, 4, 2 + frame)
    backbone = tiny_backbone()
    logits = all_logits(backbone, pack([[asked]], len(asked), PAD_ID))[0].numpy()
    copies = asked.stream > 0
    places = np.flatnonzero(copies & (asked.modality == Modality.IMAGE)).reshape(4, -1)
    for time in range(1, 5):
        short = BUILDER.interaction(EPISODE, 0, time + 1)
        ids, picture = short.ids.copy(), short.layout.pictures[-1]
        ids[picture.start : picture.stop] = VOCABULARY.mask(Modality.IMAGE)
        # Outcomes before it are hidden as in the corrupted sequence.
        clean = asked.input_ids[~copies][: picture.start]
        ids[: picture.start] = clean
        alone = pack([[replace(read_only(short), input_ids=ids)]], len(short), PAD_ID)
        theirs = all_logits(backbone, alone)[0].numpy()[picture.start : picture.stop]
        np.testing.assert_allclose(logits[places[time - 1]], theirs, atol=2e-4)


def test_inverse_dynamics_asks_for_every_agent_that_is_there() -> None:
    sequence = BUILDER.interaction(EPISODE, 0, 6)
    config = InverseDynamicsConfig(kind="inverse_dynamics", ask_changed_places=True, changed_weight=4.0)
    asked = corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(0))
    there = EPISODE.actions != UNKNOWN_ACTION
    is_action = sequence.modality() == Modality.ACTION
    answers = asked.target[is_action]
    assert (answers == ACTIONS.start + EPISODE.actions[there]).all() and 0 < there.sum() < there.size
    assert (asked.input_ids[is_action] == VOCABULARY.mask(Modality.ACTION)).all()
    for time in range(1, 6):  # which of two changed a place, nobody can tell
        picture = sequence.layout.pictures[time]
        places = asked.target[picture.start : picture.stop]
        changed = (EPISODE.frames[time] != EPISODE.frames[time - 1]).ravel()
        alone = EPISODE.actions[time - 1][there[time - 1]]
        expected = np.where(changed, ACTIONS.start + alone[0], NO_TARGET) if len(alone) == 1 else NO_TARGET
        assert (places == expected).all()


def test_a_policy_answers_for_every_agent_that_is_there() -> None:
    sequence = BUILDER.interaction(EPISODE, 0, 6, discount=0.9)
    asked = corrupt(sequence, VOCABULARY, PolicyConfig(kind="policy"), 0, np.random.default_rng(0))
    here = sequence.role() == Role.AGENT
    targets, ids = asked.target[here].reshape(6, 3), asked.input_ids[here].reshape(6, 3)
    assert (ids == [VOCABULARY.agent, VOCABULARY.agent, VOCABULARY.value]).all()
    actions = np.vstack([EPISODE.actions, [[UNKNOWN_ACTION] * 2]])
    expected = np.where(actions == UNKNOWN_ACTION, NO_TARGET, ACTIONS.start + actions)
    assert (targets[:, :2] == expected).all()
    assert (asked.target[~here] == NO_TARGET).all()


def test_no_answer_can_be_read() -> None:
    """What is done after the window, by whichever agent, leaves no trace in what is read."""
    other = toy_society(9, steps=5).actions
    later = replace(EPISODE, actions=np.vstack([EPISODE.actions[:2], other[2:]]))
    config, asked = PolicyConfig(kind="policy"), []
    for episode in (EPISODE, later):
        sequence = BUILDER.interaction(episode, 0, 3, discount=0.9)
        asked.append(corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(0)))
    assert (asked[0].input_ids == asked[1].input_ids).all()
    assert (asked[0].target != asked[1].target).any(), "and is asked for"


def test_dropped_actions_are_those_of_all_agents() -> None:
    sequence = BUILDER.interaction(EPISODE, 0, 6)
    config = DiffusionForcingConfig(kind="diffusion_forcing", action_dropout_fraction=1.0)
    asked = corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(0))
    acting = [span.start for span in sequence.spans if span.is_action]
    assert len(acting) == 10 and (asked.input_ids[acting] == VOCABULARY.no_action).all()
