"""Worker processes that build whole batches ahead, in the order in which they are asked for.

What a worker has built crosses as a pickle whose arrays lie in memory that both processes map: one copy in, one copy
out. Torch's own way, a file in shared memory for every tensor, costs milliseconds a batch, and so does a pipe.
"""

from __future__ import annotations

import mmap
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from data_pipelines.stream.worker_death import WorkerError, death_watch, forget_death, is_timeout, prepare_worker

PREFETCH_BATCHES = 4
"""Batches that a worker builds ahead."""
SLOTS = PREFETCH_BATCHES + 1
"""Slots of a worker: as many as it builds ahead, and the one that is being copied out."""
SLOT_BYTES = 1 << 26
"""Room for the arrays of a batch; larger ones go through the pipe. Memory that is not used is never taken."""
ALIGNMENT = 64
POLL_SECONDS = 5.0
"""How often it is looked whether the workers still live: others may take the signal of a death."""


def build_in_workers(builder: Dataset, items: Iterator[Any], workers: int, timeout_seconds: float) -> Iterator[Any]:
    """`builder[item]` of every item, in order. Raises WorkerError when a worker dies or hangs."""
    slots = _Slots(builder, workers)
    try:
        with death_watch():
            built = iter(
                DataLoader(
                    slots,
                    batch_size=None,
                    sampler=items,  # pyright: ignore[reportArgumentType]
                    num_workers=workers,
                    prefetch_factor=PREFETCH_BATCHES,
                    timeout=min(POLL_SECONDS, timeout_seconds),
                    worker_init_fn=prepare_worker,
                    multiprocessing_context="fork",  # the slots must be the same memory
                )
            )
        while True:
            with death_watch():
                handed = _wait(built, timeout_seconds)
            if handed is None:
                return
            yield slots.take(handed)
    finally:
        forget_death()


def _wait(built: Iterator[_HandedOver], timeout_seconds: float) -> _HandedOver | None:
    """The next batch; None at the end. At every timeout torch looks for dead workers, and waiting can go on."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return next(built, None)
        except RuntimeError as error:
            if not is_timeout(error):
                raise
        if time.monotonic() >= deadline:
            raise WorkerError(f"no worker has handed over anything for {timeout_seconds:g} seconds")


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """A batch without its arrays, and where those lie."""

    pickled: bytes
    start: int
    sizes: tuple[int, ...]


class _Slots(Dataset):
    """Builds in a worker, and hands over through slots of shared memory.

    No lock is needed: a worker is asked for a batch only when all but the last PREFETCH_BATCHES were taken.
    """

    def __init__(self, builder: Dataset, workers: int) -> None:
        self._builder = builder
        self._memory = mmap.mmap(-1, workers * SLOTS * SLOT_BYTES)
        self._used = 0

    def __getitem__(self, item: Any) -> _HandedOver:
        made = self._builder[item]
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = tuple(array.nbytes for array in arrays)
        if sum(map(_aligned, sizes)) > SLOT_BYTES:
            return _HandedOver(pickle.dumps(made, protocol=5), 0, ())
        worker = get_worker_info()
        assert worker is not None
        start = at = (worker.id * SLOTS + self._used % SLOTS) * SLOT_BYTES
        self._used += 1
        for array, size in zip(arrays, sizes, strict=True):
            self._memory[at : at + size] = array
            at += _aligned(size)
        return _HandedOver(pickled, start, sizes)

    def take(self, handed: _HandedOver) -> Any:
        """What was built, in memory of its own."""
        length = sum(map(_aligned, handed.sizes))
        with memoryview(self._memory) as memory:
            content = memoryview(bytearray(memory[handed.start : handed.start + length]))
        buffers, at = [], 0
        for size in handed.sizes:
            buffers.append(content[at : at + size])
            at += _aligned(size)
        return pickle.loads(handed.pickled, buffers=buffers)  # noqa: S301 - from our own worker


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
