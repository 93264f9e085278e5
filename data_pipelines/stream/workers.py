"""Worker processes that build whole batches ahead, in the order in which they are asked for.

A worker runs nothing but the builder. torch's DataLoader has a thread in each that hands over what was built: it fights
the builder for the interpreter's lock and costs it a third of its speed. And the end of a process is read from a pipe
of its own: torch is told by a signal, which others may take, and raises from there at any line of the main process.
"""

from __future__ import annotations

import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing import connection, get_context, reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from data_pipelines.parent_death import die_with_parent
from data_pipelines.stream.hand_over import read_in, write_out

PREFETCH_BATCHES = 4
"""Batches that a worker builds ahead."""
FAREWELL_SECONDS = 2.0
"""How long a worker may take to end."""


class WorkerError(RuntimeError):
    """A worker was killed, hangs, or failed in a way that no input explains."""


def build_in_workers(
    build: Callable[[Any], Any], items: Iterator[Any], workers: int, timeout_seconds: float
) -> Iterator[Any]:
    """`build(item)` of every item, in order. Raises WorkerError when a worker dies, hangs or fails."""
    team: list[_Worker] = []
    asked: deque[_Worker] = deque()  # one entry for every item that is being built, in order
    try:
        for _ in range(workers):
            team.append(_Worker(build))
        for worker in team * PREFETCH_BATCHES:
            for item in islice(items, 1):
                worker.ask(item)
                asked.append(worker)
        while asked:
            worker = asked.popleft()
            made = worker.take(timeout_seconds)
            for item in islice(items, 1):
                worker.ask(item)
                asked.append(worker)
            yield made
    finally:
        _end(team)


class _Worker:
    """A process and the socket to it. What it sends is tiny, so it is always ready to read: neither side can wait for
    the other to take what it sends."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        context = get_context("fork")  # a builder holds open files and memory maps
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(build, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, item: Any) -> None:
        """Wants what is built of `item`. Raises WorkerError."""
        try:
            self.connection.send_bytes(pickle.dumps(item, protocol=5))
        except OSError:
            raise self._death() from None

    def take(self, timeout_seconds: float) -> Any:
        """What was asked for first. Raises WorkerError."""
        if not connection.wait([self.connection, self.process.sentinel], timeout_seconds):
            raise WorkerError(f"no worker has handed over anything for {timeout_seconds:g} seconds")
        if not self.connection.poll():
            raise self._death()
        try:
            handle = reduction.recv_handle(self.connection)
        except (OSError, EOFError):
            raise self._death() from None
        made = read_in(handle)
        if isinstance(made, WorkerError):
            raise made
        return made

    def _death(self) -> WorkerError:
        self.process.join(FAREWELL_SECONDS)
        code = self.process.exitcode
        if code is not None and code < 0:
            return WorkerError(f"a data worker was killed by {signal.Signals(-code).name}")
        return WorkerError("a data worker ended")  # by itself, or how is known only to who waited for it


def _end(team: Sequence[_Worker]) -> None:
    """Leaves no process behind. They hold nothing that would be lost: what they were building is built again."""
    for worker in team:
        worker.connection.close()
        if not _ended(worker.process, 0):
            worker.process.terminate()
    for worker in team:
        if not _ended(worker.process, FAREWELL_SECONDS):
            worker.process.kill()
        worker.process.join()


def _ended(process: BaseProcess, seconds: float) -> bool:
    """Asks the pipe, not the system's table of processes: others may have taken its entry, and its number be reused."""
    return bool(connection.wait([process.sentinel], seconds))


def _work(build: Callable[[Any], Any], main: Connection) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # signals are the main process's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent()
    torch.set_num_threads(1)
    try:
        while True:
            item = pickle.loads(main.recv_bytes())  # noqa: S301 - from our own main process
            with write_out(_built(build, item)) as file:
                reduction.send_handle(main, file.fileno(), 0)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is left to work for


def _built(build: Callable[[Any], Any], item: Any) -> Any:
    try:
        return build(item)
    except Exception:  # told where it is waited for
        return WorkerError(f"a worker failed:\n{traceback.format_exc()}")
