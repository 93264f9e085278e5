"""What live worlds remember beyond their windows: the memory of their model, one row for each world.

A world's window is a segment as in training: when it is full it is written, and the next one begins with the last
frame of it behind what the memory then has to say. So a step costs the same in the ten-thousandth frame as in the
hundredth, and the whole past of a world is its memory's state and the frames of one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimodel.backbone.model import Backbone
from unimodel.batch import CorruptedSequence, TokenSequence, pack
from unimodel.layout import CAUSAL
from unimodel.memory.memory import Memory
from unimodel.memory.state import State, rows_of, side_by_side
from unimodel.world.cache import KeyValueCache


@dataclass(frozen=True, slots=True)
class Recollection:
    """The memory of a model, as its live worlds use it."""

    backbone: Backbone
    memory: Memory
    pad_id: int

    @property
    def places(self) -> int:
        """In front of every window."""
        return self.memory.prefix_places

    @property
    def window_frames(self) -> int:
        return self.memory.span.frames

    def of_nothing(self) -> State:
        """What a world remembers that begins."""
        return self.memory.init(1, next(self.backbone.parameters()).device)

    def written(self, states: Sequence[State], windows: Sequence[tuple[np.ndarray, TokenSequence]]) -> list[State]:
        """What each remembers after its full window: ids as the world has read them, and their sequence."""
        segments = [_as_segment(ids, sequence) for ids, sequence in windows]
        device = next(self.backbone.parameters()).device
        part = pack([[segment] for segment in segments], max(map(len, segments)), self.pad_id).to(device)
        state = side_by_side(states)
        after = self.memory.write(self.memory.pass_segment(self.backbone, part, state)[0], state)
        return [rows_of(after, [row]) for row in range(len(states))]

    def recall(self, states: Sequence[State], rows: Sequence[int], cache: KeyValueCache) -> Tensor:
        """Reads each memory into the first places of its row of the cache, which must have room for them. Returns which
        of these places say anything, bool [rows, places]."""
        prefix = self.memory.read(side_by_side(states), self.backbone)
        count, places, _ = prefix.embeds.shape
        if not places:
            return prefix.shown
        index = torch.arange(places, device=prefix.embeds.device)
        positions = torch.stack([index, index, *prefix.grid])[:, None].expand(4, count, places)
        together = (prefix.blocks[:, None] == prefix.blocks) & (prefix.blocks[:, None] != CAUSAL)
        seen = ((index[:, None] >= index) | together) & prefix.shown[:, None]
        seen = seen | (index[:, None] == index)
        writing = cache.at(rows, [0] * count, places)
        mask = torch.zeros(count, 1, places, writing.extent, dtype=torch.bool, device=index.device)
        mask[:, 0, :, :places] = seen
        self.backbone.hidden_after_embeds(prefix.embeds, positions, mask, writing)
        return prefix.shown


def _as_segment(ids: np.ndarray, sequence: TokenSequence) -> CorruptedSequence:
    """A window that nothing is asked of."""
    layout = sequence.layout
    return CorruptedSequence(
        input_ids=ids,
        position_ids=layout.position_ids,
        block=layout.blocks,
        stream=layout.streams,
        target=layout.no_target,
        weight=np.zeros(len(ids), dtype=np.float32),
        objective=layout.nowhere,
        modality=layout.modality,
    )
