"""A stretch of an episode as segments of one length, each corrupted by itself and filled up to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unimodel.batch import SEQUENCE_FIELDS, CorruptedSequence, padding
from unimodel.layout import CLEAN
from unimodel.vocabulary import Modality

NOTHING = 0
"""The id where nothing stands: nobody sees it."""


def num_segments(steps: int, segment_frames: int) -> int:
    """Segments of so many steps; one for a single frame."""
    return max(1, -(-steps // segment_frames))


def hide_first_picture(corrupted: CorruptedSequence, hidden_id: int) -> CorruptedSequence:
    """Its first picture hidden from whoever reads the segment: `hidden_id` for each of its codes."""
    (codes,) = np.nonzero((corrupted.stream == CLEAN) & (corrupted.modality == int(Modality.IMAGE)))
    first = codes[corrupted.block[codes] == corrupted.block[codes[:1]]]
    ids = corrupted.input_ids.copy()
    ids[first] = hidden_id
    return replace(corrupted, input_ids=ids)


def join_segments(segments: Sequence[CorruptedSequence], segment_tokens: int) -> CorruptedSequence:
    """One sequence of them all. Raises ValueError for one that is longer than `segment_tokens`."""
    pieces: list[CorruptedSequence] = []
    for segment in segments:
        left = segment_tokens - len(segment)
        if left < 0:
            raise ValueError(
                f"a segment of {len(segment)} tokens is longer than memory.segment_tokens ({segment_tokens}): raise it "
                "or lower memory.segment_frames"
            )
        pieces += [segment, padding(left, NOTHING)] if left else [segment]
    return CorruptedSequence(
        **{field: np.concatenate([getattr(piece, field) for piece in pieces], axis=-1) for field in SEQUENCE_FIELDS}
    )
