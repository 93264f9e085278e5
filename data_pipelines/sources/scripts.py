"""Scripts of worlds in which something is to be remembered: who plays so that it is seen, hidden, and needed again.

A script is an endless iterator over the actions of one play, which it looks at while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines.sources.any_environment import Environment
from data_pipelines.sources.play import Play
from data_pipelines.sources.policy_settings import RecallPolicy, Steps
from data_pipelines.sources.recall import RECALL, Recall

Script = Callable[[Play], Iterator[int]]


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


def drawn(rng: np.random.Generator, steps: Steps) -> int:
    """From least to most, both included, each octave as often as another: long delays are not all there is."""
    least, most = steps
    return min(most, int(math.exp(rng.uniform(math.log(least), math.log(most + 1)))))


def _not_for(kind: str, play: Play, worlds: str) -> str:
    return f"the policy {kind} plays {worlds} and not {play.world.environment}: choose another environment or policy"
