"""Discrete diffusion forcing: every frame of an episode, with the sound that came with it, gets its own mask rate.

After Diffusion Forcing (arXiv 2407.01392) with MASK instead of Gaussian noise. A point mass at "clean" makes training
see what sampling sees, namely a clean past (small Genie copies mask all past frames and meet clean ones only at play
time), a point mass at "all masked" is the first step of sampling, and random codes among the visible tokens teach the
model to survive its own mistakes (context noise, as in GameNGen and Dreamer 4). Frames are blocks; everything else is
causal, so an action can change its own next frame and nothing earlier.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import DiffusionForcingConfig
from unimodel.layout import KNOWN_LAYOUTS, NO_TARGET, Layout, Role
from unimodel.objectives.masked import change_weights, mask_ids
from unimodel.vocabulary import Modality, Vocabulary

OUTCOME_MASK_FRACTION = 0.5
"""How often a reward or done token is hidden; they are single tokens, so a rate has no meaning for them."""


def frame_mask_rate(clean_fraction: float, full_fraction: float, rng: np.random.Generator) -> float:
    """0 with probability `clean_fraction`, 1 with `full_fraction`, else cos(pi u / 2), which is never 0."""
    choice = rng.random()
    if choice < clean_fraction:
        return 0.0
    if choice < clean_fraction + full_fraction:
        return 1.0
    return math.cos(math.pi * rng.random() / 2)


def corrupt_frames(
    sequence: TokenSequence,
    vocabulary: Vocabulary,
    config: DiffusionForcingConfig,
    index: int,
    rng: np.random.Generator,
) -> CorruptedSequence:
    """Corrupts the TARGET frames and outcomes of an episode window; the first frame is given, never masked."""
    modality = sequence.modality()
    input_ids = sequence.ids.copy()
    hidden = np.zeros(len(sequence), dtype=bool)
    targets = [span for span in sequence.layout.observed if span.role is Role.TARGET]
    times = sorted({span.time for span in targets})
    noise = rng.random() * config.context_noise_fraction
    rates = [frame_mask_rate(config.clean_fraction, config.full_fraction, rng) for _ in times]
    if targets and not any(rates):
        rates[int(rng.integers(len(rates)))] = 1.0  # a window without a question teaches nothing
    for observed, places in _places(sequence.layout).items():
        add_context_noise(input_ids, places, observed, vocabulary, noise, rng)
    for span in targets:
        if rate := rates[times.index(span.time)]:
            hidden[span.start : span.stop] = exact_share(len(span), rate, rng)
    hidden |= hide_outcomes(sequence.layout, rng)
    input_ids[hidden] = mask_ids(modality[hidden], vocabulary)
    drop_actions(input_ids, modality, vocabulary, config.action_dropout_fraction, rng)

    target = np.where(hidden, sequence.ids, NO_TARGET)
    return CorruptedSequence(
        input_ids=input_ids,
        position_ids=sequence.layout.position_ids,
        block=sequence.layout.blocks,
        stream=sequence.layout.streams,
        target=target,
        weight=hidden
        * change_weights(sequence, config.changed_weight)
        * outcome_weights(sequence, vocabulary, config.outcome_weight, config.rare_outcome_weight),
        objective=np.where(hidden, index, -1),
        modality=modality,
    )


def hide_outcomes(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """bool [n] the rewards and done flags that are hidden this time."""
    hidden = np.zeros(layout.length, dtype=bool)
    outcomes = _outcome_places(layout)
    hidden[outcomes] = rng.random(len(outcomes)) < OUTCOME_MASK_FRACTION
    return hidden


def outcome_weights(sequence: TokenSequence, vocabulary: Vocabulary, weight: float, rare_weight: float) -> np.ndarray:
    """float32 [n]: `weight` at rewards and done flags, times `rare_weight` at rewards other than 0 and at ends; 1
    elsewhere."""
    weights = np.ones(len(sequence), dtype=np.float32)
    places = _outcome_places(sequence.layout)
    weights[places] = weight
    if rare_weight == 1.0:
        return weights
    # The usual outcomes: the bin in the middle, and a flag that is not set.
    usual = (vocabulary.range_of(Modality.REWARD)[vocabulary.reward_size // 2], vocabulary.range_of(Modality.DONE)[0])
    weights[places[~np.isin(sequence.ids[places], usual)]] *= rare_weight
    return weights


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _outcome_places(layout: Layout) -> np.ndarray:
    """The places of rewards and done flags to be learnt."""
    return np.flatnonzero((layout.role == Role.TARGET) & np.isin(layout.modality, (Modality.REWARD, Modality.DONE)))


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _places(layout: Layout) -> dict[Modality, np.ndarray]:
    """The places of all codes of pictures, and of all codes of sound."""
    observed = {span.modality: None for span in layout.observed}
    return {modality: np.flatnonzero(layout.modality == modality) for modality in observed}


def exact_share(num_tokens: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """bool [num_tokens] with ceil(rate * num_tokens) True places."""
    hidden = np.zeros(num_tokens, dtype=bool)
    hidden[rng.permutation(num_tokens)[: math.ceil(rate * num_tokens)]] = True
    return hidden


def drop_actions(
    input_ids: np.ndarray, modality: np.ndarray, vocabulary: Vocabulary, fraction: float, rng: np.random.Generator
) -> None:
    """Takes all actions from a share of the windows, in place."""
    if fraction and rng.random() < fraction:
        input_ids[modality == Modality.ACTION] = vocabulary.no_action


def add_context_noise(
    input_ids: np.ndarray,
    places: np.ndarray,
    modality: Modality,
    vocabulary: Vocabulary,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    """Replaces a share of the tokens at `places` by uniformly random codes of their modality, in place."""
    replaced = places[rng.random(len(places)) < fraction]
    codes = rng.integers(vocabulary.size_of(modality), size=len(replaced))
    input_ids[replaced] = vocabulary.ids(modality, codes)
