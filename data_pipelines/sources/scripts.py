"""Scripts of worlds in which something is to be remembered: who plays so that it is seen, hidden, and needed again.

A script is an endless iterator over the actions of one play, which it looks at while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from minigrid.envs.memory import MemoryEnv

from data_pipelines.sources.any_environment import Environment
from data_pipelines.sources.minigrid import Level, cue_cell
from data_pipelines.sources.play import Play
from data_pipelines.sources.policy_settings import MemoryPolicy, RecallPolicy, Steps
from data_pipelines.sources.recall import RECALL, Recall
from data_pipelines.sources.walking import DOWN, FORWARD, RIGHT, UP, leading_to, poses_of, walk, wander

Script = Callable[[Play], Iterator[int]]
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
        raise ValueError(_not_for("recall", play, "data_pipelines.sources.recall:Recall-v0"))
    while True:
        yield from [1 - RECALL] * (drawn(play.rng, policy.gap_steps) - 1)
        yield RECALL


def memory_script(play: Play, policy: MemoryPolicy) -> Iterator[int]:
    """To the cue, about, and on to one of the two things at the end of the hallway."""
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
    yield from walk(play, {places[int(rng.integers(len(places)))]}, walkable)
    yield from walk(play, hiding, walkable)
    for _ in range(drawn(rng, policy.wander_steps)):
        yield wander(play, hiding, FORWARD_FRACTION)
    _, y = env.success_pos if rng.random() < policy.right_fraction else env.failure_pos
    yield from walk(play, {(*fork, DOWN if y > fork[1] else UP)}, hiding)
    while True:
        yield FORWARD


def drawn(rng: np.random.Generator, steps: Steps) -> int:
    """From least to most, both included, each octave as often as another: long delays are not all there is."""
    least, most = steps
    return min(most, int(math.exp(rng.uniform(math.log(least), math.log(most + 1)))))


def _not_for(kind: str, play: Play, worlds: str) -> str:
    return f"the policy {kind} plays {worlds} and not {play.world.environment}: choose another environment or policy"
