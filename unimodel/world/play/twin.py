"""The real environment of an episode, brought to wherever the dream is.

No environment need be able to restore a state: to go back, the episode is played again from its beginning, and the
pictures on the way are compared with those of the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.sources.families import open_world
from data_pipelines.sources.world import World

Deed = int | str
"""An action, or an event: a text that says what happens before the next action."""
EXAMPLES_OF_A_KIND = 2


@dataclass(frozen=True, slots=True, eq=False)
class Reality:
    """What is really to be seen: uint8 [height, width, 3], all rewards together, after how many actions the episode was
    over, if it is, why the last events did not happen, if they did not, and some that can happen next."""

    picture: np.ndarray
    reward: float = 0.0
    over_at: int | None = None
    refused: str | None = None
    possible: tuple[str, ...] = ()


class Twin:
    """The environment of one episode. One thread at a time."""

    def __init__(self, environment: str, seed: int, image_size: int, view_cells: int | None = None) -> None:
        self._environment, self._seed = environment, seed
        self._image_size, self._view_cells = image_size, view_cells
        self._world: World | None = None
        self._done: list[Deed] = []
        self._seen: list[bytes] = []
        """Digests of the pictures before the first deed and after every one."""
        self._now: Reality | None = None

    def at(self, deeds: Sequence[Deed]) -> Reality:
        """What is to be seen after `deeds` from the beginning; those after the end of the episode change nothing.

        Raises ValueError for an unknown environment or one whose replay differs, MissingExtraError when its package is
        not installed.
        """
        if self._now is None or self._done != list(deeds[: len(self._done)]):
            self._begin_again(deeds)
        for deed in deeds[len(self._done) :]:
            self._do(deed)
        assert self._now is not None and self._world is not None
        groups = self._world.simulator.possible_events() if self._now.over_at is None else ()
        examples = [sentence for group in groups for sentence in group[:: -(-len(group) // EXAMPLES_OF_A_KIND)]]
        return replace(self._now, possible=tuple(examples))

    def close(self) -> None:
        """Ends the environment."""
        if self._world is not None:
            self._world.close()
        self._world, self._now, self._done, self._seen = None, None, [], []

    def _begin_again(self, deeds: Sequence[Deed]) -> None:
        """To the last moment that was seen before and lies on the way."""
        done, seen = self._done, self._seen
        shared = next((i for i, (a, b) in enumerate(zip(done, deeds, strict=False)) if a != b), None)
        shared = min(len(done), len(deeds)) if shared is None else shared
        self.close()
        self._world = open_world(self._environment, self._seed, self._image_size, self._view_cells)
        self._now, self._seen = Reality(self._world.frame), [_digest(self._world.frame)]
        for deed in deeds[:shared]:
            self._do(deed)
        if seen and self._seen != seen[: shared + 1]:
            self.close()
            raise ValueError(f"{self._environment} cannot be played back: two replays of the same actions differ")

    def _do(self, deed: Deed) -> None:
        world, now = self._world, self._now
        assert world is not None and now is not None
        if isinstance(deed, str) and now.over_at is None:
            try:
                world.make_happen(deed)
            except ValueError as error:  # the dream may do it all the same
                now = replace(now, refused=str(error))
        elif isinstance(deed, int) and now.over_at is None:
            step = world.step(deed)
            actions = 1 + sum(isinstance(earlier, int) for earlier in self._done)
            over_at = actions if step.terminated or step.truncated else None
            refused = now.refused if self._done and isinstance(self._done[-1], str) else None
            now = Reality(step.frame, now.reward + step.reward, over_at, refused)
        self._now = now
        self._done.append(deed)
        self._seen.append(_digest(now.picture))


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()
