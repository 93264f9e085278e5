"""The cached frame step: many worlds that one model steps together, each with its own past.

A world is its window of past frames laid out as in training, and the next frame. A step reads what the cache does not
hold yet, the last frame among it, and takes its first look at the new frame in the same forward; its other passes read
the new frame alone. So a frame costs `passes` forwards, all but the first of one frame.

When the window is full the oldest frames are dropped and the rest is read again, now and then instead of every frame.
Keys and values depend on all that came before them: what stays of a cache that merely slides still speaks of frames
that are gone, which no training window ever showed. Here every frame is exactly what a model without a cache makes of
the same window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data_pipelines.sources.world import Action
from unimodel.backbone.model import Backbone
from unimodel.memory.memory import Memory
from unimodel.memory.state import State
from unimodel.sampling.fill import FillSettings
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Modality
from unimodel.world.cache import KeyValueCache
from unimodel.world.passage import Passage, Unread, lay_passage
from unimodel.world.recollection import Recollection
from unimodel.world.refine import choose, frame_generator, still_hidden
from unimodel.world.state import WorldState
from unimodel.world.window import Window, known_from, lay_window

KEPT_FRACTION = 0.5
"""Share of a full window that stays when it moves on."""
ROOM_TOKENS = 128
"""What a cache grows by."""
LATE_FRAMES = 2
"""The last frame and the next: worlds that have more to read do so by themselves."""
LEAST_REWARD_PROBABILITY = 0.05


Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came with a frame, float64 [worlds]: expected `rewards`, the probability that there was a reward at all, and
    that the episode is over; nan where the model was never told of them."""

    rewards: np.ndarray
    rewarded: np.ndarray
    over: np.ndarray

    def rewards_above(self, probability: float = LEAST_REWARD_PROBABILITY) -> np.ndarray:
        """Expected rewards, and exactly 0 where a reward is less likely than this: what little the model gives to every
        reward there is, everywhere, would sum up over an episode to more than what is real."""
        return np.where(self.rewarded >= probability, self.rewards, 0.0)


@dataclass(slots=True)
class _World:
    """A row of the cache: its window begins at frame `first`, and `read` tokens of it are in the cache."""

    row: int
    state: WorldState
    seed: int
    first: int
    read: int = 0
    memory: State | None = None
    """What it remembers of the time before its window; of a model without memory, nothing."""
    remembered: Tensor | None = None
    """bool [1, places] which of the cache's first places its memory has something in, once it was read."""

    @property
    def window_frames(self) -> int:
        return len(self.state.frames) - self.first


class Worlds:
    """Live worlds of one model. `window_frames` is the largest number of frames that it was trained on, with `has_sink`
    it had the first frame of the episode in front of windows that began later, and without `has_outcomes` it was never
    told of rewards and ends: films have none.

    A world is opened into a slot and closed again; any open slots may be stepped together. `compiled_for` so many open
    worlds, forwards of frames have few fixed shapes and go through torch.compile, on a GPU as CUDA graphs: the first
    step of 1, 2, 4, ... worlds (others are rounded up) takes tens of seconds, and more open worlds compile again.
    """

    def __init__(
        self,
        backbone: Backbone,
        builder: SequenceBuilder,
        pad_id: int,
        window_frames: int,
        settings: FillSettings | None = None,
        *,
        has_sink: bool = False,
        has_outcomes: bool = True,
        compiled_for: int = 0,
    ) -> None:
        assert window_frames >= 2, "the last frame and the next"
        self._backbone, self._builder, self._pad_id = backbone, builder, pad_id
        self._window_frames, self._settings = window_frames, settings or FillSettings()
        self._has_sink, self._has_outcomes = has_sink, has_outcomes
        self._kept_frames = max(1, int(KEPT_FRACTION * window_frames))
        self._recollection = None
        if isinstance(backbone.memory, Memory):  # windows are the segments of training
            self._recollection = Recollection(backbone, backbone.memory, pad_id)
            self._window_frames, self._kept_frames = self._recollection.window_frames, 1
        self._compiled_for = compiled_for
        self._cache = KeyValueCache(backbone.decoder, whole=compiled_for > 0)
        self._worlds: dict[int, _World] = {}
        self._device = next(backbone.parameters()).device
        self._frames_hidden = backbone.hidden_after
        if compiled_for:
            mode = "reduce-overhead" if self._device.type == "cuda" else None
            self._frames_hidden = torch.compile(backbone.hidden_after, dynamic=False, mode=mode)

    @property
    def cache_bytes(self) -> int:
        return self._cache.nbytes

    def open(self, state: WorldState, seed: int = 0, memory: State | None = None) -> int:
        """A slot for a world with this past, which goes on as the world that has lived it. Its noise, if any, follows
        from `seed` and the number of each frame. Without the `memory` of that world all of its past is read again."""
        slot = next(number for number in range(len(self._worlds) + 1) if number not in self._worlds)
        world = _World(slot, state, seed, self._window_begins(len(state.frames)))
        if self._recollection is not None:
            world.memory = memory or self._lived(world)
        self._worlds[slot] = world
        return slot

    def memory(self, slot: int) -> State | None:
        """What a world remembers of the time before its window. Raises KeyError for a slot that is not open."""
        return self._worlds[slot].memory

    def no_memory(self) -> State | None:
        """What a world remembers that begins; nothing of a model without memory."""
        return self._recollection.of_nothing() if self._recollection is not None else None

    @torch.no_grad()
    def _lived(self, world: _World) -> State:
        """What a world remembers that has lived all before its window, segment by segment."""
        assert self._recollection is not None
        memory, frames = self._recollection.of_nothing(), self._window_frames
        for first in range(0, world.first, frames - 1):
            window = self._window(world.state.rewound(first + frames), first)
            memory = self._recollection.written([memory], [(window.ids, window.sequence)])[0]
        return memory

    @torch.no_grad()
    def branch(self, slot: int, seeds: Sequence[int]) -> list[int]:
        """Slots of more worlds with the past of `slot`, one for each of `seeds`. The past is read once for all of them.

        Raises KeyError for a slot that is not open.
        """
        world = self._worlds[slot]
        self._move_on(world)
        # Whatever the next action is, all before it is the same.
        window = self._next_window(world, np.zeros(world.state.actions.shape[1:], dtype=np.int64).tolist())
        if world.read < window.block:
            self._read_past([world], [window])
        slots = [self.open(world.state, seed, world.memory) for seed in seeds]
        for other in slots:
            self._worlds[other].first, self._worlds[other].read = world.first, world.read
            self._worlds[other].remembered = world.remembered
        self._cache.grow(1 + max([slot, *slots]), self._cache.places)
        self._cache.copy(world.row, slots, self._places_before + world.read)
        return slots

    def _window_begins(self, frames: int) -> int:
        """The first frame of the window of a world that has come so far step by step."""
        if frames <= self._window_frames:
            return 0
        stride = self._window_frames - self._kept_frames
        return ((frames - self._window_frames - 1) // stride + 1) * stride

    def full_at(self, frames: int) -> int:
        """How many frames a world of `frames` of them had when its window was last full; 0 when it never was. Opened
        with those it is as it was then, and can relive the others."""
        begins = self._window_begins(frames + 1)
        return begins + self._kept_frames if begins else 0

    def close(self, slot: int) -> None:
        """Raises KeyError for a slot that is not open."""
        del self._worlds[slot]

    def state(self, slot: int) -> WorldState:
        """The world's whole past. Raises KeyError for a slot that is not open."""
        return self._worlds[slot].state

    def window_frames(self, slot: int) -> int:
        """How many frames the next one is made from. Raises KeyError for a slot that is not open."""
        world = self._worlds[slot]
        return self._kept_frames if self._is_full(world) else world.window_frames

    def is_unread(self, slot: int) -> bool:
        """Whether its next step reads its window from the beginning. Raises KeyError for a slot that is not open."""
        world = self._worlds[slot]
        return world.read == 0 or self._is_full(world)

    def make_happen(self, slot: int, ids: np.ndarray) -> None:
        """An event, as text ids, before the world's next action. Raises KeyError for a slot that is not open."""
        world = self._worlds[slot]
        world.state = world.state.with_event(ids)

    def tell(self, slot: int, mission: np.ndarray) -> None:
        """Another mission, as text ids, from the next frame on: its window is read again under it, what it remembers of
        the time before stays. Raises KeyError for a slot that is not open."""
        world = self._worlds[slot]
        world.state, world.read = replace(world.state, mission=mission), 0

    @torch.no_grad()
    def step(self, slots: Sequence[int], actions: Sequence[Action], passes: int | None = None) -> np.ndarray:
        """The next frame of each slot, int64 codes [slots, rows, columns], after so many passes (else the settings'). A
        world of several agents takes an action of each, UNKNOWN_ACTION of one that is not there.

        Raises KeyError for a slot that is not open, ValueError for one that is given twice, an action outside the
        vocabulary or not one of each agent.
        """
        if len(set(slots)) < len(slots):
            raise ValueError(f"a world takes one action at a time, and slots {list(slots)} name one twice")
        worlds = [self._worlds[slot] for slot in slots]
        for world in worlds:  # not before: the outcomes of the last step may have been asked for
            self._move_on(world)
        windows = [self._next_window(world, action) for world, action in zip(worlds, actions, strict=True)]
        self._catch_up(worlds, windows)
        filled = self._fill(self._rounded_up(worlds), self._rounded_up(windows), passes or self._settings.steps)
        codes = filled[: len(slots)].cpu().numpy()
        frames = codes.reshape(len(slots), *worlds[0].state.frames.shape[1:])
        for world, action, frame in zip(worlds, actions, frames, strict=True):
            world.state = world.state.stepped(action, frame)
        return frames

    @torch.no_grad()
    def relive(self, slot: int, action: Action, frame: np.ndarray) -> None:
        """A step whose frame is known. All is read in the very forwards of that step, so that the world goes on bit for
        bit as the one that took it by itself. Raises KeyError for a slot that is not open."""
        world = self._worlds[slot]
        self._move_on(world)
        window = self._next_window(world, action)
        self._catch_up([world], [window])
        self._fill(self._rounded_up([world]), self._rounded_up([window]), passes=1)
        world.state = world.state.stepped(action, frame)

    @torch.no_grad()
    def outcomes(self, slots: Sequence[int]) -> Outcome:
        """Reward and end that came with the last frame of each slot, at the cost of one forward of that frame.

        Raises KeyError for a slot that is not open, ValueError for a world that has taken no action yet.
        """
        worlds = [self._worlds[slot] for slot in slots]
        if not self._has_outcomes:
            return Outcome(*np.full((3, len(slots)), np.nan))
        if still := [slot for slot, world in zip(slots, worlds, strict=True) if world.window_frames < 2]:
            raise ValueError(f"slot {still[0]} has taken no action, from which a reward could have come: step it first")
        windows = [self._window(world.state, world.first) for world in worlds]
        for world, window in zip(worlds, windows, strict=True):
            world.read = min(world.read, window.block)  # asked again, it has read its last frame already
        self._catch_up(worlds, windows)
        rows, theirs = self._rounded_up(worlds), self._rounded_up(windows)
        hidden = self._read(self._passage(rows, theirs, [len(window.ids) for window in theirs]))
        stops = self._tensor([len(window.ids) - world.read for world, window in zip(worlds, windows, strict=True)])
        each = torch.arange(len(worlds), device=self._device)
        for world, window in zip(worlds, windows, strict=True):
            world.read = len(window.ids)
        vocabulary = self._builder.vocabulary
        rewards = self._backbone.logits(hidden[each, stops - 2], vocabulary.range_of(Modality.REWARD)).softmax(dim=-1)
        over = self._backbone.logits(hidden[each, stops - 1], vocabulary.range_of(Modality.DONE)).softmax(dim=-1)
        of_reward, values = rewards.double().cpu().numpy(), reward_values(np.arange(REWARD_BINS))
        return Outcome(of_reward @ values, 1 - of_reward[:, values == 0].sum(1), over[:, 1].double().cpu().numpy())

    def _move_on(self, world: _World) -> None:
        """Makes room for one more frame in the world's window."""
        if not self._is_full(world):
            return
        if self._recollection is not None and world.memory is not None:
            window = self._window(world.state, world.first)
            world.memory = self._recollection.written([world.memory], [(window.ids, window.sequence)])[0]
        world.first, world.read, world.remembered = len(world.state.frames) - self._kept_frames, 0, None

    def _is_full(self, world: _World) -> bool:
        """Whether the window must move on before it takes another frame."""
        return world.window_frames >= self._window_frames

    def _next_window(self, world: _World, action: Action) -> Window:
        """The window with one more frame, which nobody knows."""
        known, first = known_from(world.state, world.first, has_sink=self._has_sink)
        window = self._window(known.stepped(action, known.frames[-1]), first)
        window.ids[window.codes : window.codes_stop] = self._builder.vocabulary.mask(Modality.IMAGE)
        return window

    def _window(self, state: WorldState, first: int) -> Window:
        return lay_window(self._builder, state, first, has_sink=self._has_sink, has_outcomes=self._has_outcomes)

    def _catch_up(self, worlds: Sequence[_World], windows: Sequence[Window]) -> None:
        """Reads worlds that lag by frames, by themselves: the others would wait for rows as long as theirs."""
        late = [
            (world, window)
            for world, window in zip(worlds, windows, strict=True)
            if window.codes_stop - world.read > LATE_FRAMES * window.step_tokens
        ]
        if late:
            self._read_past(*zip(*late, strict=True))

    def _read_past(self, worlds: Sequence[_World], windows: Sequence[Window]) -> None:
        """Reads all up to the last frames."""
        passage = self._passage(worlds, windows, [window.block for window in windows])
        self._backbone.hidden_after(passage.input_ids, passage.position_ids, passage.mask, passage.writing)
        for world, window in zip(worlds, windows, strict=True):
            world.read = window.block

    def _fill(self, worlds: Sequence[_World], windows: Sequence[Window], passes: int) -> Tensor:
        """[worlds, tokens] codes of the windows' last frames. Reads all that comes before them."""
        images = self._builder.vocabulary.range_of(Modality.IMAGE)
        mask_id = self._builder.vocabulary.mask(Modality.IMAGE)
        noise = [frame_generator(world.seed, len(world.state.frames), self._device) for world in worlds]
        codes = torch.zeros(len(worlds), windows[0].num_codes, dtype=torch.int64, device=self._device)
        hidden = torch.ones_like(codes, dtype=torch.bool)
        passage, places = self._frames_passage(worlds, windows)
        for step in range(passes):
            if step == 1:  # the first pass read what came before as well; all others are of one shape
                passage, places = self._frames_passage(worlds, windows)
            passage.input_ids.scatter_(1, places, torch.where(hidden, mask_id, codes + images.start))
            states = self._read(passage)
            for world, window in zip(worlds, windows, strict=True):
                world.read = window.block
            at_codes = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
            logits = self._backbone.logits(at_codes, images)
            chosen, confidence = choose(logits, step, passes, self._settings, noise)
            codes = torch.where(hidden, chosen, codes)
            hidden = still_hidden(hidden, confidence, step, passes)
        return codes

    def _rounded_up(self, parts: list[Part]) -> list[Part]:
        """Compiled, the last one again and again up to a power of two: it reads and writes the same every time."""
        missing = _power_of_two(len(parts)) - len(parts) if self._compiled_for else 0
        return parts + missing * parts[-1:]

    def _frames_passage(self, worlds: Sequence[_World], windows: Sequence[Window]) -> tuple[Passage, Tensor]:
        """All up to the last frames, and where in it their codes are, int64 [worlds, codes]."""
        stops = [window.codes_stop for window in windows]
        if self._compiled_for and any(world.read < window.block for world, window in zip(worlds, windows, strict=True)):
            passage = self._passage(worlds, windows, stops, tokens=LATE_FRAMES * windows[0].step_tokens)
        else:
            passage = self._passage(worlds, windows, stops)
        first = [window.codes - world.read for world, window in zip(worlds, windows, strict=True)]
        return passage, self._tensor(first)[:, None] + torch.arange(windows[0].num_codes, device=self._device)

    def _passage(
        self, worlds: Sequence[_World], windows: Sequence[Window], stops: Sequence[int], tokens: int = 0
    ) -> Passage:
        """What each world has not read of its window, up to `stops`, in rows of at least so many `tokens`."""
        unread = [
            Unread(world.row, window.ids, window.sequence.layout, world.read, stop)
            for world, window, stop in zip(worlds, windows, stops, strict=True)
        ]
        tokens = max(tokens, *map(len, unread))
        # A short row beside a long one is padded beyond its own end.
        places = self._places_before + max(part.start for part in unread) + tokens
        num_worlds = 1 + max(part.row for part in unread)
        if self._compiled_for:  # all that these can need: what grows compiles again
            num_worlds = _power_of_two(max(num_worlds, self._compiled_for))
            whole_frames = self._window_frames + LATE_FRAMES + self._has_sink
            whole = max(window.prefix + whole_frames * window.step_tokens for window in windows)
            places = max(places, self._places_before + whole)
        self._cache.grow(num_worlds, -(-places // ROOM_TOKENS) * ROOM_TOKENS)
        return lay_passage(unread, tokens, self._cache, self._pad_id, self._device, self._recalled(worlds))

    @property
    def _places_before(self) -> int:
        """Of a row of the cache, in front of every window."""
        return self._recollection.places if self._recollection is not None else 0

    def _recalled(self, worlds: Sequence[_World]) -> Tensor:
        """bool [worlds, places] where what each remembers says anything, read into the cache where it is not yet."""
        if self._recollection is None:
            return torch.ones(len(worlds), 0, dtype=torch.bool, device=self._device)
        for world in worlds:
            if world.remembered is None:
                assert world.memory is not None
                world.remembered = self._recollection.recall([world.memory], [world.row], self._cache)
        return torch.cat([world.remembered for world in worlds if world.remembered is not None])

    def _read(self, passage: Passage) -> Tensor:
        """[worlds, tokens, dim] last hidden states."""
        return self._frames_hidden(passage.input_ids, passage.position_ids, passage.mask, passage.writing)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self._device)


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << (number - 1).bit_length()
