"""The same training data over the disk, the web and S3, with 50 ms of latency and 5% of requests failing.

Samples per second without a model, on an empty cache and on a warm one, and the share of a step that a model of
STEP_SECONDS waits for its batch after WARM_UP steps on an empty cache. Servers are processes of their own on this
machine, so they take processor time from the loader: figures of a real store are better.

Run: python benchmarks/remote_loading.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
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
STEP_SECONDS, WARM_UP, STEPS = 0.2, 30, 60
FAST_STEPS = 200


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


def stream(folder: str | Path, cache: Path) -> PackedStream:
    return ToyData(ShardReader(folder, BlockCache(cache)), ROW_TOKENS, ROWS).stream(WORKERS)


def samples_per_second(folder: str | Path, cache: Path) -> float:
    """From the first batch on."""
    source = stream(folder, cache)
    next(source)
    started, samples = time.perf_counter(), 0
    for _ in range(FAST_STEPS):
        samples += next(source).batch.num_sequences
    source.close()
    return samples / (time.perf_counter() - started)


def waiting_share(folder: str | Path, cache: Path) -> float:
    source = stream(folder, cache)
    waited = 0.0
    for step in range(WARM_UP + STEPS):
        started = time.perf_counter()
        next(source)
        if step >= WARM_UP:
            waited += time.perf_counter() - started
        time.sleep(STEP_SECONDS)
    source.close()
    return waited / (waited + STEPS * STEP_SECONDS)


def main() -> None:
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_toy_shards(data / "train", SHARDS, SAMPLES, longest_tokens=60, filler=FILLER_BYTES)
        size = sum(path.stat().st_size for path in (data / "train").glob("*.tar"))
        print(
            f"{SHARDS} shards, {SHARDS * SAMPLES} samples, {size / 1e6:.0f} MB; {WORKERS} workers; "
            f"{LATENCY_SECONDS * 1000:.0f} ms latency, {FAILURE_SHARE:.0%} of requests fail; step {STEP_SECONDS} s"
        )
        with serving("file_server.py", data) as web, serving("object_store.py", data) as store:
            os.environ["AWS_ENDPOINT_URL"] = store
            local = None
            for name, folder in (
                ("file", data / "train"),
                ("http", f"{web}/train"),
                ("s3", f"s3://{BUCKET}/train"),
            ):
                cold = samples_per_second(folder, Path(scratch) / name)
                warm = samples_per_second(folder, Path(scratch) / name)
                waited = waiting_share(folder, Path(scratch) / f"{name}-paced")
                local = local or (cold, warm)
                print(
                    f"{name:5} empty cache {cold:7.0f} samples/s ({cold / local[0]:.2f} of local), "
                    f"warm cache {warm:7.0f} ({warm / local[1]:.2f}), waiting {waited:.1%} of a step"
                )


if __name__ == "__main__":
    main()
