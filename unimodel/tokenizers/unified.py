"""Recorded episodes -> `TokenSequence`s: the one place that knows how modalities are laid side by side.

A frame is always `<|image|>` and its codes; in episodes the action that led to it stands in front (the first frame has
`<|no_action|>`, as has any frame whose action is unknown) and the reward and done flag that came with it follow:

    clip            ruler | bos caption eos | frame | (action, frame) ...                everything is a target
    text_to_image   ruler | bos caption eos | frame                                      the frame is the target
    image_to_text   ruler | frame | bos caption eos                                      the caption is the target
    interaction     ruler | bos mission eos | frame | (action, frame, reward, done) ...  all but mission and first frame

The ruler is one coordinate token per row or column of the pictures (see `TokenSequence.position_ids`).

Alignment: action t led from frame t to frame t+1; reward t and done t arrived with frame t+1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimodel.batch import Role, Span, TokenSequence
from unimodel.tokenizers.action import reward_codes
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class TokenisedEpisode:
    """An episode of T steps as codes. `text` arrays are ids of the text tokenizer without bos and eos."""

    key: str
    frames: np.ndarray
    """int [T + 1, rows, columns] image codes."""
    actions: np.ndarray
    """int [T]."""
    rewards: np.ndarray
    """float [T]."""
    done: np.ndarray
    """bool [T]."""
    mission: np.ndarray
    captions: tuple[np.ndarray, ...]
    """T + 1 id arrays."""

    @property
    def num_frames(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class EpisodeShape:
    """All that the length of a sequence depends on; `mission_tokens` and `caption_tokens` [frames] without bos, eos."""

    num_frames: int
    rows: int
    columns: int
    mission_tokens: int
    caption_tokens: np.ndarray


def sequence_length(kind: str, shape: EpisodeShape, start: int, frames: int) -> int:
    """Tokens of what `SequenceBuilder` lays out as `kind` from frame `start` on, of up to `frames` frames."""
    text = 2 + (shape.mission_tokens if kind == "interaction" else int(shape.caption_tokens[start]))
    frame = 1 + shape.rows * shape.columns
    length = max(shape.rows, shape.columns) + text + frame
    steps = min(start + frames, shape.num_frames) - start - 1
    if kind == "clip":
        return length + steps * (1 + frame)
    if kind == "interaction":
        return length + 1 + steps * (1 + frame + 2)
    return length


class SequenceBuilder:
    """Lays out sequences for one vocabulary and text tokenizer (its bos and eos ids)."""

    def __init__(self, vocabulary: Vocabulary, bos_id: int, eos_id: int) -> None:
        self.vocabulary = vocabulary
        self.bos_id, self.eos_id = bos_id, eos_id

    def clip(self, episode: TokenisedEpisode, start: int, frames: int = 2) -> TokenSequence:
        """The caption of frame `start`, that frame, and up to `frames` - 1 steps (the last frame stands alone)."""
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.captions[start], Role.TARGET)
        self._frame(parts, episode.frames[start], Role.TARGET)
        for time, frame in enumerate(range(start + 1, min(start + frames, episode.num_frames)), start=1):
            self._action(parts, int(episode.actions[frame - 1]), Role.TARGET, time)
            self._frame(parts, episode.frames[frame], Role.TARGET, time)
        return parts.sequence(f"{episode.key}/clip/{start}")

    def text_to_image(self, caption: np.ndarray, codes: np.ndarray, key: str) -> TokenSequence:
        """A caption as the prompt of an image [rows, columns]."""
        parts = self._ruler(codes)
        self._text(parts, caption, Role.CONDITION)
        self._frame(parts, codes, Role.TARGET)
        return parts.sequence(f"{key}/text_to_image")

    def image_to_text(self, codes: np.ndarray, caption: np.ndarray, key: str) -> TokenSequence:
        """An image [rows, columns] as the prompt of its caption."""
        parts = self._ruler(codes)
        self._frame(parts, codes, Role.CONDITION)
        self._text(parts, caption, Role.TARGET)
        return parts.sequence(f"{key}/image_to_text")

    def interaction(self, episode: TokenisedEpisode, start: int, frames: int) -> TokenSequence:
        """Up to `frames` frames from frame `start` on, with the actions between them and their outcomes."""
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.mission, Role.CONDITION)
        self._action(parts, None, Role.CONDITION)
        self._frame(parts, episode.frames[start], Role.CONDITION)
        for time, frame in enumerate(range(start + 1, min(start + frames, episode.num_frames)), start=1):
            self._action(parts, int(episode.actions[frame - 1]), Role.TARGET, time)
            self._frame(parts, episode.frames[frame], Role.TARGET, time)
            self._outcome(parts, float(episode.rewards[frame - 1]), bool(episode.done[frame - 1]), time)
        return parts.sequence(f"{episode.key}/interaction/{start}")

    def _ruler(self, codes: np.ndarray) -> _Parts:
        """Starts a sequence with the coordinates that pictures [rows, columns] need."""
        parts = _Parts()
        ids = self.vocabulary.ruler(max(codes.shape)).tolist()
        parts.add(ids, Modality.SPECIAL, Role.STRUCTURE, ruler=True)
        return parts

    def _text(self, parts: _Parts, ids: np.ndarray, role: Role) -> None:
        parts.add([self.bos_id], Modality.TEXT, Role.STRUCTURE)
        parts.add([*self.vocabulary.ids(Modality.TEXT, ids).tolist(), self.eos_id], Modality.TEXT, role)

    def _frame(self, parts: _Parts, codes: np.ndarray, role: Role, time: int = 0) -> None:
        parts.add([self.vocabulary.image_start], Modality.SPECIAL, Role.STRUCTURE, time)
        grid = (int(codes.shape[0]), int(codes.shape[1]))
        parts.add(self.vocabulary.ids(Modality.IMAGE, codes.ravel()).tolist(), Modality.IMAGE, role, time, grid)

    def _action(self, parts: _Parts, action: int | None, role: Role, time: int = 0) -> None:
        if action is None:
            parts.add([self.vocabulary.no_action], Modality.SPECIAL, Role.STRUCTURE, time)
        else:
            parts.add(self.vocabulary.ids(Modality.ACTION, np.array([action])).tolist(), Modality.ACTION, role, time)

    def _outcome(self, parts: _Parts, reward: float, done: bool, time: int) -> None:
        reward_ids = self.vocabulary.ids(Modality.REWARD, reward_codes(np.array([reward])))
        parts.add(reward_ids.tolist(), Modality.REWARD, Role.TARGET, time)
        parts.add(self.vocabulary.ids(Modality.DONE, np.array([int(done)])).tolist(), Modality.DONE, Role.TARGET, time)


class _Parts:
    """Grows the ids and spans of one sequence."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._spans: list[Span] = []

    def add(
        self,
        ids: list[int],
        modality: Modality,
        role: Role,
        time: int = 0,
        grid: tuple[int, int] | None = None,
        *,
        ruler: bool = False,
    ) -> None:
        self._spans.append(Span(len(self._ids), len(self._ids) + len(ids), modality, role, time, grid, ruler))
        self._ids.extend(ids)

    def sequence(self, key: str) -> TokenSequence:
        return TokenSequence(key, np.asarray(self._ids, dtype=np.int64), tuple(self._spans))
