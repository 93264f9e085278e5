"""Episodes of MiniGrid and BabyAI (Chevalier-Boisvert et al., arXiv 1810.08272 and 2306.13831).

BabyAI's own scripted bot plays, with random actions mixed in so that every action is seen in every situation. Frames
show the whole grid. Everything random is keyed by the episode's seed, so an episode can be replayed exactly.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers its environments
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from data_pipelines.sources.episode import Episode
from data_pipelines.stream.randomness import keyed_generator

DIRECTIONS = ("right", "down", "left", "up")


def make_environment(environment: str, image_size: int) -> Any:
    """The gymnasium environment. Raises ValueError for an unknown id or a picture size that does not fit its grid."""
    if environment not in gymnasium.registry:
        near = difflib.get_close_matches(environment, gymnasium.registry, n=3)
        raise ValueError(f"environment '{environment}' is not registered; near names: {', '.join(near) or 'none'}")
    env = gymnasium.make(environment)
    world: Any = env.unwrapped
    cells = {world.width, world.height}
    if len(cells) != 1 or image_size % world.width:
        raise ValueError(
            f"environment '{environment}' has a grid of {world.width}x{world.height} cells, which does not divide a "
            f"picture of {image_size} pixels: use a square level and an image_size that is a multiple of its cells"
        )
    return env


def record_episode(
    environment: str, seed: int, *, max_steps: int, random_action_fraction: float, image_size: int
) -> Episode:
    """Plays one episode. Raises ValueError as `make_environment`, or when a level has no scripted bot."""
    env = make_environment(environment, image_size)
    world: Any = env.unwrapped
    rng = keyed_generator("episode", environment, seed)
    _reset(env, seed)
    bot = _bot(world, environment) if random_action_fraction < 1 else None
    frames, captions, poses = [_frame(world, image_size)], [caption(world)], [_pose(world)]
    actions, rewards, done = [], [], []
    action = None
    for _ in range(max_steps):
        action = _choose(bot, world, action, rng, random_action_fraction)
        _, reward, terminated, truncated, _ = env.step(action)
        frames.append(_frame(world, image_size))
        captions.append(caption(world))
        poses.append(_pose(world))
        actions.append(action)
        rewards.append(float(reward))
        done.append(terminated)
        if terminated or truncated:
            break
    return Episode(
        key=f"episode-{seed:08d}",
        frames=np.stack(frames),
        actions=np.asarray(actions, dtype=np.int64),
        rewards=np.asarray(rewards, dtype=np.float32),
        done=np.asarray(done, dtype=bool),
        poses=np.asarray(poses, dtype=np.int64),
        mission=world.mission,
        captions=tuple(captions),
        environment=environment,
        seed=seed,
        num_actions=int(world.action_space.n),
    )


def branch_frames(environment: str, seed: int, actions: Sequence[int], image_size: int) -> np.ndarray:
    """uint8 [num_actions, height, width, 3]: the real next frame of every action, after replaying `actions`."""
    env = make_environment(environment, image_size)
    _reset(env, seed)
    for action in actions:
        env.step(int(action))
    branches = []
    for action in range(int(env.action_space.n)):  # pyright: ignore[reportAttributeAccessIssue]
        branch = copy.deepcopy(env)
        branch.step(action)
        branches.append(_frame(branch.unwrapped, image_size))
    return np.stack(branches)


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions, by number."""
    world: Any = gymnasium.make(environment).unwrapped
    return tuple(action.name for action in world.actions)


def caption(world: Any) -> str:
    """What the grid shows, from its true state: the agent, then objects row by row. Cells are column,row."""
    column, row = world.agent_pos
    parts = [f"agent facing {DIRECTIONS[world.agent_dir]} at {column},{row}"]
    for y in range(world.height):
        for x in range(world.width):
            cell = world.grid.get(x, y)
            if cell is not None and cell.type not in ("wall", "floor"):
                parts.append(f"{_describe(cell)} at {x},{y}")
    return "; ".join(parts)


def _describe(cell: Any) -> str:
    if cell.type != "door":
        return f"{cell.color} {cell.type}"
    state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
    return f"{state} {cell.color} door"


def _reset(env: Any, seed: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # levels print every layout they reject
        env.reset(seed=seed)


def _bot(world: Any, environment: str) -> BabyAIBot:
    try:
        return BabyAIBot(world)
    except AttributeError:
        raise ValueError(
            f"environment '{environment}' has no scripted bot (only BabyAI levels have): set random_action_fraction to 1.0"
        ) from None


def _choose(bot: BabyAIBot | None, world: Any, last: int | None, rng: np.random.Generator, random_fraction: float) -> int:
    """The bot must hear of every action, also of the random ones, to keep its plan up to date."""
    chance, random_action = rng.random(), int(rng.integers(world.action_space.n))
    planned = None
    if bot is not None:
        try:
            planned = int(bot.replan(last))
        except Exception:  # noqa: BLE001 - the bot's own asserts fail where random actions broke its plan
            planned = None
    return random_action if planned is None or chance < random_fraction else planned


def _frame(world: Any, image_size: int) -> np.ndarray:
    frame = world.get_frame(highlight=False, tile_size=image_size // world.width)
    return np.asarray(frame, dtype=np.uint8)


def _pose(world: Any) -> tuple[int, int, int]:
    return int(world.agent_pos[0]), int(world.agent_pos[1]), int(world.agent_dir)
