"""Teacher forcing in two streams: training sees what sampling sees, and nothing but the copies is asked.

Run: pytest tests/objectives/test_teacher_forcing.py
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import (
    BUILDER,
    PAD_ID,
    VOCABULARY,
    all_logits,
    tiny_backbone,
    toy_episode,
    toy_eventful,
    toy_film,
    toy_talkie,
)

from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import CorruptedSequence, TokenSequence, dense_mask, pack
from unimodel.config import BackboneConfig, MixtureEntry, StageConfig
from unimodel.config_objectives import TeacherForcingConfig
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.corruption import added_tokens, corrupt
from unimodel.objectives.teacher_forcing import lay_copies
from unimodel.sampling.fill import read_only
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import Modality

EPISODES = [toy_episode(3, steps=5, side=4), toy_talkie(1), toy_film(2), toy_eventful(1, steps=5)]


def settings(**changes: float) -> TeacherForcingConfig:
    return TeacherForcingConfig(kind="teacher_forcing", **changes)


def window(episode: TokenisedEpisode, frames: int = 6) -> TokenSequence:
    return BUILDER.interaction(episode, 0, frames)


def corrupted(sequence: TokenSequence, seed: int = 0, **changes: float) -> CorruptedSequence:
    return corrupt(sequence, VOCABULARY, settings(**changes), 1, np.random.default_rng(seed))


def own_attention(result: CorruptedSequence) -> np.ndarray:
    return dense_mask(pack([[result]], len(result), PAD_ID))[0, 0].numpy()


@pytest.mark.parametrize("episode", EPISODES, ids=lambda e: str(e.frames.shape) + str(e.audio.shape))
def test_a_copy_sees_the_clean_past_and_itself_and_nobody_sees_it(episode: TokenisedEpisode) -> None:
    """Token by token, by what each token is, without a look at block or stream."""
    sequence = window(episode)
    copies = lay_copies(sequence.layout)
    times = np.concatenate([np.full(len(span), span.time) for span in sequence.spans])[copies.source]
    first_clean = {int(p): int(np.flatnonzero(copies.source == p)[-1]) for p in np.unique(copies.source)}
    is_copy = np.array([place != first_clean[int(source)] for place, source in enumerate(copies.source)])
    assert (
        is_copy.sum() == sum(len(s) + 1 for s in sequence.spans if s.is_observed and s.time) + sequence.spans[-1].time
    )
    block = sequence.layout.blocks[copies.source]
    for place, sees in enumerate(own_attention(corrupted(sequence))):
        if is_copy[place]:
            expected = np.where(is_copy, times == times[place], np.arange(len(times)) < place)
        else:
            together = (block == block[place]) & (block >= 0)
            expected = ~is_copy & ((np.arange(len(times)) <= place) | together)
        assert (sees == expected).all(), place


@pytest.mark.parametrize("family", ["qwen3_5_text", "llama"])
@pytest.mark.parametrize("episode", EPISODES, ids=lambda e: str(e.frames.shape) + str(e.audio.shape))
def test_a_copy_gets_the_logits_of_a_window_that_ends_with_it(episode: TokenisedEpisode, family: str) -> None:
    """Training is inference: also with context noise, hidden outcomes, and positions of one dimension."""
    backbone = tiny_backbone() if family == "qwen3_5_text" else llama()
    result = corrupted(window(episode), seed=5, context_noise_fraction=0.5)
    logits = all_logits(backbone, pack([[result]], len(result), PAD_ID))[0]
    for number in range(1, int(result.stream.max()) + 1):
        ends = read_only(window(episode, number + 1))
        here = result.stream == number
        clean = np.flatnonzero((result.stream == 0) & (np.arange(len(result)) < np.flatnonzero(here)[0]))
        ids = np.concatenate([result.input_ids[clean], result.input_ids[here]])
        plain = replace(ends, input_ids=np.concatenate([ids, ends.input_ids[len(ids) :]]))
        expected = all_logits(backbone, pack([[plain]], len(plain), PAD_ID))[0, len(clean) : len(ids)]
        assert (logits[torch.from_numpy(here)] - expected).abs().max() < 1e-5
        assert expected.abs().max() > 0.1


def llama() -> Backbone:
    config = BackboneConfig(
        family="llama",
        num_layers=2,
        hidden_size=32,
        num_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        initializer_range=0.1,
    )
    decoder = build_decoder(config, VOCABULARY, 0)
    decoder.set_attn_implementation("sdpa")
    return Backbone(decoder).eval()


def test_only_copies_and_outcomes_are_asked_and_no_copy_is_clean() -> None:
    sequence = window(EPISODES[0])
    outcomes = np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE))
    for seed in range(40):
        result = corrupted(sequence, seed)
        asked = result.target != NO_TARGET
        source = lay_copies(sequence.layout).source
        assert (asked <= ((result.stream > 0) | outcomes[source])).all()
        for number in range(1, 6):
            assert asked[result.stream == number].any(), "a copy without a question teaches nothing"
        assert (result.target[asked] == sequence.ids[source][asked]).all()
        assert (result.input_ids[asked] == [VOCABULARY.mask(Modality(m)) for m in result.modality[asked]]).all()
        assert (result.objective == np.where(asked, 1, -1)).all() and ((result.weight > 0) == asked).all()
        assert not np.isin(result.modality[asked], (Modality.ACTION, Modality.SPECIAL)).any(), "actions are given"


def test_rates_are_drawn_for_every_copy() -> None:
    sequence = window(EPISODES[0])
    shares = []
    for seed in range(1500):
        result = corrupted(sequence, seed, full_fraction=0.25)
        pictures = [(result.stream == n) & (result.modality == Modality.IMAGE) for n in range(1, 6)]
        shares.append([float((result.target[p] != NO_TARGET).mean()) for p in pictures])
    found = np.array(shares)
    near_full = 0.75 * (2 / math.pi) * math.acos(15 / 16)  # rounded up to all 16 tokens
    assert (found == 1).mean() == pytest.approx(0.25 + near_full, abs=0.025)
    assert found.min() > 0
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.12, "independent from copy to copy"


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_context_noise_falls_on_frames_that_are_shown_and_can_be_turned_off(fraction: float) -> None:
    sequence = window(EPISODES[1])
    source = lay_copies(sequence.layout).source
    shares = []
    for seed in range(300):
        result = corrupted(sequence, seed, context_noise_fraction=fraction)
        shown = (result.target == NO_TARGET) & np.isin(result.modality, (Modality.IMAGE, Modality.AUDIO))
        noisy = (result.input_ids != sequence.ids[source]) & (result.target == NO_TARGET)
        assert (noisy <= shown).all()
        shares.append(noisy.sum() / shown.sum())
    assert np.mean(shares) == pytest.approx(fraction / 2 * 0.94, abs=0.02 * (fraction > 0))


def test_changed_tokens_weigh_more_in_the_copies() -> None:
    episode = EPISODES[0]
    result = corrupted(window(episode), full_fraction=1.0, changed_weight=7.0)
    for number in range(1, 6):
        changed = (episode.frames[number] != episode.frames[number - 1]).ravel()
        here = (result.stream == number) & (result.modality == Modality.IMAGE)
        assert result.weight[here].tolist() == np.where(changed, 7.0, 1.0).tolist()


@pytest.mark.parametrize("episode", EPISODES, ids=lambda e: str(e.frames.shape) + str(e.audio.shape))
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_the_added_length_is_known_before(episode: TokenisedEpisode, frames: int) -> None:
    sequence = window(episode, frames)
    steps = max(span.time for span in sequence.spans)
    frame = sum(len(span) + 1 for span in sequence.spans if span.is_observed and span.time == 0)
    assert len(corrupted(sequence)) == len(sequence) + added_tokens(settings(), steps, 1 + frame)


def test_a_window_without_steps_asks_nothing() -> None:
    sequence = BUILDER.interaction(EPISODES[0], 5, 4)
    result = corrupted(sequence)
    assert (result.target == NO_TARGET).all() and (result.stream == 0).all() and len(result) == len(sequence)
    assert not any(span.role is Role.TARGET for span in sequence.spans)


def test_sequences_without_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="its sequence must be interaction, not clip"):
        StageConfig(
            number=3,
            steps=1,
            mixture=(MixtureEntry(sequence="clip", objective="frames"),),
            objectives={"frames": settings()},
        )
