"""The memory of a model: its mechanisms side by side, and the segments that they carry state across.

A row of a memory stage is a stretch of an episode, cut into segments of equal length:

    segment 1: prefix of init   | tokens | questions
    segment 2: prefix of what 1 has written | tokens | questions    ...

Each is a forward of the decoder of its own, so nothing passes from one to the next but the state: what a live world
does (`unimodel/world`), done in training. Every rank makes the same forwards, whatever its rows hold (ZeRO 3). The
gradient passes `truncation` segments and then stops: backpropagation through time, truncated by a detached copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from unimodel.backbone.model import Backbone
from unimodel.backbone.positions import reading_index
from unimodel.batch import PADDING_DOCUMENT, PackedBatch
from unimodel.layout import CAUSAL, CLEAN
from unimodel.memory.protocol import Mechanism, Prefix, Question, Segment, nothing_asked
from unimodel.memory.state import State, choose, detach, named, part_of
from unimodel.vocabulary import UNKNOWN, Modality

COUNT = "segments"
HASH = 2654435761
"""Knuth's multiplier: ids times odd numbers, summed, for a draw that follows from what a segment holds."""


@dataclass(frozen=True, slots=True)
class Span:
    """How a stage cuts its rows: `tokens` a segment with room for `frames` frames, the first of which that before has
    had as well; gradients pass `truncation` segments; in `dropout` of the segments a row reads an empty memory."""

    tokens: int
    frames: int
    truncation: int
    dropout: float


class Surrounding(NamedTuple):
    """A segment with what stands before and behind it, as the decoder reads it: embeds [rows, length, dim],
    positions int64 [4, rows, length], the others int64 [rows, length]; the segment is `[begin, end)` of it."""

    embeds: Tensor
    positions: Tensor
    document: Tensor
    block: Tensor
    stream: Tensor
    begin: int
    end: int


class Memory(nn.Module):
    """Mechanisms by name. Beside the decoder, saved beside it."""

    def __init__(self, mechanisms: Mapping[str, nn.Module], span: Span, codes_per_frame: int, dim: int) -> None:
        super().__init__()
        self.mechanisms = nn.ModuleDict(mechanisms)
        self.span, self._codes, self._dim = span, codes_per_frame, dim
        self.forgets = False
        """All that it has read, whenever it writes: what is left of its model is a window."""
        self.prefix_places = sum(each.prefix_places for _, each in self._each())
        self.asked_places = sum(each.asked_places for _, each in self._each())

    def forgetful(self) -> Memory:
        """The same mechanisms, whose memory is empty in every segment. This one stays as it is."""
        other = Memory(dict(self.mechanisms.items()), self.span, self._codes, self._dim)
        other.forgets = True
        return other.eval()

    def init(self, rows: int, device: torch.device) -> State:
        """A memory of nothing for so many rows; COUNT is how many segments each has written."""
        parts = ((name, each.init(rows, device)) for name, each in self._each())
        return {COUNT: torch.zeros(rows, dtype=torch.int64, device=device), **_joined(parts)}

    def read(self, state: State, backbone: Backbone) -> Prefix:
        """What stands in front of the next segment."""
        parts = [self._nothing(state)]
        parts += [each.read(part_of(state, name), backbone.embed) for name, each in self._each()]
        blocks, count = [], 0
        for part in parts:
            blocks.append(torch.where(part.blocks == CAUSAL, CAUSAL, part.blocks + count))
            count = 1 + max([count - 1, *blocks[-1].tolist()])
        return Prefix(
            torch.cat([part.embeds for part in parts], dim=1),
            torch.cat([part.grid for part in parts], dim=1),
            torch.cat(blocks),
            torch.cat([part.shown for part in parts], dim=1),
        )

    def ask(self, state: State, backbone: Backbone) -> Question:
        """What stands behind the next segment."""
        asked = [nothing_asked(state, self._dim)]
        asked += [each.ask(part_of(state, name), backbone.embed) for name, each in self._each()]
        return Question(
            torch.cat([each.embeds for each in asked], dim=1),
            torch.cat([each.grid for each in asked], dim=1),
            torch.cat([each.time for each in asked]),
        )

    def write(self, segment: Segment, state: State) -> State:
        """What is known after a segment."""
        if self.forgets:
            return self.init(len(state[COUNT]), state[COUNT].device)
        states: list[tuple[str, State]] = []
        begin = 0
        for name, each in self._each():
            asked = segment.asked[:, begin : begin + each.asked_places]
            states.append((name, each.write(replace(segment, asked=asked), part_of(state, name))))
            begin += each.asked_places
        return {COUNT: state[COUNT] + 1, **_joined(states)}

    @property
    def segment_tokens(self) -> int:
        """Places of a segment."""
        return self.span.tokens

    def hidden(self, backbone: Backbone, batch: PackedBatch) -> Tensor:
        """[rows, length, dim] last hidden states of rows of whole segments, each read after those before it.

        Raises ValueError for a row that is no whole number of segments.
        """
        rows, length = batch.document.shape
        if length % self.span.tokens:
            raise ValueError(f"a row of {length} tokens is no whole number of segments of {self.span.tokens}")
        empty = self.init(rows, batch.input_ids.device)
        state, outputs, before = empty, [], torch.full_like(batch.document[:, 0], PADDING_DOCUMENT)
        for number, begin in enumerate(range(0, length, self.span.tokens)):
            part = batch.columns(begin, begin + self.span.tokens)
            if number and number % self.span.truncation == 0:
                state = detach(state)
            document = part.document[:, 0]
            state = choose(document != before, empty, state)
            read = choose(self._dropped(part), empty, state)
            segment, hidden = self.pass_segment(backbone, part, read)
            outputs.append(hidden)
            if begin + self.span.tokens < length:
                written = self.write(segment, state)
                state = choose(document == PADDING_DOCUMENT, state, written)
            before = document
        return torch.cat(outputs, dim=1)

    def pass_segment(self, backbone: Backbone, part: PackedBatch, state: State) -> tuple[Segment, Tensor]:
        """A segment, one to a row of `part`, read with what is remembered: what to write of it, and the hidden states
        [rows, length, dim] of its places."""
        around = self.surround(self.read(state, backbone), self.ask(state, backbone), part, backbone)
        hidden = backbone.hidden_of(*around[:5])
        own, asked = hidden[:, around.begin : around.end], hidden[:, around.end :]
        embeds = around.embeds[:, around.begin : around.end]
        tokens = own + nn.functional.rms_norm(embeds, own.shape[-1:]).to(own.dtype)
        return self._segment(part, tokens, asked), own

    def surround(self, prefix: Prefix, asked: Question, part: PackedBatch, backbone: Backbone) -> Surrounding:
        """Positions go on from the prefix into the segment, whose own begin at 0 as those of any window, and from its
        last clean token into the questions."""
        rows, length = part.document.shape
        before, after, device = prefix.embeds.shape[1], asked.embeds.shape[1], part.document.device
        document = part.document[:, :1]
        own = reading_index(part.document, part.stream)
        is_there = (part.stream == CLEAN) & (part.document != PADDING_DOCUMENT)
        end = before + 1 + own.masked_fill(~is_there, -1).amax(dim=1, keepdim=True)
        index = torch.cat(
            [
                torch.arange(before, device=device).expand(rows, -1),
                before + own,
                end + torch.arange(after, device=device),
            ],
            dim=1,
        )
        shifted = part.position_ids + before * (part.position_ids.new_tensor([1, 0, 0])[:, None, None])
        sides = [grid[:, None].expand(2, rows, -1) for grid in (prefix.grid, asked.grid)]
        grid = torch.cat([sides[0], shifted[1:], sides[1]], dim=2)
        time = torch.cat([index[:, :before], shifted[0], end + asked.time], dim=1)
        free = part.block.max(dim=1, keepdim=True).values + 1
        block = torch.where(prefix.blocks == CAUSAL, CAUSAL, free + prefix.blocks)
        last = free + 1 + max([-1, *prefix.blocks.tolist()])
        clean = torch.full_like(document, CLEAN)
        return Surrounding(
            torch.cat([prefix.embeds, backbone.embed(part.input_ids), asked.embeds], dim=1),
            torch.stack([index, time, *grid]),
            torch.cat(
                [torch.where(prefix.shown, document, PADDING_DOCUMENT), part.document, document.expand(-1, after)],
                dim=1,
            ),
            torch.cat([block, part.block, last.expand(-1, after)], dim=1),
            torch.cat([clean.expand(-1, before), part.stream, clean.expand(-1, after)], dim=1),
            before,
            before + length,
        )

    def _segment(self, part: PackedBatch, tokens: Tensor, asked: Tensor) -> Segment:
        """Frames are found by what they are: codes of pictures in the clean stream, so many to a frame."""
        clean = (part.stream == CLEAN) & (part.document != PADDING_DOCUMENT)
        is_code = clean & (part.modality == int(Modality.IMAGE))
        frames, before = self.span.frames, is_code.cumsum(dim=1)
        number = torch.where(is_code, before - 1, frames * self._codes).clamp(max=frames * self._codes)
        ids = _scattered(part.input_ids, number, frames * self._codes).unflatten(1, (frames, self._codes))
        # The last frame that is there comes again in the next segment.
        there = is_code.sum(dim=1) // self._codes - 1
        present = torch.arange(frames - 1, device=there.device) < there[:, None]
        spread = number[..., None].expand_as(tokens)
        states = tokens.new_zeros(tokens.shape[0], frames * self._codes + 1, tokens.shape[2]).scatter(1, spread, tokens)
        states = states[:, :-1].unflatten(1, (frames, self._codes))[:, :-1].mean(dim=2)
        # Actions of other agents stand lower.
        is_action = clean & (part.modality == int(Modality.ACTION)) & (part.position_ids[1] == 0)
        step = before // self._codes - 1
        step = torch.where(is_action & (step >= 0), step, frames - 1).clamp(max=frames - 1)
        actions = _scattered(part.input_ids - UNKNOWN, step, frames - 1) + UNKNOWN
        return Segment(tokens, clean, ids[:, :-1], present, states, asked, actions, ids[:, 1:])

    def _dropped(self, part: PackedBatch) -> Tensor:
        """bool [rows] which rows read an empty memory in training: a draw from what the segment holds."""
        if not self.training or not self.span.dropout:
            return torch.zeros_like(part.document[:, 0], dtype=torch.bool)
        odd = 2 * torch.arange(part.input_ids.shape[1], device=part.input_ids.device) + 1
        mixed = ((part.input_ids + 1) * odd * HASH).sum(dim=1) * HASH
        return (mixed >> 16) % (1 << 16) < self.span.dropout * (1 << 16)

    def _nothing(self, state: State) -> Prefix:
        """No places for every row: what a memory without mechanisms has to say."""
        count = state[COUNT]
        embeds = torch.zeros(len(count), 0, self._dim, device=count.device)
        return Prefix(embeds, count.new_zeros(2, 0), count.new_zeros(0), count.new_zeros(len(count), 0).bool())

    def _each(self) -> list[tuple[str, Mechanism]]:
        return [(name, cast(Mechanism, module)) for name, module in self.mechanisms.items()]


def _joined(states: Iterable[tuple[str, State]]) -> State:
    return {key: value for name, state in states for key, value in named(state, name).items()}


def _scattered(values: Tensor, place: Tensor, places: int) -> Tensor:
    """[rows, places] the values [rows, length] at `place` [rows, length]; `places` is nowhere."""
    return values.new_zeros(values.shape[0], places + 1).scatter(1, place, values)[:, :-1]
