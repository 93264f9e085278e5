"""Inverse dynamics: all actions are asked for and nothing else is hidden; those that changed anything weigh more.

Run: pytest tests/objectives/test_inverse_dynamics.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_sequences import BUILDER, VOCABULARY, toy_episode

from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.config import MixtureEntry, StageConfig
from unimodel.config_objectives import InverseDynamicsConfig
from unimodel.layout import NO_TARGET
from unimodel.objectives.inverse_dynamics import hide_actions
from unimodel.vocabulary import Modality

EPISODE = toy_episode(3, steps=5)
CONFIG = InverseDynamicsConfig(kind="inverse_dynamics", changed_weight=8.0)


def test_every_action_is_hidden_and_everything_else_is_shown() -> None:
    sequence = BUILDER.interaction(EPISODE, start=1, frames=4)
    result = hide_actions(sequence, VOCABULARY, CONFIG, 2)
    hidden = result.target != NO_TARGET
    assert VOCABULARY.codes(Modality.ACTION, result.target[hidden]).tolist() == EPISODE.actions[1:4].tolist()
    assert (result.input_ids[hidden] == VOCABULARY.mask(Modality.ACTION)).all()
    assert (result.input_ids[~hidden] == sequence.ids[~hidden]).all()
    assert (result.objective == np.where(hidden, 2, -1)).all()


def test_a_hidden_action_sees_the_frame_it_led_to() -> None:
    result = hide_actions(BUILDER.interaction(EPISODE, start=0, frames=3), VOCABULARY, CONFIG, 0)
    for place in np.flatnonzero(result.target != NO_TARGET):
        together = result.modality[result.block == result.block[place]]
        assert (together == Modality.IMAGE).sum() == EPISODE.frames[0].size


def test_actions_that_changed_nothing_weigh_less() -> None:
    frames = EPISODE.frames.copy()
    frames[2] = frames[1]
    result = hide_actions(
        BUILDER.interaction(replace(EPISODE, frames=frames), start=0, frames=6), VOCABULARY, CONFIG, 0
    )
    assert result.weight[result.target != NO_TARGET].tolist() == [8.0, 1.0, 8.0, 8.0, 8.0]
    assert (result.weight[result.target == NO_TARGET] == 0).all()


def test_changed_places_are_asked_for_the_action_that_changed_them() -> None:
    sequence = BUILDER.interaction(EPISODE, start=1, frames=4)
    result = hide_actions(sequence, VOCABULARY, CONFIG.model_copy(update={"ask_changed_places": True}), 2)
    images = [span for span in sequence.spans if span.modality is Modality.IMAGE]
    for step, span in enumerate(images[1:], start=1):
        changed = (EPISODE.frames[step + 1] != EPISODE.frames[step]).ravel()
        here = slice(span.start, span.stop)
        expected = np.where(changed, VOCABULARY.ids(Modality.ACTION, EPISODE.actions[step : step + 1]), NO_TARGET)
        assert changed.any() and result.target[here].tolist() == expected.tolist()
        assert result.weight[here].tolist() == np.where(changed, 8.0, 0.0).tolist()
        assert (result.input_ids[here] == sequence.ids[here]).all(), "they are shown"
    assert (result.target[images[0].start : images[0].stop] == NO_TARGET).all()
    assert ((result.objective == 2) == (result.target != NO_TARGET)).all()


def test_nobody_is_asked_for_an_unknown_action() -> None:
    film = replace(EPISODE, actions=np.full_like(EPISODE.actions, UNKNOWN_ACTION))
    sequence = BUILDER.interaction(film, start=0, frames=6)
    result = hide_actions(sequence, VOCABULARY, CONFIG.model_copy(update={"ask_changed_places": True}), 0)
    assert (result.target == NO_TARGET).all()


def test_a_window_without_actions_asks_nothing() -> None:
    sequence = BUILDER.interaction(EPISODE, start=5, frames=4)
    assert (hide_actions(sequence, VOCABULARY, CONFIG, 0).target == NO_TARGET).all()


def test_sequences_without_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="its sequence must be interaction, not clip"):
        StageConfig(
            number=1,
            steps=1,
            mixture=(MixtureEntry(sequence="clip", objective="actions"),),
            objectives={"actions": CONFIG},
        )
