"""Positions of one dimension: tokens that nobody else reads take no place.

Run: pytest tests/backbone/test_positions.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, laid_out, toy_episode, toy_talkie

from unimodel.backbone.positions import reading_index
from unimodel.batch import CorruptedSequence, pack
from unimodel.config_objectives import PolicyConfig, TeacherForcingConfig
from unimodel.objectives.corruption import corrupt
from unimodel.objectives.teacher_forcing import lay_copies


def index_of(*sequences: CorruptedSequence) -> torch.Tensor:
    batch = pack([list(sequences)], sum(map(len, sequences)) + 5, PAD_ID)
    return reading_index(batch.document, batch.stream)[0]


def test_clean_documents_are_numbered_from_0_each() -> None:
    made = [laid_out(np.full(n, 3), np.full(n, -1)) for n in (4, 7)]
    assert index_of(*made).tolist() == [*range(4), *range(7), *range(5)]


@pytest.mark.parametrize("episode", [toy_episode(1), toy_talkie(2)], ids=["pictures", "sound too"])
def test_copies_stand_where_their_frames_do_and_agents_where_the_layout_says(episode) -> None:
    sequence = BUILDER.build("interaction", episode, 0, 5, discount=0.9)
    rng = np.random.default_rng(0)
    asked = corrupt(sequence, VOCABULARY, PolicyConfig(kind="policy"), 0, rng)
    copied = corrupt(sequence, VOCABULARY, TeacherForcingConfig(kind="teacher_forcing"), 0, rng)
    found = index_of(asked, copied).numpy()
    assert (found[: len(asked)] == sequence.layout.index).all()
    source = lay_copies(sequence.layout).source
    assert (found[len(asked) : len(asked) + len(copied)] == sequence.layout.index[source]).all()
