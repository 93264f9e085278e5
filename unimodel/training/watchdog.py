"""A process that watches a rank: when steps stop coming, it has all stacks written down and kills the rank.

A rank that hangs in a collective, or was stopped, cannot help itself, and a time limit of the process group sees
neither a stopped process nor one that waits for data. Killed, it is started again with all others (`unimodel launch`).

This file runs by itself as the watching process, without the project's imports:
    python watchdog.py PID SECONDS PAUSE_SECONDS < beats
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

BEAT, PAUSE = b"b", b"p"
STACKS_SECONDS = 2.0
"""How long a rank has to write down its stacks before it is killed."""


class Watchdog:
    """Beats after every step. What begins with a pause, or before the first beat, may take `pause_seconds`."""

    def __init__(self, seconds: float, pause_seconds: float, stacks: Path) -> None:
        stacks.parent.mkdir(parents=True, exist_ok=True)
        self._stacks = stacks.open("a", encoding="utf-8")
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *map(str, (os.getpid(), seconds, pause_seconds))],
            stdin=subprocess.PIPE,
            bufsize=0,
        )

    def beat(self) -> None:
        """A step is done; the next beat or pause is due in time."""
        self._tell(BEAT)

    def pause(self) -> None:
        """What comes now may take longer than a step."""
        self._tell(PAUSE)

    def close(self) -> None:
        """Watches no longer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        faulthandler.unregister(signal.SIGUSR2)
        self._stacks.close()

    def _tell(self, word: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word)
        except BrokenPipeError:  # somebody has killed it: the run is better off unwatched than dead
            pass


def watch(pid: int, seconds: float, pause_seconds: float) -> None:
    """Reads beats from standard input until it ends."""
    beats, limit = sys.stdin.fileno(), pause_seconds
    while True:
        readable, _, _ = select.select([beats], [], [], limit)
        if readable:
            words = os.read(beats, 1 << 12)
            if not words:
                return
            limit = seconds if words.endswith(BEAT) else pause_seconds
            continue
        sys.stderr.write(f"watchdog: process {pid} has not moved for {limit:g} seconds: its stacks, then kill -9\n")
        os.kill(pid, signal.SIGUSR2)
        time.sleep(STACKS_SECONDS)
        os.kill(pid, signal.SIGKILL)
        return


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank; this process ends with its input
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
