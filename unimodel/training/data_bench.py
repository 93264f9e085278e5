"""How fast this machine reads, decodes and loads a data set: a few seconds of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.index import split_folders
from data_pipelines.shards.png import decode_png
from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import decode_episode
from data_pipelines.stream.order import SampleOrder
from data_pipelines.stream.plan import StreamState
from data_pipelines.stream.samples import SampleSettings, SampleStream
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.data import StageData

BATCH_SAMPLES = 64
WORKERS = (0, 1, 2)
MEGABYTE = 1e6

Line = tuple[str, str]
"""What was done, and how fast."""


def bench(path: Path, seconds: float) -> Iterator[Line]:
    """Lines for the shards of a folder, or for the data and the tokens of a run, one by one as they are measured over
    `seconds` each.

    Raises FileNotFoundError when there are no shards, ValueError for a damaged one.
    """
    run = RunFolder(path)
    is_run = run.config_file.exists()
    for split, folder in split_folders(run.config().data.folder if is_run else path).items():
        for what, speed in _bench_shards(ShardReader(folder), seconds):
            yield f"{split}: {what}", speed
    if is_run and run.tokens.exists():
        yield from _bench_tokens(run, seconds)


def _bench_shards(reader: ShardReader, seconds: float) -> Iterator[Line]:
    order = SampleOrder(reader.shard_samples, 0, "bench")
    draws = (order[number][1] for number in count())
    num_bytes, samples = _rate(lambda: (sum(map(len, reader.read(next(draws))[1].values())), 1), seconds)
    yield "read", f"{num_bytes / MEGABYTE:,.1f} MB/s, {samples:,.0f} samples/s"
    frames, samples = _rate(lambda: (_num_frames(decode_sample(*reader.read(next(draws)))), 1), seconds)
    yield "read and decode, one core", f"{samples:,.0f} samples/s, {frames:,.0f} pictures/s"
    for workers in WORKERS:
        stream = SampleStream(reader, decode_sample, SampleSettings(BATCH_SAMPLES, workers=workers))
        (samples,) = _rate(lambda stream=stream: (len(next(stream).keys),), seconds)
        stream.close()
        yield f"loader, {workers} workers, batches of {BATCH_SAMPLES}", f"{samples:,.0f} samples/s"


def _bench_tokens(run: RunFolder, seconds: float) -> Iterator[Line]:
    config, bundle = run.config(), load_run_bundle(run)
    for name, stage in config.ordered_stages:
        data = StageData(run.tokens / "train", bundle.builder, name, stage, config.seed)
        for workers in WORKERS:
            stream = data.stream(StreamState(), bundle.pad_id, workers=workers)
            (tokens,) = _rate(lambda stream=stream: (sum(next(stream).tokens),), seconds)
            stream.close()
            yield f"stage {name}: packed, {workers} workers", f"{tokens:,.0f} tokens/s"


def decode_sample(key: str, fields: dict[str, bytes]) -> dict[str, Any]:
    """An episode's frames; of other samples, the pictures that are PNG and whatever else there is, as it is."""
    if "frames.png" in fields:
        return {"frames": decode_episode(key, fields).frames}
    return {name: decode_png(value) if name.split(".")[-1] == "png" else value for name, value in fields.items()}


def _num_frames(sample: dict[str, Any]) -> int:
    pictures = [value for value in sample.values() if isinstance(value, np.ndarray)]
    return sum(len(picture) if picture.ndim == 4 else 1 for picture in pictures)


def _rate(step: Callable[[], tuple[int, ...]], seconds: float) -> tuple[float, ...]:
    """What `step` counts, per second; the first call, which starts workers, is free."""
    counts = [0] * len(step())
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        counts = [before + more for before, more in zip(counts, step(), strict=True)]
    spent = time.perf_counter() - began
    return tuple(done / spent for done in counts)
