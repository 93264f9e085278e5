"""Episodes from Atari 2600 games, with their sound (ale-py).

Everything is a pure function of (environment, seed, settings). Nobody plays well here: actions are random, kept for a
few steps each, which moves paddles and ships much further than a new one every step.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from data_pipelines.extras import load_extra
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.replay import replay
from data_pipelines.sources.world import Step
from data_pipelines.stream.randomness import keyed_generator

PREFIX = "ALE/"
FRAMES_PER_STEP = 4
"""Emulated frames that an action is held for; the emulator makes 60 a second."""
SOUND_RATE = 30720
"""Samples per second: 512 per emulated frame."""
LONGEST_WAIT_STEPS = 240
"""Steps played before an episode begins: uniformly up to so many, since games open with the same seconds."""
KEEP_ACTION_FRACTION = 0.75


def action_names(environment: str) -> tuple[str, ...]:
    """Names of the actions 0, 1, ... of a game, e.g. ("noop", "fire", "right", ...)."""
    env: Any = _make(environment).unwrapped
    return tuple(name.lower() for name in env.get_action_meanings())


def check_settings(environment: str, image_size: int, random_action_fraction: float) -> None:
    """Raises ValueError for an unknown game, or when anything but random actions is asked for."""
    del image_size  # any will do: frames are scaled
    if random_action_fraction < 1.0:
        raise ValueError(
            f"{environment} has no scripted bot: set random_action_fraction to 1.0 (it is {random_action_fraction})"
        )
    _make(environment)


def record_episode(
    environment: str, seed: int, *, max_steps: int, random_action_fraction: float, image_size: int
) -> Episode:
    """One episode of at most `max_steps` steps, from somewhere in a game; frames are scaled to a square.

    Raises ValueError as `check_settings` does.
    """
    check_settings(environment, image_size, random_action_fraction)
    env = _make(environment)
    rng = keyed_generator("episode", environment, seed)
    num_actions = _num_actions(env)
    observation, sound, action = _opening(env, seed, rng)
    frames, sounds = [_scaled(observation["image"], image_size)], [sound]
    actions: list[int] = []
    rewards: list[float] = []
    done: list[bool] = []
    for _ in range(max_steps):
        action = _next_action(action, num_actions, rng)
        observation, sound, reward, over = _step(env, action)
        actions.append(action)
        rewards.append(reward)
        done.append(over)
        frames.append(_scaled(observation["image"], image_size))
        sounds.append(sound)
        if over:
            break
    env.close()
    game = environment.removeprefix(PREFIX).split("-")[0].lower()
    return Episode(
        key=f"{game}-{seed:08d}",
        frames=np.stack(frames),
        actions=np.asarray(actions, dtype=np.int64),
        rewards=np.asarray(rewards, dtype=np.float32),
        done=np.asarray(done, dtype=np.bool_),
        poses=np.zeros((len(frames), 0), dtype=np.int64),
        mission=f"play {game}",
        captions=(f"the game {game}",) * len(frames),
        environment=environment,
        seed=seed,
        num_actions=num_actions,
        audio=np.concatenate(sounds)[:, None],
        audio_rate=SOUND_RATE,
    )


def branch_frames(environment: str, seed: int, actions: Sequence[int], image_size: int) -> np.ndarray:
    """uint8 [num_actions, size, size, 3]: the true next frame of every possible action after replaying `actions` from
    where the episode of `seed` begins.

    Everything is played again for every action: a restored state lacks the action that the emulator may repeat.
    Raises ValueError when an action does not exist or the episode is over before the last of `actions`.
    """
    env = _make(environment)
    branches = []
    for action in range(_num_actions(env)):
        _opening(env, seed, keyed_generator("episode", environment, seed))
        replay(environment, seed, actions, _num_actions(env), lambda taken: _step(env, taken)[-1])
        observation, *_ = _step(env, action)
        branches.append(_scaled(observation["image"], image_size))
    env.close()
    return np.stack(branches)


class OpenGame:
    """A game that is being played (`world.World`)."""

    def __init__(self, env: gymnasium.Env, observation: dict[str, np.ndarray], image_size: int) -> None:
        self._env, self._image_size = env, image_size
        self.frame = _scaled(observation["image"], image_size)
        """uint8 [size, size, 3]: what is to be seen now."""

    def step(self, action: int) -> Step:
        """What the action leads to; a game is over one way only."""
        observation, _, reward, over = _step(self._env, action)
        self.frame = _scaled(observation["image"], self._image_size)
        return Step(self.frame, reward, over, False)

    def close(self) -> None:
        """Ends it."""
        self._env.close()


def open_world(environment: str, seed: int, image_size: int) -> OpenGame:
    """The game, where the episode of `seed` begins. Raises ValueError for an unknown game."""
    env = _make(environment)
    observation, *_ = _opening(env, seed, keyed_generator("episode", environment, seed))
    return OpenGame(env, observation, image_size)


def _num_actions(env: gymnasium.Env) -> int:
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    return int(env.action_space.n)


def _opening(env: gymnasium.Env, seed: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Plays from the reset to where an episode begins: what is seen and heard there, and the last action."""
    observation, _ = env.reset(seed=seed)
    action, sound = 0, np.zeros(FRAMES_PER_STEP * observation["sound"].size, dtype=np.float32)
    for _ in range(int(rng.integers(LONGEST_WAIT_STEPS + 1))):
        action = _next_action(action, _num_actions(env), rng)
        observation, sound, _, over = _step(env, action)
        if over:
            observation, _ = env.reset()
    return observation, sound, action


def _make(environment: str) -> gymnasium.Env:
    # The emulator greets on stderr through C++, once per process.
    os.environ.setdefault("ALE_LOGGING", "error")
    ale_py = load_extra("ale_py", "envs,media", environment)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    try:
        # One emulated frame per step: held for four, the emulator would keep the sound of the last one only.
        return gymnasium.make(environment, frameskip=1, sound_obs=True, disable_env_checker=True)
    except gymnasium.error.Error as error:
        known = [name for name in gymnasium.registry if name.startswith(PREFIX)]
        near = difflib.get_close_matches(environment, known, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown environment {environment!r} ({error}). Nearest known: {', '.join(near) or 'none'}"
        ) from None


def _step(env: gymnasium.Env, action: int) -> tuple[dict[str, np.ndarray], np.ndarray, float, bool]:
    """(observation, sound float32 [samples], reward, over) after holding `action` for FRAMES_PER_STEP frames."""
    sounds: list[np.ndarray] = []
    total, over, observation = 0.0, False, {}
    for _ in range(FRAMES_PER_STEP):
        if not over:
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        sounds.append((observation["sound"].astype(np.float32) - 128.0) / 128.0)
    return observation, np.concatenate(sounds), total, over


def _next_action(last: int, num_actions: int, rng: np.random.Generator) -> int:
    chance, drawn = rng.random(), int(rng.integers(num_actions))
    return last if chance < KEEP_ACTION_FRACTION else drawn


def _scaled(picture: np.ndarray, image_size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((image_size, image_size), Image.Resampling.BOX))
