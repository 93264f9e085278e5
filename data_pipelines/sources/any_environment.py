"""Episodes from any gymnasium environment with discrete actions and something to see.

An id may name the module that registers it: `miniworld:MiniWorld-FourRooms-v0`, `my_package.worlds:MyWorld-v0`. A world
of your own is a `gymnasium.Env` with a Discrete action space that either observes uint8 pictures [H, W, 3] or renders
them (`render_mode="rgb_array"`); where it has a `mission` (text), the episodes get it. `crafter.py` is an example.

Everything is a pure function of (environment, seed, settings), as long as the environment is: it is reset with the
seed once, and a branch is played again from there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.replay import replay
from data_pipelines.sources.world import Step
from data_pipelines.stream.randomness import keyed_generator

KEEP_ACTION_FRACTION = 0.5
"""Random actions are kept this often: a new one every step moves little."""


def action_names(environment: str) -> tuple[str, ...]:
    """The environment's own names of the actions 0, 1, ..., or `action_0`, `action_1`, ..."""
    env = _make(environment)
    own: Any = getattr(env.unwrapped, "get_action_meanings", None)
    names = [str(name).lower() for name in own()] if own is not None else []
    number = num_actions(env)
    env.close()
    return tuple(names) if len(names) == number else tuple(f"action_{i}" for i in range(number))


def check_settings(environment: str, image_size: int, random_action_fraction: float) -> None:
    """Raises ValueError for an unknown environment, one without discrete actions or pictures, or when anything but
    random actions is asked for."""
    del image_size  # any will do: frames are scaled
    _require_random(environment, random_action_fraction)
    _make(environment).close()


def record_episode(
    environment: str, seed: int, *, max_steps: int, random_action_fraction: float, image_size: int
) -> Episode:
    """One episode of at most `max_steps` random steps; frames are scaled to a square.

    Raises ValueError as `check_settings` does.
    """
    _require_random(environment, random_action_fraction)
    env = _make(environment)
    rng = keyed_generator("episode", environment, seed)
    observation, _ = env.reset(seed=seed)
    frames = [_frame(env, observation, image_size)]
    actions: list[int] = []
    rewards: list[float] = []
    done: list[bool] = []
    for _ in range(max_steps):
        keep, drawn = rng.random() < KEEP_ACTION_FRACTION, int(rng.integers(num_actions(env)))
        action = actions[-1] if keep and actions else drawn
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        rewards.append(float(reward))
        done.append(bool(terminated))
        frames.append(_frame(env, observation, image_size))
        if terminated or truncated:
            break
    mission, number = str(getattr(env.unwrapped, "mission", "")), num_actions(env)
    env.close()
    name = environment.rpartition(":")[2].replace("/", "-").replace(".", "-").lower()
    return Episode(
        key=f"{name}-{seed:08d}",
        frames=np.stack(frames),
        actions=np.asarray(actions, dtype=np.int64),
        rewards=np.asarray(rewards, dtype=np.float32),
        done=np.asarray(done, dtype=np.bool_),
        poses=np.zeros((len(frames), 0), dtype=np.int64),
        mission=mission or f"play {name}",
        captions=(f"the world {name}",) * len(frames),
        environment=environment,
        seed=seed,
        num_actions=number,
    )


def branch_frames(environment: str, seed: int, actions: Sequence[int], image_size: int) -> np.ndarray:
    """uint8 [num_actions, size, size, 3]: the true next frame of every possible action after replaying `actions`.

    The state is reached anew for every action, so that no environment need be able to restore one.
    Raises ValueError when an action does not exist, the episode is over before the last of `actions`, or two replays
    of them differ.
    """
    env = _make(environment)
    branches, first = [], None
    for action in range(num_actions(env)):
        before = _replayed(env, environment, seed, actions, image_size)
        if first is not None and not np.array_equal(before, first):
            raise ValueError(f"{environment}, seed {seed}: two replays differ, so it has no branches to compare")
        first = before
        observation, *_ = env.step(action)
        branches.append(_frame(env, observation, image_size))
    env.close()
    return np.stack(branches)


class OpenEnvironment:
    """An environment that is being played (`world.World`)."""

    def __init__(self, env: gymnasium.Env, observation: Any, image_size: int) -> None:
        self._env, self._image_size = env, image_size
        self.frame = _frame(env, observation, image_size)
        """uint8 [size, size, 3]: what is to be seen now."""

    def step(self, action: int) -> Step:
        """What the action leads to."""
        observation, reward, terminated, truncated, _ = self._env.step(action)
        self.frame = _frame(self._env, observation, self._image_size)
        return Step(self.frame, float(reward), terminated, truncated)

    def close(self) -> None:
        """Ends it."""
        self._env.close()


def open_world(environment: str, seed: int, image_size: int) -> OpenEnvironment:
    """The environment, where the episode of `seed` begins. Raises ValueError as `check_settings` does."""
    env = _make(environment)
    observation, _ = env.reset(seed=seed)
    return OpenEnvironment(env, observation, image_size)


def _require_random(environment: str, random_action_fraction: float) -> None:
    if random_action_fraction < 1.0:
        raise ValueError(
            f"{environment} has no scripted bot: set random_action_fraction to 1.0 (it is {random_action_fraction})"
        )


def num_actions(env: gymnasium.Env) -> int:
    """Of an environment that `check_settings` has passed."""
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    return int(env.action_space.n)


def _replayed(env: gymnasium.Env, environment: str, seed: int, actions: Sequence[int], image_size: int) -> np.ndarray:
    """The frame after `actions` from the beginning."""
    observation, _ = env.reset(seed=seed)

    def step(action: int) -> bool:
        nonlocal observation
        observation, _, terminated, truncated, _ = env.step(action)
        return terminated or truncated

    replay(environment, seed, actions, num_actions(env), step)
    return _frame(env, observation, image_size)


def _make(environment: str) -> gymnasium.Env:
    os.environ.setdefault("PYGLET_HEADLESS", "true")  # read by miniworld's library: no window, also without a screen
    try:
        env = gymnasium.make(environment, disable_env_checker=True)
        if not _sees(env) and "rgb_array" in env.metadata.get("render_modes", ()):
            env.close()
            env = gymnasium.make(environment, disable_env_checker=True, render_mode="rgb_array")
    except (gymnasium.error.Error, ImportError) as error:
        near = difflib.get_close_matches(environment.rpartition(":")[2], gymnasium.registry, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown environment {environment!r} ({error}). Nearest known: {', '.join(near) or 'none'}. "
            "One of another package is named with its module: module:Id-v0"
        ) from None
    if not isinstance(env.action_space, gymnasium.spaces.Discrete) or env.action_space.start != 0:
        raise ValueError(
            f"{environment} has the actions {env.action_space}: only Discrete ones, from 0, can be recorded"
        )
    if not _sees(env) and env.render_mode is None:
        raise ValueError(f"{environment} neither observes nor renders pictures (render_mode rgb_array)")
    return env


def _sees(env: gymnasium.Env) -> bool:
    """Whether what the agent observes is a picture."""
    space = env.observation_space
    return (
        isinstance(space, gymnasium.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )


def _frame(env: gymnasium.Env, observation: Any, image_size: int) -> np.ndarray:
    picture = observation if _sees(env) else env.render()
    assert isinstance(picture, np.ndarray)
    if picture.shape[:2] == (image_size, image_size):
        return np.ascontiguousarray(picture)
    return np.asarray(Image.fromarray(picture).resize((image_size, image_size), Image.Resampling.BOX))
