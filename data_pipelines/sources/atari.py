"""Atari 2600 games, with their sound (ale-py).

Everything is a pure function of (environment, seed) and the actions. Sticky actions (Machado et al. 2018, arXiv
1709.06009, section 5), which repeat the last action by chance, are drawn here: the emulator's own state lacks the
action that it may repeat, so that a restored one would go on differently.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from data_pipelines.extras import load_extra
from data_pipelines.sources.world import Bot, Moment, no_view, scaled
from data_pipelines.stream.randomness import keyed_generator

PREFIX = "ALE/"
FRAMES_PER_STEP = 4
"""Emulated frames that an action is held for; the emulator makes 60 a second."""
SOUND_RATE = 30720
"""Samples per second: 512 per emulated frame."""
LONGEST_WAIT_STEPS = 240
"""Steps played before an episode begins: uniformly up to so many, since games open with the same seconds."""
KEEP_ACTION_FRACTION = 0.75
"""How often the actions of these steps are kept: a new one every step moves paddles and ships little."""
STICKY_FRACTION = 0.25
"""How often an emulated frame repeats the action of the one before, where the id does not say."""


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions 0, 1, ... of a game, e.g. ("noop", "fire", "right", ...)."""
    env: Any = _make(environment).unwrapped
    return tuple(name.lower() for name in env.get_action_meanings())


def open_simulator(environment: str, seed: int, image_size: int, view_cells: int | None = None) -> Game:
    """The game, somewhere in its first seconds. Raises ValueError for an unknown one."""
    if view_cells is not None:
        raise ValueError(no_view(environment, view_cells))
    return Game(environment, seed, image_size)


class _State(NamedTuple):
    """A game at one time: the emulator, the action that it may repeat, and what chance draws next."""

    emulator: Any
    last_action: int
    chance: Mapping[str, Any]


class Game:
    """A `Simulator`. A game that was set back goes on with the same frames and rewards; of its sound, the emulator does
    not keep where between two samples it is."""

    restores = True
    has_events = False
    sound_rate = SOUND_RATE
    num_agents = 1

    def __init__(self, environment: str, seed: int, image_size: int) -> None:
        self.name = environment.removeprefix(PREFIX).split("-")[0].lower()
        self._env, self._image_size = _make(environment), image_size
        self._emulator: Any = getattr(self._env.unwrapped, "ale")  # noqa: B009 - its stubs have no such attribute
        assert isinstance(self._env.action_space, gymnasium.spaces.Discrete)
        self.num_actions = int(self._env.action_space.n)
        self._sticky_fraction = _sticky_fraction(environment)
        self._chance = keyed_generator("sticky actions", environment, seed)
        self._last_action = 0
        observation, _ = self._env.reset(seed=seed)
        self._picture = observation["image"]
        self._sound = np.zeros(FRAMES_PER_STEP * observation["sound"].size, dtype=np.float32)
        self._wait(keyed_generator("opening", environment, seed))

    @property
    def mission(self) -> str:
        return f"play {self.name}"

    def look(self) -> Moment:
        return Moment(scaled(self._picture, self._image_size), f"the game {self.name}", sound=self._sound)

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Holds an action for FRAMES_PER_STEP frames."""
        sounds: list[np.ndarray] = []
        total, terminated, truncated = 0.0, False, False
        for _ in range(FRAMES_PER_STEP):
            if terminated or truncated:
                sounds.append(sounds[-1])
                continue
            if self._chance.random() >= self._sticky_fraction:
                self._last_action = action
            observation, reward, terminated, truncated, _ = self._env.step(self._last_action)
            self._picture, total = observation["image"], total + float(reward)
            sounds.append((observation["sound"].astype(np.float32) - 128.0) / 128.0)
        self._sound = np.concatenate(sounds)
        return total, terminated, truncated

    def save(self) -> _State:
        return _State(self._emulator.cloneState(include_rng=True), self._last_action, self._chance.bit_generator.state)

    def load(self, state: _State) -> None:
        self._emulator.restoreState(state.emulator)
        self._last_action, self._chance.bit_generator.state = state.last_action, state.chance

    def possible_events(self) -> list[list[str]]:
        return []

    def make_happen(self, text: str) -> None:
        raise ValueError(f"nothing happens in {self.name} because somebody says so: '{text}'")

    def bot(self) -> Bot | None:
        return None

    def free_cells(self) -> None:
        return None

    def close(self) -> None:
        self._env.close()

    def _wait(self, rng: np.random.Generator) -> None:
        """Plays from the reset to where an episode begins."""
        action = 0
        for _ in range(int(rng.integers(LONGEST_WAIT_STEPS + 1))):
            keep, drawn = rng.random() < KEEP_ACTION_FRACTION, int(rng.integers(self.num_actions))
            action = action if keep else drawn
            _, terminated, truncated = self.step(action)
            if terminated or truncated:
                observation, _ = self._env.reset()
                self._picture, self._last_action = observation["image"], 0


def _sticky_fraction(environment: str) -> float:
    spec = gymnasium.spec(environment)
    return float(spec.kwargs.get("repeat_action_probability", STICKY_FRACTION))


def _make(environment: str) -> gymnasium.Env:
    # The emulator greets on stderr through C++, once per process.
    os.environ.setdefault("ALE_LOGGING", "error")
    ale_py = load_extra("ale_py", "envs,media", environment)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    # One emulated frame per step: held for four, the emulator would keep the sound of the last one only.
    how = {"frameskip": 1, "repeat_action_probability": 0.0, "sound_obs": True}
    try:
        return gymnasium.make(environment, disable_env_checker=True, **how)
    except gymnasium.error.Error as error:
        known = [name for name in gymnasium.registry if name.startswith(PREFIX)]
        near = difflib.get_close_matches(environment, known, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown environment {environment!r} ({error}). Nearest known: {', '.join(near) or 'none'}"
        ) from None
