"""Threads that make ready what will be asked for soon."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

NUM_THREADS = 8
"""Downloads at a time: with 50 ms to the store and blocks of 8 MiB, enough to fill a few Gbit/s."""


class ReadAhead:
    """Runs jobs in the order of asking. A failed one is dropped: whoever needs its result meets the same error where it
    can be told. A forked child starts with none; threads end with the process, whatever waits."""

    def __init__(self) -> None:
        self._pid = 0

    def ask(self, name: str, job: Callable[[], object]) -> None:
        """Unless a job of this name waits or runs."""
        if self._pid != os.getpid():
            self._start()
        if name not in self._waiting:
            self._waiting.add(name)
            self._jobs.put((name, job))

    def _start(self) -> None:
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], object]]] = queue.SimpleQueue()
        self._waiting: set[str] = set()
        for number in range(NUM_THREADS):
            threading.Thread(
                target=_work, args=(self._jobs, self._waiting), name=f"read-ahead-{number}", daemon=True
            ).start()


def _work(jobs: queue.SimpleQueue[tuple[str, Callable[[], object]]], waiting: set[str]) -> None:
    while True:
        name, job = jobs.get()
        try:
            job()
        except (OSError, ValueError):  # see ReadAhead
            continue
        finally:
            waiting.discard(name)
