"""The real environment of an episode, brought to wherever the dream is.

No environment need be able to restore a state: to go back, the episode is played again from its beginning, and the
pictures on the way are compared with those of the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.families import open_world
from data_pipelines.sources.world import World


@dataclass(frozen=True, slots=True, eq=False)
class Reality:
    """What is really to be seen: uint8 [height, width, 3], all rewards together, and after how many steps the episode
    was over, if it is."""

    picture: np.ndarray
    reward: float
    over_at: int | None


class Twin:
    """The environment of one episode. One thread at a time."""

    def __init__(self, environment: str, seed: int, image_size: int) -> None:
        self._environment, self._seed, self._image_size = environment, seed, image_size
        self._world: World | None = None
        self._taken: list[int] = []
        self._seen: list[bytes] = []
        """Digests of the pictures before the first action and after every one."""
        self._now: Reality | None = None

    def at(self, actions: Sequence[int]) -> Reality:
        """What is to be seen after `actions` from the beginning; those after the end of the episode change nothing.

        Raises ValueError for an unknown environment or one whose replay differs, MissingExtraError when its package is
        not installed.
        """
        if self._now is None or self._taken != list(actions[: len(self._taken)]):
            self._begin_again(actions)
        for action in actions[len(self._taken) :]:
            self._take(action)
        assert self._now is not None
        return self._now

    def close(self) -> None:
        """Ends the environment."""
        if self._world is not None:
            self._world.close()
        self._world, self._now, self._taken, self._seen = None, None, [], []

    def _begin_again(self, actions: Sequence[int]) -> None:
        """To the last moment that was seen before and lies on the way."""
        taken, seen = self._taken, self._seen
        shared = next((i for i, (a, b) in enumerate(zip(taken, actions, strict=False)) if a != b), None)
        shared = min(len(taken), len(actions)) if shared is None else shared
        self.close()
        self._world = open_world(self._environment, self._seed, self._image_size)
        picture = self._world.frame
        self._now, self._seen = Reality(picture, 0.0, None), [_digest(picture)]
        for action in actions[:shared]:
            self._take(action)
        if seen and self._seen != seen[: shared + 1]:
            self.close()
            raise ValueError(f"{self._environment} cannot be played back: two replays of the same actions differ")

    def _take(self, action: int) -> None:
        assert self._world is not None and self._now is not None
        self._taken.append(action)
        if self._now.over_at is None:
            step = self._world.step(action)
            over_at = len(self._taken) if step.terminated or step.truncated else None
            self._now = Reality(step.frame, self._now.reward + step.reward, over_at)
        self._seen.append(_digest(self._now.picture))


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()
