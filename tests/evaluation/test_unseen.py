"""What went on unseen: which tokens are asked for, and a memory that stands still where nothing is seen.

Run: pytest tests/evaluation/test_unseen.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from recorded_data import played
from toy_memories import EACH, NAMES, SIDE, STEPS, TOKENS, memory_of, remembering
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, toy_episode

from unimodel.batch import PackedBatch, pack
from unimodel.evaluation.unseen import ask_unseen, hidden_where_written
from unimodel.memory.state import State
from unimodel.objectives.asked import ask_everything
from unimodel.objectives.segments import join_segments

BALLS = "data_pipelines.sources.balls:HiddenBalls-v0"
LOOKS_AWAY: dict[str, Any] = {"kind": "look_away", "seen_steps": [2, 4], "away_steps": [3, 24]}
SEGMENTS = 4


def test_asked_for_is_what_moved_while_whole_segments_showed_nothing_of_it() -> None:
    asked_of = 0
    for seed in range(6):
        episode = played(BALLS, seed, max_steps=48, image_size=40, **LOOKS_AWAY)[0]
        tiles = episode.frames[:, 4::8, 4::8].astype(np.int64) @ [1, 256, 65536]
        tokens = replace(toy_episode(0, len(tiles) - 1), frames=tiles)
        asked = ask_unseen(episode, tokens, segment_frames=STEPS)
        # Rails are dark blue, (60, 60, 80), and nobody else is.
        shows = (tiles == 60 + 60 * 256 + 80 * 65536).any(axis=(1, 2))
        assert asked.sees.tolist() == [bool(shows[first : first + STEPS + 1].any()) for first in range(0, 48, STEPS)]
        for time, (look, moving) in enumerate(zip(asked.looks, asked.moving, strict=True), start=1):
            before = max(np.flatnonzero(shows[:time]), default=time)
            blind = [n for n, sees in enumerate(asked.sees) if not sees and before < n * STEPS < time - STEPS]
            assert not look or (shows[time] and blind)
            # Seen from the same place all the time: of the picture, the upper two rows alone move, which are the rails.
            assert set(np.flatnonzero(moving)) <= (set(range(10)) if shows[time] else set())
            assert look == bool(shows[time] and blind and (tiles[before] != tiles[time]).any())
            asked_of += look
    assert asked_of > 10


def rows(*seeds: int) -> PackedBatch:
    """An episode of SEGMENTS segments to a row."""
    episodes = [toy_episode(seed, SEGMENTS * STEPS, SIDE) for seed in seeds]
    starts = range(0, SEGMENTS * STEPS, STEPS)
    asked = [
        [ask_everything(BUILDER.interaction(one, first, STEPS + 1), VOCABULARY) for first in starts] for one in episodes
    ]
    return pack([[join_segments(segments, TOKENS)] for segments in asked], SEGMENTS * TOKENS, PAD_ID)


@torch.no_grad()
@pytest.mark.parametrize("mechanisms", EACH, ids=NAMES)
def test_a_memory_that_always_writes_is_the_memory_and_one_that_never_does_is_empty(mechanisms: list) -> None:
    backbone, batch = remembering(mechanisms), rows(0, 1)
    memory, writes = memory_of(backbone), [np.ones(SEGMENTS, dtype=bool), np.zeros(SEGMENTS, dtype=bool)]
    hidden = hidden_where_written(backbone, batch, writes)
    torch.testing.assert_close(hidden[0], memory.hidden(backbone, batch)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden[1], memory.forgetful().hidden(backbone, batch)[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mechanisms", EACH, ids=NAMES)
def test_a_frozen_memory_is_the_one_that_never_read_what_lies_between(mechanisms: list) -> None:
    """Segments 1 and 2 do not write: segment 3 is read as if it came right after segment 0."""
    backbone, batch = remembering(mechanisms), rows(0)
    memory, writes = memory_of(backbone), np.array([True, False, False, True])
    frozen = hidden_where_written(backbone, batch, [writes])[:, 3 * TOKENS :]
    first, last = batch.columns(0, TOKENS), batch.columns(3 * TOKENS, 4 * TOKENS)
    empty: State = memory.init(1, torch.device("cpu"))
    after_one = memory.write(memory.pass_segment(backbone, first, empty)[0], empty)
    torch.testing.assert_close(frozen, memory.pass_segment(backbone, last, after_one)[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(frozen, memory.hidden(backbone, batch)[:, 3 * TOKENS :], atol=1e-4)
