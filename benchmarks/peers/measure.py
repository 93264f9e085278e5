"""Samples per second of one loader, in the environment of that loader: started by `benchmarks/data_loading.py`.

Every loader reads the same samples, decodes them with the same function, shuffles, and hands over batches of one uint8
tensor [samples, height, width, 3] with captions and numbers. What is counted is the steady state.

Run: python benchmarks/peers/measure.py LOADER DATA PREPARED DECODER WORKERS
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import loaders
import numpy as np
import pyspng
from PIL import Image

BATCH = 64
WARM_UP_SECONDS, MEASURED_SECONDS = 1.0, 2.5


def decode_pillow(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.array(image)


def decode_libspng(png: bytes) -> np.ndarray:
    return pyspng.load(png, format="RGB")


DECODERS = {"pillow": decode_pillow, "libspng": decode_libspng}


def endless(make: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        yield from make()


def cpu_seconds() -> float:
    """Spent so far by this process and all that it started: what a busy machine disturbs least."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            about = file.read_text().rpartition(")")[2].split()
            if int(about[3]) == os.getsid(0):
                ticks += sum(map(int, about[11:15]))  # its own, and of children that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def steady_state(batches: Iterator[Any]) -> dict[str, float]:
    """Samples per second and CPU microseconds per sample, after a warm-up that also empties what was built ahead while
    the first batch was awaited."""
    next(batches)
    began = time.perf_counter()
    while time.perf_counter() - began < WARM_UP_SECONDS:
        next(batches)
    spent, began, count = cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
        count += len(next(batches)["image"])
    seconds = time.perf_counter() - began
    return {"rate": count / seconds, "cpu": 1e6 * (cpu_seconds() - spent) / count}


def main() -> None:
    name, data, prepared, decoder, workers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5]
    make = getattr(loaders, name)(data, prepared, DECODERS[decoder], BATCH, int(workers))
    print(json.dumps(steady_state(endless(make))), flush=True)
    os._exit(0)  # some peers wait for their threads for ever


if __name__ == "__main__":
    main()
