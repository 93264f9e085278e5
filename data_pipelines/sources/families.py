"""Opens any world that can be recorded, and tries every action from one state of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.sources import any_environment, atari, minigrid, society
from data_pipelines.sources.episode import UNKNOWN_ACTION, Event
from data_pipelines.sources.minigrid_reading import GridJudge
from data_pipelines.sources.world import Action, Family, World


def family_of(environment: str) -> Family:
    """Who plays it."""
    if environment.startswith(atari.PREFIX):
        return atari
    if environment.startswith(society.PREFIX):
        return society
    return minigrid if environment.startswith(minigrid.PREFIXES) else any_environment


def open_world(environment: str, seed: int, image_size: int, view_cells: int | None = None) -> World:
    """The world of a gymnasium id, or of one of `society.py`, where the episode of `seed` begins; the caller closes it.
    `view_cells`: how many cells a side an agent in a grid sees before it, None for the picture that the environment
    makes by itself.

    Raises ValueError for an unknown or unsuitable environment, image size or view, MissingExtraError when its package
    is not installed.
    """
    simulator = family_of(environment).open_simulator(environment, seed, image_size, view_cells)
    return World(environment, seed, simulator)


def open_judge(environment: str, image_size: int) -> GridJudge:
    """Tells by the environment's own renderer whether a picture shows what its caption says.

    Raises ValueError for an environment whose pictures nobody can read back.
    """
    if family_of(environment) is not minigrid:
        raise ValueError(
            f"pictures of {environment or 'these samples'} cannot be judged: only those of MiniGrid and BabyAI, drawn "
            "tile by tile, are read back"
        )
    return GridJudge(environment, image_size)


def branch_frames(
    environment: str,
    seed: int,
    actions: Sequence[Action],
    image_size: int,
    events: Sequence[Event] = (),
    view_cells: int | None = None,
    tried: Sequence[Action] | None = None,
) -> np.ndarray:
    """uint8 [tried, size, size, 3]: the true next frame of each of the actions `tried`, of all that there are unless
    they are given, after replaying `actions` from where the episode of `seed` begins. Of `events`, those up to the step
    of the branches happen.

    The state is set back where the environment can, else reached anew for every action.
    Raises ValueError when an action does not exist, the episode is over before or with the last of `actions`, or two
    replays of them differ.
    """
    world = open_world(environment, seed, image_size, view_cells)
    replay(world, actions, events)
    state, before = world.snapshot() if world.restores else None, world.frame
    branches = []
    for number, action in enumerate(range(world.num_actions) if tried is None else tried):
        if number and state is not None:
            world.restore(state)
        elif number:
            world.close()
            world = open_world(environment, seed, image_size, view_cells)
            replay(world, actions, events)
            if not np.array_equal(world.frame, before):
                raise ValueError(f"{environment}, seed {seed}: two replays differ, so it has no branches to compare")
        branches.append(world.step(action).frame)
    world.close()
    return np.stack(branches)


def replay(world: World, actions: Sequence[Action], events: Sequence[Event] = ()) -> None:
    """Takes `actions` one by one, each after the events of its step, up to the events of the step after the last.

    Raises ValueError when an action does not exist or the episode is over before or with the last of `actions`.
    """
    for number, action in enumerate(actions):
        _happen(world, number, events)
        least = 0 if world.num_agents == 1 else UNKNOWN_ACTION
        if np.min(action) < least or np.max(action) >= world.num_actions:
            raise ValueError(
                f"{world.environment}: action {action} at step {number} is outside 0..{world.num_actions - 1}"
            )
        world.step(action)
        if world.over:
            raise ValueError(
                f"{world.environment}, seed {world.seed}: the episode ends at step {number}, nothing to branch from"
            )
    _happen(world, len(actions), events)


def _happen(world: World, step: int, events: Sequence[Event]) -> None:
    for at, text in events:
        if at == step:
            world.make_happen(text)
