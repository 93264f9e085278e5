"""What every memory is: it puts something in front of a segment, and makes of the segment what it will put there next.

    state = init(rows)
    for each segment:
        prefix = read(state)                  in front of the segment, as the decoder reads it
        state  = write(segment, state)        once the decoder has read it

So memories compose (their prefixes stand side by side), the decoder stays what it is, and a step costs the same however
long a world has lived. Read comes before write: nothing that is foretold was seen. Weights sit in submodules that are
called, never in a parameter that is looked at: under ZeRO 3 it would be empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unimodel.memory.state import State

Embed = Callable[[Tensor], Tensor]
"""The decoder's table: ids [...] -> [..., dim]."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Places in front of a segment.

    embeds  [rows, places, dim]
    grid    int64 [2, places] height and width of each, as patches have them
    blocks  int64 [places] places of one block see each other both ways; -1 sees those before it
    shown   bool [rows, places] whether there is anything
    """

    embeds: Tensor
    grid: Tensor
    blocks: Tensor
    shown: Tensor


@dataclass(frozen=True, slots=True)
class Question:
    """Places behind a segment, which see all of it and each other, and which nothing sees.

    embeds  [rows, places, dim]
    grid    int64 [2, places] height and width of each, as patches have them
    time    int64 [places] from the end of the segment on; patches of one picture have the same
    """

    embeds: Tensor
    grid: Tensor
    time: Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as the decoder has read it, the noisy copies left aside.

    tokens   [rows, length, dim] what each token is and what came of it: its embedding, normalised, and its last hidden
             state, which alone no longer tells: a decoder that was trained to foretell keeps little of what it read
    clean    bool [rows, length] tokens of the world itself, no copy and no padding
    ids      int64 [rows, frames, codes] ids of the frames, oldest first, without the last one: the next segment has it
    present  bool [rows, frames] whether there is such a frame
    states   [rows, frames, dim] mean of `tokens` over each frame's codes
    asked    [rows, places, dim] last hidden states of what the memory asked behind the segment
    actions  int64 [rows, frames] ids of what was done after each frame, by the first agent where there are several;
             UNKNOWN where nobody knows
    following  int64 [rows, frames, codes] ids of the frame after each, the last one of the segment among them
    """

    tokens: Tensor
    clean: Tensor
    ids: Tensor
    present: Tensor
    states: Tensor
    asked: Tensor
    actions: Tensor
    following: Tensor

    def last_token(self, before: Tensor) -> Tensor:
        """[rows, dim] what the last token of the world is; `before` where a row has none."""
        length = torch.arange(self.clean.shape[1], device=before.device)
        last = (self.clean.long() * length).argmax(dim=1)
        here = self.tokens[torch.arange(len(last), device=before.device), last].to(before.dtype)
        return torch.where(self.clean.any(dim=1)[:, None], here, before)


class Mechanism(Protocol):
    """One kind of memory, as a module."""

    prefix_places: int
    """In front of every segment."""
    asked_places: int
    """Behind every segment, which see all of it and which nothing sees."""

    def init(self, rows: int, device: torch.device) -> State:
        """A memory of nothing."""
        ...

    def read(self, state: State, embed: Embed) -> Prefix: ...

    def ask(self, state: State, embed: Embed) -> Question:
        """What stands behind the segment, of `asked_places`."""
        ...

    def write(self, segment: Segment, state: State) -> State:
        """A new state; the old one stays as it is."""
        ...


def nothing_asked(state: State, dim: int) -> Question:
    """Of a memory that has no question."""
    some = next(iter(state.values()))
    nowhere = torch.zeros(0, dtype=torch.int64, device=some.device)
    return Question(torch.zeros(some.shape[0], 0, dim, device=some.device), nowhere.expand(2, 0), nowhere)
