"""MiniGrid and BabyAI environments, drawn whole from above.

Everything is a pure function of (environment, seed) and the actions: the world comes from the environment's own reset
seed.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io

import gymnasium
import numpy as np
from minigrid.core.grid import Grid
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from data_pipelines.sources.minigrid_events import cell_name, make_happen, possible_events
from data_pipelines.sources.world import Bot, Moment

DIRECTIONS = ("right", "down", "left", "up")
BABYAI = "BabyAI-"
PREFIXES = (BABYAI, "MiniGrid-")
UNNAMED = ("wall", "floor")

BOT_ERRORS = (AssertionError, DisappearedBoxError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What BabyAIBot raises when a random action has made its plan impossible (an unreachable goal, an opened box, an
object that is no longer where it was). It is caught around the bot's own call only."""


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions 0, 1, ... of an environment, e.g. ("left", "right", "forward", ...)."""
    return _action_names(_make(environment))


def open_simulator(environment: str, seed: int, image_size: int) -> Level:
    """The level of a seed. Raises ValueError for an unknown or unsuitable id, or an image size that its grid does not
    fit exactly."""
    return Level(environment, seed, image_size)


class Level:
    """A `Simulator` of one level, without wrappers."""

    name = "episode"
    restores = True
    has_events = True
    sound_rate = 0
    num_agents = 1

    def __init__(self, environment: str, seed: int, image_size: int) -> None:
        self.env = _make(environment)
        _check_image_size(self.env, environment, image_size)
        self.num_actions = len(_action_names(self.env))
        self._has_bot, self._tile_size = environment.startswith(BABYAI), image_size // self.env.width
        # MiniGrid prints "Sampling rejected: ..." while it searches for a valid world.
        with contextlib.redirect_stdout(io.StringIO()):
            self.env.reset(seed=seed)

    @property
    def mission(self) -> str:
        return self.env.mission

    def look(self) -> Moment:
        return Moment(picture(self.env, self._tile_size), _caption(self.env), _pose(self.env))

    def step(self, action: int) -> tuple[float, bool, bool]:
        _, reward, terminated, truncated, _ = self.env.step(action)
        return float(reward), bool(terminated), bool(truncated)

    def save(self) -> MiniGridEnv:
        return copy.deepcopy(self.env)

    def load(self, state: MiniGridEnv) -> None:
        self.env = copy.deepcopy(state)

    def possible_events(self) -> list[list[str]]:
        return possible_events(self.env)

    def make_happen(self, text: str) -> None:
        make_happen(self.env, text)

    def bot(self) -> Bot | None:
        """BabyAI's levels have one, MiniGrid's others do not."""
        return _bot(self.env) if self._has_bot else None

    def close(self) -> None:
        self.env.close()


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


def _check_image_size(env: MiniGridEnv, environment: str, image_size: int) -> None:
    """Raises ValueError unless the grid is square and whole cells fill image_size x image_size pixels exactly."""
    if env.width != env.height:
        raise ValueError(
            f"{environment} has a grid of {env.width}x{env.height} cells and frames are square: "
            "choose an environment with a square grid"
        )
    if image_size < env.width or image_size % env.width:
        fitting = sorted({max(1, image_size // env.width) * env.width, (image_size // env.width + 1) * env.width})
        raise ValueError(
            f"{environment} has {env.width}x{env.height} cells and {image_size} pixels do not divide into whole cells: "
            f"image_size must be a multiple of {env.width}, e.g. {' or '.join(map(str, fitting))}"
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
            parts.append(f"{_door_state(cell)}{cell.color} {cell.type} at {cell_name(x, y)}")
    return "; ".join(parts)


def _door_state(cell: object) -> str:
    if getattr(cell, "type", None) != "door":
        return ""
    if getattr(cell, "is_locked", False):
        return "locked "
    return "open " if getattr(cell, "is_open", False) else "closed "
