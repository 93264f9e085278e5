"""One life of an environment, whatever its family: what recording, live play and planning step.

A family of environments (`minigrid.py`, `atari.py`, `any_environment.py`) brings a `Simulator`; `World` is what
everyone else sees of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from data_pipelines.sources.episode import UNKNOWN_ACTION

SILENCE = np.zeros(0, dtype=np.float32)
Action = int | Sequence[int]
"""What one agent does, or what each of several does in the same step; UNKNOWN_ACTION for one that is not there."""
Bot = Callable[[int | None], int | None]
"""Told the last action (None at the beginning), advises the next one; None when it has lost its plan."""


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What there is at one time.

    frame    uint8 [size, size, 3]
    caption  what the frame shows
    pose     of the agent: x, y, direction; () where nobody tells
    sound    float32 [samples] that led up to it; none in a silent world
    """

    frame: np.ndarray
    caption: str
    pose: tuple[float, ...] = ()
    sound: np.ndarray = field(default_factory=lambda: SILENCE)


class Step(NamedTuple):
    """What an action led to. `terminated`: the world has ended; `truncated`: its time is over; `rewards`: of each of
    several agents, whose sum is `reward`, () in a world of one."""

    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    rewards: tuple[float, ...] = ()


class Simulator(Protocol):
    """An environment that was reset with a seed: what each family implements. Calls come from a `World`, which checks
    actions and does not step what is over."""

    name: str
    """In the keys of episodes."""
    num_actions: int
    num_agents: int
    """1, or how many act in every step."""
    sound_rate: int
    """Samples per second; 0 in a silent world."""
    restores: bool
    """Whether `save` and `load` bring back its exact state."""
    has_events: bool
    """Whether things happen in it because a text says so."""

    @property
    def mission(self) -> str: ...

    def look(self) -> Moment: ...

    def step(self, action: Any) -> tuple[Any, bool, bool]:
        """(reward, terminated, truncated). Of several agents: takes an action of each and gives a reward of each."""
        ...

    def save(self) -> Any: ...

    def load(self, state: Any) -> None:
        """The state stays as it is: it may be loaded again."""
        ...

    def possible_events(self) -> Sequence[Sequence[str]]:
        """Sentences that can come true now, by kind of event; the recorder takes a kind, then one of it."""
        ...

    def make_happen(self, text: str) -> None:
        """Raises ValueError when it cannot."""
        ...

    def bot(self) -> Bot | None:
        """A bot of the environment's own that plays from here, if there is one."""
        ...

    def free_cells(self) -> np.ndarray | None:
        """bool [height, width]: where the agent of a grid may walk and the episode goes on; None in other worlds."""
        ...

    def close(self) -> None: ...


class Family(Protocol):
    """A module that plays environments of one family."""

    def action_names(self, environment: str) -> tuple[str, ...]:
        """Names of the actions 0, 1, ..."""
        ...

    def open_simulator(
        self, environment: str, seed: int, image_size: int, view_cells: int | None = None
    ) -> Simulator: ...


class Snapshot(NamedTuple):
    """A state to come back to."""

    state: Any
    moment: Moment
    over: bool


class World:
    """One life of an environment, from where the episode of its seed begins; a pure function of (environment, seed)
    and what is done in it.

    moment       what there is now; `frame` is its picture, uint8 [size, size, 3]
    num_actions  actions are 0 .. num_actions - 1
    num_agents   how many act in every step; with several, an action is one of each
    mission      what the agent is asked to do
    over         nothing can be done any more
    restores     whether `snapshot` and `restore` work
    """

    def __init__(self, environment: str, seed: int, simulator: Simulator) -> None:
        self.environment, self.seed, self.simulator = environment, seed, simulator
        self.num_actions, self.restores = simulator.num_actions, simulator.restores
        self.num_agents = simulator.num_agents
        self.moment = simulator.look()
        self.over = False

    @property
    def frame(self) -> np.ndarray:
        return self.moment.frame

    @property
    def mission(self) -> str:
        return self.simulator.mission

    def step(self, action: Action) -> Step:
        """Raises ValueError for an action that does not exist, or when the episode is over."""
        taken = self._checked(action)
        if self.over:
            raise ValueError(f"{self.environment}, seed {self.seed}: the episode is over")
        got, terminated, truncated = self.simulator.step(taken)
        rewards = () if self.num_agents == 1 else tuple(map(float, got))
        self.moment, self.over = self.simulator.look(), terminated or truncated
        return Step(self.moment.frame, sum(rewards) if rewards else float(got), terminated, truncated, rewards)

    def make_happen(self, text: str) -> None:
        """An event: the world changes as a text says, which the frame of the next step shows.

        Raises ValueError when this world has no events, cannot make this one happen, or is over.
        """
        if self.over:
            raise ValueError(f"{self.environment}, seed {self.seed}: the episode is over")
        self.simulator.make_happen(text)

    def snapshot(self) -> Snapshot:
        """The state, exactly: after `restore` the same actions lead to the same frames and rewards.

        Raises ValueError when the environment cannot be set back.
        """
        if not self.restores:
            raise ValueError(
                f"{self.environment} cannot be set back to an earlier state: open it again and repeat the actions"
            )
        return Snapshot(self.simulator.save(), self.moment, self.over)

    def restore(self, snapshot: Snapshot) -> None:
        """Back to where `snapshot` was taken, in this world; as often as wanted."""
        self.simulator.load(snapshot.state)
        self.moment, self.over = snapshot.moment, snapshot.over

    def close(self) -> None:
        self.simulator.close()

    def _checked(self, action: Action) -> Action:
        taken, several = plain(action), self.num_agents > 1
        each = taken if isinstance(taken, tuple) else (taken,)
        if isinstance(taken, tuple) != several or len(each) != self.num_agents:
            raise ValueError(f"{self.environment} takes an action of each of {self.num_agents} agents, not {action}")
        for one in each:
            if not (UNKNOWN_ACTION if several else 0) <= one < self.num_actions:
                raise ValueError(f"{self.environment}: action {one} is outside 0..{self.num_actions - 1}")
        return taken


def plain(action: Action) -> int | tuple[int, ...]:
    """As numbers of Python, whatever it is given in."""
    numbers = np.asarray(action, dtype=np.int64).tolist()
    return numbers if isinstance(numbers, int) else tuple(numbers)


def tile_pixels(environment: str, cells: int, image_size: int) -> int:
    """Pixels a side of each of `cells` x `cells` cells. Raises ValueError unless whole ones fill the picture."""
    if image_size < cells or image_size % cells:
        fitting = sorted({max(1, image_size // cells) * cells, (image_size // cells + 1) * cells})
        raise ValueError(
            f"{environment} shows {cells}x{cells} cells and {image_size} pixels do not divide into whole cells: "
            f"image_size must be a multiple of {cells}, e.g. {' or '.join(map(str, fitting))}"
        )
    return image_size // cells


def no_view(environment: str, view_cells: int) -> str:
    """What to say when a world without cells is to be seen from within them."""
    return f"{environment} has no view of {view_cells} cells: leave view_cells out, it is for MiniGrid and its like"


def scaled(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [height, width, 3] to [size, size, 3]."""
    if picture.shape[:2] == (size, size):
        return np.ascontiguousarray(picture)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))
