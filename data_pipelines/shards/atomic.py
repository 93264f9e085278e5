"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file opened beside `path` that takes its name, fsynced, when the block ends well and vanishes when it does not.

    Raises OSError naming `path` when the disk is full. After a kill -9 a `.NAME.PID.partial` is left, which nothing
    reads and the next recording into the folder removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "no space left on the disk: free some and run the same command again; finished files are kept"
            raise OSError(error.errno, advice, str(path)) from None
        raise
    _sync_folder(path.parent)


def publish(path: Path, content: bytes) -> None:
    """Writes a whole small file atomically."""
    with atomic_file(path) as file:
        file.write(content)


def remove_partials(folder: Path) -> None:
    """Removes what writers killed in `folder` left behind."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
