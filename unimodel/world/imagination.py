"""What would happen: worlds rolled forward in the model from given states, by plans or by a policy.

Two ways. `Branches` steps a world for every roll; those from one state branch from a world that has read its past once,
and each keeps all its window. `Table` has a short memory: worlds that look the same go on the same, so what was
imagined once, in any roll or at any earlier time, is known. In a small world that is seen whole, nearly everything
soon is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WORLDS_AT_ONCE = 64
OVER_PROBABILITY = 0.95
"""From here on nobody looks at what would come after."""
MOST_STATES = 200_000
"""That a table holds; then it is forgotten."""

Choose = Callable[[int, Sequence[WorldState]], np.ndarray]
"""int64 [rolls]: the actions after so many steps, in these states."""


class Rolled(NamedTuple):
    """What came of it.

    states   [steps + 1][rolls]; those of a roll that is over stay the same
    actions  int64 [rolls, steps]
    rewards  float64 [rolls, steps], expected
    going    float64 [rolls, steps + 1], the probability that the episode still went on before each step and at the end
    """

    states: list[list[WorldState]]
    actions: np.ndarray
    rewards: np.ndarray
    going: np.ndarray


class Imagination(Protocol):
    """`num_actions` are there in every state."""

    num_actions: int

    def roll(self, starts: Sequence[WorldState], choose: Choose, steps: int) -> Rolled:
        """From each of `starts`; the same state may be there many times."""
        ...


class Branches:
    """Every roll in a world of its own. Raises as `Worlds` does."""

    def __init__(self, worlds: Worlds, num_actions: int) -> None:
        self._worlds, self.num_actions = worlds, num_actions

    def roll(self, starts: Sequence[WorldState], choose: Choose, steps: int) -> Rolled:
        rolled, slots = _begin(starts, steps), self._branch(starts)
        for step in range(steps):
            rolled.actions[:, step] = choose(step, rolled.states[step])
            going, here = rolled.going[:, step], _still_going(rolled, step)
            for start in range(0, len(here), WORLDS_AT_ONCE):
                some = here[start : start + WORLDS_AT_ONCE]
                stepped = slots[some].tolist()
                self._worlds.step(stepped, rolled.actions[some, step].tolist())
                outcome = self._worlds.outcomes(stepped)
                rolled.rewards[some, step] = outcome.rewards_above()
                rolled.going[some, step + 1] = going[some] * (1 - outcome.over)
            rolled.states.append([self._worlds.state(slot) for slot in slots.tolist()])
        for slot in slots.tolist():
            self._worlds.close(slot)
        return rolled

    def _branch(self, starts: Sequence[WorldState]) -> np.ndarray:
        """A slot for each. The first world of a state reads its past, the others have it from that one."""
        slots = np.zeros(len(starts), dtype=np.int64)
        same: dict[int, list[int]] = {}
        for number, start in enumerate(starts):
            same.setdefault(id(start), []).append(number)
        for first, *others in same.values():
            slots[first] = self._worlds.open(starts[first], first)
            if others:
                slots[others] = self._worlds.branch(int(slots[first]), others)
        return slots


@dataclass(slots=True)
class _Known:
    """A state, and what each action that was tried there led to."""

    state: WorldState
    tried: dict[int, _Led] = field(default_factory=dict)


class _Led(NamedTuple):
    to: _Known
    reward: float
    over: float


class Table:
    """Worlds that remember `memory_frames` frames. Raises as `Worlds` does."""

    def __init__(self, worlds: Worlds, num_actions: int, memory_frames: int = 1) -> None:
        self._worlds, self.num_actions, self._memory_frames = worlds, num_actions, memory_frames
        self._known: dict[tuple[bytes, ...], _Known] = {}

    @property
    def num_states(self) -> int:
        """How many are known."""
        return len(self._known)

    def roll(self, starts: Sequence[WorldState], choose: Choose, steps: int) -> Rolled:
        """States that are equal, as far as is remembered, are one and the same object, also in later rolls."""
        if len(self._known) > MOST_STATES:
            self._known.clear()
        different = {id(start): start for start in starts}
        known = {key: self._remembered(start) for key, start in different.items()}
        at = [known[id(start)] for start in starts]
        rolled = _begin([here.state for here in at], steps)
        for step in range(steps):
            rolled.actions[:, step] = choose(step, rolled.states[step])
            actions, here = rolled.actions[:, step].tolist(), _still_going(rolled, step).tolist()
            self._try({(id(at[i]), actions[i]): (at[i], actions[i]) for i in here if actions[i] not in at[i].tried})
            for i in here:
                led = at[i].tried[actions[i]]
                at[i], rolled.rewards[i, step] = led.to, led.reward
                rolled.going[i, step + 1] = rolled.going[i, step] * (1 - led.over)
            rolled.states.append([known.state for known in at])
        return rolled

    def _try(self, unknown: dict[tuple[int, int], tuple[_Known, int]]) -> None:
        """Steps each of these states by its action."""
        asked = list(unknown.values())
        for start in range(0, len(asked), WORLDS_AT_ONCE):
            some = asked[start : start + WORLDS_AT_ONCE]
            slots = [self._worlds.open(known.state) for known, _ in some]
            self._worlds.step(slots, [action for _, action in some])
            outcome = self._worlds.outcomes(slots)
            for slot, (known, action), reward, over in zip(
                slots, some, outcome.rewards_above().tolist(), outcome.over.tolist(), strict=True
            ):
                known.tried[action] = _Led(self._remembered(self._worlds.state(slot)), reward, over)
                self._worlds.close(slot)

    def _remembered(self, state: WorldState) -> _Known:
        recent = state.recent(self._memory_frames)
        events = [part for step, ids in recent.events for part in (np.array([step]), ids)]
        parts = (recent.mission, recent.frames, recent.actions, *events)
        key = tuple(part.astype(np.int64).tobytes() for part in parts)
        return self._known.setdefault(key, _Known(recent))


def _begin(starts: Sequence[WorldState], steps: int) -> Rolled:
    """No reward, and nobody knows how long it goes on, but it begins."""
    going = np.zeros((len(starts), steps + 1))
    going[:, 0] = 1.0
    actions = np.zeros((len(starts), steps), dtype=np.int64)
    return Rolled([list(starts)], actions, np.zeros((len(starts), steps)), going)


def _still_going(rolled: Rolled, step: int) -> np.ndarray:
    """The numbers of the rolls that may not be over yet."""
    return np.flatnonzero(rolled.going[:, step] > 1 - OVER_PROBABILITY)
