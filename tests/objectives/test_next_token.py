"""Next-token prediction: the shift lives in the data, and only targets are asked for.

Run: pytest tests/objectives/test_next_token.py
"""

from __future__ import annotations

import numpy as np
import pytest
from toy_sequences import BUILDER, VOCABULARY, toy_episode

from unimodel.batch import TokenSequence
from unimodel.config_objectives import NextTokenConfig
from unimodel.layout import CAUSAL, NO_TARGET, Role
from unimodel.objectives.corruption import corrupt
from unimodel.vocabulary import Modality

EPISODE = toy_episode(4)
SEQUENCES = [
    BUILDER.image_to_text(EPISODE.frames[0], EPISODE.captions[0], "e"),
    BUILDER.clip(EPISODE, 1),
    BUILDER.interaction(EPISODE, 0, 4),
]
CONFIG = NextTokenConfig(kind="next_token", modality_weights={"text": 0.5, "image": 2.0})


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda s: s.key)
def test_every_place_predicts_the_next_token_when_that_is_a_target(sequence: TokenSequence) -> None:
    result = corrupt(sequence, VOCABULARY, CONFIG, 3, np.random.default_rng(0))
    weights = {Modality.TEXT: 0.5, Modality.IMAGE: 2.0}
    for place in range(len(sequence)):
        following = next((s for s in sequence.spans if s.start <= place + 1 < s.stop), None)
        if following is not None and following.role is Role.TARGET:
            assert result.target[place] == sequence.ids[place + 1]
            assert result.weight[place] == weights.get(following.modality, 1.0)
            assert result.objective[place] == 3
        else:
            assert (result.target[place], result.weight[place], result.objective[place]) == (NO_TARGET, 0.0, -1)
    assert (result.input_ids == sequence.ids).all(), "nothing is corrupted"


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda s: s.key)
def test_no_place_sees_what_it_predicts(sequence: TokenSequence) -> None:
    """A picture that is a target is read causally; only a given one is a block."""
    block = corrupt(sequence, VOCABULARY, CONFIG, 0, np.random.default_rng(0)).block
    given_image = (sequence.role() == Role.CONDITION) & (sequence.modality() == Modality.IMAGE)
    assert ((block != CAUSAL) == given_image).all()
