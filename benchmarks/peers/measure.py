"""Samples per second of one loader, in the environment of that loader: started by `benchmarks/data_loading.py`.

Every loader reads the same samples, decodes them with the same function, shuffles, and hands over batches of one uint8
tensor [samples, height, width, 3] with captions and numbers. What is counted is the steady state.

Run: python benchmarks/peers/measure.py LOADER DATA PREPARED DECODER WORKERS
"""

from __future__ import annotations

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


def samples_per_second(batches: Iterator[Any]) -> float:
    """After a warm-up that also empties what was built ahead while the first batch was awaited."""
    next(batches)
    began = time.perf_counter()
    while time.perf_counter() - began < WARM_UP_SECONDS:
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
        count += len(next(batches)["image"])
    return count / (time.perf_counter() - began)


def main() -> None:
    name, data, prepared, decoder, workers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5]
    make = getattr(loaders, name)(data, prepared, DECODERS[decoder], BATCH, int(workers))
    print(json.dumps(samples_per_second(endless(make))), flush=True)
    os._exit(0)  # some peers wait for their threads for ever


if __name__ == "__main__":
    main()
