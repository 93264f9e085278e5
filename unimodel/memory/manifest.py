"""What is committed: which segments there are, how long each is, what is forgotten, when what was used.

One SQLite file in WAL mode. A change of the store is one transaction here, made after its bytes are on the disk, so a
process that is killed leaves the store before the change or after it. SQLite checks none of its pages, so the rows that
say where records lie carry a checksum.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unimodel.memory.record import StoreSettings
from unimodel.memory.segments import SegmentEntry, disk_error

MANIFEST_FILE = "manifest.sqlite"
FORMAT = 1
_WAIT_SECONDS = 30
_SCHEMA = """
CREATE TABLE state (only_row INTEGER PRIMARY KEY, value TEXT NOT NULL, crc32 INTEGER NOT NULL);
CREATE TABLE segments (number INTEGER PRIMARY KEY, value TEXT NOT NULL, crc32 INTEGER NOT NULL);
CREATE TABLE forgotten (segment INTEGER, place INTEGER, PRIMARY KEY (segment, place)) WITHOUT ROWID;
CREATE TABLE used (id INTEGER PRIMARY KEY, step INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class State:
    """The store at one commit: its settings, the id and the segment number that come next, and a number for the next
    generation of keys. Numbers are never given twice; ids are, after a rewind."""

    settings: StoreSettings
    next_id: int = 0
    next_segment: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a reader needs, of one commit. `forgotten` holds places by segment number."""

    state: State
    entries: list[SegmentEntry]
    forgotten: dict[int, np.ndarray]


class Manifest:
    """The open file `path`, which must be there.

    Every method raises ValueError when the file is damaged, OSError when the disk is full or fails.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        with self._explained():
            self._connection = _connect(path, "ro" if read_only else "rw")
            if not read_only:
                self._connection.execute("PRAGMA synchronous=FULL")

    @staticmethod
    def create(folder: Path, settings: StoreSettings) -> None:
        """An empty store's manifest. Killed in between, it leaves a file for which `is_created` is False."""
        for left in folder.glob(f"{MANIFEST_FILE}*"):
            left.unlink()
        connection = _connect(folder / MANIFEST_FILE, "rwc")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        manifest = Manifest(folder / MANIFEST_FILE, read_only=False)
        with manifest.transaction():
            for statement in _SCHEMA.split(";"):
                manifest._connection.execute(statement)
            manifest.put_state(State(settings))
        manifest.close()

    @property
    def is_created(self) -> bool:
        with self._explained():
            return bool(self._connection.execute("SELECT 1 FROM sqlite_master WHERE name='state'").fetchall())

    @contextmanager
    def transaction(self, *, is_durable: bool = True) -> Iterator[None]:
        """All of the block or nothing. What is not durable survives a kill but perhaps not a power cut: no wait."""
        with self._explained():
            self._connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def snapshot(self) -> Snapshot:
        """Raises ValueError for a row that is damaged."""
        with self._explained():
            self._connection.execute("BEGIN")
            try:
                state = self._checked("SELECT only_row, value, crc32 FROM state")
                segments = self._checked("SELECT number, value, crc32 FROM segments")
                forgotten = self._connection.execute("SELECT segment, place FROM forgotten").fetchall()
            finally:
                self._connection.execute("ROLLBACK")
        if len(state) != 1:
            raise ValueError(f"{self.path} has lost the state of the store: bring it back from a copy")
        if state[0].pop("format") != FORMAT:
            raise ValueError(f"{self.path} is of another version of unimodel: it reads stores of format {FORMAT}")
        state[0]["settings"] = StoreSettings(**state[0]["settings"])
        entries = sorted((SegmentEntry(**values) for values in segments), key=lambda entry: entry.first_id)
        pairs = np.array(forgotten, np.int64).reshape(-1, 2)
        places = {int(number): pairs[pairs[:, 0] == number, 1] for number in np.unique(pairs[:, 0])}
        return Snapshot(State(**state[0]), entries, places)

    def put_state(self, state: State) -> None:
        value = {"format": FORMAT, **asdict(state)}
        self._put("state", 0, value)

    def put_segment(self, entry: SegmentEntry) -> None:
        self._put("segments", entry.number, asdict(entry))

    def drop_segment(self, number: int) -> None:
        self._connection.execute("DELETE FROM segments WHERE number=?", (number,))
        self._connection.execute("DELETE FROM forgotten WHERE segment=?", (number,))

    def forget(self, segment: int, places: Iterable[int]) -> None:
        pairs = ((segment, int(place)) for place in places)
        self._connection.executemany("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", pairs)

    def unforget(self, segment: int, first_place: int) -> None:
        """Of places that are cut off."""
        self._connection.execute("DELETE FROM forgotten WHERE segment=? AND place>=?", (segment, first_place))

    def mark_used(self, ids: Iterable[int], step: int) -> None:
        pairs = ((int(id_), step) for id_ in ids)
        self._connection.executemany("INSERT OR REPLACE INTO used VALUES (?, ?)", pairs)

    def unmark_used(self, ids: Iterable[int]) -> None:
        self._connection.executemany("DELETE FROM used WHERE id=?", ((int(id_),) for id_ in ids))

    def rewind_used(self, next_id: int, last_step: int | None) -> None:
        """No record after `next_id` was used, and none later than `last_step`."""
        self._connection.execute("DELETE FROM used WHERE id>=?", (next_id,))
        if last_step is not None:
            self._connection.execute("UPDATE used SET step=? WHERE step>?", (last_step, last_step))

    def last_used(self, ids: Iterable[int]) -> list[int | None]:
        """In the order of `ids`; None for those never used."""
        with self._explained():
            rows = (self._connection.execute("SELECT step FROM used WHERE id=?", (int(id_),)) for id_ in ids)
            return [next((step for (step,) in row), None) for row in rows]

    def all_used(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] ids, ascending, and the steps of their last use."""
        with self._explained():
            pairs = self._connection.execute("SELECT id, step FROM used ORDER BY id").fetchall()
        ids, steps = np.array(pairs, np.int64).reshape(-1, 2).T
        return ids, steps

    def settle(self) -> None:
        """After a failed commit: leaves nothing in the log that a later opening could take for committed."""
        with self._explained():
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise OSError(errno.EBUSY, "a reader is in the way after a failed change: try again", str(self.path))

    def copy_to(self, path: Path) -> None:
        """A whole manifest of the last commit, on the disk when this returns."""
        with self._explained():
            copy = _connect(path, "rwc")
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode=WAL")
            copy.close()

    def close(self) -> None:
        self._connection.close()

    def _put(self, table: str, number: int, value: dict) -> None:
        text = json.dumps(value)
        row = (number, text, _checksum(number, text))
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", row)

    def _checked(self, query: str) -> list[dict]:
        rows = self._connection.execute(query).fetchall()
        for number, text, crc32 in rows:
            if _checksum(number, text) != crc32:
                table = query.split()[-1]
                raise ValueError(f"{self.path}: row {number} of table {table} is damaged: bring it back from a copy")
        return [json.loads(text) for _, text, _ in rows]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of SQLite as errors of this project, which name the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise _explanation(error, self.path) from error


def is_created(folder: Path) -> bool:
    """Whether there is a store; not where one was begun and its process killed."""
    if not (folder / MANIFEST_FILE).exists():
        return False
    manifest = Manifest(folder / MANIFEST_FILE, read_only=True)
    try:
        return manifest.is_created
    finally:
        manifest.close()


def open_manifest(folder: Path, *, read_only: bool) -> Manifest:
    """Raises FileNotFoundError when there is no store."""
    if not is_created(folder):
        raise FileNotFoundError(f"{folder} holds no store: make one with MemoryStore.create(path, settings)")
    return Manifest(folder / MANIFEST_FILE, read_only=read_only)


def _explanation(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ValueError(f"{path} is damaged ({error}): bring it back from a copy of the store")
    if code == sqlite3.SQLITE_FULL:
        return disk_error(OSError(errno.ENOSPC, str(error)), path)
    return disk_error(OSError(errno.EIO, str(error)), path)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that begins transactions only when told to, usable from any thread, one at a time."""
    address = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)


def _checksum(number: int, text: str) -> int:
    return zlib.crc32(f"{number}:{text}".encode())
