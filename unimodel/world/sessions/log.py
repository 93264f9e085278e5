"""What happened in a world, in order: one SQLite file in WAL mode, to which entries are added and none is changed.

A tick is one transaction, on the disk before anybody sees its frame. SQLite checks none of its pages, and takes a
damaged end of its write-ahead log for one that was never written: so every entry carries a checksum of itself and of
all before it, and a small file beside the log says how far it had come.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

from unimodel.run_folder import sync_folder

Kind = Literal[
    "born", "open", "join", "seat", "leave", "event", "mission", "act", "tick", "tag", "rewind", "branch", "adopt"
]
LOG_FILE, HEAD_FILE, LOCK_FILE = "log.sqlite", "head", "lock"
FORMAT = 1
_SCHEMA = """
CREATE TABLE log (number INTEGER PRIMARY KEY, tick INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL,
    agent TEXT NOT NULL, action INTEGER, value TEXT NOT NULL, codes BLOB NOT NULL, crc32 INTEGER NOT NULL);
CREATE TABLE snapshots (number INTEGER PRIMARY KEY, tick INTEGER NOT NULL, entry INTEGER NOT NULL,
    crc32 INTEGER NOT NULL, sha256 TEXT NOT NULL);
"""
_SNAPSHOTS = "SELECT number, tick, entry, crc32, sha256 FROM snapshots ORDER BY number"
_COLUMNS = "number, tick, time, kind, agent, action, value, codes, crc32"
_HEAD = struct.Struct("<QII")
"""Number and checksum of the last entry, and a checksum of these. There are two, written in turn: whatever is torn, the
other one stands."""
_WAIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Deed:
    """What an entry says: `kind` happened with tick `tick`, by `agent` ("" is nobody). `action` of an act, `codes` of a
    frame (int32, little-endian), and whatever else there is to say as JSON `value`."""

    kind: Kind
    tick: int
    agent: str = ""
    action: int | None = None
    value: dict[str, Any] = field(default_factory=dict)
    codes: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """A deed in the log: its number, from 0 on, the time in seconds since 1970, and the checksum of all up to here."""

    number: int
    time: float
    deed: Deed
    crc32: int


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A memory beside the log: of a tick, whose entry has a number and a checksum, with the SHA-256 of its file."""

    number: int
    tick: int
    entry: int
    crc32: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LogRead:
    """The entries that are as they were written, up to the first that is not, and what is wrong with that one."""

    entries: list[Entry]
    damage: str | None

    def require_whole(self, path: Path) -> list[Entry]:
        """All entries. Raises ValueError where some are damaged or gone."""
        if self.damage is None:
            return self.entries
        advice = f"bring {path.parent} back from a copy"
        if self.entries:
            whole = ("born", "tick", "rewind")  # after an act alone its tick is not there
            last = next(entry.deed.tick for entry in reversed(self.entries) if entry.deed.kind in whole)
            name = path.parent.name
            advice += f", or go on from what is whole: `unimodel world branch RUN {name} NEW --tick {last}`"
        raise ValueError(f"{path} is damaged: {self.damage}. Nothing was changed; {advice}")


def read_log(folder: Path) -> LogRead:
    """All that is whole of the log in `folder`. Raises FileNotFoundError when there is none."""
    path = folder / LOG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no world: it has no {LOG_FILE}")
    heads = _read_heads(folder)  # older than what is read next
    entries: list[Entry] = []
    try:
        with closing(_connect(path, "ro")) as connection:
            for entry in _checked(connection):
                entries.append(entry)
    except (sqlite3.DatabaseError, ValueError) as error:
        return LogRead(entries, " ".join(str(error).split()))
    return LogRead(entries, _lost(heads, entries))


def read_snapshots(folder: Path) -> list[SnapshotRow]:
    """Of the log in `folder`, the oldest first; none of one that is damaged."""
    try:
        with closing(_connect(folder / LOG_FILE, "ro")) as connection:
            return _snapshot_rows(connection)
    except sqlite3.DatabaseError:
        return []


def _snapshot_rows(connection: sqlite3.Connection) -> list[SnapshotRow]:
    try:
        return [SnapshotRow(*row) for row in connection.execute(_SNAPSHOTS)]
    except sqlite3.DatabaseError:  # nothing but time is lost
        return []


def _checked(connection: sqlite3.Connection) -> Iterator[Entry]:
    crc32 = 0
    rows = connection.execute(f"SELECT {_COLUMNS} FROM log ORDER BY number")
    for expected, (number, tick, when, kind, agent, action, value, codes, stored) in enumerate(rows):
        if number != expected:
            raise ValueError(f"entry {expected} is gone")
        row = (number, tick, when, kind, agent, action, value, codes)
        crc32 = _checksum(row, crc32)
        if crc32 != stored:
            raise ValueError(f"entry {number} (tick {tick}) is not as it was written")
        yield Entry(number, when, Deed(kind, tick, agent, action, json.loads(value), codes), crc32)


def _read_heads(folder: Path) -> list[tuple[int, int, int]]:
    """Number, checksum and place of those that are whole, the newest last."""
    path = folder / HEAD_FILE
    content = path.read_bytes() if path.exists() else b""
    whole = []
    for place in (0, 1):
        head = content[place * _HEAD.size :][: _HEAD.size]
        if len(head) == _HEAD.size and zlib.crc32(head[:-4]) == _HEAD.unpack(head)[2]:
            whole.append((*_HEAD.unpack(head)[:2], place))
    return sorted(whole)


def _lost(heads: list[tuple[int, int, int]], entries: list[Entry]) -> str | None:
    """What is wrong with a log that ends, whole, with these entries, if anything is."""
    if not heads:
        return f"its {HEAD_FILE} file, which says how far it had come, is missing or damaged"
    number, crc32, _ = heads[-1]
    if number >= len(entries):
        return f"it has lost its end: {number + 1} entries were written and {len(entries)} are left"
    if entries[number].crc32 != crc32:
        return f"entry {number} is not the one that was written last"
    return None


class WorldLog:
    """The log in `folder`, whose last entry is `last`, open for writing. Who opens it holds the world's lock. Usable
    from any thread, one at a time.

    Every method raises OSError when the disk is full or fails or the folder is gone: nothing of the change is kept.
    """

    def __init__(self, folder: Path, last: Entry | None) -> None:
        self.path = folder / LOG_FILE
        self._number = last.number + 1 if last is not None else 0
        self._crc32 = last.crc32 if last is not None else 0
        with _explained(self.path):
            self._connection = _connect(self.path, "rw")
            self._connection.execute("PRAGMA synchronous=FULL")
        self._inode = self.path.stat().st_ino
        self._head = os.open(folder / HEAD_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._newest_head = next((place for *_, place in reversed(_read_heads(folder))), 1)

    @staticmethod
    def create(folder: Path, deeds: Sequence[tuple[Deed, float | None]]) -> None:
        """A log with these deeds, each with its time or now, whole on the disk."""
        folder.mkdir(parents=True)
        with _explained(folder / LOG_FILE), closing(_connect(folder / LOG_FILE, "rwc")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
        log = WorldLog(folder, None)
        try:
            log._write(deeds)
            os.fsync(log._head)
        finally:
            log.close()
        sync_folder(folder)

    def append(self, deeds: Sequence[Deed]) -> list[Entry]:
        """Adds all of them, in one transaction."""
        return self._write([(deed, None) for deed in deeds])

    def rewind(self, deed: Deed) -> list[Entry]:
        """Adds a deed after which no snapshot of a later tick holds."""
        return self._write([(deed, None)], "DELETE FROM snapshots WHERE tick > ?", (deed.tick,))

    def forget_snapshots(self, deed: Deed) -> list[Entry]:
        """Adds a deed after which no snapshot holds."""
        return self._write([(deed, None)], "DELETE FROM snapshots", ())

    def put_snapshot(self, row: SnapshotRow, dropped: Sequence[int] = ()) -> None:
        """One more, in the place of those of these numbers."""
        with self._transaction():
            self._connection.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)", astuple(row))
            self._connection.executemany("DELETE FROM snapshots WHERE number=?", ((each,) for each in dropped))

    def snapshots(self) -> list[SnapshotRow]:
        """The oldest first."""
        return _snapshot_rows(self._connection)

    def close(self) -> None:
        self._connection.close()
        os.close(self._head)

    def _write(
        self, deeds: Sequence[tuple[Deed, float | None]], statement: str = "", values: tuple[int, ...] = ()
    ) -> list[Entry]:
        number, crc32, entries = self._number, self._crc32, []
        with self._transaction():
            for deed, when in deeds:
                text, when = json.dumps(deed.value), time.time() if when is None else when
                row = (number, deed.tick, when, deed.kind, deed.agent, deed.action, text, deed.codes)
                crc32 = _checksum(row, crc32)
                self._connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, crc32))
                entries.append(Entry(number, when, deed, crc32))
                number += 1
            if statement:
                self._connection.execute(statement, values)
        self._number, self._crc32 = number, crc32
        self._write_head(_HEAD.pack(number - 1, crc32, 0)[:-4])
        return entries

    def _write_head(self, head: bytes) -> None:
        place = 1 - self._newest_head
        with contextlib.suppress(OSError):  # the entries are kept; an older head tells less, but nothing wrong
            os.pwrite(self._head, head + zlib.crc32(head).to_bytes(4, "little"), place * _HEAD.size)
            self._newest_head = place

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing."""
        self._require_in_place()
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _require_in_place(self) -> None:
        """A deleted file takes what is written to it and keeps nothing."""
        try:
            same = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            what = "the world's folder was deleted or replaced while it was lived: nothing more of it is kept"
            raise OSError(errno.ENOENT, what, str(self.path))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of SQLite as those of the disk, which say what became of the world."""
    try:
        yield
    except sqlite3.Error as error:
        kept = "nothing of this was stored, all that happened before is kept"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, f"no room on the disk: {kept}. Free some and go on", str(path)) from error
        raise OSError(errno.EIO, f"{kept} ({error})", str(path)) from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that begins transactions only when told to."""
    address = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)


def _checksum(row: tuple[object, ...], before: int) -> int:
    *plain, codes = row
    if not isinstance(codes, bytes):
        raise ValueError(f"entry {plain[0]} has no codes")
    return zlib.crc32(codes, zlib.crc32(repr(plain).encode(), before))
