"""Tokens per second of pre-tokenised shards: planned, then read, laid out, corrupted and packed by one process.

The demo's stages in steps of 16 rows, and one with larger pictures and longer windows. "build" is what a worker does
and "plan" what the main process does for it, per second of CPU time; "stream" is both, by the clock, as training gets
it from one worker. "build" and "stream" are medians of short pieces; "at best" is the fastest, which other work
disturbs least.

Run: python benchmarks/tokenised_loading.py
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.plan import StreamState
from unimodel.config import EPISODES, BatchConfig, StageConfig
from unimodel.config_file import load_config
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.training.data import StageData
from unimodel.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=512, image_size=240, action_size=7, reward_size=63)
NUM_EPISODES, SHARD_EPISODES, PIECES, STEPS = 2_000, 500, 30, 4
ROWS = 16
"""Of a step. The demo's own have 2, about 900 tokens, where waking a process for each costs as much as half of one."""
WARM_UP_STEPS = 150
"""Until most shapes were seen: from then on a worker knows what follows from them."""


def episode(number: int, side: int, frames: range) -> TokenisedEpisode:
    """Codes as a grid world has them: a tenth changes from frame to frame; captions of 15 to 24 tokens."""
    rng = np.random.default_rng(number)
    count = int(rng.integers(frames.start, frames.stop))
    codes = rng.integers(VOCABULARY.image_size, size=(count, side, side))
    for before, now in zip(codes, codes[1:], strict=False):
        same = rng.random((side, side)) < 0.9
        now[same] = before[same]
    return TokenisedEpisode(
        key=f"episode-{number:08d}",
        frames=codes,
        audio=np.zeros((count, 0), dtype=np.int64),
        actions=rng.integers(VOCABULARY.action_size, size=count - 1),
        rewards=rng.choice([0.0, 0.7], size=count - 1).astype(np.float32),
        done=rng.random(count - 1) < 0.1,
        mission=rng.integers(3, VOCABULARY.text_size, size=int(rng.integers(4, 8))),
        captions=tuple(rng.integers(3, VOCABULARY.text_size, size=int(rng.integers(15, 25))) for _ in range(count)),
    )


def write_shards(folder: Path, episodes: int, side: int, frames: range) -> Path:
    def samples(first: int) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
        for number in range(first, first + SHARD_EPISODES):
            one = episode(number, side, frames)
            yield one.key, encode_tokenised(one), tokenised_lengths(one)

    starts = range(0, episodes, SHARD_EPISODES)
    shards = [write_shard(folder / f"tokens-{start:06d}.tar", samples(start)) for start in starts]
    write_manifest(folder, Manifest(tuple(shards)))
    return folder


def report(name: str, shards: Path, stage: StageConfig) -> None:
    """One line of figures."""
    data = StageData({EPISODES: shards}, SequenceBuilder(VOCABULARY, 1, 2), name, stage, 0)
    stream = data.stream(StreamState(), 0)
    planned = stream._planned()  # pyright: ignore[reportPrivateUsage]
    building, streaming, lengths, plan_seconds = [], [], [], 0.0
    for _ in range(WARM_UP_STEPS):
        stream._builder(next(planned))  # pyright: ignore[reportPrivateUsage]
    for _ in range(PIECES):
        began = time.process_time()
        steps = [next(planned) for _ in range(STEPS)]
        planned_at = time.process_time()
        for step in steps:
            stream._builder(step)  # pyright: ignore[reportPrivateUsage]
        building.append(_tokens(steps) / (time.process_time() - planned_at))
        plan_seconds += planned_at - began
        lengths += [one.length for step in steps for row in step.rows for one in row]
    stream = data.stream(StreamState(), 0, workers=1)
    next(stream)
    for _ in range(PIECES):
        began = time.perf_counter()
        tokens = _tokens([next(stream) for _ in range(STEPS)])
        streaming.append(tokens / (time.perf_counter() - began))
    stream.close()
    build, best = statistics.median(building) / 1e3, max(building) / 1e3
    plan, streamed = sum(lengths) / plan_seconds / 1e3, statistics.median(streaming) / 1e3
    print(
        f"{name:22} {np.mean(lengths):5.0f} tokens a sample, 1,000 a second: build {build:6,.0f} ({best:,.0f} at best)"
        f"  plan {plan:6,.0f} ({1e6 * plan_seconds / len(lengths):.0f} us a sample)  stream {streamed:6,.0f}",
        flush=True,
    )


def _tokens(steps: Sequence[Any]) -> int:
    return sum(sum(step.tokens) for step in steps)


def main() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder) / "demo", NUM_EPISODES, side=8, frames=range(5, 18))
        for name, stage in config.ordered_stages:
            report(name, shards, stage.model_copy(update={"batch": stage.batch.model_copy(update={"rows": ROWS})}))
        long = write_shards(Path(folder) / "long", SHARD_EPISODES, side=16, frames=range(8, 18))
        name, stage = config.ordered_stages[-1]
        mixture = tuple(entry.model_copy(update={"frames": 2 * entry.frames}) for entry in stage.mixture)
        batch = BatchConfig(rows=8, row_tokens=4096)
        report("longer samples", long, stage.model_copy(update={"mixture": mixture, "batch": batch}))
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
