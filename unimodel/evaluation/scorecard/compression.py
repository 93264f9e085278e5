"""What does it cost to know the past: in bits, in bytes, in time?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.likelihood import Likelihoods, copy_code_bits
from unimodel.evaluation.scorecard.predictors import window_frames
from unimodel.evaluation.scorecard.score import COPY, MODEL, Definition, Gate, Score, measured, not_measured
from unimodel.evaluation.table import Estimate
from unimodel.memory.state import num_bytes
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.bench import WARM_UP_STEPS, time_steps
from unimodel.world.rollout import worlds_of
from unimodel.world.state import WorldState

HORIZON_WINDOWS = 10
STEPS, LEAST_STEPS, LEAST_TURNS = 24, 4, 3
"""Timed of each, in turns of two windows, so that moving on is in both."""

BITS = Definition(
    "bits per frame",
    "compression",
    "bound of -log2 p(frame | past, action)",
    "a code that copies and lists the changes",
    "",
    Gate(0.0),
    unit="bits",
    higher_is_better=False,
)
BYTES = Definition(
    "memory over an archive of all codes",
    "compression",
    "bytes that the memory carries / bytes of the codes of all frames of the longest held-out episode",
    "1: every frame kept",
    "",
    Gate(0.0, is_sure=False),
    higher_is_better=False,
)
COST = Definition(
    "cost per step, late over early",
    "compression",
    f"median seconds of a step after {HORIZON_WINDOWS} windows over that within the first two",
    "as many frames read as there are",
    "1: it does not depend on how long the world has lived",
    Gate(0.9),
    higher_is_better=False,
)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of single steps of a world that had about `early_frames` and `late_frames` frames."""

    early: Sequence[float]
    late: Sequence[float]
    early_frames: int
    late_frames: int


def score_bits(likelihoods: Mapping[str, Likelihoods]) -> Score:
    """Copying as a code stands for the world that stays as it is."""
    if MODEL not in likelihoods:
        return not_measured(BITS, "likelihoods are those of windows, and this stage reads with a memory")
    found = likelihoods[MODEL]
    copying = copy_code_bits(found.changed, found.codes)
    figures = {name: over_episodes(np.mean, one.true / math.log(2)) for name, one in likelihoods.items()}
    figures[COPY] = Estimate(copying, copying, copying)
    return measured(BITS, figures, copying, None, len(found.true))


def score_bytes(memory_bytes: int, codes: int, code_kinds: int, frames: int, recalls: float | None) -> Score:
    """Of a memory beside `codes` a frame, each of `code_kinds` kinds, of so many `frames`; what it is good for: it
    `recalls` such a share of what can be known beyond a window."""
    archive = frames * codes * math.ceil(math.log2(code_kinds)) / 8
    figures = {MODEL: Estimate(memory_bytes / archive)}
    recalled = "nothing that can be told" if recalls is None else f"{recalls:.0%} of the way to perfect recall"
    about = f"{memory_bytes:,} bytes beside {archive:,.0f} of {frames} frames, for {recalled}"
    return measured(BYTES, figures, 1.0, None, 1, about)


def score_cost(costs: StepCosts) -> Score:
    """From times alone: their interval is over steps."""
    early, late = np.array(costs.early), np.array(costs.late)
    figure = over_episodes(_late_over_early, early, late[: len(early)])
    about = f"{1000 * float(np.median(early)):.0f} ms early, {1000 * float(np.median(late)):.0f} ms late"
    return measured(COST, {MODEL: figure}, costs.late_frames / costs.early_frames, 1.0, len(early), about)


def time_horizon(loaded: LoadedRun, held_out: HeldOut) -> StepCosts:
    """Steps of worlds with random actions, by turns of one that has just begun and of one that has lived through
    HORIZON_WINDOWS windows: what else the machine does slows both."""
    worlds, window = worlds_of(loaded), window_frames(loaded)
    episode = held_out.tokens[0]
    start = WorldState(episode.mission, episode.frames[:1], episode.actions[:0])
    passes, actions = loaded.config.evaluation.sampling_steps, loaded.bundle.vocabulary.action_size
    old = worlds.open(start)
    rng, of_each = np.random.default_rng(1), start.actions.shape[1:]
    for _ in range(HORIZON_WINDOWS * window):  # what it has lived through, not how fast
        worlds.step([old], rng.integers(actions, size=(1, *of_each)).tolist(), passes=1)
    turn = max(LEAST_STEPS, 2 * window)
    early: list[float] = []
    late: list[float] = []
    for _ in range(max(LEAST_TURNS, STEPS // turn)):
        young = worlds.open(start)
        for slot, seconds in ((young, early), (old, late)):
            times = time_steps(worlds, [slot], actions, turn, passes)
            seconds += [*times.steps, *times.rereading]
        worlds.close(young)
    frames = len(worlds.state(old).frames)
    worlds.close(old)
    return StepCosts(early, late, 1 + WARM_UP_STEPS + turn // 2, (HORIZON_WINDOWS * window + frames) // 2)


def memory_bytes(loaded: LoadedRun) -> int | None:
    """Of what a world remembers beyond its window; None of a model without a memory."""
    memory = worlds_of(loaded).no_memory()
    return None if memory is None else num_bytes(memory)


def _late_over_early(early: np.ndarray, late: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(late, axis=axis) / np.median(early, axis=axis)
