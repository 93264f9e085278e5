"""A trained model as a gymnasium environment: an agent acts, the model makes up what it sees, gets and when it is over.

    import unimodel.world
    env = gymnasium.make("unimodel/World-v0", run="runs/demo")
    envs = gymnasium.make_vec("unimodel/World-v0", num_envs=16, run="runs/demo")

An episode begins where a recorded one does, which its seed chooses. The reward is the expected one, 0 where any reward
is unlikely; the episode terminates when the model gives the end more than a half. In a world of several agents an
action is one of each, and the reward is that of all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from data_pipelines.sources.world import Action, plain
from unimodel.sampling.fill import FillSettings
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import worlds_of
from unimodel.world.stage import load_world
from unimodel.world.starts import Split, Start, Starts
from unimodel.world.state import WorldState
from unimodel.world.worlds import LEAST_REWARD_PROBABILITY

FRAMES_PER_SECOND = 4


@dataclass(frozen=True, slots=True)
class DreamSettings:
    """How a model plays the environment.

    split                     where episodes begin
    start_frames              recorded frames, with the actions between them, that an episode begins with
    max_steps                 longest episode; else as long as recorded ones were allowed to be
    end_probability           the episode terminates when its end is more likely than this
    least_reward_probability  rewards that are less likely than this are 0
    passes                    refinement passes of a frame; else the run's `evaluation.sampling_steps`
    temperature               0 takes the likeliest frame, 1 samples; what is drawn follows from the seed
    """

    split: Split = "validation"
    start_frames: int = 1
    max_steps: int | None = None
    end_probability: float = 0.5
    least_reward_probability: float = LEAST_REWARD_PROBABILITY
    passes: int | None = None
    temperature: float = 0.0


class _Moments(NamedTuple):
    """Of the worlds that were stepped: frames uint8 [worlds, H, W, 3], rewards float64 [worlds], terminated and
    truncated bool [worlds], and the probability of their end."""

    frames: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    end_probability: np.ndarray


class _Episodes:
    """Episodes inside one model, each at a place of its own."""

    def __init__(self, run: str | Path | LoadedRun, stage: str | None, settings: DreamSettings) -> None:
        loaded = run if isinstance(run, LoadedRun) else load_world(Path(run), stage)
        passes = settings.passes or loaded.config.evaluation.sampling_steps
        fill = FillSettings(passes, settings.temperature, choice_temperature=4.5 * settings.temperature)
        self._worlds, self._image = worlds_of(loaded, fill), loaded.bundle.image
        self._starts, self._settings = Starts(loaded, settings.split, settings.start_frames), settings
        self._max_steps = settings.max_steps or loaded.config.data.recording.max_steps
        self._slots: dict[int, int] = {}
        self._begun_frames: dict[int, int] = {}
        self.action_names = self._starts.action_names
        self.frame_shape = self._image.decode(self._starts[0].state.frames[:1]).shape[1:]

    def begin(self, place: int, rng: np.random.Generator, options: dict[str, Any] | None) -> tuple[np.ndarray, Start]:
        """The first frame, and where it comes from. Raises ValueError for an episode that does not exist."""
        drawn, seed = int(rng.integers(len(self._starts))), int(rng.integers(1 << 62))
        start = self._starts[int((options or {}).get("episode", drawn))]
        if place in self._slots:
            self._worlds.close(self._slots.pop(place))
        self._slots[place] = self._worlds.open(start.state, seed)
        self._begun_frames[place] = len(start.state.frames)
        return self._image.decode(start.state.frames[-1:])[0], start

    def state(self, place: int) -> WorldState:
        return self._worlds.state(self._slots[place])

    @property
    def action_space(self) -> gymnasium.Space:
        """Of one episode."""
        state, choices = self._starts[0].state, len(self.action_names)
        if state.actions.ndim == 1:
            return gymnasium.spaces.Discrete(choices)
        return gymnasium.spaces.MultiDiscrete([choices] * state.num_agents)

    def step(self, places: Sequence[int], actions: Sequence[Action]) -> _Moments:
        slots = [self._slots[place] for place in places]
        frames = self._image.decode(self._worlds.step(slots, actions))
        outcome = self._worlds.outcomes(slots)
        steps = np.array([len(self._worlds.state(self._slots[p]).frames) - self._begun_frames[p] for p in places])
        rewards = outcome.rewards_above(self._settings.least_reward_probability)
        terminated = outcome.over > self._settings.end_probability
        return _Moments(frames, rewards, terminated, (steps >= self._max_steps) & ~terminated, outcome.over)


class WorldModelEnv(gymnasium.Env[np.ndarray, Any]):
    """One episode at a time inside the model of a run.

    `run` is a folder or one that is loaded already; `settings` are those of DreamSettings. Observations are uint8
    [H, W, 3] pictures; `info` has the mission, and after a reset the recorded episode with the `environment` and `seed`
    of the real one. `reset(options={"episode": n})` begins with the n-th of them.

    Raises FileNotFoundError when the run, its stage or its split is not there, ValueError for a stage that cannot step
    a world.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}

    def __init__(
        self,
        run: str | Path | LoadedRun,
        stage: str | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        _check_render_mode(render_mode)
        self._episodes = _Episodes(run, stage, DreamSettings(**settings))
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self._episodes)
        self.mission = ""
        self._frame: np.ndarray | None = None
        self._over = True

    @property
    def state(self) -> WorldState:
        """The episode's whole past, in the model's tokens."""
        return self._episodes.state(0)

    def get_action_meanings(self) -> list[str]:
        """The names of the actions 0, 1, ..."""
        return list(self._episodes.action_names)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        frame, start = self._episodes.begin(0, self.np_random, options)
        self._frame, self.mission, self._over = frame, start.mission, False
        return frame.copy(), _about(start)

    def step(self, action: int | np.int64 | np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Raises ValueError for an action that does not exist (the episode goes on), ResetNeeded when it is over."""
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun: reset the environment")
        taken = _checked_actions([action], self.action_space, self._episodes.action_names)
        moment = self._episodes.step([0], taken)
        self._frame = frame = np.array(moment.frames[0])
        terminated, truncated = bool(moment.terminated[0]), bool(moment.truncated[0])
        self._over = terminated or truncated
        info = {"mission": self.mission, "end_probability": float(moment.end_probability[0])}
        return frame.copy(), float(moment.rewards[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None or self._frame is None:
            return None
        return self._frame.copy()


class WorldModelVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many episodes inside the model of a run, stepped as one batch; the i-th is a `WorldModelEnv` of seed + i.

    An episode that is over begins anew with the next step, whose action it ignores (AutoresetMode.NEXT_STEP). See
    WorldModelEnv for the arguments and what they raise.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": FRAMES_PER_SECOND,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        run: str | Path | LoadedRun,
        num_envs: int = 1,
        stage: str | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        _check_render_mode(render_mode)
        self._episodes = _Episodes(run, stage, DreamSettings(**settings))
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = _spaces(self._episodes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._frames = np.zeros((num_envs, *self._episodes.frame_shape), dtype=np.uint8)
        self._missions: list[str] = [""] * num_envs
        self._over = np.ones(num_envs, dtype=np.bool_)

    def get_action_meanings(self) -> list[str]:
        """The names of the actions 0, 1, ..."""
        return list(self._episodes.action_names)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """`seed` is one for all (they get seed, seed + 1, ...) or one for each; None goes on drawing from the last."""
        self._seed(seed)
        infos: dict[str, Any] = {}
        for place in range(self.num_envs):
            infos = self._add_info(infos, self._begin(place, options), place)
        return self._frames.copy(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Raises ValueError for an action that does not exist, ResetNeeded before the first reset; nothing has moved
        then."""
        if not self._rngs:
            raise gymnasium.error.ResetNeeded("no episode has begun: reset the environment")
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        going = np.flatnonzero(~self._over).tolist()
        asked = [actions[place] for place in going]
        taken = _checked_actions(asked, self.single_action_space, self._episodes.action_names)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for place in np.flatnonzero(self._over).tolist():
            infos = self._add_info(infos, self._begin(place, None), place)
        if going:
            moments = self._episodes.step(going, taken)
            self._frames[going], rewards[going] = moments.frames, moments.rewards
            terminated[going], truncated[going] = moments.terminated, moments.truncated
            for place, probability in zip(going, moments.end_probability, strict=True):
                info = {"mission": self._missions[place], "end_probability": float(probability)}
                infos = self._add_info(infos, info, place)
        self._over = terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None if self.render_mode is None else tuple(np.array(frame) for frame in self._frames)

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if isinstance(seed, int):
            seeds: list[int | None] = [seed + place for place in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        old = self._rngs or [None] * self.num_envs
        self._rngs = [
            rng if rng is not None and one is None else np_random(one)[0] for rng, one in zip(old, seeds, strict=True)
        ]

    def _begin(self, place: int, options: dict[str, Any] | None) -> dict[str, Any]:
        self._frames[place], start = self._episodes.begin(place, self._rngs[place], options)
        self._missions[place], self._over[place] = start.mission, False
        return _about(start)


def _spaces(episodes: _Episodes) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
    pictures = gymnasium.spaces.Box(0, 255, episodes.frame_shape, np.uint8)
    return pictures, episodes.action_space


def _about(start: Start) -> dict[str, Any]:
    return {"mission": start.mission, "environment": start.environment, "seed": start.seed}


def _checked_actions(actions: Sequence[Any], space: gymnasium.Space, names: Sequence[str]) -> list[Action]:
    """As plain numbers. Raises ValueError naming the first that does not exist, and those that do."""
    for action in actions:
        if not space.contains(action):
            of_each = "" if isinstance(space, gymnasium.spaces.Discrete) else f"one of each of {space.shape} agents, "
            raise ValueError(
                f"action {action} does not exist; the actions are {of_each}0 to {len(names) - 1}: {list(names)}"
            )
    return [plain(action) for action in actions]


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode {render_mode!r} does not exist: choose rgb_array or none")
