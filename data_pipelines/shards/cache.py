"""A bounded folder of downloaded blocks, shared by all processes of a host.

    blocks/ab/ab12...    one block; modification time: last use
    locks/ab1            held while a block whose name begins so is downloaded
    locks/usage          held while a block is written, made room for or counted; holds the bytes of all blocks

Only flock is used, which the kernel lets go of when a process dies. A block is written beside and renamed; one that is
unlinked while it is read stays readable through its descriptor. Nothing is fsynced: after a power cut a block of the
wrong size is dropped when opened, and wrong bytes are found by the checks of whoever reads them (`forget`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipelines.shards.atomic import PARTIAL_SUFFIX
from data_pipelines.shards.storage import OpenFile

_LOG = logging.getLogger(__name__)
FOLDER_VARIABLE, LIMIT_VARIABLE = "UNIMODEL_CACHE", "UNIMODEL_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 32 << 30
KEPT_FRACTION = 0.9
"""Of the limit that eviction leaves, so that not every block needs one."""
WAIT_SECONDS = 120.0
"""For another process's download of the same block; then it is read without the cache."""
POLL_SECONDS = 0.05
OFF_SECONDS = 60.0
"""Before a cache folder that could not be written is tried again."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class BlockCache:
    """Blocks by key (hexadecimal text), together at most `limit_bytes`; 0 keeps none."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self._off_until = 0.0
        self._has_warned = False

    def __reduce__(self) -> tuple[type[BlockCache], tuple[Path, int]]:
        return BlockCache, (self.folder, self.limit_bytes)

    def open(self, key: str, size: int | None, download: Callable[[], bytes]) -> OpenFile | None:
        """The block, downloaded by one process while others wait; None when the cache cannot keep it, which is told
        once. `size` in bytes when known. Raises what `download` raises."""
        if not self._is_on(size or 0):
            return None
        path = self._path(key)
        file = _opened(path, size)
        if file is not None:
            return file
        with self._locked(key[:3]) as is_locked:
            if not is_locked:
                return None
            file = _opened(path, size)
            if file is None:
                self._store(path, download())
                file = _opened(path, size)
        return file

    def has(self, key: str) -> bool:
        """Whether the block is there; counts as a use of it."""
        try:
            os.utime(self._path(key))
        except OSError:
            return False
        return True

    def forget(self, key: str) -> None:
        """Removes a block whose bytes are wrong."""
        with suppress(OSError):  # gone already, or a folder that cannot be written: then it is not used either
            self._path(key).unlink()

    def is_on(self) -> bool:
        """Whether blocks are kept just now."""
        return self._is_on(0)

    def _is_on(self, size: int) -> bool:
        if size > self.limit_bytes > 0:
            self._warn(
                f"its limit of {self.limit_bytes:,} bytes ({LIMIT_VARIABLE}) is less than one block of {size:,} bytes"
            )
        return max(size, 1) <= self.limit_bytes and time.monotonic() >= self._off_until

    def _path(self, key: str) -> Path:
        return self.folder / "blocks" / key[:2] / key

    def _store(self, path: Path, content: bytes) -> None:
        """Publishes a block, or switches the cache off for a while."""
        try:
            with self._locked("usage") as is_locked:
                if is_locked and len(content) <= self.limit_bytes:
                    self._make_room_and_write(path, content)
        except FileNotFoundError:  # evicted by a process with a smaller limit
            return
        except OSError as error:
            self._switch_off(error)

    def _make_room_and_write(self, path: Path, content: bytes) -> None:
        used, size = self._used_bytes(), len(content)
        if used + size > self.limit_bytes:
            used = self._evict(min(int(KEPT_FRACTION * self.limit_bytes), self.limit_bytes - size))
        try:
            _write(path, content)
        except OSError as error:
            if error.errno not in FULL:
                raise
            used = self._evict(int(KEPT_FRACTION * used) - size)  # the disk is smaller than the limit
            _write(path, content)
        self._set_used_bytes(used + size)

    def _evict(self, target_bytes: int) -> int:
        """Removes what was used longest ago until `target_bytes` are left; returns what is left."""
        blocks = sorted(_blocks(self.folder))
        used = sum(size for _, size, _ in blocks)
        for _, size, path in blocks:
            if used <= target_bytes:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        self._set_used_bytes(used)
        return used

    def _used_bytes(self) -> int:
        text = (self.folder / "locks" / "usage").read_text()
        return int(text) if text.strip().isdigit() else self._evict(self.limit_bytes)

    def _set_used_bytes(self, used: int) -> None:
        # In place and of one length: this needs no space on a full disk.
        with (self.folder / "locks" / "usage").open("r+") as file:
            file.write(f"{used:020d}")

    @contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        """Holds a lock; yields whether it was got in time."""
        descriptor = self._lock_file(name)
        if descriptor is None:
            yield False
            return
        try:
            yield _lock(descriptor)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile has this descriptor too
            os.close(descriptor)

    def _lock_file(self, name: str) -> int | None:
        path = self.folder / "locks" / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._switch_off(error)
            return None

    def _switch_off(self, error: OSError) -> None:
        self._off_until = time.monotonic() + OFF_SECONDS
        self._warn(f"it cannot be written ({error.strerror or error})")

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "cache %s: %s. Reading goes on without it, slower: free space, or set %s to another folder",
                self.folder,
                why,
                FOLDER_VARIABLE,
            )


def default_cache() -> BlockCache:
    """The cache of this host, as the environment says. Raises ValueError when it says no number."""
    folder = os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "unimodel" / "shards"
    limit = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_BYTES)
    if not limit.isdigit():
        raise ValueError(f"{LIMIT_VARIABLE}={limit}: it must be a whole number of bytes, 0 for no cache")
    return BlockCache(Path(folder), int(limit))


def _opened(path: Path, size: int | None) -> OpenFile | None:
    try:
        file = OpenFile(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if size is not None and os.fstat(file.descriptor).st_size != size:
        path.unlink(missing_ok=True)
        return None
    with suppress(OSError):  # a read-only cache: its blocks are used, their age is not kept
        os.utime(file.descriptor)
    return file


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _lock(descriptor: int) -> bool:
    deadline, pause = time.monotonic() + WAIT_SECONDS, POLL_SECONDS / 16
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)


def _blocks(folder: Path) -> Iterator[tuple[int, int, str]]:
    """(last use, bytes, path) of every block, left-overs of killed writers included."""
    for within in (folder / "blocks").glob("*"):
        with os.scandir(within) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_mtime_ns, status.st_size, entry.path
