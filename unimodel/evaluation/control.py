"""Controllers by what they get: in the model, where they think they are, and in the real environment.

Each plays the same episodes twice, once inside the model and once for real. What it got in the model and not for real
is what it found wrong with the model: the exploitation gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unimodel.evaluation.intervals import over_episodes, share_of_episodes
from unimodel.evaluation.table import Estimate
from unimodel.run_folder import write_json
from unimodel.world.controllers.controller import Controller
from unimodel.world.controllers.planner import PlanSettings
from unimodel.world.controllers.roster import (
    ControllerName,
    ImaginationSettings,
    build_controllers,
    with_baselines,
)
from unimodel.world.env import WorldModelEnv
from unimodel.world.real import RealEpisode
from unimodel.world.stage import load_world
from unimodel.world.starts import Split, Starts
from unimodel.world.state import WorldState


@dataclass(frozen=True, slots=True)
class Played:
    """One episode: the sum of its rewards, and whether it ended with one (a time limit is no end)."""

    total: float
    solved: bool
    steps: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The same episode, played in the model and for real."""

    episode: int
    imagined: Played
    real: Played


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Who plays what: the first `episodes` of a split, of at most `max_steps` (else as many as recorded ones had)."""

    controllers: Sequence[ControllerName]
    split: Split
    episodes: int
    max_steps: int | None
    plan: PlanSettings
    imagination: ImaginationSettings


class Place(Protocol):
    """Where an episode is played: a dream or the real environment."""

    @property
    def state(self) -> WorldState: ...

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Score:
    """What a controller got, means over all episodes; `gap` is imagined less real return."""

    imagined_return: Estimate
    real_return: Estimate
    gap: Estimate
    imagined_solved: Estimate
    real_solved: Estimate


def play_episode(controller: Controller, place: Place, seed: int, max_steps: int) -> Played:
    """At most `max_steps` steps from where `place` stands."""
    controller.begin(seed)
    total = 0.0
    for step in range(1, max_steps + 1):
        _, reward, terminated, truncated, _ = place.step(controller.act(place.state))
        total += reward
        if terminated or truncated:
            return Played(total, terminated and reward > 0, step)
    return Played(total, False, max_steps)


def play_pairs(
    run: Path, stage: str | None, settings: ControlSettings, report: Callable[[str, Pair], None]
) -> tuple[dict[str, list[Pair]], Path]:
    """Every controller in the same episodes; also as JSON in a file of the run. `report` is told of each as soon as it
    is over.

    Raises ValueError when the run's stage cannot step a world, has no policy and one is needed, there are fewer
    episodes, or one cannot be played again; FileNotFoundError when the run or its stage is not there.
    """
    loaded = load_world(run, stage)
    starts = Starts(loaded, settings.split)
    if settings.episodes > len(starts):
        raise ValueError(f"{run} has {len(starts)} episodes of {settings.split} and not {settings.episodes}")
    max_steps = settings.max_steps or loaded.config.data.recording.max_steps
    dream = WorldModelEnv(loaded, split=settings.split, max_steps=max_steps)
    names = with_baselines(loaded, settings.controllers)
    controllers = build_controllers(loaded, names, len(starts.action_names), settings.plan, settings.imagination)
    pairs: dict[str, list[Pair]] = {name: [] for name in controllers}
    for episode in range(settings.episodes):
        for name, controller in controllers.items():
            dream.reset(seed=episode, options={"episode": episode})
            imagined = play_episode(controller, dream, episode, max_steps)
            place = RealEpisode(loaded, starts[episode])
            real = play_episode(controller, place, episode, max_steps)
            place.close()
            pairs[name].append(Pair(episode, imagined, real))
            report(name, pairs[name][-1])
    about = {"stage": loaded.stage, "step": loaded.step, **asdict(settings), "max_steps": max_steps}
    path = loaded.run.path / f"control_{settings.split}.json"
    results = {name: {"score": _told(score(p)), "pairs": [asdict(pair) for pair in p]} for name, p in pairs.items()}
    write_json(path, {"settings": about, "controllers": results})
    return pairs, path


def score(pairs: Sequence[Pair]) -> Score:
    """Bootstrap intervals of returns and Wilson intervals of shares, over episodes."""
    imagined, real = (np.array([played.total for played in some]) for some in _both(pairs))
    solved = [[played.solved for played in some] for some in _both(pairs)]
    return Score(
        over_episodes(np.mean, imagined),
        over_episodes(np.mean, real),
        over_episodes(np.mean, imagined - real),
        share_of_episodes(solved[0]),
        share_of_episodes(solved[1]),
    )


def _both(pairs: Sequence[Pair]) -> tuple[list[Played], list[Played]]:
    return [pair.imagined for pair in pairs], [pair.real for pair in pairs]


def _told(figures: Score) -> dict[str, Any]:
    estimates = {field.name: getattr(figures, field.name) for field in fields(figures)}
    return {name: {"mean": estimate.value, "interval": estimate.interval} for name, estimate in estimates.items()}
