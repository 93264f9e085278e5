"""Held-out episodes beside what the model makes of them from the same first frames and with the same actions.

They are made once; quality by step, drift and calibration all read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimodel.evaluation.held_out import HeldOut
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import WORLDS_AT_ONCE, worlds_of
from unimodel.world.state import WorldState
from unimodel.world.worlds import LEAST_REWARD_PROBABILITY, Worlds

CONTEXT_FRAMES = 2
"""Real frames that a rollout starts from."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one episode: `codes` int64 [n, rows, columns] and `pictures` uint8 [n, height, width, 3]."""

    codes: np.ndarray
    pictures: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came with the steps of one episode: `rewards` [n] (or what was expected), `over` [n] (or how likely), and of
    what was expected, how likely there was any reward [n]."""

    rewards: np.ndarray
    over: np.ndarray
    rewarded: np.ndarray | None = None

    @property
    def total_reward(self) -> float:
        """The return; steps that hardly have a reward count as none, as in imagined play (`Outcome.rewards_above`): the
        little that is expected of each would sum up."""
        if self.rewarded is None:
            return float(self.rewards.sum())
        return float(self.rewards[self.rewarded >= LEAST_REWARD_PROBABILITY].sum())


@dataclass(frozen=True, slots=True)
class Rollout:
    """The S steps that follow the first frames of the episode `key`.

    real      what happened
    made      what the model made of it
    given     the last frame that both start from, one
    ceiling   uint8 [S, height, width, 3]: the real frames through the tokenizer and back; no model can do better
    happened  the real outcomes; nan rewards where nobody told them
    expected  the model's, each after its own frames
    """

    key: str
    real: Frames
    made: Frames
    given: Frames
    ceiling: np.ndarray
    happened: Outcomes
    expected: Outcomes

    @property
    def steps(self) -> int:
        return len(self.real.codes)


def roll_held_out(loaded: LoadedRun, held_out: HeldOut) -> list[Rollout]:
    """Every held-out episode that goes on after its first frames, up to the longest of `evaluation.horizons`.

    Raises ValueError when no episode reaches the first of them.
    """
    horizons = loaded.config.evaluation.horizons
    lengths = [episode.num_frames - CONTEXT_FRAMES for episode in held_out.tokens]
    if max(lengths, default=0) < min(horizons):
        raise ValueError(f"no held-out episode has {CONTEXT_FRAMES + min(horizons)} frames: lower evaluation.horizons")
    chosen = [number for number, length in enumerate(lengths) if length > 0]
    tokens = [held_out.tokens[number] for number in chosen]
    states = [start_of(episode) for episode in tokens]
    actions = [actions_from_start(episode, max(horizons)) for episode in tokens]
    codes, expected = step_worlds(worlds_of(loaded), states, actions)
    made = decode_each(loaded.bundle.image, codes)
    later = [slice(CONTEXT_FRAMES, CONTEXT_FRAMES + len(row)) for row in actions]
    ceilings = decode_each(loaded.bundle.image, [e.frames[at] for e, at in zip(tokens, later, strict=True)])
    rollouts = []
    for i, (number, at) in enumerate(zip(chosen, later, strict=True)):
        pictures, steps = held_out.episodes[number].frames, slice(at.start - 1, at.stop - 1)
        rollouts.append(
            Rollout(
                key=tokens[i].key,
                real=Frames(tokens[i].frames[at], pictures[at]),
                made=Frames(codes[i], made[i]),
                given=Frames(tokens[i].frames[at.start - 1], pictures[at.start - 1]),
                ceiling=ceilings[i],
                happened=Outcomes(tokens[i].rewards[steps], tokens[i].done[steps]),
                expected=expected[i],
            )
        )
    return rollouts


def start_of(episode: TokenisedEpisode) -> WorldState:
    """The world after the frames that rollouts start from; what will happen to it by a text is known."""
    frames, actions = episode.frames[:CONTEXT_FRAMES], episode.actions[: CONTEXT_FRAMES - 1]
    return WorldState(episode.mission, frames, actions, episode.events)


def actions_from_start(episode: TokenisedEpisode, most: int) -> np.ndarray:
    """int [n], or [n, agents]: the actions that came next, at most so many."""
    return episode.actions[CONTEXT_FRAMES - 1 : CONTEXT_FRAMES - 1 + most]


def step_worlds(
    worlds: Worlds, states: Sequence[WorldState], actions: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[Outcomes]]:
    """Each state after each of its actions [n] or [n, agents]: codes [n, rows, columns], and the outcomes expected."""
    order = sorted(range(len(states)), key=lambda i: -len(actions[i]))  # worlds of a batch end at about the same step
    frames: dict[int, list[np.ndarray]] = {i: [] for i in order}
    told: dict[int, list[tuple[float, float, float]]] = {i: [] for i in order}
    for first in range(0, len(order), WORLDS_AT_ONCE):
        some = order[first : first + WORLDS_AT_ONCE]
        slots = {i: worlds.open(states[i], seed=i) for i in some}
        for step in range(len(actions[some[0]])):
            some = [i for i in some if step < len(actions[i])]
            here = [slots[i] for i in some]
            codes = worlds.step(here, [actions[i][step].tolist() for i in some])
            outcome = worlds.outcomes(here)
            for row, i in enumerate(some):
                frames[i].append(codes[row])
                told[i].append((float(outcome.rewards[row]), float(outcome.over[row]), float(outcome.rewarded[row])))
        for slot in slots.values():
            worlds.close(slot)
    outcomes = [Outcomes(*np.array(told[i]).reshape(-1, 3).T) for i in range(len(states))]
    return [np.stack(frames[i]) for i in range(len(states))], outcomes


def decode_each(tokenizer: ImageTokenizer, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures of several runs of frames, decoded together."""
    stops = np.cumsum([len(some) for some in codes])
    return np.split(tokenizer.decode(np.concatenate(codes)), stops[:-1])
