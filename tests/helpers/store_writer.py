"""Processes that write to a store and are killed: at a random moment, or at a given system call."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unimodel.memory.record import Record, StoreSettings
from unimodel.memory.store import MemoryStore

SETTINGS = StoreSettings("world", "model-a", dim=8, vocabulary_size=1000, pose_dims=3, segment_rows=12)
LARGEST_BATCH = 16
CALLS = ("pwrite", "fdatasync", "fsync", "truncate", "unlink", "link", "rename", "replace", "mkdir")
"""The system calls by which a store changes a file system; SQLite makes its own."""


def moment(number: int) -> Record:
    """The record of an id: whoever knows the id knows what must be there."""
    rng = np.random.default_rng(number)
    return Record(
        key=rng.standard_normal(SETTINGS.dim).astype(np.float16),
        tokens=rng.integers(SETTINGS.vocabulary_size, size=rng.integers(1, 200)),
        step=number // 2,
        agent=number % 2,
        episode=number // 40,
        pose=tuple(rng.standard_normal(3).astype(np.float32).tolist()) if number % 3 else None,
        action=rng.integers(9, size=1),
        reward=float(np.float32(rng.standard_normal())),
        text=rng.integers(SETTINGS.vocabulary_size, size=5 * (number % 4 == 0)),
        surprise=float(np.float32(rng.random())),
    )


def moments(first: int, count: int) -> list[Record]:
    return [moment(id_) for id_ in range(first, first + count)]


def encoded_otherwise(records: list[Record]) -> np.ndarray:
    """Another model's keys."""
    return np.stack([np.resize(record.tokens % 5, SETTINGS.dim) - 2 for record in records]).astype(np.float32)


def content(record: Record) -> tuple[object, ...]:
    """What was written, comparable."""
    arrays = (np.asarray(record.key, np.float16), record.tokens, record.action, record.text)
    plain = (record.step, record.agent, record.episode, record.pose, record.reward, record.surprise)
    return *(tuple(array.tolist()) for array in arrays), *plain


def everything(store: MemoryStore) -> dict[int, tuple[object, ...]]:
    """Content by id of all that is not forgotten."""
    rows, _, _ = store._index.live()
    return {record.id: content(record) for record in store.read(rows["id"])}


def write_for_ever(path: Path, output: int) -> None:
    """Appends as fast as it can; a line `begun N` before and `committed N` after each batch, N the next id."""
    store = MemoryStore(path, SETTINGS.model_hash)
    for batch in itertools.count(1):
        count = 1 + (batch * 7 + store.next_id) % LARGEST_BATCH
        records = [moment(store.next_id + offset) for offset in range(count)]
        os.write(output, b"begun %d\n" % (store.next_id + count))
        store.append(records)
        os.write(output, b"committed %d\n" % store.next_id)


def forked(target: Callable[[], None]) -> int:
    """Runs `target` in a copy of this process; its exit code, minus the signal for one that was killed."""
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


class Killer:
    """Counts the system calls of CALLS, and the statements of a store's manifest, from `arm` on, and kills its own
    process before number `at`; a write is half done before."""

    def __init__(self, at: int | None) -> None:
        self.calls = 0
        self._at = at
        self._numbers = itertools.count()

    def arm(self, store: MemoryStore | None) -> None:
        for name in CALLS:
            setattr(os, name, self._wrapped(getattr(os, name), name))
        if store is not None:
            store._manifest._connection.set_trace_callback(lambda statement: self._count(lambda: None))

    def _count(self, last_deed: Callable[[], object]) -> None:
        number = next(self._numbers)
        self.calls = max(self.calls, number + 1)
        if number == self._at:
            last_deed()
            os.kill(os.getpid(), signal.SIGKILL)

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            def half_a_write() -> None:
                if name == "pwrite":
                    descriptor, data, offset = arguments
                    call(descriptor, data[: len(data) // 2], offset)

            self._count(half_a_write)
            return call(*arguments, **options)

        return wrapper
