"""Worker processes that build whole batches ahead, in the order in which they are asked for.

What a worker has built crosses as a pickle whose arrays lie in memory that both processes map: one copy in, one copy
out. Torch's own way, a file in shared memory for every tensor, costs milliseconds a batch, and so does a pipe.
"""

from __future__ import annotations

import mmap
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

WORKER_DIED = "DataLoader worker died"
PREFETCH_BATCHES = 4
"""Batches that a worker builds ahead."""
SLOTS = PREFETCH_BATCHES + 1
"""Slots of a worker: as many as it builds ahead, and the one that is being copied out."""
SLOT_BYTES = 1 << 26
"""Room for the arrays of a batch; larger ones go through the pipe. Memory that is not used is never taken."""
ALIGNMENT = 64


def build_in_workers(builder: Dataset, items: Iterator[Any], workers: int, timeout_seconds: float) -> Iterator[Any]:
    """`builder[item]` of every item, in order; an exception that is returned instead of a batch is raised here.

    Raises RuntimeError when a worker dies or hangs.
    """
    slots = _Slots(builder, workers)
    built = iter(
        DataLoader(
            slots,
            batch_size=None,
            sampler=items,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            prefetch_factor=PREFETCH_BATCHES,
            timeout=timeout_seconds,
            worker_init_fn=_quiet,
            multiprocessing_context="fork",  # the slots must be the same memory
        )
    )
    while True:
        try:
            handed = next(built)
        except StopIteration:
            return
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{WORKER_DIED} ({type(error).__name__}: {error})") from None
        yield slots.take(handed)


def is_worker_death(error: RuntimeError) -> bool:
    """Whether torch's words say that a worker was killed or hangs. It may raise this from a signal handler, so at any
    line of the main process."""
    return str(error).startswith("DataLoader worker") or "DataLoader timed out" in str(error)


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


def _quiet(_: int) -> None:
    """Signals are the main process's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
