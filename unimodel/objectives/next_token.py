"""Next-token prediction of the TARGET spans. The shift is in the data: the token before a target predicts it."""

from __future__ import annotations

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import NextTokenConfig
from unimodel.layout import CAUSAL, Role
from unimodel.objectives.masked import modality_weights


def next_token(sequence: TokenSequence, config: NextTokenConfig, index: int) -> CorruptedSequence:
    """Images that are given are bidirectional blocks; images that are targets are read in raster order, causally."""
    layout = sequence.layout
    asked = layout.target_places[layout.target_places > 0]
    target = layout.no_target.copy()
    target[asked - 1] = sequence.ids[asked]
    weight = np.zeros(len(sequence), dtype=np.float32)
    weight[asked - 1] = modality_weights(config.modality_weights)[layout.modality[asked]]
    objective = layout.nowhere.copy()
    objective[asked - 1] = index
    return CorruptedSequence(
        input_ids=sequence.ids,
        position_ids=layout.position_ids,
        block=np.where(layout.role == Role.CONDITION, layout.blocks, CAUSAL),
        stream=layout.clean,
        target=target,
        weight=weight,
        objective=objective,
        modality=layout.modality,
    )
