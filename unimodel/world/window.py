"""A world's past as training lays out an episode, with what nobody tells a live world behind MASK."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unimodel.batch import TokenSequence
from unimodel.layout import Role
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState

OUTCOMES = (Modality.REWARD, Modality.DONE)
"""What follows every frame but the first of a window."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window laid out: `prefix` tokens up to its first action; its last frame is the tokens `[block, codes_stop)`
    with its action, its codes from `codes` on."""

    ids: np.ndarray
    sequence: TokenSequence
    prefix: int
    block: int
    codes: int
    codes_stop: int

    @property
    def num_codes(self) -> int:
        return self.codes_stop - self.codes

    @property
    def step_tokens(self) -> int:
        """Of one step: action, frame, and reward and done flag where they are told."""
        return self.codes_stop - self.block + len(OUTCOMES)


def lay_window(
    builder: SequenceBuilder, state: WorldState, first: int, *, has_sink: bool, has_outcomes: bool
) -> Window:
    """The frames from `first` on, and where in them the last one is."""
    steps = len(state.actions) - first
    sequence, ids = lay_state(builder, state, first, has_sink=has_sink, has_outcomes=has_outcomes)
    picture = sequence.layout.pictures[-1]
    # A frame's block begins with its action: the events before that are read once, like all that came before.
    begins = {span.time: span.start for span in reversed(sequence.spans) if span.modality is not Modality.TEXT}
    return Window(ids, sequence, begins[min(1, steps)], begins[steps], picture.start, picture.stop)


def known_from(state: WorldState, first: int, *, has_sink: bool) -> tuple[WorldState, int]:
    """All of a past that a window from frame `first` on tells, and where in that the window begins: what comes of it
    costs the same however long the past is."""
    if not (has_sink and first):
        return state.since(first), 0
    known = state.since(first - 1)
    return replace(known, frames=np.concatenate([state.frames[:1], known.frames[1:]])), 1


def lay_state(
    builder: SequenceBuilder,
    state: WorldState,
    first: int,
    *,
    has_sink: bool = False,
    has_outcomes: bool = True,
    asks_agent: bool = False,
) -> tuple[TokenSequence, np.ndarray]:
    """Frames from `first` on as a sequence, and its ids with rewards and done flags behind MASK, as half of them are in
    training; without `has_outcomes` there are none. Without a sink, a window that begins later than its episode looks
    like one that begins with it. At the places of an agent stand answers that nobody means."""
    state, first = known_from(state, first, has_sink=has_sink)
    frames, actions = state.frames, state.actions
    silence, never = np.zeros((len(frames), 0), dtype=np.int64), np.zeros(len(actions), dtype=np.bool_)
    unknown = np.full(len(actions), 0.0 if has_outcomes else np.nan)
    episode = TokenisedEpisode("world", frames, silence, actions, unknown, never, state.mission, (), state.events)
    discount = 0.0 if asks_agent else None
    sequence = builder.interaction(episode, first, len(frames) - first, has_sink=has_sink, discount=discount)
    ids = sequence.ids.copy()
    for modality in OUTCOMES:
        of_world = (sequence.layout.modality == modality) & (sequence.layout.role != Role.AGENT)
        ids[of_world] = builder.vocabulary.mask(modality)
    return sequence, ids
