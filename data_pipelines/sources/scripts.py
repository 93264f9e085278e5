"""Scripts of worlds in which something is to be remembered: who plays so that it is seen, hidden, and needed again.

A script is an endless iterator over the actions of one play, which it looks at while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from minigrid.envs.memory import MemoryEnv

from data_pipelines.sources import balls, recall
from data_pipelines.sources.any_environment import Environment
from data_pipelines.sources.balls import WAIT, HiddenBalls
from data_pipelines.sources.minigrid import Level, cue_cell
from data_pipelines.sources.play import Play
from data_pipelines.sources.policy_settings import (
    LookAwayPolicy,
    LoopsPolicy,
    MemoryPolicy,
    RecallPolicy,
    Steps,
    WalkPolicy,
)
from data_pipelines.sources.recall import RECALL, Recall
from data_pipelines.sources.walking import (
    DOWN,
    FORWARD,
    RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    UP,
    distances,
    leading_to,
    pose_of,
    poses_of,
    walk,
    wander,
)

Script = Callable[[Play], Iterator[int]]
AROUND = 3
"""Turns after the first that bring one back to where one looked."""
HALF = 0.5
LEAST_TURN = 0.01
"""Radians."""
TURNS = (1, 12)
"""One after another, where a turn is less than a quarter."""
FORWARD_FRACTION = 0.6
"""Of wandering: so that it comes about."""


def follow(play: Play, script: Script) -> int:
    """The next action of the play's script. Raises ValueError when the world is none that the script is for."""
    if play.memory is None:
        play.memory = script(play)
    return next(play.memory)


def recall_script(play: Play, policy: RecallPolicy) -> Iterator[int]:
    """Waits, and recalls after a drawn number of steps, again and again."""
    simulator = play.world.simulator
    if not isinstance(simulator, Environment) or not isinstance(simulator.own, Recall):
        raise ValueError(_not_for("recall", play, recall.ENVIRONMENT))
    while True:
        yield from [1 - RECALL] * (drawn(play.rng, policy.gap_steps) - 1)
        yield RECALL


def memory_script(play: Play, policy: MemoryPolicy) -> Iterator[int]:
    """To the cue and about, once or more often, and on to one of the two things at the end of the hallway."""
    level, rng = play.world.simulator, play.rng
    if not isinstance(level, Level) or not isinstance(level.env, MemoryEnv):
        raise ValueError(_not_for("memory", play, "MiniGrid-MemoryS7-v0 and its like"))
    if level.view_cells is None:
        raise ValueError("the policy memory leaves the cue behind, and from above it is always seen: set view_cells")
    env, fork = level.env, (level.env.success_pos[0], level.env.height // 2)
    ends = (env.success_pos, env.failure_pos)
    walkable = {pose for pose in poses_of(level.free_cells()) if pose[:2] not in ends}
    seeing = {pose for pose in walkable if level.sees(cue_cell(env), pose)}
    hiding = leading_to({(*fork, RIGHT)}, walkable - seeing)
    if not hiding:
        raise ValueError(f"{play.world.environment} shows the cue all the way with view_cells {level.view_cells}: less")
    places = sorted(seeing)
    # A single look is not drawn: recordings of before there were several stay as they are.
    for _ in range(1 if policy.looks == (1, 1) else drawn(rng, policy.looks)):
        yield from walk(play, {places[int(rng.integers(len(places)))]}, walkable)
        yield from walk(play, hiding, walkable)
        for _ in range(drawn(rng, policy.wander_steps)):
            yield wander(play, hiding, FORWARD_FRACTION)
    _, y = env.success_pos if rng.random() < policy.right_fraction else env.failure_pos
    yield from walk(play, {(*fork, DOWN if y > fork[1] else UP)}, hiding)
    while True:
        yield FORWARD


def walk_script(play: Play, policy: WalkPolicy) -> Iterator[int]:
    """Where cells are told, only over those on which the episode goes on."""
    if play.world.num_actions <= FORWARD:
        raise ValueError(_not_for("walk", play, "worlds with the actions left, right and forward"))
    cells, rng = play.world.simulator.free_cells(), play.rng
    if cells is not None:
        places = poses_of(cells)
        while True:
            yield wander(play, places, policy.forward_fraction)
    while True:
        pose = play.world.moment.pose
        yield FORWARD
        is_stopped = bool(pose) and play.world.moment.pose == pose
        if is_stopped or rng.random() >= policy.forward_fraction:
            yield from [int(rng.integers(FORWARD))] * drawn(rng, TURNS)


def loops_script(play: Play, policy: LoopsPolicy) -> Iterator[int]:
    """Each loop begins where the last one ended."""
    cells, rng = play.world.simulator.free_cells(), play.rng
    if cells is None:
        yield from _there_and_back(play, policy)
        return
    places = poses_of(cells)
    yield from _look_around(play)
    while True:
        home = pose_of(play)[:2]
        far = distances(home, cells)
        stops = [cell for cell, cells_away in far.items() if policy.distance_cells[0] <= cells_away]
        stops = [cell for cell in stops if far[cell] <= policy.distance_cells[1]] or sorted(far.keys() - {home})
        if not stops:
            raise ValueError(f"{play.world.environment}, seed {play.world.seed}: there is nowhere to go from {home}")
        for _ in range(drawn(rng, policy.stops)):
            stop = stops[int(rng.integers(len(stops)))]
            yield from walk(play, {(*stop, direction) for direction in range(4)}, places)
            yield from _look_around(play)
        yield from walk(play, {(*home, direction) for direction in range(4)}, places)
        yield from _look_around(play)


def _there_and_back(play: Play, policy: LoopsPolicy) -> Iterator[int]:
    """A-B-A where no cells are told: straight on until something is in the way, about, and back by as many steps."""
    if not play.world.moment.pose or play.world.num_actions <= FORWARD:
        raise ValueError(_not_for("loops", play, "worlds that tell the pose, with the actions left, right and forward"))
    before = play.world.moment.pose[2]
    yield TURN_LEFT
    around = round(2 * math.pi / max(abs(play.world.moment.pose[2] - before), LEAST_TURN))
    while True:
        turn = int(play.rng.integers(FORWARD))
        yield from [turn] * (around + int(play.rng.integers(around)))
        steps = 0
        for _ in range(drawn(play.rng, policy.distance_cells)):
            pose = play.world.moment.pose
            yield FORWARD
            if play.world.moment.pose == pose:
                break
            steps += 1
        yield from [turn] * (around + around // 2)
        yield from [FORWARD] * steps


def _look_around(play: Play) -> Iterator[int]:
    """Once, either way."""
    yield from [int(play.rng.integers(FORWARD))] * 4


def look_away_script(play: Play, policy: LookAwayPolicy) -> Iterator[int]:
    """A quarter to one side and back, or once around when there is the time."""
    simulator = play.world.simulator
    if not isinstance(simulator, Environment) or not isinstance(simulator.own, HiddenBalls):
        raise ValueError(_not_for("look_away", play, " and ".join(balls.ENVIRONMENTS)))
    yield from [WAIT] * (drawn(play.rng, policy.seen_steps) - 1)
    while True:
        away, turns = drawn(play.rng, policy.away_steps), [TURN_LEFT, TURN_RIGHT]
        away_with, back_with = play.rng.permutation(turns).tolist()
        goes_around = away >= AROUND and play.rng.random() < HALF
        waits = [WAIT] * (away - (AROUND if goes_around else 1))
        yield from [away_with, *waits, *([away_with] * AROUND if goes_around else [back_with])]
        yield from [WAIT] * (drawn(play.rng, policy.seen_steps) - 1)


def drawn(rng: np.random.Generator, steps: Steps) -> int:
    """From least to most, both included, each octave as often as another: long delays are not all there is."""
    least, most = steps
    return min(most, int(math.exp(rng.uniform(math.log(least), math.log(most + 1)))))


def _not_for(kind: str, play: Play, worlds: str) -> str:
    return f"the policy {kind} plays {worlds} and not {play.world.environment}: choose another environment or policy"
