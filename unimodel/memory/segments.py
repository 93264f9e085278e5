"""Files of records. A segment is three of them, which only ever grow, up to a size, and are never changed after:

`NUMBER.rows`                 what a record is (`ROW`), of fixed size
`NUMBER.tokens`               its tokens, action and text
`NUMBER-GENERATION.keys`      its key; a model that changes writes a new generation beside the old one

How much of a file counts is in the manifest: bytes after that were never committed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unimodel.memory.record import (
    ROW,
    UNSTORED,
    Encoded,
    Record,
    StoreSettings,
    decode,
    is_key_intact,
    is_row_intact,
    largest_norm,
    payload_bytes,
    record_bytes,
    row_checksum,
)
from unimodel.run_folder import sync_folder

SEGMENTS_FOLDER = "segments"


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What the manifest knows of a segment. `is_open`: the last one, which takes what is appended."""

    number: int
    first_id: int
    rows: int
    payload_bytes: int
    generation: int
    largest_norm: float
    is_open: bool

    @property
    def rows_name(self) -> str:
        return f"{self.number:08d}.rows"

    @property
    def tokens_name(self) -> str:
        return f"{self.number:08d}.tokens"

    @property
    def keys_name(self) -> str:
        return f"{self.number:08d}-{self.generation:04d}.keys"

    @property
    def names(self) -> tuple[str, str, str]:
        return self.rows_name, self.tokens_name, self.keys_name

    def sizes(self, settings: StoreSettings) -> dict[str, int]:
        """Committed bytes by file name."""
        return {
            self.rows_name: self.rows * ROW.itemsize,
            self.tokens_name: self.payload_bytes,
            self.keys_name: self.rows * settings.key_row.itemsize,
        }


@dataclass(frozen=True, slots=True)
class Damage:
    """A record that is not what was written: its id (which may be what is wrong), its place in the segment, the file
    and the byte where it begins there."""

    id: int
    segment: int
    place: int
    file: Path
    offset: int

    def __str__(self) -> str:
        return (
            f"{self.file}: record {self.id} at byte {self.offset} is damaged (its checksum differs). Restore the file "
            "from a copy, or go on without what is damaged: drop_damaged()"
        )


class Segment:
    """The committed rows of one segment, memory-mapped; all that changes is what is forgotten.

    Raises ValueError naming the file when one is missing or ends before its committed rows do.
    """

    def __init__(self, folder: Path, entry: SegmentEntry, settings: StoreSettings, forgotten: np.ndarray) -> None:
        """`forgotten` [f]: places of rows that are."""
        self.entry, self.folder, self._settings = entry, folder, settings
        for name, size in entry.sizes(settings).items():
            _require_size(folder / name, size)
        self.rows = _mapped(folder / entry.rows_name, ROW, entry.rows)
        self.keys = _mapped(folder / entry.keys_name, settings.key_row, entry.rows)
        self._payload = _mapped(folder / entry.tokens_name, np.dtype(np.uint8), entry.payload_bytes)
        self.is_forgotten = np.zeros(entry.rows, bool)
        self.is_forgotten[forgotten] = True
        self._ids: np.ndarray | None = None

    @property
    def live(self) -> np.ndarray:
        """[n] places of the records that are not forgotten."""
        return np.flatnonzero(~self.is_forgotten)

    def forget(self, places: np.ndarray) -> None:
        self.is_forgotten[places] = True
        self._ids = None

    @property
    def has_gaps(self) -> bool:
        """Whether some of its files is forgotten or cut off."""
        sizes = self.entry.sizes(self._settings).items()
        return bool(self.is_forgotten.any()) or any((self.folder / name).stat().st_size > size for name, size in sizes)

    @property
    def ids(self) -> np.ndarray:
        """[n] ascending, as records are only ever appended; a forgotten one, perhaps damaged, repeats its neighbour."""
        if self._ids is None:
            self._ids = np.maximum.accumulate(np.where(self.is_forgotten, UNSTORED, self.rows["id"]))
        return self._ids

    def place(self, id_: int) -> int:
        """Where a record lies; -1 when it is forgotten or not here."""
        place = int(np.searchsorted(self.ids, id_))
        is_here = place < len(self.ids) and self.ids[place] == id_ and not self.is_forgotten[place]
        return place if is_here else -1

    def last_id_until(self, step: int) -> int:
        """The last record of `step` or before that is not forgotten; UNSTORED when there is none."""
        return int(self.ids[~self.is_forgotten & (self.rows["step"] <= step)].max(initial=UNSTORED))

    def live_bytes(self) -> np.ndarray:
        """[n] bytes of each record that is not forgotten."""
        return record_bytes(self.rows[self.live], self._settings)

    def payload_of(self, place: int) -> bytes:
        """Tokens, action and text of a record, as they lie in the file."""
        row = self.rows[place : place + 1]
        start = int(row["offset"][0])
        return self._payload[start : start + int(payload_bytes(row, self._settings)[0])].tobytes()

    def damage(self, place: int) -> Damage | None:
        """What is wrong with a record, if anything."""
        row, key = self.rows[place], self.keys[place]
        if not is_row_intact(row):
            name, offset = self.entry.rows_name, place * ROW.itemsize
        elif zlib.crc32(self.payload_of(place)) != row["payload_crc32"]:
            name, offset = self.entry.tokens_name, int(row["offset"])
        elif not is_key_intact(key):
            name, offset = self.entry.keys_name, place * key.dtype.itemsize
        else:
            return None
        return Damage(int(row["id"]), self.entry.number, place, self.folder / name, offset)

    def check(self, places: Iterable[int]) -> None:
        """Raises ValueError for the first damaged record of `places`."""
        for place in places:
            if damage := self.damage(place):
                raise ValueError(str(damage))

    def record(self, place: int, last_used: int | None) -> Record:
        """Raises ValueError when it is damaged."""
        self.check([place])
        return decode(self.rows[place], self.keys[place], self.payload_of(place), self._settings, last_used)

    def encoded(self) -> Encoded:
        """All that is not forgotten, to be written elsewhere. Raises ValueError when a record of it is damaged."""
        live = self.live
        self.check(live)
        rows = self.rows[live]
        ends = np.cumsum(payload_bytes(rows, self._settings))
        rows["offset"] = np.concatenate([[0], ends[:-1]])
        return Encoded(self.keys[live], rows, b"".join(map(self.payload_of, live)))

    def cut(self, rows: int) -> SegmentEntry:
        """The entry of its first `rows` alone. It is closed: readers may have mapped the rest."""
        last = self.rows[rows - 1 : rows]
        end = int(last["offset"][0]) + int(payload_bytes(last, self._settings)[0])
        return replace(self.entry, rows=rows, payload_bytes=min(end, self.entry.payload_bytes), is_open=False)


class Write(NamedTuple):
    """Bytes for a file that is `offset` bytes long so far; 0 for a new one."""

    path: Path
    offset: int
    data: bytes


def lay_out(
    encoded: Encoded, tail: SegmentEntry | None, number: int, generation: int, folder: Path, settings: StoreSettings
) -> tuple[list[SegmentEntry], list[Write]]:
    """What to write so that `encoded` follows `tail`, in it while there is room and then in new segments from `number`
    on; and the entries of those that changed."""
    entries, writes, start = list[SegmentEntry](), list[Write](), 0
    while start < len(encoded.rows):
        if tail is None or not tail.is_open:
            tail = SegmentEntry(number, int(encoded.rows["id"][start]), 0, 0, generation, 0.0, is_open=True)
            number += 1
        part = encoded.part(start, start + settings.segment_rows - tail.rows)
        rows = part.rows.copy()
        rows["offset"] = rows["offset"] - rows["offset"][0] + tail.payload_bytes
        rows["crc32"] = [row_checksum(row) for row in rows]
        pieces = dict(zip(tail.names, (rows.tobytes(), part.payload, part.keys.tobytes()), strict=True))
        writes += [Write(folder / name, size, pieces[name]) for name, size in tail.sizes(settings).items()]
        tail = replace(
            tail,
            rows=tail.rows + len(rows),
            payload_bytes=tail.payload_bytes + len(part.payload),
            largest_norm=max(tail.largest_norm, largest_norm(part.keys)),
            is_open=tail.rows + len(rows) < settings.segment_rows,
        )
        entries.append(tail)
        start += len(rows)
    return entries, writes


def write_synced(writes: Sequence[Write], threads: Executor) -> None:
    """Returns when all are on the disk; files are synced together, which is several times as fast as one by one.

    Raises OSError naming the file when the disk is full, with every file as long as it was.
    """
    running = [threads.submit(_write_synced, write) for write in writes]
    try:
        for write in running:
            write.result()
        for folder in {write.path.parent for write in writes if write.offset == 0}:
            sync_folder(folder)
    except BaseException:
        wait(running)
        _take_back(writes)
        raise


def _take_back(writes: Sequence[Write]) -> None:
    """Gives the room of uncommitted bytes back to the disk."""
    for write in writes:
        with contextlib.suppress(OSError):  # the next one that opens the store tries again
            if write.offset:
                os.truncate(write.path, write.offset)
            else:
                write.path.unlink()


def remove_uncommitted(folder: Path, entries: Sequence[SegmentEntry], settings: StoreSettings) -> None:
    """Cuts the open segment to its committed size and removes files that no entry names: what a killed writer left.

    Raises ValueError when a file is shorter than that.
    """
    sizes = {name: size for entry in entries for name, size in entry.sizes(settings).items()}
    for path in folder.iterdir():
        if path.name not in sizes:
            path.unlink()
    for entry in entries:
        for name, size in entry.sizes(settings).items():
            _require_size(folder / name, size)
            if entry.is_open:
                os.truncate(folder / name, size)


def _write_synced(write: Write) -> None:
    try:
        descriptor = os.open(write.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            left, offset = memoryview(write.data), write.offset
            while left:
                written = os.pwrite(descriptor, left, offset)
                left, offset = left[written:], offset + written
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, write.path) from error


def disk_error(error: OSError, path: Path) -> OSError:
    """The same error, with what became of the records and what to do."""
    kept = "nothing of this change was stored, all that was committed before is kept"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kept = f"no room on the disk: {kept}. Free some and go on"
    return OSError(error.errno, f"{kept} ({error.strerror})", str(path))


def _require_size(path: Path, size: int) -> None:
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: bring it back from a copy of the store") from None
    if actual < size:
        raise ValueError(
            f"{path} ends at byte {actual}, but {size} bytes were committed: bring it back from a copy of the store"
        )


def _mapped(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
    """Read only in effect: what is written to the array never reaches the file (torch wants writable memory)."""
    if length == 0:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="c", shape=(length,)))  # a plain array is quicker to index
