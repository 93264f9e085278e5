"""An orchard that several agents share: they gather, trade and stay clear of wasps. Its rules, and nothing else.

A square of cells inside a wall. Every agent has a gate, a corner where it enters and keeps what it stores. Even agents
pick red berries and like blue ones, odd ones pick blue and like red, so whoever wants what it likes must trade. One
body (agent, wasp, bush or wall) per cell.

A tick: agents that carry a berry they like eat it, +1. Then all take their turns, agent 0 first and each wholly before
the next. Then each wasp flies a cell ahead, or turns around where it cannot, and stings an agent that is in its way.
Then what is not ripe grows, and is ripe RIPE ticks after it was picked. An agent in its turn:

    is absent       leaves its cell, and keeps what it carries
    was absent      enters at its gate if that is free, and does nothing else
    goes            up, down, left or right if the cell there is free. From a ripe bush of its own kind it picks the
                    berry if its hand is empty; from a wasp it gets stung, -1, and loses the berry that it carries
    trades          if it carries a berry: changes hands with the neighbour of the lowest number, unless one of them has
                    traded in this tick already. A gift where the other carries nothing
    is at its gate  stores a berry of its own kind, +0.25

Everything is a pure function of state and actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from data_pipelines.stream.randomness import keyed_generator

SIDE = 8
RIPE = 4
MOST_AGENTS = 4
ABSENT = -1
"""The action of an agent that is not there."""
LIKED, STORED, STUNG = 1.0, 0.25, -1.0
NUM_BUSHES, NUM_WALLS, NUM_WASPS = 4, 2, 2


class Action(IntEnum):
    """What an agent can do."""

    STAY = 0
    UP = 1
    DOWN = 2
    LEFT = 3
    RIGHT = 4
    TRADE = 5


class Cell(NamedTuple):
    """Row from the top, column from the left."""

    row: int
    column: int

    def beside(self, direction: Cell) -> Cell:
        """The next cell that way."""
        return Cell(self.row + direction.row, self.column + direction.column)


MOVES = {
    Action.UP: Cell(-1, 0),
    Action.DOWN: Cell(1, 0),
    Action.LEFT: Cell(0, -1),
    Action.RIGHT: Cell(0, 1),
}


class Kind(IntEnum):
    """Of berries."""

    RED = 0
    BLUE = 1


class Wasp(NamedTuple):
    """Where it is, and which way it flies."""

    cell: Cell
    heading: Cell


@dataclass(frozen=True, slots=True)
class Ground:
    """What never moves: the walls, the bushes with their kinds, and every agent's gate."""

    walls: frozenset[Cell]
    bushes: tuple[tuple[Cell, Kind], ...]
    gates: tuple[Cell, ...]

    @property
    def solid(self) -> frozenset[Cell]:
        """Where nobody can ever stand."""
        return self.walls | {cell for cell, _ in self.bushes}


@dataclass(frozen=True, slots=True)
class State:
    """What changes: the `cells` of the agents (None while absent), what each carries (None for nothing), how far each
    bush has grown (0 to RIPE) and the wasps."""

    cells: tuple[Cell | None, ...]
    hands: tuple[Kind | None, ...]
    growth: tuple[int, ...]
    wasps: tuple[Wasp, ...]


def picks(agent: int) -> Kind:
    """The kind that an agent can pick."""
    return Kind(agent % 2)


def likes(agent: int) -> Kind:
    """The kind that it would rather have."""
    return Kind(1 - agent % 2)


def begin(seed: int, num_agents: int) -> tuple[Ground, State]:
    """The orchard of a seed, with all agents at their gates. Every bush can be reached."""
    rng = keyed_generator("orchard", seed)
    last = SIDE - 2
    corners = (Cell(1, 1), Cell(last, last), Cell(1, last), Cell(last, 1))
    border = {Cell(i, j) for i in range(SIDE) for j in range(SIDE) if not (0 < i <= last and 0 < j <= last)}
    inside = [Cell(i, j) for i in range(1, last + 1) for j in range(1, last + 1) if (i, j) not in corners]
    while True:
        drawn = [inside[place] for place in rng.permutation(len(inside)).tolist()]
        bushes = tuple((cell, Kind(number % 2)) for number, cell in enumerate(drawn[:NUM_BUSHES]))
        walls = drawn[NUM_BUSHES : NUM_BUSHES + NUM_WALLS]
        ground = Ground(frozenset(border | set(walls)), bushes, corners[:num_agents])
        if _is_connected(ground):
            break
    free = drawn[NUM_BUSHES + NUM_WALLS :]
    headings = (Cell(0, 1), Cell(1, 0))
    wasps = tuple(Wasp(free[number], headings[number % 2]) for number in range(NUM_WASPS))
    growth = tuple(rng.integers(RIPE + 1, size=NUM_BUSHES).tolist())
    return ground, State(ground.gates, (None,) * num_agents, growth, wasps)


def advance(ground: Ground, state: State, actions: Sequence[int]) -> tuple[State, tuple[float, ...]]:
    """The next state, and what every agent got; ABSENT for those that are not there."""
    tick = _Tick(ground, state)
    for agent, action in enumerate(actions):
        tick.eat(agent, action)
    for agent, action in enumerate(actions):
        tick.take_turn(agent, action)
    wasps = tuple(tick.fly(number) for number in range(len(state.wasps)))
    growth = tuple(min(RIPE, stage + 1) for stage in tick.growth)
    return State(tuple(tick.cells), tuple(tick.hands), growth, wasps), tuple(tick.rewards)


class _Tick:
    """A tick in progress."""

    def __init__(self, ground: Ground, state: State) -> None:
        self.ground, self.solid = ground, ground.solid
        self.cells, self.hands = list(state.cells), list(state.hands)
        self.growth, self.wasps = list(state.growth), list(state.wasps)
        self.rewards = [0.0] * len(state.cells)
        self._traded: set[int] = set()

    def eat(self, agent: int, action: int) -> None:
        is_there = self.cells[agent] is not None and action != ABSENT
        if is_there and self.hands[agent] == likes(agent):
            self.hands[agent] = None
            self.rewards[agent] += LIKED

    def take_turn(self, agent: int, action: int) -> None:
        if action == ABSENT:
            self.cells[agent] = None
            return
        if self.cells[agent] is None:
            if self._is_free(self.ground.gates[agent]):
                self.cells[agent] = self.ground.gates[agent]
            return
        if action == Action.TRADE:
            self._trade(agent)
        elif action != Action.STAY:
            self._go(agent, MOVES[Action(action)])
        if self.cells[agent] == self.ground.gates[agent] and self.hands[agent] == picks(agent):
            self.hands[agent] = None
            self.rewards[agent] += STORED

    def fly(self, number: int) -> Wasp:
        wasp = self.wasps[number]
        ahead, back = wasp.cell.beside(wasp.heading), Cell(-wasp.heading.row, -wasp.heading.column)
        if ahead in self.cells:
            self._sting(self.cells.index(ahead))
        self.wasps[number] = wasp._replace(cell=ahead) if self._is_free(ahead) else wasp._replace(heading=back)
        return self.wasps[number]

    def _go(self, agent: int, direction: Cell) -> None:
        here = self.cells[agent]
        assert here is not None
        ahead = here.beside(direction)
        if self._is_free(ahead):
            self.cells[agent] = ahead
        elif any(wasp.cell == ahead for wasp in self.wasps):
            self._sting(agent)
        for number, bush in enumerate(self.ground.bushes):
            if bush == (ahead, picks(agent)) and self.growth[number] == RIPE and self.hands[agent] is None:
                # It grows at the end of this tick already, and is ripe again after RIPE ticks without a berry.
                self.hands[agent], self.growth[number] = picks(agent), -1

    def _trade(self, agent: int) -> None:
        here = self.cells[agent]
        assert here is not None
        around = [here.beside(direction) for direction in MOVES.values()]
        others = [other for other, cell in enumerate(self.cells) if cell in around]
        if others and self.hands[agent] is not None and not {agent, others[0]} & self._traded:
            other = others[0]
            self.hands[agent], self.hands[other] = self.hands[other], self.hands[agent]
            self._traded |= {agent, other}

    def _sting(self, agent: int) -> None:
        self.hands[agent] = None
        self.rewards[agent] += STUNG

    def _is_free(self, cell: Cell) -> bool:
        return cell not in self.solid and cell not in self.cells and all(wasp.cell != cell for wasp in self.wasps)


def _is_connected(ground: Ground) -> bool:
    """Whether every bush has a cell beside it that can be reached from every other cell."""
    solid = ground.solid
    floor = {Cell(i, j) for i in range(SIDE) for j in range(SIDE)} - solid
    reached, edge = set(), {ground.gates[0]}
    while edge:
        reached |= edge
        edge = {cell.beside(direction) for cell in edge for direction in MOVES.values()} & floor - reached
    return reached == floor and all(any(c.beside(d) in floor for d in MOVES.values()) for c, _ in ground.bushes)


def carried(hands: Sequence[Kind | None]) -> np.ndarray:
    """int [kinds]: how many berries of each kind are in `hands`."""
    return np.bincount([hand for hand in hands if hand is not None], minlength=len(Kind))
