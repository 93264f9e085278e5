"""An episode of a data set made elsewhere, cut into windows that are episodes of this project."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.sources.episode import Episode, Event, encode_episode
from data_pipelines.sources.item import EncodedSample, encode_about


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """T steps without their frames: action t leads from frame t to frame t+1; reward t and done t arrive with it.

    key          of the windows, before their number; they share a split
    name         for people
    actions      int64 [T], 0 .. num_actions - 1
    rewards      float32 [T]; nan where there are none
    done         bool [T]
    missions     what was asked for when frame t was seen, one for each of the T+1 frames or one for all
    seed         of the environment, when it is known
    about        what else every window's `json` says
    events       what happened by a text, in order

    Raises ValueError when the lengths differ.
    """

    key: str
    name: str
    actions: np.ndarray
    rewards: np.ndarray
    done: np.ndarray
    missions: Sequence[str]
    num_actions: int
    seed: int
    about: dict[str, Any]
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        steps = len(self.actions)
        for what, count in (("rewards", len(self.rewards)), ("ends", len(self.done))):
            if count != steps:
                raise ValueError(f"it has {count} {what} for {steps} actions")


def encode_windows(
    trajectory: Trajectory, frames: Iterable[np.ndarray], max_frames: int, size: tuple[int, int] | None
) -> Iterator[EncodedSample]:
    """The windows of a trajectory, of at most `max_frames` of its T+1 frames uint8 [height, width, 3].

    Neighbouring windows share a frame, so that every action is in one of them. Frames are scaled to `size`, if any.
    Raises ValueError, after the windows before it, where the frames break off or are more than the actions lead to.
    """
    window: list[np.ndarray] = []
    start, steps = 0, len(trajectory.actions)
    for number, frame in enumerate(frames):
        if number > steps:
            raise ValueError(f"it has more than {steps + 1} frames for {steps} actions")
        window.append(frame if size is None else _fitted(frame, size))
        if len(window) == max_frames:
            yield _sample(trajectory, start, window)
            start, window = number, window[-1:]
    if start + len(window) != steps + 1:
        raise ValueError(f"it has {start + len(window)} frames for {steps} actions")
    if len(window) > 1:
        yield _sample(trajectory, start, window)


def _sample(trajectory: Trajectory, start: int, frames: list[np.ndarray]) -> EncodedSample:
    steps = slice(start, start + len(frames) - 1)
    key = f"{trajectory.key}-{start:06d}"
    episode = Episode(
        key=key,
        frames=np.stack(frames),
        actions=trajectory.actions[steps],
        rewards=trajectory.rewards[steps],
        done=trajectory.done[steps],
        poses=np.zeros((len(frames), 0), dtype=np.int64),
        mission=trajectory.missions[min(start, len(trajectory.missions) - 1)],
        captions=("",) * len(frames),
        environment="",
        seed=trajectory.seed,
        num_actions=trajectory.num_actions,
        events=tuple(Event(e.step - start, e.text) for e in trajectory.events if steps.start <= e.step < steps.stop),
    )
    fields = encode_episode(episode)
    fields["json"] = encode_about(json.loads(fields["json"]) | trajectory.about | {"first_step": start})
    lengths = {"frames": len(frames), "size": episode.frames.shape[1:3]}
    return EncodedSample(key, f"{trajectory.name} from step {start}", fields, lengths, trajectory.key)


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if frame.shape[:2] == size:
        return frame
    return np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height), Image.Resampling.BICUBIC))
