"""Inverse dynamics: every action of an episode is hidden and must be told from the frames around it.

An action stands in the block of the frame it led to, so it sees that frame and everything before, as when the model
steps a world. In most worlds an action is one token among a hundred and is learnt only when it is asked for alone
(docs/experiments.md).
"""

from __future__ import annotations

import numpy as np

from unimodel.batch import NO_TARGET, CorruptedSequence, Role, TokenSequence
from unimodel.config import InverseDynamicsConfig
from unimodel.objectives.masked import change_weights
from unimodel.vocabulary import Modality, Vocabulary


def hide_actions(
    sequence: TokenSequence, vocabulary: Vocabulary, config: InverseDynamicsConfig, index: int
) -> CorruptedSequence:
    """Hides all TARGET actions and nothing else."""
    modality = sequence.modality()
    hidden = (modality == Modality.ACTION) & (sequence.role() == Role.TARGET)
    return CorruptedSequence(
        input_ids=np.where(hidden, vocabulary.mask(Modality.ACTION), sequence.ids),
        position_ids=sequence.layout.position_ids,
        block=sequence.layout.picture_blocks,
        stream=sequence.layout.clean,
        target=np.where(hidden, sequence.ids, NO_TARGET),
        weight=hidden * change_weights(sequence, config.changed_weight),
        objective=np.where(hidden, index, -1),
        modality=modality,
    )
