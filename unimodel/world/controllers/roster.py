"""The controllers of a run by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from unimodel.sampling.fill import FillSettings
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.agent import Agent
from unimodel.world.controllers.actor_critic import LearntPolicy, load_heads
from unimodel.world.controllers.controller import Controller, Following, RandomActions
from unimodel.world.controllers.planner import Planner, PlanSettings
from unimodel.world.imagination import Branches, Imagination, Table
from unimodel.world.rollout import require_one_agent, worlds_of

ControllerName = Literal["cem", "shooting", "pmpo", "bc", "random"]


@dataclass(frozen=True, slots=True)
class ImaginationSettings:
    """How plans are imagined.

    memory_frames  frames that imagined worlds remember: with few, what looks the same is imagined once; 0 is all
    passes         refinement passes of a frame
    values         whether the model's own values judge where a plan ends
    """

    memory_frames: int = 0
    passes: int = 1
    values: bool = False


def controller_names(text: str) -> list[ControllerName]:
    """Of names between commas. Raises ValueError for one that does not exist."""
    known: dict[str, ControllerName] = {name: name for name in get_args(ControllerName)}
    if unknown := [name for name in text.split(",") if name not in known]:
        raise ValueError(f"there is no controller '{unknown[0]}'; known: {', '.join(known)}")
    return [known[name] for name in text.split(",")]


def with_baselines(loaded: LoadedRun, names: Sequence[ControllerName]) -> list[ControllerName]:
    """These, and what they are compared with: random actions, and behaviour cloning where the run has learnt it."""
    has_policy = "policy" in loaded.config.stages[loaded.stage].skills
    baselines: list[ControllerName] = ["random", "bc"] if has_policy else ["random"]
    return [*baselines, *(name for name in dict.fromkeys(names) if name not in baselines)]


def build_controllers(
    loaded: LoadedRun,
    names: Sequence[ControllerName],
    num_actions: int,
    plan: PlanSettings,
    imagination: ImaginationSettings,
) -> dict[str, Controller]:
    """Raises ValueError when the run's stage cannot step a world, has no policy and one is needed, or its world has
    several agents; FileNotFoundError when none was learnt in imagination."""
    require_one_agent(loaded)
    controllers: dict[str, Controller] = {}
    for name in names:
        match name:
            case "random":
                controllers[name] = RandomActions(num_actions)
            case "bc":
                controllers[name] = Following(Agent(loaded))
            case "pmpo":
                controllers[name] = Following(LearntPolicy(Agent(loaded), load_heads(loaded)))
            case "shooting" | "cem":
                once = replace(plan, plans=plan.plans * plan.iterations, iterations=1)
                judge = Agent(loaded) if imagination.values else None
                imagined = build_imagination(loaded, num_actions, imagination)
                controllers[name] = Planner(imagined, plan if name == "cem" else once, judge)
    return controllers


def build_imagination(loaded: LoadedRun, num_actions: int, settings: ImaginationSettings) -> Imagination:
    """Raises ValueError when the run's stage cannot step a world, or its world has several agents."""
    require_one_agent(loaded)
    worlds = worlds_of(loaded, FillSettings(settings.passes))
    if settings.memory_frames:
        return Table(worlds, num_actions, settings.memory_frames)
    return Branches(worlds, num_actions)
