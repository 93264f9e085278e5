"""One writer at a time. The kernel holds the lock for the process and gives it back when that ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from unimodel.errors import RunError

_FLOCK = "@hhqqi0q"
"""C's `struct flock` on 64-bit Linux: type, whence, start, length, process."""
_held: dict[Path, int] = {}
"""The process that has locked a path: POSIX locks do not tell a process from itself, and a forked one inherits none."""


class WriterLock:
    """Holds the file `path` until `release`. Raises RunError naming the process that has it."""

    def __init__(self, path: Path) -> None:
        self._path, self._pid = path.resolve(), os.getpid()
        if _held.get(self._path) == self._pid:
            raise RunError(f"{path.parent} is open for writing in this process already ({self._pid}): close that first")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise RunError(f"{path.parent} is open for writing in process {holder}: stop it, or only read") from None
        _held[self._path] = self._pid

    def require(self) -> None:
        """Raises RunError in a process that was forked from the holder."""
        if os.getpid() != self._pid:
            raise RunError(f"{self._path.parent} is open for writing in process {self._pid}, not in this copy of it")

    def release(self) -> None:
        if os.getpid() == self._pid:
            _held.pop(self._path, None)
        os.close(self._descriptor)


def lock_holder(path: Path) -> int | None:
    """The process that holds the file `path`, if one does."""
    if _held.get(path.resolve()) == os.getpid():  # to open and close it here would give the lock back
        return os.getpid()
    if not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else pid
