"""What an agent does next and what it will get, asked at the end of every moment of an episode.

The agent's tokens read the whole past and nothing reads them, as in Dreamer 4 (arXiv 2509.24527): the world does not
learn its future from what is about to be done, and is stepped without them. An action is that of the recorded policy
(behaviour cloning); a value is a bin of the discounted rewards to come (DreamerV3, arXiv 2301.04104). They are asked
over a world that is read clean, or in the same pass as its frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import PolicyConfig
from unimodel.layout import CAUSAL, CLEAN, NO_TARGET, Role
from unimodel.objectives.diffusion_forcing import hide_outcomes
from unimodel.objectives.masked import mask_ids
from unimodel.vocabulary import Modality, Vocabulary


def read_world(
    sequence: TokenSequence, vocabulary: Vocabulary, config: PolicyConfig, index: int, rng: np.random.Generator
) -> CorruptedSequence:
    """Asks the agent alone. Outcomes are hidden as often as in diffusion forcing: in a generated world they stay so."""
    layout = sequence.layout
    hidden = hide_outcomes(layout, rng)
    world = CorruptedSequence(
        input_ids=np.where(hidden, mask_ids(layout.modality, vocabulary), sequence.ids),
        position_ids=layout.position_ids,
        block=layout.blocks,
        stream=layout.streams,
        target=layout.no_target,
        weight=np.zeros(layout.length, dtype=np.float32),
        objective=layout.nowhere,
        modality=layout.modality,
    )
    return ask_agent(world, sequence, vocabulary, config, index)


def ask_agent(
    world: CorruptedSequence, sequence: TokenSequence, vocabulary: Vocabulary, config: PolicyConfig, index: int
) -> CorruptedSequence:
    """Puts the questions at the agent's places of `world`, which an objective has made of `sequence`."""
    # Copies of frames are blocks; what else is in a stream of its own is the agent's, in the order of the sequence.
    places = np.flatnonzero((world.stream != CLEAN) & (world.block == CAUSAL))
    here = np.flatnonzero(sequence.role() == Role.AGENT)
    ids, modality = sequence.ids[here], sequence.modality()[here]
    is_action, is_value = modality == Modality.ACTION, modality == Modality.REWARD
    is_known = is_action | is_value
    arrays = {name: getattr(world, name).copy() for name in ("input_ids", "target", "weight", "objective")}
    arrays["input_ids"][places] = np.select([is_action, is_value], [vocabulary.agent, vocabulary.value], ids)
    arrays["target"][places] = np.where(is_known, ids, NO_TARGET)
    arrays["weight"][places] = np.select([is_action, is_value], [1.0, config.value_weight], 0.0)
    arrays["objective"][places] = np.where(is_known, index, -1)
    return replace(world, **arrays)
