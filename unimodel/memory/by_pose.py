"""Recall by place: of all frames that a world has shown, those seen from nearest to here stand in front of a segment
(WorldMem, arXiv 2504.12369).

Nobody tells a world its pose: it is reckoned from where the stretch began, move by move, each told by a frozen odometer
from what was seen and done (`unimodel/tokenizers/odometer.py`). That is done where a segment is written, so that
training and a live world know the same of the same past.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimodel.config_memory import EpisodicConfig
from unimodel.memory.compressed import patch_places
from unimodel.memory.episodic import places_in_ring, with_placed
from unimodel.memory.poses import apart, moved, seen_from
from unimodel.memory.protocol import Embed, Prefix, Question, Segment, nothing_asked
from unimodel.memory.state import State
from unimodel.tokenizers.odometer import Odometer

RESOLUTION = 0.01
"""Of places, and of how far they are: closer than that poses are one, and distances equal."""


class PoseMemory(nn.Module):
    """State: `ids` int64 [rows, capacity, codes] and `poses` float32 [rows, capacity, 3] of the frames kept, `present`
    [rows, capacity], `pose` float32 [rows, 3] of the first frame of the next segment, and `count` int64 [rows], frames
    written so far: the next goes to place count % capacity."""

    asked_places = 0

    def __init__(
        self,
        config: EpisodicConfig,
        newer_frames: int,
        odometer: Odometer,
        grid: tuple[int, int],
        dim: int,
        scale: float,
    ) -> None:
        """The last `newer_frames` frames are in front of a segment anyway, and not recalled."""
        super().__init__()
        self._capacity, self._recalled = config.capacity_frames, config.recalled_frames
        self._turn_weight, self._newer = config.turn_weight, newer_frames
        self._grid, self._dim = grid, dim
        self._codes = grid[0] * grid[1]
        self.prefix_places = self._recalled * self._codes
        self.odometer = odometer.frozen()
        self.embed_mark, self.embed_pose = nn.Embedding(1, dim), nn.Linear(4, dim)
        nn.init.normal_(self.embed_mark.weight, std=scale)
        nn.init.normal_(self.embed_pose.weight, std=scale)
        nn.init.zeros_(self.embed_pose.bias)

    def init(self, rows: int, device: torch.device) -> State:
        return {
            "ids": torch.zeros(rows, self._capacity, self._codes, dtype=torch.int64, device=device),
            "poses": torch.zeros(rows, self._capacity, 3, device=device),
            "present": torch.zeros(rows, self._capacity, dtype=torch.bool, device=device),
            "pose": torch.zeros(rows, 3, device=device),
            "count": torch.zeros(rows, dtype=torch.int64, device=device),
        }

    def recall(self, state: State) -> tuple[Tensor, Tensor]:
        """Places int64 [rows, recalled] of the nearest frames, one of a pose, nearest first and of equally near ones
        the newest; and bool whether there is one."""
        number = torch.arange(self._capacity, device=state["count"].device)
        age = (state["count"][:, None] - 1 - number) % self._capacity
        left = state["present"] & (age >= self._newer)
        far = apart(state["poses"], state["pose"][:, None], self._turn_weight)
        order = (far / RESOLUTION).round().long() * self._capacity + age
        places, found = [], []
        for _ in range(self._recalled):
            nearest = order.masked_fill(~left, torch.iinfo(order.dtype).max).argmin(dim=1, keepdim=True)
            places.append(nearest)
            found.append(left.gather(1, nearest))
            here = state["poses"].gather(1, nearest[..., None].expand(-1, -1, 3))
            left = left & (apart(state["poses"], here, 1.0) > RESOLUTION)
        return torch.cat(places, dim=1), torch.cat(found, dim=1)

    def read(self, state: State, embed: Embed) -> Prefix:
        """The nearest comes last, next to the segment. Of where a frame was seen from far distances are told less
        exactly than near ones, or they would drown what is to be seen."""
        places, found = (answer.flip(1) for answer in self.recall(state))
        frames = embed(state["ids"].gather(1, places[..., None].expand(-1, -1, self._codes)))
        poses = state["poses"].gather(1, places[..., None].expand(-1, -1, 3))
        forward, left, turn = seen_from(state["pose"][:, None], poses).unbind(dim=-1)
        where = torch.stack([forward.asinh(), left.asinh(), turn.cos(), turn.sin()], dim=-1)
        first = torch.zeros(1, dtype=torch.int64, device=places.device)
        frames = frames + self.embed_pose(where.to(frames.dtype))[:, :, None] + self.embed_mark(first)
        height, width = self._grid
        return Prefix(
            embeds=frames.reshape(len(places), -1, self._dim),
            grid=patch_places(height, width, 1, places.device).repeat(1, self._recalled),
            blocks=torch.arange(self._recalled, device=places.device).repeat_interleave(self._codes),
            shown=found.repeat_interleave(self._codes, dim=1),
        )

    def ask(self, state: State, embed: Embed) -> Question:
        del embed
        return nothing_asked(state, self._dim)

    def write(self, segment: Segment, state: State) -> State:
        moves = self.odometer.foretold(segment.ids, segment.actions, segment.following)
        moves = torch.where(segment.present[..., None], moves, 0.0)
        poses = [state["pose"]]
        for move in moves.unbind(dim=1):
            poses.append(moved(poses[-1], move))
        place = places_in_ring(segment.present, state["count"], self._capacity)
        return {
            "ids": with_placed(state["ids"], place, segment.ids),
            "poses": with_placed(state["poses"], place, torch.stack(poses[:-1], dim=1)),
            "present": with_placed(state["present"], place, segment.present),
            "pose": poses[-1],
            "count": state["count"] + segment.present.sum(dim=1),
        }
