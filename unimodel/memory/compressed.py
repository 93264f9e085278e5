"""The last frames in front of a segment, older ones coarser (FramePack, arXiv 2504.12626): a few in full, more at a
quarter of their tokens, many at a sixteenth. One level in full is a plain longer window.

A coarser frame is the mean of the embeddings of each square of its patches, through a layer of its level. Frames keep
their place in the picture; in time they stand one after another in front of the segment, as they came.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimodel.layout import GRID_SPACING
from unimodel.memory.protocol import Embed, Prefix, Question, Segment, nothing_asked
from unimodel.memory.state import State


@dataclass(frozen=True, slots=True)
class Level:
    """`frames` of the past, each square of `side` x `side` patches as one token."""

    frames: int
    side: int


class CompressedMemory(nn.Module):
    """State: `ids` int64 [rows, frames, codes] of the last frames, the newest last, and `present` [rows, frames]."""

    asked_places = 0

    def __init__(self, levels: tuple[Level, ...], grid: tuple[int, int], dim: int, scale: float) -> None:
        """`levels` from the newest frames to the oldest.

        Raises ValueError for a picture that does not divide into a level's squares.
        """
        super().__init__()
        for level in levels:
            if any(patches % level.side for patches in grid):
                raise ValueError(f"a picture of {grid[0]}x{grid[1]} patches has no whole squares of side {level.side}")
        self._levels, self._grid, self._dim = levels, grid, dim
        self._frames = sum(level.frames for level in levels)
        self.prefix_places = sum(level.frames * grid[0] * grid[1] // level.side**2 for level in levels)
        self.pooled = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in levels)
        self.embed_marks = nn.Embedding(len(levels), dim)
        nn.init.normal_(self.embed_marks.weight, std=scale)
        for linear in self.pooled:
            assert isinstance(linear, nn.Linear)
            nn.init.eye_(linear.weight)

    def init(self, rows: int, device: torch.device) -> State:
        codes = self._grid[0] * self._grid[1]
        return {
            "ids": torch.zeros(rows, self._frames, codes, dtype=torch.int64, device=device),
            "present": torch.zeros(rows, self._frames, dtype=torch.bool, device=device),
        }

    def read(self, state: State, embed: Embed) -> Prefix:
        """The oldest frame comes first."""
        parts, newest = [], self._frames
        for number, level in enumerate(self._levels):
            frames = slice(newest - level.frames, newest)
            parts.append(self._read_level(number, state["ids"][:, frames], state["present"][:, frames], embed))
            newest -= level.frames
        parts.reverse()
        blocks, count = [], 0
        for part in parts:
            blocks.append(part.blocks + count)
            count += int(part.blocks[-1]) + 1
        return Prefix(
            torch.cat([part.embeds for part in parts], dim=1),
            torch.cat([part.grid for part in parts], dim=1),
            torch.cat(blocks),
            torch.cat([part.shown for part in parts], dim=1),
        )

    def ask(self, state: State, embed: Embed) -> Question:
        del embed
        return nothing_asked(state, self._dim)

    def write(self, segment: Segment, state: State) -> State:
        """Frames that are there move up; those of a short segment stand at its end."""
        ids, present = (
            torch.cat([state[name], new], dim=1) for name, new in (("ids", segment.ids), ("present", segment.present))
        )
        # A stable sort brings what is there to the end, in order.
        order = present.to(torch.int8).sort(dim=1, stable=True).indices[:, -self._frames :]
        ids = ids.gather(1, order[..., None].expand(-1, -1, ids.shape[2]))
        return {"ids": ids, "present": present.gather(1, order)}

    def _read_level(self, number: int, ids: Tensor, present: Tensor, embed: Embed) -> Prefix:
        level, (height, width) = self._levels[number], self._grid
        rows, frames, side = ids.shape[0], level.frames, level.side
        down, across = height // side, width // side
        squares = embed(ids).reshape(rows, frames, down, side, across, side, self._dim).mean(dim=(3, 5))
        mark = self.embed_marks(torch.tensor(number, device=ids.device))
        return Prefix(
            embeds=(self.pooled[number](squares) + mark).reshape(rows, -1, self._dim),
            grid=patch_places(down, across, side, ids.device).repeat(1, frames),
            blocks=torch.arange(frames, device=ids.device).repeat_interleave(down * across),
            shown=present.repeat_interleave(down * across, dim=1),
        )


def patch_places(down: int, across: int, side: int, device: torch.device) -> Tensor:
    """int64 [2, down * across] heights and widths of squares of `side` patches: where the middle of each is."""
    middle = (side - 1) * GRID_SPACING // 2
    height, width = (torch.arange(count, device=device) * side * GRID_SPACING + middle for count in (down, across))
    return torch.stack([height.repeat_interleave(across), width.repeat(down)])
