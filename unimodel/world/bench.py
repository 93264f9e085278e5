"""How fast this machine steps a trained world, and where the milliseconds of a frame go."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_pipelines.shards.reader import ShardReader
from unimodel.config import EPISODES
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality
from unimodel.world.rollout import worlds_of
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WARM_UP_STEPS = 3
PICTURES = 20

Line = tuple[str, str]
"""What was done, and how fast."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of single steps of the same worlds; `rereading` those in which a window moved on and was read again."""

    steps: Sequence[float]
    rereading: Sequence[float]

    @property
    def mean_seconds(self) -> float:
        """Of all steps."""
        every = [*self.steps, *self.rereading]
        return sum(every) / len(every)

    def percentile(self, percent: float) -> float:
        """Of all steps, seconds."""
        return float(np.percentile([*self.steps, *self.rereading], percent))


def time_steps(worlds: Worlds, slots: Sequence[int], num_actions: int, frames: int, passes: int) -> StepTimes:
    """Steps open worlds `frames` times with random actions. A few steps before are not counted."""
    rng, of_each = np.random.default_rng(0), worlds.state(slots[0]).actions.shape[1:]
    times: list[tuple[bool, float]] = []
    for _ in range(WARM_UP_STEPS + frames):
        actions = rng.integers(num_actions, size=(len(slots), *of_each)).tolist()
        moved = any(worlds.is_unread(slot) for slot in slots)
        seconds = _seconds(lambda actions=actions: worlds.step(slots, actions, passes))
        times.append((moved, seconds))
    times = times[WARM_UP_STEPS:]
    return StepTimes([s for moved, s in times if not moved], [s for moved, s in times if moved])


def bench(loaded: LoadedRun, num_worlds: int, frames: int, compiled: bool = False) -> Iterator[Line]:
    """Lines about the worlds of a run, `num_worlds` of them at once, one by one as they are measured.

    Compiling happens before.

    Raises ValueError for a stage without interaction, FileNotFoundError when the run has no tokenised episodes.
    """
    reader = ShardReader(loaded.run.tokens_of(EPISODES, "validation"))
    episodes = [decode_tokenised(*reader.read(number % len(reader))) for number in range(num_worlds)]
    starts = [WorldState(episode.mission, episode.frames[:1], episode.actions[:0]) for episode in episodes]
    num_actions = loaded.bundle.vocabulary.size_of(Modality.ACTION)
    most = loaded.config.evaluation.sampling_steps
    medians: dict[int, float] = {}
    worlds = worlds_of(loaded, compiled_for=num_worlds if compiled else 0)
    for passes in sorted({1, 2, most}):
        slots = [worlds.open(start) for start in starts]
        times = time_steps(worlds, slots, num_actions, frames, passes)
        medians[passes] = statistics.median(times.steps or times.rereading)
        rate = num_worlds / times.mean_seconds
        tail = f"p50 {_ms(times.percentile(50))}, p95 {_ms(times.percentile(95))}"
        yield f"{passes} passes" if passes > 1 else "1 pass", f"{rate:,.1f} frames/s, a step {tail}"
        if passes == most:
            yield "first pass, which reads the last frame too", _ms(medians[1])
            if most > 1:
                yield "each further pass", _ms((medians[most] - medians[1]) / (most - 1))
            if times.rereading and times.steps:
                again = statistics.median(times.rereading) - statistics.median(times.steps)
                share = len(times.rereading) / (len(times.steps) + len(times.rereading))
                yield "reading a moved window again", f"{_ms(again)}, in {share:.0%} of the steps"
            codes = np.stack([worlds.state(slot).frames[-1] for slot in slots])
            pictures = [_seconds(lambda codes=codes: loaded.bundle.image.decode(codes)) for _ in range(PICTURES)]
            yield "codes to a picture", _ms(statistics.median(pictures))
            yield "keys and values in memory", f"{worlds.cache_bytes / num_worlds / 2**20:,.1f} MiB a world"
        for slot in slots:
            worlds.close(slot)


def _seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
