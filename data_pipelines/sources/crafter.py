"""Crafter (Hafner 2021, arXiv 2109.06780) as a gymnasium environment: `data_pipelines.sources.crafter:Crafter-v1`.

Also the example of an adapter for a world of your own: observe pictures, take Discrete actions, be reset by a seed, and
register. The rest is for those that have it: names of the actions, a mission, a pose, and `snapshot` and `restore`
where the world can be set back exactly. Importing this module is enough for `gymnasium.make`, and the recorder imports
what stands before the colon.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np

from data_pipelines.extras import load_extra

PICTURE = (72, 72, 3)
"""Cells of 8 x 8 pixels: a picture whose cells are an image tokenizer's patches takes few codes."""
FACING = ((1, 0), (0, 1), (-1, 0), (0, -1))


class InOrder(dict[Any, None]):
    """A set that is walked through in the order in which things came into it. Crafter keeps the creatures of a region
    in plain sets, whose order hangs on where in memory they lie, and draws one by its number: the same seed and
    actions would lead to other worlds."""

    @staticmethod
    def of(creatures: Iterable[Any]) -> InOrder:
        """By their places and kinds: no two creatures stand on one cell."""
        ordered = sorted(creatures, key=lambda one: (*map(int, one.pos), type(one).__name__))
        return InOrder((one, None) for one in ordered)

    def add(self, creature: Any) -> None:
        """At the end."""
        self[creature] = None

    def remove(self, creature: Any) -> None:
        """Raises KeyError for one that is not there."""
        del self[creature]


class Crafter(gymnasium.Env[np.ndarray, np.int64]):
    """A survival world of 64 x 64 cells, seen from above; 17 actions, 22 achievements. Of the 9 x 9 cells in view, two
    rows are what the player carries."""

    observation_space = gymnasium.spaces.Box(0, 255, PICTURE, np.uint8)
    mission = "survive"

    def __init__(self) -> None:
        self._crafter = load_extra("crafter", "envs", "Crafter-v1")
        self._world: Any = self._crafter.Env(size=PICTURE[:2])
        self.action_space = gymnasium.spaces.Discrete(len(self._world.action_names))

    @property
    def pose(self) -> tuple[int, int, int]:
        """The player's cell, and where it looks: 0 right, 1 down, 2 left, 3 up."""
        player = self._world._player
        x, y = player.pos
        return int(x), int(y), FACING.index(tuple(player.facing))

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in their order."""
        return self._world.action_names

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new world; the same one for the same seed."""
        super().reset(seed=seed)
        self._world = self._crafter.Env(size=PICTURE[:2], seed=int(self.np_random.integers(2**31)))
        picture = self._world.reset()
        chunks = self._world._world._chunks
        self._world._world._chunks = defaultdict(InOrder, {key: InOrder.of(chunks[key]) for key in sorted(chunks)})
        return picture, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Dying ends an episode, 10,000 steps cut it off."""
        picture, reward, over, info = self._world.step(action)
        dead = info["discount"] == 0
        return picture, float(reward), dead, over and not dead, info

    def snapshot(self) -> Any:
        """The whole world, to come back to."""
        return copy.deepcopy(self._world)

    def restore(self, state: Any) -> None:
        """Exactly back, as often as wanted."""
        self._world = copy.deepcopy(state)


gymnasium.register("Crafter-v1", f"{__name__}:Crafter")
