"""An episode and its WebDataset fields.

The frames are one lossless PNG strip, stacked top to bottom: one open and one inflate per episode instead of one per
frame, and any tool can look at it. Everything else is `.npy` or `.json`; no field can carry code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.shards.npy import decode_npy
from data_pipelines.sources.fields import TRACK_FIELD
from data_pipelines.sources.picture import MAX_PICTURE_PIXELS, decode_picture
from data_pipelines.sources.sound import decode_sound, encode_flac, to_pcm

PNG_COMPRESS_LEVEL = 6
"""zlib level of the strip. Measured on 64x64 MiniGrid frames, 12 per strip: level 1 gives 346 bytes a frame, level 6
gives 164 in 1.2x its time (1.0 ms a strip), level 9 gives 145 in 4.6x its time."""

UNKNOWN_ACTION = -1
ARRAY_FIELDS = ("actions", "rewards", "done", "poses")
RECORD_AGAIN = "run `unimodel data verify DIR` to list all damage, delete the damaged shard and record again"


class Event(NamedTuple):
    """Something that happens because a text says so, before action `step` is taken."""

    step: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """T steps of one environment: action t leads from frame t to frame t+1; reward t and done t arrive with frame t+1.

    key          name of the sample in the shards; no dot, no slash
    frames       uint8 [T+1, height, width, 3], RGB
    actions      int64 [T], 0 .. num_actions - 1; UNKNOWN_ACTION where nobody knows. Of several agents [T, agents];
                 UNKNOWN_ACTION of one that was not there
    rewards      float32 [T], of several agents [T, agents]; nan where nobody told them
    done         bool [T], the environment terminated (a time limit is not done)
    poses        int64 [T+1, 3], x and y in cells and direction (0 right, 1 down, 2 left, 3 up), or float64, x and y
                 on the ground and the angle in radians; [T+1, 0] without any
    mission      what the agent was asked to do
    captions     T+1 descriptions, one per frame; "" where there is none
    environment  gymnasium id; "" when the episode cannot be replayed
    seed         the environment's reset seed: with it and `actions` the episode can be replayed exactly
    num_actions  size of the environment's action space; 0 where nobody knows what was done
    audio        float32 [samples, channels], equally many samples for every frame; none in a silent world
    audio_rate   samples per second
    policy       who acted; "" when nobody told
    events       what happened in the world by a text, each before the action of its step, in order: the next frame is
                 the first to show it
    view_cells   how many cells a side the agent saw; None for the picture that the environment makes by itself

    Raises ValueError naming the key and the field for a wrong dtype, shape, length or range.
    """

    key: str
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    done: np.ndarray
    poses: np.ndarray
    mission: str
    captions: tuple[str, ...]
    environment: str
    seed: int
    num_actions: int
    audio: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), dtype=np.float32))
    audio_rate: int = 0
    policy: str = ""
    events: tuple[Event, ...] = ()
    view_cells: int | None = None

    def __post_init__(self) -> None:
        steps = len(self.actions)
        frame_shape = self.frames.shape[1:3] if self.frames.ndim == 4 else (0, 0)
        expected = {
            "frames": (np.uint8, (steps + 1, *frame_shape, 3)),
            "actions": (np.int64, (steps, *self.actions.shape[1:2])),
            "rewards": (np.float32, (steps, *self.actions.shape[1:2])),
            "done": (np.bool_, (steps,)),
            "poses": (self._pose_dtype, (steps + 1, 3 if self.poses.size else 0)),
        }
        for name, (dtype, shape) in expected.items():
            array: np.ndarray = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"episode {self.key}: {name} is {array.dtype} {list(array.shape)} where {np.dtype(dtype)} "
                    f"{list(shape)} is expected for {steps} steps"
                )
        if len(self.captions) != steps + 1:
            raise ValueError(f"episode {self.key}: {len(self.captions)} captions for {steps + 1} frames")
        if self.actions.ndim == 2 and self.num_agents < 2:
            raise ValueError(f"episode {self.key}: actions of {self.num_agents} agents: of a single one they are [T]")
        least = 0 if self.num_actions and self.num_agents == 1 else UNKNOWN_ACTION
        if steps and not (least <= self.actions.min() and self.actions.max() < self.num_actions):
            raise ValueError(f"episode {self.key}: actions go outside 0..{self.num_actions - 1}")
        if [event.step for event in self.events] != sorted(e.step for e in self.events if 0 <= e.step < steps):
            raise ValueError(
                f"episode {self.key}: events at steps {[event.step for event in self.events]} are not in order or "
                f"outside its {steps} steps"
            )
        if len(self.audio) % (steps + 1) or (len(self.audio) and self.audio_rate < 1):
            raise ValueError(
                f"episode {self.key}: {len(self.audio)} samples of sound at {self.audio_rate} Hz do not divide among "
                f"{steps + 1} frames"
            )

    @property
    def _pose_dtype(self) -> type[np.generic]:
        return np.float64 if self.poses.dtype == np.float64 else np.int64

    @property
    def num_agents(self) -> int:
        """Who acted in every step."""
        return self.actions.shape[1] if self.actions.ndim == 2 else 1

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.actions)


def encode_episode(episode: Episode) -> dict[str, bytes]:
    """The WebDataset fields of an episode; the same episode always gives the same bytes.

    Raises ValueError for a strip of more than MAX_PICTURE_PIXELS.
    """
    frames, height, width, channels = episode.frames.shape
    _check_strip_size(episode.key, frames, height, width)
    strip = Image.fromarray(np.ascontiguousarray(episode.frames).reshape(frames * height, width, channels))
    png = io.BytesIO()
    strip.save(png, format="PNG", compress_level=PNG_COMPRESS_LEVEL)
    about = {
        "mission": episode.mission,
        "captions": list(episode.captions),
        "environment": episode.environment,
        "seed": episode.seed,
        "num_steps": episode.num_steps,
        "num_frames": frames,
        "image_size": [height, width],
        "num_actions": episode.num_actions,
        "policy": episode.policy,
        "events": [event._asdict() for event in episode.events],
        "view_cells": episode.view_cells,
    }
    arrays = {f"{name}.npy": _to_npy(getattr(episode, name)) for name in ARRAY_FIELDS}
    text = json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    sound = {TRACK_FIELD: encode_flac(to_pcm(episode.audio), episode.audio_rate)} if episode.audio.size else {}
    return {"frames.png": png.getvalue(), **arrays, **sound, "json": text.encode()}


def decode_episode(key: str, fields: dict[str, bytes]) -> Episode:
    """The reverse of `encode_episode`. Raises ValueError naming the sample, the field and what to do."""
    about = decode_about(key, fields)
    arrays = {name: decode_array(key, fields, f"{name}.npy") for name in ARRAY_FIELDS}
    audio, audio_rate = sound_of(key, fields, TRACK_FIELD) if TRACK_FIELD in fields else silence()
    return Episode(
        key=key,
        frames=_decode_strip(key, fields, about["num_frames"]),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        done=arrays["done"],
        poses=arrays["poses"],
        mission=about["mission"],
        captions=tuple(about["captions"]),
        environment=about["environment"],
        seed=about["seed"],
        num_actions=about["num_actions"],
        audio=audio,
        audio_rate=audio_rate,
        policy=about["policy"],
        events=tuple(Event(**event) for event in about["events"]),
        view_cells=about["view_cells"],
    )


def decode_about(key: str, fields: dict[str, bytes]) -> dict[str, Any]:
    """The checked `json` field: mission, captions, environment, seed, num_actions, num_frames, policy, events,
    view_cells (and what follows from the arrays, for other readers: num_steps, image_size)."""
    try:
        about = json.loads(_field(key, fields, "json"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"sample {key}: field json cannot be read ({error}): {RECORD_AGAIN}") from None
    types = {"mission": str, "captions": list, "environment": str, "seed": int, "num_actions": int, "num_frames": int}
    for name, expected in types.items():
        value = about.get(name) if isinstance(about, dict) else None
        if not isinstance(value, expected):
            raise ValueError(f"sample {key}: field json has no valid {name} ({value!r}): {RECORD_AGAIN}")
    about = {"policy": "", "events": [], "view_cells": None} | about  # older recordings have none of them
    if not isinstance(about["events"], list) or not all(map(_is_event, about["events"])):
        raise ValueError(f"sample {key}: field json has no valid events ({about['events']!r}): {RECORD_AGAIN}")
    texts = [about["mission"], about["policy"], *about["captions"], *(event["text"] for event in about["events"])]
    if not all(isinstance(text, str) and _is_unicode(text) for text in texts):
        raise ValueError(f"sample {key}: field json has words that are not text: {RECORD_AGAIN}")
    if about["view_cells"] is not None and type(about["view_cells"]) is not int:
        raise ValueError(f"sample {key}: field json has no valid view_cells ({about['view_cells']!r}): {RECORD_AGAIN}")
    if about["num_frames"] < 1:
        raise ValueError(f"sample {key}: field json has num_frames {about['num_frames']}: {RECORD_AGAIN}")
    return about


def sound_of(key: str, fields: Mapping[str, bytes], field: str) -> tuple[np.ndarray, int]:
    """(float32 [samples, channels], samples per second) of a sound field. Raises ValueError naming sample and field."""
    try:
        return decode_sound(fields[field])
    except ValueError as error:
        raise ValueError(f"sample {key}: field {field}: {error}") from None


def silence() -> tuple[np.ndarray, int]:
    """The sound of a sample without any."""
    return np.zeros((0, 1), dtype=np.float32), 0


def decode_array(key: str, fields: dict[str, bytes], field: str) -> np.ndarray:
    """One `.npy` field; never unpickles. Raises ValueError naming the sample and the field."""
    try:
        return decode_npy(_field(key, fields, field))
    except ValueError as error:
        raise ValueError(f"sample {key}: field {field} cannot be read ({error}): {RECORD_AGAIN}") from None


def _decode_strip(key: str, fields: dict[str, bytes], frames: int) -> np.ndarray:
    """uint8 [frames, H, W, 3]. The size is checked from the header, before any pixel is inflated."""
    strip = _field(key, fields, "frames.png")
    try:
        pixels = decode_picture(strip)
        if len(pixels) % frames:
            raise ValueError(f"{pixels.shape[1]}x{len(pixels)} pixels are not {frames} frames")
    except ValueError as error:
        raise ValueError(f"sample {key}: field frames.png: {error}: {RECORD_AGAIN}") from None
    return pixels.reshape(frames, -1, *pixels.shape[1:])


def _check_strip_size(key: str, frames: int, height: int, width: int) -> None:
    if frames * height * width > MAX_PICTURE_PIXELS:
        raise ValueError(
            f"sample {key}: {frames} frames of {height}x{width} are more than {MAX_PICTURE_PIXELS} pixels: "
            "record shorter episodes or smaller images"
        )


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"step", "text"} and type(value["step"]) is int


def _is_unicode(text: str) -> bool:
    """Half a character (a lone surrogate) can be written as JSON, but not as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _field(key: str, fields: dict[str, bytes], name: str) -> bytes:
    if name not in fields:
        raise ValueError(f"sample {key}: field {name} is missing (it has {sorted(fields)}): {RECORD_AGAIN}")
    return fields[name]


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
