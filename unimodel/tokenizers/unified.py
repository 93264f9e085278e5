"""Tokenised samples -> `TokenSequence`s: the one place that knows how modalities are laid side by side.

Every sample is an episode, a row of moments: a picture with its caption is one of one moment, a film one whose actions
nobody knows, a text one with nothing to see or hear. A frame is always `<|image|>` and its codes, the sound of a moment
`<|audio|>` and its codes. In episodes the action that led to a moment stands in front of it (the first has
`<|no_action|>`, as has any whose action is unknown) and the reward and done flag that came with it follow. Of several
agents the actions stand there one after another, `<|no_action|>` for one that is not there:

    clip            ruler | bos caption eos | frame | (action, frame) ...                everything is a target
    text_to_image   ruler | bos caption eos | frame                                      the frame is the target
    image_to_text   ruler | frame | bos caption eos                                      the caption is the target
    text_to_audio   bos caption eos | sound                                              the sound is the target
    audio_to_text   sound | bos caption eos                                              the caption is the target
    interaction     ruler | bos mission eos | frame | (action, frame, reward, done) ...  all but mission and first frame
    text            bos and a part of the caption                                        the text is the target

An `interaction` may begin with the episode's first frame, as a sink, where its own first frame is a later one:
`ruler | bos mission eos | <|no_action|> first frame | <|no_action|> frame | ...`. And it may ask an agent at the end of
every moment what it does next and what it will get from then on, in two tokens that read everything and that nothing
reads; several are asked what each does and what all will get. An event is `bos event eos` in front of the action of its
step.

In `clip` and `interaction` "frame" is the picture, the sound, or one after the other, as the sample has them; rewards
and done flags are left out where they are not known.
The ruler is one coordinate token per row or column of the pictures (see `TokenSequence.position_ids`).
Alignment: action t led from frame t to frame t+1; reward t and done t arrived with frame t+1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from data_pipelines.sources.sample import NO_POSES, UNKNOWN_ACTION
from unimodel.batch import TokenSequence
from unimodel.config import SequenceKind
from unimodel.layout import KNOWN_LAYOUTS, Layout, Role
from unimodel.tokenizers.action import agent_answers, by_agent, reward_codes
from unimodel.tokenizers.parts import Parts
from unimodel.vocabulary import Modality, Vocabulary

SINK_TIME = -1
"""Of the first frame of an episode in front of a window that begins later."""


@dataclass(frozen=True, slots=True)
class TokenisedEpisode:
    """An episode of T steps as codes. `text` arrays are ids of the text tokenizer without bos and eos."""

    key: str
    frames: np.ndarray
    """int [T + 1, rows, columns] image codes; no rows and columns when there is nothing to see."""
    audio: np.ndarray
    """int [T + 1, codes] of the sound that came with every frame; no codes when there is nothing to hear."""
    actions: np.ndarray
    """int [T]; all of them UNKNOWN_ACTION where nobody knows. Of several agents [T, agents], UNKNOWN_ACTION for one
    that is not there."""
    rewards: np.ndarray
    """float [T], of all agents together; all of them nan where rewards and done flags are not known."""
    done: np.ndarray
    """bool [T]."""
    mission: np.ndarray
    captions: Sequence[np.ndarray]
    """T + 1 id arrays, or one for all of them."""
    events: tuple[tuple[int, np.ndarray], ...] = ()
    """(step, ids) of what happened by a text before the action of that step, in order."""
    poses: np.ndarray = field(default_factory=lambda: NO_POSES)
    """float32 [T + 1, 3] where the agent stood and looked, NO_POSES where nobody tells. No token tells it either."""

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def caption(self, frame: int) -> np.ndarray:
        """The caption of a frame."""
        return self.captions[min(frame, len(self.captions) - 1)]


@dataclass(frozen=True, slots=True)
class EpisodeShape:
    """All that the length of a sequence depends on; `mission_tokens`, `caption_tokens` [frames or 1] and `event_tokens`
    [events] without bos, eos; `outcome_tokens` of reward and done flag, 0 when they are not known."""

    num_frames: int
    rows: int
    columns: int
    audio_tokens: int
    outcome_tokens: int
    mission_tokens: int
    caption_tokens: Sequence[int]
    event_steps: Sequence[int] = ()
    event_tokens: Sequence[int] = ()
    num_agents: int = 1

    @property
    def frame_tokens(self) -> int:
        """Picture, sound and their delimiters."""
        picture = self.rows * self.columns
        return (picture + 1 if picture else 0) + (self.audio_tokens + 1 if self.audio_tokens else 0)

    @property
    def step_tokens(self) -> int:
        """Of actions and the frame that they led to."""
        return self.num_agents + self.frame_tokens

    def steps(self, start: int, most: int) -> int:
        """Steps in a window of at most `most` frames from frame `start` on."""
        return min(start + most, self.num_frames) - start - 1


def sequence_length(
    kind: SequenceKind,
    shape: EpisodeShape,
    start: int,
    most: int,
    *,
    has_sink: bool = False,
    asks_agent: bool = False,
) -> int:
    """Tokens of what `SequenceBuilder.build` lays out as `kind` from `start` on (with a discount, it asks an agent).

    Raises ValueError when a sample of this shape has no picture or no sound and `kind` needs one.
    """
    caption = shape.caption_tokens[min(start, len(shape.caption_tokens) - 1)]
    ruler, picture = max(shape.rows, shape.columns), shape.rows * shape.columns
    if kind == "text":
        return 1 + min(shape.caption_tokens[0] + 1, most)
    if kind in ("text_to_image", "image_to_text"):
        if not picture:
            raise ValueError(f"it has no picture, which {kind} needs")
        return ruler + 2 + caption + 1 + picture
    if kind in ("text_to_audio", "audio_to_text"):
        if not shape.audio_tokens:
            raise ValueError(f"it has no sound, which {kind} needs")
        return 2 + caption + 1 + shape.audio_tokens
    if not shape.frame_tokens:
        raise ValueError(f"it has neither pictures nor sound, which {kind} needs")
    steps = shape.steps(start, most)
    if kind == "clip":
        return ruler + 2 + caption + shape.frame_tokens + steps * shape.step_tokens
    first = ruler + 2 + shape.mission_tokens + 1 + shape.frame_tokens
    events = zip(shape.event_steps, shape.event_tokens, strict=True)
    told = sum(2 + tokens for step, tokens in events if start <= step < start + steps)
    sink = 1 + shape.frame_tokens if has_sink and start else 0
    agent = (steps + 1) * (shape.num_agents + 1) if asks_agent else 0
    return first + sink + steps * (shape.step_tokens + shape.outcome_tokens) + told + agent


def first_place(kind: SequenceKind, num_frames: int, text_tokens: int, most: int, choice: int) -> int:
    """Where a sequence begins: `choice` picks the frame, the first frame of a window, or the first token of a text
    (the first caption, of `text_tokens` without eos)."""
    if kind == "text":
        return choice % max(1, text_tokens + 1 - most + 1)
    is_window = kind in ("clip", "interaction")
    return choice % (max(1, num_frames - most + 1) if is_window else num_frames)


class SequenceBuilder:
    """Lays out sequences for one vocabulary and text tokenizer (its bos and eos ids)."""

    def __init__(self, vocabulary: Vocabulary, bos_id: int, eos_id: int) -> None:
        self.vocabulary = vocabulary
        self.bos_id, self.eos_id = bos_id, eos_id
        self._bos, self._eos = (vocabulary.codes(Modality.TEXT, np.array([id])) for id in (bos_id, eos_id))
        self._image_start, self._audio_start, self._no_action, self._agent, self._value = (
            vocabulary.codes(Modality.SPECIAL, np.array([vocabulary.special(token)]))
            for token in ("<|image|>", "<|audio|>", "<|no_action|>", "<|agent|>", "<|value|>")
        )

    def build(
        self,
        kind: SequenceKind,
        episode: TokenisedEpisode,
        start: int,
        most: int,
        *,
        has_sink: bool = False,
        discount: float | None = None,
    ) -> TokenSequence:
        """The sequence of `kind` from frame (in a `text`: token) `start` on, of at most `most` frames (tokens).

        `has_sink` and `discount` are those of an `interaction`.
        """
        match kind:
            case "clip":
                return self.clip(episode, start, most)
            case "text_to_image":
                return self.text_to_image(episode.caption(start), episode.frames[start], episode.key)
            case "image_to_text":
                return self.image_to_text(episode.frames[start], episode.caption(start), episode.key)
            case "text_to_audio":
                return self.text_to_audio(episode.caption(start), episode.audio[start], episode.key)
            case "audio_to_text":
                return self.audio_to_text(episode.audio[start], episode.caption(start), episode.key)
            case "interaction":
                return self.interaction(episode, start, most, has_sink=has_sink, discount=discount)
            case "text":
                return self.text(episode.captions[0], start, most, episode.key)

    def clip(self, episode: TokenisedEpisode, start: int, frames: int = 2) -> TokenSequence:
        """The caption of frame `start`, that frame, and up to `frames` - 1 steps (the last frame stands alone)."""
        window = _Window(episode, start, frames)
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.caption(start), Role.TARGET)
        self._moment(parts, window, 0, Role.TARGET)
        for time in range(1, window.num_frames):
            self._action(parts, window, time)
            self._moment(parts, window, time, Role.TARGET)
        return self._sequence(f"{episode.key}/clip/{start}", parts)

    def text_to_image(self, caption: np.ndarray, codes: np.ndarray, key: str) -> TokenSequence:
        """A caption as the prompt of an image [rows, columns]."""
        parts = self._ruler(codes)
        self._text(parts, caption, Role.CONDITION)
        self._frame(parts, codes, Role.TARGET)
        return self._sequence(f"{key}/text_to_image", parts)

    def image_to_text(self, codes: np.ndarray, caption: np.ndarray, key: str) -> TokenSequence:
        """An image [rows, columns] as the prompt of its caption."""
        parts = self._ruler(codes)
        self._frame(parts, codes, Role.CONDITION)
        self._text(parts, caption, Role.TARGET)
        return self._sequence(f"{key}/image_to_text", parts)

    def text_to_audio(self, caption: np.ndarray, codes: np.ndarray, key: str) -> TokenSequence:
        """A caption as the prompt of a sound [codes]."""
        parts = Parts()
        self._text(parts, caption, Role.CONDITION)
        self._audio(parts, codes, Role.TARGET)
        return self._sequence(f"{key}/text_to_audio", parts)

    def audio_to_text(self, codes: np.ndarray, caption: np.ndarray, key: str) -> TokenSequence:
        """A sound [codes] as the prompt of its caption."""
        parts = Parts()
        self._audio(parts, codes, Role.CONDITION)
        self._text(parts, caption, Role.TARGET)
        return self._sequence(f"{key}/audio_to_text", parts)

    def interaction(
        self,
        episode: TokenisedEpisode,
        start: int,
        frames: int,
        *,
        has_sink: bool = False,
        discount: float | None = None,
    ) -> TokenSequence:
        """Up to `frames` frames from frame `start` on, with the events and actions between them and their outcomes. In
        front of them, where it `has_sink`, the episode's first frame; and at the end of every moment, where there is a
        `discount` of rewards, what an agent does next and what it will get."""
        window = _Window(episode, start, frames)
        answers = None
        if discount is not None:
            answers = agent_answers(episode.actions, episode.rewards, episode.done, discount, start)
        parts = self._ruler(episode.frames[start])
        self._text(parts, episode.mission, Role.CONDITION)
        parts.add(self._no_action, Modality.SPECIAL, Role.STRUCTURE)
        if has_sink and start:
            self._moment(parts, _Window(episode, 0, 1), SINK_TIME, Role.CONDITION)
            parts.add(self._no_action, Modality.SPECIAL, Role.STRUCTURE, missing=True)
        for time in range(window.num_frames):
            if time:
                for ids in window.events(time):
                    self._text(parts, ids, Role.CONDITION, time)
                self._action(parts, window, time)
            self._moment(parts, window, time, Role.TARGET if time else Role.CONDITION)
            if time and window.has_outcomes:
                step = slice(time - 1, time)
                parts.add(window.rewards[step], Modality.REWARD, Role.TARGET, time)
                parts.add(window.done[step], Modality.DONE, Role.TARGET, time)
            if answers is not None:
                self._ask(parts, by_agent(answers[0]), answers[1], time)
        return self._sequence(f"{episode.key}/interaction/{start}", parts)

    def text(self, ids: np.ndarray, start: int, tokens: int, key: str) -> TokenSequence:
        """bos and up to `tokens` tokens of a text from its token `start` on; eos is its last."""
        parts = Parts()
        parts.add(self._bos, Modality.TEXT, Role.STRUCTURE)
        whole = np.concatenate((ids, self._eos))
        parts.add(whole[start : start + tokens], Modality.TEXT, Role.TARGET)
        return self._sequence(f"{key}/text/{start}", parts)

    def _sequence(self, key: str, parts: Parts) -> TokenSequence:
        """Codes become ids in one go: a call for every part would cost more than what it adds.

        Raises ValueError for a code outside its modality's range.
        """
        layout = parts.layout()
        codes = np.concatenate(parts.codes, dtype=np.int64)
        starts, sizes = _ranges(self.vocabulary, layout)
        # Read without its sign, a negative code is a huge one: one look finds both kinds of wrong ones.
        wrong = codes.view(np.uint64) >= sizes
        if wrong.any():
            place = int(wrong.argmax())
            self.vocabulary.ids(Modality(layout.modality[place]), codes[place : place + 1])  # says what is wrong
        return TokenSequence(key, codes + starts, layout)

    def _ruler(self, codes: np.ndarray) -> Parts:
        """Starts a sequence with the coordinates that pictures [rows, columns] need."""
        parts = Parts()
        if codes.size:
            ruler = self.vocabulary.codes(Modality.SPECIAL, self.vocabulary.ruler(max(codes.shape)))
            parts.add(ruler, Modality.SPECIAL, Role.STRUCTURE, ruler=True)
        return parts

    def _text(self, parts: Parts, ids: np.ndarray, role: Role, time: int = 0) -> None:
        parts.add(self._bos, Modality.TEXT, Role.STRUCTURE, time)
        parts.add(np.concatenate((ids, self._eos)), Modality.TEXT, role, time)

    def _moment(self, parts: Parts, window: _Window, time: int, role: Role) -> None:
        """What there is to see and to hear."""
        if window.frames.size:
            self._frame(parts, window.frames[time], role, time)
        if window.audio.size:
            self._audio(parts, window.audio[time], role, time)

    def _frame(self, parts: Parts, picture: np.ndarray, role: Role, time: int = 0) -> None:
        """A picture [rows, columns]."""
        rows, columns = picture.shape
        parts.add(self._image_start, Modality.SPECIAL, Role.STRUCTURE, time)
        parts.add(picture.ravel(), Modality.IMAGE, role, time, (rows, columns))

    def _audio(self, parts: Parts, sound: np.ndarray, role: Role, time: int = 0) -> None:
        """A sound [codes]."""
        parts.add(self._audio_start, Modality.SPECIAL, Role.STRUCTURE, time)
        parts.add(sound, Modality.AUDIO, role, time)

    def _action(self, parts: Parts, window: _Window, time: int) -> None:
        """Of every agent."""
        step = window.actions[time - 1]
        for agent, known in enumerate(window.is_known[time - 1]):
            if known:
                parts.add(step[agent : agent + 1], Modality.ACTION, Role.TARGET, time, agent=agent)
            else:
                parts.add(self._no_action, Modality.SPECIAL, Role.STRUCTURE, time, missing=True, agent=agent)

    def _ask(self, parts: Parts, actions: np.ndarray, values: np.ndarray, time: int) -> None:
        """What each agent [moments, agents] does next and what there is to get; the question itself stands where nobody
        knows."""
        for agent in range(actions.shape[1]):
            if time < len(actions) and actions[time, agent] != UNKNOWN_ACTION:
                answer = actions[time, agent : agent + 1]
                parts.add(answer, Modality.ACTION, Role.AGENT, time, agent=agent)
            else:
                parts.add(self._agent, Modality.SPECIAL, Role.AGENT, time, agent=agent)
        if time < len(values):
            parts.add(values[time : time + 1], Modality.REWARD, Role.AGENT, time)
        else:
            parts.add(self._value, Modality.SPECIAL, Role.AGENT, time)


class _Window:
    """Codes of up to `most` frames of an episode and of what lies between them."""

    def __init__(self, episode: TokenisedEpisode, start: int, most: int) -> None:
        self.num_frames = min(start + most, episode.num_frames) - start
        moments, steps = slice(start, start + self.num_frames), slice(start, start + self.num_frames - 1)
        rewards = episode.rewards[steps]
        self.has_outcomes = self.num_frames > 1 and not math.isnan(rewards[0])
        self.frames, self.audio = episode.frames[moments], episode.audio[moments]
        self.actions, self.done = by_agent(episode.actions[steps]), episode.done[steps]
        self.is_known: list[list[bool]] = (self.actions != UNKNOWN_ACTION).tolist()
        self.rewards = reward_codes(rewards) if self.has_outcomes else rewards
        self._start, self._events = start, episode.events

    def events(self, time: int) -> list[np.ndarray]:
        """Ids of what happened before the action that led to frame `time` of the window."""
        return [ids for step, ids in self._events if step == self._start + time - 1]


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _ranges(vocabulary: Vocabulary, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """[n] first id of the modality of every token, and how many there are (uint64)."""
    ranges = [vocabulary.range_of(modality) for modality in Modality]
    starts, sizes = np.array([ids.start for ids in ranges]), np.array([len(ids) for ids in ranges], dtype=np.uint64)
    return starts[layout.modality], sizes[layout.modality]
