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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unimodel.batch import KNOWN_LAYOUTS, Layout, Role, Span, TokenSequence
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
    captions: Sequence[np.ndarray]
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
    caption_tokens: Sequence[int]


def sequence_length(kind: str, shape: EpisodeShape, start: int, frames: int) -> int:
    """Tokens of what `SequenceBuilder` lays out as `kind` from frame `start` on, of up to `frames` frames."""
    text = 2 + (shape.mission_tokens if kind == "interaction" else shape.caption_tokens[start])
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
        self._bos, self._eos = np.array([bos_id]), np.array([eos_id])
        self._image_start, self._no_action = np.array([vocabulary.image_start]), np.array([vocabulary.no_action])

    def clip(self, episode: TokenisedEpisode, start: int, frames: int = 2) -> TokenSequence:
        """The caption of frame `start`, that frame, and up to `frames` - 1 steps (the last frame stands alone)."""
        pictures = self._pictures(episode.frames[start : start + frames])
        actions = self.vocabulary.ids(Modality.ACTION, episode.actions[start : start + len(pictures) - 1])
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.captions[start], Role.TARGET)
        self._frame(parts, pictures[0], Role.TARGET)
        for time in range(1, len(pictures)):
            parts.add(actions[time - 1 : time], Modality.ACTION, Role.TARGET, time)
            self._frame(parts, pictures[time], Role.TARGET, time)
        return parts.sequence(f"{episode.key}/clip/{start}")

    def text_to_image(self, caption: np.ndarray, codes: np.ndarray, key: str) -> TokenSequence:
        """A caption as the prompt of an image [rows, columns]."""
        parts = self._ruler(codes)
        self._text(parts, caption, Role.CONDITION)
        self._frame(parts, self._pictures(codes), Role.TARGET)
        return parts.sequence(f"{key}/text_to_image")

    def image_to_text(self, codes: np.ndarray, caption: np.ndarray, key: str) -> TokenSequence:
        """An image [rows, columns] as the prompt of its caption."""
        parts = self._ruler(codes)
        self._frame(parts, self._pictures(codes), Role.CONDITION)
        self._text(parts, caption, Role.TARGET)
        return parts.sequence(f"{key}/image_to_text")

    def interaction(self, episode: TokenisedEpisode, start: int, frames: int) -> TokenSequence:
        """Up to `frames` frames from frame `start` on, with the actions between them and their outcomes."""
        pictures = self._pictures(episode.frames[start : start + frames])
        steps = slice(start, start + len(pictures) - 1)
        actions = self.vocabulary.ids(Modality.ACTION, episode.actions[steps])
        rewards = self.vocabulary.ids(Modality.REWARD, reward_codes(episode.rewards[steps]))
        done = self.vocabulary.ids(Modality.DONE, episode.done[steps])
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.mission, Role.CONDITION)
        parts.add(self._no_action, Modality.SPECIAL, Role.STRUCTURE)
        self._frame(parts, pictures[0], Role.CONDITION)
        for time in range(1, len(pictures)):
            step = slice(time - 1, time)
            parts.add(actions[step], Modality.ACTION, Role.TARGET, time)
            self._frame(parts, pictures[time], Role.TARGET, time)
            parts.add(rewards[step], Modality.REWARD, Role.TARGET, time)
            parts.add(done[step], Modality.DONE, Role.TARGET, time)
        return parts.sequence(f"{episode.key}/interaction/{start}")

    def _pictures(self, codes: np.ndarray) -> np.ndarray:
        """Ids of pictures [..., rows, columns]."""
        return self.vocabulary.ids(Modality.IMAGE, codes)

    def _ruler(self, codes: np.ndarray) -> _Parts:
        """Starts a sequence with the coordinates that pictures [rows, columns] need."""
        parts = _Parts()
        parts.add(self.vocabulary.ruler(max(codes.shape)), Modality.SPECIAL, Role.STRUCTURE, ruler=True)
        return parts

    def _text(self, parts: _Parts, ids: np.ndarray, role: Role) -> None:
        parts.add(self._bos, Modality.TEXT, Role.STRUCTURE)
        parts.add(np.concatenate((ids, self._eos)), Modality.TEXT, role)

    def _frame(self, parts: _Parts, picture: np.ndarray, role: Role, time: int = 0) -> None:
        """A picture [rows, columns] of ids."""
        rows, columns = picture.shape
        parts.add(self._image_start, Modality.SPECIAL, Role.STRUCTURE, time)
        parts.add(picture.ravel(), Modality.IMAGE, role, time, (rows, columns))


class _Parts:
    """Grows the ids and spans of one sequence."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._pieces: list[_Piece] = []

    def add(
        self,
        ids: np.ndarray,
        modality: Modality,
        role: Role,
        time: int = 0,
        grid: tuple[int, int] | None = None,
        *,
        ruler: bool = False,
    ) -> None:
        self._ids.append(ids)
        self._pieces.append((len(ids), modality, role, time, grid, ruler))

    def sequence(self, key: str) -> TokenSequence:
        return TokenSequence(key, np.concatenate(self._ids, dtype=np.int64), _layout(tuple(self._pieces)))


_Piece = tuple[int, Modality, Role, int, tuple[int, int] | None, bool]
"""A span by its length instead of its place."""


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _layout(pieces: tuple[_Piece, ...]) -> Layout:
    spans, start = [], 0
    for length, modality, role, time, grid, ruler in pieces:
        spans.append(Span(start, start + length, modality, role, time, grid, ruler))
        start += length
    return Layout(spans)
