"""Any gymnasium environment with discrete actions and something to see.

An id may name the module that registers it: `miniworld:MiniWorld-FourRooms-v0`, `my_package.worlds:MyWorld-v0`. A world
of your own is a `gymnasium.Env` with a Discrete action space that either observes uint8 pictures [H, W, 3] or renders
them (`render_mode="rgb_array"`). What else it has is used: `mission` (text), `pose` (three numbers),
`get_action_meanings()`, `snapshot()` and `restore(state)` where it can be set back exactly, `possible_events()` and
`make_happen(text)` where things happen because a text says so (as in `Simulator`). `crafter.py` is an example.

Everything is a pure function of (environment, seed) and the actions, as long as the environment is: it is reset with
the seed once.
"""

from __future__ import annotations

import difflib
import enum
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from data_pipelines.sources.world import Bot, Moment, no_view, scaled, tile_pixels

MAX_ACTIONS = 256


def action_names(environment: str) -> tuple[str, ...]:
    """The environment's own names of the actions 0, 1, ..., or `action_0`, `action_1`, ..."""
    env = _make(environment)
    number, own = _num_actions(env), _own_action_names(env.unwrapped)
    env.close()
    return own[:number] if len(own) >= number else tuple(f"action_{i}" for i in range(number))


def open_simulator(environment: str, seed: int, image_size: int, view_cells: int | None = None) -> Environment:
    """The environment, reset with a seed. Raises ValueError for an unknown one, one without discrete actions or
    pictures, and with `view_cells` for one that has none."""
    return Environment(environment, seed, image_size, view_cells)


class Environment:
    """A `Simulator` of whatever the environment is: `own`, without wrappers."""

    sound_rate = 0
    num_agents = 1

    def __init__(self, environment: str, seed: int, image_size: int, view_cells: int | None = None) -> None:
        self.name = environment.rpartition(":")[2].replace("/", "-").replace(".", "-").lower()
        self._env, self._image_size = _make(environment), image_size
        self.own: Any = self._env.unwrapped
        self.num_actions, self._choices = _num_actions(self._env), _choices(self._env)
        assert self._env.spec is not None
        self._max_steps, self._steps = gymnasium.spec(self._env.spec.id).max_episode_steps, 0
        self.restores = _is_bare(self._env) and hasattr(self.own, "snapshot") and hasattr(self.own, "restore")
        self.has_events = hasattr(self.own, "possible_events") and hasattr(self.own, "make_happen")
        if view_cells is not None:
            if not hasattr(self.own, "view_cells"):
                raise ValueError(no_view(environment, view_cells))
            self.own.view_cells = view_cells
        if hasattr(self.own, "view_cells"):
            tile_pixels(environment, self.own.view_cells, image_size)
        self._observation, _ = self._env.reset(seed=seed)

    @property
    def mission(self) -> str:
        return str(getattr(self.own, "mission", "")) or f"play {self.name}"

    def look(self) -> Moment:
        picture = self._observation if _sees(self._env) else self._env.render()
        assert isinstance(picture, np.ndarray)
        return Moment(scaled(picture, self._image_size), f"the world {self.name}", _pose(self.own))

    def step(self, action: int) -> tuple[float, bool, bool]:
        taken = action if self._choices is None else np.array(np.unravel_index(action, self._choices))
        self._observation, reward, terminated, truncated, _ = self._env.step(taken)
        self._steps += 1
        return float(reward), bool(terminated), bool(truncated) or self._steps == self._max_steps

    def save(self) -> tuple[Any, int]:
        return self.own.snapshot(), self._steps

    def load(self, state: tuple[Any, int]) -> None:
        own, self._steps = state
        self.own.restore(own)

    def possible_events(self) -> Sequence[Sequence[str]]:
        return self.own.possible_events() if self.has_events else []

    def make_happen(self, text: str) -> None:
        if not self.has_events:
            raise ValueError(f"nothing happens in {self.name} because somebody says so: '{text}'")
        self.own.make_happen(text)

    def bot(self) -> Bot | None:
        return None

    def free_cells(self) -> np.ndarray | None:
        return self.own.free_cells if hasattr(self.own, "free_cells") else None

    def close(self) -> None:
        self._env.close()


def _num_actions(env: gymnasium.Env) -> int:
    """0 when its actions cannot be counted from 0."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n) if space.start == 0 else 0
    choices = _choices(env)
    return math.prod(choices) if choices is not None else 0


def _choices(env: gymnasium.Env) -> tuple[int, ...] | None:
    """Of a MultiDiscrete space, whose combinations are numbered: the last choice changes fastest."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.MultiDiscrete) or space.nvec.ndim != 1 or space.start.any():
        return None
    return tuple(space.nvec.tolist())


def _own_action_names(own: Any) -> tuple[str, ...]:
    """By `get_action_meanings()`, or an enumeration `actions`; () when it has neither."""
    if hasattr(own, "get_action_meanings"):
        return tuple(str(name).lower() for name in own.get_action_meanings())
    actions: Any = getattr(own, "actions", None)
    return tuple(actions.__members__) if isinstance(actions, enum.EnumType) else ()


def _pose(own: Any) -> tuple[float, ...]:
    """Its own `pose`, or where MiniWorld's agent stands on the ground and which way it looks."""
    if hasattr(own, "pose"):
        return tuple(own.pose)
    miniworld: Any = sys.modules.get("miniworld.miniworld")
    if miniworld is None or not isinstance(own, miniworld.MiniWorldEnv):
        return ()
    agent: Any = own.agent
    return float(agent.pos[0]), float(agent.pos[2]), float(agent.dir)


def _make(environment: str) -> gymnasium.Env:
    # No window and no sound card: read by the libraries of MiniWorld and Memory Gym, and of gymnasium's own worlds.
    os.environ.setdefault("PYGLET_HEADLESS", "true")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    try:
        # Steps are counted by `Environment`: a wrapper's count would not be set back.
        how: dict[str, Any] = {"disable_env_checker": True, "max_episode_steps": -1}
        env = gymnasium.make(environment, **how)
        if not _sees(env) and "rgb_array" in env.metadata.get("render_modes", ()):
            env.close()
            env = gymnasium.make(environment, render_mode="rgb_array", **how)
    except (gymnasium.error.Error, ImportError) as error:
        near = difflib.get_close_matches(environment.rpartition(":")[2], gymnasium.registry, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown environment {environment!r} ({error}). Nearest known: {', '.join(near) or 'none'}. "
            "One of another package is named with its module: module:Id-v0"
        ) from None
    if not 1 <= _num_actions(env) <= MAX_ACTIONS:
        raise ValueError(
            f"{environment} has the actions {env.action_space}: only Discrete ones, from 0, can be recorded, and "
            f"MultiDiscrete ones of at most {MAX_ACTIONS} combinations"
        )
    if not _sees(env) and env.render_mode is None:
        raise ValueError(f"{environment} neither observes nor renders pictures (render_mode rgb_array)")
    return env


def _is_bare(env: gymnasium.Env) -> bool:
    """Whether no wrapper keeps a state of its own."""
    while isinstance(env, gymnasium.wrappers.OrderEnforcing):
        env = env.env
    return env is env.unwrapped


def _sees(env: gymnasium.Env) -> bool:
    """Whether what the agent observes is a picture."""
    space = env.observation_space
    return (
        isinstance(space, gymnasium.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )
