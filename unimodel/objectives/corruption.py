"""Which function serves which objective config. Adding an objective adds one file and one line here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import (
    AlignmentConfig,
    DiffusionForcingConfig,
    InverseDynamicsConfig,
    MaskedConfig,
    NextTokenConfig,
    ObjectiveConfig,
    PolicyConfig,
    TeacherForcingConfig,
)
from unimodel.objectives.alignment import hide_answer
from unimodel.objectives.diffusion_forcing import corrupt_frames
from unimodel.objectives.inverse_dynamics import hide_actions
from unimodel.objectives.masked import corrupt_masked
from unimodel.objectives.next_token import next_token
from unimodel.objectives.policy import read_world
from unimodel.objectives.teacher_forcing import corrupt_copies, lay_copies
from unimodel.vocabulary import Vocabulary


def corrupt(
    sequence: TokenSequence, vocabulary: Vocabulary, config: ObjectiveConfig, index: int, rng: np.random.Generator
) -> CorruptedSequence:
    """Applies objective number `index` of a stage to one sequence. A pure function of its arguments and `rng`."""
    match config:
        case NextTokenConfig():
            return next_token(sequence, config, index)
        case MaskedConfig():
            return corrupt_masked(sequence, vocabulary, config, index, rng)
        case DiffusionForcingConfig():
            return corrupt_frames(sequence, vocabulary, config, index, rng)
        case TeacherForcingConfig():
            return corrupt_copies(sequence, vocabulary, config, index, rng)
        case InverseDynamicsConfig():
            return hide_actions(sequence, vocabulary, config, index)
        case PolicyConfig():
            return read_world(sequence, vocabulary, config, index, rng)
        case AlignmentConfig():
            return hide_answer(sequence, vocabulary, index)


def added_tokens(config: ObjectiveConfig, steps: int, step_tokens: int) -> int:
    """By how many tokens `corrupt` makes a window of `steps` steps longer; a step is its actions and a frame."""
    return steps * step_tokens if isinstance(config, TeacherForcingConfig) else 0


def weigh_pictures(
    corrupted: CorruptedSequence, sequence: TokenSequence, chosen: np.ndarray, weight: float
) -> CorruptedSequence:
    """`weight` times the loss of the pictures that are `chosen`, bool [pictures of the sequence]."""
    factors = np.ones(len(sequence), dtype=np.float32)
    for span, is_chosen in zip(sequence.layout.pictures, chosen.tolist(), strict=True):
        if is_chosen:
            factors[span.start : span.stop] = weight
    if len(corrupted) > len(sequence):
        factors = factors[lay_copies(sequence.layout).source]
    return replace(corrupted, weight=corrupted.weight * factors)
