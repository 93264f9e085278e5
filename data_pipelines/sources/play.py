"""Plays episodes: worlds on one side, whoever acts in them on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipelines.sources.episode import Episode, Event
from data_pipelines.sources.families import open_world
from data_pipelines.sources.world import Action, Moment, World, plain
from data_pipelines.stream.randomness import keyed_generator


@dataclass(slots=True, eq=False)
class Play:
    """An episode in progress: T actions, and the T + 1 moments around them; of several agents, T rows of their actions
    and of their rewards.

    events  what happened, each before the action of its step; the last may be of step T, which the next moment shows
    rng     keyed by the episode: the only chance that a policy may use
    memory  whatever the policy keeps of this episode; it finds None at the first step
    """

    world: World
    rng: np.random.Generator
    moments: list[Moment]
    actions: list[Action] = field(default_factory=list)
    rewards: list[float | tuple[float, ...]] = field(default_factory=list)
    done: list[bool] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    memory: Any = None


class Policy(Protocol):
    """Chooses the next action of every episode that it is given, from the plays alone.

    It is given up to `plays_at_once` episodes side by side, fewer when some have ended: a model reads them as one
    batch. Which ones stand together depends on the settings and not on the number of processes.
    """

    plays_at_once: int

    def __call__(self, plays: Sequence[Play]) -> Sequence[Action]: ...


class Player(NamedTuple):
    """A policy, how episodes call it, and its share of them."""

    name: str
    share: float
    policy: Policy


@dataclass(frozen=True, slots=True)
class Rules:
    """How episodes are played: at most `max_steps` steps, frames of `image_size` pixels a side; in `event_fraction` of
    them an event is to happen at a step drawn from all `max_steps`, and does unless the episode is over by then;
    `view_cells` as `open_world` takes it."""

    max_steps: int
    image_size: int
    event_fraction: float = 0.0
    view_cells: int | None = None


def play_episodes(environment: str, seeds: Sequence[int], players: Sequence[Player], rules: Rules) -> Iterator[Episode]:
    """The episode of every seed, in order; it ends with the world, or its own time limit.

    Who plays, and what happens, is drawn for every episode. Raises ValueError as `open_world` does.
    """
    together = max(player.policy.plays_at_once for player in players)
    for first in range(0, len(seeds), together):
        some = seeds[first : first + together]
        players_of = {seed: choose_player(environment, seed, players) for seed in some}
        episodes: dict[int, Episode] = {}
        for player in players:
            mine, most = [seed for seed in some if players_of[seed] is player], player.policy.plays_at_once
            for start in range(0, len(mine), most):
                for episode in _play_together(environment, mine[start : start + most], player, rules):
                    episodes[episode.seed] = episode
        yield from (episodes[seed] for seed in some)


def choose_player(environment: str, seed: int, players: Sequence[Player]) -> Player:
    """Who plays the episode of a seed."""
    ends = list(accumulate(player.share for player in players))
    at = keyed_generator("policy", environment, seed).random() * ends[-1]
    return next((player for player, end in zip(players, ends, strict=True) if at < end), players[-1])


def _play_together(environment: str, seeds: Sequence[int], player: Player, rules: Rules) -> Iterator[Episode]:
    """Step by step, as one batch."""
    plays, chances = [], {}
    for seed in seeds:
        world = open_world(environment, seed, rules.image_size, rules.view_cells)
        plays.append(Play(world, keyed_generator("episode", environment, seed), [world.moment]))
        chances[seed] = keyed_generator("event", environment, seed)
    at = {seed: _event_step(chance, rules) for seed, chance in chances.items()}
    for number in range(rules.max_steps):
        going = [play for play in plays if not play.world.over]
        if not going:
            break
        for play in (play for play in going if at[play.world.seed] == number):
            _make_something_happen(play, chances[play.world.seed])
        for play, action in zip(going, player.policy(going), strict=True):
            step = play.world.step(action)
            play.actions.append(plain(action))
            play.rewards.append(step.rewards or step.reward)
            play.done.append(step.terminated)
            play.moments.append(play.world.moment)
    for play in plays:
        yield _episode(play, player.name, rules.view_cells)
        play.world.close()


def _event_step(chance: np.random.Generator, rules: Rules) -> int | None:
    """When something happens, if anything does."""
    happens, step = chance.random() < rules.event_fraction, int(chance.integers(rules.max_steps))
    return step if happens else None


def _make_something_happen(play: Play, chance: np.random.Generator) -> None:
    """One of the events that are possible now: its kind first, so that rare kinds are not lost among many."""
    kinds = play.world.simulator.possible_events()
    if kinds:
        kind = kinds[int(chance.integers(len(kinds)))]
        text = kind[int(chance.integers(len(kind)))]
        play.world.make_happen(text)
        play.events.append(Event(len(play.actions), text))


def _episode(play: Play, policy: str, view_cells: int | None) -> Episode:
    world, moments = play.world, play.moments
    return Episode(
        key=f"{world.simulator.name}-{world.seed:08d}",
        frames=np.stack([moment.frame for moment in moments]),
        actions=np.asarray(play.actions, dtype=np.int64),
        rewards=np.asarray(play.rewards, dtype=np.float32),
        done=np.asarray(play.done, dtype=np.bool_),
        poses=_poses(moments),
        mission=world.mission,
        captions=tuple(moment.caption for moment in moments),
        environment=world.environment,
        seed=world.seed,
        num_actions=world.num_actions,
        audio=np.concatenate([moment.sound for moment in moments])[:, None],
        audio_rate=world.simulator.sound_rate,
        policy=policy,
        events=tuple(play.events),
        view_cells=view_cells,
    )


def _poses(moments: Sequence[Moment]) -> np.ndarray:
    """[T + 1, 3 or 0] in cells, or in units of a continuous world."""
    poses = [moment.pose for moment in moments]
    in_cells = all(isinstance(number, int) for pose in poses for number in pose)
    return np.asarray(poses, dtype=np.int64 if in_cells else np.float64).reshape(len(poses), -1)
