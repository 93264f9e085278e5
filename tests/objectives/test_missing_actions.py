"""Films, whose actions nobody knows, teach the same dynamics as labelled play, by the same objectives.

Run: pytest tests/objectives/test_missing_actions.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, tiny_backbone, toy_episode

from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.batch import CorruptedSequence, pack
from unimodel.config_objectives import DiffusionForcingConfig, TeacherForcingConfig
from unimodel.layout import NO_TARGET
from unimodel.objectives.corruption import corrupt
from unimodel.vocabulary import Modality

PLAYED = toy_episode(3, steps=5)
FILMED = replace(PLAYED, actions=np.full_like(PLAYED.actions, UNKNOWN_ACTION))
KINDS = pytest.mark.parametrize("kind", ["diffusion_forcing", "teacher_forcing"])


def corrupted(kind: str, episode=PLAYED, seed: int = 0, dropout: float = 0.0) -> CorruptedSequence:
    of_kind = {"diffusion_forcing": DiffusionForcingConfig, "teacher_forcing": TeacherForcingConfig}[kind]
    config = of_kind(kind=kind, action_dropout_fraction=dropout)  # pyright: ignore[reportArgumentType]
    return corrupt(BUILDER.interaction(episode, 0, 6), VOCABULARY, config, 0, np.random.default_rng(seed))


@KINDS
def test_a_film_is_asked_what_the_same_play_is(kind: str) -> None:
    """Frame by frame the same questions with the same answers; only what was done stands nowhere."""
    for seed in range(20):
        played, filmed = corrupted(kind, seed=seed), corrupted(kind, FILMED, seed)
        for name in ("target", "weight", "objective", "block", "stream", "position_ids"):
            assert (getattr(played, name) == getattr(filmed, name)).all(), name
        is_action = played.modality == Modality.ACTION
        assert is_action.sum() == 5 * (1 + (kind == "teacher_forcing"))
        assert (filmed.input_ids[is_action] == VOCABULARY.no_action).all()
        assert (filmed.input_ids[~is_action] == played.input_ids[~is_action]).all()
        assert (filmed.target[filmed.modality == Modality.IMAGE] != NO_TARGET).any()


@KINDS
def test_play_without_its_actions_is_a_film_to_the_model(kind: str) -> None:
    backbone = tiny_backbone()
    dropped, filmed = corrupted(kind, dropout=1.0), corrupted(kind, FILMED)
    one, other = (all_logits(backbone, pack([[sequence]], len(sequence), PAD_ID)) for sequence in (dropped, filmed))
    assert torch.equal(one, other)
    with_actions = all_logits(backbone, pack([[corrupted(kind)]], len(dropped), PAD_ID))
    assert not torch.equal(one, with_actions)


@KINDS
def test_a_share_of_the_windows_loses_all_actions_and_nothing_else(kind: str) -> None:
    lost = []
    for seed in range(600):
        result = corrupted(kind, seed=seed, dropout=0.3)
        is_missing = result.input_ids[result.modality == Modality.ACTION] == VOCABULARY.no_action
        assert is_missing.all() or not is_missing.any()
        lost.append(is_missing.all())
        same = corrupted(kind, seed=seed)
        others = result.modality != Modality.ACTION
        assert (result.input_ids[others] == same.input_ids[others]).all() and (result.target == same.target).all()
    assert np.mean(lost) == pytest.approx(0.3, abs=0.07)
