"""The past of a world with every frame asked for: what evaluation reads, as training lays it out."""

from __future__ import annotations

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.masked import mask_ids
from unimodel.objectives.teacher_forcing import lay_copies
from unimodel.vocabulary import Modality, Vocabulary

OUTCOMES = (Modality.REWARD, Modality.DONE)


def ask_everything(sequence: TokenSequence, vocabulary: Vocabulary) -> CorruptedSequence:
    """Every TARGET frame in a copy that is all hidden, after the clean frames before it; rewards and done flags behind
    MASK, after the clean frame that they came with."""
    copies = lay_copies(sequence.layout)
    ids, modality, role = (part[copies.source] for part in (sequence.ids, sequence.modality(), sequence.role()))
    hidden = np.isin(modality, OUTCOMES) & (role == Role.TARGET)
    for moment in copies.moments:
        for places in moment:
            hidden[places] = True
    input_ids = ids.copy()
    input_ids[hidden] = mask_ids(modality[hidden], vocabulary)
    return CorruptedSequence(
        input_ids=input_ids,
        position_ids=sequence.position_ids()[:, copies.source],
        block=copies.block,
        stream=copies.stream,
        target=np.where(hidden, ids, NO_TARGET),
        weight=hidden.astype(np.float32),
        objective=np.where(hidden, 0, -1),
        modality=modality,
    )
