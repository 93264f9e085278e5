"""How fast this machine reads, decodes and loads a data set: a few seconds of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from data_pipelines.shards.index import split_folders
from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.sample import decode_sample
from data_pipelines.stream.order import SampleOrder
from data_pipelines.stream.plan import StreamState
from data_pipelines.stream.samples import SampleSettings, SampleStream
from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.finished import has_tokens, source_names, source_splits
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
    if not run.config_file.exists():
        for split, folder in split_folders(path).items():
            yield from _bench_shards(split, ShardReader(folder), seconds)
        return
    config = run.config()
    for source in source_names(config):
        yield from _bench_shards(source, ShardReader(source_splits(config, source)["train"]), seconds)
    if has_tokens(config, run):
        yield from _bench_tokens(config, run, seconds)


def _bench_shards(name: str, reader: ShardReader, seconds: float) -> Iterator[Line]:
    order = SampleOrder(reader.shard_samples, 0, "bench")
    draws = (order[number][1] for number in count())
    num_bytes, samples = _rate(lambda: (sum(map(len, reader.read(next(draws))[1].values())), 1), seconds)
    yield f"{name}: read", f"{num_bytes / MEGABYTE:,.1f} MB/s, {samples:,.0f} samples/s"
    frames, samples = _rate(lambda: (len(decode_sample(*reader.read(next(draws))).frames), 1), seconds)
    yield f"{name}: read and decode, one core", f"{samples:,.0f} samples/s, {frames:,.0f} moments/s"
    for workers in WORKERS:
        stream = SampleStream(reader, _decode, SampleSettings(BATCH_SAMPLES, workers=workers))
        (samples,) = _rate(lambda stream=stream: (len(next(stream).keys),), seconds)
        stream.close()
        yield f"{name}: loader, {workers} workers, batches of {BATCH_SAMPLES}", f"{samples:,.0f} samples/s"


def _bench_tokens(config: RunConfig, run: RunFolder, seconds: float) -> Iterator[Line]:
    bundle = load_run_bundle(run)
    tokens = {source: run.tokens_of(source, "train") for source in source_names(config)}
    for name, stage in config.ordered_stages:
        data = StageData(tokens, bundle.builder, name, stage, config.seed)
        for workers in WORKERS:
            stream = data.stream(StreamState(), bundle.pad_id, workers=workers)
            (speed,) = _rate(lambda stream=stream: (sum(next(stream).tokens),), seconds)
            stream.close()
            yield f"stage {name}: packed, {workers} workers", f"{speed:,.0f} tokens/s"


def _decode(key: str, fields: dict[str, bytes]) -> dict[str, Any]:
    sample = decode_sample(key, fields)
    return {"frames": sample.frames, "audio": sample.audio, "captions": sample.captions}


def _rate(step: Callable[[], tuple[int, ...]], seconds: float) -> tuple[float, ...]:
    """What `step` counts, per second; the first call, which starts workers, is free."""
    counts = [0] * len(step())
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        counts = [before + more for before, more in zip(counts, step(), strict=True)]
    spent = time.perf_counter() - began
    return tuple(done / spent for done in counts)
