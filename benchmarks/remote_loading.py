"""The same training data over the disk, the web and S3, with 50 ms of latency and 5% of requests failing.

Samples per second without a model, on an empty cache and on a warm one, and the share of its time that a model with
steps of STEP_SECONDS waits for batches after WARM_UP steps on an empty cache. Servers are processes of their own on
this machine, so they take processor time from the loader: figures of a real store are better.

Run: python benchmarks/remote_loading.py
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
sys.path.insert(0, str(HELPERS))

from object_store import BUCKET, CREDENTIALS  # noqa: E402
from toy_shards import ToyData, write_toy_shards  # noqa: E402

from data_pipelines.shards.cache import BlockCache  # noqa: E402
from data_pipelines.shards.reader import ShardReader  # noqa: E402
from data_pipelines.stream.loader import PackedStream  # noqa: E402

LATENCY_SECONDS, FAILURE_SHARE = 0.05, 0.05
SHARDS, SAMPLES, FILLER_BYTES = 32, 200, 50_000
ROWS, ROW_TOKENS, WORKERS = 8, 256, 2
STEP_SECONDS, WARM_UP, STEPS = 0.5, 12, 40
FAST_STEPS = 80
ROUNDS = 2


@contextmanager
def serving(script: str, folder: Path) -> Iterator[str]:
    command = [sys.executable, str(HELPERS / script), str(folder), str(LATENCY_SECONDS), str(FAILURE_SHARE)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None and server.stdin is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.wait()


def stream(folder: str | Path, cache: Path, is_ahead: bool = True) -> PackedStream:
    return ToyData(ShardReader(folder, BlockCache(cache)), ROW_TOKENS, ROWS).stream(WORKERS, is_ahead)


def samples_per_second(folder: str | Path, cache: Path) -> float:
    """From the first batch on, without a model; less than an epoch."""
    source = stream(folder, cache)
    next(source)
    started, samples = time.perf_counter(), 0
    for _ in range(FAST_STEPS):
        batch = next(source).batch
        samples += int((batch.document.amax(dim=1) + 1).sum())
    source.close()
    return samples / (time.perf_counter() - started)


def waiting_share(folder: str | Path, cache: Path, is_ahead: bool = True) -> float:
    """Of the time of steps of STEP_SECONDS, on an empty cache, after WARM_UP steps; new shards go on coming."""
    source = stream(folder, cache, is_ahead)
    waited = 0.0
    for step in range(WARM_UP + STEPS):
        started = time.perf_counter()
        next(source)
        if step >= WARM_UP:
            waited += time.perf_counter() - started
        time.sleep(STEP_SECONDS)
    source.close()
    return waited / (waited + STEPS * STEP_SECONDS)


def measure(folders: dict[str, str | Path], scratch: Path) -> dict[str, list[float]]:
    """Figures by name, one a round; rounds alternate, so that a noisy machine is noisy for all."""
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for name, folder in folders.items():
            cache = scratch / f"{name}-{number}"
            figures[f"{name} empty"].append(samples_per_second(folder, cache))
            figures[f"{name} warm"].append(samples_per_second(folder, cache))
            shutil.rmtree(cache, ignore_errors=True)
            figures[f"{name} waiting"].append(waiting_share(folder, cache))
            shutil.rmtree(cache, ignore_errors=True)
        cache = scratch / f"plain-{number}"
        figures["http without read-ahead waiting"].append(waiting_share(folders["http"], cache, is_ahead=False))
        shutil.rmtree(cache, ignore_errors=True)
    return figures


def main() -> None:
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_toy_shards(data / "train", SHARDS, SAMPLES, longest_tokens=60, filler=FILLER_BYTES)
        size = sum(path.stat().st_size for path in (data / "train").glob("*.tar"))
        print(
            f"{SHARDS} shards, {SHARDS * SAMPLES} samples, {size / 1e6:.0f} MB; {WORKERS} workers; "
            f"{LATENCY_SECONDS * 1000:.0f} ms latency, {FAILURE_SHARE:.0%} of requests fail; step {STEP_SECONDS} s; "
            f"mean of {ROUNDS}"
        )
        with serving("file_server.py", data) as web, serving("object_store.py", data) as store:
            os.environ["AWS_ENDPOINT_URL"] = store
            folders = {"file": data / "train", "http": f"{web}/train", "s3": f"s3://{BUCKET}/train"}
            figures = {name: statistics.mean(values) for name, values in measure(folders, Path(scratch)).items()}
    for name in folders:
        empty, warm = figures[f"{name} empty"], figures[f"{name} warm"]
        print(
            f"{name:5} empty cache {empty:6.0f} samples/s ({empty / figures['file empty']:.2f} of local), "
            f"warm {warm:6.0f} ({warm / figures['file warm']:.2f} of local), "
            f"waiting {figures[f'{name} waiting']:.1%} of the time"
        )
    print(f"http without read-ahead: waiting {figures['http without read-ahead waiting']:.1%} of the time")


if __name__ == "__main__":
    main()
