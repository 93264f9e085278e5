"""Inverse dynamics: every action of an episode, of all agents, is hidden and must be told from the frames around it.

An action stands in the block of the frame it led to, so it sees that frame and everything before, as when the model
steps a world. In most worlds an action is one token among a hundred and is learnt only when it is asked for alone, and
surely only when the places that it changed are asked for it too (docs/experiments.md).
"""

from __future__ import annotations

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import InverseDynamicsConfig
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.masked import change_weights, steps_between
from unimodel.vocabulary import Modality, Vocabulary


def hide_actions(
    sequence: TokenSequence, vocabulary: Vocabulary, config: InverseDynamicsConfig, index: int
) -> CorruptedSequence:
    """Hides all TARGET actions and nothing else."""
    modality = sequence.modality()
    hidden = (modality == Modality.ACTION) & (sequence.role() == Role.TARGET)
    target = np.where(hidden, sequence.ids, NO_TARGET)
    weight = hidden * change_weights(sequence, config.changed_weight)
    if config.ask_changed_places:
        places = _changed_places(sequence)
        target = np.where(places == NO_TARGET, target, places)
        weight = np.where(places == NO_TARGET, weight, np.float32(config.changed_weight))
    return CorruptedSequence(
        input_ids=np.where(hidden, vocabulary.mask(Modality.ACTION), sequence.ids),
        position_ids=sequence.layout.position_ids,
        block=sequence.layout.blocks,
        stream=sequence.layout.clean,
        target=target,
        weight=weight,
        objective=np.where(target == NO_TARGET, -1, index),
        modality=modality,
    )


def _changed_places(sequence: TokenSequence) -> np.ndarray:
    """[n] the action at frame tokens that differ from the same place one frame earlier, NO_TARGET elsewhere; also where
    several agents acted, of whom any may have changed the place."""
    asked = sequence.layout.no_target.copy()
    for before, after, actions in steps_between(sequence.layout):
        if len(actions) == 1:
            asked[after][sequence.ids[before] != sequence.ids[after]] = sequence.ids[actions[-1]]
    return asked
