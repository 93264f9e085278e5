"""Diffusion forcing: rates per frame with their point masses, a given first frame, bounded context noise.

Run: pytest tests/objectives/test_diffusion_forcing.py
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter
from toy_sequences import BUILDER, VOCABULARY, toy_episode, toy_talkie

from unimodel.batch import CorruptedSequence
from unimodel.config_objectives import DiffusionForcingConfig, ObjectiveConfig
from unimodel.layout import CAUSAL, NO_TARGET, Role
from unimodel.objectives.corruption import corrupt
from unimodel.objectives.diffusion_forcing import corrupt_frames, frame_mask_rate
from unimodel.tokenizers.action import reward_codes
from unimodel.vocabulary import Modality

EPISODE = toy_episode(3, steps=5, side=4)
SEQUENCE = BUILDER.interaction(EPISODE, start=0, frames=6)
FRAMES = [span for span in SEQUENCE.spans if span.grid is not None]


def settings(**changes: float) -> DiffusionForcingConfig:
    return DiffusionForcingConfig(kind="diffusion_forcing", **changes)


def corrupted(config: DiffusionForcingConfig, seed: int) -> CorruptedSequence:
    return corrupt_frames(SEQUENCE, VOCABULARY, config, 1, np.random.default_rng(seed))


def hidden_share(sequence: CorruptedSequence) -> np.ndarray:
    """[frames] share of hidden tokens."""
    return np.array([(sequence.target[span.start : span.stop] != NO_TARGET).mean() for span in FRAMES])


def test_rates_have_their_point_masses_and_the_cosine_between() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([frame_mask_rate(0.3, 0.1, rng) for _ in range(20_000)])
    assert (rates == 0).mean() == pytest.approx(0.3, abs=0.017)
    assert (rates == 1).mean() == pytest.approx(0.1, abs=0.011)
    between = rates[(rates > 0) & (rates < 1)]
    assert between.mean() == pytest.approx(2 / math.pi, abs=0.015)
    assert (between > 0.5).mean() == pytest.approx(2 / 3, abs=0.022)


def test_frames_carry_these_rates() -> None:
    """Five frames are asked for; all clean has probability 0.3^5, so replacing it hardly moves the rates."""
    shares = np.concatenate([hidden_share(corrupted(settings(), seed))[1:] for seed in range(2000)])
    assert (shares == 0).mean() == pytest.approx(0.3, abs=0.025)
    near_full = 0.6 * (2 / math.pi) * math.acos(15 / 16)  # rounded up to all 16 tokens
    assert (shares == 1).mean() == pytest.approx(0.1 + near_full, abs=0.025)


def test_frames_have_independent_rates() -> None:
    shares = np.array([hidden_share(corrupted(settings(), seed))[1:] for seed in range(2000)])
    correlation = np.corrcoef(shares.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.12


def test_first_frame_and_actions_are_never_masked() -> None:
    config = settings(clean_fraction=0.0, full_fraction=1.0, context_noise_fraction=0.0)
    given = (SEQUENCE.role() != Role.TARGET) | (SEQUENCE.modality() == Modality.ACTION)
    for seed in range(50):
        sequence = corrupted(config, seed)
        assert (sequence.target[given] == NO_TARGET).all()
        assert (sequence.input_ids[given] == SEQUENCE.ids[given]).all()
        assert (hidden_share(sequence) == [0, 1, 1, 1, 1, 1]).all()


def test_a_window_always_asks_something() -> None:
    config = settings(clean_fraction=1.0, full_fraction=0.0)
    for seed in range(50):
        assert sorted(hidden_share(corrupted(config, seed))) == [0, 0, 0, 0, 0, 1]


def test_targets_are_the_uncorrupted_tokens_behind_mask() -> None:
    for seed in range(30):
        sequence = corrupted(settings(context_noise_fraction=1.0), seed)
        hidden = sequence.target != NO_TARGET
        assert (sequence.target[hidden] == SEQUENCE.ids[hidden]).all()
        masks = [VOCABULARY.mask(Modality(m)) for m in SEQUENCE.modality()[hidden]]
        assert (sequence.input_ids[hidden] == masks).all()
        assert (sequence.objective == np.where(hidden, 1, -1)).all()
        assert ((sequence.weight > 0) == hidden).all()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6])
def test_context_noise_is_bounded_and_touches_frames_only(fraction: float) -> None:
    """The share is uniform in [0, fraction] per sample; a random code equals the old one once in 24."""
    is_image = SEQUENCE.modality() == Modality.IMAGE
    shares = []
    for seed in range(1500):
        sequence = corrupted(settings(context_noise_fraction=fraction), seed)
        visible = sequence.target == NO_TARGET
        noisy = visible & (sequence.input_ids != SEQUENCE.ids)
        assert not noisy[~is_image].any(), "only pictures get noise"
        images = VOCABULARY.range_of(Modality.IMAGE)
        assert np.isin(sequence.input_ids[visible & is_image], np.arange(images.start, images.stop)).all()
        shares.append(noisy.sum() / (visible & is_image).sum())
    assert np.mean(shares) == pytest.approx(fraction / 2 * 23 / 24, abs=0.05 * fraction)
    assert np.quantile(shares, 0.98) <= fraction + 0.2 * (fraction > 0), "never much more than the bound"


def test_changed_weight_falls_on_changed_tokens_only() -> None:
    config = settings(clean_fraction=0.0, full_fraction=1.0, changed_weight=5.0, context_noise_fraction=0.5)
    sequence = corrupted(config, 0)
    for number, span in enumerate(FRAMES[1:], start=1):
        changed = (EPISODE.frames[number] != EPISODE.frames[number - 1]).ravel()
        assert 0 < changed.sum() < len(changed)
        assert (sequence.weight[span.start : span.stop] == np.where(changed, 5.0, 1.0)).all()
    elsewhere = (sequence.target != NO_TARGET) & (SEQUENCE.modality() != Modality.IMAGE)
    assert elsewhere.any() and (sequence.weight[elsewhere] == 1.0).all()


def test_frames_are_blocks_with_their_actions_and_the_rest_is_causal() -> None:
    block = corrupted(settings(), 0).block
    starts = [FRAMES[0].start, *(span.start - 2 for span in FRAMES[1:])]
    members = [set(range(start, span.stop)) for start, span in zip(starts, FRAMES, strict=True)]
    for number, places in enumerate(members):
        assert {int(SEQUENCE.modality()[min(places)])} == {Modality.ACTION if number else Modality.IMAGE}
        assert set(np.flatnonzero(block == block[min(places)]).tolist()) == places
    assert (np.delete(block, sorted(set.union(*members))) == CAUSAL).all()


def test_sound_is_hidden_with_its_frame_and_noise_stays_in_its_range() -> None:
    config = settings(clean_fraction=0.5, full_fraction=0.5, context_noise_fraction=0.5)
    hidden_moments = shown_moments = 0
    for seed in range(40):
        sequence = BUILDER.interaction(toy_talkie(seed), 0, 5)
        result = corrupt_frames(sequence, VOCABULARY, config, 0, np.random.default_rng(seed))
        spans = [span for span in sequence.spans if span.is_observed]
        for image, sound in zip(spans[::2], spans[1::2], strict=True):
            asked = [(result.target[s.start : s.stop] != NO_TARGET).tolist() for s in (image, sound)]
            assert len({flag for one in asked for flag in one}) == 1, "a moment is hidden or shown as a whole"
            hidden_moments, shown_moments = hidden_moments + asked[1][0], shown_moments + (not asked[1][0])
            shown = result.input_ids[sound.start : sound.stop][~np.array(asked[1])]
            assert np.isin(shown, VOCABULARY.range_of(Modality.AUDIO)).all()
    assert hidden_moments > 40 and shown_moments > 40


@pytest.mark.parametrize("kind", ["diffusion_forcing", "teacher_forcing"])
def test_outcomes_weigh_more_and_rare_ones_more_still(kind: str) -> None:
    episode = replace(EPISODE, rewards=np.array([0.0, 0.5, 0.0, -1.0, 0.0]), done=np.arange(5) == 4)
    sequence = BUILDER.interaction(episode, start=0, frames=6)
    values = {"kind": kind, "full_fraction": 1.0, "outcome_weight": 2.0, "rare_outcome_weight": 7.0}
    config = TypeAdapter(ObjectiveConfig).validate_python(values)
    weights: dict[tuple[Modality, int], set[float]] = {}
    for seed in range(20):
        result = corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(seed))
        for place in np.flatnonzero(result.target != NO_TARGET):
            what = Modality(int(result.modality[place]))
            code = int(VOCABULARY.codes(what, result.target[place : place + 1])[0])
            weights.setdefault((what, code), set()).add(float(result.weight[place]))
    none, some, less = reward_codes(np.array([0.0, 0.5, -1.0])).tolist()
    outcomes = {(what, code): seen for (what, code), seen in weights.items() if what is not Modality.IMAGE}
    assert outcomes == {
        (Modality.REWARD, none): {2.0},
        (Modality.REWARD, some): {14.0},
        (Modality.REWARD, less): {14.0},
        (Modality.DONE, 0): {2.0},
        (Modality.DONE, 1): {14.0},
    }
    assert {weight for (what, _), seen in weights.items() if what is Modality.IMAGE for weight in seen} == {1.0}
