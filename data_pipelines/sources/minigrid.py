"""Episodes from MiniGrid and BabyAI environments: BabyAI's scripted bot mixed with uniformly random actions.

Everything is a pure function of (environment, seed, settings): the world comes from the environment's own reset seed
and the choice of actions from a counter-based generator keyed by the same number.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
from collections.abc import Sequence
from string import ascii_lowercase

import gymnasium
import numpy as np
from minigrid.core.grid import Grid
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.replay import replay
from data_pipelines.sources.world import Step
from data_pipelines.stream.randomness import keyed_generator

DIRECTIONS = ("right", "down", "left", "up")
PREFIXES = ("BabyAI-", "MiniGrid-")
UNNAMED = ("wall", "floor")

BOT_ERRORS = (AssertionError, DisappearedBoxError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What BabyAIBot raises when a random action has made its plan impossible (an unreachable goal, an opened box, an
object that is no longer where it was). It is caught around the bot's own call only."""


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions 0, 1, ... of an environment, e.g. ("left", "right", "forward", ...)."""
    return _action_names(_make(environment))


def check_settings(environment: str, image_size: int, random_action_fraction: float) -> None:
    """Raises ValueError for what `record_episode` would refuse."""
    _require_bot(make_environment(environment, image_size), environment, random_action_fraction)


def record_episode(
    environment: str, seed: int, *, max_steps: int, random_action_fraction: float, image_size: int
) -> Episode:
    """One episode of at most `max_steps` steps; it ends early when the environment terminates or its time is over.

    Each step takes a uniformly random action with probability `random_action_fraction`, else the bot's.
    Raises ValueError for an unknown environment, one without a bot (unless the fraction is 1.0), or an image size
    that its grid does not fit exactly.
    """
    env = make_environment(environment, image_size)
    tile_size = image_size // env.width
    rng = keyed_generator("episode", environment, seed)
    num_actions = len(_action_names(env))
    _reset(env, seed)
    _require_bot(env, environment, random_action_fraction)
    bot = BabyAIBot(env) if random_action_fraction < 1.0 else None

    frames, captions, poses = [_frame(env, tile_size)], [_caption(env)], [_pose(env)]
    actions: list[int] = []
    rewards: list[float] = []
    done: list[bool] = []
    for _ in range(max_steps):
        chance, random_action = rng.random(), int(rng.integers(num_actions))
        # The bot is asked at every step, also when its advice is not taken: it follows what it sees.
        advice = _advice(bot, actions[-1] if actions else None) if bot is not None else None
        action = random_action if chance < random_action_fraction or advice is None else advice
        _, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        rewards.append(float(reward))
        done.append(bool(terminated))
        frames.append(_frame(env, tile_size))
        captions.append(_caption(env))
        poses.append(_pose(env))
        if terminated or truncated:
            break
    return Episode(
        key=f"episode-{seed:08d}",
        frames=np.stack(frames),
        actions=np.asarray(actions, dtype=np.int64),
        rewards=np.asarray(rewards, dtype=np.float32),
        done=np.asarray(done, dtype=np.bool_),
        poses=np.asarray(poses, dtype=np.int64),
        mission=env.mission,
        captions=tuple(captions),
        environment=environment,
        seed=seed,
        num_actions=num_actions,
    )


def branch_frames(environment: str, seed: int, actions: Sequence[int], image_size: int) -> np.ndarray:
    """uint8 [num_actions, H, W, 3]: the true next frame of every possible action after replaying `actions`.

    Raises ValueError when an action does not exist or the episode is already over before the last of `actions`.
    """
    env = make_environment(environment, image_size)
    tile_size = image_size // env.width
    num_actions = len(_action_names(env))
    _reset(env, seed)

    def step(action: int) -> bool:
        _, _, terminated, truncated, _ = env.step(action)
        return terminated or truncated

    replay(environment, seed, actions, num_actions, step)
    branches = []
    for action in range(num_actions):
        branch = copy.deepcopy(env)
        branch.step(action)
        branches.append(_frame(branch, tile_size))
    return np.stack(branches)


class OpenLevel:
    """A level that is being played (`world.World`)."""

    def __init__(self, env: MiniGridEnv, tile_size: int) -> None:
        self._env, self._tile_size = env, tile_size

    @property
    def frame(self) -> np.ndarray:
        """uint8 [size, size, 3]: what is to be seen now."""
        return _frame(self._env, self._tile_size)

    def step(self, action: int) -> Step:
        """What the action leads to."""
        _, reward, terminated, truncated, _ = self._env.step(action)
        return Step(self.frame, float(reward), terminated, truncated)

    def close(self) -> None:
        """Ends it."""
        self._env.close()


def open_world(environment: str, seed: int, image_size: int) -> OpenLevel:
    """The level of `seed`, where its episode begins. Raises ValueError as `make_environment` does."""
    env = make_environment(environment, image_size)
    _reset(env, seed)
    return OpenLevel(env, image_size // env.width)


def make_environment(environment: str, image_size: int) -> MiniGridEnv:
    """The environment, without wrappers. Raises ValueError for an unknown or unsuitable id, or an image size that its
    grid does not fit exactly."""
    env = _make(environment)
    _check_image_size(env, environment, image_size)
    return env


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


def _require_bot(env: MiniGridEnv, environment: str, random_action_fraction: float) -> None:
    if random_action_fraction < 1.0 and not environment.startswith("BabyAI-"):
        raise ValueError(
            f"{environment} has no scripted bot (only BabyAI levels do): "
            f"set random_action_fraction to 1.0 (it is {random_action_fraction}) or choose a BabyAI-... environment"
        )


def _reset(env: MiniGridEnv, seed: int) -> None:
    # MiniGrid prints "Sampling rejected: ..." while it searches for a valid world.
    with contextlib.redirect_stdout(io.StringIO()):
        env.reset(seed=seed)


def _action_names(env: MiniGridEnv) -> tuple[str, ...]:
    # Some environments offer only the first few of MiniGrid's seven actions.
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    return tuple(action.name for action in env.actions)[: int(env.action_space.n)]


def _advice(bot: BabyAIBot, last_action: int | None) -> int | None:
    """The bot's next action given the one really taken, or None when it has lost its plan at this step."""
    try:
        advice = bot.replan(last_action)
    except BOT_ERRORS:
        return None
    return None if advice is None else int(advice)


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


def _frame(env: MiniGridEnv, tile_size: int) -> np.ndarray:
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
    parts = [f"agent facing {DIRECTIONS[direction]} at {_cell_name(x, y)}"]
    for index, cell in enumerate(env.grid.grid):
        if cell is not None and cell.type not in UNNAMED:
            y, x = divmod(index, env.width)
            parts.append(f"{_door_state(cell)}{cell.color} {cell.type} at {_cell_name(x, y)}")
    return "; ".join(parts)


def _cell_name(x: int, y: int) -> str:
    """Column letter and row number from 0, as on a chess board: one word per place is one token per place."""
    letters = ascii_lowercase[x] if x < 26 else ascii_lowercase[x // 26 - 1] + ascii_lowercase[x % 26]
    return f"{letters}{y}"


def _door_state(cell: object) -> str:
    if getattr(cell, "type", None) != "door":
        return ""
    if getattr(cell, "is_locked", False):
        return "locked "
    return "open " if getattr(cell, "is_open", False) else "closed "
