"""Tokens per second of pre-tokenised shards: planned, then read, laid out, corrupted and packed by one process.

The demo's stages as they are, and one with larger pictures and longer windows. "build" is what a worker does, "plan"
what the main process does for it, "stream" both, as training gets it, from one worker. Figures are medians of short
pieces; "at best" is the fastest of them, which a noisy machine disturbs least.

Run: python benchmarks/tokenised_loading.py
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.plan import StreamState
from unimodel.config import BatchConfig, StageConfig
from unimodel.config_file import load_config
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.training.data import StageData
from unimodel.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=512, image_size=240, action_size=7, reward_size=63)
EPISODES, SHARD_EPISODES, PIECES, STEPS = 2_000, 500, 30, 10


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
    data = StageData(shards, SequenceBuilder(VOCABULARY, 1, 2), name, stage, 0)
    stream = data.stream(StreamState(), 0)
    planning, building, streaming, lengths = [], [], [], []
    planned = stream._planned()  # pyright: ignore[reportPrivateUsage]
    for _ in range(PIECES):
        began = time.perf_counter()
        steps = [next(planned) for _ in range(STEPS)]
        tokens, planned_at = sum(sum(step.tokens) for step in steps), time.perf_counter()
        for step in steps:
            stream._builder[step]  # pyright: ignore[reportPrivateUsage]
        planning.append(tokens / (planned_at - began))
        building.append(tokens / (time.perf_counter() - planned_at))
        lengths += [one.length for step in steps for row in step.rows for one in row]
    stream = data.stream(StreamState(), 0, workers=1)
    next(stream)
    for _ in range(PIECES):
        began = time.perf_counter()
        tokens = sum(sum(next(stream).tokens) for _ in range(STEPS))
        streaming.append(tokens / (time.perf_counter() - began))
    stream.close()
    figures = "  ".join(
        f"{what} {statistics.median(rates) / 1e3:6,.0f} ({max(rates) / 1e3:,.0f} at best)"
        for what, rates in (("build", building), ("plan", planning), ("stream", streaming))
    )
    print(f"{name:22} {np.mean(lengths):5.0f} tokens a sample, thousand tokens/s: {figures}", flush=True)


def main() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder) / "demo", EPISODES, side=8, frames=range(5, 18))
        for name, stage in config.ordered_stages:
            report(name, shards, stage)
        long = write_shards(Path(folder) / "long", SHARD_EPISODES, side=16, frames=range(8, 18))
        name, stage = config.ordered_stages[-1]
        mixture = tuple(entry.model_copy(update={"frames": 2 * entry.frames}) for entry in stage.mixture)
        batch = BatchConfig(rows=8, row_tokens=4096)
        report("longer samples", long, stage.model_copy(update={"mixture": mixture, "batch": batch}))
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
