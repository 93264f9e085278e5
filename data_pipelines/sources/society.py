"""Any parallel environment of several agents, as PettingZoo has them (Terry et al. 2021, arXiv 2009.14471).

`society:MODULE?setting=value` is what the function `parallel_env` of a module makes with these settings:
`society:data_pipelines.sources.orchard?agents=3`, `society:pettingzoo.butterfly.cooperative_pong_v6`,
`society:pettingzoo.butterfly.pistonball_v6?n_pistons=5&continuous=false`. All agents choose among the same Discrete
actions, and `render()` gives a picture of the whole. `orchard.py` is an example of one of your own, and says what else
is used.

In each step every agent acts; one that has ended, or is absent, has the action UNKNOWN_ACTION.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import gymnasium
import numpy as np

from data_pipelines.extras import load_extra
from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.sources.world import Bot, Moment, no_view, scaled

PREFIX = "society:"


def action_names(environment: str) -> tuple[str, ...]:
    """The environment's own names of the actions 0, 1, ..., or `action_0`, `action_1`, ..."""
    env = _make(environment)
    number = _num_actions(environment, env)
    names = env.get_action_meanings() if hasattr(env, "get_action_meanings") else ()
    env.close()
    return tuple(names) if len(names) == number else tuple(f"action_{i}" for i in range(number))


def agent_names(environment: str) -> tuple[str, ...]:
    """How its agents are told apart, agent 0 first. Raises ValueError for an unknown environment, MissingExtraError."""
    env = _make(environment)
    names = tuple(getattr(env, "agent_names", env.possible_agents))
    env.close()
    return names


def open_simulator(environment: str, seed: int, image_size: int, view_cells: int | None = None) -> Society:
    """The environment, reset with a seed. Raises ValueError for an unknown or unsuitable one."""
    if view_cells is not None:
        raise ValueError(no_view(environment, view_cells))
    return Society(environment, seed, image_size)


class Society:
    """A `Simulator` of several agents, by their numbers in `possible_agents`.

    roles      scripts that its agents can play by
    may_leave  whether an agent may be absent for a while
    """

    sound_rate = 0
    has_events = False

    def __init__(self, environment: str, seed: int, image_size: int) -> None:
        self._env, self._image_size = _make(environment), image_size
        self.num_actions = _num_actions(environment, self._env)
        self.names: tuple[str, ...] = tuple(self._env.possible_agents)
        self.name = str(self._env.metadata.get("name", "society")).replace("/", "-").replace(".", "-").lower()
        self.num_agents = len(self.names)
        self.roles: tuple[str, ...] = tuple(getattr(self._env, "roles", ()))
        self.may_leave = bool(getattr(self._env, "may_leave", False))
        self.restores = hasattr(self._env, "snapshot") and hasattr(self._env, "restore")
        self._env.reset(seed=seed)

    @property
    def mission(self) -> str:
        return str(getattr(self._env, "mission", "")) or f"play {self.name}"

    @property
    def going(self) -> tuple[bool, ...]:
        """Of every agent, whether it can act: those that have ended cannot."""
        return tuple(name in self._env.agents for name in self.names)

    def look(self) -> Moment:
        caption = str(getattr(self._env, "caption", "")) or f"the world {self.name}"
        return Moment(scaled(np.asarray(self._env.render()), self._image_size), caption)

    def step(self, action: Sequence[int]) -> tuple[list[float], bool, bool]:
        """Raises ValueError when an agent acts that cannot, or does not that must; nothing has moved then."""
        for name, one, going in zip(self.names, action, self.going, strict=True):
            if one == UNKNOWN_ACTION and going and not self.may_leave:
                raise ValueError(f"{self.name}: {name} must act: agents cannot be absent in this world")
            if one != UNKNOWN_ACTION and not going:
                raise ValueError(f"{self.name}: {name} has ended and cannot act any more: its action is -1")
        acting = {name: one for name, one in zip(self.names, action, strict=True) if one != UNKNOWN_ACTION}
        _, rewards, terminations, _, _ = self._env.step(acting)
        over = not self._env.agents
        terminated = over and any(terminations.values())
        return [float(rewards.get(name, 0.0)) for name in self.names], terminated, over and not terminated

    def advise(self, agent: int, role: str) -> int:
        """What an agent of one of `roles` would do next."""
        return int(self._env.advise(self.names[agent], role))

    def save(self) -> Any:
        return self._env.snapshot()

    def load(self, state: Any) -> None:
        self._env.restore(state)

    def possible_events(self) -> Sequence[Sequence[str]]:
        return []

    def make_happen(self, text: str) -> None:
        raise ValueError(f"nothing happens in {self.name} because somebody says so: '{text}'")

    def bot(self) -> Bot | None:
        return None

    def free_cells(self) -> None:
        """No script walks here by itself: agents have roles."""
        return None

    def close(self) -> None:
        self._env.close()


def _make(environment: str) -> Any:
    # No window and no sound card: read by the libraries of PettingZoo's worlds.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    module, _, settings = environment.removeprefix(PREFIX).partition("?")
    try:
        if module.startswith("pettingzoo."):
            load_extra("pettingzoo", "society", environment)
        make = importlib.import_module(module).parallel_env
        values = {name: _value(text) for name, text in parse_qsl(settings, strict_parsing=bool(settings))}
        return make(render_mode="rgb_array", **values)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"unknown environment {environment!r} ({error}): name a module with a function parallel_env and its "
            "settings, as society:pettingzoo.butterfly.pistonball_v6?n_pistons=5&continuous=false"
        ) from None


def _value(text: str) -> Any:
    """Numbers and truth values as such, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _num_actions(environment: str, env: Any) -> int:
    """Raises ValueError unless there are several agents with the same actions."""
    spaces = [env.action_space(agent) for agent in env.possible_agents]
    sizes = {int(space.n) if _counts(space) else 0 for space in spaces}
    if len(spaces) < 2:
        raise ValueError(f"{environment} has {len(spaces)} agent: several are needed")
    if len(sizes) > 1 or sizes == {0}:
        raise ValueError(f"{environment}: agents must share Discrete actions, counted from 0; they have {spaces[:4]}")
    return sizes.pop()


def _counts(space: Any) -> bool:
    return isinstance(space, gymnasium.spaces.Discrete) and space.start == 0
