"""Copies of checkpoints far away: s3://bucket/folder, or any address that fsspec writes.

A checkpoint's state goes last, so one that has it is whole; its files are then checked by their hashes as on a disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from unimodel.training.checkpoint import STATE, expired, newest_first


class CheckpointStore:
    """Checkpoints at an address. Methods raise OSError for a store that cannot be reached."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._root = fsspec.core.url_to_fs(self.address, skip_instance_cache=True)

    def names(self) -> list[str]:
        """Whole checkpoints, newest first."""
        with _told_as_os_errors():
            self._files.invalidate_cache()
            if not self._files.exists(self._root):
                return []
            names = [path.rstrip("/").rsplit("/", 1)[1] for path in self._files.ls(self._root, detail=False)]
            return newest_first(name for name in names if self._files.exists(f"{self._root}/{name}/{STATE}"))

    def upload(self, folder: Path) -> None:
        """Copies a published checkpoint."""
        there = f"{self._root}/{folder.name}"
        with _told_as_os_errors():
            self._files.makedirs(there, exist_ok=True)
            for file in sorted(folder.iterdir(), key=lambda path: path.name == STATE):
                self._files.put_file(str(file), f"{there}/{file.name}")

    def prune(self, stage: str, keep_last: int, keep_every_steps: int | None) -> None:
        """Deletes what would be deleted on a disk."""
        for name in expired(self.names(), stage, keep_last, keep_every_steps):
            with _told_as_os_errors():
                self._files.rm_file(f"{self._root}/{name}/{STATE}")  # no longer whole from here on
                self._files.rm(f"{self._root}/{name}", recursive=True)

    def download_newer(self, folder: Path, newest_here: str | None) -> Path | None:
        """Brings the newest checkpoint into `folder` if it is newer than `newest_here`; returns where it lies."""
        names = self.names()
        if not names or (newest_here is not None and newest_first([names[0], newest_here])[0] == newest_here):
            return None
        published, hidden = folder / names[0], folder / f".{names[0]}.download.tmp"
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        with _told_as_os_errors():
            for path in self._files.ls(f"{self._root}/{names[0]}", detail=False):
                self._files.get_file(path, str(hidden / path.rsplit("/", 1)[1]))
        hidden.rename(published)
        return published


@contextmanager
def _told_as_os_errors() -> Iterator[None]:
    """Every kind of store has exceptions of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from None
