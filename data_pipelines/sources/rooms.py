"""Rooms that never change, to come back to: `data_pipelines.sources.rooms:Rooms-3x3-v0`, or 2x2, 4x4.

Every block of a wall has a colour of its own, and every room its floor: what a place looks like nobody can guess, and
whoever was there can know. Poses are exact and the same pose is the same picture, so that a revisit tells what is still
known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from data_pipelines.sources.grid_view import TILE, cells_before, drawn, flat_tile
from data_pipelines.sources.walking import FORWARD, Pose, after

ACTIONS = ("left", "right", "forward")
ROOM_CELLS = 3
"""Of the side of a room, without walls."""
FLOORS = ((150, 110, 110), (110, 150, 110), (110, 110, 160), (160, 150, 90), (150, 100, 150), (90, 150, 150))
DOOR = len(FLOORS)
WALLS = ((210, 40, 40), (40, 180, 40), (50, 70, 230), (230, 200, 40), (180, 60, 200), (240, 130, 40))
FIRST_WALL = DOOR + 1
OUTSIDE = FIRST_WALL + len(WALLS)
TILES = np.stack([flat_tile(colour) for colour in (*FLOORS, (90, 90, 90), *WALLS, (0, 0, 0))])
EXTRA_DOOR_FRACTION = 0.3
"""Of the walls that need no door."""
Cell = tuple[int, int]


class Rooms(gymnasium.Env[np.ndarray, np.int64]):
    """`rooms` x `rooms` rooms, all of which can be reached, some in several ways; endless, without a reward."""

    metadata = {"render_modes": []}
    action_space = gymnasium.spaces.Discrete(len(ACTIONS))
    mission = "remember the rooms"

    def __init__(self, rooms: int, view_cells: int = 5) -> None:
        self.rooms, self.view_cells = rooms, view_cells
        self.observation_space = gymnasium.spaces.Box(0, 255, (view_cells * TILE, view_cells * TILE, 3), np.uint8)
        self.cells = np.zeros((0, 0), dtype=np.int64)
        self.pose: Pose = (0, 0, 0)
        """The agent's cell, and where it looks: 0 right, 1 down, 2 left, 3 up."""

    @property
    def free_cells(self) -> np.ndarray:
        """bool [height, width]: where the agent may walk."""
        return self.cells < FIRST_WALL

    def get_action_meanings(self) -> tuple[str, ...]:
        """Names of the actions, in their order."""
        return ACTIONS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """New rooms and a place in them; the same ones for the same seed."""
        super().reset(seed=seed)
        self.cells = _built(self.rooms, self.np_random)
        places = np.argwhere(self.free_cells)
        y, x = places[self.np_random.integers(len(places))]
        self.pose = int(x), int(y), int(self.np_random.integers(4))
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Forward stops at walls."""
        x, y, direction = after(self.pose, int(action))
        if action != FORWARD or self.cells[y, x] < FIRST_WALL:
            self.pose = x, y, direction
        return self._seen(), 0.0, False, False, {}

    def snapshot(self) -> Pose:
        """All that changes."""
        return self.pose

    def restore(self, state: Pose) -> None:
        """Exactly back, as often as wanted."""
        self.pose = state

    def _seen(self) -> np.ndarray:
        return drawn(cells_before(self.cells, self.pose, self.view_cells, OUTSIDE), TILES)


def _built(rooms: int, rng: np.random.Generator) -> np.ndarray:
    """int [side, side]: floors, walls of random colours, and doors: a random spanning tree of them, and a few more."""
    pitch = ROOM_CELLS + 1
    side = rooms * pitch + 1
    cells = FIRST_WALL + rng.integers(len(WALLS), size=(side, side))
    for row in range(rooms):
        for column in range(rooms):
            top, left = row * pitch + 1, column * pitch + 1
            cells[top : top + ROOM_CELLS, left : left + ROOM_CELLS] = rng.integers(len(FLOORS))
    together = {(row, column): {(row, column)} for row in range(rooms) for column in range(rooms)}
    walls = list(_walls(rooms))
    for number in rng.permutation(len(walls)):
        (row, column), other = walls[number]
        if together[row, column] is together[other]:
            if rng.random() >= EXTRA_DOOR_FRACTION:
                continue
        else:
            joined = together[row, column] | together[other]
            together.update(dict.fromkeys(joined, joined))
        along = int(rng.integers(1, pitch))
        if other[0] == row:
            cells[row * pitch + along, other[1] * pitch] = DOOR
        else:
            cells[other[0] * pitch, column * pitch + along] = DOOR
    return cells


def _walls(rooms: int) -> Iterator[tuple[Cell, Cell]]:
    """Neighbouring rooms (row, column), each pair once."""
    for row in range(rooms):
        for column in range(rooms):
            if column + 1 < rooms:
                yield (row, column), (row, column + 1)
            if row + 1 < rooms:
                yield (row, column), (row + 1, column)


for _rooms in (2, 3, 4):
    gymnasium.register(f"Rooms-{_rooms}x{_rooms}-v0", f"{__name__}:Rooms", kwargs={"rooms": _rooms})
