"""Where a folder of shards lies: on this machine (a Path), or at an address that fsspec reads (a str, s3:// https:// hf://)."""

from __future__ import annotations

import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from data_pipelines.shards.cache import BlockCache
    from data_pipelines.shards.index import ShardEntry

Folder = Path | str
"""A local folder, or the address of a remote one."""

MAX_OPEN_FILES = 128
"""Descriptors kept by one reader, far below the usual limit of 1,024 files per process."""

ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]+:/")
DAMAGED = "run `unimodel data verify DIR` to list all damage, delete that shard and run `unimodel data record CONFIG`"


class StorageError(OSError):
    """A remote folder cannot be read, now or ever: nothing is wrong with a sample."""


class Storage(Protocol):
    """Reads the files of one folder. Every method raises FileNotFoundError for a missing file, ValueError for a damaged
    one and, from afar, PermissionError or StorageError."""

    folder: Folder

    def read_file(self, file: str) -> bytes:
        """A whole small file."""
        ...

    def read_table(self, shard: ShardEntry) -> bytes | mmap.mmap:
        """The table of a shard; its hash is for the caller to check."""
        ...

    def read_range(self, shard: ShardEntry, offset: int, size: int) -> bytes:
        """Bytes of a shard; fewer where it ends."""
        ...

    def fetch_ahead(self, shard: ShardEntry, offset: int, size: int) -> None:
        """Brings bytes of a shard near, in the background; costs nothing where they are."""
        ...

    def in_background(self, name: str, job: Callable[[], object]) -> None:
        """Runs a job that makes things ready, unless one of this name waits."""
        ...

    def forget(self, shard: ShardEntry, offset: int, size: int) -> bool:
        """Drops copies of these bytes, which are wrong. Whether reading them again may help."""
        ...

    def local_copy(self, file: str) -> AbstractContextManager[Path]:
        """A whole file on this machine, read anew and as it is, for as long as the block lasts."""
        ...

    def subfolders(self) -> list[str]:
        """Names of folders within, some of which may not exist where they cannot be listed."""
        ...

    def files(self) -> list[str]:
        """Names of files within; none where they cannot be listed."""
        ...

    def close(self) -> None:
        """Lets go of open files; reading again opens them again."""
        ...


def as_folder(folder: Folder) -> Folder:
    """A Path for what is on this machine (`file://` too), the address without a trailing slash for all else.

    Raises ValueError for an address with a password, a query or a chain of protocols, or one that went through Path.
    """
    if isinstance(folder, Path):
        if ADDRESS.match(str(folder)):
            raise ValueError(f"{folder} was an address and lost a slash in Path: pass it as text")
        return folder
    if not isinstance(folder, str):
        raise ValueError("a folder or an address is text")
    if "://" not in folder:
        return Path(folder)
    parts = urlsplit(folder)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "::" in folder or not ADDRESS.match(folder):
        raise ValueError(f"{parts.scheme or folder}: an address is one protocol, as in s3://bucket/folder")
    if "@" in parts.netloc:
        raise ValueError(
            f"an address must not hold a name or password ({parts.scheme}://...@{parts.netloc.rsplit('@', 1)[1]}): "
            "give them by environment variables or the store's own settings file"
        )
    if parts.query or parts.fragment:
        where = f"{parts.scheme}://{parts.netloc}{parts.path}"
        raise ValueError(f"{where}: an address of a folder has no query or fragment (? or #)")
    return folder.rstrip("/")


def join(folder: Folder, name: str) -> Folder:
    """The file or folder `name` within."""
    return folder / name if isinstance(folder, Path) else f"{folder}/{name}"


def local_folder(folder: Folder) -> Path:
    """For writers. Raises ValueError for an address."""
    folder = as_folder(folder)
    if isinstance(folder, str):
        raise ValueError(f"{folder} is an address: data is written to a local folder; write it there and upload it")
    return folder


def open_storage(folder: Folder, cache: BlockCache | None = None) -> Storage:
    """The files of `folder`. `cache` keeps what came from afar, the host's own one when not given."""
    folder = as_folder(folder)
    if isinstance(folder, Path):
        return LocalStorage(folder)
    from data_pipelines.shards.remote import RemoteStorage

    return RemoteStorage(folder, cache)


class LocalStorage:
    """Positioned reads on kept descriptors, tables mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder: Folder = folder
        self._path = folder
        self._open: OrderedDict[str, OpenFile] = OrderedDict()

    def read_file(self, file: str) -> bytes:
        return (self._path / file).read_bytes()

    def read_table(self, shard: ShardEntry) -> bytes | mmap.mmap:
        with (self._path / shard.table_file).open("rb") as file:
            return map_file(file.fileno())

    def read_range(self, shard: ShardEntry, offset: int, size: int) -> bytes:
        file = self._open.get(shard.file)
        if file is None:
            file = self._opened(shard.file)
            make_room(self._open, MAX_OPEN_FILES)
            self._open[shard.file] = file
        return os.pread(file.descriptor, size, offset)

    def _opened(self, file: str) -> OpenFile:
        try:
            return OpenFile(self._path / file)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self._path / file} is in the index but missing: {DAMAGED}") from None

    def fetch_ahead(self, shard: ShardEntry, offset: int, size: int) -> None:
        del shard, offset, size

    def in_background(self, name: str, job: Callable[[], object]) -> None:
        del name, job

    def forget(self, shard: ShardEntry, offset: int, size: int) -> bool:
        del shard, offset, size
        return False

    @contextmanager
    def local_copy(self, file: str) -> Iterator[Path]:
        path = self._path / file
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        yield path

    def files(self) -> list[str]:
        return sorted(path.name for path in self._path.iterdir() if path.is_file())

    def subfolders(self) -> list[str]:
        return sorted(path.name for path in self._path.iterdir() if path.is_dir()) if self._path.is_dir() else []

    def close(self) -> None:
        self._open.clear()


class OpenFile:
    """A descriptor that closes when its last user lets go: evicting it never pulls it from under a reading thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def map_file(descriptor: int) -> bytes | mmap.mmap:
    """A whole file, mapped into memory; an empty one cannot be mapped."""
    if not os.fstat(descriptor).st_size:
        return b""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def make_room(opened: OrderedDict, limit: int) -> None:
    """Lets the oldest go until one more fits."""
    while len(opened) >= limit:
        with suppress(KeyError):  # another thread was faster
            opened.popitem(last=False)
