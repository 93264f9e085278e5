"""What every controller is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.world.state import WorldState


class Controller(Protocol):
    """Acts in one episode after another; what it does is a pure function of the seed and of what it saw since."""

    def begin(self, seed: int) -> None:
        """A new episode."""
        ...

    def act(self, state: WorldState) -> int:
        """The next action after this past."""
        ...


class Policy(Protocol):
    def probabilities(self, states: Sequence[WorldState]) -> np.ndarray:
        """float64 [states, actions] of the next action after each past."""
        ...


class Following:
    """Draws its actions from a policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._rng = keyed_generator("following", seed)

    def act(self, state: WorldState) -> int:
        chances = self._policy.probabilities([state])[0]
        return int(self._rng.choice(len(chances), p=chances / chances.sum()))


class RandomActions:
    """Every action alike, whatever there is to see."""

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._rng = keyed_generator("random actions", seed)

    def act(self, state: WorldState) -> int:
        del state
        return int(self._rng.integers(self._num_actions))
