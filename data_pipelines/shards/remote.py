"""A folder of shards far away, read through the host's cache in blocks.

Blocks of 8 MiB and not whole shards: the first sample of a shard waits for one block, not for all of it; many are
fetched at a time; a lost connection loses one; a host that reads a part of a shard (one of many, or large samples) does
not pay for the rest; and a small cache still works. A shard of one block is checked by its SHA-256 when it arrives, as
tables are; blocks of larger ones by their size, and every sample that is read by its CRC-32, which its table vouches
for. Wrong bytes are dropped from the cache and asked for once more.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data_pipelines.shards.cache import BlockCache, default_cache
from data_pipelines.shards.download import Downloads, RequestLimits, WrongAnswerError
from data_pipelines.shards.index import ShardEntry
from data_pipelines.shards.read_ahead import ReadAhead
from data_pipelines.shards.storage import MAX_OPEN_FILES, Folder, OpenFile, make_room, map_file

BLOCK_BYTES = 8 << 20
TOUCH_SECONDS = 30.0
"""Between two notes in the cache that an open block is in use."""
SPLITS = ("test", "train", "validation")
"""Looked for where folders cannot be listed."""


class RemoteStorage:
    """See `Storage`."""

    def __init__(self, folder: str, cache: BlockCache | None = None, limits: RequestLimits | None = None) -> None:
        self.folder: Folder = folder
        self._address = folder
        self._cache = cache or default_cache()
        self._downloads = Downloads(folder, limits or RequestLimits())
        self._open: OrderedDict[tuple[str, int], tuple[OpenFile, float]] = OrderedDict()
        self._ahead = ReadAhead()

    def read_file(self, file: str) -> bytes:
        return self._downloads.whole(file)

    def read_table(self, shard: ShardEntry) -> bytes | mmap.mmap:
        key = self._key(shard.table_file, shard.table_sha256, 0)
        download = partial(self._downloads.whole, shard.table_file, partial(_check_hash, shard.table_sha256))
        for _ in range(2):
            file = self._cache.open(key, None, download)
            if file is None:
                break
            content = map_file(file.descriptor)
            if hashlib.sha256(content).hexdigest() == shard.table_sha256:
                return content
            self._cache.forget(key)
        return download()

    def read_range(self, shard: ShardEntry, offset: int, size: int) -> bytes:
        pieces = [self._read_block(shard, *piece) for piece in _pieces(shard, offset, size)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fetch_ahead(self, shard: ShardEntry, offset: int, size: int) -> None:
        for block, _, _ in _pieces(shard, offset, size):
            key = self._block_key(shard, block)
            if self._cache.is_on() and not self._cache.has(key):
                self._ahead.ask(key, partial(self._cached_block, shard, block))

    def in_background(self, name: str, job: Callable[[], object]) -> None:
        if self._cache.is_on():
            self._ahead.ask(name, job)

    def forget(self, shard: ShardEntry, offset: int, size: int) -> bool:
        for block, _, _ in _pieces(shard, offset, size):
            self._open.pop((shard.file, block), None)
            self._cache.forget(self._block_key(shard, block))
        return True

    @contextmanager
    def local_copy(self, file: str) -> Iterator[Path]:
        size = self._downloads.size_bytes(file)
        with tempfile.NamedTemporaryFile(suffix=".tar") as copy:
            for offset in range(0, size, BLOCK_BYTES):
                copy.write(self._downloads.part(file, offset, min(BLOCK_BYTES, size - offset)))
            copy.flush()
            yield Path(copy.name)

    def files(self) -> list[str]:
        return [] if self._is_web else self._downloads.names()

    def subfolders(self) -> list[str]:
        return list(SPLITS) if self._is_web else self._downloads.names()

    @property
    def _is_web(self) -> bool:
        return self._address.startswith(("http://", "https://"))

    def close(self) -> None:
        self._open.clear()

    def _read_block(self, shard: ShardEntry, block: int, start: int, size: int) -> bytes:
        place, now = (shard.file, block), time.monotonic()
        file, touched = self._open.get(place) or (None, now)
        if file is None:
            file = self._cached_block(shard, block)
            if file is None:
                return self._downloads.part(shard.file, block * BLOCK_BYTES + start, size)
            self._drop_evicted()
            make_room(self._open, MAX_OPEN_FILES)
            self._open[place] = (file, now)
        elif now - touched > TOUCH_SECONDS:
            self._cache.has(self._block_key(shard, block))
            self._open[place] = (file, now)
        return os.pread(file.descriptor, size, start)

    def _cached_block(self, shard: ShardEntry, block: int) -> OpenFile | None:
        offset = block * BLOCK_BYTES
        size = min(BLOCK_BYTES, shard.size_bytes - offset)
        check = partial(_check_hash, shard.sha256) if size == shard.size_bytes else len
        download = partial(self._downloads.part, shard.file, offset, size, check)
        return self._cache.open(self._block_key(shard, block), size, download)

    def _drop_evicted(self) -> None:
        """A descriptor of a removed block holds its space on the disk."""
        for place, (file, _) in list(self._open.items()):
            if os.fstat(file.descriptor).st_nlink == 0:
                self._open.pop(place, None)

    def _block_key(self, shard: ShardEntry, block: int) -> str:
        return self._key(shard.file, shard.sha256, block)

    def _key(self, file: str, sha256: str, block: int) -> str:
        """A name in the cache: data of another address or made anew never meets it, nothing in it can be a path."""
        name = f"{self._address}/{file} {sha256} {BLOCK_BYTES} {block}"
        return hashlib.sha256(name.encode()).hexdigest()


def _pieces(shard: ShardEntry, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(block, first byte in it, bytes) of a range, up to the end of the shard."""
    stop = min(offset + size, shard.size_bytes)
    while offset < stop:
        block, start = divmod(offset, BLOCK_BYTES)
        length = min(stop - offset, BLOCK_BYTES - start)
        yield block, start, length
        offset += length


def _check_hash(sha256: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WrongAnswerError("its SHA-256 is not the one in the manifest, bytes changed")
