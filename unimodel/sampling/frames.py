"""Next frames from actions: a batch of worlds that roll forward together, each with a window of past frames.

Past frames are clean, as in training's point mass at rate 0; rewards and done flags of the past stay behind MASK,
which training shows half of the time, so a frame costs only its own refinement passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimodel.backbone.model import Backbone
from unimodel.sampling.fill import FillSettings, fill_span
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.vocabulary import Modality

ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class WorldState:
    """The past of one world: `frames` [t, rows, columns] codes and the t - 1 actions between them."""

    mission: np.ndarray
    frames: np.ndarray
    actions: np.ndarray

    def stepped(self, action: int, frame: np.ndarray) -> WorldState:
        return WorldState(self.mission, np.concatenate([self.frames, frame[None]]), np.append(self.actions, action))


class FrameSampler:
    """Steps worlds with one backbone. `window` is the largest number of frames the model was trained on."""

    def __init__(
        self, backbone: Backbone, builder: SequenceBuilder, pad_id: int, window: int, settings: FillSettings
    ) -> None:
        self._backbone, self._builder, self._pad_id = backbone, builder, pad_id
        self._window, self._settings = window, settings

    def step(self, worlds: Sequence[WorldState], actions: Sequence[int], rng: np.random.Generator) -> list[WorldState]:
        """The worlds one action later. Raises ValueError for an action outside the vocabulary."""
        stepped: list[WorldState] = []
        for start in range(0, len(worlds), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            stepped.extend(self._step_some(worlds[some], actions[some], rng))
        return stepped

    def rollout(self, worlds: Sequence[WorldState], actions: np.ndarray, rng: np.random.Generator) -> list[WorldState]:
        """`actions` [worlds, steps]."""
        current = list(worlds)
        for step in range(actions.shape[1]):
            current = self.step(current, actions[:, step].tolist(), rng)
        return current

    def _step_some(
        self, worlds: Sequence[WorldState], actions: Sequence[int], rng: np.random.Generator
    ) -> list[WorldState]:
        sequences = [self._sequence(world, action) for world, action in zip(worlds, actions, strict=True)]
        spans = [[span for span in sequence.spans if span.grid is not None][-1] for sequence in sequences]
        unknown = [np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE)) for sequence in sequences]
        codes = fill_span(
            self._backbone, sequences, spans, self._builder.vocabulary, self._pad_id, self._settings, rng, unknown
        )
        shape = worlds[0].frames.shape[1:]
        return [
            world.stepped(action, code.reshape(shape))
            for world, action, code in zip(worlds, actions, codes, strict=True)
        ]

    def _sequence(self, world: WorldState, action: int):
        """The window with one more frame, whose codes are a placeholder."""
        past = min(len(world.frames), self._window - 1)
        frames = np.concatenate([world.frames[-past:], world.frames[-1:]])
        actions = np.append(world.actions[len(world.actions) - (past - 1) :], action)
        steps = len(actions)
        silence = np.zeros((steps + 1, 0), dtype=np.int64)
        episode = TokenisedEpisode(
            "world", frames, silence, actions, np.zeros(steps), np.zeros(steps, dtype=bool), world.mission, ()
        )
        return self._builder.interaction(episode, 0, steps + 1)
