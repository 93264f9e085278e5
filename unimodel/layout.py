"""Where the tokens of a sequence are from, and what follows from that alone: who sees whom, and who stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from unimodel.vocabulary import Modality

NO_TARGET = -100
CAUSAL = -1
CLEAN = 0
GRID_SPACING = 4
"""Position units between neighbouring patches. Rotary angles of one unit are small (at most 1 radian, mostly far less):
neighbours of a small grid would look alike, and attention to "the same place one frame earlier" would take thousands
of steps to sharpen."""

AGENT_SPACING = GRID_SPACING
"""Position units between what is about neighbouring agents, down the height of the picture: agent k stands at row k, so
the ruler tells who it is as it tells a patch its row."""

STEP_MODALITIES = (Modality.ACTION, Modality.REWARD, Modality.DONE)
"""Single tokens of a step, which stand at the left edge of its picture: at the corner, or at the height of an agent."""


class Role(IntEnum):
    """What an objective may do with a span."""

    STRUCTURE = 0
    """Delimiters: always visible, never a target."""
    CONDITION = 1
    """Given: never corrupted, never a target (a prompt, the actions of an episode)."""
    TARGET = 2
    """To be learnt: may be corrupted, is supervised."""
    AGENT = 3
    """What an agent is asked at the end of a moment. It reads everything and nothing reads it; its id is the answer, or
    the question (`<|agent|>`, `<|value|>`) where there is none."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tokens `[start, stop)` of one modality. `time` is the environment step it belongs to (0 outside
    episodes); `grid` is (height, width) in tokens for images and None for everything one-dimensional. A `ruler`'s
    token k stands at the height of row k and the width of column k. `missing` stands for an action nobody knows, or of
    an agent that is not there; `agent` is whose action, or answer, it is."""

    start: int
    stop: int
    modality: Modality
    role: Role
    time: int = 0
    grid: tuple[int, int] | None = None
    ruler: bool = False
    missing: bool = False
    agent: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_action(self) -> bool:
        """Whether it is what led to a moment, known or not."""
        return self.missing or (self.modality is Modality.ACTION and self.role is not Role.AGENT)

    @property
    def is_observed(self) -> bool:
        """Whether it is what a moment looks or sounds like: a block whose tokens see each other both ways."""
        return self.grid is not None or self.modality is Modality.AUDIO


KNOWN_LAYOUTS = 512
"""Layouts that a process keeps at hand; up to about 100 bytes a token each."""


class Layout:
    """The spans of a sequence, in order and without gaps, and what follows from them alone.

    Samples of one shape share a layout, so each of these is computed once for thousands of them. The arrays are
    read-only.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = tuple(spans)
        self.length = 0
        for span in self.spans:
            assert span.start == self.length and span.stop > span.start, (span, self.length)
            assert span.grid is None or span.grid[0] * span.grid[1] == len(span), span
            self.length = span.stop

    @cached_property
    def modality(self) -> np.ndarray:
        """[n] the modality of every token."""
        return self._spread([span.modality for span in self.spans])

    @cached_property
    def role(self) -> np.ndarray:
        """[n] the role of every token."""
        return self._spread([span.role for span in self.spans])

    @cached_property
    def clean(self) -> np.ndarray:
        """[n] the stream of every token where there are no noisy copies."""
        return _read_only(np.full(self.length, CLEAN, dtype=np.int64))

    @cached_property
    def streams(self) -> np.ndarray:
        """[n] the stream of every token: n for what an agent is asked at the n-th moment, everything else is clean."""
        return self._spread([span.time + 1 if span.role is Role.AGENT else CLEAN for span in self.spans])

    @cached_property
    def index(self) -> np.ndarray:
        """[n] how many tokens each has before it. An agent's take no place: the first of a moment stands where the next
        action will, so the world is numbered as without them."""
        clean, place = self.streams == CLEAN, np.arange(self.length, dtype=np.int64)
        before = np.cumsum(clean) - clean
        among_own = place - np.maximum.accumulate(np.where(clean, place + 1, 0))
        return _read_only(before + np.where(clean, 0, among_own))

    @cached_property
    def nowhere(self) -> np.ndarray:
        """[n] all -1: the objective of every token where nothing is asked."""
        return _read_only(np.full(self.length, -1, dtype=np.int64))

    @cached_property
    def no_target(self) -> np.ndarray:
        """[n] the targets where nothing is asked."""
        return _read_only(np.full(self.length, NO_TARGET, dtype=np.int64))

    @cached_property
    def pictures(self) -> tuple[Span, ...]:
        """The spans that are images."""
        return tuple(span for span in self.spans if span.grid is not None)

    @cached_property
    def observed(self) -> tuple[Span, ...]:
        """The spans that are images or sound."""
        return tuple(span for span in self.spans if span.is_observed)

    @cached_property
    def targets(self) -> tuple[Span, ...]:
        """The spans to be learnt."""
        return tuple(span for span in self.spans if span.role is Role.TARGET)

    @cached_property
    def target_places(self) -> np.ndarray:
        """[targets] the places of all tokens to be learnt, rising."""
        return _read_only(np.flatnonzero(self.role == Role.TARGET))

    @cached_property
    def blocks(self) -> np.ndarray:
        """[n] block ids: picture and sound of a moment are a block, together with the actions that led to them;
        everything else is causal."""
        block = np.full(self.length, CAUSAL, dtype=np.int64)
        number, start, time, action = -1, 0, None, None
        for span in self.spans:
            if span.is_action and action is None:
                action = span.start
            if span.is_observed:
                if span.grid is not None or span.time != time:  # the first of its moment
                    number, time = number + 1, span.time
                    start, action = span.start if action is None else action, None
                block[start : span.stop] = number
        return _read_only(block)

    @cached_property
    def position_ids(self) -> np.ndarray:
        """[3, n] (time, height, width) positions for multimodal rotary embeddings (M-RoPE, Qwen2-VL, section 2.1).

        One-dimensional tokens use their index on all three axes, also after an image ("index preserving"): text that
        follows an image continues exactly as plain `generate()` would number it. An image's tokens share the index of
        its first token as time and count height and width from 0, in steps of `GRID_SPACING`.

        Rotary positions are relative: alone, a patch cannot tell where in its picture it is, and captions name
        places. A ruler gives it something to hold on to: the patch finds the coordinate token of its own height (or
        width) at distance 0 and reads the coordinate from it.
        """
        positions = np.tile(self.index, (3, 1))
        for span in self.spans:
            if span.grid is not None:
                height, width = span.grid
                positions[0, span.start : span.stop] = self.index[span.start]
                positions[1, span.start : span.stop] = np.repeat(np.arange(height), width) * GRID_SPACING
                positions[2, span.start : span.stop] = np.tile(np.arange(width), height) * GRID_SPACING
            if span.modality in STEP_MODALITIES or span.missing or span.role is Role.AGENT:
                positions[1, span.start : span.stop] = span.agent * AGENT_SPACING
                positions[2, span.start : span.stop] = 0
            if span.ruler:
                positions[1:, span.start : span.stop] = np.arange(len(span)) * GRID_SPACING
        return _read_only(positions)

    def _spread(self, values: Sequence[int]) -> np.ndarray:
        return _read_only(np.repeat(np.asarray(values, dtype=np.int64), [len(span) for span in self.spans]))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
