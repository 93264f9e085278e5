"""The real environment as the model sees it: its frames in tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.sources.families import open_world
from data_pipelines.sources.world import Action
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.starts import Start
from unimodel.world.state import WorldState


class RealEpisode:
    """The episode whose beginning was recorded, played anew. The caller closes it.

    Raises ValueError when its environment cannot be opened again, MissingExtraError when it is not installed.
    """

    def __init__(self, loaded: LoadedRun, start: Start) -> None:
        if not start.environment:
            raise ValueError("this episode was not recorded here: its environment cannot be played again")
        self._image = loaded.bundle.image
        size = loaded.config.data.recording.image_size
        self._world = open_world(start.environment, start.seed, size, start.view_cells)
        several = (self._world.num_agents,) if self._world.num_agents > 1 else ()
        self.state = WorldState(start.state.mission, self._codes(), np.zeros((0, *several), dtype=np.int64))

    @property
    def frame(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self._world.frame

    def step(self, action: Action) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As gymnasium's; `rewards` of several agents, whose sum is the reward, in `info`."""
        step = self._world.step(action)
        self.state = self.state.stepped(action, self._codes()[0])
        info = {"rewards": step.rewards} if step.rewards else {}
        return step.frame, step.reward, step.terminated, step.truncated, info

    def close(self) -> None:
        self._world.close()

    def _codes(self) -> np.ndarray:
        return self._image.encode(self._world.frame[None])
