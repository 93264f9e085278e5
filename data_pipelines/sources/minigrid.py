"""MiniGrid and BabyAI environments, drawn whole from above, or as their agent sees them.

Everything is a pure function of (environment, seed) and the actions: the world comes from the environment's own reset
seed.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from minigrid.envs.memory import MemoryEnv
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from data_pipelines.sources.minigrid_events import cell_name, make_happen, possible_events
from data_pipelines.sources.world import Bot, Moment, tile_pixels

DIRECTIONS = ("right", "down", "left", "up")
UP = 3
BABYAI = "BabyAI-"
PREFIXES = (BABYAI, "MiniGrid-")
UNNAMED = ("wall", "floor")
ENDS = ("goal", "lava")

BOT_ERRORS = (AssertionError, DisappearedBoxError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What BabyAIBot raises when a random action has made its plan impossible (an unreachable goal, an opened box, an
object that is no longer where it was). It is caught around the bot's own call only."""


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions 0, 1, ... of an environment, e.g. ("left", "right", "forward", ...)."""
    return _action_names(_make(environment))


def open_simulator(environment: str, seed: int, image_size: int, view_cells: int | None = None) -> Level:
    """The level of a seed: whole, or the `view_cells` x `view_cells` cells before the agent. Raises ValueError for an
    unknown or unsuitable id, or an image size that the cells do not fit exactly."""
    return Level(environment, seed, image_size, view_cells)


class Level:
    """A `Simulator` of one level, without wrappers."""

    name = "episode"
    restores = True
    has_events = True
    sound_rate = 0
    num_agents = 1

    def __init__(self, environment: str, seed: int, image_size: int, view_cells: int | None = None) -> None:
        self.env = _make(environment)
        self.num_actions = len(_action_names(self.env))
        self._has_bot, self.view_cells = environment.startswith(BABYAI), view_cells
        if view_cells is None:
            _check_square(self.env, environment)
            self._tile_size = tile_pixels(environment, self.env.width, image_size)
        else:
            self.env.agent_view_size = view_cells
            self._tile_size = tile_pixels(environment, view_cells, image_size)
        # MiniGrid prints "Sampling rejected: ..." while it searches for a valid world.
        with contextlib.redirect_stdout(io.StringIO()):
            self.env.reset(seed=seed)
        # MiniGrid makes an observation at every step, a third of its time. `look` is all that is asked for here.
        self.env.gen_obs = _nothing_observed

    @property
    def mission(self) -> str:
        return self.env.mission

    def look(self) -> Moment:
        if self.view_cells is None:
            return Moment(picture(self.env, self._tile_size), _caption(self.env), _pose(self.env))
        cells, in_sight = self.env.gen_obs_grid()
        return Moment(_drawn(cells, in_sight, self._tile_size), caption_of_view(cells), _pose(self.env))

    def step(self, action: int) -> tuple[float, bool, bool]:
        _, reward, terminated, truncated, _ = self.env.step(action)
        return float(reward), bool(terminated), bool(truncated)

    def save(self) -> MiniGridEnv:
        return copy.deepcopy(self.env)

    def load(self, state: MiniGridEnv) -> None:
        self.env = copy.deepcopy(state)

    def possible_events(self) -> list[list[str]]:
        return possible_events(self.env, None if self.view_cells is None else self._cells_in_sight())

    def make_happen(self, text: str) -> None:
        make_happen(self.env, text)

    def bot(self) -> Bot | None:
        """BabyAI's levels have one, MiniGrid's others do not."""
        return _bot(self.env) if self._has_bot else None

    def free_cells(self) -> np.ndarray:
        """Empty ones and open doors; goals and lava end an episode."""
        free = [_is_free(cell) for cell in self.env.grid.grid]
        return np.array(free).reshape(self.env.height, self.env.width)

    def close(self) -> None:
        self.env.close()

    def sees(self, cell: tuple[int, int], pose: Sequence[int]) -> bool:
        """Whether a thing in `cell` would be in the picture from the pose (x, y, direction), as the world is now."""
        if self.view_cells is None:
            return True
        env, stands, looks = self.env, self.env.agent_pos, self.env.agent_dir
        env.agent_pos, env.agent_dir = (int(pose[0]), int(pose[1])), int(pose[2])
        place = env.relative_coords(*cell)
        seen = place is not None and bool(env.gen_obs_grid()[1][place])
        env.agent_pos, env.agent_dir = stands, looks
        return seen

    def _cells_in_sight(self) -> set[tuple[int, int]]:
        _, in_sight = self.env.gen_obs_grid()
        cells = [(x, y) for y in range(self.env.height) for x in range(self.env.width)]
        places = {cell: self.env.relative_coords(*cell) for cell in cells}
        return {cell for cell, place in places.items() if place is not None and in_sight[place]}


def _nothing_observed() -> dict[str, Any]:
    return {}


def cue_cell(env: MemoryEnv) -> tuple[int, int]:
    """Where the thing stands that is to be remembered, as `MemoryEnv` builds its room."""
    return 1, env.height // 2 - 1


def _bot(env: MiniGridEnv) -> Bot:
    bot = BabyAIBot(env)

    def advice(last_action: int | None) -> int | None:
        try:
            action = bot.replan(last_action)
        except BOT_ERRORS:
            return None
        return None if action is None else int(action)

    return advice


def _make(environment: str) -> MiniGridEnv:
    try:
        # The checker only validates the environment's API, once per instance: the recorder makes many.
        env = gymnasium.make(environment, disable_env_checker=True).unwrapped
    except gymnasium.error.Error as error:
        known = [name for name in gymnasium.registry if name.startswith(PREFIXES)]
        near = difflib.get_close_matches(environment, known, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown environment {environment!r} ({error}). Nearest known: {', '.join(near) or 'none'}. "
            "Other families of environments are installed as extras"
        ) from None
    if not isinstance(env, MiniGridEnv):
        raise ValueError(f"{environment} is not a MiniGrid environment: choose a BabyAI-... or MiniGrid-... id")
    return env


def _action_names(env: MiniGridEnv) -> tuple[str, ...]:
    # Some environments offer only the first few of MiniGrid's seven actions.
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    return tuple(action.name for action in env.actions)[: int(env.action_space.n)]


def _check_square(env: MiniGridEnv, environment: str) -> None:
    if env.width != env.height:
        raise ValueError(
            f"{environment} has a grid of {env.width}x{env.height} cells and frames are square: "
            "choose an environment with a square grid, or view_cells, to see it from the agent's eyes"
        )


def picture(env: MiniGridEnv, tile_size: int) -> np.ndarray:
    """uint8 [height, width, 3], the picture of `env.get_frame(highlight=False, tile_size=tile_size)`.

    Drawn from MiniGrid's own cached tiles: `get_frame` also computes the agent's field of view, which nothing here
    shows, and takes eight times as long.
    """
    canvas = np.empty((env.height, tile_size, env.width, tile_size, 3), dtype=np.uint8)
    agent_x, agent_y = env.agent_pos
    for index, cell in enumerate(env.grid.grid):
        y, x = divmod(index, env.width)
        direction = env.agent_dir if x == agent_x and y == agent_y else None
        canvas[y, :, x] = Grid.render_tile(cell, agent_dir=direction, tile_size=tile_size)
    return canvas.reshape(env.height * tile_size, env.width * tile_size, 3)


def _drawn(cells: Grid, in_sight: np.ndarray, tile_size: int) -> np.ndarray:
    """uint8 [size, size, 3], the picture of `env.get_frame(agent_pov=True, tile_size=tile_size)`: the agent in the
    middle of the lower edge, looking up; `in_sight` bool [x, y], the rest is dark."""
    side, agent = cells.width, (cells.width // 2, cells.height - 1)
    canvas = np.empty((side, tile_size, side, tile_size, 3), dtype=np.uint8)
    for index, cell in enumerate(cells.grid):
        y, x = divmod(index, side)
        direction = UP if (x, y) == agent else None
        canvas[y, :, x] = Grid.render_tile(cell, direction, highlight=bool(in_sight[x, y]), tile_size=tile_size)
    return canvas.reshape(side * tile_size, side * tile_size, 3)


def _pose(env: MiniGridEnv) -> tuple[int, int, int]:
    assert env.agent_dir is not None, "MiniGrid sets it at the first reset"
    return int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir)


def _caption(env: MiniGridEnv) -> str:
    """What the frame shows: the agent, then every object in reading order, e.g.
    `agent facing right at d4; red ball at c5; open yellow door at h6`. A carried object is not in the picture."""
    x, y, direction = _pose(env)
    parts = [f"agent facing {DIRECTIONS[direction]} at {cell_name(x, y)}"]
    for index, cell in enumerate(env.grid.grid):
        if cell is not None and cell.type not in UNNAMED:
            y, x = divmod(index, env.width)
            parts.append(f"{thing_name(cell)} at {cell_name(x, y)}")
    return "; ".join(parts)


def caption_of_view(cells: Grid) -> str:
    """What the agent sees, in reading order of its picture, e.g. `green key 3 ahead 1 left; open yellow door 1 ahead`;
    what it carries is drawn at its own place."""
    parts = []
    for index, cell in enumerate(cells.grid):
        if cell is not None and cell.type not in UNNAMED:
            y, x = divmod(index, cells.width)
            ahead, right = cells.height - 1 - y, x - cells.width // 2
            words = [thing_name(cell)]
            words += [f"{ahead} ahead"] if ahead else []
            words += [f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else []
            parts.append(" ".join(words if ahead or right else ["carried", *words]))
    return "; ".join(parts) or "nothing in sight"


def _is_free(cell: WorldObj | None) -> bool:
    return cell is None or (cell.can_overlap() and cell.type not in ENDS)


def thing_name(cell: WorldObj) -> str:
    """What captions call a thing."""
    return f"{_door_state(cell)}{cell.color} {cell.type}"


def _door_state(cell: object) -> str:
    if getattr(cell, "type", None) != "door":
        return ""
    if getattr(cell, "is_locked", False):
        return "locked "
    return "open " if getattr(cell, "is_open", False) else "closed "
