"""Masked discrete diffusion: hide a random share of the targets behind MASK and predict them in place.

One family, three choices (schedule, how many, weight). With weight "elbo" the expected loss is an upper bound of
-log p in nats, exact for exact conditionals (MDLM, arXiv 2406.07524, eq. 10; LLaDA, arXiv 2502.09992, eq. 3 and 14):

    each token with probability r    weight -alpha'(u) / (1 - alpha(u)) with alpha = 1 - r: 1/r for linear r = u,
                                     (pi/2) tan(pi u / 2) for cosine r = cos(pi u / 2)
    exactly k of n tokens            weight (n / k) * (1/n) / P(k): the bound holds for k uniform on 1..n, and
                                     P(k) is the probability that the schedule draws k
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import MaskedConfig
from unimodel.layout import KNOWN_LAYOUTS, Layout, Role
from unimodel.vocabulary import Modality, Vocabulary


def mask_rate(u: float, schedule: str) -> float:
    """Mask rate r in [0, 1] for u uniform in [0, 1)."""
    return u if schedule == "linear" else math.cos(math.pi * u / 2)


def count_probability(k: np.ndarray, n: int, schedule: str) -> np.ndarray:
    """P(ceil(r n) = k) for k in 1..n under `schedule`."""
    if schedule == "linear":
        return np.full(np.shape(k), 1.0 / n)
    return (2 / math.pi) * (np.arcsin(np.asarray(k) / n) - np.arcsin((np.asarray(k) - 1) / n))


def draw_mask(num_tokens: int, config: MaskedConfig, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """bool [num_tokens] of hidden tokens and the loss weight of each of them; at least one, if there is any."""
    if num_tokens == 0:
        return np.zeros(0, dtype=bool), 0.0
    u = rng.random()
    rate = mask_rate(u, config.schedule)
    if config.mask_count == "fixed":
        count = min(max(1, math.ceil(rate * num_tokens)), num_tokens)
        hidden = np.zeros(num_tokens, dtype=bool)
        hidden[rng.permutation(num_tokens)[:count]] = True
        if config.weight == "uniform":
            return hidden, 1.0
        return hidden, 1.0 / (count * float(count_probability(np.asarray(count), num_tokens, config.schedule)))
    hidden = rng.random(num_tokens) < rate
    if config.weight == "uniform":
        return hidden, 1.0
    return hidden, 1.0 / max(rate, 1e-9) if config.schedule == "linear" else math.pi / 2 * math.tan(math.pi * u / 2)


def corrupt_masked(
    sequence: TokenSequence, vocabulary: Vocabulary, config: MaskedConfig, index: int, rng: np.random.Generator
) -> CorruptedSequence:
    """Hides TARGET tokens of `sequence`; CONDITION and STRUCTURE tokens stay as they are (prompt protection)."""
    layout, modality = sequence.layout, sequence.modality()
    maskable = layout.target_places
    if config.single_span_fraction and rng.random() < config.single_span_fraction:
        only = layout.targets[int(rng.integers(len(layout.targets)))]
        maskable = np.arange(only.start, only.stop)
    hidden, weight = draw_mask(len(maskable), config, rng)
    if rng.random() < config.whole_modality_fraction and len(maskable):
        hidden |= modality[maskable] == rng.choice(np.unique(modality[maskable]))

    input_ids = sequence.ids.copy()
    masked = maskable[hidden]
    masked_modality = modality[masked]
    input_ids[masked] = mask_ids(masked_modality, vocabulary)
    if rng.random() < config.condition_dropout_fraction:
        condition = (layout.role == Role.CONDITION) & (modality == Modality.TEXT)
        input_ids[condition] = vocabulary.mask(Modality.TEXT)

    token_weight = modality_weights(config.modality_weights)[masked_modality]
    if config.changed_weight != 1.0:
        token_weight *= change_weights(sequence, config.changed_weight)[masked]
    token_weights = np.zeros(len(sequence), dtype=np.float32)
    token_weights[masked] = weight * token_weight
    target = layout.no_target.copy()
    target[masked] = sequence.ids[masked]
    objective = layout.nowhere.copy()
    # The bound is per maskable token, also those left visible this time; MaskGIT's mean is over masked tokens only.
    objective[maskable if config.weight == "elbo" else masked] = index
    return CorruptedSequence(
        input_ids=input_ids,
        position_ids=layout.position_ids,
        block=layout.clean if config.attention == "document" else layout.blocks,
        stream=layout.clean,
        target=target,
        weight=token_weights,
        objective=objective,
        modality=modality,
    )


def mask_ids(modality: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The MASK id of each modality in `modality` (any shape)."""
    return _mask_table(vocabulary)[modality]


@lru_cache(maxsize=16)
def _mask_table(vocabulary: Vocabulary) -> np.ndarray:
    return np.array([0 if m is Modality.SPECIAL else vocabulary.mask(m) for m in Modality], dtype=np.int64)


def modality_weights(weights: Mapping[str, float]) -> np.ndarray:
    """float32 [modalities]: the loss weight of a token of each modality."""
    return _weight_table(tuple(weights.items()))


@lru_cache(maxsize=64)
def _weight_table(weights: tuple[tuple[str, float], ...]) -> np.ndarray:
    known = dict(weights)
    return np.array([known.get(modality.label, 1.0) for modality in Modality], dtype=np.float32)


def change_weights(sequence: TokenSequence, changed_weight: float) -> np.ndarray:
    """float32 [n]: `changed_weight` at frame tokens that differ from the same place one frame earlier and at actions
    that changed anything, 1 elsewhere.

    In most worlds hardly anything changes in a step; unweighted, copying is nearly the whole loss. And what an action
    was that changed nothing, nobody can tell: its answer is noise.
    """
    weights = np.ones(len(sequence), dtype=np.float32)
    if changed_weight == 1.0:
        return weights
    for before, after, actions in steps_between(sequence.layout):
        changed = sequence.ids[before] != sequence.ids[after]
        weights[after][changed] = changed_weight
        if actions and changed.any():
            weights[actions] = changed_weight
    return weights


@lru_cache(maxsize=KNOWN_LAYOUTS)
def steps_between(layout: Layout) -> tuple[tuple[slice, slice, list[int]], ...]:
    """(frame, next frame, places of the actions between them) of every step."""
    actions = np.flatnonzero((layout.modality == Modality.ACTION) & (layout.role != Role.AGENT))
    return tuple(
        (
            slice(before.start, before.stop),
            slice(after.start, after.stop),
            actions[(actions >= before.stop) & (actions < after.start)].tolist(),
        )
        for before, after in zip(layout.pictures, layout.pictures[1:], strict=False)
    )
