"""Next-token prediction of the TARGET spans. The shift is in the data: the token before a target predicts it."""

from __future__ import annotations

import numpy as np

from unimodel.batch import CAUSAL, CLEAN, NO_TARGET, CorruptedSequence, Role, TokenSequence
from unimodel.config_objectives import NextTokenConfig
from unimodel.objectives.masked import modality_weights, span_blocks


def next_token(sequence: TokenSequence, config: NextTokenConfig, index: int) -> CorruptedSequence:
    """Images that are given are bidirectional blocks; images that are targets are read in raster order, causally."""
    modality, role = sequence.modality(), sequence.role()
    is_target = role == Role.TARGET
    target = np.full(len(sequence), NO_TARGET, dtype=np.int64)
    target[:-1][is_target[1:]] = sequence.ids[1:][is_target[1:]]
    weights = modality_weights(config.modality_weights)
    weight = np.zeros(len(sequence), dtype=np.float32)
    weight[:-1] = np.where(is_target[1:], weights[modality[1:]], 0.0)
    return CorruptedSequence(
        input_ids=sequence.ids,
        position_ids=sequence.position_ids(),
        block=np.where(role == Role.CONDITION, span_blocks(sequence), CAUSAL),
        stream=np.full(len(sequence), CLEAN, dtype=np.int64),
        target=target,
        weight=weight,
        objective=np.where(target == NO_TARGET, -1, index),
        modality=modality,
    )
