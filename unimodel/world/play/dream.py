"""The worlds that a trained checkpoint dreams: all that playing asks of a model.

The likeliest codes are taken, so a dream is a function of its start, its actions, what it is told and the passes of
every step: whoever opens the same past again goes on from the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimodel.run_folder import RunFolder
from unimodel.tokenizers.text import encode_text
from unimodel.tokenizers.unified import EpisodeShape, sequence_length
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import worlds_of
from unimodel.world.state import WorldState

OUTCOME_TOKENS = 2
MAX_TEXT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Which weights dream."""

    run: str
    stage: str
    step: int

    def __str__(self) -> str:
        return f"{self.run}, {self.stage}, step {self.step:,}"


class Dream:
    """The worlds of one checkpoint, with pictures of `size`, (height, width) in pixels, and of so many agents, compiled
    for so many open ones. One thread at a time.

    Raises ValueError for pictures that its image tokenizer cannot read.
    """

    def __init__(self, loaded: LoadedRun, size: tuple[int, int], compiled_for: int = 0, *, num_agents: int = 1) -> None:
        stage, patch = loaded.config.stages[loaded.stage], loaded.bundle.image.config.patch_pixels
        assert stage.world is not None, "`world_stage` has looked"
        if size[0] % patch or size[1] % patch:
            raise ValueError(
                f"{loaded.run.path} reads patches of {patch} pixels: {size[0]}x{size[1]} has no whole number"
            )
        self._grid, self._num_agents = (size[0] // patch, size[1] // patch), num_agents
        self._loaded, self._worlds = loaded, worlds_of(loaded, compiled_for=compiled_for)
        self._window_frames, self._row_tokens = stage.world.frames, stage.batch.row_tokens

    @property
    def run(self) -> RunFolder:
        """Where the checkpoint lies."""
        return self._loaded.run

    @property
    def checkpoint(self) -> Checkpoint:
        """Which one."""
        return Checkpoint(str(self._loaded.run.path), self._loaded.stage, self._loaded.step)

    @property
    def num_actions(self) -> int:
        """Actions that it knows."""
        return self._loaded.bundle.vocabulary.action_size

    @property
    def knows_real_actions(self) -> bool:
        """Whether what is done in it can be done in the real environment: inferred actions cannot."""
        return self._loaded.bundle.knows_real_actions

    def action_names(self, known: Sequence[str]) -> tuple[str, ...]:
        """Of all its actions, those of the environment with these names among them."""
        return self._loaded.bundle.action_names(known)

    @property
    def hears_events(self) -> bool:
        """Whether it has learnt that what a text says happens; others know of a text that is a mission alone."""
        return self._loaded.config.data.recording.event_fraction > 0

    def start(self, frame: np.ndarray) -> np.ndarray:
        """Codes [rows, columns] of a picture uint8 [height, width, 3]."""
        return self._loaded.bundle.image.encode(frame[None])[0]

    def read(self, text: str) -> np.ndarray:
        """The ids of a text."""
        return encode_text(self._loaded.bundle.text, text)

    def check_text(self, text: str) -> None:
        """Raises ValueError for what a world cannot be told: nothing, too much, and the tokenizer's own marks."""
        ids, most = self.read(text), self.text_tokens
        if not 0 < len(ids) <= most:
            raise ValueError(f"the text has {len(ids)} tokens; this model takes 1 to {most}")
        if np.isin(ids, self._loaded.bundle.text.all_special_ids).any():
            raise ValueError("the text has a mark of the tokenizer in it, such as <|eos|>: leave it out")

    @property
    def text_tokens(self) -> int:
        """Most tokens of a text: it must fit into a row beside a window of frames."""
        frames = self._window_frames
        shape = EpisodeShape(frames, *self._grid, 0, OUTCOME_TOKENS, 0, [0], num_agents=self._num_agents)
        return min(MAX_TEXT_TOKENS, self._row_tokens - sequence_length("interaction", shape, 0, frames))

    def open(self, past: WorldState) -> int:
        """A slot for a world with this past."""
        return self._worlds.open(past)

    def step(self, slots: Sequence[int], actions: Sequence[int], passes: int) -> np.ndarray:
        """Codes int [slots, rows, columns] of the next frame of each, after `passes` refinement passes.

        Raises ValueError for an action that the model does not know; no world has moved then.
        """
        return self._worlds.step(slots, actions, passes)

    def close(self, slot: int) -> None:
        """Forgets a world."""
        self._worlds.close(slot)

    def pictures(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, 3] of codes [n, rows, columns]."""
        return self._loaded.bundle.image.decode(codes)
