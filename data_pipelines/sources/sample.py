"""What a shard holds under one key, whoever wrote it: pictures, sound, words and, in a world, actions.

A sample is a row of moments. A recorded episode has one per frame, a film too, but nobody knows its actions; a picture,
a sound or a text is a single moment. Which of them a sample is, its fields tell (`fields.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.sources.episode import UNKNOWN_ACTION, Episode, Event, decode_episode, silence, sound_of
from data_pipelines.sources.fields import (
    ACTIONS_FIELD,
    PICTURE_FIELDS,
    SOUND_FIELDS,
    STRIP_FIELDS,
    TEXT_FIELDS,
    TRACK_FIELD,
    caption_in,
    first_of,
)
from data_pipelines.sources.picture import decode_picture

MAX_FRAMES = 1 << 16
NO_POSES = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """T + 1 moments and what was done between them.

    key                name in the shards
    frames             uint8 [T + 1, height, width, 3], RGB; no height and width when there is nothing to see
    audio              float32 [samples, channels] of all moments together; no samples when there is nothing to hear
    audio_rate         samples per second
    seconds_per_frame  how long a moment lasts; 0 when the whole sample is one
    captions           T + 1 descriptions, or one of the whole, "" when there is none
    mission            what an agent was asked to do
    actions            int64 [T]; UNKNOWN_ACTION where nobody knows. Of several agents [T, agents], UNKNOWN_ACTION of
                       one that was not there
    rewards            float32 [T], of all agents together; nan where there are none
    done               bool [T]
    num_actions        size of the action space; 0 without one
    events             what happened by a text, each before the action of its step
    poses              [T + 1, 3] of the agent, as `Episode` has them; [0, 0] where nobody tells
    """

    key: str
    frames: np.ndarray
    audio: np.ndarray
    audio_rate: int
    seconds_per_frame: float
    captions: tuple[str, ...]
    mission: str
    actions: np.ndarray
    rewards: np.ndarray
    done: np.ndarray
    num_actions: int
    events: tuple[Event, ...] = ()
    poses: np.ndarray = field(default_factory=lambda: NO_POSES)

    @property
    def num_frames(self) -> int:
        """T + 1."""
        return len(self.frames)


def decode_sample(key: str, fields: Mapping[str, bytes]) -> Sample:
    """The sample of these fields. Raises ValueError naming the sample and the field that cannot be read."""
    if ACTIONS_FIELD in fields:
        return sample_of(decode_episode(key, dict(fields)))
    about = _about(key, fields)
    caption = _caption(key, fields, about)
    strip = first_of(STRIP_FIELDS, fields)
    if strip is not None:
        return _film(key, fields, strip, about, caption)
    picture = first_of(PICTURE_FIELDS, fields)
    if picture is not None:
        return _still(key, caption, frames=_picture(key, picture, fields[picture])[None])
    sound = first_of(SOUND_FIELDS, fields)
    if sound is not None:
        audio, rate = sound_of(key, fields, sound)
        return _still(key, caption, audio=audio, audio_rate=rate)
    if not caption:
        raise ValueError(f"sample {key}: nothing to see, hear or read in its fields {sorted(fields)}")
    return _still(key, caption)


def sample_of(episode: Episode) -> Sample:
    """A recorded episode."""
    audio, audio_rate = episode.audio, episode.audio_rate
    return Sample(
        key=episode.key,
        frames=episode.frames,
        audio=audio,
        audio_rate=audio_rate,
        seconds_per_frame=len(audio) / audio_rate / len(episode.frames) if len(audio) else 0.0,
        captions=episode.captions,
        mission=episode.mission,
        actions=episode.actions,
        rewards=episode.rewards if episode.num_agents == 1 else episode.rewards.sum(axis=1),
        done=episode.done,
        num_actions=episode.num_actions,
        events=episode.events,
        poses=episode.poses,
    )


def decode_watched(key: str, fields: Mapping[str, bytes]) -> Episode:
    """An episode as it is, and a film as an episode that no environment plays and whose actions nobody knows.

    Raises ValueError naming the sample for what is neither.
    """
    if ACTIONS_FIELD in fields:
        return decode_episode(key, dict(fields))
    film = decode_sample(key, fields)
    if not film.frames.size:
        raise ValueError(f"sample {key}: neither an episode nor a film: its fields are {', '.join(sorted(fields))}")
    return Episode(
        key=key,
        frames=film.frames,
        actions=film.actions,
        rewards=film.rewards,
        done=film.done,
        poses=np.zeros((film.num_frames, 0), dtype=np.int64),
        mission=film.mission,
        captions=film.captions * film.num_frames,
        environment="",
        seed=0,
        num_actions=0,
    )


def squared(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 [frames, height, width, 3] to [frames, size, size, 3]: scaled to cover the square, the rest cut off evenly.

    Frames of that size, and samples without pictures, stay as they are.
    """
    _, height, width, _ = frames.shape
    if not frames.size or (height, width) == (size, size):
        return frames
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    box = (left, top, left + side, top + side)
    resized = [Image.fromarray(frame).resize((size, size), Image.Resampling.BOX, box) for frame in frames]
    return np.stack([np.asarray(frame) for frame in resized])


def _film(key: str, fields: Mapping[str, bytes], strip: str, about: dict[str, Any], caption: str) -> Sample:
    frames, rate = about.get("num_frames"), about.get("frames_per_second")
    if not isinstance(frames, int) or not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"sample {key}: field json has no valid num_frames ({frames!r})")
    if not isinstance(rate, int | float) or not 0 < rate < 1e6:
        raise ValueError(f"sample {key}: field json has no valid frames_per_second ({rate!r})")
    pixels = _picture(key, strip, fields[strip])
    if pixels.shape[0] % frames:
        raise ValueError(f"sample {key}: field {strip} of {pixels.shape[0]} rows is not {frames} frames")
    audio, audio_rate = sound_of(key, fields, TRACK_FIELD) if TRACK_FIELD in fields else silence()
    return Sample(
        key=key,
        frames=pixels.reshape(frames, -1, *pixels.shape[1:]),
        audio=audio,
        audio_rate=audio_rate,
        seconds_per_frame=1.0 / rate if len(audio) else 0.0,
        captions=(caption,),
        mission=caption,
        actions=np.full(frames - 1, UNKNOWN_ACTION, dtype=np.int64),
        rewards=np.full(frames - 1, np.nan, dtype=np.float32),
        done=np.zeros(frames - 1, dtype=np.bool_),
        num_actions=0,
    )


def _still(
    key: str, caption: str, frames: np.ndarray | None = None, audio: np.ndarray | None = None, audio_rate: int = 0
) -> Sample:
    return Sample(
        key=key,
        frames=np.zeros((1, 0, 0, 3), dtype=np.uint8) if frames is None else frames,
        audio=np.zeros((0, 1), dtype=np.float32) if audio is None else audio,
        audio_rate=audio_rate,
        seconds_per_frame=0.0,
        captions=(caption,),
        mission="",
        actions=np.zeros(0, dtype=np.int64),
        rewards=np.zeros(0, dtype=np.float32),
        done=np.zeros(0, dtype=np.bool_),
        num_actions=0,
    )


def _picture(key: str, field: str, payload: bytes) -> np.ndarray:
    try:
        return decode_picture(payload)
    except ValueError as error:
        raise ValueError(f"sample {key}: field {field}: {error}") from None


def _about(key: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
    """What `json` says; nothing when it is missing or no object (some sets keep lists there)."""
    try:
        about = json.loads(fields.get("json", b"{}"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"sample {key}: field json cannot be read ({error})") from None
    return about if isinstance(about, dict) else {}


def _caption(key: str, fields: Mapping[str, bytes], about: dict[str, Any]) -> str:
    """The words of a sample, "" when it has none."""
    name = first_of(TEXT_FIELDS, fields)
    if name is None:
        return (caption_in(about) or "").strip()
    try:
        return fields[name].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"sample {key}: field {name} is not UTF-8 ({error})") from None
