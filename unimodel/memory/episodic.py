"""Recall: of all frames that a world has shown, the few that matter now stand in front of a segment (Memorizing
Transformers, arXiv 2203.08913, with frames for tokens). `by_pose.py` recalls by place instead.

A frame is kept as its tokens, with a learned key. Tokens outlive the model: keys and values of an older one would be
stale, tokens are read again. Where the last segment ended asks, the frames with the best keys answer, and how well a
key fits says how much of its frame is shown: so the keys learn from what a recalled frame is good for.

A choice teaches nothing of what was not chosen. So beside the frames stands their gist: the mean of the keys of all
frames, each weighted by how well it fits, through which every key learns at once. Without it the best frame is found
by luck or never (docs/experiments.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimodel.memory.compressed import patch_places
from unimodel.memory.protocol import Embed, Prefix, Question, Segment, nothing_asked
from unimodel.memory.state import State

SHARPNESS = 4.0
"""Of the sigmoid of a fit, a cosine, that says how much of a frame is shown: 0.98 at 1, 0.5 at 0."""
GIST_SHARPNESS = 8.0
"""Of the softmax of the fits of all frames: near uniform at first, and one frame among a thousand once keys differ."""


class EpisodicMemory(nn.Module):
    """State: `ids` int64 [rows, capacity, codes], `keys` [rows, capacity, key_dim], `present` [rows, capacity], `where`
    [rows, dim], and `count` int64 [rows], frames written so far: the next goes to place count % capacity."""

    asked_places = 0

    def __init__(
        self, capacity: int, recalled: int, key_dim: int, grid: tuple[int, int], dim: int, scale: float
    ) -> None:
        super().__init__()
        self._capacity, self._recalled, self._key_dim = capacity, recalled, key_dim
        self._grid, self._dim = grid, dim
        self._codes = grid[0] * grid[1]
        self.prefix_places = 1 + recalled * self._codes
        self.key, self.query = nn.Linear(dim, key_dim), nn.Linear(dim, key_dim)
        self.gist = nn.Linear(key_dim, dim, bias=False)
        self.embed_mark, self.embed_unknown, self.embed_gist = (nn.Embedding(1, dim) for _ in range(3))
        for linear in (self.key, self.query):
            nn.init.normal_(linear.weight, std=dim**-0.5)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.gist.weight, std=scale)
        for table in (self.embed_mark, self.embed_unknown, self.embed_gist):
            nn.init.normal_(table.weight, std=scale)

    def init(self, rows: int, device: torch.device) -> State:
        return {
            "ids": torch.zeros(rows, self._capacity, self._codes, dtype=torch.int64, device=device),
            "keys": torch.zeros(rows, self._capacity, self._key_dim, device=device),
            "present": torch.zeros(rows, self._capacity, dtype=torch.bool, device=device),
            "where": torch.zeros(rows, self._dim, device=device),
            "count": torch.zeros(rows, dtype=torch.int64, device=device),
        }

    def fit(self, state: State) -> Tensor:
        """[rows, capacity] how well each frame answers where the last segment ended, a cosine; -inf where none is."""
        query = nn.functional.normalize(self.query(state["where"]), dim=-1)
        return torch.einsum("rcd,rd->rc", state["keys"], query).masked_fill(~state["present"], -torch.inf)

    def recall(self, fit: Tensor) -> tuple[Tensor, Tensor]:
        """Places int64 [rows, recalled] of the frames that fit best, best first, and how well they do; -inf where there
        are not so many."""
        best = fit.topk(self._recalled, dim=1)
        return best.indices, best.values

    def read(self, state: State, embed: Embed) -> Prefix:
        """The gist, and the frames, of which the best comes last, next to the segment."""
        all_fit, is_known = self.fit(state), state["present"].any(dim=1, keepdim=True)
        weight = (GIST_SHARPNESS * all_fit.masked_fill(~is_known, 0.0)).softmax(dim=1)
        gist = self.gist(torch.einsum("rc,rcd->rd", weight, state["keys"]))
        places, fit = (answer.flip(1) for answer in self.recall(all_fit))
        ids = state["ids"].gather(1, places[..., None].expand(-1, -1, self._codes))
        first = torch.zeros(1, dtype=torch.int64, device=ids.device)
        shown = (SHARPNESS * fit).sigmoid()[..., None, None]
        frames = shown * embed(ids) + (1 - shown) * self.embed_unknown(first) + self.embed_mark(first)
        rows, (height, width) = ids.shape[0], self._grid
        patches = patch_places(height, width, 1, ids.device).repeat(1, self._recalled)
        number = torch.arange(1 + self._recalled, device=ids.device)
        blocks = torch.cat([number[:1], number[1:].repeat_interleave(self._codes)])
        return Prefix(
            embeds=torch.cat([(self.embed_gist(first) + gist)[:, None], frames.reshape(rows, -1, self._dim)], dim=1),
            grid=torch.cat([patches.new_zeros(2, 1), patches], dim=1),
            blocks=blocks,
            shown=torch.cat([is_known, fit.isfinite().repeat_interleave(self._codes, dim=1)], dim=1),
        )

    def ask(self, state: State, embed: Embed) -> Question:
        del embed
        return nothing_asked(state, self._dim)

    def write(self, segment: Segment, state: State) -> State:
        keys = nn.functional.normalize(self.key(segment.states), dim=-1).to(state["keys"].dtype)
        place = places_in_ring(segment.present, state["count"], self._capacity)
        return {
            "ids": with_placed(state["ids"], place, segment.ids),
            "keys": with_placed(state["keys"], place, keys),
            "present": with_placed(state["present"], place, segment.present),
            "where": segment.last_token(state["where"]),
            "count": state["count"] + segment.present.sum(dim=1),
        }


def places_in_ring(present: Tensor, count: Tensor, capacity: int) -> Tensor:
    """int64 [rows, frames] where in a ring of `capacity` places, of which `count` [rows] were written before, frames go
    that are `present` [rows, frames]; those that are not: a place too many."""
    before = present.cumsum(dim=1) - present.long()
    return torch.where(present, (count[:, None] + before) % capacity, capacity)


def with_placed(old: Tensor, place: Tensor, new: Tensor) -> Tensor:
    """`old` [rows, capacity, ...] with `new` [rows, frames, ...] at `place` [rows, frames]; capacity is nowhere."""
    room = torch.cat([old, torch.zeros_like(old[:, :1])], dim=1)
    index = place.reshape(*place.shape, *[1] * (new.ndim - 2)).expand_as(new)
    return room.scatter(1, index, new)[:, :-1]
