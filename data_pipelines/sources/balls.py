"""Balls that go on while nobody looks: `data_pipelines.sources.balls:HiddenBalls-v0` and `Carousel-v0`.

Two balls move along two rails at every step, whatever the agent does: one to and fro, one round and round, either way.
On the carousel both go round, the upper to the right and the lower to the left, so that one picture tells where to. An
agent that turns away sees neither. What it finds when it looks again follows from what it saw before and how long it
was away: it cannot be copied from any earlier picture, only carried on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np

from data_pipelines.sources.grid_view import TILE, cells_before, drawn, flat_tile
from data_pipelines.sources.walking import FORWARD, TURN_LEFT, TURN_RIGHT, UP, Pose, after

ENVIRONMENTS = tuple(f"{__name__}:{name}" for name in ("HiddenBalls-v0", "Carousel-v0"))
ACTIONS = ("left", "right", "forward", "wait")
WAIT = ACTIONS.index("wait")
RAILS = (1, 2)
"""Rows in which balls move: to and fro in the first, round and round in the second."""
COLOURS = ((230, 40, 40), (40, 200, 60), (70, 90, 255), (240, 220, 50))
FLOOR, WALL, RAIL, OUTSIDE, FIRST_BALL = range(5)
VIEW_CELLS = MIN_VIEW_CELLS = 5
"""With less, no place sees the rails ahead and not from the corner of the eye."""


class BallsState(NamedTuple):
    """All that changes in an episode."""

    pose: Pose
    step: int


class HiddenBalls(gymnasium.Env[np.ndarray, np.int64]):
    """A square room as wide as the view, rails at its upper wall, the agent at the lower one; endless, no reward."""

    metadata = {"render_modes": []}
    action_space = gymnasium.spaces.Discrete(len(ACTIONS))
    mission = "know where the balls are"

    def __init__(self, view_cells: int = VIEW_CELLS, is_carousel: bool = False) -> None:
        self.view_cells, self._is_carousel = view_cells, is_carousel
        self.observation_space = gymnasium.spaces.Box(0, 255, (view_cells * TILE, view_cells * TILE, 3), np.uint8)
        self._state, self._phases, self._forward, self._colours = BallsState((0, 0, 0), 0), (0, 0), True, (0, 1)

    @property
    def pose(self) -> Pose:
        """The agent's cell, and where it looks: 0 right, 1 down, 2 left, 3 up."""
        return self._state.pose

    @property
    def free_cells(self) -> np.ndarray:
        """bool [height, width]: where the agent may walk."""
        return self._room() == FLOOR

    def get_action_meanings(self) -> tuple[str, ...]:
        """Names of the actions, in their order."""
        return ACTIONS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Balls somewhere on their rails, of two colours; the same ones for the same seed. Raises ValueError for a view
        of less than MIN_VIEW_CELLS."""
        super().reset(seed=seed)
        if self.view_cells < MIN_VIEW_CELLS:
            raise ValueError(f"balls cannot hide with view_cells {self.view_cells}: {MIN_VIEW_CELLS} or more")
        rng, length = self.np_random, self.view_cells
        self._phases = int(rng.integers(2 * length - 2)), int(rng.integers(length))
        self._forward = bool(rng.integers(2))
        first, second = rng.permutation(len(COLOURS))[:2].tolist()
        self._colours = first, second
        self._state = BallsState((1 + length // 2, length, UP), 0)
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The balls move first; the agent is stopped by walls and rails."""
        pose = self.pose
        if action in (TURN_LEFT, TURN_RIGHT) or (action == FORWARD and self._is_free(after(pose, FORWARD))):
            pose = after(pose, int(action))
        self._state = BallsState(pose, self._state.step + 1)
        return self._seen(), 0.0, False, False, {}

    def columns_at(self, step: int) -> tuple[int, int]:
        """Where the two balls are after so many steps: the rule of this world."""
        length, (swing, turn) = self.view_cells, self._phases
        if self._is_carousel:
            return 1 + (swing + step) % length, 1 + (turn - step) % length
        at = (swing + step) % (2 * length - 2)
        return 1 + min(at, 2 * length - 2 - at), 1 + (turn + (step if self._forward else -step)) % length

    def sees_rails(self, pose: Pose) -> bool:
        """Whether any part of them is in the picture from there."""
        return bool((cells_before(self._room(), pose, self.view_cells, OUTSIDE) == RAIL).any())

    def snapshot(self) -> BallsState:
        """All that changes."""
        return self._state

    def restore(self, state: BallsState) -> None:
        """Exactly back, as often as wanted."""
        self._state = state

    def _room(self) -> np.ndarray:
        """int [side, side] without the balls."""
        room = np.full((self.view_cells + 2, self.view_cells + 2), WALL)
        room[1:-1, 1:-1] = FLOOR
        room[RAILS, 1:-1] = RAIL
        return room

    def _is_free(self, pose: Pose) -> bool:
        return bool(self.free_cells[pose[1], pose[0]])

    def _seen(self) -> np.ndarray:
        room = self._room()
        for rail, column, colour in zip(RAILS, self.columns_at(self._state.step), self._colours, strict=True):
            room[rail, column] = FIRST_BALL + colour
        return drawn(cells_before(room, self.pose, self.view_cells, OUTSIDE), TILES)


def _tiles() -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE] - (TILE - 1) / 2
    disc = np.hypot(x, y) < TILE / 2 - 0.5
    rail = flat_tile((60, 60, 80))
    balls = [np.where(disc[..., None], np.array(colour, np.uint8), rail) for colour in COLOURS]
    return np.stack([flat_tile((150, 140, 120)), flat_tile((110, 60, 40)), rail, flat_tile((0, 0, 0)), *balls])


TILES = _tiles()
gymnasium.register("HiddenBalls-v0", f"{__name__}:HiddenBalls")
gymnasium.register("Carousel-v0", f"{__name__}:HiddenBalls", kwargs={"is_carousel": True})
