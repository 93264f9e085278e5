"""One life of an environment that somebody plays, whatever its family."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Step(NamedTuple):
    """What an action led to: frame uint8 [size, size, 3]. `terminated`: the world has ended; `truncated`: its time is
    over."""

    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool


class World(Protocol):
    """An environment from where the episode of its seed begins. `frame` is what is to be seen now."""

    @property
    def frame(self) -> np.ndarray: ...

    def step(self, action: int) -> Step: ...

    def close(self) -> None: ...
