"""Memories of moments of a world's past, so that opening it need not read all of it again.

Nothing depends on them: what a model remembers follows from the log. The further back, the fewer are kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from data_pipelines.shards.atomic import publish, remove_partials
from unimodel.memory.state import State, from_bytes, to_bytes
from unimodel.world.sessions.log import SnapshotRow, WorldLog, read_snapshots
from unimodel.world.sessions.past import Past, Tick

FOLDER = "memory"
log = logging.getLogger("unimodel.world")


class Snapshots:
    """Of the world in `folder`. One thread at a time."""

    def __init__(self, folder: Path, written: WorldLog) -> None:
        self._folder, self._log = folder / FOLDER, written
        self._folder.mkdir(exist_ok=True)
        remove_partials(self._folder)

    def save(self, tick: int, lived: Tick, memory: State) -> None:
        """Keeps what is remembered at the moment of a tick that was lived. A full disk only means that less is kept."""
        content = save(to_bytes(memory))
        known = self._log.snapshots()
        newest = 1 + max([-1, *(row.number for row in known)])
        dropped = [row for row in known if not is_kept(row.number, newest)]
        try:
            publish(file_of(self._folder, tick), content)
            row = SnapshotRow(newest, tick, lived.entry, lived.crc32, hashlib.sha256(content).hexdigest())
            self._log.put_snapshot(row, [row.number for row in dropped])
        except OSError as error:
            log.warning("what the world remembers was not kept beside its log (it follows from it): %s", error)
            return
        for row in dropped:
            file_of(self._folder, row.tick).unlink(missing_ok=True)

    def newest(self, past: Past, like: State) -> tuple[int, State] | None:
        """The last whole memory of this very past, and its tick."""
        for row in fitting(self._log.snapshots(), past, past.tick):
            try:
                return row.tick, from_bytes(load(content_of(self._folder, row)), like)
            except (OSError, ValueError, SafetensorError) as error:
                log.warning("the memory of tick %d is not used (%s): an older one, or the log, is", row.tick, error)
        return None

    def prune(self) -> None:
        """Removes files that the log does not name."""
        named = {file_of(self._folder, row.tick) for row in self._log.snapshots()}
        for file in self._folder.glob("*.safetensors"):
            if file not in named:
                file.unlink(missing_ok=True)


def copy_newest(folder: Path, past: Past, other: Path, branch: Past) -> None:
    """Gives a branch in `other`, which has the past of the world in `folder` up to its own last tick, the newest whole
    memory of that time. Raises OSError."""
    for row in fitting(read_snapshots(folder), past, branch.tick):
        try:
            content = content_of(folder / FOLDER, row)
        except (OSError, ValueError):
            continue
        publish(file_of(other / FOLDER, row.tick), content)
        at = branch.at(row.tick)
        written = WorldLog(other, branch.last)
        written.put_snapshot(SnapshotRow(0, row.tick, at.entry, at.crc32, row.sha256))
        written.close()
        return


def fitting(rows: Sequence[SnapshotRow], past: Past, tick: int) -> list[SnapshotRow]:
    """Those of this very past up to `tick`, the newest first."""
    held = [row for row in rows if row.tick <= min(tick, past.tick)]
    own = [row for row in held if (past.at(row.tick).entry, past.at(row.tick).crc32) == (row.entry, row.crc32)]
    return own[::-1]


def content_of(folder: Path, row: SnapshotRow) -> bytes:
    """Raises OSError for a file that cannot be read, ValueError for one that is not as it was written."""
    content = file_of(folder, row.tick).read_bytes()
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise ValueError("its SHA-256 differs from the one in the log")
    return content


def file_of(folder: Path, tick: int) -> Path:
    """Where the memory of a tick lies."""
    return folder / f"{tick:010d}.safetensors"


def is_kept(number: int, newest: int) -> bool:
    """Whether snapshot `number` stays when `newest` comes: of those so many back, one of every power of two."""
    return number % (1 << max(0, (newest - number).bit_length() - 2)) == 0
