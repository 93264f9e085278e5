"""What an orchard looks like: a square of 8 pixels per cell, and an exact one, so that it can be read back.

floor dark, walls grey, a gate in the dim colour of its agent
bush      green, framed in the dim colour of its kind; its berry grows with it and is bright when it is ripe
wasp      yellow, with a red head where it flies
agent     a square of its colour, in its middle the berry that it carries
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data_pipelines.sources.orchard_rules import MOVES, RIPE, SIDE, Cell, Ground, Kind, State

CELL_PIXELS = 8
PICTURE_PIXELS = SIDE * CELL_PIXELS
AGENTS = ((235, 235, 235), (235, 140, 30), (40, 190, 180), (170, 90, 220))
AGENT_NAMES = ("white", "orange", "teal", "violet")
BERRIES = {Kind.RED: (225, 35, 60), Kind.BLUE: (60, 95, 245)}
FLOOR, WALL, BUSH, WASP, HEAD = (38, 42, 40), (150, 155, 165), (30, 95, 45), (240, 215, 60), (200, 30, 30)
DIM = 0.45


def draw(ground: Ground, state: State) -> np.ndarray:
    """uint8 [64, 64, 3]"""
    cells = np.broadcast_to(_sprite(FLOOR), (SIDE, SIDE, CELL_PIXELS, CELL_PIXELS, 3)).copy()
    for cell in ground.walls:
        cells[cell] = _sprite(WALL)
    for agent, gate in enumerate(ground.gates):
        cells[gate] = _sprite(_dim(AGENTS[agent]))
    for (cell, kind), growth in zip(ground.bushes, state.growth, strict=True):
        cells[cell] = _bush(kind, growth)
    for wasp in state.wasps:
        cells[wasp.cell] = _wasp(wasp.heading)
    for agent, (cell, hand) in enumerate(zip(state.cells, state.hands, strict=True)):
        if cell is not None:
            cells[cell] = _agent(agent, hand)
    return cells.swapaxes(1, 2).reshape(PICTURE_PIXELS, PICTURE_PIXELS, 3)


def looks(num_agents: int) -> dict[str, np.ndarray]:
    """Name -> uint8 [8, 8, 3]: everything that a cell of so many agents' orchard can look like."""
    kinds = [None, *Kind]
    named = {"floor": _sprite(FLOOR), "wall": _sprite(WALL)}
    named |= {f"gate {agent}": _sprite(_dim(AGENTS[agent])) for agent in range(num_agents)}
    named |= {f"{kind.name.lower()} bush {growth}": _bush(kind, growth) for kind in Kind for growth in range(RIPE + 1)}
    named |= {f"wasp {way.name.lower()}": _wasp(heading) for way, heading in MOVES.items()}
    for agent in range(num_agents):
        for kind in kinds:
            hand = "nothing" if kind is None else kind.name.lower()
            named[f"agent {agent} with {hand}"] = _agent(agent, kind)
    return named


@lru_cache(maxsize=64)
def _sprite(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((CELL_PIXELS, CELL_PIXELS, 3), colour, dtype=np.uint8)


@lru_cache(maxsize=64)
def _bush(kind: Kind, growth: int) -> np.ndarray:
    sprite = _sprite(_dim(BERRIES[kind])).copy()
    sprite[1:-1, 1:-1] = BUSH
    half = growth / 2
    middle = slice(int(CELL_PIXELS / 2 - half), int(CELL_PIXELS / 2 - half) + growth)
    sprite[middle, middle] = BERRIES[kind] if growth == RIPE else _mixed(BERRIES[kind])
    return sprite


@lru_cache(maxsize=64)
def _wasp(heading: Cell) -> np.ndarray:
    sprite = _sprite(FLOOR).copy()
    sprite[2:6, 2:6] = WASP
    row, column = 3 + 3 * heading.row, 3 + 3 * heading.column
    sprite[row : row + 2, column : column + 2] = HEAD
    return sprite


@lru_cache(maxsize=64)
def _agent(agent: int, hand: Kind | None) -> np.ndarray:
    sprite = _sprite(AGENTS[agent]).copy()
    if hand is not None:
        sprite[2:6, 2:6] = BERRIES[hand]
    return sprite


def _dim(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return int(DIM * red), int(DIM * green), int(DIM * blue)


def _mixed(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Halfway from the bush to its berry."""
    red, green, blue = ((part + other) // 2 for part, other in zip(colour, BUSH, strict=True))
    return red, green, blue
