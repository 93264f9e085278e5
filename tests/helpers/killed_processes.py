"""Processes that tests kill for real, and whether they are gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120
"""Longest wait for a process; nothing is measured with it, it only ends a test that hangs."""


def is_running(pid: int) -> bool:
    """False also for a process that has ended and that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """The running processes that `pid` has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split() if is_running(int(child))]
    return found


def workers_of(pid: int) -> list[int]:
    """The data workers of a process that trains: copies of it, unlike its watchdog."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [child for child in children_of(pid) if Path(f"/proc/{child}/cmdline").read_bytes() == command]


def wait_for(ready: Callable[[], bool], what: str) -> None:
    """Polls until `ready`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(0.002)


def require_gone(pids: Iterable[int]) -> None:
    """Waits for processes to end."""
    left = list(pids)
    wait_for(lambda: not any(map(is_running, left)), f"processes {left} outlive what started them")


def log_steps(
    log: Path, state: dict[str, Any] | None, first: int, settings: tuple[int, int, int, int], *, stays: bool
) -> None:
    """The whole of a process: rank `settings[0]` of `settings[1]`, with `settings[2]` workers, up to step
    `settings[3]`; then it ends, or `stays` to be killed. One line a step: its number, the names in its rows, the state
    after it, and the workers."""
    from toy_stream import rows_of, stream

    rank, num_ranks, workers, last = settings
    source = stream(None, rank, num_ranks, workers)
    if state is not None:
        source.load_state_dict(state)
    with log.open("a") as file:
        for number in range(first, last):
            rows = rows_of(next(source))
            pids = [child.pid for child in multiprocessing.active_children()]
            line = {"step": number, "rows": rows, "state": source.state_dict(), "workers": pids}
            file.write(json.dumps(line) + "\n")
            file.flush()
    if stays:
        signal.pause()
    os._exit(0)


def read_log(log: Path) -> list[dict[str, Any]]:
    """The whole lines; a killed process may have left a part of one."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
