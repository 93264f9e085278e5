"""Runs independent tasks on several processes: quiet on Ctrl-C, loud when one of them dies."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from data_pipelines.extras import MissingExtraError
from data_pipelines.parent_death import die_with_parent


def run_tasks(work: Callable[[Any], Any], tasks: Sequence[Any], processes: int, report: Callable[[Any], None]) -> None:
    """Runs `work(task)` for every task on at most `processes` processes and reports what it returns (never None).

    With one process, or one task, everything runs here. A failing task ends all others and its OSError, ValueError or
    other exception is raised here; RuntimeError when a process was killed. No process outlives the call.
    """
    count = min(processes, len(tasks))
    if count <= 1:
        for task in tasks:
            report(work(task))
        return
    # A pool would wait for ever for a worker that was killed (out of memory); a closed pipe is noticed at once.
    workers: dict[Connection, BaseProcess] = {}
    try:
        for first in range(count):
            connection, process = _start(work, tasks[first::count])
            workers[connection] = process
        waiting = set(workers)
        while waiting:
            for connection in wait(list(waiting)):
                assert isinstance(connection, Connection)
                if _receive(connection, workers[connection], report):
                    waiting.remove(connection)
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def _start(work: Callable[[Any], Any], tasks: Sequence[Any]) -> tuple[Connection, BaseProcess]:
    # Spawned, not forked: a fork would copy the locks of the threads that other libraries have started here.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(work, tasks, sender), daemon=True)
    # A new process inherits the mask: Ctrl-C cannot interrupt its imports with a traceback.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    sender.close()
    return receiver, process


def _worker(work: Callable[[Any], Any], tasks: Sequence[Any], sender: Connection) -> None:
    """Sends the result of every task, an exception when a task fails, and None at the end."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer: it terminates this process
    try:
        for task in tasks:
            sender.send(work(task))
        sender.send(None)
    except BrokenPipeError:
        return  # the parent was killed: nobody is left to work for
    except (OSError, ValueError, MissingExtraError) as error:
        sender.send(error)
    except Exception as error:
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _receive(connection: Connection, process: BaseProcess, report: Callable[[Any], None]) -> bool:
    """Handles one message; True when the worker has finished. Raises what the worker raised."""
    try:
        message = connection.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a worker process died (exit code {process.exitcode}; -9 often means out of memory): "
            "run the same command again, finished shards are kept"
        ) from None
    if isinstance(message, Exception):
        raise message
    if message is not None:
        report(message)
    return message is None
