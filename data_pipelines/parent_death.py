"""Processes that do not outlive the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Has this process, started by multiprocessing, killed when its parent ends."""
    parent = multiprocessing.parent_process()
    signal_with_parent(signal.SIGKILL, parent.pid if parent is not None and parent.pid else os.getppid())


def signal_with_parent(number: signal.Signals, parent: int) -> None:
    """Has this process sent a signal when `parent`, which must have started it, ends. Does nothing where the system has
    no such wish (outside Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the wish was heard
        os._exit(1)
